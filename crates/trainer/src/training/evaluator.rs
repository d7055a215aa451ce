//! A network that is used, not trained; and what a pass needs beside the parameters.

use std::ops::Range;
use std::sync::Arc;

use autograd::{Arena, DetachedLoss, GrowthRequests, LossStats, Mode, NoReduce, Reduce, Shards, Tape, TopLabels};
use sparse_kernels::random::Key;
use sparse_kernels::{
    Activations, Backend, CrossEntropy, Csr, CsrPattern, Layout, PointwiseLoss, Precision, StripLayout, Strips,
};

use super::error::TrainingError;
use super::loss::Loss;
use super::options::Held;
use crate::data::{Batch, BatchTargets, HostInputs, Lists, PartOf, Sequences};
use crate::metrics::TOP;
use crate::models::{Network, NetworkInput, ShardInput, States};

/// What a pass makes beside losses.
#[derive(Debug)]
pub struct Outputs {
    /// All outputs, one sample after the other.
    pub values: Vec<f32>,
    /// Of a network whose outputs are never there all at once, the [`TOP`] likeliest labels of each sample.
    pub top: TopLabels,
}

impl Default for Outputs {
    fn default() -> Self {
        Self { values: vec![], top: TopLabels::new(TOP) }
    }
}

/// How a pass is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassOptions {
    pub mode: Mode,
    /// Share of hidden activations dropped.
    pub dropout: f32,
    pub loss: Loss,
}

/// A batch, or a part or shard of one.
pub(super) struct PassBatch<'a> {
    pub batch: HostBatch<'a>,
    /// Its number.
    pub number: usize,
    /// Its share of the batch.
    pub share: f32,
    /// What decides which activations are dropped.
    pub key: Key,
}

impl<'a> PassBatch<'a> {
    /// All of it, without dropout.
    pub fn whole(batch: HostBatch<'a>) -> Self {
        Self { batch, number: 0, share: 1.0, key: Key::new(0) }
    }
}

/// A batch on the host.
#[derive(Clone, Copy)]
pub(super) struct HostBatch<'a> {
    pub inputs: HostInputs<'a>,
    pub targets: BatchTargets<'a>,
    /// See [`Batch::part_of`].
    pub part_of: Option<PartOf>,
}

impl HostBatch<'_> {
    /// Samples, or tokens that have a target: what the loss is a mean over.
    pub fn counted(&self) -> usize {
        match (self.inputs, self.targets) {
            (HostInputs::Tokens { .. }, BatchTargets::Classes(labels)) => {
                labels.iter().filter(|&&label| label != CrossEntropy::IGNORED).count()
            }
            (inputs, _) => inputs.lanes(),
        }
    }
}

impl<'a> From<&'a Batch> for HostBatch<'a> {
    fn from(batch: &'a Batch) -> Self {
        Self { inputs: (&batch.inputs).into(), targets: (&batch.targets).into(), part_of: batch.part_of }
    }
}

/// What a pass needs beside the parameters, kept from one to the next.
#[derive(Debug)]
pub(super) struct Workspace<'b, B: Backend> {
    backend: &'b B,
    pub(super) arena: Arena<B>,
    /// Whether activations are computed again where they can be.
    recompute: bool,
    /// Of each shard of a pass: how many there is room for, and they.
    labels: Vec<Option<(usize, B::Indices)>>,
    /// Likewise.
    tokens: Vec<Option<(usize, Arc<B::Indices>)>>,
    pub(super) states: BothStates<B>,
    /// Targets that are numbers, in the order of the outputs on the device.
    numbers: Vec<f32>,
    /// Of the images of the last pass.
    images: Option<Layout>,
}

/// The states of recurrent layers: an evaluation between two steps of training leaves those of training as they are.
#[derive(Debug)]
pub(super) struct BothStates<B: Backend> {
    /// Of each part of a batch.
    pub training: Vec<States<B>>,
    evaluation: States<B>,
}

impl<B: Backend> BothStates<B> {
    /// Of parts next to each other.
    fn of(&mut self, mode: Mode, parts: Range<usize>) -> &mut [States<B>] {
        if mode == Mode::Evaluation {
            return std::slice::from_mut(&mut self.evaluation);
        }
        if self.training.len() < parts.end {
            self.training.resize_with(parts.end, States::default);
        }
        &mut self.training[parts]
    }
}

