//! Convolution in panels of rows that share their columns: dense ones, and those of blocks. Forward and input gradient.
//!
//! ```text
//! for each strip, each band of image rows                  (parallel)
//!   for each image row, each column chunk                  the chunk's part of X settles in L1
//!     for each V vectors of the row's pixels
//!       for each panel of R rows
//!         acc[R][V] = first chunk ? 0 : Y
//!         for each column of the panel                     the hot loop:
//!           x[V] = X[pixel + offset of the column]         V loads
//!           acc[r][v] += value[column][r] · x[v]           R broadcasts, R · V multiply-adds
//!         Y = acc
//! ```
//!
//! A loaded vector of X serves R rows and a broadcast value V vectors: (R + V + 1) loads for R · V multiply-adds.

use std::ops::Range;

use super::ahead::Ahead;
use super::grid::{Grid, isa_for};
use super::pixels::{Pixels, Runs, Tile};
use super::wide::{LEAST_ROWS, Output, Pointers, Reader, RowPart, Writer, is_half};
use crate::cpu::isa::{Isa, IsaName, Kernel, array_of, dispatch};
use crate::cpu::{Buffer, Cpu, Numbers};

/// Some rows of the output and the columns that they all have, within one chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Panel {
    /// First output channel.
    pub row: u32,
    /// Number of rows: 1, 2, 4, 6 or 8.
    pub rows: u32,
    /// First of the columns, among the offsets.
    pub columns: u32,
    /// Number of columns.
    pub len: u32,
    /// First of the packed values, `[column][row]`.
    pub values: u32,
}

/// Panels of a pass and where their columns stand.
#[derive(Debug, Default)]
pub(super) struct Panels {
    /// Where a column's pixels stand in the input, relative to the pixel of the output that they are for.
    pub offsets: Vec<u32>,
    /// Panels, chunk by chunk.
    pub panels: Vec<Panel>,
    /// `panels[bounds[c]..bounds[c + 1]]` are those of chunk `c`; the first chunk has every row.
    pub bounds: Vec<u32>,
    /// Values in all.
    pub values: usize,
}

impl Panels {
    pub fn bytes(&self) -> usize {
        (self.offsets.len() + self.bounds.len()) * size_of::<u32>() + self.panels.len() * size_of::<Panel>()
    }

    /// Rows of the panels that a band of `rows` rows is cut into: as many as registers allow, the last ones fewer.
    pub fn heights(most: usize, rows: usize) -> impl Iterator<Item = (usize, usize)> {
        let mut row = 0;
        std::iter::from_fn(move || {
            let left = rows - row;
            let height = [most, 4, 2, 1].into_iter().find(|&height| height <= most && height <= left)?;
            row += height;
            Some((row - height, height))
        })
    }
}

/// Most rows of a panel of a matrix without blocks.
pub(super) fn most_rows(isa: IsaName) -> usize {
    if isa.registers() >= 32 { 8 } else { 6 }
}

/// One pass.
pub(super) struct Product<'a> {
    pub grid: Grid,
    pub panels: &'a Panels,
    pub values: &'a [f32],
    pub strip: usize,
    pub strips: usize,
    pub x: Numbers<'a>,
    pub y: &'a mut Buffer,
}

/// Multiply-adds that a task should have at least, if there are several image rows to share out.
const TASK: usize = 1 << 20;

