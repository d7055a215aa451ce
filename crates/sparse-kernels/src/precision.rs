//! How the numbers of a buffer are stored.

use std::fmt;
use std::str::FromStr;

/// How the numbers of a buffer are stored. It is a property of the buffer, not of a network: activations and their gradients may
/// be in 16 bits, while weights, statistics and losses are f32. All sums are f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// [`half::bf16`]: the upper 16 bits of an f32, so its range with 8 bits of precision.
    ///
    /// Numbers are rounded to the nearest, ties to the one whose last bit is 0, on all devices. What lies beyond the largest one by
    /// half a step or more becomes infinite; subnormal numbers are kept; NaN stays NaN, with its sign.
    Bf16,
}

impl Precision {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::F32, Self::Bf16];

    /// Name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Bytes of a number.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|precision| precision.name() == text)
            .ok_or_else(|| format!("unknown precision {text:?}, known are {}", Self::ALL.map(Self::name).join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse(), Ok(precision));
        }
        assert_eq!("f8".parse::<Precision>().unwrap_err(), "unknown precision \"f8\", known are f32 and bf16");
    }
}
