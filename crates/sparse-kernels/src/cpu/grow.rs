//! Streaming growth: the k largest `abs(dY · Xᵀ)` outside a pattern, without ever holding the dense gradient.
//!
//! ```text
//! threshold = guess from a sample of the gradient
//! repeat
//!     for each band of rows, for each tile of columns (parallel)
//!         pack the tile of X as panels [panel][lane][column]
//!         for each group of 6 or 12 rows of the band
//!             bits = which positions of group × tile are excluded
//!             for each panel
//!                 scores = abs(group of dY · panel)       in registers, over all lanes
//!                 append scores >= threshold outside bits to their row's candidates
//!             append the rows' candidates to the thread's list;
//!                 if that is full, keep its best k and raise the threshold
//! until the lists hold k, or the threshold was 0; else lower the threshold
//! keep the best k of all lists, in order of position
//! ```
//!
//! The guess decides how long this takes, never what it finds: a threshold that leaves at least k positions leaves all of
//! the best k. Which k are best is a total order (score, tie hash, position), and a score is one chain of multiply-adds
//! over the lanes, the same in whatever tile it is computed. So neither tiles nor threads can be seen in the result.
//!
//! # Cost
//!
//! The product, and for each excluded position and each candidate some nanoseconds. A thread holds 12 bytes per position
//! asked for, a tile of X of 256 KiB (or, beyond 2048 lanes, 128 bytes a lane) and as much again for a group's rows.
//! A guess that was too high costs the product once more.
//!
//! # What was done for speed
//!
//! * The gradient is compared where it is computed, in registers: nothing of dense size is written, where a dense product
//!   writes 4 bytes per position. Rows of dY are read in place; only X is packed, once for a band of 1024 rows.
//! * The sample is of random rows and columns, one position in 128. Its quantile is taken three standard errors low.
//! * Excluded positions are bits, made in one pass over the entries and taken out of the comparison's result. What is left
//!   of a vector is stored closed up ([`Isa::store_where`]): a loop over its bits would end at a place that no branch
//!   predictor knows.
//! * With rows outside and panels inside, a tile's candidates come in order of position, and no sort is needed.
//! * Selection takes the k-th score from a histogram of the scores' bits, which order as the scores do, and hashes only
//!   positions whose score ties with it.
//!
//! # What was tried and left out
//!
//! See `docs/kernels.md`, "Growth".

mod best;

use std::ops::Range;
use std::sync::Mutex;

pub(super) use best::{BAND_ROWS, Best, PLACE_ROW, Ranking, in_order};
use best::{List, MOST_ROWS};

use super::gemm::grid;
use super::isa::{Isa, Kernel, array_of, dispatch};
use super::{Buffer, Cpu};
use crate::backend::GrowRequest;
use crate::pattern::count_below;
use crate::random::Key;
use crate::{Candidate, StripLayout, Strips};

/// Floats of a packed tile of X: it stays in an L2 of 512 KiB or more while a band's rows pass by.
const TILE_FLOATS: usize = 64 << 10;
/// Vectors of a panel's row. With two, a broadcast of dY serves two multiply-adds.
pub(super) const VECTORS: usize = 2;
/// Columns of the pattern in a cache line.
const LINE: usize = 64 / size_of::<u32>();
/// Most lanes of a vector.
pub(super) const MOST_LANES: usize = 16;
/// Fewest and most positions in a sample.
const SAMPLE: [usize; 2] = [2 << 10, 16 << 10];
/// Most positions of a sample that are looked up among the excluded.
const LOOKED_UP: usize = 256;
/// Row groups that a sampled panel is multiplied with: gathering the panel costs as much as one of them.
const SAMPLE_GROUPS: usize = 4;

/// One strip of one pair of operands: `[feature][width]`, of which `lanes` count.
struct StripPair<'a> {
    dy: &'a [f32],
    x: &'a [f32],
    width: usize,
    lanes: usize,
}

