//! How a network's architecture is put together, one operation after the other.

use std::collections::BTreeSet;

use rigl::Padding;
use sparse_kernels::{ConvShape, PoolShape, ShapeError};

use super::ModelSpec;
use super::architecture::Architecture;
use super::build_error::{BuildError, LARGEST_NETWORK, LARGEST_VALUE, LONGEST_NAME, is_name};
use super::family::FirstWeights;
use super::graph::{
    Cell, Graph, LayerKind, Masking, Node, NormLayer, NormOver, PoolKind, ValueId, ValueShape, WeightLayer,
};

/// Puts a network together, one operation after the other: each reads values and makes one. The last one's are the logits.
///
/// A small convolutional network, made, trained for a step, saved and loaded:
///
/// ```
/// use sparse_kernels::cpu::Cpu;
/// use trainer::models::{Builder, Conv, Network, StoredModel};
/// use trainer::settings::TrainConfig;
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("model.safetensors");
/// let mut net = Builder::images("small-cnn", 1, [28, 28], 10);
/// let x = net.conv("conv1", Conv::new(8, 3).bias().relu(), net.input())?;
/// let x = net.max_pool(2, x)?;
/// let x = net.conv("conv2", Conv::new(16, 3).stride(2), x)?;
/// let x = net.norm_relu("bn2", x)?;
/// let x = net.global_average_pool(x)?;
/// net.linear("fc", 10, false, x)?;
/// let net = net.finish()?;
///
/// let config = TrainConfig { density: 0.2, ..TrainConfig::default() };
/// let densities = config.sparsification().solve(&net)?;
/// let cpu = Cpu::new(1, None)?;
/// let network = Network::new(&cpu, &net, &densities, config.initialization(), 4)?;
/// let layout = network.body.input_layout(4);
/// let mut trainer = config.trainer(&cpu, network, 100)?;
/// trainer.train_batch(layout, &vec![0.5; 4 * 784], &[3, 1, 4, 1])?;
/// trainer.network.to_stored(&cpu, None)?.save(&path)?;
/// assert_eq!(StoredModel::load(&path)?.architecture()?, net);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Builder {
    pub(super) spec: ModelSpec,
    /// Of layers to come.
    pub masking: Masking,
    /// How first weights are drawn.
    pub first_weights: FirstWeights,
    layers: Vec<WeightLayer>,
    norms: Vec<NormLayer>,
    values: Vec<ValueShape>,
    nodes: Vec<Node>,
    names: BTreeSet<String>,
    size: usize,
}

/// A convolution to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv {
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    groups: usize,
    counted_as: Padding,
    bias: bool,
    relu: bool,
}

impl Conv {
    /// A square kernel of stride 1 and without bias, padded by half its side: the size stays if that is odd.
    pub fn new(outputs: usize, kernel: usize) -> Self {
        let conv = Self {
            outputs,
            kernel,
            stride: 1,
            padding: 0,
            groups: 1,
            counted_as: Padding::Same,
            bias: false,
            relu: false,
        };
        conv.padding(kernel / 2)
    }

    /// With pixels from one application of the kernel to the next.
    #[must_use]
    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    /// With channels in groups, each convolved by itself.
    #[must_use]
    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// With zeros on each side.
    #[must_use]
    pub fn padding(self, padding: usize) -> Self {
        let counted_as = match padding {
            _ if self.kernel % 2 == 1 && padding == self.kernel / 2 => Padding::Same,
            0 => Padding::Valid,
            _ => Padding::Explicit { total: padding.saturating_mul(2) },
        };
        Self { padding, counted_as, ..self }
    }

    /// Without padding.
    #[must_use]
    pub fn valid(self) -> Self {
        Self { counted_as: Padding::Valid, ..self.padding(0) }
    }

    /// With a bias.
    #[must_use]
    pub fn bias(self) -> Self {
        Self { bias: true, ..self }
    }

    /// With a ReLU behind it.
    #[must_use]
    pub fn relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// With another padding where operations are counted: that of the paper's code, say.
    #[must_use]
    pub fn counted_as(self, counted_as: Padding) -> Self {
        Self { counted_as, ..self }
    }

