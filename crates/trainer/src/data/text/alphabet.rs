//! The symbols of texts.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::error::TextError;
use crate::choice::choices;

choices! {
    /// What the symbols of a text are.
    #[derive(Default)]
    TextSymbols {
        /// Its bytes: 256 symbols, whatever the text.
        #[default]
        Bytes,
        /// Its characters: those that occur in the text.
        Characters,
    }
}

impl TextSymbols {
    /// For people: a symbol of this kind.
    pub fn singular(self) -> &'static str {
        match self {
            Self::Bytes => "byte",
            Self::Characters => "character",
        }
    }
}

/// The symbols of texts, each with its number: a token.
///
/// In JSON: `"bytes"`, or `{"characters": "…"}` with the characters in the order of their numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "InFile", try_from = "InFile")]
pub enum Alphabet {
    /// Bytes, whose numbers are their values.
    Bytes,
    /// Characters, numbered by their code points.
    Characters(Arc<[char]>),
}

/// An alphabet as files have it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum InFile {
    Bytes,
    Characters(String),
}

/// Bytes that are no text of an alphabet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EncodeError {
    /// No character begins after this many bytes.
    NotUtf8 { offset: usize },
    /// The character after this many bytes is no symbol.
    Unknown { offset: usize, character: char },
}

impl Alphabet {
    /// The most symbols that tokens can tell apart.
    pub const MOST: usize = 1 << 16;

    /// The characters that occur in texts.
    ///
    /// # Errors
    /// [`TextError::Characters`] if there are more than [`Alphabet::MOST`].
    pub(super) fn of_texts<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Self, TextError> {
        let mut occurs: Vec<bool> = Vec::new();
        for character in texts.flat_map(str::chars) {
            let code = character as usize;
            if occurs.len() <= code {
                occurs.resize(code + 1, false);
            }
            occurs[code] = true;
        }
        let code_points = (0..occurs.len() as u32).filter(|&code| occurs[code as usize]);
        let characters: Arc<[char]> = code_points.filter_map(char::from_u32).collect();
        match characters.len() {
            count if count > Self::MOST => Err(TextError::Characters { characters: count, most: Self::MOST }),
            _ => Ok(Self::Characters(characters)),
        }
    }

    /// What its symbols are.
    pub fn symbols(&self) -> TextSymbols {
        match self {
            Self::Bytes => TextSymbols::Bytes,
            Self::Characters(_) => TextSymbols::Characters,
        }
    }

    /// Number of symbols.
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes => 256,
            Self::Characters(characters) => characters.len(),
        }
    }

    /// Whether it has no symbol.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The token of a character; none if it is no symbol, as no character is of bytes beyond ASCII.
    pub fn token(&self, character: char) -> Option<u16> {
        match self {
            Self::Bytes => character.is_ascii().then_some(character as u16),
            Self::Characters(characters) => characters.binary_search(&character).ok().map(|at| at as u16),
        }
    }

    /// Appends the bytes that a token stands for; nothing of a token that is no symbol.
    pub fn append(&self, token: u16, to: &mut Vec<u8>) {
        match self {
            Self::Bytes => to.extend(u8::try_from(token)),
            Self::Characters(characters) => {
                let character = characters.get(usize::from(token));
                to.extend(character.iter().flat_map(|c| c.encode_utf8(&mut [0; 4]).bytes().collect::<Vec<_>>()));
            }
        }
    }

    /// The tokens of a text.
    pub(super) fn encode(&self, text: &[u8]) -> Result<Vec<u16>, EncodeError> {
        let characters = match self {
            Self::Bytes => return Ok(text.iter().map(|&byte| byte.into()).collect()),
            Self::Characters(characters) => characters,
        };
        let text = utf8(text)?;
        let mut tokens = vec![None; characters.last().map_or(0, |&last| last as usize + 1)];
        characters.iter().enumerate().for_each(|(token, &c)| tokens[c as usize] = Some(token as u16));
        let token = |(offset, character): (usize, char)| {
            let token = tokens.get(character as usize).copied().flatten();
            token.ok_or(EncodeError::Unknown { offset, character })
        };
        text.char_indices().map(token).collect()
    }

    /// The tokens of a prompt; the first character that is no symbol, if there is one.
    ///
    /// # Errors
    /// That character.
    pub fn tokens(&self, prompt: &str) -> Result<Vec<u16>, char> {
        self.encode(prompt.as_bytes()).map_err(|error| match error {
            EncodeError::Unknown { character, .. } => character,
            EncodeError::NotUtf8 { .. } => unreachable!("a str is UTF-8"),
        })
    }
}

