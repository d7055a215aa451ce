//! Clipping of all gradients by their norm.

use sparse_kernels::Backend;

use crate::{Error, Parameters};

/// Scales all gradients down together where their norm, as one vector, is above a limit (Pascanu et al. 2013, "On the
/// difficulty of training recurrent neural networks").
#[derive(Debug)]
pub struct ClipNorm<B: Backend> {
    largest: f32,
    /// The squared norm, on the device.
    sum: B::Buffer,
}

impl<B: Backend> ClipNorm<B> {
    /// With this limit, above 0.
    ///
    /// # Errors
    /// If the backend cannot allocate a number.
    pub fn new(backend: &B, largest: f32) -> Result<Self, Error> {
        Ok(Self { largest, sum: backend.zeros(1)? })
    }

    /// Scales the gradients of the last backward pass, stored entries of sparse parameters and all of others. The sum's order is
    /// that of the parameters: it does not depend on the number of threads. Nothing is read by the host.
    ///
    /// # Errors
    /// If the backend fails.
    ///
    /// # Cost
    /// A pass over the gradients; another one where they are scaled.
    pub fn clip(&mut self, backend: &B, parameters: &mut Parameters<B>) -> Result<(), Error> {
        backend.fill(0.0, &mut self.sum)?;
        for parameter in parameters.iter_mut().filter(|parameter| parameter.value().is_learned()) {
            if let Some(gradient) = parameter.gradient() {
                backend.add_squares(gradient, &mut self.sum)?;
            }
        }
        for parameter in parameters.iter_mut().filter(|parameter| parameter.value().is_learned()) {
            if let Some(gradient) = parameter.gradient_mut() {
                backend.clip(&self.sum, self.largest, gradient)?;
            }
        }
        Ok(())
    }
}
