//! Steps of recurrent networks: what follows the products with a step's state, and its gradient.
//!
//! Activations of all steps are one tensor whose lane `t · P + n` is sequence `n` of `P` at step `t`; what a step needs of its
//! own has `P` lanes. A step of the first kind is then a run of lanes in each row, see [`Steps`].

use super::check::{Checked, Done, expect_f32, lies_as};
use super::storage::Storage;
use crate::error::expect_equal;
use crate::{BackendError, ShapeError, StripLayout, Strips};

/// How the lanes of all steps and those of one step lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    all: StripLayout,
    one: StripLayout,
    count: usize,
}

impl Steps {
    /// Steps of tensors that lie as `all`, `count` of them. A step's tensors have the same strips or, where `all` is a single
    /// strip, that step's lanes as their only strip.
    ///
    /// # Errors
    /// If there is no step or no lane, or with several steps, a step's lanes are not whole strips of its own, or lanes of
    /// `all` are padding.
    pub fn new(all: StripLayout, count: usize) -> Result<Self, ShapeError> {
        if count == 0 || !all.lanes().is_multiple_of(count) || all.lanes() == 0 {
            let rule = "a divisor of the lanes, of which there is at least one";
            return Err(ShapeError::Rule { op: OP, what: "number of steps", got: count, rule });
        }
        if count == 1 {
            return Ok(Self { all, one: all, count });
        }
        let lanes = all.lanes() / count;
        let (strip, rule) = match all.strips() {
            1 => (lanes, "the lanes in all, and the steps' a multiple of 16"),
            _ => (all.strip(), "a divisor of the lanes of a step"),
        };
        let one = StripLayout::new(lanes, all.features(), strip).ok();
        match one.filter(|_| lanes.is_multiple_of(strip) && all.lanes().is_multiple_of(all.strip())) {
            Some(one) => Ok(Self { all, one, count }),
            None => Err(ShapeError::Rule { op: OP, what: "strip of the steps' lanes", got: all.strip(), rule }),
        }
    }

    /// Steps of `lanes` lanes each.
    ///
    /// # Errors
    /// If the lanes of `all` are no multiple of them, and as [`Steps::new`].
    pub fn of_lanes(all: StripLayout, lanes: usize) -> Result<Self, ShapeError> {
        let count = all.lanes().checked_div(lanes).unwrap_or(0);
        expect_equal(OP, "number of lanes", count * lanes, all.lanes())?;
        Self::new(all, count)
    }

    /// Number of steps.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Layout of so many features of all steps.
    pub fn all(&self, features: usize) -> StripLayout {
        self.all.with_features(features)
    }

    /// Layout of so many features of one step.
    pub fn one(&self, features: usize) -> StripLayout {
        self.one.with_features(features)
    }

    /// Where strip `strip` of step `step` begins among the lanes of all steps; its lanes follow each other in each row.
    pub(crate) fn lane(&self, step: usize, strip: usize) -> usize {
        step * self.one.lanes() + strip * self.one.strip()
    }
}

const OP: &str = "steps";

/// Operands of [`Recurrent::gru_step`].
#[derive(Debug)]
pub struct GruStep<'a, B: Storage> {
    /// Which step, from 0.
    pub step: usize,
    /// `[3H, T · P]`: `W · x + b` of the gates r, z and n.
    pub gates: &'a mut Strips<B>,
    /// `[3H, P]`: `U · h + b'` of the gates.
    pub hidden: &'a Strips<B>,
    /// `[H, P]`: h, of the step before at first, and of this one then.
    pub state: &'a mut Strips<B>,
    /// `[H, T · P]`: h of this step, at its lanes.
    pub y: &'a mut Strips<B>,
    /// What the gradient needs; without it `gates` stay as they are.
    pub saved: Option<GruSaved<'a, B>>,
}

/// What [`Recurrent::gru_step`] keeps of a step at its lanes, beside the gates.
#[derive(Debug)]
pub struct GruSaved<'a, B: Storage> {
    /// `[H, T · P]`: h of the step before.
    pub previous: &'a mut Strips<B>,
    /// `[H, T · P]`: `U · h + b'` of gate n.
    pub hidden_n: &'a mut Strips<B>,
}

/// Operands of [`Recurrent::gru_step_grad`].
#[derive(Debug)]
pub struct GruStepGrad<'a, B: Storage> {
    /// Which step, from 0.
    pub step: usize,
    /// `[H, T · P]`: the gradient of y.
    pub dy: &'a Strips<B>,
    /// `[3H, T · P]`: the gates that the step left; then the gradient of `W · x + b`.
    pub gates: &'a mut Strips<B>,
    /// [`GruSaved::previous`].
    pub previous: &'a Strips<B>,
    /// [`GruSaved::hidden_n`].
    pub hidden_n: &'a Strips<B>,
    /// `[H, P]`: `Uᵀ` times the gradient `hidden` of the step behind; zeros for the last step.
    pub product: &'a Strips<B>,
    /// `[H, P]`: what else of the gradient of this step's h the step behind has left; zeros for the last step. Then the same
    /// for the step before.
    pub carried: &'a mut Strips<B>,
    /// `[3H, P]`: the gradient of `U · h + b'`.
    pub hidden: &'a mut Strips<B>,
    /// `[3H, T · P]`: the same, at this step's lanes.
    pub all_hidden: &'a mut Strips<B>,
}

