//! A training run: epochs, records and checkpoints, from a start or from where an earlier process stopped.
//!
//! ```text
//! loop:  epoch over → evaluate, record                      (resumed here, this comes first)
//!        checkpoint due              → save
//!        interrupted                 → save, stop
//!        all steps done, or waited long enough for a better epoch → save as final, end
//!        train on the next batch
//! ```
//!
//! An epoch is as many steps as the training set has batches. Where batches are used that are no steps (the one that SNIP
//! looks at before training), it ends as many batches later, at the same step as with any other method.
//!
//! A checkpoint holds everything that the rest of the run depends on: the trainer's state, the place in the epoch (from
//! the number of batches), the epoch's running means and the number of records written. So a run that is killed and
//! resumed, however often, ends in the same bytes. Checkpoints hold no time: the records' `seconds` alone differ.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sparse_kernels::BackendError;

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::data::table::TABLE;
use crate::data::text::Text;
use crate::data::{Batch, BatchLoader, Dataset, LaneOrder, LoaderOptions, Normalization, Order, Part, Split, Targets};
use crate::device::{ComputeDevice, backend_error};
use crate::error::{Context, Error, Kind, Kinded, Result};
use crate::interrupt::Interrupt;
use crate::metrics::{BITS, Evaluation, Mean, Measured, Propensities};
use crate::models::{Body, ModelInput};
use crate::report::{Progress, Status, print_record};
use crate::run_dir::{RunDir, RunDirError};
use crate::settings::{PRECISION, TrainConfig};
use crate::task::{LossKind, bits};
use crate::tensorboard::{EventLog, Log};
use crate::topology_record::TopologyRecord;
use crate::training::{BestBy, BestSoFar, Outputs, Trainer};

/// A run that stopped before its end, with everything saved that there is to save.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// It was asked to.
    #[error("interrupted after step {step}; saved {}; resume with: rigl train --resume {}", saved.display(), run.display())]
    Interrupted {
        /// Steps done.
        step: u64,
        /// The checkpoint.
        saved: PathBuf,
        /// The run's folder.
        run: PathBuf,
    },
    /// An evaluation was asked to stop.
    #[error("interrupted")]
    Evaluation,
    /// The run's folder cannot be written.
    #[error(
        "cannot save the run after step {step}; {}; free some space, then resume with: rigl train --resume {}",
        last_good_state(newest.as_deref()),
        run.display()
    )]
    Unsaved {
        /// Steps done.
        step: u64,
        /// The checkpoint that is there.
        newest: Option<PathBuf>,
        /// The run's folder.
        run: PathBuf,
    },
    /// The device that it computes on failed.
    #[error(
        "the run lost its device after step {step}; {}; resume, with --device cpu if necessary, with: rigl train --resume {}",
        last_good_state(newest.as_deref()),
        run.display()
    )]
    Device {
        /// Steps handed to the device.
        step: u64,
        /// The checkpoint that is there.
        newest: Option<PathBuf>,
        /// The run's folder.
        run: PathBuf,
    },
}

impl Kinded for RunError {
    fn kind(&self) -> Kind {
        if matches!(self, Self::Interrupted { .. } | Self::Evaluation) { Kind::Interrupted } else { Kind::Failure }
    }
}

fn last_good_state(newest: Option<&Path>) -> String {
    newest.map_or("there is no checkpoint yet".into(), |path| format!("the last good state is {}", path.display()))
}

/// The record of an epoch.
#[derive(Debug, Serialize)]
struct EpochRecord {
    event: &'static str,
    epoch: u64,
    step: u64,
    train_loss: f64,
    /// Of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    train_accuracy: Option<f64>,
    val_loss: Option<f64>,
    val_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_accuracy: Option<f64>,
    /// Other measures, see [`crate::metrics`], with `train_`, `val_` or `test_` before their names.
    #[serde(flatten)]
    others: BTreeMap<String, f64>,
    /// Learning rate of the epoch's last step.
    lr: f32,
    nnz: usize,
    density: f64,
    seconds: f64,
}

