//! Sparse convolution, forward and input gradient: SpMM over tiles of pixels.
//!
//! ```text
//! for each row block, each strip, each band of image rows      (parallel)
//!   for each image row, each channel chunk
//!     for each tile of pixels                                  up to 4 vectors of a row
//!       for each R segments of the block and chunk             rows of about equal length, in lock-step
//!         acc[R][P · V] = first chunk ? 0 : Y
//!         for each entry e of the segments                     the hot loop of SpMM
//!           acc[r][p, v] += values[e] · X[pixel + offsets[e]]
//!         Y = acc
//! ```

use super::ahead::Ahead;
use super::grid::Grid;
use super::pixels::{Pixels, Runs, Tile};
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::lockstep::{Entries, Source, add_entries};
use crate::cpu::plan::{Segment, Walk};
use crate::cpu::{Buffer, Cpu, SharedMut};

/// One pass.
pub(super) struct Spmm<'a> {
    pub grid: Grid,
    pub walk: &'a Walk,
    pub offsets: &'a [u32],
    pub values: &'a [f32],
    pub strip: usize,
    pub strips: usize,
    pub x: &'a [f32],
    pub y: &'a mut Buffer,
}

/// Multiply-adds that a task should have at least, if there are several image rows to share out.
const TASK: usize = 1 << 19;

impl Spmm<'_> {
    /// Runs the pass; the caller has checked all shapes.
    pub fn run(self, cpu: &Cpu) {
        let (walk, blocks) = (self.walk, self.walk.blocks());
        let [height, width] = self.grid.size;
        let row_work = (self.offsets.len() / blocks + 1) * width * self.strip;
        let bands = height.min((height * row_work).div_ceil(TASK)).max(1);
        let operations = 2 * (self.offsets.len() * width * height * self.strip * self.strips) as u64;
        let y = SharedMut::new(self.y);
        let per_block = self.strips * bands;
        cpu.for_each_task(blocks * per_block, operations, |task| {
            let (block, strip, band) = (task / per_block, task % per_block / bands, task % bands);
            let part = Part {
                grid: self.grid,
                walk,
                offsets: self.offsets,
                values: self.values,
                samples: self.strip,
                x: self.x,
                y,
                block,
                strip,
                rows: band * height / bands..(band + 1) * height / bands,
            };
            // Strips of half a vector have neighbouring pixels in one vector, which a stride takes apart.
            let isa = super::isa_for(cpu.isa(), self.grid, self.strip);
            dispatch(isa, part);
        });
    }
}

/// The work of one task.
struct Part<'a> {
    grid: Grid,
    walk: &'a Walk,
    offsets: &'a [u32],
    values: &'a [f32],
    samples: usize,
    x: &'a [f32],
    y: SharedMut,
    block: usize,
    strip: usize,
    rows: std::ops::Range<usize>,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let pixels = Pixels::new(isa, self.grid, self.samples);
        // Taps of neighbouring columns overlap: the wider the tile, the less of X is loaded into L1 for it. Without overlap, a
        // narrow tile leaves room for more channels.
        let most = if self.grid.from.overlaps && pixels.run() == 0 && I::REGISTERS < 32 { 8 } else { 4 };
        let segments = (0..self.walk.chunks()).flat_map(|chunk| self.walk.segments(self.block, chunk));
        let (segments, entries) = segments.fold((0, 0), |(count, sum), s| (count + 1, sum + s.len as usize));
        let channels = self.walk.rows(self.block);
        for row in self.rows.clone() {
            // X's next row, and of Y's the channels of this block, in as many shares as there are groups of segments.
            let tiles = pixels.tiles(self.strip, row, most);
            let shares = tiles.clone().count() * segments / 3;
            let data = [self.x.as_ptr(), self.y.get().cast_const()];
            let all = [0..self.grid.from.image_row / self.grid.from.channel, channels.clone()];
            let multiply_adds = entries * tiles.clone().map(|tile| tile.count).sum::<usize>();
            let mut ahead = Ahead::of_row(&self.grid, data, [self.strip, row], all, multiply_adds, shares);
            for chunk in 0..self.walk.chunks() {
                for tile in tiles.clone() {
                    self.widest(isa, chunk, pixels.run(), tile, &mut ahead);
                }
            }
        }
    }
}

