//! What an evaluation finds: the loss, and how good the outputs are by the measures of each task.
//!
//! | loss | measures |
//! | --- | --- |
//! | cross-entropy | `accuracy`; `top5_accuracy` of more than five classes |
//! | cross-entropy of a text | `accuracy`; `bits_per_character`, the mean loss by ln 2. A byte counts as a character |
//! | mse, huber | `rmse`, in the units of the targets, over all outputs; `r2`, the mean over the outputs of `1 − Σ(y − t)² / Σ(t − mean t)²` |
//! | bce | `f1` over all labels of all samples (micro), `macro_f1`, the mean of the labels' F1 that occur; `precision_at_K` for K = 1, 3, 5, the share of a sample's K most likely labels that it has |
//! | bce of labels that are lists | `precision_at_K`, and `propensity_scored_precision_at_K`, by [`Propensities`]: what the labels found among the first K count, of what the best K would count, both summed over the samples |
//!
//! A label counts as predicted where its probability is at least a half. Sums are taken in f64, in the samples' order.

use autograd::{LossStats, TopLabels};
use serde::{Deserialize, Serialize};

use crate::data::{Lists, Targets};
use crate::task::{LossKind, TargetScale, bits, loss_text};

/// Loss and accuracy over a number of samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// Sum over the samples.
    loss: f64,
    correct: u64,
    samples: u64,
}

impl Mean {
    /// Adds a batch.
    pub fn add(&mut self, stats: &LossStats) {
        self.loss += f64::from(stats.sum);
        self.correct += stats.correct as u64;
        self.samples += stats.lanes as u64;
    }

    /// Adds the samples of another.
    pub fn merge(&mut self, other: Self) {
        self.loss += other.loss;
        self.correct += other.correct;
        self.samples += other.samples;
    }

    /// Mean loss.
    pub fn loss(&self) -> f64 {
        self.loss / self.samples.max(1) as f64
    }

    /// Share of right answers.
    pub fn accuracy(&self) -> f64 {
        self.correct as f64 / self.samples.max(1) as f64
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.samples
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Measured<'a> {
    /// The loss.
    pub loss: LossKind,
    /// Outputs of the network.
    pub outputs: usize,
    /// How numbers are scaled, if they are.
    pub scale: Option<&'a TargetScale>,
    /// Whether the samples are the symbols of a text.
    pub is_text: bool,
    /// Of labels that are lists, how much each counts.
    pub propensities: Option<&'a Propensities>,
}

impl Measured<'_> {
    /// Whether a measure needs more of a batch than its loss.
    pub fn needs_outputs(&self) -> bool {
        !self.is_text
    }
}

/// The name of the measure of texts in records.
pub const BITS: &str = "bits_per_character";

/// The results of an evaluation.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// Loss and right answers.
    pub mean: Mean,
    scores: Scores,
}

#[derive(Debug, Clone, PartialEq)]
enum Scores {
    Classes { outputs: usize, top: u64 },
    Symbols,
    Numbers { deviations: Vec<f64>, of_outputs: Vec<Squares> },
    Labels { counts: Vec<Counts>, hits: [u64; PRECISIONS.len()] },
    Lists { hits: [u64; PRECISIONS.len()], gains: [f64; PRECISIONS.len()], best: [f64; PRECISIONS.len()] },
}

/// Sums over the samples, of one output.
#[derive(Debug, Clone, Default, PartialEq)]
struct Squares {
    error: f64,
    /// Of the targets, about the first one: sums of nearly equal numbers then lose nothing.
    first: Option<f64>,
    sum: f64,
    squares: f64,
}

/// Of one label: predicted and there, only predicted, only there.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counts {
    both: u64,
    predicted: u64,
    there: u64,
}

/// The K of the precisions.
const PRECISIONS: [usize; 3] = [1, 3, 5];
/// The likeliest labels or classes of a sample that measures need.
pub const TOP: usize = 5;

