//! The interface between a method and a training loop.
//!
//! A training loop drives a method without knowing which one it is:
//!
//! ```text
//! before the first step of a new run: apply(method.start(layers))
//!
//! intent     = method.before_gradient(step, layers)
//! candidates = forward and backward, computing of each layer what intent.needs says
//! apply(method.after_gradient(step, layers, candidates))
//! if intent.optimizer_step:  optimizer step
//! if intent.advance_counter: step = step + 1
//! if intent.optimizer_step:  apply(method.after_optimizer(step, learning_rate, layers))
//! ```
//!
//! `apply` replaces the layer's pattern and moves weights and every optimizer slot through the update's map; what has
//! no old entry becomes zero, unless the update brings the weights itself.
//!
//! The order matters for cost: the drop set is chosen before the backward pass, so that the growth candidates can be
//! found while a layer's activations and gradients are at hand, without ever holding a dense gradient (section 3 of
//! the paper).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sparse_kernels::random::Key;
use sparse_kernels::{BackendError, Candidate, CsrPattern, ExploreRequest, GrowRequest};
use thiserror::Error;

use crate::flops::TrainingRule;
use crate::schedule::{LoopSemantics, ScheduleState, UpdateSchedule};
use crate::topology::{self, Kept, TopologyError};

/// A method that cannot be built, or was driven wrongly.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum MethodError {
    /// Not the name of a method.
    #[error("unknown method `{got}`; choose one of {known}")]
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
    /// A schedule without a last update, by which the method would reach its density.
    #[error("method {method}: the schedule has no last update, with which the density is reached; set end_step")]
    Endless {
        /// The method.
        method: &'static str,
    },
    /// A parameter that the method does not have.
    #[error("method {method} has no parameter `{got}`; {}", listed(known))]
    UnknownParameter {
        /// The method.
        method: &'static str,
        /// The name found.
        got: String,
        /// Names of its parameters.
        known: Vec<&'static str>,
    },
    /// A parameter's value that it cannot have.
    #[error("method {method}: parameter {parameter} is `{got}`; it must be {rule}")]
    Parameter {
        /// The method.
        method: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// The value found.
        got: String,
        /// What it must be.
        rule: &'static str,
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
    /// A gradient or weights that the step has not brought.
    #[error("layer {layer}: no {what} is available; the method must request it before the step")]
    Missing {
        /// Name of the layer.
        layer: String,
        /// What was asked for.
        what: &'static str,
    },
    /// A state that lacks something.
    #[error("cannot restore method {method}: the state has no `{name}`")]
    Incomplete {
        /// The method.
        method: String,
        /// What is missing, or has another length than the layer.
        name: String,
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

fn listed(names: &[&str]) -> String {
    if names.is_empty() { "it takes none".to_owned() } else { format!("it takes {}", names.join(", ")) }
}

/// What a method sees of the network: the layers whose topology it manages. A layer's number is its place in the whole
/// network, here and in a [`LayerUpdate`]; methods iterate over [`Layer`]s and need no numbers.
///
/// A method drops and grows *entries of a pattern*, by one number each. Of an unstructured layer an entry is a weight. Of a
/// block-sparse layer it is a block: the pattern is that over the grid of blocks, an entry's number the Frobenius norm of
/// its weights, [`GradientNeed::Growth`] asks for the blocks whose dense gradient has the largest norms, and the map of a
/// [`LayerUpdate`] moves whole blocks. So every method works with blocks without knowing of them.
pub trait Layers {
    /// Numbers of the managed layers, ascending.
    fn numbers(&self) -> &[usize];

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

    /// How many entries the distribution gives a layer: what it starts with, or is to end with if it starts dense.
    fn target_nnz(&self, layer: usize) -> usize;

    /// A layer's gradient at its entries, in the pattern's order (the norms of that in its blocks), if the step needed [`GradientNeed::Sampled`] or
    /// [`GradientNeed::Dense`]. Available during [`Method::after_gradient`].
    ///
    /// # Errors
    /// If there is none, which is the default, or the device fails.
    ///
    /// # Cost
    /// A transfer of nnz numbers.
    fn gradient(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        Err(MethodError::Missing { layer: self.name(layer).to_owned(), what: "gradient" })
    }

    /// A layer's gradient at all positions, row by row, if the step needed [`GradientNeed::Dense`]. Available during
    /// [`Method::after_gradient`].
    ///
    /// # Errors
    /// If there is none, which is the default, or the device fails.
    ///
    /// # Cost
    /// A transfer of nrows · ncols numbers.
    fn dense_gradient(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        Err(MethodError::Missing { layer: self.name(layer).to_owned(), what: "dense gradient" })
    }

    /// All weights of a layer of [`WeightStorage::Latent`], row by row.
    ///
    /// # Errors
    /// If there are none, which is the default, or the device fails.
    ///
    /// # Cost
    /// A transfer of nrows · ncols numbers.
    fn latent_values(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        Err(MethodError::Missing { layer: self.name(layer).to_owned(), what: "latent weights" })
    }
}

impl dyn Layers + '_ {
    /// How many layers are managed.
    pub fn len(&self) -> usize {
        self.numbers().len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.numbers().is_empty()
    }

    /// The managed layers, in order.
    pub fn iter(&self) -> impl Iterator<Item = Layer<'_>> {
        self.numbers().iter().map(|&number| Layer { layers: self, number })
    }
}

