//! Streaming growth: the k largest entries of the dense gradient outside a pattern.
//!
//! ```text
//! list = []                                              on the device, at most `count` entries
//! for each band of the gradient                          at most 4 Mi elements, or one row
//!     gradient[band] = Σ over pairs of dY · Xᵀ
//!     keys = bits of abs(gradient), 0 where excluded     which order as scores do
//!     cut = the count-th of list and band together       radix selection, see `shaders/select.wgsl`
//!     list = what of list and band stands before the cut
//! read the list
//! ```
//!
//! Candidates are in a total order (score, tie hash, position), so the result depends on neither bands nor workgroups, and
//! it has exactly `count` entries however many scores are equal: ties are a radix selection too, over the hashes.
//!
//! # What crosses the bus
//!
//! Up, once for all bands, 4 bytes for each excluded position: who asks has them on the host only. Down, once, 8 bytes a
//! candidate (12 in matrices of more than 2^32 positions): its score and its place. Nothing else, and nothing in between:
//! how many candidates each band leaves in the list follows from the numbers of its elements and excluded positions, which
//! the host knows, and the cut stays on the device. A layer's growth is one submission and one wait.
//!
//! # What it costs
//!
//! The product; and beside it a band's keys are written once and read three to nine times for the cut and twice for the
//! list, from a cache that holds a band: 16 MiB. The list takes 12 bytes a candidate, twice; the gradient and the keys 4
//! bytes an element of a band.

use std::ops::Range;
use std::sync::{Arc, PoisonError};

use super::buffer::DeviceBuffer;
use super::device::Device;
use super::kernel::{Access, Kernel, Launch, Operand, Read, Work, Write};
use super::recorder::Command;
use super::scratch::Scratch;
use super::shaders;
use super::{Buffer, Gpu, Indices, WINDOW_UNIT, windows};
use crate::backend::GrowRequest;
use crate::random::Key;
use crate::{BackendError, Candidate, CsrPattern, Strips};

/// Elements of a band of the gradient, unless one row (of blocks) has more.
const BAND: usize = 4 << 20;
/// Invocations of a workgroup.
const GROUP: usize = 256;
/// Elements of a workgroup of `histogram`.
const COUNTED: usize = 8192;
/// Elements of a workgroup of `count` and `collect`.
const CHUNK: usize = 4096;
/// Bins of a histogram.
const BINS: usize = 2048;
/// Words of what is known of the cut.
const STATE_WORDS: usize = 8;
/// Where the digits of a word begin.
const SHIFTS: [u32; 3] = [21, 10, 0];

const fn kernel(name: &'static str, entry: &'static str, operands: &'static [Access]) -> Kernel {
    Kernel { name, source: shaders::SELECT, entry, operands }
}

static KEYS: Kernel = kernel("grow_keys", "keys_of", &[Read, Write]);
static EXCLUDE: Kernel = kernel("grow_exclude", "exclude", &[Read, Write]);
static HISTOGRAM: Kernel = kernel("grow_histogram", "histogram", &[Read, Read, Read, Read, Write]);
static FIND: Kernel = kernel("grow_find", "find", &[Write, Write]);
static COUNT: Kernel = kernel("grow_count", "count", &[Read, Read, Read, Read, Write]);
static OFFSETS: Kernel = kernel("grow_offsets", "offsets", &[Write]);
static COLLECT: Kernel = kernel("grow_collect", "collect", &[Read, Read, Read, Read, Read, Write, Write, Write]);
static BLOCK_NORMS: Kernel =
    Kernel::new("block_norms", shaders::BLOCK_NORMS, &[Read, Write]).called("grow_block_norms");

/// A buffer of at least `len` elements in a place for one.
fn at_least<'a, T>(
    slot: &'a mut Option<DeviceBuffer<T>>,
    device: &Arc<Device>,
    len: usize,
) -> Result<&'a DeviceBuffer<T>, BackendError> {
    if slot.as_ref().is_some_and(|held| held.len() < len) {
        // Before there is another: no need to hold both.
        *slot = None;
    }
    match slot {
        Some(held) => Ok(held),
        None => Ok(slot.insert(DeviceBuffer::zeros(device, len)?)),
    }
}

/// The list's three planes, each of the same number of elements: keys, low words and high words of the positions.
#[derive(Debug, Clone, Copy)]
struct List<'a> {
    words: &'a Indices,
    pitch: usize,
}

