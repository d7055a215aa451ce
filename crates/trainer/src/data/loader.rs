//! Batches prepared by a background thread, in the layout that the kernels read.
//!
//! ```text
//! worker:  order of epoch e → for each batch: empty buffer ← free │ fill │ → ready … → end of epoch e → epoch e + 1 …
//! caller:  batch ← ready │ use │ → free
//! ```
//!
//! The order of an epoch is a function of (seed, epoch) alone, so nothing depends on how the two threads interleave.
//! A fixed set of buffers goes round; after the first batches nothing is allocated. The worker runs on into the next
//! epoch, so that an epoch's first batch is ready when it is asked for.
//!
//! # The transposition
//!
//! Images are bytes, sample by sample; strips are `[feature][lane]`. For 16 lanes × 16 features at a time, the 16
//! rows' bytes are copied into a block on the stack, then looked up column by column: every store is then one full
//! cache line, and no index needs a check. The pictures of a shuffled batch lie anywhere in memory, so each is first
//! copied whole into a scratch of 16 pictures, where its cache misses overlap.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use sparse_kernels::random::Key;
use sparse_kernels::{ShapeError, StripLayout};

use super::{Split, shuffle};

/// One batch: images in strips, and labels.
#[derive(Debug)]
pub struct Batch {
    /// Lanes are the batch's samples, features the values of an image.
    pub layout: StripLayout,
    /// `layout.len()` inputs; padding lanes are zero.
    pub images: Vec<f32>,
    /// The class of each sample: `layout.lanes()` of them.
    pub labels: Vec<u32>,
}

/// In which order samples come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The same in every epoch: that of the data set. For evaluation.
    Stored,
    /// Another in each epoch, by (seed, epoch). For training.
    Shuffled {
        /// The run's seed.
        seed: u64,
        /// The epoch that comes first, counted from 0.
        first_epoch: u64,
        /// The batch of that epoch that comes first: a resumed run goes on in the middle.
        first_batch: usize,
    },
}

/// What a [`BatchLoader`] makes of a split.
#[derive(Debug, Clone, Copy)]
pub struct LoaderOptions {
    /// Samples in a batch.
    pub batch_size: usize,
    /// Lanes in a strip, see [`StripLayout::new`].
    pub strip: usize,
    /// The order of the samples.
    pub order: Order,
    /// Whether an epoch's last batch is left out when it is not full. The usual choice is `false`, in training too:
    /// a smaller batch counts its own samples only.
    pub drop_last: bool,
}

/// Why a loader cannot be made.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum LoaderError {
    /// An epoch would have no batch.
    #[error("batch-size {batch_size} makes no batch of {samples} samples{}", if *drop_last { " when the last partial one is dropped" } else { "" })]
    Empty {
        /// Samples in a batch.
        batch_size: usize,
        /// Samples there are.
        samples: usize,
        /// Whether partial batches are dropped.
        drop_last: bool,
    },
    /// The split is not as many images as labels.
    #[error("{samples} images of {features} values make {} bytes, not {bytes}", samples * features)]
    Split {
        /// Labels in the split.
        samples: usize,
        /// Values of an image.
        features: usize,
        /// Bytes in the split.
        bytes: usize,
    },
    /// The strip width is impossible.
    #[error(transparent)]
    Strip(#[from] ShapeError),
    /// The system refused a thread.
    #[error("no thread for loading batches: {0}")]
    Thread(String),
}

/// Buffers that go round: one at the caller, one being filled, two ready to absorb jitter.
const BUFFERS: usize = 4;

