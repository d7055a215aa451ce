//! Operations of sequence models.

mod embed;

use crate::Strips;
use crate::backend::check::{Checked, Done};
use crate::backend::{Rows, SequenceNeural};
use crate::cpu::{Buffer, Cpu};

impl SequenceNeural for Cpu {
    fn run_embed(
        &self,
        _: Checked,
        table: &Buffer,
        positions: Option<(&Buffer, usize)>,
        tokens: &Vec<u32>,
        x: &mut Strips<Self>,
    ) -> Done {
        let _timed = self.timed("embed", 2 * x.data.len(), 0);
        embed::forward(self, table, positions.map(|(positions, length)| (&positions[..], length)), tokens, x);
        Ok(())
    }

    fn run_embed_grad(
        &self,
        _: Checked,
        rows: Rows<'_, Self>,
        dx: &Strips<Self>,
        grad: &mut Buffer,
        accumulate: bool,
    ) -> Done {
        let _timed = self.timed("embed_grad", 2 * dx.data.len(), 0);
        match rows {
            Rows::Tokens(tokens) => embed::backward(self, |lane| tokens[lane] as usize, dx, grad, accumulate),
            Rows::Places(length) => embed::backward(self, |lane| lane % length, dx, grad, accumulate),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::BACKENDS;
    use crate::testing::sequence;

    #[test]
    fn wrong_shapes_are_refused() {
        sequence::wrong_shapes_are_refused(&BACKENDS[0]);
    }
}
