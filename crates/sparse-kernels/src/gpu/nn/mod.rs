//! Loops of neural networks that are no matrix products: memory-bound passes, each fused as far as that saves one.
//!
//! A sum over lanes, samples or pixels is taken in slices, by as many workgroups, whose partial sums a second pass adds up:
//! in an order that depends on the shape only.

mod bias_relu;
mod dropout;
mod images;
mod lane_losses;
mod optimizer;
mod pointwise_loss;
mod recurrent;
mod sequence;
mod softmax_cross_entropy;
mod sums;
#[cfg(test)]
mod tests;

use super::kernel::Operand;
use super::{Buffer, Gpu, Indices};
use crate::backend::check::{Checked, Done};
use crate::backend::{AdamStep, ColumnIndex, CrossEntropy, Lists, Neural, Optimizer, PointwiseLoss, SgdStep};
use crate::random::Key;
use crate::{BackendError, Csr, CsrPattern, Strips};

impl Neural for Gpu {
    fn run_bias_relu(&self, _: Checked, bias: &Buffer, relu: bool, x: &mut Strips<Self>) -> Done {
        bias_relu::forward(self, bias, relu, x)
    }

    fn run_bias_relu_grad(
        &self,
        _: Checked,
        y: &Strips<Self>,
        relu: bool,
        grad: &mut Strips<Self>,
        dbias: &mut Buffer,
        accumulate: bool,
    ) -> Done {
        bias_relu::backward(self, y, relu, grad, dbias, accumulate)
    }

    fn run_lane_sums(&self, _: Checked, x: &Strips<Self>, sums: &mut Buffer, accumulate: bool) -> Done {
        bias_relu::lane_sums(self, x, sums, accumulate)
    }

    fn run_softmax_cross_entropy(
        &self,
        _: Checked,
        parameters: CrossEntropy,
        logits: &Strips<Self>,
        labels: &Indices,
        stats: &mut Buffer,
        grad: Option<&mut Strips<Self>>,
    ) -> Done {
        softmax_cross_entropy::run(self, parameters, logits, labels, stats, grad.as_deref())
    }

    fn run_pointwise_loss(
        &self,
        _: Checked,
        loss: PointwiseLoss,
        gradient_scale: f32,
        operands: [&Strips<Self>; 2],
        stats: &mut Buffer,
        grad: Option<&mut Strips<Self>>,
    ) -> Done {
        pointwise_loss::run(self, loss, gradient_scale, operands, stats, grad.as_deref())
    }

    fn run_dropout(&self, _: Checked, key: Key, rate: f32, x: &mut Strips<Self>) -> Done {
        dropout::strips(self, key, rate, x)
    }
}

/// What a GPU lacks.
const LISTS: &str = "networks that read lists, which run on the CPU only (use --device cpu)";

impl Lists for Gpu {
    fn run_list_product(&self, _: Checked, _: &ColumnIndex, _: &Buffer, _: &Csr, _: &mut Strips<Self>) -> Done {
        Err(self.unsupported(LISTS))
    }

    fn run_list_weight_grad(
        &self,
        _: Checked,
        _: &ColumnIndex,
        _: &Strips<Self>,
        _: &Csr,
        _: &mut Buffer,
        _: bool,
    ) -> Done {
        Err(self.unsupported(LISTS))
    }

    fn run_label_loss(
        &self,
        _: Checked,
        _: f32,
        _: usize,
        _: &CsrPattern,
        _: &mut Strips<Self>,
        _: &mut Buffer,
    ) -> Done {
        Err(self.unsupported(LISTS))
    }
}

impl Optimizer for Gpu {
    fn run_sgd(
        &self,
        _: Checked,
        step: SgdStep,
        values: &mut Buffer,
        grad: &Buffer,
        velocity: Option<&mut Buffer>,
    ) -> Done {
        optimizer::sgd(self, step, values, grad, velocity.as_deref())
    }

    fn run_adam(
        &self,
        _: Checked,
        step: AdamStep,
        values: &mut Buffer,
        grad: &Buffer,
        moments: [&mut Buffer; 2],
        corrections: Option<[&mut Buffer; 2]>,
    ) -> Done {
        optimizer::adam(self, step, values, grad, moments.map(|b| &*b), corrections.map(|pair| pair.map(|b| &*b)))
    }

    fn run_add_squares(&self, _: Checked, values: &Buffer, sum: &mut Buffer) -> Done {
        optimizer::add_squares(self, values, sum)
    }

    fn run_clip(&self, _: Checked, norm_squared: &Buffer, largest: f32, values: &mut Buffer) -> Done {
        optimizer::clip(self, norm_squared, largest, values)
    }
}

impl Gpu {
    /// A buffer of so many elements that kernels see whole.
    fn visible<'a, T>(&self, what: &str, buffer: &'a super::DeviceBuffer<T>) -> Result<Operand<'a>, BackendError> {
        if buffer.len() <= self.window_elements() {
            return Ok(buffer.first(buffer.len()));
        }
        Err(self.unsupported(format!("{what} of {} elements, more than a kernel may see", buffer.len())))
    }
}
