//! Vectors of an instruction set, and computations on them that can be compiled for each.

use std::mem::MaybeUninit;

use half::bf16;

#[cfg(feature = "nn")]
use crate::cpu::{Buffer, Numbers, NumbersMut};

/// Vector operations of one instruction set. A value is the proof that the machine has it: it is made by `detect`
/// only.
///
/// # Safety
/// Methods may use the instruction set's intrinsics, so they must be called from code compiled with its features:
/// that is, inlined into [`Isa::call`].
#[cfg_attr(not(feature = "nn"), allow(dead_code, reason = "the products need fewer operations than the networks"))]
pub(crate) trait Isa: Copy + Send + Sync + 'static {
    /// A vector of [`Isa::LANES`] f32.
    type V: Copy;
    /// Lanes of a vector.
    const LANES: usize;
    /// Vectors that the registers hold.
    const REGISTERS: usize;
    /// Those of eight floats: with few lanes, loads of single entries are the bound, which wider vectors do not make fewer.
    type Few: EightLanes;
    /// Whether there are vectors at all. Without, kernels need no choice of tiles, and the compiler none of the time that
    /// it takes to unroll them lane by lane.
    const IS_VECTOR: bool = true;

    /// The instruction set whose vectors products with few lanes use.
    fn few(self) -> Self::Few;
    /// Runs `kernel`, compiled with the instruction set's features, as a function of its own. A kernel with many tiles calls
    /// each so: the compiler's time grows faster than a function's length.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;
    /// All lanes equal.
    fn splat(self, value: f32) -> Self::V;
    /// Reads a vector.
    ///
    /// # Safety
    /// `from` is valid for reading `LANES` floats; any alignment.
    unsafe fn load(self, from: *const f32) -> Self::V;
    /// Writes a vector.
    ///
    /// # Safety
    /// `to` is valid for writing `LANES` floats; any alignment.
    unsafe fn store(self, to: *mut f32, value: Self::V);
    /// Reads a vector of numbers in 16 bits.
    ///
    /// # Safety
    /// `from` is valid for reading `LANES` numbers; any alignment.
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> Self::V {
        const { assert!(Self::LANES <= 16) };
        let mut lanes = [0u32; 16];
        for (i, lane) in lanes.iter_mut().enumerate().take(Self::LANES) {
            // SAFETY: the caller's promise.
            *lane = u32::from(unsafe { from.add(i).read() }.to_bits()) << 16;
        }
        // SAFETY: there are LANES lanes, and the bits of each are those of an f32.
        unsafe { self.load(lanes.as_ptr().cast()) }
    }
    /// Writes a vector, rounded to 16 bits as [`crate::Precision::Bf16`] says.
    ///
    /// # Safety
    /// `to` is valid for writing `LANES` numbers; any alignment.
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, value: Self::V) {
        const { assert!(Self::LANES <= 16) };
        let mut lanes = [0f32; 16];
        // SAFETY: there is room for LANES lanes; and the caller's promise.
        unsafe {
            self.store(lanes.as_mut_ptr(), value);
            for (i, &lane) in lanes.iter().enumerate().take(Self::LANES) {
                to.add(i).write(bf16::round(lane));
            }
        }
    }
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger of each pair; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square roots.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// `a · b + c`, fused where the instruction set fuses.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `value` where `test > 0`, else 0.
    fn where_positive(self, test: Self::V, value: Self::V) -> Self::V;
    /// Adds the low bits of `shift` to the exponent of `a`: `a · 2^n` where `shift = 1.5 · 2^23 + n`, n whole, if
    /// neither `a` nor the result is zero, subnormal or out of range.
    fn add_exponent(self, a: Self::V, shift: Self::V) -> Self::V;
    /// The sum of a vector's lanes, in the order of [`Isa::sum8`]: which entries are summed together depends on chunks and so
    /// on caches, and no result may.
    fn sum(self, a: Self::V) -> f32;
    /// The sums of eight vectors' lanes, in a fixed order.
    fn sum8(self, vectors: [Self::V; 8]) -> [f32; 8];
    /// The sums of four vectors' lanes, in the order of [`Isa::sum8`].
    fn sum4(self, vectors: [Self::V; 4]) -> [f32; 4];
    /// Reads four floats: one load where [`Isa::splat`] of each would be four, for [`Isa::splat_of_four`] to pick from.
    ///
    /// # Safety
    /// `from` is valid for reading 4 floats; any alignment.
    unsafe fn load_four(self, from: *const f32) -> Self::V;
    /// All lanes equal to the `N`-th of four read by [`Isa::load_four`].
    fn splat_of_four<const N: usize>(self, four: Self::V) -> Self::V;
    /// Asks for the cache line at `at` to be brought near; any address is allowed.
    fn prefetch(self, at: *const f32);
    /// Asks for the cache line at `at` to be brought into L2, for later; any address is allowed.
    fn prefetch_far(self, at: *const f32);
    /// Zero in all lanes but the first `count`.
    #[inline(always)]
    fn keep_first(self, a: Self::V, count: usize) -> Self::V {
        let mut lanes = [0.0; 16];
        const { assert!(Self::LANES <= 16) };
        // SAFETY: there is room for LANES floats.
        unsafe { self.store(lanes.as_mut_ptr(), a) };
        lanes[count.min(16)..].fill(0.0);
        // SAFETY: as above.
        unsafe { self.load(lanes.as_ptr()) }
    }
    /// `a`, computed here: the compiler moves neither its computation nor any load past this point. Keeps a schedule that
    /// uses all registers from being rearranged into one that needs more.
    fn pin(self, a: Self::V) -> Self::V;

    /// Bit `i` is set where `a[i] >= b[i]`; not where either is NaN.
    fn not_below(self, a: Self::V, b: Self::V) -> u32;
    /// Writes the lanes whose bits are set one after the other; what follows them, up to `LANES` in all, holds anything.
    ///
    /// # Safety
    /// `to` is valid for writing `LANES` floats; any alignment.
    unsafe fn store_where(self, to: *mut f32, value: Self::V, bits: u32);
}

