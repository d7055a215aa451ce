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
//! | all of these in blocks | the same, with `W` in blocks of `r × c` ([`BsrPattern`]); growth by the blocks' norms | [`BlockSparseLinear`] |
//! | GEMM | the same three products with a dense `W` | [`DenseLinear`] |
//! | convolution | forward, input gradient, weight gradient, growth, with `W` in CSR | [`SparseConv`] |
//! | convolution in blocks | the three passes, with `W` in blocks | [`BlockSparseConv`] |
//! | dense and depthwise convolution | the three passes | [`DenseConv`] |
//! | pooling | largest or mean of a window ([`PoolShape`]), or mean of a channel | `ImageNeural` (feature `nn`) |
//! | images to strips | pixels of a channel become features | `ImageNeural::flatten` (feature `nn`) |
//!
//! Images ([`Images`]) lie in strips too ([`ImageLayout`]), with a border of zeros; a [`ConvShape`] says what the convolution is.
//! All of it, and activations of either kind ([`Activations`]), is there with the feature `conv`, which is on by default:
//!
#![cfg_attr(feature = "conv", doc = "```")]
#![cfg_attr(not(feature = "conv"), doc = "```ignore")]
//! use std::sync::Arc;
//! use sparse_kernels::cpu::Cpu;
//! use sparse_kernels::{ConvOptions, ConvShape, ConvWeight, CsrPattern, ImageLayout, Images, SparseConv};
//! let cpu = Cpu::new(1, None)?;
//! // One channel to one, 3 × 3, of which the tap above and the one to the right are stored.
//! let shape = ConvShape::new(1, 1, [3, 3])?.with_padding([1, 1]);
//! let pattern = Arc::new(CsrPattern::new(1, 9, vec![0, 2], vec![1, 5])?);
//! let [border_x, border_y] = shape.borders([2, 2])?;
//! let x_layout = ImageLayout::new(1, 1, [2, 2], border_x, 1)?;
//! let y_layout = ImageLayout::new(1, 1, shape.output_size([2, 2])?, border_y, 1)?;
//! let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
//! let w = ConvWeight::new(&cpu, pattern, &[1.0, 10.0], shape, options)?;
//! let (mut x, mut y) = (Images::zeros(&cpu, x_layout)?, Images::zeros(&cpu, y_layout)?);
//! x_layout.pack(&[1.0, 2.0, 3.0, 4.0], &mut x.data)?;
//! cpu.conv_forward(&w, &x, &mut y)?;
//! let mut pixels = [0.0; 4];
//! y_layout.unpack(&y.data, &mut pixels)?;
//! assert_eq!(pixels, [20.0, 0.0, 41.0, 2.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Row-major operands
//!
//! Who embeds the kernels has operands as `[feature][sample]` in a slice: [`cpu::Cpu::spmm_row_major`] and its relatives
//! take such views, for any number of samples, and convert in a [`cpu::Workspace`] what must be converted. Products of 1
//! to 8 samples, inference, have kernels of their own there.
//!
//! ```
//! use std::sync::Arc;
//! use sparse_kernels::cpu::{Cpu, Workspace};
//! use sparse_kernels::{CsrPattern, MatrixMut, MatrixRef, Op, PlanOptions, SparseMatrix};
//! let cpu = Cpu::new(1, None)?;
//! let pattern = Arc::new(CsrPattern::new(2, 3, vec![0, 2, 3], vec![0, 2, 1])?);
//! let w = SparseMatrix::new(&cpu, pattern, &[1.0, 2.0, 3.0], PlanOptions::default())?;
//! let (x, mut y) = ([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0f32; 4]);
//! let (from, to) = (MatrixRef::new(&x, 3, 2, 2)?, MatrixMut::new(&mut y, 2, 2, 2)?);
//! cpu.spmm_row_major(Op::NoTranspose, &w, from, to, &mut Workspace::default())?;
//! assert_eq!(y, [11.0, 14.0, 9.0, 12.0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Support
//!
//! Backends [`cpu::Cpu`], which picks scalar, NEON, AVX2+FMA or AVX-512 code at run time, and `gpu::Gpu` (feature `gpu`), which
//! computes in f32; – is a gap. *Converted*: row-major operands
//! ([`MatrixRef`], [`MatrixMut`]) may have that type, are converted when packed, and computed with in f32; weights are f32. On a
//! GPU activations can be held in 16 bits (`gpu::HalfStrips`); products and sums are f32.
//!
//! Activations on any backend may be stored in bf16 ([`Precision`], [`Storage::zeros_in`]): every operation takes them, sums are
//! f32, and results are rounded once. Convolutions, batch normalisation and sums of images on a CPU read them as they are; all others
//! work on a copy in f32.
//!
//! | operation | format | CPU: f32 | CPU: f16, bf16 | GPU |
//! | --- | --- | --- | --- | --- |
//! | SpMM, transposed SpMM | CSR | scalar, NEON, AVX2, AVX-512 | converted | WGSL; f16, bf16 |
//! | SpMM, transposed SpMM, 1 to 8 lanes | CSR | scalar, NEON, AVX2 (AVX-512 runs the same vectors) | converted | – |
//! | SpMM, transposed SpMM | BSR | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//! | SDDMM | CSR | scalar, NEON, AVX2, AVX-512 | converted | WGSL; f16, bf16 |
//! | SDDMM | BSR | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//! | streaming growth | CSR, BSR | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//! | GEMM | dense | crate `gemm` | converted | WGSL |
//! | GEMM, 1 to 8 lanes | dense | scalar, NEON, AVX2, AVX-512 | converted | – |
//! | convolution, three passes | CSR, BSR, dense, depthwise | scalar, NEON, AVX2, AVX-512 | – | CSR, dense, depthwise |
//! | convolution, streaming growth | CSR | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//! | bias, ReLU, softmax cross-entropy, dropout, SGD, Adam (feature `nn`) | values | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//! | bias, ReLU, dropout, sum of two, with gradients (feature `nn`) | images | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//! | max, average and global average pooling, with gradients (feature `nn`) | images | scalar, NEON, AVX2, AVX-512 (8 samples a strip: AVX2) | – | WGSL |
//! | rows of a table by token, with gradients (feature `nn`) | strips | plain Rust | – | WGSL |
//! | steps of GRU and LSTM, with gradients (feature `nn`) | strips | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//! | causal attention, with gradients (feature `nn`) | strips | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//! | layer and RMS normalisation, GELU, with gradients (feature `nn`) | strips | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//! | products with samples that are lists, loss of labels that are lists (feature `nn`) | CSR, BSR, dense | scalar, NEON, AVX2, AVX-512 | – | – |
//! | flattening and its inverse (feature `nn`) | images, strips | scalar, NEON, AVX2, AVX-512 | – | WGSL |
//!
//! NEON code (aarch64) was run under emulation only and never timed on a processor, the GPU's on
//! drivers that compute on the processor.
//!
//! # Determinism
//!
//! Results are bit-identical for any number of threads: no plan parameter depends on the thread count, every
//! output is computed by one task in one order, and random numbers are counter-based ([`random`]).

