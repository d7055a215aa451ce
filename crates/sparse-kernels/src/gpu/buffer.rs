//! Memory on the device.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::device::Device;
use super::kernel::Operand;
use crate::{BackendError, Precision};

/// Elements that the start of a window of a buffer must be a multiple of: 256 bytes, which every implementation allows.
pub(crate) const WINDOW_UNIT: usize = 64;

/// A fixed number of 32-bit elements on the device, or of numbers in 16 bits, two a word; it is freed when dropped.
pub struct DeviceBuffer<T> {
    raw: wgpu::Buffer,
    id: u64,
    len: usize,
    precision: Precision,
    bytes: u64,
    device: Arc<Device>,
    elements: PhantomData<fn() -> T>,
}

impl<T> fmt::Debug for DeviceBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceBuffer").field("id", &self.id).field("len", &self.len).finish()
    }
}

impl<T> DeviceBuffer<T> {
    /// `len` zeros.
    pub(super) fn zeros(device: &Arc<Device>, len: usize) -> Result<Self, BackendError> {
        Self::zeros_in(device, Precision::F32, len)
    }

    /// `len` zeros that are stored as `precision` says.
    pub(super) fn zeros_in(device: &Arc<Device>, precision: Precision, len: usize) -> Result<Self, BackendError> {
        // Bindings must not be empty, and kernels see vectors of four.
        let bytes = (precision.bytes() as u64 * len as u64).next_multiple_of(16).max(16);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let (raw, id) = device.allocate(bytes, usage)?;
        Ok(Self { raw, id, len, precision, bytes, device: device.clone(), elements: PhantomData })
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How the elements are stored.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Words of 32 bits that the elements take.
    pub(super) fn words(&self) -> usize {
        (self.len * self.precision.bytes()).div_ceil(4)
    }

    pub(super) fn raw(&self) -> &wgpu::Buffer {
        &self.raw
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The whole buffer as an operand of a kernel.
    pub(super) fn whole(&self) -> Operand<'_> {
        Operand { raw: &self.raw, id: self.id, offset: 0, bytes: self.bytes }
    }

    /// The whole buffer, or as much of it as a kernel may see: an operand that stands in for one that is not read.
    pub(super) fn first(&self, most: usize) -> Operand<'_> {
        self.window(0, self.words().min(most))
    }

    /// Words `start` and the following `len` as an operand; `start` is a multiple of [`WINDOW_UNIT`].
    pub(super) fn window(&self, start: usize, len: usize) -> Operand<'_> {
        debug_assert!(start.is_multiple_of(WINDOW_UNIT), "a window begins at {start}");
        let offset = 4 * start as u64;
        let bytes = (4 * len as u64).next_multiple_of(16).max(16).min(self.bytes.saturating_sub(offset).max(16));
        Operand { raw: &self.raw, id: self.id, offset, bytes }
    }
}

impl<T> Drop for DeviceBuffer<T> {
    fn drop(&mut self) {
        self.device.free(self.id, self.bytes);
    }
}
