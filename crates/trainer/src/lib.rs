//! Trains sparse networks whose time and memory follow their density: data, configuration, checkpoints, reports and
//! the command `rigl`.
#![forbid(unsafe_code)]

/// Compiles and runs the programs of the page on the library.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/library.md")]
struct Library;

pub mod atomic_file;
pub mod bench;
pub mod checkpoint;
mod choice;
pub mod commands;
pub mod comparison;
pub mod data;
pub mod device;
pub mod error;
pub mod exchange;
pub mod figure;
pub mod first_model;
mod fit;
pub mod formats;
pub mod interrupt;
pub mod landscape;
pub mod launch;
mod memory;
pub mod method;
pub mod metrics;
pub mod models;
pub mod predict;
pub mod records;
pub mod report;
pub mod run;
pub mod run_checkpoints;
pub mod run_dir;
pub mod sample;
pub mod settings;
pub mod task;
pub mod tensorboard;
pub mod topology_record;
pub mod training;

pub use self::error::{Error, Result};
