//! Plain Rust: eight floats at a time, no fused multiply-add (without the instruction it is a slow library call).

use super::vector::{EightLanes, Isa, Kernel};

/// The fallback that every machine has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scalar;

type V = [f32; 8];

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

impl Isa for Scalar {
    type V = V;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;
    type Few = Self;
    const IS_VECTOR: bool = false;

    #[inline(always)]
    fn few(self) -> Self {
        self
    }
    #[inline(never)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        kernel.eval(self)
    }
    #[inline(always)]
    fn splat(self, value: f32) -> V {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> V {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32, value: V) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<V>().write_unaligned(value) }
    }
    #[inline(always)]
    fn add(self, a: V, b: V) -> V {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    fn sub(self, a: V, b: V) -> V {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    fn mul(self, a: V, b: V) -> V {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    fn div(self, a: V, b: V) -> V {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    fn max(self, a: V, b: V) -> V {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    fn sqrt(self, a: V) -> V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn mul_add(self, a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn where_positive(self, test: V, value: V) -> V {
        zip(test, value, |t, v| if t > 0.0 { v } else { 0.0 })
    }
    #[inline(always)]
    fn add_exponent(self, a: V, shift: V) -> V {
        zip(a, shift, |x, s| f32::from_bits(x.to_bits().wrapping_add(s.to_bits() << 23)))
    }
    #[inline(always)]
    fn sum(self, a: V) -> f32 {
        ((a[0] + a[4]) + (a[2] + a[6])) + ((a[1] + a[5]) + (a[3] + a[7]))
    }
    #[inline(always)]
    fn sum8(self, vectors: [V; 8]) -> [f32; 8] {
        vectors.map(|v| self.sum(v))
    }
    #[inline(always)]
    fn sum4(self, vectors: [V; 4]) -> [f32; 4] {
        vectors.map(|v| self.sum(v))
    }
    #[inline(always)]
    unsafe fn load_four(self, from: *const f32) -> V {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { *from.add(i % 4) })
    }
    #[inline(always)]
    fn splat_of_four<const N: usize>(self, four: V) -> V {
        [four[N]; 8]
    }
    #[inline(always)]
    fn prefetch(self, _at: *const f32) {}
    #[inline(always)]
    fn prefetch_far(self, _at: *const f32) {}
    #[inline(always)]
    fn not_below(self, a: V, b: V) -> u32 {
        a.iter().zip(b).enumerate().fold(0, |bits, (i, (&a, b))| bits | u32::from(a >= b) << i)
    }
    #[inline(always)]
    unsafe fn store_where(self, to: *mut f32, value: V, bits: u32) {
        let mut next = 0;
        for (i, lane) in value.into_iter().enumerate() {
            // SAFETY: next <= i < 8.
            unsafe { to.add(next).write(lane) };
            next += (bits >> i & 1) as usize;
        }
    }
    #[inline(always)]
    fn pin(self, a: V) -> V {
        a
    }
}

impl EightLanes for Scalar {
    #[inline(always)]
    unsafe fn gather<const P: usize>(self, from: *const f32, columns: *const u32) -> V {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { *from.add(*columns.add(i / P) as usize * P + i % P) })
    }
    #[inline(always)]
    unsafe fn spread<const P: usize>(self, values: *const f32) -> V {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe { *values.add(i / P) })
    }
    #[inline(always)]
    fn keep_last(self, a: V, count: usize) -> V {
        std::array::from_fn(|i| if i + count >= 8 { a[i] } else { 0.0 })
    }
    #[inline(always)]
    fn fold<const P: usize>(self, mut a: V) -> V {
        let mut width = 8;
        while width > P {
            width /= 2;
            for i in 0..width {
                a[i] += a[i + width];
            }
        }
        a
    }
    #[inline(always)]
    unsafe fn load_first<const P: usize>(self, from: *const f32) -> V {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| if i < P { unsafe { *from.add(i) } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn store_first<const P: usize>(self, to: *mut f32, value: V) {
        // SAFETY: the caller's promise; `P` is at most 8.
        unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), to, P) }
    }
}
