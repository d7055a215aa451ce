//! Where a measurement runs: the options of all that measure.

use std::fmt;
use std::time::Duration;

use clap::{Args, ValueEnum};
use sparse_kernels::cpu::{Cpu, IsaName};
#[cfg(feature = "gpu")]
use sparse_kernels::gpu::{Gpu, GpuOptions};

use super::values::{display_as_value, parse_count, parse_seconds};
use crate::device::{Device, OnDevice, Place, available_threads};
use crate::settings::error::ConfigError;

/// Options of every measurement.
#[derive(Debug, Args)]
pub struct MachineArgs {
    /// Threads, for both sparse and dense code [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// Instruction set of both sides; auto is the best that this processor has. With scalar, the dense side still uses
    /// the best. On a GPU, portable uses only what every device has: no subgroup operations
    #[arg(long, value_enum, default_value_t = IsaChoice::Auto)]
    pub isa: IsaChoice,
    /// Device to compute on: cpu, gpu (the best one) or gpu:N; see `rigl devices`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// How long each case is measured, in seconds; the fastest call or step counts
    #[arg(long, value_name = "SECONDS", default_value = "1.5", value_parser = parse_seconds)]
    pub budget: Duration,
    /// Random seed for patterns and values
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Print only JSON on standard output, one object per line
    #[arg(long)]
    pub json: bool,
}

impl MachineArgs {
    /// The CPU that the options ask for.
    ///
    /// # Errors
    /// If this machine lacks the instruction set, or refuses the threads.
    pub fn cpu(&self) -> crate::Result<Cpu> {
        let isa = match self.isa {
            IsaChoice::Auto => None,
            IsaChoice::Portable => return Err(self.refuse_isa("auto, scalar, neon, avx2 or avx512 on the processor")),
            IsaChoice::Scalar => Some(IsaName::Scalar),
            IsaChoice::Neon => Some(IsaName::Neon),
            IsaChoice::Avx2 => Some(IsaName::Avx2),
            IsaChoice::Avx512 => Some(IsaName::Avx512),
        };
        Ok(Cpu::new(self.threads.unwrap_or_else(available_threads), isa)?)
    }

    /// The GPU that the options ask for.
    ///
    /// # Errors
    /// If it is unavailable, or an option is for the processor.
    #[cfg(feature = "gpu")]
    pub fn gpu(&self, index: Option<usize>) -> crate::Result<Gpu> {
        let portable = match self.isa {
            IsaChoice::Auto => false,
            IsaChoice::Portable => true,
            _ => return Err(self.refuse_isa("auto or portable with --device gpu")),
        };
        if let Some(threads) = self.threads {
            let (option, rule) = ("threads", "left out with --device gpu: both sides run there");
            return Err(ConfigError::Value { option, value: threads.to_string(), rule }.into());
        }
        Ok(Gpu::with_options(GpuOptions { index, portable, ..GpuOptions::default() })?)
    }

    /// `cpu`, or the GPU's name.
    pub fn name_of(&self, place: &Place) -> String {
        let device = self.device;
        if device == Device::Cpu { device.to_string() } else { format!("{device} {}", place.device) }
    }

    fn refuse_isa(&self, rule: &'static str) -> crate::Error {
        ConfigError::Value { option: "isa", value: self.isa.to_string(), rule }.into()
    }

    /// Does the work on the device that the options ask for.
    ///
    /// # Errors
    /// If the device is unavailable, and those of the work.
    pub fn on_device<W: OnDevice>(&self, work: W) -> crate::Result<W::Output> {
        match self.device {
            Device::Cpu => work.run(&self.cpu()?),
            #[cfg(feature = "gpu")]
            Device::Gpu(index) => work.run(&self.gpu(index)?),
        }
    }
}

/// An instruction set, or what its place is on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IsaChoice {
    /// The best that the processor has.
    Auto,
    /// Plain Rust.
    Scalar,
    /// NEON, of aarch64.
    Neon,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512F.
    Avx512,
    /// On a GPU, what every device has.
    Portable,
}

display_as_value!(IsaChoice);
