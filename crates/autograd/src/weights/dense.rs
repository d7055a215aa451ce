//! All positions: a matrix, or a convolution; one of a channel a group runs in kernels of its own (depthwise).

use std::sync::Arc;

use sparse_kernels::{Activations, Backend, CsrPattern, Op};

use super::{Geometry, Pair, Weight, gathered};
use crate::Error;
use crate::error::expect_equal;
use crate::storage::{images, images_mut, strips, strips_mut};

/// A dense weight, row-major; of a convolution `[O][C/G][kh][kw]`.
#[derive(Debug)]
pub struct DenseWeight<B: Backend> {
    values: B::Buffer,
    geometry: Geometry,
}

impl<B: Backend> DenseWeight<B> {
    /// The weight of these values.
    ///
    /// # Errors
    /// Unless there is one value per position.
    pub fn new(backend: &B, values: B::Buffer, geometry: Geometry) -> Result<Self, Error> {
        expect_equal("DenseWeight", "number of values", geometry.positions(), backend.len(&values))?;
        Ok(Self { values, geometry })
    }
}

impl<B: Backend> Weight<B> for DenseWeight<B> {
    fn kind(&self) -> &'static str {
        match self.geometry {
            Geometry::Linear { .. } => "dense matrix",
            Geometry::Conv { .. } => "dense convolution",
        }
    }

    fn geometry(&self, _: &B) -> Geometry {
        self.geometry
    }

    fn values(&self) -> &B::Buffer {
        &self.values
    }

    fn values_mut(&mut self) -> &mut B::Buffer {
        &mut self.values
    }

    fn decays(&self) -> bool {
        !matches!(self.geometry, Geometry::Conv { shape, .. } if shape.is_depthwise())
    }

    fn forward(&self, backend: &B, x: &Activations<B>, y: &mut Activations<B>) -> Result<(), Error> {
        match self.geometry {
            Geometry::Linear { .. } => backend.gemm(Op::NoTranspose, &self.values, strips(x), strips_mut(y))?,
            Geometry::Conv { shape, .. } => {
                backend.conv_forward_dense(shape, &self.values, images(x), images_mut(y))?;
            }
        }
        Ok(())
    }

    fn input_grad(&self, backend: &B, dy: &Activations<B>, dx: &mut Activations<B>) -> Result<(), Error> {
        match self.geometry {
            Geometry::Linear { .. } => backend.gemm(Op::Transpose, &self.values, strips(dy), strips_mut(dx))?,
            Geometry::Conv { shape, .. } => {
                backend.conv_input_grad_dense(shape, &self.values, images(dy), images_mut(dx))?;
            }
        }
        Ok(())
    }

    fn weight_grad(
        &self,
        backend: &B,
        pair: Pair<'_, B>,
        gradient: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error> {
        self.dense_grad(backend, pair, gradient, accumulate)
    }

    fn sparsified(
        &self,
        backend: &B,
        pattern: Arc<CsrPattern>,
        positions: &[u32],
    ) -> Result<Box<dyn Weight<B>>, Error> {
        let values = gathered(backend, &self.values, positions)?;
        self.geometry.csr(backend, pattern, values)
    }
}
