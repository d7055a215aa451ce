//! The numbers of a comparison: a row for each arm and density.

use std::fmt;

use serde::Serialize;

use super::results::{Group, Reference, Results};
use super::run_folder::model_name;
use super::{DoneValues, Measure, RankedOn, Ranking, Sample};
use crate::report::{Significant, Table, bytes_text};

/// A row: means over the seeds that have finished. What no run of the row has is `None`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// The arm's name.
    pub arm: String,
    /// The method asked for.
    pub method: String,
    /// The network.
    pub model: Option<String>,
    /// The density asked for.
    pub density: f64,
    /// Stored weights.
    pub nnz: Option<f64>,
    /// Stored weights of all positions of this network.
    pub nnz_density: Option<f64>,
    /// Runs that have finished.
    pub runs: usize,
    /// Runs that have not.
    pub unfinished: usize,
    /// Share of right answers on the validation samples at the end.
    pub val_accuracy_mean: Option<f64>,
    /// Its sample standard deviation over the seeds.
    pub val_accuracy_sd: Option<f64>,
    /// Share of right answers on the test set.
    pub test_accuracy_mean: Option<f64>,
    /// Its sample standard deviation over the seeds.
    pub test_accuracy_sd: Option<f64>,
    /// Loss on the test set.
    pub test_loss_mean: Option<f64>,
    /// Of texts, the loss on the validation text in bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_bits_per_character_mean: Option<f64>,
    /// Its sample standard deviation over the seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_bits_per_character_sd: Option<f64>,
    /// Of texts, the loss on the test text in bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_bits_per_character_mean: Option<f64>,
    /// Its sample standard deviation over the seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_bits_per_character_sd: Option<f64>,
    /// Bits on the samples of [`Summary::ranked_on`] less those of the dense network with the same seed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_minus_dense_mean: Option<f64>,
    /// Standard error of that mean.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits_minus_dense_se: Option<f64>,
    /// Accuracy on the samples of [`Summary::ranked_on`] less that of the dense network with the same seed.
    pub accuracy_minus_dense_mean: Option<f64>,
    /// Standard error of that mean.
    pub accuracy_minus_dense_se: Option<f64>,
    /// Operations of the whole training, relative to the reference network's.
    pub train_flops_ratio: Option<f64>,
    /// Operations of inference, relative to the reference network's.
    pub inference_flops_ratio: Option<f64>,
    /// Seconds of training.
    pub train_seconds_mean: Option<f64>,
    /// Their sample standard deviation over the seeds.
    pub train_seconds_sd: Option<f64>,
    /// Seconds relative to those of the dense runs.
    pub train_seconds_ratio: Option<f64>,
    /// Best time of a step, mean over the seeds.
    pub step_time_ns: Option<f64>,
    /// The same relative to the reference network's dense step.
    pub step_time_ratio: Option<f64>,
    /// The most memory that a run held.
    pub peak_rss_bytes: Option<u64>,
    /// Published numbers.
    pub published: Vec<PublishedRow>,
}

/// A published number in a row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PublishedRow {
    /// Share of right answers on the test set.
    pub accuracy: f64,
    /// Its standard deviation.
    pub deviation: Option<f64>,
    /// Where it is published.
    pub source: Option<String>,
    /// What else to know of it.
    pub note: Option<String>,
}

/// The record of a comparison.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    event: &'static str,
    /// The report's title.
    pub title: String,
    /// The dense network that operations are relative to.
    pub reference_model: Option<String>,
    /// Runs that have finished.
    pub finished: usize,
    /// All runs.
    pub runs: usize,
    /// The samples that rank the arms.
    pub ranked_on: RankedOn,
    /// What is measured on them.
    pub ranked_by: Measure,
    /// The rows, arm by arm.
    pub rows: Vec<Row>,
}

impl Summary {
    /// Of the runs that have finished by now.
    pub fn of(results: &Results) -> Self {
        let [finished, runs] = results.progress();
        let dense_step = dense_step_time(results);
        let ranked_on = RankedOn::of(results);
        let ranked_by = Measure::of(results);
        let rows = results.groups.iter().map(|group| row(results, group, dense_step, ranked_on)).collect();
        let reference_model = results.reference.as_ref().map(|reference| reference.model.clone());
        Self {
            event: "summary",
            title: results.title.clone(),
            reference_model,
            finished,
            runs,
            ranked_on,
            ranked_by,
            rows,
        }
    }

    /// What the arms are ranked by.
    pub fn ranking(&self) -> Ranking {
        Ranking { on: self.ranked_on, by: self.ranked_by }
    }
}

