//! What the parts of a run are told of its settings: each gets options of its own, none the whole configuration.

use std::path::Path;

use autograd::optim::{AdamOptions, Decay, OptimizerOptions, Schedule, SgdOptions};
use rigl::{LoopSemantics, MethodOptions, ScheduleOptions, UpdateSchedule, UpdateTimes, WeightStorage};
use sparse_kernels::Backend;

use super::error::ConfigError;
use super::resolve::check_window;
use super::table::TrainConfig;
use crate::data::image_folder::FolderOptions;
use crate::data::svmlight::{SVMLIGHT, SvmlightOptions};
use crate::data::table::{TABLE, TableOptions, Trained};
use crate::data::text::{TEXT, TINY_SHAKESPEARE, TextOptions, is_text};
use crate::data::{self, DataError, Dataset, IMAGE_FOLDER};
use crate::models::{Initialization, ModelInput, ModelSpec, Network, SequenceSpec, Sparsification};
use crate::training::{
    Held, Loss, LrSchedule, NewcomerMoments, OptimizerKind, StepOptions, Trainer, UpdateSemantics, UpdateWindow,
};

impl TrainConfig {
    /// The data, before samples are held out; for a model that was `trained` on such data, with its columns, classes and alphabet.
    ///
    /// # Errors
    /// [`DataError`] if it is unavailable.
    pub fn load_data(&self, trained: Option<&ModelInput>) -> Result<Dataset, DataError> {
        let alphabet = trained.and_then(|input| input.alphabet.as_ref());
        match &self.table {
            Some(table) if self.data == TABLE => data::table::load(
                &TableOptions {
                    table: table.clone(),
                    test_table: self.test_table.clone(),
                    test_fraction: self.test_fraction,
                    targets: self.target.clone(),
                    features: self.features.clone(),
                    dropped: self.drop.clone(),
                    missing: self.missing,
                    one_hot: self.one_hot,
                    loss: self.loss,
                },
                trained
                    .map(|input| Trained { columns: input.table.as_ref(), class_names: input.class_names.as_deref() }),
            ),
            _ if self.data == IMAGE_FOLDER && self.data_dir.is_some() => {
                let options = FolderOptions {
                    image_size: self.image_size,
                    test_fraction: self.test_fraction,
                    labels: self.labels.clone(),
                    label_column: self.target.first().cloned(),
                };
                data::image_folder::load(self.data_dir.as_deref().unwrap_or(Path::new("")), &options)
            }
            _ if self.data == SVMLIGHT => {
                let options = SvmlightOptions {
                    samples: self.svmlight.clone().ok_or(DataError::NoSamples)?,
                    test: self.svmlight_test.clone(),
                    test_fraction: self.test_fraction,
                };
                let sizes = trained.and_then(|input| input.lists);
                data::svmlight::load(&options, sizes)
            }
            _ if self.data == TEXT => {
                let options = TextOptions {
                    train: self.text.clone(),
                    valid: self.text_valid.clone(),
                    test: self.text_test.clone(),
                    test_fraction: self.test_fraction,
                    symbols: self.text_symbols,
                    sequence_length: self.sequence().length,
                };
                data::text::load(&options, alphabet)
            }
            _ if self.data == TINY_SHAKESPEARE => {
                data::text::load_tiny_shakespeare(self.sequence().length, self.test_fraction, alphabet)
            }
            _ => data::load_sized(&self.data, self.data_dir.as_deref(), self.image_size),
        }
    }

    /// The data of a run: with the samples held out, and targets scaled. A text has the alphabet of the model that the run goes on
    /// from or begins with, if it has one.
    ///
    /// # Errors
    /// [`DataError`] if it is unavailable, or nothing is left of it.
    pub fn training_data(&self, first: Option<&ModelInput>) -> Result<Dataset, DataError> {
        let mut data = self.load_data(first.filter(|_| is_text(&self.data)))?;
        data.hold_out(self.val_fraction, self.seed)?;
        if self.loss.is_regression() {
            data.scale_targets(None);
        }
        Ok(data)
    }

    /// Samples that are computed at a time, of a training set of so many.
    pub fn computed_at_a_time(&self, samples: usize) -> usize {
        self.held_at_a_time(samples).div_ceil(self.shards.unwrap_or(1))
    }

