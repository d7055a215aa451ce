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

use super::grid::Grid;
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
                lanes: self.strip,
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
    lanes: usize,
    x: &'a [f32],
    y: SharedMut,
    block: usize,
    strip: usize,
    rows: std::ops::Range<usize>,
}

/// Some pixels of a row.
#[derive(Clone, Copy)]
struct Tile {
    x: *const f32,
    y: *mut f32,
    /// Between runs.
    x_pitch: usize,
    y_pitch: usize,
    /// How the floats of the last vector are stored, where that is not whole.
    pieces: Option<Pieces>,
    first: bool,
}

/// A last vector of which not all floats are pixels, or pixels that are not contiguous in Y.
#[derive(Clone, Copy)]
struct Pieces {
    /// Floats of the tile that count.
    count: usize,
    /// From float to float in Y.
    step: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (from, to) = (self.grid.from, self.grid.to);
        let width = self.grid.size[1];
        // Pixels of S samples: contiguous, or runs of V vectors each.
        let run = if self.grid.is_contiguous(self.lanes) || self.lanes < I::LANES { 0 } else { self.lanes / I::LANES };
        let tile_pixels_or_vectors = if run == 0 { (width * self.lanes).div_ceil(I::LANES) } else { width };
        let most = if run == 0 { most_vectors::<I>(tile_pixels_or_vectors) } else { (4 / run).max(1) };
        let tiles = tile_pixels_or_vectors.div_ceil(most);
        let bound = |tile: usize| tile * tile_pixels_or_vectors / tiles;
        let scatter = run == 0 && to.pixel != self.lanes;
        for row in self.rows.clone() {
            let (x, y) = (from.at(self.strip, row, 0), to.at(self.strip, row, 0));
            for chunk in 0..self.walk.chunks() {
                for tile in 0..tiles {
                    let (start, count) = (bound(tile), bound(tile + 1) - bound(tile));
                    let first = chunk == 0;
                    let (x_step, y_step) = match run {
                        0 => (I::LANES, if scatter { I::LANES * to.pixel } else { I::LANES }),
                        _ => (from.pixel, to.pixel),
                    };
                    let left = width * self.lanes - if run == 0 { start * I::LANES } else { 0 };
                    let whole = run > 0 || (!scatter && left >= count * I::LANES);
                    let step = if scatter { to.pixel } else { 1 };
                    let pieces = (!whole).then(|| Pieces { count: left.min(count * I::LANES), step });
                    let tile = Tile {
                        x: self.x.as_ptr().wrapping_add(x + start * x_step),
                        y: self.y.get().wrapping_add(y + start * y_step),
                        x_pitch: from.pixel,
                        y_pitch: to.pixel,
                        pieces,
                        first,
                    };
                    self.widest(isa, chunk, run, count, tile);
                }
            }
        }
    }
}

/// Vectors of a row's widest tile.
fn most_vectors<I: Isa>(_vectors: usize) -> usize {
    4
}

