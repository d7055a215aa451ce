//! How a batch of token sequences lies in the lanes of activations.

use std::ops::Range;

/// Which of a batch's tokens are neighbours in the lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneOrder {
    /// Those of one sequence: lane `n · length + t`. For attention, whose tiles are stretches of one sequence.
    SequenceMajor,
    /// Those of one time step: lane `t · per_step + n`. For recurrent networks, which read a step at a time.
    TimeMajor,
}

/// A batch of sequences of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequences {
    /// Sequences.
    pub count: usize,
    /// Tokens of each.
    pub length: usize,
    /// Which are neighbours.
    pub order: LaneOrder,
    /// Lanes of a time step, in [`LaneOrder::TimeMajor`]: `count` rounded up to whole strips, so that a step's lanes are. The
    /// lanes of sequences that are not there have targets that no loss counts.
    pub per_step: usize,
    /// Whether the sequences go on where those of the batch before ended: recurrent networks then keep their state.
    pub continues: bool,
}

impl Sequences {
    /// `count` sequences of `length` tokens, whose lanes stand in strips of `strip`.
    pub fn new(order: LaneOrder, strip: usize, [count, length]: [usize; 2], continues: bool) -> Self {
        let per_step = match (order, length) {
            // A single step is a batch like any other.
            (LaneOrder::SequenceMajor, _) | (LaneOrder::TimeMajor, 0 | 1) => count,
            (LaneOrder::TimeMajor, _) => count.next_multiple_of(strip),
        };
        Self { count, length, order, per_step, continues }
    }

    /// Tokens that are there.
    pub fn tokens(&self) -> usize {
        self.count * self.length
    }

    /// Lanes, those of padding sequences included.
    pub fn lanes(&self) -> usize {
        self.per_step * self.length
    }

    /// The lane of token `t` of sequence `n`.
    pub fn lane(&self, n: usize, t: usize) -> usize {
        match self.order {
            LaneOrder::SequenceMajor => n * self.length + t,
            LaneOrder::TimeMajor => t * self.per_step + n,
        }
    }

    /// The lanes of time step `t`, in [`LaneOrder::TimeMajor`].
    pub fn step(&self, t: usize) -> Range<usize> {
        t * self.per_step..(t + 1) * self.per_step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_has_a_lane_of_its_own() {
        for (order, sizes, per_step, lanes) in [
            (LaneOrder::SequenceMajor, [3, 5], 3, 15),
            (LaneOrder::TimeMajor, [3, 5], 32, 160),
            (LaneOrder::TimeMajor, [33, 2], 64, 128),
            (LaneOrder::TimeMajor, [3, 1], 3, 3),
        ] {
            let sequences = Sequences::new(order, 32, sizes, false);
            assert_eq!((sequences.per_step, sequences.lanes()), (per_step, lanes));
            let of = |n| (0..sizes[1]).map(move |t| sequences.lane(n, t));
            let mut seen: Vec<_> = (0..sizes[0]).flat_map(of).collect();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), sequences.tokens());
            assert!(seen.iter().all(|&lane| lane < lanes));
        }
    }
}
