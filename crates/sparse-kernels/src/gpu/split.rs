//! Sums whose terms are split over workgroups, each with its own copy of the output, and the pass that adds these.

use super::elementwise::GROUP;
use super::kernel::{Kernel, Launch, Read, Work, Write};
use super::shaders;
use super::{Buffer, Gpu};
use crate::{BackendError, Storage};

static SUM_PARTS: Kernel = Kernel::new("sum_parts", shaders::SUM_PARTS, &[Read, Write]);

/// Parts at most: the second pass reads them one after the other.
const MOST_PARTS: usize = 32;
/// Elements of all parts at most: beyond that the output alone gives all workgroups something to do.
const MOST_ELEMENTS: usize = 16 << 20;

/// How the terms of a sum are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Split {
    /// Parts; at least one.
    pub parts: usize,
    /// Terms of a part; the last may have fewer.
    pub terms: usize,
}

impl Split {
    /// Everything in one part.
    pub fn whole(terms: usize) -> Self {
        Self { parts: 1, terms }
    }

    /// About `wanted` parts of `terms`, each a multiple of `unit` and at least `least`, for an output of `len` elements.
    pub fn new(wanted: usize, terms: usize, [unit, least]: [usize; 2], len: usize, most: usize) -> Self {
        let room = MOST_ELEMENTS.min(most) / len.max(1);
        let parts = wanted.min(terms / least).min(MOST_PARTS).min(room);
        if parts < 2 {
            return Self::whole(terms);
        }
        let terms_each = terms.div_ceil(parts).next_multiple_of(unit);
        Self { parts: terms.div_ceil(terms_each), terms: terms_each }
    }
}

impl Gpu {
    /// Calls `queue` with a buffer of at least `len` elements of any content, which no other operation is given before it
    /// returns. It is kept for the next call.
    pub(super) fn with_partials(
        &self,
        len: usize,
        queue: impl FnOnce(&Buffer) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let mut partials = self.partials.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let held = match partials.take() {
            Some(buffer) if buffer.len() >= len => buffer,
            // What is queued keeps the old one alive.
            _ => self.zeros(len.max(64).next_power_of_two().min(self.window_elements().max(len)))?,
        };
        queue(partials.insert(held))
    }

    /// Queues a sum of so many parts for the `len` elements of `to` from `start` on. `launch(to, (start, len), accumulate)`
    /// writes, or adds, all parts one after the other.
    pub(super) fn sum_in_parts(
        &self,
        parts: usize,
        to: &Buffer,
        (start, len): (usize, usize),
        accumulate: bool,
        launch: impl Fn(&Buffer, (usize, usize), bool) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        if parts == 1 {
            return launch(to, (start, len), accumulate);
        }
        self.with_partials(parts * len, |scratch| {
            launch(scratch, (0, parts * len), false)?;
            // `to[i] (+)= Σ scratch[j · len + i]`
            self.launch(&Launch {
                kernel: &SUM_PARTS,
                constants: &[],
                params: &[len as u32, parts as u32, len as u32, accumulate.into()],
                operands: &[scratch.window(0, parts * len), to.window(start, len)],
                workgroups: len.div_ceil(GROUP),
                work: Work { bytes: 4 * ((parts + 1) * len) as u64, operations: (parts * len) as u64 },
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_terms() {
        for (wanted, terms, unit, least, len, most) in [
            (8, 1000, 8, 64, 10, 1 << 20),
            (100, 1000, 8, 8, 10, 1 << 20),
            (5, 17, 8, 1, 3, 1 << 20),
            (9, 999, 8, 1, 100, 300),
        ] {
            let split = Split::new(wanted, terms, [unit, least], len, most);
            assert!(
                split.parts >= 2 && split.parts <= wanted.min(MOST_PARTS) && split.parts * len <= most,
                "{split:?}"
            );
            assert!(split.terms.is_multiple_of(unit) && split.parts == terms.div_ceil(split.terms), "{split:?}");
        }
        assert_eq!(Split::new(9, 100, [8, 64], 1, 1 << 20), Split::whole(100));
        assert_eq!(Split::new(9, 0, [8, 64], 0, 1 << 20), Split::whole(0));
        assert_eq!(Split::new(0, 100, [8, 1], 1, 1 << 20), Split::whole(100));
    }
}
