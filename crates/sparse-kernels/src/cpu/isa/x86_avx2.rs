//! AVX2 with FMA: eight floats a vector.

use std::arch::asm;
use std::arch::x86_64::*;

use half::bf16;

use super::vector::{EightLanes, Isa, Kernel, two_columns};

/// Proof that the machine has AVX2, FMA, BMI1 and BMI2.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// The proof, if the machine has the features.
    pub(crate) fn detect() -> Option<Self> {
        let there = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        there.then_some(Self(()))
    }
}

/// `[a01, b01, a23, b23]`-style pairwise sums: one step of the tree that turns eight vectors into their sums.
#[inline(always)]
unsafe fn add_pairs(a: __m256, b: __m256) -> __m256 {
    // SAFETY: the caller has AVX2.
    unsafe { _mm256_add_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b)) }
}

#[inline(always)]
unsafe fn add_quads(a: __m256, b: __m256) -> __m256 {
    // SAFETY: the caller has AVX2.
    unsafe {
        let (a, b) = (_mm256_castps_pd(a), _mm256_castps_pd(b));
        let (low, high) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
        _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high))
    }
}

/// [`Isa::pin`]; a function of its own, since vector registers can be named only where their feature is enabled.
#[inline]
#[target_feature(enable = "avx2")]
fn pin(mut a: __m256) -> __m256 {
    // SAFETY: no instruction at all; not marked `nomem`, so that loads stay on their side of it.
    unsafe { asm!("/* {0} */", inout(ymm_reg) a, options(nostack, preserves_flags)) };
    a
}

/// `a`, of which the compiler knows nothing: it would turn what [`Isa::splat_of_four`] picks back into four loads.
#[inline]
#[target_feature(enable = "avx2")]
fn opaque(mut a: __m256) -> __m256 {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) a, options(pure, nomem, nostack, preserves_flags)) };
    a
}

/// For each byte, which bits are set, lowest first; zeros follow.
static SET_BITS: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut bit, mut next) = (0, 0);
        while bit < 8 {
            if byte >> bit & 1 == 1 {
                table[byte][next] = bit;
                next += 1;
            }
            bit += 1;
        }
        byte += 1;
    }
    table
};

/// Operations that are one intrinsic each.
macro_rules! intrinsics {
    ($v:ty: $($name:ident($($a:ident),+) = $intrinsic:ident;)+) => {$(
        #[inline(always)]
        fn $name(self, $($a: $v),+) -> $v {
            // SAFETY: see above.
            unsafe { $intrinsic($($a),+) }
        }
    )+};
}
pub(super) use intrinsics;