/// The settings of which one is a run's length.
const LENGTH: [&str; 2] = ["epochs", "steps"];

/// What a checkpoint holds of a run beside the trainer's state.
#[derive(Debug, Serialize, Deserialize)]
struct RunState {
    /// See [`TrainConfig::fingerprint`].
    config: Value,
    /// See [`Dataset::sha256`].
    data_sha256: String,
    /// Lines of `metrics.jsonl`.
    records: u64,
    /// Of the training batches of the epoch so far.
    epoch: Mean,
    /// Whether that epoch is over and recorded. Older checkpoints do not say it.
    epoch_is_recorded: Option<bool>,
    /// Training samples so far whose files are broken.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    corrupt_images: BTreeSet<u32>,
    /// Operations of one sample's forward pass, summed over the batches so far.
    #[serde(default)]
    forward_flops: f64,
    /// What `keep-best` and `early-stopping` go by.
    #[serde(default, skip_serializing_if = "BestSoFar::is_empty")]
    best: BestSoFar,
}

/// What is evaluated of a split, and how it becomes inputs.
#[derive(Debug, Clone, Copy)]
pub struct Evaluated<'a> {
    /// The samples.
    pub split: &'a Arc<Split>,
    /// How values become inputs.
    pub normalization: &'a Normalization,
    /// The measures.
    pub measured: Measured<'a>,
    /// Threads that prepare batches.
    pub loader_threads: usize,
}

/// Loss and measures on a split for a network, by a function that finds a batch's loss and, where they are asked for, its outputs,
/// one sample after the other.
///
/// # Errors
/// The function's; [`RunError::Evaluation`] if interrupted.
pub fn evaluate<E>(
    evaluated: Evaluated<'_>,
    body: &Body,
    interrupt: &Interrupt,
    batch: impl FnMut(&Batch, Option<&mut Outputs>) -> Result<autograd::LossStats, E>,
) -> Result<Evaluation>
where
    Error: From<E>,
{
    let numbers = evaluate_batches(evaluated, body, interrupt, Part::All, batch)?;
    let mut evaluation = Evaluation::new(evaluated.measured);
    numbers.iter().for_each(|numbers| evaluation.merge(numbers));
    Ok(evaluation)
}

/// [`Evaluation::numbers`] of each batch.
fn evaluate_batches<E>(
    evaluated: Evaluated<'_>,
    body: &Body,
    interrupt: &Interrupt,
    part: Part,
    mut batch: impl FnMut(&Batch, Option<&mut Outputs>) -> Result<autograd::LossStats, E>,
) -> Result<Vec<Vec<f64>>>
where
    Error: From<E>,
{
    let Evaluated { split, normalization, measured, loader_threads } = evaluated;
    let batch_size = body.evaluation_batch().min(split.len());
    let form = body.input_form(batch_size);
    let (order, threads) = (Order::Stored, loader_threads);
    let options = LoaderOptions { batch_size, form, order, drop_last: false, threads, part };
    let mut loader = BatchLoader::new(split.clone(), normalization, options)?;
    let (mut numbers, mut outputs) = (Vec::new(), Outputs::default());
    while let Some(next) = loader.next_batch()? {
        if interrupt.requested() {
            return Err(RunError::Evaluation.into());
        }
        let stats = batch(next, measured.needs_outputs().then_some(&mut outputs))?;
        let mut evaluation = Evaluation::new(measured);
        match (&next.targets, measured.propensities) {
            (Targets::Labels(labels), Some(propensities)) => {
                evaluation.add_top(&stats, labels, &outputs.top, propensities);
            }
            (targets, _) => evaluation.add(&stats, targets, &outputs.values),
        }
        numbers.push(evaluation.numbers());
    }
    Ok(numbers)
}

