//! The settings of a training run.
//!
//! [`TrainOptions`] is both the options of `rigl train` and the keys of its configuration file; what they resolve to
//! is [`TrainConfig`](crate::settings::TrainConfig).

use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::{Deserialize, Serialize};

use crate::data::{Augment, Normalize};
use crate::device::Device;
use crate::method::{Method, MethodOption};
use crate::models::{DensityOverride, Format, Init, LayerRule, ModelName, Stem};
use crate::training::{LrSchedule, OptimizerKind, UpdateSemantics};
use rigl::{Distribution, DropSchedule, FlopsConvention};

const NETWORK: &str = "Network and data";
const SPARSITY: &str = "Sparsity";
const UPDATES: &str = "Topology updates (methods with a schedule: set, snfs, dsr, gmp, rigl)";
const LENGTH: &str = "Length";
const OPTIMIZATION: &str = "Optimization";
const RUN: &str = "Run and output";

const TRAIN_EXAMPLES: &str = "\
Examples:
  rigl train
      LeNet-300-100 at density 0.1 with RigL on the embedded pictures; results in runs/
  rigl train --density 0.05 --seed 1 --epochs 40
      half the weights, another seed, twice as long
  rigl train --method dense
      the dense baseline
  rigl train --data mnist --data-dir ~/data --val-fraction 0.1
      MNIST from ~/data/mnist, a tenth of its training set held out
  rigl train --config experiment.toml --seed 2 --json > records.jsonl
      a file's settings with another seed, records for a machine
  rigl train --resume runs/lenet-300-100-rigl-d0.1-s0-1
      go on with a run that was stopped, by Ctrl-C or in any other way

A configuration file has the options' names as keys:
  model = \"784-300-100-10\"
  density = 0.05
  lr-milestones = [1000, 2000]
The run's folder holds the settings in effect (config.toml), which --config reads again.";

/// `rigl train`.
#[derive(Debug, Args)]
#[command(after_long_help = TRAIN_EXAMPLES)]
pub struct TrainArgs {
    /// Print time, bytes and launches of each kernel, mean of the steps, on standard error at the end. A GPU's kernels then run
    /// one after the other
    #[arg(long, help_heading = RUN)]
    pub profile: bool,
    /// Everything that may stand in the file too.
    #[command(flatten)]
    pub options: TrainOptions,
    /// TOML file with any of the other options, by their names; the command line wins over it
    #[arg(long, value_name = "FILE", help_heading = RUN)]
    pub config: Option<PathBuf>,
    /// Go on with the run in this folder, from its newest whole checkpoint, to the same result as if it had never
    /// stopped; only --threads, --loader-threads, --device, --data-dir, --checkpoint-every, --keep-checkpoints and
    /// --json may differ
    #[arg(long, value_name = "RUN", conflicts_with = "config", help_heading = RUN)]
    pub resume: Option<PathBuf>,
}

