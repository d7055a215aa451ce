//! Figures: what a report or a picture of its own draws on.

pub(crate) mod canvas;
pub(crate) mod palette;
pub(crate) mod scale;

/// A figure could not be drawn.
#[derive(Debug, thiserror::Error)]
#[error("cannot draw {what}: {reason}")]
pub struct DrawingError {
    /// The figure.
    pub what: String,
    /// What the drawing library says.
    pub reason: String,
}

crate::error::kinded!(Failure: DrawingError);
