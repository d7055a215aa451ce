//! Dense products.

use std::ops::Range;

use super::kernel::{Kernel, Launch, Read, Work, Write};
use super::shaders;
use super::split::Split;
use super::windows::{lanes_within, of_strips};
use super::{Buffer, Gpu, WINDOW_UNIT};
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::{BackendError, DenseLinear, Op, Strips};

static GEMM: Kernel = Kernel::new("gemm", shaders::GEMM, &[Read, Read, Write]);
static GEMM_WEIGHT_GRAD: Kernel = Kernel::new("gemm_weight_grad", shaders::GEMM, &[Read, Read, Write]);

/// Sums of an invocation along each side.
const REGISTERS: usize = 8;
/// Terms that a workgroup has in shared memory at a time.
const DEPTH: usize = 8;
/// Workgroups of 128 × 128 sums that make these worthwhile: two for each multiprocessor of the largest cards.
const ENOUGH_LARGE: usize = 264;
/// Workgroups of 64 × 64 sums, below which the terms are split.
const ENOUGH_SMALL: usize = 512;
/// Terms of a part at least: beside them the second pass over its sums is small.
const LEAST_TERMS: usize = 64;

/// How a product is cut into workgroups.
#[derive(Debug, Clone, Copy)]
struct Tiling {
    /// Invocations along each side of a workgroup.
    side: usize,
    /// Tiles along rows and columns.
    tiles: [usize; 2],
    split: Split,
}

/// Rows, columns and terms of a product.
type Size = [usize; 3];

/// A rule that chooses the tiling of a product, from its size and the elements that a kernel may see of its output.
type Rule = fn(Size, usize) -> Tiling;

impl Tiling {
    fn with_side([rows, columns, terms]: Size, side: usize) -> Self {
        let tiles = [rows, columns].map(|size| size.div_ceil(REGISTERS * side));
        Self { side, tiles, split: Split::whole(terms) }
    }

    /// Large tiles where there are enough of them, else small ones, and of these enough.
    fn choose(size @ [rows, columns, terms]: Size, most: usize) -> Self {
        let large = Self::with_side(size, 16);
        if large.tiles[0] * large.tiles[1] >= ENOUGH_LARGE {
            return large;
        }
        let small = Self::with_side(size, 8);
        let wanted = ENOUGH_SMALL.div_ceil((small.tiles[0] * small.tiles[1]).max(1));
        Self { split: Split::new(wanted, terms, [DEPTH, LEAST_TERMS], rows * columns, most), ..small }
    }

    fn workgroups(&self) -> usize {
        self.tiles[0] * self.tiles[1] * self.split.parts
    }
}

impl DenseLinear for Gpu {
    fn run_gemm(&self, _: Checked, op: Op, w: &Buffer, x: &Strips<Self>, y: &mut Strips<Self>) -> Done {
        self.dense_product(Tiling::choose, op, w, x, y)
    }

    fn run_gemm_weight_grad(&self, call: WeightGrad<'_, (), Strips<Self>, Buffer>) -> Done {
        let WeightGrad { dy, x, values: dw, accumulate, .. } = call;
        self.dense_gradient_rows(0..dy.layout.features(), dy, x, dw, accumulate)
    }
}

