//! Managing runs: the best epoch, early stopping, longer runs, event files, and what a person reads of them.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use trainer::checkpoint::Checkpoint;

use crate::running::{output, records, refused, rigl};

/// The records of a run's epochs, without times.
fn epochs(run: &Path) -> Vec<Value> {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let records = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let epochs = records.filter(|record| record["event"] == "epoch").map(|mut record| {
        record.as_object_mut().unwrap().remove("seconds");
        record
    });
    epochs.collect()
}

fn bytes(run: &Path, file: &str) -> Vec<u8> {
    fs::read(run.join(file)).unwrap_or_else(|error| panic!("{}/{file}: {error}", run.display()))
}

/// Takes a copy of a run back to where its process stopped after this step.
fn stopped_after(run: &Path, copy: &Path, step: u64) {
    fs::create_dir_all(copy.join("checkpoints")).unwrap();
    for file in ["config.toml", "run.json", "metrics.jsonl", "topology.jsonl"] {
        fs::copy(run.join(file), copy.join(file)).unwrap();
    }
    let state = format!("checkpoints/step-{step:08}.safetensors");
    fs::copy(run.join(&state), copy.join(&state)).unwrap();
}

const SMALL: &str = "--model 784-20-10 --update-interval 20 --threads 1 --keep-checkpoints 99";

#[test]
fn the_best_epoch_is_kept_and_ends_the_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let args = format!(
        "train --json {SMALL} --val-fraction 0.5 --epochs 40 --lr 0.05 --lr-schedule constant --keep-best accuracy \
         --early-stopping 3 --out run"
    );
    let done = records(here, &args).pop().unwrap();
    let run = here.join("run");
    let epochs = epochs(&run);
    let accuracies: Vec<f64> = epochs.iter().map(|epoch| epoch["val_accuracy"].as_f64().unwrap()).collect();
    // The first of the best ones.
    let best = (0..accuracies.len()).rev().max_by(|&a, &b| accuracies[a].total_cmp(&accuracies[b])).unwrap();
    assert!(epochs.len() < 40 && epochs.len() == best + 4, "{accuracies:?}");
    assert_eq!((&done["stopped_early"], &done["steps"]), (&true.into(), &epochs.last().unwrap()["step"]));
    let (epoch, step) = (&epochs[best]["epoch"], &epochs[best]["step"]);
    assert_eq!(
        done["best"],
        serde_json::json!({"by": "accuracy", "epoch": epoch, "step": step, "value": accuracies[best]})
    );

    // The best checkpoint is the state of that epoch, to the byte.
    assert!(
        bytes(&run, "best.safetensors")
            == bytes(&run, &format!("checkpoints/step-{:08}.safetensors", step.as_u64().unwrap()))
    );
    let eval = |path: &str| records(here, &format!("eval --json {path}")).remove(0);
    let of_best = eval("run --which best");
    assert!(of_best["checkpoint"].as_str().unwrap().ends_with("best.safetensors"), "{of_best}");
    assert_eq!(of_best["loss"], eval("run/best.safetensors")["loss"]);
    assert_ne!(of_best["loss"], eval("run")["loss"]);
    assert_eq!(eval("run")["accuracy"], done["test_accuracy"]);
    records(here, "export run --which best --json --out best.npz.safetensors");
    records(here, "train --json --init-from run/best.safetensors --steps 5 --method static --out again");

    // Resumed from before the best epoch, and from where it had waited for a while, it ends in the same bytes.
    for (name, epoch) in [("early", best - 1), ("late", best + 1)] {
        let copy = here.join(name);
        stopped_after(&run, &copy, epochs[epoch]["step"].as_u64().unwrap());
        if epoch > best {
            fs::copy(run.join("best.safetensors"), copy.join("best.safetensors")).unwrap();
        }
        let resumed = records(here, &format!("train --json --resume {name}")).pop().unwrap();
        assert_eq!((&resumed["best"], &resumed["stopped_early"]), (&done["best"], &done["stopped_early"]));
        for file in ["checkpoint.safetensors", "best.safetensors"] {
            assert!(bytes(&copy, file) == bytes(&run, file), "{name}: {file}");
        }
        assert_eq!(self::epochs(&copy), epochs);
    }

    // A run that was stopped early waits anew when it is made longer.
    let more = epochs.len() + 2;
    let longer = records(here, &format!("train --json --resume run --extend --epochs {more}")).pop().unwrap();
    assert_eq!((longer["stopped_early"].as_bool(), self::epochs(&run).len()), (Some(false), more));

    for option in ["--keep-best loss", "--early-stopping 3"] {
        let message = refused(here, &format!("train {option}"));
        let name = option.split(' ').next().unwrap();
        assert!(message.contains(&format!("{name}: ")) && message.contains("--val-fraction"), "{message}");
    }
    assert!(refused(here, "eval again --which best").contains("--keep-best"));
}