impl<'a> List<'a> {
    fn window(&self, plane: usize, part: &Range<usize>) -> Operand<'a> {
        self.words.window(plane * self.pitch + part.start, part.len())
    }
}

/// Elements that one launch sees.
struct Part<'a> {
    operands: [Operand<'a>; 3],
    len: usize,
    is_list: bool,
    base: u64,
    first_chunk: usize,
}

/// Elements of the band that is selected from: positions from `base` on, `len` of them, of which those in a range of the
/// excluded ones do not count.
#[derive(Debug, Clone)]
struct Band {
    base: u64,
    len: usize,
    excluded: Range<usize>,
}

/// A selection in progress.
struct Selection<'a> {
    gpu: &'a Gpu,
    keys: &'a Indices,
    excluded: &'a Indices,
    lists: [List<'a>; 2],
    counts: &'a Indices,
    state: &'a Indices,
    bins: &'a Indices,
    ties: Key,
    count: usize,
    /// Whether positions may be beyond 2^32.
    is_wide: bool,
    /// Which list holds the best so far, and how many.
    current: usize,
    held: usize,
    /// Candidates seen.
    available: u64,
}

/// `Parameters` of the shader, but for those that are asked for here.
#[derive(Debug, Default, Clone, Copy)]
struct Parameters {
    word: u32,
    shift: u32,
    wanted: usize,
    is_all: bool,
    slots: [usize; 2],
}

impl<'a> Selection<'a> {
    fn params(&self, part: &Part<'_>, own: Parameters) -> [u32; 13] {
        let [k0, k1] = self.ties.words();
        let Parameters { word, shift, wanted, is_all, slots } = own;
        [
            part.len as u32,
            u32::from(part.is_list),
            part.base as u32,
            (part.base >> 32) as u32,
            k0,
            k1,
            word,
            shift,
            wanted as u32,
            u32::from(is_all),
            part.first_chunk as u32,
            slots[0] as u32,
            slots[1] as u32,
        ]
    }

