//! Sparse convolution, weight gradient: SDDMM over tiles of pixels.

use std::ops::Range;

use super::ahead::Ahead;
use super::grid::{Grid, isa_for};
use super::pixels::{Pixels, Runs, Tile};
use super::sums::RowSums;
use super::wide::{Pointers, Reader, is_half, len, union};
use crate::ConvShape;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::plan::{Segment, Walk};
use crate::cpu::sddmm::Row;
use crate::cpu::{Cpu, Numbers, SharedMut};

/// One sampled product.
pub(super) struct Sddmm<'a> {
    pub grid: Grid,
    pub walk: &'a Walk,
    pub offsets: &'a [u32],
    pub shape: ConvShape,
    pub strip: usize,
    pub strips: usize,
    pub dy: Numbers<'a>,
    pub x: Numbers<'a>,
    pub values: &'a mut [f32],
    /// Add to `values` instead of overwriting them.
    pub accumulate: bool,
}

impl Sddmm<'_> {
    /// Runs the product.
    ///
    /// # Safety
    /// - Grid, walk, offsets and shape are those of one plan; `values` has a value for each offset.
    /// - `dy` and `x` are images of so many strips, in the layouts that the grid was made for, X in phases if the
    ///   convolution wants those.
    pub unsafe fn run(self, cpu: &Cpu) {
        let [height, width] = self.grid.size;
        let rows = if width == 0 { 0 } else { height * self.strips };
        let chunks = self.walk.chunks();
        let operations = 2 * (self.offsets.len() * width * rows * self.strip) as u64;
        let activations = len(self.x) + len(self.dy);
        let is_half = is_half(self.x) || is_half(self.dy);
        let sums = RowSums { sums: self.values, accumulate: self.accumulate, rows, activations };
        let all = self.walk.blocks() * chunks;
        let whole_rows = sums.takes_whole_rows(cpu) || is_half && sums.may_take_whole_rows(cpu);
        let per_task = if whole_rows { all } else { 1 };
        let tasks = all / per_task;
        sums.compute(cpu, tasks, operations, |task, rows, values, accumulate| {
            let part = Part {
                grid: self.grid,
                walk: self.walk,
                offsets: self.offsets,
                shape: self.shape,
                samples: self.strip,
                pointers: Pointers::new(is_half),
                values,
                accumulate,
                pieces: task * per_task..(task + 1) * per_task,
                rows,
            };
            let Grid { from, to, .. } = self.grid;
            let mut readers =
                [Reader::new(cpu, self.x, &from, from.reach_of(1)), Reader::new(cpu, self.dy, &to, to.reach_of(1))];
            dispatch(isa_for(cpu.isa(), self.grid, self.strip), Rows { part, readers: &mut readers });
            readers.into_iter().for_each(|reader| reader.finish(cpu));
        });
    }
}

/// The work of one task.
struct Rows<'t, 'a> {
    part: Part<'a>,
    /// Of X and dY.
    readers: &'t mut [Reader<'a>; 2],
}

/// An image row's work.
struct Part<'a> {
    grid: Grid,
    walk: &'a Walk,
    offsets: &'a [u32],
    shape: ConvShape,
    samples: usize,
    /// X and dY.
    pointers: Pointers,
    values: SharedMut,
    accumulate: bool,
    /// Blocks and chunks that the task makes, numbered `block · chunks + chunk`.
    pieces: Range<usize>,
    /// Image rows of all strips, one strip's after the other's.
    rows: Range<usize>,
}

/// Most vectors of a tile.
const MOST: usize = 8;

impl Kernel for Rows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { mut part, readers: [x, dy] } = self;
        let Grid { from, to, size: [height, _] } = part.grid;
        let (mut channels_of_x, mut channels_of_dy) = (0..0, 0..0);
        for piece in part.pieces.clone() {
            let (block, chunk) = (piece / part.walk.chunks(), piece % part.walk.chunks());
            channels_of_x = union(channels_of_x, part.channels_of_piece(block, chunk));
            channels_of_dy = union(channels_of_dy, part.walk.rows(block));
        }
        for image_row in part.rows.clone() {
            let (strip, row) = (image_row / height, image_row % height);
            part.pointers.x = x.rows(isa, from.image_rows(strip, row), channels_of_x.clone());
            part.pointers.y = dy.rows(isa, to.image_rows(strip, row), channels_of_dy.clone()).cast_mut();
            part.row(isa, [strip, row], image_row > part.rows.start);
        }
    }
}

