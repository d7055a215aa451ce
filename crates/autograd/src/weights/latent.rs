//! Weights of all positions, of which a sparse weight in front of them shows a part: forward passes and gradients of
//! inputs see the part; optimizers and weight gradients the whole.

use std::sync::Arc;

use sparse_kernels::{Activations, Backend, Candidate, CsrPattern, GrowRequest};

use super::{Geometry, Pair, Weight, positions};
use crate::Error;

/// A weight behind a sparse one.
#[derive(Debug)]
pub(crate) struct LatentWeight<B: Backend> {
    /// The whole, row by row.
    values: B::Buffer,
    /// The part that takes part.
    face: Box<dyn Weight<B>>,
    /// For each entry of the part its position in the whole.
    positions: Vec<u32>,
}

impl<B: Backend> LatentWeight<B> {
    /// Puts `values` behind `face`, whose pattern is one of single entries.
    pub fn new(backend: &B, values: B::Buffer, face: Box<dyn Weight<B>>) -> Result<Self, Error> {
        let positions = face.pattern(backend).map(|pattern| positions(pattern)).unwrap_or_default();
        let mut latent = Self { values, face, positions };
        latent.refresh(backend)?;
        Ok(latent)
    }
}

impl<B: Backend> Weight<B> for LatentWeight<B> {
    fn kind(&self) -> &'static str {
        "latent weight"
    }

    fn geometry(&self, backend: &B) -> Geometry {
        self.face.geometry(backend)
    }

    fn values(&self) -> &B::Buffer {
        &self.values
    }

    fn values_mut(&mut self) -> &mut B::Buffer {
        &mut self.values
    }

    fn stored(&self) -> &B::Buffer {
        self.face.stored()
    }

    fn is_latent(&self) -> bool {
        true
    }

    fn pattern<'w>(&'w self, backend: &B) -> Option<&'w Arc<CsrPattern>> {
        self.face.pattern(backend)
    }

    fn forward(&self, backend: &B, x: &Activations<B>, y: &mut Activations<B>) -> Result<(), Error> {
        self.face.forward(backend, x, y)
    }

    fn forward_bias_relu(
        &self,
        backend: &B,
        bias: &B::Buffer,
        relu: bool,
        x: &Activations<B>,
        y: &mut Activations<B>,
    ) -> Result<(), Error> {
        self.face.forward_bias_relu(backend, bias, relu, x, y)
    }

    fn input_grad(&self, backend: &B, dy: &Activations<B>, dx: &mut Activations<B>) -> Result<(), Error> {
        self.face.input_grad(backend, dy, dx)
    }

    fn weight_grad(
        &self,
        backend: &B,
        pair: Pair<'_, B>,
        gradient: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error> {
        self.face.dense_grad(backend, pair, gradient, accumulate)
    }

    fn grow(&self, backend: &B, request: &GrowRequest, pairs: &[Pair<'_, B>]) -> Result<Vec<Candidate>, Error> {
        self.face.grow(backend, request, pairs)
    }

    fn rewire(&mut self, backend: &B, topology: Arc<CsrPattern>, _: &[u32]) -> Result<(), Error> {
        let places = positions(&topology);
        // The values come from the whole.
        self.face.rewire(backend, topology, &vec![u32::MAX; places.len()])?;
        self.positions = places;
        self.refresh(backend)
    }

    fn refresh(&mut self, backend: &B) -> Result<(), Error> {
        backend.gather(&self.values, &self.positions, self.face.values_mut())?;
        self.face.refresh(backend)
    }

    fn plan_bytes(&self, backend: &B) -> usize {
        self.face.plan_bytes(backend) + 4 * self.positions.len()
    }

    fn transposed_values(&self) -> Option<&B::Buffer> {
        self.face.transposed_values()
    }
}
