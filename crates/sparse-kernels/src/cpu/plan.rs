//! What the CPU prepares when a pattern changes: the order in which kernels walk the stored entries.
//!
//! The walk has three levels. *Row blocks* of about equal work are the unit of parallelism. *Column chunks* keep the
//! part of a strip that a row block touches within the L1 cache. In each block and chunk, the rows are *segments*
//! (row, first entry, number of entries), for kernels that run several rows in lock-step sorted by length, so that little
//! is left over.
//!
//! Entries themselves are not copied: a row's entries within a column chunk are contiguous in the canonical CSR
//! arrays, so the kernels read columns and values in place. That holds a weight at 8 bytes where a stream in plan
//! order would hold it at 8 more, and an optimizer update needs no refresh of the forward order.

use std::ops::Range;
use std::sync::Arc;

use super::Cpu;
use crate::backend::PlanOptions;
use crate::pattern::count_below;
use crate::{BackendError, CsrPattern, ShapeError, Transposed};

/// Part of one row: its entries within one column chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    /// Row of the pattern.
    pub row: u32,
    /// First entry, as a position in the pattern's columns.
    pub start: u32,
    /// Number of entries.
    pub len: u32,
}

/// The walk through one pattern.
#[derive(Debug)]
pub(super) struct Walk {
    segments: Vec<Segment>,
    /// `segments[bounds[b · chunks + c]..bounds[b · chunks + c + 1]]` are block b's rows in chunk c.
    bounds: Vec<u32>,
    /// For each block and chunk, the run of entries that a kernel will need next, to fetch while it works there.
    upcoming: Vec<[u32; 2]>,
    /// Rows of each block.
    block_rows: Vec<u32>,
    chunks: usize,
    /// Columns in all, and of each chunk but the last.
    columns: [usize; 2],
}

/// How a kernel wants its walk cut. Outputs do not depend on it: every sum runs over a row's entries in their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Bytes that a column chunk of one strip may take, to stay in L1.
    chunk_bytes: usize,
    /// Bytes that it may take to stay in L2.
    far_bytes: usize,
    /// Entries that a row should keep per chunk, where that leaves L1; a quarter of it, where that leaves L2.
    entries: f64,
    /// Entries of a row block.
    block: usize,
    /// Whether segments are sorted by length.
    by_length: bool,
}

impl Cut {
    /// For SpMM, whose tasks are blocks × strips: a block is large enough to be worth reading X's chunks again.
    ///
    /// A chunk of X stays in L2 together with the next one, which is fetched meanwhile where activations are far.
    pub fn spmm(cpu: &Cpu) -> Self {
        let strips = if cpu.isa().registers() >= 32 { 2 } else { 1 };
        Self { by_length: true, far_bytes: cpu.l2_bytes() / 4 / strips, ..Self::of(cpu, strips, 320) }
    }

    /// For SDDMM, whose tasks are blocks × chunks. It starts and ends a row at a higher price: the last group of dot products
    /// is seldom full. It does one row at a time, so that their order is free: in that of the matrix, dY, columns and dW
    /// are streams.
    pub fn sddmm(cpu: &Cpu) -> Self {
        Self::of(cpu, 2, 448)
    }

    /// A chunk of X of `strips` strips, as many as a tile works on at once, takes two thirds of L1. Below `floats / lanes`
    /// entries, starting and ending a row, with its output read and written again, costs more than reading X from L2. Wider
    /// vectors do a row in fewer cycles but get no more from L2, so they bear shorter rows.
    fn of(cpu: &Cpu, strips: usize, floats: usize) -> Self {
        let (chunk_bytes, entries) = (cpu.l1_bytes() * 2 / 3 / strips, (floats / cpu.isa().lanes()) as f64);
        Self { chunk_bytes, far_bytes: usize::MAX, entries, block: 1 << 16, by_length: false }
    }
}

/// Fewest rows of a block: sorting by length pairs rows well only among many.
const BLOCK_ROWS: usize = 64;

impl Walk {
    /// Plans the walk for strips of `strip` lanes.
    ///
    /// Chunk rule: as many columns as fit the chunk's bytes in one strip, but so many that a row keeps the entries asked for
    /// per chunk on average, as far as L2 goes, and a quarter of them beyond; one chunk if that covers the matrix.
    pub fn new(pattern: &CsrPattern, strip: usize, cut: Cut) -> Self {
        let [in_l1, in_l2] = [cut.chunk_bytes, cut.far_bytes].map(|bytes| (bytes / (strip * size_of::<f32>())) as f64);
        let for_length = cut.entries * pattern.ncols() as f64 * pattern.nrows() as f64 / pattern.nnz().max(1) as f64;
        let wanted = in_l1.max(for_length.min(in_l2)).max(for_length / 4.0).max(1.0);
        let chunks = ((pattern.ncols() as f64 / wanted).round() as usize).max(1);
        Self::with_chunks(pattern, chunks, cut.block, cut.by_length)
    }

