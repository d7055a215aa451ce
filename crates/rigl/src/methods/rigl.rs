//! RigL (the paper's Algorithm 1): drop the smallest magnitudes, grow where the dense gradient is largest.
//!
//! ```text
//! at an update: for each layer
//!     n       = trunc(f(step) · nnz)
//!     kept    = all entries but the n of smallest |w|
//!     grown   = the n positions outside kept with the largest |dL/dW|, of the current minibatch
//!     pattern = kept ∪ grown; newcomers start at zero
//! ```
//!
//! * The gradient is that of the loss alone, without weight decay.
//! * A dropped position is a candidate like any other; grown again, it keeps its value and slots.
//! * `n` follows the entries that the layer has (the authors' code), not a density that was asked for (the paper):
//!   a layer's nnz never changes.
//! * If the search finds fewer than `n` candidates, the largest dropped entries stay, so that nnz is kept all the same.

use sparse_kernels::random::Key;
use sparse_kernels::{Candidate, GrowRequest};

use crate::flops::TrainingRule;
use crate::method::{
    GradientNeed, LayerUpdate, Layers, Method, MethodError, MethodInfo, MethodOptions, MethodState, StepIntent,
    UpdateTimes, check_state, in_layer,
};
use crate::schedule::{LoopSemantics, ScheduleState, UpdateSchedule};
use crate::topology::{Kept, fill_with_dropped, kept_pattern, rewire, select_kept};

pub(super) const INFO: MethodInfo = MethodInfo {
    summary: "drops the smallest weights, grows where the gradient is largest",
    updates: UpdateTimes::Scheduled,
    drops_a_fraction: true,
    grows_by_gradient: true,
    reference_semantics: LoopSemantics::TF1_RIGL,
    ..MethodInfo::fixed("rigl", build)
};

/// Drops the smallest weights and grows as many where the gradient is largest.
///
/// An update takes the place of an optimizer step: [`crate::LoopSemantics::PAPER`] or
/// [`crate::LoopSemantics::TF1_RIGL`].
#[derive(Debug, Clone, PartialEq)]
pub struct RigL {
    schedule: UpdateSchedule,
    state: ScheduleState,
    seed: u64,
    growth_batches: u64,
    /// One for each layer between [`Method::before_gradient`] and [`Method::after_gradient`] of an update, `None` for
    /// a layer that drops nothing; empty at other times.
    kept: Vec<Option<Kept>>,
}

fn build(options: &MethodOptions) -> Result<Box<dyn Method>, MethodError> {
    Ok(Box::new(RigL::new(options)?))
}

impl RigL {
    /// RigL with this schedule and seed.
    ///
    /// # Errors
    /// If the schedule lets updates follow the optimizer step.
    pub fn new(options: &MethodOptions) -> Result<Self, MethodError> {
        if !options.schedule.options().semantics.update_replaces_step {
            let reason = "the gradient it grows by is that of the weights before a step";
            return Err(MethodError::Semantics { method: INFO.name, reason });
        }
        let &MethodOptions { schedule, seed, growth_batches, .. } = options;
        Ok(Self { schedule, state: ScheduleState::default(), seed, growth_batches, kept: vec![] })
    }
}