    /// Counted with a padding layer before it, as the paper's code has it before strided convolutions.
    pub(super) fn padded_apart(self) -> Self {
        let total = if self.kernel == 7 { 6 } else { 1 };
        let counted_as = if self.stride > 1 { Padding::Explicit { total } } else { self.counted_as };
        Self { counted_as, ..self }
    }
}

fn check_value(layer: &str, shape: ValueShape) -> Result<(), BuildError> {
    let elements = match shape {
        ValueShape::Token(symbols) => Some(symbols),
        ValueShape::List(features) => Some(features),
        ValueShape::Features(features) => Some(features),
        ValueShape::Image { channels, size: [height, width] } => {
            channels.checked_mul(height).and_then(|rows| rows.checked_mul(width))
        }
    };
    match elements {
        Some(0) => Err(BuildError::Empty { layer: layer.to_owned() }),
        Some(elements) if elements <= LARGEST_VALUE => Ok(()),
        _ => Err(BuildError::LargeValue { layer: layer.to_owned(), shape }),
    }
}

/// Sides, strides and paddings must be of a size that nothing overflows with.
fn check_sides(layer: &str, sides: [usize; 3]) -> Result<(), BuildError> {
    const MOST: usize = 4096;
    match sides.into_iter().find(|&side| side > MOST) {
        Some(got) => {
            let (op, what, rule) = ("window", "side, stride or padding", "at most 4096");
            Err(BuildError::shape(layer, ShapeError::Rule { op, what, got, rule }))
        }
        None => Ok(()),
    }
}

impl Builder {
    /// A network whose input has this shape.
    pub(super) fn new(spec: &ModelSpec, input: ValueShape, first_weights: FirstWeights) -> Self {
        Self {
            spec: spec.clone(),
            first_weights,
            layers: vec![],
            norms: vec![],
            values: vec![input],
            nodes: vec![],
            masking: Masking::Any,
            names: BTreeSet::new(),
            size: 0,
        }
    }

    /// The input must have numbers, and not too many.
    pub(super) fn check_input(&self) -> Result<(), BuildError> {
        check_value("the input", self.values[0])
    }

    /// Whether a value is what a convolution without ReLU wrote.
    pub(super) fn is_bare_conv(&self, value: ValueId) -> bool {
        let is_conv = |&layer: &usize| {
            let layer = &self.layers[layer];
            !layer.relu && matches!(layer.kind, LayerKind::Conv { .. })
        };
        self.nodes
            .iter()
            .any(|node| matches!(node, Node::Layer { layer, output, .. } if *output == value && is_conv(layer)))
    }

    /// The network's input.
    pub fn input(&self) -> ValueId {
        0
    }

    /// The shape of a value.
    ///
    /// # Panics
    /// If it is not one of this builder's.
    pub fn shape(&self, value: ValueId) -> ValueShape {
        self.values[value]
    }

    /// Channels and size of an image.
    ///
    /// # Errors
    /// [`BuildError::NeedsImages`] if it is features.
    pub(super) fn image(&self, layer: &str, value: ValueId) -> Result<(usize, [usize; 2]), BuildError> {
        match self.values[value] {
            ValueShape::Image { channels, size } => Ok((channels, size)),
            shape @ (ValueShape::Features(_) | ValueShape::Token(_) | ValueShape::List(_)) => {
                Err(BuildError::NeedsImages { layer: layer.to_owned(), shape })
            }
        }
    }

    /// Features of a value.
    fn features_of(&self, layer: &str, value: ValueId) -> Result<usize, BuildError> {
        match self.values[value] {
            ValueShape::Features(features) => Ok(features),
            shape => Err(BuildError::NeedsFeatures { layer: layer.to_owned(), shape }),
        }
    }

    /// Channels of an image.
    pub(super) fn channels(&self, value: ValueId) -> Result<usize, BuildError> {
        Ok(self.image("a convolution", value)?.0)
    }

    /// A new value.
    fn value(&mut self, layer: &str, shape: ValueShape) -> Result<ValueId, BuildError> {
        check_value(layer, shape)?;
        self.values.push(shape);
        Ok(self.values.len() - 1)
    }

