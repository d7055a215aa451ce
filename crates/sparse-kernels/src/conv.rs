//! The shape of a convolution.

use crate::error::ShapeError;

/// A two-dimensional convolution, in the sense of neural networks (a cross-correlation):
///
/// `Y[n, o, y, x] = Σ_{c, i, j} W[o, c, i, j] · X[n, g·C/G + c, y·s − p + i·d, x·s − p + j·d]`, where `g = o / (O/G)` is the
/// output channel's group and X is zero outside the image; each of stride s, padding p and dilation d has one number for
/// rows and one for columns.
///
/// The weight is a matrix of [`ConvShape::rows`] × [`ConvShape::columns`]: one row per output channel, its columns
/// `(c, i, j)` in this order, which is PyTorch's `[O, C/G, kh, kw]` flattened. Of weights in blocks (BSR) the columns are
/// `(i, j, c)`, so that a block spans channels of one tap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvShape {
    out_channels: usize,
    in_channels: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
}

const OP: &str = "convolution";

fn positive(what: &'static str, got: usize) -> Result<(), ShapeError> {
    if got > 0 { Ok(()) } else { Err(ShapeError::Rule { op: OP, what, got, rule: "positive" }) }
}

impl ConvShape {
    /// A convolution of `in_channels` to `out_channels` with a `kernel` of `[height, width]`: stride 1, no padding, no
    /// dilation, one group.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] if one of them is 0.
    pub fn new(out_channels: usize, in_channels: usize, kernel: [usize; 2]) -> Result<Self, ShapeError> {
        positive("out_channels", out_channels)?;
        positive("in_channels", in_channels)?;
        kernel.into_iter().try_for_each(|size| positive("kernel", size))?;
        Ok(Self { out_channels, in_channels, kernel, stride: [1; 2], padding: [0; 2], dilation: [1; 2], groups: 1 })
    }

    /// With another number of output channels.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] if it is 0, or the groups do not divide it.
    pub fn with_out_channels(self, out_channels: usize) -> Result<Self, ShapeError> {
        positive("out_channels", out_channels)?;
        Self { out_channels, ..self }.with_groups(self.groups)
    }

    /// With another stride, `[rows, columns]`.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] if one is 0.
    pub fn with_stride(self, stride: [usize; 2]) -> Result<Self, ShapeError> {
        stride.into_iter().try_for_each(|size| positive("stride", size))?;
        Ok(Self { stride, ..self })
    }

    /// With zeros around the image, `[above and below, left and right]`.
    #[must_use]
    pub fn with_padding(self, padding: [usize; 2]) -> Self {
        Self { padding, ..self }
    }

    /// With taps at a distance, `[rows, columns]`.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] if one is 0.
    pub fn with_dilation(self, dilation: [usize; 2]) -> Result<Self, ShapeError> {
        dilation.into_iter().try_for_each(|size| positive("dilation", size))?;
        Ok(Self { dilation, ..self })
    }

    /// With channels in groups: each output channel sees the input channels of its group only.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] unless `groups` divides both numbers of channels.
    pub fn with_groups(self, groups: usize) -> Result<Self, ShapeError> {
        let fits = |channels: usize| groups > 0 && channels.is_multiple_of(groups);
        if !fits(self.out_channels) || !fits(self.in_channels) {
            let rule = "a divisor of in_channels and out_channels";
            return Err(ShapeError::Rule { op: OP, what: "groups", got: groups, rule });
        }
        Ok(Self { groups, ..self })
    }

    /// Channels of Y.
    pub fn out_channels(&self) -> usize {
        self.out_channels
    }

    /// Channels of X.
    pub fn in_channels(&self) -> usize {
        self.in_channels
    }

    /// Rows and columns of the filter.
    pub fn kernel(&self) -> [usize; 2] {
        self.kernel
    }

    /// Pixels of X from one pixel of Y to the next.
    pub fn stride(&self) -> [usize; 2] {
        self.stride
    }

    /// Zeros around the image.
    pub fn padding(&self) -> [usize; 2] {
        self.padding
    }

    /// Pixels from one tap to the next.
    pub fn dilation(&self) -> [usize; 2] {
        self.dilation
    }

    /// Groups of channels.
    pub fn groups(&self) -> usize {
        self.groups
    }

    /// Whether each channel is convolved by itself.
    pub fn is_depthwise(&self) -> bool {
        self.groups > 1 && self.groups == self.in_channels && self.groups == self.out_channels
    }

    /// Whether every channel is a group of its own, be it a single one.
    pub(crate) fn has_single_channels(&self) -> bool {
        self.in_channels == self.groups && self.out_channels == self.groups
    }

    /// The input channel and the tap of a column of a row of the weight.
    pub(crate) fn channel_and_tap(&self, row: usize, column: usize) -> (usize, usize) {
        let group = row / (self.out_channels / self.groups);
        (group * (self.in_channels / self.groups) + column / self.taps(), column % self.taps())
    }