fn row(results: &Results, group: &Group, dense_step: Option<f64>, ranked_on: RankedOn) -> Row {
    let runs: Vec<_> = group.finished().collect();
    let done: Vec<&DoneValues> = runs.iter().filter_map(|(_, folder)| folder.done.as_ref()).collect();
    let all = |value: fn(&DoneValues) -> f64| Sample::of(done.iter().map(|done| value(done)));
    let some = |value: &dyn Fn(&DoneValues) -> Option<f64>| Sample::of(done.iter().filter_map(|done| value(done)));
    let accuracy = all(|done| done.test_accuracy);
    let of_runs = |by: Measure, on: RankedOn| Sample::of(runs.iter().filter_map(|(_, folder)| by.at_end(on, folder)));
    let validation = of_runs(Measure::Accuracy, RankedOn::Validation);
    let bits = [RankedOn::Validation, RankedOn::Test].map(|on| of_runs(Measure::BitsPerCharacter, on));
    let seconds = all(|done| done.train_seconds);
    let dense = results.dense().filter(|_| !group.is_dense());
    // Seed by seed, so that what a seed does to both does not count.
    let paired = |by: Measure| {
        Sample::of(runs.iter().filter_map(|(run, folder)| {
            let (_, other) = dense?.finished().find(|(other, _)| other.seed == run.seed)?;
            Some(by.at_end(ranked_on, folder)? - by.at_end(ranked_on, other)?)
        }))
    };
    let (bits_paired, paired) = (paired(Measure::BitsPerCharacter), paired(Measure::Accuracy));
    let reference = results.reference.as_ref();
    let train_flops_ratio = some(&|done| {
        let absolute = reference.and_then(|reference| Some(done.total_train_flops()? / reference.train_flops));
        Some(absolute.unwrap_or(done.train_flops_ratio))
    });
    let inference_flops_ratio = some(&|done| {
        let absolute = reference.and_then(|reference| Some(done.inference_flops? / reference.inference_flops));
        Some(absolute.unwrap_or(done.inference_flops_ratio))
    });
    let step = some(&|done| done.step_time_ns.map(|ns| ns as f64));
    // A run takes its steps alternating with the dense network's: what slowed down both does not count.
    let step_ratio = some(&|done| {
        let beside = done.dense_step_time_ns.filter(|_| is_of(reference, done)).map(|ns| ns as f64);
        Some(done.step_time_ns? as f64 / beside.or(dense_step)?)
    });
    let dense_seconds = results.dense().and_then(|dense| {
        Sample::of(dense.finished().filter_map(|(_, folder)| folder.done.as_ref()).map(|done| done.train_seconds))
    });
    let mean = |sample: Option<Sample>| sample.map(|sample| sample.mean);
    Row {
        arm: results.arms[group.arm].clone(),
        method: group.method.clone(),
        model: runs.first().map(|(_, folder)| model_name(&folder.config)),
        density: group.density,
        nnz: mean(all(|done| done.nnz as f64)),
        nnz_density: mean(all(|done| done.density)),
        runs: done.len(),
        unfinished: group.runs.len() - done.len(),
        val_accuracy_mean: mean(validation),
        val_accuracy_sd: validation.and_then(|sample| sample.deviation),
        test_accuracy_mean: mean(accuracy),
        test_accuracy_sd: accuracy.and_then(|sample| sample.deviation),
        test_loss_mean: mean(all(|done| done.test_loss)),
        val_bits_per_character_mean: mean(bits[0]),
        val_bits_per_character_sd: bits[0].and_then(|sample| sample.deviation),
        test_bits_per_character_mean: mean(bits[1]),
        test_bits_per_character_sd: bits[1].and_then(|sample| sample.deviation),
        bits_minus_dense_mean: mean(bits_paired),
        bits_minus_dense_se: bits_paired.and_then(|sample| sample.standard_error()),
        accuracy_minus_dense_mean: mean(paired),
        accuracy_minus_dense_se: paired.and_then(|sample| sample.standard_error()),
        train_flops_ratio: mean(train_flops_ratio),
        inference_flops_ratio: mean(inference_flops_ratio),
        train_seconds_mean: mean(seconds),
        train_seconds_sd: seconds.and_then(|sample| sample.deviation),
        train_seconds_ratio: seconds.zip(dense_seconds).map(|(ours, dense)| ours.mean / dense.mean),
        step_time_ns: mean(step),
        step_time_ratio: mean(step_ratio),
        peak_rss_bytes: done.iter().filter_map(|done| done.peak_rss_bytes).max(),
        published: group.published.iter().map(published).collect(),
    }
}

fn published(published: &super::Published) -> PublishedRow {
    let super::Published { accuracy, deviation, source, note, .. } = published.clone();
    PublishedRow { accuracy, deviation, source, note }
}

