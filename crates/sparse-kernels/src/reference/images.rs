//! Operations on images that are no convolutions: images are `[sample][channel][y][x]`, sums f64.
//!
//! Dropout of images is [`super::nn::dropout`]: its index is the place in this order.

use super::Exact;
use crate::PoolShape;

/// Calls `f(place in Y, places in X)` for every window over `planes` images of `size` (samples · channels), the places in X
/// in order of (row, column).
///
/// # Panics
/// If the window does not fit.
pub fn for_each_window(window: PoolShape, size: [usize; 2], planes: usize, mut f: impl FnMut(usize, &[usize])) {
    let output = window.output_size(size).expect("the window fits into the image");
    let [kh, kw] = window.kernel();
    let mut places = Vec::new();
    for plane in 0..planes {
        for (y, x) in (0..output[0]).flat_map(|y| (0..output[1]).map(move |x| (y, x))) {
            places.clear();
            for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
                let at = |axis: usize, out: usize, tap: usize| {
                    let at = (out * window.stride()[axis] + tap).checked_sub(window.padding()[axis]);
                    at.filter(|&at| at < size[axis])
                };
                if let (Some(v), Some(u)) = (at(0, y, i), at(1, x, j)) {
                    places.push((plane * size[0] + v) * size[1] + u);
                }
            }
            f((plane * output[0] + y) * output[1] + x, &places);
        }
    }
}

fn outputs(window: PoolShape, size: [usize; 2], planes: usize) -> usize {
    let [height, width] = window.output_size(size).expect("the window fits into the image");
    planes * height * width
}

/// The largest of each window; NaN if it holds NaN.
pub fn max_pool(window: PoolShape, size: [usize; 2], planes: usize, x: &[f32]) -> Vec<f32> {
    let mut y = vec![f32::NAN; outputs(window, size, planes)];
    let larger = |a: f32, b: f32| if a.is_nan() || a > b { a } else { b };
    for_each_window(window, size, planes, |to, from| {
        y[to] = from.iter().map(|&at| x[at]).fold(f32::NEG_INFINITY, larger);
    });
    y
}

/// The gradient of X: each of Y goes to the first place where its window is largest, or to the window's first if it holds
/// NaN.
pub fn max_pool_grad(window: PoolShape, size: [usize; 2], planes: usize, x: &[f32], dy: &[f32]) -> Vec<Exact> {
    let mut dx = vec![Exact::ZERO; planes * size[0] * size[1]];
    let y = max_pool(window, size, planes, x);
    for_each_window(window, size, planes, |to, from| {
        let largest = from.iter().find(|&&at| x[at] == y[to]).unwrap_or(&from[0]);
        dx[*largest].add(dy[to], 1.0);
    });
    dx
}

fn divided(sum: Exact, count: usize) -> Exact {
    let count = count as f64;
    Exact { value: sum.value / count, magnitude: sum.magnitude / count, terms: sum.terms }
}

/// The mean of each window.
pub fn avg_pool(window: PoolShape, size: [usize; 2], planes: usize, x: &[f32]) -> Vec<Exact> {
    let mut y = vec![Exact::ZERO; outputs(window, size, planes)];
    for_each_window(window, size, planes, |to, from| {
        from.iter().for_each(|&at| y[to].add(x[at], 1.0));
        y[to] = divided(y[to], from.len());
    });
    y
}

/// The gradient of X for that of the means.
pub fn avg_pool_grad(window: PoolShape, size: [usize; 2], planes: usize, dy: &[f32]) -> Vec<Exact> {
    let mut dx = vec![Exact::ZERO; planes * size[0] * size[1]];
    for_each_window(window, size, planes, |to, from| {
        let mut share = Exact::ZERO;
        share.add(dy[to], 1.0);
        let share = divided(share, from.len());
        for &at in from {
            let Exact { value, magnitude, terms } = dx[at];
            dx[at] = Exact {
                value: value + share.value,
                magnitude: magnitude + share.magnitude,
                terms: terms + share.terms,
            };
        }
    });
    dx
}

/// The mean of each channel of each image, `[channel][sample]`; `pixels` of them.
///
/// # Panics
/// If the length is no whole number of images.
pub fn global_avg_pool(channels: usize, pixels: usize, x: &[f32]) -> Vec<Exact> {
    let samples = samples(channels * pixels, x.len());
    let mut y = vec![Exact::ZERO; channels * samples];
    for (n, c) in (0..samples).flat_map(|n| (0..channels).map(move |c| (n, c))) {
        let mut sum = Exact::ZERO;
        x[(n * channels + c) * pixels..][..pixels].iter().for_each(|&x| sum.add(x, 1.0));
        y[c * samples + n] = divided(sum, pixels);
    }
    y
}

/// The gradient of X for that of [`global_avg_pool`], `[channel][sample]`; one rounding, so kernels must agree exactly.
///
/// # Panics
/// If the length is no whole number of channels.
pub fn global_avg_pool_grad(channels: usize, pixels: usize, dy: &[f32]) -> Vec<f32> {
    let samples = samples(channels, dy.len());
    let planes = (0..samples).flat_map(|n| (0..channels).map(move |c| dy[c * samples + n] / pixels as f32));
    planes.flat_map(|dx| (0..pixels).map(move |_| dx)).collect()
}

/// `[sample][feature]` as `[feature][sample]`, a feature being a channel's pixel.
///
/// # Panics
/// If the length is no whole number of images.
pub fn flatten(features: usize, x: &[f32]) -> Vec<f32> {
    let samples = samples(features, x.len());
    (0..features).flat_map(|f| (0..samples).map(move |n| x[n * features + f])).collect()
}

/// Inverse of [`flatten`].
///
/// # Panics
/// If the length is no whole number of features.
pub fn unflatten(features: usize, dy: &[f32]) -> Vec<f32> {
    let samples = samples(features, dy.len());
    (0..samples).flat_map(|n| (0..features).map(move |f| dy[f * samples + n])).collect()
}

fn samples(each: usize, len: usize) -> usize {
    let samples = len.checked_div(each).unwrap_or(0);
    assert_eq!(samples * each, len, "not a whole number of samples");
    samples
}

/// `act(x + bias[c])` for images of `pixels`; one rounding, so kernels must agree exactly. NaN stays NaN.
pub fn bias_relu(bias: &[f32], relu: bool, pixels: usize, x: &[f32]) -> Vec<f32> {
    let apply = |(i, &x): (usize, &f32)| {
        let y = x + bias[i / pixels % bias.len()];
        if relu && y < 0.0 { 0.0 } else { y }
    };
    x.iter().enumerate().map(apply).collect()
}

/// Backward of [`bias_relu`]: the gradient (zero where `relu` and `y <= 0`) and its sum over each of `channels`.
///
/// # Panics
/// If the lengths differ.
pub fn bias_relu_grad(y: &[f32], relu: bool, grad: &[f32], channels: usize, pixels: usize) -> (Vec<f32>, Vec<Exact>) {
    assert_eq!(y.len(), grad.len());
    let grad: Vec<f32> = y.iter().zip(grad).map(|(&y, &g)| if relu && y <= 0.0 { 0.0 } else { g }).collect();
    let mut dbias = vec![Exact::ZERO; channels];
    grad.iter().enumerate().for_each(|(i, &g)| dbias[i / pixels % channels].add(g, 1.0));
    (grad, dbias)
}
