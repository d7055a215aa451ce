//! What a network is made from: its name, and the sizes that the name leaves open.

use serde::{Deserialize, Serialize};

use super::family::Family;
use super::name::{ModelName, Stem};
use super::sequence::SequenceSpec;

/// A network's name with everything that the name leaves open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSpec {
    /// The name.
    pub name: ModelName,
    /// Channels of a picture; features of a list; 0 of a network that reads other features or tokens.
    pub channels: usize,
    /// Height and width of a picture; 0 of a network that reads features or tokens.
    pub size: [usize; 2],
    /// Its classes; of a network that reads tokens, the symbols.
    pub classes: usize,
    /// Factor on the numbers of channels; of a network that reads tokens, on its features, but for a recurrent one's embedding.
    pub width: f64,
    /// How a residual network begins; [`Stem::Auto`] has been resolved.
    pub stem: Stem,
    /// Of a network that reads tokens, the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<SequenceSpec>,
}

/// Symbols of a network that reads tokens where nothing is said: bytes.
const SYMBOLS: usize = 256;

/// Features and labels of a network that reads lists where nothing is said: those of Amazon-670K (Bhatia et al., the extreme
/// classification repository).
const LISTS: [usize; 2] = [135_909, 670_091];

impl ModelSpec {
    /// The network of the paper's tables: LeNet-5 on MNIST, wide residual networks on CIFAR-10, all others on ImageNet; of one's
    /// own that of the sizes its file says, else of ImageNet's.
    pub fn of(name: &ModelName) -> Self {
        let ([channels, height, width], classes) = match (name, name.family()) {
            (ModelName::Own(definition), _) => definition.assumed(),
            (_, Some(Family { pictures: [channels, side, classes], .. })) => ([*channels, *side, *side], *classes),
            (ModelName::Sequence(..), _) => ([0; 3], SYMBOLS),
            (ModelName::Lists(_), _) => ([LISTS[0], 1, 1], LISTS[1]),
            (_, None) => ([0; 3], name.sizes().last().copied().unwrap_or(0)),
        };
        let sequence = name.sequence().map(|_| SequenceSpec::default());
        let (size, width, stem) = ([height, width], 1.0, Stem::Auto);
        Self { name: name.clone(), channels, size, classes, width, stem, sequence }.resolved()
    }

    /// The same network on pictures of another shape.
    #[must_use]
    pub fn on(self, channels: usize, size: [usize; 2], classes: usize) -> Self {
        if let ModelName::Hidden(hidden) = &self.name {
            let inputs = channels * size[0] * size[1];
            let sizes = [&[inputs], &hidden[..], &[classes]].concat();
            return Self { name: ModelName::of_sizes(sizes), classes, ..self };
        }
        let (channels, size) = match &self.name {
            name if name.is_mlp() => return self,
            ModelName::Sequence(..) => return Self { classes, ..self },
            name if name.reads_flat() => {
                (size.iter().fold(channels, |product, &side| product.saturating_mul(side)), [1; 2])
            }
            _ => (channels, size),
        };
        Self { channels, size, classes, stem: Stem::Auto, ..self }.resolved()
    }

    /// The same network with a factor on its numbers of channels; one's own has none.
    #[must_use]
    pub fn with_width(self, width: f64) -> Self {
        if matches!(self.name, ModelName::Own(_)) { self } else { Self { width, ..self } }
    }

    /// The same network with this beginning; [`Stem::Auto`] goes by the pictures' size.
    #[must_use]
    pub fn with_stem(self, stem: Stem) -> Self {
        Self { stem, ..self }.resolved()
    }

    /// The same network with these for the parts that its family has.
    #[must_use]
    pub fn with_sequence(self, sequence: &SequenceSpec) -> Self {
        let Some(family) = self.name.sequence() else { return self };
        let (given, default) = (sequence.clone(), SequenceSpec::default());
        let sequence = match family.cell {
            Some(_) => {
                SequenceSpec { length: given.length, embedding: given.embedding, readout: given.readout, ..default }
            }
            None => SequenceSpec { embedding: default.embedding, readout: default.readout, ..given },
        };
        Self { sequence: Some(sequence), ..self }
    }

    fn resolved(self) -> Self {
        if matches!(self.name, ModelName::Own(_) | ModelName::Sequence(..) | ModelName::Lists(_)) {
            return Self { stem: Stem::Auto, ..self };
        }
        let small = self.size[0].min(self.size[1]) <= SMALL;
        let stem = match self.stem {
            Stem::Auto if small => Stem::Cifar,
            Stem::Auto => Stem::Imagenet,
            given => given,
        };
        Self { stem, ..self }
    }

    /// `channels` times the width, rounded down, at least 1: what the paper's code does.
    pub fn scaled(&self, channels: usize) -> usize {
        ((channels as f64 * self.width) as usize).max(1)
    }
}

/// Pictures up to this side are not worth a stem that takes a quarter of their sides.
const SMALL: usize = 64;

/// The largest factor on channels: sixteen times as many are 256 times the weights.
pub(crate) const MOST_WIDTH: f64 = 16.0;