/// Where nothing depends on the length, a run that is made longer is the longer run.
#[test]
fn a_run_that_is_made_longer() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let fixed = format!("train --json {SMALL} --lr-schedule constant --begin-step 20 --end-step 160");
    // 120 batches an epoch: the first run ends in the middle of its second.
    records(here, &format!("{fixed} --steps 150 --out short"));
    assert_eq!(epochs(&here.join("short")).len(), 2);
    let longer = records(here, "train --json --resume short --extend --steps 300");
    records(here, &format!("{fixed} --steps 300 --out long"));
    let [short, long] = ["short", "long"].map(|run| here.join(run));
    assert!(bytes(&short, "checkpoint.safetensors") == bytes(&long, "checkpoint.safetensors"));
    assert_eq!(epochs(&short), epochs(&long));
    assert_eq!(bytes(&short, "topology.jsonl"), bytes(&long, "topology.jsonl"));
    assert_eq!(longer.iter().filter(|record| record["event"] == "epoch").count(), 2);
    // The folder's settings are those of the longer run.
    assert!(fs::read_to_string(short.join("config.toml")).unwrap().contains("steps = 300"));
    assert_eq!(records(here, "train --json --resume short").len(), 1);

    // A cosine goes on as that of the new length, and so do topology updates, until three quarters of it.
    records(here, &format!("train --json {SMALL} --epochs 2 --out cosine"));
    records(here, "train --json --resume cosine --extend --epochs 4");
    let cosine = here.join("cosine");
    let records_now = epochs(&cosine);
    let rate = |step: f64, total: f64| 0.05 * (1.0 + (std::f64::consts::PI * step / total).cos());
    let expected = [rate(119.0, 240.0), rate(239.0, 240.0), rate(359.0, 480.0), rate(479.0, 480.0)];
    for (record, expected) in records_now.iter().zip(expected) {
        let lr = record["lr"].as_f64().unwrap();
        assert!((lr - expected).abs() < 1e-6, "{record}: {expected}");
    }
    assert_eq!(records_now.len(), 4);
    let last_update = |file: &str| {
        let training: Value = Checkpoint::load(&cosine.join(file)).unwrap().section("training").unwrap();
        training["method"]["schedule"]["last_update"].as_u64().unwrap()
    };
    assert_eq!(
        (last_update("checkpoints/step-00000240.safetensors"), last_update("checkpoint.safetensors")),
        (160, 340)
    );
    // What was interrupted after it was made longer goes on by itself, to the same bytes.
    for step in [240, 360] {
        let copy = here.join(format!("copy-{step}"));
        stopped_after(&cosine, &copy, step);
        records(here, &format!("train --json --resume copy-{step}"));
        assert!(bytes(&copy, "checkpoint.safetensors") == bytes(&cosine, "checkpoint.safetensors"), "{step}");
    }

    for (args, parts) in [
        ("train --resume cosine --extend", ["--extend needs", "--epochs N"]),
        ("train --resume cosine --extend --epochs 4", ["trained for 480 steps", "more than 480"]),
        ("train --resume cosine --epochs 9", ["--epochs cannot be changed", "--extend"]),
        ("train --resume cosine --extend --epochs 9 --lr 1", ["--lr cannot be changed", "--config"]),
        ("train --extend --epochs 9", ["--resume", "required"]),
    ] {
        let message = refused(here, args);
        assert!(parts.iter().all(|part| message.contains(part)), "{args}: {message}");
    }
    // Refused, the run is as it was.
    assert!(bytes(&here.join("copy-240"), "checkpoint.safetensors") == bytes(&cosine, "checkpoint.safetensors"));
}