/// One managed layer. Its errors name it.
#[derive(Clone, Copy)]
pub struct Layer<'a> {
    layers: &'a (dyn Layers + 'a),
    number: usize,
}

impl<'a> Layer<'a> {
    /// See [`Layers::name`].
    pub fn name(self) -> &'a str {
        self.layers.name(self.number)
    }

    /// See [`Layers::pattern`].
    pub fn pattern(self) -> &'a Arc<CsrPattern> {
        self.layers.pattern(self.number)
    }

    /// How many positions the layer has, stored or not.
    pub fn positions(self) -> usize {
        self.pattern().nrows() * self.pattern().ncols()
    }

    /// See [`Layers::values`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn values(self) -> Result<Vec<f32>, MethodError> {
        Ok(self.layers.values(self.number)?)
    }

    /// See [`Layers::target_nnz`].
    pub fn target_nnz(self) -> usize {
        self.layers.target_nnz(self.number)
    }

    /// See [`Layers::gradient`].
    ///
    /// # Errors
    /// If there is none, or the device fails.
    pub fn gradient(self) -> Result<Vec<f32>, MethodError> {
        self.layers.gradient(self.number)
    }

    /// See [`Layers::dense_gradient`].
    ///
    /// # Errors
    /// If there is none, or the device fails.
    pub fn dense_gradient(self) -> Result<Vec<f32>, MethodError> {
        self.layers.dense_gradient(self.number)
    }

    /// See [`Layers::latent_values`].
    ///
    /// # Errors
    /// If there are none, or the device fails.
    pub fn latent_values(self) -> Result<Vec<f32>, MethodError> {
        self.layers.latent_values(self.number)
    }

    /// The key of one purpose's random numbers in this layer.
    pub fn key(self, seed: u64, purpose: &str) -> Key {
        Key::new(seed).with_name(purpose).with_name(self.name())
    }

    /// Adds the layer's name to an error.
    ///
    /// # Errors
    /// The one given.
    pub fn named<T>(self, result: Result<T, TopologyError>) -> Result<T, MethodError> {
        result.map_err(|source| MethodError::Topology { layer: self.name().to_owned(), source })
    }

    /// Keeps all entries but the `count` smallest, see [`topology::select_kept`].
    ///
    /// # Errors
    /// If the layer has fewer entries, or the device fails.
    pub fn drop_smallest(self, count: usize) -> Result<Kept, MethodError> {
        if count == 0 {
            return Ok(std::iter::repeat_n(true, self.pattern().nnz()).collect());
        }
        self.named(topology::select_kept(&self.values()?, count))
    }

    /// The positions that growth may not choose, see [`topology::kept_pattern`].
    ///
    /// # Errors
    /// If `kept` belongs to another pattern.
    pub fn kept_pattern(self, kept: &Kept) -> Result<CsrPattern, MethodError> {
        self.named(topology::kept_pattern(self.pattern(), kept))
    }

    /// The update to the kept and the grown positions, see [`topology::rewire`]: survivors keep their weights, newcomers
    /// start at zero.
    ///
    /// # Errors
    /// If `kept` belongs to another pattern, or a grown position is kept, repeated or outside the matrix.
    pub fn rewired(self, kept: &Kept, grown: &[(u32, u32)]) -> Result<LayerUpdate, MethodError> {
        let topology::Rewired { pattern, map } = self.named(topology::rewire(self.pattern(), kept, grown))?;
        Ok(self.update(pattern, map))
    }

    /// An update of this layer to another pattern.
    pub fn update(self, pattern: Arc<CsrPattern>, map: Vec<u32>) -> LayerUpdate {
        LayerUpdate { layer: self.number, pattern, map, values: None }
    }
}

