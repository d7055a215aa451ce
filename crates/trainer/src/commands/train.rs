//! `rigl train`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;
use sparse_kernels::cpu::Cpu;

use crate::args::TrainArgs;
use crate::bench::{StepBench, alternate, peak_rss_bytes};
use crate::checkpoint::{Checkpoint, TensorData};
use crate::config::{ConfigError, Method, TrainConfig};
use crate::data::{self, BatchLoader, Dataset, LoaderOptions, Order, Split};
use crate::models::{Architecture, Initialization, Network, Sparsification};
use crate::report::{Progress, Significant, Status, Table, print_record};
use crate::run_dir::{RunDir, RunInfo};
use crate::training::{self, StepOptions, Trainer};

/// The record of an epoch.
#[derive(Debug, Serialize)]
struct EpochRecord {
    event: &'static str,
    epoch: u64,
    step: u64,
    train_loss: f64,
    val_loss: Option<f64>,
    val_accuracy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test_accuracy: Option<f64>,
    nnz: usize,
    density: f64,
    seconds: f64,
}

/// The record of a finished run.
#[derive(Debug, Serialize)]
struct DoneRecord {
    event: &'static str,
    test_accuracy: f64,
    test_loss: f64,
    train_loss: f64,
    nnz: usize,
    density: f64,
    train_flops_ratio: f64,
    inference_flops_ratio: f64,
    train_seconds: f64,
    samples_per_second: f64,
    peak_rss_bytes: Option<u64>,
    /// Best time of a step between topology updates, and the same network's dense; null where the dense one would not
    /// fit.
    step_time_ns: Option<u64>,
    dense_step_time_ns: Option<u64>,
    run_dir: String,
    seed: u64,
}

/// Loss and accuracy over a number of samples.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    loss: f64,
    correct: usize,
    samples: usize,
}

impl Mean {
    fn add(&mut self, stats: &autograd::LossStats) {
        self.loss += f64::from(stats.sum);
        self.correct += stats.correct;
        self.samples += stats.lanes;
    }

    fn loss(&self) -> f64 {
        self.loss / self.samples.max(1) as f64
    }

    fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples.max(1) as f64
    }
}

/// Samples in a batch of an evaluation.
const EVALUATION_BATCH: usize = 512;
/// Time spent on measuring a step beside the dense step.
const STEP_BUDGET: Duration = Duration::from_millis(800);
/// Above this many weights, the dense network is not built for comparison.
const LARGEST_DENSE: usize = 1 << 26;

