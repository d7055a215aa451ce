//! A network on a backend: its parameters, and its forward pass.

use std::sync::Arc;

use autograd::{ParameterId, ParameterValue, Parameters, Tape, Var};
use rigl::{LayerDensity, Layers};
use sparse_kernels::random::Key;
use sparse_kernels::{
    Backend, BackendError, BlockMatrix, Bsr, Csr, CsrPattern, PlanOptions, SparseMatrix, StripLayout,
};

use super::{Architecture, ModelInput, StoredLayer, StoredModel, StoredWeight};
use crate::checkpoint::CheckpointError;
use crate::config::{Format, Init};
use crate::training::TrainingError;

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
    /// Whether the weight is stored sparse, in CSR or in blocks. A layer that has all its weights is stored and
    /// multiplied dense, and no method changes it.
    pub sparse: bool,
}

/// How a new network is stored, and its first values drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Initialization {
    /// How sparse layers are stored.
    pub format: Format,
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
    /// Stored weights, biases not counted, padding of blocks included.
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
    /// A network with the weights that [`StoredModel::random`] draws.
    ///
    /// # Errors
    /// If a pattern is impossible or the backend has no room.
    pub fn new(
        backend: &B,
        architecture: &Architecture,
        densities: &[LayerDensity],
        initialization: Initialization,
    ) -> anyhow::Result<Self> {
        Ok(Self::from_stored(backend, StoredModel::random(architecture, densities, initialization)?)?)
    }

    /// The network of a stored model.
    ///
    /// # Errors
    /// If its layers do not fit each other ([`StoredModel::check_chain`]) or the backend has no room.
    pub fn from_stored(backend: &B, model: StoredModel) -> Result<Self, TrainingError> {
        model.check_chain()?;
        let architecture = Architecture::of(&model.name());
        let any_sparse = model.layers.iter().any(|layer| layer.weight.is_sparse());
        let mut parameters = Parameters::new();
        let mut layers = Vec::new();
        for (i, (stored, layer)) in model.layers.into_iter().zip(&architecture.layers).enumerate() {
            let StoredLayer { name, weight, bias } = stored;
            if name != layer.name {
                return Err(CheckpointError::mismatch("the name of a layer", name, &layer.name).into());
            }
            let sparse = weight.is_sparse();
            // Nothing asks for the gradient of the network's input.
            let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: i > 0 };
            let parameter = format!("{name}.weight");
            let weight = match weight {
                StoredWeight::Sparse(csr) => {
                    let matrix = SparseMatrix::new(backend, csr.pattern().clone(), csr.values(), options)?;
                    parameters.add_sparse(parameter, matrix)
                }
                StoredWeight::BlockSparse(bsr) => {
                    let matrix = BlockMatrix::new(backend, bsr.pattern().clone(), bsr.values(), options)?;
                    parameters.add_block_sparse(parameter, matrix)
                }
                StoredWeight::Dense { nrows, ncols, values } => {
                    parameters.add_dense(parameter, backend, uploaded(backend, &values)?, nrows, ncols)?
                }
            };
            let bias = parameters.add_vector(format!("{name}.bias"), uploaded(backend, &bias)?);
            layers.push(Layer { name, weight, bias, relu: layer.relu, sparse });
        }
        let strip = any_sparse.then_some(StripLayout::SPARSE_STRIP);
        Ok(Self { architecture, parameters, layers, strip })
    }

    /// The weights, on the host.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn to_stored(&self, backend: &B, input: Option<ModelInput>) -> Result<StoredModel, TrainingError> {
        let mut layers = Vec::with_capacity(self.layers.len());
        for Layer { name, weight, bias, .. } in &self.layers {
            let values = self.parameters.download_values(backend, *weight)?;
            let weight = match self.parameters.get(*weight).value() {
                ParameterValue::Sparse(matrix) => {
                    let csr = Csr::new(backend.pattern(&matrix.plan).clone(), values);
                    StoredWeight::Sparse(csr.map_err(BackendError::from)?)
                }
                ParameterValue::BlockSparse(matrix) => {
                    let bsr = Bsr::new(backend.block_pattern(&matrix.plan).clone(), values);
                    StoredWeight::BlockSparse(bsr.map_err(BackendError::from)?)
                }
                &ParameterValue::Dense { nrows, ncols, .. } => StoredWeight::Dense { nrows, ncols, values },
                ParameterValue::Vector(_) => unreachable!("the weights of a network are matrices"),
            };
            let bias = self.parameters.download_values(backend, *bias)?;
            layers.push(StoredLayer { name: name.clone(), weight, bias });
        }
        Ok(StoredModel { input, layers })
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
            x = tape.linear_bias_relu(layer.weight, layer.bias, layer.relu, x)?;
            if layer.relu && dropout > 0.0 {
                x = tape.dropout(key.with_name(&layer.name), dropout, x)?;
            }
        }
        Ok(x)
    }

    /// How a layer's weight is stored: `dense`, or a [`Format`].
    pub fn storage(&self, backend: &B, layer: &Layer) -> String {
        match self.parameters.block_pattern(backend, layer.weight) {
            Some(pattern) => Format::Bsr(pattern.block_size()).to_string(),
            None if layer.sparse => Format::Csr.to_string(),
            None => "dense".to_owned(),
        }
    }

    /// Stored weights of each layer, padding of blocks included.
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

fn uploaded<B: Backend>(backend: &B, values: &[f32]) -> Result<B::Buffer, BackendError> {
    let mut buffer = backend.zeros(values.len())?;
    backend.upload(values, &mut buffer)?;
    Ok(buffer)
}

/// The layers whose topology a method manages. Of a block-sparse layer it sees the blocks, see [`Layers`].
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
        let pattern = self.network.parameters.topology(self.backend, self.layers[layer].weight);
        pattern.expect("layers are listed here if they are sparse")
    }

    fn values(&self, layer: usize) -> Result<Vec<f32>, BackendError> {
        let id = self.layers[layer].weight;
        let buffer = self.network.parameters.get(id).value().values();
        let mut values = vec![0.0; self.backend.len(buffer)];
        self.backend.download(buffer, &mut values)?;
        match self.network.parameters.block_pattern(self.backend, id) {
            Some(pattern) => Ok(pattern.block_norms(&values)?),
            None => Ok(values),
        }
    }
}
