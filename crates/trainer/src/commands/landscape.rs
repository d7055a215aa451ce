//! `rigl landscape`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, ValueEnum};
use serde::Serialize;
use sparse_kernels::cpu::Cpu;

use super::eval::{EVALUATION_BATCH, EvalSplit};
use super::model_data::{self, Source};
use super::values::{parse_count, parse_not_negative, parse_places, parse_positive};
use crate::atomic_file::write_atomic;
use crate::device::available_threads;
use crate::error::{Context, Kind};
use crate::fit::check_fit;
use crate::interrupt::Interrupt;
use crate::landscape::{
    BATCH_SIZE, Curve, End, LandscapeError, Line, MOMENTUM, Path, PathTraining, Point, Profile, Sample, Space, Survey,
    View, common_input, svg,
};
use crate::metrics::Mean;
use crate::models::{StoredModel, WeightCount};
use crate::report::{Progress, Significant, Status, Table, print_record, print_text};
use crate::run_checkpoints::load_model;
use crate::settings::DATA_IN_FOLDERS;
use crate::settings::error::ConfigError;
use crate::training::Loss;
use crate::{data, memory};

const LANDSCAPE_DETAILS: &str = "\
Curves are Bézier curves with one control point (quadratic) or two (cubic),
which begin on the straight line and are trained for a low mean loss along the
curve: each step takes a minibatch and a random point of the curve; SGD with
momentum 0.9, a cosine learning rate and weight decay. Both ends stay fixed.
In the sparse space a point has weights only where A or B has one, and costs
as much as a network with that many weights; in the full space it has all
weights. The straight line lies in the sparse space. Biases and the scales and
shifts of batch normalisations belong to a point; running moments do not: they
are estimated for each point by a pass over the training set, for A and B too,
so their losses differ slightly from those of rigl eval. A layer that is dense
in A or B is dense in the sparse space.

The barrier of a path is its highest loss for t in [0, 1], minus the higher of
the two ends' losses.

Examples:
  rigl landscape runs/static runs/pruned --out landscape
      all paths, with landscape.svg and landscape.jsonl in the folder landscape
  rigl landscape a.safetensors b.safetensors --curves linear
      only the straight line, from -0.2 to 1.2, without training
  rigl landscape runs/static runs/pruned --space sparse --curves quadratic --steps 20000
      one curve, trained for longer";

