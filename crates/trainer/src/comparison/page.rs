//! The report as one HTML file, which needs nothing but a browser: no network, no script.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::charts::{self, Cost, Figure, Judged, Quantity};
use super::heat_map::{self, Maps};
use super::run_folder::deciding_settings;
use super::summary::{Row, Summary, TimeUnit};
use super::{ComparisonError, Group, Machine, Measure, RankedOn, Ranking, Results, RunFolder, Sample};
use crate::figure::canvas::{FIGURE_RULES, escape};
use crate::figure::palette::{self, Ink};
use crate::report::Significant;
use crate::settings::TrainConfig;

const STYLE: &str = include_str!("style.css");

/// Backgrounds of notes, in light and dark mode.
const PANEL: [&str; 2] = ["--panel:#f5f7f9;", "--panel:#1c2229;"];

/// The whole page.
///
/// # Errors
/// If a figure cannot be drawn.
pub(super) fn page(results: &Results, summary: &Summary) -> Result<String, ComparisonError> {
    let mut html = String::new();
    let title = escape(&results.title);
    let (light, dark) = (palette::variables(0) + PANEL[0], palette::variables(1) + PANEL[1]);
    html += "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
    html += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n";
    html += &format!("<title>{title}</title>\n<style>\n:root{{{light}}}\n");
    // On paper it is light.
    html += &format!(
        "@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n@media print{{html{{color-scheme:light}}}}\n"
    );
    html += &format!(
        "{}\n{FIGURE_RULES}\n{STYLE}{}</style>\n</head>\n<body>\n<main>\n",
        palette::rules(charts::series(results)),
        switches(results)
    );
    html += &heading(results, summary);
    html += &in_short(results, summary);
    html += &table(results, summary)?;
    if results.progress()[0] > 0 {
        html += &legend(results)?;
        html += &costs(results, summary)?;
        html += &training(results)?;
        html += &steps(results, summary)?;
        html += &layers(results)?;
        html += &masks(results)?;
    }
    html += &what_was_run(results);
    html += &runs(results, summary);
    html += "</main>\n</body>\n</html>\n";
    Ok(html)
}

