//! Batch normalisation of images: what a device must be able to do.

use super::check::{Checked, Done, same_images};
use super::storage::Storage;
use super::wide::{Wide, WideMut};
use crate::error::expect_equal;
use crate::{BackendError, Images, Precision, ShapeError};

/// Numbers of batch normalisation that are not learned.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormOptions {
    /// Added to the variance.
    pub epsilon: f32,
    /// Share of a batch's moments in the new running ones.
    pub momentum: f32,
}

impl Default for BatchNormOptions {
    /// 1e-5 and 0.1, as the paper's networks have them (there the momentum is called 0.9) and PyTorch.
    fn default() -> Self {
        Self { epsilon: 1e-5, momentum: 0.1 }
    }
}

/// What becomes of what an output held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accumulate {
    /// It is overwritten.
    No,
    /// It is added to.
    Yes,
}

/// What a batch normalisation's output goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// Nothing.
    #[default]
    None,
    /// `max(0, v)`.
    Relu,
    /// `min(max(0, v), 6)`, as MobileNets have it (Sandler et al. 2018).
    Relu6,
}

/// Where the activation behind a batch normalisation let nothing through: where it is flat.
#[derive(Debug)]
pub enum ReluMask<'a, B: Storage> {
    /// Nowhere: there was none.
    None,
    /// Where `γ · x̂ + β` is not positive, or with [`Activation::Relu6`] not below 6: it is computed again, which costs no pass
    /// over memory.
    Recomputed(Activation),
    /// Where Y is so: something was added between normalisation and activation.
    Output(Activation, &'a Images<B>),
}

/// Batch normalisation (Ioffe and Szegedy 2015) of images, per channel over samples and pixels, in few passes over memory.
///
/// ```text
/// training    μ, v = mean and variance of x;  y = act(γ · (x − μ) / √(v + ε) + β [+ residual])
/// evaluation  the same with running moments
/// ```
///
/// C is the number of channels. `affine` is what is learned, `[γ; C] ‖ [β; C]`. Images of one call agree in shape and strip; borders may differ, and are neither read nor
/// written. Padding samples of an output become zero.
pub trait BatchNorm: Storage {
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

    /// `x += addend`, if there is one, then the moments of x as it is stored: `moments = [μ; C] ‖ [1 / √(v + ε); C]`, v being the biased
    /// variance. `running = [mean; C] ‖ [variance; C]` moves towards the batch's mean and unbiased variance.
    ///
    /// # Errors
    /// If the shapes do not fit, or there is no pixel.
    ///
    /// # Cost
    /// One pass over x; with an addend it reads both and writes x.
    fn batch_moments(
        &self,
        options: BatchNormOptions,
        addend: Option<&Images<Self>>,
        x: &mut Images<Self>,
        running: &mut Self::Buffer,
        moments: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        const NAME: &str = "batch_moments";
        same_images(self, NAME, x, addend.unwrap_or(&*x))?;
        expect_pairs(self, NAME, x, &[("length of the running moments", running), ("length of the moments", moments)])?;
        expect_pixels(NAME, x)?;
        let is_rounded = !Self::TAKES_16_BITS && self.precision(&x.data) != Precision::F32;
        let addend = addend.map(|addend| Wide::new(self, Self::TAKES_16_BITS, addend)).transpose()?;
        let mut wide = WideMut::updated(self, Self::TAKES_16_BITS, x)?;
        if addend.is_none() || !is_rounded {
            return self.run_batch_moments(Checked(()), options, addend.as_deref(), &mut wide, running, moments);
        }
        // The sum is rounded before its moments are taken.
        let mut unused = self.lend(self.len(running))?;
        self.fill(0.0, &mut unused)?;
        self.run_batch_moments(Checked(()), options, addend.as_deref(), &mut wide, &mut unused, moments)?;
        self.give_back(unused);
        wide.store()?;
        let mut wide = WideMut::updated(self, Self::TAKES_16_BITS, x)?;
        self.run_batch_moments(Checked(()), options, None, &mut wide, running, moments)
    }

    /// `y = act(γ · (x − μ) · (1 / √(v + ε)) + β + residual)` with the `moments` of [`BatchNorm::batch_moments`], `act`
    /// being the activation.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// One pass that reads x, and the residual, and writes y.
    fn batch_normalize(
        &self,
        affine: &Self::Buffer,
        moments: &Self::Buffer,
        residual: Option<&Images<Self>>,
        activation: Activation,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        const NAME: &str = "batch_normalize";
        same_images(self, NAME, x, y)?;
        same_images(self, NAME, x, residual.unwrap_or(x))?;
        expect_pairs(self, NAME, x, &[("length of γ and β", affine), ("length of the moments", moments)])?;
        let residual = residual.map(|residual| Wide::new(self, Self::TAKES_16_BITS, residual)).transpose()?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_batch_normalize(Checked(()), [affine, moments], residual.as_deref(), activation, &x, &mut y)?;
        y.store()
    }

    /// `moments = [mean; C] ‖ [1 / √(variance + ε); C]` of running moments, for [`BatchNorm::batch_normalize`] in evaluation.
    ///
    /// # Errors
    /// If the lengths differ.
    fn running_moments(
        &self,
        options: BatchNormOptions,
        running: &Self::Buffer,
        moments: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        expect_equal("running_moments", "length of the moments", self.len(running), self.len(moments))?;
        self.run_running_moments(Checked(()), options, running, moments)
    }

