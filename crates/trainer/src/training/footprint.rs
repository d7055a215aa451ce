//! What a step takes, found by a step that computes nothing.

use autograd::{GrowthRequests, Mode};
use sparse_kernels::Storage;
use sparse_kernels::cpu::Ledger;

use super::error::TrainingError;
use super::evaluator::{HostBatch, PassBatch, PassOptions, Workspace};
use super::loss::Loss;
use super::options::Held;
use crate::data::{BatchTargets, HostInputs, Lists};
use crate::models::{Architecture, Network};
use crate::task::LossKind;

/// Bytes of a training step's activations of `samples` samples, with their gradients and the copies in f32 that operations work on,
/// of a network on this ledger.
///
/// # Errors
/// If there is no such layout.
pub fn activation_bytes_of(
    ledger: &Ledger,
    network: &mut Network<Ledger>,
    samples: usize,
    held: Held,
) -> Result<usize, TrainingError> {
    let learned = network.parameters.iter().filter(|(_, p)| p.value().is_learned() && p.gradient().is_none());
    let gradients: usize = learned.map(|(_, p)| size_of::<f32>() * ledger.len(p.value().values())).sum();
    let before = ledger.held_bytes();
    let sequences = network.body.sequences(samples);
    let tokens = vec![0; sequences.map_or(samples, |sequences| sequences.lanes())];
    let [lists, labels] = [network.architecture.inputs(), network.architecture.classes()].map(|columns| {
        let mut lists = Lists::new(columns);
        (0..samples).for_each(|_| lists.push(&[], &[]));
        lists
    });
    // The numbers themselves are not read.
    let inputs = match sequences {
        Some(sequences) => HostInputs::Tokens { sequences, tokens: &tokens },
        None if network.body.reads_lists() => HostInputs::Lists(&lists),
        None => HostInputs::Values { layout: network.body.input_layout(samples), values: &[] },
    };
    let (targets, loss) = match network.body.reads_lists() {
        true => (BatchTargets::Labels(&labels), Loss::of(LossKind::Bce, 0.0, 1.0)),
        false => (BatchTargets::Classes(&tokens), Loss::default()),
    };
    let batch = HostBatch { inputs, targets, part_of: None };
    let dropout = if held.drops { 0.5 } else { 0.0 };
    let options = PassOptions { mode: Mode::Training, dropout, loss };
    let mut workspace = Workspace::new(ledger, held);
    workspace.pass(network, PassBatch::whole(batch), options, Some(&mut GrowthRequests::new()), None)?;
    Ok(ledger.peak_bytes().saturating_sub(before + gradients))
}

/// [`activation_bytes_of`] a network before anything of it is built: with a sparse linear layer, or all dense.
///
/// # Errors
/// If there is no such layout.
pub fn activation_bytes(
    architecture: &Architecture,
    any_sparse_linear: bool,
    samples: usize,
    held: Held,
) -> Result<usize, TrainingError> {
    let ledger = Ledger::new()?;
    let mut network = Network::blank(&ledger, architecture, any_sparse_linear, samples)?;
    activation_bytes_of(&ledger, &mut network, samples, held)
}
