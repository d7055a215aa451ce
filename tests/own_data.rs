//! Data of one's own, from the file to predictions that are right: tables, arrays and folders of pictures.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;
use sparse_kernels::random::Key;

use crate::running::{outcome, printed, refused};

fn record(folder: &Path, args: &str) -> Value {
    serde_json::from_str(printed(folder, args).lines().last().unwrap()).unwrap()
}

/// The cells of CSV lines without quotes.
fn cells(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split(',').map(str::to_owned).collect()).collect()
}

/// Share of the predictions whose cell in this column is as expected.
fn share(predictions: &[Vec<String>], column: usize, expected: &[String]) -> f64 {
    assert_eq!(predictions.len(), expected.len() + 1, "a header and a line for each input");
    let right = predictions[1..].iter().zip(expected).filter(|(cells, expected)| cells[column] == **expected).count();
    right as f64 / expected.len() as f64
}

const SPECIES: [&str; 3] = ["setosa", "versicolor", "virginica"];

/// Flowers by petal, sepal and colour; some sepals are missing.
fn flowers(samples: u64) -> (String, Vec<String>) {
    let key = Key::new(1);
    let (mut csv, mut species) = ("petal,sepal,colour,note,species\n".to_owned(), vec![]);
    for n in 0..samples {
        let class = (n % 3) as usize;
        let petal = 2.0 * class as f32 + 0.5 * key.normal(2 * n);
        let sepal = 5.0 + if class == 1 { 2.0 } else { 0.0 } + 0.4 * key.normal(2 * n + 1);
        let sepal = if n % 50 == 7 { String::new() } else { sepal.to_string() };
        let colour = ["red", "blue", "white"][(class + usize::from(n % 10 == 0)) % 3];
        writeln!(csv, "{petal},{sepal},{colour},row {n},{}", SPECIES[class]).unwrap();
        species.push(SPECIES[class].to_owned());
    }
    (csv, species)
}

#[test]
fn a_table_of_classes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("flowers.csv"), flowers(600).0).unwrap();
    let train = "train --json --data table --table flowers.csv --target species --drop note --one-hot --missing mean \
        --density 0.5 --epochs 15";
    let done = record(path, &format!("{train} --model mlp-32 --out run"));
    assert!(done["test_accuracy"].as_f64().unwrap() > 0.95, "{done}");
    assert_eq!(record(path, "eval --json run")["accuracy"], done["test_accuracy"]);
    // Other flowers, with the columns in another order, without species or notes.
    let (csv, species) = flowers(1000);
    let (csv, species) = (csv.lines().skip(601).collect::<Vec<_>>(), &species[600..]);
    let reordered: String = csv.iter().fold("colour;sepal;petal\n".to_owned(), |mut text, line| {
        let cells: Vec<&str> = line.split(',').collect();
        writeln!(text, "{};{};{}", cells[2], cells[1], cells[0]).unwrap();
        text
    });
    fs::write(path.join("new.csv"), reordered).unwrap();
    for options in ["", " --batch-size 1", " --batch-size 3 --threads 1"] {
        let predictions = cells(&printed(path, &format!("predict run new.csv{options}")));
        assert_eq!(predictions[0], ["input", "class", "probability"]);
        assert!(share(&predictions, 1, species) > 0.95, "{options}");
    }
    let line = printed(path, "predict run new.csv --json --top-k 2").lines().next().unwrap().to_owned();
    let first: Value = serde_json::from_str(&line).unwrap();
    assert!(line.starts_with("{\"input\":\"new.csv:1\"") && first["classes"][0]["class"] == "setosa", "{line}");
    let (_, _, timing) = outcome(path, "predict run new.csv --batch-size 1 --time");
    assert!(timing.contains("batches of 1: median "), "{timing}");
    // A table whose classes are others is refused by their names.
    fs::write(path.join("roses.csv"), "petal,sepal,colour,species\n1,2,red,rose\n2,3,blue,setosa\n").unwrap();
    let message = refused(path, "eval run --table roses.csv");
    assert!(message.contains("roses.csv") && message.contains("\"rose\""), "{message}");
    let message = refused(path, "predict run run/config.toml");
    assert!(message.contains("config.toml: cannot be an input"), "{message}");
    let message = refused(path, &train.replace("--missing mean", ""));
    assert!(message.contains("line 9: the column \"sepal\" has no value"), "{message}");
    let message = refused(path, &train.replace("--one-hot", ""));
    assert!(message.contains("in the column \"colour\" is not a number; make text columns inputs"), "{message}");
    let message = refused(path, &train.replace("species", "kind"));
    assert!(message.contains("no column \"kind\""), "{message}");
}

