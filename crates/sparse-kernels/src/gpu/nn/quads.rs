//! Activations in quads of lanes.

use std::ops::Range;

use crate::gpu::Gpu;
use crate::gpu::kernel::Operand;
use crate::{StripLayout, Strips};

/// Lanes or samples that an invocation has at once.
pub(super) const QUAD: usize = 4;

/// Some strips of activations as an operand.
pub(super) fn part_of<'a>(x: &'a Strips<Gpu>, strips: &Range<usize>) -> Operand<'a> {
    let pitch = x.layout.strip_pitch();
    x.data.window(strips.start * pitch, strips.len() * pitch)
}

/// Lanes that count from the first of these strips to the last.
pub(super) fn lanes_of(layout: &StripLayout, strips: &Range<usize>) -> usize {
    (strips.end * layout.strip()).min(layout.lanes()) - strips.start * layout.strip()
}