/// How the weights of a method are stored and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightStorage {
    /// In CSR or BSR: time and memory follow density.
    Sparse,
    /// As dense matrices. They have no pattern, and a training loop hands none of them to the method: its
    /// [`Layers`] are empty.
    Dense,
    /// As dense matrices until the method's first update of a layer, and in CSR from there on. Until then the layer's
    /// pattern has every position ([`CsrPattern::full`]), at 4 bytes per position.
    DenseFirst,
    /// Every position has a weight, a gradient and optimizer slots. Forward passes and input gradients use only the weights
    /// in the pattern; the optimizer updates all of them.
    Latent,
}

/// What a method needs to know of one layer's weight gradient in one step.
#[derive(Debug, Clone, PartialEq)]
pub enum GradientNeed {
    /// Nothing: no gradient of this layer's weight has to be computed.
    None,
    /// The gradient at the stored entries, for the optimizer.
    Sampled,
    /// The `count` positions outside `exclude` where the magnitude of the dense gradient is largest (its norm in a block, of
    /// a block-sparse layer).
    Growth(GrowRequest),
    /// Of a sample of positions, which is drawn by how active outputs and inputs are, those where the magnitude of the gradient
    /// is largest (its norm in a block). The gradient is computed at the sample alone.
    Explore(ExploreRequest),
    /// The gradient at all positions, for the method, and that at the stored entries, for the optimizer. Costs a dense
    /// product, and 4 bytes per position while it is held.
    Dense,
}

/// What a training step is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct StepIntent {
    /// One for each managed layer.
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
#[derive(Debug, Clone, PartialEq)]
pub struct LayerUpdate {
    /// The layer's number in the network.
    pub layer: usize,
    /// Its new pattern. It may have more or fewer entries than the old one. If it is the old one itself
    /// ([`Arc::ptr_eq`]), nothing moves.
    pub pattern: Arc<CsrPattern>,
    /// For each entry of the new pattern its entry in the old one. `u32::MAX` marks a newcomer: its optimizer slots become
    /// zero, and its weight too, unless `values` has it.
    pub map: Vec<u32>,
    /// All weights of the new pattern, if it is not enough that survivors keep theirs and newcomers are zero. Not for block
    /// layers or latent ones.
    pub values: Option<Vec<f32>>,
}

/// What a method remembers between steps; part of a checkpoint. With it restored, training continues as if it had never
/// been interrupted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct MethodState {
    /// The method's name.
    pub method: String,
    /// When the topology was last updated.
    pub schedule: ScheduleState,
    /// Single numbers by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, f64>,
    /// Arrays by name. They are too large for text, so the caller stores them beside the serialised state.
    #[serde(skip)]
    pub arrays: BTreeMap<String, Vec<f32>>,
}

impl MethodState {
    /// The state of a method that remembers nothing but its last update.
    pub fn new(method: &str, schedule: ScheduleState) -> Self {
        Self { method: method.to_owned(), schedule, ..Self::default() }
    }

    /// A number of the state.
    ///
    /// # Errors
    /// If it is not there.
    pub fn number(&self, name: &'static str) -> Result<f64, MethodError> {
        self.numbers
            .get(name)
            .copied()
            .ok_or_else(|| MethodError::Incomplete { method: self.method.clone(), name: name.to_owned() })
    }
}

/// When a method changes the topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateTimes {
    /// Never, or once by itself.
    Never,
    /// At the steps of the schedule.
    Scheduled,
    /// After every step.
    EveryStep,
}

