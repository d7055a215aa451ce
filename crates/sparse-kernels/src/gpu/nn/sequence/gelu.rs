//! GELU and its gradient.

use super::super::super::kernel::{Kernel, Read, Write};
use super::super::super::shaders;
use super::super::super::{Buffer, Gpu};
use crate::BackendError;
use crate::backend::Gelu;

static GELU: Kernel = Kernel::new("gelu", shaders::GELU, &[Read, Write]);
static GELU_GRAD: Kernel = Kernel::new("gelu_grad", shaders::GELU, &[Read, Write]);

pub(super) fn forward(gpu: &Gpu, kind: Gelu, x: &Buffer, y: &Buffer) -> Result<(), BackendError> {
    gpu.each_quad(&GELU, &[u32::from(kind == Gelu::Exact)], &[x, y], [2, 20])
}

pub(super) fn backward(gpu: &Gpu, kind: Gelu, x: &Buffer, grad: &Buffer) -> Result<(), BackendError> {
    gpu.each_quad(&GELU_GRAD, &[u32::from(kind == Gelu::Exact)], &[x, grad], [3, 20])
}
