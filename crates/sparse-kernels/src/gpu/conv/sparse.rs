//! Direct convolution with sparse weights.

use super::grid::part;
use super::plan::{Pass, SparsePlan};
use super::sums::Sums;
use crate::gpu::kernel::{Kernel, Launch, Read, Work, Write};
use crate::gpu::shaders;
use crate::gpu::{Buffer, Gpu, Indices};
use crate::{BackendError, Images};

static CONV_SPARSE: Kernel = Kernel::new("conv_sparse", shaders::CONV_SPARSE, &[Read, Read, Read, Read, Read, Write]);
static CONV_SPARSE_SINGLE: Kernel = Kernel { entry: "conv_sparse_single", ..CONV_SPARSE };
static CONV_SPARSE_GRAD: Kernel =
    Kernel::new("conv_sparse_grad", shaders::CONV_SPARSE_GRAD, &[Read, Read, Read, Read, Read, Read, Write]);

/// Invocations of a workgroup.
const GROUP: usize = 256;
/// Columns that an invocation has, as the shader has it.
const COLUMNS: usize = 4;
/// Rows of a workgroup where there are enough columns: eight rows of two lines of invocations that read 64 vectors each; and
/// at most, since each row takes 320 bytes of shared memory.
const ROWS: usize = 8;
const MOST_ROWS: usize = 32;
/// Tasks of a workgroup of the weight gradient, as the shader has it.
const TEAMS: usize = 8;

/// Rows of a workgroup, and invocations of each: about eight rows, fewer if there are no more, and more if there are few columns.
fn tile(rows: usize, columns: usize) -> [usize; 2] {
    let wanted = columns.div_ceil(COLUMNS).next_power_of_two();
    let lanes = (GROUP / rows.next_power_of_two().min(ROWS)).min(wanted).max(GROUP / MOST_ROWS);
    [(GROUP / lanes).min(rows.next_power_of_two()), lanes]
}

impl Gpu {
    /// Some pixels of `to`: one pass of a plan. Shapes have been checked.
    pub(super) fn conv_pass(
        &self,
        pass: &Pass,
        offsets: &Indices,
        values: &Buffer,
        from: &Images<Self>,
        to: &Images<Self>,
    ) -> Result<(), BackendError> {
        let grid = &pass.grid;
        let kernel = if grid.is_single() { &CONV_SPARSE_SINGLE } else { &CONV_SPARSE };
        for strips in self.image_windows(&[from.layout, to.layout])? {
            let (columns, samples) = (grid.columns(grid.points(strips.len())), super::samples(to.layout, &strips));
            if columns == 0 {
                continue;
            }
            let ((from_start, from_len), (to_start, to_len)) = (part(from.layout, &strips), part(to.layout, &strips));
            let [rows, lanes] = tile(pass.nrows, columns);
            let row_groups = pass.nrows.div_ceil(rows);
            let [quads, single] = grid.constants();
            let mut params = grid.words(strips.len()).to_vec();
            params.extend([pass.nrows, row_groups, columns, samples].map(|word| word as u32));
            let read = from.data.window(from_start, from_len);
            self.launch(&Launch {
                kernel,
                constants: &[("ROWS", rows as f64), ("LANES", lanes as f64), quads, single],
                params: &params,
                operands: &[
                    pass.rows.whole(),
                    offsets.whole(),
                    values.whole(),
                    read,
                    read,
                    to.data.window(to_start, to_len),
                ],
                workgroups: row_groups * columns.div_ceil(COLUMNS * lanes),
                work: Work {
                    bytes: 4 * (2 * pass.nnz + from_len + to_len * pass.pixels() / super::pixels(to.layout)) as u64,
                    operations: 2 * (pass.nnz * pass.pixels() * samples) as u64,
                },
            })?;
        }
        Ok(())
    }

    /// The gradient at the stored entries. Shapes have been checked.
    pub(super) fn conv_sparse_grad(
        &self,
        plan: &SparsePlan,
        dy: &Images<Self>,
        x: &Images<Self>,
        values: &Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let (grid, nnz) = (&plan.forward.grid, plan.forward.nnz);
        let task_groups = plan.task_count().div_ceil(TEAMS);
        let sums = Sums {
            kernel: &CONV_SPARSE_GRAD,
            lists: &[plan.tasks.whole(), plan.offsets.whole()],
            list_words: nnz,
            to: values,
            len: nnz,
            accumulate,
            workgroups: task_groups,
        };
        self.conv_sums(grid, dy, x, &sums, |[slices, points, accumulate]| {
            [plan.task_count(), task_groups, slices, points, nnz, accumulate].map(|word| word as u32).to_vec()
        })
    }
}

impl Pass {
    /// Pixels of one image that the pass makes.
    fn pixels(&self) -> usize {
        self.grid.size[0] * self.grid.size[1]
    }
}