    /// Samples whose activations are held at a time: those of all shards.
    pub fn held_at_a_time(&self, samples: usize) -> usize {
        self.batch_size.min(samples).min(self.micro_batch.unwrap_or(usize::MAX))
    }

    /// How activations wait for the backward pass.
    pub fn held(&self) -> Held {
        Held { precision: self.precision.into(), recompute: self.recompute, drops: self.dropout > 0.0 }
    }

    /// The network, on the pictures of a data set.
    pub fn spec(&self, data: &Dataset) -> ModelSpec {
        let [channels, height, width] = data.shape;
        let spec = ModelSpec::of(&self.model).on(channels, [height, width], data.classes);
        spec.with_width(self.width).with_stem(self.stem).with_sequence(&self.sequence())
    }

    /// What the name of a network that reads tokens leaves open.
    pub fn sequence(&self) -> SequenceSpec {
        SequenceSpec {
            length: self.sequence_length.unwrap_or(SequenceSpec::LENGTH),
            embedding: self.embedding,
            readout: self.readout.clone(),
            positions: self.positions,
            norm: self.norm,
            tied: self.tie_embeddings,
        }
    }

    /// Which weights exist.
    pub fn sparsification(&self) -> Sparsification {
        Sparsification {
            method: self.method,
            density: self.density,
            format: self.format,
            distribution: self.distribution,
            erk_power: self.erk_power,
            layer_rule: self.layer_rule,
            overrides: self.density_override.clone(),
        }
    }

    /// The density that a new network starts with, if it is not that of [`TrainConfig::sparsification`].
    pub fn start_density(&self) -> Option<f64> {
        let info = self.method.info();
        let name = info.start_density?;
        let given = self.method_option.iter().rev().find(|option| option.name == name);
        let default = info.parameters.iter().find(|parameter| parameter.name == name);
        let text = given.map(|option| &*option.value).or(default.map(|parameter| parameter.default))?;
        // One that is none is refused where the method is built.
        text.parse().ok().filter(|density| *density > 0.0 && *density <= 1.0)
    }

    /// How a new network's weights are stored and drawn.
    pub fn initialization(&self) -> Initialization {
        Initialization {
            format: self.format,
            init: self.init,
            seed: self.seed,
            overrides: self.density_override.clone(),
        }
    }

    /// What each step of a run of `total_steps` does.
    pub fn step_options(&self, total_steps: u64) -> StepOptions {
        let decay = match self.lr_schedule {
            LrSchedule::Constant => Decay::Constant,
            LrSchedule::Step => Decay::Step { milestones: self.lr_milestones.clone(), gamma: self.lr_gamma as f32 },
            LrSchedule::Cosine => Decay::Cosine { total: total_steps },
            LrSchedule::Linear => Decay::Linear { total: total_steps, last: self.lr_final as f32 },
        };
        StepOptions {
            learning_rate: Schedule { base: self.lr as f32, warmup_steps: self.warmup_steps, decay },
            loss: self.loss(),
            dropout: self.dropout as f32,
            seed: self.seed,
            growth_batches: self.growth_batches,
            micro_batch: self.micro_batch,
            shards: self.shards,
            reduction: self.reduction,
            held: self.held(),
            clip_norm: self.clip_norm.map(|norm| norm as f32),
        }
    }

    /// The loss that training makes small.
    pub fn loss(&self) -> Loss {
        Loss::of(self.loss, self.label_smoothing as f32, self.huber_delta as f32)
    }

    /// The optimizer.
    pub fn optimizer_options(&self) -> OptimizerOptions {
        let weight_decay = self.weight_decay as f32;
        if self.optimizer == OptimizerKind::Sgd {
            let (momentum, nesterov) = (self.momentum as f32, self.nesterov && self.momentum > 0.0);
            OptimizerOptions::Sgd(SgdOptions { momentum, nesterov, weight_decay, ..SgdOptions::default() })
        } else {
            let decoupled = self.optimizer == OptimizerKind::Adamw;
            let (beta1, beta2) = (self.beta1 as f32, self.beta2 as f32);
            let own_corrections = self.adam_newcomers == NewcomerMoments::Own;
            let options =
                AdamOptions { beta1, beta2, weight_decay, decoupled, own_corrections, ..AdamOptions::default() };
            OptimizerOptions::Adam(options)
        }
    }

