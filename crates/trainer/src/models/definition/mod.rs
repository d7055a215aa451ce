//! Networks of one's own: what a file such as `net.toml` says, with blocks unfolded and references resolved.
//!
//! | file | job |
//! | --- | --- |
//! | `read.rs` | from TOML, by `tree.rs` (values with their lines) and `keys.rs` (kinds of layers and their keys) |
//! | `write.rs` | to TOML, in one form only |
//! | `build.rs` | to an [`Architecture`](super::Architecture) and back |

pub(super) mod build;
mod keys;
mod read;
#[cfg(test)]
mod tests;
mod tree;
mod write;

use std::fmt;
use std::path::PathBuf;

use rigl::Padding;

use super::family::FirstWeights;
use super::graph::{Masking, PoolKind};

pub use read::DefinitionError;

/// The most steps that a network may have.
pub(super) const MOST_STEPS: usize = 4096;

/// A network of one's own: steps in the order in which they run, sizes of the input perhaps left open.
///
/// It is made from the text of a file, which [`Definition::to_toml`] writes again, in one form: equal networks have equal text.
///
/// ```
/// use trainer::models::Definition;
/// let text = r#"
///     name = "tiny"
///     layers = [
///       { kind = "conv", name = "conv1", outputs = 4, kernel = 3, relu = true },
///       { kind = "global-average-pool" },
///       { kind = "linear", name = "fc", outputs = "classes" },
///     ]
/// "#;
/// let definition = Definition::parse(text, None)?;
/// assert_eq!(definition.name(), "tiny");
/// assert_eq!(Definition::parse(&definition.to_toml(), None)?, definition);
/// let wrong = text.replace("\"conv\"", "\"convolution\"");
/// let error = Definition::parse(&wrong, Some("tiny.toml".as_ref())).unwrap_err().to_string();
/// assert!(error.starts_with("tiny.toml:4: unknown kind `convolution`"), "{error}");
/// # Ok::<(), trainer::models::DefinitionError>(())
/// ```
#[derive(Clone)]
pub struct Definition {
    pub(super) name: String,
    pub(super) input: Input,
    pub(super) first_weights: FirstWeights,
    pub(super) steps: Vec<Step>,
    /// Where each step stands, for messages.
    lines: Vec<usize>,
    file: Option<PathBuf>,
}

impl Definition {
    /// The network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it reads features, not images.
    pub fn reads_features(&self) -> bool {
        matches!(self.input.shape, InputShape::Features(_))
    }

    /// Channels, height and width, and classes where no data says them: those of the file, else ImageNet's. Features stand for
    /// channels.
    pub(super) fn assumed(&self) -> ([usize; 3], usize) {
        let shape = match self.input.shape {
            InputShape::Features(features) => [features.unwrap_or(784), 1, 1],
            InputShape::Images { channels, size } => {
                let [height, width] = size.unwrap_or([224; 2]);
                [channels.unwrap_or(3), height, width]
            }
        };
        (shape, self.input.classes.unwrap_or(if self.reads_features() { 10 } else { 1000 }))
    }
}

/// Where it stands in a file is no part of a network.
impl PartialEq for Definition {
    fn eq(&self, other: &Self) -> bool {
        let of = |it: &Self| (it.name.clone(), it.input, it.first_weights);
        of(self) == of(other) && self.steps == other.steps
    }
}

impl Eq for Definition {}

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_toml())
    }
}

/// What a network reads, as far as its file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Input {
    pub shape: InputShape,
    pub classes: Option<usize>,
    /// Whether the data may have other sizes than these.
    pub open: bool,
}

/// Sizes of the input, as far as a file says them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputShape {
    Images { channels: Option<usize>, size: Option<[usize; 2]> },
    Features(Option<usize>),
}

/// One operation. It reads the outputs of steps before it, counted from 1; 0 is the network's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub op: Op,
    /// Of an operation with parameters, and of dropout.
    pub name: String,
    pub inputs: Vec<usize>,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Linear {
        outputs: Outputs,
        bias: bool,
        masking: Masking,
    },
    Conv(ConvOp),
    BatchNorm {
        zero_scale: bool,
        /// Whether the ReLU that follows ends at 6.
        relu6: bool,
    },
    Relu,
    Dropout,
    Add,
    /// Channels side by side, in the order of the inputs.
    Concat,
    Pool {
        kind: PoolKind,
        size: usize,
        stride: usize,
        padding: usize,
    },
    GlobalAveragePool,
    Flatten,
}

/// What a convolution does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConvOp {
    /// None where each channel is convolved by itself.
    pub outputs: Option<Outputs>,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub groups: usize,
    pub bias: bool,
    pub masking: Masking,
    pub counted_as: Padding,
}

/// Outputs of a layer with weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outputs {
    Number(usize),
    /// One for each class of the data.
    Classes,
}

impl Step {
    /// The name of its kind in a file.
    pub fn kind(&self) -> &'static str {
        match self.op {
            Op::Linear { .. } => "linear",
            Op::Conv(ConvOp { outputs: Some(_), .. }) => "conv",
            Op::Conv(ConvOp { outputs: None, .. }) => "depthwise-conv",
            Op::BatchNorm { .. } => "batch-norm",
            Op::Relu => "relu",
            Op::Dropout => "dropout",
            Op::Add => "add",
            Op::Concat => "concat",
            Op::Pool { kind, .. } => kind.name(),
            Op::GlobalAveragePool => "global-average-pool",
            Op::Flatten => "flatten",
        }
    }
}

/// How often each value is read, that of number 0 being the network's input.
pub(super) fn readers(steps: &[Step]) -> Vec<usize> {
    let mut readers = vec![0; steps.len() + 1];
    steps.iter().flat_map(|step| &step.inputs).for_each(|&input| readers[input] += 1);
    readers
}

/// Whether a convolution has a bias if its file does not say: not if a normalisation reads it, which would take it away.
pub(super) fn has_bias_by_default(steps: &[Step], output: usize) -> bool {
    let normalizes = |step: &Step| matches!(step.op, Op::BatchNorm { .. }) && step.inputs.contains(&output);
    !steps.iter().any(normalizes)
}
