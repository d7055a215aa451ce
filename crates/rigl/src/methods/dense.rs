//! Dense training: the baseline, every weight stored.

use crate::flops::TrainingRule;
use crate::method::{MethodInfo, WeightStorage};

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "every weight, stored and multiplied dense",
    storage: WeightStorage::Dense,
    training: TrainingRule::Dense,
    ..MethodInfo::fixed("dense")
};
