//! Sums that are taken in slices, and where their parts stand meanwhile.

use std::ops::Range;

use super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::shaders;
use super::super::{Buffer, Gpu};
use crate::BackendError;

static SUM_PARTIALS: Kernel = Kernel::new("sum_partials", shaders::SUM_PARTIALS, &[Read, Write]);

/// Workgroups that keep a large device busy.
const BUSY: usize = 2048;
/// Slices of a sum at most, so that the second pass stays short.
const MOST_SLICES: usize = 256;
/// Times that an invocation goes round at least, lest the second pass cost more than the first.
const LEAST_ROUNDS: usize = 4;

/// The parts that one window's sums are taken in.
#[derive(Debug, Clone)]
pub(super) struct Slices {
    /// Strips of the window.
    pub strips: Range<usize>,
    /// Number of its first slice.
    pub first: usize,
    /// Its slices.
    pub count: usize,
    /// Quads of a sum in each but the last.
    pub quads: usize,
}

/// Slices of all windows of sums over `quads` quads of each of some strips. A workgroup passes over `each` quads of a sum at
/// once, and `groups` of them have a slice of all sums.
pub(super) fn slices(windows: Vec<Range<usize>>, strip_quads: usize, each: usize, groups: usize) -> Vec<Slices> {
    let strips: usize = windows.iter().map(ExactSizeIterator::len).sum();
    let wanted = BUSY.div_ceil(groups.max(1)).min((strips * strip_quads).div_ceil(LEAST_ROUNDS * each));
    let wanted = wanted.clamp(1, MOST_SLICES).div_ceil(windows.len().max(1));
    let mut first = 0;
    let slice = |strips: Range<usize>| {
        let all = strips.len() * strip_quads;
        let quads = all.div_ceil(wanted).next_multiple_of(each).max(each);
        let slices = Slices { strips, first, count: all.div_ceil(quads), quads };
        first += slices.count;
        slices
    };
    windows.into_iter().map(slice).collect()
}

impl Gpu {
    /// Adds up `rows` sums over all slices: `queue(partials, accumulate, slices)` writes `[row][slice]`. With a single slice
    /// these are the sums themselves, and `queue` writes, or adds, straight to them.
    pub(super) fn sum_in_slices(
        &self,
        sums: &Buffer,
        slices: &[Slices],
        accumulate: bool,
        queue: impl FnOnce(&Buffer, bool, usize) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let (rows, count) = (sums.len(), slices.iter().map(|s| s.count).sum::<usize>());
        if count == 0 {
            // Sums of nothing.
            return if accumulate { Ok(()) } else { self.fill_buffer(0.0, sums) };
        }
        if count == 1 {
            return queue(sums, accumulate, 1);
        }
        self.with_partials(rows * count, |partials| {
            queue(partials, false, count)?;
            let width = count.next_power_of_two().min(64);
            self.launch(&Launch {
                kernel: &SUM_PARTIALS,
                constants: &[("WIDTH", width as f64)],
                params: &[rows as u32, count as u32, u32::from(accumulate)],
                operands: &[self.visible("partial sums", partials)?, self.visible("sums", sums)?],
                workgroups: rows.div_ceil(256 / width),
                work: Work { bytes: 4 * (rows * (count + 1)) as u64, operations: (rows * count) as u64 },
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::slices;

    #[test]
    fn slices_cover_everything_once() {
        for (strips, windows) in [(0, 1), (1, 1), (7, 2), (100, 3), (1000, 1)] {
            for (strip_quads, each, groups) in [(8, 8, 1), (4, 8, 100), (1, 256, 3), (5000, 256, 64)] {
                let step: usize = strips / windows + 1;
                let parts = (0..strips).step_by(step).map(|start| start..strips.min(start + step)).collect();
                let mut next = 0;
                for slices in slices(parts, strip_quads, each, groups) {
                    assert_eq!(slices.first, next);
                    next += slices.count;
                    let quads = slices.strips.len() * strip_quads;
                    assert!(slices.count * slices.quads >= quads && (slices.count - 1) * slices.quads < quads);
                }
            }
        }
    }
}
