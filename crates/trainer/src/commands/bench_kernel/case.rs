//! A subject on a device: the check of one result, then the times of both sides in turn.

use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;

use autograd::{DenseWeight, Geometry, Weight};
use sparse_kernels::{Activations, Candidate, GrowRequest, Layout, StripLayout};

use super::super::machine::MachineArgs;
use super::arguments::KernelFormat;
use super::check;
use super::operands::{Numbers, Operands, elements, numbers, pack, unpack};
use super::reference_file::DenseTime;
use super::subject::{Layer, Pass, Subject};
use crate::bench::{Best, alternate, repeat};
use crate::device::ComputeDevice;

/// Why timed calls do not fail: they succeeded in the check, and shapes do not change.
pub(super) const CHECKED: &str = "the same call succeeded before";

/// Of each side, however short the budget is.
pub(super) const LEAST_CALLS: usize = 7;

/// What the measurement of a subject found out.
pub(super) struct Measurement {
    /// Floating-point operations of a call.
    pub operations: f64,
    /// The same of the dense side.
    pub dense_operations: f64,
    /// What a call must read or write: each operand once.
    pub bytes: usize,
    pub plan_time: Duration,
    /// Largest error of an entry, 1 being what rounding may cause.
    pub max_error: f64,
    /// None if the check failed.
    pub times: Option<Times>,
}

/// Best seconds of one call.
pub(super) struct Times {
    pub time: f64,
    /// None where dense code is what is measured.
    pub dense: Option<DenseTime>,
}

impl Times {
    /// The best calls of both sides, of so many operations each.
    pub fn new([ours, dense]: [Best; 2], operations: usize, source: &'static str) -> Self {
        let one = |best: Best| best.seconds() / operations as f64;
        Self { time: one(ours), dense: Some(DenseTime { time: one(dense), source }) }
    }
}

/// Where a pass writes to.
pub(super) enum Output<B: ComputeDevice> {
    Y(Activations<B>),
    Dx(Activations<B>),
    /// The gradient of the stored weights.
    Dw(B::Buffer),
    /// What growth is asked for, and what it found.
    Grown(GrowRequest, Vec<Candidate>),
}

/// A weight, what it is applied to and where the result goes.
pub(super) struct Side<B: ComputeDevice> {
    pub weight: Box<dyn Weight<B>>,
    operands: Shared<B>,
    out: Output<B>,
}

impl<B: ComputeDevice> Side<B> {
    /// The pass, as a training step pays it.
    pub fn run(&mut self, backend: &B) -> Result<(), autograd::Error> {
        let (x, dy) = self.operands.next();
        match &mut self.out {
            Output::Y(y) => self.weight.forward(backend, x, y)?,
            Output::Dx(dx) => {
                // A training step changes the values between two calls.
                self.weight.refresh(backend)?;
                self.weight.input_grad(backend, dy, dx)?;
            }
            Output::Dw(dw) => self.weight.weight_grad(backend, (dy, x), dw, false)?,
            Output::Grown(request, found) => *found = self.weight.grow(backend, request, &[(dy, x)])?,
        }
        Ok(())
    }
}

/// A subject with the numbers it is measured on.
pub(super) struct Case<'a, B: ComputeDevice> {
    backend: &'a B,
    subject: &'a Subject,
    pub geometry: Geometry,
    layouts: [Layout; 2],
    pub numbers: Numbers,
    /// Those of the measured side.
    pub operands: Shared<B>,
    plan_time: Duration,
    /// Time for one density, both sides together.
    pub budget: Duration,
}

impl<'a, B: ComputeDevice> Case<'a, B> {
    /// Plans the pattern and draws the numbers.
    pub fn new(backend: &'a B, subject: &'a Subject, machine: &MachineArgs) -> crate::Result<Self> {
        let &MachineArgs { seed, budget, .. } = machine;
        let input_grad = subject.pass == Pass::InputGrad;
        let (geometry, layouts) = subject.layer.geometry(backend, StripLayout::sparse, input_grad)?;
        let draw = |name, len| numbers(seed, name, len);
        let (x, dy) = (draw("x", elements(layouts[0])), draw("dy", elements(layouts[1])));
        let numbers = Numbers { seed, values: draw("values", subject.stored.blocks.nnz()), x, dy };
        let plan_time = subject.stored.plan_time(backend, geometry)?;
        let operands = operands(backend, layouts, &numbers)?;
        Ok(Self { backend, subject, geometry, layouts, numbers, operands, plan_time, budget })
    }

    /// The dense side. It reads the same operands, unless it wants them in another layout.
    pub fn dense(&self) -> crate::Result<Side<B>> {
        let backend = self.backend;
        let (geometry, layouts) = self.subject.layer.geometry(backend, StripLayout::single, false)?;
        let size = geometry.positions();
        let values = backend.uploaded(&numbers(self.numbers.seed, "dense", size))?;
        let weight = Box::new(DenseWeight::new(backend, values, geometry)?);
        let shared = layouts == self.layouts;
        let operands = if shared { self.operands.clone() } else { operands(backend, layouts, &self.numbers)? };
        // What growth looks through is the dense gradient.
        let pass = if self.subject.pass == Pass::Grow { Pass::WeightGrad } else { self.subject.pass };
        Ok(Side { weight, operands, out: self.poisoned(pass, layouts, size)? })
    }

