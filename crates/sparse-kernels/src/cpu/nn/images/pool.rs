//! Windows over images: largest and mean, and their gradients.
//!
//! ```text
//! forward   for each strip, row of Y, channel, pixel of Y:  y[0..S] = reduce(x[0..S] of the pixels in the window)
//! backward  for each strip, channels, row of Y, channel, pixel of Y:
//!               for each pixel in the window:  dx[0..S] += share(dy[0..S])
//! ```
//!
//! A window is cut to the image, so borders are never read. Four vectors go over their windows together: windows are small,
//! and the loops over them cost more than the work of one vector. Forward, neighbouring pixels of Y whose windows are as
//! wide are one run of vectors if the stride is 1; else vectors run over the samples of a pixel, as they do backward, where
//! a vector that reached into the next pixel would be read again before both halves have left the store queue.
//!
//! The largest is found again by comparison with Y; its gradient is handed on from pixel to pixel and becomes zero once
//! given. A task owns whole channels of a strip, since windows share rows of dX; it clears them row by row, just before they
//! are added to.

use std::ops::Range;

use super::rows::{Rows, for_each_band, for_each_block, image_row, isa_for, load, pixels, row_of, store};
use crate::backend::Pool;
use crate::backend::check::Done;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, SharedMut};
use crate::{BackendError, ImageLayout, Images, PoolShape};

pub(super) fn forward(cpu: &Cpu, pool: Pool, window: PoolShape, x: &Images<Cpu>, y: &mut Images<Cpu>) -> Done {
    match pool {
        Pool::Max => reduce(cpu, window, x, y, Largest),
        Pool::Avg => reduce(cpu, window, x, y, Mean),
    }
}

/// What is made of a window.
trait Reduce: Copy + Send + Sync {
    type State<I: Isa>: Copy;
    /// Of no pixels.
    fn start<I: Isa>(self, isa: I) -> Self::State<I>;
    /// With one more pixel.
    fn add<I: Isa>(self, isa: I, state: Self::State<I>, x: I::V) -> Self::State<I>;
    /// Of `count` pixels.
    fn finish<I: Isa>(self, isa: I, state: Self::State<I>, count: f32) -> I::V;
}

#[derive(Clone, Copy)]
struct Largest;

impl Reduce for Largest {
    /// The largest of those that are numbers, and 1 plus the sum of the positive ones, which is NaN if one was NaN and
    /// else positive, if only infinite.
    type State<I: Isa> = (I::V, I::V);

    #[inline(always)]
    fn start<I: Isa>(self, isa: I) -> (I::V, I::V) {
        (isa.splat(f32::NEG_INFINITY), isa.splat(1.0))
    }

    #[inline(always)]
    fn add<I: Isa>(self, isa: I, (largest, sum): (I::V, I::V), x: I::V) -> (I::V, I::V) {
        (isa.max(x, largest), isa.add(sum, isa.max(isa.splat(0.0), x)))
    }

    #[inline(always)]
    fn finish<I: Isa>(self, isa: I, (largest, sum): (I::V, I::V), _: f32) -> I::V {
        // Of −∞ and NaN the one that the sum says; `max` returns its second operand if that is NaN.
        isa.max(largest, isa.mul(isa.splat(f32::NEG_INFINITY), sum))
    }
}

#[derive(Clone, Copy)]
struct Mean;

impl Reduce for Mean {
    type State<I: Isa> = I::V;

    #[inline(always)]
    fn start<I: Isa>(self, isa: I) -> I::V {
        isa.splat(0.0)
    }

    #[inline(always)]
    fn add<I: Isa>(self, isa: I, sum: I::V, x: I::V) -> I::V {
        isa.add(sum, x)
    }

    #[inline(always)]
    fn finish<I: Isa>(self, isa: I, sum: I::V, count: f32) -> I::V {
        isa.div(sum, isa.splat(count))
    }
}

fn reduce(cpu: &Cpu, window: PoolShape, x: &Images<Cpu>, y: &mut Images<Cpu>, reduce: impl Reduce) -> Done {
    let layout = y.layout;
    let operations = 8 * (x.layout.len() + layout.len()) as u64;
    for_each_band(cpu, &layout, &mut y.data, operations, |_, rows| {
        dispatch(isa_for(cpu, &layout), Forward { window, x_layout: x.layout, x: &x.data, layout, rows, reduce });
    });
    Ok(())
}

