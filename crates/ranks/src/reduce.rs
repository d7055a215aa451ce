//! Sums over the shards of all ranks, and growth from them, with the bits of one rank.
//!
//! ```text
//! backward pass   a gradient is whole on this rank → its nodes of the tree go into the bucket
//!                 the bucket is full → cut it into a chunk for each rank, send each its chunk of the nodes      (1)
//! (1) has come    add up my chunk along the tree, send the sum to all                                           (2)
//! finish          all of (2) have come → the gradients
//!
//! growth          for each tile: send each rank its part of the nodes; it adds them up and keeps its best
//!                 the best of two ranks, of four, … go to rank 0, which says where the best end; each tells its own to all
//! ```
//!
//! A bucket of n numbers of which each rank has one node costs a rank `2 · (R − 1) / R · 4n` bytes, as much as the best
//! all-reduces do. A rank whose shards are no node of the tree by themselves (three ranks, eight shards) sends more nodes in
//! (1).

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

use autograd::{Arena, BestGrowth, Error, Growth, Parameters, Reduce, SumOf, Tree};
use bytemuck::cast_slice;
use sparse_kernels::{Backend, Candidate};

use super::trace::{Clock, StepTrace, Totals};
use super::{Exchange, Ranks, RanksError, Traffic, numbers_of, shards_of};

/// Bytes of a bucket: small enough that a sparse network has several, which are sent while backward goes on.
pub const BUCKET_BYTES: usize = 1 << 17;

/// Buckets under way at a time, each of two exchanges: MPI tells no more messages apart than 32767.
const MOST_BUCKETS: usize = 1 << 12;

/// How sums over shards are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reduction {
    /// Along one tree over the shards: the same bits from any number of ranks.
    #[default]
    Tree,
    /// By [`Transport::sum`](crate::Transport::sum), of what each rank has added up. The bits depend on the number of ranks.
    Fast,
}

/// Combines what ranks have computed, each of some shards.
#[derive(Debug)]
pub struct RankReduce {
    ranks: Ranks,
    shards: usize,
    bucket_bytes: usize,
    reduction: Reduction,
    /// Nodes that each rank has.
    nodes: Vec<Vec<Range<usize>>>,
    bucket: Bucket,
    under_way: VecDeque<UnderWay>,
    /// Buckets sent since all exchanges were done.
    begun: usize,
    /// Of the next exchange.
    number: u64,
    traffic: Traffic,
    clock: Clock,
}

/// Gradients one behind the other.
#[derive(Debug, Default)]
struct Bucket {
    sums: Vec<(SumOf, usize)>,
    /// Of each node of this rank.
    nodes: Vec<Vec<f32>>,
    len: usize,
}

/// A bucket that has been sent.
#[derive(Debug)]
struct UnderWay {
    /// Of the exchange of its sums.
    number: u64,
    sums: Vec<(SumOf, usize)>,
    len: usize,
    /// Its place in the trace.
    place: usize,
    /// Whether all of it was there when it was looked for.
    came: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Nodes are sent to whoever adds them up.
    Nodes(Box<dyn Exchange>),
    /// Sums are sent to all.
    Sums(Box<dyn Exchange>),
    /// They are there.
    There(Vec<Vec<u8>>),
}

fn add(mut sum: Vec<f32>, other: Vec<f32>) -> Result<Vec<f32>, Error> {
    sum.iter_mut().zip(&other).for_each(|(sum, other)| *sum += other);
    Ok(sum)
}

/// A length from its 8 bytes.
fn length(bytes: Vec<u8>) -> usize {
    bytes.try_into().map_or(0, u64::from_le_bytes) as usize
}

fn failed(error: RanksError) -> Error {
    Error::Reduce(error.to_string())
}

impl RankReduce {
    /// For batches of so many shards.
    ///
    /// # Errors
    /// [`RanksError::FewShards`].
    pub fn new(ranks: Ranks, shards: usize) -> Result<Self, RanksError> {
        let count = ranks.count();
        if count > shards {
            return Err(RanksError::FewShards { ranks: count, shards });
        }
        let nodes = (0..count).map(|rank| Tree::<()>::spans(shards, shards_of(rank, count, shards))).collect();
        Ok(Self {
            ranks,
            shards,
            bucket_bytes: BUCKET_BYTES,
            reduction: Reduction::Tree,
            nodes,
            bucket: Bucket::default(),
            under_way: VecDeque::new(),
            begun: 0,
            number: 0,
            traffic: Traffic::default(),
            clock: Clock::default(),
        })
    }

