//! Element-wise operations of networks, and updates of parameters: what a device must be able to do.

use super::check::{Checked, Done, rate_fits, same_strips, strips_fit};
use super::storage::Storage;
use super::wide::{Wide, WideMut};
use crate::error::expect_equal;
use crate::random::Key;
use crate::{BackendError, ShapeError, Strips};

/// Class numbers must be exact in f32.
const MAX_CLASSES: usize = 1 << 24;

/// Parameters of [`Neural::softmax_cross_entropy`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CrossEntropy {
    /// Label smoothing ε: the target is `1 − ε + ε/C` for the label and `ε/C` elsewhere, C classes.
    pub label_smoothing: f32,
    /// Factor on the gradient; 1 by the number of lanes that count gives the gradient of the mean loss.
    pub gradient_scale: f32,
}

impl CrossEntropy {
    /// The label of a lane that does not count: no loss, no gradient, not right.
    pub const IGNORED: u32 = u32::MAX;
}

/// A loss of each output against a number, see [`Neural::pointwise_loss`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PointwiseLoss {
    /// `(y − t)²`.
    Squared,
    /// Huber's: `(y − t)² / 2` up to a distance of δ, `δ · (abs(y − t) − δ / 2)` beyond (PyTorch's `HuberLoss`).
    Huber {
        /// The distance δ, above 0.
        delta: f32,
    },
    /// Binary cross-entropy of σ(y) against t in [0, 1]: `max(y, 0) − y · t + ln(1 + exp(−abs(y)))`.
    BinaryCrossEntropy,
}

/// Element-wise operations of neural networks, fused where that saves a pass over memory.
pub trait Neural: Storage {
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

    /// `x[f, n] = act(x[f, n] + bias[f])` in place, `act` being ReLU or nothing. Padding lanes stay zero.
    ///
    /// # Errors
    /// Unless `bias` has one element per feature.
    fn bias_relu(&self, bias: &Self::Buffer, relu: bool, x: &mut Strips<Self>) -> Result<(), BackendError> {
        expect_equal("bias_relu", "length of the bias", x.layout.features(), self.len(bias))?;
        strips_fit(self, "bias_relu", x)?;
        let mut x = WideMut::updated(self, Self::TAKES_16_BITS, x)?;
        self.run_bias_relu(Checked(()), bias, relu, &mut x)?;
        x.store()
    }

    /// Backward of [`Neural::bias_relu`]: `grad[f, n] = 0` where `relu` and `y[f, n] <= 0` (in place), then
    /// `dbias[f] = Σ_n grad[f, n]`, added to `dbias` with `accumulate`.
    ///
    /// # Errors
    /// If the shapes differ.
    fn bias_relu_grad(
        &self,
        y: &Strips<Self>,
        relu: bool,
        grad: &mut Strips<Self>,
        dbias: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        const NAME: &str = "bias_relu_grad";
        same_strips(self, NAME, y, grad)?;
        expect_equal(NAME, "length of the bias gradient", y.layout.features(), self.len(dbias))?;
        let y = Wide::new(self, Self::TAKES_16_BITS, y)?;
        let mut grad = WideMut::updated(self, Self::TAKES_16_BITS, grad)?;
        self.run_bias_relu_grad(Checked(()), &y, relu, &mut grad, dbias, accumulate)?;
        grad.store()
    }

    /// `sums[f] = Σ_n x[f, n]`, added to `sums` with `accumulate`: in the order of [`Neural::bias_relu_grad`], whose sums
    /// without ReLU these are.
    ///
    /// # Errors
    /// If the shapes differ.
    fn lane_sums(&self, x: &Strips<Self>, sums: &mut Self::Buffer, accumulate: bool) -> Result<(), BackendError> {
        expect_equal("lane_sums", "number of sums", x.layout.features(), self.len(sums))?;
        strips_fit(self, "lane_sums", x)?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        self.run_lane_sums(Checked(()), &x, sums, accumulate)
    }

