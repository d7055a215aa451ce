//! What a step of many ranks takes, from one rank's step and an interconnect: the sums of [`RankReduce`](crate::RankReduce), message by
//! message.
//!
//! All ranks are taken to compute equally fast, so that one stands for all. A rank that begins an exchange at time t, in which it
//! sends and receives S and R bytes in m messages, has
//!
//! ```text
//! free ← max(free, t) + max(S, R) / bandwidth + m · message        its interconnect, one exchange after the other
//! done = free + latency
//! ```
//!
//! Exchanges begin when `RankReduce` begins them: the nodes of a bucket when it is full, its sums at the next gradient after the
//! nodes have come, or at the end of the backward pass.

use autograd::Tree;

use crate::reduce::{BUCKET_BYTES, CANDIDATE_BYTES};
use crate::{Interconnect, Reduction, shards_of};

/// Gradients that are whole at one moment of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ready {
    /// Seconds from then to the end of the backward pass.
    pub before_end: f64,
    /// How many numbers.
    pub len: usize,
}

/// A step of one rank without the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// What it takes, in seconds.
    pub seconds: f64,
    /// Its gradients and moments, in their order.
    pub gradients: Vec<Ready>,
}

/// Growth of a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrowthSize {
    /// By the dense gradient.
    Tiles {
        /// Tiles.
        tiles: usize,
        /// Positions of each.
        positions: usize,
        /// Candidates that are sought.
        candidates: usize,
    },
    /// By the gradient at a sample of positions.
    Sample {
        /// Rows and columns of the weight.
        activities: usize,
        /// Numbers of the gradient.
        samples: usize,
    },
}

/// Ranks, and what connects them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Setting {
    /// Ranks.
    pub ranks: usize,
    /// Shards of a batch.
    pub shards: usize,
    /// How sums are made.
    pub reduction: Reduction,
    /// The interconnect.
    pub interconnect: Interconnect,
}

/// What is expected of a step. Bytes are those that the busiest rank sends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Seconds of a step between updates.
    pub seconds: f64,
    /// Of these, waiting.
    pub waiting: f64,
    /// Gradients and moments.
    pub sum_bytes: f64,
    /// Losses.
    pub other_bytes: f64,
}

/// What is expected of an update's growth, beside its step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedGrowth {
    /// Seconds of exchanges.
    pub seconds: f64,
    /// Bytes that the busiest rank sends.
    pub bytes: f64,
}

/// A rank's interconnect.
struct Line {
    interconnect: Interconnect,
    free: f64,
}

impl Line {
    /// When an exchange is done.
    fn exchange(&mut self, now: f64, [sent, received]: [f64; 2], messages: usize) -> f64 {
        let busy = self.interconnect.seconds(sent.max(received)) + messages as f64 * self.interconnect.message;
        self.free = self.free.max(now) + busy;
        self.free + self.interconnect.latency
    }
}

const BYTES: f64 = size_of::<f32>() as f64;
/// What a shard says at the end of a step: loss, right answers, lanes; whether to stop; a checksum of patterns.
pub const SHARD_BYTES: usize = 4 + 8 + 8 + 4 + 4;

impl Setting {
    /// Nodes that each rank has of a sum.
    fn nodes(&self) -> Vec<usize> {
        let spans = |rank| Tree::<()>::spans(self.shards, shards_of(rank, self.ranks, self.shards)).len();
        match self.reduction {
            Reduction::Tree => (0..self.ranks).map(spans).collect(),
            Reduction::Fast => vec![1; self.ranks],
        }
    }

    /// Bytes that the busiest rank sends and receives with the nodes of `len` numbers.
    fn of_nodes(&self, nodes: &[usize], len: usize) -> [f64; 2] {
        let (most, all) = (nodes.iter().max().copied().unwrap_or(0), nodes.iter().sum::<usize>());
        let own = shards_of(0, self.ranks, len).len();
        [most as f64 * BYTES * (len - own) as f64, (all - nodes[0]) as f64 * BYTES * own as f64]
    }

