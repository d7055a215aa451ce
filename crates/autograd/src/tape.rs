//! The tape: values, and one node per operation that has a gradient.
//!
//! ```text
//! forward    each operation pushes its output and a node (output, closure)
//! backward   for nodes in reverse: take the output's gradient out, run the closure, which adds to its inputs' gradients
//! ```
//!
//! An operation is a method of [`Tape`] in a file of its own; the tape knows none of them. Values and their buffers stand
//! in `storage.rs`, growth in `growth.rs`.

use std::collections::HashMap;
use std::rc::Rc;

use sparse_kernels::{Activations, Backend, Candidate, Images, Layout, Strips};

use crate::growth::{GrowthPasses, GrowthRequests, Wanted};
use crate::growth_tiles::Growth;
use crate::parameters::{ParameterId, ParameterValue, Parameters};
use crate::reduce::Reduce;
use crate::shards::{ShardSums, Shards, SumOf, Tree};
use crate::storage::{Gradient, Mode, Recipe, Saved, Values, Var};
use crate::{Arena, Error, NoReduce};

type BackwardFn<'a, B> = Box<dyn FnOnce(&mut Backward<'_, 'a, B>, Gradient<B>) -> Result<(), Error> + 'a>;

struct Node<'a, B: Backend> {
    output: Var,
    /// The shard that it is of.
    shard: usize,
    /// The buffer that this operation made; free once the node has run, since all users have run before.
    made: Option<usize>,
    /// Buffers that it needs.
    needs: Vec<usize>,
    backward: BackwardFn<'a, B>,
}

/// One forward pass and, in training, its backward pass.
///
/// Dropping the tape gives its buffers back to the arena.
pub struct Tape<'a, B: Backend> {
    pub(crate) backend: &'a B,
    pub(crate) arena: &'a mut Arena<B>,
    pub(crate) parameters: &'a mut Parameters<B>,
    pub(crate) values: Values<B>,
    nodes: Vec<Node<'a, B>>,
    grads: Vec<Option<Gradient<B>>>,
    /// How often each parameter is used by nodes that have not run yet.
    uses: Vec<usize>,
    pub(crate) stats: Vec<Option<B::Buffer>>,
    ran: bool,
    /// Factor on the gradients of losses.
    pub(crate) share: f32,
    /// Whether gradients of passes before stay, and those of this one are added.
    pub(crate) adds: bool,
    /// Of a tape over shards.
    pub(crate) shards: Option<OverShards<B>>,
    /// Whether operations say how to compute their outputs again.
    pub(crate) recomputes: bool,
}

/// What a tape over shards knows beside its nodes.
pub(crate) struct OverShards<B: Backend> {
    shards: Shards,
    /// The shard that operations are recorded for.
    pub current: usize,
    /// How often each parameter is used in each shard.
    uses: HashMap<(ParameterId, usize), usize>,
    /// Moments that batch normalisations have found in each shard, times its share of the batch: for which running ones, in which
    /// shard, and they.
    pub moments: Vec<(ParameterId, usize, B::Buffer)>,
}

impl<'a, B: Backend> Tape<'a, B> {
    /// An empty tape.
    pub fn new(backend: &'a B, arena: &'a mut Arena<B>, parameters: &'a mut Parameters<B>, mode: Mode) -> Self {
        let uses = vec![0; parameters.len()];
        let (nodes, grads, stats) = Default::default();
        let (values, ran, share, adds, shards, recomputes) = (Values::new(mode), false, 1.0, false, None, false);
        Self { backend, arena, parameters, values, nodes, grads, uses, stats, ran, share, adds, shards, recomputes }
    }

    /// Lets [`Tape::forget`] give buffers back that the backward pass can compute again.
    #[must_use]
    pub fn recomputing(self) -> Self {
        let mut tape = self;
        tape.recomputes = true;
        tape
    }

