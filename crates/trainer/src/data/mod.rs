//! Data sets of labelled images, and batches of them in the layout that the kernels want.
//!
//! | name | train / test | source |
//! | --- | --- | --- |
//! | `fashion-mnist-mini` | 12,000 / 2,000 grey 28 × 28, 10 classes | embedded |
//! | `fashion-mnist`, `mnist` | 60,000 / 10,000 grey 28 × 28, 10 classes | four IDX files in a folder |

mod error;
pub mod idx;
mod loader;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sparse_kernels::random::Key;

pub use error::DataError;
pub use loader::{Batch, BatchLoader, LoaderError, LoaderOptions, Order};

/// The data set that needs no files.
pub const EMBEDDED: &str = "fashion-mnist-mini";
/// Every name that [`load`] knows.
pub const KNOWN: [&str; 3] = [EMBEDDED, "fashion-mnist", "mnist"];

const CLASSES: usize = 10;
/// Images and labels of the training set, then of the test set.
const FILES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

macro_rules! embedded {
    ($file:literal) => {
        include_bytes!(concat!("../../data/fashion-mnist-mini/", $file, ".gz")).as_slice()
    };
}
/// In the order of [`FILES`].
static EMBEDDED_FILES: [&[u8]; 4] = [
    embedded!("train-images-idx3-ubyte"),
    embedded!("train-labels-idx1-ubyte"),
    embedded!("t10k-images-idx3-ubyte"),
    embedded!("t10k-labels-idx1-ubyte"),
];

/// Labelled images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// Bytes, sample by sample: `[sample][channel][row][pixel]`.
    pub images: Vec<u8>,
    /// The class of each sample.
    pub labels: Vec<u8>,
}

impl Split {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    fn select(&self, samples: &[usize]) -> Self {
        let features = self.images.len() / self.len().max(1);
        Self {
            images: samples.iter().flat_map(|&s| &self.images[s * features..][..features]).copied().collect(),
            labels: samples.iter().map(|&s| self.labels[s]).collect(),
        }
    }
}

/// A data set in memory.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// Its name, one of [`KNOWN`].
    pub name: String,
    /// Number of classes; every label is below it.
    pub classes: usize,
    /// Rows of pixels of an image.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Values of a pixel.
    pub channels: usize,
    /// What is trained on.
    pub train: Arc<Split>,
    /// Held out of the training set by [`Dataset::hold_out`].
    pub validation: Option<Arc<Split>>,
    /// The test set.
    pub test: Arc<Split>,
}

impl Dataset {
    /// Values of an image: `height · width · channels`.
    pub fn features(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Moves `round(fraction · samples)` training samples, chosen by `seed`, to [`Dataset::validation`]. Both parts
    /// keep the order of the original. A fraction of 0 changes nothing.
    ///
    /// # Errors
    /// [`DataError::Fraction`] unless `0 <= fraction < 1` and both parts have a sample.
    pub fn hold_out(&mut self, fraction: f64, seed: u64) -> Result<(), DataError> {
        if fraction == 0.0 {
            return Ok(());
        }
        let samples = self.train.len();
        let held = (fraction * samples as f64).round();
        let fail = |empty| Err(DataError::Fraction { fraction, samples, empty });
        if held < 1.0 || held.is_nan() {
            return fail("validation");
        }
        if held >= samples as f64 {
            return fail("training");
        }
        let order = shuffled(samples, Key::new(seed).with_name("validation"));
        let (held, kept) = order.split_at(held as usize);
        let part = |chosen: &[u32]| {
            let mut chosen: Vec<usize> = chosen.iter().map(|&sample| sample as usize).collect();
            chosen.sort_unstable();
            Arc::new(self.train.select(&chosen))
        };
        (self.validation, self.train) = (Some(part(held)), part(kept));
        Ok(())
    }

    /// A sum over all samples, in the order in which they are used. Equal data sets have equal sums, wherever they were
    /// read from.
    pub fn sha256(&self) -> String {
        let mut sum = Sha256::new();
        for split in [Some(&self.train), self.validation.as_ref(), Some(&self.test)].into_iter().flatten() {
            sum.update((split.len() as u64).to_le_bytes());
            sum.update(&split.images);
            sum.update(&split.labels);
        }
        sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Mean and deviation of all pixels of the training set (without those held out).
    pub fn normalization(&self) -> Normalization {
        Normalization::of(&self.train.images)
    }
}

/// How pixels become inputs: `(pixel / 255 − mean) / deviation`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Normalization {
    /// Mean of `pixel / 255`.
    pub mean: f64,
    /// Standard deviation of `pixel / 255` (of the population); 1 if all pixels are equal.
    pub deviation: f64,
}

impl Normalization {
    /// That which gives `pixels` mean 0 and deviation 1.
    pub fn of(pixels: &[u8]) -> Self {
        let mut histogram = [0u64; 256];
        pixels.iter().for_each(|&pixel| histogram[usize::from(pixel)] += 1);
        let count = pixels.len().max(1) as f64;
        let moment = |power: i32| {
            let terms = histogram.iter().enumerate().map(|(pixel, &n)| n as f64 * (pixel as f64 / 255.0).powi(power));
            terms.sum::<f64>() / count
        };
        let mean = moment(1);
        let variance = moment(2) - mean * mean;
        // A rounding error of the difference is no deviation.
        let deviation = if variance > 1e-12 { variance.sqrt() } else { 1.0 };
        Self { mean, deviation }
    }

