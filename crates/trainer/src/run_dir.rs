//! The folder of a run.
//!
//! | file | content | written |
//! | --- | --- | --- |
//! | `config.toml` | the settings in effect, readable by `--config` | at the start |
//! | `run.json` | command line, version, machine, start: what differs between equal runs | at the start |
//! | `metrics.jsonl` | one record a line | during the run, each line at once |
//! | `checkpoint.safetensors` | weights, topology, optimizer state | by the training loop |

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::atomic_file::write_atomic;
use crate::config::{ConfigError, TrainConfig, available_threads};

const CONFIG: &str = "config.toml";
const RUN: &str = "run.json";
const METRICS: &str = "metrics.jsonl";
const CHECKPOINT: &str = "checkpoint.safetensors";

/// Why a run's folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// The folder has a run's files in it.
    #[error("out: {} holds a run already ({file}); give a new folder", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// A file of that run.
        file: &'static str,
    },
    /// A folder or file cannot be made or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A record that is not JSON, such as a map whose keys are not text.
    #[error("{}: the record is not JSON: {source}", path.display())]
    Record {
        /// The file it was meant for.
        path: PathBuf,
        /// The reason.
        source: serde_json::Error,
    },
    /// The configuration cannot be written.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What differs between runs of equal results, and so must not stand in their checkpoints.
#[derive(Debug, Clone, Serialize)]
pub struct RunInfo {
    /// The command line.
    pub command: Vec<String>,
    /// The version of this crate.
    pub version: &'static str,
    /// Threads in use.
    pub threads: usize,
    /// The instruction set in use.
    pub isa: String,
    /// The machine.
    pub host: HostInfo,
    /// The start of the run, in seconds since 1970-01-01 UTC.
    pub started_unix_seconds: u64,
}

/// A machine.
#[derive(Debug, Clone, Serialize)]
pub struct HostInfo {
    /// Operating system.
    pub os: &'static str,
    /// Architecture.
    pub arch: &'static str,
    /// The processor's name, where the system tells it.
    pub cpu: Option<String>,
    /// Cores that the process may use.
    pub available_threads: usize,
}

impl RunInfo {
    /// Of this process, now.
    pub fn new(threads: usize, isa: impl Into<String>) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
            version: env!("CARGO_PKG_VERSION"),
            threads,
            isa: isa.into(),
            host: HostInfo {
                os: std::env::consts::OS,
                arch: std::env::consts::ARCH,
                cpu: cpu_name(),
                available_threads: available_threads(),
            },
            started_unix_seconds: since_1970.as_secs(),
        }
    }
}

fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// The folder of one run, made for it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    metrics: File,
    metrics_bytes: u64,
}

impl RunDir {
    /// Makes the folder and writes `config.toml` and `run.json`. Without `config.out` it is
    /// `runs/<model>-<method>-d<density>-s<seed>-<n>` with the first free `n`.
    ///
    /// # Errors
    /// [`RunDirError`]: the folder given holds a run, or something cannot be written.
    pub fn create(config: &TrainConfig, info: &RunInfo) -> Result<Self, RunDirError> {
        let path = match &config.out {
            Some(out) => {
                fs::create_dir_all(out).map_err(|source| RunDirError::Io { path: out.clone(), source })?;
                out.clone()
            }
            None => fresh(Path::new("runs"), config)?,
        };
        if let Some(file) = [CONFIG, RUN, CHECKPOINT].into_iter().find(|file| path.join(file).exists()) {
            return Err(RunDirError::Occupied { path, file });
        }
        // Creating this file claims the folder: of two runs that start at once, one fails here.
        let metrics = match File::options().append(true).create_new(true).open(path.join(METRICS)) {
            Ok(metrics) => metrics,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(RunDirError::Occupied { path, file: METRICS });
            }
            Err(source) => return Err(RunDirError::Io { path: path.join(METRICS), source }),
        };
        let folder = Self { path, metrics, metrics_bytes: 0 };
        folder.write(CONFIG, config.to_toml()?.as_bytes())?;
        let mut run = serde_json::to_vec_pretty(info)
            .map_err(|source| RunDirError::Record { path: folder.path.join(RUN), source })?;
        run.push(b'\n');
        folder.write(RUN, &run)?;
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the run's checkpoint belongs.
    pub fn checkpoint_path(&self) -> PathBuf {
        self.path.join(CHECKPOINT)
    }

