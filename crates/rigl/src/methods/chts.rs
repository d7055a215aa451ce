//! CHTs, Cannistraci–Hebb training with a soft rule (Zhang, Zhao, Hu, Xu, Liao, Hu and Cannistraci 2025, arXiv 2501.19107): growth
//! by the topology alone, where a link predictor expects connections, and both removal and growth by chance.
//!
//! ```text
//! at an update: for each layer
//!     n       = trunc(f(step) · nnz)
//!     kept    = nnz − n entries, drawn one after the other with probabilities in proportion to |w|^e
//!     score   = CH2-L3n of each position of the bipartite graph that kept is                          see below
//!     grown   = n positions outside kept, drawn in proportion to their scores
//!     pattern = kept ∪ grown; newcomers start at zero
//! ```
//!
//! A position (u, v) is expected to be a connection if many paths of three lead from u to v whose inner nodes have few links
//! elsewhere. Let c(u, z) be the number of columns that rows u and z share, d(z) the entries of row z; and the same of columns:
//!
//! ```text
//! e(u, z)     = max(d(z) − c(u, z), 1) − 1                              links of z that lead elsewhere, but for that to v
//! score(u, v) = Σ over rows z with an entry at v and c(u, z) > 0       (1 + c(u, z)) / (1 + e(u, z))
//!             + Σ over columns y of row u with c(y, v) > 0             (1 + c(y, v)) / (1 + e(v, y))
//! ```
//!
//! This is the authors' code (biomedical-cybernetics/Cannistraci-Hebb-Training-Soft-Rule-, `llm/dst_scheduler.py`, `CH2_L3n`);
//! `predictor = ch3` leaves out the shared links, `1 / (1 + e)`. The exponent e of removal rises in a line from `start-exponent` to
//! `end-exponent` over the updates, as `start_T` and `end_T` there: removal is more and more that of the smallest.
//!
//! * `selection = hard` removes the smallest and grows the highest scores: CHT. The published code of the language models draws
//!   when it removes, and grows the highest; the article draws both, which is the default here.
//! * Positions that no path of three leads to are grown only if there are too few others, at random.
//! * The drop fraction follows the schedule; in the code it is constant (`--drop-schedule constant`).
//! * Not built: the path-based predictor CH3-L3p, whose code is not published in source; removal by relative importance (RI);
//!   initial topologies (Watts–Strogatz, BRF); removal of chains, which takes the rows and columns that lead nowhere; early stop.
//! * The default exponents, 1 to 3, are those of the authors' code for perceptrons and Transformers, and the article's δ from 0.5 to 0.75
//!   (section 3.1) if its power is δ / (1 − δ). Their scripts for language models say 9.
//!
//! # What is dense, and what it costs
//!
//! An update scores and ranks all positions of a layer: 20 bytes each while it runs, one layer after the other. Scores take
//! O((nrows + ncols) · nnz) at most. No gradient is asked for. Not for layers whose positions do not fit memory.

use std::collections::BTreeMap;

use sparse_kernels::random::Key;
use sparse_kernels::{Candidate, CsrPattern};

use crate::method::{Layer, Layers, MethodError, MethodInfo, MethodOptions, MethodState, ParameterInfo};
use crate::schedule::{LoopSemantics, UpdateSchedule};
use crate::scheduled::{Rewiring, Update};
use crate::topology::{Kept, select_kept};

pub(super) const PREDICTOR: ParameterInfo = ParameterInfo {
    name: "predictor",
    default: "ch2",
    rule: "ch2 or ch3",
    summary: "whether links that rows or columns share count beside those that lead elsewhere",
};

pub(super) const SELECTION: ParameterInfo = ParameterInfo {
    name: "selection",
    default: "soft",
    rule: "soft or hard",
    summary: "whether what is removed and grown is drawn, or the smallest and the highest",
};

pub(super) const START_EXPONENT: ParameterInfo = ParameterInfo {
    name: "start-exponent",
    default: "1",
    rule: "a finite number of at least 0",
    summary: "power of the magnitude by which the first update draws what stays",
};

pub(super) const END_EXPONENT: ParameterInfo = ParameterInfo {
    name: "end-exponent",
    default: "3",
    rule: "a finite number of at least 0",
    summary: "the same of the last update",
};

pub(super) static INFO: MethodInfo = MethodInfo {
    summary: "removes small weights by chance, grows where the topology predicts links",
    reference_semantics: LoopSemantics::PAPER,
    parameters: &[PREDICTOR, SELECTION, START_EXPONENT, END_EXPONENT],
    ..MethodInfo::scheduled::<Chts>("chts")
};

