//! What a layer multiplies its input by: each storage format behind one interface, in a file of its own.
//!
//! The tape, the optimizers and a topology update know [`Weight`] only. A new format implements it for a matrix, a
//! convolution or both (`docs/adding-a-weight-format.md`).

mod bsr;
mod csr;
pub(crate) mod dense;
pub(crate) mod latent;
pub(crate) mod lists;
pub(crate) mod stored;
#[cfg(test)]
mod tests;
pub(crate) mod tiles;

use std::fmt::Debug;
use std::sync::Arc;

use sparse_kernels::{
    Activations, Backend, BsrPattern, Candidate, ConvOptions, ConvShape, Csr, CsrPattern, GrowRequest, Layout,
    PlanOptions, Strips,
};

use crate::Error;
use crate::error::expect_equal;
use crate::storage::{images, strips};

/// What a weight joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Geometry {
    /// `Y[nrows, n] = W[nrows, ncols] · X[ncols, n]`.
    Linear {
        /// Output features.
        nrows: usize,
        /// Input features.
        ncols: usize,
        /// What a plan is made for.
        options: PlanOptions,
    },
    /// `Y = conv(X, W)`; as a matrix, W is `[O, C/G · kh · kw]`.
    Conv {
        /// Channels, kernel, stride, padding, groups.
        shape: ConvShape,
        /// How X and Y lie.
        options: ConvOptions,
    },
}

impl Geometry {
    /// Rows and columns of the weight as a matrix.
    pub fn size(&self) -> [usize; 2] {
        match self {
            Self::Linear { nrows, ncols, .. } => [*nrows, *ncols],
            Self::Conv { shape, .. } => [shape.rows(), shape.columns()],
        }
    }

    /// Positions of the weight.
    pub fn positions(&self) -> usize {
        self.size().iter().product()
    }

    /// How Y lies if X lies like this.
    pub(crate) fn output(&self, op: &'static str, x: Layout) -> Result<Layout, Error> {
        match (self, x) {
            (Self::Linear { nrows, ncols, .. }, Layout::Strips(layout)) => {
                expect_equal(op, "rows of X", *ncols, layout.features())?;
                Ok(layout.with_features(*nrows).into())
            }
            (Self::Conv { options, .. }, Layout::Images(layout)) => Ok(options.y.with_samples(layout.samples()).into()),
            (Self::Linear { .. }, Layout::Images(_)) => {
                Err(Error::Activations { op, got: "images", expected: "features by lanes" })
            }
            (Self::Conv { .. }, Layout::Strips(_)) => {
                Err(Error::Activations { op, got: "features by lanes", expected: "images" })
            }
        }
    }
}

/// A weight of a layer in one storage format, for one [`Geometry`].
///
/// X, Y and their gradients are the activations that the geometry says; the tape has checked that before it calls.
pub trait Weight<B: Backend>: Debug + Send + Sync {
    /// What messages call it.
    fn kind(&self) -> &'static str;

    /// What it joins.
    fn geometry(&self, backend: &B) -> Geometry;

    /// What an optimizer changes. Gradient and optimizer slots are as long.
    fn values(&self) -> &B::Buffer;

    /// What an optimizer changes; whoever does calls [`Weight::refresh`].
    fn values_mut(&mut self) -> &mut B::Buffer;

    /// The values that take part: one per entry of the topology.
    fn stored(&self) -> &B::Buffer {
        self.values()
    }

    /// Whether [`Weight::values`] are those of all positions and only those of the topology take part.
    fn is_latent(&self) -> bool {
        false
    }

    /// Whether weight decay acts on it unasked.
    fn decays(&self) -> bool {
        true
    }

