//! `rigl bench kernel`: one operation at one shape over densities, against the dense operation.

pub(super) mod arguments;
mod conv;
mod linear;
mod reference_file;

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use sparse_kernels::cpu::{Cpu, Limits};
#[cfg(feature = "gpu")]
use sparse_kernels::gpu::Gpu;
use sparse_kernels::random::Key;
use sparse_kernels::reference::Exact;
use sparse_kernels::{BsrPattern, CsrPattern};

pub use self::arguments::BenchKernelArgs;
use self::arguments::{Dtype, KernelFormat, KernelOp, KernelShape, PatternSource};
use self::conv::Pass;
use self::linear::LinearOp;
pub use self::reference_file::ReferenceError;
use self::reference_file::{ReferenceFile, Wanted};
use super::machine::MachineArgs;
use crate::bench::{Best, patterns};
use crate::device::{ComputeDevice, Device, Place};
use crate::models::Format;
use crate::report::{Significant, Table, print_record, print_text};
use crate::settings::error::ConfigError;

/// The record of one density.
#[derive(Debug, Serialize)]
struct KernelRecord {
    event: &'static str,
    op: String,
    format: String,
    shape: String,
    /// Convolutions only, and so `groups`.
    #[serde(skip_serializing_if = "Option::is_none")]
    stride: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<usize>,
    pattern: String,
    density: f64,
    nnz: usize,
    dtype: String,
    device: String,
    isa: String,
    threads: usize,
    /// Best of many calls, as a training step pays them (an inference, for products with few lanes). Null if the check failed.
    time_ns: Option<u64>,
    plan_ns: u64,
    /// The faster of our dense code and the reference file's; null if the check failed, or if dense code is what is timed and
    /// there is no file.
    dense_time_ns: Option<u64>,
    /// Which of them that was.
    dense_source: Option<&'static str>,
    speedup: Option<f64>,
    efficiency: Option<f64>,
    /// Achieved rate over the machine's, measured in the same run: operations over one load per multiply-add from L1
    /// (growth, blocks of convolutions and dense code: over multiply-adds on registers); products with few lanes: bytes, 8 an
    /// entry, over those at which an array of that size is read. Null on a GPU.
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

/// Runs the command.
///
/// # Errors
/// If an option is impossible, the pattern or the reference is unavailable, the instruction set is missing, or a result is
/// wrong.
pub fn run(args: &BenchKernelArgs) -> anyhow::Result<()> {
    let subjects = subjects(args)?;
    let machine = Machine::open(&args.machine)?;
    let place = machine.place();
    let reference = args.dense_reference.as_deref().map(ReferenceFile::read).transpose()?;
    let headings = ["density", "nnz", "time", "dense", "speed-up", "efficiency", "of limit", "plan", "max error"];
    let mut table = Table::new(headings);
    let mut title = None;
    let mut failed = Vec::new();
    for subject in &subjects {
        let record = measure(&machine, args, &**subject, reference.as_ref())?;
        if record.failed {
            failed.push(record.density);
        }
        if args.machine.json {
            print_record(&record)?;
        } else {
            let time = |ns: Option<u64>| match ns {
                Some(ns) => format_time(ns),
                None if record.failed => "failed".to_owned(),
                None => "–".to_owned(),
            };
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
            title.get_or_insert_with(|| {
                let part = |name: &str, value: Option<usize>| match value {
                    Some(value) if value > 1 => format!(", {name} {value}"),
                    _ => String::new(),
                };
                let (stride, groups) = (part("stride", record.stride), part("groups", record.groups));
                let limit = subject.yardstick();
                (format!("{} {}{stride}{groups}", record.op, record.shape), limit)
            });
        }
    }
    if let Some((title, limit)) = title {
        print_text(format_args!("{title} on {}\n{table}", place.with_isa()))?;
        print_text(format_args!("efficiency: dense time · density / time; of limit: against {limit}"))?;
    }
    if !failed.is_empty() {
        bail!("{} gave wrong results at density {failed:?}", args.op);
    }
    Ok(())
}

/// One operation with one pattern.
trait Subject {
    /// The numbers of `--shape`.
    fn sizes(&self) -> Vec<usize>;

