//! Bias and ReLU, their gradients, and sums of tensors.

use std::ops::Range;

use super::super::super::elementwise::GROUP;
use super::super::super::kernel::{Kernel, Launch, Operand, Read, Work, Write};
use super::super::super::shaders;
use super::super::super::{Buffer, Gpu};
use super::super::sums::slices;
use super::walk::Walk;
use crate::backend::check::Done;
use crate::{BackendError, ImageLayout, Images};

static BIAS_RELU: Kernel = Kernel::new("bias_relu_images", shaders::IMAGES, &[Read, Write]);
static BIAS_RELU_GRAD: Kernel = Kernel::new("bias_relu_images_grad", shaders::IMAGES, &[Read, Write, Write]);
static RELU: Kernel = Kernel::new("relu_images", shaders::IMAGES, &[Write]);
static RELU_GRAD: Kernel = Kernel::new("relu_images_grad", shaders::IMAGES, &[Read, Write]);
static COPY: Kernel = Kernel::new("copy_images", shaders::IMAGES, &[Read, Write]);
static ADD: Kernel = Kernel::new("add_images", shaders::IMAGES, &[Read, Write]);

/// What the kernels of `images.wgsl` take beside the tensors.
#[derive(Debug, Default)]
pub(super) struct Extra {
    /// Features, quads of a feature's row and strips of the tensor of strips.
    pub features: [u32; 3],
    /// Bit 0: ReLU. Bit 1: sums are added to what is there.
    pub flags: u32,
    /// Pixels of an image.
    pub pixels: f32,
    /// Slices in all, the first one, and quads in each.
    pub slices: [u32; 3],
}

/// The parameters of `images.wgsl`.
pub(super) fn parameters(walk: &Walk, to: &ImageLayout, source: &ImageLayout, extra: &Extra) -> Vec<u32> {
    let [features, strip_quads, strips] = extra.features;
    let rest = [features, strip_quads, strips, to.size()[1] as u32, extra.flags, extra.pixels.to_bits()];
    [&Walk::tensor(to)[..], &Walk::tensor(source), &walk.words(), &rest, &extra.slices].concat()
}

/// An operation on every pixel of the last operand, whose layout is `to`.
fn each_pixel<'a, const N: usize>(
    gpu: &Gpu,
    kernel: &'static Kernel,
    flags: u32,
    [to, source]: [ImageLayout; 2],
    operands: impl Fn(&Walk) -> [Operand<'a>; N],
    passes: usize,
) -> Result<(), BackendError> {
    for strips in gpu.image_windows(&[to, source])? {
        let walk = Walk::new(to, strips);
        let params = parameters(&walk, &to, &source, &Extra { flags, ..Extra::default() });
        walk.launch(gpu, kernel, &params, &operands(&walk), Work::words(passes * walk.elements()))?;
    }
    Ok(())
}

/// Without a bias it is ReLU alone.
pub(super) fn bias_relu(gpu: &Gpu, bias: Option<&Buffer>, relu: bool, x: &Images<Gpu>) -> Done {
    let Some(bias) = bias else { return each_pixel(gpu, &RELU, 0, [x.layout; 2], |walk| [walk.part_of(x)], 2) };
    let bias = gpu.visible("bias", bias)?;
    each_pixel(gpu, &BIAS_RELU, u32::from(relu), [x.layout; 2], |walk| [bias, walk.part_of(x)], 2)
}

pub(super) fn relu_grad(gpu: &Gpu, y: &Images<Gpu>, grad: &Images<Gpu>) -> Result<(), BackendError> {
    let layouts = [grad.layout, y.layout];
    each_pixel(gpu, &RELU_GRAD, 0, layouts, |walk| [walk.part_of(y), walk.part_of(grad)], 3)
}

pub(super) fn add(gpu: &Gpu, from: &Images<Gpu>, to: &Images<Gpu>) -> Result<(), BackendError> {
    if from.layout == to.layout {
        // Borders too: zeros.
        return gpu.add_buffers(&from.data, &to.data);
    }
    let layouts = [to.layout, from.layout];
    each_pixel(gpu, &ADD, 0, layouts, |walk| [walk.part_of(from), walk.part_of(to)], 3)
}

/// Channels of `from` to those of `to` from number `first` on.
pub(super) fn copy_channels(
    gpu: &Gpu,
    from: &Images<Gpu>,
    channels: Range<usize>,
    to: &Images<Gpu>,
    first: usize,
) -> Result<(), BackendError> {
    for strips in gpu.image_windows(&[to.layout, from.layout])? {
        let walk = Walk::new(to.layout, strips).with_channels(channels.len());
        let mut params = parameters(&walk, &to.layout, &from.layout, &Extra::default());
        // Both begin at another channel.
        params[0] += (first * to.layout.channel_pitch()) as u32;
        params[4] += (channels.start * from.layout.channel_pitch()) as u32;
        walk.launch(gpu, &COPY, &params, &[walk.part_of(from), walk.part_of(to)], Work::words(2 * walk.elements()))?;
    }
    Ok(())
}

pub(super) fn bias_relu_grad(
    gpu: &Gpu,
    y: &Images<Gpu>,
    relu: bool,
    grad: &Images<Gpu>,
    dbias: &Buffer,
    accumulate: bool,
) -> Result<(), BackendError> {
    let layout = grad.layout;
    let windows = gpu.image_windows(&[layout, y.layout])?;
    let slices = slices(windows, Walk::new(layout, 0..1).channel_quads(), GROUP, layout.channels());
    gpu.sum_in_slices(dbias, &slices, accumulate, |sums, accumulate, all| {
        for slice in &slices {
            let walk = Walk::new(layout, slice.strips.clone());
            let slices = [all, slice.first, slice.quads].map(|n| n as u32);
            let flags = u32::from(relu) | u32::from(accumulate) << 1;
            gpu.launch(&Launch {
                kernel: &BIAS_RELU_GRAD,
                constants: &[walk.single()],
                params: &parameters(&walk, &layout, &y.layout, &Extra { flags, slices, ..Extra::default() }),
                operands: &[walk.part_of(y), walk.part_of(grad), gpu.visible("sums", sums)?],
                workgroups: layout.channels() * slice.count,
                work: Work::words(if relu { 3 } else { 1 } * walk.elements()),
            })?;
        }
        Ok(())
    })
}
