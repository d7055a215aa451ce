//! Losses against numbers: the end of a regression, or of several yes-or-no questions.

use sparse_kernels::{Backend, PointwiseLoss};

use crate::{Error, Loss, Tape, Var};

const OP: &str = "pointwise_loss";

impl<B: Backend> Tape<'_, B> {
    /// The mean over lanes and outputs of a loss of `outputs[f, n]` against `targets[f, n]`.
    ///
    /// The gradient is computed on the way, in training mode. The targets get none. A number that is not finite makes the
    /// loss NaN.
    ///
    /// # Errors
    /// If the layouts differ or one of the two is gone.
    ///
    /// # Cost
    /// One pass over both.
    pub fn pointwise_loss(&mut self, loss: PointwiseLoss, outputs: Var, targets: Var) -> Result<Loss, Error> {
        let of_targets = self.values.read(OP, targets)?;
        self.values.strip_layout(OP, targets)?;
        let share = self.share;
        let result = self.loss(OP, outputs, |backend, values, storage, stats, grad| {
            let (outputs, targets) = (values.strips(storage), values.strips(of_targets));
            let count = outputs.layout.lanes() * outputs.layout.features();
            backend.pointwise_loss(loss, share / count.max(1) as f32, outputs, targets, stats, grad)
        })?;
        self.used(OP, targets);
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{MatrixRef, PointwiseLoss, Storage, StripLayout, Strips};

    use crate::Parameters;
    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, normals};

    #[test]
    fn gradients_are_those_of_central_differences() {
        for (lanes, outputs) in [(1, 1), (5, 3), (40, 2)] {
            // Away from the kinks of Huber's loss, where outputs and targets are 0.8 apart.
            let targets: Vec<f32> = (0..lanes * outputs).map(|i| (i % 2) as f32).collect();
            let far = |i: usize| if i.is_multiple_of(3) { 2.0 } else { 0.3 };
            let values: Vec<f32> = normals("y", lanes * outputs)
                .iter()
                .enumerate()
                .map(|(i, normal)| targets[i] + normal.signum() * (far(i) + 0.1 * normal.abs().min(2.0)))
                .collect();
            for loss in [PointwiseLoss::Squared, PointwiseLoss::Huber { delta: 0.8 }, PointwiseLoss::BinaryCrossEntropy]
            {
                let cpu = cpu();
                let layout = StripLayout::sparse(lanes, outputs);
                let mut packed = vec![0.0; layout.len()];
                layout.pack(MatrixRef::new(&targets, outputs, lanes, lanes).unwrap(), &mut packed).unwrap();
                let report = gradcheck(&cpu, &mut Parameters::new(), (layout, &values[..]), 0.01, |tape, y| {
                    let targets = tape.input(Strips { layout, data: cpu.uploaded(&packed)? }, false);
                    Ok(Objective::Loss(tape.pointwise_loss(loss, y, targets)?))
                });
                let error = report.unwrap().max_error();
                assert!(error < 5e-4, "{loss:?}: {error}");
            }
        }
    }
}
