//! Every setting of a training run: its option and key in files, its help, its default and its rules.
//!
//! A new setting is an entry here, and the code that it is for; see `docs/adding-a-setting.md`.

use std::path::PathBuf;

use clap::ArgAction::Append;
use rigl::{Distribution, DropSchedule, FlopsConvention, WeightStorage};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::error::ConfigError;
use super::macros::{in_effect, or_default, settings};
use crate::data::image_folder::{DEFAULT_IMAGE_SIZE, DEFAULT_TEST_FRACTION};
use crate::data::svmlight::SVMLIGHT;
use crate::data::table::{Missing, TABLE};
use crate::data::text::{TEXT, TextSymbols, is_text};
use crate::data::{self, Augment, IMAGE_FOLDER, Normalize};
use crate::device::Device;
use crate::method::{Method, MethodOption, method_parser};
use crate::models::{
    DENSITY_RULE, DensityOverride, EMBEDDING, Format, Init, LayerRule, MOST_WIDTH, ModelName, Positions, READOUT,
    SequenceNorm, Stem, is_density,
};
use crate::task::LossKind;
use crate::tensorboard::Log;
use crate::training::{BestBy, LrSchedule, NewcomerMoments, OptimizerKind, Precision, Reduction, UpdateSemantics};

const NETWORK: &str = "Network and data";
const TASK: &str = "Tables and tasks";
const SEQUENCES: &str = "Text models";
const TEXTS: &str = "Text";
const SPARSITY: &str = "Sparsity";
const LENGTH: &str = "Length";
const OPTIMIZATION: &str = "Optimization";
/// The heading of what concerns the run as a whole.
pub(crate) const RUN: &str = "Run and output";

