//! Exploration: growth that looks at a sample of the positions of a weight, never at all of them.
//!
//! ```text
//! rows, columns = how active the outputs and the inputs are
//! draw positions (i, j) with probability rows[i] / Σ rows · columns[j] / Σ columns, until enough differ and are free
//! take those where the gradient, computed there alone, is largest
//! ```
//!
//! A draw is two look-ups in alias tables (Vose 1991), so that its cost does not depend on the size of the matrix. Draws are
//! counter-based: the sample depends on the key and the activities, not on the number of threads.

use std::sync::Arc;

use rayon::prelude::*;

use crate::random::Key;
use crate::{Candidate, CsrPattern, FormatError};

/// How often what is missing is drawn again. With half of the matrix taken, one draw in 256 is still missing after eight rounds;
/// with activities that only a few positions have, drawing on would find nothing more.
const ROUNDS: usize = 8;

/// Which positions exploration draws, and how many of them it looks for.
///
/// ```
/// use std::sync::Arc;
/// use sparse_kernels::random::Key;
/// use sparse_kernels::{CsrPattern, ExploreRequest};
/// // Two rows of a million columns, of which one position is taken; only the first row is active.
/// let exclude = Arc::new(CsrPattern::new(2, 1_000_000, vec![0, 1, 1], vec![7])?);
/// let request = ExploreRequest { exclude, samples: 100, count: 3, by_activity: true, draws: Key::new(1), ties: Key::new(2) };
/// let sampled = request.sample(&[1.0, 0.0], &vec![1.0; 1_000_000])?;
/// assert_eq!((sampled.row(0).len(), sampled.row(1).len()), (100, 0));
/// // Of these, the three where the gradient is largest.
/// let gradient: Vec<f32> = (0..100).map(|e| -(e as f32)).collect();
/// let best: Vec<_> = request.best(&sampled, &gradient).iter().map(|candidate| candidate.column).collect();
/// assert_eq!(best, sampled.row(0)[97..]);
/// # Ok::<(), sparse_kernels::FormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct ExploreRequest {
    /// Positions that are not drawn. For a block-sparse weight the positions are those of blocks in the grid of blocks.
    pub exclude: Arc<CsrPattern>,
    /// How many positions to draw. If there are no more outside `exclude`, all of them are taken.
    pub samples: usize,
    /// How many of them to find.
    pub count: usize,
    /// Whether active outputs and inputs are drawn more often; else all positions are equally likely.
    pub by_activity: bool,
    /// The draws.
    pub draws: Key,
    /// Orders candidates of equal score, as [`crate::GrowRequest::ties`].
    pub ties: Key,
}

impl ExploreRequest {
    /// Positions outside `exclude`, at most as many as asked for: fewer if the activities are zero at nearly all others.
    /// Activities that are not a distribution, because none is positive or one is not finite, count as equal.
    ///
    /// # Errors
    /// If there are not as many activities as rows and columns.
    ///
    /// # Cost
    /// O(nrows + ncols + nnz + s log s) for `s` samples, 24 bytes per row and column, and 16 per sample. No array has the size
    /// of the matrix.
    pub fn sample(&self, rows: &[f32], columns: &[f32]) -> Result<CsrPattern, FormatError> {
        let (nrows, ncols) = (self.exclude.nrows(), self.exclude.ncols());
        for (what, expected, got) in [("row", nrows, rows.len()), ("column", ncols, columns.len())] {
            if expected != got {
                return Err(FormatError::Activities { what, expected, got });
            }
        }
        let free = nrows as u64 * ncols as u64 - self.exclude.nnz() as u64;
        let (got, max) = (free.min(self.samples as u64), u64::from(u32::MAX));
        if got > max {
            return Err(FormatError::TooLarge { what: "number of samples", got, max });
        }
        let positions = match self.samples as u64 {
            samples if samples >= free => self.all_free(),
            0 => vec![],
            _ if self.by_activity => self.drawn(&Alias::new(rows), &Alias::new(columns)),
            _ => self.drawn(&Alias::even(nrows), &Alias::even(ncols)),
        };
        let mut row_offsets = vec![0; nrows + 1];
        positions.iter().for_each(|position| row_offsets[(position >> 32) as usize + 1] += 1);
        (0..nrows).for_each(|row| row_offsets[row + 1] += row_offsets[row]);
        CsrPattern::new(nrows, ncols, row_offsets, positions.iter().map(|&position| position as u32).collect())
    }