/// Batches of a split, epoch after epoch; dropping it stops and joins its thread.
///
/// ```
/// use trainer::data::{self, BatchLoader, LoaderOptions, Order};
/// let data = data::load("fashion-mnist-mini", None)?;
/// let order = Order::Shuffled { seed: 0, first_epoch: 0, first_batch: 0 };
/// let options = LoaderOptions { batch_size: 100, strip: 32, order, drop_last: false };
/// let mut loader = BatchLoader::new(data.train.clone(), data.features(), data.normalization().table(), options)?;
/// for _epoch in 0..2 {
///     let mut samples = 0;
///     while let Some(batch) = loader.next_batch() {
///         samples += batch.labels.len();
///     }
///     assert_eq!(samples, 12_000);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchLoader {
    current: Option<Batch>,
    batches_per_epoch: usize,
    /// Taken when dropped: closing the channels is what stops the worker.
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    /// `None` ends an epoch.
    ready: Receiver<Option<Batch>>,
    free: SyncSender<Batch>,
    thread: JoinHandle<()>,
}

impl BatchLoader {
    /// A loader of `split`, whose images have `features` values each; a byte `b` becomes `table[b]`
    /// ([`Normalization::table`](super::Normalization::table)).
    ///
    /// # Errors
    /// [`LoaderError`] if an epoch would have no batch, the strip width is impossible, the split's parts do not fit
    /// each other, or no thread can be started.
    ///
    /// # Cost
    /// Memory for four batches and 12 bytes a sample beside the split.
    pub fn new(
        split: Arc<Split>,
        features: usize,
        table: [f32; 256],
        options: LoaderOptions,
    ) -> Result<Self, LoaderError> {
        let LoaderOptions { batch_size, strip, drop_last, .. } = options;
        let samples = split.len();
        if split.images.len() != samples * features {
            return Err(LoaderError::Split { samples, features, bytes: split.images.len() });
        }
        let batches_per_epoch = match batch_size {
            0 => 0,
            _ if drop_last => samples / batch_size,
            _ => samples.div_ceil(batch_size),
        };
        if batches_per_epoch == 0 {
            return Err(LoaderError::Empty { batch_size, samples, drop_last });
        }
        let layout = StripLayout::new(batch_size.min(samples), features, strip)?;

        let (ready_sender, ready) = sync_channel(BUFFERS);
        let (free, free_receiver) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            let batch =
                Batch { layout, images: Vec::with_capacity(layout.len()), labels: Vec::with_capacity(layout.lanes()) };
            free.send(batch).expect("the receiver is in scope");
        }
        let thread = thread::Builder::new()
            .name("batch loader".to_owned())
            .spawn(move || {
                // A closed channel is the signal to stop.
                let _ = work(&split, features, &table, options, &free_receiver, &ready_sender);
            })
            .map_err(|error| LoaderError::Thread(error.to_string()))?;
        Ok(Self { current: None, batches_per_epoch, worker: Some(Worker { ready, free, thread }) })
    }

    /// Batches in every epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.batches_per_epoch
    }

    /// The next batch; `None` at the end of each epoch, after which the next epoch's batches follow. The batch before
    /// goes back to the worker.
    pub fn next_batch(&mut self) -> Option<&Batch> {
        let worker = self.worker.as_ref().expect("only drop takes the worker");
        if let Some(batch) = self.current.take() {
            worker.free.send(batch).expect("the worker lives as long as its channels");
        }
        self.current = worker.ready.recv().expect("the worker lives as long as its channels");
        self.current.as_ref()
    }
}

impl Drop for BatchLoader {
    fn drop(&mut self) {
        if let Some(Worker { ready, free, thread }) = self.worker.take() {
            drop((ready, free));
            // A panic of the worker has been seen as a closed channel by the caller, and printed.
            let _ = thread.join();
        }
    }
}

/// The caller is gone.
struct Closed;

fn work(
    split: &Split,
    features: usize,
    table: &[f32; 256],
    options: LoaderOptions,
    free: &Receiver<Batch>,
    ready: &SyncSender<Option<Batch>>,
) -> Result<(), Closed> {
    let mut order: Vec<u32> = (0..split.len() as u32).collect();
    let mut keyed = Vec::new();
    let mut filler = Filler { features, table, rows: vec![0; GROUP * features] };
    let mut epoch = 0;
    loop {
        let mut skipped = 0;
        if let Order::Shuffled { seed, first_epoch, first_batch } = options.order {
            shuffle(&mut keyed, &mut order, split.len(), epoch_key(seed, first_epoch + epoch));
            skipped = if epoch == 0 { first_batch } else { 0 };
        }
        for samples in order.chunks(options.batch_size).skip(skipped) {
            if options.drop_last && samples.len() < options.batch_size {
                break;
            }
            let mut batch = free.recv().map_err(|_| Closed)?;
            batch.layout =
                StripLayout::new(samples.len(), features, options.strip).expect("the strip width was checked in new");
            filler.fill(split, samples, &mut batch);
            ready.send(Some(batch)).map_err(|_| Closed)?;
        }
        ready.send(None).map_err(|_| Closed)?;
        epoch += 1;
    }
}

