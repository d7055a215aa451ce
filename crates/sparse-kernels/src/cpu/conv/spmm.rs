//! Sparse convolution, forward and input gradient: SpMM over tiles of pixels.
//!
//! ```text
//! for each row block, each strip, each band of image rows      (parallel)
//!   for each image row, each channel chunk
//!     for each tile of pixels                                  up to 8 vectors of a row
//!       for each R segments of the block and chunk             rows of about equal length, in lock-step
//!         acc[R][P · V] = first chunk ? 0 : Y
//!         for each entry e of the segments                     the hot loop of SpMM
//!           acc[r][p, v] += values[e] · X[pixel + offsets[e]]
//!         Y = acc
//! ```

use std::ops::Range;

use super::ahead::Ahead;
use super::grid::{Grid, isa_for};
use super::pixels::{Pixels, Runs, Tile};
use super::wide::{LEAST_ROWS, Output, Pointers, Reader, RowPart, Writer, is_half, union};
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::lockstep::{Entries, Source, add_entries};
use crate::cpu::plan::{Segment, Walk};
use crate::cpu::{Buffer, Cpu, Numbers};

/// Some passes over the same images, on different pixels of Y.
pub(super) struct Spmm<'a> {
    pub passes: &'a [Pass<'a>],
    pub strip: usize,
    pub strips: usize,
    pub x: Numbers<'a>,
    pub y: &'a mut Buffer,
}

/// One pass.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub grid: Grid,
    pub walk: &'a Walk,
    /// Whether tiles are wide.
    pub wide: bool,
    pub offsets: &'a [u32],
    pub values: &'a [f32],
}

/// Multiply-adds that a task should have at least, if there are several image rows to share out.
const TASK: usize = 1 << 19;

impl Spmm<'_> {
    /// Runs the passes.
    ///
    /// # Safety
    /// - Grid, walk and offsets of a pass are those of one plan; it has a value for each offset.
    /// - `x` and `y` are images of so many strips, in the layouts that the grids were made for, X in phases if the
    ///   convolution wants those.
    pub unsafe fn run(self, cpu: &Cpu) {
        let y = Output::new(self.y);
        let is_half = y.is_half() || is_half(self.x);
        // Row by row together, where nothing of one pass must stay in L2 for all of its rows: each row of X is read once for
        // all of them, and each line of Y, which several write to, written once.
        let together = if self.passes.iter().all(|pass| pass.walk.blocks() == 1) { self.passes.len() } else { 1 };
        for passes in self.passes.chunks(together.max(1)) {
            let height = passes.iter().map(|pass| pass.grid.size[0]).max().unwrap_or(0);
            let blocks = passes.iter().map(|pass| pass.walk.blocks()).max().unwrap_or(0);
            let work = |pass: &Pass<'_>| (pass.offsets.len() + 1) * pass.grid.size[1] * self.strip;
            let row_work: usize = passes.iter().map(work).sum();
            let most = if is_half { height.div_ceil(LEAST_ROWS) } else { height };
            let bands = most.min((height * row_work / blocks.max(1)).div_ceil(TASK)).max(1);
            let operations = 2 * (row_work * height * self.strips) as u64;
            let per_block = self.strips * bands;
            cpu.for_each_task(blocks * per_block, operations, |task| {
                let (block, strip, band) = (task / per_block, task % per_block / bands, task % bands);
                let rows = band * height / bands..(band + 1) * height / bands;
                let Grid { from, to, .. } = passes[0].grid;
                let touched = passes.iter().map(|pass| pass.grid.from.image_rows(0, 0));
                let at_once = touched.fold(0..0, union).len();
                let (mut reader, mut writer) = (Reader::new(cpu, self.x, &from, at_once), Writer::new(cpu, y, &to));
                let (images, pointers) = (Images { reader: &mut reader, writer: &mut writer }, Pointers::new(is_half));
                let part = Part { passes, samples: self.strip, pointers, block, strip };
                // Passes differ in pixels, not in their distance.
                dispatch(isa_for(cpu.isa(), passes[0].grid, self.strip), Rows { part, images, rows });
                reader.finish(cpu);
                writer.finish(cpu);
            });
        }
    }
}

/// The work of one task.
struct Rows<'t, 'a> {
    part: Part<'a>,
    images: Images<'t, 'a>,
    rows: Range<usize>,
}

/// Where X comes from and Y goes.
struct Images<'t, 'a> {
    reader: &'t mut Reader<'a>,
    writer: &'t mut Writer,
}

/// An image row's work.
struct Part<'a> {
    passes: &'a [Pass<'a>],
    samples: usize,
    pointers: Pointers,
    block: usize,
    strip: usize,
}