/// `rigl landscape`.
#[derive(Debug, Args)]
#[command(after_long_help = LANDSCAPE_DETAILS)]
pub struct LandscapeArgs {
    /// The end at t = 0: a run folder (its newest intact checkpoint) or a checkpoint
    pub a: PathBuf,
    /// The end at t = 1, with the same architecture and training data; its pattern may differ
    pub b: PathBuf,
    /// The space of the curves: sparse (the weights of A or B), full (all weights), or one curve in each [default: both]
    #[arg(long, value_enum)]
    pub space: Option<SpaceChoice>,
    /// The paths: linear, quadratic, cubic
    #[arg(long, value_enum, value_name = "CURVE,...", value_delimiter = ',', default_value = "linear,quadratic,cubic")]
    pub curves: Vec<Curve>,
    /// Number of evenly spaced points at which a path is evaluated: over [0, 1], or [-0.2, 1.2] for the straight line;
    /// always includes 0 and 1
    #[arg(long, value_name = "N", default_value_t = 29, value_parser = parse_places)]
    pub points: usize,
    /// The samples on which points are evaluated: the whole training set or the test set. Curves are trained on the
    /// training set
    #[arg(long, value_enum, default_value_t = EvalSplit::Train)]
    pub split: EvalSplit,
    /// Training steps (batches) of each curve [default: 10000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Samples per batch, for training curves and for estimating the moments of batch normalisations [default: 100]
    #[arg(long, value_name = "SAMPLES", value_parser = parse_count)]
    pub batch_size: Option<usize>,
    /// Learning rate of the first step; it decreases to 0 [default: 0.1]
    #[arg(long, value_name = "RATE", value_parser = parse_positive)]
    pub lr: Option<f64>,
    /// Weight decay for the curves, at least 0; reported losses do not include it [default: 0.0001]
    #[arg(long, value_name = "DECAY", value_parser = parse_not_negative)]
    pub weight_decay: Option<f64>,
    /// Random seed for batches and points; a seed gives the same result on any number of threads
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    pub seed: u64,
    /// Folder of data sets [default: the run's, or the environment variable RIGL_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// A new folder for the figure (landscape.svg) and the records of --json (landscape.jsonl) [default: no files]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Print only JSON on standard output, one object per line
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

const RECORDS: &str = "landscape.jsonl";
const PICTURE: &str = "landscape.svg";

/// The record of one place of a path.
#[derive(Debug, Serialize)]
struct PointRecord {
    event: &'static str,
    space: Space,
    curve: Curve,
    #[serde(flatten)]
    sample: Sample,
}

/// The last record.
#[derive(Debug, Serialize)]
struct LandscapeRecord {
    event: &'static str,
    model: String,
    data: String,
    split: &'static str,
    samples: u64,
    a: EndRecord,
    b: EndRecord,
    /// How curves were trained; null if there are none.
    steps: Option<u64>,
    batch_size: Option<usize>,
    lr: Option<f64>,
    momentum: Option<f32>,
    weight_decay: Option<f64>,
    seed: u64,
    paths: Vec<PathRecord>,
}

#[derive(Debug, Serialize)]
struct EndRecord {
    checkpoint: PathBuf,
    nnz: usize,
    density: f64,
    loss: f64,
    accuracy: f64,
}

#[derive(Debug, Serialize)]
struct PathRecord {
    space: Space,
    curve: Curve,
    /// Weights of the network at every point of the path.
    nnz: usize,
    density: f64,
    #[serde(flatten)]
    profile: Profile,
    t: Vec<f64>,
    losses: Vec<f64>,
    accuracies: Vec<f64>,
    /// Of the training of the path; null for a line.
    train_seconds: Option<f64>,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// If a model or the data is unavailable, they do not fit each other, a path's training fails, the results cannot be written, or it
/// is interrupted.
pub fn run(args: &LandscapeArgs) -> crate::Result<()> {
    let interrupt = Interrupt::install()?;
    let [a, b] = [&args.a, &args.b].map(|path| load_model(path).map(|(model, path)| End { path, model }));
    let ends = [a?, b?];
    let input = common_input(&ends)?;
    let architecture = ends[0].model.architecture()?;
    let trained = args.curves.iter().any(|curve| curve.is_trained());
    check_effects(args, trained, !architecture.norms.is_empty(), data::is_in_folder(&input.data))?;
    if !input.loss.is_of_classes() {
        return Err(
            format!("landscapes are of classifiers; these models were trained with --loss {}", input.loss).into()
        );
    }
    let sequence_length = architecture.spec.sequence.as_ref().map(|sequence| sequence.length);
    let (name, data_dir) = (input.data.as_str(), args.data_dir.as_deref());
    let source = Source { model: &args.a, name, data_dir, table: None, svmlight: None, text: &[], sequence_length };
    let data = model_data::load(source, Some(&input))?;
    check_fit(&architecture, &data)?;
    let batch_size = args.batch_size.unwrap_or(BATCH_SIZE).min(data.train.len());
    let cpu = Cpu::new(args.threads.unwrap_or_else(available_threads), None)?;
    memory::check(&cpu, &architecture, batch_size, crate::training::Held::default())?;
    check_room(args, &ends, batch_size)?;
    let view = View {
        train: data.train.clone(),
        split: match args.split {
            EvalSplit::Train => data.train.clone(),
            EvalSplit::Test => data.test.clone(),
        },
        normalization: input.normalization,
        loss: Loss::default(),
        augment: data::default_augment(&input.data),
        loader_threads: data::default_loader_threads(&input.data),
        batch_size,
        seed: args.seed,
        interrupt: &interrupt,
    };
    let default = PathTraining::default();
    let training = PathTraining {
        steps: args.steps.unwrap_or(default.steps),
        learning_rate: args.lr.unwrap_or(default.learning_rate),
        weight_decay: args.weight_decay.unwrap_or(default.weight_decay),
    };
    let mut output = Output::new(args)?;
    let result = cpu.install(|| Job { args, cpu: &cpu, ends: &ends, view: &view, training }.run(&mut output));
    let (of_ends, paths) = result.map_err(|error| match error.kind {
        Kind::Interrupted => LandscapeError::Interrupted { written: output.written() }.into(),
        _ => error,
    })?;
    let end = |i: usize| EndRecord {
        checkpoint: ends[i].path.clone(),
        nnz: ends[i].model.nnz(),
        density: ends[i].model.density(),
        loss: of_ends[i].loss(),
        accuracy: of_ends[i].accuracy(),
    };
    let batches = trained || !architecture.norms.is_empty();
    let record = LandscapeRecord {
        event: "landscape",
        model: ends[0].model.name().to_string(),
        data: data.name,
        split: split_name(args.split),
        samples: of_ends[0].samples(),
        a: end(0),
        b: end(1),
        steps: trained.then_some(training.steps),
        batch_size: batches.then_some(batch_size),
        lr: trained.then_some(training.learning_rate),
        momentum: trained.then_some(MOMENTUM),
        weight_decay: trained.then_some(training.weight_decay),
        seed: args.seed,
        paths,
    };
    output.finish(&record)
}

/// An option that the others leave without effect is an error.
fn check_effects(args: &LandscapeArgs, trained: bool, norms: bool, in_folder: bool) -> Result<(), ConfigError> {
    let curves = "--curves quadratic or cubic";
    let rules = [
        ("data-dir", args.data_dir.is_some(), in_folder, DATA_IN_FOLDERS),
        ("space", args.space.is_some(), trained, "--curves quadratic or cubic; the line lies in the sparse space"),
        ("steps", args.steps.is_some(), trained, curves),
        ("lr", args.lr.is_some(), trained, curves),
        ("weight-decay", args.weight_decay.is_some(), trained, curves),
        (
            "batch-size",
            args.batch_size.is_some(),
            trained || norms,
            "--curves quadratic or cubic, or a network with batch normalisations",
        ),
    ];
    match rules.into_iter().find(|&(_, given, effect, _)| given && !effect) {
        Some((option, _, _, needs)) => Err(ConfigError::NoEffect { option, needs }),
        None => Ok(()),
    }
}

/// Checks that the largest path that is asked for has room beside a step's activations.
fn check_room(args: &LandscapeArgs, ends: &[End; 2], batch_size: usize) -> crate::Result<()> {
    let Some(available) = memory::available() else { return Ok(()) };
    let [a, b] = [&ends[0].model, &ends[1].model];
    let largest = args.curves.iter().copied().max_by_key(|curve| curve.degree()).unwrap_or(Curve::Linear);
    let full = largest.is_trained() && args.space != Some(SpaceChoice::Sparse);
    let weights = if full { a.size() } else { a.size().min(a.nnz() + b.nnz()) };
    let needed = largest.bytes(weights)
        + crate::training::activation_bytes(&a.architecture()?, true, batch_size, crate::training::Held::default())?;
    if needed <= available {
        return Ok(());
    }
    let space = if full { Space::Full } else { Space::Sparse };
    Err(LandscapeError::Memory { space, curve: largest, model: a.name().to_string(), needed, available }.into())
}

fn split_name(split: EvalSplit) -> &'static str {
    match split {
        EvalSplit::Train => "train",
        EvalSplit::Test => "test",
    }
}

/// The work, without its beginning and end.
struct Job<'j> {
    args: &'j LandscapeArgs,
    cpu: &'j Cpu,
    ends: &'j [End; 2],
    view: &'j View<'j>,
    training: PathTraining,
}