/// What a run is made of.
#[derive(Debug)]
pub struct RunParts<'a, B: ComputeDevice> {
    /// Where it computes.
    pub device: &'a B,
    /// Its settings.
    pub config: &'a TrainConfig,
    /// Its data.
    pub data: &'a Dataset,
    /// Network, optimizer and method, at step 0.
    pub trainer: Trainer<'a, B>,
    /// Its folder.
    pub run_dir: RunDir,
    /// Its length.
    pub total_steps: u64,
    /// What may stop it.
    pub interrupt: Interrupt,
}

/// A run in progress.
#[derive(Debug)]
pub struct Run<'a, B: ComputeDevice> {
    parts: RunParts<'a, B>,
    input: ModelInput,
    data_sha256: String,
    propensities: Option<Propensities>,
    batches_per_epoch: u64,
    /// Of a text, symbols.
    samples_per_epoch: u64,
    samples_per_batch: u64,
    records: u64,
    epoch: Mean,
    /// Whether that epoch is over and recorded, so that the next batch begins another.
    epoch_is_recorded: bool,
    corrupt_images: BTreeSet<u32>,
    best: BestSoFar,
    /// The step of the last record, if there is one.
    last_record: Option<u64>,
    event_log: Option<EventLog>,
    /// Operations of one sample's forward pass: summed over the batches so far, and of the network as it is.
    forward_flops: [f64; 2],
    /// Batches at the last save.
    saved: Option<u64>,
    /// Seconds of training before this process.
    seconds_before: f64,
    start: Instant,
    /// Samples before this process.
    samples_before: u64,
}

/// Operations of one sample's forward pass with the weights that there are.
fn forward_flops<B: ComputeDevice>(parts: &RunParts<'_, B>) -> f64 {
    let network = &parts.trainer.network;
    let [stored, _] =
        network.architecture.forward_flops(&network.densities(parts.device), parts.config.flops_convention);
    stored
}

impl<'a, B: ComputeDevice> Run<'a, B> {
    /// A run at its start.
    pub fn new(parts: RunParts<'a, B>) -> Self {
        let normalization = parts.data.normalization(parts.config.normalize);
        let order = parts.trainer.network.body.input_form(parts.config.batch_size).order();
        let [batches, samples] = parts.data.train.epoch(parts.config.batch_size, order);
        let per_sample = parts.data.train.text().map_or(1, Text::length);
        Self {
            input: ModelInput {
                data: parts.data.name.clone(),
                normalization,
                image_size: parts.data.is_files().then_some(parts.config.image_size),
                class_names: parts.data.class_names(),
                input_shape: Some(parts.data.shape).filter(|shape| parts.data.name == TABLE && shape[..2] != [1, 1]),
                loss: parts.config.loss,
                huber_delta: (parts.config.loss == LossKind::Huber).then_some(parts.config.huber_delta),
                table: parts.data.table.as_deref().cloned(),
                target_scale: parts.data.target_scale.clone(),
                alphabet: parts.data.alphabet.clone(),
                lists: parts.data.numbering,
            },
            data_sha256: parts.data.sha256(),
            propensities: Propensities::of(&parts.data.train.targets),
            batches_per_epoch: batches as u64,
            samples_per_epoch: (samples * per_sample) as u64,
            samples_per_batch: (per_sample * parts.config.batch_size.min(parts.data.train.len())) as u64,
            records: 0,
            epoch: Mean::default(),
            epoch_is_recorded: false,
            corrupt_images: BTreeSet::new(),
            best: BestSoFar::default(),
            last_record: None,
            event_log: None,
            forward_flops: [0.0, forward_flops(&parts)],
            saved: None,
            seconds_before: 0.0,
            start: Instant::now(),
            samples_before: 0,
            parts,
        }
    }

