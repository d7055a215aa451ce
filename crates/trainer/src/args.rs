//! The command line of `rigl`.
//!
//! [`TrainOptions`] is both the options of `rigl train` and the keys of its configuration file; what they resolve to
//! is [`TrainConfig`](crate::config::TrainConfig). The other commands take their values straight from the command
//! line.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use sparse_kernels::cpu::{Cpu, IsaName};
#[cfg(feature = "gpu")]
use sparse_kernels::gpu::{Gpu, GpuOptions};

use crate::config::{
    Augment, ConfigError, DensityOverride, Device, Distribution, DropSchedule, FlopsConvention, Format, Init,
    LayerRule, LrSchedule, MOST_WIDTH, Method, MethodOption, ModelName, Normalize, OptimizerKind, Stem,
    UpdateSemantics, available_threads, complement, parse_density,
};
use crate::device::OnDevice;
use crate::landscape::Curve;
use crate::models::{ModelSpec, Sparsification};

const NETWORK: &str = "Network and data";
const SPARSITY: &str = "Sparsity";
const UPDATES: &str = "Topology updates (methods with a schedule: set, snfs, dsr, gmp, rigl)";
const LENGTH: &str = "Length";
const OPTIMIZATION: &str = "Optimization";
const RUN: &str = "Run and output";
const COMPARISON: &str = "Comparison";

/// Trains sparse neural networks in time and memory that follow their density.
///
/// A weight that is not there is neither stored, nor multiplied, nor given a gradient. Density is the share of the
/// weights that exist: 0.1 keeps one weight in ten.
#[derive(Debug, Parser)]
#[command(name = "rigl", version, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train a network; without options, LeNet-300-100 at density 0.1 with RigL on embedded pictures.
    Train(Box<TrainArgs>),
    /// Train with several methods, densities and seeds, and report them side by side.
    Compare(Box<CompareArgs>),
    /// Make a report, for a browser, of runs that are there.
    Report(ReportArgs),
    /// Show each layer's shape, density, operations and bytes, and the totals against the dense network.
    Plan(PlanArgs),
    /// Time sparse code against dense code on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// List the processor and the GPUs that --device may name, with what they can do.
    Devices(DevicesArgs),
    /// Evaluate the model of a run, of a checkpoint, or one that was imported.
    Eval(EvalArgs),
    /// Remove the units of a perceptron that are connected to nothing, and show what is left.
    Compress(CompressArgs),
    /// Show the loss on paths between two trained networks: a line, and curves trained for a low loss.
    Landscape(LandscapeArgs),
    /// Write a model, or one of its matrices, for other programs.
    Export(ExportArgs),
    /// Make a model of other programs' files, pruned to a density if asked to.
    Import(ImportArgs),
    /// List, fetch and verify data sets.
    #[command(subcommand)]
    Data(DataCommand),
}

/// What `rigl data` does.
#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show the data sets there are, and where they were found.
    List(DataListArgs),
    /// Get a data set from where it is published, or from a local copy, and check it.
    Fetch(DataFetchArgs),
    /// Read a data set as a whole and compare its sums with those of the official files.
    Verify(DataVerifyArgs),
}

