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
