//! Steps of recurrent layers: gates, their functions and the new state in one pass over a step's lanes, and the gradient in
//! another.
//!
//! ```text
//! for each strip of the step, each range of features               (parallel)
//!   for each feature of the range, each vector of the strip's lanes
//!     gates, state -> new state                                    every operand read or written once
//! ```
//!
//! A feature of a strip is a run of memory in each operand, whatever strips the tensors of all steps have: [`Rows`].

mod gru;
mod lstm;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::backend::check::{Checked, Done};
use crate::backend::{GruStep, GruStepGrad, LstmStep, LstmStepGrad, Recurrent, Steps};
use crate::cpu::isa::{Isa, IsaName, Kernel, dispatch};
use crate::cpu::{Cpu, SharedMut};
use crate::{StripLayout, Strips};

/// Operations an element of the state, roughly: a division counts as several.
const OPERATIONS: u64 = 120;

/// Elements of the state that a task has at least.
const ELEMENTS_PER_TASK: usize = 1 << 11;

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

/// Where a strip of a step lies in a tensor: the lanes of each feature follow each other.
#[derive(Clone, Copy)]
struct Rows {
    /// Those of feature 0.
    first: SharedMut,
    /// Elements from one feature to the next.
    stride: usize,
}

impl Rows {
    /// The lanes of a feature.
    #[inline(always)]
    fn of(self, feature: usize) -> *mut f32 {
        self.first.get().wrapping_add(feature * self.stride)
    }
}

/// A tensor of which tasks read or write disjoint rows.
#[derive(Clone, Copy)]
struct Operand {
    data: SharedMut,
    layout: StripLayout,
}

impl Operand {
    fn reads(x: &Strips<Cpu>) -> Self {
        Self { data: SharedMut::reading(&x.data), layout: x.layout }
    }

    fn writes(x: &mut Strips<Cpu>) -> Self {
        Self { data: SharedMut::new(&mut x.data), layout: x.layout }
    }

    /// The strip of lanes that begins with `lane`.
    fn rows(self, lane: usize) -> Rows {
        Rows { first: self.data.offset(self.layout.index(0, lane)), stride: self.layout.strip() }
    }
}

/// What the tasks of a step share.
struct Work {
    isa: IsaName,
    steps: Steps,
    step: usize,
    /// H.
    features: usize,
}

/// What a task has of a step: some features of a strip.
struct Part {
    features: Range<usize>,
    /// H.
    width: usize,
    /// Lanes of the strip, padding included.
    lanes: usize,
    /// Where the strip begins among the lanes of all steps, and of the step.
    at: [usize; 2],
}

impl Work {
    /// Runs `kernel`, made for each part, on all of the step.
    fn each_part<K: Kernel<Output = ()>>(&self, cpu: &Cpu, kernel: impl Fn(Part) -> K + Sync + Send) {
        let (one, features) = (self.steps.one(self.features), self.features);
        let per_task = (ELEMENTS_PER_TASK / one.strip()).max(1);
        let ranges = features.div_ceil(per_task);
        cpu.for_each_task(one.strips() * ranges, OPERATIONS * one.len() as u64, |task| {
            let (strip, start) = (task / ranges, task % ranges * per_task);
            let at = [self.steps.lane(self.step, strip), strip * one.strip()];
            let features = start..self.features.min(start + per_task);
            dispatch(self.isa, kernel(Part { features, width: self.features, lanes: one.strip(), at }));
        });
    }
}

/// `1 − x`.
#[inline(always)]
fn complement<I: Isa>(isa: I, x: I::V) -> I::V {
    isa.sub(isa.splat(1.0), x)
}
