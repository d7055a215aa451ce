//! What can be wrong with models of other programs.
//!
//! A message includes its cause's, so that no cause is a `source` besides.

use std::io;
use std::path::PathBuf;

use rigl::TopologyError;
use safetensors::SafeTensorError;
use sparse_kernels::FormatError;

use crate::checkpoint::CheckpointError;
use crate::formats::MatrixFileError;

/// Why a model cannot be exported or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// A file or folder cannot be read or written.
    #[error("{}: {reason}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        reason: io::Error,
    },
    /// A matrix file cannot be read or written.
    #[error("{0}")]
    Matrix(MatrixFileError),
    /// The content of a safetensors file is wrong.
    #[error("{}: {reason}", path.display())]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: Box<TensorsError>,
    },
    /// The name does not tell the format.
    #[error(
        "{}: the extension does not tell the format; it must be .safetensors, .npz, .mtx, .smtx or .npy{}",
        path.display(),
        if *out { ", or --format must be given" } else { " (of a PyTorch .pt file, safetensors.torch.save_file makes one)" }
    )]
    Extension {
        /// The file.
        path: PathBuf,
        /// Whether it is to be written.
        out: bool,
    },
    /// Files to import that do not go together.
    #[error("the sources are {count} paths; they must be one .safetensors file, one folder, or only matrix files")]
    Sources {
        /// How many there are.
        count: usize,
    },
    /// Matrix files that do not follow each other as layers do.
    #[error("{0}; matrix files must stand in the order from input to output, each a matrix [outputs, inputs]")]
    Order(CheckpointError),
    /// A folder whose layers do not follow each other.
    #[error("{}: its layers, in the order of their names, are {order}: {reason}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The layers.
        order: String,
        /// What is wrong.
        reason: CheckpointError,
    },
    /// A folder without layers.
    #[error("{}: there are no files of a model in it; they would be LAYER.weight.npz, .mtx, .smtx or .npy", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A file in a folder to import that is none of a model's.
    #[error(
        "{}: {file:?} is no part of a model; the files must be LAYER.weight.npz, .mtx, .smtx or .npy, and LAYER.bias.npy \
         or .mtx",
        path.display()
    )]
    Stray {
        /// The folder.
        path: PathBuf,
        /// The file.
        file: String,
    },
    /// Two files for the same part of a model.
    #[error("{}: there are several files of {part}", path.display())]
    Twice {
        /// The folder.
        path: PathBuf,
        /// The part.
        part: String,
    },
    /// A bias for a layer that is not there.
    #[error("{}: there is a bias of layer {layer}, but no weight", path.display())]
    BiasAlone {
        /// The folder.
        path: PathBuf,
        /// The layer.
        layer: String,
    },
    /// The model has no layer of this name.
    #[error("there is no layer {name:?}; the layers are {layers}")]
    Layer {
        /// The name asked for.
        name: String,
        /// Those that exist.
        layers: String,
    },
    /// A whole model for a file that holds one matrix.
    #[error(
        "{}: such a file holds one matrix; choose it with --layer NAME, or have a folder of files written with --format \
         {extension} --out FOLDER",
        path.display()
    )]
    OneMatrix {
        /// The file.
        path: PathBuf,
        /// Its format.
        extension: &'static str,
    },
    /// A file of one format with the extension of another.
    #[error("{}: the extension is not that of the format; it must be .{expected}", path.display())]
    OtherExtension {
        /// The file.
        path: PathBuf,
        /// The right one.
        expected: &'static str,
    },
    /// Zeros asked for in a format that leaves them out.
    #[error(
        ".{extension} files hold stored entries only; whole matrices (--dense) are written as safetensors, mtx or npy"
    )]
    NoDense {
        /// The format.
        extension: &'static str,
    },
    /// A folder where a file is to be written.
    #[error("{}: it is a folder; what is to be written is a file", path.display())]
    NotFile {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with something in it, or a file, where a folder is to be written.
    #[error("{}: it is not an empty folder; give a new one", path.display())]
    NotEmpty {
        /// What is there.
        path: PathBuf,
    },
    /// The result would take the place of what it is made from.
    #[error("{}: it is read and would be overwritten; give --out another path", path.display())]
    OverSource {
        /// The file.
        path: PathBuf,
    },
    /// A layer's name that is no part of a file name.
    #[error("layer {name:?}: files cannot be named after it; they can after letters, digits, `_`, `-` and `.`")]
    LayerName {
        /// The name.
        name: String,
    },
    /// A matrix with more positions than memory.
    #[error("layer {layer}: there is no memory for all positions of a matrix of {nrows}×{ncols}")]
    Memory {
        /// The layer.
        layer: String,
        /// Its outputs.
        nrows: usize,
        /// Its inputs.
        ncols: usize,
    },
    /// A matrix that cannot be stored.
    #[error("layer {layer}: {reason}")]
    Format {
        /// The layer.
        layer: String,
        /// What is wrong.
        reason: FormatError,
    },
    /// A layer that cannot be pruned.
    #[error("layer {layer}: {reason}")]
    Prune {
        /// The layer.
        layer: String,
        /// What is wrong.
        reason: TopologyError,
    },
}

