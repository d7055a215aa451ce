//! `rigl landscape` as a user runs it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trainer::models::{StoredModel, StoredWeight};

fn command(folder: &Path, args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-under-test"));
    command.current_dir(folder).env_remove("RIGL_DATA_DIR").args(args.split_whitespace());
    command
}

fn success(folder: &Path, args: &str) -> String {
    let Output { status, stdout, stderr } = command(folder, args).output().unwrap();
    assert!(status.success(), "{args}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn records(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

fn eval(folder: &Path, path: &str, split: &str) -> Value {
    records(&success(folder, &format!("eval --json {path} --split {split}"))).remove(0)
}

fn load(folder: &Path, run: &str) -> StoredModel {
    StoredModel::load(&folder.join(run).join("checkpoint.safetensors")).unwrap()
}

/// The record of a path.
fn path<'r>(landscape: &'r Value, space: &str, curve: &str) -> &'r Value {
    let mut paths = landscape["paths"].as_array().unwrap().iter();
    paths.find(|path| path["space"] == space && path["curve"] == curve).unwrap()
}

/// All but times.
fn timeless(mut records: Vec<Value>) -> Vec<Value> {
    for path in records.iter_mut().filter_map(|record| record.get_mut("paths")) {
        for path in path.as_array_mut().unwrap() {
            path.as_object_mut().unwrap().retain(|key, _| !key.ends_with("seconds"));
        }
    }
    records
}

/// Positions that either model has, over all layers.
fn union(a: &StoredModel, b: &StoredModel) -> usize {
    let stored = |weight: &StoredWeight| match weight {
        StoredWeight::Sparse(csr) => csr.pattern().positions().collect(),
        _ => std::collections::BTreeSet::new(),
    };
    let of_layer = |(a, b): (&StoredWeight, &StoredWeight)| match a.is_sparse() && b.is_sparse() {
        true => stored(a).union(&stored(b)).count(),
        false => a.shape().iter().product(),
    };
    a.layers.iter().zip(&b.layers).map(|(a, b)| of_layer((&a.weight, &b.weight))).sum()
}

