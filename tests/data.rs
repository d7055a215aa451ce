//! Data sets as a user has them: CIFAR files, image folders, and `rigl data`.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;

use crate::pictures::write_pictures;
use crate::running::{self, parsed, records};

/// Exit code, records and messages of a command.
fn outcome(folder: &Path, args: &str) -> (i32, Vec<Value>, String) {
    let (code, printed, message) = running::outcome(folder, args);
    (code, parsed(&printed), message)
}

#[test]
fn a_folder_of_pictures_with_a_broken_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_pictures(&path.join("pictures"));
    let train = "train --json --data image-folder --data-dir pictures --image-size 8 --model 192-8-3 --method static \
        --density 0.5 --batch-size 4 --steps 15 --checkpoint-every 4 --keep-checkpoints 9";
    let done = records(path, &format!("{train} --out run")).pop().unwrap();
    assert_eq!((&done["event"], &done["corrupt_images"]), (&"done".into(), &1.into()));
    let config = fs::read_to_string(path.join("run/config.toml")).unwrap();
    for line in ["augment = \"random-resized-crop-flip\"", "normalize = \"channels\"", "image-size = 8"] {
        assert!(config.contains(line), "{line} in {config}");
    }
    let bytes = |run: &str| fs::read(path.join(run).join("checkpoint.safetensors")).unwrap();
    records(path, &format!("{train} --out threads --loader-threads 3"));
    assert!(bytes("threads") == bytes("run"));

    // Gone on with from step 4, in the middle of the first epoch.
    for entry in fs::read_dir(path.join("threads/checkpoints")).unwrap() {
        let file = entry.unwrap().path();
        if !file.ends_with("step-00000004.safetensors") {
            fs::remove_file(file).unwrap();
        }
    }
    fs::remove_file(path.join("threads/checkpoint.safetensors")).unwrap();
    let (code, resumed, message) = outcome(path, "train --json --resume threads --loader-threads 2");
    assert_eq!((code, &resumed.last().unwrap()["corrupt_images"]), (0, &1.into()), "{message}");
    assert!(bytes("threads") == bytes("run"));

    let eval = &records(path, "eval --json run --data-dir pictures")[0];
    assert_eq!((&eval["samples"], &eval["accuracy"]), (&6.into(), &done["test_accuracy"]));
    // The run's settings name the folder.
    assert_eq!(&records(path, "eval --json run")[0], eval);
    let (code, verified, message) = outcome(path, "data verify --json image-folder --data-dir pictures");
    assert_eq!((code, &verified[0]["verified"], &verified[0]["train"]), (1, &false.into(), &18.into()));
    assert_eq!(verified[0]["corrupt"][0], "pictures/train/b/5.png");
    assert!(message.contains("1 of 24 images in pictures cannot be read"), "{message}");
    fs::remove_dir_all(path.join("pictures/val/c")).unwrap();
    let (code, _, message) = outcome(path, train);
    assert!(code == 2 && message.contains("train has the class folder \"c\""), "{code}: {message}");
    // What is left is evaluated by the names of its classes, not by their numbers.
    for part in ["train", "val"] {
        fs::remove_dir_all(path.join("pictures").join(part).join("a")).unwrap();
        let _ = fs::remove_dir_all(path.join("pictures").join(part).join("c"));
    }
    let (code, of_b, message) = outcome(path, "eval --json run --split train");
    assert_eq!(of_b[0]["samples"], 6);
    assert!(code == 0 && message.contains("image-folder lacks 2 of the model's 3 classes"), "{code}: {message}");
    fs::rename(path.join("pictures/train/b"), path.join("pictures/train/z_b")).unwrap();
    fs::rename(path.join("pictures/val/b"), path.join("pictures/val/z_b")).unwrap();
    let (code, _, message) = outcome(path, "eval --json run --split train");
    let parts = ["not trained on: \"z_b\"", "missing from the data: \"a\", \"b\", \"c\""];
    assert!(code == 2 && parts.iter().all(|part| message.contains(part)), "{code}: {message}");
}

