//! SRigL, structured RigL (Lasby, Golubeva, Evci, Nica and Ioannou, ICLR 2024, arXiv 2305.02299): all neurons have the same number of
//! weights, and those that few salient weights lead to have none.
//!
//! ```text
//! at an update: for each layer                              a row is a neuron, or a filter
//!     n        = trunc(f(step) · nnz)
//!     left     = all entries but the n of smallest |w|
//!     wanted   = n positions outside left with the largest |dL/dW|
//!     salient  = entries of left and positions of wanted, of each row
//!     ablated  = rows with less than max(1, gamma_sal · k) salient ones       k: mean entries of rows that have any
//!     fan_in   = nnz / rows that are not ablated
//!     kept     = entries of left in rows that are not ablated
//!     grown    = in each such row the positions outside kept with the largest |dL/dW|, until it has fan_in
//!     pattern  = kept ∪ grown; newcomers start at zero
//! ```
//!
//! The paper's section 3.1, steps 1 to 7. Constant fan-in lets a row be stored without its length, and lets the ablation make a
//! layer narrower; this engine stores it as any CSR.
//!
//! * A layer keeps its number of weights, which its number of rows need not divide: rows differ by one entry at most. The authors
//!   round the fan-in, and with it the density.
//! * The network starts with such a pattern: a random one, from rows with too many entries of which random ones go to random
//!   positions in rows with too few, with the values they have.
//! * Of rows that would all be ablated, as many stay as have room for the layer's weights, the most salient first.
//! * An ablated row is a row like any other at the next update, and comes back if enough of its gradients are among the largest
//!   (the authors' code has both ways; the paper does not say).
//! * A dropped position is a candidate like any other, and keeps its value if it is grown again, as with RigL here.
//!
//! # What is dense
//!
//! At updates the gradient, 4 bytes per position on the device, where it stays, and 4 on the host while the update runs; growth
//! by row needs all of it. Steps between updates are those of any sparse network.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use sparse_kernels::{Candidate, CsrPattern};

use crate::method::{
    GradientNeed, Layer, LayerUpdate, Layers, MethodError, MethodInfo, MethodOptions, ParameterInfo, UpdateGradient,
};
use crate::schedule::LoopSemantics;
use crate::scheduled::{Rewiring, Update};
use crate::topology::{Kept, largest_outside};

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "RigL with the same number of weights for each neuron, and none for neurons of little use",
    update_gradient: UpdateGradient::Whole,
    blocks: false,
    reference_semantics: LoopSemantics::TF1_RIGL,
    parameters: &[ParameterInfo {
        name: "gamma_sal",
        default: "0.3",
        rule: "at least 0 and at most 1",
        summary: "share of its weights that must be salient, or a neuron is ablated",
    }],
    ..MethodInfo::scheduled::<SRigL>("srigl")
};

/// Drops and grows as RigL, with a constant fan-in of all rows that are not ablated.
#[derive(Debug, Clone, PartialEq)]
pub struct SRigL {
    gamma_sal: f64,
    /// What each layer grows in the update that runs.
    grown: BTreeMap<String, Vec<(u32, u32)>>,
}

/// How many entries each row is to have: `nnz` spread over the rows that are not ablated, those with the most entries first.
fn fan_ins(nnz: usize, entries: &[usize], is_ablated: &[bool]) -> Vec<usize> {
    let mut active: Vec<usize> = (0..entries.len()).filter(|&row| !is_ablated[row]).collect();
    active.sort_by_key(|&row| (Reverse(entries[row]), row));
    let mut fan_ins = vec![0; entries.len()];
    for (place, &row) in active.iter().enumerate() {
        fan_ins[row] = nnz / active.len() + usize::from(place < nnz % active.len());
    }
    fan_ins
}

/// Which rows are ablated: those with too few `salient` weights, but for the most salient that have room for `nnz` weights.
fn ablated(nnz: usize, ncols: usize, salient: &[usize], least: f64) -> Vec<bool> {
    let mut order: Vec<usize> = (0..salient.len()).collect();
    order.sort_by_key(|&row| (Reverse(salient[row]), row));
    let needed = nnz.div_ceil(ncols.max(1)).max(1);
    let mut is_ablated = vec![false; salient.len()];
    order.iter().skip(needed).for_each(|&row| is_ablated[row] = (salient[row] as f64) < least);
    is_ablated
}