    /// A step between updates.
    pub fn step(&self, step: &Step) -> Expected {
        if self.ranks == 1 {
            return Expected { seconds: step.seconds, waiting: 0.0, sum_bytes: 0.0, other_bytes: 0.0 };
        }
        let (nodes, others) = (self.nodes(), self.ranks - 1);
        let mut line = Line { interconnect: self.interconnect, free: f64::NEG_INFINITY };
        let mut sum_bytes = 0.0;
        // Time runs to 0 at the end of the backward pass. Of each bucket: when its nodes have come, and its numbers; when its sums have.
        let (mut first, mut second) = (Vec::<(f64, usize)>::new(), Vec::<f64>::new());
        let mut begin_second = |line: &mut Line, now: f64, len: usize| {
            let own = shards_of(0, self.ranks, len).len();
            let bytes = [BYTES * (own * others) as f64, BYTES * (len - own) as f64];
            sum_bytes += bytes[0] + self.of_nodes(&nodes, len)[0];
            second.push(line.exchange(now, bytes, others));
        };
        let mut bucket = 0;
        let last = step.gradients.len().saturating_sub(1);
        for (i, gradient) in step.gradients.iter().enumerate() {
            bucket += gradient.len;
            let is_last = i == last;
            let now = if is_last { 0.0 } else { -gradient.before_end };
            if bucket * size_of::<f32>() >= BUCKET_BYTES || is_last {
                let len = std::mem::take(&mut bucket);
                first.push((line.exchange(now, self.of_nodes(&nodes, len), others), len));
            }
            first.retain(|&(done, len)| {
                let is_there = done <= now;
                if is_there {
                    begin_second(&mut line, now, len);
                }
                !is_there
            });
        }
        let mut now: f64 = 0.0;
        for (done, len) in first {
            now = now.max(done);
            begin_second(&mut line, now, len);
        }
        now = second.iter().fold(now, |now, &done| now.max(done));
        let own = SHARD_BYTES as f64 * self.shards.div_ceil(self.ranks) as f64;
        let other_bytes = own * others as f64;
        now = line.exchange(now, [other_bytes; 2], others);
        Expected { seconds: step.seconds + now, waiting: now, sum_bytes, other_bytes }
    }

