//! Dense products through the kernels of crate `gemm`: dense layers, and the baseline that sparse ones are measured against.
//!
//! `gemm` is called serially on a fixed grid of tiles, so that results do not depend on the number of threads.

use std::ops::Range;

#[cfg(all(target_arch = "x86_64", feature = "avx512"))]
use {
    gemm_common::gemm::gemm_basic_generic,
    gemm_common::simd::{MixedSimd, V3},
    gemm_f32::microkernel::fma::f32::{H_M, H_N, H_UKR, MR_DIV_N, NR, UKR},
};

use super::{Buffer, Cpu, IsaName, SharedMut};
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::{DenseLinear, Op, Strips};

/// Operands of one serial product `c = alpha · c + a · b`, with element strides.
#[derive(Clone, Copy)]
pub(super) struct Gemm {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// (row stride, column stride) of each operand.
    pub a_strides: (usize, usize),
    pub b_strides: (usize, usize),
    pub c_strides: (usize, usize),
    /// Add to `c` instead of overwriting it.
    pub accumulate: bool,
}

impl Gemm {
    /// Runs the product on this thread, with the best instruction set that the processor and this build have, but AVX2 if
    /// that is asked for.
    ///
    /// # Safety
    /// Every element that the sizes and strides name is valid: `a` and `b` for reading, `c` for writing and for no one
    /// else.
    pub unsafe fn run(self, isa: IsaName, a: *const f32, b: *const f32, c: *mut f32) {
        let Gemm { accumulate: add, k, .. } = self;
        let stride = |s: usize| s as isize;
        let [(a_rs, a_cs), (b_rs, b_cs), (c_rs, c_cs)] =
            [self.a_strides, self.b_strides, self.c_strides].map(|(rs, cs)| (stride(rs), stride(cs)));
        // The kernels like `c` by columns: a product by rows is computed as its transpose.
        let ([m, n], [c_cs, c_rs], (a, a_cs, a_rs), (b, b_cs, b_rs)) = if c_cs < c_rs {
            ([self.n, self.m], [c_rs, c_cs], (b, b_rs, b_cs), (a, a_rs, a_cs))
        } else {
            ([self.m, self.n], [c_cs, c_rs], (a, a_cs, a_rs), (b, b_cs, b_rs))
        };
        let serial = gemm_common::Parallelism::None;
        #[cfg(all(target_arch = "x86_64", feature = "avx512"))]
        if isa == IsaName::Avx2
            && let Some(v3) = <V3 as MixedSimd<f32, f32, f32, f32>>::try_new()
        {
            const LANES: usize = 8;
            // SAFETY: the caller's promise.
            return unsafe {
                gemm_basic_generic::<_, _, LANES, { MR_DIV_N * LANES }, NR, MR_DIV_N, H_M, H_N>(
                    v3,
                    m,
                    n,
                    k,
                    c,
                    c_cs,
                    c_rs,
                    add,
                    a,
                    a_cs,
                    a_rs,
                    b,
                    b_cs,
                    b_rs,
                    1.0,
                    1.0,
                    false,
                    false,
                    false,
                    |a, b, c| a * b + c,
                    &UKR,
                    &H_UKR,
                    false,
                    serial,
                )
            };
        }
        let _ = isa;
        let gemm = gemm_f32::gemm::f32::get_gemm_fn();
        // SAFETY: the caller's promise.
        unsafe {
            gemm(m, n, k, c, c_cs, c_rs, add, a, a_cs, a_rs, b, b_cs, b_rs, 1.0, 1.0, false, false, false, serial);
        }
    }
}

/// Rows of a task's tile. A call of `gemm` packs its operands, which wants many rows to pay off.
const TILE_ROWS: usize = 256;
/// Lanes of a task's tile.
const TILE_LANES: usize = 256;

/// Least and most rows of a weight gradient's tile. With 256 rows, 3 to 13 % of the time went into packing.
const GRAD_ROWS: [usize; 2] = [512, 1024];
/// Columns of a weight gradient's tile.
const GRAD_COLUMNS: usize = 4096;

/// A grid over `size` with tiles of at most `tile`: number of tiles, and the range of one.
pub(super) fn grid(size: usize, tile: usize) -> (usize, impl Fn(usize) -> Range<usize> + Sync) {
    let tiles = size.div_ceil(tile);
    // Even tiles rather than a short last one.
    (tiles, move |i: usize| i * size / tiles..(i + 1) * size / tiles)
}