#[test]
fn cifar_10_in_small() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let set = path.join("data/cifar10");
    fs::create_dir_all(&set).unwrap();
    let names = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"];
    for (number, name) in names.into_iter().enumerate() {
        let record = |index: usize| {
            let label = (index % 10) as u8;
            [label].into_iter().chain((0..3072).map(move |i| (i * (number + 3) / 7) as u8 / 2 + label * 12))
        };
        fs::write(set.join(format!("{name}.bin")), (0..20).flat_map(record).collect::<Vec<u8>>()).unwrap();
    }
    let train = "train --json --data cifar10 --data-dir data --model 3072-12-10 --method static --density 0.2 \
        --batch-size 16 --epochs 2 --val-fraction 0.1 --lr 0.01";
    let done = records(path, &format!("{train} --out run")).pop().unwrap();
    assert!(done.get("corrupt_images").is_none());
    let config = fs::read_to_string(path.join("run/config.toml")).unwrap();
    assert!(config.contains("augment = \"crop-flip\"") && config.contains("normalize = \"channels\""), "{config}");
    let eval = |args: &str| records(path, &format!("eval --json {args} --data-dir data")).remove(0);
    assert_eq!((&eval("run")["samples"], &eval("run")["accuracy"]), (&20.into(), &done["test_accuracy"]));
    let plain = records(path, &format!("{train} --out plain --augment none --normalize per-image")).pop().unwrap();
    assert_ne!(plain["train_loss"], done["train_loss"]);
    // The model's normalization counts, whatever the default of the data is.
    assert_eq!(eval("plain")["accuracy"], plain["test_accuracy"]);
    for (args, parts) in [
        ("--augment random-resized-crop-flip", ["random-resized-crop-flip", "crop-flip"]),
        ("--image-size 32", ["image-size", "image-folder"]),
        ("--normalize twice", ["twice", "per-image"]),
    ] {
        let (code, _, message) = outcome(path, &format!("{train} {args}"));
        assert!(code == 2 && parts.iter().all(|part| message.contains(part)), "{message}");
    }
    let (_, listed, _) = outcome(path, "data list --json --data-dir data");
    let names: Vec<_> = listed.iter().map(|record| record["name"].as_str().unwrap()).collect();
    assert_eq!(names, trainer::data::KNOWN);
    assert_eq!((&listed[3]["found"], &listed[4]["found"]), (&"data/cifar10".into(), &Value::Null));
    assert_eq!((&listed[0]["embedded"], &listed[4]["classes"]), (&true.into(), &100.into()));
    let (code, verified, message) = outcome(path, "data verify --json cifar10 --data-dir data");
    assert_eq!((code, &verified[0]["verified"], &verified[0]["test"]), (1, &false.into(), &20.into()));
    assert!(message.contains("cifar10 in data/cifar10 is not the official set"), "{message}");
}

