//! Batch normalisation of images: four kinds of passes over memory, two forward and two backward.
//!
//! ```text
//! moments    reads x (+ addend, writes x)      Σ (x − k), Σ (x − k)² of each channel, k being its first pixel
//! normalize  reads x (+ residual), writes y    y = act(a · x + b + residual)
//! sums       reads x, dy (+ y, writes dy)      g = dy where the mask is open;  Σ g · x̂, Σ g
//! gradient   reads x, dy, writes dy or output  dx = a · g + (p · x + q)
//! ```
//!
//! An image row holds a row of pixels of every channel, so a task (some image rows of one strip) keeps a vector of sums for
//! every channel in memory that stays in L1, and adds up its lanes once, at the end. Tasks are a fixed grid, and their sums
//! are added in f64 in their order.

use std::ops::Range;

use half::bf16;

use crate::backend::check::{Checked, Done};
use crate::backend::{Accumulate, Activation, BatchNorm, BatchNormOptions, ReluMask};
use crate::cpu::isa::{Isa, Kernel, Number, dispatch};
use crate::cpu::{Buffer, Cpu, Shared, SharedMut};
use crate::error::expect_equal;
use crate::{BackendError, ImageLayout, Images, Precision};

/// Elements that one task passes over.
const ELEMENTS_PER_TASK: usize = 1 << 16;
/// Lanes of the widest vector.
const MOST_LANES: usize = 16;

impl BatchNorm for Cpu {
    const TAKES_16_BITS: bool = true;

    fn run_batch_moments(
        &self,
        _: Checked,
        options: BatchNormOptions,
        addend: Option<&Images<Self>>,
        x: &mut Images<Self>,
        running: &mut Buffer,
        moments: &mut Buffer,
    ) -> Done {
        let _timed = self.timed("batch_moments", x.data.words(), 0);
        match stored_alike("batch_moments", [&x.data].into_iter().chain(addend.map(|addend| &addend.data)))? {
            Precision::F32 => self.moments::<f32>(options, addend, x, running, moments),
            Precision::Bf16 => self.moments::<bf16>(options, addend, x, running, moments),
        }
        Ok(())
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
        let _timed = self.timed("batch_normalize", 2 * x.data.words(), 0);
        let lines = self.lines(affine, moments);
        let operands = [&x.data, &y.data].into_iter().chain(residual.map(|residual| &residual.data));
        match stored_alike("batch_normalize", operands)? {
            Precision::F32 => self.normalize::<f32>(&lines, residual, activation, x, y),
            Precision::Bf16 => self.normalize::<bf16>(&lines, residual, activation, x, y),
        }
        self.give_back(lines);
        Ok(())
    }

    fn run_running_moments(
        &self,
        _: Checked,
        options: BatchNormOptions,
        running: &Buffer,
        moments: &mut Buffer,
    ) -> Done {
        let channels = running.len() / 2;
        moments.copy_from_slice(running);
        for moment in &mut moments[channels..] {
            *moment = (1.0 / (f64::from(*moment) + f64::from(options.epsilon)).sqrt()) as f32;
        }
        Ok(())
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
        let _timed = self.timed("batch_norm_grad_sums", 2 * x.data.words(), 0);
        let lines = self.lines(affine, moments);
        let masked = if let ReluMask::Output(_, y) = &mask { Some(&y.data) } else { None };
        let found = match stored_alike("batch_norm_grad_sums", [&x.data, &dy.data].into_iter().chain(masked))? {
            Precision::F32 => self.grad_sums::<f32>([&lines, moments], mask, x, dy),
            Precision::Bf16 => self.grad_sums::<bf16>([&lines, moments], mask, x, dy),
        };
        for (i, sum) in sums.iter_mut().enumerate() {
            *sum = found.total(i) as f32;
        }
        self.give_back(found.partial);
        self.give_back(lines);
        Ok(())
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
        let _timed = self.timed("batch_norm_grad", 3 * x.data.words(), 0);
        let channels = x.layout.channels();
        let n = count(&x.layout);
        let written = output.as_ref().map(|(output, _)| &output.data);
        let precision = stored_alike("batch_norm_grad", [&x.data, &dy.data].into_iter().chain(written))?;
        let lines = self.lines(affine, moments);
        // dx = a · (g − Σg / n − (x − μ) · r · Σ(g · x̂) / n), a being γ · r: a · g + (p · x + q).
        let mut slopes = self.scratch(2 * channels);
        for channel in 0..channels {
            let [mean, inverse] = [moments[channel], moments[channels + channel]].map(f64::from);
            let a = f64::from(lines[channel]);
            let p = -a * inverse * f64::from(sums[channel]) / n;
            slopes[channel] = p as f32;
            slopes[channels + channel] = (-a * f64::from(sums[channels + channel]) / n - p * mean) as f32;
        }
        match precision {
            Precision::F32 => self.norm_grad::<f32>([&lines, &slopes], activation, x, dy, output),
            Precision::Bf16 => self.norm_grad::<bf16>([&lines, &slopes], activation, x, dy, output),
        }
        self.give_back(slopes);
        self.give_back(lines);
        Ok(())
    }
}