    /// Plans a walk of so many chunks, in row blocks of about so many entries.
    pub fn with_chunks(pattern: &CsrPattern, chunks: usize, block: usize, by_length: bool) -> Self {
        let chunk_columns = pattern.ncols().div_ceil(chunks).max(1);
        let block_rows = block_rows(pattern, block, BLOCK_ROWS);
        let blocks = block_rows.len() - 1;
        let mut segments = Vec::with_capacity(pattern.nrows() * chunks);
        let mut bounds = Vec::with_capacity(blocks * chunks + 1);
        bounds.push(0);
        let mut cursors = Vec::new();
        for block in 0..blocks {
            let rows = block_rows[block] as usize..block_rows[block + 1] as usize;
            cursors.clear();
            cursors.extend(rows.clone().map(|row| pattern.row_offsets()[row]));
            for chunk in 0..chunks {
                let end_column = ((chunk + 1) * chunk_columns).min(pattern.ncols());
                let first = segments.len();
                for (cursor, row) in cursors.iter_mut().zip(rows.clone()) {
                    let rest = &pattern.col_indices()[*cursor as usize..pattern.row_offsets()[row + 1] as usize];
                    let even = rest.len() / (chunks - chunk);
                    let len = if chunk + 1 == chunks { rest.len() } else { count_below(rest, end_column, even) };
                    // The first and the last chunk list empty rows too: their outputs must be written, and pass through ReLU.
                    if len > 0 || chunk == 0 || chunk + 1 == chunks {
                        segments.push(Segment { row: row as u32, start: *cursor, len: len as u32 });
                    }
                    *cursor += len as u32;
                }
                if by_length {
                    // Longest first; equal lengths stay in row order.
                    segments[first..].sort_by_key(|s| std::cmp::Reverse(s.len));
                }
                bounds.push(segments.len() as u32);
            }
        }
        segments.shrink_to_fit();
        // A block's entries are contiguous here: each of its chunks fetches a share of the next block.
        let share = |at: usize| {
            let (block, chunk) = (at / chunks + 1, at % chunks);
            let bound = |b: usize| pattern.row_offsets()[block_rows[b.min(blocks)] as usize] as usize;
            let (start, len) = (bound(block), bound(block + 1) - bound(block));
            [(start + len * chunk / chunks) as u32, (start + len * (chunk + 1) / chunks) as u32]
        };
        let upcoming = (0..blocks * chunks).map(share).collect();
        Self { segments, bounds, upcoming, block_rows, chunks, columns: [pattern.ncols(), chunk_columns] }
    }

    /// Moves the entries to the order \[chunk\]\[block\]\[segment\], so that what a kernel reads in one block and chunk
    /// is one contiguous run: returns two arrays over the pattern's entries in that order.
    pub fn reorder(&mut self, arrays: [&[u32]; 2]) -> [Vec<u32>; 2] {
        let mut ordered = arrays.map(|array| Vec::with_capacity(array.len()));
        for chunk in 0..self.chunks {
            for block in 0..self.blocks() {
                let at = block * self.chunks + chunk;
                for s in &mut self.segments[self.bounds[at] as usize..self.bounds[at + 1] as usize] {
                    let start = ordered[0].len() as u32;
                    for (to, from) in ordered.iter_mut().zip(arrays) {
                        to.extend_from_slice(&from[s.start as usize..][..s.len as usize]);
                    }
                    s.start = start;
                }
            }
        }
        // A block and chunk is contiguous now: fetch the block's next chunk, or after the last the next block's first.
        let run = |at: usize| {
            let segments = &self.segments[self.bounds[at] as usize..self.bounds[at + 1] as usize];
            let start = segments.first().map_or(0, |s| s.start);
            [start, start + segments.iter().map(|s| s.len).sum::<u32>()]
        };
        let runs = self.blocks() * self.chunks;
        self.upcoming = (1..=runs).map(|at| if at < runs { run(at) } else { [0, 0] }).collect();
        ordered
    }

    /// Number of row blocks.
    pub fn blocks(&self) -> usize {
        self.block_rows.len() - 1
    }

    /// Number of column chunks.
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// The rows of a block.
    pub fn rows(&self, block: usize) -> Range<usize> {
        self.block_rows[block] as usize..self.block_rows[block + 1] as usize
    }

