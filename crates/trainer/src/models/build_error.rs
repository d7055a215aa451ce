//! Why a network cannot be built.

use sparse_kernels::ShapeError;

use super::graph::ValueShape;

/// The most numbers that a value of one sample may have.
pub(super) const LARGEST_VALUE: usize = 1 << 31;
/// The most positions of all weight matrices together: a tebi, 4 TiB of dense weights.
pub(super) const LARGEST_NETWORK: usize = 1 << 40;
/// The most characters of a layer's name.
pub(super) const LONGEST_NAME: usize = 100;

/// Why a network cannot be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An operation on images gets features.
    #[error("{layer} reads images but gets {shape}")]
    NeedsImages {
        /// The operation.
        layer: String,
        /// What it gets.
        shape: ValueShape,
    },
    /// An embedding gets something else than tokens.
    #[error("{layer} reads tokens but gets {shape}")]
    NeedsTokens {
        /// The operation.
        layer: String,
        /// What it gets.
        shape: ValueShape,
    },
    /// Heads must have equal shares of the features.
    #[error("{heads} heads do not divide {features} features into equal parts")]
    Heads {
        /// The heads.
        heads: usize,
        /// The features.
        features: usize,
    },
    /// Rotary positions turn pairs of features.
    #[error("rotary positions turn pairs of features, but each head has {size}; choose an even number")]
    OddHeads {
        /// Features of a head.
        size: usize,
    },
    /// An operation on features gets images.
    #[error(
        "{layer} reads features but gets {shape}; put {} before it",
        if matches!(shape, ValueShape::Token(_) | ValueShape::List(_)) { "an embedding" } else { "a flatten or global-average-pool" }
    )]
    NeedsFeatures {
        /// The operation.
        layer: String,
        /// What it gets.
        shape: ValueShape,
    },
    /// Channels, kernel or window do not fit what an operation reads.
    #[error("{layer}: {source}")]
    Shape {
        /// The operation.
        layer: String,
        /// What does not fit.
        source: ShapeError,
    },
    /// A convolution cannot be counted as it is to be.
    #[error("{layer}: the padding that is counted does not fit: {source}")]
    Counting {
        /// The convolution.
        layer: String,
        /// What does not fit.
        source: rigl::FlopsError,
    },
    /// Two values that are to be added have different shapes.
    #[error("{layer} needs two values of one shape but gets {} and {}", shapes[0], shapes[1])]
    Different {
        /// The operation.
        layer: String,
        /// What it gets.
        shapes: [ValueShape; 2],
    },
    /// Images that are to stand side by side have different sizes.
    #[error("{layer} needs images of one size but gets {} and {}", shapes[0], shapes[1])]
    DifferentSizes {
        /// The operation.
        layer: String,
        /// What it gets.
        shapes: [ValueShape; 2],
    },
    /// Two layers of one name.
    #[error("the name `{name}` is given to two layers")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name that is none.
    #[error(
        "`{name}` is no name for a layer: it must have 1 to {LONGEST_NAME} letters, digits, `_`, `-` and single `.`, begin with a letter, a digit or `_`, and not be `input`"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A value without numbers.
    #[error("{layer} would have no outputs; every size must be at least 1")]
    Empty {
        /// The operation.
        layer: String,
    },
    /// A value that is too large.
    #[error("{layer} would make {shape}; one sample's may have at most {LARGEST_VALUE} numbers")]
    LargeValue {
        /// The operation.
        layer: String,
        /// Its shape.
        shape: ValueShape,
    },
    /// Too many weights.
    #[error("with {layer} the network would have more than {LARGEST_NETWORK} weights")]
    LargeNetwork {
        /// The layer that is too much.
        layer: String,
    },
    /// Nothing to be trained.
    #[error("the network has no linear layer and no convolution")]
    NoLayers,
    /// A dead end.
    #[error("no layer reads the output of {layer}, and it is not the last one")]
    Unread {
        /// The operation.
        layer: String,
    },
    /// The last value is none of logits.
    #[error("the network ends with {shape}; it must end with {classes} features, one for each class")]
    End {
        /// What it ends with.
        shape: ValueShape,
        /// The classes.
        classes: usize,
    },
    /// The network reads other inputs than those given, or has other classes.
    #[error("its file says {what} {said}, not {got}")]
    Input {
        /// What of the input.
        what: &'static str,
        /// What the file says.
        said: String,
        /// What the data has.
        got: String,
    },
    /// A network that has the name of another.
    #[error("`{name}` names another network: {difference}; give this one another name")]
    Taken {
        /// The name.
        name: String,
        /// What is different there.
        difference: String,
    },
    /// A network that no file can describe.
    #[error("the network cannot be described: {reason}")]
    Description {
        /// Why not.
        reason: String,
    },
    /// One of these, with its place.
    #[error("{place}: {reason}")]
    At {
        /// File and line.
        place: String,
        /// What is wrong there.
        reason: Box<Self>,
    },
}

/// Whether a layer may have this name: it becomes a part of the names of tensors and files.
pub(super) fn is_name(name: &str) -> bool {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    begins && name.len() <= LONGEST_NAME && name.chars().all(sound) && !name.contains("..") && name != "input"
}

impl BuildError {
    pub(super) fn shape(layer: &str, source: ShapeError) -> Self {
        Self::Shape { layer: layer.to_owned(), source }
    }
}
