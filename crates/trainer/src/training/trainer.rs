//! The training step: forward, backward, optimizer and topology, on any backend.

use std::sync::{Mutex, MutexGuard, PoisonError};

use autograd::optim::{ClipNorm, Optimizer, OptimizerOptions};
use autograd::{DetachedLoss, GrowthPasses, GrowthRequests, LossStats, Mode, NoReduce, Reduce, Shards};
use rigl::{GradientNeed, LayerUpdate, Method, StepIntent};
use sparse_kernels::random::Key;
use sparse_kernels::{Backend, Layout};

use super::error::TrainingError;
use super::evaluator::{HostBatch, Outputs, PassBatch, PassOptions, Workspace};
use super::found::Found;
use super::options::StepOptions;
use super::parts::{own_shards, parts};
use super::patterns::PatternSums;
use crate::data::{Batch, BatchTargets, HostInputs};
use crate::metrics::Mean;
use crate::models::Network;
use ranks::{RankReduce, Ranks, RanksError, StepTrace, Totals, Traffic};

/// What a training step tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Loss and right answers of the batches whose losses were read: of this one, before the step's changes, where a device
    /// is read from after each step; else of all since the last reading, or of none.
    pub training: Mean,
    /// Whether the optimizer stepped; if not, the topology was updated instead.
    pub optimizer_stepped: bool,
    /// Whether some layer's topology was changed.
    pub topology_changed: bool,
}

/// The ranks, for one exchange or several.
pub(super) fn locked(ranks: &Mutex<RankReduce>) -> MutexGuard<'_, RankReduce> {
    ranks.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The mean of losses, each with its step and learning rate; the error of the first that is not finite. Sums are in f64, so that it
/// does not matter how many losses were read at a time.
fn mean_of(losses: impl Iterator<Item = ((u64, f32), LossStats)>) -> Result<Mean, TrainingError> {
    let mut mean = Mean::default();
    for ((step, learning_rate), loss) in losses {
        if !loss.sum.is_finite() {
            return Err(TrainingError::Diverged { step, loss: loss.mean(), learning_rate });
        }
        mean.add(&loss);
    }
    Ok(mean)
}

/// A network in training.
///
/// Its whole state goes to a file and back in three lines:
///
/// ```
/// # use trainer::models::{Architecture, Network};
/// # use trainer::settings::TrainConfig;
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("state.safetensors");
/// # let config = TrainConfig { model: "20-30-10".parse()?, ..TrainConfig::default() };
/// # let cpu = sparse_kernels::cpu::Cpu::new(1, None)?;
/// # let architecture = Architecture::of(&config.model);
/// # let densities = config.sparsification().solve(&architecture)?;
/// # let network = Network::new(&cpu, &architecture, &densities, config.initialization(), 100)?;
/// # let mut trainer = config.trainer(&cpu, network, 100)?;
/// use trainer::checkpoint::Checkpoint;
/// trainer.checkpoint(None)?.save_atomic(&path)?;
/// // … later, on a trainer of the same model, optimizer and method:
/// trainer.restore(&Checkpoint::load(&path)?)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Trainer<'b, B: Backend> {
    pub(super) backend: &'b B,
    /// The network.
    pub network: Network<B>,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The method.
    pub method: Box<dyn Method>,
    pub(super) options: StepOptions,
    pub(super) workspace: Workspace<'b, B>,
    pub(super) step: u64,
    pub(super) batches: u64,
    clip: Option<ClipNorm<B>>,
    /// An update that has begun, and waits for more batches.
    pub(super) update: Option<Update>,
    /// Losses that are still on the device.
    pub(super) unread: Vec<UnreadLoss<B>>,
    /// The other ranks, which compute the other shards.
    pub(super) ranks: Option<Mutex<RankReduce>>,
    patterns: PatternSums,
    /// Whether this rank has been asked to stop, and whether some rank had been at the last step.
    asked_to_stop: [bool; 2],
}

/// A step's loss that is still on the device.
#[derive(Debug)]
pub(super) struct UnreadLoss<B: Backend> {
    step: u64,
    learning_rate: f32,
    loss: DetachedLoss<B>,
}

