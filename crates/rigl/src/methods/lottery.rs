//! Lottery restart (Frankle and Carbin 2019; the paper's appendix E and Table 3): the final pattern of an earlier run, with
//! the values that its weights had at the start of that run, and no change of the pattern from there on.
//!
//! ```text
//! pattern = that of the earlier run at its end
//! values  = those that the earlier run's initialisation gives these positions
//! train as with a fixed pattern
//! ```
//!
//! Who builds the network brings both: initial values are drawn by position, so that a position has its value whether or
//! not the earlier run stored it at first. In the paper the earlier run is one of RigL. The same start with another
//! method, RigL for one ("Lottery + RigL"), is that method with the ticket given to it.
//!
//! Operations are those of this training alone; the run that found the ticket is not counted.

use crate::method::MethodInfo;

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "pattern and initial values of an earlier run, then fixed",
    needs_ticket: true,
    ..MethodInfo::fixed("lottery")
};