impl Product<'_> {
    /// Runs the pass; the caller has checked all shapes.
    pub fn run(self, cpu: &Cpu) {
        debug_assert_eq!(self.values.len(), self.panels.values);
        let [height, width] = self.grid.size;
        let row_work = (self.values.len() + 1) * width * self.strip;
        let y = Output::new(self.y);
        let is_half = y.is_half() || is_half(self.x);
        let most = if is_half { height.div_ceil(LEAST_ROWS) } else { height };
        let bands = most.min((height * row_work).div_ceil(TASK)).max(1);
        let operations = 2 * (self.values.len() * width * height * self.strip * self.strips) as u64;
        cpu.for_each_task(self.strips * bands, operations, |task| {
            let (strip, band) = (task / bands, task % bands);
            let part = Part {
                grid: self.grid,
                panels: self.panels,
                values: self.values,
                samples: self.strip,
                pointers: Pointers::new(is_half),
                strip,
            };
            let Grid { from, to, .. } = self.grid;
            let (mut reader, mut writer) =
                (Reader::new(cpu, self.x, &from, from.reach_of(1)), Writer::new(cpu, y, &to));
            let rows = band * height / bands..(band + 1) * height / bands;
            let task = Rows { part, reader: &mut reader, writer: &mut writer, rows };
            dispatch(isa_for(cpu.isa(), self.grid, self.strip), task);
            reader.finish(cpu);
            writer.finish(cpu);
        });
    }
}

/// The work of one task.
struct Rows<'t, 'a> {
    part: Part<'a>,
    reader: &'t mut Reader<'a>,
    writer: &'t mut Writer,
    rows: Range<usize>,
}

/// An image row's work.
struct Part<'a> {
    grid: Grid,
    panels: &'a Panels,
    values: &'a [f32],
    samples: usize,
    pointers: Pointers,
    strip: usize,
}

