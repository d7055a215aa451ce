//! Training on a GPU follows training on the CPU; and where there is no GPU, nothing takes its place.

use std::process::Command;
use std::sync::{Arc, Mutex};

use rigl::{LayerUpdate, Layers, Method, MethodError, MethodInfo, MethodState, StepIntent};
use serde_json::Value;
use sparse_kernels::cpu::Cpu;
use sparse_kernels::gpu::Gpu;
use sparse_kernels::random::Key;
use sparse_kernels::{Backend, BackendError, Candidate, Layout, MatrixRef};
use trainer::checkpoint::Checkpoint;
use trainer::data;
use trainer::device::{ComputeDevice, backend_error};
use trainer::interrupt::Interrupt;
use trainer::models::{Architecture, ModelName, Network};
use trainer::run::RunParts;
use trainer::run_checkpoints::newest_checkpoint;
use trainer::run_dir::{RunDir, RunInfo};
use trainer::settings::TrainConfig;
use trainer::training::{OptimizerKind, Precision, Trainer};

/// The GPU; `None`, and a line that says so, where there is none. `RIGL_REQUIRE_GPU` makes that a failure.
fn gpu() -> Option<Gpu> {
    match Gpu::new(None) {
        Ok(gpu) => Some(gpu),
        Err(e) => {
            assert!(std::env::var_os("RIGL_REQUIRE_GPU").is_none(), "RIGL_REQUIRE_GPU is set, but: {e}");
            println!("not run: {e}");
            None
        }
    }
}

/// What growth found at each update: every layer's candidates with their scores.
type Found = Arc<Mutex<Vec<Vec<Vec<Candidate>>>>>;

/// A method whose candidates are looked at.
#[derive(Debug)]
struct Watched {
    method: Box<dyn Method>,
    found: Found,
}

impl Method for Watched {
    fn info(&self) -> &'static MethodInfo {
        self.method.info()
    }

    fn start(&mut self, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        self.method.start(layers)
    }

    fn before_gradient(&mut self, step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        self.method.before_gradient(step, layers)
    }

    fn after_gradient(
        &mut self,
        step: u64,
        layers: &dyn Layers,
        candidates: Vec<Vec<Candidate>>,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        if candidates.iter().any(|layer| !layer.is_empty()) {
            self.found.lock().unwrap().push(candidates.clone());
        }
        self.method.after_gradient(step, layers, candidates)
    }

    fn after_optimizer(
        &mut self,
        step: u64,
        learning_rate: f32,
        layers: &dyn Layers,
    ) -> Result<Vec<LayerUpdate>, MethodError> {
        self.method.after_optimizer(step, learning_rate, layers)
    }

    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        self.method.training_flops(f_sparse, f_dense)
    }

    fn state(&self) -> MethodState {
        self.method.state()
    }

    fn restore(&mut self, state: &MethodState) -> Result<(), MethodError> {
        self.method.restore(state)
    }
}

/// Steps of a schedule that no test reaches the end of.
const TOTAL: u64 = 1000;

struct Run<'b, B: Backend> {
    trainer: Trainer<'b, B>,
    found: Found,
    architecture: Architecture,
    batch: usize,
}

impl<'b, B: Backend> Run<'b, B> {
    fn new(backend: &'b B, config: &TrainConfig) -> Self {
        let architecture = Architecture::of(&config.model);
        let densities = config.sparsification().solve(&architecture).unwrap();
        let batch = config.batch_size;
        let network = Network::new(backend, &architecture, &densities, config.initialization(), batch).unwrap();
        let (method, _) = config.scheduled_method(TOTAL).unwrap();
        let found = Found::default();
        let watched = Box::new(Watched { method, found: found.clone() });
        let trainer = Trainer::new(backend, network, config.optimizer_options(), watched, config.step_options(TOTAL));
        let trainer = trainer.unwrap();
        Self { trainer, found, architecture, batch }
    }

