//! Operations of sequence models on tokens: what a device must be able to do.
//!
//! A lane is a token. Of `count` sequences of `length` tokens, token `t` of sequence `n` is lane `n · length + t`.

use super::check::{Checked, Done, strips_fit};
use super::storage::Storage;
use crate::error::expect_equal;
use crate::{BackendError, ShapeError, Strips};

/// Operations of sequence models, fused where that saves a pass over memory.
pub trait SequenceNeural: Storage {
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
        self.run_embed(Checked(()), table, positions, tokens, x)
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
        self.run_embed_grad(Checked(()), Rows::Tokens(tokens), dx, dtable, accumulate)
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
        self.run_embed_grad(Checked(()), Rows::Places(length), dx, dpositions, accumulate)
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
