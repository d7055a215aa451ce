//! Products with samples that are lists of indices and values.
//!
//! ```text
//! forward    for each strip of samples                  (parallel)
//!              for each sample, each (j, v) of its list
//!                sums[i] += v · W[i, j]                 for the values in column j: a block's rows are neighbours
//! gradient   for each range of columns                  (parallel)
//!              for each column j that some sample has, each value (i, j) in it
//!                dW[i, j] = Σ v · dY[i, n]              over the samples n that have j
//! ```
//!
//! A dense W is row-major, and its columns would be far apart: there, rows are the tasks, and of each row the values at a sample's
//! indices are gathered; a row of 500,000 columns stays in L2 meanwhile.

use crate::backend::lists::{ColumnIndex, Columns};
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};
use crate::{Csr, CsrPattern, StripLayout, Strips, Transposed};

/// Rows of a dense matrix that are one task.
const ROWS: usize = 8;
/// Columns of a sparse one.
const COLUMNS: usize = 1 << 10;

pub(super) fn product(cpu: &Cpu, index: &ColumnIndex, values: &[f32], x: &Csr, y: &mut Strips<Cpu>) {
    let (layout, [m, _]) = (y.layout, index.size());
    let to = SharedMut::new(&mut y.data);
    match &index.0 {
        Columns::Dense(size) => {
            let operations = 2 * (x.values().len() * m) as u64;
            cpu.for_each_task(m.div_ceil(ROWS), operations, |task| {
                let rows = task * ROWS..(task * ROWS + ROWS).min(m);
                dispatch(cpu.isa(), DenseRows { ncols: size[1], values, x, layout, y: to, rows });
            });
        }
        Columns::Blocks { block_size, blocks, .. } => {
            let per_column = values.len() / blocks.pattern.nrows().max(1);
            let operations = (2 * x.values().len() * per_column + layout.len()) as u64;
            cpu.for_each_task(layout.strips(), operations, |strip| {
                dispatch(cpu.isa(), Strip { blocks, block_size: *block_size, values, x, layout, y: to, strip });
            });
        }
    }
}

pub(super) fn weight_grad(
    cpu: &Cpu,
    index: &ColumnIndex,
    dy: &Strips<Cpu>,
    x: &Csr,
    values: &mut [f32],
    accumulate: bool,
) {
    let (layout, dy) = (dy.layout, &dy.data[..]);
    if !accumulate {
        let operations = values.len() as u64;
        cpu.for_each_chunk(values, ELEMENTS_PER_TASK, operations, |_, part| part.fill(0.0));
    }
    match &index.0 {
        Columns::Dense([m, ncols]) => {
            let operations = 2 * (x.values().len() * m) as u64;
            let to = SharedMut::new(values);
            cpu.for_each_task(m.div_ceil(ROWS), operations, |task| {
                for row in task * ROWS..(task * ROWS + ROWS).min(*m) {
                    // SAFETY: the checked index has this row of `ncols` values, which belongs to this task.
                    let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(row * ncols), *ncols) };
                    for (lane, dy) in (0..layout.lanes()).map(|lane| (lane, dy[layout.index(row, lane)])) {
                        let range = x.pattern().row_range(lane);
                        for (&j, &v) in x.pattern().col_indices()[range.clone()].iter().zip(&x.values()[range]) {
                            to[j as usize] += v * dy;
                        }
                    }
                }
            });
        }
        Columns::Blocks { block_size, blocks, size } => {
            let per_column = values.len() / blocks.pattern.nrows().max(1);
            let operations = (2 * x.values().len() * per_column) as u64;
            let of_columns = x.pattern().transpose();
            let to = SharedMut::new(values);
            cpu.for_each_task(size[1].div_ceil(COLUMNS), operations, |task| {
                let columns = task * COLUMNS..(task * COLUMNS + COLUMNS).min(size[1]);
                let nrows = size[0];
                let part = Gradient { of_columns: &of_columns, x, blocks, block_size: *block_size, layout, dy, nrows };
                dispatch(cpu.isa(), GradientOf { part, columns, values: to });
            });
        }
    }
}

/// Some rows of a dense product.
struct DenseRows<'a> {
    ncols: usize,
    values: &'a [f32],
    x: &'a Csr,
    layout: StripLayout,
    y: SharedMut,
    rows: std::ops::Range<usize>,
}

impl Kernel for DenseRows<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let layout = self.layout;
        for row in self.rows.clone() {
            let of_row = &self.values[row * self.ncols..][..self.ncols];
            for lane in 0..layout.strips() * layout.strip() {
                let sum = if lane < layout.lanes() { dot(of_row, self.x, lane) } else { 0.0 };
                // SAFETY: Y is as long as its layout says, and the row belongs to this task.
                unsafe { *self.y.get().add(layout.index(row, lane)) = sum };
            }
        }
    }
}

