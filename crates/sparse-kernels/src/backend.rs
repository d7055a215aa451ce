//! What a device must be able to do, as small traits: a model bounds only those it uses, and a device without a
//! family of operations does not implement it.
//!
//! All operands of one call live on the same backend. Transfers are explicit calls ([`Storage::upload`],
//! [`Storage::download`]); nothing else moves data. Operations may be queued; [`Storage::download`] and
//! [`Storage::synchronize`] wait for them.
//!
//! Operands are checked here, once for all devices: a trait's method checks them and calls the device's hook of the same
//! name with `run_` before it, which checks nothing. So no other crate can implement a trait of operations.

pub(crate) mod check;
#[cfg(feature = "conv")]
pub(crate) mod conv;
#[cfg(feature = "nn")]
mod images;
pub(crate) mod linear;
#[cfg(feature = "nn")]
pub(crate) mod lists;
#[cfg(feature = "nn")]
mod neural;
#[cfg(feature = "nn")]
mod norm;
#[cfg(feature = "nn")]
mod recurrent;
#[cfg(feature = "nn")]
mod sequence;
mod storage;
mod wide;

#[cfg(feature = "conv")]
pub use conv::{BlockConvWeight, BlockSparseConv, ConvOptions, ConvWeight, DenseConv, SparseConv};
#[cfg(feature = "nn")]
pub use images::ImageNeural;
#[cfg(feature = "nn")]
pub(crate) use images::Pool;
pub use linear::{
    BlockMatrix, BlockSparseLinear, Candidate, DenseLinear, GrowRequest, Op, PlanOptions, SparseLinear, SparseMatrix,
};
#[cfg(feature = "nn")]
pub use lists::{ColumnIndex, Lists};
#[cfg(feature = "nn")]
pub use neural::{AdamStep, CrossEntropy, Neural, Optimizer, PointwiseLoss, SgdStep};
#[cfg(feature = "nn")]
pub use norm::{Accumulate, Activation, BatchNorm, BatchNormOptions, ReluMask};
#[cfg(feature = "nn")]
pub use recurrent::{GruSaved, GruStep, GruStepGrad, LstmSaved, LstmStep, LstmStepGrad, Recurrent, Steps};
#[cfg(feature = "nn")]
pub use sequence::{Attention, AttentionGrad, FeatureNorm, Gelu, NormKind, SequenceNeural};
#[cfg(feature = "nn")]
pub(crate) use sequence::{NormGrad, NormInput, Rows};
pub use storage::Storage;

/// Everything that the products need.
#[cfg(feature = "nn")]
pub trait Products: SparseLinear + BlockSparseLinear + DenseLinear + SparseConv + BlockSparseConv + DenseConv {}
#[cfg(feature = "nn")]
impl<B: SparseLinear + BlockSparseLinear + DenseLinear + SparseConv + BlockSparseConv + DenseConv> Products for B {}

/// Everything that training a network needs.
#[cfg(feature = "nn")]
pub trait Backend:
    Products + Neural + Recurrent + ImageNeural + SequenceNeural + Lists + BatchNorm + Optimizer
{
}
#[cfg(feature = "nn")]
impl<B: Products + Neural + Recurrent + ImageNeural + SequenceNeural + Lists + BatchNorm + Optimizer> Backend for B {}
