//! Pooling, and the ways from images to features.

use sparse_kernels::{Backend, ImageLayout, PoolShape, StripLayout};

use crate::storage::{Need, images, strips};
use crate::{Error, Tape, Var};

impl<B: Backend> Tape<'_, B> {
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
        let storage = self.values.read(OP, x)?;
        let x_layout = self.values.image_layout(OP, x)?;
        let mut y = self.arena.take_images(self.backend, layout.with_samples(x_layout.samples()))?;
        self.backend.avg_pool(window, self.values.images(storage), &mut y)?;
        let requires_grad = self.values.requires_grad(x);
        self.used(OP, x);
        let output = self.values.push(y.into(), requires_grad);
        self.record(x, output, None, move |pass, dy| {
            let backend = pass.tape.backend;
            let mut dx = pass.tape.arena.take_images(backend, x_layout)?;
            backend.avg_pool_grad(window, images(&dy), &mut dx, false)?;
            pass.release(dy);
            pass.accumulate(x, dx)
        });
        Ok(output)
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
        self.image_to_features(OP, x, features, B::global_avg_pool, B::global_avg_pool_grad)
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
        self.image_to_features(OP, x, features, B::flatten, B::unflatten)
    }

    #[expect(clippy::type_complexity, reason = "the signatures of two operations and their gradients")]
    fn image_to_features(
        &mut self,
        op: &'static str,
        x: Var,
        layout: StripLayout,
        forward: impl Fn(
            &B,
            &sparse_kernels::Images<B>,
            &mut sparse_kernels::Strips<B>,
        ) -> Result<(), sparse_kernels::BackendError>,
        backward: fn(
            &B,
            &sparse_kernels::Strips<B>,
            &mut sparse_kernels::Images<B>,
        ) -> Result<(), sparse_kernels::BackendError>,
    ) -> Result<Var, Error> {
        let storage = self.values.read(op, x)?;
        let x_layout = self.values.image_layout(op, x)?;
        let mut y = self.arena.take(self.backend, layout)?;
        forward(self.backend, self.values.images(storage), &mut y)?;
        let requires_grad = self.values.requires_grad(x);
        self.used(op, x);
        let output = self.values.push(y.into(), requires_grad);
        self.record(x, output, None, move |pass, dy| {
            let backend = pass.tape.backend;
            let mut dx = pass.tape.arena.take_images(backend, x_layout)?;
            backward(backend, strips(&dy), &mut dx)?;
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