impl ExchangeError {
    /// Whether the command line or the choice of files can mend it, as opposed to a broken file.
    pub fn is_usage(&self) -> bool {
        let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        match self {
            Self::Io { reason, .. } | Self::Matrix(MatrixFileError::Io { source: reason, .. }) => missing(reason),
            Self::Matrix(error) => matches!(error, MatrixFileError::Extension { .. }),
            Self::Tensors { .. }
            | Self::Folder { .. }
            | Self::LayerName { .. }
            | Self::Memory { .. }
            | Self::Format { .. }
            | Self::Prune { .. } => false,
            Self::Extension { .. }
            | Self::Sources { .. }
            | Self::Order(_)
            | Self::Empty { .. }
            | Self::Stray { .. }
            | Self::Twice { .. }
            | Self::BiasAlone { .. }
            | Self::Layer { .. }
            | Self::OneMatrix { .. }
            | Self::OtherExtension { .. }
            | Self::NoDense { .. }
            | Self::NotFile { .. }
            | Self::NotEmpty { .. }
            | Self::OverSource { .. } => true,
        }
    }
}

impl From<MatrixFileError> for ExchangeError {
    fn from(error: MatrixFileError) -> Self {
        Self::Matrix(error)
    }
}

impl From<SafeTensorError> for TensorsError {
    fn from(error: SafeTensorError) -> Self {
        Self::File(error)
    }
}

impl From<CheckpointError> for TensorsError {
    fn from(error: CheckpointError) -> Self {
        Self::Checkpoint(error)
    }
}

/// What is wrong with the content of a safetensors file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TensorsError {
    /// It is not such a file.
    #[error("not a safetensors file: {0}")]
    File(SafeTensorError),
    /// It is a checkpoint of ours, and wrong.
    #[error("{0}")]
    Checkpoint(CheckpointError),
    /// There is nothing in it.
    #[error("there are no tensors in it")]
    Empty,
    /// Tensors that belong to no fully connected layer.
    #[error(
        "no fully connected layer has these tensors: {tensors}; a layer is LAYER.weight [outputs, inputs], or its CSR or \
         BSR parts LAYER.weight.crow_indices, .col_indices and .values, with or without LAYER.bias [outputs]"
    )]
    Unsupported {
        /// Names and shapes.
        tensors: String,
    },
    /// A weight stored both whole and in parts.
    #[error("there are both {name} and {name}.values; a weight is dense, CSR or BSR")]
    Twice {
        /// The weight.
        name: String,
    },
    /// Some parts of a CSR or BSR matrix are there and others not.
    #[error("there is no tensor {name}, though other parts of this matrix are there")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// The columns of a CSR or BSR matrix are not told.
    #[error(
        "the number of columns of {weight} is not told; the file's metadata must have it: safetensors.torch.save_file(…, \
         metadata={{\"{weight}.shape\": \"[outputs, inputs]\"}}), with the two numbers"
    )]
    NoShape {
        /// The matrix.
        weight: String,
    },
    /// The shape of a CSR or BSR matrix is not told in the form expected.
    #[error("the metadata's {key} is {got:?}; it must be the shape as \"[outputs, inputs]\", such as \"[300, 784]\"")]
    Shape {
        /// The key.
        key: String,
        /// Its value.
        got: String,
    },
    /// A tensor's type is not one that is read.
    #[error("tensor {name}: type {dtype}; it must be {expected}")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
        /// Types that would do.
        expected: &'static str,
    },
    /// A value that is no index.
    #[error("tensor {name}: entry {index} is {got}; it must be an index from 0 to {}", u32::MAX - 1)]
    Index {
        /// The tensor.
        name: String,
        /// The place.
        index: usize,
        /// The value.
        got: i128,
    },
    /// A finite value that f32 cannot hold.
    #[error("tensor {name}: entry {index} is {got:e}, beyond f32's range, which ends at 3.4e38")]
    Range {
        /// The tensor.
        name: String,
        /// The place.
        index: usize,
        /// The value.
        got: f64,
    },
    /// The parts of a CSR or BSR matrix do not make one.
    #[error("{weight}: {reason}")]
    Matrix {
        /// The matrix.
        weight: String,
        /// What is wrong.
        reason: FormatError,
    },
    /// The layers do not follow each other.
    #[error("the layers, in the order of their names, are {order}: {reason}")]
    Chain {
        /// The layers.
        order: String,
        /// What is wrong.
        reason: CheckpointError,
    },
}
