//! Products with a weight matrix, and growth.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rigl::topology::random_pattern;
use sparse_kernels::cpu::{Cpu, Workspace};
#[cfg(feature = "gpu")]
use sparse_kernels::gpu::{Gpu, HalfStrips, HalfType};
use sparse_kernels::random::Key;
use sparse_kernels::reference::{self, Exact};
use sparse_kernels::{
    BackendError, BlockMatrix, BsrPattern, Candidate, CsrPattern, DenseLinear, GrowRequest, MatrixMut, MatrixRef, Op,
    PlanOptions, SparseMatrix, StripLayout, Strips,
};
#[cfg(feature = "gpu")]
use sparse_kernels::{Element, Storage};

#[cfg(feature = "gpu")]
use super::arguments::Dtype;
use super::arguments::{BenchKernelArgs, KernelFormat, KernelShape, Shape};
use super::{
    BUDGET, CHECKED, LEAST_CALLS, Measurement, Operands, Stored, Subject, Times, Yardstick, is_wrong, numbers, worst,
};
use crate::bench::alternate;
use crate::device::ComputeDevice;
use crate::models::Format;
use crate::settings::error::ConfigError;

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinearOp {
    /// Y = W · X.
    Spmm,
    /// dX = Wᵀ · dY.
    SpmmT,
    /// dW = dY · Xᵀ where W is stored.
    Sddmm,
    /// The largest of dY · Xᵀ where W is not stored.
    Grow,
}

/// An operation with a pattern.
#[derive(Debug)]
struct Linear {
    op: LinearOp,
    format: Format,
    shape: Shape,
    stored: Stored,
    /// How X and dY are stored.
    #[cfg(feature = "gpu")]
    dtype: Dtype,
}

/// Products with at most this many lanes run row-major, as an inference runs them.
const FEW_LANES: usize = 8;

/// The patterns to measure an operation with.
///
/// # Errors
/// If an option does not suit it, or a pattern is unavailable.
pub fn subjects(args: &BenchKernelArgs, op: LinearOp) -> anyhow::Result<Vec<Box<dyn Subject>>> {
    let refuse = |option, value, rule| Err(ConfigError::Value { option, value, rule }.into());
    for (option, value) in [("stride", args.stride), ("groups", args.groups)] {
        if let Some(value) = value {
            let rule = "left out unless --op is a convolution: conv_forward, conv_input_grad or conv_weight_grad, or grow with a convolution's --shape";
            return refuse(option, value.to_string(), rule);
        }
    }
    let KernelShape::Linear(shape) = args.shape else {
        return refuse("shape", args.shape.to_string(), "MxKxN, such as 512x512x128, unless --op is a convolution");
    };
    let KernelFormat::Sparse(format) = args.format else {
        let rule = "csr, or bsrRxC such as bsr4x4, unless --op is a convolution";
        return refuse("format", args.format.to_string(), rule);
    };
    let subject = |stored: Stored| -> Box<dyn Subject> {
        let [m, k] = stored.size();
        Box::new(Linear {
            op,
            format,
            shape: Shape { m, k, n: shape.n },
            stored,
            #[cfg(feature = "gpu")]
            dtype: args.dtype,
        })
    };
    Ok(Stored::all(args, format, [shape.m, shape.k])?.into_iter().map(subject).collect())
}

impl Linear {
    /// Whether this takes the kernels for few lanes.
    fn is_few(&self) -> bool {
        matches!(self.op, LinearOp::Spmm | LinearOp::SpmmT) && self.format == Format::Csr && self.shape.n <= FEW_LANES
    }
}

impl Subject for Linear {
    fn sizes(&self) -> Vec<usize> {
        vec![self.shape.m, self.shape.k, self.shape.n]
    }

    fn stride_and_groups(&self) -> Option<[usize; 2]> {
        None
    }

    fn dense_name(&self) -> &'static str {
        match self.op {
            LinearOp::Spmm => "dense_forward",
            LinearOp::SpmmT => "dense_input_grad",
            LinearOp::Sddmm | LinearOp::Grow => "dense_weight_grad",
        }
    }

    fn yardstick(&self) -> Yardstick {
        match (self.format, self.op) {
            _ if self.is_few() => Yardstick::Read,
            (Format::Csr, LinearOp::Spmm | LinearOp::SpmmT | LinearOp::Sddmm) => Yardstick::LoadFma,
            _ => Yardstick::Fma,
        }
    }

    fn measure(&self, cpu: &Cpu, seed: u64) -> anyhow::Result<Measurement> {
        Case::new(cpu, self, seed)?.measure_few()
    }

    #[cfg(feature = "gpu")]
    fn measure_on_gpu(&self, gpu: &Gpu, seed: u64) -> anyhow::Result<Measurement> {
        let case = Case::new(gpu, self, seed)?;
        match self.dtype {
            Dtype::F32 => case.measure(),
            Dtype::F16 => case.measure_half::<half::f16>(HalfType::F16),
            Dtype::Bf16 => case.measure_half::<half::bf16>(HalfType::Bf16),
        }
    }
}

