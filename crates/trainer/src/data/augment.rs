//! Random changes of training images. What is drawn is a function of a key alone, which the loader makes of seed,
//! epoch and sample.

use sparse_kernels::random::Key;

use crate::choice::choices;

choices! {
    /// How training images are changed at random.
    Augment {
        /// No change.
        None,
        /// Pad by 4 reflected pixels, crop to the original size, flip horizontally at random.
        CropFlip,
        /// Crop a part of random size and aspect ratio, resize it, flip horizontally at random: for image folders.
        RandomResizedCropFlip,
    }
}

/// Pixels by which a picture is padded on each side before a crop of its old size is taken.
pub const PAD: usize = 4;

/// Where a picture is cropped, and whether it is flipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CropFlip {
    /// Top of the crop in the padded picture, in `0..=2 · PAD`.
    pub top: usize,
    /// Left side of the crop, likewise.
    pub left: usize,
    /// Whether rows are turned round.
    pub flip: bool,
}

impl CropFlip {
    /// All crops with equal chance, and half of them flipped.
    pub fn draw(key: Key) -> Self {
        let places = 2 * PAD as u64 + 1;
        Self { top: key.below(0, places) as usize, left: key.below(1, places) as usize, flip: key.bits(2) & 1 == 1 }
    }

    /// Writes the crop of `from`, padded by reflection that does not repeat the edge (`…cb|abc|ba…`, as NumPy's and
    /// TensorFlow's `reflect`); both are `[channel][row][pixel]`.
    ///
    /// # Panics
    /// Unless height and width are above [`PAD`] and both slices hold `shape`.
    pub fn apply(self, shape: [usize; 3], from: &[u8], to: &mut [u8]) {
        let [_, height, width] = shape;
        let (planes, crops) = (from.chunks_exact(height * width), to.chunks_exact_mut(height * width));
        // Pixels of the crop before the first whole column of the picture, and after the last.
        let (before, after) = (PAD.saturating_sub(self.left), self.left.saturating_sub(PAD));
        let inner = before..width - after;
        for (plane, crop) in planes.zip(crops) {
            for (y, to) in crop.chunks_exact_mut(width).enumerate() {
                let from = &plane[reflect(y + self.top, height) * width..][..width];
                to[inner.clone()].copy_from_slice(&from[after..width - before]);
                for x in (0..before).chain(inner.end..width) {
                    to[x] = from[reflect(x + self.left, width)];
                }
                if self.flip {
                    to.reverse();
                }
            }
        }
    }
}

/// The pixel of a line of `size` that stands at `place` of the padded line.
fn reflect(place: usize, size: usize) -> usize {
    let from_start = place.abs_diff(PAD);
    if place > PAD && from_start >= size { 2 * (size - 1) - from_start } else { from_start }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// NumPy: `np.pad(np.arange(6), 4, "reflect")`.
    #[test]
    fn reflection_does_not_repeat_the_edge() {
        let padded: Vec<usize> = (0..14).map(|place| reflect(place, 6)).collect();
        assert_eq!(padded, [4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 4, 3, 2, 1]);
        assert_eq!((0..13).map(|place| reflect(place, 5)).max(), Some(4));
    }

    proptest! {
        /// Pixel by pixel, by the definition.
        #[test]
        fn a_picture_is_a_crop_of_the_padded_one(
            channels in 1usize..4, height in 5usize..12, width in 5usize..12, seed: u64,
        ) {
            let shape = [channels, height, width];
            let from: Vec<u8> = (0..channels * height * width).map(|i| (i * 37 % 251) as u8).collect();
            let drawn = CropFlip::draw(Key::new(seed));
            prop_assert!(drawn.top <= 8 && drawn.left <= 8);
            let mut to = vec![255; from.len()];
            drawn.apply(shape, &from, &mut to);
            for (place, &got) in to.iter().enumerate() {
                let (channel, y, x) = (place / (height * width), place / width % height, place % width);
                let x = if drawn.flip { width - 1 - x } else { x };
                let mirrored = |at: usize, size: usize| {
                    let at = (at as isize - PAD as isize).abs();
                    at.min(2 * (size as isize - 1) - at) as usize
                };
                let (y, x) = (mirrored(y + drawn.top, height), mirrored(x + drawn.left, width));
                prop_assert_eq!(got, from[(channel * height + y) * width + x]);
            }
        }
    }

    #[test]
    fn every_crop_comes_and_half_are_flipped() {
        let drawn: Vec<CropFlip> = (0..4000).map(|sample| CropFlip::draw(Key::new(5).with(sample))).collect();
        let places: BTreeSet<_> = drawn.iter().map(|crop| (crop.top, crop.left)).collect();
        assert_eq!(places.len(), 81);
        let flipped = drawn.iter().filter(|crop| crop.flip).count();
        assert!((1850..2150).contains(&flipped), "{flipped}");
    }
}
