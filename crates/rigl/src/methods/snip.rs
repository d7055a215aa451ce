//! SNIP (Lee, Ajanthan and Torr 2019, arXiv 1810.02340): one batch decides, before training, which weights there are.
//!
//! ```text
//! before the first step:  g = gradient of the dense network's loss on one batch
//!     per layer   keep a layer's weights of largest |g · w|, as many as the distribution gives it     (scope = layer)
//!     or of all   keep the weights of largest |g · w|, as many as the distribution gives to all       (scope = global)
//! then train as with a fixed pattern
//! ```
//!
//! * The batch takes the place of no step: the counter does not advance (google-research/rigl,
//!   `rigl/sparse_optimizers.py`, SparseSnipOptimizer, which chooses per layer). The original chooses over all layers.
//! * Chosen over all layers, a layer keeps at least one weight.
//! * The gradient is that of the loss alone, without weight decay.
//! * One pass is dense, in time and memory; from the first step on all is sparse. The pass is not counted in operations.

use crate::method::{
    Layer, LayerUpdate, Layers, Method, MethodError, MethodInfo, MethodOptions, MethodState, ParameterInfo, StepIntent,
    WeightStorage, check_state,
};
use crate::schedule::ScheduleState;
use crate::topology::{Kept, select_kept};
use sparse_kernels::Candidate;

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "chosen once, on the first batch, by |gradient · weight|",
    storage: WeightStorage::DenseFirst,
    blocks: false,
    parameters: &[ParameterInfo {
        name: "scope",
        default: "layer",
        rule: "layer or global",
        summary: "what weights compete in: their layer, or the network",
    }],
    ..MethodInfo::new("snip", |_, options| Ok(Box::new(Snip::new(options)?)))
};

/// Chooses the weights of largest |gradient · weight| on the first batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Snip {
    global: bool,
    /// Whether it has chosen.
    chosen: bool,
    /// Set between [`Method::before_gradient`] and [`Method::after_gradient`] of the batch that decides.
    choosing: bool,
}

impl Snip {
    /// SNIP within layers or over all of them.
    ///
    /// # Errors
    /// If the parameter `scope` is neither `layer` nor `global`.
    pub fn new(options: &MethodOptions) -> Result<Self, MethodError> {
        let scope: String = INFO.parameter(options, "scope", |scope: &String| scope == "layer" || scope == "global")?;
        Ok(Self { global: scope == "global", chosen: false, choosing: false })
    }
}

