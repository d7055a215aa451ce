//! Models of text, from files to printed text: a recurrent network with carried states, what is measured, what is refused.

use std::fs;
use std::path::Path;

use serde_json::Value;
use trainer::models::StoredModel;

use crate::running::{failure, outcome, printed, records, refused};

/// A part of the embedded text.
fn shakespeare(range: std::ops::Range<usize>) -> String {
    let data = trainer::data::load("tiny-shakespeare", None).unwrap();
    let alphabet = data.alphabet.unwrap();
    let mut bytes = Vec::new();
    data.train.text().unwrap().tokens()[range].iter().for_each(|&token| alphabet.append(token, &mut bytes));
    String::from_utf8(bytes).unwrap()
}

/// Small and quick.
const GRU: &str = "train --json --model gru-24 --embedding 16 --readout 24 --sequence-length 20 --batch-size 8 --density 0.5 \
    --lr 0.01 --update-interval 10 --seed 3";

fn write_texts(folder: &Path) {
    fs::write(folder.join("train.txt"), shakespeare(0..12_000)).unwrap();
    fs::write(folder.join("more.txt"), shakespeare(12_000..20_000)).unwrap();
    fs::write(folder.join("valid.txt"), shakespeare(30_000..31_000)).unwrap();
    fs::write(folder.join("test.txt"), shakespeare(40_000..41_500)).unwrap();
}

fn number(record: &Value, key: &str) -> f64 {
    record[key].as_f64().unwrap_or_else(|| panic!("no {key} in {record}"))
}

#[test]
fn a_text_is_learned_evaluated_and_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_texts(path);
    let text =
        "--data text --text train.txt,more.txt --text-valid valid.txt --text-test test.txt --text-symbols characters";
    let trained = records(path, &format!("{GRU} {text} --epochs 2 --out run"));
    let [first, second, done] = &trained[..] else { panic!("{trained:?}") };
    assert!(number(second, "val_bits_per_character") < number(first, "val_bits_per_character"), "{trained:?}");
    let bits = number(done, "test_bits_per_character");
    // Characters of English by their frequency alone take 4.8 bits.
    assert!(bits < 4.2, "{done}");
    assert!((number(done, "test_loss") / std::f64::consts::LN_2 - bits).abs() < 1e-12);
    // 20,000 characters are 999 windows at any shift; 8 streams have 124 each.
    assert_eq!((number(first, "step"), number(done, "steps"), number(done, "samples")), (124.0, 248.0, 248.0 * 160.0));

    let eval = &records(path, "eval --json run")[0];
    assert_eq!((&eval["loss"], number(eval, "samples")), (&done["test_loss"], 1499.0));
    assert_eq!(eval["bits_per_character"], done["test_bits_per_character"]);
    let other = &records(path, "eval --json run --text valid.txt")[0];
    assert_eq!((&other["loss"], number(other, "samples")), (&second["val_loss"], 999.0));
    let shown = printed(path, "eval run");
    assert!(shown.contains("bits/character) accuracy ") && shown.contains("on 1499 symbols of text"), "{shown}");

    let sample = "sample run --length 60 --prompt MEN: --seed 5";
    let text = printed(path, sample);
    let [start, rest] = [&text[..4], &text[4..]];
    assert_eq!((start, rest.trim_end_matches('\n').len() <= 60, rest.chars().count()), ("MEN:", true, 61));
    assert_eq!(printed(path, &format!("{sample} --threads 1")), text);
    assert_ne!(printed(path, "sample run --length 60 --prompt MEN: --seed 6"), text);
    let record = &records(path, &format!("{sample} --json"))[0];
    assert_eq!((record["text"].as_str().unwrap(), &record["symbols"]), (&rest[..60], &60.into()));
    let likeliest = printed(path, "sample run --length 20 --temperature 0");
    assert_eq!(printed(path, "sample run --length 20 --top-k 1 --seed 9"), likeliest);
    let message = failure(path, "sample run --prompt été").1;
    assert!(
        message.contains("--prompt: unknown character 'é' (U+00E9); the model was trained on these ")
            && message.contains("abcdef"),
        "{message}"
    );
}

