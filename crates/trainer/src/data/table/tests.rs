//! Tables as people have them.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::compressed::tests::folded;
use super::*;
use crate::data::{Normalization, Normalize, Targets};
use crate::task::LossKind;

fn options(table: PathBuf, targets: &[&str]) -> TableOptions {
    TableOptions {
        table,
        test_table: None,
        test_fraction: 0.5,
        targets: targets.iter().map(|&name| name.to_owned()).collect(),
        features: vec![],
        dropped: vec![],
        missing: Missing::Error,
        one_hot: false,
        loss: LossKind::Mse,
    }
}

/// A file in a folder of its own.
fn file(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// Inputs and targets of all samples, in the order of the file.
fn samples(data: &Dataset) -> (Vec<f32>, Vec<f32>) {
    let mut all = (vec![], vec![]);
    for split in [&data.train, &data.test] {
        let Inputs::Floats(values) = &split.inputs else { panic!("a table has numbers") };
        all.0.extend_from_slice(values);
        match &split.targets {
            Targets::Classes(classes) => all.1.extend(classes.iter().map(|&class| class as f32)),
            Targets::Numbers { values, .. } => all.1.extend_from_slice(values),
            Targets::Labels(_) => panic!("a table has no lists"),
        }
    }
    all
}

fn sorted(mut values: Vec<f32>) -> Vec<f32> {
    values.sort_by(f32::total_cmp);
    values
}

#[test]
fn text_is_read_as_found() {
    let plain = "a,b\n1,10\n2,20\n3,30\n4,40\n";
    for (name, text) in [
        ("t.csv", plain.to_owned()),
        ("t.csv", format!("\u{feff}{plain}")),
        ("t.CSV", plain.replace('\n', "\r\n")),
        ("t.csv", plain.replace('\n', "\r")),
        ("t.csv", plain.replace(',', ";")),
        ("t.tsv", plain.replace(',', "\t")),
        ("t.txt", plain.replace(',', " | ")),
        ("t.csv", plain.replace("a,b", "\"a\" , b").replace("20", "\"20\"")),
        ("t.csv", plain.trim_end().to_owned()),
    ] {
        let (_folder, path) = file(name, text.as_bytes());
        let data = load(&options(path, &["b"]), None).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        let (inputs, targets) = samples(&data);
        assert_eq!(
            (sorted(inputs), sorted(targets)),
            (vec![1.0, 2.0, 3.0, 4.0], vec![10.0, 20.0, 30.0, 40.0]),
            "{text:?}"
        );
    }
    for ending in [".gz", ".xz"] {
        let (_folder, path) = file(&format!("t.csv{ending}"), &folded(plain.as_bytes(), ending));
        assert_eq!(load(&options(path, &["b"]), None).unwrap().train.len(), 2);
    }
}

#[test]
fn the_test_rows_do_not_depend_on_anything_else() {
    let text: String = (0..100).fold("a,b\n".to_owned(), |text, i| text + &format!("{i},{}\n", i * 2));
    let (_folder, path) = file("t.csv", text.as_bytes());
    let [first, second] = [(); 2].map(|()| load(&options(path.clone(), &["b"]), None).unwrap());
    assert!(first.test == second.test && first.train == second.train);
    let mut all = samples(&first).0;
    assert_ne!(all, sorted(all.clone()));
    all = sorted(all);
    assert!(all.iter().enumerate().all(|(i, &value)| value == i as f32));
    let (_other, test) = file("test.csv", b"b,a\n7,8\n");
    let data = load(&TableOptions { test_table: Some(test), ..options(path, &["b"]) }, None).unwrap();
    assert_eq!((data.train.len(), &data.test.inputs), (100, &Inputs::Floats(vec![8.0])));
}

#[test]
fn words_and_missing_values_become_inputs() {
    let text = "colour,size,kind\nred,1,b\nblue,NA,a\n,3,b\nred,5,a\n";
    let (_folder, path) = file("t.csv", text.as_bytes());
    let table = |missing, one_hot| TableOptions {
        missing,
        one_hot,
        loss: LossKind::CrossEntropy,
        ..options(path.clone(), &["kind"])
    };
    let data = load(&table(Missing::Mean, true), None).unwrap();
    let columns = data.table.as_deref().unwrap();
    assert_eq!(columns.features[0].words.as_deref(), Some(&["blue".to_owned(), "red".to_owned()][..]));
    assert_eq!((data.shape, data.classes, data.class_names()), ([1, 1, 3], 2, Some(vec!["a".into(), "b".into()])));
    let (_, values) = read_inputs(&path, Some(columns)).unwrap();
    assert_eq!(values[..3], [0.0, 1.0, 1.0]);
    assert_eq!(values[3..5], [1.0, 0.0]);
    assert!(values[5].is_nan() && values[6..9] == [0.0, 0.0, 3.0]);
    let Normalization::Features { mean, deviation } = data.normalization(Normalize::Features) else {
        panic!("features were asked for");
    };
    assert_eq!((&mean[..2], &deviation[..2]), (&[0.0, 0.0][..], &[1.0, 1.0][..]));
    // Other words set no input.
    let (_other, new) = file("new.csv", b"size,colour\n2,green\n");
    assert_eq!(read_inputs(&new, Some(columns)).unwrap().1, [0.0, 0.0, 2.0]);
    let message = |options: &TableOptions| load(options, None).unwrap_err().to_string();
    assert!(message(&table(Missing::Error, true)).ends_with(
        "line 4: the column \"colour\" has no value; replace missing values by the mean with --missing mean, or leave the \
         column out with --drop"
    ));
    assert!(message(&table(Missing::Mean, false)).contains("line 2: \"red\" in the column \"colour\" is not a number"));
}

#[test]
fn classes_are_numbered_by_size_or_alphabet() {
    for (labels, expected) in [(["10", "9", "-1"], ["-1", "9", "10"]), (["b", "10", "a"], ["10", "a", "b"])] {
        let text: String = (0..9).fold("x,y\n".to_owned(), |text, i| text + &format!("{i},{}\n", labels[i % 3]));
        let (_folder, path) = file("t.csv", text.as_bytes());
        let data = load(&TableOptions { loss: LossKind::CrossEntropy, ..options(path, &["y"]) }, None).unwrap();
        assert_eq!(data.class_names().unwrap(), expected);
    }
}

#[test]
fn faults_are_named_with_their_line() {
    let refuse = |text: &str, targets: &[&str], change: fn(&mut TableOptions)| {
        let (_folder, path) = file("t.csv", text.as_bytes());
        let mut options = options(path, targets);
        change(&mut options);
        load(&options, None).unwrap_err().to_string()
    };
    for (text, targets, change, part) in [
        ("a,b\n1,2\n3\n", &["b"][..], (|_| ()) as fn(&mut TableOptions), "line 3: 1 fields; the header has 2"),
        ("a,a\n1,2\n", &["a"], |_| (), "the header names the column \"a\" twice"),
        ("a,b\n", &["b"], |_| (), "there are no rows"),
        ("", &["b"], |_| (), "no column \"b\"; the columns are none"),
        ("a,b\n1,2\n3,4\n", &[], |_| (), "no target is given"),
        ("a,b\n1,2\n3,4\n", &["c"], |_| (), "no column \"c\"; the columns are \"a\", \"b\""),
        ("a,b\n1,2\n3,4\n", &["b"], |o| o.dropped = vec!["a".into()], "no column is left for the inputs"),
        ("a,b\n1,2\n3,4\n", &["b"], |o| o.features = vec!["b".into()], "is a target and a feature"),
        ("a,b\n1,x\n3,4\n", &["b"], |_| (), "line 2: \"x\" in the column \"b\" is not a number; targets of"),
        ("a,b\n1,\n3,4\n", &["b"], |_| (), "line 2: the column \"b\" has no value; a target needs one in every row"),
        ("a,b\n1e99,1\n3,4\n", &["b"], |_| (), "has 1e99, which is beyond the range of f32"),
        ("a,b\n1,2\n3,4\n", &["a", "b"], |o| o.loss = LossKind::CrossEntropy, "no column is left"),
        ("a,b,c\n1,2,3\n3,4,5\n", &["a", "b"], |o| o.loss = LossKind::CrossEntropy, "2 targets; --loss cross-entropy"),
        ("a,b\n1,2\n3,2\n", &["b"], |o| o.loss = LossKind::CrossEntropy, "has 1 classes; a classification needs"),
        ("a,b\n1,1\n3,2\n", &["b"], |o| o.loss = LossKind::Bce, "line 3: the column \"b\" has \"2\"; labels of"),
        ("a,b\n1,1\n3,2\n", &["b"], |o| o.test_fraction = 0.9, "leaves the training set empty"),
    ] {
        let message = refuse(text, targets, change);
        assert!(message.contains(part), "{text:?}: {message}");
    }
    let (_folder, path) = file("t.csv", b"a,b\n1,\xff\n");
    assert!(load(&options(path, &["b"]), None).unwrap_err().to_string().ends_with("line 2: the text is not UTF-8"));
    let error = load(&options(PathBuf::from("t.xlsx"), &["b"]), None).unwrap_err().to_string();
    assert!(error.starts_with("t.xlsx: a table is .csv, .tsv,"), "{error}");
    let words: String = (0..1200).fold("a,b\n".to_owned(), |text, i| text + &format!("w{i},{i}\n"));
    let (_folder, path) = file("t.csv", words.as_bytes());
    let error = load(&TableOptions { one_hot: true, ..options(path, &["b"]) }, None).unwrap_err().to_string();
    assert!(error.contains("more than 1000 different words"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a file holds: samples, or an error that names it.
    #[test]
    fn any_text_is_read_or_refused(
        text in "[ab,;\"\n\r\t|.0-9eNA?-]{0,120}", name in prop::sample::select(&["t.csv", "t.tsv", "t.npz", "t.npy", "t.safetensors"]),
        loss in prop::sample::select(&[LossKind::CrossEntropy, LossKind::Mse, LossKind::Bce]), one_hot: bool,
    ) {
        let (_folder, path) = file(name, format!("a,b\n{text}").as_bytes());
        let options = TableOptions { loss, one_hot, ..options(path.clone(), &["b"]) };
        match load(&options, None) {
            Ok(data) => {
                prop_assert!(!data.train.is_empty() && !data.test.is_empty());
                let Inputs::Floats(values) = &data.train.inputs else { panic!("a table has numbers") };
                prop_assert!(values.iter().all(|value| value.is_finite()));
                prop_assert_eq!(values.len(), data.train.len() * data.features());
            }
            Err(error) => {
                let message = error.to_string();
                let test = message.starts_with("test-fraction");
                prop_assert!(test || message.contains(&Path::new(name).display().to_string()), "{}", message);
            }
        }
    }
}
