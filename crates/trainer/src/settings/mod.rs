//! The settings of a training run: defaults, merging of command line and file, and checks.
//!
//! A setting comes from the command line, else from the file given by `--config`, else from [`TrainConfig::default`]
//! (and, for the data folder, from the environment variable `RIGL_DATA_DIR`). [`TrainConfig::resolve`] is the one way
//! from arguments to a checked configuration.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

use rigl::{Distribution, DropSchedule, FlopsConvention, WeightStorage};
use serde::{Deserialize, Serialize};

pub mod error;

pub use self::error::ConfigError;
use crate::args::{TrainArgs, TrainOptions};
use crate::checkpoint::CheckpointError;
use crate::data;
use crate::data::image_folder::{DEFAULT_IMAGE_SIZE, IMAGE_FOLDER};
use crate::data::{Augment, Dataset, Normalize};
use crate::device::{Device, available_threads};
use crate::method::{Method, MethodOption};
use crate::models::{
    DENSITY_RULE, DensityOverride, Format, Init, LayerRule, MOST_WIDTH, ModelName, ModelSpec, Stem, StoredModel,
    complement, is_density,
};
use crate::training::{LrSchedule, OptimizerKind, UpdateSemantics, UpdateWindow};

/// Everything that decides a training run. Keys in a file are the names of the command's options.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TrainConfig {
    /// The network.
    pub model: ModelName,
    /// Factor on the numbers of channels of a convolutional network.
    pub width: f64,
    /// How a residual network begins.
    pub stem: Stem,
    /// The data set, one of [`data::KNOWN`].
    pub data: String,
    /// Folder of data sets that are not embedded.
    pub data_dir: Option<PathBuf>,
    /// Share of the training samples held out for validation, in [0, 1).
    pub val_fraction: f64,
    /// Whether the test set is evaluated after every epoch, not only at the end.
    pub eval_test: bool,
    /// Over what mean and deviation of the inputs are taken.
    pub normalize: Normalize,
    /// How training pictures are changed at random.
    pub augment: Augment,
    /// Pixels each way that the pictures of a folder are resized to.
    pub image_size: usize,

    /// How connections are chosen.
    pub method: Method,
    /// Parameters of the method; of a name given twice the last counts.
    pub method_option: Vec<MethodOption>,
    /// nnz / size over all sparse layers, in (0, 1]; 1 with a dense method.
    pub density: f64,
    /// How the density is spread over the layers.
    pub distribution: Distribution,
    /// Exponent of the Erdős–Rényi-Kernel proportions; 0 is uniform.
    pub erk_power: f64,
    /// Who decides the layers' densities.
    pub layer_rule: LayerRule,
    /// Densities of single layers.
    pub density_override: Vec<DensityOverride>,
    /// How sparse layers are stored. Blocks are dropped and grown whole.
    pub format: Format,

    /// Steps between topology updates.
    pub update_interval: u64,
    /// Share of a layer's connections replaced by the first update, in [0, 1].
    pub drop_fraction: f64,
    /// How that share falls.
    pub drop_schedule: DropSchedule,
    /// Exponent of [`DropSchedule::InversePower`].
    pub drop_exponent: f64,
    /// First step with an update, see [`TrainConfig::update_window`].
    pub begin_step: Option<u64>,
    /// Step at which updates have ended, see [`TrainConfig::update_window`].
    pub end_step: Option<u64>,
    /// What an update does to its step.
    pub update_semantics: UpdateSemantics,
    /// Batches over which an update adds up the gradient that it grows by.
    pub growth_batches: u64,

    /// Passes over the training set; `None` if the length is given in steps.
    pub epochs: Option<u64>,
    /// Training steps; `None` if the length is given in epochs.
    pub steps: Option<u64>,
    /// Samples in a step.
    pub batch_size: usize,

    /// The optimizer.
    pub optimizer: OptimizerKind,
    /// Learning rate.
    pub lr: f64,
    /// How it changes.
    pub lr_schedule: LrSchedule,
    /// Steps at which [`LrSchedule::Step`] multiplies the rate.
    pub lr_milestones: Vec<u64>,
    /// The factor of [`LrSchedule::Step`].
    pub lr_gamma: f64,
    /// Steps in which the rate rises from 0 to `lr`.
    pub warmup_steps: u64,
    /// Momentum of SGD, in [0, 1).
    pub momentum: f64,
    /// Whether it is Nesterov's.
    pub nesterov: bool,
    /// Weight decay.
    pub weight_decay: f64,
    /// Share of the target spread over all classes, in [0, 1).
    pub label_smoothing: f64,
    /// Share of hidden activations set to zero in training, in [0, 1).
    pub dropout: f64,
    /// What initial weights' deviation follows.
    pub init: Init,
    /// A model file whose weights and patterns take the place of random ones.
    pub init_from: Option<PathBuf>,
    /// Run folder or checkpoint whose final pattern the network begins with, and whose initial values.
    pub ticket: Option<PathBuf>,

    /// How operations are counted in reports.
    pub flops_convention: FlopsConvention,
    /// The seed of everything random.
    pub seed: u64,
    /// Threads; `None` is one for each core, see [`TrainConfig::thread_count`].
    pub threads: Option<usize>,
    /// Threads that prepare batches; `None` is as the data needs, see [`TrainConfig::loader_thread_count`].
    pub loader_threads: Option<usize>,
    /// Where it is computed.
    pub device: Device,
    /// Steps between checkpoints; `None` is one after each epoch.
    pub checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints are kept.
    pub keep_checkpoints: usize,
    /// Whether standard output is JSON lines.
    pub json: bool,
    /// The run's folder. Not written to the run's configuration: the folder is where that file stands, and a run
    /// from it needs another.
    #[serde(skip_serializing)]
    pub out: Option<PathBuf>,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            model: ModelName::Lenet300x100,
            width: 1.0,
            stem: Stem::Auto,
            data: data::EMBEDDED.to_owned(),
            data_dir: None,
            val_fraction: 0.0,
            eval_test: false,
            normalize: Normalize::Pixels,
            augment: Augment::None,
            image_size: DEFAULT_IMAGE_SIZE,
            method: Method::named("rigl"),
            method_option: Vec::new(),
            density: 0.1,
            distribution: Distribution::ErdosRenyiKernel,
            erk_power: 1.0,
            layer_rule: LayerRule::Distribution,
            density_override: Vec::new(),
            format: Format::Csr,
            update_interval: 100,
            drop_fraction: 0.3,
            drop_schedule: DropSchedule::Cosine,
            drop_exponent: 3.0,
            begin_step: None,
            end_step: None,
            update_semantics: UpdateSemantics::Paper,
            growth_batches: 1,
            epochs: Some(20),
            steps: None,
            batch_size: 100,
            optimizer: OptimizerKind::Sgd,
            lr: 0.1,
            lr_schedule: LrSchedule::Cosine,
            lr_milestones: Vec::new(),
            lr_gamma: 0.1,
            warmup_steps: 0,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 1e-4,
            label_smoothing: 0.0,
            dropout: 0.0,
            init: Init::DenseFanIn,
            init_from: None,
            ticket: None,
            flops_convention: FlopsConvention::Mac2,
            seed: 0,
            threads: None,
            loader_threads: None,
            device: Device::Cpu,
            checkpoint_every: None,
            keep_checkpoints: 2,
            json: false,
            out: None,
        }
    }
}

