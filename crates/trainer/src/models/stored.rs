//! The weights of a model on the host: what a file holds of it.

use std::path::Path;
use std::sync::Arc;

use autograd::init::{FanIn, Initializer};
use rigl::topology::random_pattern;
use rigl::{LayerDensity, TopologyError};
use serde::{Deserialize, Serialize};
use sparse_kernels::random::Key;
use sparse_kernels::{Bsr, BsrPattern, Csr, CsrPattern, FormatError};

use super::{Architecture, Initialization, LinearLayer};
use crate::checkpoint::{Checkpoint, CheckpointError, TensorData};
use crate::config::{Format, Init, ModelName};
use crate::data::Normalization;

/// A weight matrix of `[outputs, inputs]`.
#[derive(Debug, Clone, PartialEq)]
pub enum StoredWeight {
    /// Only the entries that exist.
    Sparse(Csr<f32>),
    /// Only the blocks that exist. Their padding, where they reach beyond the matrix, counts as weights.
    BlockSparse(Bsr),
    /// All of them, row-major.
    Dense {
        /// Outputs.
        nrows: usize,
        /// Inputs.
        ncols: usize,
        /// `nrows · ncols` values.
        values: Vec<f32>,
    },
}

impl StoredWeight {
    /// Outputs and inputs.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Sparse(csr) => [csr.pattern().nrows(), csr.pattern().ncols()],
            Self::BlockSparse(bsr) => [bsr.pattern().nrows(), bsr.pattern().ncols()],
            Self::Dense { nrows, ncols, .. } => [*nrows, *ncols],
        }
    }

    /// Stored weights.
    pub fn nnz(&self) -> usize {
        self.values().len()
    }

    /// The stored weights, row after row; of blocks, block after block.
    pub fn values(&self) -> &[f32] {
        match self {
            Self::Sparse(csr) => csr.values(),
            Self::BlockSparse(bsr) => bsr.values(),
            Self::Dense { values, .. } => values,
        }
    }

    /// Whether only some of the weights are stored.
    pub fn is_sparse(&self) -> bool {
        self.format().is_some()
    }

    /// How it is stored; none for a dense matrix.
    pub fn format(&self) -> Option<Format> {
        match self {
            Self::Sparse(_) => Some(Format::Csr),
            Self::BlockSparse(bsr) => Some(Format::Bsr(bsr.pattern().block_size())),
            Self::Dense { .. } => None,
        }
    }

    /// The name of how it is stored: `dense`, or that of the [`Format`].
    pub fn storage(&self) -> String {
        self.format().map_or("dense".to_owned(), |format| format.to_string())
    }

    /// What a topology update replaces: the pattern, or that of the blocks; none for a dense matrix.
    pub fn topology(&self) -> Option<&Arc<CsrPattern>> {
        match self {
            Self::Sparse(csr) => Some(csr.pattern()),
            Self::BlockSparse(bsr) => Some(bsr.pattern().blocks()),
            Self::Dense { .. } => None,
        }
    }

    /// The whole matrix, row-major, zeros included.
    pub fn to_dense(&self) -> Vec<f32> {
        match self {
            Self::Sparse(csr) => csr.to_dense(),
            Self::BlockSparse(bsr) => bsr.to_dense(),
            Self::Dense { values, .. } => values.clone(),
        }
    }
}

/// One fully connected layer.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredLayer {
    /// Its name.
    pub name: String,
    /// The weights.
    pub weight: StoredWeight,
    /// One value per output.
    pub bias: Vec<f32>,
}

/// What a model's inputs are made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInput {
    /// The data set it was trained on.
    pub data: String,
    /// How pixels become inputs.
    pub normalization: Normalization,
}

/// The weights of a model, in a file of ours: a checkpoint, or a model that was imported.
///
/// ```
/// # use trainer::models::{StoredLayer, StoredModel, StoredWeight};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// # let weight = StoredWeight::Dense { nrows: 1, ncols: 2, values: vec![0.5, -1.0] };
/// # StoredModel { input: None, layers: vec![StoredLayer { name: "fc1".into(), weight, bias: vec![0.0] }] }.save(&path)?;
/// let mut model = StoredModel::load(&path)?;
/// model.layers[0].bias[0] = 1.0;
/// model.save(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StoredModel {
    /// What its inputs are made from, where that is known.
    pub input: Option<ModelInput>,
    /// From input to output: each layer reads what the one before it writes.
    pub layers: Vec<StoredLayer>,
}

