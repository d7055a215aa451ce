//! What a training step is to do.

use autograd::optim::Schedule;

use super::loss::Loss;
use crate::choice::choices;

choices! {
    /// What an update of the topology does to its training step.
    UpdateSemantics {
        /// It replaces the optimizer step and counts as a step (the paper's Algorithm 1).
        Paper,
        /// It replaces the optimizer step but does not count, so the run takes one more batch (the authors' code).
        Reference,
    }
    /// The optimizer.
    OptimizerKind {
        /// Stochastic gradient descent.
        Sgd,
        /// Adam with weight decay in the gradient.
        Adam,
        /// Adam with decoupled weight decay.
        Adamw,
    }
    /// How Adam corrects the moments of weights that an update has grown, which begin at zero.
    NewcomerMoments {
        /// By the steps of the run, as all others.
        Shared,
        /// By the steps since the weight has grown.
        Own,
    }
    /// How activations and their gradients are stored.
    Precision {
        /// In 32 bits.
        F32,
        /// In 16 bits, with the range of f32 and 8 bits of precision.
        Bf16,
    }
    /// How gradients are summed over ranks.
    Reduction {
        /// Along a fixed tree over the shards: the same result on any number of ranks.
        Tree,
        /// As the MPI library does: the result depends on the number of ranks.
        Fast,
    }
    /// How the learning rate changes.
    LrSchedule {
        /// Constant.
        Constant,
        /// Multiplied by a factor at given steps.
        Step,
        /// Half a cosine, down to 0 at the end.
        Cosine,
        /// A line, down to 0 or a fraction of itself at the end.
        Linear,
    }
}

impl From<Precision> for sparse_kernels::Precision {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::Bf16 => Self::Bf16,
        }
    }
}

impl From<Reduction> for ranks::Reduction {
    fn from(reduction: Reduction) -> Self {
        match reduction {
            Reduction::Tree => Self::Tree,
            Reduction::Fast => Self::Fast,
        }
    }
}

/// The steps at which the topology may change: `begin <= step < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateWindow {
    /// First step with an update.
    pub begin: u64,
    /// Step at which updates have ended.
    pub end: u64,
}

impl UpdateWindow {
    /// The step of the last update of a run of `total_steps`, one every `interval`; `None` if there is no update.
    pub fn last_update(self, interval: u64, total_steps: u64) -> Option<u64> {
        let steps = self.end.min(total_steps).checked_sub(self.begin + 1)?;
        Some(self.begin + steps / interval.max(1) * interval.max(1))
    }
}

/// How activations wait for the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// How they and their gradients are stored.
    pub precision: sparse_kernels::Precision,
    /// Whether those that one pass over memory computes from others are computed again, and not held.
    pub recompute: bool,
    /// Whether dropout changes some, which cannot be computed again then.
    pub drops: bool,
}

/// What a step does beside the network and the method.
#[derive(Debug, Clone)]
pub struct StepOptions {
    /// Learning rate as a function of the step.
    pub learning_rate: Schedule,
    /// What is made small.
    pub loss: Loss,
    /// Share of hidden activations dropped.
    pub dropout: f32,
    /// Seed of the dropout.
    pub seed: u64,
    /// Batches over which an update adds up the gradient that it grows by. With more than one, a dense gradient of the sparse
    /// layers is held meanwhile.
    pub growth_batches: u64,
    /// Samples or sequences that are computed at a time, if not the whole batch.
    pub micro_batch: Option<usize>,
    /// Shards into which a batch is cut: each is normalised by itself, and their gradients are added up along one tree, so that it
    /// does not matter who computes which.
    pub shards: Option<usize>,
    /// How gradients are summed over ranks.
    pub reduction: Reduction,
    /// How activations wait for the backward pass.
    pub held: Held,
    /// The largest norm of all gradients together, if there is one.
    pub clip_norm: Option<f32>,
}
