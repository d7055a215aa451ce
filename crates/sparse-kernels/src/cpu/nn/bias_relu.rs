//! Bias and ReLU in one pass, in place; backward masks the gradient and sums it per feature in one pass.
//!
//! ```text
//! forward   for each strip, feature:  x[0..S] = max(0, x[0..S] + bias[feature])
//! backward  for each strip, feature:  g[0..S] = y[0..S] > 0 ? g[0..S] : 0;  dbias[feature] += Σ g[0..S]
//! ```
//!
//! Forward splits rows (strip, feature) between tasks; backward splits features, so that one task owns each bias
//! gradient and adds its strips in order.

use super::rows::rows_per_task;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};
use crate::{BackendError, StripLayout, Strips};

/// Elements of a strip that a task sums one after the other, eight pages: of less, each strip's part is waited for.
const RUN: usize = 8192;
/// Features whose sums are reduced together: `Isa::sum8` turns eight vectors into eight sums.
const GROUP: usize = 8;

pub(super) fn forward(cpu: &Cpu, bias: &[f32], relu: bool, x: &mut Strips<Cpu>) -> Result<(), BackendError> {
    let layout = x.layout;
    let operations = 8 * layout.len() as u64;
    cpu.for_each_chunk(&mut x.data, rows_per_task(&layout) * layout.strip(), operations, |start, rows| {
        dispatch(cpu.isa, Forward { layout, first_row: start / layout.strip(), bias, relu, rows });
    });
    Ok(())
}

struct Forward<'a> {
    layout: StripLayout,
    /// Number of the first row: strip · features + feature.
    first_row: usize,
    bias: &'a [f32],
    relu: bool,
    rows: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let features = self.layout.features();
        let (mut strip, mut feature) = (self.first_row / features, self.first_row % features);
        let zero = isa.splat(0.0);
        for row in self.rows.chunks_exact_mut(self.layout.strip()) {
            let bias = isa.splat(self.bias[feature]);
            for part in row.chunks_exact_mut(I::LANES) {
                // SAFETY: `part` is LANES long.
                let y = isa.add(unsafe { isa.load(part.as_ptr()) }, bias);
                // The second operand is the one that comes through if either is NaN: NaN is not hidden.
                let y = if self.relu { isa.max(zero, y) } else { y };
                // SAFETY: as above.
                unsafe { isa.store(part.as_mut_ptr(), y) };
            }
            row[self.layout.lanes_of(strip)..].fill(0.0);
            feature += 1;
            if feature == features {
                (strip, feature) = (strip + 1, 0);
            }
        }
    }
}

pub(super) fn backward(
    cpu: &Cpu,
    y: &Strips<Cpu>,
    relu: bool,
    grad: &mut Strips<Cpu>,
    dbias: &mut [f32],
    accumulate: bool,
) -> Result<(), BackendError> {
    if relu {
        sums(cpu, y.layout, Some(&y.data), SharedMut::new(&mut grad.data), dbias, accumulate);
        Ok(())
    } else {
        lane_sums(cpu, grad, dbias, accumulate)
    }
}

/// The sums of each feature's lanes.
pub(super) fn lane_sums(
    cpu: &Cpu,
    x: &Strips<Cpu>,
    sums_of_lanes: &mut [f32],
    accumulate: bool,
) -> Result<(), BackendError> {
    sums(cpu, x.layout, None, SharedMut::reading(&x.data), sums_of_lanes, accumulate);
    Ok(())
}

/// Masks `grad` where `y` says so and sums it.
fn sums(cpu: &Cpu, layout: StripLayout, y: Option<&[f32]>, grad: SharedMut, dbias: &mut [f32], accumulate: bool) {
    let lanes = (layout.strips() * layout.strip()).max(1);
    let features_per_task = (ELEMENTS_PER_TASK / lanes).max(RUN / layout.strip()).max(1).next_multiple_of(GROUP);
    cpu.for_each_chunk(dbias, features_per_task, 8 * layout.len() as u64, |first_feature, dbias| {
        if !accumulate {
            dbias.fill(0.0);
        }
        dispatch(cpu.isa, Backward { layout, first_feature, y, grad, dbias });
    });
}