/// `G = dY · Xᵀ`, summed over all strips of all pairs.
pub(super) struct Gradient<'a> {
    strips: Vec<StripPair<'a>>,
    pub nrows: usize,
    ncols: usize,
    pub lanes: usize,
}

impl<'a> Gradient<'a> {
    pub fn new(nrows: usize, ncols: usize, pairs: &'a [(&'a Strips<Cpu>, &'a Strips<Cpu>)]) -> Self {
        let (mut strips, mut lanes) = (Vec::new(), 0);
        for (dy, x) in pairs {
            lanes += x.layout.lanes();
            strips.extend((0..x.layout.strips()).map(|s| {
                let part = |strips: &'a Strips<Cpu>| {
                    let pitch = strips.layout.strip_pitch();
                    &strips.data[s * pitch..][..pitch]
                };
                StripPair { dy: part(dy), x: part(x), width: x.layout.strip(), lanes: x.layout.lanes_of(s) }
            }));
        }
        Self { strips, nrows, ncols, lanes }
    }

    /// Writes the panel `[lane][VECTORS · LANES]` of the given columns of Xᵀ; beyond the last column it keeps what it
    /// held.
    #[inline(always)]
    fn pack<I: Isa>(&self, _isa: I, columns: impl ExactSizeIterator<Item = usize> + Clone, panel: &mut [f32]) {
        let width = VECTORS * I::LANES;
        let mut panel = &mut panel[..self.lanes * width];
        for strip in &self.strips {
            let (part, rest) = panel.split_at_mut(strip.lanes * width);
            for (i, column) in columns.clone().enumerate() {
                let from = &strip.x[column * strip.width..][..strip.lanes];
                for (to, &from) in part[i..].iter_mut().step_by(width).zip(from) {
                    *to = from;
                }
            }
            panel = rest;
        }
    }

    /// Packs a tile's columns as panels, one after the other; returns how many there are.
    #[inline(always)]
    pub fn pack_tile<I: Isa>(&self, isa: I, columns: Range<usize>, panels: &mut Buffer) -> usize {
        let width = VECTORS * I::LANES;
        let (count, size) = (columns.len().div_ceil(width), width * self.lanes);
        if panels.len() < count * size {
            *panels = Buffer::zeros(count * size);
        }
        for panel in 0..count {
            let first = columns.start + panel * width;
            self.pack(isa, first..(first + width).min(columns.end), &mut panels[panel * size..]);
        }
        count
    }

    /// Scores of `ROWS` rows from `first` on and all columns of a panel.
    #[inline(always)]
    pub fn product<I: Isa, const ROWS: usize>(&self, isa: I, first: usize, panel: &[f32]) -> [[I::V; VECTORS]; ROWS] {
        let width = VECTORS * I::LANES;
        assert!(first + ROWS <= self.nrows && self.lanes * width <= panel.len());
        let mut sums = [[isa.splat(0.0); VECTORS]; ROWS];
        let mut panel = panel;
        for strip in &self.strips {
            let (part, rest) = panel.split_at(strip.lanes * width);
            let dy = &strip.dy[first * strip.width..][..ROWS * strip.width];
            // A distance between rows that the compiler knows is part of the addresses; another takes a register a row.
            match strip.width {
                StripLayout::SPARSE_STRIP => add_strip(isa, dy, StripLayout::SPARSE_STRIP, part, &mut sums),
                other => add_strip(isa, dy, other, part, &mut sums),
            }
            panel = rest;
        }
        sums
    }

    fn operations(&self) -> u64 {
        2 * (self.nrows * self.ncols) as u64 * self.lanes.max(1) as u64
    }
}