    /// Appends one record to `metrics.jsonl`, as one write.
    ///
    /// # Errors
    /// [`RunDirError`] if it is not JSON or cannot be written.
    pub fn append(&mut self, record: &impl Serialize) -> Result<(), RunDirError> {
        let path = || self.path.join(METRICS);
        let mut line = serde_json::to_vec(record).map_err(|source| RunDirError::Record { path: path(), source })?;
        line.push(b'\n');
        self.metrics.write_all(&line).map_err(|source| RunDirError::Io { path: path(), source })?;
        self.metrics_bytes += line.len() as u64;
        Ok(())
    }

    /// Length of `metrics.jsonl` so far.
    pub fn metrics_bytes(&self) -> u64 {
        self.metrics_bytes
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), RunDirError> {
        let path = self.path.join(file);
        write_atomic(&path, bytes).map_err(|source| RunDirError::Io { path, source })
    }
}

/// Makes the first folder of its kind that is not there yet. Making it is what reserves it.
fn fresh(parent: &Path, config: &TrainConfig) -> Result<PathBuf, RunDirError> {
    fs::create_dir_all(parent).map_err(|source| RunDirError::Io { path: parent.to_owned(), source })?;
    let TrainConfig { model, method, density, seed, .. } = config;
    let mut number = 1u64;
    loop {
        let path = parent.join(format!("{model}-{method}-d{density}-s{seed}-{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(RunDirError::Io { path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(out: &Path) -> Result<RunDir, RunDirError> {
        RunDir::create(&TrainConfig { out: Some(out.to_owned()), ..TrainConfig::default() }, &RunInfo::new(2, "avx2"))
    }

    #[test]
    fn a_run_leaves_its_files() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("a/b");
        let mut folder = create(&out).unwrap();
        folder.append(&serde_json::json!({ "event": "epoch", "epoch": 1 })).unwrap();
        folder.append(&serde_json::json!({ "event": "epoch", "epoch": 2 })).unwrap();
        let metrics = fs::read_to_string(out.join(METRICS)).unwrap();
        let epochs: Vec<_> = metrics
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["epoch"].clone())
            .collect();
        assert_eq!((epochs, folder.metrics_bytes()), (vec![1.into(), 2.into()], metrics.len() as u64));
        let config: TrainConfig = toml::from_str(&fs::read_to_string(out.join(CONFIG)).unwrap()).unwrap();
        assert_eq!(config, TrainConfig::default());
        let run: serde_json::Value = serde_json::from_slice(&fs::read(out.join(RUN)).unwrap()).unwrap();
        assert_eq!((&run["threads"], &run["isa"]), (&2.into(), &"avx2".into()));
        assert!(run["started_unix_seconds"].as_u64().unwrap() > 1_700_000_000);
    }

    #[test]
    fn a_folder_with_a_run_is_refused() {
        let out = tempfile::tempdir().unwrap();
        create(out.path()).unwrap();
        assert!(matches!(create(out.path()).unwrap_err(), RunDirError::Occupied { file: CONFIG, .. }));
        for file in [CONFIG, RUN] {
            fs::remove_file(out.path().join(file)).unwrap();
        }
        let error = create(out.path()).unwrap_err();
        assert!(error.to_string().ends_with("holds a run already (metrics.jsonl); give a new folder"), "{error}");
        let file = out.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(create(&file).unwrap_err().to_string().starts_with(&*file.to_string_lossy()));
    }

    #[test]
    fn fresh_folders_are_numbered() {
        let parent = tempfile::tempdir().unwrap();
        let config = TrainConfig { density: 0.05, seed: 7, ..TrainConfig::default() };
        for number in 1..4 {
            let path = fresh(parent.path(), &config).unwrap();
            assert!(path.ends_with(format!("lenet-300-100-rigl-d0.05-s7-{number}")), "{}", path.display());
        }
    }
}
