//! Whether a step fits into memory: asked before anything is built, since a process that takes more than there is gets killed
//! without a word.

use autograd::optim::OptimizerOptions;
use rigl::{LayerDensity, WeightStorage};
use sysinfo::System;

use crate::device::ComputeDevice;
use crate::models::Architecture;
use crate::settings::TrainConfig;
use crate::settings::error::ConfigError;
use crate::training::{Held, TrainingError, activation_bytes};

/// Bytes that are free for this process; `None` where the system does not tell.
pub fn available() -> Option<usize> {
    let mut system = System::new();
    system.refresh_memory();
    // The limits of a container and of the process, where there are some, are what counts.
    let of_container = system.cgroup_limits().map(|limits| limits.free_memory).filter(|&free| free > 0);
    let free = [Some(system.available_memory()), of_container, address_space()].into_iter().flatten().min()?;
    (free > 0).then(|| usize::try_from(free).unwrap_or(usize::MAX))
}

/// Bytes that the process may still map, if its address space is limited (`ulimit -v`). Linux only.
fn address_space() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    free_address_space(&limits, &status)
}

fn free_address_space(limits: &str, status: &str) -> Option<u64> {
    let of = |text: &str, key: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
    };
    // The first has bytes, or the word "unlimited"; the second KiB.
    Some(of(limits, "Max address space")?.saturating_sub(1024 * of(status, "VmSize:")?))
}

/// Checks that the activations of a step on `batch_size` samples have room. Weights, far smaller in a sparse network, are not
/// counted. A card with memory of its own does not tell how much is free: it refuses while the network is built.
///
/// # Errors
/// [`ConfigError::Memory`] if they have none.
pub fn check<B: ComputeDevice>(
    device: &B,
    architecture: &Architecture,
    batch_size: usize,
    held: Held,
) -> crate::Result<()> {
    if !device.uses_host_memory() {
        return Ok(());
    }
    let Some(available) = available() else { return Ok(()) };
    check_against(available, architecture, batch_size, held)
}

/// Checks that weights have room beside the activations, as a method holds them when the run begins: values, gradients, optimizer
/// slots, the values as they are drawn, and of sparse layers both indices. The least that is needed, not all.
///
/// # Errors
/// [`ConfigError::WeightMemory`] if they have none.
pub fn check_weights<B: ComputeDevice>(
    device: &B,
    architecture: &Architecture,
    config: &TrainConfig,
    densities: &[LayerDensity],
    batch_size: usize,
) -> crate::Result<()> {
    if !device.uses_host_memory() {
        return Ok(());
    }
    let Some(available) = available() else { return Ok(()) };
    let activations = activation_bytes(architecture, true, batch_size, config.held())?;
    check_weights_against(available, config, densities, activations)
}

fn check_weights_against(
    available: usize,
    config: &TrainConfig,
    densities: &[LayerDensity],
    activations: usize,
) -> crate::Result<()> {
    let slots = match config.optimizer_options() {
        OptimizerOptions::Sgd(options) => usize::from(options.momentum > 0.0),
        OptimizerOptions::Adam(_) => 2,
    };
    let dense = |weights: usize| weights.saturating_mul(4 * (3 + slots));
    let sparse = |layer: &LayerDensity| match layer.nnz == layer.size {
        true => dense(layer.size),
        false => dense(layer.nnz).saturating_add(layer.nnz.saturating_mul(SPARSE_INDEX_BYTES)),
    };
    let sum = |bytes: &dyn Fn(&LayerDensity) -> usize| densities.iter().map(bytes).fold(0, usize::saturating_add);
    let if_sparse = sum(&sparse);
    let info = config.method.info();
    let weights = if info.storage == WeightStorage::Sparse { if_sparse } else { sum(&|layer| dense(layer.size)) };
    if weights.saturating_add(activations) <= available {
        return Ok(());
    }
    let (model, method) = (config.model.to_string(), info.name.to_owned());
    let if_sparse = (if_sparse + activations <= available).then_some(if_sparse);
    Err(ConfigError::WeightMemory { model, method, weights, activations, available, if_sparse }.into())
}

/// Of a sparse weight: its column, and column and place in the transposed order.
const SPARSE_INDEX_BYTES: usize = 12;

/// Whether there is room for two networks' activations beside what is held already.
///
/// # Errors
/// If there is no such layout.
pub fn has_room_for_two<B: ComputeDevice>(
    device: &B,
    architecture: &Architecture,
    batch_size: usize,
    held: Held,
) -> Result<bool, TrainingError> {
    if !device.uses_host_memory() {
        return Ok(true);
    }
    let needed = 2 * activation_bytes(architecture, true, batch_size, held)?;
    Ok(available().is_none_or(|available| needed <= available))
}

fn check_against(available: usize, architecture: &Architecture, batch_size: usize, held: Held) -> crate::Result<()> {
    let bytes = |samples| -> Result<usize, TrainingError> { activation_bytes(architecture, true, samples, held) };
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
    use super::*;
    use crate::method::Method;

    #[test]
    fn batches_without_room_are_refused() {
        let wrn = Architecture::of(&"wrn-22-2".parse().unwrap());
        check_against(1 << 30, &wrn, 128, Held::default()).unwrap();
        let message = check_against(1 << 30, &wrn, 100_000, Held::default()).unwrap_err().to_string();
        assert!(message.starts_with("batch-size: a step of wrn-22-2 on 100000 samples needs about "), "{message}");
        let fits: usize = message.rsplit_once("batches of ").unwrap().1.split(' ').next().unwrap().parse().unwrap();
        assert!((100..1000).contains(&fits), "{message}");
        check_against(1 << 30, &wrn, fits, Held::default()).unwrap();
        assert!(!check_against(1 << 10, &wrn, 1, Held::default()).unwrap_err().to_string().contains("would fit"));
    }

    #[test]
    fn weights_without_room_are_refused() {
        let check = |method: &str, density: f64| {
            let config = TrainConfig {
                model: "784-40000-40000-10".parse().unwrap(),
                method: Method::named(method),
                density,
                ..TrainConfig::default()
            };
            let architecture = Architecture::of(&config.model);
            let densities = config.sparsification().solve(&architecture).unwrap();
            check_weights_against(6 << 30, &config, &densities, 1 << 28).map_err(|error| error.to_string())
        };
        for method in ["snip", "gmp", "dnw"] {
            // 1.6 billion weights of 16 bytes.
            let message = check(method, 0.01).unwrap_err();
            let parts = [method, "784-40000-40000-10", "24.3 GiB", "only 6.00 GiB", "431 MiB"];
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
        assert!(check("dense", 1.0).unwrap_err().contains("24.3 GiB"));
        check("rigl", 0.01).unwrap();
        assert!(!check("rigl", 0.5).unwrap_err().contains("would need"));
    }

    #[test]
    fn the_address_space_may_be_limited() {
        let limits = |value: &str| {
            format!("Limit   Soft Limit  Hard Limit  Units\nMax address space    {value}   unlimited  bytes\n")
        };
        let status = "Name:\trigl\nVmPeak:\t  900 kB\nVmSize:\t  1000 kB\n";
        assert_eq!(free_address_space(&limits("6144000"), status), Some(5_120_000));
        assert_eq!(free_address_space(&limits("1000"), status), Some(0));
        assert_eq!(free_address_space(&limits("unlimited"), status), None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available().is_none_or(|bytes| bytes > 1 << 20));
    }
}