impl Kernel for Rows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { mut part, images: Images { reader, writer }, rows } = self;
        for row in rows {
            let mut touched = 0..0;
            for pass in part.passes.iter().filter(|pass| row < pass.grid.size[0]) {
                touched = union(touched, pass.grid.from.image_rows(part.strip, row));
            }
            let channels = part.passes[0].grid.from.channels();
            part.pointers.x = reader.rows(isa, touched, 0..channels);
            for pass in part.passes.iter().filter(|pass| row < pass.grid.size[0]) {
                let (to, width) = (&pass.grid.to, pass.grid.size[1]);
                let of_y = RowPart::of(to, [part.strip, row], pass.walk.rows(part.block), width, part.samples);
                // SAFETY: tasks differ in strip, image row or row block.
                unsafe {
                    part.pointers.y = writer.begin(isa, &of_y, to);
                    part.row(isa, pass, row);
                    writer.end(isa, &of_y, to);
                }
            }
        }
    }
}

impl Part<'_> {
    /// An image row of one pass.
    #[inline(always)]
    fn row<I: Isa>(&self, isa: I, pass: &Pass<'_>, row: usize) {
        let pixels = Pixels::new(isa, pass.grid, self.samples);
        // Taps of neighbouring columns overlap: the wider the tile, the less of X is loaded into L1 for it. Without overlap, a
        // narrow tile leaves room for more channels.
        let most = match () {
            _ if !I::IS_VECTOR => 1,
            _ if pass.wide && pixels.run() == 0 && I::REGISTERS < 32 => 8,
            _ => 4,
        };
        let tiles = pixels.tiles(self.strip, row, most);
        // X's next row, and of Y's the channels of this block, in as many shares as there are groups of about 3 segments.
        let channels = pass.walk.rows(self.block);
        let shares = tiles.clone().count() * (channels.len() * pass.walk.chunks()).div_ceil(3);
        let entries = pass.offsets.len() / pass.walk.blocks();
        let multiply_adds = entries * tiles.clone().map(|tile| tile.count).sum::<usize>();
        let data = [self.pointers.x, self.pointers.y.cast_const()];
        let channels = [0..pass.grid.from.image_row / pass.grid.from.channel, channels];
        let mut ahead = match self.pointers.is_memory {
            true => Ahead::of_row(&pass.grid, data, [self.strip, row], channels, multiply_adds, shares),
            false => Ahead::none(),
        };
        for chunk in 0..pass.walk.chunks() {
            for tile in tiles.clone() {
                self.widest(isa, pass, chunk, pixels.run(), tile, &mut ahead);
            }
        }
    }
}

impl Part<'_> {
    /// Chooses the tile's kernel: `R` rows in lock-step, `P` runs of `V` vectors.
    #[inline(always)]
    fn widest<I: Isa>(&self, isa: I, pass: &Pass<'_>, chunk: usize, run: usize, tile: Tile, ahead: &mut [Ahead; 2]) {
        // Constant blocks, so that the tiles of other instruction sets are not even compiled.
        if const { !I::IS_VECTOR } {
            match run {
                0 | 1 => isa.call(Segments::<2, 1, 1> { part: self, pass, chunk, tile, ahead }),
                2 => isa.call(Segments::<2, 1, 2> { part: self, pass, chunk, tile, ahead }),
                4 => isa.call(Segments::<2, 1, 4> { part: self, pass, chunk, tile, ahead }),
                _ => unreachable!("strips have at most 32 samples"),
            }
        } else if const { I::REGISTERS >= 32 } {
            match (run, tile.count) {
                (0, 1) => isa.call(Segments::<8, 1, 1> { part: self, pass, chunk, tile, ahead }),
                (0, 2) => isa.call(Segments::<6, 1, 2> { part: self, pass, chunk, tile, ahead }),
                (0, 3) => isa.call(Segments::<4, 1, 3> { part: self, pass, chunk, tile, ahead }),
                (0, 4) => isa.call(Segments::<4, 1, 4> { part: self, pass, chunk, tile, ahead }),
                (1, 1) => isa.call(Segments::<8, 1, 1> { part: self, pass, chunk, tile, ahead }),
                (1, 2) => isa.call(Segments::<6, 2, 1> { part: self, pass, chunk, tile, ahead }),
                (1, 3) => isa.call(Segments::<4, 3, 1> { part: self, pass, chunk, tile, ahead }),
                (1, 4) => isa.call(Segments::<4, 4, 1> { part: self, pass, chunk, tile, ahead }),
                (2, 1) => isa.call(Segments::<6, 1, 2> { part: self, pass, chunk, tile, ahead }),
                (2, 2) => isa.call(Segments::<4, 2, 2> { part: self, pass, chunk, tile, ahead }),
                _ => unreachable!("tiles have at most four vectors"),
            }
        } else {
            match (run, tile.count) {
                (0, 5) => isa.call(Segments::<2, 1, 5> { part: self, pass, chunk, tile, ahead }),
                (0, 6) => isa.call(Segments::<2, 1, 6> { part: self, pass, chunk, tile, ahead }),
                (0, 7) => isa.call(Segments::<1, 1, 7> { part: self, pass, chunk, tile, ahead }),
                (0, 8) => isa.call(Segments::<1, 1, 8> { part: self, pass, chunk, tile, ahead }),
                (0 | 1, 1) => isa.call(Segments::<6, 1, 1> { part: self, pass, chunk, tile, ahead }),
                (0, 2) | (2, 1) => isa.call(Segments::<6, 1, 2> { part: self, pass, chunk, tile, ahead }),
                (0, 3) => isa.call(Segments::<4, 1, 3> { part: self, pass, chunk, tile, ahead }),
                (0, 4) | (4, 1) => isa.call(Segments::<3, 1, 4> { part: self, pass, chunk, tile, ahead }),
                (1, 2) => isa.call(Segments::<6, 2, 1> { part: self, pass, chunk, tile, ahead }),
                (1, 3) => isa.call(Segments::<4, 3, 1> { part: self, pass, chunk, tile, ahead }),
                (1, 4) => isa.call(Segments::<3, 4, 1> { part: self, pass, chunk, tile, ahead }),
                (2, 2) => isa.call(Segments::<3, 2, 2> { part: self, pass, chunk, tile, ahead }),
                _ => unreachable!("tiles have at most four vectors"),
            }
        }
    }
}

