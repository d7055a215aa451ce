//! The networks, one family a file. Names of layers are those of PyTorch's modules where there are such.

mod lenet;
mod mobilenet;
mod resnet;
mod vgg;
mod wide_resnet;

use std::str::FromStr;

use sparse_kernels::ShapeError;

use super::architecture::Architecture;
use super::builder::Builder;
use super::family::Family;
use super::name::{HIDDEN, ModelName};
use super::spec::ModelSpec;

/// Builds the network of a family with the numbers of its name.
type Build = fn(&mut Builder, &[usize]) -> Result<(), ShapeError>;

/// Every family of convolutional networks.
static FAMILIES: [(&Family, Build); 5] = [
    (&lenet::LENET_5, lenet::lenet_5),
    (&wide_resnet::WIDE_RESNET, wide_resnet::wide_resnet),
    (&resnet::RESNET, resnet::resnet),
    (&mobilenet::MOBILENET, mobilenet::mobilenet),
    (&vgg::VGG, vgg::vgg_16),
];

impl FromStr for ModelName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "lenet-300-100" {
            return Ok(Self::Lenet300x100);
        }
        // As they are printed, so that wrn-022-2 is no second name.
        let number = |text: &str| text.parse::<u16>().ok().filter(|n| n.to_string() == text).map(usize::from);
        for (family, _) in FAMILIES {
            let Some(numbers) = name.strip_prefix(family.prefix) else { continue };
            let numbers = numbers.split('-').map(number).collect::<Option<Vec<_>>>().filter(|n| (family.has)(n));
            match (numbers, family.rule) {
                (Some(numbers), _) => return Ok(Self::Convolutional(family, numbers)),
                (None, Some(rule)) => return Err(rule.to_owned()),
                (None, None) => {}
            }
        }
        // Column indices are u32.
        let size = |text: &str| text.parse::<u32>().ok().filter(|&size| size > 0).map(|size| size as usize);
        let sizes = |text: &str| text.split('-').map(size).collect::<Option<Vec<_>>>();
        if let Some(hidden) = name.strip_prefix(HIDDEN).and_then(sizes) {
            return Ok(Self::Hidden(hidden));
        }
        match sizes(name) {
            Some(sizes) if sizes.len() >= 2 => Ok(Self::Mlp(sizes)),
            _ => Err(format!(
                "the models are lenet-300-100, {}, or a multi-layer perceptron given by its hidden layers, such as mlp-300-100, \
                 or by all layer sizes, such as 784-300-100-10",
                FAMILIES.map(|(family, _)| family.names).join(", ")
            )),
        }
    }
}

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
            ModelName::Convolutional(of, numbers) => {
                let (_, build) = FAMILIES.iter().find(|(family, _)| family == of).expect("names are of families here");
                build(&mut builder, numbers)?;
            }
            name => lenet::mlp(&mut builder, name.sizes())?,
        }
        Ok(builder.finish())
    }
}
