//! `rigl export` and `rigl import` as a user runs them. `interop.py` has the other programs read and write the files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use safetensors::SafeTensors;
use serde_json::{Value, json};
use trainer::models::{StoredModel, StoredWeight};

fn rigl(folder: &Path, args: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-under-test"));
    command.current_dir(folder).env_remove("RIGL_DATA_DIR").args(args.split_whitespace());
    command.output().expect("the command under test was built")
}

/// Runs a command that succeeds; returns its results and its messages.
fn success(folder: &Path, args: &str) -> (String, String) {
    let output = rigl(folder, args);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (results, messages) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{args}: {messages}");
    (results, messages)
}

/// The one record of a command that says nothing else.
fn record(folder: &Path, args: &str) -> Value {
    let (results, messages) = success(folder, &format!("{args} --json"));
    assert_eq!(messages, "", "{args}");
    serde_json::from_str(&results).unwrap_or_else(|error| panic!("{args}: {results}: {error}"))
}

/// The model of a short run in `run`.
fn trained(folder: &Path, args: &str) -> StoredModel {
    success(folder, &format!("train --json --steps 5 --out run {args}"));
    StoredModel::load(&folder.join("run/checkpoint.safetensors")).unwrap()
}

fn imported(folder: &Path, sources: &str) -> StoredModel {
    record(folder, &format!("import {sources} --out imported.safetensors"));
    StoredModel::load(&folder.join("imported.safetensors")).unwrap()
}

#[derive(Debug, PartialEq)]
struct Bits {
    name: String,
    shape: [usize; 2],
    /// Where the entries are; none for a dense weight.
    positions: Option<Vec<(u32, u32)>>,
    values: Vec<u32>,
    bias: Vec<u32>,
}

/// All that a layer is, to the last bit; `dense`: with zeros for what is not stored.
fn bits(model: &StoredModel, dense: bool) -> Vec<Bits> {
    let to_bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    let layers = model.layers.iter().map(|layer| {
        let (name, shape, bias) = (layer.name.clone(), layer.weight.shape(), to_bits(&layer.bias));
        match &layer.weight {
            StoredWeight::Sparse(csr) if !dense => {
                let (positions, values) = (csr.pattern().positions().collect(), to_bits(csr.values()));
                Bits { name, shape, positions: Some(positions), values, bias }
            }
            weight => Bits { name, shape, positions: None, values: to_bits(&weight.to_dense()), bias },
        }
    });
    layers.collect()
}

/// Of a model with every weight: all but how many it has.
fn forget_density(told: &mut Value, dense: bool) {
    if dense {
        assert!(told["density"].is_f64() && told["nnz"].is_u64(), "{told}");
        (told["density"], told["nnz"]) = (Value::Null, Value::Null);
    }
}

#[test]
fn a_model_comes_back_from_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = trained(folder, "--density 0.1");
    assert!(matches!(model.layers[0].weight, StoredWeight::Sparse(_)));
    assert!(matches!(model.layers[2].weight, StoredWeight::Dense { .. }), "erk leaves the last layer dense");
    assert!(model.layers.iter().all(|layer| layer.bias.iter().any(|&bias| bias != 0.0)));

    for (out, options, dense) in [
        ("model.safetensors", "", false),
        ("dense.safetensors", "--dense", true),
        ("npz", "--format npz", false),
        ("mtx", "--format mtx", false),
        ("dense_mtx", "--format mtx --dense", true),
        ("npy", "--format npy", true),
    ] {
        let record = record(folder, &format!("export run --out {out} {options}"));
        assert_eq!((&record["event"], &record["path"]), (&json!("export"), &json!(out)));
        assert_eq!((&record["nnz"], &record["size"]), (&json!(model.nnz()), &json!(266_200)));
        // The zeros of a dense layer are its pattern, unless every weight is to exist.
        let sources = format!("{out}{}", if dense { " --density 1" } else { "" });
        assert_eq!(bits(&imported(folder, &sources), false), bits(&model, dense), "{out}");
        // The imported model exports to the same files, but for what a model with every weight says of its density.
        success(folder, &format!("export imported.safetensors --out again_{out} {options}"));
        let content = |path: &Path| {
            let bytes = fs::read(path).unwrap();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("safetensors") => {
                    let tensors = SafeTensors::deserialize(&bytes).unwrap();
                    let mut tensors: Vec<_> = tensors.tensors();
                    tensors.sort_by(|a, b| a.0.cmp(&b.0));
                    let metadata = SafeTensors::read_metadata(&bytes).unwrap().1.metadata().clone().unwrap();
                    let mut told: Value = serde_json::from_str(&metadata["model"]).unwrap();
                    forget_density(&mut told, dense);
                    format!("{told} {tensors:?}").into_bytes()
                }
                Some("json") => {
                    let mut told: Value = serde_json::from_slice(&bytes).unwrap();
                    forget_density(&mut told, dense);
                    told.to_string().into_bytes()
                }
                _ => bytes,
            }
        };
        let same = |file: &Path| {
            let [first, again] = [out.to_owned(), format!("again_{out}")].map(|out| folder.join(out).join(file));
            assert!(content(&first) == content(&again), "{}", first.display());
        };
        if folder.join(out).is_dir() {
            let files: Vec<_> = fs::read_dir(folder.join(out)).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(files.len(), 7, "{files:?}");
            files.iter().for_each(|file| same(file.as_ref()));
        } else {
            let [first, again] = [out.to_owned(), format!("again_{out}")].map(|out| content(&folder.join(out)));
            assert!(first == again, "{out}");
        }
    }

    success(folder, "export run --out smtx --format smtx");
    let patterns = imported(folder, "smtx --seed 3");
    for (read, written) in bits(&patterns, false).iter().zip(bits(&model, false)) {
        assert_eq!((&read.shape, &read.positions), (&written.shape, &written.positions));
        assert!(read.bias.iter().all(|&bias| bias == 0));
    }
    assert_eq!(bits(&imported(folder, "smtx --seed 3"), false), bits(&patterns, false));
    assert_ne!(bits(&imported(folder, "smtx"), false), bits(&patterns, false));
}