impl Part<'_> {
    /// Chooses the tile's kernel: `R` rows in lock-step, `P` runs of `V` vectors.
    #[inline(always)]
    fn widest<I: Isa>(&self, isa: I, chunk: usize, run: usize, count: usize, tile: Tile) {
        if I::REGISTERS >= 32 {
            match (run, count) {
                (0, 1) => self.segments::<I, 8, 1, 1>(isa, chunk, tile),
                (0, 2) => self.segments::<I, 6, 1, 2>(isa, chunk, tile),
                (0, 3) => self.segments::<I, 4, 1, 3>(isa, chunk, tile),
                (0, 4) => self.segments::<I, 4, 1, 4>(isa, chunk, tile),
                (1, 1) => self.segments::<I, 8, 1, 1>(isa, chunk, tile),
                (1, 2) => self.segments::<I, 6, 2, 1>(isa, chunk, tile),
                (1, 3) => self.segments::<I, 4, 3, 1>(isa, chunk, tile),
                (1, 4) => self.segments::<I, 4, 4, 1>(isa, chunk, tile),
                (2, 1) => self.segments::<I, 6, 1, 2>(isa, chunk, tile),
                (2, 2) => self.segments::<I, 4, 2, 2>(isa, chunk, tile),
                _ => unreachable!("tiles have at most four vectors"),
            }
        } else {
            match (run, count) {
                (0 | 1, 1) => self.segments::<I, 6, 1, 1>(isa, chunk, tile),
                (0, 2) | (2, 1) => self.segments::<I, 6, 1, 2>(isa, chunk, tile),
                (0, 3) => self.segments::<I, 4, 1, 3>(isa, chunk, tile),
                (0, 4) | (4, 1) => self.segments::<I, 3, 1, 4>(isa, chunk, tile),
                (1, 2) => self.segments::<I, 6, 2, 1>(isa, chunk, tile),
                (1, 3) => self.segments::<I, 4, 3, 1>(isa, chunk, tile),
                (1, 4) => self.segments::<I, 3, 4, 1>(isa, chunk, tile),
                (2, 2) => self.segments::<I, 3, 2, 2>(isa, chunk, tile),
                _ => unreachable!("tiles have at most four vectors"),
            }
        }
    }

    #[inline(always)]
    fn segments<I: Isa, const R: usize, const P: usize, const V: usize>(&self, isa: I, chunk: usize, tile: Tile) {
        let groups = self.walk.segments(self.block, chunk).chunks_exact(R);
        let rest = groups.remainder();
        for group in groups {
            self.rows::<I, R, P, V>(isa, group.try_into().expect("chunks_exact gives R"), tile);
        }
        for segment in rest {
            self.rows::<I, 1, P, V>(isa, std::array::from_ref(segment), tile);
        }
    }

    /// R rows in lock-step over the pixels of a tile.
    #[inline(always)]
    fn rows<I: Isa, const R: usize, const P: usize, const V: usize>(&self, isa: I, group: &[Segment; R], tile: Tile) {
        // Why the accesses below are in bounds: the plan's layouts, which the caller found X and Y to have, hold every pixel
        // of the grid, and every pixel of X at an entry's offset from one of them (borders included: `check_layouts`). A
        // last vector may reach beyond its row, which at most ends two cache lines before the buffer does
        // (`ImageLayout::len`); of Y, such vectors touch only floats that count.
        // SAFETY: in bounds as said above; tasks differ in strip, image row or row block, so no other task writes these.
        unsafe {
            let y: [*mut f32; R] = std::array::from_fn(|r| tile.y.add(group[r].row as usize * self.grid.to.channel));
            let mut acc = [[[isa.splat(0.0); V]; P]; R];
            if !tile.first {
                for (acc, y) in acc.iter_mut().zip(y) {
                    match tile.pieces {
                        None => {
                            for (p, acc) in acc.iter_mut().enumerate() {
                                for (v, acc) in acc.iter_mut().enumerate() {
                                    *acc = isa.load(y.add(p * tile.y_pitch + v * I::LANES));
                                }
                            }
                        }
                        Some(pieces) => pieces.load(isa, y, acc.as_flattened_mut()),
                    }
                }
            }
            let entries = group.map(|s| Entries {
                columns: self.offsets.as_ptr().add(s.start as usize),
                values: self.values.as_ptr().add(s.start as usize),
                len: s.len as usize,
            });
            add_entries(isa, entries, Source { x: tile.x, shift: 0, pitch: tile.x_pitch }, &mut acc);
            for (acc, y) in acc.iter().zip(y) {
                match tile.pieces {
                    None => {
                        for (p, acc) in acc.iter().enumerate() {
                            for (v, &acc) in acc.iter().enumerate() {
                                isa.store(y.add(p * tile.y_pitch + v * I::LANES), acc);
                            }
                        }
                    }
                    Some(pieces) => pieces.store(isa, y, acc.as_flattened()),
                }
            }
        }
    }
}

/// Most floats of a tile.
const MOST_FLOATS: usize = 4 * 16;

impl Pieces {
    /// # Safety
    /// `y` can be read at `count` places `step` apart.
    #[inline(always)]
    unsafe fn load<I: Isa>(self, isa: I, y: *const f32, to: &mut [I::V]) {
        let mut floats = [0.0; MOST_FLOATS];
        for (i, float) in floats.iter_mut().enumerate().take(self.count) {
            // SAFETY: the caller's promise.
            *float = unsafe { *y.add(i * self.step) };
        }
        for (to, from) in to.iter_mut().zip(floats.chunks_exact(I::LANES)) {
            // SAFETY: a chunk has LANES floats.
            *to = unsafe { isa.load(from.as_ptr()) };
        }
    }

    /// # Safety
    /// `y` can be written at `count` places `step` apart.
    #[inline(always)]
    unsafe fn store<I: Isa>(self, isa: I, y: *mut f32, from: &[I::V]) {
        let mut floats = [0.0; MOST_FLOATS];
        for (&from, to) in from.iter().zip(floats.chunks_exact_mut(I::LANES)) {
            // SAFETY: a chunk has LANES floats.
            unsafe { isa.store(to.as_mut_ptr(), from) };
        }
        for (i, &float) in floats.iter().enumerate().take(self.count) {
            // SAFETY: the caller's promise.
            unsafe { *y.add(i * self.step) = float };
        }
    }
}
