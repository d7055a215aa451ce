//! What can be wrong with a data set.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;

use super::picture::PictureError;

/// Why a data set could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No data set has this name.
    #[error("data: there is no data set {name:?}; the known ones are {}", known.join(", "))]
    Unknown {
        /// The name asked for.
        name: String,
        /// Every name that exists.
        known: Vec<&'static str>,
    },
    /// The data set is not embedded, and no folder was given.
    #[error(
        "data: {name} is read from a folder, and none was given; use --data-dir DIR or the environment variable \
         RIGL_DATA_DIR, where {}",
        match files.as_slice() {
            [] => "DIR holds train/CLASS/*.jpg and val/CLASS/*.jpg (also .jpeg and .png)".to_owned(),
            files => format!("DIR or DIR/{name} holds {} (each also as .gz or .xz)", files.join(", ")),
        }
    )]
    NoFolder {
        /// The data set.
        name: String,
        /// The files that are looked for.
        files: Vec<&'static str>,
    },
    /// The folder does not have the files.
    #[error("data: {name}: no {file} (or .gz, .xz) in {}", list(searched))]
    Missing {
        /// The data set.
        name: String,
        /// The file that is missing.
        file: &'static str,
        /// The folders where it was looked for.
        searched: Vec<PathBuf>,
    },
    /// The file could not be read or decompressed.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file does not begin as an IDX file of this kind does.
    #[error("{}: begins with {got:#010x}; {what} in the IDX format begin with {expected:#010x}", file.display())]
    Magic {
        /// The file.
        file: PathBuf,
        /// What the file should hold.
        what: &'static str,
        /// Its first four bytes.
        got: u32,
        /// What they should be.
        expected: u32,
    },
    /// The sizes in the header are impossible.
    #[error("{}: the header says {got:?}; every dimension must be at least 1 and their product a size that fits memory", file.display())]
    Dimensions {
        /// The file.
        file: PathBuf,
        /// The dimensions in the header.
        got: Vec<u32>,
    },
    /// The file ends before its header says.
    #[error("{}: ends at byte {at} of {expected} (decompressed)", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Bytes there are.
        at: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The file goes on after what its header announces.
    #[error("{}: goes on after the {expected} bytes (decompressed) that its header announces", file.display())]
    Trailing {
        /// The file.
        file: PathBuf,
        /// Bytes there should be.
        expected: u64,
    },
    /// A record of a file without a header is not whole.
    #[error("{}: record {record} ends after {found} of {expected} bytes (decompressed)", file.display())]
    Record {
        /// The file.
        file: PathBuf,
        /// Which record.
        record: usize,
        /// Bytes there are of it.
        found: usize,
        /// Bytes of a whole one.
        expected: usize,
    },
    /// A file without a header has more records than the data set has.
    #[error("{}: goes on after {most} records, which are all there should be", file.display())]
    Records {
        /// The file.
        file: PathBuf,
        /// Records there may be.
        most: usize,
    },
    /// Images and labels do not belong together.
    #[error("{}: {labels} labels for {images} images; there must be one for each", file.display())]
    Count {
        /// The file with the labels.
        file: PathBuf,
        /// Labels in it.
        labels: usize,
        /// Images beside it.
        images: usize,
    },
    /// A label is no class.
    #[error("{}: label {index} is {got}; it must be below the number of classes, {classes}", file.display())]
    Label {
        /// The file.
        file: PathBuf,
        /// Which label.
        index: usize,
        /// Its value.
        got: u8,
        /// Number of classes.
        classes: usize,
    },
    /// Test images have another size than training images.
    #[error("{}: images of {got:?} pixels; those of the training set have {expected:?}", file.display())]
    ImageSize {
        /// The file.
        file: PathBuf,
        /// Height and width in it.
        got: (usize, usize),
        /// Height and width of the training images.
        expected: (usize, usize),
    },
    /// The folder of pictures has no such part.
    #[error("data: image-folder: no folder {folder} in {}; pictures lie in {folder}/CLASS/", data_dir.display())]
    Folder {
        /// The data folder.
        data_dir: PathBuf,
        /// The folder that is missing.
        folder: &'static str,
    },
    /// A part of a folder of pictures has no classes.
    #[error("{}: has no folder; each class must have one, with .jpg, .jpeg or .png files in it", folder.display())]
    NoClasses {
        /// The folder.
        folder: PathBuf,
    },
    /// A class has no pictures.
    #[error("{}: has no .jpg, .jpeg or .png file; each class must have at least 1", folder.display())]
    EmptyClass {
        /// The folder of the class.
        folder: PathBuf,
    },
    /// Two parts of a folder of pictures have different classes.
    #[error("{} has the class folder {class:?} and {} has not; both must have the same", has.display(), lacks.display())]
    Classes {
        /// The class.
        class: OsString,
        /// The part that has it.
        has: PathBuf,
        /// The part that lacks it.
        lacks: PathBuf,
    },
    /// No picture of a split can be read.
    #[error("none of {pictures} pictures can be read; {}: {source}", file.display())]
    Pictures {
        /// How many there are.
        pictures: usize,
        /// One of them.
        file: PathBuf,
        /// What is wrong with it.
        source: PictureError,
    },
    /// A validation share that leaves one side empty.
    #[error("val-fraction: {fraction} of {samples} training samples leaves the {empty} set empty")]
    Fraction {
        /// The share asked for.
        fraction: f64,
        /// Training samples before the split.
        samples: usize,
        /// The side without samples.
        empty: &'static str,
    },
}

impl DataError {
    /// Whether the command line can mend it (a wrong name, folder or share), as opposed to a broken file.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Unknown { .. }
                | Self::NoFolder { .. }
                | Self::Missing { .. }
                | Self::Fraction { .. }
                | Self::Folder { .. }
                | Self::NoClasses { .. }
                | Self::EmptyClass { .. }
                | Self::Classes { .. }
        )
    }
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().enumerate().fold(String::new(), |mut text, (index, folder)| {
        let separator = if index == 0 { "" } else { " or " };
        let _ = write!(text, "{separator}{}", folder.display());
        text
    })
}