/// `rigl data list`.
#[derive(Debug, Args)]
pub struct DataListArgs {
    /// Folder of data sets [default: the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

const FETCH_EXAMPLES: &str = "\
Examples:
  rigl data fetch cifar10 --data-dir ~/data
      downloads CIFAR-10 to ~/data/cifar10, where --data cifar10 --data-dir ~/data finds it
  rigl data fetch mnist --from /mnt/mirror/mnist --to ~/data/mnist
      copies the files of a local mirror, published or unpacked, plain, .gz or .xz";

/// `rigl data fetch`.
#[derive(Debug, Args)]
#[command(after_long_help = FETCH_EXAMPLES)]
pub struct DataFetchArgs {
    /// The data set: fashion-mnist, mnist, cifar10 or cifar100
    pub name: String,
    /// Take it from this folder: the published files, or unpacked ones, plain, .gz or .xz
    #[arg(long, value_name = "DIR", conflicts_with = "url")]
    pub from: Option<PathBuf>,
    /// Take the published files from this address [default: that of the publisher]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// The folder for its files
    #[arg(long, value_name = "DIR", conflicts_with = "data_dir")]
    pub to: Option<PathBuf>,
    /// Folder of data sets; the files go to DIR/NAME [default: the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// `rigl data verify`.
#[derive(Debug, Args)]
pub struct DataVerifyArgs {
    /// The data set; of image-folder, every picture is read
    pub name: String,
    /// Folder of data sets [default: the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// What `rigl bench` times.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Time one operation at one shape over several densities.
    Kernel(BenchKernelArgs),
    /// Time a whole training step of a model over several densities.
    Step(BenchStepArgs),
}

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

const COMPARE_EXAMPLES: &str = "\
Examples:
  rigl compare
      dense, static, set and rigl at density 0.1, three seeds each, on the embedded pictures
  rigl compare --methods static,rigl,small-dense --densities 0.1,0.05,0.02 --seeds 5 --epochs 10
      the dense network as large as the sparse one takes part; five seeds from --seed (0) on
  rigl compare --methods set,rigl --data mnist --data-dir ~/data --update-interval 50 --seeds 0,5,7 --out runs/mnist
      these seeds; any option of rigl train is a setting of all runs
  rigl compare --config experiments/lenet-fashion-mnist.toml --seeds 1 --epochs 1
      an experiment from a file, with its published numbers; here cut short by the command line
  rigl compare --resume runs/mnist
      go on after Ctrl-C; the same command as before does the same

A file for --config:
  title = \"LeNet-300-100\"
  source = \"where the numbers are published\"       # with notes = \"...\": text for the report
  [settings]                                       # as for rigl train --config
  epochs = 10
  [compare]
  densities = [0.1, 0.02]
  seeds = 3                                        # or a list: [0, 5, 7]
  [[arm]]                                          # one for each line of the comparison
  name = \"rigl\"
  method = \"rigl\"
  [[arm]]
  name = \"rigl, often\"
  method = \"rigl\"
  update-interval = 50                             # any setting that differs from the common ones
  densities = [0.1]                                # else those of [compare]
  [[published]]                                    # stands beside ours in table and report
  arm = \"rigl\"
  density = 0.1
  accuracy = 0.89
  deviation = 0.003                                # optional, as source and note are

Folder of a comparison: comparison.toml (what is compared; --config makes it again), runs/ARM-dDENSITY-sSEED (one folder a
run, as of rigl train), report.html, accuracy-flops.svg, accuracy-seconds.svg, summary.json. A run that is there already with
the same settings is not made again, so that seeds, densities and methods can be added later.";

/// `rigl compare`.
#[derive(Debug, Args)]
#[command(
    after_long_help = COMPARE_EXAMPLES,
    mut_arg("method", |arg| arg.hide(true)),
    mut_arg("density", |arg| arg.hide(true)),
    mut_arg("sparsity", |arg| arg.hide(true)),
    mut_arg("seed", |arg| {
        arg.help("The first seed, where --seeds is a number of seeds; a seed gives all methods the same first weights, order of \
                  the data and, at one density, first connections [default: 0]")
    }),
    mut_arg("threads", |arg| arg.help("Threads of each run; runs follow one another [default: one for each core]")),
    mut_arg("out", |arg| {
        arg.help("Folder for the runs and the report [default: runs/compare-MODEL-DATA, of a file runs/NAME]; what it holds of \
                  the same comparison is gone on with")
    }),
)]
pub struct CompareArgs {
    /// Methods: those of rigl train; small-dense, the dense network that is as large as the sparse one; big-sparse, rigl on a
    /// network so wide that it is as large as the dense one (both in the paper's format, with a bit for each position of a
    /// sparse layer). Of a file, the arms of these names [default: dense,static,set,rigl; of a file all its arms]
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', help_heading = COMPARISON)]
    pub methods: Option<Vec<String>>,
    /// Densities, each in (0, 1]; the method dense runs once a seed at density 1 [default: 0.1]
    #[arg(long, value_name = "D,...", value_delimiter = ',', value_parser = parse_density, help_heading = COMPARISON)]
    pub densities: Option<Vec<f64>>,
    /// How many seeds, from --seed on; or a list of seeds, with a comma [default: 3]
    #[arg(long, value_name = "N|SEED,...", help_heading = COMPARISON)]
    pub seeds: Option<Seeds>,
    /// TOML file that describes the comparison; the command line wins over it
    #[arg(long, value_name = "FILE", help_heading = COMPARISON)]
    pub config: Option<PathBuf>,
    /// Go on with the comparison in this folder; only --threads, --loader-threads, --device, --data-dir, --checkpoint-every,
    /// --keep-checkpoints and --json may differ
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "methods", "densities", "seeds"],
        help_heading = COMPARISON)]
    pub resume: Option<PathBuf>,
    /// Settings of all runs.
    #[command(flatten)]
    pub options: TrainOptions,
}

/// Seeds of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Seeds {
    /// So many, from a first one on.
    Count(u64),
    /// These.
    List(Vec<u64>),
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = "it must be a number of seeds, such as 3, or seeds with commas, such as 0,5,7 (or 5, for one)";
        let number = |text: &str| text.parse::<u64>().ok().filter(|&seed| i64::try_from(seed).is_ok());
        let parsed = match text.strip_suffix(',').unwrap_or(text) {
            list if text.contains(',') => list.split(',').map(number).collect::<Option<_>>().map(Self::List),
            count => number(count).map(Self::Count),
        };
        parsed.ok_or_else(|| rule.to_owned())
    }
}

const REPORT_EXAMPLES: &str = "\
Examples:
  rigl report runs/compare-lenet-300-100-fashion-mnist-mini
      the report of a comparison again, of the runs that it has by now
  rigl report runs/lenet-300-100-* --out report --title 'First night'
      runs of rigl train, grouped by what their settings differ in, seeds averaged";

