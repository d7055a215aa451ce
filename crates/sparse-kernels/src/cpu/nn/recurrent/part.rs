//! The parts of a step, and where their operands lie.

use std::ops::Range;

use crate::backend::Steps;
use crate::cpu::isa::{Isa, IsaName, Kernel, dispatch};
use crate::cpu::{Cpu, SharedMut};
use crate::{StripLayout, Strips};

/// Operations an element of the state, roughly: a division counts as several.
const OPERATIONS: u64 = 120;

/// Elements of the state that a task has at least.
const ELEMENTS_PER_TASK: usize = 1 << 11;

/// Where a strip of a step lies in a tensor: the lanes of each feature follow each other.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// Those of feature 0.
    pub first: SharedMut,
    /// Elements from one feature to the next.
    pub stride: usize,
}

impl Rows {
    /// The lanes of a feature.
    #[inline(always)]
    pub fn of(self, feature: usize) -> *mut f32 {
        self.first.get().wrapping_add(feature * self.stride)
    }
}

/// A tensor of which tasks read or write disjoint rows.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub data: SharedMut,
    pub layout: StripLayout,
}

impl Operand {
    pub fn reads(x: &Strips<Cpu>) -> Self {
        Self { data: SharedMut::reading(&x.data), layout: x.layout }
    }

    pub fn writes(x: &mut Strips<Cpu>) -> Self {
        Self { data: SharedMut::new(&mut x.data), layout: x.layout }
    }

    /// The strip of lanes that begins with `lane`.
    pub fn rows(self, lane: usize) -> Rows {
        Rows { first: self.data.offset(self.layout.index(0, lane)), stride: self.layout.strip() }
    }
}

/// What the tasks of a step share.
pub(super) struct Work {
    pub isa: IsaName,
    pub steps: Steps,
    pub step: usize,
    /// H.
    pub features: usize,
}

/// What a task has of a step: some features of a strip.
pub(super) struct Part {
    pub features: Range<usize>,
    /// H.
    pub width: usize,
    /// Lanes of the strip, padding included.
    pub lanes: usize,
    /// Where the strip begins among the lanes of all steps, and of the step.
    pub at: [usize; 2],
}

impl Work {
    /// Runs `kernel`, made for each part, on all of the step.
    pub fn each_part<K: Kernel<Output = ()>>(&self, cpu: &Cpu, kernel: impl Fn(Part) -> K + Sync + Send) {
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
pub(super) fn complement<I: Isa>(isa: I, x: I::V) -> I::V {
    isa.sub(isa.splat(1.0), x)
}
