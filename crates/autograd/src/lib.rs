//! A reverse-mode tape over sparse weights and dense activations, and the optimizers that go with it.
//!
//! Graph logic only: every loop over numbers is an operation of a [`sparse_kernels::Backend`]. A sparse weight's
//! gradient is one value per stored entry (an SDDMM), never a dense matrix; where a topology update needs the largest
//! entries of the dense gradient, they are asked for by name ([`GrowthRequests`]) and found by a streaming top-k.
//!
//! | part | what it holds |
//! | --- | --- |
//! | [`Weight`] | what a layer multiplies by, in one storage format |
//! | [`Parameters`] | weights, gradients and optimizer slots; moved as one when a pattern changes |
//! | [`Arena`] | activation buffers, reused from step to step |
//! | [`Tape`] | one forward pass, and its backward pass |
//! | [`RecurrentState`] | what a recurrent layer carries from one window of a sequence to the next |
//! | [`optim`] | SGD, Adam, AdamW; learning-rate schedules |
//! | [`init`] | initial values, keyed by position |
//! | [`gradcheck`] | central differences against [`Tape::backward`] |
//!
//! ```
//! use std::sync::Arc;
//! use autograd::optim::{Sgd, SgdOptions};
//! use autograd::{Arena, GrowthRequests, Mode, NoReduce, Parameters, Tape};
//! use sparse_kernels::cpu::Cpu;
//! use sparse_kernels::{CsrPattern, MatrixRef, PlanOptions, SparseMatrix, Storage, StripLayout};
//!
//! let cpu = Cpu::new(1, None)?;
//! let mut parameters = Parameters::new();
//! // [[1 .]
//! //  [. 2]]: two inputs, two classes.
//! let pattern = Arc::new(CsrPattern::new(2, 2, vec![0, 1, 2], vec![0, 1])?);
//! let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: false };
//! let weight = parameters.add_weight("weight", Box::new(SparseMatrix::new(&cpu, pattern, &[1.0, 2.0], options)?));
//! let bias = parameters.add_vector("bias", cpu.zeros(2)?);
//! let mut sgd = Sgd::new(SgdOptions::default(), &cpu, &mut parameters)?;
//!
//! let (mut arena, mut labels) = (Arena::new(), cpu.index_zeros(3)?);
//! cpu.upload_indices(&[0, 1, 1], &mut labels)?;
//! let mut losses = Vec::new();
//! for _ in 0..10 {
//!     let layout = StripLayout::sparse(3, 2);
//!     let mut x = arena.take(&cpu, layout)?;
//!     let samples = [1.0, -1.0, 0.5, 0.0, 1.0, 1.0]; // [feature][lane]
//!     layout.pack(MatrixRef::new(&samples, 2, 3, 3)?, &mut x.data)?;
//!
//!     let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
//!     let x = tape.input(x, false);
//!     let y = tape.apply(weight, x)?;
//!     let y = tape.bias_relu(bias, false, y)?;
//!     let loss = tape.softmax_cross_entropy(y, &labels, 3, 0.0)?;
//!     tape.backward(&[loss], &mut GrowthRequests::new(), &mut NoReduce)?;
//!     losses.push(tape.read_loss(loss)?.mean());
//!     drop(tape);
//!     sgd.step(&cpu, &mut parameters, 0.1)?;
//! }
//! assert!(losses[9] < losses[0]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod arena;
mod error;
mod exploration;
pub mod gradcheck;
mod growth;
mod growth_tiles;
pub mod init;
mod loss;
mod ops;
pub mod optim;
mod parameters;
mod reduce;
mod shards;
mod storage;
mod tape;
mod weights;

pub use arena::{Arena, ArenaStats};
pub use error::Error;
pub use growth::{GrowthPasses, GrowthRequests};
pub use growth_tiles::{BestGrowth, Growth, growth_tile_rows};
pub use loss::{DetachedLoss, Loss, LossStats};
pub use ops::batch_norm::BatchNormLayer;
pub use ops::feature_norm::FeatureNormLayer;
pub use ops::one_vs_all::{TopLabel, TopLabels};
pub use ops::recurrent::RecurrentState;
pub use parameters::{Parameter, ParameterBytes, ParameterId, ParameterValue, Parameters};
pub use reduce::{NoReduce, Reduce};
pub use shards::{Shards, SumOf, Tree};
pub use storage::{Mode, Var};
pub use tape::Tape;
pub use weights::dense::DenseWeight;
pub use weights::lists::ListWeight;
pub use weights::stored::Stored;
pub use weights::tiles::{RowTile, RowTiles, TILE_ROWS};
pub use weights::{Geometry, Pair, Weight};

#[cfg(test)]
mod shards_tests;
#[cfg(test)]
mod tests;
