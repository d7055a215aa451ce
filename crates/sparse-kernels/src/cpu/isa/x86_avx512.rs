//! AVX-512: sixteen floats a vector.

use std::arch::asm;
use std::arch::x86_64::*;

use half::bf16;

use super::vector::{Isa, Kernel};
use super::x86_avx2::{Avx2, intrinsics};

/// Proof that the machine has AVX-512 F, DQ, VL and BW, and all of AVX2's set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512(Avx2);

impl Avx512 {
    /// The proof, if the machine has the features.
    pub(crate) fn detect() -> Option<Self> {
        let there = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512bw");
        Avx2::detect().filter(|_| there).map(Self)
    }
}

#[inline(always)]
unsafe fn add_pairs(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller has AVX-512.
    unsafe { _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)) }
}

#[inline(always)]
unsafe fn add_quads(a: __m512, b: __m512) -> __m512 {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
    }
}

/// [`Isa::pin`]; a function of its own, since vector registers can be named only where their feature is enabled.
#[inline]
#[target_feature(enable = "avx512f")]
fn pin(mut a: __m512) -> __m512 {
    // SAFETY: no instruction at all; not marked `nomem`, so that loads stay on their side of it.
    unsafe { asm!("/* {0} */", inout(zmm_reg) a, options(nostack, preserves_flags)) };
    a
}

/// As AVX2's: `a`, of which the compiler knows nothing.
#[inline]
#[target_feature(enable = "avx512f")]
fn opaque(mut a: __m512) -> __m512 {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(zmm_reg) a, options(pure, nomem, nostack, preserves_flags)) };
    a
}

// SAFETY of every block below: holding `self` proves that the machine has the features, and the functions are
// inlined into a wrapper that enables them; pointers are the caller's promise.
impl Isa for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;
    type Few = Avx2;

    /// AVX2's code, in AVX-512's encoding.
    #[inline(always)]
    fn few(self) -> Avx2 {
        self.0
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma,bmi1,bmi2")]
        #[inline(never)]
        fn run<K: Kernel>(isa: Avx512, kernel: K) -> K::Output {
            kernel.eval(isa)
        }
        // SAFETY: `detect` tested every feature that `run` enables.
        unsafe { run(self, kernel) }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: __m512) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let halves = _mm256_loadu_si256(from.cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, value: __m512) {
        // SAFETY: see above.
        unsafe {
            let bits = _mm512_castps_si512(value);
            let tie = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), tie);
            let is_nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(value, value);
            let chosen = _mm512_mask_or_epi32(rounded, is_nan, bits, _mm512_set1_epi32(0x40_0000));
            _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen)));
        }
    }
    intrinsics! { __m512:
        add(a, b) = _mm512_add_ps;
        sub(a, b) = _mm512_sub_ps;
        mul(a, b) = _mm512_mul_ps;
        div(a, b) = _mm512_div_ps;
        max(a, b) = _mm512_max_ps;
        sqrt(a) = _mm512_sqrt_ps;
        mul_add(a, b, c) = _mm512_fmadd_ps;
    }
    #[inline(always)]
    fn where_positive(self, test: __m512, value: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(test, _mm512_setzero_ps()), value) }
    }
    #[inline(always)]
    fn add_exponent(self, a: __m512, shift: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shift));
            _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), exponent))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m512) -> f32 {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm512_add_ps(a, _mm512_permute_ps::<0b01_00_11_10>(a));
            let quads = _mm512_add_ps(pairs, _mm512_movehdup_ps(pairs));
            let halves = _mm256_add_ps(_mm512_castps512_ps256(quads), _mm512_extractf32x8_ps::<1>(quads));
            _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves)))
        }
    }
    #[inline(always)]
    fn sum8(self, v: [__m512; 8]) -> [f32; 8] {
        // SAFETY: see above.
        unsafe {
            // After two steps, low holds the sums of vectors [0, 1, 2, 3] over each 128-bit quarter, high those of
            // [4, 5, 6, 7]; two more bring the quarters together.
            let low = add_quads(add_pairs(v[0], v[1]), add_pairs(v[2], v[3]));
            let high = add_quads(add_pairs(v[4], v[5]), add_pairs(v[6], v[7]));
            let quarters = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(low, high),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(low, high),
            );
            // quarters: [low 0+2, low 1+3, high 0+2, high 1+3]
            let halves = _mm512_shuffle_f32x4::<0b11_01_10_00>(quarters, quarters);
            let sums = _mm256_add_ps(_mm512_castps512_ps256(halves), _mm512_extractf32x8_ps::<1>(halves));
            std::mem::transmute::<__m256, [f32; 8]>(sums)
        }
    }
    #[inline(always)]
    fn sum4(self, v: [__m512; 4]) -> [f32; 4] {
        // SAFETY: see above.
        unsafe {
            let sums = add_quads(add_pairs(v[0], v[1]), add_pairs(v[2], v[3]));
            let halves = _mm256_add_ps(_mm512_castps512_ps256(sums), _mm512_extractf32x8_ps::<1>(sums));
            let sums = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
            std::mem::transmute::<__m128, [f32; 4]>(sums)
        }
    }
    #[inline(always)]
    unsafe fn load_four(self, from: *const f32) -> __m512 {
        // SAFETY: see above.
        unsafe { opaque(_mm512_broadcast_f32x4(_mm_loadu_ps(from))) }
    }
    #[inline(always)]
    fn splat_of_four<const N: usize>(self, four: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe {
            match N {
                0 => _mm512_permute_ps::<0x00>(four),
                1 => _mm512_permute_ps::<0x55>(four),
                2 => _mm512_permute_ps::<0xaa>(four),
                3 => _mm512_permute_ps::<0xff>(four),
                _ => unreachable!("there are four"),
            }
        }
    }
    #[inline(always)]
    fn prefetch(self, at: *const f32) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[inline(always)]
    fn prefetch_far(self, at: *const f32) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
    }
    #[inline(always)]
    fn not_below(self, a: __m512, b: __m512) -> u32 {
        // SAFETY: see above.
        unsafe { u32::from(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b)) }
    }
    #[inline(always)]
    unsafe fn store_where(self, to: *mut f32, value: __m512, bits: u32) {
        // Compressed in a register: compressing into memory is microcode on Zen 4.
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(to, _mm512_maskz_compress_ps(bits as u16, value)) }
    }
    #[inline(always)]
    fn keep_first(self, a: __m512, count: usize) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_maskz_mov_ps(((1u32 << count.min(16)) - 1) as u16, a) }
    }
    #[inline(always)]
    fn pin(self, a: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { pin(a) }
    }
}
