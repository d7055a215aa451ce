//! Samples in arrays.

use std::path::Path;

use super::super::dataset::{Inputs, Split};
use super::super::targets::Targets;
use super::columns::{Feature, Missing, TableColumns};
use super::error::TableError;
use super::options::TableOptions;
use super::samples::{Read, columns_of, outputs, places};
use super::targets::{Known, check_count, class_names};
use crate::formats::arrays::{NumberArray, read_arrays};
use crate::report::dimensions;
use crate::task::LossKind;

/// The arrays of a file.
pub(super) struct ArrayFile {
    arrays: Vec<NumberArray>,
}

/// Arrays as the columns of a table.
struct Columns<'a> {
    names: Vec<String>,
    rows: usize,
    /// Of each column: its first element and the distance to the next.
    places: Vec<(&'a [f32], usize, usize)>,
}

const INPUTS: &str = "x";
const TARGETS: &str = "y";

impl ArrayFile {
    pub fn read(path: &Path) -> Result<Self, TableError> {
        Ok(Self { arrays: read_arrays(path).map_err(TableError::Arrays)? })
    }

    /// The file as a table: a matrix, or lists of one length.
    fn columns(&self) -> Option<Columns<'_>> {
        if let [array] = &self.arrays[..]
            && let (true, &[rows, ncols]) = (array.name.is_empty(), &array.shape[..])
        {
            let names = (0..ncols).map(|column| column.to_string()).collect();
            let places = (0..ncols).map(|column| (&array.values[..], column, ncols)).collect();
            return Some(Columns { names, rows, places });
        }
        let rows = self.arrays.first()?.values.len();
        let is_list = |array: &NumberArray| array.shape == [rows] && array.name != INPUTS;
        self.arrays.iter().all(is_list).then(|| Columns {
            names: self.arrays.iter().map(|array| array.name.clone()).collect(),
            rows,
            places: self.arrays.iter().map(|array| (&array.values[..], 0, 1)).collect(),
        })
    }

    fn array(&self, name: &str) -> Result<&NumberArray, TableError> {
        self.arrays.iter().find(|array| array.name == name).ok_or_else(|| TableError::NoArray {
            array: name.to_owned(),
            arrays: self.arrays.iter().map(|array| array.name.clone()).collect(),
        })
    }

    /// The samples of the arrays whose names end in `suffix`.
    pub fn read_samples(&self, options: &TableOptions, known: Known<'_>, suffix: &str) -> Result<Read, TableError> {
        if let Some(table) = self.columns() {
            let columns = match known.columns {
                Some(columns) => columns.clone(),
                None => columns_of(options, &table.names, |columns| Ok(vec![None; columns.len()]))?,
            };
            let values = table.inputs(&columns)?;
            let places = places(&table.names, &columns.targets)?;
            let at = |row: usize, place: usize| table.value(row, places[place]);
            let name = |place: usize| columns.targets[place].clone();
            let (targets, classes) =
                numbers_as_targets(options.loss, table.rows, places.len(), at, name, known.classes)?;
            let split = Split { shape: [1, 1, columns.inputs()], inputs: Inputs::Floats(values), targets };
            let outputs = outputs(&split.targets, classes.as_deref());
            return Ok(Read { split, outputs, columns: Some(columns), classes, has_test: false });
        }
        let one = |given: &[String], default: &str| match given {
            [] => Ok(default.to_owned()),
            [name] => Ok(name.clone()),
            [_, second, ..] => Err(TableError::NoArray {
                array: second.clone(),
                arrays: vec!["one array of features and one of targets".to_owned()],
            }),
        };
        let (x_name, y_name) = (one(&options.features, INPUTS)?, one(&options.targets, TARGETS)?);
        let has_test = suffix.is_empty() && self.array(&format!("{x_name}_test")).is_ok();
        // As Keras names them.
        let suffix = match suffix {
            "" if self.array(&x_name).is_err() && self.array(&format!("{x_name}_train")).is_ok() => "_train",
            suffix => suffix,
        };
        let (x, y) = (self.array(&format!("{x_name}{suffix}"))?, self.array(&format!("{y_name}{suffix}"))?);
        let (samples, shape) = shape_of(x)?;
        check_finite(x, samples, options.missing)?;
        let expected = format!("[{samples}] or [{samples}, targets], as {:?} has {samples} samples", x.name);
        let columns = match y.shape[..] {
            [rows] if rows == samples => 1,
            [rows, columns] if rows == samples && columns > 0 => columns,
            _ => return Err(TableError::Shape { array: y.name.clone(), got: bracketed(&y.shape), expected }),
        };
        let at = |row: usize, place: usize| y.values[row * columns + place];
        let name = |_| y.name.clone();
        let (targets, classes) = numbers_as_targets(options.loss, samples, columns, at, name, known.classes)?;
        let split = Split { shape, inputs: Inputs::Floats(x.values.clone()), targets };
        let outputs = outputs(&split.targets, classes.as_deref());
        Ok(Read { split, outputs, columns: None, classes, has_test })
    }

    /// The inputs of a file that may have no targets.
    pub fn inputs(&self, columns: Option<&TableColumns>) -> Result<([usize; 3], Vec<f32>), TableError> {
        if let (Some(columns), Some(table)) = (columns, self.columns()) {
            return Ok(([1, 1, columns.inputs()], table.inputs(columns)?));
        }
        let x = match &self.arrays[..] {
            [only] => only,
            _ => self.array(INPUTS).or_else(|error| self.array("x_test").map_err(|_| error))?,
        };
        let (_, shape) = shape_of(x)?;
        Ok((shape, x.values.clone()))
    }
}

