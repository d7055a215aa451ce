//! Sums over image rows, in tasks.

use std::ops::Range;

use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};

/// Most parts that the image rows are cut into.
const MOST_PARTS: usize = 8;

/// A gradient that is a sum over image rows, in X and dY of `activations` floats.
pub(super) struct RowSums<'a> {
    pub sums: &'a mut [f32],
    /// Add to `sums` instead of overwriting them.
    pub accumulate: bool,
    pub rows: usize,
    pub activations: usize,
}

/// Parts whose sums take an eighth of the activations' memory or less. They follow from the shapes alone: sums are added part
/// by part, and must not depend on the machine's caches.
fn parts(sums: usize, rows: usize, activations: usize) -> usize {
    (activations / (8 * sums).max(1)).clamp(1, MOST_PARTS).min(rows)
}

/// Floats that the sums of all parts but the first take.
#[cfg(feature = "nn")]
pub(super) fn scratch_len(sums: usize, rows: usize, activations: usize) -> usize {
    sums * parts(sums, rows, activations).saturating_sub(1)
}

impl RowSums<'_> {
    fn parts(&self) -> usize {
        parts(self.sums.len(), self.rows, self.activations)
    }

    /// Whether a task should make the whole gradient from its image rows instead of a chunk of it: dY then comes from memory once
    /// and not once for each chunk. The gradient must stay near meanwhile, and there must be parts for some threads.
    pub fn takes_whole_rows(&self, cpu: &Cpu) -> bool {
        cpu.is_far(self.activations) && self.parts() == MOST_PARTS && self.may_take_whole_rows(cpu)
    }

    /// Whether a task may do so: where rows are widened, those of X and dY would be once for each chunk. There must be parts for all
    /// threads.
    pub fn may_take_whole_rows(&self, cpu: &Cpu) -> bool {
        2 * size_of_val(self.sums) <= cpu.l2_bytes() && (self.parts() == MOST_PARTS || self.parts() >= cpu.threads())
    }

    /// Computes it: `task(index, rows, to, accumulate)` makes some elements from some image rows. Rows are cut into a fixed number
    /// of parts, whose sums are added in their order.
    pub fn compute(
        self,
        cpu: &Cpu,
        tasks: usize,
        operations: u64,
        task: impl Fn(usize, Range<usize>, SharedMut, bool) + Sync + Send,
    ) {
        let parts = self.parts();
        let Self { sums, accumulate, rows, .. } = self;
        if rows == 0 || sums.is_empty() {
            if !accumulate {
                sums.fill(0.0);
            }
            return;
        }
        let len = sums.len();
        // The first part goes straight to its place.
        let mut others = cpu.scratch(len * (parts - 1));
        let (first, rest) = (SharedMut::new(sums), SharedMut::new(&mut others));
        cpu.for_each_task(tasks * parts, operations, |index| {
            let (index, part) = (index / parts, index % parts);
            let to = if part == 0 { first } else { rest.offset((part - 1) * len) };
            task(index, part * rows / parts..(part + 1) * rows / parts, to, accumulate && part == 0);
        });
        cpu.for_each_chunk(sums, ELEMENTS_PER_TASK, 8 * (len * (parts - 1)) as u64, |start, sums| {
            for other in others.chunks_exact(len) {
                sums.iter_mut().zip(&other[start..]).for_each(|(sum, other)| *sum += other);
            }
        });
        cpu.give_back(others);
    }
}