/// Adds the products of one strip: rows of dY at distances of `strip` floats, panel `[lane][VECTORS · LANES]`.
#[inline(always)]
fn add_strip<I: Isa, const ROWS: usize>(
    isa: I,
    dy: &[f32],
    strip: usize,
    panel: &[f32],
    sums: &mut [[I::V; VECTORS]; ROWS],
) {
    let lanes = panel.len() / (VECTORS * I::LANES);
    assert!(lanes <= strip && ROWS * strip <= dy.len());
    for lane in 0..lanes {
        let x: [I::V; VECTORS] = array_of(|v| {
            // SAFETY: the panel has VECTORS · LANES floats for each lane.
            unsafe { isa.load(panel.as_ptr().add((lane * VECTORS + v) * I::LANES)) }
        });
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: row < ROWS and lane < lanes <= strip, and dy has ROWS · strip floats.
            let dy = isa.splat(unsafe { *dy.as_ptr().add(row * strip + lane) });
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = isa.mul_add(dy, x, *sum);
            }
        }
    }
}

/// Calls `$body` with `$rows` bound to the number of rows whose sums fit the registers beside a panel's vectors and a
/// broadcast.
macro_rules! with_rows {
    ($isa:ty, $nrows:expr, $call:ident($($argument:expr),*)) => {
        match <$isa>::REGISTERS {
            _ if $nrows < 6 || const { !<$isa>::IS_VECTOR } => $call::<$isa, 1>($($argument),*),
            32 if $nrows >= 12 => $call::<$isa, 12>($($argument),*),
            _ => $call::<$isa, 6>($($argument),*),
        }
    };
}

pub(super) use with_rows;

/// Pushes what may be among the best of some rows and columns.
struct Scan<'a> {
    gradient: &'a Gradient<'a>,
    request: &'a GrowRequest,
    rows: Range<usize>,
    columns: Range<usize>,
    scratch: &'a mut Scratch,
    best: &'a mut Best,
}

/// A thread's memory for a tile.
struct Scratch {
    /// The packed tile of X.
    panels: Buffer,
    /// Excluded positions of a group of rows.
    excluded: Vec<u32>,
    /// Scores and columns of each row of a group, and room for a vector more.
    scores: Vec<f32>,
    found: Vec<f32>,
}

impl Scratch {
    fn new(tile_columns: usize) -> Self {
        let rows = || vec![0.0; MOST_ROWS * (tile_columns + MOST_LANES)];
        Self { panels: Buffer::zeros(0), excluded: Vec::new(), scores: rows(), found: rows() }
    }
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
    let Scan { gradient, request, rows, columns, scratch, best } = task;
    let width = VECTORS * I::LANES;
    let lanes = gradient.lanes;
    let panels = gradient.pack_tile(isa, columns.clone(), &mut scratch.panels);
    best.list.tiles.push((best.list.scores.len(), [rows.start as u32, columns.start as u32]));
    let mut counting = [0.0f32; MOST_LANES];
    counting.iter_mut().enumerate().for_each(|(i, c)| *c = i as f32);
    // SAFETY: no vector has more lanes than MOST_LANES.
    let counting = unsafe { isa.load(counting.as_ptr()) };
    let zero = isa.splat(0.0);
    let pitch = columns.len() + MOST_LANES;
    assert!(ROWS <= MOST_ROWS && I::LANES <= MOST_LANES && columns.len() <= PLACE_ROW);
    let Scratch { panels: packed, excluded, scores, found } = scratch;
    assert!(scores.len() >= ROWS * pitch && found.len() == scores.len());
    let mut next = rows.start;
    while next < rows.end {
        // The last group overlaps the one before and leaves its rows alone.
        let first = next.min(rows.end - ROWS);
        mark_excluded(request, first..first + ROWS, columns.clone(), width, excluded);
        excluded[..(next - first) * panels].fill(u32::MAX);
        // The next rows' part is a few hundred bytes from each, which hardware does not foresee.
        for row in (first + ROWS..(first + 2 * ROWS).min(rows.end)).map(|row| request.exclude.row(row)) {
            let at = |column: usize| row.len() * column / request.exclude.ncols();
            for line in (at(columns.start)..at(columns.end)).step_by(LINE) {
                isa.prefetch(row.as_ptr().wrapping_add(line).cast());
            }
        }
        let bound = isa.splat(best.cut.score);
        let mut lens = [0; ROWS];
        for panel in 0..panels {
            let x = &packed[panel * width * lanes..][..width * lanes];
            let sums = gradient.product::<I, ROWS>(isa, first, x);
            let column = |v: usize| isa.add(isa.splat((panel * width + v * I::LANES) as f32), counting);
            let columns: [I::V; VECTORS] = array_of(column);
            for (r, sums) in sums.into_iter().enumerate() {
                let free = !excluded[r * panels + panel];
                for (v, sum) in sums.into_iter().enumerate() {
                    // The second maximum makes a NaN 0: a step whose gradient is NaN is reported elsewhere.
                    let score = isa.max(isa.max(sum, isa.sub(zero, sum)), zero);
                    let bits = isa.not_below(score, bound) & (free >> (v * I::LANES));
                    let at = r * pitch + lens[r];
                    // SAFETY: a row finds no more than the tile's columns, what lies beyond them being marked as
                    // excluded, and `pitch` leaves room for a vector behind them; there are ROWS such rows.
                    unsafe {
                        isa.store_where(scores.as_mut_ptr().add(at), score, bits);
                        isa.store_where(found.as_mut_ptr().add(at), columns[v], bits);
                    }
                    lens[r] += bits.count_ones() as usize;
                }
            }
        }
        for (r, len) in lens.into_iter().enumerate() {
            let row = r * pitch..r * pitch + len;
            best.push(&scores[row.clone()], first + r - rows.start, &found[row]);
        }
        next = first + ROWS;
    }
}

