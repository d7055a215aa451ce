//! A network on a backend: its parameters, and its forward pass.

use std::sync::Arc;

use autograd::{
    BatchNormLayer, DenseWeight, FeatureNormLayer, Geometry, ListWeight, Mode, ParameterId, Parameters, RecurrentState,
    RowTiles, Stored, Tape, Var, Weight,
};
use rigl::{LayerDensity, Layers, MethodError, WeightStorage};
use sparse_kernels::random::Key;
use sparse_kernels::{
    Attention, Backend, BackendError, BatchNormOptions, Bsr, ConvOptions, ConvShape, Csr, CsrPattern, FeatureNorm,
    Gelu, ImageLayout, Layout, NormKind, PlanOptions, StripLayout,
};

use super::architecture::Architecture;
use super::graph::{Cell, LayerKind, Node, NormOver, PoolKind, ValueShape};
use super::sparsification::{Format, Initialization};
use super::stored::{ModelInput, NetworkParts, StoredLayer, StoredModel, StoredNorm, StoredWeight};

use crate::data::{InputForm, LaneOrder, Sequences};
use crate::training::TrainingError;

/// One layer's parameters.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its name, see [`super::WeightLayer`].
    pub name: String,
    /// The weight matrix.
    pub weight: ParameterId,
    /// The bias.
    pub bias: Option<ParameterId>,
    /// Whether a ReLU follows at once.
    pub relu: bool,
    /// Whether it is a convolution.
    pub conv: bool,
    /// Whether the weight is stored sparse, in CSR or in blocks, or is to be once the method has pruned it. A layer that is to
    /// have all its weights is stored and multiplied dense, and no method changes it.
    pub sparse: bool,
    /// Weights that the distribution gives it, padding of blocks included.
    pub target_nnz: usize,
    /// The pattern of a layer that is still dense but will be sparse: every position.
    full: Option<Arc<CsrPattern>>,
}

impl Layer {
    /// Whether it has all its weights still, and will be sparse.
    pub fn is_still_dense(&self) -> bool {
        self.full.is_some()
    }
}

/// A network on a backend.
#[derive(Debug)]
pub struct Network<B: Backend> {
    /// What it is made of.
    pub architecture: Architecture,
    /// All its parameters.
    pub parameters: Parameters<B>,
    /// What it computes with them.
    pub body: Body,
}

/// A normalisation's parameters.
#[derive(Debug, Clone, Copy)]
pub enum Norm {
    /// Over a channel of a batch's images.
    Batch(BatchNormLayer),
    /// Over the features of each token.
    Features(FeatureNormLayer),
}

impl Norm {
    /// Scale and shift.
    pub fn affine(&self) -> ParameterId {
        match self {
            Self::Batch(norm) => norm.affine,
            Self::Features(norm) => norm.affine,
        }
    }

    fn of_features(affine: ParameterId, kind: NormKind) -> Self {
        // PyTorch's.
        let norm = FeatureNorm { kind, epsilon: 1e-5 };
        Self::Features(FeatureNormLayer { affine, norm })
    }

    /// The batch normalisation, if it is one.
    pub fn batch(&self) -> Option<&BatchNormLayer> {
        match self {
            Self::Batch(norm) => Some(norm),
            Self::Features(_) => None,
        }
    }
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

/// Lanes per strip for `lanes` samples of a network in which some linear layer is sparse, or none.
///
/// A wholly dense network keeps its batch in one strip, which is what GEMM likes best; the dense side of a comparison
/// is not to be slowed down by the sparse side's layout.
pub fn strip_of(any_sparse: bool, lanes: usize) -> usize {
    if any_sparse { StripLayout::SPARSE_STRIP } else { StripLayout::single(lanes, 0).strip() }
}

/// Of the angles by which rotary positions turn (Su et al. 2021, section 3.2.2).
const ROTARY_BASE: f32 = 10_000.0;

/// What a network computes, apart from the parameters' values.
#[derive(Debug, Clone)]
pub struct Body {
    /// Its layers with weights, in the order of the forward pass.
    pub layers: Vec<Layer>,
    /// Its normalisations, in the order of the forward pass.
    pub norms: Vec<Norm>,
    nodes: Vec<Node>,
    /// Features of each value that is features, of one lane; 0 of others.
    features: Vec<usize>,
    /// Of a network that reads tokens, which are neighbours in the lanes, and how many a sequence has.
    sequence: Option<(LaneOrder, usize)>,
    /// Of one sample: how the images of each value lie; none for features.
    images: Vec<Option<ImageLayout>>,
    /// How often each value is read.
    reads: Vec<usize>,
    input_features: usize,
    any_sparse_linear: bool,
    /// Whether it reads lists of features. Its last layer's outputs then are never there all at once.
    reads_lists: bool,
}

/// What a network reads.
#[derive(Debug)]
pub enum NetworkInput<'i, B: Backend> {
    /// Features or images.
    Values(Var),
    /// Tokens, one of each lane.
    Tokens {
        /// On the device.
        tokens: &'i Arc<B::Indices>,
        /// How they lie.
        sequences: Sequences,
        /// What recurrent layers begin with; afterwards, what they end with. It is made anew where it does not fit, and by
        /// sequences that do not continue.
        states: &'i mut States<B>,
    },
    /// Lists of features.
    Lists(Arc<Csr>),
}

/// What one shard of a batch begins with.
#[derive(Debug)]
pub struct ShardInput<'i, B: Backend> {
    /// The shard's number and its share of the batch, on a tape over shards.
    pub place: Option<(usize, f32)>,
    /// What the network reads.
    pub input: NetworkInput<'i, B>,
    /// What decides which activations are dropped.
    pub key: Key,
}

