//! The sum of two values: the end of a residual block.

use std::rc::Rc;

use sparse_kernels::{Activations, Backend};

use crate::{Error, Tape, Var};

const OP: &str = "add";

impl<B: Backend> Tape<'_, B> {
    /// `x + addend`. Works in place: `x` is gone afterwards, `addend` stays.
    ///
    /// Backward: the gradient is that of both, in one buffer as long as neither is written to.
    ///
    /// # Errors
    /// If the shapes differ, either is gone, or another operation needs `x`.
    ///
    /// # Cost
    /// One pass that reads both and writes the sum.
    pub fn add(&mut self, x: Var, addend: Var) -> Result<Var, Error> {
        let [to, from] = [self.values.read_to_overwrite(OP, x, None)?, self.values.read(OP, addend)?];
        if to == from {
            return Err(Error::Saved { op: OP, by: OP });
        }
        // Taken out for the time of the call: both stand among the values.
        let mut sum = self.values.take(to).expect("`read` found the buffer");
        let added = match (self.values.activations(from), &mut sum) {
            (Activations::Strips(from), Activations::Strips(to)) => {
                self.backend.add_strips(from, to).map_err(Error::from)
            }
            (Activations::Images(from), Activations::Images(to)) => {
                self.backend.add_images(from, to).map_err(Error::from)
            }
            (Activations::Strips(_), Activations::Images(_)) => self.values.image_layout(OP, addend).map(drop),
            (Activations::Images(_), Activations::Strips(_)) => self.values.strip_layout(OP, addend).map(drop),
        };
        self.values.put(to, sum);
        added?;
        Ok(self.record_sum(x, addend))
    }

    /// Notes that `addend` has been added to `x` in place.
    pub(crate) fn record_sum(&mut self, x: Var, addend: Var) -> Var {
        let requires_grad = self.values.requires_grad(x) || self.values.requires_grad(addend);
        let sum = self.values.push_in_place(OP, x, self.layout(x), requires_grad);
        self.used(OP, addend);
        self.record(x, sum, None, move |pass, gradient| {
            pass.accumulate_shared(addend, Rc::clone(&gradient))?;
            pass.accumulate_shared(x, gradient)
        });
        sum
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{ConvShape, ImageLayout, StripLayout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense, dense_conv, image_layouts, normals};
    use crate::{Arena, Error, Mode, Parameters, Tape};

    /// `x + f(x)`, twice: a gradient that two values share must not be overwritten through one of them.
    #[test]
    fn gradients_are_those_of_central_differences() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let shape = ConvShape::new(2, 2, [3, 3]).unwrap().with_padding([1, 1]);
        let layouts = image_layouts(shape, [3, 3], 2, 8);
        let (a, b) =
            (dense_conv(&mut parameters, "a", shape, layouts), dense_conv(&mut parameters, "b", shape, layouts));
        let input = (layouts[0], &normals("x", 36)[..]);
        let report = gradcheck(&cpu, &mut parameters, input, 0.1, |tape, x| {
            let y = tape.apply(a, x)?;
            let y = tape.add(y, x)?;
            let z = tape.apply(b, y)?;
            Ok(Objective::Output(tape.add(z, y)?))
        });
        assert!(report.unwrap().max_error() < 1e-3);
    }

    #[test]
    fn gradients_of_features_are_those_of_central_differences() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let w = dense(&mut parameters, "w", 3, 3);
        let input = (StripLayout::sparse(40, 3), &normals("x", 120)[..]);
        let report = gradcheck(&cpu, &mut parameters, input, 0.1, |tape, x| {
            let y = tape.apply(w, x)?;
            let y = tape.add(y, x)?;
            let z = tape.apply(w, y)?;
            Ok(Objective::Output(tape.add(z, y)?))
        });
        assert!(report.unwrap().max_error() < 1e-3);
    }

    #[test]
    fn what_others_need_is_not_overwritten() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let shape = ConvShape::new(2, 2, [1, 1]).unwrap();
        let layouts = image_layouts(shape, [2, 2], 1, 1);
        let w = dense_conv(&mut parameters, "w", shape, layouts);
        let mut arena = Arena::new();
        let x = arena.take_images(&cpu, layouts[0]).unwrap();
        let other = arena.take_images(&cpu, ImageLayout::new(1, 3, [2, 2], 0, 1).unwrap()).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let (x, other) = (tape.input(x, false), tape.input(other, false));
        let y = tape.apply(w, x).unwrap();
        assert!(matches!(tape.add(x, y), Err(Error::Saved { op: "add", by: "apply" })));
        assert!(matches!(tape.add(y, y), Err(Error::Saved { .. })));
        assert!(matches!(tape.add(y, other), Err(Error::Backend(_))));
        assert!(tape.add(y, x).is_ok());
    }
}