/// The settings of a training run, each given or not.
#[derive(Debug, Clone, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TrainOptions {
    /// The network: lenet-300-100, lenet-5, wrn-D-K (wrn-22-2), resnet-18, resnet-34, resnet-50, mobilenet-v1,
    /// mobilenet-v2, vgg-16, or a multi-layer perceptron by its sizes from input to classes, such as 784-300-100-10
    /// [default: lenet-300-100]
    #[arg(long, value_name = "NAME", help_heading = NETWORK)]
    pub model: Option<ModelName>,
    /// Factor on the numbers of channels of a convolutional network, rounded down [default: 1.0]
    #[arg(long, value_name = "FACTOR", help_heading = NETWORK)]
    pub width: Option<f64>,
    /// How a residual network begins: as on ImageNet or as on CIFAR; auto goes by the pictures' size [default: auto]
    #[arg(long, value_enum, help_heading = NETWORK)]
    pub stem: Option<Stem>,
    /// The data set: fashion-mnist-mini (embedded), fashion-mnist, mnist, cifar10, cifar100 or image-folder (read from
    /// --data-dir)
    /// [default: fashion-mnist-mini]
    #[arg(long, value_name = "NAME", help_heading = NETWORK)]
    pub data: Option<String>,
    /// Folder of data sets: DIR/NAME or DIR itself holds the set's files (IDX; of CIFAR the binary batches), plain, .gz
    /// or .xz; for image-folder, DIR holds train/CLASS/*.jpg and val/CLASS/*.jpg (or test; .jpeg and .png too)
    /// [default: the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR", help_heading = NETWORK)]
    pub data_dir: Option<PathBuf>,
    /// Share of the training samples held out and evaluated after each epoch, in [0, 1) [default: 0.0]
    #[arg(long, value_name = "SHARE", help_heading = NETWORK)]
    pub val_fraction: Option<f64>,
    /// Evaluate the test set after each epoch too, not only at the end of the run [default: false]
    #[arg(long, value_name = "true|false", hide_possible_values = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = NETWORK)]
    pub eval_test: Option<bool>,
    /// Over what the mean and deviation are taken that inputs are freed of [default: pixels; channels for pictures in
    /// colour]
    #[arg(long, value_enum, help_heading = NETWORK)]
    pub normalize: Option<Normalize>,
    /// How training pictures are changed at random, anew in each epoch [default: none; crop-flip for cifar10 and
    /// cifar100, random-resized-crop-flip for image-folder]
    #[arg(long, value_enum, help_heading = NETWORK)]
    pub augment: Option<Augment>,
    /// Height and width that the pictures of image-folder are resized to [default: 224]
    #[arg(long, value_name = "PIXELS", help_heading = NETWORK)]
    pub image_size: Option<usize>,

    /// How connections are chosen and changed [default: rigl]
    #[arg(long, value_name = "NAME", value_parser = method_parser(), help_heading = SPARSITY)]
    pub method: Option<Method>,
    /// A parameter of the method, such as ema=0.99 for snfs (docs/methods.md lists them); repeatable
    #[arg(long, value_name = "NAME=VALUE", action = clap::ArgAction::Append, help_heading = SPARSITY)]
    pub method_option: Option<Vec<MethodOption>>,
    /// Run folder or checkpoint of an earlier run: begin with its final pattern and the initial values that it drew
    /// (a lottery ticket, for the method lottery and all that are sparse from the start)
    #[arg(long, value_name = "RUN", help_heading = SPARSITY)]
    pub ticket: Option<PathBuf>,
    /// Share of the weights of all sparse layers that exist, in (0, 1] [default: 0.1]
    #[arg(long, value_name = "D", conflicts_with = "sparsity", help_heading = SPARSITY)]
    pub density: Option<f64>,
    /// The same said the other way round, 1 - density, in [0, 1)
    #[arg(long, value_name = "S", help_heading = SPARSITY)]
    pub sparsity: Option<f64>,
    /// How the density is spread over the layers [default: erk]
    #[arg(long, value_enum, help_heading = SPARSITY)]
    pub distribution: Option<Distribution>,
    /// Exponent of the erk proportions; 0 makes them uniform [default: 1.0]
    #[arg(long, value_name = "P", help_heading = SPARSITY)]
    pub erk_power: Option<f64>,
    /// Who decides the layers' densities [default: distribution]
    #[arg(long, value_enum, help_heading = SPARSITY)]
    pub layer_rule: Option<LayerRule>,
    /// Density of the layers whose names match, such as fc1=0.05 or fc*=0.2 (`*`: any characters); conv1=free gives a layer
    /// that the model keeps dense what the distribution would give it; repeatable, the last match counts
    #[arg(long, value_name = "PATTERN=DENSITY", action = clap::ArgAction::Append, help_heading = SPARSITY)]
    pub density_override: Option<Vec<DensityOverride>>,
    /// How sparse layers are stored: csr, or bsrRxC in blocks of R×C, each 1, 2, 4, 8 or 16 (bsr4x4, bsr8x1, ...), which
    /// compute faster and are dropped and grown whole; a layer has the nearest number of blocks to its density, at least
    /// one [default: csr]
    #[arg(long, value_name = "csr|bsrRxC", help_heading = SPARSITY)]
    pub format: Option<Format>,
    /// What the deviation of initial weights follows [default: dense-fan-in]
    #[arg(long, value_enum, help_heading = SPARSITY)]
    pub init: Option<Init>,
    /// Begin with the weights and connections of this model file or checkpoint, not with random ones
    #[arg(long, value_name = "FILE", help_heading = SPARSITY)]
    pub init_from: Option<PathBuf>,
    /// How operations are counted in the report [default: mac2]
    #[arg(long, value_enum, help_heading = SPARSITY)]
    pub flops_convention: Option<FlopsConvention>,

    /// Steps from one topology update to the next [default: 100]
    #[arg(long, value_name = "STEPS", help_heading = UPDATES)]
    pub update_interval: Option<u64>,
    /// Share of a layer's connections that the first update replaces, in [0, 1] [default: 0.3]
    #[arg(long, value_name = "SHARE", help_heading = UPDATES)]
    pub drop_fraction: Option<f64>,
    /// How that share falls until the updates end [default: cosine]
    #[arg(long, value_enum, help_heading = UPDATES)]
    pub drop_schedule: Option<DropSchedule>,
    /// Exponent of the drop schedule inverse-power [default: 3.0]
    #[arg(long, value_name = "K", help_heading = UPDATES)]
    pub drop_exponent: Option<f64>,
    /// First step with an update [default: the update interval]
    #[arg(long, value_name = "STEP", help_heading = UPDATES)]
    pub begin_step: Option<u64>,
    /// Step from which there are no more updates [default: three quarters of the run's steps]
    #[arg(long, value_name = "STEP", help_heading = UPDATES)]
    pub end_step: Option<u64>,
    /// What an update does to its training step [default: paper]
    #[arg(long, value_enum, help_heading = UPDATES)]
    pub update_semantics: Option<UpdateSemantics>,
    /// Batches over which an update of rigl adds up the gradient that it grows by: more than 1 for small batches, whose gradient
    /// is noisy; holds a dense gradient of the sparse layers meanwhile (plan tells how large) [default: 1]
    #[arg(long, value_name = "N", help_heading = UPDATES)]
    pub growth_batches: Option<u64>,

    /// Length of the run in passes over the training set [default: 20]
    #[arg(long, value_name = "N", conflicts_with = "steps", help_heading = LENGTH)]
    pub epochs: Option<u64>,
    /// Length of the run in training steps (batches)
    #[arg(long, value_name = "N", help_heading = LENGTH)]
    pub steps: Option<u64>,
    /// Samples in a batch; the last one of an epoch may have fewer [default: 100]
    #[arg(long, value_name = "SAMPLES", help_heading = LENGTH)]
    pub batch_size: Option<usize>,

    /// The rule that changes the weights [default: sgd]
    #[arg(long, value_enum, help_heading = OPTIMIZATION)]
    pub optimizer: Option<OptimizerKind>,
    /// Learning rate, above 0 [default: 0.1; adam and adamw 0.001]
    #[arg(long, value_name = "RATE", help_heading = OPTIMIZATION)]
    pub lr: Option<f64>,
    /// How the learning rate changes [default: cosine]
    #[arg(long, value_enum, help_heading = OPTIMIZATION)]
    pub lr_schedule: Option<LrSchedule>,
    /// Steps at which the schedule step multiplies the rate by --lr-gamma, such as 1000,2000
    #[arg(long, value_name = "STEP,...", value_delimiter = ',', help_heading = OPTIMIZATION)]
    pub lr_milestones: Option<Vec<u64>>,
    /// Factor of the schedule step, in (0, 1] [default: 0.1]
    #[arg(long, value_name = "FACTOR", help_heading = OPTIMIZATION)]
    pub lr_gamma: Option<f64>,
    /// Steps in which the rate first rises from 0 [default: 0]
    #[arg(long, value_name = "STEPS", help_heading = OPTIMIZATION)]
    pub warmup_steps: Option<u64>,
    /// Momentum of sgd, in [0, 1) [default: 0.9]
    #[arg(long, value_name = "M", help_heading = OPTIMIZATION)]
    pub momentum: Option<f64>,
    /// Whether the momentum of sgd is Nesterov's [default: true]
    #[arg(long, value_name = "true|false", hide_possible_values = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = OPTIMIZATION)]
    pub nesterov: Option<bool>,
    /// Pull of weights towards 0, at least 0 [default: 0.0001]
    #[arg(long, value_name = "DECAY", help_heading = OPTIMIZATION)]
    pub weight_decay: Option<f64>,
    /// Share of the training target spread over all classes, in [0, 1) [default: 0.0]
    #[arg(long, value_name = "SHARE", help_heading = OPTIMIZATION)]
    pub label_smoothing: Option<f64>,
    /// Share of hidden activations set to zero in training, in [0, 1) [default: 0.0]
    #[arg(long, value_name = "SHARE", help_heading = OPTIMIZATION)]
    pub dropout: Option<f64>,

    /// Seed of everything random; one seed gives one result on any number of threads [default: 0]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64), help_heading = RUN)]
    pub seed: Option<u64>,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", help_heading = RUN)]
    pub threads: Option<usize>,
    /// Threads that read and prepare batches, beside those [default: 2 for image-folder, 1 for other data]
    #[arg(long, value_name = "N", help_heading = RUN)]
    pub loader_threads: Option<usize>,
    /// Where to compute: cpu, gpu (the best one) or gpu:N, see `rigl devices` [default: cpu]
    #[arg(long, value_name = "DEVICE", help_heading = RUN)]
    pub device: Option<Device>,
    /// Steps from one checkpoint to the next [default: one after each epoch]
    #[arg(long, value_name = "STEPS", help_heading = RUN)]
    pub checkpoint_every: Option<u64>,
    /// How many of the newest checkpoints are kept, beside the one of the end [default: 2]
    #[arg(long, value_name = "N", help_heading = RUN)]
    pub keep_checkpoints: Option<usize>,
    /// Print one JSON object a line on standard output, and nothing else there [default: false]
    #[arg(long, value_name = "true|false", hide_possible_values = true, num_args = 0..=1, require_equals = true,
        default_missing_value = "true", help_heading = RUN)]
    pub json: Option<bool>,
    /// Folder for configuration, metrics and checkpoints [default: a new one in runs/]
    #[arg(long, value_name = "DIR", help_heading = RUN)]
    pub out: Option<PathBuf>,
}

