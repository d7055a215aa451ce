//! Bias and ReLU in one pass, in place; backward masks the gradient and sums it per channel in one pass. ReLU alone, for
//! sums of tensors, is the same without bias.
//!
//! ```text
//! forward   for each strip, y, channel:  x[0..W·S] = max(0, x[0..W·S] + bias[channel])
//! backward  for each strip, y, channel:  g[0..W·S] = y[0..W·S] > 0 ? g[0..W·S] : 0;  sums[band][channel] += Σ g[0..W·S]
//!           for each channel:            dbias[channel] += Σ_band sums[band][channel]
//! ```
//!
//! Backward, too, bands of image rows are tasks: they read memory in one stream, where tasks of channels would jump from
//! row to row. Each has its own sums, which are added in order.

use super::rows::{Rows, bands, for_each_band, pixels, row_of};
use crate::backend::check::Done;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};
use crate::{BackendError, ImageLayout, Images};

/// Without a bias it is ReLU alone.
pub(super) fn forward(cpu: &Cpu, bias: Option<&[f32]>, relu: bool, x: &mut Images<Cpu>) -> Done {
    let layout = x.layout;
    for_each_band(cpu, &layout, &mut x.data, 8 * layout.len() as u64, |_, rows| {
        dispatch(cpu.isa, Forward { layout, bias, relu, rows });
    });
    Ok(())
}

struct Forward<'a> {
    layout: ImageLayout,
    bias: Option<&'a [f32]>,
    relu: bool,
    rows: Rows<'a>,
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let (layout, strip) = (self.layout, self.layout.strip());
        for (s, _, row) in self.rows {
            for c in 0..layout.channels() {
                let x = &mut row[pixels(&layout, c)];
                // Not `max`, which would hide NaN.
                let relu = |x: f32| if x < 0.0 { 0.0 } else { x };
                match self.bias.map(|bias| bias[c]) {
                    None => x.iter_mut().for_each(|x| *x = relu(*x)),
                    Some(bias) if self.relu => x.iter_mut().for_each(|x| *x = relu(*x + bias)),
                    Some(bias) => x.iter_mut().for_each(|x| *x += bias),
                }
                let samples = layout.samples_of(s);
                if samples < strip && self.bias.is_some() {
                    x.chunks_exact_mut(strip).for_each(|pixel| pixel[samples..].fill(0.0));
                }
            }
        }
    }
}

pub(super) fn relu_grad(cpu: &Cpu, y: &Images<Cpu>, grad: &mut Images<Cpu>) -> Result<(), BackendError> {
    let layout = grad.layout;
    for_each_band(cpu, &layout, &mut grad.data, 8 * layout.len() as u64, |_, rows| {
        dispatch(cpu.isa, Mask { y_layout: y.layout, y: &y.data, layout, rows });
    });
    Ok(())
}

struct Mask<'a> {
    y_layout: ImageLayout,
    y: &'a [f32],
    /// Of the gradient.
    layout: ImageLayout,
    rows: Rows<'a>,
}

impl Kernel for Mask<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        for (s, y, row) in self.rows {
            for c in 0..self.layout.channels() {
                let grad = &mut row[pixels(&self.layout, c)];
                for (grad, &y) in grad.iter_mut().zip(row_of(&self.y_layout, self.y, s, y, c)) {
                    *grad = if y > 0.0 { *grad } else { 0.0 };
                }
            }
        }
    }
}

pub(super) fn backward(
    cpu: &Cpu,
    y: &Images<Cpu>,
    relu: bool,
    grad: &mut Images<Cpu>,
    dbias: &mut [f32],
    accumulate: bool,
) -> Result<(), BackendError> {
    let (layout, channels) = (grad.layout, grad.layout.channels());
    let mut sums = cpu.scratch(bands(&layout) * channels);
    let shared = SharedMut::new(&mut sums);
    let y = relu.then_some((y.layout, &y.data[..]));
    for_each_band(cpu, &layout, &mut grad.data, 8 * layout.len() as u64, |band, rows| {
        // SAFETY: there are so many sums for each band, and a band is one task's.
        let sums = unsafe { std::slice::from_raw_parts_mut(shared.offset(band * channels).get(), channels) };
        sums.fill(0.0);
        dispatch(cpu.isa, Backward { layout, y, rows, sums });
    });
    let channels_per_task = ELEMENTS_PER_TASK / bands(&layout).max(1) + 1;
    cpu.for_each_chunk(dbias, channels_per_task, 8 * sums.len() as u64, |first, dbias| {
        if !accumulate {
            dbias.fill(0.0);
        }
        for sums in sums.chunks_exact(channels) {
            dbias.iter_mut().zip(&sums[first..]).for_each(|(to, sum)| *to += sum);
        }
    });
    cpu.give_back(sums);
    Ok(())
}

