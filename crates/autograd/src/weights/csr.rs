//! Single entries in CSR: a matrix, or a convolution.

use std::sync::Arc;

use sparse_kernels::{Activations, Backend, Candidate, ConvWeight, CsrPattern, GrowRequest, Op, SparseMatrix};

use super::{Geometry, Pair, Weight, gathered};
use crate::Error;
use crate::storage::{images, images_mut, strips, strips_mut};

impl Geometry {
    /// A weight in CSR, of values that are on the device.
    ///
    /// # Errors
    /// If the pattern or the number of values does not fit, or the backend is out of memory.
    pub fn csr<B: Backend>(
        self,
        backend: &B,
        pattern: Arc<CsrPattern>,
        values: B::Buffer,
    ) -> Result<Box<dyn Weight<B>>, Error> {
        Ok(match self {
            Self::Linear { options, .. } => Box::new(SparseMatrix::from_buffer(backend, pattern, values, options)?),
            Self::Conv { shape, options } => {
                Box::new(ConvWeight::from_buffer(backend, pattern, values, shape, options)?)
            }
        })
    }
}

impl<B: Backend> Weight<B> for SparseMatrix<B> {
    fn kind(&self) -> &'static str {
        "sparse matrix"
    }

    fn geometry(&self, backend: &B) -> Geometry {
        let pattern = backend.pattern(&self.plan);
        Geometry::Linear { nrows: pattern.nrows(), ncols: pattern.ncols(), options: backend.plan_options(&self.plan) }
    }

    fn values(&self) -> &B::Buffer {
        &self.values
    }

    fn values_mut(&mut self) -> &mut B::Buffer {
        &mut self.values
    }

    fn pattern<'w>(&'w self, backend: &B) -> Option<&'w Arc<CsrPattern>> {
        Some(backend.pattern(&self.plan))
    }

    fn forward(&self, backend: &B, x: &Activations<B>, y: &mut Activations<B>) -> Result<(), Error> {
        Ok(backend.spmm(Op::NoTranspose, self, strips(x), strips_mut(y))?)
    }

    fn forward_bias_relu(
        &self,
        backend: &B,
        bias: &B::Buffer,
        relu: bool,
        x: &Activations<B>,
        y: &mut Activations<B>,
    ) -> Result<(), Error> {
        Ok(backend.spmm_bias_relu(self, bias, relu, strips(x), strips_mut(y))?)
    }

    fn input_grad(&self, backend: &B, dy: &Activations<B>, dx: &mut Activations<B>) -> Result<(), Error> {
        Ok(backend.spmm(Op::Transpose, self, strips(dy), strips_mut(dx))?)
    }

    fn weight_grad(
        &self,
        backend: &B,
        (dy, x): Pair<'_, B>,
        gradient: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error> {
        Ok(backend.sddmm(&self.plan, strips(dy), strips(x), gradient, accumulate)?)
    }

    fn grow(&self, backend: &B, request: &GrowRequest, pairs: &[Pair<'_, B>]) -> Result<Vec<Candidate>, Error> {
        let pairs: Vec<_> = pairs.iter().map(|(dy, x)| (strips(dy), strips(x))).collect();
        Ok(backend.grow(request, &pairs)?)
    }

    fn rewire(&mut self, backend: &B, topology: Arc<CsrPattern>, values: &[u32]) -> Result<(), Error> {
        let values = gathered(backend, &self.values, values)?;
        *self = Self::from_buffer(backend, topology, values, backend.plan_options(&self.plan))?;
        Ok(())
    }

    fn refresh(&mut self, backend: &B) -> Result<(), Error> {
        Ok(SparseMatrix::refresh(self, backend)?)
    }

    fn plan_bytes(&self, backend: &B) -> usize {
        backend.plan_bytes(&self.plan)
    }

    fn transposed_values(&self) -> Option<&B::Buffer> {
        Some(&self.transposed_values)
    }
}

impl<B: Backend> Weight<B> for ConvWeight<B> {
    fn kind(&self) -> &'static str {
        "sparse convolution"
    }

    fn geometry(&self, backend: &B) -> Geometry {
        Geometry::Conv { shape: backend.conv_shape(&self.plan), options: backend.conv_options(&self.plan) }
    }

    fn values(&self) -> &B::Buffer {
        &self.values
    }

    fn values_mut(&mut self) -> &mut B::Buffer {
        &mut self.values
    }

    fn pattern<'w>(&'w self, backend: &B) -> Option<&'w Arc<CsrPattern>> {
        Some(backend.conv_pattern(&self.plan))
    }

    fn forward(&self, backend: &B, x: &Activations<B>, y: &mut Activations<B>) -> Result<(), Error> {
        Ok(backend.conv_forward(self, images(x), images_mut(y))?)
    }

    fn input_grad(&self, backend: &B, dy: &Activations<B>, dx: &mut Activations<B>) -> Result<(), Error> {
        Ok(backend.conv_input_grad(self, images(dy), images_mut(dx))?)
    }

    fn weight_grad(
        &self,
        backend: &B,
        (dy, x): Pair<'_, B>,
        gradient: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error> {
        Ok(backend.conv_weight_grad(&self.plan, images(dy), images(x), gradient, accumulate)?)
    }

    fn grow(&self, backend: &B, request: &GrowRequest, pairs: &[Pair<'_, B>]) -> Result<Vec<Candidate>, Error> {
        let pairs: Vec<_> = pairs.iter().map(|(dy, x)| (images(dy), images(x))).collect();
        Ok(backend.grow_conv(backend.conv_shape(&self.plan), request, &pairs)?)
    }

    fn rewire(&mut self, backend: &B, topology: Arc<CsrPattern>, values: &[u32]) -> Result<(), Error> {
        let values = gathered(backend, &self.values, values)?;
        let (shape, options) = (backend.conv_shape(&self.plan), backend.conv_options(&self.plan));
        *self = Self::from_buffer(backend, topology, values, shape, options)?;
        Ok(())
    }

    fn refresh(&mut self, backend: &B) -> Result<(), Error> {
        Ok(ConvWeight::refresh(self, backend)?)
    }

    fn plan_bytes(&self, backend: &B) -> usize {
        backend.conv_plan_bytes(&self.plan)
    }

    fn transposed_values(&self) -> Option<&B::Buffer> {
        Some(&self.transposed_values)
    }
}
