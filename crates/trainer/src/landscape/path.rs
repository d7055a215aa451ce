//! Bézier curves through the space of a network's parameters, and gradient descent on their control points.
//!
//! ```text
//! θ(t) = Σₖ Bₖ(t) · Pₖ,    Bₖ(t) = C(n, k) · tᵏ · (1 − t)ⁿ⁻ᵏ,    k = 0, …, n
//! ```
//!
//! P₀ and Pₙ, the ends, are fixed; the control points between them are trained. By the chain rule, the gradient of a loss
//! at θ(t) for Pₖ is Bₖ(t) times that for θ(t).

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// The form of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Curve {
    /// The straight line, drawn out beyond both ends.
    Linear,
    /// A Bézier curve with one control point.
    Quadratic,
    /// A Bézier curve with two control points.
    Cubic,
}

/// Of the straight line, what is looked at beyond each end: `t` from −1/5 to 1 + 1/5, as the RigL authors' code has it
/// (`rigl_tf2/interpolate.py`).
const BEYOND: i64 = 5;

impl Curve {
    /// All of them, from the simplest.
    pub const ALL: [Self; 3] = [Self::Linear, Self::Quadratic, Self::Cubic];

    /// n: one more than there are control points.
    pub fn degree(self) -> usize {
        match self {
            Self::Linear => 1,
            Self::Quadratic => 2,
            Self::Cubic => 3,
        }
    }

    /// Whether there are control points to train.
    pub fn is_trained(self) -> bool {
        self.degree() > 1
    }

    /// Bytes held for the training of such a path between networks of so many weights: its points and the ends, the velocities,
    /// a place on it, the gradient there, and the network with a gradient of its own.
    pub fn bytes(self, weights: usize) -> usize {
        let (points, velocities) = (self.degree() + 1, self.degree() - 1);
        size_of::<f32>() * weights * (points + 2 + velocities + 2 + 2)
    }

    /// Where the path is looked at, in increasing order: `points` places at equal distances, over `[0, 1]`, of the straight
    /// line over `[-0.2, 1.2]`; and 0 and 1, exactly, where they are not among them.
    ///
    /// # Panics
    /// If there are fewer than two points.
    pub fn grid(self, points: usize) -> Vec<f64> {
        assert!(points >= 2, "a grid has two ends");
        let last = points as i64 - 1;
        // In whole numbers, so that 0 and 1 are hit and not missed by rounding.
        let place = |i: i64| match self {
            Self::Linear => ((BEYOND + 2) * i - last) as f64 / (BEYOND * last) as f64,
            Self::Quadratic | Self::Cubic => i as f64 / last as f64,
        };
        let mut grid: Vec<f64> = (0..=last).map(place).chain([0.0, 1.0]).collect();
        grid.sort_by(f64::total_cmp);
        grid.dedup();
        grid
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no value is hidden").get_name())
    }
}

/// A place in the space of parameters: one array for each parameter of a network, or the gradient there.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The values, parameter by parameter.
    pub arrays: Vec<Vec<f32>>,
}

impl Point {
    /// Zeros, in as many arrays of the same lengths.
    #[must_use]
    pub fn zeros_like(&self) -> Self {
        Self { arrays: self.arrays.iter().map(|array| vec![0.0; array.len()]).collect() }
    }
}

/// The weights `B₀(t), …, Bₙ(t)` of a curve's points.
///
/// ```
/// use trainer::landscape::bernstein;
/// assert_eq!(bernstein(2, 0.5), [0.25, 0.5, 0.25]);
/// assert_eq!(bernstein(3, 1.0), [0.0, 0.0, 0.0, 1.0]);
/// ```
pub fn bernstein(degree: usize, t: f64) -> Vec<f64> {
    let mut binomial = 1.0;
    let weight = |k: usize| {
        let weight = binomial * t.powi(k as i32) * (1.0 - t).powi((degree - k) as i32);
        binomial *= (degree - k) as f64 / (k + 1) as f64;
        weight
    };
    (0..=degree).map(weight).collect()
}

/// A path between two points.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    curve: Curve,
    /// From one end to the other; `degree + 1` of them.
    points: Vec<Point>,
}