impl Cpu {
    /// See [`BatchNorm::batch_moments`].
    fn moments<N: Number>(
        &self,
        options: BatchNormOptions,
        addend: Option<&Images<Self>>,
        x: &mut Images<Self>,
        running: &mut Buffer,
        moments: &mut Buffer,
    ) {
        let layout = x.layout;
        let channels = layout.channels();
        let n = count(&layout);
        // Sums of differences to a pixel of the channel: those of the numbers themselves cancel if the mean is large.
        let mut pivots = self.scratch(channels);
        let first = |images: &Images<Self>, channel| N::of(&images.data)[images.layout.index(0, channel, [0, 0])];
        for (channel, pivot) in pivots.iter_mut().enumerate() {
            let addend = addend.map_or(0.0, |addend| first(addend, channel).widen());
            *pivot = N::round(first(x, channel).widen() + addend).widen();
        }
        let (addend, x, pivot) = (addend.map(Operand::<N>::read), Operand::<N>::write(x), &pivots[..]);
        let sums =
            self.reduce(&layout, |rows, sums| dispatch(self.isa, Moments { rows, addend, x, pivots: pivot, sums }));
        let momentum = f64::from(options.momentum);
        for channel in 0..channels {
            let offset = sums.total(channel) / n;
            let mean = f64::from(pivots[channel]) + offset;
            let variance = (sums.total(channels + channel) / n - offset * offset).max(0.0);
            moments[channel] = mean as f32;
            moments[channels + channel] = (1.0 / (variance + f64::from(options.epsilon)).sqrt()) as f32;
            // Of one number there is no unbiased variance.
            let unbiased = variance * n / (n - 1.0).max(1.0);
            for (i, new) in [(channel, mean), (channels + channel, unbiased)] {
                running[i] = ((1.0 - momentum) * f64::from(running[i]) + momentum * new) as f32;
            }
        }
        self.give_back(sums.partial);
        self.give_back(pivots);
    }

    /// See [`BatchNorm::batch_normalize`].
    fn normalize<N: Number>(
        &self,
        lines: &[f32],
        residual: Option<&Images<Self>>,
        activation: Activation,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) {
        let layout = x.layout;
        let residual = residual.map(Operand::<N>::read);
        let (x, y) = (Operand::<N>::read(x), Operand::<N>::write(y));
        self.each_band(&layout, |_, rows| {
            dispatch(self.isa, Normalize { rows, lines, residual, activation, x, y });
        });
    }

    /// See [`BatchNorm::batch_norm_grad_sums`].
    fn grad_sums<N: Number>(
        &self,
        [lines, moments]: [&[f32]; 2],
        mask: ReluMask<'_, Self>,
        x: &Images<Self>,
        dy: &mut Images<Self>,
    ) -> Sums {
        let layout = x.layout;
        let mask = match mask {
            ReluMask::None => Mask::None,
            ReluMask::Recomputed(activation) => Mask::Recomputed(activation),
            ReluMask::Output(activation, y) => Mask::Output(activation, Operand::<N>::read(y)),
        };
        let (x, dy) = (Operand::<N>::read(x), Operand::<N>::write(dy));
        self.reduce(&layout, |rows, sums| {
            dispatch(self.isa, GradSums { rows, lines, moments, mask, x, dy, sums });
        })
    }

    /// See [`BatchNorm::batch_norm_grad`].
    fn norm_grad<N: Number>(
        &self,
        [lines, slopes]: [&[f32]; 2],
        activation: Activation,
        x: &Images<Self>,
        dy: &mut Images<Self>,
        output: Option<(&mut Images<Self>, Accumulate)>,
    ) {
        let layout = x.layout;
        let output = output.map(|(images, accumulate)| (Operand::<N>::write(images), accumulate == Accumulate::Yes));
        let (x, dy) = (Operand::<N>::read(x), Operand::<N>::write(dy));
        self.each_band(&layout, |_, rows| {
            dispatch(self.isa, Gradient { rows, lines, slopes, activation, x, dy, output });
        });
    }
}

