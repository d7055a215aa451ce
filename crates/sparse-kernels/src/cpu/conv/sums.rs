//! Sums over image rows, in tasks.

use std::ops::Range;

use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};

/// Tasks wanted, that many threads find work, and most parts that the image rows are cut into for it.
const TASKS: usize = 16;
const MOST_PARTS: usize = 8;

/// Computes sums over image rows: `task(index, rows, to, accumulate)` makes some elements of a gradient as long as `sums`
/// from some image rows. Few tasks are cut by rows into a fixed number of parts, whose sums are added in their order.
pub(super) fn sum_parts(
    cpu: &Cpu,
    sums: &mut [f32],
    accumulate: bool,
    tasks: usize,
    rows: usize,
    operations: u64,
    task: impl Fn(usize, Range<usize>, SharedMut, bool) + Sync + Send,
) {
    if rows == 0 || sums.is_empty() {
        if !accumulate {
            sums.fill(0.0);
        }
        return;
    }
    let len = sums.len();
    let parts = TASKS.div_ceil(tasks.max(1)).min(rows).min(MOST_PARTS);
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