    /// Stride and groups of a convolution.
    fn stride_and_groups(&self) -> Option<[usize; 2]>;

    /// What the dense operation is called in a reference file.
    fn dense_name(&self) -> &'static str;

    /// What its rate is compared with.
    fn yardstick(&self) -> Yardstick;

    /// Checks one result, and if it is right, times both sides in turn.
    fn measure(&self, cpu: &Cpu, seed: u64) -> anyhow::Result<Measurement>;

    /// The same on a GPU.
    #[cfg(feature = "gpu")]
    fn measure_on_gpu(&self, gpu: &Gpu, seed: u64) -> anyhow::Result<Measurement>;
}

/// What a measurement runs on.
enum Machine {
    Cpu(Cpu),
    #[cfg(feature = "gpu")]
    Gpu(Box<Gpu>),
}

impl Machine {
    fn open(args: &MachineArgs) -> anyhow::Result<Self> {
        Ok(match args.device {
            Device::Cpu => Self::Cpu(args.cpu()?),
            #[cfg(feature = "gpu")]
            Device::Gpu(index) => Self::Gpu(Box::new(args.gpu(index)?)),
        })
    }

    fn place(&self) -> Place {
        match self {
            Self::Cpu(cpu) => cpu.place(),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => gpu.place(),
        }
    }

    /// A measurement, and the limits of the processor around it.
    fn measure(&self, subject: &dyn Subject, seed: u64) -> anyhow::Result<(Measurement, Option<(&Cpu, Limits)>)> {
        match self {
            Self::Cpu(cpu) => {
                let limits = cpu.limits();
                let measurement = subject.measure(cpu, seed)?;
                // Measured again: clocks vary, and a limit must not be lower than what runs under it.
                Ok((measurement, Some((cpu, limits.max(cpu.limits())))))
            }
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => Ok((subject.measure_on_gpu(gpu, seed)?, None)),
        }
    }
}

/// What [`Subject::measure`] found out.
struct Measurement {
    density: f64,
    nnz: usize,
    /// Floating-point operations of a call.
    operations: f64,
    /// The same of the dense side.
    dense_operations: f64,
    plan_time: Duration,
    /// Largest error of an entry, 1 being what rounding may cause.
    max_error: f64,
    /// None if the check failed.
    times: Option<Times>,
}

/// Best seconds of one call.
struct Times {
    time: f64,
    /// None where dense code is what is measured.
    dense: Option<DenseTime>,
}

impl Times {
    /// The best calls of both sides.
    fn new(best: [Best; 2], source: &'static str) -> Self {
        Self::of(best, 1, source)
    }

    /// As [`Times::new`], of so many operations a call.
    fn of([ours, dense]: [Best; 2], operations: usize, source: &'static str) -> Self {
        let one = |best: Best| best.seconds() / operations as f64;
        Self { time: one(ours), dense: Some(DenseTime { time: one(dense), source }) }
    }
}

/// Best seconds of the dense operation.
#[derive(Debug, Clone, Copy, PartialEq)]
struct DenseTime {
    time: f64,
    source: &'static str,
}

/// A rate of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Yardstick {
    /// Multiply-adds that each load an operand from L1.
    LoadFma,
    /// Multiply-adds on registers.
    Fma,
    /// Reading an array of the entries' bytes.
    Read,
}

impl fmt::Display for Yardstick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LoadFma => "one load per multiply-add from L1",
            Self::Fma => "multiply-adds on registers",
            Self::Read => "reading 8 bytes an entry once",
        })
    }
}

fn is_wrong(max_error: f64) -> bool {
    max_error.is_nan() || max_error > 1.0
}

