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
    /// Bias corrections by the steps that each element has had, not by the optimizer's: of weights that an update has grown,
    /// whose moments begin at zero, by those since then. Two slots more.
    pub own_corrections: bool,
}

impl Default for AdamOptions {
    /// β₁ 0.9, β₂ 0.999, ε 1e-8, no decay.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            decoupled: false,
            decay_vectors: false,
            own_corrections: false,
        }
    }
}

/// Adam, see [`AdamStep`]. Its slots are `first_moment` and `second_moment`, and with [`AdamOptions::own_corrections`]
/// `first_correction` and `second_correction`.
///
/// Without those, the bias correction counts the optimizer's steps, not those since a weight was grown: a new weight's moments
/// start at zero without a correction of their own.
#[derive(Debug, Clone)]
pub struct Adam {
    options: AdamOptions,
    steps: u64,
}

impl Adam {
    const SLOTS: &'static [&'static str; 4] =
        &["first_moment", "second_moment", "first_correction", "second_correction"];

    /// Names of its slots.
    pub fn slots(&self) -> &'static [&'static str] {
        if self.options.own_corrections { Self::SLOTS } else { &Self::SLOTS[..2] }
    }

    /// Makes the slots of all parameters.
    ///
    /// # Errors
    /// If the backend cannot allocate them.
    pub fn new<B: Backend>(options: AdamOptions, backend: &B, parameters: &mut Parameters<B>) -> Result<Self, Error> {
        let adam = Self { options, steps: 0 };
        parameters.ensure_slots(backend, adam.slots())?;
        Ok(adam)
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
        let AdamOptions { beta1, beta2, epsilon, weight_decay, decoupled, decay_vectors, own_corrections } =
            self.options;
        for parameter in parameters.iter_mut().filter(|parameter| parameter.value().is_learned()) {
            let mut of = [0; 4];
            for (slot, name) in of.iter_mut().zip(self.slots()) {
                *slot = parameter.ensure_slot(backend, name)?;
            }
            let Some((value, gradient, slots)) = parameter.for_update() else { continue };
            let weight_decay = if decay_vectors || value.decays() { weight_decay } else { 0.0 };
            let step = self.steps;
            let step = AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled, step };
            const DISJOINT: &str = "each name has a slot of its own";
            let (moments, corrections) = match own_corrections {
                true => {
                    let [first, second, third, fourth] = slots.get_disjoint_mut(of).expect(DISJOINT);
                    ([&mut first.1, &mut second.1], Some([&mut third.1, &mut fourth.1]))
                }
                false => {
                    let [first, second] = slots.get_disjoint_mut([of[0], of[1]]).expect(DISJOINT);
                    ([&mut first.1, &mut second.1], None)
                }
            };
            backend.adam(step, value.values_mut(), gradient, moments, corrections)?;
            value.refresh(backend)?;
        }
        Ok(())
    }
}