    /// The growth of some weights.
    pub fn growth(&self, weights: &[GrowthSize]) -> ExpectedGrowth {
        let mut expected = ExpectedGrowth { seconds: 0.0, bytes: 0.0 };
        if self.ranks == 1 {
            return expected;
        }
        let (nodes, others) = (self.nodes(), self.ranks - 1);
        let mut line = Line { interconnect: self.interconnect, free: 0.0 };
        let mut now = 0.0;
        for weight in weights {
            let (tiles, positions, candidates) = match *weight {
                GrowthSize::Tiles { tiles, positions, candidates } => (tiles, positions, candidates),
                GrowthSize::Sample { activities, samples } => {
                    for len in [activities, samples] {
                        let [sent, received] = self.of_nodes(&nodes, len);
                        now = line.exchange(now, [sent, received], others);
                        let own = BYTES * shards_of(0, self.ranks, len).len() as f64 * others as f64;
                        now = line.exchange(now, [own; 2], others);
                        expected.bytes += sent + own;
                    }
                    continue;
                }
            };
            // Two tiles are on their way at a time.
            let mut before = now;
            for _ in 0..tiles {
                let [sent, received] = self.of_nodes(&nodes, positions);
                expected.bytes += sent;
                let done = line.exchange(before, [sent, received], others);
                (before, now) = (now, done);
            }
            // Lists go to rank 0; then the best of each rank to all.
            let of_rank = tiles * positions / self.ranks;
            let mut distance = 1;
            while distance < self.ranks {
                let list = (candidates.min(distance * of_rank) * CANDIDATE_BYTES) as f64;
                now = line.exchange(now, [0.0, list], 1);
                distance *= 2;
            }
            // A rank sends its list once, the last of them that of half of the ranks; then the end, counts, and its own.
            let list = (candidates.min(distance / 2 * of_rank) * CANDIDATE_BYTES) as f64;
            let own = (candidates * CANDIDATE_BYTES * others) as f64 / self.ranks as f64;
            expected.bytes += list + (8 * others) as f64 + own;
            for bytes in [(CANDIDATE_BYTES * others) as f64, (8 * others) as f64, own] {
                now = line.exchange(now, [bytes; 2], others);
            }
        }
        expected.seconds = now;
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(ranks: usize, interconnect: &str) -> Setting {
        Setting { ranks, shards: ranks, reduction: Reduction::Tree, interconnect: interconnect.parse().unwrap() }
    }

    /// Four gradients, each a bucket of 1 MiB, 10 ms apart, the last one at the end.
    fn step() -> Step {
        let gradients = (0..4).map(|i| Ready { before_end: 0.01 * f64::from(3 - i), len: 1 << 18 }).collect();
        Step { seconds: 0.1, gradients }
    }

    #[test]
    fn bytes_are_those_of_the_best_all_reduce() {
        for ranks in [1, 2, 4, 64] {
            let expected = setting(ranks, "1GB/s,0us").step(&step());
            let factor = 2.0 * (ranks as f64 - 1.0) / ranks as f64;
            assert!((expected.sum_bytes - factor * f64::from(4 << 20)).abs() < 1.0, "{ranks}: {expected:?}");
        }
        // Of 8 shards over 3 ranks, the second has 2..5: two nodes.
        let uneven = Setting { shards: 8, ..setting(3, "1GB/s,0us") }.step(&step());
        assert!(uneven.sum_bytes > setting(3, "1GB/s,0us").step(&step()).sum_bytes);
    }

    #[test]
    fn what_fits_beside_the_backward_pass_is_not_waited_for() {
        // An exchange of a bucket takes 0.5 MiB at 1 GiB/s. Three are waited for: the sums of the last bucket but one begin with the
        // last gradient. Then come the losses.
        let expected = setting(2, "1.073741824GB/s,1us,0us").step(&step());
        let last = 3.0 * 0.5 / 1024.0 + 2e-6;
        assert!((expected.waiting - last).abs() < 1e-6, "{expected:?}");
        assert_eq!(expected.seconds, 0.1 + expected.waiting);
        // At a hundredth of the speed the line is never free: 4 MiB, less what has gone in the 30 ms.
        let slow = setting(2, "0.01073741824GB/s,1us,0us").step(&step());
        assert!((slow.waiting - (100.0 * 4.0 / 1024.0 - 0.03)).abs() < 1e-4, "{slow:?}");
        assert_eq!(setting(1, "1MB/s,1s").step(&step()).waiting, 0.0);
    }

    #[test]
    fn growth_sends_one_dense_gradient() {
        let weight = GrowthSize::Tiles { tiles: 8, positions: 1 << 16, candidates: 100 };
        for ranks in [2, 4, 8] {
            let grown = setting(ranks, "1GB/s,10us,0us").growth(&[weight]);
            let dense = f64::from(8 << 18) * (ranks as f64 - 1.0) / ranks as f64;
            // A list, and the own ones to all others, with their number.
            let candidates = 1200.0 + 1200.0 * (ranks as f64 - 1.0) / ranks as f64 + 8.0 * (ranks as f64 - 1.0);
            assert!((grown.bytes - dense - candidates).abs() < 1.0, "{ranks}: {grown:?}");
            let latencies = f64::from(8 / 2 + ranks.ilog2() + 3) * 1e-5;
            assert!(
                grown.seconds > dense / 1e9 && grown.seconds < dense / 1e9 + latencies + 1e-4,
                "{ranks}: {grown:?}"
            );
        }
    }

    #[test]
    fn growth_from_a_sample_sends_two_sums() {
        let weight = GrowthSize::Sample { activities: 1 << 10, samples: 1 << 20 };
        for ranks in [2, 4, 8] {
            let grown = setting(ranks, "1GB/s,10us,0us").growth(&[weight]);
            // As an all-reduce of both.
            let bytes = f64::from(8 * ((1 << 20) + (1 << 10))) * (ranks as f64 - 1.0) / ranks as f64;
            assert!((grown.bytes - bytes).abs() < 1.0, "{ranks}: {grown:?}");
            assert!(grown.seconds > bytes / 1e9 && grown.seconds < bytes / 1e9 + 1e-3, "{ranks}: {grown:?}");
        }
    }

    #[test]
    fn messages_count_among_many() {
        let few = setting(1024, "10Gbit/s,20us,0us").step(&step());
        let each = setting(1024, "10Gbit/s,20us,1us").step(&step());
        // Of the last bucket two exchanges, and the losses, of 1023 messages each.
        assert!(each.waiting - few.waiting > 3.0 * 1023e-6, "{few:?} {each:?}");
    }
}
