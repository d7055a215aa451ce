//! Convolutions in blocks: not on a GPU yet. No plan can be made, so that no pass is ever asked for.

use std::convert::Infallible;
use std::sync::Arc;

use crate::backend::check::{Checked, Done, WeightGrad};
use crate::backend::linear::{Found, Pairs};
use crate::backend::{BlockConvWeight, BlockSparseConv, ConvOptions, GrowRequest};
use crate::gpu::{Buffer, Gpu};
use crate::{BackendError, BsrPattern, ConvShape, Images};

impl Gpu {
    fn no_block_convolutions(&self) -> BackendError {
        self.unsupported("convolutions in blocks, which run on the CPU only (use --format csr on a GPU)")
    }
}

impl BlockSparseConv for Gpu {
    type BlockConvPlan = Infallible;

    fn plan_conv_blocks(&self, _: Arc<BsrPattern>, _: ConvShape, _: ConvOptions) -> Result<Infallible, BackendError> {
        Err(self.no_block_convolutions())
    }

    fn block_conv_pattern<'a>(&self, plan: &'a Infallible) -> &'a Arc<BsrPattern> {
        match *plan {}
    }

    fn block_conv_shape(&self, plan: &Infallible) -> ConvShape {
        match *plan {}
    }

    fn block_conv_options(&self, plan: &Infallible) -> ConvOptions {
        match *plan {}
    }

    fn block_conv_plan_bytes(&self, plan: &Infallible) -> usize {
        match *plan {}
    }

    fn run_conv_forward_bsr(
        &self,
        _: Checked,
        w: &BlockConvWeight<Self>,
        _: &Images<Self>,
        _: &mut Images<Self>,
    ) -> Done {
        match w.plan {}
    }

    fn run_conv_input_grad_bsr(
        &self,
        _: Checked,
        w: &BlockConvWeight<Self>,
        _: &Images<Self>,
        _: &mut Images<Self>,
    ) -> Done {
        match w.plan {}
    }

    fn run_conv_weight_grad_bsr(&self, call: WeightGrad<'_, &Infallible, Images<Self>, Buffer>) -> Done {
        match *call.plan {}
    }

    fn run_grow_conv_blocks(
        &self,
        _: Checked,
        _: ConvShape,
        _: [usize; 2],
        _: &GrowRequest,
        _: Pairs<'_, Images<Self>>,
    ) -> Found {
        Err(self.no_block_convolutions())
    }
}