/// How much a label counts in propensity-scored measures (Jain, Prabhu and Varma, KDD 2016): `1 + C · (N + B)^−A` for a label of N training
/// samples, with A = 0.55, B = 1.5 and `C = (ln samples − 1) · (B + 1)^A`. Rare labels count more.
#[derive(Debug, Clone, PartialEq)]
pub struct Propensities(Vec<f32>);

impl Propensities {
    /// By the labels of the training set; none if they are no lists.
    pub fn of(training: &Targets) -> Option<Self> {
        const A: f64 = 0.55;
        const B: f64 = 1.5;
        let Targets::Labels(labels) = training else { return None };
        let mut counts = vec![0u32; labels.columns()];
        (0..labels.len()).for_each(|row| labels.row(row).iter().for_each(|&label| counts[label as usize] += 1));
        let c = ((labels.len() as f64).ln() - 1.0).max(0.0) * (B + 1.0f64).powf(A);
        Some(Self(counts.iter().map(|&count| (1.0 + c * (f64::from(count) + B).powf(-A)) as f32).collect()))
    }

    /// Where the training set is not known: propensity-scored measures are left out.
    pub fn unknown() -> Self {
        Self(vec![])
    }

    fn of_label(&self, label: u32) -> f64 {
        self.0.get(label as usize).map_or(0.0, |&weight| f64::from(weight))
    }
}

impl Evaluation {
    /// Of no sample.
    pub fn new(measured: Measured<'_>) -> Self {
        let Measured { loss, outputs, scale, is_text, .. } = measured;
        let scores = match loss {
            LossKind::CrossEntropy if is_text => Scores::Symbols,
            LossKind::CrossEntropy => Scores::Classes { outputs, top: 0 },
            LossKind::Mse | LossKind::Huber => {
                let deviations = scale.map_or(vec![1.0; outputs], |scale| scale.deviation.clone());
                Scores::Numbers { deviations, of_outputs: vec![Squares::default(); outputs] }
            }
            LossKind::Bce if measured.propensities.is_some() => {
                let none = [0.0; PRECISIONS.len()];
                Scores::Lists { hits: [0; PRECISIONS.len()], gains: none, best: none }
            }
            LossKind::Bce => Scores::Labels { counts: vec![Counts::default(); outputs], hits: [0; PRECISIONS.len()] },
        };
        Self { mean: Mean::default(), scores }
    }

    /// Adds a batch with its outputs, one sample after the other; none are needed of a text.
    pub fn add(&mut self, stats: &LossStats, targets: &Targets, outputs: &[f32]) {
        self.mean.add(stats);
        match (&mut self.scores, targets) {
            (Scores::Symbols, _) => {}
            (Scores::Classes { outputs: count, top }, Targets::Classes(labels)) => {
                // Of fewer classes each is among the first five.
                let ranked = if *count > TOP { labels } else { &[][..] };
                for (sample, &label) in outputs.chunks_exact(*count).zip(ranked) {
                    *top += u64::from(rank(sample, label as usize).is_some_and(|rank| rank < TOP));
                }
            }
            (Scores::Numbers { of_outputs, .. }, Targets::Numbers { values, .. }) => {
                let count = of_outputs.len();
                for (i, (&y, &t)) in outputs.iter().zip(values).enumerate() {
                    let sums = &mut of_outputs[i % count];
                    let (y, t) = (f64::from(y), f64::from(t));
                    let t = t - *sums.first.get_or_insert(t);
                    let y = y - sums.first.unwrap_or(0.0);
                    sums.error += (y - t).powi(2);
                    sums.sum += t;
                    sums.squares += t * t;
                }
            }
            (Scores::Labels { counts, hits }, Targets::Numbers { values, .. }) => {
                let count = counts.len();
                for (sample, there) in outputs.chunks_exact(count).zip(values.chunks_exact(count)) {
                    add_labels(counts, hits, sample, there);
                }
            }
            _ => unreachable!("the batch's loss was measured, so its targets are of the loss's kind"),
        }
    }

