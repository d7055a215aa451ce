//! Activation buffers, reused from step to step.

use std::collections::HashMap;

use sparse_kernels::{Activations, Backend, BackendError, ImageLayout, Images, Layout, Precision, StripLayout, Strips};

/// Free buffers by precision and exact length, and those of images by precision and layout: what is zero in images, border and
/// padding, stays so.
///
/// The arena decides how a tape stores activations and their gradients, see [`Arena::in_precision`].
///
/// A step takes and gives the same lengths in the same order as the step before, so after the first step of each
/// batch size nothing is allocated any more. (A short last batch has lengths of its own, which stay beside the others.)
///
/// What a buffer taken holds is undefined (of images, the pixels): it is overwritten as a whole, or filled, by whoever
/// takes it.
#[derive(Debug)]
pub struct Arena<B: Backend> {
    precision: Precision,
    free: HashMap<(Precision, usize), Vec<B::Buffer>>,
    images: HashMap<(Precision, ImageLayout), Vec<B::Buffer>>,
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
    /// An empty arena of activations in f32.
    pub fn new() -> Self {
        Self::in_precision(Precision::F32)
    }

    /// An empty arena whose activations are stored so. Whatever else a tape keeps, such as moments and losses, is f32.
    pub fn in_precision(precision: Precision) -> Self {
        Self { precision, free: HashMap::new(), images: HashMap::new(), stats: ArenaStats::default() }
    }

    /// How activations are stored.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Activations of undefined content.
    ///
    /// # Errors
    /// If a new buffer is needed and the backend cannot allocate it.
    pub fn take(&mut self, backend: &B, layout: StripLayout) -> Result<Strips<B>, BackendError> {
        self.take_in(backend, self.precision, layout)
    }

    /// Numbers of lanes that are stored so, whatever activations are: what must not be rounded, in f32. Undefined content.
    ///
    /// # Errors
    /// If a new buffer is needed and the backend cannot allocate it.
    pub fn take_in(
        &mut self,
        backend: &B,
        precision: Precision,
        layout: StripLayout,
    ) -> Result<Strips<B>, BackendError> {
        Ok(Strips { layout, data: self.take_numbers(backend, precision, layout.len())? })
    }

    /// The same numbers stored so, in another buffer if they are not yet.
    pub(crate) fn stored_in(
        &mut self,
        backend: &B,
        precision: Precision,
        strips: Strips<B>,
    ) -> Result<Strips<B>, BackendError> {
        if backend.precision(&strips.data) == precision {
            return Ok(strips);
        }
        let mut stored = self.take_in(backend, precision, strips.layout)?;
        backend.convert(&strips.data, &mut stored.data)?;
        self.give(backend, strips);
        Ok(stored)
    }

    /// A copy in f32 of what is not.
    pub(crate) fn widened(&mut self, backend: &B, strips: &Strips<B>) -> Result<Option<Strips<B>>, BackendError> {
        if backend.precision(&strips.data) == Precision::F32 {
            return Ok(None);
        }
        let mut copy = self.take_in(backend, Precision::F32, strips.layout)?;
        backend.convert(&strips.data, &mut copy.data)?;
        Ok(Some(copy))
    }

    /// Images of undefined pixels; border and padding are zero.
    ///
    /// # Errors
    /// If a new buffer is needed and the backend cannot allocate it.
    pub fn take_images(&mut self, backend: &B, layout: ImageLayout) -> Result<Images<B>, BackendError> {
        let data = match self.images.get_mut(&(self.precision, layout)).and_then(Vec::pop) {
            Some(buffer) => buffer,
            None => self.allocate(backend, self.precision, layout.len())?,
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

    /// A buffer of f32 of undefined content.
    ///
    /// # Errors
    /// If a new buffer is needed and the backend cannot allocate it.
    pub fn take_buffer(&mut self, backend: &B, len: usize) -> Result<B::Buffer, BackendError> {
        self.take_numbers(backend, Precision::F32, len)
    }

    fn take_numbers(&mut self, backend: &B, precision: Precision, len: usize) -> Result<B::Buffer, BackendError> {
        if let Some(buffer) = self.free.get_mut(&(precision, len)).and_then(Vec::pop) {
            return Ok(buffer);
        }
        self.allocate(backend, precision, len)
    }

    fn allocate(&mut self, backend: &B, precision: Precision, len: usize) -> Result<B::Buffer, BackendError> {
        let buffer = backend.zeros_in(precision, len)?;
        self.stats.allocations += 1;
        self.stats.allocated_bytes += (precision.bytes() * len) as u64;
        Ok(buffer)
    }

    /// Takes activations back. Border and padding of images must be zero, as every operation leaves them.
    pub fn give(&mut self, backend: &B, activations: impl Into<Activations<B>>) {
        match activations.into() {
            Activations::Strips(strips) => self.give_buffer(backend, strips.data),
            Activations::Images(Images { layout, data }) => {
                self.images.entry((backend.precision(&data), layout)).or_default().push(data);
            }
        }
    }

    /// Takes a buffer back.
    pub fn give_buffer(&mut self, backend: &B, buffer: B::Buffer) {
        self.free.entry((backend.precision(&buffer), backend.len(&buffer))).or_default().push(buffer);
    }

    /// What has been allocated so far.
    pub fn stats(&self) -> ArenaStats {
        self.stats
    }

    /// Bytes of the buffers that are free now.
    pub fn free_bytes(&self) -> u64 {
        let buffers = self.free.iter().map(|((precision, len), buffers)| precision.bytes() * len * buffers.len());
        let images = self.images.iter();
        let images = images.map(|((precision, layout), buffers)| precision.bytes() * layout.len() * buffers.len());
        buffers.chain(images).sum::<usize>() as u64
    }

    /// Drops all free buffers, say after a last use of some batch size.
    pub fn clear(&mut self) {
        self.free.clear();
        self.images.clear();
    }
}
