//! Batches prepared by background threads, in the layout that the kernels read.
//!
//! ```text
//! worker t of n:  for each batch t, t + n, t + 2n, …:  empty buffer ← free │ fill │ → ready
//! caller:         batch ← ready of workers 0, 1, …, n − 1, 0, … │ use │ → free of its worker
//! ```
//!
//! Batches are numbered through all epochs. The order of an epoch is a function of (seed, epoch), and the change of a
//! picture one of (seed, epoch, sample), so nothing depends on the number of threads or on how they interleave. A fixed
//! set of buffers goes round; after the first batches nothing is allocated (but by decoders of files). Workers run on
//! into the next epoch, so that an epoch's first batch is ready when it is asked for.
//!
//! A file that is no picture does not end a run: the next sample in the epoch's order takes its place, with its own
//! label, and comes in its own place again. The batch says which were replaced.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use autograd::Shards;
use sparse_kernels::random::Key;
use sparse_kernels::{Layout, ShapeError};

use super::augment::{CropFlip, PAD};
use super::batch::{Batch, BatchInputs, PartOf, shard_samples};
use super::dataset::{Inputs, Split, shuffle};
use super::fill::AnyFiller;
use super::lists::Lists;
use super::picture::{Cut, PictureReader};
use super::sequences::Sequences;
use super::targets::Targets;
use super::text::{TextBatches, TextEpoch};
use super::{DataError, InputForm, Normalization};
use crate::data::Augment;

/// In which order samples come, and what is done to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The same in every epoch: that of the data set. Nothing is changed at random. For evaluation.
    Stored,
    /// Another in each epoch, by (seed, epoch). For training.
    Shuffled {
        /// The run's seed.
        seed: u64,
        /// The epoch that comes first, counted from 0.
        first_epoch: u64,
        /// The batch of that epoch that comes first: a resumed run goes on in the middle.
        first_batch: usize,
        /// How pictures are changed at random, by (seed, epoch, sample).
        augment: Augment,
    },
}

/// Which part of the batches is prepared: the share of one rank of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Part {
    /// All batches.
    #[default]
    All,
    /// Of each batch, the samples of these shards. Batches of a text are prepared whole: they cost nothing.
    Shards(Shards),
    /// Of each epoch, every so many-th batch.
    Batches {
        /// The first one.
        first: usize,
        /// The distance from one to the next.
        every: usize,
    },
}

impl Part {
    /// How many of an epoch's batches are prepared.
    fn batches(self, per_epoch: usize) -> usize {
        match self {
            Self::All | Self::Shards(_) => per_epoch,
            Self::Batches { first, every } => per_epoch.saturating_sub(first).div_ceil(every),
        }
    }

    /// The number of the batch that is prepared as number `n`, where an epoch has `per_epoch`.
    fn number(self, n: usize, per_epoch: usize) -> usize {
        match self {
            Self::All | Self::Shards(_) => n,
            Self::Batches { first, every } => {
                let own = self.batches(per_epoch);
                n / own * per_epoch + first + n % own * every
            }
        }
    }

    /// The samples of a batch that are prepared.
    fn samples(self, batch: usize) -> Range<usize> {
        let Self::Shards(shards) = self else { return 0..batch };
        let own = shards.own();
        let [first, _] = shard_samples(own.start, shards.count(), batch);
        let [last, len] = shard_samples(own.end - 1, shards.count(), batch);
        // A shard without samples computes one that does not count.
        first..last + len.max(1)
    }
}

/// What a [`BatchLoader`] makes of a split.
#[derive(Debug, Clone, Copy)]
pub struct LoaderOptions {
    /// Samples in a batch.
    pub batch_size: usize,
    /// What a batch becomes.
    pub form: InputForm,
    /// The order of the samples.
    pub order: Order,
    /// Whether an epoch's last batch is left out when it is not full. The usual choice is `false`, in training too:
    /// a smaller batch counts its own samples only.
    pub drop_last: bool,
    /// Threads that prepare batches, each on one of its own. The batches do not depend on it.
    pub threads: usize,
    /// Which of them are prepared, and what of each.
    pub part: Part,
}

