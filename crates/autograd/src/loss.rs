//! Losses: where a backward pass begins, and what of them comes to the host.

use sparse_kernels::{Backend, BackendError, Strips};

use crate::storage::Values;
use crate::{Arena, Error, GrowthRequests, Mode, Reduce, Tape, Var};

/// A loss on a tape, for [`Tape::backward`]; its value stays on the device until [`Tape::read_loss`].
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    pub(crate) output: Var,
    /// Buffer of the output's gradient, which the forward pass computes on the way.
    pub(crate) gradient: Option<usize>,
    pub(crate) stats: usize,
    pub(crate) lanes: usize,
}

/// A loss on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossStats {
    /// Sum over lanes.
    pub sum: f32,
    /// Lanes whose largest logit is the label's, the lowest class winning a tie; 0 where there are no labels.
    pub correct: usize,
    /// Lanes that count.
    pub lanes: usize,
}

impl LossStats {
    fn new([sum, correct]: [f32; 2], lanes: usize) -> Self {
        Self { sum, correct: correct as usize, lanes }
    }

    /// Mean over the lanes that count: what the gradient is of. NaN without any.
    pub fn mean(&self) -> f32 {
        self.sum / self.lanes as f32
    }
}

impl<B: Backend> Tape<'_, B> {
    /// Puts a loss on the tape: `compute` fills its statistics and, in training, the gradient of its output, whose buffer's
    /// number it is told.
    pub(crate) fn loss(
        &mut self,
        op: &'static str,
        output: Var,
        compute: impl FnOnce(&B, &Values<B>, usize, &mut B::Buffer, Option<&mut Strips<B>>) -> Result<(), BackendError>,
    ) -> Result<Loss, Error> {
        let storage = self.values.read(op, output)?;
        let (backend, layout) = (self.backend, self.values.strip_layout(op, output)?);
        let mut stats = self.arena.take_buffer(backend, 2)?;
        let mut gradient = match self.mode() == Mode::Training && self.values.requires_grad(output) {
            true => Some(self.arena.take(backend, layout)?),
            false => None,
        };
        compute(backend, &self.values, storage, &mut stats, gradient.as_mut())?;
        let gradient = gradient.map(|gradient| self.values.store(gradient.into()));
        self.used(op, output);
        self.stats.push(Some(stats));
        Ok(Loss { output, gradient, stats: self.stats.len() - 1, lanes: layout.lanes() })
    }

    /// Computes the gradients of the sum of `losses` with respect to all parameters that took part, and to inputs that
    /// asked for it.
    ///
    /// Gradients of earlier passes are forgotten first. For a parameter in `growth` no gradient is computed (it then
    /// has none, and no optimizer step touches it); instead the candidates are found over all its uses together, once
    /// the last of them has its output's gradient. Gradients and candidates pass through `reduce`.
    ///
    /// # Errors
    /// On an evaluation tape, at a second call, if a request is for a parameter without a topology, or if the backend or
    /// `reduce` fails.
    ///
    /// # Cost
    /// For each sparse layer `4 · nnz · n` operations (`2 · nnz · n` where the input needs no gradient); with a growth
    /// request `2 · m · k · n` instead of the weight gradient's `2 · nnz · n`.
    pub fn backward(
        &mut self,
        losses: &[Loss],
        growth: &mut GrowthRequests,
        reduce: &mut dyn Reduce<B>,
    ) -> Result<(), Error> {
        let mut seeds = Vec::with_capacity(losses.len());
        for loss in losses {
            let gradient = loss.gradient.and_then(|storage| self.values.take(storage));
            let reason = "the loss has no gradient: nothing below it asks for one, or it was used before";
            seeds.push((loss.output, gradient.ok_or(Error::Backward { reason })?));
        }
        self.backward_from(seeds, growth, reduce)
    }

    /// Downloads a loss. Waits for the device, so call it only where the number is wanted.
    ///
    /// # Errors
    /// If the backend fails, or the loss was detached.
    pub fn read_loss(&self, loss: Loss) -> Result<LossStats, Error> {
        let stats = self.stats[loss.stats].as_ref().ok_or_else(|| detached("read_loss", loss))?;
        let mut host = [0.0; 2];
        self.backend.download(stats, &mut host)?;
        Ok(LossStats::new(host, loss.lanes))
    }

    /// Takes a loss off the tape, to be read together with those of other steps.
    ///
    /// # Errors
    /// If it was detached before.
    pub fn detach_loss(&mut self, loss: Loss) -> Result<DetachedLoss<B>, Error> {
        let stats = self.stats[loss.stats].take().ok_or_else(|| detached("detach_loss", loss))?;
        Ok(DetachedLoss { stats, lanes: loss.lanes })
    }
}

fn detached(op: &'static str, loss: Loss) -> Error {
    Error::Missing { op, what: "loss, since it was detached,", name: loss.stats.to_string() }
}

/// A loss that outlives its tape, still on the device.
#[derive(Debug)]
pub struct DetachedLoss<B: Backend> {
    stats: B::Buffer,
    lanes: usize,
}

impl<B: Backend> DetachedLoss<B> {
    /// Downloads losses with one wait for all, and gives their memory back to the arena.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn read_all(backend: &B, arena: &mut Arena<B>, losses: Vec<Self>) -> Result<Vec<LossStats>, Error> {
        let mut hosts = vec![[0.0; 2]; losses.len()];
        let buffers: Vec<_> = losses.iter().map(|loss| &loss.stats).collect();
        let mut slices: Vec<_> = hosts.iter_mut().map(|host| &mut host[..]).collect();
        backend.download_all(&buffers, &mut slices)?;
        let stats = losses.iter().zip(hosts).map(|(loss, host)| LossStats::new(host, loss.lanes)).collect();
        losses.into_iter().for_each(|loss| arena.give_buffer(backend, loss.stats));
        Ok(stats)
    }
}
