//! GraNet, gradual pruning with zero-cost neuroregeneration (Liu, Chen, Chen, Atashgahi, Yin, Kou, Shen, Pechenizkiy, Wang and
//! Mocanu, NeurIPS 2021, arXiv 2106.10404), from a sparse network to a sparser one: prune a little, then replace a fraction of
//! what is left as RigL does.
//!
//! ```text
//! at an update:
//!     way     = (1 − (step − begin) / (until · (last − begin)))³         1 at the first update, 0 from `until` on
//!     of each layer: wanted = target + trunc(way · (start − target))     start, target: what it begins and ends with
//!     of all layers: the Σ wanted largest |w| stay                       (scope = layer: the wanted largest of each)
//!     for each layer
//!         n       = trunc(f(step) · what it has left)
//!         kept    = what is left but the n of smallest |w|
//!         grown   = the n positions outside kept with the largest |dL/dW|
//!         pattern = kept ∪ grown; newcomers start at zero
//! ```
//!
//! The paper's section 4; the names of the authors' code (Shiweiliuiiiiiii/GraNet): weights compete over the whole network
//! (`GraNet`) or in each layer (`GraNet_uniform`); f is a cosine from 0.5 there, `--drop-fraction 0.5`. A pruned weight is gone;
//! one that is dropped to be replaced is a candidate like any other, and keeps its value if it is grown again.
//!
//! * The network starts with the density `start`, spread by the same distribution, with random values as any network.
//! * `last` is the last update of the schedule. The default of `until` ends pruning after half of a run whose updates end after
//!   three quarters of it; in the authors' CIFAR runs it ends after 80 of 160 epochs.
//! * At least one weight of each layer stays. The code has no such rule.
//! * In the code pruning follows an optimizer step and growth goes by that step's gradient. Here an update takes the step's
//!   place.
//!
//! # Cost
//!
//! Nothing is dense but the passes of growth, as for RigL. Weights, gradients and slots are those of the density `start` at
//! first. Pruning over all layers takes 12 bytes a weight while it runs.

use std::collections::BTreeMap;

use sparse_kernels::{Candidate, GrowRequest};

use crate::method::{
    GradientNeed, Layer, Layers, MethodError, MethodInfo, MethodOptions, MethodState, ParameterInfo, UpdateGradient,
};
use crate::schedule::{LoopSemantics, UpdateSchedule};
use crate::scheduled::{Rewiring, Update, candidates_or_dropped};
use crate::topology::Kept;

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "starts denser, prunes step by step, and replaces small weights where the gradient is largest",
    update_gradient: UpdateGradient::Dense,
    reference_semantics: LoopSemantics::TF1_RIGL,
    start_density: Some("start"),
    ends_with_last_update: true,
    parameters: &[
        ParameterInfo {
            name: "start",
            default: "0.5",
            rule: "above 0 and at most 1",
            summary: "density that the network starts with; layers that are to be denser start as they are to be",
        },
        ParameterInfo {
            name: "until",
            default: "0.67",
            rule: "above 0 and at most 1",
            summary: "part of the updates after which the density has arrived",
        },
        ParameterInfo {
            name: "scope",
            default: "global",
            rule: "global or layer",
            summary: "whether weights of all layers compete when density falls, or those of each layer",
        },
    ],
    ..MethodInfo::scheduled::<GraNet>("granet")
};

/// Prunes along a cubic schedule, and replaces a fraction of what is left.
#[derive(Debug, Clone, PartialEq)]
pub struct GraNet {
    start: f64,
    until: f64,
    is_global: bool,
    /// What each layer began with.
    starts: BTreeMap<String, usize>,
    /// What each layer has left after the pruning of the update that runs.
    left: BTreeMap<String, usize>,
}

/// How much of the fall of the density is still to come.
fn way(schedule: &UpdateSchedule, until: f64, step: u64) -> f64 {
    let begin = schedule.options().begin_step;
    // A schedule without an end never gets there.
    let Some(last) = schedule.last_update() else { return 1.0 };
    let all = until * (last - begin) as f64;
    let done = step.saturating_sub(begin) as f64;
    if done < all { (1.0 - done / all).powi(3) } else { 0.0 }
}

impl GraNet {
    fn left(&self, layer: Layer<'_>) -> usize {
        self.left.get(layer.name()).copied().unwrap_or_else(|| layer.pattern().nnz())
    }
}