/// Why a loader cannot be made.
#[derive(Debug, thiserror::Error, PartialEq)]
#[non_exhaustive]
pub enum LoaderError {
    /// An epoch would have no batch.
    #[error("batch-size {batch_size} makes no batch of {samples} samples{}", if *drop_last { " if the last partial batch is dropped" } else { "" })]
    Empty {
        /// Samples in a batch.
        batch_size: usize,
        /// Samples there are.
        samples: usize,
        /// Whether partial batches are dropped.
        drop_last: bool,
    },
    /// The split has not as many inputs as targets.
    #[error("{samples} samples of {features} values make {} values, not {values}", samples * features)]
    Split {
        /// Targets in the split.
        samples: usize,
        /// Values of a sample.
        features: usize,
        /// Values in the split.
        values: usize,
    },
    /// The pictures cannot be changed in this way.
    #[error("augment {augment} is for {}", if *augment == Augment::CropFlip { "images in memory" } else { "image folders" })]
    Augment {
        /// The change.
        augment: Augment,
    },
    /// What is asked for cannot be made of the samples.
    #[error("the samples are {got}; the network reads {expected}")]
    Form {
        /// What they are.
        got: &'static str,
        /// What is asked for.
        expected: &'static str,
    },
    /// The normalization is of pictures with another number of channels.
    #[error("the normalisation is for images with {expected} channels; these have {got}")]
    Channels {
        /// Channels of the pictures.
        got: usize,
        /// Channels that there are numbers for.
        expected: usize,
    },
    /// The normalization is of samples with another number of features.
    #[error("the normalisation is for samples with {expected} features; these have {got}")]
    Features {
        /// Features of the samples.
        got: usize,
        /// Features that there are numbers for.
        expected: usize,
    },
    /// Pictures are too small to be padded by reflection.
    #[error("augment crop-flip: images of {height}×{width} pixels; reflecting {PAD} pixels needs at least {} each way", PAD + 1)]
    Small {
        /// Rows of a picture.
        height: usize,
        /// Pixels in a row.
        width: usize,
    },
    /// The strip width is impossible.
    #[error(transparent)]
    Strip(#[from] ShapeError),
    /// The system refused a thread.
    #[error("cannot start a thread for loading batches: {0}")]
    Thread(String),
}

crate::error::kinded!(Failure: LoaderError);

/// Buffers of one worker: one at the caller, one being filled, two ready to absorb jitter. Of several workers, each has
/// [`BUFFERS_OF_MANY`].
const BUFFERS: usize = 4;
const BUFFERS_OF_MANY: usize = 2;

/// Batches of a split, epoch after epoch; dropping it stops and joins its threads.
///
/// ```
/// use trainer::data::{Augment, Normalize};
/// use trainer::data::{self, BatchLoader, InputForm, LoaderOptions, Order, Part};
/// let data = data::load("fashion-mnist-mini", None)?;
/// let order = Order::Shuffled { seed: 0, first_epoch: 0, first_batch: 0, augment: Augment::None };
/// let form = InputForm::Features { strip: 32 };
/// let options = LoaderOptions { batch_size: 100, form, order, drop_last: false, threads: 1, part: Part::All };
/// let mut loader = BatchLoader::new(data.train.clone(), &data.normalization(Normalize::Pixels), options)?;
/// for _epoch in 0..2 {
///     let mut samples = 0;
///     while let Some(batch) = loader.next_batch()? {
///         samples += batch.targets.len();
///     }
///     assert_eq!(samples, 12_000);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct BatchLoader {
    /// With the worker that it goes back to.
    current: Option<(usize, Batch)>,
    batches_per_epoch: usize,
    /// Batches of this epoch that are still to come.
    left: usize,
    /// The worker whose turn it is.
    turn: usize,
    workers: Vec<Worker>,
    /// Tells workers not to finish the batch they are at.
    stop: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Worker {
    ready: Receiver<Result<Batch, DataError>>,
    free: SyncSender<Batch>,
    thread: JoinHandle<()>,
}

impl BatchLoader {
    /// A loader of `split`, whose pictures become inputs by `normalization`.
    ///
    /// # Errors
    /// [`LoaderError`] if an epoch would have no batch, the strip width is impossible, the split's parts or the
    /// normalization do not fit the pictures, these are too small to be cropped, or no thread can be started.
    ///
    /// # Cost
    /// Memory for four batches (of several threads: two each) and 12 bytes per sample and thread beside the split.
    pub fn new(split: Arc<Split>, normalization: &Normalization, options: LoaderOptions) -> Result<Self, LoaderError> {
        let LoaderOptions { batch_size, form, order, drop_last, threads, part } = options;
        let samples = split.len();
        let [channels, height, width] = split.shape;
        let features = channels * height * width;
        let values = match &split.inputs {
            Inputs::Bytes(bytes) => bytes.len(),
            Inputs::Floats(values) => values.len(),
            Inputs::Files(files) => files.len() * features,
            Inputs::Text(_) => samples * features,
            Inputs::Lists(lists) => lists.len() * features,
        };
        if values != samples * features {
            return Err(LoaderError::Split { samples, features, values });
        }
        let text = text_batches(&split, options)?;
        let batches_per_epoch = match (batch_size, &text) {
            (0, _) => 0,
            (_, Some(text)) => text.count(),
            _ if drop_last => samples / batch_size,
            _ => samples.div_ceil(batch_size),
        };
        if batches_per_epoch == 0 {
            return Err(LoaderError::Empty { batch_size, samples, drop_last });
        }
        check_normalization(normalization, split.shape)?;
        if let Order::Shuffled { augment, .. } = order {
            match (augment, &split.inputs) {
                (Augment::CropFlip, Inputs::Files(_) | Inputs::Floats(_) | Inputs::Text(_) | Inputs::Lists(_))
                | (
                    Augment::RandomResizedCropFlip,
                    Inputs::Bytes(_) | Inputs::Floats(_) | Inputs::Text(_) | Inputs::Lists(_),
                ) => {
                    return Err(LoaderError::Augment { augment });
                }
                (Augment::CropFlip, _) if height.min(width) <= PAD => return Err(LoaderError::Small { height, width }),
                _ => {}
            }
        }
        let layout = form.layout(part.samples(batch_size.min(samples)).len(), split.shape)?;

        let first_batch = match order {
            Order::Shuffled { first_batch, .. } => first_batch.min(part.batches(batches_per_epoch)),
            Order::Stored => 0,
        };
        let threads = threads.max(1);
        let buffers = if threads == 1 { BUFFERS } else { BUFFERS_OF_MANY };
        let stop = Arc::new(AtomicBool::new(false));
        let own_batches = part.batches(batches_per_epoch);
        let start = |index: usize| -> Result<Worker, LoaderError> {
            let (ready_sender, ready) = sync_channel(buffers);
            let (free, free_receiver) = sync_channel(buffers);
            for _ in 0..buffers {
                let inputs = match form {
                    InputForm::Tokens { order, strip } => {
                        let sequences = Sequences::new(order, strip, [0, width], false);
                        BatchInputs::Tokens { sequences, tokens: Vec::new() }
                    }
                    InputForm::Lists => BatchInputs::Lists(Lists::new(width)),
                    _ => BatchInputs::Values { layout, values: Vec::with_capacity(layout.len()) },
                };
                let targets = split.targets.none_of(layout.samples());
                let batch = Batch { inputs, targets, corrupt: Vec::new(), part_of: None };
                free.send(batch).expect("the receiver is in scope");
            }
            let maker = match (&text, AnyFiller::new(&split.inputs, split.shape, normalization)) {
                (Some(text), _) => Maker::Text(text.clone(), TextEpoch::default()),
                (None, Some(filler)) => Maker::Samples(filler),
                (None, None) => Maker::Lists,
            };
            let reader = PictureReader::new(height);
            let (split, stop) = (split.clone(), stop.clone());
            let job = Job { split, options, batches_per_epoch, maker, reader, order: Vec::new(), stop };
            let thread = thread::Builder::new().name("batch loader".to_owned()).spawn(move || {
                // The caller has been told of an error, or is gone.
                let numbers = (first_batch + index..).step_by(threads).take_while(|_| own_batches > 0);
                let numbers = numbers.map(|n| part.number(n, batches_per_epoch));
                let _ = job.run(numbers, &free_receiver, &ready_sender);
            });
            let thread = thread.map_err(|error| LoaderError::Thread(error.to_string()))?;
            Ok(Worker { ready, free, thread })
        };
        let mut loader = Self {
            current: None,
            batches_per_epoch: own_batches,
            left: own_batches - first_batch,
            turn: 0,
            workers: Vec::new(),
            stop: stop.clone(),
        };
        for index in 0..threads {
            loader.workers.push(start(index)?);
        }
        Ok(loader)
    }

