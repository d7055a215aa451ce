//! The methods of the crate `rigl`, on the layers of a model in Python.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rigl::{
    DropSchedule, GradientNeed, LayerUpdate, Layers, LoopSemantics, Method, MethodOptions, MethodState,
    ScheduleOptions, UpdateSchedule, build_method,
};
use sparse_kernels::{BackendError, CsrPattern};

use crate::engine::engine;
use crate::value_error;
use crate::weight::Weight;

/// A layer's new topology.
#[pyclass(frozen, module = "rigl._rigl")]
#[derive(Debug)]
pub struct Update {
    /// The layer's number.
    #[pyo3(get)]
    layer: usize,
    weight: Py<Weight>,
    /// For each new value its old place; -1 for a newcomer.
    map: Vec<i32>,
}

#[pymethods]
impl Update {
    /// The weight with its new pattern.
    #[getter]
    fn weight(&self, py: Python<'_>) -> Py<Weight> {
        self.weight.clone_ref(py)
    }

    /// For each value of the new pattern its place in the old one, -1 for a newcomer: 32-bit integers.
    fn map<'py>(&self, py: Python<'py>) -> Bound<'py, pyo3::types::PyByteArray> {
        let bytes: Vec<u8> = self.map.iter().flat_map(|place| place.to_ne_bytes()).collect();
        pyo3::types::PyByteArray::new(py, &bytes)
    }
}

/// A managed layer.
#[derive(Debug)]
struct Managed {
    name: String,
    weight: Py<Weight>,
    pattern: Arc<CsrPattern>,
    target: usize,
}

/// A method at work on some layers. The package calls it around each step, and moves what the updates move.
#[pyclass(module = "rigl._rigl")]
#[derive(Debug)]
pub struct Scheduler {
    method: Mutex<Box<dyn Method>>,
    layers: Vec<Managed>,
    numbers: Vec<usize>,
}

/// What a method sees: patterns, and values that the package holds.
struct View<'a> {
    layers: &'a [Managed],
    numbers: &'a [usize],
    values: &'a Values,
}

impl Layers for View<'_> {
    fn numbers(&self) -> &[usize] {
        self.numbers
    }

    fn name(&self, layer: usize) -> &str {
        &self.layers[layer].name
    }

    fn pattern(&self, layer: usize) -> &Arc<CsrPattern> {
        &self.layers[layer].pattern
    }

    fn values(&self, layer: usize) -> Result<Vec<f32>, BackendError> {
        let (address, len) = self.values[layer];
        // SAFETY: the package holds a tensor of this length.
        let values = if len == 0 { &[] } else { unsafe { std::slice::from_raw_parts(address as *const f32, len) } };
        self.layers[layer].weight.get().magnitudes(values)
    }

    fn target_nnz(&self, layer: usize) -> usize {
        self.layers[layer].target
    }
}

/// Address and length of each layer's values.
type Values = Vec<(usize, usize)>;

impl Scheduler {
    fn method(&self) -> MutexGuard<'_, Box<dyn Method>> {
        self.method.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn applied(&mut self, py: Python<'_>, updates: Vec<LayerUpdate>) -> PyResult<Vec<Update>> {
        let mut applied = vec![];
        for LayerUpdate { layer, pattern, map, .. } in updates {
            let managed = &mut self.layers[layer];
            if Arc::ptr_eq(&managed.pattern, &pattern) {
                continue;
            }
            let old = managed.weight.get();
            let size = old.block().map_or(1, |[r, c]| r * c);
            let weight = Py::new(py, old.with_pattern(pattern.clone())?)?;
            let place = |entry: u32, i: usize| if entry == u32::MAX { -1 } else { (entry as usize * size + i) as i32 };
            let map = map.iter().flat_map(|&entry| (0..size).map(move |i| place(entry, i))).collect();
            managed.pattern = pattern;
            managed.weight = weight.clone_ref(py);
            applied.push(Update { layer, weight, map });
        }
        Ok(applied)
    }
}

