//! Static sparse training: a random pattern, fixed for the whole training.
//!
//! This is the plain fixed mask of the paper's "Static" rows. The class of that name in the authors' code
//! (google-research/rigl, `rigl/sparse_optimizers.py`, SparseStaticOptimizer) is something else: it resets the weakest
//! weights to zero at every update and leaves the mask.

use crate::flops::TrainingRule;
use crate::method::{Layers, Method, MethodError, MethodInfo, MethodOptions, StepIntent};

pub(super) const INFO: MethodInfo =
    MethodInfo { summary: "a random pattern that never changes", ..MethodInfo::fixed("static", build) };

/// Keeps the pattern it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StaticMask;

fn build(_: &MethodOptions) -> Result<Box<dyn Method>, MethodError> {
    Ok(Box::new(StaticMask))
}

impl Method for StaticMask {
    fn info(&self) -> &'static MethodInfo {
        &INFO
    }

    fn before_gradient(&mut self, _step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        Ok(StepIntent::ordinary(layers.len()))
    }

    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        TrainingRule::Sparse.flops(f_sparse, f_dense)
    }
}
