//! Pictures in files of any size, decoded, cut and resized.
//!
//! Files are decoded by `zune-jpeg` and `png`, whichever their first bytes ask for, within a bound on memory; resized by
//! `fast_image_resize`, bilinear with the support widened when shrinking (as Pillow's `BILINEAR`), from a part of the picture to
//! the input's size in one step. All are widely used and maintained, and resizing takes little beside decoding.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::{fs, io};

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use sparse_kernels::random::Key;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::picture_end;

/// Why a picture cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is a link, and what it leads to cannot be read.
    #[error("links to {}: {source}", target.display())]
    Link {
        /// Where it leads.
        target: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// It is neither JPEG nor PNG.
    #[error("neither a JPEG nor a PNG file")]
    Format,
    /// It is no JPEG that can be decoded.
    #[error(transparent)]
    Jpeg(#[from] DecodeErrors),
    /// It is no PNG that can be decoded.
    #[error(transparent)]
    Png(#[from] png::DecodingError),
    /// It claims more pixels than a picture may have.
    #[error("the picture is larger than {} MiB", LARGEST_BYTES >> 20)]
    TooLarge,
    /// It breaks off.
    #[error("the {0} data is truncated")]
    Truncated(&'static str),
    /// The decoder panicked.
    #[error("the decoder failed")]
    Decoder,
}

/// The part of a picture that becomes the input, in its pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cut {
    /// Left edge.
    pub left: f64,
    /// Upper edge.
    pub top: f64,
    /// Pixels in a row.
    pub width: f64,
    /// Rows.
    pub height: f64,
    /// Whether rows are turned round.
    pub flip: bool,
}

/// Share of the picture's area that a random cut has.
const AREA: [f64; 2] = [0.08, 1.0];
/// Its width over its height.
const ASPECT: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// Random cuts that are tried before one in the middle is taken.
const TRIES: u64 = 10;

impl Cut {
    /// The middle of the picture `[height, width]` after its shorter side was resized to `round(size · 256 / 224)`: what
    /// torchvision's `Resize` and `CenterCrop` leave.
    pub fn middle([height, width]: [usize; 2], size: usize) -> Self {
        let short = height.min(width) as f64;
        let resized = (size as f64 * 256.0 / 224.0).round();
        let side = |side: usize| {
            let long = (resized * side as f64 / short).floor();
            let scale = side as f64 / long;
            (((long - size as f64) / 2.0).round_ties_even() * scale, size as f64 * scale)
        };
        let ((left, width), (top, height)) = (side(width), side(height));
        Self { left, top, width, height, flip: false }
    }

    /// The whole picture `[height, width]`.
    pub fn whole([height, width]: [usize; 2]) -> Self {
        Self { left: 0.0, top: 0.0, width: width as f64, height: height as f64, flip: false }
    }

    /// A random part, flipped or not: area and aspect are uniform in `AREA` and, by the logarithm, in `ASPECT`, as in
    /// torchvision's `RandomResizedCrop`. If ten of them do not fit into the picture, the largest part in its middle that
    /// has a possible aspect.
    pub fn random(key: Key, [height, width]: [usize; 2]) -> Self {
        let flip = key.bits(4 * TRIES) & 1 == 1;
        let between = |index: u64, [from, to]: [f64; 2]| from + (to - from) * f64::from(key.uniform(index));
        for index in (0..4 * TRIES).step_by(4) {
            let area = (height * width) as f64 * between(index, AREA);
            let aspect = between(index + 1, ASPECT.map(f64::ln)).exp();
            let cut = [(area / aspect).sqrt(), (area * aspect).sqrt()].map(|side| side.round() as usize);
            if (1..=height).contains(&cut[0]) && (1..=width).contains(&cut[1]) {
                let top = key.below(index + 2, (height - cut[0] + 1) as u64) as f64;
                let left = key.below(index + 3, (width - cut[1] + 1) as u64) as f64;
                return Self { left, top, width: cut[1] as f64, height: cut[0] as f64, flip };
            }
        }
        let aspect = (width as f64 / height as f64).clamp(ASPECT[0], ASPECT[1]);
        let cut_height = ((width as f64 / aspect).round() as usize).clamp(1, height);
        let cut_width = ((height as f64 * aspect).round() as usize).clamp(1, width);
        let (top, left) = (((height - cut_height) / 2) as f64, ((width - cut_width) / 2) as f64);
        Self { left, top, width: cut_width as f64, height: cut_height as f64, flip }
    }
}

/// Reads pictures as inputs of `[3, size, size]`. Its buffers are used again.
#[derive(Debug)]
pub struct PictureReader {
    size: usize,
    resizer: Resizer,
    /// `[row][pixel][channel]`.
    resized: Vec<u8>,
}

impl PictureReader {
    /// For inputs of `size` pixels each way.
    pub fn new(size: usize) -> Self {
        Self { size, resizer: Resizer::new(), resized: vec![0; 3 * size * size] }
    }

    /// Writes the part of the picture in `file` that `cut` makes of its height and width to `to`,
    /// `[channel][row][pixel]`. Grey becomes RGB, transparency is left out.
    ///
    /// # Errors
    /// [`PictureError`].
    ///
    /// # Panics
    /// Unless `to` holds `3 · size · size` bytes.
    pub fn read(
        &mut self,
        file: &Path,
        cut: impl FnOnce([usize; 2]) -> Cut,
        to: &mut [u8],
    ) -> Result<(), PictureError> {
        let ([height, width], picture) = decode(&read_file(file)?)?;
        let Cut { left, top, width: cut_width, height: cut_height, flip } = cut([height as usize, width as usize]);
        let sizes = "a decoded picture has as many bytes as its size says";
        // One type of pixels: code for all of them would be most of this program.
        let from = TypedImageRef::<U8x3>::from_buffer(width, height, &picture).expect(sizes);
        let side = self.size as u32;
        let mut resized = TypedImage::<U8x3>::from_buffer(side, side, &mut self.resized).expect(sizes);
        // A rounding error must not make the part larger than the whole.
        let (left, top) = (left.clamp(0.0, f64::from(width)), top.clamp(0.0, f64::from(height)));
        let options = ResizeOptions::new()
            .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
            .crop(left, top, cut_width.min(f64::from(width) - left), cut_height.min(f64::from(height) - top))
            .use_alpha(false);
        self.resizer.resize_typed(&from, &mut resized, &options).expect("the part lies in the picture");
        for (channel, plane) in to.chunks_exact_mut(self.size * self.size).enumerate() {
            for (to, row) in plane.chunks_exact_mut(self.size).zip(self.resized.chunks_exact(3 * self.size)) {
                to.iter_mut().zip(row.chunks_exact(3)).for_each(|(to, pixel)| *to = pixel[channel]);
                if flip {
                    to.reverse();
                }
            }
        }
        Ok(())
    }
}

fn read_file(file: &Path) -> Result<Vec<u8>, PictureError> {
    fs::read(file).map_err(|source| match fs::read_link(file) {
        Ok(target) => PictureError::Link { target, source },
        Err(_) => source.into(),
    })
}

/// Bytes that a picture may unfold to: 89 million pixels in colour.
const LARGEST_BYTES: u64 = 256 << 20;

/// Height and width, and the pixels in RGB.
type Decoded = ([u32; 2], Vec<u8>);

fn decode(bytes: &[u8]) -> Result<Decoded, PictureError> {
    type Decode = fn(&[u8]) -> Result<Decoded, PictureError>;
    let (format, end, decode): (_, _, Decode) = match bytes {
        [0xff, 0xd8, 0xff, ..] => ("JPEG", picture_end::of_jpeg(bytes), decode_jpeg),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => ("PNG", picture_end::of_png(bytes), decode_png),
        _ => return Err(PictureError::Format),
    };
    // The decoder of JPEG fills with grey what a file lacks, and neither is to read on in what stands behind a picture.
    let bytes = &bytes[..end.ok_or(PictureError::Truncated(format))?];
    // The decoders are not proof against every file; one that panics is as bad a file as another.
    catch_unwind(AssertUnwindSafe(|| decode(bytes))).map_err(|_| PictureError::Decoder)?
}

fn decode_jpeg(bytes: &[u8]) -> Result<Decoded, PictureError> {
    let options = DecoderOptions::default().set_strict_mode(false).set_max_width(usize::MAX).set_max_height(usize::MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers()?;
    let (width, height) = decoder.dimensions().expect("the headers were decoded");
    let is_grey = decoder.input_colorspace() == Some(ColorSpace::Luma);
    if (width * height) as u64 * if is_grey { 1 } else { 3 } > LARGEST_BYTES {
        return Err(PictureError::TooLarge);
    }
    let options = options.jpeg_set_out_colorspace(if is_grey { ColorSpace::Luma } else { ColorSpace::RGB });
    let pixels = JpegDecoder::new_with_options(ZCursor::new(bytes), options).decode()?;
    let pixels = if is_grey { pixels.into_iter().flat_map(|grey| [grey; 3]).collect() } else { pixels };
    Ok(([height as u32, width as u32], pixels))
}

fn decode_png(bytes: &[u8]) -> Result<Decoded, PictureError> {
    let limits = png::Limits { bytes: LARGEST_BYTES as usize };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info()?;
    let size = reader.output_buffer_size().filter(|&size| size as u64 <= LARGEST_BYTES);
    let mut pixels = vec![0; size.ok_or(PictureError::TooLarge)?];
    reader.next_frame(&mut pixels)?;
    let (color, depth) = reader.output_color_type();
    if depth == png::BitDepth::Sixteen {
        let whole = |c: &[u8]| ((u32::from(u16::from_be_bytes([c[0], c[1]])) + 128) / 257) as u8;
        pixels = pixels.chunks_exact(2).map(whole).collect();
    }
    let (samples, used) = (color.samples(), if color.samples() < 3 { 1 } else { 3 });
    if samples != 3 {
        let rgb = |pixel: &[u8]| -> [u8; 3] { std::array::from_fn(|channel| pixel[channel % used]) };
        pixels = pixels.chunks_exact(samples).flat_map(rgb).collect();
    }
    let png::Info { width, height, .. } = *reader.info();
    Ok(([height, width], pixels))
}

/// Files of pictures.
#[cfg(test)]
pub(super) mod testing {
    use jpeg_encoder::Encoder;

    /// A PNG file: `C` bytes a pixel, of its column and row.
    pub fn png<const C: usize>([width, height]: [u16; 2], pixel: impl Fn(u16, u16) -> [u8; C]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, width.into(), height.into());
        encoder.set_color(match C {
            1 => png::ColorType::Grayscale,
            3 => png::ColorType::Rgb,
            _ => png::ColorType::Rgba,
        });
        encoder.write_header().unwrap().write_image_data(&bytes([width, height], pixel)).unwrap();
        file
    }

    /// The same as a JPEG file, of one or three bytes a pixel.
    pub fn jpeg<const C: usize>([width, height]: [u16; 2], pixel: impl Fn(u16, u16) -> [u8; C]) -> Vec<u8> {
        let mut file = Vec::new();
        let colour = if C == 1 { jpeg_encoder::ColorType::Luma } else { jpeg_encoder::ColorType::Rgb };
        Encoder::new(&mut file, 80).encode(&bytes([width, height], pixel), width, height, colour).unwrap();
        file
    }

    fn bytes<const C: usize>([width, height]: [u16; 2], pixel: impl Fn(u16, u16) -> [u8; C]) -> Vec<u8> {
        (0..height)
            .flat_map(|y| {
                (0..width).flat_map({
                    let pixel = &pixel;
                    move |x| pixel(x, y)
                })
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{jpeg, png};
    use super::*;
    use proptest::prelude::*;

    /// A picture whose brightness rises to the right in red and downwards in green.
    fn slope([width, height]: [u16; 2]) -> impl Fn(u16, u16) -> [u8; 3] {
        move |x, y| [(u32::from(x) * 255 / u32::from(width)) as u8, (u32::from(y) * 255 / u32::from(height)) as u8, 40]
    }

    #[test]
    fn a_part_is_resized_and_flipped() {
        let folder = tempfile::tempdir().unwrap();
        let size = [80, 60];
        for (name, bytes, tolerance) in [("a.png", png(size, slope(size)), 2), ("a.jpg", jpeg(size, slope(size)), 8)] {
            let file = folder.path().join(name);
            fs::write(&file, bytes).unwrap();
            let mut reader = PictureReader::new(8);
            let mut read = |cut: fn([usize; 2]) -> Cut| {
                let mut to = [0; 192];
                reader.read(&file, cut, &mut to).unwrap();
                to
            };
            let right = |_| Cut { left: 40.0, top: 0.0, width: 40.0, height: 60.0, flip: false };
            let plain = read(right);
            // At the picture's edges, the filter is cut off.
            for (y, x) in (1..7).flat_map(|y| (0..7).map(move |x| (y, x))) {
                // The middle of each of the 8 × 8 parts.
                let expected = [(40.0 + 5.0 * x as f64 + 2.0) / 80.0, (7.5 * y as f64 + 3.25) / 60.0, 40.0 / 255.0];
                for (channel, expected) in expected.into_iter().enumerate() {
                    let got = i32::from(plain[channel * 64 + y * 8 + x]);
                    assert!((got - (255.0 * expected) as i32).abs() <= tolerance, "{name} {channel} {y} {x}: {got}");
                }
            }
            let flipped = read(|_| Cut { left: 40.0, top: 0.0, width: 40.0, height: 60.0, flip: true });
            for (row, flipped) in plain.chunks(8).zip(flipped.chunks(8)) {
                assert!(row.iter().eq(flipped.iter().rev()));
            }
        }
    }

    #[test]
    fn grey_and_transparent_pictures_are_colour_without_transparency() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, bytes: Vec<u8>| {
            let file = folder.path().join(name);
            fs::write(&file, bytes).unwrap();
            let mut to = [0; 12];
            PictureReader::new(2).read(&file, |size| Cut::middle(size, 2), &mut to).unwrap();
            to
        };
        let same = [77; 12];
        assert_eq!(save("g.png", png([9, 9], |_, _| [77])), same);
        assert_eq!(save("g.jpg", jpeg([9, 9], |_, _| [77])), same);
        let clear = png([9, 9], |_, _| [1, 2, 3, 0]);
        assert_eq!(save("c.png", clear), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3]);
        // The content tells the format, not the name.
        assert_eq!(save("p.jpeg", png([1, 1], slope([1, 1])))[8..], [40; 4]);
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let read = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            PictureReader::new(4).read(&file, |size| Cut::middle(size, 4), &mut [0; 48])
        };
        let size = [64, 48];
        for (format, whole) in [("png", png(size, slope(size))), ("jpeg", jpeg(size, slope(size)))] {
            read(&whole).unwrap();
            for cut in [0, 1, 2, 10, whole.len() / 2, whole.len() - 13, whole.len() - 1] {
                assert!(read(&whole[..cut]).is_err(), "{format} {cut}");
            }
            let message = read(&whole[..whole.len() - 1]).unwrap_err().to_string();
            assert_eq!(message, format!("the {} data is truncated", format.to_uppercase()));
        }
        // A header that claims 65,500 × 65,500 pixels takes no memory for them.
        let mut huge = jpeg(size, slope(size));
        let frame = huge.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
        huge[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
        assert!(matches!(read(&huge).unwrap_err(), PictureError::TooLarge));
        assert!(matches!(read(b"GIF89a and more").unwrap_err(), PictureError::Format));
        let missing = PictureReader::new(4).read(&folder.path().join("b"), |size| Cut::middle(size, 4), &mut [0; 48]);
        assert!(matches!(missing.unwrap_err(), PictureError::Io(_)));
    }

    /// A phone's film, and the picture's own thumbnail.
    #[test]
    fn what_stands_behind_or_within_a_picture_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let read = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            let mut to = [0; 48];
            PictureReader::new(4).read(&file, |size| Cut::middle(size, 4), &mut to).map(|()| to)
        };
        let size = [64, 48];
        let film = [&b"\0\0\0\x18ftypmp42"[..], &[0xff, 0xda, 0xff, 0xd8, 0xff, 0xc4].repeat(99)].concat();
        for whole in [png(size, slope(size)), jpeg(size, slope(size))] {
            assert_eq!(read(&[&whole, &film[..]].concat()).unwrap(), read(&whole).unwrap());
        }
        let plain = jpeg(size, slope(size));
        let thumbnail = [&b"Exif\0\0"[..], &jpeg([8, 6], |_, _| [9, 9, 9])].concat();
        let length = (thumbnail.len() as u16 + 2).to_be_bytes();
        let noted = [&[0xff, 0xd8, 0xff, 0xe1], &length[..], &thumbnail, &plain[2..]].concat();
        assert_eq!(read(&noted).unwrap(), read(&plain).unwrap());
        let cut = read(&noted[..noted.len() - 40]).unwrap_err();
        assert!(matches!(cut, PictureError::Truncated("JPEG")), "{cut}");
    }

    /// torchvision: `Resize(256)` makes 256 × 341 of 375 × 500, and `CenterCrop(224)` begins at 16 and 58 (58.5, to even).
    #[test]
    fn the_middle_is_that_of_torchvision() {
        let cut = Cut::middle([375, 500], 224);
        let [down, across] = [375.0 / 256.0, 500.0 / 341.0];
        assert_eq!(
            cut,
            Cut { left: 58.0 * across, top: 16.0 * down, width: 224.0 * across, height: 224.0 * down, flip: false }
        );
        let whole = Cut::middle([1, 5000], 224);
        assert!(whole.height < 1.0 && whole.left > 2400.0 && whole.left + whole.width < 2600.0);
    }

    proptest! {
        #[test]
        fn random_parts_lie_in_the_picture(seed: u64, height in 1usize..400, width in 1usize..400) {
            let Cut { left, top, width: w, height: h, .. } = Cut::random(Key::new(seed), [height, width]);
            prop_assert!(left >= 0.0 && top >= 0.0 && w >= 1.0 && h >= 1.0);
            prop_assert!(left + w <= width as f64 && top + h <= height as f64);
            let part = w * h / (width * height) as f64;
            // Sides are rounded.
            if height > 100 && width > 100 && height < 2 * width && width < 2 * height {
                prop_assert!((0.07..=1.0).contains(&part), "{part}");
                prop_assert!((0.72..=1.39).contains(&(w / h)), "{}", w / h);
            }
        }
    }

    #[test]
    fn random_parts_are_of_all_sizes_and_half_are_flipped() {
        let cuts: Vec<Cut> = (0..2000).map(|sample| Cut::random(Key::new(1).with(sample), [300, 400])).collect();
        let areas: Vec<f64> = cuts.iter().map(|cut| cut.width * cut.height / 120_000.0).collect();
        let mean = areas.iter().sum::<f64>() / 2000.0;
        // Less than the 0.54 of uniform ones: the larger, the fewer aspects fit.
        assert!((0.41..0.46).contains(&mean), "{mean}");
        assert!(areas.iter().any(|&area| area < 0.1) && areas.iter().any(|&area| area > 0.95));
        let flipped = cuts.iter().filter(|cut| cut.flip).count();
        assert!((900..1100).contains(&flipped), "{flipped}");
        // None fits: the middle, as wide as an aspect of 4/3 allows.
        let cut = Cut::random(Key::new(1), [10, 1000]);
        assert_eq!((cut.left, cut.top, cut.width, cut.height), (493.0, 0.0, 13.0, 10.0));
    }
}
