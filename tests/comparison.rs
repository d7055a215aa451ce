//! `rigl compare` and `rigl report` as a user runs them.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::running::{failure, output, records, rigl};

/// When a run's last record was written.
fn written(folder: &Path, run: &str) -> std::time::SystemTime {
    fs::metadata(folder.join("out/runs").join(run).join("metrics.jsonl")).unwrap().modified().unwrap()
}

const SMALL: &str = "--model 784-20-10 --steps 30 --update-interval 5 --batch-size 50 --threads 1";

#[test]
fn a_comparison_is_made_once_extended_and_reported() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let args = format!("compare --json {SMALL} --methods dense,small-dense,rigl --densities 0.3 --out out");
    let first = records(here, &format!("{args} --seeds 1"));
    let names = |records: &[Value]| {
        let name =
            |r: &Value| format!("{} {} {} {}", r["event"], r["arm"], r["density_asked"], r["seed"]).replace('"', "");
        records.iter().map(name).collect::<Vec<_>>()
    };
    let expected = ["done dense 1.0 0", "done small-dense 0.3 0", "done rigl 0.3 0", "summary null null null"];
    assert_eq!(names(&first), expected);
    // The small network has no more weights than the sparse one and its bits; the arms learn from the same pictures.
    let nnz = |record: &Value| record["nnz"].as_u64().unwrap();
    assert!(nnz(&first[1]) < nnz(&first[0]) / 2 && first[1]["method"] == "small-dense", "{first:?}");
    let rows = first[3]["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    let ratio = |row: &Value, key: &str| row[key].as_f64().unwrap();
    assert_eq!((ratio(&rows[0], "train_flops_ratio"), ratio(&rows[0], "inference_flops_ratio")), (1.0, 1.0));
    // Relative to the dense network of the comparison, not to itself.
    assert!(ratio(&rows[1], "train_flops_ratio") < 0.5 && ratio(&rows[2], "train_flops_ratio") < 0.5, "{rows:?}");
    assert_eq!(rows[2]["accuracy_minus_dense_mean"], {
        let accuracy = |record: &Value| record["test_accuracy"].as_f64().unwrap();
        accuracy(&first[2]) - accuracy(&first[0])
    });
    for file in ["report.html", "accuracy-flops.svg", "accuracy-seconds.svg", "summary.json", "comparison.toml"] {
        assert!(fs::metadata(here.join("out").join(file)).unwrap().len() > 0, "{file}");
    }

    // A run in it is the run that `rigl train` makes.
    records(here, &format!("train --json {SMALL} --method rigl --density 0.3 --out alone"));
    let checkpoint = |run: &str| fs::read(here.join(run).join("checkpoint.safetensors")).unwrap();
    assert!(checkpoint("alone") == checkpoint("out/runs/rigl-d0.3-s0"));

    // More seeds: what is there stays as it is.
    let before = written(here, "rigl-d0.3-s0");
    let more = records(here, &format!("{args} --seeds 2"));
    assert_eq!(more.len(), 7);
    assert_eq!((written(here, "rigl-d0.3-s0"), &more[..3]), (before, &first[..3]));
    assert!(more[6]["rows"][2]["test_accuracy_sd"].is_f64());
    assert_eq!(records(here, "compare --resume out --json"), more);

    // Another setting in the same folder, before anything runs.
    let (code, message) = failure(here, &format!("{args} --seeds 3 --lr 0.5"));
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("dense-d1-s0") && message.contains("lr 0.1 there, 0.5 here"), "{message}");
    assert!(!here.join("out/runs/rigl-d0.3-s2").exists());
    let (code, message) = failure(here, "compare --resume out --lr 0.5");
    assert!(code == 2 && message.contains("--lr cannot be changed"), "{message}");

    // Reports of what is there: of the comparison, and of runs by themselves.
    let report = records(here, "report out --json --out again --title Again");
    assert_eq!((report.len(), &report[0]["rows"]), (1, &more[6]["rows"]));
    assert!(fs::read_to_string(here.join("again/report.html")).unwrap().contains("<h1>Again</h1>"));
    let report = records(here, "report out/runs/rigl-d0.3-s1 alone --json");
    let rows = report[0]["rows"].as_array().unwrap();
    assert_eq!((rows.len(), &rows[0]["arm"], &rows[0]["runs"]), (1, &"rigl".into(), &2.into()));
    assert!(here.join("report/report.html").exists());
    let (code, message) = failure(here, "report nowhere");
    assert!(code == 2 && message.contains("nowhere"), "{message}");
}

