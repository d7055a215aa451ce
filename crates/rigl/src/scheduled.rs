//! The frame of all methods that rewire layers by the schedule: drop some entries of each layer, grow others.
//!
//! [`Scheduled`] asks the schedule, follows its loop semantics, holds what an update has dropped until the gradient is
//! there, and saves and restores its state. A [`Rewiring`] says what is dropped and what is grown. Without overrides it is
//! SET: the smallest weights are dropped, and as many grow at random.
//!
//! ```text
//! at an update: for each layer
//!     kept    = keep(layer)                                before the gradient, or after the optimizer step
//!     counts  = counts(kept of all layers)
//!     grown   = grow(layer, kept, counts[layer])           after the gradient
//!     pattern = kept ∪ grown
//! ```

use std::fmt;

use sparse_kernels::Candidate;
use sparse_kernels::random::Key;

use crate::flops::TrainingRule;
use crate::method::{
    GradientNeed, Layer, LayerUpdate, Layers, Method, MethodError, MethodInfo, MethodOptions, MethodState, StepIntent,
    UpdateGradient, UpdateTimes, check_state,
};
use crate::schedule::{ScheduleState, UpdateSchedule};
use crate::topology::{Kept, fill_with_dropped, random_growth};

/// One update of the topology.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Update {
    /// Its step.
    pub step: u64,
    /// The schedule that it follows.
    pub schedule: UpdateSchedule,
    /// Seed of the run.
    pub seed: u64,
}

impl Update {
    /// How many of `nnz` entries the update drops, see [`UpdateSchedule::drop_count`].
    pub fn drop_count(&self, nnz: usize) -> usize {
        self.schedule.drop_count(self.step, nnz)
    }

    /// The key of one purpose's random numbers in this update of a layer.
    pub fn key(&self, purpose: &str, layer: Layer<'_>) -> Key {
        layer.key(self.seed, purpose).with(self.step)
    }
}

/// What a scheduled method drops and grows. A layer whose update drops and grows nothing keeps its pattern.
pub trait Rewiring: fmt::Debug + Send + Sized + 'static {
    /// What a step without an update needs of a layer's gradient.
    const EVERY_STEP: GradientNeed = GradientNeed::Sampled;

    /// Reads the method's parameters.
    ///
    /// # Errors
    /// If one is impossible.
    fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError>;

    /// Changes to the patterns and values that a network starts with; none by default.
    ///
    /// # Errors
    /// If the device fails.
    fn start(&mut self, _seed: u64, _layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        Ok(vec![])
    }

    /// Looks at all layers before an update; by default it does not.
    ///
    /// # Errors
    /// If the device fails.
    fn begin(&mut self, _update: &Update, _layers: &dyn Layers) -> Result<(), MethodError> {
        Ok(())
    }

    /// The entries of a layer that stay; by default all but the smallest, as many as the schedule drops.
    ///
    /// # Errors
    /// If the device fails.
    fn keep(&self, update: &Update, layer: Layer<'_>) -> Result<Kept, MethodError> {
        layer.drop_smallest(update.drop_count(layer.pattern().nnz()))
    }

    /// What growth needs of a layer's gradient; nothing by default. Not asked if updates follow the optimizer step.
    ///
    /// # Errors
    /// If `kept` is of another pattern.
    fn need(&self, _update: &Update, _layer: Layer<'_>, _kept: &Kept) -> Result<GradientNeed, MethodError> {
        Ok(GradientNeed::None)
    }

    /// How many positions [`GradientNeed::Explore`] samples, in parts of the entries of a layer.
    fn sample(&self) -> f64 {
        0.0
    }

    /// The entries that stay, once the gradient is there; by default those that were kept before.
    ///
    /// # Errors
    /// If there is no gradient, or the device fails.
    fn keep_after_gradient(&mut self, _update: &Update, _layer: Layer<'_>, kept: Kept) -> Result<Kept, MethodError> {
        Ok(kept)
    }

    /// Looks at the gradient of each step; by default it does not.
    ///
    /// # Errors
    /// If there is no gradient, or the device fails.
    fn observe(&mut self, _layers: &dyn Layers) -> Result<(), MethodError> {
        Ok(())
    }

    /// How many entries each layer grows; by default as many as it drops.
    fn counts(&mut self, _update: &Update, _layers: &dyn Layers, kept: &[Kept]) -> Vec<usize> {
        kept.iter().map(Kept::dropped_count).collect()
    }

    /// The `count` positions that a layer grows, none of them kept; at random by default. `candidates` answer a need for
    /// [`GradientNeed::Growth`].
    ///
    /// # Errors
    /// If something does not fit the layer, or the device fails.
    fn grow(
        &self,
        update: &Update,
        layer: Layer<'_>,
        kept: &Kept,
        count: usize,
        _candidates: &[Candidate],
    ) -> Result<Vec<(u32, u32)>, MethodError> {
        Ok(random_growth(&layer.kept_pattern(kept)?, count, update.key("grow", layer)))
    }

    /// All weights of a layer after an update with this map, see [`LayerUpdate::values`]; by default survivors keep theirs
    /// and newcomers are zero.
    ///
    /// # Errors
    /// If the device fails.
    fn values(&self, _update: &Update, _layer: Layer<'_>, _map: &[u32]) -> Result<Option<Vec<f32>>, MethodError> {
        Ok(None)
    }

    /// See [`Method::mean_forward_flops`].
    fn mean_forward_flops(&self, _schedule: &UpdateSchedule, _total_steps: u64, f_sparse: f64, _f_dense: f64) -> f64 {
        f_sparse
    }

    /// See [`Method::held_bytes`].
    fn held_bytes(&self, _layers: &dyn Layers) -> usize {
        0
    }

    /// Adds what must survive between steps to a checkpoint.
    fn save(&self, _state: &mut MethodState) {}

    /// Takes back what was saved.
    ///
    /// # Errors
    /// If something is missing.
    fn load(&mut self, _state: &MethodState) -> Result<(), MethodError> {
        Ok(())
    }
}

