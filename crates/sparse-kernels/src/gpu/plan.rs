//! Patterns prepared for the GPU.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use super::{Gpu, Indices, WINDOW_UNIT};
use crate::backend::PlanOptions;
use crate::{BackendError, CsrPattern, StripLayout};

/// Entries of a group at most, and invocations that share it.
pub(super) const WIDTH: usize = 8;
/// Words of a list's entry: row, first entry, number of entries, nothing.
pub(super) const ENTRY_WORDS: usize = 4;

/// Rows, or groups, whose entries a kernel can see at once.
#[derive(Debug)]
pub(super) struct Segment {
    /// In the list.
    pub list: Range<usize>,
    /// Window of the entries.
    pub entries: Range<usize>,
}

/// One order of a pattern's entries on the device.
#[derive(Debug)]
pub(super) struct Rows {
    /// Rows and columns of this order's matrix.
    pub size: [usize; 2],
    /// `(row, first entry, number of entries, 0)`, of each segment the longest first.
    pub list: Indices,
    /// Column of each entry.
    pub columns: Indices,
    /// Parts that kernels can see whole; most patterns are one.
    pub segments: Vec<Segment>,
}

impl Rows {
    pub fn new(gpu: &Gpu, pattern: &CsrPattern) -> Result<Self, BackendError> {
        let mut list: Vec<u32> = Vec::with_capacity(ENTRY_WORDS * pattern.nrows());
        let mut segments = Vec::new();
        let most = gpu.window_elements();
        let mut row = 0;
        while row < pattern.nrows() {
            let first = pattern.row_range(row).start / WINDOW_UNIT * WINDOW_UNIT;
            let fits = |end: usize| pattern.row_range(end).end - first <= most && (end + 1 - row) * ENTRY_WORDS <= most;
            let end = (row..pattern.nrows()).take_while(|&end| fits(end)).last().map_or(row, |last| last + 1);
            if end == row {
                let what =
                    format!("row {row} with {} entries, more than a kernel may see", pattern.row_range(row).len());
                return Err(gpu.unsupported(what));
            }
            let mut order: Vec<usize> = (row..end).collect();
            // Stable: rows of one length stay in order.
            order.sort_by_key(|&row| Reverse(pattern.row_range(row).len()));
            list.resize(list.len().next_multiple_of(WINDOW_UNIT), 0);
            let start = list.len() / ENTRY_WORDS;
            for row in order {
                let entries = pattern.row_range(row);
                list.extend([row as u32, entries.start as u32, entries.len() as u32, 0]);
            }
            segments.push(Segment { list: start..start + (end - row), entries: first..pattern.row_range(end - 1).end });
            row = end;
        }
        let size = [pattern.nrows(), pattern.ncols()];
        Ok(Self { size, list: gpu.indices(&list)?, columns: gpu.indices(pattern.col_indices())?, segments })
    }

    pub fn bytes(&self) -> usize {
        4 * (self.list.len() + self.columns.len())
    }
}

/// A pattern's entries in groups of one row.
#[derive(Debug)]
pub(super) struct Groups {
    /// `(row, first entry, number of entries, 0)`, of each segment the longest first.
    pub list: Indices,
    /// Parts that kernels can see whole; most patterns are one.
    pub segments: Vec<Segment>,
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
        let mut list: Vec<u32> = Vec::with_capacity(ENTRY_WORDS * (pattern.nnz() / WIDTH + pattern.nrows()));
        let mut segments = Vec::new();
        while let Some((_, entries)) = groups.peek() {
            let first = entries.start / WINDOW_UNIT * WINDOW_UNIT;
            let mut segment = Vec::new();
            while let Some(group) =
                groups.next_if(|(_, entries)| entries.end - first <= most && (segment.len() + 1) * ENTRY_WORDS <= most)
            {
                segment.push(group);
            }
            let Some(end) = segment.last().map(|(_, entries)| entries.end) else {
                return Err(gpu.unsupported(format!("sampled products with {} bytes that a kernel may see", 4 * most)));
            };
            // Stable: groups of one length stay in order.
            segment.sort_by_key(|(_, entries)| Reverse(entries.len()));
            list.resize(list.len().next_multiple_of(WINDOW_UNIT), 0);
            let start = list.len() / ENTRY_WORDS;
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

/// A pattern prepared for the GPU: rows in order of length, and the same of the transpose.
#[derive(Debug)]
pub struct GpuPlan {
    pub(super) pattern: Arc<CsrPattern>,
    pub(super) options: PlanOptions,
    pub(super) rows: Rows,
    /// The entries in groups, for SDDMM.
    pub(super) groups: Groups,
    /// The transposed order, and where each of its values stands in the pattern's.
    pub(super) transposed: Option<(Rows, Indices)>,
}

impl GpuPlan {
    pub(super) fn new(gpu: &Gpu, pattern: Arc<CsrPattern>, options: PlanOptions) -> Result<Self, BackendError> {
        StripLayout::new(0, 0, options.strip)?;
        let rows = Rows::new(gpu, &pattern)?;
        let groups = Groups::new(gpu, &pattern)?;
        let transposed = if options.transpose {
            let transposed = pattern.transpose();
            Some((Rows::new(gpu, &transposed.pattern)?, gpu.indices(&transposed.permutation)?))
        } else {
            None
        };
        Ok(Self { pattern, options, rows, groups, transposed })
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.bytes()
            + self.groups.bytes()
            + self.transposed.as_ref().map_or(0, |(rows, map)| rows.bytes() + 4 * map.len())
    }
}
