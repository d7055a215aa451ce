//! Loops of neural networks that are no matrix products: memory-bound passes, each fused as far as that saves one.
//!
//! Work is cut into tasks of about [`ELEMENTS_PER_TASK`] elements along boundaries that depend on the shape only, and
//! every sum is taken in one order, so that results do not depend on the number of threads.

mod adam;
mod bias_relu;
mod clip;
mod dropout;
mod exp;
mod images;
mod label_loss;
mod lists;
mod pointwise_loss;
mod recurrent;
mod rows;
mod sequence;
mod sgd;
mod sigmoid;
mod softmax_cross_entropy;
mod tanh;

use super::{Buffer, Cpu};
use crate::backend::check::{Checked, Done};
use crate::backend::lists::{ColumnIndex, Lists};
use crate::random::Key;
use crate::{AdamStep, CrossEntropy, Csr, CsrPattern, Neural, Optimizer, PointwiseLoss, SgdStep, Strips};

impl Neural for Cpu {
    fn run_bias_relu(&self, _: Checked, bias: &Buffer, relu: bool, x: &mut Strips<Self>) -> Done {
        let _timed = self.timed("bias_relu", 2 * x.data.len(), 0);
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
        let _timed = self.timed("bias_relu_grad", 3 * grad.data.len(), 0);
        bias_relu::backward(self, y, relu, grad, dbias, accumulate)
    }

    fn run_lane_sums(&self, _: Checked, x: &Strips<Self>, sums: &mut Buffer, accumulate: bool) -> Done {
        let _timed = self.timed("lane_sums", x.data.len(), 0);
        bias_relu::lane_sums(self, x, sums, accumulate)
    }

    fn run_softmax_cross_entropy(
        &self,
        _: Checked,
        parameters: CrossEntropy,
        logits: &Strips<Self>,
        labels: &Vec<u32>,
        stats: &mut Buffer,
        grad: Option<&mut Strips<Self>>,
    ) -> Done {
        let _timed = self.timed("softmax_cross_entropy", 2 * logits.data.len(), 0);
        softmax_cross_entropy::run(self, parameters, logits, labels, stats, grad)
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
        let _timed = self.timed("pointwise_loss", 3 * operands[0].data.len(), 0);
        pointwise_loss::run(self, loss, gradient_scale, operands, stats, grad);
        Ok(())
    }

    fn run_dropout(&self, _: Checked, key: Key, rate: f32, x: &mut Strips<Self>) -> Done {
        let _timed = self.timed("dropout", 2 * x.data.len(), 0);
        dropout::run(self, key, rate, x)
    }
}

impl Lists for Cpu {
    fn run_list_product(
        &self,
        _: Checked,
        index: &ColumnIndex,
        values: &Buffer,
        x: &Csr,
        y: &mut Strips<Self>,
    ) -> Done {
        let _timed = self.timed("list_product", x.values().len() + y.data.len(), 0);
        lists::product(self, index, values, x, y);
        Ok(())
    }

    fn run_list_weight_grad(
        &self,
        _: Checked,
        index: &ColumnIndex,
        dy: &Strips<Self>,
        x: &Csr,
        values: &mut Buffer,
        accumulate: bool,
    ) -> Done {
        let _timed = self.timed("list_weight_grad", values.len() + dy.data.len(), 0);
        lists::weight_grad(self, index, dy, x, values, accumulate);
        Ok(())
    }

    fn run_label_loss(
        &self,
        _: Checked,
        scale: f32,
        first: usize,
        labels: &CsrPattern,
        y: &mut Strips<Self>,
        stats: &mut Buffer,
    ) -> Done {
        let _timed = self.timed("label_loss", 2 * y.data.len(), 0);
        label_loss::run(self, scale, first, labels, y, stats);
        Ok(())
    }
}

impl Optimizer for Cpu {
    fn run_sgd(
        &self,
        _: Checked,
        step: SgdStep,
        values: &mut Buffer,
        grad: &Buffer,
        velocity: Option<&mut Buffer>,
    ) -> Done {
        let _timed = self.timed("sgd", 5 * values.len(), 0);
        sgd::run(self, step, values, grad, velocity.map(|v| &mut **v))
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
        let _timed = self.timed("adam", (if corrections.is_some() { 11 } else { 7 }) * values.len(), 0);
        adam::run(self, step, values, grad, moments, corrections);
        Ok(())
    }

    fn run_add_squares(&self, _: Checked, values: &Buffer, sum: &mut Buffer) -> Done {
        let _timed = self.timed("add_squares", values.len(), 0);
        clip::squares(self, values, &mut sum[0]);
        Ok(())
    }

    fn run_clip(&self, _: Checked, norm_squared: &Buffer, largest: f32, values: &mut Buffer) -> Done {
        let _timed = self.timed("clip", 2 * values.len(), 0);
        clip::clip(self, norm_squared[0], largest, values);
        Ok(())
    }
}

#[cfg(test)]
mod testing {
    use std::sync::LazyLock;

    use super::*;
    use crate::StripLayout;
    use crate::cpu::IsaName;
    pub(super) use crate::testing::neural::normals;
    use crate::testing::{self, neural};

    /// Every instruction set of this machine at 1, 2 and 7 threads.
    pub(super) static BACKENDS: LazyLock<Vec<Cpu>> = LazyLock::new(|| {
        let mut backends = Vec::new();
        for isa in IsaName::ALL {
            if isa.is_available() {
                backends.extend([1, 2, 7].map(|threads| Cpu::new(threads, Some(isa)).unwrap()));
            } else {
                println!("{isa}: not run, this machine lacks it");
            }
        }
        backends
    });

    /// Row-major `[feature][lane]` into strips.
    pub(super) fn pack(layout: StripLayout, from: &[f32]) -> Strips<Cpu> {
        testing::strips(&BACKENDS[0], layout, from)
    }

    /// Strips into row-major; checks that padding lanes hold zero.
    pub(super) fn unpack(x: &Strips<Cpu>) -> Vec<f32> {
        testing::read(&BACKENDS[0], x)
    }

    /// Strips that hold NaN everywhere: an output that must be overwritten.
    pub(super) fn poisoned(layout: StripLayout) -> Strips<Cpu> {
        testing::poisoned(&BACKENDS[0], layout)
    }

    /// A buffer with these elements.
    pub(super) fn buffer(from: &[f32]) -> Buffer {
        testing::buffer(&BACKENDS[0], from)
    }

    /// Runs `operation` on every backend and checks that, within one instruction set, the bits do not depend on the
    /// number of threads.
    pub(super) fn same_for_all_threads(operation: impl Fn(&Cpu) -> Vec<f32>) {
        for of_one_isa in BACKENDS.chunks(3) {
            let results: Vec<Vec<u32>> =
                of_one_isa.iter().map(|cpu| operation(cpu).iter().map(|x| x.to_bits()).collect()).collect();
            assert!(results.iter().all(|r| *r == results[0]), "{}", of_one_isa[0].isa());
        }
    }

    #[test]
    fn wrong_shapes_are_refused() {
        neural::wrong_shapes_are_refused(&BACKENDS[0]);
    }
}
