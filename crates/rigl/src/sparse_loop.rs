//! A method at work on the parameters of a tape: the loop of [`crate::method`] as a type.
//!
//! Everything that is not topology stays the caller's: the data, the network, the loss, the learning rate.
//!
//! ```
//! use autograd::optim::{AdamOptions, OptimizerOptions};
//! use rigl::{MethodOptions, SparseLoop, UpdateSchedule, build_method};
//! use sparse_kernels::cpu::Cpu;
//! use sparse_kernels::random::Key;
//! use sparse_kernels::{PointwiseLoss, Storage, StripLayout, Strips};
//!
//! let cpu = Cpu::new(1, None)?;
//! let schedule = UpdateSchedule::new(rigl::ScheduleOptions {
//!     begin_step: 50,
//!     update_interval: 50,
//!     ..rigl::ScheduleOptions::for_steps(600)
//! })?;
//! let method = build_method("rigl", &MethodOptions::new(schedule, 600))?;
//! let mut net = SparseLoop::new(&cpu, method);
//! // Eight features, of which two count, 32 hidden units, one output: half of the weights exist.
//! let hidden = net.linear("hidden", [32, 8], 0.5, Key::new(1))?;
//! let output = net.linear("output", [1, 32], 0.5, Key::new(1))?;
//! net.optimize(OptimizerOptions::Adam(AdamOptions::default()))?;
//!
//! let key = Key::new(2);
//! let mut last = f32::NAN;
//! for step in 0..600 {
//!     let bit = |lane: usize, feature: usize| key.with(step).below((8 * lane + feature) as u64, 2) as f32;
//!     let (x, t) = (StripLayout::sparse(64, 8), StripLayout::sparse(64, 1));
//!     let mut inputs = vec![0.0; x.len()];
//!     let mut targets = vec![0.0; t.len()];
//!     for lane in 0..64 {
//!         (0..8).for_each(|f| inputs[x.index(f, lane)] = 2.0 * bit(lane, f) - 1.0);
//!         targets[t.index(0, lane)] = (bit(lane, 0) - bit(lane, 1)).abs(); // exclusive or
//!     }
//!     let stats = net.step(0.01, |tape| {
//!         let x = tape.input(Strips { layout: x, data: cpu.uploaded(&inputs)? }, false);
//!         let t = tape.input(Strips { layout: t, data: cpu.uploaded(&targets)? }, false);
//!         let h = tape.apply_bias_relu(hidden.weight, hidden.bias, true, x)?;
//!         let y = tape.apply_bias_relu(output.weight, output.bias, false, h)?;
//!         tape.pointwise_loss(PointwiseLoss::BinaryCrossEntropy, y, t)
//!     })?;
//!     last = stats.mean();
//! }
//! assert!(last < 0.1, "{last}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::sync::Arc;

use autograd::init::{FanIn, Initializer};
use autograd::optim::{Optimizer, OptimizerOptions};
use autograd::{
    Arena, GrowthPasses, GrowthRequests, Loss, LossStats, Mode, NoReduce, ParameterId, Parameters, Tape, Var,
};
use sparse_kernels::random::Key;
use sparse_kernels::{Activations, Backend, BackendError, CsrPattern, PlanOptions, StripLayout};

use crate::method::{GradientNeed, LayerUpdate, Layers, Method, MethodError, WeightStorage};
use crate::topology::{self, TopologyError};

