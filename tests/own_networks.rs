//! Networks from files: those of the zoo come out to the byte, others are whole without their file.

use std::fs;
use std::path::Path;

use crate::running::{printed, refused};

fn checkpoint(folder: &Path, run: &str) -> Vec<u8> {
    fs::read(folder.join(run).join("checkpoint.safetensors")).unwrap()
}

/// MNIST's files with a few pictures: an evaluation of all takes longer than the steps.
fn few_pictures(folder: &Path) {
    for (part, samples) in [("train", 16u32), ("t10k", 4)] {
        let header = |magic: u32, sizes: &[u32]| {
            [magic].iter().chain(sizes).flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>()
        };
        let pixels = (0..samples * 784).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
        let images: Vec<u8> = header(2051, &[samples, 28, 28]).into_iter().chain(pixels).collect();
        let labels: Vec<u8> =
            header(2049, &[samples]).into_iter().chain((0..samples).map(|n| (n % 10) as u8)).collect();
        fs::write(folder.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
        fs::write(folder.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
    }
}

/// The network by name, the file written by hand, and the printed file: the same checkpoint, to the byte.
#[test]
fn files_of_the_zoos_networks_give_its_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    few_pictures(folder);
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/networks");
    for name in ["lenet-5", "wrn-10-1", "resnet-18", "mobilenet-v2"] {
        let train = |model: &str, run: &str| {
            let args = format!(
                "train --model {model} --out {run} --json --data mnist --data-dir . --steps 4 --batch-size 4 --update-interval 2 \
                 --begin-step 1 --end-step 4 --dropout 0.1 --lr 0.01 --seed 5 --density 0.2 --threads 2"
            );
            printed(folder, &args);
            checkpoint(folder, run)
        };
        // Of 28 × 28 pixels and one channel: the data decides.
        let plan = printed(folder, &format!("plan --model {name} --image-size 28 --classes 10 --as-toml"));
        let printed_file = format!("{name}.toml");
        fs::write(folder.join(&printed_file), plan).unwrap();
        let by_hand = examples.join(&printed_file);
        let expected = train(name, &format!("{name}-name"));
        assert_eq!(train(&printed_file, &format!("{name}-printed")), expected, "{name}, printed");
        assert_eq!(train(&by_hand.display().to_string(), &format!("{name}-by-hand")), expected, "{name}, by hand");
        let records = printed(folder, &format!("plan --model {} --json", by_hand.display()));
        let of_name = printed(folder, &format!("plan --model {name} --json"));
        if !name.starts_with("resnet") {
            assert_eq!(records, of_name);
        }
    }
}

/// What the zoo's networks do not have.
const OWN: &str = include_str!("../examples/networks/mixed.toml");

/// It learns, and after training its file may go: the checkpoint and the run's settings hold the network.
#[test]
fn a_network_of_ones_own_is_whole_without_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("net.toml"), OWN).unwrap();
    let train = "train --model net.toml --json --density 0.3 --dropout 0.1 --batch-size 50 --lr 0.05 --seed 2 --checkpoint-every 40 \
                 --update-interval 20 --keep-checkpoints 9";
    printed(folder, &format!("{train} --steps 120 --out run"));
    fs::write(folder.join("config.toml"), "model = 'net.toml'\ndensity = 0.3\nsteps = 2").unwrap();
    printed(folder, "train --config config.toml --json --out from-config");
    let plan = printed(folder, "plan --model net.toml --image-size 28 --classes 10");
    assert!(plan.contains("block.1.conv2") && plan.contains("depthwise"), "{plan}");
    printed(
        folder,
        "compare --methods dense,rigl --densities 0.3 --seeds 1 --steps 2 --model net.toml --json --out compared",
    );
    fs::remove_file(folder.join("net.toml")).unwrap();

    let eval: serde_json::Value = serde_json::from_str(&printed(folder, "eval run --json")).unwrap();
    assert_eq!(eval["model"], "mixed");
    assert!(eval["accuracy"].as_f64().unwrap() > 0.6, "{eval}");
    let expected = checkpoint(folder, "run");
    // The last checkpoints are lost; the run goes on from an earlier one.
    for lost in ["checkpoint.safetensors", "checkpoints/step-00000120.safetensors"] {
        let _ = fs::remove_file(folder.join("run").join(lost));
    }
    printed(folder, "train --resume run --json");
    assert_eq!(checkpoint(folder, "run"), expected);
    printed(folder, "export run --out exported.safetensors");
    assert!(fs::metadata(folder.join("exported.safetensors")).unwrap().len() > 1000);
    printed(folder, "train --init-from run/checkpoint.safetensors --steps 2 --json --out further");
    let again = printed(folder, "train --config run/config.toml --steps 2 --json --out again");
    assert!(again.contains("\"done\""));
}

#[test]
fn wrong_files_are_refused_with_line_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (text, parts) in [
        (
            "name = 'net'\nlayers = [\n  {kind='conv', name='c', outputs=3, kernel=3},\n  {kind='linear', name='l', outputs='classes'}]",
            &["net.toml:4: l reads features but gets images of 3×28×28"][..],
        ),
        (
            "name = 'net'\nlayers = [\n  {kind='conv', name='c', outputs=3, kernel=3, with='x'}]",
            &["net.toml:3: unknown key `with`", "counted-as"],
        ),
        ("", &["net.toml:1: "]),
        (
            "name = 'lenet-5'\nlayers = [{kind='flatten'}, {kind='linear', name='l', outputs='classes'}]",
            &["`lenet-5` names another network"],
        ),
        (
            "name = 'net'\ninput = {channels=3}\nlayers = [{kind='flatten'}, {kind='linear', name='l', outputs='classes'}]",
            &["images of 1×28×28", "its file says channels 3, not 1"],
        ),
    ] {
        fs::write(folder.join("net.toml"), text).unwrap();
        let message = refused(folder, "train --model net.toml --steps 1");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        let in_config = "model = \"net.toml\"\nsteps = 1\n";
        fs::write(folder.join("config.toml"), in_config).unwrap();
        let message = refused(folder, "train --config config.toml");
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
    assert!(refused(folder, "train --model absent.toml").contains("absent.toml: "));
    fs::write(folder.join("net.toml"), OWN).unwrap();
    for args in ["--width 0.5", "--stem cifar"] {
        assert!(refused(folder, &format!("train --model net.toml {args}")).contains("has no effect here"));
    }
    assert!(refused(folder, "compare --methods small-dense --model net.toml --steps 1").contains("by name"));
}
