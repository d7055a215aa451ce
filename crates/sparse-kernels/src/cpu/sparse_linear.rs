//! Checks shapes and hands over to the kernels.

use std::sync::Arc;

use super::isa::{Isa, Kernel, dispatch};
use super::sddmm::Sddmm;
use super::spmm::{Epilogue, Spmm};
use super::{Buffer, Cpu, CpuPlan, ELEMENTS_PER_TASK, grow};
use crate::backend::{GrowRequest, PlanOptions, SparseMatrix};
use crate::dense::check_lanes;
use crate::error::{expect_equal, expect_values};
use crate::{BackendError, Candidate, CsrPattern, Op, ShapeError, SparseLinear, StripLayout, Strips};

impl SparseLinear for Cpu {
    type Plan = CpuPlan;

    fn plan(&self, pattern: Arc<CsrPattern>, options: PlanOptions) -> Result<CpuPlan, BackendError> {
        CpuPlan::for_cpu(self, pattern, options)
    }

    fn pattern<'a>(&self, plan: &'a CpuPlan) -> &'a Arc<CsrPattern> {
        &plan.pattern
    }

    fn plan_options(&self, plan: &CpuPlan) -> PlanOptions {
        plan.options
    }

    fn plan_bytes(&self, plan: &CpuPlan) -> usize {
        plan.bytes()
    }

    fn refresh_transposed(&self, plan: &CpuPlan, values: &Buffer, transposed: &mut Buffer) -> Result<(), BackendError> {
        let _timed = self.timed("refresh_transposed", 3 * transposed.len(), 0);
        let Some(t) = &plan.transposed else { return Ok(()) };
        expect_values(plan.pattern.nnz(), values.len())?;
        expect_values(plan.pattern.nnz(), transposed.len())?;
        let operations = 8 * values.len() as u64;
        // Entries of a band of the pattern's rows: while one is gathered, the next is brought near.
        let band = values.len() / t.walk.chunks();
        self.for_each_chunk(transposed, ELEMENTS_PER_TASK, operations, |start, part| {
            let permutation = &t.permutation[start..][..part.len()];
            dispatch(self.isa, Gather { values, permutation, ahead: start + band, to: part });
        });
        Ok(())
    }

    fn spmm(&self, op: Op, w: &SparseMatrix<Self>, x: &Strips<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        let _timed =
            self.timed("spmm", 2 * w.values.len() + x.data.len() + y.data.len(), 2 * w.values.len() * x.layout.lanes());
        self.product("spmm", op, w, Epilogue::default(), x, y)
    }

    fn spmm_bias_relu(
        &self,
        w: &SparseMatrix<Self>,
        bias: &Buffer,
        relu: bool,
        x: &Strips<Self>,
        y: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        let _timed = self.timed(
            "spmm_bias_relu",
            2 * w.values.len() + x.data.len() + y.data.len(),
            2 * w.values.len() * x.layout.lanes(),
        );
        const OP: &str = "spmm_bias_relu";
        expect_equal(OP, "length of the bias", w.plan.pattern.nrows(), bias.len())?;
        self.product(OP, Op::NoTranspose, w, Epilogue { bias: Some(bias), relu }, x, y)
    }

    fn sddmm(
        &self,
        plan: &CpuPlan,
        dy: &Strips<Self>,
        x: &Strips<Self>,
        values: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        let _timed =
            self.timed("sddmm", 2 * values.len() + x.data.len() + dy.data.len(), 2 * values.len() * x.layout.lanes());
        let pattern = &*plan.pattern;
        check_strip("sddmm", plan, x.layout)?;
        check_lanes("sddmm", x.layout, dy.layout)?;
        expect_equal("sddmm", "rows of X", pattern.ncols(), x.layout.features())?;
        expect_equal("sddmm", "rows of dY", pattern.nrows(), dy.layout.features())?;
        expect_equal("sddmm", "length of X", x.layout.len(), x.data.len())?;
        expect_equal("sddmm", "length of dY", dy.layout.len(), dy.data.len())?;
        expect_values(pattern.nnz(), values.len())?;
        let (dy_layout, x_layout) = (dy.layout, x.layout);
        let walk = &plan.sampled_walk;
        Sddmm { pattern, walk, dy_layout, dy: &dy.data, x_layout, x: &x.data, values, accumulate }.run(self);
        Ok(())
    }

    fn grow(
        &self,
        request: &GrowRequest,
        pairs: &[(&Strips<Self>, &Strips<Self>)],
    ) -> Result<Vec<Candidate>, BackendError> {
        let _timed = self.timed(
            "grow",
            pairs.iter().map(|(dy, x)| dy.data.len() + x.data.len()).sum(),
            pairs.iter().map(|(dy, x)| 2 * dy.layout.features() * x.layout.features() * x.layout.lanes()).sum(),
        );
        grow::grow(self, request, pairs)
    }

    fn largest(&self, gradient: &Buffer, request: &GrowRequest) -> Result<Vec<Candidate>, BackendError> {
        let _timed = self.timed("largest", gradient.len(), 0);
        grow::largest(gradient, request)
    }
}

