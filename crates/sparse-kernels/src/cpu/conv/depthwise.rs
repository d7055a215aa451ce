//! Depthwise convolution: every channel is filtered by itself, `W[channel][kh][kw]`, all three passes.
//!
//! ```text
//! for each strip, each block of channels, each band of image rows      (parallel)
//!   for each image row, each channel of the block
//!     for each tile of pixels                                          4 vectors
//!       Y = Σ_taps W[channel][tap] · X[pixel + offset of the tap]      weights in registers
//! ```
//!
//! There are but `2 · taps` operations for each pixel read and written, so memory is what limits these passes. Rows are
//! walked from top to bottom in blocks of as many channels as let the rows that a filter spans stay in L2: of each new row
//! of the output one row of the input comes from memory, in one stream, and the others were read for the row before. What
//! comes next of that row, and of the row being written, is asked for ahead ([`AHEAD`]): the processor's own prefetch, which stops at
//! each page, comes too late. Rows of zeros above and below the image are not read at all.
//!
//! The weight gradient walks the same way with roles exchanged: one accumulator for each tap over a whole row, kept in
//! memory as a vector from row to row, and its lanes summed at the end. What is summed in which order depends on the shape
//! only, never on the number of threads.

use std::ops::Range;

use super::grid::{Grid, backward_grids, isa_for};
use super::wide::{Output, Pointers, Reader, RowPart, Writer, is_half, union};
use crate::cpu::isa::{Isa, Kernel, array_of, dispatch};
use crate::cpu::{Buffer, Cpu, Numbers, SharedMut};
use crate::{ConvShape, ImageLayout, Images};

/// Bytes of the rows that a block of channels has in use at a time: they shall stay in L2.
const BLOCK_BYTES: usize = 512 << 10;

/// Floats that memory is asked for ahead of their use. On a Zen 5 core, of 512 channels of 14 × 14 pixels and 32 samples, a
/// forward pass takes 1.5 ms without, 1.1 ms with 512, 1.0 ms with 2048 to 8192; asking for the input alone 1.4 ms. Where
/// a stride sets pixels apart nothing is asked for: of 56 × 56 pixels that gained a sixth from memory, and cost a half of
/// what the last cache holds.
const AHEAD: usize = 2048;

/// Floats of a cache line.
const LINE: usize = 16;

/// Tasks wanted, that many threads find work.
const TASKS: usize = 16;

/// `y = conv(x, w)`. The caller has checked that layouts and lengths fit the shape.
pub(super) fn forward(cpu: &Cpu, shape: ConvShape, w: &[f32], x: &Images<Cpu>, y: &mut Images<Cpu>) {
    let passes = [Pass::forward(shape, x.layout, y.layout)];
    let layout = y.layout;
    cpu.with_phases(shape, x, |x| filter(cpu, &passes, shape, w, (x, layout), &mut y.data));
}

/// `dx =` the gradient of X for that of Y. The caller has checked that layouts and lengths fit the shape.
pub(super) fn input_grad(cpu: &Cpu, shape: ConvShape, w: &[f32], dy: &Images<Cpu>, dx: &mut Images<Cpu>) {
    let passes = Pass::backward(shape, dx.layout, dy.layout);
    filter(cpu, &passes, shape, w, (dy.data.numbers(), dx.layout), &mut dx.data);
}