    /// Adds a batch of labels that are lists, with the likeliest labels of each sample.
    pub fn add_top(&mut self, stats: &LossStats, labels: &Lists, top: &TopLabels, propensities: &Propensities) {
        self.mean.add(stats);
        let Scores::Lists { hits, gains, best } = &mut self.scores else {
            unreachable!("labels that are lists are measured so")
        };
        let mut had_by_gain = Vec::new();
        for (sample, top) in top.samples().iter().enumerate() {
            let had = labels.row(sample);
            had_by_gain.clear();
            had_by_gain.extend(had.iter().map(|&label| propensities.of_label(label)));
            had_by_gain.sort_unstable_by(|a, b| b.total_cmp(a));
            for (i, &k) in PRECISIONS.iter().enumerate() {
                for found in top.iter().take(k).filter(|found| had.binary_search(&found.label).is_ok()) {
                    hits[i] += 1;
                    gains[i] += propensities.of_label(found.label);
                }
                best[i] += had_by_gain.iter().take(k).sum::<f64>();
            }
        }
    }

    /// All sums, to send elsewhere; as many for any samples.
    pub(crate) fn numbers(&self) -> Vec<f64> {
        let Mean { loss, correct, samples } = self.mean;
        let mut numbers = vec![loss, correct as f64, samples as f64];
        match &self.scores {
            Scores::Symbols => {}
            Scores::Classes { top, .. } => numbers.push(*top as f64),
            Scores::Numbers { of_outputs, .. } => {
                let of_output = |sums: &Squares| [sums.error, sums.first.unwrap_or(f64::NAN), sums.sum, sums.squares];
                numbers.extend(of_outputs.iter().flat_map(of_output));
            }
            Scores::Labels { counts, hits } => {
                let of_label = |counts: &Counts| [counts.both, counts.predicted, counts.there];
                numbers.extend(counts.iter().flat_map(of_label).chain(*hits).map(|count| count as f64));
            }
            Scores::Lists { hits, gains, best } => {
                numbers.extend(hits.iter().map(|&count| count as f64).chain(*gains).chain(*best));
            }
        }
        numbers
    }

    /// Adds the samples of another evaluation of the same measures, by its [`Evaluation::numbers`].
    pub(crate) fn merge(&mut self, numbers: &[f64]) {
        let [loss, correct, samples, rest @ ..] = numbers else { unreachable!("every evaluation has a mean") };
        self.mean.merge(Mean { loss: *loss, correct: *correct as u64, samples: *samples as u64 });
        match &mut self.scores {
            Scores::Symbols => {}
            Scores::Classes { top, .. } => *top += rest[0] as u64,
            Scores::Numbers { of_outputs, .. } => {
                for (sums, other) in of_outputs.iter_mut().zip(rest.chunks_exact(4)) {
                    let &[error, first, sum, squares] = other else { unreachable!("chunks of four") };
                    if first.is_nan() {
                        continue;
                    }
                    // Its sums are about another number.
                    let apart = first - *sums.first.get_or_insert(first);
                    sums.error += error;
                    sums.squares += squares + apart * (2.0 * sum + samples * apart);
                    sums.sum += sum + samples * apart;
                }
            }
            Scores::Labels { counts, hits } => {
                let (of_labels, of_hits) = rest.split_at(3 * counts.len());
                for (counts, other) in counts.iter_mut().zip(of_labels.chunks_exact(3)) {
                    counts.both += other[0] as u64;
                    counts.predicted += other[1] as u64;
                    counts.there += other[2] as u64;
                }
                hits.iter_mut().zip(of_hits).for_each(|(hits, &other)| *hits += other as u64);
            }
            Scores::Lists { hits, gains, best } => {
                let (of_hits, sums) = rest.split_at(hits.len());
                hits.iter_mut().zip(of_hits).for_each(|(hits, &other)| *hits += other as u64);
                gains.iter_mut().chain(best).zip(sums).for_each(|(sum, other)| *sum += other);
            }
        }
    }

