//! The IDX format of the MNIST family: big-endian header, then bytes.
//!
//! ```text
//! 0x0000 | 0x08 (u8) | number of dimensions | one u32 a dimension | data, last dimension innermost
//! ```
//!
//! Files may be compressed with gzip or xz. Memory grows with the data that is really there, never with what a header
//! claims, and compressed data may not unfold without limit ([`crate::formats::unfold`]).

use std::io::Read;
use std::path::Path;

use super::{DataError, compressed};
use crate::formats::unfold::Allowance;

/// Grey images of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// `[image][row][pixel]`.
    pub pixels: Vec<u8>,
}

impl Images {
    /// Number of images.
    pub fn count(&self) -> usize {
        self.pixels.len() / (self.height * self.width)
    }

    /// Swaps rows and columns of each image.
    pub fn transpose(&mut self) {
        let Self { height, width, pixels } = self;
        for image in pixels.chunks_exact_mut(*height * *width) {
            let from = image.to_vec();
            for (at, to) in image.iter_mut().enumerate() {
                *to = from[at % *height * *width + at / *height];
            }
        }
        std::mem::swap(height, width);
    }
}

/// Reads an image file: bytes in three dimensions.
///
/// # Errors
/// [`DataError`] naming the file if it cannot be read, or is not exactly one IDX array of that kind.
pub fn read_images(file: &Path) -> Result<Images, DataError> {
    parse_images(file, &compressed::read(file)?)
}

/// Reads a label file: bytes in one dimension, the numbers of `classes` classes from `first` on. They are numbered from 0
/// afterwards.
///
/// # Errors
/// [`DataError`] naming the file if it cannot be read, is not exactly one IDX array of that kind, or has a label that
/// is no class.
pub fn read_labels(file: &Path, first: u8, classes: usize) -> Result<Vec<u8>, DataError> {
    parse_labels(file, &compressed::read(file)?, first, classes)
}

/// Images from a file's bytes; `file` is the name for messages.
///
/// # Errors
/// As [`read_images`].
pub fn parse_images(file: &Path, from: &[u8]) -> Result<Images, DataError> {
    let ([_, height, width], pixels) = parse::<3>(file, "images", from)?;
    Ok(Images { height, width, pixels })
}

/// Labels from a file's bytes; `file` is the name for messages.
///
/// # Errors
/// As [`read_labels`].
pub fn parse_labels(file: &Path, from: &[u8], first: u8, classes: usize) -> Result<Vec<u8>, DataError> {
    let (_, mut labels) = parse::<1>(file, "labels", from)?;
    let is_class = |label: u8| label.checked_sub(first).is_some_and(|number| usize::from(number) < classes);
    if let Some(index) = labels.iter().position(|&label| !is_class(label)) {
        return Err(DataError::Label { file: file.to_owned(), index, got: labels[index], first, classes });
    }
    labels.iter_mut().for_each(|label| *label -= first);
    Ok(labels)
}

fn parse<const DIMS: usize>(
    file: &Path,
    what: &'static str,
    from: &[u8],
) -> Result<([usize; DIMS], Vec<u8>), DataError> {
    compressed::check_kind(file, from)?;
    let mut allowance = Allowance::new(from.len() as u64);
    let mut unfolded = compressed::unfold(from, &mut allowance);
    parse_plain(file, what, &mut unfolded)
}

