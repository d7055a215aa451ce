//! The connection to one adapter.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::adapter::{self, AdapterReport, BASELINE};
use super::kernel::{Kernel, Read};
use crate::BackendError;

/// Which GPU, and how it is used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GpuOptions {
    /// Its number in [`adapters`](super::adapters); without one the best: a discrete one before an integrated one, and one that is played by
    /// the processor last.
    pub index: Option<usize>,
    /// Whether all kernels keep to what every device can do. Otherwise those that have a variant for more, with operations
    /// between the invocations of a subgroup, take that where the device can. Results are the same to the bit.
    pub portable: bool,
    /// Bytes that a kernel sees of a buffer at most, if fewer than the device allows: larger ones are computed in parts. So a
    /// test can have parts without gigabytes.
    pub max_binding_bytes: Option<u64>,
}

/// A kernel compiled for the device.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub id: u64,
    pub raw: wgpu::ComputePipeline,
    pub layout: wgpu::BindGroupLayout,
}

/// Kernel, entry and constants.
type PipelineKey = (&'static str, &'static str, Vec<(&'static str, u64)>);

/// What went wrong with the device as a whole, told by its driver from any thread.
#[derive(Debug, Default)]
struct Health {
    error: Option<BackendError>,
}

/// The connection, shared by all buffers.
pub(super) struct Device {
    pub raw: wgpu::Device,
    pub queue: wgpu::Queue,
    pub report: AdapterReport,
    pub limits: wgpu::Limits,
    /// Bytes that one operand may have: the device's limit, or less in tests.
    pub max_binding_bytes: u64,
    /// Whether kernels may use operations of subgroups where the device has them.
    pub may_use_subgroups: bool,
    /// Of every kernel's parameters.
    pub parameter_layout: wgpu::BindGroupLayout,
    modules: Mutex<HashMap<&'static str, wgpu::ShaderModule>>,
    pipelines: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
    health: Arc<Mutex<Health>>,
    next_id: AtomicU64,
    freed: Mutex<HashSet<u64>>,
    allocated: AtomicU64,
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Device").field("report", &self.report).finish_non_exhaustive()
    }
}

/// A lock is only poisoned by a panic of this process's own, whose message is out already.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Device {
    /// Opens an adapter.
    pub fn open(options: GpuOptions) -> Result<Arc<Self>, BackendError> {
        let (report, adapter) = adapter::choose(options.index)?;
        let wanted = wgpu::Features::TIMESTAMP_QUERY | wgpu::Features::SUBGROUP | wgpu::Features::SHADER_F16;
        let available = adapter.limits();
        let limits = wgpu::Limits {
            max_storage_buffer_binding_size: available.max_storage_buffer_binding_size,
            max_buffer_size: available.max_buffer_size,
            ..wgpu::Limits::default()
        };
        debug_assert!(limits.max_storage_buffers_per_shader_stage >= BASELINE.storage_buffers);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("rigl"),
            required_features: adapter.features() & wanted,
            required_limits: limits.clone(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (raw, queue) = pollster::block_on(adapter.request_device(&descriptor))
            .map_err(|e| BackendError::Unsupported { device: report.to_string(), what: e.to_string() })?;
        let health = Arc::new(Mutex::new(Health::default()));
        let lost = health.clone();
        raw.set_device_lost_callback(move |reason, message| {
            let reason = if message.is_empty() { format!("{reason:?}") } else { message };
            lock(&lost).error.get_or_insert(BackendError::DeviceLost { reason });
        });
        let failed = health.clone();
        raw.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            lock(&failed).error.get_or_insert(BackendError::DeviceLost { reason: error.to_string() });
        }));
        let entry = layout_entry(0, wgpu::BufferBindingType::Uniform, true);
        let parameter_layout = raw.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some("parameters"),
            entries: &[entry],
        });
        let most = limits.max_storage_buffer_binding_size;
        Ok(Arc::new(Self {
            max_binding_bytes: options.max_binding_bytes.map_or(most, |bytes| bytes.min(most)),
            may_use_subgroups: !options.portable,
            raw,
            queue,
            report,
            limits,
            parameter_layout,
            modules: Mutex::default(),
            pipelines: Mutex::default(),
            health,
            next_id: AtomicU64::new(1),
            freed: Mutex::default(),
            allocated: AtomicU64::new(0),
        }))
    }

    /// `Err` if the device was lost or refused something.
    pub fn check(&self) -> Result<(), BackendError> {
        lock(&self.health).error.clone().map_or(Ok(()), Err)
    }

    pub fn allocated_bytes(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// A buffer of zeros and its number.
    pub fn allocate(&self, bytes: u64, usage: wgpu::BufferUsages) -> Result<(wgpu::Buffer, u64), BackendError> {
        self.check()?;
        let no_room = |available| BackendError::DeviceMemory {
            device: self.report.to_string(),
            bytes,
            held: self.allocated_bytes(),
            available,
        };
        if bytes > self.limits.max_buffer_size {
            return Err(no_room(Some(self.limits.max_buffer_size)));
        }
        let scope = self.raw.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let descriptor = wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false };
        let buffer = self.raw.create_buffer(&descriptor);
        if pollster::block_on(scope.pop()).is_some() {
            return Err(no_room(None));
        }
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
        Ok((buffer, self.next_id.fetch_add(1, Ordering::Relaxed)))
    }

    pub fn free(&self, id: u64, bytes: u64) {
        self.allocated.fetch_sub(bytes, Ordering::Relaxed);
        lock(&self.freed).insert(id);
    }

    /// Buffers freed since the last call.
    pub fn take_freed(&self) -> HashSet<u64> {
        std::mem::take(&mut lock(&self.freed))
    }

    /// The kernel, compiled at its first use.
    pub fn pipeline(
        &self,
        kernel: &'static Kernel,
        constants: &[(&'static str, f64)],
    ) -> Result<Arc<Pipeline>, BackendError> {
        let bits = constants.iter().map(|&(name, value)| (name, value.to_bits())).collect();
        let key = (kernel.name, kernel.entry, bits);
        if let Some(pipeline) = lock(&self.pipelines).get(&key) {
            return Ok(pipeline.clone());
        }
        let module = {
            let mut modules = lock(&self.modules);
            let make = || {
                let source = wgpu::ShaderSource::Wgsl(kernel.source.into());
                self.raw.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some(kernel.name), source })
            };
            modules.entry(kernel.source).or_insert_with(make).clone()
        };
        let entries = kernel.operands.iter().enumerate().map(|(i, access)| {
            let ty = wgpu::BufferBindingType::Storage { read_only: *access == Read };
            layout_entry(i as u32, ty, false)
        });
        let entries = entries.collect::<Vec<_>>();
        let layout = self
            .raw
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(kernel.name), entries: &entries });
        let pipeline_layout = self.raw.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&layout), Some(&self.parameter_layout)],
            immediate_size: 0,
        });
        let raw = self.raw.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(kernel.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants,
                // Every kernel writes its shared memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        self.check()?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let pipeline = Arc::new(Pipeline { id, raw, layout });
        lock(&self.pipelines).insert(key, pipeline.clone());
        Ok(pipeline)
    }

    /// Waits for a submission, or for all.
    pub fn wait(&self, submission_index: Option<wgpu::SubmissionIndex>) -> Result<(), BackendError> {
        let waited = self.raw.poll(wgpu::PollType::Wait { submission_index, timeout: None });
        self.check()?;
        waited.map(drop).map_err(|e| BackendError::DeviceLost { reason: e.to_string() })
    }

    /// Reads the first bytes of a buffer that can be mapped, once all that was submitted is done.
    pub fn read<R>(&self, buffer: &wgpu::Buffer, bytes: u64, read: impl FnOnce(&[u8]) -> R) -> Result<R, BackendError> {
        let (sender, receiver) = std::sync::mpsc::channel();
        buffer.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
            // The receiver lives until the answer is there.
            let _ = sender.send(result);
        });
        self.wait(None)?;
        let lost = |reason: String| BackendError::DeviceLost { reason };
        match receiver.try_recv() {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Err(lost(e.to_string())),
            Err(e) => return Err(lost(e.to_string())),
        }
        let result = {
            let view = buffer.get_mapped_range(0..bytes).map_err(|e| lost(e.to_string()))?;
            read(&view)
        };
        buffer.unmap();
        Ok(result)
    }
}

fn layout_entry(binding: u32, ty: wgpu::BufferBindingType, has_dynamic_offset: bool) -> wgpu::BindGroupLayoutEntry {
    let ty = wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None };
    wgpu::BindGroupLayoutEntry { binding, visibility: wgpu::ShaderStages::COMPUTE, ty, count: None }
}