/// Runs the command.
///
/// # Errors
/// If the settings are impossible, the data cannot be had, the run diverges, or its folder cannot be written.
pub fn run(args: &TrainArgs) -> anyhow::Result<()> {
    let config = TrainConfig::resolve(args, std::env::var_os("RIGL_DATA_DIR").map(Into::into))?;
    let architecture = Architecture::of(&config.model);
    let sparsification = Sparsification::of(&config);
    let densities = sparsification.solve(&architecture)?;
    let mut data = data::load(&config.data, config.data_dir.as_deref())?;
    check_fit(&config, &architecture, &data)?;
    if config.val_fraction > 0.0 {
        data.hold_out(config.val_fraction, config.seed)?;
    }
    let batches_per_epoch = data.train.len().div_ceil(config.batch_size) as u64;
    let total_steps = config.total_steps(batches_per_epoch);
    let (method, window) = training::method(&config, total_steps)?;
    if window.is_none() && matches!(config.method, Method::Set | Method::Rigl) {
        tracing::warn!("{total_steps} steps are too few for a topology update: the pattern stays as it begins");
    }
    let cpu = Cpu::new(config.thread_count(), None)?;
    let initialization = Initialization { init: config.init, seed: config.seed };
    let mut network = Network::new(&cpu, architecture.clone(), &densities, initialization)?;
    let optimizer = training::optimizer(&config, &cpu, &mut network)?;
    let trainer = Trainer::new(&cpu, network, optimizer, method, StepOptions::of(&config, total_steps));
    let run_dir = RunDir::create(&config, &RunInfo::new(cpu.threads(), cpu.isa().name()))?;
    let table = data.normalization().table();
    let mut run = Run { cpu: &cpu, config: &config, data: &data, table, trainer, run_dir, total_steps };

    let start = Instant::now();
    let last_epoch = cpu.install(|| run.train(start))?;
    let train_seconds = start.elapsed().as_secs_f64();
    let test = cpu.install(|| run.evaluate(&data.test))?;
    let checkpoint_path = run.run_dir.checkpoint_path();
    run.checkpoint()?.save_atomic(&checkpoint_path)?;

    let [sparse_flops, dense_flops] = super::forward_flops(&architecture, &densities, config.flops_convention);
    let cost = run.trainer.network.cost(&cpu);
    let samples = run.samples_trained();
    let peak_rss_bytes = peak_rss_bytes();
    let step_times = step_times(&cpu, &config, &architecture, &sparsification)?;
    let done = DoneRecord {
        event: "done",
        test_accuracy: test.accuracy(),
        test_loss: test.loss(),
        train_loss: last_epoch.loss(),
        nnz: cost.nnz,
        density: cost.density(),
        train_flops_ratio: run.trainer.method.training_flops(sparse_flops, dense_flops) / (3.0 * dense_flops),
        inference_flops_ratio: sparse_flops / dense_flops,
        train_seconds,
        samples_per_second: samples as f64 / train_seconds,
        peak_rss_bytes,
        step_time_ns: step_times.map(|[sparse, _]| sparse),
        dense_step_time_ns: step_times.map(|[_, dense]| dense),
        run_dir: run.run_dir.path().display().to_string(),
        seed: config.seed,
    };
    run.run_dir.append(&done)?;
    if config.json {
        print_record(&done)?;
    } else {
        let flops = [sparse_flops, dense_flops];
        print_tables(&run, &densities, &done, flops);
    }
    Ok(())
}

/// The network must read what the data has, and know its classes.
fn check_fit(config: &TrainConfig, architecture: &Architecture, data: &Dataset) -> Result<(), ConfigError> {
    if architecture.inputs() != data.features() || architecture.classes() < data.classes {
        return Err(ConfigError::Model {
            model: config.model.to_string(),
            inputs: architecture.inputs(),
            outputs: architecture.classes(),
            data: data.name.to_string(),
            features: data.features(),
            classes: data.classes,
        });
    }
    Ok(())
}

/// A run in progress.
struct Run<'a> {
    cpu: &'a Cpu,
    config: &'a TrainConfig,
    data: &'a Dataset,
    /// The input that each byte of a picture becomes.
    table: [f32; 256],
    trainer: Trainer<'a, Cpu>,
    run_dir: RunDir,
    total_steps: u64,
}