    /// The list, then the band, in parts that kernels can see.
    fn parts(&self, band: &Band) -> Vec<Part<'a>> {
        let most = self.gpu.window_elements();
        let mut first_chunk = 0;
        let mut parts = Vec::new();
        let list = self.lists[self.current];
        for part in windows::flat(self.held, most) {
            let operands = [0, 1, 2].map(|plane| list.window(plane, &part));
            parts.push(Part { operands, len: part.len(), is_list: true, base: 0, first_chunk });
            first_chunk += part.len().div_ceil(CHUNK);
        }
        for part in windows::flat(band.len, most) {
            let keys = self.keys.window(part.start, part.len());
            let base = band.base + part.start as u64;
            parts.push(Part { operands: [keys; 3], len: part.len(), is_list: false, base, first_chunk });
            first_chunk += part.len().div_ceil(CHUNK);
        }
        parts
    }

    /// Takes the best of the list and of a band whose keys are written.
    fn push(&mut self, band: &Band) -> Result<(), BackendError> {
        let fresh = band.len - band.excluded.len();
        if fresh == 0 {
            return Ok(());
        }
        self.exclude(band)?;
        self.available += fresh as u64;
        let wanted = usize::try_from(self.available).map_or(self.count, |available| available.min(self.count));
        let parts = self.parts(band);
        let is_all = wanted == self.held + fresh;
        if !is_all {
            self.find_cut(&parts, wanted)?;
        }
        let (gpu, state) = (self.gpu, self.state.whole());
        let counts = self.counts.whole();
        let own = Parameters { is_all, ..Parameters::default() };
        for part in &parts {
            let [keys, lows, highs] = part.operands;
            gpu.launch(&Launch {
                kernel: &COUNT,
                constants: &[],
                params: &self.params(part, own),
                operands: &[keys, lows, highs, state, counts],
                workgroups: part.len.div_ceil(CHUNK),
                work: Work::words(part.len),
            })?;
        }
        let chunks = parts.last().map_or(0, |last| last.first_chunk + last.len.div_ceil(CHUNK));
        let all = Part { operands: [counts; 3], len: 0, is_list: false, base: 0, first_chunk: chunks };
        gpu.launch(&Launch {
            kernel: &OFFSETS,
            constants: &[],
            params: &self.params(&all, own),
            operands: &[counts],
            workgroups: 1,
            work: Work::words(2 * chunks),
        })?;
        let to = self.lists[1 - self.current];
        for slots in windows::flat(wanted, gpu.window_elements()) {
            for part in &parts {
                let [keys, lows, highs] = part.operands;
                let own = Parameters { slots: [slots.start, slots.len()], ..own };
                let [to_keys, to_lows, to_highs] = [0, 1, 2].map(|plane| to.window(plane, &slots));
                gpu.launch(&Launch {
                    kernel: &COLLECT,
                    constants: &[],
                    params: &self.params(part, own),
                    operands: &[keys, lows, highs, state, counts, to_keys, to_lows, to_highs],
                    workgroups: part.len.div_ceil(CHUNK),
                    work: Work::words(part.len + 3 * slots.len()),
                })?;
            }
        }
        self.current = 1 - self.current;
        self.held = wanted;
        Ok(())
    }

    /// Marks what is no candidate.
    fn exclude(&self, band: &Band) -> Result<(), BackendError> {
        let most = self.gpu.window_elements();
        // From where a window may begin.
        let start = band.excluded.start / WINDOW_UNIT * WINDOW_UNIT;
        for entries in windows::flat(band.excluded.end - start, most) {
            let entries = start + entries.start..start + entries.end;
            let first = band.excluded.start.max(entries.start);
            for keys in windows::flat(band.len, most) {
                self.gpu.launch(&Launch {
                    kernel: &EXCLUDE,
                    constants: &[],
                    params: &[
                        (entries.end - first) as u32,
                        (first - entries.start) as u32,
                        keys.start as u32,
                        keys.len() as u32,
                    ],
                    operands: &[
                        self.excluded.window(entries.start, entries.len()),
                        self.keys.window(keys.start, keys.len()),
                    ],
                    workgroups: (entries.end - first).div_ceil(GROUP),
                    work: Work::words(2 * (entries.end - first)),
                })?;
            }
        }
        Ok(())
    }

    /// Finds the `wanted`-th of all elements, on the device.
    fn find_cut(&self, parts: &[Part<'_>], wanted: usize) -> Result<(), BackendError> {
        let (gpu, state, bins) = (self.gpu, self.state.whole(), self.bins.whole());
        // Key, hash, high and low word of the position; the high word is 0 in all but the largest matrices.
        let words = [0, 1, 2, 3].into_iter().filter(|&word| word != 2 || self.is_wide);
        for (word, shift) in words.flat_map(|word| SHIFTS.map(|shift| (word, shift))) {
            let own = Parameters { word, shift, wanted, ..Parameters::default() };
            for part in parts {
                let [keys, lows, highs] = part.operands;
                gpu.launch(&Launch {
                    kernel: &HISTOGRAM,
                    constants: &[],
                    params: &self.params(part, own),
                    operands: &[keys, lows, highs, state, bins],
                    workgroups: part.len.div_ceil(COUNTED),
                    work: Work::words(if word == 0 { part.len } else { 0 }),
                })?;
            }
            let none = Part { operands: [bins; 3], len: 0, is_list: false, base: 0, first_chunk: 0 };
            gpu.launch(&Launch {
                kernel: &FIND,
                constants: &[],
                params: &self.params(&none, own),
                operands: &[bins, state],
                workgroups: 1,
                work: Work::words(BINS),
            })?;
        }
        Ok(())
    }

    /// Reads the list; candidates are places in rows of `ncols` positions.
    fn finish(self, ncols: usize) -> Result<Vec<Candidate>, BackendError> {
        let list = self.lists[self.current];
        let planes = if self.is_wide { 3 } else { 2 };
        let mut words = vec![0u32; planes * list.pitch];
        self.gpu.read_all(&[list.words], &mut [&mut words])?;
        let (keys, rest) = words.split_at(list.pitch);
        let (lows, highs) = rest.split_at(list.pitch);
        let candidate = |i: usize| {
            let position = u64::from(lows[i]) | u64::from(highs.get(i).copied().unwrap_or(0)) << 32;
            let (row, column) = (position / ncols as u64, position % ncols as u64);
            Candidate { row: row as u32, column: column as u32, score: f32::from_bits(keys[i].wrapping_sub(1)) }
        };
        Ok((0..self.held).map(candidate).collect())
    }
}