/// How many weights each layer has among the `count` of largest magnitude: at least one. Of equal magnitudes the one in the earlier
/// layer, then that of the lower index stays; NaN counts as largest.
fn largest_of_all(weights: &[Vec<f32>], count: usize) -> Vec<usize> {
    let magnitude = |w: &f32| w.abs().to_bits();
    let of_layer = |(layer, weights): (usize, &Vec<f32>)| {
        let rank = move |(e, w): (usize, &f32)| (!magnitude(w), layer as u32, e as u32);
        weights.iter().enumerate().map(rank).collect::<Vec<_>>()
    };
    let mut ranked: Vec<(u32, u32, u32)> = weights.iter().enumerate().flat_map(of_layer).collect();
    if 0 < count && count < ranked.len() {
        ranked.select_nth_unstable(count - 1);
    }
    ranked.truncate(count);
    let mut counts = vec![0usize; weights.len()];
    ranked.iter().for_each(|&(_, layer, _)| counts[layer as usize] += 1);
    for layer in 0..counts.len() {
        let most = (0..counts.len()).max_by_key(|&other| (counts[other], std::cmp::Reverse(other)));
        if let (0, false, Some(most)) = (counts[layer], weights[layer].is_empty(), most) {
            counts[layer] = 1;
            counts[most] = counts[most].saturating_sub(1).max(1);
        }
    }
    counts
}

impl Rewiring for GraNet {
    fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError> {
        let share = |value: &f64| *value > 0.0 && *value <= 1.0;
        let scope: String = info.parameter(options, "scope", |scope: &String| scope == "global" || scope == "layer")?;
        Ok(Self {
            start: info.parameter(options, "start", share)?,
            until: info.parameter(options, "until", share)?,
            is_global: scope == "global",
            starts: BTreeMap::new(),
            left: BTreeMap::new(),
        })
    }

    fn begin(&mut self, update: &Update, layers: &dyn Layers) -> Result<(), MethodError> {
        let way = way(&update.schedule, self.until, update.step);
        let mut wanted = vec![];
        for layer in layers.iter() {
            let (nnz, target) = (layer.pattern().nnz(), layer.target_nnz());
            let start = *self.starts.entry(layer.name().to_owned()).or_insert(nnz);
            wanted.push(target + (way * start.saturating_sub(target) as f64) as usize);
        }
        let left = if self.is_global {
            let weights: Vec<_> = layers.iter().map(Layer::values).collect::<Result<_, _>>()?;
            largest_of_all(&weights, wanted.iter().sum())
        } else {
            layers.iter().zip(wanted).map(|(layer, wanted)| wanted.min(layer.pattern().nnz())).collect()
        };
        self.left = layers.iter().map(|layer| layer.name().to_owned()).zip(left).collect();
        Ok(())
    }

    fn keep(&self, update: &Update, layer: Layer<'_>) -> Result<Kept, MethodError> {
        let left = self.left(layer);
        layer.drop_smallest(layer.pattern().nnz() - left + update.drop_count(left))
    }

    fn need(&self, update: &Update, layer: Layer<'_>, kept: &Kept) -> Result<GradientNeed, MethodError> {
        let count = update.drop_count(self.left(layer));
        if count == 0 {
            return Ok(GradientNeed::None);
        }
        let (exclude, ties) = (layer.kept_pattern(kept)?.into(), update.key("ties", layer));
        Ok(GradientNeed::Growth(GrowRequest { exclude, count, ties }))
    }

    fn counts(&mut self, update: &Update, layers: &dyn Layers, _: &[Kept]) -> Vec<usize> {
        layers.iter().map(|layer| update.drop_count(self.left(layer))).collect()
    }

    fn grow(
        &self,
        _: &Update,
        layer: Layer<'_>,
        kept: &Kept,
        count: usize,
        candidates: &[Candidate],
    ) -> Result<Vec<(u32, u32)>, MethodError> {
        candidates_or_dropped(layer, kept, count, candidates)
    }