    /// Trains on batch `i` of synthetic pictures whose classes can be told; its loss.
    fn step(&mut self, i: u64) -> f32 {
        let layout = self.trainer.network.body.input_layout(self.batch);
        let (inputs, classes) = (self.architecture.inputs(), self.architecture.classes() as u64);
        let key = Key::new(9).with_name("batch").with(i);
        let labels: Vec<u32> = (0..self.batch as u64).map(|n| key.below(n, classes) as u32).collect();
        let pattern = |class: u32, j: usize| Key::new(8).with(class.into()).normal(j as u64);
        let pixel =
            |n: usize, j: usize| 0.5 * pattern(labels[n], j) + key.with_name("noise").normal((n * inputs + j) as u64);
        let mut images = vec![0.0; layout.len()];
        match layout {
            Layout::Strips(layout) => {
                let data: Vec<f32> =
                    (0..inputs).flat_map(|j| (0..self.batch).map(move |n| (n, j))).map(|(n, j)| pixel(n, j)).collect();
                layout.pack(MatrixRef::new(&data, inputs, self.batch, self.batch).unwrap(), &mut images).unwrap();
            }
            Layout::Images(layout) => {
                let data: Vec<f32> =
                    (0..self.batch).flat_map(|n| (0..inputs).map(move |j| (n, j))).map(|(n, j)| pixel(n, j)).collect();
                layout.pack(&data, &mut images).unwrap();
            }
        }
        // One of the two has this step's loss.
        let mut training = self.trainer.train_batch(layout, &images, &labels).unwrap().training;
        training.merge(self.trainer.read_losses().unwrap());
        training.loss() as f32
    }

    fn checkpoint(&self) -> Checkpoint {
        self.trainer.checkpoint(None).unwrap()
    }
}

fn config(model: &str, method: &str, batch_size: usize) -> TrainConfig {
    TrainConfig {
        model: model.parse().unwrap(),
        method: trainer::method::Method::named(method),
        batch_size,
        density: 0.1,
        seed: 4,
        ..TrainConfig::default()
    }
}

/// Losses at a fixed topology.
fn losses_agree(gpu: &Gpu, config: &TrainConfig, steps: u64) {
    losses_agree_within(1e-3, gpu, config, steps);
}

fn losses_agree_within(bound: f32, gpu: &Gpu, config: &TrainConfig, steps: u64) {
    let cpu = Cpu::new(1, None).unwrap();
    let (mut on_cpu, mut on_gpu) = (Run::new(&cpu, config), Run::new(gpu, config));
    let (mut first, mut last) = (0.0, 0.0);
    for step in 0..steps {
        let (expected, got) = (on_cpu.step(step), on_gpu.step(step));
        let error = (got - expected).abs() / expected;
        assert!(error <= bound, "{}, step {step}: loss {got} instead of {expected}", config.model);
        (first, last) = (if step == 0 { expected } else { first }, expected);
    }
    assert!(last < 0.9 * first, "{} learns nothing: {first} to {last}", config.model);
}

#[test]
fn losses_of_a_perceptron_follow_the_cpu() {
    let Some(gpu) = gpu() else { return };
    losses_agree(&gpu, &config("lenet-300-100", "static", 64), 50);
    losses_agree(
        &gpu,
        &TrainConfig { optimizer: OptimizerKind::Adam, lr: 0.002, ..config("200-60-10", "static", 33) },
        50,
    );
    losses_agree(&gpu, &TrainConfig { format: "bsr4x4".parse().unwrap(), ..config("200-64-12", "static", 48) }, 20);
}

