//! Operations on images that are no convolutions: memory-bound passes over `[strip][y][channel][x][S]`.
//!
//! Where an output row belongs to one image row, tasks are bands of image rows ([`for_each_band`]), which lie in memory as
//! one stream; where windows overlap, tasks are channels of a strip ([`for_each_block`]). Both are cut by the shape only, and
//! every sum is taken in one order, so that results do not depend on the number of threads.
//!
//! Padding samples hold zeros before a pass, and most passes make zeros of zeros; only adding a bias and reading from
//! strips, whose padding is another, need care.

mod add;
mod batch_norm;
#[cfg(test)]
mod batch_norm_tests;
mod bias_relu;
mod dropout;
mod flatten;
mod global_pool;
mod pool;

use std::marker::PhantomData;
use std::ops::Range;

use crate::backend::ImageNeural;
use crate::cpu::isa::Isa;
use crate::cpu::{Buffer, Cpu, ELEMENTS_PER_TASK, IsaName, SharedMut};
use crate::error::expect_equal;
use crate::random::Key;
use crate::{BackendError, ImageLayout, Images, PoolShape, ShapeError, Strips};

impl ImageNeural for Cpu {
    fn max_pool(&self, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        pool::max(self, window, x, y)
    }

    fn max_pool_grad(
        &self,
        window: PoolShape,
        x: &Images<Self>,
        y: &Images<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        pool::max_grad(self, window, [x, y, dy], dx, accumulate)
    }

    fn avg_pool(&self, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        pool::avg(self, window, x, y)
    }

    fn avg_pool_grad(
        &self,
        window: PoolShape,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        pool::avg_grad(self, window, dy, dx, accumulate)
    }

    fn global_avg_pool(&self, x: &Images<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        global_pool::forward(self, x, y)
    }

    fn global_avg_pool_grad(&self, dy: &Strips<Self>, dx: &mut Images<Self>) -> Result<(), BackendError> {
        global_pool::backward(self, dy, dx)
    }

    fn flatten(&self, x: &Images<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        flatten::forward(self, x, y)
    }

    fn unflatten(&self, dy: &Strips<Self>, dx: &mut Images<Self>) -> Result<(), BackendError> {
        flatten::backward(self, dy, dx)
    }

    fn bias_relu_images(&self, bias: &Buffer, relu: bool, x: &mut Images<Self>) -> Result<(), BackendError> {
        bias_relu::forward(self, bias, relu, x)
    }

    fn bias_relu_images_grad(
        &self,
        y: &Images<Self>,
        relu: bool,
        grad: &mut Images<Self>,
        dbias: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        bias_relu::backward(self, y, relu, grad, dbias, accumulate)
    }

    fn relu_images(&self, x: &mut Images<Self>) -> Result<(), BackendError> {
        bias_relu::relu(self, x)
    }

    fn relu_images_grad(&self, y: &Images<Self>, grad: &mut Images<Self>) -> Result<(), BackendError> {
        bias_relu::relu_grad(self, y, grad)
    }

    fn add_images(&self, from: &Images<Self>, to: &mut Images<Self>) -> Result<(), BackendError> {
        add::run(self, from, to)
    }

    fn dropout_images(&self, key: Key, rate: f32, x: &mut Images<Self>) -> Result<(), BackendError> {
        dropout::run(self, key, rate, x)
    }
}

/// Checks that a buffer holds what its layout says.
fn expect_images(op: &'static str, x: &Images<Cpu>) -> Result<(), ShapeError> {
    expect_equal(op, "length of the images", x.layout.len(), x.data.len())
}

/// Checks samples, channels and strip of images whose sizes may differ.
fn expect_same_samples(op: &'static str, expected: &ImageLayout, got: &ImageLayout) -> Result<(), ShapeError> {
    expect_equal(op, "number of samples", expected.samples(), got.samples())?;
    expect_equal(op, "samples per strip", expected.strip(), got.strip())?;
    expect_equal(op, "number of channels", expected.channels(), got.channels())
}

/// Checks that two operands are alike but for their borders.
fn expect_same_shape(op: &'static str, expected: &ImageLayout, got: &ImageLayout) -> Result<(), ShapeError> {
    expect_same_samples(op, expected, got)?;
    expect_size(op, expected.size(), got)
}

fn expect_size(op: &'static str, expected: [usize; 2], got: &ImageLayout) -> Result<(), ShapeError> {
    expect_equal(op, "height", expected[0], got.size()[0])?;
    expect_equal(op, "width", expected[1], got.size()[1])
}

