//! The figures of a report.

use super::statistics::evenly;
use super::summary::{PublishedRow, Row, Summary, TimeUnit};
use super::{ComparisonError, Group, Measure, RankedOn, Ranking, Results, RunFolder, Sample};
use crate::figure::canvas::{Anchor, Canvas, LETTERS, Plot, draw, fit, stand_alone, text_width};
use crate::figure::palette::{Ink, series_of_arm};
use crate::figure::scale::Scale;
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

/// What results are set against.
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
    /// What arms are ranked by, on the best samples there are.
    Result(Measure, Judged),
}

/// On which samples results were taken during the training.
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
    /// The first of validation, test and training samples that all runs were judged on; none if there is none.
    pub fn of(results: &Results, by: Measure) -> Option<Self> {
        let runs: Vec<&RunFolder> = results.groups.iter().flat_map(|g| g.finished().map(|(_, run)| run)).collect();
        let all =
            |judged: &Self| runs.iter().all(|run| run.epochs.iter().all(|epoch| judged.value(by, epoch).is_some()));
        [Self::Validation, Self::Test, Self::Training].into_iter().find(all)
    }

    fn value(self, by: Measure, epoch: &super::EpochValues) -> Option<f64> {
        match (by, self) {
            (Measure::Accuracy, Self::Test) => epoch.test_accuracy,
            (Measure::Accuracy, Self::Validation) => epoch.val_accuracy,
            (Measure::Accuracy, Self::Training) => epoch.train_accuracy,
            (Measure::BitsPerCharacter, Self::Test) => epoch.test_bits_per_character,
            (Measure::BitsPerCharacter, Self::Validation) => epoch.val_bits_per_character,
            (Measure::BitsPerCharacter, Self::Training) => epoch.train_bits_per_character,
        }
    }

    /// For titles.
    fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::Validation => "validation",
            Self::Training => "training",
        }
    }

    /// For captions.
    fn samples(self) -> &'static str {
        match self {
            Self::Test => "the test set",
            Self::Validation => "the validation samples",
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

/// The series of an arm.
pub(super) fn series_of(results: &Results, arm: usize) -> usize {
    series_of_arm(arm, dense_arm(results))
}

/// Line and marker of an arm, for legends.
pub(super) fn key(results: &Results, arm: usize) -> Result<String, ComparisonError> {
    Ok(draw(&results.arms[arm], KEY, |canvas| key_at(canvas, series_of(results, arm), [1.0, KEY[1] / 2.0]))?)
}

/// Size of a line and a marker in a legend: wide enough for the dashes beside the marker.
const KEY: [f64; 2] = [42.0, 14.0];

fn key_at(canvas: &Canvas<'_>, series: usize, [x, y]: [f64; 2]) -> Result<(), String> {
    canvas.line(&[[x, y], [x + KEY[0] - 2.0, y]], Ink::Line(series), 2.0)?;
    canvas.marker([x + KEY[0] / 2.0 - 1.0, y], series, 4.2)
}

/// A group's place in a plot of results.
struct Place<'r> {
    arm: usize,
    at: [f64; 2],
    spread: [f64; 2],
    runs: Vec<[f64; 2]>,
    published: &'r [PublishedRow],
}

fn places<'r>(results: &Results, summary: &'r Summary, cost: Cost, unit: TimeUnit) -> Vec<Place<'r>> {
    let ranking @ Ranking { on, by } = summary.ranking();
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
            Some([x, by.shown(ranking.at_end(run)?)])
        };
        let (mean, deviation) = row.result(by, on);
        Some(Place {
            arm: group.arm,
            at: [x, by.shown(mean?)],
            spread: [spread_x, by.shown(deviation.unwrap_or(0.0))],
            runs: group.finished().filter_map(run).collect(),
            // Published numbers are accuracies on the test set.
            published: if shows_published(ranking) { &row.published } else { &[] },
        })
    };
    results.groups.iter().zip(&summary.rows).filter_map(place).collect()
}

