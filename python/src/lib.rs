//! What the Python package `rigl` calls: sparse weights on the CPU, and the methods that change their topology.
//!
//! Tensors come as addresses. The package has checked their types, devices, shapes and that they are contiguous, and holds them
//! until a call returns. No panic leaves this module: it becomes a `RuntimeError`.

mod distribution;
mod engine;
mod scheduler;
mod weight;

use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// An error of a library as a Python exception.
pub(crate) fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Does the work without Python's lock.
pub(crate) fn detached<T: Send>(py: Python<'_>, work: impl FnOnce() -> PyResult<T> + Send) -> PyResult<T> {
    py.detach(|| catch_unwind(AssertUnwindSafe(work))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(PyRuntimeError::new_err(format!("rigl failed; please report it: {}", text.unwrap_or("no message"))))
    })
}

/// The module `rigl._rigl`.
#[pymodule]
fn _rigl(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<weight::Weight>()?;
    module.add_class::<scheduler::Scheduler>()?;
    module.add_class::<scheduler::Update>()?;
    module.add_function(wrap_pyfunction!(distribution::solve, module)?)?;
    module.add_function(wrap_pyfunction!(engine::after_fork, module)?)?;
    module.add_function(wrap_pyfunction!(engine::instruction_set, module)?)?;
    Ok(())
}