/// Whether a run is of the reference network.
fn is_of(reference: Option<&Reference>, done: &DoneValues) -> bool {
    let flops = reference.zip(done.dense_flops());
    flops.is_some_and(|(reference, flops)| (flops / reference.inference_flops - 1.0).abs() < 1e-9)
}

/// Mean nanoseconds of a dense step of the reference network: every run of it, and the dense side of every sparse run's.
fn dense_step_time(results: &Results) -> Option<f64> {
    let of_reference = |done: &&DoneValues| is_of(results.reference.as_ref(), done);
    let done = results.folders().filter_map(|folder| folder.done.as_ref()).filter(of_reference);
    Sample::of(done.filter_map(|done| done.dense_step_time_ns).map(|ns| ns as f64)).map(|sample| sample.mean)
}

/// A share as percent with two decimals.
pub(super) fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

/// Mean and deviation of shares, in percent.
pub(super) fn percent_and_deviation(mean: f64, deviation: Option<f64>) -> String {
    match deviation {
        Some(deviation) => format!("{} ± {}", percent(mean), percent(deviation)),
        None => percent(mean),
    }
}

/// Seconds in the unit that suits the largest of a column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct TimeUnit {
    pub name: &'static str,
    pub seconds: f64,
}

impl TimeUnit {
    /// The one for numbers of which this is the largest.
    pub fn of(largest: f64) -> Self {
        match largest {
            _ if largest < 600.0 => Self { name: "s", seconds: 1.0 },
            _ if largest < 36_000.0 => Self { name: "min", seconds: 60.0 },
            _ => Self { name: "h", seconds: 3600.0 },
        }
    }
}

impl Row {
    /// Mean of what is measured on these samples, and its sample standard deviation over the seeds.
    pub fn result(&self, by: Measure, on: RankedOn) -> (Option<f64>, Option<f64>) {
        match (by, on) {
            (Measure::Accuracy, RankedOn::Validation) => (self.val_accuracy_mean, self.val_accuracy_sd),
            (Measure::Accuracy, RankedOn::Test) => (self.test_accuracy_mean, self.test_accuracy_sd),
            (Measure::BitsPerCharacter, RankedOn::Validation) => {
                (self.val_bits_per_character_mean, self.val_bits_per_character_sd)
            }
            (Measure::BitsPerCharacter, RankedOn::Test) => {
                (self.test_bits_per_character_mean, self.test_bits_per_character_sd)
            }
        }
    }

    /// The same on the samples that rank the arms, less that of the dense network.
    pub fn minus_dense(&self, by: Measure) -> Option<f64> {
        match by {
            Measure::Accuracy => self.accuracy_minus_dense_mean,
            Measure::BitsPerCharacter => self.bits_minus_dense_mean,
        }
    }

    /// Published numbers in percent, for people.
    pub(super) fn published_text(&self) -> String {
        let texts = self.published.iter().map(|p| percent_and_deviation(p.accuracy, p.deviation));
        texts.collect::<Vec<_>>().join(" / ")
    }
}

