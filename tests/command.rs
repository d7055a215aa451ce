//! The command as a user runs it: records, files, exit codes and messages.

use std::path::Path;

use serde_json::Value;
use trainer::models::{StoredLayer, StoredModel, StoredWeight};

use crate::running::{self, output, records};

/// Runs a command that fails; returns its exit code and message.
fn failure(folder: &Path, args: &str) -> (i32, String) {
    let output = output(folder, args);
    assert!(!output.status.success(), "{args} succeeded");
    assert!(output.stdout.is_empty(), "{args} printed results");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!message.contains("panicked"), "{args}: {message}");
    (output.status.code().expect("no signal"), message)
}

#[test]
fn training_on_the_embedded_data() {
    let folder = tempfile::tempdir().unwrap();
    let args = "train --json --epochs 3 --val-fraction 0.1 --density 0.2 --seed 4 --out run";
    let records = records(folder.path(), args);
    let events: Vec<_> = records.iter().map(|r| r["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["epoch", "epoch", "epoch", "done"]);
    for (i, epoch) in records[..3].iter().enumerate() {
        assert_eq!(epoch["epoch"], i as u64 + 1);
        // A tenth of 12,000 is held out; batches of 100.
        assert_eq!(epoch["step"], 108 * (i as u64 + 1));
        assert!(epoch["val_accuracy"].as_f64().unwrap() > 0.6, "{epoch}");
    }
    let done = &records[3];
    assert!(done["test_accuracy"].as_f64().unwrap() > 0.8, "{done}");
    // nnz = N − floor(0.8 · N), layer by layer; RigL keeps it.
    assert!((done["nnz"].as_u64().unwrap() as i64 - 53_240).abs() <= 3, "{done}");
    assert_eq!(done["seed"], 4);
    for key in ["test_loss", "train_loss", "density", "train_flops_ratio", "inference_flops_ratio", "train_seconds"] {
        assert!(done[key].is_f64(), "{key} in {done}");
    }
    for key in ["samples_per_second", "step_time_ns", "dense_step_time_ns"] {
        assert!(done[key].as_f64().unwrap() > 0.0, "{key} in {done}");
    }
    let run = folder.path().join("run");
    for file in ["config.toml", "metrics.jsonl", "run.json", "checkpoint.safetensors"] {
        let length = std::fs::metadata(run.join(file)).unwrap_or_else(|e| panic!("{file}: {e}")).len();
        assert!(length > 0, "{file} is empty");
    }
    let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 4);

    // A run, and each of its checkpoints, can be evaluated again.
    let eval = |args: &str| self::records(folder.path(), &format!("eval --json {args}")).remove(0);
    let test = eval("run");
    assert_eq!((&test["accuracy"], &test["loss"]), (&done["test_accuracy"], &done["test_loss"]));
    assert_eq!((&test["samples"], &test["nnz"]), (&2000.into(), &done["nnz"]));
    let earlier = eval("run/checkpoints/step-00000216.safetensors --split train --threads 1");
    assert_eq!(earlier["samples"], 12_000);
    assert!(earlier["accuracy"].as_f64().unwrap() > 0.8, "{earlier}");

    // The saved settings make the same run again.
    let again = self::records(folder.path(), "train --config run/config.toml --out again");
    assert_eq!(again[3]["test_accuracy"], done["test_accuracy"]);
    let bytes = |run: &str| std::fs::read(folder.path().join(run).join("checkpoint.safetensors")).unwrap();
    assert_eq!(bytes("run"), bytes("again"));
}

/// Training, evaluation, export and import in blocks; 100 rows in blocks of 8, and 10, reach beyond the matrix.
/// Under mpirun, a program without MPI does not train as often as it was started.
#[cfg(not(feature = "mpi"))]
#[test]
fn without_mpi_several_processes_do_not_train() {
    let folder = tempfile::tempdir().unwrap();
    for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"] {
        let output = running::rigl(folder.path(), "train").env(variable, "3").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("3 processes") && said.contains("cargo build --release --features mpi"), "{said}");
        assert!(!folder.path().join("runs").exists());
        assert!(running::rigl(folder.path(), "train --steps 2").env(variable, "1").output().unwrap().status.success());
        std::fs::remove_dir_all(folder.path().join("runs")).unwrap();
    }
}

