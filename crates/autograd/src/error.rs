//! What building or running a tape may fail with.

use sparse_kernels::{BackendError, FormatError, ShapeError};
use thiserror::Error;

/// An operation that cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// The backend refused or failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The value is gone: an operation that works in place took it.
    #[error("{op}: its input was consumed by {by}, which works in place; use the output of {by} instead")]
    Moved {
        /// The operation that asked for the value.
        op: &'static str,
        /// The one that took it.
        by: &'static str,
    },
    /// The value is gone: its last use gave the buffer back.
    #[error("{op}: its input was released by {by}; `Tape::keep` preserves a value for further use in evaluation mode")]
    Released {
        /// The operation that asked for the value.
        op: &'static str,
        /// The one that released it.
        by: &'static str,
    },
    /// Working in place would destroy what a backward pass needs.
    #[error("{op} works in place, but {by} needs the value in its backward pass")]
    Saved {
        /// The operation that would overwrite the value.
        op: &'static str,
        /// The one that needs it.
        by: &'static str,
    },
    /// Activations of another kind.
    #[error("{op}: its input is {got}, expected {expected}")]
    Activations {
        /// The operation.
        op: &'static str,
        /// What they are.
        got: &'static str,
        /// What the operation works on.
        expected: &'static str,
    },
    /// A parameter of another kind.
    #[error("{op}: parameter {name:?} is a {got}, expected a {expected}")]
    Kind {
        /// The operation.
        op: &'static str,
        /// Name of the parameter.
        name: String,
        /// What it is.
        got: &'static str,
        /// What the operation works on.
        expected: &'static str,
    },
    /// A weight whose format has not what was asked for.
    #[error("a {kind} has no {what}")]
    Weight {
        /// What the weight is.
        kind: &'static str,
        /// What it has not.
        what: &'static str,
    },
    /// A parameter or slot that is not in the store.
    #[error("{op}: unknown {what} {name:?}")]
    Missing {
        /// The operation.
        op: &'static str,
        /// `parameter` or `slot`.
        what: &'static str,
        /// Its name or number.
        name: String,
    },
    /// A change of shape that would have to move data.
    #[error(
        "reshape: {lanes} lanes of {features} features in strips of {strip} cannot become {asked} features: \
         whole strips must stay whole, and {asked} must divide {features} · {strips} strips"
    )]
    Reshape {
        /// Lanes of the input.
        lanes: usize,
        /// Features of the input.
        features: usize,
        /// Lanes per strip.
        strip: usize,
        /// Strips of the input.
        strips: usize,
        /// Features asked for.
        asked: usize,
    },
    /// A backward pass that cannot run.
    #[error("backward: {reason}")]
    Backward {
        /// Why.
        reason: &'static str,
    },
    /// Workers that do not reach each other, or do not agree.
    #[error("{0}")]
    Reduce(String),
}

impl From<ShapeError> for Error {
    fn from(error: ShapeError) -> Self {
        Error::Backend(error.into())
    }
}

impl From<FormatError> for Error {
    fn from(error: FormatError) -> Self {
        Error::Backend(error.into())
    }
}

/// `Ok` if `got == expected`.
pub(crate) fn expect_equal(op: &'static str, what: &'static str, expected: usize, got: usize) -> Result<(), Error> {
    if got == expected { Ok(()) } else { Err(ShapeError::Mismatch { op, what, expected, got }.into()) }
}