/// How all operands are stored.
fn stored_alike<'a>(
    op: &'static str,
    mut operands: impl Iterator<Item = &'a Buffer>,
) -> Result<Precision, BackendError> {
    let first = operands.next().map_or(Precision::F32, Buffer::precision);
    operands
        .try_for_each(|operand| expect_equal(op, "bytes of a number", first.bytes(), operand.precision().bytes()))?;
    Ok(first)
}

/// Pixels of a channel, over all samples.
fn count(layout: &ImageLayout) -> f64 {
    (layout.samples() * layout.size()[0] * layout.size()[1]) as f64
}

/// Image rows of a strip, of which a task passes over some.
#[derive(Clone)]
struct Rows {
    strip: usize,
    rows: Range<usize>,
    channels: usize,
    /// Elements of one channel's row, and those of one pixel.
    len: usize,
    samples: usize,
    /// Samples of the strip that count.
    valid: usize,
}

impl Rows {
    fn is_whole(&self) -> bool {
        self.valid == self.samples
    }

    /// Calls `f(image row, channel)` in the order of memory.
    #[inline(always)]
    fn each(&self, mut f: impl FnMut(usize, usize)) {
        for y in self.rows.clone() {
            for channel in 0..self.channels {
                f(y, channel);
            }
        }
    }
}

/// Images whose rows tasks read or, each its own, write.
#[derive(Clone, Copy)]
struct Operand<N> {
    data: Shared<N>,
    /// Elements before the first pixel, and from a strip, an image row and a channel to the next.
    origin: usize,
    strip_pitch: usize,
    row_pitch: usize,
    channel_pitch: usize,
}

impl<N: Number> Operand<N> {
    fn new(layout: &ImageLayout, data: Shared<N>) -> Self {
        let (row_pitch, channel_pitch) = (layout.row_pitch(), layout.channel_pitch());
        let origin = layout.border() * (row_pitch + layout.strip());
        Self { data, origin, strip_pitch: layout.strip_pitch(), row_pitch, channel_pitch }
    }

    /// Images that no task writes.
    fn read(images: &Images<Cpu>) -> Self {
        Self::new(&images.layout, Shared::reading(N::of(&images.data)))
    }

    fn write(images: &mut Images<Cpu>) -> Self {
        Self::new(&images.layout, Shared::new(N::of_mut(&mut images.data)))
    }

    /// A channel's row of pixels.
    #[inline(always)]
    fn at(&self, rows: &Rows, y: usize, channel: usize) -> *mut N {
        let at = self.origin + rows.strip * self.strip_pitch + y * self.row_pitch + channel * self.channel_pitch;
        self.data.get().wrapping_add(at)
    }
}

/// Sums of all tasks: `sums` of each, one after the other.
struct Sums {
    partial: Buffer,
    sums: usize,
}

impl Sums {
    /// One of them over all tasks.
    fn total(&self, index: usize) -> f64 {
        self.partial[index..].iter().step_by(self.sums).map(|&sum| f64::from(sum)).sum()
    }
}

impl Cpu {
    /// Calls `task(index, rows)` for bands of image rows: a fixed grid.
    fn each_band(&self, layout: &ImageLayout, task: impl Fn(usize, Rows) + Sync + Send) {
        let ([height, width], samples) = (layout.size(), layout.strip());
        let per_task = (ELEMENTS_PER_TASK / layout.row_pitch().max(1)).max(1);
        let bands = height.div_ceil(per_task);
        self.for_each_task(bands * layout.strips(), 8 * layout.len() as u64, |index| {
            let (strip, first) = (index / bands, index % bands * per_task);
            let rows = first..(first + per_task).min(height);
            let (channels, valid) = (layout.channels(), layout.samples_of(strip));
            task(index, Rows { strip, rows, channels, len: width * samples, samples, valid });
        });
    }

