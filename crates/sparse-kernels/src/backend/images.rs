//! Operations on images that are no convolutions: what a device must be able to do.

use std::ops::Range;

use super::check::{Checked, Done, images_fit, lanes_fit, pixels_fit, rate_fits, same_images, same_samples};
use super::storage::Storage;
use super::wide::{Wide, WideMut};
use crate::error::expect_equal;
use crate::random::Key;
use crate::{BackendError, Images, PoolShape, ShapeError, Strips};

/// What becomes of a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Its largest pixel.
    Max,
    /// The mean of its pixels.
    Avg,
}

/// Pooling, element-wise operations on images, and the ways from images to strips.
///
/// Of the images of one call, numbers of samples, strips, and where nothing else is said channels and sizes must agree;
/// borders may differ. Outputs are overwritten in all pixels, padding samples becoming zero, but not in their borders.
/// Nothing of a border is ever counted.
///
/// "Passes" below are over the pixels of one image, of 4 bytes each, read or written.
pub trait ImageNeural: Storage {
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

    /// Whether those of [`ImageNeural::add_images`] and of pooling do.
    #[doc(hidden)]
    const ADDS_AND_POOLS_16_BITS: bool = Self::TAKES_16_BITS;

    /// `y = max` over the windows of `x`. NaN in a window makes NaN.
    ///
    /// # Errors
    /// Unless `y` has the size that [`PoolShape::output_size`] gives.
    ///
    /// # Cost
    /// One pass over each of `x` and `y`.
    fn max_pool(&self, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        same_samples(self, "max_pool", x, window.output_size(x.layout.size())?, y)?;
        let x = Wide::new(self, Self::ADDS_AND_POOLS_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::ADDS_AND_POOLS_16_BITS, y)?;
        self.run_pool(Checked(()), Pool::Max, window, &x, &mut y)?;
        y.store()
    }

    /// Backward of [`ImageNeural::max_pool`]: each pixel of `dy` goes to the pixel of `dx` where its window is largest, in a
    /// tie to the first in order of (row, column); of a window that holds NaN, to the first of all. All else in `dx` becomes
    /// zero, or with `accumulate` stays.
    ///
    /// `x` and `y` are operand and result of the forward pass: where the largest stood is found again, not stored.
    ///
    /// # Errors
    /// Unless `dx` is as large as `x`, and `y` and `dy` have the size that [`PoolShape::output_size`] gives.
    ///
    /// # Cost
    /// One pass over each of `x`, `y` and `dy`, and two over `dx`.
    fn max_pool_grad(
        &self,
        window: PoolShape,
        x: &Images<Self>,
        y: &Images<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        const NAME: &str = "max_pool_grad";
        same_images(self, NAME, dx, x)?;
        same_images(self, NAME, dy, y)?;
        same_samples(self, NAME, dx, window.output_size(dx.layout.size())?, dy)?;
        let x = Wide::new(self, Self::ADDS_AND_POOLS_16_BITS, x)?;
        let y = Wide::new(self, Self::ADDS_AND_POOLS_16_BITS, y)?;
        let dy = Wide::new(self, Self::ADDS_AND_POOLS_16_BITS, dy)?;
        let mut dx = match accumulate {
            true => WideMut::updated(self, Self::ADDS_AND_POOLS_16_BITS, dx)?,
            false => WideMut::overwritten(self, Self::ADDS_AND_POOLS_16_BITS, dx)?,
        };
        self.run_max_pool_grad(Checked(()), window, [&x, &y, &dy], &mut dx, accumulate)?;
        dx.store()
    }

    /// `y = mean` over the pixels of the image in the windows of `x`.
    ///
    /// # Errors
    /// Unless `y` has the size that [`PoolShape::output_size`] gives.
    ///
    /// # Cost
    /// One pass over each of `x` and `y`.
    fn avg_pool(&self, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        same_samples(self, "avg_pool", x, window.output_size(x.layout.size())?, y)?;
        let x = Wide::new(self, Self::ADDS_AND_POOLS_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::ADDS_AND_POOLS_16_BITS, y)?;
        self.run_pool(Checked(()), Pool::Avg, window, &x, &mut y)?;
        y.store()
    }

