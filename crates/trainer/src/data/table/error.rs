//! What can be wrong with a table.

use crate::formats::MatrixFileError;
use crate::report::listed;

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// A column that was asked for is not there.
    #[error("no column {column:?}; the columns are {}", listed(columns))]
    NoColumn {
        /// What was asked for.
        column: String,
        /// What there is.
        columns: Vec<String>,
    },
    /// Two columns have one name.
    #[error("the header names the column {column:?} twice")]
    Twice {
        /// The name.
        column: String,
    },
    /// No line behind the header.
    #[error("there are no rows")]
    Empty,
    /// Nothing to learn from.
    #[error("no column is left for the inputs; the columns are {}", listed(columns))]
    NoFeatures {
        /// What there is.
        columns: Vec<String>,
    },
    /// A column is an input and a target.
    #[error("the column {column:?} is a target and a feature")]
    Both {
        /// The column.
        column: String,
    },
    /// No target is given.
    #[error("no target is given; choose with --target one of the columns {}", listed(columns))]
    NoTarget {
        /// What there is.
        columns: Vec<String>,
    },
    /// Several targets for a loss of one class.
    #[error(
        "{targets} targets; --loss cross-entropy needs one column of classes (several labels a sample: --loss bce)"
    )]
    OneTarget {
        /// How many there are.
        targets: usize,
    },
    /// Text where a number is needed.
    #[error("line {line}: {value:?} in the column {column:?} is not a number{}", if *is_target { "; targets of --loss mse and huber must be numbers" } else { "; make text columns inputs with --one-hot, or leave this one out with --drop" })]
    Text {
        /// Where.
        line: u64,
        /// The column.
        column: String,
        /// What is there.
        value: String,
        /// Whether the column is a target.
        is_target: bool,
    },
    /// A number that is infinite.
    #[error("line {line}: the column {column:?} has {value}, which is beyond the range of f32")]
    Infinite {
        /// Where.
        line: u64,
        /// The column.
        column: String,
        /// What is there.
        value: String,
    },
    /// Nothing where a value is needed.
    #[error("line {line}: the column {column:?} has no value{}", if *is_target { "; a target needs one in every row" } else { "; replace missing values by the mean with --missing mean, or leave the column out with --drop" })]
    Missing {
        /// Where.
        line: u64,
        /// The column.
        column: String,
        /// Whether the column is a target.
        is_target: bool,
    },
    /// A label that is neither 0 nor 1.
    #[error(
        "line {line}: the column {column:?} has {value:?}; labels of --loss bce are 0 or 1, or one column of names such as \"red;round\""
    )]
    Label {
        /// Where.
        line: u64,
        /// The column.
        column: String,
        /// What is there.
        value: String,
    },
    /// A column of text with too many words.
    #[error("the column {column:?} has more than {most} different words; leave it out with --drop")]
    Words {
        /// The column.
        column: String,
        /// The most that are taken.
        most: usize,
    },
    /// Classes that the training table does not have.
    #[error("classes that the training table does not have: {}", listed(classes))]
    Classes {
        /// Their names.
        classes: Vec<String>,
    },
    /// So many classes that they are none.
    #[error(
        "the column {column:?} has {classes} different values in {rows} rows, too many to be classes; predict numbers with --loss mse"
    )]
    ManyClasses {
        /// The column.
        column: String,
        /// How many different values.
        classes: usize,
        /// In how many rows.
        rows: usize,
    },
    /// Too few classes.
    #[error("the column {column:?} has {classes} classes; a classification needs at least 2")]
    FewClasses {
        /// The column.
        column: String,
        /// How many.
        classes: usize,
    },
    /// The text is no CSV.
    #[error("{0}")]
    Csv(String),
    /// The file cannot be read as arrays.
    #[error(transparent)]
    Arrays(MatrixFileError),
    /// An array that was asked for is not there.
    #[error("no array {array:?}; the arrays are {}", listed(arrays))]
    NoArray {
        /// What was asked for.
        array: String,
        /// What there is.
        arrays: Vec<String>,
    },
    /// An array of another shape than needed.
    #[error("the array {array:?} has the shape {got}; it must be {expected}")]
    Shape {
        /// The array.
        array: String,
        /// Its shape.
        got: String,
        /// What it must be.
        expected: String,
    },
    /// A class number that is no whole number.
    #[error("the array {array:?} has {value} in row {row}; {rule}")]
    Value {
        /// The array.
        array: String,
        /// The row, from 0.
        row: usize,
        /// What is there.
        value: f32,
        /// What it must be.
        rule: &'static str,
    },
    /// An ending that is not known.
    #[error("a table is .csv, .tsv, .npy, .npz or .safetensors; a text table may be compressed as .gz or .xz")]
    Ending,
}
