//! Growth over shards: the dense gradient in tiles of rows, each added up over shards along their tree.
//!
//! ```text
//! for each tile of rows
//!     for each shard   tile = dY[rows] · Xᵀ                       dense, of this tile alone
//!     sum over shards                                             (here, and among workers)
//!     offer the sum's entries outside the topology to the best
//! ```
//!
//! Memory is that of a tile for each node of the tree that is known, and of twice the candidates that are sought.

use std::cmp::Ordering;
use std::ops::Range;

use sparse_kernels::{
    Activations, Backend, Candidate, GrowRequest, ImageLayout, Images, Layout, Precision, StripLayout, Strips,
};

use crate::weights::{Geometry, Pair, Weight};
use crate::{Error, ParameterId, Tree};

/// Positions of a tile, unless a row has more.
const TILE: usize = 64 << 10;

/// What growth over shards is asked for, of one weight.
#[derive(Debug)]
pub struct Growth<'g, B: Backend> {
    backend: &'g B,
    parameter: ParameterId,
    geometry: Geometry,
    request: &'g GrowRequest,
    blocks: Blocks,
    shards: usize,
    /// `(dY, X)` of each use, and its shard.
    pairs: Vec<(usize, Pair<'g, B>)>,
}

/// How positions are put together as blocks: one of 1 × 1 is a position.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    size: [usize; 2],
    taps: usize,
}

/// The rows of a tile of a weight of this size, whose blocks have so many rows.
///
/// ```
/// use autograd::growth_tile_rows;
/// assert_eq!([growth_tile_rows([300, 784], 1), growth_tile_rows([8, 1 << 17], 4)], [83, 4]);
/// ```
pub fn growth_tile_rows([_, ncols]: [usize; 2], block_rows: usize) -> usize {
    (TILE / ncols.max(1)).max(1).next_multiple_of(block_rows)
}

impl<'g, B: Backend> Growth<'g, B> {
    pub(crate) fn new(
        backend: &'g B,
        parameter: ParameterId,
        weight: &'g dyn Weight<B>,
        request: &'g GrowRequest,
        shards: usize,
        pairs: Vec<(usize, Pair<'g, B>)>,
    ) -> Self {
        let blocks = match weight.block_pattern(backend) {
            Some(pattern) => Blocks { size: pattern.block_size(), taps: pattern.taps() },
            None => Blocks { size: [1, 1], taps: 1 },
        };
        Self { backend, parameter, geometry: weight.geometry(backend), request, blocks, shards, pairs }
    }

    /// The weight.
    pub fn parameter(&self) -> ParameterId {
        self.parameter
    }

    /// The rows of each tile. They depend on the weight's shape and blocks only.
    pub fn tiles(&self) -> Vec<Range<usize>> {
        let size = self.geometry.size();
        // Rows of one group read other channels than those of the next.
        let is_whole = matches!(self.geometry, Geometry::Conv { shape, .. } if shape.groups() > 1);
        let step = if is_whole { size[0] } else { growth_tile_rows(size, self.blocks.size[0]) };
        (0..size[0]).step_by(step.max(1)).map(|first| first..(first + step).min(size[0])).collect()
    }

    /// The positions of a tile, counted through the weight row by row.
    pub fn positions(&self, rows: &Range<usize>) -> Range<usize> {
        let ncols = self.geometry.size()[1];
        rows.start * ncols..rows.end * ncols
    }

    /// The part of a tile's positions that is number `part` of `parts` of about the same size; blocks stay whole.
    pub fn part(&self, rows: &Range<usize>, part: usize, parts: usize) -> Range<usize> {
        let all = self.positions(rows);
        let unit = match self.blocks.size {
            [1, 1] => 1,
            [rows_of_block, _] => rows_of_block * self.geometry.size()[1],
        };
        let units = all.len().div_ceil(unit);
        let at = |part: usize| (all.start + part * units / parts * unit).min(all.end);
        at(part)..at(part + 1)
    }

    /// The gradient of a tile's rows, row by row, summed over the shards that are computed here as far as the tree allows.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn tile(&self, rows: Range<usize>) -> Result<Tree<Vec<f32>>, Error> {
        let mut tree = Tree::new(self.shards);
        let mut of_shards: Vec<usize> = self.pairs.iter().map(|(shard, _)| *shard).collect();
        of_shards.sort_unstable();
        of_shards.dedup();
        for shard in of_shards {
            let mut tile = self.backend.zeros(self.positions(&rows).len())?;
            let of_shard = self.pairs.iter().filter(|(of, _)| *of == shard);
            for (i, (_, pair)) in of_shard.enumerate() {
                self.gradient(*pair, rows.clone(), &mut tile, i > 0)?;
            }
            let mut numbers = vec![0.0; self.positions(&rows).len()];
            self.backend.download(&tile, &mut numbers)?;
            tree.insert(shard..shard + 1, numbers, |mut sum: Vec<f32>, other: Vec<f32>| {
                sum.iter_mut().zip(&other).for_each(|(sum, other)| *sum += other);
                Ok::<_, Error>(sum)
            })?;
        }
        Ok(tree)
    }

