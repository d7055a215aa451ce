//! Kernels and their launches.

/// How a kernel uses an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
}

pub(super) use Access::{Read, Write};

/// An entry point of a shader file. Its operands are `@group(0) @binding(0)` and so on, in order; its parameters, words of
/// 32 bits, are `@group(1) @binding(0) var<uniform>`.
#[derive(Debug)]
pub(super) struct Kernel {
    /// What profiles call it.
    pub name: &'static str,
    /// The file's text.
    pub source: &'static str,
    /// The function.
    pub entry: &'static str,
    /// How each operand is used.
    pub operands: &'static [Access],
}

impl Kernel {
    /// The function `entry` of a file; profiles call it so too.
    pub const fn new(entry: &'static str, source: &'static str, operands: &'static [Access]) -> Self {
        Self { name: entry, source, entry, operands }
    }

    /// The same under a name of its own in profiles.
    pub const fn called(self, name: &'static str) -> Self {
        Self { name, ..self }
    }
}

/// Part of a buffer that a kernel sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operand<'a> {
    pub raw: &'a wgpu::Buffer,
    pub id: u64,
    pub offset: u64,
    pub bytes: u64,
}

/// One call of a kernel.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// Which.
    pub kernel: &'static Kernel,
    /// Values of the shader's `override` constants.
    pub constants: &'a [(&'static str, f64)],
    /// Its parameters; numbers of floating point as their bits.
    pub params: &'a [u32],
    /// Its operands.
    pub operands: &'a [Operand<'a>],
    /// Workgroups. More than a dimension of the grid may have are folded into two: kernels count
    /// `id.x + id.y · num_workgroups.x` and leave what lies beyond.
    pub workgroups: usize,
    /// What it must move and compute, for profiles.
    pub work: Work,
}

/// Least bytes that a launch moves, and operations it computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Work {
    /// Bytes read and written.
    pub bytes: u64,
    /// Operations; a multiply-add is two.
    pub operations: u64,
}

impl Work {
    /// Words moved by a kernel that computes next to nothing.
    pub fn words(words: usize) -> Self {
        Self { bytes: 4 * words as u64, operations: 0 }
    }
}

/// Words of parameters of a launch at most: the least distance of dynamic offsets that every implementation allows.
pub(super) const PARAMETER_WORDS: usize = 64;