#[test]
fn a_transformer_learns_from_windows_and_reads_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_texts(path);
    let train = "train --json --model gpt-1-2-16 --sequence-length 20 --batch-size 8 --density 0.5 --lr 0.01 --update-interval 10";
    let text =
        "--data text --text train.txt,more.txt --text-valid valid.txt --text-test test.txt --text-symbols characters";
    let trained =
        records(path, &format!("{train} {text} --epochs 2 --checkpoint-every 50 --keep-checkpoints 100 --out run"));
    let [first, second, done] = &trained[..] else { panic!("{trained:?}") };
    assert!(number(second, "val_bits_per_character") < number(first, "val_bits_per_character"), "{trained:?}");
    assert!(number(done, "test_bits_per_character") < 4.2, "{done}");
    // 999 windows are 125 batches, the last one of 7.
    assert_eq!((number(first, "step"), number(done, "samples")), (125.0, 2.0 * 999.0 * 20.0));
    let eval = &records(path, "eval --json run")[0];
    assert_eq!((&eval["loss"], number(eval, "samples")), (&done["test_loss"], 1499.0));

    let sample = "sample run --length 60 --prompt MEN: --seed 5";
    let text = printed(path, sample);
    assert!(text.starts_with("MEN:") && text.chars().count() == 65, "{text}");
    assert_eq!(printed(path, &format!("{sample} --threads 1")), text);
    // What stands further back than a window has no part in what follows.
    let follows = |prompt: &str| {
        let record = records(path, &format!("sample run --json --length 9 --seed 5 --prompt {prompt}")).remove(0);
        record["text"].as_str().unwrap().to_owned()
    };
    let window = "the-people-of-Rome:-";
    assert_eq!(follows(&format!("come,{window}")), follows(window));
}

#[test]
fn bytes_that_are_no_characters_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("text"), "grüße aus köln. ".repeat(300)).unwrap();
    let done = records(path, &format!("{GRU} --data text --text text --steps 60 --out run")).pop().unwrap();
    assert!(number(&done, "test_bits_per_character") < 6.0, "{done}");
    // What is printed is UTF-8, whatever bytes were chosen.
    let (code, text, message) = outcome(path, "sample run --length 200 --temperature 3 --prompt grü");
    assert_eq!((code, text.starts_with("grü"), text.contains('\u{fffd}')), (0, true, true), "{message}");
}

/// The checkpoint in the middle of an epoch holds the states of the streams.
#[test]
fn a_resumed_run_goes_on_in_the_middle_of_its_streams() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_texts(path);
    let run = "--data text --text train.txt --steps 160 --checkpoint-every 20 --keep-checkpoints 100";
    let last = |out: &str| fs::read(path.join(out).join("checkpoint.safetensors")).unwrap();
    printed(path, &format!("{GRU} {run} --threads 1 --out whole"));
    printed(path, &format!("{GRU} {run} --threads 2 --loader-threads 3 --out resumed"));
    assert!(last("whole") == last("resumed"));
    // 67 batches an epoch: steps 80 and 120 are in the middle of the second one.
    fs::remove_file(path.join("resumed/checkpoint.safetensors")).unwrap();
    for step in fs::read_dir(path.join("resumed/checkpoints")).unwrap().map(|entry| entry.unwrap().path()) {
        let number: u64 = step
            .file_stem()
            .unwrap()
            .to_str()
            .unwrap()
            .chars()
            .filter(char::is_ascii_digit)
            .collect::<String>()
            .parse()
            .unwrap();
        if number > 80 {
            fs::remove_file(step).unwrap();
        }
    }
    printed(path, "train --json --resume resumed --threads 1");
    assert!(last("whole") == last("resumed"));
}

