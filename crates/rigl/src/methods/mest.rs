//! MEST, memory-economic sparse training (Yuan, Ma, Niu, Li, Kong, Liu, Gong, Zhan, He, Jin, Wang, Qin, Ren and Wang, NeurIPS 2021,
//! arXiv 2110.14032): elastic mutation, which drops by weight and gradient and grows at random.
//!
//! ```text
//! at an update: for each layer                                target: what the distribution gives it
//!     scores  = |w| + lambda · |dL/dw|                         at its entries, of the current minibatch
//!     p       = f(step), or the stage's fraction               elastic mutation decays
//!     bound = hard (EM):
//!         kept  = all entries but the trunc(p · nnz) of smallest score
//!         grown = as many positions outside kept, at random
//!     bound = soft (EM&S):
//!         kept  = the target entries of largest score
//!         grown = trunc(p · target) positions outside kept, at random; none at the last update
//!     pattern = kept ∪ grown; newcomers start at zero
//! ```
//!
//! The paper's elastic mutation. With the hard bound a layer never has more than its target. With the soft one it has up to
//! `1 + drop fraction` times as much between updates: newcomers are trained beside the weights whose place they may take, and
//! only the next update decides. The last update leaves the target.
//!
//! `decay = schedule` lets p fall by the drop schedule. `decay = stages` is that of the authors' runs
//! (boone891214/MEST, `--mask-update-decay-epoch 90-120` of 160 epochs): the whole drop fraction for 9/16 of the training, half of
//! it until 3/4, nothing after. Their fractions are parts of all positions (0.05 where 0.1 are weights); here they are parts of a
//! layer's weights, as for all methods.
//!
//! * The default of lambda is that which later work compares with (CHTs, `--factor 0.01`); in the authors' code it is 0, and
//!   we know of no value in the paper. With 0 an update needs no backward pass.
//! * A soft bound begins with the target and is above it from the first update on; the authors begin above it.
//! * The authors take the gradient of the step before the update; here it is that of the update's own minibatch, which takes the
//!   step's place.
//! * Not built: the paper's compression of the training set, which drops samples.
//!
//! Nothing is dense.

use crate::method::{
    GradientNeed, Layer, Layers, MethodError, MethodInfo, MethodOptions, ParameterInfo, UpdateGradient,
};
use crate::schedule::{LoopSemantics, UpdateSchedule};
use crate::scheduled::{Rewiring, Update};
use crate::topology::{Kept, select_kept};

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "drops by weight and gradient, grows at random, before or after it drops",
    update_gradient: UpdateGradient::Entries,
    reference_semantics: LoopSemantics::TF1_RIGL,
    ends_with_last_update: true,
    parameters: &[
        ParameterInfo {
            name: "lambda",
            default: "0.01",
            rule: "a finite number of at least 0",
            summary: "what the magnitude of the gradient counts beside that of the weight",
        },
        ParameterInfo {
            name: "bound",
            default: "hard",
            rule: "hard or soft",
            summary: "whether a layer never has more weights than its density allows, or newcomers come on top",
        },
        ParameterInfo {
            name: "decay",
            default: "schedule",
            rule: "schedule or stages",
            summary: "whether the fraction follows the drop schedule, or is halved after 9/16 of the run and ends after 3/4",
        },
    ],
    ..MethodInfo::scheduled::<Mest>("mest")
};

/// Drops by weight and gradient, and grows at random.
#[derive(Debug, Clone, PartialEq)]
pub struct Mest {
    lambda: f32,
    is_soft: bool,
    in_stages: bool,
    total_steps: u64,
}

impl Mest {
    /// The fraction of the weights that an update at this step mutates.
    fn fraction(&self, schedule: &UpdateSchedule, step: u64) -> f64 {
        if self.is_soft && schedule.last_update().is_some_and(|last| step >= last) {
            return 0.0;
        }
        let (done, all) = (u128::from(step), u128::from(self.total_steps));
        match self.in_stages {
            false => schedule.drop_fraction(step),
            true if 16 * done < 9 * all => schedule.options().drop_fraction,
            true if 4 * done < 3 * all => schedule.options().drop_fraction / 2.0,
            true => 0.0,
        }
    }

    fn mutated(&self, update: &Update, weights: usize) -> usize {
        (self.fraction(&update.schedule, update.step) * weights as f64) as usize
    }

    fn dropped(&self, update: &Update, layer: Layer<'_>) -> usize {
        match self.is_soft {
            false => self.mutated(update, layer.pattern().nnz()),
            true => layer.pattern().nnz().saturating_sub(layer.target_nnz()),
        }
    }
}

