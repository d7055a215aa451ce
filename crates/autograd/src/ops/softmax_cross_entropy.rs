//! Mean softmax cross-entropy: the end of a classifier.

use sparse_kernels::{Backend, CrossEntropy};

use crate::{Error, Loss, Tape, Var};

const OP: &str = "softmax_cross_entropy";

impl<B: Backend> Tape<'_, B> {
    /// The mean over `counted` lanes of the cross-entropy between softmax(`logits[class, n]`) and `labels[n]`, with label
    /// smoothing ε: the target is `1 − ε + ε/C` for the label and `ε/C` for each other of C classes.
    ///
    /// `counted` is the number of lanes whose label is not [`CrossEntropy::IGNORED`]: all, where none is. The gradient
    /// `(softmax − target) / counted` is computed on the way, in training mode. A label that is no class makes the loss
    /// NaN.
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
        counted: usize,
        label_smoothing: f32,
    ) -> Result<Loss, Error> {
        let parameters = CrossEntropy { label_smoothing, gradient_scale: self.share / counted.max(1) as f32 };
        let loss = self.loss(OP, logits, |backend, values, storage, stats, grad| {
            backend.softmax_cross_entropy(parameters, values.strips(storage), labels, stats, grad)
        })?;
        Ok(Loss { lanes: counted, ..loss })
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{CrossEntropy, MatrixRef, Storage, StripLayout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, normals};
    use crate::{Arena, GrowthRequests, Mode, NoReduce, Parameters, Tape};

    #[test]
    fn gradients_are_those_of_central_differences() {
        for (lanes, smoothing) in [(1, 0.0), (5, 0.1), (40, 0.0)] {
            let cpu = cpu();
            let mut parameters = Parameters::new();
            let mut labels = cpu.index_zeros(lanes).unwrap();
            cpu.upload_indices(&(0..lanes as u32).map(|i| i % 4).collect::<Vec<_>>(), &mut labels).unwrap();
            let input = (StripLayout::sparse(lanes, 4), &normals("x", 4 * lanes)[..]);
            let report = gradcheck(&cpu, &mut parameters, input, 0.03, |tape, x| {
                Ok(Objective::Loss(tape.softmax_cross_entropy(x, &labels, lanes, smoothing)?))
            });
            assert!(report.unwrap().max_error() < 2e-4);
        }
    }

    #[test]
    fn lanes_that_do_not_count_change_nothing() {
        let cpu = cpu();
        let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
        let mut run = |logits: &[f32], labels: &[u32], counted: usize| {
            let layout = StripLayout::sparse(labels.len(), 2);
            let mut x = arena.take(&cpu, layout).unwrap();
            layout.pack(MatrixRef::new(logits, 2, labels.len(), labels.len()).unwrap(), &mut x.data).unwrap();
            let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
            let x = tape.input(x, true);
            let loss = tape.softmax_cross_entropy(x, &labels.to_vec(), counted, 0.1).unwrap();
            tape.backward(&[loss], &mut GrowthRequests::new(), &mut NoReduce).unwrap();
            let gradient = tape.gradient(x).unwrap().data();
            let gradient = [0, 1].map(|f| (0..labels.len()).map(|n| gradient[layout.index(f, n)]).collect::<Vec<_>>());
            (tape.read_loss(loss).unwrap(), gradient)
        };
        let (stats, [first, second]) = run(&[1.0, 3.0, -1.0, 0.5, -9.0, 2.0], &[0, CrossEntropy::IGNORED, 1], 2);
        let (expected, [a, b]) = run(&[1.0, -1.0, 0.5, 2.0], &[0, 1], 2);
        assert_eq!((stats, stats.lanes), (expected, 2));
        assert_eq!((first, second), (vec![a[0], 0.0, a[1]], vec![b[0], 0.0, b[1]]));
    }
}