    /// The pattern of single entries, if that is its topology.
    fn pattern<'w>(&'w self, _backend: &B) -> Option<&'w Arc<CsrPattern>> {
        None
    }

    /// The pattern of blocks, if that is its topology.
    fn block_pattern<'w>(&'w self, _backend: &B) -> Option<&'w Arc<BsrPattern>> {
        None
    }

    /// `y = W · x`.
    ///
    /// # Errors
    /// If the shapes do not fit or the backend fails. So of all methods below.
    fn forward(&self, backend: &B, x: &Activations<B>, y: &mut Activations<B>) -> Result<(), Error>;

    /// `y = act(W · x + bias)`, `act` being ReLU or nothing.
    ///
    /// # Errors
    /// As [`Weight::forward`].
    fn forward_bias_relu(
        &self,
        backend: &B,
        bias: &B::Buffer,
        relu: bool,
        x: &Activations<B>,
        y: &mut Activations<B>,
    ) -> Result<(), Error> {
        self.forward(backend, x, y)?;
        match y {
            Activations::Strips(y) => backend.bias_relu(bias, relu, y)?,
            Activations::Images(y) => backend.bias_relu_images(bias, relu, y)?,
        }
        Ok(())
    }

    /// `dx = Wᵀ · dy`.
    ///
    /// # Errors
    /// As [`Weight::forward`].
    fn input_grad(&self, backend: &B, dy: &Activations<B>, dx: &mut Activations<B>) -> Result<(), Error>;

    /// `gradient = dy · xᵀ` at the [`Weight::values`]; adds with `accumulate`.
    ///
    /// # Errors
    /// As [`Weight::forward`].
    fn weight_grad(
        &self,
        backend: &B,
        pair: Pair<'_, B>,
        gradient: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error>;

    /// `gradient = dy · xᵀ` at all positions, row by row; adds with `accumulate`.
    ///
    /// # Errors
    /// As [`Weight::forward`].
    fn dense_grad(
        &self,
        backend: &B,
        (dy, x): Pair<'_, B>,
        gradient: &mut B::Buffer,
        accumulate: bool,
    ) -> Result<(), Error> {
        match self.geometry(backend) {
            Geometry::Linear { .. } => backend.gemm_weight_grad(strips(dy), strips(x), gradient, accumulate)?,
            Geometry::Conv { shape, .. } => {
                backend.conv_weight_grad_dense(shape, images(dy), images(x), gradient, accumulate)?
            }
        }
        Ok(())
    }

    /// `y = W · Xᵀ` of samples that are lists, a row of X each.
    ///
    /// # Errors
    /// If it has no such product, and as [`Weight::forward`].
    fn forward_lists(&self, _backend: &B, _x: &Csr, _y: &mut Strips<B>) -> Result<(), Error> {
        Err(self.lacks("product with lists"))
    }

    /// `gradient = dy · X` at the [`Weight::values`], of samples that are lists; adds with `accumulate`.
    ///
    /// # Errors
    /// If it has no such product, and as [`Weight::forward`].
    fn weight_grad_lists(
        &self,
        _backend: &B,
        _dy: &Strips<B>,
        _x: &Csr,
        _gradient: &mut B::Buffer,
        _accumulate: bool,
    ) -> Result<(), Error> {
        Err(self.lacks("product with lists"))
    }

    /// Its rows in tiles, if it has them.
    fn row_tiles(&self) -> Option<&[tiles::RowTile<B>]> {
        None
    }

    /// The entries outside a topology that the dense gradient, summed over `pairs` of `(dy, x)`, is largest at.
    ///
    /// # Errors
    /// If it has no topology, and as [`Weight::forward`].
    fn grow(&self, _backend: &B, _request: &GrowRequest, _pairs: &[Pair<'_, B>]) -> Result<Vec<Candidate>, Error> {
        Err(self.lacks("growth"))
    }

    /// Gives it another topology of the same shape: entry `e` takes what entry `map[e]` held, or zero where `map[e]` is
    /// `u32::MAX`. `values` maps [`Weight::values`] alike; it is `map`, but for blocks.
    ///
    /// # Errors
    /// If it has no topology or the map does not fit; the weight then is as it was.
    fn rewire(&mut self, _backend: &B, _topology: Arc<CsrPattern>, _values: &[u32]) -> Result<(), Error> {
        Err(self.lacks("topology"))
    }

    /// The same weight at the entries of a pattern alone, whose positions are `positions`.
    ///
    /// # Errors
    /// If not all positions are stored.
    fn sparsified(
        &self,
        _backend: &B,
        _pattern: Arc<CsrPattern>,
        _positions: &[u32],
    ) -> Result<Box<dyn Weight<B>>, Error> {
        Err(self.lacks("room for all positions"))
    }

    /// After the values have changed.
    ///
    /// # Errors
    /// If the backend fails.
    fn refresh(&mut self, _backend: &B) -> Result<(), Error> {
        Ok(())
    }

    /// Bytes of the plan, and of what else is held beside values and topology.
    fn plan_bytes(&self, _backend: &B) -> usize {
        0
    }

    /// Values in another order beside [`Weight::stored`].
    fn transposed_values(&self) -> Option<&B::Buffer> {
        None
    }

    /// The error of a method that the format has not.
    fn lacks(&self, what: &'static str) -> Error {
        Error::Weight { kind: self.kind(), what }
    }
}

/// `(dy, x)` of one use of a weight.
pub type Pair<'p, B> = (&'p Activations<B>, &'p Activations<B>);

/// The position of each entry of a pattern, row by row.
pub(crate) fn positions(pattern: &CsrPattern) -> Vec<u32> {
    let ncols = pattern.ncols() as u32;
    pattern.positions().map(|(row, column)| row * ncols + column).collect()
}

/// What `map` takes of a buffer, in a new one.
pub(crate) fn gathered<B: Backend>(backend: &B, from: &B::Buffer, map: &[u32]) -> Result<B::Buffer, Error> {
    let mut to = backend.zeros(map.len())?;
    backend.gather(from, map, &mut to)?;
    Ok(to)
}
