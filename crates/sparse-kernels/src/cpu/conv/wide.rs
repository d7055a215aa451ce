//! Image rows in 16 bits, as kernels on f32 see them.
//!
//! A product uses each number of X tens of times, so widening it in the hot loop would cost more than the loop: on AVX2 two
//! operations on two ports beside each multiply-add. Instead a task widens each image row once, into a window that moves down the
//! image and stays in L2 beside what the kernel works on, and rounds each row of Y when all of its sums are complete. From memory come
//! half of the bytes, and the kernels' loops, and the order of their sums, are those of f32.

use std::ops::Range;

use super::grid::Side;
use crate::cpu::convert::Convert;
use crate::cpu::isa::{Isa, Kernel};
use crate::cpu::{Buffer, Cpu, Numbers, NumbersMut, Shared};

/// As many numbers as a vector may reach beyond a row.
const SLACK: usize = 32;

/// Image rows of a task that works on 16 bits, at least, if there are as many: the rows that two tasks share are widened twice.
pub(super) const LEAST_ROWS: usize = 8;

/// Images that a task reads.
pub(super) struct Reader<'a> {
    images: Numbers<'a>,
    image_row: usize,
    channel: usize,
    window: Buffer,
    /// Most image rows of the window, and those that it holds, of these channels.
    capacity: usize,
    held: Range<usize>,
    channels: Range<usize>,
}

/// Image rows that a window has room for: more than those that are wanted at most, so that they are seldom moved; but half of L2 is
/// for others.
fn capacity(cpu: &Cpu, side: &Side, most: usize) -> usize {
    let room = cpu.l2_bytes() / 2 / (side.image_row * size_of::<f32>()).max(1);
    most + room.saturating_sub(most).clamp(1, 12)
}

/// Floats of a window for so many image rows.
#[cfg(feature = "nn")]
pub(super) fn window_len(cpu: &Cpu, side: &Side, most: usize) -> usize {
    capacity(cpu, side, most) * side.image_row + SLACK
}

impl<'a> Reader<'a> {
    /// Images in which a kernel's pixels stand as `side` says, and of which it wants at most so many image rows at a time.
    pub fn new(cpu: &Cpu, images: Numbers<'a>, side: &Side, most: usize) -> Self {
        let (image_row, channel) = (side.image_row, side.channel);
        let capacity = capacity(cpu, side, most);
        let window = match images {
            Numbers::F32(_) => Buffer::default(),
            Numbers::Bf16(_) => cpu.tile(capacity * image_row + SLACK),
        };
        Self { images, image_row, channel, window, capacity, held: 0..0, channels: 0..0 }
    }

    /// What an address in images of f32 is relative to, where these channels of these image rows, counted over all strips with their
    /// borders, may be read, and behind each row as much as a vector may reach beyond it.
    #[inline(always)]
    pub fn rows<I: Isa>(&mut self, isa: I, rows: Range<usize>, channels: Range<usize>) -> *const f32 {
        let from = match self.images {
            Numbers::F32(images) => return images.as_ptr(),
            Numbers::Bf16(images) => images,
        };
        let rows = rows.start..rows.end.min(from.len() / self.image_row.max(1));
        if rows.is_empty() || channels.is_empty() {
            return std::ptr::null();
        }
        if channels != self.channels || rows.start < self.held.start || rows.start > self.held.end {
            (self.held, self.channels) = (rows.start..rows.start, channels);
        }
        debug_assert!(rows.len() <= self.capacity, "{rows:?} in a window of {}", self.capacity);
        if rows.end - self.held.start > self.capacity {
            // What is still wanted moves to the start.
            let first = (rows.start - self.held.start) * self.image_row;
            let end = (self.held.end - self.held.start) * self.image_row;
            self.window.copy_within(first..end, 0);
            self.held.start = rows.start;
        }
        let part = self.channels.start * self.channel..self.channels.end * self.channel;
        for row in self.held.end..rows.end {
            let to = &mut self.window[(row - self.held.start) * self.image_row..];
            Convert { from: &from[row * self.image_row..][part.clone()], to: &mut to[part.clone()] }.eval(isa);
            // A vector may reach beyond, where numbers meet zeros: they must be numbers.
            to[part.end..part.end + SLACK].fill(0.0);
        }
        self.held.end = self.held.end.max(rows.end);
        self.window.as_ptr().wrapping_sub(self.held.start * self.image_row)
    }

    /// Gives the window back.
    pub fn finish(self, cpu: &Cpu) {
        cpu.give_tile(self.window);
    }
}

/// The images, as the kernels' addresses count.
#[derive(Clone, Copy)]
pub(super) struct Pointers {
    pub x: *const f32,
    pub y: *mut f32,
    /// Whether the addresses are those of memory, so that what is wanted next can be fetched ahead.
    pub is_memory: bool,
}

impl Pointers {
    /// Of images that are still to be read; `is_half` if some are in 16 bits.
    pub fn new(is_half: bool) -> Self {
        Self { x: std::ptr::null(), y: std::ptr::null_mut(), is_memory: !is_half }
    }
}

/// Images that tasks write.
#[derive(Clone, Copy)]
pub(super) enum Output {
    F32(Shared<f32>),
    Bf16(Shared<half::bf16>),
}