struct Forward<'a, R> {
    window: PoolShape,
    x_layout: ImageLayout,
    x: &'a [f32],
    /// Of Y.
    layout: ImageLayout,
    rows: Rows<'a>,
    reduce: R,
}

impl<R: Reduce> Kernel for Forward<'_, R> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { window, x_layout, layout, reduce, .. } = self;
        let (size, strip, width) = (x_layout.size(), layout.strip(), layout.size()[1]);
        let whole = whole_windows(window, size[1]);
        for (s, v, row) in self.rows {
            let seen = window.span(0, size, v);
            let image_row = image_row(&x_layout, s, seen.start);
            for c in 0..layout.channels() {
                let (x, y) = (&self.x[image_row + pixels(&x_layout, c).start..], &mut row[pixels(&layout, c)]);
                let mut u = 0;
                while u < width {
                    let run = if whole.contains(&u) { whole.end - u } else { 1 };
                    let columns = window.span(1, size, u);
                    let seen = Seen {
                        rows: seen.len(),
                        row_pitch: x_layout.row_pitch(),
                        columns: columns.len(),
                        strip,
                        x: &x[columns.start * strip..],
                    };
                    seen.reduce_run(isa, reduce, window.stride()[1], &mut y[u * strip..][..run * strip]);
                    u += run;
                }
            }
        }
    }
}

/// The pixels of a row of Y whose windows lie within an image of this width.
fn whole_windows(window: PoolShape, width: usize) -> Range<usize> {
    let (kernel, stride, padding) = (window.kernel()[1], window.stride()[1], window.padding()[1]);
    if kernel > width { 0..0 } else { padding.div_ceil(stride)..(width + padding - kernel) / stride + 1 }
}

/// Vectors that go over their windows together: two registers of state each, of 16.
const GROUP: usize = 4;

/// What the window of the first pixel of a run sees in one channel.
#[derive(Clone, Copy)]
struct Seen<'a> {
    rows: usize,
    row_pitch: usize,
    columns: usize,
    strip: usize,
    /// From the first pixel on.
    x: &'a [f32],
}

impl Seen<'_> {
    /// A run of pixels of Y, whose windows start `stride` pixels apart.
    #[inline(always)]
    fn reduce_run<I: Isa, R: Reduce>(self, isa: I, reduce: R, stride: usize, y: &mut [f32]) {
        let strip = self.strip;
        if stride == 1 {
            let vectors = y.len() / I::LANES;
            self.reduce_all::<I, R, false>(isa, reduce, 0, [I::LANES; 2], vectors, y);
            // Single samples only: other strips are whole vectors.
            let first = vectors * I::LANES;
            self.reduce_all::<I, R, true>(isa, reduce, first, [1; 2], y.len() - first, y);
        } else if strip == 1 {
            self.reduce_all::<I, R, true>(isa, reduce, 0, [stride, 1], y.len(), y);
        } else {
            for lane in (0..strip).step_by(I::LANES) {
                self.reduce_all::<I, R, false>(isa, reduce, lane, [stride * strip, strip], y.len() / strip, y);
            }
        }
    }

    /// `count` vectors of Y, `y_step` apart from element `first` on; their windows stand `x_step` apart.
    #[inline(always)]
    fn reduce_all<I: Isa, R: Reduce, const ONE: bool>(
        self,
        isa: I,
        reduce: R,
        first: usize,
        [x_step, y_step]: [usize; 2],
        count: usize,
        y: &mut [f32],
    ) {
        let mut done = 0;
        while done + GROUP <= count {
            let group = self.reduce::<I, R, ONE, GROUP>(isa, reduce, first + done * x_step, x_step);
            for (n, reduced) in group.into_iter().enumerate() {
                store::<I, ONE>(isa, &mut y[first + (done + n) * y_step..], reduced);
            }
            done += GROUP;
        }
        for n in done..count {
            let [reduced] = self.reduce::<I, R, ONE, 1>(isa, reduce, first + n * x_step, x_step);
            store::<I, ONE>(isa, &mut y[first + n * y_step..], reduced);
        }
    }

    #[inline(always)]
    fn reduce<I: Isa, R: Reduce, const ONE: bool, const N: usize>(
        self,
        isa: I,
        reduce: R,
        at: usize,
        step: usize,
    ) -> [I::V; N] {
        let mut states = [reduce.start(isa); N];
        for i in 0..self.rows {
            for j in 0..self.columns {
                let x = &self.x[i * self.row_pitch + j * self.strip + at..];
                for (n, state) in states.iter_mut().enumerate() {
                    *state = reduce.add(isa, *state, load::<I, ONE>(isa, &x[n * step..]));
                }
            }
        }
        let mut reduced = [isa.splat(0.0); N];
        for (reduced, state) in reduced.iter_mut().zip(states) {
            *reduced = reduce.finish(isa, state, (self.rows * self.columns) as f32);
        }
        reduced
    }
}

