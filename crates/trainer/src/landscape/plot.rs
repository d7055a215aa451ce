//! The picture of a landscape.

use crate::figure::DrawingError;
use crate::figure::canvas::{Anchor, Canvas, LETTERS, draw, stand_alone, text_width};
use crate::figure::palette::Ink;
use crate::figure::scale::Scale;

/// A path to draw.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Its name in the legend.
    pub label: String,
    /// The number of its colour and marker; 0 is grey, and 1 to 4 have shapes of their own.
    pub series: usize,
    /// Whether it was trained: those are shown once more, in a plot of their own.
    pub trained: bool,
    /// `(t, loss)`, in increasing order of t.
    pub points: Vec<[f64; 2]>,
}

const SIZE: [f64; 2] = [840.0, 420.0];
/// Upper and lower end of the axes.
const VERTICAL: [f64; 2] = [58.0, 362.0];
/// Left and right end of the axes: of one plot, and of two beside each other.
const ONE: [f64; 2] = [68.0, 816.0];
const TWO: [[f64; 2]; 2] = [[68.0, 408.0], [492.0, 816.0]];
/// Colours in use.
const SERIES: usize = 5;

/// A picture of the losses along paths, an SVG that suits a light or dark surrounding by its own style sheet. A dashed line is
/// at the height of the higher `end`: what is above it is a barrier.
///
/// The loss's axis begins at 0 and ends above the highest loss between the ends; what a straight line has beyond them may leave
/// the picture. Beside a straight line, curves have a second plot with an axis that suits them. A loss that is not finite is left
/// out.
///
/// # Errors
/// What the drawing library reports.
pub fn svg(y_title: &str, end: f64, lines: &[Line]) -> Result<String, DrawingError> {
    let curves: Vec<Line> = lines.iter().filter(|line| line.trained).cloned().collect();
    let drawn = draw("Loss along paths from A to B", SIZE, |canvas| {
        canvas.bar([0.0, 0.0], SIZE, Ink::Surface)?;
        draw_legend(canvas, lines)?;
        if curves.is_empty() || curves.len() == lines.len() {
            return draw_plot(canvas, ONE, y_title, end, lines);
        }
        draw_plot(canvas, TWO[0], y_title, end, lines)?;
        draw_plot(canvas, TWO[1], "the curves alone", end, &curves)
    })?;
    Ok(stand_alone(&drawn, SIZE, SERIES))
}

fn draw_legend(canvas: &Canvas<'_>, lines: &[Line]) -> Result<(), String> {
    let (mut x, y) = (20.0, 26.0);
    for line in lines {
        let ink = Ink::Series(line.series);
        canvas.line(&[[x, y], [x + 28.0, y]], ink, 2.0)?;
        canvas.marker([x + 14.0, y], line.series, 4.0)?;
        canvas.text(&line.label, [x + 35.0, y], Anchor::Left, LETTERS, Ink::Text)?;
        x += 35.0 + text_width(&line.label) + 22.0;
    }
    Ok(())
}

fn draw_plot(
    canvas: &Canvas<'_>,
    [left, right]: [f64; 2],
    y_title: &str,
    end: f64,
    lines: &[Line],
) -> Result<(), String> {
    let finite = |line: &Line| line.points.iter().copied().filter(|[_, loss]| loss.is_finite()).collect::<Vec<_>>();
    let lines: Vec<_> = lines.iter().map(|line| (line, finite(line))).collect();
    let points = || lines.iter().flat_map(|(_, points)| points.iter().copied());
    let between = points().filter(|[t, _]| (0.0..=1.0).contains(t)).map(|[_, loss]| loss);
    let top = 1.08 * between.fold(f64::MIN_POSITIVE, f64::max);
    let (first, last) = points().fold((0.0, 1.0), |(low, high), [t, _]| (t.min(low), t.max(high)));
    let margin = 0.02 * (last - first);
    let x = Scale::between("t, from A (0) to B (1)", first - margin, last + margin, 7);
    let [above, below] = VERTICAL;
    let plot = canvas.plot([left, above], [right, below], x, Scale::between(y_title, 0.0, top, 6))?;
    for (t, name) in [(0.0, "A"), (1.0, "B")] {
        let [x, y] = plot.pixel([t, top]);
        canvas.line(&[[x, y], [x, below]], Ink::Muted, 1.0)?;
        canvas.text(name, [x, y - 9.0], Anchor::Middle, LETTERS, Ink::Text)?;
    }
    if end.is_finite() && end <= top {
        plot.level(end)?;
    }
    for (line, points) in lines {
        let ink = Ink::Series(line.series);
        for piece in pieces_below(top, &points) {
            plot.line(&piece, ink, 2.0)?;
        }
        let inside = points.into_iter().filter(|&[_, loss]| loss <= top);
        inside.map(|point| plot.pixel(point)).try_for_each(|at| canvas.marker(at, line.series, 2.6))?;
    }
    Ok(())
}

