//! The tape: values, and one node per operation that has a gradient.
//!
//! ```text
//! forward    each operation pushes its output and a node (output, closure)
//! backward   for nodes in reverse: take the output's gradient out, run the closure, which adds to its inputs' gradients
//! ```
//!
//! An operation is a method of [`Tape`] in a file of its own; the tape knows none of them. In-place operations move
//! their input's buffer to their output. A buffer goes back to the arena when the node that made it has run (training)
//! or when its value has been used (evaluation).

use std::rc::Rc;

use sparse_kernels::{Activations, Backend, ImageLayout, Images, Layout, StripLayout, Strips};

use crate::parameters::GrowthKind;
use crate::{Arena, Error, GrowthPasses, GrowthRequests, Loss, ParameterId, Parameters, Reduce, Reduction, growth};

/// What a tape is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Keeps what the backward pass needs.
    Training,
    /// Records nothing, gives each buffer back as soon as it has been used ([`Tape::keep`] holds one), and turns
    /// dropout off.
    Evaluation,
}

/// A value on a tape. It means something on that tape only; on another it is another value, or a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var(usize);

/// Why a value cannot be used any more.
#[derive(Debug, Clone, Copy)]
enum State {
    Live,
    Moved(&'static str),
    Released(&'static str),
}

struct Value {
    storage: usize,
    layout: Layout,
    requires_grad: bool,
    kept: bool,
    state: State,
}

/// What a backward pass needs of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// Only where it is positive, and only where the gradient that comes back is not zero.
    Sign,
    /// Every bit.
    Exact,
}

/// A buffer; several values may have stood in it one after the other.
struct Stored<B: Backend> {
    activations: Option<Activations<B>>,
    /// The strictest need of a backward pass, and whose it is.
    saved: Option<(Need, &'static str)>,
    /// Waits for a growth request, and must not be released.
    pinned: bool,
}

/// What a backward closure reads later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Saved {
    storage: usize,
    layout: Layout,
}

/// A gradient. A sum hands its own to both terms: what is shared is only read, and is nobody's to overwrite.
pub(crate) type Gradient<B> = Rc<Activations<B>>;

type BackwardFn<'a, B> = Box<dyn FnOnce(&mut Backward<'_, 'a, B>, Gradient<B>) -> Result<(), Error> + 'a>;

struct Node<'a, B: Backend> {
    output: Var,
    /// The buffer that this operation made; free once the node has run, since all users have run before.
    made: Option<usize>,
    backward: BackwardFn<'a, B>,
}

/// One forward pass and, in training, its backward pass.
///
/// Dropping the tape gives its buffers back to the arena.
pub struct Tape<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) arena: &'a mut Arena<B>,
    pub(crate) parameters: &'a mut Parameters<B>,
    mode: Mode,
    values: Vec<Value>,
    storages: Vec<Stored<B>>,
    nodes: Vec<Node<'a, B>>,
    grads: Vec<Option<Gradient<B>>>,
    /// How often each parameter is used by nodes that have not run yet.
    uses: Vec<usize>,
    pub(crate) stats: Vec<Option<B::Buffer>>,
    ran: bool,
}

impl<'a, B: Backend> Tape<'a, B> {
    /// An empty tape.
    pub fn new(backend: &'a B, arena: &'a mut Arena<B>, parameters: &'a mut Parameters<B>, mode: Mode) -> Self {
        let uses = vec![0; parameters.len()];
        let (values, storages, nodes, grads, stats) = Default::default();
        Self { backend, arena, parameters, mode, values, storages, nodes, grads, uses, stats, ran: false }
    }

    /// What the tape is for.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Number of recorded operations.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Puts activations on the tape; their buffer goes to the arena in the end. Without `requires_grad` no gradient is
    /// computed for them, and the product that would do it does not run.
    pub fn input(&mut self, activations: impl Into<Activations<B>>, requires_grad: bool) -> Var {
        let requires_grad = requires_grad && self.mode == Mode::Training;
        self.push(activations.into(), requires_grad)
    }

    /// Holds a value beyond its first use in evaluation mode: call it on what is used twice, or read afterwards. In
    /// training mode it does nothing, values live on anyway.
    pub fn keep(&mut self, var: Var) {
        self.values[var.0].kept = true;
    }

