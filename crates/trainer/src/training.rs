//! The training step: forward, backward, optimizer and topology, on any backend.

use autograd::optim::{Adam, AdamOptions, Decay, Optimizer, Schedule, Sgd, SgdOptions};
use autograd::{Arena, DetachedLoss, GrowthPasses, GrowthRequests, LossStats, Mode, NoReduce, Tape};
use rigl::{
    GradientNeed, LayerUpdate, LoopSemantics, Method, MethodOptions, MethodState, ScheduleOptions, StepIntent,
    UpdateSchedule,
};
use serde::{Deserialize, Serialize};
use sparse_kernels::random::Key;
use sparse_kernels::{Activations, Backend, GrowRequest, Layout};

use crate::checkpoint::{Checkpoint, CheckpointError, TensorData};
use crate::choice::choices;
use crate::models::{ModelInput, Network, StoredModel};
use crate::settings::TrainConfig;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainingError {
    /// The loss is NaN or infinite.
    #[error(
        "the training loss is {loss} at step {step} (learning rate {learning_rate}); try a lower lr or more \
         warmup-steps, or check the data"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// The loss.
        loss: f32,
        /// The learning rate then.
        learning_rate: f32,
    },
    /// The tape, an optimizer or the backend failed.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
    /// A checkpoint does not fit, or cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The method failed.
    #[error(transparent)]
    Method(#[from] rigl::MethodError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] sparse_kernels::BackendError),
}

choices! {
    /// What an update of the topology does to its training step.
    UpdateSemantics {
        /// It replaces the optimizer step and counts as a step (the paper's Algorithm 1).
        Paper,
        /// It replaces the optimizer step but does not count, so the run takes one more batch (the authors' code).
        Reference,
    }
    /// The optimizer.
    OptimizerKind {
        /// Stochastic gradient descent.
        Sgd,
        /// Adam with weight decay in the gradient.
        Adam,
        /// Adam with decoupled weight decay.
        Adamw,
    }
    /// How the learning rate changes.
    LrSchedule {
        /// Constant.
        Constant,
        /// Multiplied by a factor at given steps.
        Step,
        /// Half a cosine, down to 0 at the end.
        Cosine,
    }
}

/// The steps at which the topology may change: `begin <= step < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpdateWindow {
    /// First step with an update.
    pub begin: u64,
    /// Step at which updates have ended.
    pub end: u64,
}

/// What a step does beside the network and the method.
#[derive(Debug, Clone)]
pub struct StepOptions {
    /// Learning rate as a function of the step.
    pub learning_rate: Schedule,
    /// Share of the target spread over all classes.
    pub label_smoothing: f32,
    /// Share of hidden activations dropped.
    pub dropout: f32,
    /// Seed of the dropout.
    pub seed: u64,
    /// Batches over which an update adds up the gradient that it grows by. With more than one, a dense gradient of the sparse
    /// layers is held meanwhile.
    pub growth_batches: u64,
}

impl StepOptions {
    /// The options of a run of `total_steps`.
    pub fn of(config: &TrainConfig, total_steps: u64) -> Self {
        let decay = match config.lr_schedule {
            LrSchedule::Constant => Decay::Constant,
            LrSchedule::Step => Decay::Step { milestones: config.lr_milestones.clone(), gamma: config.lr_gamma as f32 },
            LrSchedule::Cosine => Decay::Cosine { total: total_steps },
        };
        Self {
            learning_rate: Schedule { base: config.lr as f32, warmup_steps: config.warmup_steps, decay },
            label_smoothing: config.label_smoothing as f32,
            dropout: config.dropout as f32,
            seed: config.seed,
            growth_batches: config.growth_batches,
        }
    }
}

/// Builds the optimizer of a configuration, with its slots in `parameters`.
///
/// # Errors
/// If the backend is out of memory for the slots.
pub fn optimizer<B: Backend>(
    config: &TrainConfig,
    backend: &B,
    network: &mut Network<B>,
) -> Result<Optimizer, autograd::Error> {
    let weight_decay = config.weight_decay as f32;
    let parameters = &mut network.parameters;
    Ok(match config.optimizer {
        OptimizerKind::Sgd => {
            let (momentum, nesterov) = (config.momentum as f32, config.nesterov && config.momentum > 0.0);
            let options = SgdOptions { momentum, nesterov, weight_decay, ..SgdOptions::default() };
            Optimizer::Sgd(Sgd::new(options, backend, parameters)?)
        }
        OptimizerKind::Adam | OptimizerKind::Adamw => {
            let decoupled = config.optimizer == OptimizerKind::Adamw;
            let options = AdamOptions { weight_decay, decoupled, ..AdamOptions::default() };
            Optimizer::Adam(Adam::new(options, backend, parameters)?)
        }
    })
}

/// Builds the method of a configuration. `Ok(None)` in the second place if the run is too short for any update.
///
/// # Errors
/// [`crate::settings::error::ConfigError`] or [`rigl::ScheduleError`] if the schedule is impossible.
pub fn method(config: &TrainConfig, total_steps: u64) -> anyhow::Result<(Box<dyn Method>, Option<UpdateWindow>)> {
    let window = config.update_window(total_steps)?;
    let semantics = match config.update_semantics {
        UpdateSemantics::Paper => LoopSemantics::PAPER,
        UpdateSemantics::Reference => config.method.info().reference_semantics,
    };
    let schedule = UpdateSchedule::new(ScheduleOptions {
        // A window behind the run's end never opens.
        begin_step: window.map_or(total_steps, |w| w.begin),
        end_step: Some(window.map_or(total_steps + 1, |w| w.end)),
        update_interval: config.update_interval,
        drop_fraction: config.drop_fraction,
        drop_schedule: config.drop_schedule,
        drop_exponent: config.drop_exponent,
        end_inclusive: config.update_semantics == UpdateSemantics::Reference,
        semantics,
    })?;
    let parameters = config.method_option.iter().map(|option| (option.name.clone(), option.value.clone()));
    let options = MethodOptions {
        schedule,
        seed: config.seed,
        growth_batches: config.growth_batches,
        total_steps,
        parameters: parameters.collect(),
    };
    Ok((rigl::build_method(config.method.info().name, &options)?, window))
}

