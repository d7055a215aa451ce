//! The figures of a report.

use super::chart::{Anchor, Canvas, LETTERS, Plot, SHAPES, draw, fit, stand_alone, text_width};
use super::palette::Ink;
use super::scale::Scale;
use super::summary::{PublishedRow, Row, Summary, TimeUnit, percent};
use super::{ComparisonError, Group, Results, RunFolder, Sample};
use crate::report::Significant;

/// Size of most figures.
const SIZE: [f64; 2] = [500.0, 322.0];
/// Where their axes are.
const AXES: [[f64; 2]; 2] = [[60.0, 12.0], [488.0, 274.0]];
/// Size of a figure that is a file of its own.
const FILE_SIZE: [f64; 2] = [720.0, 480.0];
/// Points of a curve; more cannot be told apart at this size.
const POINTS: usize = 120;

/// A figure and what it says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    /// A few words above it.
    pub title: String,
    /// The SVG element.
    pub svg: String,
    /// What one sees, and in what unit.
    pub caption: String,
}

/// What accuracy is set against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// Operations of the training.
    Flops,
    /// Seconds of the training.
    Seconds,
}

/// What a curve shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    /// Loss on the training batches.
    Loss,
    /// Share of right answers on the best samples there are.
    Accuracy(Judged),
}

/// On which samples accuracy was taken during the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judged {
    /// The test set.
    Test,
    /// What was held out of the training set.
    Validation,
    /// The training batches.
    Training,
}

impl Judged {
    /// The first of test, held-out and training samples that all runs were judged on; none if there is none.
    pub fn of(results: &Results) -> Option<Self> {
        let runs: Vec<&RunFolder> = results.groups.iter().flat_map(|g| g.finished().map(|(_, run)| run)).collect();
        let all =
            |judged: &Self| runs.iter().all(|run| run.epochs.iter().all(|epoch| judged.accuracy(epoch).is_some()));
        [Self::Test, Self::Validation, Self::Training].into_iter().find(all)
    }

    fn accuracy(self, epoch: &super::EpochValues) -> Option<f64> {
        match self {
            Self::Test => epoch.test_accuracy,
            Self::Validation => epoch.val_accuracy,
            Self::Training => epoch.train_accuracy,
        }
    }

    /// For captions.
    pub fn samples(self) -> &'static str {
        match self {
            Self::Test => "the test set",
            Self::Validation => "the samples held out of the training set",
            Self::Training => "the training batches",
        }
    }
}

/// The dense arm of the results.
fn dense_arm(results: &Results) -> Option<usize> {
    results.groups.iter().find(|group| group.is_dense()).map(|group| group.arm)
}

/// Series of a report: one for the dense network and one for each other arm, and enough for the layers of a figure.
pub(super) fn series(results: &Results) -> usize {
    1 + results.arms.len().max(MOST_LAYERS)
}

/// The colour of an arm.
pub(super) fn ink_of(results: &Results, arm: usize) -> Ink {
    Ink::of_arm(arm, dense_arm(results))
}

/// Line and marker of an arm, for legends.
pub(super) fn key(results: &Results, arm: usize) -> Result<String, ComparisonError> {
    let size = [30.0, 14.0];
    draw(&results.arms[arm], size, |canvas| key_at(canvas, results, arm, [1.0, 7.0]))
}

fn key_at(canvas: &Canvas<'_>, results: &Results, arm: usize, [x, y]: [f64; 2]) -> Result<(), String> {
    let ink = ink_of(results, arm);
    canvas.line(&[[x, y], [x + 28.0, y]], ink, 2.0)?;
    canvas.marker([x + 14.0, y], arm % SHAPES, ink, 4.2)
}

/// A group's place in a plot of accuracy.
struct Place<'r> {
    arm: usize,
    at: [f64; 2],
    spread: [f64; 2],
    runs: Vec<[f64; 2]>,
    published: &'r [PublishedRow],
}