/// Removes and grows by chance, by magnitude and by a link predictor.
#[derive(Debug, Clone, PartialEq)]
pub struct Chts {
    counts_shared: bool,
    is_soft: bool,
    exponents: [f64; 2],
    /// Of CHTss: the density at the start.
    start: Option<f64>,
    /// Of CHTss: what each layer began with.
    starts: BTreeMap<String, usize>,
}

/// How many of the updates are over, in `0..=1`: 1 at the last one.
fn progress(schedule: &UpdateSchedule, step: u64) -> f64 {
    let begin = schedule.options().begin_step;
    match schedule.last_update() {
        None => 0.0,
        Some(last) if step < last => step.saturating_sub(begin) as f64 / (last - begin) as f64,
        Some(_) => 1.0,
    }
}

/// How much of a fall along a sigmoid is still to come (the authors' `s_shape`, with k = 6): 1 at the first update, 0 at the last.
pub(super) fn way(progress: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-12.0 * (x - 0.5)).exp());
    let (first, last) = (sigmoid(0.0), sigmoid(1.0));
    match progress {
        ..=0.0 => 1.0,
        1.0.. => 0.0,
        _ => 1.0 - ((sigmoid(progress) - 0.5) / (last - first) + 0.5),
    }
}

/// The order in which numbered things are drawn one after the other, each in proportion to its weight among those that are left: an
/// exponential race. Things of weight 0 come last.
fn race(key: Key, number: usize, weight: f64) -> u64 {
    let uniform = ((key.bits(number as u64) >> 11) + 1) as f64 / (1u64 << 53) as f64;
    // The sum makes a negative zero positive.
    let time = -uniform.ln() / weight + 0.0;
    // Bits of a float that is not negative order as it does; what has no weight is ordered by chance behind all others.
    if weight > 0.0 && time.is_finite() { time.to_bits() } else { 1 << 63 | key.bits(number as u64) >> 1 }
}

/// The `count` of these that are lowest in order, ascending.
fn first_of(mut ranked: Vec<(u64, usize)>, count: usize) -> Vec<usize> {
    if 0 < count && count < ranked.len() {
        ranked.select_nth_unstable(count - 1);
    }
    ranked.truncate(count);
    let mut chosen: Vec<usize> = ranked.into_iter().map(|(_, number)| number).collect();
    chosen.sort_unstable();
    chosen
}

/// Adds what the rows that share columns with each row say: `add(u, v, part)`.
fn of_rows(rows: &CsrPattern, columns: &CsrPattern, counts_shared: bool, mut add: impl FnMut(usize, usize, f32)) {
    let mut common = vec![0u32; rows.nrows()];
    let mut touched = vec![];
    for u in 0..rows.nrows() {
        for &column in rows.row(u) {
            for &z in columns.row(column as usize) {
                if common[z as usize] == 0 {
                    touched.push(z as usize);
                }
                common[z as usize] += 1;
            }
        }
        // In order, so that sums do not depend on the order of the columns.
        touched.sort_unstable();
        for z in touched.drain(..) {
            let shared = std::mem::take(&mut common[z]) as f32;
            if z == u {
                continue;
            }
            let elsewhere = (rows.row(z).len() as f32 - shared).max(1.0) - 1.0;
            let part = (if counts_shared { 1.0 + shared } else { 1.0 }) / (1.0 + elsewhere);
            rows.row(z).iter().for_each(|&v| add(u, v as usize, part));
        }
    }
}

/// The link predictor at all positions, row by row.
fn scores(pattern: &CsrPattern, counts_shared: bool) -> Result<Vec<f32>, crate::TopologyError> {
    let (nrows, ncols) = (pattern.nrows(), pattern.ncols());
    let transposed = pattern.positions().map(|(row, column)| (column, row)).collect();
    let transposed = CsrPattern::from_positions(ncols, nrows, transposed)?;
    let mut scores = vec![0.0; nrows * ncols];
    of_rows(pattern, &transposed, counts_shared, |u, v, part| scores[u * ncols + v] += part);
    of_rows(&transposed, pattern, counts_shared, |v, u, part| scores[u * ncols + v] += part);
    Ok(scores)
}

impl Chts {
    /// The weights that a layer has left after the fall of its density at this update.
    fn left(&self, update: &Update, layer: Layer<'_>) -> usize {
        let (nnz, target) = (layer.pattern().nnz(), layer.target_nnz());
        let Some(&start) = self.starts.get(layer.name()) else { return nnz };
        let way = way(progress(&update.schedule, update.step));
        (target + (way * start.saturating_sub(target) as f64) as usize).min(nnz)
    }
}

