//! Folders of runs that nobody trained, for tests of what is made of them.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::run_dir::{RunDir, RunInfo};
use crate::settings::TrainConfig;
use crate::topology_record::TopologyRecord;

/// A run.
pub(super) struct Made {
    /// Its settings, without the folder.
    pub config: TrainConfig,
    /// Epochs.
    pub epochs: u64,
    /// Its accuracy at the end; none for a run that is not finished.
    pub accuracy: Option<f64>,
    /// Its validation accuracy at the end, if it holds samples out.
    pub validation: Option<f64>,
    /// Seconds of training.
    pub seconds: f64,
    /// Whether connections move.
    pub moves: bool,
    /// Whether layers change their densities.
    pub changes: bool,
}

impl Made {
    /// A finished run of 20 epochs with fixed connections.
    pub fn new(method: &str, density: f64, seed: u64, accuracy: f64) -> Self {
        let method = toml::Value::from(method).try_into().unwrap();
        let config = TrainConfig { method, density, seed, ..TrainConfig::default() };
        let (epochs, seconds) = (20, 10.0 * density);
        Self { config, epochs, accuracy: Some(accuracy), validation: None, seconds, moves: false, changes: false }
    }

    /// The same with a validation accuracy at the end.
    pub fn validated(self, accuracy: f64) -> Self {
        let config = TrainConfig { val_fraction: 0.1, ..self.config };
        Self { config, validation: Some(accuracy), ..self }
    }

    /// Writes its folder.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let config = TrainConfig { out: Some(folder.to_owned()), ..self.config.clone() };
        let mut run = RunDir::create(&config, &RunInfo::new(crate::device::Place::of_cpu(2, "avx2"))).unwrap();
        let density = self.config.density;
        let noise = |i: u64| ((i * 7919 + self.config.seed * 104_729) % 1000) as f64 / 1000.0;
        for epoch in 0..=self.epochs {
            let shift = if self.moves { epoch } else { 0 };
            let counts = (0..784u64).map(|pixel| {
                let [row, column] = [pixel / 28, pixel % 28].map(|at| (at as f64 - 13.5).abs());
                let middle = (28.0 - row - column).max(0.0) * shift as f64 / self.epochs as f64;
                (300.0 * density * (0.5 + noise(pixel + shift * 784)) + middle) as u32
            });
            let share = if self.changes {
                1.0 + (1.0 / density - 1.0) * (1.0 - epoch as f64 / self.epochs as f64)
            } else {
                1.0
            };
            let nnz = |size: f64, factor: f64| (size * density * factor * share).min(size) as usize;
            let sparse = density < 1.0;
            let record = TopologyRecord {
                epoch,
                step: epoch * 120,
                nnz: vec![nnz(235_200.0, 0.8), nnz(30_000.0, 2.3), 1000],
                input_connections: sparse.then(|| counts.collect()),
                ..TopologyRecord::default()
            };
            let record = match epoch {
                0 => TopologyRecord {
                    layers: ["fc1", "fc2", "fc3"].map(str::to_owned).to_vec(),
                    sizes: vec![235_200, 30_000, 1000],
                    input_shape: Some([1, 28, 28]),
                    ..record
                },
                _ => record,
            };
            run.append_topology(&record).unwrap();
            if epoch > 0 {
                let loss = 1.2 / (epoch as f64).sqrt() + 0.05 * noise(epoch);
                run.append(&json!({
                    "event": "epoch", "epoch": epoch, "step": epoch * 120, "train_loss": loss,
                    "train_accuracy": 0.95 - 0.3 * loss, "val_loss": self.validation.map(|_| loss),
                    "val_accuracy": self.validation.map(|accuracy| accuracy * (epoch as f64 / self.epochs as f64).sqrt())
                }))
                .unwrap();
            }
        }
        if let Some(accuracy) = self.accuracy {
            run.append(&self.done(accuracy)).unwrap();
        }
        folder.to_owned()
    }

    fn done(&self, accuracy: f64) -> Value {
        let density = self.config.density;
        let dense_flops = 532_400.0;
        json!({
            "event": "done", "test_accuracy": accuracy, "test_loss": 1.0 - accuracy, "train_loss": 0.2, "nnz": (266_200.0 * density) as u64,
            "density": density, "train_flops_ratio": density * 1.03, "inference_flops_ratio": density,
            "inference_flops": dense_flops * density, "train_flops": 3.0 * dense_flops * density * 1.03,
            "steps": self.epochs * 120, "samples": self.epochs * 12_000, "train_seconds": self.seconds,
            "samples_per_second": 1000.0, "peak_rss_bytes": 50_000_000, "step_time_ns": (400_000.0 * density) as u64 + 20_000,
            "dense_step_time_ns": 420_000, "run_dir": "x", "seed": self.config.seed
        })
    }
}
