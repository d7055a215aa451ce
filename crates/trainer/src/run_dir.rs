//! The folder of a run.
//!
//! | file | content | written |
//! | --- | --- | --- |
//! | `config.toml` | the settings in effect, readable by `--config` | at the start |
//! | `run.json` | command line, version, machine, time of every start: what differs between equal runs | at each start |
//! | `metrics.jsonl` | one record a line | during the run, each line at once |
//! | `topology.jsonl` | where the connections are, see [`crate::topology_record`] | at the start and after each epoch |
//! | `checkpoints/step-….safetensors` | the state after that step, the newest few | during the run |
//! | `checkpoint.safetensors` | the state at the end of the training | then |
//! | `best.safetensors` | with `keep-best`, the state after the best epoch so far | after each epoch that is better |
//!
//! Checkpoints are never seen half-written, whatever happens to the process or the machine; see
//! [`crate::atomic_file`]. A run that is resumed renames those that are damaged (`.damaged`), so that nothing takes
//! them for a newer state. While a process works on a run, it holds a lock on the file `.lock`.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::Value;

use crate::atomic_file::{remove_temporaries, sync_folder, write_atomic};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::device::{Place, available_threads};
use crate::error::{Kind, Kinded};
use crate::run_checkpoints::{BEST, CHECKPOINTS, FINAL, FindError, Unusable, checkpoints, step_checkpoints};
use crate::settings::error::ConfigError;
use crate::settings::{TrainConfig, TrainOptions, read_toml};
use crate::topology_record::TopologyRecord;

pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const RUN: &str = "run.json";
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const TOPOLOGY: &str = "topology.jsonl";
const LOCK: &str = ".lock";

/// Why a run's folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunDirError {
    /// The folder has a run's files in it.
    #[error("out: {} already holds a run ({file}); choose a new folder, or resume it with --resume {}", path.display(), path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// A file of that run.
        file: &'static str,
    },
    /// The folder cannot be made.
    #[error("out: {}: {source}; choose a writable folder", path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// There is no run to go on with.
    #[error("{} holds no run: there is no {file} in it", path.display())]
    NoRun {
        /// The folder.
        path: PathBuf,
        /// The file that every run has.
        file: &'static str,
    },
    /// Another process works on the run.
    #[error("{}: another process is working on this run; wait for it, or stop it", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
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
    /// A checkpoint cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The checkpoints cannot be listed.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The configuration cannot be written.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Kinded for RunDirError {
    /// Of usage if the command line must change, as opposed to a failure of the file system.
    fn kind(&self) -> Kind {
        match self {
            Self::Io { .. } | Self::Record { .. } | Self::Checkpoint(_) => Kind::Failure,
            Self::Find(error) => error.kind(),
            _ => Kind::Usage,
        }
    }
}

/// What differs between runs of equal results, and so must not stand in their checkpoints.
#[derive(Debug, Clone, Serialize)]
pub struct RunInfo {
    /// The command line.
    pub command: Vec<String>,
    /// The version of this crate.
    pub version: &'static str,
    /// What computes: `cpu`, or a GPU's name and driver.
    pub device: String,
    /// Threads of the processor in use.
    pub threads: usize,
    /// The instruction set in use, or the interface to the GPU.
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
    pub fn new(place: Place) -> Self {
        let Place { device, threads, isa } = place;
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            command: std::env::args_os().map(|argument| argument.to_string_lossy().into_owned()).collect(),
            version: env!("CARGO_PKG_VERSION"),
            device,
            threads,
            isa,
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

pub(crate) fn cpu_name() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

/// The folder of data sets for a model: the one given, that of the settings of the run folder in which it is, if the folder still
/// exists, or the environment variable `RIGL_DATA_DIR`.
pub(crate) fn data_dir_for(given: Option<&Path>, model: &Path) -> Option<PathBuf> {
    let of_run = || {
        let folder = read_toml::<TrainOptions>(&RunDir::config_path(model).ok()?).ok()?.data_dir?;
        folder.is_dir().then_some(folder)
    };
    given.map(Path::to_owned).or_else(of_run).or_else(|| std::env::var_os("RIGL_DATA_DIR").map(Into::into))
}

/// The settings of the run in whose folder a model is, if they can be read.
pub(crate) fn run_config(model: &Path) -> Option<TrainConfig> {
    TrainConfig::of_run(&RunDir::config_path(model).ok()?).ok()
}

/// The folder of one run, and this process's hold on it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    /// None if another process writes the folder.
    files: Option<Files>,
}

/// What is open in the folder.
#[derive(Debug)]
struct Files {
    metrics: File,
    topology: File,
    /// Locked as long as it is open.
    _lock: File,
}

impl RunDir {
    /// The folder of a run that another process writes: whatever this one writes goes nowhere.
    pub fn of_another(path: &Path) -> Self {
        Self { path: path.to_owned(), files: None }
    }