impl Rewiring for Chts {
    fn new(info: &'static MethodInfo, options: &MethodOptions) -> Result<Self, MethodError> {
        let one_of = |names: [&'static str; 2]| move |name: &String| names.contains(&&**name);
        let predictor: String = info.parameter(options, PREDICTOR.name, one_of(["ch2", "ch3"]))?;
        let selection: String = info.parameter(options, SELECTION.name, one_of(["soft", "hard"]))?;
        let exponent = |name| info.parameter(options, name, |e: &f64| e.is_finite() && *e >= 0.0);
        let start = |name| info.parameter(options, name, |density: &f64| *density > 0.0 && *density <= 1.0);
        Ok(Self {
            counts_shared: predictor == "ch2",
            is_soft: selection == "soft",
            exponents: [exponent(START_EXPONENT.name)?, exponent(END_EXPONENT.name)?],
            start: info.start_density.map(start).transpose()?,
            starts: BTreeMap::new(),
        })
    }

    fn begin(&mut self, _: &Update, layers: &dyn Layers) -> Result<(), MethodError> {
        if self.start.is_some() {
            for layer in layers.iter() {
                self.starts.entry(layer.name().to_owned()).or_insert(layer.pattern().nnz());
            }
        }
        Ok(())
    }

    fn keep(&self, update: &Update, layer: Layer<'_>) -> Result<Kept, MethodError> {
        let (nnz, left) = (layer.pattern().nnz(), self.left(update, layer));
        let drawn = update.drop_count(left);
        if !self.is_soft || drawn == 0 {
            return layer.drop_smallest(nnz - left + drawn);
        }
        let weights = layer.values()?;
        // First the density falls, by the smallest.
        let stays = layer.named(select_kept(&weights, nnz - left))?;
        let [first, last] = self.exponents;
        let exponent = first + progress(&update.schedule, update.step) * (last - first);
        let key = update.key("keep", layer);
        // As with the authors, no weight is so small that it could not be drawn.
        let weight = |e: usize| f64::from(weights[e].abs().max(1e-12)).powf(exponent);
        let ranked = (0..nnz).filter(|&e| stays.is_kept(e)).map(|e| (race(key, e, weight(e)), e)).collect();
        let mut keep = vec![false; nnz];
        first_of(ranked, left - drawn).into_iter().for_each(|e| keep[e] = true);
        Ok(keep.into_iter().collect())
    }

    fn counts(&mut self, update: &Update, layers: &dyn Layers, _: &[Kept]) -> Vec<usize> {
        layers.iter().map(|layer| update.drop_count(self.left(update, layer))).collect()
    }

    fn grow(
        &self,
        update: &Update,
        layer: Layer<'_>,
        kept: &Kept,
        count: usize,
        _: &[Candidate],
    ) -> Result<Vec<(u32, u32)>, MethodError> {
        let (pattern, key) = (layer.kept_pattern(kept)?, update.key("grow", layer));
        let scores = layer.named(scores(&pattern, self.counts_shared))?;
        let ncols = pattern.ncols();
        let mut taken = pattern.positions().map(|(row, column)| row as usize * ncols + column as usize).peekable();
        let free = (0..scores.len()).filter(|&position| taken.next_if_eq(&position).is_none());
        let rank = |position: usize| match self.is_soft {
            true => race(key, position, f64::from(scores[position])),
            // Descending score, ascending hash.
            false => u64::from(!scores[position].to_bits()) << 32 | key.bits(position as u64) & 0xFFFF_FFFF,
        };
        let chosen = first_of(free.map(|position| (rank(position), position)).collect(), count);
        Ok(chosen.into_iter().map(|position| ((position / ncols) as u32, (position % ncols) as u32)).collect())
    }

    /// As if operations were in proportion to the weights of the network.
    fn mean_forward_flops(&self, schedule: &UpdateSchedule, total_steps: u64, f_sparse: f64, f_dense: f64) -> f64 {
        let Some(start) = self.start else { return f_sparse };
        let interval = schedule.options().update_interval;
        let points = total_steps / interval + 1;
        let ways: f64 = (0..points).map(|point| way(progress(schedule, point * interval))).sum();
        f_sparse + (start * f_dense - f_sparse).max(0.0) * ways / points as f64
    }

    fn held_bytes(&self, layers: &dyn Layers) -> usize {
        20 * layers.iter().map(Layer::positions).max().unwrap_or(0)
    }

    fn save(&self, state: &mut MethodState) {
        let starts = self.starts.iter().map(|(name, &start)| (format!("{START}{name}"), start as f64));
        state.numbers.extend(starts);
    }

    fn load(&mut self, state: &MethodState) -> Result<(), MethodError> {
        let start = |(name, &start): (&String, &f64)| Some((name.strip_prefix(START)?.to_owned(), start as usize));
        self.starts = state.numbers.iter().filter_map(start).collect();
        Ok(())
    }
}

/// What the state's number of a layer begins with.
const START: &str = "start of ";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::methods::test_loop::{Net, options, options_with};
    use crate::scheduled::Scheduled;
    use crate::{ScheduleOptions, build_method};