    /// As if operations were in proportion to the weights of the network.
    fn mean_forward_flops(&self, schedule: &UpdateSchedule, total_steps: u64, f_sparse: f64, f_dense: f64) -> f64 {
        let more = (self.start * f_dense - f_sparse).max(0.0);
        let interval = schedule.options().update_interval;
        let points = total_steps / interval + 1;
        let ways: f64 = (0..points).map(|point| way(schedule, self.until, point * interval)).sum();
        f_sparse + more * ways / points as f64
    }

    fn save(&self, state: &mut MethodState) {
        let starts = self.starts.iter().map(|(name, &start)| (format!("{START}{name}"), start as f64));
        state.numbers.extend(starts);
    }

    fn load(&mut self, state: &MethodState) -> Result<(), MethodError> {
        let start = |(name, &start): (&String, &f64)| Some((name.strip_prefix(START)?.to_owned(), start as usize));
        self.starts = state.numbers.iter().filter_map(start).collect();
        Ok(())
    }
}

/// What the state's number of a layer begins with.
const START: &str = "start of ";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::method::Method;
    use crate::methods::test_loop::{Net, options, options_with};
    use crate::scheduled::Scheduled;
    use crate::{ScheduleOptions, build_method};

    const ALL: &[u32] = &[0, 1, 2, 3, 4, 5, 6, 7];

    fn layer_wise(drop_fraction: f64) -> Scheduled<GraNet> {
        let mut options = options_with(LoopSemantics::PAPER, "scope", "layer");
        options.parameters.insert("until".to_owned(), "1".to_owned());
        let base = *options.schedule.options();
        options.schedule = UpdateSchedule::new(ScheduleOptions { drop_fraction, ..base }).unwrap();
        Scheduled::<GraNet>::new(&INFO, &options).unwrap()
    }

    /// Updates at steps 2, 5, 8 and 11 from eight weights to two: 2 + 6 · (1, 8/27, 1/27, 0). A quarter is replaced each time.
    #[test]
    fn eight_weights_by_hand() {
        let weights = [0.5, -0.1, 0.2, -0.4, 0.05, 0.3, -0.6, 0.7];
        let mut net = Net::by_hand(&[(&[ALL], 12, &weights)]);
        net.targets = vec![2];
        net.given_gradients = vec![vec![0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0, 2.0, 1.0, 0.5, 0.25]];
        let mut granet = layer_wise(0.25);
        let mut update = |net: &mut Net, step| {
            net.step = step;
            assert_eq!(net.run(&mut granet, 1).updates, [step]);
            net.columns(0).to_vec()
        };
        // Nothing is pruned. Columns 4 and 1 are dropped; 4 has the largest gradient and comes back.
        assert_eq!(update(&mut net, 2), [0, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(net.values[0], [0.5, 0.2, -0.4, 0.05, 0.3, -0.6, 0.7, 0.0]);
        // 2 + trunc(6 · 8/27) = 3 are left: columns 0, 6 and 7. A quarter of three is nothing.
        assert_eq!(update(&mut net, 5), [0, 6, 7]);
        assert_eq!(update(&mut net, 8), [6, 7]);
        assert_eq!((net.columns(0), &net.values[0][..]), (&[6, 7][..], &[-0.6, 0.7][..]));
        net.step = 11;
        assert_eq!(net.run(&mut granet, 1).updates, [0u64; 0]);
    }

    /// Of two layers of four one has the smaller weights, and loses three of the four that are to go; one weight of it stays
    /// though all of it is small.
    #[test]
    fn weights_of_all_layers_compete() {
        let layers = [vec![0.5, -0.6, 0.7, 0.1], vec![0.2, -0.3, 0.05, 0.4]];
        assert_eq!(largest_of_all(&layers, 5), [3, 2]);
        assert_eq!(largest_of_all(&layers, 3), [2, 1]);
        assert_eq!(largest_of_all(&layers, 8), [4, 4]);
        // Of equal ones those of the first layer, and of the lower index.
        assert_eq!(largest_of_all(&[vec![1.0; 3], vec![1.0; 3]], 4), [3, 1]);
        assert_eq!(largest_of_all(&[vec![], vec![1.0; 3]], 2), [0, 2]);
        let columns: &[&[u32]] = &[&[0, 1, 2, 3]];
        let mut net = Net::by_hand(&[(columns, 8, &layers[0]), (columns, 8, &layers[1])]);
        net.targets = vec![2, 2];
        let options = options_with(LoopSemantics::PAPER, "until", "0.01");
        let base = *options.schedule.options();
        let schedule = ScheduleOptions { drop_fraction: 0.0, ..base };
        let options = MethodOptions { schedule: UpdateSchedule::new(schedule).unwrap(), ..options };
        let mut granet = Scheduled::<GraNet>::new(&INFO, &options).unwrap();
        // The first update prunes nothing, the second everything that is to go.
        for (step, counts) in [(2, [4, 4]), (5, [3, 1])] {
            net.step = step;
            net.run(&mut granet, 1);
            assert_eq!(net.counts(), counts);
        }
        assert_eq!((net.columns(0), net.columns(1)), (&[0, 1, 2][..], &[3][..]));
    }

    #[test]
    fn the_mean_is_that_of_the_densities() {
        let base = *options(LoopSemantics::PAPER).schedule.options();
        let schedule = ScheduleOptions { begin_step: 0, end_step: Some(301), update_interval: 100, ..base };
        let mut options = options_with(LoopSemantics::PAPER, "until", "1");
        (options.schedule, options.total_steps) = (UpdateSchedule::new(schedule).unwrap(), 400);
        let granet = Scheduled::<GraNet>::new(&INFO, &options).unwrap();
        // From 0.5 to 0.1 over steps 0 to 300, of which steps 0, 100, … 400 see 0.4 · (1, 8/27, 1/27, 0, 0) more.
        let expected = 10.0 * (0.1 + 0.4 * (36.0 / 27.0) / 5.0);
        assert!((granet.mean_forward_flops(1.0, 10.0) - expected).abs() < 1e-12);
        assert_eq!(granet.training_flops(1.0, 10.0), (3.0 * 100.0 + 2.0 + 10.0) / 101.0);
    }

    #[test]
    fn cannot_follow_the_optimizer() {
        let error = Scheduled::<GraNet>::new(&INFO, &options(LoopSemantics::TF1_SET)).unwrap_err().to_string();
        assert!(error.starts_with("method granet: update_replaces_step must be true"), "{error}");
    }

    proptest! {
        /// Numbers fall to the targets along the curve; what goes is the smallest; and a run that is interrupted anywhere goes on as
        /// if it had not been.
        #[test]
        fn numbers_fall_to_the_targets(seed in 0u64..500, global in any::<bool>(), until in 0.1f64..=1.0, at in 1usize..20) {
            let mut options = options_with(LoopSemantics::PAPER, "until", &until.to_string());
            options.seed = seed;
            let scope = if global { "global" } else { "layer" };
            options.parameters.insert("scope".to_owned(), scope.to_owned());
            let build = || build_method("granet", &options).unwrap();
            let start = || {
                let mut net = Net::new(seed);
                net.targets = vec![20, 9, 100];
                net
            };
            let (mut method, mut net, starts) = (build(), start(), Net::new(seed).counts());
            for step in 0..20u64 {
                let (before, patterns, values) = (net.counts(), net.patterns.clone(), net.values.clone());
                net.run(method.as_mut(), 1);
                let after = net.counts();
                if ![2, 5, 8, 11].contains(&step) {
                    prop_assert_eq!(after, before);
                    continue;
                }
                let way = way(&options.schedule, until, step);
                let wanted: Vec<_> = net.targets.iter().zip(&starts)
                    .map(|(&target, &start)| target + (way * (start - target) as f64) as usize).collect();
                prop_assert_eq!(after.iter().sum::<usize>(), wanted.iter().sum::<usize>());
                prop_assert!(global || after == wanted);
                for layer in 0..net.len() {
                    // Of those that are left, three tenths are replaced: the others are the largest.
                    let stays = after[layer] - (0.3 * after[layer] as f64) as usize;
                    let mut largest: Vec<_> = patterns[layer].positions().zip(&values[layer]).collect();
                    largest.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
                    let now: BTreeSet<_> = net.patterns[layer].positions().collect();
                    prop_assert!(largest[..stays].iter().all(|(position, _)| now.contains(position)));
                }
            }
            prop_assert_eq!(net.counts().iter().sum::<usize>(), 129);
            let (mut first, mut second, mut other) = (build(), build(), start());
            other.run(first.as_mut(), at);
            second.restore(&first.state()).unwrap();
            other.run(second.as_mut(), 20 - at);
            prop_assert_eq!(other, net);
        }
    }
}