/// The candidates as positions, and if there are fewer than `count`, the largest of the entries that were dropped.
///
/// # Errors
/// If `kept` does not fit the layer, or the device fails.
pub(crate) fn candidates_or_dropped(
    layer: Layer<'_>,
    kept: &Kept,
    count: usize,
    candidates: &[Candidate],
) -> Result<Vec<(u32, u32)>, MethodError> {
    let mut grown = candidates.iter().map(|c| (c.row, c.column)).collect::<Vec<_>>();
    if grown.len() < count {
        layer.named(fill_with_dropped(layer.pattern(), &layer.values()?, kept, count, &mut grown))?;
    }
    Ok(grown)
}

/// A method whose updates follow the schedule.
#[derive(Debug, Clone)]
pub struct Scheduled<R> {
    info: &'static MethodInfo,
    schedule: UpdateSchedule,
    pub(crate) state: ScheduleState,
    seed: u64,
    growth_batches: u64,
    total_steps: u64,
    pub(crate) rewiring: R,
    /// What each layer keeps, between the two calls of an update that replaces a step.
    kept: Option<Vec<Kept>>,
}

impl MethodInfo {
    /// A sparse method that drops a share of the weights and grows others by the schedule.
    pub const fn scheduled<R: Rewiring>(name: &'static str) -> Self {
        let build =
            |info, options: &MethodOptions| Scheduled::<R>::new(info, options).map(|method| Box::new(method) as _);
        Self { updates: UpdateTimes::Scheduled, drops_a_fraction: true, ..Self::new(name, build) }
    }
}

impl<R: Rewiring> Scheduled<R> {
    /// The method of an entry.
    ///
    /// # Errors
    /// If a parameter is impossible, or the method grows by the gradient and the schedule has updates follow the optimizer.
    pub fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError> {
        let rewiring = R::new(info, options)?;
        if info.ends_with_last_update && options.schedule.last_update().is_none() {
            return Err(MethodError::Endless { method: info.name });
        }
        let &MethodOptions { schedule, seed, growth_batches, total_steps, .. } = options;
        if info.update_gradient != UpdateGradient::None && !schedule.options().semantics.update_replaces_step {
            let reason = match info.update_gradient {
                UpdateGradient::Entries => "the gradient it drops by is that of the weights before a step",
                _ => "the gradient it grows by is that of the weights before a step",
            };
            return Err(MethodError::Semantics { method: info.name, reason });
        }
        let state = ScheduleState::default();
        Ok(Self { info, schedule, state, seed, growth_batches, total_steps, rewiring, kept: None })
    }