settings! {
    /// The network.
    ModelArgs in NETWORK => {
        /// The network, such as lenet-300-100, wrn-22-2, resnet-50 or mobilenet-v1 (docs/networks.md lists them all), or a
        /// multi-layer perceptron given by its hidden layers, such as mlp-300-100, or by all layer sizes, such as 784-300-100-10;
        /// or lists-512, which reads lists of features (docs/lists.md); or a file that defines one, such as net.toml (docs/own-networks.md)
        model: ModelName = ModelName::Lenet300x100,
            arg(value_name = "NAME|FILE.toml", value_parser = ModelName::of_setting),
            read(default, deserialize_with = "model_setting"), stated "mlp-300-100 for tables, lists-512 for svmlight, gru-512 for texts";
        /// First layers of a residual network: those for ImageNet or for CIFAR; auto chooses by image size
        stem: Stem = Stem::Auto, needs |s| unless(s.model.family().is_some_and(|f| f.has_stem), "a model resnet-18, -34 or -50");
    }
    /// The network's width.
    WidthArgs in NETWORK => {
        /// Multiplier for the channel counts of a convolutional network, or the features of a text model, rounded down
        width: f64 = 1.0, arg(value_name = "FACTOR"),
            must |s| unless(s.width > 0.0 && s.width <= MOST_WIDTH, "above 0 and at most 16"),
            needs |s| unless(
                s.model.family().is_some() || s.model.sequence().is_some() || s.model.reads_lists(),
                "a convolutional network by name, a text model or a model lists-H",
            );
    }
    /// The data.
    DataArgs in NETWORK => {
        /// The data set: fashion-mnist-mini (built in); fashion-mnist, mnist, cifar10, cifar100, emnist-balanced (-letters,
        /// -digits, -byclass, -bymerge) or image-folder from --data-dir; table from --table; svmlight from --svmlight; text from --text, or tiny-shakespeare (built in)
        data: String = data::EMBEDDED.to_owned(), arg(value_name = "NAME"), stated "tiny-shakespeare for models of text, svmlight for models lists-H";
        /// Folder of data sets: DIR/NAME or DIR itself holds the set's files (IDX; for CIFAR the binary batches), plain, .gz
        /// or .xz; for image-folder, DIR holds train/CLASS/*.jpg and val/CLASS/*.jpg (or test, or train alone; .jpeg and .png
        /// too)
        data_dir: PathBuf, arg(value_name = "DIR"), stated "the environment variable RIGL_DATA_DIR",
            needs |s| unless(data::is_in_folder(&s.data), DATA_IN_FOLDERS);
        /// Fraction of the training samples to hold out and evaluate after each epoch, in [0, 1); of a text, that much of it before
        /// the test share
        val_fraction: f64 = 0.0, arg(value_name = "FRACTION"), stated "0.05 for text without --text-valid",
            must |s| fraction(s.val_fraction).or(
                unless(s.val_fraction == 0.0 || s.text_valid.is_empty(), "left out with --text-valid, which is the validation text")
            );
        /// Evaluate on the test set after each epoch too, not only at the end
        eval_test: bool = false, arg(value_name = "true|false", hide_possible_values = true, num_args = 0..=1,
            require_equals = true, default_missing_value = "true");
        /// How inputs are normalised: which values the mean and standard deviation are computed over
        normalize: Normalize = Normalize::Pixels, stated "channels for colour images, features for tables, none for text and svmlight",
            must |s| unless(
                s.data != IMAGE_FOLDER || s.normalize != Normalize::Pixels,
                "channels, per-image or none with --data image-folder",
            ).or(unless(
                !(is_text(&s.data) || s.data == SVMLIGHT) || s.normalize == Normalize::None,
                "none with a text or --data svmlight",
            ));
        /// Random changes to the training images, drawn anew in each epoch
        augment: Augment = Augment::None,
            stated "crop-flip for cifar10 and cifar100, random-resized-crop-flip for image-folder",
            must |s| match (s.augment, s.data == IMAGE_FOLDER) {
                (Augment::CropFlip | Augment::RandomResizedCropFlip, _) if s.data == TABLE => Some("none with --data table"),
                (Augment::CropFlip | Augment::RandomResizedCropFlip, _) if s.data == SVMLIGHT => {
                    Some("none with --data svmlight")
                }
                (Augment::CropFlip | Augment::RandomResizedCropFlip, _) if is_text(&s.data) => Some("none with a text"),
                (Augment::CropFlip, true) => Some("none or random-resized-crop-flip with --data image-folder"),
                (Augment::RandomResizedCropFlip, false) => Some("none or crop-flip without --data image-folder"),
                _ => None,
            };
        /// Height and width to which the images of image-folder are resized
        image_size: usize = DEFAULT_IMAGE_SIZE, arg(value_name = "PIXELS"),
            must |s| unless((1..=LARGEST_IMAGE).contains(&s.image_size), "at least 1 and at most 4096 pixels"),
            needs |s| unless(s.data == IMAGE_FOLDER, "--data image-folder");
    }
    /// Data in a table, and what is to be learned.
    TableArgs in TASK => {
        /// The file of --data table: .csv or .tsv with a header, .npy, .npz or .safetensors (docs/own-data.md describes them)
        table: PathBuf, arg(value_name = "FILE"), needs table;
        /// Table with the same columns to use as the test set
        test_table: PathBuf, arg(value_name = "FILE"), needs table;
        /// Fraction of the samples to use as the test set if the data has none, in (0, 1); the same samples in every run. Of a text,
        /// its end
        test_fraction: f64 = DEFAULT_TEST_FRACTION, arg(value_name = "FRACTION"), stated "0.05 for text",
            must |s| unless(s.test_fraction > 0.0 && s.test_fraction < 1.0, "above 0 and below 1"),
            needs |s| unless(
                s.data == IMAGE_FOLDER
                    || s.data == TABLE && s.test_table.is_none()
                    || s.data == SVMLIGHT && s.svmlight_test.is_none()
                    || is_text(&s.data) && s.text_test.is_empty(),
                "--data image-folder, --data table without --test-table, --data svmlight without --svmlight-test, or a text without \
                 --text-test",
            );
        /// Columns to predict, or the array of targets; with --labels, the column of the class
        target: Vec<String> = Vec::new(), arg(value_name = "COLUMN,...", value_delimiter = ','),
            must |s| unless(s.labels.is_none() || s.target.len() < 2, "one column with --labels"),
            needs |s| unless(s.data == TABLE || s.labels.is_some(), "--data table or --labels");
        /// CSV file with an image's file name and class in each row, for an image-folder without class folders
        labels: PathBuf, arg(value_name = "FILE"), needs |s| unless(s.data == IMAGE_FOLDER, "--data image-folder");
        /// Columns to use as inputs, or the array of inputs; by default all columns but the targets
        features: Vec<String> = Vec::new(), arg(value_name = "COLUMN,...", value_delimiter = ','), needs table;
        /// Columns to leave out
        drop: Vec<String> = Vec::new(), arg(value_name = "COLUMN,...", value_delimiter = ','), needs table;
        /// What to do about missing values: refuse them, or replace them by the column's mean
        missing: Missing = Missing::Error, needs table;
        /// Turn text columns into one input per word
        one_hot: bool = false, arg(value_name = "true|false", hide_possible_values = true, num_args = 0..=1,
            require_equals = true, default_missing_value = "true"), needs table;
        /// The loss, and with it the task: cross-entropy for classes, mse or huber for numbers, bce for several labels per sample
        loss: LossKind = LossKind::CrossEntropy, stated "bce for svmlight", must |s| match &*s.data {
                TABLE => None,
                SVMLIGHT => unless(s.loss == LossKind::Bce, "bce with --data svmlight: its samples have any number of labels"),
                _ => unless(
                    s.loss.is_of_classes(),
                    "cross-entropy without --data table or svmlight: the samples of the other data sets have a class",
                ),
            };
        /// Error at which the Huber loss becomes linear, in standard deviations of the target
        huber_delta: f64 = 1.0, arg(value_name = "DELTA"), must |s| positive(s.huber_delta),
            needs |s| unless(s.loss == LossKind::Huber, "--loss huber");
    }
    /// Samples that are lists of features, with lists of labels.
    SvmlightArgs in TASK => {
        /// The file of --data svmlight: LABEL,... FEATURE:VALUE ... in each line, with or without the extreme classification
        /// repository's first line, plain, .gz or .xz (docs/lists.md describes it)
        svmlight: PathBuf, arg(value_name = "FILE"), needs svmlight;
        /// Such a file to use as the test set
        svmlight_test: PathBuf, arg(value_name = "FILE"), needs svmlight;
    }
    /// Data that is a text.
    TextArgs in TEXTS => {
        /// The files of --data text, one text in this order: as they are, .gz, .xz or .zip (docs/text.md describes them)
        text: Vec<PathBuf> = Vec::new(), arg(value_name = "FILE,...", value_delimiter = ','), needs text;
        /// Files of the validation text; without them, the validation text is --val-fraction of --text, before the test text
        text_valid: Vec<PathBuf> = Vec::new(), arg(value_name = "FILE,...", value_delimiter = ','), needs text;
        /// Files of the test text; without them, the test text is --test-fraction of --text, at its end
        text_test: Vec<PathBuf> = Vec::new(), arg(value_name = "FILE,...", value_delimiter = ','), needs text;
        /// What the symbols of a text are: its bytes, or the characters that occur in it
        text_symbols: TextSymbols = TextSymbols::Bytes, stated "characters for tiny-shakespeare",
            must |s| unless(
                is_text(&s.data) == (s.data == TEXT) || s.text_symbols == TextSymbols::Characters,
                "characters with --data tiny-shakespeare",
            ),
            needs text;
    }
    /// What the name of a network that reads tokens leaves open.
    SequenceArgs in SEQUENCES => {
        /// Tokens of a sequence: how far back a Transformer looks, and over how many steps a recurrent network is trained at a
        /// time
        sequence_length: usize, arg(value_name = "TOKENS"), stated "128", saved(skip_serializing_if = "Option::is_none"),
            must |s| unless(
                s.sequence_length.is_none_or(|length| (1..=LONGEST_SEQUENCE).contains(&length)),
                "at least 1 and at most 65536 tokens",
            ),
            needs |s| unless(s.model.sequence().is_some(), "a model gru-H, lstm-H or gpt-L-H-D");
        /// Embedding width of a recurrent network
        embedding: usize = EMBEDDING, arg(value_name = "FEATURES"), must |s| at_least_one(s.embedding as u64),
            needs recurrent;
        /// Hidden layers between a recurrent network's state and its outputs
        readout: Vec<usize> = READOUT.to_vec(), arg(value_name = "FEATURES,...", value_delimiter = ','),
            stated "256,128", must |s| unless(s.readout.iter().all(|&width| width > 0), "widths of at least 1"),
            needs recurrent;
        /// Position encoding of a Transformer: learned embeddings, or rotary
        positions: Positions = Positions::Learned, needs transformer;
        /// Normalisation of a Transformer: layer norm or RMS norm
        norm: SequenceNorm = SequenceNorm::Layer, needs transformer;
        /// Tie a Transformer's output layer to its embedding
        tie_embeddings: bool = false, arg(value_name = "true|false", hide_possible_values = true, num_args = 0..=1,
            require_equals = true, default_missing_value = "true"), needs transformer;
    }
    /// The method.
    MethodArgs in SPARSITY => {
        /// The method that chooses and changes connections
        method: Method = Method::named("rigl"), arg(value_name = "NAME", value_parser = method_parser()),
            must |s| unless(
                !s.model.reads_lists() || s.method.info().blocks,
                "a method that needs neither dense gradients nor a dense start with a model lists-H, such as rigl, set or gse",
            );
        /// A parameter of the method, such as ema=0.99 for snfs (docs/methods.md lists them all); repeatable
        method_option: Vec<MethodOption> = Vec::new(), arg(value_name = "NAME=VALUE", action = Append);
    }
    /// The density of the network.
    DensityArgs in SPARSITY => {
        /// Fraction of the weights that exist, over all sparse layers, in (0, 1]
        density: f64 = 0.1, arg(value_name = "D", conflicts_with = "sparsity"),
            must |s| unless(is_density(s.density), DENSITY_RULE), needs sparse;
        /// The same given as sparsity: 1 - density, in [0, 1)
        sparsity: f64, arg(value_name = "S"), saved(skip_serializing), needs sparse;
    }
    /// How the density is distributed over the layers.
    SpreadArgs in SPARSITY => {
        /// How the density is distributed over the layers
        distribution: Distribution = Distribution::ErdosRenyiKernel,
            needs |s| unless(spread(s), "a new network of a sparse method and --layer-rule distribution");
        /// Exponent of the erk distribution; 0 makes it uniform
        erk_power: f64 = 1.0, arg(value_name = "P"), must |s| not_negative(s.erk_power),
            needs |s| unless(
                spread(s) && s.distribution == Distribution::ErdosRenyiKernel,
                "a new network of a sparse method, --layer-rule distribution and --distribution erk",
            );
        /// What decides the layers' densities
        layer_rule: LayerRule = LayerRule::Distribution,
            must |s| unless(
                s.layer_rule != LayerRule::Paper || s.model == ModelName::Lenet300x100,
                "distribution: only lenet-300-100 has a rule in the paper",
            ),
            needs sparse;
        /// Density of the layers whose names match, such as fc1=0.05 or fc*=0.2 (`*` matches any characters); conv1=free
        /// applies the distribution to a layer that the model keeps dense; gru.l0.state.new=0.5 sets the first density of one
        /// gate of a recurrent layer; repeatable, the last match wins
        density_override: Vec<DensityOverride> = Vec::new(), arg(value_name = "PATTERN=DENSITY", action = Append),
            needs sparse;
    }
    /// How sparse layers are stored.
    FormatArgs in SPARSITY => {
        /// How sparse layers are stored: csr, or bsrRxC in blocks of R×C, each 1, 2, 4, 8 or 16 (bsr4x4, bsr8x1, ...). Blocks
        /// compute faster, and are dropped and grown whole; a layer has the number of blocks nearest to its density, at least
        /// one
        format: Format = Format::Csr, arg(value_name = "csr|bsrRxC"),
            must |s| unless(
                s.format == Format::Csr || s.method.info().blocks,
                "csr for this method, which does not support blocks",
            ),
            needs sparse;
    }
    /// What the network begins with.
    BeginningArgs in SPARSITY => {
        /// What the standard deviation of initial weights is computed from
        init: Init = Init::DenseFanIn, stated "sparse-fan-in for text models",
            needs |s| unless(
                sparse(s).is_none() && begins_sparse(s),
                "a new network that is sparse from the start: otherwise both choices are the same",
            );
        /// Start from the weights and connections of this run folder, checkpoint or model file, not from random ones. gmp
        /// and snip prune them; granet and chtss need a sparse model
        init_from: PathBuf, arg(value_name = "PATH"),
            must |s| unless(s.init_from.is_none() || s.method.info().storage != WeightStorage::Latent, NO_START);
        /// Run folder or checkpoint of an earlier run: start with its final pattern and its initial weights (a lottery
        /// ticket; for the method lottery and all others that are sparse from the start)
        ticket: PathBuf, arg(value_name = "RUN"),
            must |s| match &s.ticket {
                Some(_) if !begins_sparse(s) || s.method.info().start_density.is_some() => Some(NO_START),
                Some(_) if s.init_from.is_some() => Some("left out with --init-from: both give the initial network"),
                None if s.method.info().needs_ticket => Some("a run folder or checkpoint with this method"),
                _ => None,
            };
    }
    /// How to count operations.
    CountArgs in SPARSITY => {
        /// How to count operations in reports
        flops_convention: FlopsConvention = FlopsConvention::Mac2;
    }
    /// When the topology changes.
    UpdateArgs in "Topology updates (of methods that have a schedule, such as rigl)" => {
        /// Steps between topology updates
        update_interval: u64 = 100, arg(value_name = "STEPS"), must |s| at_least_one(s.update_interval), needs updates;
        /// First step with an update
        begin_step: u64, arg(value_name = "STEP"), stated "the update interval", needs updates;
        /// First step without further updates
        end_step: u64, arg(value_name = "STEP"), stated "three quarters of the run's steps", needs updates;
        /// Batches over which an update sums the gradient that decides growth: more than 1 for small batches with noisy
        /// gradients. Holds a dense gradient of the sparse layers meanwhile (rigl plan shows its size), except with gse
        growth_batches: u64 = 1, arg(value_name = "N"),
            must |s| at_least_one(s.growth_batches).or(
                unless(s.growth_batches == 1 || s.format == Format::Csr || !grows_densely(s), "1 for weights in blocks")
            ).or(unless(s.growth_batches == 1 || !grows_on_lists(s), "1 with a model lists-H")),
            needs |s| unless(s.method.info().update_gradient.grows(), "a method that grows by the gradient, such as rigl");
    }
    /// How many connections an update replaces.
    DropArgs in "Topology updates (of methods that have a schedule, such as rigl)" => {
        /// Fraction of a layer's connections that the first update replaces, in [0, 1]
        drop_fraction: f64 = 0.3, arg(value_name = "FRACTION"),
            must |s| unless((0.0..=1.0).contains(&s.drop_fraction), "at least 0 and at most 1"), needs drops;
        /// How that fraction falls until updates end
        drop_schedule: DropSchedule = DropSchedule::Cosine, needs drops;
        /// Exponent of the inverse-power drop schedule
        drop_exponent: f64 = 3.0, arg(value_name = "K"), must |s| positive(s.drop_exponent),
            needs |s| unless(
                drops(s).is_none() && s.drop_schedule == DropSchedule::InversePower,
                "a method that updates the topology and --drop-schedule inverse-power",
            );
        /// How an update affects the training step
        update_semantics: UpdateSemantics = UpdateSemantics::Paper, needs drops;
    }
    /// How long the run is.
    LengthArgs in LENGTH => {
        /// Length of the run in passes over the training set
        epochs: u64, arg(value_name = "N", conflicts_with = "steps"), stated "20; 3 for recurrent networks, 10 for Transformers",
            must |s| at_least_one(s.epochs.unwrap_or(1));
        /// Length of the run in training steps (batches)
        steps: u64, arg(value_name = "N"), must |s| at_least_one(s.steps.unwrap_or(1));
    }
    /// How many samples a step takes.
    BatchArgs in LENGTH => {
        /// Samples in a batch; the last batch of an epoch may be smaller
        batch_size: usize = 100, arg(value_name = "SAMPLES"), must |s| at_least_one(s.batch_size as u64);
        /// Split each batch into parts of this many samples and accumulate their gradients, so that a large batch needs the
        /// memory of a small one
        micro_batch: usize, arg(value_name = "SAMPLES"), stated "the whole batch",
            saved(skip_serializing_if = "Option::is_none"),
            must |s| at_least_one(s.micro_batch.unwrap_or(1) as u64).or(
                unless(
                    s.micro_batch.is_none() || s.format == Format::Csr || !grows_densely(s),
                    "left out with rigl in blocks, which grows by the gradient of one pass",
                )
            ).or(unless(s.micro_batch.is_none() || !grows_on_lists(s), LISTS_GROW));
        /// Split each batch into this many shards, each with its own batch-normalisation statistics; gradients are summed in an
        /// order that depends only on this number
        shards: usize, arg(value_name = "N"), stated "none: the batch as a whole",
            saved(skip_serializing_if = "Option::is_none"),
            must |s| at_least_one(s.shards.unwrap_or(1) as u64)
                .or(unless(s.shards.is_none_or(|n| n <= s.batch_size), "at most --batch-size"))
                .or(unless(s.shards.is_none() || !grows_on_lists(s), LISTS_GROW))
                .or(unless(
                    s.shards.is_none() || s.micro_batch.is_none(),
                    "left out with --micro-batch; use one or the other",
                ))
                .or(unless(
                    s.shards.is_none() || s.growth_batches == 1,
                    "left out when --growth-batches is above 1",
                ));
        /// How ranks sum gradients under mpirun; with fast, --shards defaults to the number of ranks
        reduction: Reduction = Reduction::Tree;
    }
    /// How activations are stored.
    PrecisionArgs in LENGTH => {
        /// How to store activations and their gradients: bf16 halves their memory. Weights, optimizer state, statistics, losses
        /// and all sums stay in f32
        precision: Precision = Precision::F32,
            must |s| unless(
                s.precision == Precision::F32 || s.model.sequence().is_none_or(|family| family.cell.is_none()),
                "f32 for recurrent networks, whose steps are computed in f32: a copy would take more than it saves",
            );
        /// Store fewer activations by recomputing the outputs of normalisations and GELU in the backward pass; results do not
        /// change
        recompute: bool = false, arg(value_name = "true|false", hide_possible_values = true, num_args = 0..=1,
            require_equals = true, default_missing_value = "true");
    }
    /// How weights change.
    OptimizationArgs in OPTIMIZATION => {
        /// The optimizer
        optimizer: OptimizerKind = OptimizerKind::Sgd;
        /// Learning rate, above 0
        lr: f64 = 0.1, arg(value_name = "RATE"), stated "0.001 for adam and adamw, 0.003 for recurrent networks, 0.01 for svmlight",
            must |s| positive(s.lr);
        /// How the learning rate changes
        lr_schedule: LrSchedule = LrSchedule::Cosine,
            must |s| unless(
                s.lr_schedule != LrSchedule::Step || !s.lr_milestones.is_empty(),
                "constant, cosine or linear unless --lr-milestones is given",
            );
        /// Steps at which the step schedule multiplies the learning rate by --lr-gamma, such as 1000,2000
        lr_milestones: Vec<u64> = Vec::new(), arg(value_name = "STEP,...", value_delimiter = ','),
            must |s| unless(s.lr_milestones.is_sorted_by(|a, b| a < b), "a rising list of steps"), needs steps;
        /// Factor of the step schedule, in (0, 1]
        lr_gamma: f64 = 0.1, arg(value_name = "FACTOR"),
            must |s| unless(s.lr_gamma > 0.0 && s.lr_gamma <= 1.0, "above 0 and at most 1"), needs steps;
        /// Fraction of the learning rate at which the linear schedule ends, in [0, 1]
        lr_final: f64 = 0.0, arg(value_name = "FRACTION"),
            must |s| unless((0.0..=1.0).contains(&s.lr_final), "at least 0 and at most 1"), needs linear;
        /// Steps over which the learning rate first rises from 0
        warmup_steps: u64 = 0, arg(value_name = "STEPS"), stated "100 for Transformers";
        /// Momentum of sgd, in [0, 1)
        momentum: f64 = 0.9, arg(value_name = "M"), must |s| fraction(s.momentum), needs sgd;
        /// Use Nesterov momentum with sgd
        nesterov: bool = true, arg(value_name = "true|false", hide_possible_values = true, num_args = 0..=1,
            require_equals = true, default_missing_value = "true"), needs sgd;
        /// Decay of the first moment of adam and adamw, in [0, 1)
        beta1: f64 = 0.9, arg(value_name = "BETA"), must |s| fraction(s.beta1), needs adam;
        /// Decay of the second moment of adam and adamw, in [0, 1)
        beta2: f64 = 0.999, arg(value_name = "BETA"), stated "0.99 for Transformers", must |s| fraction(s.beta2), needs adam;
        /// Bias correction of adam and adamw for grown weights, whose moments start at zero: by the steps of the run (shared),
        /// or by the steps since the weight was grown (own)
        adam_newcomers: NewcomerMoments = NewcomerMoments::Shared, needs |s| adam(s).or(updates(s));
        /// Clip the gradients to this global norm
        clip_norm: f64, arg(value_name = "NORM"), stated "none; 10 for recurrent networks, 1 for Transformers",
            must |s| positive(s.clip_norm.unwrap_or(1.0));
        /// Weight decay, at least 0
        weight_decay: f64 = 1e-4, arg(value_name = "DECAY"), stated "0 for recurrent networks, 0.1 for Transformers", must |s| not_negative(s.weight_decay);
        /// Label smoothing: fraction of the training target spread over all classes, in [0, 1)
        label_smoothing: f64 = 0.0, arg(value_name = "FRACTION"), must |s| fraction(s.label_smoothing),
            needs |s| unless(s.loss.is_of_classes(), "--loss cross-entropy");
        /// Dropout: fraction of hidden activations set to zero in training, in [0, 1)
        dropout: f64 = 0.0, arg(value_name = "FRACTION"), must |s| fraction(s.dropout);
    }
    /// The run and what it leaves.
    RunArgs in RUN => {
        /// Random seed; a seed gives the same result on any number of threads
        seed: u64 = 0, arg(value_name = "N", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64));
        /// Number of threads
        threads: usize, arg(value_name = "N"), stated "one per core", must |s| threads(s.threads);
        /// Additional threads that read and prepare batches
        loader_threads: usize, arg(value_name = "N"), stated "2 for image-folder, 1 for other data",
            must |s| threads(s.loader_threads);
        /// Device to compute on: cpu, gpu (the best one) or gpu:N; see `rigl devices`
        device: Device = Device::Cpu, arg(value_name = "DEVICE"),
            must |s| unless(!s.model.reads_lists() || s.device == Device::Cpu, "cpu with a model lists-H");
        /// Steps between checkpoints
        checkpoint_every: u64, arg(value_name = "STEPS"), stated "one checkpoint after each epoch",
            must |s| at_least_one(s.checkpoint_every.unwrap_or(1));
        /// How many of the newest checkpoints to keep, besides the final one
        keep_checkpoints: usize = 2, arg(value_name = "N"), must |s| at_least_one(s.keep_checkpoints as u64);
        /// Also keep the checkpoint of the best epoch, as best.safetensors
        keep_best: BestBy, arg(value_name = "BY"), saved(skip_serializing_if = "Option::is_none"),
            must |s| match s.keep_best {
                None => None,
                Some(BestBy::Accuracy) if !s.loss.is_of_classes() => Some("loss: only samples with a class have an accuracy"),
                Some(_) => unless(s.has_validation(), NO_VALIDATION),
            };
        /// End the run after this many epochs in a row without a better validation loss (accuracy with --keep-best accuracy)
        early_stopping: u64, arg(value_name = "EPOCHS"), saved(skip_serializing_if = "Option::is_none"),
            must |s| at_least_one(s.early_stopping.unwrap_or(1)).or(
                unless(s.early_stopping.is_none() || s.has_validation(), NO_VALIDATION)
            );
        /// Also write the records' numbers as event files of TensorBoard, into the run's folder
        log: Log, arg(value_name = "FORMAT"), saved(skip_serializing_if = "Option::is_none");
        /// Print only JSON on standard output, one object per line
        json: bool = false, arg(value_name = "true|false", hide_possible_values = true, num_args = 0..=1,
            require_equals = true, default_missing_value = "true");
        /// Folder for settings, metrics and checkpoints
        out: PathBuf, arg(value_name = "DIR"), stated "a new one in runs/", saved(skip_serializing);
    }
}