#[test]
fn training_in_blocks() {
    let folder = tempfile::tempdir().unwrap();
    let args = "train --json --epochs 3 --density 0.2 --format bsr8x8 --distribution uniform --seed 4 --out run";
    let done = records(folder.path(), args).pop().unwrap();
    assert!(done["test_accuracy"].as_f64().unwrap() > 0.78, "{done}");
    // As planned, in whole blocks: 735 of 3724, 94 of 494 and 3 of 26.
    let plan = records(folder.path(), "plan --json --density 0.2 --format bsr8x8 --distribution uniform");
    let blocks: Vec<_> = plan[..3].iter().map(|r| r["nnz_blocks"].as_u64().unwrap()).collect();
    assert_eq!(blocks, [735, 94, 3]);
    assert_eq!((&plan[3]["nnz"], &plan[3]["format"]), (&((735 + 94 + 3) * 64).into(), &"bsr8x8".into()));
    assert_eq!((&done["nnz"], &done["density"]), (&plan[3]["nnz"], &plan[3]["density"]));
    // Fewer indices than entry by entry.
    let csr = records(folder.path(), "plan --json --density 0.2 --distribution uniform");
    let bytes = |plan: &[Value], key: &str| plan[3][key].as_u64().unwrap();
    for key in ["storage_bytes", "training_bytes"] {
        assert!(bytes(&plan, key) < bytes(&csr, key), "{key}");
    }

    let model = StoredModel::load(&folder.path().join("run/checkpoint.safetensors")).unwrap();
    let [fc1, .., fc3] = &model.layers[..] else { panic!("three layers") };
    assert!(matches!(&fc1.weight, StoredWeight::BlockSparse(bsr) if bsr.pattern().nnz_blocks() == 735));
    assert_eq!((fc3.weight.shape(), fc3.weight.nnz()), ([10, 100], 192));
    let eval = |path: &str| records(folder.path(), &format!("eval --json {path}")).remove(0)["accuracy"].clone();
    assert_eq!(eval("run"), done["test_accuracy"]);

    // Out and in again: as blocks, entry by entry, and whole.
    for (out, options, import, format) in [
        ("model.safetensors", "", "", "bsr8x8"),
        ("npz", "--format npz", "", "csr"),
        ("dense.safetensors", "--dense", "", "csr"),
        ("dense.safetensors", "--dense", "--density 1", "dense"),
    ] {
        records(folder.path(), &format!("export run --json --out {out} {options}"));
        records(folder.path(), &format!("import --json {out} {import} --out in.safetensors"));
        let imported = StoredModel::load(&folder.path().join("in.safetensors")).unwrap();
        for (got, expected) in imported.layers.iter().zip(&model.layers) {
            assert_eq!(got.weight.storage(), format, "{out}");
            assert_eq!((got.weight.to_dense(), &got.bias), (expected.weight.to_dense(), &expected.bias), "{out}");
            assert!(format != "bsr8x8" || got == expected);
        }
    }
    // An imported model keeps its format in training, and pruning its blocks.
    let args = "import --json model.safetensors --density 0.1 --distribution uniform --out pruned.safetensors";
    let pruned = records(folder.path(), args).remove(0);
    let blocks = |size: u64| (size / 10 + 32) / 64;
    let expected = (blocks(235_200) + blocks(30_000) + blocks(1_000)) * 64;
    assert_eq!(pruned["nnz"], expected);
    let args = "train --json --init-from pruned.safetensors --steps 60 --update-interval 10 --out again";
    let again = records(folder.path(), args).pop().unwrap();
    assert_eq!(again["nnz"], expected);
    assert!(again["test_accuracy"].as_f64().unwrap() > 0.5, "{again}");
    let (_, message) = failure(folder.path(), "train --init-from pruned.safetensors --format csr");
    assert!(message.contains("--format has no effect"), "{message}");
}