    /// Makes the folder and writes `config.toml` and `run.json`. Without `config.out` it is
    /// `runs/<date>-<model>-<method>-d<density>-s<seed>`, with a number behind it if there is such a folder.
    ///
    /// # Errors
    /// [`RunDirError`]: the folder given holds a run, or something cannot be written.
    pub fn create(config: &TrainConfig, info: &RunInfo) -> Result<Self, RunDirError> {
        let path = match &config.out {
            Some(out) => {
                fs::create_dir_all(out).map_err(|source| RunDirError::Create { path: out.clone(), source })?;
                out.clone()
            }
            None => fresh(Path::new("runs"), config, &date_of(info.started_unix_seconds))?,
        };
        // Of two runs that start at once, one has the lock and the other fails here, or finds the first one's files.
        let folder = match Self::lock(path.clone()) {
            Err(RunDirError::Io { source, .. }) => return Err(RunDirError::Create { path, source }),
            locked => locked?,
        };
        // What else there is was left by a process that was killed before it had written its settings.
        if let Some(file) = [CONFIG, CHECKPOINTS, FINAL].into_iter().find(|file| path.join(file).exists()) {
            return Err(RunDirError::Occupied { path, file });
        }
        for (file, name) in folder.logs() {
            file.set_len(0).map_err(|source| RunDirError::Io { path: path.join(name), source })?;
        }
        folder.write_start(info)?;
        // Last, because this is the file by which a run is known.
        folder.write(CONFIG, config.to_toml()?.as_bytes())?;
        Ok(folder)
    }

    /// Goes on with the run in `path`.
    ///
    /// # Errors
    /// [`RunDirError`]: there is no run, another process works on it, or something cannot be written.
    pub fn open(path: &Path, info: &RunInfo) -> Result<Self, RunDirError> {
        Self::config_path(path)?;
        let folder = Self::lock(path.to_owned())?;
        // What a process left that was killed while it wrote.
        for folder in [path.to_owned(), path.join(CHECKPOINTS)] {
            remove_temporaries(&folder).map_err(|source| RunDirError::Io { path: folder, source })?;
        }
        folder.write_start(info)?;
        Ok(folder)
    }

    /// The settings of the run in `path`.
    ///
    /// # Errors
    /// [`RunDirError::NoRun`] if there are none.
    pub fn config_path(path: &Path) -> Result<PathBuf, RunDirError> {
        let config = path.join(CONFIG);
        if config.is_file() { Ok(config) } else { Err(RunDirError::NoRun { path: path.to_owned(), file: CONFIG }) }
    }

    fn lock(path: PathBuf) -> Result<Self, RunDirError> {
        let open = |file: &str, options: &mut fs::OpenOptions| {
            let file = path.join(file);
            options.read(true).create(true).open(&file).map_err(|source| RunDirError::Io { path: file, source })
        };
        let lock = open(LOCK, File::options().write(true).truncate(false))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(RunDirError::InUse { path }),
            // Some network file systems have no locks; a run there is on its own.
            Err(TryLockError::Error(error)) => tracing::debug!("{}: no lock: {error}", path.display()),
            Ok(()) => {}
        }
        let metrics = open(METRICS, File::options().append(true))?;
        let topology = open(TOPOLOGY, File::options().append(true))?;
        Ok(Self { path, files: Some(Files { metrics, topology, _lock: lock }) })
    }

    /// Whether this process writes the run's files.
    pub fn is_written(&self) -> bool {
        self.files.is_some()
    }

    /// The files that records are appended to, with their names.
    fn logs(&self) -> impl Iterator<Item = (&File, &'static str)> {
        self.files.iter().flat_map(|files| [(&files.metrics, METRICS), (&files.topology, TOPOLOGY)])
    }

