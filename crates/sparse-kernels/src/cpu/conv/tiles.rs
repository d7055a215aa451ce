//! Weight gradient in tiles of rows and columns: dense ones, and those of blocks.
//!
//! ```text
//! for each part of the image rows, each column chunk        (parallel; chunks inside bands where those come from memory)
//!   for each band of image rows                             the chunk's part of X settles in L1
//!     for each R rows, each C columns                       which fetch their share of the next band
//!       acc[R][C] = 0
//!       for each vector of the band's pixels                the hot loop:
//!         acc[r][c] += dY[row r] · X[pixel + offset of column c]      R + C loads, R · C multiply-adds
//!       dW[R][C] += sums of acc's lanes                     transposing trees of adds, once a band
//! ```

use std::ops::Range;

use super::ahead::Ahead;
use super::grid::{Grid, Side, isa_for};
use super::pixels::Pixels;
use super::sums::RowSums;
use super::wide::{Pointers, Reader, is_half, len, union};
use crate::cpu::bsr::sums;
use crate::cpu::isa::{Isa, Kernel, array_of, dispatch};
use crate::cpu::{Cpu, Numbers, SharedMut};

/// Rows and columns of dW that make a dense rectangle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rectangle {
    /// First output channel.
    pub row: u32,
    pub rows: u32,
    /// First of the columns, among the offsets.
    pub columns: u32,
    pub len: u32,
    /// Where the gradient of the first row and column goes; a row's are contiguous.
    pub place: u32,
}

/// Rectangles of a weight gradient.
#[derive(Debug, Default)]
pub(super) struct Rectangles {
    /// Where a column's pixels stand in X, relative to the pixel of Y that they are for.
    pub offsets: Vec<u32>,
    /// Rectangles, chunk by chunk. Every place of dW is in exactly one.
    pub rectangles: Vec<Rectangle>,
    /// `rectangles[bounds[c]..bounds[c + 1]]` are those of chunk `c`.
    pub bounds: Vec<u32>,
    /// Distance of neighbouring rows of dW.
    pub row_pitch: usize,
    /// Image rows of a band.
    pub band: usize,
}

/// One gradient.
pub(super) struct Gradient<'a> {
    pub grid: Grid,
    pub rectangles: &'a Rectangles,
    pub strip: usize,
    pub strips: usize,
    pub dy: Numbers<'a>,
    pub x: Numbers<'a>,
    pub dw: &'a mut [f32],
    /// Add to `dw` instead of overwriting it.
    pub accumulate: bool,
}

impl Gradient<'_> {
    /// Runs the pass; the caller has checked all shapes.
    pub fn run(self, cpu: &Cpu) {
        let [height, width] = self.grid.size;
        let rows = if width == 0 { 0 } else { height * self.strips };
        let operations = 2 * (self.dw.len() * width * rows * self.strip) as u64;
        let chunks = self.rectangles.bounds.len() - 1;
        let activations = len(self.x) + len(self.dy);
        let is_half = is_half(self.x) || is_half(self.dy);
        let sums = RowSums { sums: self.dw, accumulate: self.accumulate, rows, activations };
        let whole_rows = sums.takes_whole_rows(cpu);
        let per_task = if whole_rows || is_half && sums.may_take_whole_rows(cpu) { chunks.max(1) } else { 1 };
        let tasks = chunks.div_ceil(per_task);
        sums.compute(cpu, tasks, operations, |task, rows, dw, accumulate| {
            let part = Part {
                grid: self.grid,
                rectangles: self.rectangles,
                samples: self.strip,
                pointers: Pointers::new(is_half),
                dw,
                accumulate,
                rectangles_of: [task, task + 1]
                    .map(|task| self.rectangles.bounds[(task * per_task).min(chunks)] as usize),
                fetch: whole_rows && !is_half,
                rows,
            };
            let (Grid { from, to, .. }, band) = (self.grid, self.rectangles.band);
            let mut readers = [
                Reader::new(cpu, self.x, &from, from.reach_of(band)),
                Reader::new(cpu, self.dy, &to, to.reach_of(band)),
            ];
            dispatch(isa_for(cpu.isa(), self.grid, self.strip), Bands { part, readers: &mut readers });
            readers.into_iter().for_each(|reader| reader.finish(cpu));
        });
    }
}

