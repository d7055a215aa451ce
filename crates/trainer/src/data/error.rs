//! What can be wrong with a data set.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::picture::PictureError;
use super::svmlight::SvmlightError;
use super::table::TableError;
use super::text::TextError;
use crate::error::{Kind, Kinded};
use crate::report::listed;

/// Why a data set could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// No data set has this name.
    #[error("data: unknown data set {name:?}; choose one of {}", known.join(", "))]
    Unknown {
        /// The requested name.
        name: String,
        /// Every name that exists.
        known: Vec<&'static str>,
    },
    /// The data set is not embedded, and no folder was given.
    #[error(
        "data: {name} needs a data folder; set --data-dir DIR or the environment variable RIGL_DATA_DIR, where {}",
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
    /// The data set is a table, and no file was given.
    #[error("data: table needs a file; give it with --table FILE")]
    NoTable,
    /// The data set is a text, and no file was given.
    #[error("data: text needs a file; give it with --text FILE")]
    NoText,
    /// A text cannot be used.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The data set is a file of samples that are lists, and none was given.
    #[error("data: svmlight needs a file; give it with --svmlight FILE")]
    NoSamples,
    /// A file of samples that are lists cannot be used.
    #[error(transparent)]
    Svmlight(#[from] SvmlightError),
    /// A table or an array is not what was asked for.
    #[error("{}: {source}", file.display())]
    Table {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: Box<TableError>,
    },
    /// The file is of another kind.
    #[error("{}: is {what}; it must be a file of the data set, plain or compressed with gzip or xz", file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The file does not start like an IDX file of this kind.
    #[error("{}: starts with {got:#010x}; {what} in the IDX format start with {expected:#010x}", file.display())]
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
    #[error("{}: the header says {got:?}; every dimension must be at least 1 and their product must fit in memory", file.display())]
    Dimensions {
        /// The file.
        file: PathBuf,
        /// The dimensions in the header.
        got: Vec<u32>,
    },
    /// The file ends earlier than its header says.
    #[error("{}: ends at byte {at} of {expected} (decompressed)", file.display())]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Its bytes.
        at: u64,
        /// Bytes there should be.
        expected: u64,
    },
    /// The file continues after what its header announces.
    #[error("{}: continues after the {expected} bytes (decompressed) that its header announces", file.display())]
    Trailing {
        /// The file.
        file: PathBuf,
        /// Bytes there should be.
        expected: u64,
    },
    /// A record of a file without a header is incomplete.
    #[error("{}: record {record} ends after {found} of {expected} bytes (decompressed)", file.display())]
    Record {
        /// The file.
        file: PathBuf,
        /// Which record.
        record: usize,
        /// Its bytes.
        found: usize,
        /// Bytes of a complete record.
        expected: usize,
    },
    /// A file without a header has more records than the data set has.
    #[error("{}: has more than {most} records", file.display())]
    Records {
        /// The file.
        file: PathBuf,
        /// The largest allowed number of records.
        most: usize,
    },
    /// The numbers of images and labels differ.
    #[error("{}: {labels} labels for {images} images; each image must have one", file.display())]
    Count {
        /// The file with the labels.
        file: PathBuf,
        /// Labels in it.
        labels: usize,
        /// Images in the other file.
        images: usize,
    },
    /// A label is not a class.
    #[error("{}: label {index} is {got}; it must be {first} to {}", file.display(), usize::from(*first) + classes - 1)]
    Label {
        /// The file.
        file: PathBuf,
        /// Which label.
        index: usize,
        /// Its value.
        got: u8,
        /// The number of the first class.
        first: u8,
        /// Number of classes.
        classes: usize,
    },
    /// Test images differ in size from training images.
    #[error("{}: images of {got:?} pixels; those of the training set have {expected:?}", file.display())]
    ImageSize {
        /// The file.
        file: PathBuf,
        /// Height and width in it.
        got: (usize, usize),
        /// Height and width of the training images.
        expected: (usize, usize),
    },
    /// The image folder has no such part.
    #[error("data: image-folder: no folder {folder} in {}; images must be in {folder}/CLASS/", data_dir.display())]
    Folder {
        /// The data folder.
        data_dir: PathBuf,
        /// The folder that is missing.
        folder: &'static str,
    },
    /// A part of an image folder has no classes.
    #[error("{}: has no folders; each class must have one, with .jpg, .jpeg or .png files", folder.display())]
    NoClasses {
        /// The folder.
        folder: PathBuf,
    },
    /// A class has no images.
    #[error("{}: has no .jpg, .jpeg or .png file, and neither do its subfolders; each class must have at least 1", folder.display())]
    EmptyClass {
        /// The folder of the class.
        folder: PathBuf,
    },
    /// Two parts of an image folder have different classes.
    #[error("{} has the class folder {class:?}, {} does not; both must have the same classes", has.display(), lacks.display())]
    Classes {
        /// The class.
        class: OsString,
        /// The part that has it.
        has: PathBuf,
        /// The part that lacks it.
        lacks: PathBuf,
    },
    /// A model does not know all classes of the data.
    #[error(
        "the data has classes that the model was not trained on: {}; classes of the model that are missing from the data: {}; name \
         the class folders as in training",
        listed(new),
        listed(missing)
    )]
    ClassNames {
        /// Classes of the data that the model does not know.
        new: Vec<String>,
        /// Classes of the model that the data does not have.
        missing: Vec<String>,
    },
    /// No image of a split can be read.
    #[error("none of the {pictures} images can be read; {}: {source}", file.display())]
    Pictures {
        /// The number of images.
        pictures: usize,
        /// One of them.
        file: PathBuf,
        /// What is wrong with it.
        source: Arc<PictureError>,
    },
    /// A picture that a table of labels names is not there.
    #[error("{}: line {line}: there is no picture {} (.jpg, .jpeg or .png)", labels.display(), file.display())]
    NoPicture {
        /// The table.
        labels: PathBuf,
        /// Where.
        line: u64,
        /// The picture.
        file: PathBuf,
    },
    /// The share of the test set leaves a side empty.
    #[error("test-fraction: {fraction} of {samples} samples leaves the {empty} set empty")]
    TestFraction {
        /// The share.
        fraction: f64,
        /// Samples before the split.
        samples: usize,
        /// The side without samples.
        empty: &'static str,
    },
    /// A validation share that leaves one side empty.
    #[error("val-fraction: {fraction} of {samples} training samples leaves the {empty} set empty")]
    Fraction {
        /// The requested share.
        fraction: f64,
        /// Training samples before the split.
        samples: usize,
        /// The side without samples.
        empty: &'static str,
    },
}

impl Kinded for DataError {
    /// Of usage if the command line can fix it (a wrong name, folder or share), as opposed to a broken file.
    fn kind(&self) -> Kind {
        match self {
            Self::Unknown { .. }
            | Self::NoFolder { .. }
            | Self::Missing { .. }
            | Self::Fraction { .. }
            | Self::Folder { .. }
            | Self::NoClasses { .. }
            | Self::EmptyClass { .. }
            | Self::Classes { .. }
            | Self::ClassNames { .. }
            | Self::NoPicture { .. }
            | Self::TestFraction { .. }
            | Self::NoTable
            | Self::NoText
            | Self::NoSamples
            | Self::Text(_) => Kind::Usage,
            Self::Svmlight(SvmlightError::Unknown { .. }) => Kind::Usage,
            Self::Table { source, .. } => match **source {
                TableError::Arrays(_) | TableError::Csv(_) => Kind::Failure,
                _ => Kind::Usage,
            },
            _ => Kind::Failure,
        }
    }
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().enumerate().fold(String::new(), |mut text, (index, folder)| {
        let separator = if index == 0 { "" } else { " or " };
        let _ = write!(text, "{separator}{}", folder.display());
        text
    })
}