#[test]
fn the_table_names_time_against_dense() {
    let folder = tempfile::tempdir().unwrap();
    let output = output(folder.path(), "train --steps 20");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["density", "nnz", "training flops/sample", "time per step, measured", "test accuracy", "runs/"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    // 20 steps are too few for an update, and the user hears of it.
    let log = String::from_utf8(output.stderr).unwrap();
    assert!(log.contains("too few for a topology update"), "{log}");
}

#[test]
fn every_method_and_optimizer_runs() {
    let folder = tempfile::tempdir().unwrap();
    let common = "train --json --steps 60";
    for (i, args) in [
        "--method static --lr-schedule constant",
        "--update-interval 10 --method set --update-semantics reference --optimizer adam",
        "--update-interval 10 --method rigl --update-semantics reference --drop-schedule inverse-power --optimizer adamw --weight-decay 0.01",
        "--update-interval 10 --method rigl --distribution uniform --dropout 0.1 --label-smoothing 0.1 --lr-schedule step --lr-milestones 20,40",
        "--update-interval 10 --method rigl --layer-rule paper --density 0.05 --init sparse-fan-in --warmup-steps 5 --nesterov=false",
        "--update-interval 10 --method set --lr-schedule linear --lr-final 0.1 --warmup-steps 5",
        "--update-interval 10 --method rigl --density-override fc1=0.02 --drop-schedule constant --begin-step 5 --end-step 50",
    ]
    .into_iter()
    .enumerate()
    {
        let records = records(folder.path(), &format!("{common} {args} --out run{i}"));
        let accuracy = records.last().unwrap()["test_accuracy"].as_f64().unwrap();
        assert!(accuracy > 0.3, "{args}: {accuracy}");
    }
    let dense = records(folder.path(), "train --json --steps 60 --method dense --out dense");
    assert_eq!(dense.last().unwrap()["density"], 1.0);
}

#[test]
fn wrong_use_is_refused_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let truncated = folder.path().join("mnist");
    std::fs::create_dir(&truncated).unwrap();
    for name in ["train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"] {
        std::fs::write(truncated.join(format!("{name}-ubyte")), [0, 0, 8, 3, 0, 0, 0, 9]).unwrap();
    }
    std::fs::write(folder.path().join("bad.toml"), "densty = 0.1\n").unwrap();
    std::fs::write(folder.path().join("empty.jsonl"), "\n").unwrap();
    std::fs::write(folder.path().join("a.smtx"), "2, 3, 3\n0 2 3 \n2 0 1 \n").unwrap();
    std::fs::write(folder.path().join("type.toml"), "epochs = \"many\"\n").unwrap();
    std::fs::write(folder.path().join("format.toml"), "format = \"bsr4\"\n").unwrap();
    let layer = |name: &str, nrows, ncols| StoredLayer {
        name: name.to_owned(),
        weight: StoredWeight::Dense { nrows, ncols, values: vec![0.5; nrows * ncols] },
        bias: vec![0.0; nrows],
    };
    let model = StoredModel { input: None, layers: vec![layer("fc1", 5, 20), layer("fc2", 10, 5)], parts: None };
    model.save(&folder.path().join("model.safetensors")).unwrap();
    let mut bytes = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(folder.path().join("damaged.safetensors"), bytes).unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    for (args, code, parts) in [
        ("train --densty 0.1", 2, &["--densty", "--density"][..]),
        ("train --density 0", 2, &["density", "0", "above 0"]),
        ("train --density 1.5", 2, &["density", "1.5", "at most 1"]),
        ("train --update-interval 0", 2, &["update-interval", "0", "at least 1"]),
        ("train --model lenet-9", 2, &["lenet-9", "lenet-300-100"]),
        ("train --model 10-20-10", 2, &["10-20-10", "784", "784-300-100-10"]),
        ("train --data imagenet", 2, &["imagenet", "fashion-mnist-mini"]),
        ("train --data mnist", 2, &["mnist", "--data-dir"]),
        ("train --data mnist --data-dir nowhere", 2, &["nowhere"]),
        ("train --data mnist --data-dir .", 1, &["train-images-idx3-ubyte", "8"]),
        ("train --density 1e-18", 2, &["fc1", "density"]),
        ("train --density-override conv*=0.5", 2, &["conv*", "fc1, fc2, fc3"]),
        ("train --epochs 2 --steps 3", 2, &["--epochs", "--steps"]),
        ("train --begin-step 50 --end-step 20", 2, &["begin-step", "50", "20"]),
        ("train --config none.toml", 2, &["none.toml"]),
        ("train --config bad.toml", 2, &["bad.toml", "densty"]),
        ("train --config type.toml", 2, &["type.toml", "epochs"]),
        ("train --device tpu", 2, &["tpu", "cpu"]),
        ("train --format bsr3x3", 2, &["--format", "bsr3x3", "csr", "1, 2, 4, 8 or 16"]),
        ("train --config format.toml", 2, &["format.toml", "bsr4", "bsrRxC"]),
        ("train --method dense --format bsr4x4", 2, &["--format", "sparse method"]),
        ("train --lr 1e20 --lr-schedule constant --steps 50", 1, &["training loss", "step", "lr"]),
        ("bench kernel --shape 10x10", 2, &["10x10", "MxKxN"]),
        ("bench kernel --pattern none.smtx", 2, &["none.smtx"]),
        ("bench kernel --op spmm --stride 2", 2, &["stride: 2", "conv_forward"]),
        ("bench kernel --op grow --groups 4", 2, &["groups: 4", "conv_forward"]),
        ("bench kernel --op sddmm --format dense", 2, &["format: dense", "csr", "bsr4x4"]),
        ("bench kernel --op spmm --shape 8x8x3x6x6x2", 2, &["shape: 8x8x3x6x6x2", "MxKxN"]),
        ("bench kernel --op conv_forward --shape 8x8x3", 2, &["shape: 8x8x3", "OCxICxKxHxWxN"]),
        ("bench kernel --op conv_forward --shape 8x9x3x99999x99999x9", 2, &["shape: 8x9x3x99999x99999x9", "smaller"]),
        ("bench kernel --op grow --shape 8x8x3x6x6x2 --format dense", 2, &["format: dense", "csr", "bsr4x4"]),
        ("bench kernel --op grow --shape 8x6x3x6x6x2 --format bsr4x4", 2, &["format: bsr4x4", "columns divide"]),
        ("bench kernel --op conv_forward --groups 5", 2, &["groups: 5", "divisor"]),
        (
            "bench kernel --op conv_forward --format bsr4x4 --shape 8x6x3x6x6x2",
            2,
            &["format: bsr4x4", "columns divide"],
        ),
        ("bench kernel --op conv_forward --format bsr8x1 --groups 16", 2, &["format: bsr8x1", "rows divide"]),
        ("bench kernel --op conv_forward --pattern a.smtx --shape 8x8x3x6x6x2", 2, &["pattern: a.smtx", "OC rows"]),
        ("bench kernel --dense-reference none.jsonl", 2, &["dense-reference", "none.jsonl"]),
        ("bench kernel --dense-reference bad.toml", 1, &["dense-reference", "bad.toml, line 1"]),
        ("bench kernel --dense-reference empty.jsonl", 1, &["dense_forward", "[512, 512, 128]", "empty.jsonl"]),
        ("bench step --density 1e-18", 2, &["density"]),
        ("bench step --budget 0", 2, &["--budget", "above 0"]),
        ("plan --density 2", 2, &["density", "2"]),
        ("train --out bad.toml/run", 2, &["out: bad.toml/run", "choose a writable folder"]),
        ("train --checkpoint-every 0", 2, &["checkpoint-every", "at least 1"]),
        ("train --keep-checkpoints 0", 2, &["keep-checkpoints", "at least 1"]),
        ("train --resume empty", 2, &["empty holds no run", "config.toml"]),
        ("train --init-from none", 2, &["init-from", "none"]),
        ("train --init-from damaged.safetensors", 2, &["init-from", "damaged.safetensors", "SHA-256"]),
        ("train --init-from model.safetensors --density 0.1", 2, &["--density", "no --init-from"]),
        ("train --init-from model.safetensors --model 20-6-10", 2, &["model.safetensors", "20-5-10", "20-6-10"]),
        ("train --init-from model.safetensors", 2, &["20-5-10", "784 features"]),
        ("eval none.safetensors", 2, &["none.safetensors"]),
        ("eval empty", 2, &["empty has no readable checkpoint"]),
        ("eval damaged.safetensors", 1, &["damaged.safetensors", "SHA-256"]),
        ("eval model.safetensors", 2, &["20-5-10 takes 20 features", "784 features", "784-300-100-10 would fit"]),
        ("eval bad.toml", 1, &["bad.toml", "not a safetensors file"]),
        ("fly", 2, &["fly"]),
    ] {
        let (got, message) = failure(folder.path(), args);
        assert_eq!(got, code, "{args}: {message}");
        for part in parts {
            assert!(message.contains(part), "{args}: no {part:?} in {message:?}");
        }
    }
}

