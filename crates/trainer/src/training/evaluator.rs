//! A network that is used, not trained; and what a pass needs beside the parameters.

use autograd::{Arena, DetachedLoss, GrowthRequests, LossStats, Mode, NoReduce, Tape};
use sparse_kernels::random::Key;
use sparse_kernels::{Activations, Backend, Layout};

use super::error::TrainingError;
use crate::models::Network;

/// How a pass is made.
pub(super) struct PassOptions {
    pub mode: Mode,
    /// Share of hidden activations dropped, and what decides which.
    pub dropout: f32,
    pub key: Key,
    pub label_smoothing: f32,
}

/// What a pass needs beside the parameters, kept from one to the next.
#[derive(Debug)]
pub(super) struct Workspace<'b, B: Backend> {
    backend: &'b B,
    pub(super) arena: Arena<B>,
    labels: Option<(usize, B::Indices)>,
    /// Of the images of the last pass.
    images: Option<Layout>,
}

impl<'b, B: Backend> Workspace<'b, B> {
    pub(super) fn new(backend: &'b B) -> Self {
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

    /// One forward pass; with `growth`, the backward pass too, which answers its requests.
    pub(super) fn pass(
        &mut self,
        network: &mut Network<B>,
        (layout, images, labels): (Layout, &[f32], &[u32]),
        options: PassOptions,
        growth: Option<&mut GrowthRequests>,
    ) -> Result<DetachedLoss<B>, TrainingError> {
        let input = self.upload(layout, images, labels)?;
        let PassOptions { mode, dropout, key, label_smoothing } = options;
        let mut tape = Tape::new(self.backend, &mut self.arena, &mut network.parameters, mode);
        let x = tape.input(input, false);
        let logits = network.body.forward(&mut tape, x, dropout, key)?;
        let (_, labels) = self.labels.as_ref().expect("`upload` has made it");
        let loss = tape.softmax_cross_entropy(logits, labels, label_smoothing)?;
        if let Some(growth) = growth {
            tape.backward(&[loss], growth, &mut NoReduce)?;
        }
        Ok(tape.detach_loss(loss)?)
    }

    /// What the losses are, in their order.
    pub(super) fn read(&mut self, losses: Vec<DetachedLoss<B>>) -> Result<Vec<LossStats>, TrainingError> {
        Ok(DetachedLoss::read_all(self.backend, &mut self.arena, losses)?)
    }

    /// Loss and right answers on a batch, without dropout or smoothing; with `backward`, gradients too.
    pub(super) fn measure(
        &mut self,
        network: &mut Network<B>,
        batch: (Layout, &[f32], &[u32]),
        mode: Mode,
        backward: bool,
    ) -> Result<LossStats, TrainingError> {
        let options = PassOptions { mode, dropout: 0.0, key: Key::new(0), label_smoothing: 0.0 };
        let loss = self.pass(network, batch, options, backward.then_some(&mut GrowthRequests::new()))?;
        Ok(self.read(vec![loss])?.remove(0))
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
        self.workspace.measure(&mut self.network, (layout.into(), images, labels), Mode::Evaluation, false)
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
        self.workspace.measure(&mut self.network, (layout.into(), images, labels), Mode::Training, backward)
    }
}