impl Output {
    pub fn new(images: &mut Buffer) -> Self {
        match images.numbers_mut() {
            NumbersMut::F32(images) => Self::F32(Shared::new(images)),
            NumbersMut::Bf16(images) => Self::Bf16(Shared::new(images)),
        }
    }

    /// Whether they are in 16 bits.
    pub fn is_half(self) -> bool {
        matches!(self, Self::Bf16(_))
    }
}

/// An image row that a task is writing.
pub(super) struct Writer {
    images: Output,
    row: Buffer,
}

/// Where a kernel writes a row of pixels.
#[derive(Clone)]
pub(super) struct RowPart {
    /// The image row, counted over all strips with their borders.
    pub row: usize,
    pub channels: Range<usize>,
    /// Numbers from the start of a channel's row to its first pixel, and how many these are; none if the pixels are apart.
    pub pixels: Option<Range<usize>>,
}

impl RowPart {
    /// Row `row` of the grid whose side this is, in a strip, `width` pixels of `samples` numbers.
    pub fn of(side: &Side, [strip, row]: [usize; 2], channels: Range<usize>, width: usize, samples: usize) -> Self {
        let (at, is_whole) = (side.at(strip, row, 0), side.pixel == samples);
        let first = at % side.image_row.max(1);
        let pixels = is_whole.then_some(first..first + width * samples);
        Self { row: at / side.image_row.max(1), channels, pixels }
    }
}

impl Writer {
    pub fn new(cpu: &Cpu, images: Output, side: &Side) -> Self {
        let row = if images.is_half() { cpu.tile(side.image_row + SLACK) } else { Buffer::default() };
        Self { images, row }
    }

    /// What an address in images of f32 is relative to, where the part may be read and written.
    ///
    /// # Safety
    /// The part is one of the images that no other task touches meanwhile.
    #[inline(always)]
    pub unsafe fn begin<I: Isa>(&mut self, isa: I, part: &RowPart, side: &Side) -> *mut f32 {
        let images = match self.images {
            Output::F32(images) => return images.get(),
            Output::Bf16(images) => images.get(),
        };
        if part.pixels.is_none() {
            // What stands between the pixels stays.
            let all = part.channels.start * side.channel..part.channels.end * side.channel;
            // SAFETY: the caller's promise.
            let from = unsafe {
                std::slice::from_raw_parts(images.add(part.row * side.image_row + all.start).cast_const(), all.len())
            };
            Convert { from, to: &mut self.row[all] }.eval(isa);
        }
        self.row.as_mut_ptr().wrapping_sub(part.row * side.image_row)
    }

    /// Rounds what was written.
    ///
    /// # Safety
    /// As [`Writer::begin`].
    #[inline(always)]
    pub unsafe fn end<I: Isa>(&mut self, isa: I, part: &RowPart, side: &Side) {
        let Output::Bf16(images) = self.images else { return };
        let start = images.get().wrapping_add(part.row * side.image_row);
        let runs = match &part.pixels {
            None => part.channels.start..part.channels.start + 1,
            Some(_) => part.channels.clone(),
        };
        // One place, lest the rounding become a function of its own, without the instruction set's features.
        for channel in runs {
            let numbers = match &part.pixels {
                None => part.channels.start * side.channel..part.channels.end * side.channel,
                Some(pixels) => channel * side.channel + pixels.start..channel * side.channel + pixels.end,
            };
            // SAFETY: the caller's promise.
            let to = unsafe { std::slice::from_raw_parts_mut(start.add(numbers.start), numbers.len()) };
            Convert { from: &self.row[numbers], to }.eval(isa);
        }
    }

    /// Gives the row back.
    pub fn finish(self, cpu: &Cpu) {
        cpu.give_tile(self.row);
    }
}

impl Side {
    /// The image rows, counted over all strips with their borders, that row `row` of the grid touches in a strip.
    pub fn image_rows(&self, strip: usize, row: usize) -> Range<usize> {
        let first = self.at(strip, row, 0) / self.image_row.max(1);
        first..first + self.reach / self.image_row.max(1) + 1
    }

    /// Image rows that `rows` rows of the grid, one after the other, touch at most.
    pub fn reach_of(&self, rows: usize) -> usize {
        let image_row = self.image_row.max(1);
        self.reach / image_row + 1 + rows.saturating_sub(1) * (self.row / image_row)
    }

    /// Channels of which an image row has pixels.
    pub fn channels(&self) -> usize {
        self.image_row.checked_div(self.channel).unwrap_or(0)
    }
}

/// The smallest range that holds both.
pub(super) fn union(a: Range<usize>, b: Range<usize>) -> Range<usize> {
    if a.is_empty() { b } else { a.start.min(b.start)..a.end.max(b.end) }
}

/// Whether numbers are in 16 bits.
pub(super) fn is_half(images: Numbers<'_>) -> bool {
    matches!(images, Numbers::Bf16(_))
}

/// How many numbers there are.
pub(super) fn len(images: Numbers<'_>) -> usize {
    match images {
        Numbers::F32(images) => images.len(),
        Numbers::Bf16(images) => images.len(),
    }
}
