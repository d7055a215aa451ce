//! The training step: forward, backward, optimizer and topology, on any backend.

use std::sync::Arc;

use autograd::optim::{Adam, AdamOptions, Decay, Optimizer, Schedule, Sgd, SgdOptions};
use autograd::{Arena, GrowthRequest, GrowthRequests, LossStats, Mode, NoReduce, Tape};
use rigl::{
    DropSchedule, GradientNeed, LayerUpdate, LoopSemantics, Method, MethodOptions, ScheduleOptions, UpdateSchedule,
};
use sparse_kernels::random::Key;
use sparse_kernels::{Backend, StripLayout};

use crate::config::{self, LrSchedule, OptimizerKind, TrainConfig, UpdateSemantics};
use crate::models::Network;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainingError {
    /// The loss is NaN or infinite.
    #[error(
        "the training loss is {loss} at step {step} (learning rate {learning_rate}); try a lower lr, more warmup-steps, \
         or check the data"
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
    /// The method failed.
    #[error(transparent)]
    Method(#[from] rigl::MethodError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] sparse_kernels::BackendError),
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
        }
    }
}

/// Builds the optimizer of a configuration, with its slots in `parameters`.
///
/// # Errors
/// If the backend has no room for the slots.
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
/// [`config::ConfigError`] or [`rigl::ScheduleError`] if the schedule is impossible.
pub fn method(
    config: &TrainConfig,
    total_steps: u64,
) -> anyhow::Result<(Box<dyn Method>, Option<config::UpdateWindow>)> {
    let window = config.update_window(total_steps)?;
    let drop_schedule = match config.drop_schedule {
        config::DropSchedule::Constant => DropSchedule::Constant,
        config::DropSchedule::Cosine => DropSchedule::Cosine,
        config::DropSchedule::InversePower => DropSchedule::InversePower { exponent: config.drop_exponent },
    };
    let semantics = match config.update_semantics {
        UpdateSemantics::Paper => LoopSemantics::PAPER,
        UpdateSemantics::Reference if config.method == config::Method::Set => LoopSemantics::TF1_SET,
        UpdateSemantics::Reference => LoopSemantics::TF1_RIGL,
    };
    let schedule = UpdateSchedule::new(ScheduleOptions {
        // A window behind the run's end never opens.
        begin_step: window.map_or(total_steps, |w| w.begin),
        end_step: Some(window.map_or(total_steps + 1, |w| w.end)),
        update_interval: config.update_interval,
        drop_fraction: config.drop_fraction,
        drop_schedule,
        end_inclusive: config.update_semantics == UpdateSemantics::Reference,
        semantics,
    })?;
    let options = MethodOptions { schedule, seed: config.seed };
    Ok((rigl::build_method(&config.method.to_string(), &options)?, window))
}

/// What a training step tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Loss and right answers of the batch, before the step's changes.
    pub loss: LossStats,
    /// Whether the optimizer stepped; if not, the topology was updated instead.
    pub optimizer_stepped: bool,
}