    /// Batches in every epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.batches_per_epoch
    }

    /// The next batch; `None` at the end of each epoch, after which the next epoch's batches follow. The batch before
    /// goes back to its worker.
    ///
    /// # Errors
    /// [`DataError`] if a batch is unavailable. None follows.
    ///
    /// # Panics
    /// If it is asked again after an error.
    pub fn next_batch(&mut self) -> Result<Option<&Batch>, DataError> {
        let alive = "a worker lives as long as its channels";
        if let Some((worker, batch)) = self.current.take() {
            // A worker that has failed takes no buffers; its error is yet to come.
            let _ = self.workers[worker].free.send(batch);
        }
        if self.left == 0 {
            self.left = self.batches_per_epoch;
            return Ok(None);
        }
        let batch = self.workers[self.turn].ready.recv().expect(alive)?;
        self.left -= 1;
        let (_, batch) = self.current.insert((self.turn, batch));
        self.turn = (self.turn + 1) % self.workers.len();
        Ok(Some(batch))
    }
}

impl Drop for BatchLoader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let threads: Vec<_> = self.workers.drain(..).map(|Worker { thread, .. }| thread).collect();
        // A panic of a worker has been seen as a closed channel by the caller, and printed.
        threads.into_iter().for_each(|thread| drop(thread.join()));
    }
}

/// The batches of a text; none of other samples, which must not be asked for as tokens.
fn text_batches(split: &Split, options: LoaderOptions) -> Result<Option<TextBatches>, LoaderError> {
    let seed = match options.order {
        Order::Shuffled { seed, .. } => Some(seed),
        Order::Stored => None,
    };
    let is_lists = matches!(split.inputs, Inputs::Lists(_));
    if is_lists != (options.form == InputForm::Lists) {
        let (got, expected) = if is_lists { ("lists of features", "values") } else { ("values", "lists of features") };
        return Err(LoaderError::Form { got, expected });
    }
    match (split.text(), options.form) {
        (Some(text), InputForm::Tokens { order, strip }) => {
            Ok(Some(TextBatches::new(text, order, strip, options.batch_size, seed)))
        }
        (Some(_), _) => Err(LoaderError::Form { got: "a text", expected: "values" }),
        (None, InputForm::Tokens { .. }) => Err(LoaderError::Form { got: "values", expected: "a text" }),
        (None, _) => Ok(None),
    }
}

