//! One seed, one result: the final checkpoint has the same bytes on any number of threads.

use std::process::Command;

#[test]
fn checkpoints_do_not_depend_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    // Wide and long enough for every parallel path: several row blocks, and topology updates.
    for (name, args) in [
        ("lenet", "--steps 250 --update-interval 20"),
        ("wide", "--model 784-1200-1000-10 --batch-size 256 --steps 40 --update-interval 5 --dropout 0.1"),
        ("set", "--method set --optimizer adam --steps 100 --update-interval 10 --density 0.02"),
        ("dense", "--method dense --steps 50"),
        ("shards", "--shards 5 --steps 60 --update-interval 10 --dropout 0.1"),
        ("blocks", "--format bsr8x8 --steps 150 --update-interval 10"),
        (
            "wide blocks",
            "--format bsr4x16 --model 784-1200-1000-10 --batch-size 256 --steps 30 --update-interval 5 --dropout 0.1",
        ),
        ("blocks, set", "--format bsr16x1 --method set --optimizer adam --steps 60 --update-interval 10"),
    ] {
        let mut first: Option<Vec<u8>> = None;
        for threads in [1, 2, 7] {
            let out = folder.path().join(format!("{name}-{threads}"));
            let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-under-test"));
            command.args(["train", "--json", "--seed", "5", "--threads", &threads.to_string(), "--out"]).arg(&out);
            let output = command.args(args.split_whitespace()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let bytes = std::fs::read(out.join("checkpoint.safetensors")).unwrap();
            let first = first.get_or_insert_with(|| bytes.clone());
            assert!(*first == bytes, "{name}: {threads} threads make another checkpoint than 1");
        }
    }
}
