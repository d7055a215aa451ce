//! `.npy`, NumPy's arrays (NumPy enhancement proposal 1; `numpy.lib.format`).
//!
//! ```text
//! \x93NUMPY | version, 2 bytes | header length, u16 or u32 | header | elements
//! {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }
//! ```
//!
//! A matrix is an array of two dimensions, in either order of storage; one dimension of n is a column, n×1. Elements
//! are `f2`, `f4`, `f8`, integers or booleans of either byte order. Written are `<f4`, rows one after another.
//!
//! The header is parsed here because crates for this format believe it: a header length of 4 GiB is allocated, a shape
//! is multiplied until it overflows, and nested parentheses recurse until the stack ends.

use super::entries::check_claim;
use super::error::{ContentError, MAX_INDEX, NpyError, excerpt};
use super::format::MatrixFormat;
use super::matrix::{DenseMatrix, Matrix};

const MAGIC: &[u8] = b"\x93NUMPY";
/// NumPy's own limit.
const MAX_DIMENSIONS: usize = 64;
const REAL: &str = "f2, f4, f8, an integer or bool";

/// An array of numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct NumberArray {
    /// Its name in the file; empty in an `.npy` file.
    pub name: String,
    /// Its lengths, the one that varies slowest first.
    pub shape: Vec<usize>,
    /// The numbers, in C's order.
    pub values: Vec<f32>,
}

/// The matrix in a file's bytes.
///
/// # Errors
/// [`ContentError`] saying what is wrong.
pub fn parse(bytes: &[u8]) -> Result<Matrix, ContentError> {
    let array = Array::parse(bytes)?;
    let (nrows, ncols) = match *array.shape.as_slice() {
        [nrows] => (nrows, 1),
        [nrows, ncols] => (nrows, ncols),
        _ => return Err(NpyError::Dimensions { got: array.shape.len(), expected: "2, or 1 for a column" }.into()),
    };
    // Rows without columns have no values that would back them, and the reverse.
    check_claim("rows", nrows, bytes.len())?;
    check_claim("columns", ncols, bytes.len())?;
    let (nrows, ncols) = (nrows as usize, ncols as usize);
    let values = array.floats()?;
    let dense = match array.fortran_order {
        true => DenseMatrix::from_columns(nrows, ncols, &values)?,
        false => DenseMatrix::new(nrows, ncols, values)?,
    };
    Ok(Matrix::Dense(dense))
}

/// The bytes of a file with this matrix.
///
/// # Errors
/// [`ContentError::Unwritable`] unless it is dense.
pub fn to_bytes(matrix: &Matrix) -> Result<Vec<u8>, ContentError> {
    match matrix {
        Matrix::Dense(matrix) => Ok(f32_array(&format!("({}, {})", matrix.nrows(), matrix.ncols()), matrix.values())),
        Matrix::Sparse(_) | Matrix::Pattern(_) => {
            let (kind, format) = (matrix.kind(), MatrixFormat::Npy);
            Err(ContentError::Unwritable { kind, format, instead: ".npz or .mtx" })
        }
    }
}

/// The bytes of a file with a one-dimensional array.
pub fn vector_to_bytes(values: &[f32]) -> Vec<u8> {
    f32_array(&format!("({},)", values.len()), values)
}

/// An array of `<f4`; the shape as Python writes it.
pub(super) fn f32_array(shape: &str, values: &[f32]) -> Vec<u8> {
    array("<f4", shape, values.iter().flat_map(|value| value.to_le_bytes()))
}

/// An array's bytes. Elements begin at a multiple of 64, as NumPy has it for memory maps.
pub(super) fn array(descr: &str, shape: &str, elements: impl Iterator<Item = u8>) -> Vec<u8> {
    const PREFIX: usize = MAGIC.len() + 4;
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    let padded = (PREFIX + header.len() + 1).next_multiple_of(64) - PREFIX - 1;
    header.push_str(&" ".repeat(padded.saturating_sub(header.len())));
    header.push('\n');
    let mut bytes = MAGIC.to_vec();
    bytes.extend([1, 0]);
    // Types and shapes written here are short.
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.bytes());
    bytes.extend(elements);
    bytes
}

/// The type of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Dtype<'a> {
    big_endian: bool,
    kind: u8,
    size: usize,
    /// As in the header.
    name: &'a [u8],
}