#[cfg(feature = "conv")]
mod activations;
pub mod backend;
mod bsr;
#[cfg(feature = "conv")]
mod conv;
pub mod cpu;
mod csr;
mod dense;
mod element;
mod error;
mod exploration;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg(feature = "conv")]
mod images;
mod pattern;
#[cfg(feature = "conv")]
mod pool;
mod precision;
pub mod profile;
pub mod random;
#[cfg(any(test, feature = "reference"))]
pub mod reference;
#[cfg(test)]
mod testing;

#[cfg(feature = "conv")]
pub use activations::{Activations, Layout};
#[cfg(feature = "nn")]
pub use backend::{
    Accumulate, Activation, AdamStep, Attention, AttentionGrad, Backend, BatchNorm, BatchNormOptions, ColumnIndex,
    CrossEntropy, FeatureNorm, Gelu, GruSaved, GruStep, GruStepGrad, ImageNeural, Lists, LstmSaved, LstmStep,
    LstmStepGrad, Neural, NormKind, Optimizer, PointwiseLoss, Recurrent, ReluMask, SequenceNeural, SgdStep, Steps,
};
#[cfg(feature = "conv")]
pub use backend::{BlockConvWeight, BlockSparseConv, ConvOptions, ConvWeight, DenseConv, SparseConv};
pub use backend::{
    BlockMatrix, BlockSparseLinear, Candidate, DenseLinear, GrowRequest, Op, PlanOptions, SparseLinear, SparseMatrix,
    Storage,
};
pub use bsr::{BlockEntry, Bsr, BsrPattern};
#[cfg(feature = "conv")]
pub use conv::ConvShape;
pub use csr::Csr;
pub use dense::{MatrixMut, MatrixRef, MatrixView, StripLayout, Strips};
pub use element::Element;
pub use error::{BackendError, FormatError, ShapeError};
pub use exploration::ExploreRequest;
#[cfg(feature = "conv")]
pub use images::{ImageLayout, Images};
pub use pattern::{CsrPattern, Transposed};
#[cfg(feature = "conv")]
pub use pool::PoolShape;
pub use precision::Precision;
