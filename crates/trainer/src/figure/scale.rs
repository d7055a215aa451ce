//! Axes: the range of numbers, linear or logarithmic, and where it is labelled.

/// An axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    /// What is on it, with its unit.
    pub title: String,
    /// Its ends, mapped.
    pub ends: [f64; 2],
    /// Mapped places and their labels.
    pub ticks: Vec<(f64, String)>,
    logarithmic: bool,
}

/// Ranges that span more than this factor are logarithmic where they may be.
const WIDE: f64 = 6.0;
/// Share of the range left free at each end.
const MARGIN: f64 = 0.06;

impl Scale {
    /// A linear axis over `values`, with about `ticks` labels.
    pub fn linear(title: impl Into<String>, values: impl IntoIterator<Item = f64>, ticks: usize) -> Self {
        let [mut low, mut high] = range(values);
        if high - low < 1e-9 * high.abs().max(1e-9) {
            (low, high) = (low - 0.05 * low.abs().max(1e-6), high + 0.05 * high.abs().max(1e-6));
        }
        let margin = MARGIN * (high - low);
        Self::between(title, low - margin, high + margin, ticks)
    }

    /// A linear axis with these ends.
    pub fn between(title: impl Into<String>, low: f64, high: f64, ticks: usize) -> Self {
        let step = nice_step((high - low) / ticks.max(1) as f64);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let ticks = (first..=last).map(|i| (i as f64 * step, label(i as f64 * step, step))).collect();
        Self { title: title.into(), ends: [low, high], ticks, logarithmic: false }
    }

    /// An axis without numbers, from 0 to 1: rows of words stand there.
    pub fn rows() -> Self {
        Self { title: String::new(), ends: [0.0, 1.0], ticks: vec![], logarithmic: false }
    }

    /// A logarithmic axis over `values`, which are above 0.
    pub fn logarithmic(title: impl Into<String>, values: impl IntoIterator<Item = f64>) -> Self {
        let [low, high] = range(values).map(|value| value.max(f64::MIN_POSITIVE).log10());
        let margin = if high - low < 1e-9 { 0.1 } else { MARGIN * (high - low) };
        let ends = [low - margin, high + margin];
        let inside = |tick: &f64| (ends[0]..=ends[1]).contains(&tick.log10());
        let decades = (ends[0].floor() as i32)..=(ends[1].ceil() as i32);
        let with = |factors: &[f64]| -> Vec<f64> {
            let all = decades.clone().flat_map(|decade| factors.iter().map(move |f| f * 10f64.powi(decade)));
            all.filter(inside).collect()
        };
        let fine = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0];
        let choices = [with(&[1.0, 2.0, 5.0]), with(&[1.0, 3.0]), with(&[1.0]), with(&fine)];
        let enough = choices.iter().position(|ticks| (3..=7).contains(&ticks.len()));
        let ticks = enough.map_or_else(|| choices[3].clone(), |choice| choices[choice].clone());
        let ticks = ticks.into_iter().map(|tick| (tick.log10(), label(tick, tick))).collect();
        Self { title: format!("{} (log scale)", title.into()), ends, ticks, logarithmic: true }
    }

    /// Logarithmic if `values` span a wide range, else linear.
    pub fn fitting(title: impl Into<String>, values: &[f64], ticks: usize) -> Self {
        let [low, high] = range(values.iter().copied());
        match low > 0.0 && high / low > WIDE {
            true => Self::logarithmic(title, values.iter().copied()),
            false => Self::linear(title, values.iter().copied(), ticks),
        }
    }

    /// Where a number lies between the ends.
    pub fn map(&self, value: f64) -> f64 {
        if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value }
    }
}

fn range(values: impl IntoIterator<Item = f64>) -> [f64; 2] {
    let finite = values.into_iter().filter(|value| value.is_finite());
    let ends = finite.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], v| [low.min(v), high.max(v)]);
    if ends[0] <= ends[1] { ends } else { [0.0, 1.0] }
}

/// The next larger of 1, 2, 2.5 and 5 times a power of ten.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.max(f64::MIN_POSITIVE).log10().floor());
    let factor = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * power >= step * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// A number with the decimals that its step has; thousands as k.
fn label(value: f64, step: f64) -> String {
    let value = if value.abs() < 1e-9 * step.abs() { 0.0 } else { value };
    if value.abs() >= 10_000.0 && (value / 1000.0).fract().abs() < 1e-9 {
        return format!("{}k", value / 1000.0);
    }
    let decimals = (0..12).find(|&d| ((step * 10f64.powi(d)).round() / 10f64.powi(d) - step).abs() < 1e-6 * step.abs());
    format!("{value:.*}", decimals.unwrap_or(12) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<&str> {
        scale.ticks.iter().map(|(_, label)| label.as_str()).collect()
    }

    #[test]
    fn ticks_are_round_and_within_the_ends() {
        let scale = Scale::linear("%", [85.2, 88.9], 5);
        assert_eq!(labels(&scale), ["85", "86", "87", "88", "89"]);
        assert_eq!(labels(&Scale::between("steps", 0.0, 24_000.0, 5)), ["0", "5000", "10k", "15k", "20k"]);
        assert_eq!(labels(&Scale::linear("%", [86.71, 86.73], 3)), ["86.71", "86.72", "86.73"]);
        // One number has a range around it.
        let one = Scale::linear("s", [2.0], 4);
        assert!(one.ends[0] < 2.0 && one.ends[1] > 2.0 && one.ticks.len() >= 2, "{one:?}");
        let none = Scale::linear("s", [], 4);
        assert!(none.ends[0] < none.ends[1]);
    }

    #[test]
    fn wide_ranges_are_logarithmic() {
        let scale = Scale::fitting("ratio", &[0.02, 0.1, 1.0], 5);
        assert_eq!(labels(&scale), ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]);
        assert!((scale.map(0.1) + 1.0).abs() < 1e-12);
        assert_eq!(
            labels(&Scale::logarithmic("", [0.001, 1000.0])),
            ["0.001", "0.01", "0.1", "1", "10", "100", "1000"]
        );
        let narrow = Scale::logarithmic("", [0.9, 1.7]);
        assert!(narrow.ticks.len() >= 2, "{narrow:?}");
        assert_eq!(Scale::fitting("", &[0.5, 1.0], 4).map(0.5), 0.5);
        let one = Scale::logarithmic("", [1.0]);
        assert_eq!((labels(&one), one.ends), (vec!["0.8", "1"], [-0.1, 0.1]));
    }
}
