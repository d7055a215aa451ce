//! Pooling, and the ways from images to features.

use sparse_kernels::{Activations, Backend, BackendError, ImageLayout, Images, Layout, PoolShape, StripLayout};

use crate::storage::{Need, images, images_mut, strips, strips_mut};
use crate::{Error, Tape, Var};

impl<'a, B: Backend> Tape<'a, B> {
    /// The largest pixel of each window; `y` lies as `layout`, samples aside. The gradient goes to the first of equal ones.
    ///
    /// # Errors
    /// If the shapes do not fit, or `x` is gone.
    ///
    /// # Cost
    /// One pass over x forward, one over x, y and both gradients backward; no indices are stored.
    pub fn max_pool(&mut self, window: PoolShape, x: Var, layout: ImageLayout) -> Result<Var, Error> {
        const OP: &str = "max_pool";
        let storage = self.values.read(OP, x)?;
        let x_layout = self.values.image_layout(OP, x)?;
        let mut y = self.arena.take_images(self.backend, layout.with_samples(x_layout.samples()))?;
        self.backend.max_pool(window, self.values.images(storage), &mut y)?;
        let saved = self.values.save(OP, x, Some(Need::Exact));
        let requires_grad = self.values.requires_grad(x);
        self.used(OP, x);
        let output = self.values.push(y.into(), requires_grad);
        let saved_output = self.values.save(OP, output, Some(Need::Exact));
        self.record(x, output, None, move |pass, dy| {
            let backend = pass.tape.backend;
            let mut dx = pass.tape.arena.take_images(backend, x_layout)?;
            let values = &pass.tape.values;
            let (x_images, y) = (values.images(saved.storage), values.images(saved_output.storage));
            backend.max_pool_grad(window, x_images, y, images(&dy), &mut dx, false)?;
            pass.release(dy);
            pass.accumulate(x, dx)
        });
        Ok(output)
    }

    /// The mean of each window's pixels, those of the padding not counted; `y` lies as `layout`, samples aside.
    ///
    /// # Errors
    /// If the shapes do not fit, or `x` is gone.
    ///
    /// # Cost
    /// One pass forward, one backward.
    pub fn avg_pool(&mut self, window: PoolShape, x: Var, layout: ImageLayout) -> Result<Var, Error> {
        const OP: &str = "avg_pool";
        self.values.read(OP, x)?;
        let layout = layout.with_samples(self.values.image_layout(OP, x)?.samples());
        let forward = move |backend: &B, x: &_, y: &mut _| backend.avg_pool(window, x, images_mut(y));
        self.of_images(OP, x, layout, forward, move |backend, dy, dx| {
            backend.avg_pool_grad(window, images(dy), dx, false)
        })
    }

    /// The mean of each channel's pixels, as one feature a channel in strips of `strip` lanes.
    ///
    /// # Errors
    /// If `strip` is impossible, or `x` is gone.
    ///
    /// # Cost
    /// One pass over x forward, one over its gradient backward.
    pub fn global_avg_pool(&mut self, x: Var, strip: usize) -> Result<Var, Error> {
        const OP: &str = "global_avg_pool";
        let layout = self.values.image_layout(OP, x)?;
        let features = StripLayout::new(layout.samples(), layout.channels(), strip)?;
        let forward = |backend: &B, x: &_, y: &mut _| backend.global_avg_pool(x, strips_mut(y));
        self.of_images(OP, x, features, forward, |backend, dy, dx| backend.global_avg_pool_grad(strips(dy), dx))
    }

    /// Each pixel of each channel as a feature, `(channel · height + y) · width + x`, in strips of `strip` lanes.
    ///
    /// # Errors
    /// If `strip` is impossible, or `x` is gone.
    ///
    /// # Cost
    /// One pass forward, one backward.
    pub fn flatten(&mut self, x: Var, strip: usize) -> Result<Var, Error> {
        const OP: &str = "flatten";
        let layout = self.values.image_layout(OP, x)?;
        let [height, width] = layout.size();
        let features = StripLayout::new(layout.samples(), layout.channels() * height * width, strip)?;
        let forward = |backend: &B, x: &_, y: &mut _| backend.flatten(x, strips_mut(y));
        self.of_images(OP, x, features, forward, |backend, dy, dx| backend.unflatten(strips(dy), dx))
    }

    /// Activations like `layout` from images, by an operation whose backward pass needs neither.
    fn of_images(
        &mut self,
        op: &'static str,
        x: Var,
        layout: impl Into<Layout>,
        forward: impl FnOnce(&B, &Images<B>, &mut Activations<B>) -> Result<(), BackendError>,
        backward: impl FnOnce(&B, &Activations<B>, &mut Images<B>) -> Result<(), BackendError> + 'a,
    ) -> Result<Var, Error> {
        let storage = self.values.read(op, x)?;
        let x_layout = self.values.image_layout(op, x)?;
        let mut y = self.arena.take_activations(self.backend, layout.into())?;
        forward(self.backend, self.values.images(storage), &mut y)?;
        let requires_grad = self.values.requires_grad(x);
        self.used(op, x);
        let output = self.values.push(y, requires_grad);
        self.record(x, output, None, move |pass, dy| {
            let backend = pass.tape.backend;
            let mut dx = pass.tape.arena.take_images(backend, x_layout)?;
            backward(backend, &dy, &mut dx)?;
            pass.release(dy);
            pass.accumulate(x, dx)
        });
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{ImageLayout, PoolShape};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::cpu;
    use crate::{Parameters, Tape, Var};

    /// All of these are linear but for the order of the pixels in a window, which no step changes: pixels are 0.25 apart.
    fn check(
        what: &str,
        operation: impl Fn(&mut Tape<'_, sparse_kernels::cpu::Cpu>, Var) -> Result<Var, crate::Error>,
    ) {
        for (samples, strip) in [(3, 1), (5, 8), (17, 16)] {
            let layout = ImageLayout::new(samples, 2, [4, 5], 1, strip).unwrap();
            // A permutation of the 20 pixels of each channel.
            let pixels: Vec<f32> = (0..samples * 40).map(|i| ((i * 7 + i / 20) % 20) as f32 * 0.25 - 2.0).collect();
            let report = gradcheck(&cpu(), &mut Parameters::new(), (layout, &pixels[..]), 0.0625, |tape, x| {
                Ok(Objective::Output(operation(tape, x)?))
            });
            let error = report.unwrap().max_error();
            assert!(error < 1e-4, "{what}: {error}");
        }
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        let window = PoolShape::new([3, 2]).unwrap().with_stride([2, 2]).unwrap().with_padding([1, 1]).unwrap();
        let y = |strip| ImageLayout::new(1, 2, window.output_size([4, 5]).unwrap(), 0, strip).unwrap();
        let strip = |tape: &Tape<'_, _>, x| match tape.layout(x) {
            sparse_kernels::Layout::Images(layout) => layout.strip(),
            sparse_kernels::Layout::Strips(_) => unreachable!("the input is images"),
        };
        check("max_pool", |tape, x| tape.max_pool(window, x, y(strip(tape, x))));
        check("avg_pool", |tape, x| tape.avg_pool(window, x, y(strip(tape, x))));
        check("global_avg_pool", |tape, x| tape.global_avg_pool(x, 32));
        check("flatten", |tape, x| tape.flatten(x, 16));
    }
}