    /// Backward of [`ImageNeural::avg_pool`]: `dx = Σ dy / pixels in the window` over the windows that see the pixel, added
    /// to `dx` with `accumulate`.
    ///
    /// # Errors
    /// Unless `dy` has the size that [`PoolShape::output_size`] gives for that of `dx`.
    ///
    /// # Cost
    /// One pass over `dy` and two over `dx`.
    fn avg_pool_grad(
        &self,
        window: PoolShape,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        same_samples(self, "avg_pool_grad", dx, window.output_size(dx.layout.size())?, dy)?;
        let dy = Wide::new(self, Self::ADDS_AND_POOLS_16_BITS, dy)?;
        let mut dx = match accumulate {
            true => WideMut::updated(self, Self::ADDS_AND_POOLS_16_BITS, dx)?,
            false => WideMut::overwritten(self, Self::ADDS_AND_POOLS_16_BITS, dx)?,
        };
        self.run_avg_pool_grad(Checked(()), window, &dy, &mut dx, accumulate)?;
        dx.store()
    }

    /// `y[c, n] = Σ x[n, c, ·, ·] / (H · W)`: channels become features, samples lanes. `y` may have any strip.
    ///
    /// # Errors
    /// If samples or channels do not fit, or `x` has no pixels.
    ///
    /// # Cost
    /// One pass over `x`.
    fn global_avg_pool(&self, x: &Images<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        const NAME: &str = "global_avg_pool";
        lanes_fit(self, NAME, x.layout.channels(), x, y)?;
        if x.layout.size().contains(&0) {
            return Err(ShapeError::Rule { op: NAME, what: "pixels of X", got: 0, rule: "positive" }.into());
        }
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_global_avg_pool(Checked(()), &x, &mut y)?;
        y.store()
    }

    /// Backward of [`ImageNeural::global_avg_pool`]: `dx[n, c, ·, ·] = dy[c, n] / (H · W)`.
    ///
    /// # Errors
    /// If samples or channels do not fit.
    ///
    /// # Cost
    /// One pass over `dx`.
    fn global_avg_pool_grad(&self, dy: &Strips<Self>, dx: &mut Images<Self>) -> Result<(), BackendError> {
        lanes_fit(self, "global_avg_pool_grad", dx.layout.channels(), dx, dy)?;
        let dy = Wide::new(self, Self::TAKES_16_BITS, dy)?;
        let mut dx = WideMut::overwritten(self, Self::TAKES_16_BITS, dx)?;
        self.run_global_avg_pool_grad(Checked(()), &dy, &mut dx)?;
        dx.store()
    }

    /// `y[(c · H + row) · W + column, n] = x[n, c, row, column]`: pixels become features, in PyTorch's order, samples lanes.
    /// `y` may have any strip.
    ///
    /// # Errors
    /// Unless `y` has a feature for each channel and pixel, and a lane for each sample.
    ///
    /// # Cost
    /// One pass over each of `x` and `y`.
    fn flatten(&self, x: &Images<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        lanes_fit(self, "flatten", x.layout.channels() * x.layout.size()[0] * x.layout.size()[1], x, y)?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_flatten(Checked(()), &x, &mut y)?;
        y.store()
    }

    /// Inverse of [`ImageNeural::flatten`], and its backward.
    ///
    /// # Errors
    /// Unless `dy` has a feature for each channel and pixel, and a lane for each sample.
    ///
    /// # Cost
    /// One pass over each of `dy` and `dx`.
    fn unflatten(&self, dy: &Strips<Self>, dx: &mut Images<Self>) -> Result<(), BackendError> {
        lanes_fit(self, "unflatten", dx.layout.channels() * dx.layout.size()[0] * dx.layout.size()[1], dx, dy)?;
        let dy = Wide::new(self, Self::TAKES_16_BITS, dy)?;
        let mut dx = WideMut::overwritten(self, Self::TAKES_16_BITS, dx)?;
        self.run_unflatten(Checked(()), &dy, &mut dx)?;
        dx.store()
    }