/// How the metadata describes a model.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    name: ModelName,
    layers: Vec<LayerDescription>,
    input: Option<ModelInput>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerDescription {
    name: String,
    shape: [usize; 2],
}

impl StoredModel {
    /// A model with random patterns of the given densities, Xavier-uniform weights and zero biases. A layer that has
    /// all its weights is stored dense; in blocks, a layer's nnz is rounded down to whole ones
    /// ([`Sparsification::solve`](super::Sparsification::solve) gives such numbers).
    ///
    /// A weight's first value depends on seed, layer name and position only: networks of different densities share
    /// the values of the positions they share, whatever their formats. So do their patterns' random choices not depend on
    /// the values.
    ///
    /// # Errors
    /// If a layer is too large for 32-bit indices.
    pub fn random(
        architecture: &Architecture,
        densities: &[LayerDensity],
        Initialization { format, init, seed }: Initialization,
    ) -> Result<Self, TopologyError> {
        let fan_in = match init {
            Init::DenseFanIn => FanIn::Dense,
            Init::SparseFanIn => FanIn::Sparse,
        };
        let layer = |(layer, density): (&LinearLayer, &LayerDensity)| -> Result<StoredLayer, TopologyError> {
            let LinearLayer { name, inputs: ncols, outputs: nrows, .. } = layer;
            let (nrows, ncols) = (*nrows, *ncols);
            let key = |purpose| Key::new(seed).with_name(purpose).with_name(name);
            let weight = match format {
                _ if density.nnz >= density.size => {
                    let values = Initializer::XavierUniform.dense(nrows, ncols, key("weight"));
                    StoredWeight::Dense { nrows, ncols, values }
                }
                Format::Csr => {
                    let pattern = Arc::new(random_pattern(nrows, ncols, density.nnz, key("pattern"))?);
                    let values = Initializer::XavierUniform.sparse(&pattern, fan_in, key("weight"));
                    StoredWeight::Sparse(Csr::new(pattern, values).expect("there is one value per entry"))
                }
                Format::Bsr([r, c]) => {
                    let (rows, columns) = (nrows.div_ceil(r), ncols.div_ceil(c));
                    let blocks = Arc::new(random_pattern(rows, columns, density.nnz / (r * c), key("pattern"))?);
                    let pattern = Arc::new(BsrPattern::from_blocks(nrows, ncols, [r, c], blocks)?);
                    let values = Initializer::XavierUniform.block_sparse(&pattern, fan_in, key("weight"));
                    StoredWeight::BlockSparse(Bsr::new(pattern, values).expect("there is one value per entry"))
                }
            };
            Ok(StoredLayer { name: name.clone(), weight, bias: vec![0.0; nrows] })
        };
        Ok(Self {
            input: None,
            layers: architecture.layers.iter().zip(densities).map(layer).collect::<Result<_, _>>()?,
        })
    }

    /// The density and number of weights of each layer, as they are.
    pub fn densities(&self) -> Vec<LayerDensity> {
        let density = |layer: &StoredLayer| {
            let (nnz, size) = (layer.weight.nnz(), layer.weight.shape().iter().product());
            LayerDensity { density: nnz as f64 / size as f64, nnz, size }
        };
        self.layers.iter().map(density).collect()
    }

    /// The name of this model: its sizes, or that of a known model with these sizes.
    ///
    /// # Panics
    /// If there is no layer.
    pub fn name(&self) -> ModelName {
        let inputs = self.layers[0].weight.shape()[1];
        ModelName::of_sizes(std::iter::once(inputs).chain(self.layers.iter().map(|l| l.weight.shape()[0])).collect())
    }

    /// How its sparse layers are stored: as the first of them; as CSR if there is none.
    pub fn format(&self) -> Format {
        self.layers.iter().find_map(|layer| layer.weight.format()).unwrap_or(Format::Csr)
    }

    /// Stored weights, biases not counted, padding of blocks included.
    pub fn nnz(&self) -> usize {
        self.layers.iter().map(|l| l.weight.nnz()).sum()
    }

    /// Positions of all weight matrices.
    pub fn size(&self) -> usize {
        self.layers.iter().map(|l| l.weight.shape().iter().product::<usize>()).sum()
    }

