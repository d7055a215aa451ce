//! Samples that are lists of features, with lists of labels: from a file to the likeliest labels.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::running::{parsed, printed, records, refused};

const GENERATE: &str =
    "data generate train.txt --test test.txt --labels 300 --features 1500 --samples 3000 --test-samples 400";
const TRAIN: &str = "train --json --data svmlight --svmlight train.txt --svmlight-test test.txt --model lists-64 \
    --density 0.3 --batch-size 64 --update-interval 20";

fn done(folder: &Path, args: &str) -> Value {
    records(folder, args).pop().unwrap()
}

fn measure(record: &Value, name: &str) -> f64 {
    record[name].as_f64().unwrap_or_else(|| panic!("no {name} in {record}"))
}

/// The share of the test samples that have the label that most training samples have.
fn most_frequent(folder: &Path) -> f64 {
    let labels = |file: &str| -> Vec<Vec<String>> {
        let text = fs::read_to_string(folder.join(file)).unwrap();
        let labels = |line: &str| line.split(' ').next().unwrap().split(',').map(str::to_owned).collect();
        text.lines().skip(1).map(labels).collect()
    };
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    labels("train.txt").into_iter().flatten().for_each(|label| *counts.entry(label).or_default() += 1);
    let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count).unwrap();
    let test = labels("test.txt");
    test.iter().filter(|labels| labels.contains(&most)).count() as f64 / test.len() as f64
}

#[test]
fn labels_are_learned_and_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    printed(path, GENERATE);
    let most = most_frequent(path);
    for (how, least) in [
        ("--method rigl --out rigl", 0.5),
        ("--method set --format bsr16x1 --out blocks", 0.4),
        ("--method gse --out gse", 0.5),
        ("--method dense --density 1 --out dense", 0.5),
    ] {
        let train = TRAIN.replace("--density 0.3", "");
        let train = if how.contains("dense") { train.replace("--update-interval 20", "") } else { TRAIN.to_owned() };
        let how = how.replace(" --density 1", "");
        let done = done(path, &format!("{train} --epochs 6 {how}"));
        let found = measure(&done, "test_precision_at_1");
        assert!(found > least && found > 3.0 * most, "{how}: {found}, {most} without learning: {done}");
        assert!(measure(&done, "test_precision_at_5") < found, "{done}");
    }
    let of_run = records(path, "eval --json rigl").remove(0);
    let of_file = records(path, "eval --json rigl --svmlight test.txt").remove(0);
    let run = parsed(&fs::read_to_string(path.join("rigl/metrics.jsonl")).unwrap()).pop().unwrap();
    for name in ["precision_at_1", "precision_at_3", "propensity_scored_precision_at_5"] {
        assert_eq!((&of_run[name], &of_file[name]), (&run[&format!("test_{name}")], &of_run[name]), "{name}");
    }
    // Predictions are those that the evaluation counts.
    let predictions = printed(path, "predict rigl test.txt --top-k 3 --batch-size 50");
    let lines: Vec<Vec<&str>> = predictions.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines[0], ["input", "label", "probability", "label_2", "probability_2", "label_3", "probability_3"]);
    let test = fs::read_to_string(path.join("test.txt")).unwrap();
    let right = test
        .lines()
        .skip(1)
        .zip(&lines[1..])
        .filter(|(line, cells)| line.split(' ').next().unwrap().split(',').any(|label| label == cells[1]));
    assert_eq!(right.count() as f64 / 400.0, measure(&of_run, "precision_at_1"));
    let json = printed(path, "predict rigl test.txt --json --top-k 2");
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(first["input"], "test.txt:1");
    assert_eq!(first["labels"][0].to_string(), lines[1][1]);
}

/// A run in one piece, by two threads, resumed, and in parts of batches ends with the same weights.
#[test]
fn runs_are_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    printed(path, GENERATE);
    let train = format!("{TRAIN} --format bsr16x1 --method rigl --end-step 40 --lr-schedule constant");
    printed(path, &format!("{train} --steps 100 --threads 1 --out whole"));
    printed(path, &format!("{train} --steps 100 --threads 2 --out threads"));
    printed(path, &format!("{train} --steps 50 --threads 1 --checkpoint-every 50 --out longer"));
    printed(path, "train --json --resume longer --extend --steps 100");
    let weights = |run: &str| fs::read(path.join(run).join("checkpoint.safetensors")).unwrap();
    assert!(weights("whole") == weights("threads"));
    let [whole, longer] =
        ["whole", "longer"].map(|run| records(path, &format!("eval --json {run}")).remove(0)["loss"].clone());
    assert_eq!(whole, longer);
}

#[test]
fn wrong_use_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("train.txt"), "0 1:1\n1 2:1\n0,1 1:1 2:1\n0 3:1\n").unwrap();
    let train = "train --data svmlight --svmlight train.txt --epochs 1 --batch-size 2 --out run";
    for (args, message) in [
        (train.replace("--svmlight train.txt", ""), "svmlight needs a file; give it with --svmlight FILE"),
        (format!("{train} --loss mse"), "bce with --data svmlight: its samples have any number of labels"),
        (format!("{train} --model mlp-5"), "does not read lists, but the samples of svmlight are lists of features"),
        ("train --model lists-8 --data fashion-mnist-mini".to_owned(), "reads lists of features, but the samples of"),
        ("train --model mlp-8 --svmlight train.txt".to_owned(), "--data svmlight"),
        (format!("{train} --normalize features"), "none with a text or --data svmlight"),
        (format!("{train} --augment crop-flip"), "none with --data svmlight"),
        (format!("{train} --method snfs"), "neither dense gradients nor a dense start"),
        (format!("{train} --method rigl --micro-batch 1"), "left out with a model lists-H and a method that grows"),
        (format!("{train} --method gse --shards 2"), "left out with a model lists-H and a method that grows"),
        (format!("{train} --device gpu"), "cpu with a model lists-H"),
        ("data generate new.txt --test-samples 5".to_owned(), "--test <FILE>"),
        (format!("{train} --method rigl --growth-batches 2"), "1 with a model lists-H"),
    ] {
        let found = refused(path, &args);
        assert!(found.contains(message), "{args}: {found}");
    }
    printed(path, train);
    let message = refused(path, "eval run --svmlight train.txt --split train");
    assert!(message.contains("--split has no effect"), "{message}");
    fs::write(path.join("more.txt"), "7 1:1\n").unwrap();
    let message = refused(path, "eval run --svmlight more.txt");
    assert!(message.contains("more.txt: has label 7; the model knows labels 0 to 1"), "{message}");
    fs::write(path.join("wide.txt"), "0 9:1\n").unwrap();
    let message = refused(path, "predict run wide.txt");
    assert!(message.contains("wide.txt: has feature 9; the model knows features 1 to 3"), "{message}");
}