impl DenseLinear for Cpu {
    fn run_gemm(&self, _: Checked, op: Op, w: &Buffer, x: &Strips<Self>, y: &mut Strips<Self>) -> Done {
        let _timed = self.timed("gemm", w.len() + x.data.len() + y.data.len(), 2 * w.len() * x.layout.lanes());
        let (out, inner) = (y.layout.features(), x.layout.features());
        // W is [m, k]; its transpose swaps the strides.
        let a_strides = match op {
            Op::NoTranspose => (inner, 1),
            Op::Transpose => (1, out),
        };
        let strip = x.layout.strip();
        let (row_tiles, rows_of) = grid(out, TILE_ROWS);
        let (lane_tiles, lanes_of) = grid(strip, TILE_LANES);
        let tiles = row_tiles * lane_tiles;
        let operations = 2 * (out * inner * x.layout.lanes()) as u64;
        let to = SharedMut::new(&mut y.data);
        let (w, from): (&[f32], &[f32]) = (w, &x.data);
        let (x_pitch, y_pitch) = (x.layout.strip_pitch(), y.layout.strip_pitch());
        self.for_each_task(x.layout.strips() * tiles, operations, |task| {
            let s = task / tiles;
            let (rows, lanes) = (rows_of(task % tiles / lane_tiles), lanes_of(task % lane_tiles));
            let (m, n) = (rows.len(), lanes.len());
            let (b_strides, c_strides) = ((strip, 1), (strip, 1));
            let product = Gemm { m, k: inner, n, a_strides, b_strides, c_strides, accumulate: false };
            // SAFETY: rows are below `out`, lanes below the strip's width, and W's length was checked, so all
            // elements are in bounds; tasks write disjoint tiles.
            unsafe {
                product.run(
                    self.isa,
                    w.as_ptr().add(rows.start * a_strides.0),
                    from.as_ptr().add(s * x_pitch + lanes.start),
                    to.get().add(s * y_pitch + rows.start * strip + lanes.start),
                );
            }
        });
        Ok(())
    }

    fn run_gemm_weight_grad(&self, call: WeightGrad<'_, (), Strips<Self>, Buffer>) -> Done {
        let WeightGrad { dy, x, values: dw, accumulate, .. } = call;
        let _timed =
            self.timed("gemm_weight_grad", dw.len() + x.data.len() + dy.data.len(), 2 * dw.len() * x.layout.lanes());
        let (m, k) = (dy.layout.features(), x.layout.features());
        if x.layout.lanes() == 0 && !accumulate {
            dw.fill(0.0);
        }
        // A call packs all of X, so tiles are tall; but there should be several for the threads.
        let (row_tiles, rows_of) = grid(m, (m / 4).clamp(GRAD_ROWS[0], GRAD_ROWS[1]));
        let (column_tiles, columns_of) = grid(k, GRAD_COLUMNS);
        let to = SharedMut::new(dw);
        let operations = 2 * (m * k * x.layout.lanes()) as u64;
        self.for_each_task(row_tiles * column_tiles, operations, |task| {
            let (rows, columns) = (rows_of(task / column_tiles), columns_of(task % column_tiles));
            // SAFETY: rows and columns are in bounds of dW, whose length was checked; tasks write disjoint tiles.
            unsafe {
                let to = to.get().add(rows.start * k + columns.start);
                outer_product(self.isa, (dy, rows), (x, columns), to, k, accumulate);
            }
        });
        Ok(())
    }
}

/// `to[i, j] (+)= Σ_n dy[rows.start + i, n] · x[columns.start + j, n]`, rows of `to` at distances of `leading`.
/// Padding lanes hold zeros and add nothing.
///
/// # Safety
/// `to` is valid for writing `rows.len()` rows of `columns.len()` at distances of `leading`, and no one else uses them.
unsafe fn outer_product(
    isa: IsaName,
    (dy, rows): (&Strips<Cpu>, Range<usize>),
    (x, columns): (&Strips<Cpu>, Range<usize>),
    to: *mut f32,
    leading: usize,
    accumulate: bool,
) {
    assert!(rows.end <= dy.layout.features() && columns.end <= x.layout.features());
    assert!(dy.data.len() == dy.layout.len() && x.data.len() == x.layout.len());
    let (dy_strip, x_strip) = (dy.layout.strip(), x.layout.strip());
    for s in 0..x.layout.strips() {
        let product = Gemm {
            m: rows.len(),
            k: x.layout.lanes_of(s),
            n: columns.len(),
            a_strides: (dy_strip, 1),
            b_strides: (1, x_strip),
            c_strides: (leading, 1),
            accumulate: accumulate || s > 0,
        };
        // SAFETY: the ranges were checked against the layouts, whose buffers have their length; `to` is the caller's
        // promise.
        unsafe {
            product.run(
                isa,
                dy.data.as_ptr().add(s * dy.layout.strip_pitch() + rows.start * dy_strip),
                x.data.as_ptr().add(s * x.layout.strip_pitch() + columns.start * x_strip),
                to,
            );
        }
    }
}