struct Backward<'a> {
    layout: StripLayout,
    first_feature: usize,
    /// Output of the forward pass; none without ReLU.
    y: Option<&'a [f32]>,
    /// `layout.len()` elements, of which this task touches its features only; read only without `y`.
    grad: SharedMut,
    /// Of this task's features.
    dbias: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (strip, first) = (self.layout.strip(), self.first_feature);
        for s in 0..self.layout.strips() {
            for (group, dbias) in self.dbias.chunks_mut(GROUP).enumerate() {
                let mut sums = [isa.splat(0.0); GROUP];
                for (i, sum) in sums.iter_mut().enumerate().take(dbias.len()) {
                    let start = s * self.layout.strip_pitch() + (first + group * GROUP + i) * strip;
                    // SAFETY: the row lies in the `layout.len()` elements that there are; it belongs to a
                    // feature of this task, and tasks have disjoint features.
                    *sum = unsafe {
                        let row = self.grad.get().add(start);
                        match self.y {
                            Some(y) => {
                                masked_sum(isa, &y[start..][..strip], std::slice::from_raw_parts_mut(row, strip))
                            }
                            None => plain_sum(isa, std::slice::from_raw_parts(row, strip)),
                        }
                    };
                }
                for (to, sum) in dbias.iter_mut().zip(isa.sum8(sums)) {
                    *to += sum;
                }
            }
        }
    }
}

/// Sets `grad` to zero where `y` is not positive and returns the sum, lane by lane.
#[inline(always)]
fn masked_sum<I: Isa>(isa: I, y: &[f32], grad: &mut [f32]) -> I::V {
    let mut sum = isa.splat(0.0);
    for (y, grad) in y.chunks_exact(I::LANES).zip(grad.chunks_exact_mut(I::LANES)) {
        // SAFETY: both parts are LANES long.
        let kept = unsafe { isa.where_positive(isa.load(y.as_ptr()), isa.load(grad.as_ptr())) };
        // SAFETY: as above.
        unsafe { isa.store(grad.as_mut_ptr(), kept) };
        sum = isa.add(sum, kept);
    }
    sum
}

#[inline(always)]
fn plain_sum<I: Isa>(isa: I, grad: &[f32]) -> I::V {
    grad.chunks_exact(I::LANES).fold(isa.splat(0.0), |sum, grad| {
        // SAFETY: the part is LANES long.
        isa.add(sum, unsafe { isa.load(grad.as_ptr()) })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;
    use crate::Neural;
    use crate::testing::neural;

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            layout in neural::layouts(), relu: bool, accumulate: bool, seed in 0u32..100
        ) {
            for cpu in BACKENDS.iter() {
                neural::bias_relu(cpu, layout, relu, accumulate, seed);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for layout in [StripLayout::sparse(1000, 333), StripLayout::single(1000, 333)] {
            let x = pack(layout, &normals("x", 333_000));
            let bias = buffer(&normals("bias", 333));
            same_for_all_threads(|cpu| {
                let mut y = Strips { layout, data: buffer(&x.data) };
                cpu.bias_relu(&bias, true, &mut y).unwrap();
                let mut grad = Strips { layout, data: buffer(&x.data) };
                let mut dbias = buffer(&bias);
                cpu.bias_relu_grad(&y, true, &mut grad, &mut dbias, false).unwrap();
                [&y.data[..], &grad.data[..], &dbias[..]].concat()
            });
        }
    }

    #[test]
    fn nan_is_not_hidden() {
        let layout = StripLayout::sparse(2, 1);
        for cpu in BACKENDS.iter() {
            let mut x = pack(layout, &[f32::NAN, -1.0]);
            cpu.bias_relu(&buffer(&[0.5]), true, &mut x).unwrap();
            let y = unpack(&x);
            assert!(y[0].is_nan() && y[1] == 0.0);
        }
    }
}