/// A forward pass under way.
struct Pass<'i, B: Backend> {
    place: Option<(usize, f32)>,
    input: NetworkInput<'i, B>,
    key: Key,
    lanes: usize,
    /// Recurrent layers that have run.
    recurrent: usize,
    values: Vec<Option<Var>>,
    /// Whether others read what a value stands in.
    shared: Vec<bool>,
    /// How often each value will still be read.
    reads: Vec<usize>,
    last: Option<Var>,
}

/// The states of a network's recurrent layers, in the order of the forward pass.
#[derive(Debug)]
pub struct States<B: Backend>(Vec<RecurrentState<B>>);

impl<B: Backend> Default for States<B> {
    fn default() -> Self {
        Self(vec![])
    }
}

impl<B: Backend> States<B> {
    /// Of each layer: the numbers of its state, feature by feature, of all sequences.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn download(&self, backend: &B) -> Result<Vec<Vec<f32>>, autograd::Error> {
        self.0.iter().map(|state| state.download(backend)).collect()
    }
}

impl<B: Backend> From<Var> for NetworkInput<'_, B> {
    fn from(values: Var) -> Self {
        Self::Values(values)
    }
}

impl Body {
    /// What a batch of `samples` inputs becomes.
    pub fn input_form(&self, samples: usize) -> InputForm {
        match self.sequence {
            None if self.reads_lists => InputForm::Lists,
            None => self.input_layout(samples).into(),
            Some((order, _)) => InputForm::Tokens { order, strip: self.unit() },
        }
    }

    /// The last layer of a network whose outputs are never there all at once.
    pub fn head(&self) -> Option<&Layer> {
        self.layers.last().filter(|_| self.reads_lists)
    }

    /// Whether it reads lists of features.
    pub fn reads_lists(&self) -> bool {
        self.reads_lists
    }

    /// How `samples` inputs lie, of a network that reads tokens.
    pub(crate) fn sequences(&self, samples: usize) -> Option<Sequences> {
        let (order, length) = self.sequence?;
        Some(Sequences::new(order, self.unit(), [samples, length], false))
    }

    /// What the lanes of a time step are a multiple of.
    pub(crate) fn unit(&self) -> usize {
        if self.any_sparse_linear { StripLayout::SPARSE_STRIP } else { StripLayout::STRIP_UNIT }
    }

    /// How a batch of `samples` inputs lies.
    pub fn input_layout(&self, samples: usize) -> Layout {
        match self.images[0] {
            Some(layout) => layout.with_samples(samples).into(),
            None => {
                let strip = strip_of(self.any_sparse_linear, samples);
                StripLayout::new(samples, self.input_features, strip).expect("a multiple of the unit").into()
            }
        }
    }

    /// Samples in a batch of an evaluation: what memory for images allows; of tokens, sequences.
    pub fn evaluation_batch(&self) -> usize {
        const FEATURES: usize = 512;
        const PIXELS: usize = 1 << 17;
        const TOKENS: usize = 1 << 13;
        if let Some((order, length)) = self.sequence {
            // A step of a recurrent network computes whole strips.
            let least = if order == LaneOrder::TimeMajor { StripLayout::SPARSE_STRIP } else { 1 };
            return (TOKENS / length.max(1)).max(least);
        }
        match self.images[0] {
            None => FEATURES,
            Some(layout) => (PIXELS / (layout.size()[0] * layout.size()[1]).max(1)).clamp(1, FEATURES),
        }
    }

    /// Whether it has recurrent layers, whose states go from one batch to the next.
    pub fn is_recurrent(&self) -> bool {
        self.cells().next().is_some()
    }

    /// How the lanes of one time step lie, of so many sequences.
    fn step_layout(&self, per_step: usize, features: usize) -> StripLayout {
        let strip = strip_of(self.any_sparse_linear, per_step);
        StripLayout::new(per_step, features, strip).expect("a multiple of the unit")
    }

    /// Zeros for sequences that begin.
    fn begin_states<B: Backend>(
        &self,
        backend: &B,
        sequences: Sequences,
        states: &mut States<B>,
    ) -> Result<(), autograd::Error> {
        let fits = |state: &RecurrentState<B>| state.layout().lanes() == sequences.per_step;
        if sequences.continues && !states.0.is_empty() && states.0.iter().all(fits) {
            return Ok(());
        }
        self.new_states(backend, sequences.per_step).map(|new| *states = new)
    }

    /// The states of sequences that begin.
    fn new_states<B: Backend>(&self, backend: &B, per_step: usize) -> Result<States<B>, autograd::Error> {
        let state = |(cell, width): (Cell, usize)| {
            let layout = self.step_layout(per_step, width);
            match cell {
                Cell::Gru => RecurrentState::gru(backend, layout),
                Cell::Lstm => RecurrentState::lstm(backend, layout),
            }
        };
        self.cells().map(state).collect::<Result<_, _>>().map(States)
    }

    /// Equations and width of each recurrent layer.
    fn cells(&self) -> impl Iterator<Item = (Cell, usize)> {
        self.nodes.iter().filter_map(|node| match *node {
            Node::Recurrent { cell, output, .. } => Some((cell, self.features[output])),
            _ => None,
        })
    }

    /// The states that [`States::download`] gave, for sequences that go on.
    ///
    /// # Errors
    /// If they are of another network, or the backend fails.
    pub fn upload_states<B: Backend>(&self, backend: &B, host: &[Vec<f32>]) -> Result<States<B>, autograd::Error> {
        let Some((values, (cell, width))) = host.first().zip(self.cells().next()) else { return Ok(States::default()) };
        let mut states = self.new_states(backend, values.len() / (width * cell.states()))?;
        for (state, values) in states.0.iter_mut().zip(host) {
            state.upload(backend, values)?;
        }
        Ok(states)
    }