    /// The first half of the backward pass: `g = dy` where the mask lets it through, else 0, and
    /// `dscale[c] = Σ g · x̂`, `dshift[c] = Σ g`; these are written to `sums = dscale ‖ dshift`.
    ///
    /// With [`ReluMask::Output`], g takes the place of dy: it is the residual's gradient.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// One pass that reads x and dy; with [`ReluMask::Output`] it reads y and writes dy too.
    fn batch_norm_grad_sums(
        &self,
        affine: &Self::Buffer,
        moments: &Self::Buffer,
        mask: ReluMask<'_, Self>,
        x: &Images<Self>,
        dy: &mut Images<Self>,
        sums: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        const NAME: &str = "batch_norm_grad_sums";
        expect_gradient(self, NAME, [affine, moments, sums], x, dy)?;
        if let ReluMask::Output(_, y) = &mask {
            same_images(self, NAME, x, y)?;
        }
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut dy = WideMut::updated(self, Self::TAKES_16_BITS, dy)?;
        match mask {
            ReluMask::Output(activation, y) => {
                let y = Wide::new(self, Self::TAKES_16_BITS, y)?;
                let mask = ReluMask::Output(activation, &y);
                self.run_batch_norm_grad_sums(Checked(()), [affine, moments], mask, &x, &mut dy, sums)?;
                dy.store()
            }
            // dy is only read.
            mask => self.run_batch_norm_grad_sums(Checked(()), [affine, moments], mask, &x, &mut dy, sums),
        }
    }

    /// The second half: `dx = γ / √(v + ε) · (g − (dshift + x̂ · dscale) / n)`, n being pixels times samples. With an
    /// `activation`, g is dy where it is not flat at `γ · x̂ + β`; with none, g is dy as it stands.
    ///
    /// Without `output`, dx takes the place of dy. Else dy stays as it is, and dx is written to `output`, or added to it.
    ///
    /// # Errors
    /// If the shapes do not fit.
    ///
    /// # Cost
    /// One pass that reads x and dy, and writes dy or the output, which it reads too where it adds.
    #[expect(clippy::too_many_arguments, reason = "what the formula has")]
    fn batch_norm_grad(
        &self,
        affine: &Self::Buffer,
        moments: &Self::Buffer,
        sums: &Self::Buffer,
        activation: Activation,
        x: &Images<Self>,
        dy: &mut Images<Self>,
        output: Option<(&mut Images<Self>, Accumulate)>,
    ) -> Result<(), BackendError> {
        const NAME: &str = "batch_norm_grad";
        expect_gradient(self, NAME, [affine, moments, sums], x, dy)?;
        expect_pixels(NAME, x)?;
        if let Some((output, _)) = &output {
            same_images(self, NAME, x, output)?;
        }
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut dy = WideMut::updated(self, Self::TAKES_16_BITS, dy)?;
        let operands = [affine, moments, sums];
        let Some((output, accumulate)) = output else {
            self.run_batch_norm_grad(Checked(()), operands, activation, &x, &mut dy, None)?;
            return dy.store();
        };
        let mut output = match accumulate {
            Accumulate::Yes => WideMut::updated(self, Self::TAKES_16_BITS, output)?,
            Accumulate::No => WideMut::overwritten(self, Self::TAKES_16_BITS, output)?,
        };
        self.run_batch_norm_grad(Checked(()), operands, activation, &x, &mut dy, Some((&mut output, accumulate)))?;
        output.store()
    }
    #[doc(hidden)]
    fn run_batch_moments(
        &self,
        _: Checked,
        options: BatchNormOptions,
        addend: Option<&Images<Self>>,
        x: &mut Images<Self>,
        running: &mut Self::Buffer,
        moments: &mut Self::Buffer,
    ) -> Done;

    #[doc(hidden)]
    fn run_batch_normalize(
        &self,
        _: Checked,
        affine_moments: [&Self::Buffer; 2],
        residual: Option<&Images<Self>>,
        activation: Activation,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_running_moments(
        &self,
        _: Checked,
        options: BatchNormOptions,
        running: &Self::Buffer,
        moments: &mut Self::Buffer,
    ) -> Done;

    #[doc(hidden)]
    fn run_batch_norm_grad_sums(
        &self,
        _: Checked,
        affine_moments: [&Self::Buffer; 2],
        mask: ReluMask<'_, Self>,
        x: &Images<Self>,
        dy: &mut Images<Self>,
        sums: &mut Self::Buffer,
    ) -> Done;

    #[doc(hidden)]
    fn run_batch_norm_grad(
        &self,
        _: Checked,
        affine_moments_sums: [&Self::Buffer; 3],
        activation: Activation,
        x: &Images<Self>,
        dy: &mut Images<Self>,
        output: Option<(&mut Images<Self>, Accumulate)>,
    ) -> Done;
}

/// Checks that buffers hold two values a channel.
fn expect_pairs<B: Storage>(
    backend: &B,
    op: &'static str,
    x: &Images<B>,
    buffers: &[(&'static str, &B::Buffer)],
) -> Result<(), ShapeError> {
    let expected = 2 * x.layout.channels();
    buffers.iter().try_for_each(|(what, buffer)| expect_equal(op, what, expected, backend.len(buffer)))
}

/// Checks what both passes of the gradient take.
fn expect_gradient<B: Storage>(
    backend: &B,
    op: &'static str,
    [affine, moments, sums]: [&B::Buffer; 3],
    x: &Images<B>,
    dy: &Images<B>,
) -> Result<(), ShapeError> {
    same_images(backend, op, x, dy)?;
    let given = [("length of γ and β", affine), ("length of the moments", moments), ("length of the sums", sums)];
    expect_pairs(backend, op, x, &given)
}

/// Checks that there is something to take a mean of.
fn expect_pixels<B: Storage>(op: &'static str, x: &Images<B>) -> Result<(), ShapeError> {
    match x.layout.samples() * x.layout.size()[0] * x.layout.size()[1] {
        0 => Err(ShapeError::Rule { op, what: "pixels times samples", got: 0, rule: "at least 1" }),
        _ => Ok(()),
    }
}
