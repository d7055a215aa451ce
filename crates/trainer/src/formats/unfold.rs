//! A bound on what compressed input may unfold to.
//!
//! Deflate folds a thousand equal bytes into one, so that a file of a megabyte could fill any memory. What people store
//! folds less than 64 times, except for regular patterns of a moderate size: the ones of a mask and the indices of every
//! second column fold hundreds of times. Beyond that, a file is taken for an attack or an accident.

use std::io::{self, Read};

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

/// Bytes that one compressed byte may become.
pub const MAX_RATIO: u64 = 64;
/// Bytes allowed whatever the ratio: they fill no memory, and regular patterns fold far.
pub const FREE_BYTES: u64 = 64 << 20;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const XZ: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
/// Twice the dictionary of `xz -9`. A header could ask for 4 GiB.
const XZ_MEMORY_KIB: u32 = 128 << 10;

/// Compressed input unfolds to more than is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "its {folded} bytes expand to more than {limit}, the limit of {MAX_RATIO} times the size plus 64 MiB; if that is \
     intended, store it uncompressed"
)]
pub struct UnfoldsTooFar {
    /// Compressed bytes.
    pub folded: u64,
    /// Bytes that they may become.
    pub limit: u64,
}

/// What may still be unfolded from one compressed file, over all streams in it.
///
/// It is counted while decompressing: no size that the file claims matters.
///
/// ```
/// use std::io::Read;
/// use trainer::formats::unfold::Allowance;
/// let mut allowance = Allowance::new(3);
/// let mut text = String::new();
/// allowance.reader("what a decoder gives".as_bytes()).read_to_string(&mut text)?;
/// assert_eq!(text, "what a decoder gives");
/// // 3 · 64 bytes and 64 MiB are the limit; it is met long before this stream ends.
/// assert!(allowance.reader(std::io::repeat(0)).read_to_end(&mut Vec::new()).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Allowance {
    folded: u64,
    left: u64,
}

impl Allowance {
    /// The allowance of a file of `folded` bytes.
    pub fn new(folded: u64) -> Self {
        Self { folded, left: limit(folded) }
    }

    /// Reads from a decoder as far as the allowance goes.
    pub fn reader<R: Read>(&mut self, decoder: R) -> Unfolding<'_, R> {
        Unfolding { decoder, allowance: self }
    }
}

/// Whether the bytes of a file are compressed with gzip or xz, as their beginning tells.
pub fn is_folded(bytes: &[u8]) -> bool {
    bytes.starts_with(&GZIP) || bytes.starts_with(&XZ)
}

/// What the bytes of a file unfold to, compressed with gzip or xz as their beginning tells; themselves, if they are not.
pub fn unfold<'a>(from: &'a [u8], allowance: &'a mut Allowance) -> Box<dyn Read + 'a> {
    if from.starts_with(&GZIP) {
        Box::new(allowance.reader(MultiGzDecoder::new(from)))
    } else if from.starts_with(&XZ) {
        Box::new(allowance.reader(XzReader::new_mem_limit(from, true, XZ_MEMORY_KIB)))
    } else {
        Box::new(from)
    }
}

/// Bytes that `folded` compressed bytes may become.
pub fn limit(folded: u64) -> u64 {
    folded.saturating_mul(MAX_RATIO).saturating_add(FREE_BYTES)
}

/// A decoder whose output counts against an [`Allowance`]. One byte more than that is an [`io::Error`] of kind
/// `InvalidData` around [`UnfoldsTooFar`].
#[derive(Debug)]
pub struct Unfolding<'a, R> {
    decoder: R,
    allowance: &'a mut Allowance,
}

impl<R: Read> Read for Unfolding<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let left = usize::try_from(self.allowance.left).unwrap_or(usize::MAX);
        if left == 0 {
            // Only the end of the stream is still welcome.
            return match self.decoder.read(&mut [0])? {
                0 => Ok(0),
                _ => {
                    let folded = self.allowance.folded;
                    let error = UnfoldsTooFar { folded, limit: limit(folded) };
                    Err(io::Error::new(io::ErrorKind::InvalidData, error))
                }
            };
        }
        let length = buffer.len().min(left);
        let read = match buffer.get_mut(..length) {
            Some(part) => self.decoder.read(part)?,
            None => 0,
        };
        self.allowance.left = self.allowance.left.saturating_sub(read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::read::GzDecoder;
    use flate2::write::GzEncoder;
    use std::io::Write;

    #[test]
    fn all_that_is_allowed_is_read_and_no_byte_more() {
        let allowed = limit(10);
        assert_eq!(allowed, 640 + (64 << 20));
        let exact = vec![7; allowed as usize];
        let mut read = Vec::new();
        Allowance::new(10).reader(exact.as_slice()).read_to_end(&mut read).unwrap();
        assert_eq!(read, exact);

        let error = Allowance::new(10).reader(io::repeat(7)).read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let message = error.to_string();
        assert!(message.starts_with("its 10 bytes expand to more than 67109504, the limit of 64 times"), "{message}");
        assert_eq!(limit(u64::MAX), u64::MAX);
    }

    /// Many small streams are as bad as a large one.
    #[test]
    fn the_streams_of_a_file_share_its_allowance() {
        let mut allowance = Allowance::new(0);
        let half = vec![0; 32 << 20];
        for _ in 0..2 {
            allowance.reader(half.as_slice()).read_to_end(&mut Vec::new()).unwrap();
        }
        assert!(allowance.reader([].as_slice()).read_to_end(&mut Vec::new()).is_ok());
        assert!(allowance.reader([0].as_slice()).read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn a_bomb_is_stopped_while_it_unfolds() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        for _ in 0..80 {
            encoder.write_all(&[0; 1 << 20]).unwrap();
        }
        let bomb = encoder.finish().unwrap();
        let folded = bomb.len() as u64;
        let mut unfolded = Vec::new();
        let error = Allowance::new(folded).reader(GzDecoder::new(bomb.as_slice())).read_to_end(&mut unfolded);
        assert!(error.unwrap_err().get_ref().unwrap().is::<UnfoldsTooFar>());
        assert!(unfolded.len() as u64 <= limit(folded) && limit(folded) < 80 << 20);
    }
}