    /// `x[n, c, ·, ·] = act(x[n, c, ·, ·] + bias[c])` in place, `act` being ReLU or nothing.
    ///
    /// # Errors
    /// Unless `bias` has one element per channel.
    ///
    /// # Cost
    /// Two passes: `x` is read and written.
    fn bias_relu_images(&self, bias: &Self::Buffer, relu: bool, x: &mut Images<Self>) -> Result<(), BackendError> {
        expect_equal("bias_relu_images", "length of the bias", x.layout.channels(), self.len(bias))?;
        images_fit(self, "bias_relu_images", x)?;
        let mut x = WideMut::updated(self, Self::TAKES_16_BITS, x)?;
        self.run_bias_relu_images(Checked(()), Some(bias), relu, &mut x)?;
        x.store()
    }

    /// Backward of [`ImageNeural::bias_relu_images`]: `grad = 0` where `relu` and `y <= 0` (in place), then
    /// `dbias[c] = Σ grad[·, c, ·, ·]`, added to `dbias` with `accumulate`.
    ///
    /// # Errors
    /// If the shapes differ, or `dbias` has not one element per channel.
    ///
    /// # Cost
    /// Three passes: over `y`, and `grad` is read and written. Without `relu` one, over `grad`.
    fn bias_relu_images_grad(
        &self,
        y: &Images<Self>,
        relu: bool,
        grad: &mut Images<Self>,
        dbias: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        const NAME: &str = "bias_relu_images_grad";
        same_images(self, NAME, grad, y)?;
        expect_equal(NAME, "length of the bias gradient", grad.layout.channels(), self.len(dbias))?;
        let y = Wide::new(self, Self::TAKES_16_BITS, y)?;
        let mut grad = WideMut::updated(self, Self::TAKES_16_BITS, grad)?;
        self.run_bias_relu_images_grad(Checked(()), &y, relu, &mut grad, dbias, accumulate)?;
        grad.store()
    }

    /// `x = max(0, x)` in place, for a ReLU behind a sum. NaN stays NaN.
    ///
    /// # Errors
    /// If the buffer is not as long as its layout says.
    ///
    /// # Cost
    /// Two passes: `x` is read and written.
    fn relu_images(&self, x: &mut Images<Self>) -> Result<(), BackendError> {
        images_fit(self, "relu_images", x)?;
        let mut x = WideMut::updated(self, Self::TAKES_16_BITS, x)?;
        self.run_bias_relu_images(Checked(()), None, true, &mut x)?;
        x.store()
    }

    /// Backward of [`ImageNeural::relu_images`]: `grad = 0` where `y <= 0` (in place).
    ///
    /// # Errors
    /// If the shapes differ.
    ///
    /// # Cost
    /// Three passes: over `y`, and `grad` is read and written.
    fn relu_images_grad(&self, y: &Images<Self>, grad: &mut Images<Self>) -> Result<(), BackendError> {
        same_images(self, "relu_images_grad", grad, y)?;
        let y = Wide::new(self, Self::TAKES_16_BITS, y)?;
        let mut grad = WideMut::updated(self, Self::TAKES_16_BITS, grad)?;
        self.run_relu_images_grad(Checked(()), &y, &mut grad)?;
        grad.store()
    }

    /// `to += from`.
    ///
    /// # Errors
    /// If the shapes differ.
    ///
    /// # Cost
    /// Three passes: over `from`, and `to` is read and written.
    fn add_images(&self, from: &Images<Self>, to: &mut Images<Self>) -> Result<(), BackendError> {
        same_images(self, "add_images", to, from)?;
        let from = Wide::new(self, Self::ADDS_AND_POOLS_16_BITS, from)?;
        let mut to = WideMut::updated(self, Self::ADDS_AND_POOLS_16_BITS, to)?;
        self.run_add_images(Checked(()), &from, &mut to)?;
        to.store()
    }

