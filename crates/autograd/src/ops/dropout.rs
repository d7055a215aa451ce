//! Inverted dropout, in place.

use sparse_kernels::random::Key;
use sparse_kernels::{Activations, Backend};

use crate::storage::Need;
use crate::{Error, Mode, Tape, Var};

const OP: &str = "dropout";

impl<B: Backend> Tape<'_, B> {
    /// Each element becomes 0 with probability `rate`, else is divided by `1 − rate`; which ones is a function of `key`
    /// (say, of seed, layer and step) and of the element. Works in place: `x` is gone afterwards. In evaluation mode,
    /// and with rate 0, it returns `x` as it is.
    ///
    /// Backward: the same on dY; no mask is stored.
    ///
    /// # Errors
    /// Unless `0 <= rate < 1`, or if `x` is gone or another operation needs it.
    ///
    /// # Cost
    /// One pass forward and one backward, some 70 integer operations an element.
    pub fn dropout(&mut self, key: Key, rate: f32, x: Var) -> Result<Var, Error> {
        if self.mode() == Mode::Evaluation || rate == 0.0 {
            self.values.read(OP, x)?;
            return Ok(x);
        }
        // Where an element is dropped its gradient is zero too, so the sign of what remains is all that ReLU needs.
        let storage = self.values.read_to_overwrite(OP, x, Some(Need::Sign))?;
        let backend = self.backend;
        let drop = move |activations: &mut Activations<B>| match activations {
            Activations::Strips(strips) => backend.dropout(key, rate, strips),
            Activations::Images(images) => backend.dropout_images(key, rate, images),
        };
        drop(self.values.activations_mut(storage))?;
        let output = self.values.push_in_place(OP, x, self.layout(x), self.values.requires_grad(x));
        self.record(x, output, None, move |pass, dy| {
            let mut dy = pass.own(dy)?;
            drop(&mut dy)?;
            pass.accumulate(x, dy)
        });
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::random::Key;
    use sparse_kernels::{Storage, StripLayout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, normals};
    use crate::{Arena, Error, Mode, Parameters, Tape};

    #[test]
    fn gradients_are_those_of_central_differences() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let bias = parameters.add_vector("bias", cpu.zeros(3).unwrap());
        let x: Vec<f32> = normals("x", 3 * 40).iter().map(|x| x.round() + 0.125).collect();
        let input = (StripLayout::sparse(40, 3), &x[..]);
        // Behind a ReLU, whose saved output it overwrites.
        let report = gradcheck(&cpu, &mut parameters, input, 0.01, |tape, x| {
            let y = tape.bias_relu(bias, true, x)?;
            Ok(Objective::Output(tape.dropout(Key::new(3), 0.4, y)?))
        });
        assert!(report.unwrap().max_error() < 1e-3);
    }

    #[test]
    fn nothing_happens_in_evaluation() {
        let cpu = cpu();
        let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
        let mut x = arena.take(&cpu, StripLayout::sparse(2, 1)).unwrap();
        cpu.fill(1.0, &mut x.data).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Evaluation);
        let x = tape.input(x, false);
        let y = tape.dropout(Key::new(1), 0.9, x).unwrap();
        assert_eq!(y, x);
        assert!(tape.value(y).unwrap().data().iter().all(|&v| v == 1.0));
    }

    #[test]
    fn what_a_product_needs_is_not_overwritten() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let w = crate::tests::dense(&mut parameters, "w", 2, 3);
        let mut arena = Arena::new();
        let x = arena.take(&cpu, StripLayout::sparse(2, 3)).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, false);
        tape.apply(w, x).unwrap();
        let refused = tape.dropout(Key::new(1), 0.5, x);
        assert_eq!(refused, Err(Error::Saved { op: "dropout", by: "apply" }));
    }
}
