//! Operations of sequence models.

mod attention;
mod embed;
mod gelu;
mod norm;

use crate::Strips;
use crate::backend::check::{Checked, Done};
use crate::backend::{
    Attention, AttentionGrad, FeatureNorm, Gelu, NormGrad, NormInput, NormKind, Rows, SequenceNeural,
};
use crate::cpu::{Buffer, Cpu, SharedMut};

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

    fn run_feature_norm(
        &self,
        _: Checked,
        norm: FeatureNorm,
        affine: &Buffer,
        input: NormInput<'_, Self>,
        y: &mut Strips<Self>,
        moments: &mut Strips<Self>,
    ) -> Done {
        let words = if matches!(input, NormInput::Plain(_)) { 2 } else { 4 };
        let _timed = self.timed("feature_norm", words * y.data.len(), 0);
        let input = match input {
            NormInput::Plain(x) => (SharedMut::reading(&x.data), None),
            NormInput::Sum { residual, x } => (SharedMut::new(&mut x.data), Some(&residual.data[..])),
        };
        norm::forward(self, norm, affine, input, y, moments);
        Ok(())
    }

    fn run_feature_norm_grad(&self, _: Checked, kind: NormKind, operands: NormGrad<'_, Self>) -> Done {
        let NormGrad { affine, moments, x, dy, to, daffine, accumulate } = operands;
        let words = if to.is_some() { 4 } else { 3 };
        let _timed = self.timed("feature_norm_grad", words * x.data.len(), 0);
        norm::backward(self, kind, affine, (x, moments), (dy, to), daffine, accumulate);
        Ok(())
    }

    fn run_gelu(&self, _: Checked, kind: Gelu, x: &Strips<Self>, y: &mut Strips<Self>) -> Done {
        let _timed = self.timed("gelu", 2 * x.data.len(), 0);
        gelu::forward(self, kind, &x.data, &mut y.data);
        Ok(())
    }

    fn run_gelu_grad(&self, _: Checked, kind: Gelu, x: &Strips<Self>, grad: &mut Strips<Self>) -> Done {
        let _timed = self.timed("gelu_grad", 3 * x.data.len(), 0);
        gelu::backward(self, kind, &x.data, &mut grad.data);
        Ok(())
    }

    fn run_attention(
        &self,
        _: Checked,
        attention: Attention,
        operands: [&Strips<Self>; 3],
        o: &mut Strips<Self>,
        lse: &mut Strips<Self>,
    ) -> Done {
        let _timed = self.timed("attention", 4 * o.data.len(), 2 * o.data.len() * attention.length);
        attention::forward(self, attention, operands, o, lse);
        Ok(())
    }

    fn run_attention_grad(&self, _: Checked, attention: Attention, operands: AttentionGrad<'_, Self>) -> Done {
        let elements = operands.q.data.len();
        let _timed = self.timed("attention_grad", 8 * elements, 5 * elements * attention.length);
        attention::backward(self, attention, operands);
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
