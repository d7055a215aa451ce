//! Operands in 16 bits for hooks that compute on f32: they are widened before the call, and results rounded after it.

use std::ops::{Deref, DerefMut};

use super::check::Done;
use super::storage::Storage;
#[cfg(feature = "conv")]
use crate::Images;
use crate::{BackendError, Precision, Strips};

/// Activations of either kind.
pub trait Tensor<B: Storage>: Sized {
    /// The elements.
    fn data(&self) -> &B::Buffer;
    /// The elements.
    fn data_mut(&mut self) -> &mut B::Buffer;
    /// Other elements in the same layout.
    fn with_data(&self, data: B::Buffer) -> Self;
    /// The buffer.
    fn into_data(self) -> B::Buffer;
    /// Whether an operation that overwrites the tensor leaves some elements as they are.
    const KEEPS_SOME: bool;
}

impl<B: Storage> Tensor<B> for Strips<B> {
    fn data(&self) -> &B::Buffer {
        &self.data
    }
    fn data_mut(&mut self) -> &mut B::Buffer {
        &mut self.data
    }
    fn with_data(&self, data: B::Buffer) -> Self {
        Self { layout: self.layout, data }
    }
    fn into_data(self) -> B::Buffer {
        self.data
    }
    const KEEPS_SOME: bool = false;
}

#[cfg(feature = "conv")]
impl<B: Storage> Tensor<B> for Images<B> {
    fn data(&self) -> &B::Buffer {
        &self.data
    }
    fn data_mut(&mut self) -> &mut B::Buffer {
        &mut self.data
    }
    fn with_data(&self, data: B::Buffer) -> Self {
        Self { layout: self.layout, data }
    }
    fn into_data(self) -> B::Buffer {
        self.data
    }
    /// Their border.
    const KEEPS_SOME: bool = true;
}

/// An operand that is only read.
pub struct Wide<'a, B: Storage, T: Tensor<B>> {
    backend: &'a B,
    given: &'a T,
    wide: Option<T>,
}

impl<'a, B: Storage, T: Tensor<B>> Wide<'a, B, T> {
    /// `given`, or a copy in f32 if it is in 16 bits and the hook cannot take that.
    pub fn new(backend: &'a B, takes_16_bits: bool, given: &'a T) -> Result<Self, BackendError> {
        let wide = widened(backend, takes_16_bits, given, true)?;
        Ok(Self { backend, given, wide })
    }
}

fn widened<B: Storage, T: Tensor<B>>(
    backend: &B,
    takes_16_bits: bool,
    given: &T,
    is_read: bool,
) -> Result<Option<T>, BackendError> {
    if takes_16_bits || backend.precision(given.data()) == Precision::F32 {
        return Ok(None);
    }
    let mut data = backend.lend(backend.len(given.data()))?;
    if is_read {
        backend.convert(given.data(), &mut data)?;
    }
    Ok(Some(given.with_data(data)))
}

impl<B: Storage, T: Tensor<B>> Deref for Wide<'_, B, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.wide.as_ref().unwrap_or(self.given)
    }
}

impl<B: Storage, T: Tensor<B>> Drop for Wide<'_, B, T> {
    fn drop(&mut self) {
        if let Some(wide) = self.wide.take() {
            self.backend.give_back(wide.into_data());
        }
    }
}

/// An operand that is written.
pub struct WideMut<'a, B: Storage, T: Tensor<B>> {
    backend: &'a B,
    given: &'a mut T,
    wide: Option<T>,
}

impl<'a, B: Storage, T: Tensor<B>> WideMut<'a, B, T> {
    /// For an operation that reads what the operand held, or leaves some of it.
    #[cfg(feature = "nn")]
    pub fn updated(backend: &'a B, takes_16_bits: bool, given: &'a mut T) -> Result<Self, BackendError> {
        let wide = widened(backend, takes_16_bits, given, true)?;
        Ok(Self { backend, given, wide })
    }

    /// For an operation that overwrites the operand.
    pub fn overwritten(backend: &'a B, takes_16_bits: bool, given: &'a mut T) -> Result<Self, BackendError> {
        let wide = widened(backend, takes_16_bits, given, T::KEEPS_SOME)?;
        Ok(Self { backend, given, wide })
    }

    /// Rounds the result, if it must be.
    pub fn store(self) -> Done {
        match &self.wide {
            Some(wide) => self.backend.convert(wide.data(), self.given.data_mut()),
            None => Ok(()),
        }
    }
}

impl<B: Storage, T: Tensor<B>> Deref for WideMut<'_, B, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.wide.as_ref().unwrap_or(self.given)
    }
}

impl<B: Storage, T: Tensor<B>> DerefMut for WideMut<'_, B, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.wide.as_mut().unwrap_or(self.given)
    }
}

impl<B: Storage, T: Tensor<B>> Drop for WideMut<'_, B, T> {
    fn drop(&mut self) {
        if let Some(wide) = self.wide.take() {
            self.backend.give_back(wide.into_data());
        }
    }
}
