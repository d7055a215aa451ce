//! Softmax cross-entropy with its gradient, fused.

use super::super::kernel::{Kernel, Read, Write};
use super::super::shaders;
use super::super::windows::lanes_within;
use super::super::{Buffer, Gpu, Indices};
use super::lane_losses::LaneLosses;
use crate::backend::CrossEntropy;
use crate::{BackendError, Strips};

static SOFTMAX: Kernel =
    Kernel::new("softmax_cross_entropy", shaders::SOFTMAX_CROSS_ENTROPY, &[Read, Read, Write, Write]);

pub(super) fn run(
    gpu: &Gpu,
    parameters: CrossEntropy,
    logits: &Strips<Gpu>,
    labels: &Indices,
    stats: &Buffer,
    grad: Option<&Strips<Gpu>>,
) -> Result<(), BackendError> {
    let layout = logits.layout;
    let parameters = &[parameters.label_smoothing.to_bits(), parameters.gradient_scale.to_bits()];
    let losses = LaneLosses { kernel: &SOFTMAX, parameters, y: logits, grad, target_words: 0 };
    losses.run(gpu, stats, |strips| labels.window(strips.start * layout.strip(), lanes_within(layout, strips)))
}
