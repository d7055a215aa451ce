//! SDDMM over strips: `dW[i, j] = Σ_n dY[i, n] · X[j, n]` at the stored positions `(i, j)`.
//!
//! ```text
//! for each row block, each column chunk               (parallel)
//!   for each group of P strips                        X's part settles in the cache
//!     for each segment (a row's entries in the chunk)   in the order of the matrix: dY, columns and dW are streams
//!       dy[P · V] = the row of dY                     stays in registers
//!       for each 8 entries                            (4 where registers are few)
//!         acc[8] = Σ dy[p, v] · X[p][columns[e]][v]   one load per multiply-add, 8 chains
//!         dW[8] += sums of acc's lanes                one transposing tree of adds
//! ```
//!
//! Eight dot products at once share the horizontal sums: a tree of shuffles and adds turns eight accumulators into
//! one vector of eight sums, about three operations per entry. With four at once there are four chains only, but one
//! group does not wait for another: the processor runs the next group's multiply-adds meanwhile.

use super::ahead::{Ahead, LINE};
use super::isa::{Isa, Kernel, array_of, dispatch, two_columns};
use super::plan::{Segment, Walk};
use super::{Cpu, SharedMut};
use crate::{CsrPattern, StripLayout};

/// One sampled product.
pub(super) struct Sddmm<'a> {
    pub pattern: &'a CsrPattern,
    pub walk: &'a Walk,
    pub dy_layout: StripLayout,
    pub dy: &'a [f32],
    pub x_layout: StripLayout,
    pub x: &'a [f32],
    pub values: &'a mut [f32],
    /// Add to `values` instead of overwriting them.
    pub accumulate: bool,
}

impl Sddmm<'_> {
    /// Runs the product.
    ///
    /// # Safety
    /// - `x` and `dy` are as long as their layouts say, which agree in lanes and strip, the strip being the plan's.
    /// - They have as many features as the pattern has columns and rows; `values` has one value for each of its entries.
    /// - `walk` is that of the pattern's entries.
    pub unsafe fn run(self, cpu: &Cpu) {
        if self.x_layout.lanes() == 0 && !self.accumulate {
            self.values.fill(0.0);
        }
        let operations = 2 * self.pattern.nnz() as u64 * self.x_layout.lanes() as u64;
        let values = SharedMut::new(self.values);
        let chunks = self.walk.chunks();
        // Few uses of a row of X do not pay for fetching all of them.
        let uses = self.pattern.nnz() / (self.x_layout.features() * self.walk.blocks()).max(1);
        let fetch_x = uses >= FEW_USES && cpu.is_far(self.x.len() + self.dy.len());
        cpu.for_each_task(self.walk.blocks() * chunks, operations, |task| {
            let part = Part {
                pattern: self.pattern,
                walk: self.walk,
                dy_layout: self.dy_layout,
                dy: self.dy,
                x_layout: self.x_layout,
                x: self.x,
                values,
                accumulate: self.accumulate,
                fetch_x,
                block: task / chunks,
                chunk: task % chunks,
            };
            dispatch(cpu.isa, part);
        });
    }
}

/// How many segments ahead entries and rows of dY are fetched: a line from L3 takes about as long as two.
const AHEAD: usize = 3;

/// Times that a block uses each row of X on average, below which they are not fetched ahead: one row in three is not used.
const FEW_USES: usize = 1;

/// The work of one task: one row block and column chunk.
struct Part<'a> {
    pattern: &'a CsrPattern,
    walk: &'a Walk,
    dy_layout: StripLayout,
    dy: &'a [f32],
    x_layout: StripLayout,
    x: &'a [f32],
    values: SharedMut,
    accumulate: bool,
    /// Whether X's part for the next strips is fetched.
    fetch_x: bool,
    block: usize,
    chunk: usize,
}

impl Kernel for Part<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let segments = self.walk.segments(self.block, self.chunk);
        let mut strip = 0;
        while strip < self.x_layout.strips() {
            strip += self.widest(isa, segments, strip);
        }
    }
}

