//! Losses of each output against a number, with their gradients.

use super::super::elementwise::QUAD;
use super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::shaders;
use super::super::windows::{lanes_within, of_strips};
use super::super::{Buffer, Gpu};
use super::softmax_cross_entropy::{MOST_SLOTS, PARTIAL_WORDS, QUADS, finish};
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
    let (layout, features) = (outputs.layout, outputs.layout.features());
    let slots = features.next_power_of_two().clamp(2, MOST_SLOTS);
    let windows = gpu.strip_windows("outputs", layout.strips(), &[layout.strip_pitch()])?;
    let groups = |strips: usize| (strips * layout.strip() / QUAD).div_ceil(QUADS);
    let partials = windows.iter().map(|strips| groups(strips.len())).sum::<usize>();
    let (kind, delta) = match loss {
        PointwiseLoss::Squared => (0u32, 0.0),
        PointwiseLoss::Huber { delta } => (1, delta),
        PointwiseLoss::BinaryCrossEntropy => (2, 0.0),
    };
    gpu.with_partials(PARTIAL_WORDS * partials, |sums| {
        let mut first = 0;
        for strips in &windows {
            let elements = strips.len() * layout.strip_pitch();
            // Without a gradient something must stand in its place: any buffer that is written here.
            let gradient = grad.map_or(gpu.visible("stats", stats)?, |grad| of_strips(grad, strips));
            gpu.launch(&Launch {
                kernel: &LOSS,
                constants: &[("QUADS", QUADS as f64), ("SLOTS", slots as f64)],
                params: &[
                    (strips.len() * layout.strip() / QUAD) as u32,
                    (layout.strip() / QUAD) as u32,
                    features as u32,
                    lanes_within(layout, strips) as u32,
                    first as u32,
                    u32::from(grad.is_some()),
                    kind,
                    delta.to_bits(),
                    gradient_scale.to_bits(),
                ],
                operands: &[
                    of_strips(outputs, strips),
                    of_strips(targets, strips),
                    gpu.visible("losses", sums)?,
                    gradient,
                ],
                workgroups: groups(strips.len()),
                work: Work {
                    bytes: 4 * (elements * if grad.is_some() { 3 } else { 2 }) as u64,
                    operations: 20 * elements as u64,
                },
            })?;
            first += groups(strips.len());
        }
        finish(gpu, partials, sums, stats)
    })
}