fn shows_published(ranking: Ranking) -> bool {
    ranking == Ranking { on: RankedOn::Test, by: Measure::Accuracy }
}

fn seconds_unit(summary: &Summary) -> TimeUnit {
    TimeUnit::of(summary.rows.iter().filter_map(|row| row.train_seconds_mean).fold(0.0, f64::max))
}

/// Results against what the training cost.
///
/// # Errors
/// If it cannot be drawn.
pub(super) fn against_cost(results: &Results, summary: &Summary, cost: Cost) -> Result<Figure, ComparisonError> {
    let what = heading(results, summary, cost);
    let svg = draw(&what, SIZE, |canvas| paint_accuracy(canvas, results, summary, cost, AXES))?;
    let repeated = results.groups.iter().any(|group| group.finished().count() > 1);
    let ranking = summary.ranking();
    let published = shows_published(ranking) && summary.rows.iter().any(|row| !row.published.is_empty());
    let name = ranking.name();
    let name = name[..1].to_uppercase() + &name[1..] + ranking.by.in_unit();
    let better = ranking.by.better();
    let reference =
        results.reference.as_ref().map_or("the dense network".to_owned(), |r| format!("the dense {}", r.model));
    let mut caption = match cost {
        Cost::Flops => format!(
            "{name} against the operations of the whole training, relative to those of {reference}. {better}, further left is \
             cheaper."
        ),
        Cost::Seconds => format!(
            "{name} against the time of the whole training, in {}. {better}, further left is faster.",
            match seconds_unit(summary).name {
                "s" => "seconds",
                "min" => "minutes",
                _ => "hours",
            }
        ),
    };
    caption += if repeated {
        " Marks are means over the seeds, bars are one sample standard deviation each way, small dots are single runs; lines \
         join the densities of one arm."
    } else {
        " Each mark is one run; lines join the densities of one arm."
    };
    if results.dense().is_some() {
        caption += &format!(" The dashed line marks the dense network's {}.", ranking.by.name());
    }
    if cost == Cost::Flops {
        caption += " Marks that would overlap are moved apart sideways.";
    }
    if published && cost == Cost::Flops {
        caption += " Hollow diamonds are published numbers, placed at our runs' cost.";
    }
    let title = if cost == Cost::Flops { "Against operations" } else { "Against time" }.to_owned();
    Ok(Figure { title, svg, caption })
}

/// The same as a file of its own, with heading and legend.
///
/// # Errors
/// If it cannot be drawn.
pub(super) fn accuracy_file(results: &Results, summary: &Summary, cost: Cost) -> Result<String, ComparisonError> {
    let what = heading(results, summary, cost);
    let [width, height] = FILE_SIZE;
    let svg = draw(&what, FILE_SIZE, |canvas| {
        canvas.bar([0.0, 0.0], FILE_SIZE, Ink::Surface)?;
        let title = fit(&results.title, (width - 40.0) * LETTERS / 17.0);
        canvas.text(&title, [20.0, 24.0], Anchor::Left, 17.0, Ink::Text)?;
        let (mut x, mut y) = (20.0, 50.0);
        for (arm, name) in results.arms.iter().enumerate() {
            let text = KEY[0] + 6.0;
            let name = &fit(name, width - 54.0 - text);
            let wide = text + text_width(name) + 20.0;
            if x + wide > width - 10.0 && x > 20.0 {
                (x, y) = (20.0, y + 20.0);
            }
            key_at(canvas, series_of(results, arm), [x, y])?;
            canvas.text(name, [x + text, y], Anchor::Left, LETTERS, Ink::Text)?;
            x += wide;
        }
        paint_accuracy(canvas, results, summary, cost, [[70.0, y + 20.0], [width - 24.0, height - 58.0]])
    })?;
    Ok(stand_alone(&svg, FILE_SIZE, results.arms.len() + 1))
}

