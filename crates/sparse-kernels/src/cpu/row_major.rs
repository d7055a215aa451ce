//! Products with row-major operands, `[feature][lane]`, as they lie in the memory of whoever embeds the kernels.

use super::few_lanes::{Entries, FEW_LANES, FewLanes, padded};
use super::gemv::{BLOCK, Gemv};
use super::{Buffer, Cpu, CpuPlan};
use crate::backend::SparseMatrix;
use crate::error::{expect_equal, expect_values};
use crate::{
    BackendError, DenseLinear, Element, MatrixMut, MatrixRef, Op, ShapeError, SparseLinear, StripLayout, Strips,
};

/// Memory for operands in the kernels' own order, for the products with row-major operands. It grows to what the largest
/// call needs; calls that need no more allocate nothing.
#[derive(Debug, Default)]
pub struct Workspace {
    x: Buffer,
    y: Buffer,
}

/// The memory of `buffer` as strips.
fn lend(buffer: &mut Buffer, layout: StripLayout) -> Strips<Cpu> {
    let mut data = std::mem::take(buffer);
    data.resize(layout.len());
    Strips { layout, data }
}

impl Workspace {
    /// Lends both buffers to `work` as strips of the layouts given.
    fn with_strips<R>(
        &mut self,
        x: StripLayout,
        y: StripLayout,
        work: impl FnOnce(&mut Strips<Cpu>, &mut Strips<Cpu>) -> R,
    ) -> R {
        let (mut x, mut y) = (lend(&mut self.x, x), lend(&mut self.y, y));
        let result = work(&mut x, &mut y);
        (self.x, self.y) = (x.data, y.data);
        result
    }
}

