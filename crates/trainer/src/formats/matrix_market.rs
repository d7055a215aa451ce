//! `.mtx`, Matrix Market's exchange format (Boisvert, Pozo and Remington 1996).
//!
//! ```text
//! %%MatrixMarket matrix <format> <field> <symmetry>
//! % comments
//! rows columns nnz            (coordinate)      rows columns      (array)
//! row column value            from 1            value             columns one after another
//! ```
//!
//! | word | read |
//! | --- | --- |
//! | format | `coordinate`, `array` |
//! | field | `real`, `double`, `integer`, `unsigned-integer` (as SciPy writes); `pattern` in coordinate files |
//! | symmetry | `general`; `symmetric` and `skew-symmetric`, which are expanded |
//!
//! `complex` and `hermitian` are errors. Comments may stand anywhere behind the first line, blank lines anywhere.
//! Lines end in LF, CR LF or CR; a byte-order mark is skipped. `nan`, `inf` and `infinity` are
//! values, in any case. Duplicates are summed as in `scipy.io.mmread(…).tocsr()`; in a pattern they are merged.
//!
//! What is written has the fewest digits that give the same `f32` again; a NaN loses its payload.

use std::fmt::Write as _;

use sparse_kernels::CsrPattern;

use super::entries::{self, Entry, check_claim, size};
use super::error::excerpt;
use super::foreign::recognize;
use super::{ContentError, DenseMatrix, LineError, Matrix, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Real,
    Integer,
    Pattern,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symmetry {
    General,
    Symmetric,
    Skew,
}

struct Banner {
    coordinate: bool,
    field: Field,
    symmetry: Symmetry,
}

/// The matrix in a file's bytes.
///
/// # Errors
/// [`ContentError`] saying what is wrong and in which line.
pub fn parse(bytes: &[u8]) -> Result<Matrix, ContentError> {
    let lines = text::lines(bytes).map(|(line, number)| (line.trim_ascii(), number));
    let mut lines = lines.filter(|(line, _)| !line.is_empty());
    let banner = match lines.next() {
        Some((line, number)) => parse_banner(line).map_err(|error| match recognize(bytes) {
            Some(what) => ContentError::Foreign { what, expected: "a Matrix Market file" },
            None => wrong(number)(error),
        })?,
        None => return Err(ContentError::Ends { expected: "first line" }),
    };
    let mut lines = lines.filter(|(line, _)| !line.starts_with(b"%"));
    let Some((line, number)) = lines.next() else { return Err(ContentError::Ends { expected: "sizes" }) };
    let sizes = parse_sizes(&banner, line).map_err(wrong(number))?;
    let (nrows, ncols) = (size("nrows", sizes.nrows)?, size("ncols", sizes.ncols)?);
    check_claim("rows", sizes.nrows, bytes.len())?;
    if banner.symmetry != Symmetry::General && nrows != ncols {
        return Err(wrong(number)(LineError::NotSquare { nrows, ncols }));
    }
    match sizes.nnz {
        Some(nnz) => {
            // No entry is shorter than `1 1` and the end of its line.
            let room = usize::try_from(nnz).unwrap_or(usize::MAX).min(bytes.len() / 4);
            let entries = parse_entries(&banner, [nrows, ncols], nnz, room, lines)?;
            if banner.field == Field::Pattern {
                let positions = entries.into_iter().map(|(row, column, _)| (row, column)).collect();
                Ok(Matrix::Pattern(CsrPattern::from_positions(nrows, ncols, positions)?))
            } else {
                Ok(Matrix::Sparse(entries::from_entries(nrows, ncols, entries)?))
            }
        }
        None => {
            // Without columns there are no values that would back the rows, and the reverse.
            check_claim("columns", sizes.ncols, bytes.len())?;
            Ok(Matrix::Dense(parse_array(&banner, nrows, ncols, lines)?))
        }
    }
}

fn wrong(line: usize) -> impl FnOnce(LineError) -> ContentError {
    move |source| ContentError::Line { line, source }
}

fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

fn parse_banner(line: &[u8]) -> Result<Banner, LineError> {
    let mut words = words(line);
    let mut word = || words.next().unwrap_or_default();
    if !word().eq_ignore_ascii_case(b"%%MatrixMarket") || !word().eq_ignore_ascii_case(b"matrix") {
        return Err(LineError::Banner { got: excerpt(line) });
    }
    let unknown = |what, got: &[u8], expected| Err(LineError::Word { what, got: excerpt(got), expected });
    let (format, field, symmetry) = (word(), word(), word());
    let coordinate = match format.to_ascii_lowercase().as_slice() {
        b"coordinate" => true,
        b"array" => false,
        _ => return unknown("format", format, "coordinate or array"),
    };
    let field = match field.to_ascii_lowercase().as_slice() {
        b"real" | b"double" => Field::Real,
        b"integer" | b"unsigned-integer" => Field::Integer,
        b"pattern" if coordinate => Field::Pattern,
        _ if coordinate => return unknown("field", field, "real, integer or pattern"),
        _ => return unknown("field", field, "real or integer"),
    };
    let symmetry = match symmetry.to_ascii_lowercase().as_slice() {
        b"general" => Symmetry::General,
        b"symmetric" => Symmetry::Symmetric,
        b"skew-symmetric" => Symmetry::Skew,
        _ => return unknown("symmetry", symmetry, "general, symmetric or skew-symmetric"),
    };
    match words.next() {
        Some(more) => unknown("word after the symmetry", more, "absent"),
        None => Ok(Banner { coordinate, field, symmetry }),
    }
}

struct Sizes {
    nrows: u64,
    ncols: u64,
    /// Of a coordinate file.
    nnz: Option<u64>,
}

fn parse_sizes(banner: &Banner, line: &[u8]) -> Result<Sizes, LineError> {
    let sizes = words(line).map(|word| whole("sizes", word)).collect::<Result<Vec<_>, _>>()?;
    match *sizes.as_slice() {
        [nrows, ncols, nnz] if banner.coordinate => Ok(Sizes { nrows, ncols, nnz: Some(nnz) }),
        [nrows, ncols] if !banner.coordinate => Ok(Sizes { nrows, ncols, nnz: None }),
        _ => Err(LineError::Count { what: "sizes", got: sizes.len(), expected: if banner.coordinate { 3 } else { 2 } }),
    }
}

fn parse_entries<'a>(
    banner: &Banner,
    [nrows, ncols]: [usize; 2],
    nnz: u64,
    room: usize,
    mut lines: impl Iterator<Item = (&'a [u8], usize)>,
) -> Result<Vec<Entry>, ContentError> {
    let parse = |line: &[u8]| -> Result<Entry, LineError> {
        let mut words = words(line);
        let expected = if banner.field == Field::Pattern { 2 } else { 3 };
        let (row, column, value) = match (words.next(), words.next()) {
            (Some(row), Some(column)) if expected == 2 => (row, column, None),
            (Some(row), Some(column)) => (row, column, words.next()),
            (row, _) => {
                return Err(LineError::Count { what: "numbers", got: usize::from(row.is_some()), expected });
            }
        };
        let (more, got) = (words.count(), if value.is_some() { 3 } else { 2 });
        if more > 0 || got as u64 != expected {
            return Err(LineError::Count { what: "numbers", got: more.saturating_add(got), expected });
        }
        let value = value.map_or(Ok(1.0), |value| parse_value(banner.field, value))?;
        Ok((index("row", row, nrows)?, index("column", column, ncols)?, value))
    };
    let mut entries = Vec::with_capacity(room);
    for got in 0..nnz {
        let Some((line, number)) = lines.next() else { return Err(ContentError::EndsWithin { got, expected: nnz }) };
        let (row, column, value) = parse(line).map_err(wrong(number))?;
        entries.push((row, column, value));
        match banner.symmetry {
            Symmetry::Skew if row == column => return Err(wrong(number)(LineError::Diagonal)),
            Symmetry::Skew => entries.push((column, row, -value)),
            Symmetry::Symmetric if row != column => entries.push((column, row, value)),
            Symmetry::Symmetric | Symmetry::General => {}
        }
    }
    match lines.next() {
        Some((_, number)) => Err(wrong(number)(LineError::Extra)),
        None => Ok(entries),
    }
}

/// An array: of a symmetric matrix, the columns of its lower triangle, with the diagonal unless it is skew.
fn parse_array<'a>(
    banner: &Banner,
    nrows: usize,
    ncols: usize,
    mut lines: impl Iterator<Item = (&'a [u8], usize)>,
) -> Result<DenseMatrix, ContentError> {
    // Both are below 2^32, so their product fits.
    let (n, all) = (nrows as u64, nrows as u64 * ncols as u64);
    let expected = match banner.symmetry {
        Symmetry::General => all,
        Symmetry::Symmetric => all.midpoint(n),
        Symmetry::Skew => all.saturating_sub(n) / 2,
    };
    let mut stored = Vec::new();
    for (line, number) in lines.by_ref() {
        for word in words(line) {
            if stored.len() as u64 == expected {
                return Err(wrong(number)(LineError::Extra));
            }
            stored.push(parse_value(banner.field, word).map_err(wrong(number))?);
        }
    }
    let got = stored.len() as u64;
    if got < expected {
        return Err(ContentError::EndsWithin { got, expected });
    }
    if banner.symmetry == Symmetry::General {
        return DenseMatrix::from_columns(nrows, ncols, &stored);
    }
    // The file has half of these values or, of the smallest matrices, less by one a row.
    let mut values = vec![0.0; nrows * ncols];
    let below = usize::from(banner.symmetry == Symmetry::Skew);
    let places = (0..ncols).flat_map(|column| (column + below..nrows).map(move |row| (row, column)));
    for ((row, column), value) in places.zip(stored) {
        let mirrored = if banner.symmetry == Symmetry::Skew { -value } else { value };
        for (place, value) in [(column * ncols + row, mirrored), (row * ncols + column, value)] {
            if let Some(slot) = values.get_mut(place) {
                *slot = value;
            }
        }
    }
    DenseMatrix::new(nrows, ncols, values)
}

fn number<T: std::str::FromStr>(what: &'static str, word: &[u8], expected: &'static str) -> Result<T, LineError> {
    let number = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
    number.ok_or_else(|| LineError::Number { what, got: excerpt(word), expected })
}

fn whole(what: &'static str, word: &[u8]) -> Result<u64, LineError> {
    number(what, word, "a whole number")
}

/// From 1 in the file, from 0 here.
fn index(what: &'static str, word: &[u8], max: usize) -> Result<u32, LineError> {
    let got = whole(if what == "row" { "rows" } else { "columns" }, word)?;
    let index = got.checked_sub(1).filter(|&index| index < max as u64).and_then(|index| u32::try_from(index).ok());
    index.ok_or(LineError::Outside { what, got, max })
}

fn parse_value(field: Field, word: &[u8]) -> Result<f32, LineError> {
    if field == Field::Integer {
        return Ok(number::<i128>("values", word, "an integer, as the first line says")? as f32);
    }
    let value: f32 = number("values", word, "a real number")?;
    // Infinities that were written as digits.
    if value.is_infinite() && word.iter().any(u8::is_ascii_digit) {
        return Err(LineError::Range { got: excerpt(word) });
    }
    Ok(value)
}

/// The bytes of a file with this matrix: `coordinate real`, `coordinate pattern` or `array real`, all `general`.
///
/// # Errors
/// None: every matrix can be written.
pub fn to_bytes(matrix: &Matrix) -> Result<Vec<u8>, ContentError> {
    let (nrows, ncols) = (matrix.nrows(), matrix.ncols());
    let (kind, nnz) = match matrix {
        Matrix::Sparse(matrix) => ("coordinate real", format!(" {}", matrix.pattern().nnz())),
        Matrix::Pattern(pattern) => ("coordinate pattern", format!(" {}", pattern.nnz())),
        Matrix::Dense(_) => ("array real", String::new()),
    };
    let mut text = format!("%%MatrixMarket matrix {kind} general\n{nrows} {ncols}{nnz}\n");
    // Writing to a string cannot fail. `Debug` has an exponent where `Display` would have dozens of zeros.
    match matrix {
        Matrix::Sparse(matrix) => {
            for ((row, column), value) in matrix.pattern().positions().zip(matrix.values()) {
                let _ = writeln!(text, "{} {} {value:?}", u64::from(row) + 1, u64::from(column) + 1);
            }
        }
        Matrix::Pattern(pattern) => {
            for (row, column) in pattern.positions() {
                let _ = writeln!(text, "{} {}", u64::from(row) + 1, u64::from(column) + 1);
            }
        }
        Matrix::Dense(matrix) => {
            // Without values there is nothing to do, whatever the number of columns.
            for column in 0..if matrix.values().is_empty() { 0 } else { ncols } {
                for value in matrix.values().iter().skip(column).step_by(ncols) {
                    let _ = writeln!(text, "{value:?}");
                }
            }
        }
    }
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::formats::{MAX_FREE_ROWS, MatrixFormat};
    use proptest::prelude::*;

    fn read(rest: &str) -> Result<Matrix, ContentError> {
        parse(format!("%%MatrixMarket matrix {rest}").as_bytes())
    }

    #[test]
    fn all_kinds_are_read() {
        for (rest, expected) in [
            ("coordinate real general\n2 3 2\n1 2 1.5\n2 1 -2e-3\n", sparse(2, 3, &[(0, 1, 1.5), (1, 0, -2e-3)])),
            ("Coordinate DOUBLE General\r\n\r\n% c\r\n1 1 1\r\n%\r\n\r\n 1\t1  2 \r\n", sparse(1, 1, &[(0, 0, 2.0)])),
            ("coordinate integer general\n1 2 2\n1 2 -7\n1 1 0", sparse(1, 2, &[(0, 0, 0.0), (0, 1, -7.0)])),
            (
                "coordinate unsigned-integer general\n1 1 1\n1 1 18446744073709551615",
                sparse(1, 1, &[(0, 0, 1.8446744e19)]),
            ),
            // Duplicates.
            ("coordinate real general\n1 1 3\n1 1 1\n1 1 2\n1 1 4\n", sparse(1, 1, &[(0, 0, 7.0)])),
            ("coordinate pattern general\n2 2 3\n2 1\n1 2\n2 1\n", pattern(2, 2, &[(0, 1), (1, 0)])),
            // Half of the matrix stands for the other.
            (
                "coordinate real symmetric\n2 2 2\n1 1 5\n2 1 3\n",
                sparse(2, 2, &[(0, 0, 5.0), (0, 1, 3.0), (1, 0, 3.0)]),
            ),
            ("coordinate integer skew-symmetric\n2 2 1\n2 1 3\n", sparse(2, 2, &[(0, 1, -3.0), (1, 0, 3.0)])),
            ("coordinate pattern symmetric\n2 2 2\n1 1\n2 1\n", pattern(2, 2, &[(0, 0), (0, 1), (1, 0)])),
            ("coordinate real general\n0 5 0\n", sparse(0, 5, &[])),
            ("array real general\n2 3\n1\n2\n3\n4\n5\n6\n", dense(2, 3, &[1.0, 3.0, 5.0, 2.0, 4.0, 6.0])),
            ("array integer general\n1 2\n1 2", dense(1, 2, &[1.0, 2.0])),
            ("array real general\n3 0\n", dense(3, 0, &[])),
            ("array real symmetric\n2 2\n1\n2\n3\n", dense(2, 2, &[1.0, 2.0, 2.0, 3.0])),
            (
                "array real skew-symmetric\n3 3\n1\n2\n3\n",
                dense(3, 3, &[0.0, -1.0, -2.0, 1.0, 0.0, -3.0, 2.0, 3.0, 0.0]),
            ),
            ("array real skew-symmetric\n0 0\n", dense(0, 0, &[])),
            ("array real skew-symmetric\n1 1\n", dense(1, 1, &[0.0])),
            (
                "array real general\n7 1\nnan\nNaN\ninf\n-INF\nInfinity\n-infinity\n-0.0",
                dense(7, 1, &[f32::NAN, f32::NAN, f32::INFINITY, -f32::INFINITY, f32::INFINITY, -f32::INFINITY, -0.0]),
            ),
        ] {
            assert_same(&read(rest).unwrap_or_else(|error| panic!("{rest}: {error}")), &expected);
        }
    }

    /// A byte-order mark, blank lines before the first, all ends of lines.
    #[test]
    fn texts_of_all_systems_are_read() {
        let expected = sparse(2, 2, &[(0, 1, 1.5), (1, 0, 2.0)]);
        let text = "%%MatrixMarket matrix coordinate real general\n% c\n\n2 2 2\n1 2 1.5\n2 1 2\n";
        for end in ["\n", "\r\n", "\r"] {
            for begin in ["", "\u{feff}", "\n\n", "\u{feff}\n \n"] {
                let text = format!("{begin}{text}").replace('\n', end);
                assert_same(&parse(text.as_bytes()).unwrap(), &expected);
            }
        }
        let wrong = parse(b"\r\r%%MatrixMarket matrix array real general\r1 1\rx\r").unwrap_err().to_string();
        assert_eq!(wrong, "line 5: \"x\" among the values is not a real number");
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        for (rest, expected) in [
            ("", "line 1: the format is \"\"; it must be coordinate or array"),
            ("vector real general", "line 1: the format is \"vector\"; it must be coordinate or array"),
            ("coordinate complex general", "line 1: the field is \"complex\"; it must be real, integer or pattern"),
            ("array pattern general", "line 1: the field is \"pattern\"; it must be real or integer"),
            (
                "coordinate real hermitian",
                "line 1: the symmetry is \"hermitian\"; it must be general, symmetric or skew-symmetric",
            ),
            ("array real general x", "line 1: the word after the symmetry is \"x\"; it must be absent"),
            ("array real general\n%\n\n", "the file ends before its sizes"),
            ("array real general\n2 2 2\n", "line 2: it has 3 sizes instead of 2"),
            ("coordinate real general\n% c\n2 2\n", "line 3: it has 2 sizes instead of 3"),
            ("array real general\n2 -2\n", "line 2: \"-2\" among the sizes is not a whole number"),
            (
                "coordinate real general\n2 5000000000 1\n",
                "ncols is 5000000000, more than the 4294967294 that 32-bit indices allow",
            ),
            ("coordinate real symmetric\n2 3 0\n", "line 2: 2 rows and 3 columns; a symmetric matrix is square"),
            ("coordinate real general\n2 2 2\n1 1 1\n", "the file ends after 1 of the 2 entries that it announces"),
            (
                "coordinate real general\n2 2 1\n1 1 1\n\n2 2 2\n",
                "line 5: it is not blank, but the matrix is already complete",
            ),
            ("coordinate real general\n2 2 1\n1 1\n", "line 3: it has 2 numbers instead of 3"),
            ("coordinate real general\n2 2 1\n1\n", "line 3: it has 1 numbers instead of 3"),
            ("coordinate pattern general\n2 2 1\n1 1 1 1\n", "line 3: it has 4 numbers instead of 2"),
            ("coordinate real general\n2 2 1\n0 1 1\n", "line 3: row 0 is outside 1..=2"),
            ("coordinate real general\n2 2 1\n1 3 1\n", "line 3: column 3 is outside 1..=2"),
            ("coordinate real general\n2 2 1\n1 1.0 1\n", "line 3: \"1.0\" among the columns is not a whole number"),
            ("coordinate real general\n2 2 1\n1 1 1,5\n", "line 3: \"1,5\" among the values is not a real number"),
            (
                "coordinate integer general\n2 2 1\n1 1 1.5\n",
                "line 3: \"1.5\" among the values is not an integer, as the first line says",
            ),
            ("array real general\n1 1\n-4e38\n", "line 3: \"-4e38\" is beyond f32's range, which ends at 3.4e38"),
            ("array real general\n1 2\n1\n", "the file ends after 1 of the 2 entries that it announces"),
            ("array real general\n1 1\n1 2\n", "line 3: it is not blank, but the matrix is already complete"),
            (
                "coordinate real skew-symmetric\n2 2 1\n2 2 0\n",
                "line 3: an entry on the diagonal; a skew-symmetric matrix has none",
            ),
        ] {
            assert_eq!(read(rest).unwrap_err().to_string(), expected, "{rest:?}");
        }
        let message = |bytes: &[u8]| parse(bytes).unwrap_err().to_string();
        assert_eq!(message(b""), "the file ends before its first line");
        assert_eq!(message(b"\n\r\n \n"), "the file ends before its first line");
        assert!(message(b"\n\n% a").starts_with("line 3: it starts \"% a\"; a Matrix Market file starts with"));
        assert_eq!(message(b"\n<!DOCTYPE html>"), "it is an HTML page, not a Matrix Market file");
        assert_eq!(message(b"\xff\xfe%\0%\0"), "it is UTF-16 text, which must be UTF-8, not a Matrix Market file");
        assert!(message(b"%%MatrixMarket vector").contains("%%MatrixMarket vector"));
        assert!(message(&[0xff; 500]).len() < 300);
    }

    #[test]
    fn hostile_claims_allocate_nothing() {
        let message = |rest: &str| read(rest).unwrap_err().to_string();
        assert_eq!(
            message("coordinate real general\n4000000000 1 0\n"),
            "the file claims 4000000000 rows in 61 bytes; the most allowed are 1048637 (2^20 plus one for each byte)"
        );
        assert!(message("array real general\n4000000000 0\n").contains("claims 4000000000 rows"));
        assert!(message("array real general\n0 4000000000\n").contains("claims 4000000000 columns"));
        let lies = "coordinate real general\n1 1 18446744073709551615\n";
        assert_eq!(message(lies), "the file ends after 0 of the 18446744073709551615 entries that it announces");
        let lies = "array real general\n1000000 1000000\n1\n";
        assert_eq!(message(lies), "the file ends after 1 of the 1000000000000 entries that it announces");
        let rest = format!("coordinate real general\n{MAX_FREE_ROWS} 1 0\n");
        assert_eq!(read(&rest).unwrap().nrows(), MAX_FREE_ROWS);
    }

    #[test]
    fn texts_are_short_and_exact() {
        let matrix = sparse(2, 2, &[(0, 0, 0.1), (0, 1, 1e-45), (1, 1, f32::NEG_INFINITY)]);
        let text = "%%MatrixMarket matrix coordinate real general\n2 2 3\n1 1 0.1\n1 2 1e-45\n2 2 -inf\n";
        assert_eq!(String::from_utf8(to_bytes(&matrix).unwrap()).unwrap(), text);
        let text = "%%MatrixMarket matrix array real general\n2 2\n1.0\n3.0\n-0.0\nNaN\n";
        let bytes = to_bytes(&dense(2, 2, &[1.0, -0.0, 3.0, f32::NAN])).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
        let bytes = to_bytes(&pattern(1, 2, &[(0, 1)])).unwrap();
        assert_eq!(bytes, b"%%MatrixMarket matrix coordinate pattern general\n1 2 1\n1 2\n");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(matrix in any_matrix()) {
            let read = parse(&to_bytes(&matrix).unwrap()).unwrap();
            assert_same(&with_one_nan(read), &with_one_nan(matrix));
        }

        /// Every f32 comes back, all digits counted.
        #[test]
        fn values_keep_their_bits(value: u32) {
            let matrix = with_one_nan(dense(1, 1, &[f32::from_bits(value)]));
            assert_same(&with_one_nan(parse(&to_bytes(&matrix).unwrap()).unwrap()), &matrix);
        }

        #[test]
        fn texts_of_the_right_kind_never_panic(
            kind in "(coordinate|array) (real|integer|pattern) (general|symmetric|skew-symmetric)",
            sizes in "[0-9]{1,10} [0-3]( [0-4])?", rest in "([0-4]( [0-4]){0,3}\n){0,6}",
        ) {
            check_parsed(MatrixFormat::MatrixMarket, format!("%%MatrixMarket matrix {kind}\n{sizes}\n{rest}").as_bytes());
        }
    }
}