/// A step that has begun.
#[derive(Debug)]
pub(super) struct Update {
    /// What the method wants, but for `needs`.
    intent: StepIntent,
    /// Of [`GradientNeed::Growth`] or [`GradientNeed::Explore`].
    requests: Vec<(autograd::ParameterId, GradientNeed)>,
    /// Parameters whose gradient is asked for at all positions.
    dense: Vec<autograd::ParameterId>,
    /// Whether any gradient of a weight is asked for.
    any: bool,
    /// Passes to come, the next one included.
    passes_left: u64,
}

impl<'b, B: Backend> Trainer<'b, B> {
    /// Puts the parts together at step 0, with the optimizer's slots in the network's parameters.
    ///
    /// # Errors
    /// If the backend is out of memory for the slots.
    pub fn new(
        backend: &'b B,
        mut network: Network<B>,
        optimizer: OptimizerOptions,
        method: Box<dyn Method>,
        options: StepOptions,
    ) -> Result<Self, TrainingError> {
        let optimizer = Optimizer::new(optimizer, backend, &mut network.parameters)?;
        let clip = options.clip_norm.map(|norm| ClipNorm::new(backend, norm)).transpose()?;
        let (workspace, step, batches) = (Workspace::new(backend, options.held), 0, 0);
        let (update, unread, ranks, patterns, asked_to_stop) = (None, vec![], None, PatternSums::default(), [false; 2]);
        Ok(Self {
            backend,
            network,
            optimizer,
            method,
            options,
            workspace,
            step,
            batches,
            clip,
            update,
            unread,
            ranks,
            patterns,
            asked_to_stop,
        })
    }

    /// Trains as one of several ranks from now on, all of which have the same state and get the same batches, or of them the
    /// samples of their [`Trainer::own_shards`].
    ///
    /// # Errors
    /// [`RanksError::FewShards`].
    pub fn join(&mut self, ranks: Ranks) -> Result<(), RanksError> {
        let reduction = self.options.reduction.into();
        let shards = *self.options.shards.get_or_insert(ranks.count());
        self.ranks = Some(Mutex::new(RankReduce::new(ranks, shards)?.with_reduction(reduction)));
        Ok(())
    }

    /// Whether to stop after the last step, which all ranks answer alike: if one of them has been asked to, as `asked` says of this
    /// one, by the step before.
    pub fn stops(&mut self, asked: bool) -> bool {
        self.asked_to_stop[0] |= asked;
        if self.ranks.is_some() { self.asked_to_stop[1] } else { asked }
    }

    /// The shards of each batch that this rank computes; none if it is alone. It needs no other samples of a batch.
    pub fn own_shards(&self) -> Option<Shards> {
        let ranks = self.ranks.as_ref()?;
        let count = self.options.shards.expect("`join` has set it");
        Some(Shards::some(count, locked(ranks).own()))
    }

    /// Whether it is one of several ranks.
    pub fn has_ranks(&self) -> bool {
        self.ranks.is_some()
    }

    /// The number of this rank, and how many there are; none if it is alone.
    pub fn rank(&self) -> Option<(usize, usize)> {
        let ranks = locked(self.ranks.as_ref()?);
        Some((ranks.ranks().rank(), ranks.ranks().count()))
    }

    /// Numbers of all ranks, from those of this one.
    ///
    /// # Errors
    /// If the ranks cannot be reached.
    pub fn gather(&self, own: &[f64]) -> Result<Vec<Vec<f64>>, TrainingError> {
        let Some(ranks) = &self.ranks else { return Ok(vec![own.to_vec()]) };
        let own: Vec<u8> = own.iter().flat_map(|number| number.to_le_bytes()).collect();
        let all = locked(ranks).gather_any(&own)?;
        let number = |bytes: &[u8]| f64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        Ok(all.iter().map(|bytes| bytes.chunks_exact(8).map(number).collect()).collect())
    }

    /// What has been sent to other ranks so far.
    pub fn traffic(&self) -> Traffic {
        self.ranks.as_ref().map(|ranks| locked(ranks).traffic()).unwrap_or_default()
    }

    /// When the sums of the last step came, and what all steps took; nothing if it is alone.
    pub fn rank_times(&self) -> Option<(StepTrace, Totals)> {
        self.ranks.as_ref().map(|ranks| {
            let ranks = locked(ranks);
            (ranks.trace().clone(), ranks.totals())
        })
    }

