//! `rigl eval`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::model_data::{self, Source};
use super::values::parse_count;
use crate::data::{self, text::TEXT};
use crate::device::{ComputeDevice, Device, OnDevice, available_threads, on_device};
use crate::fit::check_fit;
use crate::interrupt::Interrupt;
use crate::metrics::{Evaluation, Measured, Propensities};
use crate::models::{ModelInput, Network, StoredModel};
use crate::report::{print_record, print_text};
use crate::run::{Evaluated, evaluate};
use crate::run_checkpoints::{Which, load_model_of};
use crate::settings::error::ConfigError;
use crate::training::{Evaluator, Loss, Precision};

const EVAL_EXAMPLES: &str = "\
Examples:
  rigl eval runs/1
      the run's newest intact checkpoint, on the test set of its own data
  rigl eval model.safetensors --data mnist --data-dir ~/data --json
      an imported model on MNIST, as a JSON record";

/// `rigl eval`.
#[derive(Debug, Args)]
#[command(after_long_help = EVAL_EXAMPLES)]
pub struct EvalArgs {
    /// A run folder, a checkpoint or an imported model
    pub model: PathBuf,
    /// Which checkpoint of a run folder
    #[arg(long, value_enum, default_value_t = Which::Newest)]
    pub which: Which,
    /// The data set [default: the one the model was trained on, or fashion-mnist-mini]
    #[arg(long, value_name = "NAME")]
    pub data: Option<String>,
    /// Folder of data sets [default: the run's, or the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// A table to evaluate on, all rows of it, with the columns that the model was trained on [default: the test set of the
    /// run's table]
    #[arg(long, value_name = "FILE")]
    pub table: Option<PathBuf>,
    /// Files of a text to evaluate on, all of it, with the symbols that the model was trained on [default: the test text of the
    /// run]
    #[arg(long, value_name = "FILE,...", value_delimiter = ',')]
    pub text: Vec<PathBuf>,
    /// A file of LABEL,... FEATURE:VALUE ... lines to evaluate on [default: the test set of the run]
    #[arg(long, value_name = "FILE")]
    pub svmlight: Option<PathBuf>,
    /// Which samples: the test set or the whole training set
    #[arg(long, value_enum, default_value_t = EvalSplit::Test)]
    pub split: EvalSplit,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// Device to compute on: cpu, gpu (the best one) or gpu:N; see `rigl devices`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// How to store activations; evaluations during training use the precision of the run
    #[arg(long, value_name = "PRECISION", value_enum, default_value_t = Precision::F32)]
    pub precision: Precision,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// Samples to evaluate on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EvalSplit {
    /// The test set.
    Test,
    /// The training set, including held-out samples.
    Train,
}

/// The record of an evaluation.
#[derive(Debug, Serialize)]
struct EvalRecord {
    event: &'static str,
    /// Of classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<f64>,
    loss: f64,
    /// Other measures, see [`crate::metrics`].
    #[serde(flatten)]
    others: BTreeMap<String, f64>,
    samples: u64,
    model: String,
    nnz: usize,
    density: f64,
    data: String,
    checkpoint: PathBuf,
}

/// What images are laid out for; few pictures of an evaluation are less than this.
pub(super) const EVALUATION_BATCH: usize = 32;