impl Scratch {
    /// A selection of `count` among `positions` positions, in bands of `step` of them; and memory for `gradient` elements.
    fn selection<'a>(
        &'a mut self,
        gpu: &'a Gpu,
        ties: Key,
        count: usize,
        (positions, step): (u64, usize),
        excluded: &[u32],
        gradient: usize,
    ) -> Result<(Selection<'a>, &'a Buffer), BackendError> {
        let device = &gpu.device;
        let pitch = count.next_multiple_of(WINDOW_UNIT);
        if u32::try_from(pitch).is_err() {
            return Err(gpu.unsupported(format!("{count} positions to grow at once")));
        }
        let places = at_least(&mut self.excluded, device, excluded.len())?;
        gpu.write(excluded, places)?;
        let [a, b] = &mut self.lists;
        let [a, b] = [at_least(a, device, 3 * pitch)?, at_least(b, device, 3 * pitch)?];
        let most = gpu.window_elements();
        let len = usize::try_from(positions).map_or(step, |positions| positions.min(step));
        // Each window's last chunk may be short.
        let chunks = |len: usize| len / CHUNK + len / most.max(1) + 2;
        let bins = at_least(&mut self.bins, device, BINS)?;
        {
            // A selection that failed half way may have left something.
            let mut recorder = gpu.recorder();
            recorder.touch([bins.id()]);
            recorder.push(Command::Clear { to: bins.raw().clone(), bytes: 4 * BINS as u64 });
        }
        let selection = Selection {
            gpu,
            keys: at_least(&mut self.keys, device, len)?,
            excluded: places,
            lists: [List { words: a, pitch }, List { words: b, pitch }],
            counts: at_least(&mut self.counts, device, chunks(count) + chunks(len))?,
            state: at_least(&mut self.state, device, STATE_WORDS)?,
            bins,
            ties,
            count,
            is_wide: positions > 1 << 32,
            current: 0,
            held: 0,
            available: 0,
        };
        Ok((selection, at_least(&mut self.gradient, device, gradient)?))
    }
}

/// The excluded positions as places in their bands of `step` positions, and how many come before each band.
fn excluded_in_bands(exclude: &CsrPattern, bands: usize, step: usize) -> (Vec<u32>, Vec<usize>) {
    let (ncols, step) = (exclude.ncols() as u64, step as u64);
    let mut places = Vec::with_capacity(exclude.nnz());
    let mut starts = vec![0; bands + 1];
    for (row, column) in exclude.positions() {
        let position = u64::from(row) * ncols + u64::from(column);
        places.push((position % step) as u32);
        starts[(position / step) as usize + 1] += 1;
    }
    for band in 0..bands {
        starts[band + 1] += starts[band];
    }
    (places, starts)
}

impl Gpu {
    /// Elements of a band: as many as a kernel sees, so that tests have many bands.
    fn band_elements(&self) -> usize {
        BAND.min(self.window_elements())
    }

