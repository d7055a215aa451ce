//! SET, sparse evolutionary training (Mocanu et al. 2018), as the paper runs it: drop the smallest magnitudes, grow
//! at random, at the steps and with the fractions of the schedule.
//!
//! ```text
//! at an update: for each layer
//!     n       = trunc(f(step) · nnz)
//!     kept    = all entries but the n of smallest |w|
//!     grown   = n positions outside kept, at random
//!     pattern = kept ∪ grown; newcomers start at zero
//! ```
//!
//! The original differs: once an epoch, a fixed fraction of the positive and of the negative weights, newcomers drawn
//! from a normal distribution.

use sparse_kernels::Candidate;
use sparse_kernels::random::Key;

use crate::flops::TrainingRule;
use crate::method::{
    GradientNeed, LayerUpdate, Layers, Method, MethodError, MethodOptions, MethodState, StepIntent, WeightStorage,
    check_state, in_layer,
};
use crate::schedule::{ScheduleState, UpdateSchedule};
use crate::topology::{kept_pattern, random_growth, rewire, select_kept};

pub(super) const NAME: &str = "set";

/// Drops the smallest weights and grows as many at random positions.
///
/// Under [`crate::LoopSemantics::PAPER`] and [`crate::LoopSemantics::TF1_RIGL`] an update takes the place of an
/// optimizer step, and no gradient is needed for it; under [`crate::LoopSemantics::TF1_SET`] it follows the step.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    schedule: UpdateSchedule,
    state: ScheduleState,
    seed: u64,
    /// Set between [`Method::before_gradient`] and [`Method::after_gradient`] of an update that replaces a step.
    updating: bool,
}

pub(super) fn build(options: &MethodOptions) -> Result<Box<dyn Method>, MethodError> {
    Ok(Box::new(Set::new(options)))
}

impl Set {
    /// SET with this schedule and seed.
    pub fn new(options: &MethodOptions) -> Self {
        Self { schedule: options.schedule, state: ScheduleState::default(), seed: options.seed, updating: false }
    }

    fn update(&self, step: u64, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        let mut updates = vec![];
        for layer in 0..layers.len() {
            let pattern = layers.pattern(layer);
            let count = self.schedule.drop_count(step, pattern.nnz());
            if count == 0 {
                continue;
            }
            let key = Key::new(self.seed).with_name("grow").with_name(layers.name(layer)).with(step);
            let kept = select_kept(&layers.values(layer)?, count).map_err(in_layer(layers, layer))?;
            let exclude = kept_pattern(pattern, &kept).map_err(in_layer(layers, layer))?;
            let grown = random_growth(&exclude, count, key);
            let rewired = rewire(pattern, &kept, &grown).map_err(in_layer(layers, layer))?;
            updates.push(LayerUpdate { layer, pattern: rewired.pattern, map: rewired.map });
        }
        Ok(updates)
    }
}

impl Method for Set {
    fn name(&self) -> &'static str {
        NAME
    }

    fn storage(&self) -> WeightStorage {
        WeightStorage::Sparse
    }

    fn before_gradient(&mut self, step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        let semantics = self.schedule.options().semantics;
        self.updating = semantics.update_replaces_step && self.schedule.fires(step, &self.state);
        if !self.updating {
            return Ok(StepIntent::ordinary(layers.len()));
        }
        self.state.record(step);
        Ok(StepIntent {
            needs: vec![GradientNeed::None; layers.len()],
            optimizer_step: false,
            advance_counter: semantics.update_advances_counter,
        })
    }

    fn after_gradient(
        &mut self,
        step: u64,
        layers: &dyn Layers,
        _candidates: Vec<Vec<Candidate>>,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        if std::mem::take(&mut self.updating) { self.update(step, layers) } else { Ok(vec![]) }
    }

    fn after_optimizer(&mut self, step: u64, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        if self.schedule.options().semantics.update_replaces_step || !self.schedule.fires(step, &self.state) {
            return Ok(vec![]);
        }
        self.state.record(step);
        self.update(step, layers)
    }

    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        TrainingRule::Sparse.flops(f_sparse, f_dense)
    }

    fn state(&self) -> MethodState {
        MethodState { method: NAME.to_owned(), schedule: self.state }
    }

    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        check_state(NAME, state)?;
        self.state = state.schedule;
        self.updating = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::test_loop::{Net, options};
    use crate::schedule::LoopSemantics;

    #[test]
    fn an_update_in_place_of_a_step() {
        let mut net = Net::new(1);
        let mut set = Set::new(&options(LoopSemantics::PAPER));
        let changed: Vec<u64> = net.run(&mut set, 20).updates;
        assert_eq!(changed, [2, 5, 8, 11]);
        assert_eq!((net.step, net.optimizer_steps), (20, 16));
    }

    /// google-research/rigl, `rigl/sparse_optimizers_test.py`: with (1, 4, 2) masks change after steps 1 and 3.
    #[test]
    fn an_update_after_a_step() {
        let mut net = Net::new(1);
        let mut options = options(LoopSemantics::TF1_SET);
        options.schedule = net.schedule(1, 4, 2, LoopSemantics::TF1_SET);
        let mut set = Set::new(&options);
        assert_eq!(net.run(&mut set, 11).updates, [1, 3]);
        assert_eq!((net.step, net.optimizer_steps), (11, 11));
    }

    #[test]
    fn one_seed_one_topology() {
        let run = |seed| {
            let mut net = Net::new(1);
            let mut options = options(LoopSemantics::PAPER);
            options.seed = seed;
            net.run(&mut Set::new(&options), 20);
            net.patterns
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn an_update_drops_its_share() {
        let mut net = Net::new(1);
        let before = net.patterns.clone();
        net.run(&mut Set::new(&options(LoopSemantics::PAPER)), 3);
        for (old, new) in before.iter().zip(&net.patterns) {
            let dropped = (0.3 * old.nnz() as f64) as usize;
            let stayed = new.positions().filter(|p| old.positions().any(|q| q == *p)).count();
            assert!((old.nnz() - dropped..old.nnz()).contains(&stayed), "{stayed} of {} stayed", old.nnz());
        }
    }

    #[test]
    fn resumes_bit_for_bit() {
        let mut whole = Net::new(3);
        whole.run(&mut Set::new(&options(LoopSemantics::PAPER)), 20);
        let mut first = Set::new(&options(LoopSemantics::PAPER));
        let mut net = Net::new(3);
        net.run(&mut first, 7);
        let mut second = Set::new(&options(LoopSemantics::PAPER));
        second.restore(&first.state()).unwrap();
        net.run(&mut second, 13);
        assert_eq!(net, whole);
    }
}
