//! The binary format of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of labels and pixels, without a header.
//!
//! ```text
//! CIFAR-10   label | 3 × 32 × 32 pixels                one u8 each, pixels [channel][row][pixel]
//! CIFAR-100  superclass | class | 3 × 32 × 32 pixels   the superclass is not used
//! ```

use std::path::Path;

use super::{DataError, compressed};
use crate::formats::unfold::Allowance;

/// Channels, height and width of every picture.
pub const SHAPE: [usize; 3] = [3, 32, 32];
const PIXELS: usize = SHAPE[0] * SHAPE[1] * SHAPE[2];

/// What the records of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Records {
    /// Number of classes; every label is below it.
    pub classes: usize,
    /// Bytes before the pixels; the last of them is the label.
    pub label_bytes: usize,
    /// Records in the official file. There may be fewer, for subsets, but not more.
    pub most: usize,
}

impl Records {
    /// Bytes of a record.
    pub fn size_bytes(&self) -> usize {
        self.label_bytes + PIXELS
    }

    /// Reads a file and appends its pictures and labels; returns how many they are.
    ///
    /// # Errors
    /// [`DataError`] naming the file, and the record that is incomplete or has a label that is no class.
    pub fn read(&self, file: &Path, images: &mut Vec<u8>, labels: &mut Vec<u32>) -> Result<usize, DataError> {
        self.parse(file, &compressed::read(file)?, images, labels)
    }

    /// As [`Records::read`] of a file's bytes; `file` is the name for messages.
    ///
    /// # Errors
    /// As [`Records::read`].
    pub fn parse(
        &self,
        file: &Path,
        from: &[u8],
        images: &mut Vec<u8>,
        labels: &mut Vec<u32>,
    ) -> Result<usize, DataError> {
        compressed::check_kind(file, from)?;
        let mut allowance = Allowance::new(from.len() as u64);
        let mut reader = compressed::unfold(from, &mut allowance);
        let mut record_bytes = Vec::with_capacity(self.size_bytes());
        for record in 0.. {
            record_bytes.clear();
            let whole = compressed::append(file, &mut reader, self.size_bytes() as u64, &mut record_bytes)?;
            let found = record_bytes.len();
            if found == 0 && whole && record > 0 {
                return Ok(record);
            }
            if found > 0 && record == self.most {
                return Err(DataError::Records { file: file.to_owned(), most: self.most });
            }
            if found < self.size_bytes() {
                let expected = self.size_bytes();
                return Err(DataError::Record { file: file.to_owned(), record, found, expected });
            }
            let (head, pixels) = record_bytes.split_at(self.label_bytes);
            let label = head.last().copied().unwrap_or_default();
            if usize::from(label) >= self.classes {
                let (index, got, classes) = (record, label, self.classes);
                return Err(DataError::Label { file: file.to_owned(), index, got, first: 0, classes });
            }
            labels.push(label.into());
            images.extend_from_slice(pixels);
        }
        unreachable!("a file ends before numbers do")
    }
}

#[cfg(test)]
mod tests {
    use super::super::compressed::tests::folded;
    use super::*;
    use proptest::prelude::*;

    const TEN: Records = Records { classes: 10, label_bytes: 1, most: 5 };
    const HUNDRED: Records = Records { classes: 100, label_bytes: 2, most: 5 };

    fn parse(records: Records, bytes: &[u8]) -> Result<(Vec<u8>, Vec<u32>), DataError> {
        let (mut images, mut labels) = (Vec::new(), Vec::new());
        let count = records.parse(Path::new("batch"), bytes, &mut images, &mut labels)?;
        assert_eq!(count, labels.len());
        Ok((images, labels))
    }

    /// Records with these labels, and pixels that tell the record.
    fn file(records: Records, labels: &[u8]) -> Vec<u8> {
        let record = |(index, &label): (usize, &u8)| {
            let mut bytes = vec![19; records.label_bytes - 1];
            bytes.push(label);
            bytes.extend((0..PIXELS).map(|pixel| (pixel * 7 + index * 31) as u8));
            bytes
        };
        labels.iter().enumerate().flat_map(record).collect()
    }

    #[test]
    fn labels_and_pixels_are_taken_apart() {
        for (records, of) in [(TEN, [3, 0, 9]), (HUNDRED, [42, 99, 0])] {
            for ending in compressed::ENDINGS {
                let (images, labels) = parse(records, &folded(&file(records, &of), ending)).unwrap();
                assert_eq!(labels, of.map(u32::from));
                assert_eq!(images.len(), 3 * PIXELS);
                assert_eq!(images[2 * PIXELS + 5], (5 * 7 + 2 * 31) as u8);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_record() {
        let whole = file(TEN, &[1; 5]);
        let message = |records, bytes: &[u8]| parse(records, bytes).unwrap_err().to_string();
        assert_eq!(message(TEN, &whole[..3073 + 100]), "batch: record 1 ends after 100 of 3073 bytes (decompressed)");
        assert_eq!(message(TEN, &[]), "batch: record 0 ends after 0 of 3073 bytes (decompressed)");
        let more = [whole.as_slice(), &[1]].concat();
        assert_eq!(message(TEN, &more), "batch: has more than 5 records");
        assert_eq!(message(TEN, &file(TEN, &[1, 10])), "batch: label 1 is 10; it must be 0 to 9");
        assert_eq!(message(HUNDRED, &file(HUNDRED, &[100])), "batch: label 0 is 100; it must be 0 to 99");
        // A stream that breaks off does so even where a record ends.
        for ending in [".gz", ".xz"] {
            let folded = folded(&whole, ending);
            let error = parse(TEN, &folded[..folded.len() / 2]).unwrap_err();
            assert!(matches!(error, DataError::Record { expected: 3073, .. }), "{ending}: {error}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes: Vec<u8>, records in 0usize..3, ending in 0usize..3) {
            bytes.splice(0..0, file(TEN, &[1; 2][..records.min(2)]));
            let _ = parse(TEN, &folded(&bytes, compressed::ENDINGS[ending]));
            let _ = parse(TEN, &bytes);
        }
    }
}