    /// The step counter: what schedules and methods go by.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The learning rate of a step.
    pub fn learning_rate(&self, step: u64) -> f32 {
        self.options.learning_rate.at(step)
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
            GradientNeed::Growth(_) | GradientNeed::Explore(_) => Some((parameter, need)),
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
    pub fn read_losses(&mut self) -> Result<Mean, TrainingError> {
        let (steps, losses): (Vec<_>, Vec<_>) =
            self.unread.drain(..).map(|unread| ((unread.step, unread.learning_rate), unread.loss)).unzip();
        if losses.is_empty() {
            return Ok(Mean::default());
        }
        let stats = self.workspace.read(losses)?;
        mean_of(steps.into_iter().zip(stats))
    }

    /// Trains on one batch: `images` in `layout`, a class of each lane or numbers, as the loss needs.
    ///
    /// # Errors
    /// [`TrainingError`]; after `Diverged` the parameters are as before the step, where losses are read after each.
    pub fn train_batch<'a>(
        &mut self,
        layout: impl Into<Layout>,
        images: &[f32],
        targets: impl Into<BatchTargets<'a>>,
    ) -> Result<StepReport, TrainingError> {
        let inputs = HostInputs::Values { layout: layout.into(), values: images };
        self.train(HostBatch { inputs, targets: targets.into(), part_of: None })
    }

    /// As [`Trainer::train_batch`], of any inputs.
    ///
    /// # Errors
    /// As [`Trainer::train_batch`].
    pub fn train_on(&mut self, batch: &Batch) -> Result<StepReport, TrainingError> {
        self.train(batch.into())
    }

