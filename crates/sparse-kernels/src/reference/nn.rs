//! Neural-network operations: row-major `[feature][lane]` operands, f64 sums.

use crate::random::Key;
use crate::{AdamStep, CrossEntropy, PointwiseLoss, SgdStep};

/// `y[f, n] = act(x[f, n] + bias[f])`, `x` of `bias.len()` rows; one rounding, so kernels must agree exactly. NaN
/// stays NaN.
///
/// # Panics
/// If `x` is no whole number of rows.
pub fn bias_relu(bias: &[f32], relu: bool, x: &[f32]) -> Vec<f32> {
    let lanes = row_length(x.len(), bias.len());
    let apply = |(i, &x): (usize, &f32)| {
        let y = x + bias[i / lanes];
        if relu && y < 0.0 { 0.0 } else { y }
    };
    x.iter().enumerate().map(apply).collect()
}

/// Backward of [`bias_relu`]: the gradient (zero where `relu` and `y <= 0`) and its sum over each of `features` rows.
///
/// # Panics
/// If the lengths differ or are no whole number of rows.
pub fn bias_relu_grad(y: &[f32], relu: bool, grad: &[f32], features: usize) -> (Vec<f32>, Vec<f64>) {
    assert_eq!(y.len(), grad.len());
    let lanes = row_length(y.len(), features);
    let grad: Vec<f32> = y.iter().zip(grad).map(|(&y, &g)| if relu && y <= 0.0 { 0.0 } else { g }).collect();
    let sum = |f: usize| grad[f * lanes..][..lanes].iter().map(|&g| f64::from(g)).sum();
    let dbias = (0..features).map(sum).collect();
    (grad, dbias)
}

fn row_length(len: usize, rows: usize) -> usize {
    let length = len.checked_div(rows).unwrap_or(0);
    assert_eq!(length * rows, len, "not a whole number of rows");
    length
}

/// What [`softmax_cross_entropy`] finds.
#[derive(Debug, Clone, PartialEq)]
pub struct CrossEntropyResult {
    /// Loss of each lane.
    pub loss: Vec<f64>,
    /// Lanes whose largest logit is the label's, the lowest class winning a tie.
    pub correct: usize,
    /// `gradient_scale · (softmax − target)`.
    pub grad: Vec<f64>,
}

/// Softmax cross-entropy of `logits[class][lane]`, one lane per label. A lane with a label that is no class or a logit
/// that is not finite has loss and gradient NaN and is not correct; with [`CrossEntropy::IGNORED`] both are 0.
///
/// # Panics
/// If `logits` is not one row of `labels.len()` for each of `classes`.
pub fn softmax_cross_entropy(
    parameters: CrossEntropy,
    logits: &[f32],
    classes: usize,
    labels: &[u32],
) -> CrossEntropyResult {
    let lanes = labels.len();
    assert_eq!(logits.len(), classes * lanes);
    let epsilon = f64::from(parameters.label_smoothing);
    let mut result = CrossEntropyResult { loss: vec![f64::NAN; lanes], correct: 0, grad: vec![f64::NAN; logits.len()] };
    for lane in 0..lanes {
        if labels[lane] == CrossEntropy::IGNORED {
            result.loss[lane] = 0.0;
            (0..classes).for_each(|c| result.grad[c * lanes + lane] = 0.0);
            continue;
        }
        let label = labels[lane] as usize;
        let x: Vec<f64> = (0..classes).map(|c| f64::from(logits[c * lanes + lane])).collect();
        if label >= classes || x.iter().any(|x| !x.is_finite()) {
            continue;
        }
        let best = (0..classes).fold(0, |best, c| if x[c] > x[best] { c } else { best });
        result.correct += usize::from(best == label);
        let sum: f64 = x.iter().map(|&v| (v - x[best]).exp()).sum();
        result.loss[lane] = 0.0;
        for c in 0..classes {
            let target = epsilon / classes as f64 + if c == label { 1.0 - epsilon } else { 0.0 };
            let log_softmax = x[c] - x[best] - sum.ln();
            result.loss[lane] -= target * log_softmax;
            result.grad[c * lanes + lane] = f64::from(parameters.gradient_scale) * (log_softmax.exp() - target);
        }
    }
    result
}

/// Losses of `outputs[i]` against `targets[i]`, and their derivatives by the outputs. NaN where a number is not finite.
///
/// # Panics
/// If the lengths differ.
pub fn pointwise_loss(loss: PointwiseLoss, outputs: &[f32], targets: &[f32]) -> Vec<[f64; 2]> {
    assert_eq!(outputs.len(), targets.len());
    let at = |(&y, &t): (&f32, &f32)| {
        let (y, t) = (f64::from(y), f64::from(t));
        let d = y - t;
        match loss {
            _ if !(y.is_finite() && t.is_finite()) => [f64::NAN; 2],
            PointwiseLoss::Squared => [d * d, 2.0 * d],
            PointwiseLoss::Huber { delta } => {
                let delta = f64::from(delta);
                match d.abs() <= delta {
                    true => [d * d / 2.0, d],
                    false => [delta * (d.abs() - delta / 2.0), delta * d.signum()],
                }
            }
            PointwiseLoss::BinaryCrossEntropy => {
                // −t · ln σ(y) − (1 − t) · ln(1 − σ(y))
                let of = |y: f64| if y > 0.0 { (-y).exp().ln_1p() } else { y.exp().ln_1p() - y };
                [t * of(y) + (1.0 - t) * of(-y), 1.0 / (1.0 + (-y).exp()) - t]
            }
        }
    };
    outputs.iter().zip(targets).map(at).collect()
}