    /// Taps of a filter: `kh · kw`.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Rows of the weight matrix: output channels.
    pub fn rows(&self) -> usize {
        self.out_channels
    }

    /// Columns of the weight matrix: `C/G · kh · kw`.
    pub fn columns(&self) -> usize {
        self.in_channels / self.groups * self.taps()
    }

    /// Height and width of Y for those of X: `(H + 2p − d·(k − 1) − 1) / s + 1`.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] if the filter does not fit into the padded image.
    pub fn output_size(&self, input: [usize; 2]) -> Result<[usize; 2], ShapeError> {
        let mut output = [0; 2];
        for axis in 0..2 {
            let padded = input[axis] + 2 * self.padding[axis];
            let span = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            if padded < span {
                let what = ["height of X with padding", "width of X with padding"][axis];
                return Err(ShapeError::Rule { op: OP, what, got: padded, rule: "at least the filter's extent" });
            }
            output[axis] = (padded - span) / self.stride[axis] + 1;
        }
        Ok(output)
    }

    /// The zero borders that X and dY must have, see [`crate::ImageLayout`].
    ///
    /// # Errors
    /// As [`ConvShape::output_size`].
    pub fn borders(&self, input: [usize; 2]) -> Result<[usize; 2], ShapeError> {
        let output = self.output_size(input)?;
        let mut border = 0;
        for axis in 0..2 {
            let (stride, padding) = (self.stride[axis], self.padding[axis]);
            // Tap k of Y's pixel y meets X's pixel y·s − p + k·d, so pixel x of X asks for (x + p − k·d) / s: at most, and at least:
            let most = (input[axis].max(1) - 1 + padding) / stride;
            border = border.max((most + 1).saturating_sub(output[axis]));
            let span = self.dilation[axis] * (self.kernel[axis] - 1);
            border = border.max(span.saturating_sub(padding) / stride);
        }
        Ok([self.padding[0].max(self.padding[1]), border])
    }

    /// Multiply-adds of a dense pass over `samples` images of the given size of Y.
    pub fn dense_multiply_adds(&self, output: [usize; 2], samples: usize) -> u64 {
        [self.rows(), self.columns(), output[0], output[1], samples].into_iter().map(|n| n as u64).product()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_textbook() {
        let shape = ConvShape::new(64, 3, [7, 7]).unwrap().with_stride([2, 2]).unwrap().with_padding([3, 3]);
        assert_eq!(shape.output_size([224, 224]).unwrap(), [112, 112]);
        assert_eq!(shape.columns(), 147);
        let dilated = ConvShape::new(4, 4, [3, 3]).unwrap().with_dilation([2, 3]).unwrap();
        assert_eq!(dilated.output_size([5, 7]).unwrap(), [1, 1]);
        assert!(dilated.output_size([4, 7]).unwrap_err().to_string().contains("height"));
    }

    #[test]
    fn borders_cover_every_access() {
        for (kernel, stride, padding, dilation, size) in
            [(3, 1, 1, 1, 8), (7, 2, 3, 1, 224), (7, 2, 3, 1, 9), (5, 3, 0, 2, 20), (1, 2, 0, 1, 7), (2, 1, 3, 1, 4)]
        {
            let shape = ConvShape::new(1, 1, [kernel; 2]).unwrap().with_stride([stride; 2]).unwrap();
            let shape = shape.with_padding([padding; 2]).with_dilation([dilation; 2]).unwrap();
            let [border_in, border_out] = shape.borders([size; 2]).unwrap();
            let out = shape.output_size([size; 2]).unwrap()[0] as i64;
            let (stride, padding, dilation, size) = (stride as i64, padding as i64, dilation as i64, size as i64);
            let (mut least, mut most) = (0, 0);
            for x in 0..size {
                for k in 0..kernel as i64 {
                    let at = x + padding - k * dilation;
                    if at.rem_euclid(stride) == 0 {
                        least = least.min(at.div_euclid(stride));
                        most = most.max(at.div_euclid(stride) - (out - 1));
                    }
                }
            }
            assert!(border_out as i64 >= most.max(-least), "{kernel} {stride} {padding}: {border_out}");
            assert!(border_in as i64 >= padding);
        }
    }

    #[test]
    fn impossible_shapes_are_refused() {
        let shape = ConvShape::new(6, 4, [3, 3]).unwrap();
        assert!(shape.with_groups(3).unwrap_err().to_string().contains('3'));
        assert!(shape.with_groups(0).is_err());
        assert!(shape.with_stride([1, 0]).is_err());
        assert!(shape.with_dilation([0, 1]).is_err());
        assert!(ConvShape::new(0, 1, [1, 1]).is_err());
    }
}