impl Gpu {
    fn dense_product(
        &self,
        rule: Rule,
        op: Op,
        w: &Buffer,
        x: &Strips<Self>,
        y: &Strips<Self>,
    ) -> Result<(), BackendError> {
        let (out, inner) = (y.layout.features(), x.layout.features());
        let [w_rows, w_columns] = match op {
            Op::NoTranspose => [out, inner],
            Op::Transpose => [inner, out],
        };
        let layout = x.layout;
        let w_windows = self.row_windows("a weight", w_rows, w_columns)?;
        for strips in
            self.strip_windows("activations", layout.strips(), &[layout.strip_pitch(), y.layout.strip_pitch()])?
        {
            let lanes = lanes_within(layout, &strips);
            let lane_quads = strips.len() * layout.strip() / 4;
            let (y_start, y_len) = (strips.start * y.layout.strip_pitch(), strips.len() * y.layout.strip_pitch());
            let x_len = strips.len() * layout.strip_pitch();
            for window in &w_windows {
                // Rows of W are rows of Y, or terms of all rows.
                let (rows, terms, strides) = match op {
                    Op::NoTranspose => (window.rows.clone(), 0..inner, [inner, 1]),
                    Op::Transpose => (0..out, window.rows.clone(), [1, out]),
                };
                let accumulate = terms.start > 0;
                let columns = strips.len() * layout.strip();
                let mut tiling = rule([rows.len(), columns, terms.len()], self.window_elements());
                if w_windows.len() > 1 {
                    // Parts are whole copies of Y.
                    tiling.split = Split::whole(terms.len());
                }
                let launch = |to: &Buffer, (start, len): (usize, usize), accumulate: bool| {
                    self.launch(&Launch {
                        kernel: &GEMM,
                        constants: &[("SIDE", tiling.side as f64)],
                        params: &[
                            tiling.workgroups() as u32,
                            tiling.tiles[0] as u32,
                            tiling.tiles[1] as u32,
                            rows.len() as u32,
                            lane_quads as u32,
                            terms.len() as u32,
                            tiling.split.terms as u32,
                            (y_len / 4) as u32,
                            (layout.strip() / 4) as u32,
                            out as u32,
                            inner as u32,
                            rows.start as u32,
                            terms.start as u32,
                            window.offset as u32,
                            strides[0] as u32,
                            strides[1] as u32,
                            lanes as u32,
                            accumulate.into(),
                        ],
                        operands: &[w.window(window.start, window.len), of_strips(x, &strips), to.window(start, len)],
                        workgroups: tiling.workgroups(),
                        work: Work {
                            bytes: 4 * (rows.len() * terms.len() + x_len + tiling.split.parts * y_len) as u64,
                            operations: 2 * (rows.len() * terms.len() * lanes) as u64,
                        },
                    })
                };
                self.sum_in_parts(tiling.split.parts, &y.data, (y_start, y_len), accumulate, launch)?;
            }
        }
        Ok(())
    }

    /// Rows `rows` of `dy · xᵀ` to the start of `out`, row-major, or added to it: the dense gradient band by band, so that it
    /// is never held whole. The caller has checked all shapes.
    pub(super) fn dense_gradient_rows(
        &self,
        rows: Range<usize>,
        dy: &Strips<Self>,
        x: &Strips<Self>,
        out: &Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        self.dense_gradient(Tiling::choose, rows, dy, x, out, accumulate)
    }

    fn dense_gradient(
        &self,
        rule: Rule,
        rows: Range<usize>,
        dy: &Strips<Self>,
        x: &Strips<Self>,
        out: &Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let (layout, k) = (x.layout, x.layout.features());
        debug_assert!(rows.end <= dy.layout.features() && out.len() >= rows.len() * k);
        debug_assert!(x.data.len() == layout.len() && dy.data.len() == dy.layout.len());
        let bands = self.row_windows("a dense gradient", rows.len(), k)?;
        let pitches = [layout.strip_pitch(), dy.layout.strip_pitch()];
        let mut windows = self.strip_windows("activations", layout.strips(), &pitches)?;
        if windows.is_empty() {
            // Sums without terms are written all the same.
            windows.push(0..0);
        }
        for band in &bands {
            for strips in &windows {
                let accumulate = accumulate || strips.start > 0;
                let lanes = lanes_within(layout, strips);
                let (band_rows, len) = (band.rows.len(), band.rows.len() * k);
                let mut tiling = rule([band_rows, k, lanes.next_multiple_of(4)], self.window_elements());
                if bands.len() > 1 {
                    tiling.split = Split::whole(lanes.next_multiple_of(4));
                }
                let launch = |to: &Buffer, (start, to_len): (usize, usize), accumulate: bool| {
                    self.launch(&Launch {
                        kernel: &GEMM_WEIGHT_GRAD,
                        constants: &[("SIDE", tiling.side as f64)],
                        params: &[
                            tiling.workgroups() as u32,
                            tiling.tiles[0] as u32,
                            tiling.tiles[1] as u32,
                            band_rows as u32,
                            k as u32,
                            lanes.div_ceil(4) as u32,
                            tiling.split.terms.div_ceil(4) as u32,
                            len as u32,
                            (layout.strip() / 4) as u32,
                            dy.layout.features() as u32,
                            k as u32,
                            (rows.start + band.rows.start) as u32,
                            0,
                            band.offset as u32,
                            k as u32,
                            1,
                            lanes as u32,
                            accumulate.into(),
                        ],
                        operands: &[of_strips(dy, strips), of_strips(x, strips), to.window(start, to_len)],
                        workgroups: tiling.workgroups(),
                        work: Work {
                            bytes: 4
                                * (band_rows * strips.len() * layout.strip()
                                    + strips.len() * layout.strip_pitch()
                                    + tiling.split.parts * len) as u64,
                            operations: 2 * (band_rows * k * lanes) as u64,
                        },
                    })
                };
                self.sum_in_parts(tiling.split.parts, out, (band.start, band.len), accumulate, launch)?;
            }
        }
        Ok(())
    }

