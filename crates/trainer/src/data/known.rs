//! The data sets that are fixed: what they hold, and the files they are read from.

use std::path::{Path, PathBuf};

use super::cifar::Records;
use super::compressed;
use super::error::DataError;
use super::svmlight::SVMLIGHT;
use super::table::TABLE;
use super::text::{TEXT, TINY_SHAKESPEARE};

/// The data set that needs no files.
pub const EMBEDDED: &str = "fashion-mnist-mini";
/// The data set that is a folder of pictures.
pub const IMAGE_FOLDER: &str = "image-folder";
/// Every name that [`load`](super::load) knows.
pub const KNOWN: [&str; 15] = [
    EMBEDDED,
    "fashion-mnist",
    "mnist",
    "cifar10",
    "cifar100",
    "emnist-balanced",
    "emnist-letters",
    "emnist-digits",
    "emnist-byclass",
    "emnist-bymerge",
    IMAGE_FOLDER,
    TABLE,
    SVMLIGHT,
    TINY_SHAKESPEARE,
    TEXT,
];

/// Whether a data set is looked for in the folder of data sets: it is not part of the program, and has no files of its own names.
pub fn is_in_folder(name: &str) -> bool {
    ![EMBEDDED, TABLE, SVMLIGHT, TINY_SHAKESPEARE, TEXT].contains(&name)
}

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
    /// Where it can be had, if it is not part of the program.
    pub home: Option<Home>,
    /// The sums of its training and test samples, see [`content_sums`](super::content_sums), if they are known.
    pub content: Option<[u128; 2]>,
    pub(super) format: Format,
}

/// Where a data set is published.
#[derive(Debug, Clone, Copy)]
pub struct Home {
    /// Address of the folder that the files are in, with `/` at its end.
    pub url: &'static str,
    /// Name and MD5 sum of each file: the set's own files, compressed, or an archive (`.tar.gz`) that has them in it.
    pub files: &'static [(&'static str, &'static str)],
}

/// How the files of a data set are read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Format {
    /// They are part of the program.
    Embedded,
    /// Images and labels of the training set, then of the test set.
    Idx {
        /// The number of the first class in the files.
        first_label: u8,
        /// Whether rows and columns of the images are swapped in the files.
        transposed: bool,
    },
    /// Batches of these records; the last `test` files are the test set.
    Cifar { records: Records, test: usize },
}