impl Part<'_> {
    /// Chooses the tile's kernel: `R` rows in lock-step, `P` runs of `V` vectors.
    #[inline(always)]
    fn widest<I: Isa>(&self, isa: I, chunk: usize, run: usize, tile: Tile, ahead: &mut [Ahead; 2]) {
        if I::REGISTERS >= 32 {
            match (run, tile.count) {
                (0, 1) => self.segments::<I, 8, 1, 1>(isa, chunk, tile, ahead),
                (0, 2) => self.segments::<I, 6, 1, 2>(isa, chunk, tile, ahead),
                (0, 3) => self.segments::<I, 4, 1, 3>(isa, chunk, tile, ahead),
                (0, 4) => self.segments::<I, 4, 1, 4>(isa, chunk, tile, ahead),
                (1, 1) => self.segments::<I, 8, 1, 1>(isa, chunk, tile, ahead),
                (1, 2) => self.segments::<I, 6, 2, 1>(isa, chunk, tile, ahead),
                (1, 3) => self.segments::<I, 4, 3, 1>(isa, chunk, tile, ahead),
                (1, 4) => self.segments::<I, 4, 4, 1>(isa, chunk, tile, ahead),
                (2, 1) => self.segments::<I, 6, 1, 2>(isa, chunk, tile, ahead),
                (2, 2) => self.segments::<I, 4, 2, 2>(isa, chunk, tile, ahead),
                _ => unreachable!("tiles have at most four vectors"),
            }
        } else {
            match (run, tile.count) {
                (0, 5) => self.segments::<I, 2, 1, 5>(isa, chunk, tile, ahead),
                (0, 6) => self.segments::<I, 2, 1, 6>(isa, chunk, tile, ahead),
                (0, 7) => self.segments::<I, 1, 1, 7>(isa, chunk, tile, ahead),
                (0, 8) => self.segments::<I, 1, 1, 8>(isa, chunk, tile, ahead),
                (0 | 1, 1) => self.segments::<I, 6, 1, 1>(isa, chunk, tile, ahead),
                (0, 2) | (2, 1) => self.segments::<I, 6, 1, 2>(isa, chunk, tile, ahead),
                (0, 3) => self.segments::<I, 4, 1, 3>(isa, chunk, tile, ahead),
                (0, 4) | (4, 1) => self.segments::<I, 3, 1, 4>(isa, chunk, tile, ahead),
                (1, 2) => self.segments::<I, 6, 2, 1>(isa, chunk, tile, ahead),
                (1, 3) => self.segments::<I, 4, 3, 1>(isa, chunk, tile, ahead),
                (1, 4) => self.segments::<I, 3, 4, 1>(isa, chunk, tile, ahead),
                (2, 2) => self.segments::<I, 3, 2, 2>(isa, chunk, tile, ahead),
                _ => unreachable!("tiles have at most four vectors"),
            }
        }
    }

    #[inline(always)]
    fn segments<I: Isa, const R: usize, const P: usize, const V: usize>(
        &self,
        isa: I,
        chunk: usize,
        tile: Tile,
        ahead: &mut [Ahead; 2],
    ) {
        let groups = self.walk.segments(self.block, chunk).chunks_exact(R);
        let rest = groups.remainder();
        for group in groups {
            ahead.iter_mut().for_each(|ahead| ahead.fetch(isa));
            self.rows::<I, R, P, V>(isa, group.try_into().expect("chunks_exact gives R"), tile, chunk == 0);
        }
        for segment in rest {
            self.rows::<I, 1, P, V>(isa, std::array::from_ref(segment), tile, chunk == 0);
        }
    }

    /// R rows in lock-step over the pixels of a tile.
    #[inline(always)]
    fn rows<I: Isa, const R: usize, const P: usize, const V: usize>(
        &self,
        isa: I,
        group: &[Segment; R],
        tile: Tile,
        first: bool,
    ) {
        let (x, y) = (self.x.as_ptr().wrapping_add(tile.from), self.y.get().wrapping_add(tile.to));
        let runs = Runs { pitch: self.grid.to.pixel, pieces: tile.pieces };
        // Why the accesses below are in bounds: the plan's layouts, which the caller found X and Y to have, hold every pixel
        // of the grid, and every pixel of X at an entry's offset from one of them (borders included: `check_layouts`). A
        // last vector may reach beyond its row, which at most ends two cache lines before the buffer does
        // (`ImageLayout::len`); of Y, such vectors touch only floats that count.
        // SAFETY: in bounds as said above; tasks differ in strip, image row or row block, so no other task writes these.
        unsafe {
            let y: [*mut f32; R] = std::array::from_fn(|r| y.add(group[r].row as usize * self.grid.to.channel));
            let mut acc = [[[isa.splat(0.0); V]; P]; R];
            if !first {
                for (acc, y) in acc.iter_mut().zip(y) {
                    runs.load(isa, y, acc);
                }
            }
            let entries = group.map(|s| Entries {
                columns: self.offsets.as_ptr().add(s.start as usize),
                values: self.values.as_ptr().add(s.start as usize),
                len: s.len as usize,
            });
            add_entries(isa, entries, Source { x, shift: 0, pitch: self.grid.from.pixel }, &mut acc);
            for (acc, y) in acc.iter().zip(y) {
                runs.store(isa, y, acc);
            }
        }
    }
}