impl Stored {
    /// Rows and columns of what growth finds.
    fn block_size(&self) -> [usize; 2] {
        match self {
            Self::Csr(_) => [1, 1],
            Self::Bsr(pattern) => pattern.block_size(),
        }
    }

    /// A growth step that replaces three tenths of the entries or blocks, as RigL's first update does.
    fn grow_request(&self, seed: u64) -> GrowRequest {
        let exclude = match self {
            Self::Csr(pattern) => pattern,
            Self::Bsr(pattern) => pattern.blocks(),
        };
        GrowRequest { exclude: exclude.clone(), count: 3 * exclude.nnz() / 10, ties: Key::new(seed).with_name("ties") }
    }

    fn grow<B: ComputeDevice>(
        &self,
        backend: &B,
        request: &GrowRequest,
        dy: &Strips<B>,
        x: &Strips<B>,
    ) -> Result<Vec<Candidate>, BackendError> {
        match self {
            Self::Csr(_) => backend.grow(request, &[(dy, x)]),
            Self::Bsr(pattern) => backend.grow_blocks(pattern.block_size(), request, &[(dy, x)]),
        }
    }
}

/// A weight matrix of either format.
enum Weight<B: ComputeDevice> {
    Csr(Box<SparseMatrix<B>>),
    Bsr(Box<BlockMatrix<B>>),
}

impl<B: ComputeDevice> Weight<B> {
    fn new(backend: &B, stored: &Stored, values: &[f32], options: PlanOptions) -> anyhow::Result<Self> {
        Ok(match stored {
            Stored::Csr(pattern) => Self::Csr(Box::new(SparseMatrix::new(backend, pattern.clone(), values, options)?)),
            Stored::Bsr(pattern) => Self::Bsr(Box::new(BlockMatrix::new(backend, pattern.clone(), values, options)?)),
        })
    }

    /// The product, as a training step pays it.
    fn spmm(&mut self, backend: &B, op: Op, x: &Strips<B>, y: &mut Strips<B>) -> Result<(), BackendError> {
        match self {
            Self::Csr(weight) => {
                if op == Op::Transpose {
                    // A training step changes the values between two calls.
                    weight.refresh(backend)?;
                }
                backend.spmm(op, weight, x, y)
            }
            Self::Bsr(weight) => backend.spmm_bsr(op, weight, x, y),
        }
    }

    fn sddmm(&self, backend: &B, dy: &Strips<B>, x: &Strips<B>, values: &mut B::Buffer) -> Result<(), BackendError> {
        match self {
            Self::Csr(weight) => backend.sddmm(&weight.plan, dy, x, values, false),
            Self::Bsr(weight) => backend.sddmm_bsr(&weight.plan, dy, x, values, false),
        }
    }
}

/// Where products go, of whichever side.
struct Outputs<B: ComputeDevice> {
    y: Strips<B>,
    dx: Strips<B>,
    dw: B::Buffer,
}

impl<B: ComputeDevice> Outputs<B> {
    /// Outputs of a shape, with so many weights.
    fn new(
        backend: &B,
        Shape { m, k, n }: Shape,
        layout: fn(usize, usize) -> StripLayout,
        weights: usize,
    ) -> Result<Self, BackendError> {
        let strips = |features| Strips::zeros(backend, layout(n, features));
        Ok(Self { y: strips(m)?, dx: strips(k)?, dw: backend.zeros(weights)? })
    }

    /// Outputs full of NaN.
    fn poisoned(backend: &B, shape: Shape, weights: usize) -> Result<Self, BackendError> {
        let mut outputs = Self::new(backend, shape, StripLayout::sparse, weights)?;
        for data in [&mut outputs.y.data, &mut outputs.dx.data, &mut outputs.dw] {
            backend.fill(f32::NAN, data)?;
        }
        Ok(outputs)
    }
}