// SAFETY of every block below: holding `self` proves that the machine has the features, and the functions are
// inlined into a wrapper that enables them; pointers are the caller's promise.
impl Isa for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type Few = Self;

    #[inline(always)]
    fn few(self) -> Self {
        self
    }
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,bmi1,bmi2")]
        #[inline(never)]
        fn run<K: Kernel>(isa: Avx2, kernel: K) -> K::Output {
            kernel.eval(isa)
        }
        // SAFETY: `detect` tested every feature that `run` enables.
        unsafe { run(self, kernel) }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_loadu_ps(from) }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: __m256) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(to, value) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, from: *const bf16) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let halves = _mm_loadu_si128(from.cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut bf16, value: __m256) {
        // SAFETY: see above.
        unsafe {
            let bits = _mm256_castps_si256(value);
            let upper = _mm256_srli_epi32::<16>(bits);
            let tie = _mm256_and_si256(upper, _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), tie);
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
            let is_nan = _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value);
            let chosen = _mm256_blendv_ps(_mm256_castsi256_ps(rounded), _mm256_castsi256_ps(quiet), is_nan);
            let halves = _mm256_srli_epi32::<16>(_mm256_castps_si256(chosen));
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
            _mm_storeu_si128(to.cast(), packed);
        }
    }
    intrinsics! { __m256:
        add(a, b) = _mm256_add_ps;
        sub(a, b) = _mm256_sub_ps;
        mul(a, b) = _mm256_mul_ps;
        div(a, b) = _mm256_div_ps;
        max(a, b) = _mm256_max_ps;
        sqrt(a) = _mm256_sqrt_ps;
        mul_add(a, b, c) = _mm256_fmadd_ps;
    }
    #[inline(always)]
    fn where_positive(self, test: __m256, value: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_and_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(test, _mm256_setzero_ps()), value) }
    }
    #[inline(always)]
    fn add_exponent(self, a: __m256, shift: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(shift));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), exponent))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm256_add_ps(a, _mm256_permute_ps::<0b01_00_11_10>(a));
            let quads = _mm256_add_ps(pairs, _mm256_movehdup_ps(pairs));
            _mm_cvtss_f32(_mm_add_ss(_mm256_castps256_ps128(quads), _mm256_extractf128_ps::<1>(quads)))
        }
    }
    #[inline(always)]
    fn sum8(self, v: [__m256; 8]) -> [f32; 8] {
        // SAFETY: see above.
        unsafe {
            // Lane l of half h: after the two steps, low holds the sums of vectors [0, 1, 2, 3] over each 128-bit half,
            // high those of [4, 5, 6, 7].
            let low = add_quads(add_pairs(v[0], v[1]), add_pairs(v[2], v[3]));
            let high = add_quads(add_pairs(v[4], v[5]), add_pairs(v[6], v[7]));
            let sums =
                _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high));
            std::mem::transmute::<__m256, [f32; 8]>(sums)
        }
    }
    #[inline(always)]
    fn sum4(self, v: [__m256; 4]) -> [f32; 4] {
        // SAFETY: see above.
        unsafe {
            let sums = add_quads(add_pairs(v[0], v[1]), add_pairs(v[2], v[3]));
            let sums = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps::<1>(sums));
            std::mem::transmute::<__m128, [f32; 4]>(sums)
        }
    }
    #[inline(always)]
    unsafe fn load_four(self, from: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe {
            let four = _mm_loadu_ps(from);
            opaque(_mm256_set_m128(four, four))
        }
    }
    #[inline(always)]
    fn splat_of_four<const N: usize>(self, four: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe {
            match N {
                0 => _mm256_permute_ps::<0x00>(four),
                1 => _mm256_permute_ps::<0x55>(four),
                2 => _mm256_permute_ps::<0xaa>(four),
                3 => _mm256_permute_ps::<0xff>(four),
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
    fn not_below(self, a: __m256, b: __m256) -> u32 {
        // SAFETY: see above.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GE_OQ>(a, b)) as u32 }
    }
    #[inline(always)]
    unsafe fn store_where(self, to: *mut f32, value: __m256, bits: u32) {
        let lanes = SET_BITS[bits as usize % SET_BITS.len()];
        // SAFETY: see above.
        unsafe {
            let lanes = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(lanes)));
            _mm256_storeu_ps(to, _mm256_permutevar8x32_ps(value, lanes))
        }
    }
    #[inline(always)]
    fn keep_first(self, a: __m256, count: usize) -> __m256 {
        const MASKS: [u32; 16] = [!0, !0, !0, !0, !0, !0, !0, !0, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: see above; eight masks from 8 − count, at most 8, on are in bounds.
        unsafe { _mm256_and_ps(a, _mm256_loadu_ps(MASKS.as_ptr().add(8 - count.min(8)).cast())) }
    }
    #[inline(always)]
    fn pin(self, a: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { pin(a) }
    }
}

impl EightLanes for Avx2 {
    #[inline(always)]
    unsafe fn gather<const P: usize>(self, from: *const f32, columns: *const u32) -> __m256 {
        // SAFETY: see above.
        unsafe {
            match P {
                1 => _mm256_set_m128(gather_four_singles(from, columns.add(4)), gather_four_singles(from, columns)),
                2 => _mm256_set_m128(gather_two_pairs(from, columns.add(2)), gather_two_pairs(from, columns)),
                4 => {
                    let [a, b] = two_columns(columns).map(|column| column as usize);
                    _mm256_set_m128(_mm_loadu_ps(from.add(4 * b)), _mm_loadu_ps(from.add(4 * a)))
                }
                8 => _mm256_loadu_ps(from.add(8 * *columns as usize)),
                _ => unreachable!("entries have 1, 2, 4 or 8 lanes"),
            }
        }
    }
    #[inline(always)]
    unsafe fn spread<const P: usize>(self, values: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe {
            match P {
                1 => _mm256_loadu_ps(values),
                2 => {
                    let four = _mm256_castps128_ps256(_mm_loadu_ps(values));
                    _mm256_permutevar8x32_ps(four, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3))
                }
                4 => {
                    let pair = _mm256_castpd_ps(_mm256_set1_pd(values.cast::<f64>().read_unaligned()));
                    _mm256_permutevar_ps(pair, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1))
                }
                8 => _mm256_set1_ps(*values),
                _ => unreachable!("entries have 1, 2, 4 or 8 lanes"),
            }
        }
    }
    #[inline(always)]
    fn keep_last(self, a: __m256, count: usize) -> __m256 {
        const MASKS: [u32; 16] = [0, 0, 0, 0, 0, 0, 0, 0, !0, !0, !0, !0, !0, !0, !0, !0];
        debug_assert!(count <= 8);
        // SAFETY: see above; the eight masks from `count`, at most 8, on are in bounds.
        unsafe { _mm256_and_ps(a, _mm256_loadu_ps(MASKS.as_ptr().add(count.min(8)).cast())) }
    }
    #[inline(always)]
    fn fold<const P: usize>(self, a: __m256) -> __m256 {
        if P == 8 {
            return a;
        }
        // SAFETY: see above.
        unsafe {
            let mut sum = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            if P < 4 {
                sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
            }
            if P < 2 {
                sum = _mm_add_ss(sum, _mm_movehdup_ps(sum));
            }
            _mm256_castps128_ps256(sum)
        }
    }
    #[inline(always)]
    unsafe fn load_first<const P: usize>(self, from: *const f32) -> __m256 {
        // SAFETY: see above.
        unsafe {
            match P {
                1 => _mm256_zextps128_ps256(_mm_load_ss(from)),
                2 => _mm256_zextps128_ps256(_mm_castpd_ps(_mm_load_sd(from.cast()))),
                4 => _mm256_zextps128_ps256(_mm_loadu_ps(from)),
                8 => _mm256_loadu_ps(from),
                _ => unreachable!("entries have 1, 2, 4 or 8 lanes"),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_first<const P: usize>(self, to: *mut f32, value: __m256) {
        // SAFETY: see above.
        unsafe {
            match P {
                1 => _mm_store_ss(to, _mm256_castps256_ps128(value)),
                2 => _mm_storel_pd(to.cast(), _mm_castps_pd(_mm256_castps256_ps128(value))),
                4 => _mm_storeu_ps(to, _mm256_castps256_ps128(value)),
                8 => _mm256_storeu_ps(to, value),
                _ => unreachable!("entries have 1, 2, 4 or 8 lanes"),
            }
        }
    }
    #[inline(always)]
    fn transpose(self, v: [__m256; 8]) -> [__m256; 8] {
        // SAFETY: see above.
        unsafe {
            // Spelt out: closures here are compiled as functions of their own.
            let (a0, a1) = (_mm256_unpacklo_ps(v[0], v[1]), _mm256_unpackhi_ps(v[0], v[1]));
            let (b0, b1) = (_mm256_unpacklo_ps(v[2], v[3]), _mm256_unpackhi_ps(v[2], v[3]));
            let (c0, c1) = (_mm256_unpacklo_ps(v[4], v[5]), _mm256_unpackhi_ps(v[4], v[5]));
            let (d0, d1) = (_mm256_unpacklo_ps(v[6], v[7]), _mm256_unpackhi_ps(v[6], v[7]));
            // Of rows 0 to 3, then 4 to 7: columns j and j + 4.
            let low = [
                _mm256_shuffle_ps::<0b01_00_01_00>(a0, b0),
                _mm256_shuffle_ps::<0b11_10_11_10>(a0, b0),
                _mm256_shuffle_ps::<0b01_00_01_00>(a1, b1),
                _mm256_shuffle_ps::<0b11_10_11_10>(a1, b1),
            ];
            let high = [
                _mm256_shuffle_ps::<0b01_00_01_00>(c0, d0),
                _mm256_shuffle_ps::<0b11_10_11_10>(c0, d0),
                _mm256_shuffle_ps::<0b01_00_01_00>(c1, d1),
                _mm256_shuffle_ps::<0b11_10_11_10>(c1, d1),
            ];
            [
                _mm256_permute2f128_ps::<0x20>(low[0], high[0]),
                _mm256_permute2f128_ps::<0x20>(low[1], high[1]),
                _mm256_permute2f128_ps::<0x20>(low[2], high[2]),
                _mm256_permute2f128_ps::<0x20>(low[3], high[3]),
                _mm256_permute2f128_ps::<0x31>(low[0], high[0]),
                _mm256_permute2f128_ps::<0x31>(low[1], high[1]),
                _mm256_permute2f128_ps::<0x31>(low[2], high[2]),
                _mm256_permute2f128_ps::<0x31>(low[3], high[3]),
            ]
        }
    }
}

/// One float at each of four columns. (`vgatherdps` takes 1.3 times as long.)
///
/// # Safety
/// The machine has AVX2; `columns` is valid for reading four columns, `from` for reading a float at each.
#[inline(always)]
unsafe fn gather_four_singles(from: *const f32, columns: *const u32) -> __m128 {
    // SAFETY: the caller's promise.
    unsafe {
        let [a, b] = two_columns(columns).map(|column| column as usize);
        let [c, d] = two_columns(columns.add(2)).map(|column| column as usize);
        let low = _mm_insert_ps::<0x10>(_mm_load_ss(from.add(a)), _mm_load_ss(from.add(b)));
        let high = _mm_insert_ps::<0x10>(_mm_load_ss(from.add(c)), _mm_load_ss(from.add(d)));
        _mm_movelh_ps(low, high)
    }
}

/// Two floats at each of two columns.
///
/// # Safety
/// The machine has AVX2; `columns` is valid for reading two columns, `from` for reading two floats at twice each.
#[inline(always)]
unsafe fn gather_two_pairs(from: *const f32, columns: *const u32) -> __m128 {
    // SAFETY: the caller's promise; these loads have no alignment.
    unsafe {
        let [a, b] = two_columns(columns).map(|column| column as usize);
        _mm_castpd_ps(_mm_loadh_pd(_mm_load_sd(from.add(2 * a).cast()), from.add(2 * b).cast()))
    }
}
