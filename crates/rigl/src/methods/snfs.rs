//! SNFS, sparse networks from scratch, also called sparse momentum (Dettmers and Zettlemoyer 2019, arXiv 1907.04840): grow
//! where a moving average of the dense gradient is largest.
//!
//! ```text
//! at every step: for each layer
//!     m ← ema · m + (1 − ema) · dL/dW                                at all positions
//! at an update: for each layer
//!     n       = trunc(f(step) · nnz)
//!     kept    = all entries but the n of smallest |w|
//!     grown   = n positions outside kept where |m| is largest
//!     pattern = kept ∪ grown; newcomers start at zero
//! ```
//!
//! This is google-research/rigl's form (`rigl/sparse_optimizers.py`, SparseMomentumOptimizer), which the paper ran: a layer's
//! number of weights never changes. The original (TimDettmers/sparse_learning) moves weights between layers, and is had with
//! `redistribution = momentum`: what all layers have dropped is grown in proportion to the mean |m| over the weights that
//! a layer keeps, at most 99 % of the positions that are then free in it; what does not fit goes to the others. Not taken over
//! from there: the smaller fraction that nearly dense layers drop, and the optimizer's momentum in the place of m.
//!
//! The gradient is that of the loss alone, without weight decay.
//!
//! # What is dense
//!
//! m and the gradient, 8 bytes a position, and a dense product for the gradient of the weights in every step: `2 f_S + f_D`
//! operations.

use std::collections::BTreeMap;

use sparse_kernels::Candidate;
use sparse_kernels::random::Key;

use super::redistribution::spread;
use crate::flops::TrainingRule;
use crate::method::{
    GradientNeed, LayerUpdate, Layers, Method, MethodError, MethodInfo, MethodOptions, MethodState, ParameterInfo,
    StepIntent, UpdateTimes, check_state, in_layer,
};
use crate::schedule::{ScheduleState, UpdateSchedule};
use crate::topology::{Kept, kept_pattern, largest_outside, rewire, select_kept};

pub(super) const INFO: MethodInfo = MethodInfo {
    summary: "drops the smallest weights, grows where the mean gradient is largest",
    updates: UpdateTimes::Scheduled,
    drops_a_fraction: true,
    blocks: false,
    parameters: &[
        ParameterInfo {
            name: "ema",
            default: "0.9",
            rule: "at least 0 and below 1",
            summary: "how much of the moving average a step leaves",
        },
        ParameterInfo {
            name: "redistribution",
            default: "none",
            rule: "none or momentum",
            summary: "whether weights move between layers, to where the moving average is larger",
        },
    ],
    ..MethodInfo::fixed("snfs", build)
};

/// The share of a layer's free positions that redistribution may fill.
const MOST_OF_FREE: f64 = 0.99;

/// Drops the smallest weights and grows where the moving average of the gradient is largest.
#[derive(Debug, Clone, PartialEq)]
pub struct Snfs {
    schedule: UpdateSchedule,
    state: ScheduleState,
    seed: u64,
    ema: f32,
    redistributes: bool,
    /// Of each layer, by name: the moving average at all positions. Empty before the first gradient.
    averages: BTreeMap<String, Vec<f32>>,
    /// Set between [`Method::before_gradient`] and [`Method::after_gradient`] of an update that replaces a step.
    updating: bool,
}

fn build(options: &MethodOptions) -> Result<Box<dyn Method>, MethodError> {
    Ok(Box::new(Snfs::new(options)?))
}

impl Snfs {
    /// SNFS with this schedule and seed.
    ///
    /// # Errors
    /// If a parameter is impossible.
    pub fn new(options: &MethodOptions) -> Result<Self, MethodError> {
        let known = |how: &String| how == "none" || how == "momentum";
        let redistribution: String = INFO.parameter(options, "redistribution", known)?;
        Ok(Self {
            schedule: options.schedule,
            state: ScheduleState::default(),
            seed: options.seed,
            ema: INFO.parameter(options, "ema", |ema: &f32| (0.0..1.0).contains(ema))?,
            redistributes: redistribution == "momentum",
            averages: BTreeMap::new(),
            updating: false,
        })
    }