/// A normalization must have numbers of these samples.
fn check_normalization(normalization: &Normalization, shape: [usize; 3]) -> Result<(), LoaderError> {
    let (channels, features) = (shape[0], shape.iter().product());
    if let Some(expected) = normalization.channels().filter(|&expected| expected != channels) {
        return Err(LoaderError::Channels { got: channels, expected });
    }
    match normalization.features().filter(|&expected| expected != features) {
        Some(expected) => Err(LoaderError::Features { got: features, expected }),
        None => Ok(()),
    }
}

/// Makes inputs of samples in memory, all in one batch.
#[derive(Debug)]
pub struct InputMaker {
    inputs: Inputs,
    shape: [usize; 3],
    filler: AnyFiller,
}

impl InputMaker {
    /// For bytes or numbers of samples of `[channels, height, width]`.
    ///
    /// # Errors
    /// [`LoaderError`] if the normalization has numbers of other samples, or they are a text.
    pub fn new(inputs: Inputs, shape: [usize; 3], normalization: &Normalization) -> Result<Self, LoaderError> {
        check_normalization(normalization, shape)?;
        let filler = AnyFiller::new(&inputs, shape, normalization);
        let filler = filler.ok_or(LoaderError::Form { got: "a text or lists", expected: "values" })?;
        Ok(Self { inputs, shape, filler })
    }

    /// Number of samples.
    pub fn samples(&self) -> usize {
        let values = match &self.inputs {
            Inputs::Bytes(bytes) => bytes.len(),
            Inputs::Floats(values) => values.len(),
            Inputs::Files(files) => return files.len(),
            Inputs::Text(_) | Inputs::Lists(_) => unreachable!("refused in new"),
        };
        values / self.shape.iter().product::<usize>().max(1)
    }

    /// Writes the inputs in this layout.
    pub fn fill(&mut self, layout: Layout, to: &mut Vec<f32>) {
        fn copy<T: Copy>(from: &[T]) -> impl FnMut(usize, &mut [T]) -> Result<(), std::convert::Infallible> + '_ {
            |n, to| {
                to.copy_from_slice(&from[n * to.len()..][..to.len()]);
                Ok(())
            }
        }
        let Ok(()) = match (&mut self.filler, &self.inputs) {
            (AnyFiller::Bytes(filler), Inputs::Bytes(bytes)) => filler.fill(layout, to, copy(bytes)),
            (AnyFiller::Floats(filler), Inputs::Floats(values)) => filler.fill(layout, to, copy(values)),
            _ => unreachable!("the filler is that of the inputs, which are in memory"),
        };
    }

    /// Writes the inputs one sample after the other.
    pub fn rows(&mut self, to: &mut Vec<f32>) {
        let (samples, size) = (self.samples(), self.shape.iter().product::<usize>());
        let layout = sparse_kernels::StripLayout::single(samples, size);
        let mut strips = Vec::new();
        self.fill(layout.into(), &mut strips);
        to.clear();
        to.extend((0..samples).flat_map(|n| (0..size).map(move |f| (f, n))).map(|(f, n)| strips[layout.index(f, n)]));
    }
}

/// Why a worker ends.
enum End {
    /// The caller is gone.
    Closed,
    /// A batch is unavailable.
    Failed(DataError),
}

/// How a worker makes batches.
enum Maker {
    /// Of samples by themselves.
    Samples(AnyFiller),
    /// Of a text, with what was drawn for the epoch.
    Text(TextBatches, TextEpoch),
    /// Of lists, as they are.
    Lists,
}

/// What a worker does.
struct Job {
    split: Arc<Split>,
    options: LoaderOptions,
    batches_per_epoch: usize,
    maker: Maker,
    reader: PictureReader,
    /// The epoch's samples.
    order: Vec<u32>,
    stop: Arc<AtomicBool>,
}

impl Job {
    /// Prepares the batches of these numbers; number 0 is the first batch of the first epoch.
    fn run(
        mut self,
        numbers: impl Iterator<Item = usize>,
        free: &Receiver<Batch>,
        ready: &SyncSender<Result<Batch, DataError>>,
    ) -> Result<(), End> {
        let mut keyed = Vec::new();
        let mut ordered = None;
        for number in numbers {
            let (epoch, batch_of_epoch) = (number / self.batches_per_epoch, number % self.batches_per_epoch);
            if ordered != Some(epoch) {
                match (self.options.order, &mut self.maker) {
                    (order, Maker::Text(text, drawn)) => {
                        let first = if let Order::Shuffled { first_epoch, .. } = order { first_epoch } else { 0 };
                        text.begin(first + epoch as u64, drawn);
                    }
                    (Order::Stored, _) => self.order = (0..self.split.len() as u32).collect(),
                    (Order::Shuffled { seed, first_epoch, .. }, _) => {
                        shuffle(
                            &mut keyed,
                            &mut self.order,
                            self.split.len(),
                            epoch_key(seed, first_epoch + epoch as u64),
                        );
                    }
                }
                ordered = Some(epoch);
            }
            let mut batch = free.recv().map_err(|_| End::Closed)?;
            match self.prepare(epoch as u64, batch_of_epoch, &mut batch) {
                Ok(()) => ready.send(Ok(batch)).map_err(|_| End::Closed)?,
                Err(End::Failed(error)) => return ready.send(Err(error)).map_err(|_| End::Closed),
                Err(End::Closed) => return Err(End::Closed),
            }
        }
        Ok(())
    }

