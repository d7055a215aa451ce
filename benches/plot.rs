//! Speed-up over dense against density, as an SVG: `cargo run --release -p rigl-benches --bin plot -- RECORDS.jsonl OUT.svg`.
//!
//! Each point is the geometric mean over the grid's shapes, for the uniform patterns in a file written by `benches/record.sh`.

use std::collections::BTreeMap;
use std::path::Path;
use std::{env, fs};

use anyhow::{Context, Result, bail, ensure};
use plotters::prelude::*;
use rigl_benches::SHAPES;
use serde_json::Value;

/// Operation and format of each line, its label and its colour.
const LINES: [(&str, &str, &str, RGBColor); 6] = [
    ("spmm", "csr", "forward, CSR", RGBColor(0, 90, 181)),
    ("spmm_t", "csr", "input gradient, CSR", RGBColor(0, 150, 130)),
    ("sddmm", "csr", "weight gradient, CSR", RGBColor(220, 50, 32)),
    ("spmm", "bsr8x8", "forward, 8 × 8 blocks", RGBColor(120, 170, 230)),
    ("spmm_t", "bsr8x8", "input gradient, 8 × 8 blocks", RGBColor(120, 210, 190)),
    ("sddmm", "bsr8x8", "weight gradient, 8 × 8 blocks", RGBColor(240, 150, 140)),
];

/// The densities drawn, in percent.
const PERCENTS: [u32; 6] = [2, 5, 10, 20, 40, 50];

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [records, to] = &arguments[..] else { bail!("two arguments are needed: RECORDS.jsonl OUT.svg") };
    let text = fs::read_to_string(records).with_context(|| format!("cannot read {records}"))?;
    let mut speedups: BTreeMap<(String, String), BTreeMap<u32, Vec<f64>>> = BTreeMap::new();
    for (i, line) in text.lines().enumerate() {
        let record: Value = serde_json::from_str(line).with_context(|| format!("{records}, line {}", i + 1))?;
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let in_grid = SHAPES.iter().any(|[m, k, n]| text("shape") == format!("{m}x{k}x{n}"));
        if record["event"] != "kernel" || record["pattern"] != "uniform" || !in_grid {
            continue;
        }
        let (Some(density), Some(speedup)) = (record["density"].as_f64(), record["speedup"].as_f64()) else { continue };
        // The requested density: blocks that reach beyond an edge add to it.
        let Some(percent) = PERCENTS.into_iter().find(|&p| (100.0 * density / f64::from(p) - 1.0).abs() < 0.05) else {
            continue;
        };
        speedups.entry((text("op"), text("format"))).or_default().entry(percent).or_default().push(speedup);
    }
    ensure!(!speedups.is_empty(), "{records} holds no kernel record of a uniform pattern");
    draw(&speedups, Path::new(to)).with_context(|| format!("cannot draw {to}"))
}

fn draw(speedups: &BTreeMap<(String, String), BTreeMap<u32, Vec<f64>>>, to: &Path) -> Result<()> {
    let root = SVGBackend::new(to, (800, 520)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(14)
        .x_label_area_size(48)
        .y_label_area_size(60)
        .build_cartesian_2d((0.018f64..0.55).log_scale(), (0.9f64..60.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("density")
        .y_desc("speed-up over dense")
        .label_style(("sans-serif", 15))
        .x_label_formatter(&|x| format!("{:.2}", x).trim_end_matches('0').to_owned())
        .y_label_formatter(&|y| format!("{y} ×"))
        .light_line_style(WHITE)
        .draw()?;
    let dash = BLACK.mix(0.5);
    let ideal = (0..=50).map(|i| 0.02 * 25f64.powf(f64::from(i) / 50.0)).map(|density| (density, 1.0 / density));
    chart
        .draw_series(DashedLineSeries::new(ideal, 5, 5, dash.into()))?
        .label("time follows density")
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 24, y)], dash));
    for (op, format, label, colour) in LINES {
        let Some(points) = speedups.get(&(op.to_owned(), format.to_owned())) else { continue };
        let mean = |values: &[f64]| (values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp();
        // A density measured for only some shapes (the twin of another pattern) gives no mean over the grid.
        let points: Vec<(f64, f64)> = points
            .iter()
            .filter(|(_, values)| values.len() >= SHAPES.len())
            .map(|(&percent, values)| (f64::from(percent) / 100.0, mean(values)))
            .collect();
        let style = colour.stroke_width(2);
        chart
            .draw_series(LineSeries::new(points.iter().copied(), style))?
            .label(label)
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
