//! `rigl import`: a model of other programs' files.

use super::summary;
use crate::args::{ImportArgs, SpreadArgs};
use crate::config::{ConfigError, Distribution, Format, LayerRule, Method, TrainConfig};
use crate::exchange::{check_out, prune, read_model};
use crate::models::Architecture;

/// Runs the command.
///
/// # Errors
/// If the sources cannot be read or make no model, a density is impossible, or the model cannot be written.
pub fn run(args: &ImportArgs) -> anyhow::Result<()> {
    check_out(&args.out, &args.sources)?;
    if args.density.given().is_none() {
        check_without_density(&args.spread)?;
    }
    let mut model = read_model(&args.sources, args.seed)?;
    if let Some(density) = args.density.given() {
        // The layer rule is for one model only.
        let layer_rule = args.spread.layer_rule;
        TrainConfig { model: model.name(), layer_rule, ..TrainConfig::default() }.check()?;
        let sparsification = args.spread.sparsification(Method::named("rigl"), density, Format::Csr);
        let densities = sparsification.solve(&Architecture::of(&model.name()))?;
        prune(&mut model, &densities)?;
    }
    model.save(&args.out)?;
    summary::print("import", &args.out, "safetensors", &model.layers, args.json)
}

/// How a density is spread means nothing without one.
fn check_without_density(spread: &SpreadArgs) -> Result<(), ConfigError> {
    let without = [
        (spread.distribution != Distribution::Erk, "distribution"),
        (spread.erk_power != 1.0, "erk-power"),
        (spread.layer_rule != LayerRule::Distribution, "layer-rule"),
        (!spread.density_override.is_empty(), "density-override"),
    ];
    match without.into_iter().find(|(given, _)| *given) {
        Some((_, option)) => Err(ConfigError::NoEffect { option, needs: "--density or --sparsity" }),
        None => Ok(()),
    }
}
