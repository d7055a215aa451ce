//! The devices that a run may compute on.

use std::fmt::{self, Debug};
use std::num::NonZero;
use std::str::FromStr;

use rigl::MethodError;
use serde::{Deserialize, Serialize};
use sparse_kernels::cpu::Cpu;
#[cfg(feature = "gpu")]
use sparse_kernels::gpu::Gpu;
use sparse_kernels::profile::KernelTime;
use sparse_kernels::{Backend, BackendError};

use crate::choice::serde_through_text;
use crate::training::TrainingError;

/// Where the numbers are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Device {
    /// The processor.
    Cpu,
    /// The GPU of this number, see `rigl devices`; without one the best.
    #[cfg(feature = "gpu")]
    Gpu(Option<usize>),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.pad("cpu"),
            #[cfg(feature = "gpu")]
            Self::Gpu(None) => f.pad("gpu"),
            #[cfg(feature = "gpu")]
            Self::Gpu(Some(index)) => f.pad(&format!("gpu:{index}")),
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        #[cfg(feature = "gpu")]
        if let Some(Ok(index)) = name.strip_prefix("gpu:").map(str::parse) {
            return Ok(Self::Gpu(Some(index)));
        }
        match name {
            "cpu" => Ok(Self::Cpu),
            #[cfg(feature = "gpu")]
            "gpu" => Ok(Self::Gpu(None)),
            #[cfg(not(feature = "gpu"))]
            _ if name.starts_with("gpu") => {
                let how = "`cargo build --release --features gpu` makes one with GPUs";
                Err(format!("this build has only the device cpu; {how}"))
            }
            _ => Err("the devices are cpu, gpu (the best one) and gpu:N (the Nth of `rigl devices`)".to_owned()),
        }
    }
}
serde_through_text!(Device);

/// One for each core that this process may use.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// A backend that whole runs compute on.
pub trait ComputeDevice: Backend + Debug + Sync {
    /// Calls `f` where the backend's operations cost least.
    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R;

    /// What the device is, for records.
    fn place(&self) -> Place;

    /// Whether activations lie in the memory of this machine, of which it is known how much is free, and not in a card's own.
    fn uses_host_memory(&self) -> bool;

    /// Measures each kernel from here on.
    ///
    /// # Errors
    /// If the device has no clock.
    fn start_profile(&self) -> Result<(), BackendError>;

    /// What each kernel took since the last call.
    ///
    /// # Errors
    /// If the device fails.
    fn take_profile(&self) -> Result<Vec<KernelTime>, BackendError>;
}

/// A device, as records name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `cpu`, or the adapter's name and driver.
    pub device: String,
    /// Threads of the processor that compute.
    pub threads: usize,
    /// Instruction set, or on a GPU its interface, and what the kernels use beyond the baseline.
    pub isa: String,
}

impl Place {
    /// The processor, with so many threads of an instruction set.
    pub fn of_cpu(threads: usize, isa: &str) -> Self {
        Self { device: "cpu".into(), threads, isa: isa.into() }
    }

    /// For people, with the instruction set.
    pub fn with_isa(&self) -> String {
        if self.device == "cpu" { format!("{self} of {}", self.isa) } else { self.device.clone() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.device == "cpu" { write!(f, "{} threads", self.threads) } else { f.write_str(&self.device) }
    }
}

impl ComputeDevice for Cpu {
    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        Cpu::install(self, f)
    }

    fn place(&self) -> Place {
        Place::of_cpu(self.threads(), self.isa().name())
    }

    fn uses_host_memory(&self) -> bool {
        true
    }

    fn start_profile(&self) -> Result<(), BackendError> {
        Cpu::start_profile(self);
        Ok(())
    }

    fn take_profile(&self) -> Result<Vec<KernelTime>, BackendError> {
        Ok(Cpu::take_profile(self))
    }
}

#[cfg(feature = "gpu")]
impl ComputeDevice for Gpu {
    fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        f()
    }

    fn place(&self) -> Place {
        let report = self.report();
        // A device that fails says so at the next call too.
        let variant = if self.has_subgroup_exchange().unwrap_or(false) { ", subgroups" } else { "" };
        Place { device: report.to_string(), threads: 1, isa: format!("{}{variant}", report.interface) }
    }

    fn uses_host_memory(&self) -> bool {
        matches!(self.report().kind, "integrated" | "software")
    }

    fn start_profile(&self) -> Result<(), BackendError> {
        Gpu::start_profile(self)
    }

    fn take_profile(&self) -> Result<Vec<KernelTime>, BackendError> {
        Gpu::take_profile(self)
    }
}

/// What the backend said, if an error comes from there: from a call of its own, or through the tape, a method or a training
/// step, whose errors pass it on as theirs.
pub fn backend_error(error: &crate::Error) -> Option<&BackendError> {
    use {MethodError as Method, TrainingError as Training, autograd::Error as Tape};
    error.cause.chain().find_map(|cause| match (cause.downcast_ref(), cause.downcast_ref(), cause.downcast_ref()) {
        (_, Some(Tape::Backend(error)), _) | (_, _, Some(Method::Backend(error))) => Some(error),
        (Some(Training::Backend(error) | Training::Autograd(Tape::Backend(error))), ..) => Some(error),
        (Some(Training::Method(Method::Backend(error))), ..) => Some(error),
        _ => cause.downcast_ref(),
    })
}

/// What is to be done on a device, whichever it is.
pub trait OnDevice {
    /// What comes of it.
    type Output;

    /// Does it.
    ///
    /// # Errors
    /// Its own.
    fn run<B: ComputeDevice>(self, backend: &B) -> crate::Result<Self::Output>;
}

/// Opens the device and does the work there; on the processor with so many threads.
///
/// # Errors
/// If the device is unavailable: another never takes its place. Then those of the work.
pub fn on_device<W: OnDevice>(device: Device, threads: usize, work: W) -> crate::Result<W::Output> {
    match device {
        Device::Cpu => work.run(&Cpu::new(threads, None)?),
        #[cfg(feature = "gpu")]
        Device::Gpu(index) => work.run(&Gpu::new(index)?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Context, Error};

    #[test]
    fn errors_of_the_backend_are_found_wherever_they_pass() {
        let lost = || BackendError::DeviceLost { reason: "gone".into() };
        let outside = |error: Error| Err::<(), _>(error).context(|| "outside").unwrap_err();
        for error in [
            outside(lost().into()),
            autograd::Error::from(lost()).into(),
            MethodError::from(lost()).into(),
            TrainingError::from(lost()).into(),
            outside(TrainingError::from(autograd::Error::from(lost())).into()),
            TrainingError::from(MethodError::from(lost())).into(),
        ] {
            assert!(matches!(backend_error(&error), Some(BackendError::DeviceLost { .. })), "{error:?}");
        }
        assert!(backend_error(&"something else".to_owned().into()).is_none());
    }
}
