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
//! m and the gradient, 8 bytes per position, and a dense product for the gradient of the weights in every step: `2 f_S + f_D`
//! operations.

use std::collections::BTreeMap;

use sparse_kernels::Candidate;

use super::redistribution::spread;
use crate::flops::TrainingRule;
use crate::method::{GradientNeed, Layer, Layers, MethodError, MethodInfo, MethodOptions, MethodState, ParameterInfo};
use crate::scheduled::{Rewiring, Update};
use crate::topology::{Kept, largest_outside};

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "drops the smallest weights, grows where the mean gradient is largest",
    blocks: false,
    training: TrainingRule::DenseGradient,
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
    ..MethodInfo::scheduled::<Snfs>("snfs")
};

/// The share of a layer's free positions that redistribution may fill.
const MOST_OF_FREE: f64 = 0.99;

/// Drops the smallest weights and grows where the moving average of the gradient is largest.
#[derive(Debug, Clone, PartialEq)]
pub struct Snfs {
    ema: f32,
    redistributes: bool,
    /// Of each layer, by name: the moving average at all positions. Empty before the first gradient.
    averages: BTreeMap<String, Vec<f32>>,
}

impl Rewiring for Snfs {
    const EVERY_STEP: GradientNeed = GradientNeed::Dense;

    fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError> {
        let known = |how: &String| how == "none" || how == "momentum";
        let redistribution: String = info.parameter(options, "redistribution", known)?;
        Ok(Self {
            ema: info.parameter(options, "ema", |ema: &f32| (0.0..1.0).contains(ema))?,
            redistributes: redistribution == "momentum",
            averages: BTreeMap::new(),
        })
    }

    fn need(&self, _: &Update, _: Layer<'_>, _: &Kept) -> Result<GradientNeed, MethodError> {
        Ok(GradientNeed::Dense)
    }

    fn observe(&mut self, layers: &dyn Layers) -> Result<(), MethodError> {
        for layer in layers.iter() {
            let gradient = layer.dense_gradient()?;
            let average = self.averages.entry(layer.name().to_owned());
            let average = average.or_insert_with(|| vec![0.0; gradient.len()]);
            for (m, g) in average.iter_mut().zip(&gradient) {
                *m = self.ema * *m + (1.0 - self.ema) * g;
            }
        }
        Ok(())
    }

    fn counts(&mut self, _: &Update, layers: &dyn Layers, kept: &[Kept]) -> Vec<usize> {
        let dropped = kept.iter().map(Kept::dropped_count);
        if !self.redistributes {
            return dropped.collect();
        }
        let (mut shares, mut room) = (vec![], vec![]);
        for (layer, kept) in layers.iter().zip(kept) {
            let (pattern, average) = (layer.pattern(), &self.averages[layer.name()]);
            let stays = pattern.positions().enumerate().filter(|(e, _)| kept.is_kept(*e));
            let at = |(row, column): (u32, u32)| average[row as usize * pattern.ncols() + column as usize];
            let magnitudes = stays.map(|(_, position)| f64::from(at(position).abs()));
            shares.push(magnitudes.sum::<f64>() / kept.kept_count().max(1) as f64);
            let free = layer.positions() - kept.kept_count();
            // A layer that is nearly full may always take back what it dropped.
            room.push(((MOST_OF_FREE * free as f64) as usize).max(kept.dropped_count()));
        }
        spread(dropped.sum(), &shares, &room)
    }

    fn grow(
        &self,
        update: &Update,
        layer: Layer<'_>,
        kept: &Kept,
        count: usize,
        _: &[Candidate],
    ) -> Result<Vec<(u32, u32)>, MethodError> {
        let (average, exclude) = (&self.averages[layer.name()], layer.kept_pattern(kept)?);
        layer.named(largest_outside(average, &exclude, count, update.key("ties", layer)))
    }

    fn held_bytes(&self, layers: &dyn Layers) -> usize {
        8 * layers.iter().map(Layer::positions).sum::<usize>()
    }

    fn save(&self, state: &mut MethodState) {
        state.arrays = self.averages.clone();
    }

    fn load(&mut self, state: &MethodState) -> Result<(), MethodError> {
        self.averages = state.arrays.clone();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::method::Method;
    use crate::methods::test_loop::{Net, options_with};
    use crate::schedule::{LoopSemantics, UpdateSchedule};
    use crate::scheduled::Scheduled;

    /// Half of four weights are replaced, by the mean of two gradients that the last one alone would not lead to.
    #[test]
    fn eight_weights_by_hand() {
        let mut options = options_with(LoopSemantics::PAPER, "ema", "0.5");
        let base = *options.schedule.options();
        let schedule = crate::ScheduleOptions { begin_step: 1, drop_fraction: 0.5, ..base };
        options.schedule = UpdateSchedule::new(schedule).unwrap();
        let mut net = Net::by_hand(&[(&[&[0, 1, 3, 6]], 8, &[0.5, -0.1, 0.2, -0.4])]);
        let mut snfs = Scheduled::<Snfs>::new(&INFO, &options).unwrap();
        net.given_gradients = vec![vec![0.0, 0.0, 8.0, 0.0, -1.0, 0.0, 0.0, 0.0]];
        // One step, whose optimizer changes weights as little as makes no difference to their order.
        assert_eq!(net.run(&mut snfs, 1).updates, [0u64; 0]);
        assert_eq!(snfs.rewiring.averages["a"], [0.0, 0.0, 4.0, 0.0, -0.5, 0.0, 0.0, 0.0]);
        net.values[0] = vec![0.5, -0.1, 0.2, -0.4];
        net.given_gradients = vec![vec![0.0, 0.0, 0.0, 0.0, -1.0, 3.0, 0.0, 0.0]];
        assert_eq!(net.run(&mut snfs, 1).updates, [1]);
        assert_eq!(snfs.rewiring.averages["a"], [0.0, 0.0, 2.0, 0.0, -0.75, 1.5, 0.0, 0.0]);
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
        let mut snfs = Scheduled::<Snfs>::new(&INFO, &options).unwrap();
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
            let mut snfs = Scheduled::<Snfs>::new(&INFO, &options).unwrap();
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