/// Why a loop stops.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoopError {
    /// The method stores weights in a way that the loop does not.
    #[error("method {method} does not keep its weights sparse from the start; use one that does, such as rigl or set")]
    Storage {
        /// The method.
        method: &'static str,
    },
    /// A density that is none.
    #[error("layer {layer}: the density is {density}; it must be above 0 and at most 1")]
    Density {
        /// The layer.
        layer: String,
        /// What was asked for.
        density: f64,
    },
    /// A step before [`SparseLoop::optimize`].
    #[error("there is no optimizer; call `optimize` after the last parameter was added")]
    NoOptimizer,
    /// The pattern cannot be made.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The tape, an optimizer or the backend failed.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
    /// The method failed.
    #[error(transparent)]
    Method(#[from] MethodError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// A linear layer of a [`SparseLoop`].
#[derive(Debug, Clone, Copy)]
pub struct LinearIds {
    /// The weight, `[outputs, inputs]`.
    pub weight: ParameterId,
    /// The bias, one value an output.
    pub bias: ParameterId,
}

/// Parameters in training by a method. See the [module](self).
#[derive(Debug)]
pub struct SparseLoop<'b, B: Backend> {
    /// All parameters; those that the method does not manage may be added and changed at will before
    /// [`SparseLoop::optimize`].
    pub parameters: Parameters<B>,
    backend: &'b B,
    method: Box<dyn Method>,
    optimizer: Option<Optimizer>,
    arena: Arena<B>,
    managed: Managed,
    step: u64,
    started: bool,
}

/// The layers whose topology the method changes.
#[derive(Debug, Default)]
struct Managed {
    numbers: Vec<usize>,
    weights: Vec<ParameterId>,
    targets: Vec<usize>,
}

impl<'b, B: Backend> SparseLoop<'b, B> {
    /// A loop without parameters yet.
    pub fn new(backend: &'b B, method: Box<dyn Method>) -> Self {
        Self {
            parameters: Parameters::new(),
            backend,
            method,
            optimizer: None,
            arena: Arena::new(),
            managed: Managed::default(),
            step: 0,
            started: false,
        }
    }