/// Rules by which the legend's boxes hide what belongs to an arm.
fn switches(results: &Results) -> String {
    let rule = |arm: usize| {
        let classes = Ink::all_of(charts::series_of(results, arm)).map(|ink| ink.class());
        let classes = classes.map(|class| format!(".f{class},.s{class}")).join(",");
        format!(":root:has(#arm{arm}:not(:checked)) .by-arm :is({classes}){{visibility:hidden}}\n")
    };
    (0..results.arms.len()).map(rule).collect()
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A result with its deviation and unit, which stay on one line.
fn results_text(by: Measure, mean: f64, deviation: Option<f64>) -> String {
    let unit = match by {
        Measure::Accuracy => "%",
        Measure::BitsPerCharacter => by.name(),
    };
    format!("{}\u{a0}{unit}", by.text_and_deviation(mean, deviation).replace(' ', "\u{a0}"))
}

/// The text with its first letter as a capital.
fn capitalized(text: &str) -> String {
    text[..1].to_uppercase() + &text[1..]
}

fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn heading(results: &Results, summary: &Summary) -> String {
    let mut html = format!("<header>\n<h1>{}</h1>\n", escape(&results.title));
    let mut densities: Vec<f64> = results.groups.iter().filter(|g| !g.is_dense()).map(|g| g.density).collect();
    densities.sort_by(|a, b| b.total_cmp(a));
    densities.dedup();
    let mut seeds: Vec<u64> = results.groups.iter().flat_map(|group| &group.runs).map(|run| run.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let mut lead = escape(&list(&results.arms));
    if !densities.is_empty() {
        let word = if densities.len() == 1 { "density" } else { "densities" };
        lead += &format!(" · {word} {}", list(&densities));
    }
    let word = if seeds.len() == 1 { "seed" } else { "seeds" };
    lead += &format!(" · {word} {} · {}", list(&seeds), plural(summary.runs, "run"));
    html += &format!("<p class=\"lead\">{lead}</p>\n");
    if summary.finished < summary.runs {
        let left = summary.runs - summary.finished;
        html += &format!(
            "<p class=\"warning\">{} of {} runs are finished; {left} {} not, and not counted below.</p>\n",
            summary.finished,
            summary.runs,
            if left == 1 { "is" } else { "are" }
        );
    }
    if let Some(source) = &results.source {
        html += &format!("<p>Published in: {}</p>\n", escape(source));
    }
    if let Some(notes) = &results.notes {
        html += &format!("<p class=\"notes\">{}</p>\n", escape(notes.trim()));
    }
    html + "</header>\n"
}

/// A row with what it is a row of.
type Ranked<'r> = (&'r Group, &'r Row, f64);

/// What a reader would ask first.
fn in_short(results: &Results, summary: &Summary) -> String {
    let (mut items, ranking @ Ranking { on, by }) = (Vec::new(), summary.ranking());
    let rows = || results.groups.iter().zip(&summary.rows);
    if let Some((_, row)) = rows().find(|(group, row)| group.is_dense() && row.runs > 0) {
        let (mean, deviation) = row.result(by, on);
        let reached =
            |mean| format!("The dense network reaches {} on {}.", results_text(by, mean, deviation), on.samples());
        items.extend(mean.map(reached));
    }
    for density in charts::densities(results) {
        let mut ranked: Vec<Ranked<'_>> = rows()
            .filter(|(group, _)| !group.is_dense() && group.density == density)
            .filter_map(|(group, row)| Some((group, row, row.result(by, on).0?)))
            .collect();
        ranked.sort_by(|a, b| by.gain(b.2).total_cmp(&by.gain(a.2)));
        items.extend(ranked_text(&ranked, ranking).map(|text| format!("At density {density}, {text}")));
    }
    if items.is_empty() {
        return String::new();
    }
    let items: String = items.iter().map(|item| format!("<li>{item}</li>\n")).collect();
    let note = ranking.sentence();
    format!(
        "<section>\n<h2>In short</h2>\n<ul class=\"short\">\n{items}</ul>\n<p class=\"note\">{note}</p>\n</section>\n"
    )
}

/// The best arm, what it costs, and how sure it is that it is the best.
fn ranked_text(ranked: &[Ranked<'_>], ranking: Ranking) -> Option<String> {
    let Ranking { on, by } = ranking;
    let &(best_group, best, mean) = ranked.first()?;
    let result = results_text(by, mean, best.result(by, on).1);
    let mut text = match ranked.len() {
        1 => format!("{} reaches {result}", escape(&best.arm)),
        _ => {
            // The name of the measure is the unit of bits.
            let result = match by {
                Measure::Accuracy => result,
                Measure::BitsPerCharacter => by.text_and_deviation(mean, best.result(by, on).1),
            };
            format!("{} has {} mean {}, {result}", escape(&best.arm), by.best(), ranking.name())
        }
    };
    let unit = by.difference_unit();
    if let Some(difference) = best.minus_dense(by) {
        text += &format!(", {} {unit} against dense", by.difference(difference));
    }
    let costs = [(best.train_flops_ratio, "the operations"), (best.step_time_ratio, "the time of a step")];
    let costs: Vec<_> =
        costs.iter().filter_map(|(ratio, what)| Some(format!("{}× {what}", Significant((*ratio)?)))).collect();
    if !costs.is_empty() {
        text += &format!(", with {} of dense training", costs.join(" and "));
    }
    text += ".";
    let Some(&(second_group, second, _)) = ranked.get(1) else { return Some(text) };
    let name = escape(&second.arm);
    let Some(pairs) = paired(best_group, second_group, ranking) else { return Some(text) };
    let difference = by.difference(pairs.mean);
    text += &match pairs.standard_error() {
        None => format!(" {name} is next; the difference of {difference} {unit} comes from a single seed."),
        Some(error) if by.gain(pairs.mean) > 2.0 * error => {
            let (mean, error) = (by.text(by.gain(pairs.mean)), by.text(error));
            format!(" {name} is next, {mean} ± {error} {unit} behind (standard error, same seeds).")
        }
        Some(error) => format!(
            " The difference from {name} is within noise: {difference} ± {} {unit} (standard error, same seeds).",
            by.text(error)
        ),
    };
    Some(text)
}

/// The result of one group minus that of another with the same seed.
fn paired(a: &Group, b: &Group, ranking: Ranking) -> Option<Sample> {
    let result = |run: &RunFolder| ranking.at_end(run);
    Sample::of(a.finished().filter_map(|(run, folder)| {
        let (_, other) = b.finished().find(|(other, _)| other.seed == run.seed)?;
        Some(result(folder)? - result(other)?)
    }))
}

fn cell(value: Option<f64>, show: impl Fn(f64) -> String) -> String {
    format!("<td>{}</td>", value.map_or("–".to_owned(), show))
}

fn table(results: &Results, summary: &Summary) -> Result<String, ComparisonError> {
    let (with_dense, published) = (results.dense().is_some(), summary.rows.iter().any(|row| !row.published.is_empty()));
    let longest = summary.rows.iter().filter_map(|row| row.train_seconds_mean).fold(0.0, f64::max);
    let unit = TimeUnit::of(longest);
    let spans = if with_dense { 2 } else { 1 };
    let mut html = "<section>\n<h2>Results</h2>\n<div class=\"scroll\"><table>\n<thead>\n<tr>".to_owned();
    html += "<th class=\"text\" rowspan=\"2\">Arm</th><th rowspan=\"2\">Density</th>";
    let validated = summary.ranked_on == RankedOn::Validation;
    let (by, unit_of) = (summary.ranked_by, summary.ranked_by.unit());
    let ranked = capitalized(&summary.ranking().name());
    html += &format!("<th class=\"group\" colspan=\"{spans}\">{ranked}</th>");
    if validated {
        html += &format!("<th rowspan=\"2\">Test {}<small>{unit_of}</small></th>", by.name());
    }
    html += "<th rowspan=\"2\">Runs</th>";
    html += "<th class=\"group\" colspan=\"2\">Operations</th>";
    html += &format!("<th class=\"group\" colspan=\"{spans}\">Training time</th>");
    html += "<th rowspan=\"2\">Step<small>ms</small></th><th rowspan=\"2\">Memory<small>MiB</small></th>";
    html += if published { "<th rowspan=\"2\">Published<small>%</small></th>" } else { "" };
    html += &format!("</tr>\n<tr><th>mean ± s.d.<small>{unit_of}</small></th>");
    if with_dense {
        html += &format!("<th>vs dense<small>{}</small></th>", by.difference_unit());
    }
    html += "<th>training<small>dense = 1</small></th><th>inference<small>dense = 1</small></th>";
    html += &format!("<th>mean<small>{}</small></th>", unit.name);
    html += if with_dense { "<th>ratio<small>dense = 1</small></th>" } else { "" };
    html += "</tr>\n</thead>\n<tbody>\n";
    let significant = |value: f64| Significant(value).to_string();
    for (i, (group, row)) in results.groups.iter().zip(&summary.rows).enumerate() {
        let first = i == 0 || results.groups[i - 1].arm != group.arm;
        html += if first { "<tr class=\"first\">" } else { "<tr>" };
        if first {
            let key = charts::key(results, group.arm)?;
            let rows = results.groups.iter().filter(|other| other.arm == group.arm).count();
            let _ = write!(
                html,
                "<th class=\"text\" scope=\"rowgroup\" rowspan=\"{rows}\"><span class=\"key\">{}</span>{}</th>",
                key.trim(),
                escape(&row.arm)
            );
        }
        html += &format!("<td>{}</td>", row.density);
        let result = |on: RankedOn| {
            let (mean, deviation) = row.result(by, on);
            cell(mean, |mean| by.text_and_deviation(mean, deviation))
        };
        html += &result(summary.ranked_on);
        if with_dense {
            html += &cell(row.minus_dense(by), |difference| by.difference(difference));
        }
        if validated {
            html += &result(RankedOn::Test);
        }
        let all = row.runs + row.unfinished;
        let of_all = if row.unfinished == 0 { String::new() } else { format!(" of {all}") };
        html += &format!("<td>{}{of_all}</td>", row.runs);
        html += &cell(row.train_flops_ratio, significant);
        html += &cell(row.inference_flops_ratio, significant);
        html += &cell(row.train_seconds_mean, |mean| significant(mean / unit.seconds));
        if with_dense {
            html += &cell(row.train_seconds_ratio, significant);
        }
        html += &cell(row.step_time_ns, |ns| significant(ns / 1e6));
        html +=
            &cell(row.peak_rss_bytes.map(|bytes| bytes as f64 / 1_048_576.0), |mebibytes| format!("{mebibytes:.0}"));
        if published {
            let text = row.published_text();
            html += &format!("<td>{}</td>", if text.is_empty() { "–" } else { &text });
        }
        html += "</tr>\n";
    }
    html += "</tbody>\n</table></div>\n";
    let results_are = match by {
        Measure::Accuracy => "Accuracies are",
        Measure::BitsPerCharacter => "Bits per character, of which fewer are better, are",
    };
    let mut notes = vec![format!(
        "{results_are} those at the end of a run, never the best along the way; s.d. is the sample standard deviation over the seeds."
    )];
    if validated {
        notes.push(match by {
            Measure::Accuracy => {
                "Arms are compared by validation accuracy. The test accuracy beside it had no part in any choice."
                    .to_owned()
            }
            Measure::BitsPerCharacter => {
                "Arms are compared by the validation text. The test text beside it had no part in any choice."
                    .to_owned()
            }
        });
    }
    if with_dense {
        notes.push("“vs dense” is the mean difference from the dense run with the same seed.".to_owned());
    }
    if let Some(reference) = &results.reference {
        notes.push(format!(
            "Operations are relative to the dense {}, trained for as long as the common settings say.",
            escape(&reference.model)
        ));
    }
    notes.push(
        "“Step” is the best time of a training step between topology updates; “Memory” is the peak memory of a run's process."
            .to_owned(),
    );
    html += &format!("<p class=\"note\">{}</p>\n", notes.join(" "));
    html += &sources(summary);
    Ok(html + "</section>\n")
}

/// Where published numbers are from.
fn sources(summary: &Summary) -> String {
    let mut items: Vec<(String, Vec<String>)> = Vec::new();
    for row in &summary.rows {
        for published in &row.published {
            let parts = [published.source.as_deref(), published.note.as_deref()];
            let text = parts.iter().flatten().map(|text| escape(text)).collect::<Vec<_>>().join("; ");
            let number = results_text(Measure::Accuracy, published.accuracy, published.deviation);
            let what = format!("{} at density {} ({number})", escape(&row.arm), row.density);
            match items.iter_mut().find(|(other, _)| *other == text) {
                _ if text.is_empty() => {}
                Some((_, of_text)) => of_text.push(what),
                None => items.push((text, vec![what])),
            }
        }
    }
    if items.is_empty() {
        return String::new();
    }
    let items: String = items.iter().map(|(text, of)| format!("<li>{text}: {}</li>\n", of.join(", "))).collect();
    format!("<h3>Published numbers</h3>\n<ul class=\"note\">\n{items}</ul>\n")
}

fn legend(results: &Results) -> Result<String, ComparisonError> {
    let mut html = "<fieldset class=\"legend\" aria-label=\"Arms; untick one to hide it in the figures\">\n".to_owned();
    for (arm, name) in results.arms.iter().enumerate() {
        let key = charts::key(results, arm)?;
        let _ = writeln!(
            html,
            "<label class=\"key\"><input type=\"checkbox\" id=\"arm{arm}\" checked>{}{}</label>",
            key.trim(),
            escape(name)
        );
    }
    Ok(html + "</fieldset>\n")
}

fn figure(figure: &Figure) -> String {
    let Figure { title, svg, caption } = figure;
    format!("<figure>\n<h3>{}</h3>\n{svg}<figcaption>{}</figcaption>\n</figure>\n", escape(title), escape(caption))
}

/// A section of figures, or nothing without any.
fn section(title: &str, figures: &[Figure], class: &str) -> String {
    if figures.is_empty() {
        return String::new();
    }
    let figures: String = figures.iter().map(figure).collect();
    format!("<section>\n<h2>{title}</h2>\n<div class=\"figures{class}\">\n{figures}</div>\n</section>\n")
}

const BY_ARM: &str = " by-arm";

fn costs(results: &Results, summary: &Summary) -> Result<String, ComparisonError> {
    let figures =
        [charts::against_cost(results, summary, Cost::Flops)?, charts::against_cost(results, summary, Cost::Seconds)?];
    let title = match summary.ranked_by {
        Measure::Accuracy => "Accuracy and its cost",
        Measure::BitsPerCharacter => "Bits per character and their cost",
    };
    Ok(section(title, &figures, BY_ARM))
}

fn training(results: &Results) -> Result<String, ComparisonError> {
    let by = Measure::of(results);
    let judged = Judged::of(results, by);
    let mut densities: Vec<Option<f64>> = charts::densities(results).into_iter().map(Some).collect();
    if densities.is_empty() {
        densities.push(None);
    }
    let mut figures = Vec::new();
    for density in densities {
        for quantity in [Some(Quantity::Loss), judged.map(|judged| Quantity::Result(by, judged))].into_iter().flatten()
        {
            figures.extend(charts::training_curves(results, density, quantity)?);
        }
    }
    Ok(section("Training", &figures, BY_ARM))
}

fn steps(results: &Results, summary: &Summary) -> Result<String, ComparisonError> {
    let figures: Vec<_> = charts::step_times(results, summary)?.into_iter().collect();
    Ok(section("Time of a step", &figures, BY_ARM))
}

fn layers(results: &Results) -> Result<String, ComparisonError> {
    let mut figures = Vec::new();
    for density in charts::densities(results) {
        figures.extend(charts::layer_densities(results, density)?);
    }
    let mut html = section("Densities of the layers", &figures, BY_ARM);
    let mut changing = Vec::new();
    for group in &results.groups {
        changing.extend(charts::layer_history(results, group)?);
    }
    html += &section("Densities of the layers over time", &changing, "");
    Ok(html)
}

fn masks(results: &Results) -> Result<String, ComparisonError> {
    let mut html = String::new();
    for density in charts::densities(results) {
        if let Some(maps) = heat_map::maps(results, density)? {
            html += &strips(results, &maps);
        }
    }
    if html.is_empty() {
        return Ok(html);
    }
    let words = "How many connections the first layer has to each pixel of an image. Pixels that a network has learned to ignore \
                 are dark. For images with several channels, the map shows the sum over the channels.";
    Ok(format!("<section>\n<h2>Where the networks look</h2>\n<p>{words}</p>\n{html}</section>\n"))
}

fn strips(results: &Results, maps: &Maps) -> String {
    let mut html = format!("<h3>Density {}</h3>\n", maps.density);
    let most = Significant(maps.most);
    let _ = writeln!(
        html,
        "<div class=\"scale\"><span>0</span><img src=\"{}\" alt=\"colours from dark violet to yellow\"><span>{most} or more \
         connections per pixel</span></div>",
        maps.scale
    );
    html += "<div class=\"maps\">\n";
    for row in &maps.rows {
        let name = escape(&results.arms[row.arm]);
        let of_runs = if row.runs == 1 { "one run".to_owned() } else { format!("mean over {} seeds", row.runs) };
        let still = if row.unchanged_until.is_some() { "; the connections do not change" } else { "" };
        let _ = writeln!(
            html,
            "<figure class=\"row\">\n<figcaption><strong>{name}</strong>, {of_runs}{still}</figcaption>"
        );
        html += "<div class=\"strip\">\n";
        for (step, uri) in &row.maps {
            let when = match row.unchanged_until {
                Some(last) => format!("step {step} to {last}"),
                None => format!("step {step}"),
            };
            let _ = writeln!(html, "<div><img src=\"{uri}\" alt=\"{name}, {when}\"><span>{when}</span></div>");
        }
        html += "</div>\n</figure>\n";
    }
    html + "</div>\n"
}

/// A setting for people; none for those that are not given.
fn setting_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) => Some(items.iter().filter_map(setting_text).collect::<Vec<_>>().join(", ")),
        other => Some(other.to_string()),
    }
}