/// Sets in `bits[row][panel]` the bits of excluded columns, and of those beyond the last.
#[inline(always)]
fn mark_excluded(request: &GrowRequest, rows: Range<usize>, columns: Range<usize>, width: usize, bits: &mut Vec<u32>) {
    let panels = columns.len().div_ceil(width);
    let last = columns.len() - (panels - 1) * width;
    bits.clear();
    bits.resize(panels * rows.len(), 0);
    for (bits, row) in bits.chunks_exact_mut(panels).zip(rows) {
        if last < width {
            bits[panels - 1] = u32::MAX << last;
        }
        let excluded = request.exclude.row(row);
        let guess = excluded.len() * columns.start / request.exclude.ncols();
        let first = count_below(excluded, columns.start, guess);
        for &column in &excluded[first..] {
            let at = (column as usize).wrapping_sub(columns.start);
            let Some(bits) = bits.get_mut(at / width) else { break };
            *bits |= 1 << (at % width);
        }
    }
}

/// Scores of random positions.
struct Sample<'a> {
    gradient: &'a Gradient<'a>,
    key: Key,
    positions: usize,
}

impl Kernel for Sample<'_> {
    type Output = Vec<Candidate>;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> Vec<Candidate> {
        with_rows!(I, self.gradient.nrows, sample(isa, self))
    }
}

#[inline(always)]
fn sample<I: Isa, const ROWS: usize>(isa: I, task: Sample<'_>) -> Vec<Candidate> {
    let Sample { gradient, key, positions } = task;
    let width = VECTORS * I::LANES;
    let groups = positions.div_ceil(ROWS * width);
    let mut list = Vec::with_capacity(groups * ROWS * width);
    let mut panel = Buffer::zeros(width * gradient.lanes);
    let (mut columns, starts) = (Vec::with_capacity(width), (gradient.nrows - ROWS + 1) as u64);
    let mut draws = 0..;
    let mut draw = |bound: u64| key.below(draws.next().unwrap_or(0), bound);
    for group in 0..groups {
        if group % SAMPLE_GROUPS == 0 {
            columns.clear();
            columns.extend((0..width).map(|_| draw(gradient.ncols as u64) as u32));
            gradient.pack(isa, columns.iter().map(|&c| c as usize), &mut panel);
        }
        let first = draw(starts) as usize;
        for (r, sums) in gradient.product::<I, ROWS>(isa, first, &panel).into_iter().enumerate() {
            let mut scores = [0.0f32; VECTORS * MOST_LANES];
            for (v, sum) in sums.into_iter().enumerate() {
                // SAFETY: two vectors have at most 32 lanes.
                unsafe { isa.store(scores.as_mut_ptr().add(v * I::LANES), sum) };
            }
            let row = (first + r) as u32;
            // This maximum makes a NaN 0, too.
            let scores = scores.map(|s| s.abs().max(0.0));
            list.extend(columns.iter().zip(scores).map(|(&column, score)| Candidate { row, column, score }));
        }
    }
    list
}

