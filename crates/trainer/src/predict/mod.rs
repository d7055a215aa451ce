//! What a trained network says of new inputs.

mod few_lanes;
mod inputs;
mod outcome;

pub use few_lanes::FewLanes;
pub use inputs::{Expected, InputSource, PredictError};
pub use outcome::{Outcome, Outcomes};
