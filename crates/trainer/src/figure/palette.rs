//! Colours by role. A figure is drawn in codes, which become classes of a style sheet, so that it follows the light and dark
//! mode of who reads it.

use plotters::style::RGBColor;

/// What a stroke or an area is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// Words and axes.
    Text,
    /// What stands back: tick labels, notes.
    Muted,
    /// Grid lines.
    Grid,
    /// What lies behind all.
    Surface,
    /// The dashed line at the height of what the rest is held against: the dense network, the higher end of a path.
    Level,
    /// Of an arm, a layer or a path; see [`SERIES`].
    Series(usize),
    /// A curve of a series: its colour, and its dashes.
    Line(usize),
    /// What parts a marker of a series from what lies below it; goes and comes with the series.
    Rim(usize),
    /// The name of a series; goes and comes with it.
    Name(usize),
}

/// The colours of series in light and in dark mode; the first one is neutral, for the dense network. Their distances are 17 and
/// more in CIELAB for full colour vision, protanopia, deuteranopia and tritanopia (Machado et al. 2009), their contrast to
/// the surface is 3.4 and more. More series than colours share them: markers and dashes tell them apart.
pub(crate) const SERIES: [[&str; 2]; 8] = [
    ["#1f2328", "#e6e9ee"],
    ["#0b62c4", "#3d8fc4"],
    ["#e8500a", "#f0502e"],
    ["#d46796", "#cc6079"],
    ["#773206", "#f6b217"],
    ["#71257b", "#9c5cf5"],
    ["#5f8f47", "#85e481"],
    ["#3e23c4", "#a5a6ff"],
];

const TEXT: [&str; 2] = ["#1f2328", "#e6e9ee"];
const MUTED: [&str; 2] = ["#59636e", "#9da7b3"];
const GRID: [&str; 2] = ["#e3e7eb", "#2b323b"];
const SURFACE: [&str; 2] = ["#ffffff", "#14181d"];

/// Shapes of markers, one series after the other.
pub(crate) const SHAPES: usize = 5;
/// Dashes of curves, after each round of shapes: solid, dashed, dotted, both. So shape and dashes alone tell 20 series apart, on
/// paper too, and no two series share colour and dashes.
const DASHES: [Option<&str>; 4] = [None, Some("34 22"), Some("1 19"), Some("30 19 1 19")];

/// Series come after the roles.
const FIRST_SERIES: u8 = 16;
/// More series than this share classes.
const MOST_SERIES: usize = 200;

impl Ink {
    /// All that belongs to a series.
    pub fn all_of(series: usize) -> [Self; 4] {
        [Self::Series(series), Self::Line(series), Self::Rim(series), Self::Name(series)]
    }

    /// The colour that stands for it in a drawing.
    pub fn colour(self) -> RGBColor {
        let series = |series: usize| FIRST_SERIES + series.min(MOST_SERIES) as u8;
        match self {
            Self::Text => RGBColor(0, 0, 1),
            Self::Muted => RGBColor(0, 0, 2),
            Self::Grid => RGBColor(0, 0, 3),
            Self::Surface => RGBColor(0, 0, 4),
            Self::Level => RGBColor(0, 0, 5),
            Self::Series(i) => RGBColor(0, 0, series(i)),
            Self::Line(i) => RGBColor(0, 1, series(i)),
            Self::Rim(i) => RGBColor(0, 2, series(i)),
            Self::Name(i) => RGBColor(0, 3, series(i)),
        }
    }

    /// What its classes end in.
    pub fn class(self) -> String {
        class_of(self.colour())
    }

    /// The variable that holds its colour.
    fn variable(self) -> String {
        match self {
            Self::Level => Self::Muted.variable(),
            Self::Rim(_) => Self::Surface.variable(),
            Self::Name(_) => Self::Text.variable(),
            Self::Line(i) => Self::Series(i).variable(),
            // The neutral colour is the dense network's alone.
            Self::Series(0) => "--c0".to_owned(),
            Self::Series(i) => format!("--c{}", 1 + (i - 1) % (SERIES.len() - 1)),
            role => format!("--i{}", role.class()),
        }
    }
}

/// What the classes of a code end in.
fn class_of(RGBColor(_, kind, code): RGBColor) -> String {
    let kind = match kind {
        0 => "",
        1 => "l",
        2 => "r",
        _ => "n",
    };
    format!("{kind}{code}")
}

/// The series of an arm: the neutral one for the dense network, the others in turn.
pub(crate) fn series_of_arm(arm: usize, dense: Option<usize>) -> usize {
    match dense {
        Some(dense) if dense == arm => 0,
        Some(dense) if dense < arm => arm,
        _ => arm + 1,
    }
}

/// Roles with colours of their own, in light and dark mode.
const ROLES: [(Ink, [&str; 2]); 4] =
    [(Ink::Text, TEXT), (Ink::Muted, MUTED), (Ink::Grid, GRID), (Ink::Surface, SURFACE)];

