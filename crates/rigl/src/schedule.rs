//! When the topology changes, and which fraction of it.
//!
//! An update fires at step `t` if
//!
//! ```text
//! begin_step <= t   and   t < end_step   and   last_update + update_interval <= t
//! ```
//!
//! with `last_update = −update_interval` before the first one. The phase therefore hangs on the first update, not on
//! multiples of the interval.
//!
//! # Where paper and code differ
//!
//! * The paper stops at `t < T_end` (Algorithm 1); the authors' code (google-research/rigl,
//!   `rigl/sparse_optimizers_base.py`) at `t <= end_step`: [`ScheduleOptions::end_inclusive`].
//! * In the paper an update takes the place of an optimizer step and counts as a step. In the authors' code RigL's
//!   update takes the place of the optimizer step but does not count, and SET's follows the optimizer step:
//!   [`LoopSemantics`].
//! * The paper's cosine runs over `t / T_end`, the code's over `t / (end_step − begin_step)` with `t` not measured
//!   from `begin_step`, so that with `begin_step > 0` it reaches 0 too early. Here both are measured from
//!   `begin_step`: `(t − begin_step) / (end_step − begin_step)`. All three agree for `begin_step` 0.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::choice::choices;

/// A schedule that cannot be.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Updates would have no distance.
    #[error("update_interval is 0; it must be at least 1 step")]
    Interval,
    /// Not a fraction.
    #[error("drop_fraction is {got}; it must lie in 0..=1")]
    DropFraction {
        /// Value found.
        got: f64,
    },
    /// No step lies in the window.
    #[error("end_step is {end_step}; it must be greater than begin_step, which is {begin_step}")]
    Window {
        /// First step at which an update may fire.
        begin_step: u64,
        /// End of the window.
        end_step: u64,
    },
    /// A drop fraction that falls to zero needs to know when.
    #[error("drop_schedule {drop_schedule} needs an end_step; only `constant` works without one")]
    NoEnd {
        /// The schedule asked for.
        drop_schedule: DropSchedule,
    },
    /// Not an exponent of a falling power.
    #[error("the exponent of drop_schedule inverse-power is {got}; it must be positive and finite")]
    Exponent {
        /// Value found.
        got: f64,
    },
    /// An optimizer step that does not count would repeat the same step for ever.
    #[error(
        "update_replaces_step and update_advances_counter are both false: an update that follows an optimizer step \
         must advance the counter"
    )]
    Semantics,
}

choices! {
    /// How the drop fraction falls from its first value `α` (the paper's section 3 and appendix G).
    ///
    /// ```
    /// use rigl::DropSchedule;
    /// assert_eq!("inverse-power".parse(), Ok(DropSchedule::InversePower));
    /// assert!("linear".parse::<DropSchedule>().is_err());
    /// ```
    DropSchedule, "drop schedule":
    /// Constant: f(t) = α.
    Constant = "constant",
    /// Half a cosine, down to 0 at the end step (the default in the paper).
    Cosine = "cosine",
    /// α · (1 − progress)^exponent, linear for exponent 1; the code of the authors calls it exponential_k.
    InversePower = "inverse-power",
}

fn check_exponent(exponent: f64) -> Result<(), ScheduleError> {
    if exponent.is_finite() && exponent > 0.0 { Ok(()) } else { Err(ScheduleError::Exponent { got: exponent }) }
}

/// How a topology update and the optimizer step share an iteration of the training loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoopSemantics {
    /// The update takes the place of the optimizer step. Otherwise it follows the step, and whether it fires is
    /// asked with the counter that the step has advanced.
    pub update_replaces_step: bool,
    /// An iteration with an update advances the step counter. If not, the next minibatch does the optimizer step of
    /// the same `t`, and training sees one more minibatch per update.
    pub update_advances_counter: bool,
}

impl LoopSemantics {
    /// Algorithm 1 of the paper: the update replaces the step and counts as one.
    pub const PAPER: Self = Self { update_replaces_step: true, update_advances_counter: true };
    /// RigL in the authors' TensorFlow 1 code: the update replaces the step and does not count.
    pub const TF1_RIGL: Self = Self { update_replaces_step: true, update_advances_counter: false };
    /// SET in the authors' TensorFlow 1 code: the update follows the step.
    pub const TF1_SET: Self = Self { update_replaces_step: false, update_advances_counter: true };
}