/// The dense side.
struct Dense<B: ComputeDevice> {
    op: LinearOp,
    weight: B::Buffer,
    operands: Operands<Strips<B>>,
}

impl<B: ComputeDevice> Dense<B> {
    fn run(&self, backend: &B, out: &mut Outputs<B>) -> Result<(), BackendError> {
        let (x, dy) = self.operands.next();
        match self.op {
            LinearOp::Spmm => backend.gemm(Op::NoTranspose, &self.weight, x, &mut out.y),
            LinearOp::SpmmT => backend.gemm(Op::Transpose, &self.weight, dy, &mut out.dx),
            LinearOp::Sddmm | LinearOp::Grow => backend.gemm_weight_grad(dy, x, &mut out.dw, false),
        }
    }

    /// Times both sides in turn, given a call of the sparse one.
    fn time_beside(
        &self,
        backend: &B,
        shape: Shape,
        mut sparse: impl FnMut() -> Result<(), BackendError>,
    ) -> anyhow::Result<Times> {
        let mut out = Outputs::new(backend, shape, StripLayout::single, shape.m * shape.k)?;
        // A device that works through a queue is asked for several calls before it is waited for.
        let calls = backend.results_per_reading();
        let repeat = |once: &mut dyn FnMut() -> Result<(), BackendError>| {
            (0..calls).try_for_each(|_| once()).and_then(|()| backend.synchronize()).expect(CHECKED);
        };
        let sparse_call = || repeat(&mut sparse);
        let dense_call = || repeat(&mut || self.run(backend, &mut out));
        Ok(Times::of(alternate(BUDGET, LEAST_CALLS, sparse_call, dense_call), calls, "gemm"))
    }
}

/// A subject with operands in the layouts of both sides.
struct Case<'a, B: ComputeDevice> {
    backend: &'a B,
    subject: &'a Linear,
    seed: u64,
    values: Vec<f32>,
    weight: Weight<B>,
    plan_time: Duration,
    /// Row-major operands for the reference.
    x: Vec<f32>,
    dy: Vec<f32>,
    sparse: Operands<Strips<B>>,
    dense: Dense<B>,
}