fn what_was_run(results: &Results) -> String {
    let folders: Vec<&RunFolder> = results.folders().collect();
    let mut html = "<section>\n<h2>What was run</h2>\n".to_owned();
    let settings: Vec<BTreeMap<String, Value>> =
        folders.iter().map(|folder| deciding_settings(&folder.config)).collect();
    let Some(first) = settings.first() else { return html + "<p>Nothing yet.</p>\n</section>\n" };
    let is_common = |key: &str| settings.iter().all(|other| other.get(key) == first.get(key));
    let defaults = deciding_settings(&TrainConfig::default());
    html += "<h3>Settings of all runs</h3>\n<p class=\"note\">Settings that differ from the defaults are bold.</p>\n";
    html += "<dl class=\"settings\">\n";
    for (key, value) in first.iter().filter(|(key, _)| is_common(key)) {
        let Some(text) = setting_text(value) else { continue };
        let class = if defaults.get(key) == Some(value) { "" } else { " class=\"changed\"" };
        let _ = writeln!(html, "<div{class}><dt>{}</dt><dd>{}</dd></div>", escape(key), escape(&text));
    }
    html += "</dl>\n";
    // Arms that have their method's name say it.
    let named = results.groups.iter().all(|group| results.arms[group.arm] == group.method);
    let told = |key: &str| ["seed", "density"].contains(&key) || key == "method" && named;
    let varying: Vec<&String> = first.keys().filter(|key| !is_common(key) && !told(key)).collect();
    html += &differing(results, &varying);
    html + &machines(&folders) + "</section>\n"
}