/// The sum over a sample's list of its values times those of a row at its indices. Four sums, so that additions do not wait for each
/// other.
#[inline(always)]
fn dot(of_row: &[f32], x: &Csr, sample: usize) -> f32 {
    let range = x.pattern().row_range(sample);
    let (indices, values) = (&x.pattern().col_indices()[range.clone()], &x.values()[range]);
    let mut sums = [0f32; 4];
    let mut quads = indices.chunks_exact(4).zip(values.chunks_exact(4));
    for (j, v) in &mut quads {
        for i in 0..4 {
            sums[i] += v[i] * of_row[j[i] as usize];
        }
    }
    let rest = indices.len() / 4 * 4;
    for (&j, &v) in indices[rest..].iter().zip(&values[rest..]) {
        sums[0] += v * of_row[j as usize];
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// A strip of samples of a product with a sparse matrix.
struct Strip<'a> {
    blocks: &'a Transposed,
    block_size: [usize; 2],
    values: &'a [f32],
    x: &'a Csr,
    layout: StripLayout,
    y: SharedMut,
    strip: usize,
}

impl Kernel for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { layout, block_size: [r, c], .. } = self;
        let mut sums = vec![0f32; layout.features().next_multiple_of(r)];
        let lanes = layout.lanes_of(self.strip);
        for i in 0..layout.strip() {
            let lane = self.strip * layout.strip() + i;
            sums.fill(0.0);
            if i < lanes {
                match (r, c) {
                    (1, 1) => self.sample::<I, 1>(isa, lane, &mut sums),
                    (16, 1) => self.sample::<I, 16>(isa, lane, &mut sums),
                    (8, 1) => self.sample::<I, 8>(isa, lane, &mut sums),
                    _ => self.sample::<I, 0>(isa, lane, &mut sums),
                }
            }
            for (row, &sum) in sums[..layout.features()].iter().enumerate() {
                // SAFETY: Y is as long as its layout says, and the strip belongs to this task.
                unsafe { *self.y.get().add(layout.index(row, lane)) = sum };
            }
        }
    }
}

impl Strip<'_> {
    /// A sample's sums; blocks of R rows and one column, or with R = 0 of any size.
    #[inline(always)]
    fn sample<I: Isa, const R: usize>(&self, isa: I, sample: usize, sums: &mut [f32]) {
        let [r, c] = self.block_size;
        let range = self.x.pattern().row_range(sample);
        let (indices, numbers) = (&self.x.pattern().col_indices()[range.clone()], &self.x.values()[range]);
        let of_column = |j: u32| self.blocks.pattern.row_range(j as usize / c);
        for (at, (&j, &v)) in indices.iter().zip(numbers).enumerate() {
            // Values lie anywhere in memory: those of the next column are fetched while this one's are used.
            if let Some(&next) = indices.get(at + 1) {
                for &place in &self.blocks.permutation[of_column(next)] {
                    isa.prefetch(self.values.as_ptr().wrapping_add(place as usize * r * c));
                }
            }
            let range = of_column(j);
            let rows = &self.blocks.pattern.col_indices()[range.clone()];
            for (&row, &place) in rows.iter().zip(&self.blocks.permutation[range]) {
                if const { R > 0 } {
                    let to = &mut sums[row as usize * R..][..R];
                    let from = &self.values[place as usize * R..][..R];
                    to.iter_mut().zip(from).for_each(|(to, w)| *to += v * w);
                } else {
                    for i in 0..r {
                        sums[row as usize * r + i] += v * self.values[(place as usize * r + i) * c + j as usize % c];
                    }
                }
            }
        }
    }
}

/// A weight's gradient.
struct Gradient<'a> {
    /// For each column, the samples that have it.
    of_columns: &'a Transposed,
    x: &'a Csr,
    blocks: &'a Transposed,
    block_size: [usize; 2],
    layout: StripLayout,
    dy: &'a [f32],
    nrows: usize,
}

/// That of some columns.
struct GradientOf<'a> {
    part: Gradient<'a>,
    columns: std::ops::Range<usize>,
    values: SharedMut,
}

impl Kernel for GradientOf<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Gradient { of_columns, x, blocks, block_size: [r, c], layout, dy, nrows } = self.part;
        let samples: &CsrPattern = &of_columns.pattern;
        // Where each sample's lane begins in dY, and its number.
        let mut having: Vec<(usize, f32)> = Vec::new();
        let mut sums = vec![0f32; r];
        for column in self.columns {
            let range = samples.row_range(column);
            if range.is_empty() {
                continue;
            }
            having.clear();
            having.extend(
                samples.col_indices()[range.clone()]
                    .iter()
                    .zip(&of_columns.permutation[range])
                    .map(|(&lane, &entry)| (layout.index(0, lane as usize), x.values()[entry as usize])),
            );
            let of_column = blocks.pattern.row_range(column / c);
            let places = &blocks.permutation[of_column.clone()];
            for &place in places {
                isa.prefetch_far(self.values.get().wrapping_add(place as usize * r * c));
            }
            for (&block_row, &place) in blocks.pattern.col_indices()[of_column].iter().zip(places) {
                let first = block_row as usize * r;
                let rows = r.min(nrows - first);
                sums.fill(0.0);
                for &(lane, v) in &having {
                    for (i, sum) in sums[..rows].iter_mut().enumerate() {
                        *sum += v * dy[lane + (first + i) * layout.strip()];
                    }
                }
                for (i, sum) in sums[..rows].iter().enumerate() {
                    // SAFETY: the index has this block; its column belongs to this task.
                    unsafe { *self.values.get().add((place as usize * r + i) * c + column % c) += sum };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use crate::testing::lists;

    proptest! {
        #[test]
        fn products_agree_with_the_reference(
            m in 1usize..40, k in 1usize..60, lanes in 1usize..70, strip in prop::sample::select(vec![16usize, 32]),
            density in 0.0f32..0.6, seed in 0u64..1000
        ) {
            for cpu in BACKENDS.iter() {
                lists::products(cpu, [m, k, lanes], strip, density, seed);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        same_for_all_threads(|cpu| lists::results(cpu, [700, 5000, 300], 32, 0.05, 3).concat());
    }
}