    /// The forward pass from the network's input to the logits; of a network whose logits are never there all at once, to what its
    /// [`Body::head`] reads.
    ///
    /// With `dropout`, a share of what [`Node::Dropout`] reads is dropped in training; `key` decides which.
    ///
    /// # Errors
    /// If the input's shape is not the network's, or the backend fails.
    pub fn forward<B: Backend>(
        &self,
        backend: &B,
        tape: &mut Tape<'_, B>,
        input: NetworkInput<'_, B>,
        dropout: f32,
        key: Key,
    ) -> Result<Var, autograd::Error> {
        let logits = self.forward_shards(backend, tape, vec![ShardInput { place: None, input, key }], dropout)?;
        Ok(logits[0])
    }

    /// The forward pass of several shards of a batch, layer by layer, so that the backward pass makes the gradient of a layer
    /// whole before it goes on to the layer before. The logits of each shard.
    ///
    /// # Errors
    /// As [`Body::forward`].
    pub fn forward_shards<B: Backend>(
        &self,
        backend: &B,
        tape: &mut Tape<'_, B>,
        shards: Vec<ShardInput<'_, B>>,
        dropout: f32,
    ) -> Result<Vec<Var>, autograd::Error> {
        let mut passes = Vec::with_capacity(shards.len());
        for shard in shards {
            passes.push(self.begin(backend, tape, shard)?);
        }
        for node in &self.nodes {
            for pass in &mut passes {
                if let Some((shard, share)) = pass.place {
                    tape.shard(shard, share);
                }
                self.step(tape, node, pass, dropout)?;
            }
        }
        let no_logits =
            autograd::Error::Activations { op: "forward", got: "tokens", expected: "a layer that reads them" };
        passes.into_iter().map(|pass| pass.last.ok_or_else(|| no_logits.clone())).collect()
    }

