//! `rigl predict`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use autograd::TopLabels;
use clap::Args;
use serde::Serialize;
use sparse_kernels::cpu::Cpu;

use super::eval::EVALUATION_BATCH;
use super::values::parse_count;
use crate::data::svmlight::{Numbering, read_samples};
use crate::data::{InputMaker, known_class_names};
use crate::device::{ComputeDevice, Device, OnDevice, available_threads, on_device};
use crate::models::{ModelInput, Network, StoredModel};
use crate::predict::{Expected, FewLanes, InputSource, Outcomes};
use crate::report::{nanoseconds_text, print_record, print_text};
use crate::run_checkpoints::{Which, load_model_of};
use crate::training::{Evaluator, Loss};

const PREDICT_EXAMPLES: &str = "\
Examples:
  rigl predict runs/pets cat.jpg dog.png
      the class of each picture with its probability, as CSV
  rigl predict runs/pets photos/ --top-k 3 --json
      the three likeliest classes of every picture in a folder, as JSON
      records
  rigl predict runs/wine new.csv > predictions.csv
      a prediction for each row of a table, whose columns are found by their
      names
  rigl predict runs/wine new.csv --batch-size 1 --time > /dev/null
      how long a single input takes";

/// `rigl predict`.
#[derive(Debug, Args)]
#[command(after_long_help = PREDICT_EXAMPLES)]
pub struct PredictArgs {
    /// A run folder, a checkpoint or an imported model
    pub model: PathBuf,
    /// Which checkpoint of a run folder
    #[arg(long, value_enum, default_value_t = Which::Newest)]
    pub which: Which,
    /// Pictures, folders of pictures, tables (.csv, .tsv) or arrays (.npy, .npz, .safetensors); of a model lists-H, files of
    /// FEATURE:VALUE lines
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// How many of the likeliest classes or labels to show
    #[arg(long, value_name = "K", default_value = "1", value_parser = parse_count)]
    pub top_k: usize,
    /// Inputs that are computed at once; up to 8 on a multi-layer perceptron take the kernels for few lanes
    #[arg(long, value_name = "N", default_value = "64", value_parser = parse_count)]
    pub batch_size: usize,
    /// Print on standard error how long a batch takes, from inputs in memory to outputs
    #[arg(long)]
    pub time: bool,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// Device to compute on: cpu, gpu (the best one) or gpu:N; see `rigl devices`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// Print JSON on standard output, one object per input, instead of CSV
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the model or an input cannot be read, or an input does not fit the model. What was predicted before is printed.
pub fn run(args: &PredictArgs) -> crate::Result<()> {
    let (model, path) = load_model_of(&args.model, args.which)?;
    let Some(input) = model.input.clone() else {
        let path = path.display();
        return Err(
            format!("{path}: does not say how its inputs are normalised; predict with a model trained here").into()
        );
    };
    let architecture = model.architecture()?;
    if architecture.reads_tokens() {
        return Err(format!("{}: reads text; rigl sample continues one", path.display()).into());
    }
    if architecture.reads_lists() {
        if args.time {
            return Err("--time: must be left out with a model lists-H".to_owned().into());
        }
        let Some(numbering) = input.lists else {
            return Err(format!("{}: does not say how features are numbered; train it here", path.display()).into());
        };
        let threads = args.threads.unwrap_or_else(available_threads);
        return on_device(args.device, threads, OfLists { model, args, numbering });
    }
    let expected = Expected::of(&architecture, &input);
    let names = input.class_names.clone().or_else(|| known_class_names(&input.data));
    let outcomes = Outcomes::new(&input, names, architecture.classes(), args.top_k);
    let is_few = architecture.is_mlp() && args.batch_size <= FewLanes::MOST_SAMPLES && args.device == Device::Cpu;
    let threads = args.threads.unwrap_or_else(available_threads);
    let prediction = Prediction { args, expected, input: &input, outcomes };
    if is_few {
        let cpu = Cpu::new(threads, None)?;
        let mut few = FewLanes::new(&cpu, &model)?;
        let mut inputs = Vec::new();
        return cpu.install(|| {
            prediction.run(|maker, outputs| {
                maker.rows(&mut inputs);
                Ok(few.outputs(&inputs, maker.samples(), outputs)?)
            })
        });
    }
    on_device(args.device, threads, OfBatches { model, prediction })
}

/// What is predicted.
struct Prediction<'a> {
    args: &'a PredictArgs,
    expected: Expected,
    input: &'a ModelInput,
    outcomes: Outcomes,
}

/// By a network on a device.
struct OfBatches<'a> {
    model: StoredModel,
    prediction: Prediction<'a>,
}

impl OnDevice for OfBatches<'_> {
    type Output = ();

    fn run<B: ComputeDevice>(self, backend: &B) -> crate::Result<()> {
        let network = Network::from_stored(backend, self.model, EVALUATION_BATCH)?;
        let body = network.body.clone();
        let mut evaluator = Evaluator::new(backend, network, Loss::default());
        let mut images = Vec::new();
        backend.install(|| {
            self.prediction.run(|maker, outputs| {
                let layout = body.input_layout(maker.samples());
                maker.fill(layout, &mut images);
                Ok(evaluator.outputs(layout, &images, outputs)?)
            })
        })
    }
}

