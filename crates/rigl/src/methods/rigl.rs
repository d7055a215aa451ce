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

use sparse_kernels::{Candidate, GrowRequest};

use crate::method::{GradientNeed, Layer, MethodError, MethodInfo, MethodOptions, UpdateGradient};
use crate::schedule::LoopSemantics;
use crate::scheduled::{Rewiring, Update, candidates_or_dropped};
use crate::topology::Kept;

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "drops the smallest weights, grows where the gradient is largest",
    update_gradient: UpdateGradient::Dense,
    reference_semantics: LoopSemantics::TF1_RIGL,
    ..MethodInfo::scheduled::<RigL>("rigl")
};

/// Drops the smallest weights and grows as many where the gradient is largest.
#[derive(Debug, Clone, PartialEq)]
pub struct RigL;

impl Rewiring for RigL {
    fn new(_: &'static MethodInfo, _: &MethodOptions) -> Result<Self, MethodError> {
        Ok(Self)
    }

    fn need(&self, update: &Update, layer: Layer<'_>, kept: &Kept) -> Result<GradientNeed, MethodError> {
        let count = kept.dropped_count();
        if count == 0 {
            return Ok(GradientNeed::None);
        }
        let (exclude, ties) = (layer.kept_pattern(kept)?.into(), update.key("ties", layer));
        Ok(GradientNeed::Growth(GrowRequest { exclude, count, ties }))
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::{Method, MethodState};
    use crate::methods::test_loop::{Net, options};
    use crate::schedule::{LoopSemantics, ScheduleState};
    use crate::scheduled::Scheduled;
    use std::collections::BTreeSet;

    fn rigl(semantics: LoopSemantics) -> Scheduled<RigL> {
        Scheduled::<RigL>::new(&INFO, &options(semantics)).unwrap()
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
            let record = net.run(&mut Scheduled::<RigL>::new(&INFO, &options).unwrap(), 11);
            assert_eq!(record.increments, expected);
        }
    }

    #[test]
    fn cannot_follow_the_optimizer() {
        let error = Scheduled::<RigL>::new(&INFO, &options(LoopSemantics::TF1_SET)).unwrap_err();
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
