//! The state of a training loop in a checkpoint, and back.

use ranks::{RankReduce, RanksError};
use rigl::MethodState;
use serde::{Deserialize, Serialize};
use sparse_kernels::Backend;

use super::error::TrainingError;
use super::trainer::{Trainer, locked};
use crate::checkpoint::{Checkpoint, CheckpointError, TensorData};
use crate::models::{Layer, ModelInput, StoredModel};

/// Ends the name of the tensor with the weights behind those that take part.
const LATENT: &str = ".weight.latent";
/// Begins the names of the tensors that hold a method's arrays.
const OF_METHOD: &str = "method.";
/// Begins the names of the tensors that hold the states of recurrent layers, by part of the batch and layer.
const OF_STATE: &str = "state.";

/// What a checkpoint holds of a training loop beside tensors.
#[derive(Debug, Serialize, Deserialize)]
struct TrainingState {
    /// With the counters, the state of all random numbers.
    seed: u64,
    step: u64,
    batches: u64,
    optimizer: String,
    optimizer_steps: u64,
    method: MethodState,
}

/// The states of the recurrent layers in each shard, from those of the own shards.
fn states_of_all_ranks(of_parts: Vec<Vec<Vec<f32>>>, ranks: &mut RankReduce) -> Result<Vec<Vec<Vec<f32>>>, RanksError> {
    let own = of_parts.get(ranks.own()).unwrap_or_default();
    let mut message = Vec::new();
    for layers in own {
        message.extend((layers.len() as u64).to_le_bytes());
        for values in layers {
            message.extend((values.len() as u64).to_le_bytes());
            message.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        }
    }
    let all = ranks.gather_any(&message)?.concat();
    let (mut rest, mut of_parts) = (&all[..], vec![]);
    while !rest.is_empty() {
        let layers = number(&mut rest);
        of_parts.push((0..layers).map(|_| numbers(&mut rest)).collect());
    }
    Ok(of_parts)
}

/// Takes a number from the front.
fn number(bytes: &mut &[u8]) -> usize {
    let (first, rest) = bytes.split_at(8);
    *bytes = rest;
    u64::from_le_bytes(first.try_into().expect("8 bytes")) as usize
}

/// Takes as many numbers from the front as the first one says.
fn numbers(bytes: &mut &[u8]) -> Vec<f32> {
    let count = number(bytes);
    let (first, rest) = bytes.split_at(4 * count);
    *bytes = rest;
    first.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("4 bytes"))).collect()
}