/// `rigl report`.
#[derive(Debug, Args)]
#[command(after_long_help = REPORT_EXAMPLES)]
pub struct ReportArgs {
    /// Folders of runs, or of comparisons
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Folder for report.html, accuracy-flops.svg, accuracy-seconds.svg and summary.json [default: of one comparison its own
    /// folder, else report]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The report's title [default: the comparison's, else the networks and data sets]
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// `rigl plan`.
#[derive(Debug, Args)]
#[command(mut_arg("density", |density| {
    density.help("Share of the weights of all sparse layers that exist, in (0, 1] [default: 0.1]")
}))]
pub struct PlanArgs {
    /// The network: lenet-300-100, lenet-5, wrn-D-K (wrn-22-2), resnet-18, resnet-34, resnet-50, mobilenet-v1,
    /// mobilenet-v2, vgg-16, or a multi-layer perceptron by its sizes, such as 784-300-100-10
    #[arg(long, value_name = "NAME", default_value = "lenet-300-100")]
    pub model: ModelName,
    /// Factor on the numbers of channels; or small-dense: the dense network of the size of the sparse one of this density; or
    /// big-sparse: the sparse one of the size of the dense one. Ratios are to the dense network of width 1
    #[arg(long, value_name = "FACTOR|small-dense|big-sparse", default_value = "1")]
    pub width: Width,
    /// Give each layer the density that it has at width 1, as the paper's notebook counts its wide networks, not what the
    /// distribution gives it at this width
    #[arg(long)]
    pub densities_of_width_1: bool,
    /// What the network reads, where its name leaves that open.
    #[command(flatten)]
    pub pictures: PictureArgs,
    /// How connections are chosen and changed; decides the operations of training
    #[arg(long, value_name = "NAME", value_parser = method_parser(), default_value = "rigl")]
    pub method: Method,
    /// A parameter of the method, such as ema=0.99 for snfs; repeatable
    #[arg(long, value_name = "NAME=VALUE")]
    pub method_option: Vec<MethodOption>,
    /// How dense the layers are.
    #[command(flatten)]
    pub density: DensityArgs,
    /// How it is spread.
    #[command(flatten)]
    pub spread: SpreadArgs,
    /// How sparse layers are stored: csr, or bsrRxC in blocks of R×C, each 1, 2, 4, 8 or 16 (bsr4x4, bsr8x1, ...)
    #[arg(long, value_name = "csr|bsrRxC", default_value = "csr")]
    pub format: Format,
    /// Steps from one topology update to the next; decides the operations of training
    #[arg(long, value_name = "STEPS", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub update_interval: u64,
    /// Steps of the training; decide, with the window of updates, the operations of a method whose density falls
    #[arg(long, value_name = "STEPS", default_value_t = 32_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// First step at which the topology may change [default: the update interval]
    #[arg(long, value_name = "STEP")]
    pub begin_step: Option<u64>,
    /// Step from which on it stays [default: three quarters of the steps]
    #[arg(long, value_name = "STEP")]
    pub end_step: Option<u64>,
    /// Batches over which an update of rigl adds up the gradient that it grows by; decides operations and bytes of training
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub growth_batches: u64,
    /// Factor on the number of training steps, as in the paper's "5x" rows; decides the operations of training
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = parse_positive)]
    pub train_length: f64,
    /// Samples in a batch; decides the bytes of training
    #[arg(long, value_name = "SAMPLES", default_value_t = 100, value_parser = parse_count)]
    pub batch_size: usize,
    /// How operations are counted
    #[arg(long, value_enum, default_value_t = FlopsConvention::Mac2)]
    pub flops_convention: FlopsConvention,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

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

/// A factor on a network's channels, or what it is chosen for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Width {
    /// The factor.
    Factor(f64),
    /// See [`crate::models::width::small_dense`].
    SmallDense,
    /// See [`crate::models::width::big_sparse`].
    BigSparse,
}

impl FromStr for Width {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "small-dense" => Ok(Self::SmallDense),
            "big-sparse" => Ok(Self::BigSparse),
            _ => match text.parse() {
                Ok(factor) if factor > 0.0 && factor <= MOST_WIDTH => Ok(Self::Factor(factor)),
                _ => Err("it must be a factor above 0 and at most 16, small-dense or big-sparse".to_owned()),
            },
        }
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

/// Methods by name, with a line on each in the long help.
fn method_parser() -> impl TypedValueParser<Value = Method> {
    let values = rigl::methods().map(|info| PossibleValue::new(info.name).help(info.summary));
    PossibleValuesParser::new(values.collect::<Vec<_>>()).map(|name| Method::named(&name))
}