/// `dw =` the gradient of W, or with `accumulate` adds it to `dw`. The caller has checked that layouts and lengths fit the
/// shape.
pub(super) fn weight_grad(
    cpu: &Cpu,
    shape: ConvShape,
    dy: &Images<Cpu>,
    x: &Images<Cpu>,
    dw: &mut [f32],
    accumulate: bool,
) {
    let (layout, pass) = (dy.layout, Pass::forward(shape, x.layout, dy.layout));
    let (channels, taps) = (layout.channels(), shape.taps());
    let rows = layout.strips() * layout.size()[0];
    if rows == 0 {
        if !accumulate {
            dw.fill(0.0);
        }
        return;
    }
    let block = pass.channels_of_block(shape, channels);
    let blocks = channels.div_ceil(block);
    let parts = TASKS.div_ceil(blocks).min(rows);
    let isa = isa_for(cpu.isa(), pass.grid, layout.strip());
    // Each task's sums by lanes; of the first part the sums go straight to `dw`, those of the others are added in order.
    let (lanes_len, len) = (block * taps * isa.lanes(), dw.len());
    let mut lanes = cpu.scratch(blocks * parts * lanes_len);
    let mut rest = cpu.scratch(len * (parts - 1));
    let (shared_lanes, shared, others) = (SharedMut::new(&mut lanes), SharedMut::new(dw), SharedMut::new(&mut rest));
    let operations = 2 * shape.dense_multiply_adds(layout.size(), layout.strips() * layout.strip());
    cpu.with_phases(shape, x, |x| {
        cpu.for_each_task(blocks * parts, operations, |task| {
            let (block, part) = (bounds(task / parts, blocks, channels), task % parts);
            let dots = Dots {
                pass: &pass,
                strip: layout.strip(),
                pointers: Pointers::new(is_half(x) || is_half(dy.data.numbers())),
                taps,
                sums: shared_lanes.get().wrapping_add(task * lanes_len),
                dw: if part == 0 { shared.get() } else { others.get().wrapping_add((part - 1) * len) },
                accumulate: accumulate && part == 0,
                channels: block,
                rows: bounds(part, parts, rows),
            };
            let Grid { from, to, .. } = pass.grid;
            let mut readers = [
                Reader::new(cpu, x, &from, from.reach_of(1)),
                Reader::new(cpu, dy.data.numbers(), &to, to.reach_of(1)),
            ];
            dispatch(isa, DotsRows { dots, readers: &mut readers });
            readers.into_iter().for_each(|reader| reader.finish(cpu));
        });
    });
    if parts > 1 {
        for other in rest.chunks_exact(len) {
            dw.iter_mut().zip(other).for_each(|(to, from)| *to += from);
        }
    }
    cpu.give_back(rest);
    cpu.give_back(lanes);
}

/// Part `index` of `parts` nearly equal ones.
fn bounds(index: usize, parts: usize, all: usize) -> Range<usize> {
    index * all / parts..(index + 1) * all / parts
}

/// The taps that some of the output's pixels see.
#[derive(Debug)]
struct Pass {
    grid: Grid,
    /// Of the output, the first row that the pass makes, and from one to the next.
    first_row: usize,
    row_step: usize,
    /// The taps seen: place in a channel's weights, and offset in the input.
    which: Vec<usize>,
    offsets: Vec<usize>,
    /// For each row of the grid.
    rows: Vec<RowTaps>,
}

/// What a row of a grid sees.
#[derive(Debug)]
struct RowTaps {
    /// The taps that meet rows of the image: neighbours, since taps are in order of their rows.
    taps: Range<usize>,
    /// The offset that is furthest down the image: of a row that no earlier one has seen.
    newest: usize,
}

impl Pass {
    fn new(grid: Grid, taps: &[Option<usize>], input: ImageLayout, input_step: usize) -> Self {
        // Of images in phases the pitch differs from the layout's.
        let row_pitch = grid.from.row / input_step;
        let seen = taps.iter().enumerate().filter_map(|(which, offset)| offset.map(|offset| (which, offset)));
        let (which, offsets): (Vec<usize>, Vec<usize>) = seen.unzip();
        let first = (grid.from.origin / row_pitch) as isize - input.border() as isize;
        let rows = (0..grid.size[0]).map(|row| {
            let first = first + (row * input_step) as isize;
            let inside =
                |&offset: &usize| (0..input.size()[0] as isize).contains(&(first + (offset / row_pitch) as isize));
            let start = offsets.iter().position(inside).unwrap_or(0);
            let taps = start..start + offsets[start..].iter().filter(|offset| inside(offset)).count();
            RowTaps { newest: offsets[taps.clone()].iter().copied().max().unwrap_or(0), taps }
        });
        let rows = rows.collect();
        Self { grid, first_row: 0, row_step: 1, which, offsets, rows }
    }

    fn forward(shape: ConvShape, x: ImageLayout, y: ImageLayout) -> Self {
        let (grid, taps) = Grid::forward(shape, x, y);
        Self::new(grid, &taps.into_iter().map(Some).collect::<Vec<_>>(), x, shape.stride()[0])
    }