    /// Takes a name, which must be a new one.
    fn name(&mut self, name: &str) -> Result<(), BuildError> {
        if !is_name(name) {
            return Err(BuildError::Name { name: name.chars().take(LONGEST_NAME).collect() });
        }
        if !self.names.insert(name.to_owned()) {
            return Err(BuildError::Duplicate { name: name.to_owned() });
        }
        Ok(())
    }

    fn layer(&mut self, layer: WeightLayer) -> Result<usize, BuildError> {
        self.name(&layer.name)?;
        let (rows, columns) = match layer.kind {
            LayerKind::Linear { inputs, outputs } => (outputs, Some(inputs)),
            LayerKind::Embedding { symbols, features } => (symbols, Some(features)),
            LayerKind::Conv { shape, .. } => {
                let taps = shape.kernel()[0].checked_mul(shape.kernel()[1]);
                (shape.rows(), taps.and_then(|taps| taps.checked_mul(shape.in_channels() / shape.groups())))
            }
        };
        let size = columns.and_then(|columns| rows.checked_mul(columns)?.checked_add(self.size));
        match size {
            Some(size) if size <= LARGEST_NETWORK => self.size = size,
            _ => return Err(BuildError::LargeNetwork { layer: layer.name }),
        }
        self.layers.push(layer);
        Ok(self.layers.len() - 1)
    }

    /// A linear layer with a bias, and a ReLU with `relu`.
    ///
    /// # Errors
    /// [`BuildError`] if the input is images, the name is taken or unsound, or the network grows too large.
    pub fn linear(
        &mut self,
        name: impl Into<String>,
        outputs: usize,
        relu: bool,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        self.linear_with(name, outputs, true, relu, input)
    }

    /// A linear layer with or without a bias.
    ///
    /// # Errors
    /// As [`Builder::linear`].
    pub fn linear_with(
        &mut self,
        name: impl Into<String>,
        outputs: usize,
        bias: bool,
        relu: bool,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let name = name.into();
        let inputs = match self.values[input] {
            ValueShape::List(features) => features,
            _ => self.features_of(&name, input)?,
        };
        let kind = LayerKind::Linear { inputs, outputs };
        self.weight_layer(name, kind, [bias, relu], ValueShape::Features(outputs), input)
    }

    /// A convolution.
    ///
    /// # Errors
    /// [`BuildError`] if the input is features or too small, the name is taken or unsound, or the network grows too large.
    pub fn conv(&mut self, name: impl Into<String>, conv: Conv, input: ValueId) -> Result<ValueId, BuildError> {
        let name = name.into();
        let (channels, size) = self.image(&name, input)?;
        check_sides(&name, [conv.kernel, conv.stride, conv.padding])?;
        let unfit = |source| BuildError::Shape { layer: name.clone(), source };
        let shape = ConvShape::new(conv.outputs, channels, [conv.kernel; 2])
            .and_then(|shape| shape.with_stride([conv.stride; 2]))
            .and_then(|shape| shape.with_padding([conv.padding; 2]).with_groups(conv.groups))
            .map_err(unfit)?;
        let output_size = shape.output_size(size).map_err(unfit)?;
        shape.borders(size).map_err(unfit)?;
        let kind = LayerKind::Conv { shape, size, counted_as: conv.counted_as };
        if let Err(source) = kind.geometry() {
            return Err(BuildError::Counting { layer: name, source });
        }
        let output = ValueShape::Image { channels: conv.outputs, size: output_size };
        self.weight_layer(name, kind, [conv.bias, conv.relu], output, input)
    }

    /// A convolution of each channel by itself.
    ///
    /// # Errors
    /// As [`Builder::conv`].
    pub fn depthwise(
        &mut self,
        name: impl Into<String>,
        kernel: usize,
        stride: usize,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let name = name.into();
        let (channels, _) = self.image(&name, input)?;
        self.conv(name, Conv::new(channels, kernel).stride(stride).groups(channels), input)
    }