impl Part<'_> {
    /// Does one or more strips from `strip` on and returns how many: as many as leave the accumulators and the row of dY in
    /// registers. A last strip of one vector goes with those before it: by itself it would make a tree of sums for a single
    /// product of each entry.
    #[inline(always)]
    fn widest<I: Isa>(&self, isa: I, segments: &[Segment], strip: usize) -> usize {
        let strips = self.x_layout.strips();
        let vectors_of = |s: usize| self.x_layout.lanes_of(s).div_ceil(I::LANES);
        let vectors = vectors_of(strip);
        // Tails are last and may have fewer vectors; a group of strips must be uniform.
        let alike = (strip..strips).take_while(|&s| vectors_of(s) == vectors).count();
        let ends_in_one = |count: usize| strip + count + 1 == strips && vectors > 1 && vectors_of(strips - 1) == 1;
        // Constant blocks, so that the tiles of other instruction sets are not even compiled.
        if const { I::REGISTERS >= 32 } {
            match (vectors, alike) {
                (1, 4..) => isa.call(Strips::<4, 1, 0, 8> { part: self, segments, strip }),
                (1, _) => isa.call(Strips::<1, 1, 0, 8> { part: self, segments, strip }),
                (2, 2..) if ends_in_one(2) => isa.call(Strips::<2, 2, 1, 8> { part: self, segments, strip }),
                (2, 2..) => isa.call(Strips::<2, 2, 0, 8> { part: self, segments, strip }),
                (2, _) if ends_in_one(1) => isa.call(Strips::<1, 2, 1, 8> { part: self, segments, strip }),
                (2, _) => isa.call(Strips::<1, 2, 0, 8> { part: self, segments, strip }),
                (3, _) => isa.call(Strips::<1, 3, 0, 8> { part: self, segments, strip }),
                (4, 2..) => isa.call(Strips::<2, 4, 0, 8> { part: self, segments, strip }),
                (4, _) => isa.call(Strips::<1, 4, 0, 8> { part: self, segments, strip }),
                _ => unreachable!("strips hold at most 64 lanes"),
            }
        } else {
            match (vectors, alike) {
                (1, _) => isa.call(Strips::<1, 1, 0, 8> { part: self, segments, strip }),
                (2, 2..) => isa.call(Strips::<2, 2, 0, 8> { part: self, segments, strip }),
                (2, _) => isa.call(Strips::<1, 2, 0, 8> { part: self, segments, strip }),
                (3, _) => isa.call(Strips::<1, 3, 0, 8> { part: self, segments, strip }),
                // Two strips' rows of dY fill half of the registers, which leaves four dot products at once: the sums
                // are then made half as often.
                (4, 2..) if ends_in_one(2) => isa.call(Strips::<2, 4, 1, 4> { part: self, segments, strip }),
                (4, 2..) => isa.call(Strips::<2, 4, 0, 4> { part: self, segments, strip }),
                (4, _) if ends_in_one(1) => isa.call(Strips::<1, 4, 1, 8> { part: self, segments, strip }),
                (4, _) => isa.call(Strips::<1, 4, 0, 8> { part: self, segments, strip }),
                (5, _) => isa.call(Strips::<1, 5, 0, 8> { part: self, segments, strip }),
                (6, _) => isa.call(Strips::<1, 6, 0, 8> { part: self, segments, strip }),
                (7, _) => isa.call(Strips::<1, 7, 0, 8> { part: self, segments, strip }),
                (8, _) => isa.call(Strips::<1, 8, 0, 8> { part: self, segments, strip }),
                _ => unreachable!("strips hold at most 64 lanes"),
            }
        }
    }
}

/// `P` strips of `V` vectors and `T` vectors of the next; returns the number of strips.
struct Strips<'a, const P: usize, const V: usize, const T: usize, const DOTS: usize> {
    part: &'a Part<'a>,
    segments: &'a [Segment],
    strip: usize,
}

impl<const P: usize, const V: usize, const T: usize, const DOTS: usize> Kernel for Strips<'_, P, V, T, DOTS> {
    type Output = usize;

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) -> usize {
        let Strips { part, segments, strip } = self;
        let add = part.accumulate || strip > 0;
        let all = part.walk.segments_and_more(part.block, part.chunk, AHEAD);
        let mut ahead = part.next_x::<P>(segments.len(), strip + P + T.min(1));
        for (i, segment) in segments.iter().enumerate() {
            if let Some(next) = all.get(i + AHEAD) {
                let row = strip * part.dy_layout.strip_pitch() + next.row as usize * part.dy_layout.strip();
                for p in 0..P + T {
                    for at in (0..V * I::LANES).step_by(LINE) {
                        isa.prefetch(part.dy.as_ptr().wrapping_add(row + p * part.dy_layout.strip_pitch() + at));
                    }
                }
                for at in (next.start as usize..(next.start + next.len) as usize + LINE - 1).step_by(LINE) {
                    isa.prefetch(part.pattern.col_indices().as_ptr().wrapping_add(at).cast());
                    isa.prefetch(part.values.get().wrapping_add(at));
                }
            }
            ahead.iter_mut().for_each(|ahead| ahead.fetch(isa));
            part.segment::<I, P, V, T, DOTS>(isa, segment, strip, add);
        }
        P + T.min(1)
    }
}