impl<B: Backend> Trainer<'_, B> {
    /// The state between two steps: weights, patterns, optimizer slots, and all counters. `input` says what the model's
    /// inputs are made from, for those who use it. Equal states make equal bytes.
    ///
    /// # Errors
    /// If the backend fails.
    ///
    /// # Cost
    /// A copy of weights, patterns and slots on the host.
    pub fn checkpoint(&self, input: Option<ModelInput>) -> Result<Checkpoint, TrainingError> {
        let mut checkpoint = self.network.to_stored(self.backend, input)?.to_checkpoint();
        for (name, id, slot) in self.slots() {
            let values = self.network.parameters.download_slot(self.backend, id, slot)?;
            checkpoint.tensors.insert(name, TensorData::f32s(values));
        }
        for (layer, id) in self.latent() {
            let values = self.network.parameters.download_values(self.backend, id)?;
            checkpoint.tensors.insert(format!("{layer}{LATENT}"), TensorData::f32s(values));
        }
        let mut method = self.method.state();
        for (name, values) in std::mem::take(&mut method.arrays) {
            checkpoint.tensors.insert(format!("{OF_METHOD}{name}"), TensorData::f32s(values));
        }
        let state = TrainingState {
            seed: self.options.seed,
            step: self.step,
            batches: self.batches,
            optimizer: self.optimizer.name().to_owned(),
            optimizer_steps: self.optimizer.steps(),
            method,
        };
        let mut of_parts = vec![];
        for states in &self.workspace.states.training {
            of_parts.push(states.download(self.backend)?);
        }
        if let Some(ranks) = &self.ranks {
            of_parts = states_of_all_ranks(of_parts, &mut locked(ranks))?;
        }
        for (part, states) in of_parts.into_iter().enumerate() {
            for (i, values) in states.into_iter().enumerate() {
                checkpoint.tensors.insert(format!("{OF_STATE}{part}.{i}"), TensorData::f32s(values));
            }
        }
        checkpoint.set_section("training", &state);
        Ok(checkpoint)
    }

    /// Goes back to a state: the next step is the one that followed [`Trainer::checkpoint`].
    ///
    /// # Errors
    /// If the state is of another model, seed, optimizer or method, or incomplete. The trainer then is as it was, unless
    /// it is the backend that failed.
    pub fn restore(&mut self, checkpoint: &Checkpoint) -> Result<(), TrainingError> {
        let mut state: TrainingState = checkpoint.section("training")?;
        for name in checkpoint.tensors.keys().filter_map(|name| name.strip_prefix(OF_METHOD)) {
            let values = checkpoint.f32s(&format!("{OF_METHOD}{name}"))?.to_vec();
            state.method.arrays.insert(name.to_owned(), values);
        }
        let stored = StoredModel::from_checkpoint(checkpoint)?;
        if state.seed != self.options.seed {
            return Err(CheckpointError::mismatch("the seed", state.seed, self.options.seed).into());
        }
        if state.optimizer != self.optimizer.name() {
            return Err(CheckpointError::mismatch("the optimizer", state.optimizer, self.optimizer.name()).into());
        }
        if stored.architecture()? != self.network.architecture {
            let expected = self.network.architecture.name();
            return Err(CheckpointError::mismatch("the model", stored.name(), expected).into());
        }
        for (layer, stored) in self.network.body.layers.iter().zip(&stored.layers) {
            let (got, expected) = (stored.weight.storage(), self.network.storage(self.backend, layer));
            let pruned_since = layer.is_still_dense() && stored.weight.is_sparse();
            if got != expected && !pruned_since {
                let what = format!("the storage of layer {}", layer.name);
                return Err(CheckpointError::mismatch(what, got, expected).into());
            }
            let is_latent = self.latent().any(|(_, id)| id == layer.weight);
            let learned = if is_latent { stored.weight.shape().iter().product() } else { stored.weight.nnz() };
            if is_latent {
                let name = format!("{}{LATENT}", layer.name);
                let got = checkpoint.f32s(&name)?.len();
                if got != learned {
                    return Err(
                        CheckpointError::mismatch(format!("the number of values of {name}"), got, learned).into()
                    );
                }
            }
            self.check_slots(checkpoint, &format!("{}.weight", layer.name), learned)?;
            if layer.bias.is_some() {
                self.check_slots(checkpoint, &format!("{}.bias", layer.name), stored.bias.len())?;
            }
        }
        let norms = stored.parts.iter().flat_map(|parts| &parts.norms);
        for norm in norms.clone() {
            self.check_slots(checkpoint, &format!("{}.affine", norm.name), norm.affine.len())?;
        }
        self.method.restore(&state.method)?;
        let latent: Vec<_> = self.latent().map(|(_, id)| id).collect();
        for (i, stored) in stored.layers.iter().enumerate() {
            if let Some(topology) = stored.weight.topology() {
                self.network.replace_topology(self.backend, i, topology.clone())?;
            }
            let layer = &self.network.body.layers[i];
            let values = match latent.contains(&layer.weight) {
                true => checkpoint.f32s(&format!("{}{LATENT}", layer.name))?,
                false => stored.weight.values(),
            };
            let parameters = &mut self.network.parameters;
            parameters.upload_values(self.backend, layer.weight, values)?;
            if let Some(bias) = layer.bias {
                parameters.upload_values(self.backend, bias, &stored.bias)?;
            }
        }
        for (norm, stored) in self.network.body.norms.iter().zip(norms) {
            self.network.parameters.upload_values(self.backend, norm.affine(), &stored.affine)?;
            if let Some(norm) = norm.batch() {
                self.network.parameters.upload_values(self.backend, norm.running, &stored.running)?;
            }
        }
        for (name, id, slot) in self.slots() {
            self.network.parameters.upload_slot(self.backend, id, slot, checkpoint.f32s(&name)?)?;
        }
        let stored_state =
            |part: usize, i: usize| Some(checkpoint.f32s(&format!("{OF_STATE}{part}.{i}")).ok()?.to_vec());
        let of_part = |part| (0..).map_while(|i| stored_state(part, i)).collect::<Vec<_>>();
        let held = (0..).map(of_part).take_while(|states| !states.is_empty());
        let body = &self.network.body;
        self.workspace.states.training =
            held.map(|states| body.upload_states(self.backend, &states)).collect::<Result<_, _>>()?;
        self.optimizer.set_steps(state.optimizer_steps);
        self.update = None;
        self.unread.clear();
        (self.step, self.batches) = (state.step, state.batches);
        Ok(())
    }

    /// Name and weight of every layer with weights behind those that take part.
    fn latent(&self) -> impl Iterator<Item = (&str, autograd::ParameterId)> {
        let latent = |layer: &&Layer| self.network.weight(layer.weight).is_latent();
        self.network.body.layers.iter().filter(latent).map(|layer| (&*layer.name, layer.weight))
    }

    /// Name in a checkpoint, parameter and name of every optimizer slot.
    fn slots(&self) -> Vec<(String, autograd::ParameterId, &'static str)> {
        let mut slots = Vec::new();
        for (id, parameter) in self.network.parameters.iter().filter(|(_, p)| p.value().is_learned()) {
            let name = parameter.name();
            slots.extend(self.optimizer.slots().iter().map(|&slot| (format!("{name}.{slot}"), id, slot)));
        }
        slots
    }

    /// A checkpoint must have a parameter's slots.
    fn check_slots(&self, checkpoint: &Checkpoint, parameter: &str, length: usize) -> Result<(), CheckpointError> {
        for slot in self.optimizer.slots() {
            let name = format!("{parameter}.{slot}");
            let got = checkpoint.f32s(&name)?.len();
            if got != length {
                let what = format!("the number of values of {name}");
                return Err(CheckpointError::mismatch(what, got, length));
            }
        }
        Ok(())
    }
}