/// The parts of a line at or below `top`, cut where it crosses.
fn pieces_below(top: f64, points: &[[f64; 2]]) -> Vec<Vec<[f64; 2]>> {
    let mut pieces: Vec<Vec<[f64; 2]>> = Vec::new();
    let mut piece = Vec::new();
    for (i, &[t, loss]) in points.iter().enumerate() {
        if let Some(&[before_t, before]) = i.checked_sub(1).map(|before| &points[before])
            && (before <= top) != (loss <= top)
        {
            piece.push([before_t + (t - before_t) * (top - before) / (loss - before), top]);
        }
        if loss <= top {
            piece.push([t, loss]);
        } else if !piece.is_empty() {
            pieces.push(std::mem::take(&mut piece));
        }
    }
    pieces.extend((!piece.is_empty()).then_some(piece));
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_where_it_leaves_the_picture() {
        let points = [[0.0, 1.0], [1.0, 3.0], [2.0, 5.0], [3.0, 1.0]];
        assert_eq!(pieces_below(2.0, &points), [vec![[0.0, 1.0], [0.5, 2.0]], vec![[2.75, 2.0], [3.0, 1.0]]]);
        assert_eq!(pieces_below(9.0, &points), [points]);
        assert!(pieces_below(0.5, &points).is_empty());
    }

    /// Curves stand beside the line, once more and larger; nothing leaves the picture, however high a line is beyond its ends.
    #[test]
    fn curves_have_a_plot_of_their_own_beside_the_line() {
        let line = |series, far| Line {
            label: format!("path {series}"),
            series,
            trained: series > 0,
            points: vec![[-0.2, far], [0.0, 0.5], [0.5, 2.0], [1.0, 0.25], [1.2, f64::NAN]],
        };
        let lines: Vec<_> = (0..SERIES).map(|i| line(i, 1e6)).collect();
        let text = svg("loss", 0.5, &lines).unwrap();
        assert!(text.starts_with("<svg xmlns=") && text.trim_end().ends_with("</svg>"));
        assert!(text.contains("prefers-color-scheme:dark"));
        for label in ["path 0", "path 4", ">\nA<", ">\nB<", "loss", "the curves alone", "from A (0) to B (1)"] {
            assert!(text.contains(label), "{label}");
        }
        // The first colour is in the legend and one plot, the second in the legend and two.
        let strokes = |text: &str, series| text.matches(&format!("class=\"s{}\"", Ink::Series(series).class())).count();
        assert_eq!((strokes(&text, 0), strokes(&text, 1)), (2, 3));
        let (_, drawn) = text.split_once("</style>").unwrap();
        for part in drawn.split(['"', ' ', ',']) {
            if let Ok(number) = part.parse::<f64>() {
                assert!((-1.0..=4.0 * SIZE[0]).contains(&number), "{number}");
            }
        }
        let alone = svg("loss", 0.5, &lines[..1]).unwrap();
        assert!(!alone.contains("the curves alone"));
        assert_eq!(strokes(&alone, 0), 2);
    }
}