/// What a method's updates need to know of the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateGradient {
    /// Nothing.
    None,
    /// That at the stored entries.
    Entries,
    /// That at a sample of positions, to grow by: [`GradientNeed::Explore`].
    Sample,
    /// That at all positions, to grow by: [`GradientNeed::Growth`].
    Dense,
    /// The same, handed to the method: [`GradientNeed::Dense`].
    Whole,
}

impl UpdateGradient {
    /// Whether growth goes by a gradient that may be summed over several batches.
    pub fn grows(self) -> bool {
        matches!(self, Self::Sample | Self::Dense)
    }
}

/// A parameter of a method, which it reads from [`MethodOptions::parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterInfo {
    /// Its name.
    pub name: &'static str,
    /// The value that it has if none is given.
    pub default: &'static str,
    /// What it may be; completes "it must be".
    pub rule: &'static str,
    /// What it does.
    pub summary: &'static str,
}

/// A method's entry in the registry: everything that is known before it is built.
#[derive(Debug, Clone, Copy)]
pub struct MethodInfo {
    /// The name it is built by.
    pub name: &'static str,
    /// One line for a list.
    pub summary: &'static str,
    /// How its layers are to be stored.
    pub storage: WeightStorage,
    /// When it changes the topology.
    pub updates: UpdateTimes,
    /// Whether its updates drop a share of the weights, so that the drop fraction and its schedule have an effect.
    pub drops_a_fraction: bool,
    /// What its updates need of the gradient; what it grows by is that of [`MethodOptions::growth_batches`] batches.
    pub update_gradient: UpdateGradient,
    /// Whether it works with block layers: it sets no weights, and requests no dense gradients.
    pub blocks: bool,
    /// The parameter that is the density a network starts with, where it is not the one asked for.
    pub start_density: Option<&'static str>,
    /// Whether the last update of the schedule is what brings a layer to the weights that it is to have.
    pub ends_with_last_update: bool,
    /// Whether it needs the final pattern of an earlier run.
    pub needs_ticket: bool,
    /// The loop semantics of the authors' code.
    pub reference_semantics: LoopSemantics,
    /// What can be set.
    pub parameters: &'static [ParameterInfo],
    /// What a training step costs. If it grows by the gradient, [`TrainingRule::GradientGrowth`] or
    /// [`TrainingRule::SampledGrowth`] holds instead.
    pub training: TrainingRule,
    /// Builds it.
    pub build: Build,
}