#[test]
fn losses_of_convolutional_networks_follow_the_cpu() {
    let Some(gpu) = gpu() else { return };
    losses_agree(&gpu, &TrainConfig { lr: 0.1, density: 0.3, ..config("lenet-5", "static", 20) }, 50);
    losses_agree(&gpu, &TrainConfig { lr: 0.02, density: 0.2, ..config("wrn-10-1", "static", 8) }, 7);
    let in_shards = TrainConfig { shards: Some(2), ..config("wrn-10-1", "static", 8) };
    losses_agree(&gpu, &TrainConfig { lr: 0.02, density: 0.2, ..in_shards }, 5);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/networks/mixed.toml");
    let model = ModelName::of_setting(file).unwrap();
    let mixed = TrainConfig { model, lr: 0.05, density: 0.3, dropout: 0.1, ..config("lenet-5", "static", 20) };
    losses_agree(&gpu, &mixed, 40);
}

/// Where sums differ in their last bits, a number that is stored in 16 bits may be the next one.
#[test]
fn losses_in_half_precision_follow_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let half = |model: &str, batch: usize| TrainConfig {
        precision: Precision::Bf16,
        recompute: model != "lenet-300-100",
        ..config(model, "static", batch)
    };
    losses_agree_within(1e-2, &gpu, &half("lenet-300-100", 64), 30);
    losses_agree_within(1e-2, &gpu, &TrainConfig { lr: 0.02, density: 0.2, ..half("wrn-10-1", 8) }, 7);
}

/// At an update from one state both devices find the same positions, but for those whose scores are as good as equal to the
/// least that was taken.
fn updates_agree(gpu: &Gpu, config: &TrainConfig, steps: u64) {
    let cpu = Cpu::new(1, None).unwrap();
    let (mut on_cpu, mut on_gpu) = (Run::new(&cpu, config), Run::new(gpu, config));
    let mut updates = 0;
    for step in 0..steps {
        on_gpu.trainer.restore(&on_cpu.checkpoint()).unwrap();
        on_cpu.step(step);
        on_gpu.step(step);
        let take = |found: &Found| found.lock().unwrap().pop();
        let (expected, got) = (take(&on_cpu.found), take(&on_gpu.found));
        assert_eq!(expected.is_some(), got.is_some(), "step {step}");
        let (Some(expected), Some(got)) = (expected, got) else { continue };
        updates += 1;
        for (layer, (expected, got)) in expected.iter().zip(&got).enumerate() {
            assert_eq!(expected.len(), got.len(), "step {step}, layer {layer}");
            let Some(threshold) = expected.iter().map(|c| c.score).min_by(f32::total_cmp) else { continue };
            let only = |a: &[Candidate], b: &[Candidate]| -> Vec<Candidate> {
                let has = |c: &&Candidate| !b.iter().any(|other| (other.row, other.column) == (c.row, c.column));
                a.iter().filter(has).copied().collect()
            };
            for odd in only(expected, got).into_iter().chain(only(got, expected)) {
                let error = (odd.score - threshold).abs();
                assert!(error <= 1e-5 * threshold, "step {step}, layer {layer}: {odd:?}, threshold {threshold}");
            }
        }
        let sizes = |checkpoint: &Checkpoint| -> Vec<_> {
            checkpoint.tensors.iter().map(|(name, tensor)| (name.clone(), tensor.shape().to_vec())).collect()
        };
        assert_eq!(sizes(&on_cpu.checkpoint()), sizes(&on_gpu.checkpoint()), "step {step}");
    }
    assert!(updates >= 2, "{updates} updates in {steps} steps");
}

#[test]
fn topology_updates_follow_the_cpu() {
    let Some(gpu) = gpu() else { return };
    let update = |config: TrainConfig| TrainConfig { update_interval: 3, begin_step: Some(3), ..config };
    updates_agree(&gpu, &update(config("lenet-300-100", "rigl", 64)), 10);
    updates_agree(&gpu, &update(TrainConfig { shards: Some(3), ..config("lenet-300-100", "rigl", 64) }), 8);
    updates_agree(&gpu, &update(TrainConfig { lr: 0.02, ..config("lenet-5", "rigl", 20) }), 8);
    updates_agree(
        &gpu,
        &update(TrainConfig { format: "bsr4x4".parse().unwrap(), ..config("200-64-12", "rigl", 48) }),
        8,
    );
}

