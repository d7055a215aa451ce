//! Which connections exist: drop, grow and rewire, as pure functions of patterns.
//!
//! One update of one layer (Algorithm 1 of the paper; google-research/rigl, `rigl/sparse_optimizers_base.py`):
//!
//! ```text
//! kept    = all stored entries but the `n` of smallest magnitude          select_kept
//! grown   = `n` positions outside kept, by gradient or at random          the backend's growth, random_growth
//! pattern = kept ∪ grown, with a map from new entries to old ones         rewire
//! ```
//!
//! A position that is dropped and grown in the same update is an entry that stays: it keeps its value and optimizer
//! slots.
//!
//! [`prune_by_magnitude`] makes a sparse layer of a finished dense one. It ranks entries as dropping does.
//!
//! # Where this departs from the authors' code
//!
//! The code ranks all positions with a little noise on them, so that a weight below the noise can lose to an empty
//! position, whose stale value then revives. Here only stored entries are ranked, and there are no stale values. Of
//! equal magnitudes the entry with the higher index is dropped.
//!
//! # Cost
//!
//! Everything is O(nnz), with a logarithm where something is sorted. No array has the size of the dense matrix.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;
use sparse_kernels::random::Key;
use sparse_kernels::{Csr, CsrPattern, FormatError};
use thiserror::Error;

/// Arguments that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// More entries than positions.
    #[error("a matrix of {nrows}×{ncols} has no room for {nnz} entries")]
    NoRoom {
        /// Rows of the matrix.
        nrows: usize,
        /// Its columns.
        ncols: usize,
        /// Entries asked for.
        nnz: usize,
    },
    /// More entries to drop than there are.
    #[error("select_kept: cannot drop {drop_count} of {nnz} entries")]
    DropCount {
        /// Entries to drop.
        drop_count: usize,
        /// Entries there are.
        nnz: usize,
    },
    /// More entries to keep than there are.
    #[error("prune_by_magnitude: cannot keep {keep_count} of {nnz} entries")]
    KeepCount {
        /// Entries to keep.
        keep_count: usize,
        /// Entries there are.
        nnz: usize,
    },
    /// Values or marks of another pattern.
    #[error("{op}: {what} has {got} entries, the pattern {expected}")]
    Length {
        /// The operation.
        op: &'static str,
        /// The argument.
        what: &'static str,
        /// Entries of the pattern.
        expected: usize,
        /// Entries of the argument.
        got: usize,
    },
    /// A grown position exists.
    #[error("rewire: ({row}, {column}) cannot be grown, because it is kept")]
    GrownKept {
        /// Row of the position.
        row: u32,
        /// Its column.
        column: u32,
    },
    /// A position is grown twice.
    #[error("rewire: ({row}, {column}) is grown twice")]
    GrownTwice {
        /// Row of the position.
        row: u32,
        /// Its column.
        column: u32,
    },
    /// A grown position is not in the matrix.
    #[error("rewire: ({row}, {column}) is outside a matrix of {nrows}×{ncols}")]
    GrownOutside {
        /// Row of the position.
        row: u32,
        /// Its column.
        column: u32,
        /// Rows of the matrix.
        nrows: usize,
        /// Its columns.
        ncols: usize,
    },
    /// Sizes beyond the format's limits.
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// In an entry map: this entry was not there before.
const NEWCOMER: u32 = u32::MAX;

/// A pattern of exactly `nnz` entries, every such pattern being equally likely.
///
/// # Errors
/// If the matrix has fewer than `nnz` positions, or a size does not fit 32-bit indices.
///
/// # Cost
/// O(nrows + nnz log nnz) time and O(nrows + nnz) memory, whatever the number of positions.
///
/// ```
/// use rigl::topology::random_pattern;
/// use sparse_kernels::random::Key;
/// let key = Key::new(1).with_name("layer");
/// let pattern = random_pattern(300, 784, 23_520, key)?;
/// assert_eq!(pattern.nnz(), 23_520);
/// assert_eq!(pattern, random_pattern(300, 784, 23_520, key)?);
/// # Ok::<(), rigl::TopologyError>(())
/// ```
pub fn random_pattern(nrows: usize, ncols: usize, nnz: usize, key: Key) -> Result<CsrPattern, TopologyError> {
    let positions = nrows as u128 * ncols as u128;
    if nnz as u128 > positions {
        return Err(TopologyError::NoRoom { nrows, ncols, nnz });
    }
    let max = u64::from(u32::MAX) - 1;
    for (what, size) in [("nrows", nrows), ("ncols", ncols), ("nnz", nnz)] {
        if size as u64 > max {
            return Err(FormatError::TooLarge { what, got: size as u64, max }.into());
        }
    }
    // Both sizes fit 32 bits, so their product fits 64.
    let chosen = sample_sorted(positions as u64, nnz, key);
    let mut row_offsets = vec![0u32; nrows + 1];
    let mut col_indices = Vec::with_capacity(nnz);
    for position in chosen {
        row_offsets[(position / ncols as u64) as usize + 1] += 1;
        col_indices.push((position % ncols as u64) as u32);
    }
    for row in 0..nrows {
        row_offsets[row + 1] += row_offsets[row];
    }
    Ok(CsrPattern::new(nrows, ncols, row_offsets, col_indices)?)
}

