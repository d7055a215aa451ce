//! GSE, guided stochastic exploration (Heddes, Srinivasa, Givargis and Nicolau 2024, arXiv 2401.06898): RigL whose growth looks at
//! a sample of the positions, so that no update costs more than a step.
//!
//! ```text
//! at an update: for each layer
//!     n       = trunc(f(step) · nnz)
//!     kept    = all entries but the n of smallest |w|
//!     sample  = trunc(gamma · nnz) positions that have no weight, at random: row i with a probability in proportion to
//!               Σ |dL/dy_i|, column j to Σ |x_j|, sums over the minibatch            (sampling = grabo)
//!     grown   = the n positions of the sample with the largest |dL/dW|
//!     pattern = kept ∪ grown; newcomers start at zero
//! ```
//!
//! The magnitude of a gradient is at most the product of the two activities, so that the sample is where large
//! gradients are possible (the paper's GraBo). With `sampling = uniform` all positions are equally likely. A column of
//! a convolution is a channel at a tap, and its activity that of the pixels which the tap sees.
//!
//! * If the sample would have as many positions as are free, it has them all, and the update is RigL's but for the next point: so
//!   do the authors at densities above one half, where gamma is 1.
//! * A position that is dropped is not in the sample of the same update (the authors' code, `disable_pruned_connections`).
//! * Positions drawn twice, or taken, are drawn again, up to eight times. The authors leave them out, and so sample fewer.
//! * If growth finds fewer than n positions, the largest dropped entries stay, so that a layer's nnz never changes.
//! * A gradient of several batches (`--growth-batches`) is that at the sample of the first; the authors let all of them draw.
//! * Of grouped convolutions a column has the activity of all groups. Not built: the paper's third distribution, GraEst, which
//!   draws by the magnitude of randomly signed sums.
//!
//! # Cost
//!
//! O(nrows + ncols + nnz log nnz) an update, beside the passes. Nothing has the size of the matrix: the sample takes index, value
//! and gradient, 12 bytes a position, while an update runs. Activations go to the host for their sums.

use sparse_kernels::{Candidate, ExploreRequest};

use crate::method::{
    GradientNeed, Layer, Layers, MethodError, MethodInfo, MethodOptions, ParameterInfo, UpdateGradient,
};
use crate::schedule::LoopSemantics;
use crate::scheduled::{Rewiring, Update, candidates_or_dropped};
use crate::topology::Kept;

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "drops the smallest weights, grows where the gradient is largest in a sample",
    update_gradient: UpdateGradient::Sample,
    reference_semantics: LoopSemantics::TF1_RIGL,
    parameters: &[
        ParameterInfo {
            name: "gamma",
            default: "1",
            rule: "a finite number above 0",
            summary: "positions that growth looks at, in parts of a layer's weights",
        },
        ParameterInfo {
            name: "sampling",
            default: "grabo",
            rule: "grabo or uniform",
            summary: "whether active outputs and inputs are looked at more often, or all positions alike",
        },
    ],
    ..MethodInfo::scheduled::<Gse>("gse")
};

/// Drops the smallest weights and grows as many where the gradient is largest in a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Gse {
    gamma: f64,
    by_activity: bool,
}

impl Gse {
    fn samples(&self, layer: Layer<'_>) -> usize {
        (self.gamma * layer.pattern().nnz() as f64) as usize
    }
}

impl Rewiring for Gse {
    fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError> {
        let known = |sampling: &String| sampling == "grabo" || sampling == "uniform";
        let sampling: String = info.parameter(options, "sampling", known)?;
        let gamma = info.parameter(options, "gamma", |gamma: &f64| gamma.is_finite() && *gamma > 0.0)?;
        Ok(Self { gamma, by_activity: sampling == "grabo" })
    }