    /// Reads a value that is still there; [`Tape::backward`] releases all but inputs.
    ///
    /// # Errors
    /// If an operation in place has taken it, or its buffer has been released.
    pub fn value(&mut self, var: Var) -> Result<&Activations<B>, Error> {
        let storage = self.read("value", var)?;
        Ok(self.activations(storage))
    }

    /// Takes a value off an evaluation tape; the caller may give it to the arena later.
    ///
    /// # Errors
    /// If the value is not there any more, or the tape is one of training.
    pub fn take(&mut self, var: Var) -> Result<Activations<B>, Error> {
        let storage = self.read("take", var)?;
        if self.mode == Mode::Training {
            return Err(Error::Saved { op: "take", by: "training" });
        }
        self.values[var.0].state = State::Moved("take");
        Ok(self.storages[storage].activations.take().expect("`read` found the buffer"))
    }

    /// Shape and order of a value.
    pub fn layout(&self, var: Var) -> Layout {
        self.values[var.0].layout
    }

    /// After [`Tape::backward`], the gradient of an input that asked for it; none if it had no part in the loss.
    pub fn gradient(&self, var: Var) -> Option<&Activations<B>> {
        self.grads.get(var.0).and_then(|gradient| gradient.as_deref())
    }

    /// Computes the gradients of the sum of `losses` with respect to all parameters that took part, and to inputs that
    /// asked for it.
    ///
    /// Gradients of earlier passes are forgotten first. For a parameter in `growth` no gradient is computed (it then
    /// has none, and no optimizer step touches it); instead the candidates are found over all its uses together, once
    /// the last of them has its output's gradient. Gradients and candidates pass through `reduce`.
    ///
    /// # Errors
    /// On an evaluation tape, at a second call, if a request is for a parameter that is neither sparse nor block-sparse, or
    /// if the backend or `reduce` fails.
    ///
    /// # Cost
    /// For each sparse layer `4 · nnz · n` operations (`2 · nnz · n` where the input needs no gradient); with a growth
    /// request `2 · m · k · n` instead of the weight gradient's `2 · nnz · n`.
    pub fn backward(
        &mut self,
        losses: &[Loss],
        growth: &mut GrowthRequests,
        reduce: &mut dyn Reduce<B>,
    ) -> Result<(), Error> {
        let mut seeds = Vec::with_capacity(losses.len());
        for loss in losses {
            let gradient = loss.gradient.and_then(|storage| self.storages[storage].activations.take());
            let reason = "the loss has no gradient: nothing below it asks for one, or it was used before";
            seeds.push((loss.logits, gradient.ok_or(Error::Backward { reason })?));
        }
        self.backward_from(seeds, growth, reduce)
    }

    /// As [`Tape::backward`], from given gradients of given values.
    ///
    /// # Errors
    /// As [`Tape::backward`], and if a seed's shape is not its value's.
    pub fn backward_from(
        &mut self,
        seeds: Vec<(Var, Activations<B>)>,
        growth: &mut GrowthRequests,
        reduce: &mut dyn Reduce<B>,
    ) -> Result<(), Error> {
        if self.mode == Mode::Evaluation {
            return Err(Error::Backward { reason: "the tape is one of evaluation, nothing was recorded" });
        }
        if std::mem::replace(&mut self.ran, true) {
            return Err(Error::Backward { reason: "it has run on this tape already" });
        }
        for entry in &growth.entries {
            self.parameters.block_size("growth request", self.backend, entry.parameter)?;
        }
        for &parameter in &growth.dense {
            self.parameters.expect_pattern("dense gradient", self.backend, parameter)?;
        }
        self.parameters.clear_gradients();
        self.grads.resize_with(self.values.len(), || None);
        let nodes = std::mem::take(&mut self.nodes);
        let mut pass = Backward { tape: self, growth, reduce, pending: Vec::new(), finished: Vec::new() };
        pass.finished.resize(pass.tape.uses.len(), false);
        for (var, seed) in seeds {
            pass.accumulate(var, seed)?;
        }
        for node in nodes.into_iter().rev() {
            if let Some(grad) = pass.tape.grads[node.output.0].take() {
                (node.backward)(&mut pass, grad)?;
            }
            if let Some(stored) = node.made.map(|made| &mut pass.tape.storages[made]).filter(|s| !s.pinned)
                && let Some(activations) = stored.activations.take()
            {
                pass.tape.arena.give(pass.tape.backend, activations);
            }
        }
        // What has uses that the losses do not depend on is not finished yet.
        (0..pass.finished.len()).try_for_each(|i| pass.finish(ParameterId(i)))
    }