#[test]
fn a_table_of_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let key = Key::new(2);
    let (mut csv, mut prices) = ("area;rooms;price;tax\n".to_owned(), vec![]);
    for n in 0..800 {
        let (area, rooms) = (50.0 + 200.0 * key.uniform(2 * n), 1 + key.below(2 * n + 1, 8));
        let price = 2000.0 * area + 15_000.0 * rooms as f32;
        writeln!(csv, "{area};{rooms};{price};{}", 20.0 * area).unwrap();
        prices.push(f64::from(price));
    }
    fs::write(path.join("houses.csv"), csv).unwrap();
    for loss in ["mse --epochs 20", "huber --huber-delta 0.5 --epochs 40"] {
        let out = loss.split(' ').next().unwrap();
        let train =
            format!("train --json --data table --table houses.csv --target price,tax --loss {loss} --model mlp-64");
        let done = record(path, &format!("{train} --density 0.5 --lr 0.02 --val-fraction 0.1 --out {out}"));
        assert!(done["test_r2"].as_f64().unwrap() > 0.98 && done.get("test_accuracy").is_none(), "{done}");
        assert_eq!(record(path, &format!("eval --json {out}"))["rmse"], done["test_rmse"]);
        let metrics = fs::read_to_string(path.join(out).join("metrics.jsonl")).unwrap();
        let epoch: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
        assert!(epoch["val_rmse"].is_f64() && epoch["val_accuracy"].is_null(), "{epoch}");
        let predictions = cells(&printed(path, &format!("predict {out} houses.csv")));
        assert_eq!(predictions[0], ["input", "price", "tax"]);
        let error = |(cells, price): (&Vec<String>, &f64)| (cells[1].parse::<f64>().unwrap() - price).powi(2);
        let mean = predictions[1..].iter().zip(&prices).map(error).sum::<f64>() / 800.0;
        assert!(mean.sqrt() < 20_000.0, "{}", mean.sqrt());
    }
    let message = refused(path, "train --data table --table houses.csv --target price");
    assert!(message.contains("too many to be classes; predict numbers with --loss mse"), "{message}");
}

#[test]
fn a_table_of_labels() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let key = Key::new(3);
    let (mut names, mut columns, mut labels) = ("a,b,c,tags\n".to_owned(), "a,b,c,hot,wet\n".to_owned(), vec![]);
    for n in 0..800 {
        let [a, b, c] = [0, 1, 2].map(|i| key.normal(3 * n + i));
        let chosen = [("hot", a + b > 0.0), ("wet", b - c > 0.0)];
        let tags: Vec<&str> = chosen.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
        writeln!(names, "{a},{b},{c},{}", tags.join(";")).unwrap();
        writeln!(columns, "{a},{b},{c},{},{}", u8::from(chosen[0].1), u8::from(chosen[1].1)).unwrap();
        labels.push(tags.join(";"));
    }
    fs::write(path.join("names.csv"), names).unwrap();
    fs::write(path.join("columns.csv"), columns).unwrap();
    for (file, target) in [("names", "tags"), ("columns", "hot,wet")] {
        let train = format!("train --json --data table --table {file}.csv --target {target} --loss bce --model mlp-64");
        let done = record(path, &format!("{train} --density 0.5 --epochs 20 --out {file}"));
        assert!(done["test_f1"].as_f64().unwrap() > 0.9 && done["test_precision_at_1"].is_f64(), "{done}");
        let predictions = cells(&printed(path, &format!("predict {file} names.csv")));
        assert_eq!(predictions[0], ["input", "labels", "hot", "wet"]);
        assert!(share(&predictions, 1, &labels) > 0.85);
    }
    let message = refused(path, "train --data table --table columns.csv --target a,hot --loss bce");
    assert!(message.contains("labels of --loss bce are 0 or 1"), "{message}");
}

