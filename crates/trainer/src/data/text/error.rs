//! What can be wrong with a text.

use std::path::PathBuf;

/// Why a text cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file has no symbol.
    #[error("{}: is empty; a text must have at least one symbol", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// Bytes that are no characters.
    #[error(
        "{}: byte {offset} (line {line}) is not valid UTF-8; convert it, or train on its bytes \
         (--text-symbols bytes)",
        file.display()
    )]
    NotUtf8 {
        /// The file.
        file: PathBuf,
        /// Bytes before the invalid one.
        offset: usize,
        /// Its line, from 1.
        line: usize,
    },
    /// A character that the model has no symbol for.
    #[error(
        "{}: line {line}: the character {} is not among the {symbols} characters of the training text; remove it, or train on a \
         text that has it or on bytes (--text-symbols bytes)",
        file.display(),
        character_text(*character)
    )]
    Unknown {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The character.
        character: char,
        /// Characters that the model knows.
        symbols: usize,
    },
    /// More characters than a token can tell apart.
    #[error(
        "the text has {characters} different characters; at most {most} can be symbols; train on its bytes (--text-symbols bytes)"
    )]
    Characters {
        /// Characters that are different.
        characters: usize,
        /// The largest number.
        most: usize,
    },
    /// A part of the text is shorter than a window.
    #[error(
        "the {part} text has {symbols} symbols; it must have at least {needed}{}",
        length.map_or(String::new(), |length| format!(
            ", as windows of {length} need the symbol that follows (--sequence-length makes them shorter)"
        ))
    )]
    Short {
        /// Which part.
        part: &'static str,
        /// Its symbols.
        symbols: usize,
        /// How many it must have.
        needed: usize,
        /// Symbols of a window, of a text that is trained on.
        length: Option<usize>,
    },
    /// The embedded text is another than the published one.
    #[error("the embedded text is not the published one: its SHA-256 sum is {got}, not {expected}")]
    NotPublished {
        /// Its sum.
        got: String,
        /// That of the published text.
        expected: &'static str,
    },
    /// Compressed in a way that is not known here.
    #[error("{}: is {what}; a text must be plain, or compressed as .gz, .xz or .zip", file.display())]
    Compressed {
        /// The file.
        file: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// An archive that is not one text.
    #[error("{}: holds {files} files; an archive must hold one text", file.display())]
    Archive {
        /// The archive.
        file: PathBuf,
        /// Files in it.
        files: usize,
    },
}

/// A character for people: as it is, with its code point where it may not be seen.
pub(crate) fn character_text(character: char) -> String {
    let code = character as u32;
    match character.is_ascii_graphic() {
        true => format!("{character:?}"),
        false => format!("{character:?} (U+{code:04X})"),
    }
}