/// Operands of [`Recurrent::lstm_step`].
#[derive(Debug)]
pub struct LstmStep<'a, B: Storage> {
    /// Which step, from 0.
    pub step: usize,
    /// `[4H, T · P]`: `W · x + b` of the gates i, f, g and o.
    pub gates: &'a mut Strips<B>,
    /// `[4H, P]`: `U · h + b'` of the gates.
    pub hidden: &'a Strips<B>,
    /// `[H, P]`: h, of the step before at first, and of this one then.
    pub state: &'a mut Strips<B>,
    /// `[H, P]`: c, of the step before at first, and of this one then.
    pub cell: &'a mut Strips<B>,
    /// `[H, T · P]`: h of this step, at its lanes.
    pub y: &'a mut Strips<B>,
    /// What the gradient needs; without it `gates` stay as they are.
    pub saved: Option<LstmSaved<'a, B>>,
}

/// What [`Recurrent::lstm_step`] keeps of a step at its lanes, beside the gates.
#[derive(Debug)]
pub struct LstmSaved<'a, B: Storage> {
    /// `[H, T · P]`: h of the step before.
    pub previous: &'a mut Strips<B>,
    /// `[H, T · P]`: c of the step before.
    pub previous_cell: &'a mut Strips<B>,
}

/// Operands of [`Recurrent::lstm_step_grad`].
#[derive(Debug)]
pub struct LstmStepGrad<'a, B: Storage> {
    /// Which step, from 0.
    pub step: usize,
    /// `[H, T · P]`: the gradient of y.
    pub dy: &'a Strips<B>,
    /// `[4H, T · P]`: the gates that the step left; then the gradient of `W · x + b`, which is that of `U · h + b'` too.
    pub gates: &'a mut Strips<B>,
    /// [`LstmSaved::previous_cell`].
    pub previous_cell: &'a Strips<B>,
    /// `[H, P]`: `Uᵀ` times the gradient `hidden` of the step behind; zeros for the last step.
    pub product: &'a Strips<B>,
    /// `[H, P]`: the gradient of this step's c that the step behind has left; zeros for the last step. Then that of the step
    /// before's.
    pub carried: &'a mut Strips<B>,
    /// `[4H, P]`: the gradient of `U · h + b'`.
    pub hidden: &'a mut Strips<B>,
}

/// Steps of recurrent layers, of H features, T steps and P sequences. Gates stand one behind the other in PyTorch's order.
///
/// Absolute errors of σ and tanh are below 2^-22; NaN is not hidden. Lanes of padding must be zero in all operands, and are
/// zero in all results; in the gates that a step keeps they hold anything.
pub trait Recurrent: Storage {
    /// A step of a gated recurrent unit (Cho et al. 2014, in the form of cuDNN and PyTorch):
    /// `r = σ(gates_r + hidden_r)`, `z = σ(gates_z + hidden_z)`, `n = tanh(gates_n + r · hidden_n)`, then
    /// `state = (1 − z) · n + z · state`, which `y` gets too.
    ///
    /// With `saved`, r, z and n take the place of the step's `gates`.
    ///
    /// # Errors
    /// If the shapes do not fit, or there is no such step.
    ///
    /// # Cost
    /// One pass over a step's lanes of all operands.
    fn gru_step(&self, call: GruStep<'_, Self>) -> Result<(), BackendError> {
        const NAME: &str = "gru_step";
        let GruStep { step, gates, hidden, state, y, saved } = &call;
        let sizes = Sizes::new(self, NAME, *step, y, state)?;
        sizes.all(3, gates)?;
        sizes.one(3, hidden)?;
        if let Some(saved) = saved {
            sizes.all(1, saved.previous)?;
            sizes.all(1, saved.hidden_n)?;
        }
        self.run_gru_step(Checked(()), sizes.steps, call)
    }

    /// Backward of [`Recurrent::gru_step`], from the last step to the first. With `d = dy + product + carried`, the gradient
    /// of the step's h:
    ///
    /// ```text
    /// dn = d · (1 − z) · (1 − n²)      gates_n = dn    hidden_n = dn · r
    /// dz = d · (previous − n) · z · (1 − z)            gates_z = hidden_z = dz
    /// dr = dn · hidden_n · r · (1 − r)                 gates_r = hidden_r = dr
    /// carried = d · z
    /// ```
    ///
    /// # Errors
    /// If the shapes do not fit, or there is no such step.
    ///
    /// # Cost
    /// One pass over a step's lanes of all operands.
    fn gru_step_grad(&self, call: GruStepGrad<'_, Self>) -> Result<(), BackendError> {
        const NAME: &str = "gru_step_grad";
        let GruStepGrad { step, dy, gates, previous, hidden_n, product, carried, hidden, all_hidden } = &call;
        let sizes = Sizes::new(self, NAME, *step, dy, carried)?;
        sizes.all(3, gates)?;
        sizes.all(1, previous)?;
        sizes.all(1, hidden_n)?;
        sizes.one(1, product)?;
        sizes.one(3, hidden)?;
        sizes.all(3, all_hidden)?;
        self.run_gru_step_grad(Checked(()), sizes.steps, call)
    }