    /// With buckets of another size.
    #[must_use]
    pub fn with_buckets(self, bucket_bytes: usize) -> Self {
        Self { bucket_bytes, ..self }
    }

    /// With another reduction.
    #[must_use]
    pub fn with_reduction(self, reduction: Reduction) -> Self {
        Self { reduction, ..self }
    }

    /// The last whole step.
    pub fn trace(&self) -> &StepTrace {
        self.clock.last()
    }

    /// What all steps took so far.
    pub fn totals(&self) -> Totals {
        self.clock.totals()
    }

    /// The ranks.
    pub fn ranks(&self) -> &Ranks {
        &self.ranks
    }

    /// The shards that this rank computes.
    pub fn own(&self) -> Range<usize> {
        shards_of(self.ranks.rank(), self.ranks.count(), self.shards)
    }

    /// Bytes sent so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// The number of the next exchange. All ranks ask for them in the same order.
    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number - 1
    }

    /// The same message to all ranks, and the messages of all, of these lengths.
    ///
    /// # Errors
    /// If the ranks cannot be reached.
    pub fn gather(&mut self, own: &[u8], lengths: Vec<usize>) -> Result<Vec<Vec<u8>>, RanksError> {
        let (number, count) = (self.next(), self.ranks.count());
        self.traffic.other += (own.len() * (count - 1)) as u64;
        self.ranks.exchange(number, vec![own.to_vec(); count], lengths)?.wait()
    }

    /// As [`RankReduce::gather`], of lengths that the other ranks do not know.
    ///
    /// # Errors
    /// As [`RankReduce::gather`].
    pub fn gather_any(&mut self, own: &[u8]) -> Result<Vec<Vec<u8>>, RanksError> {
        let lengths = self.gather(&(own.len() as u64).to_le_bytes(), vec![8; self.ranks.count()])?;
        self.gather(own, lengths.into_iter().map(length).collect())
    }

    /// Something of each shard of the batch, `per_shard` bytes each, from what there is of the own shards.
    ///
    /// # Errors
    /// As [`RankReduce::gather`].
    pub fn gather_shards(&mut self, own: &[u8], per_shard: usize) -> Result<Vec<u8>, RanksError> {
        let count = self.ranks.count();
        let length = |rank| shards_of(rank, count, self.shards).len() * per_shard;
        let start = Instant::now();
        let all = self.gather(own, (0..count).map(length).collect())?.concat();
        self.clock.told(start);
        Ok(all)
    }

    /// Counts the bytes of a bucket, gradients and moments.
    fn count_sums(&mut self, bytes: u64, sums: &[(SumOf, usize)], len: usize) {
        let gradients: usize = sums.iter().filter(|(of, _)| !matches!(of, SumOf::Moments(_))).map(|(_, len)| len).sum();
        let of_gradients = bytes * gradients as u64 / len.max(1) as u64;
        self.traffic.values += of_gradients;
        self.traffic.other += bytes - of_gradients;
    }

    /// Bytes that go to other ranks.
    fn to_others(&self, messages: &[Vec<u8>]) -> u64 {
        let me = self.ranks.rank();
        messages.iter().enumerate().filter(|(rank, _)| *rank != me).map(|(_, message)| message.len() as u64).sum()
    }

    /// Sends the bucket.
    fn send(&mut self) -> Result<(), Error> {
        let Bucket { sums, nodes, len } = std::mem::take(&mut self.bucket);
        if sums.is_empty() {
            return Ok(());
        }
        if self.begun >= MOST_BUCKETS {
            self.settle()?;
        }
        self.begun += 1;
        let (me, count) = (self.ranks.rank(), self.ranks.count());
        let place = self.clock.sent(len);
        if self.reduction == Reduction::Fast {
            let number = self.next();
            let sum = nodes.into_iter().map(Ok).reduce(|sum, other| add(sum?, other?)).transpose()?.unwrap_or_default();
            // As the best algorithms do.
            self.count_sums((2 * len * size_of::<f32>() * (count - 1) / count) as u64, &sums, len);
            let exchange = self.ranks.sum(number, sum).map_err(failed)?;
            self.under_way.push_back(UnderWay { number, sums, len, place, came: false, stage: Stage::Sums(exchange) });
            return Ok(());
        }
        let to = |rank| nodes.iter().flat_map(|node| cast_slice(&node[shards_of(rank, count, len)])).copied().collect();
        let messages: Vec<Vec<u8>> = (0..count).map(to).collect();
        let mine = shards_of(me, count, len).len();
        let lengths = self.nodes.iter().map(|nodes| nodes.len() * mine * size_of::<f32>()).collect();
        self.count_sums(self.to_others(&messages), &sums, len);
        let [of_nodes, number] = [self.next(), self.next()];
        let exchange = self.ranks.exchange(of_nodes, messages, lengths).map_err(failed)?;
        self.under_way.push_back(UnderWay { number, sums, len, place, came: false, stage: Stage::Nodes(exchange) });
        Ok(())
    }

    /// Adds up the nodes of a chunk of `len` numbers that have come from all ranks.
    fn added(&self, messages: Vec<Vec<u8>>, len: usize) -> Result<Vec<f32>, Error> {
        let mut tree = Tree::new(self.shards);
        for (spans, message) in self.nodes.iter().zip(messages) {
            let message = numbers_of(&message);
            for (i, span) in spans.iter().enumerate() {
                tree.insert(span.clone(), message[i * len..][..len].to_vec(), add)?;
            }
        }
        tree.into_root().ok_or(Error::Backward { reason: "a shard is missing" })
    }

    /// Moves what has come one stage on; with `wait` to the end of the first stage of all.
    fn progress(&mut self, wait: bool) -> Result<(), Error> {
        for _ in 0..self.under_way.len() {
            let Some(mut bucket) = self.under_way.pop_front() else { break };
            let UnderWay { number, len, place, came, .. } = bucket;
            bucket.stage = match bucket.stage {
                Stage::Nodes(mut exchange) => {
                    if wait || exchange.is_done().map_err(failed)? {
                        let (me, count) = (self.ranks.rank(), self.ranks.count());
                        let mine = shards_of(me, count, len).len();
                        let sum = self.added(exchange.wait().map_err(failed)?, mine)?;
                        let messages = vec![cast_slice(&sum).to_vec(); count];
                        let length = |rank| shards_of(rank, count, len).len() * size_of::<f32>();
                        self.count_sums(self.to_others(&messages), &bucket.sums, len);
                        let exchange = self.ranks.exchange(number, messages, (0..count).map(length).collect());
                        Stage::Sums(exchange.map_err(failed)?)
                    } else {
                        Stage::Nodes(exchange)
                    }
                }
                Stage::Sums(mut exchange) => {
                    if !came && exchange.is_done().map_err(failed)? {
                        self.clock.done(place);
                        bucket.came = true;
                    }
                    Stage::Sums(exchange)
                }
                Stage::There(sums) => Stage::There(sums),
            };
            self.under_way.push_back(bucket);
        }
        Ok(())
    }

    /// Waits until all that has been sent is there.
    fn settle(&mut self) -> Result<(), Error> {
        self.progress(true)?;
        self.begun = 0;
        for bucket in &mut self.under_way {
            bucket.stage = match std::mem::replace(&mut bucket.stage, Stage::There(vec![])) {
                Stage::Sums(exchange) => {
                    let sums = exchange.wait().map_err(failed)?;
                    if !std::mem::replace(&mut bucket.came, true) {
                        self.clock.done(bucket.place);
                    }
                    Stage::There(sums)
                }
                other => other,
            };
        }
        Ok(())
    }

    /// Waits for the own part of a tile, adds it up, and offers it.
    fn offer(
        &mut self,
        best: &mut BestGrowth<'_>,
        (exchange, own): (Box<dyn Exchange>, Range<usize>),
    ) -> Result<(), Error> {
        let start = Instant::now();
        let nodes = exchange.wait().map_err(failed)?;
        self.clock.grew(start);
        let sum = self.added(nodes, own.len())?;
        best.offer(own, &sum);
        Ok(())
    }

    /// One exchange for growth, waited for.
    fn grow_exchange(&mut self, messages: Vec<Vec<u8>>, lengths: Vec<usize>) -> Result<Vec<Vec<u8>>, Error> {
        self.traffic.growth += self.to_others(&messages);
        let (number, start) = (self.next(), Instant::now());
        let exchanged = self.ranks.exchange(number, messages, lengths).and_then(|exchange| exchange.wait());
        self.clock.grew(start);
        exchanged.map_err(failed)
    }

    /// The best of what all ranks have found, each at so many positions: lists of two ranks, of four, … go to rank 0, which says where
    /// the best end; then each tells all others which of its own are among them.
    fn best_of_all(&mut self, mut best: BestGrowth<'_>, positions: &[usize]) -> Result<Vec<Candidate>, Error> {
        let (me, count) = (self.ranks.rank(), self.ranks.count());
        let mut own = best.best_so_far().to_vec();
        let mut distance = 1;
        while distance < count {
            // No more than there are positions.
            let most = |first: usize| -> usize {
                let group = &positions[first..(first + distance).min(count)];
                group.iter().sum::<usize>().min(best.most())
            };
            let (mut messages, mut lengths) = (vec![vec![]; count], vec![0; count]);
            if me % (2 * distance) == distance {
                let most = most(me);
                messages[me - distance] = to_bytes(best.best_so_far(), most);
            } else if me.is_multiple_of(2 * distance) && me + distance < count {
                lengths[me + distance] = most(me + distance) * CANDIDATE_BYTES;
            }
            let received = self.grow_exchange(messages, lengths)?;
            best.offer_candidates(received.iter().flat_map(|message| from_bytes(message)));
            distance *= 2;
        }
        let mut lengths = vec![0; count];
        lengths[0] = CANDIDATE_BYTES;
        let last = if me == 0 { to_bytes(best.last().as_slice(), 1) } else { vec![] };
        let last = self.grow_exchange(vec![last; count], lengths)?.concat();
        if let Some(last) = from_bytes(&last).next() {
            own.retain(|candidate| best.is_as_good(candidate, &last));
        }
        let counts = self.grow_exchange(vec![(own.len() as u64).to_le_bytes().to_vec(); count], vec![8; count])?;
        let lengths = counts.into_iter().map(|bytes| length(bytes) * CANDIDATE_BYTES).collect();
        let own = to_bytes(&own, own.len());
        let all = self.grow_exchange(vec![own; count], lengths)?;
        let mut all: Vec<_> = all.iter().flat_map(|message| from_bytes(message)).collect();
        all.sort_unstable_by_key(|candidate| (candidate.row, candidate.column));
        Ok(all)
    }
}