/// Inverted dropout: element `i` (row-major, so `feature · lanes + lane`) becomes 0 if `key.uniform(i) < rate`, else
/// is divided by `1 − rate`.
pub fn dropout(key: Key, rate: f32, x: &[f32]) -> Vec<f32> {
    let apply = |(i, &x): (usize, &f32)| if key.uniform(i as u64) < rate { 0.0 } else { x / (1.0 - rate) };
    x.iter().enumerate().map(apply).collect()
}

/// One SGD step in place, see [`SgdStep`].
///
/// # Panics
/// If the lengths differ.
pub fn sgd(step: SgdStep, values: &mut [f64], grad: &[f64], velocity: &mut [f64]) {
    assert!(values.len() == grad.len() && values.len() == velocity.len());
    let (learning_rate, momentum) = (f64::from(step.learning_rate), f64::from(step.momentum));
    for ((w, &g), v) in values.iter_mut().zip(grad).zip(velocity) {
        let g = g + f64::from(step.weight_decay) * *w;
        *v = momentum * *v + g;
        *w -= learning_rate * if step.nesterov { g + momentum * *v } else { *v };
    }
}

/// One Adam step in place, see [`AdamStep`].
///
/// # Panics
/// If the lengths differ.
pub fn adam(step: AdamStep, values: &mut [f64], grad: &[f64], first: &mut [f64], second: &mut [f64]) {
    assert!(values.len() == grad.len() && values.len() == first.len() && values.len() == second.len());
    let (beta1, beta2, decay) = (f64::from(step.beta1), f64::from(step.beta2), f64::from(step.weight_decay));
    let learning_rate = f64::from(step.learning_rate);
    let correction = |beta: f64| 1.0 - beta.powf(step.step as f64);
    for (((w, &g), m), v) in values.iter_mut().zip(grad).zip(first).zip(second) {
        let mut g = g;
        if step.decoupled {
            *w -= learning_rate * decay * *w;
        } else {
            g += decay * *w;
        }
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        *w -= learning_rate * (*m / correction(beta1)) / ((*v / correction(beta2)).sqrt() + f64::from(step.epsilon));
    }
}

/// What [`batch_norm`] finds, of `[sample][channel][pixel]`.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchNormResult {
    /// Mean of each channel.
    pub mean: Vec<f64>,
    /// Biased variance of each channel.
    pub variance: Vec<f64>,
    /// `γ · x̂ + β`, before residual and ReLU.
    pub normalized: Vec<f64>,
}

/// Batch normalisation of `x`, `[sample][channel][pixel]` with `pixels` of each channel, per channel.
pub fn batch_norm(epsilon: f64, scale: &[f32], shift: &[f32], pixels: usize, x: &[f64]) -> BatchNormResult {
    let channels = scale.len();
    let channel_of = |i: usize| i / pixels % channels;
    let count = (x.len() / channels) as f64;
    let mut mean = vec![0.0; channels];
    x.iter().enumerate().for_each(|(i, x)| mean[channel_of(i)] += x / count);
    let mut variance = vec![0.0; channels];
    x.iter().enumerate().for_each(|(i, x)| variance[channel_of(i)] += (x - mean[channel_of(i)]).powi(2) / count);
    let normalize = |(i, x): (usize, &f64)| {
        let c = channel_of(i);
        f64::from(scale[c]) * (x - mean[c]) / (variance[c] + epsilon).sqrt() + f64::from(shift[c])
    };
    let normalized = x.iter().enumerate().map(normalize).collect();
    BatchNormResult { mean, variance, normalized }
}

/// Gradients of x, γ and β for that of the output of [`batch_norm`].
pub fn batch_norm_grad(epsilon: f64, scale: &[f32], pixels: usize, x: &[f64], grad: &[f64]) -> [Vec<f64>; 3] {
    let channels = scale.len();
    let channel_of = |i: usize| i / pixels % channels;
    let count = (x.len() / channels) as f64;
    let of = batch_norm(epsilon, &vec![1.0; channels], &vec![0.0; channels], pixels, x);
    let (mut dscale, mut dshift) = (vec![0.0; channels], vec![0.0; channels]);
    for (i, g) in grad.iter().enumerate() {
        dscale[channel_of(i)] += g * of.normalized[i];
        dshift[channel_of(i)] += g;
    }
    let dx = |(i, g): (usize, &f64)| {
        let c = channel_of(i);
        let slope = f64::from(scale[c]) / (of.variance[c] + epsilon).sqrt();
        slope * (g - (dshift[c] + of.normalized[i] * dscale[c]) / count)
    };
    [grad.iter().enumerate().map(dx).collect(), dscale, dshift]
}
