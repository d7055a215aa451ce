//! Blocks: a matrix in BSR. Values, gradient and slots are of the stored blocks, padding included; it is 0 in all of them,
//! and optimizers keep it so.

use std::sync::Arc;

use sparse_kernels::{Activations, Backend, BlockMatrix, BsrPattern, Candidate, CsrPattern, GrowRequest, Op};

use super::{Geometry, Pair, Weight, gathered};
use crate::Error;
use crate::storage::{strips, strips_mut};

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
            Self::Conv { .. } => Err(Error::Weight { kind: "convolution", what: "blocks" }),
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
        let (options, old) = (backend.block_plan_options(&self.plan), backend.block_pattern(&self.plan));
        let pattern = BsrPattern::from_blocks(old.nrows(), old.ncols(), old.block_size(), topology)?;
        *self = Self::from_buffer(backend, Arc::new(pattern), values, options)?;
        Ok(())
    }

    fn plan_bytes(&self, backend: &B) -> usize {
        backend.block_plan_bytes(&self.plan)
    }
}
