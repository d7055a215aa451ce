//! Adam and AdamW.

use sparse_kernels::{AdamStep, Backend};

use crate::{Error, Parameters};

/// Options of [`Adam`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamOptions {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Weight decay, on the stored entries of matrices.
    pub weight_decay: f32,
    /// AdamW: decay goes straight onto the weight instead of into the gradient.
    pub decoupled: bool,
    /// Weight decay on vectors (biases) and depthwise convolutions too.
    pub decay_vectors: bool,
}

impl Default for AdamOptions {
    /// β₁ 0.9, β₂ 0.999, ε 1e-8, no decay.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decoupled: false, decay_vectors: false }
    }
}

/// Adam, see [`AdamStep`]. Its slots are `first_moment` and `second_moment`.
///
/// The bias correction counts the optimizer's steps, not those since a weight was grown: a new weight's moments start at
/// zero without a correction of their own.
#[derive(Debug, Clone)]
pub struct Adam {
    options: AdamOptions,
    steps: u64,
}

impl Adam {
    pub(super) const SLOTS: &'static [&'static str] = &["first_moment", "second_moment"];

    /// Makes the slots of all parameters.
    ///
    /// # Errors
    /// If the backend cannot allocate them.
    pub fn new<B: Backend>(options: AdamOptions, backend: &B, parameters: &mut Parameters<B>) -> Result<Self, Error> {
        parameters.ensure_slots(backend, Self::SLOTS)?;
        Ok(Self { options, steps: 0 })
    }

    /// Updates made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the number of updates made so far, from a checkpoint.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// Updates all parameters that have a gradient.
    ///
    /// # Errors
    /// If the backend fails.
    ///
    /// # Cost
    /// One pass over value, gradient and both moments, and a gather of nnz values where a transposed copy is held.
    pub fn step<B: Backend>(
        &mut self,
        backend: &B,
        parameters: &mut Parameters<B>,
        learning_rate: f32,
    ) -> Result<(), Error> {
        self.steps += 1;
        let AdamOptions { beta1, beta2, epsilon, weight_decay, decoupled, decay_vectors } = self.options;
        for parameter in parameters.iter_mut().filter(|parameter| parameter.value().is_learned()) {
            let [first, second] = [Self::SLOTS[0], Self::SLOTS[1]].map(|name| parameter.ensure_slot(backend, name));
            let (first, second) = (first?, second?);
            let Some((value, gradient, slots)) = parameter.for_update() else { continue };
            let weight_decay = if decay_vectors || value.decays() { weight_decay } else { 0.0 };
            let step = self.steps;
            let step = AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled, step };
            let [first, second] = slots.get_disjoint_mut([first, second]).expect("two names have two slots");
            backend.adam(step, value.values_mut(), gradient, &mut first.1, &mut second.1)?;
            value.refresh(backend)?;
        }
        Ok(())
    }
}
