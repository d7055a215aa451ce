//! NEON: four floats a register, two registers a vector.
//!
//! 32 registers in pairs are 16 vectors of eight floats, AVX2's shape: the tiles chosen for it apply as they are. A pair
//! of equal halves, such as a splat, takes one register only, so tiles have some to spare. Multiply-adds take a factor
//! from a lane of a register (`fmla v.4s, v.4s, v.s[n]`), so that the values read by [`Isa::load_four`] need no splat.
//!
//! Compiled, and run under emulation; not timed on a processor.

use std::arch::aarch64::*;
use std::arch::asm;

use super::vector::{EightLanes, Isa, Kernel};

/// Proof that the machine has NEON.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// The proof, if the machine has the feature.
    pub(crate) fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
}

/// Eight floats: the first four, the last four.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair(float32x4_t, float32x4_t);

/// `f` of both halves.
#[inline(always)]
fn zip(a: Pair, b: Pair, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> Pair {
    Pair(f(a.0, b.0), f(a.1, b.1))
}

/// [`Isa::pin`]; a function of its own, since vector registers can be named only where their feature is enabled.
#[inline]
#[target_feature(enable = "neon")]
fn pin(Pair(mut low, mut high): Pair) -> Pair {
    // SAFETY: no instruction at all; not marked `nomem`, so that loads stay on their side of it.
    unsafe { asm!("/* {0:v} {1:v} */", inout(vreg) low, inout(vreg) high, options(nostack, preserves_flags)) };
    Pair(low, high)
}

/// For each four bits, the bytes of the lanes whose bits are set, lowest first; past the end, which reads as zero, follow.
static SET_BYTES: [[u8; 16]; 16] = {
    let mut table = [[u8::MAX; 16]; 16];
    let mut bits = 0;
    while bits < 16 {
        let (mut byte, mut next) = (0, 0);
        while byte < 16 {
            if bits >> (byte / 4) & 1 == 1 {
                table[bits][next] = byte;
                next += 1;
            }
            byte += 1;
        }
        bits += 1;
    }
    table
};

/// For each four bits, how many are set: the instruction that counts them works on vector registers.
static BITS_SET: [u8; 16] = {
    let mut table = [0; 16];
    let mut bits = 0;
    while bits < 16 {
        table[bits] = bits.count_ones() as u8;
        bits += 1;
    }
    table
};

// SAFETY of every block below: holding `self` proves that the machine has the feature, and the functions are
// inlined into a wrapper that enables it; pointers are the caller's promise.
impl Isa for Neon {
    type V = Pair;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type Few = Self;

    #[inline(always)]
    fn few(self) -> Self {
        self
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "neon")]
        #[inline(never)]
        fn run<K: Kernel>(isa: Neon, kernel: K) -> K::Output {
            kernel.eval(isa)
        }
        // SAFETY: `detect` tested the feature that `run` enables.
        unsafe { run(self, kernel) }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        // SAFETY: see above.
        let four = unsafe { vdupq_n_f32(value) };
        Pair(four, four)
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Pair {
        // SAFETY: see above.
        unsafe { Pair(vld1q_f32(from), vld1q_f32(from.add(4))) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: Pair) {
        // SAFETY: see above.
        unsafe {
            vst1q_f32(to, value.0);
            vst1q_f32(to.add(4), value.1);
        }
    }
    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see above.
        zip(a, b, |a, b| unsafe { vaddq_f32(a, b) })
    }
    #[inline(always)]
    fn sub(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see above.
        zip(a, b, |a, b| unsafe { vsubq_f32(a, b) })
    }
    #[inline(always)]
    fn mul(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see above.
        zip(a, b, |a, b| unsafe { vmulq_f32(a, b) })
    }
    #[inline(always)]
    fn div(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: see above.
        zip(a, b, |a, b| unsafe { vdivq_f32(a, b) })
    }
    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        // The maximum instructions treat NaN otherwise: one gives NaN, the other the number.
        // SAFETY: see above.
        zip(a, b, |a, b| unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) })
    }
    #[inline(always)]
    fn sqrt(self, a: Pair) -> Pair {
        // SAFETY: see above.
        unsafe { Pair(vsqrtq_f32(a.0), vsqrtq_f32(a.1)) }
    }
    #[inline(always)]
    fn mul_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: see above.
        unsafe { Pair(vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }
    #[inline(always)]
    fn where_positive(self, test: Pair, value: Pair) -> Pair {
        // SAFETY: see above.
        zip(test, value, |test, value| unsafe {
            vreinterpretq_f32_u32(vandq_u32(vcgtzq_f32(test), vreinterpretq_u32_f32(value)))
        })
    }
    #[inline(always)]
    fn add_exponent(self, a: Pair, shift: Pair) -> Pair {
        // SAFETY: see above.
        zip(a, shift, |a, shift| unsafe {
            let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(shift));
            vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a), exponent))
        })
    }
    #[inline(always)]
    fn sum(self, a: Pair) -> f32 {
        // SAFETY: see above.
        unsafe {
            let four = vaddq_f32(a.0, a.1);
            vpadds_f32(vget_low_f32(vpaddq_f32(four, four)))
        }
    }
    #[inline(always)]
    fn sum8(self, [a, b, c, d, e, f, g, h]: [Pair; 8]) -> [f32; 8] {
        let (low, high) = (sums_of_four([a, b, c, d]), sums_of_four([e, f, g, h]));
        let mut sums = [0.0; 8];
        // SAFETY: see above; eight floats are written to eight.
        unsafe { self.store(sums.as_mut_ptr(), Pair(low, high)) };
        sums
    }
    #[inline(always)]
    fn sum4(self, vectors: [Pair; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: see above; four floats are written to four.
        unsafe { vst1q_f32(sums.as_mut_ptr(), sums_of_four(vectors)) };
        sums
    }
    #[inline(always)]
    unsafe fn load_four(self, from: *const f32) -> Pair {
        // SAFETY: see above.
        let four = unsafe { vld1q_f32(from) };
        Pair(four, four)
    }
    #[inline(always)]
    fn splat_of_four<const N: usize>(self, four: Pair) -> Pair {
        // SAFETY: see above.
        let lane = unsafe {
            match N {
                0 => vdupq_laneq_f32::<0>(four.0),
                1 => vdupq_laneq_f32::<1>(four.0),
                2 => vdupq_laneq_f32::<2>(four.0),
                3 => vdupq_laneq_f32::<3>(four.0),
                _ => unreachable!("there are four"),
            }
        };
        Pair(lane, lane)
    }
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a prefetch never faults, and the program sees nothing of it.
        unsafe { asm!("prfm pldl1keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags)) }
    }
    #[inline(always)]
    fn prefetch_far(self, at: *const f32) {
        // SAFETY: a prefetch never faults, and the program sees nothing of it.
        unsafe { asm!("prfm pldl2keep, [{0}]", in(reg) at.addr(), options(nomem, nostack, preserves_flags)) }
    }
    #[inline(always)]
    fn not_below(self, a: Pair, b: Pair) -> u32 {
        const BITS: [u32; 8] = [1, 2, 4, 8, 16, 32, 64, 128];
        // SAFETY: see above; there are eight bits to load.
        unsafe {
            let low = vandq_u32(vcgeq_f32(a.0, b.0), vld1q_u32(BITS.as_ptr()));
            let high = vandq_u32(vcgeq_f32(a.1, b.1), vld1q_u32(BITS.as_ptr().add(4)));
            vaddvq_u32(vorrq_u32(low, high))
        }
    }
    #[inline(always)]
    unsafe fn store_where(self, to: *mut f32, value: Pair, bits: u32) {
        let (low, high) = (bits as usize % 16, bits as usize / 16 % 16);
        // SAFETY: see above; the second four are written behind at most four floats.
        unsafe {
            vst1q_f32(to, pick_bytes(value.0, &SET_BYTES[low]));
            vst1q_f32(to.add(usize::from(BITS_SET[low])), pick_bytes(value.1, &SET_BYTES[high]));
        }
    }
    #[inline(always)]
    fn pin(self, a: Pair) -> Pair {
        // SAFETY: see above.
        unsafe { pin(a) }
    }
}

impl EightLanes for Neon {
    #[inline(always)]
    unsafe fn gather<const P: usize>(self, from: *const f32, columns: *const u32) -> Pair {
        // SAFETY: see above.
        unsafe {
            let at = |entry: usize| from.add(P * *columns.add(entry) as usize);
            match P {
                1 => Pair(gather_four_singles(from, columns), gather_four_singles(from, columns.add(4))),
                2 => {
                    Pair(vcombine_f32(vld1_f32(at(0)), vld1_f32(at(1))), vcombine_f32(vld1_f32(at(2)), vld1_f32(at(3))))
                }
                4 => Pair(vld1q_f32(at(0)), vld1q_f32(at(1))),
                8 => self.load(at(0)),
                _ => unreachable!("entries have 1, 2, 4 or 8 lanes"),
            }
        }
    }
    #[inline(always)]
    unsafe fn spread<const P: usize>(self, values: *const f32) -> Pair {
        // SAFETY: see above.
        unsafe {
            match P {
                1 => self.load(values),
                2 => {
                    let four = vld1q_f32(values);
                    Pair(vzip1q_f32(four, four), vzip2q_f32(four, four))
                }
                4 => {
                    let two = vld1_f32(values);
                    Pair(vdupq_lane_f32::<0>(two), vdupq_lane_f32::<1>(two))
                }
                8 => self.splat(*values),
                _ => unreachable!("entries have 1, 2, 4 or 8 lanes"),
            }
        }
    }
    #[inline(always)]
    fn keep_last(self, a: Pair, count: usize) -> Pair {
        const MASKS: [u32; 16] = [0, 0, 0, 0, 0, 0, 0, 0, !0, !0, !0, !0, !0, !0, !0, !0];
        debug_assert!(count <= 8);
        // SAFETY: see above; the eight masks from `count`, at most 8, on are in bounds.
        let masks = unsafe { self.load(MASKS.as_ptr().add(count.min(8)).cast()) };
        // SAFETY: see above.
        zip(a, masks, |a, mask| unsafe {
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vreinterpretq_u32_f32(mask)))
        })
    }
    #[inline(always)]
    fn fold<const P: usize>(self, a: Pair) -> Pair {
        if P == 8 {
            return a;
        }
        // SAFETY: see above.
        unsafe {
            let mut sum = vaddq_f32(a.0, a.1);
            if P < 4 {
                sum = vaddq_f32(sum, vextq_f32::<2>(sum, sum));
            }
            if P < 2 {
                sum = vpaddq_f32(sum, sum);
            }
            Pair(sum, sum)
        }
    }
    #[inline(always)]
    unsafe fn load_first<const P: usize>(self, from: *const f32) -> Pair {
        // SAFETY: see above.
        unsafe {
            let zero = vdupq_n_f32(0.0);
            match P {
                1 => Pair(vsetq_lane_f32::<0>(*from, zero), zero),
                2 => Pair(vcombine_f32(vld1_f32(from), vget_low_f32(zero)), zero),
                4 => Pair(vld1q_f32(from), zero),
                8 => self.load(from),
                _ => unreachable!("entries have 1, 2, 4 or 8 lanes"),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_first<const P: usize>(self, to: *mut f32, value: Pair) {
        // SAFETY: see above.
        unsafe {
            match P {
                1 => vst1q_lane_f32::<0>(to, value.0),
                2 => vst1_f32(to, vget_low_f32(value.0)),
                4 => vst1q_f32(to, value.0),
                8 => self.store(to, value),
                _ => unreachable!("entries have 1, 2, 4 or 8 lanes"),
            }
        }
    }
}

/// The sums of four vectors' lanes, each in [`Isa::sum`]'s order.
#[inline(always)]
fn sums_of_four(vectors: [Pair; 4]) -> float32x4_t {
    // SAFETY: only [`Neon`] makes pairs, and it is the proof that the machine has NEON.
    unsafe {
        let [a, b, c, d] = vectors.map(|v| vaddq_f32(v.0, v.1));
        vpaddq_f32(vpaddq_f32(a, b), vpaddq_f32(c, d))
    }
}

/// The given bytes of four floats.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn pick_bytes(four: float32x4_t, bytes: &[u8; 16]) -> float32x4_t {
    // SAFETY: the caller's promise; an array of 16 bytes is read.
    unsafe { vreinterpretq_f32_u8(vqtbl1q_u8(vreinterpretq_u8_f32(four), vld1q_u8(bytes.as_ptr()))) }
}

/// One float at each of four columns.
///
/// # Safety
/// The machine has NEON; `columns` is valid for reading four columns, `from` for reading a float at each.
#[inline(always)]
unsafe fn gather_four_singles(from: *const f32, columns: *const u32) -> float32x4_t {
    // SAFETY: the caller's promise.
    unsafe {
        let at = |entry: usize| from.add(*columns.add(entry) as usize);
        let low = vld1_lane_f32::<1>(at(1), vld1_dup_f32(at(0)));
        let high = vld1_lane_f32::<1>(at(3), vld1_dup_f32(at(2)));
        vcombine_f32(low, high)
    }
}
