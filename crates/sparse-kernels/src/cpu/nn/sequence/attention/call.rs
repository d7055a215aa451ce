//! What all tasks of a call share, and what each has.

use super::rows::Rotary;
use crate::StripLayout;

/// What all tasks of a call share.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    /// Of q, k, v and o; one feature a head in `lse`.
    pub layout: StripLayout,
    pub length: usize,
    pub head_size: usize,
    pub rotary: Option<&'a Rotary>,
}

impl Call<'_> {
    /// Floats of a row of the scratch: at least 16 more than there are tokens, and an odd number of lines.
    pub fn pitch(&self) -> usize {
        self.length.next_multiple_of(32) + 16
    }

    /// Rows of an operand, to whole groups of features whatever the instruction set.
    pub fn rows(&self) -> usize {
        self.head_size.next_multiple_of(24)
    }

    /// 1 / √(head size).
    pub fn scale(&self) -> f32 {
        (self.head_size as f32).sqrt().recip()
    }
}

/// Where one head of one sequence stands.
#[derive(Clone, Copy)]
pub(super) struct Head {
    /// Number of the head.
    pub head: usize,
    /// Its first feature.
    pub feature: usize,
    /// The first lane of the sequence.
    pub lane: usize,
}
