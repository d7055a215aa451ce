//! The weights of a model on the host: what a file holds of it.

use std::path::Path;
use std::sync::Arc;

use autograd::init::{FanIn, Initializer};
use rigl::topology::random_pattern;
use rigl::{LayerDensity, TopologyError};
use serde::{Deserialize, Serialize};
use sparse_kernels::random::Key;
use sparse_kernels::{Bsr, BsrPattern, Csr, CsrPattern, FormatError};

use super::family::FirstWeights;
use super::gates::Gates;
use super::{Architecture, Initialization, LayerKind, ModelSpec, WeightLayer};
use crate::checkpoint::{Checkpoint, CheckpointError, TensorData};
use crate::data::Normalization;
use crate::data::svmlight::Numbering;
use crate::data::table::TableColumns;
use crate::data::text::Alphabet;
use crate::models::{Format, Init, ModelName};
use crate::report::dimensions;
use crate::task::{LossKind, TargetScale};
use crate::training::Loss;

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

/// One layer with weights.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredLayer {
    /// Its name.
    pub name: String,
    /// The weights; of a convolution, `[O, C/G · kh · kw]`.
    pub weight: StoredWeight,
    /// One value per output; empty for a layer without bias.
    pub bias: Vec<f32>,
}

/// One normalisation of C channels.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredNorm {
    /// Its name.
    pub name: String,
    /// Scale and shift, C values each; of a norm without shift, the scale.
    pub affine: Vec<f32>,
    /// Of a batch normalisation, running mean and variance, C values each.
    pub running: Vec<f32>,
}

/// What a network has beside its layers with weights.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkParts {
    /// What it is made from.
    pub spec: ModelSpec,
    /// Its normalisations, in the order of the forward pass.
    pub norms: Vec<StoredNorm>,
}

/// What a model's inputs are made from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelInput {
    /// The data set it was trained on.
    pub data: String,
    /// How pixels become inputs.
    pub normalization: Normalization,
    /// Pixels each way that pictures were resized to, of data that has pictures of any size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// The names of the classes, in the order of the outputs, of data that names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// Channels, height and width of samples that were arrays of pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_shape: Option<[usize; 3]>,
    /// The loss it was trained with, which says what its outputs are.
    #[serde(default, skip_serializing_if = "is_cross_entropy")]
    pub loss: LossKind,
    /// Of the Huber loss, the error at which it becomes linear.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub huber_delta: Option<f64>,
    /// What the columns of a table became.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<TableColumns>,
    /// How the numbers that it predicts are scaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_scale: Option<TargetScale>,
    /// The symbols of the text that it was trained on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alphabet: Option<Alphabet>,
    /// Of samples that are lists, how features and labels are numbered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lists: Option<Numbering>,
}

impl ModelInput {
    /// Of a classifier that was trained on this data, without anything else that is known.
    pub fn new(data: impl Into<String>, normalization: Normalization) -> Self {
        Self {
            data: data.into(),
            normalization,
            image_size: None,
            class_names: None,
            input_shape: None,
            loss: LossKind::default(),
            huber_delta: None,
            table: None,
            target_scale: None,
            alphabet: None,
            lists: None,
        }
    }

    /// The loss that is measured of it.
    pub fn loss(&self) -> Loss {
        Loss::of(self.loss, 0.0, self.huber_delta.unwrap_or(1.0) as f32)
    }
}

fn is_cross_entropy(loss: &LossKind) -> bool {
    loss.is_of_classes()
}