/// The work of one task.
struct Bands<'t, 'a> {
    part: Part<'a>,
    /// Of X and dY.
    readers: &'t mut [Reader<'a>; 2],
}

/// A band's work.
struct Part<'a> {
    grid: Grid,
    rectangles: &'a Rectangles,
    samples: usize,
    /// X and dY.
    pointers: Pointers,
    dw: SharedMut,
    accumulate: bool,
    /// First and end of the rectangles that the task makes.
    rectangles_of: [usize; 2],
    /// Whether the next band is fetched.
    fetch: bool,
    /// Image rows of all strips, one strip's after the other's.
    rows: Range<usize>,
}

impl Kernel for Bands<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { mut part, readers: [x, dy] } = self;
        let [first, end] = part.rectangles_of;
        let rectangles = &part.rectangles.rectangles[first..end];
        let Grid { from, to, size: [height, _] } = part.grid;
        let (channels_of_x, channels_of_dy) = match part.pointers.is_memory {
            true => (0..0, 0..0),
            false => part.channels(rectangles),
        };
        // Rows that a tile takes, see `rectangle`.
        let at_once = if !I::IS_VECTOR {
            1
        } else if I::REGISTERS >= 32 {
            4
        } else {
            3
        };
        let shares = rectangles.iter().map(|r| r.rows.div_ceil(at_once) as usize).sum();
        let mut add = part.accumulate;
        let mut row = part.rows.start;
        while row < part.rows.end {
            // A band is of one strip.
            let end_row = (row + part.rectangles.band).min(part.rows.end).min((row / height + 1) * height);
            let (strip, [top, last]) = ((end_row - 1) / height, [row % height, (end_row - 1) % height]);
            let touched = |side: &Side| side.image_rows(strip, top).start..side.image_rows(strip, last).end;
            part.pointers.x = x.rows(isa, touched(&from), channels_of_x.clone());
            part.pointers.y = dy.rows(isa, touched(&to), channels_of_dy.clone()).cast_mut();
            let data = [part.pointers.x, part.pointers.y.cast_const()];
            let mut ahead = match part.fetch {
                true => Ahead::of_band(&part.grid, data, [strip, last], end_row - row, shares),
                false => Ahead::none(),
            };
            for rectangle in rectangles {
                part.rectangle(isa, rectangle, row..end_row, add, &mut ahead);
            }
            row = end_row;
            add = true;
        }
    }
}