impl Part<'_> {
    /// X's part for the strips from `next` on, or if this chunk has no more of them, for the next chunk's first.
    fn next_x<const P: usize>(&self, segments: usize, next: usize) -> [Ahead; P] {
        let (chunk, strip) = match next < self.x_layout.strips() {
            true => (self.chunk, next),
            false => ((self.chunk + 1) % self.walk.chunks(), 0),
        };
        let x = (self.x.as_ptr(), self.x_layout);
        if self.fetch_x { Ahead::of_chunk(self.walk, chunk, x, strip, segments) } else { Ahead::none() }
    }

    /// The entries of one segment over P strips of V vectors and T vectors more from `strip` on, DOTS (4 or 8) at a time.
    #[inline(always)]
    fn segment<I: Isa, const P: usize, const V: usize, const T: usize, const DOTS: usize>(
        &self,
        isa: I,
        segment: &Segment,
        strip: usize,
        add: bool,
    ) {
        let shift = self.x_layout.strip().trailing_zeros();
        let (x_pitch, dy_pitch) = (self.x_layout.strip_pitch(), self.dy_layout.strip_pitch());
        let x = self.x.as_ptr().wrapping_add(strip * x_pitch);
        // SAFETY: as in SpMM: segments hold entries of the pattern, columns are below x's number of features, rows below
        // dy's, strips `strip..strip + P` exist and hold V vectors a row, the next T; entries belong to one row, so to one block.
        unsafe {
            let columns = self.pattern.col_indices().as_ptr().add(segment.start as usize);
            let out = self.values.get().add(segment.start as usize);
            let row = self.dy.as_ptr().add(strip * dy_pitch + ((segment.row as usize) << shift));
            let mut dy = [[isa.splat(0.0); V]; P];
            for (p, dy) in dy.iter_mut().enumerate() {
                for (v, dy) in dy.iter_mut().enumerate() {
                    *dy = isa.load(row.add(p * dy_pitch + v * I::LANES));
                }
            }
            let tail = array_of(|t| isa.load(row.add(P * dy_pitch + t * I::LANES)));
            let row: Row<I, P, V, T> = Row { columns, out, x, shift, pitch: x_pitch, dy, tail, add };
            row.all::<DOTS>(isa, segment.len as usize);
        }
    }
}

/// Sums are kept where the bits are set: from place 8 − n on, n are not.
const KEEP: [u32; 16] = [0, 0, 0, 0, 0, 0, 0, 0, !0, !0, !0, !0, !0, !0, !0, !0];

/// One segment's row of dY in registers, and where its entries are.
pub(super) struct Row<I: Isa, const P: usize, const V: usize, const T: usize> {
    pub columns: *const u32,
    pub out: *mut f32,
    pub x: *const f32,
    pub shift: u32,
    pub pitch: usize,
    pub dy: [[I::V; V]; P],
    /// Of the strip behind those P.
    pub tail: [I::V; T],
    pub add: bool,
}

impl<I: Isa, const P: usize, const V: usize, const T: usize> Row<I, P, V, T> {
    /// The segment's `len` entries, DOTS (4 or 8) at a time.
    ///
    /// # Safety
    /// The segment has that many, and their columns are rows of X.
    #[inline(always)]
    pub(super) unsafe fn all<const DOTS: usize>(&self, isa: I, len: usize) {
        // SAFETY: the caller's promise. A rest goes through a group that ends with the row's last entry, whose first entries
        // were done before and are left as they are.
        unsafe {
            if const { !I::IS_VECTOR } {
                return (0..len).for_each(|k| self.one(isa, k));
            }
            let mut done = 0;
            if DOTS == 8 && len >= 8 {
                // A rest of at most four is no group of eight.
                let end = if len % 8 > 4 { len } else { len - len % 8 };
                while done < end {
                    let k = done.min(len - 8);
                    self.eight(isa, k, done - k);
                    done += 8;
                }
            }
            let rest = len.saturating_sub(done);
            if len >= 4 {
                // Five are two overlapping groups where there is no group of eight.
                let single = usize::from(rest % 4 == 1 && !(DOTS == 8 && rest == 5));
                let end = done + rest - single;
                while done < end {
                    let k = done.min(len - 4);
                    self.four(isa, k, done - k);
                    done += 4;
                }
                done = done.min(end);
            }
            // A loop, not a closure: an iterator's `fold` would be a function of its own, without the processor's features.
            while done < len {
                self.one(isa, done);
                done += 1;
            }
        }
    }

