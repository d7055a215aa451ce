//! What commands without a run are told of a network: its pictures, its density and how that is spread.

use clap::Args;

use super::values::{parse_count, parse_not_negative, parse_sparsity};
use crate::method::Method;
use crate::models::{
    DensityOverride, Format, LayerRule, ModelName, ModelSpec, Sparsification, Stem, complement, parse_density,
};
use crate::settings::error::ConfigError;
use rigl::Distribution;

/// What a convolutional network reads and tells apart.
#[derive(Debug, Clone, Args)]
pub struct PictureArgs {
    /// Height and width of the pictures that a convolutional network reads [default: 32 for wrn-D-K, 28 for lenet-5, else
    /// 224]
    #[arg(long, value_name = "PIXELS", value_parser = parse_count)]
    pub image_size: Option<usize>,
    /// Classes that a convolutional network tells apart [default: 10 for wrn-D-K and lenet-5, else 1000]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub classes: Option<usize>,
    /// How a residual network begins: as on ImageNet or as on CIFAR; auto goes by the pictures' size
    #[arg(long, value_enum, default_value_t = Stem::Auto)]
    pub stem: Stem,
}

impl PictureArgs {
    /// The network of this name, of width 1.
    ///
    /// # Errors
    /// [`ConfigError::NoEffect`] for an option that the network leaves without effect.
    pub fn spec(&self, model: &ModelName) -> Result<ModelSpec, ConfigError> {
        let convolutional = (!model.is_mlp(), "a convolutional network");
        let residual = (matches!(model, ModelName::ResNet(_)), "a model resnet-18, -34 or -50");
        for (option, given, (effect, needs)) in [
            ("image-size", self.image_size.is_some(), convolutional),
            ("classes", self.classes.is_some(), convolutional),
            ("stem", self.stem != Stem::Auto, residual),
        ] {
            if given && !effect {
                return Err(ConfigError::NoEffect { option, needs });
            }
        }
        let spec = ModelSpec::of(model);
        let size = self.image_size.map_or(spec.size, |side| [side; 2]);
        let (channels, classes) = (spec.channels, self.classes.unwrap_or(spec.classes));
        Ok(spec.on(channels, size, classes).with_stem(self.stem))
    }
}

/// One density, said in either way.
#[derive(Debug, Args)]
pub struct DensityArgs {
    #[arg(long, value_name = "D", value_parser = parse_density, conflicts_with = "sparsity",
        help = "Share of the weights of all sparse layers that exist, in (0, 1]")]
    density: Option<f64>,
    #[arg(long, value_name = "S", value_parser = parse_sparsity, help = "The same said the other way round, 1 - density, in [0, 1)")]
    sparsity: Option<f64>,
}

impl DensityArgs {
    /// nnz / size over all sparse layers, if it was given.
    pub fn given(&self) -> Option<f64> {
        self.density.or(self.sparsity.map(complement))
    }
}

/// How a density is spread over layers.
#[derive(Debug, Args)]
pub struct SpreadArgs {
    /// How the density is spread over the layers
    #[arg(long, value_enum, default_value_t = Distribution::ErdosRenyiKernel)]
    pub distribution: Distribution,
    /// Exponent of the erk proportions; 0 makes them uniform
    #[arg(long, value_name = "P", default_value_t = 1.0, value_parser = parse_not_negative)]
    pub erk_power: f64,
    /// Who decides the layers' densities
    #[arg(long, value_enum, default_value_t = LayerRule::Distribution)]
    pub layer_rule: LayerRule,
    /// Density of the layers whose names match, such as fc1=0.05 or fc*=0.2 (`*`: any characters); conv1=free gives a layer
    /// that the model keeps dense what the distribution would give it; repeatable, the last match counts
    #[arg(long, value_name = "PATTERN=DENSITY")]
    pub density_override: Vec<DensityOverride>,
}

impl SpreadArgs {
    /// `density` of a network of this method, spread as asked for and stored in this format.
    pub fn sparsification(&self, method: Method, density: f64, format: Format) -> Sparsification {
        Sparsification {
            method,
            density,
            format,
            distribution: self.distribution,
            erk_power: self.erk_power,
            layer_rule: self.layer_rule,
            overrides: self.density_override.clone(),
        }
    }
}
