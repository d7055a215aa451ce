//! Static sparse training: a random pattern, fixed for the whole training.
//!
//! This is the plain fixed mask of the paper's "Static" rows. The class of that name in the authors' code
//! (google-research/rigl, `rigl/sparse_optimizers.py`, SparseStaticOptimizer) is something else: it resets the weakest
//! weights to zero at every update and leaves the mask.

use crate::method::MethodInfo;

pub(super) static INFO: MethodInfo =
    MethodInfo { summary: "a random pattern that never changes", ..MethodInfo::fixed("static") };