    /// Gives the buffer of a value back until the backward pass needs it, if it can be computed again in one pass over memory: what
    /// normalisations and GELU make. Nothing of the forward pass may read it afterwards. Without [`Tape::recomputing`], and in
    /// evaluation, nothing happens.
    ///
    /// All results are the same bits.
    pub fn forget(&mut self, var: Var) {
        if self.recomputes
            && self.mode() == Mode::Training
            && let Some(activations) = self.values.forget(var)
        {
            self.arena.give(self.backend, activations);
        }
    }

    /// Notes how an operation's output can be computed again.
    pub(crate) fn set_recipe(&mut self, output: Var, recipe: impl FnOnce() -> Recipe<B>) {
        if self.recomputes && self.mode() == Mode::Training {
            self.values.set_recipe(output, recipe());
        }
    }

    /// Computes a buffer again that was given back, and those that it is computed from.
    fn recompute(&mut self, storage: usize) -> Result<(), Error> {
        let Some(recipe) = self.values.missing(storage) else { return Ok(()) };
        for from in recipe.from.clone() {
            self.recompute(from)?;
        }
        let Some(recipe) = self.values.missing(storage) else { return Ok(()) };
        let activations = (recipe.compute)(self.backend, self.arena, self.parameters, &self.values)?;
        self.values.put(storage, activations);
        Ok(())
    }

    /// Makes the tape one over shards of a batch: gradients are computed for each shard by itself, and added up along the tree
    /// of [`Tree`](crate::Tree). Call [`Tape::shard`] before the operations of each.
    ///
    /// Operations may be recorded shard by shard, or all shards' of one layer and then the next layer's. The backward pass
    /// goes the same way back: the second order makes each parameter's gradient whole before it goes on to the layer before.
    #[must_use]
    pub fn over(self, shards: Shards) -> Self {
        let mut tape = self;
        let current = shards.own().start;
        tape.shards = Some(OverShards { shards, current, uses: HashMap::new(), moments: vec![] });
        tape
    }

    /// Operations that follow are those of this shard, whose share of the batch is `share`: its losses' gradients are those of
    /// the mean times that.
    ///
    /// # Panics
    /// If the tape is not over this shard.
    pub fn shard(&mut self, shard: usize, share: f32) {
        self.share = share;
        let over = self.shards.as_mut().filter(|over| over.shards.own().contains(&shard));
        over.unwrap_or_else(|| panic!("the tape is not over shard {shard}")).current = shard;
    }

    /// The end of a pass over shards that has no backward pass: the moments that batch normalisations have found are summed over
    /// shards, as [`Tape::backward`] does first. They become the gradients of the running ones, see [`Parameters::move_running`].
    ///
    /// # Errors
    /// If the workers cannot be reached or the backend fails.
    pub fn finish_forward(&mut self, reduce: &mut dyn Reduce<B>) -> Result<(), Error> {
        self.parameters.clear_gradients();
        self.sum_moments(reduce)?;
        reduce.finish(self.backend, self.arena, self.parameters)
    }

    fn sum_moments(&mut self, reduce: &mut dyn Reduce<B>) -> Result<(), Error> {
        let Some(over) = &mut self.shards else { return Ok(()) };
        let (count, mut found) = (over.shards.count(), std::mem::take(&mut over.moments));
        while let Some(&(running, ..)) = found.first() {
            let mut tree = Tree::new(count);
            for (_, shard, moments) in found.extract_if(.., |(of, ..)| *of == running) {
                tree.insert(shard..shard + 1, moments, |mut sum, other| {
                    self.backend.add(&other, &mut sum)?;
                    self.arena.give_buffer(self.backend, other);
                    Ok::<_, Error>(sum)
                })?;
            }
            let of = SumOf::Moments(running);
            if let Some(sum) = reduce.sum(self.backend, self.arena, of, tree)?
                && let Some(before) = self.parameters.set_gradient(of, sum)
            {
                self.arena.give_buffer(self.backend, before);
            }
        }
        Ok(())
    }