impl Rewiring for Mest {
    fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError> {
        let bound: String = info.parameter(options, "bound", |bound: &String| bound == "hard" || bound == "soft")?;
        let known = |decay: &String| decay == "schedule" || decay == "stages";
        let decay: String = info.parameter(options, "decay", known)?;
        Ok(Self {
            lambda: info.parameter(options, "lambda", |lambda: &f32| lambda.is_finite() && *lambda >= 0.0)?,
            is_soft: bound == "soft",
            in_stages: decay == "stages",
            total_steps: options.total_steps,
        })
    }

    /// Everything, until the gradient is there.
    fn keep(&self, _: &Update, layer: Layer<'_>) -> Result<Kept, MethodError> {
        layer.drop_smallest(0)
    }

    fn need(&self, update: &Update, layer: Layer<'_>, _: &Kept) -> Result<GradientNeed, MethodError> {
        let looks = self.lambda > 0.0 && self.dropped(update, layer) > 0;
        Ok(if looks { GradientNeed::Sampled } else { GradientNeed::None })
    }

    fn keep_after_gradient(&mut self, update: &Update, layer: Layer<'_>, kept: Kept) -> Result<Kept, MethodError> {
        let count = self.dropped(update, layer);
        if count == 0 {
            return Ok(kept);
        }
        let mut scores = layer.values()?;
        if self.lambda > 0.0 {
            let gradient = layer.gradient()?;
            scores.iter_mut().zip(gradient).for_each(|(score, g)| *score = score.abs() + self.lambda * g.abs());
        }
        layer.named(select_kept(&scores, count))
    }

    fn counts(&mut self, update: &Update, layers: &dyn Layers, kept: &[Kept]) -> Vec<usize> {
        let grown = |(layer, kept): (Layer<'_>, &Kept)| match self.is_soft {
            false => kept.dropped_count(),
            true => self.mutated(update, layer.target_nnz()).min(layer.positions() - kept.kept_count()),
        };
        layers.iter().zip(kept).map(grown).collect()
    }