/// What an [`UpdateSchedule`] is made of. Steps are optimizer steps, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScheduleOptions {
    /// The first step at which an update may fire; 0 means an update before any training.
    pub begin_step: u64,
    /// Where updates end (the paper's T_end); `None` for never.
    pub end_step: Option<u64>,
    /// Steps from one update to the next (the paper's ΔT).
    pub update_interval: u64,
    /// The fraction `α` of a layer's weights that the first update drops, in `0..=1`.
    pub drop_fraction: f64,
    /// How that fraction falls.
    pub drop_schedule: DropSchedule,
    /// The power of [`DropSchedule::InversePower`], positive.
    pub drop_exponent: f64,
    /// Whether an update may fire at `end_step` itself, as in the authors' code. The paper's does not.
    pub end_inclusive: bool,
    /// How updates and optimizer steps share iterations.
    pub semantics: LoopSemantics,
}

impl ScheduleOptions {
    /// The defaults for a training of `total_steps`: an update every 100 steps from step 100 to three quarters of
    /// the training, drop fraction 0.3 with cosine decay, the paper's loop.
    ///
    /// A training of 134 steps or fewer has no room for this window: [`UpdateSchedule::new`] then names `end_step`.
    pub fn for_steps(total_steps: u64) -> Self {
        Self {
            begin_step: 100,
            end_step: Some((u128::from(total_steps) * 3 / 4) as u64),
            update_interval: 100,
            drop_fraction: 0.3,
            drop_schedule: DropSchedule::Cosine,
            drop_exponent: 3.0,
            end_inclusive: false,
            semantics: LoopSemantics::PAPER,
        }
    }
}

/// When the topology changes and how much: [`ScheduleOptions`] that have been checked.
///
/// ```
/// use rigl::{ScheduleOptions, ScheduleState, UpdateSchedule};
/// let schedule = UpdateSchedule::new(ScheduleOptions::for_steps(1000))?;
/// let mut state = ScheduleState::default();
/// let mut updates = vec![];
/// for step in 0..1000 {
///     if schedule.fires(step, &state) {
///         state.record(step);
///         updates.push(step);
///     }
/// }
/// assert_eq!(updates, [100, 200, 300, 400, 500, 600, 700]);
/// assert_eq!(schedule.drop_count(100, 5000), 1500);
/// # Ok::<(), rigl::ScheduleError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct UpdateSchedule {
    options: ScheduleOptions,
}

impl UpdateSchedule {
    /// Checks the options.
    ///
    /// # Errors
    /// The first option that cannot be, with its value and what would be right.
    pub fn new(options: ScheduleOptions) -> Result<Self, ScheduleError> {
        if options.update_interval == 0 {
            return Err(ScheduleError::Interval);
        }
        // Written so that NaN fails too.
        if !(0.0..=1.0).contains(&options.drop_fraction) {
            return Err(ScheduleError::DropFraction { got: options.drop_fraction });
        }
        match options.end_step {
            Some(end_step) if end_step <= options.begin_step => {
                return Err(ScheduleError::Window { begin_step: options.begin_step, end_step });
            }
            None if options.drop_schedule != DropSchedule::Constant => {
                return Err(ScheduleError::NoEnd { drop_schedule: options.drop_schedule });
            }
            _ => {}
        }
        check_exponent(options.drop_exponent)?;
        if !options.semantics.update_replaces_step && !options.semantics.update_advances_counter {
            return Err(ScheduleError::Semantics);
        }
        Ok(Self { options })
    }

    /// What the schedule was made of.
    pub fn options(&self) -> &ScheduleOptions {
        &self.options
    }

    /// Whether an update fires at `step`, given when the last one did.
    pub fn fires(&self, step: u64, state: &ScheduleState) -> bool {
        let before_end = match self.options.end_step {
            None => true,
            Some(end) if self.options.end_inclusive => step <= end,
            Some(end) => step < end,
        };
        let due = state.last_update.is_none_or(|last| last.saturating_add(self.options.update_interval) <= step);
        self.options.begin_step <= step && before_end && due
    }

    /// The step of the last update of a run in which none is left out; `None` if updates never end.
    ///
    /// ```
    /// use rigl::{ScheduleOptions, UpdateSchedule};
    /// // Every 100 steps from step 100 on, before step 750.
    /// assert_eq!(UpdateSchedule::new(ScheduleOptions::for_steps(1000))?.last_update(), Some(700));
    /// # Ok::<(), rigl::ScheduleError>(())
    /// ```
    pub fn last_update(&self) -> Option<u64> {
        let ScheduleOptions { begin_step, end_step, update_interval, end_inclusive, .. } = self.options;
        let steps = end_step? - begin_step - u64::from(!end_inclusive);
        Some(begin_step + steps / update_interval * update_interval)
    }

