//! The ways from images to strips and back: every pixel, or the mean of every channel, becomes a feature.

use std::ops::Range;

use super::super::super::Gpu;
use super::super::super::elementwise::{GROUP, QUAD};
use super::super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::super::shaders;
use super::super::super::windows::of_strips;
use super::elementwise::{Extra, parameters};
use super::walk::{Walk, pixels};
use crate::{BackendError, ImageLayout, Images, StripLayout, Strips};

const fn kernel(name: &'static str) -> Kernel {
    Kernel::new(name, shaders::IMAGES, &[Read, Write])
}
pub(super) static FLATTEN: Kernel = kernel("flatten");
pub(super) static UNFLATTEN: Kernel = kernel("unflatten");
pub(super) static GLOBAL_AVG_POOL: Kernel = kernel("global_avg_pool");
pub(super) static GLOBAL_AVG_POOL_GRAD: Kernel = kernel("global_avg_pool_grad");

/// The same samples as strips of images and as strips.
struct Part {
    images: Range<usize>,
    strips: Range<usize>,
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// Parts that can be seen whole and hold whole strips of both. One of them may have fewer strips than the other has room for.
fn parts(gpu: &Gpu, images: &ImageLayout, strips: &StripLayout) -> Result<Vec<Part>, BackendError> {
    let samples = images.strip() / greatest_common_divisor(images.strip(), strips.strip()) * strips.strip();
    let (of_images, of_strips) = (samples / images.strip(), samples / strips.strip());
    let pitches = [of_images * images.strip_pitch(), of_strips * strips.strip_pitch()];
    let windows = gpu.strip_windows("images and strips", strips.lanes().div_ceil(samples), &pitches)?;
    let scale = |range: &Range<usize>, by: usize, most: usize| range.start * by..(range.end * by).min(most);
    let part = |range| Part {
        images: scale(&range, of_images, images.strips()),
        strips: scale(&range, of_strips, strips.strips()),
    };
    Ok(windows.into_iter().map(part).collect())
}

fn extra(strips: &StripLayout, part: &Part, pixels: usize) -> Extra {
    let features = [strips.features(), strips.strip() / QUAD, part.strips.len()].map(|n| n as u32);
    Extra { features, pixels: pixels as f32, ..Extra::default() }
}

pub(super) fn to_strips(
    gpu: &Gpu,
    kernel: &'static Kernel,
    x: &Images<Gpu>,
    y: &Strips<Gpu>,
) -> Result<(), BackendError> {
    for part in parts(gpu, &x.layout, &y.layout)? {
        let walk = Walk::new(x.layout, part.images.clone());
        let elements = part.strips.len() * y.layout.strip_pitch();
        gpu.launch(&Launch {
            kernel,
            constants: &[walk.single()],
            params: &parameters(&walk, &x.layout, &x.layout, &extra(&y.layout, &part, pixels(&x.layout))),
            operands: &[walk.part_of(x), of_strips(y, &part.strips)],
            workgroups: (elements / QUAD).div_ceil(GROUP),
            work: Work::words(walk.elements() + elements),
        })?;
    }
    Ok(())
}

pub(super) fn to_images(
    gpu: &Gpu,
    kernel: &'static Kernel,
    dy: &Strips<Gpu>,
    dx: &Images<Gpu>,
) -> Result<(), BackendError> {
    for part in parts(gpu, &dx.layout, &dy.layout)? {
        let walk = Walk::new(dx.layout, part.images.clone());
        let params = parameters(&walk, &dx.layout, &dx.layout, &extra(&dy.layout, &part, pixels(&dx.layout)));
        let work = Work::words(walk.elements() + part.strips.len() * dy.layout.strip_pitch());
        walk.launch(gpu, kernel, &params, &[of_strips(dy, &part.strips), walk.part_of(dx)], work)?;
    }
    Ok(())
}
