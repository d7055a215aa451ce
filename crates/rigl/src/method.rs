//! The interface between a method and a training loop.
//!
//! A training loop drives a method without knowing which one it is:
//!
//! ```text
//! intent     = method.before_gradient(step, layers)
//! candidates = forward and backward, computing of each layer what intent.needs says
//! apply(method.after_gradient(step, layers, candidates))
//! if intent.optimizer_step:  optimizer step
//! if intent.advance_counter: step = step + 1
//! if intent.optimizer_step:  apply(method.after_optimizer(step, layers))
//! ```
//!
//! `apply` replaces the layer's pattern and moves weights and every optimizer slot through the update's map; what has
//! no old entry becomes zero.
//!
//! The order matters for cost: the drop set is chosen before the backward pass, so that the growth candidates can be
//! found while a layer's activations and gradients are at hand, without ever holding a dense gradient (section 3 of
//! the paper).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sparse_kernels::random::Key;
use sparse_kernels::{BackendError, Candidate, CsrPattern};
use thiserror::Error;

use crate::schedule::{ScheduleState, UpdateSchedule};
use crate::topology::TopologyError;

/// A method that cannot be built, or was driven wrongly.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum MethodError {
    /// Not the name of a method.
    #[error("method `{got}` is unknown, it must be one of {known}")]
    Unknown {
        /// Name found.
        got: String,
        /// Names of all methods.
        known: String,
    },
    /// Loop semantics that the method cannot follow.
    #[error("method {method}: update_replaces_step must be true, because {reason}")]
    Semantics {
        /// The method.
        method: &'static str,
        /// Why it cannot.
        reason: &'static str,
    },
    /// Candidates for another number of layers.
    #[error("method {method}: candidates for {got} layers, expected {expected}")]
    Candidates {
        /// The method.
        method: &'static str,
        /// Layers there are.
        expected: usize,
        /// Layers that candidates came for.
        got: usize,
    },
    /// The state of another method.
    #[error("cannot restore method {expected} from a state of method {got}")]
    State {
        /// This method.
        expected: &'static str,
        /// The state's.
        got: String,
    },
    /// Positions that do not fit the pattern.
    #[error("layer {layer}: {source}")]
    Topology {
        /// Name of the layer.
        layer: String,
        /// What does not fit.
        source: TopologyError,
    },
    /// The device failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// What a method sees of the network: the layers whose topology it manages, by index.
///
/// A method drops and grows *entries of a pattern*, by one number each. Of an unstructured layer an entry is a weight. Of a
/// block-sparse layer it is a block: the pattern is that over the grid of blocks, an entry's number the Frobenius norm of
/// its weights, [`GradientNeed::Growth`] asks for the blocks whose dense gradient has the largest norms, and the map of a
/// [`LayerUpdate`] moves whole blocks. So every method works with blocks without knowing of them.
pub trait Layers {
    /// How many layers there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A layer's name; random numbers depend on it.
    fn name(&self, layer: usize) -> &str;

    /// A layer's pattern; that of its blocks, for a block-sparse layer.
    fn pattern(&self, layer: usize) -> &Arc<CsrPattern>;

    /// A layer's weights, in the pattern's order; the norms of its blocks, for a block-sparse layer.
    ///
    /// # Errors
    /// If the device fails.
    ///
    /// # Cost
    /// A transfer of nnz numbers.
    fn values(&self, layer: usize) -> Result<Vec<f32>, BackendError>;
}

/// How the weights of a method are stored and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightStorage {
    /// In CSR or BSR: time and memory follow density.
    Sparse,
    /// As dense matrices. They have no pattern, and a training loop hands none of them to the method: its
    /// [`Layers`] are empty.
    Dense,
}

/// What a method needs to know of one layer's weight gradient in one step.
#[derive(Debug, Clone, PartialEq)]
pub enum GradientNeed {
    /// Nothing: no gradient of this layer's weight has to be computed.
    None,
    /// The gradient at the stored entries, for the optimizer.
    Sampled,
    /// The `count` positions outside `exclude` where the magnitude of the dense gradient is largest (its norm in a block, of
    /// a block-sparse layer): the fields of [`sparse_kernels::GrowRequest`].
    Growth {
        /// Positions that are not candidates.
        exclude: CsrPattern,
        /// How many to find.
        count: usize,
        /// Orders candidates of equal magnitude.
        ties: Key,
    },
}