impl<'a, B: ComputeDevice> Case<'a, B> {
    fn new(backend: &'a B, subject: &'a Linear, seed: u64) -> anyhow::Result<Self> {
        let Linear { op, shape: Shape { m, k, n }, stored, .. } = subject;
        let (m, k, n) = (*m, *k, *n);
        let values = numbers(seed, "values", stored.nnz());
        let (x, dy) = (numbers(seed, "x", k * n), numbers(seed, "dy", m * n));
        let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: *op == LinearOp::SpmmT };
        let start = Instant::now();
        match stored {
            Stored::Csr(pattern) => drop(backend.plan(pattern.clone(), options)?),
            Stored::Bsr(pattern) => drop(backend.plan_blocks(pattern.clone(), options)?),
        }
        let plan_time = start.elapsed();
        let weight = Weight::new(backend, stored, &values, options)?;
        let mut dense_weight = backend.zeros(m * k)?;
        backend.upload(&numbers(seed, "dense", m * k), &mut dense_weight)?;
        let operands = |layout: fn(usize, usize) -> StripLayout| {
            let pack = |features: usize| {
                move |data: &[f32]| {
                    let layout = layout(n, features);
                    let mut packed = vec![0.0; layout.len()];
                    layout.pack(MatrixRef::new(data, features, n, n)?, &mut packed)?;
                    let mut strips = Strips::zeros(backend, layout)?;
                    backend.upload(&packed, &mut strips.data)?;
                    Ok(strips)
                }
            };
            Operands::new(&x, pack(k), &dy, pack(m))
        };
        let (sparse, dense) = (operands(StripLayout::sparse)?, operands(StripLayout::single)?);
        let dense = Dense { op: *op, weight: dense_weight, operands: dense };
        Ok(Self { backend, subject, seed, values, weight, plan_time, x, dy, sparse, dense })
    }

    /// Checks the result, then times both sides in turn.
    fn measure(mut self) -> anyhow::Result<Measurement> {
        let max_error = self.check()?;
        let times = if is_wrong(max_error) { None } else { Some(self.time()?) };
        Ok(self.measurement(max_error, times))
    }

    fn measurement(&self, max_error: f64, times: Option<Times>) -> Measurement {
        let Linear { op, shape, stored, .. } = self.subject;
        let (density, nnz) = (stored.density(), stored.nnz());
        let operations = 2.0 * nnz as f64 * shape.n as f64;
        let dense_operations = 2.0 * shape.m as f64 * shape.k as f64 * shape.n as f64;
        // Growth is dense work by nature: its efficiency is plain speed against the dense product.
        let operations = if *op == LinearOp::Grow { dense_operations } else { operations };
        let plan_time = self.plan_time;
        Measurement { density, nnz, operations, dense_operations, plan_time, max_error, times }
    }

    /// Runs the operation once on outputs full of NaN; returns the largest error, 1 being what rounding may cause.
    fn check(&mut self) -> anyhow::Result<f64> {
        let Linear { op, shape: Shape { n, .. }, stored, .. } = self.subject;
        let n = *n;
        let (x, dy) = (&self.sparse.x[0], &self.sparse.dy[0]);
        let mut out = Outputs::poisoned(self.backend, self.subject.shape, stored.nnz())?;
        Ok(match op {
            LinearOp::Spmm => {
                self.weight.spmm(self.backend, Op::NoTranspose, x, &mut out.y)?;
                let exact = match stored {
                    Stored::Csr(pattern) => reference::spmm(pattern, &self.values, &self.x, n),
                    Stored::Bsr(pattern) => reference::spmm_bsr(pattern, &self.values, &self.x, n),
                };
                worst(self.unpack(&out.y)?, exact)
            }
            LinearOp::SpmmT => {
                self.weight.spmm(self.backend, Op::Transpose, dy, &mut out.dx)?;
                let exact = match stored {
                    Stored::Csr(pattern) => reference::spmm_transposed(pattern, &self.values, &self.dy, n),
                    Stored::Bsr(pattern) => reference::spmm_bsr_transposed(pattern, &self.values, &self.dy, n),
                };
                worst(self.unpack(&out.dx)?, exact)
            }
            LinearOp::Sddmm => {
                self.weight.sddmm(self.backend, dy, x, &mut out.dw)?;
                let exact = match stored {
                    Stored::Csr(pattern) => reference::sddmm(pattern, &self.dy, &self.x, n),
                    Stored::Bsr(pattern) => reference::sddmm_bsr(pattern, &self.dy, &self.x, n),
                };
                let mut values = vec![0.0; stored.nnz()];
                self.backend.download(&out.dw, &mut values)?;
                worst(values, exact)
            }
            LinearOp::Grow => {
                let request = stored.grow_request(self.seed);
                let candidates = stored.grow(self.backend, &request, dy, x)?;
                self.check_growth(&request, &candidates)?
            }
        })
    }

    /// Row-major, without padding.
    fn unpack(&self, strips: &Strips<B>) -> anyhow::Result<Vec<f32>> {
        let (features, n) = (strips.layout.features(), strips.layout.lanes());
        let mut data = vec![0.0; features * n];
        let mut held = vec![0.0; strips.layout.len()];
        self.backend.download(&strips.data, &mut held)?;
        strips.layout.unpack(&held, MatrixMut::new(&mut data, features, n, n)?)?;
        Ok(data)
    }

    /// Scores must be right, and no position left out may be larger than the smallest one found, up to rounding. Single
    /// entries are blocks of one.
    fn check_growth(&self, request: &GrowRequest, candidates: &[Candidate]) -> anyhow::Result<f64> {
        let Shape { m, k, n } = self.subject.shape;
        let (rows, columns) = (request.exclude.nrows(), request.exclude.ncols());
        let block_size @ [r, c] = self.subject.stored.block_size();
        if candidates.len() != request.count.min(rows * columns - request.exclude.nnz()) {
            return Ok(f64::INFINITY);
        }
        let scores = |positions: &CsrPattern| -> anyhow::Result<Vec<Exact>> {
            let blocks = BsrPattern::from_blocks(m, k, block_size, Arc::new(positions.clone()))?;
            Ok(reference::block_norms(&blocks, &self.dy, &self.x, n))
        };
        let found = candidates.iter().map(|c| (c.row, c.column)).collect();
        let found = CsrPattern::from_positions(rows, columns, found);
        let found = found.context("growth gave positions outside the matrix")?;
        let mut worst: f64 = 0.0;
        let mut smallest = f64::INFINITY;
        for (candidate, exact) in candidates.iter().zip(scores(&found)?) {
            worst = worst.max(exact.error(candidate.score));
            smallest = smallest.min(exact.value);
        }
        // A sample of the others, in full: a dense reference of a large layer would take minutes.
        let sample = random_pattern(rows, columns, (rows * columns).min(200_000 / (r * c)), request.ties)?;
        for (position, exact) in sample.positions().zip(scores(&sample)?) {
            let holds = |pattern: &CsrPattern| pattern.row(position.0 as usize).binary_search(&position.1).is_ok();
            let is_candidate = holds(&found);
            if holds(&request.exclude) {
                if is_candidate {
                    return Ok(f64::INFINITY);
                }
            } else if !is_candidate && exact.value > smallest {
                worst = worst.max(Exact { value: smallest, ..exact }.error(exact.value as f32));
            }
        }
        Ok(worst)
    }

    /// Times both sides.
    fn time(&mut self) -> anyhow::Result<Times> {
        let Linear { op, shape, stored, .. } = self.subject;
        let (backend, seed) = (self.backend, self.seed);
        let mut out = Outputs::new(backend, *shape, StripLayout::sparse, stored.nnz())?;
        let (weight, sparse) = (&mut self.weight, &self.sparse);
        self.dense.time_beside(backend, *shape, || {
            let (x, dy) = sparse.next();
            match op {
                LinearOp::Spmm => weight.spmm(backend, Op::NoTranspose, x, &mut out.y),
                LinearOp::SpmmT => weight.spmm(backend, Op::Transpose, dy, &mut out.dx),
                LinearOp::Sddmm => weight.sddmm(backend, dy, x, &mut out.dw),
                LinearOp::Grow => stored.grow(backend, &stored.grow_request(seed), dy, x).map(drop),
            }
        })
    }
}