    /// The columns of a chunk.
    pub fn columns(&self, chunk: usize) -> Range<usize> {
        let [all, each] = self.columns;
        (chunk * each).min(all)..((chunk + 1) * each).min(all)
    }

    /// The segments of a block in a chunk, in a walk by length longest first. The first and the last chunk have every row of the block.
    pub fn segments(&self, block: usize, chunk: usize) -> &[Segment] {
        let at = block * self.chunks + chunk;
        &self.segments[self.bounds[at] as usize..self.bounds[at + 1] as usize]
    }

    /// [`Walk::segments`], and up to `more` of those that follow them in the walk.
    pub fn segments_and_more(&self, block: usize, chunk: usize, more: usize) -> &[Segment] {
        let at = block * self.chunks + chunk;
        let end = (self.bounds[at + 1] as usize + more).min(self.segments.len());
        &self.segments[self.bounds[at] as usize..end]
    }

    /// The run of entries to fetch while a kernel works in `block`, `chunk` and some of its `strips`. The run is shared out
    /// over the strips, so that memory is read evenly rather than all during the last.
    pub fn upcoming(&self, block: usize, chunk: usize, part: Range<usize>, strips: usize) -> Range<usize> {
        let [start, end] = self.upcoming[block * self.chunks + chunk].map(|e| e as usize);
        let at = |strip: usize| start + (end - start) * strip.min(strips) / strips;
        at(part.start)..at(part.end)
    }

    pub fn bytes(&self) -> usize {
        self.segments.capacity() * size_of::<Segment>()
            + (self.bounds.len() + 2 * self.upcoming.len() + self.block_rows.len()) * size_of::<u32>()
    }
}

/// Rows cut into blocks of about `block` entries and of `least` rows or more on average: a fixed grid of the pattern alone.
pub(super) fn block_rows(pattern: &CsrPattern, block: usize, least: usize) -> Vec<u32> {
    let (nrows, nnz) = (pattern.nrows(), pattern.nnz());
    // An empty row costs about as much as an entry or two.
    let work = |row: usize| u64::from(pattern.row_offsets()[row]) + row as u64;
    let blocks = ((nnz + nrows) / block).min(nrows / least).max(1);
    let total = work(nrows);
    let mut bounds = vec![0u32];
    for block in 1..blocks {
        let target = total * block as u64 / blocks as u64;
        let (mut low, mut high) = (*bounds.last().expect("starts with 0") as usize, nrows);
        while low < high {
            let middle = (low + high) / 2;
            if work(middle) < target { low = middle + 1 } else { high = middle }
        }
        bounds.push(low as u32);
    }
    bounds.push(nrows as u32);
    bounds
}

/// The transposed pattern in an order of its own: \[chunk\]\[block\]\[segment\] of its walk.
///
/// A chunk of the transposed columns is a band of the pattern's rows, whose entries are contiguous; so both sides of
/// the value permutation stay within one band at a time, and neither ends up waiting for far memory.
#[derive(Debug)]
pub(super) struct TransposedPlan {
    /// Column (row of the pattern) of each entry, in this plan's order.
    pub columns: Vec<u32>,
    /// Where each entry stands in the pattern, in this plan's order.
    pub permutation: Vec<u32>,
    pub walk: Walk,
}

impl TransposedPlan {
    fn new(pattern: &CsrPattern, strip: usize, cut: Cut) -> Self {
        let Transposed { pattern: transposed, permutation } = pattern.transpose();
        let mut walk = Walk::new(&transposed, strip, cut);
        let [columns, permutation] = walk.reorder([transposed.col_indices(), &permutation]);
        Self { columns, permutation, walk }
    }
}

/// A CSR pattern prepared for the CPU's kernels, see [`crate::SparseLinear::plan`].
#[derive(Debug)]
pub struct CpuPlan {
    pub(super) pattern: Arc<CsrPattern>,
    pub(super) options: PlanOptions,
    /// For SpMM.
    pub(super) walk: Walk,
    /// For SDDMM.
    pub(super) sampled_walk: Walk,
    pub(super) transposed: Option<TransposedPlan>,
}

impl CpuPlan {
    /// Strip widths the sparse kernels take: powers of two, so that a column becomes an address by a shift.
    const STRIPS: [usize; 3] = [16, 32, 64];

    #[cfg(test)]
    fn new(pattern: Arc<CsrPattern>, options: PlanOptions) -> Result<Self, BackendError> {
        Self::for_cpu(&Cpu::new(1, None)?, pattern, options)
    }

