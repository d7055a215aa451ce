//! The best candidates of a stream: threads' lists, and what is chosen from them.

use std::ops::Range;

use crate::random::Key;
use crate::{Candidate, CsrPattern};

/// Rows of a band: packing costs one part in some 60 of what 1024 rows' products do.
pub const BAND_ROWS: usize = 1024;
/// Most rows of a group: 12 rows of two vectors leave 8 of 32 registers, 6 rows 4 of 16.
pub const MOST_ROWS: usize = 12;

/// Candidates as two floats each.
#[derive(Default)]
pub struct List {
    pub scores: Vec<f32>,
    /// `row · PLACE_ROW + column` within the tile: whole numbers below 2^24, which f32 holds exactly, so that vectors of
    /// them take the same operations as scores.
    places: Vec<f32>,
    /// Where each tile's candidates start, and its first row and column. They are in order of position.
    pub tiles: Vec<(usize, [u32; 2])>,
}

/// Step of a place from row to row: no tile has more columns.
pub const PLACE_ROW: usize = 1024;
const _: () = assert!(BAND_ROWS * PLACE_ROW <= 1 << 24, "places in a tile must be exact in f32");

impl List {
    /// Adds another list's candidates behind these.
    pub fn append(&mut self, other: List) {
        let start = self.scores.len();
        self.scores.extend(other.scores);
        self.places.extend(other.places);
        self.tiles.extend(other.tiles.into_iter().map(|(first, tile)| (start + first, tile)));
    }

    /// Ranges of tiles with their first rows and columns.
    fn tiles(&self) -> impl Iterator<Item = (Range<usize>, [u32; 2])> {
        let ends = self.tiles.iter().skip(1).map(|t| t.0).chain([self.scores.len()]);
        self.tiles.iter().zip(ends).map(|(&(start, tile), end)| (start..end, tile))
    }

    /// Candidates of one range that `is_kept`.
    #[inline(always)]
    fn for_each(
        &self,
        (range, [row, column]): (Range<usize>, [u32; 2]),
        is_kept: impl Fn(&Candidate) -> bool,
        mut f: impl FnMut(Candidate),
    ) {
        for (&score, &place) in self.scores[range.clone()].iter().zip(&self.places[range]) {
            let place = place as u32;
            let (row, column) = (row + place / PLACE_ROW as u32, column + place % PLACE_ROW as u32);
            let candidate = Candidate { row, column, score };
            if is_kept(&candidate) {
                f(candidate);
            }
        }
    }

    /// Removes candidates from place `from` on that are not kept.
    fn retain(&mut self, from: usize, is_kept: impl Fn(&Candidate) -> bool) {
        let mut next = from;
        let tiles = self.tiles.len();
        for tile in 0..tiles {
            let (start, [row, column]) = self.tiles[tile];
            let end = self.tiles.get(tile + 1).map_or(self.scores.len(), |t| t.0);
            if start >= from {
                self.tiles[tile].0 = next;
            }
            for i in start.max(from)..end {
                let (score, place) = (self.scores[i], self.places[i] as u32);
                let (row, column) = (row + place / PLACE_ROW as u32, column + place % PLACE_ROW as u32);
                if is_kept(&Candidate { row, column, score }) {
                    (self.scores[next], self.places[next]) = (score, self.places[i]);
                    next += 1;
                }
            }
        }
        self.scores.truncate(next);
        self.places.truncate(next);
    }
}

/// The total order of candidates: larger score, then smaller hash, then smaller position.
#[derive(Clone, Copy)]
pub struct Ranking {
    pub ties: Key,
    pub ncols: u64,
}

impl Ranking {
    fn position(&self, [row, column]: [u32; 2]) -> u64 {
        u64::from(row) * self.ncols + u64::from(column)
    }

    fn hash(&self, place: [u32; 2]) -> u32 {
        self.ties.bits(self.position(place)) as u32
    }