/// Options that leave a run's result as it is, and so may change when it is resumed.
pub const RESUMABLE: [&str; 17] = [
    "checkpoint-every",
    "data-dir",
    "device",
    "json",
    "keep-checkpoints",
    "labels",
    "loader-threads",
    "log",
    "recompute",
    "svmlight",
    "svmlight-test",
    "table",
    "test-table",
    "text",
    "text-test",
    "text-valid",
    "threads",
];

/// Changes the result of a run, but may change when it is resumed: its state is the same in kind.
pub const PRECISION: &str = "precision";

/// The data sets that `--data-dir` is for.
pub(crate) const DATA_IN_FOLDERS: &str = "--data fashion-mnist, mnist, cifar10, cifar100 or image-folder";

/// What needs validation samples.
const NO_VALIDATION: &str =
    "left out without validation samples; --val-fraction 0.1 holds out a tenth of the training set";

/// More is a slip: a batch of one would have 50 million inputs.
const LARGEST_IMAGE: usize = 4096;

/// More is a slip: attention takes time by the square of it.
const LONGEST_SEQUENCE: usize = 1 << 16;

/// More is a slip, not a machine.
const MAX_THREADS: usize = 1024;

/// Why a method that begins with all weights takes no file to begin with.
const NO_START: &str = "left out: this method begins with all weights of a new network";