impl Part<'_> {
    /// The channels of X and of dY that rectangles meet.
    fn channels(&self, rectangles: &[Rectangle]) -> (Range<usize>, Range<usize>) {
        let (mut of_x, mut of_dy) = (0..0, 0..0);
        for rectangle in rectangles {
            let rows = rectangle.row as usize..(rectangle.row + rectangle.rows) as usize;
            of_dy = union(of_dy, rows);
            for &offset in &self.rectangles.offsets[rectangle.columns as usize..][..rectangle.len as usize] {
                let channel = offset as usize % self.grid.from.image_row / self.grid.from.channel;
                of_x = union(of_x, channel..channel + 1);
            }
        }
        (of_x, of_dy)
    }

    /// Cuts a rectangle into tiles: 3 × 4 accumulators, 3 vectors of dY and one of X are 16 registers; 4 × 6 where there are
    /// 32.
    #[inline(always)]
    fn rectangle<I: Isa>(&self, isa: I, rectangle: &Rectangle, band: Range<usize>, add: bool, ahead: &mut [Ahead; 2]) {
        let (rows, columns) = (rectangle.rows as usize, rectangle.len as usize);
        let mut row = 0;
        while row < rows {
            ahead.iter_mut().for_each(|ahead| ahead.fetch(isa));
            let left = rows - row;
            if const { !I::IS_VECTOR } {
                row += self.row_of_tiles::<I, 1, 4>(isa, rectangle, row, columns, band.clone(), add);
            } else if const { I::REGISTERS >= 32 } {
                row += match left {
                    4.. => self.row_of_tiles::<I, 4, 6>(isa, rectangle, row, columns, band.clone(), add),
                    2.. => self.row_of_tiles::<I, 2, 6>(isa, rectangle, row, columns, band.clone(), add),
                    _ => self.row_of_tiles::<I, 1, 6>(isa, rectangle, row, columns, band.clone(), add),
                };
            } else {
                row += match left {
                    // Four rows are two and two, not three and one.
                    3 | 5.. => self.row_of_tiles::<I, 3, 4>(isa, rectangle, row, columns, band.clone(), add),
                    2.. => self.row_of_tiles::<I, 2, 4>(isa, rectangle, row, columns, band.clone(), add),
                    _ => self.row_of_tiles::<I, 1, 4>(isa, rectangle, row, columns, band.clone(), add),
                };
            }
        }
    }

    /// R rows and all columns of a rectangle, C at a time.
    #[inline(always)]
    fn row_of_tiles<I: Isa, const R: usize, const C: usize>(
        &self,
        isa: I,
        rectangle: &Rectangle,
        row: usize,
        columns: usize,
        band: Range<usize>,
        add: bool,
    ) -> usize {
        let mut column = 0;
        while column + C <= columns {
            self.tile::<I, R, C>(isa, rectangle, [row, column], band.clone(), add);
            column += C;
        }
        while column + 2 <= columns {
            self.tile::<I, R, 2>(isa, rectangle, [row, column], band.clone(), add);
            column += 2;
        }
        if column < columns {
            self.tile::<I, R, 1>(isa, rectangle, [row, column], band, add);
        }
        R
    }

    #[inline(always)]
    fn tile<I: Isa, const R: usize, const C: usize>(
        &self,
        isa: I,
        rectangle: &Rectangle,
        [row, column]: [usize; 2],
        band: Range<usize>,
        add: bool,
    ) {
        let pixels = Pixels::new(isa, self.grid, self.samples);
        let height = self.grid.size[0];
        let offsets = &self.rectangles.offsets[rectangle.columns as usize + column..][..C];
        let dy: [*const f32; R] = std::array::from_fn(|r| {
            self.pointers.y.wrapping_add((rectangle.row as usize + row + r) * self.grid.to.channel).cast_const()
        });
        let x: [*const f32; C] = std::array::from_fn(|c| self.pointers.x.wrapping_add(offsets[c] as usize));
        let mut acc = [[isa.splat(0.0); C]; R];
        for image_row in band {
            let strip = image_row / height;
            let whole = pixels.row(strip, image_row % height);
            // SAFETY: as in the sparse gradient (see there): the row's pixels exist in dY and, at every column's offset, in X.
            unsafe {
                let (mut from, mut to) = (whole.from, whole.to);
                for _ in 0..whole.runs {
                    for at in (0..whole.floats).step_by(I::LANES) {
                        let dy: [I::V; R] = array_of(|r| isa.load(dy[r].add(to + at)));
                        step(isa, dy, x, from + at, &mut acc);
                    }
                    from += self.grid.from.pixel;
                    to += self.grid.to.pixel;
                }
                if let Some(pieces) = whole.rest {
                    // Of the last vector only some floats are pixels: dY counts as zero elsewhere.
                    let (from, to) = (whole.from + whole.floats, whole.to + whole.floats);
                    let mut last = [isa.splat(0.0); R];
                    for (last, dy) in last.iter_mut().zip(dy) {
                        *last = isa.keep_first(isa.load(dy.add(to)), pieces.count);
                    }
                    step(isa, last, x, from, &mut acc);
                }
            }
        }
        for (r, acc) in acc.into_iter().enumerate() {
            let place = rectangle.place as usize + (row + r) * self.rectangles.row_pitch + column;
            for (c, sum) in sums(isa, acc).into_iter().enumerate() {
                // SAFETY: the plan gives each place of dW to one rectangle, and a rectangle belongs to one task.
                let to = unsafe { &mut *self.dw.get().add(place + c) };
                *to = if add { *to + sum } else { sum };
            }
        }
    }
}

/// `acc[r][c] += dy[r] · X[c]` for the vectors at `at`.
///
/// # Safety
/// A vector stands at `at` behind each of `x`.
#[inline(always)]
unsafe fn step<I: Isa, const R: usize, const C: usize>(
    isa: I,
    dy: [I::V; R],
    x: [*const f32; C],
    at: usize,
    acc: &mut [[I::V; C]; R],
) {
    for c in 0..C {
        // SAFETY: the caller's promise.
        let x = unsafe { isa.load(x[c].add(at)) };
        for (acc, dy) in acc.iter_mut().zip(dy) {
            // Pinned: 3 × 4 accumulators take all registers of AVX2.
            acc[c] = isa.pin(isa.mul_add(dy, x, acc[c]));
        }
    }
}
