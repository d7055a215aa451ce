//! A matrix of very many rows, in tiles of some thousand: the last layer of a network with a million labels, whose outputs are never
//! there all at once ([`crate::Tape::one_vs_all`]).
//!
//! Values, gradient and optimizer slots are those of the whole matrix, as in any other format. Each tile is a weight by itself, with a
//! copy of its values that is brought up to date when they have changed: 4 bytes more for each.

use std::ops::Range;
use std::sync::Arc;

use sparse_kernels::{Activations, Backend, BsrPattern, Candidate, CsrPattern, GrowRequest};

use super::dense::DenseWeight;
use super::stored::Stored;
use super::{Geometry, Pair, Weight, gathered};
use crate::Error;
use crate::error::expect_equal;

/// Rows of a tile: its logits, of a batch of 256, take 4 MB.
pub const TILE_ROWS: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct RowTiles<B: Backend> {
    geometry: Geometry,
    stored: Stored,
    values: B::Buffer,
    tiles: Vec<RowTile<B>>,
    rows: usize,
}

/// Some rows of the matrix.
#[derive(Debug)]
pub struct RowTile<B: Backend> {
    /// Which.
    pub rows: Range<usize>,
    /// Where their values are.
    pub entries: Range<usize>,
    /// They as a matrix.
    pub weight: Box<dyn Weight<B>>,
}

impl<B: Backend> RowTiles<B> {
    /// The matrix of these values, in tiles of [`TILE_ROWS`] rows. The geometry is one of a matrix.
    ///
    /// # Errors
    /// If pattern or values do not fit the geometry, or the backend is out of memory.
    pub fn new(backend: &B, geometry: Geometry, stored: Stored, values: B::Buffer) -> Result<Self, Error> {
        Self::with_rows(backend, geometry, stored, values, TILE_ROWS)
    }

    /// As [`RowTiles::new`], in tiles of so many rows, a multiple of 16.
    ///
    /// # Errors
    /// As [`RowTiles::new`].
    pub fn with_rows(
        backend: &B,
        geometry: Geometry,
        stored: Stored,
        values: B::Buffer,
        rows: usize,
    ) -> Result<Self, Error> {
        const OP: &str = "RowTiles";
        expect_equal(OP, "rows of a tile, modulo 16,", 0, if rows == 0 { 1 } else { rows % 16 })?;
        let Geometry::Linear { nrows, ncols, options } = geometry else {
            return Err(Error::Weight { kind: "convolution", what: "tiles of rows" });
        };
        let (size, nnz) = match &stored {
            Stored::Dense => ([nrows, ncols], nrows * ncols),
            Stored::Csr(pattern) => ([pattern.nrows(), pattern.ncols()], pattern.nnz()),
            Stored::Blocks(pattern) => ([pattern.nrows(), pattern.ncols()], pattern.nnz()),
        };
        expect_equal(OP, "number of rows", nrows, size[0])?;
        expect_equal(OP, "number of columns", ncols, size[1])?;
        expect_equal(OP, "number of values", nnz, backend.len(&values))?;
        let mut tiles = Vec::with_capacity(nrows.div_ceil(rows));
        for first in (0..nrows).step_by(rows) {
            let rows = first..(first + rows).min(nrows);
            let geometry = Geometry::Linear { nrows: rows.len(), ncols, options };
            let (entries, weight) = match &stored {
                Stored::Dense => {
                    let entries = rows.start * ncols..rows.end * ncols;
                    let values = backend.zeros(entries.len())?;
                    let weight: Box<dyn Weight<B>> = Box::new(DenseWeight::new(backend, values, geometry)?);
                    (entries, weight)
                }
                Stored::Csr(pattern) => {
                    let part = Arc::new(rows_of(pattern, rows.clone())?);
                    let start = pattern.row_offsets()[rows.start] as usize;
                    let values = backend.zeros(part.nnz())?;
                    (start..start + part.nnz(), geometry.csr(backend, part, values)?)
                }
                Stored::Blocks(pattern) => {
                    let [r, c] = pattern.block_size();
                    let block_rows = rows.start / r..rows.end.div_ceil(r);
                    let start = pattern.blocks().row_offsets()[block_rows.start] as usize * r * c;
                    let blocks = Arc::new(rows_of(pattern.blocks(), block_rows)?);
                    let part = BsrPattern::from_blocks(rows.len(), ncols, [r, c], blocks);
                    let part = Arc::new(part.map_err(sparse_kernels::BackendError::from)?);
                    let values = backend.zeros(part.nnz())?;
                    (start..start + part.nnz(), geometry.blocks(backend, part, values)?)
                }
            };
            tiles.push(RowTile { rows, entries, weight });
        }
        let mut weight = Self { geometry, stored, values, tiles, rows };
        weight.refresh(backend)?;
        Ok(weight)
    }
}

