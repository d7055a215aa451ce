//! What goes wrong between ranks.

use thiserror::Error;

/// Ranks that do not reach each other, or do not agree.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RanksError {
    /// The library that carries messages failed.
    #[error("rank {rank}: cannot reach the other ranks: {message}")]
    Transport {
        /// This rank.
        rank: usize,
        /// What the library says.
        message: String,
    },
    /// A message has another length than expected: the ranks do different things.
    #[error("rank {rank} got {got} bytes from rank {from}, expected {expected}: the ranks are out of step")]
    Length {
        /// This rank.
        rank: usize,
        /// The one that sent it.
        from: usize,
        /// Bytes expected.
        expected: usize,
        /// Bytes received.
        got: usize,
    },
    /// Nothing was heard for too long.
    #[error("rank {rank} waited {seconds} s for the other ranks and gave up")]
    Timeout {
        /// This rank.
        rank: usize,
        /// How long.
        seconds: u64,
    },
    /// More ranks than shards.
    #[error("{ranks} ranks for {shards} shards; each rank needs at least one: use --shards {ranks} or more")]
    FewShards {
        /// Ranks.
        ranks: usize,
        /// Shards.
        shards: usize,
    },
}