/// Products with few lanes, which run row-major on the processor.
impl Case<'_, Cpu> {
    /// What the kernels for few lanes work on, if the case takes them.
    fn few(&self) -> Option<(&CsrPattern, &SparseMatrix<Cpu>)> {
        match (&self.subject.stored, &self.weight) {
            (Stored::Csr(pattern), Weight::Csr(weight)) if self.subject.is_few() => Some((pattern, weight)),
            _ => None,
        }
    }

    /// As [`Case::check`], with the row-major product.
    fn check_few(&self, pattern: &CsrPattern, weight: &SparseMatrix<Cpu>) -> anyhow::Result<f64> {
        let n = self.subject.shape.n;
        let (op, x, exact) = match self.subject.op {
            LinearOp::SpmmT => {
                (Op::Transpose, &self.dy, reference::spmm_transposed(pattern, &self.values, &self.dy, n))
            }
            _ => (Op::NoTranspose, &self.x, reference::spmm(pattern, &self.values, &self.x, n)),
        };
        let mut y = vec![f32::NAN; exact.len()];
        let view = MatrixRef::new(x, x.len() / n, n, n)?;
        let out = MatrixMut::new(&mut y, exact.len() / n, n, n)?;
        self.backend.spmm_row_major(op, weight, view, out, &mut Workspace::default())?;
        Ok(worst(y, exact))
    }

    /// Times both sides with few lanes; the dense one is the faster of the kernel for few lanes and crate `gemm`. Weights do
    /// not change between the calls of an inference, so the transpose's copy of them is not refreshed.
    fn time_few(&self, weight: &SparseMatrix<Cpu>) -> anyhow::Result<Times> {
        let Shape { m, k, n } = self.subject.shape;
        let (cpu, dense_weight, dense) = (self.backend, &self.dense.weight, &self.dense.operands);
        let (op, from, inner, out) = match self.subject.op {
            LinearOp::SpmmT => (Op::Transpose, &self.dy, m, k),
            _ => (Op::NoTranspose, &self.x, k, m),
        };
        let second: Vec<f32> = from.iter().map(|v| 0.5 * v).collect();
        let turn = Cell::new(false);
        let x = || {
            turn.set(!turn.get());
            MatrixRef::new(if turn.get() { from } else { &second }, inner, n, n).expect(CHECKED)
        };
        let (mut y, mut y_dense) = (vec![0.0f32; out * n], vec![0.0f32; out * n]);
        let (mut workspace, mut dense_workspace) = (Workspace::default(), Workspace::default());
        let sparse_call = || {
            let y = MatrixMut::new(&mut y, out, n, n).expect(CHECKED);
            cpu.spmm_row_major(op, weight, x(), y, &mut workspace).expect(CHECKED);
        };
        let mut few_call = || {
            let y = MatrixMut::new(&mut y_dense, out, n, n).expect(CHECKED);
            cpu.gemm_row_major(op, dense_weight, x(), y, &mut dense_workspace).expect(CHECKED);
        };
        let mut y_strips = Strips::zeros(cpu, StripLayout::single(n, out))?;
        let mut gemm_call = || {
            let (x, dy) = dense.next();
            let x = if op == Op::Transpose { dy } else { x };
            cpu.gemm(op, dense_weight, x, &mut y_strips).expect(CHECKED);
        };
        let [few, gemm] = alternate(BUDGET / 10, 3, &mut few_call, &mut gemm_call);
        let (source, dense_call): (_, &mut dyn FnMut()) =
            if few.time <= gemm.time { ("gemv", &mut few_call) } else { ("gemm", &mut gemm_call) };
        let best = alternate(BUDGET, LEAST_CALLS, sparse_call, dense_call);
        Ok(Times::new(best, source))
    }

    /// As [`Case::measure`].
    fn measure_few(self) -> anyhow::Result<Measurement> {
        let Some((pattern, weight)) = self.few() else { return self.measure() };
        let max_error = self.check_few(pattern, weight)?;
        let times = if is_wrong(max_error) { None } else { Some(self.time_few(weight)?) };
        Ok(self.measurement(max_error, times))
    }
}

