//! A whole training step on synthetic data: what a density's step costs beside the dense one.

use std::time::{Duration, Instant};

use ranks::{Ranks, StepTrace, Totals};
use rigl::LayerDensity;
use sparse_kernels::profile::KernelTime;
use sparse_kernels::random::Key;
use sparse_kernels::{Layout, MatrixRef};

use crate::data::{Batch, BatchInputs, InputForm, Lists, Sequences, Targets};
use crate::device::ComputeDevice;
use crate::error::Context;
use crate::method::Method;
use crate::models::{Architecture, Init, Initialization, Network};
use crate::settings::TrainConfig;
use crate::training::Trainer;

/// Time that steps on a queue may take before they are waited for.
const TURN: Duration = Duration::from_millis(200);

/// A network in training and a batch to train it on, over and over.
#[derive(Debug)]
pub struct StepBench<'b, B: ComputeDevice> {
    backend: &'b B,
    trainer: Trainer<'b, B>,
    batch: Batch,
}

impl<'b, B: ComputeDevice> StepBench<'b, B> {
    /// A network of these densities, on a batch of normal numbers with random labels. Format, optimizer and batch size are
    /// the configuration's; dropout is off, and no topology update comes.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn new(
        backend: &'b B,
        architecture: &Architecture,
        config: &TrainConfig,
        densities: &[LayerDensity],
    ) -> crate::Result<Self> {
        let config = TrainConfig { dropout: 0.0, begin_step: None, end_step: None, ..config.clone() };
        let initialization = Initialization { init: Init::DenseFanIn, ..config.initialization() };
        let batch_size = config.batch_size;
        let at_a_time = config.computed_at_a_time(batch_size);
        let network = Network::new(backend, architecture, densities, initialization, at_a_time)?;
        // A fixed pattern takes the step that every method takes between updates. The learning rate is small, so that
        // the loss stays finite however often the step is repeated.
        let fixed = TrainConfig { method: Method::named("static"), method_option: vec![], ..config.clone() };
        let (method, _) = fixed.scheduled_method(1)?;
        let mut options = config.step_options(1);
        options.learning_rate = autograd::optim::Schedule::constant(1e-6);
        let key = Key::new(config.seed).with_name("bench");
        let batch = match network.body.input_form(batch_size) {
            InputForm::Tokens { order, strip } => {
                let length = config.sequence().length;
                tokens(Sequences::new(order, strip, [batch_size, length], false), architecture.classes(), key)
            }
            InputForm::Lists => lists(batch_size, architecture, key),
            InputForm::Features { .. } | InputForm::Images { .. } => {
                values(network.body.input_layout(batch_size), architecture, &config, key)?
            }
        };
        let trainer = Trainer::new(backend, network, config.optimizer_options(), method, options)?;
        Ok(Self { backend, trainer, batch })
    }

    /// Shares the batch with other ranks.
    ///
    /// # Errors
    /// If there are more ranks than shards.
    pub fn join(&mut self, ranks: Ranks) -> crate::Result<()> {
        Ok(self.trainer.join(ranks)?)
    }

    /// What rank 0 says.
    ///
    /// # Errors
    /// If the ranks cannot be reached.
    pub fn agree(&self, own: bool) -> crate::Result<bool> {
        Ok(self.trainer.gather(&[f64::from(u8::from(own))])?[0][0] != 0.0)
    }

    /// When the sums of the last step came, and what all steps took; nothing without ranks.
    pub fn rank_times(&self) -> Option<(StepTrace, Totals)> {
        self.trainer.rank_times()
    }

    /// Bytes that this rank sends in a step.
    pub fn sent_bytes(&self) -> u64 {
        let sent = self.trainer.traffic();
        (sent.values + sent.other) / self.trainer.batches().max(1)
    }

    /// Stored weights.
    pub fn nnz(&self) -> usize {
        self.trainer.network.cost(self.backend).nnz
    }

    /// One training step.
    ///
    /// # Errors
    /// If it fails.
    pub fn step(&mut self) -> crate::Result<()> {
        self.trainer.train_on(&self.batch).context(|| "a step of the benchmark")?;
        Ok(())
    }

    /// So many training steps, and waits for them.
    ///
    /// # Errors
    /// If one fails.
    pub fn steps(&mut self, count: u32) -> crate::Result<()> {
        (0..count).try_for_each(|_| self.step())?;
        Ok(self.backend.synchronize()?)
    }

    /// How many steps to wait for at once: one, or where a device works through a queue as many as it likes to have between
    /// two readings, if they are short.
    ///
    /// # Errors
    /// If a step fails.
    pub fn steps_per_turn(&mut self) -> crate::Result<u32> {
        let most = self.backend.results_per_reading() as u32;
        // The first step compiles and allocates.
        self.steps(1)?;
        let start = Instant::now();
        self.steps(1)?;
        let fitting = TURN.as_secs_f64() / start.elapsed().as_secs_f64().max(1e-9);
        let fitting = self.trainer.gather(&[fitting])?[0][0];
        Ok((fitting as u32).clamp(1, most))
    }

    /// What a step's kernels took, each by itself.
    ///
    /// # Errors
    /// If the step fails or the device has no clock.
    pub fn profile(&mut self) -> crate::Result<Vec<KernelTime>> {
        self.backend.start_profile()?;
        self.step()?;
        Ok(self.backend.take_profile()?)
    }
}

