//! What a network is made of, apart from any numbers: layers with weights, normalisations, and the graph they stand in.

use rigl::{ConvGeometry, FlopsConvention, LayerDensity, LayerGeometry, LayerShape, Padding};
use sparse_kernels::{ConvShape, PoolShape, ShapeError};

use super::{ModelSpec, zoo};
use crate::models::ModelName;

/// What a layer with weights computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    /// `Y = W · X`.
    Linear {
        /// Features it reads.
        inputs: usize,
        /// Features it writes.
        outputs: usize,
    },
    /// A convolution.
    Conv {
        /// Channels, kernel, stride, padding, groups.
        shape: ConvShape,
        /// Height and width of what it reads.
        size: [usize; 2],
        /// How the paper's code pads, for counting operations its way.
        counted_as: Padding,
    },
}

/// Whether a layer's weights may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Masking {
    /// As the distribution says.
    Any,
    /// As Erdős–Rényi distributions say; the uniform one leaves it dense (spec: the first convolution, see
    /// [`super::Sparsification::solve`]).
    NotUniform,
    /// Dense, whatever the distribution; it is not counted in the density asked for.
    Never,
}

/// A layer with weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightLayer {
    /// Its name, as in PyTorch's modules.
    pub name: String,
    /// What it computes.
    pub kind: LayerKind,
    /// Whether it adds a bias.
    pub bias: bool,
    /// Whether a ReLU follows at once.
    pub relu: bool,
    /// Whether its weights may be left out.
    pub masking: Masking,
}

impl WeightLayer {
    /// Rows of the weight matrix: output features or channels.
    pub fn rows(&self) -> usize {
        match self.kind {
            LayerKind::Linear { outputs, .. } => outputs,
            LayerKind::Conv { shape, .. } => shape.rows(),
        }
    }

    /// Columns of the weight matrix: input features, or input channels of a group times taps.
    pub fn columns(&self) -> usize {
        match self.kind {
            LayerKind::Linear { inputs, .. } => inputs,
            LayerKind::Conv { shape, .. } => shape.columns(),
        }
    }

    /// Taps of a filter; 1 for a linear layer.
    pub fn taps(&self) -> usize {
        match self.kind {
            LayerKind::Linear { .. } => 1,
            LayerKind::Conv { shape, .. } => shape.taps(),
        }
    }

    /// Positions of the weight matrix.
    pub fn size(&self) -> usize {
        self.rows() * self.columns()
    }

    /// Whether its weights can be stored in blocks of `[r, c]`: those of a convolution span channels of one tap and one group,
    /// so c must divide a group's input channels and, with several groups, r its output channels.
    pub fn fits_blocks(&self, [r, c]: [usize; 2]) -> bool {
        match self.kind {
            LayerKind::Linear { .. } => true,
            LayerKind::Conv { shape, .. } => {
                let groups = shape.groups();
                (shape.in_channels() / groups).is_multiple_of(c)
                    && (groups == 1 || (shape.out_channels() / groups).is_multiple_of(r))
            }
        }
    }

    /// Dimensions of the weight in PyTorch's order: `[outputs, inputs]` or `[O, C/G, kh, kw]`.
    pub fn dimensions(&self) -> Vec<usize> {
        match self.kind {
            LayerKind::Linear { inputs, outputs } => vec![outputs, inputs],
            LayerKind::Conv { shape, .. } => {
                let [height, width] = shape.kernel();
                vec![shape.rows(), shape.columns() / shape.taps(), height, width]
            }
        }
    }

    /// Name and dimensions, for distributions.
    pub fn shape(&self) -> LayerShape {
        LayerShape::new(self.name.clone(), self.dimensions())
    }

    /// For counting operations and bytes. Bias and ReLU count on every layer, as in the paper's figures.
    pub fn geometry(&self) -> LayerGeometry {
        match self.kind {
            LayerKind::Linear { inputs, outputs } => LayerGeometry::linear(inputs, outputs),
            LayerKind::Conv { shape, size, counted_as } => LayerGeometry::conv(ConvGeometry {
                input_channels: shape.in_channels(),
                output_channels: shape.out_channels(),
                input_size: size,
                kernel: shape.kernel(),
                stride: shape.stride()[0],
                padding: counted_as,
                groups: shape.groups(),
            })
            .expect("the builder has made a convolution of these sizes"),
        }
    }
}

