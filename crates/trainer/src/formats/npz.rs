//! `.npz` of `scipy.sparse.save_npz`: a zip archive of NumPy arrays.
//!
//! | format | arrays |
//! | --- | --- |
//! | `csr`, `csc` | `indices`, `indptr`, `format`, `shape`, `data` |
//! | `coo` | `row` and `col`, or `coords` (2×nnz); `format`, `shape`, `data` |
//!
//! Indices are 32 or 64 bits wide, signed or not; data is whatever [`super::npy`] reads; members are stored or
//! deflated. As in SciPy, columns may be unsorted, and entries at one position are summed (here in `f64`). `bsr` and
//! `dia` are errors, and other arrays (`_is_array`) are not looked at.
//!
//! Written is `csr` with `<f4` data and, where they suffice, `<i4` indices: the same bytes for the same matrix. A
//! pattern is written with ones as its data, and so is read as sparse.

use std::io::{Cursor, Read, Write};

use zip::read::ZipArchive;
use zip::result::ZipError;
use zip::write::{SimpleFileOptions, ZipWriter};
use zip::{CompressionMethod, DateTime};

use super::entries::{self, check_claim, size};
use super::npy::{self, Array, NumberArray};
use super::unfold::{Allowance, UnfoldsTooFar, limit};
use super::{ContentError, Matrix, MatrixFormat, NpyError};

/// The matrix in a file's bytes.
///
/// # Errors
/// [`ContentError`] saying what is wrong and in which array.
pub fn parse(bytes: &[u8]) -> Result<Matrix, ContentError> {
    let mut archive = Archive::open(bytes)?;
    let format = archive.array("format", |array| array.text())?;
    let [nrows, ncols] = archive.array("shape", |array| array.expect_one_dimension()?.sizes())?;
    let (nrows_claimed, nrows, ncols) = (nrows, size("nrows", nrows)?, size("ncols", ncols)?);
    if !matches!(format.as_str(), "csr" | "csc" | "coo") {
        return Err(ContentError::SparseFormat { got: format });
    }
    let values = archive.array("data", |array| array.expect_one_dimension()?.floats())?;
    let list = |array: Array<'_>| array.expect_one_dimension()?.indices();
    let lengths = |name, got: usize| match values.len() {
        expected if got == expected => Ok(()),
        expected => Err(ContentError::Lengths { name, got, other: "data", expected }),
    };
    if format == "coo" {
        let [rows, columns] = match archive.has("coords") {
            true => archive.array("coords", |array| array.index_rows())?,
            false => [archive.array("row", list)?, archive.array("col", list)?],
        };
        lengths("row", rows.len())?;
        lengths("col", columns.len())?;
        check_claim("rows", nrows_claimed, bytes.len())?;
        let entries = rows.into_iter().zip(columns).zip(values).map(|((row, column), value)| (row, column, value));
        return Ok(Matrix::Sparse(entries::from_entries(nrows, ncols, entries.collect())?));
    }
    let (offsets, indices) = (archive.array("indptr", list)?, archive.array("indices", list)?);
    lengths("indices", indices.len())?;
    if format == "csr" {
        return Ok(Matrix::Sparse(entries::from_rows(nrows, ncols, offsets, indices, values)?));
    }
    // The columns of a matrix are the rows of its transpose. Its own rows are only claimed.
    check_claim("rows", nrows_claimed, bytes.len())?;
    let transposed = entries::from_rows(ncols, nrows, offsets, indices, values).map_err(|error| match error {
        ContentError::Format(error) => ContentError::Transposed(error),
        // Positions in the message are those of the matrix.
        ContentError::Sum { row, column, sum } => ContentError::Sum { row: column, column: row, sum },
        other => other,
    })?;
    Ok(Matrix::Sparse(entries::transpose(&transposed)?))
}

pub(super) struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// One for all members, and relative to the file instead of to each of them: the ones of a pattern fold a thousand
    /// times, but not the indices beside them.
    allowance: Allowance,
}