/// Entries of each row.
fn row_lengths(pattern: &CsrPattern) -> Vec<usize> {
    (0..pattern.nrows()).map(|row| pattern.row(row).len()).collect()
}

/// The `count` free columns of a row of the lowest rank, `taken` being in order.
fn best_columns<R: Ord + Copy>(ncols: usize, taken: &[u32], count: usize, rank: impl Fn(u32) -> R) -> Vec<u32> {
    let mut taken = taken.iter().peekable();
    let free = (0..ncols as u32).filter(|column| taken.next_if_eq(&column).is_none());
    let mut free: Vec<u32> = free.collect();
    if 0 < count && count < free.len() {
        free.select_nth_unstable_by_key(count - 1, |&column| (rank(column), column));
    }
    free.truncate(count);
    free
}

impl Rewiring for SRigL {
    fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError> {
        let gamma_sal = info.parameter(options, "gamma_sal", |gamma: &f64| (0.0..=1.0).contains(gamma))?;
        Ok(Self { gamma_sal, grown: BTreeMap::new() })
    }

    fn start(&mut self, seed: u64, layers: &dyn Layers) -> Result<Vec<LayerUpdate>, MethodError> {
        let mut updates = vec![];
        for layer in layers.iter() {
            let (pattern, key) = (layer.pattern(), layer.key(seed, "fan-in"));
            let (ncols, lengths) = (pattern.ncols(), row_lengths(pattern));
            let fan_ins = fan_ins(pattern.nnz(), &lengths, &vec![false; lengths.len()]);
            let rank = |row: usize, column: u32| key.bits((row * ncols) as u64 + u64::from(column));
            let (mut keep, mut grown) = (vec![true; pattern.nnz()], vec![]);
            for (row, (&length, &fan_in)) in lengths.iter().zip(&fan_ins).enumerate() {
                let columns = pattern.row(row);
                if length > fan_in {
                    let mut order: Vec<usize> = (0..length).collect();
                    order.sort_by_key(|&e| rank(row, columns[e]));
                    order[fan_in..].iter().for_each(|e| keep[pattern.row_range(row).start + e] = false);
                } else {
                    let new = best_columns(ncols, columns, fan_in - length, |column| rank(row, column));
                    grown.extend(new.into_iter().map(|column| (row as u32, column)));
                }
            }
            let kept: Kept = keep.iter().copied().collect();
            if kept.dropped_count() == 0 {
                continue;
            }
            let values = layer.values()?;
            let mut spare = values.iter().zip(&keep).filter(|(_, keep)| !**keep).map(|(value, _)| *value);
            let new = layer.rewired(&kept, &grown)?;
            let value = |&from: &u32| match from {
                u32::MAX => spare.next().expect("as many are grown as are dropped"),
                from => values[from as usize],
            };
            let values = Some(new.map.iter().map(value).collect());
            updates.push(LayerUpdate { values, ..new });
        }
        Ok(updates)
    }

    /// Everything, until the gradient is there.
    fn keep(&self, _: &Update, layer: Layer<'_>) -> Result<Kept, MethodError> {
        layer.drop_smallest(0)
    }

    fn need(&self, update: &Update, layer: Layer<'_>, _: &Kept) -> Result<GradientNeed, MethodError> {
        let drops = update.drop_count(layer.pattern().nnz()) > 0;
        Ok(if drops { GradientNeed::Dense } else { GradientNeed::None })
    }

