//! Softmax cross-entropy with its gradient, fused.

use super::super::elementwise::QUAD;
use super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::shaders;
use super::super::windows::{lanes_within, of_strips};
use super::super::{Buffer, Gpu, Indices};
use crate::backend::CrossEntropy;
use crate::{BackendError, Strips};

static SOFTMAX: Kernel =
    Kernel::new("softmax_cross_entropy", shaders::SOFTMAX_CROSS_ENTROPY, &[Read, Read, Write, Write]);
static FINISH: Kernel =
    Kernel::new("finish", shaders::SOFTMAX_CROSS_ENTROPY, &[Read, Write]).called("softmax_cross_entropy_sums");

/// Quads of lanes of a workgroup: a line of memory.
pub(super) const QUADS: usize = 8;
/// Invocations that share the classes of a quad, at most.
pub(super) const MOST_SLOTS: usize = 32;
/// Words of a workgroup's result.
pub(super) const PARTIAL_WORDS: usize = 2;

pub(super) fn run(
    gpu: &Gpu,
    parameters: CrossEntropy,
    logits: &Strips<Gpu>,
    labels: &Indices,
    stats: &Buffer,
    grad: Option<&Strips<Gpu>>,
) -> Result<(), BackendError> {
    let (layout, classes) = (logits.layout, logits.layout.features());
    let slots = classes.next_power_of_two().clamp(2, MOST_SLOTS);
    let windows = gpu.strip_windows("logits", layout.strips(), &[layout.strip_pitch(), layout.strip()])?;
    let groups = |strips: usize| (strips * layout.strip() / QUAD).div_ceil(QUADS);
    let partials = windows.iter().map(|strips| groups(strips.len())).sum::<usize>();
    gpu.with_partials(PARTIAL_WORDS * partials, |sums| {
        let mut first = 0;
        for strips in &windows {
            let elements = strips.len() * layout.strip_pitch();
            // Without a gradient something must stand in its place: any buffer that is written here.
            let gradient = grad.map_or(gpu.visible("stats", stats)?, |grad| of_strips(grad, strips));
            gpu.launch(&Launch {
                kernel: &SOFTMAX,
                constants: &[("QUADS", QUADS as f64), ("SLOTS", slots as f64)],
                params: &[
                    (strips.len() * layout.strip() / QUAD) as u32,
                    (layout.strip() / QUAD) as u32,
                    classes as u32,
                    lanes_within(layout, strips) as u32,
                    first as u32,
                    u32::from(grad.is_some()),
                    parameters.label_smoothing.to_bits(),
                    parameters.gradient_scale.to_bits(),
                ],
                operands: &[
                    of_strips(logits, strips),
                    labels.window(strips.start * layout.strip(), lanes_within(layout, strips)),
                    gpu.visible("losses", sums)?,
                    gradient,
                ],
                workgroups: groups(strips.len()),
                work: Work {
                    bytes: 4 * (elements * if grad.is_some() { 2 } else { 1 }) as u64,
                    operations: 20 * elements as u64,
                },
            })?;
            first += groups(strips.len());
        }
        finish(gpu, partials, sums, stats)
    })
}

/// Adds up the results of so many workgroups.
pub(super) fn finish(gpu: &Gpu, partials: usize, sums: &Buffer, stats: &Buffer) -> Result<(), BackendError> {
    gpu.launch(&Launch {
        kernel: &FINISH,
        constants: &[],
        params: &[partials as u32],
        operands: &[gpu.visible("losses", sums)?, gpu.visible("stats", stats)?],
        workgroups: 1,
        work: Work::words(PARTIAL_WORDS * partials),
    })
}