fn subjects(args: &BenchKernelArgs) -> anyhow::Result<Vec<Box<dyn Subject>>> {
    let has_half = matches!(args.op, KernelOp::Spmm | KernelOp::SpmmT | KernelOp::Sddmm)
        && args.format == KernelFormat::Sparse(Format::Csr)
        && args.machine.device != Device::Cpu;
    if args.dtype != Dtype::F32 && !has_half {
        let rule = "f32, or with --device gpu, --format csr and --op spmm, spmm_t or sddmm also f16 or bf16";
        return Err(ConfigError::Value { option: "dtype", value: args.dtype.to_string(), rule }.into());
    }
    match args.op {
        KernelOp::Spmm => linear::subjects(args, LinearOp::Spmm),
        KernelOp::SpmmT => linear::subjects(args, LinearOp::SpmmT),
        KernelOp::Sddmm => linear::subjects(args, LinearOp::Sddmm),
        KernelOp::Grow => match args.shape {
            KernelShape::Linear(_) => linear::subjects(args, LinearOp::Grow),
            KernelShape::Conv(_) => conv::subjects(args, Pass::Grow),
        },
        KernelOp::ConvForward => conv::subjects(args, Pass::Forward),
        KernelOp::ConvInputGrad => conv::subjects(args, Pass::InputGrad),
        KernelOp::ConvWeightGrad => conv::subjects(args, Pass::WeightGrad),
    }
}

fn measure(
    machine: &Machine,
    args: &BenchKernelArgs,
    subject: &dyn Subject,
    reference: Option<&ReferenceFile>,
) -> anyhow::Result<KernelRecord> {
    let place = machine.place();
    let (sizes, stride_and_groups) = (subject.sizes(), subject.stride_and_groups());
    let wanted = Wanted { name: subject.dense_name(), sizes: &sizes, stride_and_groups, threads: place.threads };
    // Before the measurement, so that a file without it is told at once.
    let reference = reference.map(|file| file.fastest(&wanted)).transpose()?;
    let (measurement, limits) = machine.measure(subject, args.machine.seed)?;
    let Measurement { density, nnz, operations, dense_operations, plan_time, max_error, times } = measurement;
    let time = times.as_ref().map(|times| times.time);
    let dense =
        times.and_then(|times| [times.dense, reference].into_iter().flatten().min_by(|a, b| a.time.total_cmp(&b.time)));
    let speedup = time.zip(dense).map(|(time, dense)| dense.time / time);
    let [limit_fraction, memory_fraction] = match (time, limits) {
        (Some(time), Some((cpu, limits))) => limit_fractions(cpu, limits, subject.yardstick(), time, operations, nnz),
        _ => [None; 2],
    };
    let nanoseconds = |seconds: f64| (seconds * 1e9).round() as u64;
    Ok(KernelRecord {
        event: "kernel",
        op: args.op.to_string(),
        format: args.format.to_string(),
        shape: sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("x"),
        stride: stride_and_groups.map(|[stride, _]| stride),
        groups: stride_and_groups.map(|[_, groups]| groups),
        pattern: args.pattern.to_string(),
        density,
        nnz,
        dtype: args.dtype.to_string(),
        device: args.machine.name_of(&place),
        isa: place.isa,
        threads: place.threads,
        time_ns: time.map(nanoseconds),
        plan_ns: nanoseconds(plan_time.as_secs_f64()),
        dense_time_ns: dense.map(|dense| nanoseconds(dense.time)),
        dense_source: dense.map(|dense| dense.source),
        speedup,
        efficiency: speedup.map(|speedup| speedup * operations / dense_operations),
        limit_fraction,
        memory_fraction,
        max_error,
        failed: is_wrong(max_error),
    })
}

/// `limit_fraction` and `memory_fraction` of a call of `time` seconds.
fn limit_fractions(
    cpu: &Cpu,
    limits: Limits,
    yardstick: Yardstick,
    time: f64,
    operations: f64,
    nnz: usize,
) -> [Option<f64>; 2] {
    let rate = operations / time / cpu.threads() as f64;
    let bytes = 8 * nnz;
    let reading = |array: usize| Some(bytes as f64 / time / cpu.read_bytes_per_s(array));
    match yardstick {
        Yardstick::LoadFma => [Some(rate / limits.load_fma_flops_per_s), None],
        Yardstick::Fma => [Some(rate / limits.fma_flops_per_s), None],
        Yardstick::Read => [reading(bytes), reading(BEYOND_CACHES)],
    }
}

/// Which entries are stored, and how.
#[derive(Debug, Clone)]
enum Stored {
    Csr(Arc<CsrPattern>),
    Bsr(Arc<BsrPattern>),
}