/// Activations in 16 bits, on a GPU.
#[cfg(feature = "gpu")]
impl Weight<Gpu> {
    /// The operation, as a training step pays it.
    fn run_half(
        &mut self,
        gpu: &Gpu,
        op: LinearOp,
        (x, dy): (&HalfStrips, &HalfStrips),
        out: &mut Outputs<Gpu>,
    ) -> Result<(), BackendError> {
        let Self::Csr(weight) = self else { unreachable!("blocks are refused") };
        match op {
            LinearOp::Spmm => gpu.spmm_half(Op::NoTranspose, weight, x, &mut out.y),
            LinearOp::SpmmT => {
                weight.refresh(gpu)?;
                gpu.spmm_half(Op::Transpose, weight, dy, &mut out.dx)
            }
            LinearOp::Sddmm => gpu.sddmm_half(&weight.plan, dy, x, &mut out.dw, false),
            LinearOp::Grow => unreachable!("growth is refused"),
        }
    }
}

#[cfg(feature = "gpu")]
impl Case<'_, Gpu> {
    /// As [`Case::measure`], with X and dY stored as `T`.
    fn measure_half<T: Element>(mut self, stored_as: HalfType) -> anyhow::Result<Measurement> {
        let gpu = self.backend;
        let halves = self.sparse.map(|strips| {
            let mut to = gpu.half_strips(strips.layout, stored_as)?;
            gpu.convert(strips, &mut to)?;
            Ok(to)
        })?;
        for data in [&mut self.x, &mut self.dy] {
            // What the products see.
            let mut narrow = vec![T::default(); data.len()];
            T::from_f32(data, &mut narrow);
            T::to_f32(&narrow, data);
        }
        let max_error = self.check_half(&halves)?;
        let Linear { op, shape, stored, .. } = self.subject;
        let times = if is_wrong(max_error) {
            None
        } else {
            let mut out = Outputs::new(gpu, *shape, StripLayout::sparse, stored.nnz())?;
            let weight = &mut self.weight;
            Some(self.dense.time_beside(gpu, *shape, || weight.run_half(gpu, *op, halves.next(), &mut out))?)
        };
        Ok(self.measurement(max_error, times))
    }

    /// As [`Case::check`].
    fn check_half(&mut self, halves: &Operands<HalfStrips>) -> anyhow::Result<f64> {
        let Linear { op, shape, stored, .. } = self.subject;
        let mut out = Outputs::poisoned(self.backend, *shape, stored.nnz())?;
        self.weight.run_half(self.backend, *op, (&halves.x[0], &halves.dy[0]), &mut out)?;
        let Stored::Csr(pattern) = stored else { unreachable!("blocks are refused") };
        Ok(match op {
            LinearOp::Spmm => worst(self.unpack(&out.y)?, reference::spmm(pattern, &self.values, &self.x, shape.n)),
            LinearOp::SpmmT => {
                worst(self.unpack(&out.dx)?, reference::spmm_transposed(pattern, &self.values, &self.dy, shape.n))
            }
            LinearOp::Sddmm | LinearOp::Grow => {
                let mut values = vec![0.0; pattern.nnz()];
                self.backend.download(&out.dw, &mut values)?;
                worst(values, reference::sddmm(pattern, &self.dy, &self.x, shape.n))
            }
        })
    }
}