/// `count` distinct numbers of `0..total`, every such set being equally likely, in increasing order.
fn sample_sorted(total: u64, count: usize, key: Key) -> Vec<u64> {
    let rest = total - count as u64;
    if count as u64 <= rest {
        return draw_distinct(total, count, key);
    }
    // More than half: draw those that are left out, which are fewer.
    let mut left_out = draw_distinct(total, rest as usize, key).into_iter().peekable();
    (0..total).filter(|&number| left_out.next_if_eq(&number).is_none()).collect()
}

/// Draws until `count` distinct numbers of `0..total` are found; at most half of the range, so that a draw repeats
/// an earlier one with a probability below one half.
///
/// Each round draws as many numbers as are missing. The last of them is reached only by a round without repetition,
/// so the set is that of drawing one by one until enough are found.
fn draw_distinct(total: u64, count: usize, key: Key) -> Vec<u64> {
    let mut found: Vec<u64> = Vec::with_capacity(count);
    let mut draws = 0u64;
    while found.len() < count {
        let missing = (count - found.len()) as u64;
        let first_round = found.is_empty();
        found.par_extend((draws..draws + missing).into_par_iter().map(|draw| key.below(draw, total)));
        draws += missing;
        if first_round {
            found.par_sort_unstable();
        } else {
            // Sorted but for its tail: the stable sort merges the two runs in linear time.
            found[count - missing as usize..].sort_unstable();
            found.sort();
        }
        found.dedup();
    }
    found
}

/// Which entries of a pattern an update keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    keep: Vec<bool>,
    dropped: usize,
}

/// Marks of the entries in order: true for one that is kept.
impl FromIterator<bool> for Kept {
    fn from_iter<I: IntoIterator<Item = bool>>(marks: I) -> Self {
        let keep: Vec<bool> = marks.into_iter().collect();
        let dropped = keep.iter().filter(|keep| !**keep).count();
        Self { keep, dropped }
    }
}

impl Kept {
    /// Whether entry `e` is kept.
    ///
    /// # Panics
    /// If there is no such entry.
    pub fn is_kept(&self, e: usize) -> bool {
        self.keep[e]
    }

    /// How many entries are kept.
    pub fn kept_count(&self) -> usize {
        self.keep.len() - self.dropped
    }

    /// How many are dropped.
    pub fn dropped_count(&self) -> usize {
        self.dropped
    }

    fn count_in(&self, entries: Range<usize>) -> usize {
        self.keep[entries].iter().map(|&keep| usize::from(keep)).sum()
    }

    fn check(&self, op: &'static str, pattern: &CsrPattern) -> Result<(), TopologyError> {
        check_length(op, "kept", pattern.nnz(), self.keep.len())
    }
}

fn check_length(op: &'static str, what: &'static str, expected: usize, got: usize) -> Result<(), TopologyError> {
    if expected == got { Ok(()) } else { Err(TopologyError::Length { op, what, expected, got }) }
}

/// Orders entries by who is dropped first: smaller magnitude, then higher index. The entry is the low word's
/// complement.
///
/// The bits of a float that is not negative order as its value does, with NaN above infinity: a NaN is dropped last,
/// so that a broken weight stays where it can be seen.
fn drop_order(value: f32, entry: usize) -> u64 {
    u64::from(value.abs().to_bits()) << 32 | u64::from(u32::MAX - entry as u32)
}

/// Keeps all but the `drop_count` entries of smallest magnitude. Of equal magnitudes the entry with the higher index
/// is dropped; NaN counts as largest.
///
/// # Errors
/// If there are fewer than `drop_count` values.
///
/// # Cost
/// O(nnz) on average (quickselect), 5 bytes per value.
pub fn select_kept(values: &[f32], drop_count: usize) -> Result<Kept, TopologyError> {
    let nnz = values.len();
    if drop_count > nnz {
        return Err(TopologyError::DropCount { drop_count, nnz });
    }
    if drop_count == 0 {
        return Ok(Kept { keep: vec![true; nnz], dropped: 0 });
    }
    let magnitude = |value: &f32| value.abs().to_bits();
    let mut magnitudes: Vec<u32> = values.iter().map(magnitude).collect();
    let (smaller, &mut largest, _) = magnitudes.select_nth_unstable(drop_count - 1);
    // Among those of the largest magnitude that is dropped, as many as it takes, from the end.
    let mut ties = 1 + smaller.iter().filter(|&&m| m == largest).count();
    drop(magnitudes);
    let mut keep: Vec<bool> = values.iter().map(|value| magnitude(value) > largest).collect();
    for (keep, _) in keep.iter_mut().zip(values).rev().filter(|(_, value)| magnitude(value) == largest) {
        *keep = ties == 0;
        ties = ties.saturating_sub(1);
    }
    Ok(Kept { keep, dropped: drop_count })
}