    /// A ReLU is part of a layer that has a bias, and otherwise an operation of its own.
    fn weight_layer(
        &mut self,
        name: String,
        kind: LayerKind,
        [bias, relu]: [bool; 2],
        shape: ValueShape,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let fused = bias && relu;
        let masking = self.masking;
        let layer = WeightLayer { name: name.clone(), kind, bias, relu: fused, masking, gates: &[] };
        let layer = self.layer(layer)?;
        let output = self.value(&name, shape)?;
        self.nodes.push(Node::Layer { layer, input, output });
        if relu && !fused { self.relu(output) } else { Ok(output) }
    }

    fn norm_layer(
        &mut self,
        name: impl Into<String>,
        relu: bool,
        zero_scale: bool,
        input: ValueId,
    ) -> Result<(String, usize), BuildError> {
        let name = name.into();
        let (channels, _) = self.image(&name, input)?;
        self.name(&name)?;
        let over = NormOver::Batch;
        self.norms.push(NormLayer { name: name.clone(), over, channels, relu, relu6: false, zero_scale });
        Ok((name, self.norms.len() - 1))
    }

    /// A batch normalisation and a ReLU.
    ///
    /// # Errors
    /// [`BuildError`] if the input is features, or the name is taken or unsound.
    pub fn norm_relu(&mut self, name: impl Into<String>, input: ValueId) -> Result<ValueId, BuildError> {
        self.norm_with(name, true, false, input)
    }

    /// A batch normalisation and a ReLU that ends at 6.
    ///
    /// # Errors
    /// As [`Builder::norm_relu`].
    pub fn norm_relu6(&mut self, name: impl Into<String>, input: ValueId) -> Result<ValueId, BuildError> {
        let output = self.norm_relu(name, input)?;
        self.end_at_6();
        Ok(output)
    }

    /// The ReLU of the last normalisation, if it has one, ends at 6.
    pub(super) fn end_at_6(&mut self) {
        if let Some(norm) = self.norms.last_mut() {
            norm.relu6 = norm.relu;
        }
    }

    /// A batch normalisation.
    ///
    /// # Errors
    /// As [`Builder::norm_relu`].
    pub fn norm(&mut self, name: impl Into<String>, input: ValueId) -> Result<ValueId, BuildError> {
        self.norm_with(name, false, false, input)
    }

    /// A batch normalisation, perhaps with a ReLU, perhaps with a scale that begins at 0.
    ///
    /// # Errors
    /// As [`Builder::norm_relu`].
    pub fn norm_with(
        &mut self,
        name: impl Into<String>,
        relu: bool,
        zero_scale: bool,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let (name, norm) = self.norm_layer(name, relu, zero_scale, input)?;
        let output = self.value(&name, self.values[input])?;
        self.nodes.push(Node::Norm { norm, input, residual: None, output });
        Ok(output)
    }

    /// A batch normalisation, `+ residual`, perhaps a ReLU. With `zero_scale` the branch begins as nothing.
    ///
    /// # Errors
    /// As [`Builder::norm_relu`], and if the shapes differ.
    pub fn norm_add(
        &mut self,
        name: impl Into<String>,
        relu: bool,
        zero_scale: bool,
        residual: ValueId,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let (name, norm) = self.norm_layer(name, relu, zero_scale, input)?;
        self.same_shapes(&name, input, residual)?;
        let output = self.value(&name, self.values[input])?;
        self.nodes.push(Node::Norm { norm, input, residual: Some(residual), output });
        Ok(output)
    }

    /// `input + addend`, and the batch normalisation of the sum, perhaps with a ReLU: `(sum, normalised)`. Nothing else may
    /// read `input`.
    pub(super) fn add_norm(
        &mut self,
        name: impl Into<String>,
        relu: bool,
        zero_scale: bool,
        addend: ValueId,
        input: ValueId,
    ) -> Result<(ValueId, ValueId), BuildError> {
        let (name, norm) = self.norm_layer(name, relu, zero_scale, input)?;
        self.same_shapes(&name, input, addend)?;
        let (sum, output) = (self.value(&name, self.values[input])?, self.value(&name, self.values[input])?);
        self.nodes.push(Node::AddNorm { norm, input, addend, sum, output });
        Ok((sum, output))
    }

