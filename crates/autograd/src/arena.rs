//! Activation buffers, reused from step to step.

use std::collections::HashMap;

use sparse_kernels::{Backend, BackendError, StripLayout, Strips};

/// Free buffers by exact length.
///
/// A step takes and gives the same lengths in the same order as the step before, so after the first step of each
/// batch size nothing is allocated any more. (A short last batch has lengths of its own, which stay beside the others.)
///
/// What a buffer taken holds is undefined: it is overwritten as a whole, or filled, by whoever takes it.
#[derive(Debug)]
pub struct Arena<B: Backend> {
    free: HashMap<usize, Vec<B::Buffer>>,
    stats: ArenaStats,
}

/// What an [`Arena`] has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArenaStats {
    /// Buffers asked of the backend; stays the same once a step reuses all it needs.
    pub allocations: u64,
    /// Their size together.
    pub allocated_bytes: u64,
}

impl<B: Backend> Default for Arena<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Arena<B> {
    /// An empty arena.
    pub fn new() -> Self {
        Self { free: HashMap::new(), stats: ArenaStats::default() }
    }

    /// Activations of undefined content.
    ///
    /// # Errors
    /// If a new buffer is needed and the backend has no room for it.
    pub fn take(&mut self, backend: &B, layout: StripLayout) -> Result<Strips<B>, BackendError> {
        Ok(Strips { layout, data: self.take_buffer(backend, layout.len())? })
    }

    /// A buffer of undefined content.
    ///
    /// # Errors
    /// If a new buffer is needed and the backend has no room for it.
    pub fn take_buffer(&mut self, backend: &B, len: usize) -> Result<B::Buffer, BackendError> {
        if let Some(buffer) = self.free.get_mut(&len).and_then(Vec::pop) {
            return Ok(buffer);
        }
        let buffer = backend.zeros(len)?;
        self.stats.allocations += 1;
        self.stats.allocated_bytes += 4 * len as u64;
        Ok(buffer)
    }

    /// Takes activations back.
    pub fn give(&mut self, backend: &B, strips: Strips<B>) {
        self.give_buffer(backend, strips.data);
    }

    /// Takes a buffer back.
    pub fn give_buffer(&mut self, backend: &B, buffer: B::Buffer) {
        self.free.entry(backend.len(&buffer)).or_default().push(buffer);
    }

    /// What has been allocated so far.
    pub fn stats(&self) -> ArenaStats {
        self.stats
    }

    /// Bytes of the buffers that are free now.
    pub fn free_bytes(&self) -> u64 {
        self.free.iter().map(|(len, buffers)| 4 * (len * buffers.len()) as u64).sum()
    }

    /// Drops all free buffers, say after a last use of some batch size.
    pub fn clear(&mut self) {
        self.free.clear();
    }
}
