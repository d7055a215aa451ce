//! Activations of either kind: features by lanes, or images.

use crate::{BackendError, ImageLayout, Images, Storage, StripLayout, Strips};

/// How activations lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Features by lanes, of linear layers.
    Strips(StripLayout),
    /// Images, of convolutional ones.
    Images(ImageLayout),
}

impl Layout {
    /// Samples that count: lanes, or images.
    pub fn samples(&self) -> usize {
        match self {
            Self::Strips(layout) => layout.lanes(),
            Self::Images(layout) => layout.samples(),
        }
    }

    /// Elements in all, padding and borders included.
    pub fn len(&self) -> usize {
        match self {
            Self::Strips(layout) => layout.len(),
            Self::Images(layout) => layout.len(),
        }
    }

    /// Whether there is no element at all.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Strips(layout) => layout.is_empty(),
            Self::Images(layout) => layout.is_empty(),
        }
    }
}

impl From<StripLayout> for Layout {
    fn from(layout: StripLayout) -> Self {
        Self::Strips(layout)
    }
}

impl From<ImageLayout> for Layout {
    fn from(layout: ImageLayout) -> Self {
        Self::Images(layout)
    }
}

/// Activations of either kind on a backend.
#[derive(Debug)]
pub enum Activations<B: Storage> {
    /// Features by lanes.
    Strips(Strips<B>),
    /// Images.
    Images(Images<B>),
}

impl<B: Storage> Activations<B> {
    /// Activations of this layout in a buffer of its length.
    pub fn new(layout: Layout, data: B::Buffer) -> Self {
        match layout {
            Layout::Strips(layout) => Self::Strips(Strips { layout, data }),
            Layout::Images(layout) => Self::Images(Images { layout, data }),
        }
    }

    /// Activations that are all zero.
    ///
    /// # Errors
    /// If the backend cannot hold them.
    pub fn zeros(backend: &B, layout: Layout) -> Result<Self, BackendError> {
        Ok(Self::new(layout, backend.zeros(layout.len())?))
    }

    /// Shape and order of the elements.
    pub fn layout(&self) -> Layout {
        match self {
            Self::Strips(strips) => strips.layout.into(),
            Self::Images(images) => images.layout.into(),
        }
    }

    /// The elements.
    pub fn data(&self) -> &B::Buffer {
        match self {
            Self::Strips(strips) => &strips.data,
            Self::Images(images) => &images.data,
        }
    }

    /// The elements.
    pub fn data_mut(&mut self) -> &mut B::Buffer {
        match self {
            Self::Strips(strips) => &mut strips.data,
            Self::Images(images) => &mut images.data,
        }
    }

    /// The buffer.
    pub fn into_data(self) -> B::Buffer {
        match self {
            Self::Strips(strips) => strips.data,
            Self::Images(images) => images.data,
        }
    }
}

impl<B: Storage> From<Strips<B>> for Activations<B> {
    fn from(strips: Strips<B>) -> Self {
        Self::Strips(strips)
    }
}

impl<B: Storage> From<Images<B>> for Activations<B> {
    fn from(images: Images<B>) -> Self {
        Self::Images(images)
    }
}