/// What each layer keeps, of its own scores.
fn within_layers(layers: &dyn Layers, scores: &[Vec<f32>]) -> Result<Vec<Kept>, MethodError> {
    let kept =
        |(layer, scores): (Layer<'_>, &Vec<f32>)| layer.named(select_kept(scores, scores.len() - layer.target_nnz()));
    layers.iter().zip(scores).map(kept).collect()
}

/// What each layer keeps of the scores of all: the best of each layer in any case.
fn over_all_layers(layers: &dyn Layers, scores: &[Vec<f32>]) -> Vec<Kept> {
    let mut all = scores.concat();
    let mut first = 0;
    for scores in scores {
        let best = (0..scores.len()).rev().max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        best.into_iter().for_each(|best| all[first + best] = f32::INFINITY);
        first += scores.len();
    }
    let target: usize = layers.iter().map(Layer::target_nnz).sum();
    let kept = select_kept(&all, all.len() - target.min(all.len())).expect("no more are dropped than there are");
    let mut parts = vec![];
    let mut first = 0;
    for scores in scores {
        parts.push((first..first + scores.len()).map(|e| kept.is_kept(e)).collect());
        first += scores.len();
    }
    parts
}

impl Method for Snip {
    fn info(&self) -> &'static MethodInfo {
        &INFO
    }

    fn before_gradient(&mut self, _step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        let ordinary = StepIntent::ordinary(layers.len());
        self.choosing = !self.chosen && !layers.is_empty();
        Ok(if self.choosing {
            StepIntent { optimizer_step: false, advance_counter: false, ..ordinary }
        } else {
            ordinary
        })
    }

    fn after_gradient(
        &mut self,
        _step: u64,
        layers: &dyn Layers,
        _candidates: Vec<Vec<Candidate>>,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        if !std::mem::take(&mut self.choosing) {
            return Ok(vec![]);
        }
        let score = |layer: Layer<'_>| -> Result<Vec<f32>, MethodError> {
            let (weights, gradient) = (layer.values()?, layer.gradient()?);
            Ok(weights.iter().zip(&gradient).map(|(w, g)| (w * g).abs()).collect())
        };
        let scores = layers.iter().map(score).collect::<Result<Vec<_>, _>>()?;
        let kept = if self.global { over_all_layers(layers, &scores) } else { within_layers(layers, &scores)? };
        self.chosen = true;
        layers.iter().zip(&kept).map(|(layer, kept)| layer.rewired(kept, &[])).collect()
    }

    fn state(&self) -> MethodState {
        let mut state = MethodState::new(INFO.name, ScheduleState::default());
        state.numbers.insert("chosen".to_owned(), f64::from(u8::from(self.chosen)));
        state
    }

    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        check_state(INFO.name, state)?;
        (self.chosen, self.choosing) = (state.number("chosen")? != 0.0, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::methods::test_loop::{Net, options_with};
    use crate::schedule::LoopSemantics;

    /// Two layers of four weights. Scores are 0.1, 0.4, 0.6, 0.1 and a tenth of that.
    fn chosen(scope: &str) -> Net {
        let all: &[&[u32]] = &[&[0, 1, 2, 3]];
        let mut net = Net::by_hand(&[(all, 4, &[1.0, 1.0, -2.0, 2.0]), (all, 4, &[0.1, 0.1, 0.2, -0.2])]);
        net.given_gradients = vec![vec![0.1, -0.4, 0.3, -0.05]; 2];
        net.targets = vec![2, 2];
        let mut snip = Snip::new(&options_with(LoopSemantics::PAPER, "scope", scope)).unwrap();
        let record = net.run(&mut snip, 1);
        // The batch takes the place of no step.
        assert_eq!((record.increments, net.step, net.optimizer_steps), (vec![0], 0, 0));
        net
    }

    #[test]
    fn eight_weights_by_hand() {
        let net = chosen("layer");
        assert_eq!([net.columns(0), net.columns(1)], [[1, 2], [1, 2]]);
        assert_eq!(net.values, [[1.0, -2.0], [0.1, 0.2]]);
        // Over both layers: 0.6, 0.4 and, of two scores of 0.1, the first; and the best of the second layer in any case.
        let net = chosen("global");
        assert_eq!([net.columns(0), net.columns(1)], [&[0, 1, 2][..], &[2]]);
        assert_eq!(net.values, [vec![1.0, 1.0, -2.0], vec![0.2]]);
    }

    proptest! {
        #[test]
        fn it_chooses_once_and_as_many_as_asked_for(global in any::<bool>(), targets in [1usize..240, 1usize..180, 1usize..900]) {
            let scope = if global { "global" } else { "layer" };
            let mut snip = Snip::new(&options_with(LoopSemantics::PAPER, "scope", scope)).unwrap();
            let mut net = Net::new(1).stored_for(&snip);
            net.targets = targets.to_vec();
            prop_assert_eq!(net.run(&mut snip, 20).updates, [0]);
            prop_assert_eq!((net.step, net.optimizer_steps), (19, 19));
            let counts = net.counts();
            prop_assert!(counts.iter().all(|&count| count > 0));
            prop_assert!(global || counts == targets);
            prop_assert_eq!(counts.iter().sum::<usize>(), targets.iter().sum::<usize>());
        }
    }

    #[test]
    fn one_layer_is_as_one_network() {
        let run = |scope| {
            let mut snip = Snip::new(&options_with(LoopSemantics::PAPER, "scope", scope)).unwrap();
            let mut net = Net::new(1).stored_for(&snip);
            net.patterns.truncate(1);
            net.values.truncate(1);
            net.slots.truncate(1);
            net.run(&mut snip, 1);
            net
        };
        assert_eq!(run("layer"), run("global"));
    }
}
