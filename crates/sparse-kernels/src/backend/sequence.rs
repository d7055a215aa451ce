//! Operations of sequence models on tokens: what a device must be able to do.
//!
//! A lane is a token. Of `count` sequences of `length` tokens, token `t` of sequence `n` is lane `n · length + t`.

use super::check::{Checked, Done, same_strips, strips_fit};
use super::storage::Storage;
use super::wide::{Wide, WideMut};
use crate::error::expect_equal;
use crate::{BackendError, Precision, ShapeError, Strips};

/// What a normalisation over features does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Layer normalisation (Ba et al. 2016): `(x − mean) / √(variance + ε) · scale + shift`, the variance biased.
    Layer,
    /// RMS normalisation (Zhang and Sennrich 2019): `x / √(mean of x² + ε) · scale`.
    Rms,
}

/// A normalisation of each lane over its features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeatureNorm {
    /// What it does.
    pub kind: NormKind,
    /// ε, 1e-5 as a rule.
    pub epsilon: f32,
}

impl FeatureNorm {
    /// Learned numbers for so many features: `[scale…, shift…]`, or `[scale…]` of RMS normalisation.
    pub fn parameters(&self, features: usize) -> usize {
        match self.kind {
            NormKind::Layer => 2 * features,
            NormKind::Rms => features,
        }
    }
}

/// Which form of GELU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))) / 2`, as GPT-2 has it; PyTorch's `approximate="tanh"`.
    Tanh,
    /// `x · (1 + erf(x / √2)) / 2`, PyTorch's default.
    Exact,
}

/// Causal attention of several heads over sequences of one length (Vaswani et al. 2017): token t sees tokens 0 to t.
///
/// A head has `F / heads` features, one head after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// Tokens of a sequence.
    pub length: usize,
    /// Base of rotary positions, 10000 as a rule; none without. Queries and keys of token t are turned (Su et al. 2021): feature
    /// d of a head's F together with d + F/2, as GPT-NeoX and LLaMA pair them, by the angle `t · base^(−2d/F)`.
    pub rotary: Option<f32>,
}

impl Attention {
    /// Cosine and sine of each token's angle, `[pair][token]`, for heads of so many features.
    pub(crate) fn angles(&self, head_size: usize) -> Vec<[f32; 2]> {
        let Some(base) = self.rotary else { return Vec::new() };
        let of_pair = |pair: usize| {
            let angle = f64::from(base).powf(-((2 * pair) as f64) / head_size as f64);
            let (step_sin, step_cos) = angle.sin_cos();
            // One turn after the other: each adds about a rounding of f64.
            let turn =
                move |&[cos, sin]: &[f64; 2]| Some([cos * step_cos - sin * step_sin, sin * step_cos + cos * step_sin]);
            std::iter::successors(Some([1.0, 0.0]), turn).take(self.length).map(|angle| angle.map(|x| x as f32))
        };
        (0..head_size / 2).flat_map(of_pair).collect()
    }
}

/// Operands of [`SequenceNeural::attention_grad`].
#[derive(Debug)]
pub struct AttentionGrad<'a, B: Storage> {
    /// Queries of the forward pass.
    pub q: &'a Strips<B>,
    /// Keys of the forward pass.
    pub k: &'a Strips<B>,
    /// Values of the forward pass.
    pub v: &'a Strips<B>,
    /// Its output.
    pub o: &'a Strips<B>,
    /// Its logarithms of sums.
    pub lse: &'a Strips<B>,
    /// The gradient of its output.
    pub grad: &'a Strips<B>,
    /// Overwritten by the gradient of the queries.
    pub dq: &'a mut Strips<B>,
    /// Overwritten by the gradient of the keys.
    pub dk: &'a mut Strips<B>,
    /// Overwritten by the gradient of the values.
    pub dv: &'a mut Strips<B>,
}

/// Operations of sequence models, fused where that saves a pass over memory.
pub trait SequenceNeural: Storage {
    /// Whether hooks take activations in 16 bits; else they see them in f32.
    #[doc(hidden)]
    const TAKES_16_BITS: bool = false;

