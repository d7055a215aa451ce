//! SDDMM: the gradient at stored entries.

use std::sync::LazyLock;

use super::half::Source;
use super::kernel::{Kernel, Launch, Read, Work, Write};
use super::plan::{ENTRY_WORDS, Segment, WIDTH};
use super::shaders;
use super::split::Split;
use super::subgroups::with_function;
use super::windows::lanes_within;
use super::{Buffer, Gpu, GpuPlan};
use crate::BackendError;

static SDDMM: Kernel = Kernel::new("sddmm", shaders::SDDMM, &[Read, Read, Read, Read, Read, Read, Write]);
static SDDMM_SUBGROUPS: LazyLock<Kernel> = LazyLock::new(|| Kernel {
    name: "sddmm_subgroups",
    // Made once in a process, and kept.
    source: with_function(SDDMM.source, shaders::GROUP_SUM).leak(),
    ..SDDMM
});

/// The kernels made of this one's text.
#[cfg(test)]
pub(super) fn variants() -> [&'static Kernel; 1] {
    [&SDDMM_SUBGROUPS]
}

/// Groups of a workgroup, as the shader has it.
const TILE_GROUPS: usize = 16;
/// Groups below which the lanes are split: the invocations that the largest cards run at once.
const ENOUGH: usize = 132 * 2048 / WIDTH;
/// Units of lanes, 16 bytes each, of a part at least: four steps of the eight invocations.
const LEAST_UNITS: usize = 4 * WIDTH;

impl Gpu {
    pub(super) fn sampled_product(
        &self,
        plan: &GpuPlan,
        [dy, x]: [Source<'_>; 2],
        values: &Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let (layout, dy_layout) = (x.layout(), dy.layout());
        let kernel = if self.has_subgroup_exchange()? { &*SDDMM_SUBGROUPS } else { &SDDMM };
        let strip_units = layout.strip() / x.unit();
        let pitches = [x.pitch(), dy.pitch()];
        let mut windows = self.strip_windows("activations", layout.strips(), &pitches)?;
        if windows.is_empty() {
            // Sums without terms are written all the same.
            windows.push(0..0);
        }
        let groups = &plan.groups;
        for strips in windows {
            let accumulate = accumulate || strips.start > 0;
            let lanes = lanes_within(layout, &strips);
            let units = lanes.div_ceil(x.unit());
            for Segment { list, entries } in &groups.segments {
                let split = if groups.segments.len() > 1 {
                    // Parts are copies of all values.
                    Split::whole(units)
                } else {
                    let wanted = ENOUGH.div_ceil(list.len().max(1));
                    Split::new(wanted, units, [WIDTH, LEAST_UNITS], values.len(), self.window_elements())
                };
                let tiles = list.len().div_ceil(TILE_GROUPS);
                let launch = |to: &Buffer, (start, len): (usize, usize), accumulate: bool| {
                    self.launch(&Launch {
                        kernel,
                        constants: &[("DY_TYPE", f64::from(dy.code())), ("X_TYPE", f64::from(x.code()))],
                        params: &[
                            list.len() as u32,
                            tiles as u32,
                            (tiles * split.parts) as u32,
                            units as u32,
                            split.terms as u32,
                            strip_units as u32,
                            (WIDTH / strip_units) as u32,
                            (WIDTH % strip_units) as u32,
                            dy_layout.features() as u32,
                            layout.features() as u32,
                            entries.start as u32,
                            values.len() as u32,
                            accumulate.into(),
                        ],
                        operands: &[
                            groups.list.window(ENTRY_WORDS * list.start, ENTRY_WORDS * list.len()),
                            plan.rows.columns.window(entries.start, entries.len()),
                            dy.strips(&strips),
                            dy.strips(&strips),
                            x.strips(&strips),
                            x.strips(&strips),
                            to.window(start, len),
                        ],
                        workgroups: tiles * split.parts,
                        work: Work {
                            bytes: 4
                                * ((1 + split.parts) * entries.len() + strips.len() * (x.pitch() + dy.pitch())) as u64,
                            operations: 2 * (entries.len() * lanes) as u64,
                        },
                    })
                };
                self.sum_in_parts(split.parts, values, (entries.start, entries.len()), accumulate, launch)?;
            }
        }
        Ok(())
    }
}