impl<'j> Job<'j> {
    /// Loss and accuracy of both ends, and the paths.
    fn run(&self, output: &mut Output) -> crate::Result<([Mean; 2], Vec<PathRecord>)> {
        let models = [&self.ends[0].model, &self.ends[1].model];
        // As they are stored, and laid out as for `rigl eval`.
        let of_end = |model: &StoredModel| {
            Survey::new(self.cpu, model.clone(), EVALUATION_BATCH, self.view.clone())?.evaluate(&Point::of(model))
        };
        let ends = [of_end(models[0])?, of_end(models[1])?];
        for (name, end, mean) in [("A", &self.ends[0], &ends[0]), ("B", &self.ends[1], &ends[1])] {
            output.tell(|| {
                let (path, density) = (end.path.display(), Significant(end.model.density()));
                let (loss, accuracy) = (mean.loss(), 100.0 * mean.accuracy());
                format!("{name}  {path}  density {density}  loss {loss:.4}  accuracy {accuracy:.2}%")
            })?;
        }
        let mut paths = Vec::new();
        let choice = self.args.space.unwrap_or(SpaceChoice::Both);
        for (space, chosen) in
            [(Space::Sparse, choice != SpaceChoice::Full), (Space::Full, choice != SpaceChoice::Sparse)]
        {
            // The line from one end to the other lies in the sparse space.
            let of_space = |curve: Curve| if curve.is_trained() { chosen } else { space == Space::Sparse };
            let curves: Vec<_> =
                Curve::ALL.into_iter().filter(|&curve| self.args.curves.contains(&curve) && of_space(curve)).collect();
            if curves.is_empty() {
                continue;
            }
            let [a, b] = space.embed(models).context(|| "the union of the patterns")?;
            let points = [Point::of(&a), Point::of(&b)];
            // Its weights, as many as a point's, are not needed any more.
            drop(b);
            let mut survey = Survey::new(self.cpu, a, self.view.batch_size, self.view.clone())?;
            for curve in curves {
                let path = Path::straight(curve, points[0].clone(), points[1].clone());
                paths.push(self.path(&mut survey, space, path, &ends, output)?);
            }
        }
        Ok((ends, paths))
    }

