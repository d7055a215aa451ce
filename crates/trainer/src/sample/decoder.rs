//! Text of symbols that may be parts of characters.

use crate::data::text::Alphabet;

/// Makes text of tokens as they come: whole characters, and U+FFFD for bytes that are none.
///
/// ```
/// use trainer::data::text::Alphabet;
/// use trainer::sample::Decoder;
/// let mut decoder = Decoder::new(Alphabet::Bytes);
/// assert_eq!((decoder.push(0xc3), decoder.push(0xa9)), (String::new(), "é".to_owned()));
/// assert_eq!((decoder.push(0xc3), decoder.finish()), (String::new(), "\u{fffd}".to_owned()));
/// ```
#[derive(Debug)]
pub struct Decoder {
    alphabet: Alphabet,
    /// Bytes of a character that is not complete.
    pending: Vec<u8>,
}

impl Decoder {
    /// Of the symbols of this alphabet.
    pub fn new(alphabet: Alphabet) -> Self {
        Self { alphabet, pending: Vec::new() }
    }

    /// The text that a token completes.
    pub fn push(&mut self, token: u16) -> String {
        self.alphabet.append(token, &mut self.pending);
        let mut text = String::new();
        loop {
            let (valid, wrong) = match std::str::from_utf8(&self.pending) {
                Ok(whole) => (whole.len(), None),
                Err(error) => (error.valid_up_to(), error.error_len()),
            };
            let rest = self.pending.split_off(valid);
            text += &String::from_utf8_lossy(&self.pending);
            self.pending = rest;
            let Some(wrong) = wrong else { return text };
            self.pending.drain(..wrong);
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    /// What is left of a character that was not completed.
    pub fn finish(self) -> String {
        if self.pending.is_empty() { String::new() } else { char::REPLACEMENT_CHARACTER.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(bytes: &[u8]) -> String {
        let mut decoder = Decoder::new(Alphabet::Bytes);
        let text: String = bytes.iter().map(|&byte| decoder.push(byte.into())).collect();
        text + &decoder.finish()
    }

    proptest! {
        #[test]
        fn bytes_become_what_they_become_as_a_whole(bytes in prop::collection::vec(any::<u8>(), 0..40), text: String) {
            prop_assert_eq!(decoded(&bytes), String::from_utf8_lossy(&bytes).into_owned());
            prop_assert_eq!(decoded(text.as_bytes()), text);
        }
    }
}