/// How a density is spread over layers.
#[derive(Debug, Args)]
pub struct SpreadArgs {
    /// How the density is spread over the layers
    #[arg(long, value_enum, default_value_t = Distribution::Erk)]
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

impl DensityArgs {
    /// nnz / size over all sparse layers, if it was given.
    pub fn given(&self) -> Option<f64> {
        self.density.or(self.sparsity.map(complement))
    }
}

const EVAL_EXAMPLES: &str = "\
Examples:
  rigl eval runs/lenet-300-100-rigl-d0.1-s0-1
      the run's newest good checkpoint, on the test set of the data it was trained on
  rigl eval model.safetensors --data mnist --data-dir ~/data --json
      an imported model on MNIST, as a record for a machine";

/// Options of `rigl compress`.
#[derive(Debug, Args)]
pub struct CompressArgs {
    /// A run's folder, a checkpoint, or an imported model: a multi-layer perceptron
    pub model: PathBuf,
    /// Write the smaller network to this file, a model that all commands read
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// `rigl eval`.
#[derive(Debug, Args)]
#[command(after_long_help = EVAL_EXAMPLES)]
pub struct EvalArgs {
    /// A run's folder, a checkpoint, or an imported model
    pub model: PathBuf,
    /// The data set [default: the one that the model was trained on, else fashion-mnist-mini]
    #[arg(long, value_name = "NAME")]
    pub data: Option<String>,
    /// Folder of data sets [default: the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The samples: those for testing, or the whole training set
    #[arg(long, value_enum, default_value_t = EvalSplit::Test)]
    pub split: EvalSplit,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// Where to compute: cpu, gpu (the best one) or gpu:N, see `rigl devices`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// `rigl devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// Samples to evaluate on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EvalSplit {
    /// The test set.
    Test,
    /// The training set, held-out samples included.
    Train,
}

const LANDSCAPE_DETAILS: &str = "\
Curves are Bézier curves with one control point (quadratic) or two (cubic), which begin on the straight line and are
trained for a low mean loss along the curve: each step takes a minibatch and a random place on the curve; SGD with
momentum 0.9, a learning rate that falls along half a cosine, weight decay. Both ends stay as they are. In the
sparse space every point has weights only where A or B has one, and costs what a network of so many weights costs; in
the full space, everywhere. The straight line lies in the sparse space. Biases, and scale and shift of batch
normalisations, are part of a point; running moments are not, they are estimated for each point by a pass over the
training set, of A and B too, whose losses then are not quite those of rigl eval. A layer that is dense in A or B is
dense in the sparse space.

The barrier of a path is the highest loss for t in [0, 1], less the higher loss of both ends.

Examples:
  rigl landscape runs/static runs/pruned --out landscape
      all paths, with landscape.svg and landscape.jsonl in the folder landscape
  rigl landscape a.safetensors b.safetensors --curves linear
      the straight line, from -0.2 to 1.2: no training
  rigl landscape runs/static runs/pruned --space sparse --curves quadratic --steps 20000
      one curve, trained for longer";

/// `rigl landscape`.
#[derive(Debug, Args)]
#[command(after_long_help = LANDSCAPE_DETAILS)]
pub struct LandscapeArgs {
    /// The end at t = 0: a run's folder (its newest good checkpoint) or a checkpoint
    pub a: PathBuf,
    /// The end at t = 1, of the same architecture and trained on the same data; its pattern may be another
    pub b: PathBuf,
    /// Where curves may go: sparse (weights that A or B has), full (all weights), or one curve in each [default: both]
    #[arg(long, value_enum)]
    pub space: Option<SpaceChoice>,
    /// The paths: linear, quadratic, cubic
    #[arg(long, value_enum, value_name = "CURVE,...", value_delimiter = ',', default_value = "linear,quadratic,cubic")]
    pub curves: Vec<Curve>,
    /// Places at which a path is evaluated, at equal distances: over [0, 1], of the straight line over [-0.2, 1.2]; 0 and 1
    /// are always among them
    #[arg(long, value_name = "N", default_value_t = 29, value_parser = parse_places)]
    pub points: usize,
    /// The samples that points are evaluated on: the whole training set, or those for testing. Curves are trained on the
    /// training set
    #[arg(long, value_enum, default_value_t = EvalSplit::Train)]
    pub split: EvalSplit,
    /// Training steps (batches) of each curve [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Samples in a batch of this training, and in a batch that gives batch normalisations their moments [default: 100]
    #[arg(long, value_name = "SAMPLES", value_parser = parse_count)]
    pub batch_size: Option<usize>,
    /// Learning rate of the first step; it falls to 0 [default: 0.1]
    #[arg(long, value_name = "RATE", value_parser = parse_positive)]
    pub lr: Option<f64>,
    /// Pull of weights towards 0 in this training, at least 0; losses are reported without it [default: 0.0001]
    #[arg(long, value_name = "DECAY", value_parser = parse_not_negative)]
    pub weight_decay: Option<f64>,
    /// Seed of batches and places; one seed gives one result on any number of threads
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: u64,
    /// Folder of data sets [default: the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// A new folder for a picture (landscape.svg) and the records of --json (landscape.jsonl) [default: no files]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// Where curves between two networks may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SpaceChoice {
    /// Where either network has weights.
    Sparse,
    /// Everywhere.
    Full,
    /// One curve in each.
    Both,
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  rigl export runs/1 --out model.safetensors
      the run's model with PyTorch's names: fc1.weight.crow_indices, .col_indices, .values, fc1.bias
  rigl export runs/1 --out state_dict.safetensors --dense
      the same with whole matrices, zeros included: what a dense PyTorch module loads
  rigl export runs/1 --layer fc1 --out fc1.npz
      one matrix for scipy.sparse.load_npz; .mtx, .smtx (pattern only) and .npy (dense) likewise
  rigl export runs/1 --out matrices --format mtx
      every layer's weight and bias, as files in a folder";

/// `rigl export`.
#[derive(Debug, Args)]
#[command(after_long_help = EXPORT_EXAMPLES)]
pub struct ExportArgs {
    /// A run's folder (its newest good checkpoint), a checkpoint, or an imported model
    pub model: PathBuf,
    /// The file to write; for a whole model as matrix files, the folder
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// The files' format [default: by the extension of --out]
    #[arg(long, value_enum)]
    pub format: Option<ExchangeFormat>,
    /// Write this layer's weight matrix only
    #[arg(long, value_name = "NAME")]
    pub layer: Option<String>,
    /// Write whole matrices, zeros included (safetensors, mtx; npy always is)
    #[arg(long)]
    pub dense: bool,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// Formats of other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExchangeFormat {
    /// Named tensors, with PyTorch's names.
    Safetensors,
    /// SciPy's sparse matrices.
    Npz,
    /// Matrix Market.
    Mtx,
    /// Patterns of the Deep Learning Matrix Collection.
    Smtx,
    /// NumPy's arrays, dense.
    Npy,
}

const IMPORT_EXAMPLES: &str = "\
Examples:
  rigl import state_dict.safetensors --density 0.1 --out model.safetensors
      a dense PyTorch model, the smallest weights of each layer pruned; then
      rigl train --init-from model.safetensors   trains it on, rigl eval model.safetensors evaluates it
  rigl import fc1.npz fc2.npz fc3.npz --out model.safetensors
      a multi-layer perceptron of matrices [outputs, inputs], in this order, with biases of 0
  rigl import matrices --out model.safetensors
      a folder that rigl export has written, with biases";

/// `rigl import`.
#[derive(Debug, Args)]
#[command(after_long_help = IMPORT_EXAMPLES, mut_arg("density", |density| {
    density.help("Prune each layer's smallest weights, down to this density of the whole, in (0, 1] [default: no pruning]")
}))]
pub struct ImportArgs {
    /// One .safetensors file, one folder of matrix files, or matrix files (.npz, .mtx, .smtx, .npy) from input to output
    #[arg(required = true, value_name = "SOURCE")]
    pub sources: Vec<PathBuf>,
    /// The model file to write
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// What to prune to.
    #[command(flatten)]
    pub density: DensityArgs,
    /// How it is spread.
    #[command(flatten)]
    pub spread: SpreadArgs,
    /// Seed of the values of patterns without values (.smtx), which are drawn as a new network's are
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// `rigl bench kernel`.
#[derive(Debug, Args)]
pub struct BenchKernelArgs {
    /// The operation
    #[arg(long, value_enum, default_value_t = KernelOp::Spmm)]
    pub op: KernelOp,
    /// Rows × columns × lanes: the weight matrix is M×K, the other operand has N lanes (samples). Products with N up to 8 run
    /// row-major, as an inference does, with weights that do not change: the dense side is then the faster of a
    /// matrix-vector kernel (gemv) and gemm, and limit_fraction is the rate at which entries are read, 8 bytes each, over
    /// that of a sum over an array of that size. Of a convolution: output channels × input channels × rows and columns of
    /// the filter (K) × height × width × samples, with K/2 zeros around the image; grow takes either [default of convolutions:
    /// 64x64x3x32x32x32]
    #[arg(long, value_name = "MxKxN|OCxICxKxHxWxN", default_value = "512x512x128", default_value_ifs = [
        ("op", "conv_forward", "64x64x3x32x32x32"),
        ("op", "conv_input_grad", "64x64x3x32x32x32"),
        ("op", "conv_weight_grad", "64x64x3x32x32x32"),
    ])]
    pub shape: KernelShape,
    /// Of a convolution: pixels of its input from one pixel of its output to the next [default: 1]
    #[arg(long, value_name = "S", value_parser = parse_count)]
    pub stride: Option<usize>,
    /// Of a convolution: groups of channels, a divisor of OC and IC [default: 1]
    #[arg(long, value_name = "G", value_parser = parse_count)]
    pub groups: Option<usize>,
    /// Densities of the weight matrix, each in (0, 1]
    #[arg(long, value_name = "D,...", value_delimiter = ',', default_value = "0.2,0.1,0.05", value_parser = parse_density)]
    pub density: Vec<f64>,
    /// How the sparse matrix is stored: csr, or bsrRxC in blocks of R×C, each 1, 2, 4, 8 or 16 (bsr4x4, bsr8x1, ...);
    /// then --density and --pattern are those of the blocks. For convolutions also dense: times the dense pass itself, once,
    /// and --density and --pattern do not count
    #[arg(long, value_name = "csr|bsrRxC|dense", default_value = "csr")]
    pub format: KernelFormat,
    /// Where the stored entries are: uniform, power-law (few long rows), banded (near the diagonal), or those of the
    /// matrix in a file (FILE.smtx, FILE.mtx or FILE.npz), which then decides rows, columns and density. A convolution's
    /// matrix has OC rows, and columns (channel, filter row, filter column); in blocks (filter row, filter column, channel)
    #[arg(long, value_name = "PATTERN", default_value = "uniform")]
    pub pattern: PatternSource,
    /// Times of other dense code (PyTorch's): the fastest of the same operation, shape and threads counts as the dense side
    /// where it beats ours. A line is `{"op":"dense_forward","shape":[M,K,N],"threads":T,"time_ns":NS}`, and may have
    /// "stride" and "groups"; op may also be dense_input_grad, dense_weight_grad, dense_conv_forward,
    /// dense_conv_input_grad, dense_conv_weight_grad, or one of these with an ending such as _nchw
    #[arg(long, value_name = "FILE.jsonl")]
    pub dense_reference: Option<PathBuf>,
    /// Type of the stored activations; f16 and bf16 on a GPU, for spmm, spmm_t and sddmm in csr, against dense code in f32
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// What every measurement takes.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// `rigl bench step`.
#[derive(Debug, Args)]
pub struct BenchStepArgs {
    /// The network: lenet-300-100, or a multi-layer perceptron by its sizes, such as 784-300-100-10
    #[arg(long, value_name = "NAME", default_value = "lenet-300-100")]
    pub model: ModelName,
    /// What the network reads, where its name leaves that open.
    #[command(flatten)]
    pub pictures: PictureArgs,
    /// Samples in a batch
    #[arg(long, value_name = "SAMPLES", default_value_t = 100, value_parser = parse_count)]
    pub batch_size: usize,
    /// Densities of the network, each in (0, 1]
    #[arg(long, value_name = "D,...", value_delimiter = ',', default_value = "0.2,0.1,0.05", value_parser = parse_density)]
    pub density: Vec<f64>,
    /// How the density is spread over the layers
    #[arg(long, value_enum, default_value_t = Distribution::Erk)]
    pub distribution: Distribution,
    /// How sparse layers are stored: csr, or bsrRxC in blocks of R×C, each 1, 2, 4, 8 or 16 (bsr4x4, bsr8x1, ...)
    #[arg(long, value_name = "csr|bsrRxC", default_value = "csr")]
    pub format: Format,
    /// Measure in this process and print the raw numbers: how the command calls itself, once for each density
    #[arg(long, hide = true)]
    pub worker: bool,
    /// What every measurement takes.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// Options of every measurement.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// Threads, sparse and dense alike [default: one for each core]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// Instruction set of the sparse code; auto is the best that this processor has. The dense side always takes the best:
    /// to compare at AVX2, build with --no-default-features. On a GPU portable keeps to what every device has: no
    /// operations between the invocations of a subgroup
    #[arg(long, value_enum, default_value_t = IsaChoice::Auto)]
    pub isa: IsaChoice,
    /// Where to compute: cpu, gpu (the best one) or gpu:N, see `rigl devices`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// Print time, bytes and launches of each kernel, measured one by one, on standard error
    #[arg(long)]
    pub profile: bool,
    /// Seed of patterns and values
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print one JSON object a line on standard output, and nothing else there
    #[arg(long)]
    pub json: bool,
}