/// The likeliest labels of lists of features.
struct OfLists<'a> {
    model: StoredModel,
    args: &'a PredictArgs,
    numbering: Numbering,
}

/// The labels of a list, as JSON.
#[derive(Debug, Serialize)]
struct LabelsRecord<'a> {
    input: &'a str,
    labels: Vec<u32>,
    probabilities: Vec<f64>,
}

impl OnDevice for OfLists<'_> {
    type Output = ();

    fn run<B: ComputeDevice>(self, backend: &B) -> crate::Result<()> {
        let Self { model, args, numbering } = self;
        let top_k = args.top_k.min(model.outputs());
        let network = Network::from_stored(backend, model, args.batch_size)?;
        let mut evaluator = Evaluator::new(backend, network, Loss::default());
        let mut is_first = !args.json;
        for file in &args.inputs {
            let lists = read_samples(file, numbering)?;
            for first in (0..lists.len()).step_by(args.batch_size) {
                let mut top = TopLabels::new(top_k);
                let rows = first..(first + args.batch_size).min(lists.len());
                backend.install(|| evaluator.top_labels(&lists.select(rows), &mut top))?;
                if std::mem::take(&mut is_first) {
                    let number = |k: usize| if k == 1 { String::new() } else { format!("_{k}") };
                    let columns = |k: usize| [format!("label{}", number(k)), format!("probability{}", number(k))];
                    let columns: Vec<String> = (1..=top_k).flat_map(columns).collect();
                    print_text(format_args!("input,{}", columns.join(",")))?;
                }
                for (i, found) in top.samples().iter().enumerate() {
                    let input = format!("{}:{}", file.display(), first + i + 1);
                    let probability = |logit: f32| 1.0 / (1.0 + (-f64::from(logit)).exp());
                    let labels: Vec<u32> = found.iter().map(|found| found.label).collect();
                    let probabilities: Vec<f64> = found.iter().map(|found| probability(found.logit)).collect();
                    if args.json {
                        print_record(&LabelsRecord { input: &input, labels, probabilities })?;
                    } else {
                        let cells = labels.iter().zip(&probabilities).map(|(label, p)| format!("{label},{p:.6}"));
                        print_text(format_args!("{input},{}", cells.collect::<Vec<_>>().join(",")))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Batches that are timed at least, and the most time that they take.
const TIMED: (usize, Duration) = (100, Duration::from_secs(2));

impl Prediction<'_> {
    fn run(&self, mut compute: impl FnMut(&mut InputMaker, &mut Vec<f32>) -> crate::Result<()>) -> crate::Result<()> {
        let mut outputs = Vec::new();
        let mut times = Vec::new();
        let mut first = None;
        // Opened before anything is printed of any of them.
        let open = |path: &PathBuf| InputSource::open(path, &self.expected);
        let sources = self.args.inputs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        if !self.args.json {
            print_text(csv_line(&self.outcomes.header())?)?;
        }
        for source in &sources {
            for start in (0..source.len()).step_by(self.args.batch_size) {
                let range = start..source.len().min(start + self.args.batch_size);
                let mut batch = source.read(range.clone(), &self.expected, self.input)?;
                if self.args.time && first.is_none() {
                    // The first call allocates.
                    compute(&mut batch, &mut outputs)?;
                }
                let begun = Instant::now();
                compute(&mut batch, &mut outputs)?;
                times.push(begun.elapsed());
                self.print(source, range.clone(), &outputs)?;
                first.get_or_insert(batch);
            }
        }
        if let (true, Some(mut batch)) = (self.args.time, first) {
            let begun = Instant::now();
            while times.len() < TIMED.0 && begun.elapsed() < TIMED.1 {
                let begun = Instant::now();
                compute(&mut batch, &mut outputs)?;
                times.push(begun.elapsed());
            }
            times.sort_unstable();
            let at =
                |share: f64| nanoseconds_text(times[((times.len() - 1) as f64 * share) as usize].as_nanos() as u64);
            let (count, size) = (times.len(), batch.samples());
            eprintln!("latency of {count} batches of {size}: median {}, 99% below {}", at(0.5), at(0.99));
        }
        Ok(())
    }

    fn print(&self, source: &InputSource, range: std::ops::Range<usize>, outputs: &[f32]) -> crate::Result<()> {
        let per_sample = outputs.len() / range.len().max(1);
        let line = |(sample, outputs): (usize, &[f32])| -> crate::Result<String> {
            let (outcome, name) = (self.outcomes.of(outputs), source.name(sample));
            match self.args.json {
                true => Ok(serde_json::to_string(&outcome.record(&name)).map_err(std::io::Error::from)?),
                false => csv_line(&[vec![name], outcome.cells()].concat()),
            }
        };
        // A batch at once: the stream is flushed each time.
        let lines = range.zip(outputs.chunks_exact(per_sample)).map(line).collect::<crate::Result<Vec<_>>>()?;
        Ok(print_text(lines.join("\n"))?)
    }
}

/// A line of CSV, without its end.
fn csv_line(cells: &[String]) -> crate::Result<String> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::Any(b'\n')).from_writer(vec![]);
    writer.write_record(cells).map_err(std::io::Error::from)?;
    let bytes = writer.into_inner().map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
}