    /// ```text
    /// a  x x . .      Rows a and b share one column, b and c one, a and c none.
    /// b  . x x .
    /// c  . . x x
    /// ```
    ///
    /// (a, 2): of rows, b alone shares a column with a and has an entry at 2: c = 1, e = max(2 − 1, 1) − 1 = 0, so 2 / 1. Of
    /// columns, a has 0 and 1; column 1 shares row b with column 2, and has d = 2, c = 1, e = 0: 2 / 1. In all 4.
    /// (a, 3): row c has 3, but shares nothing with a; column 3 shares no row with 0 or 1. No path of three: 0.
    #[test]
    fn scores_by_hand() {
        let pattern = CsrPattern::new(3, 4, vec![0, 2, 4, 6], vec![0, 1, 1, 2, 2, 3]).unwrap();
        let free = |scores: Vec<f32>| [(0, 2), (0, 3), (1, 0), (1, 3), (2, 0), (2, 1)].map(|(r, c)| scores[4 * r + c]);
        // (1, 0): row a has 0 and shares 1 with b: 2. Columns 1 and 2 of b: 1 shares row a with 0, and has d = 2: 2.
        assert_eq!(free(scores(&pattern, true).unwrap()), [4.0, 0.0, 4.0, 4.0, 0.0, 4.0]);
        assert_eq!(free(scores(&pattern, false).unwrap()), [2.0, 0.0, 2.0, 2.0, 0.0, 2.0]);
        // A row z with links elsewhere counts less: with c = 1 of four, e = 2 and the part is 2 / 3; the column's stays 2.
        let wide = CsrPattern::new(2, 6, vec![0, 2, 6], vec![0, 1, 1, 2, 3, 4]).unwrap();
        assert_eq!(scores(&wide, true).unwrap()[2], 2.0 / 3.0 + 2.0);
    }

    /// The definition, by products of dense matrices as the authors write it.
    fn dense_scores(pattern: &CsrPattern) -> Vec<f32> {
        let (n, m) = (pattern.nrows(), pattern.ncols());
        let mut a = vec![0.0f32; n * m];
        pattern.positions().for_each(|(r, c)| a[r as usize * m + c as usize] = 1.0);
        let half = |n: usize, m: usize, a: &dyn Fn(usize, usize) -> f32| {
            let shared = |u: usize, z: usize| (0..m).map(|j| a(u, j) * a(z, j)).sum::<f32>();
            let degree = |z: usize| (0..m).map(|j| a(z, j)).sum::<f32>();
            let part = |u: usize, z: usize| {
                let common = shared(u, z);
                if common == 0.0 { 0.0 } else { (common + 1.0) / (degree(z) - common).max(1.0) }
            };
            let score = |u: usize, v: usize| (0..n).map(|z| part(u, z) * a(z, v)).sum::<f32>();
            (0..n).flat_map(|u| (0..m).map(move |v| (u, v))).map(|(u, v)| score(u, v)).collect::<Vec<_>>()
        };
        let (rows, columns) = (half(n, m, &|r, c| a[r * m + c]), half(m, n, &|c, r| a[r * m + c]));
        (0..n * m).map(|position| rows[position] + columns[position % m * n + position / m]).collect()
    }

    /// Of six weights one goes and one comes: with hard selection the smallest, and one of the highest scores.
    #[test]
    fn six_weights_by_hand() {
        let rows: &[&[u32]] = &[&[0, 1], &[1, 2], &[2, 3]];
        let mut net = Net::by_hand(&[(rows, 4, &[0.9, 0.8, 0.7, 0.6, 0.5, 0.1])]);
        let mut options = options_with(LoopSemantics::PAPER, "selection", "hard");
        let base = *options.schedule.options();
        let schedule = ScheduleOptions { begin_step: 0, drop_fraction: 0.17, ..base };
        options.schedule = UpdateSchedule::new(schedule).unwrap();
        assert_eq!(net.run(&mut Scheduled::<Chts>::new(&INFO, &options).unwrap(), 1).updates, [0]);
        // Without (c, 3): c has column 2 alone. (a, 2): b shares 1 with a: 2 / 1; column 1 shares b with 2, whose other row is c: 2.
        // (b, 0): 2 + 2 alike; (c, 1): row b shares 2, 2 / 1; column 2 of c shares b with 1: 2. All 4: one of them.
        let grown: Vec<_> = net.patterns[0].positions().filter(|&(r, c)| !rows[r as usize].contains(&c)).collect();
        assert_eq!(grown.len(), 1);
        assert!([(0, 2), (1, 0), (2, 1)].contains(&grown[0]), "{grown:?}");
        assert!(net.patterns[0].row(2) != [2, 3]);
    }