    /// The update of this step if one fires before (`replaces`) or after the optimizer step, and what each layer keeps.
    fn begin(
        &mut self,
        step: u64,
        layers: &dyn Layers,
        replaces: bool,
    ) -> Result<Option<(Update, Vec<Kept>)>, MethodError> {
        let semantics = self.schedule.options().semantics;
        if semantics.update_replaces_step != replaces || !self.schedule.fires(step, &self.state) {
            return Ok(None);
        }
        let update = Update { step, schedule: self.schedule, seed: self.seed };
        self.rewiring.begin(&update, layers)?;
        let kept = layers.iter().map(|layer| self.rewiring.keep(&update, layer)).collect::<Result<_, _>>()?;
        self.state.record(step);
        Ok(Some((update, kept)))
    }

    fn finish(
        &mut self,
        update: &Update,
        layers: &dyn Layers,
        kept: &[Kept],
        candidates: &[Vec<Candidate>],
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        let counts = self.rewiring.counts(update, layers, kept);
        let mut updates = vec![];
        for (i, (layer, (kept, count))) in layers.iter().zip(kept.iter().zip(counts)).enumerate() {
            if kept.dropped_count() > 0 || count > 0 {
                let candidates = candidates.get(i).map_or(&[][..], Vec::as_slice);
                let grown = self.rewiring.grow(update, layer, kept, count, candidates)?;
                let mut new = layer.rewired(kept, &grown)?;
                new.values = self.rewiring.values(update, layer, &new.map)?;
                updates.push(new);
            }
        }
        Ok(updates)
    }
}

impl<R: Rewiring> Method for Scheduled<R> {
    fn info(&self) -> &'static MethodInfo {
        self.info
    }

    fn start(&mut self, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        self.rewiring.start(self.seed, layers)
    }

    fn before_gradient(&mut self, step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        self.kept = None;
        let Some((update, kept)) = self.begin(step, layers, true)? else {
            return Ok(StepIntent { needs: vec![R::EVERY_STEP; layers.len()], ..StepIntent::ordinary(0) });
        };
        let need = |(layer, kept)| self.rewiring.need(&update, layer, kept);
        let needs = layers.iter().zip(&kept).map(need).collect::<Result<_, _>>()?;
        self.kept = Some(kept);
        let advance_counter = self.schedule.options().semantics.update_advances_counter;
        Ok(StepIntent { needs, optimizer_step: false, advance_counter })
    }

    fn after_gradient(
        &mut self,
        step: u64,
        layers: &dyn Layers,
        candidates: Vec<Vec<Candidate>>,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        self.rewiring.observe(layers)?;
        let Some(kept) = self.kept.take() else { return Ok(vec![]) };
        if candidates.len() != kept.len() {
            return Err(MethodError::Candidates {
                method: self.info.name,
                expected: kept.len(),
                got: candidates.len(),
            });
        }
        let update = Update { step, schedule: self.schedule, seed: self.seed };
        let keep = |(layer, kept)| self.rewiring.keep_after_gradient(&update, layer, kept);
        let kept: Vec<_> = layers.iter().zip(kept).map(keep).collect::<Result<_, _>>()?;
        self.finish(&update, layers, &kept, &candidates)
    }

    fn after_optimizer(&mut self, step: u64, _: f32, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        match self.begin(step, layers, false)? {
            Some((update, kept)) => self.finish(&update, layers, &kept, &[]),
            None => Ok(vec![]),
        }
    }

    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        let update_interval = self.schedule.options().update_interval;
        let batches = self.growth_batches;
        let rule = match self.info.update_gradient {
            UpdateGradient::Dense => TrainingRule::GradientGrowth { update_interval, batches },
            UpdateGradient::Whole => TrainingRule::GradientGrowth { update_interval, batches: 1 },
            UpdateGradient::Sample => {
                TrainingRule::SampledGrowth { update_interval, batches, sample: self.rewiring.sample() }
            }
            UpdateGradient::None | UpdateGradient::Entries => self.info.training,
        };
        rule.flops(f_sparse, f_dense)
    }

    fn mean_forward_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        self.rewiring.mean_forward_flops(&self.schedule, self.total_steps, f_sparse, f_dense)
    }

    fn held_bytes(&self, layers: &dyn Layers) -> usize {
        self.rewiring.held_bytes(layers)
    }

    fn state(&self) -> MethodState {
        let mut state = MethodState::new(self.info.name, self.state);
        self.rewiring.save(&mut state);
        state
    }

    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        check_state(self.info.name, state)?;
        self.rewiring.load(state)?;
        (self.state, self.kept) = (state.schedule, None);
        Ok(())
    }
}
