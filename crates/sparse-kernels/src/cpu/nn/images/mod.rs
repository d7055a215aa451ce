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
use crate::backend::Pool;
use crate::backend::check::{Checked, Done};
use crate::cpu::isa::Isa;
use crate::cpu::{Buffer, Cpu, ELEMENTS_PER_TASK, IsaName, SharedMut};
use crate::random::Key;
use crate::{ImageLayout, Images, PoolShape, Strips};

impl ImageNeural for Cpu {
    fn run_pool(&self, _: Checked, pool: Pool, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Done {
        let name = if pool == Pool::Max { "max_pool" } else { "avg_pool" };
        let _timed = self.timed(name, x.data.len() + y.data.len(), 0);
        pool::forward(self, pool, window, x, y)
    }

    fn run_max_pool_grad(
        &self,
        _: Checked,
        window: PoolShape,
        [x, y, dy]: [&Images<Self>; 3],
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Done {
        let _timed = self.timed("max_pool_grad", x.data.len() + y.data.len() + dy.data.len() + 2 * dx.data.len(), 0);
        pool::max_grad(self, window, [x, y, dy], dx, accumulate)
    }

    fn run_avg_pool_grad(
        &self,
        _: Checked,
        window: PoolShape,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Done {
        let _timed = self.timed("avg_pool_grad", dy.data.len() + 2 * dx.data.len(), 0);
        pool::avg_grad(self, window, dy, dx, accumulate)
    }

    fn run_global_avg_pool(&self, _: Checked, x: &Images<Self>, y: &mut Strips<Self>) -> Done {
        let _timed = self.timed("global_avg_pool", x.data.len(), 0);
        global_pool::forward(self, x, y)
    }

    fn run_global_avg_pool_grad(&self, _: Checked, dy: &Strips<Self>, dx: &mut Images<Self>) -> Done {
        let _timed = self.timed("global_avg_pool_grad", dx.data.len(), 0);
        global_pool::backward(self, dy, dx)
    }

    fn run_flatten(&self, _: Checked, x: &Images<Self>, y: &mut Strips<Self>) -> Done {
        let _timed = self.timed("flatten", x.data.len() + y.data.len(), 0);
        flatten::forward(self, x, y)
    }

    fn run_unflatten(&self, _: Checked, dy: &Strips<Self>, dx: &mut Images<Self>) -> Done {
        let _timed = self.timed("unflatten", dy.data.len() + dx.data.len(), 0);
        flatten::backward(self, dy, dx)
    }

    fn run_bias_relu_images(&self, _: Checked, bias: Option<&Buffer>, relu: bool, x: &mut Images<Self>) -> Done {
        let name = if bias.is_some() { "bias_relu_images" } else { "relu_images" };
        let _timed = self.timed(name, 2 * x.data.len(), 0);
        bias_relu::forward(self, bias.map(|bias| &bias[..]), relu, x)
    }

    fn run_bias_relu_images_grad(
        &self,
        _: Checked,
        y: &Images<Self>,
        relu: bool,
        grad: &mut Images<Self>,
        dbias: &mut Buffer,
        accumulate: bool,
    ) -> Done {
        let _timed = self.timed("bias_relu_images_grad", 3 * grad.data.len(), 0);
        bias_relu::backward(self, y, relu, grad, dbias, accumulate)
    }

    fn run_relu_images_grad(&self, _: Checked, y: &Images<Self>, grad: &mut Images<Self>) -> Done {
        let _timed = self.timed("relu_images_grad", 3 * grad.data.len(), 0);
        bias_relu::relu_grad(self, y, grad)
    }

    fn run_add_images(&self, _: Checked, from: &Images<Self>, to: &mut Images<Self>) -> Done {
        let _timed = self.timed("add_images", 3 * to.data.len(), 0);
        add::run(self, from, to)
    }

    fn run_dropout_images(&self, _: Checked, key: Key, rate: f32, x: &mut Images<Self>) -> Done {
        let _timed = self.timed("dropout_images", 2 * x.data.len(), 0);
        dropout::run(self, key, rate, x)
    }
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
    use super::super::testing::BACKENDS;
    use super::*;
    use crate::testing::images as testing;
    pub use crate::testing::images::{cases, large, windows};

    /// NCHW into images.
    pub fn images(layout: ImageLayout, from: &[f32]) -> Images<Cpu> {
        testing::images(&BACKENDS[0], layout, from)
    }

    /// Images whose rows hold NaN, padding samples too; the border holds zeros, as it must.
    pub fn poisoned(layout: ImageLayout) -> Images<Cpu> {
        testing::poisoned(&BACKENDS[0], layout)
    }

    /// The pixels in NCHW, after a check that border and padding samples hold zeros.
    #[track_caller]
    pub fn read(images: &Images<Cpu>) -> Vec<f32> {
        testing::read(&BACKENDS[0], images)
    }

    #[test]
    fn wrong_shapes_are_refused() {
        testing::wrong_shapes_are_refused(&BACKENDS[0]);
        testing::wrong_pools_are_refused(&BACKENDS[0]);
        testing::wrong_moments_are_refused(&BACKENDS[0]);
    }
}
