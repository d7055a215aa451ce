//! Growth: which sparse parameters want the largest entries of their dense gradient instead of a gradient, or the whole of it
//! beside their gradient.

use sparse_kernels::{Candidate, GrowRequest};

use crate::ParameterId;

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
    pub(crate) entries: Vec<Entry>,
    pub(crate) dense: Vec<ParameterId>,
}

/// A request, and the answer once there is one.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) parameter: ParameterId,
    pub(crate) passes: GrowthPasses,
    pub(crate) request: GrowRequest,
    pub(crate) found: Option<Vec<Candidate>>,
}

impl GrowthRequests {
    /// No requests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the next backward pass for candidates for a sparse or block-sparse parameter, instead of its gradient. Replaces
    /// an earlier request for the same parameter.
    pub fn add(&mut self, parameter: ParameterId, passes: GrowthPasses, request: GrowRequest) {
        self.entries.retain(|entry| entry.parameter != parameter);
        self.entries.push(Entry { parameter, passes, request, found: None });
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
        self.position(parameter).and_then(|i| self.entries[i].found.take())
    }

    pub(crate) fn position(&self, parameter: ParameterId) -> Option<usize> {
        self.entries.iter().position(|entry| entry.parameter == parameter)
    }
}
