//! Memory of the CPU backend, on cache-line boundaries.

use std::ops::{Deref, DerefMut};

use half::bf16;

use crate::Precision;

const LINE: usize = 16;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

/// A fixed number of numbers, f32 if nothing else is said, zero at first, starting on a cache line: a vector of any instruction
/// set that stands at a multiple of its own width never crosses one. (On a Zen 5 core, 512-bit loads that cross lines halve the
/// rate.)
///
/// It is a slice of f32. What is in 16 bits ([`Buffer::precision`]) is not: to take it for one is a panic.
#[derive(Default)]
pub struct Buffer {
    lines: Vec<Line>,
    len: usize,
    precision: Precision,
}

/// The numbers of a buffer.
#[derive(Debug, Clone, Copy)]
pub enum Numbers<'a> {
    /// In 32 bits.
    F32(&'a [f32]),
    /// In 16 bits.
    Bf16(&'a [bf16]),
}

/// The numbers of a buffer, to be changed.
#[derive(Debug)]
pub enum NumbersMut<'a> {
    /// In 32 bits.
    F32(&'a mut [f32]),
    /// In 16 bits.
    Bf16(&'a mut [bf16]),
}

/// Lines that hold so many numbers.
fn lines(precision: Precision, len: usize) -> usize {
    len.div_ceil(LINE * size_of::<f32>() / precision.bytes())
}

impl Buffer {
    /// `len` zeros.
    pub fn zeros(len: usize) -> Self {
        let precision = Precision::F32;
        Self { lines: vec![Line([0.0; LINE]); lines(precision, len)], len, precision }
    }

    /// `len` zeros, or none if there is no room.
    pub(super) fn try_zeros(precision: Precision, len: usize) -> Option<Self> {
        let (mut all, needed) = (Vec::new(), lines(precision, len));
        all.try_reserve_exact(needed).ok()?;
        all.resize(needed, Line([0.0; LINE]));
        Some(Self { lines: all, len, precision })
    }

    /// Changes the length to `len`, in the same memory if it was ever that long. Elements hold anything.
    pub(super) fn resize(&mut self, len: usize) {
        let needed = lines(self.precision, len);
        // Lines that are there stay, so that nothing is cleared when the length grows again.
        if needed > self.lines.len() {
            self.lines.resize(needed, Line([0.0; LINE]));
        }
        self.len = len;
    }

    /// How the numbers are stored.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Words of four bytes that they take.
    #[cfg(feature = "conv")]
    pub(super) fn words(&self) -> usize {
        self.len * self.precision.bytes() / size_of::<f32>()
    }

    /// The numbers.
    pub fn numbers(&self) -> Numbers<'_> {
        let start = self.lines.as_ptr();
        // SAFETY: `lines` holds at least `len` numbers of this precision, for which every bit pattern is one.
        unsafe {
            match self.precision {
                Precision::F32 => Numbers::F32(std::slice::from_raw_parts(start.cast(), self.len)),
                Precision::Bf16 => Numbers::Bf16(std::slice::from_raw_parts(start.cast(), self.len)),
            }
        }
    }

    /// The numbers, to be changed.
    pub fn numbers_mut(&mut self) -> NumbersMut<'_> {
        let start = self.lines.as_mut_ptr();
        // SAFETY: as in `numbers`; the exclusive borrow of self covers the lines.
        unsafe {
            match self.precision {
                Precision::F32 => NumbersMut::F32(std::slice::from_raw_parts_mut(start.cast(), self.len)),
                Precision::Bf16 => NumbersMut::Bf16(std::slice::from_raw_parts_mut(start.cast(), self.len)),
            }
        }
    }
}

const WIDE: &str = "numbers in 16 bits are widened before an operation on f32";

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self.numbers() {
            Numbers::F32(numbers) => numbers,
            Numbers::Bf16(_) => panic!("{WIDE}"),
        }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self.numbers_mut() {
            NumbersMut::F32(numbers) => numbers,
            NumbersMut::Bf16(_) => panic!("{WIDE}"),
        }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.numbers().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_room_is_not_made() {
        assert!(Buffer::try_zeros(Precision::F32, usize::MAX / 8).is_none());
        assert!(Buffer::try_zeros(Precision::Bf16, usize::MAX / 4).is_none());
        assert_eq!(Buffer::try_zeros(Precision::F32, 17).unwrap()[..], [0.0; 17]);
    }

    #[test]
    fn aligned_and_zero() {
        for len in [0, 1, 15, 16, 17, 1000] {
            let mut buffer = Buffer::zeros(len);
            assert_eq!(buffer.len(), len);
            assert!(buffer.iter().all(|&x| x == 0.0));
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
            buffer.fill(1.0);
            assert_eq!(buffer.iter().sum::<f32>(), len as f32);
        }
    }

    #[test]
    fn numbers_in_16_bits_take_half_the_lines() {
        let mut buffer = Buffer::try_zeros(Precision::Bf16, 65).unwrap();
        assert_eq!((buffer.len(), buffer.lines.len()), (65, 3));
        let NumbersMut::Bf16(numbers) = buffer.numbers_mut() else { panic!("not of 16 bits") };
        numbers[64] = bf16::from_f32(1.5);
        let Numbers::Bf16(numbers) = buffer.numbers() else { panic!("not of 16 bits") };
        assert_eq!((numbers[0].to_f32(), numbers[64].to_f32()), (0.0, 1.5));
    }

    #[test]
    #[should_panic(expected = "are widened before")]
    fn numbers_in_16_bits_are_no_f32() {
        assert_eq!(Buffer::try_zeros(Precision::Bf16, 1).unwrap()[..], [0.0]);
    }
}
