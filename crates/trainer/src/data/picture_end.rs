//! Where a picture ends, by its own structure. Its file may go on, for instance with the video that some phones append, and the
//! picture may contain a thumbnail that has an end of its own.

/// Bytes of the JPEG picture that a file begins with, or `None` if it is cut.
pub(super) fn of_jpeg(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    loop {
        // Between segments and in compressed pixels alike, the next marker is what begins with this byte.
        at += bytes.get(at..)?.iter().position(|&byte| byte == 0xff)? + 1;
        match *bytes.get(at)? {
            // Filling: the marker comes after it.
            0xff => {}
            // A pixel's byte, no marker at all, or a restart within the pixels.
            0x00..=0xbf | 0xd0..=0xd7 => at += 1,
            // Another picture begins before this one has ended.
            0xd8 => return None,
            0xd9 => return Some(at + 1),
            // A segment, which counts the two bytes of its length.
            _ => at += 1 + usize::from(u16::from_be_bytes(*bytes.get(at + 1..)?.first_chunk()?)),
        }
    }
}

/// The same of a PNG picture.
pub(super) fn of_png(bytes: &[u8]) -> Option<usize> {
    let mut at: usize = 8;
    loop {
        let chunk = bytes.get(at..)?;
        let length = u32::from_be_bytes(*chunk.first_chunk()?);
        // Length, name and checksum take four bytes each.
        at = at.checked_add(12)?.checked_add(length as usize)?;
        if chunk.get(4..8)? == b"IEND" {
            return (at <= bytes.len()).then_some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::picture::testing::{jpeg, png};
    use super::*;
    use jpeg_encoder::{ColorType, Encoder};

    /// Noise, so that bytes of 0xff and what follows them are among the pixels.
    fn noise(x: u16, y: u16) -> [u8; 3] {
        let bits = (u32::from(x) * 7919 + u32::from(y) * 104_729).wrapping_mul(2_654_435_761);
        [24, 16, 8].map(|shift| (bits >> shift) as u8)
    }

    fn jpegs() -> Vec<Vec<u8>> {
        let (width, height) = (70, 50);
        let pixels: Vec<u8> = (0..height).flat_map(|y| (0..width).flat_map(move |x| noise(x, y))).collect();
        let settings: [fn(&mut Encoder<&mut Vec<u8>>); 4] = [
            |_| {},
            |encoder| encoder.set_progressive(true),
            |encoder| encoder.set_restart_interval(2),
            // Ends of other pictures in the notes are none of this one.
            |encoder| {
                let thumbnail = [b"Exif\0\0".to_vec(), jpeg([9, 9], noise)].concat();
                encoder.add_app_segment(1, thumbnail).unwrap();
                encoder.add_app_segment(2, [0xff, 0xd9].repeat(300)).unwrap();
            },
        ];
        let encode = |set: fn(&mut Encoder<&mut Vec<u8>>)| {
            let mut file = Vec::new();
            let mut encoder = Encoder::new(&mut file, 90);
            set(&mut encoder);
            encoder.encode(&pixels, width, height, ColorType::Rgb).unwrap();
            file
        };
        settings.map(encode).into()
    }

    #[test]
    fn the_end_is_the_picture_s_own() {
        let mut film = b"\0\0\0\x18ftypmp42".to_vec();
        film.extend([0xff, 0xda, 0xff, 0xd8, 0xff, 0xe1, 0xff, 0xff, 0xff, 0xc0].repeat(50));
        for whole in jpegs() {
            assert!(whole.windows(2).any(|pair| pair == [0xff, 0]), "stuffed bytes are to be tried");
            for behind in [&[], &film[..], &whole, &[0xff; 9]] {
                assert_eq!(of_jpeg(&[&whole, behind].concat()), Some(whole.len()));
            }
            for cut in 2..whole.len() {
                assert_eq!(of_jpeg(&whole[..cut]), None, "{cut}");
            }
            // What breaks off does not go on with the next picture.
            assert_eq!(of_jpeg(&[&whole[..whole.len() - 40], &whole].concat()), None);
        }
        let whole = png([70, 50], noise);
        for behind in [&[], &film[..], &whole, &[0xff; 9]] {
            assert_eq!(of_png(&[&whole, behind].concat()), Some(whole.len()));
        }
        for cut in 8..whole.len() {
            assert_eq!(of_png(&whole[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn filling_and_lengths_that_cannot_be_do_no_harm() {
        let frame = [0xff, 0xd8, 0xff, 0xff, 0xff, 0xfe, 0, 4, 0xff, 0xd9, 0xff, 0xff, 0xd9];
        assert_eq!(of_jpeg(&frame), Some(frame.len()));
        assert_eq!(of_jpeg(&[0xff, 0xd8, 0xff, 0xe0, 0, 0, 0xff, 0xd9]), Some(8));
        assert_eq!(of_jpeg(&[0xff, 0xd8, 0xff, 0xe0, 0xff, 0xff, 0xff, 0xd9]), None);
        let mut endless = png([3, 3], noise);
        endless[8..12].fill(0xff);
        assert_eq!(of_png(&endless), None);
    }
}
