//! Ranks: the processes that train one network together, each on some shards of every batch.
//!
//! Part of the sparse training suite of `sparse-kernels`, `autograd`, `rigl` and `trainer`.
//!
//! All do the same steps in the same order, from the same settings and data, and so agree on everything but the shards. What
//! they tell each other goes through one operation, [`Transport::exchange`]: every rank sends a message to every rank. On top
//! of it stand sums over shards and growth ([`RankReduce`]).

mod error;
mod interconnect;
pub mod local;
#[cfg(feature = "mpi")]
pub mod mpi;
mod reduce;
pub mod simulate;
mod trace;

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

pub use error::RanksError;
pub use interconnect::{Interconnect, InterconnectError, Slowed, on_interconnect, seconds};
pub use reduce::{RankReduce, Reduction};
pub use trace::{BucketTrace, StepTrace, Totals};

/// How ranks reach each other.
pub trait Transport: Debug + Send + Sync {
    /// The number of this rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn count(&self) -> usize;

    /// Begins to send `messages[r]` to each rank r, this one included, and to receive a message of `lengths[r]` bytes from each.
    /// All ranks give an exchange the same number, which no other exchange under way has; in which order they begin them does
    /// not matter.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    fn exchange(
        &self,
        number: u64,
        messages: Vec<Vec<u8>>,
        lengths: Vec<usize>,
    ) -> Result<Box<dyn Exchange>, RanksError>;

    /// Begins to add up numbers of all ranks, in whatever order is fastest; the sum comes as one message. All ranks begin their
    /// sums in the same order.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    fn sum(&self, number: u64, numbers: Vec<f32>) -> Result<Box<dyn Exchange>, RanksError>;

    /// Ends this process and all others at once, with this exit code.
    fn abort(&self, code: u8) -> ! {
        std::process::exit(code.into())
    }
}

/// An exchange under way.
pub trait Exchange: Send + Debug {
    /// Whether all messages have come, without waiting; and lets others make progress.
    ///
    /// # Errors
    /// If a rank cannot be reached.
    fn is_done(&mut self) -> Result<bool, RanksError>;

    /// Waits for the messages: one of each rank, in order.
    ///
    /// # Errors
    /// If a rank cannot be reached, or says nothing for too long.
    fn wait(self: Box<Self>) -> Result<Vec<Vec<u8>>, RanksError>;
}

/// What is sent for which purpose, in bytes, to other ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Gradients of stored values and of dense parameters.
    pub values: u64,
    /// Tiles of dense gradients, and candidates for growth.
    pub growth: u64,
    /// Losses, moments, agreements.
    pub other: u64,
}

/// The part of a rank of `count` shards or numbers: those next to each other that begin at `rank · count / ranks`.
///
/// ```
/// use ranks::shards_of;
/// assert_eq!([0, 1, 2].map(|rank| shards_of(rank, 3, 8)), [0..2, 2..5, 5..8]);
/// ```
pub fn shards_of(rank: usize, ranks: usize, count: usize) -> Range<usize> {
    rank * count / ranks..(rank + 1) * count / ranks
}

/// Numbers from their bytes.
pub(crate) fn numbers_of(bytes: &[u8]) -> Vec<f32> {
    let mut numbers = vec![0.0f32; bytes.len() / size_of::<f32>()];
    bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(bytes);
    numbers
}

/// Ranks of a run.
pub type Ranks = Arc<dyn Transport>;