/// What a training step tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Loss and right answers of the batches whose losses were read: of this one, before the step's changes, where a device
    /// is read from after each step; else of all since the last reading, or of none.
    pub loss: LossStats,
    /// Whether the optimizer stepped; if not, the topology was updated instead.
    pub optimizer_stepped: bool,
    /// Whether some layer's topology was changed.
    pub topology_changed: bool,
}

/// Of no batch.
const NO_LOSS: LossStats = LossStats { sum: 0.0, correct: 0, lanes: 0 };

/// What a pass needs beside the parameters, kept from one to the next.
#[derive(Debug)]
struct Workspace<'b, B: Backend> {
    backend: &'b B,
    arena: Arena<B>,
    labels: Option<(usize, B::Indices)>,
    /// Of the images of the last pass.
    images: Option<Layout>,
}

impl<'b, B: Backend> Workspace<'b, B> {
    fn new(backend: &'b B) -> Self {
        Self { backend, arena: Arena::new(), labels: None, images: None }
    }

    /// Copies a batch to the device: images and, in [`Workspace::labels`], labels.
    fn upload(&mut self, layout: Layout, images: &[f32], labels: &[u32]) -> Result<Activations<B>, TrainingError> {
        // Images of batches of two sizes would take twice the memory; a change of size comes twice an epoch.
        if matches!(layout, Layout::Images(_)) && self.images.replace(layout).is_some_and(|last| last != layout) {
            self.arena.clear();
        }
        if self.labels.as_ref().is_none_or(|(room, _)| *room < labels.len()) {
            self.labels = Some((labels.len(), self.backend.index_zeros(labels.len())?));
        }
        let (_, buffer) = self.labels.as_mut().expect("made above");
        self.backend.upload_indices(labels, buffer)?;
        let mut input = self.arena.take_activations(self.backend, layout)?;
        self.backend.upload(images, input.data_mut())?;
        Ok(input)
    }

    fn evaluate(
        &mut self,
        network: &mut Network<B>,
        layout: Layout,
        images: &[f32],
        labels: &[u32],
    ) -> Result<LossStats, TrainingError> {
        let input = self.upload(layout, images, labels)?;
        let mut tape = Tape::new(self.backend, &mut self.arena, &mut network.parameters, Mode::Evaluation);
        let x = tape.input(input, false);
        let logits = network.body.forward(&mut tape, x, 0.0, Key::new(0))?;
        let (_, labels) = self.labels.as_ref().expect("`upload` has made it");
        let loss = tape.softmax_cross_entropy(logits, labels, 0.0)?;
        Ok(tape.read_loss(loss)?)
    }

    fn training_pass(
        &mut self,
        network: &mut Network<B>,
        layout: Layout,
        images: &[f32],
        labels: &[u32],
        backward: bool,
    ) -> Result<LossStats, TrainingError> {
        let input = self.upload(layout, images, labels)?;
        let mut tape = Tape::new(self.backend, &mut self.arena, &mut network.parameters, Mode::Training);
        let x = tape.input(input, false);
        let logits = network.body.forward(&mut tape, x, 0.0, Key::new(0))?;
        let (_, labels) = self.labels.as_ref().expect("`upload` has made it");
        let loss = tape.softmax_cross_entropy(logits, labels, 0.0)?;
        if backward {
            tape.backward(&[loss], &mut GrowthRequests::new(), &mut NoReduce)?;
        }
        Ok(tape.read_loss(loss)?)
    }
}

/// A network that is used, not trained.
#[derive(Debug)]
pub struct Evaluator<'b, B: Backend> {
    /// The network.
    pub network: Network<B>,
    workspace: Workspace<'b, B>,
}

impl<'b, B: Backend> Evaluator<'b, B> {
    /// Takes the network.
    pub fn new(backend: &'b B, network: Network<B>) -> Self {
        Self { network, workspace: Workspace::new(backend) }
    }

    /// Loss and right answers on one batch: `images` in `layout`, one label per lane.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn evaluate_batch(
        &mut self,
        layout: impl Into<Layout>,
        images: &[f32],
        labels: &[u32],
    ) -> Result<LossStats, TrainingError> {
        self.workspace.evaluate(&mut self.network, layout.into(), images, labels)
    }

    /// One forward pass as in training, without dropout: normalisations take the batch's moments, and move the running ones.
    /// With `backward`, the gradients of the mean loss stand in the network's parameters afterwards. No weight changes.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn training_pass(
        &mut self,
        layout: impl Into<Layout>,
        images: &[f32],
        labels: &[u32],
        backward: bool,
    ) -> Result<LossStats, TrainingError> {
        self.workspace.training_pass(&mut self.network, layout.into(), images, labels, backward)
    }
}

/// A network in training.
///
/// Its whole state goes to a file and back in three lines:
///
/// ```
/// # use trainer::settings::TrainConfig;
/// # use trainer::models::{Architecture, Initialization, Network, Sparsification};
/// # use trainer::training::{self, StepOptions, Trainer};
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.safetensors");
/// # let config = TrainConfig { model: "20-30-10".parse()?, ..TrainConfig::default() };
/// # let cpu = sparse_kernels::cpu::Cpu::new(1, None)?;
/// # let architecture = Architecture::of(&config.model);
/// # let densities = Sparsification::of(&config).solve(&architecture)?;
/// # let initialization = Initialization { format: config.format, init: config.init, seed: config.seed };
/// # let mut network = Network::new(&cpu, &architecture, &densities, initialization, 100)?;
/// # let optimizer = training::optimizer(&config, &cpu, &mut network)?;
/// # let (method, _) = training::method(&config, 100)?;
/// # let mut trainer = Trainer::new(&cpu, network, optimizer, method, StepOptions::of(&config, 100));
/// use trainer::checkpoint::Checkpoint;
/// trainer.checkpoint(None)?.save_atomic(&path)?;
/// // … later, on a trainer of the same model, optimizer and method:
/// trainer.restore(&Checkpoint::load(&path)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Trainer<'b, B: Backend> {
    backend: &'b B,
    /// The network.
    pub network: Network<B>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The method.
    pub method: Box<dyn Method>,
    options: StepOptions,
    workspace: Workspace<'b, B>,
    step: u64,
    batches: u64,
    /// An update that has begun, and waits for more batches.
    update: Option<Update>,
    /// Losses that are still on the device.
    unread: Vec<UnreadLoss<B>>,
}

