//! Convolutions as plain loops. Images are `[sample][channel][y][x]`, dense weights `[O][C/G][kh][kw]`.

use super::Exact;
use crate::{ConvShape, CsrPattern};

/// Calls `f(row, column, place in X, place in Y)` for every multiply-add of a dense convolution of `samples` images of
/// `size`: row and column of the weight matrix.
pub fn for_each(shape: ConvShape, size: [usize; 2], samples: usize, mut f: impl FnMut(usize, usize, usize, usize)) {
    let output = shape.output_size(size).expect("the filter fits into the image");
    let ([kh, kw], groups) = (shape.kernel(), shape.groups());
    let (ic, oc) = (shape.in_channels() / groups, shape.out_channels() / groups);
    for n in 0..samples {
        for o in 0..shape.out_channels() {
            for c in 0..ic {
                for (i, j) in (0..kh).flat_map(|i| (0..kw).map(move |j| (i, j))) {
                    for (y, x) in (0..output[0]).flat_map(|y| (0..output[1]).map(move |x| (y, x))) {
                        let at = |axis: usize, out: usize, tap: usize| {
                            let at = out * shape.stride()[axis] + tap * shape.dilation()[axis];
                            at.checked_sub(shape.padding()[axis]).filter(|&at| at < size[axis])
                        };
                        if let (Some(v), Some(u)) = (at(0, y, i), at(1, x, j)) {
                            let channel = n * shape.in_channels() + o / oc * ic + c;
                            let from = (channel * size[0] + v) * size[1] + u;
                            let to = ((n * shape.out_channels() + o) * output[0] + y) * output[1] + x;
                            f(o, (c * kh + i) * kw + j, from, to);
                        }
                    }
                }
            }
        }
    }
}

/// The values of a pattern as a dense matrix.
pub fn to_dense(pattern: &CsrPattern, values: &[f32]) -> Vec<f32> {
    let mut dense = vec![0.0; pattern.nrows() * pattern.ncols()];
    for ((row, column), &value) in pattern.positions().zip(values) {
        dense[row as usize * pattern.ncols() + column as usize] = value;
    }
    dense
}

/// `Y = conv(X, W)`.
pub fn forward(shape: ConvShape, size: [usize; 2], samples: usize, w: &[f32], x: &[f32]) -> Vec<Exact> {
    let output = shape.output_size(size).expect("the filter fits into the image");
    let mut y = vec![Exact::ZERO; samples * shape.out_channels() * output[0] * output[1]];
    for_each(shape, size, samples, |row, column, from, to| y[to].add(w[row * shape.columns() + column], x[from]));
    y
}

/// The gradient of X for that of Y.
pub fn input_grad(shape: ConvShape, size: [usize; 2], samples: usize, w: &[f32], dy: &[f32]) -> Vec<Exact> {
    let mut dx = vec![Exact::ZERO; samples * shape.in_channels() * size[0] * size[1]];
    for_each(shape, size, samples, |row, column, from, to| dx[from].add(w[row * shape.columns() + column], dy[to]));
    dx
}

/// The dense gradient of W, `[O][C/G · kh · kw]`.
pub fn weight_grad(shape: ConvShape, size: [usize; 2], samples: usize, dy: &[f32], x: &[f32]) -> Vec<Exact> {
    let mut dw = vec![Exact::ZERO; shape.rows() * shape.columns()];
    for_each(shape, size, samples, |row, column, from, to| dw[row * shape.columns() + column].add(dy[to], x[from]));
    dw
}

/// One number of [`forward`]: that at `position` of Y. Weights of 0 are no terms.
///
/// The functions for one number are for checks of large convolutions, of which only a sample can be computed so slowly.
pub fn forward_at(shape: ConvShape, size: [usize; 2], w: &[f32], x: &[f32], position: usize) -> Exact {
    let [height, width] = shape.output_size(size).expect("the filter fits into the image");
    let [sample, o, v, u] = split(position, [shape.out_channels(), height, width]);
    let channels = shape.in_channels() / shape.groups();
    let first = o / (shape.out_channels() / shape.groups()) * channels;
    let mut sum = Exact::ZERO;
    for c in 0..channels {
        for_each_tap(shape, |index, tap| {
            let weight = w[(o * channels + c) * shape.taps() + index];
            if let (Some(i), Some(j)) = (input_pixel(shape, size, 0, v, tap), input_pixel(shape, size, 1, u, tap))
                && weight != 0.0
            {
                sum.add(weight, x[((sample * shape.in_channels() + first + c) * size[0] + i) * size[1] + j]);
            }
        });
    }
    sum
}