/// Numbers as NumPy writes them.
fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    while !(header.len() + 11).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let length = (header.len() as u16).to_le_bytes();
    [b"\x93NUMPY\x01\x00".as_slice(), &length, header.as_bytes(), data].concat()
}

/// Pictures of two channels whose class is their brighter half; a training and a test set.
#[test]
fn arrays_of_floats() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (key, size) = (Key::new(4), 2 * 12 * 12);
    let pictures = |first: u64, samples: u64| {
        let labels: Vec<i64> = (first..first + samples).map(|n| (n % 2) as i64 + 5).collect();
        let value = |i: u64| {
            let bright = (i / 72 % 2) as i64 + 5 == labels[(i / size) as usize];
            key.normal(i + first * size) + if bright { 1.5 } else { 0.0 }
        };
        let x: Vec<u8> = (0..samples * size).flat_map(|i| value(i).to_le_bytes()).collect();
        (x, labels)
    };
    let bytes = |labels: &[i64]| labels.iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<u8>>();
    let (x, y) = pictures(0, 400);
    let (x_test, y_test) = pictures(400, 100);
    let tensor = |dtype, shape, data| TensorView::new(dtype, shape, data).unwrap();
    let (y_bytes, y_test_bytes) = (bytes(&y), bytes(&y_test));
    let tensors = BTreeMap::from([
        ("x", tensor(Dtype::F32, vec![400, 2, 12, 12], &x)),
        ("y", tensor(Dtype::I64, vec![400], &y_bytes)),
        ("x_test", tensor(Dtype::F32, vec![100, 2, 12, 12], &x_test)),
        ("y_test", tensor(Dtype::I64, vec![100], &y_test_bytes)),
    ]);
    fs::write(path.join("pictures.safetensors"), safetensors::serialize(tensors, None).unwrap()).unwrap();
    // The same in an .npz, which is a zip archive with its members stored.
    let members = [
        ("x.npy", npy("<f4", "(400, 2, 12, 12)", &x)),
        ("y.npy", npy("<i8", "(400,)", &y_bytes)),
        ("x_test.npy", npy("<f4", "(100, 2, 12, 12)", &x_test)),
        ("y_test.npy", npy("<i8", "(100,)", &y_test_bytes)),
    ];
    fs::write(path.join("pictures.npz"), zip(&members)).unwrap();
    fs::write(path.join("new.npy"), npy("<f4", "(100, 2, 12, 12)", &x_test)).unwrap();
    let expected: Vec<String> = y_test.iter().map(i64::to_string).collect();
    for (file, model) in [("pictures.npz", "mlp-20"), ("pictures.safetensors", "lenet-5")] {
        let train = format!("train --json --data table --table {file} --model {model} --normalize channels");
        let done = record(path, &format!("{train} --density 0.5 --epochs 8 --lr 0.05 --out {model}"));
        assert!(done["test_accuracy"].as_f64().unwrap() > 0.9, "{model}: {done}");
        let predictions = cells(&printed(path, &format!("predict {model} new.npy")));
        assert!(share(&predictions, 1, &expected) > 0.9, "{model}");
    }
    let sums = ["mlp-20", "lenet-5"].map(|run| record(path, &format!("eval --json {run}"))["samples"].clone());
    assert_eq!(sums, [100, 100]);
}