impl<'a> Dtype<'a> {
    fn parse(name: &'a [u8]) -> Option<Self> {
        let &[order, kind, ref digits @ ..] = name else { return None };
        let size: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
        // Text counts characters, of four bytes each.
        let size = if kind == b'U' { size.checked_mul(4)? } else { size };
        let known = match kind {
            b'f' => matches!(size, 2 | 4 | 8),
            b'i' | b'u' => matches!(size, 1 | 2 | 4 | 8),
            b'b' => size == 1,
            b'S' | b'U' => true,
            _ => false,
        };
        let ordered = matches!(order, b'<' | b'>') || order == b'|' && (size == 1 || kind == b'S');
        (known && ordered).then_some(Self { big_endian: order == b'>', kind, size, name })
    }
}

/// An array in a file's bytes. That the data has the length of the shape was checked.
#[derive(Debug)]
pub(super) struct Array<'a> {
    dtype: Dtype<'a>,
    fortran_order: bool,
    pub shape: Vec<u64>,
    data: &'a [u8],
}

impl<'a> Array<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, NpyError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(NpyError::Magic)?;
        let header_at = |expected| move || NpyError::Header { at: MAGIC.len() + 2, expected };
        let ends = header_at("the length of a header that the file has");
        let (&[major, minor], rest) = rest.split_first_chunk().ok_or_else(&ends)?;
        let (length, rest) = match (major, minor) {
            (1, 0) => rest.split_first_chunk().map(|(&length, rest)| (u32::from(u16::from_le_bytes(length)), rest)),
            (2 | 3, 0) => rest.split_first_chunk().map(|(&length, rest)| (u32::from_le_bytes(length), rest)),
            _ => return Err(NpyError::Version { major, minor }),
        }
        .ok_or_else(&ends)?;
        let start = bytes.len() - rest.len();
        let (header, data) = rest.split_at_checked(length as usize).ok_or_else(&ends)?;

        let (descr, fortran_order, shape) = Header { text: header, rest: header, start }.parse()?;
        let unknown = || NpyError::Dtype { got: excerpt(descr), expected: REAL };
        let dtype = Dtype::parse(descr).ok_or_else(unknown)?;
        // A zero decides, whatever it is multiplied with.
        let elements = match shape.contains(&0) {
            true => Some(0),
            false => shape.iter().try_fold(1u64, |product, &length| product.checked_mul(length)),
        };
        let expected = elements.and_then(|n| usize::try_from(n).ok()).and_then(|n| n.checked_mul(dtype.size));
        if expected != Some(data.len()) {
            return Err(NpyError::Length { shape, dtype: excerpt(descr), expected, got: data.len() });
        }
        Ok(Self { dtype, fortran_order, shape, data })
    }

    fn decode<const N: usize, T>(
        &self,
        little: fn([u8; N]) -> T,
        big: fn([u8; N]) -> T,
    ) -> impl Iterator<Item = T> + use<'_, 'a, N, T> {
        let from_bytes = if self.dtype.big_endian { big } else { little };
        self.data.as_chunks().0.iter().map(move |&element| from_bytes(element))
    }

    /// The integers, or nothing if the elements are something else.
    fn integers(&self) -> Option<Box<dyn Iterator<Item = i128> + '_>> {
        Some(match (self.dtype.kind, self.dtype.size) {
            (b'i', 1) => Box::new(self.decode(i8::from_le_bytes, i8::from_be_bytes).map(i128::from)),
            (b'i', 2) => Box::new(self.decode(i16::from_le_bytes, i16::from_be_bytes).map(i128::from)),
            (b'i', 4) => Box::new(self.decode(i32::from_le_bytes, i32::from_be_bytes).map(i128::from)),
            (b'i', 8) => Box::new(self.decode(i64::from_le_bytes, i64::from_be_bytes).map(i128::from)),
            (b'u', 1) => Box::new(self.decode(u8::from_le_bytes, u8::from_be_bytes).map(i128::from)),
            (b'u', 2) => Box::new(self.decode(u16::from_le_bytes, u16::from_be_bytes).map(i128::from)),
            (b'u', 4) => Box::new(self.decode(u32::from_le_bytes, u32::from_be_bytes).map(i128::from)),
            (b'u', 8) => Box::new(self.decode(u64::from_le_bytes, u64::from_be_bytes).map(i128::from)),
            _ => return None,
        })
    }

    fn not(&self, expected: &'static str) -> NpyError {
        NpyError::Dtype { got: excerpt(self.dtype.name), expected }
    }

    /// The elements, in the file's order, as the nearest `f32`.
    pub fn floats(&self) -> Result<Vec<f32>, NpyError> {
        if let Some(integers) = self.integers() {
            return Ok(integers.map(|integer| integer as f32).collect());
        }
        match (self.dtype.kind, self.dtype.size) {
            (b'f', 2) => Ok(self.decode(u16::from_le_bytes, u16::from_be_bytes).map(f32_from_half).collect()),
            (b'f', 4) => Ok(self.decode(f32::from_le_bytes, f32::from_be_bytes).collect()),
            (b'f', 8) => {
                let narrow = |(index, got): (usize, f64)| match got as f32 {
                    value if value.is_infinite() && got.is_finite() => Err(NpyError::Range { index, got }),
                    value => Ok(value),
                };
                self.decode(f64::from_le_bytes, f64::from_be_bytes).enumerate().map(narrow).collect()
            }
            (b'b', _) => Ok(self.data.iter().map(|&byte| f32::from(u8::from(byte != 0))).collect()),
            _ => Err(self.not(REAL)),
        }
    }

    /// Whether the elements are text.
    pub fn is_text(&self) -> bool {
        matches!(self.dtype.kind, b'S' | b'U')
    }

    /// The shape, and the elements in C's order as the nearest `f32`.
    pub fn numbers(&self) -> Result<(Vec<usize>, Vec<f32>), NpyError> {
        let values = self.floats()?;
        // The product was checked against the data, so none of them is too large unless one is 0.
        let shape: Vec<usize> = self.shape.iter().map(|&length| usize::try_from(length).unwrap_or(0)).collect();
        if !self.fortran_order || shape.len() < 2 || values.is_empty() {
            return Ok((shape, values));
        }
        let mut strides = vec![1; shape.len()];
        for i in 1..shape.len() {
            strides[i] = strides[i - 1] * shape[i - 1];
        }
        let at = |mut index: usize| {
            let mut from = 0;
            for (length, stride) in shape.iter().zip(&strides).rev() {
                from += index % length * stride;
                index /= length;
            }
            values[from]
        };
        let ordered = (0..values.len()).map(at).collect();
        Ok((shape, ordered))
    }

    /// The elements, in the file's order, as indices.
    pub fn indices(&self) -> Result<Vec<u32>, NpyError> {
        let index = |(index, got): (usize, i128)| {
            let fits = u32::try_from(got).ok().filter(|&fit| u64::from(fit) <= MAX_INDEX);
            fits.ok_or(NpyError::Index { index, got })
        };
        self.integers().ok_or_else(|| self.not("an integer"))?.enumerate().map(index).collect()
    }

    /// The elements as two sizes.
    pub fn sizes(&self) -> Result<[u64; 2], NpyError> {
        let sizes = self.integers().ok_or_else(|| self.not("an integer"))?;
        let mut found = [0; 2];
        let mut got = 0;
        for (index, size) in sizes.enumerate() {
            if let Some(slot) = found.get_mut(index) {
                *slot = u64::try_from(size).map_err(|_| NpyError::Index { index, got: size })?;
            }
            got += 1;
        }
        if got == found.len() { Ok(found) } else { Err(NpyError::Entries { got, expected: found.len() }) }
    }

    /// The text of a single element: bytes or, as older programs write it, Unicode.
    pub fn text(&self) -> Result<String, NpyError> {
        if self.data.len() != self.dtype.size {
            let got = self.data.len().checked_div(self.dtype.size).unwrap_or(0);
            return Err(NpyError::Entries { got, expected: 1 });
        }
        // More would be no name of a format.
        const LONGEST: usize = 64;
        let text: String = match self.dtype.kind {
            b'S' => self.data.iter().take(LONGEST).map(|&byte| char::from(byte)).collect(),
            b'U' => {
                let characters = self.decode(u32::from_le_bytes, u32::from_be_bytes).take(LONGEST);
                characters.map(|code| char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
            }
            _ => return Err(self.not("text")),
        };
        Ok(text.trim_end_matches('\0').to_owned())
    }

    /// A 2×n array as its two rows.
    pub fn index_rows(&self) -> Result<[Vec<u32>; 2], NpyError> {
        let both = self.indices()?;
        match *self.shape.as_slice() {
            [2, _] if self.fortran_order => {
                Ok([0, 1].map(|row| both.iter().skip(row).step_by(2).copied().collect::<Vec<_>>()))
            }
            [2, _] => {
                let (rows, columns) = both.split_at(both.len() / 2);
                Ok([rows.to_vec(), columns.to_vec()])
            }
            _ => Err(NpyError::Dimensions { got: self.shape.len(), expected: "2, the first of them 2 long" }),
        }
    }

    /// Refuses an array that is no list.
    pub fn expect_one_dimension(self) -> Result<Self, NpyError> {
        match self.shape.len() {
            1 => Ok(self),
            got => Err(NpyError::Dimensions { got, expected: "1" }),
        }
    }
}