    fn average(&mut self, layers: &dyn Layers) -> Result<(), MethodError> {
        for layer in 0..layers.len() {
            let gradient = layers.dense_gradient(layer)?;
            let average = self.averages.entry(layers.name(layer).to_owned());
            let average = average.or_insert_with(|| vec![0.0; gradient.len()]);
            for (m, g) in average.iter_mut().zip(&gradient) {
                *m = self.ema * *m + (1.0 - self.ema) * g;
            }
        }
        Ok(())
    }

    fn update(&self, step: u64, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        let kept = |layer: usize| {
            let count = self.schedule.drop_count(step, layers.pattern(layer).nnz());
            select_kept(&layers.values(layer)?, count).map_err(in_layer(layers, layer))
        };
        let kept = (0..layers.len()).map(kept).collect::<Result<Vec<_>, _>>()?;
        let counts = if self.redistributes {
            self.redistributed(layers, &kept)
        } else {
            kept.iter().map(Kept::dropped_count).collect()
        };
        let mut updates = vec![];
        for (layer, (kept, count)) in kept.iter().zip(counts).enumerate() {
            if kept.dropped_count() == 0 && count == 0 {
                continue;
            }
            let pattern = layers.pattern(layer);
            let exclude = kept_pattern(pattern, kept).map_err(in_layer(layers, layer))?;
            let ties = Key::new(self.seed).with_name("ties").with_name(layers.name(layer)).with(step);
            let average = &self.averages[layers.name(layer)];
            let grown = largest_outside(average, &exclude, count, ties).map_err(in_layer(layers, layer))?;
            let rewired = rewire(pattern, kept, &grown).map_err(in_layer(layers, layer))?;
            updates.push(LayerUpdate::of(layer, rewired));
        }
        Ok(updates)
    }

    /// How many weights each layer grows.
    fn redistributed(&self, layers: &dyn Layers, kept: &[Kept]) -> Vec<usize> {
        let (mut shares, mut room) = (vec![], vec![]);
        for (layer, kept) in kept.iter().enumerate() {
            let (pattern, average) = (layers.pattern(layer), &self.averages[layers.name(layer)]);
            let ncols = pattern.ncols();
            let stays = pattern.positions().enumerate().filter(|(e, _)| kept.is_kept(*e));
            let magnitudes =
                stays.map(|(_, (row, column))| f64::from(average[row as usize * ncols + column as usize].abs()));
            shares.push(magnitudes.sum::<f64>() / kept.kept_count().max(1) as f64);
            let free = pattern.nrows() * ncols - kept.kept_count();
            // A layer that is nearly full may always take back what it dropped.
            room.push(((MOST_OF_FREE * free as f64) as usize).max(kept.dropped_count()));
        }
        spread(kept.iter().map(Kept::dropped_count).sum(), &shares, &room)
    }
}