    fn gradient(
        &self,
        (dy, x): Pair<'_, B>,
        rows: Range<usize>,
        tile: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error> {
        let dy = self.rows_of(dy, rows.clone())?;
        match (self.geometry, &dy, x) {
            (Geometry::Linear { .. }, Activations::Strips(dy), Activations::Strips(x)) => {
                self.backend.gemm_weight_grad(dy, x, tile, accumulate)?;
            }
            (Geometry::Conv { shape, .. }, Activations::Images(dy), Activations::Images(x)) => {
                let shape = shape.with_out_channels(rows.len())?;
                self.backend.conv_weight_grad_dense(shape, dy, x, tile, accumulate)?;
            }
            _ => unreachable!("the tape has checked what the weight joins"),
        }
        Ok(())
    }

    /// Some features or channels.
    fn rows_of(&self, dy: &Activations<B>, rows: Range<usize>) -> Result<Activations<B>, Error> {
        Ok(match dy.layout() {
            Layout::Strips(from) => {
                let to = from.with_features(rows.len());
                let data = self.gathered(dy.data(), &strips_map(from, to, rows.start))?;
                Strips { layout: to, data }.into()
            }
            Layout::Images(from) => {
                let to = from.with_channels(rows.len());
                let data = self.gathered(dy.data(), &images_map(from, to, rows.start))?;
                Images { layout: to, data }.into()
            }
        })
    }

    /// `from[map]`, stored as `from` is.
    fn gathered(&self, from: &B::Buffer, map: &[u32]) -> Result<B::Buffer, Error> {
        let precision = self.backend.precision(from);
        let mut data = self.backend.zeros(map.len())?;
        if precision == Precision::F32 {
            self.backend.gather(from, map, &mut data)?;
            return Ok(data);
        }
        let mut wide = self.backend.zeros(self.backend.len(from))?;
        self.backend.convert(from, &mut wide)?;
        self.backend.gather(&wide, map, &mut data)?;
        let mut stored = self.backend.zeros_in(precision, map.len())?;
        self.backend.convert(&data, &mut stored)?;
        Ok(stored)
    }

    /// Nothing offered yet.
    pub fn best(&self) -> BestGrowth<'g> {
        let exclude = &self.request.exclude;
        let free = exclude.nrows() * exclude.ncols() - exclude.nnz();
        let count = self.request.count.min(free);
        let columns = self.geometry.size()[1];
        BestGrowth { request: self.request, count, columns, blocks: self.blocks, candidates: vec![], least: None }
    }
}

/// Where each number of some features comes from.
fn strips_map(from: StripLayout, to: StripLayout, first: usize) -> Vec<u32> {
    let mut map = vec![u32::MAX; to.len()];
    for lane in (0..to.strips() * to.strip()).step_by(to.strip()) {
        for feature in 0..to.features() {
            let (at, source) = (to.index(feature, lane), from.index(first + feature, lane));
            map[at..][..to.strip()].iter_mut().zip(source as u32..).for_each(|(map, source)| *map = source);
        }
    }
    map
}

/// Where each number of some channels comes from; borders and padding stay zero.
fn images_map(from: ImageLayout, to: ImageLayout, first: usize) -> Vec<u32> {
    let mut map = vec![u32::MAX; to.len()];
    let [height, width] = to.size();
    for sample in 0..to.samples() {
        for channel in 0..to.channels() {
            for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                map[to.index(sample, channel, [y, x])] = from.index(sample, first + channel, [y, x]) as u32;
            }
        }
    }
    map
}

/// The best candidates of the tiles, and of the lists, that have been offered.
#[derive(Debug)]
pub struct BestGrowth<'g> {
    request: &'g GrowRequest,
    count: usize,
    /// Of the weight.
    columns: usize,
    blocks: Blocks,
    candidates: Vec<Candidate>,
    /// The score of the last one that is among the best so far.
    least: Option<f32>,
}

