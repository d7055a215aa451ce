//! What arms are ranked by.

use serde::Serialize;

use super::{Results, RunFolder};
use crate::data::text::is_text;

/// The samples on which the results at the end of a run rank the arms.
///
/// With validation samples, the test set has no part in the choice of an arm: its results stay an estimate of what the chosen
/// arm does on new samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RankedOn {
    /// The samples held out of the training set by `val-fraction`, or the validation text.
    Validation,
    /// The test set: some run holds out no samples.
    Test,
}

/// What is measured on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Measure {
    /// The share of right answers: more is better.
    Accuracy,
    /// The loss of texts in bits: less is better.
    BitsPerCharacter,
}

/// What arms are ranked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ranking {
    /// The samples.
    pub on: RankedOn,
    /// What is measured on them.
    pub by: Measure,
}

impl RankedOn {
    /// The validation samples if every finished run has some, otherwise the test set.
    pub fn of(results: &Results) -> Self {
        let mut finished = results.groups.iter().flat_map(|group| group.finished()).peekable();
        let some = finished.peek().is_some();
        let held_out = finished.all(|(_, run)| run.config.has_validation());
        if some && held_out { Self::Validation } else { Self::Test }
    }

    /// For headings: `validation`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }

    /// For sentences.
    pub fn samples(self) -> &'static str {
        match self {
            Self::Validation => "the validation samples",
            Self::Test => "the test set",
        }
    }
}

impl Measure {
    /// Bits of texts, otherwise accuracy.
    pub fn of(results: &Results) -> Self {
        let mut runs = results.folders().peekable();
        let some = runs.peek().is_some();
        if some && runs.all(|run| is_text(&run.config.data)) { Self::BitsPerCharacter } else { Self::Accuracy }
    }

    /// At the end of a run; none if it is not finished.
    pub fn at_end(self, on: RankedOn, run: &RunFolder) -> Option<f64> {
        let (done, last) = (run.done.as_ref()?, run.epochs.last());
        match (self, on) {
            (Self::Accuracy, RankedOn::Validation) => last?.val_accuracy,
            (Self::Accuracy, RankedOn::Test) => Some(done.test_accuracy),
            (Self::BitsPerCharacter, RankedOn::Validation) => last?.val_bits_per_character,
            (Self::BitsPerCharacter, RankedOn::Test) => done.test_bits_per_character,
        }
    }

    /// For headings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::BitsPerCharacter => "bits per character",
        }
    }

    /// The unit of [`Measure::shown`], for the heads of columns.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Accuracy => "%",
            Self::BitsPerCharacter => "bits",
        }
    }

    /// The unit of differences.
    pub fn difference_unit(self) -> &'static str {
        match self {
            Self::Accuracy => "points",
            Self::BitsPerCharacter => "bits",
        }
    }

    /// What an axis says.
    pub fn axis(self, on: &str) -> String {
        match self {
            Self::Accuracy => format!("{on} accuracy in %"),
            Self::BitsPerCharacter => format!("{on} bits per character"),
        }
    }

    /// What a caption says of the unit.
    pub fn in_unit(self) -> &'static str {
        match self {
            Self::Accuracy => " in percent",
            Self::BitsPerCharacter => "",
        }
    }

    /// What is better.
    pub fn better(self) -> &'static str {
        match self {
            Self::Accuracy => "Higher is better",
            Self::BitsPerCharacter => "Lower is better",
        }
    }

    /// What the best one has.
    pub fn best(self) -> &'static str {
        match self {
            Self::Accuracy => "the highest",
            Self::BitsPerCharacter => "the lowest",
        }
    }

    /// A difference that is above 0 where it is for the better.
    pub fn gain(self, difference: f64) -> f64 {
        match self {
            Self::Accuracy => difference,
            Self::BitsPerCharacter => -difference,
        }
    }

    /// A value in the unit that people read.
    pub fn shown(self, value: f64) -> f64 {
        match self {
            Self::Accuracy => 100.0 * value,
            Self::BitsPerCharacter => value,
        }
    }

    /// A value without its unit.
    pub fn text(self, value: f64) -> String {
        match self {
            Self::Accuracy => format!("{:.2}", self.shown(value)),
            Self::BitsPerCharacter => format!("{value:.3}"),
        }
    }

    /// Mean and deviation without their unit.
    pub fn text_and_deviation(self, mean: f64, deviation: Option<f64>) -> String {
        match deviation {
            Some(deviation) => format!("{} ± {}", self.text(mean), self.text(deviation)),
            None => self.text(mean),
        }
    }

    /// A difference with its sign.
    pub fn difference(self, difference: f64) -> String {
        let text = self.text(difference.abs());
        if difference < 0.0 { format!("−{text}") } else { format!("+{text}") }
    }
}

impl Ranking {
    /// For sentences: `validation accuracy`.
    pub fn name(self) -> String {
        format!("{} {}", self.on.name(), self.by.name())
    }

    /// At the end of a run; none if it is not finished.
    pub fn at_end(self, run: &RunFolder) -> Option<f64> {
        self.by.at_end(self.on, run)
    }

    /// Says how the arms are ranked.
    pub fn sentence(self) -> String {
        let name = self.name();
        match self.on {
            RankedOn::Validation => format!("Arms are ranked by {name}; the test set has no part in the ranking."),
            RankedOn::Test => format!("Arms are ranked by {name}; --val-fraction would rank them without it."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_bits_and_more_right_answers_are_better() {
        let [accuracy, bits] = [Measure::Accuracy, Measure::BitsPerCharacter];
        assert!(accuracy.gain(0.1) > 0.0 && bits.gain(-0.1) > 0.0);
        assert_eq!((accuracy.text(0.8567), bits.text(1.53249)), ("85.67".to_owned(), "1.532".to_owned()));
        assert_eq!(bits.text_and_deviation(1.5, Some(0.01)), "1.500 ± 0.010");
        assert_eq!((accuracy.difference(-0.012), bits.difference(0.02)), ("−1.20".to_owned(), "+0.020".to_owned()));
        let ranking = Ranking { on: RankedOn::Validation, by: bits };
        let expected = "Arms are ranked by validation bits per character; the test set has no part in the ranking.";
        assert_eq!(ranking.sentence(), expected);
    }
}