/// Normal numbers with random labels.
fn values(layout: Layout, architecture: &Architecture, config: &TrainConfig, key: Key) -> crate::Result<Batch> {
    let batch_size = layout.samples();
    let mut images = vec![0.0; layout.len()];
    let values = architecture.inputs() * batch_size;
    let numbers: Vec<f32> = (0..values as u64).map(|i| key.normal(i)).collect();
    match layout {
        Layout::Strips(layout) => {
            let view = MatrixRef::new(&numbers, layout.features(), batch_size, batch_size)?;
            layout.pack(view, &mut images)?;
        }
        Layout::Images(layout) => layout.pack(&numbers, &mut images)?,
    }
    let classes = architecture.classes() as u64;
    let key = key.with_name("labels");
    let targets = match config.loss.is_of_classes() {
        true => Targets::Classes((0..batch_size as u64).map(|n| key.below(n, classes) as u32).collect()),
        false => Targets::Numbers {
            outputs: classes as usize,
            values: (0..batch_size as u64 * classes).map(|i| key.below(i, 2) as f32).collect(),
        },
    };
    Ok(Batch { inputs: BatchInputs::Values { layout, values: images }, targets, corrupt: vec![], part_of: None })
}

/// Features and labels of a sample, on average, of Amazon-670K.
const LISTED: [usize; 2] = [76, 5];

/// Lists of random features, with random labels.
fn lists(samples: usize, architecture: &Architecture, key: Key) -> Batch {
    let columns = [architecture.inputs(), architecture.classes()];
    let [mut inputs, mut labels] = columns.map(Lists::new);
    for sample in 0..samples as u64 {
        let rows = [0, 1].map(|which| {
            let key = key.with(which as u64).with(sample);
            let mut row: Vec<u32> =
                (0..LISTED[which] as u64).map(|i| (key.bits(i) % columns[which] as u64) as u32).collect();
            row.sort_unstable();
            row.dedup();
            row
        });
        let values: Vec<f32> = (0..rows[0].len()).map(|i| key.with(2).with(sample).uniform(i as u64)).collect();
        inputs.push(&rows[0], &values);
        labels.push(&rows[1], &[]);
    }
    Batch { inputs: BatchInputs::Lists(inputs), targets: Targets::Labels(labels), corrupt: vec![], part_of: None }
}

/// Random tokens, with random ones behind them.
fn tokens(sequences: Sequences, symbols: usize, key: Key) -> Batch {
    let draw = |name: &str| -> Vec<u32> {
        let key = key.with_name(name);
        (0..sequences.lanes() as u64).map(|lane| key.below(lane, symbols as u64) as u32).collect()
    };
    let targets = Targets::Classes(draw("labels"));
    Batch { inputs: BatchInputs::Tokens { sequences, tokens: draw("tokens") }, targets, corrupt: vec![], part_of: None }
}