fn heading(results: &Results, summary: &Summary, cost: Cost) -> String {
    let against = if cost == Cost::Flops { "operations" } else { "time" };
    format!("{}: {} against {against} of training", results.title, summary.ranking().name())
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
    let xs = places.iter().flat_map(|place| {
        let ends = [place.at[0] - place.spread[0], place.at[0] + place.spread[0]];
        place.runs.iter().map(|run| run[0]).chain(ends.into_iter().filter(|&x| x > 0.0))
    });
    let xs: Vec<f64> = xs.collect();
    let ys = places.iter().flat_map(|place| {
        let ends = [place.at[1] - place.spread[1], place.at[1] + place.spread[1]];
        let published = place.published.iter().filter(|_| cost == Cost::Flops).map(|p| 100.0 * p.accuracy);
        place.runs.iter().map(|run| run[1]).chain(ends).chain(published)
    });
    let (x, y) =
        (Scale::fitting(title, &xs, 5), Scale::linear(summary.ranked_by.axis(summary.ranked_on.name()), ys, 6));
    let plot = canvas.plot(top_left, bottom_right, x, y)?;
    if let Some(dense) = dense_arm(results).and_then(|arm| places.iter().find(|place| place.arm == arm)) {
        plot.level(dense.at[1])?;
    }
    let shifts = match cost {
        Cost::Flops => apart(&places.iter().map(|place| plot.pixel(place.at)[0]).collect::<Vec<_>>()),
        Cost::Seconds => vec![0.0; places.len()],
    };
    let pixel = |at: [f64; 2], shift: f64| {
        let [x, y] = plot.pixel(at);
        [x + shift, y]
    };
    // Published numbers lie below all others, which they may hide.
    for (place, &shift) in places.iter().zip(&shifts).filter(|_| cost == Cost::Flops) {
        for published in place.published {
            let at = pixel([place.at[0], 100.0 * published.accuracy], shift);
            canvas.hollow(at, series_of(results, place.arm))?;
        }
    }
    for arm in 0..results.arms.len() {
        let mut of_arm: Vec<_> = places.iter().zip(&shifts).filter(|(place, _)| place.arm == arm).collect();
        of_arm.sort_by(|(a, _), (b, _)| a.at[0].total_cmp(&b.at[0]));
        if of_arm.len() > 1 {
            let points: Vec<_> = of_arm.iter().map(|(place, shift)| pixel(place.at, **shift)).collect();
            canvas.line(&points, Ink::Line(series_of(results, arm)), 1.5)?;
        }
    }
    for (place, &shift) in places.iter().zip(&shifts) {
        let ink = Ink::Series(series_of(results, place.arm));
        if place.runs.len() > 1 {
            place.runs.iter().try_for_each(|&run| canvas.dot(pixel(run, shift), 2.0, ink, 0.55))?;
        }
        plot.intervals(place.at, place.spread, shift, ink)?;
    }
    for (place, &shift) in places.iter().zip(&shifts) {
        canvas.marker(pixel(place.at, shift), series_of(results, place.arm), 5.0)?;
    }
    Ok(())
}