    fn backward(shape: ConvShape, x: ImageLayout, y: ImageLayout) -> Vec<Self> {
        let grids = backward_grids(shape, x, y).into_iter();
        let pass = |(grid, taps): (Grid, Vec<Option<usize>>)| {
            let first_row = grid.to.origin / x.row_pitch() - x.border();
            Self { first_row, row_step: shape.stride()[0], ..Self::new(grid, &taps, y, 1) }
        };
        grids.map(pass).collect()
    }

    /// Channels of which all rows in use fit into [`BLOCK_BYTES`], but such that all blocks are of about one size.
    fn channels_of_block(&self, shape: ConvShape, channels: usize) -> usize {
        let span = (shape.kernel()[0] - 1) * shape.dilation()[0] + 1;
        let bytes = (span * self.grid.from.channel + self.grid.to.channel) * size_of::<f32>();
        let most = (BLOCK_BYTES / bytes).clamp(1, channels);
        channels.div_ceil(channels.div_ceil(most))
    }

    /// Vectors of `lanes` that a pixel has, or 0 if all of a row is contiguous on both sides or holds single samples.
    #[inline(always)]
    fn run(&self, strip: usize, lanes: usize) -> usize {
        if self.grid.is_contiguous(strip) || strip < lanes { 0 } else { strip / lanes }
    }
}

/// Forward pass and input gradient: all rows of `y` from those of `x`.
fn filter(
    cpu: &Cpu,
    passes: &[Pass],
    shape: ConvShape,
    w: &[f32],
    (x, layout): (Numbers<'_>, ImageLayout),
    y: &mut Buffer,
) {
    let (channels, height, strips) = (layout.channels(), layout.size()[0], layout.strips());
    let Some(pass) = passes.first() else { return };
    let blocks = channels.div_ceil(pass.channels_of_block(shape, channels));
    let bands = TASKS.div_ceil((blocks * strips).max(1)).min(height).max(1);
    let pixels = layout.size().map(|n| n as u64);
    let operations = 2 * pixels[0] * pixels[1] * (channels * shape.taps() * strips * layout.strip()) as u64;
    let y = Output::new(y);
    let is_half = y.is_half() || is_half(x);
    // All passes of an input gradient are contiguous or none is.
    let isa = isa_for(cpu.isa(), pass.grid, layout.strip());
    cpu.for_each_task(strips * blocks * bands, operations, |task| {
        let (strip, block, band) = (task / bands / blocks, task / bands % blocks, task % bands);
        let part = Filter {
            passes,
            lanes: layout.strip(),
            w,
            taps: shape.taps(),
            pointers: Pointers::new(is_half),
            strip,
            channels: bounds(block, blocks, channels),
        };
        let Grid { from, to, .. } = pass.grid;
        let touched = passes.iter().map(|pass| pass.grid.from.image_rows(0, 0));
        let at_once = touched.fold(0..0, union).len();
        let (mut reader, mut writer) = (Reader::new(cpu, x, &from, at_once), Writer::new(cpu, y, &to));
        let rows = bounds(band, bands, height);
        dispatch(isa, FilterRows { part, reader: &mut reader, writer: &mut writer, rows });
        reader.finish(cpu);
        writer.finish(cpu);
    });
}

/// The work of one task of a forward pass or an input gradient.
struct FilterRows<'t, 'a> {
    part: Filter<'a>,
    reader: &'t mut Reader<'a>,
    writer: &'t mut Writer,
    /// Of the output.
    rows: Range<usize>,
}

/// An image row's work.
struct Filter<'a> {
    passes: &'a [Pass],
    lanes: usize,
    w: &'a [f32],
    taps: usize,
    pointers: Pointers,
    strip: usize,
    channels: Range<usize>,
}

/// One channel's part of a row.
#[derive(Clone, Copy)]
struct Row {
    x: *const f32,
    y: *mut f32,
    /// From pixel to pixel.
    x_pitch: usize,
    y_pitch: usize,
    /// Pixels.
    width: usize,
    lanes: usize,
    /// See [`Pass::run`].
    run: usize,
    /// Where the row of the input that no earlier one has seen goes on.
    newest: *const f32,
}