    /// Adds a linear layer `[outputs, inputs]` with a random pattern of this density, weights by Glorot's rule for the inputs
    /// that exist, and a bias of zeros. The method manages it unless its density is 1.
    ///
    /// # Errors
    /// [`LoopError`] if the density is none, or memory runs out.
    pub fn linear(
        &mut self,
        name: &str,
        [outputs, inputs]: [usize; 2],
        density: f64,
        key: Key,
    ) -> Result<LinearIds, LoopError> {
        if !(density > 0.0 && density <= 1.0) {
            return Err(LoopError::Density { layer: name.to_owned(), density });
        }
        let (key, size) = (key.with_name(name), outputs * inputs);
        let nnz = ((density * size as f64).round() as usize).clamp(1, size);
        let pattern = Arc::new(topology::random_pattern(outputs, inputs, nnz, key)?);
        let values = Initializer::XavierUniform.sparse(&pattern, FanIn::Sparse, key.with_name("values"));
        let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: true };
        let geometry = autograd::Geometry::Linear { nrows: outputs, ncols: inputs, options };
        let weight = geometry.csr(self.backend, pattern, self.backend.uploaded(&values)?)?;
        let weight = self.parameters.add_weight(format!("{name}.weight"), weight);
        let bias = self.parameters.add_vector(format!("{name}.bias"), self.backend.zeros(outputs)?);
        if nnz < size {
            self.manage(weight, nnz);
        }
        Ok(LinearIds { weight, bias })
    }

    /// Lets the method change the topology of a sparse weight that was added to [`SparseLoop::parameters`], which the
    /// distribution gives so many entries (blocks, of a weight in blocks).
    pub fn manage(&mut self, weight: ParameterId, entries: usize) {
        self.managed.numbers.push(self.managed.numbers.len());
        self.managed.weights.push(weight);
        self.managed.targets.push(entries);
    }

    /// Gives all parameters the slots of an optimizer. Call it once, after the last parameter was added.
    ///
    /// # Errors
    /// [`LoopError::Storage`] if the method does not keep weights sparse; if memory runs out.
    pub fn optimize(&mut self, options: OptimizerOptions) -> Result<(), LoopError> {
        let info = self.method.info();
        if info.storage != WeightStorage::Sparse {
            return Err(LoopError::Storage { method: info.name });
        }
        self.optimizer = Some(Optimizer::new(options, self.backend, &mut self.parameters)?);
        Ok(())
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// One step: `forward` puts the network and its loss on a tape; then come the backward pass, the optimizer and, when the
    /// method wants it, an update of the topology.
    ///
    /// # Errors
    /// What `forward`, the method or the backend fails with.
    pub fn step(
        &mut self,
        learning_rate: f32,
        forward: impl FnOnce(&mut Tape<'_, B>) -> Result<Loss, autograd::Error>,
    ) -> Result<LossStats, LoopError> {
        self.advance(learning_rate, |tape, growth| {
            let loss = forward(tape)?;
            if let Some(growth) = growth {
                tape.backward(&[loss], growth, &mut NoReduce)?;
            }
            tape.read_loss(loss)
        })
    }

    /// As [`SparseLoop::step`], with a loss of one's own: `forward` returns values of the tape with the loss's gradients by
    /// them, in their layouts.
    ///
    /// # Errors
    /// As [`SparseLoop::step`].
    pub fn step_from(
        &mut self,
        learning_rate: f32,
        forward: impl FnOnce(&mut Tape<'_, B>) -> Result<Vec<(Var, Activations<B>)>, autograd::Error>,
    ) -> Result<(), LoopError> {
        self.advance(learning_rate, |tape, growth| {
            let seeds = forward(tape)?;
            growth.map_or(Ok(()), |growth| tape.backward_from(seeds, growth, &mut NoReduce))
        })
    }

    /// A step around `pass`, which makes the backward pass too if it is given requests.
    fn advance<T>(
        &mut self,
        learning_rate: f32,
        pass: impl FnOnce(&mut Tape<'_, B>, Option<&mut GrowthRequests>) -> Result<T, autograd::Error>,
    ) -> Result<T, LoopError> {
        if self.optimizer.is_none() {
            return Err(LoopError::NoOptimizer);
        }
        if !std::mem::replace(&mut self.started, true) {
            let updates = self.method.start(&self.managed.on(self.backend, &self.parameters))?;
            self.apply(updates)?;
        }
        let layers = self.managed.on(self.backend, &self.parameters);
        let intent = self.method.before_gradient(self.step, &layers)?;
        let mut growth = GrowthRequests::new();
        let mut backward = intent.optimizer_step;
        for (&weight, need) in self.managed.weights.iter().zip(&intent.needs) {
            backward |= *need != GradientNeed::None;
            match need {
                GradientNeed::Growth(request) => growth.add(weight, GrowthPasses::One, request.clone()),
                GradientNeed::Explore(request) => growth.explore(weight, GrowthPasses::One, request.clone()),
                GradientNeed::Dense => growth.add_dense(weight),
                GradientNeed::None | GradientNeed::Sampled => {}
            }
        }
        let mut tape = Tape::new(self.backend, &mut self.arena, &mut self.parameters, Mode::Training);
        let passed = pass(&mut tape, backward.then_some(&mut growth))?;
        drop(tape);
        let candidates = self.managed.weights.iter().map(|&weight| growth.take(weight).unwrap_or_default()).collect();
        let layers = self.managed.on(self.backend, &self.parameters);
        let updates = self.method.after_gradient(self.step, &layers, candidates)?;
        self.apply(updates)?;
        if let (true, Some(optimizer)) = (intent.optimizer_step, &mut self.optimizer) {
            optimizer.step(self.backend, &mut self.parameters, learning_rate)?;
        }
        self.step += u64::from(intent.advance_counter);
        if intent.optimizer_step {
            let layers = self.managed.on(self.backend, &self.parameters);
            let updates = self.method.after_optimizer(self.step, learning_rate, &layers)?;
            self.apply(updates)?;
        }
        self.backend.submit()?;
        Ok(passed)
    }

    fn apply(&mut self, updates: Vec<LayerUpdate>) -> Result<(), LoopError> {
        for LayerUpdate { layer, pattern, map, values } in updates {
            let weight = self.managed.weights[layer];
            if !self.parameters.topology(self.backend, weight).is_some_and(|old| Arc::ptr_eq(old, &pattern)) {
                self.parameters.replace_pattern(self.backend, weight, pattern, &map)?;
            }
            if let Some(values) = values {
                self.parameters.upload_values(self.backend, weight, &values)?;
            }
        }
        Ok(())
    }
}

impl Managed {
    fn on<'a, B: Backend>(&'a self, backend: &'a B, parameters: &'a Parameters<B>) -> ManagedLayers<'a, B> {
        ManagedLayers { managed: self, backend, parameters }
    }
}

/// The managed layers, as methods see them.
struct ManagedLayers<'a, B: Backend> {
    managed: &'a Managed,
    backend: &'a B,
    parameters: &'a Parameters<B>,
}

