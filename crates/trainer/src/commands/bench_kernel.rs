//! `rigl bench kernel`: one operation at one shape over densities, against the dense operation.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rigl::topology::random_pattern;
use serde::Serialize;
use sparse_kernels::cpu::{Cpu, Limits, Workspace};
use sparse_kernels::random::Key;
use sparse_kernels::reference::{self, Exact};
use sparse_kernels::{
    BackendError, BlockMatrix, BlockSparseLinear, BsrPattern, Candidate, CsrPattern, DenseLinear, GrowRequest,
    MatrixMut, MatrixRef, Op, PlanOptions, SparseLinear, SparseMatrix, Storage, StripLayout, Strips,
};

use crate::args::{BenchKernelArgs, KernelOp, PatternSource, Shape};
use crate::bench::{alternate, patterns};
use crate::config::Format;
use crate::report::{Significant, Table, print_record, print_text};

/// The record of one density.
#[derive(Debug, Serialize)]
struct KernelRecord {
    event: &'static str,
    op: String,
    format: String,
    shape: String,
    pattern: String,
    density: f64,
    nnz: usize,
    dtype: String,
    device: String,
    isa: &'static str,
    threads: usize,
    /// Best of many calls, as a training step pays them (an inference, for products with few lanes). Null if the check failed.
    time_ns: Option<u64>,
    plan_ns: u64,
    dense_time_ns: Option<u64>,
    dense_source: &'static str,
    speedup: Option<f64>,
    efficiency: Option<f64>,
    /// Achieved rate over the machine's, measured in the same run: operations over one load per multiply-add from L1
    /// (growth: over multiply-adds on registers); products with few lanes: bytes, 8 an entry, over those at which an array
    /// of that size is read.
    limit_fraction: Option<f64>,
    /// Products with few lanes only: as `limit_fraction`, over the rate at which main memory is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_fraction: Option<f64>,
    /// Largest error of an entry, as a fraction of what rounding in f32 may amount to; above 1 the check failed.
    max_error: f64,
    failed: bool,
}

/// Why timed calls do not fail: they succeeded in the check, and shapes do not change.
const CHECKED: &str = "the same call succeeded before";

/// Time spent on one density, both sides together.
const BUDGET: Duration = Duration::from_millis(1500);
const LEAST_CALLS: usize = 7;

/// Bytes of an array that no cache holds.
const BEYOND_CACHES: usize = 512 << 20;

/// Products with at most this many lanes run row-major, as an inference runs them.
const FEW_LANES: usize = 8;

/// Whether a case takes the kernels for few lanes.
fn is_few(op: KernelOp, format: Format, shape: Shape) -> bool {
    matches!(op, KernelOp::Spmm | KernelOp::SpmmT) && format == Format::Csr && shape.n <= FEW_LANES
}

/// Runs the command.
///
/// # Errors
/// If the pattern cannot be had, the instruction set is missing, or a result is wrong.
pub fn run(args: &BenchKernelArgs) -> anyhow::Result<()> {
    let cpu = args.machine.cpu()?;
    let headings = ["density", "nnz", "time", "dense", "speed-up", "efficiency", "of limit", "plan", "max error"];
    let mut table = Table::new(headings);
    let mut failed = Vec::new();
    for (pattern, shape) in cases(args)? {
        let record = Case::new(&cpu, args, pattern, shape)?.measure(args)?;
        if record.failed {
            failed.push(record.density);
        }
        if args.machine.json {
            print_record(&record)?;
        } else {
            let time = |ns: Option<u64>| ns.map_or("failed".to_owned(), format_time);
            let ratio = |r: Option<f64>| r.map_or("–".to_owned(), |r| format!("{r:.2}"));
            table.row([
                Significant(record.density).to_string(),
                record.nnz.to_string(),
                time(record.time_ns),
                time(record.dense_time_ns),
                ratio(record.speedup),
                ratio(record.efficiency),
                ratio(record.limit_fraction),
                format_time(record.plan_ns),
                format!("{:.2}", record.max_error),
            ]);
        }
    }
    if !args.machine.json {
        print_text(format_args!("{} {} on {} threads of {}\n{table}", args.op, args.shape, cpu.threads(), cpu.isa()))?;
        let limit = match (args.format, args.op) {
            _ if is_few(args.op, args.format, args.shape) => "reading 8 bytes an entry once",
            (Format::Csr, KernelOp::Spmm | KernelOp::SpmmT | KernelOp::Sddmm) => "one load per multiply-add from L1",
            _ => "multiply-adds on registers",
        };
        print_text(format_args!("efficiency: dense time · density / time; of limit: against {limit}"))?;
    }
    if !failed.is_empty() {
        bail!("{} gave wrong results at density {failed:?}", args.op);
    }
    Ok(())
}

