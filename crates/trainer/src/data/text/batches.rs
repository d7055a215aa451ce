//! Batches of a text's windows.
//!
//! ```text
//! streams    the text is cut into as many streams as a batch has sequences; batch k of an epoch is window k of each,
//!            and the state of a recurrent network goes on from batch to batch
//! windows    all windows, each a sequence by itself, in another order in each epoch of training
//! ```
//!
//! In training, the first window of an epoch begins at a place that depends on (seed, epoch), so that windows differ from epoch to
//! epoch. Evaluation begins at the start, and predicts each token but the first exactly once.

use sparse_kernels::random::Key;

use super::super::dataset::shuffle;
use super::super::sequences::{LaneOrder, Sequences};
use super::span::Text;

/// How a text comes in batches.
#[derive(Debug, Clone)]
pub(crate) struct TextBatches {
    text: Text,
    order: LaneOrder,
    strip: usize,
    /// Sequences in a full batch.
    size: usize,
    /// Of a run that trains on it.
    seed: Option<u64>,
}

/// What is drawn for an epoch.
#[derive(Debug, Default)]
pub(crate) struct TextEpoch {
    /// Where the first window begins.
    shift: usize,
    /// The windows in their order, where they are shuffled.
    order: Vec<u32>,
    scratch: Vec<(u64, u32)>,
}

impl TextBatches {
    /// Batches of up to `size` sequences, whose lanes stand in strips of `strip`: for training with this seed, or for evaluation.
    pub(crate) fn new(text: &Text, order: LaneOrder, strip: usize, size: usize, seed: Option<u64>) -> Self {
        let mut batches = Self { text: text.clone(), order, strip, size, seed };
        batches.size = size.min(batches.windows());
        batches
    }

    fn windows(&self) -> usize {
        if self.seed.is_some() { self.text.training_windows() } else { self.text.windows() }
    }

    /// Batches of an epoch. Streams of training are equally long; which windows they leave over depends on the epoch.
    pub(crate) fn count(&self) -> usize {
        match (self.order, self.seed) {
            (LaneOrder::TimeMajor, Some(_)) => self.windows() / self.size,
            _ => self.windows().div_ceil(self.size),
        }
    }

    /// Draws what an epoch depends on.
    pub(crate) fn begin(&self, number: u64, epoch: &mut TextEpoch) {
        let windows = self.windows();
        let Some(seed) = self.seed else {
            epoch.shift = 0;
            epoch.order.clear();
            epoch.order.extend(0..windows as u32);
            return;
        };
        let key = |name| Key::new(seed).with_name(name).with(number);
        let used = match self.order {
            LaneOrder::TimeMajor => self.count() * self.size,
            LaneOrder::SequenceMajor => windows,
        };
        epoch.shift = key("windows").below(0, self.text.shifts(used) as u64) as usize;
        if self.order == LaneOrder::SequenceMajor {
            shuffle(&mut epoch.scratch, &mut epoch.order, windows, key("batches"));
        }
    }

