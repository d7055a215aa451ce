//! Mean softmax cross-entropy: the end of a classifier.

use sparse_kernels::{Backend, CrossEntropy};

use crate::{Error, Loss, Tape, Var};

const OP: &str = "softmax_cross_entropy";

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
        self.loss(OP, logits, |backend, values, storage, stats, grad| {
            let logits = values.strips(storage);
            let parameters =
                CrossEntropy { label_smoothing, gradient_scale: 1.0 / logits.layout.lanes().max(1) as f32 };
            backend.softmax_cross_entropy(parameters, logits, labels, stats, grad)
        })
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
