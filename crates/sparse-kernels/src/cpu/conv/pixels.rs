//! How the pixels of an image row are cut into tiles of vectors.

use std::ops::Range;

use super::grid::Grid;
use crate::cpu::isa::Isa;

/// A row of pixels of S samples each, in vectors.
///
/// Where pixels are contiguous in both tensors, the row is one run of vectors, whose last one may hold floats that are no
/// pixels; else each pixel is a *run* of its own, of S / LANES vectors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pixels {
    grid: Grid,
    /// Floats of a pixel.
    samples: usize,
    lanes: usize,
    /// Vectors of a pixel, or 0 for a row in one run.
    run: usize,
}

/// Vectors of a tile and where they stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile {
    /// Runs of a tile of single pixels; else vectors.
    pub count: usize,
    /// Elements from the start of X's buffer, and of Y's.
    pub from: usize,
    pub to: usize,
    /// Which of the floats are stored, and where, if not all, or not together.
    pub pieces: Option<Pieces>,
}

/// An image row: runs of whole vectors, and what is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct WholeRow {
    /// Elements from the start of X's buffer, and of Y's, to the first run.
    pub from: usize,
    pub to: usize,
    pub runs: usize,
    /// Floats of a run, in whole vectors.
    pub floats: usize,
    /// What follows the run and fills no vector.
    pub rest: Option<Pieces>,
}

/// Floats of a tile that count, where they are incomplete vectors or not contiguous in Y.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pieces {
    /// How many.
    pub count: usize,
    /// From float to float in Y.
    pub step: usize,
}

impl Pixels {
    pub fn new<I: Isa>(_isa: I, grid: Grid, samples: usize) -> Self {
        let contiguous = grid.is_contiguous(samples) || samples < I::LANES;
        Self { grid, samples, lanes: I::LANES, run: if contiguous { 0 } else { samples / I::LANES } }
    }

    /// Vectors of a pixel; 0 where the row is one run.
    pub fn run(&self) -> usize {
        self.run
    }

    /// The tiles of an image row, left to right, of at most `most` vectors and of about equal size.
    pub fn tiles(self, strip: usize, row: usize, most: usize) -> impl Iterator<Item = Tile> + Clone {
        let width = self.grid.size[1];
        let (all, most) = match self.run {
            0 => ((width * self.samples).div_ceil(self.lanes), most),
            run => (width, (most / run).max(1)),
        };
        let tiles = all.div_ceil(most);
        (0..tiles).map(move |tile| self.tile(strip, row, tile * all / tiles..(tile + 1) * all / tiles))
    }

    /// A whole image row.
    pub fn row(&self, strip: usize, row: usize) -> WholeRow {
        let Grid { size: [_, width], from, to } = self.grid;
        let (from, to) = (from.at(strip, row, 0), to.at(strip, row, 0));
        if self.run > 0 {
            return WholeRow { from, to, runs: width, floats: self.samples, rest: None };
        }
        let (all, step) =
            (width * self.samples, if self.grid.to.pixel == self.samples { 1 } else { self.grid.to.pixel });
        let count = if step == 1 { all % self.lanes } else { all };
        let rest = (count > 0).then_some(Pieces { count, step });
        WholeRow { from, to, runs: 1, floats: all - count, rest }
    }

    fn tile(&self, strip: usize, row: usize, part: Range<usize>) -> Tile {
        let Grid { size: [_, width], from, to } = self.grid;
        let (x, y) = (from.at(strip, row, 0), to.at(strip, row, 0));
        let count = part.len();
        if self.run > 0 {
            return Tile { count, from: x + part.start * from.pixel, to: y + part.start * to.pixel, pieces: None };
        }
        let step = if to.pixel == self.samples { 1 } else { to.pixel };
        let first = part.start * self.lanes;
        let floats = (width * self.samples - first).min(count * self.lanes);
        let whole = step == 1 && floats == count * self.lanes;
        let pieces = (!whole).then_some(Pieces { count: floats, step });
        Tile { count, from: x + first, to: y + first * step, pieces }
    }
}

/// Most floats of a tile.
const MOST_FLOATS: usize = 8 * 16;

impl Pieces {
    /// Reads the floats that count. Not inlined: every tile of every kernel would have its copy.
    ///
    /// # Safety
    /// `from` can be read at `count` places `step` apart.
    #[inline(never)]
    unsafe fn read(self, from: *const f32, to: &mut [f32; MOST_FLOATS]) {
        for (i, float) in to.iter_mut().enumerate().take(self.count) {
            // SAFETY: the caller's promise.
            *float = unsafe { *from.add(i * self.step) };
        }
    }

    /// Writes the floats that count. Not inlined, as [`Pieces::read`].
    ///
    /// # Safety
    /// `to` can be written at `count` places `step` apart.
    #[inline(never)]
    unsafe fn write(self, to: *mut f32, from: &[f32; MOST_FLOATS]) {
        for (i, &float) in from.iter().enumerate().take(self.count) {
            // SAFETY: the caller's promise.
            unsafe { *to.add(i * self.step) = float };
        }
    }
}

/// P runs of V vectors of one channel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Runs {
    /// From run to run.
    pub pitch: usize,
    pub pieces: Option<Pieces>,
}

impl Runs {
    /// Reads a tile's vectors of one channel.
    ///
    /// # Safety
    /// The tile's pixels can be read from `from` on.
    #[inline(always)]
    pub unsafe fn load<I: Isa, const P: usize, const V: usize>(
        self,
        isa: I,
        from: *const f32,
        to: &mut [[I::V; V]; P],
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            // Runs of single pixels are whole.
            if P == 1
                && let Some(pieces) = self.pieces
            {
                const { assert!(V * I::LANES <= MOST_FLOATS) };
                let mut floats = [0.0; MOST_FLOATS];
                pieces.read(from, &mut floats);
                for (to, from) in to[0].iter_mut().zip(floats.chunks_exact(I::LANES)) {
                    *to = isa.load(from.as_ptr());
                }
                return;
            }
            for (p, to) in to.iter_mut().enumerate() {
                for (v, to) in to.iter_mut().enumerate() {
                    *to = isa.load(from.add(p * self.pitch + v * I::LANES));
                }
            }
        }
    }

    /// Writes a tile's vectors of one channel.
    ///
    /// # Safety
    /// The tile's pixels can be written from `to` on.
    #[inline(always)]
    pub unsafe fn store<I: Isa, const P: usize, const V: usize>(self, isa: I, to: *mut f32, from: &[[I::V; V]; P]) {
        // SAFETY: the caller's promise.
        unsafe {
            if P == 1
                && let Some(pieces) = self.pieces
            {
                let mut floats = [0.0; MOST_FLOATS];
                for (&from, to) in from[0].iter().zip(floats.chunks_exact_mut(I::LANES)) {
                    isa.store(to.as_mut_ptr(), from);
                }
                return pieces.write(to, &floats);
            }
            for (p, from) in from.iter().enumerate() {
                for (v, &from) in from.iter().enumerate() {
                    isa.store(to.add(p * self.pitch + v * I::LANES), from);
                }
            }
        }
    }
}