    /// Eight entries from `k` on, of which the first `skip` keep their values.
    ///
    /// # Safety
    /// Entries `k..k + 8` are the segment's, and their columns are rows of X.
    #[inline(always)]
    unsafe fn eight(&self, isa: I, k: usize, skip: usize) {
        let mut acc = [isa.splat(0.0); 8];
        // SAFETY: the caller's promise.
        unsafe {
            self.dots(isa, k, &mut acc);
            self.write(k, isa.sum8(acc), skip);
        }
    }

    /// Four entries, as [`Row::eight`].
    ///
    /// # Safety
    /// As [`Row::eight`].
    #[inline(always)]
    unsafe fn four(&self, isa: I, k: usize, skip: usize) {
        let mut acc = [isa.splat(0.0); 4];
        // SAFETY: the caller's promise.
        unsafe {
            self.dots(isa, k, &mut acc);
            self.write(k, isa.sum4(acc), skip);
        }
    }

    /// One entry.
    ///
    /// # Safety
    /// As [`Row::eight`].
    #[inline(always)]
    unsafe fn one(&self, isa: I, k: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut acc = [isa.splat(0.0)];
            self.dots(isa, k, &mut acc);
            self.write(k, [isa.sum(acc[0])], 0);
        }
    }

    /// Puts sums to entries `k..`, but for the first `skip`.
    ///
    /// # Safety
    /// Entries `k..k + N` are the segment's.
    #[inline(always)]
    unsafe fn write<const N: usize>(&self, k: usize, sums: [f32; N], skip: usize) {
        // SAFETY: the caller's promise; an array has no stricter alignment than its elements.
        let to = unsafe { &mut *self.out.add(k).cast::<[f32; N]>() };
        if !self.add {
            // Those to be skipped were written before, with the same sums.
            *to = sums;
            return;
        }
        let mut sums = sums;
        if skip > 0 {
            // Without a branch for each.
            let masks: &[u32; N] = KEEP[8 - skip..][..N].try_into().expect("N floats");
            sums = std::array::from_fn(|g| f32::from_bits(sums[g].to_bits() & masks[g]));
        }
        *to = std::array::from_fn(|g| to[g] + sums[g]);
    }

    /// For each of the N entries from `k` on, the lane-wise products of the row of dY and the entry's row of X, summed over
    /// P strips of V vectors and T vectors more.
    ///
    /// # Safety
    /// As [`Row::eight`], for N entries.
    #[inline(always)]
    unsafe fn dots<const N: usize>(&self, isa: I, k: usize, acc: &mut [I::V; N]) {
        // SAFETY: the caller's promise.
        unsafe {
            let mut x = [self.x; N];
            let mut pairs = x.chunks_exact_mut(2);
            for (g, pair) in pairs.by_ref().enumerate() {
                let columns = two_columns(self.columns.add(k + 2 * g));
                for (x, column) in pair.iter_mut().zip(columns) {
                    *x = self.x.add((column as usize) << self.shift);
                }
            }
            if let [single] = pairs.into_remainder() {
                *single = self.x.add((*self.columns.add(k + N - 1) as usize) << self.shift);
            }
            for (p, dy) in self.dy.iter().enumerate() {
                for (v, &dy) in dy.iter().enumerate() {
                    multiply(isa, dy, x, p * self.pitch + v * I::LANES, p + v == 0, acc);
                }
            }
            for (t, &dy) in self.tail.iter().enumerate() {
                multiply(isa, dy, x, P * self.pitch + t * I::LANES, false, acc);
            }
        }
    }
}

/// `acc += dy · x` for N rows of X at once, at distance `at` from `x`; with `first` the product alone.
///
/// # Safety
/// A vector stands at `at` behind each of `x`.
#[inline(always)]
unsafe fn multiply<I: Isa, const N: usize>(
    isa: I,
    dy: I::V,
    x: [*const f32; N],
    at: usize,
    first: bool,
    acc: &mut [I::V; N],
) {
    for (acc, x) in acc.iter_mut().zip(x) {
        // SAFETY: the caller's promise.
        let x = unsafe { isa.load(x.add(at)) };
        // The first product is no multiply-add: it would need a zero and a separate load.
        *acc = if first { isa.mul(dy, x) } else { isa.mul_add(dy, x, *acc) };
    }
    // The compiler would take one dot product after the other, whose multiply-adds wait for each other.
    for acc in acc.iter_mut() {
        *acc = isa.pin(*acc);
    }
}
