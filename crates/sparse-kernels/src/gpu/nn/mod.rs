//! Loops of neural networks that are no matrix products: memory-bound passes, each fused as far as that saves one.
//!
//! A sum over lanes, samples or pixels is taken in slices, by as many workgroups, whose partial sums a second pass adds up:
//! in an order that depends on the shape only.

mod bias_relu;
mod dropout;
mod images;
mod optimizer;
mod softmax_cross_entropy;
mod sums;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::kernel::Operand;
use super::{Buffer, Gpu, Indices};
use crate::backend::{AdamStep, CrossEntropy, Neural, Optimizer, SgdStep};
use crate::error::expect_equal;
use crate::random::Key;
use crate::{BackendError, ShapeError, StripLayout, Strips};

/// Lanes or samples that an invocation has at once.
const QUAD: usize = 4;

impl Neural for Gpu {
    fn bias_relu(&self, bias: &Buffer, relu: bool, x: &mut Strips<Self>) -> Result<(), BackendError> {
        bias_relu::forward(self, bias, relu, x)
    }

    fn bias_relu_grad(
        &self,
        y: &Strips<Self>,
        relu: bool,
        grad: &mut Strips<Self>,
        dbias: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        bias_relu::backward(self, y, relu, grad, dbias, accumulate)
    }

    fn softmax_cross_entropy(
        &self,
        parameters: CrossEntropy,
        logits: &Strips<Self>,
        labels: &Indices,
        stats: &mut Buffer,
        grad: Option<&mut Strips<Self>>,
    ) -> Result<(), BackendError> {
        softmax_cross_entropy::run(self, parameters, logits, labels, stats, grad.as_deref())
    }

    fn dropout(&self, key: Key, rate: f32, x: &mut Strips<Self>) -> Result<(), BackendError> {
        dropout::strips(self, key, rate, x)
    }
}

impl Optimizer for Gpu {
    fn sgd(
        &self,
        step: SgdStep,
        values: &mut Buffer,
        grad: &Buffer,
        velocity: Option<&mut Buffer>,
    ) -> Result<(), BackendError> {
        optimizer::sgd(self, step, values, grad, velocity.as_deref())
    }

    fn adam(
        &self,
        step: AdamStep,
        values: &mut Buffer,
        grad: &Buffer,
        first: &mut Buffer,
        second: &mut Buffer,
    ) -> Result<(), BackendError> {
        optimizer::adam(self, step, [values, grad, first, second])
    }
}

/// Checks that a buffer holds what its layout says.
fn expect_strips(op: &'static str, x: &Strips<Gpu>) -> Result<(), ShapeError> {
    expect_equal(op, "length of the strips", x.layout.len(), x.data.len())
}

/// Checks that two operands are of one shape and order.
fn expect_same_layout(op: &'static str, expected: &StripLayout, got: &StripLayout) -> Result<(), ShapeError> {
    expect_equal(op, "number of features", expected.features(), got.features())?;
    expect_equal(op, "number of lanes", expected.lanes(), got.lanes())?;
    expect_equal(op, "lanes per strip", expected.strip(), got.strip())
}

/// Some strips of activations as an operand.
fn part_of<'a>(x: &'a Strips<Gpu>, strips: &Range<usize>) -> Operand<'a> {
    let pitch = x.layout.strip_pitch();
    x.data.window(strips.start * pitch, strips.len() * pitch)
}

/// Lanes that count from the first of these strips to the last.
fn lanes_of(layout: &StripLayout, strips: &Range<usize>) -> usize {
    (strips.end * layout.strip()).min(layout.lanes()) - strips.start * layout.strip()
}

impl Gpu {
    /// A buffer of so many elements that kernels see whole.
    fn visible<'a, T>(&self, what: &str, buffer: &'a super::DeviceBuffer<T>) -> Result<Operand<'a>, BackendError> {
        if buffer.len() <= self.window_elements() {
            return Ok(buffer.first(buffer.len()));
        }
        let what = format!("{what} of {} elements, more than a kernel may see", buffer.len());
        Err(BackendError::Unsupported { device: self.report().to_string(), what })
    }
}
