//! The networks, one family a file. Names of layers are those of PyTorch's modules where there are such.

mod gpt;
mod lenet;
mod lists;
mod mobilenet;
mod recurrent;
mod resnet;
mod vgg;
mod wide_resnet;

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::architecture::Architecture;
use super::build_error::BuildError;
use super::builder::Builder;
use super::definition::{Definition, build};
use super::family::{Family, FirstWeights};
use super::graph::{ValueShape, WeightLayer};
use super::name::{HIDDEN, LISTS, ModelName, Stem};
use super::sequence::SequenceFamily;
use super::spec::ModelSpec;
use crate::report::dimensions;

/// Builds the network of a family with the numbers of its name.
type Build = fn(&mut Builder, &[usize]) -> Result<(), BuildError>;

/// Every family of convolutional networks.
static FAMILIES: [(&Family, Build); 6] = [
    (&lenet::LENET_5, lenet::lenet_5),
    (&wide_resnet::WIDE_RESNET, wide_resnet::wide_resnet),
    (&resnet::RESNET, resnet::resnet),
    (&mobilenet::MOBILENET, mobilenet::mobilenet),
    (&mobilenet::MOBILENET_RELU6, mobilenet::mobilenet_v2_relu6),
    (&vgg::VGG, vgg::vgg_16),
];

/// Every family of networks that read tokens.
static SEQUENCE_FAMILIES: [&SequenceFamily; 3] = [&recurrent::GRU, &recurrent::LSTM, &gpt::GPT];

impl FromStr for ModelName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name.contains('\n') {
            let definition = Definition::parse(name, None).map_err(|error| error.to_string())?;
            return Ok(Self::Own(Arc::new(definition)));
        }
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
        for family in SEQUENCE_FAMILIES {
            let Some(numbers) = name.strip_prefix(family.prefix) else { continue };
            let numbers = numbers.split('-').map(number).collect::<Option<Vec<_>>>().filter(|n| (family.has)(n));
            return numbers.map(|numbers| Self::Sequence(family, numbers)).ok_or_else(|| family.rule.to_owned());
        }
        // Column indices are u32.
        let size = |text: &str| text.parse::<u32>().ok().filter(|&size| size > 0).map(|size| size as usize);
        let sizes = |text: &str| text.split('-').map(size).collect::<Option<Vec<_>>>();
        if let Some(hidden) = name.strip_prefix(HIDDEN).and_then(sizes) {
            return Ok(Self::Hidden(hidden));
        }
        if let Some(hidden) = name.strip_prefix(LISTS).and_then(sizes) {
            return Ok(Self::Lists(hidden));
        }
        match sizes(name) {
            Some(sizes) if sizes.len() >= 2 => Ok(Self::Mlp(sizes)),
            _ => Err(format!(
                "the models are lenet-300-100, {}, {}, a multi-layer perceptron given by its hidden layers, such as mlp-300-100, or \
                 by all layer sizes, such as 784-300-100-10, a network for lists of features given by its hidden layers, such as \
                 lists-512, or a file such as net.toml",
                FAMILIES.map(|(family, _)| family.names).join(", "),
                SEQUENCE_FAMILIES.map(|family| family.names).join(", ")
            )),
        }
    }
}

impl Architecture {
    /// The architecture of a named model, of the paper's sizes ([`ModelSpec::of`]).
    ///
    /// # Panics
    /// If it is one's own, and its definition fits no input, or not the one assumed.
    pub fn of(model: &ModelName) -> Self {
        Self::new(&ModelSpec::of(model)).expect("models of the paper's sizes exist")
    }

