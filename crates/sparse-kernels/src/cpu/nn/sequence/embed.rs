//! Rows of a table, one for each lane, into strips, and the sums of their gradients.
//!
//! ```text
//! forward   for each 16 lanes, 16 features:  tile[f][lane] = table[token(lane)][f] + positions[place(lane)][f];  x = tile
//! backward  for each 32 features, 16 lanes:  tile[lane][f] = dx;  dtable[token(lane)][f] += tile[lane][f], lane by lane
//! ```
//!
//! A tile turns rows into lanes within L1. Forward splits lanes between tasks; backward splits features, so that a task
//! owns its columns of the gradient and adds the lanes in their order.

use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};
use crate::{StripLayout, Strips};

/// Lanes handled together.
const UNIT: usize = StripLayout::STRIP_UNIT;
/// Features of a tile forward: a line of a row.
const FORWARD: usize = 16;
/// Features of a task backward: two lines of a row.
const BACKWARD: usize = 32;

pub(super) fn forward<'m>(
    cpu: &Cpu,
    table: &'m [f32],
    positions: Option<(&'m [f32], usize)>,
    tokens: &[u32],
    x: &mut Strips<Cpu>,
) {
    let (layout, features) = (x.layout, x.layout.features());
    let symbols = table.len() / features;
    let units = layout.strips() * layout.strip() / UNIT;
    let units_per_task = (ELEMENTS_PER_TASK / (UNIT * features)).max(1);
    let x = SharedMut::new(&mut x.data);
    let part = |matrix: &'m [f32], row: usize, first: usize, count: usize| &matrix[row * features + first..][..count];
    let unit = |unit: usize| {
        let first_lane = unit * UNIT;
        let lanes = layout.lanes().saturating_sub(first_lane).min(UNIT);
        for first in (0..features).step_by(FORWARD) {
            let count = (features - first).min(FORWARD);
            let mut tile = [[0f32; UNIT]; FORWARD];
            for (i, lane) in (first_lane..first_lane + lanes).enumerate() {
                let token = tokens[lane] as usize;
                if token >= symbols {
                    tile[..count].iter_mut().for_each(|row| row[i] = f32::NAN);
                    continue;
                }
                let row = part(table, token, first, count);
                match positions {
                    Some((positions, length)) => {
                        let place = part(positions, lane % length, first, count);
                        let sums = row.iter().zip(place).map(|(x, place)| x + place);
                        tile.iter_mut().zip(sums).for_each(|(row, x)| row[i] = x);
                    }
                    None => tile.iter_mut().zip(row).for_each(|(row, x)| row[i] = *x),
                }
            }
            for (f, from) in (first..).zip(&tile[..count]) {
                // SAFETY: 16 lanes of a feature that `layout` has, of this unit alone.
                let to = unsafe { std::slice::from_raw_parts_mut(x.get().add(layout.index(f, first_lane)), UNIT) };
                to.copy_from_slice(from);
            }
        }
    };
    cpu.for_each_task(units.div_ceil(units_per_task), 8 * layout.len() as u64, |task| {
        let start = task * units_per_task;
        (start..(start + units_per_task).min(units)).for_each(unit);
    });
}

/// Adds each lane of `dx` to row `row(lane)` of `grad`; to none if that lies beyond.
pub(super) fn backward(
    cpu: &Cpu,
    row: impl Fn(usize) -> usize + Sync + Send,
    dx: &Strips<Cpu>,
    grad: &mut [f32],
    accumulate: bool,
) {
    let (layout, features, nrows) = (dx.layout, dx.layout.features(), grad.len() / dx.layout.features());
    let grad = SharedMut::new(grad);
    cpu.for_each_task(features.div_ceil(BACKWARD), 8 * layout.len() as u64, |task| {
        let first = task * BACKWARD;
        let count = (features - first).min(BACKWARD);
        let part = |row: usize| {
            debug_assert!(row < nrows);
            // SAFETY: columns of a row that `grad` has, which are this task's alone; one slice is held at a time.
            unsafe { std::slice::from_raw_parts_mut(grad.get().add(row * features + first), count) }
        };
        if !accumulate {
            (0..nrows).for_each(|row| part(row).fill(0.0));
        }
        for first_lane in (0..layout.lanes()).step_by(UNIT) {
            let mut tile = [[0f32; BACKWARD]; UNIT];
            for (i, f) in (first..first + count).enumerate() {
                let lanes = &dx.data[layout.index(f, first_lane)..][..UNIT];
                tile.iter_mut().zip(lanes).for_each(|(row, x)| row[i] = *x);
            }
            for (lane, from) in (first_lane..layout.lanes()).zip(&tile) {
                let row = row(lane);
                if row < nrows {
                    part(row).iter_mut().zip(from).for_each(|(to, x)| *to += x);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::*;
    use crate::testing::{neural, sequence};
    use crate::{SequenceNeural, StripLayout};

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            layout in neural::layouts(), more in 0usize..40, symbols in 1usize..9, length in 0usize..12, accumulate: bool,
            seed in 0u64..100
        ) {
            let layout = layout.with_features(1 + layout.features() + more);
            for cpu in BACKENDS.iter() {
                sequence::embed(cpu, layout, symbols, length, accumulate, seed);
            }
        }
    }

    #[test]
    fn tokens_that_are_no_symbols() {
        BACKENDS.iter().for_each(sequence::tokens_that_are_no_symbols);
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for layout in [StripLayout::sparse(1000, 333), StripLayout::single(1000, 333)] {
            let dx = pack(layout, &normals("x", 333_000));
            let tokens: Vec<u32> = (0..1000).map(|i| i * i % 7).collect();
            same_for_all_threads(|cpu| {
                let (mut x, mut dtable, mut dpositions) =
                    (poisoned(layout), buffer(&[0.0; 2331]), buffer(&[0.0; 3330]));
                let (table, positions) = (buffer(&dx.data[..2331]), buffer(&dx.data[2331..][..3330]));
                cpu.embed(&table, Some((&positions, 10)), &tokens, &mut x).unwrap();
                cpu.embed_grad(&tokens, &dx, &mut dtable, false).unwrap();
                cpu.embed_positions_grad(10, &dx, &mut dpositions, false).unwrap();
                [&x.data[..], &dtable[..], &dpositions[..]].concat()
            });
        }
    }
}
