//! The values of a tape and the buffers they stand in.
//!
//! Several values may be in one buffer, one after the other: operations in place move it on. A buffer is released when
//! the node that made it has run (training) or when its value has been used (evaluation).

use std::rc::Rc;

use sparse_kernels::{Activations, Backend, ImageLayout, Images, Layout, StripLayout, Strips};

use crate::{Arena, Error, Parameters};

/// What a tape is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Keeps what the backward pass needs.
    Training,
    /// Records nothing, gives each buffer back as soon as it has been used ([`crate::Tape::keep`] holds one), and turns
    /// dropout off.
    Evaluation,
}

/// A value on a tape. It means something on that tape only; on another it is another value, or a panic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Var(pub(crate) usize);

/// A gradient. A sum hands its own to both terms: what is shared is only read, and is nobody's to overwrite.
pub(crate) type Gradient<B> = Rc<Activations<B>>;

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

/// How a value can be computed again.
pub(crate) struct Recipe<B: Backend> {
    /// The buffers that it is computed from.
    pub from: Vec<usize>,
    pub compute: Compute<B>,
}

type Compute<B> = Box<dyn Fn(&B, &mut Arena<B>, &Parameters<B>, &Values<B>) -> Result<Activations<B>, Error>>;

struct Stored<B: Backend> {
    activations: Option<Activations<B>>,
    /// How to compute it again, if it may be given back until the backward pass.
    recipe: Option<Recipe<B>>,
    /// The strictest need of a backward pass, and whose it is.
    saved: Option<(Need, &'static str)>,
    /// Waits for a growth request, and must not be released.
    pinned: bool,
}

/// What a backward closure reads later.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Saved {
    pub storage: usize,
    layout: Layout,
}

/// All values of a tape, and their buffers by number.
pub(crate) struct Values<B: Backend> {
    mode: Mode,
    values: Vec<Value>,
    stored: Vec<Stored<B>>,
    /// What the operation that is being recorded needs of buffers in its backward pass.
    needed: Vec<usize>,
}

impl<B: Backend> Values<B> {
    pub fn new(mode: Mode) -> Self {
        Self { mode, values: Vec::new(), stored: Vec::new(), needed: Vec::new() }
    }

    pub fn mode(&self) -> Mode {
        self.mode
    }

    pub fn len(&self) -> usize {
        self.values.len()
    }

    pub fn layout(&self, var: Var) -> Layout {
        self.values[var.0].layout
    }

    pub fn requires_grad(&self, var: Var) -> bool {
        self.values[var.0].requires_grad
    }

    pub fn keep(&mut self, var: Var) {
        self.values[var.0].kept = true;
    }

    /// The buffer of a value, live or not.
    pub fn storage(&self, var: Var) -> usize {
        self.values[var.0].storage
    }

    /// The buffer of a live value.
    pub fn read(&mut self, op: &'static str, var: Var) -> Result<usize, Error> {
        let value = &self.values[var.0];
        match value.state {
            State::Moved(by) => return Err(Error::Moved { op, by }),
            State::Released(by) => return Err(Error::Released { op, by }),
            State::Live => {}
        }
        match &mut self.stored[value.storage].activations {
            Some(activations) => set_layout(activations, value.layout),
            None => return Err(Error::Released { op, by: "backward" }),
        }
        Ok(value.storage)
    }

    /// The buffer of a live value that an operation will overwrite, leaving intact at best what `keeps` says.
    pub fn read_to_overwrite(&mut self, op: &'static str, var: Var, keeps: Option<Need>) -> Result<usize, Error> {
        let storage = self.read(op, var)?;
        match self.stored[storage].saved {
            Some((need, by)) if Some(need) > keeps => Err(Error::Saved { op, by }),
            _ => Ok(storage),
        }
    }

    /// The layout of features by lanes.
    ///
    /// # Errors
    /// If the value is images.
    pub fn strip_layout(&self, op: &'static str, var: Var) -> Result<StripLayout, Error> {
        match self.layout(var) {
            Layout::Strips(layout) => Ok(layout),
            Layout::Images(_) => Err(Error::Activations { op, got: "images", expected: "features by lanes" }),
        }
    }

