//! The ways from images to strips and back: every pixel, or the mean of every channel, becomes a feature.

use std::ops::Range;

use super::super::super::Gpu;
use super::super::super::elementwise::GROUP;
use super::super::super::kernel::{Access, Kernel, Launch, Work};
use super::super::super::shaders;
use super::super::{QUAD, expect_strips, part_of};
use super::elementwise::{Extra, parameters};
use super::walk::{Walk, expect_images};
use crate::error::expect_equal;
use crate::{BackendError, ImageLayout, Images, ShapeError, StripLayout, Strips};

const fn kernel(name: &'static str) -> Kernel {
    Kernel { name, source: shaders::IMAGES, entry: name, operands: &[Access::Read, Access::Write] }
}
static FLATTEN: Kernel = kernel("flatten");
static UNFLATTEN: Kernel = kernel("unflatten");
static GLOBAL_AVG_POOL: Kernel = kernel("global_avg_pool");
static GLOBAL_AVG_POOL_GRAD: Kernel = kernel("global_avg_pool_grad");

/// Checks that strips have a lane for each sample and a feature for each pixel of each channel.
fn expect_pixels(op: &'static str, images: &ImageLayout, strips: &StripLayout) -> Result<(), ShapeError> {
    let [height, width] = images.size();
    expect_equal(op, "number of lanes", images.samples(), strips.lanes())?;
    expect_equal(op, "number of features", images.channels() * height * width, strips.features())
}

/// Checks that strips have a lane for each sample and a feature for each channel.
fn expect_means(op: &'static str, images: &ImageLayout, strips: &StripLayout) -> Result<(), ShapeError> {
    expect_equal(op, "number of lanes", images.samples(), strips.lanes())?;
    expect_equal(op, "number of features", images.channels(), strips.features())
}

fn pixels(layout: &ImageLayout) -> usize {
    layout.size()[0] * layout.size()[1]
}

pub(super) fn flatten(gpu: &Gpu, x: &Images<Gpu>, y: &Strips<Gpu>) -> Result<(), BackendError> {
    expect_pixels("flatten", &x.layout, &y.layout)?;
    expect_images("flatten", x)?;
    expect_strips("flatten", y)?;
    to_strips(gpu, &FLATTEN, x, y)
}

pub(super) fn global_avg_pool(gpu: &Gpu, x: &Images<Gpu>, y: &Strips<Gpu>) -> Result<(), BackendError> {
    const OP: &str = "global_avg_pool";
    expect_means(OP, &x.layout, &y.layout)?;
    expect_images(OP, x)?;
    expect_strips(OP, y)?;
    if x.layout.size().contains(&0) {
        return Err(ShapeError::Rule { op: OP, what: "pixels of X", got: 0, rule: "positive" }.into());
    }
    to_strips(gpu, &GLOBAL_AVG_POOL, x, y)
}

pub(super) fn unflatten(gpu: &Gpu, dy: &Strips<Gpu>, dx: &Images<Gpu>) -> Result<(), BackendError> {
    expect_pixels("unflatten", &dx.layout, &dy.layout)?;
    expect_strips("unflatten", dy)?;
    expect_images("unflatten", dx)?;
    to_images(gpu, &UNFLATTEN, dy, dx)
}

pub(super) fn global_avg_pool_grad(gpu: &Gpu, dy: &Strips<Gpu>, dx: &Images<Gpu>) -> Result<(), BackendError> {
    const OP: &str = "global_avg_pool_grad";
    expect_means(OP, &dx.layout, &dy.layout)?;
    expect_strips(OP, dy)?;
    expect_images(OP, dx)?;
    to_images(gpu, &GLOBAL_AVG_POOL_GRAD, dy, dx)
}

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

fn to_strips(gpu: &Gpu, kernel: &'static Kernel, x: &Images<Gpu>, y: &Strips<Gpu>) -> Result<(), BackendError> {
    for part in parts(gpu, &x.layout, &y.layout)? {
        let walk = Walk::new(x.layout, part.images.clone());
        let elements = part.strips.len() * y.layout.strip_pitch();
        gpu.launch(&Launch {
            kernel,
            constants: &[walk.single()],
            params: &parameters(&walk, &x.layout, &x.layout, &extra(&y.layout, &part, pixels(&x.layout))),
            operands: &[walk.part_of(x), part_of(y, &part.strips)],
            workgroups: (elements / QUAD).div_ceil(GROUP),
            work: Work::words(walk.elements() + elements),
        })?;
    }
    Ok(())
}

fn to_images(gpu: &Gpu, kernel: &'static Kernel, dy: &Strips<Gpu>, dx: &Images<Gpu>) -> Result<(), BackendError> {
    for part in parts(gpu, &dx.layout, &dy.layout)? {
        let walk = Walk::new(dx.layout, part.images.clone());
        gpu.launch(&Launch {
            kernel,
            constants: &[walk.single()],
            params: &parameters(&walk, &dx.layout, &dx.layout, &extra(&dy.layout, &part, pixels(&dx.layout))),
            operands: &[part_of(dy, &part.strips), walk.part_of(dx)],
            workgroups: walk.quads().div_ceil(GROUP),
            work: Work::words(walk.elements() + part.strips.len() * dy.layout.strip_pitch()),
        })?;
    }
    Ok(())
}
