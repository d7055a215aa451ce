//! What arms are ranked by.

use serde::Serialize;

use super::{Results, RunFolder};

/// The samples on which the accuracy at the end of a run ranks the arms.
///
/// With validation samples, the test set has no part in the choice of an arm: its accuracy stays an estimate of what the chosen
/// arm does on new samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RankedOn {
    /// The samples held out of the training set by `val-fraction`.
    Validation,
    /// The test set: some run holds out no samples.
    Test,
}

impl RankedOn {
    /// The validation samples if every finished run has some, otherwise the test set.
    pub fn of(results: &Results) -> Self {
        let mut finished = results.groups.iter().flat_map(|group| group.finished()).peekable();
        let some = finished.peek().is_some();
        let held_out = finished.all(|(_, run)| run.config.val_fraction > 0.0);
        if some && held_out { Self::Validation } else { Self::Test }
    }

    /// Share of right answers at the end of a run; none if it is not finished.
    pub fn accuracy(self, run: &RunFolder) -> Option<f64> {
        let done = run.done.as_ref()?;
        match self {
            Self::Validation => run.epochs.last()?.val_accuracy,
            Self::Test => Some(done.test_accuracy),
        }
    }

    /// For headings: `validation accuracy`.
    pub fn accuracy_name(self) -> &'static str {
        match self {
            Self::Validation => "validation accuracy",
            Self::Test => "test accuracy",
        }
    }

    /// For sentences.
    pub fn samples(self) -> &'static str {
        match self {
            Self::Validation => "the validation samples",
            Self::Test => "the test set",
        }
    }

    /// Says how the arms are ranked.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Validation => "Arms are ranked by validation accuracy; the test set has no part in the ranking.",
            Self::Test => "Arms are ranked by test accuracy; --val-fraction would rank them without it.",
        }
    }
}
