//! What a run's network begins with.

use std::path::Path;

use rigl::{LayerDensity, WeightStorage};
use serde_json::Value;
use sparse_kernels::Backend;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::error::Context;
use crate::models::{Architecture, Format, Init, Network, Sparsification, StoredModel};
use crate::run_checkpoints::{Found, load_model};
use crate::settings::TrainConfig;
use crate::settings::error::ConfigError;

/// The model that a run begins with, and what it is to become.
#[derive(Debug)]
pub struct FirstModel {
    /// The weights, as they are stored at first.
    pub model: StoredModel,
    /// What each layer is to have: what the distribution gives it, or what the file has that the run begins with.
    pub targets: Vec<LayerDensity>,
}

impl FirstModel {
    /// From the checkpoint that a run goes on with, else from the model file or the ticket of the settings, else from random
    /// numbers.
    ///
    /// # Errors
    /// If a file cannot be read or is of another model, or the densities are impossible.
    pub fn of(config: &TrainConfig, architecture: &Architecture, found: Option<&Found>) -> crate::Result<Self> {
        let solved = || config.sparsification().solve(architecture);
        // What it begins with is not what each layer is to have.
        let prunes = config.method.info().prunes();
        let of_file = config.init_from.is_some() || config.ticket.is_some();
        let (model, targets) = match (found, &config.init_from, &config.ticket) {
            (Some(Found { checkpoint, path, .. }), _, _) => {
                let model = StoredModel::from_checkpoint(checkpoint).map_err(CheckpointError::in_file(path))?;
                if model.architecture()? != *architecture {
                    let mismatch = CheckpointError::mismatch("the model", model.name(), &config.model);
                    return Err(CheckpointError::in_file(path)(mismatch).into());
                }
                let targets = if of_file && !prunes { model.densities() } else { solved()? };
                (model, targets)
            }
            (None, Some(path), _) => {
                let (model, file) = load_model(path)?;
                let model = on_data(model, architecture, &file.display().to_string())?;
                let targets = if prunes { at_most(solved()?, &model) } else { model.densities() };
                (model, targets)
            }
            (None, None, Some(path)) => {
                let (last, file) = load_model(path)?;
                let last = on_data(last, architecture, &file.display().to_string())?;
                let checkpoint = Checkpoint::load(&file)?;
                let (seed, init) = drawn_by(&checkpoint).context(|| {
                    format!(
                        "ticket: {} does not say how its first weights were drawn; it must be of a run",
                        file.display()
                    )
                })?;
                let model = last.redrawn(architecture, init, seed);
                let targets = model.densities();
                (model, targets)
            }
            (None, None, None) => return Self::random(config, architecture, solved()?),
        };
        let sparse = model.layers.iter().find(|layer| layer.weight.is_sparse());
        if let (true, Some(layer)) = (config.method.is_dense(), sparse) {
            let what = format!("the storage of layer {} for the method dense", layer.name);
            return Err(CheckpointError::mismatch(what, layer.weight.storage(), "dense; choose a sparse method").into());
        }
        // Their topology is sparse from the start: a dense layer would stay as it is.
        let dense = model.layers.iter().zip(&targets).find(|(l, t)| !l.weight.is_sparse() && t.nnz < t.size);
        if let (true, Some((layer, _))) = (config.method.info().start_density.is_some(), dense) {
            let what = format!("the storage of layer {} for the method {}", layer.name, config.method.info().name);
            let expected = "sparse; rigl import with --density makes it so, or --method gmp prunes a dense network";
            return Err(CheckpointError::mismatch(what, "dense", expected).into());
        }
        Ok(Self { model, targets })
    }

    /// Random weights for layers that are to have so many.
    ///
    /// # Errors
    /// If a layer is too large for 32-bit indices.
    pub fn random(
        config: &TrainConfig,
        architecture: &Architecture,
        targets: Vec<LayerDensity>,
    ) -> crate::Result<Self> {
        let begins = first_densities(config, architecture, &targets)?;
        Ok(Self { model: StoredModel::random(architecture, &begins, config.initialization())?, targets })
    }

    /// The network on a backend, stored as the method wants it.
    ///
    /// # Errors
    /// If the backend is out of memory.
    pub fn network<B: Backend>(
        self,
        backend: &B,
        config: &TrainConfig,
        batch_size: usize,
    ) -> crate::Result<Network<B>> {
        let Self { model, targets } = self;
        let architecture = model.architecture()?;
        let storage = config.method.info().storage;
        let all: Vec<_> = targets.iter().map(full).collect();
        let dense = |_| StoredModel::random(&architecture, &all, config.initialization());
        let latent = (storage == WeightStorage::Latent).then_some(()).map(dense).transpose()?;
        let targets: Vec<_> = targets.iter().map(|target| target.nnz).collect();
        let mut network = Network::from_stored(backend, model, batch_size)?;
        network.prepare_for(backend, storage, &targets, latent.as_ref())?;
        Ok(network)
    }
}

