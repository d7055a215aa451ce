//! What commands without a run are told of the images that a network reads.

use clap::Args;

use super::values::parse_count;
use crate::models::{ModelName, ModelSpec};
use crate::settings::error::ConfigError;
use crate::settings::{ModelArgs, SequenceArgs, TrainConfig, TrainOptions};

/// What a convolutional network reads and tells apart.
#[derive(Debug, Clone, Args)]
pub struct PictureArgs {
    /// Height and width of a convolutional network's images [default: 32 for wrn-D-K, 28 for lenet-5, a file's own
    /// size, otherwise 224]
    #[arg(long, value_name = "PIXELS", value_parser = parse_count)]
    pub image_size: Option<usize>,
    /// Features of a model lists-H [default: 135909, as in Amazon-670K]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub inputs: Option<usize>,
    /// Classes of a convolutional network, symbols of a text model, labels of a model lists-H [default: 10 for wrn-D-K and
    /// lenet-5, 256 for text models, 670091 for lists-H, a file's own number, otherwise 1000]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub classes: Option<usize>,
}

impl PictureArgs {
    /// The network, of width 1.
    ///
    /// # Errors
    /// [`ConfigError::NoEffect`] for an option that the network leaves without effect.
    pub fn spec(&self, network: &ModelArgs, sequence: &SequenceArgs) -> Result<ModelSpec, ConfigError> {
        let given = TrainOptions::from(network).or(sequence);
        let config = TrainConfig::of(&given)?;
        config.check_effect(&given)?;
        if let ModelName::Hidden(_) = config.model {
            let rule = "a network whose inputs and outputs do not depend on the data, such as 20-64-3";
            return Err(ConfigError::Value { option: "model", value: config.model.to_string(), rule });
        }
        let (of_features, is_mlp) = match &config.model {
            ModelName::Own(definition) => (definition.reads_features(), false),
            name => (name.is_mlp(), name.is_mlp()),
        };
        if self.inputs.is_some() && !config.model.reads_lists() {
            return Err(ConfigError::NoEffect { option: "inputs", needs: "a model lists-H" });
        }
        if self.image_size.is_some() && (of_features || config.model.sequence().is_some() || config.model.reads_lists())
        {
            return Err(ConfigError::NoEffect { option: "image-size", needs: "a convolutional network" });
        }
        if self.classes.is_some() && is_mlp {
            return Err(ConfigError::NoEffect { option: "classes", needs: "a convolutional network or a file's" });
        }
        let spec = ModelSpec::of(&config.model);
        let size = self.image_size.map_or(spec.size, |side| [side; 2]);
        let (channels, classes) = (self.inputs.unwrap_or(spec.channels), self.classes.unwrap_or(spec.classes));
        Ok(spec.on(channels, size, classes).with_stem(config.stem).with_sequence(&config.sequence()))
    }
}