/// Pictures of another shape, or too small, and another number of classes are told before anything runs.
#[test]
fn convolutional_networks_say_which_pictures_they_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_pictures(&path.join("pictures"));
    let data = "--json --data image-folder --data-dir pictures";
    let train = format!("train {data} --image-size 16 --batch-size 6 --steps 3 --density 0.3");
    let done = records(path, &format!("{train} --model wrn-10-1 --out run")).pop().unwrap();
    assert_eq!(done["event"], "done");
    assert_eq!(records(path, "eval --json run --data-dir pictures")[0]["accuracy"], done["test_accuracy"]);
    let (code, _, message) = outcome(path, "eval --json run --data fashion-mnist-mini");
    let parts = ["wrn-10-1", "3×16×16", "3 classes", "fashion-mnist-mini", "1×28×28", "10 classes"];
    assert!(code == 2 && parts.iter().all(|part| message.contains(part)), "{message}");
    let (code, _, message) = outcome(path, &format!("{train} --model vgg-16"));
    assert!(code == 2 && message.contains("vgg-16 cannot take images of 3×16×16"), "{message}");
    // In blocks: trained, evaluated, and written in PyTorch's order, entry by entry.
    let done = records(path, &format!("{train} --model wrn-10-1 --format bsr8x4 --update-interval 1 --out blocks"))
        .pop()
        .unwrap();
    assert_eq!(records(path, "eval --json blocks --data-dir pictures")[0]["accuracy"], done["test_accuracy"]);
    let read = |name: &str, tensor: &str| -> Vec<f32> {
        let file = fs::read(path.join(name)).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        let bytes = tensors.tensor(&format!("layer2.0.conv2.weight{tensor}")).unwrap().data().to_vec();
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    };
    records(path, "export --json blocks --out entries.safetensors");
    records(path, "export --json blocks --out whole.safetensors --dense");
    let [offsets, columns] = [".crow_indices", ".col_indices"]
        .map(|part| read("entries.safetensors", part).iter().map(|v| v.to_bits()).collect::<Vec<_>>());
    let values = read("entries.safetensors", ".values");
    let mut whole = vec![0.0; 32 * 288];
    for row in 0..32 {
        for e in offsets[row] as usize..offsets[row + 1] as usize {
            whole[row * 288 + columns[e] as usize] = values[e];
        }
    }
    assert_eq!(read("whole.safetensors", ""), whole);
    // A block of 8 × 4 spans channels of one tap.
    let taps_of =
        |row: usize, channel: usize| (0..9).map(|tap| whole[row * 288 + channel * 9 + tap] != 0.0).collect::<Vec<_>>();
    assert!((0..32).all(|row| (0..32).all(|c| taps_of(row, c) == taps_of(row / 8 * 8, c / 4 * 4))));
    records(path, "import --json blocks/checkpoint.safetensors --density 0.2 --out pruned.safetensors");
    let train_on = train.replace(" --density 0.3", " --model wrn-10-1 --init-from pruned.safetensors --out again");
    let again = records(path, &train_on).pop().unwrap();
    assert_eq!(again["event"], "done");

    let written = records(path, "export --json run --out model.safetensors").pop().unwrap();
    assert_eq!(written["layers"][1]["name"], "layer1.0.conv1");
    let file = fs::read(path.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.tensor("layer1.0.bn1.running_var").unwrap().shape(), [16]);
    assert_eq!(tensors.tensor("layer2.0.conv2.weight.crow_indices").unwrap().shape(), [33]);
    records(path, "export --json run --out dense.safetensors --dense");
    let file = fs::read(path.join("dense.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.tensor("layer2.0.conv2.weight").unwrap().shape(), [32, 32, 3, 3]);
}

#[test]
fn data_sets_are_listed_fetched_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let table = running::output(path, "data list");
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("fashion-mnist-mini") && table.contains("32×32×3") && table.contains("RIGL_DATA_DIR"));
    let verified = &records(path, "data verify --json fashion-mnist-mini")[0];
    assert_eq!((&verified["verified"], &verified["train"]), (&true.into(), &12_000.into()));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for answer in ["404 Not Found\r\nContent-Length: 0\r\n\r\n", "200 OK\r\nContent-Length: 6\r\n\r\n<html>"] {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            write!(stream, "HTTP/1.1 {answer}").unwrap();
        }
    });
    let expected = "c32a1d4ab5d03f1284b67883e8d87530";
    for (args, code, parts) in [
        (format!("cifar10 --to c --url {url}"), 1, ["cifar-10-binary.tar.gz: ", "404"]),
        (format!("cifar10 --to c --url {url}"), 1, ["its MD5 sum is ", expected]),
        ("cifar10".to_owned(), 2, ["--to DIR", "RIGL_DATA_DIR"]),
        ("cifar10 --to c --from nowhere".to_owned(), 2, ["neither cifar-10-binary.tar.gz", "nowhere"]),
        ("imagenet --to c".to_owned(), 2, ["imagenet", "cifar100"]),
        ("image-folder --to c".to_owned(), 2, ["image-folder", "your own images"]),
    ] {
        let (got, records, message) = outcome(path, &format!("data fetch --json {args}"));
        assert!(records.is_empty() && got == code, "{args}: {got} {message}");
        assert!(parts.iter().all(|part| message.contains(part)), "{args}: {message}");
    }
    assert_eq!(fs::read_dir(path).unwrap().count(), 0);
}