/// Shifts by which marks that lie above each other come to stand side by side, in the order of their places: by little, so
/// that each is still read off at its place.
fn apart(places: &[f64]) -> Vec<f64> {
    const CLOSE: f64 = 9.0;
    const STEP: f64 = 11.0;
    const MOST: f64 = 12.0;
    let mut order: Vec<usize> = (0..places.len()).collect();
    order.sort_by(|&a, &b| places[a].total_cmp(&places[b]));
    let mut shifts = vec![0.0; places.len()];
    while let Some(&first) = order.first() {
        let close = order.iter().take_while(|&&place| places[place] - places[first] < CLOSE).count();
        let cluster: Vec<usize> = order.drain(..close).collect();
        let middle = (places[first] + places[cluster[close - 1]]) / 2.0;
        let half = (close - 1) as f64 / 2.0;
        let step = STEP.min(MOST / half.max(1.0));
        for (i, place) in cluster.into_iter().enumerate().filter(|_| close > 1) {
            shifts[place] = middle + step * (i as f64 - half) - places[place];
        }
    }
    shifts
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
        Quantity::Result(by, judged) => judged.value(by, epoch).map(|value| by.shown(value)),
    };
    let of_batches = matches!(quantity, Quantity::Loss | Quantity::Result(_, Judged::Training));
    let curve = |group: &Group| {
        let runs: Vec<&RunFolder> = group.finished().map(|(_, run)| run).collect();
        let epochs = runs.iter().map(|run| run.epochs.len() - usize::from(of_batches && ends_with_few_batches(run)));
        let epochs = epochs.min().unwrap_or(0);
        let point = |epoch: usize| {
            let sample = Sample::of(runs.iter().filter_map(|run| value(&run.epochs[epoch])))?;
            sample.mean.is_finite().then_some((runs[0].epochs[epoch].step as f64, sample))
        };
        Curve { arm: group.arm, points: evenly(epochs, POINTS).filter_map(point).collect() }
    };
    beside(results, density).map(curve).filter(|curve| !curve.points.is_empty()).collect()
}

/// Whether a run's last epoch is less than a tenth of one: means over so few batches only look like a change.
fn ends_with_few_batches(run: &RunFolder) -> bool {
    match &run.epochs[..] {
        [first, .., before, last] => 10 * last.step.saturating_sub(before.step) < first.step,
        [first, last] => 10 * last.step.saturating_sub(first.step) < first.step,
        _ => false,
    }
}

/// Names from `left` to `right` behind the ends of lines: where they end, series, name. None covers another as long as there is
/// room between `top` and `bottom`.
fn name_lines(
    canvas: &Canvas<'_>,
    [left, top]: [f64; 2],
    [right, bottom]: [f64; 2],
    mut lines: Vec<([f64; 2], usize, &str)>,
) -> Result<(), String> {
    lines.sort_by(|a, b| a.0[1].total_cmp(&b.0[1]));
    let heights = spread(&lines.iter().map(|(end, ..)| end[1]).collect::<Vec<_>>(), [top, bottom]);
    for ((end, series, name), y) in lines.into_iter().zip(heights) {
        canvas.line(&[end, [left, end[1]], [left + 9.0, y], [left + 14.0, y]], Ink::Series(series), 1.0)?;
        canvas.marker([left + 14.0, y], series, 3.6)?;
        canvas.text(&fit(name, right - left - 22.0), [left + 22.0, y], Anchor::Left, LETTERS, Ink::Name(series))?;
    }
    Ok(())
}

/// Width of the names behind lines.
fn names_width<'n>(names: impl Iterator<Item = &'n str>) -> f64 {
    (names.map(text_width).fold(0.0, f64::max) + 26.0).clamp(40.0, 180.0)
}

/// Distance of names below each other.
const LINE: f64 = 16.0;

/// Ascending heights, moved apart by as little as possible (squared), between `top` and `bottom` if there is room.
fn spread(heights: &[f64], [top, bottom]: [f64; 2]) -> Vec<f64> {
    // Less what they must be apart, they must not descend: neighbours that do share their mean.
    let mut shared: Vec<(f64, usize)> = Vec::new();
    for (i, height) in heights.iter().enumerate() {
        let mut last = (height - LINE * i as f64, 1);
        while let Some((mean, count)) = shared.pop_if(|(mean, _)| *mean > last.0) {
            let both = count + last.1;
            last = ((mean * count as f64 + last.0 * last.1 as f64) / both as f64, both);
        }
        shared.push(last);
    }
    let lowest = (bottom - LINE * heights.len().saturating_sub(1) as f64).max(top);
    let places = shared.into_iter().flat_map(|(mean, count)| std::iter::repeat_n(mean.clamp(top, lowest), count));
    places.enumerate().map(|(i, place)| place + LINE * i as f64).collect()
}

