//! Networks by their names.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::family::Family;
use super::sequence::SequenceFamily;
use crate::choice::choices;

choices! {
    /// How a residual network begins.
    Stem {
        /// By image size: CIFAR's up to 64 × 64, ImageNet's above.
        Auto,
        /// A 7 × 7 convolution and a pooling, both with stride 2.
        Imagenet,
        /// A 3 × 3 convolution.
        Cifar,
    }
}

/// What the names of multi-layer perceptrons begin with that are given by their hidden layers.
pub(super) const HIDDEN: &str = "mlp-";
/// What the names of networks that read lists begin with.
pub(super) const LISTS: &str = "lists-";

/// A network by its name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ModelName {
    /// LeNet-300-100: 784 inputs, hidden layers of 300 and 100, 10 classes.
    Lenet300x100,
    /// A multi-layer perceptron: inputs, hidden layers, classes.
    Mlp(Vec<usize>),
    /// A multi-layer perceptron by its hidden layers; inputs and outputs are those of the data.
    Hidden(Vec<usize>),
    /// A convolutional network: its family, and the numbers of its name.
    Convolutional(&'static Family, Vec<usize>),
    /// A network that reads tokens: its family, and the numbers of its name.
    Sequence(&'static SequenceFamily, Vec<usize>),
    /// A network that reads lists of features and asks one question for each label: its hidden layers. Features and labels are those
    /// of the data.
    Lists(Vec<usize>),
    /// A network of one's own. In files, its whole definition stands in place of a name.
    Own(Arc<Definition>),
}

impl ModelName {
    /// The model with these sizes, by the name it is known by, if it has one.
    pub fn of_sizes(sizes: Vec<usize>) -> Self {
        if sizes == Self::Lenet300x100.sizes() { Self::Lenet300x100 } else { Self::Mlp(sizes) }
    }

    /// Whether it is a multi-layer perceptron.
    pub fn is_mlp(&self) -> bool {
        matches!(self, Self::Lenet300x100 | Self::Mlp(_) | Self::Hidden(_))
    }

    /// Whether its input is features, whose number is the product of a data set's shape.
    pub(super) fn reads_flat(&self) -> bool {
        match self {
            Self::Own(definition) => definition.reads_features(),
            Self::Lists(_) => true,
            _ => false,
        }
    }

    /// Whether it reads lists of features, and its outputs are labels of which each sample has any number.
    pub fn reads_lists(&self) -> bool {
        matches!(self, Self::Lists(_))
    }

    /// Its family, if it is convolutional.
    pub fn family(&self) -> Option<&'static Family> {
        match self {
            Self::Convolutional(family, _) => Some(family),
            Self::Lenet300x100
            | Self::Mlp(_)
            | Self::Hidden(_)
            | Self::Sequence(..)
            | Self::Lists(_)
            | Self::Own(_) => None,
        }
    }

    /// Its family, if it reads tokens.
    pub fn sequence(&self) -> Option<&'static SequenceFamily> {
        match self {
            Self::Sequence(family, _) => Some(family),
            _ => None,
        }
    }

    /// Features from the input to the output of a multi-layer perceptron; nothing of other networks, or if they depend on the
    /// data.
    pub fn sizes(&self) -> &[usize] {
        match self {
            Self::Lenet300x100 => &[784, 300, 100, 10],
            Self::Mlp(sizes) => sizes,
            Self::Hidden(_) | Self::Convolutional(..) | Self::Sequence(..) | Self::Lists(_) | Self::Own(_) => &[],
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |numbers: &[usize]| numbers.iter().map(usize::to_string).collect::<Vec<_>>().join("-");
        match self {
            Self::Lenet300x100 => f.pad("lenet-300-100"),
            Self::Mlp(sizes) => f.pad(&join(sizes)),
            Self::Hidden(sizes) => f.pad(&format!("{HIDDEN}{}", join(sizes))),
            Self::Lists(hidden) => f.pad(&format!("{LISTS}{}", join(hidden))),
            Self::Convolutional(family, numbers) => f.pad(&format!("{}{}", family.prefix, join(numbers))),
            Self::Sequence(family, numbers) => f.pad(&format!("{}{}", family.prefix, join(numbers))),
            Self::Own(definition) => f.pad(definition.name()),
        }
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        match name {
            ModelName::Own(definition) => definition.to_toml(),
            name => name.to_string(),
        }
    }
}

impl TryFrom<String> for ModelName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|rule| match text.contains('\n') {
            true => format!("the network of this text: {rule}"),
            false => format!("invalid value {text:?}: {rule}"),
        })
    }
}