#[test]
fn a_run_does_not_overwrite_another() {
    let folder = tempfile::tempdir().unwrap();
    records(folder.path(), "train --json --steps 2 --out run");
    let (code, message) = failure(folder.path(), "train --json --steps 2 --out run");
    assert_eq!(code, 2);
    assert!(message.contains("run"), "{message}");
}

#[test]
fn kernels_are_checked_before_they_are_timed() {
    let folder = tempfile::tempdir().unwrap();
    for op in ["spmm", "spmm_t", "sddmm", "grow"] {
        // Three lanes take the kernels for few lanes.
        for (pattern, lanes) in [("uniform", 40), ("power-law", 40), ("uniform", 3)] {
            let shape = format!("96x80x{lanes}");
            let args = format!(
                "bench kernel --budget 0.1 --json --op {op} --shape {shape} --density 0.2 --pattern {pattern} --threads 2"
            );
            let records = records(folder.path(), &args);
            assert_eq!(records.len(), 1);
            let record = &records[0];
            assert!(record["max_error"].as_f64().unwrap() <= 1.0, "{record}");
            for key in ["time_ns", "dense_time_ns", "plan_ns", "speedup", "efficiency", "limit_fraction"] {
                assert!(record[key].as_f64().unwrap() > 0.0, "{key} in {record}");
            }
        }
        let blocks = "--format bsr8x4 --shape 97x83x40 --density 0.2 --threads 2";
        let record = records(folder.path(), &format!("bench kernel --budget 0.1 --json --op {op} {blocks}")).remove(0);
        assert!(record["max_error"].as_f64().unwrap() <= 1.0 && record["time_ns"].is_u64(), "{record}");
    }
}