    /// Two sums a channel over all pixels: `task` adds to `[2 · channel][lane]`, zero at first.
    fn reduce(&self, layout: &ImageLayout, task: impl Fn(Rows, &mut [f32]) + Sync + Send) -> Sums {
        let sums = 2 * layout.channels();
        let per_task = (ELEMENTS_PER_TASK / layout.row_pitch().max(1)).max(1);
        let tasks = layout.size()[0].div_ceil(per_task) * layout.strips();
        let mut partial = self.scratch(tasks * sums);
        let shared = SharedMut::new(&mut partial);
        self.each_band(layout, |index, rows| {
            let mut lanes = self.scratch(sums * MOST_LANES);
            lanes.fill(0.0);
            task(rows, &mut lanes);
            // SAFETY: each task has its own `sums` elements of `partial`.
            let to = unsafe { std::slice::from_raw_parts_mut(shared.get().add(index * sums), sums) };
            for (to, lanes) in to.iter_mut().zip(lanes.chunks_exact(MOST_LANES)) {
                *to = lanes.iter().sum();
            }
            self.give_back(lanes);
        });
        Sums { partial, sums }
    }

    /// `[a; C] ‖ [b; C]` of the line `a · x + b` that normalises a channel.
    fn lines(&self, affine: &[f32], moments: &[f32]) -> Buffer {
        let channels = affine.len() / 2;
        let mut lines = self.scratch(2 * channels);
        for channel in 0..channels {
            let [mean, inverse] = [moments[channel], moments[channels + channel]].map(f64::from);
            let a = f64::from(affine[channel]) * inverse;
            lines[channel] = a as f32;
            lines[channels + channel] = (f64::from(affine[channels + channel]) - a * mean) as f32;
        }
        lines
    }
}

/// Calls `f(element, lanes)` for the vectors of a row: whole ones, then what is left.
#[inline(always)]
fn vectors<I: Isa>(len: usize, mut f: impl FnMut(usize, usize)) {
    // One call: with two, `f` is a function without the instruction set's features.
    for i in (0..len).step_by(I::LANES) {
        f(i, I::LANES.min(len - i));
    }
}

/// Writes the first `lanes` of a vector.
///
/// # Safety
/// `to` is valid for writing so many floats.
#[inline(always)]
unsafe fn store<I: Isa, N: Number>(isa: I, to: *mut N, value: I::V, lanes: usize) {
    if lanes == I::LANES {
        // SAFETY: the caller's promise.
        unsafe { N::store(isa, to, value) };
    } else {
        let mut all = [0.0f32; MOST_LANES];
        // SAFETY: a vector has at most `MOST_LANES` lanes, of which the caller's place has room for `lanes`.
        unsafe {
            isa.store(all.as_mut_ptr(), value);
            for (i, &number) in all.iter().enumerate().take(lanes) {
                to.add(i).write(N::round(number));
            }
        }
    }
}

/// Sets the samples that do not count to zero in a row.
///
/// # Safety
/// `row` is valid for writing a row.
#[inline(always)]
unsafe fn clear_padding<N: Number>(rows: &Rows, row: *mut N) {
    for pixel in (0..rows.len).step_by(rows.samples) {
        for sample in rows.valid..rows.samples {
            // SAFETY: inside the row.
            unsafe { row.add(pixel + sample).write(N::round(0.0)) };
        }
    }
}

/// A vector behind the activation. The second operand of a maximum comes through if either is NaN: NaN is not hidden.
#[inline(always)]
fn activate<I: Isa>(isa: I, activation: Activation, value: I::V) -> I::V {
    let zero = isa.splat(0.0);
    match activation {
        Activation::None => value,
        Activation::Relu => isa.max(zero, value),
        Activation::Relu6 => {
            let value = isa.max(zero, value);
            // The minimum with 6 is the opposite of a maximum of opposites.
            isa.sub(zero, isa.max(isa.splat(-6.0), isa.sub(zero, value)))
        }
    }
}

/// `g` where the activation is not flat at `value`, which may stand before or behind it; else 0.
#[inline(always)]
fn let_through<I: Isa>(isa: I, activation: Activation, value: I::V, g: I::V) -> I::V {
    match activation {
        Activation::None => g,
        Activation::Relu => isa.where_positive(value, g),
        Activation::Relu6 => isa.where_positive(isa.sub(isa.splat(6.0), value), isa.where_positive(value, g)),
    }
}

struct Moments<'a, N> {
    rows: Rows,
    addend: Option<Operand<N>>,
    x: Operand<N>,
    pivots: &'a [f32],
    sums: &'a mut [f32],
}