/// Names of choices as they stand in records, from those of the command line.
macro_rules! display_as_value {
    ($($name:ident),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let value = self.to_possible_value().expect("no value is hidden");
                f.pad(value.get_name())
            }
        }
    )+};
}
display_as_value!(KernelOp, Dtype, IsaChoice);

/// An operation that `rigl bench kernel` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum KernelOp {
    /// Y = W · X, the forward pass.
    Spmm,
    /// dX = Wᵀ · dY, the gradient of the input.
    SpmmT,
    /// dW = dY · Xᵀ at the stored entries, the gradient of the weights.
    Sddmm,
    /// The largest entries (with bsrRxC: blocks) of dY · Xᵀ among those that are not stored: a growth step of RigL.
    Grow,
    /// Y = conv(X, W), the forward pass of a convolution.
    ConvForward,
    /// The gradient of X for that of Y: the transposed convolution.
    ConvInputGrad,
    /// The gradient of a convolution's weights, at the stored entries.
    ConvWeightGrad,
}

/// How the matrix of `rigl bench kernel` is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFormat {
    /// Some of its entries.
    Sparse(Format),
    /// All of them, without a pattern.
    Dense,
}

impl FromStr for KernelFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "dense" {
            return Ok(Self::Dense);
        }
        text.parse().map(Self::Sparse).map_err(|rule: String| format!("{rule}; or dense, for convolutions"))
    }
}

