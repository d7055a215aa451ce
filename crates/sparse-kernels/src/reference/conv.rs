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
