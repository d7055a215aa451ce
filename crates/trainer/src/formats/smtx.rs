//! `.smtx`, the patterns of the Deep Learning Matrix Collection (Gale et al. 2020, "Sparse GPU kernels for deep
//! learning").
//!
//! ```text
//! rows, columns, nnz
//! row offsets, from 0, separated by blanks
//! column indices, from 0, separated by blanks
//! ```
//!
//! There are no values: a sparse matrix is written without its own. The collection does not promise sorted columns.

use std::fmt::Write as _;

use sparse_kernels::CsrPattern;

use super::entries::size;
use super::error::excerpt;
use super::foreign::recognize;
use super::{ContentError, LineError, Matrix, MatrixFormat, text};

/// The pattern in a file's bytes.
///
/// # Errors
/// [`ContentError`] saying what is wrong and in which line.
pub fn parse(bytes: &[u8]) -> Result<Matrix, ContentError> {
    let mut lines = text::lines(bytes).skip_while(|(line, _)| line.trim_ascii().is_empty());
    let first = lines.next();
    let first_number = first.map_or(1, |(_, number)| number);
    let sizes = numbers("sizes", first).map_err(|error| match recognize(bytes) {
        Some(what) => ContentError::Foreign { what, expected: "a pattern of the collection" },
        None => error,
    })?;
    let &[nrows, ncols, nnz] = sizes.as_slice() else {
        return Err(wrong(first_number, LineError::Count { what: "sizes", got: sizes.len(), expected: 3 }));
    };
    let row_offsets = numbers("row offsets", lines.next())?;
    let mut col_indices = match lines.next() {
        None if nnz == 0 => Vec::new(),
        line => numbers("column indices", line)?,
    };
    if col_indices.len() != nnz as usize {
        let (got, expected) = (col_indices.len(), u64::from(nnz));
        return Err(wrong(first_number + 2, LineError::Count { what: "column indices", got, expected }));
    }
    if let Some((_, line)) = lines.find(|(line, _)| !line.trim_ascii().is_empty()) {
        return Err(wrong(line, LineError::Extra));
    }
    // The collection does not promise sorted columns. Offsets that run backwards are for the pattern's own check to report,
    // and must not make the same columns be sorted again and again.
    let forwards = row_offsets.is_sorted();
    for bounds in row_offsets.windows(2).filter(|_| forwards) {
        if let &[start, end] = bounds
            && let Some(row) = col_indices.get_mut(start as usize..end as usize)
        {
            row.sort_unstable();
        }
    }
    let (nrows, ncols) = (size("nrows", u64::from(nrows))?, size("ncols", u64::from(ncols))?);
    Ok(Matrix::Pattern(CsrPattern::new(nrows, ncols, row_offsets, col_indices)?))
}

/// The bytes of a file with this pattern.
///
/// # Errors
/// [`ContentError::Unwritable`] for a dense matrix.
pub fn to_bytes(matrix: &Matrix) -> Result<Vec<u8>, ContentError> {
    let pattern = match matrix {
        Matrix::Sparse(matrix) => matrix.pattern(),
        Matrix::Pattern(pattern) => pattern,
        Matrix::Dense(_) => {
            let (kind, format) = (matrix.kind(), MatrixFormat::Smtx);
            return Err(ContentError::Unwritable { kind, format, instead: ".npy or .mtx" });
        }
    };
    let mut text = format!("{}, {}, {}\n", pattern.nrows(), pattern.ncols(), pattern.nnz());
    for numbers in [pattern.row_offsets(), pattern.col_indices()] {
        for (place, number) in numbers.iter().enumerate() {
            // Writing to a string cannot fail.
            let _ = write!(text, "{}{number}", if place == 0 { "" } else { " " });
        }
        text.push('\n');
    }
    Ok(text.into_bytes())
}

fn numbers(what: &'static str, line: Option<(&[u8], usize)>) -> Result<Vec<u32>, ContentError> {
    let (line, number) = line.ok_or(ContentError::Ends { expected: what })?;
    let words = line.split(|byte| matches!(byte, b' ' | b',' | b'\t' | b'\r')).filter(|word| !word.is_empty());
    let parse = |word: &[u8]| {
        let parsed = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
        let expected = "a whole number of 32 bits";
        parsed.ok_or_else(|| wrong(number, LineError::Number { what, got: excerpt(word), expected }))
    };
    words.map(parse).collect()
}