/// A zip archive of stored members.
fn zip(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (vec![], vec![]);
    for (name, data) in members {
        let crc = data.iter().fold(!0u32, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0xedb8_8320 & (crc & 1).wrapping_neg()))
        });
        let (at, size) = (bytes.len() as u32, (data.len() as u32).to_le_bytes());
        let common = [&[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0], &(!crc).to_le_bytes()[..], &size, &size].concat();
        let length = (name.len() as u16).to_le_bytes();
        bytes.extend([b"PK\x03\x04", &common[..], &length, &[0, 0], name.as_bytes(), data].concat());
        let middle = [&length[..], &[0; 12], &at.to_le_bytes()].concat();
        directory.extend([b"PK\x01\x02", &[20, 0][..], &common, &middle, name.as_bytes()].concat());
    }
    let (at, size) = ((bytes.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
    let count = (members.len() as u16).to_le_bytes();
    [bytes, directory, [b"PK\x05\x06", &[0; 4][..], &count, &count, &size, &at, &[0, 0]].concat()].concat()
}

fn write_picture(file: &Path, class: usize, number: usize) {
    let colour: [u8; 3] = std::array::from_fn(|channel| if channel == class { 200 } else { (10 * number % 90) as u8 });
    let (width, height) = (9 + number as u32 % 5, 12);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let mut encoder = png::Encoder::new(fs::File::create(file).unwrap(), width, height);
    encoder.set_color(png::ColorType::Rgb);
    let pixels = colour.repeat((width * height) as usize);
    encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
}

/// Folders without a test set, and one folder with a table of classes.
#[test]
fn folders_of_pictures_with_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let names = ["red", "green", "blue"];
    let mut table = "image,class\n".to_owned();
    let mut expected = vec![];
    for (class, name) in names.into_iter().enumerate() {
        for number in 0..20 {
            write_picture(&path.join(format!("folders/train/{name}/{number}.png")), class, number);
            write_picture(&path.join(format!("flat/{name}-{number}.png")), class, number);
            writeln!(table, "{name}-{number}{},{name}", if number % 2 == 0 { ".png" } else { "" }).unwrap();
        }
        for number in 20..24 {
            write_picture(&path.join(format!("new/{class}-{number}.png")), class, number);
            expected.push(name.to_owned());
        }
    }
    fs::write(path.join("flat/labels.csv"), table).unwrap();
    let common = "--image-size 8 --model mlp-16 --density 0.5 --batch-size 8 --epochs 12 --lr 0.02";
    for (run, data) in [
        ("folders-run", "--data-dir folders --val-fraction 0.25"),
        ("flat-run", "--data-dir flat --labels flat/labels.csv --test-fraction 0.25"),
    ] {
        let done = record(path, &format!("train --json --data image-folder {data} {common} --out {run}"));
        assert!(done["test_accuracy"].as_f64().unwrap() > 0.9, "{run}: {done}");
        assert_eq!(record(path, &format!("eval --json {run}"))["accuracy"], done["test_accuracy"], "{run}");
        let predictions = cells(&printed(path, &format!("predict {run} new")));
        assert_eq!(predictions[1][0], "new/0-20.png");
        assert!(share(&predictions, 1, &expected) > 0.9, "{run}");
        let single = cells(&printed(path, &format!("predict {run} new/2-23.png --batch-size 1")));
        assert_eq!(single[1][1], "blue", "{run}");
    }
    let labels = fs::read_to_string(path.join("flat/labels.csv")).unwrap().replace("red-3,", "red-333,");
    fs::write(path.join("flat/labels.csv"), labels).unwrap();
    let message = refused(path, "train --data image-folder --data-dir flat --labels flat/labels.csv");
    assert!(message.contains("labels.csv: line 5: there is no picture") && message.contains("red-333"), "{message}");
    fs::write(path.join("new/broken.png"), "no picture").unwrap();
    let (code, _, message) = outcome(path, "predict folders-run new");
    assert!(code == 1 && message.contains("new/broken.png: "), "{code}: {message}");
}
