//! `rigl devices`: what may be computed on.

use clap::Args;
use serde::Serialize;
use sparse_kernels::cpu::{Cpu, IsaName};
#[cfg(feature = "gpu")]
use sparse_kernels::gpu;

use crate::device::available_threads;
use crate::report::{bytes_text, print_record, print_text};

/// `rigl devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

/// The record of a device.
#[derive(Debug, Serialize)]
struct DeviceRecord {
    event: &'static str,
    /// What `--device` calls it.
    device: String,
    name: String,
    /// `cpu`, `discrete`, `integrated`, `virtual`, `software` or `other`.
    kind: &'static str,
    /// GPUs only, and so all below but `isas` and `threads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpu: Option<GpuRecord>,
    /// Instruction sets that there are kernels for; processors only, and so `threads`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    isas: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threads: Option<usize>,
}

/// What a GPU's driver grants.
#[derive(Debug, Serialize)]
struct GpuRecord {
    driver: String,
    interface: String,
    subgroup_sizes: [u32; 2],
    max_binding_bytes: u64,
    max_buffer_bytes: u64,
    workgroup_bytes: u32,
    workgroup_invocations: u32,
    storage_buffers: u32,
    has_subgroups: bool,
    has_f16: bool,
    has_timestamps: bool,
}

/// Runs the command.
///
/// # Errors
/// If the processor cannot be asked, or the answer not be written.
pub fn run(args: &DevicesArgs) -> crate::Result<()> {
    let records = devices()?;
    if args.json {
        return Ok(records.iter().try_for_each(print_record)?);
    }
    let width = records.iter().map(|record| record.device.len()).max().unwrap_or(0);
    for record in &records {
        let DeviceRecord { device, name, .. } = record;
        print_text(format_args!("{device:<width$}  {name}"))?;
        for line in details(record) {
            print_text(format_args!("{:<width$}  {line}", ""))?;
        }
    }
    if records.len() == 1 {
        print_text(format_args!("{}", why_no_gpu()))?;
    }
    Ok(())
}

/// What a device has, for people: short lines.
fn details(record: &DeviceRecord) -> Vec<String> {
    let Some(gpu) = &record.gpu else {
        let threads = record.threads.map_or(record.kind.to_owned(), |threads| format!("{threads} threads"));
        return vec![format!("{threads}; {}", record.isas.join(", "))];
    };
    let subgroups = match gpu.subgroup_sizes {
        [least, most] if least == most => least.to_string(),
        [least, most] => format!("{least} to {most}"),
    };
    let [buffer, binding] = [gpu.max_buffer_bytes, gpu.max_binding_bytes].map(bytes_text);
    vec![
        format!("{}; {}, {}", record.kind, gpu.interface, gpu.driver),
        format!("buffers of up to {buffer}, {binding} of it seen by a kernel"),
        format!("subgroups of {subgroups}; {} f16", if gpu.has_f16 { "has" } else { "no" }),
    ]
}

fn devices() -> crate::Result<Vec<DeviceRecord>> {
    let cpu = Cpu::new(1, None)?;
    let isas = IsaName::ALL.into_iter().filter(|isa| isa.is_available()).map(IsaName::name).collect();
    let name = crate::run_dir::cpu_name().unwrap_or_else(|| cpu.isa().name().to_owned());
    let (event, threads) = ("device", Some(available_threads()));
    let processor = DeviceRecord { event, device: "cpu".into(), name, kind: "cpu", gpu: None, isas, threads };
    Ok(std::iter::once(processor).chain(gpus()).collect())
}

#[cfg(feature = "gpu")]
fn gpus() -> Vec<DeviceRecord> {
    let record = |adapter: gpu::AdapterReport| DeviceRecord {
        event: "device",
        device: format!("gpu:{}", adapter.index),
        name: adapter.name,
        kind: adapter.kind,
        gpu: Some(GpuRecord {
            driver: adapter.driver,
            interface: adapter.interface,
            subgroup_sizes: adapter.subgroup_sizes,
            max_binding_bytes: adapter.max_binding_bytes,
            max_buffer_bytes: adapter.max_buffer_bytes,
            workgroup_bytes: adapter.workgroup_bytes,
            workgroup_invocations: adapter.workgroup_invocations,
            storage_buffers: adapter.storage_buffers,
            has_subgroups: adapter.has_subgroups,
            has_f16: adapter.has_f16,
            has_timestamps: adapter.has_timestamps,
        }),
        isas: vec![],
        threads: None,
    };
    gpu::adapters().into_iter().map(record).collect()
}

#[cfg(not(feature = "gpu"))]
fn gpus() -> Vec<DeviceRecord> {
    vec![]
}

fn why_no_gpu() -> &'static str {
    if cfg!(feature = "gpu") {
        "no GPU: no driver for Vulkan, Metal or DX12 answers"
    } else {
        "this build has no GPUs; `cargo build --release --features gpu` makes one that has"
    }
}