#[test]
fn paths_between_two_sparse_networks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (run, args) in [("a", "--method static --seed 1"), ("b", "--method rigl --seed 2 --update-interval 20")] {
        success(folder, &format!("train --json --steps 120 --density 0.05 --out {run} {args}"));
    }
    let args = "landscape a b --json --split test --points 8 --steps 40 --batch-size 50";
    let text = success(folder, &format!("{args} --seed 3 --threads 1 --out out"));
    let first = records(&text);

    // The line has 0 and 1 at whole steps of 0.2; both spaces but for the line.
    let (landscape, points) = first.split_last().unwrap();
    assert_eq!(points.len(), 5 * 8);
    assert!(points.iter().all(|point| point["event"] == "point"));
    assert_eq!((&landscape["event"], &landscape["samples"]), (&json!("landscape"), &json!(2000)));
    assert_eq!(landscape["paths"].as_array().unwrap().len(), 5);
    let line = path(landscape, "sparse", "linear");
    assert_eq!((&line["t"][0], &line["t"][1], &line["t"][6]), (&json!(-0.2), &json!(0.0), &json!(1.0)));
    // Each point's record is in its path's.
    let losses = landscape["paths"].as_array().unwrap().iter().flat_map(|path| path["losses"].as_array().unwrap());
    assert!(points.iter().map(|point| &point["loss"]).eq(losses));

    // The ends are the models, to the last bit.
    for (end, run) in [("a", "a"), ("b", "b")] {
        let model = eval(folder, run, "test");
        assert_eq!((&landscape[end]["loss"], &landscape[end]["nnz"]), (&model["loss"], &model["nnz"]));
        let t = if end == "a" { 0.0 } else { 1.0 };
        let at_end: Vec<_> = points.iter().filter(|point| point["t"] == t).collect();
        assert_eq!(at_end.len(), 5);
        for point in at_end {
            assert_eq!(point["loss"], model["loss"]);
            assert_eq!(point["accuracy"], model["accuracy"]);
        }
    }

    // Truly sparse: as many weights as the union has.
    let [a, b] = ["a", "b"].map(|run| load(folder, run));
    let nnz = union(&a, &b);
    assert!(nnz > a.nnz() && nnz <= a.nnz() + b.nnz() && nnz < a.size() / 8, "{nnz}");
    for curve in ["linear", "quadratic", "cubic"] {
        assert_eq!(path(landscape, "sparse", curve)["nnz"], nnz);
    }
    assert_eq!(path(landscape, "full", "cubic")["nnz"], 266_200);

    // The barrier is what its definition says, and training makes the mean loss lower than the line's.
    let number = |value: &Value| value.as_f64().unwrap();
    let mean_loss = |space, curve| number(&path(landscape, space, curve)["mean_loss"]);
    for path in landscape["paths"].as_array().unwrap() {
        let inside = path["t"].as_array().unwrap().iter().zip(path["losses"].as_array().unwrap());
        let inside = inside.filter(|(t, _)| (0.0..=1.0).contains(&number(t)));
        let highest = inside.map(|(_, loss)| number(loss)).fold(0.0, f64::max);
        let end = number(&landscape["a"]["loss"]).max(number(&landscape["b"]["loss"]));
        assert_eq!(number(&path["barrier"]), highest - end, "{path}");
    }
    assert!(mean_loss("sparse", "quadratic") < 0.95 * mean_loss("sparse", "linear"), "{landscape}");
    assert!(mean_loss("full", "quadratic") < 0.95 * mean_loss("sparse", "linear"), "{landscape}");

    // The files.
    assert_eq!(fs::read_to_string(folder.join("out/landscape.jsonl")).unwrap(), text);
    let picture = fs::read_to_string(folder.join("out/landscape.svg")).unwrap();
    for part in ["<svg", "prefers-color-scheme", "quadratic, sparse", "cubic, full", "loss, test set"] {
        assert!(picture.contains(part), "{part}");
    }
    assert_eq!(fs::read_dir(folder.join("out")).unwrap().count(), 2);

    // On any number of threads; with another seed, something else.
    let again = |more: &str| records(&success(folder, &format!("{args} {more}")));
    let first = timeless(first);
    assert!(timeless(again("--seed 3 --threads 2")) == first);
    let other = again("--seed 4 --curves quadratic --space sparse");
    assert_ne!(path(&other[8], "sparse", "quadratic")["losses"], path(&first[40], "sparse", "quadratic")["losses"]);
    assert_eq!(other[8]["a"], first[40]["a"]);

    // For people; on the training set.
    let text = success(folder, "landscape a b --curves linear --points 4 --out text");
    for part in ["A  a/checkpoint.safetensors", "linear path, sparse space", "barrier", "-0.200", "1.200", "in text"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let train = records(&fs::read_to_string(folder.join("text/landscape.jsonl")).unwrap());
    assert_eq!(train.last().unwrap()["a"]["loss"], eval(folder, "a", "train")["loss"]);
    assert_eq!(train.last().unwrap()["samples"], json!(12_000));
    assert_eq!(train.last().unwrap()["steps"], json!(null));
}

/// A network of convolutions, with dense and sparse layers, is at the ends what it is elsewhere.
#[test]
fn paths_between_convolutional_networks() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for seed in [1, 2] {
        let args =
            format!("train --json --model lenet-5 --steps 20 --density 0.3 --method static --seed {seed} --out {seed}");
        success(folder, &args);
    }
    let args = "landscape 1 2 --json --split test --points 3 --curves quadratic --steps 10";
    let records = records(&success(folder, args));
    let landscape = records.last().unwrap();
    let [a, b] = ["1", "2"].map(|run| load(folder, run));
    assert_eq!(path(landscape, "sparse", "quadratic")["nnz"], union(&a, &b));
    assert_eq!(path(landscape, "full", "quadratic")["nnz"], a.size());
    for (end, run) in [("a", "1"), ("b", "2")] {
        assert_eq!(landscape[end]["loss"], eval(folder, run, "test")["loss"]);
    }
}