/// Inputs on the device.
enum DeviceInputs<B: Backend> {
    Values(Activations<B>),
    /// In [`Workspace::tokens`].
    Tokens(Sequences),
    /// Still on the host.
    Lists(Arc<Csr>),
}

/// Targets on the device.
enum DeviceTargets<B: Backend> {
    /// In [`Workspace::labels`].
    Classes,
    Numbers(Strips<B>),
    /// Still on the host.
    Labels(Arc<CsrPattern>),
}

impl<'b, B: Backend> Workspace<'b, B> {
    pub(super) fn new(backend: &'b B, held: Held) -> Self {
        let states = BothStates { training: vec![], evaluation: States::default() };
        Self {
            backend,
            arena: Arena::in_precision(held.precision),
            recompute: held.recompute,
            labels: vec![],
            tokens: vec![],
            states,
            numbers: vec![],
            images: None,
        }
    }

    /// Copies the inputs of the pass's shard `slot` to the device.
    fn upload(&mut self, slot: usize, inputs: HostInputs<'_>) -> Result<DeviceInputs<B>, TrainingError> {
        match inputs {
            HostInputs::Values { layout, values } => {
                // Images of batches of two sizes would take twice the memory; a change of size comes twice an epoch.
                let is_new = |last| last != layout;
                if matches!(layout, Layout::Images(_)) && self.images.replace(layout).is_some_and(is_new) {
                    self.arena.clear();
                }
                let mut input = self.arena.take_activations(self.backend, layout)?;
                self.backend.upload(values, input.data_mut())?;
                Ok(DeviceInputs::Values(input))
            }
            HostInputs::Tokens { sequences, tokens } => {
                if self.tokens.len() <= slot {
                    self.tokens.resize_with(slot + 1, || None);
                }
                // The tape of the pass before has let go of them.
                let mut held = self.tokens[slot].take().and_then(|(room, held)| Some((room, Arc::into_inner(held)?)));
                upload_indices(self.backend, tokens, &mut held)?;
                self.tokens[slot] = held.map(|(room, held)| (room, Arc::new(held)));
                Ok(DeviceInputs::Tokens(sequences))
            }
            HostInputs::Lists(lists) => Ok(DeviceInputs::Lists(lists.to_csr())),
        }
    }

    /// Copies the targets of the pass's shard `slot` to the device, for outputs of this layout.
    fn upload_targets(
        &mut self,
        slot: usize,
        targets: BatchTargets<'_>,
        loss: Loss,
        outputs: StripLayout,
    ) -> Result<DeviceTargets<B>, TrainingError> {
        let (samples, features) = (outputs.lanes(), outputs.features());
        let wrong = |needed: String, got: String| TrainingError::Targets { loss: loss.kind(), needed, samples, got };
        match (loss, targets) {
            (Loss::CrossEntropy { .. }, BatchTargets::Classes(labels)) => {
                if self.labels.len() <= slot {
                    self.labels.resize_with(slot + 1, || None);
                }
                upload_indices(self.backend, labels, &mut self.labels[slot])?;
                Ok(DeviceTargets::Classes)
            }
            (Loss::Pointwise(_), BatchTargets::Numbers(values)) => {
                if values.len() != samples * features {
                    let needed = format!("{features} numbers of each sample");
                    return Err(wrong(needed, format!("{} numbers", values.len())));
                }
                self.numbers.clear();
                self.numbers.resize(outputs.len(), 0.0);
                for (lane, of_sample) in values.chunks_exact(features).enumerate() {
                    for (feature, &value) in of_sample.iter().enumerate() {
                        self.numbers[outputs.index(feature, lane)] = value;
                    }
                }
                // What a loss is of is not rounded.
                let mut strips = self.arena.take_in(self.backend, Precision::F32, outputs)?;
                self.backend.upload(&self.numbers, &mut strips.data)?;
                Ok(DeviceTargets::Numbers(strips))
            }
            (Loss::Pointwise(PointwiseLoss::BinaryCrossEntropy), BatchTargets::Labels(labels)) => {
                if labels.columns() != features {
                    let got = format!("lists of labels below {}", labels.columns());
                    return Err(wrong(format!("lists of labels below {features}"), got));
                }
                Ok(DeviceTargets::Labels(labels.to_pattern()))
            }
            (_, BatchTargets::Labels(_)) => Err(wrong("classes or numbers".to_owned(), "lists of labels".to_owned())),
            (_, BatchTargets::Classes(_)) => Err(wrong("numbers".to_owned(), "classes".to_owned())),
            (_, BatchTargets::Numbers(_)) => Err(wrong("classes".to_owned(), "numbers".to_owned())),
        }
    }

