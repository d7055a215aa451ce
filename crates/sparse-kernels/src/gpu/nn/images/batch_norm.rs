//! Batch normalisation of images: four kinds of passes over memory, two forward and two backward.

use super::super::super::elementwise::GROUP;
use super::super::super::kernel::{Access, Kernel, Launch, Operand, Read, Work, Write};
use super::super::super::shaders;
use super::super::super::{Buffer, Gpu};
use super::super::sums::slices;
use super::walk::Walk;
use crate::backend::check::{Checked, Done};
use crate::backend::{Accumulate, Activation, BatchNorm, BatchNormOptions, ReluMask};
use crate::{BackendError, ImageLayout, Images};

const fn kernel(name: &'static str, entry: &'static str, operands: &'static [Access]) -> Kernel {
    Kernel { name, source: shaders::BATCH_NORM, entry, operands }
}
static MOMENTS: Kernel = kernel("batch_moments", "moments", &[Read, Write, Write]);
static FINISH: Kernel = kernel("batch_moments_sums", "finish_moments", &[Read, Write, Write]);
static RUNNING: Kernel = kernel("running_moments", "running_moments", &[Read, Write]);
static NORMALIZE: Kernel = kernel("batch_normalize", "normalize", &[Read, Read, Read, Read, Write]);
static GRAD_SUMS: Kernel = kernel("batch_norm_grad_sums", "grad_sums", &[Read, Read, Read, Read, Write, Write]);
static GRAD: Kernel = kernel("batch_norm_grad", "grad", &[Read, Read, Read, Read, Write]);
static GRAD_TO: Kernel = kernel("batch_norm_grad", "grad_to", &[Read, Read, Read, Read, Read, Write]);

/// Words of a slice's result: count, mean, sum of squares, nothing.
const PARTIAL_WORDS: usize = 4;

const WITH_OTHER: u32 = 1;
const RELU: u32 = 2;
const ACCUMULATE: u32 = 4;
const UP_TO_6: u32 = 8;

/// The flags of an activation.
fn flags_of(activation: Activation) -> u32 {
    match activation {
        Activation::None => 0,
        Activation::Relu => RELU,
        Activation::Relu6 => RELU | UP_TO_6,
    }
}

/// Parameters of `batch_norm.wgsl`.
#[derive(Debug, Clone, Copy)]
struct Parameters {
    x: ImageLayout,
    /// Addend, residual or mask.
    other: ImageLayout,
    dy: ImageLayout,
    /// What is written.
    to: ImageLayout,
    flags: u32,
    /// Slices in all, the first one, and quads in each.
    slices: [usize; 3],
    options: BatchNormOptions,
}

impl Parameters {
    fn new(x: ImageLayout, to: ImageLayout) -> Self {
        Self { x, other: x, dy: x, to, flags: 0, slices: [0; 3], options: BatchNormOptions::default() }
    }

    fn walk(&self, strips: std::ops::Range<usize>) -> Walk {
        Walk::new(self.to, strips)
    }

    fn words(&self, walk: &Walk) -> Vec<u32> {
        let n = pixels(&self.x) as f64;
        // Of one number there is no unbiased variance.
        let unbiased = n / (n - 1.0).max(1.0);
        let floats = [n as f32, unbiased as f32, self.options.epsilon, self.options.momentum];
        let mut words = [self.x, self.other, self.dy, self.to].map(|layout| Walk::tensor(&layout)).concat();
        words.extend(walk.words());
        words.push(self.flags);
        words.extend(self.slices.map(|n| n as u32));
        words.extend(floats.map(f32::to_bits));
        words
    }

    fn windows(&self, gpu: &Gpu) -> Result<Vec<std::ops::Range<usize>>, BackendError> {
        gpu.image_windows(&[self.x, self.other, self.dy, self.to])
    }

    /// An operation on every pixel of `to`.
    fn each_pixel<'a, const N: usize>(
        &self,
        gpu: &Gpu,
        kernel: &'static Kernel,
        passes: usize,
        operands: impl Fn(&Walk) -> [Operand<'a>; N],
    ) -> Result<(), BackendError> {
        for strips in self.windows(gpu)? {
            let walk = self.walk(strips);
            let elements = walk.elements() as u64;
            let work = Work { bytes: 4 * passes as u64 * elements, operations: 4 * elements };
            walk.launch(gpu, kernel, &self.words(&walk), &operands(&walk), work)?;
        }
        Ok(())
    }
}

/// Pixels of a channel, over all samples.
fn pixels(layout: &ImageLayout) -> usize {
    layout.samples() * layout.size()[0] * layout.size()[1]
}

impl BatchNorm for Gpu {
    fn run_batch_moments(
        &self,
        _: Checked,
        options: BatchNormOptions,
        addend: Option<&Images<Self>>,
        x: &mut Images<Self>,
        running: &mut Buffer,
        moments: &mut Buffer,
    ) -> Done {
        let (layout, channels) = (x.layout, x.layout.channels());
        let other = addend.map_or(layout, |addend| addend.layout);
        let flags = if addend.is_some() { WITH_OTHER } else { 0 };
        let parameters = Parameters { other, flags, options, ..Parameters::new(layout, layout) };
        let slices = slices(parameters.windows(self)?, parameters.walk(0..1).channel_quads(), GROUP, channels);
        let count: usize = slices.iter().map(|slice| slice.count).sum();
        let (running, moments) = (self.visible("running moments", running)?, self.visible("moments", moments)?);
        self.with_partials(PARTIAL_WORDS * channels * count, |partials| {
            for slice in &slices {
                let walk = parameters.walk(slice.strips.clone());
                let parameters = Parameters { slices: [count, slice.first, slice.quads], ..parameters };
                let passes = if addend.is_some() { 3 } else { 1 };
                self.launch(&Launch {
                    kernel: &MOMENTS,
                    constants: &[walk.single()],
                    params: &parameters.words(&walk),
                    operands: &[
                        // Without an addend any buffer stands in its place, and is not read.
                        addend.map_or(running, |addend| walk.part_of(addend)),
                        walk.part_of(x),
                        self.visible("partial moments", partials)?,
                    ],
                    workgroups: channels * slice.count,
                    work: Work { bytes: 4 * (passes * walk.elements()) as u64, operations: 4 * walk.elements() as u64 },
                })?;
            }
            let parameters = Parameters { slices: [count, 0, 0], ..parameters };
            self.launch(&Launch {
                kernel: &FINISH,
                constants: &[],
                params: &parameters.words(&parameters.walk(0..layout.strips())),
                operands: &[self.visible("partial moments", partials)?, running, moments],
                workgroups: channels,
                work: Work::words(PARTIAL_WORDS * channels * count),
            })
        })
    }