    fn keep_after_gradient(&mut self, update: &Update, layer: Layer<'_>, kept: Kept) -> Result<Kept, MethodError> {
        let pattern = layer.pattern();
        let (nnz, ncols) = (pattern.nnz(), pattern.ncols());
        let count = update.drop_count(nnz);
        self.grown.remove(layer.name());
        if count == 0 {
            return Ok(kept);
        }
        let (values, gradient, ties) = (layer.values()?, layer.dense_gradient()?, update.key("ties", layer));
        let left = layer.drop_smallest(count)?;
        let of_left = layer.kept_pattern(&left)?;
        let mut salient = row_lengths(&of_left);
        for (row, _) in layer.named(largest_outside(&gradient, &of_left, count, ties))? {
            salient[row as usize] += 1;
        }
        let with_weights = row_lengths(pattern).into_iter().filter(|&length| length > 0).count();
        let least = (self.gamma_sal * nnz as f64 / with_weights.max(1) as f64).max(1.0);
        let is_ablated = ablated(nnz, ncols, &salient, least);
        let lengths = row_lengths(&of_left);
        let fan_ins = fan_ins(nnz, &lengths, &is_ablated);

        let (mut keep, mut grown) = (vec![false; nnz], vec![]);
        for (row, &fan_in) in fan_ins.iter().enumerate().filter(|(row, _)| !is_ablated[*row]) {
            // A row has more than its fan-in if others have come back.
            let mut stay: Vec<usize> = pattern.row_range(row).filter(|&e| left.is_kept(e)).collect();
            stay.sort_by(|&a, &b| values[b].abs().total_cmp(&values[a].abs()).then(a.cmp(&b)));
            stay.truncate(fan_in);
            stay.sort_unstable();
            stay.iter().for_each(|&e| keep[e] = true);
            let taken: Vec<u32> = stay.iter().map(|&e| pattern.col_indices()[e]).collect();
            // Descending magnitude, ascending hash; NaN counts as 0.
            let rank = |column: u32| {
                let position = row * ncols + column as usize;
                (!gradient[position].abs().max(0.0).to_bits(), ties.bits(position as u64) as u32)
            };
            let new = best_columns(ncols, &taken, fan_in - stay.len(), rank);
            grown.extend(new.into_iter().map(|column| (row as u32, column)));
        }
        self.grown.insert(layer.name().to_owned(), grown);
        Ok(keep.into_iter().collect())
    }

    fn counts(&mut self, _: &Update, layers: &dyn Layers, _: &[Kept]) -> Vec<usize> {
        layers.iter().map(|layer| self.grown.get(layer.name()).map_or(0, Vec::len)).collect()
    }

    fn grow(
        &self,
        _: &Update,
        layer: Layer<'_>,
        _: &Kept,
        _: usize,
        _: &[Candidate],
    ) -> Result<Vec<(u32, u32)>, MethodError> {
        Ok(self.grown.get(layer.name()).cloned().unwrap_or_default())
    }

