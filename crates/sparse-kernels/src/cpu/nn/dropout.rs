//! Inverted dropout in place. The mask is never stored: it is a function of key and element, computed again on the
//! gradient.
//!
//! The generator runs on 16 counters side by side as plain loops over arrays, which the compiler turns into vectors of
//! the instruction set that [`dispatch`] enables.

use super::rows::rows_per_task;
use crate::cpu::Cpu;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::random::Key;
use crate::{BackendError, StripLayout, Strips};

/// Counters side by side: one AVX-512 vector, two AVX2 vectors.
pub(super) const WIDTH: usize = StripLayout::STRIP_UNIT;
/// Threefry's key-schedule constant.
const PARITY: u32 = 0x1BD1_1BDA;

/// Integer operations an element, roughly.
pub(super) const OPERATIONS: u64 = 70;

pub(super) fn run(cpu: &Cpu, key: Key, rate: f32, x: &mut Strips<Cpu>) -> Result<(), BackendError> {
    let layout = x.layout;
    let operations = OPERATIONS * layout.len() as u64;
    cpu.for_each_chunk(&mut x.data, rows_per_task(&layout) * layout.strip(), operations, |start, rows| {
        dispatch(cpu.isa, Dropout { layout, first_row: start / layout.strip(), key, rate, rows });
    });
    Ok(())
}

struct Dropout<'a> {
    layout: StripLayout,
    /// Number of the first row: strip · features + feature.
    first_row: usize,
    key: Key,
    rate: f32,
    rows: &'a mut [f32],
}

impl Kernel for Dropout<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let (features, strip) = (self.layout.features(), self.layout.strip());
        let dropper = Dropper::new(self.key, self.rate, |lane| lane);
        for (i, row) in self.rows.chunks_exact_mut(strip).enumerate() {
            let (s, feature) = ((self.first_row + i) / features, (self.first_row + i) % features);
            let first = (feature * self.layout.lanes() + s * strip) as u64;
            for (j, part) in row.as_chunks_mut::<WIDTH>().0.iter_mut().enumerate() {
                dropper.apply(first + (j * WIDTH) as u64, part);
            }
        }
    }
}

/// Dropout of 16 elements at a time, whose indices lie apart by what is the same for all of them.
pub(super) struct Dropper {
    key: [u32; 2],
    rate: f32,
    offsets: [u64; WIDTH],
}

impl Dropper {
    /// `offset` says how far element `i`'s index lies behind the first one's.
    #[inline(always)]
    pub fn new(key: Key, rate: f32, offset: impl Fn(u64) -> u64) -> Self {
        Self { key: key.words(), rate, offsets: std::array::from_fn(|i| offset(i as u64)) }
    }

    /// Drops or scales elements, the first of which has this index.
    #[inline(always)]
    pub fn apply(&self, first: u64, x: &mut [f32; WIDTH]) {
        let bits = low_bits(self.key, first, self.offsets);
        for (x, bits) in x.iter_mut().zip(bits) {
            // 24 bits: the conversion from signed numbers, which every instruction set has, will do.
            let uniform = (bits >> 8) as i32 as f32 * (1.0 / (1 << 24) as f32);
            let kept = *x / (1.0 - self.rate);
            *x = if uniform < self.rate { 0.0 } else { kept };
        }
    }
}

/// The low words of `key.bits(first + offset)` for 16 offsets: [`crate::random::threefry`] with the lanes innermost.
#[inline(always)]
fn low_bits(key: [u32; 2], first: u64, offsets: [u64; WIDTH]) -> [u32; WIDTH] {
    let schedule = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let counter = offsets.map(|offset| first + offset);
    let mut a = counter.map(|c| (c as u32).wrapping_add(schedule[0]));
    let mut b = counter.map(|c| ((c >> 32) as u32).wrapping_add(schedule[1]));
    four_rounds::<13, 15, 26, 6>(&mut a, &mut b, schedule[1], schedule[2].wrapping_add(1));
    four_rounds::<17, 29, 16, 24>(&mut a, &mut b, schedule[2], schedule[0].wrapping_add(2));
    four_rounds::<13, 15, 26, 6>(&mut a, &mut b, schedule[0], schedule[1].wrapping_add(3));
    four_rounds::<17, 29, 16, 24>(&mut a, &mut b, schedule[1], schedule[2].wrapping_add(4));
    four_rounds::<13, 15, 26, 6>(&mut a, &mut b, schedule[2], schedule[0].wrapping_add(5));
    a
}

#[inline(always)]
fn four_rounds<const R0: u32, const R1: u32, const R2: u32, const R3: u32>(
    a: &mut [u32; WIDTH],
    b: &mut [u32; WIDTH],
    inject_a: u32,
    inject_b: u32,
) {
    for i in 0..WIDTH {
        let (mut x, mut y) = (a[i], b[i]);
        x = x.wrapping_add(y);
        y = y.rotate_left(R0) ^ x;
        x = x.wrapping_add(y);
        y = y.rotate_left(R1) ^ x;
        x = x.wrapping_add(y);
        y = y.rotate_left(R2) ^ x;
        x = x.wrapping_add(y);
        y = y.rotate_left(R3) ^ x;
        (a[i], b[i]) = (x.wrapping_add(inject_a), y.wrapping_add(inject_b));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;
    use crate::Neural;
    use crate::testing::neural;

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            layout in neural::layouts(), rate in 0.0f32..0.99, seed: u64
        ) {
            for cpu in BACKENDS.iter() {
                neural::dropout(cpu, layout, rate, seed, true);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let layout = StripLayout::sparse(1000, 333);
        let x = pack(layout, &normals("x", 333_000));
        same_for_all_threads(|cpu| {
            let mut y = Strips { layout, data: buffer(&x.data) };
            cpu.dropout(Key::new(3), 0.4, &mut y).unwrap();
            let kept = y.data.iter().filter(|&&y| y != 0.0).count() as f64 / 333_000.0;
            // Five standard errors.
            assert!((kept - 0.6).abs() < 5.0 * (0.24f64 / 333_000.0).sqrt(), "{kept}");
            y.data.to_vec()
        });
    }

    #[test]
    fn counters_beyond_32_bits() {
        let key = Key::new(9);
        let first = (1u64 << 32) - 7;
        let expected: [u32; WIDTH] = std::array::from_fn(|i| key.bits(first + i as u64) as u32);
        assert_eq!(low_bits(key.words(), first, std::array::from_fn(|i| i as u64)), expected);
    }
}