/// A model as a file of settings has it: its name, the path of its file, or its whole definition.
fn model_setting<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ModelName>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| ModelName::of_setting(&text)).transpose().map_err(D::Error::custom)
}

/// What must hold and does not, or is needed and not there.
type Unmet = Option<&'static str>;

fn unless(holds: bool, rule: &'static str) -> Unmet {
    (!holds).then_some(rule)
}

fn fraction(value: f64) -> Unmet {
    unless((0.0..1.0).contains(&value), "at least 0 and below 1")
}

fn positive(value: f64) -> Unmet {
    unless(value > 0.0 && value.is_finite(), "a finite number above 0")
}

fn not_negative(value: f64) -> Unmet {
    unless(value >= 0.0 && value.is_finite(), "a finite number of at least 0")
}

fn at_least_one(value: u64) -> Unmet {
    unless(value >= 1, "at least 1")
}

fn threads(count: Option<usize>) -> Unmet {
    unless(count.is_none_or(|count| (1..=MAX_THREADS).contains(&count)), "at least 1 and at most 1024")
}

fn table(s: &TrainConfig) -> Unmet {
    unless(s.data == TABLE, "--data table")
}

fn svmlight(s: &TrainConfig) -> Unmet {
    unless(s.data == SVMLIGHT, "--data svmlight")
}