/// The default learning rate of Adam and AdamW.
const ADAM_LR: f64 = 1e-3;

impl TrainConfig {
    /// The configuration of a command line: options over the file's, over `env_data_dir` (the environment variable
    /// `RIGL_DATA_DIR`), over the defaults.
    ///
    /// # Errors
    /// [`ConfigError`]: a file, a value, two options that exclude each other, or an option of the command line that
    /// has no effect. A file may hold settings that the chosen method or schedule does not use.
    pub fn resolve(args: &TrainArgs, env_data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        let from_file = args.config.as_deref().map(read_options).transpose()?.unwrap_or_default();
        let given = &args.options;
        let mut table = toml::Table::try_from(&from_file)?;
        merge_settings(&mut table, toml::Table::try_from(given)?);
        let config = Self::from_settings(table, env_data_dir)?;
        config.check_effect(given)?;
        Ok(config)
    }

    /// The configuration of settings from one or more sources, merged into the table of a [`TrainOptions`].
    ///
    /// # Errors
    /// As [`TrainConfig::resolve`], but for options without effect.
    pub(crate) fn from_settings(table: toml::Table, env_data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        let (options, mut config) = Self::with_defaults(table)?;
        if let Some(path) = &config.init_from {
            let model = StoredModel::load(path).map_err(ConfigError::InitFrom)?;
            if options.model.is_none() {
                config.model = model.name();
            }
            if model.name() != config.model {
                let what = format!("{}: the model", path.display());
                return Err(ConfigError::InitFrom(CheckpointError::mismatch(what, model.name(), &config.model)));
            }
            config.density = model.density();
            config.format = model.format();
            // The run's own settings must find it from any folder.
            config.init_from = Some(std::path::absolute(path).unwrap_or_else(|_| path.clone()));
        }
        if let Some(ticket) = &config.ticket {
            config.ticket = Some(std::path::absolute(ticket).unwrap_or_else(|_| ticket.clone()));
        }
        config.find_data(env_data_dir);
        config.check()?;
        Ok(config)
    }