/// Where image row `y` of a strip starts, its border included: [`ImageLayout::row_pitch`] elements.
#[inline]
fn image_row(layout: &ImageLayout, strip: usize, y: usize) -> usize {
    strip * layout.strip_pitch() + (y + layout.border()) * layout.row_pitch()
}

/// The pixels of a channel within an image row, without its border.
#[inline]
fn pixels(layout: &ImageLayout, channel: usize) -> Range<usize> {
    let start = channel * layout.channel_pitch() + layout.border() * layout.strip();
    start..start + layout.size()[1] * layout.strip()
}

/// The pixels of one channel of an image row, `[x][S]`.
#[inline]
fn row_of<'a>(layout: &ImageLayout, data: &'a [f32], strip: usize, y: usize, channel: usize) -> &'a [f32] {
    &data[image_row(layout, strip, y)..][pixels(layout, channel)]
}

/// Image rows of a task.
struct Rows<'a> {
    layout: ImageLayout,
    /// The whole tensor; `layout.len()` elements.
    data: SharedMut,
    /// Which: `strip · height + y`.
    rows: Range<usize>,
    exclusive: PhantomData<&'a mut [f32]>,
}

/// The number of its strip, its `y`, and all of an image row ([`ImageLayout::row_pitch`] elements).
impl<'a> Iterator for Rows<'a> {
    type Item = (usize, usize, &'a mut [f32]);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next()?;
        let (strip, y) = (row / self.layout.size()[0], row % self.layout.size()[0]);
        let at = self.data.offset(image_row(&self.layout, strip, y)).get();
        // SAFETY: an image row of the tensor, whose length `for_each_band` checked and which it borrows as long as 'a;
        // tasks have disjoint rows, and this one comes once.
        Some((strip, y, unsafe { std::slice::from_raw_parts_mut(at, self.layout.row_pitch()) }))
    }
}

