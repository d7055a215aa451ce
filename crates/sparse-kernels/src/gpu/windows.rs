//! Buffers larger than what a kernel may see at once, part by part.

use std::ops::Range;

use super::kernel::Operand;
use super::{Gpu, WINDOW_UNIT};
use crate::{BackendError, ImageLayout, StripLayout, Strips};

/// Parts of `len` elements, each at most `most` and all but the last a multiple of [`WINDOW_UNIT`].
pub(super) fn flat(len: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (most / WINDOW_UNIT).max(1) * WINDOW_UNIT;
    (0..len).step_by(step).map(move |start| start..len.min(start + step))
}

/// These strips of a tensor as an operand.
pub(super) fn of_strips<'a>(tensor: &'a Strips<Gpu>, strips: &Range<usize>) -> Operand<'a> {
    let pitch = tensor.layout.strip_pitch();
    tensor.data.window(strips.start * pitch, strips.len() * pitch)
}

/// Lanes of these strips that count.
pub(super) fn lanes_within(layout: StripLayout, strips: &Range<usize>) -> usize {
    layout.lanes().min(strips.end * layout.strip()) - strips.start * layout.strip()
}

impl Gpu {
    /// Elements of 4 bytes that a kernel may see of a buffer at once.
    pub(super) fn window_elements(&self) -> usize {
        usize::try_from(self.device.max_binding_bytes / 4).unwrap_or(usize::MAX)
    }

    /// Parts of images, of one strip, that can be seen whole.
    pub(super) fn image_windows(&self, layouts: &[ImageLayout]) -> Result<Vec<Range<usize>>, BackendError> {
        let pitches: Vec<usize> = layouts.iter().map(ImageLayout::strip_pitch).collect();
        self.strip_windows("images", layouts.first().map_or(0, ImageLayout::strips), &pitches)
    }

    /// Parts of `strips` strips such that of each tensor, `pitches` elements a strip, a part can be seen whole and begins
    /// where a window may.
    pub(super) fn strip_windows(
        &self,
        what: &'static str,
        strips: usize,
        pitches: &[usize],
    ) -> Result<Vec<Range<usize>>, BackendError> {
        let most = self.window_elements();
        let pitch = pitches.iter().copied().max().unwrap_or(0).max(1);
        if strips * pitch <= most {
            return Ok(std::iter::once(0..strips).filter(|all| !all.is_empty()).collect());
        }
        // Pitches are multiples of 8 or 16 elements at least in all layouts but those of single samples.
        let step =
            (1..=WINDOW_UNIT).find(|step| pitches.iter().all(|pitch| (pitch * step).is_multiple_of(WINDOW_UNIT)));
        let step = step.unwrap_or(WINDOW_UNIT);
        let count = most / pitch / step * step;
        if count == 0 {
            let what = format!(
                "{what} with {} bytes in {step} strips, more than the {} that a kernel may see",
                4 * step * pitch,
                4 * most
            );
            return Err(self.unsupported(what));
        }
        Ok((0..strips).step_by(count).map(|start| start..strips.min(start + count)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_everything_once() {
        for (len, most) in [(0, 100), (1, 64), (64, 64), (65, 64), (1000, 130), (1000, 10)] {
            let parts: Vec<_> = flat(len, most).collect();
            assert_eq!(parts.iter().map(ExactSizeIterator::len).sum::<usize>(), len);
            assert!(
                parts.iter().all(|part| part.start.is_multiple_of(WINDOW_UNIT) && part.len() <= most.max(WINDOW_UNIT))
            );
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }
}