    /// The input for each pixel value.
    pub fn table(&self) -> [f32; 256] {
        std::array::from_fn(|pixel| ((pixel as f64 / 255.0 - self.mean) / self.deviation) as f32)
    }
}

/// `0..samples` in an order that depends on the key only: sorted by `(key.bits(sample), sample)`.
fn shuffled(samples: usize, key: Key) -> Vec<u32> {
    let mut order = Vec::new();
    shuffle(&mut Vec::new(), &mut order, samples, key);
    order
}

/// [`shuffled`] into buffers that are used again.
fn shuffle(scratch: &mut Vec<(u64, u32)>, order: &mut Vec<u32>, samples: usize, key: Key) {
    scratch.clear();
    scratch.extend((0..samples as u32).map(|sample| (key.bits(u64::from(sample)), sample)));
    scratch.sort_unstable();
    order.clear();
    order.extend(scratch.iter().map(|&(_, sample)| sample));
}

/// Loads a data set by name. The files of one that is not embedded are looked for in `data_dir/name`, then in
/// `data_dir` (unless that folder is named after another data set, whose files have the same names), plain or `.gz`.
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
    if !KNOWN.contains(&name) {
        return Err(DataError::Unknown { name: name.to_owned(), known: KNOWN.to_vec() });
    }
    let (train, test) = if name == EMBEDDED {
        let part = |index: usize| {
            let [images, labels] = [index, index + 1].map(|i| Path::new(EMBEDDED).join(FILES[i]).with_extension("gz"));
            let parsed = idx::parse_images(&images, EMBEDDED_FILES[index])?;
            join(parsed, &labels, idx::parse_labels(&labels, EMBEDDED_FILES[index + 1], CLASSES)?)
        };
        (part(0)?, part(2)?)
    } else {
        let Some(data_dir) = data_dir else {
            return Err(DataError::NoFolder { name: name.to_owned(), files: FILES.to_vec() });
        };
        let files = find(name, data_dir)?;
        let part = |index: usize| {
            let images = idx::read_images(&files[index])?;
            join(images, &files[index + 1], idx::read_labels(&files[index + 1], CLASSES)?)
        };
        let (train, test) = (part(0)?, part(2)?);
        if test.1 != train.1 {
            return Err(DataError::ImageSize { file: files[2].clone(), got: test.1, expected: train.1 });
        }
        (train, test)
    };
    let (height, width) = train.1;
    Ok(Dataset {
        name: name.to_owned(),
        classes: CLASSES,
        height,
        width,
        channels: 1,
        train: Arc::new(train.0),
        validation: None,
        test: Arc::new(test.0),
    })
}

/// A split with the height and width of its images.
fn join(images: idx::Images, label_file: &Path, labels: Vec<u8>) -> Result<(Split, (usize, usize)), DataError> {
    if images.count() != labels.len() {
        let (labels, images) = (labels.len(), images.count());
        return Err(DataError::Count { file: label_file.to_owned(), labels, images });
    }
    Ok((Split { images: images.pixels, labels }, (images.height, images.width)))
}