/// Declarations of the variables for light (0) or dark (1) mode.
pub(crate) fn variables(mode: usize) -> String {
    let series = (0..SERIES.len()).map(|i| (Ink::Series(i), SERIES[i]));
    ROLES.into_iter().chain(series).map(|(ink, colours)| format!("{}:{};", ink.variable(), colours[mode])).collect()
}

/// Rules for the classes that [`themed`] makes: `fX` fills, `sX` strokes. For the roles and this many series.
pub(crate) fn rules(series: usize) -> String {
    let rule = |ink: Ink| {
        let (class, variable) = (ink.class(), ink.variable());
        let dashes = match ink {
            Ink::Level => Some("20 18"),
            Ink::Line(series) => DASHES[series / SHAPES % DASHES.len()],
            _ => None,
        };
        let dashes = dashes.map_or(String::new(), |dashes| format!(";stroke-dasharray:{dashes}"));
        format!(".f{class}{{fill:var({variable})}}.s{class}{{stroke:var({variable}){dashes}}}")
    };
    let series = (0..series).flat_map(Ink::all_of);
    ROLES.into_iter().map(|(ink, _)| ink).chain([Ink::Level]).chain(series).map(rule).collect()
}

/// Turns the colours of a drawing into classes, and drops what says nothing.
pub(crate) fn themed(drawing: &str) -> String {
    let mut text = drawing.replace(" opacity=\"1\"", "").replace(" font-family=\"sans-serif\"", "");
    text = text.replace(" stroke=\"none\"", "").replace(" \"/>", "\"/>").replace("\n</text>", "</text>");
    let mut themed = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once("=\"#") {
        let code = after.get(..6).and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let paints = [("fill", "f"), ("stroke", "s")];
        let paint = paints.iter().find_map(|(name, class)| Some((before.strip_suffix(name)?, class)));
        match (code, paint) {
            (Some(code), Some((before, class))) => {
                let [_, red, green, blue] = code.to_be_bytes();
                themed += &format!("{before}class=\"{class}{}", class_of(RGBColor(red, green, blue)));
                rest = &after[6..];
            }
            _ => {
                themed += before;
                themed += "=\"#";
                rest = after;
            }
        }
    }
    themed + rest
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// CIE luminance of `#rrggbb`.
    fn luminance(colour: &str) -> f64 {
        let part = |i: usize| f64::from(u8::from_str_radix(&colour[i..i + 2], 16).unwrap()) / 255.0;
        let linear = |c: f64| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) };
        0.2126 * linear(part(1)) + 0.7152 * linear(part(3)) + 0.0722 * linear(part(5))
    }

    /// WCAG 2.1: 4.5 for words, 3 for graphics.
    #[test]
    fn contrasts_suffice_in_both_modes() {
        let words = [(TEXT, 4.5), (MUTED, 4.5)].into_iter();
        for (colours, least) in words.chain(SERIES.into_iter().map(|colours| (colours, 3.3))) {
            for mode in [0, 1] {
                let (a, b) = (luminance(colours[mode]), luminance(SURFACE[mode]));
                let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                assert!(contrast >= least, "{} in mode {mode}: {contrast}", colours[mode]);
            }
        }
    }

    #[test]
    fn the_dense_arm_is_neutral_and_the_others_differ() {
        let series = |dense: Option<usize>| (0..4).map(|arm| series_of_arm(arm, dense)).collect::<Vec<_>>();
        assert_eq!(series(Some(1)), [1, 0, 2, 3]);
        assert_eq!(series(None), [1, 2, 3, 4]);
        // Many arms share colours, not classes: each can be hidden by itself.
        let inks: Vec<Ink> = [1, 8].into_iter().flat_map(Ink::all_of).collect();
        assert_eq!((inks[0].variable(), inks[4].variable()), ("--c1".to_owned(), "--c1".to_owned()));
        let classes: BTreeSet<String> = inks.iter().map(|ink| ink.class()).collect();
        assert_eq!(classes.len(), 8);
    }

    #[test]
    fn many_series_differ_without_their_colours() {
        let dashes = |series: usize| {
            let class = Ink::Line(series).class();
            let rules = rules(series + 1);
            let rule = rules.split(&format!(".s{class}{{")).nth(1).unwrap();
            rule.split('}').next().unwrap().split_once("dasharray:").map(|(_, dashes)| dashes.to_owned())
        };
        let looks: BTreeSet<_> = (0..20).map(|series| (series % SHAPES, dashes(series))).collect();
        assert_eq!(looks.len(), 20);
        let curves: BTreeSet<_> = (0..20).map(|series| (Ink::Line(series).variable(), dashes(series))).collect();
        assert_eq!(curves.len(), 20);
        assert_eq!(dashes(0), None);
    }

    #[test]
    fn colours_become_classes() {
        let drawing = "<circle fill=\"#000010\" opacity=\"1\" stroke=\"none\"/><polyline fill=\"none\" stroke=\"#000111\" \
            points=\"1,2 \"/><text fill=\"#000001\">=\"#</text>";
        let expected = "<circle class=\"f16\"/><polyline fill=\"none\" class=\"sl17\" points=\"1,2\"/>\
            <text class=\"f1\">=\"#</text>";
        assert_eq!(themed(drawing), expected);
    }
}