    /// `to[i] += from[i]` over activations of one layout.
    ///
    /// # Errors
    /// If the layouts differ.
    fn add_strips(&self, from: &Strips<Self>, to: &mut Strips<Self>) -> Result<(), BackendError> {
        crate::error::expect_equal("add_strips", "length", to.layout.len(), from.layout.len())?;
        let from = Wide::new(self, Self::TAKES_16_BITS, from)?;
        let mut to = WideMut::updated(self, Self::TAKES_16_BITS, to)?;
        self.add(&from.data, &mut to.data)?;
        to.store()
    }

    /// Softmax cross-entropy of `logits[class, n]` against `labels[n]`: writes `stats[0] = Σ_n loss` and
    /// `stats[1] =` number of lanes whose largest logit is the label's (the lowest class wins a tie), and, if asked,
    /// `grad = gradient_scale · (softmax − target)` with zeros in padding lanes.
    ///
    /// `labels` holds at least as many as there are lanes; the first ones count. A lane whose label is
    /// [`CrossEntropy::IGNORED`] has no loss, a gradient of zeros, and is not counted as right. Any other label that is no
    /// class makes the loss NaN, as does a logit that is not finite.
    ///
    /// # Errors
    /// If the shapes do not fit.
    fn softmax_cross_entropy(
        &self,
        parameters: CrossEntropy,
        logits: &Strips<Self>,
        labels: &Self::Indices,
        stats: &mut Self::Buffer,
        grad: Option<&mut Strips<Self>>,
    ) -> Result<(), BackendError> {
        const NAME: &str = "softmax_cross_entropy";
        let (classes, lanes, given) = (logits.layout.features(), logits.layout.lanes(), self.index_len(labels));
        strips_fit(self, NAME, logits)?;
        // A buffer for full batches may hold a smaller one's labels at its start.
        expect_equal(NAME, "number of labels", lanes, given.min(lanes))?;
        expect_equal(NAME, "length of stats", 2, self.len(stats))?;
        if classes == 0 || classes > MAX_CLASSES {
            let (what, rule) = ("number of classes", "1 to 2^24");
            return Err(ShapeError::Rule { op: NAME, what, got: classes, rule }.into());
        }
        if let Some(grad) = &grad {
            same_strips(self, NAME, logits, grad)?;
        }
        let logits = Wide::new(self, Self::TAKES_16_BITS, logits)?;
        let mut grad = grad.map(|grad| WideMut::overwritten(self, Self::TAKES_16_BITS, grad)).transpose()?;
        self.run_softmax_cross_entropy(Checked(()), parameters, &logits, labels, stats, grad.as_deref_mut())?;
        grad.map_or(Ok(()), WideMut::store)
    }

    /// Losses of `outputs[f, n]` against `targets[f, n]`: writes `stats[0] = Σ_n (mean over f of the loss)` and
    /// `stats[1] = 0`, and, if asked, `grad = gradient_scale · ∂loss/∂outputs` with zeros in padding lanes.
    ///
    /// A number that is not finite makes the loss NaN, and the gradient where it stands. Absolute error of a loss: some
    /// roundings (2^-24) of its terms; of [`PointwiseLoss::BinaryCrossEntropy`] also 2^-22.
    ///
    /// # Errors
    /// If the shapes do not fit, there are no features, or δ is not above 0.
    fn pointwise_loss(
        &self,
        loss: PointwiseLoss,
        gradient_scale: f32,
        outputs: &Strips<Self>,
        targets: &Strips<Self>,
        stats: &mut Self::Buffer,
        grad: Option<&mut Strips<Self>>,
    ) -> Result<(), BackendError> {
        const NAME: &str = "pointwise_loss";
        same_strips(self, NAME, outputs, targets)?;
        expect_equal(NAME, "length of stats", 2, self.len(stats))?;
        if outputs.layout.features() == 0 {
            return Err(ShapeError::Rule { op: NAME, what: "number of outputs", got: 0, rule: "at least 1" }.into());
        }
        if matches!(loss, PointwiseLoss::Huber { delta } if !(delta > 0.0 && delta.is_finite())) {
            return Err(ShapeError::Rule { op: NAME, what: "delta", got: 0, rule: "finite and above 0" }.into());
        }
        if let Some(grad) = &grad {
            same_strips(self, NAME, outputs, grad)?;
        }
        let outputs = Wide::new(self, Self::TAKES_16_BITS, outputs)?;
        let targets = Wide::new(self, Self::TAKES_16_BITS, targets)?;
        let mut grad = grad.map(|grad| WideMut::overwritten(self, Self::TAKES_16_BITS, grad)).transpose()?;
        self.run_pointwise_loss(Checked(()), loss, gradient_scale, [&outputs, &targets], stats, grad.as_deref_mut())?;
        grad.map_or(Ok(()), WideMut::store)
    }