    fn norm_of_features(
        &mut self,
        name: impl Into<String>,
        over: NormOver,
        input: ValueId,
    ) -> Result<(String, usize), BuildError> {
        let name = name.into();
        let channels = self.features_of(&name, input)?;
        self.name(&name)?;
        let (relu, relu6, zero_scale) = (false, false, false);
        self.norms.push(NormLayer { name: name.clone(), over, channels, relu, relu6, zero_scale });
        Ok((name, self.norms.len() - 1))
    }

    /// A normalisation over the features of each token.
    pub(super) fn norm_over(
        &mut self,
        name: impl Into<String>,
        over: NormOver,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let (name, norm) = self.norm_of_features(name, over, input)?;
        let output = self.value(&name, self.values[input])?;
        self.nodes.push(Node::Norm { norm, input, residual: None, output });
        Ok(output)
    }

    /// `input + addend`, and the normalisation of the sum: `(sum, normalised)`. Nothing else may read `input`.
    pub(super) fn add_norm_over(
        &mut self,
        name: impl Into<String>,
        over: NormOver,
        addend: ValueId,
        input: ValueId,
    ) -> Result<(ValueId, ValueId), BuildError> {
        let (name, norm) = self.norm_of_features(name, over, input)?;
        self.same_shapes(&name, input, addend)?;
        let (sum, output) = (self.value(&name, self.values[input])?, self.value(&name, self.values[input])?);
        self.nodes.push(Node::AddNorm { norm, input, addend, sum, output });
        Ok((sum, output))
    }

    /// A row of `features` numbers for each token, dense; with the name and number of `places`, a row for each place in a
    /// sequence too, which is added.
    ///
    /// # Errors
    /// [`BuildError`] if the input is no tokens, a name is taken or unsound, or the network grows too large.
    pub(super) fn embedding(
        &mut self,
        name: impl Into<String>,
        features: usize,
        places: Option<(&str, usize)>,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let name = name.into();
        let kind = LayerKind::Embedding { symbols: self.symbols(&name, input)?, features };
        self.embed(name, kind, places, input)
    }

    /// As [`Builder::embedding`], by the weight of the last layer, [`Builder::tied_head`].
    pub(super) fn tied_embedding(
        &mut self,
        name: impl Into<String>,
        features: usize,
        places: Option<(&str, usize)>,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let name = name.into();
        let kind = LayerKind::Linear { inputs: features, outputs: self.symbols(&name, input)? };
        self.embed(name, kind, places, input)
    }

    fn symbols(&self, layer: &str, value: ValueId) -> Result<usize, BuildError> {
        match self.values[value] {
            ValueShape::Token(symbols) => Ok(symbols),
            shape => Err(BuildError::NeedsTokens { layer: layer.to_owned(), shape }),
        }
    }

    fn embed(
        &mut self,
        name: String,
        kind: LayerKind,
        places: Option<(&str, usize)>,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let dense =
            |name, kind| WeightLayer { name, kind, bias: false, relu: false, masking: Masking::Never, gates: &[] };
        let layer = dense(name.clone(), kind);
        let features = layer.columns();
        let layer = self.layer(layer)?;
        let position_layer = |&(place, symbols): &(&str, usize)| {
            self.layer(dense(place.to_owned(), LayerKind::Embedding { symbols, features }))
        };
        let positions = places.as_ref().map(position_layer).transpose()?;
        let output = self.value(&name, ValueShape::Features(features))?;
        self.nodes.push(Node::Embed { layer, positions, input, output });
        Ok(output)
    }

    /// The last layer, by the weight of the embedding of this name.
    pub(super) fn tied_head(&mut self, name: &str, input: ValueId) -> Result<ValueId, BuildError> {
        let layer = self.layers.iter().position(|layer| layer.name == name).expect("the embedding stands before it");
        let output = self.value(name, ValueShape::Features(self.layers[layer].rows()))?;
        self.nodes.push(Node::Layer { layer, input, output });
        Ok(output)
    }