    fn need(&self, update: &Update, layer: Layer<'_>, kept: &Kept) -> Result<GradientNeed, MethodError> {
        let count = kept.dropped_count();
        if count == 0 {
            return Ok(GradientNeed::None);
        }
        Ok(GradientNeed::Explore(ExploreRequest {
            exclude: layer.pattern().clone(),
            samples: self.samples(layer),
            count,
            by_activity: self.by_activity,
            draws: update.key("explore", layer),
            ties: update.key("ties", layer),
        }))
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

    fn sample(&self) -> f64 {
        self.gamma
    }

    fn held_bytes(&self, layers: &dyn Layers) -> usize {
        12 * layers
            .iter()
            .map(|layer| self.samples(layer).min(layer.positions() - layer.pattern().nnz()))
            .sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::method::Method;
    use crate::methods::test_loop::{Net, options, options_with};
    use crate::scheduled::Scheduled;
    use crate::{ScheduleOptions, UpdateSchedule};

    fn gse(parameters: &[(&str, &str)]) -> Scheduled<Gse> {
        let mut options = options(LoopSemantics::PAPER);
        options.parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let base = *options.schedule.options();
        let schedule = ScheduleOptions { begin_step: 0, drop_fraction: 0.5, ..base };
        options.schedule = UpdateSchedule::new(schedule).unwrap();
        Scheduled::<Gse>::new(&INFO, &options).unwrap()
    }

    /// Of four weights two are dropped. Columns 8 to 11 of sixteen are active, so that the sample is these four, and the largest
    /// gradients are elsewhere.
    #[test]
    fn eight_weights_by_hand() {
        let columns: &[u32] = &[0, 1, 3, 6];
        let mut net = Net::by_hand(&[(&[columns], 16, &[0.5, -0.1, 0.2, -0.4])]);
        let active = |column: usize| f32::from(u8::from((8..12).contains(&column)));
        net.given_activities = vec![[vec![1.0], (0..16).map(active).collect()]];
        net.given_gradients =
            vec![(0..16).map(|c| [9.0, 9.0, 1.0, -4.0, 3.0, 2.0][if c < 8 { 0 } else { c - 7 }.min(5)]).collect()];
        // Gradients of columns 8 to 11 are 9, 1, -4 and 3.
        assert_eq!(net.given_gradients[0][8..12], [9.0, 1.0, -4.0, 3.0]);
        assert_eq!(net.run(&mut gse(&[]), 1).updates, [0]);
        assert_eq!((net.columns(0), &net.values[0][..]), (&[0, 6, 8, 10][..], &[0.5, -0.4, 0.0, 0.0][..]));
    }

    /// With a sample of all free positions it is RigL, but for what was dropped.
    #[test]
    fn a_sample_of_everything_is_the_dense_gradient() {
        let (mut net, before) = (Net::new(5), Net::new(5));
        net.run(&mut gse(&[("gamma", "1000")]), 1);
        for layer in 0..net.len() {
            let (old, ncols) = (&before.patterns[layer], before.patterns[layer].ncols() as u32);
            let stored: BTreeSet<_> = old.positions().collect();
            let all = (0..old.nrows() as u32).flat_map(|row| (0..ncols).map(move |column| (row, column)));
            let mut free: Vec<_> = all.filter(|position| !stored.contains(position)).collect();
            let score = |position: (u32, u32)| before.gradient_at(layer, 0, position).abs();
            free.sort_by(|&a, &b| score(b).total_cmp(&score(a)));
            let mut expected: BTreeSet<_> = free[..old.nnz() / 2].iter().copied().collect();
            let grown: BTreeSet<_> = net.patterns[layer].positions().filter(|p| !stored.contains(p)).collect();
            assert_eq!(grown, expected);
            expected.extend(stored);
            assert!(net.patterns[layer].positions().all(|position| expected.contains(&position)));
        }
    }

    /// Silent outputs get nothing, unless all are looked at alike.
    #[test]
    fn silent_rows_grow_nothing() {
        for (sampling, grows) in [("grabo", false), ("uniform", true)] {
            let (mut net, before) = (Net::new(5), Net::new(5));
            net.given_activities =
                before.patterns.iter().map(|p| [vec![0.0; p.nrows()], vec![1.0; p.ncols()]]).collect();
            net.given_activities.iter_mut().for_each(|activity| activity[0][3..].fill(1.0));
            net.run(&mut gse(&[("sampling", sampling), ("gamma", "0.9")]), 1);
            let stored: BTreeSet<_> = before.patterns[2].positions().collect();
            let mut grown = net.patterns[2].positions().filter(|position| !stored.contains(position));
            assert_eq!(grown.any(|(row, _)| row < 3), grows, "{sampling}");
        }
    }

    #[test]
    fn it_grows_from_fewer_candidates_than_it_drops() {
        let (mut net, before) = (Net::new(5), Net::new(5));
        // A tenth of what there is, of which a half would be needed.
        net.run(&mut gse(&[("gamma", "0.1")]), 1);
        for layer in 0..net.len() {
            let stored: BTreeSet<_> = before.patterns[layer].positions().collect();
            let grown = net.patterns[layer].positions().filter(|position| !stored.contains(position)).count();
            assert_eq!(net.counts()[layer], before.counts()[layer]);
            assert!((1..=stored.len() / 10).contains(&grown), "{grown} of {}", stored.len());
        }
        assert_eq!(gse(&[("gamma", "0.1")]).held_bytes(&net), 12 * (6 + 1 + 30));
    }

    #[test]
    fn cannot_follow_the_optimizer() {
        let error = Scheduled::<Gse>::new(&INFO, &options(LoopSemantics::TF1_SET)).unwrap_err().to_string();
        assert!(error.starts_with("method gse: update_replaces_step must be true"), "{error}");
    }

    proptest! {
        #[test]
        fn numbers_stay_and_survivors_keep(seed in 0u64..1000, gamma in 0.05f64..4.0, uniform in any::<bool>()) {
            let mut options = options_with(LoopSemantics::PAPER, "gamma", &gamma.to_string());
            options.seed = seed;
            let sampling = if uniform { "uniform" } else { "grabo" };
            options.parameters.insert("sampling".to_owned(), sampling.to_owned());
            let mut method = Scheduled::<Gse>::new(&INFO, &options).unwrap();
            let mut net = Net::new(seed);
            let counts = net.counts();
            for step in 0..20 {
                let (patterns, values) = (net.patterns.clone(), net.values.clone());
                let is_update = [2, 5, 8, 11].contains(&step);
                prop_assert_eq!(!net.run(&mut method, 1).updates.is_empty(), is_update);
                prop_assert_eq!(&net.counts(), &counts);
                if !is_update {
                    continue;
                }
                // The seven tenths of largest magnitude stay.
                for layer in 0..net.len() {
                    let mut kept: Vec<_> = patterns[layer].positions().zip(&values[layer]).collect();
                    kept.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
                    kept.truncate(counts[layer] - (0.3 * counts[layer] as f64) as usize);
                    let now: BTreeSet<_> = net.patterns[layer].positions().collect();
                    prop_assert!(kept.iter().all(|(position, _)| now.contains(position)));
                }
            }
        }
    }
}
