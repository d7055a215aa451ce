//! Whether a network can be built, and fits its data.

use crate::data::{Dataset, Targets};
use crate::models::{Architecture, ModelSpec};
use crate::report::dimensions;
use crate::settings::error::ConfigError;

/// A network must read what the data has, and know its classes.
pub(crate) fn check_fit(architecture: &Architecture, data: &Dataset) -> Result<(), ConfigError> {
    let model = architecture.name();
    let ModelSpec { channels, size: [height, width], classes, .. } = architecture.spec;
    let expected = [channels, height, width];
    if !architecture.is_mlp() && (expected != data.shape || classes != data.classes) {
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
        Targets::Numbers { .. } => architecture.classes() == data.classes,
    };
    if architecture.is_mlp() && (architecture.inputs() != data.features() || !outputs_fit) {
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

/// The network of a specification.
pub(crate) fn architecture(spec: &ModelSpec) -> Result<Architecture, ConfigError> {
    Architecture::new(spec).map_err(|source| ConfigError::Architecture {
        model: spec.name.to_string(),
        pictures: dimensions(&[spec.channels, spec.size[0], spec.size[1]]),
        source,
    })
}
