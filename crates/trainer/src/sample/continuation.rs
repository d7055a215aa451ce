//! What a network expects behind a text.

use std::collections::VecDeque;

use sparse_kernels::Backend;

use crate::data::{LaneOrder, Sequences};
use crate::training::{Evaluator, TrainingError};

/// A network that reads a text, one token after the other, and says what it expects next.
#[derive(Debug)]
pub struct Continuation<'b, B: Backend> {
    evaluator: Evaluator<'b, B>,
    order: LaneOrder,
    strip: usize,
    /// Tokens that a Transformer reads at most.
    length: usize,
    /// The last tokens that were read, of a Transformer; of a recurrent network, whose state tells, the last one.
    window: VecDeque<u32>,
    /// Whether a token was read before.
    continues: bool,
    outputs: Vec<f32>,
}

impl<'b, B: Backend> Continuation<'b, B> {
    /// Of a text without symbols. The network must read tokens in this order, and of a Transformer in windows of this length.
    pub fn new(evaluator: Evaluator<'b, B>, order: LaneOrder, strip: usize, length: usize) -> Self {
        let window = VecDeque::with_capacity(length);
        Self { evaluator, order, strip, length, window, continues: false, outputs: Vec::new() }
    }

    /// Reads these tokens, at least one; returns the outputs for the one that follows.
    ///
    /// # Errors
    /// [`TrainingError`] if the backend fails.
    pub fn read(&mut self, tokens: &[u16]) -> Result<&[f32], TrainingError> {
        debug_assert!(!tokens.is_empty(), "outputs are those behind a token");
        match self.order {
            LaneOrder::TimeMajor => {
                for &token in tokens {
                    let step = Sequences::new(self.order, self.strip, [1, 1], self.continues);
                    self.evaluator.outputs_of_tokens(step, &[token.into()], &mut self.outputs)?;
                    self.continues = true;
                }
                Ok(&self.outputs)
            }
            LaneOrder::SequenceMajor => {
                for &token in tokens {
                    if self.window.len() == self.length {
                        self.window.pop_front();
                    }
                    self.window.push_back(token.into());
                }
                // What stands behind a token has no part in its outputs.
                let mut window: Vec<u32> = self.window.iter().copied().collect();
                window.resize(self.length, 0);
                let sequence = Sequences::new(self.order, self.strip, [1, self.length], false);
                self.evaluator.outputs_of_tokens(sequence, &window, &mut self.outputs)?;
                let symbols = self.outputs.len() / self.length;
                Ok(&self.outputs[(self.window.len() - 1) * symbols..][..symbols])
            }
        }
    }
}