impl fmt::Display for KernelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sparse(format) => format.fmt(f),
            Self::Dense => f.pad("dense"),
        }
    }
}

/// Type of the stored activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, 11 of them precision.
    F16,
    /// 16 bits, 8 of them precision, and the range of f32.
    Bf16,
}

impl MachineArgs {
    /// The CPU that the options ask for.
    ///
    /// # Errors
    /// If this machine lacks the instruction set, or refuses the threads.
    pub fn cpu(&self) -> anyhow::Result<Cpu> {
        let isa = match self.isa {
            IsaChoice::Auto => None,
            IsaChoice::Portable => return Err(self.refuse_isa("auto, scalar, neon, avx2 or avx512 on the processor")),
            IsaChoice::Scalar => Some(IsaName::Scalar),
            IsaChoice::Neon => Some(IsaName::Neon),
            IsaChoice::Avx2 => Some(IsaName::Avx2),
            IsaChoice::Avx512 => Some(IsaName::Avx512),
        };
        Ok(Cpu::new(self.threads.unwrap_or_else(available_threads), isa)?)
    }

    /// The GPU that the options ask for.
    ///
    /// # Errors
    /// If it cannot be had, or an option is for the processor.
    #[cfg(feature = "gpu")]
    pub fn gpu(&self, index: Option<usize>) -> anyhow::Result<Gpu> {
        let portable = match self.isa {
            IsaChoice::Auto => false,
            IsaChoice::Portable => true,
            _ => return Err(self.refuse_isa("auto or portable with --device gpu")),
        };
        if let Some(threads) = self.threads {
            let (option, rule) = ("threads", "left out with --device gpu: both sides run there");
            return Err(ConfigError::Value { option, value: threads.to_string(), rule }.into());
        }
        Ok(Gpu::with_options(GpuOptions { index, portable, ..GpuOptions::default() })?)
    }