/// Runs the command.
///
/// # Errors
/// If the model or the data is unavailable, do not fit each other, the loss is not finite, or the evaluation is interrupted.
pub fn run(args: &EvalArgs) -> crate::Result<()> {
    let interrupt = Interrupt::install()?;
    let (model, checkpoint) = load_model_of(&args.model, args.which)?;
    let trained_on = model.input.clone();
    let architecture = model.architecture()?;
    let trained_data = || trained_on.as_ref().map(|input| &*input.data);
    let name = match &args.data {
        Some(name) => name,
        // Whatever text it was trained on.
        None if architecture.reads_tokens() && !args.text.is_empty() => TEXT,
        None => trained_data().unwrap_or(data::EMBEDDED),
    };
    if args.svmlight.is_some() && args.split == EvalSplit::Train {
        return Err(ConfigError::NoEffect { option: "split", needs: "the run's own data (no --svmlight)" }.into());
    }
    let (data_dir, table) = (args.data_dir.as_deref(), args.table.as_deref());
    let sequence_length = architecture.spec.sequence.as_ref().map(|sequence| sequence.length);
    let svmlight = args.svmlight.as_deref();
    let source = Source { model: &args.model, name, data_dir, table, svmlight, text: &args.text, sequence_length };
    let data = model_data::load(source, trained_on.as_ref())?;
    let loss = trained_on.as_ref().map_or(Loss::default(), ModelInput::loss);
    check_fit(&architecture, &data)?;
    // A model goes on to see what it was trained to see.
    let default = || data.normalization(data::default_normalize(name));
    let normalization = trained_on.as_ref().map_or_else(default, |input| input.normalization.clone());
    let (model_name, nnz, density) = (model.name().to_string(), model.nnz(), model.density());

    let split = match args.split {
        EvalSplit::Test => &data.test,
        EvalSplit::Train => &data.train,
    };
    let threads = args.threads.unwrap_or_else(available_threads);
    // How much a label counts is what the run's own training set says.
    let propensities = match Arc::ptr_eq(&data.train, &data.test) {
        true => Propensities::of(&data.train.targets).map(|_| Propensities::unknown()),
        false => Propensities::of(&data.train.targets),
    };
    let measured = Measured {
        loss: loss.kind(),
        outputs: model.outputs(),
        scale: data.target_scale.as_ref(),
        is_text: data.alphabet.is_some(),
        propensities: propensities.as_ref(),
    };
    let loader_threads = data::default_loader_threads(name);
    let evaluated = Evaluated { split, normalization: &normalization, measured, loader_threads };
    let (precision, interrupt) = (args.precision, &interrupt);
    let work = Evaluating { model, evaluated, loss, precision, interrupt };
    let found = on_device(args.device, threads, work)?;
    check_loss(found.loss(), &checkpoint)?;
    if args.json {
        print_record(&EvalRecord {
            event: "eval",
            accuracy: found.accuracy(),
            loss: found.loss(),
            others: found.others().into_iter().collect(),
            samples: found.samples(),
            model: model_name,
            nnz,
            density,
            data: data.name,
            checkpoint,
        })?;
    } else {
        print_text(format_args!("{} of {}", model_name, checkpoint.display()))?;
        let (samples, data) = (found.samples(), data.name);
        match found.accuracy().filter(|_| !found.is_text()) {
            Some(accuracy) => print_text(format_args!(
                "accuracy {:.2}%  loss {:.4}  on {samples} samples of {data}",
                100.0 * accuracy,
                found.loss()
            ))?,
            None => {
                let samples = if found.is_text() { format!("{samples} symbols") } else { format!("{samples} samples") };
                print_text(format_args!("{}  on {samples} of {data}", found.text()))?;
            }
        }
    }
    Ok(())
}

/// A model without a loss has no accuracy either: it chooses no class.
fn check_loss(loss: f64, model: &Path) -> crate::Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    let model = model.display();
    Err(format!("{model}: the loss is {loss}; it must be finite: some weights are NaN or far too large").into())
}

/// A model on a split.
struct Evaluating<'a> {
    model: StoredModel,
    evaluated: Evaluated<'a>,
    loss: Loss,
    precision: Precision,
    interrupt: &'a Interrupt,
}

impl OnDevice for Evaluating<'_> {
    type Output = Evaluation;

    fn run<B: ComputeDevice>(self, backend: &B) -> crate::Result<Evaluation> {
        let Self { model, evaluated, loss, precision, interrupt } = self;
        let network = Network::from_stored(backend, model, EVALUATION_BATCH)?;
        let body = network.body.clone();
        let mut evaluator = Evaluator::in_precision(backend, network, loss, precision.into());
        backend.install(|| {
            evaluate(evaluated, &body, interrupt, |batch, outputs| evaluator.evaluate_outputs(batch, outputs))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[test]
    fn a_loss_that_is_no_number_is_a_failure() {
        check_loss(2.3, Path::new("model.safetensors")).unwrap();
        let error = check_loss(f64::NAN, Path::new("model.safetensors")).unwrap_err();
        let message = error.to_string();
        assert!(
            error.kind == Kind::Failure && message.starts_with("model.safetensors: the loss is NaN; it must"),
            "{message}"
        );
    }
}