    /// Inverted dropout in place: element (f, n) becomes 0 if `key.uniform(f · lanes + n) < rate`, else is divided
    /// by `1 − rate`. The same call on the gradient is its backward: no mask is stored.
    ///
    /// # Errors
    /// Unless `0 <= rate < 1`.
    fn dropout(&self, key: Key, rate: f32, x: &mut Strips<Self>) -> Result<(), BackendError> {
        rate_fits("dropout", rate)?;
        strips_fit(self, "dropout", x)?;
        if rate == 0.0 {
            return Ok(());
        }
        let mut x = WideMut::updated(self, Self::TAKES_16_BITS, x)?;
        self.run_dropout(Checked(()), key, rate, &mut x)?;
        x.store()
    }

    #[doc(hidden)]
    fn run_bias_relu(&self, _: Checked, bias: &Self::Buffer, relu: bool, x: &mut Strips<Self>) -> Done;

    #[doc(hidden)]
    fn run_bias_relu_grad(
        &self,
        _: Checked,
        y: &Strips<Self>,
        relu: bool,
        grad: &mut Strips<Self>,
        dbias: &mut Self::Buffer,
        accumulate: bool,
    ) -> Done;

    #[doc(hidden)]
    fn run_lane_sums(&self, _: Checked, x: &Strips<Self>, sums: &mut Self::Buffer, accumulate: bool) -> Done;

    #[doc(hidden)]
    fn run_softmax_cross_entropy(
        &self,
        _: Checked,
        parameters: CrossEntropy,
        logits: &Strips<Self>,
        labels: &Self::Indices,
        stats: &mut Self::Buffer,
        grad: Option<&mut Strips<Self>>,
    ) -> Done;

    #[doc(hidden)]
    fn run_pointwise_loss(
        &self,
        _: Checked,
        loss: PointwiseLoss,
        gradient_scale: f32,
        operands: [&Strips<Self>; 2],
        stats: &mut Self::Buffer,
        grad: Option<&mut Strips<Self>>,
    ) -> Done;

    /// `0 < rate < 1`.
    #[doc(hidden)]
    fn run_dropout(&self, _: Checked, key: Key, rate: f32, x: &mut Strips<Self>) -> Done;
}

/// One step of stochastic gradient descent (Sutskever et al. 2013, in PyTorch's form):
/// `g ← g + weight_decay · w`, `v ← momentum · v + g`, then `w ← w − learning_rate · v`, or with Nesterov's momentum
/// `w ← w − learning_rate · (g + momentum · v)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub learning_rate: f32,
    /// Momentum; 0 for none.
    pub momentum: f32,
    /// Nesterov's form.
    pub nesterov: bool,
    /// L2 coefficient, on stored entries.
    pub weight_decay: f32,
}

/// One step of Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// Learning rate.
    pub learning_rate: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Weight decay: into the gradient, or with `decoupled` straight onto the weight.
    pub weight_decay: f32,
    /// AdamW's form of weight decay.
    pub decoupled: bool,
    /// Which step this is, from 1, for the bias correction.
    pub step: u64,
}