    // ---- for operations ----

    /// The buffer of a live value.
    pub(crate) fn read(&mut self, op: &'static str, var: Var) -> Result<usize, Error> {
        let value = &self.values[var.0];
        match value.state {
            State::Moved(by) => return Err(Error::Moved { op, by }),
            State::Released(by) => return Err(Error::Released { op, by }),
            State::Live => {}
        }
        match &mut self.storages[value.storage].activations {
            Some(activations) => set_layout(activations, value.layout),
            None => return Err(Error::Released { op, by: "backward" }),
        }
        Ok(value.storage)
    }

    /// The buffer of a live value that an operation will overwrite, leaving intact at best what `keeps` says.
    pub(crate) fn read_to_overwrite(
        &mut self,
        op: &'static str,
        var: Var,
        keeps: Option<Need>,
    ) -> Result<usize, Error> {
        let storage = self.read(op, var)?;
        match self.storages[storage].saved {
            Some((need, by)) if Some(need) > keeps => Err(Error::Saved { op, by }),
            _ => Ok(storage),
        }
    }

    /// The layout of features by lanes.
    ///
    /// # Errors
    /// If the value is images.
    pub(crate) fn strip_layout(&self, op: &'static str, var: Var) -> Result<StripLayout, Error> {
        match self.layout(var) {
            Layout::Strips(layout) => Ok(layout),
            Layout::Images(_) => Err(Error::Activations { op, got: "images", expected: "features by lanes" }),
        }
    }

    /// The layout of images.
    ///
    /// # Errors
    /// If the value is features by lanes.
    pub(crate) fn image_layout(&self, op: &'static str, var: Var) -> Result<ImageLayout, Error> {
        match self.layout(var) {
            Layout::Images(layout) => Ok(layout),
            Layout::Strips(_) => Err(Error::Activations { op, got: "features by lanes", expected: "images" }),
        }
    }

    fn activations(&self, storage: usize) -> &Activations<B> {
        self.storages[storage].activations.as_ref().expect("`read` found the buffer")
    }

    /// A buffer that [`Tape::read`] found, of a value that [`Tape::strip_layout`] accepted.
    pub(crate) fn stored(&self, storage: usize) -> &Strips<B> {
        strips(self.activations(storage))
    }

    /// A buffer to overwrite, beside the parameters to do it with.
    pub(crate) fn stored_and_parameters(&mut self, storage: usize) -> (&mut Strips<B>, &Parameters<B>) {
        let activations = self.storages[storage].activations.as_mut().expect("`read` found the buffer");
        (strips_mut(activations), self.parameters)
    }

    pub(crate) fn stored_mut(&mut self, storage: usize) -> &mut Strips<B> {
        strips_mut(self.storages[storage].activations.as_mut().expect("`read` found the buffer"))
    }

    /// A buffer that [`Tape::read`] found, of a value that [`Tape::image_layout`] accepted.
    pub(crate) fn stored_images(&self, storage: usize) -> &Images<B> {
        images(self.activations(storage))
    }

    /// Takes images out for an operation on several of them; [`Tape::put_images`] puts them back.
    pub(crate) fn take_images(&mut self, storage: usize) -> Images<B> {
        match self.storages[storage].activations.take() {
            Some(Activations::Images(images)) => images,
            _ => unreachable!("`read` found the buffer, and `image_layout` that it is images"),
        }
    }

    pub(crate) fn put_images(&mut self, storage: usize, images: Images<B>) {
        self.storages[storage].activations = Some(images.into());
    }

    pub(crate) fn requires_grad(&self, var: Var) -> bool {
        self.values[var.0].requires_grad
    }

    /// Notes what the backward pass of `op` needs of a value; with `None` its shape only.
    pub(crate) fn save(&mut self, op: &'static str, var: Var, need: Option<Need>) -> Saved {
        let Value { storage, layout, .. } = self.values[var.0];
        let saved = &mut self.storages[storage].saved;
        if self.mode == Mode::Training && saved.map(|(strictest, _)| strictest) < need {
            *saved = need.map(|need| (need, op));
        }
        Saved { storage, layout }
    }