/// Thresholds to try, the last one 0.
fn thresholds(cpu: &Cpu, gradient: &Gradient<'_>, request: &GrowRequest, count: usize) -> Vec<f32> {
    let all = gradient.nrows * gradient.ncols;
    let positions = (all / 128).clamp(SAMPLE[0], SAMPLE[1]);
    // In a small matrix, and where most positions are wanted, a threshold saves less than it costs.
    if all < 8 * positions || gradient.lanes == 0 || count > all / 2 {
        return vec![0.0];
    }
    let key = request.ties.with_name("sample");
    let mut sample = dispatch(cpu.isa, Sample { gradient, key, positions });
    let expected = sample.len() as f64 * count as f64 / all as f64;
    // Hits are about Poisson distributed: three standard errors, and some for few of them.
    let rank = expected + 3.0 * expected.sqrt() + 4.0;
    let score_at = |sample: &mut [Candidate], rank: f64| {
        let at = (rank as usize).min(sample.len()) - 1;
        sample.select_nth_unstable_by(at, |a, b| b.score.total_cmp(&a.score)).1.score
    };
    score_at(&mut sample, rank);
    // Excluded positions do not count. How many there are among the largest is asked of some of them.
    let largest = &sample[..(rank as usize).min(sample.len())];
    let asked = largest.iter().step_by(largest.len().div_ceil(LOOKED_UP));
    let is_free = |c: &&Candidate| request.exclude.row(c.row as usize).binary_search(&c.column).is_err();
    let free = (1 + asked.clone().filter(is_free).count()) as f64 / (1 + asked.len()) as f64;
    // The second is for matrices whose rows or columns differ so much that few positions cannot speak for the rest.
    [1.0, 4.0]
        .map(|factor| score_at(&mut sample, factor * rank / free))
        .into_iter()
        .filter(|&t| t > 0.0)
        .chain([0.0])
        .collect()
}

/// See [`crate::SparseLinear::largest`].
pub(super) fn largest(gradient: &[f32], request: &GrowRequest) -> Vec<Candidate> {
    let (exclude, nrows, ncols) = (&*request.exclude, request.exclude.nrows(), request.exclude.ncols());
    let count = request.count.min(nrows * ncols - exclude.nnz());
    if count == 0 {
        return Vec::new();
    }
    let ranking = Ranking { ties: request.ties, ncols: ncols as u64 };
    let mut best = Best::new(ranking, count, 0.0, ncols.min(PLACE_ROW));
    for first in (0..nrows).step_by(BAND_ROWS) {
        let rows = first..(first + BAND_ROWS).min(nrows);
        best.push_rows(exclude, rows.clone(), &gradient[rows.start * ncols..rows.end * ncols]);
    }
    in_order(&best.list, ranking, count)
}

/// See [`crate::SparseLinear::grow`].
pub(super) fn grow(cpu: &Cpu, request: &GrowRequest, pairs: &[(&Strips<Cpu>, &Strips<Cpu>)]) -> Vec<Candidate> {
    let exclude = &*request.exclude;
    let gradient = Gradient::new(exclude.nrows(), exclude.ncols(), pairs);
    // There are no more candidates than this.
    let count = request.count.min(gradient.nrows * gradient.ncols - exclude.nnz());
    if count == 0 {
        return Vec::new();
    }
    grow_from(cpu, request, &gradient, count, &thresholds(cpu, &gradient, request, count))
}