fn rigl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-under-test"));
    command.env_remove("RIGL_DATA_DIR").args(args);
    command
}

fn records(output: &std::process::Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The command trains, goes on on the other device, and evaluates on both alike.
#[test]
fn a_run_moves_between_devices() {
    if gpu().is_none() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let path = run.to_str().unwrap();
    let train = ["train", "--json", "--model", "784-64-10", "--steps", "60", "--update-interval", "10", "--epochs"];
    let mut args = train[..train.len() - 1].to_vec();
    args.extend(["--checkpoint-every", "20", "--device", "gpu", "--out", path]);
    let done = records(&rigl(&args).output().unwrap()).pop().unwrap();
    assert_eq!(done["event"], "done");
    let host: Value = serde_json::from_str(&std::fs::read_to_string(run.join("run.json")).unwrap()).unwrap();
    assert_ne!(host["device"], "cpu");
    // Back to an earlier checkpoint, and on on the CPU.
    std::fs::remove_file(run.join("checkpoint.safetensors")).unwrap();
    let again =
        records(&rigl(&["train", "--json", "--resume", path, "--device", "cpu"]).output().unwrap()).pop().unwrap();
    let difference = (again["test_accuracy"].as_f64().unwrap() - done["test_accuracy"].as_f64().unwrap()).abs();
    assert!(difference < 0.02, "{again} {done}");
    let eval =
        |device: &str| records(&rigl(&["eval", path, "--json", "--device", device]).output().unwrap()).pop().unwrap();
    let (on_cpu, on_gpu) = (eval("cpu"), eval("gpu"));
    let loss = |record: &Value| record["loss"].as_f64().unwrap();
    assert!((loss(&on_cpu) - loss(&on_gpu)).abs() < 1e-4 * loss(&on_cpu), "{on_cpu} {on_gpu}");
}

/// What was saved before the device went is there, and the error says how to go on.
#[test]
fn a_run_survives_the_loss_of_its_device() {
    let Some(gpu) = gpu() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let config = TrainConfig {
        epochs: None,
        steps: Some(1500),
        checkpoint_every: Some(30),
        update_interval: 50,
        out: Some(path.clone()),
        ..config("784-16-10", "rigl", 20)
    };
    let data = data::load_sized(&config.data, None, config.image_size).unwrap();
    let architecture = Architecture::of(&config.model);
    let densities = config.sparsification().solve(&architecture).unwrap();
    let (drawn, batch) = (config.initialization(), config.batch_size);
    let network = Network::new(&gpu, &architecture, &densities, drawn, batch).unwrap();
    let trainer = config.trainer(&gpu, network, 1500).unwrap();
    let run_dir = RunDir::create(&config, &RunInfo::new(gpu.place())).unwrap();
    let interrupt = Interrupt::default();
    let parts = RunParts { device: &gpu, config: &config, data: &data, trainer, run_dir, total_steps: 1500, interrupt };
    let mut run = trainer::run::Run::new(parts);
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let start = std::time::Instant::now();
            while newest_checkpoint(&path).map_or(true, |(found, _)| found.is_none()) {
                assert!(start.elapsed().as_secs() < 100, "nothing is saved");
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            gpu.close();
        });
        run.train().unwrap_err()
    });
    let said = format!("{error:#}");
    assert!(matches!(backend_error(&error), Some(BackendError::DeviceLost { .. })), "{said}");
    assert!(said.contains("the last good state is") && said.contains("--resume"), "{said}");
    drop(run);
    let resume = ["train", "--json", "--resume", path.to_str().unwrap(), "--device", "cpu"];
    let done = records(&rigl(&resume).output().unwrap()).pop().unwrap();
    assert_eq!((&done["event"], &done["steps"]), (&"done".into(), &1500.into()), "{done}");
}