impl<B: Backend> ManagedLayers<'_, B> {
    fn missing(&self, layer: usize, what: &'static str) -> MethodError {
        MethodError::Missing { layer: self.name(layer).to_owned(), what }
    }
}

impl<B: Backend> Layers for ManagedLayers<'_, B> {
    fn numbers(&self) -> &[usize] {
        &self.managed.numbers
    }

    fn name(&self, layer: usize) -> &str {
        self.parameters.get(self.managed.weights[layer]).name()
    }

    fn pattern(&self, layer: usize) -> &Arc<CsrPattern> {
        let pattern = self.parameters.topology(self.backend, self.managed.weights[layer]);
        pattern.expect("a managed weight is sparse")
    }

    fn values(&self, layer: usize) -> Result<Vec<f32>, BackendError> {
        let weight = self.managed.weights[layer];
        let values = self.backend.downloaded(self.parameters.get(weight).value().values())?;
        match self.parameters.block_pattern(self.backend, weight) {
            Some(pattern) => Ok(pattern.block_norms(&values)?),
            None => Ok(values),
        }
    }

    fn target_nnz(&self, layer: usize) -> usize {
        self.managed.targets[layer]
    }

    fn gradient(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        let weight = self.managed.weights[layer];
        let found = self.parameters.download_gradient(self.backend, weight).ok().flatten();
        let gradient = found.ok_or_else(|| self.missing(layer, "gradient"))?;
        match self.parameters.block_pattern(self.backend, weight) {
            Some(pattern) => Ok(pattern.block_norms(&gradient).map_err(BackendError::from)?),
            None => Ok(gradient),
        }
    }

    fn dense_gradient(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        let found = self.parameters.download_dense_gradient(self.backend, self.managed.weights[layer]);
        found.ok().flatten().ok_or_else(|| self.missing(layer, "dense gradient"))
    }
}

#[cfg(test)]
mod tests {
    use autograd::optim::SgdOptions;
    use sparse_kernels::cpu::Cpu;
    use sparse_kernels::{PointwiseLoss, Storage, Strips};

    use super::*;
    use crate::{MethodOptions, ScheduleOptions, UpdateSchedule, build_method};

    fn method(name: &str) -> Box<dyn Method> {
        let options = ScheduleOptions { begin_step: 4, update_interval: 4, ..ScheduleOptions::for_steps(40) };
        build_method(name, &MethodOptions::new(UpdateSchedule::new(options).unwrap(), 40)).unwrap()
    }

