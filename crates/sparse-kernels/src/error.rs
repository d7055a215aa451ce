//! Error types. Each message has the operation or format, what was expected, what came, and where.

use thiserror::Error;

/// A pattern or a set of values that breaks a format's invariant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FormatError {
    /// `nrows`, `ncols` or the number of entries does not fit the 32-bit indices.
    #[error("{what} is {got}, more than the {max} that 32-bit indices allow")]
    TooLarge {
        /// `nrows`, `ncols` or `nnz`.
        what: &'static str,
        /// The size asked for.
        got: u64,
        /// The largest one allowed.
        max: u64,
    },
    /// `row_offsets` has the wrong length.
    #[error("row_offsets has {got} entries; a matrix of {nrows} rows needs {}", nrows + 1)]
    OffsetsLength {
        /// Rows of the matrix.
        nrows: usize,
        /// Length found.
        got: usize,
    },
    /// `row_offsets[0]` is not zero.
    #[error("row_offsets starts at {got}; it must start at 0")]
    OffsetsStart {
        /// Value found.
        got: u32,
    },
    /// An offset is smaller than the one before it.
    #[error("row_offsets runs backwards at row {row}: {from} then {to}")]
    OffsetsDecrease {
        /// Row whose end is before its start.
        row: usize,
        /// Its start.
        from: u32,
        /// Its end.
        to: u32,
    },
    /// The last offset is not the number of column indices.
    #[error("row_offsets ends at {end}, but there are {nnz} column indices")]
    OffsetsEnd {
        /// Last offset.
        end: u32,
        /// Number of column indices.
        nnz: usize,
    },
    /// Activities of another number of rows or columns.
    #[error("{got} {what} activities for {expected} {what}s")]
    Activities {
        /// `row` or `column`.
        what: &'static str,
        /// Rows or columns of the matrix.
        expected: usize,
        /// Activities found.
        got: usize,
    },
    /// A row is outside the matrix.
    #[error("row {row} is outside 0..{nrows}")]
    RowOutside {
        /// Row found.
        row: u32,
        /// Rows of the matrix.
        nrows: usize,
    },
    /// A column is outside the matrix.
    #[error("row {row}: column {column} is outside 0..{ncols}")]
    ColumnOutside {
        /// Row of the entry.
        row: usize,
        /// Column found.
        column: u32,
        /// Columns of the matrix.
        ncols: usize,
    },
    /// Columns of one row are not strictly increasing.
    #[error("row {row}: column {column} follows {previous}; columns must be strictly increasing")]
    ColumnsUnsorted {
        /// Row of the entry.
        row: usize,
        /// Column found.
        column: u32,
        /// The column before it.
        previous: u32,
    },
    /// The number of values is not the number of stored entries.
    #[error("{got} values for a pattern of {nnz} entries")]
    ValuesLength {
        /// Stored entries of the pattern.
        nnz: usize,
        /// Values given.
        got: usize,
    },
    /// Taps that a matrix of a convolution cannot have.
    #[error("{taps} taps: they must divide the {ncols} columns")]
    Taps {
        /// Columns of the matrix.
        ncols: usize,
        /// Taps given.
        taps: usize,
    },
    /// A block size that there are no kernels for.
    #[error("blocks of {r}×{c}: rows and columns of a block must be 1, 2, 4, 8 or 16")]
    BlockSize {
        /// Rows of a block.
        r: usize,
        /// Columns of a block.
        c: usize,
    },
    /// A pattern of another shape than the matrix, or its grid of blocks, has.
    #[error("a pattern of {}×{}, expected {}×{}", got[0], got[1], expected[0], expected[1])]
    BlockGrid {
        /// Rows and columns that it must have.
        expected: [usize; 2],
        /// Rows and columns that it has.
        got: [usize; 2],
    },
    /// An entry that lies in no stored block.
    #[error("row {row}: column {column} is not in a stored block")]
    NotStored {
        /// Row of the entry.
        row: usize,
        /// Its column.
        column: usize,
    },
}

/// Operands whose shapes do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// Two sizes that must be equal are not.
    #[error("{op}: {what} is {got}, expected {expected}")]
    Mismatch {
        /// The operation.
        op: &'static str,
        /// The quantity that does not fit.
        what: &'static str,
        /// What the other operands ask for.
        expected: usize,
        /// What was given.
        got: usize,
    },
    /// A matrix view that its slice cannot hold.
    #[error("a view of {nrows}×{ncols} with leading dimension {leading} does not fit a slice of {len} elements")]
    View {
        /// Rows of the view.
        nrows: usize,
        /// Columns of the view.
        ncols: usize,
        /// Distance between rows.
        leading: usize,
        /// Length of the slice.
        len: usize,
    },
    /// A size that must not be zero, or must be a multiple of something, is not.
    #[error("{op}: {what} is {got}; it must be {rule}")]
    Rule {
        /// The operation.
        op: &'static str,
        /// The quantity.
        what: &'static str,
        /// What was given.
        got: usize,
        /// What would be valid.
        rule: &'static str,
    },
}

/// What a backend's operation may fail with.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BackendError {
    /// Operands do not fit together.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// A pattern or its values are invalid.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The instruction set asked for is not on this machine.
    #[error("instruction set {name} is not available on this machine (available: {available})")]
    IsaUnavailable {
        /// The one asked for.
        name: &'static str,
        /// Those that would work.
        available: String,
    },
    /// The device has no room.
    #[error("cannot allocate {bytes} bytes")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
    },
    /// There is no GPU to use.
    #[error("no GPU: {reason}")]
    NoAdapter {
        /// Why, and what would help.
        reason: String,
    },
    /// A GPU cannot do what was asked.
    #[error("{device} cannot do this: {what}")]
    Unsupported {
        /// The device.
        device: String,
        /// What it cannot do or lacks.
        what: String,
    },
    /// A GPU has no room.
    #[error(
        "{device} cannot allocate {bytes} more bytes; {held} are in use{}",
        available.map_or_else(String::new, |most| format!(", and a buffer may have at most {most}"))
    )]
    DeviceMemory {
        /// The device.
        device: String,
        /// Bytes asked for.
        bytes: u64,
        /// Bytes of the buffers that there are.
        held: u64,
        /// Bytes that would be granted, if known.
        available: Option<u64>,
    },
    /// A GPU stopped working, or its driver refused a command.
    #[error("the GPU was lost: {reason}")]
    DeviceLost {
        /// What its driver says.
        reason: String,
    },
    /// The thread pool could not be started.
    #[error("cannot start {threads} threads: {reason}")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// The system's reason.
        reason: String,
    },
}

/// `Ok` if `got == expected`, else a [`ShapeError::Mismatch`].
pub(crate) fn expect_equal(
    op: &'static str,
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), ShapeError> {
    if got == expected { Ok(()) } else { Err(ShapeError::Mismatch { op, what, expected, got }) }
}

/// Checks that a value array fits a pattern.
pub(crate) fn expect_values(nnz: usize, got: usize) -> Result<(), FormatError> {
    if nnz == got { Ok(()) } else { Err(FormatError::ValuesLength { nnz, got }) }
}