#[test]
fn an_experiment_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let file = "title = 'From a file'\n[settings]\nmodel = '784-20-10'\nsteps = 20\nupdate-interval = 5\n[compare]\nseeds = 2\n\
        densities = [0.2]\n[[arm]]\nname = 'fixed'\nmethod = 'static'\n[[arm]]\nname = 'fast'\nmethod = 'static'\nlr = 1e20\n\
        lr-schedule = 'constant'\n[[published]]\narm = 'fixed'\ndensity = 0.2\naccuracy = 0.8\n";
    fs::write(here.join("night.toml"), file).unwrap();
    // An arm that diverges is reported, the others are made.
    let output = output(here, "compare --json --config night.toml --seeds 1 --threads 1");
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    for part in ["fast-d0.2-s0 failed: ", "training loss", "1 of 2 runs failed", "--resume runs/night"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let text = String::from_utf8(output.stdout).unwrap();
    let records: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((records.len(), &records[0]["arm"]), (2, &"fixed".into()));
    let rows = &records[1]["rows"];
    assert_eq!((&rows[0]["published"][0]["accuracy"], &rows[0]["runs"]), (&0.8.into(), &1.into()));
    assert_eq!(
        (&rows[1]["runs"], &rows[1]["unfinished"], &rows[1]["test_accuracy_mean"]),
        (&0.into(), &1.into(), &Value::Null)
    );
    let html = fs::read_to_string(here.join("runs/night/report.html")).unwrap();
    for part in ["1 of 2 runs are finished", "From a file", "failed: the training loss"] {
        assert!(html.contains(part), "{part} in {html}");
    }

    fs::write(here.join("wrong.toml"), file.replace("lr = 1e20", "learning = 2")).unwrap();
    let (code, message) = failure(here, "compare --config wrong.toml");
    assert_eq!(code, 2);
    assert!(["wrong.toml", "[[arm]] fast", "learning"].iter().all(|part| message.contains(part)), "{message}");
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// A signal to the comparison alone: the run that it has begun saves its state.
#[test]
fn an_interrupted_comparison_goes_on_to_the_same_result() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let settings = "--model 784-100-10 --epochs 8 --update-interval 20 --threads 1 --methods static,rigl --seeds 1";
    let whole = records(here, &format!("compare --json {settings} --out whole"));
    let args = format!("compare --json {settings} --out out");
    let child = rigl(here, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while !here.join("out/runs/rigl-d0.1-s0/checkpoints").exists() {
        assert!(start.elapsed() < Duration::from_secs(120), "the second run does not begin");
        sleep(Duration::from_millis(2));
    }
    signal(&child, "-TERM");
    let output = child.wait_with_output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{message}");
    assert!(message.contains("1 of 2 runs finished") && message.contains("rigl compare --resume out"), "{message}");
    let first = written(here, "static-d0.1-s0");
    let again = records(here, &args);
    assert_eq!(written(here, "static-d0.1-s0"), first);
    let accuracies = |records: &[Value]| records.iter().map(|r| r["test_accuracy"].clone()).collect::<Vec<_>>();
    assert_eq!(accuracies(&again), accuracies(&whole));
    let topology = |out: &str| fs::read(here.join(out).join("runs/rigl-d0.1-s0/topology.jsonl")).unwrap();
    assert!(topology("out") == topology("whole"));
    // It was resumed, not made anew.
    let run: Value = serde_json::from_slice(&fs::read(here.join("out/runs/rigl-d0.1-s0/run.json")).unwrap()).unwrap();
    assert_eq!(run["starts"].as_array().unwrap().len(), 2);
}

/// MNIST's files with 400 training and 100 test pictures: a bright bar a class, with noise. The labels of the test set are its
/// classes, or turned by `turn`.
fn write_digits(folder: &Path, turn: u8) {
    fs::create_dir_all(folder).unwrap();
    for (name, count) in [("train", 400usize), ("t10k", 100)] {
        let size = |n: usize| (n as u32).to_be_bytes();
        let mut images = [&[0, 0, 8, 3][..], &size(count), &size(28), &size(28)].concat();
        let mut labels = [&[0, 0, 8, 1][..], &size(count)].concat();
        for index in 0..count {
            let class = index % 10;
            let noise = |pixel: usize| ((index * 7919 + pixel * 104_729) % 251 * (pixel * index % 7)) as u8;
            images.extend((0..784).map(|pixel| if pixel / 78 == class { noise(pixel) / 2 + 60 } else { noise(pixel) }));
            labels.push(if name == "train" { class as u8 } else { (class as u8 + turn) % 10 });
        }
        fs::write(folder.join(format!("{name}-images-idx3-ubyte")), images).unwrap();
        fs::write(folder.join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
    }
}

/// The test set's labels are exchanged: with validation samples the ranking, and all that it is made of, stays as it is.
#[test]
fn validation_ranks_whatever_the_test_set_says() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let ranked = |turn: u8, share: &str| {
        write_digits(&here.join(format!("turned-{turn}/mnist")), turn);
        let out = format!("out-{turn}{}", share.len());
        let args = format!(
            "compare --json {SMALL} --data mnist --data-dir turned-{turn} --methods dense,static,set,rigl --densities 0.05 --seeds 2 \
             --out {out} {share}"
        );
        let summary = records(here, &args).pop().unwrap();
        let html = fs::read_to_string(here.join(&out).join("report.html")).unwrap();
        let short = html.split("<h2>In short</h2>").nth(1).unwrap().split("</ul>").next().unwrap();
        // Times differ from run to run.
        let short: Vec<_> = short.split(", with ").map(|part| part.split("dense training.").last().unwrap()).collect();
        (summary, short.concat())
    };
    let column = |summary: &Value, key: &str| {
        summary["rows"].as_array().unwrap().iter().map(|row| row[key].clone()).collect::<Vec<_>>()
    };
    let [(summary, short), (turned, turned_short)] = [0, 3].map(|turn| ranked(turn, "--val-fraction 0.25"));
    assert_eq!((&summary["ranked_on"], &turned["ranked_on"]), (&"validation".into(), &"validation".into()));
    for key in ["val_accuracy_mean", "val_accuracy_sd", "accuracy_minus_dense_mean", "accuracy_minus_dense_se"] {
        assert_eq!(column(&summary, key), column(&turned, key), "{key}");
    }
    assert!(column(&summary, "val_accuracy_mean").iter().all(Value::is_f64));
    assert_eq!(short, turned_short);
    assert!(short.contains("validation accuracy"), "{short}");
    // The labels do make a difference to what is said of the test set, and to a ranking without validation samples.
    assert_ne!(column(&summary, "test_accuracy_mean"), column(&turned, "test_accuracy_mean"));
    let [(summary, short), (turned, turned_short)] = [0, 3].map(|turn| ranked(turn, ""));
    assert_eq!(summary["ranked_on"], "test");
    assert_ne!(column(&summary, "accuracy_minus_dense_mean"), column(&turned, "accuracy_minus_dense_mean"));
    assert_ne!(short, turned_short);
}

/// Arms are ranked by accuracy, which a regression has not.
#[test]
fn a_comparison_of_regressions_is_refused_before_anything_runs() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..40).map(|i| format!("{i},{},{}\n", i * i % 7, 3 * i)).collect();
    fs::write(folder.path().join("t.csv"), format!("a,b,y\n{rows}")).unwrap();
    let args = "compare --data table --table t.csv --target y --loss mse --model mlp-8 --methods static --out out";
    let (code, message) = failure(folder.path(), args);
    assert_eq!(code, 2, "{message}");
    assert!(message.contains("--loss: mse is invalid") && message.contains("ranks by accuracy"), "{message}");
    assert!(!folder.path().join("out").exists());
}
