//! Tables as text: a header, and a line a sample.
//!
//! Columns are separated by the one of `,`, `;`, tab and `|` that the header has most of. A byte-order mark, quotes, any line
//! end and compression with gzip or xz are read. A field that is empty, or NA, N/A, NaN, null or ?, is missing.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use super::super::compressed;
use super::super::error::DataError;
use super::error::TableError;
use crate::formats::unfold::Allowance;

/// More different words make no sense as inputs, each of which would be nearly always 0.
pub(super) const MOST_WORDS: usize = 1000;

/// The text of a table.
#[derive(Debug)]
pub(crate) struct CsvTable {
    bytes: Vec<u8>,
    delimiter: u8,
    pub names: Vec<String>,
}

/// A column's values with their lines.
#[derive(Debug)]
pub(crate) enum Column {
    /// Numbers; NaN where they are missing.
    Numbers(Vec<f32>),
    /// Which of the words each row has, in the order in which they first come; `None` where it is missing.
    Words { words: Vec<String>, rows: Vec<Option<u32>> },
}

/// A number, text or nothing.
pub(super) enum Field {
    Number(f32),
    Text,
    Missing,
}

/// What a field is; an infinite number is text.
pub(super) fn field(text: &str) -> Field {
    let text = text.trim();
    if text.is_empty() || matches!(text, "NA" | "N/A" | "NaN" | "nan" | "null" | "NULL" | "?") {
        return Field::Missing;
    }
    match text.parse::<f32>() {
        Ok(number) if number.is_finite() => Field::Number(number),
        _ => Field::Text,
    }
}

impl CsvTable {
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let fail = |source| DataError::Table { file: path.to_owned(), source: Box::new(source) };
        let held = compressed::read(path)?;
        compressed::check_kind(path, &held)?;
        let mut bytes = Vec::new();
        compressed::unfold(&held, &mut Allowance::new(held.len() as u64))
            .read_to_end(&mut bytes)
            .map_err(|source| DataError::Io { file: path.to_owned(), source })?;
        drop(held);
        if bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        let header = bytes.split(|&byte| matches!(byte, b'\n' | b'\r')).find(|line| !line.is_empty()).unwrap_or(b"");
        let count = |delimiter: &u8| header.iter().filter(|byte| *byte == delimiter).count();
        // The last of equals wins: the comma.
        let delimiter = *b"|\t;,".iter().max_by_key(|delimiter| count(delimiter)).expect("there are four");
        let mut table = Self { bytes, delimiter, names: vec![] };
        let mut reader = table.reader();
        let header = reader.headers().map_err(|error| fail(TableError::Csv(explained(&error))))?;
        let names: Vec<String> = header.iter().map(|name| name.trim().to_owned()).collect();
        drop(reader);
        for (i, column) in names.iter().enumerate() {
            if names[..i].contains(column) {
                return Err(fail(TableError::Twice { column: column.clone() }));
            }
        }
        table.names = names;
        Ok(table)
    }

    fn reader(&self) -> csv::Reader<&[u8]> {
        csv::ReaderBuilder::new().delimiter(self.delimiter).from_reader(&self.bytes[..])
    }

    /// Calls `f(line, column's place in wanted, text)` for each field of these columns.
    pub fn for_each(
        &self,
        wanted: &[usize],
        mut f: impl FnMut(u64, usize, &str) -> Result<(), TableError>,
    ) -> Result<usize, TableError> {
        let mut reader = self.reader();
        let mut record = csv::ByteRecord::new();
        let mut rows = 0;
        while reader.read_byte_record(&mut record).map_err(|error| TableError::Csv(explained(&error)))? {
            let line = record.position().map_or(0, csv::Position::line);
            for (place, &column) in wanted.iter().enumerate() {
                let text = std::str::from_utf8(&record[column])
                    .map_err(|_| TableError::Csv(format!("line {line}: the text is not UTF-8")))?;
                f(line, place, text)?;
            }
            rows += 1;
        }
        if rows == 0 { Err(TableError::Empty) } else { Ok(rows) }
    }

    /// Whether each of these columns has a field that is text.
    pub fn text_columns(&self, columns: &[usize]) -> Result<Vec<bool>, TableError> {
        let mut is_text = vec![false; columns.len()];
        self.for_each(columns, |_, place, text| {
            is_text[place] |= matches!(field(text), Field::Text);
            Ok(())
        })?;
        Ok(is_text)
    }

    /// The values of columns, as numbers or, where `as_words` says so, as words.
    pub fn columns(
        &self,
        columns: &[usize],
        as_words: &[bool],
        is_target: bool,
        most_words: usize,
    ) -> Result<(Vec<Column>, Vec<u64>), TableError> {
        let mut found: Vec<Column> = as_words
            .iter()
            .map(|&words| match words {
                true => Column::Words { words: vec![], rows: vec![] },
                false => Column::Numbers(vec![]),
            })
            .collect();
        let mut numbers: Vec<HashMap<String, u32>> = vec![HashMap::new(); columns.len()];
        let mut lines = Vec::new();
        self.for_each(columns, |line, place, text| {
            if place == 0 {
                lines.push(line);
            }
            let column = || self.names[columns[place]].clone();
            match (&mut found[place], field(text)) {
                (Column::Numbers(values), Field::Number(number)) => values.push(number),
                (Column::Numbers(values), Field::Missing) => values.push(f32::NAN),
                (Column::Numbers(_), Field::Text) => {
                    let value = text.trim().to_owned();
                    return Err(match value.parse::<f64>() {
                        Ok(_) => TableError::Infinite { line, column: column(), value },
                        Err(_) => TableError::Text { line, column: column(), value, is_target },
                    });
                }
                (Column::Words { rows, .. }, Field::Missing) => rows.push(None),
                (Column::Words { words, rows }, _) => {
                    let text = text.trim();
                    let number = match numbers[place].get(text) {
                        Some(&number) => number,
                        None if words.len() >= most_words => {
                            return Err(TableError::Words { column: column(), most: most_words });
                        }
                        None => {
                            let number = words.len() as u32;
                            words.push(text.to_owned());
                            numbers[place].insert(text.to_owned(), number);
                            number
                        }
                    };
                    rows.push(Some(number));
                }
            }
            Ok(())
        })?;
        Ok((found, lines))
    }
}

/// What is wrong with the text, and in which line.
fn explained(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            format!("line {line}: {len} fields; the header has {expected_len}")
        }
        csv::ErrorKind::Utf8 { pos, .. } => {
            let line = pos.as_ref().map_or(0, csv::Position::line);
            format!("line {line}: the text is not UTF-8")
        }
        _ => error.to_string(),
    }
}