    /// Parts of a row-major matrix that kernels can see whole; one without rows has one without rows.
    fn row_windows(&self, what: &'static str, nrows: usize, ncols: usize) -> Result<Vec<RowWindow>, BackendError> {
        let most = self.window_elements();
        if nrows * ncols <= most {
            return Ok(vec![RowWindow::new(0..nrows, ncols)]);
        }
        let step = most.saturating_sub(WINDOW_UNIT - 1) / ncols;
        if step == 0 {
            let what =
                format!("{what} with {} bytes in a row, more than the {} that a kernel may see", 4 * ncols, 4 * most);
            return Err(self.unsupported(what));
        }
        Ok((0..nrows).step_by(step).map(|row| RowWindow::new(row..nrows.min(row + step), ncols)).collect())
    }
}

/// Rows of a matrix, and the window of its buffer that has them.
#[derive(Debug, Clone)]
struct RowWindow {
    rows: Range<usize>,
    start: usize,
    len: usize,
    /// Where in the window the first row begins.
    offset: usize,
}

impl RowWindow {
    fn new(rows: Range<usize>, ncols: usize) -> Self {
        let first = rows.start * ncols;
        let start = first / WINDOW_UNIT * WINDOW_UNIT;
        Self { start, len: rows.end * ncols - start, offset: first - start, rows }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::gpu;
    use super::*;
    use crate::testing::linear::case;
    use crate::testing::{buffer, check, host, poison, poisoned, read, strips};
    use crate::{Csr, CsrPattern, StripLayout, reference};

    /// Every size of tiles, whole and in parts, where sizes do not fit.
    #[test]
    fn all_tilings() {
        let Some(gpu) = gpu() else { return };
        let rules: [Rule; 4] = [
            |size, _| Tiling::with_side(size, 16),
            |size, _| Tiling::with_side(size, 8),
            |size, most| Tiling {
                split: Split::new(3, size[2], [DEPTH, 1], size[0] * size[1], most),
                ..Tiling::with_side(size, 16)
            },
            |size, most| Tiling {
                split: Split::new(5, size[2], [DEPTH, 1], size[0] * size[1], most),
                ..Tiling::with_side(size, 8)
            },
        ];
        for ([m, k, lanes], strip, exact) in [
            ([131, 67, 141], 32, true),
            ([67, 131, 37], 16, false),
            ([1, 200, 9], 64, false),
            ([200, 1, 300], 32, true),
        ] {
            let c = case([m, k, lanes], strip, (0.7, 5), 11, exact);
            let layout = |features| StripLayout::new(lanes, features, strip).unwrap();
            let w = Csr::new(c.pattern.clone(), c.values.clone()).unwrap().to_dense();
            let full = CsrPattern::full(m, k).unwrap();
            let y = reference::spmm(&full, &w, &c.x, lanes);
            let dx = reference::spmm_transposed(&full, &w, &c.dy, lanes);
            let dw = reference::sddmm(&full, &c.dy, &c.x, lanes);
            let (w, x, dy) = (buffer(gpu, &w), strips(gpu, layout(k), &c.x), strips(gpu, layout(m), &c.dy));
            for rule in rules {
                let (got_y, got_dx) = (poisoned(gpu, layout(m)), poisoned(gpu, layout(k)));
                gpu.dense_product(rule, Op::NoTranspose, &w, &x, &got_y).unwrap();
                gpu.dense_product(rule, Op::Transpose, &w, &dy, &got_dx).unwrap();
                check("gemm", exact, &read(gpu, &got_y), &y);
                check("gemm_t", exact, &read(gpu, &got_dx), &dx);
                let got = poison(gpu, m * k);
                gpu.dense_gradient(rule, 0..m, &dy, &x, &got, false).unwrap();
                let once = host(gpu, &got);
                check("gradient", exact, &once, &dw);
                gpu.dense_gradient(rule, 0..m, &dy, &x, &got, true).unwrap();
                let twice = host(gpu, &got);
                assert!(once.iter().zip(&twice).all(|(a, b)| (2.0 * a - b).abs() <= 1e-5 * (1.0 + a.abs())));
            }
        }
    }

    #[test]
    fn bands_of_the_gradient() {
        let Some(gpu) = gpu() else { return };
        let (m, k, lanes) = (37, 29, 70);
        let c = case([m, k, lanes], 32, (0.0, 5), 12, true);
        let layout = |features| StripLayout::new(lanes, features, 32).unwrap();
        let dw = reference::sddmm(&CsrPattern::full(m, k).unwrap(), &c.dy, &c.x, lanes);
        let (x, dy) = (strips(gpu, layout(k), &c.x), strips(gpu, layout(m), &c.dy));
        for rows in [0..10, 10..11, 11..37, 5..5] {
            let out = poison(gpu, 26 * k + 3);
            gpu.dense_gradient_rows(rows.clone(), &dy, &x, &out, false).unwrap();
            let (got, len) = (host(gpu, &out), rows.len() * k);
            check("band", true, &got[..len], &dw[rows.start * k..rows.end * k]);
            assert!(got[len..].iter().all(|v| v.is_nan()), "written behind the band");
        }
    }

    /// What is not a number spreads over the lanes that count, and over no others.
    #[test]
    fn padding_stays_zero() {
        let Some(gpu) = gpu() else { return };
        let layout = StripLayout::new(5, 3, 16).unwrap();
        let (w, x) = (buffer(gpu, &[f32::NAN; 12]), strips(gpu, layout, &[1.0; 15]));
        let mut y = poisoned(gpu, layout.with_features(4));
        gpu.gemm(Op::NoTranspose, &w, &x, &mut y).unwrap();
        assert!(read(gpu, &y).iter().all(|v| v.is_nan()));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let Some(gpu) = gpu() else { return };
        let zeros =
            |lanes, features, strip| Strips::zeros(gpu, StripLayout::new(lanes, features, strip).unwrap()).unwrap();
        let (x, mut y, mut short) = (zeros(5, 3, 16), zeros(5, 4, 16), buffer(gpu, &[0.0; 11]));
        let message = |result: Result<(), BackendError>| result.unwrap_err().to_string();
        let told = message(gpu.gemm(Op::NoTranspose, &short, &x, &mut y));
        assert_eq!(told, "gemm: length of W is 11, expected 12");
        let told = message(gpu.gemm_weight_grad(&y, &x, &mut short, false));
        assert_eq!(told, "gemm_weight_grad: length of dW is 11, expected 12");
        let told = message(gpu.gemm_weight_grad(&zeros(6, 4, 16), &x, &mut short, false));
        assert_eq!(told, "gemm_weight_grad: number of lanes is 6, expected 5");
        let told = message(gpu.gemm(Op::Transpose, &short, &x, &mut zeros(5, 4, 32)));
        assert_eq!(told, "gemm: strip width is 32, expected 16");
    }
}
