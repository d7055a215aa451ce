//! DeepR, deep rewiring (Bellec, Kappel, Maass and Legenstein 2018, arXiv 1711.05136): weights have signs that never
//! change; one that would change its sign goes to sleep, and another, chosen at random, wakes up.
//!
//! ```text
//! every position has a fixed random sign s; a stored weight is w = s · θ with θ > 0
//! after every step, at learning rate η: for each layer
//!     θ ← θ − η · l1 + η · noise · normal         beside the optimizer's step
//!     dropped = the entries with θ ≤ 0
//!     grown   = as many positions outside the pattern, at random, with θ = 1e-12
//! ```
//!
//! As in guillaumeBellec/deep_rewiring, the number of weights of each layer stays the same; the paper's other variants (one
//! budget for all layers, soft-DeepR, whose positions all walk at random) are not built. The sign of a position is a hash of
//! seed, layer and position: no position that is not stored takes memory. At the start of a run each weight takes the sign of
//! its position.
//!
//! A weight that was dropped in a step is not grown in the same step, unless the layer has no other room.
//!
//! # What rewiring every step costs
//!
//! Weights, but no slots, go to the host and back after every step, and every layer that lost a weight is planned anew. The
//! method's authors use plain SGD with a large learning rate; with momentum a newcomer's slot begins at zero.

use std::sync::Arc;

use crate::method::{
    Layer, LayerUpdate, Layers, Method, MethodError, MethodInfo, MethodOptions, ParameterInfo, UpdateTimes,
};
use crate::topology::{Kept, random_growth};

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "weights keep their signs; those that reach zero move to random positions",
    updates: UpdateTimes::EveryStep,
    blocks: false,
    parameters: &[
        ParameterInfo {
            name: "l1",
            default: "0.00001",
            rule: "a finite number of at least 0",
            summary: "how much a weight shrinks per step, times the learning rate",
        },
        ParameterInfo {
            name: "noise",
            default: "0.00001",
            rule: "a finite number of at least 0",
            summary: "deviation of the random walk per step, times the learning rate",
        },
    ],
    ..MethodInfo::new("deepr", |_, options| Ok(Box::new(DeepR::new(options)?)))
};

/// What a weight that wakes up starts with.
const AWAKE: f32 = 1e-12;

/// Moves weights that would change their sign to random positions.
#[derive(Debug, Clone, PartialEq)]
pub struct DeepR {
    seed: u64,
    l1: f32,
    noise: f32,
}

impl DeepR {
    /// DeepR with this seed.
    ///
    /// # Errors
    /// If a parameter is impossible.
    pub fn new(options: &MethodOptions) -> Result<Self, MethodError> {
        let allowed = |value: &f32| value.is_finite() && *value >= 0.0;
        let (l1, noise) = (INFO.parameter(options, "l1", allowed)?, INFO.parameter(options, "noise", allowed)?);
        Ok(Self { seed: options.seed, l1, noise })
    }

    /// The sign of each position of a layer.
    fn signs(&self, layer: Layer<'_>) -> impl Fn((u32, u32)) -> f32 + use<> {
        let (key, ncols) = (layer.key(self.seed, "sign"), layer.pattern().ncols() as u64);
        move |(row, column)| {
            let bits = key.bits(u64::from(row) * ncols + u64::from(column));
            if bits & 1 == 0 { 1.0 } else { -1.0 }
        }
    }
}

