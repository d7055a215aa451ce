//! Data sets of labelled images, tables and texts, and batches of them in the layout that the kernels want.
//!
//! | name | train / test | source |
//! | --- | --- | --- |
//! | `fashion-mnist-mini` | 12,000 / 2,000 grey 28 × 28, 10 classes | embedded |
//! | `fashion-mnist`, `mnist` | 60,000 / 10,000 grey 28 × 28, 10 classes | four IDX files in a folder |
//! | `emnist-PART` | 112,800 to 697,932 grey 28 × 28, 10 to 62 classes | four IDX files in a folder |
//! | `cifar10` | 50,000 / 10,000 colour 32 × 32, 10 classes | six files of binary records in a folder |
//! | `cifar100` | 50,000 / 10,000 colour 32 × 32, 100 classes | two files of binary records in a folder |
//! | `table` | rows of a table or arrays of numbers, see [`table`] | a file |
//! | `svmlight` | samples that are lists of features, with lists of labels, see [`svmlight`] | a file |
//! | `tiny-shakespeare`, `text` | a text, see [`text`] | embedded; files |
//! | `image-folder` | any number, size and classes | `train/CLASS/*.jpg` and `val/CLASS/*.jpg` in a folder |
//!
//! Folders of pictures are read while they are trained on; of all others, the bytes are in memory.

mod augment;
mod batch;
pub mod cifar;
mod class_names;
pub(crate) mod compressed;
mod dataset;
mod error;
pub mod fetch;
mod fill;
pub mod idx;
pub mod image_folder;
mod image_labels;
mod known;
mod lists;
mod loader;
mod normalization;
mod picture;
mod picture_end;
mod picture_files;
mod sequences;
pub mod svmlight;
pub mod table;
mod targets;
pub mod text;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::image_folder::FolderOptions;
use self::known::{Format, IDX_FILES};
use self::svmlight::SVMLIGHT;
use self::table::TABLE;
use self::text::{DEFAULT_SHARE, TEXT, TINY_SHAKESPEARE, is_text};

pub use augment::Augment;
pub use batch::{Batch, BatchInputs, HostInputs, PartOf, shard_samples};
pub use dataset::{Dataset, Inputs, Split, content_sums};
pub use error::DataError;
pub use fill::InputForm;
pub use known::{EMBEDDED, Home, IMAGE_FOLDER, KNOWN, KnownSet, SETS, is_in_folder, known_class_names};
pub use lists::Lists;
pub use loader::{BatchLoader, InputMaker, LoaderError, LoaderOptions, Order, Part};
pub use normalization::{Normalization, Normalize};
pub use picture::{Cut, PictureError, PictureReader};
pub use picture_files::PictureFiles;
pub use sequences::{LaneOrder, Sequences};
pub use targets::{BatchTargets, Targets};

macro_rules! embedded {
    ($file:literal) => {
        include_bytes!(concat!("../../data/fashion-mnist-mini/", $file, ".gz")).as_slice()
    };
}
/// In the order of [`IDX_FILES`].
static EMBEDDED_FILES: [&[u8]; 4] = [
    embedded!("train-images-idx3-ubyte"),
    embedded!("train-labels-idx1-ubyte"),
    embedded!("t10k-images-idx3-ubyte"),
    embedded!("t10k-labels-idx1-ubyte"),
];

/// How the pixels of a data set become inputs where nothing is said: by channel if it has several. A name that is not
/// known counts as grey.
pub fn default_normalize(name: &str) -> Normalize {
    match KnownSet::named(name) {
        Ok(set) if set.shape[0] > 1 => Normalize::Channels,
        _ if name == IMAGE_FOLDER => Normalize::Channels,
        _ if name == TABLE => Normalize::Features,
        _ if is_text(name) || name == SVMLIGHT => Normalize::None,
        _ => Normalize::Pixels,
    }
}

/// Threads that prepare batches where nothing is said.
pub fn default_loader_threads(name: &str) -> usize {
    if name == IMAGE_FOLDER { 2 } else { 1 }
}