fn places<'r>(results: &Results, summary: &'r Summary, cost: Cost, unit: TimeUnit) -> Vec<Place<'r>> {
    let place = |(group, row): (&Group, &'r Row)| {
        let x = match cost {
            Cost::Flops => row.train_flops_ratio?,
            Cost::Seconds => row.train_seconds_mean? / unit.seconds,
        };
        let spread_x = match cost {
            Cost::Flops => 0.0,
            Cost::Seconds => row.train_seconds_sd.unwrap_or(0.0) / unit.seconds,
        };
        let run = |(_, run): (_, &RunFolder)| {
            let done = run.done.as_ref()?;
            let x = if cost == Cost::Flops { x } else { done.train_seconds / unit.seconds };
            Some([x, 100.0 * done.test_accuracy])
        };
        Some(Place {
            arm: group.arm,
            at: [x, 100.0 * row.test_accuracy_mean?],
            spread: [spread_x, 100.0 * row.test_accuracy_sd.unwrap_or(0.0)],
            runs: group.finished().filter_map(run).collect(),
            published: &row.published,
        })
    };
    results.groups.iter().zip(&summary.rows).filter_map(place).collect()
}

fn seconds_unit(summary: &Summary) -> TimeUnit {
    TimeUnit::of(summary.rows.iter().filter_map(|row| row.train_seconds_mean).fold(0.0, f64::max))
}

/// Accuracy against what the training cost.
///
/// # Errors
/// If it cannot be drawn.
pub(super) fn accuracy(results: &Results, summary: &Summary, cost: Cost) -> Result<Figure, ComparisonError> {
    let what = heading(results, cost);
    let svg = draw(&what, SIZE, |canvas| paint_accuracy(canvas, results, summary, cost, AXES))?;
    let repeated = results.groups.iter().any(|group| group.finished().count() > 1);
    let published = summary.rows.iter().any(|row| !row.published.is_empty());
    let reference =
        results.reference.as_ref().map_or("the dense network".to_owned(), |r| format!("the dense {}", r.model));
    let mut caption = match cost {
        Cost::Flops => format!(
            "Share of right answers on the test set, in percent, against the operations of the whole training, as a part of \
             those of {reference}. Higher is better, further left is cheaper."
        ),
        Cost::Seconds => format!(
            "Share of right answers on the test set, in percent, against the time that the whole training took, in {}. Higher is \
             better, further left is faster.",
            match seconds_unit(summary).name {
                "s" => "seconds",
                "min" => "minutes",
                _ => "hours",
            }
        ),
    };
    caption += if repeated {
        " Marks are means over the seeds, bars one sample standard deviation each way, small dots single runs; lines join the \
         densities of one arm."
    } else {
        " Each mark is one run; lines join the densities of one arm."
    };
    if results.dense().is_some() {
        caption += " The dashed line is at the height of the dense network.";
    }
    if published && cost == Cost::Flops {
        caption += " Hollow diamonds are published numbers, at the cost of our runs.";
    }
    let title = if cost == Cost::Flops { "Against operations" } else { "Against time" }.to_owned();
    Ok(Figure { title, svg, caption })
}

/// The same as a file of its own, with heading and legend.
///
/// # Errors
/// If it cannot be drawn.
pub(super) fn accuracy_file(results: &Results, summary: &Summary, cost: Cost) -> Result<String, ComparisonError> {
    let what = heading(results, cost);
    let [width, height] = FILE_SIZE;
    let svg = draw(&what, FILE_SIZE, |canvas| {
        canvas.bar([0.0, 0.0], FILE_SIZE, Ink::Surface)?;
        let title = fit(&results.title, (width - 40.0) * LETTERS / 17.0);
        canvas.text(&title, [20.0, 24.0], Anchor::Left, 17.0, Ink::Text)?;
        let (mut x, mut y) = (20.0, 50.0);
        for (arm, name) in results.arms.iter().enumerate() {
            let name = &fit(name, width - 90.0);
            let wide = 36.0 + text_width(name) + 20.0;
            if x + wide > width - 10.0 && x > 20.0 {
                (x, y) = (20.0, y + 20.0);
            }
            key_at(canvas, results, arm, [x, y])?;
            canvas.text(name, [x + 36.0, y], Anchor::Left, LETTERS, Ink::Text)?;
            x += wide;
        }
        paint_accuracy(canvas, results, summary, cost, [[70.0, y + 20.0], [width - 24.0, height - 58.0]])
    })?;
    Ok(stand_alone(&svg, FILE_SIZE, results.arms.len() + 1))
}

