//! Instruction sets behind one trait, and the one place where a kernel is compiled for each of them.
//!
//! A kernel is a struct that implements [`Kernel`]; its `eval` is generic over [`Isa`] and is inlined into a wrapper
//! that enables the instruction set's features ([`dispatch`]). Parallel loops go *outside* the dispatch: a closure
//! that another thread runs does not inherit the features.

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
mod aarch64_neon;
mod scalar;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86_avx2;
#[cfg(target_arch = "x86_64")]
mod x86_avx512;

use std::fmt;
use std::str::FromStr;

#[cfg(all(target_arch = "aarch64", target_endian = "little"))]
pub(crate) use aarch64_neon::Neon;
pub(crate) use scalar::Scalar;
pub(crate) use vector::{EightLanes, Isa, Kernel, Number, array_of, two_columns};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_avx512::Avx512;

/// An instruction set that kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IsaName {
    /// Plain Rust, eight floats at a time; whatever the target's baseline makes of it.
    Scalar,
    /// NEON, of aarch64: pairs of its 32 registers of four floats, so eight floats a vector and 16 of them.
    Neon,
    /// AVX2 with FMA: eight floats a vector, 16 registers.
    Avx2,
    /// AVX-512 (F): sixteen floats a vector, 32 registers.
    Avx512,
}

impl IsaName {
    /// All of them; of those that one machine can have, the fastest last.
    pub const ALL: [IsaName; 4] = [IsaName::Scalar, IsaName::Neon, IsaName::Avx2, IsaName::Avx512];

    /// Name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            IsaName::Scalar => "scalar",
            IsaName::Neon => "neon",
            IsaName::Avx2 => "avx2",
            IsaName::Avx512 => "avx512",
        }
    }

    /// f32 of a vector.
    pub fn lanes(self) -> usize {
        self.shape()[0]
    }

    /// Vectors that the registers hold.
    pub fn registers(self) -> usize {
        self.shape()[1]
    }

    fn shape(self) -> [usize; 2] {
        match self {
            IsaName::Scalar => [Scalar::LANES, Scalar::REGISTERS],
            IsaName::Neon | IsaName::Avx2 => [8, 16],
            IsaName::Avx512 => [16, 32],
        }
    }

    /// Whether this machine has it.
    pub fn is_available(self) -> bool {
        match self {
            IsaName::Scalar => true,
            #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
            IsaName::Neon => Neon::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            IsaName::Avx2 => Avx2::detect().is_some(),
            #[cfg(target_arch = "x86_64")]
            IsaName::Avx512 => Avx512::detect().is_some(),
            // Those of other processors.
            _ => false,
        }
    }

    /// The fastest one that this machine has.
    pub fn best() -> IsaName {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(IsaName::Scalar)
    }
}

impl fmt::Display for IsaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for IsaName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|isa| isa.name() == text).ok_or_else(|| {
            format!("unknown instruction set {text:?}, known are {}", Self::ALL.map(IsaName::name).join(", "))
        })
    }
}

