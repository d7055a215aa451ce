//! SDDMM: the gradient at stored entries.

use std::cmp::Reverse;
use std::ops::Range;

use super::kernel::{Access, Kernel, Launch, Work};
use super::split::Split;
use super::spmm::{check_lanes, expect_values};
use super::windows::{lanes_within, of_strips};
use super::{Buffer, Gpu, GpuPlan, Indices, WINDOW_UNIT};
use crate::error::expect_equal;
use crate::{BackendError, CsrPattern, Strips};

static SDDMM: Kernel = Kernel {
    name: "sddmm",
    source: include_str!("../../shaders/sddmm.wgsl"),
    entry: "sddmm",
    operands: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
};

/// Entries of a group at most, and invocations that share it.
const WIDTH: usize = 8;
/// Groups of a workgroup.
const TILE_GROUPS: usize = 16;
/// Words of a group in the list: row, first entry, number of entries, nothing.
const GROUP_WORDS: usize = 4;
/// Groups below which the lanes are split: the invocations that the largest cards run at once.
const ENOUGH: usize = 132 * 2048 / WIDTH;
/// Quads of lanes of a part at least: four steps of the eight invocations.
const LEAST_QUADS: usize = 4 * WIDTH;

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
        dy: &Strips<Self>,
        x: &Strips<Self>,
        values: &Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let pattern = &*plan.pattern;
        expect_equal("sddmm", "strip width", plan.options.strip, x.layout.strip())?;
        check_lanes("sddmm", x.layout, dy.layout)?;
        expect_equal("sddmm", "rows of X", pattern.ncols(), x.layout.features())?;
        expect_equal("sddmm", "rows of dY", pattern.nrows(), dy.layout.features())?;
        expect_equal("sddmm", "length of X", x.layout.len(), x.data.len())?;
        expect_equal("sddmm", "length of dY", dy.layout.len(), dy.data.len())?;
        expect_values(pattern.nnz(), values.len())?;
        let layout = x.layout;
        let strip_quads = layout.strip() / 4;
        let pitches = [layout.strip_pitch(), dy.layout.strip_pitch()];
        let mut windows = self.strip_windows("activations", layout.strips(), &pitches)?;
        if windows.is_empty() {
            // Sums without terms are written all the same.
            windows.push(0..0);
        }
        let groups = &plan.groups;
        for strips in windows {
            let accumulate = accumulate || strips.start > 0;
            let lanes = lanes_within(layout, &strips);
            let quads = lanes.div_ceil(4);
            for Segment { list, entries } in &groups.segments {
                let split = if groups.segments.len() > 1 {
                    // Parts are copies of all values.
                    Split::whole(quads)
                } else {
                    let wanted = ENOUGH.div_ceil(list.len().max(1));
                    Split::new(wanted, quads, [WIDTH, LEAST_QUADS], values.len(), self.window_elements())
                };
                let tiles = list.len().div_ceil(TILE_GROUPS);
                let launch = |to: &Buffer, len: usize, accumulate: bool| {
                    self.launch(&Launch {
                        kernel: &SDDMM,
                        constants: &[("GROUPS", TILE_GROUPS as f64)],
                        params: &[
                            list.len() as u32,
                            tiles as u32,
                            (tiles * split.parts) as u32,
                            quads as u32,
                            split.terms as u32,
                            strip_quads as u32,
                            (WIDTH / strip_quads) as u32,
                            (WIDTH % strip_quads) as u32,
                            dy.layout.features() as u32,
                            layout.features() as u32,
                            entries.start as u32,
                            values.len() as u32,
                            accumulate.into(),
                        ],
                        operands: &[
                            groups.list.window(GROUP_WORDS * list.start, GROUP_WORDS * list.len()),
                            plan.rows.columns.window(entries.start, entries.len()),
                            of_strips(dy, &strips),
                            of_strips(x, &strips),
                            to.window(entries.start, len),
                        ],
                        workgroups: tiles * split.parts,
                        work: Work {
                            bytes: 4
                                * ((1 + split.parts) * entries.len()
                                    + strips.len() * (layout.strip_pitch() + dy.layout.strip_pitch()))
                                    as u64,
                            operations: 2 * (entries.len() * lanes) as u64,
                        },
                    })
                };
                if split.parts > 1 {
                    let len = values.len();
                    self.with_scratch(split.parts * len, |scratch| {
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
