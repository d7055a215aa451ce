//! Models of and for other programs: what `rigl export` writes and `rigl import` reads.
//!
//! | on disk | layers | biases | read by |
//! | --- | --- | --- | --- |
//! | a `.safetensors` file, see [`pytorch`] | all | yes | PyTorch, NumPy and all that read safetensors |
//! | a [`folder`] of matrix files | all | yes, but with `.smtx` | SciPy, NumPy and others, see [`formats`](crate::formats) |
//! | one matrix file | one | no | the same |
//! | an `.onnx` file, written only | all | yes | onnxruntime and others |
//!
//! [`read_model`] makes a [`StoredModel`](crate::models::StoredModel) of any of these, a multi-layer perceptron's layers named
//! `fc1`, `fc2`, … as the trainer names them; [`leave_out_zeros`] and [`prune`] make it sparse; [`Target`] writes one.

pub mod folder;
pub mod pytorch;

mod description;
mod error;
mod layers;
mod onnx;
mod order;
mod prune;
mod source;
mod target;
#[cfg(test)]
mod testing;

pub use error::{ExchangeError, NotFinite, TensorsError};
pub use order::OrderError;
pub use prune::{leave_out_zeros, own_nnz, prune};
pub use pytorch::NetworkOptions;
pub use source::read_model;
pub use target::{ExchangeFormat, Target, check_not_read, check_out};