struct Backward<'a> {
    /// Of the gradient.
    layout: ImageLayout,
    /// Output of the forward pass; none without ReLU.
    y: Option<(ImageLayout, &'a [f32])>,
    rows: Rows<'a>,
    /// Of each channel.
    sums: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        for (s, y, row) in self.rows {
            for (c, sum) in self.sums.iter_mut().enumerate() {
                let grad = &mut row[pixels(&self.layout, c)];
                *sum += match &self.y {
                    Some((layout, data)) => masked_sum(isa, row_of(layout, data, s, y, c), grad),
                    None => plain_sum(isa, grad),
                };
            }
        }
    }
}

/// Sets `grad` to zero where `y` is not positive and returns the sum.
#[inline(always)]
fn masked_sum<I: Isa>(isa: I, y: &[f32], grad: &mut [f32]) -> f32 {
    let (mut sum, mut rest) = (isa.splat(0.0), 0.0);
    let whole = grad.len() / I::LANES * I::LANES;
    let ((y, y_rest), (grad, grad_rest)) = (y.split_at(whole), grad.split_at_mut(whole));
    for (y, grad) in y.chunks_exact(I::LANES).zip(grad.chunks_exact_mut(I::LANES)) {
        // SAFETY: both parts are LANES long.
        let kept = unsafe { isa.where_positive(isa.load(y.as_ptr()), isa.load(grad.as_ptr())) };
        // SAFETY: as above.
        unsafe { isa.store(grad.as_mut_ptr(), kept) };
        sum = isa.add(sum, kept);
    }
    for (y, grad) in y_rest.iter().zip(grad_rest) {
        *grad = if *y > 0.0 { *grad } else { 0.0 };
        rest += *grad;
    }
    isa.sum(sum) + rest
}

#[inline(always)]
fn plain_sum<I: Isa>(isa: I, grad: &[f32]) -> f32 {
    let (vectors, rest) = grad.split_at(grad.len() / I::LANES * I::LANES);
    let mut sum = isa.splat(0.0);
    for grad in vectors.chunks_exact(I::LANES) {
        // SAFETY: `grad` is LANES long.
        sum = isa.add(sum, unsafe { isa.load(grad.as_ptr()) });
    }
    isa.sum(sum) + rest.iter().sum::<f32>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::*;
    use super::super::testing::{cases, images, large, read};
    use crate::ImageNeural;
    use crate::testing::images as verify;

    proptest! {
        #[test]
        fn agrees_with_the_reference(case in cases(), relu: bool, accumulate: bool) {
            for cpu in BACKENDS.iter() {
                verify::bias_relu(cpu, &case, relu, accumulate);
            }
        }

        #[test]
        fn relu_agrees_with_the_reference(case in cases()) {
            for cpu in BACKENDS.iter() {
                verify::relu(cpu, &case);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for case in large() {
            let (x, bias) = (case.normals("x", case.len()), buffer(&case.normals("bias", case.channels)));
            same_for_all_threads(|cpu| {
                let (mut y, mut z) = (images(case.layout(0), &x), images(case.layout(1), &x));
                cpu.bias_relu_images(&bias, true, &mut y).unwrap();
                cpu.relu_images(&mut z).unwrap();
                let (mut g, mut h) = (images(case.layout(1), &x), images(case.layout(1), &x));
                let mut dbias = buffer(&bias);
                cpu.bias_relu_images_grad(&y, true, &mut g, &mut dbias, true).unwrap();
                cpu.relu_images_grad(&y, &mut h).unwrap();
                [&read(&y)[..], &read(&z), &read(&g), &read(&h), &dbias].concat()
            });
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        BACKENDS.iter().for_each(verify::nan_is_not_hidden);
    }
}
