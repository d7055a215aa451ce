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

use sparse_kernels::Candidate;
use sparse_kernels::random::Key;

use super::redistribution::spread;
use crate::flops::TrainingRule;
use crate::method::{
    GradientNeed, LayerUpdate, Layers, Method, MethodError, MethodInfo, MethodOptions, MethodState, ParameterInfo,
    StepIntent, UpdateTimes, check_state, in_layer,
};
use crate::schedule::{ScheduleState, UpdateSchedule};
use crate::topology::{kept_pattern, random_growth, rewire, select_kept};

pub(super) const INFO: MethodInfo = MethodInfo {
    summary: "drops below a global threshold, grows at random where more survive",
    updates: UpdateTimes::Scheduled,
    drops_a_fraction: true,
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
    ..MethodInfo::fixed("dsr", build)
};

/// Drops by a global threshold that adapts, and moves weights between layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Dsr {
    schedule: UpdateSchedule,
    state: ScheduleState,
    seed: u64,
    threshold: f64,
    tolerance: f64,
    /// Set between [`Method::before_gradient`] and [`Method::after_gradient`] of an update that replaces a step.
    updating: bool,
}

fn build(options: &MethodOptions) -> Result<Box<dyn Method>, MethodError> {
    Ok(Box::new(Dsr::new(options)?))
}

impl Dsr {
    /// DSR with this schedule and seed.
    ///
    /// # Errors
    /// If a parameter is impossible.
    pub fn new(options: &MethodOptions) -> Result<Self, MethodError> {
        let positive = |value: &f64| value.is_finite() && *value > 0.0;
        Ok(Self {
            schedule: options.schedule,
            state: ScheduleState::default(),
            seed: options.seed,
            threshold: INFO.parameter(options, "threshold", positive)?,
            tolerance: INFO.parameter(options, "tolerance", |value: &f64| (0.0..1.0).contains(value))?,
            updating: false,
        })
    }

    /// The magnitude below which the next update drops.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    fn update(&mut self, step: u64, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        let mut kept = vec![];
        for layer in 0..layers.len() {
            let values = layers.values(layer)?;
            let small = values.iter().filter(|value| f64::from(value.abs()) < self.threshold).count();
            let dropped = small.min(values.len().saturating_sub(1));
            // The entries below the threshold are the smallest.
            kept.push(select_kept(&values, dropped).map_err(in_layer(layers, layer))?);
        }
        let nnz: usize = (0..layers.len()).map(|layer| layers.pattern(layer).nnz()).sum();
        let dropped: usize = kept.iter().map(|kept| kept.dropped_count()).sum();
        let wanted = self.schedule.drop_count(step, nnz) as f64;
        if (dropped as f64) < (1.0 - self.tolerance) * wanted {
            self.threshold *= 2.0;
        } else if dropped as f64 > (1.0 + self.tolerance) * wanted {
            self.threshold /= 2.0;
        }
        let survivors: Vec<f64> = kept.iter().map(|kept| kept.kept_count() as f64).collect();
        let room = |layer: usize| {
            let pattern = layers.pattern(layer);
            pattern.nrows() * pattern.ncols() - kept[layer].kept_count()
        };
        let counts = spread(dropped, &survivors, &(0..layers.len()).map(room).collect::<Vec<_>>());
        let mut updates = vec![];
        for (layer, (kept, count)) in kept.iter().zip(counts).enumerate() {
            if kept.dropped_count() == 0 && count == 0 {
                continue;
            }
            let pattern = layers.pattern(layer);
            let key = Key::new(self.seed).with_name("grow").with_name(layers.name(layer)).with(step);
            let exclude = kept_pattern(pattern, kept).map_err(in_layer(layers, layer))?;
            let rewired =
                rewire(pattern, kept, &random_growth(&exclude, count, key)).map_err(in_layer(layers, layer))?;
            updates.push(LayerUpdate::of(layer, rewired));
        }
        Ok(updates)
    }
}