    /// A recurrent layer: `NAME.input`, the products of the inputs for all gates, and `NAME.state`, those of its state.
    ///
    /// # Errors
    /// As [`Builder::linear`].
    pub(super) fn recurrent(
        &mut self,
        name: impl Into<String>,
        cell: Cell,
        width: usize,
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let name = name.into();
        let (gates, masking) = (cell.gates(), self.masking);
        let rows = gates.len().saturating_mul(width);
        let products = self.linear(format!("{name}.input"), rows, false, input)?;
        if let Some(layer) = self.layers.last_mut() {
            layer.gates = gates;
        }
        let kind = LayerKind::Linear { inputs: width, outputs: rows };
        let layer = WeightLayer { name: format!("{name}.state"), kind, bias: true, relu: false, masking, gates };
        let layer = self.layer(layer)?;
        let output = self.value(&name, ValueShape::Features(width))?;
        self.nodes.push(Node::Recurrent { cell, layer, input: products, output });
        Ok(output)
    }

    /// Causal attention with `heads` heads over query, key and value.
    ///
    /// # Errors
    /// [`BuildError`] unless the three have one number of features, which the heads divide.
    pub(super) fn attention(
        &mut self,
        heads: usize,
        rotary: bool,
        [query, key, value]: [ValueId; 3],
    ) -> Result<ValueId, BuildError> {
        const ATTENTION: &str = "attention";
        let features = self.features_of(ATTENTION, query)?;
        self.same_shapes(ATTENTION, query, key)?;
        self.same_shapes(ATTENTION, query, value)?;
        if heads == 0 || !features.is_multiple_of(heads) {
            return Err(BuildError::Heads { heads, features });
        }
        if rotary && !(features / heads).is_multiple_of(2) {
            return Err(BuildError::OddHeads { size: features / heads });
        }
        let output = self.value(ATTENTION, ValueShape::Features(features))?;
        self.nodes.push(Node::Attention { heads, rotary, query, key, value, output });
        Ok(output)
    }

    /// The Gaussian error linear unit.
    ///
    /// # Errors
    /// [`BuildError`] if the input is no features.
    pub(super) fn gelu(&mut self, input: ValueId) -> Result<ValueId, BuildError> {
        const GELU: &str = "gelu";
        let output = self.value(GELU, ValueShape::Features(self.features_of(GELU, input)?))?;
        self.nodes.push(Node::Gelu { input, output });
        Ok(output)
    }

    fn same_shapes(&self, layer: &str, input: ValueId, other: ValueId) -> Result<(), BuildError> {
        let shapes = [self.values[input], self.values[other]];
        if shapes[0] == shapes[1] {
            return Ok(());
        }
        Err(BuildError::Different { layer: layer.to_owned(), shapes })
    }

    /// The sum of two values.
    ///
    /// # Errors
    /// [`BuildError::Different`] unless they have one shape.
    pub fn add(&mut self, input: ValueId, addend: ValueId) -> Result<ValueId, BuildError> {
        const ADD: &str = "add";
        self.same_shapes(ADD, input, addend)?;
        let output = self.value(ADD, self.values[input])?;
        self.nodes.push(Node::Add { input, addend, output });
        Ok(output)
    }

    /// The channels of several images, side by side, in this order.
    ///
    /// # Errors
    /// [`BuildError`] unless they are images of one size.
    pub fn concat(&mut self, inputs: &[ValueId]) -> Result<ValueId, BuildError> {
        const CONCAT: &str = "concat";
        let mut all: Option<(usize, [usize; 2])> = None;
        for &input in inputs {
            let (channels, size) = self.image(CONCAT, input)?;
            all = match all {
                Some((_, others)) if others != size => {
                    let shapes = [self.values[inputs[0]], self.values[input]];
                    return Err(BuildError::DifferentSizes { layer: CONCAT.to_owned(), shapes });
                }
                Some((before, _)) => Some((before.saturating_add(channels), size)),
                None => Some((channels, size)),
            };
        }
        let Some((channels, size)) = all else { return Err(BuildError::Empty { layer: CONCAT.to_owned() }) };
        let output = self.value(CONCAT, ValueShape::Image { channels, size })?;
        self.nodes.push(Node::Concat { inputs: inputs.to_vec(), output });
        Ok(output)
    }

