//! Gradual magnitude pruning (Zhu and Gupta 2017, arXiv 1710.01878), the paper's "Pruning" rows: a dense network that loses
//! its smallest weights while it trains.
//!
//! ```text
//! after a step at which the schedule fires, or which is the end of its window:
//!     for each layer
//!         density = d + (1 − d) · (1 − progress)³            d: the density that the layer is to end with
//!         keep the N − floor((1 − density) · N) weights of largest |w|
//! ```
//!
//! * A layer is stored dense, and costs what a dense layer costs, until the first pruning, and in CSR from there on: with
//!   densities above about a half a step then takes longer than a dense one.
//! * A pruned weight is gone. In the authors' code (TensorFlow's `model_pruning`) its value stays behind the mask and can
//!   come back when others become smaller than it.
//! * That code prunes at `begin + n · interval` only, so that a window that is no multiple of the interval ends above the
//!   density asked for. Here the end of the window is a pruning, too.
//! * The threshold is exact where the code takes one of 255 bins of a histogram.

use crate::flops::GradualPruning;
use crate::method::{
    LayerUpdate, Layers, Method, MethodError, MethodInfo, MethodOptions, MethodState, UpdateTimes, WeightStorage,
    check_state,
};
use crate::schedule::{ScheduleState, UpdateSchedule};
use crate::{FlopsError, nnz_for_density};

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "starts dense, then prunes the smallest weights step by step",
    storage: WeightStorage::DenseFirst,
    updates: UpdateTimes::Scheduled,
    blocks: false,
    ..MethodInfo::new("gmp", |_, options| Ok(Box::new(Gmp::new(options))))
};

/// Prunes by magnitude along a cubic schedule, from `begin_step` to `end_step` of the update schedule.
#[derive(Debug, Clone, PartialEq)]
pub struct Gmp {
    schedule: UpdateSchedule,
    state: ScheduleState,
    total_steps: u64,
}

impl Gmp {
    /// Pruning in the window of this schedule.
    pub fn new(options: &MethodOptions) -> Self {
        Self { schedule: options.schedule, state: ScheduleState::default(), total_steps: options.total_steps }
    }

    /// The cubic schedule to a final density; in a schedule without an end, to the end of training.
    fn pruning(&self, density: f64) -> Result<GradualPruning, FlopsError> {
        let options = self.schedule.options();
        let end = options.end_step.unwrap_or(self.total_steps);
        GradualPruning::new(options.begin_step, end, options.update_interval, density)
    }

    fn fires(&self, step: u64) -> bool {
        let end = self.schedule.options().end_step;
        Some(step) == end || end.is_none_or(|end| step < end) && self.schedule.fires(step, &self.state)
    }
}