/// The weights of a model, in a file of ours: a checkpoint, or a model that was imported.
///
/// ```
/// # use trainer::models::{StoredLayer, StoredModel, StoredWeight};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// # let weight = StoredWeight::Dense { nrows: 1, ncols: 2, values: vec![0.5, -1.0] };
/// # let layers = vec![StoredLayer { name: "fc1".into(), weight, bias: vec![0.0] }];
/// # StoredModel { input: None, layers, parts: None }.save(&path)?;
/// let mut model = StoredModel::load(&path)?;
/// model.layers[0].bias[0] = 1.0;
/// model.save(&path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct StoredModel {
    /// What its inputs are made from, where that is known.
    pub input: Option<ModelInput>,
    /// From input to output. Of a multi-layer perceptron, each layer reads what the one before it writes.
    pub layers: Vec<StoredLayer>,
    /// The rest of a network; none for a multi-layer perceptron, whose layers say everything.
    pub parts: Option<NetworkParts>,
}

/// How the metadata describes a model.
#[derive(Debug, Serialize, Deserialize)]
struct Description {
    name: String,
    layers: Vec<LayerDescription>,
    input: Option<ModelInput>,
    /// Of a convolutional network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    spec: Option<ModelSpec>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LayerDescription {
    name: String,
    shape: [usize; 2],
}

/// Which weights of a layer there are.
enum Topology {
    Full,
    Sparse(Arc<CsrPattern>),
    Blocks(Arc<BsrPattern>),
}