/// What a training step is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct StepIntent {
    /// One for each layer.
    pub needs: Vec<GradientNeed>,
    /// Whether the optimizer steps, on all parameters.
    pub optimizer_step: bool,
    /// Whether the step counter advances.
    pub advance_counter: bool,
}

impl StepIntent {
    /// An ordinary step of `layers` layers: gradients at the stored entries, an optimizer step, the counter advances.
    pub fn ordinary(layers: usize) -> Self {
        Self { needs: vec![GradientNeed::Sampled; layers], optimizer_step: true, advance_counter: true }
    }
}

/// A layer's new pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerUpdate {
    /// Which layer.
    pub layer: usize,
    /// Its new pattern.
    pub pattern: Arc<CsrPattern>,
    /// For each entry of the new pattern its entry in the old one. `u32::MAX` marks a newcomer: its weight and its
    /// optimizer slots become zero.
    pub map: Vec<u32>,
}

/// What a method remembers between steps; part of a checkpoint. Restored, training goes on as if never interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodState {
    /// The method's name.
    pub method: String,
    /// When the topology was last updated.
    pub schedule: ScheduleState,
}

/// What methods are built from. A method whose topology never changes has no use for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MethodOptions {
    /// When the topology changes.
    pub schedule: UpdateSchedule,
    /// Seed of all random choices.
    pub seed: u64,
    /// Batches over which a training loop adds up the gradient that an update grows by, 1 in the paper. Only the count of
    /// operations depends on it.
    pub growth_batches: u64,
}

/// A way to choose which weights exist while a network trains. The module's page shows how it is driven.
pub trait Method: fmt::Debug + Send {
    /// The name it is built by.
    fn name(&self) -> &'static str;

    /// How its layers are to be stored.
    fn storage(&self) -> WeightStorage;

    /// Says what step `step` does and which gradients it needs. At a topology update this is where the drop set is
    /// chosen.
    ///
    /// # Errors
    /// If the device fails.
    fn before_gradient(&mut self, step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError>;

    /// Called between gradient and optimizer step, with one list of candidates per layer: those found where
    /// [`GradientNeed::Growth`] was asked for, else none. Returns topology changes to make before the optimizer step.
    ///
    /// # Errors
    /// If the candidates do not fit the layers, or the device fails.
    fn after_gradient(
        &mut self,
        _step: u64,
        _layers: &dyn Layers,
        _candidates: Vec<Vec<Candidate>>,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        Ok(vec![])
    }

    /// Called after an optimizer step, with the counter it has advanced. Returns topology changes.
    ///
    /// # Errors
    /// If the device fails.
    fn after_optimizer(&mut self, _step: u64, _layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        Ok(vec![])
    }

    /// Operations of a training step per sample, from those of a forward pass of the sparse and of the dense network
    /// (appendix H of the paper); see [`crate::flops::training_flops_ratio`].
    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64;

    /// What to put into a checkpoint between two steps.
    fn state(&self) -> MethodState {
        MethodState { method: self.name().to_owned(), schedule: ScheduleState::default() }
    }

    /// Goes back to a state.
    ///
    /// # Errors
    /// If it is of another method.
    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        check_state(self.name(), state)
    }
}

/// Refuses the state of another method.
pub(crate) fn check_state(expected: &'static str, state: &MethodState) -> Result<(), MethodError> {
    if state.method == expected { Ok(()) } else { Err(MethodError::State { expected, got: state.method.clone() }) }
}

/// Adds the layer's name to an error.
pub(crate) fn in_layer(layers: &dyn Layers, layer: usize) -> impl FnOnce(TopologyError) -> MethodError {
    let layer = layers.name(layer).to_owned();
    move |source| MethodError::Topology { layer, source }
}
