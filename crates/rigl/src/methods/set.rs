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
//! The original (dcmocanu/sparse-evolutionary-artificial-neural-networks) differs, and is had with `form = original`: it drops
//! the fraction of the positive weights closest to zero and the same fraction of the negative ones, zeros counting as
//! positive, and draws newcomers from a normal distribution of deviation 0.1. It updates at the end of each epoch but the
//! last, after an optimizer step and by a constant fraction of 0.3: an update interval of an epoch's steps, a constant drop
//! schedule and the authors' loop semantics.

use crate::method::{Layer, MethodError, MethodInfo, MethodOptions, ParameterInfo};
use crate::scheduled::{Rewiring, Update};
use crate::topology::{Kept, TopologyError, select_kept};

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "drops the smallest weights, grows at random",
    parameters: &[
        ParameterInfo {
            name: "form",
            default: "paper",
            rule: "paper or original",
            summary: "as RigL's paper runs it, or with quotas per sign and random new values, for weights in CSR",
        },
        ParameterInfo {
            name: "deviation",
            default: "0.1",
            rule: "a finite number of at least 0",
            summary: "standard deviation of new weights, with form original",
        },
    ],
    ..MethodInfo::scheduled::<Set>("set")
};

/// Drops the smallest weights and grows as many at random positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Set {
    /// The deviation of new weights in the original form; none in the paper's.
    original: Option<f32>,
}

impl Rewiring for Set {
    fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError> {
        let form: String = info.parameter(options, "form", |form: &String| form == "paper" || form == "original")?;
        let deviation: f32 = info.parameter(options, "deviation", |d: &f32| d.is_finite() && *d >= 0.0)?;
        Ok(Self { original: (form == "original").then_some(deviation) })
    }

    fn keep(&self, update: &Update, layer: Layer<'_>) -> Result<Kept, MethodError> {
        match self.original {
            None => layer.drop_smallest(update.drop_count(layer.pattern().nnz())),
            Some(_) => layer.named(kept_by_sign(&layer.values()?, |count| update.drop_count(count))),
        }
    }

    fn values(&self, update: &Update, layer: Layer<'_>, map: &[u32]) -> Result<Option<Vec<f32>>, MethodError> {
        let Some(deviation) = self.original else { return Ok(None) };
        let (old, key) = (layer.values()?, update.key("grow", layer).with_name("value"));
        let value = |(e, &from): (usize, &u32)| match from {
            u32::MAX => deviation * key.normal(e as u64),
            from => old[from as usize],
        };
        Ok(Some(map.iter().enumerate().map(value).collect()))
    }
}