fn heading(results: &Results, cost: Cost) -> String {
    let against = if cost == Cost::Flops { "operations" } else { "time" };
    format!("{}: test accuracy against {against} of training", results.title)
}

fn paint_accuracy(
    canvas: &Canvas<'_>,
    results: &Results,
    summary: &Summary,
    cost: Cost,
    [top_left, bottom_right]: [[f64; 2]; 2],
) -> Result<(), String> {
    let unit = seconds_unit(summary);
    let places = places(results, summary, cost, unit);
    let title = match cost {
        Cost::Flops => "training operations, relative to dense".to_owned(),
        Cost::Seconds => format!("training time in {}", unit.name),
    };
    let xs: Vec<f64> = places.iter().flat_map(|p| p.runs.iter().map(|run| run[0]).chain([p.at[0]])).collect();
    let ys = places.iter().flat_map(|place| {
        let ends = [place.at[1] - place.spread[1], place.at[1] + place.spread[1]];
        let published = place.published.iter().filter(|_| cost == Cost::Flops).map(|p| 100.0 * p.accuracy);
        place.runs.iter().map(|run| run[1]).chain(ends).chain(published)
    });
    let (x, y) = (Scale::fitting(title, &xs, 5), Scale::linear("test accuracy in %", ys, 5));
    let plot = canvas.plot(top_left, bottom_right, x, y)?;
    if let Some(dense) = dense_arm(results).and_then(|arm| places.iter().find(|place| place.arm == arm)) {
        plot.level(dense.at[1])?;
    }
    for arm in 0..results.arms.len() {
        let ink = ink_of(results, arm);
        let mut of_arm: Vec<&Place<'_>> = places.iter().filter(|place| place.arm == arm).collect();
        of_arm.sort_by(|a, b| a.at[0].total_cmp(&b.at[0]));
        if of_arm.len() > 1 {
            plot.line(&of_arm.iter().map(|place| place.at).collect::<Vec<_>>(), ink, 1.5)?;
        }
        for place in of_arm {
            if place.runs.len() > 1 {
                place.runs.iter().try_for_each(|&run| canvas.dot(plot.pixel(run), 2.0, ink, 0.55))?;
            }
            plot.intervals(place.at, place.spread, ink)?;
            canvas.marker(plot.pixel(place.at), arm % SHAPES, ink, 5.0)?;
            if cost == Cost::Flops {
                let at = |published: &PublishedRow| plot.pixel([place.at[0], 100.0 * published.accuracy]);
                place.published.iter().try_for_each(|published| canvas.hollow(at(published), ink))?;
            }
        }
    }
    Ok(())
}

/// Densities of the sparse groups that have finished runs, highest first.
pub(super) fn densities(results: &Results) -> Vec<f64> {
    let sparse = results.groups.iter().filter(|group| !group.is_dense() && group.finished().next().is_some());
    let mut densities: Vec<f64> = sparse.map(|group| group.density).collect();
    densities.sort_by(|a, b| b.total_cmp(a));
    densities.dedup();
    densities
}

/// The groups at a density, and the dense one.
fn beside(results: &Results, density: Option<f64>) -> impl Iterator<Item = &Group> {
    results.groups.iter().filter(move |group| group.is_dense() || density == Some(group.density))
}

/// Means over the seeds of what was recorded after each epoch, at a step.
struct Curve {
    arm: usize,
    points: Vec<(f64, Sample)>,
}

