//! What `rigl bench kernel` prints of a density.

use std::fmt;

use serde::Serialize;
use sparse_kernels::cpu::{Cpu, Limits};

use super::arguments::BenchKernelArgs;
use super::case::{Measurement, Times};
use super::reference_file::DenseTime;
use super::subject::{Pass, Subject};
use crate::device::Place;
use crate::report::Significant;

/// The record of one density.
#[derive(Debug, Serialize)]
pub(super) struct KernelRecord {
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
    pub density: f64,
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
    pub failed: bool,
}

/// Bytes of an array that no cache holds.
const BEYOND_CACHES: usize = 512 << 20;

impl KernelRecord {
    /// The headings of [`KernelRecord::row`].
    pub const HEADINGS: [&str; 9] =
        ["density", "nnz", "time", "dense", "speed-up", "efficiency", "of limit", "plan", "max error"];

    /// The record of a measurement, beside a reference file's time if there is one.
    pub fn new(
        args: &BenchKernelArgs,
        place: &Place,
        subject: &Subject,
        measurement: Measurement,
        [limit_fraction, memory_fraction]: [Option<f64>; 2],
        reference: Option<DenseTime>,
    ) -> Self {
        let Measurement { operations, dense_operations, plan_time, max_error, times } = measurement;
        let stride_and_groups = subject.layer.stride_and_groups();
        let (time, failed) = (times.as_ref().map(|times| times.time), times.is_none());
        let dense = times
            .and_then(|times| [times.dense, reference].into_iter().flatten().min_by(|a, b| a.time.total_cmp(&b.time)));
        let speedup = time.zip(dense).map(|(time, dense)| dense.time / time);
        let nanoseconds = |seconds: f64| (seconds * 1e9).round() as u64;
        Self {
            event: "kernel",
            op: args.op.to_string(),
            format: args.format.to_string(),
            shape: subject.layer.sizes().iter().map(usize::to_string).collect::<Vec<_>>().join("x"),
            stride: stride_and_groups.map(|[stride, _]| stride),
            groups: stride_and_groups.map(|[_, groups]| groups),
            pattern: args.pattern.to_string(),
            density: subject.stored.blocks.density(),
            nnz: subject.stored.blocks.nnz(),
            dtype: args.dtype.to_string(),
            device: args.machine.name_of(place),
            isa: place.isa.clone(),
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
            failed,
        }
    }

    /// What was measured, for people.
    pub fn title(&self) -> String {
        let part = |name: &str, value: Option<usize>| {
            value.filter(|&value| value > 1).map_or(String::new(), |value| format!(", {name} {value}"))
        };
        format!("{} {}{}{}", self.op, self.shape, part("stride", self.stride), part("groups", self.groups))
    }

    /// The numbers, for people.
    pub fn row(&self) -> [String; 9] {
        let time = |ns: Option<u64>| match ns {
            Some(ns) => format_time(ns),
            None if self.failed => "failed".to_owned(),
            None => "–".to_owned(),
        };
        let ratio = |r: Option<f64>| r.map_or("–".to_owned(), |r| format!("{r:.2}"));
        [
            Significant(self.density).to_string(),
            self.nnz.to_string(),
            time(self.time_ns),
            time(self.dense_time_ns),
            ratio(self.speedup),
            ratio(self.efficiency),
            ratio(self.limit_fraction),
            format_time(self.plan_ns),
            format!("{:.2}", self.max_error),
        ]
    }
}

/// A rate of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Yardstick {
    /// Multiply-adds that each load an operand from L1.
    LoadFma,
    /// Multiply-adds on registers.
    Fma,
    /// Reading an array of the entries' bytes.
    Read,
}

impl Yardstick {
    /// What the rate of a subject is compared with.
    pub fn of(subject: &Subject) -> Self {
        if subject.few_lanes().is_some() {
            Self::Read
        } else if subject.stored.is_csr() && subject.pass != Pass::Grow {
            Self::LoadFma
        } else {
            Self::Fma
        }
    }
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

/// `limit_fraction` and `memory_fraction`.
pub(super) fn limit_fractions(cpu: &Cpu, limits: Limits, subject: &Subject, of: &Measurement) -> [Option<f64>; 2] {
    let Some(Times { time, .. }) = of.times else { return [None; 2] };
    let rate = of.operations / time / cpu.threads() as f64;
    let bytes = 8 * subject.stored.blocks.nnz();
    let reading = |array: usize| Some(bytes as f64 / time / cpu.read_bytes_per_s(array));
    match Yardstick::of(subject) {
        Yardstick::LoadFma => [Some(rate / limits.load_fma_flops_per_s), None],
        Yardstick::Fma => [Some(rate / limits.fma_flops_per_s), None],
        Yardstick::Read => [reading(bytes), reading(BEYOND_CACHES)],
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
