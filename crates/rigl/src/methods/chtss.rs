//! CHTss: [CHTs](super::chts) with a density that decays along a sigmoid (Zhang et al. 2025, arXiv 2501.19107).
//!
//! ```text
//! at an update: for each layer
//!     way  = 1 − sigmoid, from 1 at the first update to 0 at the last
//!     left = the target + trunc(way · (start − target)) largest |w|         start, target: what it begins and ends with
//!     CHTs of what is left, with n = trunc(f(step) · left)
//! ```
//!
//! The sigmoid is the authors' `s_shape` with its k of 6, over all updates of the schedule. The network starts with the density
//! `start`, spread by the same distribution; the authors begin at half.
//!
//! What is dense, and what else departs from the article, is as with CHTs.

use super::chts::{Chts, END_EXPONENT, PREDICTOR, SELECTION, START_EXPONENT};
use crate::method::{MethodInfo, ParameterInfo};
use crate::schedule::LoopSemantics;

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "chts with a density that falls along a sigmoid",
    reference_semantics: LoopSemantics::PAPER,
    start_density: Some("start"),
    ends_with_last_update: true,
    parameters: &[
        ParameterInfo {
            name: "start",
            default: "0.5",
            rule: "above 0 and at most 1",
            summary: "density that the network starts with; layers that are to be denser start as they are to be",
        },
        PREDICTOR,
        SELECTION,
        START_EXPONENT,
        END_EXPONENT,
    ],
    ..MethodInfo::scheduled::<Chts>("chtss")
};
