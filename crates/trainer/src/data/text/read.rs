//! Files of texts.

use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use zip::ZipArchive;

use super::super::compressed;
use super::super::error::DataError;
use super::alphabet::{Alphabet, EncodeError, utf8};
use super::error::TextError;
use crate::formats::unfold::{Allowance, is_folded, unfold};

const ZIP: &[u8] = b"PK\x03\x04";
/// Compressed files that cannot be unfolded here; as bytes, they would be learned as noise.
const OTHERS: [(&[u8], &str); 3] =
    [(b"BZh", "a bzip2 file"), (b"\x28\xb5\x2f\xfd", "a zstd file"), (b"7z\xbc\xaf\x27\x1c", "a 7z archive")];

/// The bytes of a text, and the file that they are from.
#[derive(Debug)]
pub(super) struct Source {
    pub file: PathBuf,
    pub bytes: Vec<u8>,
}

impl Source {
    /// Reads a file, which may be compressed (gzip, xz, or zip with one file in it).
    pub(super) fn read(file: &Path) -> Result<Self, DataError> {
        Self::unfolded(file, &compressed::read(file)?)
    }

    /// As [`Source::read`], of what is in the file.
    pub(super) fn unfolded(file: &Path, bytes: &[u8]) -> Result<Self, DataError> {
        if let Some((_, what)) = OTHERS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
            return Err(TextError::Compressed { file: file.to_owned(), what }.into());
        }
        let fail = |source| DataError::Io { file: file.to_owned(), source };
        let mut allowance = Allowance::new(bytes.len() as u64);
        let mut unfolded = Vec::new();
        match bytes {
            _ if is_folded(bytes) => unfold(bytes, &mut allowance).read_to_end(&mut unfolded).map_err(fail)?,
            _ if bytes.starts_with(ZIP) => {
                let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|error| fail(error.into()))?;
                if archive.len() != 1 {
                    return Err(TextError::Archive { file: file.to_owned(), files: archive.len() }.into());
                }
                let text = archive.by_index(0).map_err(|error| fail(error.into()))?;
                allowance.reader(text).read_to_end(&mut unfolded).map_err(fail)?
            }
            _ => {
                unfolded.extend_from_slice(bytes);
                unfolded.len()
            }
        };
        if unfolded.is_empty() {
            return Err(TextError::Empty { file: file.to_owned() }.into());
        }
        Ok(Self { file: file.to_owned(), bytes: unfolded })
    }

    /// It as characters.
    pub(super) fn characters(&self) -> Result<&str, TextError> {
        utf8(&self.bytes).map_err(|error| self.error(error, 0))
    }

    /// Its tokens.
    pub(super) fn tokens(&self, alphabet: &Alphabet) -> Result<Vec<u16>, TextError> {
        alphabet.encode(&self.bytes).map_err(|error| self.error(error, alphabet.len()))
    }

    fn error(&self, error: EncodeError, symbols: usize) -> TextError {
        let file = self.file.clone();
        let line = |offset: usize| 1 + self.bytes[..offset].iter().filter(|&&byte| byte == b'\n').count();
        match error {
            EncodeError::NotUtf8 { offset } => TextError::NotUtf8 { file, offset, line: line(offset) },
            EncodeError::Unknown { offset, character } => {
                TextError::Unknown { file, line: line(offset), character, symbols }
            }
        }
    }
}
