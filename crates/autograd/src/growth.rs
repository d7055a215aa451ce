//! Growth: which sparse parameters want the largest entries of their dense gradient instead of a gradient, or the whole of it
//! beside their gradient.

use sparse_kernels::{Backend, Candidate, ExploreRequest, GrowRequest};

use crate::exploration::Exploration;
use crate::parameters::{ParameterId, Parameters};
use crate::weights::Pair;
use crate::{Error, Reduce};

/// Over which backward passes the gradient that growth goes by is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrowthPasses {
    /// This one alone: the gradient is never stored whole.
    One,
    /// This one and others that come: no candidates are found yet. The gradient is held until the last pass: the dense one, 4
    /// bytes for each position of the weight and not for weights of blocks, or that at the sample, which the first pass draws.
    More,
    /// The earlier ones and this one, the last.
    Last,
}

/// What [`crate::Tape::backward`] is asked for beside gradients, and where it leaves the answers. Empty at all steps
/// but topology updates.
#[derive(Debug, Default)]
pub struct GrowthRequests {
    pub(crate) entries: Vec<Entry>,
    dense: Vec<ParameterId>,
}

/// A request, and the answer once there is one.
#[derive(Debug)]
pub(crate) struct Entry {
    parameter: ParameterId,
    pub(crate) passes: GrowthPasses,
    pub(crate) wanted: Wanted,
    pub(crate) found: Option<Vec<Candidate>>,
}

/// Where candidates are looked for.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Everywhere.
    Largest(GrowRequest),
    /// At a sample of positions.
    Sampled(ExploreRequest),
}

impl GrowthRequests {
    /// No requests.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the next backward pass for candidates for a sparse or block-sparse parameter, instead of its gradient. Replaces
    /// an earlier request for the same parameter.
    pub fn add(&mut self, parameter: ParameterId, passes: GrowthPasses, request: GrowRequest) {
        self.push(parameter, passes, Wanted::Largest(request));
    }

    /// As [`GrowthRequests::add`], for candidates among a sample of the positions.
    pub fn explore(&mut self, parameter: ParameterId, passes: GrowthPasses, request: ExploreRequest) {
        self.push(parameter, passes, Wanted::Sampled(request));
    }

    fn push(&mut self, parameter: ParameterId, passes: GrowthPasses, wanted: Wanted) {
        self.entries.retain(|entry| entry.parameter != parameter);
        self.entries.push(Entry { parameter, passes, wanted, found: None });
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
    /// Refuses what no backward pass can answer.
    pub(crate) fn check<B: Backend>(&self, backend: &B, parameters: &Parameters<B>) -> Result<(), Error> {
        for &Entry { parameter, passes, ref wanted, .. } in &self.entries {
            parameters.with_topology("growth request", backend, parameter)?;
            if passes != GrowthPasses::One && matches!(wanted, Wanted::Largest(_)) {
                parameters.with_pattern("growth over several passes", backend, parameter)?;
            }
        }
        self.dense.iter().try_for_each(|&parameter| parameters.with_pattern("dense gradient", backend, parameter))
    }
}

impl Entry {
    /// The largest of the dense gradient, after the last pass; `pairs` are `(dy, x)` of the parameter's uses in this one.
    pub(crate) fn largest<B: Backend>(
        &self,
        backend: &B,
        parameters: &mut Parameters<B>,
        request: &GrowRequest,
        pairs: &[Pair<'_, B>],
    ) -> Result<Option<Vec<Candidate>>, Error> {
        let (weight, sum) = parameters.growth_gradient("growth", self.parameter)?;
        if self.passes == GrowthPasses::One {
            return Ok(Some(weight.grow(backend, request, pairs)?));
        }
        let mut accumulate = sum.is_some();
        let mut gradient = match sum.take() {
            Some(gradient) => gradient,
            None => backend.zeros(weight.geometry(backend).positions())?,
        };
        for &pair in pairs {
            weight.dense_grad(backend, pair, &mut gradient, accumulate)?;
            accumulate = true;
        }
        if self.passes == GrowthPasses::Last {
            return Ok(Some(backend.largest(&gradient, request)?));
        }
        *sum = Some(gradient);
        Ok(None)
    }

    /// The largest of the gradient at a sample, after the last pass; `pairs` are as in [`Entry::largest`], with their shards.
    pub(crate) fn explored<'g, B: Backend>(
        &self,
        backend: &'g B,
        parameters: &'g mut Parameters<B>,
        request: &'g ExploreRequest,
        shards: usize,
        pairs: Vec<(usize, Pair<'g, B>)>,
        reduce: &mut dyn Reduce<B>,
    ) -> Result<Option<Vec<Candidate>>, Error> {
        let (weight, held) = parameters.explored("growth", self.parameter)?;
        let explored = Exploration { backend, weight, request, shards, pairs }.explore(held.take(), reduce)?;
        if self.passes == GrowthPasses::More {
            *held = Some(explored);
            return Ok(None);
        }
        Ok(Some(explored.best(backend, request)?))
    }
}