    /// Positions as row and column in one number each. There are no more than samples were asked for.
    fn all_free(&self) -> Vec<u64> {
        let ncols = self.exclude.ncols() as u32;
        let mut free = vec![];
        for row in 0..self.exclude.nrows() {
            let mut next = 0;
            for &taken in self.exclude.row(row).iter().chain([&ncols]) {
                free.extend((next..taken).map(|column| (row as u64) << 32 | u64::from(column)));
                next = taken + 1;
            }
        }
        free
    }

    /// Each round draws as many positions as are missing, so that there are never too many.
    fn drawn(&self, rows: &Alias, columns: &Alias) -> Vec<u64> {
        let mut found: Vec<u64> = Vec::with_capacity(self.samples);
        let mut draws = 0u64;
        for _ in 0..ROUNDS {
            let (missing, sorted) = ((self.samples - found.len()) as u64, found.len());
            if missing == 0 {
                break;
            }
            let position = |draw: u64| {
                let row = rows.index(self.draws.bits(2 * draw));
                let column = columns.index(self.draws.bits(2 * draw + 1));
                let is_free = self.exclude.row(row as usize).binary_search(&column).is_err();
                is_free.then_some(u64::from(row) << 32 | u64::from(column))
            };
            found.par_extend((draws..draws + missing).into_par_iter().filter_map(position));
            draws += missing;
            found[sorted..].par_sort_unstable();
            // Two sorted runs, which the stable sort merges in linear time.
            found.sort();
            found.dedup();
        }
        found
    }

    /// The `count` entries of a sample with the largest scores, in order of position; all if there are fewer. NaN counts as 0.
    ///
    /// # Panics
    /// If there are fewer scores than entries.
    ///
    /// # Cost
    /// O(s) on average.
    pub fn best(&self, sampled: &CsrPattern, scores: &[f32]) -> Vec<Candidate> {
        let ncols = sampled.ncols() as u64;
        let mut ranked: Vec<((u32, u32), usize)> = sampled
            .positions()
            .enumerate()
            .map(|(e, (row, column))| {
                let tie = self.ties.bits(u64::from(row) * ncols + u64::from(column)) as u32;
                // Descending magnitude, ascending hash. The maximum makes a NaN 0.
                ((!scores[e].abs().max(0.0).to_bits(), tie), e)
            })
            .collect();
        if self.count < ranked.len() {
            if self.count > 0 {
                ranked.select_nth_unstable(self.count - 1);
            }
            ranked.truncate(self.count);
        }
        let mut entries: Vec<usize> = ranked.into_iter().map(|(_, e)| e).collect();
        entries.sort_unstable();
        let mut entries = entries.into_iter().peekable();
        let chosen = sampled.positions().enumerate().filter(|(e, _)| entries.next_if_eq(e).is_some());
        chosen.map(|(e, (row, column))| Candidate { row, column, score: scores[e].abs().max(0.0) }).collect()
    }
}

/// A distribution to draw from at a constant cost: each number keeps a draw with its own probability, and gives it to another
/// number else.
struct Alias {
    keep: Vec<f64>,
    other: Vec<u32>,
}

impl Alias {
    /// Numbers in proportion to their weights.
    fn new(weights: &[f32]) -> Self {
        let sum: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
        if !(sum > 0.0 && sum.is_finite()) || weights.iter().any(|&weight| weight < 0.0) {
            return Self::even(weights.len());
        }
        let scale = weights.len() as f64 / sum;
        let mut keep: Vec<f64> = weights.iter().map(|&weight| f64::from(weight) * scale).collect();
        let mut other: Vec<u32> = (0..weights.len() as u32).collect();
        let (mut small, mut large): (Vec<u32>, Vec<u32>) = other.iter().partition(|&&i| keep[i as usize] < 1.0);
        while let (Some(&from), Some(to)) = (large.last(), small.pop()) {
            other[to as usize] = from;
            keep[from as usize] -= 1.0 - keep[to as usize];
            if keep[from as usize] < 1.0 {
                large.pop();
                small.push(from);
            }
        }
        // What is left is 1 but for rounding.
        small.into_iter().chain(large).for_each(|i| keep[i as usize] = 1.0);
        Self { keep, other }
    }

