//! A copy: for operations in place on what others still need.

use std::rc::Rc;

use sparse_kernels::Backend;

use crate::storage::Need;
use crate::{Error, Tape, Var};

const OP: &str = "copy";

impl<B: Backend> Tape<'_, B> {
    /// A value of its own that equals `x`, which stays.
    ///
    /// Backward: the gradient is that of `x`, in one buffer as long as neither is written to.
    ///
    /// # Errors
    /// If `x` is gone.
    ///
    /// # Cost
    /// One pass that reads `x` and writes the copy.
    pub fn copy(&mut self, x: Var) -> Result<Var, Error> {
        let storage = self.values.read(OP, x)?;
        let mut copy = self.arena.take_activations(self.backend, self.layout(x))?;
        self.backend.convert(self.values.activations(storage).data(), copy.data_mut())?;
        let requires_grad = self.values.requires_grad(x);
        self.used(OP, x);
        let output = self.values.push(copy, requires_grad);
        self.record(x, output, None, move |pass, gradient| pass.accumulate_shared(x, Rc::clone(&gradient)));
        Ok(output)
    }

    /// Whether an operation may overwrite `x`, as far as operations before it are concerned: none needs it for its backward
    /// pass, or, if `keeps_sign`, at best where it is positive.
    pub fn may_overwrite(&mut self, x: Var, keeps_sign: bool) -> bool {
        self.values.read_to_overwrite(OP, x, keeps_sign.then_some(Need::Sign)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{ImageLayout, StripLayout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense, normals};
    use crate::{Arena, Error, Mode, Parameters, Tape};

    /// `f(x) + relu(x)` and the copy of it all: what the product needs of x is left alone.
    #[test]
    fn gradients_are_those_of_central_differences() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let w = dense(&mut parameters, "w", 3, 3);
        // Away from the ReLU's kink by more than the step.
        let x: Vec<f32> = normals("x", 3 * 40).iter().map(|x| x.round() + 0.25).collect();
        let report = gradcheck(&cpu, &mut parameters, (StripLayout::sparse(40, 3), &x[..]), 0.05, |tape, x| {
            let y = tape.apply(w, x)?;
            assert!(!tape.may_overwrite(x, true));
            let z = tape.copy(x)?;
            let z = tape.relu(z)?;
            assert!(tape.may_overwrite(z, true) && !tape.may_overwrite(z, false));
            let y = tape.add(y, z)?;
            Ok(Objective::Output(tape.copy(y)?))
        });
        assert!(report.unwrap().max_error() < 1e-3);
    }

    #[test]
    fn a_copy_stands_by_itself() {
        let cpu = cpu();
        let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
        let layout = ImageLayout::new(3, 2, [2, 2], 1, 8).unwrap();
        for mode in [Mode::Training, Mode::Evaluation] {
            let mut x = arena.take_images(&cpu, layout).unwrap();
            let numbers = normals("x", 24);
            layout.pack(&numbers, &mut x.data).unwrap();
            let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, mode);
            let x = tape.input(x, false);
            tape.keep(x);
            let y = tape.copy(x).unwrap();
            let y = tape.relu(y).unwrap();
            let mut pixels = [vec![0.0; 24], vec![0.0; 24]];
            for (var, pixels) in [x, y].into_iter().zip(&mut pixels) {
                layout.unpack(tape.value(var).unwrap().data(), pixels).unwrap();
            }
            assert_eq!(pixels[0], numbers);
            assert_eq!(pixels[1], numbers.iter().map(|x| x.max(0.0)).collect::<Vec<_>>());
            let taken = tape.add(x, y).unwrap();
            assert!(matches!(tape.copy(x), Err(Error::Moved { op: "copy", by: "add" })));
            assert!(tape.value(taken).is_ok());
        }
    }
}