    /// Goes back to where the checkpoint was saved, and the records with it. Without one, to the start. With `extends`, the
    /// checkpoint's run may be of another length, with `changes_precision` of another precision.
    ///
    /// # Errors
    /// If the checkpoint is of other settings, model or data, or the records cannot be cut.
    pub fn resume(&mut self, checkpoint: Option<&Checkpoint>, extends: bool, changes_precision: bool) -> Result<()> {
        if let Some(checkpoint) = checkpoint {
            let state: RunState = checkpoint.section("run")?;
            let config = self.parts.config.fingerprint();
            // A setting that a checkpoint does not know is younger than it; it was saved by what is the default now.
            let defaults = TrainConfig::default().fingerprint();
            for (key, expected) in config.as_object().into_iter().flatten() {
                if extends && LENGTH.contains(&&**key) || changes_precision && key == PRECISION {
                    continue;
                }
                let got = state.config.get(key).or(defaults.get(key)).unwrap_or(&Value::Null);
                if got != expected {
                    return Err(CheckpointError::mismatch(format!("the setting {key}"), got, expected).into());
                }
            }
            if state.data_sha256 != self.data_sha256 {
                let what = format!("the SHA-256 sum of the samples of {}", self.input.data);
                return Err(CheckpointError::mismatch(what, state.data_sha256, &self.data_sha256).into());
            }
            self.parts.trainer.restore(checkpoint)?;
            (self.records, self.epoch, self.corrupt_images) = (state.records, state.epoch, state.corrupt_images);
            let (now, batches) = (forward_flops(&self.parts), self.parts.trainer.batches());
            // Epochs used to end with whole passes over the data.
            let was_over =
                batches.is_multiple_of(self.batches_per_epoch) || self.records * self.batches_per_epoch > batches;
            self.epoch_is_recorded = state.epoch_is_recorded.unwrap_or(was_over);
            // A checkpoint without the sum is older than methods whose density moves.
            let is_older = state.forward_flops == 0.0;
            self.forward_flops = [if is_older { now * batches as f64 } else { state.forward_flops }, now];
            self.saved = Some(self.parts.trainer.batches());
            self.best = state.best;
            if extends {
                // An epoch that the run's end cut short is gone on with.
                if self.records * self.batches_per_epoch > self.parts.trainer.step() {
                    self.records -= 1;
                    self.epoch_is_recorded = false;
                }
                if self.parts.config.early_stopping.is_some() {
                    self.best.wait_anew(self.records);
                }
            }
        }
        let last = self.parts.run_dir.cut_metrics(self.records)?;
        self.parts.run_dir.cut_topology(self.records)?;
        self.last_record = last.as_ref().and_then(|record| record["step"].as_u64());
        self.seconds_before = last.and_then(|record| record["seconds"].as_f64()).unwrap_or(0.0);
        Ok(())
    }

    /// After [`Run::resume`] with another length: saves the state as one of the longer run, whose settings the folder has from
    /// now on.
    ///
    /// # Errors
    /// [`RunError::Unsaved`].
    pub fn begin_extension(&mut self) -> Result<()> {
        self.save()?;
        let RunParts { run_dir, config, .. } = &mut self.parts;
        run_dir.extend(config).map_err(|error| self.unsaved(error.into()))
    }

    /// After [`Run::resume`] in another precision: saves the state as one of that precision, which the folder's settings, `saved`,
    /// have from now on.
    ///
    /// # Errors
    /// [`RunError::Unsaved`].
    pub fn begin_precision(&mut self, saved: &TrainConfig) -> Result<()> {
        self.save()?;
        self.parts.run_dir.set_config(saved).map_err(|error| self.unsaved(error.into()))
    }