impl Method for DeepR {
    fn info(&self) -> &'static MethodInfo {
        &INFO
    }

    fn start(&mut self, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        let update = |layer: Layer<'_>| {
            let (sign, pattern, weights) = (self.signs(layer), layer.pattern().clone(), layer.values()?);
            let values = pattern.positions().zip(&weights).map(|(position, w)| sign(position) * w.abs().max(AWAKE));
            let values = Some(values.collect());
            Ok(LayerUpdate { values, ..layer.update(pattern, (0..weights.len() as u32).collect()) })
        };
        layers.iter().map(update).collect()
    }

    fn after_optimizer(
        &mut self,
        step: u64,
        learning_rate: f32,
        layers: &dyn Layers,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        let (shrink, noise) = (learning_rate * self.l1, learning_rate * self.noise);
        let update = |layer: Layer<'_>| {
            let (sign, pattern, weights) = (self.signs(layer), layer.pattern(), layer.values()?);
            let walk = layer.key(self.seed, "walk").with(step);
            let moved = |(e, (position, w)): (usize, ((u32, u32), &f32))| {
                sign(position) * w - shrink + noise * walk.normal(e as u64)
            };
            let thetas: Vec<f32> = pattern.positions().zip(&weights).enumerate().map(moved).collect();
            // A broken weight stays where it can be seen.
            let kept: Kept = thetas.iter().map(|theta| *theta > 0.0 || theta.is_nan()).collect();
            let new = match kept.dropped_count() {
                0 => layer.update(Arc::clone(pattern), (0..thetas.len() as u32).collect()),
                count => {
                    let key = layer.key(self.seed, "grow").with(step);
                    let grown = match layer.positions() - pattern.nnz() < count {
                        true => random_growth(&layer.kept_pattern(&kept)?, count, key),
                        false => random_growth(pattern, count, key),
                    };
                    layer.rewired(&kept, &grown)?
                }
            };
            let stays = |from: u32| from != u32::MAX && kept.is_kept(from as usize);
            let theta = |from: u32| if stays(from) { thetas[from as usize] } else { AWAKE };
            let entries = new.pattern.positions().zip(&new.map);
            let values = Some(entries.map(|(position, &from)| sign(position) * theta(from)).collect());
            Ok(LayerUpdate { values, ..new })
        };
        layers.iter().map(update).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::methods::test_loop::{Net, options, options_with};
    use crate::schedule::LoopSemantics;

    #[test]
    fn eight_weights_by_hand() {
        let mut net = Net::by_hand(&[(&[&[0, 2, 5, 7]], 8, &[0.5, 0.1, 0.2, 0.4])]);
        // Neither shrinking nor noise: what happens follows from signs alone.
        let still = [("l1".to_owned(), "0".to_owned()), ("noise".to_owned(), "0".to_owned())];
        let options = MethodOptions { parameters: still.into(), ..options(LoopSemantics::PAPER) };
        let mut deepr = DeepR::new(&options).unwrap();
        let sign = deepr.signs(net.layer(0));
        let updates = deepr.start(&net).unwrap();
        net.apply(updates);
        let expected: Vec<f32> = [(0, 0.5), (2, 0.1), (5, 0.2), (7, 0.4)].map(|(c, w)| sign((0, c)) * w).into();
        assert_eq!((net.columns(0), &net.values[0]), (&[0, 2, 5, 7][..], &expected));
        // Weights may do what they want on their side of zero.
        net.values[0][1] *= 7.0;
        let updates = deepr.after_optimizer(1, 0.1, &net).unwrap();
        net.apply(updates);
        assert_eq!(net.columns(0), [0, 2, 5, 7]);
        // That of column 5 steps over it, and another column takes its place.
        net.values[0][2] *= -1.0;
        let updates = deepr.after_optimizer(2, 0.1, &net).unwrap();
        net.apply(updates);
        assert_eq!(net.columns(0).len(), 4);
        assert!([0, 2, 7].iter().all(|c| net.columns(0).contains(c)) && !net.columns(0).contains(&5));
        let new = net.columns(0).iter().position(|c| ![0, 2, 7].contains(c)).unwrap();
        assert_eq!(net.values[0][new], sign((0, net.columns(0)[new])) * 1e-12);
        assert_eq!(net.slots[0][new], 0.0);
    }

    #[test]
    fn weights_shrink_and_walk() {
        let mut net = Net::by_hand(&[(&[&[0, 1, 2, 3]], 8, &[1.0; 4])]);
        let mut shrinking = DeepR::new(&options_with(LoopSemantics::PAPER, "l1", "0.5")).unwrap();
        let updates = shrinking.start(&net).unwrap();
        net.apply(updates);
        let updates = shrinking.after_optimizer(1, 0.1, &net).unwrap();
        net.apply(updates);
        // 1 − 0.1 · 0.5, and noise of 1e-6.
        for w in &net.values[0] {
            assert!((w.abs() - 0.95).abs() < 1e-5 && w.abs() != 0.95, "{w}");
        }
    }

    proptest! {
        #[test]
        fn numbers_and_signs_stay(seed in 0u64..1000) {
            let mut deepr = DeepR::new(&MethodOptions { seed, ..options(LoopSemantics::PAPER) }).unwrap();
            let mut net = Net::new(seed);
            let counts = net.counts();
            let mut changed = false;
            for _ in 0..10 {
                changed |= !net.run(&mut deepr, 1).updates.is_empty();
                prop_assert_eq!(&net.counts(), &counts);
                for layer in 0..3 {
                    let sign = deepr.signs(net.layer(layer));
                    let weights = net.patterns[layer].positions().zip(&net.values[layer]);
                    weights.for_each(|(position, w)| assert!(sign(position) * w > 0.0));
                }
            }
            prop_assert!(changed);
        }
    }

    /// With fewer free positions than weights that fall asleep, some wake up where they were.
    #[test]
    fn nearly_full_layers_keep_their_number() {
        let mut net = Net::by_hand(&[(&[&[0, 1, 2, 3, 4, 5, 6]], 8, &[0.5; 7])]);
        let mut deepr = DeepR::new(&options(LoopSemantics::PAPER)).unwrap();
        let updates = deepr.start(&net).unwrap();
        net.apply(updates);
        net.values[0].iter_mut().for_each(|w| *w = -*w);
        let updates = deepr.after_optimizer(1, 0.1, &net).unwrap();
        net.apply(updates);
        assert_eq!(net.counts(), [7]);
        assert!(net.values[0].iter().all(|w| w.abs() == 1e-12));
    }
}
