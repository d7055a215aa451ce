//! Convolutions in blocks: not on a GPU yet. No plan can be made, so that no pass is ever asked for.

use std::convert::Infallible;
use std::sync::Arc;

use crate::backend::{BlockConvWeight, BlockSparseConv, ConvOptions, GrowRequest};
use crate::gpu::{Buffer, Gpu};
use crate::{BackendError, BsrPattern, Candidate, ConvShape, Images};

impl Gpu {
    fn no_block_convolutions(&self) -> BackendError {
        let what = "convolutions in blocks, which run on the CPU only (use --format csr on a GPU)".to_owned();
        BackendError::Unsupported { device: self.report().to_string(), what }
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

    fn conv_forward_bsr(
        &self,
        w: &BlockConvWeight<Self>,
        _: &Images<Self>,
        _: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        match w.plan {}
    }

    fn conv_input_grad_bsr(
        &self,
        w: &BlockConvWeight<Self>,
        _: &Images<Self>,
        _: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        match w.plan {}
    }

    fn conv_weight_grad_bsr(
        &self,
        plan: &Infallible,
        _: &Images<Self>,
        _: &Images<Self>,
        _: &mut Buffer,
        _: bool,
    ) -> Result<(), BackendError> {
        match *plan {}
    }

    fn grow_conv_blocks(
        &self,
        _: ConvShape,
        _: [usize; 2],
        _: &GrowRequest,
        _: &[(&Images<Self>, &Images<Self>)],
    ) -> Result<Vec<Candidate>, BackendError> {
        Err(self.no_block_convolutions())
    }
}
