//! Why training stops.

use crate::checkpoint::CheckpointError;
use crate::task::LossKind;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainingError {
    /// The loss is NaN or infinite.
    #[error(
        "the training loss is {loss} at step {step} (learning rate {learning_rate}); try a lower lr or more \
         warmup-steps, or check the data"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// The loss.
        loss: f32,
        /// The learning rate then.
        learning_rate: f32,
    },
    /// The targets are not of the loss's kind, or not as many as the network has outputs.
    #[error("the loss {loss} needs {needed}; the batch of {samples} samples has {got}")]
    Targets {
        /// The loss.
        loss: LossKind,
        /// What it needs.
        needed: String,
        /// Samples of the batch.
        samples: usize,
        /// What there is.
        got: String,
    },
    /// A network that reads lists of features, with other inputs or targets.
    #[error("a network that reads lists needs lists of features as inputs and lists of labels as targets")]
    NoLists,
    /// The tape, an optimizer or the backend failed.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
    /// A checkpoint does not fit, or cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The method failed.
    #[error(transparent)]
    Method(#[from] rigl::MethodError),
    /// Ranks have trained different networks.
    #[error(
        "the pattern of layer {layer} on rank {rank} differs from that on rank 0 at step {step}; rank {rank} may have faulty \
        hardware or another version of this program"
    )]
    Patterns {
        /// The rank.
        rank: usize,
        /// The first layer that differs.
        layer: String,
        /// The step.
        step: u64,
    },
    /// The ranks do not reach each other, or do not agree.
    #[error(transparent)]
    Ranks(#[from] ranks::RanksError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] sparse_kernels::BackendError),
}

crate::error::kinded!(Failure: TrainingError);