pub(super) fn max_grad(
    cpu: &Cpu,
    window: PoolShape,
    [x, y, dy]: [&Images<Cpu>; 3],
    dx: &mut Images<Cpu>,
    accumulate: bool,
) -> Result<(), BackendError> {
    let share = ToLargest { x_layout: x.layout, x: &x.data, y_layout: y.layout, y: &y.data };
    backward(cpu, window, dy, dx, accumulate, share)
}

pub(super) fn avg_grad(
    cpu: &Cpu,
    window: PoolShape,
    dy: &Images<Cpu>,
    dx: &mut Images<Cpu>,
    accumulate: bool,
) -> Result<(), BackendError> {
    backward(cpu, window, dy, dx, accumulate, Evenly)
}

/// How the gradient of a window is shared among its pixels.
trait Share: Copy + Send + Sync {
    type Row: Copy;
    type State<I: Isa>: Copy;
    /// Prepares for one row of Y and the first row of X that it sees, of one channel.
    fn row(self, strip: usize, rows: [usize; 2], channel: usize) -> Self::Row;
    /// Elements from row to row of X.
    fn row_pitch(self) -> usize;
    /// For the window of the vector at `y` in the row of Y, which sees `count` pixels.
    fn start<I: Isa, const ONE: bool>(isa: I, row: Self::Row, y: usize, dy: I::V, count: f32) -> Self::State<I>;
    /// What the pixel at `x`, counted from the first row of X on, gets; pixels come in order of (row, column).
    fn give<I: Isa, const ONE: bool>(isa: I, row: Self::Row, state: &mut Self::State<I>, x: usize) -> I::V;
}

/// All of it to the first pixel that is as large as the result.
#[derive(Clone, Copy)]
struct ToLargest<'a> {
    x_layout: ImageLayout,
    x: &'a [f32],
    y_layout: ImageLayout,
    y: &'a [f32],
}

impl<'a> Share for ToLargest<'a> {
    /// From the first pixel of the rows on.
    type Row = [&'a [f32]; 2];
    /// Y and what is left of its gradient: zero once given.
    type State<I: Isa> = [I::V; 2];

    #[inline(always)]
    fn row(self, strip: usize, [x, y]: [usize; 2], channel: usize) -> [&'a [f32]; 2] {
        let x = image_row(&self.x_layout, strip, x) + pixels(&self.x_layout, channel).start;
        [&self.x[x..], row_of(&self.y_layout, self.y, strip, y, channel)]
    }

    #[inline(always)]
    fn row_pitch(self) -> usize {
        self.x_layout.row_pitch()
    }

    #[inline(always)]
    fn start<I: Isa, const ONE: bool>(isa: I, [_, y_row]: [&'a [f32]; 2], y: usize, dy: I::V, _: f32) -> [I::V; 2] {
        [load::<I, ONE>(isa, &y_row[y..]), dy]
    }

    #[inline(always)]
    fn give<I: Isa, const ONE: bool>(isa: I, [x_rows, _]: [&'a [f32]; 2], [y, left]: &mut [I::V; 2], x: usize) -> I::V {
        // The difference is positive, or zero where the pixel is as large; NaN where both are the same infinity, or the
        // result is NaN.
        let one = isa.splat(1.0);
        let is_smaller = isa.where_positive(isa.sub(*y, load::<I, ONE>(isa, &x_rows[x..])), one);
        let given = isa.where_positive(isa.sub(one, is_smaller), *left);
        *left = isa.where_positive(is_smaller, *left);
        given
    }
}

/// Equal parts.
#[derive(Clone, Copy)]
struct Evenly;

impl Share for Evenly {
    type Row = ();
    type State<I: Isa> = I::V;

    #[inline(always)]
    fn row(self, _: usize, _: [usize; 2], _: usize) {}

    #[inline(always)]
    fn row_pitch(self) -> usize {
        0
    }

    #[inline(always)]
    fn start<I: Isa, const ONE: bool>(isa: I, (): (), _: usize, dy: I::V, count: f32) -> I::V {
        isa.div(dy, isa.splat(count))
    }

    #[inline(always)]
    fn give<I: Isa, const ONE: bool>(_: I, (): (), part: &mut I::V, _: usize) -> I::V {
        *part
    }
}

fn backward(
    cpu: &Cpu,
    window: PoolShape,
    dy: &Images<Cpu>,
    dx: &mut Images<Cpu>,
    accumulate: bool,
    share: impl Share,
) -> Result<(), BackendError> {
    let layout = dx.layout;
    let operations = 8 * (dy.layout.len() + 2 * layout.len()) as u64;
    let dx = SharedMut::new(&mut dx.data);
    for_each_block(cpu, &layout, operations, |strip, channels| {
        let (dy_layout, dy) = (dy.layout, &dy.data[..]);
        let task = Backward { window, dy_layout, dy, layout, dx, strip, channels, accumulate, share };
        dispatch(isa_for(cpu, &layout), task);
    });
    Ok(())
}

struct Backward<'a, S> {
    window: PoolShape,
    dy_layout: ImageLayout,
    dy: &'a [f32],
    /// Of dX.
    layout: ImageLayout,
    /// `layout.len()` elements, of which this task touches these channels of this strip only.
    dx: SharedMut,
    strip: usize,
    channels: Range<usize>,
    accumulate: bool,
    share: S,
}

impl<S: Share> Kernel for Backward<'_, S> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        if self.layout.strip() == 1 { self.run::<I, true>(isa) } else { self.run::<I, false>(isa) }
    }
}

