//! Why settings cannot be used.

use std::io;
use std::path::PathBuf;

use crate::report::bytes_text;
use crate::run_checkpoints::FindError;

/// Why settings cannot be used. All are errors of usage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("config: {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The configuration file is not TOML, or has an unknown key or a value of a wrong type.
    #[error("config: {}: {source}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Place and reason.
        source: Box<toml::de::Error>,
    },
    /// No data set has this name.
    #[error("unknown data set `{name}`; choose one of {known}")]
    Data {
        /// The name given.
        name: String,
        /// Every name there is.
        known: String,
    },
    /// A value is impossible.
    #[error("--{}: {value} is invalid; it must be {rule}", option.replace('_', "-"))]
    Value {
        /// The option.
        option: &'static str,
        /// What was given.
        value: String,
        /// What would be valid.
        rule: &'static str,
    },
    /// Two options of one source say the same thing twice.
    #[error("{first} and {second} exclude each other; give only one")]
    Conflict {
        /// One option.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// An option of the command line that the other settings leave without effect.
    #[error("--{} has no effect here: it needs {needs}", option.replace('_', "-"))]
    NoEffect {
        /// The option.
        option: &'static str,
        /// What would give it an effect.
        needs: &'static str,
    },
    /// An option that a resumed run cannot change.
    #[error(
        "--{option} cannot be changed with --resume, which keeps the run's settings; to start a new run with other \
         settings, use --config {}", config.display()
    )]
    Resume {
        /// The option.
        option: String,
        /// The settings of the run.
        config: PathBuf,
    },
    /// The length, which a resumed run keeps unless it is asked to be longer.
    #[error("--{option} cannot be changed with --resume alone; add --extend to make the run longer")]
    ResumeLength {
        /// The option.
        option: String,
    },
    /// A run that is to be longer, without its new length.
    #[error("--extend needs the run's new length: --epochs N or --steps N")]
    NoLength,
    /// A run that is to be longer, and would not be.
    #[error(
        "--extend: the run has been trained for {done} steps, and the length given is {total_steps} steps; it must be more than {done}"
    )]
    NotLonger {
        /// Steps of the run so far.
        done: u64,
        /// Steps of the length that was given.
        total_steps: u64,
    },
    /// The model file to start from cannot be used.
    #[error("init-from: {0}")]
    InitFrom(FindError),
    /// Topology updates would end before they begin.
    #[error(
        "begin-step: updates cannot begin at step {begin} and end at step {end}; begin-step must be less than end-step"
    )]
    Window {
        /// The first step with an update.
        begin: u64,
        /// The step at which updates have ended.
        end: u64,
    },
    /// The run is over before its first update.
    #[error(
        "begin-step: the first topology update would be at step {begin}, but the run has {total_steps} steps: {method} would never \
         change the pattern; begin-step must be less than {total_steps}"
    )]
    NoUpdate {
        /// The method.
        method: String,
        /// The first step with an update.
        begin: u64,
        /// The run's.
        total_steps: u64,
    },
    /// The run is over before pruning is.
    #[error(
        "end-step: {method} would reach density {density} at step {end}, but the run has {total_steps} steps; end-step must be at \
         most {total_steps}"
    )]
    UnfinishedPruning {
        /// The method.
        method: String,
        /// The density at the end.
        density: f64,
        /// The step of the last pruning.
        end: u64,
        /// The run's.
        total_steps: u64,
    },
    /// The network does not fit the data.
    #[error(
        "model: {model} takes {inputs} features and has {outputs} classes, but {data} has {features} features and \
         {classes} classes; {features}-300-100-{classes} would fit"
    )]
    Model {
        /// The model.
        model: String,
        /// Features it reads.
        inputs: usize,
        /// Its classes.
        outputs: usize,
        /// The data set.
        data: String,
        /// Features of a sample.
        features: usize,
        /// Classes of the data set.
        classes: usize,
    },
    /// A network of text on other data.
    #[error(
        "model: {model} reads text, but the samples of {data} are none; --data tiny-shakespeare, or --data text with --text FILE, would fit"
    )]
    NoText {
        /// The model.
        model: String,
        /// The data set.
        data: String,
    },
    /// Another network on a text.
    #[error(
        "model: {model} reads no text, but the data set {data} is one; a model such as gru-512 or gpt-6-6-384 would fit"
    )]
    Text {
        /// The model.
        model: String,
        /// The data set.
        data: String,
    },
    /// A network that reads lists, on other samples.
    #[error(
        "model: {model} reads lists of features, but the samples of {data} are not lists; --data svmlight with --svmlight FILE would fit"
    )]
    NoLists {
        /// The model.
        model: String,
        /// The data set.
        data: String,
    },
    /// Another network on lists.
    #[error(
        "model: {model} does not read lists, but the samples of {data} are lists of features; a model such as lists-512 would fit"
    )]
    Lists {
        /// The model.
        model: String,
        /// The data set.
        data: String,
    },
    /// A network of another number of symbols.
    #[error(
        "model: {model} knows {symbols} symbols, but {data} has {classes}; a model trained on this text, or on another of the same alphabet, would fit"
    )]
    Symbols {
        /// The model.
        model: String,
        /// Its symbols.
        symbols: usize,
        /// The data set.
        data: String,
        /// Symbols of the text.
        classes: usize,
    },
    /// Images whose shape differs from the network's input.
    #[error(
        "model: {model} takes images of {expected} and has {outputs} classes, but {data} has images of {got} and \
         {classes} classes"
    )]
    Pictures {
        /// The model.
        model: String,
        /// Channels, height and width that it reads.
        expected: String,
        /// Its classes.
        outputs: usize,
        /// The data set.
        data: String,
        /// Channels, height and width of a sample.
        got: String,
        /// Classes of the data set.
        classes: usize,
    },
    /// A batch whose activations do not fit in memory.
    #[error(
        "batch-size: a step of {model} on {batch_size} samples needs about {} for activations, but only {} of memory is free{}",
        bytes_text(*needed as u64), bytes_text(*available as u64),
        if *fits == 0 { String::new() } else { format!("; batches of {fits} would fit") }
    )]
    Memory {
        /// The model.
        model: String,
        /// Samples in a batch.
        batch_size: usize,
        /// Bytes of activations.
        needed: usize,
        /// Bytes that are free.
        available: usize,
        /// A batch size that would fit, or 0.
        fits: usize,
    },
    /// Weights that do not fit in memory.
    #[error(
        "model: {model} with the method {method} needs about {} for weights, gradients and optimizer slots and {} for activations, \
         but only {} of memory is free{}",
        bytes_text(*weights as u64), bytes_text(*activations as u64), bytes_text(*available as u64),
        if_sparse.map_or(String::new(), |bytes| format!(
            "; a method that is sparse from the first step on, such as rigl, would need {} for weights", bytes_text(bytes as u64)
        ))
    )]
    WeightMemory {
        /// The model.
        model: String,
        /// The method.
        method: String,
        /// Bytes of weights, gradients and slots, as the method holds them at first.
        weights: usize,
        /// Bytes of activations.
        activations: usize,
        /// Bytes that are free.
        available: usize,
        /// Bytes of the weights in a sparse method, if those would fit.
        if_sparse: Option<usize>,
    },
    /// A network that cannot be built.
    #[error("model: {model} cannot take {input}: {source}")]
    Architecture {
        /// The model.
        model: String,
        /// What it is to read.
        input: String,
        /// What does not fit.
        source: Box<crate::models::BuildError>,
    },
    /// A method's parameter is impossible.
    #[error("method-option: {0}")]
    Method(#[from] rigl::MethodError),
    /// A path that is not Unicode, which a configuration file cannot hold.
    #[error("the configuration cannot be written as TOML: {0}")]
    Encoding(#[from] toml::ser::Error),
}

crate::error::kinded!(Usage: ConfigError);