    /// One forward pass; with `growth`, the backward pass too, which answers its requests; with `outputs`, the outputs, one
    /// sample after the other.
    pub(super) fn pass(
        &mut self,
        network: &mut Network<B>,
        batch: PassBatch<'_>,
        options: PassOptions,
        growth: Option<&mut GrowthRequests>,
        outputs: Option<&mut Outputs>,
    ) -> Result<DetachedLoss<B>, TrainingError> {
        let mut alone = NoReduce;
        let mut losses = self.passes(network, (None, &mut alone), vec![batch], options, growth, outputs)?;
        Ok(losses.remove(0))
    }

    /// As [`Workspace::pass`], of shards next to each other, layer by layer. The loss of each. What batch normalisations have found
    /// does not go into the running moments, see [`Network::move_running`].
    pub(super) fn pass_shards(
        &mut self,
        network: &mut Network<B>,
        shards: Shards,
        batches: Vec<PassBatch<'_>>,
        options: PassOptions,
        growth: Option<&mut GrowthRequests>,
        reduce: &mut dyn Reduce<B>,
    ) -> Result<Vec<DetachedLoss<B>>, TrainingError> {
        self.passes(network, (Some(shards), reduce), batches, options, growth, None)
    }

    fn passes(
        &mut self,
        network: &mut Network<B>,
        (shards, reduce): (Option<Shards>, &mut dyn Reduce<B>),
        batches: Vec<PassBatch<'_>>,
        PassOptions { mode, dropout, loss }: PassOptions,
        growth: Option<&mut GrowthRequests>,
        mut outputs: Option<&mut Outputs>,
    ) -> Result<Vec<DetachedLoss<B>>, TrainingError> {
        let first = &batches[0];
        let (numbers, share, adds) = (first.number..first.number + batches.len(), first.share, first.number > 0);
        let (mut on_device, mut targets) = (vec![], vec![]);
        for (slot, PassBatch { batch, .. }) in batches.iter().enumerate() {
            on_device.push(self.upload(slot, batch.inputs)?);
            let outputs = network.output_layout(batch.inputs.lanes());
            targets.push(self.upload_targets(slot, batch.targets, loss, outputs)?);
        }
        let tape = Tape::new(self.backend, &mut self.arena, &mut network.parameters, mode);
        let tape = if self.recompute { tape.recomputing() } else { tape };
        let is_over_shards = shards.is_some();
        let mut tape = match shards {
            Some(shards) => tape.over(shards),
            None => tape.part(share, adds),
        };
        let mut inputs = Vec::with_capacity(batches.len());
        let states = self.states.of(mode, numbers).iter_mut();
        for (slot, ((batch, input), states)) in batches.iter().zip(on_device).zip(states).enumerate() {
            let place = is_over_shards.then_some((batch.number, batch.share));
            let input = network_input(&mut tape, input, held(&self.tokens, slot), states);
            inputs.push(ShardInput { place, input, key: batch.key });
        }
        let logits = network.body.forward_shards(self.backend, &mut tape, inputs, dropout)?;
        let mut losses = Vec::with_capacity(batches.len());
        for (slot, ((batch, &logits), targets)) in batches.iter().zip(&logits).zip(targets).enumerate() {
            if is_over_shards {
                tape.shard(batch.number, batch.share);
            }
            if let Some(outputs) = outputs.as_mut().filter(|_| network.body.head().is_none()) {
                tape.keep(logits);
                read_outputs(self.backend, tape.value(logits)?, &mut outputs.values)?;
            }
            losses.push(match (loss, targets) {
                (_, DeviceTargets::Labels(labels)) => {
                    let Some(head) = network.body.head() else { return Err(TrainingError::NoLists) };
                    let top = outputs.as_mut().map(|outputs| {
                        outputs.top = TopLabels::new(TOP);
                        &mut outputs.top
                    });
                    tape.one_vs_all(head.weight, head.bias, logits, &labels, top)?
                }
                _ if network.body.head().is_some() => return Err(TrainingError::NoLists),
                (Loss::Pointwise(loss), DeviceTargets::Numbers(targets)) => {
                    let targets = tape.input(targets, false);
                    tape.pointwise_loss(loss, logits, targets)?
                }
                (loss, _) => {
                    let (_, labels) = self.labels[slot].as_ref().expect("`upload_targets` has made it");
                    let Loss::CrossEntropy { label_smoothing } = loss else {
                        unreachable!("targets are of the loss's kind")
                    };
                    tape.softmax_cross_entropy(logits, labels, batch.batch.counted(), label_smoothing)?
                }
            });
        }
        match growth {
            Some(growth) => tape.backward(&losses, growth, reduce)?,
            None if is_over_shards => tape.finish_forward(reduce)?,
            None => {}
        }
        Ok(losses.into_iter().map(|loss| tape.detach_loss(loss)).collect::<Result<_, _>>()?)
    }