    /// The layout of images.
    ///
    /// # Errors
    /// If the value is features by lanes.
    pub fn image_layout(&self, op: &'static str, var: Var) -> Result<ImageLayout, Error> {
        match self.layout(var) {
            Layout::Images(layout) => Ok(layout),
            Layout::Strips(_) => Err(Error::Activations { op, got: "features by lanes", expected: "images" }),
        }
    }

    /// A buffer that [`Values::read`] found.
    pub fn activations(&self, storage: usize) -> &Activations<B> {
        self.stored[storage].activations.as_ref().expect("`read` found the buffer")
    }

    /// A buffer that [`Values::read`] found, to be overwritten.
    pub fn activations_mut(&mut self, storage: usize) -> &mut Activations<B> {
        self.stored[storage].activations.as_mut().expect("`read` found the buffer")
    }

    /// A buffer that [`Values::read`] found, of a value that [`Values::strip_layout`] accepted.
    pub fn strips(&self, storage: usize) -> &Strips<B> {
        strips(self.activations(storage))
    }

    /// A buffer that [`Values::read`] found, of a value that [`Values::image_layout`] accepted.
    pub fn images(&self, storage: usize) -> &Images<B> {
        images(self.activations(storage))
    }

    /// Takes images out for an operation on several of them; [`Values::put_images`] puts them back.
    pub fn take_images(&mut self, storage: usize) -> Images<B> {
        match self.take(storage) {
            Some(Activations::Images(images)) => images,
            _ => unreachable!("`read` found the buffer, and `image_layout` that it is images"),
        }
    }

    /// Puts back what [`Values::take`] took for an operation.
    pub fn put(&mut self, storage: usize, activations: Activations<B>) {
        self.stored[storage].activations = Some(activations);
    }

    pub fn put_images(&mut self, storage: usize, images: Images<B>) {
        self.stored[storage].activations = Some(images.into());
    }

    /// Takes features by lanes out, which [`Values::read`] found and [`Values::strip_layout`] accepted.
    pub fn take_strips(&mut self, storage: usize) -> Strips<B> {
        match self.take(storage) {
            Some(Activations::Strips(strips)) => strips,
            _ => unreachable!("`read` found the buffer, and `strip_layout` that it is features by lanes"),
        }
    }

    /// Takes what a buffer holds, if it holds anything.
    pub fn take(&mut self, storage: usize) -> Option<Activations<B>> {
        self.stored[storage].activations.take()
    }

    /// Takes what a buffer holds, unless growth waits for it.
    pub fn take_unless_pinned(&mut self, storage: usize) -> Option<Activations<B>> {
        if self.stored[storage].pinned { None } else { self.take(storage) }
    }

    pub fn set_pinned(&mut self, storage: usize, pinned: bool) {
        self.stored[storage].pinned = pinned;
    }

    /// Notes what the backward pass of `op` needs of a value; with `None` its shape only.
    pub fn save(&mut self, op: &'static str, var: Var, need: Option<Need>) -> Saved {
        let Value { storage, layout, .. } = self.values[var.0];
        if let Some(need) = need {
            self.note(op, storage, need);
            self.needed.push(storage);
        }
        Saved { storage, layout }
    }

    /// Keeps operations in place off a value that `op` might read again.
    pub fn protect(&mut self, op: &'static str, var: Var) {
        self.note(op, self.storage(var), Need::Exact);
    }

    fn note(&mut self, op: &'static str, storage: usize, need: Need) {
        let saved = &mut self.stored[storage].saved;
        if self.mode == Mode::Training && saved.is_none_or(|(strictest, _)| strictest < need) {
            *saved = Some((need, op));
        }
    }