impl Stored {
    /// The patterns that the options ask for, of this number of rows and columns unless they are read from a file.
    fn all(args: &BenchKernelArgs, format: Format, [nrows, ncols]: [usize; 2]) -> anyhow::Result<Vec<Self>> {
        let key = Key::new(args.machine.seed).with_name("pattern");
        if let PatternSource::File(path) = &args.pattern {
            let pattern = patterns::from_file(path)?;
            return Ok(vec![match format {
                Format::Csr => Self::Csr(Arc::new(pattern)),
                // Every block that holds an entry of the file's matrix.
                Format::Bsr(block_size) => Self::Bsr(Arc::new(BsrPattern::from_csr(&pattern, block_size)?)),
            }]);
        }
        let make = |&density: &f64| {
            let place = |nrows: usize, ncols: usize| match &args.pattern {
                PatternSource::PowerLaw => patterns::power_law(nrows, ncols, density, key),
                PatternSource::Banded => patterns::banded(nrows, ncols, density),
                PatternSource::Uniform | PatternSource::File(_) => patterns::uniform(nrows, ncols, density, key),
            };
            Ok(match format {
                Format::Csr => Self::Csr(Arc::new(place(nrows, ncols)?)),
                Format::Bsr(block_size) => Self::Bsr(Arc::new(patterns::in_blocks(nrows, ncols, block_size, place)?)),
            })
        };
        args.density.iter().map(make).collect()
    }

    /// Rows and columns of the matrix.
    fn size(&self) -> [usize; 2] {
        match self {
            Self::Csr(pattern) => [pattern.nrows(), pattern.ncols()],
            Self::Bsr(pattern) => [pattern.nrows(), pattern.ncols()],
        }
    }

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

/// Two sets of operands, taken in turn so that no call repeats the one before.
struct Operands<T> {
    x: [T; 2],
    dy: [T; 2],
    turn: Cell<usize>,
}

impl<T> Operands<T> {
    /// `x` and `dy`, and half of them, each as `pack_x` and `pack_dy` lay it out.
    fn new(
        x: &[f32],
        pack_x: impl Fn(&[f32]) -> anyhow::Result<T>,
        dy: &[f32],
        pack_dy: impl Fn(&[f32]) -> anyhow::Result<T>,
    ) -> anyhow::Result<Self> {
        let half = |data: &[f32]| data.iter().map(|v| 0.5 * v).collect::<Vec<_>>();
        Ok(Self { x: [pack_x(x)?, pack_x(&half(x))?], dy: [pack_dy(dy)?, pack_dy(&half(dy))?], turn: Cell::new(0) })
    }

    /// The same operands in another form.
    #[cfg(feature = "gpu")]
    fn map<U>(&self, make: impl Fn(&T) -> anyhow::Result<U>) -> anyhow::Result<Operands<U>> {
        let both = |[a, b]: &[T; 2]| anyhow::Ok([make(a)?, make(b)?]);
        Ok(Operands { x: both(&self.x)?, dy: both(&self.dy)?, turn: Cell::new(0) })
    }

    /// The next operands: `(x, dy)`.
    fn next(&self) -> (&T, &T) {
        let turn = self.turn.get();
        self.turn.set(1 - turn);
        (&self.x[turn], &self.dy[turn])
    }
}

/// Numbers in [-1, 1) that a seed and a name decide.
fn numbers(seed: u64, name: &str, len: usize) -> Vec<f32> {
    let key = Key::new(seed).with_name(name);
    (0..len as u64).map(|i| 2.0 * key.uniform(i) - 1.0).collect()
}

/// The largest error of a result.
fn worst(got: impl IntoIterator<Item = f32>, exact: impl IntoIterator<Item = Exact>) -> f64 {
    got.into_iter().zip(exact).map(|(got, exact)| exact.error(got)).fold(0.0, f64::max)
}

fn format_time(ns: u64) -> String {
    let (value, unit) = match ns {
        0..10_000 => (ns as f64, "ns"),
        10_000..10_000_000 => (ns as f64 / 1e3, "µs"),
        _ => (ns as f64 / 1e6, "ms"),
    };
    format!("{} {unit}", Significant(value))
}
