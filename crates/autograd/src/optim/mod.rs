//! Optimizers over [`Parameters`], and learning-rate schedules.
//!
//! A sparse parameter is updated at its stored entries only: value, gradient and slots are arrays of nnz numbers, and the
//! transposed copy of the values is refreshed in the same call.

mod adam;
mod clip;
mod schedule;
mod sgd;

use sparse_kernels::Backend;

use crate::{Error, Parameters};

pub use adam::{Adam, AdamOptions};
pub use clip::ClipNorm;
pub use schedule::{Decay, Schedule};
pub use sgd::{Sgd, SgdOptions};

/// Any of the optimizers, for callers that choose at run time.
#[derive(Debug, Clone)]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd(Sgd),
    /// Adam or AdamW.
    Adam(Adam),
}

/// What an optimizer is to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OptimizerOptions {
    /// Stochastic gradient descent.
    Sgd(SgdOptions),
    /// Adam or AdamW.
    Adam(AdamOptions),
}

impl Optimizer {
    /// Makes the slots of all parameters.
    ///
    /// # Errors
    /// If the backend cannot allocate them.
    pub fn new<B: Backend>(
        options: OptimizerOptions,
        backend: &B,
        parameters: &mut Parameters<B>,
    ) -> Result<Self, Error> {
        Ok(match options {
            OptimizerOptions::Sgd(options) => Self::Sgd(Sgd::new(options, backend, parameters)?),
            OptimizerOptions::Adam(options) => Self::Adam(Adam::new(options, backend, parameters)?),
        })
    }

    /// Updates all parameters that have a gradient.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn step<B: Backend>(
        &mut self,
        backend: &B,
        parameters: &mut Parameters<B>,
        learning_rate: f32,
    ) -> Result<(), Error> {
        match self {
            Optimizer::Sgd(sgd) => sgd.step(backend, parameters, learning_rate),
            Optimizer::Adam(adam) => adam.step(backend, parameters, learning_rate),
        }
    }

    /// Its name: `sgd` or `adam`.
    pub fn name(&self) -> &'static str {
        match self {
            Optimizer::Sgd(_) => "sgd",
            Optimizer::Adam(_) => "adam",
        }
    }

    /// Names of the slots that the optimizer keeps for each parameter.
    pub fn slots(&self) -> &'static [&'static str] {
        match self {
            Optimizer::Sgd(sgd) => sgd.slots(),
            Optimizer::Adam(adam) => adam.slots(),
        }
    }

    /// Updates made so far, as far as the optimizer counts them (Adam does, SGD need not): with the slots, all that a
    /// checkpoint has to hold.
    pub fn steps(&self) -> u64 {
        match self {
            Optimizer::Sgd(_) => 0,
            Optimizer::Adam(adam) => adam.steps(),
        }
    }

    /// Sets what [`Optimizer::steps`] said when the checkpoint was made.
    pub fn set_steps(&mut self, steps: u64) {
        if let Optimizer::Adam(adam) = self {
            adam.set_steps(steps);
        }
    }
}