    /// nnz / size.
    pub fn density(&self) -> f64 {
        self.nnz() as f64 / self.size() as f64
    }

    /// Reads the model of a checkpoint or model file.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        Self::from_checkpoint(&Checkpoint::load(path)?).map_err(CheckpointError::in_file(path))
    }

    /// Writes a model file, so that it is the old or the new one at any moment.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn save(&self, path: &Path) -> Result<(), CheckpointError> {
        self.to_checkpoint().save_atomic(path)
    }

    /// The model as a checkpoint without training state.
    pub fn to_checkpoint(&self) -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        let description = Description {
            name: self.name(),
            layers: self
                .layers
                .iter()
                .map(|l| LayerDescription { name: l.name.clone(), shape: l.weight.shape() })
                .collect(),
            input: self.input.clone(),
        };
        checkpoint.set_section("model", &description);
        for StoredLayer { name, weight, bias } in &self.layers {
            let mut insert = |part: &str, tensor| checkpoint.tensors.insert(format!("{name}.{part}"), tensor);
            match weight {
                StoredWeight::Sparse(csr) => {
                    insert("weight.crow_indices", TensorData::u32s(csr.pattern().row_offsets()));
                    insert("weight.col_indices", TensorData::u32s(csr.pattern().col_indices()));
                    insert("weight.values", TensorData::f32s(csr.values()));
                }
                StoredWeight::BlockSparse(bsr) => {
                    let (pattern, values) = (bsr.pattern(), bsr.values().to_vec());
                    let [r, c] = pattern.block_size();
                    insert("weight.crow_indices", TensorData::u32s(pattern.blocks().row_offsets()));
                    insert("weight.col_indices", TensorData::u32s(pattern.blocks().col_indices()));
                    insert("weight.values", TensorData::F32 { shape: vec![pattern.nnz_blocks(), r, c], values });
                }
                StoredWeight::Dense { nrows, ncols, values } => {
                    insert("weight", TensorData::F32 { shape: vec![*nrows, *ncols], values: values.clone() });
                }
            }
            insert("bias", TensorData::f32s(bias.as_slice()));
        }
        checkpoint
    }

    /// The model of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`] if it describes none, or its tensors are not those of the description.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let Description { name, layers, input } = checkpoint.section("model")?;
        // Before anything is copied: a header could name one layer any number of times.
        for (i, layer) in layers.iter().enumerate() {
            let expected = format!("fc{}", i + 1);
            if layer.name != expected {
                return Err(CheckpointError::mismatch(format!("the name of layer {}", i + 1), &layer.name, expected));
            }
        }
        let described = layers.into_iter().map(|layer| read_layer(checkpoint, layer));
        let model = Self { input, layers: described.collect::<Result<_, _>>()? };
        model.check_chain()?;
        let got = model.name();
        if got != name {
            return Err(CheckpointError::mismatch("the name of the model", name, got));
        }
        Ok(model)
    }

    /// Each layer must read what the one before it writes, and have a bias for each output.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] naming the first layer that does not.
    pub fn check_chain(&self) -> Result<(), CheckpointError> {
        if self.layers.is_empty() {
            return Err(CheckpointError::mismatch("the number of layers", 0, "at least 1"));
        }
        let mut inputs = None;
        for StoredLayer { name, weight, bias } in &self.layers {
            let [nrows, ncols] = weight.shape();
            let wrong = |what: &str, got, expected| {
                Err(CheckpointError::mismatch(format!("layer {name}: the number of {what}"), got, expected))
            };
            if nrows == 0 || ncols == 0 {
                return wrong("outputs or inputs", 0, "at least 1".to_owned());
            }
            if inputs.is_some_and(|inputs| inputs != ncols) {
                return wrong("inputs", ncols, format!("{}, the outputs before it", inputs.unwrap_or(0)));
            }
            if bias.len() != nrows {
                return wrong("biases", bias.len(), nrows.to_string());
            }
            inputs = Some(nrows);
        }
        Ok(())
    }
}