/// Loss or results over the steps of the training, of all arms at a density and of the dense network; none if nothing was
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
    let (name, unit, samples) = match quantity {
        Quantity::Loss => ("training loss".to_owned(), "Cross-entropy in nats", "the training batches"),
        Quantity::Result(by, judged) => {
            let unit = match by {
                Measure::Accuracy => "Accuracy in percent",
                Measure::BitsPerCharacter => "Bits per character",
            };
            (format!("{} {}", judged.name(), by.name()), unit, judged.samples())
        }
    };
    let at = density.map_or(String::new(), |density| format!(" at density {density}"));
    let mut title = format!("{name}{at}");
    title[..1].make_ascii_uppercase();
    let what = format!("{title} over the steps of training");
    let all = || curves.iter().flat_map(|curve| &curve.points);
    let ends = |sample: &Sample| [sample.mean - sample.spread(), sample.mean + sample.spread()];
    let values: Vec<f64> = match quantity {
        // A band below 0 would break a logarithmic axis.
        Quantity::Loss => all().flat_map(|(_, sample)| [sample.min, sample.max]).collect(),
        Quantity::Result(..) => all().flat_map(|(_, sample)| ends(sample)).collect(),
    };
    // As high as the names need.
    let [[left, top], [_, bottom]] = AXES;
    let more = (LINE * curves.len() as f64 - (bottom - top)).max(0.0);
    let [width, height] = SIZE;
    let right = width - names_width(curves.iter().map(|curve| results.arms[curve.arm].as_str()));
    let bottom = bottom + more;
    let svg = draw(&what, [width, height + more], |canvas| {
        let last = all().map(|(step, _)| *step).fold(0.0, f64::max);
        let y = match quantity {
            Quantity::Loss => Scale::fitting(name.clone(), &values, 6),
            Quantity::Result(by, judged) => Scale::linear(by.axis(judged.name()), values.iter().copied(), 6),
        };
        let plot = canvas.plot([left, top], [right, bottom], Scale::between("step", 0.0, last * 1.02, 4), y)?;
        for curve in &curves {
            paint_band(&plot, curve, quantity, Ink::Series(series_of(results, curve.arm)))?;
        }
        let mut names = Vec::new();
        for curve in &curves {
            let series = series_of(results, curve.arm);
            let points: Vec<_> = curve.points.iter().map(|(step, sample)| [*step, sample.mean]).collect();
            match &points[..] {
                [one] => canvas.dot(plot.pixel(*one), 3.0, Ink::Series(series), 1.0)?,
                points => plot.line(points, Ink::Line(series), 2.0)?,
            }
            names.push((plot.pixel(points[points.len() - 1]), series, results.arms[curve.arm].as_str()));
        }
        name_lines(canvas, [right, top], [width, bottom], names)
    })?;
    let repeated = all().any(|(_, sample)| sample.count > 1);
    let of_seeds = match (repeated, quantity) {
        (false, _) => "One line per run.",
        (true, Quantity::Loss) => "Lines are means over the seeds; bands reach from the lowest to the highest seed.",
        (true, _) => "Lines are means over the seeds; bands are one sample standard deviation each way.",
    };
    let beside =
        if density.is_some() && results.dense().is_some() { " The dense network is shown for comparison." } else { "" };
    let caption = format!("{unit} on {samples}, one value per epoch, over the steps of training. {of_seeds}{beside}");
    Ok(Some(Figure { title, svg, caption }))
}

