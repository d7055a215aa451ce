//! Gated recurrent units.

use std::rc::Rc;

use sparse_kernels::{Activations, Backend, GruSaved, GruStep, GruStepGrad};

use super::{RecurrentState, Window, wrong_state};
use crate::storage::{strips, strips_mut};
use crate::tape::ParameterGradient;
use crate::{Error, Mode, ParameterId, Tape, Var};

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
        let mut y = self.arena.take(backend, steps.all(width))?;
        let mut hidden = self.arena.take_activations(backend, steps.one(3 * width).into())?;
        let mut saved = match is_training {
            true => Some((self.arena.take(backend, steps.all(width))?, self.arena.take(backend, steps.all(width))?)),
            false => None,
        };
        let mut found = self.values.take_strips(storage);
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
        self.values.put(storage, found.into());
        let output = self.push_output(OP, gates, y);
        let Some((previous, hidden_n)) = saved else { return Ok(output) };
        self.values.mark_moved(OP, gates);
        let [previous, hidden_n] = [previous, hidden_n].map(|x| self.values.store_saved(x.into()));
        self.record_source(output, &[weight, bias], move |pass, dy| {
            let Tape { arena, values, parameters, .. } = &mut *pass.tape;
            let mut found = values.take_strips(storage);
            let mut all_hidden = arena.take(backend, steps.all(3 * width))?;
            let mut hidden = arena.take_activations(backend, steps.one(3 * width).into())?;
            let mut product = Activations::Strips(arena.take(backend, steps.one(width))?);
            let mut carried = arena.take(backend, steps.one(width))?;
            backend.fill(0.0, product.data_mut())?;
            backend.fill(0.0, &mut carried.data)?;
            let w = parameters.weight(OP, weight)?;
            for step in (0..steps.count()).rev() {
                backend.gru_step_grad(GruStepGrad {
                    step,
                    dy: strips(&dy),
                    gates: &mut found,
                    previous: values.strips(previous.storage),
                    hidden_n: values.strips(hidden_n.storage),
                    product: strips(&product),
                    carried: &mut carried,
                    hidden: strips_mut(&mut hidden),
                    all_hidden: &mut all_hidden,
                })?;
                if step > 0 {
                    w.input_grad(backend, &hidden, &mut product)?;
                }
            }
            [hidden, product, carried.into(), values.take_strips(hidden_n.storage).into()]
                .into_iter()
                .for_each(|unused| arena.give(backend, unused));
            pass.release(dy);
            let ParameterGradient { gradient, accumulate, .. } = pass.parameter_gradient(bias)?;
            backend.lane_sums(&all_hidden, gradient, accumulate)?;
            pass.use_done(bias)?;
            pass.weight_used(weight, Rc::new(all_hidden.into()), previous)?;
            pass.give_unless_pinned(previous);
            pass.accumulate(gates, found)
        });
        Ok(output)
    }
}