    /// The method of a run of `total_steps`, and when it may change the topology: see [`TrainConfig::update_window`].
    ///
    /// # Errors
    /// [`ConfigError`] or [`rigl::ScheduleError`] if the schedule is impossible.
    pub fn scheduled_method(&self, total_steps: u64) -> crate::Result<(Box<dyn rigl::Method>, Option<UpdateWindow>)> {
        let window = self.update_window(total_steps)?;
        self.check_schedule(window, total_steps)?;
        let semantics = match self.update_semantics {
            UpdateSemantics::Paper => LoopSemantics::PAPER,
            UpdateSemantics::Reference => self.method.info().reference_semantics,
        };
        let schedule = UpdateSchedule::new(ScheduleOptions {
            // A window behind the run's end never opens.
            begin_step: window.map_or(total_steps, |w| w.begin),
            end_step: Some(window.map_or(total_steps + 1, |w| w.end)),
            update_interval: self.update_interval,
            drop_fraction: self.drop_fraction,
            drop_schedule: self.drop_schedule,
            drop_exponent: self.drop_exponent,
            end_inclusive: self.update_semantics == UpdateSemantics::Reference,
            semantics,
        })?;
        let parameters = self.method_option.iter().map(|option| (option.name.clone(), option.value.clone()));
        let options = MethodOptions {
            schedule,
            seed: self.seed,
            growth_batches: self.growth_batches,
            total_steps,
            parameters: parameters.collect(),
        };
        Ok((rigl::build_method(self.method.info().name, &options)?, window))
    }

    /// A network in training, in a run of `total_steps`.
    ///
    /// # Errors
    /// As [`TrainConfig::scheduled_method`]; or if the backend is out of memory.
    pub fn trainer<'b, B: Backend>(
        &self,
        backend: &'b B,
        network: Network<B>,
        total_steps: u64,
    ) -> crate::Result<Trainer<'b, B>> {
        let (method, _) = self.scheduled_method(total_steps)?;
        Ok(Trainer::new(backend, network, self.optimizer_options(), method, self.step_options(total_steps))?)
    }

    /// A schedule that was asked for must fire, and arrive at the density asked for, within the run.
    fn check_schedule(&self, window: Option<UpdateWindow>, total_steps: u64) -> Result<(), ConfigError> {
        let info = self.method.info();
        let Some(UpdateWindow { begin, end }) = window else {
            // What never prunes would stay as dense as it begins.
            return match info.start_density {
                Some(_) => {
                    let (method, begin) = (info.name.to_owned(), self.begin_step.unwrap_or(self.update_interval));
                    Err(ConfigError::NoUpdate { method, begin, total_steps })
                }
                None => Ok(()),
            };
        };
        if info.updates != UpdateTimes::Scheduled {
            return Ok(());
        }
        let (method, density) = (info.name.to_owned(), self.density);
        if begin >= total_steps {
            return Err(ConfigError::NoUpdate { method, begin, total_steps });
        }
        if (info.storage == WeightStorage::DenseFirst || info.ends_with_last_update) && end > total_steps {
            return Err(ConfigError::UnfinishedPruning { method, density, end, total_steps });
        }
        Ok(())
    }

    /// The step of the last topology update, if less than a twentieth of the run follows it: what it grows is then hardly trained.
    pub fn late_update(&self, window: Option<UpdateWindow>, total_steps: u64) -> Option<u64> {
        let last = window?.last_update(self.update_interval, total_steps)?;
        let is_scheduled = self.method.info().updates == UpdateTimes::Scheduled;
        (is_scheduled && (total_steps - 1 - last) * 20 < total_steps).then_some(last)
    }

    /// When the topology may change. Without `begin-step` it begins after one update interval, without `end-step` it
    /// ends after three quarters of the steps (rounded down). `None`: neither is given, and the run is too short for an
    /// update.
    ///
    /// # Errors
    /// [`ConfigError::Window`] if one of them is given and there is no step from begin to end.
    pub fn update_window(&self, total_steps: u64) -> Result<Option<UpdateWindow>, ConfigError> {
        let begin = self.begin_step.unwrap_or(self.update_interval);
        let end = self.end_step.unwrap_or((u128::from(total_steps) * 3 / 4) as u64);
        match (self.begin_step, self.end_step) {
            (None, None) if begin >= end => Ok(None),
            _ => check_window(begin, end).map(|()| Some(UpdateWindow { begin, end })),
        }
    }
}