    /// `x[f, n] = table[tokens[n], f] + positions[n % length, f]`, with a row-major `table` of one row of features for each
    /// symbol and, if given, `positions` of one row for each of `length` places. Padding lanes become zero.
    ///
    /// `tokens` holds at least as many as there are lanes; the first ones count. A token that is no symbol makes its lane
    /// NaN.
    ///
    /// # Errors
    /// If the shapes do not fit, or there are no features.
    fn embed(
        &self,
        table: &Self::Buffer,
        positions: Option<(&Self::Buffer, usize)>,
        tokens: &Self::Indices,
        x: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        const NAME: &str = "embed";
        rows_fit(self, NAME, "length of the table", table, x)?;
        tokens_fit(self, NAME, tokens, x)?;
        if let Some((positions, length)) = positions {
            places_fit(self, NAME, "length of the positions", positions, length, x)?;
        }
        let mut x = WideMut::overwritten(self, Self::TAKES_16_BITS, x)?;
        self.run_embed(Checked(()), table, positions, tokens, &mut x)?;
        x.store()
    }

    /// Backward of [`SequenceNeural::embed`] to the table: `dtable[s, f] = Σ_n dx[f, n]` over the lanes n whose token is s,
    /// in their order; added to `dtable` with `accumulate`. A token that is no symbol gives nothing.
    ///
    /// # Errors
    /// As [`SequenceNeural::embed`].
    fn embed_grad(
        &self,
        tokens: &Self::Indices,
        dx: &Strips<Self>,
        dtable: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        const NAME: &str = "embed_grad";
        rows_fit(self, NAME, "length of the table's gradient", dtable, dx)?;
        tokens_fit(self, NAME, tokens, dx)?;
        let dx = Wide::new(self, Self::TAKES_16_BITS, dx)?;
        self.run_embed_grad(Checked(()), Rows::Tokens(tokens), &dx, dtable, accumulate)
    }

    /// Backward of [`SequenceNeural::embed`] to the positions: `dpositions[t, f] = Σ dx[f, n]` over the lanes n with
    /// `n % length = t`, in their order; added to `dpositions` with `accumulate`.
    ///
    /// # Errors
    /// As [`SequenceNeural::embed`].
    fn embed_positions_grad(
        &self,
        length: usize,
        dx: &Strips<Self>,
        dpositions: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        const NAME: &str = "embed_positions_grad";
        strips_fit(self, NAME, dx)?;
        places_fit(self, NAME, "length of the positions' gradient", dpositions, length, dx)?;
        let dx = Wide::new(self, Self::TAKES_16_BITS, dx)?;
        self.run_embed_grad(Checked(()), Rows::Places(length), &dx, dpositions, accumulate)
    }

    /// `y[f, n] = (x[f, n] − mean[n]) · rstd[n] · scale[f] + shift[f]` with mean and deviation of each lane over its
    /// features, see [`NormKind`]. `moments` is written for the backward pass: `mean` and `rstd`, two features of the same
    /// lanes. Padding lanes of both become zero.
    ///
    /// # Errors
    /// If the shapes do not fit, or there are no features.
    ///
    /// # Cost
    /// One pass over x and y, and two over x within the cache (one of RMS normalisation).
    fn feature_norm(
        &self,
        norm: FeatureNorm,
        affine: &Self::Buffer,
        x: &Strips<Self>,
        y: &mut Strips<Self>,
        moments: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        norm_fits(self, "feature_norm", norm, ("length of scale and shift", affine), [x, &*y, &*moments])?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        let mut moments = WideMut::overwritten(self, Self::TAKES_16_BITS, moments)?;
        self.run_feature_norm(Checked(()), norm, affine, NormInput::Plain(&x), &mut y, &mut moments)?;
        y.store()?;
        moments.store()
    }