impl Kernel for Rows<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { mut part, reader, writer, rows } = self;
        let Grid { from, to, size: [_, width] } = part.grid;
        for row in rows {
            part.pointers.x = reader.rows(isa, from.image_rows(part.strip, row), 0..from.channels());
            let of_y = RowPart::of(&to, [part.strip, row], 0..to.channels(), width, part.samples);
            // SAFETY: tasks differ in strip or image row.
            unsafe {
                part.pointers.y = writer.begin(isa, &of_y, &to);
                part.row(isa, row);
                writer.end(isa, &of_y, &to);
            }
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn row<I: Isa>(&self, isa: I, row: usize) {
        let pixels = Pixels::new(isa, self.grid, self.samples);
        let Panels { panels, bounds, .. } = self.panels;
        let tallest = panels.iter().map(|panel| panel.rows).max().unwrap_or(1);
        // R · V accumulators, V vectors of X and a broadcast must fit the registers.
        let most = match tallest {
            _ if !I::IS_VECTOR => 1,
            6 => 2,
            4 | 8 => 3,
            _ => 4,
        };
        let channels = [self.grid.from, self.grid.to].map(|side| 0..side.channels());
        let tiles = pixels.tiles(self.strip, row, most);
        let shares = tiles.clone().count() * panels.len();
        let multiply_adds = self.values.len() * tiles.clone().map(|tile| tile.count).sum::<usize>();
        let (data, at) = ([self.pointers.x, self.pointers.y.cast_const()], [self.strip, row]);
        let mut ahead = match self.pointers.is_memory {
            true => Ahead::of_row(&self.grid, data, at, channels, multiply_adds, shares),
            false => Ahead::none(),
        };
        for (chunk, bounds) in bounds.windows(2).enumerate() {
            let panels = &panels[bounds[0] as usize..bounds[1] as usize];
            for tile in tiles.clone() {
                self.widest(isa, panels, pixels.run(), tile, chunk == 0, &mut ahead);
            }
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn widest<I: Isa>(&self, isa: I, panels: &[Panel], run: usize, tile: Tile, first: bool, ahead: &mut [Ahead; 2]) {
        // Constant blocks, so that tiles that are not used are not even compiled.
        if const { !I::IS_VECTOR } {
            return match run {
                0 | 1 => isa.call(Over::<1, 1> { part: self, panels, tile, first, ahead }),
                2 => isa.call(Over::<1, 2> { part: self, panels, tile, first, ahead }),
                4 => isa.call(Over::<1, 4> { part: self, panels, tile, first, ahead }),
                _ => unreachable!("strips have at most 32 samples"),
            };
        }
        match (run, tile.count) {
            (0 | 1, 1) => isa.call(Over::<1, 1> { part: self, panels, tile, first, ahead }),
            (0, 2) | (2, 1) => isa.call(Over::<1, 2> { part: self, panels, tile, first, ahead }),
            (0, 3) => isa.call(Over::<1, 3> { part: self, panels, tile, first, ahead }),
            (0, 4) | (4, 1) => isa.call(Over::<1, 4> { part: self, panels, tile, first, ahead }),
            (1, 2) => isa.call(Over::<2, 1> { part: self, panels, tile, first, ahead }),
            (1, 3) => isa.call(Over::<3, 1> { part: self, panels, tile, first, ahead }),
            (1, 4) => isa.call(Over::<4, 1> { part: self, panels, tile, first, ahead }),
            (2, 2) => isa.call(Over::<2, 2> { part: self, panels, tile, first, ahead }),
            _ => unreachable!("tiles have at most four vectors"),
        }
    }
}

/// Panels over one tile: `P` runs of `V` vectors.
struct Over<'a, const P: usize, const V: usize> {
    part: &'a Part<'a>,
    panels: &'a [Panel],
    tile: Tile,
    first: bool,
    ahead: &'a mut [Ahead; 2],
}

impl<const P: usize, const V: usize> Kernel for Over<'_, P, V> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Over { part, panels, tile, first, ahead } = self;
        for panel in panels {
            ahead.iter_mut().for_each(|ahead| ahead.fetch(isa));
            match panel.rows {
                8 if const { I::REGISTERS >= 32 } => part.panel::<I, 8, P, V>(isa, panel, tile, first),
                6 if const { I::REGISTERS < 32 } => part.panel::<I, 6, P, V>(isa, panel, tile, first),
                4 => part.panel::<I, 4, P, V>(isa, panel, tile, first),
                2 => part.panel::<I, 2, P, V>(isa, panel, tile, first),
                1 => part.panel::<I, 1, P, V>(isa, panel, tile, first),
                _ => unreachable!("panels have 1, 2, 4, and 6 or 8 rows"),
            }
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    fn panel<I: Isa, const R: usize, const P: usize, const V: usize>(
        &self,
        isa: I,
        panel: &Panel,
        tile: Tile,
        first: bool,
    ) {
        let (x, y) = (self.pointers.x.wrapping_add(tile.from), self.pointers.y.wrapping_add(tile.to));
        let runs = Runs { pitch: self.grid.to.pixel, pieces: tile.pieces };
        let pitch = self.grid.from.pixel;
        // SAFETY: as in the sparse product (see there): offsets reach pixels of X, borders included; rows are channels of Y;
        // tasks differ in strip or image row. A panel has R values for each of its columns.
        unsafe {
            let y = y.add(panel.row as usize * self.grid.to.channel);
            let mut acc = [[[isa.splat(0.0); V]; P]; R];
            if !first {
                for (r, acc) in acc.iter_mut().enumerate() {
                    runs.load(isa, y.add(r * self.grid.to.channel), acc);
                }
            }
            let columns = self.panels.offsets.as_ptr().add(panel.columns as usize);
            let mut values = self.values.as_ptr().add(panel.values as usize);
            for k in 0..panel.len as usize {
                let x = x.add(*columns.add(k) as usize);
                let x: [[I::V; V]; P] = array_of(|p| array_of(|v| isa.load(x.add(p * pitch + v * I::LANES))));
                // Written out, lest the compiler leave a loop whose accumulators are in memory.
                macro_rules! rows {
                    ($($r:literal)*) => { $(if $r < R {
                        let w = isa.splat(*values.add($r));
                        for (acc, x) in acc[$r].as_flattened_mut().iter_mut().zip(x.as_flattened()) {
                            *acc = isa.mul_add(w, *x, *acc);
                        }
                        // All registers are taken: the next row must not begin before this one is done.
                        for acc in acc[$r].as_flattened_mut() {
                            *acc = isa.pin(*acc);
                        }
                    })* };
                }
                const { assert!(R <= 8) };
                rows!(0 1 2 3 4 5 6 7);
                values = values.add(R);
            }
            for (r, acc) in acc.iter().enumerate() {
                runs.store(isa, y.add(r * self.grid.to.channel), acc);
            }
        }
    }
}