/// Some rows of a pattern.
fn rows_of(pattern: &CsrPattern, rows: Range<usize>) -> Result<CsrPattern, Error> {
    let offsets = &pattern.row_offsets()[rows.start..=rows.end];
    let columns = pattern.col_indices()[offsets[0] as usize..offsets[rows.len()] as usize].to_vec();
    let offsets = offsets.iter().map(|offset| offset - offsets[0]).collect();
    let part = CsrPattern::new(rows.len(), pattern.ncols(), offsets, columns);
    Ok(part.map_err(sparse_kernels::BackendError::from)?)
}

impl<B: Backend> Weight<B> for RowTiles<B> {
    fn kind(&self) -> &'static str {
        "matrix in tiles of rows"
    }

    fn geometry(&self, _: &B) -> Geometry {
        self.geometry
    }

    fn values(&self) -> &B::Buffer {
        &self.values
    }

    fn values_mut(&mut self) -> &mut B::Buffer {
        &mut self.values
    }

    fn pattern<'w>(&'w self, _: &B) -> Option<&'w Arc<CsrPattern>> {
        self.stored.pattern()
    }

    fn block_pattern<'w>(&'w self, _: &B) -> Option<&'w Arc<BsrPattern>> {
        self.stored.block_pattern()
    }

    fn row_tiles(&self) -> Option<&[RowTile<B>]> {
        Some(&self.tiles)
    }

    fn forward(&self, _: &B, _: &Activations<B>, _: &mut Activations<B>) -> Result<(), Error> {
        Err(self.lacks("product of all rows"))
    }

    fn input_grad(&self, _: &B, _: &Activations<B>, _: &mut Activations<B>) -> Result<(), Error> {
        Err(self.lacks("product of all rows"))
    }

    fn weight_grad(&self, _: &B, _: Pair<'_, B>, _: &mut B::Buffer, _: bool) -> Result<(), Error> {
        Err(self.lacks("product of all rows"))
    }

    fn grow(&self, backend: &B, request: &GrowRequest, pairs: &[Pair<'_, B>]) -> Result<Vec<Candidate>, Error> {
        self.stored.grow(backend, request, pairs)?.ok_or_else(|| self.lacks("growth"))
    }

    fn rewire(&mut self, backend: &B, topology: Arc<CsrPattern>, values: &[u32]) -> Result<(), Error> {
        let stored = self.stored.with_topology(topology)?.ok_or_else(|| self.lacks("topology"))?;
        let values = gathered(backend, &self.values, values)?;
        *self = Self::with_rows(backend, self.geometry, stored, values, self.rows)?;
        Ok(())
    }

    fn refresh(&mut self, backend: &B) -> Result<(), Error> {
        for RowTile { entries, weight, .. } in &mut self.tiles {
            backend.copy_range(&self.values, entries.start, weight.values_mut(), 0, entries.len())?;
            weight.refresh(backend)?;
        }
        Ok(())
    }

    fn plan_bytes(&self, backend: &B) -> usize {
        let of_tile = |RowTile { weight, .. }: &RowTile<B>| {
            let pattern = |rows: usize, entries: usize| size_of::<u32>() * (rows + 1 + entries);
            let of_csr = weight.pattern(backend).map_or(0, |p| pattern(p.nrows(), p.nnz()));
            let of_blocks = weight.block_pattern(backend).map_or(0, |p| pattern(p.blocks().nrows(), p.nnz_blocks()));
            let transposed = weight.transposed_values().map_or(0, |values| backend.len(values));
            let values = backend.len(weight.values()) + transposed;
            of_csr + of_blocks + size_of::<f32>() * values + weight.plan_bytes(backend)
        };
        self.tiles.iter().map(of_tile).sum()
    }
}
