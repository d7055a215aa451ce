//! The networks, one family a file. Names of layers are those of PyTorch's modules where there are such.

mod lenet;
mod mobilenet;
mod resnet;
mod vgg;
mod wide_resnet;

pub(super) use lenet::{lenet_5, mlp};
pub(super) use mobilenet::{mobilenet_v1, mobilenet_v2};
pub(super) use resnet::resnet;
pub(super) use vgg::vgg_16;
pub(super) use wide_resnet::wide_resnet;