    /// `to[n, first + i, ·, ·] = from[n, channels.start + i, ·, ·]` for each of these channels; all others of `to` stay.
    ///
    /// # Errors
    /// If samples or sizes differ, or either has no such channels.
    ///
    /// # Cost
    /// Two passes over the channels that are copied: they are read and written.
    fn copy_channels(
        &self,
        from: &Images<Self>,
        channels: Range<usize>,
        to: &mut Images<Self>,
        first: usize,
    ) -> Result<(), BackendError> {
        const NAME: &str = "copy_channels";
        pixels_fit(self, NAME, to, from)?;
        let ends =
            [(from.layout.channels(), channels.end), (to.layout.channels(), first.saturating_add(channels.len()))];
        for (has, got) in ends {
            if got > has {
                let rule = "no more than there are channels";
                return Err(ShapeError::Rule { op: NAME, what: "end of the channels", got, rule }.into());
            }
        }
        let from = Wide::new(self, Self::TAKES_16_BITS, from)?;
        let mut to = WideMut::updated(self, Self::TAKES_16_BITS, to)?;
        self.run_copy_channels(Checked(()), &from, channels, &mut to, first)?;
        to.store()
    }

    /// Inverted dropout in place: element `(n, c, row, column)` becomes 0 if `key.uniform(i) < rate`, with
    /// `i = ((n · C + c) · H + row) · W + column`, else is divided by `1 − rate`. The mask depends on neither strip nor
    /// border. The same call on the gradient is its backward: no mask is stored.
    ///
    /// # Errors
    /// Unless `0 <= rate < 1`.
    ///
    /// # Cost
    /// Some 70 integer operations an element.
    fn dropout_images(&self, key: Key, rate: f32, x: &mut Images<Self>) -> Result<(), BackendError> {
        rate_fits("dropout_images", rate)?;
        images_fit(self, "dropout_images", x)?;
        if rate == 0.0 {
            return Ok(());
        }
        let mut x = WideMut::updated(self, Self::TAKES_16_BITS, x)?;
        self.run_dropout_images(Checked(()), key, rate, &mut x)?;
        x.store()
    }

    #[doc(hidden)]
    fn run_pool(&self, _: Checked, pool: Pool, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Done;

    #[doc(hidden)]
    fn run_max_pool_grad(
        &self,
        _: Checked,
        window: PoolShape,
        x_y_dy: [&Images<Self>; 3],
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Done;

    #[doc(hidden)]
    fn run_avg_pool_grad(
        &self,
        _: Checked,
        window: PoolShape,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Done;

    #[doc(hidden)]
    fn run_global_avg_pool(&self, _: Checked, x: &Images<Self>, y: &mut Strips<Self>) -> Done;

    #[doc(hidden)]
    fn run_global_avg_pool_grad(&self, _: Checked, dy: &Strips<Self>, dx: &mut Images<Self>) -> Done;

    #[doc(hidden)]
    fn run_flatten(&self, _: Checked, x: &Images<Self>, y: &mut Strips<Self>) -> Done;

    #[doc(hidden)]
    fn run_unflatten(&self, _: Checked, dy: &Strips<Self>, dx: &mut Images<Self>) -> Done;

    /// Without a bias it is ReLU alone.
    #[doc(hidden)]
    fn run_bias_relu_images(&self, _: Checked, bias: Option<&Self::Buffer>, relu: bool, x: &mut Images<Self>) -> Done;

    #[doc(hidden)]
    fn run_bias_relu_images_grad(
        &self,
        _: Checked,
        y: &Images<Self>,
        relu: bool,
        grad: &mut Images<Self>,
        dbias: &mut Self::Buffer,
        accumulate: bool,
    ) -> Done;

    #[doc(hidden)]
    fn run_relu_images_grad(&self, _: Checked, y: &Images<Self>, grad: &mut Images<Self>) -> Done;

    #[doc(hidden)]
    fn run_add_images(&self, _: Checked, from: &Images<Self>, to: &mut Images<Self>) -> Done;

    #[doc(hidden)]
    fn run_copy_channels(
        &self,
        _: Checked,
        from: &Images<Self>,
        channels: Range<usize>,
        to: &mut Images<Self>,
        first: usize,
    ) -> Done;

    /// `0 < rate < 1`.
    #[doc(hidden)]
    fn run_dropout_images(&self, _: Checked, key: Key, rate: f32, x: &mut Images<Self>) -> Done;
}