    /// The architecture of a specification.
    ///
    /// # Errors
    /// [`BuildError`] if the pictures are too small for the network, or a definition has a mistake.
    pub fn new(spec: &ModelSpec) -> Result<Self, BuildError> {
        match &spec.name {
            ModelName::Own(definition) => {
                let own = build::build(definition, spec)?;
                match definition.name().parse() {
                    Ok(known) => of_zoo(&own, &known),
                    Err(_) => Ok(own),
                }
            }
            ModelName::Convolutional(of, numbers) => {
                let (family, build) =
                    FAMILIES.iter().find(|(family, _)| family == of).expect("names are of families here");
                let input = ValueShape::Image { channels: spec.channels, size: spec.size };
                let mut builder = Builder::new(spec, input, family.first_weights);
                builder.check_input()?;
                build(&mut builder, numbers)?;
                builder.finish()
            }
            ModelName::Sequence(family, numbers) => {
                let sequence = spec.sequence.clone().unwrap_or_default();
                let first_weights = match family.cell {
                    Some(_) => FirstWeights::Recurrent,
                    None => FirstWeights::Transformer { layers: numbers[0] },
                };
                let mut builder = Builder::new(spec, ValueShape::Token(spec.classes), first_weights);
                builder.check_input()?;
                match family.cell {
                    Some(cell) => recurrent::recurrent(&mut builder, cell, numbers, &sequence)?,
                    None => gpt::gpt(&mut builder, numbers, &sequence)?,
                }
                builder.finish()
            }
            ModelName::Lists(hidden) => {
                let mut builder = Builder::new(spec, ValueShape::List(spec.channels), FirstWeights::Glorot);
                builder.check_input()?;
                lists::lists(&mut builder, hidden)?;
                builder.finish()
            }
            name => {
                let mut builder = Builder::new(spec, ValueShape::Features(name.sizes()[0]), FirstWeights::Glorot);
                lenet::mlp(&mut builder, name.sizes())?;
                builder.finish()
            }
        }
    }
}

/// The network of the zoo that this one is, having its name.
fn of_zoo(own: &Architecture, known: &ModelName) -> Result<Architecture, BuildError> {
    let ModelSpec { channels, size, classes, .. } = own.spec;
    let taken = |difference| BuildError::Taken { name: known.to_string(), difference };
    // A name must not cost more than the network that has it.
    let depth = match known {
        ModelName::Convolutional(_, numbers) => numbers[0],
        _ => 0,
    };
    if depth > 2 * own.layers.len() + 16 {
        return Err(taken(format!("this one has only {} layers", own.layers.len())));
    }
    let mut difference = None;
    for stem in [Stem::Auto, Stem::Imagenet, Stem::Cifar] {
        let spec = ModelSpec::of(known).on(channels, size, classes).with_stem(stem);
        let found = match Architecture::new(&spec) {
            Err(error) => error.to_string(),
            Ok(zoo) => match differs(own, &zoo) {
                None => return Ok(zoo),
                Some(found) => found,
            },
        };
        difference.get_or_insert(found);
    }
    Err(taken(difference.unwrap_or_default()))
}

/// The first thing in which two networks differ, but for what they were made from.
fn differs(own: &Architecture, zoo: &Architecture) -> Option<String> {
    if own.first_weights != zoo.first_weights {
        return Some("its first weights are drawn otherwise".to_owned());
    }
    for (own, zoo) in own.layers.iter().zip(&zoo.layers) {
        if own != zoo {
            let said = |layer: &WeightLayer| {
                let shape = dimensions(&layer.dimensions());
                let WeightLayer { name, bias, relu, .. } = layer;
                let with = |has: bool, what: &str| if has { format!(" with {what}") } else { String::new() };
                format!("{name}, {shape}{}{}", with(*bias, "bias"), with(*relu, "ReLU"))
            };
            let (own_said, zoo_said) = (said(own), said(zoo));
            return Some(match own_said == zoo_said {
                true => {
                    format!("its layer {} differs in stride, padding, groups, counting or what is sparse", zoo.name)
                }
                false => format!("where this one has the layer {own_said}, it has {zoo_said}"),
            });
        }
    }
    for (own, zoo) in own.norms.iter().zip(&zoo.norms) {
        if own != zoo {
            return Some(format!("its batch norm {} differs, or this one has {} in its place", zoo.name, own.name));
        }
    }
    let counts = |it: &Architecture| (it.layers.len(), it.norms.len());
    if counts(own) != counts(zoo) {
        let [(layers, norms), (own_layers, own_norms)] = [counts(zoo), counts(own)];
        return Some(format!("it has {layers} layers and {norms} batch norms, this one {own_layers} and {own_norms}"));
    }
    (own.graph != zoo.graph).then(|| "its layers are the same, but stand together otherwise".to_owned())
}

impl ModelName {
    /// The network of a setting: a name, or the path of a file that ends in `.toml`.
    ///
    /// # Errors
    /// The rule for names, or what is wrong with the file.
    pub fn of_setting(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        let is_file =
            !text.contains('\n') && path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
        if !is_file {
            return text.parse();
        }
        let definition = Definition::load(path).map_err(|error| error.to_string())?;
        Ok(Self::Own(Arc::new(definition)))
    }
}
