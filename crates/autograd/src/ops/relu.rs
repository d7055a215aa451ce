//! `Y = max(0, X)`, in place: a ReLU that is no part of another operation.

use sparse_kernels::{Activations, Backend, Strips};

use crate::storage::Need;
use crate::{Arena, Error, Tape, Var};

const OP: &str = "relu";

impl<B: Backend> Tape<'_, B> {
    /// `y = max(0, x)`. Works in place: `x` is gone afterwards.
    ///
    /// Backward, in place on dY: `dX = dY` where Y is positive, else 0.
    ///
    /// # Errors
    /// If `x` is gone, or another operation needs it.
    ///
    /// # Cost
    /// One pass over X forward, one over Y and dY backward.
    pub fn relu(&mut self, x: Var) -> Result<Var, Error> {
        let storage = self.values.read_to_overwrite(OP, x, None)?;
        let backend = self.backend;
        match self.values.activations_mut(storage) {
            // Features have no ReLU without a bias; one of zeros changes nothing.
            Activations::Strips(strips) => {
                with_zeros(backend, self.arena, strips, |zeros, strips| Ok(backend.bias_relu(zeros, true, strips)?))?
            }
            Activations::Images(images) => backend.relu_images(images)?,
        }
        let output = self.values.push_in_place(OP, x, self.layout(x), self.values.requires_grad(x));
        let saved = self.values.save(OP, output, Some(Need::Sign));
        self.record(x, output, None, move |pass, dy| {
            let mut dy = pass.own(dy)?;
            let tape = &mut *pass.tape;
            match (tape.values.saved(saved), &mut dy) {
                (Activations::Strips(y), Activations::Strips(dy)) => {
                    with_zeros(backend, tape.arena, dy, |unused, dy| {
                        Ok(backend.bias_relu_grad(y, true, dy, unused, false)?)
                    })?;
                }
                (Activations::Images(y), Activations::Images(dy)) => backend.relu_images_grad(y, dy)?,
                _ => unreachable!("a gradient has its value's layout"),
            }
            pass.accumulate(x, dy)
        });
        Ok(output)
    }
}

/// Lends a zero for each feature.
fn with_zeros<B: Backend>(
    backend: &B,
    arena: &mut Arena<B>,
    strips: &mut Strips<B>,
    run: impl FnOnce(&mut B::Buffer, &mut Strips<B>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut zeros = arena.take_buffer(backend, strips.layout.features())?;
    let done = backend.fill(0.0, &mut zeros).map_err(Error::from).and_then(|()| run(&mut zeros, strips));
    arena.give_buffer(backend, zeros);
    done
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{ImageLayout, Layout, StripLayout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, normals};
    use crate::{Error, Parameters};

    #[test]
    fn gradients_are_those_of_central_differences() {
        let features = StripLayout::sparse(40, 3).into();
        let images: Layout = ImageLayout::new(5, 3, [4, 2], 1, 8).unwrap().into();
        for layout in [features, images] {
            // Away from the kink by more than the step.
            let x: Vec<f32> = normals("x", 120).iter().map(|x| x.round() + 0.125).collect();
            let report = gradcheck(&cpu(), &mut Parameters::new(), (layout, &x[..]), 0.01, |tape, x| {
                let y = tape.relu(x)?;
                assert!(matches!(tape.relu(y), Err(Error::Saved { op: "relu", by: "relu" })));
                Ok(Objective::Output(y))
            });
            let report = report.unwrap();
            assert!(report.max_error() < 1e-3 && report.entries.iter().any(|e| e.analytic == 0.0));
        }
    }
}