fn curves(results: &Results, density: Option<f64>, quantity: Quantity) -> Vec<Curve> {
    let value = |epoch: &super::EpochValues| match quantity {
        Quantity::Loss => Some(epoch.train_loss),
        Quantity::Accuracy(judged) => judged.accuracy(epoch).map(|share| 100.0 * share),
    };
    let curve = |group: &Group| {
        let runs: Vec<&RunFolder> = group.finished().map(|(_, run)| run).collect();
        let epochs = runs.iter().map(|run| run.epochs.len()).min().unwrap_or(0);
        let point = |epoch: usize| {
            let sample = Sample::of(runs.iter().filter_map(|run| value(&run.epochs[epoch])))?;
            sample.mean.is_finite().then_some((runs[0].epochs[epoch].step as f64, sample))
        };
        // Evenly, with the first and the last.
        let kept = epochs.min(POINTS);
        let index = |i: usize| if kept < 2 { i } else { (i * (epochs - 1) + (kept - 1) / 2) / (kept - 1) };
        Curve { arm: group.arm, points: (0..kept).map(index).filter_map(point).collect() }
    };
    beside(results, density).map(curve).filter(|curve| !curve.points.is_empty()).collect()
}

/// Loss or accuracy over the steps of the training, of all arms at a density and of the dense network; none if nothing was
/// recorded more than once.
///
/// # Errors
/// If it cannot be drawn.
pub(super) fn training_curves(
    results: &Results,
    density: Option<f64>,
    quantity: Quantity,
) -> Result<Option<Figure>, ComparisonError> {
    let curves = curves(results, density, quantity);
    if curves.iter().all(|curve| curve.points.len() < 2) {
        return Ok(None);
    }
    let (name, axis, unit, samples) = match quantity {
        Quantity::Loss => ("Loss", "loss", "cross-entropy in nats", "the training batches"),
        Quantity::Accuracy(judged) => ("Accuracy", "accuracy in %", "percent of right answers", judged.samples()),
    };
    let at = density.map_or(String::new(), |density| format!(" at density {density}"));
    let what = format!("{name} on {samples}{at} over the steps of training");
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let ends = |sample: &Sample| [sample.mean - sample.spread(), sample.mean + sample.spread()];
    let values: Vec<f64> = match quantity {
        // A band below 0 would break a logarithmic axis.
        Quantity::Loss => all().flat_map(|(_, sample)| [sample.min, sample.max]).collect(),
        Quantity::Accuracy(_) => all().flat_map(|(_, sample)| ends(sample)).collect(),
    };
    let svg = draw(&what, SIZE, |canvas| {
        let last = all().map(|(step, _)| *step).fold(0.0, f64::max);
        let y = match quantity {
            Quantity::Loss => Scale::fitting(axis, &values, 5),
            Quantity::Accuracy(_) => Scale::linear(axis, values.iter().copied(), 5),
        };
        let plot = canvas.plot(AXES[0], AXES[1], Scale::between("step", 0.0, last * 1.02, 5), y)?;
        for curve in &curves {
            paint_band(&plot, curve, quantity, ink_of(results, curve.arm))?;
        }
        for curve in &curves {
            let ink = ink_of(results, curve.arm);
            let points: Vec<_> = curve.points.iter().map(|(step, sample)| [*step, sample.mean]).collect();
            match &points[..] {
                [one] => canvas.dot(plot.pixel(*one), 3.0, ink, 1.0)?,
                points => plot.line(points, ink, 2.0)?,
            }
        }
        Ok(())
    })?;
    let repeated = all().any(|(_, sample)| sample.count > 1);
    let of_seeds = match (repeated, quantity) {
        (false, _) => "One run a line.",
        (true, Quantity::Loss) => "Lines are means over the seeds, bands reach from the lowest to the highest seed.",
        (true, _) => "Lines are means over the seeds, bands one sample standard deviation each way.",
    };
    let beside = if density.is_some() && results.dense().is_some() { " The dense network stands beside." } else { "" };
    let caption =
        format!("{name}: {unit} on {samples}, one value an epoch, over the steps of training. {of_seeds}{beside}");
    Ok(Some(Figure { title: format!("{name} on {samples}{at}"), svg, caption }))
}

