//! Streaming growth: the k largest `abs(dY · Xᵀ)` outside a pattern, without ever holding the dense gradient.
//!
//! The gradient is computed in tiles of rows × columns by GEMM. Positions to exclude are struck from the tile, the
//! rest is compared against a running threshold, and survivors go to a list of at most 5/4 k; when it is full, a
//! selection keeps the best k and raises the threshold. Tiles are grouped by bands of rows, one list a band, and the
//! bands' lists are joined at the end: the order is total (score, tie hash, position), so the result does not depend
//! on how tiles were spread over threads.

use std::cmp::Ordering;
use std::sync::Mutex;

use super::Cpu;
use super::gemm::{check_lanes, outer_product};
use crate::backend::GrowRequest;
use crate::error::expect_equal;
use crate::random::Key;
use crate::{BackendError, Candidate, Strips};

const TILE_ROWS: usize = 64;
const TILE_COLUMNS: usize = 512;

/// A position and its score.
#[derive(Clone, Copy)]
struct Scored {
    score: f32,
    row: u32,
    column: u32,
}

/// The total order of candidates.
#[derive(Clone, Copy)]
struct Ranking {
    ties: Key,
    ncols: u64,
}

impl Ranking {
    /// Best first: larger score, then smaller hash, then smaller position. Hashes are made where scores are equal only,
    /// rather than held.
    fn order(&self, a: &Scored, b: &Scored) -> Ordering {
        let hash = |s: &Scored| self.ties.bits(u64::from(s.row) * self.ncols + u64::from(s.column)) as u32;
        let tied = || hash(a).cmp(&hash(b)).then((a.row, a.column).cmp(&(b.row, b.column)));
        b.score.total_cmp(&a.score).then_with(tied)
    }

    /// Moves the best `count` to the front, the worst of them last, and drops the others.
    fn keep_best(&self, list: &mut Vec<Scored>, count: usize) {
        if count > 0 && list.len() > count {
            list.select_nth_unstable_by(count - 1, |a, b| self.order(a, b));
            list.truncate(count);
        }
    }
}

/// The best `count` of what was pushed.
struct Best {
    ranking: Ranking,
    count: usize,
    list: Vec<Scored>,
    /// Scores below this cannot be among the best.
    threshold: f32,
}

impl Best {
    fn new(ranking: Ranking, count: usize) -> Self {
        // A quarter more than is kept: selections cost four times their share of pushes, and are rare once the threshold
        // has risen.
        Self { ranking, count, list: Vec::with_capacity(count + count / 4 + 256), threshold: 0.0 }
    }

    fn push(&mut self, scored: Scored) {
        if self.list.len() == self.list.capacity() {
            self.ranking.keep_best(&mut self.list, self.count);
            self.threshold = self.list.last().map_or(0.0, |last| last.score);
        }
        self.list.push(scored);
    }
}

/// See [`crate::SparseLinear::grow`].
pub(super) fn grow(
    cpu: &Cpu,
    request: &GrowRequest<'_>,
    pairs: &[(&Strips<Cpu>, &Strips<Cpu>)],
) -> Result<Vec<Candidate>, BackendError> {
    let exclude = request.exclude;
    let (m, k) = (exclude.nrows(), exclude.ncols());
    let mut lanes = 0;
    for (dy, x) in pairs {
        check_lanes("grow", x.layout, dy.layout)?;
        expect_equal("grow", "rows of dY", m, dy.layout.features())?;
        expect_equal("grow", "rows of X", k, x.layout.features())?;
        expect_equal("grow", "length of dY", dy.layout.len(), dy.data.len())?;
        expect_equal("grow", "length of X", x.layout.len(), x.data.len())?;
        lanes += x.layout.lanes();
    }
    if request.count == 0 {
        return Ok(Vec::new());
    }
    let (bands, ncols) = (m.div_ceil(TILE_ROWS), k as u64);
    let ranking = Ranking { ties: request.ties, ncols };
    // There are no more candidates than this.
    let count = request.count.min(m * k - exclude.nnz());
    let operations = 2 * (m * k) as u64 * lanes.max(1) as u64;
    // One list per worker at a time, taken from and returned to a pool, so that memory does not follow the bands.
    let pool: Mutex<Vec<(Best, Vec<f32>)>> = Mutex::new(Vec::new());
    let take = || pool.lock().expect("no task panics while it holds the lock").pop();
    cpu.for_each_task(bands, operations, |band| {
        let fresh = || (Best::new(ranking, count), vec![0.0; TILE_ROWS * TILE_COLUMNS]);
        let (mut best, mut tile) = take().unwrap_or_else(fresh);
        let rows = band * TILE_ROWS..((band + 1) * TILE_ROWS).min(m);
        for first in (0..k).step_by(TILE_COLUMNS) {
            let columns = first..(first + TILE_COLUMNS).min(k);
            // The first product overwrites what an earlier tile left; without lanes there is no product.
            let with_lanes = pairs.iter().filter(|(_, x)| x.layout.lanes() > 0);
            if lanes == 0 {
                tile.fill(0.0);
            }
            for (i, (dy, x)) in with_lanes.enumerate() {
                // SAFETY: the tile has TILE_ROWS rows of TILE_COLUMNS and is this task's own.
                unsafe { outer_product(dy, rows.clone(), x, columns.clone(), tile.as_mut_ptr(), TILE_COLUMNS, i > 0) };
            }
            scan(request, &tile, rows.clone(), columns, &mut best);
        }
        pool.lock().expect("no task panics while it holds the lock").push((best, tile));
    });
    let lists = pool.into_inner().expect("no task panics while it holds the lock");
    let mut lists = lists.into_iter().map(|(best, _)| best.list);
    let mut all = lists.next().unwrap_or_default();
    ranking.keep_best(&mut all, count);
    for list in lists {
        all.extend(list);
        ranking.keep_best(&mut all, count);
    }
    all.sort_unstable_by_key(|s| (s.row, s.column));
    Ok(all.into_iter().map(|s| Candidate { row: s.row, column: s.column, score: s.score }).collect())
}

/// Pushes the tile's positions outside the excluded pattern that may be among the best.
fn scan(
    request: &GrowRequest<'_>,
    tile: &[f32],
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
    best: &mut Best,
) {
    for row in rows.clone() {
        let scores = &tile[(row - rows.start) * TILE_COLUMNS..][..columns.len()];
        let excluded = request.exclude.row(row);
        let from = excluded.partition_point(|&c| (c as usize) < columns.start);
        let mut excluded = excluded[from..].iter().map(|&c| c as usize).peekable();
        // Blocks let the compiler test a vector at once; nearly all blocks hold nothing above the threshold.
        for (block, part) in scores.chunks(16).enumerate() {
            // A NaN compares false here and counts as 0 below: a step whose gradient is NaN is reported elsewhere.
            let above = part.iter().fold(false, |any, s| any | (s.abs() >= best.threshold));
            if !above && best.threshold > 0.0 {
                continue;
            }
            for (offset, value) in part.iter().enumerate() {
                let column = columns.start + block * 16 + offset;
                let score = if value.is_nan() { 0.0 } else { value.abs() };
                if score < best.threshold {
                    continue;
                }
                while excluded.next_if(|&c| c < column).is_some() {}
                if excluded.peek() != Some(&column) {
                    best.push(Scored { score, row: row as u32, column: column as u32 });
                }
            }
        }
    }
}