fn parse_plain<const DIMS: usize>(
    file: &Path,
    what: &'static str,
    from: &mut dyn Read,
) -> Result<([usize; DIMS], Vec<u8>), DataError> {
    let mut read = |limit: u64, to: &mut Vec<u8>| compressed::append(file, from, limit, to);
    let header_bytes = 4 + 4 * DIMS as u64;
    let mut header = Vec::new();
    read(header_bytes, &mut header)?;
    let mut words = header.chunks_exact(4).map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]));

    let expected = 0x0800 | DIMS as u32;
    match words.next() {
        Some(got) if got != expected => return Err(DataError::Magic { file: file.to_owned(), what, got, expected }),
        _ if (header.len() as u64) < header_bytes => {
            return Err(DataError::Truncated {
                file: file.to_owned(),
                at: header.len() as u64,
                expected: header_bytes,
            });
        }
        _ => {}
    }
    let got: Vec<u32> = words.collect();
    let total = got.iter().try_fold(1u64, |product, &dimension| product.checked_mul(u64::from(dimension)));
    let total = match total.filter(|&total| total > 0 && total < isize::MAX as u64 - header_bytes) {
        Some(total) => total,
        None => return Err(DataError::Dimensions { file: file.to_owned(), got }),
    };

    let mut data = Vec::new();
    read(total, &mut data)?;
    let expected = header_bytes + total;
    if (data.len() as u64) < total {
        return Err(DataError::Truncated { file: file.to_owned(), at: header_bytes + data.len() as u64, expected });
    }
    let mut rest = Vec::new();
    read(1, &mut rest)?;
    if !rest.is_empty() {
        return Err(DataError::Trailing { file: file.to_owned(), expected });
    }
    Ok((std::array::from_fn(|dimension| got[dimension] as usize), data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write;

    fn idx(dimensions: &[u32], data: &[u8]) -> Vec<u8> {
        let magic = 0x0800 | dimensions.len() as u32;
        let header = std::iter::once(&magic).chain(dimensions).flat_map(|word| word.to_be_bytes());
        header.chain(data.iter().copied()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn images(bytes: &[u8]) -> Result<Images, DataError> {
        parse_images(Path::new("pictures"), bytes)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(n in 1u32..9, h in 1u32..5, w in 1u32..5, seed: u8, compressed: bool) {
            let pixels: Vec<u8> = (0..n * h * w).map(|i| (i as u8).wrapping_mul(7).wrapping_add(seed)).collect();
            let mut bytes = idx(&[n, h, w], &pixels);
            if compressed {
                bytes = gzip(&bytes);
            }
            let read = images(&bytes).unwrap();
            prop_assert_eq!(read.count(), n as usize);
            prop_assert_eq!(read, Images { height: h as usize, width: w as usize, pixels });
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, header: bool, compressed: bool) {
            let mut bytes = bytes;
            if header {
                bytes.splice(0..0, [0, 0, 8, 3]);
            }
            if compressed {
                bytes = gzip(&bytes);
            }
            let _ = images(&bytes);
            let _ = parse_labels(Path::new("labels"), &bytes, 0, 10);
        }

        #[test]
        fn every_cut_is_found(cut in 0usize..40, compressed: bool) {
            let whole = idx(&[2, 3, 4], &[5; 24]);
            prop_assert_eq!(whole.len(), 40);
            let bytes = if compressed { gzip(&whole[..cut]) } else { whole[..cut].to_vec() };
            let error = images(&bytes).unwrap_err();
            let expected = if cut < 16 { 16 } else { 40 };
            prop_assert!(
                matches!(error, DataError::Truncated { at, expected: e, .. } if at == cut as u64 && e == expected),
                "{error}"
            );
        }
    }

    #[test]
    fn messages_say_what_is_wrong() {
        let message = |bytes: &[u8]| images(bytes).unwrap_err().to_string();
        let whole = idx(&[1, 2, 2], &[1; 4]);
        assert_eq!(message(&whole[..18]), "pictures: ends at byte 18 of 20 (decompressed)");
        assert_eq!(
            message(&idx(&[1], &[1])),
            "pictures: starts with 0x00000801; images in the IDX format start with 0x00000803"
        );
        let page = "pictures: is an HTML page; it must be a file of the data set, plain or compressed with gzip or xz";
        assert_eq!(message(b"<!DOCTYPE html>\n<html>"), page);
        assert!(message(b"PK\x03\x04").starts_with("pictures: is a zip archive"));
        assert!(message(&idx(&[1, 2, 2], &[1; 5])).contains("continues after the 20 bytes"));
        assert!(message(&idx(&[0, 2, 2], &[])).contains("the header says [0, 2, 2]"));
        assert!(message(&idx(&[u32::MAX; 3], &[1; 4])).contains("every dimension must be at least 1"));
        // Compressed without an ending that says so.
        assert_eq!(images(&gzip(&whole)).unwrap().count(), 1);
        let labels = parse_labels(Path::new("labels"), &idx(&[3], &[0, 10, 1]), 0, 10).unwrap_err();
        assert_eq!(labels.to_string(), "labels: label 1 is 10; it must be 0 to 9");
        assert!(read_images(Path::new("no/such/file")).unwrap_err().to_string().starts_with("no/such/file: "));
    }

    #[test]
    fn a_broken_gzip_stream_is_an_error() {
        let whole = gzip(&idx(&[1, 16, 16], &(0..=255).collect::<Vec<u8>>()));
        let cut = images(&whole[..whole.len() - 20]).unwrap_err();
        assert!(matches!(cut, DataError::Truncated { expected: 272, .. }), "{cut}");
        let mut flipped = whole.clone();
        let checksum = flipped.len() - 6;
        flipped[checksum] ^= 1;
        assert!(matches!(images(&flipped).unwrap_err(), DataError::Io { .. }));
    }

    /// Zeros fold a thousand times.
    #[test]
    fn a_file_that_unfolds_without_limit_is_refused() {
        let error = images(&gzip(&idx(&[1280, 256, 256], &vec![0; 80 << 20]))).unwrap_err().to_string();
        assert!(error.starts_with("pictures: its ") && error.contains("64 times"), "{error}");
    }

    /// A header that promises 2^60 bytes costs nothing: the buffer follows the data.
    #[test]
    fn a_hostile_header_allocates_nothing() {
        let error = images(&idx(&[1 << 20; 3], &[1; 100])).unwrap_err();
        assert!(matches!(error, DataError::Truncated { at: 116, .. }), "{error}");
    }
}
