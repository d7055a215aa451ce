//! Images into strips and back: every pixel of every channel becomes a feature, in PyTorch's order.
//!
//! ```text
//! forward   for each strip of Y, row, channel, piece of the strip, column:
//!               y[(channel · H + row) · W + column, piece] = x[row, channel, column, piece]
//! backward  the same from image strip to image strip, in reverse
//! ```
//!
//! A *piece* is as many samples as lie together in both: a strip of the images, or 16 samples of one of 32, which strips of
//! Y need not keep together. Forward, all pieces of a strip of Y are written one after the other, while its rows are in
//! the cache.

use super::rows::{Rows, for_each_band, pixels, row_of};
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, SharedMut};
use crate::{BackendError, ImageLayout, Images, StripLayout, Strips};

pub(super) fn forward(cpu: &Cpu, x: &Images<Cpu>, y: &mut Strips<Cpu>) -> Result<(), BackendError> {
    let (layout, y_layout) = (x.layout, y.layout);
    let rows = layout.size()[0];
    let shared = SharedMut::new(&mut y.data);
    cpu.for_each_task(y_layout.strips() * rows, 16 * y_layout.len() as u64, |task| {
        let (strip, row) = (task / rows, task % rows);
        dispatch(cpu.isa, Flatten { layout, x: &x.data, y_layout, y: shared, strip, row });
    });
    Ok(())
}

struct Flatten<'a> {
    layout: ImageLayout,
    x: &'a [f32],
    y_layout: StripLayout,
    /// `y_layout.len()` elements, of which this task touches the features of its row in its strip only.
    y: SharedMut,
    /// Of Y.
    strip: usize,
    row: usize,
}

impl Kernel for Flatten<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        match self.layout.strip() {
            1 => self.run::<1>(),
            8 => self.run::<8>(),
            _ => self.run::<16>(),
        }
    }
}

impl Flatten<'_> {
    /// `P` are the samples of a piece.
    #[inline(always)]
    fn run<const P: usize>(self) {
        let (strip, [height, width], lanes) = (self.layout.strip(), self.layout.size(), self.y_layout.strip());
        for c in 0..self.layout.channels() {
            let first = self.strip * self.y_layout.strip_pitch() + (c * height + self.row) * width * lanes;
            // SAFETY: one feature for each column, side by side in this task's strip and row, in a buffer whose length
            // was checked.
            let y = unsafe { std::slice::from_raw_parts_mut(self.y.offset(first).get(), width * lanes) };
            for piece in (0..lanes).step_by(P) {
                let sample = self.strip * lanes + piece;
                let features = y.chunks_exact_mut(lanes).map(|feature| &mut feature[piece..piece + P]);
                if sample < self.layout.strips() * strip {
                    let x = row_of(&self.layout, self.x, sample / strip, self.row, c).chunks_exact(strip);
                    for (to, from) in features.zip(x) {
                        to.copy_from_slice(&from[sample % strip..][..P]);
                    }
                } else {
                    features.for_each(|to| to.fill(0.0));
                }
            }
        }
    }
}

pub(super) fn backward(cpu: &Cpu, dy: &Strips<Cpu>, dx: &mut Images<Cpu>) -> Result<(), BackendError> {
    let layout = dx.layout;
    for_each_band(cpu, &layout, &mut dx.data, 16 * layout.len() as u64, |_, rows| {
        dispatch(cpu.isa, Unflatten { dy_layout: dy.layout, dy: &dy.data, layout, rows });
    });
    Ok(())
}

struct Unflatten<'a> {
    dy_layout: StripLayout,
    dy: &'a [f32],
    /// Of dX.
    layout: ImageLayout,
    rows: Rows<'a>,
}

impl Kernel for Unflatten<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        match self.layout.strip() {
            1 => self.run::<1>(),
            8 => self.run::<8>(),
            _ => self.run::<16>(),
        }
    }
}

impl Unflatten<'_> {
    /// `P` are the samples of a piece.
    #[inline(always)]
    fn run<const P: usize>(self) {
        let (strip, [height, width], lanes) = (self.layout.strip(), self.layout.size(), self.dy_layout.strip());
        for (s, row, dx) in self.rows {
            for c in 0..self.layout.channels() {
                let dx = &mut dx[pixels(&self.layout, c)];
                for piece in (0..strip).step_by(P) {
                    let lane = s * strip + piece;
                    let dx = dx.chunks_exact_mut(strip).map(|pixel| &mut pixel[piece..piece + P]);
                    // Beyond the last strip of dY there may be padding samples still.
                    if lane < self.dy_layout.strips() * lanes {
                        let first = self.dy_layout.index((c * height + row) * width, lane);
                        let dy = self.dy[first - lane % lanes..].chunks_exact(lanes);
                        for (to, from) in dx.zip(dy) {
                            to.copy_from_slice(&from[lane % lanes..][..P]);
                        }
                    } else {
                        dx.for_each(|to| to.fill(0.0));
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::*;
    use super::super::testing::{cases, images, large, poisoned as poisoned_images, read};
    use super::*;
    use crate::ImageNeural;
    use crate::testing::images as verify;

    proptest! {
        #[test]
        fn agrees_with_the_reference(case in cases(), strip in 1usize..5) {
            for cpu in BACKENDS.iter() {
                verify::flatten(cpu, &case, 16 * strip);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for case in large() {
            let layout = StripLayout::sparse(case.samples, case.channels * case.pixels());
            let x = case.normals("x", case.len());
            same_for_all_threads(|cpu| {
                let mut y = poisoned(layout);
                cpu.flatten(&images(case.layout(0), &x), &mut y).unwrap();
                let mut back = poisoned_images(case.layout(1));
                cpu.unflatten(&y, &mut back).unwrap();
                assert_eq!(read(&back), x);
                y.data.to_vec()
            });
        }
    }
}
