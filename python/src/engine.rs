//! The CPU that everything runs on: one for each number of threads that has been asked for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use sparse_kernels::cpu::{Cpu, IsaName};

use crate::value_error;

type Engines = Mutex<HashMap<usize, Arc<Cpu>>>;

/// Behind a pointer, so that a child process can have engines of its own: the threads of its parent's are not there.
static ENGINES: AtomicPtr<Engines> = AtomicPtr::new(std::ptr::null_mut());

fn engines() -> &'static Engines {
    let mut current = ENGINES.load(Ordering::Acquire);
    if current.is_null() {
        let new = Box::into_raw(Box::<Engines>::default());
        current = match ENGINES.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(other) => {
                // SAFETY: nobody else has seen it.
                drop(unsafe { Box::from_raw(new) });
                other
            }
        };
    }
    // SAFETY: made above or by another thread, and never freed.
    unsafe { &*current }
}

/// The CPU with so many threads.
pub fn engine(threads: usize) -> PyResult<Arc<Cpu>> {
    let mut engines = engines().lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cpu) = engines.get(&threads) {
        return Ok(cpu.clone());
    }
    let cpu = Arc::new(Cpu::new(threads, None).map_err(value_error)?);
    engines.insert(threads, cpu.clone());
    Ok(cpu)
}

/// To be called in a child process after a fork. What its parent had is left as it is, its threads and perhaps a lock.
#[pyfunction]
pub fn after_fork() {
    ENGINES.store(std::ptr::null_mut(), Ordering::Release);
}

/// The instruction set that the kernels use here.
#[pyfunction]
pub fn instruction_set() -> &'static str {
    IsaName::best().name()
}
