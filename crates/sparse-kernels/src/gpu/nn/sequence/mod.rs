//! Operations of sequence models.

mod embed;
#[cfg(test)]
mod tests;

use super::super::{Buffer, Gpu, Indices};
use crate::Strips;
use crate::backend::check::{Checked, Done};
use crate::backend::{Rows, SequenceNeural};

impl SequenceNeural for Gpu {
    fn run_embed(
        &self,
        _: Checked,
        table: &Buffer,
        positions: Option<(&Buffer, usize)>,
        tokens: &Indices,
        x: &mut Strips<Self>,
    ) -> Done {
        embed::forward(self, table, positions, tokens, x)
    }

    fn run_embed_grad(
        &self,
        _: Checked,
        rows: Rows<'_, Self>,
        dx: &Strips<Self>,
        grad: &mut Buffer,
        accumulate: bool,
    ) -> Done {
        embed::backward(self, &rows, dx, grad, accumulate)
    }
}