impl Columns<'_> {
    fn value(&self, row: usize, column: usize) -> f32 {
        let (values, first, step) = self.places[column];
        values[first + row * step]
    }

    fn inputs(&self, columns: &TableColumns) -> Result<Vec<f32>, TableError> {
        let names: Vec<String> = columns.features.iter().map(|feature: &Feature| feature.name.clone()).collect();
        let places = places(&self.names, &names)?;
        let mut values = Vec::with_capacity(self.rows * places.len());
        for row in 0..self.rows {
            for (&place, column) in places.iter().zip(&names) {
                let value = self.value(row, place);
                let is_missing = value.is_nan() && columns.missing == Missing::Error;
                if is_missing || value.is_infinite() {
                    let rule = "values must be finite; NaN counts as missing with --missing mean";
                    return Err(TableError::Value { array: column.clone(), row, value, rule });
                }
                values.push(value);
            }
        }
        if self.rows == 0 { Err(TableError::Empty) } else { Ok(values) }
    }
}

fn check_finite(x: &NumberArray, samples: usize, missing: Missing) -> Result<(), TableError> {
    let is_wrong = |value: &f32| value.is_infinite() || (value.is_nan() && missing == Missing::Error);
    match x.values.iter().position(is_wrong) {
        None => Ok(()),
        Some(at) => {
            let rule = "values must be finite; NaN counts as missing with --missing mean";
            let row = at / (x.values.len() / samples.max(1)).max(1);
            Err(TableError::Value { array: x.name.clone(), row, value: x.values[at], rule })
        }
    }
}

/// Samples, and channels, height and width of each.
fn shape_of(x: &NumberArray) -> Result<(usize, [usize; 3]), TableError> {
    let (samples, shape) = match x.shape[..] {
        [samples, features] => (samples, [1, 1, features]),
        [samples, height, width] => (samples, [1, height, width]),
        [samples, channels, height, width] => (samples, [channels, height, width]),
        _ => (0, [0; 3]),
    };
    if shape.contains(&0) {
        let expected = "[n, features], [n, height, width] or [n, channels, height, width]".to_owned();
        return Err(TableError::Shape { array: x.name.clone(), got: bracketed(&x.shape), expected });
    }
    if samples == 0 { Err(TableError::Empty) } else { Ok((samples, shape)) }
}

fn bracketed(shape: &[usize]) -> String {
    if shape.is_empty() { "[]".to_owned() } else { dimensions(shape) }
}

/// Targets that are numbers in the file.
fn numbers_as_targets(
    loss: LossKind,
    rows: usize,
    columns: usize,
    at: impl Fn(usize, usize) -> f32,
    name: impl Fn(usize) -> String,
    known: Option<&[String]>,
) -> Result<(Targets, Option<Vec<String>>), TableError> {
    let checked = |is_right: fn(f32) -> bool, rule| {
        for row in 0..rows {
            for place in 0..columns {
                let value = at(row, place);
                if !is_right(value) {
                    return Err(TableError::Value { array: name(place), row, value, rule });
                }
            }
        }
        Ok(())
    };
    let all = || (0..rows).flat_map(|row| (0..columns).map(move |place| (row, place))).map(|(r, c)| at(r, c)).collect();
    match loss {
        LossKind::CrossEntropy => {
            if columns != 1 {
                return Err(TableError::OneTarget { targets: columns });
            }
            checked(|value| value.fract() == 0.0, "a class must be a whole number")?;
            let text = |row: usize| (at(row, 0) as i64).to_string();
            let mut found: Vec<i64> = (0..rows).map(|row| at(row, 0) as i64).collect();
            found.sort_unstable();
            found.dedup();
            let found: Vec<String> = found.iter().map(i64::to_string).collect();
            check_count(found.len(), rows, &name(0))?;
            let names = class_names(&found, known, &name(0))?;
            let numbers: std::collections::HashMap<&str, u32> =
                names.iter().enumerate().map(|(number, name)| (&**name, number as u32)).collect();
            let labels = (0..rows).map(|row| numbers[&*text(row)]).collect();
            Ok((Targets::Classes(labels), Some(names)))
        }
        LossKind::Mse | LossKind::Huber => {
            checked(f32::is_finite, "a target must be finite")?;
            Ok((Targets::Numbers { outputs: columns, values: all() }, None))
        }
        LossKind::Bce => {
            checked(|value| value == 0.0 || value == 1.0, "a label must be 0 or 1")?;
            let names = match columns {
                1 => vec![name(0)],
                // Columns of a table have names, those of an array numbers.
                _ if name(0) != name(1) => (0..columns).map(name).collect(),
                _ => (0..columns).map(|column| column.to_string()).collect(),
            };
            Ok((Targets::Numbers { outputs: columns, values: all() }, Some(names)))
        }
    }
}
