//! Fetching what is wanted next from far memory, while what is near is worked on.

use super::isa::Isa;
use super::plan::Walk;
use crate::StripLayout;

/// Floats in a cache line.
pub(super) const LINE: usize = 64 / size_of::<f32>();

/// Elements that will be wanted soon, fetched into L2 in equal shares.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    next: *const f32,
    /// Elements left.
    left: usize,
    /// Elements of a share.
    share: usize,
}

impl Ahead {
    /// So many elements from `next` on, in `shares`.
    pub fn new(next: *const f32, left: usize, shares: usize) -> Self {
        Self { next, left, share: left.div_ceil(shares.max(1)).next_multiple_of(LINE) }
    }

    /// The rows of X that a chunk of the walk is about, of each of P strips from `strip` on that there are.
    pub fn of_chunk<const P: usize>(
        walk: &Walk,
        chunk: usize,
        (x, layout): (*const f32, StripLayout),
        strip: usize,
        shares: usize,
    ) -> [Self; P] {
        let columns = walk.columns(chunk);
        std::array::from_fn(|p| {
            let at = (strip + p) * layout.strip_pitch() + columns.start * layout.strip();
            let len = if strip + p < layout.strips() { columns.len() * layout.strip() } else { 0 };
            Self::new(x.wrapping_add(at), len, shares)
        })
    }

    /// Nothing.
    pub fn none<const P: usize>() -> [Self; P] {
        [Self::new(std::ptr::null(), 0, 1); P]
    }

    /// Fetches a share.
    #[inline(always)]
    pub fn fetch<I: Isa>(&mut self, isa: I) {
        if self.left == 0 {
            return;
        }
        let share = self.share.min(self.left);
        for at in (0..share).step_by(LINE) {
            isa.prefetch_far(self.next.wrapping_add(at));
        }
        self.next = self.next.wrapping_add(share);
        self.left -= share;
    }
}
