//! Kernels that find the loss of each lane, and its gradient: what their launches have in common.

use std::ops::Range;

use super::super::elementwise::QUAD;
use super::super::kernel::{Kernel, Launch, Operand, Read, Work, Write};
use super::super::shaders;
use super::super::windows::{lanes_within, of_strips};
use super::super::{Buffer, Gpu};
use crate::{BackendError, Strips};

static FINISH: Kernel =
    Kernel::new("finish", shaders::SOFTMAX_CROSS_ENTROPY, &[Read, Write]).called("softmax_cross_entropy_sums");

/// Quads of lanes of a workgroup: a line of memory.
const QUADS: usize = 8;
/// Invocations that share the features of a quad, at most.
const MOST_SLOTS: usize = 32;
/// Words of a workgroup's result.
const PARTIAL_WORDS: usize = 2;

/// A loss of each lane of `y`.
pub(super) struct LaneLosses<'a> {
    /// Takes quads, quads of a strip, features, lanes, the first partial result and whether there is a gradient, then
    /// [`LaneLosses::parameters`]; and `y`, the targets, the partial results and the gradient.
    pub kernel: &'static Kernel,
    pub parameters: &'a [u32],
    pub y: &'a Strips<Gpu>,
    pub grad: Option<&'a Strips<Gpu>>,
    /// Elements that are read of the targets for each of `y`.
    pub target_words: usize,
}

impl LaneLosses<'_> {
    /// Writes the sum of the losses, and of what else the kernel counts, to `stats`; `targets` gives those of some strips.
    pub fn run<'t>(
        &self,
        gpu: &Gpu,
        stats: &Buffer,
        targets: impl Fn(&Range<usize>) -> Operand<'t>,
    ) -> Result<(), BackendError> {
        let Self { kernel, parameters, y, grad, target_words } = *self;
        let (layout, features) = (y.layout, y.layout.features());
        let slots = features.next_power_of_two().clamp(2, MOST_SLOTS);
        let windows = gpu.strip_windows("outputs", layout.strips(), &[layout.strip_pitch(), layout.strip()])?;
        let groups = |strips: usize| (strips * layout.strip() / QUAD).div_ceil(QUADS);
        let partials = windows.iter().map(|strips| groups(strips.len())).sum::<usize>();
        gpu.with_partials(PARTIAL_WORDS * partials, |sums| {
            let mut first = 0;
            for strips in &windows {
                let elements = strips.len() * layout.strip_pitch();
                // Without a gradient something must stand in its place: any buffer that is written here.
                let gradient = grad.map_or(gpu.visible("stats", stats)?, |grad| of_strips(grad, strips));
                let sizes = [
                    (strips.len() * layout.strip() / QUAD) as u32,
                    (layout.strip() / QUAD) as u32,
                    features as u32,
                    lanes_within(layout, strips) as u32,
                    first as u32,
                    u32::from(grad.is_some()),
                ];
                let words = 1 + target_words + usize::from(grad.is_some());
                gpu.launch(&Launch {
                    kernel,
                    constants: &[("QUADS", QUADS as f64), ("SLOTS", slots as f64)],
                    params: &[&sizes[..], parameters].concat(),
                    operands: &[of_strips(y, strips), targets(strips), gpu.visible("losses", sums)?, gradient],
                    workgroups: groups(strips.len()),
                    work: Work { bytes: 4 * (elements * words) as u64, operations: 20 * elements as u64 },
                })?;
                first += groups(strips.len());
            }
            gpu.launch(&Launch {
                kernel: &FINISH,
                constants: &[],
                params: &[partials as u32],
                operands: &[gpu.visible("losses", sums)?, gpu.visible("stats", stats)?],
                workgroups: 1,
                work: Work::words(PARTIAL_WORDS * partials),
            })
        })
    }
}