/// Methods by name, with a line on each in the long help.
pub(crate) fn method_parser() -> impl TypedValueParser<Value = Method> {
    let values = rigl::methods().map(|info| PossibleValue::new(info.name).help(info.summary));
    PossibleValuesParser::new(values.collect::<Vec<_>>()).map(|name| Method::named(&name))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use crate::commands::Cli;
    use crate::settings::TrainConfig;

    /// Every default that the help states is the one in effect, and every option says what it means.
    #[test]
    fn the_help_states_the_defaults_in_effect() {
        let defaults = toml::Table::try_from(TrainConfig::default()).unwrap();
        let command = Cli::command();
        let train = command.find_subcommand("train").unwrap();
        let mut compared = 0;
        for argument in train.get_arguments() {
            let name = argument.get_long().unwrap();
            let help = argument.get_help().unwrap_or_else(|| panic!("--{name} has no help")).to_string();
            assert!(argument.get_help_heading().is_some(), "--{name} has no heading");
            let stated = help.rsplit_once("[default: ").map(|(_, rest)| rest.trim_end_matches(']'));
            let Some(default) = defaults.get(name) else { continue };
            let default = match default {
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(list) if list.is_empty() => continue,
                other => other.to_string(),
            };
            let stated = stated.unwrap_or_else(|| panic!("--{name}: the default {default} is not stated"));
            assert!(stated == default || stated.starts_with(&format!("{default};")), "--{name}: {stated} {default}");
            compared += 1;
        }
        assert!(compared >= 25, "{compared}");
    }

    /// Each key of the configuration is an option, and each option but those with another meaning a key.
    #[test]
    fn options_and_keys_have_the_same_names() {
        let command = Cli::command();
        let train = command.find_subcommand("train").unwrap();
        let options: Vec<_> = train.get_arguments().filter_map(|a| a.get_long()).collect();
        for key in toml::Table::try_from(TrainConfig::default()).unwrap().keys() {
            assert!(options.contains(&key.as_str()), "{key}");
        }
        for option in options.into_iter().filter(|option| !["config", "profile", "resume", "sparsity"].contains(option))
        {
            let error = toml::from_str::<TrainConfig>(&format!("{option} = {{ wrong = true }}")).unwrap_err();
            assert!(!error.to_string().contains("unknown field"), "{option}: {error}");
        }
    }
}
