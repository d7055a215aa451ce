//! Mean softmax cross-entropy: the end of a classifier.

use sparse_kernels::{Backend, CrossEntropy};

use crate::{Arena, Error, GrowthRequests, Mode, Reduce, Tape, Var};

const OP: &str = "softmax_cross_entropy";

/// A loss on a tape, for [`Tape::backward`]; its value stays on the device until [`Tape::read_loss`].
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    logits: Var,
    /// Buffer of the logits' gradient, which the forward pass computes on the way.
    gradient: Option<usize>,
    stats: usize,
    lanes: usize,
}

/// A loss on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossStats {
    /// Sum over lanes.
    pub sum: f32,
    /// Lanes whose largest logit is the label's, the lowest class winning a tie.
    pub correct: usize,
    /// Lanes.
    pub lanes: usize,
}

impl LossStats {
    fn new([sum, correct]: [f32; 2], lanes: usize) -> Self {
        Self { sum, correct: correct as usize, lanes }
    }

    /// Mean over lanes: what the gradient is of. NaN without lanes.
    pub fn mean(&self) -> f32 {
        self.sum / self.lanes as f32
    }
}

impl<B: Backend> Tape<'_, B> {
    /// The mean over lanes of the cross-entropy between softmax(`logits[class, n]`) and `labels[n]`, with label smoothing
    /// ε: the target is `1 − ε + ε/C` for the label and `ε/C` for each other of C classes.
    ///
    /// The gradient `(softmax − target) / lanes` is computed on the way, in training mode. A label that is no class makes
    /// the loss NaN.
    ///
    /// # Errors
    /// If the shapes do not fit or `logits` is gone.
    ///
    /// # Cost
    /// Three passes over the logits within the cache.
    pub fn softmax_cross_entropy(
        &mut self,
        logits: Var,
        labels: &B::Indices,
        label_smoothing: f32,
    ) -> Result<Loss, Error> {
        let storage = self.values.read(OP, logits)?;
        let (backend, layout) = (self.backend, self.values.strip_layout(OP, logits)?);
        let lanes = layout.lanes();
        let parameters = CrossEntropy { label_smoothing, gradient_scale: 1.0 / lanes.max(1) as f32 };
        let mut stats = self.arena.take_buffer(backend, 2)?;
        let mut gradient = match self.mode() == Mode::Training && self.values.requires_grad(logits) {
            true => Some(self.arena.take(backend, layout)?),
            false => None,
        };
        let logits_strips = self.values.strips(storage);
        backend.softmax_cross_entropy(parameters, logits_strips, labels, &mut stats, gradient.as_mut())?;
        let gradient = gradient.map(|gradient| self.values.store(gradient.into()));
        self.used(OP, logits);
        self.stats.push(Some(stats));
        Ok(Loss { logits, gradient, stats: self.stats.len() - 1, lanes })
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
            seeds.push((loss.logits, gradient.ok_or(Error::Backward { reason })?));
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

#[cfg(test)]
mod tests {
    use sparse_kernels::{Storage, StripLayout};

    use crate::Parameters;
    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, normals};

    #[test]
    fn gradients_are_those_of_central_differences() {
        for (lanes, smoothing) in [(1, 0.0), (5, 0.1), (40, 0.0)] {
            let cpu = cpu();
            let mut parameters = Parameters::new();
            let mut labels = cpu.index_zeros(lanes).unwrap();
            cpu.upload_indices(&(0..lanes as u32).map(|i| i % 4).collect::<Vec<_>>(), &mut labels).unwrap();
            let input = (StripLayout::sparse(lanes, 4), &normals("x", 4 * lanes)[..]);
            let report = gradcheck(&cpu, &mut parameters, input, 0.03, |tape, x| {
                Ok(Objective::Loss(tape.softmax_cross_entropy(x, &labels, smoothing)?))
            });
            assert!(report.unwrap().max_error() < 2e-4);
        }
    }
}