    /// Settings with the defaults that depend on others.
    fn with_defaults(mut table: toml::Table) -> Result<(TrainOptions, Self), ConfigError> {
        let options: TrainOptions = from_table(table.clone());
        table.remove("sparsity");
        let mut config: Self = from_table(table);
        if let Some(sparsity) = options.sparsity {
            require(
                (0.0..1.0).contains(&sparsity),
                "sparsity",
                sparsity,
                "at least 0 and below 1 (it is 1 - density)",
            )?;
            config.density = complement(sparsity);
        }
        if config.method.is_dense() {
            config.density = 1.0;
        }
        if options.steps.is_some() {
            config.epochs = None;
        }
        if options.lr.is_none() && config.optimizer != OptimizerKind::Sgd {
            config.lr = ADAM_LR;
        }
        if options.normalize.is_none() {
            config.normalize = data::default_normalize(&config.data);
        }
        if options.augment.is_none() {
            config.augment = data::default_augment(&config.data);
        }
        Ok((options, config))
    }

    /// Without a folder of data sets, it is that of the environment; the embedded data has none.
    fn find_data(&mut self, env_data_dir: Option<PathBuf>) {
        if self.data == data::EMBEDDED {
            self.data_dir = None;
        } else {
            // The run's own settings must find it from any folder.
            let folder = self.data_dir.take().or(env_data_dir);
            self.data_dir = folder.map(|folder| std::path::absolute(&folder).unwrap_or(folder));
        }
    }

    /// The configuration of the run in `folder`, gone on with: its own settings, but for those of [`RESUMABLE`] that
    /// the command line gives.
    ///
    /// # Errors
    /// [`ConfigError`]: the run's file, or an option that would make it another run.
    pub fn resume(given: &TrainOptions, file: &Path, env_data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        let given_data_dir = given.data_dir.is_some();
        let given = toml::Table::try_from(given)?;
        if let Some(option) = given.keys().find(|key| !RESUMABLE.contains(&key.as_str())) {
            return Err(ConfigError::Resume { option: option.clone(), config: file.to_owned() });
        }
        let mut table = toml::Table::try_from(read_options(file)?)?;
        table.extend(given);
        let (_, mut config) = Self::with_defaults(table)?;
        if given_data_dir && config.data == data::EMBEDDED {
            return Err(ConfigError::NoEffect { option: "data-dir", needs: DATA_IN_FOLDERS });
        }
        config.find_data(env_data_dir);
        config.check()?;
        Ok(config)
    }

    /// The settings in the file of a run.
    ///
    /// # Errors
    /// [`ConfigError`] if it cannot be read.
    pub fn of_run(file: &Path) -> Result<Self, ConfigError> {
        let (_, config) = Self::with_defaults(toml::Table::try_from(read_options(file)?)?)?;
        Ok(config)
    }

    /// What decides the result of a run, as it stands in checkpoints: everything but [`RESUMABLE`], and no paths.
    pub fn fingerprint(&self) -> serde_json::Value {
        let mut value = serde_json::to_value(self).expect("settings are JSON");
        let settings = value.as_object_mut().expect("settings are a map");
        RESUMABLE.iter().chain(&["init-from", "ticket"]).for_each(|&key| drop(settings.remove(key)));
        value
    }

