//! Memory of a device.

use std::fmt::Debug;

use crate::{BackendError, Precision};

/// Memory on a device and the elementary operations on it.
pub trait Storage: Debug + Sized + 'static {
    /// A fixed number of numbers on the device, f32 if nothing else is said.
    type Buffer: Debug + Send + Sync;
    /// A fixed number of u32 on the device (labels).
    type Indices: Debug + Send + Sync;

    /// A buffer of `len` zeros.
    ///
    /// # Errors
    /// If the device cannot allocate it.
    fn zeros(&self, len: usize) -> Result<Self::Buffer, BackendError>;

    /// A buffer of `len` zeros that are stored as `precision` says.
    ///
    /// Activations may be so. Weights, biases, moments, statistics and all else that operations take as plain buffers are f32;
    /// [`Storage::add`] and [`Storage::gather`] are of f32 too.
    ///
    /// # Errors
    /// If the device cannot allocate it.
    fn zeros_in(&self, precision: Precision, len: usize) -> Result<Self::Buffer, BackendError>;

    /// How the numbers of a buffer are stored.
    fn precision(&self, buffer: &Self::Buffer) -> Precision;

    /// `to[i] = from[i]`, widened, or rounded as [`Precision`] says.
    ///
    /// # Errors
    /// If the lengths differ.
    fn convert(&self, from: &Self::Buffer, to: &mut Self::Buffer) -> Result<(), BackendError>;

    /// A buffer of `len` f32 that hold anything, for the length of an operation.
    #[doc(hidden)]
    fn lend(&self, len: usize) -> Result<Self::Buffer, BackendError>;

    /// Takes back what [`Storage::lend`] lent.
    #[doc(hidden)]
    fn give_back(&self, buffer: Self::Buffer);

    /// Elements of a buffer.
    fn len(&self, buffer: &Self::Buffer) -> usize;

    /// Copies `host` to the start of `to`, rounded to its precision.
    ///
    /// # Errors
    /// If `host` is longer than `to`.
    fn upload(&self, host: &[f32], to: &mut Self::Buffer) -> Result<(), BackendError>;

    /// A buffer of these numbers.
    ///
    /// # Errors
    /// If the device cannot allocate it.
    fn uploaded(&self, host: &[f32]) -> Result<Self::Buffer, BackendError> {
        let mut buffer = self.zeros(host.len())?;
        self.upload(host, &mut buffer)?;
        Ok(buffer)
    }

    /// Copies the start of `from` to `host`, whatever its precision, after all work that writes it.
    ///
    /// # Errors
    /// If `host` is longer than `from`.
    fn download(&self, from: &Self::Buffer, host: &mut [f32]) -> Result<(), BackendError>;

    /// All numbers of a buffer, after all work that writes it.
    ///
    /// # Errors
    /// If the device fails.
    fn downloaded(&self, from: &Self::Buffer) -> Result<Vec<f32>, BackendError> {
        let mut host = vec![0.0; self.len(from)];
        self.download(from, &mut host)?;
        Ok(host)
    }

    /// Copies the starts of several buffers, with one wait for all: `hosts[i]` from `from[i]`.
    ///
    /// # Errors
    /// If one of `hosts` is longer than its buffer.
    fn download_all(&self, from: &[&Self::Buffer], hosts: &mut [&mut [f32]]) -> Result<(), BackendError> {
        from.iter().zip(hosts).try_for_each(|(from, host)| self.download(from, host))
    }

    /// How many small results, such as the losses of steps, had better be read together, since a reading makes the device
    /// wait for its host; 1 where it costs nothing.
    fn results_per_reading(&self) -> usize {
        1
    }

    /// An index buffer of `len` zeros.
    ///
    /// # Errors
    /// If the device cannot allocate it.
    fn index_zeros(&self, len: usize) -> Result<Self::Indices, BackendError>;

    /// Elements of an index buffer.
    fn index_len(&self, indices: &Self::Indices) -> usize;

    /// Copies `host` to the start of `to`.
    ///
    /// # Errors
    /// If `host` is longer than `to`.
    fn upload_indices(&self, host: &[u32], to: &mut Self::Indices) -> Result<(), BackendError>;

    /// Sets every element.
    ///
    /// # Errors
    /// If the device fails.
    fn fill(&self, value: f32, to: &mut Self::Buffer) -> Result<(), BackendError>;

    /// `to[i] = from[i]`, of buffers of one precision.
    ///
    /// # Errors
    /// If lengths or precisions differ.
    fn copy(&self, from: &Self::Buffer, to: &mut Self::Buffer) -> Result<(), BackendError>;

    /// `to[to_start + i] = from[from_start + i]` for `len` numbers, of f32.
    ///
    /// # Errors
    /// If one of the two is too short.
    fn copy_range(
        &self,
        from: &Self::Buffer,
        from_start: usize,
        to: &mut Self::Buffer,
        to_start: usize,
        len: usize,
    ) -> Result<(), BackendError>;

    /// `to[i] += from[i]`.
    ///
    /// # Errors
    /// If the lengths differ.
    fn add(&self, from: &Self::Buffer, to: &mut Self::Buffer) -> Result<(), BackendError>;

    /// `to[i] = from[map[i]]`, or 0 where `map[i]` is `u32::MAX`: moves value arrays to a new pattern.
    ///
    /// # Errors
    /// If `map` and `to` differ in length, or an index lies outside `from`.
    fn gather(&self, from: &Self::Buffer, map: &[u32], to: &mut Self::Buffer) -> Result<(), BackendError>;

    /// Hands queued work to the device without waiting for it: once a training step. Where nothing is queued, nothing
    /// happens.
    ///
    /// # Errors
    /// If the device fails.
    fn submit(&self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Waits until all queued work is done.
    ///
    /// # Errors
    /// If the device fails.
    fn synchronize(&self) -> Result<(), BackendError>;
}