impl Cpu {
    /// Sparse × dense with row-major operands: `y = W · x` ([`Op::NoTranspose`]) or `y = Wᵀ · x` ([`Op::Transpose`]).
    ///
    /// `x` is `[k, n]` and `y` `[m, n]`, or `[m, n]` and `[k, n]` for the transpose; n is any number of lanes. Rows may be
    /// further apart than n: what stands between them is neither read into the result nor written. `y` is overwritten.
    ///
    /// Up to 8 lanes take kernels of their own, which read and write `[feature][lane]` in place where n is 1, 2, 4 or 8,
    /// the elements are f32 and x's rows have no gaps; else an operand is converted in the workspace, as both are in
    /// strips of [`PlanOptions::strip`](crate::PlanOptions::strip) for more lanes.
    ///
    /// # Errors
    /// If the shapes do not fit, or the plan has no transpose.
    ///
    /// # Cost
    /// `2 · nnz · n` operations (n rounded up to a power of two below 8, to a vector above), 8 bytes read an entry, and one
    /// pass over each operand that is converted.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use sparse_kernels::cpu::{Cpu, Workspace};
    /// use sparse_kernels::{CsrPattern, MatrixMut, MatrixRef, Op, PlanOptions, SparseMatrix};
    /// let cpu = Cpu::new(1, None)?;
    /// let pattern = Arc::new(CsrPattern::new(2, 3, vec![0, 2, 3], vec![0, 2, 1])?);
    /// let w = SparseMatrix::new(&cpu, pattern, &[1.0, 2.0, 3.0], PlanOptions::default())?;
    /// let (x, mut y) = ([1.0f32, 2.0, 3.0], [0.0f32; 2]);
    /// let (x, out) = (MatrixRef::new(&x, 3, 1, 1)?, MatrixMut::new(&mut y, 2, 1, 1)?);
    /// cpu.spmm_row_major(Op::NoTranspose, &w, x, out, &mut Workspace::default())?;
    /// assert_eq!(y, [7.0, 6.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spmm_row_major<X: Element, Y: Element>(
        &self,
        op: Op,
        w: &SparseMatrix<Cpu>,
        x: MatrixRef<'_, X>,
        y: MatrixMut<'_, Y>,
        workspace: &mut Workspace,
    ) -> Result<(), BackendError> {
        const OP: &str = "spmm_row_major";
        let pattern = &w.plan.pattern;
        let (nrows, ncols) = match op {
            Op::NoTranspose => (pattern.nrows(), pattern.ncols()),
            Op::Transpose => (pattern.ncols(), pattern.nrows()),
        };
        let lanes = x.ncols();
        expect_equal(OP, "rows of X", ncols, x.nrows())?;
        expect_equal(OP, "rows of Y", nrows, y.nrows())?;
        expect_equal(OP, "number of lanes", lanes, y.ncols())?;
        if lanes == 0 || lanes > FEW_LANES {
            let layout = |features| StripLayout::new(lanes, features, w.plan.options.strip);
            return workspace.with_strips(layout(ncols)?, layout(nrows)?, |from, to| {
                from.layout.pack(x, &mut from.data)?;
                self.spmm(op, w, from, to)?;
                Ok(to.layout.unpack(&to.data, y)?)
            });
        }
        let padded = padded(lanes);
        let (entries, walk, values) = match (op, &w.plan.transposed) {
            (Op::NoTranspose, _) => (Entries::Rows(pattern), &w.plan.walk, &w.values),
            (Op::Transpose, Some(t)) => (Entries::Segments(&t.columns), &t.walk, &w.transposed_values),
            (Op::Transpose, None) => {
                let rule = "1: the plan was made without its transposed index";
                return Err(ShapeError::Rule { op: OP, what: "PlanOptions::transpose", got: 0, rule }.into());
            }
        };
        expect_values(pattern.nnz(), values.len())?;
        let x = few_lanes_operand(x, padded, &mut workspace.x);
        write_lanes(y, padded, &mut workspace.y, |y, y_leading| {
            FewLanes { entries, walk, values, x, y, y_leading, nrows, ncols, padded }.run(self);
        });
        Ok(())
    }

    /// Sampled dense × dense with row-major operands: `values[e] = Σ_n dy[i, n] · x[j, n]` for every stored entry
    /// `e = (i, j)` of the plan's pattern, the gradient of the weights.
    ///
    /// `dy` is `[m, n]`, `x` is `[k, n]`; both are packed into strips in the workspace. Overwrites `values`, or adds to them
    /// with `accumulate`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// `2 · nnz · n` operations (n rounded up to a vector) and one pass over each operand.
    pub fn sddmm_row_major<X: Element, Y: Element>(
        &self,
        plan: &CpuPlan,
        dy: MatrixRef<'_, Y>,
        x: MatrixRef<'_, X>,
        values: &mut Buffer,
        accumulate: bool,
        workspace: &mut Workspace,
    ) -> Result<(), BackendError> {
        let layout = |lanes, features| StripLayout::new(lanes, features, plan.options.strip);
        let (x_layout, dy_layout) = (layout(x.ncols(), x.nrows())?, layout(dy.ncols(), dy.nrows())?);
        workspace.with_strips(x_layout, dy_layout, |packed_x, packed_dy| {
            x_layout.pack(x, &mut packed_x.data)?;
            dy_layout.pack(dy, &mut packed_dy.data)?;
            self.sddmm(plan, packed_dy, packed_x, values, accumulate)
        })
    }

    /// Dense × dense with row-major operands, shapes as in [`Cpu::spmm_row_major`]; `w` is `[m, k]`, row-major.
    ///
    /// Up to 8 lanes run at the rate at which memory delivers `w`; more go to crate `gemm`.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// `2 · m · k · n` operations; `w` is read once for up to 8 lanes.
    pub fn gemm_row_major<X: Element, Y: Element>(
        &self,
        op: Op,
        w: &Buffer,
        x: MatrixRef<'_, X>,
        mut y: MatrixMut<'_, Y>,
        workspace: &mut Workspace,
    ) -> Result<(), BackendError> {
        const OP: &str = "gemm_row_major";
        let (lanes, inner, out) = (x.ncols(), x.nrows(), y.nrows());
        expect_equal(OP, "number of lanes", lanes, y.ncols())?;
        expect_equal(OP, "length of W", out * inner, w.len())?;
        if lanes == 0 || lanes > FEW_LANES {
            let layout = |features| StripLayout::single(lanes, features);
            return workspace.with_strips(layout(inner), layout(out), |from, to| {
                from.layout.pack(x, &mut from.data)?;
                self.gemm(op, w, from, to)?;
                Ok(to.layout.unpack(&to.data, y)?)
            });
        }
        let (m, k) = if op == Op::NoTranspose { (out, inner) } else { (inner, out) };
        // `Gemv` says how it wants X.
        let (pitch, block) = if op == Op::NoTranspose { (BLOCK * lanes, BLOCK) } else { (0, inner) };
        workspace.x.resize(if op == Op::NoTranspose { inner.next_multiple_of(BLOCK) } else { inner } * lanes);
        workspace.y.resize(out * lanes);
        let mut row = [0.0; FEW_LANES];
        for feature in 0..inner {
            X::to_f32(x.row(feature), &mut row[..lanes]);
            let at = feature / block * pitch + feature % block;
            (0..lanes).for_each(|n| workspace.x[at + n * block] = row[n]);
        }
        Gemv { op, m, k, lanes, w, x: &workspace.x, y: &mut workspace.y }.run(self);
        for feature in 0..out {
            (0..lanes).for_each(|n| row[n] = workspace.y[n * out + feature]);
            Y::from_f32(&row[..lanes], y.row_mut(feature));
        }
        Ok(())
    }
}

