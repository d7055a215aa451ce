//! Optimizers over [`Parameters`], and learning-rate schedules.
//!
//! A sparse parameter is updated at its stored entries only: value, gradient and slots are arrays of nnz numbers, and the
//! transposed copy of the values is refreshed in the same call.

mod adam;
mod schedule;
mod sgd;

use sparse_kernels::Backend;

use crate::{Error, Parameters};

pub use adam::{Adam, AdamOptions};
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

impl Optimizer {
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
            Optimizer::Adam(_) => Adam::SLOTS,
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

/// Makes the slots of all parameters.
fn ensure_slots<B: Backend>(backend: &B, parameters: &mut Parameters<B>, names: &[&str]) -> Result<(), Error> {
    for parameter in parameters.iter_mut().filter(|parameter| parameter.value().is_learned()) {
        for name in names {
            parameter.ensure_slot(backend, name)?;
        }
    }
    Ok(())
}
