//! When a step's sums were sent and came: what shows how much of it happened beside the backward pass, and what a simulation of
//! more ranks begins with.

use std::time::{Duration, Instant};

use crate::simulate::{Ready, Step};

/// A bucket of a step. Times count from the step's first gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketTrace {
    /// Numbers in it.
    pub len: usize,
    /// When it was full and sent.
    pub sent: Duration,
    /// When its sums had come from all ranks, as far as was looked: during the backward pass that is after each parameter.
    pub done: Duration,
}

/// The buckets of a step, in the order of sending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepTrace {
    /// When each gradient was whole, and its numbers.
    pub gradients: Vec<(Duration, usize)>,
    /// The buckets.
    pub buckets: Vec<BucketTrace>,
    /// The end of the backward pass.
    pub backward: Duration,
    /// The end of the last bucket.
    pub end: Duration,
    /// Waiting for tiles and candidates of growth, which is a part of the backward pass.
    pub growth: Duration,
    /// Waiting for losses and moments.
    pub other: Duration,
}

impl StepTrace {
    /// Waiting after the backward pass.
    pub fn waited(&self) -> Duration {
        self.end.saturating_sub(self.backward)
    }

    /// The step as a simulation takes it, which takes so long without communication.
    pub fn step(&self, seconds: f64) -> Step {
        let ready = |&(when, len): &(Duration, usize)| Ready {
            before_end: self.backward.saturating_sub(when).as_secs_f64(),
            len,
        };
        Step { seconds, gradients: self.gradients.iter().map(ready).collect() }
    }

    /// From the first bucket to the last sum.
    pub fn under_way(&self) -> Duration {
        self.buckets.first().map_or(Duration::ZERO, |first| self.end.saturating_sub(first.sent))
    }
}

/// Takes the times of a step.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    /// The step's first gradient.
    start: Option<Instant>,
    /// Of the step so far, and of the last whole one.
    step: StepTrace,
    last: StepTrace,
    sum: Totals,
}

/// Of all steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Steps.
    pub steps: u32,
    /// Of these, with growth.
    pub updates: u32,
    /// Buckets.
    pub buckets: u32,
    /// See [`StepTrace::under_way`].
    pub under_way: Duration,
    /// See [`StepTrace::waited`].
    pub waited: Duration,
    /// See [`StepTrace::growth`].
    pub growth: Duration,
    /// See [`StepTrace::other`].
    pub other: Duration,
}

impl Totals {
    /// The part of the time under way that lies beside the backward pass.
    pub fn hidden(self) -> Duration {
        self.under_way.saturating_sub(self.waited)
    }
}

impl Clock {
    fn now(&mut self) -> Duration {
        self.start.get_or_insert_with(Instant::now).elapsed()
    }

    /// A gradient is there.
    pub fn ready(&mut self, len: usize) {
        let now = self.now();
        self.step.gradients.push((now, len));
    }

    /// A bucket has been sent; its number.
    pub fn sent(&mut self, len: usize) -> usize {
        let sent = self.now();
        self.step.buckets.push(BucketTrace { len, sent, done: sent });
        self.step.buckets.len() - 1
    }

    /// The sums of a bucket have come.
    pub fn done(&mut self, bucket: usize) {
        self.step.buckets[bucket].done = self.now();
    }

    /// The backward pass is over.
    pub fn backward(&mut self) {
        self.step.backward = self.now();
    }

    /// All buckets have come.
    pub fn end(&mut self) {
        self.step.end = self.now();
        self.start = None;
        self.last = std::mem::take(&mut self.step);
        self.sum.steps += 1;
        self.sum.updates += u32::from(self.last.growth > Duration::ZERO);
        self.sum.buckets += self.last.buckets.len() as u32;
        self.sum.under_way += self.last.under_way();
        self.sum.waited += self.last.waited();
        self.sum.growth += self.last.growth;
    }

    /// Waited for growth since then.
    pub fn grew(&mut self, since: Instant) {
        self.step.growth += since.elapsed();
    }

    /// Waited for something else since then.
    pub fn told(&mut self, since: Instant) {
        self.last.other = since.elapsed();
        self.sum.other += self.last.other;
    }

    /// The last whole step.
    pub fn last(&self) -> &StepTrace {
        &self.last
    }

    /// All steps.
    pub fn totals(&self) -> Totals {
        self.sum
    }
}
