//! The GPU backend: WGSL kernels through wgpu, on Vulkan, Metal or DX12.
//!
//! Operations are queued. They are handed to the device together, by [`Storage::submit`] (once a training step), by a
//! download, or when something is to be overwritten that queued work still uses; nothing is read back but by
//! [`Storage::download`] and what growth finds.
//!
//! ```no_run
//! use sparse_kernels::gpu::{Gpu, adapters};
//! for adapter in adapters() {
//!     println!("gpu:{} {adapter}", adapter.index);
//! }
//! let gpu = Gpu::new(None)?;
//! # Ok::<(), sparse_kernels::BackendError>(())
//! ```
//!
//! # Determinism
//!
//! No kernel adds floating-point numbers atomically, and no sum depends on the size of a subgroup, so a device gives the same
//! bits each time. Other devices, and the CPU, round differently: drivers may fuse multiply-adds.

mod adapter;
mod bsr;
mod buffer;
mod conv;
mod device;
mod elementwise;
mod gemm;
mod grow;
mod half;
#[cfg(test)]
mod half_tests;
mod kernel;
mod launch;
#[cfg(feature = "nn")]
mod nn;
mod plan;
#[cfg(all(test, feature = "nn"))]
mod precision_tests;
mod profile;
mod recorder;
mod scratch;
mod sddmm;
mod shaders;
mod sparse_linear;
mod split;
mod spmm;
mod subgroups;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod windows;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

pub use adapter::{AdapterReport, adapters};
pub use bsr::GpuBlockPlan;
pub use buffer::DeviceBuffer;
pub(crate) use buffer::WINDOW_UNIT;
pub use conv::GpuConvPlan;
pub use device::GpuOptions;
pub use half::{HalfStrips, HalfType};
pub use plan::GpuPlan;

use crate::backend::check::{check_range, expect_f32};
use crate::error::expect_equal;
use crate::profile::KernelTime;
use crate::{BackendError, Precision, Storage};
use ::half::bf16;
use device::{Device, lock};
use recorder::{Command, Recorder};

/// Numbers of floating point on the device.
pub type Buffer = DeviceBuffer<f32>;
/// Whole numbers on the device.
pub type Indices = DeviceBuffer<u32>;

/// A handle on one GPU.
///
/// All operations are queued in the order of the calls, from whatever thread.
#[derive(Debug)]
pub struct Gpu {
    device: Arc<Device>,
    /// What has been asked of the device and not yet been handed to it.
    recorder: Mutex<Recorder>,
    /// Where downloads land.
    readback: Mutex<Option<(wgpu::Buffer, u64)>>,
    /// Partial sums of the operation that is being queued: one buffer for all, since operations follow each other, as large
    /// as was ever asked for.
    partials: Mutex<Option<Buffer>>,
    /// Memory that operations borrow for a call, by length.
    lent: Mutex<HashMap<usize, Vec<Buffer>>>,
    /// Memory of growth.
    growth: Mutex<scratch::Scratch>,
    /// Cosines and sines of attention's positions.
    #[cfg(feature = "nn")]
    angles: Mutex<scratch::Angles>,
    /// Whether neighbours can exchange numbers, once that is known.
    subgroup_exchange: OnceLock<bool>,
}

impl Gpu {
    /// The GPU of that number in [`adapters`], or without one the best.
    ///
    /// # Errors
    /// If there is none, it lacks what the kernels need, or its driver refuses.
    pub fn new(index: Option<usize>) -> Result<Self, BackendError> {
        Self::with_options(GpuOptions { index, ..GpuOptions::default() })
    }

    /// As [`Gpu::new`], with more to say.
    ///
    /// # Errors
    /// As there.
    pub fn with_options(options: GpuOptions) -> Result<Self, BackendError> {
        let device = Device::open(options)?;
        Ok(Self {
            recorder: Mutex::new(Recorder::new(&device)),
            device,
            readback: Mutex::default(),
            partials: Mutex::default(),
            lent: Mutex::default(),
            growth: Mutex::default(),
            #[cfg(feature = "nn")]
            angles: Mutex::default(),
            subgroup_exchange: OnceLock::new(),
        })
    }

    /// What the device is.
    pub fn report(&self) -> &AdapterReport {
        &self.device.report
    }

    /// The error of what this device cannot do.
    fn unsupported(&self, what: impl Into<String>) -> BackendError {
        BackendError::Unsupported { device: self.report().to_string(), what: what.into() }
    }

    /// Gives the device back at once, with all memory on it: what is queued is not computed, and every later call fails with
    /// [`BackendError::DeviceLost`], as when a driver takes the device away.
    pub fn close(&self) {
        self.device.raw.destroy();
    }

    /// Bytes of all buffers that there are.
    pub fn allocated_bytes(&self) -> u64 {
        self.device.allocated_bytes()
    }

    /// Times that work was handed over, and launches in all.
    pub fn submissions_and_launches(&self) -> [u64; 2] {
        let recorder = self.recorder();
        [recorder.submissions, recorder.launches]
    }