/// The four files, all from the first folder that has any of them.
fn find(name: &str, data_dir: &Path) -> Result<[PathBuf; 4], DataError> {
    let mut folders = vec![data_dir.join(name)];
    let of_another_set = KNOWN.iter().any(|&other| other != name && data_dir.ends_with(other));
    if !of_another_set {
        folders.push(data_dir.to_owned());
    }
    let in_folder = |folder: &Path, file: &str| {
        [folder.join(file), folder.join(format!("{file}.gz"))].into_iter().find(|path| path.is_file())
    };
    let with_files = folders.iter().find(|folder| FILES.iter().any(|file| in_folder(folder, file).is_some()));
    let searched = with_files.map_or(folders.clone(), |folder| vec![folder.clone()]);
    let mut found: [PathBuf; 4] = Default::default();
    for (path, file) in found.iter_mut().zip(FILES) {
        *path = searched.iter().find_map(|folder| in_folder(folder, file)).ok_or_else(|| DataError::Missing {
            name: name.to_owned(),
            file,
            searched: searched.clone(),
        })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn class_counts(labels: &[u8]) -> [usize; CLASSES] {
        labels.iter().fold([0; CLASSES], |mut counts, &label| {
            counts[usize::from(label)] += 1;
            counts
        })
    }

    #[test]
    fn the_embedded_set_is_what_it_says() {
        let data = load(EMBEDDED, None).unwrap();
        assert_eq!((data.height, data.width, data.channels, data.classes), (28, 28, 1, 10));
        assert_eq!(class_counts(&data.train.labels), [1200; CLASSES]);
        assert_eq!(class_counts(&data.test.labels), [200; CLASSES]);
        assert_eq!(data.train.images.len(), 12_000 * 784);
        assert_eq!(data.test.images.len(), 2_000 * 784);
        let normalization = data.normalization();
        // Near those of the full set, 0.28604 and 0.35302; a picture is 784 pixels of which neighbours agree.
        assert!((normalization.mean - 0.286).abs() < 0.003, "{normalization:?}");
        assert!((normalization.deviation - 0.353).abs() < 0.003, "{normalization:?}");
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
                let count = &mut seen[usize::from(full.labels[sample])];
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
            let mut rows: Vec<(u8, Vec<u8>)> =
                split.images.chunks(784).zip(&split.labels).map(|(image, &label)| (label, image.to_vec())).collect();
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
    fn normalization_gives_mean_0_and_deviation_1() {
        let pixels: Vec<u8> = (0..10_000u32).map(|i| (i * i % 251) as u8).collect();
        let table = Normalization::of(&pixels).table();
        let inputs = || pixels.iter().map(|&pixel| f64::from(table[usize::from(pixel)]));
        let mean = inputs().sum::<f64>() / pixels.len() as f64;
        let variance = inputs().map(|x| (x - mean).powi(2)).sum::<f64>() / pixels.len() as f64;
        assert!(mean.abs() < 1e-6 && (variance - 1.0).abs() < 1e-6, "{mean} {variance}");
        assert_eq!(Normalization::of(&[7; 100]).deviation, 1.0);
        assert_eq!(Normalization::of(&[]).table()[255], 1.0);
    }

    #[test]
    fn names_and_folders_are_explained() {
        let message = |name: &str, folder: Option<&Path>| load(name, folder).unwrap_err().to_string();
        assert_eq!(
            message("imagenet", None),
            "data: there is no data set \"imagenet\"; the known ones are fashion-mnist-mini, fashion-mnist, mnist"
        );
        let hint = message("mnist", None);
        for part in ["--data-dir DIR", "RIGL_DATA_DIR", "DIR/mnist", "t10k-labels-idx1-ubyte", ".gz"] {
            assert!(hint.contains(part), "{hint}");
        }
        let folder = tempfile::tempdir().unwrap();
        assert!(message("mnist", Some(folder.path())).contains("no train-images-idx3-ubyte or "));
    }

    /// Both places and both forms are read, and a folder of another set with the same file names is not.
    #[test]
    fn files_are_found_in_either_place() {
        let folder = tempfile::tempdir().unwrap();
        let set = folder.path().join("fashion-mnist");
        fs::create_dir(&set).unwrap();
        for (file, bytes) in FILES.iter().zip(EMBEDDED_FILES) {
            fs::write(set.join(format!("{file}.gz")), bytes).unwrap();
        }
        let labels = load(EMBEDDED, None).unwrap().test.labels.clone();
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
        assert!(load("fashion-mnist", Some(&set)).unwrap_err().to_string().contains("no t10k-labels-idx1-ubyte or"));
    }
}
