//! Colours by role. A figure is drawn in codes, which become classes of a style sheet, so that it follows the light and dark
//! mode of who reads it.

use plotters::style::RGBColor;

/// What a stroke or an area is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    /// Words and axes.
    Text,
    /// What stands back: tick labels, notes.
    Muted,
    /// Grid lines.
    Grid,
    /// What lies behind all.
    Surface,
    /// The dashed line at the height of the dense network.
    Level,
    /// Of an arm or a layer; see [`SERIES`].
    Series(usize),
    /// What parts a marker of a series from what lies below it; goes and comes with the series.
    Rim(usize),
}

/// The colours of series in light and in dark mode; the first one is neutral, for the dense network. Their distances are 17 and
/// more in CIELAB for full colour vision, protanopia, deuteranopia and tritanopia (Machado et al. 2009), their contrast to
/// the surface is 3.4 and more. Markers tell series apart too.
pub(super) const SERIES: [[&str; 2]; 8] = [
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

/// Series come after the roles.
const FIRST_SERIES: u8 = 16;
/// More series than this share classes.
const MOST_SERIES: usize = 200;

impl Ink {
    /// The series of an arm: the neutral one for the dense network, the others in turn.
    pub fn of_arm(arm: usize, dense: Option<usize>) -> Self {
        match dense {
            Some(dense) if dense == arm => Self::Series(0),
            Some(dense) if dense < arm => Self::Series(arm),
            _ => Self::Series(arm + 1),
        }
    }

    /// What parts its markers from what lies below.
    pub fn rim(self) -> Self {
        if let Self::Series(series) = self { Self::Rim(series) } else { Self::Surface }
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
            Self::Rim(i) => RGBColor(0, 1, series(i)),
        }
    }

    /// What its classes end in.
    pub fn class(self) -> String {
        let RGBColor(_, rim, code) = self.colour();
        if rim == 0 { code.to_string() } else { format!("r{code}") }
    }

    /// The variable that holds its colour.
    fn variable(self) -> String {
        match self {
            Self::Level => Self::Muted.variable(),
            Self::Rim(_) => Self::Surface.variable(),
            // The neutral colour is the dense network's alone.
            Self::Series(0) => "--c0".to_owned(),
            Self::Series(i) => format!("--c{}", 1 + (i - 1) % (SERIES.len() - 1)),
            role => format!("--i{}", role.class()),
        }
    }
}

/// Roles with colours of their own, in light and dark mode.
const ROLES: [(Ink, [&str; 2]); 4] =
    [(Ink::Text, TEXT), (Ink::Muted, MUTED), (Ink::Grid, GRID), (Ink::Surface, SURFACE)];

/// Declarations of the variables for light (0) or dark (1) mode.
pub(super) fn variables(mode: usize) -> String {
    let series = (0..SERIES.len()).map(|i| (Ink::Series(i), SERIES[i]));
    ROLES.into_iter().chain(series).map(|(ink, colours)| format!("{}:{};", ink.variable(), colours[mode])).collect()
}

/// Rules for the classes that [`themed`] makes: `fX` fills, `sX` strokes. For the roles and this many series.
pub(super) fn rules(series: usize) -> String {
    let rule = |ink: Ink| {
        let (class, variable) = (ink.class(), ink.variable());
        format!(".f{class}{{fill:var({variable})}}.s{class}{{stroke:var({variable})}}")
    };
    let series = (0..series).flat_map(|i| [Ink::Series(i), Ink::Rim(i)]);
    let rules: String = ROLES.into_iter().map(|(ink, _)| ink).chain([Ink::Level]).chain(series).map(rule).collect();
    format!("{rules}.s{}{{stroke-dasharray:20 18}}", Ink::Level.class())
}

/// Turns the colours of a drawing into classes, and drops what says nothing.
pub(super) fn themed(drawing: &str) -> String {
    let mut text = drawing.replace(" opacity=\"1\"", "").replace(" font-family=\"sans-serif\"", "");
    text = text.replace(" stroke=\"none\"", "").replace(" \"/>", "\"/>").replace("\n</text>", "</text>");
    let series = (0..=MOST_SERIES).flat_map(|i| [Ink::Series(i), Ink::Rim(i)]);
    for ink in ROLES.into_iter().map(|(ink, _)| ink).chain([Ink::Level]).chain(series) {
        let RGBColor(r, g, b) = ink.colour();
        let colour = format!("=\"#{r:02X}{g:02X}{b:02X}\"");
        if text.contains(&colour) {
            for (attribute, class) in [("fill", 'f'), ("stroke", 's')] {
                text = text.replace(&format!("{attribute}{colour}"), &format!("class=\"{class}{}\"", ink.class()));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
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
        let series = |dense: Option<usize>| (0..4).map(|arm| Ink::of_arm(arm, dense)).collect::<Vec<_>>();
        use Ink::Series;
        assert_eq!(series(Some(1)), [Series(1), Series(0), Series(2), Series(3)]);
        assert_eq!(series(None), [Series(1), Series(2), Series(3), Series(4)]);
        // Many arms share colours, not classes: each can be hidden by itself.
        let (first, eighth) = (Series(1), Series(8));
        assert_eq!((first.variable(), eighth.variable()), ("--c1".to_owned(), "--c1".to_owned()));
        assert!(first.class() != eighth.class() && first.class() != first.rim().class());
    }

    #[test]
    fn colours_become_classes() {
        let drawing = "<circle fill=\"#000010\" opacity=\"1\" stroke=\"none\"/><polyline fill=\"none\" stroke=\"#000003\" points=\"1,2 \"/>";
        let expected = "<circle class=\"f16\"/><polyline fill=\"none\" class=\"s3\" points=\"1,2\"/>";
        assert_eq!(themed(drawing), expected);
    }
}