impl Kernel for FilterRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { mut part, reader, writer, rows } = self;
        for row in rows {
            let passes = part.passes.iter().filter(|pass| row % pass.row_step == pass.first_row);
            let Some(first) = passes.clone().next() else { continue };
            let (to, [_, width]) = (first.grid.to, first.grid.size);
            let mut touched = 0..0;
            for pass in passes {
                touched = union(touched, pass.grid.from.image_rows(part.strip, row / pass.row_step));
            }
            part.pointers.x = reader.rows(isa, touched, part.channels.clone());
            // Passes over one row differ in columns; those of one pass are whole.
            let at = [part.strip, row / first.row_step];
            let of_y = RowPart::of(&to, at, part.channels.clone(), width, part.lanes);
            // SAFETY: tasks differ in strip, channels or image row.
            unsafe {
                part.pointers.y = writer.begin(isa, &of_y, &to);
                part.row(isa, row);
                writer.end(isa, &of_y, &to);
            }
        }
    }
}

impl Filter<'_> {
    /// A row of the output.
    #[inline(always)]
    fn row<I: Isa>(&self, isa: I, row: usize) {
        for channel in self.channels.clone() {
            let w = &self.w[channel * self.taps..][..self.taps];
            for pass in self.passes.iter().filter(|pass| row % pass.row_step == pass.first_row) {
                let (from, to, row) = (pass.grid.from, pass.grid.to, row / pass.row_step);
                let RowTaps { taps, newest } = &pass.rows[row];
                let x = self.pointers.x.wrapping_add(from.at(self.strip, row, 0) + channel * from.channel);
                let part = Row {
                    x,
                    y: self.pointers.y.wrapping_add(to.at(self.strip, row, 0) + channel * to.channel),
                    x_pitch: from.pixel,
                    y_pitch: to.pixel,
                    width: pass.grid.size[1],
                    lanes: self.lanes,
                    run: pass.run(self.lanes, I::LANES),
                    newest: x.wrapping_add(newest + AHEAD),
                };
                let (which, offsets) = (&pass.which[taps.clone()], &pass.offsets[taps.clone()]);
                let taps = Listed { w, which, offsets };
                // Numbers of taps, of a whole filter or of its rows in the image, whose weights fit into registers: filters
                // of 3 × 3, and what is left of them with stride 2.
                match which.len() {
                    _ if const { !I::IS_VECTOR } => isa.call(Filtered::<0>(part, taps)),
                    1 => isa.call(Filtered::<1>(part, taps)),
                    2 => isa.call(Filtered::<2>(part, taps)),
                    3 => isa.call(Filtered::<3>(part, taps)),
                    4 => isa.call(Filtered::<4>(part, taps)),
                    6 => isa.call(Filtered::<6>(part, taps)),
                    9 => isa.call(Filtered::<9>(part, taps)),
                    _ => isa.call(Filtered::<0>(part, taps)),
                }
            }
        }
    }
}

/// A row filtered by `N` taps; 0 for any number.
struct Filtered<'a, const N: usize>(Row, Listed<'a>);

impl<const N: usize> Kernel for Filtered<'_, N> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Filtered(row, taps) = self;
        if const { N == 0 } { row.filter(isa, taps) } else { row.filter(isa, Held::<I, N>::new(isa, taps)) }
    }
}

/// The taps of one channel.
trait Taps<I: Isa>: Copy {
    /// Whether tiles of eight vectors pay: weights are read for each tile.
    const IS_WIDE: bool;

    /// `Σ weight · x[offset]` for `P` runs, `pitch` apart, of `V` vectors.
    ///
    /// # Safety
    /// All of these vectors can be read.
    unsafe fn sums<const P: usize, const V: usize>(self, isa: I, x: *const f32, pitch: usize) -> [[I::V; V]; P];
}

/// Few taps, with weights and offsets in registers.
#[derive(Clone, Copy)]
struct Held<I: Isa, const N: usize> {
    weights: [I::V; N],
    offsets: [usize; N],
}

impl<I: Isa, const N: usize> Held<I, N> {
    #[inline(always)]
    fn new(isa: I, Listed { w, which, offsets }: Listed<'_>) -> Self {
        let which: [usize; N] = which.try_into().expect("N taps");
        // A loop, not `map`, whose closure would be a function of its own, without the processor's features.
        let mut weights = [isa.splat(0.0); N];
        for (weight, tap) in weights.iter_mut().zip(which) {
            *weight = isa.splat(w[tap]);
        }
        Self { weights, offsets: offsets.try_into().expect("N taps") }
    }
}