/// A step's loss that is still on the device.
#[derive(Debug)]
struct UnreadLoss<B: Backend> {
    step: u64,
    learning_rate: f32,
    loss: DetachedLoss<B>,
}

/// A step that has begun.
#[derive(Debug)]
struct Update {
    /// What the method wants, but for `needs`.
    intent: StepIntent,
    requests: Vec<(autograd::ParameterId, GrowRequest)>,
    /// Parameters whose gradient is asked for at all positions.
    dense: Vec<autograd::ParameterId>,
    /// Whether any gradient of a weight is asked for.
    any: bool,
    /// Passes to come, the next one included.
    passes_left: u64,
}

/// Ends the name of the tensor with the weights behind those that take part.
const LATENT: &str = ".weight.latent";
/// Begins the names of the tensors that hold a method's arrays.
const OF_METHOD: &str = "method.";

/// What a checkpoint holds of a training loop beside tensors.
#[derive(Debug, Serialize, Deserialize)]
struct TrainingState {
    /// With the counters, the state of all random numbers.
    seed: u64,
    step: u64,
    batches: u64,
    optimizer: String,
    optimizer_steps: u64,
    method: MethodState,
}

impl<'b, B: Backend> Trainer<'b, B> {
    /// Puts the parts together at step 0.
    pub fn new(
        backend: &'b B,
        network: Network<B>,
        optimizer: Optimizer,
        method: Box<dyn Method>,
        options: StepOptions,
    ) -> Self {
        let workspace = Workspace::new(backend);
        Self {
            backend,
            network,
            optimizer,
            method,
            options,
            workspace,
            step: 0,
            batches: 0,
            update: None,
            unread: vec![],
        }
    }

    /// The step counter: what schedules and methods go by.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Batches used so far. More than [`Trainer::step`] if topology updates do not count as steps.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Whether a topology update has begun and waits for more batches ([`StepOptions::growth_batches`]). There is no checkpoint
    /// of such a state.
    pub fn is_within_update(&self) -> bool {
        self.update.is_some()
    }

    /// Asks the method what the step is to do.
    fn begin_step(&mut self, sparse: &[autograd::ParameterId]) -> Result<Update, TrainingError> {
        if self.batches == 0 {
            let updates = self.method.start(&self.network.sparse_layers(self.backend))?;
            self.apply(updates)?;
        }
        let mut intent = self.method.before_gradient(self.step, &self.network.sparse_layers(self.backend))?;
        let request = |(&parameter, need)| match need {
            GradientNeed::Growth(request) => Some((parameter, request)),
            GradientNeed::None | GradientNeed::Sampled | GradientNeed::Dense => None,
        };
        let needs = std::mem::take(&mut intent.needs);
        let wants_dense = |(_, need): &(_, &GradientNeed)| **need == GradientNeed::Dense;
        let dense = sparse.iter().zip(&needs).filter(wants_dense).map(|(&parameter, _)| parameter).collect();
        let any = needs.iter().any(|need| *need != GradientNeed::None);
        let requests: Vec<_> = sparse.iter().zip(needs).filter_map(request).collect();
        let passes_left = if requests.is_empty() { 1 } else { self.options.growth_batches.max(1) };
        Ok(Update { intent, requests, dense, any, passes_left })
    }

    /// Loss and right answers of the batches whose losses are still on the device, which a checkpoint must not pass over.
    ///
    /// # Errors
    /// [`TrainingError::Diverged`] of the first that did.
    pub fn read_losses(&mut self) -> Result<LossStats, TrainingError> {
        let (steps, losses): (Vec<_>, Vec<_>) =
            self.unread.drain(..).map(|unread| ((unread.step, unread.learning_rate), unread.loss)).unzip();
        let mut sum = NO_LOSS;
        if losses.is_empty() {
            return Ok(sum);
        }
        let stats = DetachedLoss::read_all(self.backend, &mut self.workspace.arena, losses)?;
        for ((step, learning_rate), loss) in steps.into_iter().zip(stats) {
            if !loss.sum.is_finite() {
                return Err(TrainingError::Diverged { step, loss: loss.mean(), learning_rate });
            }
            sum.sum += loss.sum;
            sum.correct += loss.correct;
            sum.lanes += loss.lanes;
        }
        Ok(sum)
    }

    /// Trains on one batch: `images` in `layout`, one label per lane.
    ///
    /// # Errors
    /// [`TrainingError`]; after `Diverged` the parameters are as before the step, where losses are read after each.
    pub fn train_batch(
        &mut self,
        layout: impl Into<Layout>,
        images: &[f32],
        labels: &[u32],
    ) -> Result<StepReport, TrainingError> {
        let layout = layout.into();
        let sparse: Vec<_> = self.network.body.layers.iter().filter(|l| l.sparse).map(|l| l.weight).collect();
        let Update { intent, requests, dense, any, passes_left } = match self.update.take() {
            Some(update) => update,
            None => self.begin_step(&sparse)?,
        };
        let passes = match (self.options.growth_batches, passes_left) {
            (0 | 1, _) => GrowthPasses::One,
            (_, 0 | 1) => GrowthPasses::Last,
            _ => GrowthPasses::More,
        };
        let mut growth = GrowthRequests::new();
        requests.iter().for_each(|(parameter, request)| growth.add(*parameter, passes, request.clone()));
        dense.iter().for_each(|&parameter| growth.add_dense(parameter));
        // At an update that takes the optimizer's place, gradients are of use only where the method asks for them.
        let backward = intent.optimizer_step || any;
        let loss = self.pass(layout, images, labels, backward.then_some(&mut growth))?;
        let learning_rate = self.options.learning_rate.at(self.step);
        self.unread.push(UnreadLoss { step: self.step, learning_rate, loss });
        let is_due = self.unread.len() >= self.backend.results_per_reading();
        let loss = if is_due { self.read_losses()? } else { NO_LOSS };
        if passes == GrowthPasses::More && !requests.is_empty() {
            self.batches += 1;
            self.update = Some(Update { intent, requests, dense, any, passes_left: passes_left - 1 });
            return Ok(StepReport { loss, optimizer_stepped: false, topology_changed: false });
        }
        let candidates = sparse.iter().map(|&p| growth.take(p).unwrap_or_default()).collect();
        let layers = self.network.sparse_layers(self.backend);
        let updates = self.method.after_gradient(self.step, &layers, candidates)?;
        let mut topology_changed = !updates.is_empty();
        self.apply(updates)?;
        if intent.optimizer_step {
            self.optimizer.step(self.backend, &mut self.network.parameters, learning_rate)?;
        }
        self.batches += 1;
        self.step += u64::from(intent.advance_counter);
        if intent.optimizer_step {
            let layers = self.network.sparse_layers(self.backend);
            let updates = self.method.after_optimizer(self.step, learning_rate, &layers)?;
            topology_changed |= !updates.is_empty();
            self.apply(updates)?;
        }
        self.backend.submit()?;
        Ok(StepReport { loss, optimizer_stepped: intent.optimizer_step, topology_changed })
    }

