//! SDDMM: the gradient at stored entries.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::LazyLock;

use super::half::Source;
use super::kernel::{Access, Kernel, Launch, Work};
use super::shaders;
use super::split::Split;
use super::spmm::{check_lanes, expect_values};
use super::subgroups::with_function;
use super::windows::lanes_within;
use super::{Buffer, Gpu, GpuPlan, Indices, WINDOW_UNIT};
use crate::error::expect_equal;
use crate::{BackendError, CsrPattern};

static SDDMM: Kernel = Kernel {
    name: "sddmm",
    source: shaders::SDDMM,
    entry: "sddmm",
    operands: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
};
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

/// Entries of a group at most, and invocations that share it.
const WIDTH: usize = 8;
/// Groups of a workgroup, as the shader has it.
const TILE_GROUPS: usize = 16;
/// Words of a group in the list: row, first entry, number of entries, nothing.
const GROUP_WORDS: usize = 4;
/// Groups below which the lanes are split: the invocations that the largest cards run at once.
const ENOUGH: usize = 132 * 2048 / WIDTH;
/// Units of lanes, 16 bytes each, of a part at least: four steps of the eight invocations.
const LEAST_UNITS: usize = 4 * WIDTH;

/// Groups whose entries a kernel can see at once.
#[derive(Debug)]
struct Segment {
    /// Groups in the list.
    list: Range<usize>,
    /// Window of the entries.
    entries: Range<usize>,
}

/// A pattern's entries in groups of one row.
#[derive(Debug)]
pub(super) struct Groups {
    /// `(row, first entry, number of entries, 0)`, of each segment the longest first.
    list: Indices,
    /// Parts that kernels can see whole; most patterns are one.
    segments: Vec<Segment>,
}

impl Groups {
    pub fn new(gpu: &Gpu, pattern: &CsrPattern) -> Result<Self, BackendError> {
        let most = gpu.window_elements();
        let groups_of = |row: usize| {
            let entries = pattern.row_range(row);
            let end = entries.end;
            entries.step_by(WIDTH).map(move |start| (row, start..end.min(start + WIDTH)))
        };
        let mut groups = (0..pattern.nrows()).flat_map(groups_of).peekable();
        let mut list: Vec<u32> = Vec::with_capacity(GROUP_WORDS * (pattern.nnz() / WIDTH + pattern.nrows()));
        let mut segments = Vec::new();
        while let Some((_, entries)) = groups.peek() {
            let first = entries.start / WINDOW_UNIT * WINDOW_UNIT;
            let mut segment = Vec::new();
            while let Some(group) =
                groups.next_if(|(_, entries)| entries.end - first <= most && (segment.len() + 1) * GROUP_WORDS <= most)
            {
                segment.push(group);
            }
            let Some(end) = segment.last().map(|(_, entries)| entries.end) else {
                let what = format!("sampled products with {} bytes that a kernel may see", 4 * most);
                return Err(BackendError::Unsupported { device: gpu.report().to_string(), what });
            };
            // Stable: groups of one length stay in order.
            segment.sort_by_key(|(_, entries)| Reverse(entries.len()));
            list.resize(list.len().next_multiple_of(WINDOW_UNIT), 0);
            let start = list.len() / GROUP_WORDS;
            segments.push(Segment { list: start..start + segment.len(), entries: first..end });
            for (row, entries) in segment {
                list.extend([row as u32, entries.start as u32, entries.len() as u32, 0]);
            }
        }
        Ok(Self { list: gpu.indices(&list)?, segments })
    }

    pub fn bytes(&self) -> usize {
        4 * self.list.len()
    }
}

impl Gpu {
    pub(super) fn sampled_product(
        &self,
        plan: &GpuPlan,
        [dy, x]: [Source<'_>; 2],
        values: &Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let pattern = &*plan.pattern;
        let (layout, dy_layout) = (x.layout(), dy.layout());
        expect_equal("sddmm", "strip width", plan.options.strip, layout.strip())?;
        check_lanes("sddmm", layout, dy_layout)?;
        expect_equal("sddmm", "rows of X", pattern.ncols(), layout.features())?;
        expect_equal("sddmm", "rows of dY", pattern.nrows(), dy_layout.features())?;
        x.check("sddmm", "length of X")?;
        dy.check("sddmm", "length of dY")?;
        expect_values(pattern.nnz(), values.len())?;
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
                let launch = |to: &Buffer, len: usize, accumulate: bool| {
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
                            groups.list.window(GROUP_WORDS * list.start, GROUP_WORDS * list.len()),
                            plan.rows.columns.window(entries.start, entries.len()),
                            dy.strips(&strips),
                            dy.strips(&strips),
                            x.strips(&strips),
                            x.strips(&strips),
                            to.window(entries.start, len),
                        ],
                        workgroups: tiles * split.parts,
                        work: Work {
                            bytes: 4
                                * ((1 + split.parts) * entries.len() + strips.len() * (x.pitch() + dy.pitch())) as u64,
                            operations: 2 * (entries.len() * lanes) as u64,
                        },
                    })
                };
                if split.parts > 1 {
                    let len = values.len();
                    self.with_partials(split.parts * len, |scratch| {
                        launch(scratch, split.parts * len, false)?;
                        self.sum_parts(scratch, split.parts, values, (0, len), accumulate)
                    })?;
                } else {
                    launch(values, entries.len(), accumulate)?;
                }
            }
        }
        Ok(())
    }
}
