//! Recurrent language models: the paper's of one GRU (section 4.2 and appendix I), and the same of LSTMs.

use super::super::build_error::BuildError;
use super::super::builder::Builder;
use super::super::graph::{Cell, Masking};
use super::super::sequence::{SequenceFamily, SequenceSpec, TrainingDefaults};

/// Batch and clipping are the paper's (appendix I); its learning rate, 7e-4, and its L2 coefficient, 5e-4, are for 200,000 steps.
const TRAINING: TrainingDefaults = TrainingDefaults {
    decoupled: false,
    lr: 3e-3,
    warmup_steps: 0,
    weight_decay: 0.0,
    beta2: 0.999,
    clip_norm: 10.0,
    batch_size: 32,
    epochs: 3,
};

pub(super) static GRU: SequenceFamily = SequenceFamily {
    prefix: "gru-",
    names: "gru-H",
    rule: "it must be gru-H, or gru-H-H… for stacked layers, with widths H of at least 1, such as gru-512",
    has: |widths| widths.iter().all(|&width| width > 0),
    cell: Some(Cell::Gru),
    training: TRAINING,
};

pub(super) static LSTM: SequenceFamily = SequenceFamily {
    prefix: "lstm-",
    names: "lstm-H",
    rule: "it must be lstm-H, or lstm-H-H… for stacked layers, with widths H of at least 1, such as lstm-512",
    has: |widths| widths.iter().all(|&width| width > 0),
    cell: Some(Cell::Lstm),
    training: TRAINING,
};

/// An embedding, recurrent layers of these widths, and a readout of linear layers with ReLU between them.
pub(super) fn recurrent(
    builder: &mut Builder,
    cell: Cell,
    widths: &[usize],
    sequence: &SequenceSpec,
) -> Result<(), BuildError> {
    let spec = builder.spec.clone();
    let tokens = builder.input();
    let mut x = builder.embedding("embedding", sequence.embedding, None, tokens)?;
    for (i, &width) in widths.iter().enumerate() {
        x = builder.recurrent(format!("{}.l{i}", cell.name()), cell, spec.scaled(width), x)?;
        x = builder.dropout(format!("{}.l{i}", cell.name()), x)?;
    }
    for (i, &outputs) in sequence.readout.iter().enumerate() {
        x = builder.linear(format!("readout.{i}"), spec.scaled(outputs), true, x)?;
    }
    builder.masking = Masking::Any;
    builder.linear(format!("readout.{}", sequence.readout.len()), spec.classes, false, x)?;
    Ok(())
}