#[test]
fn convolutions_are_checked_before_they_are_timed() {
    let folder = tempfile::tempdir().unwrap();
    let shape = "--shape 12x8x3x7x6x9 --stride 2 --groups 2 --density 0.4 --threads 2";
    for (op, format) in ["conv_forward", "conv_input_grad", "conv_weight_grad"]
        .into_iter()
        .flat_map(|op| ["csr", "bsr2x4", "dense"].map(|format| (op, format)))
    {
        let args = format!("bench kernel --budget 0.1 --json --op {op} --format {format} {shape}");
        let records = records(folder.path(), &args);
        assert_eq!(records.len(), 1);
        let record = &records[0];
        assert!(record["max_error"].as_f64().unwrap() <= 1.0, "{record}");
        assert_eq!(
            [&record["op"], &record["format"], &record["shape"], &record["stride"], &record["groups"]],
            [&Value::from(op), &format.into(), &"12x8x3x7x6x9".into(), &2.into(), &2.into()]
        );
        let nnz = record["nnz"].as_u64().unwrap();
        assert_eq!(record["density"].as_f64().unwrap(), nnz as f64 / (12.0 * 4.0 * 9.0));
        assert!(record["time_ns"].is_u64() && record["limit_fraction"].as_f64().unwrap() > 0.0, "{record}");
        let compared = ["dense_time_ns", "dense_source", "speedup", "efficiency"].map(|key| &record[key]);
        if format == "dense" {
            assert!(nnz == 12 * 4 * 9 && compared.iter().all(|value| value.is_null()), "{record}");
        } else {
            assert!(record["dense_source"] == "conv" && compared.iter().all(|value| !value.is_null()), "{record}");
            let density = record["density"].as_f64().unwrap();
            let [speedup, efficiency] = ["speedup", "efficiency"].map(|key| record[key].as_f64().unwrap());
            assert!((efficiency / (speedup * density) - 1.0).abs() < 1e-9, "{record}");
        }
    }
    for format in ["csr", "bsr2x4"] {
        let args = format!("bench kernel --budget 0.1 --json --op grow --format {format} {shape}");
        let record = records(folder.path(), &args).remove(0);
        assert!(record["max_error"].as_f64().unwrap() <= 1.0, "{record}");
        assert_eq!(
            [&record["op"], &record["format"], &record["stride"], &record["dense_source"]],
            [&Value::from("grow"), &format.into(), &2.into(), &"conv".into()]
        );
        let [speedup, efficiency] = ["speedup", "efficiency"].map(|key| record[key].as_f64().unwrap());
        assert!((efficiency / speedup - 1.0).abs() < 1e-9, "{record}");
    }
    // One image: vectors of neighbouring pixels.
    let output = output(
        folder.path(),
        "bench kernel --budget 0.1 --op conv_forward --shape 8x4x3x6x6x1 --density 0.4 --groups 2",
    );
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for part in ["conv_forward 8x4x3x6x6x1, groups 2 on ", "limit: against", "one load per multiply-add"] {
        assert!(table.contains(part), "{table}");
    }
}