    /// Checks each value by itself.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let share = |value: f64| (0.0..1.0).contains(&value);
        let share_rule = "at least 0 and below 1";
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let at_least_one = "at least 1";
        require(
            data::KNOWN.contains(&self.data.as_str()),
            "data",
            &self.data,
            "fashion-mnist-mini, fashion-mnist, mnist, cifar10, cifar100 or image-folder",
        )?;
        let files = self.data == IMAGE_FOLDER;
        let counted = !files || self.normalize != Normalize::Pixels;
        require(counted, "normalize", self.normalize, "channels, per-image or none with --data image-folder")?;
        match self.augment {
            Augment::None => {}
            Augment::CropFlip => {
                let rule = "none or random-resized-crop-flip with --data image-folder";
                require(!files, "augment", self.augment, rule)?;
            }
            Augment::RandomResizedCropFlip => {
                require(files, "augment", self.augment, "none or crop-flip without --data image-folder")?;
            }
        }
        require((1..=LARGEST_IMAGE).contains(&self.image_size), "image-size", self.image_size, IMAGE_SIZE_RULE)?;
        require(share(self.val_fraction), "val-fraction", self.val_fraction, share_rule)?;
        require(is_density(self.density), "density", self.density, DENSITY_RULE)?;
        let power = self.erk_power;
        require(power >= 0.0 && power.is_finite(), "erk-power", power, "a finite number of at least 0")?;
        let width = self.width;
        require(width > 0.0 && width <= MOST_WIDTH, "width", width, "above 0 and at most 16")?;
        let lenet = self.layer_rule != LayerRule::Paper || self.model == ModelName::Lenet300x100;
        require(lenet, "layer-rule", self.layer_rule, "distribution: only lenet-300-100 has a rule in the paper")?;
        require(self.update_interval >= 1, "update-interval", self.update_interval, at_least_one)?;
        let fraction = self.drop_fraction;
        require((0.0..=1.0).contains(&fraction), "drop-fraction", fraction, "at least 0 and at most 1")?;
        require(positive(self.drop_exponent), "drop-exponent", self.drop_exponent, "a finite number above 0")?;
        require(self.growth_batches >= 1, "growth-batches", self.growth_batches, at_least_one)?;
        let info = self.method.info();
        let stored = self.format == Format::Csr || info.blocks;
        require(stored, "format", self.format, "csr for this method, which does not know blocks")?;
        for option in &self.method_option {
            // Given a value each, so that the one at fault is named.
            self.build_method(&[option])?;
        }
        let file =
            self.init_from.as_ref().or(self.ticket.as_ref()).map_or(String::new(), |path| path.display().to_string());
        let sparse_from_the_start = info.storage == WeightStorage::Sparse;
        let (loads, begins) = (self.init_from.is_some(), self.ticket.is_some());
        require(!loads || sparse_from_the_start || self.method.is_dense(), "init-from", &file, NO_START)?;
        require(!begins || sparse_from_the_start, "ticket", &file, NO_START)?;
        require(
            !(loads && begins),
            "ticket",
            &file,
            "left out with --init-from: both say what the network begins with",
        )?;
        require(begins || !info.needs_ticket, "ticket", "none", "a run folder or checkpoint with this method")?;
        let streamed = self.growth_batches == 1 || self.format == Format::Csr;
        require(streamed, "growth-batches", self.growth_batches, "1 for weights in blocks")?;
        if let (Some(begin), Some(end)) = (self.begin_step, self.end_step) {
            check_window(begin, end)?;
        }
        require(self.epochs != Some(0), "epochs", 0, at_least_one)?;
        require(self.steps != Some(0), "steps", 0, at_least_one)?;
        require(self.batch_size >= 1, "batch-size", self.batch_size, at_least_one)?;
        require(positive(self.lr), "lr", self.lr, "a finite number above 0")?;
        let rising = self.lr_milestones.is_sorted_by(|a, b| a < b);
        require(rising, "lr-milestones", format!("{:?}", self.lr_milestones), "a list of rising steps")?;
        let milestones = self.lr_schedule != LrSchedule::Step || !self.lr_milestones.is_empty();
        require(milestones, "lr-schedule", self.lr_schedule, "constant or cosine, or lr-milestones must be given")?;
        require(self.lr_gamma > 0.0 && self.lr_gamma <= 1.0, "lr-gamma", self.lr_gamma, "above 0 and at most 1")?;
        require(share(self.momentum), "momentum", self.momentum, share_rule)?;
        let decay = self.weight_decay;
        require(decay >= 0.0 && decay.is_finite(), "weight-decay", decay, "a finite number of at least 0")?;
        require(share(self.label_smoothing), "label-smoothing", self.label_smoothing, share_rule)?;
        require(share(self.dropout), "dropout", self.dropout, share_rule)?;
        require(self.checkpoint_every != Some(0), "checkpoint-every", 0, at_least_one)?;
        require(self.keep_checkpoints >= 1, "keep-checkpoints", self.keep_checkpoints, at_least_one)?;
        for (option, threads) in [("threads", self.threads), ("loader-threads", self.loader_threads)] {
            let threads = threads.unwrap_or(1);
            require((1..=MAX_THREADS).contains(&threads), option, threads, "at least 1 and at most 1024")?;
        }
        Ok(())
    }

    /// Options of the command line must do something.
    pub(crate) fn check_effect(&self, given: &TrainOptions) -> Result<(), ConfigError> {
        let info = self.method.info();
        let updates = info.updates == rigl::UpdateTimes::Scheduled;
        let needs_updates = "a method that updates the topology on a schedule (not dense or static, for example)";
        let (drops, needs_drops) = (info.drops_a_fraction, "a method that drops a fraction (set or rigl, for example)");
        let fresh = self.init_from.is_none() && self.ticket.is_none();
        let sparse = !self.method.is_dense() && fresh;
        let needs_sparse =
            if fresh { "a sparse method (not dense)" } else { "a new network (no --init-from or --ticket)" };
        let spread = sparse && self.layer_rule == LayerRule::Distribution;
        let sgd = self.optimizer == OptimizerKind::Sgd;
        let step = self.lr_schedule == LrSchedule::Step;
        let rules = [
            ("data-dir", given.data_dir.is_some(), self.data != data::EMBEDDED, DATA_IN_FOLDERS),
            ("width", given.width.is_some(), !self.model.is_mlp(), "a convolutional network"),
            ("stem", given.stem.is_some(), matches!(self.model, ModelName::ResNet(_)), "a model resnet-18, -34 or -50"),
            ("image-size", given.image_size.is_some(), self.data == IMAGE_FOLDER, "--data image-folder"),
            ("density", given.density.is_some(), sparse, needs_sparse),
            ("sparsity", given.sparsity.is_some(), sparse, needs_sparse),
            ("layer-rule", given.layer_rule.is_some(), sparse, needs_sparse),
            (
                "distribution",
                given.distribution.is_some(),
                spread,
                "a new network of a sparse method and --layer-rule distribution",
            ),
            (
                "erk-power",
                given.erk_power.is_some(),
                spread && self.distribution == Distribution::ErdosRenyiKernel,
                "a new network of a sparse method, --layer-rule distribution and --distribution erk",
            ),
            ("density-override", given.density_override.is_some(), sparse, needs_sparse),
            ("format", given.format.is_some(), sparse, needs_sparse),
            (
                "init",
                given.init.is_some(),
                sparse && info.storage == WeightStorage::Sparse,
                "a new network that is sparse from the start: else both choices are the same",
            ),
            ("update-interval", given.update_interval.is_some(), updates, needs_updates),
            ("drop-fraction", given.drop_fraction.is_some(), drops, needs_drops),
            ("drop-schedule", given.drop_schedule.is_some(), drops, needs_drops),
            (
                "drop-exponent",
                given.drop_exponent.is_some(),
                drops && self.drop_schedule == DropSchedule::InversePower,
                "a method that updates the topology and --drop-schedule inverse-power",
            ),
            ("begin-step", given.begin_step.is_some(), updates, needs_updates),
            ("end-step", given.end_step.is_some(), updates, needs_updates),
            ("update-semantics", given.update_semantics.is_some(), drops, needs_drops),
            ("growth-batches", given.growth_batches.is_some(), info.grows_by_gradient, "--method rigl"),
            ("lr-milestones", given.lr_milestones.is_some(), step, "--lr-schedule step"),
            ("lr-gamma", given.lr_gamma.is_some(), step, "--lr-schedule step"),
            ("momentum", given.momentum.is_some(), sgd, "--optimizer sgd"),
            ("nesterov", given.nesterov.is_some(), sgd, "--optimizer sgd"),
        ];
        match rules.into_iter().find(|&(_, given, effect, _)| given && !effect) {
            Some((option, _, _, needs)) => Err(ConfigError::NoEffect { option, needs }),
            None => Ok(()),
        }
    }

    /// The network, on the pictures of a data set.
    pub fn spec(&self, data: &Dataset) -> ModelSpec {
        let [channels, height, width] = data.shape;
        let spec = ModelSpec::of(&self.model).on(channels, [height, width], data.classes);
        spec.with_width(self.width).with_stem(self.stem)
    }

    /// The method with these parameters, and a schedule that does not matter.
    fn build_method(&self, options: &[&MethodOption]) -> Result<Box<dyn rigl::Method>, ConfigError> {
        let schedule = rigl::UpdateSchedule::new(rigl::ScheduleOptions::for_steps(1000));
        let options = rigl::MethodOptions {
            schedule: schedule.expect("a thousand steps have room for updates"),
            seed: self.seed,
            growth_batches: 1,
            total_steps: 1000,
            parameters: options.iter().map(|option| (option.name.clone(), option.value.clone())).collect(),
        };
        Ok(rigl::build_method(self.method.info().name, &options)?)
    }

    /// Steps of the whole run.
    pub fn total_steps(&self, batches_per_epoch: u64) -> u64 {
        match (self.steps, self.epochs) {
            (Some(steps), _) => steps,
            (None, epochs) => epochs.unwrap_or(0).saturating_mul(batches_per_epoch),
        }
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

    /// Threads to use: those asked for, else one for each core.
    pub fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(available_threads)
    }

    /// Threads that prepare batches: those asked for, else two for folders of pictures and one for all other data.
    pub fn loader_thread_count(&self) -> usize {
        self.loader_threads.unwrap_or_else(|| data::default_loader_threads(&self.data))
    }

    /// This configuration as a file that `--config` reads.
    ///
    /// # Errors
    /// [`ConfigError::Encoding`] if the data folder's path is not Unicode.
    pub fn to_toml(&self) -> Result<String, ConfigError> {
        Ok(toml::to_string(self)?)
    }
}

