//! The formats by name.

use std::fmt;

/// The formats, each told by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatrixFormat {
    /// SciPy's sparse matrices: [`npz`](super::npz).
    Npz,
    /// Matrix Market: [`matrix_market`](super::matrix_market).
    MatrixMarket,
    /// The Deep Learning Matrix Collection's patterns: [`smtx`](super::smtx).
    Smtx,
    /// NumPy's arrays: [`npy`](super::npy).
    Npy,
}

impl MatrixFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Npz, Self::MatrixMarket, Self::Smtx, Self::Npy];

    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Npz => "SciPy sparse",
            Self::MatrixMarket => "Matrix Market",
            Self::Smtx => "DLMC pattern",
            Self::Npy => "NumPy array",
        }
    }

    /// Without the dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Npz => "npz",
            Self::MatrixMarket => "mtx",
            Self::Smtx => "smtx",
            Self::Npy => "npy",
        }
    }
}

impl fmt::Display for MatrixFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ".{} ({})", self.extension(), self.name())
    }
}
