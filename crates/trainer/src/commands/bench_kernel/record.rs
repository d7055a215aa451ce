//! What `rigl bench kernel` prints of a density.

use std::fmt;

use serde::Serialize;
use sparse_kernels::cpu::{Cpu, Limits};

use super::arguments::BenchKernelArgs;
use super::case::{Measurement, Times};
use super::reference_file::DenseTime;
use super::subject::{Pass, Subject};
use crate::bench::Provenance;
use crate::device::Place;
use crate::report::{Significant, nanoseconds_text};

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
    /// Time at the limit by bytes over `time_ns`: each operand is read or written once, at the rate at which an array as large as
    /// all of them is read. Where it is near 1, memory is the limit. Null on a GPU.
    bytes_fraction: Option<f64>,
    /// Largest error of an entry, as a fraction of what rounding in f32 may amount to; above 1 the check failed.
    max_error: f64,
    pub failed: bool,
    #[serde(flatten)]
    provenance: Provenance,
}

/// Rates of a measurement over those of the processor: the fields of [`KernelRecord`] of these names.
#[derive(Debug, Default)]
pub(super) struct Fractions {
    limit: Option<f64>,
    memory: Option<f64>,
    bytes: Option<f64>,
}

/// Bytes of an array that no cache holds.
const BEYOND_CACHES: usize = 512 << 20;

impl KernelRecord {
    /// The headings of [`KernelRecord::row`].
    pub const HEADINGS: [&str; 10] =
        ["density", "nnz", "time", "dense", "speed-up", "effic.", "limit", "bytes", "plan", "error"];

    /// The record of a measurement, beside a reference file's time if there is one.
    pub fn new(
        args: &BenchKernelArgs,
        place: &Place,
        subject: &Subject,
        measurement: Measurement,
        fractions: Fractions,
        reference: Option<DenseTime>,
    ) -> Self {
        let Measurement { operations, dense_operations, plan_time, max_error, times, .. } = measurement;
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
            limit_fraction: fractions.limit,
            memory_fraction: fractions.memory,
            bytes_fraction: fractions.bytes,
            max_error,
            failed,
            provenance: Provenance::now(),
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
    pub fn row(&self) -> [String; 10] {
        let time = |ns: Option<u64>| match ns {
            Some(ns) => nanoseconds_text(ns),
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
            ratio(self.bytes_fraction),
            nanoseconds_text(self.plan_ns),
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

/// What fractions of the processor's rates a measurement reaches.
pub(super) fn limit_fractions(cpu: &Cpu, limits: Limits, subject: &Subject, of: &Measurement) -> Fractions {
    let Some(Times { time, .. }) = of.times else { return Fractions::default() };
    let rate = of.operations / time / cpu.threads() as f64;
    let entries = 8 * subject.stored.blocks.nnz();
    let reading = |bytes: usize, array: usize| Some(bytes as f64 / time / cpu.read_bytes_per_s(array));
    let (limit, memory) = match Yardstick::of(subject) {
        Yardstick::LoadFma => (Some(rate / limits.load_fma_flops_per_s), None),
        Yardstick::Fma => (Some(rate / limits.fma_flops_per_s), None),
        Yardstick::Read => (reading(entries, entries), reading(entries, BEYOND_CACHES)),
    };
    Fractions { limit, memory, bytes: reading(of.bytes, of.bytes) }
}