fn wrong(line: usize, source: LineError) -> ContentError {
    ContentError::Line { line, source }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_of_the_collection_are_read() {
        let expected = pattern(2, 3, &[(0, 0), (0, 2), (1, 1)]);
        // With unsorted columns and the separators that occur.
        for text in [
            "\u{feff}\r\n2, 3, 3\r0 2 3\r2 0 1\r",
            "2, 3, 3\n0 2 3 \n2 0 1 \n",
            "2,3,3\r\n0\t2 3\r\n0 2 1",
            "2 3 3\n0,2,3\n0,2,1\n\n \n",
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), expected, "{text:?}");
        }
        assert_eq!(parse(b"0, 7, 0\n0").unwrap(), pattern(0, 7, &[]));
        assert_eq!(to_bytes(&expected).unwrap(), b"2, 3, 3\n0 2 3\n0 2 1\n");
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        for (text, expected) in [
            ("", "the file ends before its sizes"),
            ("\n", "the file ends before its sizes"),
            ("2, 3, 3", "the file ends before its row offsets"),
            ("2, 3, 3\n0 2 3", "the file ends before its column indices"),
            ("2, 3\n0 0 0\n\n", "line 1: it has 2 sizes instead of 3"),
            ("2, 3, 3\n0 2 3\n0 1\n", "line 3: it has 2 column indices instead of 3"),
            ("2, 3, 0\n0 0 0\n\n\nx\n", "line 5: it is not blank, but the matrix is already complete"),
            ("2, 3, x\n", "line 1: \"x\" among the sizes is not a whole number of 32 bits"),
            ("1, 2, 1\n0 -1\n", "line 2: \"-1\" among the row offsets is not a whole number of 32 bits"),
            (
                "1, 2, 1\n0 1\n\u{fffd}",
                "line 3: \"\u{fffd}\" among the column indices is not a whole number of 32 bits",
            ),
            ("1, 5000000000, 1\n", "line 1: \"5000000000\" among the sizes is not a whole number of 32 bits"),
            ("1, 4294967295, 0\n0 0\n\n", "ncols is 4294967295, more than the 4294967294 that 32-bit indices allow"),
            ("4000000000, 1, 0\n0\n\n", "row_offsets has 1 entries; a matrix of 4000000000 rows needs 4000000001"),
            ("2, 3, 1\n0 9 1\n0\n", "row_offsets runs backwards at row 1: 9 then 1"),
            ("1, 2, 1\n0 1\n5\n", "row 0: column 5 is outside 0..2"),
            ("1, 2, 2\n0 2\n1 1\n", "row 0: column 1 follows 1; columns must be strictly increasing"),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap_err().to_string(), expected, "{text:?}");
        }
        let page = parse(b"<html>").unwrap_err().to_string();
        assert_eq!(page, "it is an HTML page, not a pattern of the collection");
        let long = format!("1, 2, {}", "9".repeat(1000));
        assert!(parse(long.as_bytes()).unwrap_err().to_string().len() < 120);
        let message = to_bytes(&dense(1, 1, &[0.0])).unwrap_err().to_string();
        assert_eq!(message, "a dense matrix cannot be written as .smtx (DLMC pattern); write it as .npy or .mtx");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(matrix in any_matrix()) {
            let Ok(bytes) = to_bytes(&matrix) else {
                prop_assert!(matches!(matrix, Matrix::Dense(_)));
                return Ok(());
            };
            let expected = matrix.into_pattern().unwrap();
            prop_assert_eq!(parse(&bytes).unwrap(), Matrix::Pattern(expected));
        }

        #[test]
        fn texts_of_the_right_kind_never_panic(text in "[0-9]{1,3}[, ]{1,2}[0-9]{1,10}, [0-4]\n([0-9]{1,2} ){0,6}\n([0-9] ){0,5}\n?") {
            check_parsed(MatrixFormat::Smtx, text.as_bytes());
        }
    }
}