/// Runs `kernel` compiled for `name`.
///
/// # Panics
/// If this machine lacks the instruction set; [`super::Cpu`] checks that once.
pub(crate) fn dispatch<K: Kernel>(name: IsaName, kernel: K) -> K::Output {
    const CHECKED: &str = "Cpu::new checked that the instruction set is there";
    match name {
        IsaName::Scalar => Scalar.call(kernel),
        #[cfg(all(target_arch = "aarch64", target_endian = "little"))]
        IsaName::Neon => Neon::detect().expect(CHECKED).call(kernel),
        #[cfg(target_arch = "x86_64")]
        IsaName::Avx2 => Avx2::detect().expect(CHECKED).call(kernel),
        #[cfg(target_arch = "x86_64")]
        IsaName::Avx512 => Avx512::detect().expect(CHECKED).call(kernel),
        other => panic!("{other} is not available: Cpu::new refuses it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct SumsAgree;
    impl Kernel for SumsAgree {
        type Output = [usize; 2];
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) -> [usize; 2] {
            // Small integers: every order of summation gives the same bits.
            let data: Vec<f32> = (0..8 * I::LANES).map(|i| ((i * 37) % 101) as f32 - 50.0).collect();
            // SAFETY: data holds 8 · LANES floats.
            let vectors: [I::V; 8] = std::array::from_fn(|v| unsafe { isa.load(data.as_ptr().add(v * I::LANES)) });
            let expected: [f32; 8] = std::array::from_fn(|v| data[v * I::LANES..][..I::LANES].iter().sum());
            assert_eq!(isa.sum8(vectors), expected);
            assert_eq!(vectors.map(|v| isa.sum(v)), expected);
            let [a, b, c, d, ..] = vectors;
            assert_eq!(isa.sum4([a, b, c, d]), expected[..4]);
            // Numbers whose sum depends on the order, which is the same for all three.
            let data: Vec<f32> =
                (0..8 * I::LANES as u64).map(|i| crate::random::Key::new(1).uniform(i) - 0.5).collect();
            // SAFETY: data holds 8 · LANES floats.
            let vectors: [I::V; 8] = std::array::from_fn(|v| unsafe { isa.load(data.as_ptr().add(v * I::LANES)) });
            let eight = isa.sum8(vectors);
            assert_eq!(vectors.map(|v| isa.sum(v)), eight);
            let [a, b, c, d, ..] = vectors;
            assert_eq!(isa.sum4([a, b, c, d]), eight[..4]);
            [I::LANES, I::REGISTERS]
        }
    }

    #[test]
    fn horizontal_sums() {
        for name in IsaName::ALL {
            if name.is_available() {
                let shape = dispatch(name, SumsAgree);
                assert_eq!(shape, [name.lanes(), name.registers()]);
                println!("{name}: {} lanes", shape[0]);
            } else {
                println!("{name}: not run, this machine lacks it");
            }
        }
    }

    struct StoresWhere;
    impl Kernel for StoresWhere {
        type Output = ();
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) {
            let data: Vec<f32> = (0..I::LANES).map(|i| i as f32).collect();
            // SAFETY: data holds LANES floats.
            let vector = unsafe { isa.load(data.as_ptr()) };
            for bits in 0..1u32 << I::LANES {
                let mut to = vec![f32::NAN; I::LANES];
                // SAFETY: `to` holds LANES floats.
                unsafe { isa.store_where(to.as_mut_ptr(), vector, bits) };
                let expected: Vec<f32> = data.iter().copied().filter(|&i| bits >> i as u32 & 1 == 1).collect();
                assert_eq!(to[..expected.len()], expected, "{bits:b}");
            }
            for bound in 0..=I::LANES {
                let expected = (0..I::LANES).filter(|&i| i >= bound).fold(0, |bits, i| bits | 1 << i);
                assert_eq!(isa.not_below(vector, isa.splat(bound as f32)), expected);
            }
            assert_eq!(isa.not_below(isa.splat(f32::NAN), isa.splat(0.0)), 0);
        }
    }

    #[test]
    fn lanes_are_stored_by_bits() {
        IsaName::ALL.into_iter().filter(|name| name.is_available()).for_each(|name| dispatch(name, StoresWhere));
    }

    struct KeepsFirst;
    impl Kernel for KeepsFirst {
        type Output = ();
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) {
            for count in 0..=I::LANES {
                let mut lanes = vec![0.0; I::LANES];
                // SAFETY: `lanes` holds LANES floats.
                unsafe { isa.store(lanes.as_mut_ptr(), isa.keep_first(isa.splat(2.0), count)) };
                assert_eq!(lanes.iter().filter(|&&lane| lane == 2.0).count(), count);
                assert!(lanes[count..].iter().all(|&lane| lane == 0.0));
            }
        }
    }

    #[test]
    fn the_first_lanes_are_kept() {
        IsaName::ALL.into_iter().filter(|name| name.is_available()).for_each(|name| dispatch(name, KeepsFirst));
    }

    struct NanRules;
    impl Kernel for NanRules {
        type Output = ();
        #[inline(always)]
        fn eval<I: Isa>(self, isa: I) {
            let (nan, one) = (isa.splat(f32::NAN), isa.splat(1.0));
            let lanes = |vector: I::V| {
                let mut to = vec![0.0; I::LANES];
                // SAFETY: `to` holds LANES floats.
                unsafe { isa.store(to.as_mut_ptr(), vector) };
                to
            };
            assert_eq!(lanes(isa.max(nan, one)), lanes(one));
            assert!(lanes(isa.max(one, nan)).iter().all(|lane| lane.is_nan()));
            for test in [nan, isa.splat(0.0), isa.splat(-1.0)] {
                assert_eq!(lanes(isa.where_positive(test, one)), lanes(isa.splat(0.0)));
            }
        }
    }

    #[test]
    fn nan_is_treated_as_documented() {
        IsaName::ALL.into_iter().filter(|name| name.is_available()).for_each(|name| dispatch(name, NanRules));
    }

    #[test]
    fn the_best_is_of_this_processor() {
        let best = IsaName::best();
        assert!(best.is_available());
        assert_eq!(IsaName::Neon.is_available(), cfg!(all(target_arch = "aarch64", target_endian = "little")));
        if cfg!(target_arch = "x86_64") {
            assert_ne!(best, IsaName::Neon);
        } else if IsaName::Neon.is_available() {
            assert_eq!(best, IsaName::Neon);
        }
    }

    #[test]
    fn names_round_trip() {
        for name in IsaName::ALL {
            assert_eq!(name.name().parse(), Ok(name));
        }
        assert!("sse9".parse::<IsaName>().unwrap_err().contains("avx2"));
    }
}