/// Builds the method of an entry.
pub type Build = fn(&'static MethodInfo, &MethodOptions) -> Result<Box<dyn Method>, MethodError>;

impl MethodInfo {
    /// A sparse method that never changes the topology and has no parameters.
    pub const fn fixed(name: &'static str) -> Self {
        Self::new(name, |info, _| Ok(Box::new(Fixed(info))))
    }

    /// What all entries begin with: as [`MethodInfo::fixed`], with a method of its own.
    pub const fn new(name: &'static str, build: Build) -> Self {
        Self {
            name,
            summary: "",
            storage: WeightStorage::Sparse,
            updates: UpdateTimes::Never,
            drops_a_fraction: false,
            update_gradient: UpdateGradient::None,
            blocks: true,
            start_density: None,
            ends_with_last_update: false,
            needs_ticket: false,
            reference_semantics: LoopSemantics::TF1_SET,
            parameters: &[],
            training: TrainingRule::Sparse,
            build,
        }
    }

    /// Whether it begins with more weights than it is to end with.
    pub fn prunes(&self) -> bool {
        self.storage == WeightStorage::DenseFirst || self.start_density.is_some()
    }

    /// Reads one of its parameters: the value given, else the default.
    ///
    /// # Errors
    /// If the value is not of this type, or `allowed` says no.
    ///
    /// # Panics
    /// If it has no such parameter, or the default is invalid.
    pub fn parameter<T: FromStr>(
        &self,
        options: &MethodOptions,
        name: &str,
        allowed: impl Fn(&T) -> bool,
    ) -> Result<T, MethodError> {
        let info =
            self.parameters.iter().find(|p| p.name == name).expect("a method reads the parameters that it lists");
        let text = options.parameters.get(name).map_or(info.default, String::as_str);
        let value = text.parse().ok().filter(allowed);
        value.ok_or_else(|| {
            assert!(options.parameters.contains_key(name), "the default of {name} must be possible");
            MethodError::Parameter { method: self.name, parameter: info.name, got: text.to_owned(), rule: info.rule }
        })
    }
}

/// What methods are built from. A method whose topology never changes has no use for it.
#[derive(Debug, Clone, PartialEq)]
pub struct MethodOptions {
    /// When the topology changes.
    pub schedule: UpdateSchedule,
    /// Seed of all random choices.
    pub seed: u64,
    /// Batches over which the training loop sums the gradient that growth uses; 1 in the paper. Only the FLOPs depend on it.
    pub growth_batches: u64,
    /// Steps of the whole training: what the FLOPs of a method whose density falls depend on, and stages of a training.
    pub total_steps: u64,
    /// Parameters of the method by name, see [`MethodInfo::parameters`].
    pub parameters: BTreeMap<String, String>,
}

impl MethodOptions {
    /// Seed 0, growth by one batch, the method's own parameters.
    pub fn new(schedule: UpdateSchedule, total_steps: u64) -> Self {
        Self { schedule, seed: 0, growth_batches: 1, total_steps, parameters: BTreeMap::new() }
    }
}

/// A way to choose which weights exist while a network trains. The module's page shows how it is driven.
pub trait Method: fmt::Debug + Send {
    /// Its entry in the registry.
    fn info(&self) -> &'static MethodInfo;

    /// The name it is built by.
    fn name(&self) -> &'static str {
        self.info().name
    }

    /// Called once, before the first step of a new run. Returns changes to the random patterns and values that the network
    /// starts with.
    ///
    /// # Errors
    /// If the device fails.
    fn start(&mut self, _layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        Ok(vec![])
    }

    /// Says what step `step` does and which gradients it needs. At a topology update this is where the drop set is
    /// chosen.
    ///
    /// # Errors
    /// If the device fails.
    fn before_gradient(&mut self, _step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        Ok(StepIntent::ordinary(layers.len()))
    }

    /// Called between gradient and optimizer step, with one list of candidates per layer: those found where
    /// [`GradientNeed::Growth`] or [`GradientNeed::Explore`] was asked for, else none. Returns topology changes to make before the optimizer step.
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

    /// Called after an optimizer step, with the counter it has advanced and the learning rate it took. Returns topology
    /// changes.
    ///
    /// # Errors
    /// If the device fails.
    fn after_optimizer(
        &mut self,
        _step: u64,
        _learning_rate: f32,
        _layers: &dyn Layers,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        Ok(vec![])
    }

    /// Operations of a training step per sample, from those of a forward pass of the sparse and of the dense network
    /// (appendix H of the paper); see [`crate::flops::training_flops_ratio`]. Where the network's cost moves while it
    /// trains, `f_sparse` is the mean over the steps.
    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        self.info().training.flops(f_sparse, f_dense)
    }

    /// The sparse forward pass's operations, averaged over a training that has not run yet. `f_sparse` is the cost at the
    /// requested densities; the mean differs if density falls. If weights move between layers, the mean cannot be known in
    /// advance, and `f_sparse` stands in for it.
    fn mean_forward_flops(&self, f_sparse: f64, _f_dense: f64) -> f64 {
        f_sparse
    }

    /// Bytes that the method itself holds, beside the network, its gradients and its optimizer slots.
    fn held_bytes(&self, _layers: &dyn Layers) -> usize {
        0
    }

    /// What to put into a checkpoint between two steps.
    fn state(&self) -> MethodState {
        MethodState::new(self.name(), ScheduleState::default())
    }

    /// Restores a state.
    ///
    /// # Errors
    /// If it belongs to another method, or something is missing.
    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        check_state(self.name(), state)
    }
}

/// Refuses the state of another method.
pub(crate) fn check_state(expected: &'static str, state: &MethodState) -> Result<(), MethodError> {
    if state.method == expected { Ok(()) } else { Err(MethodError::State { expected, got: state.method.clone() }) }
}

/// A method that never changes the topology.
#[derive(Debug)]
struct Fixed(&'static MethodInfo);

impl Method for Fixed {
    fn info(&self) -> &'static MethodInfo {
        self.0
    }
}
