//! `Y = act(X + b)`, in place.

use sparse_kernels::{Activations, Backend};

use crate::storage::Need;
use crate::tape::ParameterGradient;
use crate::{Error, Mode, ParameterId, Tape, Var};

const OP: &str = "bias_relu";

impl<B: Backend> Tape<'_, B> {
    /// `Y[f, n] = act(X[f, n] + b[f])`, of images per channel, with a vector parameter `b`, `act` being ReLU or, without `relu`, nothing. Works in
    /// place: `x` is gone afterwards.
    ///
    /// Backward, in place on dY: `dX = dY` where Y is positive or there is no ReLU, else 0; `db[f] = Σ_n dX[f, n]`.
    ///
    /// # Errors
    /// If `bias` is not a vector of one value per feature, `x` is gone, or another operation needs it.
    ///
    /// # Cost
    /// One pass over X forward, one over Y and dY backward.
    pub fn bias_relu(&mut self, bias: ParameterId, relu: bool, x: Var) -> Result<Var, Error> {
        let storage = self.values.read_to_overwrite(OP, x, None)?;
        let backend = self.backend;
        let vector = self.parameters.vector(OP, bias)?;
        match self.values.activations_mut(storage) {
            Activations::Strips(strips) => backend.bias_relu(vector, relu, strips)?,
            Activations::Images(images) => backend.bias_relu_images(vector, relu, images)?,
        }
        Ok(self.record_bias_relu(bias, relu, x))
    }

    /// Notes that bias and ReLU have been done to `x` in place.
    pub(crate) fn record_bias_relu(&mut self, bias: ParameterId, relu: bool, x: Var) -> Var {
        let training = self.mode() == Mode::Training;
        let output = self.values.push_in_place(OP, x, self.layout(x), training);
        let saved = self.values.save(OP, output, relu.then_some(Need::Sign));
        self.record(x, output, Some(bias), move |pass, dy| {
            // Without ReLU the gradient is handed on as it is, and Y may be gone.
            if let (false, Activations::Strips(strips)) = (relu, &*dy) {
                let ParameterGradient { backend, gradient, accumulate, .. } = pass.parameter_gradient(bias)?;
                backend.lane_sums(strips, gradient, accumulate)?;
                pass.accumulate_shared(x, dy)?;
                return pass.use_done(bias);
            }
            let mut dy = pass.own(dy)?;
            let ParameterGradient { backend, values, gradient, accumulate, .. } = pass.parameter_gradient(bias)?;
            match (values.saved(saved), &mut dy) {
                (Activations::Strips(y), Activations::Strips(dy)) => {
                    backend.bias_relu_grad(y, relu, dy, gradient, accumulate)?;
                }
                (Activations::Images(y), Activations::Images(dy)) => {
                    backend.bias_relu_images_grad(y, relu, dy, gradient, accumulate)?;
                }
                _ => unreachable!("a gradient has its value's layout"),
            }
            pass.accumulate(x, dy)?;
            pass.use_done(bias)
        });
        output
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{Storage, StripLayout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense, normals};
    use crate::{Arena, Error, Mode, Parameters, Tape};

    #[test]
    fn gradients_are_those_of_central_differences() {
        for (relu, lanes) in [(false, 5), (true, 5), (true, 40)] {
            let cpu = cpu();
            let mut parameters = Parameters::new();
            let bias = parameters.add_vector("bias", cpu.zeros(3).unwrap());
            parameters.upload_values(&cpu, bias, &[0.5, -0.25, 0.0]).unwrap();
            // Away from the kink at x + bias = 0 by more than the step.
            let x: Vec<f32> = normals("x", 3 * lanes).iter().map(|x| x.round() + 0.125).collect();
            let input = (StripLayout::sparse(lanes, 3), &x[..]);
            let report = gradcheck(&cpu, &mut parameters, input, 0.01, |tape, x| {
                Ok(Objective::Output(tape.bias_relu(bias, relu, x)?))
            });
            assert!(report.unwrap().max_error() < 1e-3);
        }
    }

    #[test]
    fn what_it_takes_is_gone_and_what_others_need_is_not_taken() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let w = dense(&mut parameters, "w", 3, 3);
        let bias = parameters.add_vector("bias", cpu.zeros(3).unwrap());
        let mut arena = Arena::new();
        let x = arena.take(&cpu, StripLayout::sparse(2, 3)).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, false);
        let y = tape.apply(w, x).unwrap();
        let z = tape.bias_relu(bias, true, y).unwrap();
        assert_eq!(tape.apply(w, y), Err(Error::Moved { op: "apply", by: "bias_relu" }));
        assert_eq!(tape.bias_relu(bias, true, x), Err(Error::Saved { op: "bias_relu", by: "apply" }));
        // A second bias would destroy the sign that the first one needs.
        assert_eq!(tape.bias_relu(bias, true, z), Err(Error::Saved { op: "bias_relu", by: "bias_relu" }));
        // Dropout leaves it where the gradient is not zero.
        assert!(tape.dropout(sparse_kernels::random::Key::new(1), 0.5, z).is_ok());
    }
}