impl Method for Snfs {
    fn info(&self) -> &'static MethodInfo {
        &INFO
    }

    fn before_gradient(&mut self, step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        let semantics = self.schedule.options().semantics;
        self.updating = semantics.update_replaces_step && self.schedule.fires(step, &self.state);
        let needs = vec![GradientNeed::Dense; layers.len()];
        if !self.updating {
            return Ok(StepIntent { needs, optimizer_step: true, advance_counter: true });
        }
        self.state.record(step);
        Ok(StepIntent { needs, optimizer_step: false, advance_counter: semantics.update_advances_counter })
    }

    fn after_gradient(
        &mut self,
        step: u64,
        layers: &dyn Layers,
        _candidates: Vec<Vec<Candidate>>,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        self.average(layers)?;
        if std::mem::take(&mut self.updating) { self.update(step, layers) } else { Ok(vec![]) }
    }

    fn after_optimizer(
        &mut self,
        step: u64,
        _learning_rate: f32,
        layers: &dyn Layers,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        if self.schedule.options().semantics.update_replaces_step || !self.schedule.fires(step, &self.state) {
            return Ok(vec![]);
        }
        self.state.record(step);
        self.update(step, layers)
    }

    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        TrainingRule::DenseGradient.flops(f_sparse, f_dense)
    }

    fn held_bytes(&self, layers: &dyn Layers) -> usize {
        let positions = |layer| layers.pattern(layer).nrows() * layers.pattern(layer).ncols();
        8 * (0..layers.len()).map(positions).sum::<usize>()
    }

    fn state(&self) -> MethodState {
        MethodState { arrays: self.averages.clone(), ..MethodState::new(INFO.name, self.state) }
    }

    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        check_state(INFO.name, state)?;
        (self.state, self.averages, self.updating) = (state.schedule, state.arrays.clone(), false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::methods::test_loop::{Net, options_with};
    use crate::schedule::LoopSemantics;

    /// Half of four weights are replaced, by the mean of two gradients that the last one alone would not lead to.
    #[test]
    fn eight_weights_by_hand() {
        let mut options = options_with(LoopSemantics::PAPER, "ema", "0.5");
        let base = *options.schedule.options();
        let schedule = crate::ScheduleOptions { begin_step: 1, drop_fraction: 0.5, ..base };
        options.schedule = UpdateSchedule::new(schedule).unwrap();
        let mut net = Net::by_hand(&[(&[&[0, 1, 3, 6]], 8, &[0.5, -0.1, 0.2, -0.4])]);
        let mut snfs = Snfs::new(&options).unwrap();
        net.given_gradients = vec![vec![0.0, 0.0, 8.0, 0.0, -1.0, 0.0, 0.0, 0.0]];
        // One step, whose optimizer changes weights as little as makes no difference to their order.
        assert_eq!(net.run(&mut snfs, 1).updates, [0u64; 0]);
        assert_eq!(snfs.averages["a"], [0.0, 0.0, 4.0, 0.0, -0.5, 0.0, 0.0, 0.0]);
        net.values[0] = vec![0.5, -0.1, 0.2, -0.4];
        net.given_gradients = vec![vec![0.0, 0.0, 0.0, 0.0, -1.0, 3.0, 0.0, 0.0]];
        assert_eq!(net.run(&mut snfs, 1).updates, [1]);
        assert_eq!(snfs.averages["a"], [0.0, 0.0, 2.0, 0.0, -0.75, 1.5, 0.0, 0.0]);
        assert_eq!((net.columns(0), &net.values[0][..]), (&[0, 2, 5, 6][..], &[0.5, 0.0, 0.0, -0.4][..]));
    }

    /// Both layers drop two of four; what they keep has mean magnitudes 3 and 1, so that three are due to the first.
    #[test]
    fn weights_move_to_where_the_mean_gradient_is_larger() {
        let mut options = options_with(LoopSemantics::PAPER, "redistribution", "momentum");
        let base = *options.schedule.options();
        options.schedule =
            UpdateSchedule::new(crate::ScheduleOptions { begin_step: 0, drop_fraction: 0.5, ..base }).unwrap();
        let layer: (&[&[u32]], usize, &[f32]) = (&[&[0, 1, 2, 3]], 8, &[0.5, -0.1, 0.2, -0.4]);
        let mut net = Net::by_hand(&[layer, layer]);
        net.given_gradients =
            vec![vec![20.0, 0.0, 0.0, 40.0, 1.0, 2.0, 3.0, 4.0], vec![10.0, 0.0, 0.0, 10.0, 1.0, 2.0, 3.0, 4.0]];
        let mut snfs = Snfs::new(&options).unwrap();
        assert_eq!(net.run(&mut snfs, 1).updates, [0]);
        assert_eq!(net.columns(0), [0, 3, 5, 6, 7]);
        assert_eq!(net.columns(1), [0, 3, 7]);
    }

    proptest! {
        #[test]
        fn numbers_stay(seed in 0u64..1000, redistributes in any::<bool>(), after in any::<bool>()) {
            let semantics = if after { LoopSemantics::TF1_SET } else { LoopSemantics::PAPER };
            let how = if redistributes { "momentum" } else { "none" };
            let options = MethodOptions { seed, ..options_with(semantics, "redistribution", how) };
            let mut snfs = Snfs::new(&options).unwrap();
            let mut net = Net::new(seed);
            let counts = net.counts();
            for _ in 0..20 {
                net.run(&mut snfs, 1);
                prop_assert_eq!(net.counts().iter().sum::<usize>(), counts.iter().sum::<usize>());
                prop_assert!(redistributes || net.counts() == counts);
            }
            prop_assert_eq!(snfs.held_bytes(&net), 8 * (12 * 20 + 20 * 9 + 30 * 30));
        }
    }
}
