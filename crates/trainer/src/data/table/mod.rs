//! Data of one's own: a table, or arrays of numbers.
//!
//! | file | samples |
//! | --- | --- |
//! | `.csv`, `.tsv`, `.txt`, also `.gz` or `.xz` | a line each, columns by the header's names |
//! | `.npy` of two dimensions | a row each, columns named 0, 1, 2, … |
//! | `.npz`, `.safetensors` | of the arrays `x`: `[n, features]`, `[n, height, width]` or `[n, channels, height, width]`; `y` has their targets, and `x_test` and `y_test` are the test set, if they are there |
//!
//! An `.npz` or `.safetensors` file without an array `x`, whose arrays are all of one dimension and as long as each other, is
//! a table with the arrays as columns.
//!
//! What a target is follows from the loss: a class by its name or number, numbers, or labels (columns of 0 and 1, or one column
//! of names such as `red;round`).

mod arrays;
mod columns;
pub(crate) mod csv;
mod error;
mod options;
mod samples;
mod targets;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use super::dataset::{Dataset, Inputs, Split};
use super::error::DataError;

use self::arrays::ArrayFile;
use self::csv::{Column, CsvTable, MOST_WORDS};
use self::samples::{Read, columns_of, outputs, places};
use self::targets::Known;

pub(crate) use self::targets::class_names;
pub use columns::{Feature, Missing, TableColumns};
pub use error::TableError;
pub use options::TableOptions;

/// The name of the data set that is a table.
pub const TABLE: &str = "table";

/// What a model knows of the table that it was trained on.
#[derive(Debug, Clone, Copy)]
pub struct Trained<'a> {
    /// What the columns became, if there were columns.
    pub columns: Option<&'a TableColumns>,
    /// The names of its classes or labels.
    pub class_names: Option<&'a [String]>,
}

/// A file of samples.
enum Source {
    Csv(CsvTable),
    Arrays(ArrayFile),
}

impl Source {
    fn read(path: &Path) -> Result<Self, DataError> {
        match kind_of(path) {
            Some(Kind::Text) => CsvTable::read(path).map(Self::Csv),
            Some(Kind::Arrays) => ArrayFile::read(path).map(Self::Arrays).map_err(in_file(path)),
            None => Err(in_file(path)(TableError::Ending)),
        }
    }
}

enum Kind {
    Text,
    Arrays,
}

/// What a file holds by its name's ending; none if it is no table.
fn kind_of(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or(name.strip_suffix(".xz")).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "csv" | "tsv" | "txt" => Some(Kind::Text),
        "npy" | "npz" | "safetensors" => Some(Kind::Arrays),
        _ => None,
    }
}

/// Whether a file is a table by its name.
pub fn is_table(path: &Path) -> bool {
    kind_of(path).is_some()
}

fn in_file(path: &Path) -> impl Fn(TableError) -> DataError {
    let file = path.to_owned();
    move |source| DataError::Table { file: file.clone(), source: Box::new(source) }
}

/// Reads a table with its test set; for a model that was `trained` on another, with that one's columns and classes.
///
/// The share that is the test set is chosen by the number of rows alone: it is the same in every run.
///
/// # Errors
/// [`DataError`] naming the file, and of a row its line.
pub fn load(options: &TableOptions, trained: Option<Trained<'_>>) -> Result<Dataset, DataError> {
    let known = Known { columns: trained.and_then(|t| t.columns), classes: trained.and_then(|t| t.class_names) };
    let first = read(options, &options.table, known, "")?;
    let known = Known { columns: first.columns.as_ref(), classes: first.classes.as_deref() };
    let test = match &options.test_table {
        Some(path) => {
            let test = read(options, path, known, "")?;
            if test.split.shape != first.split.shape {
                let [got, expected] =
                    [test.split.shape, first.split.shape].map(|shape| crate::report::dimensions(&shape));
                let expected = format!("of samples of the training table's shape, {expected}");
                return Err(in_file(path)(TableError::Shape { array: "x".to_owned(), got, expected }));
            }
            Some(test.split)
        }
        None if first.has_test => Some(read(options, &options.table, known, "_test")?.split),
        None => None,
    };
    let (train, test) = match test {
        Some(test) => (first.split, test),
        None => first.split.share(options.test_fraction)?,
    };
    Ok(Dataset {
        name: TABLE.to_owned(),
        classes: first.outputs,
        shape: train.shape,
        train: Arc::new(train),
        validation: None,
        test: Arc::new(test),
        table: first.columns.map(Arc::new),
        class_names: first.classes,
        target_scale: None,
        alphabet: None,
        numbering: None,
    })
}