/// Updates of parameters; the same for nnz-length and dense ones.
pub trait Optimizer: Storage {
    /// One SGD step. `velocity` may be absent if `momentum` is 0.
    ///
    /// # Errors
    /// If the lengths differ, or momentum has no velocity.
    fn sgd(
        &self,
        step: SgdStep,
        values: &mut Self::Buffer,
        grad: &Self::Buffer,
        velocity: Option<&mut Self::Buffer>,
    ) -> Result<(), BackendError> {
        let given = match &velocity {
            Some(velocity) => self.len(velocity),
            None if step.momentum == 0.0 => self.len(values),
            None => 0,
        };
        expect_equal("sgd", "length of the gradient", self.len(values), self.len(grad))?;
        expect_equal("sgd", "length of the velocity", self.len(values), given)?;
        self.run_sgd(Checked(()), step, values, grad, velocity)
    }

    /// One Adam step, with its first and second moments.
    ///
    /// With `corrections`, the bias correction is each element's own: they hold `1 − β₁ⁿ` and `1 − β₂ⁿ` of elements that have
    /// had n steps, begin at zero, and [`AdamStep::step`] says nothing.
    ///
    /// # Errors
    /// If the lengths differ or `step` is 0.
    fn adam(
        &self,
        step: AdamStep,
        values: &mut Self::Buffer,
        grad: &Self::Buffer,
        [first, second]: [&mut Self::Buffer; 2],
        corrections: Option<[&mut Self::Buffer; 2]>,
    ) -> Result<(), BackendError> {
        let given = [
            ("length of the gradient", grad),
            ("length of the first moment", &*first),
            ("length of the second moment", &*second),
        ];
        let of_elements = corrections.iter().flatten().map(|buffer| ("length of the corrections", &**buffer));
        for (what, buffer) in given.into_iter().chain(of_elements) {
            expect_equal("adam", what, self.len(values), self.len(buffer))?;
        }
        if step.step == 0 {
            return Err(ShapeError::Rule { op: "adam", what: "step", got: 0, rule: "at least 1" }.into());
        }
        self.run_adam(Checked(()), step, values, grad, [first, second], corrections)
    }

    /// `sum[0] += Σ values²`, in an order that depends on the length only.
    ///
    /// # Errors
    /// Unless `sum` has one element.
    fn add_squares(&self, values: &Self::Buffer, sum: &mut Self::Buffer) -> Result<(), BackendError> {
        expect_equal("add_squares", "length of the sum", 1, self.len(sum))?;
        self.run_add_squares(Checked(()), values, sum)
    }

    /// `values *= min(1, largest / (√norm_squared[0] + 1e-6))` (Pascanu et al. 2013; PyTorch's `clip_grad_norm_`). A norm that
    /// is not finite makes the values NaN or zero.
    ///
    /// # Errors
    /// Unless `norm_squared` has one element and `largest` is above 0.
    fn clip(&self, norm_squared: &Self::Buffer, largest: f32, values: &mut Self::Buffer) -> Result<(), BackendError> {
        expect_equal("clip", "length of the squared norm", 1, self.len(norm_squared))?;
        if largest.is_nan() || largest <= 0.0 {
            return Err(ShapeError::Rule { op: "clip", what: "largest norm", got: 0, rule: "above 0" }.into());
        }
        self.run_clip(Checked(()), norm_squared, largest, values)
    }

    #[doc(hidden)]
    fn run_sgd(
        &self,
        _: Checked,
        step: SgdStep,
        values: &mut Self::Buffer,
        grad: &Self::Buffer,
        velocity: Option<&mut Self::Buffer>,
    ) -> Done;

    #[doc(hidden)]
    fn run_adam(
        &self,
        _: Checked,
        step: AdamStep,
        values: &mut Self::Buffer,
        grad: &Self::Buffer,
        moments: [&mut Self::Buffer; 2],
        corrections: Option<[&mut Self::Buffer; 2]>,
    ) -> Done;

    #[doc(hidden)]
    fn run_add_squares(&self, _: Checked, values: &Self::Buffer, sum: &mut Self::Buffer) -> Done;

    #[doc(hidden)]
    fn run_clip(&self, _: Checked, norm_squared: &Self::Buffer, largest: f32, values: &mut Self::Buffer) -> Done;
}