    /// Mean loss.
    pub fn loss(&self) -> f64 {
        self.mean.loss()
    }

    /// Number of samples.
    pub fn samples(&self) -> u64 {
        self.mean.samples()
    }

    /// Whether the samples were the symbols of a text.
    pub fn is_text(&self) -> bool {
        self.scores == Scores::Symbols
    }

    /// Share of right answers, where there are classes.
    pub fn accuracy(&self) -> Option<f64> {
        matches!(self.scores, Scores::Classes { .. } | Scores::Symbols).then(|| self.mean.accuracy())
    }

    /// The measures of the task by name, accuracy excepted.
    pub fn others(&self) -> Vec<(String, f64)> {
        let samples = self.mean.samples().max(1) as f64;
        match &self.scores {
            Scores::Symbols => vec![(BITS.to_owned(), bits(self.loss()))],
            Scores::Classes { outputs, .. } if *outputs <= TOP => vec![],
            Scores::Classes { top, .. } => vec![("top5_accuracy".to_owned(), *top as f64 / samples)],
            Scores::Numbers { deviations, of_outputs } => {
                let squares = of_outputs.iter().zip(deviations).map(|(sums, deviation)| sums.error * deviation.powi(2));
                let rmse = (squares.sum::<f64>() / (samples * of_outputs.len() as f64)).sqrt();
                let r2 = |sums: &Squares| {
                    let variation = sums.squares - sums.sum * sums.sum / samples;
                    match variation > 0.0 {
                        true => 1.0 - sums.error / variation,
                        // As scikit-learn has it, of targets that do not vary.
                        false => f64::from(u8::from(sums.error == 0.0)),
                    }
                };
                let r2 = of_outputs.iter().map(r2).sum::<f64>() / of_outputs.len() as f64;
                vec![("rmse".to_owned(), rmse), ("r2".to_owned(), r2)]
            }
            Scores::Labels { counts, hits } => {
                let total = counts.iter().fold(Counts::default(), |mut total, of_label| {
                    total.both += of_label.both;
                    total.predicted += of_label.predicted;
                    total.there += of_label.there;
                    total
                });
                let occurring: Vec<f64> = counts.iter().filter_map(|counts| counts.f1()).collect();
                let macro_f1 = occurring.iter().sum::<f64>() / occurring.len().max(1) as f64;
                let mut measures =
                    vec![("f1".to_owned(), total.f1().unwrap_or(0.0)), ("macro_f1".to_owned(), macro_f1)];
                for (&k, &hits) in PRECISIONS.iter().zip(hits).filter(|(k, _)| **k <= counts.len()) {
                    measures.push((format!("precision_at_{k}"), hits as f64 / (samples * k as f64)));
                }
                measures
            }
            Scores::Lists { hits, gains, best } => {
                let precision =
                    |(&k, &hits): (&usize, &u64)| (format!("precision_at_{k}"), hits as f64 / (samples * k as f64));
                let scored = |((&k, gain), best): ((&usize, &f64), &f64)| {
                    (format!("propensity_scored_precision_at_{k}"), gain / best.max(f64::MIN_POSITIVE))
                };
                let is_known = best.iter().any(|&best| best > 0.0);
                let scored = PRECISIONS.iter().zip(gains).zip(best).map(scored).filter(|_| is_known);
                PRECISIONS.iter().zip(hits).map(precision).chain(scored).collect()
            }
        }
    }