    /// Stores a buffer that is no value (the gradient that a loss computes on the way).
    pub(crate) fn store(&mut self, activations: Activations<B>) -> usize {
        self.storages.push(Stored { activations: Some(activations), saved: None, pinned: false });
        self.storages.len() - 1
    }

    /// A new value in a new buffer.
    pub(crate) fn push(&mut self, activations: Activations<B>, requires_grad: bool) -> Var {
        let layout = activations.layout();
        let storage = self.store(activations);
        self.values.push(Value { storage, layout, requires_grad, kept: false, state: State::Live });
        Var(self.values.len() - 1)
    }

    /// The output of an operation with a parameter, in a new buffer; `input` has been used.
    pub(crate) fn push_output(&mut self, op: &'static str, input: Var, output: impl Into<Activations<B>>) -> Var {
        self.used(op, input);
        self.push(output.into(), self.mode == Mode::Training)
    }

    /// A new value in the buffer of `from`, which is gone then.
    pub(crate) fn push_in_place(
        &mut self,
        op: &'static str,
        from: Var,
        layout: impl Into<Layout>,
        requires_grad: bool,
    ) -> Var {
        let layout = layout.into();
        let Value { storage, kept, .. } = self.values[from.0];
        self.values[from.0].state = State::Moved(op);
        if let Some(activations) = &mut self.storages[storage].activations {
            set_layout(activations, layout);
        }
        self.values.push(Value { storage, layout, requires_grad, kept, state: State::Live });
        Var(self.values.len() - 1)
    }

    /// Notes that `op` has used a value: in evaluation mode, its buffer goes back.
    pub(crate) fn used(&mut self, op: &'static str, var: Var) {
        let value = &mut self.values[var.0];
        if self.mode == Mode::Evaluation && !value.kept {
            value.state = State::Released(op);
            if let Some(activations) = self.storages[value.storage].activations.take() {
                self.arena.give(self.backend, activations);
            }
        }
    }

    /// Records the backward of the operation that made `output` from `input` (and, say, a parameter). Nothing is recorded
    /// where no gradient will come.
    pub(crate) fn record(
        &mut self,
        input: Var,
        output: Var,
        parameter: Option<ParameterId>,
        backward: impl FnOnce(&mut Backward<'_, 'a, B>, Gradient<B>) -> Result<(), Error> + 'a,
    ) {
        if self.values[output.0].requires_grad {
            let storage = self.values[output.0].storage;
            let made = (storage != self.values[input.0].storage).then_some(storage);
            if let Some(ParameterId(i)) = parameter {
                self.uses[i] += 1;
            }
            self.nodes.push(Node { output, made, backward: Box::new(backward) });
        }
    }
}

impl<B: Backend> Drop for Tape<'_, B> {
    fn drop(&mut self) {
        let grads = self.grads.drain(..).flatten().filter_map(Rc::into_inner);
        for activations in self.storages.drain(..).filter_map(|s| s.activations).chain(grads) {
            self.arena.give(self.backend, activations);
        }
        for stats in self.stats.drain(..).flatten() {
            self.arena.give_buffer(self.backend, stats);
        }
    }
}

impl<B: Backend> std::fmt::Debug for Tape<'_, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (values, nodes) = (self.values.len(), self.nodes.len());
        f.debug_struct("Tape").field("mode", &self.mode).field("values", &values).field("nodes", &nodes).finish()
    }
}

/// A backward pass, as the closures see it.
pub(crate) struct Backward<'p, 'a, B: Backend> {
    pub(crate) tape: &'p mut Tape<'a, B>,
    growth: &'p mut GrowthRequests,
    reduce: &'p mut dyn Reduce<B>,
    /// Uses that wait for growth: (parameter, dY, X).
    pending: Vec<(ParameterId, Gradient<B>, Saved)>,
    /// Parameters that have been reduced.
    finished: Vec<bool>,
}