/// One network twice, the second time with its hidden units in another order: two minima of one depth, and a hill between
/// them, which the curve goes around.
#[test]
fn a_trained_curve_has_a_lower_barrier_than_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    success(folder, "train --json --model 784-30-10 --method dense --epochs 4 --out run");
    let mut model = load(folder, "run");
    let [first, second] = &mut model.layers[..] else { panic!("two layers") };
    let order = |unit: usize| (unit + 7) % 30;
    let dense = |weight: &mut StoredWeight, at: fn(usize) -> usize| {
        let StoredWeight::Dense { values, .. } = weight else { panic!("a dense layer") };
        *values = (0..values.len()).map(|i| values[at(i)]).collect();
    };
    dense(&mut first.weight, |i| (i / 784 + 7) % 30 * 784 + i % 784);
    dense(&mut second.weight, |i| i / 30 * 30 + (i % 30 + 7) % 30);
    first.bias = (0..30).map(|unit| first.bias[order(unit)]).collect();
    model.save(&folder.join("permuted.safetensors")).unwrap();

    let args =
        "landscape run permuted.safetensors --json --space full --curves linear,quadratic --points 15 --steps 1500";
    let records = records(&success(folder, args));
    let landscape = records.last().unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let [a, b] = ["a", "b"].map(|end| number(&landscape[end]["loss"]));
    assert!((a / b - 1.0).abs() < 1e-4, "{a} {b}");
    let barrier = |space, curve| number(&path(landscape, space, curve)["barrier"]);
    let (line, curve) = (barrier("sparse", "linear"), barrier("full", "quadratic"));
    assert!(line > 0.2 && curve < 0.3 * line, "{line} {curve}");
}

#[test]
fn wrong_use_is_refused_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (run, args) in [("a", ""), ("other", "--model 784-20-10")] {
        success(folder, &format!("train --json --steps 2 --out {run} {args}"));
    }
    let mut model = load(folder, "a");
    model.input.as_mut().unwrap().data = "mnist".to_owned();
    model.save(&folder.join("mnist.safetensors")).unwrap();
    model.input = None;
    model.save(&folder.join("imported.safetensors")).unwrap();
    success(folder, "landscape a a --json --curves linear --points 3 --split test --out taken");
    fs::create_dir(folder.join("empty")).unwrap();
    for (args, code, parts) in [
        ("a other", 2, &["architecture", "a/checkpoint.safetensors", "lenet-300-100", "784-20-10"][..]),
        ("a mnist.safetensors", 2, &["the data set", "fashion-mnist-mini", "that of mnist.safetensors is mnist"]),
        ("imported.safetensors a", 2, &["imported.safetensors", "which data", "--init-from"]),
        ("mnist.safetensors mnist.safetensors", 2, &["mnist", "--data-dir"]),
        ("a empty", 2, &["empty", "no readable checkpoint"]),
        ("a nothing", 2, &["nothing"]),
        ("a a --out taken", 2, &["taken/landscape.jsonl", "new folder"]),
        ("a a --out a/config.toml/x", 2, &["out", "a/config.toml/x"]),
        ("a a --data-dir .", 2, &["--data-dir has no effect"]),
        ("a a --curves linear --steps 5", 2, &["--steps has no effect", "quadratic"]),
        ("a a --curves linear --lr 0.1", 2, &["--lr has no effect"]),
        ("a a --curves linear --batch-size 50", 2, &["--batch-size has no effect", "normalisations"]),
        ("a a --curves linear --space full", 2, &["--space has no effect", "sparse space"]),
        ("a a --curves quadratic --steps 60 --lr 1e30 --points 3", 1, &["quadratic path", "lower --lr"]),
    ] {
        let output = command(folder, &format!("landscape {args} --json")).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args}: {message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{args}: {message}");
        assert!(output.stdout.is_empty(), "{args} printed results");
    }
    assert_eq!(fs::read_dir(folder.join("taken")).unwrap().count(), 2);
}

#[test]
fn an_interrupt_says_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    success(folder, "train --json --steps 2 --out a");
    // In the evaluation of the line, and in the training of a curve.
    for (out, curves, points) in [("line", "linear", 2000), ("curve", "quadratic --steps 1000000", 3)] {
        let args = format!("landscape a a --points {points} --curves {curves} --out {out}");
        let mut child = command(folder, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let (records, start) = (folder.join(out).join("landscape.jsonl"), Instant::now());
        while !records.exists() {
            assert!(child.try_wait().unwrap().is_none(), "the command has ended");
            assert!(start.elapsed() < Duration::from_secs(60), "the command writes nothing");
            sleep(Duration::from_millis(1));
        }
        sleep(Duration::from_millis(500));
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{message}");
        let lines = fs::read_to_string(&records).unwrap().lines().count();
        assert!(message.contains(&format!("{out}/landscape.jsonl holds {lines} points")), "{message}");
        assert!(!folder.join(out).join("landscape.svg").exists());
    }
    let args = "landscape a a --curves quadratic --steps 1000000";
    let child = command(folder, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    sleep(Duration::from_millis(1000));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(String::from_utf8(output.stderr).unwrap().contains("nothing was written"));
}
