//! Blocks in BSR: a matrix, or a convolution, whose blocks span channels of one tap. Values, gradient and optimizer slots
//! cover the stored blocks, padding included. Padding is 0 in all of them, and optimizers keep it 0.

use std::sync::Arc;

use sparse_kernels::{
    Activations, Backend, BlockConvWeight, BlockMatrix, BsrPattern, Candidate, CsrPattern, GrowRequest, Op,
};

use super::{Geometry, Pair, Weight, gathered};
use crate::Error;
use crate::error::expect_equal;
use crate::storage::{images, images_mut, strips, strips_mut};

impl Geometry {
    /// A weight in blocks, of values that are on the device.
    ///
    /// # Errors
    /// If the pattern or the number of values does not fit, or the backend is out of memory.
    pub fn blocks<B: Backend>(
        self,
        backend: &B,
        pattern: Arc<BsrPattern>,
        values: B::Buffer,
    ) -> Result<Box<dyn Weight<B>>, Error> {
        match self {
            Self::Linear { options, .. } => Ok(Box::new(BlockMatrix::from_buffer(backend, pattern, values, options)?)),
            Self::Conv { shape, options } => {
                expect_equal("blocks", "taps of the pattern", shape.taps(), pattern.taps())?;
                Ok(Box::new(BlockConvWeight::from_buffer(backend, pattern, values, shape, options)?))
            }
        }
    }
}

impl<B: Backend> Weight<B> for BlockMatrix<B> {
    fn kind(&self) -> &'static str {
        "block-sparse matrix"
    }

    fn geometry(&self, backend: &B) -> Geometry {
        let pattern = backend.block_pattern(&self.plan);
        let options = backend.block_plan_options(&self.plan);
        Geometry::Linear { nrows: pattern.nrows(), ncols: pattern.ncols(), options }
    }

    fn values(&self) -> &B::Buffer {
        &self.values
    }

    fn values_mut(&mut self) -> &mut B::Buffer {
        &mut self.values
    }

    fn block_pattern<'w>(&'w self, backend: &B) -> Option<&'w Arc<BsrPattern>> {
        Some(backend.block_pattern(&self.plan))
    }

    fn forward(&self, backend: &B, x: &Activations<B>, y: &mut Activations<B>) -> Result<(), Error> {
        Ok(backend.spmm_bsr(Op::NoTranspose, self, strips(x), strips_mut(y))?)
    }

    fn input_grad(&self, backend: &B, dy: &Activations<B>, dx: &mut Activations<B>) -> Result<(), Error> {
        Ok(backend.spmm_bsr(Op::Transpose, self, strips(dy), strips_mut(dx))?)
    }

    fn weight_grad(
        &self,
        backend: &B,
        (dy, x): Pair<'_, B>,
        gradient: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error> {
        Ok(backend.sddmm_bsr(&self.plan, strips(dy), strips(x), gradient, accumulate)?)
    }

    fn grow(&self, backend: &B, request: &GrowRequest, pairs: &[Pair<'_, B>]) -> Result<Vec<Candidate>, Error> {
        let pairs: Vec<_> = pairs.iter().map(|(dy, x)| (strips(dy), strips(x))).collect();
        Ok(backend.grow_blocks(backend.block_pattern(&self.plan).block_size(), request, &pairs)?)
    }

    fn rewire(&mut self, backend: &B, topology: Arc<CsrPattern>, values: &[u32]) -> Result<(), Error> {
        let values = gathered(backend, &self.values, values)?;
        let pattern = backend.block_pattern(&self.plan).with_blocks(topology)?;
        *self = Self::from_buffer(backend, Arc::new(pattern), values, backend.block_plan_options(&self.plan))?;
        Ok(())
    }

    fn plan_bytes(&self, backend: &B) -> usize {
        backend.block_plan_bytes(&self.plan)
    }
}

impl<B: Backend> Weight<B> for BlockConvWeight<B> {
    fn kind(&self) -> &'static str {
        "block-sparse convolution"
    }

    fn geometry(&self, backend: &B) -> Geometry {
        Geometry::Conv { shape: backend.block_conv_shape(&self.plan), options: backend.block_conv_options(&self.plan) }
    }

    fn values(&self) -> &B::Buffer {
        &self.values
    }

    fn values_mut(&mut self) -> &mut B::Buffer {
        &mut self.values
    }

    fn block_pattern<'w>(&'w self, backend: &B) -> Option<&'w Arc<BsrPattern>> {
        Some(backend.block_conv_pattern(&self.plan))
    }

    fn forward(&self, backend: &B, x: &Activations<B>, y: &mut Activations<B>) -> Result<(), Error> {
        Ok(backend.conv_forward_bsr(self, images(x), images_mut(y))?)
    }

    fn input_grad(&self, backend: &B, dy: &Activations<B>, dx: &mut Activations<B>) -> Result<(), Error> {
        Ok(backend.conv_input_grad_bsr(self, images(dy), images_mut(dx))?)
    }

    fn weight_grad(
        &self,
        backend: &B,
        (dy, x): Pair<'_, B>,
        gradient: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error> {
        Ok(backend.conv_weight_grad_bsr(&self.plan, images(dy), images(x), gradient, accumulate)?)
    }

    fn grow(&self, backend: &B, request: &GrowRequest, pairs: &[Pair<'_, B>]) -> Result<Vec<Candidate>, Error> {
        let pairs: Vec<_> = pairs.iter().map(|(dy, x)| (images(dy), images(x))).collect();
        let block_size = backend.block_conv_pattern(&self.plan).block_size();
        Ok(backend.grow_conv_blocks(backend.block_conv_shape(&self.plan), block_size, request, &pairs)?)
    }

    fn rewire(&mut self, backend: &B, topology: Arc<CsrPattern>, values: &[u32]) -> Result<(), Error> {
        let values = gathered(backend, &self.values, values)?;
        let pattern = backend.block_conv_pattern(&self.plan).with_blocks(topology)?;
        let (shape, options) = (backend.block_conv_shape(&self.plan), backend.block_conv_options(&self.plan));
        *self = Self::from_buffer(backend, Arc::new(pattern), values, shape, options)?;
        Ok(())
    }

    fn plan_bytes(&self, backend: &B) -> usize {
        backend.block_conv_plan_bytes(&self.plan)
    }
}