fn paint_band(plot: &Plot<'_, '_>, curve: &Curve, quantity: Quantity, ink: Ink) -> Result<(), String> {
    if curve.points.len() < 2 || curve.points.iter().all(|(_, sample)| sample.count < 2) {
        return Ok(());
    }
    let ends = |sample: &Sample| match quantity {
        Quantity::Loss => [sample.min, sample.max],
        Quantity::Accuracy(_) => [sample.mean - sample.spread(), sample.mean + sample.spread()],
    };
    let side = |end: usize| curve.points.iter().map(|(step, s)| [*step, ends(s)[end]]).collect::<Vec<_>>();
    plot.band(&side(0), &side(1), ink)
}

/// A bar for each arm and density: the time of a step against the dense step; none if no run has measured it.
///
/// # Errors
/// If it cannot be drawn.
pub(super) fn step_times(results: &Results, summary: &Summary) -> Result<Option<Figure>, ComparisonError> {
    let rows: Vec<(&Group, &Row)> =
        results.groups.iter().zip(&summary.rows).filter(|(_, row)| row.step_time_ratio.is_some()).collect();
    if rows.is_empty() {
        return Ok(None);
    }
    let what = "Time of a training step against the dense step";
    let label = |group: &Group| match group.is_dense() {
        true => results.arms[group.arm].clone(),
        false => format!("{}, {}", results.arms[group.arm], group.density),
    };
    let longest = rows.iter().map(|(group, _)| text_width(&label(group))).fold(0.0, f64::max);
    let left = (longest + 16.0).clamp(60.0, 220.0);
    let height = 24.0 * rows.len() as f64;
    let size = [SIZE[0], height + 68.0];
    let most = rows.iter().filter_map(|(_, row)| row.step_time_ratio).fold(1.0, f64::max);
    let svg = draw(what, size, |canvas| {
        // Room for the numbers behind the bars.
        let x = Scale::between("time of a step, dense = 1", 0.0, most * 1.38, 6);
        let y = Scale::rows();
        let plot = canvas.plot([left, 10.0], [SIZE[0] - 12.0, 10.0 + height], x, y)?;
        for (i, (group, row)) in rows.iter().enumerate() {
            let middle = 10.0 + 24.0 * (i as f64 + 0.5);
            let ink = ink_of(results, group.arm);
            let ratio = row.step_time_ratio.unwrap_or_default();
            let right = plot.pixel([ratio, 0.0])[0];
            canvas.bar([left, middle - 8.0], [right, middle + 8.0], ink)?;
            canvas.text(&fit(&label(group), left - 12.0), [left - 7.0, middle], Anchor::Right, LETTERS, Ink::Text)?;
            let time = row.step_time_ns.map_or(String::new(), |ns| format!(" · {} ms", Significant(ns / 1e6)));
            let text = format!("{}×{time}", Significant(ratio));
            let ideal = row.inference_flops_ratio.map(|ratio| plot.pixel([ratio, 0.0])[0]);
            let behind = right.max(ideal.unwrap_or(0.0));
            canvas.text(&text, [behind + 6.0, middle], Anchor::Left, LETTERS, Ink::Text)?;
            if let Some(ideal) = ideal {
                canvas.line(&[[ideal, middle - 10.0], [ideal, middle + 10.0]], Ink::Surface, 4.0)?;
                canvas.line(&[[ideal, middle - 10.0], [ideal, middle + 10.0]], Ink::Text, 1.6)?;
            }
        }
        Ok(())
    })?;
    let caption = "The best time of a training step between topology updates, as a part of the dense network's step with the same \
                   batches on the same machine, and in milliseconds. The upright line is where the time would be if it followed \
                   the operations."
        .to_owned();
    Ok(Some(Figure { title: "A training step, relative to dense".to_owned(), svg, caption }))
}

/// Densities of a network's layers in a group: at the end, mean over the seeds.
struct Profile {
    /// Arms that agree in it.
    arms: Vec<usize>,
    layers: Vec<String>,
    densities: Vec<f64>,
    nnz: Vec<usize>,
}

