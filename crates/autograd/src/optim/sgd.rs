//! Stochastic gradient descent with momentum.

use sparse_kernels::{Backend, SgdStep};

use crate::{Error, Parameters};

/// Options of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct SgdOptions {
    /// Momentum; 0 for none, and then no slot is held.
    pub momentum: f32,
    /// Nesterov's form of momentum.
    pub nesterov: bool,
    /// L2 coefficient, on the stored entries of matrices.
    pub weight_decay: f32,
    /// Weight decay on vectors (biases) and depthwise convolutions too.
    pub decay_vectors: bool,
}

/// SGD, see [`SgdStep`] for the equations. Its slot is `momentum`.
#[derive(Debug, Clone)]
pub struct Sgd {
    options: SgdOptions,
}

impl Sgd {
    const SLOT: &'static str = "momentum";

    /// Makes the slots of all parameters.
    ///
    /// # Errors
    /// If the backend cannot allocate them.
    pub fn new<B: Backend>(options: SgdOptions, backend: &B, parameters: &mut Parameters<B>) -> Result<Self, Error> {
        let sgd = Self { options };
        parameters.ensure_slots(backend, sgd.slots())?;
        Ok(sgd)
    }

    /// Names of its slots.
    pub fn slots(&self) -> &'static [&'static str] {
        if self.options.momentum == 0.0 { &[] } else { &[Self::SLOT] }
    }

    /// Updates all parameters that have a gradient.
    ///
    /// # Errors
    /// If the backend fails.
    ///
    /// # Cost
    /// One pass over value, gradient and momentum, and a gather of nnz values where a transposed copy is held.
    pub fn step<B: Backend>(
        &mut self,
        backend: &B,
        parameters: &mut Parameters<B>,
        learning_rate: f32,
    ) -> Result<(), Error> {
        let SgdOptions { momentum, nesterov, weight_decay, decay_vectors } = self.options;
        for parameter in parameters.iter_mut().filter(|parameter| parameter.value().is_learned()) {
            let slot = match momentum == 0.0 {
                true => None,
                false => Some(parameter.ensure_slot(backend, Self::SLOT)?),
            };
            let Some((value, gradient, slots)) = parameter.for_update() else { continue };
            let weight_decay = if decay_vectors || value.decays() { weight_decay } else { 0.0 };
            let step = SgdStep { learning_rate, momentum, nesterov, weight_decay };
            backend.sgd(step, value.values_mut(), gradient, slot.map(|i| &mut slots[i].1))?;
            value.refresh(backend)?;
        }
        Ok(())
    }
}
