//! Activation buffers, reused from step to step.

use std::collections::HashMap;

use sparse_kernels::{Activations, Backend, BackendError, ImageLayout, Images, Layout, StripLayout, Strips};

/// Free buffers by exact length, and those of images by layout: what is zero in images, border and padding, stays so.
///
/// A step takes and gives the same lengths in the same order as the step before, so after the first step of each
/// batch size nothing is allocated any more. (A short last batch has lengths of its own, which stay beside the others.)
///
/// What a buffer taken holds is undefined (of images, the pixels): it is overwritten as a whole, or filled, by whoever
/// takes it.
#[derive(Debug)]
pub struct Arena<B: Backend> {
    free: HashMap<usize, Vec<B::Buffer>>,
    images: HashMap<ImageLayout, Vec<B::Buffer>>,
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
        Self { free: HashMap::new(), images: HashMap::new(), stats: ArenaStats::default() }
    }

    /// Activations of undefined content.
    ///
    /// # Errors
    /// If a new buffer is needed and the backend cannot allocate it.
    pub fn take(&mut self, backend: &B, layout: StripLayout) -> Result<Strips<B>, BackendError> {
        Ok(Strips { layout, data: self.take_buffer(backend, layout.len())? })
    }

    /// Images of undefined pixels; border and padding are zero.
    ///
    /// # Errors
    /// If a new buffer is needed and the backend cannot allocate it.
    pub fn take_images(&mut self, backend: &B, layout: ImageLayout) -> Result<Images<B>, BackendError> {
        let data = match self.images.get_mut(&layout).and_then(Vec::pop) {
            Some(buffer) => buffer,
            None => self.allocate(backend, layout.len())?,
        };
        Ok(Images { layout, data })
    }

    /// Activations of either kind, as [`Arena::take`] and [`Arena::take_images`].
    ///
    /// # Errors
    /// If a new buffer is needed and the backend cannot allocate it.
    pub fn take_activations(&mut self, backend: &B, layout: Layout) -> Result<Activations<B>, BackendError> {
        Ok(match layout {
            Layout::Strips(layout) => self.take(backend, layout)?.into(),
            Layout::Images(layout) => self.take_images(backend, layout)?.into(),
        })
    }

    /// A buffer of undefined content.
    ///
    /// # Errors
    /// If a new buffer is needed and the backend cannot allocate it.
    pub fn take_buffer(&mut self, backend: &B, len: usize) -> Result<B::Buffer, BackendError> {
        if let Some(buffer) = self.free.get_mut(&len).and_then(Vec::pop) {
            return Ok(buffer);
        }
        self.allocate(backend, len)
    }

    fn allocate(&mut self, backend: &B, len: usize) -> Result<B::Buffer, BackendError> {
        let buffer = backend.zeros(len)?;
        self.stats.allocations += 1;
        self.stats.allocated_bytes += 4 * len as u64;
        Ok(buffer)
    }

    /// Takes activations back. Border and padding of images must be zero, as every operation leaves them.
    pub fn give(&mut self, backend: &B, activations: impl Into<Activations<B>>) {
        match activations.into() {
            Activations::Strips(strips) => self.give_buffer(backend, strips.data),
            Activations::Images(Images { layout, data }) => self.images.entry(layout).or_default().push(data),
        }
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
        let buffers = self.free.iter().map(|(len, buffers)| len * buffers.len());
        let images = self.images.iter().map(|(layout, buffers)| layout.len() * buffers.len());
        4 * buffers.chain(images).sum::<usize>() as u64
    }

    /// Drops all free buffers, say after a last use of some batch size.
    pub fn clear(&mut self) {
        self.free.clear();
        self.images.clear();
    }
}