    /// One forward pass of lists without targets: the likeliest labels of each.
    fn top_labels(
        &mut self,
        network: &mut Network<B>,
        lists: &Lists,
        top: &mut TopLabels,
    ) -> Result<(), TrainingError> {
        let input = self.upload(0, HostInputs::Lists(lists))?;
        let mut tape = Tape::new(self.backend, &mut self.arena, &mut network.parameters, Mode::Evaluation);
        let x = network_input(&mut tape, input, None, &mut self.states.evaluation);
        let x = network.body.forward(self.backend, &mut tape, x, 0.0, Key::new(0))?;
        let head = network.body.head().ok_or(TrainingError::NoLists)?;
        Ok(tape.top_labels(head.weight, head.bias, x, top)?)
    }

    /// One forward pass without targets: the outputs, one sample after the other.
    fn outputs(
        &mut self,
        network: &mut Network<B>,
        inputs: HostInputs<'_>,
        outputs: &mut Vec<f32>,
    ) -> Result<(), TrainingError> {
        let input = self.upload(0, inputs)?;
        let mut tape = Tape::new(self.backend, &mut self.arena, &mut network.parameters, Mode::Evaluation);
        let x = network_input(&mut tape, input, held(&self.tokens, 0), &mut self.states.evaluation);
        let logits = network.body.forward(self.backend, &mut tape, x, 0.0, Key::new(0))?;
        read_outputs(self.backend, tape.value(logits)?, outputs)
    }

    /// What the losses are, in their order.
    pub(super) fn read(&mut self, losses: Vec<DetachedLoss<B>>) -> Result<Vec<LossStats>, TrainingError> {
        Ok(DetachedLoss::read_all(self.backend, &mut self.arena, losses)?)
    }

    /// Loss and right answers on a batch, without dropout or smoothing; with `backward`, gradients too.
    pub(super) fn measure(
        &mut self,
        network: &mut Network<B>,
        batch: HostBatch<'_>,
        (mode, loss): (Mode, Loss),
        backward: bool,
        outputs: Option<&mut Outputs>,
    ) -> Result<LossStats, TrainingError> {
        let options = PassOptions { mode, dropout: 0.0, loss: loss.measured() };
        let mut growth = GrowthRequests::new();
        let batch = PassBatch::whole(batch);
        let loss = self.pass(network, batch, options, backward.then_some(&mut growth), outputs)?;
        Ok(self.read(vec![loss])?.remove(0))
    }
}

/// Copies indices into a buffer with room for so many, which is made if need be.
fn upload_indices<B: Backend>(
    backend: &B,
    indices: &[u32],
    buffer: &mut Option<(usize, B::Indices)>,
) -> Result<(), TrainingError> {
    if buffer.as_ref().is_none_or(|(room, _)| *room < indices.len()) {
        *buffer = Some((indices.len(), backend.index_zeros(indices.len())?));
    }
    let (_, buffer) = buffer.as_mut().expect("made above");
    Ok(backend.upload_indices(indices, buffer)?)
}

/// What is held on the device for a shard of a pass.
fn held<T>(shards: &[Option<(usize, T)>], slot: usize) -> Option<&T> {
    shards.get(slot)?.as_ref().map(|(_, held)| held)
}