    fn mean_forward_flops(&self, schedule: &UpdateSchedule, total_steps: u64, f_sparse: f64, _: f64) -> f64 {
        let (true, Some(last)) = (self.is_soft, schedule.last_update()) else { return f_sparse };
        let interval = schedule.options().update_interval;
        // Newcomers of an update stay until the next one.
        let updates = (schedule.options().begin_step..last).step_by(interval as usize);
        let more: f64 = updates.map(|step| self.fraction(schedule, step)).sum();
        f_sparse * (1.0 + more * interval as f64 / total_steps.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::methods::test_loop::{Net, options, options_with};
    use crate::scheduled::Scheduled;
    use crate::{ScheduleOptions, build_method};

    const EIGHT: [f32; 8] = [0.5, -0.1, 0.2, -0.4, 0.05, 0.3, -0.6, 0.7];

    fn eight() -> Net {
        let mut net = Net::by_hand(&[(&[&[0, 1, 2, 3, 4, 5, 6, 7]], 1000, &EIGHT)]);
        let mut gradient = vec![0.0; 1000];
        gradient[..8].copy_from_slice(&[0.0, -3.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]);
        net.given_gradients = vec![gradient];
        net.step = 2;
        net
    }

    fn mest(parameters: &[(&str, &str)]) -> Scheduled<Mest> {
        let mut options = options(LoopSemantics::PAPER);
        options.parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let base = *options.schedule.options();
        options.schedule = UpdateSchedule::new(ScheduleOptions { drop_fraction: 0.25, ..base }).unwrap();
        Scheduled::<Mest>::new(&INFO, &options).unwrap()
    }

    /// Scores of 0.1 + 0.1 · 3 and 0.05 + 0.1 let column 1 stay, and 2 go in its place.
    #[test]
    fn eight_weights_by_hand() {
        for (lambda, stays) in [("0.1", [0, 1, 3, 5, 6, 7]), ("0", [0, 2, 3, 5, 6, 7])] {
            let mut net = eight();
            assert_eq!(net.run(&mut mest(&[("lambda", lambda)]), 1).updates, [2]);
            assert_eq!(net.counts(), [8]);
            let (old, new): (Vec<_>, Vec<_>) = net.columns(0).iter().zip(&net.values[0]).partition(|(c, _)| **c < 8);
            assert_eq!(old, stays.iter().map(|c| (c, &EIGHT[*c as usize])).collect::<Vec<_>>());
            assert!(new.len() == 2 && new.iter().all(|(_, w)| **w == 0.0));
        }
    }

    /// With a soft bound the first update only grows; the second keeps the eight best of ten, newcomers among them, and grows two
    /// others; the last only drops.
    #[test]
    fn newcomers_come_on_top() {
        let (mut net, mut method) = (eight(), mest(&[("bound", "soft"), ("lambda", "0")]));
        assert_eq!(net.run(&mut method, 1).updates, [2]);
        assert_eq!((net.counts(), &net.columns(0)[..8]), (vec![10], &[0, 1, 2, 3, 4, 5, 6, 7][..]));
        let newcomer = net.columns(0)[9];
        net.values[0][9] = 9.0;
        (net.step, net.targets) = (5, vec![8]);
        assert_eq!(net.run(&mut method, 1).updates, [5]);
        assert_eq!(net.counts(), [10]);
        // Of 0, 0.05, 0.1, 0.2, … the newcomer that stayed at zero and column 4 are gone.
        assert!(net.columns(0).starts_with(&[0, 1, 2, 3, 5, 6, 7]) && net.columns(0).contains(&newcomer));
        net.step = 11;
        assert_eq!(net.run(&mut method, 1).updates, [11]);
        assert_eq!(net.counts(), [8]);
        assert!(net.values[0].iter().all(|w| *w != 0.0));
    }

    #[test]
    fn stages_halve_and_end() {
        let base = *options(LoopSemantics::PAPER).schedule.options();
        let schedule = ScheduleOptions { begin_step: 0, end_step: Some(1600), update_interval: 1, ..base };
        let schedule = UpdateSchedule::new(schedule).unwrap();
        let options = MethodOptions { total_steps: 1600, ..options_with(LoopSemantics::PAPER, "decay", "stages") };
        let mest = Mest::new(&INFO, &options).unwrap();
        for (step, expected) in [(0, 0.3), (899, 0.3), (900, 0.15), (1199, 0.15), (1200, 0.0), (1599, 0.0)] {
            assert_eq!(mest.fraction(&schedule, step), expected, "step {step}");
        }
    }

    #[test]
    fn a_soft_bound_costs_what_is_above_it() {
        let soft = build_method("mest", &options_with(LoopSemantics::PAPER, "bound", "soft")).unwrap();
        let hard = build_method("mest", &options(LoopSemantics::PAPER)).unwrap();
        // Three tenths more from step 2 to 11 of 20.
        assert!((soft.mean_forward_flops(10.0, 100.0) - 10.0 * (1.0 + 0.3 * 9.0 / 20.0)).abs() < 1e-12);
        assert_eq!((hard.mean_forward_flops(10.0, 100.0), hard.training_flops(10.0, 100.0)), (10.0, 30.0));
    }

    #[test]
    fn cannot_follow_the_optimizer() {
        let error = Scheduled::<Mest>::new(&INFO, &options(LoopSemantics::TF1_SET)).unwrap_err().to_string();
        let reason = "because the gradient it drops by is that of the weights before a step";
        assert!(error.contains("update_replaces_step must be true") && error.ends_with(reason), "{error}");
    }

    proptest! {
        /// Numbers stay within the bound, the best stay, and an interrupted run goes on as if it had not been.
        #[test]
        fn bounds_hold(seed in 0u64..500, soft in any::<bool>(), stages in any::<bool>(), at in 1usize..20) {
            let choice = |yes: bool, names: [&str; 2]| names[usize::from(yes)].to_owned();
            let mut options = options_with(LoopSemantics::PAPER, "bound", &choice(soft, ["hard", "soft"]));
            options.parameters.insert("decay".to_owned(), choice(stages, ["schedule", "stages"]));
            options.seed = seed;
            let build = || build_method("mest", &options).unwrap();
            let (mut method, mut net) = (build(), Net::new(seed));
            let targets = net.targets.clone();
            let most: Vec<_> = targets.iter().map(|&target| target + (0.3 * target as f64) as usize).collect();
            for step in 0..20u64 {
                let (patterns, values) = (net.patterns.clone(), net.values.clone());
                let gradients: Vec<Vec<f32>> = (0..net.len())
                    .map(|layer| patterns[layer].positions().map(|p| net.gradient_at(layer, step, p)).collect()).collect();
                net.run(method.as_mut(), 1);
                prop_assert!(soft || net.counts() == targets);
                prop_assert!(net.counts().iter().zip(&most).all(|(count, most)| count <= most));
                if step != 5 {
                    continue;
                }
                for layer in 0..net.len() {
                    let score = |e: usize| values[layer][e].abs() + 0.01 * gradients[layer][e].abs();
                    let positions: Vec<_> = patterns[layer].positions().collect();
                    let mut best: Vec<usize> = (0..positions.len()).collect();
                    best.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
                    let stays = if soft { targets[layer] } else { targets[layer] - (0.3 * targets[layer] as f64) as usize };
                    let now: Vec<_> = net.patterns[layer].positions().collect();
                    prop_assert!(best[..stays].iter().all(|&e| now.binary_search(&positions[e]).is_ok()));
                }
            }
            prop_assert_eq!(net.counts(), targets);
            let (mut first, mut second, mut other) = (build(), build(), Net::new(seed));
            other.run(first.as_mut(), at);
            second.restore(&first.state()).unwrap();
            other.run(second.as_mut(), 20 - at);
            prop_assert_eq!(other, net);
        }
    }
}