    /// Makes the pass one of a part of a batch: the gradients of losses are those of the mean times `share`, the part's share
    /// of the batch, and with `adds` they are added to those of the parts before. Call it before the loss.
    #[must_use]
    pub fn part(self, share: f32, adds: bool) -> Self {
        // A tape is dropped by giving back its buffers, so that its fields cannot be moved out.
        let mut tape = self;
        (tape.share, tape.adds) = (share, adds);
        tape
    }

    /// What the tape is for.
    pub fn mode(&self) -> Mode {
        self.values.mode()
    }

    /// Number of recorded operations.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Puts activations on the tape; their buffer goes to the arena in the end. Without `requires_grad` no gradient is
    /// computed for them, and the product that would do it does not run.
    pub fn input(&mut self, activations: impl Into<Activations<B>>, requires_grad: bool) -> Var {
        let requires_grad = requires_grad && self.mode() == Mode::Training;
        self.values.push(activations.into(), requires_grad)
    }

    /// Holds a value beyond its first use in evaluation mode: call it on what is used twice, or read afterwards. In
    /// training mode it does nothing, values live on anyway.
    pub fn keep(&mut self, var: Var) {
        self.values.keep(var);
    }

    /// Reads a value that is still there; [`Tape::backward`] releases all but inputs.
    ///
    /// # Errors
    /// If an operation in place has taken it, or its buffer has been released.
    pub fn value(&mut self, var: Var) -> Result<&Activations<B>, Error> {
        let storage = self.values.read("value", var)?;
        Ok(self.values.activations(storage))
    }

    /// Takes a value off an evaluation tape; the caller may give it to the arena later.
    ///
    /// # Errors
    /// If the value is not there any more, or the tape is one of training.
    pub fn take(&mut self, var: Var) -> Result<Activations<B>, Error> {
        let storage = self.values.read("take", var)?;
        if self.mode() == Mode::Training {
            return Err(Error::Saved { op: "take", by: "training" });
        }
        self.values.mark_moved("take", var);
        Ok(self.values.take(storage).expect("`read` found the buffer"))
    }

    /// Shape and order of a value.
    pub fn layout(&self, var: Var) -> Layout {
        self.values.layout(var)
    }

    /// After [`Tape::backward`], the gradient of an input that asked for it; none if it had no part in the loss.
    pub fn gradient(&self, var: Var) -> Option<&Activations<B>> {
        self.grads.get(var.0).and_then(|gradient| gradient.as_deref())
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
        if self.mode() == Mode::Evaluation {
            return Err(Error::Backward { reason: "the tape is one of evaluation, nothing was recorded" });
        }
        if std::mem::replace(&mut self.ran, true) {
            return Err(Error::Backward { reason: "it has run on this tape already" });
        }
        growth.check(self.backend, self.parameters)?;
        if !self.adds {
            self.parameters.clear_gradients();
        }
        self.sum_moments(reduce)?;
        self.grads.resize_with(self.values.len(), || None);
        let nodes = std::mem::take(&mut self.nodes);
        let finished = vec![false; self.uses.len()];
        let sums = self.shards.as_mut().map(|over| ShardSums::new(over.shards.count(), std::mem::take(&mut over.uses)));
        let mut pass = Backward { tape: self, growth, reduce, pending: Vec::new(), finished, sums };
        for (var, seed) in seeds {
            pass.accumulate(var, seed)?;
        }
        for node in nodes.into_iter().rev() {
            if let Some(sums) = &mut pass.sums {
                sums.shard = node.shard;
            }
            if let Some(grad) = pass.tape.grads[node.output.0].take() {
                node.needs.iter().try_for_each(|&storage| pass.tape.recompute(storage))?;
                // Who made a buffer runs last of those that know it.
                node.made.into_iter().for_each(|made| pass.tape.values.drop_recipe(made));
                (node.backward)(&mut pass, grad)?;
            }
            if let Some(activations) = node.made.and_then(|made| pass.tape.values.take_unless_pinned(made)) {
                pass.tape.arena.give(pass.tape.backend, activations);
            }
        }
        // What has uses that the losses do not depend on is not finished yet.
        (0..pass.finished.len()).try_for_each(|i| pass.finish(ParameterId(i)))?;
        match pass.sums {
            Some(_) => reduce.finish(self.backend, self.arena, self.parameters),
            None => Ok(()),
        }
    }

