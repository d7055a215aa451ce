//! Windows over images: largest and mean, and their gradients, gathered.

use super::super::super::Gpu;
use super::super::super::kernel::{Kernel, Operand, Read, Work, Write};
use super::super::super::shaders;
use super::walk::{Walk, pixels};
use crate::backend::Pool;
use crate::backend::check::Done;
use crate::{BackendError, ImageLayout, Images, PoolShape};

static MAX: Kernel = Kernel::new("max_pool", shaders::POOL, &[Read, Write]);
static AVG: Kernel = Kernel::new("avg_pool", shaders::POOL, &[Read, Write]);
static MAX_GRAD: Kernel = Kernel::new("max_pool_grad", shaders::POOL, &[Read, Read, Read, Write]);
static AVG_GRAD: Kernel = Kernel::new("avg_pool_grad", shaders::POOL, &[Read, Write]);

/// The layouts of one operation; a tensor that it has not may be any.
struct Tensors {
    x: ImageLayout,
    y: ImageLayout,
    dy: ImageLayout,
    dx: ImageLayout,
}

/// An operation on every pixel of the images `to`.
struct Pass<'a> {
    kernel: &'static Kernel,
    window: PoolShape,
    tensors: Tensors,
    to: &'a Images<Gpu>,
    accumulate: bool,
    /// Pixels that it reads or writes beside those of `to`.
    read: usize,
}

impl Pass<'_> {
    fn queue<'a, const N: usize>(
        self,
        gpu: &Gpu,
        operands: impl Fn(&Walk) -> [Operand<'a>; N],
    ) -> Result<(), BackendError> {
        let Tensors { x, y, dy, dx } = self.tensors;
        for strips in gpu.image_windows(&[x, y, dy, dx])? {
            let walk = Walk::new(self.to.layout, strips);
            let [kernel, stride, padding] = [self.window.kernel(), self.window.stride(), self.window.padding()];
            let sizes = [x.size(), y.size(), kernel, stride, padding].concat();
            let mut params = [x, y, dy, dx].map(|layout| Walk::tensor(&layout)).concat();
            params.extend(sizes.into_iter().map(|n| n as u32));
            params.extend(walk.words());
            params.push(u32::from(self.accumulate));
            let read = self.read * walk.samples().next_multiple_of(x.strip()) * x.channels();
            let written = walk.elements() * (1 + usize::from(self.accumulate));
            let operations = walk.elements() * self.window.kernel().iter().product::<usize>();
            let work = Work { bytes: 4 * (read + written) as u64, operations: operations as u64 };
            walk.launch(gpu, self.kernel, &params, &operands(&walk), work)?;
        }
        Ok(())
    }
}

pub(super) fn forward(gpu: &Gpu, pool: Pool, window: PoolShape, x: &Images<Gpu>, y: &Images<Gpu>) -> Done {
    let kernel = if pool == Pool::Max { &MAX } else { &AVG };
    let tensors = Tensors { x: x.layout, y: y.layout, dy: y.layout, dx: x.layout };
    let pass = Pass { kernel, window, tensors, to: y, accumulate: false, read: pixels(&x.layout) };
    pass.queue(gpu, |walk| [walk.part_of(x), walk.part_of(y)])
}

pub(super) fn max_grad(
    gpu: &Gpu,
    window: PoolShape,
    [x, y, dy]: [&Images<Gpu>; 3],
    dx: &Images<Gpu>,
    accumulate: bool,
) -> Result<(), BackendError> {
    let tensors = Tensors { x: x.layout, y: y.layout, dy: dy.layout, dx: dx.layout };
    let read = pixels(&x.layout) + 2 * pixels(&y.layout);
    let pass = Pass { kernel: &MAX_GRAD, window, tensors, to: dx, accumulate, read };
    pass.queue(gpu, |walk| [walk.part_of(x), walk.part_of(y), walk.part_of(dy), walk.part_of(dx)])
}

pub(super) fn avg_grad(
    gpu: &Gpu,
    window: PoolShape,
    dy: &Images<Gpu>,
    dx: &Images<Gpu>,
    accumulate: bool,
) -> Result<(), BackendError> {
    let tensors = Tensors { x: dx.layout, y: dy.layout, dy: dy.layout, dx: dx.layout };
    let pass = Pass { kernel: &AVG_GRAD, window, tensors, to: dx, accumulate, read: pixels(&dy.layout) };
    pass.queue(gpu, |walk| [walk.part_of(dy), walk.part_of(dx)])
}