impl Path {
    /// The straight line from `a` to `b`, as a curve of this form: its control points stand on the line, at equal distances.
    ///
    /// # Panics
    /// Unless both ends have as many arrays of the same lengths.
    pub fn straight(curve: Curve, a: Point, b: Point) -> Self {
        let lengths = |point: &Point| point.arrays.iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&a), lengths(&b), "both ends are points of one space");
        let line = Self { curve: Curve::Linear, points: vec![a, b] };
        let degree = curve.degree();
        let mut on_line = line.points[0].zeros_like();
        let mut between = |k: usize| {
            line.at(k as f64 / degree as f64, &mut on_line);
            on_line.clone()
        };
        let inner: Vec<_> = (1..degree).map(&mut between).collect();
        let [a, b] = <[Point; 2]>::try_from(line.points).expect("a line has two ends");
        Self { curve, points: [vec![a], inner, vec![b]].concat() }
    }

    /// Its form.
    pub fn curve(&self) -> Curve {
        self.curve
    }

    /// The end at t = 0.
    pub fn start(&self) -> &Point {
        &self.points[0]
    }

    /// The points that are trained; none of a straight line.
    pub fn control_points(&self) -> &[Point] {
        &self.points[1..self.curve.degree()]
    }

    /// The points that are trained, to change in place.
    pub fn control_points_mut(&mut self) -> &mut [Point] {
        &mut self.points[1..self.curve.degree()]
    }

    /// `point = θ(t)`. At 0 and 1 these are the ends, to the last bit (but for the sign of a zero).
    ///
    /// # Cost
    /// `2 · (degree + 1)` operations a value.
    ///
    /// # Panics
    /// If `point` is of another space.
    pub fn at(&self, t: f64, point: &mut Point) {
        let weights: Vec<_> = bernstein(self.curve.degree(), t).into_iter().map(|weight| weight as f32).collect();
        for (i, array) in point.arrays.iter_mut().enumerate() {
            for (block, to) in array.chunks_mut(BLOCK).enumerate() {
                to.fill(0.0);
                for (weight, control) in weights.iter().zip(&self.points) {
                    let from = &control.arrays[i][block * BLOCK..][..to.len()];
                    to.iter_mut().zip(from).for_each(|(to, from)| *to += weight * from);
                }
            }
        }
    }
}

/// Values of a sum that stay in the first-level cache while one term after the other is added.
const BLOCK: usize = 2048;

/// Stochastic gradient descent with momentum on a path's control points:
///
/// ```text
/// vₖ ← μ · vₖ + Bₖ(t) · g,    Pₖ ← Pₖ − rate · vₖ,    0 < k < n
/// ```
///
/// where `g` is the gradient at θ(t).
#[derive(Debug, Clone)]
pub struct PathSgd {
    momentum: f32,
    velocities: Vec<Point>,
}

impl PathSgd {
    /// At rest.
    pub fn new(path: &Path, momentum: f32) -> Self {
        Self { momentum, velocities: path.control_points().iter().map(Point::zeros_like).collect() }
    }