impl<S: Share> Backward<'_, S> {
    #[inline(always)]
    fn run<I: Isa, const ONE: bool>(&self, isa: I) {
        let size = self.layout.size();
        let mut cleared = if self.accumulate { size[0] } else { 0 };
        for v in 0..self.dy_layout.size()[0] {
            let rows = self.window.span(0, size, v);
            self.clear(cleared..rows.end);
            cleared = cleared.max(rows.end);
            for c in self.channels.clone() {
                self.add_row::<I, ONE>(isa, v, rows.clone(), c);
            }
        }
        self.clear(cleared..size[0]);
    }

    fn clear(&self, rows: Range<usize>) {
        for (y, c) in rows.flat_map(|y| self.channels.clone().map(move |c| (y, c))) {
            let pixels = pixels(&self.layout, c);
            let at = image_row(&self.layout, self.strip, y) + pixels.start;
            // SAFETY: pixels of a channel of this task, in a buffer whose length was checked.
            unsafe { std::slice::from_raw_parts_mut(self.dx.offset(at).get(), pixels.len()) }.fill(0.0);
        }
    }

    /// Shares row `v` of dY among these rows of dX.
    #[inline(always)]
    fn add_row<I: Isa, const ONE: bool>(&self, isa: I, v: usize, rows: Range<usize>, c: usize) {
        let (size, strip, width) = (self.layout.size(), self.layout.strip(), self.dy_layout.size()[1]);
        let whole = whole_windows(self.window, size[1]);
        let shared = Shared::<S> {
            share: self.share.row(self.strip, [rows.start, v], c),
            dy: row_of(&self.dy_layout, self.dy, self.strip, v, c),
            dx: self.dx.offset(image_row(&self.layout, self.strip, rows.start) + pixels(&self.layout, c).start),
            rows: rows.len(),
            pitches: [self.layout.row_pitch(), self.share.row_pitch()],
            stride: self.window.stride()[1],
            strip,
        };
        let mut u = 0;
        while u < width {
            let columns = self.window.span(1, size, u);
            let is_group = whole.contains(&u) && u + GROUP <= whole.end;
            for lane in (0..strip).step_by(if ONE { 1 } else { I::LANES }) {
                // SAFETY: these are the pixels that the windows of `rows` and `columns`, and of the next ones of the same
                // width, see in a channel of this task; dX's length was checked.
                unsafe {
                    if is_group {
                        shared.add::<I, ONE, GROUP>(isa, columns.clone(), u, lane);
                    } else {
                        shared.add::<I, ONE, 1>(isa, columns.clone(), u, lane);
                    }
                }
            }
            u += if is_group { GROUP } else { 1 };
        }
    }
}