    fn begin<'i, B: Backend>(
        &self,
        backend: &B,
        tape: &mut Tape<'_, B>,
        ShardInput { place, mut input, key }: ShardInput<'i, B>,
    ) -> Result<Pass<'i, B>, autograd::Error> {
        let lanes = match &input {
            NetworkInput::Values(x) => tape.layout(*x).samples(),
            NetworkInput::Tokens { sequences, .. } => sequences.lanes(),
            NetworkInput::Lists(lists) => lists.pattern().nrows(),
        };
        if let NetworkInput::Tokens { sequences, states, .. } = &mut input {
            self.begin_states(backend, *sequences, states)?;
        }
        let mut values: Vec<Option<Var>> = vec![None; self.images.len()];
        if let &NetworkInput::Values(x) = &input {
            values[0] = Some(x);
            if self.reads[0] > 1 {
                tape.keep(x);
            }
        }
        let shared = self.reads.iter().map(|&reads| reads > 1).collect();
        let reads = self.reads.clone();
        Ok(Pass { place, input, key, lanes, recurrent: 0, last: values[0], values, shared, reads })
    }

    /// One operation of a pass.
    fn step<B: Backend>(
        &self,
        tape: &mut Tape<'_, B>,
        node: &Node,
        pass: &mut Pass<'_, B>,
        dropout: f32,
    ) -> Result<(), autograd::Error> {
        let Pass { input, values, shared, recurrent, reads, .. } = pass;
        let (lanes, key) = (pass.lanes, pass.key);
        let strip = strip_of(self.any_sparse_linear, lanes);
        let get = |value: usize| values[value].expect("nodes stand in an order in which they can run");
        let image = |value: usize| self.images[value].expect("what makes images has their layout");
        let (output, y) = match *node {
            Node::Layer { layer, input: value, output } if value == 0 && self.reads_lists => {
                let NetworkInput::Lists(lists) = &*input else {
                    return Err(autograd::Error::Activations { op: "forward", got: "values", expected: "lists" });
                };
                let Layer { weight, bias, relu, .. } = &self.layers[layer];
                debug_assert!(bias.is_some() || !relu, "a ReLU is fused with a bias");
                let layout = StripLayout::new(lanes, 0, strip).expect("a multiple of the unit");
                let y = tape.apply_lists(*weight, lists, layout)?;
                (output, bias.map_or(Ok(y), |bias| tape.bias_relu(bias, *relu, y))?)
            }
            // Made with its loss, tile by tile.
            Node::Layer { layer, .. } if self.reads_lists && layer + 1 == self.layers.len() => return Ok(()),
            Node::Layer { layer, input, output } => {
                let (Layer { weight, bias, relu, .. }, x) = (&self.layers[layer], get(input));
                let y = match bias {
                    Some(bias) => tape.apply_bias_relu(*weight, *bias, *relu, x)?,
                    None => tape.apply(*weight, x)?,
                };
                (output, y)
            }
            Node::Norm { norm, input, residual, output } => {
                let y = match (self.norms[norm], residual) {
                    (Norm::Batch(norm), Some(residual)) => {
                        tape.batch_norm_add(norm, get(input), get(residual), image(output))?
                    }
                    (Norm::Batch(norm), None) => tape.batch_norm(norm, get(input), image(output))?,
                    (Norm::Features(norm), _) => tape.feature_norm(norm, get(input))?,
                };
                (output, y)
            }
            Node::AddNorm { norm, input, addend, sum, output } => {
                let (input, addend) = (get(input), get(addend));
                let (of_both, y) = match self.norms[norm] {
                    Norm::Batch(norm) => tape.add_batch_norm(norm, input, addend, image(output))?,
                    Norm::Features(norm) => tape.add_feature_norm(norm, input, addend)?,
                };
                if self.reads[sum] > 1 {
                    tape.keep(of_both);
                }
                values[sum] = Some(of_both);
                (output, y)
            }
            Node::Recurrent { cell, layer, input: gates, output } => {
                let NetworkInput::Tokens { states, .. } = input else { return Err(no_tokens(cell.name())) };
                let Layer { weight, bias, .. } = &self.layers[layer];
                let bias = bias.expect("the state of a recurrent layer has a bias");
                let state = &mut states.0[*recurrent];
                *recurrent += 1;
                let y = match cell {
                    Cell::Gru => tape.gru(*weight, bias, get(gates), state)?,
                    Cell::Lstm => tape.lstm(*weight, bias, get(gates), state)?,
                };
                (output, y)
            }
            Node::Gelu { input, output } => (output, tape.gelu(Gelu::Tanh, get(input))?),
            Node::Attention { heads, rotary, query, key, value, output } => {
                let NetworkInput::Tokens { sequences, .. } = &*input else { return Err(no_tokens("attention")) };
                let rotary = rotary.then_some(ROTARY_BASE);
                let attention = Attention { heads, length: sequences.length, rotary };
                (output, tape.attention(attention, get(query), get(key), get(value))?)
            }
            Node::Embed { layer, positions, output, .. } => {
                let NetworkInput::Tokens { tokens, .. } = &*input else { return Err(no_tokens("embed")) };
                let layout = StripLayout::new(lanes, self.features[output], strip).expect("a multiple of the unit");
                let table = |layer: usize| self.layers[layer].weight;
                (output, tape.embed(table(layer), positions.map(table), tokens, layout)?)
            }
            Node::Pool { kind, window, input, output } => {
                let (x, layout) = (get(input), image(output));
                let y = match kind {
                    PoolKind::Max => tape.max_pool(window, x, layout)?,
                    PoolKind::Average => tape.avg_pool(window, x, layout)?,
                };
                (output, y)
            }
            Node::GlobalAveragePool { input, output } => (output, tape.global_avg_pool(get(input), strip)?),
            Node::Flatten { input, output } => (output, tape.flatten(get(input), strip)?),
            Node::Dropout { ref name, input, output } => {
                let drops = tape.mode() == Mode::Training && dropout > 0.0;
                let x = if drops { to_overwrite(tape, get(input), shared[input], true)? } else { get(input) };
                shared[output] |= shared[input] && !drops;
                (output, tape.dropout(key.with_name(name), dropout, x)?)
            }
            Node::Add { input, addend, output } => {
                let x = to_overwrite(tape, get(input), shared[input], false)?;
                (output, tape.add(x, get(addend))?)
            }
            Node::Concat { ref inputs, output } => {
                let xs: Vec<_> = inputs.iter().map(|&input| get(input)).collect();
                (output, tape.concat(&xs, image(output))?)
            }
            Node::Relu { input, output } => {
                let x = to_overwrite(tape, get(input), shared[input], false)?;
                (output, tape.relu(x)?)
            }
        };
        if self.reads[output] > 1 {
            tape.keep(y);
        }
        values[output] = Some(y);
        for read in node.inputs() {
            reads[read] -= 1;
            // Without dropout, what it reads and makes is one, under two numbers.
            let Some(var) = values[read] else { continue };
            if !values.iter().zip(&*reads).any(|(value, &reads)| reads > 0 && *value == Some(var)) {
                tape.forget(var);
            }
        }
        pass.last = Some(y);
        Ok(())
    }
}

fn no_tokens(op: &'static str) -> autograd::Error {
    autograd::Error::Activations { op, got: "values", expected: "tokens" }
}

/// `x`, or a copy of it if other operations need it: for one that works in place, and leaves at best the sign as it is.
fn to_overwrite<B: Backend>(
    tape: &mut Tape<'_, B>,
    x: Var,
    shared: bool,
    keeps_sign: bool,
) -> Result<Var, autograd::Error> {
    if shared || !tape.may_overwrite(x, keeps_sign) { tape.copy(x) } else { Ok(x) }
}

/// Features of a lane of a value that has such.
fn features_of(shape: &ValueShape) -> usize {
    match *shape {
        ValueShape::Features(features) => features,
        ValueShape::Token(_) | ValueShape::List(_) | ValueShape::Image { .. } => 0,
    }
}

/// Of a network that reads tokens, which are neighbours in the lanes, and how many a sequence has.
fn sequence_of(architecture: &Architecture) -> Option<(LaneOrder, usize)> {
    let family = architecture.spec.name.sequence()?;
    Some((family.order(), architecture.spec.sequence.as_ref()?.length))
}

/// Whether a gradient is asked for each value: not of the network's input, nor of what is made of it without anything that
/// learns.
fn asks_gradient(architecture: &Architecture) -> Vec<bool> {
    let graph = &architecture.graph;
    let mut asks = vec![false; graph.values.len()];
    for node in &graph.nodes {
        let learns = node.layer().is_some() || matches!(node, Node::Norm { .. } | Node::AddNorm { .. });
        let asked = learns || node.inputs().into_iter().any(|input| asks[input]);
        asks[node.output()] = asked;
        if let &Node::AddNorm { input, addend, sum, .. } = node {
            asks[sum] = asks[input] || asks[addend];
        }
    }
    asks
}