    /// Where the measured side writes to.
    pub fn output(&self) -> crate::Result<Output<B>> {
        self.poisoned(self.subject.pass, self.layouts, self.numbers.values.len())
    }

    /// An output full of NaN, but for the zeros around images.
    fn poisoned(&self, pass: Pass, [x, y]: [Layout; 2], weights: usize) -> crate::Result<Output<B>> {
        let activations = |layout| pack(self.backend, layout, &vec![f32::NAN; elements(layout)]);
        Ok(match pass {
            Pass::Forward => Output::Y(activations(y)?),
            Pass::InputGrad => Output::Dx(activations(x)?),
            Pass::WeightGrad => Output::Dw(self.backend.uploaded(&vec![f32::NAN; weights])?),
            Pass::Grow => Output::Grown(self.subject.stored.grow_request(self.numbers.seed), Vec::new()),
        })
    }

    /// The largest error of a result, 1 being what rounding may cause.
    pub fn error(&self, out: &Output<B>) -> crate::Result<f64> {
        let got = match out {
            Output::Y(activations) | Output::Dx(activations) => unpack(self.backend, activations)?,
            Output::Dw(values) => Some(self.backend.downloaded(values)?),
            Output::Grown(request, found) => return check::growth_error(self.subject, &self.numbers, request, found),
        };
        got.map_or(Ok(f64::INFINITY), |got| check::error(self.subject, &self.numbers, &got))
    }

    /// Times both sides in turn, given a call of the measured one; only that one if it is dense.
    pub fn time<E: Debug>(&self, measured: impl FnMut() -> Result<(), E>) -> crate::Result<Times> {
        let (backend, calls) = (self.backend, self.backend.results_per_reading());
        let measured = batch(backend, measured);
        if self.subject.stored.format == KernelFormat::Dense {
            return Ok(Times {
                time: repeat(self.budget, LEAST_CALLS, measured).seconds() / calls as f64,
                dense: None,
            });
        }
        let mut dense = self.dense()?;
        let best = alternate(self.budget, LEAST_CALLS, measured, batch(backend, || dense.run(backend)));
        Ok(Times::new(best, calls, if let Layer::Linear(_) = self.subject.layer { "gemm" } else { "conv" }))
    }

    /// What was found out, given the error of the check and what takes the times if it is right.
    pub fn outcome(&self, max_error: f64, time: impl FnOnce() -> crate::Result<Times>) -> crate::Result<Measurement> {
        // A stored entry is used with each lane, or pixel of Y.
        let uses = elements(self.layouts[1]) / self.geometry.size()[0];
        let operations = |weights: usize| 2.0 * weights as f64 * uses as f64;
        let dense_operations = operations(self.geometry.positions());
        let operations = match self.subject.pass {
            // Growth is dense work by nature: its efficiency is plain speed against the dense side.
            Pass::Grow => dense_operations,
            _ => operations(self.numbers.values.len()),
        };
        let floats = self.numbers.x.len() + self.numbers.dy.len();
        let bytes = size_of::<f32>() * floats + self.subject.weight_bytes();
        let is_wrong = max_error.is_nan() || max_error > 1.0;
        let times = if is_wrong { None } else { Some(time()?) };
        Ok(Measurement { operations, dense_operations, bytes, plan_time: self.plan_time, max_error, times })
    }
}

/// The operands of one side, or of both.
type Shared<B> = Rc<Operands<Activations<B>>>;

fn operands<B: ComputeDevice>(backend: &B, layouts: [Layout; 2], numbers: &Numbers) -> crate::Result<Shared<B>> {
    Ok(Rc::new(Operands::new(numbers, layouts.map(|layout| move |data: &[f32]| pack(backend, layout, data)))?))
}

/// A device that works through a queue is asked for several calls before it is waited for.
fn batch<B: ComputeDevice, E: Debug>(backend: &B, mut call: impl FnMut() -> Result<(), E>) -> impl FnMut() {
    move || {
        (0..backend.results_per_reading()).for_each(|_| call().expect(CHECKED));
        backend.synchronize().expect(CHECKED);
    }
}

/// Checks one result, and if it is right, times both sides.
pub(super) fn measure<B: ComputeDevice>(
    backend: &B,
    subject: &Subject,
    machine: &MachineArgs,
) -> crate::Result<Measurement> {
    let case = Case::new(backend, subject, machine)?;
    let weight = subject.stored.weight(backend, backend.uploaded(&case.numbers.values)?, case.geometry)?;
    let mut measured = Side { weight, operands: case.operands.clone(), out: case.output()? };
    measured.run(backend)?;
    case.outcome(case.error(&measured.out)?, || case.time(|| measured.run(backend)))
}