impl BestGrowth<'_> {
    /// Offers the gradient, summed over all shards, at positions that [`Growth::part`] has named.
    pub fn offer(&mut self, positions: Range<usize>, gradient: &[f32]) {
        let [r, c] = self.blocks.size;
        let (exclude, of_row) = (&self.request.exclude, r * self.columns);
        for row in positions.start / of_row..positions.end.div_ceil(of_row) {
            let start = positions.start.max(row * of_row);
            let end = positions.end.min((row + 1) * of_row);
            let gradient = &gradient[start - positions.start..end - positions.start];
            let places = match self.blocks.size {
                [1, 1] => start - row * of_row..end - row * of_row,
                _ => 0..exclude.ncols(),
            };
            let excluded = exclude.row(row);
            let before = excluded.partition_point(|&column| (column as usize) < places.start);
            let mut excluded = excluded[before..].iter().peekable();
            for column in places.clone() {
                if excluded.next_if(|&&next| next as usize == column).is_some() {
                    continue;
                }
                let score = match self.blocks.size {
                    [1, 1] => gradient[column - places.start].abs(),
                    _ => self.norm(gradient, column * c..((column + 1) * c).min(self.columns)),
                };
                // What is not a number counts as 0.
                let score = if score.is_nan() { 0.0 } else { score };
                if self.least.is_none_or(|least| score >= least) {
                    self.candidates.push(Candidate { row: row as u32, column: column as u32, score });
                    self.keep_best();
                }
            }
        }
    }

    /// The Frobenius norm of a block, squares summed row by row.
    fn norm(&self, rows: &[f32], places: Range<usize>) -> f32 {
        let channels = self.columns / self.blocks.taps;
        let column = |place: usize| place % channels * self.blocks.taps + place / channels;
        let square = |x: f32| f64::from(x) * f64::from(x);
        let of_row = |row: &[f32]| places.clone().map(|place| square(row[column(place)])).sum::<f64>();
        rows.chunks_exact(self.columns).map(of_row).sum::<f64>().sqrt() as f32
    }

    /// Offers what another worker has found in tiles of its own.
    pub fn offer_candidates(&mut self, candidates: impl IntoIterator<Item = Candidate>) {
        for candidate in candidates {
            self.candidates.push(candidate);
            self.keep_best();
        }
    }

    /// The most that can be found.
    pub fn most(&self) -> usize {
        self.count
    }

    /// The best of what has been offered so far.
    pub fn best_so_far(&mut self) -> &[Candidate] {
        self.select();
        &self.candidates
    }

    /// Drops what cannot be among the best, once there is twice what is sought.
    fn keep_best(&mut self) {
        const ROOM: usize = 1 << 12;
        if self.candidates.len() >= 2 * self.count.max(ROOM) {
            self.select();
        }
    }

    fn select(&mut self) {
        if self.candidates.len() <= self.count {
            return;
        }
        if self.count == 0 {
            self.candidates.clear();
            return;
        }
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.select_nth_unstable_by(self.count - 1, |a, b| self.order(a, b));
        candidates.truncate(self.count);
        self.least = candidates.last().map(|last| last.score);
        self.candidates = candidates;
    }

    /// The better one first.
    fn order(&self, a: &Candidate, b: &Candidate) -> Ordering {
        let (ties, ncols) = (self.request.ties, self.request.exclude.ncols() as u64);
        let position = |c: &Candidate| u64::from(c.row) * ncols + u64::from(c.column);
        let hash = |c: &Candidate| ties.bits(position(c)) as u32;
        b.score.total_cmp(&a.score).then_with(|| (hash(a), position(a)).cmp(&(hash(b), position(b))))
    }

    /// The last one among the best, if there are as many as are sought.
    pub fn last(&mut self) -> Option<Candidate> {
        self.select();
        self.candidates.iter().filter(|_| self.candidates.len() == self.count).max_by(|a, b| self.order(a, b)).copied()
    }

    /// Whether a candidate is as good as that one.
    pub fn is_as_good(&self, candidate: &Candidate, as_that: &Candidate) -> bool {
        self.order(candidate, as_that).is_le()
    }

    /// The best, in order of position.
    pub fn into_candidates(mut self) -> Vec<Candidate> {
        self.select();
        self.candidates.sort_unstable_by_key(|c| (c.row, c.column));
        self.candidates
    }
}