impl<B: Backend> Network<B> {
    /// A network with the weights that [`StoredModel::random`] draws, for batches of `batch_size` samples.
    ///
    /// # Errors
    /// If a pattern is impossible or the backend is out of memory.
    pub fn new(
        backend: &B,
        architecture: &Architecture,
        densities: &[LayerDensity],
        initialization: Initialization,
        batch_size: usize,
    ) -> crate::Result<Self> {
        Ok(Self::from_stored(backend, StoredModel::random(architecture, densities, initialization)?, batch_size)?)
    }

    /// The network of a stored model, for batches of `batch_size` samples: images lie in strips that suit so many, and take
    /// other batches too.
    ///
    /// # Errors
    /// If its layers do not fit each other ([`StoredModel::check`]), the backend has no convolutions in blocks, or no room.
    pub fn from_stored(backend: &B, model: StoredModel, batch_size: usize) -> Result<Self, TrainingError> {
        model.check()?;
        let architecture = model.architecture()?;
        let norms = model.parts.as_ref().map_or(&[][..], |parts| &parts.norms);
        let weight = |layer: usize, geometry| {
            let stored = &model.layers[layer].weight;
            let kind = kind_of(&architecture, layer);
            Ok((weight_of(backend, geometry, kind, stored)?, stored.is_sparse(), stored.nnz()))
        };
        let vector = |vector| {
            let stored = match vector {
                Vector::Bias(layer) => &model.layers[layer].bias,
                Vector::Affine(norm) => &norms[norm].affine,
                Vector::Running(norm) => &norms[norm].running,
            };
            backend.uploaded(stored)
        };
        Self::assembled(backend, architecture.clone(), batch_size, weight, vector)
    }

    /// A network of zeros with all its weights, whose activations lie as if some linear layer were sparse, or none: for a backend on
    /// which buffers cost nothing.
    ///
    /// # Errors
    /// As [`Network::from_stored`].
    pub(crate) fn blank(
        backend: &B,
        architecture: &Architecture,
        any_sparse_linear: bool,
        batch_size: usize,
    ) -> Result<Self, TrainingError> {
        let layers = &architecture.layers;
        let weight = |layer: usize, geometry| {
            let values = backend.zeros(layers[layer].size())?;
            let weight = new_weight(backend, geometry, kind_of(architecture, layer), Stored::Dense, values)?;
            Ok((weight, false, layers[layer].size()))
        };
        let vector = |vector| match vector {
            Vector::Bias(layer) => backend.zeros(layers[layer].rows()),
            Vector::Affine(norm) => backend.zeros(architecture.norms[norm].affine_len()),
            Vector::Running(norm) => backend.zeros(architecture.norms[norm].running_len()),
        };
        let mut network = Self::assembled(backend, architecture.clone(), batch_size, weight, vector)?;
        network.body.any_sparse_linear = any_sparse_linear;
        Ok(network)
    }