    /// The batch of this number: replaces tokens and targets.
    pub(crate) fn fill(
        &self,
        epoch: &TextEpoch,
        number: usize,
        tokens: &mut Vec<u32>,
        targets: &mut Vec<u32>,
    ) -> Sequences {
        let count = match self.order {
            LaneOrder::TimeMajor => self.size,
            LaneOrder::SequenceMajor => self.size.min(self.windows() - number * self.size),
        };
        let continues = self.order == LaneOrder::TimeMajor && number > 0;
        let sequences = Sequences::new(self.order, self.strip, [count, self.text.length()], continues);
        tokens.clear();
        tokens.resize(sequences.lanes(), 0);
        targets.clear();
        targets.resize(sequences.lanes(), u32::MAX);
        let text = self.text.tokens();
        for n in 0..count {
            let window = match self.order {
                LaneOrder::TimeMajor => n * self.count() + number,
                LaneOrder::SequenceMajor => epoch.order[number * self.size + n] as usize,
            };
            let first = epoch.shift + window * self.text.length();
            // Nothing of windows behind the end, and of the one that it cuts what is there.
            for (t, pair) in text.get(first..).unwrap_or_default().windows(2).take(self.text.length()).enumerate() {
                let lane = sequences.lane(n, t);
                (tokens[lane], targets[lane]) = (pair[0].into(), pair[1].into());
            }
        }
        sequences
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Token `i` is `i`.
    fn text(tokens: usize, length: usize) -> Text {
        Text { tokens: (0..tokens as u16).collect(), range: 0..tokens, length }
    }

    /// Of each batch of an epoch how its sequences lie, its tokens and its targets.
    fn epoch(batches: &TextBatches, number: u64) -> Vec<(Sequences, Vec<u32>, Vec<u32>)> {
        let (mut drawn, mut tokens, mut targets) = (TextEpoch::default(), vec![7; 3], vec![7; 3]);
        batches.begin(number, &mut drawn);
        let batch = |number| {
            let sequences = batches.fill(&drawn, number, &mut tokens, &mut targets);
            (sequences, tokens.clone(), targets.clone())
        };
        (0..batches.count()).map(batch).collect()
    }

    /// The tokens of each sequence, those without a target left out. Every lane that is no token's is empty.
    fn sequences((sequences, tokens, targets): &(Sequences, Vec<u32>, Vec<u32>)) -> Vec<Vec<u32>> {
        assert_eq!((tokens.len(), targets.len()), (sequences.lanes(), sequences.lanes()));
        let of = |n| -> Vec<u32> {
            let lanes = (0..sequences.length).map(move |t| sequences.lane(n, t));
            let held: Vec<usize> = lanes.filter(|&lane| targets[lane] != u32::MAX).collect();
            assert!(held.iter().all(|&lane| targets[lane] == tokens[lane] + 1));
            held.into_iter().map(|lane| tokens[lane]).collect()
        };
        let all: Vec<Vec<u32>> = (0..sequences.count).map(of).collect();
        let counted = targets.iter().filter(|&&target| target != u32::MAX).count();
        assert_eq!(counted, all.iter().map(Vec::len).sum::<usize>());
        assert!(tokens.iter().zip(targets).all(|(&token, &target)| target != u32::MAX || token == 0));
        all
    }

    const ORDERS: [LaneOrder; 2] = [LaneOrder::SequenceMajor, LaneOrder::TimeMajor];

    proptest! {
        #[test]
        fn evaluation_predicts_each_token_once(
            tokens in 2usize..400, length in 1usize..30, size in 1usize..20, order in prop::sample::select(&ORDERS),
        ) {
            let batches = TextBatches::new(&text(tokens, length), order, 16, size, None);
            let mut seen: Vec<u32> = epoch(&batches, 0).iter().flat_map(sequences).flatten().collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..tokens as u32 - 1).collect::<Vec<_>>());
        }

        #[test]
        fn streams_go_on_from_batch_to_batch(
            length in 1usize..20, more in 1usize..400, size in 1usize..20, number in 0u64..5, training: bool, seed: u64,
        ) {
            let text = text(length + more, length);
            let batches = TextBatches::new(&text, LaneOrder::TimeMajor, 16, size, training.then_some(seed));
            let mut streams: Vec<Vec<u32>> = Vec::new();
            for (k, batch) in epoch(&batches, number).iter().enumerate() {
                prop_assert_eq!((batch.0.continues, batch.0.length), (k > 0, length));
                streams.resize(batch.0.count, vec![]);
                streams.iter_mut().zip(sequences(batch)).for_each(|(stream, more)| stream.extend(more));
            }
            prop_assert!(streams.iter().all(|stream| stream.is_sorted_by(|a, b| a + 1 == *b)));
            if training {
                prop_assert!(streams.iter().all(|stream| stream.len() == batches.count() * length));
            }
        }

        #[test]
        fn windows_of_an_epoch_come_once_in_an_order_of_seed_and_epoch(
            length in 1usize..20, more in 1usize..400, size in 1usize..20, number in 0u64..5, seed: u64,
        ) {
            let text = text(length + more, length);
            let batches = TextBatches::new(&text, LaneOrder::SequenceMajor, 16, size, Some(seed));
            let drawn = epoch(&batches, number);
            let counts: Vec<usize> = drawn.iter().map(|batch| batch.0.count).collect();
            prop_assert!(counts.iter().rev().skip(1).all(|&count| count == batches.size));
            let mut windows: Vec<Vec<u32>> = drawn.iter().flat_map(sequences).collect();
            prop_assert!(windows.iter().all(|window| window.len() == length && window.is_sorted_by(|a, b| a + 1 == *b)));
            prop_assert_eq!(windows.len(), text.training_windows());
            windows.sort();
            prop_assert!(windows[0][0] < 2 * length as u32 && windows.iter().flatten().is_sorted_by(|a, b| *a + 1 == **b));
            prop_assert!(epoch(&batches, number) == drawn);
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        for order in ORDERS {
            let of = |seed, number| epoch(&TextBatches::new(&text(2000, 20), order, 16, 8, Some(seed)), number);
            assert!(of(0, 0) != of(0, 1) && of(0, 0) != of(1, 0));
        }
        let first =
            |number| epoch(&TextBatches::new(&text(2000, 20), LaneOrder::TimeMajor, 16, 8, Some(3)), number)[0].1[0];
        let mut shifts: Vec<u32> = (0..200).map(first).collect();
        shifts.sort_unstable();
        shifts.dedup();
        // 8 streams of 12 windows leave 80 tokens over.
        assert!(shifts.len() > 60 && shifts.iter().all(|&shift| shift < 80), "{shifts:?}");
    }
}
