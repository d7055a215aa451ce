//! Fetching the next image row from far memory while one is worked on.

use super::grid::Side;
use crate::cpu::isa::Isa;

/// Elements that will be wanted soon, fetched into L2 in equal shares.
///
/// An image row of all channels is contiguous in both tensors, and most of what a row needs was there for the row before: X's
/// next row and Y's are one stream each. Where images do not fit the caches, these come from memory, whose latency no
/// processor hides by itself: the loads of a row hop from channel to channel, which hardware does not foresee.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    next: *const f32,
    /// Elements left.
    left: usize,
    /// Elements of a share.
    share: usize,
}

/// Floats in a cache line.
const LINE: usize = 64 / size_of::<f32>();

impl Ahead {
    /// `len` elements from `start` on, in `shares`.
    pub fn new(start: *const f32, len: usize, shares: usize) -> Self {
        Self { next: start, left: len, share: len.div_ceil(shares.max(1)).next_multiple_of(LINE) }
    }

    /// Fetches a share.
    #[inline(always)]
    pub fn fetch<I: Isa>(&mut self, isa: I) {
        let share = self.share.min(self.left);
        for at in (0..share).step_by(LINE) {
            isa.prefetch_far(self.next.wrapping_add(at));
        }
        self.next = self.next.wrapping_add(share);
        self.left -= share;
    }
}

impl Side {
    /// What the row after `row` touches in this tensor and `row` does not: place and number of elements.
    pub fn next_row(&self, strip: usize, row: usize) -> (usize, usize) {
        let touched = self.reach + self.image_row;
        (self.at(strip, row, 0) + touched.max(self.row), self.row.min(touched))
    }
}
