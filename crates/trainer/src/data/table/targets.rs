//! The targets of a table.

use std::collections::BTreeSet;

use super::super::targets::Targets;
use super::columns::TableColumns;
use super::csv::{Column, CsvTable, Field, field};
use super::error::TableError;
use crate::task::LossKind;

/// More classes than this are no classes.
const MOST_CLASSES: usize = 1 << 16;

/// What is known from the training table, or from a model.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub columns: Option<&'a TableColumns>,
    pub classes: Option<&'a [String]>,
}

/// The targets in these columns, and the names of the classes or labels.
pub(super) fn of_columns(
    loss: LossKind,
    table: &CsvTable,
    columns: &[usize],
    known: Option<&[String]>,
) -> Result<(Targets, Option<Vec<String>>), TableError> {
    let name = |place: usize| table.names[columns[place]].clone();
    match loss {
        LossKind::CrossEntropy => {
            if columns.len() != 1 {
                return Err(TableError::OneTarget { targets: columns.len() });
            }
            let (found, lines) = table.columns(columns, &[true], true, MOST_CLASSES)?;
            let [Column::Words { words, rows }] = &found[..] else { unreachable!("words were asked for") };
            if let Some(row) = rows.iter().position(Option::is_none) {
                return Err(TableError::Missing { line: lines[row], column: name(0), is_target: true });
            }
            check_count(words.len(), rows.len(), &name(0))?;
            let names = class_names(words, known, &name(0))?;
            let numbers: Vec<u32> = words.iter().map(|word| number_of(&names, word)).collect();
            let labels = rows.iter().flatten().map(|&word| numbers[word as usize]).collect();
            Ok((Targets::Classes(labels), Some(names)))
        }
        LossKind::Mse | LossKind::Huber => {
            let (found, lines) = table.columns(columns, &vec![false; columns.len()], true, 0)?;
            let mut values = vec![0.0; columns.len() * lines.len()];
            for (place, column) in found.iter().enumerate() {
                let Column::Numbers(numbers) = column else { unreachable!("numbers were asked for") };
                for (row, &number) in numbers.iter().enumerate() {
                    if number.is_nan() {
                        return Err(TableError::Missing { line: lines[row], column: name(place), is_target: true });
                    }
                    values[row * columns.len() + place] = number;
                }
            }
            Ok((Targets::Numbers { outputs: columns.len(), values }, None))
        }
        LossKind::Bce => {
            if columns.len() == 1 && table.text_columns(columns)?[0] {
                return lists_of_names(table, columns, known);
            }
            let mut values = Vec::new();
            table.for_each(columns, |line, place, text| {
                let value = match field(text) {
                    Field::Number(value) if value == 0.0 || value == 1.0 => value,
                    Field::Missing => return Err(TableError::Missing { line, column: name(place), is_target: true }),
                    _ => {
                        return Err(TableError::Label { line, column: name(place), value: text.trim().to_owned() });
                    }
                };
                values.push(value);
                Ok(())
            })?;
            let names = (0..columns.len()).map(name).collect();
            Ok((Targets::Numbers { outputs: columns.len(), values }, Some(names)))
        }
    }
}

/// Labels as one column of names, separated by `;` or `|`. A row without a name has no label.
fn lists_of_names(
    table: &CsvTable,
    columns: &[usize],
    known: Option<&[String]>,
) -> Result<(Targets, Option<Vec<String>>), TableError> {
    let labels_of = |text: &str| -> Vec<String> {
        let parts = text.split([';', '|']).map(str::trim).filter(|label| !label.is_empty());
        parts.map(str::to_owned).collect()
    };
    let mut found = BTreeSet::new();
    table.for_each(columns, |_, _, text| {
        found.extend(labels_of(text));
        Ok(())
    })?;
    let found: Vec<String> = found.into_iter().collect();
    let names = class_names(&found, known, &table.names[columns[0]])?;
    let mut values = Vec::new();
    table.for_each(columns, |_, _, text| {
        let first = values.len();
        values.resize(first + names.len(), 0.0);
        labels_of(text).iter().for_each(|label| values[first + number_of(&names, label) as usize] = 1.0);
        Ok(())
    })?;
    Ok((Targets::Numbers { outputs: names.len(), values }, Some(names)))
}

/// Values of which most come once are no classes, but numbers.
pub(super) fn check_count(classes: usize, rows: usize, column: &str) -> Result<(), TableError> {
    match rows >= 20 && 2 * classes > rows {
        true => Err(TableError::ManyClasses { column: column.to_owned(), classes, rows }),
        false => Ok(()),
    }
}

/// The names of the classes in the order of their numbers: whole numbers by size, other words by the alphabet; or those that are
/// known, which must be all that were found.
pub(crate) fn class_names(found: &[String], known: Option<&[String]>, column: &str) -> Result<Vec<String>, TableError> {
    if let Some(known) = known {
        let new: Vec<String> = found.iter().filter(|word| !known.contains(word)).cloned().collect();
        return if new.is_empty() { Ok(known.to_vec()) } else { Err(TableError::Classes { classes: new }) };
    }
    if found.len() < 2 {
        return Err(TableError::FewClasses { column: column.to_owned(), classes: found.len() });
    }
    let mut names = found.to_vec();
    let number = |name: &String| name.parse::<i64>().ok();
    match names.iter().all(|name| number(name).is_some()) {
        true => names.sort_by_key(number),
        false => names.sort(),
    }
    Ok(names)
}

fn number_of(names: &[String], word: &str) -> u32 {
    let place = names.iter().position(|name| name == word);
    place.expect("names of classes are of all words") as u32
}