fn paint_band(plot: &Plot<'_, '_>, curve: &Curve, quantity: Quantity, ink: Ink) -> Result<(), String> {
    if curve.points.len() < 2 || curve.points.iter().all(|(_, sample)| sample.count < 2) {
        return Ok(());
    }
    let ends = |sample: &Sample| match quantity {
        Quantity::Loss => [sample.min, sample.max],
        Quantity::Result(..) => [sample.mean - sample.spread(), sample.mean + sample.spread()],
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
    let what = "Time of a training step relative to the dense step";
    let label = |group: &Group| match group.is_dense() {
        true => results.arms[group.arm].clone(),
        false => format!("{}, {}", results.arms[group.arm], group.density),
    };
    let longest = rows.iter().map(|(group, _)| text_width(&label(group))).fold(0.0, f64::max);
    let left = (longest + 16.0).clamp(60.0, 220.0);
    let height = 24.0 * rows.len() as f64;
    let size = [SIZE[0], height + 68.0];
    let number = |row: &Row| {
        let time = row.step_time_ns.map_or(String::new(), |ns| format!(" · {} ms", Significant(ns / 1e6)));
        format!("{}×{time}", Significant(row.step_time_ratio.unwrap_or_default()))
    };
    let ends = |row: &Row| row.step_time_ratio.into_iter().chain(row.inference_flops_ratio);
    let most = rows.iter().flat_map(|(_, row)| ends(row)).fold(1.0, f64::max);
    let right = SIZE[0] - 12.0;
    // Room for the numbers behind the bars and the upright lines.
    let room = rows.iter().map(|(_, row)| text_width(&number(row))).fold(0.0, f64::max) + 8.0;
    let svg = draw(what, size, |canvas| {
        let x = Scale::between("time of a step, dense = 1", 0.0, most * (right - left) / (right - left - room), 6);
        let y = Scale::rows();
        let plot = canvas.plot([left, 10.0], [right, 10.0 + height], x, y)?;
        for (i, (group, row)) in rows.iter().enumerate() {
            let middle = 10.0 + 24.0 * (i as f64 + 0.5);
            let end = plot.pixel([row.step_time_ratio.unwrap_or_default(), 0.0])[0];
            let ink = Ink::Series(series_of(results, group.arm));
            canvas.bar([left, middle - 8.0], [end, middle + 8.0], ink)?;
            canvas.text(&fit(&label(group), left - 12.0), [left - 7.0, middle], Anchor::Right, LETTERS, Ink::Text)?;
            let ideal = row.inference_flops_ratio.map(|ratio| plot.pixel([ratio, 0.0])[0]);
            let behind = end.max(ideal.unwrap_or(0.0));
            canvas.text(&number(row), [behind + 6.0, middle], Anchor::Left, LETTERS, Ink::Text)?;
            if let Some(ideal) = ideal {
                canvas.line(&[[ideal, middle - 10.0], [ideal, middle + 10.0]], Ink::Surface, 4.0)?;
                canvas.line(&[[ideal, middle - 10.0], [ideal, middle + 10.0]], Ink::Text, 1.6)?;
            }
        }
        Ok(())
    })?;
    let caption = "The best time of a training step between topology updates, relative to the dense network's step with the same \
                   batches on the same machine, and in milliseconds. The vertical line marks the time if it were proportional to \
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
    // Each profile has a line of its own in a layer's row.
    let (left, line) = ((longest + 16.0).clamp(50.0, 220.0), 7.0);
    let row = 15.0 + line * profiles.len() as f64;
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
            for (nth, profile) in profiles.iter().enumerate() {
                let arm = profile.arms[0];
                if profile.densities[i] > 0.0 {
                    let below = line * (nth as f64 - (profiles.len() - 1) as f64 / 2.0);
                    let at = [plot.pixel([profile.densities[i], 0.0])[0], middle + below];
                    canvas.marker(at, series_of(results, arm), 4.6)?;
                }
            }
            if alone {
                let text = format!("{} · {}", Significant(first.densities[i]), first.nnz[i]);
                canvas.text(&text, [right + 8.0, middle], Anchor::Left, LETTERS, Ink::Muted)?;
            }
        }
        Ok(())
    })?;
    let mut caption = "The share of each layer's weights that exist at the end of training.".to_owned();
    if alone {
        caption += " On the right: the density and the number of weights.";
    }
    for profile in profiles.iter().filter(|profile| profile.arms.len() > 1) {
        let mut names = profile.arms.iter().map(|&arm| results.arms[arm].as_str());
        let shown = names.next().unwrap_or_default();
        caption += &format!(" The mark of {shown} also stands for {}.", names.collect::<Vec<_>>().join(", "));
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
    let records: Vec<&(f64, Vec<f64>)> = evenly(all.len(), POINTS).map(|i| &all[i]).collect();
    let name = format!("{} at density {}", results.arms[group.arm], group.density);
    let right = SIZE[0] - names_width(layers.iter().map(|&layer| history.layers[layer].as_str()));
    let svg = draw(&format!("Densities of layers over time, {name}"), SIZE, |canvas| {
        let last = all.last().map_or(1.0, |(step, _)| *step);
        let values: Vec<f64> = records.iter().flat_map(|(_, d)| layers.iter().map(|&layer| d[layer])).collect();
        let y = Scale::fitting("density of the layer", &values, 5);
        let plot = canvas.plot(AXES[0], [right, AXES[1][1]], Scale::between("step", 0.0, last, 4), y)?;
        let mut names = Vec::new();
        for (series, &layer) in (1..).zip(&layers) {
            let points: Vec<_> = records.iter().map(|(step, densities)| [*step, densities[layer]]).collect();
            plot.line(&points, Ink::Line(series), 2.0)?;
            names.push((plot.pixel(points[points.len() - 1]), series, history.layers[layer].as_str()));
        }
        name_lines(canvas, [right, AXES[0][1]], [SIZE[0], AXES[1][1]], names)
    })?;
    let chosen = match layers.len() {
        shown if shown < changed => format!(" Shown are the {shown} layers that change most, of {changed}."),
        _ => String::new(),
    };
    let caption =
        format!("The share of each layer's weights that exist, over the steps of training, for one seed.{chosen}");
    Ok(Some(Figure { title: name, svg, caption }))
}

