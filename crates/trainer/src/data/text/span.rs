//! Texts in memory, cut into windows.
//!
//! ```text
//! tokens   t0 t1 t2 t3 t4 t5 t6 t7 t8 t9        length 3
//! inputs   └─ 0 ──┘ └─ 1 ──┘ └─ 2 ──┘           evaluation: each prediction once, the last window may be short
//! targets     └─ 0 ──┘ └─ 1 ──┘ └─ 2 ──┘
//! inputs      └─ 0 ──┘ └─ 1 ──┘                 training, shifted by 1: whole windows at any shift below the length
//! ```

use std::ops::Range;
use std::sync::Arc;

use super::error::TextError;

/// A part of a text, to be read in windows of some length.
///
/// Soft invariants: the range lies within the tokens and holds two of them; the length is at least 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Text {
    /// The tokens of the whole text.
    pub(super) tokens: Arc<[u16]>,
    /// Which of them belong to the part.
    pub(super) range: Range<usize>,
    /// Tokens of a window.
    pub(super) length: usize,
}

impl Text {
    /// Tokens of a window.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Its tokens.
    pub fn tokens(&self) -> &[u16] {
        &self.tokens[self.range.clone()]
    }

    /// Tokens that have another before them.
    pub fn predictions(&self) -> usize {
        self.range.len() - 1
    }

    /// Windows that hold each prediction once; the last one may not be full.
    pub fn windows(&self) -> usize {
        self.predictions().div_ceil(self.length)
    }

    /// Windows of an epoch of training: all are full, wherever the first one begins.
    pub fn training_windows(&self) -> usize {
        (self.range.len().saturating_sub(self.length) / self.length).max(1)
    }

    /// Places where the first of so many windows of an epoch may begin.
    pub(super) fn shifts(&self, windows: usize) -> usize {
        self.range.len().saturating_sub(windows * self.length).max(1)
    }

    /// Cuts off its end, `round(share · tokens)` long, by the tokens of the whole text.
    pub(crate) fn cut(&self, share: f64) -> (Self, Self) {
        let held = (share * self.tokens.len() as f64).round() as usize;
        let at = self.range.end.saturating_sub(held).max(self.range.start);
        let part = |range| Self { range, ..self.clone() };
        (part(self.range.start..at), part(at..self.range.end))
    }

    /// It, if it has something to be foreseen.
    pub(crate) fn checked(self, part: &'static str) -> Result<Self, TextError> {
        match self.range.len() {
            0 | 1 => Err(TextError::Short { part, symbols: self.range.len(), needed: 2, length: None }),
            _ => Ok(self),
        }
    }

    /// It, if it has a whole window with the token that follows.
    pub(crate) fn for_training(self) -> Result<Self, TextError> {
        let (part, symbols, length) = ("training", self.range.len(), self.length);
        match symbols > length {
            true => Ok(self),
            false => Err(TextError::Short { part, symbols, needed: length + 1, length: Some(length) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(tokens: usize, length: usize) -> Text {
        Text { tokens: (0..tokens as u16).collect(), range: 0..tokens, length }
    }

    proptest! {
        #[test]
        fn windows_fit(tokens in 2usize..300, length in 1usize..40) {
            let text = text(tokens, length);
            prop_assert!(text.windows() * length >= tokens - 1 && (text.windows() - 1) * length < tokens - 1);
            if tokens > length {
                let (windows, shifts) = (text.training_windows(), text.shifts(text.training_windows()));
                // The last window at the last shift has a target for its last token.
                prop_assert!(shifts - 1 + windows * length < tokens, "{} windows, {} shifts", windows, shifts);
                prop_assert!((length..2 * length).contains(&shifts) || windows == 1);
                // No window more would fit at every shift.
                prop_assert!(windows == 1 || length - 1 + (windows + 1) * length >= tokens);
            }
        }
    }

    #[test]
    fn parts_are_shares_of_the_whole() {
        let (rest, last) = text(100, 5).cut(0.05);
        assert_eq!((rest.range.clone(), last.range), (0..95, 95..100));
        let (rest, last) = rest.cut(0.05);
        assert_eq!((rest.range, last.range.clone(), last.tokens()), (0..90, 90..95, &[90, 91, 92, 93, 94][..]));
        assert_eq!((last.predictions(), last.checked("test").is_ok()), (4, true));
    }
}
