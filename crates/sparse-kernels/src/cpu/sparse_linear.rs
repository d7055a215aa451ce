//! Sparse products: hands over to the kernels.

use std::sync::Arc;

use super::ahead::LINE;
use super::isa::{Isa, Kernel, dispatch};
use super::sddmm::Sddmm;
use super::spmm::{Epilogue, Spmm};
use super::{Buffer, Cpu, CpuPlan, ELEMENTS_PER_TASK, grow};
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::backend::linear::{Found, Pairs};
use crate::backend::{GrowRequest, PlanOptions, SparseMatrix};
use crate::{BackendError, CsrPattern, Op, SparseLinear, Strips};

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

    fn run_refresh_transposed(&self, _: Checked, plan: &CpuPlan, values: &Buffer, transposed: &mut Buffer) -> Done {
        let _timed = self.timed("refresh_transposed", 3 * transposed.len(), 0);
        let Some(t) = &plan.transposed else { return Ok(()) };
        let operations = 8 * values.len() as u64;
        // Entries of a band of the pattern's rows: while one is gathered, the next is brought near.
        let band = values.len() / t.walk.chunks();
        self.for_each_chunk(transposed, ELEMENTS_PER_TASK, operations, |start, part| {
            let permutation = &t.permutation[start..][..part.len()];
            dispatch(self.isa, Gather { values, permutation, ahead: start + band, to: part });
        });
        Ok(())
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
        let _timed = self.timed(
            if bias.is_some() { "spmm_bias_relu" } else { "spmm" },
            2 * w.values.len() + x.data.len() + y.data.len(),
            2 * w.values.len() * x.layout.lanes(),
        );
        let plan = &w.plan;
        let (columns, walk, values) = match (op, &plan.transposed) {
            (Op::Transpose, Some(t)) => (&t.columns[..], &t.walk, &w.transposed_values),
            _ => (plan.pattern.col_indices(), &plan.walk, &w.values),
        };
        let epilogue = Epilogue { bias: bias.map(|bias| &bias[..]), relu };
        let (x_layout, y_layout) = (x.layout, y.layout);
        let product = Spmm { columns, walk, values, epilogue, x_layout, x: &x.data, y_layout, y: &mut y.data };
        // SAFETY: walk and columns are the plan's, and `Checked` says that all lengths, and the plan's direction, fit it.
        unsafe { product.run(self) };
        Ok(())
    }

    fn run_sddmm(&self, call: WeightGrad<'_, &CpuPlan, Strips<Self>, Buffer>) -> Done {
        let WeightGrad { plan, dy, x, values, accumulate, .. } = call;
        let _timed =
            self.timed("sddmm", 2 * values.len() + x.data.len() + dy.data.len(), 2 * values.len() * x.layout.lanes());
        let (pattern, walk, dy_layout, x_layout) = (&*plan.pattern, &plan.sampled_walk, dy.layout, x.layout);
        let product = Sddmm { pattern, walk, dy_layout, dy: &dy.data, x_layout, x: &x.data, values, accumulate };
        // SAFETY: the walk is the pattern's, and `Checked` says that all lengths fit it.
        unsafe { product.run(self) };
        Ok(())
    }

    fn run_grow(&self, _: Checked, request: &GrowRequest, pairs: Pairs<'_, Strips<Self>>) -> Found {
        let _timed = self.timed(
            "grow",
            pairs.iter().map(|(dy, x)| dy.data.len() + x.data.len()).sum(),
            pairs.iter().map(|(dy, x)| 2 * dy.layout.features() * x.layout.features() * x.layout.lanes()).sum(),
        );
        Ok(grow::grow(self, request, pairs))
    }

    fn run_largest(&self, _: Checked, gradient: &Buffer, request: &GrowRequest) -> Found {
        let _timed = self.timed("largest", gradient.len(), 0);
        Ok(grow::largest(gradient, request))
    }
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