    /// A network of weights, each with whether it is sparse and how many it stores, and of vectors.
    fn assembled(
        backend: &B,
        architecture: Architecture,
        batch_size: usize,
        weight: impl Fn(usize, Geometry) -> Result<(Box<dyn Weight<B>>, bool, usize), TrainingError>,
        vector: impl Fn(Vector) -> Result<B::Buffer, BackendError>,
    ) -> Result<Self, TrainingError> {
        let images = image_layouts(backend, &architecture, batch_size)?;
        let asks_gradient = asks_gradient(&architecture);
        let mut parameters = Parameters::new();
        let (mut layers, mut any_sparse_linear) = (Vec::new(), false);
        for (i, layer) in architecture.layers.iter().enumerate() {
            let name = layer.name.clone();
            let ends = ends(&architecture, i);
            // The state of a recurrent layer and the embedding that a last layer shares ask for gradients.
            let input_grad = ends.is_none_or(|(input, _)| asks_gradient[input]);
            let parameter = format!("{name}.weight");
            let conv = matches!(layer.kind, LayerKind::Conv { .. });
            let geometry = match layer.kind {
                LayerKind::Linear { inputs, outputs } => {
                    let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: input_grad };
                    Geometry::Linear { nrows: outputs, ncols: inputs, options }
                }
                LayerKind::Embedding { symbols, features } => {
                    let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: input_grad };
                    Geometry::Linear { nrows: symbols, ncols: features, options }
                }
                LayerKind::Conv { shape, .. } => {
                    let (input, output) = ends.expect("a convolution joins two values");
                    let layout = |value: usize| images[value].expect("a convolution joins images");
                    let options = ConvOptions { x: layout(input), y: layout(output), input_grad };
                    Geometry::Conv { shape, options }
                }
            };
            let (weight, sparse, target_nnz) = weight(i, geometry)?;
            any_sparse_linear |= sparse && matches!(layer.kind, LayerKind::Linear { .. });
            let weight = parameters.add_weight(parameter, weight);
            let bias = match layer.bias {
                true => Some(parameters.add_vector(format!("{name}.bias"), vector(Vector::Bias(i))?)),
                false => None,
            };
            layers.push(Layer { name, weight, bias, relu: layer.relu, conv, sparse, target_nnz, full: None });
        }
        let mut norms = Vec::new();
        for (i, layer) in architecture.norms.iter().enumerate() {
            let name = &layer.name;
            let affine = parameters.add_vector(format!("{name}.affine"), vector(Vector::Affine(i))?);
            norms.push(match layer.over {
                NormOver::Batch => {
                    let running = vector(Vector::Running(i))?;
                    let running = parameters.add_statistics(format!("{name}.running"), running);
                    let (options, activation) = (BatchNormOptions::default(), layer.activation());
                    Norm::Batch(BatchNormLayer { affine, running, options, activation })
                }
                NormOver::Features => Norm::of_features(affine, NormKind::Layer),
                NormOver::RootMeanSquare => Norm::of_features(affine, NormKind::Rms),
            });
        }
        let mut reads = vec![0; architecture.graph.values.len()];
        architecture.graph.nodes.iter().for_each(|node| node.inputs().into_iter().for_each(|value| reads[value] += 1));
        let body = Body {
            layers,
            norms,
            nodes: architecture.graph.nodes.clone(),
            images,
            features: architecture.graph.values.iter().map(features_of).collect(),
            sequence: sequence_of(&architecture),
            reads,
            input_features: architecture.inputs(),
            any_sparse_linear,
            reads_lists: architecture.reads_lists(),
        };
        Ok(Self { architecture, parameters, body })
    }

    /// Moves the running moments of batch normalisations towards those that the last pass over shards has found.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn move_running(&mut self, backend: &B) -> Result<(), autograd::Error> {
        for norm in self.body.norms.iter().filter_map(Norm::batch) {
            self.parameters.move_running(backend, norm.running, norm.options.momentum)?;
        }
        Ok(())
    }

    /// Lets a method have the network that stores its weights like this and is to have so many in each layer. Optimizer slots
    /// are made after this. With [`WeightStorage::Latent`] the weights behind sparse layers are those of `latent`, which has
    /// the whole network dense.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn prepare_for(
        &mut self,
        backend: &B,
        storage: WeightStorage,
        targets: &[usize],
        latent: Option<&StoredModel>,
    ) -> Result<(), TrainingError> {
        for (i, &target) in targets.iter().enumerate() {
            let (layer, described) = (&mut self.body.layers[i], &self.architecture.layers[i]);
            layer.target_nnz = target;
            if target >= described.size() {
                continue;
            }
            let is_sparse = self.parameters.topology(backend, layer.weight).is_some();
            if storage == WeightStorage::DenseFirst {
                layer.sparse = true;
                self.body.any_sparse_linear |= !layer.conv;
                let full = || CsrPattern::full(described.rows(), described.columns()).map(Arc::new);
                layer.full = (!is_sparse).then(full).transpose().map_err(BackendError::from)?;
            }
            if let (true, Some(latent)) = (is_sparse, latent) {
                let values = backend.uploaded(&latent.layers[i].weight.to_dense())?;
                self.parameters.make_latent(backend, layer.weight, values)?;
            }
        }
        Ok(())
    }

    /// Gives a sparse layer a new topology.
    ///
    /// # Errors
    /// If the update does not fit the layer, or the backend fails.
    pub fn apply(&mut self, backend: &B, update: rigl::LayerUpdate) -> Result<(), TrainingError> {
        let rigl::LayerUpdate { layer, pattern, map, values } = update;
        let Layer { weight, full, .. } = &mut self.body.layers[layer];
        match full.take() {
            Some(full) if Arc::ptr_eq(&full, &pattern) => self.body.layers[layer].full = Some(full),
            Some(_) => self.parameters.sparsify(backend, *weight, pattern)?,
            None if self.parameters.topology(backend, *weight).is_some_and(|old| Arc::ptr_eq(old, &pattern)) => {}
            None => self.parameters.replace_pattern(backend, *weight, pattern, &map)?,
        }
        match values {
            Some(values) => Ok(self.parameters.upload_values(backend, self.body.layers[layer].weight, &values)?),
            None => Ok(()),
        }
    }

    /// Gives the layer of this number another topology, whose weights are still to be set.
    ///
    /// # Errors
    /// If it is of another shape, or the backend fails.
    pub fn replace_topology(
        &mut self,
        backend: &B,
        layer: usize,
        topology: Arc<CsrPattern>,
    ) -> Result<(), TrainingError> {
        let Layer { weight, full, .. } = &mut self.body.layers[layer];
        let map = vec![u32::MAX; topology.nnz()];
        match full.take() {
            Some(_) => self.parameters.sparsify(backend, *weight, topology)?,
            None => self.parameters.replace_pattern(backend, *weight, topology, &map)?,
        }
        Ok(())
    }

    /// How the outputs of a batch of `samples` lie.
    pub fn output_layout(&self, samples: usize) -> StripLayout {
        let strip = strip_of(self.body.any_sparse_linear, samples);
        StripLayout::new(samples, self.architecture.classes(), strip).expect("a multiple of the unit")
    }

    /// The weights, on the host.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn to_stored(&self, backend: &B, input: Option<ModelInput>) -> Result<StoredModel, TrainingError> {
        let mut layers = Vec::with_capacity(self.body.layers.len());
        for (Layer { name, weight, bias, .. }, layer) in self.body.layers.iter().zip(&self.architecture.layers) {
            let values = self.parameters.download_stored(backend, *weight)?;
            let weight = self.weight(*weight);
            let weight = match (weight.pattern(backend), weight.block_pattern(backend)) {
                (Some(pattern), _) => {
                    StoredWeight::Sparse(Csr::new(pattern.clone(), values).map_err(BackendError::from)?)
                }
                (_, Some(pattern)) => {
                    StoredWeight::BlockSparse(Bsr::new(pattern.clone(), values).map_err(BackendError::from)?)
                }
                _ => StoredWeight::Dense { nrows: layer.rows(), ncols: layer.columns(), values },
            };
            let bias = bias.map(|bias| self.parameters.download_values(backend, bias)).transpose()?;
            layers.push(StoredLayer { name: name.clone(), weight, bias: bias.unwrap_or_default() });
        }
        let parts = match self.architecture.is_mlp() {
            true => None,
            false => {
                let norm = |(norm, layer): (&Norm, &super::NormLayer)| -> Result<_, TrainingError> {
                    let values = |id| self.parameters.download_values(backend, id);
                    let running = norm.batch().map(|norm| values(norm.running)).transpose()?;
                    let (name, affine) = (layer.name.clone(), values(norm.affine())?);
                    Ok(StoredNorm { name, affine, running: running.unwrap_or_default() })
                };
                let norms = self.body.norms.iter().zip(&self.architecture.norms).map(norm);
                Some(NetworkParts { spec: self.architecture.spec.clone(), norms: norms.collect::<Result<_, _>>()? })
            }
        };
        Ok(StoredModel { input, layers, parts })
    }

    /// A layer's weight.
    pub fn weight(&self, id: ParameterId) -> &dyn Weight<B> {
        self.parameters.get(id).value().weight().expect("the parameter of a layer is a weight")
    }

    /// How a layer's weight is stored: `dense`, or a [`Format`].
    pub fn storage(&self, backend: &B, layer: &Layer) -> String {
        match self.parameters.block_pattern(backend, layer.weight) {
            Some(pattern) => Format::Bsr(pattern.block_size()).to_string(),
            None if self.parameters.pattern(backend, layer.weight).is_some() => Format::Csr.to_string(),
            None => "dense".to_owned(),
        }
    }

    /// Stored weights of each layer, padding of blocks included.
    pub fn layer_nnz(&self, backend: &B) -> Vec<usize> {
        let nnz = |layer: &Layer| backend.len(self.weight(layer.weight).stored());
        self.body.layers.iter().map(nnz).collect()
    }

    /// Density of each layer as it is now.
    pub fn densities(&self, backend: &B) -> Vec<LayerDensity> {
        let of = |(nnz, size): (usize, usize)| LayerDensity { density: nnz as f64 / size as f64, nnz, size };
        let sizes = self.architecture.layers.iter().map(|layer| layer.size());
        self.layer_nnz(backend).into_iter().zip(sizes).map(of).collect()
    }

    /// Stored weights and positions of the whole network.
    pub fn cost(&self, backend: &B) -> WeightCount {
        WeightCount { nnz: self.layer_nnz(backend).iter().sum(), size: self.architecture.size() }
    }

    /// The sparse layers, as methods see them.
    pub fn sparse_layers<'n>(&'n self, backend: &'n B) -> SparseLayers<'n, B> {
        let numbers = (0..self.body.layers.len()).filter(|&number| self.body.layers[number].sparse).collect();
        SparseLayers { backend, network: self, numbers }
    }
}

