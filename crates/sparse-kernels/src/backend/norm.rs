//! Batch normalisation of images: what a device must be able to do.

use crate::{BackendError, Images, Storage};

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

/// Where a ReLU behind a batch normalisation let nothing through.
#[derive(Debug)]
pub enum ReluMask<'a, B: Storage> {
    /// There was no ReLU.
    None,
    /// Where `γ · x̂ + β` is not positive: it is computed again, which costs no pass over memory.
    Recomputed,
    /// Where Y is not positive: something was added between normalisation and ReLU.
    Output(&'a Images<B>),
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
    /// `x += addend`, if there is one, then the moments of x: `moments = [μ; C] ‖ [1 / √(v + ε); C]`, v being the biased
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
    ) -> Result<(), BackendError>;

    /// `y = act(γ · (x − μ) · (1 / √(v + ε)) + β + residual)` with the `moments` of [`BatchNorm::batch_moments`], `act`
    /// being ReLU or nothing.
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
        relu: bool,
        x: &Images<Self>,
        y: &mut Images<Self>,
    ) -> Result<(), BackendError>;

    /// `moments = [mean; C] ‖ [1 / √(variance + ε); C]` of running moments, for [`BatchNorm::batch_normalize`] in evaluation.
    ///
    /// # Errors
    /// If the lengths differ.
    fn running_moments(
        &self,
        options: BatchNormOptions,
        running: &Self::Buffer,
        moments: &mut Self::Buffer,
    ) -> Result<(), BackendError>;

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
    ) -> Result<(), BackendError>;

    /// The second half: `dx = γ / √(v + ε) · (g − (dshift + x̂ · dscale) / n)`, n being pixels times samples. `relu` says
    /// that g is dy masked by the sign of `γ · x̂ + β`; else it is dy as it stands.
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
        relu: bool,
        x: &Images<Self>,
        dy: &mut Images<Self>,
        output: Option<(&mut Images<Self>, Accumulate)>,
    ) -> Result<(), BackendError>;
}
