//! Kernels and their launches.

use super::Gpu;
use super::recorder::Command;
use crate::BackendError;

/// How a kernel uses an operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// `var<storage, read>`.
    Read,
    /// `var<storage, read_write>`.
    Write,
}

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

/// Rows and columns of a grid of so many workgroups.
fn grid(workgroups: usize, limit: u32) -> [u32; 2] {
    let limit = limit as usize;
    let rows = workgroups.div_ceil(limit);
    [workgroups.div_ceil(rows.max(1)) as u32, rows as u32]
}

impl Gpu {
    /// Queues a launch; nothing if it has no workgroup.
    pub(super) fn launch(&self, launch: &Launch<'_>) -> Result<(), BackendError> {
        self.device.check()?;
        if launch.workgroups == 0 {
            return Ok(());
        }
        let [x, y] = grid(launch.workgroups, self.device.limits.max_compute_workgroups_per_dimension);
        if y > self.device.limits.max_compute_workgroups_per_dimension {
            let what = format!("{} workgroups of {}", launch.workgroups, launch.kernel.name);
            return Err(BackendError::Unsupported { device: self.device.report.to_string(), what });
        }
        let pipeline = self.device.pipeline(launch.kernel, launch.constants)?;
        debug_assert_eq!(launch.operands.len(), launch.kernel.operands.len(), "{}", launch.kernel.name);
        let mut recorder = self.device.recorder();
        let group = recorder.bind_group(&self.device, &pipeline, launch.operands);
        let parameters = recorder.parameters(launch.params);
        recorder.touch(launch.operands.iter().map(|operand| operand.id));
        let (name, work) = (launch.kernel.name, launch.work);
        recorder.push(Command::Launch { name, pipeline, group, parameters, grid: [x, y], work });
        if recorder.is_full() { recorder.flush(&self.device) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::grid;

    #[test]
    fn grids_cover_all_workgroups() {
        for (workgroups, limit) in [(1, 65535), (65535, 65535), (65536, 65535), (1_000_003, 65535), (10, 3)] {
            let [x, y] = grid(workgroups, limit);
            assert!(x <= limit && x as usize * y as usize >= workgroups, "{workgroups}: {x} × {y}");
            assert!(x as usize * (y as usize - 1) < workgroups, "{workgroups}: a row too many");
        }
    }
}
