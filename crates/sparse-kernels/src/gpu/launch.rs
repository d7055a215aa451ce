//! Launches into the queue.

use super::Gpu;
use super::kernel::Launch;
use super::recorder::Command;
use crate::BackendError;

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
            return Err(self.unsupported(format!("{} workgroups of {}", launch.workgroups, launch.kernel.name)));
        }
        let pipeline = self.device.pipeline(launch.kernel, launch.constants)?;
        debug_assert_eq!(launch.operands.len(), launch.kernel.operands.len(), "{}", launch.kernel.name);
        let mut recorder = self.recorder();
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
