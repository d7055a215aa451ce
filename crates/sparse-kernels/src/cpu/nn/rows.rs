//! Rows of activations in tasks.

use crate::StripLayout;
use crate::cpu::ELEMENTS_PER_TASK;

/// Rows (of one feature and one strip) that a task of an element-wise pass takes.
pub(super) fn rows_per_task(layout: &StripLayout) -> usize {
    (ELEMENTS_PER_TASK / layout.strip()).max(1)
}