/// Every half-precision number is an `f32`.
fn f32_from_half(bits: u16) -> f32 {
    /// 2^-24, the smallest denormal of half precision.
    const UNIT: f32 = 1.0 / 16_777_216.0;
    let (sign, exponent, fraction) =
        (u32::from(bits >> 15) << 31, u32::from(bits >> 10 & 0x1f), u32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => (fraction as f32 * UNIT).to_bits(),
        31 => 0x7f80_0000 | fraction << 13,
        // The biases are 15 and 127.
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

/// A parser for the one Python literal that a header is.
struct Header<'a> {
    text: &'a [u8],
    rest: &'a [u8],
    /// Place of the text in the file.
    start: usize,
}

impl<'a> Header<'a> {
    fn parse(mut self) -> Result<(&'a [u8], bool, Vec<u64>), NpyError> {
        const KEYS: &str = "one each of the keys 'descr', 'fortran_order' and 'shape'";
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        self.expect(b"{", "{")?;
        while !self.takes(b"}") {
            let key = self.string(KEYS)?;
            self.expect(b":", "a colon")?;
            let again = match key {
                b"descr" => descr.replace(self.string("the name of a type such as '<f4'")?).is_some(),
                b"fortran_order" => fortran_order.replace(self.boolean()?).is_some(),
                b"shape" => shape.replace(self.shape()?).is_some(),
                _ => true,
            };
            if again {
                return Err(self.error(KEYS));
            }
            if !self.takes(b",") {
                self.expect(b"}", "a comma or }")?;
                break;
            }
        }
        self.skip_blanks();
        if !self.rest.is_empty() {
            return Err(self.error("the end of the header"));
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok((descr, fortran_order, shape)),
            _ => Err(self.error(KEYS)),
        }
    }

    fn error(&self, expected: &'static str) -> NpyError {
        NpyError::Header { at: self.start + (self.text.len() - self.rest.len()), expected }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    /// Whether the text goes on like this; if so, steps over it.
    fn takes(&mut self, token: &[u8]) -> bool {
        self.skip_blanks();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &[u8], expected: &'static str) -> Result<(), NpyError> {
        if self.takes(token) { Ok(()) } else { Err(self.error(expected)) }
    }

    /// Without escapes: no key and no type has any.
    fn string(&mut self, expected: &'static str) -> Result<&'a [u8], NpyError> {
        let quote = if self.takes(b"'") { b'\'' } else { self.expect(b"\"", expected).map(|()| b'"')? };
        let mut parts = self.rest.splitn(2, |&byte| byte == quote);
        match (parts.next(), parts.next()) {
            (Some(string), Some(rest)) => {
                self.rest = rest;
                Ok(string)
            }
            _ => Err(self.error("text in quotes")),
        }
    }

    fn boolean(&mut self) -> Result<bool, NpyError> {
        if self.takes(b"True") {
            return Ok(true);
        }
        self.expect(b"False", "True or False").map(|()| false)
    }

    fn shape(&mut self) -> Result<Vec<u64>, NpyError> {
        self.expect(b"(", "a tuple of lengths")?;
        let mut shape = Vec::new();
        while !self.takes(b")") {
            if shape.len() == MAX_DIMENSIONS {
                return Err(self.error("), for NumPy has at most 64 dimensions"));
            }
            self.skip_blanks();
            let digits = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let (number, rest) = self.rest.split_at_checked(digits).unwrap_or_default();
            let number = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
            shape.push(number.ok_or_else(|| self.error("a length of 64 bits"))?);
            // Python 2 wrote long integers so.
            self.rest = rest.strip_prefix(b"L").unwrap_or(rest);
            if !self.takes(b",") {
                self.expect(b")", "a comma or )")?;
                break;
            }
        }
        Ok(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use proptest::prelude::*;

    fn read(descr: &str, shape: &str, data: &[u8]) -> Result<Matrix, ContentError> {
        parse(&array(descr, shape, data.iter().copied()))
    }

    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
        bytes.extend((header.len() as u32).to_le_bytes());
        bytes.extend(header.bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn all_types_are_read() {
        for (descr, data, expected) in [
            ("<f4", &[0, 0, 0xc0, 0x3f][..], 1.5),
            (">f4", &[0x3f, 0xc0, 0, 0], 1.5),
            ("<f8", &[0, 0, 0, 0, 0, 0, 0xf8, 0x3f], 1.5),
            (">f8", &[0x3f, 0xf8, 0, 0, 0, 0, 0, 0], 1.5),
            ("<f2", &[0x00, 0x3e], 1.5),
            (">f2", &[0x3e, 0x00], 1.5),
            ("|i1", &[0xff], -1.0),
            ("<i2", &[0xff, 0xff], -1.0),
            (">i4", &[0, 0, 1, 0], 256.0),
            ("<i8", &[1, 0, 0, 0, 1, 0, 0, 0], 4294967296.0),
            ("|u1", &[0xff], 255.0),
            (">u2", &[1, 0], 256.0),
            ("<u4", &[0xff; 4], 4294967296.0),
            ("<u8", &[0xff; 8], 18446744073709551616.0),
            ("|b1", &[1], 1.0),
        ] {
            assert_eq!(read(descr, "(1, 1)", data).unwrap(), dense(1, 1, &[expected]), "{descr}");
        }
        let nan = read("<f4", "(1,)", &0x7fa0_0001u32.to_le_bytes()).unwrap();
        assert_same(&nan, &dense(1, 1, &[f32::from_bits(0x7fa0_0001)]));
        let infinite = read("<f8", "(1,)", &f64::INFINITY.to_le_bytes()).unwrap();
        assert_eq!(infinite, dense(1, 1, &[f32::INFINITY]));
    }

    #[test]
    fn half_precision_is_exact() {
        for (bits, expected) in [
            (0x0000, 0.0f32),
            (0x8000, -0.0),
            (0x0001, 2f32.powi(-24)),
            (0x83ff, -1023.0 * 2f32.powi(-24)),
            (0x0400, 2f32.powi(-14)),
            (0x3555, 0.33325195),
            (0xc000, -2.0),
            (0x7bff, 65504.0),
            (0xfc00, f32::NEG_INFINITY),
        ] {
            assert_eq!(f32_from_half(bits).to_bits(), expected.to_bits(), "{bits:#06x}");
        }
        assert!(f32_from_half(0x7e01).is_nan());
    }

    #[test]
    fn shapes_and_orders_are_read() {
        let data: Vec<u8> = (1..=6).collect();
        let rows = dense(2, 3, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(read("|u1", "(2, 3)", &data).unwrap(), rows);
        assert_eq!(read("|u1", "(6,)", &data).unwrap(), dense(6, 1, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
        assert_eq!(read("|u1", "(0, 3)", &[]).unwrap(), dense(0, 3, &[]));
        let columns = dense(2, 3, &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
        for header in [
            "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }",
            "{\"shape\":(2L,3L),'descr' : '|u1' , 'fortran_order':True}\n",
        ] {
            assert_eq!(parse(&with_header(header, &data)).unwrap(), columns, "{header}");
        }
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        let keys = "one each of the keys 'descr', 'fortran_order' and 'shape'";
        for (bytes, expected) in [
            (vec![], "it does not start with \\x93NUMPY, so it is not an .npy file".to_owned()),
            (b"\x93NUMPY\x04\x00".to_vec(), "the format version is 4.0; it must be 1.0, 2.0 or 3.0".to_owned()),
            (b"\x93NUMPY\x01\x00".to_vec(), "byte 8 should be the length of a header that the file has".to_owned()),
            (with_header("", &[]), "byte 12 should be {".to_owned()),
            (with_header("{", &[]), format!("byte 13 should be {keys}")),
            (with_header("{}", &[]), format!("byte 14 should be {keys}")),
            (with_header("{'descr'", &[]), "byte 20 should be a colon".to_owned()),
            (with_header("{'descr: 1", &[]), "byte 14 should be text in quotes".to_owned()),
            (
                with_header("{'descr': [('a', '<f4')]", &[]),
                "byte 22 should be the name of a type such as '<f4'".to_owned(),
            ),
            (with_header("{'fortran_order': 1", &[]), "byte 30 should be True or False".to_owned()),
            (with_header("{'shape': (1 2)", &[]), "byte 25 should be a comma or )".to_owned()),
            (with_header("{'shape': ((", &[]), "byte 23 should be a length of 64 bits".to_owned()),
            (with_header("{'shape': (1,), 'shape': (1,)}", &[]), format!("byte 41 should be {keys}")),
            (with_header("{'shape': (1,)} x", &[]), "byte 28 should be the end of the header".to_owned()),
        ] {
            assert_eq!(parse(&bytes).unwrap_err().to_string(), expected);
        }
        let message = |descr, shape, data: &[u8]| read(descr, shape, data).unwrap_err().to_string();
        let real = "it must be f2, f4, f8, an integer or bool";
        for descr in ["<c8", "<f16", "|O", "<M8[ns]", "f4", "=f4", "|f4", "", "<i3", "|S3", "<f-4"] {
            assert_eq!(message(descr, "(1,)", &[0; 3]), format!("the element type is {descr:?}; {real}"));
        }
        assert_eq!(message("<f4", "(2, 3)", &[0; 20]), "20 bytes of data; the shape [2, 3] of <f4 needs 24");
        assert_eq!(message("<f4", "(1,)", &[0; 5]), "5 bytes of data; the shape [1] of <f4 needs 4");
        assert_eq!(message("<f4", "()", &[0; 4]), "it has 0 dimensions; it must have 2, or 1 for a column");
        assert_eq!(message("|u1", "(1, 1, 1)", &[0]), "it has 3 dimensions; it must have 2, or 1 for a column");
        let large = message("<f8", "(2,)", &[0f64.to_le_bytes(), 1e39f64.to_le_bytes()].concat());
        assert_eq!(large, "entry 1 is 1e39, beyond f32's range, which ends at 3.4e38");
        for matrix in [sparse(1, 1, &[]), pattern(1, 1, &[])] {
            assert!(to_bytes(&matrix).unwrap_err().to_string().ends_with("write it as .npz or .mtx"));
        }
    }

    #[test]
    fn hostile_headers_allocate_nothing() {
        let message = |descr, shape: &str| read(descr, shape, &[]).unwrap_err().to_string();
        assert!(message("<f8", "(18446744073709551615, 2)").ends_with("needs more than fits in memory"));
        assert!(message("|u1", "(4000000000, 1000000000)").ends_with("needs 4000000000000000000"));
        assert!(message("<f4", "(18446744073709551616,)").contains("a length of 64 bits"));
        assert!(message("<f4", &format!("({})", "1,".repeat(65))).contains("at most 64 dimensions"));
        assert!(message("<f4", "(4000000000, 0)").starts_with("the file claims 4000000000 rows in 128 bytes"));
        assert!(
            message("<f4", "(0, 18446744073709551615)").starts_with("the file claims 18446744073709551615 columns")
        );
        assert!(message("|S0", "(4000000000,)").starts_with("the file claims 4000000000 rows"));
        let mut bytes = b"\x93NUMPY\x02\x00".to_vec();
        bytes.extend([0xff; 4]);
        assert!(parse(&bytes).unwrap_err().to_string().contains("a header that the file has"));
        assert!(parse(&with_header(&"(".repeat(1 << 20), &[])).is_err());
        assert!(parse(&with_header(&"{'shape': (".repeat(1 << 16), &[])).is_err());
    }

    #[test]
    fn headers_are_those_of_numpy() {
        let bytes = to_bytes(&dense(1, 2, &[1.0, -2.0])).unwrap();
        assert_eq!(bytes.len(), 128 + 8);
        assert!(
            bytes.starts_with(
                b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }   "
            )
        );
        assert_eq!(bytes[127], b'\n');
        assert!(vector_to_bytes(&[1.0]).windows(6).any(|part| part == b"(1,), "));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(matrix in any_matrix()) {
            if let Ok(bytes) = to_bytes(&matrix) {
                assert_same(&parse(&bytes).unwrap(), &matrix);
            }
        }

        #[test]
        fn headers_of_the_right_kind_never_panic(
            descr in "[<>|=]?[fiubSUcOV]([0-9]{1,2}|[0-9]{18,21})", shape in "(\\([0-9, L-]{0,8}\\)?|\\([0-9]{1,20}, [0-9]{1,20}\\))",
            order in "True|False|None", data: Vec<u8>,
        ) {
            let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}");
            check_parsed(MatrixFormat::Npy, &with_header(&header, &data));
            if let Ok(array) = Array::parse(&with_header(&header, &data)) {
                let _ = (array.text(), array.sizes(), array.indices(), array.index_rows());
            }
        }
    }
}