    fn refuse_isa(&self, rule: &'static str) -> anyhow::Error {
        ConfigError::Value { option: "isa", value: self.isa.to_string(), rule }.into()
    }

    /// Does the work on the device that the options ask for.
    ///
    /// # Errors
    /// If the device cannot be had, and those of the work.
    pub fn on_device<W: OnDevice>(&self, work: W) -> anyhow::Result<W::Output> {
        match self.device {
            Device::Cpu => work.run(&self.cpu()?),
            #[cfg(feature = "gpu")]
            Device::Gpu(index) => work.run(&self.gpu(index)?),
        }
    }
}

/// An instruction set, or what its place is on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IsaChoice {
    /// The best that the processor has.
    Auto,
    /// Plain Rust.
    Scalar,
    /// NEON, of aarch64.
    Neon,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512F.
    Avx512,
    /// On a GPU, what every device has.
    Portable,
}

/// The shape of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelShape {
    /// Of a product.
    Linear(Shape),
    /// Of a convolution.
    Conv(ConvSizes),
}

/// Rows, columns and lanes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the weight matrix.
    pub m: usize,
    /// Columns of the weight matrix.
    pub k: usize,
    /// Lanes of the other operand.
    pub n: usize,
}

/// Sizes of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvSizes {
    /// Channels of Y.
    pub out_channels: usize,
    /// Channels of X.
    pub in_channels: usize,
    /// Rows, and columns, of the filter.
    pub kernel: usize,
    /// Height and width of X.
    pub size: [usize; 2],
    /// Images.
    pub samples: usize,
}

impl FromStr for KernelShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = |text: &str| text.parse::<u32>().ok().filter(|&size| size > 0).map(|size| size as usize);
        match text.split('x').map(size).collect::<Option<Vec<_>>>().as_deref() {
            Some(&[m, k, n]) => Ok(Self::Linear(Shape { m, k, n })),
            Some(&[out_channels, in_channels, kernel, height, width, samples]) => {
                Ok(Self::Conv(ConvSizes { out_channels, in_channels, kernel, size: [height, width], samples }))
            }
            _ => Err("it must be MxKxN, such as 512x512x128, or of a convolution OCxICxKxHxWxN, such as \
                      64x64x3x32x32x32, with numbers of at least 1"
                .to_owned()),
        }
    }
}

impl fmt::Display for KernelShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear(Shape { m, k, n }) => write!(f, "{m}x{k}x{n}"),
            Self::Conv(ConvSizes { out_channels, in_channels, kernel, size: [height, width], samples }) => {
                write!(f, "{out_channels}x{in_channels}x{kernel}x{height}x{width}x{samples}")
            }
        }
    }
}

impl fmt::Display for PatternSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::PowerLaw => f.write_str("power-law"),
            Self::Banded => f.write_str("banded"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Where the entries of a benchmark's matrix are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternSource {
    /// Anywhere, with equal chance.
    Uniform,
    /// In few long rows and many short ones.
    PowerLaw,
    /// Near the diagonal.
    Banded,
    /// As in a matrix file.
    File(PathBuf),
}

impl FromStr for PatternSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "uniform" => Ok(Self::Uniform),
            "power-law" => Ok(Self::PowerLaw),
            "banded" => Ok(Self::Banded),
            _ if [".smtx", ".mtx", ".npz"].iter().any(|end| text.ends_with(end)) => Ok(Self::File(text.into())),
            _ => Err("it must be uniform, power-law, banded or a path that ends in .smtx, .mtx or .npz".to_owned()),
        }
    }
}

fn parse_positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|&number| number > 0.0 && number.is_finite());
    number.ok_or_else(|| "it must be a finite number above 0".to_owned())
}

fn parse_sparsity(text: &str) -> Result<f64, String> {
    let sparsity = text.parse::<f64>().ok().filter(|sparsity| (0.0..1.0).contains(sparsity));
    sparsity.ok_or_else(|| "a sparsity must be at least 0 and below 1 (it is 1 - density)".to_owned())
}

fn parse_not_negative(text: &str) -> Result<f64, String> {
    let power = text.parse::<f64>().ok().filter(|&power| power >= 0.0 && power.is_finite());
    power.ok_or_else(|| "it must be a finite number of at least 0".to_owned())
}

fn parse_places(text: &str) -> Result<usize, String> {
    let places = text.parse().ok().filter(|&places| places >= 3);
    places.ok_or_else(|| "it must be a whole number of at least 3: both ends and a place between them".to_owned())
}

