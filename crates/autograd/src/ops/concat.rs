//! Channels of several images, side by side.

use sparse_kernels::{Backend, ImageLayout, ShapeError};

use crate::{Error, Tape, Var};

const OP: &str = "concat";

impl<B: Backend> Tape<'_, B> {
    /// The channels of all `xs`, one after the other; `y` lies as `layout`, samples aside.
    ///
    /// Backward: to each its channels of dY.
    ///
    /// # Errors
    /// If there is none, sizes differ, `layout` has another number of channels than all together, or one of them is gone.
    ///
    /// # Cost
    /// One pass that reads all and writes the output, and one backward.
    pub fn concat(&mut self, xs: &[Var], layout: ImageLayout) -> Result<Var, Error> {
        let layouts = xs.iter().map(|&x| self.values.image_layout(OP, x)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = layouts.first() else {
            return Err(Error::Activations { op: OP, got: "nothing", expected: "images" });
        };
        let samples = first.samples();
        let channels: usize = layouts.iter().map(ImageLayout::channels).sum();
        if layout.channels() != channels {
            let (what, expected, got) = ("number of channels", layout.channels(), channels);
            return Err(ShapeError::Mismatch { op: OP, what, expected, got }.into());
        }
        let mut y = self.arena.take_images(self.backend, layout.with_samples(samples))?;
        let mut next = 0;
        for (&x, layout) in xs.iter().zip(&layouts) {
            let storage = self.values.read(OP, x)?;
            self.backend.copy_channels(self.values.images(storage), 0..layout.channels(), &mut y, next)?;
            next += layout.channels();
        }
        let requires_grad = xs.iter().any(|&x| self.values.requires_grad(x));
        xs.iter().for_each(|&x| self.used(OP, x));
        let output = self.values.push(y.into(), requires_grad);
        let parts: Vec<_> = xs.iter().copied().zip(layouts).collect();
        self.record(xs[0], output, None, move |pass, dy| {
            let dy = pass.own_images(dy)?;
            let backend = pass.tape.backend;
            let mut next = 0;
            for (x, layout) in parts {
                if pass.tape.values.requires_grad(x) {
                    let mut dx = pass.tape.arena.take_images(backend, layout)?;
                    backend.copy_channels(&dy, next..next + layout.channels(), &mut dx, 0)?;
                    pass.accumulate(x, dx)?;
                }
                next += layout.channels();
            }
            pass.tape.arena.give(backend, dy);
            Ok(())
        });
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{ConvShape, ImageLayout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense_conv, image_layouts, normals};
    use crate::{Arena, Error, Mode, Parameters, Tape};

    /// `[x, f(x), x]`, borders apart: a gradient comes on three ways.
    #[test]
    fn gradients_are_those_of_central_differences() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let shape = ConvShape::new(3, 2, [3, 3]).unwrap().with_padding([1, 1]);
        let layouts = image_layouts(shape, [3, 2], 5, 8);
        let w = dense_conv(&mut parameters, "w", shape, layouts);
        for border in [0, 1] {
            let all = ImageLayout::new(1, 7, [3, 2], border, 8).unwrap();
            let input = (layouts[0], &normals("x", 60)[..]);
            let report = gradcheck(&cpu, &mut parameters, input, 0.1, |tape, x| {
                let y = tape.apply(w, x)?;
                Ok(Objective::Output(tape.concat(&[x, y, x], all)?))
            });
            assert!(report.unwrap().max_error() < 1e-3);
        }
    }

    #[test]
    fn channels_stand_one_after_the_other() {
        let cpu = cpu();
        let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
        let layout = |channels, border| ImageLayout::new(2, channels, [1, 2], border, 8).unwrap();
        for mode in [Mode::Training, Mode::Evaluation] {
            let mut images = [(1, 1, 1.0), (2, 0, 2.0)].map(|(channels, border, value)| {
                let mut images = arena.take_images(&cpu, layout(channels, border)).unwrap();
                images.layout.pack(&vec![value; 4 * channels], &mut images.data).unwrap();
                Some(images)
            });
            let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, mode);
            let [a, b] = [0, 1].map(|i| tape.input(images[i].take().unwrap(), false));
            assert!(matches!(tape.concat(&[], layout(1, 0)), Err(Error::Activations { .. })));
            assert!(tape.concat(&[a, b], layout(4, 0)).is_err());
            let y = tape.concat(&[a, b, a], layout(4, 1)).unwrap();
            let mut pixels = vec![0.0; 16];
            layout(4, 1).unpack(tape.value(y).unwrap().data(), &mut pixels).unwrap();
            assert_eq!(pixels, [[1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]; 2].concat());
        }
    }
}