impl<N: Number> Kernel for Moments<'_, N> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { rows, addend, x, pivots, sums } = self;
        let (first, second) = sums.split_at_mut(rows.channels * MOST_LANES);
        rows.each(|y, channel| {
            let at = x.at(&rows, y, channel);
            let sums = [&mut first[channel * MOST_LANES..], &mut second[channel * MOST_LANES..]];
            let [sum, square] = sums.map(|s| s.first_chunk_mut::<MOST_LANES>().expect("one chunk a channel"));
            if let Some(addend) = addend {
                let from = addend.at(&rows, y, channel).cast_const();
                vectors::<I>(rows.len, |i, lanes| {
                    // SAFETY: rows of both images; behind a buffer's last row a vector may still be read, see `ImageLayout`.
                    unsafe {
                        store(isa, at.add(i), isa.add(N::load(isa, at.add(i)), N::load(isa, from.add(i))), lanes)
                    };
                });
            }
            if rows.is_whole() {
                let pivot = isa.splat(pivots[channel]);
                // SAFETY: the chunks hold a vector, and the row is one of x.
                unsafe {
                    let (mut s, mut q) = (isa.load(sum.as_ptr()), isa.load(square.as_ptr()));
                    vectors::<I>(rows.len, |i, lanes| {
                        let difference = isa.sub(N::load(isa, at.add(i)), pivot);
                        let difference = if lanes == I::LANES { difference } else { isa.keep_first(difference, lanes) };
                        s = isa.add(s, difference);
                        q = isa.mul_add(difference, difference, q);
                    });
                    isa.store(sum.as_mut_ptr(), s);
                    isa.store(square.as_mut_ptr(), q);
                }
            } else {
                for i in (0..rows.len).filter(|i| i % rows.samples < rows.valid) {
                    // SAFETY: inside the row.
                    let difference = unsafe { *at.add(i) }.widen() - pivots[channel];
                    sum[i % MOST_LANES] += difference;
                    square[i % MOST_LANES] += difference * difference;
                }
            }
        });
    }
}

struct Normalize<'a, N> {
    rows: Rows,
    lines: &'a [f32],
    residual: Option<Operand<N>>,
    activation: Activation,
    x: Operand<N>,
    y: Operand<N>,
}

impl<N: Number> Kernel for Normalize<'_, N> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { rows, lines, residual, activation, x, y: output } = self;
        rows.each(|y, channel| {
            let (from, to) = (x.at(&rows, y, channel).cast_const(), output.at(&rows, y, channel));
            let (a, b) = (isa.splat(lines[channel]), isa.splat(lines[rows.channels + channel]));
            match residual {
                Some(residual) => {
                    let residual = residual.at(&rows, y, channel).cast_const();
                    vectors::<I>(rows.len, |i, lanes| {
                        // SAFETY: rows of the images; a vector may be read behind the last one, see `ImageLayout`.
                        unsafe {
                            let value =
                                isa.mul_add(N::load(isa, from.add(i)), a, isa.add(b, N::load(isa, residual.add(i))));
                            store(isa, to.add(i), activate(isa, activation, value), lanes);
                        }
                    });
                }
                None => vectors::<I>(rows.len, |i, lanes| {
                    // SAFETY: as above.
                    unsafe {
                        let value = isa.mul_add(N::load(isa, from.add(i)), a, b);
                        store(isa, to.add(i), activate(isa, activation, value), lanes);
                    }
                }),
            }
            if !rows.is_whole() {
                // SAFETY: a row of y, which is this task's.
                unsafe { clear_padding(&rows, to) };
            }
        });
    }
}

/// [`ReluMask`] for tasks.
#[derive(Clone, Copy)]
enum Mask<N> {
    None,
    Recomputed(Activation),
    Output(Activation, Operand<N>),
}

struct GradSums<'a, N> {
    rows: Rows,
    lines: &'a [f32],
    moments: &'a [f32],
    mask: Mask<N>,
    x: Operand<N>,
    dy: Operand<N>,
    sums: &'a mut [f32],
}

