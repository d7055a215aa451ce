//! Streaming growth of blocks: the k blocks of `dY · Xᵀ` outside a pattern with the largest Frobenius norms.
//!
//! Tiles, packing, products and selection are those of [`grow`]. Between them:
//!
//! ```text
//! for each chunk of 48 rows of a tile
//!     for each panel of the tile
//!         tile of 48 rows × panel = groups of dY · panel      in L1
//!         norms of its blocks: squares summed down the rows, then across a block's columns, in f64
//!     append the norms of free blocks, row of blocks by row of blocks, to the candidates
//! ```
//!
//! A norm is a sum in one order, whatever tile and thread: rows first, then columns. In f64 no square of a finite f32
//! overflows or vanishes. There is one candidate in `r · c` positions, so no threshold is guessed first.

use std::ops::Range;

use super::super::grow::{Best, Gradient, MOST_LANES, Ranking, VECTORS, best_of_tiles, in_order, with_rows};
use super::super::isa::{Isa, Kernel, dispatch};
use super::super::{Buffer, Cpu};
use crate::backend::GrowRequest;
use crate::{Candidate, Strips};

/// Rows of a chunk: whole groups of 6 or 12 rows and whole blocks, and with a panel of 32 columns 6 KiB.
const CHUNK_ROWS: usize = 48;

/// See [`crate::BlockSparseLinear::grow_blocks`].
pub(super) fn grow_blocks(
    cpu: &Cpu,
    block_size: [usize; 2],
    [nrows, ncols]: [usize; 2],
    request: &GrowRequest,
    pairs: &[(&Strips<Cpu>, &Strips<Cpu>)],
) -> Vec<Candidate> {
    let exclude = &*request.exclude;
    let gradient = Gradient::new(nrows, ncols, pairs);
    // There are no more candidates than this.
    let count = request.count.min(exclude.nrows() * exclude.ncols() - exclude.nnz());
    if count == 0 {
        return Vec::new();
    }
    let ranking = Ranking { ties: request.ties, ncols: exclude.ncols() as u64 };
    let fresh = |tile_columns| (Best::new(ranking, count, 0.0, tile_columns), Scratch::default());
    let list = best_of_tiles(cpu, &gradient, block_size[0], fresh, |rows, columns, (best, scratch)| {
        dispatch(cpu.isa, Scan { gradient: &gradient, block_size, request, rows, columns, scratch, best });
    });
    in_order(&list, ranking, count)
}

/// A thread's memory for a tile.
#[derive(Default)]
struct Scratch {
    /// The packed tile of X.
    panels: Buffer,
    /// The gradient of a chunk's rows and a panel's columns.
    gradient: Buffer,
    /// The norms of a chunk's blocks, `[row of blocks][block]`.
    norms: Vec<f32>,
    /// Those of one row of blocks that may be among the best, and their columns.
    scores: Vec<f32>,
    found: Vec<f32>,
}

/// Pushes what may be among the best of the blocks of some rows and columns.
struct Scan<'a> {
    gradient: &'a Gradient<'a>,
    block_size: [usize; 2],
    request: &'a GrowRequest,
    rows: Range<usize>,
    columns: Range<usize>,
    scratch: &'a mut Scratch,
    best: &'a mut Best,
}

impl Kernel for Scan<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        with_rows!(I, self.rows.len(), scan(isa, self))
    }
}

#[inline(always)]
fn scan<I: Isa, const ROWS: usize>(isa: I, task: Scan<'_>) {
    const { assert!(CHUNK_ROWS.is_multiple_of(ROWS) && CHUNK_ROWS.is_multiple_of(16)) };
    let Scan { gradient, block_size: [r, c], request, rows, columns, scratch, best } = task;
    let Scratch { panels: packed, gradient: tile, norms, scores, found } = scratch;
    let width = VECTORS * I::LANES;
    let lanes = gradient.lanes;
    let panels = gradient.pack_tile(isa, columns.clone(), packed);
    tile.resize(CHUNK_ROWS * width);
    let (first_row, first_column, across) = (rows.start / r, columns.start / c, columns.len().div_ceil(c));
    best.list.tiles.push((best.list.scores.len(), [first_row as u32, first_column as u32]));
    for start in rows.clone().step_by(CHUNK_ROWS) {
        let chunk = start..(start + CHUNK_ROWS).min(rows.end);
        norms.resize(chunk.len().div_ceil(r) * across, 0.0);
        for panel in 0..panels {
            let x = &packed[panel * width * lanes..][..width * lanes];
            let mut next = chunk.start;
            while next < chunk.end {
                // The last group of all overlaps the one before and leaves its rows alone.
                let first = next.min(rows.end - ROWS);
                let sums = gradient.product::<I, ROWS>(isa, first, x);
                for (sums, row) in sums.into_iter().zip(first..).skip(next - first) {
                    let to = &mut tile[(row - chunk.start) * width..][..width];
                    for (v, sum) in sums.into_iter().enumerate() {
                        // SAFETY: `to` has the floats of VECTORS vectors.
                        unsafe { isa.store(to.as_mut_ptr().add(v * I::LANES), sum) };
                    }
                }
                next = first + ROWS;
            }
            // What stands behind the last column of all is no part of a block.
            let inside = width.min(columns.len() - panel * width);
            for (norms, block) in norms.chunks_exact_mut(across).zip(tile[..chunk.len() * width].chunks(r * width)) {
                let to = &mut norms[panel * width / c..][..inside.div_ceil(c)];
                block_norms(block, width, inside, c, to);
            }
        }
        for (norms, row) in norms.chunks_exact(across).zip(chunk.start / r..) {
            let excluded = request.exclude.row(row);
            let before = excluded.partition_point(|&column| (column as usize) < first_column);
            let mut excluded = excluded[before..].iter().map(|&column| column as usize - first_column).peekable();
            scores.clear();
            found.clear();
            for (column, &norm) in norms.iter().enumerate() {
                if excluded.next_if_eq(&column).is_none() && norm >= best.cut.score {
                    scores.push(norm);
                    found.push(column as f32);
                }
            }
            best.push(scores, row - first_row, found);
        }
    }
}

/// The norms of the blocks of some rows of `width` floats, of which the first `inside` count.
#[inline(always)]
fn block_norms(rows: &[f32], width: usize, inside: usize, block_columns: usize, norms: &mut [f32]) {
    let mut squares = [0.0f64; VECTORS * MOST_LANES];
    let squares = &mut squares[..width];
    for row in rows.chunks_exact(width) {
        for (sum, &value) in squares.iter_mut().zip(row) {
            *sum += f64::from(value) * f64::from(value);
        }
    }
    for (norm, squares) in norms.iter_mut().zip(squares[..inside].chunks(block_columns)) {
        // The maximum makes a NaN 0: a step whose gradient is NaN is reported elsewhere.
        *norm = (squares.iter().sum::<f64>().sqrt() as f32).max(0.0);
    }
}
