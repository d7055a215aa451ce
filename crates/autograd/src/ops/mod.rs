//! Operations, one file each: forward, backward, documentation and gradient check together. Each is a method of
//! [`crate::Tape`]; nothing lists them.

mod add;
mod attention;
pub(crate) mod batch_norm;
mod bias_relu;
mod concat;
mod copy;
mod dropout;
mod embed;
pub(crate) mod feature_norm;
mod gelu;
mod lists;
pub(crate) mod one_vs_all;
mod pointwise_loss;
mod pool;
pub(crate) mod recurrent;
mod relu;
mod reshape;
mod softmax_cross_entropy;
mod weight;