    /// Measures each kernel from here on, see [`Gpu::take_profile`]. Kernels then run one after the other, and each
    /// submission is waited for.
    ///
    /// # Errors
    /// If the device has no clock.
    pub fn start_profile(&self) -> Result<(), BackendError> {
        if !self.device.report.has_timestamps {
            return Err(self.unsupported("no clock for kernels (TIMESTAMP_QUERY)"));
        }
        let mut recorder = self.recorder();
        recorder.flush(&self.device)?;
        recorder.timer = Some(profile::Timer::new(&self.device));
        Ok(())
    }

    /// Time, bytes and launches of each kernel since the last call, or [`Gpu::start_profile`].
    ///
    /// # Errors
    /// If the device fails.
    pub fn take_profile(&self) -> Result<Vec<KernelTime>, BackendError> {
        let mut recorder = self.recorder();
        recorder.flush(&self.device)?;
        Ok(recorder.timer.as_mut().map(profile::Timer::take).unwrap_or_default())
    }

    /// Whole numbers on the device.
    pub(super) fn indices(&self, host: &[u32]) -> Result<Indices, BackendError> {
        let mut indices = self.index_zeros(host.len())?;
        self.upload_indices(host, &mut indices)?;
        Ok(indices)
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        lock(&self.recorder)
    }

    fn write<T: bytemuck::Pod>(&self, host: &[T], to: &DeviceBuffer<T>) -> Result<(), BackendError> {
        self.device.check()?;
        if host.is_empty() {
            return Ok(());
        }
        let mut recorder = self.recorder();
        // What is written comes before all that is submitted later, so what waits must go first if it reads or writes this.
        if recorder.uses(to.id()) {
            recorder.flush(&self.device)?;
        }
        drop(recorder);
        self.device.queue.write_buffer(to.raw(), 0, bytemuck::cast_slice(host));
        self.device.check()
    }

    /// Reads the starts of buffers, all with one wait.
    fn read_all<T: bytemuck::Pod>(
        &self,
        from: &[&DeviceBuffer<T>],
        hosts: &mut [&mut [T]],
    ) -> Result<(), BackendError> {
        // Copies begin at multiples of four bytes, which all elements have.
        let bytes: u64 = hosts.iter().map(|host| 4 * host.len() as u64).sum();
        if bytes == 0 {
            return self.device.check();
        }
        let mut readback = lock(&self.readback);
        if readback.as_ref().is_none_or(|(_, size)| *size < bytes) {
            let size = bytes.next_power_of_two();
            let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
            let (buffer, id) = self.device.allocate(size, usage)?;
            // It belongs to no tensor, and is not counted.
            self.device.free(id, size);
            *readback = Some((buffer, size));
        }
        let Some((buffer, _)) = readback.as_ref() else { return Ok(()) };
        let mut at = 0;
        {
            let mut recorder = self.recorder();
            for (from, host) in from.iter().zip(&*hosts).filter(|(_, host)| !host.is_empty()) {
                let bytes = 4 * host.len() as u64;
                recorder.push(Command::Copy { from: from.raw().clone(), from_at: 0, to: buffer.clone(), at, bytes });
                at += bytes;
            }
            recorder.flush(&self.device)?;
        }
        self.device.read(buffer, bytes, |mut view| {
            for host in hosts {
                let (part, rest) = view.split_at(4 * host.len());
                bytemuck::cast_slice_mut::<T, u8>(host).copy_from_slice(part);
                view = rest;
            }
        })
    }
}

/// Lengths of lent buffers that are kept: more than a network has.
const MOST_LENT: usize = 64;

impl Storage for Gpu {
    type Buffer = Buffer;
    type Indices = Indices;

    fn zeros(&self, len: usize) -> Result<Buffer, BackendError> {
        Buffer::zeros(&self.device, len)
    }

    fn zeros_in(&self, precision: Precision, len: usize) -> Result<Buffer, BackendError> {
        Buffer::zeros_in(&self.device, precision, len)
    }

    fn precision(&self, buffer: &Buffer) -> Precision {
        buffer.precision()
    }

    fn convert(&self, from: &Buffer, to: &mut Buffer) -> Result<(), BackendError> {
        expect_equal("convert", "length", to.len(), from.len())?;
        match (from.precision(), to.precision()) {
            (Precision::F32, Precision::Bf16) => self.round(from, to),
            (Precision::Bf16, Precision::F32) => self.widen(from, to),
            (Precision::F32, Precision::F32) | (Precision::Bf16, Precision::Bf16) => self.copy(from, to),
        }
    }

    fn lend(&self, len: usize) -> Result<Buffer, BackendError> {
        let lent = lock(&self.lent).get_mut(&len).and_then(Vec::pop);
        lent.map_or_else(|| self.zeros(len), Ok)
    }

    fn give_back(&self, buffer: Buffer) {
        let mut lent = lock(&self.lent);
        // What other batches or networks left behind goes.
        if lent.len() >= MOST_LENT && !lent.contains_key(&buffer.len()) {
            lent.clear();
        }
        lent.entry(buffer.len()).or_default().push(buffer);
    }

    fn len(&self, buffer: &Buffer) -> usize {
        buffer.len()
    }