    /// The worst of the best `count` candidates; `0 < count <=` number of candidates.
    fn cut(&self, list: &List, count: usize) -> Cut {
        let (score, greater, equal) = kth_largest(&list.scores, count);
        let wanted = count - greater;
        if wanted == equal {
            return Cut { score, ..Cut::NONE };
        }
        let mut ties = Vec::with_capacity(equal);
        for tile in list.tiles() {
            list.for_each(
                tile,
                |c| c.score == score,
                |c| ties.push((self.hash([c.row, c.column]), self.position([c.row, c.column]))),
            );
        }
        let (_, &mut (hash, position), _) = ties.select_nth_unstable(wanted - 1);
        Cut { score, hash, position }
    }

    #[inline(always)]
    fn is_kept(&self, c: &Candidate, cut: &Cut) -> bool {
        // Without a branch but for ties, which are few.
        let mut kept = c.score >= cut.score;
        if c.score == cut.score && cut.hash != u32::MAX {
            kept = self.is_tie_kept([c.row, c.column], cut);
        }
        kept
    }

    // By value: a candidate that is borrowed here would be kept in memory by every caller.
    #[cold]
    fn is_tie_kept(&self, place: [u32; 2], cut: &Cut) -> bool {
        (self.hash(place), self.position(place)) <= (cut.hash, cut.position)
    }
}

/// A place in the total order; what stands behind it is left out.
#[derive(Clone, Copy)]
pub struct Cut {
    pub score: f32,
    hash: u32,
    position: u64,
}

impl Cut {
    const NONE: Cut = Cut { score: 0.0, hash: u32::MAX, position: u64::MAX };
}

/// The `count`-th largest score, how many are greater and how many equal.
///
/// Scores are not negative and not NaN, so their bits order as they do: a histogram over the bits finds the neighbourhood.
pub fn kth_largest(scores: &[f32], count: usize) -> (f32, usize, usize) {
    const BUCKETS_LOG2: u32 = 12;
    let (mut least, mut most) = (u32::MAX, 0);
    for score in scores {
        (least, most) = (least.min(score.to_bits()), most.max(score.to_bits()));
    }
    let shift = (u32::BITS - (most - least).leading_zeros()).saturating_sub(BUCKETS_LOG2);
    let mut histogram = [0u32; 1 << BUCKETS_LOG2];
    for score in scores {
        histogram[((score.to_bits() - least) >> shift) as usize % histogram.len()] += 1;
    }
    let (mut wanted, mut bucket) = (count, (most - least) >> shift);
    while wanted > histogram[bucket as usize] as usize {
        wanted -= histogram[bucket as usize] as usize;
        bucket -= 1;
    }
    let mut near = Vec::with_capacity(histogram[bucket as usize] as usize);
    for score in scores {
        if (score.to_bits() - least) >> shift == bucket {
            near.push(score.to_bits());
        }
    }
    let kth = *near.select_nth_unstable_by(wanted - 1, |a, b| b.cmp(a)).1;
    let (mut greater, mut equal) = (count - wanted, 0);
    for bits in near {
        greater += usize::from(bits > kth);
        equal += usize::from(bits == kth);
    }
    (f32::from_bits(kth), greater, equal)
}

/// The best `count` of what was pushed, and some more.
pub struct Best {
    ranking: Ranking,
    count: usize,
    pub list: List,
    /// What stands behind this cannot be among the best.
    pub cut: Cut,
}

impl Best {
    pub fn new(ranking: Ranking, count: usize, threshold: f32, tile_columns: usize) -> Self {
        // Half more than is kept holds what a good guess lets through, even where the sample is small.
        let capacity = count + count / 2 + MOST_ROWS * tile_columns;
        let (scores, places) = (Vec::with_capacity(capacity), Vec::with_capacity(capacity));
        let list = List { scores, places, tiles: Vec::new() };
        Self { ranking, count, list, cut: Cut { score: threshold, ..Cut::NONE } }
    }

