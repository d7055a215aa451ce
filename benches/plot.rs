//! Speed-up over dense against density, as an SVG: `cargo run --release -p rigl-benches --bin plot -- RECORDS.jsonl OUT.svg`.
//!
//! A line for each operation and format of the uniform patterns in a file of `rigl bench kernel --json`; each point is the
//! geometric mean over the shapes that were measured at the most densities, the same for all points of a line. Standard error
//! says what is left out and what is missing.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use plotters::prelude::*;
use serde_json::Value;

/// A line for each colour; more begin again.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 90, 181),
    RGBColor(220, 50, 32),
    RGBColor(0, 150, 130),
    RGBColor(180, 100, 200),
    RGBColor(230, 150, 0),
    RGBColor(120, 170, 230),
    RGBColor(240, 150, 140),
    RGBColor(120, 120, 120),
];

/// Densities no further apart are one: blocks that reach beyond an edge add to what was asked for.
const SAME: f64 = 1.05;

/// One line: the points at each density, and the shapes that each is a mean over.
type Line = BTreeMap<usize, BTreeMap<String, f64>>;

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [records, to] = &arguments[..] else { bail!("two arguments are needed: RECORDS.jsonl OUT.svg") };
    let text = fs::read_to_string(records).with_context(|| format!("cannot read {records}"))?;
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let record: Value = serde_json::from_str(line).with_context(|| format!("{records}, line {}", i + 1))?;
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        if record["event"] != "kernel" || record["pattern"] != "uniform" {
            continue;
        }
        let (Some(density), Some(speedup)) = (record["density"].as_f64(), record["speedup"].as_f64()) else { continue };
        found.push((format!("{}, {}", text("op"), text("format")), density, text("shape"), speedup));
    }
    ensure!(!found.is_empty(), "{records} holds no kernel record of a uniform pattern");
    let densities = distinct(found.iter().map(|(_, density, ..)| *density).collect());
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    for (line, density, shape, speedup) in found {
        let at = densities.partition_point(|&first| first <= density) - 1;
        let best = lines.entry(line).or_default().entry(at).or_default().entry(shape).or_insert(speedup);
        *best = best.max(speedup);
    }
    for (name, line) in &mut lines {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        line.values().flat_map(BTreeMap::keys).for_each(|shape| *counts.entry(shape.clone()).or_default() += 1);
        let most = counts.values().copied().max().unwrap_or(0);
        let (common, others): (BTreeMap<_, _>, BTreeMap<_, _>) =
            counts.into_iter().partition(|&(_, count)| count == most);
        line.values_mut().for_each(|points| points.retain(|shape, _| common.contains_key(shape)));
        line.retain(|_, points| points.len() == common.len());
        if !others.is_empty() {
            let others = others.into_keys().collect::<Vec<_>>().join(", ");
            eprintln!("{name}: without {others}, which fewer densities have");
        }
        let without: Vec<_> = (0..densities.len()).filter(|at| !line.contains_key(at)).collect();
        if !without.is_empty() {
            let without: Vec<_> = without.iter().map(|&at| format!("{:.3}", densities[at])).collect();
            eprintln!("{name}: nothing at {}", without.join(", "));
        }
    }
    draw(&lines, &densities, Path::new(to)).with_context(|| format!("cannot draw {to}"))
}

/// The first of each run of densities that count as one, ascending.
fn distinct(mut densities: Vec<f64>) -> Vec<f64> {
    densities.sort_by(f64::total_cmp);
    let mut firsts: Vec<f64> = Vec::new();
    for density in densities {
        if firsts.last().is_none_or(|&first| density > SAME * first) {
            firsts.push(density);
        }
    }
    firsts
}

fn draw(lines: &BTreeMap<String, Line>, densities: &[f64], to: &Path) -> Result<()> {
    let mean = |values: &BTreeMap<String, f64>| {
        (values.values().map(|value| value.ln()).sum::<f64>() / values.len() as f64).exp()
    };
    let points = |line: &Line| line.iter().map(|(&at, values)| (densities[at], mean(values))).collect::<Vec<_>>();
    let lines: Vec<_> = lines.iter().map(|(name, line)| (name, points(line))).collect();
    let (sparsest, densest) = (densities[0] / 1.1, densities[densities.len() - 1] * 1.1);
    let heights = lines.iter().flat_map(|(_, points)| points).map(|&(_, speedup)| speedup);
    let (lowest, highest) = heights.fold((0.9, 2.0), |(low, high), height| (height.min(low), height.max(high)));
    let root = SVGBackend::new(to, (800, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(60)
        .build_cartesian_2d((sparsest..densest).log_scale(), (lowest / 1.1..highest * 1.5).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("density")
        .y_desc("speed-up over dense")
        .label_style(("sans-serif", 15))
        .x_label_formatter(&|x| format!("{:.3}", x).trim_end_matches('0').to_owned())
        .y_label_formatter(&|y| format!("{y} ×"))
        .light_line_style(WHITE)
        .draw()?;
    let dash = BLACK.mix(0.5);
    let ideal = (0..=50)
        .map(|i| sparsest * (densest / sparsest).powf(f64::from(i) / 50.0))
        .map(|density| (density, 1.0 / density))
        .filter(|&(_, speedup)| speedup <= highest * 1.5);
    chart
        .draw_series(DashedLineSeries::new(ideal, 5, 5, dash.into()))?
        .label("time follows density")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], dash));
    for ((name, points), colour) in lines.iter().zip(COLOURS.into_iter().cycle()) {
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], style));
        chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 15))
        .draw()?;
    root.present()?;
    Ok(())
}