/// Which entries are stored, and how.
#[derive(Debug, Clone)]
enum Stored {
    Csr(Arc<CsrPattern>),
    Bsr(Arc<BsrPattern>),
}

impl Stored {
    fn nnz(&self) -> usize {
        match self {
            Self::Csr(pattern) => pattern.nnz(),
            Self::Bsr(pattern) => pattern.nnz(),
        }
    }

    fn density(&self) -> f64 {
        match self {
            Self::Csr(pattern) => pattern.density(),
            Self::Bsr(pattern) => pattern.density(),
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
    fn grow_request(&self, seed: u64) -> GrowRequest<'_> {
        let exclude = match self {
            Self::Csr(pattern) => pattern,
            Self::Bsr(pattern) => &**pattern.blocks(),
        };
        GrowRequest { exclude, count: 3 * exclude.nnz() / 10, ties: Key::new(seed).with_name("ties") }
    }

    fn grow(
        &self,
        cpu: &Cpu,
        request: &GrowRequest<'_>,
        dy: &Strips<Cpu>,
        x: &Strips<Cpu>,
    ) -> Result<Vec<Candidate>, BackendError> {
        match self {
            Self::Csr(_) => cpu.grow(request, &[(dy, x)]),
            Self::Bsr(pattern) => cpu.grow_blocks(pattern.block_size(), request, &[(dy, x)]),
        }
    }
}

/// The patterns to measure, with their shapes.
fn cases(args: &BenchKernelArgs) -> anyhow::Result<Vec<(Stored, Shape)>> {
    let Shape { m, k, n } = args.shape;
    let key = Key::new(args.machine.seed).with_name("pattern");
    if let PatternSource::File(path) = &args.pattern {
        let pattern = patterns::from_file(path)?;
        let shape = Shape { m: pattern.nrows(), k: pattern.ncols(), n };
        let stored = match args.format {
            Format::Csr => Stored::Csr(Arc::new(pattern)),
            // Every block that holds an entry of the file's matrix.
            Format::Bsr(block_size) => Stored::Bsr(Arc::new(BsrPattern::from_csr(&pattern, block_size)?)),
        };
        return Ok(vec![(stored, shape)]);
    }
    let make = |&density: &f64| {
        let place = |nrows: usize, ncols: usize| match &args.pattern {
            PatternSource::PowerLaw => patterns::power_law(nrows, ncols, density, key),
            PatternSource::Banded => patterns::banded(nrows, ncols, density),
            PatternSource::Uniform | PatternSource::File(_) => patterns::uniform(nrows, ncols, density, key),
        };
        let stored = match args.format {
            Format::Csr => Stored::Csr(Arc::new(place(m, k)?)),
            Format::Bsr(block_size) => Stored::Bsr(Arc::new(patterns::in_blocks(m, k, block_size, place)?)),
        };
        Ok((stored, args.shape))
    };
    args.density.iter().map(make).collect()
}

/// A weight matrix of either format.
enum Weight {
    Csr(Box<SparseMatrix<Cpu>>),
    Bsr(Box<BlockMatrix<Cpu>>),
}

impl Weight {
    fn new(cpu: &Cpu, stored: &Stored, values: &[f32], options: PlanOptions) -> anyhow::Result<Self> {
        Ok(match stored {
            Stored::Csr(pattern) => Self::Csr(Box::new(SparseMatrix::new(cpu, pattern.clone(), values, options)?)),
            Stored::Bsr(pattern) => Self::Bsr(Box::new(BlockMatrix::new(cpu, pattern.clone(), values, options)?)),
        })
    }