impl<I: Isa, const N: usize> Taps<I> for Held<I, N> {
    const IS_WIDE: bool = false;

    #[inline(always)]
    unsafe fn sums<const P: usize, const V: usize>(self, isa: I, x: *const f32, pitch: usize) -> [[I::V; V]; P] {
        let mut acc = [[isa.splat(0.0); V]; P];
        for (tap, (weight, offset)) in self.weights.into_iter().zip(self.offsets).enumerate() {
            for (p, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: the caller's promise.
                    let x = unsafe { isa.load(x.add(offset + p * pitch + v * I::LANES)) };
                    *acc = if tap == 0 { isa.mul(weight, x) } else { isa.mul_add(weight, x, *acc) };
                }
            }
        }
        acc
    }
}

/// Any number of taps.
#[derive(Clone, Copy)]
struct Listed<'a> {
    w: &'a [f32],
    which: &'a [usize],
    offsets: &'a [usize],
}

impl<I: Isa> Taps<I> for Listed<'_> {
    const IS_WIDE: bool = true;

    #[inline(always)]
    unsafe fn sums<const P: usize, const V: usize>(self, isa: I, x: *const f32, pitch: usize) -> [[I::V; V]; P] {
        let mut acc = [[isa.splat(0.0); V]; P];
        for (k, (&tap, &offset)) in self.which.iter().zip(self.offsets).enumerate() {
            let weight = isa.splat(self.w[tap]);
            for (p, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: the caller's promise.
                    let x = unsafe { isa.load(x.add(offset + p * pitch + v * I::LANES)) };
                    let is_first = const { !I::IS_VECTOR } && k == 0;
                    *acc = if is_first { isa.mul(weight, x) } else { isa.mul_add(weight, x, *acc) };
                }
            }
        }
        acc
    }
}

impl Row {
    #[inline(always)]
    fn filter<I: Isa, T: Taps<I>>(self, isa: I, taps: T) {
        match self.run {
            0 if self.y_pitch == self.lanes => self.contiguous(isa, taps),
            0 => self.scattered(isa, taps),
            1 => self.pixels::<I, 4, 1>(isa, taps),
            2 => self.pixels::<I, 2, 2>(isa, taps),
            _ => self.pixels::<I, 1, 4>(isa, taps),
        }
    }

    /// Tiles of vectors.
    #[inline(always)]
    fn contiguous<I: Isa, T: Taps<I>>(self, isa: I, taps: T) {
        let floats = self.width * self.lanes;
        if T::IS_WIDE && floats >= 8 * I::LANES {
            self.vectors::<I, 8>(isa, taps, floats);
        } else if floats >= 4 * I::LANES {
            self.vectors::<I, 4>(isa, taps, floats);
        } else if floats >= I::LANES {
            self.vectors::<I, 1>(isa, taps, floats);
        } else {
            self.scattered(isa, taps);
        }
    }

    /// Tiles of `V` vectors; the last one ends where the row does, and overlaps the one before.
    #[inline(always)]
    fn vectors<I: Isa, const V: usize>(self, isa: I, taps: impl Taps<I>, floats: usize) {
        let last = floats - V * I::LANES;
        let mut at = 0;
        loop {
            for line in (at..at + V * I::LANES).step_by(LINE) {
                isa.prefetch(self.newest.wrapping_add(line));
                isa.prefetch(self.y.wrapping_add(line + AHEAD));
            }
            // SAFETY: `at` is at most `last`, so these are floats of the row. The caller's layouts hold every pixel of the
            // grid, and every pixel of the input at a tap's offset from one, borders included; tasks differ in strip,
            // channel or image row, so no other task writes these.
            unsafe {
                let [sums] = taps.sums::<1, V>(isa, self.x.add(at), 0);
                for (v, sum) in sums.into_iter().enumerate() {
                    isa.store(self.y.add(at + v * I::LANES), sum);
                }
            }
            if at == last {
                break;
            }
            at = (at + V * I::LANES).min(last);
        }
    }

