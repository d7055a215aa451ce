//! Sparse × dense kernels for training neural networks whose cost follows their density.
//!
//! A weight matrix is a [`CsrPattern`] (which entries exist) plus one value array per thing that hangs on the
//! pattern: the weight itself, its gradient, each optimizer slot. Activations are dense and live in *strips*
//! ([`StripLayout`]): a fixed number of samples side by side, so that every stored weight becomes one
//! multiply-add over aligned vectors.
//!
//! | operation | equation | trait method |
//! | --- | --- | --- |
//! | SpMM | `Y[m, n] = W[m, k] · X[k, n]` | [`SparseLinear::spmm`] with [`Op::NoTranspose`] |
//! | transposed SpMM | `dX[k, n] = Wᵀ[k, m] · dY[m, n]` | [`SparseLinear::spmm`] with [`Op::Transpose`] |
//! | SDDMM | `dW[i, j] = Σ_n dY[i, n] · X[j, n]` at the stored `(i, j)` | [`SparseLinear::sddmm`] |
//! | streaming growth | the `k` largest `abs(dY · Xᵀ)` outside a pattern | [`SparseLinear::grow`] |
//! | all three in blocks | the same, with `W` in blocks of `r × c` ([`BsrPattern`]) | [`BlockSparseLinear`] |
//! | GEMM | the same three products with a dense `W` | [`DenseLinear`] |
//!
//! # Support
//!
//! | operation | format | CPU backend ([`cpu::Cpu`]) | storage types |
//! | --- | --- | --- | --- |
//! | SpMM, transposed SpMM, SDDMM | CSR | scalar, AVX2+FMA, AVX-512 | f32; f16 and bf16 as row-major operands ([`MatrixRef`]), converted when packed |
//! | SpMM, transposed SpMM, SDDMM | BSR, r and c of 1, 2, 4, 8 or 16 | scalar, AVX2+FMA, AVX-512 | f32 |
//! | streaming growth | CSR | crate `gemm` | f32 |
//! | GEMM | dense | crate `gemm` | f32 |
//! | bias, ReLU, softmax cross-entropy, dropout, SGD, Adam (feature `nn`) | – | all of the above | f32 |
//!
//! Not there: growth of block-sparse patterns, convolution, NEON, and the GPU.
//!
//! # Determinism
//!
//! Results are bit-identical for any number of threads: no plan parameter depends on the thread count, every
//! output is computed by one task in one order, and random numbers are counter-based ([`random`]).

pub mod backend;
mod bsr;
pub mod cpu;
mod csr;
mod dense;
mod element;
mod error;
mod pattern;
pub mod random;
pub mod reference;

#[cfg(feature = "nn")]
pub use backend::{AdamStep, CrossEntropy, Neural, Optimizer, SgdStep};
pub use backend::{
    Backend, BlockMatrix, BlockSparseLinear, Candidate, DenseLinear, GrowRequest, Op, PlanOptions, SparseLinear,
    SparseMatrix, Storage,
};
pub use bsr::{BlockEntry, BsrPattern};
pub use csr::Csr;
pub use dense::{MatrixMut, MatrixRef, StripLayout, Strips};
pub use element::Element;
pub use error::{BackendError, FormatError, ShapeError};
pub use pattern::{CsrPattern, Transposed};
