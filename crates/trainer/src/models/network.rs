//! A network on a backend: its parameters, and its forward pass.

use std::sync::Arc;

use autograd::init::{FanIn, Initializer};
use autograd::{ParameterId, Parameters, Tape, Var};
use rigl::topology::random_pattern;
use rigl::{LayerDensity, Layers};
use sparse_kernels::random::Key;
use sparse_kernels::{Backend, BackendError, CsrPattern, PlanOptions, SparseMatrix, StripLayout};

use super::Architecture;
use crate::config::Init;

/// One layer's parameters.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its name, see [`super::LinearLayer`].
    pub name: String,
    /// The weight matrix.
    pub weight: ParameterId,
    /// The bias.
    pub bias: ParameterId,
    /// Whether a ReLU follows.
    pub relu: bool,
    /// Whether the weight is stored sparse. A layer that has all its weights is stored and multiplied dense, and no
    /// method changes it.
    pub sparse: bool,
}

/// How the first values are drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Initialization {
    /// What the deviation follows.
    pub init: Init,
    /// The run's seed.
    pub seed: u64,
}

/// A multi-layer perceptron on a backend.
#[derive(Debug)]
pub struct Network<B: Backend> {
    /// What it is made of.
    pub architecture: Architecture,
    /// All its parameters.
    pub parameters: Parameters<B>,
    /// Its layers, from input to output.
    pub layers: Vec<Layer>,
    strip: Option<usize>,
}

/// How many weights a network stores, of how many positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightCount {
    /// Stored weights, biases not counted.
    pub nnz: usize,
    /// Positions of all weight matrices.
    pub size: usize,
}

impl WeightCount {
    /// nnz / size.
    pub fn density(&self) -> f64 {
        self.nnz as f64 / self.size as f64
    }
}

/// Lanes per strip for `lanes` samples of a network in which some layer is sparse, or none.
///
/// A wholly dense network keeps its batch in one strip, which is what GEMM likes best; the dense side of a comparison
/// is not to be slowed down by the sparse side's layout.
pub fn strip_of(any_sparse: bool, lanes: usize) -> usize {
    if any_sparse { StripLayout::SPARSE_STRIP } else { StripLayout::single(lanes, 0).strip() }
}

impl<B: Backend> Network<B> {
    /// A network with random patterns of the given densities, Xavier-uniform weights and zero biases.
    ///
    /// A weight's first value depends on seed, layer name and position only: networks of different densities share
    /// the values of the positions they share. So do their patterns' random choices not depend on the values.
    ///
    /// # Errors
    /// If a pattern is impossible or the backend has no room.
    pub fn new(
        backend: &B,
        architecture: Architecture,
        densities: &[LayerDensity],
        initialization: Initialization,
    ) -> anyhow::Result<Self> {
        let Initialization { init, seed } = initialization;
        let fan_in = match init {
            Init::DenseFanIn => FanIn::Dense,
            Init::SparseFanIn => FanIn::Sparse,
        };
        let any_sparse = densities.iter().any(|d| d.nnz < d.size);
        let mut parameters = Parameters::new();
        let mut layers = Vec::new();
        for (i, (layer, density)) in architecture.layers.iter().zip(densities).enumerate() {
            let (nrows, ncols) = (layer.outputs, layer.inputs);
            let key = |purpose| Key::new(seed).with_name(purpose).with_name(&layer.name);
            let name = format!("{}.weight", layer.name);
            let sparse = density.nnz < density.size;
            let weight = if sparse {
                let pattern = Arc::new(random_pattern(nrows, ncols, density.nnz, key("pattern"))?);
                let values = Initializer::XavierUniform.sparse(&pattern, fan_in, key("weight"));
                // Nothing asks for the gradient of the network's input.
                let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: i > 0 };
                parameters.add_sparse(name, SparseMatrix::new(backend, pattern, &values, options)?)
            } else {
                let mut buffer = backend.zeros(nrows * ncols)?;
                backend.upload(&Initializer::XavierUniform.dense(nrows, ncols, key("weight")), &mut buffer)?;
                parameters.add_dense(name, backend, buffer, nrows, ncols)?
            };
            let bias = parameters.add_vector(format!("{}.bias", layer.name), backend.zeros(nrows)?);
            layers.push(Layer { name: layer.name.clone(), weight, bias, relu: layer.relu, sparse });
        }
        let strip = any_sparse.then_some(StripLayout::SPARSE_STRIP);
        Ok(Self { architecture, parameters, layers, strip })
    }

    /// Lanes per strip of the activations of batches of `lanes` samples, see [`strip_of`].
    pub fn strip(&self, lanes: usize) -> usize {
        strip_of(self.strip.is_some(), lanes)
    }

    /// The forward pass of `layers` from `x`, the network's input, to the logits.
    ///
    /// With `dropout`, a share of each hidden layer's outputs is dropped in training; `key` decides which.
    ///
    /// # Errors
    /// If the input's shape is not the network's, or the backend fails.
    pub fn forward(
        layers: &[Layer],
        tape: &mut Tape<'_, B>,
        x: Var,
        dropout: f32,
        key: Key,
    ) -> Result<Var, autograd::Error> {
        let mut x = x;
        for layer in layers {
            let y = tape.linear(layer.weight, x)?;
            x = tape.bias_relu(layer.bias, layer.relu, y)?;
            if layer.relu && dropout > 0.0 {
                x = tape.dropout(key.with_name(&layer.name), dropout, x)?;
            }
        }
        Ok(x)
    }

    /// Stored weights of each layer.
    pub fn layer_nnz(&self, backend: &B) -> Vec<usize> {
        let nnz = |layer: &Layer| backend.len(self.parameters.get(layer.weight).value().values());
        self.layers.iter().map(nnz).collect()
    }

    /// Stored weights and positions of the whole network.
    pub fn cost(&self, backend: &B) -> WeightCount {
        WeightCount { nnz: self.layer_nnz(backend).iter().sum(), size: self.architecture.size() }
    }

    /// The sparse layers, as methods see them.
    pub fn sparse_layers<'n>(&'n self, backend: &'n B) -> SparseLayers<'n, B> {
        SparseLayers { backend, network: self, layers: self.layers.iter().filter(|l| l.sparse).collect() }
    }
}

/// The layers whose topology a method manages.
#[derive(Debug)]
pub struct SparseLayers<'n, B: Backend> {
    backend: &'n B,
    network: &'n Network<B>,
    layers: Vec<&'n Layer>,
}

impl<B: Backend> Layers for SparseLayers<'_, B> {
    fn len(&self) -> usize {
        self.layers.len()
    }

    fn name(&self, layer: usize) -> &str {
        &self.layers[layer].name
    }

    fn pattern(&self, layer: usize) -> &Arc<CsrPattern> {
        let pattern = self.network.parameters.pattern(self.backend, self.layers[layer].weight);
        pattern.expect("layers are listed here if they are sparse")
    }

    fn values(&self, layer: usize) -> Result<Vec<f32>, BackendError> {
        let parameter = self.network.parameters.get(self.layers[layer].weight);
        let buffer = parameter.value().values();
        let mut values = vec![0.0; self.backend.len(buffer)];
        self.backend.download(buffer, &mut values)?;
        Ok(values)
    }
}