    /// Tiles of `P` pixels of `V` vectors; the last one ends where the row does, and overlaps the one before.
    #[inline(always)]
    fn pixels<I: Isa, const P: usize, const V: usize>(self, isa: I, taps: impl Taps<I>) {
        let mut at = 0;
        while at < self.width {
            // SAFETY: as for `vectors`.
            unsafe {
                if self.width >= P {
                    at = at.min(self.width - P);
                    self.tile::<I, P, V>(isa, taps, at);
                    at += P;
                } else {
                    self.tile::<I, 1, V>(isa, taps, at);
                    at += 1;
                }
            }
        }
    }

    /// # Safety
    /// The row has `P` pixels from `at` on.
    #[inline(always)]
    unsafe fn tile<I: Isa, const P: usize, const V: usize>(self, isa: I, taps: impl Taps<I>, at: usize) {
        // SAFETY: the caller's promise, and as for `vectors`.
        unsafe {
            let sums = taps.sums::<P, V>(isa, self.x.add(at * self.x_pitch), self.x_pitch);
            for (p, sums) in sums.into_iter().enumerate() {
                for (v, sum) in sums.into_iter().enumerate() {
                    isa.store(self.y.add((at + p) * self.y_pitch + v * I::LANES), sum);
                }
            }
        }
    }

    /// Less than a vector, or single samples whose pixels are apart in the output.
    #[inline(always)]
    fn scattered<I: Isa>(self, isa: I, taps: impl Taps<I>) {
        let floats = self.width * self.lanes;
        let step = if self.lanes == 1 { self.y_pitch } else { 1 };
        for at in (0..floats).step_by(I::LANES) {
            let mut sums = [0.0; 16];
            // SAFETY: as for `vectors`; of the input, the last vector may reach beyond the row, which at most ends two cache
            // lines before the buffer does (`ImageLayout::len`, `Phases::len`). `sums` holds a vector of any instruction
            // set, and only floats that count are written.
            unsafe {
                let [[sum]] = taps.sums::<1, 1>(isa, self.x.add(at), 0);
                isa.store(sums.as_mut_ptr(), sum);
                for (lane, sum) in sums.into_iter().enumerate().take(I::LANES.min(floats - at)) {
                    *self.y.add((at + lane) * step) = sum;
                }
            }
        }
    }
}

/// The work of one task of a weight gradient.
struct DotsRows<'t, 'a> {
    dots: Dots<'a>,
    /// Of X and dY.
    readers: &'t mut [Reader<'a>; 2],
}

/// The sums of a task.
struct Dots<'a> {
    pass: &'a Pass,
    strip: usize,
    /// X and dY.
    pointers: Pointers,
    taps: usize,
    /// Room for a vector for each tap of the channels.
    sums: *mut f32,
    dw: *mut f32,
    accumulate: bool,
    channels: Range<usize>,
    /// Image rows of all strips, one strip's after the other's.
    rows: Range<usize>,
}

/// Most taps that are summed at a time: AVX2 has 16 registers, and nine sums hide the latency of each.
const MOST_DOTS: usize = 9;

impl Kernel for DotsRows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { dots: mut part, readers: [x, dy] } = self;
        let Grid { from, to, size: [height, _] } = part.pass.grid;
        let places = part.channels.len() * part.taps;
        for place in 0..places {
            // SAFETY: `sums` has a vector for each tap of each channel, which no other task uses.
            unsafe { isa.store(part.sums.add(place * I::LANES), isa.splat(0.0)) };
        }
        for row in part.rows.clone() {
            let (strip, row) = (row / height, row % height);
            part.pointers.x = x.rows(isa, from.image_rows(strip, row), part.channels.clone());
            part.pointers.y = dy.rows(isa, to.image_rows(strip, row), part.channels.clone()).cast_mut();
            part.row(isa, strip, row);
        }
        for place in 0..places {
            // SAFETY: as above; tasks of one array of gradients differ in channels.
            unsafe {
                let sum = isa.sum(isa.load(part.sums.add(place * I::LANES)));
                let to = part.dw.add(part.channels.start * part.taps + place);
                *to = if part.accumulate { *to + sum } else { sum };
            }
        }
    }
}

