//! Image rows: where they stand, tasks of them, and vectors of their pixels.

use std::marker::PhantomData;
use std::ops::Range;

use crate::ImageLayout;
use crate::cpu::isa::Isa;
use crate::cpu::{Cpu, ELEMENTS_PER_TASK, IsaName, Shared};

/// Where image row `y` of a strip starts, its border included: [`ImageLayout::row_pitch`] elements.
#[inline]
pub(super) fn image_row(layout: &ImageLayout, strip: usize, y: usize) -> usize {
    strip * layout.strip_pitch() + (y + layout.border()) * layout.row_pitch()
}

/// The pixels of a channel within an image row, without its border.
#[inline]
pub(super) fn pixels(layout: &ImageLayout, channel: usize) -> Range<usize> {
    let start = channel * layout.channel_pitch() + layout.border() * layout.strip();
    start..start + layout.size()[1] * layout.strip()
}

/// The pixels of one channel of an image row, `[x][S]`.
#[inline]
pub(super) fn row_of<'a, T>(layout: &ImageLayout, data: &'a [T], strip: usize, y: usize, channel: usize) -> &'a [T] {
    &data[image_row(layout, strip, y)..][pixels(layout, channel)]
}

/// Image rows of a task.
pub(super) struct Rows<'a, T = f32> {
    layout: ImageLayout,
    /// The whole tensor; `layout.len()` elements.
    data: Shared<T>,
    /// Which: `strip · height + y`.
    rows: Range<usize>,
    exclusive: PhantomData<&'a mut [T]>,
}

/// The number of its strip, its `y`, and all of an image row ([`ImageLayout::row_pitch`] elements).
impl<'a, T> Iterator for Rows<'a, T> {
    type Item = (usize, usize, &'a mut [T]);

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
pub(super) fn for_each_band<T: Send + Sync>(
    cpu: &Cpu,
    layout: &ImageLayout,
    data: &mut [T],
    operations: u64,
    task: impl Fn(usize, Rows<'_, T>) + Sync + Send,
) {
    assert_eq!(data.len(), layout.len(), "length of the images");
    let (rows, each) = (rows(layout), rows_per_band(layout));
    let data = Shared::new(data);
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
pub(super) fn bands(layout: &ImageLayout) -> usize {
    rows(layout).div_ceil(rows_per_band(layout))
}

/// Calls `task(strip, channels)` for blocks of channels of a strip, of about [`ELEMENTS_PER_TASK`] elements each.
pub(super) fn for_each_block(
    cpu: &Cpu,
    layout: &ImageLayout,
    operations: u64,
    task: impl Fn(usize, Range<usize>) + Sync + Send,
) {
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
pub(super) fn isa_for(cpu: &Cpu, layout: &ImageLayout) -> IsaName {
    match cpu.isa {
        IsaName::Avx512 if layout.strip() == 8 => IsaName::Avx2,
        isa => isa,
    }
}

/// Reads a vector of samples, or with `ONE` a single sample into all lanes.
#[inline(always)]
pub(super) fn load<I: Isa, const ONE: bool>(isa: I, from: &[f32]) -> I::V {
    if ONE {
        return isa.splat(from[0]);
    }
    let from = &from[..I::LANES];
    // SAFETY: `from` is LANES long.
    unsafe { isa.load(from.as_ptr()) }
}

/// Writes what [`load`] reads.
#[inline(always)]
pub(super) fn store<I: Isa, const ONE: bool>(isa: I, to: &mut [f32], value: I::V) {
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
