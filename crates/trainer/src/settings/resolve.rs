//! Settings from the command line, a file and the environment; what they mean for a run.

use std::fs;
use std::path::{Path, PathBuf};

use rigl::Distribution;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::error::ConfigError;
use super::table::{DATA_IN_FOLDERS, PRECISION, RESUMABLE, TrainConfig, TrainOptions};
use crate::checkpoint::CheckpointError;
use crate::data;
use crate::data::svmlight::SVMLIGHT;
use crate::data::table::TABLE;
use crate::data::text::{self, TINY_SHAKESPEARE, TextSymbols, is_text};
use crate::device::available_threads;
use crate::method::MethodOption;
use crate::models::{Init, ModelName, complement};
use crate::run_checkpoints::load_model;
use crate::task::LossKind;
use crate::training::{BestBy, OptimizerKind};

/// The default learning rate of Adam and AdamW.
const ADAM_LR: f64 = 1e-3;
/// That for samples that are lists: most weights have a gradient seldom.
const LISTS_LR: f64 = 1e-2;

/// The default length of a run.
const EPOCHS: u64 = 20;

impl TrainOptions {
    /// These settings as arguments of the command line.
    ///
    /// # Errors
    /// [`ConfigError::Encoding`] if a path is not Unicode.
    pub(crate) fn arguments(&self) -> Result<Vec<String>, ConfigError> {
        let text = |value: &toml::Value| match value {
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut arguments = Vec::new();
        for (name, value) in toml::Table::try_from(self)? {
            match &value {
                // What may be repeated has no commas, and what is separated by commas may be repeated.
                toml::Value::Array(values) => {
                    arguments.extend(values.iter().map(|value| format!("--{name}={}", text(value))));
                }
                value => arguments.push(format!("--{name}={}", text(value))),
            }
        }
        Ok(arguments)
    }
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self::of(&TrainOptions::default()).expect("no sparsity is given")
    }
}

impl TrainConfig {
    /// The configuration of a command line: options over the file's, over `env_data_dir` (the environment variable
    /// `RIGL_DATA_DIR`), over the defaults.
    ///
    /// # Errors
    /// [`ConfigError`]: a file, a value, two options that exclude each other, or an option of the command line that
    /// has no effect. A file may hold settings that the chosen method or schedule does not use.
    pub fn resolve(
        file: Option<&Path>,
        given: &TrainOptions,
        env_data_dir: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let from_file = file.map(read_options).transpose()?.unwrap_or_default();
        let mut table = toml::Table::try_from(&from_file)?;
        merge_settings(&mut table, toml::Table::try_from(given)?);
        let mut config = Self::from_settings(table, env_data_dir)?;
        config.check_effect(given)?;
        // Equal but for the places in its file, which errors name.
        let places = [&given.model, &from_file.model].into_iter().flatten().find(|model| **model == config.model);
        config.model = places.cloned().unwrap_or(config.model);
        Ok(config)
    }