    /// Puts a checkpoint that cannot be used out of the way.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn set_aside(&self, unusable: &Unusable) -> Result<(), RunDirError> {
        let mut name = unusable.path.clone().into_os_string();
        name.push(".damaged");
        fs::rename(&unusable.path, name).map_err(|source| RunDirError::Io { path: unusable.path.clone(), source })
    }

    /// Adds this start to `run.json`.
    fn write_start(&self, info: &RunInfo) -> Result<(), RunDirError> {
        let path = self.path.join(RUN);
        let record = |source| RunDirError::Record { path: path.clone(), source };
        let earlier = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let mut starts = match earlier.as_ref().and_then(|run| run.get("starts")) {
            Some(Value::Array(starts)) => starts.clone(),
            _ => vec![],
        };
        if let Some(isa) = starts.last().and_then(|start| start.get("isa")).filter(|&isa| *isa != info.isa.as_str()) {
            tracing::warn!("the run was computed with {isa}; with {:?} its numbers are rounded differently", info.isa);
        }
        starts.push(serde_json::to_value(info).map_err(record)?);
        let mut run = serde_json::to_vec_pretty(&serde_json::json!({ "starts": starts })).map_err(record)?;
        run.push(b'\n');
        self.write(RUN, &run)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Saves the state after `step`, and removes all but the newest `keep` of its kind.
    ///
    /// # Errors
    /// If it cannot be written; what was there is there still.
    pub fn save(&mut self, checkpoint: &Checkpoint, step: u64, keep: usize) -> Result<PathBuf, RunDirError> {
        let folder = self.path.join(CHECKPOINTS);
        if self.files.is_none() {
            return Ok(folder);
        }
        if !folder.exists() {
            let made = fs::create_dir(&folder).and_then(|()| sync_folder(&folder));
            made.map_err(|source| RunDirError::Io { path: folder.clone(), source })?;
        }
        let path = folder.join(format!("step-{step:08}.safetensors"));
        self.save_as(checkpoint, &path)?;
        let others = step_checkpoints(&self.path)?.into_iter().filter(|other| *other != path);
        for old in others.skip(keep.saturating_sub(1)) {
            fs::remove_file(&old).map_err(|source| RunDirError::Io { path: old, source })?;
        }
        Ok(path)
    }

    /// Saves the state at the end of the training.
    ///
    /// # Errors
    /// If it cannot be written; what was there is there still.
    pub fn save_final(&mut self, checkpoint: &Checkpoint) -> Result<PathBuf, RunDirError> {
        let path = self.path.join(FINAL);
        self.save_as(checkpoint, &path)?;
        Ok(path)
    }

    /// Saves the state after the best epoch so far.
    ///
    /// # Errors
    /// If it cannot be written; what was there is there still.
    pub fn save_best(&mut self, checkpoint: &Checkpoint) -> Result<(), RunDirError> {
        let path = self.path.join(BEST);
        self.save_as(checkpoint, &path)
    }

    /// Makes a finished run one that goes on, with these settings. Its state must have been saved with them.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub fn extend(&mut self, config: &TrainConfig) -> Result<(), RunDirError> {
        if self.files.is_none() {
            return Ok(());
        }
        let last = self.path.join(FINAL);
        match fs::remove_file(&last) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(RunDirError::Io { path: last, source });
            }
            _ => {}
        }
        self.set_config(config)
    }

    /// Writes the settings anew.
    ///
    /// # Errors
    /// [`RunDirError`].
    pub fn set_config(&mut self, config: &TrainConfig) -> Result<(), RunDirError> {
        if self.files.is_none() {
            return Ok(());
        }
        self.write(CONFIG, config.to_toml()?.as_bytes())
    }

    fn save_as(&mut self, checkpoint: &Checkpoint, path: &Path) -> Result<(), RunDirError> {
        if self.files.is_none() {
            return Ok(());
        }
        // The records that the checkpoint counts must not be lost where the checkpoint is not.
        for (file, name) in self.logs() {
            file.sync_data().map_err(|source| RunDirError::Io { path: self.path.join(name), source })?;
        }
        Ok(checkpoint.save_atomic(path)?)
    }

    /// The newest checkpoint there is: for messages.
    pub fn newest_path(&self) -> Option<PathBuf> {
        checkpoints(&self.path).ok()?.into_iter().next()
    }

    /// Appends one record to `metrics.jsonl`, as one write.
    ///
    /// # Errors
    /// [`RunDirError`] if it is not JSON or cannot be written.
    pub fn append(&mut self, record: &impl Serialize) -> Result<(), RunDirError> {
        let Some(files) = &mut self.files else { return Ok(()) };
        append_line(&mut files.metrics, &self.path.join(METRICS), record)
    }

    /// Appends one record to `topology.jsonl`, as one write.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn append_topology(&mut self, record: &TopologyRecord) -> Result<(), RunDirError> {
        let Some(files) = &mut self.files else { return Ok(()) };
        append_line(&mut files.topology, &self.path.join(TOPOLOGY), record)
    }

    /// Whether `topology.jsonl` has no record: its first one says what all are of.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn topology_is_empty(&self) -> Result<bool, RunDirError> {
        let Some(files) = &self.files else { return Ok(false) };
        let metadata = files.topology.metadata();
        let metadata = metadata.map_err(|source| RunDirError::Io { path: self.path.join(TOPOLOGY), source })?;
        Ok(metadata.len() == 0)
    }

    /// Cuts `topology.jsonl` back to the start and the first `epochs` epochs. By what the records say, not by their number:
    /// a run that an older version began has none of its first epochs.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn cut_topology(&mut self, epochs: u64) -> Result<(), RunDirError> {
        let Some(files) = &self.files else { return Ok(()) };
        let path = self.path.join(TOPOLOGY);
        let in_file = |source| RunDirError::Io { path: path.clone(), source };
        let bytes = fs::read(&path).map_err(in_file)?;
        let stays = |line: &&[u8]| {
            let record = serde_json::from_slice::<TopologyRecord>(line);
            line.ends_with(b"\n") && record.is_ok_and(|record| record.epoch <= epochs)
        };
        let end: usize = bytes.split_inclusive(|&byte| byte == b'\n').take_while(stays).map(<[u8]>::len).sum();
        files.topology.set_len(end as u64).map_err(in_file)
    }

    /// Cuts `metrics.jsonl` back to its first `records` lines, and returns the last of them that is left.
    ///
    /// # Errors
    /// [`RunDirError::Io`].
    pub fn cut_metrics(&mut self, records: u64) -> Result<Option<Value>, RunDirError> {
        let Some(files) = &self.files else { return Ok(None) };
        let path = self.path.join(METRICS);
        let in_file = |source| RunDirError::Io { path: path.clone(), source };
        let bytes = fs::read(&path).map_err(in_file)?;
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let ends: Vec<usize> = std::iter::once(0).chain(ends).take(records as usize + 1).collect();
        let (end, found) = (ends[ends.len() - 1], ends.len() as u64 - 1);
        if found < records {
            tracing::warn!("{} holds {found} records where {records} were written", path.display());
        }
        files.metrics.set_len(end as u64).map_err(in_file)?;
        let last = ends.len().checked_sub(2).map(|start| &bytes[ends[start]..end]);
        Ok(last.and_then(|line| serde_json::from_slice(line).ok()))
    }

    fn write(&self, file: &str, bytes: &[u8]) -> Result<(), RunDirError> {
        let path = self.path.join(file);
        write_atomic(&path, bytes).map_err(|source| RunDirError::Io { path, source })
    }
}