    /// The best of bands of `step` positions, after `write(band, gradient, keys)` has queued what writes the keys of each.
    fn select(
        &self,
        request: &GrowRequest,
        step: usize,
        gradient: usize,
        mut write: impl FnMut(Range<u64>, &Buffer, &Indices) -> Result<(), BackendError>,
    ) -> Result<Vec<Candidate>, BackendError> {
        let exclude = &*request.exclude;
        let positions = exclude.nrows() as u64 * exclude.ncols() as u64;
        let available = positions - exclude.nnz() as u64;
        // There are no more candidates than this.
        let count = usize::try_from(available).map_or(request.count, |available| available.min(request.count));
        if count == 0 {
            return Ok(Vec::new());
        }
        let bands = positions.div_ceil(step as u64) as usize;
        let (excluded, starts) = excluded_in_bands(exclude, bands, step);
        let mut scratch = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut selection, gradient) =
            scratch.selection(self, request.ties, count, (positions, step), &excluded, gradient)?;
        for band in 0..bands {
            let base = (band * step) as u64;
            let end = (base + step as u64).min(positions);
            let part = Band { base, len: (end - base) as usize, excluded: starts[band]..starts[band + 1] };
            if part.len > part.excluded.len() {
                write(base..end, gradient, selection.keys)?;
                selection.push(&part)?;
            }
        }
        selection.finish(exclude.ncols())
    }

    /// Queues `keys[i] = key(gradient[start + i])`; `start` is where a window may begin.
    fn keys_of(&self, gradient: &Buffer, start: usize, len: usize, keys: &Indices) -> Result<(), BackendError> {
        for part in windows::flat(len, self.window_elements()) {
            let quads = part.len().div_ceil(4);
            self.launch(&Launch {
                kernel: &KEYS,
                constants: &[],
                params: &[quads as u32],
                operands: &[gradient.window(start + part.start, part.len()), keys.window(part.start, part.len())],
                workgroups: quads.div_ceil(GROUP),
                work: Work::words(2 * part.len()),
            })?;
        }
        Ok(())
    }

    /// The largest entries of a gradient that `band(rows, out)` queues the computation of: `out[i · ncols + j]`, `i` from the
    /// first of the rows on, is overwritten with row-major elements of the matrix that [`GrowRequest::exclude`] speaks of.
    /// `out` may be longer. `band` must not grow anything itself.
    ///
    /// # Errors
    /// What `band` fails with, or if the device fails.
    pub(super) fn grow_from_bands(
        &self,
        request: &GrowRequest,
        mut band: impl FnMut(Range<usize>, &Buffer) -> Result<(), BackendError>,
    ) -> Result<Vec<Candidate>, BackendError> {
        let (nrows, ncols) = (request.exclude.nrows(), request.exclude.ncols());
        let rows = (self.band_elements() / ncols.max(1)).clamp(1, nrows.max(1));
        let step = rows * ncols;
        self.select(request, step.max(1), step, |positions, gradient, keys| {
            let [start, end] = [positions.start, positions.end].map(|at| (at / ncols as u64) as usize);
            band(start..end, gradient)?;
            self.keys_of(gradient, 0, (end - start) * ncols, keys)
        })
    }

    /// `out = Σ dY[rows] · Xᵀ`.
    pub(super) fn gradient_of_pairs(
        &self,
        rows: Range<usize>,
        pairs: &[(&Strips<Self>, &Strips<Self>)],
        out: &Buffer,
    ) -> Result<(), BackendError> {
        let pairs = pairs.iter().filter(|(_, x)| x.layout.lanes() > 0);
        let mut accumulate = false;
        for (dy, x) in pairs {
            self.dense_gradient_rows(rows.clone(), dy, x, out, accumulate)?;
            accumulate = true;
        }
        if accumulate { Ok(()) } else { self.fill_buffer(0.0, out) }
    }

    /// See [`crate::SparseLinear::largest`].
    pub(super) fn largest_of(&self, gradient: &Buffer, request: &GrowRequest) -> Result<Vec<Candidate>, BackendError> {
        let step = (self.band_elements() / WINDOW_UNIT).max(1) * WINDOW_UNIT;
        self.select(request, step, 0, |positions, _, keys| {
            self.keys_of(gradient, positions.start as usize, (positions.end - positions.start) as usize, keys)
        })
    }

    /// See [`crate::BlockSparseLinear::grow_blocks`].
    pub(super) fn grow_bsr(
        &self,
        [r, c]: [usize; 2],
        [nrows, ncols]: [usize; 2],
        request: &GrowRequest,
        pairs: &[(&Strips<Self>, &Strips<Self>)],
    ) -> Result<Vec<Candidate>, BackendError> {
        if r * ncols > self.window_elements() {
            let what = format!("a row of blocks with {} bytes of gradient, more than a kernel may see", 4 * r * ncols);
            return Err(self.unsupported(what));
        }
        let exclude = &*request.exclude;
        let across = exclude.ncols();
        let block_rows = (self.band_elements() / (r * ncols).max(1)).clamp(1, exclude.nrows().max(1));
        let step = (block_rows * across).max(1);
        self.select(request, step, (block_rows * r * ncols).min(nrows * ncols), |blocks, gradient, keys| {
            let [start, end] = [blocks.start, blocks.end].map(|at| (at / across as u64) as usize);
            let rows = start * r..(end * r).min(nrows);
            self.gradient_of_pairs(rows.clone(), pairs, gradient)?;
            let (blocks, elements) = ((end - start) * across, rows.len() * ncols);
            self.launch(&Launch {
                kernel: &BLOCK_NORMS,
                constants: &[("R", r as f64), ("C", c as f64)],
                params: &[blocks as u32, across as u32, rows.len() as u32, ncols as u32, 0],
                operands: &[gradient.window(0, elements), keys.window(0, blocks)],
                workgroups: blocks.div_ceil(64),
                work: Work { bytes: 4 * (elements + blocks) as u64, operations: 2 * elements as u64 },
            })
        })
    }
}

#[cfg(test)]
#[path = "grow_tests.rs"]
mod tests;