    fn train(&mut self, batch: HostBatch<'_>) -> Result<StepReport, TrainingError> {
        let sparse: Vec<_> = self.network.body.layers.iter().filter(|l| l.sparse).map(|l| l.weight).collect();
        let Update { intent, requests, dense, any, passes_left } = match self.update.take() {
            Some(update) => update,
            None => self.begin_step(&sparse)?,
        };
        let parts = match self.options.micro_batch {
            Some(size) => parts(batch, size, &self.network.body),
            None => vec![],
        };
        let is_last_batch = passes_left <= 1;
        let passes = |part: usize| match (self.options.growth_batches <= 1, is_last_batch, parts.len()) {
            (true, _, 0 | 1) => GrowthPasses::One,
            (_, true, count) if part + 1 >= count => GrowthPasses::Last,
            _ => GrowthPasses::More,
        };
        // At an update that takes the optimizer's place, gradients are of use only where the method asks for them.
        let backward = intent.optimizer_step || any;
        let key = Key::new(self.options.seed).with_name("dropout").with(self.batches);
        let (mode, dropout, loss) = (Mode::Training, self.options.dropout, self.options.loss);
        let learning_rate = self.options.learning_rate.at(self.step);
        let options = PassOptions { mode, dropout, loss };
        let mut growth = GrowthRequests::new();
        let ask = |growth: &mut GrowthRequests, passes| {
            for (parameter, need) in &requests {
                match need {
                    GradientNeed::Growth(request) => growth.add(*parameter, passes, request.clone()),
                    GradientNeed::Explore(request) => growth.explore(*parameter, passes, request.clone()),
                    GradientNeed::None | GradientNeed::Sampled | GradientNeed::Dense => {}
                }
            }
            dense.iter().for_each(|&parameter| growth.add_dense(parameter));
        };
        let part_key = |number: usize| if number == 0 { key } else { key.with_name("part").with(number as u64) };
        let mut losses = vec![];
        let mut loss_of_all = None;
        if let Some(count) = self.options.shards {
            ask(&mut growth, GrowthPasses::One);
            let over = self.own_shards().unwrap_or(Shards::all(count));
            let own = own_shards(batch, over, &self.network.body);
            let mut batches = Vec::with_capacity(own.len());
            for (number, shard) in over.own().zip(&own) {
                batches.push(PassBatch { batch: shard.batch(), number, share: shard.share, key: part_key(number) });
            }
            let mut alone = NoReduce;
            let mut ranks = self.ranks.as_ref().map(locked);
            let reduce: &mut dyn Reduce<B> = match &mut ranks {
                Some(ranks) => &mut **ranks,
                None => &mut alone,
            };
            let backward = backward.then_some(&mut growth);
            let of_shards = self.workspace.pass_shards(&mut self.network, over, batches, options, backward, reduce)?;
            match &mut ranks {
                Some(ranks) => {
                    let own = self.workspace.read(of_shards)?;
                    let patterns = self.patterns.of(&self.network.sparse_layers(self.backend));
                    let found = Found { losses: own, asked_to_stop: self.asked_to_stop[0] };
                    let all = found.of_all_ranks(ranks, patterns)?;
                    let name = |layer: usize| {
                        let mut sparse = self.network.body.layers.iter().filter(|layer| layer.sparse);
                        sparse.nth(layer).map_or(String::new(), |layer| layer.name.clone())
                    };
                    let differs = |[rank, layer]: [usize; 2]| TrainingError::Patterns {
                        rank,
                        layer: name(layer),
                        step: self.step,
                    };
                    let all = all.map_err(differs)?;
                    self.asked_to_stop[1] = all.asked_to_stop;
                    loss_of_all = Some(all.losses);
                }
                None => losses = of_shards,
            }
            drop(ranks);
            self.network.move_running(self.backend)?;
        } else {
            for number in 0..parts.len().max(1) {
                growth = GrowthRequests::new();
                ask(&mut growth, passes(number));
                let (batch, share) = parts.get(number).map_or((batch, 1.0), |part| (part.batch(), part.share));
                let batch = PassBatch { batch, number, share, key: part_key(number) };
                let backward = backward.then_some(&mut growth);
                losses.push(self.workspace.pass(&mut self.network, batch, options, backward, None)?);
            }
        }
        let unread = losses.into_iter().map(|loss| UnreadLoss { step: self.step, learning_rate, loss });
        self.unread.extend(unread);
        let is_due = self.unread.len() >= self.backend.results_per_reading();
        let training = match loss_of_all {
            Some(losses) => mean_of(losses.into_iter().map(|loss| ((self.step, learning_rate), loss)))?,
            None if is_due => self.read_losses()?,
            None => Mean::default(),
        };
        if !is_last_batch && !requests.is_empty() {
            self.batches += 1;
            self.update = Some(Update { intent, requests, dense, any, passes_left: passes_left - 1 });
            return Ok(StepReport { training, optimizer_stepped: false, topology_changed: false });
        }
        let candidates = sparse.iter().map(|&p| growth.take(p).unwrap_or_default()).collect();
        let layers = self.network.sparse_layers(self.backend);
        let updates = self.method.after_gradient(self.step, &layers, candidates)?;
        let mut topology_changed = !updates.is_empty();
        self.apply(updates)?;
        if intent.optimizer_step {
            if let Some(clip) = &mut self.clip {
                clip.clip(self.backend, &mut self.network.parameters)?;
            }
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
        Ok(StepReport { training, optimizer_stepped: intent.optimizer_step, topology_changed })
    }

    /// Loss and right answers on one batch, without training on it.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn evaluate_batch<'a>(
        &mut self,
        layout: impl Into<Layout>,
        images: &[f32],
        targets: impl Into<BatchTargets<'a>>,
    ) -> Result<LossStats, TrainingError> {
        let inputs = HostInputs::Values { layout: layout.into(), values: images };
        let batch = HostBatch { inputs, targets: targets.into(), part_of: None };
        self.workspace.measure(&mut self.network, batch, (Mode::Evaluation, self.options.loss), false, None)
    }

    /// [`Trainer::evaluate_batch`], of any inputs, and if asked for the outputs, one sample after the other.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn evaluate_outputs(
        &mut self,
        batch: &Batch,
        outputs: Option<&mut Outputs>,
    ) -> Result<LossStats, TrainingError> {
        let how = (Mode::Evaluation, self.options.loss);
        self.workspace.measure(&mut self.network, batch.into(), how, false, outputs)
    }

    fn apply(&mut self, updates: Vec<LayerUpdate>) -> Result<(), TrainingError> {
        updates.into_iter().try_for_each(|update| self.network.apply(self.backend, update))
    }
}