/// One number of [`input_grad`]: that at `position` of dX. Weights of 0 are no terms.
pub fn input_grad_at(shape: ConvShape, size: [usize; 2], w: &[f32], dy: &[f32], position: usize) -> Exact {
    let output = shape.output_size(size).expect("the filter fits into the image");
    let [sample, channel, y, x] = split(position, [shape.in_channels(), size[0], size[1]]);
    let [channels, filters] = [shape.in_channels(), shape.out_channels()].map(|all| all / shape.groups());
    let (group, c) = (channel / channels, channel % channels);
    let mut sum = Exact::ZERO;
    for o in group * filters..(group + 1) * filters {
        for_each_tap(shape, |index, tap| {
            let weight = w[(o * channels + c) * shape.taps() + index];
            let at = |axis: usize, from: usize| {
                let from = (from + shape.padding()[axis]).checked_sub(tap[axis] * shape.dilation()[axis])?;
                let stride = shape.stride()[axis];
                (from.is_multiple_of(stride) && from / stride < output[axis]).then_some(from / stride)
            };
            if let (Some(v), Some(u)) = (at(0, y), at(1, x))
                && weight != 0.0
            {
                sum.add(weight, dy[((sample * shape.out_channels() + o) * output[0] + v) * output[1] + u]);
            }
        });
    }
    sum
}

/// One number of [`weight_grad`]: that at `position` of dW.
pub fn weight_grad_at(
    shape: ConvShape,
    size: [usize; 2],
    samples: usize,
    dy: &[f32],
    x: &[f32],
    position: usize,
) -> Exact {
    let [height, width] = shape.output_size(size).expect("the filter fits into the image");
    let [kh, kw] = shape.kernel();
    let [channels, filters] = [shape.in_channels(), shape.out_channels()].map(|all| all / shape.groups());
    let [o, c, row, column] = split(position, [channels, kh, kw]);
    let channel = o / filters * channels + c;
    let mut sum = Exact::ZERO;
    for sample in 0..samples {
        for v in 0..height {
            let Some(i) = input_pixel(shape, size, 0, v, [row, column]) else { continue };
            for u in 0..width {
                let Some(j) = input_pixel(shape, size, 1, u, [row, column]) else { continue };
                let to = ((sample * shape.out_channels() + o) * height + v) * width + u;
                sum.add(dy[to], x[((sample * shape.in_channels() + channel) * size[0] + i) * size[1] + j]);
            }
        }
    }
    sum
}

/// A position in an array of four dimensions, the last three of these sizes.
fn split(position: usize, [b, c, d]: [usize; 3]) -> [usize; 4] {
    [position / d / c / b, position / d / c % b, position / d % c, position % d]
}

/// Calls `f(number of the tap, its row and column)`.
fn for_each_tap(shape: ConvShape, mut f: impl FnMut(usize, [usize; 2])) {
    let [kh, kw] = shape.kernel();
    (0..kh * kw).for_each(|tap| f(tap, [tap / kw, tap % kw]));
}

/// The pixel of X, along an axis, that a pixel of Y meets with a tap; none in the padding.
fn input_pixel(shape: ConvShape, size: [usize; 2], axis: usize, output: usize, tap: [usize; 2]) -> Option<usize> {
    let at = output * shape.stride()[axis] + tap[axis] * shape.dilation()[axis];
    at.checked_sub(shape.padding()[axis]).filter(|&at| at < size[axis])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Key;

    #[test]
    fn one_number_is_that_of_the_whole() {
        let shape = ConvShape::new(6, 4, [3, 2]).unwrap();
        let shapes = [
            shape.with_padding([1, 1]),
            shape.with_stride([2, 3]).unwrap().with_padding([2, 1]).with_groups(2).unwrap(),
            shape.with_dilation([2, 1]).unwrap(),
            ConvShape::new(4, 4, [3, 3]).unwrap().with_groups(4).unwrap().with_padding([1, 0]),
        ];
        for shape in shapes {
            let (size, samples) = ([7, 5], 3);
            let [height, width] = shape.output_size(size).unwrap();
            // No zeros among the weights.
            let numbers = |name: &str, len: usize| -> Vec<f32> {
                let key = Key::new(5).with_name(name);
                (0..len as u64).map(|i| 0.5 + key.uniform(i)).collect()
            };
            let w = numbers("w", shape.rows() * shape.columns());
            let x = numbers("x", samples * shape.in_channels() * size[0] * size[1]);
            let dy = numbers("dy", samples * shape.out_channels() * height * width);
            for (position, &exact) in forward(shape, size, samples, &w, &x).iter().enumerate() {
                assert_eq!(forward_at(shape, size, &w, &x, position), exact, "{shape:?}");
            }
            for (position, &exact) in input_grad(shape, size, samples, &w, &dy).iter().enumerate() {
                assert_eq!(input_grad_at(shape, size, &w, &dy, position), exact, "{shape:?}");
            }
            for (position, &exact) in weight_grad(shape, size, samples, &dy, &x).iter().enumerate() {
                assert_eq!(weight_grad_at(shape, size, samples, &dy, &x, position), exact, "{shape:?}");
            }
            let none = vec![0.0; w.len()];
            assert_eq!(forward_at(shape, size, &none, &x, 0), Exact::ZERO);
            assert_eq!(input_grad_at(shape, size, &none, &dy, 0), Exact::ZERO);
        }
    }
}