    /// Trains a path and looks at it.
    fn path(
        &self,
        survey: &mut Survey<'j, Cpu>,
        space: Space,
        mut path: Path,
        ends: &[Mean; 2],
        output: &mut Output,
    ) -> crate::Result<PathRecord> {
        let (curve, start) = (path.curve(), Instant::now());
        let cost = survey.network().cost(self.cpu);
        output.tell(|| {
            let (WeightCount { nnz, size }, density) = (cost, Significant(cost.density()));
            format!("\n{curve} path, {} space: {nnz} of {size} weights, density {density}", space.name())
        })?;
        let train_seconds = if curve.is_trained() {
            self.train(survey, &mut path, cost.density()).context(|| format!("{} space", space.name()))?;
            Some(start.elapsed().as_secs_f64())
        } else {
            None
        };
        let mut point = path.start().zeros_like();
        let mut samples = Vec::new();
        for t in curve.grid(self.args.points) {
            let sample = match t {
                0.0 => Sample::new(t, &ends[0]),
                1.0 => Sample::new(t, &ends[1]),
                _ => {
                    path.at(t, &mut point);
                    Sample::new(t, &survey.evaluate(&point)?)
                }
            };
            output.record(&PointRecord { event: "point", space, curve, sample })?;
            samples.push(sample);
        }
        let of_samples = |value: fn(&Sample) -> f64| samples.iter().map(value).collect();
        let record = PathRecord {
            space,
            curve,
            nnz: cost.nnz,
            density: cost.density(),
            profile: Profile::of(&samples),
            t: of_samples(|sample| sample.t),
            losses: of_samples(|sample| sample.loss),
            accuracies: of_samples(|sample| sample.accuracy),
            train_seconds,
            seconds: start.elapsed().as_secs_f64(),
        };
        output.tell(|| {
            let mut table = Table::new(["t", "loss", "accuracy"]);
            for Sample { t, loss, accuracy } in &samples {
                table.row([format!("{t:.3}"), format!("{loss:.4}"), format!("{:.2}%", 100.0 * accuracy)]);
            }
            table.to_string().trim_end().to_owned()
        })?;
        Ok(record)
    }

    fn train(&self, survey: &mut Survey<'j, Cpu>, path: &mut Path, density: f64) -> crate::Result<()> {
        let start = Instant::now();
        let progress = Progress::new(self.training.steps, self.args.json);
        // Of the last hundred steps or so: one step's loss is that of one place.
        let (mut loss, mut accuracy, mut samples) = (0.0, 0.0, 0);
        survey.train(path, self.training, |step, stats| {
            samples += stats.lanes;
            let share = (1.0 / step as f64).max(0.01);
            loss += share * (f64::from(stats.mean()) - loss);
            accuracy += share * (stats.correct as f64 / stats.lanes as f64 - accuracy);
            let samples_per_second = samples as f64 / start.elapsed().as_secs_f64();
            progress.step(&Status {
                step,
                loss,
                is_text: false,
                accuracy: Some(accuracy),
                samples_per_second,
                density,
            });
        })?;
        progress.finish();
        Ok(())
    }
}