/// `x` as rows of `padded` f32 without gaps: itself, or a copy in `room` with zeros in the lanes added.
fn few_lanes_operand<'a, T: Element>(x: MatrixRef<'a, T>, padded: usize, room: &'a mut Buffer) -> &'a [f32] {
    let lanes = x.ncols();
    match T::as_f32(x.data()) {
        Some(data) if lanes == padded && x.leading() == padded => data,
        _ => {
            room.resize(x.nrows() * padded);
            for (feature, row) in room.chunks_exact_mut(padded).enumerate() {
                T::to_f32(x.row(feature), &mut row[..lanes]);
                row[lanes..].fill(0.0);
            }
            room
        }
    }
}

/// Has `product` write rows of `padded` f32 at distances that it is told: to `y` itself, or to `room`, and from there to `y`.
fn write_lanes<T: Element>(
    mut y: MatrixMut<'_, T>,
    padded: usize,
    room: &mut Buffer,
    product: impl FnOnce(&mut [f32], usize),
) {
    let (lanes, leading) = (y.ncols(), y.leading());
    if lanes == padded
        && let Some(data) = T::as_f32_mut(y.data_mut())
    {
        return product(data, leading);
    }
    room.resize(y.nrows() * padded);
    product(room, padded);
    for (feature, row) in room.chunks_exact(padded).enumerate() {
        T::from_f32(&row[..lanes], y.row_mut(feature));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::IsaName;
    use crate::random::Key;
    use crate::reference::{self, Exact};
    use crate::{CsrPattern, PlanOptions, Storage};

    /// What stands between the rows of an operand: NaN, which no result may show and no call may touch.
    const GAP: u32 = 0x7fc0_1234;

    struct Case {
        pattern: Arc<CsrPattern>,
        values: Vec<f32>,
        lanes: usize,
        /// Elements between rows, beyond the lanes.
        gap: usize,
        /// Small whole numbers: every order of summation gives the same bits.
        exact: bool,
        key: Key,
    }

    /// Sizes `[nrows, ncols, lanes, gap]`; `shape` 0: one full row among empty ones, 1: every third row empty, else
    /// uniform.
    fn case(sizes: [usize; 4], (density, shape): (f32, u8), seed: u64, exact: bool) -> Case {
        let [nrows, ncols, lanes, gap] = sizes;
        let key = Key::new(seed).with_name("row-major");
        let stored = |r: usize, c: usize| match shape {
            0 => r == nrows / 2,
            1 => !r.is_multiple_of(3) && key.uniform((r * ncols + c) as u64) < density,
            _ => key.uniform((r * ncols + c) as u64) < density,
        };
        let all = (0..nrows).flat_map(|r| (0..ncols).map(move |c| (r, c)));
        let positions = all.filter(|&(r, c)| stored(r, c)).map(|(r, c)| (r as u32, c as u32)).collect();
        let pattern = Arc::new(CsrPattern::from_positions(nrows, ncols, positions).unwrap());
        let mut case = Case { pattern, values: Vec::new(), lanes, gap, exact, key };
        case.values = case.numbers("values", case.pattern.nnz());
        case
    }

    impl Case {
        fn numbers(&self, name: &str, len: usize) -> Vec<f32> {
            let key = self.key.with_name(name);
            let number = |i| if self.exact { key.below(i, 9) as f32 - 4.0 } else { 2.0 * key.uniform(i) - 1.0 };
            (0..len as u64).map(number).collect()
        }

        /// Rows of `lanes` at distances of `lanes + gap`, NaN between them; the outputs are NaN throughout.
        fn spread(&self, rows: &[f32]) -> Vec<f32> {
            let spread = |row: &[f32]| [row, &vec![f32::from_bits(GAP); self.gap]].concat();
            rows.chunks_exact(self.lanes).flat_map(spread).collect()
        }

        fn view<'a>(&self, data: &'a [f32], features: usize) -> MatrixRef<'a> {
            MatrixRef::new(data, features, self.lanes, self.lanes + self.gap).unwrap()
        }

        /// Calls `product` on an output full of NaN; returns its lanes, after a check that the gaps were left alone.
        fn output(&self, features: usize, product: impl FnOnce(MatrixMut<'_>)) -> Vec<f32> {
            let mut y = self.spread(&vec![f32::from_bits(GAP); features * self.lanes]);
            product(MatrixMut::new(&mut y, features, self.lanes, self.lanes + self.gap).unwrap());
            let rows = y.chunks_exact(self.lanes + self.gap);
            assert!(rows.clone().all(|row| row[self.lanes..].iter().all(|v| v.to_bits() == GAP)));
            rows.flat_map(|row| row[..self.lanes].to_vec()).collect()
        }

        fn check(&self, what: &str, got: &[f32], expected: &[Exact]) {
            assert_eq!(got.len(), expected.len(), "{what}");
            for (i, (&got, expected)) in got.iter().zip(expected).enumerate() {
                let right = if self.exact { f64::from(got) == expected.value } else { expected.error(got) <= 1.0 };
                assert!(right, "{what} entry {i}: {got} instead of {expected:?}");
            }
        }

        fn weight(&self, cpu: &Cpu) -> SparseMatrix<Cpu> {
            let options = PlanOptions { transpose: true, ..PlanOptions::default() };
            SparseMatrix::new(cpu, self.pattern.clone(), &self.values, options).unwrap()
        }

        fn run(&self, cpu: &Cpu, workspace: &mut Workspace) -> [Vec<f32>; 5] {
            let (m, k) = (self.pattern.nrows(), self.pattern.ncols());
            let w = self.weight(cpu);
            let mut dense = cpu.zeros(m * k).unwrap();
            cpu.upload(&crate::Csr::new(self.pattern.clone(), self.values.clone()).unwrap().to_dense(), &mut dense)
                .unwrap();
            let (x, dy) = (self.numbers("x", k * self.lanes), self.numbers("dy", m * self.lanes));
            let (x, dy) = (self.spread(&x), self.spread(&dy));
            let (x, dy) = (self.view(&x, k), self.view(&dy, m));
            let y = self.output(m, |y| cpu.spmm_row_major(Op::NoTranspose, &w, x, y, workspace).unwrap());
            let dx = self.output(k, |dx| cpu.spmm_row_major(Op::Transpose, &w, dy, dx, workspace).unwrap());
            let y_dense = self.output(m, |y| cpu.gemm_row_major(Op::NoTranspose, &dense, x, y, workspace).unwrap());
            let dx_dense = self.output(k, |dx| cpu.gemm_row_major(Op::Transpose, &dense, dy, dx, workspace).unwrap());
            let mut dw = cpu.zeros(self.pattern.nnz()).unwrap();
            dw.fill(f32::NAN);
            cpu.sddmm_row_major(&w.plan, dy, x, &mut dw, false, workspace).unwrap();
            [y, dx, y_dense, dx_dense, dw.to_vec()]
        }

        fn verify(&self) {
            let (m, k) = (self.pattern.nrows(), self.pattern.ncols());
            let (x, dy) = (self.numbers("x", k * self.lanes), self.numbers("dy", m * self.lanes));
            let y = reference::spmm(&self.pattern, &self.values, &x, self.lanes);
            let dx = reference::spmm_transposed(&self.pattern, &self.values, &dy, self.lanes);
            let dw = reference::sddmm(&self.pattern, &dy, &x, self.lanes);
            // The dense product sums zeros too: more terms, the same magnitude.
            let dense = |exact: &[Exact], terms| exact.iter().map(|e| Exact { terms, ..*e }).collect::<Vec<_>>();
            // One workspace for calls of all sizes: what an earlier call left in it must not show.
            let mut workspace = Workspace::default();
            for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
                let results = self.run(&Cpu::new(1, Some(isa)).unwrap(), &mut workspace);
                let what = |op: &str| format!("{isa} {op}, {} lanes", self.lanes);
                self.check(&what("spmm"), &results[0], &y);
                self.check(&what("spmm_t"), &results[1], &dx);
                self.check(&what("gemm"), &results[2], &dense(&y, k));
                self.check(&what("gemm_t"), &results[3], &dense(&dx, m));
                self.check(&what("sddmm"), &results[4], &dw);
                for threads in [2, 7] {
                    let again = self.run(&Cpu::new(threads, Some(isa)).unwrap(), &mut workspace);
                    let bits = |r: &[Vec<f32>]| r.iter().flatten().map(|v| v.to_bits()).collect::<Vec<_>>();
                    assert_eq!(bits(&again), bits(&results), "{isa} with {threads} threads");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn products_agree_with_the_reference(
            nrows in 0usize..70, ncols in 0usize..90, lanes in 1usize..12, gap in 0usize..4, density in 0.0f32..1.0,
            shape in 0u8..6, seed in 0u64..1_000_000, exact: bool
        ) {
            case([nrows, ncols, lanes, gap], (density * density, shape), seed, exact).verify();
        }
    }

    #[test]
    fn every_number_of_few_lanes_on_edges() {
        for lanes in 1..=9 {
            for (nrows, ncols) in [(0, 5), (5, 0), (1, 1), (1, 70), (70, 1), (3, 16), (3, 17), (9, 31)] {
                for density in [0.0, 0.5, 1.0] {
                    case([nrows, ncols, lanes, lanes % 3], (density, 5), 1, true).verify();
                }
            }
        }
    }

    /// Large enough for several row blocks, several chunks of the transposed walk, and the thread pool.
    #[test]
    fn many_blocks() {
        for (lanes, gap) in [(1, 0), (3, 1), (8, 0)] {
            case([900, 2100, lanes, gap], (0.3, 1), 3, false).verify();
        }
        case([2100, 900, 4, 2], (0.25, 5), 4, true).verify();
    }

    /// An infinite input reaches the rows that use it, and only these: vectors that reach back over entries that were
    /// summed before, or span lanes that are padding, must not make 0 · ∞ of it.
    #[test]
    fn infinities_stay_where_they_belong() {
        for lanes in 1..=8 {
            let case = case([40, 60, lanes, 0], (0.4, 5), 7, false);
            for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
                let cpu = Cpu::new(1, Some(isa)).unwrap();
                let w = case.weight(&cpu);
                let mut x = vec![1.0f32; 60 * lanes];
                x[31 * lanes..32 * lanes].fill(f32::INFINITY);
                let product = |y: MatrixMut<'_>| {
                    let x = case.view(&x, 60);
                    cpu.spmm_row_major(Op::NoTranspose, &w, x, y, &mut Workspace::default()).unwrap();
                };
                for (i, y) in case.output(40, product).chunks_exact(lanes).enumerate() {
                    let uses = case.pattern.row(i).contains(&31);
                    assert!(
                        y.iter().all(|y| if uses { y.is_infinite() } else { y.is_finite() }),
                        "{isa} row {i}: {y:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn half_operands_are_converted() {
        let cpu = Cpu::new(1, None).unwrap();
        for lanes in [1, 2, 3, 8, 33] {
            let case = case([20, 30, lanes, 0], (0.5, 5), 5, true);
            let x: Vec<f32> = case.numbers("x", 30 * lanes);
            let w = case.weight(&cpu);
            let halves: Vec<_> = x.iter().map(|&v| bf16::from_f32(v)).collect();
            let mut y = vec![f16::NAN; 20 * lanes];
            let x_view = MatrixRef::new(&halves, 30, lanes, lanes).unwrap();
            let y_view = MatrixMut::new(&mut y, 20, lanes, lanes).unwrap();
            cpu.spmm_row_major(Op::NoTranspose, &w, x_view, y_view, &mut Workspace::default()).unwrap();
            let expected = reference::spmm(&case.pattern, &case.values, &x, lanes);
            case.check("halves", &y.iter().map(|v| v.to_f32()).collect::<Vec<_>>(), &expected);
        }
    }

    #[test]
    fn wrong_shapes_are_refused_by_name() {
        let cpu = Cpu::new(1, None).unwrap();
        let case = case([4, 5, 2, 0], (0.5, 5), 1, true);
        let mut w = case.weight(&cpu);
        let mut workspace = Workspace::default();
        let mut message = |op, w: &SparseMatrix<Cpu>, x: [usize; 2], y: [usize; 2]| {
            let (from, mut to) = ([1.0f32; 100], [0.0f32; 100]);
            let from = MatrixRef::new(&from, x[0], x[1], x[1]).unwrap();
            let to = MatrixMut::new(&mut to, y[0], y[1], y[1]).unwrap();
            cpu.spmm_row_major(op, w, from, to, &mut workspace).unwrap_err().to_string()
        };
        assert!(message(Op::NoTranspose, &w, [4, 2], [4, 2]).contains("rows of X is 4, expected 5"));
        assert!(message(Op::NoTranspose, &w, [5, 2], [5, 2]).contains("rows of Y is 5, expected 4"));
        assert!(message(Op::NoTranspose, &w, [5, 2], [4, 3]).contains("number of lanes is 3, expected 2"));
        assert!(message(Op::Transpose, &w, [5, 9], [4, 9]).contains("rows of X is 5, expected 4"));
        w.values = cpu.zeros(1).unwrap();
        assert!(message(Op::NoTranspose, &w, [5, 2], [4, 2]).contains("1 values for a pattern of"));
        let forward = SparseMatrix::new(&cpu, case.pattern.clone(), &case.values, PlanOptions::default()).unwrap();
        assert!(message(Op::Transpose, &forward, [4, 2], [5, 2]).contains("transpose"));
        let dense = cpu.zeros(19).unwrap();
        let x = MatrixRef::new(&[0.0f32; 5], 5, 1, 1).unwrap();
        let mut y = [0.0f32; 4];
        let y = MatrixMut::new(&mut y, 4, 1, 1).unwrap();
        let error = cpu.gemm_row_major(Op::NoTranspose, &dense, x, y, &mut workspace).unwrap_err().to_string();
        assert!(error.contains("length of W is 19, expected 20"), "{error}");
    }
}