/// The inputs of a table for a model that was trained on such ones, `[sample][input]`, and their shape.
///
/// # Errors
/// As [`load`].
pub fn read_inputs(path: &Path, columns: Option<&TableColumns>) -> Result<([usize; 3], Vec<f32>), DataError> {
    match (Source::read(path)?, columns) {
        (Source::Csv(table), Some(columns)) => {
            let values = encode(&table, columns).map_err(in_file(path))?;
            Ok(([1, 1, columns.inputs()], values))
        }
        (Source::Csv(table), None) => {
            // A model of arrays: all columns, in their order.
            let features = table.names.iter().map(|name| Feature { name: name.clone(), words: None }).collect();
            let columns = TableColumns { features, targets: vec![], missing: Missing::Mean };
            let values = encode(&table, &columns).map_err(in_file(path))?;
            Ok(([1, 1, columns.inputs()], values))
        }
        (Source::Arrays(file), columns) => file.inputs(columns).map_err(in_file(path)),
    }
}

fn read(options: &TableOptions, path: &Path, known: Known<'_>, suffix: &str) -> Result<Read, DataError> {
    match Source::read(path)? {
        Source::Csv(table) => read_csv(options, &table, known),
        Source::Arrays(file) => file.read_samples(options, known, suffix),
    }
    .map_err(in_file(path))
}

fn read_csv(options: &TableOptions, table: &CsvTable, known: Known<'_>) -> Result<Read, TableError> {
    let columns = match known.columns {
        Some(columns) => columns.clone(),
        None => columns_of(options, &table.names, |columns| words_of(table, columns))?,
    };
    let values = encode(table, &columns)?;
    let places = places(&table.names, &columns.targets)?;
    let (targets, classes) = targets::of_columns(options.loss, table, &places, known.classes)?;
    let split = Split { shape: [1, 1, columns.inputs()], inputs: Inputs::Floats(values), targets };
    let outputs = outputs(&split.targets, classes.as_deref());
    Ok(Read { split, outputs, columns: Some(columns), classes, has_test: false })
}

/// The words of each column that is text, sorted.
fn words_of(table: &CsvTable, columns: &[usize]) -> Result<Vec<Option<Vec<String>>>, TableError> {
    let is_text = table.text_columns(columns)?;
    let text: Vec<usize> = columns.iter().zip(&is_text).filter(|(_, is_text)| **is_text).map(|(&c, _)| c).collect();
    if text.is_empty() {
        return Ok(vec![None; columns.len()]);
    }
    let (found, _) = table.columns(&text, &vec![true; text.len()], false, MOST_WORDS)?;
    let mut sorted = found.into_iter().map(|column| {
        let Column::Words { mut words, .. } = column else { unreachable!("words were asked for") };
        words.sort();
        words
    });
    Ok(is_text.into_iter().map(|is_text| if is_text { sorted.next() } else { None }).collect())
}

/// The inputs, `[sample][input]`.
fn encode(table: &CsvTable, columns: &TableColumns) -> Result<Vec<f32>, TableError> {
    let names: Vec<String> = columns.features.iter().map(|feature| feature.name.clone()).collect();
    let places = places(&table.names, &names)?;
    let as_words: Vec<bool> = columns.features.iter().map(|feature| feature.words.is_some()).collect();
    let (found, lines) = table.columns(&places, &as_words, false, usize::MAX)?;
    let inputs = columns.inputs();
    let mut values = vec![0.0; inputs * lines.len()];
    let mut first = 0;
    for (feature, column) in columns.features.iter().zip(&found) {
        match (column, &feature.words) {
            (Column::Numbers(numbers), _) => {
                for (row, &number) in numbers.iter().enumerate() {
                    if number.is_nan() && columns.missing == Missing::Error {
                        let column = feature.name.clone();
                        return Err(TableError::Missing { line: lines[row], column, is_target: false });
                    }
                    values[row * inputs + first] = number;
                }
            }
            (Column::Words { words, rows }, known) => {
                let known = known.as_deref().unwrap_or_default();
                let place = |word: &String| known.binary_search(word).ok();
                let places: Vec<Option<usize>> = words.iter().map(place).collect();
                let unknown: Vec<&str> =
                    words.iter().zip(&places).filter(|(_, place)| place.is_none()).map(|(word, _)| &**word).collect();
                if let [word, ..] = unknown[..] {
                    let (name, count) = (&feature.name, unknown.len());
                    tracing::warn!("column {name:?}: {count} words that the model does not know, such as {word:?}");
                }
                for (row, word) in rows.iter().enumerate() {
                    match word {
                        Some(word) => {
                            if let Some(place) = places[*word as usize] {
                                values[row * inputs + first + place] = 1.0;
                            }
                        }
                        None if columns.missing == Missing::Error => {
                            let column = feature.name.clone();
                            return Err(TableError::Missing { line: lines[row], column, is_target: false });
                        }
                        // No word at all.
                        None => {}
                    }
                }
            }
        }
        first += feature.inputs();
    }
    Ok(values)
}
