//! Operations of sequence models: row-major `[feature][lane]` operands, f64 sums.

use crate::{Attention, FeatureNorm, Gelu, NormKind};

/// `x[f, n] = table[tokens[n], f] + positions[n % length, f]`; one rounding, so kernels must agree exactly. NaN where a token
/// is no symbol.
pub fn embed(features: usize, table: &[f32], positions: Option<(&[f32], usize)>, tokens: &[u32]) -> Vec<f32> {
    let symbols = table.len() / features;
    let at = |f: usize, lane: usize| match tokens[lane] as usize {
        token if token >= symbols => f32::NAN,
        token => {
            let place = positions.map_or(0.0, |(positions, length)| positions[lane % length * features + f]);
            table[token * features + f] + place
        }
    };
    (0..features).flat_map(|f| (0..tokens.len()).map(move |lane| at(f, lane))).collect()
}

/// Of `nrows` rows, each the sum of `dx[f, n]` over the lanes of `rows` that name it.
pub fn embed_grad(features: usize, nrows: usize, rows: &[usize], dx: &[f32]) -> Vec<f64> {
    let mut grad = vec![0.0; nrows * features];
    for (i, &dx) in dx.iter().enumerate() {
        let (f, row) = (i / rows.len(), rows[i % rows.len()]);
        if row < nrows {
            grad[row * features + f] += f64::from(dx);
        }
    }
    grad
}

/// Mean and 1 / deviation of each lane; the mean of RMS normalisation is 0.
fn moments(norm: FeatureNorm, features: usize, x: &[f64]) -> Vec<[f64; 2]> {
    let lanes = x.len() / features;
    let over = |lane: usize, of: &dyn Fn(f64) -> f64| {
        (0..features).map(|f| of(x[f * lanes + lane])).sum::<f64>() / features as f64
    };
    let of_lane = |lane| {
        let mean = if norm.kind == NormKind::Layer { over(lane, &|x| x) } else { 0.0 };
        let variance = over(lane, &|x| (x - mean).powi(2));
        [mean, 1.0 / (variance + f64::from(norm.epsilon)).sqrt()]
    };
    (0..lanes).map(of_lane).collect()
}

/// Normalisation of each lane over its features, see [`NormKind`].
pub fn feature_norm(norm: FeatureNorm, affine: &[f32], features: usize, x: &[f64]) -> Vec<f64> {
    let (lanes, moments) = (x.len() / features, moments(norm, features, x));
    let at = |(i, x): (usize, &f64)| {
        let [mean, rstd] = moments[i % lanes];
        let shift = if norm.kind == NormKind::Layer { f64::from(affine[features + i / lanes]) } else { 0.0 };
        (x - mean) * rstd * f64::from(affine[i / lanes]) + shift
    };
    x.iter().enumerate().map(at).collect()
}

/// Gradients of x and of the learned numbers for that of the output of [`feature_norm`], by the derivatives of each output by
/// each input of its lane.
pub fn feature_norm_grad(
    norm: FeatureNorm,
    affine: &[f32],
    features: usize,
    x: &[f64],
    dy: &[f64],
) -> (Vec<f64>, Vec<f64>) {
    let (lanes, moments) = (x.len() / features, moments(norm, features, x));
    let is_layer = norm.kind == NormKind::Layer;
    let (mut dx, mut daffine) = (vec![0.0; x.len()], vec![0.0; affine.len()]);
    for (lane, [mean, rstd]) in moments.into_iter().enumerate() {
        let normal = |f: usize| (x[f * lanes + lane] - mean) * rstd;
        for of in 0..features {
            let g = dy[of * lanes + lane];
            daffine[of] += g * normal(of);
            if is_layer {
                daffine[features + of] += g;
            }
            for by in 0..features {
                let own = if of == by { 1.0 } else { 0.0 };
                let through_mean = if is_layer { 1.0 / features as f64 } else { 0.0 };
                let slope = rstd * (own - through_mean - normal(of) * normal(by) / features as f64);
                dx[by * lanes + lane] += g * f64::from(affine[of]) * slope;
            }
        }
    }
    (dx, daffine)
}

/// Rotary positions of `[feature][lane]`, or their inverse.
fn turned(attention: Attention, features: usize, x: &[f64], is_back: bool) -> Vec<f64> {
    let (mut turned, lanes, head_size) = (x.to_vec(), x.len() / features, features / attention.heads);
    let Some(base) = attention.rotary else { return turned };
    for pair in 0..features / 2 {
        let (head, pair) = (pair / (head_size / 2), pair % (head_size / 2));
        let rows = [head * head_size + pair, head * head_size + pair + head_size / 2];
        let slope = f64::from(base).powf(-2.0 * pair as f64 / head_size as f64);
        for lane in 0..lanes {
            let angle = (lane % attention.length) as f64 * if is_back { -slope } else { slope };
            let [a, b] = rows.map(|row| x[row * lanes + lane]);
            turned[rows[0] * lanes + lane] = a * angle.cos() - b * angle.sin();
            turned[rows[1] * lanes + lane] = a * angle.sin() + b * angle.cos();
        }
    }
    turned
}

