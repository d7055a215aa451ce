//! The loss of a step.

use sparse_kernels::PointwiseLoss;

use crate::task::LossKind;

/// The loss of a step, with its parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    /// Softmax cross-entropy against classes.
    CrossEntropy {
        /// Share of the target spread over all classes.
        label_smoothing: f32,
    },
    /// A loss of each output against a number.
    Pointwise(PointwiseLoss),
}

impl Loss {
    /// The loss of this kind; Huber's with its δ.
    pub fn of(kind: LossKind, label_smoothing: f32, delta: f32) -> Self {
        match kind {
            LossKind::CrossEntropy => Self::CrossEntropy { label_smoothing },
            LossKind::Mse => Self::Pointwise(PointwiseLoss::Squared),
            LossKind::Huber => Self::Pointwise(PointwiseLoss::Huber { delta }),
            LossKind::Bce => Self::Pointwise(PointwiseLoss::BinaryCrossEntropy),
        }
    }

    /// What an evaluation measures: the same without label smoothing.
    #[must_use]
    pub fn measured(self) -> Self {
        match self {
            Self::CrossEntropy { .. } => Self::default(),
            Self::Pointwise(_) => self,
        }
    }

    /// Its kind.
    pub fn kind(self) -> LossKind {
        match self {
            Self::CrossEntropy { .. } => LossKind::CrossEntropy,
            Self::Pointwise(PointwiseLoss::Squared) => LossKind::Mse,
            Self::Pointwise(PointwiseLoss::Huber { .. }) => LossKind::Huber,
            Self::Pointwise(PointwiseLoss::BinaryCrossEntropy) => LossKind::Bce,
        }
    }
}

impl Default for Loss {
    /// Plain cross-entropy.
    fn default() -> Self {
        Self::CrossEntropy { label_smoothing: 0.0 }
    }
}
