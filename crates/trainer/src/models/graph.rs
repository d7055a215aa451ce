//! The parts of a network, apart from any numbers: layers with weights, normalisations, and the graph they stand in.

use std::fmt;

use rigl::{ConvGeometry, FlopsError, LayerGeometry, LayerShape, Padding};
use sparse_kernels::{Activation, ConvShape, PoolShape};

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
    /// A row of numbers for each symbol, or for each place in a sequence: looked up, not multiplied.
    Embedding {
        /// Rows.
        symbols: usize,
        /// Numbers of each.
        features: usize,
    },
}

impl LayerKind {
    /// For counting operations and bytes.
    pub(super) fn geometry(&self) -> Result<LayerGeometry, FlopsError> {
        match *self {
            Self::Linear { inputs, outputs } => Ok(LayerGeometry::linear(inputs, outputs)),
            Self::Embedding { symbols, features } => Ok(LayerGeometry::embedding(symbols, features)),
            Self::Conv { shape, size, counted_as } => LayerGeometry::conv(ConvGeometry {
                input_channels: shape.in_channels(),
                output_channels: shape.out_channels(),
                input_size: size,
                kernel: shape.kernel(),
                stride: shape.stride()[0],
                padding: counted_as,
                groups: shape.groups(),
            }),
        }
    }
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
    /// Of a recurrent layer, the gates whose rows stand below each other; else none.
    pub gates: &'static [&'static str],
}

impl WeightLayer {
    /// Rows of the weight matrix: output features or channels.
    pub fn rows(&self) -> usize {
        match self.kind {
            LayerKind::Linear { outputs, .. } => outputs,
            LayerKind::Conv { shape, .. } => shape.rows(),
            LayerKind::Embedding { symbols, .. } => symbols,
        }
    }

    /// Columns of the weight matrix: input features, or input channels of a group times taps.
    pub fn columns(&self) -> usize {
        match self.kind {
            LayerKind::Linear { inputs, .. } => inputs,
            LayerKind::Conv { shape, .. } => shape.columns(),
            LayerKind::Embedding { features, .. } => features,
        }
    }

    /// Taps of a filter; 1 for a linear layer.
    pub fn taps(&self) -> usize {
        match self.kind {
            LayerKind::Linear { .. } | LayerKind::Embedding { .. } => 1,
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
            LayerKind::Linear { .. } | LayerKind::Embedding { .. } => true,
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
            LayerKind::Linear { .. } | LayerKind::Embedding { .. } => vec![self.rows(), self.columns()],
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
        self.kind.geometry().expect("the builder has made a convolution of these sizes")
    }
}

/// What a normalisation normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormOver {
    /// A channel of all images of a batch, to mean 0 and variance 1 (Ioffe and Szegedy 2015).
    Batch,
    /// The features of a token, to mean 0 and variance 1 (Ba et al. 2016).
    Features,
    /// The features of a token, to a mean square of 1 (Zhang and Sennrich 2019).
    RootMeanSquare,
}

/// A normalisation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormLayer {
    /// Its name, as in PyTorch's modules.
    pub name: String,
    /// What it normalises.
    pub over: NormOver,
    /// Channels, or features.
    pub channels: usize,
    /// Whether a ReLU follows.
    pub relu: bool,
    /// Whether that ReLU ends at 6.
    pub relu6: bool,
    /// Whether its scale begins at 0: the last one of a residual branch, which so begins as nothing.
    pub zero_scale: bool,
}

impl NormLayer {
    /// Numbers of scale and shift.
    pub fn affine_len(&self) -> usize {
        match self.over {
            NormOver::Batch | NormOver::Features => 2 * self.channels,
            NormOver::RootMeanSquare => self.channels,
        }
    }

    /// Numbers of running mean and variance.
    pub fn running_len(&self) -> usize {
        match self.over {
            NormOver::Batch => 2 * self.channels,
            NormOver::Features | NormOver::RootMeanSquare => 0,
        }
    }

    /// What follows it.
    pub fn activation(&self) -> Activation {
        match (self.relu, self.relu6) {
            (false, _) => Activation::None,
            (true, false) => Activation::Relu,
            (true, true) => Activation::Relu6,
        }
    }
}

/// A place in [`Graph::values`].
pub type ValueId = usize;

/// Shape of one sample's activations; in a network that reads tokens, of one token's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueShape {
    /// A token, one of so many symbols.
    Token(usize),
    /// Features.
    Features(usize),
    /// A list of some of so many features, with their values.
    List(usize),
    /// An image.
    Image {
        /// Channels.
        channels: usize,
        /// Height and width.
        size: [usize; 2],
    },
}

impl fmt::Display for ValueShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(symbols) => write!(f, "tokens of {symbols} symbols"),
            Self::Features(features) => write!(f, "{features} features"),
            Self::List(features) => write!(f, "lists of {features} features"),
            Self::Image { channels, size: [height, width] } => write!(f, "images of {channels}×{height}×{width}"),
        }
    }
}

/// How pixels of a window become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolKind {
    /// Their maximum.
    Max,
    /// Their mean.
    Average,
}

impl PoolKind {
    /// The name of the kind of layer in a network's file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Max => "max-pool",
            Self::Average => "average-pool",
        }
    }
}