/// What a network reads, on a tape.
fn network_input<'i, B: Backend>(
    tape: &mut Tape<'_, B>,
    inputs: DeviceInputs<B>,
    tokens: Option<&'i Arc<B::Indices>>,
    states: &'i mut States<B>,
) -> NetworkInput<'i, B> {
    match (inputs, tokens) {
        (DeviceInputs::Values(values), _) => NetworkInput::Values(tape.input(values, false)),
        (DeviceInputs::Tokens(sequences), Some(tokens)) => NetworkInput::Tokens { tokens, sequences, states },
        (DeviceInputs::Lists(lists), _) => NetworkInput::Lists(lists),
        (DeviceInputs::Tokens(_), None) => unreachable!("`Workspace::upload` has made the buffer"),
    }
}

/// Replaces `outputs` by those of each sample, one sample after the other.
fn read_outputs<B: Backend>(backend: &B, logits: &Activations<B>, outputs: &mut Vec<f32>) -> Result<(), TrainingError> {
    let Activations::Strips(Strips { layout, data }) = logits else { unreachable!("a network ends with features") };
    let held = backend.downloaded(data)?;
    outputs.clear();
    for lane in 0..layout.lanes() {
        outputs.extend((0..layout.features()).map(|feature| held[layout.index(feature, lane)]));
    }
    Ok(())
}

/// A network that is used, not trained.
#[derive(Debug)]
pub struct Evaluator<'b, B: Backend> {
    /// The network.
    pub network: Network<B>,
    loss: Loss,
    workspace: Workspace<'b, B>,
}

impl<'b, B: Backend> Evaluator<'b, B> {
    /// Takes the network, to measure this loss of it.
    pub fn new(backend: &'b B, network: Network<B>, loss: Loss) -> Self {
        Self::in_precision(backend, network, loss, Precision::F32)
    }

    /// As [`Evaluator::new`], with activations that are stored so.
    pub fn in_precision(backend: &'b B, network: Network<B>, loss: Loss, precision: Precision) -> Self {
        Self { network, loss, workspace: Workspace::new(backend, Held { precision, ..Held::default() }) }
    }

    /// Loss and right answers on one batch: `images` in `layout`, targets of each lane.
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
        self.workspace.measure(&mut self.network, batch, (Mode::Evaluation, self.loss), false, None)
    }

    /// [`Evaluator::evaluate_batch`], of any inputs, and if asked for the outputs, one sample after the other.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn evaluate_outputs(
        &mut self,
        batch: &Batch,
        outputs: Option<&mut Outputs>,
    ) -> Result<LossStats, TrainingError> {
        self.workspace.measure(&mut self.network, batch.into(), (Mode::Evaluation, self.loss), false, outputs)
    }

    /// The outputs for inputs in `layout`, one sample after the other, in place of what `outputs` holds.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn outputs(
        &mut self,
        layout: impl Into<Layout>,
        images: &[f32],
        outputs: &mut Vec<f32>,
    ) -> Result<(), TrainingError> {
        let inputs = HostInputs::Values { layout: layout.into(), values: images };
        self.workspace.outputs(&mut self.network, inputs, outputs)
    }

    /// The likeliest labels of each of some lists of features.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn top_labels(&mut self, lists: &Lists, top: &mut TopLabels) -> Result<(), TrainingError> {
        self.workspace.top_labels(&mut self.network, lists, top)
    }

    /// As [`Evaluator::outputs`], of tokens: the outputs of each lane.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn outputs_of_tokens(
        &mut self,
        sequences: Sequences,
        tokens: &[u32],
        outputs: &mut Vec<f32>,
    ) -> Result<(), TrainingError> {
        self.workspace.outputs(&mut self.network, HostInputs::Tokens { sequences, tokens }, outputs)
    }

    /// One forward pass as in training, without dropout: normalisations take the batch's moments, and move the running ones.
    /// With `backward`, the gradients of the mean loss stand in the network's parameters afterwards. No weight changes.
    ///
    /// # Errors
    /// [`TrainingError`].
    pub fn training_pass(&mut self, batch: &Batch, backward: bool) -> Result<LossStats, TrainingError> {
        self.workspace.measure(&mut self.network, batch.into(), (Mode::Training, self.loss), backward, None)
    }
}
