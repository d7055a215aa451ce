//! What the GPU prepares for a sparse convolution: entries as offsets into an image, and the order to walk them in.

use std::sync::{Arc, Mutex, PoisonError};

use super::grid::Grid;
use crate::backend::ConvOptions;
use crate::error::expect_equal;
use crate::gpu::{Buffer, Gpu, Indices};
use crate::{BackendError, ConvShape, CsrPattern, Storage};

/// Words of a row in its list, or of a task: row, first entry, number of entries, nothing.
const ROW_WORDS: usize = 4;
/// Entries of a task of the weight gradient, as the shader has it.
const TASK_ENTRIES: usize = 8;

/// From which density on a convolution runs dense, on its weights scattered among zeros. Argued, not measured: sparse code is
/// held to a quarter of the multiply-adds by its loads, and dense code makes more than half of them.
const DENSIFIED_FROM: f64 = 0.5;

/// A CSR pattern of a convolution prepared for the GPU's kernels, see [`crate::SparseConv::plan_conv`].
#[derive(Debug)]
pub struct GpuConvPlan {
    pub(super) pattern: Arc<CsrPattern>,
    pub(super) shape: ConvShape,
    pub(super) options: ConvOptions,
    pub(super) way: Way,
}

/// How a convolution is computed.
#[derive(Debug)]
pub(super) enum Way {
    Sparse(Box<SparsePlan>),
    Dense(Box<Densified>),
}

/// What the sparse kernels walk.
#[derive(Debug)]
pub(super) struct SparsePlan {
    /// Where each entry's pixels of X stand, relative to the pixel of Y they are for.
    pub offsets: Indices,
    pub forward: Pass,
    /// Parts of rows for the weight gradient.
    pub tasks: Indices,
    pub backward: Option<Backward>,
}

/// What leads from stored entries to the dense weight and back.
#[derive(Debug)]
pub(super) struct Densified {
    /// Where each element of the dense weight stands among the entries, `u32::MAX` if it is not stored.
    pub entries: Indices,
    /// Where each entry stands in the dense weight.
    pub places: Indices,
    /// The dense weight or its gradient, of the operation that is being queued.
    weight: Mutex<Buffer>,
}

/// One pass over all rows of a weight.
#[derive(Debug)]
pub(super) struct Pass {
    pub grid: Grid,
    /// `(row, first entry, number of entries, 0)`, the longest first.
    pub rows: Indices,
    pub nrows: usize,
    pub nnz: usize,
}

/// The transposed convolution: one pass for each residue of X's pixels modulo the stride, since those see different taps.
#[derive(Debug)]
pub(super) struct Backward {
    pub passes: Vec<Pass>,
    /// Where each entry's pixels of dY stand, relative to the pixel of X they are for; those of all passes, in order.
    pub offsets: Indices,
    /// Where each entry stands in the pattern.
    pub permutation: Indices,
}

impl Pass {
    /// `rows` are the first entry and the number of entries of each.
    fn new(gpu: &Gpu, grid: Grid, rows: &[[usize; 2]]) -> Result<Self, BackendError> {
        let mut order: Vec<usize> = (0..rows.len()).collect();
        // Stable: rows of one length stay in order.
        order.sort_by_key(|&row| std::cmp::Reverse(rows[row][1]));
        let list: Vec<u32> =
            order.into_iter().flat_map(|row| [row as u32, rows[row][0] as u32, rows[row][1] as u32, 0]).collect();
        gpu.check_window("a convolution's list of rows", list.len())?;
        let nnz = rows.iter().map(|row| row[1]).sum();
        Ok(Self { grid, rows: gpu.indices(&list)?, nrows: rows.len(), nnz })
    }
}

impl GpuConvPlan {
    pub(super) fn new(
        gpu: &Gpu,
        pattern: Arc<CsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self, BackendError> {
        const OP: &str = "plan_conv";
        expect_equal(OP, "number of rows", shape.rows(), pattern.nrows())?;
        expect_equal(OP, "number of columns", shape.columns(), pattern.ncols())?;
        options.check(OP, shape)?;
        let way = if pattern.density() < DENSIFIED_FROM {
            Way::Sparse(Box::new(SparsePlan::new(gpu, &pattern, shape, options)?))
        } else {
            Way::Dense(Box::new(Densified::new(gpu, &pattern)?))
        };
        Ok(Self { pattern, shape, options, way })
    }

    /// Whether the convolution runs dense, its density being what it is.
    pub fn is_densified(&self) -> bool {
        matches!(self.way, Way::Dense(_))
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<u32>()
            * match &self.way {
                Way::Sparse(plan) => plan.words(),
                Way::Dense(plan) => 2 * plan.entries.len() + plan.places.len(),
            }
    }
}

impl Densified {
    fn new(gpu: &Gpu, pattern: &CsrPattern) -> Result<Self, BackendError> {
        let size = pattern.nrows() * pattern.ncols();
        gpu.check_window("a convolution's weights", size)?;
        let mut entries = vec![u32::MAX; size];
        let mut places = Vec::with_capacity(pattern.nnz());
        for (entry, (row, column)) in pattern.positions().enumerate() {
            let place = row as usize * pattern.ncols() + column as usize;
            entries[place] = entry as u32;
            places.push(place as u32);
        }
        let weight = Mutex::new(gpu.zeros(entries.len())?);
        Ok(Self { entries: gpu.indices(&entries)?, places: gpu.indices(&places)?, weight })
    }

    /// Queues a dense operation on the weight with these values, and zeros between them.
    pub(super) fn with_weight(
        &self,
        gpu: &Gpu,
        values: &Buffer,
        queue: impl FnOnce(&Buffer) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        // Held until all is queued: other threads queue operations too.
        let weight = self.weight.lock().unwrap_or_else(PoisonError::into_inner);
        gpu.gather_buffer(values, &self.entries, &weight)?;
        queue(&weight)
    }