    /// Makes the three walks, in parallel.
    pub(super) fn for_cpu(cpu: &Cpu, pattern: Arc<CsrPattern>, options: PlanOptions) -> Result<Self, BackendError> {
        Self::check_strip("plan", options.strip)?;
        // An entry takes some 20 operations.
        let operations = 20 * (pattern.nnz() + pattern.nrows() + pattern.ncols()) as u64;
        let forward = || {
            let walk = Walk::new(&pattern, options.strip, Cut::spmm(cpu));
            (walk, Walk::new(&pattern, options.strip, Cut::sddmm(cpu)))
        };
        let transposed = || options.transpose.then(|| TransposedPlan::new(&pattern, options.strip, Cut::spmm(cpu)));
        let (transposed, (walk, sampled_walk)) = cpu.join(operations, transposed, forward);
        Ok(Self { pattern, options, walk, sampled_walk, transposed })
    }

    /// Whether the sparse kernels take strips of this width.
    pub(super) fn check_strip(op: &'static str, strip: usize) -> Result<(), ShapeError> {
        if Self::STRIPS.contains(&strip) {
            return Ok(());
        }
        Err(ShapeError::Rule { op, what: "strip", got: strip, rule: "16, 32 or 64 lanes for sparse products" })
    }

    pub(super) fn bytes(&self) -> usize {
        let transposed = self
            .transposed
            .as_ref()
            .map_or(0, |t| (t.permutation.len() + t.columns.len()) * size_of::<u32>() + t.walk.bytes());
        self.walk.bytes() + self.sampled_walk.bytes() + transposed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Key;
    use proptest::prelude::*;

    fn random_pattern(nrows: usize, ncols: usize, density: f32, seed: u64) -> CsrPattern {
        let key = Key::new(seed);
        let all = (0..nrows as u32).flat_map(|r| (0..ncols as u32).map(move |c| (r, c)));
        let kept = all.filter(|&(r, c)| key.uniform(u64::from(r) << 32 | u64::from(c)) < density);
        CsrPattern::from_positions(nrows, ncols, kept.collect()).unwrap()
    }

    proptest! {
        #[test]
        fn a_walk_visits_every_entry_once_and_every_row_first_and_last(
            nrows in 0usize..200, ncols in 0usize..60, density in 0.0f32..1.0, chunks in 1usize..6, seed in 0u64..1000
        ) {
            let pattern = random_pattern(nrows, ncols, density, seed);
            let walk = Walk::with_chunks(&pattern, chunks, 1 << 10, true);
            let mut seen = vec![0; pattern.nnz()];
            let (mut first, mut last) = (vec![0; nrows], vec![0; nrows]);
            for block in 0..walk.blocks() {
                for chunk in 0..walk.chunks() {
                    let segments = walk.segments(block, chunk);
                    let columns = walk.columns(chunk);
                    prop_assert!(segments.windows(2).all(|w| w[0].len >= w[1].len));
                    for s in segments {
                        prop_assert!(walk.rows(block).contains(&(s.row as usize)));
                        first[s.row as usize] += usize::from(chunk == 0);
                        last[s.row as usize] += usize::from(chunk + 1 == walk.chunks());
                        for e in s.start..s.start + s.len {
                            prop_assert!(pattern.row_range(s.row as usize).contains(&(e as usize)));
                            prop_assert!(columns.contains(&(pattern.col_indices()[e as usize] as usize)));
                            seen[e as usize] += 1;
                        }
                    }
                }
            }
            prop_assert!(seen.iter().all(|&n| n == 1));
            prop_assert!(first.iter().chain(&last).all(|&n| n == 1));
        }
    }

    #[test]
    fn blocks_balance_entries_of_uneven_rows() {
        // One row in ten is full, the rest hold one entry.
        let positions = (0..2000u32).flat_map(|r| (0..if r % 10 == 0 { 500 } else { 1 }).map(move |c| (r, c)));
        let pattern = CsrPattern::from_positions(2000, 500, positions.collect()).unwrap();
        let walk = Walk::with_chunks(&pattern, 1, 1 << 15, true);
        assert!(walk.blocks() >= 3, "{}", walk.blocks());
        let entries = |b| -> usize { walk.rows(b).map(|r| pattern.row(r).len()).sum() };
        let (least, most) =
            (0..walk.blocks()).fold((usize::MAX, 0), |(l, m), b| (l.min(entries(b)), m.max(entries(b))));
        assert!(most - least <= 1100, "{least} to {most}");
    }

    #[test]
    fn other_strips_are_refused() {
        let pattern = Arc::new(CsrPattern::full(2, 2).unwrap());
        let error = CpuPlan::new(pattern, PlanOptions { strip: 48, transpose: false }).unwrap_err();
        assert!(error.to_string().contains("48"), "{error}");
    }
}