    /// A ReLU.
    ///
    /// # Errors
    /// [`BuildError::LargeValue`] if the value is too large.
    pub fn relu(&mut self, input: ValueId) -> Result<ValueId, BuildError> {
        let output = self.value("relu", self.values[input])?;
        self.nodes.push(Node::Relu { input, output });
        Ok(output)
    }

    /// The largest pixels of windows of `side × side` that tile the image.
    ///
    /// # Errors
    /// [`BuildError`] if the input is features, or smaller than the window.
    pub fn max_pool(&mut self, side: usize, input: ValueId) -> Result<ValueId, BuildError> {
        self.pool(PoolKind::Max, [side, side, 0], input)
    }

    /// A pooling of windows of `[side, stride, padding]` pixels.
    ///
    /// # Errors
    /// As [`Builder::max_pool`].
    pub fn pool(
        &mut self,
        kind: PoolKind,
        [side, stride, padding]: [usize; 3],
        input: ValueId,
    ) -> Result<ValueId, BuildError> {
        let layer = kind.name();
        check_sides(layer, [side, stride, padding])?;
        let window = PoolShape::new([side; 2])
            .and_then(|window| window.with_stride([stride; 2])?.with_padding([padding; 2]))
            .map_err(|source| BuildError::shape(layer, source))?;
        let (channels, size) = self.image(layer, input)?;
        let size = window.output_size(size).map_err(|source| BuildError::shape(layer, source))?;
        let output = self.value(layer, ValueShape::Image { channels, size })?;
        self.nodes.push(Node::Pool { kind, window, input, output });
        Ok(output)
    }

    /// The mean of each channel's pixels, as features.
    ///
    /// # Errors
    /// [`BuildError::NeedsImages`] if the input is features.
    pub fn global_average_pool(&mut self, input: ValueId) -> Result<ValueId, BuildError> {
        let layer = "global-average-pool";
        let output = self.value(layer, ValueShape::Features(self.image(layer, input)?.0))?;
        self.nodes.push(Node::GlobalAveragePool { input, output });
        Ok(output)
    }

    /// Pixels as features.
    ///
    /// # Errors
    /// As [`Builder::global_average_pool`].
    pub fn flatten(&mut self, input: ValueId) -> Result<ValueId, BuildError> {
        let (channels, [height, width]) = self.image("flatten", input)?;
        let output = self.value("flatten", ValueShape::Features(channels * height * width))?;
        self.nodes.push(Node::Flatten { input, output });
        Ok(output)
    }

    /// Dropout at the rate of the run. The random numbers depend on the name, which may be that of a layer too.
    ///
    /// # Errors
    /// [`BuildError::LargeValue`] if the value is too large.
    pub fn dropout(&mut self, name: impl Into<String>, input: ValueId) -> Result<ValueId, BuildError> {
        let name = name.into();
        let output = self.value(&name, self.values[input])?;
        self.nodes.push(Node::Dropout { name, input, output });
        Ok(output)
    }

    /// What was put together. Every value must be read, but for the last, which must have a feature a class.
    pub(super) fn assembled(self) -> Result<Architecture, BuildError> {
        let Self { spec, first_weights, layers, norms, values, nodes, .. } = self;
        if layers.is_empty() {
            return Err(BuildError::NoLayers);
        }
        let last = values.len() - 1;
        if values[last] != ValueShape::Features(spec.classes) {
            return Err(BuildError::End { shape: values[last], classes: spec.classes });
        }
        let mut read = vec![false; values.len()];
        nodes.iter().for_each(|node| node.inputs().into_iter().for_each(|value| read[value] = true));
        read[last] = true;
        for node in &nodes {
            // A sum that only its own normalisation reads is read.
            if !read[node.output()] {
                let layer = match node {
                    Node::Layer { layer, .. } => layers[*layer].name.clone(),
                    Node::Norm { norm, .. } | Node::AddNorm { norm, .. } => norms[*norm].name.clone(),
                    Node::Dropout { name, .. } => name.clone(),
                    other => other.kind().to_owned(),
                };
                return Err(BuildError::Unread { layer });
            }
        }
        Ok(Architecture { spec, first_weights, layers, norms, graph: Graph { values, nodes } })
    }
}