    // ---- for operations ----

    /// The output of an operation with a parameter, in a new buffer; `input` has been used.
    pub(crate) fn push_output(&mut self, op: &'static str, input: Var, output: impl Into<Activations<B>>) -> Var {
        self.used(op, input);
        self.values.push(output.into(), self.mode() == Mode::Training)
    }

    /// Notes that `op` has used a value: in evaluation mode, its buffer goes back.
    pub(crate) fn used(&mut self, op: &'static str, var: Var) {
        if let Some(activations) = self.values.used(op, var) {
            self.arena.give(self.backend, activations);
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
        let storage = self.values.storage(output);
        let made = (storage != self.values.storage(input)).then_some(storage);
        self.push_node(output, made, parameter.as_slice(), backward);
    }

    /// As [`Tape::record`], of an operation on parameters alone or several of them, which made `output` in a buffer of its own.
    pub(crate) fn record_source(
        &mut self,
        output: Var,
        parameters: &[ParameterId],
        backward: impl FnOnce(&mut Backward<'_, 'a, B>, Gradient<B>) -> Result<(), Error> + 'a,
    ) {
        let made = Some(self.values.storage(output));
        self.push_node(output, made, parameters, backward);
    }

    pub(crate) fn push_node(
        &mut self,
        output: Var,
        made: Option<usize>,
        parameters: &[ParameterId],
        backward: impl FnOnce(&mut Backward<'_, 'a, B>, Gradient<B>) -> Result<(), Error> + 'a,
    ) {
        let needs = self.values.take_needed();
        if self.values.requires_grad(output) {
            parameters.iter().for_each(|id| self.uses[id.0] += 1);
            let shard = self.shards.as_ref().map_or(0, |over| over.current);
            if let Some(over) = &mut self.shards {
                parameters.iter().for_each(|&id| *over.uses.entry((id, shard)).or_default() += 1);
            }
            self.nodes.push(Node { output, shard, made, needs, backward: Box::new(backward) });
        }
    }
}

impl<B: Backend> Drop for Tape<'_, B> {
    fn drop(&mut self) {
        let grads = self.grads.drain(..).flatten().filter_map(Rc::into_inner);
        for activations in self.values.drain().chain(grads) {
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
        f.debug_struct("Tape").field("mode", &self.mode()).field("values", &values).field("nodes", &nodes).finish()
    }
}

/// A backward pass, as the closures see it.
pub(crate) struct Backward<'p, 'a, B: Backend> {
    pub(crate) tape: &'p mut Tape<'a, B>,
    growth: &'p mut GrowthRequests,
    reduce: &'p mut dyn Reduce<B>,
    /// Uses that wait for growth: (parameter, shard, dY, X).
    pending: Vec<(ParameterId, usize, Gradient<B>, Saved)>,
    /// Parameters that have been reduced.
    finished: Vec<bool>,
    /// Of a tape over shards.
    sums: Option<ShardSums<B>>,
}

/// What an operation's parameter gradient needs at the same time.
pub(crate) struct ParameterGradient<'p, 'a, B: Backend> {
    pub backend: &'a B,
    /// Of the tape, what the operation saved.
    pub values: &'p mut Values<B>,
    pub parameter: &'p ParameterValue<B>,
    /// To be written.
    pub gradient: &'p mut B::Buffer,
    /// Whether to add to it.
    pub accumulate: bool,
}

impl<'a, B: Backend> Backward<'_, 'a, B> {
    /// Adds to a value's gradient: the first contribution moves in, later ones are added and their buffers go back.
    pub(crate) fn accumulate(&mut self, var: Var, gradient: impl Into<Activations<B>>) -> Result<(), Error> {
        self.accumulate_shared(var, Rc::new(gradient.into()))
    }