/// Drops of the weights of each sign as many as `drop_count` says of their number, those closest to zero.
fn kept_by_sign(weights: &[f32], drop_count: impl Fn(usize) -> usize) -> Result<Kept, TopologyError> {
    let (negative, positive): (Vec<_>, Vec<_>) = (0..weights.len()).partition(|&e| weights[e] < 0.0);
    let mut keep = vec![true; weights.len()];
    for entries in [positive, negative] {
        let of_sign: Vec<f32> = entries.iter().map(|&e| weights[e]).collect();
        let kept = select_kept(&of_sign, drop_count(entries.len()))?;
        entries.iter().enumerate().for_each(|(i, &e)| keep[e] = kept.is_kept(i));
    }
    Ok(keep.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::test_loop::{Net, options, options_with};
    use crate::schedule::{LoopSemantics, UpdateSchedule};
    use crate::scheduled::Scheduled;

    #[test]
    fn an_update_in_place_of_a_step() {
        let mut net = Net::new(1);
        let mut set = Scheduled::<Set>::new(&INFO, &options(LoopSemantics::PAPER)).unwrap();
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
        let mut set = Scheduled::<Set>::new(&INFO, &options).unwrap();
        assert_eq!(net.run(&mut set, 11).updates, [1, 3]);
        assert_eq!((net.step, net.optimizer_steps), (11, 11));
    }

    /// Half of each sign goes, where the paper's form would drop all that is negative; newcomers are drawn.
    #[test]
    fn eight_weights_by_hand_in_the_original_form() {
        let weights = [0.5, 0.4, 0.6, 0.7, -0.01, -0.02, -0.03, -0.04];
        let run = |form: &str| {
            let mut options = options_with(LoopSemantics::PAPER, "form", form);
            let base = *options.schedule.options();
            let schedule = crate::ScheduleOptions { begin_step: 0, drop_fraction: 0.5, ..base };
            options.schedule = UpdateSchedule::new(schedule).unwrap();
            let mut net = Net::by_hand(&[(&[&[0, 1, 2, 3, 4, 5, 6, 7]], 1000, &weights)]);
            assert_eq!(net.run(&mut Scheduled::<Set>::new(&INFO, &options).unwrap(), 1).updates, [0]);
            let (stayed, grown): (Vec<_>, Vec<_>) =
                net.columns(0).iter().zip(&net.values[0]).map(|(&c, &w)| (c, w)).partition(|(c, _)| *c < 8);
            assert_eq!(grown.len(), 4);
            (stayed, grown)
        };
        let (stayed, grown) = run("original");
        assert_eq!(stayed, [(2, 0.6), (3, 0.7), (6, -0.03), (7, -0.04)]);
        assert!(grown.iter().all(|(_, w)| *w != 0.0 && w.abs() < 0.5), "{grown:?}");
        let (stayed, grown) = run("paper");
        assert_eq!(stayed, [(0, 0.5), (1, 0.4), (2, 0.6), (3, 0.7)]);
        assert!(grown.iter().all(|(_, w)| *w == 0.0));
    }

    #[test]
    fn new_weights_have_the_deviation_asked_for() {
        let mut options = options_with(LoopSemantics::PAPER, "form", "original");
        options.parameters.insert("deviation".to_owned(), "2".to_owned());
        let mut net = Net::new(1);
        let before = net.patterns.clone();
        net.step = 2;
        net.run(&mut Scheduled::<Set>::new(&INFO, &options).unwrap(), 1);
        let mut new = vec![];
        for (layer, old) in before.iter().enumerate() {
            assert_eq!(net.patterns[layer].nnz(), old.nnz());
            let old: Vec<_> = old.positions().collect();
            let entries = net.patterns[layer].positions().zip(&net.values[layer]);
            new.extend(entries.filter(|(p, _)| old.binary_search(p).is_err()).map(|(_, w)| f64::from(*w)));
        }
        let deviation = (new.iter().map(|w| w * w).sum::<f64>() / new.len() as f64).sqrt();
        // Of about 80 numbers: four deviations of the estimate, 1 / √(2 · 80) each.
        assert!(new.len() > 60 && (deviation / 2.0 - 1.0).abs() < 0.32, "{deviation} of {}", new.len());
    }

    #[test]
    fn one_seed_one_topology() {
        let run = |seed| {
            let mut net = Net::new(1);
            let mut options = options(LoopSemantics::PAPER);
            options.seed = seed;
            net.run(&mut Scheduled::<Set>::new(&INFO, &options).unwrap(), 20);
            net.patterns
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn an_update_drops_its_share() {
        let mut net = Net::new(1);
        let before = net.patterns.clone();
        net.run(&mut Scheduled::<Set>::new(&INFO, &options(LoopSemantics::PAPER)).unwrap(), 3);
        for (old, new) in before.iter().zip(&net.patterns) {
            let dropped = (0.3 * old.nnz() as f64) as usize;
            let stayed = new.positions().filter(|p| old.positions().any(|q| q == *p)).count();
            assert!((old.nnz() - dropped..old.nnz()).contains(&stayed), "{stayed} of {} stayed", old.nnz());
        }
    }
}
