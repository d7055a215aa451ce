//! Losses of each output against a number, with their gradients.

use super::super::kernel::{Kernel, Read, Write};
use super::super::shaders;
use super::super::windows::of_strips;
use super::super::{Buffer, Gpu};
use super::lane_losses::LaneLosses;
use crate::backend::PointwiseLoss;
use crate::{BackendError, Strips};

static LOSS: Kernel = Kernel::new("pointwise_loss", shaders::POINTWISE_LOSS, &[Read, Read, Write, Write]);

pub(super) fn run(
    gpu: &Gpu,
    loss: PointwiseLoss,
    gradient_scale: f32,
    [outputs, targets]: [&Strips<Gpu>; 2],
    stats: &Buffer,
    grad: Option<&Strips<Gpu>>,
) -> Result<(), BackendError> {
    let (kind, delta) = match loss {
        PointwiseLoss::Squared => (0u32, 0.0),
        PointwiseLoss::Huber { delta } => (1, delta),
        PointwiseLoss::BinaryCrossEntropy => (2, 0.0),
    };
    let parameters = &[kind, delta.to_bits(), gradient_scale.to_bits()];
    let losses = LaneLosses { kernel: &LOSS, parameters, y: outputs, grad, target_words: 1 };
    losses.run(gpu, stats, |strips| of_strips(targets, strips))
}