fn profiles(results: &Results, density: f64) -> Vec<Profile> {
    let mut profiles: Vec<Profile> = Vec::new();
    for group in results.groups.iter().filter(|group| !group.is_dense() && group.density == density) {
        let ends = group.finished().filter_map(|(_, run)| Some((&run.topology, run.topology.records.last()?)));
        let ends: Vec<_> = ends.collect();
        let Some((history, last)) = ends.first() else { continue };
        if last.nnz.iter().zip(&history.sizes).all(|(nnz, size)| nnz == size) {
            continue;
        }
        let layers = history.layers.len();
        let mean = |layer: usize| {
            let of_layer = ends.iter().filter_map(|(history, record)| history.densities(record).get(layer).copied());
            Sample::of(of_layer).map_or(0.0, |sample| sample.mean)
        };
        let densities: Vec<f64> = (0..layers).map(mean).collect();
        let agrees = |other: &&mut Profile| other.layers == history.layers && other.densities == densities;
        match profiles.iter_mut().find(agrees) {
            Some(other) => other.arms.push(group.arm),
            None => {
                let (arms, layers, nnz) = (vec![group.arm], history.layers.clone(), last.nnz.clone());
                profiles.push(Profile { arms, layers, densities, nnz });
            }
        }
    }
    profiles
}

/// The density of each layer at the end of the training, for all sparse arms at a density; none if nothing is recorded.
///
/// # Errors
/// If it cannot be drawn.
pub(super) fn layer_densities(results: &Results, density: f64) -> Result<Option<Figure>, ComparisonError> {
    let profiles = profiles(results, density);
    let Some(first) = profiles.first() else { return Ok(None) };
    // Arms whose networks have other layers cannot stand in one figure.
    let profiles: Vec<&Profile> = profiles.iter().filter(|profile| profile.layers == first.layers).collect();
    let what = format!("Densities of the layers at density {density}");
    let longest = first.layers.iter().map(|name| text_width(name)).fold(0.0, f64::max);
    let (left, row) = ((longest + 16.0).clamp(50.0, 220.0), 22.0);
    let height = row * first.layers.len() as f64;
    let size = [SIZE[0], height + 68.0];
    let values: Vec<f64> = profiles.iter().flat_map(|p| p.densities.iter().copied().filter(|&d| d > 0.0)).collect();
    let alone = profiles.len() == 1;
    let svg = draw(&what, size, |canvas| {
        let x = Scale::fitting("density of the layer", &values, 5);
        let y = Scale::rows();
        // Beside a single profile there is room for its numbers.
        let right = SIZE[0] - if alone { 128.0 } else { 16.0 };
        let plot = canvas.plot([left, 8.0], [right, 8.0 + height], x, y)?;
        for (i, name) in first.layers.iter().enumerate() {
            let middle = 8.0 + row * (i as f64 + 0.5);
            canvas.line(&[[left, middle], [right, middle]], Ink::Grid, 1.0)?;
            canvas.text(&fit(name, left - 12.0), [left - 7.0, middle], Anchor::Right, LETTERS, Ink::Text)?;
            for profile in &profiles {
                let arm = profile.arms[0];
                if profile.densities[i] > 0.0 {
                    let at = [plot.pixel([profile.densities[i], 0.0])[0], middle];
                    canvas.marker(at, arm % SHAPES, ink_of(results, arm), 4.6)?;
                }
            }
            if alone {
                let text = format!("{} · {}", Significant(first.densities[i]), first.nnz[i]);
                canvas.text(&text, [right + 8.0, middle], Anchor::Left, LETTERS, Ink::Muted)?;
            }
        }
        Ok(())
    })?;
    let names =
        |profile: &Profile| profile.arms.iter().map(|&arm| results.arms[arm].as_str()).collect::<Vec<_>>().join(", ");
    let mut caption = "Share of each layer's weights that exist at the end of the training.".to_owned();
    if alone {
        caption += " At the right the density and the number of weights.";
    }
    for profile in profiles.iter().filter(|profile| profile.arms.len() > 1) {
        caption += &format!(" The same for {}.", names(profile));
    }
    Ok(Some(Figure { title: format!("Density {density}"), svg, caption }))
}

