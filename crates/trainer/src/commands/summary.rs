//! What `rigl export` and `rigl import` say they have written.

use std::path::Path;

use serde::Serialize;

use crate::models::StoredLayer;
use crate::report::{Significant, Table, print_record, print_text};

/// The record of a model, or a part of one.
#[derive(Debug, Serialize)]
struct Record<'m> {
    event: &'static str,
    path: String,
    format: &'static str,
    layers: Vec<LayerRecord<'m>>,
    nnz: usize,
    size: usize,
    density: f64,
}

#[derive(Debug, Serialize)]
struct LayerRecord<'m> {
    name: &'m str,
    shape: [usize; 2],
    nnz: usize,
    density: f64,
}

/// Prints what is at `path` now: a record, or a table.
pub fn print(
    event: &'static str,
    path: &Path,
    format: &'static str,
    layers: &[StoredLayer],
    json: bool,
) -> crate::Result<()> {
    let density = |nnz: usize, size: usize| nnz as f64 / size as f64;
    let mut records = Vec::new();
    let mut table = Table::new(["layer", "shape", "density", "nnz"]);
    let (mut nnz, mut size) = (0, 0);
    for layer in layers {
        let shape @ [nrows, ncols] = layer.weight.shape();
        let record = LayerRecord {
            name: &layer.name,
            shape,
            nnz: layer.weight.nnz(),
            density: density(layer.weight.nnz(), nrows * ncols),
        };
        nnz += record.nnz;
        size += nrows * ncols;
        table.row([
            layer.name.clone(),
            format!("{nrows}×{ncols}"),
            Significant(record.density).to_string(),
            record.nnz.to_string(),
        ]);
        records.push(record);
    }
    if json {
        let path = path.display().to_string();
        print_record(&Record { event, path, format, layers: records, nnz, size, density: density(nnz, size) })?;
    } else {
        print_text(format_args!("{table}"))?;
        let density = Significant(density(nnz, size));
        print_text(format_args!("{nnz} of {size} weights, density {density}, are in {}", path.display()))?;
    }
    Ok(())
}