    fn upload(&self, host: &[f32], to: &mut Buffer) -> Result<(), BackendError> {
        at_most("upload", host.len(), to.len())?;
        match to.precision() {
            Precision::F32 => self.write(host, to),
            Precision::Bf16 => {
                let mut halves: Vec<bf16> = host.iter().map(|&value| bf16::from_f32(value)).collect();
                if halves.len() % 2 == 1 {
                    // What shares the last word stays as it is.
                    let next = if host.len() < to.len() { self.downloaded(to)?[host.len()] } else { 0.0 };
                    halves.push(bf16::from_f32(next));
                }
                let words = halves.chunks_exact(2).map(|pair| {
                    let [low, high] = [pair[0], pair[1]].map(|half| u32::from(half.to_bits()));
                    f32::from_bits(low | high << 16)
                });
                self.write(&words.collect::<Vec<_>>(), to)
            }
        }
    }

    fn download(&self, from: &Buffer, host: &mut [f32]) -> Result<(), BackendError> {
        at_most("download", host.len(), from.len())?;
        match from.precision() {
            Precision::F32 => self.read_all(&[from], &mut [host]),
            Precision::Bf16 => {
                let mut words = vec![0.0f32; host.len().div_ceil(2)];
                self.read_all(&[from], &mut [&mut words])?;
                for (i, to) in host.iter_mut().enumerate() {
                    let word = words[i / 2].to_bits();
                    *to = f32::from_bits(if i % 2 == 0 { word << 16 } else { word & 0xffff_0000 });
                }
                Ok(())
            }
        }
    }

    fn download_all(&self, from: &[&Buffer], hosts: &mut [&mut [f32]]) -> Result<(), BackendError> {
        from.iter().zip(&*hosts).try_for_each(|(from, host)| at_most("download_all", host.len(), from.len()))?;
        if from.iter().any(|from| from.precision() != Precision::F32) {
            return from.iter().zip(hosts).try_for_each(|(from, host)| self.download(from, host));
        }
        self.read_all(from, hosts)
    }

    fn results_per_reading(&self) -> usize {
        16
    }

    fn index_zeros(&self, len: usize) -> Result<Indices, BackendError> {
        Indices::zeros(&self.device, len)
    }

    fn index_len(&self, indices: &Indices) -> usize {
        indices.len()
    }

    fn upload_indices(&self, host: &[u32], to: &mut Indices) -> Result<(), BackendError> {
        at_most("upload_indices", host.len(), to.len())?;
        self.write(host, to)
    }

    fn fill(&self, value: f32, to: &mut Buffer) -> Result<(), BackendError> {
        self.fill_buffer(value, to)
    }

    fn copy(&self, from: &Buffer, to: &mut Buffer) -> Result<(), BackendError> {
        expect_equal("copy", "length", to.len(), from.len())?;
        expect_equal("copy", "bytes of a number", to.precision().bytes(), from.precision().bytes())?;
        if from.is_empty() {
            return Ok(());
        }
        let mut recorder = self.recorder();
        recorder.touch([from.id(), to.id()]);
        recorder.push(Command::Copy {
            from: from.raw().clone(),
            from_at: 0,
            to: to.raw().clone(),
            at: 0,
            bytes: 4 * from.words() as u64,
        });
        Ok(())
    }

    fn copy_range(
        &self,
        from: &Buffer,
        from_start: usize,
        to: &mut Buffer,
        to_start: usize,
        len: usize,
    ) -> Result<(), BackendError> {
        check_range(self, from, from_start, to, to_start, len)?;
        if len == 0 {
            return Ok(());
        }
        let mut recorder = self.recorder();
        recorder.touch([from.id(), to.id()]);
        recorder.push(Command::Copy {
            from: from.raw().clone(),
            from_at: 4 * from_start as u64,
            to: to.raw().clone(),
            at: 4 * to_start as u64,
            bytes: 4 * len as u64,
        });
        Ok(())
    }

    fn add(&self, from: &Buffer, to: &mut Buffer) -> Result<(), BackendError> {
        expect_equal("add", "length", to.len(), from.len())?;
        expect_f32("add", [from.precision(), to.precision()])?;
        self.add_buffers(from, to)
    }

    fn gather(&self, from: &Buffer, map: &[u32], to: &mut Buffer) -> Result<(), BackendError> {
        expect_equal("gather", "length of the map", to.len(), map.len())?;
        expect_f32("gather", [from.precision(), to.precision()])?;
        if let Some(&outside) = map.iter().find(|&&i| i != u32::MAX && i as usize >= from.len()) {
            expect_equal("gather", "largest index", from.len().saturating_sub(1), outside as usize)?;
        }
        self.gather_buffer(from, &self.indices(map)?, to)
    }

    fn submit(&self) -> Result<(), BackendError> {
        self.recorder().flush(&self.device)
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        self.submit()?;
        self.device.wait(None)
    }
}

fn at_most(op: &'static str, got: usize, most: usize) -> Result<(), BackendError> {
    if got <= most { Ok(()) } else { Ok(expect_equal(op, "length", most, got)?) }
}
