//! Steps of recurrent layers: gates, their functions and the new state in one pass over a step's lanes, and the gradient in
//! another.

use std::ops::Range;

use super::super::elementwise::{GROUP, QUAD};
use super::super::kernel::{Kernel, Launch, Operand, Read, Work, Write};
use super::super::shaders;
use super::super::windows::of_strips;
use super::super::{Gpu, WINDOW_UNIT};
use crate::backend::check::{Checked, Done};
use crate::backend::{GruStep, GruStepGrad, LstmStep, LstmStepGrad, Recurrent, Steps};
use crate::{BackendError, StripLayout, Strips};

static GRU: Kernel = Kernel::new("gru_step", shaders::GRU, &[Write, Read, Write, Write]);
static GRU_SAVING: Kernel = Kernel::new("gru_step_saving", shaders::GRU, &[Write, Read, Write, Write, Write, Write]);
static GRU_GRAD: Kernel =
    Kernel::new("gru_step_grad", shaders::GRU, &[Write, Read, Read, Read, Read, Write, Write, Write]);
static LSTM: Kernel = Kernel::new("lstm_step", shaders::LSTM, &[Write, Read, Write, Write, Write]);
static LSTM_SAVING: Kernel =
    Kernel::new("lstm_step_saving", shaders::LSTM, &[Write, Read, Write, Write, Write, Write, Write]);
static LSTM_GRAD: Kernel = Kernel::new("lstm_step_grad", shaders::LSTM, &[Write, Read, Read, Read, Write, Write]);

/// Strips that begin where a window may, whatever their features.
const ALIGNED_STRIPS: usize = WINDOW_UNIT / StripLayout::STRIP_UNIT;
/// Operations an element of the state, roughly.
const OPERATIONS: u64 = 120;

/// A tensor that a kernel uses.
enum Of<'a> {
    /// All steps, of which it may see those strips only that hold the step.
    All(&'a Strips<Gpu>),
    /// The step alone.
    One(&'a Strips<Gpu>),
}

use Of::{All, One};

impl Of<'_> {
    fn tensor(&self) -> &Strips<Gpu> {
        match self {
            All(tensor) | One(tensor) => tensor,
        }
    }
}

impl Recurrent for Gpu {
    fn run_gru_step(&self, _: Checked, steps: Steps, call: GruStep<'_, Self>) -> Done {
        let GruStep { step, gates, hidden, state, y, saved } = call;
        match saved {
            None => self.step(&GRU, steps, step, &[All(gates), One(hidden), One(state), All(y)]),
            Some(saved) => self.step(
                &GRU_SAVING,
                steps,
                step,
                &[All(gates), One(hidden), One(state), All(y), All(saved.previous), All(saved.hidden_n)],
            ),
        }
    }

    fn run_gru_step_grad(&self, _: Checked, steps: Steps, call: GruStepGrad<'_, Self>) -> Done {
        let GruStepGrad { step, dy, gates, previous, hidden_n, product, carried, hidden, all_hidden } = call;
        let operands = [
            All(gates),
            All(dy),
            All(previous),
            All(hidden_n),
            One(product),
            One(carried),
            One(hidden),
            All(all_hidden),
        ];
        self.step(&GRU_GRAD, steps, step, &operands)
    }

    fn run_lstm_step(&self, _: Checked, steps: Steps, call: LstmStep<'_, Self>) -> Done {
        let LstmStep { step, gates, hidden, state, cell, y, saved } = call;
        let operands = [All(gates), One(hidden), One(state), One(cell), All(y)];
        match saved {
            None => self.step(&LSTM, steps, step, &operands),
            Some(saved) => {
                let [gates, hidden, state, cell, y] = operands;
                let operands = [gates, hidden, state, cell, y, All(saved.previous), All(saved.previous_cell)];
                self.step(&LSTM_SAVING, steps, step, &operands)
            }
        }
    }

    fn run_lstm_step_grad(&self, _: Checked, steps: Steps, call: LstmStepGrad<'_, Self>) -> Done {
        let LstmStepGrad { step, dy, gates, previous_cell, product, carried, hidden } = call;
        let operands = [All(gates), All(dy), All(previous_cell), One(product), One(carried), One(hidden)];
        self.step(&LSTM_GRAD, steps, step, &operands)
    }
}

impl Gpu {
    /// Launches a kernel on the lanes of a step.
    fn step(
        &self,
        kernel: &'static Kernel,
        steps: Steps,
        step: usize,
        operands: &[Of<'_>],
    ) -> Result<(), BackendError> {
        let (all, one) = (steps.all(1), steps.one(1));
        let pitch = operands.iter().map(|operand| operand.tensor().layout.strip_pitch()).max().unwrap_or(0);
        // Those strips that hold the step, from one on where a window may begin, unless all can be seen: then operands are
        // the same for each step.
        let whole = 0..all.strips();
        let lane = steps.lane(step, 0);
        let last = (lane + one.lanes() - 1) / all.strip();
        let part = lane / all.strip() / ALIGNED_STRIPS * ALIGNED_STRIPS..last + 1;
        let fits = |strips: &Range<usize>| strips.len() * pitch <= self.window_elements();
        let Some(strips) = [whole, part].into_iter().find(fits) else {
            let what = format!("a step of {} bytes, more than a kernel may see", 4 * pitch * one.strips());
            return Err(self.unsupported(what));
        };
        // The narrowest tensors have H features.
        let width = operands.iter().map(|operand| operand.tensor().layout.features()).min().unwrap_or(0);
        let quads = width * one.strips() * one.strip() / QUAD;
        let words: usize = operands.iter().map(|operand| operand.tensor().layout.features()).sum();
        let operands: Vec<Operand<'_>> = operands
            .iter()
            .map(|operand| match operand {
                All(tensor) => of_strips(tensor, &strips),
                One(tensor) => of_strips(tensor, &(0..one.strips())),
            })
            .collect();
        self.launch(&Launch {
            kernel,
            constants: &[],
            params: &[
                width as u32,
                (one.strip() / QUAD) as u32,
                quads as u32,
                (all.strip() / QUAD) as u32,
                ((lane - strips.start * all.strip()) / QUAD) as u32,
            ],
            operands: &operands,
            workgroups: quads.div_ceil(GROUP),
            work: Work {
                bytes: 4 * (words * one.strips() * one.strip()) as u64,
                operations: OPERATIONS * (QUAD * quads) as u64,
            },
        })
    }
}
