//! The one place through which everything passes that data-parallel workers would have to combine.

use sparse_kernels::{Backend, Candidate};

use crate::{Error, ParameterId};

/// What one worker has computed for one parameter.
#[derive(Debug)]
pub enum Reduction<'r, B: Backend> {
    /// The gradient, complete for this worker's lanes; to be replaced by the combination over all workers. For a sparse
    /// parameter it is one number per stored entry, so that an all-reduce moves nnz values.
    Gradient(&'r mut B::Buffer),
    /// The gradient at all positions of a sparse parameter, where it was asked for; to be replaced as the gradient is.
    DenseGradient(&'r mut B::Buffer),
    /// The candidates for growth of this worker's lanes, in order of position; to be replaced by those of all workers.
    Candidates(&'r mut Vec<Candidate>),
}

/// Combines gradients and growth candidates between workers: where data parallelism attaches.
///
/// [`crate::Tape::backward`] calls it once for each parameter that has been used, as soon as the parameter's last use
/// has added its share, so that communication can run beside the rest of the pass. All workers that build the same
/// graph call it in the same order.
pub trait Reduce<B: Backend> {
    /// Replaces `what` by its combination over all workers.
    ///
    /// # Errors
    /// If the workers cannot be reached or the backend fails; the backward pass ends with that error.
    fn reduce(&mut self, backend: &B, parameter: ParameterId, what: Reduction<'_, B>) -> Result<(), Error>;
}

/// One worker: everything stays as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoReduce;

impl<B: Backend> Reduce<B> for NoReduce {
    fn reduce(&mut self, _: &B, _: ParameterId, _: Reduction<'_, B>) -> Result<(), Error> {
        Ok(())
    }
}
