//! The training step: forward, backward, optimizer and topology, on any backend.

mod best;
mod checkpoint;
mod error;
mod evaluator;
mod footprint;
mod found;
mod loss;
mod options;
mod parts;
mod patterns;
#[cfg(test)]
mod tests;
mod trainer;

pub use best::{BestBy, BestEpoch, BestSoFar};
pub use error::TrainingError;
pub use evaluator::{Evaluator, Outputs};
pub use footprint::{activation_bytes, activation_bytes_of};
pub use loss::Loss;
pub use options::{
    Held, LrSchedule, NewcomerMoments, OptimizerKind, Precision, Reduction, StepOptions, UpdateSemantics, UpdateWindow,
};
pub use trainer::{StepReport, Trainer};
