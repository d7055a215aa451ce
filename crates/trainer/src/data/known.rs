//! The data sets that there are: what they hold, and the files they are read from.

use std::path::{Path, PathBuf};

use super::cifar::Records;
use super::{DataError, EMBEDDED, compressed};

/// A data set by its name.
#[derive(Debug, Clone, Copy)]
pub struct KnownSet {
    /// Its name.
    pub name: &'static str,
    /// Number of classes.
    pub classes: usize,
    /// Channels, height and width of its pictures.
    pub shape: [usize; 3],
    /// Training and test samples of the official set.
    pub samples: [usize; 2],
    /// Folders in the data folder where its files may lie, beside that folder itself.
    pub folders: &'static [&'static str],
    /// Its files.
    pub files: &'static [&'static str],
    pub(super) format: Format,
}

/// How the files of a data set are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    /// They are part of the program.
    Embedded,
    /// Images and labels of the training set, then of the test set.
    Idx,
    /// Batches of these records; the last `test` files are the test set.
    Cifar { records: Records, test: usize },
}

/// Images and labels of the training set, then of the test set.
pub(super) const IDX_FILES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// The MNIST family: ten classes of grey pictures.
const fn idx(name: &'static str, folders: &'static [&'static str]) -> KnownSet {
    let (shape, samples) = ([1, 28, 28], [60_000, 10_000]);
    KnownSet { name, classes: 10, shape, samples, folders, files: &IDX_FILES, format: Format::Idx }
}

/// Every data set, in the order of [`KNOWN`](super::KNOWN).
pub static SETS: [KnownSet; 5] = [
    KnownSet { samples: [12_000, 2_000], format: Format::Embedded, ..idx(EMBEDDED, &[]) },
    idx("fashion-mnist", &["fashion-mnist"]),
    idx("mnist", &["mnist"]),
    KnownSet {
        name: "cifar10",
        classes: 10,
        shape: super::cifar::SHAPE,
        samples: [50_000, 10_000],
        folders: &["cifar10", "cifar-10", "cifar-10-batches-bin"],
        files: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
            "test_batch.bin",
        ],
        format: Format::Cifar { records: Records { classes: 10, label_bytes: 1, most: 10_000 }, test: 1 },
    },
    KnownSet {
        name: "cifar100",
        classes: 100,
        shape: super::cifar::SHAPE,
        samples: [50_000, 10_000],
        folders: &["cifar100", "cifar-100", "cifar-100-binary"],
        files: &["train.bin", "test.bin"],
        format: Format::Cifar { records: Records { classes: 100, label_bytes: 2, most: 50_000 }, test: 1 },
    },
];

impl KnownSet {
    /// The data set of this name.
    ///
    /// # Errors
    /// [`DataError::Unknown`].
    pub fn named(name: &str) -> Result<&'static Self, DataError> {
        let unknown = || DataError::Unknown { name: name.to_owned(), known: super::KNOWN.to_vec() };
        SETS.iter().find(|set| set.name == name).ok_or_else(unknown)
    }

    /// Its files, each plain or compressed, all from the first folder that has any of them. `data_dir` itself is not
    /// looked in if it is named after another data set, whose files may have the same names.
    ///
    /// # Errors
    /// [`DataError::NoFolder`], [`DataError::Missing`].
    pub fn find(&self, data_dir: Option<&Path>) -> Result<Vec<PathBuf>, DataError> {
        let Some(data_dir) = data_dir else {
            return Err(DataError::NoFolder { name: self.name.to_owned(), files: self.files.to_vec() });
        };
        let mut folders: Vec<PathBuf> = self.folders.iter().map(|folder| data_dir.join(folder)).collect();
        let mut others = SETS.iter().filter(|other| other.name != self.name);
        if !others.any(|other| other.folders.iter().any(|folder| data_dir.ends_with(folder))) {
            folders.push(data_dir.to_owned());
        }
        let in_folder = |folder: &Path, file: &str| {
            let mut paths = compressed::ENDINGS.iter().map(|ending| folder.join(format!("{file}{ending}")));
            paths.find(|path| path.is_file())
        };
        let with_files = folders.iter().find(|folder| self.files.iter().any(|file| in_folder(folder, file).is_some()));
        let searched = with_files.map_or(folders.clone(), |folder| vec![folder.clone()]);
        let find = |file: &&'static str| {
            let found = searched.iter().find_map(|folder| in_folder(folder, file));
            let (name, searched) = (self.name.to_owned(), searched.clone());
            found.ok_or(DataError::Missing { name, file, searched })
        };
        self.files.iter().map(find).collect()
    }
}