/// Groups with the same values of some settings.
struct Alike {
    values: Vec<String>,
    /// Arms and densities.
    groups: Vec<(usize, f64)>,
}

/// Arms with the same values of these settings share a row.
fn differing(results: &Results, keys: &[&String]) -> String {
    if keys.is_empty() {
        return String::new();
    }
    let mut rows: Vec<Alike> = Vec::new();
    for group in &results.groups {
        let Some(folder) = group.runs.iter().find_map(|run| run.folder.as_ref()) else { continue };
        let own = deciding_settings(&folder.config);
        let values: Vec<String> =
            keys.iter().map(|key| own.get(*key).and_then(setting_text).unwrap_or("–".to_owned())).collect();
        match rows.iter_mut().find(|other| other.values == values) {
            Some(other) => other.groups.push((group.arm, group.density)),
            None => rows.push(Alike { values, groups: vec![(group.arm, group.density)] }),
        }
    }
    let mut html =
        "<h3>Settings that differ</h3>\n<div class=\"scroll\"><table>\n<thead><tr><th class=\"text\">Arm</th>"
            .to_owned();
    keys.iter().for_each(|key| html += &format!("<th class=\"text\">{}</th>", escape(key)));
    html += "</tr></thead>\n<tbody>\n";
    for Alike { values, groups } in rows {
        let mut names: Vec<String> = Vec::new();
        for (arm, name) in results.arms.iter().enumerate() {
            let densities = |groups: &mut dyn Iterator<Item = (usize, f64)>| -> Vec<f64> {
                groups.filter(|(of, _)| *of == arm).map(|(_, density)| density).collect()
            };
            let here = densities(&mut groups.iter().copied());
            let all = densities(&mut results.groups.iter().map(|group| (group.arm, group.density)));
            match here.len() {
                0 => {}
                some if some == all.len() => names.push(name.clone()),
                _ => names.push(format!("{name} at {}", list(&here))),
            }
        }
        html += &format!("<tr><th class=\"text\" scope=\"row\">{}</th>", escape(&list(&names)));
        values.iter().for_each(|value| html += &format!("<td class=\"text\">{}</td>", escape(value)));
        html += "</tr>\n";
    }
    html + "</tbody>\n</table></div>\n"
}

