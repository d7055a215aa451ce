//! Whether a step fits into memory: asked before anything is built, since a process that takes more than there is gets killed
//! without a word.

use sparse_kernels::Backend;
use sysinfo::System;

use crate::device::ComputeDevice;
use crate::models::{Architecture, activation_bytes};
use crate::settings::error::ConfigError;
use crate::training::TrainingError;

/// Bytes that are free for this process; `None` where the system does not tell.
pub fn available() -> Option<usize> {
    let mut system = System::new();
    system.refresh_memory();
    // A container's limit, where there is one, is what counts.
    let limit = system.cgroup_limits().map(|limits| limits.free_memory).filter(|&free| free > 0);
    let free = system.available_memory();
    let free = limit.map_or(free, |limit| limit.min(free));
    (free > 0).then(|| usize::try_from(free).unwrap_or(usize::MAX))
}

/// Checks that the activations of a step on `batch_size` samples have room. Weights, far smaller in a sparse network, are not
/// counted. A card with memory of its own does not tell how much is free: it refuses while the network is built.
///
/// # Errors
/// [`ConfigError::Memory`] if they have none.
pub fn check<B: ComputeDevice>(device: &B, architecture: &Architecture, batch_size: usize) -> crate::Result<()> {
    if !device.uses_host_memory() {
        return Ok(());
    }
    let Some(available) = available() else { return Ok(()) };
    check_against(available, device, architecture, batch_size)
}

/// Whether there is room for two networks' activations beside what is held already.
///
/// # Errors
/// If there is no such layout.
pub fn has_room_for_two<B: ComputeDevice>(
    device: &B,
    architecture: &Architecture,
    batch_size: usize,
) -> Result<bool, TrainingError> {
    if !device.uses_host_memory() {
        return Ok(true);
    }
    let needed = 2 * activation_bytes(device, architecture, true, batch_size)?;
    Ok(available().is_none_or(|available| needed <= available))
}

fn check_against<B: Backend>(
    available: usize,
    device: &B,
    architecture: &Architecture,
    batch_size: usize,
) -> crate::Result<()> {
    let bytes = |samples| -> Result<usize, TrainingError> { activation_bytes(device, architecture, true, samples) };
    let needed = bytes(batch_size)?;
    if needed <= available {
        return Ok(());
    }
    let mut fits = (batch_size as f64 * available as f64 / needed as f64) as usize;
    while fits > 0 && bytes(fits)? > available {
        fits /= 2;
    }
    let model = architecture.name().to_string();
    Err(ConfigError::Memory { model, batch_size, needed, available, fits }.into())
}

#[cfg(test)]
mod tests {
    use sparse_kernels::cpu::Cpu;

    use super::*;

    #[test]
    fn batches_without_room_are_refused() {
        let cpu = Cpu::new(1, None).unwrap();
        let wrn = Architecture::of(&"wrn-22-2".parse().unwrap());
        check_against(1 << 30, &cpu, &wrn, 128).unwrap();
        let message = check_against(1 << 30, &cpu, &wrn, 100_000).unwrap_err().to_string();
        assert!(message.starts_with("batch-size: a step of wrn-22-2 on 100000 samples needs about "), "{message}");
        let fits: usize = message.rsplit_once("batches of ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
        assert!((100..1000).contains(&fits), "{message}");
        check_against(1 << 30, &cpu, &wrn, fits).unwrap();
        assert!(!check_against(1 << 10, &cpu, &wrn, 1).unwrap_err().to_string().contains("would fit"));
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available().is_none_or(|bytes| bytes > 1 << 20));
    }
}