impl Part<'_> {
    /// An image row; `add` if an earlier one has made sums.
    #[inline(always)]
    fn row<I: Isa>(&self, isa: I, [strip, row]: [usize; 2], add: bool) {
        let pixels = Pixels::new(isa, self.grid, self.samples);
        let data = [self.pointers.x, self.pointers.y.cast_const()];
        for piece in self.pieces.clone() {
            let (block, chunk) = (piece / self.walk.chunks(), piece % self.walk.chunks());
            let segments = self.walk.segments(block, chunk);
            let entries: usize = segments.iter().map(|segment| segment.len as usize).sum();
            let tiles = pixels.tiles(strip, row, if I::IS_VECTOR { MOST } else { 1 });
            let shares = tiles.clone().count() * segments.len();
            let multiply_adds = entries * tiles.clone().map(|tile| tile.count).sum::<usize>();
            let channels = self.channels_of(block, chunk);
            let mut ahead = match self.pointers.is_memory {
                true => Ahead::of_row(&self.grid, data, [strip, row], channels, multiply_adds, shares),
                false => Ahead::none(),
            };
            let mut add = self.accumulate || add;
            for tile in tiles {
                self.widest(isa, segments, pixels.run(), tile, add, &mut ahead);
                add = true;
            }
        }
    }

    /// Channels of X that a block's entries of a chunk meet.
    fn channels_of_piece(&self, block: usize, chunk: usize) -> Range<usize> {
        let [of_x, of_y] =
            [self.shape.in_channels(), self.shape.out_channels()].map(|channels| channels / self.shape.groups());
        let (columns, rows) = (self.walk.columns(chunk), self.walk.rows(block));
        if columns.is_empty() || rows.is_empty() {
            return 0..0;
        }
        // A column is a tap of a channel of its row's group.
        let [first, last] = [rows.start, rows.end - 1].map(|row| row / of_y * of_x);
        first + columns.start / self.shape.taps()..last + columns.end.div_ceil(self.shape.taps())
    }

    /// Channels of X that a chunk and of dY that a block touches, but for those that an earlier piece of the task touched.
    fn channels_of(&self, block: usize, chunk: usize) -> [Range<usize>; 2] {
        let (from, chunks) = (self.channels_of_piece(block, chunk), self.walk.chunks());
        let piece = block * chunks + chunk;
        let is_new = |before: usize| piece < self.pieces.start + before;
        let (new_x, new_dy) = (is_new(chunks), chunk == 0 || is_new(1));
        [if new_x { from } else { 0..0 }, if new_dy { self.walk.rows(block) } else { 0..0 }]
    }

    #[inline(always)]
    fn widest<I: Isa>(&self, isa: I, segments: &[Segment], run: usize, tile: Tile, add: bool, ahead: &mut [Ahead; 2]) {
        macro_rules! choose {
            ($($run:pat, $count:literal => $p:literal $v:literal $dots:literal;)*) => {
                match (run, tile.count) {
                    $(($run, $count) => isa.call(Segments::<$p, $v, $dots> { part: self, segments, tile, add, ahead }),)*
                    _ => unreachable!("tiles have at most eight vectors"),
                }
            };
        }
        // Constant blocks, so that the tiles of other instruction sets are not even compiled.
        if const { !I::IS_VECTOR } {
            choose! { 0, 1 => 1 1 4; 1, 1 => 1 1 4; 2, 1 => 1 2 4; 4, 1 => 1 4 4; }
        } else if const { I::REGISTERS >= 32 } {
            choose! {
                0, 1 => 1 1 8; 0, 2 => 1 2 8; 0, 3 => 1 3 8; 0, 4 => 1 4 8; 0, 5 => 1 5 8; 0, 6 => 1 6 8; 0, 7 => 1 7 8; 0, 8 => 1 8 8;
                1, 1 => 1 1 8; 1, 2 => 2 1 8; 1, 3 => 3 1 8; 1, 4 => 4 1 8; 1, 5 => 5 1 8; 1, 6 => 6 1 8; 1, 7 => 7 1 8; 1, 8 => 8 1 8;
                2, 1 => 1 2 8; 2, 2 => 2 2 8; 2, 3 => 3 2 8; 2, 4 => 4 2 8;
            }
        } else {
            choose! {
                0, 1 => 1 1 8; 0, 2 => 1 2 8; 0, 3 => 1 3 8; 0, 4 => 1 4 8; 0, 5 => 1 5 8; 0, 6 => 1 6 8; 0, 7 => 1 7 4; 0, 8 => 1 8 4;
                1, 1 => 1 1 8; 1, 2 => 2 1 8; 1, 3 => 3 1 8; 1, 4 => 4 1 8; 1, 5 => 5 1 8; 1, 6 => 6 1 8; 1, 7 => 7 1 4; 1, 8 => 8 1 4;
                2, 1 => 1 2 8; 2, 2 => 2 2 8; 2, 3 => 3 2 8; 2, 4 => 4 2 4;
                4, 1 => 1 4 8; 4, 2 => 2 4 4;
            }
        }
    }
}

/// All segments of a part over one tile: `P` runs of `V` vectors, `DOTS` entries at a time.
struct Segments<'a, const P: usize, const V: usize, const DOTS: usize> {
    part: &'a Part<'a>,
    segments: &'a [Segment],
    tile: Tile,
    add: bool,
    ahead: &'a mut [Ahead; 2],
}

impl<const P: usize, const V: usize, const DOTS: usize> Kernel for Segments<'_, P, V, DOTS> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Segments { part, segments, tile, add, ahead } = self;
        let Pointers { x, y: dy, .. } = part.pointers;
        let (x, dy) = (x.wrapping_add(tile.from), dy.wrapping_add(tile.to).cast_const());
        let runs = Runs { pitch: part.grid.to.pixel, pieces: None };
        for segment in segments {
            ahead.iter_mut().for_each(|ahead| ahead.fetch(isa));
            // SAFETY: as in the forward pass: all pixels of the tile exist in dY and, at every entry's offset, in X; of a last
            // vector beyond the row's end, dY counts as zero. Entries belong to one row, so to one block.
            unsafe {
                let mut row = [[isa.splat(0.0); V]; P];
                runs.load(isa, dy.add(segment.row as usize * part.grid.to.channel), &mut row);
                if P == 1
                    && let Some(pieces) = tile.pieces
                {
                    row[0][V - 1] = isa.keep_first(row[0][V - 1], pieces.count - (V - 1) * I::LANES);
                }
                let start = segment.start as usize;
                let (columns, out) = (part.offsets.as_ptr().add(start), part.values.get().add(start));
                let pitch = part.grid.from.pixel;
                let row: Row<I, P, V, 0> = Row { columns, out, x, shift: 0, pitch, dy: row, tail: [], add };
                row.all::<DOTS>(isa, segment.len as usize);
            }
        }
    }
}