/// A network in training.
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
    arena: Arena<B>,
    labels: Option<(usize, B::Indices)>,
    step: u64,
    batches: u64,
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
        Self { backend, network, optimizer, method, options, arena: Arena::new(), labels: None, step: 0, batches: 0 }
    }

    /// The step counter: what schedules and methods go by.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Batches used so far. More than [`Trainer::step`] if topology updates do not count as steps.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// Trains on one batch: `images` in `layout`, one label per lane.
    ///
    /// # Errors
    /// [`TrainingError`]; after `Diverged` the parameters are as before the step.
    pub fn train_batch(
        &mut self,
        layout: StripLayout,
        images: &[f32],
        labels: &[u32],
    ) -> Result<StepReport, TrainingError> {
        let intent = self.method.before_gradient(self.step, &self.network.sparse_layers(self.backend))?;
        let sparse: Vec<_> = self.network.layers.iter().filter(|l| l.sparse).map(|l| l.weight).collect();
        let mut growth = GrowthRequests::new();
        for (&parameter, need) in sparse.iter().zip(intent.needs) {
            if let GradientNeed::Growth { exclude, count, ties } = need {
                growth.add(GrowthRequest { parameter, exclude: Arc::new(exclude), count, ties });
            }
        }
        // At an update that takes the optimizer's place, gradients are of use only where growth looks for candidates.
        let backward = intent.optimizer_step || !growth.is_empty();
        let loss = self.pass(layout, images, labels, backward.then_some(&mut growth))?;
        let learning_rate = self.options.learning_rate.at(self.step);
        if !loss.sum.is_finite() {
            return Err(TrainingError::Diverged { step: self.step, loss: loss.mean(), learning_rate });
        }
        let candidates = sparse.iter().map(|&p| growth.take(p).unwrap_or_default()).collect();
        let layers = self.network.sparse_layers(self.backend);
        let updates = self.method.after_gradient(self.step, &layers, candidates)?;
        self.apply(&sparse, updates)?;
        if intent.optimizer_step {
            self.optimizer.step(self.backend, &mut self.network.parameters, learning_rate)?;
        }
        self.batches += 1;
        self.step += u64::from(intent.advance_counter);
        if intent.optimizer_step {
            let layers = self.network.sparse_layers(self.backend);
            let updates = self.method.after_optimizer(self.step, &layers)?;
            self.apply(&sparse, updates)?;
        }
        Ok(StepReport { loss, optimizer_stepped: intent.optimizer_step })
    }

    /// Loss and right answers on one batch, without training on it.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn evaluate_batch(
        &mut self,
        layout: StripLayout,
        images: &[f32],
        labels: &[u32],
    ) -> Result<LossStats, TrainingError> {
        let input = self.upload(layout, images, labels)?;
        let mut tape = Tape::new(self.backend, &mut self.arena, &mut self.network.parameters, Mode::Evaluation);
        let x = tape.input(input, false);
        let logits = Network::forward(&self.network.layers, &mut tape, x, 0.0, Key::new(0))?;
        let (_, labels) = self.labels.as_ref().expect("`upload` has made it");
        let loss = tape.softmax_cross_entropy(logits, labels, 0.0)?;
        Ok(tape.read_loss(loss)?)
    }

    /// One forward pass in training mode, and the backward pass if there are requests to answer.
    fn pass(
        &mut self,
        layout: StripLayout,
        images: &[f32],
        labels: &[u32],
        growth: Option<&mut GrowthRequests>,
    ) -> Result<LossStats, TrainingError> {
        let input = self.upload(layout, images, labels)?;
        let key = Key::new(self.options.seed).with_name("dropout").with(self.batches);
        let mut tape = Tape::new(self.backend, &mut self.arena, &mut self.network.parameters, Mode::Training);
        let x = tape.input(input, false);
        let logits = Network::forward(&self.network.layers, &mut tape, x, self.options.dropout, key)?;
        let (_, labels) = self.labels.as_ref().expect("`upload` has made it");
        let loss = tape.softmax_cross_entropy(logits, labels, self.options.label_smoothing)?;
        if let Some(growth) = growth {
            tape.backward(&[loss], growth, &mut NoReduce)?;
        }
        Ok(tape.read_loss(loss)?)
    }

    fn upload(
        &mut self,
        layout: StripLayout,
        images: &[f32],
        labels: &[u32],
    ) -> Result<sparse_kernels::Strips<B>, TrainingError> {
        if self.labels.as_ref().is_none_or(|(room, _)| *room < labels.len()) {
            self.labels = Some((labels.len(), self.backend.index_zeros(labels.len())?));
        }
        let (_, buffer) = self.labels.as_mut().expect("made above");
        self.backend.upload_indices(labels, buffer)?;
        let mut input = self.arena.take(self.backend, layout)?;
        self.backend.upload(images, &mut input.data)?;
        Ok(input)
    }

    fn apply(&mut self, sparse: &[autograd::ParameterId], updates: Vec<LayerUpdate>) -> Result<(), TrainingError> {
        for LayerUpdate { layer, pattern, map } in updates {
            self.network.parameters.replace_pattern(self.backend, sparse[layer], pattern, &map)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Architecture, Initialization, Sparsification};
    use sparse_kernels::cpu::Cpu;

    fn trainer<'b>(cpu: &'b Cpu, config: &TrainConfig, total_steps: u64) -> Trainer<'b, Cpu> {
        let architecture = Architecture::of(&config.model);
        let densities = Sparsification::of(config).solve(&architecture).unwrap();
        let initialization = Initialization { init: config.init, seed: config.seed };
        let mut network = Network::new(cpu, architecture, &densities, initialization).unwrap();
        let optimizer = optimizer(config, cpu, &mut network).unwrap();
        let (method, _) = method(config, total_steps).unwrap();
        Trainer::new(cpu, network, optimizer, method, StepOptions::of(config, total_steps))
    }

    fn config(method: config::Method) -> TrainConfig {
        let model = "20-30-10".parse().unwrap();
        let density = if method == config::Method::Dense { 1.0 } else { 0.3 };
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

    #[test]
    fn every_method_learns_and_keeps_its_density() {
        for method in [config::Method::Dense, config::Method::Static, config::Method::Set, config::Method::Rigl] {
            let (cpu, config) = (Cpu::new(1, None).unwrap(), config(method));
            let mut trainer = trainer(&cpu, &config, 60);
            let layout = StripLayout::new(50, 20, trainer.network.strip(50)).unwrap();
            let before = trainer.network.cost(&cpu);
            let (mut first, mut last) = (f32::NAN, f32::NAN);
            for i in 0..60 {
                let (images, labels) = batch(layout, i);
                last = trainer.train_batch(layout, &images, &labels).unwrap().loss.mean();
                if i == 0 {
                    first = last;
                }
            }
            assert!(last < 0.5 * first, "{method}: {first} to {last}");
            assert_eq!(trainer.network.cost(&cpu), before);
            let (images, labels) = batch(layout, 99);
            assert!(trainer.evaluate_batch(layout, &images, &labels).unwrap().correct > 35);
        }
    }

    #[test]
    fn updates_take_the_optimizers_place() {
        let (cpu, config) = (Cpu::new(1, None).unwrap(), config(config::Method::Rigl));
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

    #[test]
    fn nan_is_reported_with_its_step() {
        let (cpu, config) = (Cpu::new(1, None).unwrap(), config(config::Method::Static));
        let mut trainer = trainer(&cpu, &config, 20);
        let layout = StripLayout::sparse(10, 20);
        let (mut images, labels) = batch(layout, 0);
        trainer.train_batch(layout, &images, &labels).unwrap();
        images[0] = f32::NAN;
        let message = trainer.train_batch(layout, &images, &labels).unwrap_err().to_string();
        assert!(message.contains("NaN at step 1") && message.contains("lr"), "{message}");
    }

    /// After the first steps, buffers go round: the arena makes no more.
    #[test]
    fn nothing_is_allocated_after_the_first_step() {
        let (cpu, config) = (Cpu::new(1, None).unwrap(), config(config::Method::Rigl));
        let mut trainer = trainer(&cpu, &config, 20);
        let layout = StripLayout::sparse(10, 20);
        let (images, labels) = batch(layout, 0);
        trainer.train_batch(layout, &images, &labels).unwrap();
        let after_one = trainer.arena.stats();
        for _ in 0..19 {
            trainer.train_batch(layout, &images, &labels).unwrap();
        }
        assert_eq!(trainer.arena.stats(), after_one);
    }
}
