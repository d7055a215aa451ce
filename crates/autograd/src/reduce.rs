//! The one place through which everything passes that data-parallel workers have to combine.

use sparse_kernels::{Backend, Candidate};

use crate::{Arena, Error, Growth, Parameters, SumOf, Tree};

/// Combines gradients and growth candidates between workers: where data parallelism attaches.
///
/// The backward pass of a tape over shards ([`crate::Tape::over`]) calls [`Reduce::sum`] or [`Reduce::grow`] once for each
/// parameter that has been used, as soon as the parameter's last use has added its share, so that communication can run
/// beside the rest of the pass; in the end it calls [`Reduce::finish`]. All workers that build the same graph make the same
/// calls in the same order.
pub trait Reduce<B: Backend> {
    /// Takes what this worker knows of a sum: the nodes of [`Tree::spans`] of its shards. Returns the sum over all shards, or
    /// none where [`Reduce::finish`] will bring it. Buffers are the arena's.
    ///
    /// # Errors
    /// If the workers cannot be reached or the backend fails; the backward pass ends with that error.
    fn sum(
        &mut self,
        backend: &B,
        arena: &mut Arena<B>,
        of: SumOf,
        known: Tree<B::Buffer>,
    ) -> Result<Option<B::Buffer>, Error>;

    /// The candidates for growth over the shards of all workers, in order of position.
    ///
    /// # Errors
    /// As [`Reduce::sum`].
    fn grow(&mut self, growth: &Growth<'_, B>) -> Result<Vec<Candidate>, Error>;

    /// The sum over the shards of all workers, at once, from what this worker knows of it: [`Reduce::sum`] for what the pass
    /// itself goes on with. All workers get the same numbers.
    ///
    /// # Errors
    /// As [`Reduce::sum`].
    fn add_up(&mut self, known: Tree<Vec<f32>>) -> Result<Vec<f32>, Error>;

    /// Puts the sums that are still under way in their places.
    ///
    /// # Errors
    /// As [`Reduce::sum`].
    fn finish(&mut self, backend: &B, arena: &mut Arena<B>, parameters: &mut Parameters<B>) -> Result<(), Error>;
}

/// One worker, which computes all shards.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoReduce;

impl<B: Backend> Reduce<B> for NoReduce {
    fn sum(&mut self, _: &B, _: &mut Arena<B>, _: SumOf, known: Tree<B::Buffer>) -> Result<Option<B::Buffer>, Error> {
        known.into_root().map(Some).ok_or(Error::Backward { reason: "some shards are those of other workers" })
    }

    fn grow(&mut self, growth: &Growth<'_, B>) -> Result<Vec<Candidate>, Error> {
        let mut best = growth.best();
        for tile in growth.tiles() {
            let sum = growth.tile(tile.clone())?.into_root();
            let sum = sum.ok_or(Error::Backward { reason: "some shards are those of other workers" })?;
            best.offer(growth.positions(&tile), &sum);
        }
        Ok(best.into_candidates())
    }

    fn add_up(&mut self, known: Tree<Vec<f32>>) -> Result<Vec<f32>, Error> {
        known.into_root().ok_or(Error::Backward { reason: "some shards are those of other workers" })
    }

    fn finish(&mut self, _: &B, _: &mut Arena<B>, _: &mut Parameters<B>) -> Result<(), Error> {
        Ok(())
    }
}