impl Method for Dsr {
    fn info(&self) -> &'static MethodInfo {
        &INFO
    }

    fn before_gradient(&mut self, step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        let semantics = self.schedule.options().semantics;
        self.updating = semantics.update_replaces_step && self.schedule.fires(step, &self.state);
        if !self.updating {
            return Ok(StepIntent::ordinary(layers.len()));
        }
        self.state.record(step);
        Ok(StepIntent {
            needs: vec![GradientNeed::None; layers.len()],
            optimizer_step: false,
            advance_counter: semantics.update_advances_counter,
        })
    }

    fn after_gradient(
        &mut self,
        step: u64,
        layers: &dyn Layers,
        _candidates: Vec<Vec<Candidate>>,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        if std::mem::take(&mut self.updating) { self.update(step, layers) } else { Ok(vec![]) }
    }

    fn after_optimizer(
        &mut self,
        step: u64,
        _learning_rate: f32,
        layers: &dyn Layers,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        if self.schedule.options().semantics.update_replaces_step || !self.schedule.fires(step, &self.state) {
            return Ok(vec![]);
        }
        self.state.record(step);
        self.update(step, layers)
    }

    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        TrainingRule::Sparse.flops(f_sparse, f_dense)
    }

    fn state(&self) -> MethodState {
        let mut state = MethodState::new(INFO.name, self.state);
        state.numbers.insert("threshold".to_owned(), self.threshold);
        state
    }

    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        check_state(INFO.name, state)?;
        self.threshold = state.number("threshold")?;
        (self.state, self.updating) = (state.schedule, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::methods::test_loop::{Net, options, options_with};
    use crate::schedule::LoopSemantics;

    /// With a threshold of 0.25 the first layer drops two weights of four, the second one; two and three stay. Of three new
    /// weights 1.2 and 1.8 are due: one and two.
    #[test]
    fn eight_weights_by_hand() {
        let columns: &[&[u32]] = &[&[0, 1, 2, 3]];
        let mut net = Net::by_hand(&[(columns, 8, &[0.5, -0.1, 0.2, -0.4]), (columns, 8, &[0.05, 0.9, 0.8, -0.7])]);
        net.step = 2;
        let mut dsr = Dsr::new(&options_with(LoopSemantics::PAPER, "threshold", "0.25")).unwrap();
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
        assert_eq!(dsr.threshold(), 0.125);
        // At the next update none lies below: half as many as wanted would be too few.
        net.values.iter_mut().for_each(|values| values.fill(1.0));
        net.step = 5;
        assert_eq!(net.run(&mut dsr, 1).updates, [0u64; 0]);
        assert_eq!(dsr.threshold(), 0.25);
    }

    proptest! {
        #[test]
        fn the_total_stays(seed in 0u64..1000, threshold in prop_oneof![Just(1e-3), 0.01f64..10.0], after in any::<bool>()) {
            let semantics = if after { LoopSemantics::TF1_SET } else { LoopSemantics::PAPER };
            let options = options_with(semantics, "threshold", &threshold.to_string());
            let mut dsr = Dsr::new(&MethodOptions { seed, ..options }).unwrap();
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
        let mut dsr = Dsr::new(&options(LoopSemantics::PAPER)).unwrap();
        let mut net = Net::new(1);
        let before = net.counts();
        net.run(&mut dsr, 20);
        // Four updates have doubled a threshold that was far too low.
        assert_eq!(dsr.threshold(), 0.001 * 16.0);
        net.step = 2;
        for _ in 0..9 {
            dsr.state = ScheduleState::default();
            (net.step, net.needs) = (2, vec![]);
            net.run(&mut dsr, 1);
        }
        assert_ne!(net.counts(), before);
        assert!((0.1..2.0).contains(&dsr.threshold()), "{}", dsr.threshold());
    }
}