    /// Drawn in proportion: of weights 1 and 3 the second comes first three times of four.
    #[test]
    fn races_are_in_proportion() {
        let wins = (0..10_000).filter(|&i| {
            let key = Key::new(1).with(i);
            race(key, 1, 3.0) < race(key, 0, 1.0)
        });
        let wins = wins.count();
        // Five standard deviations of 43.
        assert!((wins as i64 - 7500).abs() < 217, "{wins}");
        assert!((0..100).all(|i| race(Key::new(1), i, 0.0) > race(Key::new(1), i, 1e-30)));
    }

    #[test]
    fn a_sigmoid_from_one_to_zero() {
        assert_eq!((way(0.0), way(1.0)), (1.0, 0.0));
        assert!((way(0.5) - 0.5).abs() < 1e-12 && (way(0.25) + way(0.75) - 1.0).abs() < 1e-12);
        // 1 − ((1 / (1 + e^3) − 1/2) / (1 − 2 / (1 + e^6)) + 1/2)
        assert!((way(0.25) - 0.9548).abs() < 1e-4, "{}", way(0.25));
    }

    #[test]
    fn scores_are_counted() {
        let chts = build_method("chts", &options(LoopSemantics::PAPER)).unwrap();
        assert_eq!((chts.held_bytes(&Net::new(1)), chts.training_flops(1.0, 10.0)), (20 * 900, 3.0));
    }

    proptest! {
        #[test]
        fn scores_are_those_of_the_definition(seed in 0u64..200, nrows in 1usize..9, ncols in 1usize..9) {
            let key = Key::new(seed);
            let all = (0..nrows as u32).flat_map(|r| (0..ncols as u32).map(move |c| (r, c)));
            let stored = all.filter(|&(r, c)| key.uniform(u64::from(r) << 32 | u64::from(c)) < 0.4).collect();
            let pattern = CsrPattern::from_positions(nrows, ncols, stored).unwrap();
            let (found, expected) = (scores(&pattern, true).unwrap(), dense_scores(&pattern));
            for row in 0..nrows {
                for column in (0..ncols).filter(|&column| !pattern.row(row).contains(&(column as u32))) {
                    let (a, b) = (found[row * ncols + column], expected[row * ncols + column]);
                    prop_assert!((a - b).abs() <= 1e-5 * b.abs(), "({}, {}): {}, {}", row, column, a, b);
                }
            }
        }

        /// Numbers are those of the curve, survivors keep their weights, and an interrupted run goes on as if it had not been.
        #[test]
        fn numbers_follow_the_curve(seed in 0u64..300, falls in any::<bool>(), hard in any::<bool>(), at in 1usize..20) {
            let selection = if hard { "hard" } else { "soft" };
            let options = MethodOptions { seed, ..options_with(LoopSemantics::PAPER, "selection", selection) };
            let build = || build_method(if falls { "chtss" } else { "chts" }, &options).unwrap();
            let start = || {
                let mut net = Net::new(seed);
                if falls {
                    net.targets = vec![20, 9, 100];
                }
                net
            };
            let (mut method, mut net, starts) = (build(), start(), Net::new(seed).counts());
            for step in 0..20u64 {
                let before = net.counts();
                net.run(method.as_mut(), 1);
                let expected: Vec<_> = match [2, 5, 8, 11].contains(&step) {
                    false => before,
                    true => net.targets.iter().zip(&starts).map(|(&target, &start)| {
                        target + (way(progress(&options.schedule, step)) * (start - target) as f64) as usize
                    }).collect(),
                };
                prop_assert_eq!(net.counts(), expected);
            }
            prop_assert_eq!(net.counts(), net.targets.clone());
            let (mut first, mut second, mut other) = (build(), build(), start());
            other.run(first.as_mut(), at);
            second.restore(&first.state()).unwrap();
            other.run(second.as_mut(), 20 - at);
            prop_assert_eq!(other, net);
        }
    }
}