/// What [`attention`] finds.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionResult {
    /// The output, `[feature][lane]`.
    pub o: Vec<f64>,
    /// `ln Σ exp(S)` of each head and lane.
    pub lse: Vec<f64>,
    /// Gradients of q, k and v.
    pub grads: [Vec<f64>; 3],
}

/// Causal attention, and the gradients for the gradient `grad` of the output.
pub fn attention(attention: Attention, features: usize, operands: [&[f32]; 4]) -> AttentionResult {
    let [q, k, v, grad] = operands.map(|x| x.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>());
    let [q, k] = [q, k].map(|x| turned(attention, features, &x, false));
    let (lanes, length, head_size) = (q.len() / features, attention.length, features / attention.heads);
    let scale = 1.0 / (head_size as f64).sqrt();
    let mut result = AttentionResult {
        o: vec![0.0; q.len()],
        lse: vec![0.0; attention.heads * lanes],
        grads: [(); 3].map(|()| vec![0.0; q.len()]),
    };
    for (head, lane) in (0..attention.heads).flat_map(|head| (0..lanes).map(move |lane| (head, lane))) {
        let at = |f: usize, lane: usize| (head * head_size + f) * lanes + lane;
        let over_features = |of: &dyn Fn(usize) -> f64| (0..head_size).map(of).sum::<f64>();
        let seen = lane / length * length..lane + 1;
        let scores: Vec<f64> =
            seen.clone().map(|key| scale * over_features(&|f| q[at(f, lane)] * k[at(f, key)])).collect();
        let top = scores.iter().copied().fold(f64::MIN, f64::max);
        let lse = top + scores.iter().map(|score| (score - top).exp()).sum::<f64>().ln();
        result.lse[head * lanes + lane] = lse;
        let parts: Vec<f64> = scores.iter().map(|score| (score - lse).exp()).collect();
        for f in 0..head_size {
            result.o[at(f, lane)] = seen.clone().zip(&parts).map(|(key, part)| part * v[at(f, key)]).sum();
        }
        let product = over_features(&|f| grad[at(f, lane)] * result.o[at(f, lane)]);
        for (key, part) in seen.zip(&parts) {
            let slope = scale * part * (over_features(&|f| grad[at(f, lane)] * v[at(f, key)]) - product);
            for f in 0..head_size {
                result.grads[0][at(f, lane)] += slope * k[at(f, key)];
                result.grads[1][at(f, key)] += slope * q[at(f, lane)];
                result.grads[2][at(f, key)] += part * grad[at(f, lane)];
            }
        }
    }
    for i in 0..2 {
        result.grads[i] = turned(attention, features, &result.grads[i], true);
    }
    result
}

/// GELU and its derivative.
pub fn gelu(kind: Gelu, x: f64) -> [f64; 2] {
    match kind {
        Gelu::Tanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let t = (c * (x + 0.044715 * x.powi(3))).tanh();
            let slope = (1.0 - t * t) * c * (1.0 + 3.0 * 0.044715 * x * x);
            [0.5 * x * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * x * slope]
        }
        Gelu::Exact => {
            let below = 0.5 * erfc(x.abs() / std::f64::consts::SQRT_2);
            let phi = if x > 0.0 { 1.0 - below } else { below };
            [x * phi, phi + x * (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()]
        }
    }
}

/// `erfc(z)` for `z >= 0`: a series, beyond 3 a continued fraction (Abramowitz and Stegun, 7.1.6 and 7.1.14).
fn erfc(z: f64) -> f64 {
    let density = (-z * z).exp() / std::f64::consts::PI.sqrt();
    if z < 3.0 {
        let (mut sum, mut term) = (0.0, 2.0 * z * density);
        for n in 1..200 {
            sum += term;
            term *= 2.0 * z * z / (2 * n + 1) as f64;
        }
        return 1.0 - sum;
    }
    density / (1..=100).rev().fold(z, |below, n| z + n as f64 / 2.0 / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erfc_is_that_of_tables() {
        for (z, expected) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (1.0, 0.157_299_207_050_285_13),
            (2.0, 0.004_677_734_981_047_266),
        ] {
            assert!((erfc(z) - expected).abs() < 1e-15, "{z}: {}", erfc(z));
        }
        for (z, expected) in [(3.0, 2.209_049_699_858_544e-5), (5.0, 1.537_459_794_428_035e-12)] {
            assert!((erfc(z) / expected - 1.0).abs() < 1e-9, "{z}: {}", erfc(z));
        }
    }
}