    fn prepare(&mut self, epoch: u64, batch_of_epoch: usize, batch: &mut Batch) -> Result<(), End> {
        let LoaderOptions { batch_size, form, order, part, .. } = self.options;
        let split = &self.split;
        let Batch { inputs, targets, corrupt, part_of } = batch;
        corrupt.clear();
        let (filler, layout, to) = match (&mut self.maker, inputs) {
            (Maker::Text(text, drawn), BatchInputs::Tokens { sequences, tokens }) => {
                let Targets::Classes(targets) = targets else { unreachable!("the targets of a text are its tokens") };
                *sequences = text.fill(drawn, batch_of_epoch, tokens, targets);
                return Ok(());
            }
            (Maker::Samples(filler), BatchInputs::Values { layout, values }) => (filler, layout, values),
            (Maker::Lists, BatchInputs::Lists(lists)) => {
                let Inputs::Lists(from) = &split.inputs else { unreachable!("the maker is the split's") };
                targets.clear();
                lists.clear();
                let (own, of_batch) = own_samples(part, batch_of_epoch * batch_size, self.order.len(), batch_size);
                *part_of = of_batch;
                for &sample in &self.order[own] {
                    lists.push_of(from, sample as usize);
                    targets.push_of(&split.targets, sample as usize);
                }
                return Ok(());
            }
            _ => unreachable!("buffers are of the form that is made"),
        };
        targets.clear();
        let (own, of_batch) = own_samples(part, batch_of_epoch * batch_size, self.order.len(), batch_size);
        *part_of = of_batch;
        let first = own.start;
        let samples = &self.order[own];
        *layout = form.layout(samples.len(), split.shape).expect("the form was checked in new");
        let key = match order {
            Order::Shuffled { augment: Augment::None, .. } | Order::Stored => None,
            Order::Shuffled { seed, first_epoch, .. } => {
                Some(Key::new(seed).with_name("augment").with(first_epoch + epoch))
            }
        };
        let change = |sample: u32| key.map(|key| key.with(sample.into()));
        let filler = match (filler, &split.inputs) {
            (AnyFiller::Floats(filler), Inputs::Floats(values)) => {
                return filler.fill(*layout, to, |n, to| {
                    to.copy_from_slice(&values[samples[n] as usize * to.len()..][..to.len()]);
                    targets.push_of(&split.targets, samples[n] as usize);
                    Ok(())
                });
            }
            (AnyFiller::Bytes(filler), _) => filler,
            (AnyFiller::Floats(_), _) => unreachable!("the filler is the split's"),
        };
        filler.fill(*layout, to, |n, to| match &split.inputs {
            Inputs::Bytes(bytes) => {
                let from = &bytes[samples[n] as usize * to.len()..][..to.len()];
                match change(samples[n]) {
                    Some(key) => CropFlip::draw(key).apply(split.shape, from, to),
                    None => to.copy_from_slice(from),
                }
                targets.push_of(&split.targets, samples[n] as usize);
                Ok(())
            }
            Inputs::Files(files) => {
                let size = split.shape[1];
                let (before, after) = self.order.split_at(first + n);
                for &sample in after.iter().chain(before) {
                    if self.stop.load(Ordering::Relaxed) {
                        return Err(End::Closed);
                    }
                    let cut = |picture| match change(sample) {
                        Some(key) => Cut::random(key, picture),
                        None => Cut::middle(picture, size),
                    };
                    let label = split.labels()[sample as usize];
                    if files.read(&mut self.reader, [sample, label], cut, to) {
                        targets.push_of(&split.targets, sample as usize);
                        return Ok(());
                    }
                    corrupt.push(sample);
                }
                Err(End::Failed(files.none_readable(split.labels())))
            }
            Inputs::Floats(_) | Inputs::Text(_) | Inputs::Lists(_) => unreachable!("the filler is the split's"),
        })
    }
}

/// The places in an epoch's order of what is prepared of the batch that begins at `first`, and the batch if that is only a part.
fn own_samples(part: Part, first: usize, samples: usize, batch_size: usize) -> (Range<usize>, Option<PartOf>) {
    let whole = samples.min(first + batch_size) - first;
    let own = part.samples(whole);
    let part_of = (own.len() < whole).then_some(PartOf { first: own.start, samples: whole });
    (first + own.start..first + own.end, part_of)
}