impl StoredModel {
    /// A model with random patterns of the given densities, random weights as the paper's code draws them, zero biases, and
    /// normalisations of scale 1 and shift 0 (the last of a residual branch: scale 0). A layer that has all its weights is stored dense; in blocks, a layer's nnz is rounded down to whole ones
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
        Initialization { format, init, seed, overrides }: Initialization,
    ) -> Result<Self, TopologyError> {
        let topology = |(layer, density): (&WeightLayer, &LayerDensity)| -> Result<Topology, TopologyError> {
            let (nrows, ncols) = (layer.rows(), layer.columns());
            let key = Key::new(seed).with_name("pattern").with_name(&layer.name);
            let gates = Gates::of(layer, &architecture.layers, format, &overrides);
            let pattern = |rows, columns, count| match &gates {
                Some(gates) => gates.random_pattern(count, key),
                None => random_pattern(rows, columns, count, key).map(Arc::new),
            };
            Ok(match format {
                _ if density.nnz >= density.size => Topology::Full,
                Format::Csr => Topology::Sparse(pattern(nrows, ncols, density.nnz)?),
                Format::Bsr([r, c]) => {
                    let blocks = pattern(nrows.div_ceil(r), ncols.div_ceil(c), density.nnz / (r * c))?;
                    let pattern = BsrPattern::from_blocks(nrows, ncols, [r, c], blocks)?;
                    Topology::Blocks(Arc::new(pattern.with_taps(layer.taps())?))
                }
            })
        };
        let topologies = architecture.layers.iter().zip(densities).map(topology).collect::<Result<_, _>>()?;
        Ok(Self::drawn(architecture, topologies, init, seed))
    }

    /// A model with these layers' weights at their first values, those that [`StoredModel::random`] draws for the same
    /// positions, and with everything else as a new model has it.
    pub fn redrawn(&self, architecture: &Architecture, init: Init, seed: u64) -> Self {
        let topology = |layer: &StoredLayer| match &layer.weight {
            StoredWeight::Dense { .. } => Topology::Full,
            StoredWeight::Sparse(csr) => Topology::Sparse(csr.pattern().clone()),
            StoredWeight::BlockSparse(bsr) => Topology::Blocks(bsr.pattern().clone()),
        };
        Self::drawn(architecture, self.layers.iter().map(topology).collect(), init, seed)
    }

    fn drawn(architecture: &Architecture, topologies: Vec<Topology>, init: Init, seed: u64) -> Self {
        let fan_in = match init {
            Init::DenseFanIn => FanIn::Dense,
            Init::SparseFanIn => FanIn::Sparse,
        };
        let layer = |(layer, topology)| draw(architecture, layer, topology, fan_in, seed);
        let norm = |norm: &super::NormLayer| {
            let scale = if norm.zero_scale { 0.0 } else { 1.0 };
            let of = |first: f32, second: f32| [vec![first; norm.channels], vec![second; norm.channels]].concat();
            let (mut affine, mut running) = (of(scale, 0.0), of(0.0, 1.0));
            affine.truncate(norm.affine_len());
            running.truncate(norm.running_len());
            StoredNorm { name: norm.name.clone(), affine, running }
        };
        let parts =
            || NetworkParts { spec: architecture.spec.clone(), norms: architecture.norms.iter().map(norm).collect() };
        Self {
            input: None,
            layers: architecture.layers.iter().zip(topologies).map(layer).collect(),
            parts: (!architecture.is_mlp()).then(parts),
        }
    }

    /// A layer of the network with all its weights at their first values, as [`StoredModel::random`] draws them.
    pub(crate) fn new_layer(architecture: &Architecture, layer: usize, seed: u64) -> StoredLayer {
        draw(architecture, &architecture.layers[layer], Topology::Full, FanIn::Dense, seed)
    }

    /// The density and number of weights of each layer, as they are.
    pub fn densities(&self) -> Vec<LayerDensity> {
        let density = |layer: &StoredLayer| {
            let (nnz, size) = (layer.weight.nnz(), layer.weight.shape().iter().product());
            LayerDensity { density: nnz as f64 / size as f64, nnz, size }
        };
        self.layers.iter().map(density).collect()
    }

    /// The name of this model; of a multi-layer perceptron its sizes, or that of a known model with these sizes.
    ///
    /// # Panics
    /// If there is no layer.
    pub fn name(&self) -> ModelName {
        if let Some(parts) = &self.parts {
            return parts.spec.name.clone();
        }
        let inputs = self.layers[0].weight.shape()[1];
        ModelName::of_sizes(std::iter::once(inputs).chain(self.layers.iter().map(|l| l.weight.shape()[0])).collect())
    }

    /// Whether it is of the network of this name, or of this definition.
    pub fn is_of(&self, name: &ModelName) -> bool {
        if !matches!(name, ModelName::Own(_)) {
            return self.name() == *name;
        }
        // A definition of a network of the zoo is that network.
        let spec = match (&self.parts, &self.layers[..]) {
            (Some(parts), _) => ModelSpec { name: name.clone(), ..parts.spec.clone() },
            (None, [first, .., last]) => {
                ModelSpec::of(name).on(first.weight.shape()[1], [1, 1], last.weight.shape()[0])
            }
            (None, _) => return false,
        };
        Architecture::new(&spec).is_ok_and(|architecture| architecture.spec.name == self.name())
    }

    /// What it is made of.
    ///
    /// # Errors
    /// [`CheckpointError`] if there is no such convolutional network.
    ///
    /// # Panics
    /// If there is no layer.
    pub fn architecture(&self) -> Result<Architecture, CheckpointError> {
        let Some(parts) = &self.parts else { return Ok(Architecture::of(&self.name())) };
        let impossible = |error| CheckpointError::mismatch("the model", &parts.spec.name, error);
        Architecture::new(&parts.spec).map_err(impossible)
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
            name: self.name().to_string(),
            layers: self
                .layers
                .iter()
                .map(|l| LayerDescription { name: l.name.clone(), shape: l.weight.shape() })
                .collect(),
            input: self.input.clone(),
            spec: self.parts.as_ref().map(|parts| parts.spec.clone()),
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
            if !bias.is_empty() {
                insert("bias", TensorData::f32s(bias.as_slice()));
            }
        }
        for norm in self.parts.iter().flat_map(|parts| &parts.norms) {
            for (part, values) in [("affine", &norm.affine), ("running", &norm.running)] {
                checkpoint.tensors.insert(format!("{}.{part}", norm.name), TensorData::f32s(values.as_slice()));
            }
        }
        checkpoint
    }

    /// Outputs of the network.
    pub fn outputs(&self) -> usize {
        self.layers.last().map_or(0, |layer| layer.weight.shape()[0])
    }

    /// The model of a checkpoint.
    ///
    /// # Errors
    /// [`CheckpointError`] if it describes none, or its tensors are not those of the description.
    pub fn from_checkpoint(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let Description { name, layers, input, spec } = checkpoint.section("model")?;
        let architecture = match &spec {
            None => None,
            Some(spec) => {
                let impossible = |error| CheckpointError::mismatch("the model", &spec.name, error);
                Some(Architecture::new(spec).map_err(impossible)?)
            }
        };
        // Before anything is copied: a header could name one layer any number of times.
        for (i, layer) in layers.iter().enumerate() {
            let expected = match &architecture {
                None => format!("fc{}", i + 1),
                Some(architecture) => {
                    architecture.layers.get(i).map_or("no more layers".to_owned(), |l| l.name.clone())
                }
            };
            if layer.name != expected {
                return Err(CheckpointError::mismatch(format!("the name of layer {}", i + 1), &layer.name, expected));
            }
        }
        let described = layers.into_iter().enumerate().map(|(i, layer)| {
            let of_network = architecture.as_ref().map(|architecture| &architecture.layers[i]);
            let (bias, taps) = of_network.map_or((true, 1), |layer| (layer.bias, layer.taps()));
            read_layer(checkpoint, layer, bias, taps)
        });
        let layers = described.collect::<Result<_, _>>()?;
        let parts = match (spec, &architecture) {
            (Some(spec), Some(architecture)) => {
                let norm = |norm: &super::NormLayer| -> Result<StoredNorm, CheckpointError> {
                    let read = |part, len| match len {
                        0 => Ok(vec![]),
                        _ => checkpoint.f32s(&format!("{}.{part}", norm.name)).map(<[f32]>::to_vec),
                    };
                    let affine = read("affine", norm.affine_len())?;
                    let running = read("running", norm.running_len())?;
                    Ok(StoredNorm { name: norm.name.clone(), affine, running })
                };
                let norms = architecture.norms.iter().map(norm).collect::<Result<_, _>>()?;
                Some(NetworkParts { spec, norms })
            }
            _ => None,
        };
        let model = Self { input, layers, parts };
        model.check()?;
        let got = model.name().to_string();
        if got != name {
            return Err(CheckpointError::mismatch("the name of the model", name, got));
        }
        Ok(model)
    }

    /// Everything must have the place and the sizes that the network gives it.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] naming the first part that does not.
    pub fn check(&self) -> Result<(), CheckpointError> {
        let Some(parts) = &self.parts else { return self.check_chain() };
        let architecture = self.architecture()?;
        let expect = |what: String, got: String, expected: String| {
            if got == expected { Ok(()) } else { Err(CheckpointError::mismatch(what, got, expected)) }
        };
        let counts = [
            ("layers", self.layers.len(), architecture.layers.len()),
            ("normalisations", parts.norms.len(), architecture.norms.len()),
        ];
        for (what, got, expected) in counts {
            expect(format!("the number of {what}"), got.to_string(), expected.to_string())?;
        }
        for (stored, layer) in self.layers.iter().zip(&architecture.layers) {
            let name = &layer.name;
            expect("the name of a layer".into(), stored.name.clone(), name.clone())?;
            let (shape, wanted) = (dimensions(&stored.weight.shape()), dimensions(&[layer.rows(), layer.columns()]));
            expect(format!("the shape of layer {name}"), shape, wanted)?;
            let biases = if layer.bias { layer.rows() } else { 0 };
            expect(format!("layer {name}: the number of biases"), stored.bias.len().to_string(), biases.to_string())?;
            if let StoredWeight::BlockSparse(bsr) = &stored.weight {
                let taps = bsr.pattern().taps();
                expect(format!("layer {name}: the taps of its blocks"), taps.to_string(), layer.taps().to_string())?;
            }
        }
        for (stored, norm) in parts.norms.iter().zip(&architecture.norms) {
            expect("the name of a normalisation".into(), stored.name.clone(), norm.name.clone())?;
            let parts =
                [("affine", &stored.affine, norm.affine_len()), ("running", &stored.running, norm.running_len())];
            for (part, values, expected) in parts {
                let what = format!("the number of values of {}.{part}", norm.name);
                expect(what, values.len().to_string(), expected.to_string())?;
            }
        }
        Ok(())
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

/// A layer's first values.
fn draw(architecture: &Architecture, layer: &WeightLayer, topology: Topology, fan_in: FanIn, seed: u64) -> StoredLayer {
    let (nrows, ncols) = (layer.rows(), layer.columns());
    let key = Key::new(seed).with_name("weight").with_name(&layer.name);
    let initializer = initializer(architecture, layer);
    let weight = match topology {
        Topology::Full => StoredWeight::Dense { nrows, ncols, values: initializer.dense(nrows, ncols, key) },
        Topology::Sparse(pattern) => {
            let values = initializer.sparse(&pattern, fan_in, key);
            StoredWeight::Sparse(Csr::new(pattern, values).expect("there is one value per entry"))
        }
        Topology::Blocks(pattern) => {
            let values = initializer.block_sparse(&pattern, fan_in, key);
            StoredWeight::BlockSparse(Bsr::new(pattern, values).expect("there is one value per entry"))
        }
    };
    // A label is there seldom: begun at a probability of one half each, the first hundreds of steps would learn that alone. The loss
    // begins as if samples had one label each (Lin et al. 2017, "Focal Loss", section 3.3: a prior for rare classes).
    let is_head = architecture.reads_lists() && architecture.layers.last() == Some(layer);
    let first = if is_head { -(nrows as f32).ln() } else { 0.0 };
    StoredLayer { name: layer.name.clone(), weight, bias: vec![first; if layer.bias { nrows } else { 0 }] }
}

/// As the network's first weights are drawn.
fn initializer(architecture: &Architecture, layer: &WeightLayer) -> Initializer {
    match (architecture.first_weights, layer.kind) {
        (FirstWeights::Glorot, _) => Initializer::XavierUniformConv { taps: layer.taps() },
        (FirstWeights::Recurrent, LayerKind::Embedding { .. }) => Initializer::Normal { deviation: 1.0 },
        (FirstWeights::Recurrent, _) => Initializer::FanInUniform,
        (FirstWeights::Transformer { layers }, _) => {
            let ends_branch = layer.name.ends_with(".output") || layer.name.ends_with(".down");
            let share = if ends_branch { (2.0 * layers as f32).sqrt().recip() } else { 1.0 };
            Initializer::Normal { deviation: 0.02 * share }
        }
        (_, LayerKind::Linear { outputs, .. }) if outputs == architecture.classes() => Initializer::SmallNormal,
        (FirstWeights::He, _) => Initializer::KaimingNormal,
        (FirstWeights::Lecun, _) => Initializer::LecunNormal,
    }
}

fn read_layer(
    checkpoint: &Checkpoint,
    layer: LayerDescription,
    bias: bool,
    taps: usize,
) -> Result<StoredLayer, CheckpointError> {
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
                    let pattern = BsrPattern::new(nrows, ncols, [r, c], row_offsets, col_indices)?.with_taps(taps)?;
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
    let bias = if bias { checkpoint.f32s(&format!("{name}.bias"))?.to_vec() } else { vec![] };
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
        let initialization = Initialization::new(format, Init::SparseFanIn, 3);
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
            let initialization = Initialization::new(format, Init::DenseFanIn, 3);
            StoredModel::random(&architecture, &densities, initialization).unwrap().layers[0].weight.to_dense()
        };
        let both = drawn(format).into_iter().zip(drawn(other)).filter(|&(a, b)| a != 0.0 && b != 0.0);
        let both: Vec<_> = both.collect();
        assert!(both.len() > 10 && both.iter().all(|(a, b)| a == b));
    }

    /// Blocks of channels: they survive a checkpoint, and a position has the value that it has in CSR.
    #[test]
    fn blocks_of_convolutions_survive_a_checkpoint() {
        let architecture = Architecture::of(&"wrn-10-1".parse().unwrap());
        let sizes = architecture.layers.iter().map(|layer| layer.size());
        let densities: Vec<_> = sizes.map(|size| LayerDensity { density: 0.5, nnz: size / 64 * 32, size }).collect();
        let drawn = |format| {
            let densities = architecture.layers.iter().zip(&densities).map(|(layer, density)| match format {
                Format::Bsr(size) if !layer.fits_blocks(size) => LayerDensity { nnz: density.size, ..*density },
                _ => *density,
            });
            let initialization = Initialization::new(format, Init::DenseFanIn, 3);
            StoredModel::random(&architecture, &densities.collect::<Vec<_>>(), initialization).unwrap()
        };
        let (blocks, csr) = (drawn(Format::Bsr([8, 4])), drawn(Format::Csr));
        assert_eq!(StoredModel::from_checkpoint(&blocks.to_checkpoint()).unwrap(), blocks);
        assert_eq!(
            (blocks.layers[0].weight.storage(), blocks.layers[1].weight.storage()),
            ("dense".into(), "bsr8x4".into())
        );
        for (a, b) in blocks.layers.iter().zip(&csr.layers) {
            let both = a.weight.to_dense().into_iter().zip(b.weight.to_dense()).filter(|&(a, b)| a != 0.0 && b != 0.0);
            let both: Vec<_> = both.collect();
            assert!(both.len() > 10 && both.iter().all(|(a, b)| a == b), "{}", a.name);
        }
    }

    #[test]
    fn every_normalization_survives_a_checkpoint() {
        let weight = StoredWeight::Dense { nrows: 1, ncols: 3, values: vec![0.5; 3] };
        let layer = StoredLayer { name: "fc1".to_owned(), weight, bias: vec![0.0] };
        for (normalization, image_size) in [
            (Normalization::Pixels { mean: 0.1 + 0.2, deviation: 1.0 / 3.0 }, None),
            (Normalization::Channels { mean: vec![0.1, 0.2, 0.3], deviation: vec![1.0 / 3.0; 3] }, Some(64)),
            (Normalization::PerImage, None),
        ] {
            let class_names = image_size.map(|_| vec!["cat".to_owned(), "dog".to_owned()]);
            let input = ModelInput { image_size, class_names, ..ModelInput::new("cifar10", normalization) };
            let model = StoredModel { input: Some(input), layers: vec![layer.clone()], parts: None };
            let bytes = model.to_checkpoint().to_bytes().unwrap();
            assert_eq!(StoredModel::from_checkpoint(&Checkpoint::from_bytes(&bytes).unwrap()).unwrap(), model);
        }
    }

    /// A header that names one layer many times makes no copies of it.
    #[test]
    fn layers_are_named_once_each() {
        let layer = |name: &str| {
            let weight = StoredWeight::Dense { nrows: 4, ncols: 4, values: vec![0.5; 16] };
            StoredLayer { name: name.to_owned(), weight, bias: vec![0.0; 4] }
        };
        let layers = vec![layer("fc1"), layer("fc2")];
        let mut model = StoredModel { input: None, layers, parts: None };
        assert_eq!(StoredModel::from_checkpoint(&model.to_checkpoint()).unwrap(), model);
        model.layers[1].name = "fc1".to_owned();
        let error = StoredModel::from_checkpoint(&model.to_checkpoint()).unwrap_err().to_string();
        assert_eq!(error, "the name of layer 2 is fc1, expected fc2");
    }
}
