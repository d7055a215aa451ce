//! Growth: which sparse parameters want the largest entries of their dense gradient instead of a gradient, or the whole of it
//! beside their gradient.

use std::sync::Arc;

use sparse_kernels::random::Key;
use sparse_kernels::{Candidate, CsrPattern};

use crate::ParameterId;

/// A parameter for which the next backward pass finds candidates for growth instead of a gradient.
#[derive(Debug, Clone)]
pub struct GrowthRequest {
    /// The parameter, a sparse or block-sparse one.
    pub parameter: ParameterId,
    /// Positions that are not candidates: those that the update keeps. Of a block-sparse parameter they are blocks, and so
    /// are the candidates.
    pub exclude: Arc<CsrPattern>,
    /// How many to find.
    pub count: usize,
    /// Order of candidates of equal score, see [`sparse_kernels::GrowRequest::ties`].
    pub ties: Key,
    /// Over how many passes the gradient is added up.
    pub passes: GrowthPasses,
}

/// Over which backward passes the gradient that growth goes by is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrowthPasses {
    /// This one alone: the gradient is never stored whole.
    One,
    /// This one and others that come: no candidates are found yet. The dense gradient is held until the last pass, 4 bytes
    /// for each position of the weight. Not for block-sparse parameters.
    More,
    /// The earlier ones and this one, the last.
    Last,
}

/// What [`crate::Tape::backward`] is asked for beside gradients, and where it leaves the answers. Empty at all steps
/// but topology updates.
#[derive(Debug, Default)]
pub struct GrowthRequests {
    pub(crate) entries: Vec<(GrowthRequest, Option<Vec<Candidate>>)>,
    pub(crate) dense: Vec<ParameterId>,
}

impl GrowthRequests {
    /// No requests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a request; one for the same parameter is replaced.
    pub fn add(&mut self, request: GrowthRequest) {
        self.entries.retain(|(r, _)| r.parameter != request.parameter);
        self.entries.push((request, None));
    }

    /// Asks for the gradient of a sparse parameter at all positions, beside that at its stored entries; it is then to be had
    /// from [`crate::Parameters::download_dense_gradient`].
    pub fn add_dense(&mut self, parameter: ParameterId) {
        if !self.wants_dense(parameter) {
            self.dense.push(parameter);
        }
    }

    pub(crate) fn wants_dense(&self, parameter: ParameterId) -> bool {
        self.dense.contains(&parameter)
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.dense.is_empty()
    }

    /// Takes the candidates out, in order of position; none if nothing was asked for this parameter or no backward pass
    /// has run.
    pub fn take(&mut self, parameter: ParameterId) -> Option<Vec<Candidate>> {
        self.position(parameter).and_then(|i| self.entries[i].1.take())
    }

    pub(crate) fn position(&self, parameter: ParameterId) -> Option<usize> {
        self.entries.iter().position(|(r, _)| r.parameter == parameter)
    }
}
