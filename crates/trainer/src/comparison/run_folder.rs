//! What the folder of a run says: settings, records, topology and machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use super::ComparisonError;
use crate::run_dir::{CONFIG, METRICS, RUN, TOPOLOGY};
use crate::settings::TrainConfig;
use crate::topology_record::TopologyHistory;

/// A run, finished or not.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its settings.
    pub config: TrainConfig,
    /// Its epochs.
    pub epochs: Vec<EpochValues>,
    /// Its last record, if it is finished.
    pub done: Option<DoneValues>,
    /// The same as it stands in the file.
    pub done_record: Value,
    /// Where its connections were.
    pub topology: TopologyHistory,
    /// What it ran on, when it was started last.
    pub machine: Option<Machine>,
}

/// The record of an epoch.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct EpochValues {
    /// Epochs done.
    pub epoch: u64,
    /// Steps done.
    pub step: u64,
    /// Mean loss of the epoch's batches.
    pub train_loss: f64,
    /// Share of right answers in them; none in runs of older versions.
    pub train_accuracy: Option<f64>,
    /// Share of right answers on what was held out.
    pub val_accuracy: Option<f64>,
    /// Share of right answers on the test set, with `eval-test`.
    pub test_accuracy: Option<f64>,
    /// Of a text, the loss of the epoch's batches in bits.
    pub train_bits_per_character: Option<f64>,
    /// The same of the validation text.
    pub val_bits_per_character: Option<f64>,
    /// The same of the test text, with `eval-test`.
    pub test_bits_per_character: Option<f64>,
}

/// The record of a finished run.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct DoneValues {
    /// Share of right answers on the test set.
    pub test_accuracy: f64,
    /// Mean loss there.
    pub test_loss: f64,
    /// The same in bits, of a text.
    pub test_bits_per_character: Option<f64>,
    /// Stored weights.
    pub nnz: usize,
    /// Stored weights of all positions.
    pub density: f64,
    /// Operations of training against those of the same network dense.
    pub train_flops_ratio: f64,
    /// Operations of inference against those of the same network dense.
    pub inference_flops_ratio: f64,
    /// Operations of one sample's forward pass; none in runs of older versions, as the next three.
    pub inference_flops: Option<f64>,
    /// Operations of training on one sample.
    pub train_flops: Option<f64>,
    /// Samples trained on.
    pub samples: Option<u64>,
    /// Seconds of training.
    pub train_seconds: f64,
    /// The most memory that the process held.
    pub peak_rss_bytes: Option<u64>,
    /// Best time of a step.
    pub step_time_ns: Option<u64>,
    /// The same of the same network dense.
    pub dense_step_time_ns: Option<u64>,
}

impl DoneValues {
    /// Operations of one sample's forward pass of the same network dense.
    pub fn dense_flops(&self) -> Option<f64> {
        self.inference_flops.map(|flops| flops / self.inference_flops_ratio)
    }

    /// Operations of the whole training.
    pub fn total_train_flops(&self) -> Option<f64> {
        Some(self.train_flops? * self.samples? as f64)
    }
}

/// What a run ran on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Operating system and architecture.
    pub system: String,
    /// Cores that the process could use.
    pub cores: u64,
    /// Threads in use.
    pub threads: u64,
    /// The instruction set.
    pub isa: String,
    /// The version of this program.
    pub version: String,
}

impl RunFolder {
    /// Reads a folder. Records after one that is incomplete are left out.
    ///
    /// # Errors
    /// [`ComparisonError`]: no run, settings that cannot be read, or a file that cannot.
    pub fn read(folder: &Path) -> Result<Self, ComparisonError> {
        let read = |file: &str| {
            let path = folder.join(file);
            fs::read_to_string(&path).map_err(|source| ComparisonError::Read { path, source })
        };
        let path = folder.join(CONFIG);
        if !path.is_file() {
            return Err(ComparisonError::NoRun { path: folder.to_owned() });
        }
        let config = TrainConfig::of_run(&path)?;
        let (mut epochs, mut done, mut done_record) = (Vec::new(), None, Value::Null);
        if folder.join(METRICS).is_file() {
            let text = read(METRICS)?;
            for record in text.lines().map_while(|line| serde_json::from_str::<Value>(line).ok()) {
                match record["event"].as_str() {
                    Some("epoch") => epochs.extend(EpochValues::deserialize(&record)),
                    Some("done") => {
                        done = DoneValues::deserialize(&record).ok();
                        done_record = record;
                    }
                    _ => {}
                }
            }
        }
        let path = folder.join(TOPOLOGY);
        let topology = TopologyHistory::read(&path).map_err(|source| ComparisonError::Read { path, source })?;
        let machine = read(RUN).ok().and_then(|text| machine(&serde_json::from_str(&text).ok()?));
        Ok(Self { path: folder.to_owned(), config, epochs, done, done_record, topology, machine })
    }
}

/// Settings that decide a run's result.
pub(super) fn deciding_settings(config: &TrainConfig) -> BTreeMap<String, Value> {
    let mut settings: BTreeMap<_, _> = serde_json::from_value(config.fingerprint()).expect("settings are a map");
    if let Some(path) = &config.init_from {
        settings.insert("init-from".to_owned(), path.to_string_lossy().into());
    }
    settings
}

/// A network's name, with the width where that is not 1.
pub(super) fn model_name(config: &TrainConfig) -> String {
    match config.width {
        1.0 => config.model.to_string(),
        width => format!("{} of width {width}", config.model),
    }
}

fn machine(run: &Value) -> Option<Machine> {
    let start = run["starts"].as_array()?.last()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let host = &start["host"];
    Some(Machine {
        cpu: host["cpu"].as_str().unwrap_or("unknown processor").to_owned(),
        system: format!("{} {}", text(&host["os"]), text(&host["arch"])),
        cores: host["available_threads"].as_u64().unwrap_or_default(),
        threads: start["threads"].as_u64().unwrap_or_default(),
        isa: text(&start["isa"]),
        version: text(&start["version"]),
    })
}
