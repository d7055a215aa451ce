//! A matrix that is multiplied by samples which are lists of indices and values: the first layer of a network of bags of words
//! ([`crate::Tape::apply_lists`]).

use std::sync::Arc;

use sparse_kernels::{Activations, Backend, BsrPattern, Candidate, ColumnIndex, Csr, CsrPattern, GrowRequest, Strips};

use super::stored::Stored;
use super::{Geometry, Pair, Weight, gathered};
use crate::Error;
use crate::error::expect_equal;

/// See the module.
#[derive(Debug)]
pub struct ListWeight<B: Backend> {
    geometry: Geometry,
    stored: Stored,
    index: ColumnIndex,
    values: B::Buffer,
}

impl<B: Backend> ListWeight<B> {
    /// The matrix of these values. The geometry is one of a matrix.
    ///
    /// # Errors
    /// If pattern or values do not fit the geometry.
    pub fn new(backend: &B, geometry: Geometry, stored: Stored, values: B::Buffer) -> Result<Self, Error> {
        const OP: &str = "ListWeight";
        let [nrows, ncols] = geometry.size();
        let index = match &stored {
            Stored::Dense => ColumnIndex::dense(nrows, ncols),
            Stored::Csr(pattern) => ColumnIndex::of_csr(pattern),
            Stored::Blocks(pattern) => ColumnIndex::of_blocks(pattern),
        };
        expect_equal(OP, "number of rows", nrows, index.size()[0])?;
        expect_equal(OP, "number of columns", ncols, index.size()[1])?;
        expect_equal(OP, "number of values", index.values(), backend.len(&values))?;
        Ok(Self { geometry, stored, index, values })
    }
}

impl<B: Backend> Weight<B> for ListWeight<B> {
    fn kind(&self) -> &'static str {
        "matrix for lists"
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

    fn pattern<'w>(&'w self, _: &B) -> Option<&'w Arc<CsrPattern>> {
        self.stored.pattern()
    }

    fn block_pattern<'w>(&'w self, _: &B) -> Option<&'w Arc<BsrPattern>> {
        self.stored.block_pattern()
    }

    fn forward_lists(&self, backend: &B, x: &Csr, y: &mut Strips<B>) -> Result<(), Error> {
        Ok(backend.list_product(&self.index, &self.values, x, y)?)
    }

    fn weight_grad_lists(
        &self,
        backend: &B,
        dy: &Strips<B>,
        x: &Csr,
        gradient: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error> {
        Ok(backend.list_weight_grad(&self.index, dy, x, gradient, accumulate)?)
    }

    fn forward(&self, _: &B, _: &Activations<B>, _: &mut Activations<B>) -> Result<(), Error> {
        Err(self.lacks("product with other samples"))
    }

    fn input_grad(&self, _: &B, _: &Activations<B>, _: &mut Activations<B>) -> Result<(), Error> {
        Err(self.lacks("gradient of its samples"))
    }

    fn weight_grad(&self, _: &B, _: Pair<'_, B>, _: &mut B::Buffer, _: bool) -> Result<(), Error> {
        Err(self.lacks("product with other samples"))
    }

    fn grow(&self, backend: &B, request: &GrowRequest, pairs: &[Pair<'_, B>]) -> Result<Vec<Candidate>, Error> {
        self.stored.grow(backend, request, pairs)?.ok_or_else(|| self.lacks("growth"))
    }

    fn rewire(&mut self, backend: &B, topology: Arc<CsrPattern>, values: &[u32]) -> Result<(), Error> {
        let stored = self.stored.with_topology(topology)?.ok_or_else(|| self.lacks("topology"))?;
        let values = gathered(backend, &self.values, values)?;
        *self = Self::new(backend, self.geometry, stored, values)?;
        Ok(())
    }

    fn plan_bytes(&self, _: &B) -> usize {
        self.index.bytes()
    }
}