fn recurrent(s: &TrainConfig) -> Unmet {
    unless(s.model.sequence().is_some_and(|family| family.cell.is_some()), "a model gru-H or lstm-H")
}

fn transformer(s: &TrainConfig) -> Unmet {
    unless(s.model.sequence().is_some_and(|family| family.cell.is_none()), "a model gpt-L-H-D")
}

fn text(s: &TrainConfig) -> Unmet {
    unless(s.data == TEXT, "--data text")
}

fn sparse(s: &TrainConfig) -> Unmet {
    let prunes = s.method.info().prunes();
    if s.init_from.is_some() && !prunes || s.ticket.is_some() {
        return Some("a new network (no --init-from or --ticket)");
    }
    unless(!s.method.is_dense(), "a sparse method (not dense)")
}

fn spread(s: &TrainConfig) -> bool {
    sparse(s).is_none() && s.layer_rule == LayerRule::Distribution
}

fn begins_sparse(s: &TrainConfig) -> bool {
    s.method.info().storage == WeightStorage::Sparse
}

fn updates(s: &TrainConfig) -> Unmet {
    let scheduled = s.method.info().updates == rigl::UpdateTimes::Scheduled;
    unless(scheduled, "a method that updates the topology on a schedule (not dense or static, for example)")
}

fn grows_densely(s: &TrainConfig) -> bool {
    s.method.info().update_gradient == rigl::UpdateGradient::Dense
}