#[test]
fn methods_are_ranked_by_bits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_texts(path);
    let small = GRU.replace("train --json", "").replace("--density 0.5", "").replace("--seed 3", "");
    let compare = format!(
        "compare {small} --data text --text train.txt --steps 30 --methods dense,static,set --densities 0.5 --out c"
    );
    let shown = printed(path, &compare);
    assert!(shown.contains("validation bits") && shown.contains("ranked by validation bits per character"), "{shown}");
    let summary: Value = serde_json::from_str(&fs::read_to_string(path.join("c/summary.json")).unwrap()).unwrap();
    assert_eq!((&summary["ranked_on"], &summary["ranked_by"]), (&"validation".into(), &"bits-per-character".into()));
    let rows = summary["rows"].as_array().unwrap();
    assert!(
        rows.iter().all(|row| row["val_bits_per_character_mean"].as_f64().is_some_and(|bits| bits < 8.0)),
        "{summary}"
    );
    let html = fs::read_to_string(path.join("c/report.html")).unwrap();
    for part in [
        "the lowest mean validation bits per character",
        "bits against dense",
        "Lower is better",
        "Validation bits per character",
    ] {
        assert!(html.contains(part), "{part}");
    }
}

#[test]
fn wrong_texts_are_refused_with_what_would_be_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    write_texts(path);
    fs::write(path.join("empty"), "").unwrap();
    fs::write(path.join("euro"), "ten € and\nmore € of them\n".repeat(30)).unwrap();
    for (args, parts) in [
        ("train --data text", &["give it with --text FILE"][..]),
        ("train --data text --text empty", &["empty: is empty"]),
        ("train --data text --text none", &["none: "]),
        (
            "train --data text --text valid.txt --sequence-length 1000",
            &["has 900 symbols", "at least 1001", "--sequence-length"],
        ),
        ("train --text train.txt", &["--text has no effect", "--data text"]),
        ("train --model lenet-300-100 --data tiny-shakespeare", &["lenet-300-100 reads no text", "gru-512"]),
        ("train --model gru-16 --data fashion-mnist-mini", &["gru-16 reads text", "tiny-shakespeare", "--text FILE"]),
        (
            "train --model gru-16 --text-symbols bytes",
            &["--text-symbols: bytes", "characters with --data tiny-shakespeare"],
        ),
        (
            "train --data text --text train.txt --text-valid euro --text-symbols characters",
            &["euro: line 1", "'€' (U+20AC)", "--text-symbols bytes"],
        ),
        (
            "train --data text --text train.txt --text-valid valid.txt --val-fraction 0.1",
            &["--val-fraction: 0.1", "--text-valid"],
        ),
        ("train --model gru-16 --loss mse", &["--loss: mse"]),
        ("sample nowhere", &["nowhere"]),
    ] {
        let message =
            if args.contains("none") || args.contains("nowhere") { failure(path, args).1 } else { refused(path, args) };
        assert!(parts.iter().all(|part| message.contains(part)), "{args}: {message}");
    }
    printed(path, &format!("{GRU} --data text --text train.txt --text-symbols characters --steps 3 --out run"));
    let message = refused(path, "eval run --text euro");
    assert!(message.contains("euro: line 1") && message.contains("'€'"), "{message}");
    // A run that begins with a model knows the characters that the model knows, and no others.
    let other = "--data text --text valid.txt --steps 2";
    let begun = printed(path, &format!("{GRU} {other} --init-from run --out begun").replace("--density 0.5", ""));
    assert!(begun.contains("\"done\""), "{begun}");
    let alphabet =
        |run: &str| StoredModel::load(&path.join(run).join("checkpoint.safetensors")).unwrap().input.unwrap().alphabet;
    assert!(alphabet("begun").is_some() && alphabet("begun") == alphabet("run"));
    let begun = format!("{GRU} --data text --text euro --init-from run").replace("--density 0.5", "");
    assert!(refused(path, &begun).contains("'€' (U+20AC)"));
    printed(path, "train --json --model 784-10 --steps 1 --out image");
    let message = failure(path, "sample image").1;
    assert!(
        message.contains("784-10 is no model of text") && message.contains("rigl train --model gru-512"),
        "{message}"
    );
    assert!(failure(path, "eval image --text train.txt").1.contains("has no effect"));
    let (code, message) = failure(path, "sample run --temperature -1");
    assert!(code == 2 && message.contains("at least 0"), "{message}");
}
