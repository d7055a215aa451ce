//! A sheet to draw on, and axes on it.
//!
//! Coordinates of a [`Canvas`] are CSS pixels. The drawing library rounds to whole pixels, so that the sheet is drawn
//! [`FINENESS`] times as large as it is shown.

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::DrawingError;
use super::palette::{self, Ink, SHAPES, themed};
use super::scale::Scale;

const FINENESS: f64 = 4.0;

/// The library divides sizes of letters by this.
const FONT_FACTOR: f64 = 1.24;

/// Size of words in a figure.
pub(crate) const LETTERS: f64 = 13.0;

/// Where a text stands about its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// Its left end, at half its height.
    Left,
    /// Its middle, at half its height.
    Middle,
    /// Its right end, at half its height.
    Right,
    /// The middle of its upper edge.
    Top,
}

/// A figure in the making.
pub(crate) struct Canvas<'s> {
    area: DrawingArea<SVGBackend<'s>, Shift>,
}

/// A rectangle of a canvas with axes.
pub(crate) struct Plot<'c, 's> {
    canvas: &'c Canvas<'s>,
    area: DrawingArea<SVGBackend<'s>, Cartesian2d<RangedCoordf64, RangedCoordf64>>,
    x: Scale,
    y: Scale,
}

type Drawn = Result<(), String>;