impl<'a, B: Backend> Backward<'_, 'a, B> {
    /// Adds to a value's gradient: the first contribution moves in, later ones are added and their buffers go back.
    pub(crate) fn accumulate(&mut self, var: Var, gradient: impl Into<Activations<B>>) -> Result<(), Error> {
        self.accumulate_shared(var, Rc::new(gradient.into()))
    }

    /// As [`Backward::accumulate`], of a gradient that may be another value's too.
    pub(crate) fn accumulate_shared(&mut self, var: Var, gradient: Gradient<B>) -> Result<(), Error> {
        let tape = &mut *self.tape;
        if tape.values[var.0].layout != gradient.layout() {
            return match self.own(gradient)? {
                Activations::Images(images) => self.accumulate_images(var, images),
                Activations::Strips(_) => Err(Error::Backward { reason: "a gradient has not the shape of its value" }),
            };
        }
        if !tape.values[var.0].requires_grad {
            self.release(gradient);
            return Ok(());
        }
        let Some(sum) = tape.grads[var.0].take() else {
            tape.grads[var.0] = Some(gradient);
            return Ok(());
        };
        let mut sum = self.own(sum)?;
        let backend = self.tape.backend;
        match (&*gradient, &mut sum) {
            (Activations::Strips(from), Activations::Strips(to)) => backend.add_strips(from, to)?,
            (Activations::Images(from), Activations::Images(to)) => backend.add_images(from, to)?,
            _ => unreachable!("both have the value's layout"),
        }
        self.release(gradient);
        self.tape.grads[var.0] = Some(Rc::new(sum));
        Ok(())
    }

    /// Takes the sum of the gradients that a value has so far, to add to it in the operation's own pass; none if there is
    /// none yet. It goes back by [`Backward::accumulate`].
    pub(crate) fn take_sum(&mut self, var: Var) -> Result<Option<Activations<B>>, Error> {
        self.tape.grads[var.0].take().map(|sum| self.own(sum)).transpose()
    }

    /// A gradient to overwrite: itself, or a copy if it is another value's too.
    pub(crate) fn own(&mut self, gradient: Gradient<B>) -> Result<Activations<B>, Error> {
        match Rc::try_unwrap(gradient) {
            Ok(gradient) => Ok(gradient),
            Err(shared) => {
                let backend = self.tape.backend;
                let mut copy = self.tape.arena.take_activations(backend, shared.layout())?;
                backend.copy(shared.data(), copy.data_mut())?;
                self.release(shared);
                Ok(copy)
            }
        }
    }

    /// [`Backward::own`], of a value that was found to be features by lanes.
    pub(crate) fn own_strips(&mut self, gradient: Gradient<B>) -> Result<Strips<B>, Error> {
        match self.own(gradient)? {
            Activations::Strips(strips) => Ok(strips),
            Activations::Images(_) => unreachable!("a gradient has its value's layout"),
        }
    }

    /// [`Backward::own`], of a value that was found to be images.
    pub(crate) fn own_images(&mut self, gradient: Gradient<B>) -> Result<Images<B>, Error> {
        match self.own(gradient)? {
            Activations::Images(images) => Ok(images),
            Activations::Strips(_) => unreachable!("a gradient has its value's layout"),
        }
    }

    /// Lets a gradient go; with its last holder, its buffer goes back.
    pub(crate) fn release(&mut self, gradient: Gradient<B>) {
        if let Some(gradient) = Rc::into_inner(gradient) {
            self.tape.arena.give(self.tape.backend, gradient);
        }
    }

    /// A value that an operation saved.
    pub(crate) fn saved(&mut self, saved: Saved) -> &Activations<B> {
        let activations = self.tape.storages[saved.storage].activations.as_mut();
        let activations = activations.expect("buffers are released only when the node that made them has run");
        set_layout(activations, saved.layout);
        activations
    }

    /// Two images that an operation saved.
    pub(crate) fn saved_pair(&self, first: Saved, second: Saved) -> (&Images<B>, &Images<B>) {
        (self.tape.stored_images(first.storage), self.tape.stored_images(second.storage))
    }

    /// What the gradient of a normalisation needs at the same time: backend, input, perhaps output, parameter, gradient,
    /// whether to add to it.
    #[expect(clippy::type_complexity, reason = "the borrows that one gradient needs at a time")]
    pub(crate) fn norm_gradient(
        &mut self,
        parameter: ParameterId,
        input: Saved,
        output: Option<Saved>,
    ) -> Result<(&'a B, &Images<B>, Option<&Images<B>>, &crate::ParameterValue<B>, &mut B::Buffer, bool), Error> {
        let tape = &mut *self.tape;
        let (value, gradient, accumulate) = tape.parameters.write_gradient(tape.backend, parameter)?;
        let stored = |saved: Saved| {
            images(tape.storages[saved.storage].activations.as_ref().expect("buffers are released after their node"))
        };
        Ok((tape.backend, stored(input), output.map(stored), value, gradient, accumulate))
    }

    /// [`Backward::accumulate`] of images that may lie with another border than the value.
    pub(crate) fn accumulate_images(&mut self, var: Var, gradient: Images<B>) -> Result<(), Error> {
        let Layout::Images(layout) = self.tape.values[var.0].layout else {
            return Err(Error::Backward { reason: "a gradient has not the shape of its value" });
        };
        if gradient.layout == layout {
            return self.accumulate(var, gradient);
        }
        let backend = self.tape.backend;
        let mut moved = self.tape.arena.take_images(backend, layout)?;
        backend.fill(0.0, &mut moved.data)?;
        backend.add_images(&gradient, &mut moved)?;
        self.tape.arena.give(backend, gradient);
        self.accumulate(var, moved)
    }

    /// The parts that an operation on a saved value, a parameter and its gradient needs at the same time: backend,
    /// saved value, parameter, gradient, whether to add to it.
    #[expect(clippy::type_complexity, reason = "the borrows that one weight gradient needs at a time")]
    pub(crate) fn weight_gradient(
        &mut self,
        parameter: ParameterId,
        saved: Saved,
    ) -> Result<(&'a B, &Activations<B>, &crate::ParameterValue<B>, &mut B::Buffer, bool), Error> {
        self.saved(saved);
        let tape = &mut *self.tape;
        let (value, gradient, accumulate) = tape.parameters.write_gradient(tape.backend, parameter)?;
        let activations = tape.storages[saved.storage].activations.as_ref().expect("`saved` found it");
        Ok((tape.backend, activations, value, gradient, accumulate))
    }

    /// Adds a use's share to a weight's gradient at all positions, if that was asked for.
    pub(crate) fn add_dense_gradient(
        &mut self,
        parameter: ParameterId,
        dy: &Activations<B>,
        x: Saved,
    ) -> Result<(), Error> {
        if !self.growth.wants_dense(parameter) {
            return Ok(());
        }
        self.saved(x);
        let tape = &mut *self.tape;
        let kind = tape.parameters.growth_kind(tape.backend, parameter);
        let (gradient, accumulate) = tape.parameters.write_dense_gradient(tape.backend, parameter)?;
        let x = tape.storages[x.storage].activations.as_ref().expect("`saved` found it");
        dense_gradient(tape.backend, kind, dy, x, gradient, accumulate)
    }

    /// Whether a parameter gets candidates instead of a gradient.
    pub(crate) fn grows(&self, parameter: ParameterId) -> bool {
        self.growth.position(parameter).is_some()
    }

    /// Keeps a use's dY and X until the parameter's last use.
    pub(crate) fn wait_for_growth(&mut self, parameter: ParameterId, dy: Gradient<B>, x: Saved) {
        self.tape.storages[x.storage].pinned = true;
        self.pending.push((parameter, dy, x));
    }

    /// Notes that one use of a parameter is done; after the last one, its gradient or its candidates are complete.
    pub(crate) fn use_done(&mut self, parameter: ParameterId) -> Result<(), Error> {
        let uses = &mut self.tape.uses[parameter.0];
        *uses -= 1;
        if *uses == 0 { self.finish(parameter) } else { Ok(()) }
    }

    fn finish(&mut self, parameter: ParameterId) -> Result<(), Error> {
        if std::mem::replace(&mut self.finished[parameter.0], true) {
            return Ok(());
        }
        if let Some(i) = self.growth.position(parameter) {
            return self.grow(parameter, i);
        }
        let tape = &mut *self.tape;
        if let Some(gradient) = tape.parameters.written_gradient(parameter) {
            self.reduce.reduce(tape.backend, parameter, Reduction::Gradient(gradient))?;
        }
        match tape.parameters.written_dense_gradient(parameter) {
            Some(gradient) => self.reduce.reduce(tape.backend, parameter, Reduction::DenseGradient(gradient)),
            None => Ok(()),
        }
    }

    fn grow(&mut self, parameter: ParameterId, request: usize) -> Result<(), Error> {
        let (uses, others) = std::mem::take(&mut self.pending).into_iter().partition(|(p, ..)| *p == parameter);
        self.pending = others;
        let uses: Vec<(ParameterId, Gradient<B>, Saved)> = uses;
        for (_, _, x) in &uses {
            self.saved(*x);
        }
        let tape = &mut *self.tape;
        let growth::Entry { passes, request: wanted, found: answer, .. } = &mut self.growth.entries[request];
        let kind = tape.parameters.growth_kind(tape.backend, parameter);
        let found = match (kind, *passes) {
            (GrowthKind::Linear { block_size: [1, 1] }, GrowthPasses::One) => {
                let pairs: Vec<_> = uses.iter().map(|(_, dy, x)| (strips(dy), tape.stored(x.storage))).collect();
                Some(tape.backend.grow(wanted, &pairs)?)
            }
            (GrowthKind::Linear { block_size }, GrowthPasses::One) => {
                let pairs: Vec<_> = uses.iter().map(|(_, dy, x)| (strips(dy), tape.stored(x.storage))).collect();
                Some(tape.backend.grow_blocks(block_size, wanted, &pairs)?)
            }
            (GrowthKind::Conv(shape), GrowthPasses::One) => {
                let pairs: Vec<_> = uses.iter().map(|(_, dy, x)| (images(dy), tape.stored_images(x.storage))).collect();
                Some(tape.backend.grow_conv(shape, wanted, &pairs)?)
            }
            (kind, passes) => {
                let (mut gradient, mut accumulate) = tape.parameters.take_growth_gradient(tape.backend, parameter)?;
                for (_, dy, x) in &uses {
                    let x = tape.activations(x.storage);
                    dense_gradient(tape.backend, kind, dy, x, &mut gradient, accumulate)?;
                    accumulate = true;
                }
                match passes {
                    GrowthPasses::Last => Some(tape.backend.largest(&gradient, wanted)?),
                    _ => {
                        tape.parameters.put_growth_gradient(parameter, gradient);
                        None
                    }
                }
            }
        };
        if let Some(mut candidates) = found {
            self.reduce.reduce(tape.backend, parameter, Reduction::Candidates(&mut candidates))?;
            *answer = Some(candidates);
        }
        for (_, dy, x) in uses {
            self.release(dy);
            self.tape.storages[x.storage].pinned = false;
        }
        Ok(())
    }
}