/// Layers for lists and outputs in tiles compute growth in one pass over one batch.
fn grows_on_lists(s: &TrainConfig) -> bool {
    s.model.reads_lists() && s.method.info().update_gradient.grows()
}

const LISTS_GROW: &str = "left out with a model lists-H and a method that grows by the gradient (set grows at random)";

fn drops(s: &TrainConfig) -> Unmet {
    unless(s.method.info().drops_a_fraction, "a method that drops a fraction (set or rigl, for example)")
}

fn steps(s: &TrainConfig) -> Unmet {
    unless(s.lr_schedule == LrSchedule::Step, "--lr-schedule step")
}

fn linear(s: &TrainConfig) -> Unmet {
    unless(s.lr_schedule == LrSchedule::Linear, "--lr-schedule linear")
}

fn adam(s: &TrainConfig) -> Unmet {
    unless(s.optimizer != OptimizerKind::Sgd, "--optimizer adam or adamw")
}

fn sgd(s: &TrainConfig) -> Unmet {
    unless(s.optimizer == OptimizerKind::Sgd, "--optimizer sgd")
}

/// A setting's help: its documentation, and what is in effect without it.
fn help<const N: usize>(text: &str, defaults: [Option<String>; N]) -> String {
    let defaults: Vec<_> = defaults.into_iter().flatten().collect();
    let text = text.trim();
    if defaults.is_empty() { text.to_owned() } else { format!("{text} [default: {}]", defaults.join("; ")) }
}

/// A default as the help states it; that of a list is not stated.
fn stated<T: Serialize>(default: &T) -> Option<String> {
    match toml::Value::try_from(default).ok()? {
        toml::Value::String(text) => Some(text),
        toml::Value::Array(_) => None,
        other => Some(other.to_string()),
    }
}

fn check<T: Serialize>(
    option: &'static str,
    value: &T,
    config: &TrainConfig,
    rule: fn(&TrainConfig) -> Unmet,
) -> Result<(), ConfigError> {
    let Some(rule) = rule(config) else { return Ok(()) };
    let value = match toml::Value::try_from(value) {
        Ok(toml::Value::String(text)) => text,
        Ok(toml::Value::Float(number)) => number.to_string(),
        Ok(other) => other.to_string(),
        Err(_) => "none".to_owned(),
    };
    Err(ConfigError::Value { option, value, rule })
}

fn effect(option: &'static str, config: &TrainConfig, rule: fn(&TrainConfig) -> Unmet) -> Result<(), ConfigError> {
    rule(config).map_or(Ok(()), |needs| Err(ConfigError::NoEffect { option, needs }))
}