    /// As [`Backward::accumulate`], of a gradient that may be another value's too.
    pub(crate) fn accumulate_shared(&mut self, var: Var, gradient: Gradient<B>) -> Result<(), Error> {
        let tape = &mut *self.tape;
        if tape.layout(var) != gradient.layout() {
            return match self.own(gradient)? {
                Activations::Images(images) => self.accumulate_images(var, images),
                Activations::Strips(_) => Err(Error::Backward { reason: "a gradient has not the shape of its value" }),
            };
        }
        if !tape.values.requires_grad(var) {
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

    /// [`Backward::accumulate`] of images that may lie with another border than the value.
    pub(crate) fn accumulate_images(&mut self, var: Var, gradient: Images<B>) -> Result<(), Error> {
        let Layout::Images(layout) = self.tape.layout(var) else {
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
                backend.convert(shared.data(), copy.data_mut())?;
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

    /// Lets go what an operation saved; its buffer goes back, unless growth waits for it.
    pub(crate) fn give_unless_pinned(&mut self, saved: Saved) {
        if let Some(activations) = self.tape.values.take_unless_pinned(saved.storage) {
            self.tape.arena.give(self.tape.backend, activations);
        }
    }

    /// A parameter's gradient, which counts as written from here on; on a tape over shards, that of the current shard.
    pub(crate) fn parameter_gradient(&mut self, parameter: ParameterId) -> Result<ParameterGradient<'_, 'a, B>, Error> {
        let Tape { backend, parameters, values, arena, .. } = &mut *self.tape;
        let (parameter, gradient, accumulate) = match &mut self.sums {
            None => parameters.write_gradient(backend, parameter)?,
            Some(sums) => {
                let value = parameters.get(parameter).value();
                let of = SumOf::Gradient(parameter);
                let (leaf, accumulate) = sums.leaf(backend, arena, of, backend.len(value.values()))?;
                (value, leaf, accumulate)
            }
        };
        Ok(ParameterGradient { backend, values, parameter, gradient, accumulate })
    }

    /// A weight's share of one use, dY and X: of its gradient and, if that was asked for, of its gradient at all positions;
    /// or the pair is kept until the weight's last use, if candidates for growth were asked for.
    pub(crate) fn weight_used(&mut self, weight: ParameterId, dy: Gradient<B>, x: Saved) -> Result<(), Error> {
        if self.growth.position(weight).is_some() {
            self.tape.values.set_pinned(x.storage, true);
            let shard = self.sums.as_ref().map_or(0, |sums| sums.shard);
            self.pending.push((weight, shard, dy, x));
        } else {
            let ParameterGradient { backend, values, parameter, gradient, accumulate } =
                self.parameter_gradient(weight)?;
            let value = parameter.weight().expect("the forward pass found a weight");
            value.weight_grad(backend, (&dy, values.saved(x)), gradient, accumulate)?;
            if self.growth.wants_dense(weight) {
                let Tape { backend, parameters, values, arena, .. } = &mut *self.tape;
                let (value, gradient, accumulate) = match &mut self.sums {
                    None => parameters.write_dense_gradient(backend, weight)?,
                    Some(sums) => {
                        let value = parameters.weight("dense gradient", weight)?;
                        let len = value.geometry(backend).positions();
                        let (leaf, accumulate) = sums.leaf(backend, arena, SumOf::DenseGradient(weight), len)?;
                        (value, leaf, accumulate)
                    }
                };
                value.dense_grad(backend, (&dy, values.saved(x)), gradient, accumulate)?;
            }
            self.release(dy);
        }
        self.use_done(weight)
    }

    /// What growth is asked for.
    pub(crate) fn growth(&self) -> &GrowthRequests {
        self.growth
    }

    /// The candidates for growth of a parameter's only use.
    pub(crate) fn found(&mut self, parameter: ParameterId, candidates: Vec<Candidate>) -> Result<(), Error> {
        if let Some(i) = self.growth.position(parameter) {
            self.growth.entries[i].found = Some(candidates);
        }
        self.finished[parameter.0] = true;
        self.use_done(parameter)
    }

    /// The gradient of one use of a parameter, which the forward pass has computed.
    pub(crate) fn gradient_found(&mut self, parameter: ParameterId, found: B::Buffer) -> Result<(), Error> {
        let Tape { backend, parameters, .. } = &mut *self.tape;
        let backend = *backend;
        let before = match self.sums.is_none() && parameters.get(parameter).gradient().is_none() {
            true => parameters.set_gradient(SumOf::Gradient(parameter), found),
            false => {
                let ParameterGradient { gradient, accumulate, .. } = self.parameter_gradient(parameter)?;
                match accumulate {
                    true => backend.add(&found, gradient)?,
                    false => backend.copy(&found, gradient)?,
                }
                Some(found)
            }
        };
        if let Some(before) = before {
            self.tape.arena.give_buffer(backend, before);
        }
        self.use_done(parameter)
    }

    /// Notes that one use of a parameter is done; after the last one, its gradient or its candidates are complete.
    pub(crate) fn use_done(&mut self, parameter: ParameterId) -> Result<(), Error> {
        if let Some(sums) = &mut self.sums {
            sums.use_done(self.tape.backend, self.tape.arena, parameter)?;
        }
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
        let Some(sums) = &mut self.sums else { return Ok(()) };
        for of in [SumOf::Gradient(parameter), SumOf::DenseGradient(parameter)] {
            let Some(known) = sums.take(of) else { continue };
            let Tape { backend, parameters, arena, .. } = &mut *self.tape;
            let Some(sum) = self.reduce.sum(backend, arena, of, known)? else { continue };
            if let Some(old) = parameters.set_gradient(of, sum) {
                arena.give_buffer(backend, old);
            }
        }
        Ok(())
    }

    fn grow(&mut self, parameter: ParameterId, request: usize) -> Result<(), Error> {
        let (uses, others): (Vec<_>, _) =
            std::mem::take(&mut self.pending).into_iter().partition(|(waiting, ..)| *waiting == parameter);
        self.pending = others;
        let Tape { backend, parameters, values, shards, .. } = &mut *self.tape;
        for (.., x) in &uses {
            values.saved(*x);
        }
        let pairs = uses.iter().map(|(_, shard, dy, x)| (*shard, (&**dy, values.activations(x.storage))));
        let entry = &self.growth.entries[request];
        if shards.is_some() && entry.passes != GrowthPasses::One {
            return Err(Error::Backward { reason: "growth over shards is over one pass" });
        }
        let found = match (&entry.wanted, shards) {
            (Wanted::Largest(request), None) => {
                let pairs: Vec<_> = pairs.map(|(_, pair)| pair).collect();
                entry.largest(*backend, parameters, request, &pairs)?
            }
            (Wanted::Largest(request), Some(over)) => {
                let weight = parameters.weight("growth", parameter)?;
                let growth = Growth::new(*backend, parameter, weight, request, over.shards.count(), pairs.collect());
                Some(self.reduce.grow(&growth)?)
            }
            (Wanted::Sampled(request), None) => {
                entry.explored(*backend, parameters, request, 1, pairs.collect(), &mut NoReduce)?
            }
            (Wanted::Sampled(request), Some(over)) => {
                entry.explored(*backend, parameters, request, over.shards.count(), pairs.collect(), self.reduce)?
            }
        };
        self.growth.entries[request].found = found;
        for (_, _, dy, x) in uses {
            self.release(dy);
            self.tape.values.set_pinned(x.storage, false);
        }
        Ok(())
    }
}
