//! Times of kernels, from the device's own clock.

use std::collections::BTreeMap;

use super::device::Device;
use super::kernel::Work;
use crate::BackendError;
use crate::profile::KernelTime;

/// Launches timed between two readings.
const CAPACITY: u32 = 2048;

/// Two time stamps a launch.
#[derive(Debug)]
pub(super) struct Timer {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    readable: wgpu::Buffer,
    nanoseconds: f64,
    pending: Vec<(&'static str, Work)>,
    totals: BTreeMap<&'static str, KernelTime>,
}

impl Timer {
    pub fn new(device: &Device) -> Self {
        let count = 2 * CAPACITY;
        let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count };
        let buffer = |usage| {
            let size = u64::from(count) * 8;
            device.raw.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
        };
        Self {
            set: device.raw.create_query_set(&descriptor),
            resolved: buffer(wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC),
            readable: buffer(wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST),
            nanoseconds: f64::from(device.queue.get_timestamp_period()),
            pending: Vec::new(),
            totals: BTreeMap::new(),
        }
    }

    /// Where the next launch writes its times.
    pub fn next(&mut self, name: &'static str, work: Work) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let at = 2 * self.pending.len() as u32;
        if at >= 2 * CAPACITY {
            return None;
        }
        self.pending.push((name, work));
        Some(wgpu::ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(at),
            end_of_pass_write_index: Some(at + 1),
        })
    }

    /// Brings the times to where they can be read.
    pub fn resolve(&mut self, encoder: &mut wgpu::CommandEncoder) {
        let count = 2 * self.pending.len() as u32;
        if count > 0 {
            encoder.resolve_query_set(&self.set, 0..count, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.readable, 0, u64::from(count) * 8);
        }
    }

    /// Waits for the times and adds them up.
    pub fn collect(&mut self, device: &Device) -> Result<(), BackendError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = self.pending.len() as u64 * 16;
        let stamps: Vec<u64> = device.read(&self.readable, bytes, bytemuck::pod_collect_to_vec)?;
        for ((name, work), times) in self.pending.drain(..).zip(stamps.chunks_exact(2)) {
            let total = self.totals.entry(name).or_insert(KernelTime { name, ..KernelTime::default() });
            total.launches += 1;
            total.nanoseconds += times[1].saturating_sub(times[0]) as f64 * self.nanoseconds;
            total.bytes += work.bytes;
            total.operations += work.operations;
        }
        Ok(())
    }

    /// What was measured since the last call.
    pub fn take(&mut self) -> Vec<KernelTime> {
        std::mem::take(&mut self.totals).into_values().collect()
    }
}