/// The pattern of the kept entries alone: where growth may not go.
///
/// # Errors
/// If `kept` is of another pattern.
///
/// # Cost
/// O(nrows + nnz).
pub fn kept_pattern(pattern: &CsrPattern, kept: &Kept) -> Result<CsrPattern, TopologyError> {
    kept.check("kept_pattern", pattern)?;
    let row_offsets = offsets((0..pattern.nrows()).map(|row| kept.count_in(pattern.row_range(row))));
    // Every column is written and only the kept ones are counted: which those are no branch predictor can know. One place
    // more takes what follows the last.
    let mut col_indices = vec![0; kept.kept_count() + 1];
    let mut next = 0;
    for (&column, &keep) in pattern.col_indices().iter().zip(&kept.keep) {
        col_indices[next] = column;
        next += usize::from(keep);
    }
    col_indices.truncate(next);
    Ok(CsrPattern::new(pattern.nrows(), pattern.ncols(), row_offsets, col_indices)?)
}

/// Sums of the lengths before each row, and of all.
fn offsets(lengths: impl Iterator<Item = usize>) -> Vec<u32> {
    let ends = lengths.scan(0, |end, length| {
        *end += length as u32;
        Some(*end)
    });
    [0].into_iter().chain(ends).collect()
}

/// The `keep_count` entries of largest magnitude, with their values: one-shot magnitude pruning, of a dense matrix when
/// the pattern is [`CsrPattern::full`].
///
/// Of equal magnitudes the entry with the lower index is kept; NaN counts as largest, as in [`select_kept`]. Stored
/// zeros are entries like any other.
///
/// # Errors
/// If there are fewer than `keep_count` entries, or the values are of another pattern.
///
/// # Cost
/// O(nrows + nnz) on average.
///
/// ```
/// use rigl::topology::prune_by_magnitude;
/// use sparse_kernels::CsrPattern;
/// let pruned = prune_by_magnitude(&CsrPattern::full(2, 3)?, &[0.5, -0.1, -2.0, 0.0, 0.7, 0.5], 3)?;
/// assert_eq!(pruned.to_dense(), [0.5, 0.0, -2.0, 0.0, 0.7, 0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn prune_by_magnitude(pattern: &CsrPattern, values: &[f32], keep_count: usize) -> Result<Csr<f32>, TopologyError> {
    let nnz = pattern.nnz();
    check_length("prune_by_magnitude", "values", nnz, values.len())?;
    let drop_count = nnz.checked_sub(keep_count).ok_or(TopologyError::KeepCount { keep_count, nnz })?;
    let kept = select_kept(values, drop_count)?;
    let pattern = kept_pattern(pattern, &kept)?;
    let values = values.iter().zip(&kept.keep).filter(|&(_, &keep)| keep).map(|(&value, _)| value).collect();
    Ok(Csr::new(Arc::new(pattern), values)?)
}

/// `count` distinct positions `(row, column)` outside `exclude`, every such set being equally likely, in order of
/// position; all positions outside if there are fewer.
///
/// # Cost
/// O(nrows + nnz + count log count): ranks among the free positions are drawn, then mapped to positions in one pass
/// over the stored entries.
pub fn random_growth(exclude: &CsrPattern, count: usize, key: Key) -> Vec<(u32, u32)> {
    let ncols = exclude.ncols() as u64;
    let free = exclude.nrows() as u64 * ncols - exclude.nnz() as u64;
    let count = count.min(usize::try_from(free).unwrap_or(usize::MAX));
    let mut stored = exclude.positions().map(|(row, column)| u64::from(row) * ncols + u64::from(column)).peekable();
    let mut passed = 0;
    let to_position = |rank: u64| {
        // A stored position with `passed` stored ones before it has `position - passed` free ones before it.
        while stored.next_if(|position| position - passed <= rank).is_some() {
            passed += 1;
        }
        let position = rank + passed;
        ((position / ncols) as u32, (position % ncols) as u32)
    };
    sample_sorted(free, count, key).into_iter().map(to_position).collect()
}

/// The `count` positions `(row, column)` outside `exclude` where the magnitude of `scores`, one for each position row by row,
/// is largest, in order of position; all positions outside if there are fewer. It finds what a backend's growth finds in the
/// same gradient: of equal magnitudes, the one with the lower hash by `ties` goes first, and NaN counts as 0, so that a broken
/// gradient attracts no weights.
///
/// # Errors
/// Unless there is a score for each position.
///
/// # Cost
/// O(nrows · ncols) on average, 16 bytes per position outside.
pub fn largest_outside(
    scores: &[f32],
    exclude: &CsrPattern,
    count: usize,
    ties: Key,
) -> Result<Vec<(u32, u32)>, TopologyError> {
    let (nrows, ncols) = (exclude.nrows(), exclude.ncols());
    check_length("largest_outside", "scores", nrows * ncols, scores.len())?;
    let mut stored = exclude.positions().map(|(row, column)| row as usize * ncols + column as usize).peekable();
    let outside = (0..scores.len()).filter(|&position| stored.next_if_eq(&position).is_none());
    // Descending magnitude, ascending hash. This maximum makes a NaN 0, too.
    let rank = |position: usize| (!scores[position].abs().max(0.0).to_bits(), ties.bits(position as u64) as u32);
    let mut ranked: Vec<((u32, u32), usize)> = outside.map(|position| (rank(position), position)).collect();
    if count < ranked.len() {
        if count > 0 {
            ranked.select_nth_unstable(count - 1);
        }
        ranked.truncate(count);
    }
    let mut found: Vec<usize> = ranked.into_iter().map(|(_, position)| position).collect();
    found.sort_unstable();
    Ok(found.into_iter().map(|position| ((position / ncols) as u32, (position % ncols) as u32)).collect())
}