    /// The configuration of settings from one or more sources, merged into the table of a [`TrainOptions`].
    ///
    /// # Errors
    /// As [`TrainConfig::resolve`], but for options without effect.
    pub(crate) fn from_settings(table: toml::Table, env_data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        let (options, mut config) = Self::with_defaults(table)?;
        if let Some(path) = &config.init_from {
            let (model, _) = load_model(path).map_err(ConfigError::InitFrom)?;
            if options.model.is_none() {
                config.model = model.name();
            }
            if !model.is_of(&config.model) {
                let what = format!("{}: the model", path.display());
                let mismatch = CheckpointError::mismatch(what, model.name(), &config.model);
                return Err(ConfigError::InitFrom(mismatch.into()));
            }
            // What the name leaves open is the file's, but for what the data decides.
            if let Some(parts) = &model.parts {
                config.width = options.width.unwrap_or(parts.spec.width);
                if parts.spec.name.family().is_some_and(|family| family.has_stem) {
                    config.stem = options.stem.unwrap_or(parts.spec.stem);
                }
            }
            // A method that begins denser prunes to the density of the settings.
            if !config.method.info().prunes() {
                config.density = model.density();
            }
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
    fn with_defaults(table: toml::Table) -> Result<(TrainOptions, Self), ConfigError> {
        let options = from_table(table);
        let config = Self::of(&options)?;
        Ok((options, config))
    }

    /// The settings of these options: the table's defaults, and those that depend on other settings. Values are not checked,
    /// files not looked for.
    ///
    /// # Errors
    /// [`ConfigError`] if the sparsity is none.
    pub fn of(options: &TrainOptions) -> Result<Self, ConfigError> {
        let mut config = Self::of_table(options);
        if let Some(sparsity) = config.sparsity.take() {
            if !(0.0..1.0).contains(&sparsity) {
                let rule = "at least 0 and below 1 (it is 1 - density)";
                return Err(ConfigError::Value { option: "sparsity", value: sparsity.to_string(), rule });
            }
            config.density = complement(sparsity);
        }
        if config.method.is_dense() {
            config.density = 1.0;
        }
        if options.model.is_none() && config.data == TABLE {
            config.model = ModelName::Hidden(vec![300, 100]);
        }
        if options.data.is_none() && config.model.reads_lists() {
            config.data = SVMLIGHT.to_owned();
        }
        if config.data == SVMLIGHT {
            config.model = options.model.clone().unwrap_or(ModelName::Lists(vec![512]));
            config.loss = options.loss.unwrap_or(LossKind::Bce);
            config.optimizer = options.optimizer.unwrap_or(OptimizerKind::Adam);
            config.lr = options.lr.unwrap_or(LISTS_LR);
        }
        if options.model.is_none() && is_text(&config.data) {
            config.model = "gru-512".parse().expect("the paper's network");
        }
        if options.data.is_none() && config.model.sequence().is_some() {
            config.data = TINY_SHAKESPEARE.to_owned();
        }
        let training = config.model.sequence().map(|family| family.training);
        if let (None, Some(training)) = (options.optimizer, training) {
            config.optimizer = if training.decoupled { OptimizerKind::Adamw } else { OptimizerKind::Adam };
        }
        if options.lr.is_none() && config.optimizer != OptimizerKind::Sgd {
            let others = if config.data == SVMLIGHT { LISTS_LR } else { ADAM_LR };
            config.lr = training.map_or(others, |training| training.lr);
        }
        if let Some(training) = training {
            config.warmup_steps = options.warmup_steps.unwrap_or(training.warmup_steps);
            config.weight_decay = options.weight_decay.unwrap_or(training.weight_decay);
            config.beta2 = options.beta2.unwrap_or(training.beta2);
            config.clip_norm = options.clip_norm.or(Some(training.clip_norm));
            config.batch_size = options.batch_size.unwrap_or(training.batch_size);
            config.distribution = options.distribution.unwrap_or(Distribution::Uniform);
            config.init = options.init.unwrap_or(Init::SparseFanIn);
        }
        let epochs = training.map_or(EPOCHS, |training| training.epochs);
        config.epochs = config.epochs.or(Some(epochs)).filter(|_| config.steps.is_none());
        if options.normalize.is_none() {
            config.normalize = data::default_normalize(&config.data);
        }
        if options.augment.is_none() {
            config.augment = data::default_augment(&config.data);
        }
        if is_text(&config.data) {
            let share = if config.text_valid.is_empty() { text::DEFAULT_SHARE } else { 0.0 };
            config.val_fraction = options.val_fraction.unwrap_or(share);
            config.test_fraction = options.test_fraction.unwrap_or(text::DEFAULT_SHARE);
        }
        if options.text_symbols.is_none() && config.data == TINY_SHAKESPEARE {
            config.text_symbols = TextSymbols::Characters;
        }
        Ok(config)
    }

    /// Without a folder of data sets, it is that of the environment; the embedded data has none.
    fn find_data(&mut self, env_data_dir: Option<PathBuf>) {
        for file in
            [&mut self.table, &mut self.test_table, &mut self.labels, &mut self.svmlight, &mut self.svmlight_test]
        {
            *file = file.take().map(|file| std::path::absolute(&file).unwrap_or(file));
        }
        for file in [&mut self.text, &mut self.text_valid, &mut self.text_test].into_iter().flatten() {
            *file = std::path::absolute(&*file).unwrap_or_else(|_| file.clone());
        }
        if !data::is_in_folder(&self.data) {
            self.data_dir = None;
        } else {
            // The run's own settings must find it from any folder.
            let folder = self.data_dir.take().or(env_data_dir);
            self.data_dir = folder.map(|folder| std::path::absolute(&folder).unwrap_or(folder));
        }
    }

    /// The configuration of the run in `folder`, resumed: its own settings, but for those of [`RESUMABLE`], and the precision, that
    /// the command line gives.
    ///
    /// # Errors
    /// [`ConfigError`]: the run's file, or an option that would make it another run.
    pub fn resume(given: &TrainOptions, file: &Path, env_data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        let given_data_dir = given.data_dir.is_some();
        let given = toml::Table::try_from(given)?;
        let may_change = |key: &str| RESUMABLE.contains(&key) || key == PRECISION;
        if let Some(option) = given.keys().find(|key| !may_change(key)) {
            if ALTERNATIVES[1].contains(&option.as_str()) {
                return Err(ConfigError::ResumeLength { option: option.clone() });
            }
            return Err(ConfigError::Resume { option: option.clone(), config: file.to_owned() });
        }
        let mut table = toml::Table::try_from(read_options(file)?)?;
        table.extend(given);
        let (_, mut config) = Self::with_defaults(table)?;
        if given_data_dir && !data::is_in_folder(&config.data) {
            return Err(ConfigError::NoEffect { option: "data-dir", needs: DATA_IN_FOLDERS });
        }
        config.find_data(env_data_dir);
        config.check()?;
        Ok(config)
    }

    /// The configuration of the run whose settings are in `file`, made longer: as [`TrainConfig::resume`], with the length that
    /// the command line gives.
    ///
    /// # Errors
    /// As [`TrainConfig::resume`]; [`ConfigError::NoLength`] without a length.
    pub fn extend(given: &TrainOptions, file: &Path, env_data_dir: Option<PathBuf>) -> Result<Self, ConfigError> {
        let (epochs, steps) = (given.epochs, given.steps);
        if epochs.is_none() && steps.is_none() {
            return Err(ConfigError::NoLength);
        }
        let others = TrainOptions { epochs: None, steps: None, ..given.clone() };
        let mut config = Self::resume(&others, file, env_data_dir)?;
        (config.epochs, config.steps) = (epochs, steps);
        config.check()?;
        Ok(config)
    }

    /// Whether there are validation samples.
    pub fn has_validation(&self) -> bool {
        self.val_fraction > 0.0 || !self.text_valid.is_empty()
    }

    /// What makes one epoch better than another.
    pub fn best_by(&self) -> BestBy {
        self.keep_best.unwrap_or(BestBy::Loss)
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
        if !data::KNOWN.contains(&self.data.as_str()) {
            return Err(ConfigError::Data { name: self.data.clone(), known: data::KNOWN.join(", ") });
        }
        self.check_values()?;
        for option in &self.method_option {
            // Given a value each, so that the one at fault is named.
            self.build_method(&[option])?;
        }
        match (self.begin_step, self.end_step) {
            (Some(begin), Some(end)) => check_window(begin, end),
            _ => Ok(()),
        }
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

    /// Threads to use: those asked for, else one for each core.
    pub fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(available_threads)
    }

    /// Threads that prepare batches: those asked for, else two for image folders and one for all other data.
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

/// A configuration file.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })
}

fn read_options(path: &Path) -> Result<TrainOptions, ConfigError> {
    let options: TrainOptions = read_toml(path)?;
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

pub(super) fn check_window(begin: u64, end: u64) -> Result<(), ConfigError> {
    if begin >= end { Err(ConfigError::Window { begin, end }) } else { Ok(()) }
}