/// `gradient =` the gradient of a weight at all positions, or adds it.
fn dense_gradient<B: Backend>(
    backend: &B,
    kind: GrowthKind,
    dy: &Activations<B>,
    x: &Activations<B>,
    gradient: &mut B::Buffer,
    accumulate: bool,
) -> Result<(), Error> {
    match kind {
        GrowthKind::Conv(shape) => {
            backend.conv_weight_grad_dense(shape, images(dy), images(x), gradient, accumulate)?;
        }
        GrowthKind::Linear { .. } => backend.gemm_weight_grad(strips(dy), strips(x), gradient, accumulate)?,
    }
    Ok(())
}

/// Changes the shape of features by lanes; that of images never changes.
fn set_layout<B: Backend>(activations: &mut Activations<B>, layout: Layout) {
    match (activations, layout) {
        (Activations::Strips(strips), Layout::Strips(layout)) => strips.layout = layout,
        (Activations::Images(images), Layout::Images(layout)) => debug_assert_eq!(images.layout, layout),
        _ => unreachable!("no operation in place makes images of features, or features of images"),
    }
}

/// Activations that were found to be features by lanes.
pub(crate) fn strips<B: Backend>(activations: &Activations<B>) -> &Strips<B> {
    match activations {
        Activations::Strips(strips) => strips,
        Activations::Images(_) => unreachable!("the operation found features by lanes"),
    }
}

/// Activations that were found to be features by lanes.
fn strips_mut<B: Backend>(activations: &mut Activations<B>) -> &mut Strips<B> {
    match activations {
        Activations::Strips(strips) => strips,
        Activations::Images(_) => unreachable!("the operation found features by lanes"),
    }
}

/// Activations that were found to be images.
pub(crate) fn images<B: Backend>(activations: &Activations<B>) -> &Images<B> {
    match activations {
        Activations::Images(images) => images,
        Activations::Strips(_) => unreachable!("the operation found images"),
    }
}