#[test]
fn single_matrices_make_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut model = trained(folder, "--density 0.1");
    for layer in &mut model.layers {
        layer.bias.fill(0.0);
    }
    for layer in &model.layers {
        for extension in ["safetensors", "npz", "mtx", "smtx", "npy"] {
            let name = &layer.name;
            let record = record(folder, &format!("export run --layer {name} --out {name}.{extension}"));
            assert_eq!((&record["format"], &record["nnz"]), (&json!(extension), &json!(layer.weight.nnz())));
            assert_eq!(record["layers"].as_array().unwrap().len(), 1);
            let single = imported(folder, &format!("{name}.{extension}"));
            assert_eq!((single.layers.len(), single.layers[0].weight.shape()), (1, layer.weight.shape()));
            if extension != "smtx" {
                assert_eq!(single.layers[0].weight.to_dense(), layer.weight.to_dense());
            }
        }
    }
    assert_eq!(bits(&imported(folder, "fc1.npz fc2.mtx fc3.npy"), false), bits(&model, false));
    assert_eq!(bits(&imported(folder, "fc1.npy fc2.npz fc3.mtx"), true), bits(&model, true));
}

/// Per layer as many weights as a run of that density has, and the largest ones.
#[test]
fn a_dense_model_is_pruned_as_planned() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = trained(folder, "--method dense");
    success(folder, "export run --out dense.safetensors --dense");
    assert_eq!(bits(&imported(folder, "dense.safetensors"), false), bits(&model, false));
    for spread in [
        "--density 0.1",
        "--sparsity 0.9 --distribution uniform",
        "--density 0.05 --density-override fc2=0.5",
        "--density 1",
    ] {
        let (plan, _) = success(folder, &format!("plan --json {spread}"));
        let plan: Vec<Value> = plan.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let planned: Vec<_> = plan.iter().filter(|r| r["event"] == "layer").map(|r| r["nnz"].clone()).collect();
        let record = record(folder, &format!("import dense.safetensors {spread} --out pruned.safetensors"));
        let layers = record["layers"].as_array().unwrap();
        assert_eq!(layers.iter().map(|layer| layer["nnz"].clone()).collect::<Vec<_>>(), planned, "{spread}");

        let pruned = StoredModel::load(&folder.join("pruned.safetensors")).unwrap();
        for ((before, after), nnz) in model.layers.iter().zip(&pruned.layers).zip(planned) {
            assert_eq!((&after.bias, json!(after.weight.nnz())), (&before.bias, nnz));
            let StoredWeight::Sparse(csr) = &after.weight else {
                assert_eq!(after.weight, before.weight);
                continue;
            };
            let smallest_kept = csr.values().iter().fold(f32::INFINITY, |least, value| least.min(value.abs()));
            let kept: std::collections::BTreeSet<_> = csr.pattern().positions().collect();
            let [nrows, ncols] = before.weight.shape().map(|size| size as u32);
            let positions = (0..nrows).flat_map(|row| (0..ncols).map(move |column| (row, column)));
            let (mut stored, mut dropped) = (csr.values().iter(), 0);
            for (position, value) in positions.zip(before.weight.values()) {
                if kept.contains(&position) {
                    assert_eq!(stored.next(), Some(value));
                } else {
                    dropped += 1;
                    assert!(value.abs() <= smallest_kept, "{position:?}: {value} was dropped, {smallest_kept} kept");
                }
            }
            assert_eq!(dropped + csr.values().len(), before.weight.values().len());
        }
    }
}