    /// Adds some positions of a row of a tile, in order; at most as many as [`Best::new`] leaves room for beside `count`.
    #[inline(always)]
    pub fn push(&mut self, scores: &[f32], row: usize, columns: &[f32]) {
        let before = self.list.scores.len();
        if before + scores.len() > self.list.scores.capacity() {
            self.prune();
        }
        let before = self.list.scores.len();
        self.list.scores.extend_from_slice(scores);
        let row = (row * PLACE_ROW) as f32;
        self.list.places.extend(columns.iter().map(|column| row + column));
        if self.cut.hash != u32::MAX {
            self.list.retain(before, |c| self.ranking.is_kept(c, &self.cut));
        }
    }

    /// Takes what may be among the best of some rows of a gradient, `[row][column]`, outside a pattern.
    pub fn push_rows(&mut self, exclude: &CsrPattern, rows: Range<usize>, gradient: &[f32]) {
        let columns = exclude.ncols();
        let (mut scores, mut found) = (Vec::with_capacity(PLACE_ROW), Vec::with_capacity(PLACE_ROW));
        for first in (0..columns).step_by(PLACE_ROW) {
            let tile = first..(first + PLACE_ROW).min(columns);
            self.list.tiles.push((self.list.scores.len(), [rows.start as u32, first as u32]));
            for (gradient, row) in gradient.chunks_exact(columns).zip(rows.clone()) {
                let excluded = exclude.row(row);
                let before = excluded.partition_point(|&column| (column as usize) < first);
                let mut excluded = excluded[before..].iter().map(|&column| column as usize - first).peekable();
                scores.clear();
                found.clear();
                for (column, gradient) in gradient[tile.clone()].iter().enumerate() {
                    // The maximum makes a NaN 0: a step whose gradient is NaN is reported elsewhere.
                    let score = gradient.abs().max(0.0);
                    if excluded.next_if_eq(&column).is_none() && score >= self.cut.score {
                        scores.push(score);
                        found.push(column as f32);
                    }
                }
                self.push(&scores, row - rows.start, &found);
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn prune(&mut self) {
        self.cut = self.ranking.cut(&self.list, self.count);
        self.list.retain(0, |c| self.ranking.is_kept(c, &self.cut));
    }
}

/// The best `count`, in order of position: the tiles of a band are in that order already, and are merged row by row.
pub fn in_order(list: &List, ranking: Ranking, count: usize) -> Vec<Candidate> {
    let cut = if list.scores.len() > count { ranking.cut(list, count) } else { Cut::NONE };
    // Every candidate is written and only the kept ones are counted: which those are no branch predictor can know.
    let mut sorted: Vec<Candidate> = Vec::with_capacity(count.min(list.scores.len()) + 1);
    let to = sorted.spare_capacity_mut();
    let mut kept = 0;
    let mut tiles: Vec<_> = list.tiles().filter(|(range, _)| !range.is_empty()).collect();
    tiles.sort_unstable_by_key(|(_, tile)| *tile);
    for band in tiles.chunk_by_mut(|a, b| a.1[0] == b.1[0]) {
        for row in 0..BAND_ROWS {
            let next_row = ((row + 1) * PLACE_ROW) as f32;
            for (range, [first_row, first_column]) in &mut *band {
                let (scores, places) = (&list.scores[range.clone()], &list.places[range.clone()]);
                let (row_of_all, start) = (*first_row + row as u32, (row * PLACE_ROW) as u32);
                for (&score, &place) in scores.iter().zip(places) {
                    if place >= next_row {
                        break;
                    }
                    let candidate =
                        Candidate { row: row_of_all, column: *first_column + (place as u32 - start), score };
                    to[kept].write(candidate);
                    kept += usize::from(ranking.is_kept(&candidate, &cut));
                    range.start += 1;
                }
            }
        }
    }
    // SAFETY: the first `kept` elements of the spare capacity were written.
    unsafe { sorted.set_len(kept) };
    sorted
}