fn parse_count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|&count| count > 0).ok_or_else(|| "it must be a whole number of at least 1".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TrainConfig;
    use crate::landscape::{BATCH_SIZE, PathTraining};
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, String> {
        let parsed = Cli::try_parse_from(std::iter::once("rigl").chain(line.split_whitespace()));
        parsed.map(|cli| cli.command).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn definitions_are_sound() {
        Cli::command().debug_assert();
    }

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

    #[test]
    fn the_help_of_landscape_states_its_defaults() {
        let command = Cli::command();
        let landscape = command.find_subcommand("landscape").unwrap();
        let PathTraining { steps, learning_rate, weight_decay } = PathTraining::default();
        for (name, default) in [
            ("steps", steps.to_string()),
            ("lr", learning_rate.to_string()),
            ("weight-decay", weight_decay.to_string()),
            ("batch-size", BATCH_SIZE.to_string()),
        ] {
            let argument = landscape.get_arguments().find(|argument| argument.get_long() == Some(name)).unwrap();
            let help = argument.get_help().unwrap().to_string();
            assert!(help.ends_with(&format!("[default: {default}]")), "--{name}: {help}");
        }
    }

    #[test]
    fn usage_errors_list_what_is_valid() {
        for (line, parts) in [
            ("train --optimizer lion", ["--optimizer", "sgd, adam, adamw"].as_slice()),
            ("train --device gpu:x", &["--device", "cpu"]),
            ("train --model resnet-51", &["--model", "784-300-100-10", "resnet-50"]),
            ("train --model wrn-21-2", &["--model", "D = 6 n + 4"]),
            ("train --seed -1", &["-1"]),
            ("train --densty 0.1", &["--densty", "--density"]),
            ("train --density-override fc1", &["PATTERN=DENSITY"]),
            ("plan --density 2", &["--density", "at most 1"]),
            ("plan --update-interval 0", &["--update-interval"]),
            (
                "bench kernel --op conv",
                &["--op", "spmm, spmm_t, sddmm, grow, conv_forward, conv_input_grad, conv_weight_grad"],
            ),
            ("bench kernel --op conv_forward --stride 0", &["--stride", "at least 1"]),
            ("bench kernel --isa sse9", &["--isa", "auto, scalar, neon, avx2, avx512, portable"]),
            ("bench kernel --format bsr3x4", &["--format", "csr", "bsr4x4", "16", "dense"]),
            ("train --format bsr3x3", &["--format", "bsr3x3", "csr", "1, 2, 4, 8 or 16"]),
            ("plan --format bsr", &["--format", "bsr4x4"]),
            ("bench step --format 8x8", &["--format", "bsr4x4"]),
            ("bench kernel --dtype f8", &["--dtype", "f32, f16, bf16"]),
            ("bench kernel --shape 3x4", &["--shape", "MxKxN", "OCxICxKxHxWxN"]),
            ("bench kernel --op conv_forward --shape 3x4x3x0x8x1", &["--shape", "at least 1"]),
            ("bench kernel --pattern diagonal", &["--pattern", "banded", ".smtx"]),
            ("bench step --density 0.1,0", &["--density", "above 0"]),
            ("bench step --batch-size 0", &["--batch-size", "at least 1"]),
            ("landscape a", &["<B>"]),
            ("landscape a b --curves quartic", &["--curves", "linear, quadratic, cubic"]),
            ("landscape a b --points 2", &["--points", "at least 3"]),
            ("landscape a b --space dense", &["--space", "sparse, full, both"]),
            ("landscape a b --lr 0", &["--lr", "above 0"]),
            ("landscape a b --steps 0", &["--steps", "1.."]),
        ] {
            let message = parse(line).unwrap_err();
            assert!(parts.iter().all(|part| message.contains(part)), "{line}: {message}");
        }
    }

    #[test]
    fn benches_and_plans_have_their_defaults() {
        let Command::Bench(BenchCommand::Kernel(kernel)) = parse("bench kernel --op spmm_t --pattern a.smtx").unwrap()
        else {
            panic!("another command")
        };
        assert_eq!((kernel.op, kernel.shape), (KernelOp::SpmmT, KernelShape::Linear(Shape { m: 512, k: 512, n: 128 })));
        assert_eq!((kernel.op.to_string(), kernel.shape.to_string()), ("spmm_t".to_owned(), "512x512x128".to_owned()));
        assert_eq!(kernel.format, KernelFormat::Sparse(Format::Csr));
        let Command::Bench(BenchCommand::Kernel(conv)) =
            parse("bench kernel --op conv_input_grad --format dense").unwrap()
        else {
            panic!("another command")
        };
        assert_eq!(
            (conv.shape.to_string(), conv.format.to_string()),
            ("64x64x3x32x32x32".to_owned(), "dense".to_owned())
        );
        for text in ["csr", "bsr4x4", "bsr16x1", "bsr1x8"] {
            assert_eq!(text.parse::<Format>().unwrap().to_string(), text);
        }
        assert!(["bsr", "bsr04x4", "bsr4", "bsr4x4x4", "csr4x4"].iter().all(|text| text.parse::<Format>().is_err()));
        assert_eq!((kernel.density, kernel.pattern), (vec![0.2, 0.1, 0.05], PatternSource::File("a.smtx".into())));
        let plan = |line: &str| match parse(line).unwrap() {
            Command::Plan(plan) => plan.density.given(),
            other => panic!("{other:?}"),
        };
        assert_eq!((plan("plan"), plan("plan --sparsity 0.8")), (None, Some(0.2)));
    }
}
