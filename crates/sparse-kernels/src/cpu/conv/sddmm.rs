//! Sparse convolution, weight gradient: SDDMM over tiles of pixels.

use super::grid::Grid;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::plan::Walk;
use crate::cpu::sddmm::Row;
use crate::cpu::{Cpu, SharedMut};

/// One sampled product.
pub(super) struct Sddmm<'a> {
    pub grid: Grid,
    pub walk: &'a Walk,
    pub offsets: &'a [u32],
    pub strip: usize,
    pub strips: usize,
    pub dy: &'a [f32],
    pub x: &'a [f32],
    pub values: &'a mut [f32],
    /// Add to `values` instead of overwriting them.
    pub accumulate: bool,
}

/// Tasks wanted, that many threads find work.
const TASKS: usize = 16;

impl Sddmm<'_> {
    /// Runs the product; the caller has checked all shapes.
    pub fn run(self, cpu: &Cpu) {
        let [height, width] = self.grid.size;
        let rows = height * self.strips;
        if rows * width == 0 {
            if !self.accumulate {
                self.values.fill(0.0);
            }
            return;
        }
        let (blocks, chunks) = (self.walk.blocks(), self.walk.chunks());
        let parts = TASKS.div_ceil(blocks * chunks).min(rows).min(8);
        let operations = 2 * (self.offsets.len() * width * rows * self.strip) as u64;
        let nnz = self.values.len();
        // The first part goes straight to the values, the others are added to it in their order.
        let mut rest = cpu.scratch(nnz * (parts - 1));
        let (values, others) = (SharedMut::new(self.values), SharedMut::new(&mut rest));
        cpu.for_each_task(blocks * chunks * parts, operations, |task| {
            let (block, chunk, index) = (task / parts / chunks, task / parts % chunks, task % parts);
            let part = Part {
                grid: self.grid,
                walk: self.walk,
                offsets: self.offsets,
                lanes: self.strip,
                dy: self.dy,
                x: self.x,
                values: if index == 0 { values.get() } else { others.get().wrapping_add((index - 1) * nnz) },
                accumulate: self.accumulate && index == 0,
                block,
                chunk,
                rows: index * rows / parts..(index + 1) * rows / parts,
            };
            dispatch(super::isa_for(cpu.isa(), self.grid, self.strip), part);
        });
        if parts > 1 && nnz > 0 {
            let rest = &rest[..];
            let add = |start: usize, part: &mut [f32]| {
                for other in rest.chunks_exact(nnz) {
                    part.iter_mut().zip(&other[start..]).for_each(|(to, from)| *to += from);
                }
            };
            cpu.for_each_chunk(self.values, crate::cpu::ELEMENTS_PER_TASK, 8 * (nnz * parts) as u64, add);
        }
        cpu.give_back(rest);
    }
}

/// The work of one task.
struct Part<'a> {
    grid: Grid,
    walk: &'a Walk,
    offsets: &'a [u32],
    lanes: usize,
    dy: &'a [f32],
    x: &'a [f32],
    values: *mut f32,
    accumulate: bool,
    block: usize,
    chunk: usize,
    /// Image rows of all strips, one strip's after the other's.
    rows: std::ops::Range<usize>,
}

/// Some pixels of a row.
#[derive(Clone, Copy)]
struct Tile {
    x: *const f32,
    dy: *const f32,
    x_pitch: usize,
    dy_pitch: usize,
    /// Floats that count.
    count: usize,
    add: bool,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let (from, to) = (self.grid.from, self.grid.to);
        let [height, width] = self.grid.size;
        let run = if self.grid.is_contiguous(self.lanes) || self.lanes < I::LANES { 0 } else { self.lanes / I::LANES };
        let all = if run == 0 { (width * self.lanes).div_ceil(I::LANES) } else { width };
        let most = if run == 0 { 8 } else { (8 / run).max(1) };
        let tiles = all.div_ceil(most);
        let bound = |tile: usize| tile * all / tiles;
        let mut add = self.accumulate;
        for row in self.rows.clone() {
            let (strip, row) = (row / height, row % height);
            let (x, dy) = (from.at(strip, row, 0), to.at(strip, row, 0));
            for tile in 0..tiles {
                let (start, count) = (bound(tile), bound(tile + 1) - bound(tile));
                let (x_step, dy_step) = if run == 0 { (I::LANES, I::LANES) } else { (from.pixel, to.pixel) };
                let left = if run == 0 { width * self.lanes - start * I::LANES } else { usize::MAX };
                let tile = Tile {
                    x: self.x.as_ptr().wrapping_add(x + start * x_step),
                    dy: self.dy.as_ptr().wrapping_add(dy + start * dy_step),
                    x_pitch: from.pixel,
                    dy_pitch: to.pixel,
                    count: left,
                    add,
                };
                self.widest(isa, run, count, tile);
                add = true;
            }
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn widest<I: Isa>(&self, isa: I, run: usize, count: usize, tile: Tile) {
        macro_rules! choose {
            ($($run:pat, $count:literal => $p:literal $v:literal $dots:literal;)*) => {
                match (run, count) {
                    $(($run, $count) => self.segments::<I, $p, $v, $dots>(isa, tile),)*
                    _ => unreachable!("tiles have at most eight vectors"),
                }
            };
        }
        if I::REGISTERS >= 32 {
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

    #[inline(always)]
    fn segments<I: Isa, const P: usize, const V: usize, const DOTS: usize>(&self, isa: I, tile: Tile) {
        for segment in self.walk.segments(self.block, self.chunk) {
            // SAFETY: as in the forward pass: all pixels of the tile exist in dY and, at every entry's offset, in X; of a last
            // vector beyond the row's end, dY counts as zero. Entries belong to one row, so to one block.
            unsafe {
                let at = tile.dy.add(segment.row as usize * self.grid.to.channel);
                let mut dy = [[isa.splat(0.0); V]; P];
                for (p, dy) in dy.iter_mut().enumerate() {
                    for (v, dy) in dy.iter_mut().enumerate() {
                        *dy = isa.load(at.add(p * tile.dy_pitch + v * I::LANES));
                    }
                }
                if tile.count < V * I::LANES {
                    let mut last = [0.0; 16];
                    let kept = tile.count - (V - 1) * I::LANES;
                    for (lane, float) in last.iter_mut().enumerate().take(kept) {
                        *float = *at.add((V - 1) * I::LANES + lane);
                    }
                    dy[0][V - 1] = isa.load(last.as_ptr());
                }
                let start = segment.start as usize;
                let (columns, out) = (self.offsets.as_ptr().add(start), self.values.add(start));
                let row: Row<I, P, V, 0> =
                    Row { columns, out, x: tile.x, shift: 0, pitch: tile.x_pitch, dy, tail: [], add: tile.add };
                row.all::<DOTS>(isa, segment.len as usize);
            }
        }
    }
}
