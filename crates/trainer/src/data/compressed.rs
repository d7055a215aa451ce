//! Files as they are, or compressed with gzip or xz: their first bytes tell.
//!
//! What compressed data unfolds to is bounded ([`crate::formats::unfold`]), and so is the memory of the decoder.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::DataError;
use crate::formats::foreign::recognize;
use crate::formats::unfold::is_folded;
pub use crate::formats::unfold::unfold;

/// What a file's name may end in, beside itself.
pub const ENDINGS: [&str; 3] = ["", ".gz", ".xz"];

/// The file's bytes, as they are.
///
/// # Errors
/// [`DataError::Io`] naming the file.
pub fn read(file: &Path) -> Result<Vec<u8>, DataError> {
    fs::read(file).map_err(|source| DataError::Io { file: file.to_owned(), source })
}

/// Refuses what is known to be another kind of file, gzip and xz aside.
///
/// # Errors
/// [`DataError::Foreign`] naming the file and the kind.
pub fn check_kind(file: &Path, from: &[u8]) -> Result<(), DataError> {
    match recognize(from) {
        Some(what) if !is_folded(from) => Err(DataError::Foreign { file: file.to_owned(), what }),
        _ => Ok(()),
    }
}

/// Appends the next bytes of `from`, `limit` at most. Whether it could be read so far: a compressed stream may break
/// off, which for the reader of a message is a short file like another.
///
/// # Errors
/// [`DataError::Io`] naming the file.
pub fn append(file: &Path, from: &mut dyn Read, limit: u64, to: &mut Vec<u8>) -> Result<bool, DataError> {
    match from.take(limit).read_to_end(to) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(source) => Err(DataError::Io { file: file.to_owned(), source }),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::formats::unfold::Allowance;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use lzma_rust2::{XzOptions, XzWriter};
    use std::io::Write;

    /// `bytes`, as they are or compressed as the ending says.
    pub(crate) fn folded(bytes: &[u8], ending: &str) -> Vec<u8> {
        match ending {
            ".gz" => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            ".xz" => {
                let mut encoder = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            _ => bytes.to_vec(),
        }
    }

    #[test]
    fn what_is_folded_unfolds() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| (i * i / 32) as u8).collect();
        for ending in ENDINGS {
            let folded = folded(&bytes, ending);
            assert_eq!(folded == bytes, ending.is_empty());
            let mut allowance = Allowance::new(folded.len() as u64);
            let mut unfolded = Vec::new();
            unfold(&folded, &mut allowance).read_to_end(&mut unfolded).unwrap();
            assert!(unfolded == bytes, "{ending}");
            // Half a stream gives a part and says that it broke off.
            let mut allowance = Allowance::new(folded.len() as u64);
            let mut part = Vec::new();
            let half = &folded[..folded.len() / 2];
            let whole = append(Path::new("a"), &mut unfold(half, &mut allowance), u64::MAX, &mut part).unwrap();
            assert!(whole == ending.is_empty() && bytes.starts_with(&part) && part.len() < bytes.len(), "{ending}");
        }
    }

    /// The dictionary's size stands in the header of a block: the last but four bytes before its checksum.
    #[test]
    fn a_huge_dictionary_is_refused_before_it_is_there() {
        let mut folded = folded(&[7; 100], ".xz");
        // Block header at 12: size, flags, filter id 0x21, size of properties 1, dictionary 40 (4 GiB).
        assert_eq!(folded[14..16], [0x21, 1]);
        folded[16] = 40;
        let length = (usize::from(folded[12]) + 1) * 4;
        let mut crc = flate2::Crc::new();
        crc.update(&folded[12..12 + length - 4]);
        folded[12 + length - 4..12 + length].copy_from_slice(&crc.sum().to_le_bytes());
        let mut allowance = Allowance::new(folded.len() as u64);
        let error = unfold(&folded, &mut allowance).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::OutOfMemory, "{error}");
    }
}
