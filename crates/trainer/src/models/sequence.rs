//! What networks of token sequences leave open beside their names.

use serde::{Deserialize, Serialize};

use super::graph::{Cell, NormOver};
use crate::choice::choices;
use crate::data::LaneOrder;

choices! {
    /// How a Transformer knows a token's place in its sequence.
    #[derive(Default)]
    Positions {
        /// By an embedding of each place, learned and added to the token's.
        #[default]
        Learned,
        /// By turning queries and keys (Su et al. 2021).
        Rotary,
    }
    /// What a Transformer normalises by.
    #[derive(Default)]
    SequenceNorm {
        /// Layer normalisation: mean 0 and variance 1.
        #[default]
        Layer,
        /// Root mean square: a mean square of 1, no shift.
        Rms,
    }
}

impl From<SequenceNorm> for NormOver {
    fn from(norm: SequenceNorm) -> Self {
        match norm {
            SequenceNorm::Layer => Self::Features,
            SequenceNorm::Rms => Self::RootMeanSquare,
        }
    }
}

/// A family of networks that read tokens. Their names are a prefix and numbers: `gru-512`.
#[derive(Debug)]
pub struct SequenceFamily {
    /// What all names begin with.
    pub prefix: &'static str,
    /// The names, for messages.
    pub names: &'static str,
    /// The rule for numbers behind the prefix, for messages.
    pub rule: &'static str,
    /// Whether these numbers make a name.
    pub has: fn(&[usize]) -> bool,
    /// The equations of its recurrent layers; a Transformer has none.
    pub cell: Option<Cell>,
    /// What it is trained with where nothing is said.
    pub training: TrainingDefaults,
}

/// What networks of a family are trained with where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingDefaults {
    /// AdamW's form of weight decay, or Adam's.
    pub decoupled: bool,
    /// Learning rate.
    pub lr: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Decay of Adam's second moment.
    pub beta2: f64,
    /// The largest norm of all gradients together.
    pub clip_norm: f64,
    /// Sequences in a batch.
    pub batch_size: usize,
    /// Passes over the text.
    pub epochs: u64,
}

impl SequenceFamily {
    /// Which tokens of a batch are neighbours.
    pub fn order(&self) -> LaneOrder {
        if self.cell.is_some() { LaneOrder::TimeMajor } else { LaneOrder::SequenceMajor }
    }
}

impl PartialEq for SequenceFamily {
    fn eq(&self, other: &Self) -> bool {
        self.prefix == other.prefix
    }
}

impl Eq for SequenceFamily {}

/// What a network of token sequences leaves open beside its name. Parts that its family does not have are at their defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceSpec {
    /// Tokens of a sequence in training.
    pub length: usize,
    /// Of a recurrent network, features of a token's embedding.
    pub embedding: usize,
    /// Of a recurrent network, hidden layers between the last state and the outputs.
    pub readout: Vec<usize>,
    /// Of a Transformer.
    pub positions: Positions,
    /// Of a Transformer.
    pub norm: SequenceNorm,
    /// Of a Transformer: whether the last layer's weight is that of the embedding.
    pub tied: bool,
}

/// Features of a token's embedding in the paper's recurrent network (appendix I).
pub(crate) const EMBEDDING: usize = 128;

/// Hidden layers of the readout in the paper's recurrent network (appendix I).
pub(crate) const READOUT: [usize; 2] = [256, 128];

impl SequenceSpec {
    /// Tokens of a sequence where nothing is said.
    pub const LENGTH: usize = 128;
}

impl Default for SequenceSpec {
    /// What a network has where nothing is said.
    fn default() -> Self {
        Self {
            length: Self::LENGTH,
            embedding: EMBEDDING,
            readout: READOUT.to_vec(),
            positions: Positions::default(),
            norm: SequenceNorm::default(),
            tied: false,
        }
    }
}