/// Calls `task(number, rows)` for bands of image rows, of about [`ELEMENTS_PER_TASK`] elements each.
///
/// # Panics
/// If `data` is not as long as the layout says.
fn for_each_band(
    cpu: &Cpu,
    layout: &ImageLayout,
    data: &mut [f32],
    operations: u64,
    task: impl Fn(usize, Rows<'_>) + Sync + Send,
) {
    assert_eq!(data.len(), layout.len(), "length of the images");
    let (rows, each) = (rows(layout), rows_per_band(layout));
    let data = SharedMut::new(data);
    cpu.for_each_task(bands(layout), operations, |band| {
        let rows = band * each..((band + 1) * each).min(rows);
        task(band, Rows { layout: *layout, data, rows, exclusive: PhantomData });
    });
}

/// Image rows in all that have pixels.
fn rows(layout: &ImageLayout) -> usize {
    if layout.channels() * layout.size()[1] == 0 { 0 } else { layout.strips() * layout.size()[0] }
}

/// Image rows of a band.
fn rows_per_band(layout: &ImageLayout) -> usize {
    let elements = layout.channels() * layout.size()[1] * layout.strip();
    (ELEMENTS_PER_TASK / elements.max(1)).max(1)
}

/// Bands of [`for_each_band`].
fn bands(layout: &ImageLayout) -> usize {
    rows(layout).div_ceil(rows_per_band(layout))
}

/// Calls `task(strip, channels)` for blocks of channels of a strip, of about [`ELEMENTS_PER_TASK`] elements each.
fn for_each_block(cpu: &Cpu, layout: &ImageLayout, operations: u64, task: impl Fn(usize, Range<usize>) + Sync + Send) {
    let channels = layout.channels();
    let elements = layout.size()[0] * layout.size()[1] * layout.strip();
    let each = (ELEMENTS_PER_TASK / elements.max(1)).max(1);
    let blocks = channels.div_ceil(each);
    cpu.for_each_task(layout.strips() * blocks, operations, |index| {
        let first = index % blocks * each;
        task(index / blocks, first..(first + each).min(channels));
    });
}

/// The instruction set for kernels whose vectors run over the samples of a strip: eight are half a vector of AVX-512, and
/// a processor that has it has AVX2, whose vectors they fill. Then a strip is whole vectors, or a single sample.
fn isa_for(cpu: &Cpu, layout: &ImageLayout) -> IsaName {
    match cpu.isa {
        IsaName::Avx512 if layout.strip() == 8 => IsaName::Avx2,
        isa => isa,
    }
}

/// Reads a vector of samples, or with `ONE` a single sample into all lanes.
#[inline(always)]
fn load<I: Isa, const ONE: bool>(isa: I, from: &[f32]) -> I::V {
    if ONE {
        return isa.splat(from[0]);
    }
    let from = &from[..I::LANES];
    // SAFETY: `from` is LANES long.
    unsafe { isa.load(from.as_ptr()) }
}

/// Writes what [`load`] reads.
#[inline(always)]
fn store<I: Isa, const ONE: bool>(isa: I, to: &mut [f32], value: I::V) {
    if ONE {
        to[0] = first(isa, value);
        return;
    }
    let to = &mut to[..I::LANES];
    // SAFETY: `to` is LANES long.
    unsafe { isa.store(to.as_mut_ptr(), value) };
}

/// The first lane.
#[inline(always)]
fn first<I: Isa>(isa: I, value: I::V) -> f32 {
    const { assert!(I::LANES <= 16) };
    let mut lanes = [0.0; 16];
    // SAFETY: there is room for LANES floats.
    unsafe { isa.store(lanes.as_mut_ptr(), value) };
    lanes[0]
}

#[cfg(test)]
mod testing {
    use proptest::prelude::*;

    use super::super::testing::normals;
    use super::*;

    /// A batch of images, and the layouts of two tensors of them that differ in border.
    #[derive(Debug, Clone, Copy)]
    pub struct Case {
        pub samples: usize,
        pub channels: usize,
        pub size: [usize; 2],
        pub borders: [usize; 2],
        pub strip: usize,
        pub seed: u32,
    }

    impl Case {
        pub fn pixels(&self) -> usize {
            self.size[0] * self.size[1]
        }

        pub fn planes(&self) -> usize {
            self.samples * self.channels
        }

        pub fn len(&self) -> usize {
            self.planes() * self.pixels()
        }

        /// The layout of tensor 0 or 1, with another size.
        pub fn layout_of(&self, tensor: usize, size: [usize; 2]) -> ImageLayout {
            ImageLayout::new(self.samples, self.channels, size, self.borders[tensor], self.strip).unwrap()
        }

        pub fn layout(&self, tensor: usize) -> ImageLayout {
            self.layout_of(tensor, self.size)
        }

        pub fn normals(&self, name: &str, len: usize) -> Vec<f32> {
            normals(&format!("{name} {}", self.seed), len)
        }
    }

    pub fn cases() -> impl Strategy<Value = Case> {
        let shape = (0usize..20, 1usize..6, 1usize..10, 1usize..10);
        let layout = (0usize..3, 0usize..3, prop::sample::select(&ImageLayout::STRIPS));
        (shape, layout, 0u32..1000).prop_map(|((samples, channels, height, width), (a, b, strip), seed)| Case {
            samples,
            channels,
            size: [height, width],
            borders: [a, b],
            strip,
            seed,
        })
    }

    /// Images that make enough work for several tasks and threads, in strips of all kinds.
    pub fn large() -> impl Iterator<Item = Case> {
        ImageLayout::STRIPS.into_iter().map(|strip| Case {
            samples: 37,
            channels: 19,
            size: [23, 17],
            borders: [1, 0],
            strip,
            seed: 7,
        })
    }

    /// NCHW into images.
    pub fn images(layout: ImageLayout, from: &[f32]) -> Images<Cpu> {
        let mut data = Buffer::zeros(layout.len());
        layout.pack(from, &mut data).unwrap();
        Images { layout, data }
    }

    /// Images whose rows hold NaN, padding samples too; the border holds zeros, as it must.
    pub fn poisoned(layout: ImageLayout) -> Images<Cpu> {
        let mut data = Buffer::zeros(layout.len());
        for_each_band(&Cpu::new(1, None).unwrap(), &layout, &mut data, 0, |_, rows| {
            for (_, _, row) in rows {
                (0..layout.channels()).for_each(|c| row[pixels(&layout, c)].fill(f32::NAN));
            }
        });
        Images { layout, data }
    }

    /// The pixels in NCHW, after a check that border and padding samples hold zeros.
    #[track_caller]
    pub fn read(images: &Images<Cpu>) -> Vec<f32> {
        let layout = images.layout;
        let mut pixels = vec![0.0; layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1]];
        layout.unpack(&images.data, &mut pixels).unwrap();
        let mut all = vec![0.0; layout.len()];
        layout.pack(&vec![1.0; pixels.len()], &mut all).unwrap();
        assert!(all.iter().zip(&images.data[..]).all(|(is_pixel, v)| *is_pixel == 1.0 || *v == 0.0), "{layout:?}");
        pixels
    }

    /// Images shorter than their layout says.
    pub fn short(layout: ImageLayout) -> Images<Cpu> {
        Images { layout, data: Buffer::zeros(layout.len() - 1) }
    }
}
