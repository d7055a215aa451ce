//! The best epoch of a run by what its validation samples say, and when to stop waiting for a better one.

use serde::{Deserialize, Serialize};

use crate::choice::choices;

choices! {
    /// What makes an epoch better than another, on the validation samples.
    BestBy {
        /// A lower validation loss.
        Loss,
        /// A higher validation accuracy.
        Accuracy,
    }
}

impl BestBy {
    /// Whether `value` is better than `other`. What is not finite never is.
    fn prefers(self, value: f64, other: f64) -> bool {
        match self {
            Self::Loss => value < other,
            Self::Accuracy => value > other,
        }
    }
}

/// An epoch, and its value on the validation samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BestEpoch {
    /// The epoch, from 1.
    pub epoch: u64,
    /// Steps done at its end.
    pub step: u64,
    /// Its loss or accuracy. Finite.
    pub value: f64,
}

/// The best epoch so far. Part of a run's state: a run that is resumed goes on waiting where it was.
///
/// ```
/// use trainer::training::{BestBy, BestSoFar};
/// let mut best = BestSoFar::default();
/// let losses = [0.9, 0.5, 0.7, f64::NAN, 0.5];
/// let improved: Vec<_> = (1..).zip(losses).map(|(epoch, loss)| best.offer(BestBy::Loss, epoch, 10 * epoch, loss)).collect();
/// assert_eq!(improved, [true, true, false, false, false]);
/// assert_eq!((best.best().unwrap().epoch, best.waited(5)), (2, 3));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct BestSoFar {
    #[serde(skip_serializing_if = "Option::is_none")]
    best: Option<BestEpoch>,
    /// The epoch after which waiting began, where that is later than the best epoch.
    #[serde(default, skip_serializing_if = "is_zero")]
    counted_from: u64,
}

impl BestSoFar {
    /// The best epoch; `None` before the first whose value is finite.
    pub fn best(&self) -> Option<&BestEpoch> {
        self.best.as_ref()
    }

    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Takes an epoch that is over; returns whether it is better than all before it.
    pub fn offer(&mut self, by: BestBy, epoch: u64, step: u64, value: f64) -> bool {
        let improves = value.is_finite() && self.best.is_none_or(|best| by.prefers(value, best.value));
        if improves {
            self.best = Some(BestEpoch { epoch, step, value });
        }
        improves
    }

    /// Epochs without improvement, after this many.
    pub fn waited(&self, epochs: u64) -> u64 {
        epochs.saturating_sub(self.counted_from.max(self.best.map_or(0, |best| best.epoch)))
    }

    /// Waiting begins anew after this many epochs; the best one stays.
    pub fn wait_anew(&mut self, epochs: u64) {
        self.counted_from = epochs;
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_goes_through_json_to_the_bit() {
        let mut best = BestSoFar::default();
        assert_eq!((serde_json::to_string(&best).unwrap(), best.waited(4)), ("{}".to_owned(), 4));
        for (epoch, accuracy) in [(1, 0.1 + 0.2), (2, 0.3), (3, f64::INFINITY), (4, 0.1 + 0.2)] {
            assert_eq!(best.offer(BestBy::Accuracy, epoch, epoch, accuracy), epoch == 1);
        }
        let again: BestSoFar = serde_json::from_str(&serde_json::to_string(&best).unwrap()).unwrap();
        assert_eq!((again, again.best().unwrap().value.to_bits()), (best, (0.1f64 + 0.2).to_bits()));
        best.wait_anew(4);
        assert_eq!((best.waited(4), best.waited(6), best.best().unwrap().epoch), (0, 2, 1));
        let again: BestSoFar = serde_json::from_str(&serde_json::to_string(&best).unwrap()).unwrap();
        assert_eq!(again, best);
    }
}