    /// All numbers alike.
    fn even(len: usize) -> Self {
        Self { keep: vec![1.0; len], other: vec![0; len] }
    }

    fn index(&self, bits: u64) -> u32 {
        let i = (u64::from(bits as u32) * self.keep.len() as u64) >> 32;
        let share = (bits >> 32) as f64 / (1u64 << 32) as f64;
        if share < self.keep[i as usize] { i as u32 } else { self.other[i as usize] }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn request(exclude: CsrPattern, samples: usize, count: usize) -> ExploreRequest {
        let (draws, ties) = (Key::new(1).with_name("draws"), Key::new(1).with_name("ties"));
        ExploreRequest { exclude: Arc::new(exclude), samples, count, by_activity: true, draws, ties }
    }

    /// Of weights 1, 2, 0 and 5 the shares are 1/8, 1/4, 0 and 5/8.
    #[test]
    fn draws_follow_the_weights() {
        let (alias, key) = (Alias::new(&[1.0, 2.0, 0.0, 5.0]), Key::new(3));
        let mut counts = [0; 4];
        (0..80_000).for_each(|i| counts[alias.index(key.bits(i)) as usize] += 1);
        // Six standard deviations of the largest, sqrt(80000 · 5/8 · 3/8) = 137.
        for (count, expected) in counts.into_iter().zip([10_000i32, 20_000, 0, 50_000]) {
            assert!((count - expected).abs() < 822, "{counts:?}");
        }
        assert_eq!(counts[2], 0);
    }

    #[test]
    fn what_is_no_distribution_is_even() {
        for weights in [[0.0; 3], [f32::NAN, 1.0, 1.0], [f32::INFINITY, 1.0, 1.0], [2.0, -1.0, 1.0]] {
            let (alias, key) = (Alias::new(&weights), Key::new(3));
            let mut counts = [0; 3];
            (0..30_000).for_each(|i| counts[alias.index(key.bits(i)) as usize] += 1);
            assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{weights:?}: {counts:?}");
        }
    }

    /// 3 × 4 with rows of activity 0, 1, 1 and columns of 1, 0, 1, 1: six positions may be drawn, of which one is taken.
    #[test]
    fn a_small_matrix_by_hand() {
        let exclude = || CsrPattern::new(3, 4, vec![0, 1, 1, 2], vec![1, 2]).unwrap();
        let mut request = request(exclude(), 9, 2);
        let sampled = request.sample(&[0.0, 1.0, 1.0], &[1.0, 0.0, 1.0, 1.0]).unwrap();
        assert_eq!(sampled.positions().collect::<Vec<_>>(), [(1, 0), (1, 2), (1, 3), (2, 0), (2, 3)]);
        let best = request.best(&sampled, &[0.1, -3.0, f32::NAN, 2.0, -0.5]);
        assert_eq!(best.iter().map(|c| (c.row, c.column, c.score)).collect::<Vec<_>>(), [(1, 2, 3.0), (2, 0, 2.0)]);
        // Ten are free: all of them, whatever the activities are.
        request.samples = 10;
        let sampled = request.sample(&[0.0, 1.0, 1.0], &[1.0, 0.0, 1.0, 1.0]).unwrap();
        let all = (0..3).flat_map(|r| (0..4).map(move |c| (r, c)));
        let free: Vec<_> = all.filter(|position| ![(0, 1), (2, 2)].contains(position)).collect();
        assert_eq!(sampled.positions().collect::<Vec<_>>(), free);
        let error = request.sample(&[1.0; 3], &[1.0; 3]).unwrap_err().to_string();
        assert_eq!(error, "3 column activities for 4 columns");
    }

    /// Equal scores are ordered by the hash, not by position.
    #[test]
    fn ties_are_spread() {
        let request = request(CsrPattern::new(1, 1000, vec![0, 0], vec![]).unwrap(), 1000, 100);
        let sampled = request.sample(&[1.0], &[1.0; 1000]).unwrap();
        let best = request.best(&sampled, &[1.0; 1000]);
        assert_eq!(best.len(), 100);
        let early = best.iter().filter(|candidate| candidate.column < 500).count();
        assert!((30..70).contains(&early), "{early}");
    }

    /// A million by a million, where an array of the matrix's size would take 4 TB.
    #[test]
    fn cost_follows_the_entries() {
        let n = 1_000_000;
        let columns: Vec<u32> = (0..n as u64).map(|row| Key::new(5).below(row, n as u64) as u32).collect();
        let exclude = CsrPattern::new(n, n, (0..=n as u32).collect(), columns).unwrap();
        let request = request(exclude, n, 1000);
        let active: Vec<f32> = (0..n).map(|i| 1.0 / (1 + i % 1000) as f32).collect();
        let sampled = request.sample(&active, &active).unwrap();
        assert_eq!(sampled.nnz(), n);
        // The thousandth part of the rows has 1 / 7.49 of all activity.
        let of_most: usize = (0..n).step_by(1000).map(|row| sampled.row(row).len()).sum();
        assert!((of_most as f64 / n as f64 * 7.485 - 1.0).abs() < 0.03, "{of_most}");
        let scores: Vec<f32> = (0..n).map(|e| e as f32).collect();
        assert_eq!(request.best(&sampled, &scores).len(), 1000);
    }

    proptest! {
        /// Samples are distinct, free and possible, as many as asked for where there is room; the best are the best.
        #[test]
        fn samples_are_free_and_the_best_are_best(
            nrows in 1usize..12,
            ncols in 1usize..12,
            taken in 0u64..1 << 16,
            samples in 0usize..150,
            count in 0usize..40,
            by_activity in any::<bool>(),
        ) {
            let key = Key::new(taken);
            let all = (0..nrows as u32).flat_map(|r| (0..ncols as u32).map(move |c| (r, c)));
            let stored: Vec<_> = all.filter(|&(r, c)| key.uniform(u64::from(r) << 32 | u64::from(c)) < 0.3).collect();
            let exclude = CsrPattern::from_positions(nrows, ncols, stored).unwrap();
            let free = nrows * ncols - exclude.nnz();
            let request = ExploreRequest { by_activity, ..request(exclude.clone(), samples, count) };
            let activity = |name: &str, len: usize| {
                (0..len as u64).map(|i| (2.0 * key.with_name(name).uniform(i) - 0.5).max(0.0)).collect::<Vec<_>>()
            };
            let (rows, columns) = (activity("rows", nrows), activity("columns", ncols));
            let sampled = request.sample(&rows, &columns).unwrap();
            prop_assert_eq!(&sampled, &request.sample(&rows, &columns).unwrap());
            let taken: BTreeSet<_> = exclude.positions().collect();
            prop_assert!(sampled.positions().all(|position| !taken.contains(&position)));
            prop_assert!(sampled.nnz() <= samples.min(free));
            if samples >= free {
                prop_assert_eq!(sampled.nnz(), free);
            } else if by_activity && rows.iter().sum::<f32>() > 0.0 && columns.iter().sum::<f32>() > 0.0 {
                let mut drawn = sampled.positions();
                prop_assert!(drawn.all(|(row, column)| rows[row as usize] > 0.0 && columns[column as usize] > 0.0));
            }
            let scores: Vec<f32> = (0..sampled.nnz() as u64).map(|e| key.normal(e)).collect();
            let best = request.best(&sampled, &scores);
            prop_assert_eq!(best.len(), count.min(sampled.nnz()));
            let mut sorted: Vec<f32> = scores.iter().map(|score| score.abs()).collect();
            sorted.sort_by(|a, b| b.total_cmp(a));
            let mut found: Vec<f32> = best.iter().map(|candidate| candidate.score).collect();
            found.sort_by(|a, b| b.total_cmp(a));
            prop_assert_eq!(&found[..], &sorted[..best.len()]);
            prop_assert!(best.is_sorted_by_key(|candidate| (candidate.row, candidate.column)));
        }
    }
}
