//! Pooling, and the ways from images to features.

use sparse_kernels::{Backend, ImageLayout, PoolShape, StripLayout};

use crate::tape::{Need, images, strips};
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
        let storage = self.read(OP, x)?;
        let x_layout = self.image_layout(OP, x)?;
        let mut y = self.arena.take_images(self.backend, layout.with_samples(x_layout.samples()))?;
        self.backend.max_pool(window, self.stored_images(storage), &mut y)?;
        let saved = self.save(OP, x, Some(Need::Exact));
        let requires_grad = self.requires_grad(x);
        self.used(OP, x);
        let output = self.push(y.into(), requires_grad);
        let saved_output = self.save(OP, output, Some(Need::Exact));
        self.record(x, output, None, move |pass, dy| {
            let backend = pass.tape.backend;
            let mut dx = pass.tape.arena.take_images(backend, x_layout)?;
            let (x_images, y) = pass.saved_pair(saved, saved_output);
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
        let storage = self.read(OP, x)?;
        let x_layout = self.image_layout(OP, x)?;
        let mut y = self.arena.take_images(self.backend, layout.with_samples(x_layout.samples()))?;
        self.backend.avg_pool(window, self.stored_images(storage), &mut y)?;
        let requires_grad = self.requires_grad(x);
        self.used(OP, x);
        let output = self.push(y.into(), requires_grad);
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
        let layout = self.image_layout(OP, x)?;
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
        let layout = self.image_layout(OP, x)?;
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
        let storage = self.read(op, x)?;
        let x_layout = self.image_layout(op, x)?;
        let mut y = self.arena.take(self.backend, layout)?;
        forward(self.backend, self.stored_images(storage), &mut y)?;
        let requires_grad = self.requires_grad(x);
        self.used(op, x);
        let output = self.push(y.into(), requires_grad);
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
    use crate::tests::{cpu, normals};
    use crate::{Parameters, Tape, Var};

    fn check(
        what: &str,
        operation: impl Fn(&mut Tape<'_, sparse_kernels::cpu::Cpu>, Var) -> Result<Var, crate::Error>,
    ) {
        for (samples, strip) in [(3, 1), (5, 8), (17, 16)] {
            let layout = ImageLayout::new(samples, 2, [4, 5], 1, strip).unwrap();
            let input = (layout, &normals("x", samples * 40)[..]);
            let report = gradcheck(&cpu(), &mut Parameters::new(), input, 4e-3, |tape, x| {
                Ok(Objective::Output(operation(tape, x)?))
            })
            .unwrap();
            // Two pixels of a window may be closer than the step.
            let wrong = report.entries.iter().filter(|e| e.error() > 2e-3).count();
            assert!(wrong * 30 <= report.entries.len(), "{what}: {wrong} of {}", report.entries.len());
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