fn append_line(file: &mut File, path: &Path, record: &impl Serialize) -> Result<(), RunDirError> {
    let path = || path.to_owned();
    let mut line = serde_json::to_vec(record).map_err(|source| RunDirError::Record { path: path(), source })?;
    line.push(b'\n');
    file.write_all(&line).map_err(|source| RunDirError::Io { path: path(), source })
}

/// Makes the first folder of its kind that is not there yet. Making it is what reserves it.
fn fresh(parent: &Path, config: &TrainConfig, date: &str) -> Result<PathBuf, RunDirError> {
    fs::create_dir_all(parent).map_err(|source| RunDirError::Create { path: parent.to_owned(), source })?;
    let TrainConfig { model, method, density, seed, .. } = config;
    // Of a file's weights, the density has all the digits of a quotient.
    let density = (density * 1e4).round() / 1e4;
    let name = format!("{date}-{model}-{method}-d{density}-s{seed}");
    let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c), "-");
    let mut number = 1u64;
    loop {
        let path = parent.join(if number == 1 { name.clone() } else { format!("{name}-{number}") });
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            Err(source) => return Err(RunDirError::Create { path, source }),
        }
    }
}

/// The day, in UTC, as `2026-11-30`.
fn date_of(unix_seconds: u64) -> String {
    // Years begin in March here, so that a leap day is a year's last.
    let days = unix_seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * march_month + 2) / 5 + 1, (march_month + 2) % 12 + 1);
    let year = 400 * era + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_checkpoints::{Which, load_model, load_model_of, newest_checkpoint};

    fn create(out: &Path) -> Result<RunDir, RunDirError> {
        RunDir::create(
            &TrainConfig { out: Some(out.to_owned()), ..TrainConfig::default() },
            &RunInfo::new(Place::of_cpu(2, "avx2")),
        )
    }

    #[test]
    fn a_run_leaves_its_files() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("a/b");
        let mut folder = create(&out).unwrap();
        for epoch in 1..4 {
            folder.append(&serde_json::json!({ "event": "epoch", "epoch": epoch })).unwrap();
        }
        let config = TrainConfig::of_run(&out.join(CONFIG)).unwrap();
        assert_eq!(config, TrainConfig::default());
        // A second process is kept away; after it, the run can be resumed.
        let info = RunInfo::new(Place::of_cpu(1, "scalar"));
        assert!(matches!(RunDir::open(&out, &info).unwrap_err(), RunDirError::InUse { .. }));
        drop(folder);
        fs::write(out.join(".state.1.tmp"), "").unwrap();
        let mut folder = RunDir::open(&out, &info).unwrap();
        assert!(!out.join(".state.1.tmp").exists());
        let run: Value = serde_json::from_slice(&fs::read(out.join(RUN)).unwrap()).unwrap();
        assert_eq!((&run["starts"][0]["threads"], &run["starts"][1]["isa"]), (&2.into(), &"scalar".into()));
        assert!(run["starts"][1]["started_unix_seconds"].as_u64().unwrap() > 1_700_000_000);
        // A line that was cut by a crash goes with those after the mark.
        folder.files.as_mut().unwrap().metrics.write_all(b"{\"event\":").unwrap();
        assert_eq!(folder.cut_metrics(2).unwrap().unwrap()["epoch"], 2);
        folder.append(&serde_json::json!({ "epoch": 30 })).unwrap();
        let metrics = fs::read_to_string(out.join(METRICS)).unwrap();
        let epochs = metrics.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["epoch"].clone());
        assert_eq!(epochs.collect::<Vec<_>>(), [1, 2, 30]);
        assert_eq!(folder.cut_metrics(9).unwrap().unwrap()["epoch"], 30);
        assert_eq!(folder.cut_metrics(0).unwrap(), None);
        assert_eq!(fs::read(out.join(METRICS)).unwrap(), b"");
        // The topology is cut by epochs; the start stays, a line that was cut goes.
        for epoch in [0, 1, 2] {
            assert_eq!(folder.topology_is_empty().unwrap(), epoch == 0);
            folder.append_topology(&TopologyRecord { epoch, nnz: vec![5], ..Default::default() }).unwrap();
        }
        folder.files.as_mut().unwrap().topology.write_all(b"{\"epoch\":1").unwrap();
        let epochs = || {
            let topology = fs::read_to_string(out.join(TOPOLOGY)).unwrap();
            topology
                .lines()
                .map(|line| serde_json::from_str::<Value>(line).unwrap()["epoch"].clone())
                .collect::<Vec<_>>()
        };
        folder.cut_topology(9).unwrap();
        assert_eq!(epochs(), [0, 1, 2]);
        folder.cut_topology(1).unwrap();
        assert_eq!(epochs(), [0, 1]);
        folder.cut_topology(0).unwrap();
        assert_eq!(epochs(), [0]);
        let none = RunDir::open(parent.path(), &info).unwrap_err().to_string();
        assert!(none.ends_with("holds no run: there is no config.toml in it"), "{none}");
    }

    #[test]
    fn the_newest_whole_checkpoints_are_kept_and_found() {
        let out = tempfile::tempdir().unwrap();
        let mut folder = create(out.path()).unwrap();
        let state = |step: u64| {
            let mut state = Checkpoint::default();
            state.set_section("step", &step);
            state
        };
        let newest = || newest_checkpoint(out.path()).unwrap();
        assert!(matches!(newest(), (None, damaged) if damaged.is_empty()));
        let mut paths = vec![];
        for step in [5, 90, 100_000_000, 2_000_000_000] {
            paths.push(folder.save(&state(step), step, 2).unwrap());
        }
        assert_eq!(paths.iter().map(|path| path.exists()).collect::<Vec<_>>(), [false, false, true, true]);
        let found = newest().0.unwrap();
        assert_eq!((&found.path, found.checkpoint), (&paths[3], state(2_000_000_000)));
        // The end of the training is newer than any step. What is damaged is passed over, and named.
        let last = folder.save_final(&state(7)).unwrap();
        assert_eq!(newest().0.unwrap().path, last);
        for path in [&last, &paths[3]] {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() - 1]).unwrap();
        }
        let (found, unusable) = newest();
        assert_eq!(found.unwrap().path, paths[2]);
        assert_eq!(unusable.iter().map(|u| &u.path).collect::<Vec<_>>(), [&last, &paths[3]]);
        fs::write(&paths[2], "").unwrap();
        assert!(matches!(newest(), (None, unusable) if unusable.len() == 3));
        let error = load_model(out.path()).unwrap_err().to_string();
        assert!(error.contains("no readable checkpoint; checkpoint "), "{error}");
        // Set aside, they are no longer taken for the newest, nor do they count when old ones are removed.
        newest().1.iter().for_each(|unusable| folder.set_aside(unusable).unwrap());
        assert!(matches!(newest(), (None, unusable) if unusable.is_empty()));
        let path = folder.save(&state(5), 5, 1).unwrap();
        assert_eq!((newest().0.unwrap().path, folder.newest_path()), (path.clone(), Some(path)));
        // Saved after a newer step's, as when a damaged file was not set aside: the new one stays.
        folder.save(&state(9), 9, 1).unwrap();
        assert!(folder.save(&state(6), 6, 1).unwrap().exists());
    }

    #[test]
    fn a_folder_with_a_run_is_refused() {
        let out = tempfile::tempdir().unwrap();
        create(out.path()).unwrap();
        assert!(matches!(create(out.path()).unwrap_err(), RunDirError::Occupied { file: CONFIG, .. }));
        let error = create(out.path()).unwrap_err();
        assert!(error.to_string().contains("already holds a run (config.toml); choose a new folder"), "{error}");
        // A process that was killed before it had written its settings leaves a folder that can be used.
        fs::remove_file(out.path().join(CONFIG)).unwrap();
        fs::write(out.path().join(METRICS), "old").unwrap();
        let held = create(out.path()).unwrap();
        assert_eq!(fs::read(out.path().join(METRICS)).unwrap(), b"");
        assert!(matches!(create(out.path()).unwrap_err(), RunDirError::InUse { .. }));
        drop(held);
        let file = out.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(create(&file).unwrap_err().to_string().starts_with(&format!("out: {}", file.display())));
    }

    #[test]
    fn fresh_folders_are_named_for_people() {
        let parent = tempfile::tempdir().unwrap();
        // Such as a file's weights have.
        let config = TrainConfig { density: 0.050_012_345_678_9, seed: 7, ..TrainConfig::default() };
        for end in ["", "-2", "-3"] {
            let path = fresh(parent.path(), &config, "2026-11-30").unwrap();
            let name = format!("2026-11-30-lenet-300-100-rigl-d0.05-s7{end}");
            assert!(path.ends_with(name), "{}", path.display());
        }
    }

    #[test]
    fn dates_of_seconds() {
        for (seconds, date) in [
            (0, "1970-01-01"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_704_067_199, "2023-12-31"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(date_of(seconds), date);
        }
    }

    #[test]
    fn the_best_checkpoint_is_found_where_there_is_one() {
        let out = tempfile::tempdir().unwrap();
        let mut folder = create(out.path()).unwrap();
        let error = load_model_of(out.path(), Which::Best).unwrap_err().to_string();
        assert!(error.contains("has no best.safetensors") && error.contains("--keep-best"), "{error}");
        // It is none of those that a run goes on from.
        folder.save_best(&Checkpoint::default()).unwrap();
        assert!(newest_checkpoint(out.path()).unwrap().0.is_none());
        let error = load_model_of(out.path(), Which::Best).unwrap_err().to_string();
        assert!(error.contains("section \"model\""), "{error}");
    }
}