/// Draws a figure of this size; returns the SVG element, with classes for colours.
///
/// # Errors
/// [`DrawingError`], which names the figure.
pub(crate) fn draw(
    what: &str,
    size: [f64; 2],
    paint: impl FnOnce(&Canvas<'_>) -> Drawn,
) -> Result<String, DrawingError> {
    let mut svg = String::new();
    let fine = size.map(|length| (length * FINENESS).round() as u32);
    let painted = {
        let area = SVGBackend::with_string(&mut svg, (fine[0], fine[1])).into_drawing_area();
        let canvas = Canvas { area };
        paint(&canvas).and_then(|()| canvas.area.present().map_err(|error| error.to_string()))
    };
    painted.map_err(|reason| DrawingError { what: what.to_owned(), reason })?;
    // From the library's first line to ours: it sizes the figure in fine pixels.
    let body = svg.split_once(">\n").map_or("", |(_, body)| body);
    let body = themed(body);
    let heading = format!("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">", fine[0], fine[1], escape(what));
    Ok(format!("{heading}\n{body}"))
}

/// A figure of this many series as a file of its own, with its colours for both modes.
pub(crate) fn stand_alone(svg: &str, size: [f64; 2], series: usize) -> String {
    let opening = format!("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\"", size[0], size[1]);
    let style = format!(
        "<style>svg{{{}}}@media(prefers-color-scheme:dark){{svg{{{}}}}}{}{FIGURE_RULES}</style>",
        palette::variables(0),
        palette::variables(1),
        palette::rules(series)
    );
    let (heading, body) = svg.split_once(">\n").unwrap_or((svg, ""));
    format!("{}>\n{style}\n{body}", heading.replacen("<svg", &opening, 1))
}

/// What holds for every figure.
pub(crate) const FIGURE_RULES: &str = "svg text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif}\
    svg polyline{stroke-linejoin:round;stroke-linecap:round}";

/// Text as HTML and XML have it.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // XML has no other control characters.
            c if c.is_control() && !"\n\t".contains(c) => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

fn fine([x, y]: [f64; 2]) -> (i32, i32) {
    ((x * FINENESS).round() as i32, (y * FINENESS).round() as i32)
}

fn stroke(ink: Ink, width: f64) -> ShapeStyle {
    ink.colour().stroke_width((width * FINENESS).round() as u32)
}

fn said(result: Result<(), DrawingAreaErrorKind<std::io::Error>>) -> Drawn {
    result.map_err(|error| error.to_string())
}

/// Width of a text in [`LETTERS`], about.
pub(crate) fn text_width(text: &str) -> f64 {
    LETTER * text.chars().count() as f64
}

/// As much of a text as has room.
pub(crate) fn fit(text: &str, width: f64) -> String {
    let room = (width / LETTER) as usize;
    match text.chars().count() <= room {
        true => text.to_owned(),
        false => text.chars().take(room.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Mean width of a letter.
const LETTER: f64 = 0.56 * LETTERS;

impl<'s> Canvas<'s> {
    /// Words.
    pub fn text(&self, text: &str, at: [f64; 2], anchor: Anchor, size: f64, ink: Ink) -> Drawn {
        self.turned_text(text, at, anchor, size, ink, FontTransform::None)
    }

    fn turned_text(
        &self,
        text: &str,
        at: [f64; 2],
        anchor: Anchor,
        size: f64,
        ink: Ink,
        transform: FontTransform,
    ) -> Drawn {
        let position = match anchor {
            Anchor::Left => Pos::new(HPos::Left, VPos::Center),
            Anchor::Middle => Pos::new(HPos::Center, VPos::Center),
            Anchor::Right => Pos::new(HPos::Right, VPos::Center),
            Anchor::Top => Pos::new(HPos::Center, VPos::Top),
        };
        let font = FontDesc::from(("sans-serif", size * FINENESS * FONT_FACTOR)).transform(transform);
        let colour = ink.colour();
        let style = TextStyle::from(font).color(&colour).pos(position);
        said(self.area.draw(&Text::new(text.to_owned(), fine(at), style)))
    }

    /// A line through points.
    pub fn line(&self, points: &[[f64; 2]], ink: Ink, width: f64) -> Drawn {
        let points: Vec<_> = points.iter().copied().map(fine).collect();
        said(self.area.draw(&PathElement::new(points, stroke(ink, width))))
    }

    /// A filled rectangle.
    pub fn bar(&self, [left, top]: [f64; 2], [right, bottom]: [f64; 2], ink: Ink) -> Drawn {
        let corners = [fine([left, top]), fine([right, bottom])];
        said(self.area.draw(&Rectangle::new(corners, ink.colour().filled())))
    }

    /// A filled area.
    fn area(&self, outline: &[[f64; 2]], ink: Ink, opacity: f64) -> Drawn {
        let outline: Vec<_> = outline.iter().copied().map(fine).collect();
        said(self.area.draw(&Polygon::new(outline, ink.colour().mix(opacity).filled())))
    }

    /// A dot.
    pub fn dot(&self, at: [f64; 2], radius: f64, ink: Ink, opacity: f64) -> Drawn {
        let style = ink.colour().mix(opacity).filled();
        said(self.area.draw(&Circle::new(fine(at), (radius * FINENESS).round() as i32, style)))
    }

    /// The mark of a series: one of [`SHAPES`] shapes, in its colour, with a rim that parts it from what lies below.
    pub fn marker(&self, at: [f64; 2], series: usize, radius: f64) -> Drawn {
        for (radius, ink) in [(radius + 1.2, Ink::Rim(series)), (radius, Ink::Series(series))] {
            match series % SHAPES {
                0 => self.dot(at, radius, ink, 1.0)?,
                shape => self.area(&outline(at, shape, radius), ink, 1.0)?,
            }
        }
        Ok(())
    }

    /// A hollow diamond: a published number.
    pub fn hollow(&self, at: [f64; 2], series: usize) -> Drawn {
        let mut points = outline(at, 2, 6.0);
        points.push(points[0]);
        self.area(&points, Ink::Rim(series), 1.0)?;
        self.line(&points, Ink::Series(series), 1.8)
    }

    /// Axes on a rectangle from `top_left` to `bottom_right`, with grid, labels and titles outside.
    pub fn plot<'c>(
        &'c self,
        top_left: [f64; 2],
        bottom_right: [f64; 2],
        x: Scale,
        y: Scale,
    ) -> Result<Plot<'c, 's>, String> {
        let ((left, top), (right, bottom)) = (fine(top_left), fine(bottom_right));
        let spec = Cartesian2d::<RangedCoordf64, RangedCoordf64>::new(
            x.ends[0]..x.ends[1],
            y.ends[0]..y.ends[1],
            (left..right, bottom..top),
        );
        let plot = Plot { canvas: self, area: self.area.apply_coord_spec(spec), x, y };
        let ([left, top], [right, bottom]) = (top_left, bottom_right);
        for (tick, label) in &plot.x.ticks {
            let [x, _] = plot.pixel_of([*tick, plot.y.ends[0]]);
            self.line(&[[x, top], [x, bottom]], Ink::Grid, 1.0)?;
            self.text(label, [x, bottom + 7.0], Anchor::Top, LETTERS, Ink::Muted)?;
        }
        for (tick, label) in &plot.y.ticks {
            let [_, y] = plot.pixel_of([plot.x.ends[0], *tick]);
            self.line(&[[left, y], [right, y]], Ink::Grid, 1.0)?;
            self.text(label, [left - 7.0, y], Anchor::Right, LETTERS, Ink::Muted)?;
        }
        self.line(&[[left, bottom], [right, bottom]], Ink::Muted, 1.0)?;
        self.text(&plot.x.title, [(left + right) / 2.0, bottom + 27.0], Anchor::Top, LETTERS, Ink::Text)?;
        if !plot.y.title.is_empty() {
            let at = [left - 47.0, (top + bottom) / 2.0];
            self.turned_text(&plot.y.title, at, Anchor::Middle, LETTERS, Ink::Text, FontTransform::Rotate270)?;
        }
        Ok(plot)
    }
}

/// A square, diamond, or triangle with its tip up or down, of about the area of a circle.
fn outline([x, y]: [f64; 2], shape: usize, radius: f64) -> Vec<[f64; 2]> {
    let corners: &[[f64; 2]] = match shape {
        1 => &[[-0.89, -0.89], [0.89, -0.89], [0.89, 0.89], [-0.89, 0.89]],
        2 => &[[0.0, -1.28], [1.28, 0.0], [0.0, 1.28], [-1.28, 0.0]],
        3 => &[[0.0, -1.3], [1.2, 0.85], [-1.2, 0.85]],
        _ => &[[0.0, 1.3], [1.2, -0.85], [-1.2, -0.85]],
    };
    corners.iter().map(|[dx, dy]| [x + radius * dx, y + radius * dy]).collect()
}

impl Plot<'_, '_> {
    /// Where mapped numbers are on the canvas.
    fn pixel_of(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let (x, y) = self.area.map_coordinate(&(x, y));
        [f64::from(x) / FINENESS, f64::from(y) / FINENESS]
    }

    /// Where numbers are on the canvas.
    pub fn pixel(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        self.pixel_of([self.x.map(x), self.y.map(y)])
    }

    /// A line through numbers.
    pub fn line(&self, points: &[[f64; 2]], ink: Ink, width: f64) -> Drawn {
        let points = points.iter().map(|&[x, y]| (self.x.map(x), self.y.map(y)));
        said(self.area.draw(&PathElement::new(points.collect::<Vec<_>>(), stroke(ink, width))))
    }

    /// The area between two curves over the same numbers.
    pub fn band(&self, lower: &[[f64; 2]], upper: &[[f64; 2]], ink: Ink) -> Drawn {
        let outline = lower.iter().chain(upper.iter().rev()).map(|&[x, y]| (self.x.map(x), self.y.map(y)));
        said(self.area.draw(&Polygon::new(outline.collect::<Vec<_>>(), ink.colour().mix(0.16).filled())))
    }

    /// Intervals around a point that is drawn this much further right, with ends.
    pub fn intervals(&self, [x, y]: [f64; 2], [dx, dy]: [f64; 2], shift: f64, ink: Ink) -> Drawn {
        // A logarithmic axis has no place for what is below 0.
        let within = |value: f64, scale: &Scale| scale.map(value).clamp(scale.ends[0], scale.ends[1]);
        let place = |[x, y]: [f64; 2]| {
            let [x, y] = self.pixel_of([within(x, &self.x), within(y, &self.y)]);
            [x + shift, y]
        };
        if dy > 0.0 {
            let ([x, low], [_, high]) = (place([x, y - dy]), place([x, y + dy]));
            self.canvas.line(&[[x, low], [x, high]], ink, 1.5)?;
            for end in [low, high] {
                self.canvas.line(&[[x - 4.0, end], [x + 4.0, end]], ink, 1.5)?;
            }
        }
        if dx > 0.0 {
            let ([low, y], [high, _]) = (place([x - dx, y]), place([x + dx, y]));
            self.canvas.line(&[[low, y], [high, y]], ink, 1.5)?;
            for end in [low, high] {
                self.canvas.line(&[[end, y - 4.0], [end, y + 4.0]], ink, 1.5)?;
            }
        }
        Ok(())
    }

    /// A dashed line across, at the height of what the rest is held against.
    pub fn level(&self, y: f64) -> Drawn {
        let ends = self.x.ends.map(|x| self.pixel_of([x, self.y.map(y)]));
        self.canvas.line(&ends, Ink::Level, 1.4)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_has_classes_for_colours_and_escaped_words() {
        let svg = draw("a < b & c", [100.0, 80.0], |canvas| {
            let plot = canvas.plot(
                [30.0, 5.0],
                [95.0, 50.0],
                Scale::linear("steps", [0.0, 10.0], 3),
                Scale::linear("<loss>", [1.0, 2.0], 3),
            )?;
            plot.band(&[[0.0, 1.0], [10.0, 1.2]], &[[0.0, 1.4], [10.0, 1.5]], Ink::Series(2))?;
            plot.line(&[[0.0, 1.2], [10.0, 1.3]], Ink::Line(2), 2.0)?;
            plot.intervals([5.0, 1.5], [1.0, 0.2], 3.0, Ink::Series(1))?;
            plot.level(1.5)?;
            (0..SHAPES).try_for_each(|series| canvas.marker(plot.pixel([5.0, 1.5]), series, 4.0))?;
            canvas.hollow([50.0, 40.0], 4)
        })
        .unwrap();
        assert!(svg.starts_with("<svg viewBox=\"0 0 400 320\" role=\"img\" aria-label=\"a &lt; b &amp; c\">"), "{svg}");
        assert!(svg.trim_end().ends_with("</svg>") && svg.contains("&lt;loss&gt;"), "{svg}");
        assert!(svg.contains("class=\"sl18\"") && svg.contains("class=\"f18\""), "{svg}");
        // No colour of the drawing is left.
        assert!(!svg.contains("\"#"), "{svg}");
        let file = stand_alone(&svg, [100.0, 80.0], 4);
        assert!(
            file.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"100\" height=\"80\" viewBox"),
            "{file}"
        );
        assert!(file.contains("prefers-color-scheme:dark") && file.contains(".sl18{stroke:var(--c2)}"), "{file}");
    }

    #[test]
    fn long_words_are_cut() {
        assert_eq!(fit("set, 0.1", 100.0), "set, 0.1");
        let long = fit("a name that nobody can read at once", 100.0);
        assert!(long.starts_with("a name") && long.ends_with('…') && text_width(&long) <= 100.0, "{long}");
    }

    #[test]
    fn markup_in_words_is_escaped() {
        assert_eq!(escape("<a href='x'>\u{7}&\"\n"), "&lt;a href=&#39;x&#39;&gt; &amp;&quot;\n");
    }
}