/// How the training images of a data set are changed where nothing is said.
pub fn default_augment(name: &str) -> Augment {
    match KnownSet::named(name).map(|set| set.format) {
        Ok(Format::Cifar { .. }) => Augment::CropFlip,
        _ if name == IMAGE_FOLDER => Augment::RandomResizedCropFlip,
        _ => Augment::None,
    }
}

/// Loads a data set by name. The files of one that is not embedded are looked for in `data_dir/name` (of CIFAR also in
/// `cifar-10`, `cifar-10-batches-bin` and the like), then in `data_dir` (unless that folder is named after another data
/// set, whose files have the same names), plain, `.gz` or `.xz`. For an image folder, see [`image_folder`], the
/// images are 224 × 224 pixels large; for a text, windows are [`text::DEFAULT_LENGTH`] symbols long.
///
/// # Errors
/// [`DataError`]: an unknown name, no folder, a missing or broken file.
///
/// ```
/// let data = trainer::data::load("fashion-mnist-mini", None)?;
/// assert_eq!((data.train.len(), data.test.len(), data.features()), (12_000, 2_000, 784));
/// # Ok::<(), trainer::data::DataError>(())
/// ```
pub fn load(name: &str, data_dir: Option<&Path>) -> Result<Dataset, DataError> {
    load_sized(name, data_dir, image_folder::DEFAULT_IMAGE_SIZE)
}

/// [`load`]; the images of an image folder are `image_size` pixels large each way. Others are as large as they are.
///
/// # Errors
/// As [`load`].
pub fn load_sized(name: &str, data_dir: Option<&Path>, image_size: usize) -> Result<Dataset, DataError> {
    if name == TABLE {
        return Err(DataError::NoTable);
    }
    if name == SVMLIGHT {
        return Err(DataError::NoSamples);
    }
    if name == TEXT {
        return Err(DataError::NoText);
    }
    if name == TINY_SHAKESPEARE {
        return text::load_tiny_shakespeare(text::DEFAULT_LENGTH, DEFAULT_SHARE, None);
    }
    if name == IMAGE_FOLDER {
        let missing = || DataError::NoFolder { name: name.to_owned(), files: Vec::new() };
        let options = FolderOptions { image_size, ..FolderOptions::default() };
        return image_folder::load(data_dir.ok_or_else(missing)?, &options);
    }
    let set = KnownSet::named(name)?;
    let files = match set.format {
        Format::Embedded => Vec::new(),
        Format::Idx { .. } | Format::Cifar { .. } => set.find(data_dir)?,
    };
    let data = read(set, &files)?;
    for (part, split, expected) in [("training", &data.train, set.samples[0]), ("test", &data.test, set.samples[1])] {
        if matches!(set.format, Format::Cifar { .. }) && split.len() != expected {
            tracing::warn!("{name}: {} {part} samples; the official set has {expected}", split.len());
        }
    }
    Ok(data)
}

/// Reads a data set from its files, which stand in the order of [`KnownSet::files`].
fn read(set: &KnownSet, files: &[PathBuf]) -> Result<Dataset, DataError> {
    let [train, test] = match set.format {
        Format::Embedded => {
            let part = |index: usize| {
                let [images, labels] =
                    [index, index + 1].map(|i| Path::new(EMBEDDED).join(IDX_FILES[i]).with_extension("gz"));
                let parsed = idx::parse_images(&images, EMBEDDED_FILES[index])?;
                join(parsed, &labels, idx::parse_labels(&labels, EMBEDDED_FILES[index + 1], 0, set.classes)?)
            };
            [part(0)?, part(2)?]
        }
        Format::Idx { first_label, transposed } => {
            let part = |index: usize| {
                let mut images = idx::read_images(&files[index])?;
                if transposed {
                    images.transpose();
                }
                let labels = &files[index + 1];
                join(images, labels, idx::read_labels(labels, first_label, set.classes)?)
            };
            let (train, test) = (part(0)?, part(2)?);
            if test.shape != train.shape {
                let [got, expected] = [&test, &train].map(|split| (split.shape[1], split.shape[2]));
                return Err(DataError::ImageSize { file: files[2].clone(), got, expected });
            }
            [train, test]
        }
        Format::Cifar { records, test } => {
            let (train, test) = files.split_at(files.len() - test);
            [read_records(records, train)?, read_records(records, test)?]
        }
    };
    Ok(Dataset {
        name: set.name.to_owned(),
        classes: set.classes,
        shape: train.shape,
        train: Arc::new(train),
        validation: None,
        test: Arc::new(test),
        table: None,
        class_names: None,
        target_scale: None,
        alphabet: None,
        numbering: None,
    })
}