    /// Queues a dense weight gradient, and takes what is stored from it. `queue` adds to what its buffer holds if asked to
    /// accumulate.
    pub(super) fn sample(
        &self,
        gpu: &Gpu,
        values: &mut Buffer,
        accumulate: bool,
        queue: impl FnOnce(&mut Buffer) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let mut gradient = self.weight.lock().unwrap_or_else(PoisonError::into_inner);
        if accumulate {
            gpu.gather_buffer(values, &self.entries, &gradient)?;
        }
        queue(&mut gradient)?;
        gpu.gather_buffer(&gradient, &self.places, values)
    }
}

impl SparsePlan {
    fn new(gpu: &Gpu, pattern: &CsrPattern, shape: ConvShape, options: ConvOptions) -> Result<Self, BackendError> {
        gpu.check_window("the entries of a sparse convolution", pattern.nnz())?;
        let grid = Grid::forward(shape, options.x, options.y);
        let offset = |(row, column): (u32, u32)| {
            let (channel, tap) = channel_and_tap(shape, row, column);
            grid.offset(channel, tap).expect("Y's pixels see all taps")
        };
        let offsets: Vec<u32> = pattern.positions().map(offset).collect();
        let rows: Vec<[usize; 2]> = (0..pattern.nrows())
            .map(|row| pattern.row_range(row))
            .map(|entries| [entries.start, entries.len()])
            .collect();
        let backward = if options.input_grad { Some(Backward::new(gpu, pattern, shape, options)?) } else { None };
        let tasks = tasks(pattern, shape);
        gpu.check_window("a convolution's list of tasks", tasks.len())?;
        let forward = Pass::new(gpu, grid, &rows)?;
        Ok(Self { forward, offsets: gpu.indices(&offsets)?, tasks: gpu.indices(&tasks)?, backward })
    }

    pub(super) fn task_count(&self) -> usize {
        self.tasks.len() / ROW_WORDS
    }

    fn words(&self) -> usize {
        let backward = self.backward.as_ref().map_or(0, |backward| {
            let rows: usize = backward.passes.iter().map(|pass| pass.rows.len()).sum();
            rows + backward.offsets.len() + backward.permutation.len()
        });
        self.offsets.len() + self.forward.rows.len() + self.tasks.len() + backward
    }
}

impl Backward {
    fn new(gpu: &Gpu, pattern: &CsrPattern, shape: ConvShape, options: ConvOptions) -> Result<Self, BackendError> {
        let (mut offsets, mut permutation) = (Vec::with_capacity(pattern.nnz()), Vec::with_capacity(pattern.nnz()));
        let mut passes = Vec::new();
        for grid in Grid::backward(shape, options.x, options.y) {
            let first = offsets.len();
            // Channel of X and offset of each entry that this pass sees.
            let of = |(row, column): (u32, u32)| {
                let (channel, tap) = channel_and_tap(shape, row, column);
                grid.offset(row as usize, tap).map(|offset| (channel, offset))
            };
            let mut rows = vec![[0; 2]; shape.in_channels()];
            pattern.positions().filter_map(of).for_each(|(channel, _)| rows[channel][1] += 1);
            let mut next = Vec::with_capacity(rows.len());
            let mut end = first;
            for row in &mut rows {
                row[0] = end;
                next.push(end);
                end += row[1];
            }
            offsets.resize(end, 0);
            permutation.resize(end, 0);
            // Rows of the weight are visited in order: a channel's entries are in order of output channels and taps.
            for (place, position) in pattern.positions().enumerate() {
                if let Some((channel, offset)) = of(position) {
                    let slot = next[channel];
                    next[channel] += 1;
                    (offsets[slot], permutation[slot]) = (offset, place as u32);
                }
            }
            passes.push(Pass::new(gpu, grid, &rows)?);
        }
        // Taps that no pixel of X sees belong to no pass; their values have no use there.
        offsets.resize(pattern.nnz(), 0);
        permutation.resize(pattern.nnz(), u32::MAX);
        Ok(Self { passes, offsets: gpu.indices(&offsets)?, permutation: gpu.indices(&permutation)? })
    }
}

/// Rows in parts of at most [`TASK_ENTRIES`], in order of their first columns: those that read the same channels of X are
/// neighbours.
fn tasks(pattern: &CsrPattern, shape: ConvShape) -> Vec<u32> {
    let mut tasks = Vec::with_capacity(pattern.nnz() / TASK_ENTRIES + pattern.nrows());
    for row in 0..pattern.nrows() {
        let entries = pattern.row_range(row);
        for (columns, first) in pattern.row(row).chunks(TASK_ENTRIES).zip((entries.start..).step_by(TASK_ENTRIES)) {
            let (channel, _) = channel_and_tap(shape, row as u32, columns[0]);
            let key = channel * shape.taps() + columns[0] as usize % shape.taps();
            tasks.push((key, [row as u32, first as u32, columns.len() as u32, 0]));
        }
    }
    // Stable: of one column, in order of rows.
    tasks.sort_by_key(|(key, _)| *key);
    tasks.into_iter().flat_map(|(_, task)| task).collect()
}

/// The input channel, and row and column in the filter, of a column of the weight's row.
fn channel_and_tap(shape: ConvShape, row: u32, column: u32) -> (usize, [usize; 2]) {
    let (channel, tap) = shape.channel_and_tap(row as usize, column as usize);
    (channel, [tap / shape.kernel()[1], tap % shape.kernel()[1]])
}