fn machines(folders: &[&RunFolder]) -> String {
    let mut machines: Vec<(&Machine, usize)> = Vec::new();
    for machine in folders.iter().filter_map(|folder| folder.machine.as_ref()) {
        match machines.iter_mut().find(|(other, _)| *other == machine) {
            Some((_, count)) => *count += 1,
            None => machines.push((machine, 1)),
        }
    }
    if machines.is_empty() {
        return String::new();
    }
    let mut html = "<h3>Machine</h3>\n".to_owned();
    if machines.len() > 1 {
        html += "<p class=\"warning\">The runs were not all made on the same machine in the same way: their times are not comparable.</p>\n";
    }
    html += "<ul>\n";
    for (machine, count) in &machines {
        let Machine { cpu, system, cores, threads, isa, version } = machine;
        let of = if machines.len() > 1 { format!(" ({})", plural(*count, "run")) } else { String::new() };
        let _ = writeln!(
            html,
            "<li>{}, {} of {} used, instruction set {}, {}, rigl {}{of}</li>",
            escape(cpu),
            plural(*threads as usize, "thread"),
            plural(*cores as usize, "core"),
            escape(isa),
            escape(system),
            escape(version)
        );
    }
    html + "</ul>\n"
}

fn runs(results: &Results, summary: &Summary) -> String {
    let validated = summary.ranked_on == RankedOn::Validation;
    let mut html = "<section>\n<h2>Runs</h2>\n<div class=\"scroll\"><table class=\"runs\">\n<thead><tr>".to_owned();
    html += "<th class=\"text\">Arm</th><th>Density</th><th>Seed</th>";
    let (by, unit) = (summary.ranked_by, summary.ranked_by.unit());
    if validated {
        html += &format!("<th>Validation<small>{unit}</small></th>");
    }
    html += &format!("<th>Test<small>{unit}</small></th><th>Test loss</th>");
    html += "<th>Training<small>s</small></th><th>Step<small>ms</small></th><th class=\"text\">Folder</th></tr></thead>\n<tbody>\n";
    for (i, group) in results.groups.iter().enumerate() {
        for (j, run) in group.runs.iter().enumerate() {
            let first = j == 0 && (i == 0 || results.groups[i - 1].arm != group.arm);
            html += if first { "<tr class=\"first\">" } else { "<tr>" };
            let name = if j == 0 { escape(&results.arms[group.arm]) } else { String::new() };
            html +=
                &format!("<th class=\"text\" scope=\"row\">{name}</th><td>{}</td><td>{}</td>", group.density, run.seed);
            let folder = run.folder.as_ref();
            match folder.and_then(|folder| Some((folder, folder.done.as_ref()?))) {
                Some((folder, done)) => {
                    if validated {
                        html += &cell(by.at_end(RankedOn::Validation, folder), |value| by.text(value));
                    }
                    html += &cell(by.at_end(RankedOn::Test, folder), |value| by.text(value));
                    html += &cell(Some(done.test_loss), |loss| format!("{loss:.4}"));
                    html += &cell(Some(done.train_seconds), |seconds| Significant(seconds).to_string());
                    html += &cell(done.step_time_ns.map(|ns| ns as f64 / 1e6), |ms| Significant(ms).to_string());
                }
                None => {
                    let epochs = run.folder.as_ref().map_or(0, |folder| folder.epochs.len());
                    let state = match (&run.failure, &run.folder) {
                        (Some(message), _) => format!("failed: {message}"),
                        (None, None) => "not started".to_owned(),
                        (None, Some(_)) => format!("not finished, {}", plural(epochs, "epoch")),
                    };
                    html += &format!(
                        "<td class=\"text state\" colspan=\"{}\">{}</td>",
                        4 + u8::from(validated),
                        escape(&state)
                    );
                }
            }
            html += &format!("<td class=\"text\"><code>{}</code></td></tr>\n", escape(&run.path.display().to_string()));
        }
    }
    html + "</tbody>\n</table></div>\n</section>\n"
}