/// Images and labels of the training set, then of the test set.
pub(super) const IDX_FILES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// The MNIST family: ten classes of grey pictures.
const fn idx(name: &'static str, folders: &'static [&'static str]) -> KnownSet {
    KnownSet {
        name,
        classes: 10,
        shape: [1, 28, 28],
        samples: [60_000, 10_000],
        folders,
        files: &IDX_FILES,
        home: None,
        content: None,
        format: Format::Idx { first_label: 0, transposed: false },
    }
}

/// A part of EMNIST (Cohen et al. 2017): grey pictures of letters and digits, stored column by column.
macro_rules! emnist {
    ($part:literal, $classes:literal, $samples:expr, $first_label:literal) => {
        KnownSet {
            classes: $classes,
            samples: $samples,
            files: &[
                concat!("emnist-", $part, "-train-images-idx3-ubyte"),
                concat!("emnist-", $part, "-train-labels-idx1-ubyte"),
                concat!("emnist-", $part, "-test-images-idx3-ubyte"),
                concat!("emnist-", $part, "-test-labels-idx1-ubyte"),
            ],
            format: Format::Idx { first_label: $first_label, transposed: true },
            ..idx(concat!("emnist-", $part), &[concat!("emnist-", $part), "emnist", "EMNIST", "gzip"])
        }
    };
}

/// The names of a data set's classes as its publishers give them, where they are words; its files have numbers.
pub fn known_class_names(name: &str) -> Option<Vec<String>> {
    let names = match name {
        EMBEDDED | "fashion-mnist" => {
            ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
        }
        "cifar10" => ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
        "emnist-letters" => return Some(('A'..='Z').map(String::from).collect()),
        "emnist-byclass" => return Some(('0'..='9').chain('A'..='Z').chain('a'..='z').map(String::from).collect()),
        "emnist-balanced" | "emnist-bymerge" => {
            // Small letters that look like their capitals count as these.
            return Some(('0'..='9').chain('A'..='Z').chain("abdefghnqrt".chars()).map(String::from).collect());
        }
        _ => return None,
    };
    Some(names.map(str::to_owned).to_vec())
}

/// Every data set of images but the image folders, in the order of [`KNOWN`].
///
/// MD5 sums are those that the publishers give or that torchvision checks. Sums of contents were taken of files whose MD5
/// sums, or published means and deviations, were right.
pub static SETS: [KnownSet; 10] = [
    KnownSet {
        samples: [12_000, 2_000],
        content: Some([0x35ed_cde8_f974_4449_2971_125e_a82d_ce3c, 0x6cad_9651_cdeb_c200_89f4_4b03_e782_3b25]),
        format: Format::Embedded,
        ..idx(EMBEDDED, &[])
    },
    KnownSet {
        home: Some(Home {
            url: "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            files: &[
                ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
                ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
                ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
            ],
        }),
        content: Some([0x3c6a_ae86_c05e_891f_e6fe_44cb_2c19_f1fc, 0x78c4_e625_5bc1_e247_4181_5325_a531_4dfc]),
        ..idx("fashion-mnist", &["fashion-mnist"])
    },
    KnownSet {
        home: Some(Home {
            url: "https://ossci-datasets.s3.amazonaws.com/mnist/",
            files: &[
                ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
                ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
                ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
            ],
        }),
        content: Some([0x3925_3c58_2b86_9a18_8559_8204_e9f8_578d, 0x6404_de06_8760_acea_dd28_9000_bfda_3831]),
        ..idx("mnist", &["mnist"])
    },
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
        home: Some(Home {
            url: "https://www.cs.toronto.edu/~kriz/",
            files: &[("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")],
        }),
        content: Some([0x3020_0529_4543_3ce9_e5ff_232b_f34b_19e4, 0x7b94_13a1_ccbc_1e48_cbed_c5f1_f3a8_dd44]),
        format: Format::Cifar { records: Records { classes: 10, label_bytes: 1, most: 10_000 }, test: 1 },
    },
    KnownSet {
        name: "cifar100",
        classes: 100,
        shape: super::cifar::SHAPE,
        samples: [50_000, 10_000],
        folders: &["cifar100", "cifar-100", "cifar-100-binary"],
        files: &["train.bin", "test.bin"],
        home: Some(Home {
            url: "https://www.cs.toronto.edu/~kriz/",
            files: &[("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")],
        }),
        content: None,
        format: Format::Cifar { records: Records { classes: 100, label_bytes: 2, most: 50_000 }, test: 1 },
    },
    emnist!("balanced", 47, [112_800, 18_800], 0),
    emnist!("letters", 26, [124_800, 20_800], 1),
    emnist!("digits", 10, [240_000, 40_000], 0),
    emnist!("byclass", 62, [697_932, 116_323], 0),
    emnist!("bymerge", 47, [697_932, 116_323], 0),
];

impl KnownSet {
    /// The data set of this name.
    ///
    /// # Errors
    /// [`DataError::Unknown`].
    pub fn named(name: &str) -> Result<&'static Self, DataError> {
        let unknown = || DataError::Unknown { name: name.to_owned(), known: KNOWN.to_vec() };
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
        let with_files = folders.iter().find(|folder| self.files.iter().any(|file| in_folder(folder, file).is_some()));
        let searched = with_files.map_or(folders.clone(), |folder| vec![folder.clone()]);
        let find = |file: &&'static str| {
            let found = searched.iter().find_map(|folder| in_folder(folder, file));
            let (name, searched) = (self.name.to_owned(), searched.clone());
            found.ok_or(DataError::Missing { name, file, searched })
        };
        self.files.iter().map(find).collect()
    }

    /// Those of its files that are in a folder, plain or compressed.
    pub fn files_in(&self, folder: &Path) -> Vec<PathBuf> {
        self.files.iter().filter_map(|file| in_folder(folder, file)).collect()
    }
}

/// The file in the folder, plain or compressed.
fn in_folder(folder: &Path, file: &str) -> Option<PathBuf> {
    let names = names(file);
    let mut paths =
        names.iter().flat_map(|name| compressed::ENDINGS.map(|ending| folder.join(format!("{name}{ending}"))));
    paths.find(|path| path.is_file())
}

/// What a file of a set may be called, without an ending: IDX files are also found with a dot before `idx`.
pub(super) fn names(file: &str) -> Vec<String> {
    let dotted = file.replace("-idx", ".idx");
    if dotted == file { vec![dotted] } else { vec![file.to_owned(), dotted] }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn idx_files_with_a_dot_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let names = [
            "train-images.idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images.idx3-ubyte.gz",
            "t10k-labels.idx1-ubyte",
        ];
        let paths = names.map(|name| folder.path().join(name));
        paths.iter().for_each(|path| fs::write(path, "").unwrap());
        assert_eq!(KnownSet::named("mnist").unwrap().find(Some(folder.path())).unwrap(), paths);
        fs::write(folder.path().join("t10k-labels.idx1-ubyte.gz"), "").unwrap();
        assert_eq!(KnownSet::named("mnist").unwrap().files_in(folder.path()), paths);
    }
}