    /// The product, as a training step pays it.
    fn spmm(&mut self, cpu: &Cpu, op: Op, x: &Strips<Cpu>, y: &mut Strips<Cpu>) -> Result<(), BackendError> {
        match self {
            Self::Csr(weight) => {
                if op == Op::Transpose {
                    // A training step changes the values between two calls.
                    weight.refresh(cpu)?;
                }
                cpu.spmm(op, weight, x, y)
            }
            Self::Bsr(weight) => cpu.spmm_bsr(op, weight, x, y),
        }
    }

    fn sddmm(
        &self,
        cpu: &Cpu,
        dy: &Strips<Cpu>,
        x: &Strips<Cpu>,
        values: &mut <Cpu as Storage>::Buffer,
    ) -> Result<(), BackendError> {
        match self {
            Self::Csr(weight) => cpu.sddmm(&weight.plan, dy, x, values, false),
            Self::Bsr(weight) => cpu.sddmm_bsr(&weight.plan, dy, x, values, false),
        }
    }
}

/// One pattern with operands in the layouts of both sides.
struct Case<'a> {
    cpu: &'a Cpu,
    shape: Shape,
    stored: Stored,
    values: Vec<f32>,
    weight: Weight,
    dense_weight: <Cpu as Storage>::Buffer,
    plan_time: Duration,
    /// Row-major operands for the reference.
    x: Vec<f32>,
    dy: Vec<f32>,
    sparse: Operands,
    dense: Operands,
    limits: Limits,
}

/// Two sets of operands, taken in turn so that no call repeats the one before.
struct Operands {
    x: [Strips<Cpu>; 2],
    dy: [Strips<Cpu>; 2],
    turn: Cell<usize>,
}

impl Operands {
    fn new(
        cpu: &Cpu,
        shape: Shape,
        layout: impl Fn(usize) -> StripLayout,
        x: &[f32],
        dy: &[f32],
    ) -> anyhow::Result<Self> {
        let strips = |data: &[f32], features: usize| -> anyhow::Result<[Strips<Cpu>; 2]> {
            let layout = layout(features);
            let mut first = Strips::zeros(cpu, layout)?;
            layout.pack(MatrixRef::new(data, features, shape.n, shape.n)?, &mut first.data)?;
            let mut second = Strips::zeros(cpu, layout)?;
            let shifted: Vec<f32> = data.iter().map(|v| 0.5 * v).collect();
            layout.pack(MatrixRef::new(&shifted, features, shape.n, shape.n)?, &mut second.data)?;
            Ok([first, second])
        };
        Ok(Self { x: strips(x, shape.k)?, dy: strips(dy, shape.m)?, turn: Cell::new(0) })
    }

    /// The next operands: `(x, dy)`.
    fn next(&self) -> (&Strips<Cpu>, &Strips<Cpu>) {
        let turn = self.turn.get();
        self.turn.set(1 - turn);
        (&self.x[turn], &self.dy[turn])
    }
}