    fn run_batch_normalize(
        &self,
        _: Checked,
        [affine, moments]: [&Buffer; 2],
        residual: Option<&Images<Self>>,
        activation: Activation,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Done {
        let layout = x.layout;
        let other = residual.map_or(layout, |residual| residual.layout);
        let flags = if residual.is_some() { WITH_OTHER } else { 0 } | flags_of(activation);
        let parameters = Parameters { other, flags, ..Parameters::new(layout, y.layout) };
        let (affine, moments) = (self.visible("γ and β", affine)?, self.visible("moments", moments)?);
        parameters.each_pixel(self, &NORMALIZE, if residual.is_some() { 3 } else { 2 }, |walk| {
            [affine, moments, walk.part_of(x), walk.part_of(residual.unwrap_or(x)), walk.part_of(y)]
        })
    }

    fn run_running_moments(
        &self,
        _: Checked,
        options: BatchNormOptions,
        running: &Buffer,
        moments: &mut Buffer,
    ) -> Done {
        let len = running.len();
        // As many samples as there are moments, of as many channels as there are means.
        let layout = ImageLayout::new(len, len / 2, [1, 1], 0, 1)?;
        let parameters = Parameters { options, ..Parameters::new(layout, layout) };
        self.launch(&Launch {
            kernel: &RUNNING,
            constants: &[],
            params: &parameters.words(&parameters.walk(0..len)),
            operands: &[self.visible("running moments", running)?, self.visible("moments", moments)?],
            workgroups: len.div_ceil(GROUP),
            work: Work::words(2 * len),
        })
    }

    fn run_batch_norm_grad_sums(
        &self,
        _: Checked,
        [affine, moments]: [&Buffer; 2],
        mask: ReluMask<'_, Self>,
        x: &Images<Self>,
        dy: &mut Images<Self>,
        sums: &mut Buffer,
    ) -> Done {
        let layout = x.layout;
        let (flags, output) = match mask {
            ReluMask::None => (0, None),
            ReluMask::Recomputed(activation) => (flags_of(activation), None),
            ReluMask::Output(activation, y) => (WITH_OTHER | flags_of(activation), Some(y)),
        };
        let other = output.map_or(layout, |y| y.layout);
        let parameters = Parameters { other, flags, ..Parameters::new(layout, dy.layout) };
        let windows = parameters.windows(self)?;
        let slices = slices(windows, parameters.walk(0..1).channel_quads(), GROUP, layout.channels());
        let (affine, moments) = (self.visible("γ and β", affine)?, self.visible("moments", moments)?);
        self.sum_in_slices(sums, &slices, false, |sums, _, all| {
            for slice in &slices {
                let walk = parameters.walk(slice.strips.clone());
                let parameters = Parameters { slices: [all, slice.first, slice.quads], ..parameters };
                let passes = if output.is_some() { 4 } else { 2 };
                self.launch(&Launch {
                    kernel: &GRAD_SUMS,
                    constants: &[walk.single()],
                    params: &parameters.words(&walk),
                    operands: &[
                        affine,
                        moments,
                        walk.part_of(x),
                        walk.part_of(output.unwrap_or(x)),
                        walk.part_of(dy),
                        self.visible("sums", sums)?,
                    ],
                    workgroups: layout.channels() * slice.count,
                    work: Work { bytes: 4 * (passes * walk.elements()) as u64, operations: 6 * walk.elements() as u64 },
                })?;
            }
            Ok(())
        })
    }

    fn run_batch_norm_grad(
        &self,
        _: Checked,
        [affine, moments, sums]: [&Buffer; 3],
        activation: Activation,
        x: &Images<Self>,
        dy: &mut Images<Self>,
        output: Option<(&mut Images<Self>, Accumulate)>,
    ) -> Done {
        let layout = x.layout;
        let flags = flags_of(activation);
        let (affine, moments) = (self.visible("γ and β", affine)?, self.visible("moments", moments)?);
        let sums = self.visible("sums", sums)?;
        let Some((output, accumulate)) = output else {
            let parameters = Parameters { flags, ..Parameters::new(layout, dy.layout) };
            return parameters
                .each_pixel(self, &GRAD, 3, |walk| [affine, moments, walk.part_of(x), sums, walk.part_of(dy)]);
        };
        let adds = accumulate == Accumulate::Yes;
        let flags = flags | if adds { ACCUMULATE } else { 0 };
        let parameters = Parameters { dy: dy.layout, flags, ..Parameters::new(layout, output.layout) };
        parameters.each_pixel(self, &GRAD_TO, if adds { 4 } else { 3 }, |walk| {
            [affine, moments, walk.part_of(x), sums, walk.part_of(dy), walk.part_of(output)]
        })
    }
}