#[cfg(test)]
mod tests {
    use super::super::EpochValues;
    use super::super::testing::Made;
    use super::*;

    #[test]
    fn names_of_lines_stand_below_each_other() {
        let ends = [0.0, 300.0];
        assert_eq!(spread(&[20.0, 100.0, 200.0], ends), [20.0, 100.0, 200.0]);
        // Around where they would be, and the others stay.
        assert_eq!(spread(&[20.0, 100.0, 100.0, 100.0, 200.0], ends), [20.0, 84.0, 100.0, 116.0, 200.0]);
        assert_eq!(spread(&[1.0, 1.0], ends), [0.0, 16.0]);
        assert_eq!(spread(&[299.0, 299.0, 299.0], ends), [268.0, 284.0, 300.0]);
        assert!(spread(&[], ends).is_empty());
    }

    /// A last epoch of one batch looks like a fall or a rise that is none.
    #[test]
    fn few_batches_are_no_epoch() {
        let folder = tempfile::tempdir().unwrap();
        let path = Made { epochs: 4, ..Made::new("snip", 0.1, 0, 0.8) }.write(folder.path());
        let mut run = RunFolder::read(&path).unwrap();
        let epoch = |step| EpochValues { step, ..EpochValues::default() };
        for (steps, few) in [
            (&[599, 1199, 1200][..], true),
            (&[600, 1200, 1800], false),
            (&[600, 700], false),
            (&[600, 601], true),
            (&[5], false),
        ] {
            run.epochs = steps.iter().map(|&step| epoch(step)).collect();
            assert_eq!(ends_with_few_batches(&run), few, "{steps:?}");
        }
    }

    #[test]
    fn marks_above_each_other_come_to_stand_side_by_side() {
        let places = [100.0, 300.0, 104.0, 100.0];
        let shifted: Vec<f64> = places.iter().zip(apart(&places)).map(|(place, shift)| place + shift).collect();
        assert_eq!(shifted, [91.0, 300.0, 113.0, 102.0]);
        // However many there are, none goes far.
        assert!(apart(&[50.0; 9]).iter().all(|shift| shift.abs() <= 12.0));
        assert!(apart(&[]).is_empty());
    }
}
