//! The transposed product of tall blocks of one column, group by group: `dX[j] += Σ_r W[g·h + r, j] · dY[g·h + r]`.
//!
//! ```text
//! for each V vectors of lanes                            (strips in parallel)
//!   dX = 0
//!   for each block row g, each T of its blocks           which are columns of W, and rows of dX
//!     acc[T][V] = the T rows of dX
//!     for each row r of the block row                    the hot loop:
//!       dy[V] = dY[g·h + r]                              V loads
//!       acc[t][v] += value[r, t] · dy[v]                 T broadcasts, T · V multiply-adds
//!     the T rows of dX = acc
//! ```
//!
//! Gathered by rows of dX, as other blocks are, each multiply-add would load its own vector of dY: a block has one column, so there is
//! nothing to share it with. Here the columns of a group share it, at the price of reading and writing rows of dX for each
//! group. Every sum runs over groups and rows in the same order, so the results are the same to the bit.

use crate::cpu::isa::{Isa, IsaName, Kernel, array_of, dispatch};
use crate::cpu::{Cpu, SharedMut};
use crate::{BsrPattern, StripLayout};

/// One transposed product, of blocks of one column.
pub(super) struct Scatter<'a> {
    pub pattern: &'a BsrPattern,
    pub values: &'a [f32],
    pub dy_layout: StripLayout,
    pub dy: &'a [f32],
    pub dx_layout: StripLayout,
    pub dx: SharedMut,
}

/// How many groups of blocks ahead their rows of dX are fetched.
const AHEAD: usize = 2;

impl Scatter<'_> {
    /// Whether it is the faster way: blocks tall enough to pay for a strip of dX, which stays in L2, and a strip for each thread, since
    /// strips are its tasks.
    pub fn pays(cpu: &Cpu, [r, c]: [usize; 2], dx: StripLayout) -> bool {
        let stays = dx.strip_pitch() * size_of::<f32>() <= cpu.l2_bytes();
        c == 1 && r >= 4 && cpu.isa() != IsaName::Scalar && dx.strips() >= cpu.threads() && stays
    }

    /// Runs the product.
    ///
    /// # Safety
    /// - `dy` and `dx` are as long as their layouts say, which agree in lanes and strip.
    /// - They have as many features as the pattern has rows and columns, whose blocks have one column; there are values for all.
    pub unsafe fn run(&self, cpu: &Cpu) {
        let operations = 2 * self.values.len() as u64 * self.dy_layout.lanes() as u64;
        cpu.for_each_task(self.dy_layout.strips(), operations, |strip| dispatch(cpu.isa(), Strip { all: self, strip }));
    }
}

/// The work of one task.
struct Strip<'a> {
    all: &'a Scatter<'a>,
    strip: usize,
}

impl Kernel for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (layout, pitch) = (self.all.dx_layout, self.all.dx_layout.strip_pitch());
        // SAFETY: the strip exists, and belongs to this task.
        unsafe { std::slice::from_raw_parts_mut(self.all.dx.get().add(self.strip * pitch), pitch).fill(0.0) };
        // The vectors that hold lanes which count.
        let vectors = layout.lanes_of(self.strip).div_ceil(I::LANES);
        for first in (0..vectors).step_by(2) {
            // T · V accumulators, V vectors of dY and a broadcast. Constant blocks, as in the other kernels.
            if const { !I::IS_VECTOR } {
                unreachable!("scalar code gathers");
            } else if const { I::REGISTERS >= 32 } {
                match vectors - first {
                    1 => self.vectors::<I, 12, 1>(isa, first),
                    _ => self.vectors::<I, 12, 2>(isa, first),
                }
            } else {
                match vectors - first {
                    1 => self.vectors::<I, 6, 1>(isa, first),
                    _ => self.vectors::<I, 6, 2>(isa, first),
                }
            }
        }
    }
}

impl Strip<'_> {
    /// All blocks over V vectors from `first` on, T blocks at a time.
    #[inline(always)]
    fn vectors<I: Isa, const T: usize, const V: usize>(&self, isa: I, first: usize) {
        let Scatter { pattern, values, dy_layout, dy, dx_layout, dx } = *self.all;
        let ([h, _], width) = (pattern.block_size(), dy_layout.strip());
        let columns = pattern.blocks().col_indices();
        let dy = dy.as_ptr().wrapping_add(self.strip * dy_layout.strip_pitch() + first * I::LANES);
        let dx = dx.get().wrapping_add(self.strip * dx_layout.strip_pitch() + first * I::LANES);
        for group in 0..pattern.blocks().nrows() {
            let rows = h.min(dy_layout.features() - group * h);
            let dy = dy.wrapping_add(group * h * width);
            let range = pattern.blocks().row_range(group);
            let mut block = range.start;
            while block < range.end {
                for &next in columns.iter().skip(block + AHEAD * T).take(T) {
                    isa.prefetch(dx.wrapping_add(next as usize * width));
                }
                let at = (values.as_ptr().wrapping_add(block * h), &columns[block..range.end]);
                // SAFETY: `run`'s caller promises that blocks, values, dY and dX go together: the group's rows are below dY's
                // features, columns below dX's, and the vectors hold lanes that count. The strip of dX belongs to this task.
                block += unsafe {
                    match range.end - block {
                        left if left >= T => tile::<I, T, V>(isa, at, [rows, h], width, dy, dx),
                        4.. => tile::<I, 4, V>(isa, at, [rows, h], width, dy, dx),
                        2.. => tile::<I, 2, V>(isa, at, [rows, h], width, dy, dx),
                        _ => tile::<I, 1, V>(isa, at, [rows, h], width, dy, dx),
                    }
                };
            }
        }
    }
}

/// The first T blocks of those at the columns given, with their values, `rows` of each `h`. Returns T.
///
/// # Safety
/// There are T columns and blocks of values, rows of dY, and rows of dX at the columns, V vectors of each.
#[inline(always)]
unsafe fn tile<I: Isa, const T: usize, const V: usize>(
    isa: I,
    (values, columns): (*const f32, &[u32]),
    [rows, h]: [usize; 2],
    width: usize,
    dy: *const f32,
    dx: *mut f32,
) -> usize {
    // SAFETY: the caller's promise.
    unsafe {
        let to: [*mut f32; T] = std::array::from_fn(|t| dx.add(*columns.get_unchecked(t) as usize * width));
        let mut acc: [[I::V; V]; T] = array_of(|t| array_of(|v| isa.load(to[t].add(v * I::LANES).cast_const())));
        for r in 0..rows {
            let dy: [I::V; V] = array_of(|v| isa.load(dy.add(r * width + v * I::LANES)));
            for (t, acc) in acc.iter_mut().enumerate() {
                let w = isa.splat(*values.add(t * h + r));
                for (acc, &dy) in acc.iter_mut().zip(&dy) {
                    // Pinned as in SpMM: the accumulators of AVX2 leave one register for the broadcast.
                    *acc = isa.pin(isa.mul_add(w, dy, *acc));
                }
            }
        }
        for (to, acc) in to.iter().zip(&acc) {
            for (v, &acc) in acc.iter().enumerate() {
                isa.store(to.add(v * I::LANES), acc);
            }
        }
    }
    T
}