fn read_layer(checkpoint: &Checkpoint, layer: LayerDescription) -> Result<StoredLayer, CheckpointError> {
    let LayerDescription { name, shape: [nrows, ncols] } = layer;
    let weight = format!("{name}.weight");
    let weight = if checkpoint.tensors.contains_key(&weight) {
        let expected = nrows.checked_mul(ncols);
        let values = checkpoint.f32s(&weight)?;
        if expected != Some(values.len()) {
            let what = format!("the number of values of {weight}");
            return Err(CheckpointError::mismatch(what, values.len(), format!("{nrows} × {ncols}")));
        }
        StoredWeight::Dense { nrows, ncols, values: values.to_vec() }
    } else {
        let part = |part| format!("{weight}.{part}");
        let row_offsets = checkpoint.u32s(&part("crow_indices"))?.to_vec();
        let col_indices = checkpoint.u32s(&part("col_indices"))?.to_vec();
        let values = checkpoint.f32s(&part("values"))?.to_vec();
        let matrix = || -> Result<_, FormatError> {
            Ok(match *checkpoint.tensors[&part("values")].shape() {
                // Blocks have two dimensions more than entries.
                [_, r, c] => {
                    let pattern = BsrPattern::new(nrows, ncols, [r, c], row_offsets, col_indices)?;
                    StoredWeight::BlockSparse(Bsr::new(Arc::new(pattern), values)?)
                }
                _ => {
                    let pattern = CsrPattern::new(nrows, ncols, row_offsets, col_indices)?;
                    StoredWeight::Sparse(Csr::new(Arc::new(pattern), values)?)
                }
            })
        };
        matrix().map_err(|source| CheckpointError::Matrix { name: weight.clone(), source })?
    };
    let bias = checkpoint.f32s(&format!("{name}.bias"))?.to_vec();
    Ok(StoredLayer { name, weight, bias })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of every kind of edge: the last row and column of the grid reach beyond the matrix.
    #[test]
    fn blocks_survive_a_checkpoint() {
        let architecture = Architecture::of(&"21-10-3".parse().unwrap());
        let [format, other] = [Format::Bsr([4, 8]), Format::Csr];
        let density = |nnz, size| LayerDensity { density: 0.5, nnz, size };
        let densities = [density(128, 210), density(64, 30)];
        let initialization = Initialization { format, init: Init::SparseFanIn, seed: 3 };
        let model = StoredModel::random(&architecture, &densities, initialization).unwrap();
        assert_eq!((model.format(), model.layers[0].weight.nnz()), (format, 128));
        assert_eq!(model.layers[1].weight.storage(), "dense");
        let checkpoint = model.to_checkpoint();
        assert_eq!(checkpoint.tensors["fc1.weight.values"].shape(), [4, 4, 8]);
        assert_eq!(checkpoint.tensors["fc1.weight.crow_indices"].shape(), [4]);
        assert_eq!(StoredModel::from_checkpoint(&checkpoint).unwrap(), model);
        let mut wrong = checkpoint.clone();
        wrong
            .tensors
            .insert("fc1.weight.values".into(), TensorData::F32 { shape: vec![4, 3, 8], values: vec![0.0; 96] });
        let error = StoredModel::from_checkpoint(&wrong).unwrap_err().to_string();
        assert!(error.starts_with("tensor fc1.weight: ") && error.contains('3'), "{error}");
        // A position has the value that it has in CSR, with the dense layer's fan-in.
        let drawn = |format| {
            let initialization = Initialization { format, init: Init::DenseFanIn, seed: 3 };
            StoredModel::random(&architecture, &densities, initialization).unwrap().layers[0].weight.to_dense()
        };
        let both = drawn(format).into_iter().zip(drawn(other)).filter(|&(a, b)| a != 0.0 && b != 0.0);
        let both: Vec<_> = both.collect();
        assert!(both.len() > 10 && both.iter().all(|(a, b)| a == b));
    }

    /// A header that names one layer many times makes no copies of it.
    #[test]
    fn layers_are_named_once_each() {
        let layer = |name: &str| {
            let weight = StoredWeight::Dense { nrows: 4, ncols: 4, values: vec![0.5; 16] };
            StoredLayer { name: name.to_owned(), weight, bias: vec![0.0; 4] }
        };
        let mut model = StoredModel { input: None, layers: vec![layer("fc1"), layer("fc2")] };
        assert_eq!(StoredModel::from_checkpoint(&model.to_checkpoint()).unwrap(), model);
        model.layers[1].name = "fc1".to_owned();
        let error = StoredModel::from_checkpoint(&model.to_checkpoint()).unwrap_err().to_string();
        assert_eq!(error, "the name of layer 2 is fc1, expected fc2");
    }
}
