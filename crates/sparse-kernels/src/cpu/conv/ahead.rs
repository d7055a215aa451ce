//! Fetching the next image row from far memory while one is worked on.
//!
//! An image row of all channels is contiguous in both tensors, and most of what a row needs was there for the row before: X's
//! next row and Y's are one stream each. Where images do not fit the caches, these come from memory, whose latency no
//! processor hides by itself: the loads of a row hop from channel to channel, which hardware does not foresee.

use std::ops::Range;

use super::grid::{Grid, Side};
pub(super) use crate::cpu::ahead::Ahead;
use crate::cpu::ahead::LINE;

/// Multiply-adds of vectors per cache line from which on nothing is fetched: a row then takes so long that the few loads
/// that wait do not show, and the fetches would only take the place of loads.
const ENOUGH_WORK: usize = 256;

impl Ahead {
    /// What the row after `row` touches in X and in Y, `channels` of each, in `shares`. A row does `multiply_adds` of vectors.
    pub(super) fn of_row(
        grid: &Grid,
        [x, y]: [*const f32; 2],
        [strip, row]: [usize; 2],
        channels: [Range<usize>; 2],
        multiply_adds: usize,
        shares: usize,
    ) -> [Self; 2] {
        let elements = [&grid.from, &grid.to].into_iter().zip(&channels).map(|(side, c)| side.channel * c.len());
        let elements: usize = elements.sum();
        let is_worth_while = multiply_adds < ENOUGH_WORK * (elements / LINE);
        let [of_x, of_y] = channels;
        [(&grid.from, x, of_x), (&grid.to, y, of_y)].map(|(side, data, channels)| {
            let start = side.next_row(strip, row) + channels.start * side.channel;
            // With a stride several rows of X are new. They are one stream if all channels are wanted; else one is fetched.
            let rows = (side.row / side.image_row).min(side.reach / side.image_row + 1);
            let len = channels.len() * side.channel;
            let left = match is_worth_while {
                true if len == side.image_row => rows * len,
                true => len,
                false => 0,
            };
            Self::new(data.wrapping_add(start), left, shares)
        })
    }
}

impl Ahead {
    /// What the `rows` image rows behind `[strip, last]` touch in X and in Y, all channels of both, in `shares`.
    pub(super) fn of_band(
        grid: &Grid,
        [x, y]: [*const f32; 2],
        [strip, last]: [usize; 2],
        rows: usize,
        shares: usize,
    ) -> [Self; 2] {
        [(&grid.from, x), (&grid.to, y)].map(|(side, data)| {
            let new = rows * side.row.min(side.reach + side.image_row);
            Self::new(data.wrapping_add(side.next_row(strip, last)), new, shares)
        })
    }
}

impl Side {
    /// Where the first image row stands that the row after `row` touches in this tensor and `row` does not.
    fn next_row(&self, strip: usize, row: usize) -> usize {
        self.at(strip, row, 0) + (self.reach + self.image_row).max(self.row)
    }
}