/// Bytes as text.
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, EncodeError> {
    std::str::from_utf8(bytes).map_err(|error| EncodeError::NotUtf8 { offset: error.valid_up_to() })
}

impl From<Alphabet> for InFile {
    fn from(alphabet: Alphabet) -> Self {
        match alphabet {
            Alphabet::Bytes => Self::Bytes,
            Alphabet::Characters(characters) => Self::Characters(characters.iter().collect()),
        }
    }
}

impl TryFrom<InFile> for Alphabet {
    type Error = &'static str;

    fn try_from(alphabet: InFile) -> Result<Self, &'static str> {
        let InFile::Characters(text) = alphabet else { return Ok(Self::Bytes) };
        let characters: Arc<[char]> = text.chars().collect();
        match characters.is_sorted_by(|a, b| a < b) && (1..=Self::MOST).contains(&characters.len()) {
            true => Ok(Self::Characters(characters)),
            false => Err("an alphabet must have 1 to 65536 characters, each once, by their code points"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alphabet(text: &str) -> Alphabet {
        Alphabet::of_texts([text].into_iter()).unwrap()
    }

    fn text_of(alphabet: &Alphabet, tokens: &[u16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        tokens.iter().for_each(|&token| alphabet.append(token, &mut bytes));
        bytes
    }

    #[test]
    fn characters_are_numbered_by_their_code_points() {
        let text = "für 3 €, 🦀!";
        let alphabet = alphabet(text);
        let Alphabet::Characters(characters) = &alphabet else { panic!("characters were asked for") };
        assert_eq!(characters.iter().collect::<String>(), " !,3frü€🦀");
        let tokens = alphabet.tokens(text).unwrap();
        assert_eq!((tokens.len(), tokens[1]), (11, 6));
        assert_eq!(text_of(&alphabet, &tokens), text.as_bytes());
        assert_eq!((alphabet.token('€'), alphabet.token('a')), (Some(7), None));
        assert_eq!(alphabet.tokens("3a"), Err('a'));
        assert_eq!(alphabet.encode(b"3\xff"), Err(EncodeError::NotUtf8 { offset: 1 }));
        assert_eq!(alphabet.encode("3 x".as_bytes()), Err(EncodeError::Unknown { offset: 2, character: 'x' }));
        assert!(text_of(&alphabet, &[9]).is_empty());
    }

    #[test]
    fn bytes_are_their_own_numbers() {
        let bytes: Vec<u8> = (0..=255).collect();
        let tokens = Alphabet::Bytes.encode(&bytes).unwrap();
        assert_eq!((tokens.len(), tokens[200]), (256, 200));
        assert_eq!(text_of(&Alphabet::Bytes, &tokens), bytes);
        assert_eq!(Alphabet::Bytes.tokens("é").unwrap(), [0xc3, 0xa9]);
        assert_eq!((Alphabet::Bytes.len(), Alphabet::Bytes.token('\n')), (256, Some(10)));
    }

    #[test]
    fn files_hold_alphabets_whole() {
        for alphabet in [Alphabet::Bytes, alphabet("\0\"\\ é\u{10ffff}")] {
            let json = serde_json::to_string(&alphabet).unwrap();
            assert_eq!(serde_json::from_str::<Alphabet>(&json).unwrap(), alphabet, "{json}");
        }
        assert_eq!(serde_json::to_string(&Alphabet::Bytes).unwrap(), "\"bytes\"");
        for wrong in [r#"{"characters":"ba"}"#, r#"{"characters":"aa"}"#, r#"{"characters":""}"#, r#""words""#] {
            assert!(serde_json::from_str::<Alphabet>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn too_many_characters_are_refused() {
        let all: String = (0..=char::MAX as u32).filter_map(char::from_u32).collect();
        let error = Alphabet::of_texts([all.as_str()].into_iter()).unwrap_err();
        assert!(matches!(error, TextError::Characters { characters: 1_112_064, most: 65_536 }), "{error}");
        let most: String = all.chars().take(Alphabet::MOST).collect();
        let alphabet = alphabet(&most);
        let tokens = alphabet.tokens(&most).unwrap();
        assert_eq!((alphabet.len(), tokens[0], tokens[65_535]), (65_536, 0, 65_535));
    }
}