    /// Loss and right answers on one batch, without training on it.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn evaluate_batch(
        &mut self,
        layout: impl Into<Layout>,
        images: &[f32],
        labels: &[u32],
    ) -> Result<LossStats, TrainingError> {
        self.workspace.evaluate(&mut self.network, layout.into(), images, labels)
    }

    /// The state between two steps: weights, patterns, optimizer slots, and all counters. `input` says what the model's
    /// inputs are made from, for those who use it. Equal states make equal bytes.
    ///
    /// # Errors
    /// If the backend fails.
    ///
    /// # Cost
    /// A copy of weights, patterns and slots on the host.
    pub fn checkpoint(&self, input: Option<ModelInput>) -> Result<Checkpoint, TrainingError> {
        let mut checkpoint = self.network.to_stored(self.backend, input)?.to_checkpoint();
        for (name, id, slot) in self.slots() {
            let values = self.network.parameters.download_slot(self.backend, id, slot)?;
            checkpoint.tensors.insert(name, TensorData::f32s(values));
        }
        for (layer, id) in self.latent() {
            let values = self.network.parameters.download_values(self.backend, id)?;
            checkpoint.tensors.insert(format!("{layer}{LATENT}"), TensorData::f32s(values));
        }
        let mut method = self.method.state();
        for (name, values) in std::mem::take(&mut method.arrays) {
            checkpoint.tensors.insert(format!("{OF_METHOD}{name}"), TensorData::f32s(values));
        }
        let state = TrainingState {
            seed: self.options.seed,
            step: self.step,
            batches: self.batches,
            optimizer: self.optimizer.name().to_owned(),
            optimizer_steps: self.optimizer.steps(),
            method,
        };
        checkpoint.set_section("training", &state);
        Ok(checkpoint)
    }

    /// Goes back to a state: the next step is the one that followed [`Trainer::checkpoint`].
    ///
    /// # Errors
    /// If the state is of another model, seed, optimizer or method, or incomplete. The trainer then is as it was, unless
    /// it is the backend that failed.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainingError> {
        let mut state: TrainingState = checkpoint.section("training")?;
        for name in checkpoint.tensors.keys().filter_map(|name| name.strip_prefix(OF_METHOD)) {
            let values = checkpoint.f32s(&format!("{OF_METHOD}{name}"))?.to_vec();
            state.method.arrays.insert(name.to_owned(), values);
        }
        let stored = StoredModel::from_checkpoint(checkpoint)?;
        if state.seed != self.options.seed {
            return Err(CheckpointError::mismatch("the seed", state.seed, self.options.seed).into());
        }
        if state.optimizer != self.optimizer.name() {
            return Err(CheckpointError::mismatch("the optimizer", state.optimizer, self.optimizer.name()).into());
        }
        if stored.architecture()? != self.network.architecture {
            let expected = self.network.architecture.name();
            return Err(CheckpointError::mismatch("the model", stored.name(), expected).into());
        }
        for (layer, stored) in self.network.body.layers.iter().zip(&stored.layers) {
            let (got, expected) = (stored.weight.storage(), self.network.storage(self.backend, layer));
            let pruned_since = layer.is_still_dense() && stored.weight.is_sparse();
            if got != expected && !pruned_since {
                let what = format!("the storage of layer {}", layer.name);
                return Err(CheckpointError::mismatch(what, got, expected).into());
            }
            let is_latent = self.latent().any(|(_, id)| id == layer.weight);
            let learned = if is_latent { stored.weight.shape().iter().product() } else { stored.weight.nnz() };
            if is_latent {
                let name = format!("{}{LATENT}", layer.name);
                let got = checkpoint.f32s(&name)?.len();
                if got != learned {
                    return Err(
                        CheckpointError::mismatch(format!("the number of values of {name}"), got, learned).into()
                    );
                }
            }
            self.check_slots(checkpoint, &format!("{}.weight", layer.name), learned)?;
            if layer.bias.is_some() {
                self.check_slots(checkpoint, &format!("{}.bias", layer.name), stored.bias.len())?;
            }
        }
        let norms = stored.convolutional.iter().flat_map(|parts| &parts.norms);
        for norm in norms.clone() {
            self.check_slots(checkpoint, &format!("{}.affine", norm.name), norm.affine.len())?;
        }
        self.method.restore(&state.method)?;
        let latent: Vec<_> = self.latent().map(|(_, id)| id).collect();
        for (i, stored) in stored.layers.iter().enumerate() {
            if let Some(topology) = stored.weight.topology() {
                self.network.replace_topology(self.backend, i, topology.clone())?;
            }
            let layer = &self.network.body.layers[i];
            let values = match latent.contains(&layer.weight) {
                true => checkpoint.f32s(&format!("{}{LATENT}", layer.name))?,
                false => stored.weight.values(),
            };
            let parameters = &mut self.network.parameters;
            parameters.upload_values(self.backend, layer.weight, values)?;
            if let Some(bias) = layer.bias {
                parameters.upload_values(self.backend, bias, &stored.bias)?;
            }
        }
        for (norm, stored) in self.network.body.norms.iter().zip(norms) {
            self.network.parameters.upload_values(self.backend, norm.affine, &stored.affine)?;
            self.network.parameters.upload_values(self.backend, norm.running, &stored.running)?;
        }
        for (name, id, slot) in self.slots() {
            self.network.parameters.upload_slot(self.backend, id, slot, checkpoint.f32s(&name)?)?;
        }
        self.optimizer.set_steps(state.optimizer_steps);
        self.update = None;
        self.unread.clear();
        (self.step, self.batches) = (state.step, state.batches);
        Ok(())
    }

    /// Name and weight of every layer with weights behind those that take part.
    fn latent(&self) -> impl Iterator<Item = (&str, autograd::ParameterId)> {
        let latent = |layer: &&crate::models::Layer| self.network.weight(layer.weight).is_latent();
        self.network.body.layers.iter().filter(latent).map(|layer| (&*layer.name, layer.weight))
    }

    /// Name in a checkpoint, parameter and name of every optimizer slot.
    fn slots(&self) -> Vec<(String, autograd::ParameterId, &'static str)> {
        let mut slots = Vec::new();
        for (id, parameter) in self.network.parameters.iter().filter(|(_, p)| p.value().is_learned()) {
            let name = parameter.name();
            slots.extend(self.optimizer.slots().iter().map(|&slot| (format!("{name}.{slot}"), id, slot)));
        }
        slots
    }

    /// A checkpoint must have a parameter's slots.
    fn check_slots(&self, checkpoint: &Checkpoint, parameter: &str, length: usize) -> Result<(), CheckpointError> {
        for slot in self.optimizer.slots() {
            let name = format!("{parameter}.{slot}");
            let got = checkpoint.f32s(&name)?.len();
            if got != length {
                let what = format!("the number of values of {name}");
                return Err(CheckpointError::mismatch(what, got, length));
            }
        }
        Ok(())
    }

    /// One forward pass in training mode, and the backward pass if there are requests to answer.
    fn pass(
        &mut self,
        layout: Layout,
        images: &[f32],
        labels: &[u32],
        growth: Option<&mut GrowthRequests>,
    ) -> Result<DetachedLoss<B>, TrainingError> {
        let input = self.workspace.upload(layout, images, labels)?;
        let key = Key::new(self.options.seed).with_name("dropout").with(self.batches);
        let Workspace { backend, arena, labels, .. } = &mut self.workspace;
        let mut tape = Tape::new(*backend, arena, &mut self.network.parameters, Mode::Training);
        let x = tape.input(input, false);
        let logits = self.network.body.forward(&mut tape, x, self.options.dropout, key)?;
        let (_, labels) = labels.as_ref().expect("`upload` has made it");
        let loss = tape.softmax_cross_entropy(logits, labels, self.options.label_smoothing)?;
        if let Some(growth) = growth {
            tape.backward(&[loss], growth, &mut NoReduce)?;
        }
        Ok(tape.detach_loss(loss)?)
    }

    fn apply(&mut self, updates: Vec<LayerUpdate>) -> Result<(), TrainingError> {
        updates.into_iter().try_for_each(|update| self.network.apply(self.backend, update))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Architecture, FirstModel, Format, Initialization, Sparsification};
    use sparse_kernels::StripLayout;
    use sparse_kernels::cpu::Cpu;

    fn strips(layout: Layout) -> StripLayout {
        match layout {
            Layout::Strips(layout) => layout,
            Layout::Images(_) => unreachable!("the networks here are multi-layer perceptrons"),
        }
    }

    fn trainer<'b>(cpu: &'b Cpu, config: &TrainConfig, total_steps: u64) -> Trainer<'b, Cpu> {
        let first = FirstModel::of(config, &Architecture::of(&config.model), None).unwrap();
        let mut network = first.network(cpu, config, 50).unwrap();
        let optimizer = optimizer(config, cpu, &mut network).unwrap();
        let (method, _) = method(config, total_steps).unwrap();
        Trainer::new(cpu, network, optimizer, method, StepOptions::of(config, total_steps))
    }

    fn config(method: &str) -> TrainConfig {
        let model = "20-30-10".parse().unwrap();
        let method = crate::method::Method::named(method);
        let density = if method.is_dense() { 1.0 } else { 0.3 };
        TrainConfig { model, method, density, update_interval: 3, steps: Some(20), ..TrainConfig::default() }
    }

    /// Fixed pseudo-random pictures, whose class is their brightest quarter.
    fn batch(layout: StripLayout, index: u64) -> (Vec<f32>, Vec<u32>) {
        let key = Key::new(9).with(index);
        let mut images = vec![0.0; layout.len()];
        let labels = (0..layout.lanes()).map(|n| (key.with_name("label").bits(n as u64) % 10) as u32);
        let labels: Vec<_> = labels.collect();
        for (n, &label) in labels.iter().enumerate() {
            for f in 0..layout.features() {
                let bright = if f / 2 == label as usize { 2.0 } else { 0.0 };
                images[layout.index(f, n)] = key.normal((n * layout.features() + f) as u64) * 0.3 + bright;
            }
        }
        (images, labels)
    }

    fn topology(trainer: &Trainer<'_, Cpu>, cpu: &Cpu) -> Vec<sparse_kernels::CsrPattern> {
        let Network { parameters, body, .. } = &trainer.network;
        body.layers.iter().filter_map(|l| parameters.topology(cpu, l.weight).map(|t| (**t).clone())).collect()
    }

    /// In weights and slots.
    fn assert_padding_is_zero(trainer: &Trainer<'_, Cpu>, cpu: &Cpu) {
        let parameters = &trainer.network.parameters;
        for layer in &trainer.network.body.layers {
            let Some(pattern) = parameters.block_pattern(cpu, layer.weight) else { continue };
            let slots =
                trainer.optimizer.slots().iter().map(|s| parameters.download_slot(cpu, layer.weight, s).unwrap());
            for mut values in slots.chain([parameters.download_values(cpu, layer.weight).unwrap()]) {
                assert!(values.iter().any(|&v| v != 0.0));
                pattern.entries().for_each(|e| values[e.position] = 0.0);
                assert!(values.iter().all(|&v| v == 0.0), "padding of {} holds numbers", layer.name);
            }
        }
    }

    /// An update moves blocks whole, by their norms, and new ones start at zero.
    #[test]
    fn new_blocks_start_at_zero() {
        for method in ["set", "rigl"] {
            let format = Format::Bsr([2, 4]);
            let (cpu, config) = (Cpu::new(1, None).unwrap(), TrainConfig { format, ..config(method) });
            let mut trainer = trainer(&cpu, &config, 40);
            let layout = StripLayout::sparse(10, 20);
            let (images, labels) = batch(layout, 0);
            let read = |trainer: &Trainer<'_, Cpu>| {
                let parameters = &trainer.network.parameters;
                let read = |l: &crate::models::Layer| {
                    let pattern = parameters.block_pattern(&cpu, l.weight)?.clone();
                    let slot = parameters.download_slot(&cpu, l.weight, "momentum").unwrap();
                    Some((pattern, parameters.download_values(&cpu, l.weight).unwrap(), slot))
                };
                trainer.network.body.layers.iter().filter_map(read).collect::<Vec<_>>()
            };
            let (mut grown, mut moved) = (0, 0);
            for _ in 0..12 {
                let before = read(&trainer);
                if trainer.train_batch(layout, &images, &labels).unwrap().optimizer_stepped {
                    continue;
                }
                for ((old, old_values, old_slot), (new, values, slot)) in before.iter().zip(read(&trainer)) {
                    let place = |position| old.blocks().positions().position(|p| p == position);
                    let norms = old.block_norms(old_values).unwrap();
                    let mut kept = vec![false; old.nnz_blocks()];
                    for (block, position) in new.blocks().positions().enumerate() {
                        let (from, part) = (place(position), block * 8..block * 8 + 8);
                        let expected = |all: &[f32]| from.map_or(vec![0.0; 8], |b| all[b * 8..b * 8 + 8].to_vec());
                        assert_eq!(values[part.clone()], expected(old_values));
                        assert_eq!(slot[part], expected(old_slot));
                        from.map_or_else(|| grown += 1, |b| kept[b] = true);
                        moved += usize::from(from.is_some_and(|b| b != block));
                    }
                    // Smaller than what is gone is only what was dropped, too, and grown again: of three tenths at most.
                    let of = |is_kept: bool| norms.iter().zip(&kept).filter(move |(_, k)| **k == is_kept);
                    let largest_gone = of(false).map(|(n, _)| *n).fold(0.0, f32::max);
                    let regrown = of(true).filter(|(n, _)| **n < largest_gone).count();
                    assert!(10 * regrown <= 3 * old.nnz_blocks(), "{regrown} of {}", old.nnz_blocks());
                }
            }
            assert!(grown > 0 && moved > 0, "{method}: {grown} grown, {moved} moved");
        }
    }

    /// Every method on every storage that it knows learns, ends with the weights that it is to have, and goes on from a
    /// checkpoint at any step as it went.
    #[test]
    fn every_method_learns_and_goes_on_from_checkpoints() {
        // Neither side of these blocks divides all layers' sizes.
        for (info, format) in rigl::methods().flat_map(|info| [(info, Format::Csr), (info, Format::Bsr([4, 8]))]) {
            if info.needs_ticket
                || format != Format::Csr && (!info.blocks || info.storage != rigl::WeightStorage::Sparse)
            {
                continue;
            }
            let (cpu, mut config) = (Cpu::new(1, None).unwrap(), TrainConfig { format, ..config(info.name) });
            if format != Format::Csr {
                // Few blocks leave some inputs out, and with them what tells a class.
                config.density = 0.6;
            }
            let label = format!("{} {format}", info.name);
            let mut trainer = trainer(&cpu, &config, 60);
            let layout = strips(trainer.network.body.input_layout(50));
            let first_topology = topology(&trainer, &cpu);
            let targets: usize = trainer.network.body.layers.iter().map(|layer| layer.target_nnz).sum();
            let mut checkpoints = vec![];
            let mut losses = vec![];
            for i in 0..60 {
                checkpoints.push(trainer.checkpoint(None).unwrap());
                let (images, labels) = batch(layout, i);
                losses.push(trainer.train_batch(layout, &images, &labels).unwrap().loss.mean());
            }
            assert!(losses[59] < 0.5 * losses[0], "{label}: {losses:?}");
            assert_eq!(trainer.network.cost(&cpu).nnz, targets, "{label}");
            let changes = info.updates != rigl::UpdateTimes::Never || info.storage == rigl::WeightStorage::DenseFirst;
            assert_eq!(topology(&trainer, &cpu) != first_topology, changes, "{label}");
            assert_padding_is_zero(&trainer, &cpu);
            let (images, labels) = batch(layout, 99);
            assert!(trainer.evaluate_batch(layout, &images, &labels).unwrap().correct > 35, "{label}");

            let end = trainer.checkpoint(None).unwrap().to_bytes().unwrap();
            for at in [1, 20, 59] {
                let checkpoint = Checkpoint::from_bytes(&checkpoints[at].to_bytes().unwrap()).unwrap();
                let mut resumed = self::trainer(&cpu, &config, 60);
                resumed.restore(&checkpoint).unwrap();
                for i in at..60 {
                    let (images, labels) = batch(layout, i as u64);
                    resumed.train_batch(layout, &images, &labels).unwrap();
                }
                assert!(resumed.checkpoint(None).unwrap().to_bytes().unwrap() == end, "{label}, resumed at {at}");
            }
        }
    }

    #[test]
    fn updates_take_the_optimizers_place() {
        let (cpu, config) = (Cpu::new(1, None).unwrap(), config("rigl"));
        let mut trainer = trainer(&cpu, &config, 20);
        let layout = StripLayout::sparse(10, 20);
        let (images, labels) = batch(layout, 0);
        let stepped: Vec<_> =
            (0..20).map(|_| trainer.train_batch(layout, &images, &labels).unwrap().optimizer_stepped).collect();
        let updates: Vec<_> = (0..20).filter(|&i| !stepped[i]).collect();
        // Begin 3, every 3, before 15.
        assert_eq!(updates, [3, 6, 9, 12]);
        assert_eq!((trainer.step(), trainer.batches()), (20, 20));
    }

    /// Every kind of network: learns a batch by heart, and goes on from a checkpoint exactly as it went.
    #[test]
    fn convolutional_networks_learn_and_go_on_from_checkpoints() {
        let cpu = Cpu::new(2, None).unwrap();
        let networks = [
            ("lenet-5", 1.0),
            ("wrn-10-1", 0.5),
            ("resnet-18", 0.125),
            ("resnet-50", 0.0625),
            ("mobilenet-v1", 0.25),
            ("mobilenet-v2", 0.25),
            ("vgg-16", 0.0625),
        ];
        let others = ["snip", "snfs", "deepr", "dsr", "dnw", "gmp"].map(|method| ("lenet-5", 1.0, method));
        let csr = networks.map(|(name, width)| (name, width, "rigl")).into_iter().chain(others);
        let blocks =
            [("wrn-10-1", 0.5, "rigl", [8, 8]), ("wrn-10-1", 0.5, "set", [4, 4]), ("resnet-18", 0.125, "rigl", [4, 4])];
        let csr = csr.map(|(name, width, by)| (name, width, by, Format::Csr));
        let blocks = blocks.map(|(name, width, by, size)| (name, width, by, Format::Bsr(size)));
        for (name, width, by, format) in csr.chain(blocks) {
            let model = name.parse().unwrap();
            let spec = crate::models::ModelSpec::of(&model).on(3, [32, 32], 10).with_width(width);
            let architecture = Architecture::new(&spec).unwrap();
            let config = TrainConfig {
                model,
                method: crate::method::Method::named(by),
                format,
                density: 0.3,
                update_interval: 4,
                // A network that loses weights while it learns by heart takes smaller steps.
                lr: if by == "gmp" { 0.05 } else { 0.1 },
                dropout: 0.05,
                ..TrainConfig::default()
            };
            let name = format!("{name} by {by} {format}");
            let build = || {
                let first = FirstModel::of(&config, &architecture, None).unwrap();
                let mut network = first.network(&cpu, &config, 20).unwrap();
                let optimizer = optimizer(&config, &cpu, &mut network).unwrap();
                let (method, _) = method(&config, 40).unwrap();
                Trainer::new(&cpu, network, optimizer, method, StepOptions::of(&config, 40))
            };
            let mut saved = build();
            let layout = saved.network.body.input_layout(20);
            let Layout::Images(images_layout) = layout else { panic!("{name} reads images") };
            let pictures: Vec<f32> = (0..20 * 3 * 1024).map(|i| Key::new(3).normal(i)).collect();
            let mut images = vec![0.0; layout.len()];
            images_layout.pack(&pictures, &mut images).unwrap();
            let labels: Vec<u32> = (0..20).map(|n| n % 10).collect();
            let train = |trainer: &mut Trainer<'_, Cpu>, steps: u64| {
                let step = |_| trainer.train_batch(layout, &images, &labels).unwrap().loss.mean();
                (0..steps).map(step).collect::<Vec<_>>()
            };
            let before = topology(&saved, &cpu);
            let losses = train(&mut saved, 14);
            assert_ne!(topology(&saved, &cpu), before, "{name}: nothing was grown");
            let bytes = |trainer: &Trainer<'_, Cpu>| trainer.checkpoint(None).unwrap().to_bytes().unwrap();
            let checkpoint = Checkpoint::from_bytes(&bytes(&saved)).unwrap();
            let mut restored = build();
            train(&mut restored, 5);
            restored.restore(&checkpoint).unwrap();
            assert_eq!(restored.checkpoint(None).unwrap(), checkpoint, "{name}");
            let rest = train(&mut saved, 16);
            assert_eq!(train(&mut restored, 16), rest, "{name}");
            assert!(bytes(&saved) == bytes(&restored), "{name}");
            assert!(rest[15] < 0.8 * losses[0], "{name}: {losses:?} {rest:?}");
            let evaluated = saved.evaluate_batch(layout, &images, &labels).unwrap();
            assert!(evaluated.sum.is_finite() && evaluated.lanes == 20, "{name}");
        }
    }

    /// An estimate before anything is built, of what a step then takes.
    #[test]
    fn activations_take_what_was_estimated() {
        let cpu = Cpu::new(1, None).unwrap();
        for (name, samples) in [("wrn-16-2", 40), ("resnet-18", 16), ("mobilenet-v2", 16)] {
            let model = name.parse().unwrap();
            let spec = crate::models::ModelSpec::of(&model).on(3, [32, 32], 10);
            let architecture = Architecture::new(&spec).unwrap();
            let config =
                TrainConfig { model, method: crate::method::Method::named("static"), ..TrainConfig::default() };
            let densities = Sparsification::of(&config).solve(&architecture).unwrap();
            let initialization = Initialization { format: config.format, init: config.init, seed: config.seed };
            let mut network = Network::new(&cpu, &architecture, &densities, initialization, samples).unwrap();
            let optimizer = optimizer(&config, &cpu, &mut network).unwrap();
            let (method, _) = method(&config, 40).unwrap();
            let mut trainer = Trainer::new(&cpu, network, optimizer, method, StepOptions::of(&config, 40));
            let layout = trainer.network.body.input_layout(samples);
            trainer.train_batch(layout, &vec![0.0; layout.len()], &vec![0; samples]).unwrap();
            let taken = trainer.workspace.arena.stats().allocated_bytes as f64;
            let estimated = crate::models::activation_bytes(&cpu, &architecture, true, samples).unwrap() as f64;
            assert!((0.85..1.25).contains(&(estimated / taken)), "{name}: {estimated} estimated, {taken} taken");
        }
    }

    /// An update waits for its batches, and looks at all of them: in whatever order they come.
    #[test]
    fn updates_may_add_up_several_batches() {
        let config = TrainConfig { growth_batches: 3, ..config("rigl") };
        let cpu = Cpu::new(1, None).unwrap();
        let layout = StripLayout::sparse(10, 20);
        let run = |order: [u64; 3]| {
            let mut trainer = trainer(&cpu, &config, 20);
            let mut train = |index| {
                let (images, labels) = batch(layout, index);
                let stepped = trainer.train_batch(layout, &images, &labels).unwrap().optimizer_stepped;
                (stepped, trainer.is_within_update(), trainer.step(), trainer.batches())
            };
            for i in 0..3 {
                assert_eq!(train(i), (true, false, i + 1, i + 1));
            }
            assert_eq!(order.map(|i| train(10 + i)), [(false, true, 3, 4), (false, true, 3, 5), (false, false, 4, 6)]);
            topology(&trainer, &cpu)
        };
        let expected = run([0, 1, 2]);
        assert_eq!(run([2, 0, 1]), expected);
        assert_ne!(run([3, 4, 5]), expected);
    }

    #[test]
    fn nan_is_reported_with_its_step() {
        let (cpu, config) = (Cpu::new(1, None).unwrap(), config("static"));
        let mut trainer = trainer(&cpu, &config, 20);
        let layout = StripLayout::sparse(10, 20);
        let (mut images, labels) = batch(layout, 0);
        trainer.train_batch(layout, &images, &labels).unwrap();
        images[0] = f32::NAN;
        let message = trainer.train_batch(layout, &images, &labels).unwrap_err().to_string();
        assert!(message.contains("NaN at step 1") && message.contains("lr"), "{message}");
    }

    /// A trainer that has gone another way goes on from a checkpoint exactly as the one that made it.
    #[test]
    fn a_restored_trainer_goes_on_as_the_saved_one() {
        let cpu = Cpu::new(1, None).unwrap();
        for optimizer in [OptimizerKind::Sgd, OptimizerKind::Adamw] {
            let (csr, bsr) = (Format::Csr, Format::Bsr([4, 8]));
            let of_csr = ["dense", "static", "set", "rigl"].map(|method| (method, csr));
            for (method, format) in of_csr.into_iter().chain([("set", bsr), ("rigl", bsr)]) {
                let config = TrainConfig { format, optimizer, lr: 0.01, dropout: 0.2, ..config(method) };
                let mut saved = trainer(&cpu, &config, 40);
                let layout = strips(saved.network.body.input_layout(10));
                let train = |trainer: &mut Trainer<'_, Cpu>, steps: std::ops::Range<u64>| {
                    for i in steps {
                        let (images, labels) = batch(layout, i);
                        trainer.train_batch(layout, &images, &labels).unwrap();
                    }
                };
                let bytes = |trainer: &Trainer<'_, Cpu>| trainer.checkpoint(None).unwrap().to_bytes().unwrap();
                train(&mut saved, 0..14);
                let checkpoint = Checkpoint::from_bytes(&bytes(&saved)).unwrap();
                let mut restored = trainer(&cpu, &config, 40);
                train(&mut restored, 7..16);
                restored.restore(&checkpoint).unwrap();
                assert_eq!(restored.checkpoint(None).unwrap(), checkpoint);
                train(&mut saved, 14..25);
                train(&mut restored, 14..25);
                assert_eq!(bytes(&saved), bytes(&restored), "{method} {format}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_not_restored() {
        let cpu = Cpu::new(1, None).unwrap();
        let rigl = config("rigl");
        let mut fitting = trainer(&cpu, &rigl, 20);
        let before = fitting.checkpoint(None).unwrap();
        let mut refused = |checkpoint: &Checkpoint, message: &str| {
            let error = fitting.restore(checkpoint).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
            assert_eq!(fitting.checkpoint(None).unwrap(), before);
        };
        for (config, message) in [
            (
                TrainConfig { model: "20-31-10".parse().unwrap(), ..rigl.clone() },
                "the model is 20-31-10, expected 20-30-10",
            ),
            (TrainConfig { seed: 1, ..rigl.clone() }, "the seed is 1, expected 0"),
            (TrainConfig { optimizer: OptimizerKind::Adam, ..rigl.clone() }, "the optimizer is adam, expected sgd"),
            (TrainConfig { method: crate::method::Method::named("set"), ..rigl.clone() }, "state of method set"),
            (TrainConfig { density: 1.0, ..rigl.clone() }, "the storage of layer fc1 is dense, expected csr"),
            (
                TrainConfig { format: Format::Bsr([2, 4]), ..rigl.clone() },
                "the storage of layer fc1 is bsr2x4, expected csr",
            ),
        ] {
            refused(&trainer(&cpu, &config, 20).checkpoint(None).unwrap(), message);
        }
        refused(&Checkpoint::default(), "section \"training\": it is not there");
        let changed = |change: &dyn Fn(&mut Checkpoint)| {
            let mut checkpoint = before.clone();
            change(&mut checkpoint);
            checkpoint
        };
        let slot = changed(&|c| drop(c.tensors.insert("fc1.weight.momentum".to_owned(), TensorData::f32s([1.0]))));
        refused(&slot, "the number of values of fc1.weight.momentum is 1");
        let slot = changed(&|c| drop(c.tensors.remove("fc2.bias.momentum")));
        refused(&slot, "there is no tensor fc2.bias.momentum");
        let columns =
            changed(&|c| drop(c.tensors.insert("fc1.weight.col_indices".to_owned(), TensorData::u32s([9; 150]))));
        refused(&columns, "tensor fc1.weight: row 0: column 9 follows 9");
        let description = changed(&|c| c.metadata["model"]["layers"][0]["shape"] = serde_json::json!([30]));
        refused(&description, "section \"model\"");
    }

    /// After the first steps, buffers go round: the arena makes no more.
    #[test]
    fn nothing_is_allocated_after_the_first_step() {
        let (cpu, config) = (Cpu::new(1, None).unwrap(), config("rigl"));
        let mut trainer = trainer(&cpu, &config, 20);
        let layout = StripLayout::sparse(10, 20);
        let (images, labels) = batch(layout, 0);
        trainer.train_batch(layout, &images, &labels).unwrap();
        let after_one = trainer.workspace.arena.stats();
        for _ in 0..19 {
            trainer.train_batch(layout, &images, &labels).unwrap();
        }
        assert_eq!(trainer.workspace.arena.stats(), after_one);
    }
}
