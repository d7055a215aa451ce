//! Processes that one run was started as: `mpirun -n 4 rigl train …`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use ranks::{RankReduce, Ranks, RanksError};

use crate::commands;
use crate::error::{Context, Error, Kind, Kinded};
use crate::report;
use crate::run::RunError;
use crate::training::{Reduction, TrainingError};

/// A launch that cannot be, or in which ranks do not agree.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// This program cannot take part.
    #[error(
        "{count} processes were launched, but this program was built without MPI support; rebuild it with: \
         cargo build --release --features mpi"
    )]
    WithoutMpi {
        /// Processes.
        count: usize,
    },
    /// Each process is alone.
    #[error(
        "{count} processes were launched, but the MPI library that this program was built with sees only one; use that library's \
         own mpirun"
    )]
    OtherLibrary {
        /// Processes.
        count: usize,
    },
    /// The command makes its own processes.
    #[error("rigl {command} starts its own processes: run it once, with --launcher \"mpirun -n {count}\"")]
    Launches {
        /// The command.
        command: &'static str,
        /// Processes.
        count: usize,
    },
    /// Alone, a run has nothing to reduce.
    #[error("--reduction fast needs at least two ranks; use mpirun -n 2 or more (rigl compare: --launcher)")]
    Alone,
    /// One rank could not begin, and so none can.
    #[error("rank {rank}: {message}")]
    OneFailed {
        /// The rank.
        rank: usize,
        /// Its error.
        message: String,
        /// Whether it is of settings.
        is_usage: bool,
    },
    /// Ranks see different things.
    #[error("the {what} of rank {rank} differ from those of rank 0; all ranks need the same")]
    Different {
        /// The rank.
        rank: usize,
        /// What differs.
        what: &'static str,
    },
}

impl Kinded for LaunchError {
    fn kind(&self) -> Kind {
        match self {
            Self::OneFailed { is_usage: false, .. } => Kind::Failure,
            _ => Kind::Usage,
        }
    }
}

impl Kinded for RanksError {
    fn kind(&self) -> Kind {
        if matches!(self, Self::FewShards { .. }) { Kind::Usage } else { Kind::Failure }
    }
}

/// How many processes this one was started with, as Open MPI, MPICH and Slurm say it.
fn started() -> usize {
    let said = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];
    said.iter().find_map(|name| std::env::var(name).ok()?.parse().ok()).unwrap_or(1)
}

/// Shards of a batch where several ranks train and nothing is said: the same for up to so many ranks.
const SHARDS: usize = 8;

/// Seconds after which a rank that says nothing counts as lost, where nothing is said.
pub const PATIENCE: u64 = 300;

/// Shards where nothing is said.
pub fn default_shards(ranks: usize, reduction: Reduction) -> usize {
    match reduction {
        Reduction::Tree => SHARDS.max(ranks),
        Reduction::Fast => ranks,
    }
}

/// Refuses to run as one of several processes.
///
/// # Errors
/// [`LaunchError::Launches`].
pub fn launches(command: &'static str) -> Result<(), LaunchError> {
    match started() {
        0 | 1 => Ok(()),
        count => Err(LaunchError::Launches { command, count }),
    }
}

/// This program once more, started by a launcher such as `mpirun -n 4` if there is one.
///
/// # Errors
/// If this program cannot be found.
pub fn this_program(launcher: Option<&str>) -> crate::Result<Command> {
    let program = std::env::current_exe().context(|| "cannot find this program to run it again")?;
    let mut words = launcher.unwrap_or_default().split_whitespace();
    Ok(match words.next() {
        None => Command::new(program),
        Some(launcher) => {
            let mut command = Command::new(launcher);
            command.args(words).arg(program);
            command
        }
    })
}

/// The other processes, if there are any. A rank that says nothing for so long counts as lost.
///
/// # Errors
/// [`LaunchError`], [`RanksError`].
pub fn ranks(patience: Duration) -> crate::Result<Option<Ranks>> {
    match started() {
        0 | 1 => Ok(None),
        count => join(count, patience).map(Some),
    }
}