impl Dots<'_> {
    /// Adds what an image row gives.
    #[inline(always)]
    fn row<I: Isa>(&self, isa: I, strip: usize, row: usize) {
        let (from, to) = (self.pass.grid.from, self.pass.grid.to);
        let width = self.pass.grid.size[1];
        let RowTaps { taps, newest } = &self.pass.rows[row];
        let groups = taps.len().div_ceil(MOST_DOTS);
        for (index, channel) in self.channels.clone().enumerate() {
            let x = self.pointers.x.wrapping_add(from.at(strip, row, 0) + channel * from.channel);
            let pixels = Pixels {
                x,
                dy: self.pointers.y.wrapping_add(to.at(strip, row, 0) + channel * to.channel).cast_const(),
                x_pitch: from.pixel,
                dy_pitch: to.pixel,
                width,
                lanes: self.strip,
                run: self.pass.run(self.strip, I::LANES),
                newest: x.wrapping_add(newest + AHEAD),
            };
            for group in 0..groups {
                let group = bounds(group, groups, taps.len());
                let offsets = &self.pass.offsets[taps.start + group.start..taps.start + group.end];
                let place = index * self.taps + taps.start + group.start;
                let sums = self.sums.wrapping_add(place * I::LANES);
                macro_rules! choose {
                        ($($n:literal)*) => {
                            match offsets.len() {
                                $($n => pixels.add::<I, $n>(isa, offsets, sums),)*
                                _ => unreachable!("groups have at most nine taps"),
                            }
                        };
                    }
                choose!(1 2 3 4 5 6 7 8 9);
            }
        }
    }
}

/// One channel's part of a row of dY, and X's pixels that its first tap meets.
#[derive(Clone, Copy)]
struct Pixels {
    x: *const f32,
    dy: *const f32,
    x_pitch: usize,
    dy_pitch: usize,
    width: usize,
    lanes: usize,
    /// As in [`Row`].
    run: usize,
    /// As in [`Row`].
    newest: *const f32,
}

impl Pixels {
    /// Adds `dy · x` at each of `N` offsets to the vectors at `to`.
    #[inline(always)]
    fn add<I: Isa, const N: usize>(self, isa: I, offsets: &[usize], to: *mut f32) {
        let offsets: [usize; N] = offsets.try_into().expect("N taps");
        // SAFETY: all pixels of the row are in dY and, at every tap's offset, in X, see `Row::vectors`; of a last vector
        // that reaches beyond the row, dY counts as zero. `to` has N vectors, of this task.
        unsafe {
            let mut acc: [I::V; N] = array_of(|n| isa.load(to.add(n * I::LANES)));
            match self.run {
                0 => {
                    let floats = self.width * self.lanes;
                    let whole = floats - floats % I::LANES;
                    let mut at = 0;
                    while at < whole {
                        isa.prefetch(self.newest.wrapping_add(at));
                        isa.prefetch(self.dy.wrapping_add(at + AHEAD));
                        self.vector(isa, &offsets, &mut acc, self.x.add(at), self.dy.add(at));
                        at += I::LANES;
                    }
                    if whole < floats {
                        let mut last = [0.0; 16];
                        for (lane, float) in last.iter_mut().enumerate().take(floats - whole) {
                            *float = *self.dy.add(whole + lane);
                        }
                        self.vector(isa, &offsets, &mut acc, self.x.add(whole), last.as_ptr());
                    }
                }
                run => {
                    for pixel in 0..self.width {
                        let (x, dy) = (self.x.add(pixel * self.x_pitch), self.dy.add(pixel * self.dy_pitch));
                        for v in 0..run {
                            self.vector(isa, &offsets, &mut acc, x.add(v * I::LANES), dy.add(v * I::LANES));
                        }
                    }
                }
            }
            for (n, acc) in acc.into_iter().enumerate() {
                isa.store(to.add(n * I::LANES), acc);
            }
        }
    }

    /// # Safety
    /// A vector can be read at `dy`, and at each offset from `x`.
    #[inline(always)]
    unsafe fn vector<I: Isa, const N: usize>(
        self,
        isa: I,
        offsets: &[usize; N],
        acc: &mut [I::V; N],
        x: *const f32,
        dy: *const f32,
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let dy = isa.load(dy);
            for (acc, &offset) in acc.iter_mut().zip(offsets) {
                *acc = isa.mul_add(dy, isa.load(x.add(offset)), *acc);
            }
        }
    }
}