impl Method for Gmp {
    fn info(&self) -> &'static MethodInfo {
        &INFO
    }

    fn after_optimizer(
        &mut self,
        step: u64,
        _learning_rate: f32,
        layers: &dyn Layers,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        if !self.fires(step) {
            return Ok(vec![]);
        }
        self.state.record(step);
        let mut updates = vec![];
        for layer in layers.iter() {
            let (size, target, nnz) = (layer.positions(), layer.target_nnz(), layer.pattern().nnz());
            // A window that was checked when the schedule was built.
            let pruning = self.pruning(target as f64 / size as f64).expect("a schedule's window is not empty");
            let wanted = nnz_for_density(size, pruning.density(step)).max(target);
            if wanted < nnz {
                updates.push(layer.rewired(&layer.drop_smallest(nnz - wanted)?, &[])?);
            }
        }
        Ok(updates)
    }

    fn mean_forward_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        // A layer's operations grow linearly with its density, and all layers follow one curve: so does their sum.
        match self.pruning(0.0) {
            Ok(pruning) => pruning.training_flops(self.total_steps, |way| f_sparse + way * (f_dense - f_sparse)) / 3.0,
            Err(_) => f_dense,
        }
    }

    fn state(&self) -> MethodState {
        MethodState::new(INFO.name, self.state)
    }

    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        check_state(INFO.name, state)?;
        self.state = state.schedule;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::methods::test_loop::{Net, options};
    use crate::schedule::{LoopSemantics, ScheduleOptions};

    const ALL: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7];

    /// A window from step 2 to 14, every third step; two of eight weights are to stay.
    #[test]
    fn eight_weights_by_hand() {
        let mut net = Net::by_hand(&[(&[ALL], 8, &[0.5, -0.1, 0.2, -0.4, 0.05, 0.3, -0.6, 0.7])]);
        net.targets = vec![2];
        let mut gmp = Gmp::new(&options(LoopSemantics::PAPER));
        // Densities 1, 1/4 + 3/4 · (3/4)³ = 0.566, 1/4 + 3/4 / 8 = 0.344, 0.262 and 1/4, of which 8 − floor((1 − d) · 8) stay.
        let by_step: [(u64, &[u32]); 6] =
            [(2, ALL), (5, &[0, 3, 5, 6, 7]), (6, &[0, 3, 5, 6, 7]), (8, &[0, 6, 7]), (11, &[0, 6, 7]), (14, &[6, 7])];
        for (step, columns) in by_step {
            let updates = gmp.after_optimizer(step, 0.1, &net).unwrap();
            net.apply(updates);
            assert_eq!(net.columns(0), columns, "after step {step}");
        }
        assert_eq!(net.values[0], [-0.6, 0.7]);
    }

    #[test]
    fn the_mean_is_that_of_the_published_figures() {
        let base = *options(LoopSemantics::PAPER).schedule.options();
        let schedule = ScheduleOptions { begin_step: 10_000, end_step: Some(25_000), update_interval: 1000, ..base };
        let schedule = UpdateSchedule::new(schedule).unwrap();
        let options = MethodOptions { schedule, total_steps: 32_000, ..options(LoopSemantics::PAPER) };
        let pruning = GradualPruning::new(10_000, 25_000, 1000, 0.2).unwrap();
        let expected = pruning.training_flops(32_000, |density| density) / 3.0;
        let mean = Gmp::new(&options).mean_forward_flops(0.2, 1.0);
        assert!((mean - expected).abs() < 1e-12, "{mean}, by densities {expected}");
    }

    proptest! {
        /// Densities never rise, follow the schedule, and end where they are to, with windows that are no multiple of the
        /// interval, too.
        #[test]
        fn densities_follow_the_schedule(begin in 0u64..9, length in 1u64..25, interval in 1u64..8) {
            let base = *options(LoopSemantics::PAPER).schedule.options();
            let window =
                ScheduleOptions { begin_step: begin, end_step: Some(begin + length), update_interval: interval, ..base };
            let options = MethodOptions {
                schedule: UpdateSchedule::new(window).unwrap(),
                ..options(LoopSemantics::PAPER)
            };
            let mut gmp = Gmp::new(&options);
            let mut net = Net::new(1).stored_for(&gmp);
            let mut before = net.counts();
            for _ in 0..40 {
                let record = net.run(&mut gmp, 1);
                prop_assert!(record.updates.iter().all(|step| (begin..=begin + length).contains(step)));
                for (layer, before) in before.iter().enumerate() {
                    let (size, target) = (net.patterns[layer].nrows() * net.patterns[layer].ncols(), net.targets[layer]);
                    prop_assert!(net.counts()[layer] <= *before);
                    let pruning = GradualPruning::new(begin, begin + length, interval, target as f64 / size as f64).unwrap();
                    prop_assert!(net.counts()[layer] >= nnz_for_density(size, pruning.density(net.step)).max(target));
                }
                before = net.counts();
            }
            prop_assert_eq!(net.counts(), net.targets.clone());
            prop_assert_eq!(net.optimizer_steps, 40);
        }
    }
}