fn epoch_key(seed: u64, epoch: u64) -> Key {
    Key::new(seed).with_name("batches").with(epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sample `s` has label `s % 10` and features that tell its number.
    fn split(samples: usize, features: usize) -> Arc<Split> {
        let images = (0..samples * features).map(|i| (i / features * 31 + i % features) as u8).collect();
        let labels = (0..samples).map(|s| (s % 10) as u32).collect();
        Arc::new(Split { shape: [1, 1, features], inputs: Inputs::Bytes(images), targets: Targets::Classes(labels) })
    }

    /// A byte becomes itself.
    fn plain() -> Normalization {
        Normalization::Pixels { mean: 0.0, deviation: 1.0 / 255.0 }
    }

    fn loader(samples: usize, features: usize, options: LoaderOptions) -> BatchLoader {
        BatchLoader::new(split(samples, features), &plain(), options).unwrap()
    }

    fn at(layout: Layout, feature: usize, sample: usize) -> usize {
        match layout {
            Layout::Strips(layout) => layout.index(feature, sample),
            Layout::Images(layout) => layout.index(sample, 0, [0, feature]),
        }
    }

    /// The first feature and the label of each sample of one epoch, in order.
    fn epoch(loader: &mut BatchLoader) -> Vec<(u32, u32)> {
        let mut seen = Vec::new();
        while let Some(batch) = loader.next_batch().unwrap() {
            let (layout, values) = batch.inputs.values();
            let first = |sample| values[at(layout, 0, sample)].round() as u32;
            seen.extend(batch.targets.classes().iter().enumerate().map(|(sample, &label)| (first(sample), label)));
        }
        seen
    }

    fn shuffled(seed: u64, first_epoch: u64) -> LoaderOptions {
        LoaderOptions {
            batch_size: 7,
            form: InputForm::Features { strip: 16 },
            order: Order::Shuffled { seed, first_epoch, first_batch: 0, augment: Augment::None },
            drop_last: false,
            part: Part::All,
            threads: 1,
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
        let order = Order::Shuffled { seed: 1, first_epoch: 0, first_batch: 4, augment: Augment::None };
        let mut middle = loader(100, 3, LoaderOptions { order, ..shuffled(1, 0) });
        assert_eq!((epoch(&mut middle), epoch(&mut middle)), (first[4 * 7..].to_vec(), second));
        // The batch size cuts the order, it does not change it.
        assert_eq!(epoch(&mut loader(100, 3, LoaderOptions { batch_size: 64, ..shuffled(1, 0) })), first);
    }

    #[test]
    fn partial_batches_are_kept_or_dropped() {
        for (drop_last, sizes) in [(false, [7, 7, 6].as_slice()), (true, &[7, 7])] {
            let mut loader = loader(20, 3, LoaderOptions { drop_last, ..shuffled(0, 0) });
            assert_eq!(loader.batches_per_epoch(), sizes.len());
            for _ in 0..3 {
                let mut seen = Vec::new();
                while let Some(batch) = loader.next_batch().unwrap() {
                    seen.push(batch.inputs.values().0.samples());
                }
                assert_eq!(seen, sizes);
            }
        }
    }

    /// All batches of two epochs from `first_batch` on.
    fn two_epochs(split: &Arc<Split>, first_batch: usize, options: LoaderOptions) -> Vec<(Layout, Vec<f32>, Vec<u32>)> {
        let Order::Shuffled { seed, first_epoch, augment, .. } = options.order else { panic!("batches of training") };
        let order = Order::Shuffled { seed, first_epoch, first_batch, augment };
        let mut loader = BatchLoader::new(split.clone(), &plain(), LoaderOptions { order, ..options }).unwrap();
        let mut batches = Vec::new();
        for _ in 0..2 {
            while let Some(Batch { inputs, targets, .. }) = loader.next_batch().unwrap() {
                let (layout, values) = inputs.values();
                batches.push((layout, values.to_vec(), targets.classes().to_vec()));
            }
        }
        batches
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Recycled buffers hold old values; padding must be written anew. Neither the threads nor a stop in the middle
        /// changes anything.
        #[test]
        fn values_stand_where_the_layout_says_and_padding_is_zero(
            samples in 1usize..90, features in 1usize..40, batch_size in 1usize..90, strip in 1usize..4, seed: u64,
            threads in 1usize..4, images: bool, skipped: prop::sample::Index,
        ) {
            let data = split(samples, features);
            let form = match images {
                true => InputForm::Images { border: strip, strip: 8 << (strip - 1) },
                false => InputForm::Features { strip: strip * 16 },
            };
            let options = LoaderOptions { batch_size, form, threads, ..shuffled(seed, 0) };
            let batches = two_epochs(&data, 0, options);
            let mut expected = batches.iter();
            for number in 0..2 {
                let order = super::super::dataset::shuffled(samples, epoch_key(seed, number));
                for chunk in order.chunks(batch_size) {
                    let (layout, images, labels) = expected.next().unwrap();
                    prop_assert_eq!(*layout, form.layout(chunk.len(), [1, 1, features]).unwrap());
                    prop_assert_eq!((images.len(), labels.len()), (layout.len(), chunk.len()));
                    let mut left = images.clone();
                    for (n, &sample) in chunk.iter().enumerate() {
                        let sample = sample as usize;
                        for feature in 0..features {
                            let at = at(*layout, feature, n);
                            let byte = data.bytes().unwrap()[sample * features + feature];
                            prop_assert_eq!(images[at].round(), f32::from(byte));
                            left[at] = 0.0;
                        }
                        prop_assert_eq!(labels[n], data.labels()[sample]);
                    }
                    prop_assert!(left.iter().all(|&value| value == 0.0));
                }
            }
            prop_assert!(expected.next().is_none());
            let skipped = skipped.index(batches.len() / 2);
            let resumed = two_epochs(&data, skipped, LoaderOptions { threads: 1 + threads % 3, ..options });
            prop_assert!(resumed == batches[skipped..]);
        }
    }

    /// Pictures of 6×5 pixels in two channels, with random bytes.
    fn pictures(samples: usize) -> Arc<Split> {
        let key = Key::new(9);
        let images = (0..samples * 60).map(|i| key.bits(i as u64) as u8).collect();
        let inputs = Inputs::Bytes(images);
        Arc::new(Split { shape: [2, 6, 5], inputs, targets: Targets::Classes((0..samples as u32).collect()) })
    }

    /// Of each sample of the first epoch: its label and picture, by label.
    fn by_sample(split: &Arc<Split>, options: LoaderOptions) -> Vec<(u32, Vec<f32>)> {
        let mut loader = BatchLoader::new(split.clone(), &plain(), options).unwrap();
        let mut seen = Vec::new();
        while let Some(batch) = loader.next_batch().unwrap() {
            let (Layout::Strips(layout), values) = batch.inputs.values() else { panic!("features were asked for") };
            let picture = |n| (0..60).map(|feature| values[layout.index(feature, n)].round()).collect();
            seen.extend(batch.targets.classes().iter().enumerate().map(|(n, &label)| (label, picture(n))));
        }
        seen.sort_by_key(|&(label, _)| label);
        seen
    }

    #[test]
    fn changes_are_of_seed_epoch_and_sample_alone() {
        let data = pictures(50);
        let options = |seed, first_epoch, augment| LoaderOptions {
            order: Order::Shuffled { seed, first_epoch, first_batch: 0, augment },
            ..shuffled(0, 0)
        };
        let changed = options(1, 3, Augment::CropFlip);
        let pictures = by_sample(&data, changed);
        for (sample, (label, picture)) in pictures.iter().enumerate() {
            assert_eq!(*label as usize, sample);
            let mut expected = [0; 60];
            let key = Key::new(1).with_name("augment").with(3).with(sample as u64);
            CropFlip::draw(key).apply(data.shape, &data.bytes().unwrap()[sample * 60..][..60], &mut expected);
            assert!(picture.iter().zip(expected).all(|(&got, expected)| got == f32::from(expected)));
        }
        assert!(by_sample(&data, LoaderOptions { batch_size: 50, threads: 3, ..changed }) == pictures);
        let different = |options| {
            let others = by_sample(&data, options);
            others.iter().zip(&pictures).filter(|(a, b)| a != b).count()
        };
        assert!(different(options(2, 3, Augment::CropFlip)) > 40);
        assert!(different(options(1, 4, Augment::CropFlip)) > 40);
        // Nothing is changed where it was not asked for, and never in evaluation.
        let stored = by_sample(&data, LoaderOptions { order: Order::Stored, ..changed });
        assert!(by_sample(&data, options(1, 3, Augment::None)) == stored);
        let bytes = stored.iter().flat_map(|(_, picture)| picture.iter().map(|&byte| byte as u8));
        assert!(bytes.eq(data.bytes().unwrap().iter().copied()));
        // In the middle of an epoch, as from its start.
        let whole = two_epochs(&data, 0, changed);
        assert!(two_epochs(&data, 5, LoaderOptions { threads: 2, ..changed }) == whole[5..]);
    }

    /// What ranks prepare of each batch covers it, with the changes that it has as a whole.
    #[test]
    fn shards_are_parts_of_the_whole_batch() {
        let shape = [1, 6, 7];
        let images = (0..35 * 42).map(|i| (i * 31) as u8).collect();
        let targets = Targets::Classes((0..35).collect());
        let data = Arc::new(Split { shape, inputs: Inputs::Bytes(images), targets });
        let order = Order::Shuffled { seed: 3, first_epoch: 0, first_batch: 0, augment: Augment::CropFlip };
        let form = InputForm::Images { border: 1, strip: 8 };
        let options = LoaderOptions { batch_size: 10, form, order, ..shuffled(0, 0) };
        // Samples by their labels: where they stand in the whole batch, and their pixels.
        let batches = |part| {
            let mut loader = BatchLoader::new(data.clone(), &plain(), LoaderOptions { part, ..options }).unwrap();
            let mut batches = vec![];
            while let Some(batch) = loader.next_batch().unwrap() {
                let (layout, values) = batch.inputs.values();
                let Layout::Images(layout) = layout else { unreachable!() };
                let first = batch.part_of.map_or(0, |part| part.first);
                let pixels =
                    |n: usize| -> Vec<f32> { (0..42).map(|i| values[layout.index(n, 0, [i / 7, i % 7])]).collect() };
                let samples = batch.targets.classes().iter().enumerate();
                batches.push(samples.map(|(n, &label)| (first + n, label, pixels(n))).collect::<Vec<_>>());
            }
            batches
        };
        let whole = batches(Part::All);
        for (count, ranks) in [(4, 4), (8, 3), (12, 2), (1, 1)] {
            let mut together = vec![vec![]; whole.len()];
            for rank in 0..ranks {
                let own = rank * count / ranks..(rank + 1) * count / ranks;
                let part = batches(Part::Shards(Shards::some(count, own)));
                together.iter_mut().zip(part).for_each(|(all, part)| all.extend(part));
            }
            // The last batch has 5 samples, fewer than shards: some come twice.
            together.iter_mut().for_each(|samples| samples.dedup());
            assert!(together == whole, "{count} shards over {ranks}");
        }
    }

    /// Each shard's samples are there, one at least, whatever the numbers of ranks and samples.
    #[test]
    fn the_samples_of_all_shards_of_a_rank_are_there() {
        for (count, samples) in (1..12).flat_map(|count| (1..30).map(move |samples| (count, samples))) {
            for (rank, ranks) in (1..=count).flat_map(|ranks| (0..ranks).map(move |rank| (rank, ranks))) {
                let shards = Shards::some(count, rank * count / ranks..(rank + 1) * count / ranks);
                let range = Part::Shards(shards).samples(samples);
                assert!(range.end <= samples);
                for shard in shards.own() {
                    let [first, len] = shard_samples(shard, count, samples);
                    assert!(range.start <= first && first + len.max(1) <= range.end, "{shards:?} of {samples}");
                }
            }
        }
    }

    #[test]
    fn ranks_take_batches_in_turn() {
        let options = LoaderOptions { batch_size: 10, ..shuffled(0, 0) };
        let whole = two_epochs(&split(65, 3), 0, options);
        for (every, threads) in [(1, 1), (2, 2), (3, 1), (9, 2)] {
            for first in 0..every {
                let part = Part::Batches { first, every };
                let got = two_epochs(&split(65, 3), 0, LoaderOptions { part, threads, ..options });
                let expected = whole.chunks(7).flat_map(|epoch| epoch.iter().skip(first).step_by(every).cloned());
                assert!(got == expected.collect::<Vec<_>>(), "{first} of {every}");
            }
        }
    }

    #[test]
    fn buffers_go_round() {
        for threads in [1, 3] {
            let mut loader = loader(640, 5, LoaderOptions { batch_size: 64, threads, ..shuffled(0, 0) });
            let mut places = std::collections::BTreeSet::new();
            for _ in 0..5 {
                while let Some(batch) = loader.next_batch().unwrap() {
                    places.insert(batch.inputs.values().1.as_ptr() as usize);
                }
            }
            assert!(places.len() <= BUFFERS.max(threads * BUFFERS_OF_MANY), "{places:?}");
        }
    }

    #[test]
    fn dropping_joins_the_threads_in_any_state() {
        let data = split(1000, 5);
        for (batches, threads) in [(0, 1), (1, 2), (3, 1), (143, 3), (144, 1), (200, 2)] {
            let options = LoaderOptions { threads, ..shuffled(0, 0) };
            let mut loader = BatchLoader::new(data.clone(), &plain(), options).unwrap();
            for _ in 0..batches {
                loader.next_batch().unwrap();
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
            BatchLoader::new(split(samples, 3), &plain(), options).unwrap_err().to_string()
        };
        assert_eq!(error(10, |o| o.batch_size = 0), "batch-size 0 makes no batch of 10 samples");
        assert_eq!(error(0, |_| ()), "batch-size 7 makes no batch of 0 samples");
        assert!(error(5, |o| o.drop_last = true).ends_with("if the last partial batch is dropped"));
        assert!(error(10, |o| o.form = InputForm::Features { strip: 20 }).contains("16"));
        assert!(error(10, |o| o.form = InputForm::Images { border: 1, strip: 2 }).contains("1, 8, 16 or 32"));
        let crops = Order::Shuffled { seed: 0, first_epoch: 0, first_batch: 0, augment: Augment::CropFlip };
        let error = BatchLoader::new(split(4, 3), &plain(), LoaderOptions { order: crops, ..shuffled(0, 0) });
        assert!(error.unwrap_err().to_string().contains("images of 1×3 pixels; reflecting 4 pixels needs at least 5"));
        let channels = Normalization::Channels { mean: vec![0.0; 3], deviation: vec![1.0; 3] };
        let error = BatchLoader::new(split(4, 3), &channels, shuffled(0, 0)).unwrap_err();
        assert_eq!(error.to_string(), "the normalisation is for images with 3 channels; these have 1");
        let wrong = Split { shape: [1, 1, 2], ..(*split(4, 3)).clone() };
        let error = BatchLoader::new(Arc::new(wrong), &plain(), shuffled(0, 0)).unwrap_err();
        assert_eq!(error.to_string(), "4 samples of 2 values make 8 values, not 12");
    }
}