impl<'a> Archive<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, ContentError> {
        // The archive's own count of its members is believed, which costs 12 MB at worst: it has 16 bits, or must fit
        // the file.
        let zip = ZipArchive::new(Cursor::new(bytes))?;
        if zip.has_duplicate_names() {
            return Err(ContentError::DuplicateMembers);
        }
        Ok(Self { zip, allowance: Allowance::new(bytes.len() as u64) })
    }

    fn has(&self, name: &str) -> bool {
        self.zip.index_for_name_raw(format!("{name}.npy").as_bytes()).is_some()
    }

    /// All arrays of numbers.
    pub fn number_arrays(&mut self) -> Result<Vec<NumberArray>, ContentError> {
        let names = self.zip.file_names().collect::<Result<Vec<_>, _>>()?;
        let names: Vec<String> = names.iter().filter_map(|name| name.strip_suffix(".npy")).map(str::to_owned).collect();
        let mut arrays = Vec::new();
        for name in names {
            let read = |array: Array<'_>| match array.is_text() {
                true => Ok(None),
                false => array.numbers().map(Some),
            };
            if let Some((shape, values)) = self.array(&name, read)? {
                arrays.push(NumberArray { name, shape, values });
            }
        }
        Ok(arrays)
    }

    /// Reads what is wanted of an array.
    fn array<T>(&mut self, name: &str, read: impl FnOnce(Array<'_>) -> Result<T, NpyError>) -> Result<T, ContentError> {
        let owned = || name.to_owned();
        let index = self.zip.index_for_name_raw(format!("{name}.npy").as_bytes());
        let member = self.zip.by_index(index.ok_or(ContentError::MissingArray { name: owned() })?).map_err(
            |error| match error {
                ZipError::Io(source) => ContentError::Member { name: owned(), source },
                other => ContentError::Member { name: owned(), source: std::io::Error::other(other) },
            },
        )?;
        // Grows with what is there: the size in the archive is a claim.
        let mut bytes = Vec::new();
        self.allowance.reader(member).read_to_end(&mut bytes).map_err(|source| {
            match source.get_ref().and_then(|inner| inner.downcast_ref::<UnfoldsTooFar>()) {
                Some(&too_far) => ContentError::UnfoldsTooFar(too_far),
                None => ContentError::Member { name: owned(), source },
            }
        })?;
        Array::parse(&bytes).and_then(read).map_err(|source| ContentError::Array { name: owned(), source })
    }
}

/// The bytes of a file with this matrix.
///
/// # Errors
/// [`ContentError::Unwritable`] for a dense matrix.
pub fn to_bytes(matrix: &Matrix) -> Result<Vec<u8>, ContentError> {
    let (pattern, data) = match matrix {
        Matrix::Sparse(matrix) => (matrix.pattern().as_ref(), matrix.values().to_vec()),
        Matrix::Pattern(pattern) => (pattern, vec![1.0; pattern.nnz()]),
        Matrix::Dense(_) => {
            let (kind, format) = (matrix.kind(), MatrixFormat::Npz);
            return Err(ContentError::Unwritable { kind, format, instead: ".npy or .mtx" });
        }
    };
    // As SciPy chooses: offsets and indices have one type.
    let wide = pattern.nnz().max(pattern.ncols()) > i32::MAX as usize;
    let shape = [pattern.nrows(), pattern.ncols()].map(|size| size as u64);
    let members = [
        ("indices.npy", index_array(pattern.col_indices(), wide)),
        ("indptr.npy", index_array(pattern.row_offsets(), wide)),
        ("format.npy", npy::array("|S3", "()", "csr".bytes())),
        ("shape.npy", npy::array("<i8", "(2,)", shape.iter().flat_map(|size| size.to_le_bytes()))),
        ("data.npy", npy::f32_array(&format!("({},)", data.len()), &data)),
    ];
    let unfolded: u64 = members.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    let deflated = zipped(&members, CompressionMethod::Deflated)?;
    // Regular patterns fold further than readers allow.
    if unfolded > limit(deflated.len() as u64) { zipped(&members, CompressionMethod::Stored) } else { Ok(deflated) }
}