/// One operation: reads values, writes others.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// A layer with weights, with its bias and ReLU.
    Layer {
        /// Which, in [`super::Architecture::layers`].
        layer: usize,
        /// What it reads.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// A normalisation, with its ReLU, behind `+ residual` if there is one.
    Norm {
        /// Which, in [`super::Architecture::norms`].
        norm: usize,
        /// What it reads.
        input: ValueId,
        /// What is added before the ReLU.
        residual: Option<ValueId>,
        /// What it writes.
        output: ValueId,
    },
    /// `sum = input + addend` and the normalisation of the sum, with its ReLU.
    AddNorm {
        /// Which, in [`super::Architecture::norms`].
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
        /// What it reads.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// The sum of two values.
    Add {
        /// What it reads.
        input: ValueId,
        /// What it reads too.
        addend: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// The channels of several images, side by side.
    Concat {
        /// What it reads.
        inputs: Vec<ValueId>,
        /// What it writes.
        output: ValueId,
    },
    /// A ReLU that is no part of another operation.
    Relu {
        /// What it reads.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// The Gaussian error linear unit, by its tanh approximation (Hendrycks and Gimpel 2016).
    Gelu {
        /// What it reads.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// The row of each token in an embedding, and that of its place in the sequence.
    Embed {
        /// Which embedding, in [`super::Architecture::layers`]: one of the kind, or a linear layer that shares its weight.
        layer: usize,
        /// Which embedding of places, if there is one.
        positions: Option<usize>,
        /// The tokens.
        input: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// Causal attention of each token to those before it and itself.
    Attention {
        /// Heads, each of an equal share of the features.
        heads: usize,
        /// Whether queries and keys are turned by their places (rotary positions).
        rotary: bool,
        /// The queries.
        query: ValueId,
        /// The keys.
        key: ValueId,
        /// The values.
        value: ValueId,
        /// What it writes.
        output: ValueId,
    },
    /// A recurrent layer: reads the products of its inputs for all gates, a time step after the other.
    Recurrent {
        /// Its equations.
        cell: Cell,
        /// Which, in [`super::Architecture::layers`]: the weight that its state is multiplied by, with its bias.
        layer: usize,
        /// What it reads.
        input: ValueId,
        /// Its states.
        output: ValueId,
    },
}

/// The equations of a recurrent layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Gated recurrent unit (Cho et al. 2014), the reset gate behind the product, as cuDNN and PyTorch have it.
    Gru,
    /// Long short-term memory (Hochreiter and Schmidhuber 1997) with forget gates.
    Lstm,
}

impl Cell {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gru => "gru",
            Self::Lstm => "lstm",
        }
    }

    /// Gates, whose weights stand below each other.
    pub fn gates(self) -> &'static [&'static str] {
        match self {
            Self::Gru => &["reset", "update", "new"],
            Self::Lstm => &["input", "forget", "cell", "output"],
        }
    }

    /// Numbers that a sequence's state has, for each hidden feature.
    pub fn states(self) -> usize {
        match self {
            Self::Gru => 1,
            Self::Lstm => 2,
        }
    }
}

impl Node {
    /// The layer with weights that it multiplies or looks up, if there is one.
    pub fn layer(&self) -> Option<usize> {
        match *self {
            Self::Layer { layer, .. } | Self::Embed { layer, .. } | Self::Recurrent { layer, .. } => Some(layer),
            _ => None,
        }
    }

    /// The values that it reads.
    pub fn inputs(&self) -> Vec<ValueId> {
        match *self {
            Self::Concat { ref inputs, .. } => inputs.clone(),
            Self::Attention { query, key, value, .. } => vec![query, key, value],
            Self::Norm { input, residual: Some(other), .. }
            | Self::AddNorm { input, addend: other, .. }
            | Self::Add { input, addend: other, .. } => vec![input, other],
            Self::Layer { input, .. }
            | Self::Norm { input, residual: None, .. }
            | Self::Pool { input, .. }
            | Self::GlobalAveragePool { input, .. }
            | Self::Flatten { input, .. }
            | Self::Dropout { input, .. }
            | Self::Relu { input, .. }
            | Self::Gelu { input, .. }
            | Self::Embed { input, .. }
            | Self::Recurrent { input, .. } => vec![input],
        }
    }

    /// The value that it writes; of [`Node::AddNorm`] the normalised one.
    pub fn output(&self) -> ValueId {
        match *self {
            Self::Layer { output, .. }
            | Self::Norm { output, .. }
            | Self::AddNorm { output, .. }
            | Self::Pool { output, .. }
            | Self::GlobalAveragePool { output, .. }
            | Self::Flatten { output, .. }
            | Self::Dropout { output, .. }
            | Self::Add { output, .. }
            | Self::Concat { output, .. }
            | Self::Relu { output, .. }
            | Self::Gelu { output, .. }
            | Self::Embed { output, .. }
            | Self::Attention { output, .. }
            | Self::Recurrent { output, .. } => output,
        }
    }

    /// What it does, by the name of the kind of layer in a network's file.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Layer { .. } => "layer",
            Self::Norm { .. } | Self::AddNorm { .. } => "batch-norm",
            Self::Pool { kind, .. } => kind.name(),
            Self::GlobalAveragePool { .. } => "global-average-pool",
            Self::Flatten { .. } => "flatten",
            Self::Dropout { .. } => "dropout",
            Self::Add { .. } => "add",
            Self::Concat { .. } => "concat",
            Self::Relu { .. } => "relu",
            Self::Gelu { .. } => "gelu",
            Self::Embed { .. } => "embedding",
            Self::Attention { .. } => "attention",
            Self::Recurrent { cell, .. } => cell.name(),
        }
    }
}

/// Operations in an order in which they can run. Value 0 is the input, the last one the logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// Shapes of all values.
    pub values: Vec<ValueShape>,
    /// The operations.
    pub nodes: Vec<Node>,
}