/// Options that leave a run's result as it is, and so may change when it is gone on with.
pub const RESUMABLE: [&str; 7] =
    ["checkpoint-every", "data-dir", "device", "json", "keep-checkpoints", "loader-threads", "threads"];

/// The data sets that `--data-dir` is for.
pub(crate) const DATA_IN_FOLDERS: &str = "--data fashion-mnist, mnist, cifar10, cifar100 or image-folder";

/// More is a slip: a batch of one would have 50 million inputs.
const LARGEST_IMAGE: usize = 4096;
const IMAGE_SIZE_RULE: &str = "at least 1 and at most 4096 pixels";

/// More is a slip, not a machine.
const MAX_THREADS: usize = 1024;

/// Why a method that begins with all weights takes no file to begin with.
const NO_START: &str = "left out: this method begins with all weights of a new network";

/// Options of which a source may give one.
const ALTERNATIVES: [[&str; 2]; 2] = [["density", "sparsity"], ["epochs", "steps"]];

/// Puts the settings of a source that wins over those of `table`.
pub(crate) fn merge_settings(table: &mut toml::Table, winning: toml::Table) {
    for (key, value) in winning {
        remove_setting(table, &key);
        table.insert(key, value);
    }
}

/// Removes a setting, by either name of a thing that has two.
pub(crate) fn remove_setting(table: &mut toml::Table, key: &str) {
    table.remove(key);
    for pair in ALTERNATIVES.iter().filter(|pair| pair.contains(&key)) {
        pair.iter().for_each(|&other| drop(table.remove(other)));
    }
}

