//! Steps of recurrent layers: gates, their functions and the new state in one pass over a step's lanes, and the gradient in
//! another.
//!
//! ```text
//! for each strip of the step, each range of features               (parallel)
//!   for each feature of the range, each vector of the strip's lanes
//!     gates, state -> new state                                    every operand read or written once
//! ```
//!
//! A feature of a strip is a run of memory in each operand, whatever strips the tensors of all steps have: [`part::Rows`].

mod gru;
mod lstm;
mod part;
#[cfg(test)]
mod tests;

use crate::backend::check::{Checked, Done};
use crate::backend::{GruStep, GruStepGrad, LstmStep, LstmStepGrad, Recurrent, Steps};
use crate::cpu::Cpu;

impl Recurrent for Cpu {
    fn run_gru_step(&self, _: Checked, steps: Steps, call: GruStep<'_, Self>) -> Done {
        let words = if call.saved.is_some() { 14 } else { 9 };
        let _timed = self.timed("gru_step", words * call.state.data.len(), 0);
        gru::forward(self, steps, call);
        Ok(())
    }

    fn run_gru_step_grad(&self, _: Checked, steps: Steps, call: GruStepGrad<'_, Self>) -> Done {
        let _timed = self.timed("gru_step_grad", 18 * call.carried.data.len(), 0);
        gru::backward(self, steps, call);
        Ok(())
    }

    fn run_lstm_step(&self, _: Checked, steps: Steps, call: LstmStep<'_, Self>) -> Done {
        let words = if call.saved.is_some() { 19 } else { 13 };
        let _timed = self.timed("lstm_step", words * call.state.data.len(), 0);
        lstm::forward(self, steps, call);
        Ok(())
    }

    fn run_lstm_step_grad(&self, _: Checked, steps: Steps, call: LstmStepGrad<'_, Self>) -> Done {
        let _timed = self.timed("lstm_step_grad", 17 * call.carried.data.len(), 0);
        lstm::backward(self, steps, call);
        Ok(())
    }
}
