//! The shape of a pooling window.

use std::ops::Range;

use crate::error::ShapeError;

/// A window that moves over an image, as PyTorch's `MaxPool2d` and `AvgPool2d` have it (without dilation and ceil mode):
///
/// `Y[n, c, y, x]` is the largest, or the mean, of `X[n, c, y·s − p + i, x·s − p + j]` over the taps `(i, j)` of the window
/// that lie inside the image; each of stride s and padding p has one number for rows and one for columns.
///
/// Pixels outside the image do not count: they are −∞ to a maximum, and a mean is over fewer pixels there
/// (`count_include_pad = false`). Padding is at most half the window, so that no window lies outside altogether.
///
/// ```
/// use sparse_kernels::PoolShape;
/// let window = PoolShape::new([3, 3])?.with_stride([2, 2])?.with_padding([1, 1])?;
/// assert_eq!(window.output_size([112, 112])?, [56, 56]);
/// # Ok::<(), sparse_kernels::ShapeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolShape {
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
}

const OP: &str = "pooling";

fn positive(what: &'static str, got: usize) -> Result<(), ShapeError> {
    if got > 0 { Ok(()) } else { Err(ShapeError::Rule { op: OP, what, got, rule: "positive" }) }
}

impl PoolShape {
    /// A window of `[height, width]` pixels, without padding, whose stride is its size: windows tile the image.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] if one of them is 0.
    pub fn new(kernel: [usize; 2]) -> Result<Self, ShapeError> {
        kernel.into_iter().try_for_each(|size| positive("kernel", size))?;
        Ok(Self { kernel, stride: kernel, padding: [0; 2] })
    }

    /// With another stride, `[rows, columns]`.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] if one is 0.
    pub fn with_stride(self, stride: [usize; 2]) -> Result<Self, ShapeError> {
        stride.into_iter().try_for_each(|size| positive("stride", size))?;
        Ok(Self { stride, ..self })
    }

    /// With pixels that do not count around the image, `[above and below, left and right]`.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] if one is more than half the window.
    pub fn with_padding(self, padding: [usize; 2]) -> Result<Self, ShapeError> {
        for (got, kernel) in padding.into_iter().zip(self.kernel) {
            if got > kernel / 2 {
                return Err(ShapeError::Rule { op: OP, what: "padding", got, rule: "at most half the window" });
            }
        }
        Ok(Self { padding, ..self })
    }

    /// Rows and columns of the window.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Pixels of X from one pixel of Y to the next.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }

    /// Pixels around the image that do not count.
    pub fn padding(&self) -> [usize; 2] {
        self.padding
    }

    /// Height and width of Y for those of X: `(H + 2p − k) / s + 1`.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] if there is no pixel, or the window does not fit into the padded image.
    pub fn output_size(&self, input: [usize; 2]) -> Result<[usize; 2], ShapeError> {
        let mut output = [0; 2];
        for axis in 0..2 {
            positive(["height of X", "width of X"][axis], input[axis])?;
            let padded = input[axis] + 2 * self.padding[axis];
            if padded < self.kernel[axis] {
                let what = ["height of X with padding", "width of X with padding"][axis];
                return Err(ShapeError::Rule { op: OP, what, got: padded, rule: "at least the window's extent" });
            }
            output[axis] = (padded - self.kernel[axis]) / self.stride[axis] + 1;
        }
        Ok(output)
    }

    /// Rows (axis 0) or columns (axis 1) of an image of `size` that the windows of Y's row or column `output` see; at least
    /// one, if `output` is below [`PoolShape::output_size`].
    #[inline]
    pub fn span(&self, axis: usize, size: [usize; 2], output: usize) -> Range<usize> {
        let (start, padding) = (output * self.stride[axis], self.padding[axis]);
        start.saturating_sub(padding)..(start + self.kernel[axis] - padding).min(size[axis])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_textbook() {
        let window = PoolShape::new([2, 3]).unwrap();
        assert_eq!(window.stride(), [2, 3]);
        assert_eq!(window.output_size([7, 7]).unwrap(), [3, 2]);
        assert!(window.output_size([1, 7]).unwrap_err().to_string().contains("height"));
        assert!(window.output_size([7, 0]).unwrap_err().to_string().contains("width of X is 0"));
    }

    #[test]
    fn every_window_sees_the_image() {
        for (kernel, stride, padding, size) in
            [(2, 2, 1, 1), (3, 2, 1, 112), (3, 1, 1, 1), (1, 4, 0, 9), (4, 3, 2, 1), (5, 7, 2, 6), (2, 1, 1, 3)]
        {
            let window = PoolShape::new([1, kernel]).unwrap().with_stride([1, stride]).unwrap();
            let window = window.with_padding([0, padding]).unwrap();
            let [_, width] = window.output_size([1, size]).unwrap();
            for x in 0..width {
                let inside = (0..kernel).filter_map(|j| (x * stride + j).checked_sub(padding)).filter(|&at| at < size);
                assert_eq!(inside.collect::<Vec<_>>(), window.span(1, [1, size], x).collect::<Vec<_>>());
                assert!(!window.span(1, [1, size], x).is_empty(), "{kernel} {stride} {padding} {size} at {x}");
            }
        }
    }

    #[test]
    fn impossible_windows_are_refused() {
        assert!(PoolShape::new([0, 1]).is_err());
        let window = PoolShape::new([3, 2]).unwrap();
        assert!(window.with_stride([1, 0]).is_err());
        assert!(window.with_padding([2, 0]).unwrap_err().to_string().contains("half"));
        assert!(window.with_padding([1, 1]).is_ok());
    }
}
