//! Whether a network can be built, and fits its data.

use crate::data::{Dataset, Inputs, Targets};
use crate::models::{Architecture, ModelName, ModelSpec, Node, Stem, ValueShape};
use crate::report::dimensions;
use crate::settings::TrainConfig;
use crate::settings::error::ConfigError;

/// `--recompute`, where it is given, must have an effect.
pub(crate) fn check_recompute(given: Option<bool>, architecture: &Architecture) -> Result<(), ConfigError> {
    let can = |node: &Node| matches!(node, Node::Norm { .. } | Node::AddNorm { .. } | Node::Gelu { .. });
    if given == Some(true) && !architecture.graph.nodes.iter().any(can) {
        return Err(ConfigError::NoEffect { option: "recompute", needs: "a network with normalisations or GELU" });
    }
    Ok(())
}

/// A network must read what the data has, and know its classes.
pub(crate) fn check_fit(architecture: &Architecture, data: &Dataset) -> Result<(), ConfigError> {
    let model = architecture.name();
    check_text(&model, data)?;
    check_lists(&model, data)?;
    if architecture.reads_tokens() {
        let (symbols, classes, data) = (architecture.classes(), data.classes, data.name.clone());
        let model = model.to_string();
        return if symbols == classes { Ok(()) } else { Err(ConfigError::Symbols { model, symbols, data, classes }) };
    }
    let ModelSpec { channels, size: [height, width], classes, .. } = architecture.spec;
    let expected = [channels, height, width];
    let reads_images = matches!(architecture.graph.values[0], ValueShape::Image { .. });
    if reads_images && (expected != data.shape || classes != data.classes) {
        return Err(ConfigError::Pictures {
            model: model.to_string(),
            expected: dimensions(&expected),
            outputs: classes,
            data: data.name.clone(),
            got: dimensions(&data.shape),
            classes: data.classes,
        });
    }
    // A class may never occur; a number must.
    let outputs_fit = match data.train.targets {
        Targets::Classes(_) => architecture.classes() >= data.classes,
        Targets::Numbers { .. } | Targets::Labels(_) => architecture.classes() == data.classes,
    };
    if !reads_images && (architecture.inputs() != data.features() || !outputs_fit) {
        return Err(ConfigError::Model {
            model: model.to_string(),
            inputs: architecture.inputs(),
            outputs: architecture.classes(),
            data: data.name.to_string(),
            features: data.features(),
            classes: data.classes,
        });
    }
    Ok(())
}

/// A network of text must have a text, and no other network.
fn check_text(model: &ModelName, data: &Dataset) -> Result<(), ConfigError> {
    match (model.sequence().is_some(), data.alphabet.is_some()) {
        (true, false) => Err(ConfigError::NoText { model: model.to_string(), data: data.name.clone() }),
        (false, true) => Err(ConfigError::Text { model: model.to_string(), data: data.name.clone() }),
        _ => Ok(()),
    }
}

/// A network of lists must have such, and no other network.
fn check_lists(model: &ModelName, data: &Dataset) -> Result<(), ConfigError> {
    match (model.reads_lists(), matches!(data.train.inputs, Inputs::Lists(_))) {
        (true, false) => Err(ConfigError::NoLists { model: model.to_string(), data: data.name.clone() }),
        (false, true) => Err(ConfigError::Lists { model: model.to_string(), data: data.name.clone() }),
        _ => Ok(()),
    }
}

/// The network of a specification.
pub(crate) fn architecture(spec: &ModelSpec) -> Result<Architecture, ConfigError> {
    Architecture::new(spec).map_err(|source| {
        let ModelSpec { name, channels, size: [height, width], classes, .. } = spec;
        let shape = match name {
            ModelName::Own(definition) if definition.reads_features() => ValueShape::Features(*channels),
            ModelName::Lists(_) => ValueShape::List(*channels),
            _ => ValueShape::Image { channels: *channels, size: [*height, *width] },
        };
        ConfigError::Architecture {
            model: name.to_string(),
            input: format!("{shape} and {classes} classes"),
            source: source.into(),
        }
    })
}

/// The network of these settings on a data set. From here on they name a network of the zoo, if a file defines one.
pub(crate) fn settle(config: &mut TrainConfig, data: &Dataset) -> Result<Architecture, ConfigError> {
    check_text(&config.model, data)?;
    check_lists(&config.model, data)?;
    let architecture = architecture(&config.spec(data))?;
    if let (ModelName::Own(definition), false) = (&config.model, matches!(architecture.spec.name, ModelName::Own(_))) {
        let name = definition.name().parse().unwrap_or_else(|_| architecture.name());
        (config.model, config.stem, config.width) = (name, Stem::Auto, 1.0);
        // What `auto` would choose need not be said.
        config.stem = if config.spec(data) == architecture.spec { Stem::Auto } else { architecture.spec.stem };
    }
    Ok(architecture)
}