#[cfg(test)]
mod tests {
    use super::super::testing::Made;
    use super::super::{Definition, write_report};
    use super::*;

    /// Every element that is opened is closed, in order.
    fn check_balance(html: &str) {
        const VOID: [&str; 4] = ["meta", "img", "input", "!doctype"];
        let mut open: Vec<&str> = Vec::new();
        for tag in html.split('<').skip(1).map(|part| part.split('>').next().unwrap_or_default()) {
            let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap_or_default();
            if tag.starts_with('/') {
                assert_eq!(open.pop(), Some(name), "before {}", &html[..html.find(tag).unwrap_or(0).min(200)]);
            } else if !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?} are left open");
    }

    fn comparison(text: &str, made: impl Fn(&str, f64, u64) -> Option<Made>) -> (tempfile::TempDir, Results) {
        let out = tempfile::tempdir().unwrap();
        let definition = Definition::read_text(text);
        std::fs::create_dir(out.path().join("runs")).unwrap();
        for place in definition.runs() {
            let arm = &definition.arms[place.arm];
            if let Some(made) = made(&arm.method, place.density, place.seed) {
                made.write(&out.path().join("runs").join(&place.name));
            }
        }
        let results = Results::of_comparison(&definition, out.path()).unwrap();
        (out, results)
    }