impl Cpu {
    fn product(
        &self,
        op_name: &'static str,
        op: Op,
        w: &SparseMatrix<Self>,
        epilogue: Epilogue<'_>,
        x: &Strips<Self>,
        y: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        let plan = &w.plan;
        let (nrows, ncols) = (plan.pattern.nrows(), plan.pattern.ncols());
        let (nrows, ncols, columns, walk, values) = match op {
            Op::NoTranspose => (nrows, ncols, plan.pattern.col_indices(), &plan.walk, &w.values),
            Op::Transpose => {
                let Some(t) = &plan.transposed else {
                    let rule = "1: the plan was made without its transposed index";
                    return Err(ShapeError::Rule { op: op_name, what: "PlanOptions::transpose", got: 0, rule }.into());
                };
                (t.nrows, t.ncols, &t.columns[..], &t.walk, &w.transposed_values)
            }
        };
        check_strip(op_name, plan, x.layout)?;
        check_lanes(op_name, x.layout, y.layout)?;
        expect_equal(op_name, "rows of X", ncols, x.layout.features())?;
        expect_equal(op_name, "rows of Y", nrows, y.layout.features())?;
        expect_equal(op_name, "length of X", x.layout.len(), x.data.len())?;
        expect_equal(op_name, "length of Y", y.layout.len(), y.data.len())?;
        expect_values(columns.len(), values.len())?;
        let (x_layout, y_layout) = (x.layout, y.layout);
        Spmm { columns, walk, values, epilogue, x_layout, x: &x.data, y_layout, y: &mut y.data }.run(self);
        Ok(())
    }
}

fn check_strip(op: &'static str, plan: &CpuPlan, layout: StripLayout) -> Result<(), ShapeError> {
    expect_equal(op, "strip width", plan.options.strip, layout.strip())
}

/// `to[i] = values[permutation[i]]`, for some places of a transposed plan.
struct Gather<'a> {
    values: &'a [f32],
    permutation: &'a [u32],
    /// Values from here on will be wanted next. (A band of the transposed order takes its values from one band of the
    /// pattern's order, see `TransposedPlan`.)
    ahead: usize,
    to: &'a mut [f32],
}

impl Kernel for Gather<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let places = self.to.chunks_mut(LINE).zip(self.permutation.chunks(LINE)).enumerate();
        for (line, (to, from)) in places {
            isa.prefetch(self.values.as_ptr().wrapping_add(self.ahead + line * LINE));
            for (to, &from) in to.iter_mut().zip(from) {
                *to = self.values[from as usize];
            }
        }
    }
}

/// Floats in a cache line.
const LINE: usize = 64 / size_of::<f32>();