/// All segments of a chunk over one tile: `R` rows in lock-step, `P` runs of `V` vectors.
struct Segments<'a, const R: usize, const P: usize, const V: usize> {
    part: &'a Part<'a>,
    pass: &'a Pass<'a>,
    chunk: usize,
    tile: Tile,
    ahead: &'a mut [Ahead; 2],
}

impl<const R: usize, const P: usize, const V: usize> Kernel for Segments<'_, R, P, V> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Segments { part, pass, chunk, tile, ahead } = self;
        let groups = pass.walk.segments(part.block, chunk).chunks_exact(R);
        let rest = groups.remainder();
        for group in groups {
            ahead.iter_mut().for_each(|ahead| ahead.fetch(isa));
            part.rows::<I, R, P, V>(isa, pass, group.try_into().expect("chunks_exact gives R"), tile, chunk == 0);
        }
        for segment in rest {
            part.rows::<I, 1, P, V>(isa, pass, std::array::from_ref(segment), tile, chunk == 0);
        }
    }
}

impl Part<'_> {
    /// R rows in lock-step over the pixels of a tile.
    #[inline(always)]
    fn rows<I: Isa, const R: usize, const P: usize, const V: usize>(
        &self,
        isa: I,
        pass: &Pass<'_>,
        group: &[Segment; R],
        tile: Tile,
        first: bool,
    ) {
        let (x, y) = (self.pointers.x.wrapping_add(tile.from), self.pointers.y.wrapping_add(tile.to));
        let runs = Runs { pitch: pass.grid.to.pixel, pieces: tile.pieces };
        // Why the accesses below are in bounds: the plan's layouts, which `run`'s caller promises X and Y to have, hold every
        // pixel of the grid, and every pixel of X at an entry's offset from one of them (borders included, as
        // `ConvOptions::check` sees to). A last vector may reach beyond its row, which at most ends two cache lines before the
        // buffer does (`ImageLayout::len`); of Y, such vectors touch only floats that count.
        // SAFETY: in bounds as said above; tasks differ in strip, image row or row block, so no other task writes these.
        unsafe {
            let y: [*mut f32; R] = std::array::from_fn(|r| y.add(group[r].row as usize * pass.grid.to.channel));
            let mut acc = [[[isa.splat(0.0); V]; P]; R];
            if !first {
                for (acc, y) in acc.iter_mut().zip(y) {
                    runs.load(isa, y, acc);
                }
            }
            let entries = group.map(|s| Entries {
                columns: pass.offsets.as_ptr().add(s.start as usize),
                values: pass.values.as_ptr().add(s.start as usize),
                len: s.len as usize,
            });
            add_entries(isa, entries, Source { x, shift: 0, pitch: pass.grid.from.pixel }, &mut acc);
            for (acc, y) in acc.iter().zip(y) {
                runs.store(isa, y, acc);
            }
        }
    }
}