/// For a terminal of 80 columns: a table of results, one of costs, and what ranks the arms.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value: Option<f64>, show: &dyn Fn(f64) -> String| value.map_or("–".to_owned(), show);
        let ratio = |value: f64| format!("{}×", Significant(value));
        let by = self.ranked_by;
        let headings = match by {
            Measure::Accuracy => ["arm", "density", "validation %", "test %", "vs dense", "runs", "published %"],
            Measure::BitsPerCharacter => {
                ["arm", "density", "validation bits", "test bits", "vs dense", "runs", "published %"]
            }
        };
        let mut accuracies = Table::new(headings).without_empty_columns();
        let headings = ["arm", "density", "train ops", "infer ops", "seconds", "of dense", "ms/step", "memory"];
        let mut costs = Table::new(headings).without_empty_columns();
        for row in &self.rows {
            let result = |on: RankedOn| {
                let (mean, deviation) = row.result(by, on);
                text(mean, &|mean| by.text_and_deviation(mean, deviation))
            };
            let of_all = row.runs + row.unfinished;
            accuracies.row([
                row.arm.clone(),
                row.density.to_string(),
                result(RankedOn::Validation),
                result(RankedOn::Test),
                text(row.minus_dense(by), &|mean| by.difference(mean).replace('−', "-")),
                if row.unfinished == 0 { row.runs.to_string() } else { format!("{} of {of_all}", row.runs) },
                if row.published.is_empty() { "–".to_owned() } else { row.published_text() },
            ]);
            costs.row([
                row.arm.clone(),
                row.density.to_string(),
                text(row.train_flops_ratio, &ratio),
                text(row.inference_flops_ratio, &ratio),
                text(row.train_seconds_mean, &|mean| Significant(mean).to_string()),
                text(row.train_seconds_ratio, &ratio),
                text(row.step_time_ns, &|ns| Significant(ns / 1e6).to_string()),
                row.peak_rss_bytes.map_or("–".to_owned(), bytes_text),
            ]);
        }
        writeln!(f, "{accuracies}\n{costs}\n{}", self.ranking().sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Made;
    use super::super::{Definition, Results};
    use super::*;
    use crate::settings::TrainConfig;

    /// Dense and rigl with two seeds, a small dense network with one, and an arm that trains for twice the time.
    #[test]
    fn rows_are_means_over_seeds_relative_to_the_dense_network() {
        let out = tempfile::tempdir().unwrap();
        let text = "[compare]\nseeds = 2\n[[arm]]\nname = 'dense'\nmethod = 'dense'\n[[arm]]\nname = 'rigl'\nmethod = 'rigl'\n\
            [[arm]]\nname = 'small'\nmethod = 'small-dense'\n[[arm]]\nname = 'long'\nmethod = 'rigl'\nepochs = 40\n\
            [[published]]\narm = 'rigl'\ndensity = 0.1\naccuracy = 0.87\ndeviation = 0.01";
        let run = |name: &str| out.path().join("runs").join(name);
        std::fs::create_dir(out.path().join("runs")).unwrap();
        for (seed, dense, rigl) in [(0, 0.9, 0.88), (1, 0.92, 0.91)] {
            Made::new("dense", 1.0, seed, dense).write(&run(&format!("dense-d1-s{seed}")));
            Made::new("rigl", 0.1, seed, rigl).write(&run(&format!("rigl-d0.1-s{seed}")));
            let long = Made { epochs: 40, ..Made::new("rigl", 0.1, seed, 0.9) };
            Made { config: TrainConfig { epochs: Some(40), ..long.config.clone() }, ..long }
                .write(&run(&format!("long-d0.1-s{seed}")));
        }
        let small = Made::new("dense", 1.0, 0, 0.8);
        let folder = run("small-d0.1-s0");
        small.write(&folder);
        // A network of a tenth of the operations, dense.
        let metrics = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
        let metrics = metrics.replace("\"inference_flops\":532400.0", "\"inference_flops\":53240.0");
        std::fs::write(
            folder.join("metrics.jsonl"),
            metrics.replace("\"train_flops\":1645116.0", "\"train_flops\":159720.0"),
        )
        .unwrap();

        let results = Results::of_comparison(&Definition::read_text(text), out.path()).unwrap();
        let summary = Summary::of(&results);
        let [dense, rigl, small, long] = &summary.rows[..] else { panic!("{summary:?}") };
        let near = |value: Option<f64>, expected: f64| {
            let value = value.unwrap();
            assert!((value - expected).abs() < 1e-9 * expected.abs().max(1.0), "{value} is not {expected}");
        };
        near(dense.test_accuracy_mean, 0.91);
        near(dense.test_accuracy_sd, 0.0002f64.sqrt());
        near(rigl.accuracy_minus_dense_mean, -0.015);
        near(rigl.accuracy_minus_dense_se, 0.005);
        near(rigl.train_flops_ratio, 0.103);
        near(rigl.inference_flops_ratio, 0.1);
        near(rigl.train_seconds_ratio, 0.1);
        near(rigl.step_time_ratio, 60.0 / 420.0);
        // Twice as long is twice the operations.
        near(long.train_flops_ratio, 0.206);
        near(small.train_flops_ratio, 0.1);
        near(small.inference_flops_ratio, 0.1);
        assert_eq!((small.test_accuracy_sd, small.accuracy_minus_dense_se), (None, None));
        assert_eq!((small.runs, small.unfinished, dense.accuracy_minus_dense_mean), (1, 1, None));
        assert_eq!(summary.reference_model.as_deref(), Some("lenet-300-100"));
        let text = summary.to_string();
        for part in ["91.00 ± 1.41", "89.50 ± 2.12", "-1.50", "0.103×", "1 of 2", "87.00 ± 1.00", "47.7 MiB"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn units_suit_the_largest_number() {
        assert_eq!([5.0, 599.0, 700.0, 40_000.0].map(|largest| TimeUnit::of(largest).name), ["s", "s", "min", "h"]);
        assert_eq!(percent_and_deviation(0.8765, Some(0.00123)), "87.65 ± 0.12");
        assert_eq!(percent_and_deviation(0.8765, None), "87.65");
    }
}
