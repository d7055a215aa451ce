//! Texts from files to batches.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use super::super::compressed::tests::folded;
use super::super::sequences::LaneOrder;
use super::super::{Augment, BatchLoader, InputForm, LoaderOptions, Normalization, Order, Part, Targets};
use super::*;

fn options(files: &[&Path], symbols: TextSymbols) -> TextOptions {
    let train = files.iter().map(|file| file.to_path_buf()).collect();
    TextOptions { train, valid: vec![], test: vec![], test_fraction: 0.1, symbols, sequence_length: 4 }
}

fn written(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path
}

fn tokens(split: &Split) -> Vec<u8> {
    split.text().unwrap().tokens().iter().map(|&token| token as u8).collect()
}

fn message(options: &TextOptions, trained: Option<&Alphabet>) -> String {
    load(options, trained).unwrap_err().to_string()
}

#[test]
fn files_are_one_text_with_shares_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let text: Vec<u8> = (b'a'..=b'z').cycle().take(100).collect();
    let first = written(folder.path(), "a.txt", &text[..40]);
    let second = written(folder.path(), "b", folded(&text[40..], ".xz"));
    let mut data = load(&options(&[&first, &second], TextSymbols::Bytes), None).unwrap();
    assert_eq!((data.classes, data.shape, data.alphabet.clone()), (256, [1, 1, 4], Some(Alphabet::Bytes)));
    assert_eq!((tokens(&data.train), tokens(&data.test)), (text[..90].to_vec(), text[90..].to_vec()));
    let before = data.sha256();
    data.hold_out(0.2, 5).unwrap();
    let validation = data.validation.clone().unwrap();
    assert_eq!((tokens(&data.train), tokens(&validation)), (text[..70].to_vec(), text[70..90].to_vec()));
    assert_ne!(data.sha256(), before);
    // Of characters, the numbers are those of the alphabet.
    let data = load(&options(&[&first, &second], TextSymbols::Characters), None).unwrap();
    assert_eq!((data.classes, tokens(&data.train)[..3].to_vec()), (26, vec![0, 1, 2]));
}

#[test]
fn compressed_texts_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let text = b"<mediawiki>as it comes</mediawiki>\n".repeat(20);
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = zip::write::SimpleFileOptions::default();
    archive.start_file("enwik8", stored).unwrap();
    archive.write_all(&text).unwrap();
    let one = archive.finish().unwrap().into_inner();
    for (name, bytes) in
        [("a", text.clone()), ("a.gz", folded(&text, ".gz")), ("a.xz", folded(&text, ".xz")), ("a.zip", one)]
    {
        let file = written(folder.path(), name, bytes);
        let data = load(&options(&[&file], TextSymbols::Bytes), None).unwrap();
        assert_eq!(tokens(&data.train), text[..630], "{name}");
    }
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    ["a", "b"].iter().for_each(|name| archive.start_file(*name, stored).unwrap());
    let two = written(folder.path(), "two.zip", archive.finish().unwrap().into_inner());
    assert!(
        message(&options(&[&two], TextSymbols::Bytes), None)
            .ends_with("two.zip: holds 2 files; an archive must hold one text")
    );
    let zstd = written(folder.path(), "a.zst", b"\x28\xb5\x2f\xfd....");
    let told = message(&options(&[&zstd], TextSymbols::Bytes), None);
    assert!(told.contains("is a zstd file; a text must be plain, or compressed as .gz"), "{told}");
}