pub(crate) const CANDIDATE_BYTES: usize = 12;

/// Candidates, and as many that are none as make `most`.
fn to_bytes(candidates: &[Candidate], most: usize) -> Vec<u8> {
    let none = Candidate { row: u32::MAX, column: u32::MAX, score: 0.0 };
    let all = candidates.iter().chain(std::iter::repeat(&none)).take(most);
    all.flat_map(|c| [c.row, c.column, c.score.to_bits()]).flat_map(u32::to_le_bytes).collect()
}

fn from_bytes(bytes: &[u8]) -> impl Iterator<Item = Candidate> {
    let candidate = |bytes: &[u8]| {
        let [row, column, score] =
            [0, 4, 8].map(|at| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes")));
        Candidate { row, column, score: f32::from_bits(score) }
    };
    bytes.chunks_exact(CANDIDATE_BYTES).map(candidate).filter(|candidate| candidate.row != u32::MAX)
}

impl<B: Backend> Reduce<B> for RankReduce {
    fn sum(
        &mut self,
        backend: &B,
        arena: &mut Arena<B>,
        of: SumOf,
        known: Tree<B::Buffer>,
    ) -> Result<Option<B::Buffer>, Error> {
        let known = known.into_nodes();
        self.bucket.nodes.resize_with(known.len(), Vec::new);
        let mut len = 0;
        for (node, (_, buffer)) in self.bucket.nodes.iter_mut().zip(known) {
            len = backend.len(&buffer);
            let first = node.len();
            node.resize(first + len, 0.0);
            backend.download(&buffer, &mut node[first..])?;
            arena.give_buffer(backend, buffer);
        }
        self.clock.ready(len);
        self.bucket.sums.push((of, len));
        self.bucket.len += len;
        if self.bucket.len * size_of::<f32>() >= self.bucket_bytes {
            self.send()?;
        }
        self.progress(false)?;
        Ok(None)
    }

    fn grow(&mut self, growth: &Growth<'_, B>) -> Result<Vec<Candidate>, Error> {
        let (me, count) = (self.ranks.rank(), self.ranks.count());
        let (mut best, mut positions) = (growth.best(), vec![0; count]);
        // The next tile is made while one is on its way.
        let mut on_its_way: Option<(Box<dyn Exchange>, Range<usize>)> = None;
        for rows in growth.tiles() {
            let first = growth.positions(&rows).start;
            let nodes = growth.tile(rows.clone())?.into_nodes();
            let part = |rank| {
                let part = growth.part(&rows, rank, count);
                nodes
                    .iter()
                    .flat_map(|(_, node)| cast_slice(&node[part.start - first..part.end - first]))
                    .copied()
                    .collect()
            };
            let messages: Vec<Vec<u8>> = (0..count).map(part).collect();
            positions.iter_mut().enumerate().for_each(|(rank, sum)| *sum += growth.part(&rows, rank, count).len());
            let own = growth.part(&rows, me, count);
            let lengths = self.nodes.iter().map(|nodes| nodes.len() * own.len() * size_of::<f32>()).collect();
            self.traffic.growth += self.to_others(&messages);
            let number = self.next();
            let exchange = self.ranks.exchange(number, messages, lengths).map_err(failed)?;
            if let Some(before) = on_its_way.replace((exchange, own)) {
                self.offer(&mut best, before)?;
            }
            self.progress(false)?;
        }
        on_its_way.map_or(Ok(()), |last| self.offer(&mut best, last))?;
        self.best_of_all(best, &positions)
    }

    /// Each rank adds up a chunk, and tells it to all.
    fn add_up(&mut self, known: Tree<Vec<f32>>) -> Result<Vec<f32>, Error> {
        let (me, count) = (self.ranks.rank(), self.ranks.count());
        let nodes = known.into_nodes();
        let len = nodes.first().map_or(0, |(_, node)| node.len());
        let chunk = |rank| shards_of(rank, count, len);
        let to = |rank| nodes.iter().flat_map(|(_, node)| cast_slice(&node[chunk(rank)])).copied().collect();
        let mine = chunk(me).len();
        let lengths = self.nodes.iter().map(|nodes| nodes.len() * mine * size_of::<f32>()).collect();
        let received = self.grow_exchange((0..count).map(to).collect(), lengths)?;
        let sum = self.added(received, mine)?;
        let lengths = (0..count).map(|rank| chunk(rank).len() * size_of::<f32>()).collect();
        let all = self.grow_exchange(vec![cast_slice(&sum).to_vec(); count], lengths)?;
        Ok(numbers_of(&all.concat()))
    }

    fn finish(&mut self, backend: &B, _: &mut Arena<B>, parameters: &mut Parameters<B>) -> Result<(), Error> {
        self.send()?;
        self.clock.backward();
        self.settle()?;
        while let Some(UnderWay { sums, stage, .. }) = self.under_way.pop_front() {
            let Stage::There(messages) = stage else { unreachable!("all sums have come") };
            let all = numbers_of(&messages.concat());
            let mut rest = &all[..];
            for (of, len) in sums {
                let (sum, others) = rest.split_at(len);
                parameters.upload_gradient(backend, of, sum)?;
                rest = others;
            }
        }
        self.clock.end();
        Ok(())
    }
}