impl Run<'_> {
    /// Trains to the end; returns the last epoch's loss and accuracy on the training set.
    fn train(&mut self, start: Instant) -> anyhow::Result<Mean> {
        let order = Order::Shuffled { seed: self.config.seed, first_epoch: 0 };
        let mut loader = self.loader(&self.data.train, self.config.batch_size, order)?;
        let progress = Progress::new(self.total_steps, self.config.json);
        let mut epoch = 0;
        let mut mean = Mean::default();
        while self.trainer.step() < self.total_steps {
            mean = Mean::default();
            let mut status = None;
            while self.trainer.step() < self.total_steps {
                let Some(batch) = loader.next_batch() else { break };
                let report = self.trainer.train_batch(batch.layout, &batch.images, &batch.labels)?;
                mean.add(&report.loss);
                let samples_per_second = self.samples_trained() as f64 / start.elapsed().as_secs_f64();
                let (step, density) = (self.trainer.step(), self.trainer.network.cost(self.cpu).density());
                let (loss, accuracy) = (mean.loss(), mean.accuracy());
                let now = Status { step, loss, accuracy, samples_per_second, density };
                progress.step(&now);
                status = Some(now);
            }
            // The loader says the end of an epoch with an extra call, which a run may stop short of.
            let Some(status) = status else { continue };
            epoch += 1;
            self.finish_epoch(epoch, &mean, &status, &progress, start)?;
        }
        progress.finish();
        Ok(mean)
    }

    fn finish_epoch(
        &mut self,
        epoch: u64,
        mean: &Mean,
        status: &Status,
        progress: &Progress,
        start: Instant,
    ) -> anyhow::Result<()> {
        let validation = self.data.validation.as_ref().map(|split| self.evaluate(split)).transpose()?;
        let test = if self.config.eval_test { Some(self.evaluate(&self.data.test)?) } else { None };
        let cost = self.trainer.network.cost(self.cpu);
        let record = EpochRecord {
            event: "epoch",
            epoch,
            step: self.trainer.step(),
            train_loss: mean.loss(),
            val_loss: validation.map(|m| m.loss()),
            val_accuracy: validation.map(|m| m.accuracy()),
            test_loss: test.map(|m| m.loss()),
            test_accuracy: test.map(|m| m.accuracy()),
            nnz: cost.nnz,
            density: cost.density(),
            seconds: start.elapsed().as_secs_f64(),
        };
        self.run_dir.append(&record)?;
        if self.config.json {
            print_record(&record)?;
        }
        let mut more = String::new();
        for (name, mean) in [("validation", validation), ("test", test)] {
            if let Some(mean) = mean {
                let separator = if more.is_empty() { "" } else { "  " };
                more += &format!("{separator}{name} loss {:.4} accuracy {:.2}%", mean.loss(), 100.0 * mean.accuracy());
            }
        }
        progress.epoch(epoch, status, &more);
        Ok(())
    }

    /// Loss and accuracy on a split.
    fn evaluate(&mut self, split: &Arc<Split>) -> anyhow::Result<Mean> {
        let mut loader = self.loader(split, EVALUATION_BATCH, Order::Stored)?;
        let mut mean = Mean::default();
        while let Some(batch) = loader.next_batch() {
            mean.add(&self.trainer.evaluate_batch(batch.layout, &batch.images, &batch.labels)?);
        }
        Ok(mean)
    }

    fn loader(&self, split: &Arc<Split>, batch_size: usize, order: Order) -> anyhow::Result<BatchLoader> {
        let batch_size = batch_size.min(split.len());
        let options =
            LoaderOptions { batch_size, strip: self.trainer.network.strip(batch_size), order, drop_last: false };
        Ok(BatchLoader::new(split.clone(), self.data.features(), self.table, options)?)
    }

    fn samples_trained(&self) -> u64 {
        // Whole epochs, then whole batches: only an epoch's last batch is smaller.
        let samples = self.data.train.len() as u64;
        let batches = samples.div_ceil(self.config.batch_size as u64);
        let (epochs, rest) = (self.trainer.batches() / batches, self.trainer.batches() % batches);
        epochs * samples + rest * self.config.batch_size as u64
    }

    /// The state of the run: parameters, optimizer slots and counters, and nothing of clock, path, threads or host.
    fn checkpoint(&self) -> anyhow::Result<Checkpoint> {
        let parameters = &self.trainer.network.parameters;
        let mut tensors = BTreeMap::new();
        let tensor = |shape: &[usize], values: Vec<f32>| TensorData::F32 { shape: shape.to_vec(), values };
        for layer in &self.trainer.network.layers {
            for id in [layer.weight, layer.bias] {
                let parameter = parameters.get(id);
                let name = parameter.name();
                let values = parameters.download_values(self.cpu, id)?;
                let shape = match (parameters.pattern(self.cpu, id), parameter.value()) {
                    (Some(pattern), _) => {
                        tensors.insert(format!("{name}.crow_indices"), TensorData::u32s(pattern.row_offsets()));
                        tensors.insert(format!("{name}.col_indices"), TensorData::u32s(pattern.col_indices()));
                        tensors.insert(format!("{name}.values"), TensorData::f32s(values));
                        vec![pattern.nnz()]
                    }
                    (None, value) => {
                        let shape = match value {
                            autograd::ParameterValue::Dense { nrows, ncols, .. } => vec![*nrows, *ncols],
                            _ => vec![values.len()],
                        };
                        tensors.insert(name.to_owned(), tensor(&shape, values));
                        shape
                    }
                };
                for slot in self.trainer.optimizer.slots() {
                    let values = parameters.download_slot(self.cpu, id, slot)?;
                    tensors.insert(format!("{name}.{slot}"), tensor(&shape, values));
                }
            }
        }
        let layers: Vec<_> = self.trainer.network.architecture.layers.iter().collect();
        let shape = |l: &&crate::models::LinearLayer| json!({"name": l.name, "shape": [l.outputs, l.inputs]});
        let metadata = json!({
            "model": self.config.model.to_string(),
            "layers": layers.iter().map(shape).collect::<Vec<_>>(),
            "seed": self.config.seed,
            "step": self.trainer.step(),
            "batches": self.trainer.batches(),
            "optimizer_steps": self.trainer.optimizer.steps(),
            "method": self.trainer.method.state(),
        });
        Ok(Checkpoint { tensors, metadata })
    }
}