    /// The fraction `f(t)` of a layer's weights that an update at `step` drops, in `0..=1`; see [`DropSchedule`].
    /// Whether there is an update at `step` is not asked.
    pub fn drop_fraction(&self, step: u64) -> f64 {
        let ScheduleOptions { begin_step, drop_fraction, .. } = self.options;
        let progress = match self.options.end_step {
            Some(end) => (step.saturating_sub(begin_step) as f64 / (end - begin_step) as f64).min(1.0),
            // Only a constant schedule has no end, and it does not ask.
            None => 0.0,
        };
        match self.options.drop_schedule {
            DropSchedule::Constant => drop_fraction,
            DropSchedule::Cosine => drop_fraction / 2.0 * (1.0 + (std::f64::consts::PI * progress).cos()),
            DropSchedule::InversePower => drop_fraction * (1.0 - progress).powf(self.options.drop_exponent),
        }
    }

    /// How many of a layer's `nnz` weights an update at `step` drops: `trunc(f(step) · nnz)`, without a minimum of
    /// one (google-research/rigl, `rigl/sparse_optimizers_base.py`).
    pub fn drop_count(&self, step: u64, nnz: usize) -> usize {
        (self.drop_fraction(step) * nnz as f64) as usize
    }
}

/// What a schedule remembers between steps; part of a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScheduleState {
    /// The step of the last update, if there was one.
    pub last_update: Option<u64>,
}