/// Layers of a figure over time; more lines cannot be told apart.
const MOST_LAYERS: usize = 7;

/// The densities of a group's layers over the steps of training, of the first seed; none if they do not change.
///
/// # Errors
/// If it cannot be drawn.
pub(super) fn layer_history(results: &Results, group: &Group) -> Result<Option<Figure>, ComparisonError> {
    let Some(history) = group.finished().map(|(_, run)| &run.topology).find(|history| history.records.len() > 1) else {
        return Ok(None);
    };
    let all: Vec<(f64, Vec<f64>)> =
        history.records.iter().map(|record| (record.step as f64, history.densities(record))).collect();
    let change = |layer: usize| {
        let of_layer = all.iter().map(|(_, densities)| densities[layer]);
        let (low, high) = of_layer.fold((f64::MAX, 0.0f64), |(low, high), d| (low.min(d), high.max(d)));
        high - low
    };
    let mut layers: Vec<usize> = (0..history.layers.len()).filter(|&layer| change(layer) > 0.0).collect();
    if layers.is_empty() {
        return Ok(None);
    }
    let changed = layers.len();
    layers.sort_by(|&a, &b| change(b).total_cmp(&change(a)));
    layers.truncate(MOST_LAYERS);
    layers.sort_unstable();
    let kept = all.len().min(POINTS);
    let index = |i: usize| (i * (all.len() - 1) + (kept - 1) / 2) / (kept - 1);
    let records: Vec<&(f64, Vec<f64>)> = (0..kept).map(|i| &all[index(i)]).collect();
    let name = format!("{} at density {}", results.arms[group.arm], group.density);
    let longest = layers.iter().map(|&layer| text_width(&history.layers[layer])).fold(0.0, f64::max);
    let right = SIZE[0] - (longest + 24.0).clamp(30.0, 180.0);
    let svg = draw(&format!("Densities of layers over time, {name}"), SIZE, |canvas| {
        let last = all.last().map_or(1.0, |(step, _)| *step);
        let values: Vec<f64> = records.iter().flat_map(|(_, d)| layers.iter().map(|&layer| d[layer])).collect();
        let y = Scale::fitting("density of the layer", &values, 5);
        let plot = canvas.plot(AXES[0], [right, AXES[1][1]], Scale::between("step", 0.0, last, 4), y)?;
        let mut ends = Vec::new();
        for (line, &layer) in layers.iter().enumerate() {
            let points: Vec<_> = records.iter().map(|(step, densities)| [*step, densities[layer]]).collect();
            plot.line(&points, Ink::Series(line + 1), 2.0)?;
            ends.push((plot.pixel(points[points.len() - 1])[1], line, layer));
        }
        // Names at the ends of the lines, apart from each other.
        ends.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut free = AXES[0][1];
        for (end, line, layer) in ends {
            let y = end.max(free);
            free = y + 16.0;
            canvas.line(&[[right + 2.0, end], [right + 10.0, y]], Ink::Series(line + 1), 1.5)?;
            let name = fit(&history.layers[layer], SIZE[0] - right - 16.0);
            canvas.text(&name, [right + 13.0, y], Anchor::Left, LETTERS, Ink::Text)?;
        }
        Ok(())
    })?;
    let chosen = match layers.len() {
        shown if shown < changed => format!(" The {shown} layers that change most, of {changed}."),
        _ => String::new(),
    };
    let caption = format!("Share of each layer's weights that exist, over the steps of training, of one seed.{chosen}");
    Ok(Some(Figure { title: name, svg, caption }))
}

/// A share in percent, with its sign, for sentences.
pub(super) fn points(share: f64) -> String {
    let text = percent(share.abs());
    if share < 0.0 { format!("−{text}") } else { format!("+{text}") }
}