/// Vectors of eight f32 as `8 / P` entries of `P` lanes each, for products with `P` = 1, 2, 4 or 8.
///
/// # Safety
/// As [`Isa`].
pub(crate) trait EightLanes: Isa {
    /// Reads `P` floats at `from + P · columns[e]` for each of `8 / P` entries `e`.
    ///
    /// # Safety
    /// `columns` is valid for reading `8 / P` columns, and each of the places for reading `P` floats; any alignment.
    unsafe fn gather<const P: usize>(self, from: *const f32, columns: *const u32) -> Self::V;
    /// Reads `8 / P` values and repeats each `P` times.
    ///
    /// # Safety
    /// `values` is valid for reading `8 / P` floats; any alignment.
    unsafe fn spread<const P: usize>(self, values: *const f32) -> Self::V;
    /// Zero in all but the last `count` of the eight; `count` is at most 8.
    fn keep_last(self, a: Self::V, count: usize) -> Self::V;
    /// The sum over the `8 / P` entries in the first `P` of the eight; the others hold anything.
    fn fold<const P: usize>(self, a: Self::V) -> Self::V;
    /// Reads the first `P` of the eight; the others hold zero.
    ///
    /// # Safety
    /// `from` is valid for reading `P` floats; any alignment.
    unsafe fn load_first<const P: usize>(self, from: *const f32) -> Self::V;
    /// Writes the first `P` of the eight.
    ///
    /// # Safety
    /// `to` is valid for writing `P` floats; any alignment.
    unsafe fn store_first<const P: usize>(self, to: *mut f32, value: Self::V);
    /// Lane `j` of vector `i` becomes lane `i` of vector `j`.
    #[inline(always)]
    fn transpose(self, vectors: [Self::V; 8]) -> [Self::V; 8] {
        const { assert!(Self::LANES == 8) };
        let mut square = [[0f32; 8]; 8];
        for (to, vector) in square.iter_mut().zip(vectors) {
            // SAFETY: eight floats.
            unsafe { self.store(to.as_mut_ptr(), vector) };
        }
        let turned: [[f32; 8]; 8] = array_of(|j| array_of(|i| square[i][j]));
        // SAFETY: eight floats.
        array_of(|j| unsafe { self.load(turned[j].as_ptr()) })
    }
}