impl ScheduleState {
    /// Notes that an update fired at `step`.
    pub fn record(&mut self, step: u64) {
        self.last_update = Some(step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(begin_step: u64, end_step: u64, update_interval: u64, semantics: LoopSemantics) -> ScheduleOptions {
        ScheduleOptions {
            begin_step,
            end_step: Some(end_step),
            update_interval,
            drop_fraction: 0.3,
            drop_schedule: DropSchedule::Constant,
            drop_exponent: 3.0,
            end_inclusive: true,
            semantics,
        }
    }

    /// How much each iteration advances the counter when updates replace optimizer steps.
    fn increments(options: ScheduleOptions, iterations: usize) -> Vec<u64> {
        let schedule = UpdateSchedule::new(options).unwrap();
        let (mut step, mut state) = (0, ScheduleState::default());
        (0..iterations)
            .map(|_| {
                let fires = schedule.fires(step, &state);
                if fires {
                    state.record(step);
                }
                let increment = u64::from(!fires || options.semantics.update_advances_counter);
                step += increment;
                increment
            })
            .collect()
    }

    /// The vectors of google-research/rigl, `rigl/sparse_optimizers_test.py`.
    #[test]
    fn rigl_of_the_authors_code_repeats_the_step_of_an_update() {
        let tf1 = |begin, end, interval| increments(options(begin, end, interval, LoopSemantics::TF1_RIGL), 11);
        assert_eq!(tf1(3, 7, 2), [1, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1]);
        assert_eq!(tf1(1, 5, 3), [1, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1]);
        assert_eq!(tf1(0, 4, 1), [0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 1]);
        // The paper's loop counts every iteration.
        assert_eq!(increments(options(3, 7, 2, LoopSemantics::PAPER), 11), [1; 11]);
    }

    fn updates(options: ScheduleOptions, steps: u64) -> Vec<u64> {
        let schedule = UpdateSchedule::new(options).unwrap();
        let mut state = ScheduleState::default();
        (0..steps)
            .filter(|&step| {
                let fires = schedule.fires(step, &state);
                if fires {
                    state.record(step);
                }
                fires
            })
            .collect()
    }

    #[test]
    fn set_of_the_authors_code_changes_masks_after_steps_1_and_3() {
        assert_eq!(updates(options(1, 4, 2, LoopSemantics::TF1_SET), 11), [1, 3]);
    }

    #[test]
    fn the_paper_stops_before_the_end_and_the_code_at_it() {
        let mut options = options(0, 6, 2, LoopSemantics::PAPER);
        assert_eq!(updates(options, 11), [0, 2, 4, 6]);
        options.end_inclusive = false;
        assert_eq!(updates(options, 11), [0, 2, 4]);
        options.end_step = None;
        assert_eq!(updates(options, 11), [0, 2, 4, 6, 8, 10]);
    }

    #[test]
    fn a_restored_state_keeps_the_phase() {
        let schedule = UpdateSchedule::new(options(0, 100, 10, LoopSemantics::PAPER)).unwrap();
        let state = ScheduleState { last_update: Some(13) };
        assert!(!schedule.fires(20, &state));
        assert!(schedule.fires(23, &state));
        assert!(schedule.fires(20, &ScheduleState::default()));
        assert!(!schedule.fires(20, &ScheduleState { last_update: Some(u64::MAX) }));
    }

    #[test]
    fn cosine_values() {
        let mut options = options(0, 25_000, 100, LoopSemantics::PAPER);
        options.drop_schedule = DropSchedule::Cosine;
        let schedule = UpdateSchedule::new(options).unwrap();
        for (step, expected) in
            [(0, 0.3), (100, 0.29999), (5000, 0.27135), (12_500, 0.15), (20_000, 0.02865), (25_000, 0.0)]
        {
            let got = schedule.drop_fraction(step);
            assert!((got - expected).abs() < 5e-6, "step {step}: {got}, expected {expected}");
        }
        let late = schedule.drop_fraction(24_900);
        assert!((late - 1.2e-5).abs() < 5e-7, "{late}");
        assert_eq!(schedule.drop_fraction(30_000), schedule.drop_fraction(25_000));
        assert_eq!(schedule.drop_count(12_500, 1001), 150);
        assert_eq!(schedule.drop_count(25_000, 1001), 0);
    }

    #[test]
    fn fractions_are_measured_from_the_beginning() {
        let mut options = options(100, 300, 10, LoopSemantics::PAPER);
        let at = |options, step| UpdateSchedule::new(options).unwrap().drop_fraction(step);
        assert_eq!(at(options, 250), 0.3);
        options.drop_schedule = DropSchedule::Cosine;
        assert_eq!(at(options, 100), 0.3);
        assert!((at(options, 200) - 0.15).abs() < 1e-15);
        for (exponent, expected) in [(1.0, 0.15), (3.0, 0.0375)] {
            (options.drop_schedule, options.drop_exponent) = (DropSchedule::InversePower, exponent);
            assert_eq!(at(options, 50), 0.3);
            assert!((at(options, 200) - expected).abs() < 1e-15);
            assert_eq!(at(options, 300), 0.0);
        }
    }

    #[test]
    fn the_last_update_is_the_last_that_fires() {
        for (begin, end, interval, inclusive) in (0..4)
            .flat_map(|begin| (begin + 1..12).flat_map(move |end| (1..5).map(move |interval| (begin, end, interval))))
            .flat_map(|(begin, end, interval)| [false, true].map(|inclusive| (begin, end, interval, inclusive)))
        {
            let mut options = options(begin, end, interval, LoopSemantics::PAPER);
            options.end_inclusive = inclusive;
            let schedule = UpdateSchedule::new(options).unwrap();
            assert_eq!(schedule.last_update(), updates(options, 20).last().copied(), "{options:?}");
        }
        let mut endless = options(0, 10, 1, LoopSemantics::PAPER);
        endless.end_step = None;
        assert_eq!(UpdateSchedule::new(endless).unwrap().last_update(), None);
    }

    #[test]
    fn impossible_options_are_named() {
        let good = options(0, 10, 1, LoopSemantics::PAPER);
        let error = |options| UpdateSchedule::new(options).unwrap_err().to_string();
        let interval = error(ScheduleOptions { update_interval: 0, ..good });
        assert_eq!(interval, "update_interval is 0; it must be at least 1 step");
        for drop_fraction in [-0.1, 1.1, f64::NAN] {
            let text = error(ScheduleOptions { drop_fraction, ..good });
            assert_eq!(text, format!("drop_fraction is {drop_fraction}; it must lie in 0..=1"));
        }
        let window = error(ScheduleOptions { begin_step: 10, ..good });
        assert_eq!(window, "end_step is 10; it must be greater than begin_step, which is 10");
        let endless = ScheduleOptions { end_step: None, drop_schedule: DropSchedule::Cosine, ..good };
        assert_eq!(error(endless), "drop_schedule cosine needs an end_step; only `constant` works without one");
        assert!(error(ScheduleOptions { drop_exponent: 0.0, ..good }).contains("exponent"));
        let neither = LoopSemantics { update_replaces_step: false, update_advances_counter: false };
        assert!(error(ScheduleOptions { semantics: neither, ..good }).contains("must advance the counter"));
    }

    #[test]
    fn names_are_read_back() {
        for schedule in [DropSchedule::Constant, DropSchedule::Cosine, DropSchedule::InversePower] {
            assert_eq!(schedule.to_string().parse(), Ok(schedule));
        }
        for wrong in ["", "Cosine", "inverse-power:", "inverse-power:x", "inverse-power:-1", "inverse-power:nan"] {
            assert!(wrong.parse::<DropSchedule>().is_err(), "{wrong}");
        }
    }
}