/// Length and content of the frames of a run's event files, file by file.
fn event_files(run: &Path) -> Vec<Vec<Vec<u8>>> {
    let mut paths: Vec<_> = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().contains("tfevents"));
    paths.sort();
    let frames = |path: &std::path::PathBuf| {
        let (bytes, mut frames, mut at) = (fs::read(path).unwrap(), Vec::new(), 0);
        while at < bytes.len() {
            let size = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            frames.push(bytes[at + 12..at + 12 + size].to_vec());
            at += 16 + size;
        }
        assert_eq!(at, bytes.len());
        frames
    };
    paths.iter().map(frames).collect()
}

#[test]
fn event_files_have_every_epoch_once() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let run = here.join("run");
    records(here, &format!("train --json {SMALL} --epochs 3 --val-fraction 0.5 --log tensorboard --out run"));
    let has = |frame: &[u8], text: &str| frame.windows(text.len()).any(|part| part == text.as_bytes());
    let counts = |tag: &str| -> Vec<usize> {
        event_files(&run).iter().map(|frames| frames.iter().filter(|frame| has(frame, tag)).count()).collect()
    };
    for (tag, count) in [
        ("brain.Event:2", 1),
        ("loss/train", 3),
        ("accuracy/validation", 3),
        ("density", 3),
        ("final/test_accuracy", 1),
    ] {
        assert_eq!(counts(tag), [count], "{tag}");
    }
    // Killed after the second epoch, or so: the events of the third are made again, in the next file.
    fs::remove_file(run.join("checkpoint.safetensors")).unwrap();
    records(here, "train --json --resume run --log tensorboard");
    assert_eq!(
        (counts("loss/train"), counts("final/test_accuracy"), counts("brain.Event:2")),
        (vec![2, 1], vec![0, 1], vec![1, 1])
    );
}

#[test]
fn what_a_person_reads_fits_80_columns() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let output = output(here, "train --steps 130 --update-interval 10 --val-fraction 0.1 --eval-test --keep-best loss");
    let (text, log) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    for line in text.lines().chain(log.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let (heading, epochs) = log.split_once("epoch 1  ").unwrap();
    for part in [
        "lenet-300-100, rigl",
        "of 266200 weights (density 0.100)",
        "10800 samples of fashion-mnist-mini",
        "130 steps on",
        "in runs/",
    ] {
        assert!(heading.contains(part), "{part} in {heading}");
    }
    for part in ["training loss ", "validation loss ", "test loss "] {
        assert_eq!(epochs.matches(part).count(), 2, "{epochs}");
    }
    assert!(text.contains("best validation loss") && text.contains("in best.safetensors"), "{text}");
    let name = fs::read_dir(here.join("runs")).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    assert!(name.starts_with("20") && name.ends_with("-lenet-300-100-rigl-d0.1-s0"), "{name}");
    // With --json there is nothing to read beside the records.
    assert!(self::output(here, "train --json --steps 2 --method static --out quiet").stderr.is_empty());
}

/// `rigl plan | head`: whoever has seen enough ends the command without an error; a run that is to be recorded fails.
#[test]
#[cfg(unix)]
fn a_closed_pipe_is_no_error_for_who_only_reads() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    records(here, "train --json --model 784-20-10 --steps 5 --method static --out run");
    for (args, code) in [
        ("plan --model resnet-50", 0),
        ("plan --json", 0),
        ("devices", 0),
        ("data list", 0),
        ("eval run", 0),
        ("report run", 0),
        ("completions zsh", 0),
        ("train --json --steps 5 --method static --out other", 1),
    ] {
        let mut command = rigl(here, args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args}: {message}");
        assert_eq!(message.is_empty(), code == 0, "{args}: {message}");
    }
}
