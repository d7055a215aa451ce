//! The traits of the sparse products.

use std::sync::Arc;

use super::half::Source;
use super::{Buffer, Gpu, GpuPlan};
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::backend::linear::{Found, Pairs};
use crate::backend::{GrowRequest, PlanOptions, SparseMatrix};
use crate::{BackendError, CsrPattern, Op, SparseLinear, Strips};

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

    fn run_refresh_transposed(&self, _: Checked, plan: &GpuPlan, values: &Buffer, transposed: &mut Buffer) -> Done {
        let Some((_, permutation)) = &plan.transposed else { return Ok(()) };
        self.gather_buffer(values, permutation, transposed)
    }

    fn run_spmm(
        &self,
        _: Checked,
        op: Op,
        w: &SparseMatrix<Self>,
        bias: Option<&Buffer>,
        relu: bool,
        x: &Strips<Self>,
        y: &mut Strips<Self>,
    ) -> Done {
        self.product(op, w, bias, relu, Source::Full(x), y)
    }

    fn run_sddmm(&self, call: WeightGrad<'_, &GpuPlan, Strips<Self>, Buffer>) -> Done {
        let WeightGrad { plan, dy, x, values, accumulate, .. } = call;
        self.sampled_product(plan, [Source::Full(dy), Source::Full(x)], values, accumulate)
    }

    fn run_grow(&self, _: Checked, request: &GrowRequest, pairs: Pairs<'_, Strips<Self>>) -> Found {
        self.grow_from_bands(request, |rows, out| self.gradient_of_pairs(rows, pairs, out))
    }

    fn run_largest(&self, _: Checked, gradient: &Buffer, request: &GrowRequest) -> Found {
        self.largest_of(gradient, request)
    }
}