/// A vector of a network: a layer's bias, or what a normalisation has.
enum Vector {
    Bias(usize),
    Affine(usize),
    Running(usize),
}

/// What a layer multiplies, and how its outputs are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WeightKind {
    /// Activations, all outputs at once.
    Whole,
    /// Lists of features.
    OfLists,
    /// Activations, outputs tile by tile.
    InTiles,
}

fn kind_of(architecture: &Architecture, layer: usize) -> WeightKind {
    match layer {
        0 if architecture.reads_lists() => WeightKind::OfLists,
        _ if architecture.reads_lists() && layer + 1 == architecture.layers.len() => WeightKind::InTiles,
        _ => WeightKind::Whole,
    }
}

/// A stored weight on the backend.
fn weight_of<B: Backend>(
    backend: &B,
    geometry: Geometry,
    kind: WeightKind,
    weight: &StoredWeight,
) -> Result<Box<dyn Weight<B>>, TrainingError> {
    let stored = match weight {
        StoredWeight::Sparse(csr) => Stored::Csr(csr.pattern().clone()),
        StoredWeight::BlockSparse(bsr) => Stored::Blocks(bsr.pattern().clone()),
        StoredWeight::Dense { .. } => Stored::Dense,
    };
    new_weight(backend, geometry, kind, stored, backend.uploaded(weight.values())?)
}

fn new_weight<B: Backend>(
    backend: &B,
    geometry: Geometry,
    kind: WeightKind,
    stored: Stored,
    values: B::Buffer,
) -> Result<Box<dyn Weight<B>>, TrainingError> {
    Ok(match (kind, stored) {
        (WeightKind::OfLists, stored) => Box::new(ListWeight::new(backend, geometry, stored, values)?),
        (WeightKind::InTiles, stored) => Box::new(RowTiles::new(backend, geometry, stored, values)?),
        (WeightKind::Whole, Stored::Csr(pattern)) => geometry.csr(backend, pattern, values)?,
        (WeightKind::Whole, Stored::Blocks(pattern)) => geometry.blocks(backend, pattern, values)?,
        (WeightKind::Whole, Stored::Dense) => Box::new(DenseWeight::new(backend, values, geometry)?),
    })
}

/// Input and output of a layer that is multiplied by a value.
fn ends(architecture: &Architecture, index: usize) -> Option<(usize, usize)> {
    architecture.graph.nodes.iter().find_map(|node| match *node {
        Node::Layer { layer, input, output } if layer == index => Some((input, output)),
        _ => None,
    })
}

/// The strip of networks with depthwise and other convolutions: measured in `docs/kernels.md`.
const MIXED_STRIP: usize = 16;

