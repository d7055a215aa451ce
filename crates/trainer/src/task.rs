//! What a network is trained for.

use serde::{Deserialize, Serialize};

use crate::choice::choices;

choices! {
    /// The loss that training makes small, and with it the task.
    #[derive(Default)]
    LossKind {
        /// Softmax cross-entropy against a class of each sample: classification.
        #[default]
        CrossEntropy,
        /// Mean squared error: regression.
        Mse,
        /// Huber loss, which is linear for large errors: regression with outliers.
        Huber,
        /// Binary cross-entropy of each output by itself: several labels a sample.
        Bce,
    }
}

impl LossKind {
    /// Whether samples have a class; if not, they have numbers.
    pub fn is_of_classes(self) -> bool {
        self == Self::CrossEntropy
    }

    /// Whether it is for numbers of any size.
    pub fn is_regression(self) -> bool {
        matches!(self, Self::Mse | Self::Huber)
    }
}

/// A loss in bits.
pub fn bits(nats: f64) -> f64 {
    nats / std::f64::consts::LN_2
}

/// A loss for people: `loss 0.3417`, of a text `loss 1.0623 (1.533 bits/character)`.
pub(crate) fn loss_text(loss: f64, is_text: bool) -> String {
    match is_text {
        true => format!("loss {loss:.4} ({:.3} bits/character)", bits(loss)),
        false => format!("loss {loss:.4}"),
    }
}

/// How numbers to be predicted are scaled: `t = (number − mean) / deviation`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TargetScale {
    /// Of each output.
    pub mean: Vec<f64>,
    /// Of each output.
    pub deviation: Vec<f64>,
}

impl TargetScale {
    /// A network's output in the units of its target.
    pub fn unscaled(&self, output: usize, value: f64) -> f64 {
        value * self.deviation[output] + self.mean[output]
    }
}