#[test]
fn records_say_what_they_were_measured_with_and_are_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (file, args) in [
        ("a.jsonl", "--shape 16x24x32 --density 0.5,0.25"),
        ("b.jsonl", "--shape 16x24x32 --density 0.25,0.125 --isa scalar"),
        ("c.jsonl", "--shape 24x24x32 --density 0.25"),
    ] {
        let output = output(path, &format!("bench kernel --json --budget 0.1 --threads 1 {args}"));
        assert!(output.status.success());
        std::fs::write(path.join(file), &output.stdout).unwrap();
        let record: Value = serde_json::from_slice(output.stdout.split(|&byte| byte == b'\n').next().unwrap()).unwrap();
        assert!(record["bytes_fraction"].as_f64().unwrap() > 0.0, "{record}");
        assert!(record["date"].as_str().unwrap().starts_with("20") && record["version"].is_string(), "{record}");
        assert!(!record["processor"].as_str().unwrap().is_empty() && record.get("commit").is_some(), "{record}");
    }
    let output = output(path, "bench compare a.jsonl b.jsonl");
    let table = String::from_utf8(output.stdout).unwrap();
    for part in
        ["A: a.jsonl: ", "scalar", "spmm 16x24x32 csr", "B / A", "over 1 case", "only in A: spmm 16x24x32 csr at 0.500"]
    {
        assert!(table.contains(part), "{part}: {table}");
    }
    let compared = records(path, "bench compare --json a.jsonl b.jsonl");
    assert_eq!((&compared[0]["event"], &compared[0]["density"]), (&"case".into(), &0.25.into()));
    assert_eq!((&compared[1]["event"], &compared[1]["cases"]), (&"summary".into(), &1.into()));
    assert_eq!(compared[0]["time_ratio"], compared[1]["time_ratio"]);
    let (code, message) = failure(path, "bench compare a.jsonl c.jsonl");
    assert!(code == 1 && message.contains("no case in common") && message.contains("spmm 24x24x32"), "{message}");
    let (code, message) = failure(path, "bench compare a.jsonl none.jsonl");
    assert!(code == 2 && message.contains("none.jsonl"), "{message}");
}