/// Adds to `grown` the largest dropped entries that it does not have, until it has `count` positions: keeps a layer's
/// number of weights when growth found too few candidates. Of equal magnitudes the lower index comes back first. `grown`
/// ends in order of position.
///
/// # Errors
/// If `values` or `kept` are of another pattern.
///
/// # Cost
/// O(nrows + nnz + d log d) for `d` dropped entries.
pub fn fill_with_dropped(
    pattern: &CsrPattern,
    values: &[f32],
    kept: &Kept,
    count: usize,
    grown: &mut Vec<(u32, u32)>,
) -> Result<(), TopologyError> {
    kept.check("fill_with_dropped", pattern)?;
    check_length("fill_with_dropped", "values", pattern.nnz(), values.len())?;
    grown.sort_unstable();
    let missing = count.saturating_sub(grown.len());
    let mut dropped: Vec<(u64, (u32, u32))> = pattern
        .positions()
        .enumerate()
        .filter(|(e, position)| !kept.keep[*e] && grown.binary_search(position).is_err())
        .map(|(e, position)| (drop_order(values[e], e), position))
        .collect();
    dropped.sort_unstable();
    grown.extend(dropped.iter().rev().take(missing).map(|(_, position)| *position));
    grown.sort_unstable();
    Ok(())
}

/// The pattern after an update, and where each of its entries was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewired {
    /// Kept and grown entries.
    pub pattern: Arc<CsrPattern>,
    /// For each entry of `pattern` its entry in the old one, `u32::MAX` for a newcomer: the argument that
    /// [`sparse_kernels::Storage::gather`] moves values and optimizer slots with. Strictly increasing but for the
    /// newcomers.
    pub map: Vec<u32>,
}

/// Merges the kept entries of `pattern` with the `grown` positions, given in any order. A grown position that
/// `pattern` has and `kept` drops maps to its old entry: it never left.
///
/// # Errors
/// If `kept` is of another pattern, or a grown position is kept, grown twice or outside the matrix.
///
/// # Cost
/// O(nrows + nnz + g log g) for `g` grown positions.
pub fn rewire(pattern: &CsrPattern, kept: &Kept, grown: &[(u32, u32)]) -> Result<Rewired, TopologyError> {
    kept.check("rewire", pattern)?;
    let (nrows, ncols) = (pattern.nrows(), pattern.ncols());
    let outside = |&&(row, column): &&(u32, u32)| row as usize >= nrows || column as usize >= ncols;
    if let Some(&(row, column)) = grown.iter().find(outside) {
        return Err(TopologyError::GrownOutside { row, column, nrows, ncols });
    }
    let mut grown = grown.to_vec();
    grown.sort_unstable();
    if let Some(twice) = grown.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(TopologyError::GrownTwice { row: twice[0].0, column: twice[0].1 });
    }

    // A row keeps what it keeps and gets what grows there, so that every row's place is known before any is merged.
    let starts: Vec<usize> = (0..=nrows).map(|row| grown.partition_point(|p| (p.0 as usize) < row)).collect();
    let grown_in = |row: usize| &grown[starts[row]..starts[row + 1]];
    let row_offsets = offsets((0..nrows).map(|row| kept.count_in(pattern.row_range(row)) + grown_in(row).len()));
    let nnz = row_offsets[nrows] as usize;
    let (mut col_indices, mut map) = (vec![0; nnz], vec![0; nnz]);
    let mut bands = Vec::with_capacity(nrows.div_ceil(BAND_ROWS));
    let (mut columns_left, mut map_left) = (&mut col_indices[..], &mut map[..]);
    for first in (0..nrows).step_by(BAND_ROWS) {
        let rows = first..(first + BAND_ROWS).min(nrows);
        let len = (row_offsets[rows.end] - row_offsets[rows.start]) as usize;
        let columns_of_band;
        let map_of_band;
        (columns_of_band, columns_left) = columns_left.split_at_mut(len);
        (map_of_band, map_left) = map_left.split_at_mut(len);
        bands.push((rows, columns_of_band, map_of_band));
    }
    let merged: Result<(), TopologyError> = bands
        .into_par_iter()
        .map(|(rows, mut columns, mut map)| {
            for row in rows {
                let len = (row_offsets[row + 1] - row_offsets[row]) as usize;
                let (columns_of_row, map_of_row);
                (columns_of_row, columns) = columns.split_at_mut(len);
                (map_of_row, map) = map.split_at_mut(len);
                merge_row(pattern, kept, row, grown_in(row), columns_of_row, map_of_row)?;
            }
            Ok(())
        })
        .collect();
    merged?;
    let pattern = Arc::new(CsrPattern::new(nrows, ncols, row_offsets, col_indices)?);
    Ok(Rewired { pattern, map })
}