/// From a run's folder: a method that is sparse from the start keeps the densities, GMP prunes to its own.
#[test]
fn runs_begin_with_the_weights_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = trained(folder, "--method dense");
    let schedule = "--steps 60 --begin-step 10 --update-interval 10 --end-step 40 --lr 0.01";
    success(folder, &format!("train --init-from run --method gmp --density 0.1 {schedule} --out pruned --json"));
    let (plan, _) = success(folder, "plan --json --density 0.1");
    let plan: Vec<Value> = plan.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let planned: Vec<_> = plan.iter().filter(|r| r["event"] == "layer").map(|r| r["nnz"].clone()).collect();
    let pruned = StoredModel::load(&folder.join("pruned/checkpoint.safetensors")).unwrap();
    let found: Vec<_> = pruned.layers.iter().map(|layer| json!(layer.weight.nnz())).collect();
    assert_eq!(found, planned);
    // Few steps at a small rate move no weight far.
    let StoredWeight::Sparse(csr) = &pruned.layers[0].weight else { panic!("it is sparse") };
    let before = model.layers[0].weight.to_dense();
    let ncols = model.layers[0].weight.shape()[1];
    let moved = csr.pattern().positions().zip(csr.values());
    let moved = moved.map(|((row, column), value)| (value - before[row as usize * ncols + column as usize]).abs());
    let (most, largest) = (moved.fold(0.0, f32::max), csr.values().iter().fold(0.0f32, |most, v| most.max(v.abs())));
    assert!(most < 0.5 * largest, "{most} of {largest}");

    success(folder, "train --init-from pruned --method static --steps 1 --out again --json");
    let again = StoredModel::load(&folder.join("again/checkpoint.safetensors")).unwrap();
    let positions = |model: &StoredModel| bits(model, false).into_iter().map(|bits| bits.positions).collect::<Vec<_>>();
    assert_eq!(positions(&again), positions(&pruned));
    for (args, part) in [
        ("train --init-from run --method dnw", "init-from"),
        ("train --init-from pruned --method static --density 0.2", "density"),
        ("train --init-from none --method static", "none"),
        ("train --init-from pruned --model lenet-5 --method static", "the model is lenet-300-100, expected lenet-5"),
    ] {
        let output = rigl(folder, args);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && message.contains(part), "{args}: {message}");
    }
}

#[test]
fn a_layer_with_fewer_weights_than_planned_stays() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let model = trained(folder, "--density 0.05 --distribution uniform");
    success(folder, "export run --out model.safetensors");
    let (results, messages) = success(folder, "import model.safetensors --density 0.1 --out pruned.safetensors");
    assert!(results.contains("pruned.safetensors") && results.contains("11760"), "{results}");
    assert!(messages.contains("the model has 13310 weights, fewer than the 26621 that"), "{messages}");
    let pruned = StoredModel::load(&folder.join("pruned.safetensors")).unwrap();
    assert_eq!(bits(&pruned, false), bits(&model, false));
}

#[test]
fn the_table_tells_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    trained(folder.path(), "--density 0.1");
    let (text, messages) = success(folder.path(), "export run --out model.safetensors");
    let expected = "\
layer    shape  density    nnz
─────  ───────  ───────  ─────
fc1    300×784   0.0796  18715
fc2    100×300    0.230   6906
fc3     10×100     1.00   1000

26621 of 266200 weights, density 0.100, are in model.safetensors
";
    assert_eq!((text.as_str(), messages.as_str()), (expected, ""));
}