/// Where results go.
struct Output {
    json: bool,
    split: &'static str,
    /// The folder for files, and the records' file in it.
    files: Option<(PathBuf, File)>,
    records: usize,
}

impl Output {
    fn new(args: &LandscapeArgs) -> Result<Self, LandscapeError> {
        let open = |folder: &PathBuf| {
            fs::create_dir_all(folder).map_err(|source| LandscapeError::Create { path: folder.clone(), source })?;
            let path = folder.join(RECORDS);
            match File::create_new(&path) {
                Ok(file) => Ok((folder.clone(), file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(LandscapeError::Occupied { path }),
                Err(source) => Err(LandscapeError::Create { path, source }),
            }
        };
        let files = args.out.as_ref().map(open).transpose()?;
        Ok(Self { json: args.json, split: split_name(args.split), files, records: 0 })
    }

    /// A record of `--json`, and of the file.
    fn record(&mut self, record: &impl Serialize) -> crate::Result<()> {
        if self.json {
            print_record(record)?;
        }
        if let Some((folder, file)) = &mut self.files {
            let line = serde_json::to_string(record)? + "\n";
            let written = file.write_all(line.as_bytes());
            written.map_err(|source| LandscapeError::Write { path: folder.join(RECORDS), source })?;
            self.records += 1;
        }
        Ok(())
    }

    /// A line for people.
    fn tell(&self, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.json { Ok(()) } else { print_text(text()) }
    }

    /// What there is after an interruption.
    fn written(&self) -> String {
        match &self.files {
            Some((folder, _)) => {
                let path = folder.join(RECORDS);
                format!("{} holds {} points, no figure was drawn", path.display(), self.records)
            }
            None => "nothing was written".to_owned(),
        }
    }

    /// The last record, the picture, the table of all paths.
    fn finish(mut self, record: &LandscapeRecord) -> crate::Result<()> {
        self.record(record)?;
        if let Some((folder, _)) = &self.files {
            let path = folder.join(PICTURE);
            let end = record.a.loss.max(record.b.loss);
            let text = svg(&format!("loss, {} set", self.split), end, &lines(&record.paths))?;
            write_atomic(&path, text.as_bytes()).map_err(|source| LandscapeError::Write { path, source })?;
        }
        self.tell(|| {
            let headings = ["path", "space", "weights", "barrier", "at t", "loss there", "mean loss", "seconds"];
            let mut table = Table::new(headings);
            for path in &record.paths {
                let Profile { barrier, highest_t, highest_loss, mean_loss, .. } = path.profile;
                table.row([
                    path.curve.to_string(),
                    path.space.name().to_owned(),
                    path.nnz.to_string(),
                    format!("{barrier:.4}"),
                    format!("{highest_t:.3}"),
                    format!("{highest_loss:.4}"),
                    format!("{mean_loss:.4}"),
                    format!("{:.1}", path.seconds),
                ]);
            }
            format!("\n{table}\nbarrier: the highest loss for t in [0, 1], less the higher loss of A and B")
        })?;
        if let Some((folder, _)) = &self.files {
            self.tell(|| format!("{RECORDS} and {PICTURE} are in {}", folder.display()))?;
        }
        Ok(())
    }
}

/// The paths as they are drawn: a form has one colour in the sparse space and one in the full.
fn lines(paths: &[PathRecord]) -> Vec<Line> {
    let line = |path: &PathRecord| {
        let (label, series) = match (path.curve, path.space) {
            (Curve::Linear, _) => ("line".to_owned(), 0),
            (curve, Space::Sparse) => (format!("{curve}, sparse"), curve.degree() - 1),
            (curve, Space::Full) => (format!("{curve}, full"), curve.degree() + 1),
        };
        let points = path.t.iter().zip(&path.losses).map(|(&t, &loss)| [t, loss]).collect();
        Line { label, series, trained: path.curve.is_trained(), points }
    };
    paths.iter().map(line).collect()
}
