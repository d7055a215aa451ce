//! Pictures in one folder, whose classes a table of text gives.
//!
//! The first column names the files, as paths from the data folder; an ending may be left out. The class is in the second
//! column, or in the one that is asked for.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::dataset::{Inputs, Split};
use super::error::DataError;
use super::picture_files::PictureFiles;
use super::table::csv::{Column, CsvTable};
use super::table::{TableError, class_names};
use super::targets::Targets;

/// The pictures that `labels` names, as inputs of `image_size` pixels each way.
///
/// # Errors
/// [`DataError`]: the table, or a picture that is not there.
pub(super) fn load(
    data_dir: &Path,
    labels: &Path,
    column: Option<&str>,
    image_size: usize,
) -> Result<(Split, Arc<[OsString]>), DataError> {
    let in_table = |source| DataError::Table { file: labels.to_owned(), source: Box::new(source) };
    let table = CsvTable::read(labels)?;
    let place = match column {
        Some(column) => table.names.iter().position(|name| name == column),
        None => Some(1).filter(|&place| place < table.names.len()),
    };
    let class_column = place.ok_or_else(|| {
        let column = column.unwrap_or("with the class (the second one)").to_owned();
        in_table(TableError::NoColumn { column, columns: table.names.clone() })
    })?;
    let places = [0, class_column];
    let (found, lines) = table.columns(&places, &[true, true], true, usize::MAX).map_err(in_table)?;
    let [Column::Words { words: files, rows: of_files }, Column::Words { words: classes, rows: of_classes }] =
        &found[..]
    else {
        unreachable!("words were asked for")
    };
    let missing = |row: usize, column: usize| {
        in_table(TableError::Missing { line: lines[row], column: table.names[column].clone(), is_target: true })
    };
    let names = class_names(classes, None, &table.names[class_column]).map_err(in_table)?;
    let numbers: Vec<u32> =
        classes.iter().map(|class| names.iter().position(|name| name == class).unwrap_or(0) as u32).collect();
    let mut split = (Vec::new(), Vec::new(), Vec::new());
    for (row, (file, class)) in of_files.iter().zip(of_classes).enumerate() {
        let file = &files[file.ok_or_else(|| missing(row, 0))? as usize];
        let class = class.ok_or_else(|| missing(row, class_column))?;
        let (name, size) = find(data_dir, file).ok_or_else(|| DataError::NoPicture {
            labels: labels.to_owned(),
            line: lines[row],
            file: data_dir.join(file),
        })?;
        split.0.push(name);
        split.1.push(size);
        split.2.push(numbers[class as usize]);
    }
    let (names_of_files, sizes_bytes, labels) = split;
    let classes: Arc<[OsString]> = names.into_iter().map(OsString::from).collect();
    let files = PictureFiles {
        folder: data_dir.to_owned(),
        classes: classes.clone(),
        in_class_folders: false,
        names: names_of_files,
        sizes_bytes,
        corrupt: Arc::default(),
    };
    let split =
        Split { shape: [3, image_size, image_size], inputs: Inputs::Files(files), targets: Targets::Classes(labels) };
    Ok((split, classes))
}

/// A picture's name with its ending, and its size in bytes.
fn find(folder: &Path, file: &str) -> Option<(Box<OsStr>, u64)> {
    ["", ".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG"].iter().find_map(|ending| {
        let name = OsString::from(format!("{file}{ending}"));
        let metadata = fs::metadata(folder.join(&name)).ok().filter(fs::Metadata::is_file)?;
        Some((name.into_boxed_os_str(), metadata.len()))
    })
}