#[cfg(not(feature = "mpi"))]
fn join(count: usize, _: Duration) -> crate::Result<Ranks> {
    Err(LaunchError::WithoutMpi { count }.into())
}

#[cfg(feature = "mpi")]
fn join(count: usize, patience: Duration) -> crate::Result<Ranks> {
    let ranks: Ranks = std::sync::Arc::new(ranks::mpi::MpiRanks::join(patience)?);
    if ranks.count() == 1 {
        return Err(LaunchError::OtherLibrary { count }.into());
    }
    Ok(ranks)
}

/// Does the work of one rank of several: rank 0 speaks for all. An error that all ranks have ends them in order; one that this rank
/// has alone ends all at once.
///
/// # Errors
/// Those of the work that all ranks have.
pub fn together<T>(ranks: &Ranks, work: impl FnOnce() -> crate::Result<T>) -> crate::Result<T> {
    if ranks.rank() > 0 {
        report::silence();
    }
    // A panic that went on would end MPI in order, which waits for the others.
    let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| ranks.abort(PANIC));
    match &result {
        Err(error) if !is_of_all(error) => {
            // In one piece: mpirun has something to say too.
            let line = format!("rank {}: {}\n", ranks.rank(), commands::message(error));
            eprint!("{line}");
            ranks.abort(commands::exit_code(error))
        }
        Err(error) => {
            if ranks.rank() == 0 {
                eprintln!("{}", commands::message(error));
                report::silence();
            }
            // The first process that ends with an error ends the others, so rank 0 must have spoken by then.
            let farewell = ranks.exchange(FAREWELL, vec![vec![0]; ranks.count()], vec![1; ranks.count()]);
            let _ = farewell.and_then(|exchange| exchange.wait());
        }
        Ok(_) => {}
    }
    result
}

/// The exit code of a program that panics.
const PANIC: u8 = 101;

/// The number of a run's last exchange, when no other is under way.
const FAREWELL: u64 = u64::MAX;

fn is_of_all(error: &Error) -> bool {
    let of_all = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<LaunchError>()
            || matches!(cause.downcast_ref(), Some(RunError::Interrupted { .. } | RunError::Evaluation))
            || matches!(cause.downcast_ref(), Some(TrainingError::Diverged { .. } | TrainingError::Patterns { .. }))
    };
    error.cause.chain().any(of_all)
}

/// What ranks say to each other before a run begins.
#[derive(Debug)]
pub struct Agreement(Mutex<RankReduce>);

impl Agreement {
    /// Between these ranks.
    ///
    /// # Errors
    /// [`RanksError`].
    pub fn new(ranks: &Ranks) -> Result<Self, RanksError> {
        RankReduce::new(ranks.clone(), ranks.count()).map(|reduce| Self(Mutex::new(reduce)))
    }

    fn gather(&self, own: &str) -> Result<Vec<String>, RanksError> {
        let mut reduce = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all = reduce.gather_any(own.as_bytes())?;
        Ok(all.into_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect())
    }

    /// The result, if all ranks have one; else the error of the first that has none.
    ///
    /// # Errors
    /// [`LaunchError::OneFailed`], [`RanksError`].
    pub fn all<T>(&self, result: crate::Result<T>) -> crate::Result<T> {
        let own = match &result {
            Ok(_) => String::new(),
            // Its kind, and what happened.
            Err(error) => format!("{}{error}", if error.kind == Kind::Usage { 'u' } else { 'f' }),
        };
        let said = self.gather(&own)?;
        match said.iter().position(|said| !said.is_empty()) {
            None => result,
            Some(rank) => {
                let (is_usage, message) = (said[rank].starts_with('u'), said[rank][1..].to_owned());
                Err(LaunchError::OneFailed { rank, message, is_usage }.into())
            }
        }
    }

    /// All ranks must have the same.
    ///
    /// # Errors
    /// [`LaunchError::Different`], [`RanksError`].
    pub fn same(&self, what: &'static str, own: &str) -> crate::Result<()> {
        let all = self.gather(own)?;
        match all.iter().position(|other| *other != all[0]) {
            Some(rank) => Err(LaunchError::Different { rank, what }.into()),
            None => Ok(()),
        }
    }
}