    /// Where it computes.
    pub fn device(&self) -> &'a B {
        self.parts.device
    }

    /// The trainer.
    pub fn trainer(&self) -> &Trainer<'a, B> {
        &self.parts.trainer
    }

    /// The best epoch so far, with `keep-best` or `early-stopping`.
    pub fn best(&self) -> &BestSoFar {
        &self.best
    }

    /// Epochs done.
    pub fn epochs(&self) -> u64 {
        self.records
    }

    /// Whether it has waited long enough for a better epoch.
    pub fn stops_early(&self) -> bool {
        self.parts.config.early_stopping.is_some_and(|epochs| self.best.waited(self.records) >= epochs)
    }

    /// The run's folder.
    pub fn run_dir(&mut self) -> &mut RunDir {
        &mut self.parts.run_dir
    }

    /// Loss and accuracy on the training batches of the last epoch.
    pub fn epoch(&self) -> &Mean {
        &self.epoch
    }

    /// Operations of one sample's forward pass, on average over the batches so far: what a method whose density moves is
    /// charged with.
    pub fn mean_forward_flops(&self) -> f64 {
        match self.parts.trainer.batches() {
            0 => self.forward_flops[1],
            batches => self.forward_flops[0] / batches as f64,
        }
    }

    /// How many training images turned out to be broken; `None` if that cannot be.
    pub fn corrupt_images(&self) -> Option<usize> {
        self.parts.data.is_files().then_some(self.corrupt_images.len())
    }

    /// Seconds of training that led here, in this process and before it. Of an earlier process the time up to its last
    /// record counts: checkpoints hold no time.
    pub fn seconds(&self) -> f64 {
        self.seconds_before + self.start.elapsed().as_secs_f64()
    }

    /// Samples a second in this process, or of the whole run if this one had nothing left to train.
    pub fn samples_per_second(&self) -> f64 {
        match self.samples() - self.samples_before {
            0 => self.samples() as f64 / self.seconds(),
            samples => samples as f64 / self.start.elapsed().as_secs_f64(),
        }
    }

    /// Samples trained on that led here, with repetitions; of a text, symbols.
    pub fn samples(&self) -> u64 {
        // Whole epochs, then whole batches: only an epoch's last batch is smaller.
        let batches = self.parts.trainer.batches();
        let (epochs, rest) = (batches / self.batches_per_epoch, batches % self.batches_per_epoch);
        epochs * self.samples_per_epoch + rest * self.samples_per_batch
    }

    /// Trains to the end and saves the final checkpoint.
    ///
    /// # Errors
    /// [`RunError`]; if the training diverges; if something cannot be evaluated.
    pub fn train(&mut self) -> Result<()> {
        self.train_to_end().map_err(|error| match backend_error(&error) {
            Some(BackendError::DeviceLost { .. } | BackendError::DeviceMemory { .. }) => {
                let RunParts { run_dir, trainer, .. } = &self.parts;
                let (newest, run) = (run_dir.newest_path(), run_dir.path().to_owned());
                Error { cause: error.cause.context(RunError::Device { step: trainer.step(), newest, run }), ..error }
            }
            _ => error,
        })
    }

    fn train_to_end(&mut self) -> Result<()> {
        self.start = Instant::now();
        self.samples_before = self.samples();
        let RunParts { config, data, trainer, total_steps, .. } = &self.parts;
        let total_steps = *total_steps;
        let batch_size = config.batch_size.min(data.train.len());
        let (first_epoch, first_batch) =
            (trainer.batches() / self.batches_per_epoch, (trainer.batches() % self.batches_per_epoch) as usize);
        let order = Order::Shuffled { seed: config.seed, first_epoch, first_batch, augment: config.augment };
        let form = trainer.network.body.input_form(batch_size);
        let threads = config.loader_thread_count();
        let part = trainer.own_shards().map_or(Part::All, Part::Shards);
        let options = LoaderOptions { batch_size, form, order, drop_last: false, threads, part };
        let mut loader = BatchLoader::new(data.train.clone(), &self.input.normalization, options)?;
        let progress = Progress::new(total_steps, config.json);
        if self.parts.config.log == Some(Log::Tensorboard) && self.parts.run_dir.is_written() {
            let log = EventLog::open(self.parts.run_dir.path(), self.last_record);
            let log = log.map_err(|(path, source)| self.unsaved(RunDirError::Io { path, source }.into()))?;
            self.event_log = Some(log);
        }
        let trainer = &self.parts.trainer;
        if trainer.batches() == 0 && self.parts.run_dir.topology_is_empty()? {
            self.record_topology(0)?;
        }
        let mut owed = false;
        loop {
            let batches = self.parts.trainer.batches();
            let over = self.epoch_is_over();
            let mut told = Ok(());
            if over {
                self.read_losses()?;
                match self.finish_epoch(&progress) {
                    Ok(printed) => told = printed,
                    // Resumed, the run begins with what was left out.
                    Err(error) if error.kind == Kind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            let finished = self.parts.trainer.step() >= total_steps || self.stops_early();
            let due = match self.parts.config.checkpoint_every {
                Some(steps) => batches > 0 && self.parts.trainer.step().is_multiple_of(steps),
                None => over,
            };
            // The file that the weights came from may be gone when the run is resumed.
            let due = due || batches == 0 && self.parts.config.init_from.is_some();
            // Within an update over several batches there is no state to save: what is due comes after it.
            owed |= due;
            let between = !self.parts.trainer.is_within_update();
            let asked = self.parts.interrupt.requested();
            if self.parts.trainer.stops(asked) && between {
                return Err(self.stop()?.into());
            }
            if finished {
                let checkpoint = self.checkpoint()?;
                let saved = self.parts.run_dir.save_final(&checkpoint);
                progress.finish();
                return saved.map(drop).map_err(|error| self.unsaved(error.into()));
            }
            // Ranks save together, and this one is alone with what it cannot say.
            let is_alone = !self.parts.trainer.has_ranks();
            if (owed || told.is_err() && is_alone) && between && self.saved != Some(batches) {
                self.save()?;
            }
            owed &= !between;
            match is_alone {
                true => told.context(|| format!("saved after step {}", self.parts.trainer.step()))?,
                false => told?,
            }
            // The loader says the end of an epoch with an extra call.
            let Some(batch) = loader.next_batch()? else { continue };
            if std::mem::take(&mut self.epoch_is_recorded) {
                self.epoch = Mean::default();
            }
            let report = self.parts.trainer.train_on(batch)?;
            self.epoch.merge(report.training);
            self.corrupt_images.extend(&batch.corrupt);
            self.forward_flops[0] += self.forward_flops[1];
            if report.topology_changed {
                self.forward_flops[1] = forward_flops(&self.parts);
            }
            progress.step(&self.status());
        }
    }

    /// Whether an epoch is over that is not recorded.
    fn epoch_is_over(&self) -> bool {
        let (step, total) = (self.parts.trainer.step(), self.parts.total_steps);
        let recorded = self.records * self.batches_per_epoch;
        recorded < total && step >= total.min(recorded + self.batches_per_epoch)
    }

    /// Adds the losses that are still on the device: no checkpoint and no record is without them.
    fn read_losses(&mut self) -> Result<()> {
        let loss = self.parts.trainer.read_losses()?;
        self.epoch.merge(loss);
        Ok(())
    }

    /// Of the epoch so far, where there are classes.
    fn train_accuracy(&self) -> Option<f64> {
        self.parts.config.loss.is_of_classes().then(|| self.epoch.accuracy())
    }

    fn status(&self) -> Status {
        let RunParts { trainer, device, .. } = &self.parts;
        Status {
            step: trainer.step(),
            loss: self.epoch.loss(),
            is_text: self.parts.data.alphabet.is_some(),
            accuracy: self.train_accuracy(),
            samples_per_second: self.samples_per_second(),
            density: trainer.network.cost(*device).density(),
        }
    }

    /// Evaluates and records the epoch that is over. In the second place: whether it could be told to who reads standard
    /// output, which is no reason to leave the state unsaved.
    fn finish_epoch(&mut self, progress: &Progress) -> Result<io::Result<()>> {
        let data = self.parts.data;
        let validation = data.validation.as_ref().map(|split| self.evaluate(split)).transpose()?;
        let test = if self.parts.config.eval_test { Some(self.evaluate(&data.test)?) } else { None };
        let cost = self.parts.trainer.network.cost(self.parts.device);
        let record = EpochRecord {
            event: "epoch",
            epoch: self.records + 1,
            step: self.parts.trainer.step(),
            train_loss: self.epoch.loss(),
            train_accuracy: self.train_accuracy(),
            val_loss: validation.as_ref().map(Evaluation::loss),
            val_accuracy: validation.as_ref().and_then(Evaluation::accuracy),
            test_loss: test.as_ref().map(Evaluation::loss),
            test_accuracy: test.as_ref().and_then(Evaluation::accuracy),
            others: [("val", &validation), ("test", &test)]
                .into_iter()
                .filter_map(|(set, found)| found.as_ref().map(|found| (set, found)))
                .flat_map(|(set, found)| {
                    found.others().into_iter().map(move |(name, value)| (format!("{set}_{name}"), value))
                })
                .chain(data.alphabet.iter().map(|_| (format!("train_{BITS}"), bits(self.epoch.loss()))))
                .collect(),
            lr: self.parts.trainer.learning_rate(self.parts.trainer.step().saturating_sub(1)),
            nnz: cost.nnz,
            density: cost.density(),
            seconds: self.seconds(),
        };
        self.record_topology(record.epoch)?;
        self.append(&record)?;
        self.records += 1;
        self.epoch_is_recorded = true;
        if let Some(validation) = &validation {
            self.note_best(validation)?;
        }
        let told = if self.parts.config.json { print_record(&record) } else { Ok(()) };
        let mut more = Vec::new();
        for (name, found) in [("validation", validation), ("test", test)] {
            let text = found.map(|found| format!("{name} {}", found.text()));
            more.extend(text.iter().flat_map(|text| text.split("  ")).map(str::to_owned));
        }
        progress.epoch(record.epoch, &self.status(), &more);
        Ok(told)
    }

    /// Compares the epoch that was recorded last with the best one, and keeps its state if it is better.
    fn note_best(&mut self, validation: &Evaluation) -> Result<()> {
        let config = self.parts.config;
        if config.keep_best.is_none() && config.early_stopping.is_none() {
            return Ok(());
        }
        let by = config.best_by();
        let value = match by {
            BestBy::Loss => validation.loss(),
            // Not of tasks without it, for which the setting is refused.
            BestBy::Accuracy => validation.accuracy().unwrap_or(f64::NAN),
        };
        let improves = self.best.offer(by, self.records, self.parts.trainer.step(), value);
        if improves && config.keep_best.is_some() {
            let checkpoint = self.checkpoint()?;
            let saved = self.parts.run_dir.save_best(&checkpoint);
            saved.map_err(|error| self.unsaved(error.into()))?;
        }
        Ok(())
    }

    /// Records where the connections are, after this many epochs.
    fn record_topology(&mut self, epoch: u64) -> Result<()> {
        let RunParts { device, data, trainer, run_dir, .. } = &mut self.parts;
        let mut record = TopologyRecord::of(*device, &trainer.network, epoch, trainer.step());
        if run_dir.topology_is_empty()? {
            record = record.with_heading(&trainer.network, data.shape);
        }
        let appended = run_dir.append_topology(&record);
        appended.map_err(|error| self.unsaved(error.into()))
    }

    /// Loss and measures on a split.
    ///
    /// # Errors
    /// [`RunError::Evaluation`] if interrupted, or if the device fails.
    pub fn evaluate(&mut self, split: &Arc<Split>) -> Result<Evaluation> {
        let RunParts { trainer, config, interrupt, data, .. } = &mut self.parts;
        // Ranks stop between two steps, together.
        let never = Interrupt::default();
        let interrupt = if trainer.has_ranks() { &never } else { &*interrupt };
        let body = trainer.network.body.clone();
        let measured = Measured {
            loss: config.loss,
            outputs: trainer.network.architecture.classes(),
            scale: data.target_scale.as_ref(),
            is_text: data.alphabet.is_some(),
            propensities: self.propensities.as_ref(),
        };
        let loader_threads = config.loader_thread_count();
        let evaluated = Evaluated { split, normalization: &self.input.normalization, measured, loader_threads };
        let order = body.input_form(body.evaluation_batch()).order();
        // A recurrent network's batch begins where the one before ended.
        let Some((rank, count)) = trainer.rank().filter(|_| order != Some(LaneOrder::TimeMajor)) else {
            return evaluate(evaluated, &body, interrupt, |batch, outputs| trainer.evaluate_outputs(batch, outputs));
        };
        let part = Part::Batches { first: rank, every: count };
        let own = |batch: &Batch, outputs: Option<&mut Outputs>| trainer.evaluate_outputs(batch, outputs);
        let own = evaluate_batches(evaluated, &body, interrupt, part, own)?;
        let mut evaluation = Evaluation::new(measured);
        let all = trainer.gather(&own.concat())?;
        let size = evaluation.numbers().len();
        let mut of_ranks: Vec<_> = all.iter().map(|numbers| numbers.chunks_exact(size)).collect();
        for batch in 0..all.iter().map(Vec::len).sum::<usize>() / size {
            evaluation.merge(of_ranks[batch % count].next().expect("ranks take batches in turn"));
        }
        Ok(evaluation)
    }

    /// Appends a record to the run's metrics, and to its event file if it has one.
    ///
    /// # Errors
    /// [`RunError::Unsaved`].
    pub fn append(&mut self, record: &impl Serialize) -> Result<()> {
        self.parts.run_dir.append(record).map_err(|error| self.unsaved(error.into()))?;
        if let Some(log) = &mut self.event_log {
            let path = log.path().to_owned();
            log.record(record).map_err(|source| self.unsaved(RunDirError::Io { path, source }.into()))?;
        }
        Ok(())
    }

    /// The state of the run between two steps: equal states make equal bytes, on any machine and at any time.
    fn checkpoint(&mut self) -> Result<Checkpoint> {
        if self.parts.data.is_files() && self.parts.trainer.has_ranks() {
            let own: Vec<f64> = self.corrupt_images.iter().map(|&image| f64::from(image)).collect();
            let all = self.parts.trainer.gather(&own)?.concat();
            self.corrupt_images.extend(all.into_iter().map(|image| image as u32));
        }
        let mut checkpoint = self.parts.trainer.checkpoint(Some(self.input.clone()))?;
        let (config, data_sha256) = (self.parts.config.fingerprint(), self.data_sha256.clone());
        let (corrupt_images, [forward_flops, _]) = (self.corrupt_images.clone(), self.forward_flops);
        let (records, epoch, epoch_is_recorded) = (self.records, self.epoch, Some(self.epoch_is_recorded));
        let best = self.best;
        let state =
            RunState { config, data_sha256, records, epoch, epoch_is_recorded, corrupt_images, forward_flops, best };
        checkpoint.set_section("run", &state);
        Ok(checkpoint)
    }

    fn save(&mut self) -> Result<()> {
        self.read_losses()?;
        let checkpoint = self.checkpoint()?;
        let RunParts { run_dir, config, trainer, .. } = &mut self.parts;
        let saved = run_dir.save(&checkpoint, trainer.step(), config.keep_checkpoints);
        saved.map_err(|error| self.unsaved(error.into()))?;
        self.saved = Some(self.parts.trainer.batches());
        Ok(())
    }

    fn stop(&mut self) -> Result<RunError> {
        if self.saved != Some(self.parts.trainer.batches()) {
            self.save()?;
        }
        Ok(self.interrupted())
    }

    /// The error of a run that was asked to stop after its last checkpoint.
    pub fn interrupted(&self) -> RunError {
        let RunParts { run_dir, trainer, .. } = &self.parts;
        let run = run_dir.path().to_owned();
        RunError::Interrupted { step: trainer.step(), saved: run_dir.newest_path().unwrap_or_default(), run }
    }

    fn unsaved(&self, error: Error) -> Error {
        let RunParts { run_dir, trainer, .. } = &self.parts;
        let (newest, run) = (run_dir.newest_path(), run_dir.path().to_owned());
        Error { cause: error.cause.context(RunError::Unsaved { step: trainer.step(), newest, run }), ..error }
    }
}
