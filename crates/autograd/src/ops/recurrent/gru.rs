//! Gated recurrent units.

use std::rc::Rc;

use sparse_kernels::{Activations, Backend, GruSaved, GruStep, GruStepGrad, Precision};

use super::{RecurrentState, Window, wrong_state};
use crate::storage::{strips, strips_mut};
use crate::tape::ParameterGradient;
use crate::{Arena, Error, Mode, ParameterId, Tape, Var};

const OP: &str = "gru";

impl<B: Backend> Tape<'_, B> {
    /// All steps of a layer of gated recurrent units (Cho et al. 2014, in the form of cuDNN and PyTorch): with `gates`, which
    /// are `W · x + b` of all steps, and `hidden = U · h + b'` of r, z and n one behind the other,
    ///
    /// ```text
    /// r = σ(gates_r + hidden_r)    z = σ(gates_z + hidden_z)    n = tanh(gates_n + r · hidden_n)
    /// h = (1 − z) · n + z · h
    /// ```
    ///
    /// `gates` is `[3H, T · P]`, U the parameter `weight`, `[3H, H]`, and b' the vector `bias`; the output is h of all steps,
    /// `[H, T · P]`. The first step's h is that of `state`, which then has the last one's. Works in place on `gates` in training:
    /// they are gone afterwards.
    ///
    /// Backward through all steps, but not into `state`.
    ///
    /// # Errors
    /// If a parameter is of another kind, the shapes do not fit, or `gates` is gone or another operation needs it.
    ///
    /// # Cost
    /// Forward `2 · nnz · T · P` operations and one pass over `gates`; backward twice the operations (less a step's), two
    /// passes over `[3H, T · P]`. Two tensors of `[H, T · P]` are kept.
    pub fn gru(
        &mut self,
        weight: ParameterId,
        bias: ParameterId,
        gates: Var,
        state: &mut RecurrentState<B>,
    ) -> Result<Var, Error> {
        let backend = self.backend;
        let window = self.window(OP, 3, [weight, bias], gates, state)?;
        let Window { gates: storage, width, steps } = window;
        if state.cell.is_some() {
            return Err(wrong_state(OP, 2, "1, h: the state is that of a long short-term memory"));
        }
        let is_training = self.mode() == Mode::Training;
        // Steps are computed in f32; what is kept of them is stored as other activations are.
        let own = self.arena.precision();
        let wide = |arena: &mut Arena<B>, layout| arena.take_in(backend, Precision::F32, layout);
        let mut y = wide(self.arena, steps.all(width))?;
        let mut hidden = Activations::Strips(wide(self.arena, steps.one(3 * width))?);
        let mut saved = match is_training {
            true => Some((wide(self.arena, steps.all(width))?, wide(self.arena, steps.all(width))?)),
            false => None,
        };
        let found = self.values.take_strips(storage);
        let mut found = self.arena.stored_in(backend, Precision::F32, found)?;
        let (w, b) = (self.parameters.weight(OP, weight)?, self.parameters.vector(OP, bias)?);
        for step in 0..steps.count() {
            w.forward_bias_relu(backend, b, false, &state.h, &mut hidden)?;
            backend.gru_step(GruStep {
                step,
                gates: &mut found,
                hidden: strips(&hidden),
                state: strips_mut(&mut state.h),
                y: &mut y,
                saved: saved.as_mut().map(|(previous, hidden_n)| GruSaved { previous, hidden_n }),
            })?;
        }
        self.arena.give(backend, hidden);
        let found = self.arena.stored_in(backend, own, found)?;
        self.values.put(storage, found.into());
        let y = self.arena.stored_in(backend, own, y)?;
        let output = self.push_output(OP, gates, y);
        let Some((previous, hidden_n)) = saved else { return Ok(output) };
        let previous = self.arena.stored_in(backend, own, previous)?;
        let hidden_n = self.arena.stored_in(backend, own, hidden_n)?;
        self.values.mark_moved(OP, gates);
        let [previous, hidden_n] = [previous, hidden_n].map(|x| self.values.store_saved(x.into()));
        self.record_source(output, &[weight, bias], move |pass, dy| {
            let Tape { arena, values, parameters, .. } = &mut *pass.tape;
            let mut found = arena.stored_in(backend, Precision::F32, values.take_strips(storage))?;
            let hidden_n = arena.stored_in(backend, Precision::F32, values.take_strips(hidden_n.storage))?;
            let wide_previous = arena.widened(backend, values.strips(previous.storage))?;
            let wide_dy = arena.widened(backend, strips(&dy))?;
            let mut all_hidden = wide(arena, steps.all(3 * width))?;
            let mut hidden = Activations::Strips(wide(arena, steps.one(3 * width))?);
            let mut product = Activations::Strips(wide(arena, steps.one(width))?);
            let mut carried = wide(arena, steps.one(width))?;
            backend.fill(0.0, product.data_mut())?;
            backend.fill(0.0, &mut carried.data)?;
            let w = parameters.weight(OP, weight)?;
            for step in (0..steps.count()).rev() {
                backend.gru_step_grad(GruStepGrad {
                    step,
                    dy: wide_dy.as_ref().unwrap_or(strips(&dy)),
                    gates: &mut found,
                    previous: wide_previous.as_ref().unwrap_or(values.strips(previous.storage)),
                    hidden_n: &hidden_n,
                    product: strips(&product),
                    carried: &mut carried,
                    hidden: strips_mut(&mut hidden),
                    all_hidden: &mut all_hidden,
                })?;
                if step > 0 {
                    w.input_grad(backend, &hidden, &mut product)?;
                }
            }
            [hidden, product, carried.into(), hidden_n.into()]
                .into_iter()
                .for_each(|unused| arena.give(backend, unused));
            wide_dy.into_iter().chain(wide_previous).for_each(|unused| arena.give(backend, unused));
            pass.release(dy);
            let ParameterGradient { gradient, accumulate, .. } = pass.parameter_gradient(bias)?;
            backend.lane_sums(&all_hidden, gradient, accumulate)?;
            pass.use_done(bias)?;
            let all_hidden = pass.tape.arena.stored_in(backend, own, all_hidden)?;
            pass.weight_used(weight, Rc::new(all_hidden.into()), previous)?;
            pass.give_unless_pinned(previous);
            let found = pass.tape.arena.stored_in(backend, own, found)?;
            pass.accumulate(gates, found)
        });
        Ok(output)
    }
}