    /// Buffers that the operation just recorded needs in its backward pass.
    pub fn take_needed(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.needed)
    }

    /// Notes how the value of an output can be computed again.
    pub fn set_recipe(&mut self, output: Var, recipe: Recipe<B>) {
        let storage = self.storage(output);
        self.stored[storage].recipe = Some(recipe);
    }

    /// Takes the buffer of a live value that can be computed again from buffers that are there.
    pub fn forget(&mut self, var: Var) -> Option<Activations<B>> {
        let Value { storage, state: State::Live, .. } = self.values[var.0] else { return None };
        let stored = &self.stored[storage];
        let is_there = |&from: &usize| self.stored[from].activations.is_some();
        if stored.pinned || !stored.recipe.as_ref()?.from.iter().all(is_there) {
            return None;
        }
        self.take(storage)
    }

    /// How to compute a buffer that was given back.
    pub fn missing(&self, storage: usize) -> Option<&Recipe<B>> {
        let stored = &self.stored[storage];
        stored.recipe.as_ref().filter(|_| stored.activations.is_none())
    }

    /// Lets go how a buffer can be computed again: it will not be.
    pub fn drop_recipe(&mut self, storage: usize) {
        self.stored[storage].recipe = None;
    }

    /// A value that an operation saved.
    pub fn saved(&mut self, saved: Saved) -> &Activations<B> {
        let activations = self.stored[saved.storage].activations.as_mut();
        let activations = activations.expect("buffers are released only when the node that made them has run");
        set_layout(activations, saved.layout);
        activations
    }

    /// Stores a buffer that is no value (the gradient that a loss computes on the way).
    pub fn store(&mut self, activations: Activations<B>) -> usize {
        self.stored.push(Stored { activations: Some(activations), recipe: None, saved: None, pinned: false });
        self.stored.len() - 1
    }

    /// Stores a buffer that is no value but that a backward closure reads as one.
    pub fn store_saved(&mut self, activations: Activations<B>) -> Saved {
        let layout = activations.layout();
        Saved { storage: self.store(activations), layout }
    }

    /// A new value in a new buffer.
    pub fn push(&mut self, activations: Activations<B>, requires_grad: bool) -> Var {
        let layout = activations.layout();
        let storage = self.store(activations);
        self.values.push(Value { storage, layout, requires_grad, kept: false, state: State::Live });
        Var(self.values.len() - 1)
    }

    /// A new value in the buffer of `from`, which is gone then.
    pub fn push_in_place(
        &mut self,
        op: &'static str,
        from: Var,
        layout: impl Into<Layout>,
        requires_grad: bool,
    ) -> Var {
        let layout = layout.into();
        let Value { storage, kept, .. } = self.values[from.0];
        self.mark_moved(op, from);
        self.drop_recipe(storage);
        if let Some(activations) = &mut self.stored[storage].activations {
            set_layout(activations, layout);
        }
        self.values.push(Value { storage, layout, requires_grad, kept, state: State::Live });
        Var(self.values.len() - 1)
    }

    /// Notes that `op` has taken a value's buffer.
    pub fn mark_moved(&mut self, op: &'static str, var: Var) {
        self.values[var.0].state = State::Moved(op);
    }

    /// Notes that `op` has used a value: in evaluation mode, its buffer is to be given back.
    #[must_use]
    pub fn used(&mut self, op: &'static str, var: Var) -> Option<Activations<B>> {
        let value = &mut self.values[var.0];
        if self.mode != Mode::Evaluation || value.kept {
            return None;
        }
        value.state = State::Released(op);
        let storage = value.storage;
        self.take(storage)
    }

    /// Takes all that is left.
    pub fn drain(&mut self) -> impl Iterator<Item = Activations<B>> {
        self.stored.drain(..).filter_map(|stored| stored.activations)
    }
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
pub(crate) fn strips_mut<B: Backend>(activations: &mut Activations<B>) -> &mut Strips<B> {
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

/// Activations that were found to be images.
pub(crate) fn images_mut<B: Backend>(activations: &mut Activations<B>) -> &mut Images<B> {
    match activations {
        Activations::Images(images) => images,
        Activations::Strips(_) => unreachable!("the operation found images"),
    }
}