/// Without a driver: exit code 1, the reason, and no run.
#[test]
fn nothing_takes_the_place_of_a_gpu_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for args in [
        &["train", "--device", "gpu", "--steps", "1", "--out", run.to_str().unwrap()][..],
        &["bench", "step", "--device", "gpu", "--model", "20-10"],
        &["bench", "kernel", "--device", "gpu", "--shape", "8x8x8"],
    ] {
        let mut command = rigl(args);
        // A list of drivers that has none.
        command.env("VK_DRIVER_FILES", "/nowhere.json").env("VK_ICD_FILENAMES", "/nowhere.json");
        let output = command.output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        assert!(message.contains("no GPU"), "{args:?}: {message}");
        assert!(!run.exists());
    }
    let mut command = rigl(&["devices", "--json"]);
    command.env("VK_DRIVER_FILES", "/nowhere.json").env("VK_ICD_FILENAMES", "/nowhere.json");
    let devices = records(&command.output().unwrap());
    assert_eq!(devices.len(), 1, "{devices:?}");
    assert_eq!(devices[0]["device"], "cpu");
}

/// A GPU that the list does not have.
#[test]
fn devices_are_numbered() {
    if gpu().is_none() {
        return;
    }
    let devices = records(&rigl(&["devices", "--json"]).output().unwrap());
    assert!(devices.len() >= 2);
    assert_eq!(devices[1]["device"], "gpu:0");
    let output = rigl(&["train", "--device", "gpu:99", "--steps", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("gpu:99"));
}

#[test]
fn a_step_is_measured() {
    if gpu().is_none() {
        return;
    }
    let args =
        ["bench", "step", "--json", "--budget", "0.1", "--device", "gpu", "--model", "20-30-10", "--density", "0.5"];
    let record = records(&rigl(&args).output().unwrap()).pop().unwrap();
    assert!(record["time_ns"].as_u64() > Some(0) && record["dense_time_ns"].as_u64() > Some(0), "{record}");
}

/// Benchmarks take what is for GPUs, and refuse what is for processors.
#[test]
fn kernels_in_halves_and_portable_ones_are_measured() {
    if gpu().is_none() {
        return;
    }
    let shape = ["bench", "kernel", "--json", "--budget", "0.1", "--shape", "40x50x20", "--density", "0.3"];
    for (op, dtype, isa) in [("spmm", "f16", "auto"), ("spmm_t", "bf16", "portable"), ("sddmm", "bf16", "auto")] {
        let args = [&shape[..], &["--device", "gpu", "--op", op, "--dtype", dtype, "--isa", isa]].concat();
        let record = records(&rigl(&args).output().unwrap()).pop().unwrap();
        assert_eq!((&record["op"], &record["dtype"]), (&op.into(), &dtype.into()));
        assert!(record["failed"] == false && record["time_ns"].as_u64() > Some(0), "{record}");
    }
    for (wrong, part) in [
        (&["--device", "gpu", "--isa", "avx2"][..], "portable"),
        (&["--device", "gpu", "--threads", "2"], "--device gpu"),
        (&["--device", "gpu", "--op", "grow", "--dtype", "f16"], "spmm, spmm_t or sddmm"),
        (&["--device", "gpu", "--format", "bsr4x4", "--dtype", "bf16"], "--format csr"),
        (&["--dtype", "f16"], "--device gpu"),
        (&["--isa", "portable"], "avx512"),
    ] {
        let args = [&shape[..], wrong].concat();
        let output = rigl(&args).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {message}");
        assert!(message.contains(part), "{wrong:?}: {message}");
    }
    let output = rigl(&["bench", "kernel", "--device", "gpu", "--op", "conv_forward", "--format", "bsr4x4"]).output();
    let output = output.unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("format: bsr4x4") && message.contains("no convolutions in blocks on a GPU"), "{message}");
}