/// Images and labels of two files.
fn join(images: idx::Images, label_file: &Path, labels: Vec<u8>) -> Result<Split, DataError> {
    if images.count() != labels.len() {
        let (labels, images) = (labels.len(), images.count());
        return Err(DataError::Count { file: label_file.to_owned(), labels, images });
    }
    let labels = labels.into_iter().map(u32::from).collect();
    Ok(Split {
        shape: [1, images.height, images.width],
        inputs: Inputs::Bytes(images.pixels),
        targets: Targets::Classes(labels),
    })
}

/// The records of files, one after the other. Unfolding takes the most time: each file has a thread of its own.
fn read_records(records: cifar::Records, files: &[PathBuf]) -> Result<Split, DataError> {
    let read = |file: &PathBuf| {
        let (mut bytes, mut labels) = (Vec::new(), Vec::new());
        records.read(file, &mut bytes, &mut labels).map(|_| (bytes, labels))
    };
    let parts = std::thread::scope(|scope| {
        let threads: Vec<_> = files.iter().map(|file| scope.spawn(|| read(file))).collect();
        let parts = threads.into_iter().map(|thread| thread.join().expect("reading does not panic"));
        parts.collect::<Result<Vec<_>, _>>()
    })?;
    let (mut bytes, mut labels) = (Vec::new(), Vec::new());
    for (part, its_labels) in parts {
        bytes.extend_from_slice(&part);
        labels.extend(its_labels);
    }
    Ok(Split { shape: cifar::SHAPE, inputs: Inputs::Bytes(bytes), targets: Targets::Classes(labels) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Kind, Kinded};
    use std::fs;

    const CLASSES: usize = 10;

    fn class_counts(labels: &[u32]) -> [usize; CLASSES] {
        labels.iter().fold([0; CLASSES], |mut counts, &label| {
            counts[label as usize] += 1;
            counts
        })
    }

    #[test]
    fn the_embedded_set_is_what_it_says() {
        let data = load(EMBEDDED, None).unwrap();
        assert_eq!((data.shape, data.classes), ([1, 28, 28], 10));
        assert_eq!(class_counts(data.train.labels()), [1200; CLASSES]);
        assert_eq!(class_counts(data.test.labels()), [200; CLASSES]);
        assert_eq!(data.train.bytes().unwrap().len(), 12_000 * 784);
        assert_eq!(data.test.bytes().unwrap().len(), 2_000 * 784);
        let Normalization::Pixels { mean, deviation } = data.normalization(Normalize::Pixels) else {
            panic!("all pixels alike were asked for");
        };
        // Near those of the full set, 0.28604 and 0.35302; a picture is 784 pixels of which neighbours agree.
        assert!((mean - 0.286).abs() < 0.003 && (deviation - 0.353).abs() < 0.003, "{mean} {deviation}");
    }

    /// With the full files at hand, the embedded pictures are the first of each class.
    #[test]
    fn the_embedded_set_is_a_part_of_the_full_one() {
        let Some(folder) = std::env::var_os("RIGL_DATA_DIR") else {
            eprintln!("not run: RIGL_DATA_DIR is not set");
            return;
        };
        let full = load("fashion-mnist", Some(Path::new(&folder))).unwrap();
        let mini = load(EMBEDDED, None).unwrap();
        for (mini, full, per_class) in [(&mini.train, &full.train, 1200), (&mini.test, &full.test, 200)] {
            let mut seen = [0; CLASSES];
            let first = |&sample: &usize| {
                let count = &mut seen[full.labels()[sample] as usize];
                *count += 1;
                *count <= per_class
            };
            let chosen: Vec<usize> = (0..full.len()).filter(first).collect();
            assert!(**mini == full.select(&chosen));
        }
    }

    #[test]
    fn hold_out_partitions_the_training_set() {
        let whole = load(EMBEDDED, None).unwrap();
        let hold_out = |fraction, seed| {
            let mut data = whole.clone();
            data.hold_out(fraction, seed).map(|()| data)
        };
        let data = hold_out(0.1, 3).unwrap();
        let held = data.validation.clone().unwrap();
        assert_eq!((held.len(), data.train.len()), (1200, 10_800));
        let rows = |split: &Split| {
            let mut rows: Vec<(u32, Vec<u8>)> = split
                .bytes()
                .unwrap()
                .chunks(784)
                .zip(split.labels())
                .map(|(image, &label)| (label, image.to_vec()))
                .collect();
            rows.sort();
            rows
        };
        let mut both = rows(&held);
        both.extend(rows(&data.train));
        both.sort();
        assert!(both == rows(&whole.train));
        assert_eq!(hold_out(0.1, 3).unwrap().validation, data.validation);
        assert_ne!(hold_out(0.1, 4).unwrap().validation, data.validation);
        assert!(hold_out(0.0, 3).unwrap().validation.is_none());
        assert!(hold_out(1e-5, 3).unwrap_err().to_string().contains("leaves the validation set empty"));
        assert!(hold_out(0.99999, 3).unwrap_err().to_string().contains("leaves the training set empty"));
        assert!(hold_out(f64::NAN, 3).is_err());
    }

    #[test]
    fn names_and_folders_are_explained() {
        let message = |name: &str, folder: Option<&Path>| load(name, folder).unwrap_err().to_string();
        assert_eq!(
            message("imagenet", None),
            "data: unknown data set \"imagenet\"; choose one of fashion-mnist-mini, fashion-mnist, mnist, \
             cifar10, cifar100, emnist-balanced, emnist-letters, emnist-digits, emnist-byclass, emnist-bymerge, image-folder, \
             table, svmlight, tiny-shakespeare, text"
        );
        let hint = message("mnist", None);
        for part in ["--data-dir DIR", "RIGL_DATA_DIR", "DIR/mnist", "t10k-labels-idx1-ubyte", ".gz"] {
            assert!(hint.contains(part), "{hint}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(message("mnist", Some(folder.path())).contains("no train-images-idx3-ubyte (or .gz, .xz) in "));
    }

    /// Both places and both forms are read, and a folder of another set with the same file names is not.
    #[test]
    fn files_are_found_in_either_place() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("fashion-mnist");
        fs::create_dir(&set).unwrap();
        for (file, bytes) in IDX_FILES.iter().zip(EMBEDDED_FILES) {
            fs::write(set.join(format!("{file}.gz")), bytes).unwrap();
        }
        let labels = load(EMBEDDED, None).unwrap().test.labels().to_vec();
        let labels = labels.into_iter().map(|label| label as u8);
        let plain: Vec<u8> = [0x0801u32, 2000].iter().flat_map(|w| w.to_be_bytes()).chain(labels).collect();
        fs::remove_file(set.join("t10k-labels-idx1-ubyte.gz")).unwrap();
        fs::write(set.join("t10k-labels-idx1-ubyte"), plain).unwrap();

        assert_eq!(load("fashion-mnist", Some(folder.path())).unwrap().test.len(), 2000);
        assert_eq!(load("fashion-mnist", Some(&set)).unwrap().train.len(), 12_000);
        assert!(matches!(load("mnist", Some(&set)).unwrap_err(), DataError::Missing { .. }));

        fs::copy(set.join("t10k-images-idx3-ubyte.gz"), set.join("train-images-idx3-ubyte.gz")).unwrap();
        let error = load("fashion-mnist", Some(&set)).unwrap_err();
        assert!(matches!(error, DataError::Count { labels: 12_000, images: 2000, .. }), "{error}");
        fs::remove_file(set.join("t10k-labels-idx1-ubyte")).unwrap();
        assert!(load("fashion-mnist", Some(&set)).unwrap_err().to_string().contains("no t10k-labels-idx1-ubyte (or"));
    }

    /// Letters are numbered from 1 in the files, whose images lie on their sides.
    #[test]
    fn emnist_is_turned_upright_and_numbered_from_0() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("emnist");
        fs::create_dir(&set).unwrap();
        let idx = |dimensions: &[u32], data: &[u8]| -> Vec<u8> {
            let header = [0x0800 | dimensions.len() as u32].into_iter().chain(dimensions.iter().copied());
            header.flat_map(u32::to_be_bytes).chain(data.iter().copied()).collect()
        };
        let write = |labels: [u8; 2]| {
            for part in ["train", "test"] {
                let name = |kind: &str| set.join(format!("emnist-letters-{part}-{kind}-ubyte"));
                fs::write(name("images-idx3"), idx(&[2, 2, 3], &[0, 1, 2, 3, 4, 5, 9, 8, 7, 6, 5, 4])).unwrap();
                fs::write(name("labels-idx1"), idx(&[2], &labels)).unwrap();
            }
        };
        write([1, 26]);
        let data = load("emnist-letters", Some(folder.path())).unwrap();
        assert_eq!((data.classes, data.shape, data.train.labels()), (26, [1, 3, 2], &[0, 25][..]));
        assert_eq!(data.test.bytes().unwrap(), [0, 3, 1, 4, 2, 5, 9, 6, 8, 5, 7, 4]);
        assert_eq!(known_class_names("emnist-letters").unwrap()[25], "Z");
        for (name, classes) in [("emnist-balanced", 47), ("emnist-byclass", 62), ("emnist-bymerge", 47)] {
            assert_eq!(known_class_names(name).unwrap().len(), classes);
            assert_eq!(KnownSet::named(name).unwrap().classes, classes);
        }
        write([0, 26]);
        let error = load("emnist-letters", Some(folder.path())).unwrap_err().to_string();
        assert!(error.ends_with("label 0 is 0; it must be 1 to 26"), "{error}");
    }

    /// Files of CIFAR with a few records each; the label of a record is its number in the set, modulo the classes.
    fn write_cifar(set: &KnownSet, folder: &Path, endings: &[&str]) -> Vec<Vec<u8>> {
        let Format::Cifar { records, .. } = set.format else { panic!("{} is not CIFAR", set.name) };
        fs::create_dir_all(folder).unwrap();
        let mut number = 0;
        let file = |(index, file): (usize, &&str)| {
            let mut bytes = Vec::new();
            for _ in 0..3 + index {
                bytes.extend(vec![9; records.label_bytes - 1]);
                bytes.push((number % set.classes) as u8);
                bytes.extend((0..set.shape.iter().product()).map(|pixel: usize| (pixel / 5 + number * 11) as u8));
                number += 1;
            }
            let ending = endings[index % endings.len()];
            fs::write(folder.join(format!("{file}{ending}")), compressed::tests::folded(&bytes, ending)).unwrap();
            bytes
        };
        set.files.iter().enumerate().map(file).collect()
    }

    #[test]
    fn cifar_is_read_from_its_batches_in_every_place_and_form() {
        for (name, places) in [
            ("cifar10", ["cifar10", "cifar-10", "cifar-10-batches-bin", ""]),
            ("cifar100", ["cifar100", "cifar-100", "cifar-100-binary", ""]),
        ] {
            let set = KnownSet::named(name).unwrap();
            for place in places {
                let folder = tempfile::tempdir().unwrap();
                let written = write_cifar(set, &folder.path().join(place), &["", ".gz", ".xz"]);
                let data = load(name, Some(folder.path())).unwrap();
                assert_eq!((data.shape, data.classes, data.features()), ([3, 32, 32], set.classes, 3072));
                assert_eq!(data.train.len() + data.test.len(), written.iter().map(|b| b.len() / 3072).sum::<usize>());
                let labels: Vec<u32> = (0..).map(|n| n % set.classes as u32).take(data.train.len()).collect();
                assert_eq!(data.train.labels(), labels);
                let last = written.last().unwrap();
                assert!(data.test.bytes().unwrap().ends_with(&last[last.len() - 3072..]));
                assert_eq!(data.normalization(default_normalize(name)).channels(), Some(3));
                // What it is read from does not matter.
                let plain = tempfile::tempdir().unwrap();
                write_cifar(set, plain.path(), &[""]);
                assert_eq!(load(name, Some(plain.path())).unwrap().sha256(), data.sha256());
            }
        }
        let folder = tempfile::tempdir().unwrap();
        write_cifar(KnownSet::named("cifar10").unwrap(), folder.path(), &[""]);
        fs::remove_file(folder.path().join("data_batch_3.bin")).unwrap();
        let error = load("cifar10", Some(folder.path())).unwrap_err();
        assert!(
            error.kind() == Kind::Usage && error.to_string().contains("no data_batch_3.bin (or .gz, .xz) in"),
            "{error}"
        );
        fs::write(folder.path().join("data_batch_3.bin"), [1; 4000]).unwrap();
        let error = load("cifar10", Some(folder.path())).unwrap_err();
        assert!(error.to_string().ends_with("data_batch_3.bin: record 1 ends after 927 of 3073 bytes (decompressed)"));
    }

    /// The published figures of the training images.
    #[test]
    fn cifar_10_is_what_it_is_known_to_be() {
        let data = match std::env::var_os("RIGL_DATA_DIR").map(|folder| load("cifar10", Some(Path::new(&folder)))) {
            Some(Ok(data)) => data,
            Some(Err(DataError::Missing { .. })) => return eprintln!("not run: RIGL_DATA_DIR has no CIFAR-10"),
            Some(Err(error)) => panic!("{error}"),
            None => return eprintln!("not run: RIGL_DATA_DIR is not set"),
        };
        assert_eq!(class_counts(data.train.labels()), [5000; CLASSES]);
        assert_eq!(class_counts(data.test.labels()), [1000; CLASSES]);
        let Normalization::Channels { mean, deviation } = data.normalization(Normalize::Channels) else {
            panic!("channels were asked for");
        };
        let close = |got: &[f64], known: [f64; 3]| got.iter().zip(known).all(|(got, known)| (got - known).abs() < 1e-7);
        assert!(close(&mean, [0.491_399_68, 0.482_158_41, 0.446_530_91]), "{mean:?}");
        assert!(close(&deviation, [0.247_032_23, 0.243_485_13, 0.261_587_84]), "{deviation:?}");
    }

    /// Checkpoints hold this sum: it must not change.
    #[test]
    fn the_sum_of_the_embedded_set_is_as_ever() {
        let sum = "042874627e0d854f4c269a76b6cbe8effa5d654639c7152e300f53018915b7ea";
        assert_eq!(load(EMBEDDED, None).unwrap().sha256(), sum);
    }

    /// The embedded set is as large as a debug build can sum in a moment; it stands for the others' code.
    #[test]
    fn contents_are_known_whatever_their_order() {
        let mut data = load(EMBEDDED, None).unwrap();
        let reversed: Vec<usize> = (0..data.test.len()).rev().collect();
        data.test = Arc::new(data.test.select(&reversed));
        assert_eq!(Some(content_sums(&data)), KnownSet::named(EMBEDDED).unwrap().content);
        data.test = Arc::new(data.test.select(&reversed[1..]));
        let [train, test] = content_sums(&data);
        let known = KnownSet::named(EMBEDDED).unwrap().content.unwrap();
        assert!(train == known[0] && test != known[1]);
    }

    #[test]
    fn the_names_are_those_of_the_sets() {
        assert_eq!(SETS.map(|set| set.name), KNOWN[..SETS.len()]);
        assert_eq!(KNOWN[SETS.len()..], [IMAGE_FOLDER, TABLE, SVMLIGHT, TINY_SHAKESPEARE, TEXT]);
    }
}