fn index_array(indices: &[u32], wide: bool) -> Vec<u8> {
    let shape = format!("({},)", indices.len());
    match wide {
        true => npy::array("<i8", &shape, indices.iter().flat_map(|&index| u64::from(index).to_le_bytes())),
        false => npy::array("<i4", &shape, indices.iter().flat_map(|index| index.to_le_bytes())),
    }
}

fn zipped(members: &[(&str, Vec<u8>)], method: CompressionMethod) -> Result<Vec<u8>, ContentError> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in members {
        // Everything that another build or moment could change is set.
        let options = SimpleFileOptions::default()
            .compression_method(method)
            .last_modified_time(DateTime::default())
            .system(zip::System::Unix)
            .unix_permissions(0o644)
            .large_file(u32::try_from(bytes.len()).is_err());
        zip.start_file(*name, options)?;
        zip.write_all(bytes).map_err(ZipError::Io)?;
    }
    Ok(zip.finish()?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use proptest::prelude::*;
    use sparse_kernels::Csr;
    use zip::write::FileOptions;

    fn u8s(values: &[u8]) -> Vec<u8> {
        npy::array("|u1", &format!("({},)", values.len()), values.iter().copied())
    }

    fn i8s(values: &[i64]) -> Vec<u8> {
        npy::array("<i8", &format!("({},)", values.len()), values.iter().flat_map(|value| value.to_le_bytes()))
    }

    fn format(name: &str) -> Vec<u8> {
        npy::array(&format!("|S{}", name.len()), "()", name.bytes())
    }

    fn archive(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
        zipped(members, CompressionMethod::Deflated).unwrap()
    }

    /// Of the matrix [[1, 0, 2], [0, 0, 3]], with some arrays replaced.
    fn csr(replaced: &[(&str, Vec<u8>)]) -> Result<Matrix, ContentError> {
        let members = [
            ("indices.npy", i8s(&[0, 2, 2])),
            ("indptr.npy", i8s(&[0, 2, 3])),
            ("format.npy", format("csr")),
            ("shape.npy", i8s(&[2, 3])),
            ("data.npy", u8s(&[1, 2, 3])),
        ];
        let replacement = |(name, bytes): (&'static str, Vec<u8>)| {
            let other = replaced.iter().find(|other| other.0 == name);
            (name, other.map_or(bytes, |other| other.1.clone()))
        };
        parse(&archive(&members.map(replacement)))
    }

    fn example() -> Matrix {
        sparse(2, 3, &[(0, 0, 1.0), (0, 2, 2.0), (1, 2, 3.0)])
    }

    #[test]
    fn all_formats_are_read() {
        assert_same(&csr(&[]).unwrap(), &example());
        // Unsorted, and one entry in two parts.
        let parts = csr(&[
            ("indices.npy", i8s(&[2, 0, 2, 2])),
            ("indptr.npy", i8s(&[0, 3, 4])),
            ("data.npy", u8s(&[1, 1, 1, 3])),
        ]);
        assert_same(&parts.unwrap(), &example());
        let unicode = npy::array("<U3", "()", "csr".chars().flat_map(|letter| u32::from(letter).to_le_bytes()));
        assert_same(&csr(&[("format.npy", unicode)]).unwrap(), &example());
        let unicode = npy::array(">U3", "()", "csr".chars().flat_map(|letter| u32::from(letter).to_be_bytes()));
        assert_same(&csr(&[("format.npy", unicode)]).unwrap(), &example());
        let csc = csr(&[
            ("format.npy", format("csc")),
            ("indptr.npy", i8s(&[0, 1, 1, 3])),
            ("indices.npy", i8s(&[0, 1, 0])),
            ("data.npy", u8s(&[1, 3, 2])),
        ]);
        assert_same(&csc.unwrap(), &example());
        let coo = |indices: &[(&str, Vec<u8>)]| {
            let mut members =
                vec![("format.npy", format("coo")), ("shape.npy", i8s(&[2, 3])), ("data.npy", u8s(&[3, 1, 2]))];
            members.extend_from_slice(indices);
            parse(&archive(&members))
        };
        let (rows, columns) = (i8s(&[1, 0, 0]), i8s(&[2, 0, 2]));
        assert_same(&coo(&[("row.npy", rows), ("col.npy", columns)]).unwrap(), &example());
        let coords = npy::array("<i4", "(2, 3)", [1, 0, 0, 2, 0, 2].into_iter().flat_map(i32::to_le_bytes));
        assert_same(&coo(&[("coords.npy", coords.clone())]).unwrap(), &example());
        let mut fortran = String::from_utf8_lossy(&coords).replace("False", "True ").into_bytes();
        // The one byte that is not UTF-8 became three.
        fortran.splice(0..3, [0x93]);
        fortran.truncate(128);
        fortran.extend([1, 2, 0, 0, 0, 2].into_iter().flat_map(i32::to_le_bytes));
        assert_same(&coo(&[("coords.npy", fortran)]).unwrap(), &example());
        let short = coo(&[("row.npy", i8s(&[1, 0])), ("col.npy", i8s(&[1, 0]))]).unwrap_err().to_string();
        assert_eq!(short, "array row has 2 entries; array data has 3");
        let square = npy::array("|u1", "(3, 2)", [0; 6].into_iter());
        let message = coo(&[("coords.npy", square)]).unwrap_err().to_string();
        assert_eq!(message, "array coords: it has 2 dimensions; it must have 2, the first of them 2 long");
    }

    #[test]
    fn wrong_files_are_refused_by_name() {
        for (name, bytes, expected) in [
            (
                "format.npy",
                format("bsr"),
                "the sparse format is \"bsr\"; it must be csr, csc or coo (in SciPy, convert it with .tocsr())",
            ),
            ("format.npy", u8s(&[1]), "array format: the element type is \"|u1\"; it must be text"),
            ("format.npy", npy::array("|S1", "(2,)", "ab".bytes()), "array format: it has 2 entries; it must have 1"),
            ("shape.npy", i8s(&[3]), "array shape: it has 1 entries; it must have 2"),
            ("shape.npy", i8s(&[2, -3]), "array shape: entry 1 is -3; it must be 0 to 4294967294"),
            (
                "shape.npy",
                i8s(&[2, 1 << 40]),
                "ncols is 1099511627776, more than the 4294967294 that 32-bit indices allow",
            ),
            ("shape.npy", i8s(&[3, 3]), "row_offsets has 3 entries; a matrix of 3 rows needs 4"),
            ("shape.npy", i8s(&[2, 2]), "row 0: column 2 is outside 0..2"),
            ("indices.npy", u8s(&[0, 2]), "array indices has 2 entries; array data has 3"),
            ("indices.npy", i8s(&[0, -1, 2]), "array indices: entry 1 is -1; it must be 0 to 4294967294"),
            ("indices.npy", i8s(&[0, 1 << 32, 2]), "array indices: entry 1 is 4294967296; it must be 0 to 4294967294"),
            (
                "indices.npy",
                npy::f32_array("(3,)", &[0.0; 3]),
                "array indices: the element type is \"<f4\"; it must be an integer",
            ),
            ("indptr.npy", u8s(&[0, 9, 3]), "row_offsets runs backwards at row 1: 9 then 3"),
            ("data.npy", npy::f32_array("(1, 3)", &[0.0; 3]), "array data: it has 2 dimensions; it must have 1"),
            ("data.npy", format("csr"), "array data: it has 0 dimensions; it must have 1"),
            ("data.npy", b"text".to_vec(), "array data: it does not start with \\x93NUMPY, so it is not an .npy file"),
        ] {
            assert_eq!(csr(&[(name, bytes)]).unwrap_err().to_string(), expected, "{name}");
        }
        let csc = csr(&[("format.npy", format("csc"))]).unwrap_err().to_string();
        assert_eq!(
            csc,
            "read as the csr matrix of its transpose: row_offsets has 3 entries; a matrix of 3 rows needs 4"
        );
        let missing = parse(&archive(&[("a.npy", u8s(&[]))])).unwrap_err().to_string();
        assert_eq!(missing, "there is no array format, which scipy.sparse.save_npz always writes");
        let text = parse(b"text").unwrap_err().to_string();
        assert!(text.starts_with("not a zip archive, so not an .npz file: "), "{text}");
        let message = to_bytes(&dense(1, 1, &[0.0])).unwrap_err().to_string();
        assert_eq!(message, "a dense matrix cannot be written as .npz (SciPy sparse); write it as .npy or .mtx");
    }

    #[test]
    fn damage_is_found_by_the_checksum() {
        let mut bytes = zipped(&[("format.npy", format("csr"))], CompressionMethod::Stored).unwrap();
        let place = bytes.windows(3).position(|part| part == b"csr").unwrap();
        bytes[place + 2] = b'c';
        let message = parse(&bytes).unwrap_err().to_string();
        assert!(message.starts_with("array format: ") && message.contains("checksum"), "{message}");
    }

    /// Two directory entries of one name: programs differ in which they take.
    #[test]
    fn members_of_the_same_name_are_refused() {
        let mut bytes = archive(&[("format.npy", format("csr")), ("xormat.npy", format("csc"))]);
        while let Some(place) = bytes.windows(6).position(|part| part == b"xormat") {
            bytes[place] = b'f';
        }
        assert!(matches!(parse(&bytes), Err(ContentError::DuplicateMembers)));
    }

    #[test]
    fn bombs_are_stopped() {
        let zeros = npy::array("<f8", "(10485760,)", std::iter::repeat_n(0, 80 << 20));
        let message = csr(&[("data.npy", zeros)]).unwrap_err().to_string();
        assert!(message.contains("expand to more than") && message.contains("store it uncompressed"), "{message}");
        // Each of them alone would be allowed.
        let zeros = || npy::array("|u1", "(40000000,)", std::iter::repeat_n(0, 40_000_000));
        let parts = ["data.npy", "indices.npy"].map(|name| (name, zeros()));
        assert!(matches!(csr(&parts), Err(ContentError::UnfoldsTooFar(_))));
    }

    #[test]
    fn hostile_claims_allocate_nothing() {
        for name in ["csc", "coo"] {
            let empty = || i8s(&[]);
            let members = [
                ("format.npy", format(name)),
                ("shape.npy", i8s(&[4_000_000_000, 0])),
                ("data.npy", empty()),
                ("indices.npy", empty()),
                ("indptr.npy", i8s(&[0])),
                ("row.npy", empty()),
                ("col.npy", empty()),
            ];
            let message = parse(&archive(&members)).unwrap_err().to_string();
            assert!(message.starts_with("the file claims 4000000000 rows in "), "{message}");
        }
        // A member that claims 4 GiB and has 100 bytes: wherever its true length stands, a lie is put.
        let member = npy::array("|S3", "()", "csr".bytes());
        let mut bytes = zipped(&[("format.npy", member.clone())], CompressionMethod::Deflated).unwrap();
        let length = (member.len() as u32).to_le_bytes();
        while let Some(place) = bytes.windows(4).position(|part| part == length) {
            bytes[place..place + 4].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
        }
        assert!(parse(&bytes).is_err());
    }

    /// What is written can be read again, also where it folds hundreds of times.
    #[test]
    fn regular_patterns_are_no_bombs() {
        // Two of every four columns, as in a mask of SciPy.
        let columns: Vec<u32> = (0..1024).filter(|column| column % 4 < 2).collect();
        let offsets = (0..=1024).map(|row| row * 512).collect();
        let regular = sparse_kernels::CsrPattern::new(1024, 1024, offsets, columns.repeat(1024)).unwrap();
        for pattern in [regular, sparse_kernels::CsrPattern::full(600, 600).unwrap()] {
            let bytes = to_bytes(&Matrix::Pattern(pattern.clone())).unwrap();
            assert!(bytes.len() as u64 * 64 + (1 << 20) < 8 * pattern.nnz() as u64, "{}", bytes.len());
            assert_eq!(parse(&bytes).unwrap().into_pattern().unwrap(), pattern);
        }
    }

    #[test]
    fn encrypted_and_foreign_archives_are_refused() {
        let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
        zip.add_directory("format.npy", FileOptions::<()>::default()).unwrap();
        let bytes = zip.finish().unwrap().into_inner();
        assert!(matches!(parse(&bytes), Err(ContentError::MissingArray { name }) if name == "format"));
        let mut bytes = archive(&[("format.npy", format("csr"))]);
        // The first flag of a directory entry says that it is encrypted.
        let entry = bytes.windows(4).position(|part| part == b"PK\x01\x02").unwrap();
        bytes[entry + 8] |= 1;
        let message = parse(&bytes).unwrap_err().to_string();
        assert!(message.starts_with("array format: "), "{message}");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(matrix in any_matrix()) {
            let Ok(bytes) = to_bytes(&matrix) else {
                prop_assert!(matches!(matrix, Matrix::Dense(_)));
                return Ok(());
            };
            prop_assert_eq!(&to_bytes(&matrix).unwrap(), &bytes);
            let expected = match matrix {
                Matrix::Pattern(pattern) => {
                    let ones = vec![1.0; pattern.nnz()];
                    Matrix::Sparse(Csr::new(pattern.into(), ones).unwrap())
                }
                other => other,
            };
            assert_same(&parse(&bytes).unwrap(), &expected);
        }

        /// Arrays that are right each and need not fit together.
        #[test]
        fn arrays_of_the_right_kind_never_panic(
            name in "csr|csc|coo", shape in prop::collection::vec(-1i64..5, 1..4),
            lists in prop::collection::vec(prop::collection::vec(-1i64..5, 0..6), 5),
        ) {
            let names = ["data.npy", "indices.npy", "indptr.npy", "row.npy", "col.npy"];
            let mut members: Vec<_> = names.into_iter().zip(lists.iter().map(|list| i8s(list))).collect();
            members.extend([("format.npy", format(&name)), ("shape.npy", i8s(&shape))]);
            check_parsed(MatrixFormat::Npz, &archive(&members));
        }

        /// Right entries in a random order and in parts make the matrix that they make sorted.
        #[test]
        fn order_does_not_matter(entries in prop::collection::vec((0i64..4, 0i64..5, 1u8..9), 0..20)) {
            let of = |part: fn(&(i64, i64, u8)) -> i64| i8s(&entries.iter().map(part).collect::<Vec<_>>());
            let mut dense = [0.0; 20];
            for &(row, column, value) in &entries {
                dense[(row * 5 + column) as usize] += f32::from(value);
            }
            let coo = archive(&[
                ("format.npy", format("coo")), ("shape.npy", i8s(&[4, 5])), ("data.npy", of(|e| e.2.into())),
                ("row.npy", of(|e| e.0)), ("col.npy", of(|e| e.1)),
            ]);
            // The same in columns, unsorted within each.
            let mut by_column = entries.clone();
            by_column.sort_by_key(|entry| entry.1);
            let of = |part: fn(&(i64, i64, u8)) -> i64| i8s(&by_column.iter().map(part).collect::<Vec<_>>());
            let offsets: Vec<_> = (0..=5).map(|c| by_column.iter().filter(|e| e.1 < c).count() as i64).collect();
            let csc = archive(&[
                ("format.npy", format("csc")), ("shape.npy", i8s(&[4, 5])), ("data.npy", of(|e| e.2.into())),
                ("indices.npy", of(|e| e.0)), ("indptr.npy", i8s(&offsets)),
            ]);
            for bytes in [coo, csc] {
                let Matrix::Sparse(matrix) = parse(&bytes).unwrap() else { panic!("another kind") };
                prop_assert_eq!(matrix.to_dense(), dense);
            }
        }
    }
}
