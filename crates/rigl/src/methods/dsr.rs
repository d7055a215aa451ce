//! DSR, dynamic sparse reparameterization (Mostafa and Wang 2019, arXiv 1902.05967): drop what lies below one threshold for
//! all layers, grow as many at random, more of them where more have survived.
//!
//! ```text
//! at an update:
//!     wanted   = trunc(f(step) · nnz)                               over all layers
//!     dropped  = all entries with |w| < threshold, of each layer
//!     if count(dropped) < (1 − tolerance) · wanted:  threshold ← 2 · threshold
//!     if count(dropped) > (1 + tolerance) · wanted:  threshold ← threshold / 2
//!     grown    = count(dropped) positions at random, a layer's number in proportion to its entries that stay
//! ```
//!
//! The number of weights stays the same in total, not in a layer. The threshold is a part of the state: it closes in on what
//! drops as many as wanted. What a layer has no room for goes to the others.
//!
//! The paper cites results of this method and has no code; here fraction and times follow the common schedule. In the
//! original the wanted number is constant and updates are some hundreds of steps apart. At least one entry of each layer
//! stays, the largest.

use super::redistribution::spread;
use crate::method::{Layer, Layers, MethodError, MethodInfo, MethodOptions, MethodState, ParameterInfo};
use crate::scheduled::{Rewiring, Update};
use crate::topology::{Kept, select_kept};

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "drops below a global threshold, grows at random where more survive",
    parameters: &[
        ParameterInfo {
            name: "threshold",
            default: "0.001",
            rule: "a finite number above 0",
            summary: "magnitude below which weights are dropped at the first update; it adapts",
        },
        ParameterInfo {
            name: "tolerance",
            default: "0.1",
            rule: "at least 0 and below 1",
            summary: "share by which the number dropped may miss the wanted one before the threshold moves",
        },
    ],
    ..MethodInfo::scheduled::<Dsr>("dsr")
};

/// Drops by a global threshold that adapts, and moves weights between layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Dsr {
    threshold: f64,
    tolerance: f64,
}

impl Rewiring for Dsr {
    fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError> {
        let positive = |value: &f64| value.is_finite() && *value > 0.0;
        let threshold = info.parameter(options, "threshold", positive)?;
        let tolerance = info.parameter(options, "tolerance", |value: &f64| (0.0..1.0).contains(value))?;
        Ok(Self { threshold, tolerance })
    }

    fn keep(&self, _: &Update, layer: Layer<'_>) -> Result<Kept, MethodError> {
        let values = layer.values()?;
        let small = values.iter().filter(|value| f64::from(value.abs()) < self.threshold).count();
        // The entries below the threshold are the smallest.
        layer.named(select_kept(&values, small.min(values.len().saturating_sub(1))))
    }

    fn counts(&mut self, update: &Update, layers: &dyn Layers, kept: &[Kept]) -> Vec<usize> {
        let dropped: usize = kept.iter().map(Kept::dropped_count).sum();
        let wanted = update.drop_count(layers.iter().map(|layer| layer.pattern().nnz()).sum()) as f64;
        if (dropped as f64) < (1.0 - self.tolerance) * wanted {
            self.threshold *= 2.0;
        } else if dropped as f64 > (1.0 + self.tolerance) * wanted {
            self.threshold /= 2.0;
        }
        let survivors: Vec<f64> = kept.iter().map(|kept| kept.kept_count() as f64).collect();
        let room: Vec<_> = layers.iter().zip(kept).map(|(layer, kept)| layer.positions() - kept.kept_count()).collect();
        spread(dropped, &survivors, &room)
    }

    fn save(&self, state: &mut MethodState) {
        state.numbers.insert("threshold".to_owned(), self.threshold);
    }

    fn load(&mut self, state: &MethodState) -> Result<(), MethodError> {
        self.threshold = state.number("threshold")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::methods::test_loop::{Net, options, options_with};
    use crate::schedule::{LoopSemantics, ScheduleState};
    use crate::scheduled::Scheduled;

    /// With a threshold of 0.25 the first layer drops two weights of four, the second one; two and three stay. Of three new
    /// weights 1.2 and 1.8 are due: one and two.
    #[test]
    fn eight_weights_by_hand() {
        let columns: &[&[u32]] = &[&[0, 1, 2, 3]];
        let mut net = Net::by_hand(&[(columns, 8, &[0.5, -0.1, 0.2, -0.4]), (columns, 8, &[0.05, 0.9, 0.8, -0.7])]);
        net.step = 2;
        let mut dsr = Scheduled::<Dsr>::new(&INFO, &options_with(LoopSemantics::PAPER, "threshold", "0.25")).unwrap();
        assert_eq!(net.run(&mut dsr, 1).updates, [2]);
        assert_eq!(net.counts(), [3, 5]);
        // What stays has its value; what was dropped and drawn again, too; new ones are zero.
        for (layer, stays) in [(0, &[(0, 0.5), (3, -0.4)][..]), (1, &[(1, 0.9), (2, 0.8), (3, -0.7)])] {
            for (column, value) in stays {
                let entry = net.columns(layer).iter().position(|c| c == column).unwrap();
                assert_eq!(net.values[layer][entry], *value);
            }
        }
        // trunc(0.3 · 8) = 2 were wanted, and 3 are more than 2.2.
        assert_eq!(dsr.rewiring.threshold, 0.125);
        // At the next update none lies below: half as many as wanted would be too few.
        net.values.iter_mut().for_each(|values| values.fill(1.0));
        net.step = 5;
        assert_eq!(net.run(&mut dsr, 1).updates, [0u64; 0]);
        assert_eq!(dsr.rewiring.threshold, 0.25);
    }

    proptest! {
        #[test]
        fn the_total_stays(seed in 0u64..1000, threshold in prop_oneof![Just(1e-3), 0.01f64..10.0], after in any::<bool>()) {
            let semantics = if after { LoopSemantics::TF1_SET } else { LoopSemantics::PAPER };
            let options = options_with(semantics, "threshold", &threshold.to_string());
            let mut dsr = Scheduled::<Dsr>::new(&INFO, &MethodOptions { seed, ..options }).unwrap();
            let mut net = Net::new(seed);
            let total: usize = net.counts().iter().sum();
            for _ in 0..20 {
                net.run(&mut dsr, 1);
                prop_assert_eq!(net.counts().iter().sum::<usize>(), total);
                prop_assert!(net.counts().iter().all(|&count| count > 0));
            }
        }
    }

    #[test]
    fn the_threshold_finds_what_is_wanted() {
        let mut dsr = Scheduled::<Dsr>::new(&INFO, &options(LoopSemantics::PAPER)).unwrap();
        let mut net = Net::new(1);
        let before = net.counts();
        net.run(&mut dsr, 20);
        // Four updates have doubled a threshold that was far too low.
        assert_eq!(dsr.rewiring.threshold, 0.001 * 16.0);
        net.step = 2;
        for _ in 0..9 {
            dsr.state = ScheduleState::default();
            (net.step, net.needs) = (2, vec![]);
            net.run(&mut dsr, 1);
        }
        assert_ne!(net.counts(), before);
        assert!((0.1..2.0).contains(&dsr.rewiring.threshold), "{}", dsr.rewiring.threshold);
    }
}
