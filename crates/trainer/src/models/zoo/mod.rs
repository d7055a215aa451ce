//! The networks, one family a file. Names of layers are those of PyTorch's modules where there are such.

mod lenet;
mod mobilenet;
mod resnet;
mod vgg;
mod wide_resnet;

use sparse_kernels::ShapeError;

use super::architecture::Architecture;
use super::builder::Builder;
use super::{ModelName, ModelSpec};

impl Architecture {
    /// The architecture of a named model, of the paper's sizes ([`ModelSpec::of`]).
    pub fn of(model: &ModelName) -> Self {
        Self::new(&ModelSpec::of(model)).expect("models of the paper's sizes exist")
    }

    /// The architecture of a specification.
    ///
    /// # Errors
    /// [`ShapeError`] if the pictures are too small for the network.
    pub fn new(spec: &ModelSpec) -> Result<Self, ShapeError> {
        let mut builder = Builder::new(spec);
        match &spec.name {
            ModelName::Lenet300x100 | ModelName::Mlp(_) => lenet::mlp(&mut builder, spec.name.sizes()),
            ModelName::Lenet5 => lenet::lenet_5(&mut builder),
            ModelName::Wrn { depth, width } => wide_resnet::wide_resnet(&mut builder, *depth, *width),
            ModelName::ResNet(depth) => resnet::resnet(&mut builder, *depth),
            ModelName::MobileNetV1 => mobilenet::mobilenet_v1(&mut builder),
            ModelName::MobileNetV2 => mobilenet::mobilenet_v2(&mut builder),
            ModelName::Vgg16 => vgg::vgg_16(&mut builder),
        }?;
        Ok(builder.finish())
    }
}
