//! The mean of each channel of each image: features by lanes, as a linear layer behind it wants them.
//!
//! ```text
//! forward   for each strip, channels, y, channel:  out[channel, 0..S] += Σ_x x[0..S];  at last  out /= H · W
//! backward  for each strip, y, channel, x:         dx[0..S] = dout[channel, 0..S] / (H · W)
//! ```

use std::ops::Range;

use super::rows::{Rows, for_each_band, for_each_block, isa_for, load, pixels, row_of, store};
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, SharedMut};
use crate::{BackendError, ImageLayout, Images, StripLayout, Strips};

pub(super) fn forward(cpu: &Cpu, x: &Images<Cpu>, y: &mut Strips<Cpu>) -> Result<(), BackendError> {
    let (layout, y_layout) = (x.layout, y.layout);
    y.data.fill(0.0);
    let shared = SharedMut::new(&mut y.data);
    for_each_block(cpu, &layout, 8 * layout.len() as u64, |strip, channels| {
        let task = Forward { layout, x: &x.data, y_layout, y: shared, strip, channels };
        dispatch(isa_for(cpu, &layout), task);
    });
    Ok(())
}

struct Forward<'a> {
    layout: ImageLayout,
    x: &'a [f32],
    y_layout: StripLayout,
    /// `y_layout.len()` elements, of which this task touches these channels and the samples of this strip only.
    y: SharedMut,
    strip: usize,
    channels: Range<usize>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        if self.layout.strip() == 1 { self.run::<I, true>(isa) } else { self.run::<I, false>(isa) }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn run<I: Isa, const ONE: bool>(self, isa: I) {
        let (strip, [height, width], step) = (self.layout.strip(), self.layout.size(), if ONE { 1 } else { I::LANES });
        let first = self.strip * strip;
        // Strips of Y may end before those of the images do: both are padded, each in its way.
        let lanes = (first..(first + strip).min(self.y_layout.strips() * self.y_layout.strip())).step_by(step);
        for y in 0..height {
            for c in self.channels.clone() {
                let row = row_of(&self.layout, self.x, self.strip, y, c);
                for lane in lanes.clone() {
                    let sum = if ONE { row_sum(isa, row) } else { sum_of_lanes(isa, &row[lane - first..], strip) };
                    let at = self.y.offset(self.y_layout.index(c, lane)).get();
                    // SAFETY: `step` lanes of one strip of Y, since strips are multiples of 16 lanes; they are this task's, and
                    // Y's length was checked.
                    let to = unsafe { std::slice::from_raw_parts_mut(at, step) };
                    let sum = isa.add(load::<I, ONE>(isa, to), sum);
                    let is_last = y + 1 == height;
                    let mean = if is_last { isa.div(sum, isa.splat((height * width) as f32)) } else { sum };
                    store::<I, ONE>(isa, to, mean);
                }
            }
        }
    }
}

/// The sum of the pixels of a single image, in every lane.
#[inline(always)]
fn row_sum<I: Isa>(isa: I, row: &[f32]) -> I::V {
    let (vectors, rest) = row.split_at(row.len() / I::LANES * I::LANES);
    isa.splat(isa.sum(sum_of_lanes(isa, vectors, I::LANES)) + rest.iter().sum::<f32>())
}

/// The sum of the vectors that stand `step` floats apart.
#[inline(always)]
fn sum_of_lanes<I: Isa>(isa: I, row: &[f32], step: usize) -> I::V {
    let mut sum = isa.splat(0.0);
    for pixel in row.chunks(step) {
        sum = isa.add(sum, load::<I, false>(isa, pixel));
    }
    sum
}

pub(super) fn backward(cpu: &Cpu, dy: &Strips<Cpu>, dx: &mut Images<Cpu>) -> Result<(), BackendError> {
    let layout = dx.layout;
    for_each_band(cpu, &layout, &mut dx.data, 8 * layout.len() as u64, |_, rows| {
        dispatch(cpu.isa, Backward { dy_layout: dy.layout, dy: &dy.data, layout, rows });
    });
    Ok(())
}

struct Backward<'a> {
    dy_layout: StripLayout,
    dy: &'a [f32],
    /// Of dX.
    layout: ImageLayout,
    rows: Rows<'a>,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        match self.layout.strip() {
            1 => self.run::<1>(),
            8 => self.run::<8>(),
            16 => self.run::<16>(),
            _ => self.run::<32>(),
        }
    }
}

impl Backward<'_> {
    /// `S` is the strip.
    #[inline(always)]
    fn run<const S: usize>(self) {
        let [height, width] = self.layout.size();
        for (s, _, row) in self.rows {
            let lanes = s * S..((s + 1) * S).min(self.layout.samples());
            for c in 0..self.layout.channels() {
                let mut part = [0.0; S];
                for (part, lane) in part.iter_mut().zip(lanes.clone()) {
                    *part = self.dy[self.dy_layout.index(c, lane)] / (height * width) as f32;
                }
                row[pixels(&self.layout, c)].as_chunks_mut::<S>().0.fill(part);
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
                verify::global_avg_pool(cpu, &case, 16 * strip, true);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for case in large() {
            let layout = StripLayout::sparse(case.samples, case.channels);
            let x = images(case.layout(0), &case.normals("x", case.len()));
            same_for_all_threads(|cpu| {
                let mut y = poisoned(layout);
                cpu.global_avg_pool(&x, &mut y).unwrap();
                let mut dx = poisoned_images(case.layout(0));
                cpu.global_avg_pool_grad(&y, &mut dx).unwrap();
                [&y.data[..], &read(&dx)].concat()
            });
        }
    }
}