/// Two columns in one load: loads are what limits the kernels.
///
/// # Safety
/// `columns` is valid for reading two columns.
#[inline(always)]
pub(crate) unsafe fn two_columns(columns: *const u32) -> [u32; 2] {
    // SAFETY: the caller's promise.
    let both = unsafe { columns.cast::<u64>().read_unaligned() };
    if cfg!(target_endian = "little") { [both as u32, (both >> 32) as u32] } else { [(both >> 32) as u32, both as u32] }
}

/// A number as activations store it.
pub(crate) trait Number: Copy + Send + Sync + 'static {
    /// Reads a vector.
    ///
    /// # Safety
    /// `from` is valid for reading `LANES` numbers; any alignment.
    unsafe fn load<I: Isa>(isa: I, from: *const Self) -> I::V;
    /// Writes a vector, rounded.
    ///
    /// # Safety
    /// `to` is valid for writing `LANES` numbers; any alignment.
    unsafe fn store<I: Isa>(isa: I, to: *mut Self, value: I::V);
    /// The number.
    fn widen(self) -> f32;
    /// The nearest number, as [`crate::Precision`] says.
    fn round(value: f32) -> Self;
    /// The numbers of a buffer.
    ///
    /// # Panics
    /// If they are stored otherwise.
    #[cfg(feature = "nn")]
    fn of(buffer: &Buffer) -> &[Self];
    /// The numbers of a buffer.
    ///
    /// # Panics
    /// If they are stored otherwise.
    #[cfg(feature = "nn")]
    fn of_mut(buffer: &mut Buffer) -> &mut [Self];
}

#[cfg(feature = "nn")]
const CHECKED: &str = "the operation has checked how numbers are stored";

impl Number for f32 {
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, from: *const Self) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { isa.load(from) }
    }
    #[inline(always)]
    unsafe fn store<I: Isa>(isa: I, to: *mut Self, value: I::V) {
        // SAFETY: the caller's promise.
        unsafe { isa.store(to, value) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }
    #[cfg(feature = "nn")]
    fn of(buffer: &Buffer) -> &[Self] {
        let Numbers::F32(numbers) = buffer.numbers() else { panic!("{CHECKED}") };
        numbers
    }
    #[cfg(feature = "nn")]
    fn of_mut(buffer: &mut Buffer) -> &mut [Self] {
        let NumbersMut::F32(numbers) = buffer.numbers_mut() else { panic!("{CHECKED}") };
        numbers
    }
}

impl Number for bf16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(isa: I, from: *const Self) -> I::V {
        // SAFETY: the caller's promise.
        unsafe { isa.load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<I: Isa>(isa: I, to: *mut Self, value: I::V) {
        // SAFETY: the caller's promise.
        unsafe { isa.store_bf16(to, value) }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn round(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        Self::from_bits(if value.is_nan() { bits >> 16 | 0x40 } else { rounded } as u16)
    }
    #[cfg(feature = "nn")]
    fn of(buffer: &Buffer) -> &[Self] {
        let Numbers::Bf16(numbers) = buffer.numbers() else { panic!("{CHECKED}") };
        numbers
    }
    #[cfg(feature = "nn")]
    fn of_mut(buffer: &mut Buffer) -> &mut [Self] {
        let NumbersMut::Bf16(numbers) = buffer.numbers_mut() else { panic!("{CHECKED}") };
        numbers
    }
}

/// A computation that can be compiled for each instruction set.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;
    /// The computation; mark the implementation `#[inline(always)]`.
    fn eval<I: Isa>(self, isa: I) -> Self::Output;
}

/// As [`std::array::from_fn`], but inlined in any case: otherwise each vector instruction of `f` is a call of its own.
#[inline(always)]
pub(crate) fn array_of<T, const N: usize>(mut f: impl FnMut(usize) -> T) -> [T; N] {
    let mut all = [const { MaybeUninit::uninit() }; N];
    for (i, one) in all.iter_mut().enumerate() {
        one.write(f(i));
    }
    // SAFETY: all are written.
    unsafe { std::mem::transmute_copy(&all) }
}