#[test]
fn wrong_use_is_refused_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    trained(folder, "--model 784-20-10");
    success(folder, "export run --out model.safetensors");
    success(folder, "export run --out matrices --format npz");
    success(folder, "export run --layer fc1 --out fc1.npz");
    success(folder, "export run --layer fc2 --out fc2.npz");
    fs::write(folder.join("broken.npz"), "text").unwrap();
    fs::write(folder.join("broken.safetensors"), "text").unwrap();
    fs::create_dir(folder.join("empty")).unwrap();
    fs::write(folder.join("notes.txt"), "text").unwrap();
    for (args, code, parts) in [
        ("export nowhere --out a.safetensors", 2, &["nowhere"][..]),
        ("export run --out a", 2, &["a: ", ".safetensors, .onnx, .npz, .mtx, .smtx or .npy", "--format"]),
        ("export run --out a.npz", 2, &["--layer NAME", "--format npz"]),
        ("export run --out a.npz --layer fc9", 2, &["\"fc9\"", "fc1, fc2"]),
        ("export run --out a.npz --layer fc1 --format mtx", 2, &["a.npz", ".mtx"]),
        ("export run --out a.npz --layer fc1 --dense", 2, &["--dense", "safetensors, mtx or npy"]),
        ("export run --out a --format csv", 2, &["csv", "npz, mtx, smtx, npy"]),
        ("export run --out matrices --format mtx", 2, &["matrices", "empty folder"]),
        ("export run --out empty --format safetensors", 2, &["empty", "folder"]),
        ("export run --out none/a.safetensors", 2, &["none"]),
        ("export run --out run/checkpoint.safetensors", 2, &["run/checkpoint.safetensors", "overwritten"]),
        ("export broken.safetensors --out a.safetensors", 1, &["broken.safetensors"]),
        ("export model.safetensors --out a.safetensors", 1, &["model.safetensors", "`rigl import`"]),
        ("import --out a.safetensors", 2, &["SOURCE"]),
        ("import model.safetensors", 2, &["--out"]),
        ("import none.npz --out a.safetensors", 2, &["none.npz"]),
        ("import notes.txt --out a.safetensors", 2, &["notes.txt", ".safetensors, .npz, .mtx, .smtx or .npy"]),
        ("import model.safetensors fc1.npz --out a.safetensors", 2, &["one .safetensors file"]),
        ("import run --out a.safetensors", 2, &["run", "is not part of a model"]),
        ("import --order fc1,fc2 fc1.npz fc2.npz --out a.safetensors", 2, &["--order", "the command line"]),
        (
            "import --order fc1,fc3 matrices --out a.safetensors",
            2,
            &["\"fc3\" is not a layer", "fc1 20×784, fc2 10×20"],
        ),
        ("import fc2.npz fc1.npz --out a.safetensors", 2, &["fc1.npz", "784", "10", "from input to output"]),
        ("import broken.npz --out a.safetensors", 1, &["broken.npz"]),
        ("import broken.safetensors --out a.safetensors", 1, &["broken.safetensors", "not a safetensors file"]),
        ("import empty --out a.safetensors", 2, &["empty", "no model files in it"]),
        ("import model.safetensors --out model.safetensors", 2, &["model.safetensors", "overwritten"]),
        ("import --out fc1.npz fc2.npz", 2, &["fc1.npz", ".safetensors"]),
        ("import model.safetensors --out none/a.safetensors", 2, &["none"]),
        ("import model.safetensors --density 0 --out a.safetensors", 2, &["density", "above 0"]),
        ("import model.safetensors --density 0.1 --sparsity 0.1 --out a.safetensors", 2, &["--density", "--sparsity"]),
        ("import model.safetensors --density 1e-18 --out a.safetensors", 2, &["fc1", "density"]),
        ("import model.safetensors --density 0.1 --layer-rule paper --out a.safetensors", 2, &["lenet-300-100"]),
        ("import model.safetensors --distribution uniform --out a.safetensors", 2, &["--distribution", "--density"]),
        (
            "import model.safetensors --density-override fc1=0.5 --out a.safetensors",
            2,
            &["--density-override", "--density"],
        ),
        ("import model.safetensors --density 0.1 --density-override x=1 --out a.safetensors", 2, &["`x`", "fc1, fc2"]),
    ] {
        let output = rigl(folder, args);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args}: {message}");
        assert!(output.stdout.is_empty() && !message.contains("panicked"), "{args}: {message}");
        for part in parts {
            assert!(message.contains(part), "{args}: no {part:?} in {message:?}");
        }
        assert!(!folder.join("a.safetensors").exists() && !folder.join("a").exists(), "{args}");
    }
    assert_eq!(fs::read(folder.join("fc1.npz")).unwrap()[..2], *b"PK");
}