impl<'a> Case<'a> {
    fn new(cpu: &'a Cpu, args: &BenchKernelArgs, stored: Stored, shape: Shape) -> anyhow::Result<Self> {
        let key = Key::new(args.machine.seed);
        let numbers = |name: &str, len: usize| -> Vec<f32> {
            let key = key.with_name(name);
            (0..len as u64).map(|i| 2.0 * key.uniform(i) - 1.0).collect()
        };
        let values = numbers("values", stored.nnz());
        let (x, dy) = (numbers("x", shape.k * shape.n), numbers("dy", shape.m * shape.n));
        let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: args.op == KernelOp::SpmmT };
        let start = Instant::now();
        match &stored {
            Stored::Csr(pattern) => drop(cpu.plan(pattern.clone(), options)?),
            Stored::Bsr(pattern) => drop(cpu.plan_blocks(pattern.clone(), options)?),
        }
        let plan_time = start.elapsed();
        let weight = Weight::new(cpu, &stored, &values, options)?;
        let mut dense_weight = cpu.zeros(shape.m * shape.k)?;
        cpu.upload(&numbers("dense", shape.m * shape.k), &mut dense_weight)?;
        let sparse = Operands::new(cpu, shape, |f| StripLayout::sparse(shape.n, f), &x, &dy)?;
        let dense = Operands::new(cpu, shape, |f| StripLayout::single(shape.n, f), &x, &dy)?;
        let limits = cpu.limits();
        Ok(Self { cpu, shape, stored, values, weight, dense_weight, plan_time, x, dy, sparse, dense, limits })
    }

    /// Checks the result, then times both sides in turn.
    fn measure(mut self, args: &BenchKernelArgs) -> anyhow::Result<KernelRecord> {
        let max_error = self.check(args.op, args.machine.seed)?;
        let failed = max_error.is_nan() || max_error > 1.0;
        let few = self.few(args.op).is_some();
        let (times, dense_source) = match self.few(args.op) {
            _ if failed => (None, "gemm"),
            Some((_, weight)) => self.time_few(args.op, weight).map(|(times, source)| (Some(times), source))?,
            None => (Some(self.time(args.op, args.machine.seed)?), "gemm"),
        };
        let density = self.stored.density();
        let operations = 2.0 * self.stored.nnz() as f64 * self.shape.n as f64;
        let speedup = times.map(|[sparse, dense]| dense / sparse);
        let threads = self.cpu.threads() as f64;
        let bytes = 8 * self.stored.nnz();
        // Measured again: clocks vary, and a limit must not be lower than what runs under it.
        self.limits = self.limits.max(self.cpu.limits());
        let rate = |read: usize| times.map(|[sparse, _]| bytes as f64 / sparse / self.cpu.read_bytes_per_s(read));
        let memory_fraction = if few { rate(BEYOND_CACHES) } else { None };
        let limit_fraction = times.map(|[sparse, _]| match (args.op, args.format) {
            _ if few => bytes as f64 / sparse / self.cpu.read_bytes_per_s(bytes),
            // Growth computes the dense product.
            (KernelOp::Grow, _) => operations / density / sparse / (threads * self.limits.fma_flops_per_s),
            (_, Format::Csr) => operations / sparse / (threads * self.limits.load_fma_flops_per_s),
            (_, Format::Bsr(_)) => operations / sparse / (threads * self.limits.fma_flops_per_s),
        });
        let nanoseconds = |seconds: f64| (seconds * 1e9).round() as u64;
        Ok(KernelRecord {
            event: "kernel",
            op: args.op.to_string(),
            format: args.format.to_string(),
            shape: self.shape.to_string(),
            pattern: args.pattern.to_string(),
            density,
            nnz: self.stored.nnz(),
            dtype: args.dtype.to_string(),
            device: args.machine.device.to_string(),
            isa: self.cpu.isa().name(),
            threads: self.cpu.threads(),
            time_ns: times.map(|[sparse, _]| nanoseconds(sparse)),
            plan_ns: nanoseconds(self.plan_time.as_secs_f64()),
            dense_time_ns: times.map(|[_, dense]| nanoseconds(dense)),
            dense_source,
            speedup,
            // Growth is dense work by nature: its efficiency is plain speed against the dense product.
            efficiency: speedup.map(|s| if args.op == KernelOp::Grow { s } else { s * density }),
            limit_fraction,
            memory_fraction,
            max_error,
            failed,
        })
    }

    /// Runs the operation once on outputs full of NaN; returns the largest error, 1 being what rounding may cause.
    fn check(&mut self, op: KernelOp, seed: u64) -> anyhow::Result<f64> {
        let Shape { m, k, n } = self.shape;
        if let Some((pattern, weight)) = self.few(op) {
            return self.check_few(op, pattern, weight);
        }
        let (x, dy) = (&self.sparse.x[0], &self.sparse.dy[0]);
        let worst = |got: &[f32], exact: &[Exact]| {
            got.iter().zip(exact).map(|(&got, exact)| exact.error(got)).fold(0.0, f64::max)
        };
        let output = |features: usize| -> anyhow::Result<Strips<Cpu>> {
            let mut strips = Strips::zeros(self.cpu, StripLayout::sparse(n, features))?;
            self.cpu.fill(f32::NAN, &mut strips.data)?;
            Ok(strips)
        };
        let unpack = |strips: &Strips<Cpu>| -> anyhow::Result<Vec<f32>> {
            let mut data = vec![0.0; strips.layout.features() * n];
            strips.layout.unpack(&strips.data, MatrixMut::new(&mut data, strips.layout.features(), n, n)?)?;
            Ok(data)
        };
        Ok(match op {
            KernelOp::Spmm => {
                let mut y = output(m)?;
                self.weight.spmm(self.cpu, Op::NoTranspose, x, &mut y)?;
                let exact = match &self.stored {
                    Stored::Csr(pattern) => reference::spmm(pattern, &self.values, &self.x, n),
                    Stored::Bsr(pattern) => reference::spmm_bsr(pattern, &self.values, &self.x, n),
                };
                worst(&unpack(&y)?, &exact)
            }
            KernelOp::SpmmT => {
                let mut dx = output(k)?;
                self.weight.spmm(self.cpu, Op::Transpose, dy, &mut dx)?;
                let exact = match &self.stored {
                    Stored::Csr(pattern) => reference::spmm_transposed(pattern, &self.values, &self.dy, n),
                    Stored::Bsr(pattern) => reference::spmm_bsr_transposed(pattern, &self.values, &self.dy, n),
                };
                worst(&unpack(&dx)?, &exact)
            }
            KernelOp::Sddmm => {
                let mut dw = self.cpu.zeros(self.stored.nnz())?;
                self.cpu.fill(f32::NAN, &mut dw)?;
                self.weight.sddmm(self.cpu, dy, x, &mut dw)?;
                let exact = match &self.stored {
                    Stored::Csr(pattern) => reference::sddmm(pattern, &self.dy, &self.x, n),
                    Stored::Bsr(pattern) => reference::sddmm_bsr(pattern, &self.dy, &self.x, n),
                };
                worst(&dw, &exact)
            }
            KernelOp::Grow => {
                let request = self.stored.grow_request(seed);
                let candidates = self.stored.grow(self.cpu, &request, dy, x)?;
                self.check_growth(&request, &candidates)?
            }
        })
    }

    /// What the kernels for few lanes work on, if the case takes them.
    fn few(&self, op: KernelOp) -> Option<(&CsrPattern, &SparseMatrix<Cpu>)> {
        match (&self.stored, &self.weight) {
            (Stored::Csr(pattern), Weight::Csr(weight)) if is_few(op, Format::Csr, self.shape) => {
                Some((pattern, weight))
            }
            _ => None,
        }
    }

    /// As [`Case::check`], with the row-major product.
    fn check_few(&self, op: KernelOp, pattern: &CsrPattern, weight: &SparseMatrix<Cpu>) -> anyhow::Result<f64> {
        let n = self.shape.n;
        let (op, x, exact) = match op {
            KernelOp::SpmmT => {
                (Op::Transpose, &self.dy, reference::spmm_transposed(pattern, &self.values, &self.dy, n))
            }
            _ => (Op::NoTranspose, &self.x, reference::spmm(pattern, &self.values, &self.x, n)),
        };
        let mut y = vec![f32::NAN; exact.len()];
        let view = MatrixRef::new(x, x.len() / n, n, n)?;
        let out = MatrixMut::new(&mut y, exact.len() / n, n, n)?;
        self.cpu.spmm_row_major(op, weight, view, out, &mut Workspace::default())?;
        Ok(y.iter().zip(&exact).map(|(&got, exact)| exact.error(got)).fold(0.0, f64::max))
    }

    /// Best seconds of `[sparse, dense]` with few lanes, and which dense code was the faster: the kernel for few lanes or
    /// crate `gemm`. Weights do not change between the calls of an inference, so the transpose's copy of them is not
    /// refreshed.
    fn time_few(&self, op: KernelOp, weight: &SparseMatrix<Cpu>) -> anyhow::Result<([f64; 2], &'static str)> {
        let Shape { m, k, n } = self.shape;
        let (cpu, dense_weight, dense) = (self.cpu, &self.dense_weight, &self.dense);
        let (op, from, inner, out) = match op {
            KernelOp::SpmmT => (Op::Transpose, &self.dy, m, k),
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
        Ok((best.map(|best| best.seconds()), source))
    }

    /// Scores must be right, and no position left out may be larger than the smallest one found, up to rounding. Single
    /// entries are blocks of one.
    fn check_growth(&self, request: &GrowRequest<'_>, candidates: &[Candidate]) -> anyhow::Result<f64> {
        let Shape { m, k, n } = self.shape;
        let (rows, columns) = (request.exclude.nrows(), request.exclude.ncols());
        let block_size @ [r, c] = self.stored.block_size();
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
            if holds(request.exclude) {
                if is_candidate {
                    return Ok(f64::INFINITY);
                }
            } else if !is_candidate && exact.value > smallest {
                worst = worst.max(Exact { value: smallest, ..exact }.error(exact.value as f32));
            }
        }
        Ok(worst)
    }

    /// Best seconds of `[sparse, dense]`.
    fn time(&mut self, op: KernelOp, seed: u64) -> anyhow::Result<[f64; 2]> {
        let Shape { m, k, n } = self.shape;
        let cpu = self.cpu;
        let strips = |layout: StripLayout| Strips::zeros(cpu, layout);
        let (mut y, mut dx) = (strips(StripLayout::sparse(n, m))?, strips(StripLayout::sparse(n, k))?);
        let (mut y_dense, mut dx_dense) = (strips(StripLayout::single(n, m))?, strips(StripLayout::single(n, k))?);
        let mut dw = cpu.zeros(self.stored.nnz())?;
        let mut dw_dense = cpu.zeros(m * k)?;
        let stored = self.stored.clone();
        let (weight, dense_weight) = (&mut self.weight, &self.dense_weight);
        let (sparse, dense) = (&self.sparse, &self.dense);
        let done = CHECKED;
        let sparse_call = || {
            let (x, dy) = sparse.next();
            match op {
                KernelOp::Spmm => weight.spmm(cpu, Op::NoTranspose, x, &mut y).expect(done),
                KernelOp::SpmmT => weight.spmm(cpu, Op::Transpose, dy, &mut dx).expect(done),
                KernelOp::Sddmm => weight.sddmm(cpu, dy, x, &mut dw).expect(done),
                KernelOp::Grow => drop(stored.grow(cpu, &stored.grow_request(seed), dy, x).expect(done)),
            }
        };
        let dense_call = || {
            let (x, dy) = dense.next();
            match op {
                KernelOp::Spmm => cpu.gemm(Op::NoTranspose, dense_weight, x, &mut y_dense),
                KernelOp::SpmmT => cpu.gemm(Op::Transpose, dense_weight, dy, &mut dx_dense),
                KernelOp::Sddmm | KernelOp::Grow => cpu.gemm_weight_grad(dy, x, &mut dw_dense, false),
            }
            .expect(done);
        };
        Ok(alternate(BUDGET, LEAST_CALLS, sparse_call, dense_call).map(|best| best.seconds()))
    }
}

fn format_time(ns: u64) -> String {
    let (value, unit) = match ns {
        0..10_000 => (ns as f64, "ns"),
        10_000..10_000_000 => (ns as f64 / 1e3, "µs"),
        _ => (ns as f64 / 1e6, "ms"),
    };
    format!("{} {unit}", Significant(value))
}