/// How the images of each value lie, of one sample. One strip for the whole network; borders as wide as the widest that a
/// convolution needs of a value, and equal where operations can then work in place.
fn image_layouts<B: Backend>(
    backend: &B,
    architecture: &Architecture,
    batch_size: usize,
) -> Result<Vec<Option<ImageLayout>>, TrainingError> {
    let graph = &architecture.graph;
    let asks_gradient = asks_gradient(architecture);
    let mut borders = vec![0; graph.values.len()];
    for (i, layer) in architecture.layers.iter().enumerate() {
        if let LayerKind::Conv { shape, size, .. } = layer.kind {
            let [of_x, of_y] = shape.borders(size).map_err(BackendError::from)?;
            let Some((input, output)) = ends(architecture, i) else { continue };
            borders[input] = of_x.max(borders[input]);
            borders[output] = if asks_gradient[input] { of_y } else { 0 }.max(borders[output]);
        }
    }
    // Until nothing changes, since a value may be joined to others on both sides.
    let mut changes = true;
    while changes {
        changes = false;
        for node in &graph.nodes {
            let joined = match *node {
                Node::Norm { input, residual: None, output, .. } => vec![input, output],
                Node::Norm { input, residual: Some(residual), .. } => vec![input, residual],
                Node::AddNorm { input, addend, sum, output, .. } => vec![input, addend, sum, output],
                Node::Dropout { input, output, .. } | Node::Relu { input, output } => vec![input, output],
                Node::Add { input, addend, output } => vec![input, addend, output],
                _ => continue,
            };
            let widest = joined.iter().map(|&value| borders[value]).max().unwrap_or(0);
            for value in joined {
                changes |= borders[value] != widest;
                borders[value] = widest;
            }
        }
    }
    let shapes = architecture.layers.iter().filter_map(|layer| match layer.kind {
        LayerKind::Conv { shape, .. } => Some(shape),
        LayerKind::Linear { .. } | LayerKind::Embedding { .. } => None,
    });
    // Where depthwise convolutions like wide strips and the others narrow ones, something between.
    let (of_depthwise, of_others): (Vec<_>, Vec<_>) = shapes.partition(ConvShape::is_depthwise);
    let [depthwise, others] =
        [of_depthwise, of_others].map(|shapes| shapes.first().map(|&shape| backend.image_strip(shape, batch_size)));
    let strip = match (depthwise, others) {
        (Some(wide), Some(narrow)) => wide.min(MIXED_STRIP).max(narrow),
        (one, other) => one.or(other).unwrap_or(1),
    };
    let layout = |(shape, border): (&ValueShape, usize)| match *shape {
        ValueShape::Features(_) | ValueShape::Token(_) | ValueShape::List(_) => Ok(None),
        ValueShape::Image { channels, size } => ImageLayout::new(1, channels, size, border, strip).map(Some),
    };
    let layouts = graph.values.iter().zip(borders).map(layout).collect::<Result<_, _>>();
    Ok(layouts.map_err(BackendError::from)?)
}

/// The layers whose topology a method manages. Of a block-sparse layer it sees the blocks, see [`Layers`].
#[derive(Debug)]
pub struct SparseLayers<'n, B: Backend> {
    backend: &'n B,
    network: &'n Network<B>,
    numbers: Vec<usize>,
}

impl<B: Backend> Layers for SparseLayers<'_, B> {
    fn numbers(&self) -> &[usize] {
        &self.numbers
    }

    fn name(&self, layer: usize) -> &str {
        &self.network.body.layers[layer].name
    }

    fn pattern(&self, layer: usize) -> &Arc<CsrPattern> {
        let layer = &self.network.body.layers[layer];
        let pattern = self.network.parameters.topology(self.backend, layer.weight).or(layer.full.as_ref());
        pattern.expect("layers are listed here if they are sparse, or will be")
    }

    fn values(&self, layer: usize) -> Result<Vec<f32>, BackendError> {
        let weight = self.network.weight(self.network.body.layers[layer].weight);
        let values = self.backend.downloaded(weight.stored())?;
        match weight.block_pattern(self.backend) {
            Some(pattern) => Ok(pattern.block_norms(&values)?),
            None => Ok(values),
        }
    }

    fn target_nnz(&self, layer: usize) -> usize {
        let Layer { weight, target_nnz, .. } = &self.network.body.layers[layer];
        let block = self.network.parameters.block_pattern(self.backend, *weight);
        *target_nnz / block.map_or(1, |pattern| pattern.block_size().iter().product())
    }

    fn gradient(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        let Layer { name, weight, .. } = &self.network.body.layers[layer];
        let gradient = self.network.parameters.download_gradient(self.backend, *weight).map_err(of_backend)?;
        let gradient = gradient.ok_or_else(|| MethodError::Missing { layer: name.clone(), what: "gradient" })?;
        match self.network.parameters.block_pattern(self.backend, *weight) {
            Some(pattern) => Ok(pattern.block_norms(&gradient).map_err(BackendError::from)?),
            None => Ok(gradient),
        }
    }

    fn dense_gradient(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        let Layer { name, weight, .. } = &self.network.body.layers[layer];
        let gradient = self.network.parameters.download_dense_gradient(self.backend, *weight).map_err(of_backend)?;
        gradient.ok_or_else(|| MethodError::Missing { layer: name.clone(), what: "dense gradient" })
    }

    fn latent_values(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        let Layer { name, weight, .. } = &self.network.body.layers[layer];
        if !self.network.weight(*weight).is_latent() {
            return Err(MethodError::Missing { layer: name.clone(), what: "latent weight" });
        }
        self.network.parameters.download_values(self.backend, *weight).map_err(of_backend)
    }
}

/// What a download of something that is there can fail with.
fn of_backend(error: autograd::Error) -> MethodError {
    match error {
        autograd::Error::Backend(error) => error.into(),
        error => unreachable!("downloads fail if the backend does: {error}"),
    }
}