/// A batch normalisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormLayer {
    /// Its name, as in PyTorch's modules.
    pub name: String,
    /// Channels.
    pub channels: usize,
    /// Whether a ReLU follows.
    pub relu: bool,
    /// Whether its scale begins at 0: the last one of a residual branch, which so begins as nothing.
    pub zero_scale: bool,
}

/// A place in [`Graph::values`].
pub type ValueId = usize;

/// Shape of one sample's activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueShape {
    /// Features.
    Features(usize),
    /// An image.
    Image {
        /// Channels.
        channels: usize,
        /// Height and width.
        size: [usize; 2],
    },
}

/// How pixels of a window become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    /// Their maximum.
    Max,
    /// Their mean.
    Average,
}

/// One operation: reads values, writes others.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A layer with weights, with its bias and ReLU.
    Layer {
        /// Which, in [`Architecture::layers`].
        layer: usize,
        /// What it reads.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// A batch normalisation, with its ReLU, behind `+ residual` if there is one.
    Norm {
        /// Which, in [`Architecture::norms`].
        norm: usize,
        /// What it reads.
        input: ValueId,
        /// What is added before the ReLU.
        residual: Option<ValueId>,
        /// What it writes.
        output: ValueId,
    },
    /// `sum = input + addend` and the batch normalisation of the sum, with its ReLU.
    AddNorm {
        /// Which, in [`Architecture::norms`].
        norm: usize,
        /// What it reads, and nobody after it.
        input: ValueId,
        /// What it reads too.
        addend: ValueId,
        /// The sum.
        sum: ValueId,
        /// The normalised sum.
        output: ValueId,
    },
    /// Pooling of windows.
    Pool {
        /// How.
        kind: PoolKind,
        /// Of which windows.
        window: PoolShape,
        /// What it reads.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// The mean of each channel, as features.
    GlobalAveragePool {
        /// What it reads.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// Pixels as features.
    Flatten {
        /// What it reads.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// Dropout, at the rate of the run.
    Dropout {
        /// What the random numbers depend on.
        name: String,
        /// What it reads, and nobody after it.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
}

/// Operations in an order in which they can run. Value 0 is the input, the last one the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Shapes of all values.
    pub values: Vec<ValueShape>,
    /// The operations.
    pub nodes: Vec<Node>,
}

/// What a network is made of, apart from any numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// What it was made from.
    pub spec: ModelSpec,
    /// Its layers with weights, in the order of the forward pass.
    pub layers: Vec<WeightLayer>,
    /// Its batch normalisations, in the order of the forward pass.
    pub norms: Vec<NormLayer>,
    /// How they stand together.
    pub graph: Graph,
}

impl Architecture {
    /// The architecture of a named model, of the paper's sizes ([`ModelSpec::of`]).
    pub fn of(model: &ModelName) -> Self {
        Self::new(&ModelSpec::of(model)).expect("models of the paper's sizes exist")
    }

    /// The architecture of a specification.
    ///
    /// # Errors
    /// [`ShapeError`] if the pictures are too small for the network.
    pub fn new(spec: &ModelSpec) -> Result<Self, ShapeError> {
        let mut builder = Builder::new(spec);
        match &spec.name {
            ModelName::Lenet300x100 | ModelName::Mlp(_) => zoo::mlp(&mut builder, spec.name.sizes()),
            ModelName::Lenet5 => zoo::lenet_5(&mut builder),
            ModelName::Wrn { depth, width } => zoo::wide_resnet(&mut builder, *depth, *width),
            ModelName::ResNet(depth) => zoo::resnet(&mut builder, *depth),
            ModelName::MobileNetV1 => zoo::mobilenet_v1(&mut builder),
            ModelName::MobileNetV2 => zoo::mobilenet_v2(&mut builder),
            ModelName::Vgg16 => zoo::vgg_16(&mut builder),
        }?;
        let Builder { spec, layers, norms, values, nodes, .. } = builder;
        Ok(Self { spec, layers, norms, graph: Graph { values, nodes } })
    }

    /// The name of the model.
    pub fn name(&self) -> ModelName {
        self.spec.name.clone()
    }

    /// Values of one input: features, or channels times pixels.
    pub fn inputs(&self) -> usize {
        match self.graph.values[0] {
            ValueShape::Features(features) => features,
            ValueShape::Image { channels, size } => channels * size[0] * size[1],
        }
    }

    /// Classes of the output.
    pub fn classes(&self) -> usize {
        self.spec.classes
    }

    /// Whether it is a multi-layer perceptron.
    pub fn is_mlp(&self) -> bool {
        self.spec.name.is_mlp()
    }

    /// Positions of all weight matrices.
    pub fn size(&self) -> usize {
        self.layers.iter().map(WeightLayer::size).sum()
    }

    /// Operations of one sample's forward pass: `[at these densities, dense]`.
    pub fn forward_flops(&self, densities: &[LayerDensity], convention: FlopsConvention) -> [f64; 2] {
        let mut flops = [0.0; 2];
        for (layer, density) in self.layers.iter().zip(densities) {
            for (total, density) in flops.iter_mut().zip([density.nnz as f64 / density.size as f64, 1.0]) {
                *total += layer.geometry().forward_flops(density, convention);
            }
        }
        flops
    }

    /// Everything that is learned of the dense network: weights, biases, scales and shifts.
    pub fn parameters(&self) -> usize {
        let biases = self.layers.iter().filter(|layer| layer.bias).map(WeightLayer::rows).sum::<usize>();
        self.size() + biases + self.norms.iter().map(|norm| 2 * norm.channels).sum::<usize>()
    }

    /// Whether some layer drops activations at the run's rate.
    pub fn has_dropout(&self) -> bool {
        self.graph.nodes.iter().any(|node| matches!(node, Node::Dropout { .. }))
    }
}

/// Puts an architecture together, one operation after the other.
#[derive(Debug)]
pub(super) struct Builder {
    pub spec: ModelSpec,
    layers: Vec<WeightLayer>,
    norms: Vec<NormLayer>,
    values: Vec<ValueShape>,
    nodes: Vec<Node>,
    /// Of convolutions to come.
    pub masking: Masking,
}

/// A convolution to be added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conv {
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub groups: usize,
    /// How the paper's code pads.
    pub counted_as: Padding,
}

impl Conv {
    /// A square kernel of odd side, stride 1, padded so that the size stays.
    pub fn new(outputs: usize, kernel: usize) -> Self {
        Self { outputs, kernel, stride: 1, padding: kernel / 2, groups: 1, counted_as: Padding::Same }
    }

    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    pub fn valid(self) -> Self {
        Self { padding: 0, counted_as: Padding::Valid, ..self }
    }

    /// Counted with a padding layer before it, as the paper's code has it before strided convolutions.
    pub fn padded_apart(self) -> Self {
        let total = if self.kernel == 7 { 6 } else { 1 };
        let counted_as = if self.stride > 1 { Padding::Explicit { total } } else { self.counted_as };
        Self { counted_as, ..self }
    }
}

impl Builder {
    fn new(spec: &ModelSpec) -> Self {
        let ModelSpec { channels, size, .. } = *spec;
        let input = match &spec.name {
            ModelName::Lenet300x100 | ModelName::Mlp(_) => ValueShape::Features(spec.name.sizes()[0]),
            _ => ValueShape::Image { channels, size },
        };
        Self {
            spec: spec.clone(),
            layers: vec![],
            norms: vec![],
            values: vec![input],
            nodes: vec![],
            masking: Masking::Any,
        }
    }

    /// The network's input.
    pub fn input(&self) -> ValueId {
        0
    }

    fn value(&mut self, shape: ValueShape) -> ValueId {
        self.values.push(shape);
        self.values.len() - 1
    }

    /// Channels and size of an image.
    pub fn image(&self, value: ValueId) -> (usize, [usize; 2]) {
        match self.values[value] {
            ValueShape::Image { channels, size } => (channels, size),
            ValueShape::Features(_) => unreachable!("a network's convolutions come before its linear layers"),
        }
    }

    pub fn linear(&mut self, name: impl Into<String>, outputs: usize, relu: bool, input: ValueId) -> ValueId {
        let ValueShape::Features(inputs) = self.values[input] else {
            unreachable!("a network flattens its images before its linear layers");
        };
        let kind = LayerKind::Linear { inputs, outputs };
        self.layers.push(WeightLayer { name: name.into(), kind, bias: true, relu, masking: Masking::Any });
        let output = self.value(ValueShape::Features(outputs));
        self.nodes.push(Node::Layer { layer: self.layers.len() - 1, input, output });
        output
    }

    /// A convolution without bias.
    pub fn conv(&mut self, name: impl Into<String>, conv: Conv, input: ValueId) -> Result<ValueId, ShapeError> {
        self.conv_with(name, conv, false, input)
    }

    /// A convolution with bias and ReLU.
    pub fn conv_bias_relu(
        &mut self,
        name: impl Into<String>,
        conv: Conv,
        input: ValueId,
    ) -> Result<ValueId, ShapeError> {
        self.conv_with(name, conv, true, input)
    }

    fn conv_with(
        &mut self,
        name: impl Into<String>,
        conv: Conv,
        bias_relu: bool,
        input: ValueId,
    ) -> Result<ValueId, ShapeError> {
        let (channels, size) = self.image(input);
        let shape = ConvShape::new(conv.outputs, channels, [conv.kernel; 2])?
            .with_stride([conv.stride; 2])?
            .with_padding([conv.padding; 2])
            .with_groups(conv.groups)?;
        let output_size = shape.output_size(size)?;
        let kind = LayerKind::Conv { shape, size, counted_as: conv.counted_as };
        let masking = self.masking;
        self.layers.push(WeightLayer { name: name.into(), kind, bias: bias_relu, relu: bias_relu, masking });
        let output = self.value(ValueShape::Image { channels: conv.outputs, size: output_size });
        self.nodes.push(Node::Layer { layer: self.layers.len() - 1, input, output });
        Ok(output)
    }

    fn norm_layer(&mut self, name: impl Into<String>, relu: bool, zero_scale: bool, input: ValueId) -> usize {
        let (channels, _) = self.image(input);
        self.norms.push(NormLayer { name: name.into(), channels, relu, zero_scale });
        self.norms.len() - 1
    }

    /// A batch normalisation and a ReLU.
    pub fn norm_relu(&mut self, name: impl Into<String>, input: ValueId) -> ValueId {
        let norm = self.norm_layer(name, true, false, input);
        let output = self.value(self.values[input]);
        self.nodes.push(Node::Norm { norm, input, residual: None, output });
        output
    }

    /// A batch normalisation.
    pub fn norm(&mut self, name: impl Into<String>, input: ValueId) -> ValueId {
        let norm = self.norm_layer(name, false, false, input);
        let output = self.value(self.values[input]);
        self.nodes.push(Node::Norm { norm, input, residual: None, output });
        output
    }

    /// A batch normalisation, `+ residual`, perhaps a ReLU.
    pub fn norm_add(
        &mut self,
        name: impl Into<String>,
        relu: bool,
        zero_scale: bool,
        residual: ValueId,
        input: ValueId,
    ) -> ValueId {
        let norm = self.norm_layer(name, relu, zero_scale, input);
        let output = self.value(self.values[input]);
        self.nodes.push(Node::Norm { norm, input, residual: Some(residual), output });
        output
    }

    /// `input + addend`, and the batch normalisation and ReLU of the sum: `(sum, normalised)`.
    pub fn add_norm_relu(&mut self, name: impl Into<String>, addend: ValueId, input: ValueId) -> (ValueId, ValueId) {
        let norm = self.norm_layer(name, true, false, input);
        let (sum, output) = (self.value(self.values[input]), self.value(self.values[input]));
        self.nodes.push(Node::AddNorm { norm, input, addend, sum, output });
        (sum, output)
    }

    pub fn pool(&mut self, kind: PoolKind, window: PoolShape, input: ValueId) -> Result<ValueId, ShapeError> {
        let (channels, size) = self.image(input);
        let output = self.value(ValueShape::Image { channels, size: window.output_size(size)? });
        self.nodes.push(Node::Pool { kind, window, input, output });
        Ok(output)
    }

    pub fn global_average_pool(&mut self, input: ValueId) -> ValueId {
        let output = self.value(ValueShape::Features(self.image(input).0));
        self.nodes.push(Node::GlobalAveragePool { input, output });
        output
    }

    pub fn flatten(&mut self, input: ValueId) -> ValueId {
        let (channels, [height, width]) = self.image(input);
        let output = self.value(ValueShape::Features(channels * height * width));
        self.nodes.push(Node::Flatten { input, output });
        output
    }

    pub fn dropout(&mut self, name: impl Into<String>, input: ValueId) -> ValueId {
        let output = self.value(self.values[input]);
        self.nodes.push(Node::Dropout { name: name.into(), input, output });
        output
    }
}