impl<N: Number> Kernel for GradSums<'_, N> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { rows, lines, moments, mask, x, dy, sums } = self;
        let (scales, shifts) = sums.split_at_mut(rows.channels * MOST_LANES);
        rows.each(|y, channel| {
            let (x, dy) = (x.at(&rows, y, channel).cast_const(), dy.at(&rows, y, channel));
            let (a, b) = (isa.splat(lines[channel]), isa.splat(lines[rows.channels + channel]));
            let (mean, inverse) = (isa.splat(moments[channel]), isa.splat(moments[rows.channels + channel]));
            let sums = [&mut scales[channel * MOST_LANES..], &mut shifts[channel * MOST_LANES..]];
            let [scale, shift] = sums.map(|s| s.first_chunk_mut::<MOST_LANES>().expect("one chunk a channel"));
            // SAFETY: the chunks hold a vector; the rest are rows of the images, behind the last of which a vector may be
            // read, see `ImageLayout`. Padding samples of dy are zero, and add nothing.
            unsafe {
                let (mut s, mut t) = (isa.load(scale.as_ptr()), isa.load(shift.as_ptr()));
                // A closure that is called at three places is compiled without the features of the instruction set.
                macro_rules! add {
                    ($lanes:expr, $x:expr, $g:expr) => {
                        let (x, g) = ($x, if $lanes == I::LANES { $g } else { isa.keep_first($g, $lanes) });
                        s = isa.mul_add(g, isa.mul(isa.sub(x, mean), inverse), s);
                        t = isa.add(t, g);
                    };
                }
                match mask {
                    Mask::None => vectors::<I>(rows.len, |i, lanes| {
                        let (x, g) = (N::load(isa, x.add(i)), N::load(isa, dy.add(i)));
                        add!(lanes, x, g);
                    }),
                    Mask::Recomputed(activation) => vectors::<I>(rows.len, |i, lanes| {
                        let x = N::load(isa, x.add(i));
                        let g = let_through(isa, activation, isa.mul_add(x, a, b), N::load(isa, dy.add(i)));
                        add!(lanes, x, g);
                    }),
                    Mask::Output(activation, output) => {
                        let output = output.at(&rows, y, channel).cast_const();
                        vectors::<I>(rows.len, |i, lanes| {
                            let g = let_through(isa, activation, N::load(isa, output.add(i)), N::load(isa, dy.add(i)));
                            store(isa, dy.add(i), g, lanes);
                            let x = N::load(isa, x.add(i));
                            add!(lanes, x, g);
                        });
                    }
                }
                isa.store(scale.as_mut_ptr(), s);
                isa.store(shift.as_mut_ptr(), t);
            }
        });
    }
}

struct Gradient<'a, N> {
    rows: Rows,
    lines: &'a [f32],
    slopes: &'a [f32],
    activation: Activation,
    x: Operand<N>,
    dy: Operand<N>,
    /// Another place than dy for dx, and whether to add to it.
    output: Option<(Operand<N>, bool)>,
}

impl<N: Number> Kernel for Gradient<'_, N> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { rows, lines, slopes, activation, x, dy, output } = self;
        rows.each(|y, channel| {
            let (x, dy) = (x.at(&rows, y, channel).cast_const(), dy.at(&rows, y, channel));
            let (a, b) = (isa.splat(lines[channel]), isa.splat(lines[rows.channels + channel]));
            let (p, q) = (isa.splat(slopes[channel]), isa.splat(slopes[rows.channels + channel]));
            // `i` is in a row of x and one of dy, behind which a vector may be read, see `ImageLayout`. A closure that is
            // called at two places is compiled without the features of the instruction set.
            macro_rules! dx {
                ($i:expr) => {{
                    let (x, g) = (N::load(isa, x.add($i)), N::load(isa, dy.add($i)));
                    let g = let_through(isa, activation, isa.mul_add(x, a, b), g);
                    isa.mul_add(a, g, isa.mul_add(p, x, q))
                }};
            }
            let to = match output {
                Some((output, true)) => {
                    let to = output.at(&rows, y, channel);
                    vectors::<I>(rows.len, |i, lanes| {
                        // SAFETY: rows of x, dy and the output, which is this task's.
                        unsafe { store(isa, to.add(i), isa.add(N::load(isa, to.add(i)), dx!(i)), lanes) };
                    });
                    to
                }
                other => {
                    let to = other.map_or(dy, |(output, _)| output.at(&rows, y, channel));
                    vectors::<I>(rows.len, |i, lanes| {
                        // SAFETY: rows of x and dy, and one of dy or of the output, which is this task's.
                        unsafe { store(isa, to.add(i), dx!(i), lanes) };
                    });
                    to
                }
            };
            if !rows.is_whole() {
                // SAFETY: a row of what was written.
                unsafe { clear_padding(&rows, to) };
            }
        });
    }
}