/// Rows that one task merges.
const BAND_ROWS: usize = 256;

/// Merges a row's stored entries with what grows there into `columns` and `map`, which have just the room.
///
/// Which list comes next, and what is kept of it, no branch predictor can know: each step writes an entry and moves on by
/// the results of comparisons.
fn merge_row(
    pattern: &CsrPattern,
    kept: &Kept,
    row: usize,
    grown: &[(u32, u32)],
    columns: &mut [u32],
    map: &mut [u32],
) -> Result<(), TopologyError> {
    let entries = pattern.row_range(row);
    let (old, keep) = (pattern.row(row), &kept.keep[entries.clone()]);
    let (mut o, mut g, mut next, mut grown_kept) = (0, 0, 0, u32::MAX);
    while o < old.len() && g < grown.len() {
        let (stored, new) = (old[o], grown[g].1);
        let (is_old, is_new) = (stored <= new, new <= stored);
        if next < columns.len() {
            columns[next] = stored.min(new);
            map[next] = if is_old { (entries.start + o) as u32 } else { NEWCOMER };
        }
        grown_kept = if is_old & is_new & keep[o] { grown_kept.min(new) } else { grown_kept };
        next += usize::from(is_new | keep[o]);
        (o, g) = (o + usize::from(is_old), g + usize::from(is_new));
    }
    if grown_kept != u32::MAX {
        return Err(TopologyError::GrownKept { row: row as u32, column: grown_kept });
    }
    for o in o..old.len() {
        if next < columns.len() {
            (columns[next], map[next]) = (old[o], (entries.start + o) as u32);
        }
        next += usize::from(keep[o]);
    }
    for &(_, new) in &grown[g..] {
        (columns[next], map[next]) = (new, NEWCOMER);
        next += 1;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sparse_kernels::cpu::Cpu;
    use sparse_kernels::{GrowRequest, SparseLinear, Storage};
    use std::collections::BTreeSet;

    fn key(seed: u64) -> Key {
        Key::new(seed).with_name("topology tests")
    }

    #[test]
    fn random_patterns_have_exactly_the_entries_asked_for() {
        for (nrows, ncols) in [(0, 0), (0, 5), (5, 0), (1, 1), (3, 7), (40, 25usize)] {
            let size: usize = nrows * ncols;
            for nnz in [0, 1, size / 3, size / 2, size / 2 + 1, size.saturating_sub(1), size] {
                if nnz > size {
                    continue;
                }
                let pattern = random_pattern(nrows, ncols, nnz, key(1)).unwrap();
                assert_eq!((pattern.nrows(), pattern.ncols(), pattern.nnz()), (nrows, ncols, nnz));
            }
            let error = random_pattern(nrows, ncols, size + 1, key(1)).unwrap_err();
            assert_eq!(error, TopologyError::NoRoom { nrows, ncols, nnz: size + 1 });
        }
        let error = random_pattern(1 << 40, 1 << 40, 3, key(1)).unwrap_err();
        assert_eq!(error.to_string(), "nrows is 1099511627776, more than the 4294967294 that 32-bit indices allow");
    }

    /// Every position is equally likely, below and above half density; six standard errors.
    #[test]
    fn random_patterns_are_uniform() {
        let (trials, size) = (4000, 24);
        for nnz in [5, 12, 19] {
            let mut hits = [0u32; 24];
            for trial in 0..trials {
                for (row, column) in random_pattern(4, 6, nnz, key(trial)).unwrap().positions() {
                    hits[(row * 6 + column) as usize] += 1;
                }
            }
            let p = nnz as f64 / f64::from(size);
            let bound = 6.0 * (trials as f64 * p * (1.0 - p)).sqrt();
            for (position, &n) in hits.iter().enumerate() {
                let off = f64::from(n) - trials as f64 * p;
                assert!(off.abs() < bound, "nnz {nnz}, position {position}: {n} hits");
            }
        }
    }

    #[test]
    fn random_growth_is_uniform_over_the_free_positions() {
        let exclude = CsrPattern::from_positions(3, 4, vec![(0, 0), (0, 1), (1, 3), (2, 2)]).unwrap();
        let trials = 4000;
        for count in [1, 3, 6] {
            let mut hits = [0u32; 12];
            for trial in 0..trials {
                for (row, column) in random_growth(&exclude, count, key(trial)) {
                    hits[(row * 4 + column) as usize] += 1;
                }
            }
            let p = count as f64 / 8.0;
            let bound = 6.0 * (trials as f64 * p * (1.0 - p)).sqrt();
            for (position, &n) in hits.iter().enumerate() {
                let stored = [0, 1, 7, 10].contains(&position);
                let expected = if stored { 0.0 } else { trials as f64 * p };
                let bound = if stored { 0.5 } else { bound };
                assert!((f64::from(n) - expected).abs() < bound, "count {count}, position {position}: {n} hits");
            }
        }
        assert_eq!(random_growth(&exclude, 100, key(0)).len(), 8);
        assert_eq!(random_growth(&CsrPattern::full(3, 4).unwrap(), 1, key(0)), []);
    }

    #[test]
    fn dropping_prefers_small_magnitudes_then_high_indices() {
        let kept = |values: &[f32], n| -> Vec<usize> {
            let kept = select_kept(values, n).unwrap();
            assert_eq!(kept.kept_count() + kept.dropped_count(), values.len());
            (0..values.len()).filter(|&e| kept.is_kept(e)).collect()
        };
        assert_eq!(kept(&[0.5, -0.1, 0.2, -0.4], 2), [0, 3]);
        assert_eq!(kept(&[1.0, -1.0, 1.0, 1.0], 1), [0, 1, 2]);
        assert_eq!(kept(&[0.0, -0.0, 0.0], 2), [0]);
        assert_eq!(kept(&[f32::NAN, f32::INFINITY, -f32::NAN, 1.0], 2), [0, 2]);
        assert_eq!(kept(&[1.0, 2.0], 0), [0, 1]);
        assert_eq!(kept(&[1.0, 2.0], 2), [0; 0]);
        assert_eq!(kept(&[], 0), [0; 0]);
        assert_eq!(select_kept(&[1.0], 2), Err(TopologyError::DropCount { drop_count: 2, nnz: 1 }));
    }

    /// Eight weights, four of them stored; worked by hand.
    ///
    /// ```text
    /// column        0    1    2    3    4    5    6    7
    /// weight       .5  -.1    .   .2    .    .  -.4    .
    /// |gradient|    9   .3   .1   .7   .2   .8    9   .4
    /// ```
    ///
    /// Columns 1 and 3 are dropped; of what is not kept, 5 and 3 have the largest gradients.
    #[test]
    fn eight_weights_by_hand() {
        let pattern = CsrPattern::new(1, 8, vec![0, 4], vec![0, 1, 3, 6]).unwrap();
        let kept = select_kept(&[0.5, -0.1, 0.2, -0.4], 2).unwrap();
        let exclude = kept_pattern(&pattern, &kept).unwrap();
        assert_eq!(exclude.col_indices(), [0, 6]);
        let gradient = [9.0, 0.3, 0.1, 0.7, 0.2, 0.8, 9.0, 0.4f32];
        let mut free: Vec<u32> = (0..8).filter(|c| !exclude.col_indices().contains(c)).collect();
        free.sort_by(|&a, &b| gradient[b as usize].total_cmp(&gradient[a as usize]));
        let grown: Vec<_> = free[..2].iter().map(|&column| (0, column)).collect();
        assert_eq!(grown, [(0, 5), (0, 3)]);
        let rewired = rewire(&pattern, &kept, &grown).unwrap();
        assert_eq!(rewired.pattern.col_indices(), [0, 3, 5, 6]);
        assert_eq!(rewired.map, [0, 2, u32::MAX, 3]);
    }

    /// Numbers of all sizes, of both signs, and NaN: the order is that of the backends, which are held to one another by
    /// their own tests.
    #[test]
    fn the_largest_are_what_growth_finds() {
        let special = [f32::NAN, -f32::NAN, f32::INFINITY, f32::MAX, -1.0, 1.0, 2e-38, -0.0, 0.0, 3e38, -7.5];
        let scores: Vec<f32> = (0..13 * 37).map(|i| special[key(1).below(i, 11) as usize]).collect();
        let exclude = Arc::new(random_pattern(13, 37, 40, key(2)).unwrap());
        let cpu = Cpu::new(1, None).unwrap();
        let mut gradient = cpu.zeros(scores.len()).unwrap();
        cpu.upload(&scores, &mut gradient).unwrap();
        for count in [0, 1, 40, 200, 300, 441, 10_000] {
            let request = GrowRequest { exclude: exclude.clone(), count, ties: key(3) };
            let expected = cpu.largest(&gradient, &request).unwrap();
            let found = largest_outside(&scores, &exclude, count, request.ties).unwrap();
            assert_eq!(found, expected.iter().map(|c| (c.row, c.column)).collect::<Vec<_>>(), "{count}");
        }
    }

    #[test]
    fn wrong_growth_is_named() {
        let pattern = CsrPattern::new(2, 3, vec![0, 1, 2], vec![1, 0]).unwrap();
        let kept = select_kept(&[1.0, 2.0], 1).unwrap();
        let error = |grown: &[(u32, u32)]| rewire(&pattern, &kept, grown).unwrap_err();
        assert_eq!(error(&[(1, 0)]), TopologyError::GrownKept { row: 1, column: 0 });
        assert_eq!(error(&[(0, 2), (0, 1), (0, 2)]), TopologyError::GrownTwice { row: 0, column: 2 });
        let outside = |row, column| TopologyError::GrownOutside { row, column, nrows: 2, ncols: 3 };
        assert_eq!(error(&[(2, 0)]), outside(2, 0));
        assert_eq!(error(&[(0, 3)]), outside(0, 3));
        let other = select_kept(&[1.0], 0).unwrap();
        let length = |op, what| TopologyError::Length { op, what, expected: 2, got: 1 };
        assert_eq!(rewire(&pattern, &other, &[]), Err(length("rewire", "kept")));
        assert_eq!(kept_pattern(&pattern, &other), Err(length("kept_pattern", "kept")));
        let filled = fill_with_dropped(&pattern, &[1.0], &kept, 1, &mut vec![]);
        assert_eq!(filled, Err(length("fill_with_dropped", "values")));
    }

    #[test]
    fn too_few_candidates_bring_back_the_largest_dropped() {
        let pattern = CsrPattern::full(1, 6).unwrap();
        let filled = |values: &[f32], drop_count, mut grown: Vec<(u32, u32)>| {
            fill_with_dropped(&pattern, values, &select_kept(values, drop_count).unwrap(), drop_count, &mut grown)
                .unwrap();
            grown
        };
        let values = [0.1, -0.25, 5.0, 0.3, 0.2, 6.0];
        assert_eq!(filled(&values, 4, vec![(0, 4)]), [(0, 0), (0, 1), (0, 3), (0, 4)]);
        assert_eq!(filled(&values, 3, vec![]), [(0, 0), (0, 1), (0, 4)]);
        // Columns 0, 1, 3 and 4 are dropped; of the equal ones the lower come back.
        let equal = [0.3, -0.3, 5.0, 0.3, 0.2, 6.0];
        let mut grown = vec![(0, 4)];
        let kept = select_kept(&equal, 4).unwrap();
        assert_eq!(filled(&equal, 4, grown.clone()), [(0, 0), (0, 1), (0, 3), (0, 4)]);
        let sparse = CsrPattern::new(1, 9, vec![0, 6], vec![0, 1, 2, 3, 4, 5]).unwrap();
        grown.extend([(0, 8), (0, 7)]);
        fill_with_dropped(&sparse, &equal, &kept, 4, &mut grown).unwrap();
        assert_eq!(grown, [(0, 0), (0, 4), (0, 7), (0, 8)]);
        // Fewer than were dropped.
        let mut grown = vec![(0, 8)];
        fill_with_dropped(&sparse, &equal, &kept, 2, &mut grown).unwrap();
        assert_eq!(grown, [(0, 0), (0, 8)]);
    }

    /// Twelve positions, eight of them stored; worked by hand.
    ///
    /// ```text
    /// weight      .3   .  -.5  .3         kept   .   .  -.5   .
    ///              .  .1    .  -.3    ->   .     .   .    .   .
    ///             .9   0  .25   .               .9   .    .   .
    /// ```
    #[test]
    fn pruning_by_hand() {
        let pattern = CsrPattern::new(3, 4, vec![0, 3, 5, 8], vec![0, 2, 3, 1, 3, 0, 1, 2]).unwrap();
        let values = [0.3, -0.5, 0.3, 0.1, -0.3, 0.9, 0.0, 0.25];
        let pruned = |keep_count| {
            let pruned = prune_by_magnitude(&pattern, &values, keep_count).unwrap();
            pruned.pattern().positions().zip(pruned.values().iter().copied()).collect::<Vec<_>>()
        };
        assert_eq!(pruned(2), [((0, 2), -0.5), ((2, 0), 0.9)]);
        // Of the three of magnitude 0.3 the first ones stay.
        assert_eq!(pruned(3), [((0, 0), 0.3), ((0, 2), -0.5), ((2, 0), 0.9)]);
        assert_eq!(pruned(4), [((0, 0), 0.3), ((0, 2), -0.5), ((0, 3), 0.3), ((2, 0), 0.9)]);
        // A stored zero is an entry, and goes first.
        assert_eq!(pruned(7).len(), 7);
        assert!(pruned(7).iter().all(|&(_, value)| value != 0.0));
        assert_eq!(pruned(8).len(), 8);
        assert_eq!(pruned(0), []);
        let error = prune_by_magnitude(&pattern, &values, 9).unwrap_err();
        assert_eq!(error, TopologyError::KeepCount { keep_count: 9, nnz: 8 });
        assert_eq!(error.to_string(), "prune_by_magnitude: cannot keep 9 of 8 entries");
        let error = prune_by_magnitude(&pattern, &values[1..], 1).unwrap_err();
        assert_eq!(error, TopologyError::Length { op: "prune_by_magnitude", what: "values", expected: 8, got: 7 });
    }

    /// A broken weight is kept, where it can be seen.
    #[test]
    fn pruning_keeps_nan() {
        let pattern = CsrPattern::full(1, 4).unwrap();
        let pruned = prune_by_magnitude(&pattern, &[1.0, f32::NAN, f32::NEG_INFINITY, 2.0], 2).unwrap();
        assert_eq!(pruned.pattern().col_indices(), [1, 2]);
        assert!(pruned.values()[0].is_nan());
    }

    /// A pattern, its values, how many entries to drop.
    fn updates() -> impl Strategy<Value = (CsrPattern, Vec<f32>, usize, u64)> {
        (1usize..24, 1usize..24, 0.0..=1.0f64, 0.0..=1.0f64, any::<u64>(), any::<bool>()).prop_map(
            |(nrows, ncols, density, drop, seed, ties)| {
                let nnz = (density * (nrows * ncols) as f64) as usize;
                let pattern = random_pattern(nrows, ncols, nnz, key(seed)).unwrap();
                let value = |i| {
                    let x = key(seed).with(1).normal(i);
                    if ties { (2.0 * x).round() } else { x }
                };
                let values: Vec<f32> = (0..nnz as u64).map(value).collect();
                (pattern, values, (drop * nnz as f64) as usize, seed)
            },
        )
    }

    proptest! {
        #[test]
        fn one_update_keeps_every_invariant((pattern, values, drop_count, seed) in updates()) {
            let kept = select_kept(&values, drop_count).unwrap();
            let exclude = kept_pattern(&pattern, &kept).unwrap();
            let old: Vec<_> = pattern.positions().collect();

            // Dropped: the smallest, of equals the highest index.
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()).then(b.cmp(&a)));
            for (rank, &e) in order.iter().enumerate() {
                prop_assert_eq!(kept.is_kept(e), rank >= drop_count);
            }
            let kept_positions: BTreeSet<_> = exclude.positions().collect();
            prop_assert_eq!(kept_positions.len(), pattern.nnz() - drop_count);

            // Grown: distinct, sorted, not kept; dropped ones may come back.
            let grown = random_growth(&exclude, drop_count, key(seed).with(2));
            prop_assert_eq!(grown.len(), drop_count);
            prop_assert!(grown.windows(2).all(|w| w[0] < w[1]));
            prop_assert!(grown.iter().all(|p| !kept_positions.contains(p)));

            // Rewired: the union; survivors point to where they were, newcomers nowhere.
            let Rewired { pattern: new, map } = rewire(&pattern, &kept, &grown).unwrap();
            prop_assert_eq!(new.nnz(), pattern.nnz());
            prop_assert_eq!(map.len(), new.nnz());
            let union: Vec<_> = kept_positions.iter().chain(&grown).copied().collect::<BTreeSet<_>>().into_iter().collect();
            prop_assert_eq!(new.positions().collect::<Vec<_>>(), union);
            for (position, &from) in new.positions().zip(&map) {
                match old.binary_search(&position) {
                    Ok(e) => prop_assert_eq!(from as usize, e),
                    Err(_) => prop_assert_eq!(from, u32::MAX),
                }
            }
        }

        #[test]
        fn pruning_keeps_the_largest((pattern, values, drop_count, _) in updates()) {
            let pruned = prune_by_magnitude(&pattern, &values, values.len() - drop_count).unwrap();
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()).then(a.cmp(&b)));
            let mut kept = order[..values.len() - drop_count].to_vec();
            kept.sort_unstable();
            let positions: Vec<_> = pattern.positions().collect();
            let expected: Vec<_> = kept.iter().map(|&e| (positions[e], values[e].to_bits())).collect();
            let bits = pruned.values().iter().map(|value| value.to_bits());
            prop_assert_eq!(pruned.pattern().positions().zip(bits).collect::<Vec<_>>(), expected);
        }

        #[test]
        fn growth_order_does_not_matter((pattern, values, drop_count, seed) in updates()) {
            let kept = select_kept(&values, drop_count).unwrap();
            let mut grown = random_growth(&kept_pattern(&pattern, &kept).unwrap(), drop_count, key(seed));
            let sorted = rewire(&pattern, &kept, &grown).unwrap();
            grown.reverse();
            prop_assert_eq!(rewire(&pattern, &kept, &grown).unwrap(), sorted);
        }

        #[test]
        fn filling_restores_the_count((pattern, values, drop_count, seed) in updates(), part in 0.0..1.0f64) {
            let kept = select_kept(&values, drop_count).unwrap();
            let some = (part * drop_count as f64) as usize;
            let mut grown = random_growth(&kept_pattern(&pattern, &kept).unwrap(), some, key(seed));
            fill_with_dropped(&pattern, &values, &kept, kept.dropped_count(), &mut grown).unwrap();
            prop_assert_eq!(grown.len(), drop_count);
            prop_assert_eq!(rewire(&pattern, &kept, &grown).unwrap().pattern.nnz(), pattern.nnz());
        }
    }

    /// A SET update of a matrix whose dense form would take 4 TB. Debug builds do a tenth of it.
    #[test]
    fn a_million_by_a_million() {
        let nnz = if cfg!(debug_assertions) { 1_000_000 } else { 10_000_000 };
        let side = nnz / 10;
        let pattern = random_pattern(side, side, nnz, key(1)).unwrap();
        let values: Vec<f32> = (0..nnz as u64).into_par_iter().map(|i| key(2).normal(i)).collect();
        let drop_count = nnz * 3 / 10;
        let kept = select_kept(&values, drop_count).unwrap();
        let exclude = kept_pattern(&pattern, &kept).unwrap();
        let grown = random_growth(&exclude, drop_count, key(3));
        let rewired = rewire(&pattern, &kept, &grown).unwrap();
        assert_eq!(rewired.pattern.nnz(), nnz);
        let newcomers = rewired.map.iter().filter(|&&from| from == u32::MAX).count();
        // A dropped position comes back with probability drop_count / positions: a handful.
        assert!(newcomers <= drop_count && newcomers + 100 > drop_count, "{newcomers}");
        assert!(rewired.map.iter().filter(|&&from| from != u32::MAX).is_sorted());
    }
}