    /// `x += residual`, then [`SequenceNeural::feature_norm`] of the sum as it is stored, in its first pass.
    ///
    /// # Errors
    /// As [`SequenceNeural::feature_norm`].
    fn add_feature_norm(
        &self,
        norm: FeatureNorm,
        affine: &Self::Buffer,
        residual: &Strips<Self>,
        x: &mut Strips<Self>,
        y: &mut Strips<Self>,
        moments: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        const NAME: &str = "add_feature_norm";
        same_strips(self, NAME, x, residual)?;
        norm_fits(self, NAME, norm, ("length of scale and shift", affine), [&*x, &*y, &*moments])?;
        let residual = Wide::new(self, Self::TAKES_16_BITS, residual)?;
        if !Self::TAKES_16_BITS && self.precision(&x.data) != Precision::F32 {
            let mut sum = WideMut::updated(self, false, x)?;
            self.add(&residual.data, &mut sum.data)?;
            sum.store()?;
            return self.feature_norm(norm, affine, x, y, moments);
        }
        let mut x = WideMut::updated(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        let mut moments = WideMut::overwritten(self, Self::TAKES_16_BITS, moments)?;
        let input = NormInput::Sum { residual: &residual, x: &mut x };
        self.run_feature_norm(Checked(()), norm, affine, input, &mut y, &mut moments)?;
        x.store()?;
        y.store()?;
        moments.store()
    }

    /// Backward of [`SequenceNeural::feature_norm`] with its `moments`: with `x̂ = (x − mean) · rstd`,
    /// `dx = rstd · (dy · scale − mean over f of (dy · scale) − x̂ · mean over f of (dy · scale · x̂))` is added to `to`, or
    /// without it replaces dy; RMS normalisation has no second term. `daffine` takes `Σ_n dy · x̂` and `Σ_n dy` for each
    /// feature, or has them added with `accumulate`.
    ///
    /// # Errors
    /// As [`SequenceNeural::feature_norm`].
    ///
    /// # Cost
    /// One pass over x, dy and dx, and one over x and dy within the cache.
    #[expect(clippy::too_many_arguments, reason = "what a fused pass works on")]
    fn feature_norm_grad(
        &self,
        kind: NormKind,
        affine: &Self::Buffer,
        moments: &Strips<Self>,
        x: &Strips<Self>,
        dy: &mut Strips<Self>,
        to: Option<&mut Strips<Self>>,
        daffine: &mut Self::Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        const NAME: &str = "feature_norm_grad";
        let norm = FeatureNorm { kind, epsilon: 0.0 };
        norm_fits(self, NAME, norm, ("length of scale and shift", affine), [x, &*dy, moments])?;
        expect_equal(NAME, "length of the gradient", self.len(affine), self.len(daffine))?;
        if let Some(to) = &to {
            same_strips(self, NAME, x, to)?;
        }
        let moments = Wide::new(self, Self::TAKES_16_BITS, moments)?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut dy = WideMut::updated(self, Self::TAKES_16_BITS, dy)?;
        let mut to = to.map(|to| WideMut::updated(self, Self::TAKES_16_BITS, to)).transpose()?;
        let operands =
            NormGrad { affine, moments: &moments, x: &x, dy: &mut dy, to: to.as_deref_mut(), daffine, accumulate };
        self.run_feature_norm_grad(Checked(()), kind, operands)?;
        match to {
            Some(to) => to.store(),
            None => dy.store(),
        }
    }

    /// `y = x · Φ(x)`, Φ being the normal distribution or an approximation of it, see [`Gelu`]. Error: at most 4e-7 · abs(x)
    /// on CPUs.
    ///
    /// # Errors
    /// If the shapes differ.
    fn gelu(&self, kind: Gelu, x: &Strips<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        same_strips(self, "gelu", x, y)?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut y = WideMut::overwritten(self, Self::TAKES_16_BITS, y)?;
        self.run_gelu(Checked(()), kind, &x, &mut y)?;
        y.store()
    }

    /// Backward of [`SequenceNeural::gelu`], in place: `grad = grad · (Φ(x) + x · Φ'(x))`, a factor with an error of at most
    /// 8e-7 on CPUs.
    ///
    /// # Errors
    /// If the shapes differ.
    fn gelu_grad(&self, kind: Gelu, x: &Strips<Self>, grad: &mut Strips<Self>) -> Result<(), BackendError> {
        same_strips(self, "gelu_grad", x, grad)?;
        let x = Wide::new(self, Self::TAKES_16_BITS, x)?;
        let mut grad = WideMut::updated(self, Self::TAKES_16_BITS, grad)?;
        self.run_gelu_grad(Checked(()), kind, &x, &mut grad)?;
        grad.store()
    }

    /// Of each head h and sequence: `S[i, j] = Σ_f q[f, i] · k[f, j] / √(head size)` for `j <= i`,
    /// `o[f, i] = Σ_j softmax(S)[i, j] · v[f, j]`, and `lse[h, i] = ln Σ_j exp(S[i, j])` for the backward pass. Lanes are whole
    /// sequences; padding lanes of both outputs become zero. No matrix of length² is held.
    ///
    /// # Errors
    /// If the shapes do not fit, heads do not divide the features or the length not the lanes, or the head size is odd with
    /// rotary positions.
    ///
    /// # Cost
    /// `2 · F · lanes · (length + 1)` operations, and about 8 for each number of the softmax.
    fn attention(
        &self,
        attention: Attention,
        [q, k, v]: [&Strips<Self>; 3],
        o: &mut Strips<Self>,
        lse: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        const NAME: &str = "attention";
        attention_fits(self, NAME, attention, q, lse)?;
        [k, v, &*o].into_iter().try_for_each(|x| same_strips(self, NAME, q, x))?;
        if q.layout.lanes() == 0 {
            return Ok(());
        }
        let q = Wide::new(self, Self::TAKES_16_BITS, q)?;
        let k = Wide::new(self, Self::TAKES_16_BITS, k)?;
        let v = Wide::new(self, Self::TAKES_16_BITS, v)?;
        let mut o = WideMut::overwritten(self, Self::TAKES_16_BITS, o)?;
        let mut lse = WideMut::overwritten(self, Self::TAKES_16_BITS, lse)?;
        self.run_attention(Checked(()), attention, [&q, &k, &v], &mut o, &mut lse)?;
        o.store()?;
        lse.store()
    }

    /// Backward of [`SequenceNeural::attention`].
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cost
    /// `5 · F · lanes · (length + 1)` operations.
    fn attention_grad(&self, attention: Attention, operands: AttentionGrad<'_, Self>) -> Result<(), BackendError> {
        const NAME: &str = "attention_grad";
        let AttentionGrad { q, k, v, o, lse, grad, dq, dk, dv } = &operands;
        attention_fits(self, NAME, attention, q, lse)?;
        [*k, v, o, grad, dq, dk, dv].into_iter().try_for_each(|x| same_strips(self, NAME, q, x))?;
        if q.layout.lanes() == 0 {
            return Ok(());
        }
        let AttentionGrad { q, k, v, o, lse, grad, dq, dk, dv } = operands;
        let q = Wide::new(self, Self::TAKES_16_BITS, q)?;
        let k = Wide::new(self, Self::TAKES_16_BITS, k)?;
        let v = Wide::new(self, Self::TAKES_16_BITS, v)?;
        let o = Wide::new(self, Self::TAKES_16_BITS, o)?;
        let lse = Wide::new(self, Self::TAKES_16_BITS, lse)?;
        let grad = Wide::new(self, Self::TAKES_16_BITS, grad)?;
        let mut dq = WideMut::overwritten(self, Self::TAKES_16_BITS, dq)?;
        let mut dk = WideMut::overwritten(self, Self::TAKES_16_BITS, dk)?;
        let mut dv = WideMut::overwritten(self, Self::TAKES_16_BITS, dv)?;
        let operands =
            AttentionGrad { q: &q, k: &k, v: &v, o: &o, lse: &lse, grad: &grad, dq: &mut dq, dk: &mut dk, dv: &mut dv };
        self.run_attention_grad(Checked(()), attention, operands)?;
        dq.store()?;
        dk.store()?;
        dv.store()
    }

    #[doc(hidden)]
    fn run_embed(
        &self,
        _: Checked,
        table: &Self::Buffer,
        positions: Option<(&Self::Buffer, usize)>,
        tokens: &Self::Indices,
        x: &mut Strips<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_embed_grad(
        &self,
        _: Checked,
        rows: Rows<'_, Self>,
        dx: &Strips<Self>,
        grad: &mut Self::Buffer,
        accumulate: bool,
    ) -> Done;

    #[doc(hidden)]
    fn run_feature_norm(
        &self,
        _: Checked,
        norm: FeatureNorm,
        affine: &Self::Buffer,
        input: NormInput<'_, Self>,
        y: &mut Strips<Self>,
        moments: &mut Strips<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_feature_norm_grad(&self, _: Checked, kind: NormKind, operands: NormGrad<'_, Self>) -> Done;

    #[doc(hidden)]
    fn run_gelu(&self, _: Checked, kind: Gelu, x: &Strips<Self>, y: &mut Strips<Self>) -> Done;

    #[doc(hidden)]
    fn run_attention(
        &self,
        _: Checked,
        attention: Attention,
        operands: [&Strips<Self>; 3],
        o: &mut Strips<Self>,
        lse: &mut Strips<Self>,
    ) -> Done;

    #[doc(hidden)]
    fn run_attention_grad(&self, _: Checked, attention: Attention, operands: AttentionGrad<'_, Self>) -> Done;

    #[doc(hidden)]
    fn run_gelu_grad(&self, _: Checked, kind: Gelu, x: &Strips<Self>, grad: &mut Strips<Self>) -> Done;
}

/// What a normalisation reads.
#[derive(Debug)]
pub enum NormInput<'a, B: Storage> {
    /// Activations.
    Plain(&'a Strips<B>),
    /// Activations to which others are to be added first.
    Sum {
        /// What is added.
        residual: &'a Strips<B>,
        /// What becomes the sum.
        x: &'a mut Strips<B>,
    },
}

/// Operands of [`SequenceNeural::feature_norm_grad`].
#[derive(Debug)]
pub struct NormGrad<'a, B: Storage> {
    pub affine: &'a B::Buffer,
    pub moments: &'a Strips<B>,
    pub x: &'a Strips<B>,
    pub dy: &'a mut Strips<B>,
    pub to: Option<&'a mut Strips<B>>,
    pub daffine: &'a mut B::Buffer,
    pub accumulate: bool,
}

/// Checks x, y, the moments of x and the learned numbers of a normalisation.
fn norm_fits<B: Storage>(
    backend: &B,
    op: &'static str,
    norm: FeatureNorm,
    (what, affine): (&'static str, &B::Buffer),
    [x, y, moments]: [&Strips<B>; 3],
) -> Result<(), ShapeError> {
    let features = x.layout.features();
    if features == 0 {
        return Err(ShapeError::Rule { op, what: "number of features", got: 0, rule: "at least 1" });
    }
    same_strips(backend, op, x, y)?;
    expect_equal(op, "number of moments", 2, moments.layout.features())?;
    expect_equal(op, "lanes of the moments", x.layout.lanes(), moments.layout.lanes())?;
    expect_equal(op, "lanes per strip of the moments", x.layout.strip(), moments.layout.strip())?;
    strips_fit(backend, op, moments)?;
    expect_equal(op, what, norm.parameters(features), backend.len(affine))
}

/// Checks that lanes are whole sequences, features whole heads, and that there is a sum for each head and lane.
fn attention_fits<B: Storage>(
    backend: &B,
    op: &'static str,
    attention: Attention,
    q: &Strips<B>,
    lse: &Strips<B>,
) -> Result<(), ShapeError> {
    let Attention { heads, length, rotary } = attention;
    let (features, lanes) = (q.layout.features(), q.layout.lanes());
    let rule = |what, got, rule| Err(ShapeError::Rule { op, what, got, rule });
    if heads == 0 || features == 0 || !features.is_multiple_of(heads) {
        return rule("number of heads", heads, "a divisor of the features, of which there are some");
    }
    if length == 0 || !lanes.is_multiple_of(length) {
        return rule("length of a sequence", length, "a divisor of the lanes");
    }
    if let Some(base) = rotary {
        if !(features / heads).is_multiple_of(2) {
            return rule("head size", features / heads, "even with rotary positions");
        }
        if !(base > 0.0 && base.is_finite()) {
            return rule("base of the rotary positions", base as usize, "finite and above 0");
        }
    }
    expect_equal(op, "number of sums", heads, lse.layout.features())?;
    expect_equal(op, "lanes of the sums", lanes, lse.layout.lanes())?;
    expect_equal(op, "lanes per strip of the sums", q.layout.strip(), lse.layout.strip())?;
    strips_fit(backend, op, lse)
}

/// Which row of a gradient each lane is added to.
#[derive(Debug)]
pub enum Rows<'a, B: Storage> {
    /// That of its token; none if that lies beyond.
    Tokens(&'a B::Indices),
    /// That of its place in a sequence of so many.
    Places(usize),
}

/// Checks that a matrix has whole rows of as many features as x.
fn rows_fit<B: Storage>(
    backend: &B,
    op: &'static str,
    what: &'static str,
    matrix: &B::Buffer,
    x: &Strips<B>,
) -> Result<(), ShapeError> {
    let (features, len) = (x.layout.features(), backend.len(matrix));
    strips_fit(backend, op, x)?;
    if features == 0 {
        return Err(ShapeError::Rule { op, what: "number of features", got: 0, rule: "at least 1" });
    }
    expect_equal(op, what, len / features * features, len)
}

/// Checks that there is a token for each lane. A buffer for full batches may hold a smaller one's tokens at its start.
fn tokens_fit<B: Storage>(backend: &B, op: &'static str, tokens: &B::Indices, x: &Strips<B>) -> Result<(), ShapeError> {
    let lanes = x.layout.lanes();
    expect_equal(op, "number of tokens", lanes, backend.index_len(tokens).min(lanes))
}

/// Checks that a matrix has a row of as many features as x for each of `length` places.
fn places_fit<B: Storage>(
    backend: &B,
    op: &'static str,
    what: &'static str,
    matrix: &B::Buffer,
    length: usize,
    x: &Strips<B>,
) -> Result<(), ShapeError> {
    if length == 0 {
        return Err(ShapeError::Rule { op, what: "length of a sequence", got: 0, rule: "at least 1" });
    }
    expect_equal(op, what, length * x.layout.features(), backend.len(matrix))
}