/// A row of dY of one channel and the rows of dX that it is shared among.
struct Shared<'a, S: Share> {
    share: S::Row,
    dy: &'a [f32],
    /// The first pixel of the first row.
    dx: SharedMut,
    rows: usize,
    /// From row to row of dX, and of what `share` reads.
    pitches: [usize; 2],
    stride: usize,
    strip: usize,
}

impl<S: Share> Shared<'_, S> {
    #[inline(always)]
    fn start<I: Isa, const ONE: bool>(&self, isa: I, y: usize, count: f32) -> S::State<I> {
        S::start::<I, ONE>(isa, self.share, y, load::<I, ONE>(isa, &self.dy[y..]), count)
    }

    /// Shares a vector of each of `N` pixels from `u` on, the first of whose windows has these columns.
    ///
    /// # Safety
    /// The pixels of the rows that these windows see may be written, and by nobody else.
    #[inline(always)]
    unsafe fn add<I: Isa, const ONE: bool, const N: usize>(
        &self,
        isa: I,
        columns: Range<usize>,
        u: usize,
        lane: usize,
    ) {
        let (strip, x_step, lanes) = (self.strip, self.stride * self.strip, if ONE { 1 } else { I::LANES });
        let (x, count) = (columns.start * strip + lane, (self.rows * columns.len()) as f32);
        // No closures: the compiler would not always inline them, and then not the vector operations in them either.
        let mut states = [self.start::<I, ONE>(isa, u * strip + lane, count); N];
        for (n, state) in states.iter_mut().enumerate().skip(1) {
            *state = self.start::<I, ONE>(isa, (u + n) * strip + lane, count);
        }
        for i in 0..self.rows {
            for j in 0..columns.len() {
                let [to, from] = self.pitches.map(|pitch| i * pitch + j * strip);
                for (n, state) in states.iter_mut().enumerate() {
                    let given = S::give::<I, ONE>(isa, self.share, state, x + n * x_step + from);
                    let to = self.dx.offset(x + n * x_step + to).get();
                    // SAFETY: the caller's promise, for samples of a pixel.
                    let to = unsafe { std::slice::from_raw_parts_mut(to, lanes) };
                    let sum = isa.add(load::<I, ONE>(isa, to), given);
                    store::<I, ONE>(isa, to, sum);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::*;
    use super::super::testing::{cases, images, large, poisoned, read, windows};
    use super::*;
    use crate::ImageNeural;
    use crate::testing::images as verify;

    proptest! {
        #[test]
        fn largest_agrees_with_the_reference(case in cases(), window in windows(), ties: bool, accumulate: bool) {
            for cpu in BACKENDS.iter() {
                verify::max_pool(cpu, &case.enlarged(window), window, ties, accumulate);
            }
        }

        #[test]
        fn mean_agrees_with_the_reference(case in cases(), window in windows(), accumulate: bool) {
            for cpu in BACKENDS.iter() {
                verify::avg_pool(cpu, &case.enlarged(window), window, accumulate);
            }
        }
    }

    fn overlapping() -> PoolShape {
        PoolShape::new([3, 3]).unwrap().with_stride([2, 1]).unwrap().with_padding([1, 1]).unwrap()
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for case in large() {
            for window in [overlapping(), PoolShape::new([2, 2]).unwrap()] {
                let output = window.output_size(case.size).unwrap();
                let x = images(case.layout(0), &case.normals("x", case.len()));
                same_for_all_threads(|cpu| {
                    let (mut largest, mut mean) =
                        (poisoned(case.layout_of(1, output)), poisoned(case.layout_of(1, output)));
                    cpu.max_pool(window, &x, &mut largest).unwrap();
                    cpu.avg_pool(window, &x, &mut mean).unwrap();
                    let (mut of_largest, mut of_mean) = (poisoned(case.layout(1)), poisoned(case.layout(1)));
                    cpu.max_pool_grad(window, &x, &largest, &mean, &mut of_largest, false).unwrap();
                    cpu.avg_pool_grad(window, &mean, &mut of_mean, false).unwrap();
                    [&largest, &mean, &of_largest, &of_mean].map(read).concat()
                });
            }
        }
    }

    /// NaN makes NaN wherever it stands in a window, infinities do not; what is lost is one window's gradient.
    #[test]
    fn nan_and_infinities() {
        BACKENDS.iter().for_each(verify::nan_and_infinities);
    }
}