fn read_options(path: &Path) -> Result<TrainOptions, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let options: TrainOptions = toml::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
    if options.density.is_some() && options.sparsity.is_some() {
        return Err(ConfigError::Conflict { first: "density", second: "sparsity" });
    }
    if options.epochs.is_some() && options.steps.is_some() {
        return Err(ConfigError::Conflict { first: "epochs", second: "steps" });
    }
    Ok(options)
}

/// Settings from a table that was made from settings.
fn from_table<T: for<'de> Deserialize<'de>>(table: toml::Table) -> T {
    table.try_into().expect("options and configuration have the same keys and types")
}

fn check_window(begin: u64, end: u64) -> Result<(), ConfigError> {
    if begin >= end { Err(ConfigError::Window { begin, end }) } else { Ok(()) }
}

fn require(holds: bool, option: &'static str, value: impl fmt::Display, rule: &'static str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::Value { option, value: value.to_string(), rule }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::{Cli, Command};
    use clap::Parser;
    use proptest::prelude::*;

    fn args(line: &str) -> TrainArgs {
        match Cli::try_parse_from(["rigl", "train"].into_iter().chain(line.split_whitespace())).unwrap().command {
            Command::Train(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    fn resolve(line: &str) -> Result<TrainConfig, ConfigError> {
        TrainConfig::resolve(&args(line), None)
    }

    /// A file beside a command line.
    fn resolve_file(file: &str, line: &str) -> Result<TrainConfig, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        fs::write(&path, file).unwrap();
        let mut args = args(line);
        args.config = Some(path);
        TrainConfig::resolve(&args, None)
    }

    fn message(result: Result<TrainConfig, ConfigError>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn without_options_the_defaults_hold() {
        assert_eq!(resolve("").unwrap(), TrainConfig::default());
        assert_eq!(resolve_file("", "").unwrap(), TrainConfig::default());
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = "density = 0.2\nlr = 1\nmodel = '784-32-10'\ndensity-override = ['fc1=0.5']\nnesterov = false";
        let config = resolve_file(file, "").unwrap();
        assert_eq!((config.density, config.lr, config.nesterov), (0.2, 1.0, false));
        assert_eq!(config.model.sizes(), [784, 32, 10]);
        assert_eq!(config.density_override, [DensityOverride { pattern: "fc1".to_owned(), density: Some(0.5) }]);
        let config = resolve_file(file, "--density 0.3 --density-override fc*=0.4 --nesterov").unwrap();
        assert_eq!((config.density, config.lr, config.nesterov), (0.3, 1.0, true));
        assert_eq!(config.density_override[0].to_string(), "fc*=0.4");
    }

    #[test]
    fn two_names_of_one_thing() {
        assert_eq!(resolve("--sparsity 0.9").unwrap().density, 0.1);
        assert_eq!(resolve_file("density = 0.2", "--sparsity 0.3").unwrap().density, 0.7);
        assert_eq!(resolve_file("sparsity = 0.2", "--density 0.3").unwrap().density, 0.3);
        let config = resolve_file("epochs = 3", "--steps 70").unwrap();
        assert_eq!((config.epochs, config.steps, config.total_steps(12)), (None, Some(70), 70));
        let config = resolve_file("steps = 70", "--epochs 3").unwrap();
        assert_eq!((config.epochs, config.steps, config.total_steps(12)), (Some(3), None, 36));
        assert!(message(resolve_file("epochs = 3\nsteps = 3", "")).starts_with("epochs and steps exclude each other"));
        assert!(message(resolve_file("density = 0.3\nsparsity = 0.7", "")).starts_with("density and sparsity"));
        for line in ["--epochs 3 --steps 3", "--density 0.1 --sparsity 0.9"] {
            assert!(Cli::try_parse_from(["rigl", "train"].into_iter().chain(line.split(' '))).is_err());
        }
    }

    #[test]
    fn impossible_values_are_named_with_what_would_be_valid() {
        for (line, option) in [
            ("--density 0", "density: 0"),
            ("--density 1.5", "density: 1.5"),
            ("--density nan", "density: NaN"),
            ("--sparsity 1", "sparsity: 1"),
            ("--sparsity=-0.1", "sparsity: -0.1"),
            ("--update-interval 0", "update-interval: 0"),
            ("--batch-size 0", "batch-size: 0"),
            ("--epochs 0", "epochs: 0"),
            ("--steps 0", "steps: 0"),
            ("--dropout 1", "dropout: 1"),
            ("--label-smoothing=-0.1", "label-smoothing: -0.1"),
            ("--val-fraction 1", "val-fraction: 1"),
            ("--momentum 1", "momentum: 1"),
            ("--lr 0", "lr: 0"),
            ("--lr inf", "lr: inf"),
            ("--weight-decay=-1", "weight-decay: -1"),
            ("--threads 0", "threads: 0"),
            ("--threads 5000", "threads: 5000"),
            ("--loader-threads 0", "loader-threads: 0"),
            ("--data image-folder --image-size 0", "image-size: 0"),
            ("--data image-folder --normalize pixels", "normalize: pixels"),
            ("--data image-folder --augment crop-flip", "augment: crop-flip"),
            ("--data cifar10 --augment random-resized-crop-flip", "augment: random-resized-crop-flip"),
            ("--drop-fraction 1.1", "drop-fraction: 1.1"),
            ("--drop-schedule inverse-power --drop-exponent 0", "drop-exponent: 0"),
            ("--erk-power=-1", "erk-power: -1"),
            ("--lr-schedule step", "lr-schedule: step"),
            ("--lr-schedule step --lr-milestones 5,5", "lr-milestones: [5, 5]"),
            ("--lr-schedule step --lr-milestones 5 --lr-gamma 0", "lr-gamma: 0"),
            ("--data imagenet", "data: imagenet"),
            ("--layer-rule paper --model 784-10", "layer-rule: paper"),
        ] {
            let message = message(resolve(line));
            assert!(message.starts_with(&format!("{option} is not possible; it must be ")), "{line}: {message}");
        }
        assert!(
            message(resolve("--begin-step 8 --end-step 8")).starts_with("begin-step: updates cannot begin at step 8")
        );
    }

    #[test]
    fn every_data_set_is_named_when_none_fits() {
        let message = message(resolve("--data imagenet"));
        assert!(data::KNOWN.iter().all(|name| message.contains(name)), "{message}");
    }

    #[test]
    fn files_are_checked_as_strictly() {
        let message = |file: &str| message(resolve_file(file, ""));
        let unknown = message("densty = 0.1");
        assert!(unknown.contains("run.toml") && unknown.contains("unknown field `densty`"), "{unknown}");
        assert!(unknown.contains("line 1") && unknown.contains("`density`"), "{unknown}");
        let wrong_type = message("seed = 1\nlr = 'fast'");
        assert!(wrong_type.contains("line 2") && wrong_type.contains("lr = 'fast'"), "{wrong_type}");
        assert!(message("optimizer = 'lion'").contains("expected one of `sgd`, `adam`, `adamw`"));
        assert!(message("format = 'bsr3x3'").contains("bsrRxC with R and C of 1, 2, 4, 8 or 16"));
        assert!(message("device = 'tpu'").contains("the devices are cpu"));
        assert!(message("model = 'resnet'").contains("784-300-100-10"));
        assert!(message("density-override = ['fc1=2']").contains("a density must be"));
        assert!(message("density = 2.0").starts_with("density: 2 is not possible"));
        assert!(message("density = ").contains("run.toml"));
        let mut args = args("");
        args.config = Some("no/such/file".into());
        let missing = TrainConfig::resolve(&args, None).unwrap_err().to_string();
        assert!(missing.starts_with("config: no/such/file: "), "{missing}");
    }

    #[test]
    fn options_without_effect_are_refused_on_the_command_line_only() {
        for line in [
            "--method dense --density 0.1",
            "--method dense --init sparse-fan-in",
            "--method dense --format bsr4x4",
            "--method static --drop-fraction 0.2",
            "--drop-exponent 2",
            "--distribution uniform --erk-power 0.5",
            "--layer-rule paper --distribution er",
            "--optimizer adam --momentum 0.5",
            "--lr-gamma 0.5",
            "--data-dir /data",
            "--data cifar10 --image-size 32",
        ] {
            let message = message(resolve(line));
            assert!(message.contains("has no effect here: it needs "), "{line}: {message}");
        }
        let config = resolve_file("density = 0.3\ndrop-exponent = 2.0", "--method dense").unwrap();
        assert_eq!((config.density, config.drop_exponent), (1.0, 2.0));
    }

    #[test]
    fn defaults_that_depend_on_other_settings() {
        assert_eq!(resolve("--optimizer adamw").unwrap().lr, 1e-3);
        assert_eq!(resolve("--optimizer adamw --lr 0.1").unwrap().lr, 0.1);
        let window = |line: &str, steps| resolve(line).unwrap().update_window(steps);
        assert_eq!(window("", 2400).unwrap(), Some(UpdateWindow { begin: 100, end: 1800 }));
        assert_eq!(window("--begin-step 0 --end-step 7", 2400).unwrap(), Some(UpdateWindow { begin: 0, end: 7 }));
        assert_eq!(window("", 134).unwrap(), None);
        assert_eq!(window("", 135).unwrap(), Some(UpdateWindow { begin: 100, end: 101 }));
        assert!(window("--begin-step 2000", 2400).unwrap_err().to_string().contains("begin at step 2000"));
        let data_dir = |line: &str| TrainConfig::resolve(&args(line), Some("/env".into())).unwrap().data_dir;
        assert_eq!(data_dir("--data mnist"), Some("/env".into()));
        assert_eq!(data_dir("--data mnist --data-dir /cli"), Some("/cli".into()));
        assert_eq!(data_dir(""), None);
        let input = |line: &str| resolve(line).map(|config| (config.normalize, config.augment)).unwrap();
        assert_eq!(input("--data image-folder"), (Normalize::Channels, Augment::RandomResizedCropFlip));
        let loaders = |line: &str| resolve(line).unwrap().loader_thread_count();
        assert_eq!([loaders(""), loaders("--data image-folder"), loaders("--loader-threads 5")], [1, 2, 5]);
        assert_eq!(input("--data mnist"), (Normalize::Pixels, Augment::None));
        assert_eq!(input("--data cifar10"), (Normalize::Channels, Augment::CropFlip));
        assert_eq!(input("--data cifar100 --augment none"), (Normalize::Channels, Augment::None));
        assert_eq!(input("--normalize per-image --augment crop-flip"), (Normalize::PerImage, Augment::CropFlip));
    }

    /// The file written to a run's folder gives the same run.
    #[test]
    fn a_configuration_survives_its_file() {
        for line in [
            "--out somewhere",
            "--format bsr16x1 --epochs 2",
            "--steps 70 --sparsity 0.95 --optimizer adam --seed 9223372036854775807 --threads 3",
            "--data cifar10 --normalize pixels --augment none",
            "--data image-folder --image-size 64 --loader-threads 4",
            "--method dense --data mnist --data-dir /data --lr-schedule step --lr-milestones 10,20",
            "--density-override fc1=0.05 --density-override *=1 --drop-schedule inverse-power --begin-step 5 --json",
        ] {
            let config = resolve(line).unwrap();
            let again = resolve_file(&config.to_toml().unwrap(), "").unwrap();
            assert_eq!(again, TrainConfig { out: None, ..config });
        }
    }

    #[test]
    fn models_and_devices_by_name() {
        assert_eq!("lenet-300-100".parse::<ModelName>().unwrap().sizes(), [784, 300, 100, 10]);
        assert_eq!("784-10".parse::<ModelName>().unwrap().to_string(), "784-10");
        for name in ["lenet", "784", "784-", "784-0-10", "-1", "4294967296-10", "784-a-10"] {
            assert!(name.parse::<ModelName>().is_err(), "{name}");
        }
        assert_eq!("cpu".parse::<Device>(), Ok(Device::Cpu));
        assert!("tpu".parse::<Device>().unwrap_err().contains("cpu"));
        #[cfg(feature = "gpu")]
        for (name, device) in
            [("gpu", Device::Gpu(None)), ("gpu:0", Device::Gpu(Some(0))), ("gpu:12", Device::Gpu(Some(12)))]
        {
            assert_eq!(name.parse::<Device>(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        assert!("gpu:x".parse::<Device>().is_err() && "gpu:-1".parse::<Device>().is_err());
        assert_eq!(format!("{:>8}", Method::named("rigl")), "    rigl");
    }

    #[test]
    fn overrides_are_pattern_and_density() {
        let parsed: DensityOverride = "a=b*=0.5".parse().unwrap();
        assert_eq!(parsed, DensityOverride { pattern: "a=b*".to_owned(), density: Some(0.5) });
        let parsed: DensityOverride = "conv1=free".parse().unwrap();
        assert_eq!((parsed.density, parsed.to_string()), (None, "conv1=free".to_owned()));
        for text in ["fc1", "=0.5", "fc1=", "fc1=0", "fc1=x"] {
            assert!(text.parse::<DensityOverride>().is_err(), "{text}");
        }
    }

    proptest! {
        /// `--sparsity s` and `--density 1 - s`, as written in decimal, are the same number.
        #[test]
        fn sparsity_is_the_decimal_complement(thousandths in 1u32..1000) {
            let text = |n: u32| format!("0.{n:03}");
            let density = |line: String| resolve(&line).unwrap().density;
            prop_assert_eq!(
                density(format!("--sparsity {}", text(thousandths))),
                density(format!("--density {}", text(1000 - thousandths)))
            );
        }
    }
}
