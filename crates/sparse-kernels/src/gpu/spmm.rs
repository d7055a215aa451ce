//! Plans, SpMM and its transpose.

use super::half::Source;
use super::kernel::{Access, Kernel, Launch, Work};
use super::plan::ENTRY_WORDS;
use super::shaders;
use super::windows::{lanes_within, of_strips};
use super::{Buffer, Gpu};
use crate::backend::SparseMatrix;
use crate::dense::check_lanes;
use crate::error::{expect_equal, expect_values};
use crate::{BackendError, Op, ShapeError, Strips};

static SPMM: Kernel = Kernel {
    name: "spmm",
    source: shaders::SPMM,
    entry: "spmm",
    operands: &[Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Read, Access::Write],
};

/// Rows of a workgroup, and invocations of each.
const TILE: [usize; 2] = [32, 8];
/// Workgroups that give a large device enough to do: with as many, invocations have two quads of lanes.
const ENOUGH: usize = 4 * 132;

/// What a product does to its sums.
#[derive(Debug, Default)]
struct Epilogue<'a> {
    bias: Option<&'a Buffer>,
    relu: bool,
}

impl Gpu {
    fn product(
        &self,
        op_name: &'static str,
        op: Op,
        w: &SparseMatrix<Self>,
        epilogue: &Epilogue<'_>,
        x: Source<'_>,
        y: &Strips<Self>,
    ) -> Result<(), BackendError> {
        let (rows, values) = match op {
            Op::NoTranspose => (&w.plan.rows, &w.values),
            Op::Transpose => match &w.plan.transposed {
                Some((rows, _)) => (rows, &w.transposed_values),
                None => {
                    let rule = "1: the plan was made without its transposed index";
                    return Err(ShapeError::Rule { op: op_name, what: "PlanOptions::transpose", got: 0, rule }.into());
                }
            },
        };
        let [nrows, ncols] = rows.size;
        let layout = x.layout();
        expect_equal(op_name, "strip width", w.plan.options.strip, layout.strip())?;
        check_lanes(op_name, layout, y.layout)?;
        expect_equal(op_name, "rows of X", ncols, layout.features())?;
        expect_equal(op_name, "rows of Y", nrows, y.layout.features())?;
        x.check(op_name, "length of X")?;
        expect_equal(op_name, "length of Y", y.layout.len(), y.data.len())?;
        expect_values(rows.columns.len(), values.len())?;
        let strip_quads = layout.strip() / 4;
        let [tile_rows, tile_width] = TILE;
        let flags = u32::from(epilogue.bias.is_some()) | u32::from(epilogue.relu) << 1;
        // Without a bias any buffer stands in its place, and is not read.
        let most = self.window_elements();
        let bias = epilogue.bias.map_or_else(|| x.any(most), |bias| bias.first(most));
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

    pub(super) fn spmm_csr(
        &self,
        op: Op,
        w: &SparseMatrix<Self>,
        x: Source<'_>,
        y: &Strips<Self>,
    ) -> Result<(), BackendError> {
        self.product("spmm", op, w, &Epilogue::default(), x, y)
    }

    pub(super) fn spmm_csr_bias_relu(
        &self,
        w: &SparseMatrix<Self>,
        bias: &Buffer,
        relu: bool,
        x: &Strips<Self>,
        y: &Strips<Self>,
    ) -> Result<(), BackendError> {
        const OP: &str = "spmm_bias_relu";
        expect_equal(OP, "length of the bias", w.plan.pattern.nrows(), bias.len())?;
        self.product(OP, Op::NoTranspose, w, &Epilogue { bias: Some(bias), relu }, Source::Full(x), y)
    }
}
