//! Plans, SpMM and its transpose.

use super::half::Source;
use super::kernel::{Kernel, Launch, Read, Work, Write};
use super::plan::ENTRY_WORDS;
use super::shaders;
use super::windows::{lanes_within, of_strips};
use super::{Buffer, Gpu};
use crate::backend::SparseMatrix;
use crate::{BackendError, Op, Strips};

static SPMM: Kernel = Kernel::new("spmm", shaders::SPMM, &[Read, Read, Read, Read, Read, Read, Write]);

/// Rows of a workgroup, and invocations of each.
const TILE: [usize; 2] = [32, 8];
/// Workgroups that give a large device enough to do: with as many, invocations have two quads of lanes.
const ENOUGH: usize = 4 * 132;

impl Gpu {
    /// `y = W · x`, with a bias in the sums and ReLU behind them if wanted.
    pub(super) fn product(
        &self,
        op: Op,
        w: &SparseMatrix<Self>,
        bias: Option<&Buffer>,
        relu: bool,
        x: Source<'_>,
        y: &Strips<Self>,
    ) -> Result<(), BackendError> {
        let (rows, values) = match (op, &w.plan.transposed) {
            (Op::Transpose, Some((rows, _))) => (rows, &w.transposed_values),
            _ => (&w.plan.rows, &w.values),
        };
        let [nrows, ncols] = rows.size;
        let layout = x.layout();
        let strip_quads = layout.strip() / 4;
        let [tile_rows, tile_width] = TILE;
        let flags = u32::from(bias.is_some()) | u32::from(relu) << 1;
        // Without a bias any buffer stands in its place, and is not read.
        let most = self.window_elements();
        let bias = bias.map_or_else(|| x.any(most), |bias| bias.first(most));
        let windows = self.strip_windows("activations", layout.strips(), &[x.pitch(), y.layout.strip_pitch()])?;
        for strips in windows {
            let quads = strips.len() * strip_quads;
            let lanes = lanes_within(layout, &strips);
            let (x_part, y_part) = (x.strips(&strips), of_strips(y, &strips));
            for segment in &rows.segments {
                let entries = &segment.entries;
                let row_groups = segment.list.len().div_ceil(tile_rows);
                let is_half = x.code() != 0;
                let is_pair = !is_half && row_groups * quads.div_ceil(2 * tile_width) >= ENOUGH;
                let tile_quads = if is_half || is_pair { 2 * tile_width } else { tile_width };
                self.launch(&Launch {
                    kernel: &SPMM,
                    constants: &[
                        ("ROWS", tile_rows as f64),
                        ("QUADS", tile_width as f64),
                        ("IS_PAIR", f64::from(u8::from(is_pair))),
                        ("X_TYPE", f64::from(x.code())),
                    ],
                    params: &[
                        segment.list.len() as u32,
                        row_groups as u32,
                        quads as u32,
                        strip_quads as u32,
                        ncols as u32,
                        nrows as u32,
                        lanes as u32,
                        entries.start as u32,
                        flags,
                    ],
                    operands: &[
                        rows.list.window(ENTRY_WORDS * segment.list.start, ENTRY_WORDS * segment.list.len()),
                        rows.columns.window(entries.start, entries.len()),
                        values.window(entries.start, entries.len()),
                        x_part,
                        x_part,
                        bias,
                        y_part,
                    ],
                    workgroups: row_groups * quads.div_ceil(tile_quads),
                    work: Work {
                        bytes: 4 * (2 * entries.len() + strips.len() * (x.pitch() + y.layout.strip_pitch())) as u64,
                        operations: 2 * (entries.len() * lanes) as u64,
                    },
                })?;
            }
        }
        Ok(())
    }
}