fn epoch_key(seed: u64, epoch: u64) -> Key {
    Key::new(seed).with_name("batches").with(epoch)
}

/// Lanes and features of a block: 16 f32 are a cache line, and strips are multiples of it.
const GROUP: usize = StripLayout::STRIP_UNIT;

struct Filler<'a> {
    features: usize,
    table: &'a [f32; 256],
    /// [`GROUP`] images side by side.
    rows: Vec<u8>,
}

impl Filler<'_> {
    fn fill(&mut self, split: &Split, samples: &[u32], batch: &mut Batch) {
        let (features, strip) = (self.features, batch.layout.strip());
        batch.labels.clear();
        batch.labels.extend(samples.iter().map(|&sample| u32::from(split.labels[sample as usize])));
        batch.images.resize(batch.layout.len(), 0.0);
        for (panel, samples) in batch.images.chunks_exact_mut(features * strip).zip(samples.chunks(strip)) {
            for first in (0..strip).step_by(GROUP) {
                let lanes = samples.get(first..).unwrap_or(&[]);
                self.fill_group(split, &lanes[..lanes.len().min(GROUP)], strip, &mut panel[first..]);
            }
        }
    }

    /// Writes lanes `0..GROUP` of a panel whose rows are `strip` apart; those after `samples` become zero.
    fn fill_group(&mut self, split: &Split, samples: &[u32], strip: usize, panel: &mut [f32]) {
        let features = self.features;
        if samples.is_empty() {
            panel.chunks_mut(strip).for_each(|row| row[..GROUP].fill(0.0));
            return;
        }
        for (row, &sample) in self.rows.chunks_exact_mut(features).zip(samples) {
            row.copy_from_slice(&split.images[sample as usize * features..][..features]);
        }
        let mut block = [[0u8; GROUP]; GROUP];
        for first in (0..features).step_by(GROUP) {
            let width = (features - first).min(GROUP);
            for (to, row) in block.iter_mut().zip(self.rows.chunks_exact(features)) {
                match row[first..].first_chunk() {
                    Some(bytes) => *to = *bytes,
                    None => to[..width].copy_from_slice(&row[first..]),
                }
            }
            let rows = panel[first * strip..].chunks_mut(strip).take(width);
            for (feature, row) in rows.enumerate() {
                let row = row.first_chunk_mut::<GROUP>().expect("a strip has at least one group of lanes");
                for (lane, to) in row.iter_mut().enumerate() {
                    *to = self.table[usize::from(block[lane][feature % GROUP])];
                }
                row[samples.len()..].fill(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sample `s` has label `s % 10` and features that tell its number.
    fn split(samples: usize, features: usize) -> Arc<Split> {
        let images = (0..samples * features).map(|i| (i / features * 31 + i % features) as u8).collect();
        Arc::new(Split { images, labels: (0..samples).map(|s| (s % 10) as u8).collect() })
    }

    fn table() -> [f32; 256] {
        std::array::from_fn(|b| b as f32 + 0.5)
    }

    fn loader(samples: usize, features: usize, options: LoaderOptions) -> BatchLoader {
        BatchLoader::new(split(samples, features), features, table(), options).unwrap()
    }

    /// The first feature and the label of each sample of one epoch, in order.
    fn epoch(loader: &mut BatchLoader) -> Vec<(u32, u32)> {
        let mut seen = Vec::new();
        while let Some(batch) = loader.next_batch() {
            let first = |lane| batch.images[batch.layout.index(0, lane)] as u32;
            seen.extend(batch.labels.iter().enumerate().map(|(lane, &label)| (first(lane), label)));
        }
        seen
    }

    fn shuffled(seed: u64, first_epoch: u64) -> LoaderOptions {
        LoaderOptions {
            batch_size: 7,
            strip: 16,
            order: Order::Shuffled { seed, first_epoch, first_batch: 0 },
            drop_last: false,
        }
    }

    #[test]
    fn every_sample_comes_once_an_epoch_in_an_order_of_seed_and_epoch() {
        let mut a = loader(100, 3, shuffled(1, 0));
        let stored = epoch(&mut loader(100, 3, LoaderOptions { order: Order::Stored, ..shuffled(1, 0) }));
        assert_eq!(stored, (0..100).map(|s| (s * 31 % 256, s % 10)).collect::<Vec<_>>());
        let (first, second) = (epoch(&mut a), epoch(&mut a));
        assert_ne!(first, second);
        for order in [&first, &second] {
            let (mut sorted, mut all) = (order.clone(), stored.clone());
            sorted.sort_unstable();
            all.sort_unstable();
            assert_eq!(sorted, all);
        }
        assert_eq!(epoch(&mut loader(100, 3, shuffled(1, 0))), first);
        assert_eq!(epoch(&mut loader(100, 3, shuffled(1, 1))), second);
        assert_ne!(epoch(&mut loader(100, 3, shuffled(2, 0))), first);
        // Beginning in the middle of an epoch is going on after a stop there.
        let order = Order::Shuffled { seed: 1, first_epoch: 0, first_batch: 4 };
        let mut middle = loader(100, 3, LoaderOptions { order, ..shuffled(1, 0) });
        assert_eq!((epoch(&mut middle), epoch(&mut middle)), (first[4 * 7..].to_vec(), second));
        // The batch size cuts the order, it does not change it.
        assert_eq!(epoch(&mut loader(100, 3, LoaderOptions { batch_size: 64, ..shuffled(1, 0) })), first);
    }

    #[test]
    fn partial_batches_are_kept_or_dropped() {
        for (drop_last, lanes) in [(false, [7, 7, 6].as_slice()), (true, &[7, 7])] {
            let mut loader = loader(20, 3, LoaderOptions { drop_last, ..shuffled(0, 0) });
            assert_eq!(loader.batches_per_epoch(), lanes.len());
            for _ in 0..3 {
                let mut seen = Vec::new();
                while let Some(batch) = loader.next_batch() {
                    seen.push(batch.layout.lanes());
                }
                assert_eq!(seen, lanes);
            }
        }
    }

    proptest! {
        /// Recycled buffers hold old values; padding must be written anew.
        #[test]
        fn values_stand_where_the_layout_says_and_padding_is_zero(
            samples in 1usize..90, features in 1usize..40, batch_size in 1usize..90, strip in 1usize..4, seed: u64,
        ) {
            let data = split(samples, features);
            let order = Order::Shuffled { seed, first_epoch: 0, first_batch: 0 };
            let options = LoaderOptions { batch_size, strip: strip * 16, order, drop_last: false };
            let mut loader = BatchLoader::new(data.clone(), features, table(), options).unwrap();
            for number in 0..2 {
                let order = super::super::shuffled(samples, epoch_key(seed, number));
                for chunk in order.chunks(batch_size) {
                    let batch = loader.next_batch().unwrap();
                    prop_assert_eq!((batch.layout.lanes(), batch.layout.features()), (chunk.len(), features));
                    prop_assert_eq!((batch.images.len(), batch.labels.len()), (batch.layout.len(), chunk.len()));
                    for lane in 0..batch.layout.strips() * batch.layout.strip() {
                        let sample = chunk.get(lane).map(|&sample| sample as usize);
                        for feature in 0..features {
                            let got = batch.images[batch.layout.index(feature, lane)];
                            let byte = sample.map(|sample| data.images[sample * features + feature]);
                            prop_assert_eq!(got, byte.map_or(0.0, |byte| f32::from(byte) + 0.5));
                        }
                        if let Some(sample) = sample {
                            prop_assert_eq!(batch.labels[lane], u32::from(data.labels[sample]));
                        }
                    }
                }
                prop_assert!(loader.next_batch().is_none());
            }
        }
    }

    #[test]
    fn buffers_go_round() {
        let mut loader = loader(640, 5, LoaderOptions { batch_size: 64, ..shuffled(0, 0) });
        let mut places = std::collections::BTreeSet::new();
        for _ in 0..5 {
            while let Some(batch) = loader.next_batch() {
                places.insert(batch.images.as_ptr() as usize);
            }
        }
        assert!(places.len() <= BUFFERS, "{places:?}");
    }

    #[test]
    fn dropping_joins_the_thread_in_any_state() {
        let data = split(1000, 5);
        for batches in [0, 1, 3, 143, 144, 200] {
            let mut loader = BatchLoader::new(data.clone(), 5, table(), shuffled(0, 0)).unwrap();
            for _ in 0..batches {
                loader.next_batch();
            }
            drop(loader);
            assert_eq!(Arc::strong_count(&data), 1);
        }
    }

    #[test]
    fn impossible_options_are_refused() {
        let error = |samples, change: fn(&mut LoaderOptions)| {
            let mut options = shuffled(0, 0);
            change(&mut options);
            BatchLoader::new(split(samples, 3), 3, table(), options).unwrap_err().to_string()
        };
        assert_eq!(error(10, |o| o.batch_size = 0), "batch-size 0 makes no batch of 10 samples");
        assert_eq!(error(0, |_| ()), "batch-size 7 makes no batch of 0 samples");
        assert!(error(5, |o| o.drop_last = true).ends_with("when the last partial one is dropped"));
        assert!(error(10, |o| o.strip = 20).contains("16"));
        let error = BatchLoader::new(split(4, 3), 2, table(), shuffled(0, 0)).unwrap_err();
        assert_eq!(error.to_string(), "4 images of 2 values make 8 bytes, not 12");
    }

    /// `cargo test --release -p trainer -- --ignored --nocapture time_per_batch`
    #[test]
    #[ignore = "a measurement"]
    fn time_per_batch() {
        let data = crate::data::load(crate::data::EMBEDDED, None).unwrap();
        let table = data.normalization().table();
        let order = super::super::shuffled(data.train.len(), epoch_key(0, 0));
        for strip in [16, 32, 112] {
            let layout = StripLayout::new(100, 784, strip).unwrap();
            let mut batch = Batch { layout, images: Vec::new(), labels: Vec::new() };
            let mut filler = Filler { features: 784, table: &table, rows: vec![0; GROUP * 784] };
            let mut times: Vec<u128> = Vec::new();
            for _ in 0..5 {
                for samples in order.chunks(100) {
                    let start = std::time::Instant::now();
                    filler.fill(&data.train, samples, std::hint::black_box(&mut batch));
                    times.push(start.elapsed().as_nanos());
                }
            }
            times.sort_unstable();
            println!(
                "strip {strip}: median {} ns, 90th percentile {} ns",
                times[times.len() / 2],
                times[times.len() * 9 / 10]
            );
        }
        let order = Order::Shuffled { seed: 0, first_epoch: 0, first_batch: 0 };
        let options = LoaderOptions { batch_size: 100, strip: 32, order, drop_last: false };
        let mut loader = BatchLoader::new(data.train.clone(), 784, table, options).unwrap();
        let start = std::time::Instant::now();
        let mut batches = 0;
        for _ in 0..20 {
            while let Some(batch) = loader.next_batch() {
                batches += 1;
                std::hint::black_box(batch);
            }
        }
        println!("loader: {} ns a batch when nothing else is done", start.elapsed().as_nanos() / batches);
        let start = std::time::Instant::now();
        std::hint::black_box(super::super::shuffled(60_000, epoch_key(0, 1)));
        println!("order of 60,000 samples: {} µs", start.elapsed().as_micros());
    }
}