#[test]
fn what_is_wrong_with_a_text_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let characters = TextSymbols::Characters;
    let empty = written(folder.path(), "empty", "");
    assert!(message(&options(&[&empty], characters), None).contains("is empty; a text must have at least one symbol"));
    assert!(message(&options(&[], characters), None).contains("give it with --text FILE"));
    let broken = written(folder.path(), "broken", b"good\nbad: \xff and more of it\n");
    let told = message(&options(&[&broken], characters), None);
    assert!(told.contains("byte 10 (line 2) is not valid UTF-8") && told.contains("--text-symbols bytes"), "{told}");
    assert!(load(&options(&[&broken], TextSymbols::Bytes), None).is_ok());

    let (train, test) = ("abcdefghij\n".repeat(5), "abc\nabc\nab€c\n");
    let [train, test] = [("train", train.as_str()), ("test", test)].map(|(n, text)| written(folder.path(), n, text));
    let with_test = TextOptions { test: vec![test.clone()], ..options(&[&train], characters) };
    let told = message(&with_test, None);
    let expected = "test: line 3: the character '€' (U+20AC) is not among the 11 characters of the training text";
    assert!(told.contains(expected), "{told}");
    // The text of an evaluation, for a model that was trained on another.
    let alphabet = load(&options(&[&train], characters), None).unwrap().alphabet;
    assert!(message(&options(&[&test], characters), alphabet.as_ref()).contains(expected));
    assert_eq!(load(&options(&[&train], characters), alphabet.as_ref()).unwrap().classes, 11);

    let short = TextOptions { sequence_length: 50, ..options(&[&train], characters) };
    let told = load(&short, None).unwrap().hold_out(0.0, 0).unwrap_err().to_string();
    assert!(
        told.contains("the training text has 49 symbols; it must have at least 51, as windows of 50 need"),
        "{told}"
    );
    let none = TextOptions { test_fraction: 0.01, ..options(&[&train], characters) };
    assert_eq!(message(&none, None), "the test text has 1 symbols; it must have at least 2");
    let error = load(&options(&[&train], characters), None).unwrap().hold_out(0.9, 0).unwrap_err().to_string();
    assert!(error.contains("the training text has 0 symbols"), "{error}");
}

#[test]
fn the_embedded_text_is_as_published() {
    let data = load_tiny_shakespeare(128, 0.05, None).unwrap();
    let characters = [&data.train, &data.test].map(|split| split.text().unwrap().tokens().len());
    assert_eq!((data.classes, characters), TINY_SHAKESPEARE_CHARACTERS);
    assert_eq!(tiny_shakespeare_is_published().unwrap(), [1_115_394, 65]);
    assert_eq!(data.train.len(), (1_059_624 - 128) / 128);
    let Some(Alphabet::Characters(characters)) = data.alphabet else { panic!("it is of characters") };
    assert!(characters.iter().collect::<String>().starts_with("\n !$&',-.3:;?ABC"));
}

/// A resumed run gets the same batches, whatever the threads.
#[test]
fn a_loader_begins_in_the_middle_of_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    let text: Vec<u8> = (0..=255).cycle().take(1000).collect();
    let file = written(folder.path(), "a", text);
    let data = load(&options(&[&file], TextSymbols::Bytes), None).unwrap();
    let plain = Normalization::Pixels { mean: 0.0, deviation: 1.0 };
    for order in [LaneOrder::SequenceMajor, LaneOrder::TimeMajor] {
        let options = |first_batch, threads| LoaderOptions {
            batch_size: 10,
            form: InputForm::Tokens { order, strip: 16 },
            order: Order::Shuffled { seed: 3, first_epoch: 2, first_batch, augment: Augment::None },
            drop_last: false,
            part: Part::All,
            threads,
        };
        let batches = |first_batch, threads| {
            let mut loader = BatchLoader::new(data.train.clone(), &plain, options(first_batch, threads)).unwrap();
            assert_eq!(loader.batches_per_epoch(), data.train.epoch(10, Some(order))[0]);
            let mut batches = Vec::new();
            for _ in 0..2 {
                while let Some(batch) = loader.next_batch().unwrap() {
                    batches.push((batch.inputs.clone(), batch.targets.clone()));
                }
            }
            batches
        };
        let whole = batches(0, 1);
        let [per_epoch, windows] = data.train.epoch(10, Some(order));
        let tokens =
            |(_, targets): &(_, Targets)| targets.classes().iter().filter(|&&target| target != u32::MAX).count();
        assert_eq!(whole[..per_epoch].iter().map(tokens).sum::<usize>(), windows * 4);
        assert!(batches(7, 3) == whole[7..]);
    }
    let wrong = LoaderOptions {
        batch_size: 10,
        form: InputForm::Features { strip: 16 },
        order: Order::Stored,
        drop_last: false,
        threads: 1,
        part: Part::All,
    };
    let error = BatchLoader::new(data.train.clone(), &plain, wrong).unwrap_err();
    assert_eq!(error.to_string(), "the samples are a text; the network reads values");
}
