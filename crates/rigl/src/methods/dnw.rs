//! DNW, discovering neural wirings (Wortsman, Farhadi and Rastegari 2019, arXiv 1906.00586): all weights learn, those of
//! largest magnitude take part.
//!
//! ```text
//! after every step, and before the first: for each layer
//!     pattern = the n weights of largest |w| among all, stored or not        n: what the distribution gives the layer
//! the gradient with respect to the pattern's weights is taken at all positions, and all weights step by it
//! ```
//!
//! As in google-research/rigl, `rigl/sparse_optimizers.py` (SparseDNWOptimizer), the choice is per layer, not over the
//! network. Of equal magnitudes the lower position takes part.
//!
//! # What is dense
//!
//! Weights, gradients and optimizer slots: 12 bytes per position with momentum, as dense training has them. The gradient of
//! the weights is a dense product. Forward passes and gradients of inputs are sparse. A step selects among all positions, and
//! plans every layer anew whose pattern changed, which in practice is all of them.

use sparse_kernels::CsrPattern;

use crate::flops::TrainingRule;
use crate::method::{LayerUpdate, Layers, Method, MethodError, MethodInfo, UpdateTimes, WeightStorage};
use crate::topology::prune_by_magnitude;

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "trains all weights, uses only the largest of each layer",
    storage: WeightStorage::Latent,
    updates: UpdateTimes::EveryStep,
    blocks: false,
    training: TrainingRule::DenseGradient,
    ..MethodInfo::new("dnw", |_, _| Ok(Box::new(Dnw)))
};

/// Lets the largest weights take part, chosen after every step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dnw;

fn choose(layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
    let mut updates = vec![];
    for layer in layers.iter() {
        let old = layer.pattern();
        let full = layer.named(CsrPattern::full(old.nrows(), old.ncols()).map_err(Into::into))?;
        let chosen = layer.named(prune_by_magnitude(&full, &layer.latent_values()?, layer.target_nnz()))?;
        let pattern = chosen.pattern().clone();
        if pattern != *old {
            // Weights and slots lie behind the pattern, nothing moves.
            let map = vec![u32::MAX; pattern.nnz()];
            updates.push(layer.update(pattern, map));
        }
    }
    Ok(updates)
}

impl Method for Dnw {
    fn info(&self) -> &'static MethodInfo {
        &INFO
    }

    fn start(&mut self, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        choose(layers)
    }

    fn after_optimizer(
        &mut self,
        _step: u64,
        _learning_rate: f32,
        layers: &dyn Layers,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        choose(layers)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::methods::test_loop::Net;

    #[test]
    fn eight_weights_by_hand() {
        let mut net = Net::by_hand(&[(&[&[0, 1, 2]], 8, &[0.0; 3])]);
        net.latent = vec![(vec![0.5, -0.1, 0.2, -0.4, 0.05, 0.3, -0.6, 0.7], vec![0.0; 8])];
        let updates = Dnw.start(&net).unwrap();
        net.apply(updates);
        assert_eq!((net.columns(0), &net.values[0][..]), (&[0, 6, 7][..], &[0.5, -0.6, 0.7][..]));
        // Nothing changes as long as the order does not.
        assert_eq!(Dnw.after_optimizer(1, 0.1, &net), Ok(vec![]));
        // A weight that took no part has grown beyond one that did.
        net.latent[0].0[3] = -0.9;
        let updates = Dnw.after_optimizer(2, 0.1, &net).unwrap();
        net.apply(updates);
        assert_eq!((net.columns(0), &net.values[0][..]), (&[3, 6, 7][..], &[-0.9, -0.6, 0.7][..]));
    }

    proptest! {
        #[test]
        fn the_largest_take_part_and_all_learn(targets in [1usize..240, 1usize..180, 1usize..900]) {
            let mut net = Net::new(1).stored_for(&Dnw);
            net.targets = targets.to_vec();
            let before = net.latent.clone();
            net.run(&mut Dnw, 5);
            prop_assert_eq!(net.counts(), targets);
            for layer in 0..3 {
                let ncols = net.patterns[layer].ncols();
                let mut inside = vec![false; net.latent[layer].0.len()];
                net.patterns[layer].positions().for_each(|(r, c)| inside[r as usize * ncols + c as usize] = true);
                let of = |part: bool| {
                    let weights = net.latent[layer].0.iter().zip(&inside);
                    weights.filter(move |(_, inside)| **inside == part).map(|(w, _)| w.abs())
                };
                prop_assert!(of(true).fold(f32::INFINITY, f32::min) >= of(false).fold(0.0, f32::max));
                prop_assert!(net.latent[layer].0.iter().zip(&before[layer].0).all(|(now, before)| now != before));
            }
        }
    }
}