#[test]
fn the_faster_dense_code_counts() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, lines: &[&str]| std::fs::write(folder.path().join(name), lines.join("\n")).unwrap();
    let conv = r#"{"op":"dense_conv_forward_nchw","shape":[8,4,3,6,6,9],"threads":1,"time_ns":1,"median_ns":5}"#;
    let fast = r#"{"op":"dense_input_grad","shape":[96,80,40],"threads":1,"time_ns":1}"#;
    let slow = r#"{"op":"dense_forward","shape":[96,80,40],"threads":1,"time_ns":900000000000}"#;
    file("times.jsonl", &[r#"{"machine":"some"}"#, conv, fast, slow]);
    for (case, source) in [
        ("--op conv_forward --shape 8x4x3x6x6x9", "torch"),
        ("--op conv_forward --shape 8x4x3x6x6x9 --format dense", "torch"),
        ("--op spmm_t --shape 96x80x40", "torch"),
        ("--op spmm --shape 96x80x40", "gemm"),
    ] {
        let args =
            format!("bench kernel --budget 0.1 --json --density 0.4 --threads 1 --dense-reference times.jsonl {case}");
        let record = records(folder.path(), &args).remove(0);
        assert_eq!(record["dense_source"], source, "{record}");
        assert_eq!(record["dense_time_ns"] == 1, source == "torch", "{record}");
        assert!(record["speedup"].is_f64() && record["efficiency"].is_f64(), "{record}");
    }
    file("other.jsonl", &[conv, fast, slow, r#"{"op":"dense_forward"}"#]);
    let args = "bench kernel --budget 0.1 --threads 1 --dense-reference";
    for (rest, parts) in [
        ("times.jsonl --op sddmm --shape 96x80x40", ["dense_weight_grad", "[96, 80, 40]"]),
        ("times.jsonl --op conv_forward --shape 8x4x3x6x6x8", ["dense_conv_forward", "[8, 4, 3, 6, 6, 8]"]),
        ("other.jsonl", ["other.jsonl, line 4", "shape"]),
    ] {
        let (code, message) = failure(folder.path(), &format!("{args} {rest}"));
        assert_eq!(code, 1, "{message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn a_step_is_measured_against_the_dense_step() {
    let folder = tempfile::tempdir().unwrap();
    let args = "bench step --budget 0.1 --json --model 64-96-10 --batch-size 32 --density 1,0.2 --threads 1";
    let records = records(folder.path(), args);
    assert_eq!(records.len(), 2);
    let densities: Vec<_> = records.iter().map(|r| r["density"].as_f64().unwrap()).collect();
    assert!(densities[0] == 1.0 && (densities[1] - 0.2).abs() < 1e-3, "{densities:?}");
    assert!(records.iter().all(|r| r["time_ratio"].as_f64().unwrap() > 0.0));
    let args =
        "bench step --budget 0.1 --json --model 64-96-10 --batch-size 32 --density 0.2 --format bsr4x4 --threads 1";
    let blocks = self::records(folder.path(), args).remove(0);
    assert_eq!((&blocks["format"], blocks["nnz"].as_u64().unwrap() % 4), (&"bsr4x4".into(), 0));
}

#[test]
fn a_step_is_profiled_once_for_each_density() {
    let folder = tempfile::tempdir().unwrap();
    let args = "bench step --budget 0.1 --model 64-96-10 --batch-size 32 --density 0.4,0.2 --threads 1 --profile";
    let output = output(folder.path(), args);
    assert!(output.status.success());
    let profile = String::from_utf8(output.stderr).unwrap();
    for (part, count) in [("density 0.4\n", 1), ("density 0.2\n", 1), ("launches", 2), ("sddmm", 2)] {
        assert_eq!(profile.matches(part).count(), count, "{part}: {profile}");
    }
}

#[test]
fn help_tells_what_each_command_does() {
    let folder = tempfile::tempdir().unwrap();
    for (args, parts) in [
        ("--help", &["train", "compare", "report", "plan", "bench", "eval", "export", "import"][..]),
        (
            "compare --help",
            &["--methods", "--densities", "small-dense", "[[published]]", "--update-interval", "Examples:"],
        ),
        ("report --help", &["--title", "--out", "Examples:"]),
        ("train --help", &["--density", "[default: 0.1]", "Examples:", "--update-interval"]),
        ("plan --help", &["--model", "--flops-convention", "[default: 0.1]"]),
        ("eval --help", &["--split", "Examples:"]),
        ("export --help", &["--layer", "--dense", "Examples:"]),
        ("import --help", &["--density", "Examples:", "--init-from"]),
        ("train --help", &["--resume", "the command line overrides it", "--checkpoint-every"]),
        ("bench kernel --help", &["spmm_t", "conv_weight_grad", "--isa", "--pattern", "--dense-reference"]),
        ("bench step --help", &["--model", "--batch-size"]),
    ] {
        let output = output(folder.path(), args);
        // Lines are broken wherever they have to be.
        let text = String::from_utf8(output.stdout).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(output.status.success());
        assert!(parts.iter().all(|part| text.contains(part)), "{args}:\n{text}");
        assert!(!text.contains("--worker"));
    }
}

/// Otherwise each of them would train the same network.
#[test]
#[cfg(not(feature = "mpi"))]
fn several_processes_need_mpi() {
    for name in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"] {
        let program = env!("CARGO_BIN_EXE_rigl-under-test");
        let output =
            std::process::Command::new(program).args(["train", "--steps", "1"]).env(name, "4").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("4 processes") && said.contains("--features mpi"), "{said}");
    }
}
