//! The traits of the sparse products.

use std::sync::Arc;

use super::half::Source;
use super::{Buffer, Gpu, GpuPlan};
use crate::backend::{GrowRequest, PlanOptions, SparseMatrix};
use crate::error::expect_values;
use crate::{BackendError, Candidate, CsrPattern, Op, SparseLinear, Strips};

impl SparseLinear for Gpu {
    type Plan = GpuPlan;

    fn plan(&self, pattern: Arc<CsrPattern>, options: PlanOptions) -> Result<GpuPlan, BackendError> {
        GpuPlan::new(self, pattern, options)
    }

    fn pattern<'a>(&self, plan: &'a GpuPlan) -> &'a Arc<CsrPattern> {
        &plan.pattern
    }

    fn plan_options(&self, plan: &GpuPlan) -> PlanOptions {
        plan.options
    }

    fn plan_bytes(&self, plan: &GpuPlan) -> usize {
        plan.bytes()
    }

    fn refresh_transposed(&self, plan: &GpuPlan, values: &Buffer, transposed: &mut Buffer) -> Result<(), BackendError> {
        let Some((_, permutation)) = &plan.transposed else { return Ok(()) };
        expect_values(plan.pattern.nnz(), values.len())?;
        expect_values(plan.pattern.nnz(), transposed.len())?;
        self.gather_buffer(values, permutation, transposed)
    }

    fn spmm(&self, op: Op, w: &SparseMatrix<Self>, x: &Strips<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        self.spmm_csr(op, w, Source::Full(x), y)
    }

    fn spmm_bias_relu(
        &self,
        w: &SparseMatrix<Self>,
        bias: &Buffer,
        relu: bool,
        x: &Strips<Self>,
        y: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        self.spmm_csr_bias_relu(w, bias, relu, x, y)
    }

    fn sddmm(
        &self,
        plan: &GpuPlan,
        dy: &Strips<Self>,
        x: &Strips<Self>,
        values: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        self.sampled_product(plan, [Source::Full(dy), Source::Full(x)], values, accumulate)
    }

    fn grow(
        &self,
        request: &GrowRequest,
        pairs: &[(&Strips<Self>, &Strips<Self>)],
    ) -> Result<Vec<Candidate>, BackendError> {
        self.grow_linear(request, pairs)
    }

    fn largest(&self, gradient: &Buffer, request: &GrowRequest) -> Result<Vec<Candidate>, BackendError> {
        self.largest_of(gradient, request)
    }
}
