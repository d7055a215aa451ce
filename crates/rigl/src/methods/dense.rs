//! Dense training: the baseline, every weight stored.

use crate::flops::TrainingRule;
use crate::method::{Layers, Method, MethodError, MethodInfo, MethodOptions, StepIntent, WeightStorage};

pub(super) const INFO: MethodInfo = MethodInfo {
    summary: "every weight, stored and multiplied dense",
    storage: WeightStorage::Dense,
    ..MethodInfo::fixed("dense", build)
};

/// Trains every weight, with dense storage and dense products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dense;

fn build(_: &MethodOptions) -> Result<Box<dyn Method>, MethodError> {
    Ok(Box::new(Dense))
}

impl Method for Dense {
    fn info(&self) -> &'static MethodInfo {
        &INFO
    }

    fn before_gradient(&mut self, _step: u64, layers: &dyn Layers) -> Result<StepIntent, MethodError> {
        Ok(StepIntent::ordinary(layers.len()))
    }

    fn training_flops(&self, f_sparse: f64, f_dense: f64) -> f64 {
        TrainingRule::Dense.flops(f_sparse, f_dense)
    }
}
