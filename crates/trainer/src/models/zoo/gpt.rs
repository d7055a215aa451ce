//! Transformers that predict the next token: GPT-2's blocks (Radford et al. 2019), normalised before each branch.

use super::super::build_error::BuildError;
use super::super::builder::Builder;
use super::super::graph::Masking;
use super::super::sequence::{Positions, SequenceFamily, SequenceSpec, TrainingDefaults};

pub(super) static GPT: SequenceFamily = SequenceFamily {
    prefix: "gpt-",
    names: "gpt-L-H-D",
    rule: "it must be gpt-L-H-D with L layers, H heads and a width D that H divides, such as gpt-6-6-384",
    has: |numbers| matches!(numbers, &[layers, heads, width] if layers > 0 && heads > 0 && width > 0 && width % heads == 0),
    cell: None,
    training: TrainingDefaults {
        decoupled: true,
        lr: 1e-3,
        warmup_steps: 100,
        weight_decay: 0.1,
        beta2: 0.99,
        clip_norm: 1.0,
        batch_size: 16,
        epochs: 10,
    },
};

/// Features of the hidden layer of a block's second branch, for each of the block's.
const EXPANSION: usize = 4;

/// Layers, heads and width. Embeddings, norms and the last layer are dense; the others are as the distribution says.
pub(super) fn gpt(builder: &mut Builder, numbers: &[usize], sequence: &SequenceSpec) -> Result<(), BuildError> {
    let &[layers, heads, width] = numbers else { unreachable!("names of the family have three numbers") };
    let (rotary, norm) = (sequence.positions == Positions::Rotary, sequence.norm.into());
    let width = match builder.spec.width {
        1.0 => width,
        // Heads have an even number of features, so that rotary positions can turn them.
        _ => heads * (builder.spec.scaled(width) / heads / 2 * 2).max(2),
    };
    let places = (!rotary).then_some(("position_embedding", sequence.length));
    let tokens = builder.input();
    let head = if sequence.tied { "head" } else { "token_embedding" };
    let x = match sequence.tied {
        true => builder.tied_embedding(head, width, places, tokens)?,
        false => builder.embedding(head, width, places, tokens)?,
    };
    let mut x = builder.dropout("embedding", x)?;
    let mut normed = builder.norm_over("blocks.0.norm1", norm, x)?;
    for i in 0..layers {
        let name = |part: &str| format!("blocks.{i}.{part}");
        let mut project = |part: &str| builder.linear(name(part), width, false, normed);
        let [query, key, value] = [project("attn.query")?, project("attn.key")?, project("attn.value")?];
        let y = builder.attention(heads, rotary, [query, key, value])?;
        let y = builder.linear(name("attn.output"), width, false, y)?;
        let y = builder.dropout(name("attn.output"), y)?;
        (x, normed) = builder.add_norm_over(name("norm2"), norm, x, y)?;
        let y = builder.linear(name("ff.up"), EXPANSION * width, false, normed)?;
        let y = builder.gelu(y)?;
        let y = builder.linear(name("ff.down"), width, false, y)?;
        let y = builder.dropout(name("ff.down"), y)?;
        let next = if i + 1 < layers { format!("blocks.{}.norm1", i + 1) } else { "norm".to_owned() };
        (x, normed) = builder.add_norm_over(next, norm, x, y)?;
    }
    match sequence.tied {
        true => builder.tied_head(head, normed)?,
        false => {
            builder.masking = Masking::Never;
            builder.linear("head", builder.spec.classes, false, normed)?
        }
    };
    Ok(())
}