    /// Of every method that keeps weights sparse: the pattern changes, its size stays, and the loss falls.
    #[test]
    fn methods_change_the_pattern_and_keep_its_size() {
        let cpu = Cpu::new(1, None).unwrap();
        for (name, changes) in [("static", false), ("set", true), ("rigl", true), ("gse", true), ("snfs", true)] {
            let mut net = SparseLoop::new(&cpu, method(name));
            let layer = net.linear("layer", [3, 20], 0.2, Key::new(1)).unwrap();
            let dense = net.linear("dense", [2, 3], 1.0, Key::new(1)).unwrap();
            assert_eq!(net.managed.numbers.len(), 1);
            net.optimize(OptimizerOptions::Sgd(SgdOptions::default())).unwrap();
            let before = net.parameters.topology(&cpu, layer.weight).unwrap().clone();
            let (layout, of_targets) = (StripLayout::sparse(32, 20), StripLayout::sparse(32, 2));
            let mut numbers = vec![0.0; layout.len()];
            (0..32).for_each(|n| {
                (0..20).for_each(|f| numbers[layout.index(f, n)] = Key::new(3).normal(20 * n as u64 + f as u64))
            });
            let mut targets = vec![0.0; of_targets.len()];
            (0..32).for_each(|n| targets[of_targets.index(n % 2, n)] = numbers[layout.index(7, n)]);
            let mut losses = vec![];
            for _ in 0..40 {
                let stats = net.step(0.05, |tape| {
                    let x = tape.input(Strips { layout, data: cpu.uploaded(&numbers)? }, false);
                    let t = tape.input(Strips { layout: of_targets, data: cpu.uploaded(&targets)? }, false);
                    let h = tape.apply_bias_relu(layer.weight, layer.bias, true, x)?;
                    let y = tape.apply_bias_relu(dense.weight, dense.bias, false, h)?;
                    tape.pointwise_loss(PointwiseLoss::Squared, y, t)
                });
                losses.push(stats.unwrap().mean());
            }
            let after = net.parameters.topology(&cpu, layer.weight).unwrap();
            assert_eq!((after.nnz(), net.steps()), (12, 40), "{name}");
            assert_eq!(**after != *before, changes, "{name}");
            assert!(losses[39] < losses[0], "{name}: {losses:?}");
        }
    }

    /// A layer of 40 billion positions, whose dense gradient would take 160 GB: updates of GSE need no more than the steps.
    #[test]
    fn layers_too_wide_for_a_dense_gradient_are_rewired() {
        const WIDTH: usize = 200_000;
        let cpu = Cpu::new(1, None).unwrap();
        let mut net = SparseLoop::new(&cpu, method("gse"));
        let layer = net.linear("layer", [WIDTH, WIDTH], 2.0 / WIDTH as f64, Key::new(1)).unwrap();
        net.optimize(OptimizerOptions::Sgd(SgdOptions::default())).unwrap();
        let before = net.parameters.topology(&cpu, layer.weight).unwrap().clone();
        let layout = StripLayout::sparse(4, WIDTH);
        let numbers: Vec<f32> = (0..layout.len() as u64).map(|i| Key::new(3).normal(i)).collect();
        let targets = vec![1.0; layout.len()];
        for _ in 0..5 {
            let stats = net.step(0.05, |tape| {
                let x = tape.input(Strips { layout, data: cpu.uploaded(&numbers)? }, false);
                let t = tape.input(Strips { layout, data: cpu.uploaded(&targets)? }, false);
                let y = tape.apply_bias_relu(layer.weight, layer.bias, false, x)?;
                tape.pointwise_loss(PointwiseLoss::Squared, y, t)
            });
            stats.unwrap();
        }
        let after = net.parameters.topology(&cpu, layer.weight).unwrap();
        let is_old = |&(row, column): &(u32, u32)| before.row(row as usize).binary_search(&column).is_ok();
        let stayed = after.positions().filter(is_old).count();
        // The update at step 4 drops three tenths; of positions drawn among so many none was there before.
        assert_eq!((after.nnz(), stayed), (2 * WIDTH, 2 * WIDTH - (0.3 * 2.0 * WIDTH as f64) as usize));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let cpu = Cpu::new(1, None).unwrap();
        let mut net = SparseLoop::new(&cpu, method("gmp"));
        assert!(matches!(net.linear("a", [2, 2], 0.0, Key::new(0)), Err(LoopError::Density { .. })));
        let error = net.optimize(OptimizerOptions::Sgd(SgdOptions::default())).unwrap_err().to_string();
        assert!(error.starts_with("method gmp does not keep its weights sparse"), "{error}");
        let error = net.step(0.1, |_| unreachable!("nothing runs")).unwrap_err();
        assert!(matches!(error, LoopError::NoOptimizer));
    }
}
