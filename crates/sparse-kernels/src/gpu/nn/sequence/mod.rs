//! Operations of sequence models.

mod attention;
mod embed;
mod gelu;
mod norm;
#[cfg(test)]
mod tests;

use super::super::{Buffer, Gpu, Indices};
use crate::Strips;
use crate::backend::check::{Checked, Done};
use crate::backend::{
    Attention, AttentionGrad, FeatureNorm, Gelu, NormGrad, NormInput, NormKind, Rows, SequenceNeural,
};

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

    fn run_feature_norm(
        &self,
        _: Checked,
        norm: FeatureNorm,
        affine: &Buffer,
        input: NormInput<'_, Self>,
        y: &mut Strips<Self>,
        moments: &mut Strips<Self>,
    ) -> Done {
        norm::forward(self, norm, affine, &input, y, moments)
    }

    fn run_feature_norm_grad(&self, _: Checked, kind: NormKind, operands: NormGrad<'_, Self>) -> Done {
        norm::backward(self, kind, operands)
    }

    fn run_gelu(&self, _: Checked, kind: Gelu, x: &Strips<Self>, y: &mut Strips<Self>) -> Done {
        gelu::forward(self, kind, &x.data, &y.data)
    }

    fn run_gelu_grad(&self, _: Checked, kind: Gelu, x: &Strips<Self>, grad: &mut Strips<Self>) -> Done {
        gelu::backward(self, kind, &x.data, &grad.data)
    }

    fn run_attention(
        &self,
        _: Checked,
        attention: Attention,
        operands: [&Strips<Self>; 3],
        o: &mut Strips<Self>,
        lse: &mut Strips<Self>,
    ) -> Done {
        attention::forward(self, attention, operands, o, lse)
    }

    fn run_attention_grad(&self, _: Checked, attention: Attention, operands: AttentionGrad<'_, Self>) -> Done {
        attention::backward(self, attention, operands)
    }
}