    /// Loss and measures for people: `loss 0.3417 accuracy 87.65%`, others two spaces apart.
    pub fn text(&self) -> String {
        let is_text = self.is_text();
        let mut text = loss_text(self.loss(), is_text);
        if let Some(accuracy) = self.accuracy() {
            text += &format!(" accuracy {:.2}%", 100.0 * accuracy);
        }
        for (name, value) in self.others().into_iter().filter(|_| !is_text) {
            let name = name.replace('_', " ");
            match name.ends_with("accuracy") || name.contains("precision") {
                true => text += &format!("  {name} {:.2}%", 100.0 * value),
                false => text += &format!("  {name} {}", crate::report::Significant(value)),
            }
        }
        text
    }
}

impl Counts {
    /// The harmonic mean of precision and recall; none of a label that neither occurs nor is predicted.
    fn f1(self) -> Option<f64> {
        let all = 2 * self.both + self.predicted + self.there;
        (all > 0).then(|| 2.0 * self.both as f64 / all as f64)
    }
}

/// How many outputs stand before that of a class; ties go to the lower class. None if the class is no output, or that one NaN.
fn rank(outputs: &[f32], class: usize) -> Option<usize> {
    let own = *outputs.get(class).filter(|own| !own.is_nan())?;
    Some(outputs.iter().enumerate().filter(|&(i, &other)| other > own || (other == own && i < class)).count())
}