#[pymethods]
impl Scheduler {
    /// A method on layers, each with its name, weight, and how many entries it is to have.
    #[new]
    #[expect(clippy::too_many_arguments, reason = "what a schedule has")]
    fn new(
        method: &str,
        layers: Vec<(String, Py<Weight>, usize)>,
        begin_step: u64,
        end_step: Option<u64>,
        update_interval: u64,
        drop_fraction: f64,
        drop_schedule: &str,
        drop_exponent: f64,
        seed: u64,
        parameters: BTreeMap<String, String>,
    ) -> PyResult<Self> {
        let drop_schedule: DropSchedule = drop_schedule.parse().map_err(value_error)?;
        let schedule = UpdateSchedule::new(ScheduleOptions {
            begin_step,
            end_step,
            update_interval,
            drop_fraction,
            drop_schedule,
            drop_exponent,
            end_inclusive: false,
            semantics: LoopSemantics::PAPER,
        });
        let mut options = MethodOptions::new(schedule.map_err(value_error)?, end_step.unwrap_or(u64::MAX));
        (options.seed, options.parameters) = (seed, parameters);
        let method = Mutex::new(build_method(method, &options).map_err(value_error)?);
        let numbers = (0..layers.len()).collect();
        let layers = layers.into_iter().map(|(name, weight, target)| {
            let pattern = weight.get().pattern().clone();
            Managed { name, weight, pattern, target }
        });
        Ok(Self { method, layers: layers.collect(), numbers })
    }

    /// Before the backward passes of a step: chooses what an update drops, and asks the layers for what it grows. Whether there is an
    /// update. `adds_up` says that the gradients of several passes are added up.
    fn before(&mut self, step: u64, values: Values, adds_up: bool) -> PyResult<bool> {
        let view = View { layers: &self.layers, numbers: &self.numbers, values: &values };
        let intent = self.method().before_gradient(step, &view).map_err(value_error)?;
        let mut any = !intent.optimizer_step;
        for (layer, need) in self.layers.iter().zip(intent.needs) {
            let mut growth = layer.weight.get().growth.lock().unwrap_or_else(PoisonError::into_inner);
            *growth = Default::default();
            match need {
                GradientNeed::Growth(request) => {
                    (growth.request, growth.adds_up) = (Some(request), adds_up);
                    any = true;
                }
                GradientNeed::None | GradientNeed::Sampled => {}
                GradientNeed::Explore(_) => {
                    return Err(PyValueError::new_err(
                        "methods that grow from a sample of positions are not supported",
                    ));
                }
                GradientNeed::Dense => {
                    return Err(PyValueError::new_err(
                        "methods that need the dense gradient at every step are not supported",
                    ));
                }
            }
        }
        Ok(any)
    }

    /// After the backward passes of a step that has an update: the changes of topology.
    fn after(
        &mut self,
        py: Python<'_>,
        step: u64,
        values: Values,
        learning_rate: f32,
        steps: bool,
    ) -> PyResult<Vec<Update>> {
        let cpu = engine(1)?;
        let mut candidates = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            candidates.push(layer.weight.get().take_found(&cpu)?.unwrap_or_default());
        }
        let view = View { layers: &self.layers, numbers: &self.numbers, values: &values };
        let mut method = self.method();
        let updates = if steps {
            method.after_optimizer(step, learning_rate, &view)
        } else {
            method.after_gradient(step, &view, candidates)
        };
        drop(method);
        self.applied(py, updates.map_err(value_error)?)
    }

    /// The method's state between two steps, as JSON.
    fn state(&self) -> PyResult<String> {
        serde_json::to_string(&self.method().state()).map_err(value_error)
    }

    /// Continues from a state.
    fn restore(&mut self, state: &str) -> PyResult<()> {
        let state: MethodState = serde_json::from_str(state).map_err(value_error)?;
        self.method().restore(&state).map_err(value_error)
    }
}