    /// 30 runs of 200 epochs, with maps of their connections and densities that change.
    #[test]
    fn a_report_of_many_runs_is_small_and_needs_nothing_else() {
        let text = "title = 'Many'\n[compare]\ndensities = [0.2, 0.1, 0.05]\nseeds = 3\n\
            [[arm]]\nname = 'dense'\nmethod = 'dense'\n[[arm]]\nname = 'static'\nmethod = 'static'\n\
            [[arm]]\nname = 'set'\nmethod = 'set'\n[[arm]]\nname = 'rigl'\nmethod = 'rigl'\n";
        let (out, results) = comparison(text, |method, density, seed| {
            let accuracy = 0.8 + 0.01 * density + 0.001 * seed as f64;
            let (moves, changes) = (method != "static", method == "set");
            Some(Made { epochs: 200, moves, changes, ..Made::new(method, density, seed, accuracy) })
        });
        assert_eq!(results.progress(), [30, 30]);
        write_report(&results, out.path()).unwrap();
        let html = std::fs::read_to_string(out.path().join("report.html")).unwrap();
        assert!(html.len() < 2_000_000, "{} bytes", html.len());
        println!("30 runs of 200 epochs make {} bytes", html.len());
        check_balance(&html);
        for outside in ["http:", "https:", "<script", "<link", "@import", "url("] {
            assert!(!html.contains(outside), "{outside}");
        }
        for part in [
            "<title>Many</title>",
            "In short",
            "Accuracy and its cost",
            "Densities of the layers over time",
            "Where the networks look",
            "the connections do not change",
            "step 24000",
            "Settings of all runs",
            "prefers-color-scheme:dark",
            "@media print",
        ] {
            assert!(html.contains(part), "{part}");
        }
        // Each figure has a caption, and no colour of the drawing library is left.
        let count = |text: &str| html.matches(text).count();
        assert_eq!(count("<figure"), count("<figcaption"));
        assert!(!html.contains("=\"#0000"));
        for name in ["accuracy-flops.svg", "accuracy-seconds.svg"] {
            let svg = std::fs::read_to_string(out.path().join(name)).unwrap();
            check_balance(&svg);
            assert!(svg.starts_with("<svg xmlns=") && svg.contains("prefers-color-scheme:dark"), "{name}");
            assert!(
                ["dense", "static", "set", "rigl"].iter().all(|arm| svg.contains(&format!(">\n{arm}</text>"))),
                "{svg}"
            );
        }
        let json: Value = serde_json::from_slice(&std::fs::read(out.path().join("summary.json")).unwrap()).unwrap();
        assert_eq!((json["rows"].as_array().unwrap().len(), &json["event"]), (10, &"summary".into()));
    }

    /// With more arms than colours and marks, each curve has its name behind it and a look of its own.
    #[test]
    fn twelve_arms_are_told_apart() {
        let arms: String = (0..12).map(|arm| format!("[[arm]]\nname = 'arm {arm}'\nmethod = 'set'\n")).collect();
        let (_out, results) = comparison(&format!("[compare]\nseeds = 1\n{arms}"), |method, density, seed| {
            Some(Made { epochs: 3, ..Made::new(method, density, seed, 0.8) })
        });
        let html = page(&results, &Summary::of(&results)).unwrap();
        check_balance(&html);
        let section = html.split("<h2>").find(|section| section.starts_with("Training<")).unwrap();
        for arm in 0..12 {
            let [_, line, _, name] = Ink::all_of(arm + 1).map(|ink| ink.class());
            for figure in section.split("<figure>").skip(1) {
                assert!(figure.contains(&format!("class=\"s{line}\"")), "the curve of arm {arm}");
                assert!(figure.contains(&format!("class=\"f{name}\">\narm {arm}</text>")), "the name of arm {arm}");
            }
            assert!(html.contains(&format!("#arm{arm}:not(:checked)")));
        }
        assert_eq!(section.matches("<figure>").count(), 2);
    }

    #[test]
    fn text_of_others_is_only_text() {
        let evil = "<script>alert('x')</script> & \"more\"";
        let definition = format!(
            "title = '''{evil}'''\nnotes = '''{evil}'''\nsource = '''{evil}'''\n[compare]\nseeds = 2\n\
             [[arm]]\nname = '''<b>&\"x\"'''\nmethod = 'rigl'\n\
             [[published]]\narm = '''<b>&\"x\"'''\ndensity = 0.1\naccuracy = 0.5\nnote = '''{evil}'''\n"
        );
        // One run is not finished, one arm alone, a single epoch: what there is is shown.
        let (out, results) = comparison(&definition, |method, density, seed| {
            let accuracy = (seed == 0).then_some(0.8);
            Some(Made { epochs: 1, accuracy, ..Made::new(method, density, seed, 0.0) })
        });
        write_report(&results, out.path()).unwrap();
        let html = std::fs::read_to_string(out.path().join("report.html")).unwrap();
        check_balance(&html);
        assert!(!html.contains("<script") && !html.contains("<b>"));
        assert!(html.matches("&lt;script&gt;").count() >= 4);
        assert!(html.contains("1 of 2 runs are finished") && html.contains("not finished, 1 epoch"), "{html}");
        check_balance(&std::fs::read_to_string(out.path().join("accuracy-flops.svg")).unwrap());
    }