impl Method for RigL {
    fn info(&self) -> &'static MethodInfo {
        &INFO
    }

    fn before_gradient(&mut self, step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        self.kept.clear();
        if !self.schedule.fires(step, &self.state) {
            return Ok(StepIntent::ordinary(layers.len()));
        }
        let mut needs = vec![];
        for layer in 0..layers.len() {
            let pattern = layers.pattern(layer);
            let count = self.schedule.drop_count(step, pattern.nnz());
            if count == 0 {
                needs.push(GradientNeed::None);
                self.kept.push(None);
                continue;
            }
            let kept = select_kept(&layers.values(layer)?, count).map_err(in_layer(layers, layer))?;
            let exclude = kept_pattern(pattern, &kept).map_err(in_layer(layers, layer))?;
            let ties = Key::new(self.seed).with_name("ties").with_name(layers.name(layer)).with(step);
            needs.push(GradientNeed::Growth(GrowRequest { exclude: exclude.into(), count, ties }));
            self.kept.push(Some(kept));
        }
        self.state.record(step);
        let advance_counter = self.schedule.options().semantics.update_advances_counter;
        Ok(StepIntent { needs, optimizer_step: false, advance_counter })
    }

    fn after_gradient(
        &mut self,
        _step: u64,
        layers: &dyn Layers,
        candidates: Vec<Vec<Candidate>>,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        let kept = std::mem::take(&mut self.kept);
        if kept.is_empty() {
            return Ok(vec![]);
        }
        if candidates.len() != kept.len() {
            return Err(MethodError::Candidates { method: INFO.name, expected: kept.len(), got: candidates.len() });
        }
        let mut updates = vec![];
        for (layer, (kept, candidates)) in kept.into_iter().zip(candidates).enumerate() {
            let Some(kept) = kept else { continue };
            let pattern = layers.pattern(layer);
            let mut grown: Vec<_> = candidates.iter().map(|c| (c.row, c.column)).collect();
            if grown.len() < kept.dropped_count() {
                fill_with_dropped(pattern, &layers.values(layer)?, &kept, &mut grown)
                    .map_err(in_layer(layers, layer))?;
            }
            let rewired = rewire(pattern, &kept, &grown).map_err(in_layer(layers, layer))?;
            updates.push(LayerUpdate::of(layer, rewired));
        }
        Ok(updates)
    }

    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        let update_interval = self.schedule.options().update_interval;
        let rule = TrainingRule::GradientGrowth { update_interval, batches: self.growth_batches };
        rule.flops(f_sparse, f_dense)
    }

    fn state(&self) -> MethodState {
        MethodState::new(INFO.name, self.state)
    }

    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        check_state(INFO.name, state)?;
        self.state = state.schedule;
        self.kept.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::test_loop::{Net, options};
    use crate::schedule::LoopSemantics;
    use std::collections::BTreeSet;

    fn rigl(semantics: LoopSemantics) -> RigL {
        RigL::new(&options(semantics)).unwrap()
    }

    #[test]
    fn the_papers_loop_counts_updates() {
        let mut net = Net::new(1);
        assert_eq!(net.run(&mut rigl(LoopSemantics::PAPER), 20).updates, [2, 5, 8, 11]);
        assert_eq!((net.step, net.optimizer_steps), (20, 16));
    }

    /// google-research/rigl, `rigl/sparse_optimizers_test.py`.
    #[test]
    fn the_authors_loop_does_not() {
        for (begin, end, interval, expected) in [
            (3, 7, 2, [1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1]),
            (1, 5, 3, [1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1]),
            (0, 4, 1, [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1]),
        ] {
            let mut net = Net::new(1);
            let mut options = options(LoopSemantics::TF1_RIGL);
            options.schedule = net.schedule(begin, end, interval, LoopSemantics::TF1_RIGL);
            let record = net.run(&mut RigL::new(&options).unwrap(), 11);
            assert_eq!(record.increments, expected);
        }
    }

    #[test]
    fn cannot_follow_the_optimizer() {
        let error = RigL::new(&options(LoopSemantics::TF1_SET)).unwrap_err();
        assert!(error.to_string().starts_with("method rigl: update_replaces_step must be true"), "{error}");
    }

    /// Against the definition, on the dense matrix.
    #[test]
    fn grows_where_the_gradient_is_largest() {
        let mut net = Net::new(5);
        let mut method = rigl(LoopSemantics::PAPER);
        net.run(&mut method, 2);
        let (patterns, values) = (net.patterns.clone(), net.values.clone());
        net.run(&mut method, 1);
        for layer in 0..net.len() {
            let count = (0.3 * patterns[layer].nnz() as f64) as usize;
            let mut entries: Vec<_> = patterns[layer].positions().zip(&values[layer]).enumerate().collect();
            entries.sort_by(|a, b| b.1.1.abs().total_cmp(&a.1.1.abs()).then(a.0.cmp(&b.0)));
            let mut expected: BTreeSet<_> =
                entries[..entries.len() - count].iter().map(|(_, (position, _))| *position).collect();
            let (nrows, ncols) = (patterns[layer].nrows() as u32, patterns[layer].ncols() as u32);
            let mut free: Vec<_> =
                (0..nrows).flat_map(|r| (0..ncols).map(move |c| (r, c))).filter(|p| !expected.contains(p)).collect();
            free.sort_by(|&a, &b| net.gradient_at(layer, 2, b).abs().total_cmp(&net.gradient_at(layer, 2, a).abs()));
            expected.extend(&free[..count]);
            assert_eq!(net.patterns[layer].positions().collect::<BTreeSet<_>>(), expected);
        }
    }

    #[test]
    fn one_seed_one_topology() {
        let run = || {
            let mut net = Net::new(1);
            net.run(&mut rigl(LoopSemantics::PAPER), 20);
            net
        };
        assert_eq!(run(), run());
    }

    #[test]
    fn resumes_bit_for_bit() {
        let mut whole = Net::new(3);
        whole.run(&mut rigl(LoopSemantics::TF1_RIGL), 20);
        for at in 0..20 {
            let mut first = rigl(LoopSemantics::TF1_RIGL);
            let mut net = Net::new(3);
            net.run(&mut first, at);
            let mut second = rigl(LoopSemantics::TF1_RIGL);
            second.restore(&first.state()).unwrap();
            net.run(&mut second, 20 - at);
            assert_eq!(net, whole, "interrupted after {at} steps");
        }
    }

    #[test]
    fn too_few_candidates_keep_the_count() {
        let net = Net::new(1);
        let mut method = rigl(LoopSemantics::PAPER);
        method.before_gradient(2, &net).unwrap();
        let updates = method.after_gradient(2, &net, vec![vec![]; net.len()]).unwrap();
        assert_eq!(updates.len(), net.len());
        for update in updates {
            // Nothing was grown, so everything stays.
            assert_eq!(update.pattern, net.patterns[update.layer]);
            assert!(update.map.iter().enumerate().all(|(e, &from)| e == from as usize));
        }
    }

    #[test]
    fn wrong_driving_is_named() {
        let net = Net::new(1);
        let mut method = rigl(LoopSemantics::PAPER);
        method.before_gradient(2, &net).unwrap();
        let error = method.after_gradient(2, &net, vec![vec![]]).unwrap_err();
        assert_eq!(error.to_string(), "method rigl: candidates for 1 layers, expected 3");
        method.before_gradient(8, &net).unwrap();
        let outside = Candidate { row: 0, column: 1000, score: 1.0 };
        let error = method.after_gradient(8, &net, vec![vec![outside; 50], vec![], vec![]]).unwrap_err();
        assert_eq!(error.to_string(), "layer a: rewire: (0, 1000) is outside a matrix of 12×20");
        let state = MethodState::new("set", ScheduleState::default());
        let error = method.restore(&state).unwrap_err();
        assert_eq!(error.to_string(), "cannot restore method rigl from a state of method set");
    }
}