fn add_labels(counts: &mut [Counts], hits: &mut [u64; PRECISIONS.len()], outputs: &[f32], there: &[f32]) {
    for ((counts, &y), &t) in counts.iter_mut().zip(outputs).zip(there) {
        match (y >= 0.0, t >= 0.5) {
            (true, true) => counts.both += 1,
            (true, false) => counts.predicted += 1,
            (false, true) => counts.there += 1,
            (false, false) => {}
        }
    }
    let mut order: Vec<usize> = (0..outputs.len()).collect();
    order.sort_by(|&a, &b| outputs[b].total_cmp(&outputs[a]));
    for (hits, &k) in hits.iter_mut().zip(&PRECISIONS) {
        *hits += order.iter().take(k).filter(|&&label| there[label] >= 0.5).count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation(loss: LossKind, outputs: usize, scale: Option<&TargetScale>) -> Evaluation {
        Evaluation::new(Measured { loss, outputs, scale, is_text: false, propensities: None })
    }

    fn stats(lanes: usize) -> LossStats {
        LossStats { sum: lanes as f32 / 2.0, correct: 0, lanes }
    }

    fn value(evaluation: &Evaluation, name: &str) -> f64 {
        let found = evaluation.others().into_iter().find(|(other, _)| other == name);
        found.unwrap_or_else(|| panic!("no {name}")).1
    }

    #[test]
    fn classes_among_the_first_five_count() {
        let mut six = evaluation(LossKind::CrossEntropy, 6, None);
        let outputs = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        six.add(&stats(2), &Targets::Classes(vec![4, 5]), &outputs);
        assert_eq!(value(&six, "top5_accuracy"), 0.5);
        six.add(&stats(1), &Targets::Classes(vec![9]), &outputs[..6]);
        assert_eq!((value(&six, "top5_accuracy"), six.accuracy(), six.loss()), (1.0 / 3.0, Some(0.0), 0.5));
        assert!(evaluation(LossKind::CrossEntropy, 5, None).others().is_empty());
    }

    #[test]
    fn a_text_is_measured_in_bits() {
        let measured =
            Measured { loss: LossKind::CrossEntropy, outputs: 256, scale: None, is_text: true, propensities: None };
        let mut evaluation = Evaluation::new(measured);
        evaluation.add(&LossStats { sum: 3.0, correct: 1, lanes: 2 }, &Targets::Classes(vec![7, u32::MAX, 8]), &[]);
        evaluation.add(&LossStats { sum: 1.0, correct: 1, lanes: 2 }, &Targets::Classes(vec![7, 8]), &[]);
        assert_eq!((evaluation.loss(), evaluation.samples(), evaluation.accuracy()), (1.0, 4, Some(0.5)));
        assert_eq!(evaluation.others(), [(BITS.to_owned(), std::f64::consts::LOG2_E)]);
        assert_eq!(evaluation.text(), "loss 1.0000 (1.443 bits/character) accuracy 50.00%");
    }

    /// Figures of scikit-learn 1.5: `mean_squared_error(...) ** 0.5`, `r2_score(...)`.
    #[test]
    fn errors_are_in_the_units_of_the_targets() {
        let scale = TargetScale { mean: vec![100.0, 0.0], deviation: vec![10.0, 1.0] };
        let mut two = evaluation(LossKind::Mse, 2, Some(&scale));
        // Targets 90, 100, 120 and 1, 1, 1; predictions 95, 100, 115 and 1, 1, 2.
        let targets = Targets::Numbers { outputs: 2, values: vec![-1.0, 1.0, 0.0, 1.0, 2.0, 1.0] };
        two.add(&stats(3), &targets, &[-0.5, 1.0, 0.0, 1.0, 1.5, 2.0]);
        assert!((value(&two, "rmse") - (51.0f64 / 6.0).sqrt()).abs() < 1e-12);
        // 1 − 50 / 466.67, and 0 for the targets that do not vary.
        assert!((value(&two, "r2") - (1.0 - 50.0 / (1400.0 / 3.0)) / 2.0).abs() < 1e-12);
        assert_eq!((two.accuracy(), scale.unscaled(0, -1.0)), (None, 90.0));
        assert_eq!(two.text(), "loss 0.5000  rmse 2.92  r2 0.446");
    }

    /// Whatever the measures, batches by themselves add up to all samples.
    #[test]
    fn evaluations_add_up() {
        for (loss, outputs) in [(LossKind::CrossEntropy, 6), (LossKind::Mse, 2), (LossKind::Bce, 3)] {
            let value = |i: usize| ((i * 37 + 11) % 19) as f32 / 4.0 - 2.0;
            let (mut whole, mut sum) = (evaluation(loss, outputs, None), evaluation(loss, outputs, None));
            for (batch, samples) in [3, 1, 4].into_iter().enumerate() {
                let values: Vec<f32> = (0..samples * outputs).map(|i| value(i + 50 * batch)).collect();
                let targets = match loss {
                    LossKind::CrossEntropy => Targets::Classes((0..samples as u32).collect()),
                    LossKind::Bce => Targets::Numbers {
                        outputs,
                        values: values.iter().map(|&v| f32::from(u8::from(v.abs() > 1.0))).collect(),
                    },
                    _ => {
                        Targets::Numbers { outputs, values: (0..values.len()).map(|i| value(i * i + batch)).collect() }
                    }
                };
                let mut part = evaluation(loss, outputs, None);
                whole.add(&stats(samples), &targets, &values);
                part.add(&stats(samples), &targets, &values);
                sum.merge(&part.numbers());
            }
            assert_eq!((sum.mean, sum.others().len()), (whole.mean, whole.others().len()));
            for ((name, got), (_, expected)) in sum.others().into_iter().zip(whole.others()) {
                assert!((got - expected).abs() < 1e-12, "{name}: {got}, expected {expected}");
            }
        }
    }

    #[test]
    fn labels_are_counted_over_all_and_each() {
        let mut three = evaluation(LossKind::Bce, 3, None);
        let targets = Targets::Numbers { outputs: 3, values: vec![1.0, 0.0, 0.0, 1.0, 1.0, 0.0] };
        three.add(&stats(2), &targets, &[2.0, 1.0, -1.0, -0.5, 3.0, -2.0]);
        // Label 0: one found, one missed; label 1: one found, one too many; label 2 never.
        assert_eq!(value(&three, "f1"), 2.0 * 2.0 / (2.0 * 2.0 + 1.0 + 1.0));
        assert!((value(&three, "macro_f1") - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!((value(&three, "precision_at_1"), value(&three, "precision_at_3")), (1.0, 0.5));
        assert!(three.others().iter().all(|(name, _)| name != "precision_at_5"));
    }
}
