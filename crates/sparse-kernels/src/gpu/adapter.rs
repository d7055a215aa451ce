//! Which GPUs there are, and what they can do.

use std::fmt;

use crate::BackendError;

/// One GPU, or a processor that plays one, as its driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterReport {
    /// Number in the list: what `gpu:N` means.
    pub index: usize,
    /// The adapter's name.
    pub name: String,
    /// Name and version of the driver.
    pub driver: String,
    /// Vulkan, Metal or DX12.
    pub interface: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: &'static str,
    /// Smallest and largest number of invocations of a subgroup; 0 where the driver does not say.
    pub subgroup_sizes: [u32; 2],
    /// Bytes that one binding may have.
    pub max_binding_bytes: u64,
    /// Bytes that one buffer may have.
    pub max_buffer_bytes: u64,
    /// Bytes of memory that the invocations of a workgroup share.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup at most.
    pub workgroup_invocations: u32,
    /// Storage buffers of a kernel at most.
    pub storage_buffers: u32,
    /// Whether there are operations between the invocations of a subgroup.
    pub has_subgroups: bool,
    /// Whether there is arithmetic in f16.
    pub has_f16: bool,
    /// Whether the device can tell when a kernel starts and ends.
    pub has_timestamps: bool,
}

impl fmt::Display for AdapterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.interface, self.driver)
    }
}

/// What the kernels need of every adapter: WebGPU's own defaults, which each implementation grants.
pub(super) const BASELINE: Needs = Needs { storage_buffers: 8, invocations: 256, workgroup_bytes: 16 << 10 };

/// Least limits.
pub(super) struct Needs {
    pub storage_buffers: u32,
    pub invocations: u32,
    pub workgroup_bytes: u32,
}

impl AdapterReport {
    fn new(index: usize, adapter: &wgpu::Adapter) -> Self {
        let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
        let driver = format!("{} {}", info.driver, info.driver_info);
        Self {
            index,
            name: info.name,
            driver: if driver.trim().is_empty() { "unnamed driver".into() } else { driver.trim().into() },
            interface: format!("{:?}", info.backend),
            kind: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            },
            subgroup_sizes: [info.subgroup_min_size, info.subgroup_max_size],
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            has_subgroups: features.contains(wgpu::Features::SUBGROUP),
            has_f16: features.contains(wgpu::Features::SHADER_F16),
            has_timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
        }
    }

    /// What of the baseline is missing, if anything.
    fn missing(&self) -> Option<String> {
        let needs = [
            ("storage buffers of a kernel", self.storage_buffers, BASELINE.storage_buffers),
            ("invocations of a workgroup", self.workgroup_invocations, BASELINE.invocations),
            ("bytes of workgroup memory", self.workgroup_bytes, BASELINE.workgroup_bytes),
        ];
        let lacks =
            |(what, got, least): (&str, u32, u32)| (got < least).then(|| format!("{got} {what} ({least} needed)"));
        needs.into_iter().find_map(lacks)
    }

    /// Order in which an unnumbered `gpu` looks: real ones first.
    fn rank(&self) -> usize {
        ["discrete", "integrated", "virtual", "other", "software"].iter().position(|&k| k == self.kind).unwrap_or(4)
    }
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle_from_env();
    descriptor.backends &= wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    wgpu::Instance::new(descriptor)
}

fn list() -> Vec<(AdapterReport, wgpu::Adapter)> {
    let adapters = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::all()));
    adapters.into_iter().enumerate().map(|(index, adapter)| (AdapterReport::new(index, &adapter), adapter)).collect()
}

/// All adapters of this machine. None is no error.
pub fn adapters() -> Vec<AdapterReport> {
    list().into_iter().map(|(report, _)| report).collect()
}

/// The adapter of that number, or without one the best.
///
/// # Errors
/// If there is none, or it lacks what the kernels need.
pub(super) fn choose(index: Option<usize>) -> Result<(AdapterReport, wgpu::Adapter), BackendError> {
    let mut found = list();
    if found.is_empty() {
        let reason = "no driver for Vulkan, Metal or DX12 answers (on Debian, `apt-get install libvulkan1 \
                      mesa-vulkan-drivers` brings one that computes on the processor)";
        return Err(BackendError::NoAdapter { reason: reason.into() });
    }
    let chosen = match index {
        Some(index) if index < found.len() => index,
        Some(index) => {
            let names: Vec<String> = found.iter().map(|(report, _)| format!("gpu:{} {report}", report.index)).collect();
            let reason = format!("there is no gpu:{index}; there are {}", names.join(", "));
            return Err(BackendError::NoAdapter { reason });
        }
        None => (0..found.len()).min_by_key(|&i| found[i].0.rank()).unwrap_or(0),
    };
    let (report, adapter) = found.swap_remove(chosen);
    match report.missing() {
        Some(missing) => Err(BackendError::Unsupported { device: report.to_string(), what: missing }),
        None => Ok((report, adapter)),
    }
}
