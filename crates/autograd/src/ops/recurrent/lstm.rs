//! Long short-term memories.

use std::rc::Rc;

use sparse_kernels::{Activations, Backend, LstmSaved, LstmStep, LstmStepGrad, Precision};

use super::{RecurrentState, Window, wrong_state};
use crate::storage::{strips, strips_mut};
use crate::tape::ParameterGradient;
use crate::{Arena, Error, Mode, ParameterId, Tape, Var};

const OP: &str = "lstm";

impl<B: Backend> Tape<'_, B> {
    /// All steps of a layer of long short-term memories (Hochreiter and Schmidhuber 1997; Gers et al. 2000): with `gates`,
    /// which are `W · x + b` of all steps, and `hidden = U · h + b'` of i, f, g and o one behind the other,
    ///
    /// ```text
    /// i, f, o = σ(gates + hidden)    g = tanh(gates + hidden)
    /// c = f · c + i · g              h = o · tanh(c)
    /// ```
    ///
    /// `gates` is `[4H, T · P]`, U the parameter `weight`, `[4H, H]`, and b' the vector `bias`; the output is h of all steps,
    /// `[H, T · P]`. The first step's h and c are those of `state`, which then has the last one's. Works in place on `gates` in
    /// training: they are gone afterwards.
    ///
    /// Backward through all steps, but not into `state`.
    ///
    /// # Errors
    /// If a parameter is of another kind, the shapes do not fit, or `gates` is gone or another operation needs it.
    ///
    /// # Cost
    /// Forward `2 · nnz · T · P` operations and one pass over `gates`; backward twice the operations (less a step's) and one
    /// pass over `gates`. Two tensors of `[H, T · P]` are kept.
    pub fn lstm(
        &mut self,
        weight: ParameterId,
        bias: ParameterId,
        gates: Var,
        state: &mut RecurrentState<B>,
    ) -> Result<Var, Error> {
        let backend = self.backend;
        let window = self.window(OP, 4, [weight, bias], gates, state)?;
        let Window { gates: storage, width, steps } = window;
        let Some(cell) = &mut state.cell else {
            return Err(wrong_state(OP, 1, "2, h and c: the state is that of a gated recurrent unit"));
        };
        let is_training = self.mode() == Mode::Training;
        // Steps are computed in f32; what is kept of them is stored as other activations are.
        let own = self.arena.precision();
        let wide = |arena: &mut Arena<B>, layout| arena.take_in(backend, Precision::F32, layout);
        let mut y = wide(self.arena, steps.all(width))?;
        let mut hidden = Activations::Strips(wide(self.arena, steps.one(4 * width))?);
        let mut saved = match is_training {
            true => Some((wide(self.arena, steps.all(width))?, wide(self.arena, steps.all(width))?)),
            false => None,
        };
        let found = self.values.take_strips(storage);
        let mut found = self.arena.stored_in(backend, Precision::F32, found)?;
        let (w, b) = (self.parameters.weight(OP, weight)?, self.parameters.vector(OP, bias)?);
        for step in 0..steps.count() {
            w.forward_bias_relu(backend, b, false, &state.h, &mut hidden)?;
            backend.lstm_step(LstmStep {
                step,
                gates: &mut found,
                hidden: strips(&hidden),
                state: strips_mut(&mut state.h),
                cell,
                y: &mut y,
                saved: saved.as_mut().map(|(previous, previous_cell)| LstmSaved { previous, previous_cell }),
            })?;
        }
        self.arena.give(backend, hidden);
        let found = self.arena.stored_in(backend, own, found)?;
        self.values.put(storage, found.into());
        let y = self.arena.stored_in(backend, own, y)?;
        let output = self.push_output(OP, gates, y);
        let Some((previous, previous_cell)) = saved else { return Ok(output) };
        let previous = self.arena.stored_in(backend, own, previous)?;
        let previous_cell = self.arena.stored_in(backend, own, previous_cell)?;
        self.values.mark_moved(OP, gates);
        let [previous, previous_cell] = [previous, previous_cell].map(|x| self.values.store_saved(x.into()));
        self.record_source(output, &[weight, bias], move |pass, dy| {
            let Tape { arena, values, parameters, .. } = &mut *pass.tape;
            let mut found = arena.stored_in(backend, Precision::F32, values.take_strips(storage))?;
            let previous_cell = arena.stored_in(backend, Precision::F32, values.take_strips(previous_cell.storage))?;
            let wide_dy = arena.widened(backend, strips(&dy))?;
            let mut hidden = Activations::Strips(wide(arena, steps.one(4 * width))?);
            let mut product = Activations::Strips(wide(arena, steps.one(width))?);
            let mut carried = wide(arena, steps.one(width))?;
            backend.fill(0.0, product.data_mut())?;
            backend.fill(0.0, &mut carried.data)?;
            let w = parameters.weight(OP, weight)?;
            for step in (0..steps.count()).rev() {
                backend.lstm_step_grad(LstmStepGrad {
                    step,
                    dy: wide_dy.as_ref().unwrap_or(strips(&dy)),
                    gates: &mut found,
                    previous_cell: &previous_cell,
                    product: strips(&product),
                    carried: &mut carried,
                    hidden: strips_mut(&mut hidden),
                })?;
                if step > 0 {
                    w.input_grad(backend, &hidden, &mut product)?;
                }
            }
            [hidden, product, carried.into(), previous_cell.into()]
                .into_iter()
                .for_each(|unused| arena.give(backend, unused));
            wide_dy.into_iter().for_each(|unused| arena.give(backend, unused));
            pass.release(dy);
            let ParameterGradient { gradient, accumulate, .. } = pass.parameter_gradient(bias)?;
            backend.lane_sums(&found, gradient, accumulate)?;
            pass.use_done(bias)?;
            // The gradient of `U · h + b'` is that of `W · x + b`.
            let found = pass.tape.arena.stored_in(backend, own, found)?;
            let found = Rc::new(Activations::Strips(found));
            pass.weight_used(weight, found.clone(), previous)?;
            pass.give_unless_pinned(previous);
            pass.accumulate_shared(gates, found)
        });
        Ok(output)
    }
}
