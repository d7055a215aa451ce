//! Texts: files of bytes or characters, of which each symbol is to be foreseen from those before it.
//!
//! | data set | training / validation / test |
//! | --- | --- |
//! | `text` | `--text`, `--text-valid`, `--text-test`; of files that are not given, shares at the end of `--text` |
//! | `tiny-shakespeare` | 90 / 5 / 5 % of 1,115,394 characters, 65 of them different; embedded |
//!
//! Files are read as they are, plain or compressed. Several are one text, in their order.

mod alphabet;
mod batches;
mod error;
mod read;
mod span;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use self::read::Source;
use super::dataset::{Dataset, Split};
use super::error::DataError;

pub use alphabet::{Alphabet, TextSymbols};
pub(crate) use batches::{TextBatches, TextEpoch};
pub use error::TextError;
pub(crate) use error::character_text;
pub use span::Text;

/// The name of the data set that is files of text.
pub const TEXT: &str = "text";
/// The name of the text that is part of the program.
pub const TINY_SHAKESPEARE: &str = "tiny-shakespeare";
/// Symbols of a window where nothing is said.
pub const DEFAULT_LENGTH: usize = 128;
/// The share of a text that is for validation, and that for the test, where there are no files of them.
pub const DEFAULT_SHARE: f64 = 0.05;

/// Characters of the embedded text that are different, and how many there are before and in the default test share.
pub const TINY_SHAKESPEARE_CHARACTERS: (usize, [usize; 2]) = (65, [1_059_624, 55_770]);
/// SHA-256 of the embedded text as it was published.
const TINY_SHAKESPEARE_SHA256: &str = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed";
static TINY_SHAKESPEARE_XZ: &[u8] = include_bytes!("../../../data/tiny-shakespeare/tinyshakespeare.txt.xz");

/// Whether the data set of this name is a text.
pub fn is_text(name: &str) -> bool {
    [TEXT, TINY_SHAKESPEARE].contains(&name)
}

/// Where a text is, and what is made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TextOptions {
    /// Files of what is trained on; none for the embedded text.
    pub train: Vec<PathBuf>,
    /// Files for validation.
    pub valid: Vec<PathBuf>,
    /// Files of the test; if there is none, the test is the last share of what is trained on.
    pub test: Vec<PathBuf>,
    /// That share.
    pub test_fraction: f64,
    /// What its symbols are.
    pub symbols: TextSymbols,
    /// Symbols of a window.
    pub sequence_length: usize,
}

/// Reads a text; for a model that was `trained` on another, with that one's alphabet.
///
/// # Errors
/// [`DataError`] naming the file, and of a character its line.
pub fn load(options: &TextOptions, trained: Option<&Alphabet>) -> Result<Dataset, DataError> {
    let read = |files: &[PathBuf]| files.iter().map(|file| Source::read(file)).collect::<Result<Vec<_>, _>>();
    if options.train.is_empty() {
        return Err(DataError::NoText);
    }
    let train = read(&options.train)?;
    let alphabet = match trained {
        Some(alphabet) => alphabet.clone(),
        None => alphabet_of(&train, options.symbols)?,
    };
    let length = options.sequence_length;
    let train = text(&train, &alphabet, length)?;
    let part = |files: &[PathBuf]| match files {
        [] => Ok::<_, DataError>(None),
        files if files == options.train => Ok(Some(train.clone())),
        files => Ok(Some(text(&read(files)?, &alphabet, length)?)),
    };
    let (validation, test) = (part(&options.valid)?, part(&options.test)?);
    let (train, test) = test.map_or_else(|| train.cut(options.test_fraction), |test| (train.clone(), test));
    dataset(TEXT, alphabet, (train, validation, test))
}

/// The symbols and tokens of what is in a file, by itself.
///
/// # Errors
/// [`DataError`] naming the file.
pub fn parse(file: &Path, bytes: &[u8], symbols: TextSymbols) -> Result<(Alphabet, Vec<u16>), DataError> {
    let source = Source::unfolded(file, bytes)?;
    let alphabet = alphabet_of(std::slice::from_ref(&source), symbols)?;
    let tokens = source.tokens(&alphabet)?;
    Ok((alphabet, tokens))
}

/// The embedded text, in windows of this length; for a model that was `trained` on another, with that one's alphabet.
///
/// # Errors
/// [`DataError`] if it is too short for them.
pub fn load_tiny_shakespeare(
    sequence_length: usize,
    test_fraction: f64,
    trained: Option<&Alphabet>,
) -> Result<Dataset, DataError> {
    let source = [tiny_shakespeare()?];
    let alphabet = match trained {
        Some(alphabet) => alphabet.clone(),
        None => alphabet_of(&source, TextSymbols::Characters)?,
    };
    let (train, test) = text(&source, &alphabet, sequence_length)?.cut(test_fraction);
    dataset(TINY_SHAKESPEARE, alphabet, (train, None, test))
}

fn tiny_shakespeare() -> Result<Source, DataError> {
    Source::unfolded(Path::new(TINY_SHAKESPEARE), TINY_SHAKESPEARE_XZ)
}

/// Symbols of the embedded text, and how many of them are different.
///
/// # Errors
/// [`TextError::NotPublished`] if it is not the text that was published.
pub fn tiny_shakespeare_is_published() -> Result<[usize; 2], DataError> {
    let source = tiny_shakespeare()?;
    let got: String = Sha256::digest(&source.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if got != TINY_SHAKESPEARE_SHA256 {
        return Err(TextError::NotPublished { got, expected: TINY_SHAKESPEARE_SHA256 }.into());
    }
    let alphabet = alphabet_of(std::slice::from_ref(&source), TextSymbols::Characters)?;
    Ok([source.tokens(&alphabet)?.len(), alphabet.len()])
}

/// The symbols of these texts.
fn alphabet_of(sources: &[Source], symbols: TextSymbols) -> Result<Alphabet, TextError> {
    match symbols {
        TextSymbols::Bytes => Ok(Alphabet::Bytes),
        TextSymbols::Characters => {
            let texts = sources.iter().map(Source::characters).collect::<Result<Vec<_>, _>>()?;
            Alphabet::of_texts(texts.into_iter())
        }
    }
}

/// One text of all of them.
fn text(sources: &[Source], alphabet: &Alphabet, length: usize) -> Result<Text, TextError> {
    let tokens = sources.iter().map(|source| source.tokens(alphabet)).collect::<Result<Vec<_>, _>>()?;
    let tokens: Arc<[u16]> = tokens.concat().into();
    Ok(Text { range: 0..tokens.len(), tokens, length })
}

fn dataset(
    name: &str,
    alphabet: Alphabet,
    (train, validation, test): (Text, Option<Text>, Text),
) -> Result<Dataset, DataError> {
    let train = train.checked("training")?;
    let validation = validation.map(|text| text.checked("validation")).transpose()?;
    let test = test.checked("test")?;
    let split = |text| Arc::new(Split::of_text(text));
    Ok(Dataset {
        numbering: None,
        name: name.to_owned(),
        classes: alphabet.len(),
        shape: [1, 1, train.length()],
        train: split(train),
        validation: validation.map(split),
        test: split(test),
        table: None,
        class_names: None,
        target_scale: None,
        alphabet: Some(alphabet),
    })
}