    /// One step, by the `gradient` at θ(t).
    ///
    /// # Cost
    /// Five operations a value of each control point, in one pass.
    pub fn step(&mut self, path: &mut Path, t: f64, gradient: &Point, learning_rate: f32) {
        let (weights, momentum) = (bernstein(path.curve.degree(), t), self.momentum);
        let controls = path.control_points_mut().iter_mut().zip(&mut self.velocities);
        for ((control, velocity), weight) in controls.zip(&weights[1..]) {
            let weight = *weight as f32;
            let arrays = control.arrays.iter_mut().zip(&mut velocity.arrays).zip(&gradient.arrays);
            for ((values, velocities), gradient) in arrays {
                for ((value, velocity), gradient) in values.iter_mut().zip(velocities).zip(gradient) {
                    *velocity = momentum * *velocity + weight * gradient;
                    *value -= learning_rate * *velocity;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::random::Key;

    use super::*;

    fn point(values: &[f32]) -> Point {
        Point { arrays: vec![values[..1].to_vec(), values[1..].to_vec()] }
    }

    #[test]
    fn bernstein_weights_have_their_known_values() {
        assert_eq!(bernstein(1, 0.25), [0.75, 0.25]);
        assert_eq!(bernstein(2, 0.25), [0.5625, 0.375, 0.0625]);
        assert_eq!(bernstein(3, 0.25), [0.421875, 0.421875, 0.140625, 0.015625]);
        // Beyond the ends: the line, drawn out.
        assert_eq!(bernstein(1, 1.5), [-0.5, 1.5]);
        for degree in 1..=3 {
            for i in 0..=10 {
                let t = f64::from(i) / 10.0;
                let (weights, mirrored) = (bernstein(degree, t), bernstein(degree, 1.0 - t));
                assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-15, "{weights:?}");
                // The mean of k under these weights is degree · t.
                let mean: f64 = weights.iter().enumerate().map(|(k, weight)| k as f64 * weight).sum();
                assert!((mean - degree as f64 * t).abs() < 1e-14, "{mean}");
                assert!(weights.iter().zip(mirrored.iter().rev()).all(|(a, b)| (a - b).abs() < 1e-15));
            }
        }
    }

    #[test]
    fn grids_have_both_ends() {
        let line = Curve::Linear.grid(29);
        assert_eq!((line.len(), line[0], line[4], line[14], line[24], line[28]), (29, -0.2, 0.0, 0.5, 1.0, 1.2));
        let curve = Curve::Cubic.grid(29);
        assert_eq!((curve.len(), curve[0], curve[7], curve[28]), (29, 0.0, 0.25, 1.0));
        // No whole number of steps leads from -0.2 to 0.
        let line = Curve::Linear.grid(4);
        assert_eq!((line.len(), line[1], line[4]), (6, 0.0, 1.0));
        assert!(line.windows(2).all(|pair| pair[0] < pair[1]), "{line:?}");
        assert_eq!(Curve::Quadratic.grid(2), [0.0, 1.0]);
    }

    #[test]
    fn an_untrained_curve_is_the_line() {
        let (a, b) = (point(&[1.0, -3.0, 0.1]), point(&[2.0, 5.0, -1e-30]));
        for curve in Curve::ALL {
            let path = Path::straight(curve, a.clone(), b.clone());
            assert_eq!(path.control_points().len(), curve.degree() - 1);
            let mut at = a.zeros_like();
            // The ends to the last bit.
            for (t, end) in [(0.0, &a), (1.0, &b)] {
                path.at(t, &mut at);
                assert_eq!(&at, end);
            }
            path.at(0.5, &mut at);
            for (value, expected) in at.arrays.iter().flatten().zip([1.5, 1.0, 0.05]) {
                assert!((value - expected).abs() < 1e-6, "{curve}: {value}, expected {expected}");
            }
        }
    }

    #[test]
    fn a_step_moves_control_points_and_not_the_ends() {
        let (a, b) = (point(&[0.0, 1.0]), point(&[4.0, 1.0]));
        let mut path = Path::straight(Curve::Quadratic, a.clone(), b.clone());
        let mut sgd = PathSgd::new(&path, 0.5);
        let gradient = point(&[8.0, -2.0]);
        // B₁(1/4) = 3/8: velocity (3, -0.75), then (4.5, -1.125).
        sgd.step(&mut path, 0.25, &gradient, 0.5);
        assert_eq!(path.control_points(), [point(&[2.0 - 1.5, 1.0 + 0.375])]);
        sgd.step(&mut path, 0.25, &gradient, 1.0);
        assert_eq!(path.control_points(), [point(&[0.5 - 4.5, 1.375 + 1.125])]);
        let mut at = a.zeros_like();
        path.at(0.0, &mut at);
        assert_eq!(at, a);
        path.at(1.0, &mut at);
        assert_eq!(at, b);
        let mut line = Path::straight(Curve::Linear, a, b);
        let before = line.clone();
        PathSgd::new(&line, 0.5).step(&mut line, 0.25, &gradient, 1.0);
        assert_eq!(line, before);
    }

    /// Two minima on a ring-shaped valley, around a hill that the line crosses: (x² + (y + 0.1)² − 1)², which is 0 at both
    /// ends. The curve must find its way around.
    #[test]
    fn a_trained_curve_goes_around_the_hill() {
        let loss = |point: &Point| {
            let (x, y) = (f64::from(point.arrays[0][0]), f64::from(point.arrays[1][0]) + 0.1);
            (x * x + y * y - 1.0).powi(2)
        };
        let side = 0.99f32.sqrt();
        let (a, b) = (point(&[-side, 0.0]), point(&[side, 0.0]));
        let highest = |path: &Path| {
            let mut at = a.zeros_like();
            let losses = (0..=100).map(|i| {
                path.at(f64::from(i) / 100.0, &mut at);
                loss(&at)
            });
            losses.fold(0.0, f64::max)
        };
        let hill = highest(&Path::straight(Curve::Linear, a.clone(), b.clone()));
        assert!((hill - 0.98).abs() < 0.01, "{hill}");
        let mut barriers = Vec::new();
        for curve in [Curve::Quadratic, Curve::Cubic] {
            let mut path = Path::straight(curve, a.clone(), b.clone());
            assert!((highest(&path) - hill).abs() < 1e-5);
            let mut sgd = PathSgd::new(&path, 0.9);
            let (mut at, mut gradient) = (a.zeros_like(), a.zeros_like());
            for step in 0..2000 {
                let t = f64::from(Key::new(3).uniform(step));
                path.at(t, &mut at);
                let (x, y) = (at.arrays[0][0], at.arrays[1][0] + 0.1);
                let outward = 4.0 * (x * x + y * y - 1.0);
                (gradient.arrays[0][0], gradient.arrays[1][0]) = (outward * x, outward * y);
                sgd.step(&mut path, t, &gradient, 0.05 * (1.0 - step as f32 / 2000.0));
            }
            barriers.push(highest(&path));
        }
        // A half circle is no parabola, but nearly a cubic.
        assert!(barriers[0] < 0.1 && barriers[1] < 0.01, "{barriers:?}");
    }
}