/// The best `count`, with scans from one threshold after another until one finds as many; the last is 0.
fn grow_from(
    cpu: &Cpu,
    request: &GrowRequest,
    gradient: &Gradient<'_>,
    count: usize,
    thresholds: &[f32],
) -> Vec<Candidate> {
    let ranking = Ranking { ties: request.ties, ncols: gradient.ncols as u64 };
    let mut all = List::default();
    for &threshold in thresholds {
        all = candidates(cpu, request, gradient, ranking, count, threshold);
        if all.scores.len() >= count {
            break;
        }
    }
    in_order(&all, ranking, count)
}

/// All positions that score at least `threshold`, or the best `count` of them and some more.
fn candidates(
    cpu: &Cpu,
    request: &GrowRequest,
    gradient: &Gradient<'_>,
    ranking: Ranking,
    count: usize,
    threshold: f32,
) -> List {
    let fresh = |tile_columns| (Best::new(ranking, count, threshold, tile_columns), Scratch::new(tile_columns));
    best_of_tiles(cpu, gradient, 1, fresh, |rows, columns, (best, scratch)| {
        dispatch(cpu.isa, Scan { gradient, request, rows, columns, scratch, best });
    })
}

/// What `scan(rows, columns, state)` leaves in the lists of all states, after a call for each tile of the gradient. Bands
/// are of whole blocks of `block_rows` rows. A state belongs to one call at a time; `fresh(columns of a tile)` makes them.
pub(super) fn best_of_tiles<S: Send>(
    cpu: &Cpu,
    gradient: &Gradient<'_>,
    block_rows: usize,
    fresh: impl Fn(usize) -> (Best, S) + Sync + Send,
    scan: impl Fn(Range<usize>, Range<usize>, &mut (Best, S)) + Sync + Send,
) -> List {
    // Even tiles, each a whole number of the widest panels.
    let panel = VECTORS * MOST_LANES;
    let most_columns = (TILE_FLOATS / gradient.lanes.max(1)).clamp(panel, PLACE_ROW) / panel * panel;
    let tile_columns = gradient.ncols.div_ceil(gradient.ncols.div_ceil(most_columns)).next_multiple_of(panel);
    let tiles = gradient.ncols.div_ceil(tile_columns);
    let columns_of = |tile: usize| tile * tile_columns..((tile + 1) * tile_columns).min(gradient.ncols);
    let (bands, blocks_of) = grid(gradient.nrows.div_ceil(block_rows), BAND_ROWS / block_rows);
    let rows_of = |band: usize| {
        let blocks = blocks_of(band);
        blocks.start * block_rows..(blocks.end * block_rows).min(gradient.nrows)
    };
    // One list per worker at a time, taken from and returned to a pool, so that memory does not follow the tasks.
    let pool: Mutex<Vec<(Best, S)>> = Mutex::new(Vec::new());
    let take = || pool.lock().expect("no task panics while it holds the lock").pop();
    cpu.for_each_task(bands * tiles, gradient.operations(), |task| {
        let mut state = take().unwrap_or_else(|| fresh(tile_columns));
        scan(rows_of(task / tiles), columns_of(task % tiles), &mut state);
        pool.lock().expect("no task panics while it holds the lock").push(state);
    });
    let lists = pool.into_inner().expect("no task panics while it holds the lock");
    let mut lists = lists.into_iter().map(|(best, _)| best.list);
    let mut all = lists.next().unwrap_or_default();
    lists.for_each(|list| all.append(list));
    all
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::best::kth_largest;
    use super::*;
    use crate::CsrPattern;
    use crate::cpu::IsaName;
    use crate::testing;
    use proptest::prelude::*;

    fn strips(cpu: &Cpu, layout: StripLayout, value: impl Fn(usize) -> f32) -> Strips<Cpu> {
        let data: Vec<f32> = (0..layout.features() * layout.lanes()).map(value).collect();
        testing::strips(cpu, layout, &data)
    }

    fn uniform(nrows: usize, ncols: usize, density: f32, key: Key) -> CsrPattern {
        let all = (0..nrows as u32).flat_map(|r| (0..ncols as u32).map(move |c| (r, c)));
        let stored = all.enumerate().filter(|(i, _)| key.uniform(*i as u64) < density).map(|(_, p)| p);
        CsrPattern::from_positions(nrows, ncols, stored.collect()).unwrap()
    }

    /// Sorts all positions; scores are sums of whole numbers, so that every order of summation gives the same.
    fn naive(request: &GrowRequest, dy: &Strips<Cpu>, x: &Strips<Cpu>) -> Vec<Candidate> {
        let (nrows, ncols) = (request.exclude.nrows(), request.exclude.ncols());
        let mut all = Vec::new();
        for row in 0..nrows {
            for column in (0..ncols).filter(|&c| request.exclude.row(row).binary_search(&(c as u32)).is_err()) {
                let product = |n| dy.data[dy.layout.index(row, n)] * x.data[x.layout.index(column, n)];
                let sum: f32 = (0..x.layout.lanes()).map(product).sum();
                let score = if sum.is_nan() { 0.0 } else { sum.abs() };
                all.push(Candidate { row: row as u32, column: column as u32, score });
            }
        }
        let position = |c: &Candidate| u64::from(c.row) * ncols as u64 + u64::from(c.column);
        all.sort_by(|a, b| {
            let hash = |c| request.ties.bits(position(c)) as u32;
            b.score.total_cmp(&a.score).then(hash(a).cmp(&hash(b))).then(position(a).cmp(&position(b)))
        });
        all.truncate(request.count);
        all.sort_by_key(position);
        all
    }

    /// Small whole numbers below `range`; all zero if it is 1.
    fn whole(key: Key, range: u64) -> impl Fn(usize) -> f32 {
        move |i| key.below(i as u64, 2 * range - 1) as f32 - (range - 1) as f32
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        /// Several tiles and bands, samples and none, thresholds that are too high, many ties.
        #[test]
        fn every_threshold_and_thread_count_finds_the_same(
            nrows in 1usize..300, ncols in 1usize..300, lanes in 0usize..70, layout in 0usize..3,
            density in 0.0f32..1.0, fraction in 0.0f64..1.1, range in 1u64..6, seed in 0u64..1_000_000
        ) {
            let key = Key::new(seed);
            let exclude = uniform(nrows, ncols, density * density, key.with_name("pattern"));
            let count = (fraction * fraction * (nrows * ncols) as f64) as usize;
            let request = GrowRequest { exclude: exclude.into(), count, ties: key.with_name("ties") };
            let layout = |features| match layout {
                0 => StripLayout::single(lanes, features),
                1 => StripLayout::new(lanes, features, 16).unwrap(),
                _ => StripLayout::sparse(lanes, features),
            };
            let any = Cpu::new(1, None).unwrap();
            let x = strips(&any, layout(ncols), whole(key.with_name("x"), range));
            let dy = strips(&any, layout(nrows), whole(key.with_name("dy"), range));
            let expected = naive(&request, &dy, &x);
            for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
                for threads in [1, 2, 7] {
                    let cpu = Cpu::new(threads, Some(isa)).unwrap();
                    prop_assert_eq!(&grow(&cpu, &request, &[(&dy, &x)]), &expected);
                    let pairs = [(&dy, &x)];
                    let gradient = Gradient::new(nrows, ncols, &pairs);
                    let best = expected.iter().map(|c| c.score).fold(0.0, f32::max);
                    for thresholds in [&[0.0][..], &[f32::INFINITY, best, 0.0], &[best / 2.0, 0.0]] {
                        let count = expected.len();
                        if count > 0 {
                            prop_assert_eq!(&grow_from(&cpu, &request, &gradient, count, thresholds), &expected);
                        }
                    }
                }
            }
        }

        #[test]
        fn the_kth_largest_is_that_of_a_sort(
            mut scores in prop::collection::vec(prop_oneof![Just(0.0f32), 0.0f32..4.0, (0u8..4).prop_map(f32::from)], 1..400),
            at in 0.0f64..1.0
        ) {
            let count = 1 + (at * (scores.len() - 1) as f64) as usize;
            let got = kth_largest(&scores, count);
            scores.sort_by(|a, b| b.total_cmp(a));
            let kth = scores[count - 1];
            let number = |test: fn(f32, f32) -> bool| scores.iter().filter(|&&s| test(s, kth)).count();
            prop_assert_eq!(got, (kth, number(|s, k| s > k), number(|s, k| s == k)));
        }
    }

    /// Sizes around those of groups, panels, tiles and bands.
    #[test]
    fn borders_of_tiles() {
        let key = Key::new(4);
        for (nrows, ncols, lanes) in [
            (5, 15, 3),
            (6, 16, 32),
            (7, 17, 33),
            (11, 31, 64),
            (12, 32, 1),
            (13, 33, 31),
            (1, 1025, 2),
            (1023, 40, 5),
            (1025, 40, 5),
            (2050, 7, 2),
            (30, 600, 300),
            (17, 40, 3000),
        ] {
            let exclude = Arc::new(uniform(nrows, ncols, 0.2, key));
            let cpu = Cpu::new(2, None).unwrap();
            let x = strips(&cpu, StripLayout::sparse(lanes, ncols), whole(key.with(1), 4));
            let dy = strips(&cpu, StripLayout::sparse(lanes, nrows), whole(key.with(2), 4));
            for count in [1, nrows * ncols / 20 + 1, nrows * ncols] {
                let request = GrowRequest { exclude: exclude.clone(), count, ties: key };
                let got = grow(&cpu, &request, &[(&dy, &x)]);
                assert_eq!(got, naive(&request, &dy, &x), "{nrows}×{ncols}, {lanes} lanes, {count}");
            }
        }
    }

    /// Rows and columns of very different size, so that a sample says little; and a NaN row, which scores 0.
    #[test]
    fn uneven_gradients() {
        let (key, cpu) = (Key::new(5), Cpu::new(1, None).unwrap());
        let (nrows, ncols, lanes) = (300, 300, 8);
        let exclude = Arc::new(uniform(nrows, ncols, 0.1, key));
        let (a, b) = (whole(key.with(1), 4), whole(key.with(2), 4));
        let size = |feature: usize| if feature.is_multiple_of(97) { 64.0 } else { 1.0 };
        let x = strips(&cpu, StripLayout::sparse(lanes, ncols), |i| a(i) * size(i / lanes));
        let value = |i: usize| if i / lanes == 8 { f32::NAN } else { b(i) * size(i / lanes) };
        let dy = strips(&cpu, StripLayout::sparse(lanes, nrows), value);
        for count in [1, 10, 1000, 30_000, 90_000] {
            let request = GrowRequest { exclude: exclude.clone(), count, ties: key };
            assert_eq!(grow(&cpu, &request, &[(&dy, &x)]), naive(&request, &dy, &x), "{count}");
        }
    }

    #[test]
    fn a_full_pattern_has_no_candidates() {
        let (key, cpu) = (Key::new(6), Cpu::new(1, None).unwrap());
        let x = strips(&cpu, StripLayout::sparse(3, 20), whole(key, 4));
        let exclude = CsrPattern::full(20, 20).unwrap();
        let request = GrowRequest { exclude: exclude.into(), count: 5, ties: key };
        assert_eq!(grow(&cpu, &request, &[(&x, &x)]), []);
    }
}