/// Best nanoseconds of `[a step of this network, a step of the same network dense]`, taken in turn; `None` if the dense
/// network is too large to build beside it.
fn step_times(
    cpu: &Cpu,
    config: &TrainConfig,
    architecture: &Architecture,
    sparsification: &Sparsification,
) -> anyhow::Result<Option<[u64; 2]>> {
    if architecture.size() > LARGEST_DENSE {
        return Ok(None);
    }
    let dense = Sparsification { method: Method::Dense, density: 1.0, ..sparsification.clone() };
    let mut sparse_bench = StepBench::new(cpu, config, sparsification)?;
    let mut dense_bench = StepBench::new(cpu, config, &dense)?;
    // Once each, so that an error is an error and not a panic in the timed loop.
    cpu.install(|| sparse_bench.step().and_then(|()| dense_bench.step()))?;
    let succeeded = "the same step succeeded before";
    let best = cpu.install(|| {
        alternate(STEP_BUDGET, 5, || sparse_bench.step().expect(succeeded), || dense_bench.step().expect(succeeded))
    });
    Ok(Some(best.map(|b| b.nanoseconds())))
}

fn print_tables(run: &Run<'_>, densities: &[rigl::LayerDensity], done: &DoneRecord, [sparse, dense]: [f64; 2]) {
    let mut layers = Table::new(["layer", "shape", "density", "nnz"]);
    for (layer, solved) in run.trainer.network.architecture.layers.iter().zip(densities) {
        layers.row([
            layer.name.clone(),
            format!("{}×{}", layer.outputs, layer.inputs),
            Significant(solved.nnz as f64 / solved.size as f64).to_string(),
            solved.nnz.to_string(),
        ]);
    }
    println!("{layers}");

    let architecture = &run.trainer.network.architecture;
    let ratio = |ratio: f64| format!("{ratio:.3}×");
    let mut totals = Table::new(["", "this run", "dense", "ratio"]);
    totals.row(["density".to_owned(), Significant(done.density).to_string(), "1.00".to_owned(), ratio(done.density)]);
    let size = architecture.size();
    totals.row(["nnz".to_owned(), done.nnz.to_string(), size.to_string(), ratio(done.nnz as f64 / size as f64)]);
    totals.row([
        "inference flops/sample".to_owned(),
        format!("{sparse:.0}"),
        format!("{dense:.0}"),
        ratio(done.inference_flops_ratio),
    ]);
    totals.row([
        "training flops/sample".to_owned(),
        format!("{:.0}", done.train_flops_ratio * 3.0 * dense),
        format!("{:.0}", 3.0 * dense),
        ratio(done.train_flops_ratio),
    ]);
    let time = |ns: u64| format!("{} ms", Significant(ns as f64 / 1e6));
    match (done.step_time_ns, done.dense_step_time_ns) {
        (Some(sparse), Some(dense)) => totals.row([
            "time per step, measured".to_owned(),
            time(sparse),
            time(dense),
            ratio(sparse as f64 / dense as f64),
        ]),
        _ => totals.row(["time per step", "–", "too large to build", "–"]),
    }
    println!("{totals}");
    let (accuracy, loss) = (100.0 * done.test_accuracy, done.test_loss);
    println!("test accuracy {accuracy:.2}%  loss {loss:.4}");
    let per_second = done.samples_per_second;
    println!("trained in {:.1} s, {per_second:.0} samples/s on {} threads", done.train_seconds, run.cpu.threads());
    println!("results are in {}", Path::new(&done.run_dir).display());
}