    /// As long as nothing is finished there is a page that says so.
    #[test]
    fn without_finished_runs_there_is_a_page() {
        let (_out, results) = comparison("[[arm]]\nname = 'a'\nmethod = 'set'\n", |_, _, _| None);
        let html = page(&results, &Summary::of(&results)).unwrap();
        check_balance(&html);
        assert!(html.contains("0 of 3 runs are finished") && html.contains("not started"));
    }

    /// Without sparse arms there are no densities to show figures of.
    #[test]
    fn a_dense_network_alone_is_reported() {
        let text = "[compare]\nseeds = 2\n[[arm]]\nname = 'dense'\nmethod = 'dense'\n";
        let (_out, results) = comparison(text, |method, density, seed| Some(Made::new(method, density, seed, 0.8)));
        let html = page(&results, &Summary::of(&results)).unwrap();
        check_balance(&html);
        for (part, shown) in
            [("The dense network reaches", true), ("<h2>Training</h2>", true), ("networks look", false)]
        {
            assert_eq!(html.contains(part), shown, "{part}");
        }
    }

    #[test]
    fn the_best_arm_is_named_with_how_sure_that_is() {
        let text = "[compare]\nseeds = 3\n[[arm]]\nname = 'set'\nmethod = 'set'\n[[arm]]\nname = 'rigl'\nmethod = 'rigl'\n\
            [[arm]]\nname = 'dense'\nmethod = 'dense'\n";
        let short = |ahead: [f64; 3]| {
            let (_out, results) = comparison(text, |method, density, seed| {
                let more = if method == "rigl" { ahead[seed as usize] } else { 0.0 };
                let dense = if method == "dense" { 0.05 } else { 0.0 };
                Some(Made::new(method, density, seed, 0.8 + 0.02 * seed as f64 + more + dense))
            });
            in_short(&results, &Summary::of(&results))
        };
        let clear = short([0.020, 0.021, 0.022]);
        assert!(
            clear.contains(
                "rigl has the highest mean test accuracy, 84.10\u{a0}±\u{a0}2.10\u{a0}%, −2.90 points against dense"
            ),
            "{clear}"
        );
        assert!(clear.contains("set is next, 2.10 ± 0.06 points behind"), "{clear}");
        let chance = short([0.02, -0.02, 0.01]);
        assert!(chance.contains("The difference from set is within noise: +0.33 ± 1.20 points"), "{chance}");
    }

    /// Validation and test accuracy would rank the arms differently.
    #[test]
    fn with_validation_samples_the_test_set_does_not_rank() {
        let text = "[compare]\nseeds = 2\n[[arm]]\nname = 'set'\nmethod = 'set'\n[[arm]]\nname = 'rigl'\nmethod = 'rigl'\n\
            [[arm]]\nname = 'dense'\nmethod = 'dense'\n[[published]]\narm = 'set'\ndensity = 0.1\naccuracy = 0.87\n";
        let validation = |method: &str| match method {
            "set" => 0.8,
            "rigl" => 0.85,
            _ => 0.9,
        };
        let made = |method: &str, density, seed, is_validated: bool| {
            let made = Made::new(method, density, seed, 1.5 - validation(method) + 0.001 * seed as f64);
            if is_validated { made.validated(validation(method) + 0.002 * seed as f64) } else { made }
        };
        let (_out, results) = comparison(text, |method, density, seed| Some(made(method, density, seed, true)));
        let summary = Summary::of(&results);
        assert_eq!(summary.ranked_on, RankedOn::Validation);
        let differences: Vec<_> = summary.rows.iter().map(|row| row.accuracy_minus_dense_mean).collect();
        assert!((differences[0].unwrap() + 0.1).abs() < 1e-9 && (differences[1].unwrap() + 0.05).abs() < 1e-9);
        let html = page(&results, &summary).unwrap();
        check_balance(&html);
        for part in [
            "The dense network reaches 90.10\u{a0}±\u{a0}0.14\u{a0}% on the validation samples",
            "rigl has the highest mean validation accuracy, 85.10",
            "the test set has no part in the ranking",
            "Validation accuracy in percent against the operations",
            "validation accuracy in %",
        ] {
            assert!(html.contains(part), "{part}");
        }
        // Published accuracies are on the test set: they stand in the table, not in the figure of validation accuracies.
        assert!(!html.contains("Hollow diamonds") && html.contains("<td>87.00</td>"));
        let shown = summary.to_string();
        assert!(shown.contains("85.10 ± 0.14") && shown.contains("ranked by validation accuracy"), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");

        // One run without such samples, and only the test set is common to all.
        let (_out, results) =
            comparison(text, |method, density, seed| Some(made(method, density, seed, method != "set")));
        let summary = Summary::of(&results);
        let html = page(&results, &summary).unwrap();
        assert!(html.contains("set has the highest mean test accuracy") && html.contains("Hollow diamonds"));
        assert!(summary.to_string().lines().all(|line| line.chars().count() <= 80), "{summary}");
    }
}