    fn held_bytes(&self, layers: &dyn Layers) -> usize {
        8 * layers.iter().map(Layer::positions).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::method::Method;
    use crate::methods::test_loop::{Net, options, options_with};
    use crate::scheduled::Scheduled;
    use crate::{ScheduleOptions, UpdateSchedule, build_method};

    fn lengths(net: &Net, layer: usize) -> Vec<usize> {
        row_lengths(&net.patterns[layer])
    }

    /// Three rows of two; four of six weights are left: two of row 0, both of row 1, none of row 2. The two largest gradients are in
    /// row 0. With 4, 2 and 0 salient weights, row 2 is ablated, and the six weights are those of two rows of three.
    #[test]
    fn six_weights_by_hand() {
        let rows: &[&[u32]] = &[&[0, 1], &[2, 3], &[4, 5]];
        let mut net = Net::by_hand(&[(rows, 6, &[0.9, -0.8, 0.7, 0.6, 0.1, -0.2])]);
        net.given_gradients = vec![vec![
            0.0, 0.0, 5.0, -6.0, 1.0, 1.5, //
            0.1, 0.2, 0.0, 0.0, 0.3, -0.4, //
            0.5, 0.5, 0.5, 0.5, 0.5, 0.5,
        ]];
        let mut options = options(LoopSemantics::PAPER);
        let base = *options.schedule.options();
        let schedule = ScheduleOptions { begin_step: 0, drop_fraction: 0.34, ..base };
        options.schedule = UpdateSchedule::new(schedule).unwrap();
        let mut srigl = Scheduled::<SRigL>::new(&INFO, &options).unwrap();
        assert_eq!(net.run(&mut srigl, 1).updates, [0]);
        let expected = [(0, 0), (0, 1), (0, 3), (1, 2), (1, 3), (1, 5)];
        assert_eq!(net.patterns[0].positions().collect::<Vec<_>>(), expected);
        assert_eq!(net.values[0], [0.9, -0.8, 0.0, 0.7, 0.6, 0.0]);
        // Its gradients become the largest, and it comes back: row 0 drops the smallest of its three for that.
        net.given_gradients[0][12..].fill(9.0);
        net.values[0] = vec![0.9, -0.8, 0.85, 0.1, 0.2, 0.7];
        net.step = 3;
        assert_eq!(net.run(&mut srigl, 1).updates, [3]);
        assert_eq!(lengths(&net, 0), [2, 2, 2]);
        assert_eq!(net.patterns[0].row(0), [0, 3]);
    }

    #[test]
    fn rows_are_ablated_but_for_room() {
        // Twelve weights in rows of five need three of them.
        assert_eq!(ablated(12, 5, &[0, 2, 0, 3, 0], 1.0), [false, false, true, false, true]);
        assert_eq!(ablated(12, 5, &[0, 2, 1, 3, 1], 1.5), [true, false, false, false, true]);
        assert_eq!(ablated(3, 5, &[1, 2, 1], 0.5), [false; 3]);
        assert_eq!(fan_ins(8, &[1, 3, 2, 0], &[false, false, false, true]), [2, 3, 3, 0]);
    }

    #[test]
    fn it_starts_with_a_constant_fan_in() {
        let mut net = Net::new(3);
        let mut srigl = Scheduled::<SRigL>::new(&INFO, &options(LoopSemantics::PAPER)).unwrap();
        let before = net.values.clone();
        let updates = srigl.start(&net).unwrap();
        net.apply(updates);
        // 60 in 12 rows, 18 in 20, 300 in 30; the values are the same in another order.
        assert_eq!([0, 2].map(|layer| lengths(&net, layer)), [vec![5; 12], vec![10; 30]]);
        assert!(lengths(&net, 1).iter().all(|&length| length <= 1) && net.counts() == [60, 18, 300]);
        for (mut before, mut after) in before.into_iter().zip(net.values.clone()) {
            before.sort_by(f32::total_cmp);
            after.sort_by(f32::total_cmp);
            assert_eq!(before, after);
        }
        assert_eq!(srigl.held_bytes(&net), 8 * (12 * 20 + 20 * 9 + 30 * 30));
    }

    #[test]
    fn updates_are_counted_as_a_dense_gradient() {
        let mut options = options(LoopSemantics::PAPER);
        options.growth_batches = 7;
        let srigl = build_method("srigl", &options).unwrap();
        assert_eq!(srigl.training_flops(1.0, 10.0), (3.0 * 3.0 + 2.0 + 10.0) / 4.0);
        assert!(build_method("srigl", &crate::methods::test_loop::options(LoopSemantics::TF1_SET)).is_err());
    }

    proptest! {
        /// Rows that are not empty differ by one at most, numbers stay, no row is ablated without gamma but an idle one, and an
        /// interrupted run goes on as if it had not been.
        #[test]
        fn fan_ins_are_constant(seed in 0u64..500, gamma in 0.0f64..=1.0, at in 1usize..20) {
            let options = MethodOptions { seed, ..options_with(LoopSemantics::PAPER, "gamma_sal", &gamma.to_string()) };
            let build = || build_method("srigl", &options).unwrap();
            let (mut method, mut net) = (build(), Net::new(seed));
            let counts = net.counts();
            let mut changed = false;
            for _ in 0..20 {
                changed |= !net.run(method.as_mut(), 1).updates.is_empty();
                prop_assert_eq!(&net.counts(), &counts);
                for layer in 0..net.len() {
                    let mut lengths = lengths(&net, layer);
                    lengths.retain(|&length| length > 0);
                    let most = lengths.iter().max().unwrap();
                    prop_assert!(lengths.iter().all(|length| length + 1 >= *most), "{:?}", lengths);
                }
            }
            prop_assert!(changed);
            let (mut first, mut second, mut other) = (build(), build(), Net::new(seed));
            other.run(first.as_mut(), at);
            second.restore(&first.state()).unwrap();
            other.run(second.as_mut(), 20 - at);
            prop_assert_eq!(other, net);
        }
    }
}