/// What layers that are to have so many weights begin with.
///
/// # Errors
/// If the density that the method starts with leaves a layer without weights.
pub fn first_densities(
    config: &TrainConfig,
    architecture: &Architecture,
    targets: &[LayerDensity],
) -> crate::Result<Vec<LayerDensity>> {
    if config.method.info().storage == WeightStorage::DenseFirst {
        return Ok(targets.iter().map(full).collect());
    }
    let Some(density) = config.start_density().filter(|density| *density > config.density) else {
        return Ok(targets.to_vec());
    };
    let first = Sparsification { density, ..config.sparsification() }.solve(architecture)?;
    let entry = if let Format::Bsr([r, c]) = config.format { r * c } else { 1 };
    // A layer that is to become sparse lacks an entry from the start, so that it is stored as what it is to be.
    let most =
        |target: &LayerDensity| if target.nnz < target.size { target.size.saturating_sub(entry) } else { target.size };
    let begin = |(first, target): (&LayerDensity, &LayerDensity)| {
        let nnz = first.nnz.min(most(target)).max(target.nnz);
        LayerDensity { density: nnz as f64 / target.size as f64, nnz, ..*target }
    };
    Ok(first.iter().zip(targets).map(begin).collect())
}

/// All weights of a layer.
fn full(target: &LayerDensity) -> LayerDensity {
    LayerDensity { density: 1.0, nnz: target.size, size: target.size }
}

/// No layer is to have more weights than it has.
fn at_most(mut targets: Vec<LayerDensity>, model: &StoredModel) -> Vec<LayerDensity> {
    for (target, layer) in targets.iter_mut().zip(&model.layers) {
        let nnz = layer.weight.nnz();
        if nnz < target.nnz {
            tracing::warn!(
                "layer {} has {nnz} weights, fewer than the {} that its density allows; it keeps them",
                layer.name,
                target.nnz
            );
            *target = LayerDensity { density: nnz as f64 / target.size as f64, nnz, ..*target };
        }
    }
    targets
}

/// The model of a file for the network of a run. A convolutional network takes pictures of another size if its weights fit.
fn on_data(mut model: StoredModel, architecture: &Architecture, file: &str) -> crate::Result<StoredModel> {
    let described = model.architecture()?;
    let wrong = |what: &str, got: String, expected: String| {
        let mismatch = CheckpointError::mismatch(format!("{file}: {what}"), got, expected);
        crate::Error::from(ConfigError::InitFrom(mismatch.into()))
    };
    let (got, wanted) = (&described.spec, &architecture.spec);
    if got.name != wanted.name {
        return Err(wrong("the model", got.name.to_string(), wanted.name.to_string()));
    }
    if got.classes != wanted.classes {
        let expected =
            format!("{} (rigl import --classes {} gives it a new last layer)", wanted.classes, wanted.classes);
        return Err(wrong("the number of classes", got.classes.to_string(), expected));
    }
    let has_stem = got.name.family().is_some_and(|family| family.has_stem);
    let others = [
        ("the number of channels", got.channels.to_string(), wanted.channels.to_string()),
        ("the width", got.width.to_string(), wanted.width.to_string()),
        ("the stem", got.stem.to_string(), if has_stem { wanted.stem } else { got.stem }.to_string()),
    ];
    for (what, got, wanted) in others {
        if got != wanted {
            return Err(wrong(what, got, wanted));
        }
    }
    if let Some(parts) = &mut model.parts {
        parts.spec = wanted.clone();
    }
    model.check().map_err(|error| ConfigError::InitFrom(CheckpointError::in_file(Path::new(file))(error).into()))?;
    Ok(model)
}

/// Seed and rule by which the first weights of a run were drawn.
fn drawn_by(checkpoint: &Checkpoint) -> Result<(u64, Init), CheckpointError> {
    let (training, run): (Value, Value) = (checkpoint.section("training")?, checkpoint.section("run")?);
    let seed = training["seed"].as_u64();
    let init = serde_json::from_value(run["config"]["init"].clone()).ok();
    seed.zip(init).ok_or_else(|| CheckpointError::mismatch("the seed or the setting init", "none", "one"))
}