    /// A step of a long short-term memory (Hochreiter and Schmidhuber 1997; Gers et al. 2000): with i, f and o the σ of
    /// `gates + hidden`, and g its tanh, `cell = f · cell + i · g`, then `state = o · tanh(cell)`, which `y` gets too.
    ///
    /// With `saved`, i, f, g and o take the place of the step's `gates`.
    ///
    /// # Errors
    /// If the shapes do not fit, or there is no such step.
    ///
    /// # Cost
    /// One pass over a step's lanes of all operands.
    fn lstm_step(&self, call: LstmStep<'_, Self>) -> Result<(), BackendError> {
        const NAME: &str = "lstm_step";
        let LstmStep { step, gates, hidden, state, cell, y, saved } = &call;
        let sizes = Sizes::new(self, NAME, *step, y, state)?;
        sizes.all(4, gates)?;
        sizes.one(4, hidden)?;
        sizes.one(1, cell)?;
        if let Some(saved) = saved {
            sizes.all(1, saved.previous)?;
            sizes.all(1, saved.previous_cell)?;
        }
        self.run_lstm_step(Checked(()), sizes.steps, call)
    }

    /// Backward of [`Recurrent::lstm_step`], from the last step to the first. With c as the step found it, `d = dy + product`
    /// the gradient of its h and `e = carried + d · o · (1 − tanh²(c))` that of c:
    ///
    /// ```text
    /// di = e · g · i · (1 − i)               dg = e · i · (1 − g²)
    /// df = e · previous_cell · f · (1 − f)   do = d · tanh(c) · o · (1 − o)
    /// carried = e · f
    /// ```
    ///
    /// # Errors
    /// If the shapes do not fit, or there is no such step.
    ///
    /// # Cost
    /// One pass over a step's lanes of all operands.
    fn lstm_step_grad(&self, call: LstmStepGrad<'_, Self>) -> Result<(), BackendError> {
        const NAME: &str = "lstm_step_grad";
        let LstmStepGrad { step, dy, gates, previous_cell, product, carried, hidden } = &call;
        let sizes = Sizes::new(self, NAME, *step, dy, carried)?;
        sizes.all(4, gates)?;
        sizes.all(1, previous_cell)?;
        sizes.one(1, product)?;
        sizes.one(4, hidden)?;
        self.run_lstm_step_grad(Checked(()), sizes.steps, call)
    }

    #[doc(hidden)]
    fn run_gru_step(&self, _: Checked, steps: Steps, call: GruStep<'_, Self>) -> Done;

    #[doc(hidden)]
    fn run_gru_step_grad(&self, _: Checked, steps: Steps, call: GruStepGrad<'_, Self>) -> Done;

    #[doc(hidden)]
    fn run_lstm_step(&self, _: Checked, steps: Steps, call: LstmStep<'_, Self>) -> Done;

    #[doc(hidden)]
    fn run_lstm_step_grad(&self, _: Checked, steps: Steps, call: LstmStepGrad<'_, Self>) -> Done;
}

/// What the operands of a step must be like.
struct Sizes<'a, B> {
    backend: &'a B,
    op: &'static str,
    features: usize,
    steps: Steps,
}

impl<'a, B: Storage> Sizes<'a, B> {
    /// Those that `all`, of all steps, and `one`, of one, say; both have H features.
    fn new(
        backend: &'a B,
        op: &'static str,
        step: usize,
        all: &Strips<B>,
        one: &Strips<B>,
    ) -> Result<Self, ShapeError> {
        let steps = Steps::of_lanes(all.layout, one.layout.lanes())?;
        if step >= steps.count() {
            return Err(ShapeError::Rule { op, what: "step", got: step, rule: "below the number of steps" });
        }
        let sizes = Self { backend, op, features: all.layout.features(), steps };
        sizes.all(1, all)?;
        sizes.one(1, one)?;
        Ok(sizes)
    }

    /// Checks a tensor of all steps with `gates · H` features.
    fn all(&self, gates: usize, got: &Strips<B>) -> Result<(), ShapeError> {
        self.is_wide(got)?;
        lies_as(self.backend, self.op, self.steps.all(gates * self.features), got)
    }

    /// A step touches a small part of its operands: whoever has them in 16 bits widens them once for all steps.
    fn is_wide(&self, got: &Strips<B>) -> Result<(), ShapeError> {
        expect_f32(self.op, [self.backend.precision(&got.data); 2])
    }

    /// Checks a tensor of one step with `gates · H` features.
    fn one(&self, gates: usize, got: &Strips<B>) -> Result<(), ShapeError> {
        self.is_wide(got)?;
        lies_as(self.backend, self.op, self.steps.one(gates * self.features), got)
    }
}
