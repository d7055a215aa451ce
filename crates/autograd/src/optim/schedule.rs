//! Learning rates as pure functions of the step.

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, PartialEq)]
pub enum Decay {
    /// It does not.
    Constant,
    /// Times `gamma` at each milestone.
    Step {
        /// Steps at which the rate falls, counted from the start of training, warm-up included.
        milestones: Vec<u64>,
        /// The factor.
        gamma: f32,
    },
    /// A line from the base rate, at the end of the warm-up, to `last` of it, at step `total`.
    Linear {
        /// Steps of the whole training, warm-up included.
        total: u64,
        /// The fraction of the base rate at the end, in `0..=1`.
        last: f32,
    },
    /// Half a cosine from the base rate, at the end of the warm-up, to 0, at step `total` (Loshchilov and Hutter 2017,
    /// without restarts).
    Cosine {
        /// Steps of the whole training, warm-up included.
        total: u64,
    },
}

/// A learning rate for every step.
///
/// In the first `warmup_steps` steps the rate is `(step + 1) / warmup_steps` of what it would be otherwise (for
/// [`Decay::Linear`] and [`Decay::Cosine`]: of the base rate), so that the last of them has the full rate (Goyal et al. 2017, section 2.2).
///
/// ```
/// use autograd::optim::{Decay, Schedule};
/// let schedule = Schedule { base: 0.1, warmup_steps: 4, decay: Decay::Step { milestones: vec![10, 20], gamma: 0.5 } };
/// assert_eq!([0, 1, 3, 9, 10, 20].map(|step| schedule.at(step)), [0.025, 0.05, 0.1, 0.1, 0.05, 0.025]);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// The rate after the warm-up.
    pub base: f32,
    /// Steps of linear warm-up; 0 for none.
    pub warmup_steps: u64,
    /// What comes after.
    pub decay: Decay,
}

impl Schedule {
    /// The same rate at every step.
    pub fn constant(base: f32) -> Self {
        Self { base, warmup_steps: 0, decay: Decay::Constant }
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f32 {
        let warmup = match step < self.warmup_steps {
            true => (step + 1) as f64 / self.warmup_steps as f64,
            false => 1.0,
        };
        let decay = match &self.decay {
            Decay::Constant => 1.0,
            Decay::Step { milestones, gamma } => {
                let passed = milestones.iter().filter(|&&m| m <= step).count();
                f64::from(*gamma).powi(passed as i32)
            }
            Decay::Linear { total, last } => {
                let (last, (done, all)) = (f64::from(*last), self.after_warmup(step, *total));
                match done < all {
                    true => last + (1.0 - last) * (all - done) as f64 / all as f64,
                    false if step < self.warmup_steps => 1.0,
                    false => last,
                }
            }
            Decay::Cosine { total } => {
                let (done, all) = self.after_warmup(step, *total);
                match done < all {
                    true => 0.5 * (1.0 + (std::f64::consts::PI * done as f64 / all as f64).cos()),
                    // A warm-up that takes the whole training still warms up.
                    false if step < self.warmup_steps => 1.0,
                    false => 0.0,
                }
            }
        };
        (f64::from(self.base) * warmup * decay) as f32
    }

    /// Steps since the warm-up, and from there to the end.
    fn after_warmup(&self, step: u64, total: u64) -> (u64, u64) {
        (step.saturating_sub(self.warmup_steps), total.saturating_sub(self.warmup_steps))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant() {
        assert_eq!([0, 1, 1 << 40].map(|step| Schedule::constant(0.3).at(step)), [0.3; 3]);
    }

    #[test]
    fn cosine() {
        let schedule = Schedule { base: 1.0, warmup_steps: 2, decay: Decay::Cosine { total: 6 } };
        let expected = [0.5, 1.0, 1.0, 0.853_553_4, 0.5, 0.146_446_6, 0.0, 0.0];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((schedule.at(step as u64) - expected).abs() < 1e-6, "step {step}: {}", schedule.at(step as u64));
        }
    }

    #[test]
    fn linear() {
        let decay = Decay::Linear { total: 6, last: 0.0 };
        let schedule = Schedule { base: 2.0, warmup_steps: 2, decay };
        let rates = |schedule: &Schedule| [0, 1, 2, 3, 4, 5, 6, 99].map(|step| schedule.at(step));
        assert_eq!(rates(&schedule), [1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0]);
        let to_half = Schedule { decay: Decay::Linear { total: 6, last: 0.5 }, ..schedule };
        assert_eq!(rates(&to_half), [1.0, 2.0, 2.0, 1.75, 1.5, 1.25, 1.0, 1.0]);
        let level = Schedule { decay: Decay::Linear { total: 6, last: 1.0 }, ..to_half };
        assert_eq!(rates(&level)[1..], [2.0; 7]);
    }

    #[test]
    fn step_with_warmup() {
        let decay = Decay::Step { milestones: vec![1, 3], gamma: 0.1 };
        let schedule = Schedule { base: 1.0, warmup_steps: 2, decay };
        let expected = [0.5, 0.1, 0.1, 0.01];
        for (step, expected) in expected.into_iter().enumerate() {
            assert!((schedule.at(step as u64) - expected).abs() < 1e-7);
        }
    }

    #[test]
    fn degenerate_lengths() {
        let schedule = Schedule { base: 1.0, warmup_steps: 4, decay: Decay::Cosine { total: 4 } };
        assert_eq!([0, 3, 4].map(|step| schedule.at(step)), [0.25, 1.0, 0.0]);
        let schedule = Schedule { base: 1.0, warmup_steps: 0, decay: Decay::Cosine { total: 0 } };
        assert_eq!(schedule.at(0), 0.0);
        let decay = Decay::Linear { total: 4, last: 0.25 };
        let schedule = Schedule { base: 1.0, warmup_steps: 4, decay };
        assert_eq!([0, 3, 4].map(|step| schedule.at(step)), [0.25, 1.0, 0.25]);
    }
}
