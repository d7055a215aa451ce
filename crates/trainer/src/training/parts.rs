//! A batch in parts, whose gradients are added up: a step of a large batch in the memory of a small one.

use autograd::Shards;
use sparse_kernels::{CrossEntropy, Layout};

use super::evaluator::HostBatch;
use crate::data::{BatchInputs, BatchTargets, HostInputs, PartOf, Sequences, Targets, shard_samples};
use crate::models::Body;

/// A part of a batch.
#[derive(Debug)]
pub(super) struct Part {
    inputs: BatchInputs,
    targets: Targets,
    /// Of what the batch's mean loss is over.
    pub share: f32,
}

impl Part {
    pub fn batch(&self) -> HostBatch<'_> {
        HostBatch { inputs: (&self.inputs).into(), targets: (&self.targets).into(), part_of: None }
    }
}

/// The parts of a batch, of up to `size` samples or sequences each; none if the batch is no larger.
pub(super) fn parts(HostBatch { inputs, targets, .. }: HostBatch<'_>, size: usize, body: &Body) -> Vec<Part> {
    let samples = samples_of(inputs);
    if samples <= size {
        return vec![];
    }
    let ranges = (0..samples).step_by(size).map(|first| [first, size.min(samples - first)]);
    of_ranges(inputs, targets, ranges, body)
}

/// Some shards of a batch that has at least their samples. If there are fewer samples than shards, some shards have a sample that
/// does not count.
pub(super) fn own_shards(batch: HostBatch<'_>, shards: Shards, body: &Body) -> Vec<Part> {
    let HostBatch { inputs, targets, part_of } = batch;
    let PartOf { first: from, samples } = part_of.unwrap_or(PartOf { first: 0, samples: samples_of(inputs) });
    let ranges = (0..shards.count()).map(|shard| shard_samples(shard, shards.count(), samples));
    let counted = |[first, size]: [usize; 2]| match (inputs, targets) {
        (HostInputs::Tokens { sequences, .. }, BatchTargets::Classes(labels)) => {
            let lanes = (first..first + size).flat_map(|n| (0..sequences.length).map(move |t| sequences.lane(n, t)));
            lanes.filter(|&lane| labels[lane] != CrossEntropy::IGNORED).count()
        }
        _ => size,
    };
    let all: usize = ranges.clone().map(counted).sum();
    let own = ranges.skip(shards.own().start).take(shards.own().len());
    let own = own.map(|[first, size]| {
        let share = counted([first, size]) as f32 / all.max(1) as f32;
        let (_, inputs, targets) = part(inputs, targets, [first - from, size.max(1)], body);
        Part { inputs, targets, share }
    });
    own.collect()
}

fn samples_of(inputs: HostInputs<'_>) -> usize {
    match inputs {
        HostInputs::Values { layout, .. } => layout.samples(),
        HostInputs::Tokens { sequences, .. } => sequences.count,
        HostInputs::Lists(lists) => lists.len(),
    }
}

fn of_ranges(
    inputs: HostInputs<'_>,
    targets: BatchTargets<'_>,
    ranges: impl Iterator<Item = [usize; 2]>,
    body: &Body,
) -> Vec<Part> {
    let parts: Vec<_> = ranges.map(|range| part(inputs, targets, range, body)).collect();
    let all: usize = parts.iter().map(|(counted, ..)| counted).sum();
    let share = |counted: usize| counted as f32 / all.max(1) as f32;
    parts.into_iter().map(|(counted, inputs, targets)| Part { inputs, targets, share: share(counted) }).collect()
}

/// How much counts of `count` samples from `first` on, and they.
fn part(
    inputs: HostInputs<'_>,
    targets: BatchTargets<'_>,
    [first, count]: [usize; 2],
    body: &Body,
) -> (usize, BatchInputs, Targets) {
    match (inputs, targets) {
        (HostInputs::Tokens { sequences, tokens }, BatchTargets::Classes(labels)) => {
            let part = Sequences::new(sequences.order, body.unit(), [count, sequences.length], sequences.continues);
            let (mut of_part, mut next) = (vec![0; part.lanes()], vec![CrossEntropy::IGNORED; part.lanes()]);
            for n in 0..count {
                for t in 0..part.length {
                    let (to, from) = (part.lane(n, t), sequences.lane(first + n, t));
                    (of_part[to], next[to]) = (tokens[from], labels[from]);
                }
            }
            let counted = next.iter().filter(|&&label| label != CrossEntropy::IGNORED).count();
            (counted, BatchInputs::Tokens { sequences: part, tokens: of_part }, Targets::Classes(next))
        }
        (HostInputs::Values { layout, values }, targets) => {
            let to = body.input_layout(count);
            let targets = some_targets(targets, layout.samples(), [first, count]);
            (count, BatchInputs::Values { layout: to, values: moved(layout, values, first, to) }, targets)
        }
        (HostInputs::Lists(lists), targets) => {
            let targets = some_targets(targets, lists.len(), [first, count]);
            (count, BatchInputs::Lists(lists.select(first..first + count)), targets)
        }
        (HostInputs::Tokens { .. }, _) => unreachable!("the targets of tokens are tokens"),
    }
}

/// Those of `count` of all samples from `first` on.
fn some_targets(targets: BatchTargets<'_>, samples: usize, [first, count]: [usize; 2]) -> Targets {
    match targets {
        BatchTargets::Classes(labels) => Targets::Classes(labels[first..][..count].to_vec()),
        BatchTargets::Numbers(values) => {
            let outputs = values.len() / samples;
            Targets::Numbers { outputs, values: values[first * outputs..][..count * outputs].to_vec() }
        }
        BatchTargets::Labels(labels) => Targets::Labels(labels.select(first..first + count)),
    }
}

/// The samples from `first` on, laid out as `to`.
fn moved(from: Layout, values: &[f32], first: usize, to: Layout) -> Vec<f32> {
    let mut moved = vec![0.0; to.len()];
    match (from, to) {
        (Layout::Strips(from), Layout::Strips(to)) => {
            for f in 0..to.features() {
                for n in 0..to.lanes() {
                    moved[to.index(f, n)] = values[from.index(f, first + n)];
                }
            }
        }
        (Layout::Images(from), Layout::Images(to)) => {
            let [height, width] = to.size();
            for c in 0..to.channels() {
                for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y, x))) {
                    for n in 0..to.samples() {
                        moved[to.index(n, c, [y, x])] = values[from.index(first + n, c, [y, x])];
                    }
                }
            }
        }
        _ => unreachable!("a network reads images or features"),
    }
    moved
}
