//! What can be wrong with models from other programs.
//!
//! A message includes its cause, so no cause is also a `source`.

use std::io;
use std::path::PathBuf;

use rigl::TopologyError;
use safetensors::SafeTensorError;
use sparse_kernels::FormatError;

use super::order::OrderError;
use crate::checkpoint::CheckpointError;
use crate::error::{Kind, Kinded};
use crate::formats::MatrixFileError;

/// A weight or bias that is NaN or infinite.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("layer {layer}: the {what} at {place} (counted from 0) is {got}; it must be finite")]
pub struct NotFinite {
    /// The layer.
    pub(super) layer: String,
    /// `weight`, `bias`, or a vector of a normalisation.
    pub(super) what: &'static str,
    /// The first such position.
    pub(super) place: String,
    /// The value.
    pub(super) got: f32,
}

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
    /// The name's extension is not a known format.
    #[error(
        "{}: unknown file extension; it must be .safetensors, {}.npz, .mtx, .smtx or .npy{}",
        path.display(),
        if *out { ".onnx, " } else { "" },
        if *out { ", or add --format" } else { " (convert a PyTorch .pt file with safetensors.torch.save_file)" }
    )]
    Extension {
        /// The file.
        path: PathBuf,
        /// Whether it is to be written.
        out: bool,
    },
    /// Files that cannot be imported together.
    #[error("{count} paths to import; pass one .safetensors file, one folder, or only matrix files")]
    Sources {
        /// How many there are.
        count: usize,
    },
    /// Matrix files whose shapes do not form consecutive layers.
    #[error("{0}; pass the matrix files in order from input to output, each a matrix [outputs, inputs]")]
    Order(CheckpointError),
    /// An order for files that have one.
    #[error("--order: matrix files are taken in the order of the command line; leave the option out")]
    OrderOfMatrices,
    /// A folder whose layers do not fit together.
    #[error("{}: its layers do not fit together in the order {order}: {reason}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The layers.
        order: String,
        /// What is wrong.
        reason: CheckpointError,
    },
    /// A matrix or vector with a value that no network can compute with.
    #[error("{}: {reason}", path.display())]
    NotFinite {
        /// The folder or file.
        path: PathBuf,
        /// The value.
        reason: NotFinite,
    },
    /// A folder whose layers have no order.
    #[error("{}: {reason}", path.display())]
    FolderOrder {
        /// The folder.
        path: PathBuf,
        /// Why.
        reason: OrderError,
    },
    /// A folder without layers.
    #[error("{}: no model files in it; expected LAYER.weight.npz, .mtx, .smtx or .npy", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A file in an imported folder that does not belong to a model.
    #[error(
        "{}: {file:?} is not part of a model; the files must be LAYER.weight.npz, .mtx, .smtx or .npy, and LAYER.bias.npy \
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
    #[error("{}: several files for {part}", path.display())]
    Twice {
        /// The folder.
        path: PathBuf,
        /// The part.
        part: String,
    },
    /// A bias of a layer without a weight.
    #[error("{}: layer {layer} has a bias but no weight", path.display())]
    BiasAlone {
        /// The folder.
        path: PathBuf,
        /// The layer.
        layer: String,
    },
    /// The model has no layer of this name.
    #[error("unknown layer {name:?}; choose one of {layers}")]
    Layer {
        /// The requested name.
        name: String,
        /// The layers that exist.
        layers: String,
    },
    /// A whole model for a file that holds one matrix.
    #[error(
        "{}: a .{extension} file holds one matrix; choose it with --layer NAME, or write a folder of files with --format \
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
    #[error("{}: the extension does not match the format; it must be .{expected}", path.display())]
    OtherExtension {
        /// The file.
        path: PathBuf,
        /// The right extension.
        expected: &'static str,
    },
    /// `--dense` with a format that leaves zeros out.
    #[error(".{extension} files hold only stored entries; write dense matrices (--dense) as safetensors, mtx or npy")]
    NoDense {
        /// The format.
        extension: &'static str,
    },
    /// One layer for a format of whole networks.
    #[error(
        "an ONNX file holds a whole network; leave out --layer {layer}, or write the layer as .npz, .mtx, .npy or .safetensors"
    )]
    NoLayer {
        /// The layer asked for.
        layer: String,
    },
    /// A network of tokens or lists.
    #[error(
        "{model} reads tokens or lists; ONNX files are written for networks of features and images; export it to .safetensors"
    )]
    OnnxTokens {
        /// The network.
        model: String,
    },
    /// A network too large for one ONNX file.
    #[error("an ONNX file of this network takes {bytes} bytes, and the format allows {most}; use --format safetensors")]
    OnnxSize {
        /// Bytes that it would take.
        bytes: u64,
        /// Bytes that are allowed.
        most: u64,
    },
    /// A model of a network that cannot be.
    #[error("{0}")]
    Architecture(CheckpointError),
    /// An option for another kind of source.
    #[error("--{option} has no effect here; it needs {needs}")]
    NoEffect {
        /// The option.
        option: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// A folder where a file is to be written.
    #[error("{}: is a folder; give the name of a file to write", path.display())]
    NotFile {
        /// The folder.
        path: PathBuf,
    },
    /// A folder with something in it, or a file, where a folder is to be written.
    #[error("{}: is not an empty folder; choose a new one", path.display())]
    NotEmpty {
        /// What exists there.
        path: PathBuf,
    },
    /// The output would overwrite its own input.
    #[error("{}: is the input and would be overwritten; choose another --out", path.display())]
    OverSource {
        /// The file.
        path: PathBuf,
    },
    /// A layer's name that cannot be part of a file name.
    #[error("layer {name:?}: the name cannot be used in a file name; only letters, digits, `_`, `-` and `.` can")]
    LayerName {
        /// The name.
        name: String,
    },
    /// A dense matrix that does not fit in memory.
    #[error("layer {layer}: a dense {nrows}×{ncols} matrix does not fit in memory")]
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

impl Kinded for ExchangeError {
    /// Of usage if the command line or another choice of files can fix it, as opposed to a broken file.
    fn kind(&self) -> Kind {
        match self {
            Self::Io { reason, .. } | Self::Matrix(MatrixFileError::Io { source: reason, .. }) => match reason.kind() {
                io::ErrorKind::NotFound => Kind::Usage,
                _ => Kind::Failure,
            },
            Self::Tensors { reason, .. } if reason.is_usage() => Kind::Usage,
            Self::Matrix(MatrixFileError::Content { .. })
            | Self::Tensors { .. }
            | Self::Folder { .. }
            | Self::NotFinite { .. }
            | Self::LayerName { .. }
            | Self::Memory { .. }
            | Self::OnnxSize { .. }
            | Self::OnnxTokens { .. }
            | Self::Architecture(_)
            | Self::Format { .. }
            | Self::Prune { .. } => Kind::Failure,
            _ => Kind::Usage,
        }
    }
}

impl TensorsError {
    /// Whether another command line could mend it.
    fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::Order(_)
                | Self::NoEffect { .. }
                | Self::UnknownNetwork { .. }
                | Self::Network { .. }
                | Self::Dimensions { .. }
                | Self::Absent { .. }
                | Self::Left { .. }
        )
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

impl From<NotFinite> for TensorsError {
    fn from(error: NotFinite) -> Self {
        Self::NotFinite(error)
    }
}

impl From<OrderError> for TensorsError {
    fn from(error: OrderError) -> Self {
        Self::Order(error)
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
    /// It is not a safetensors file.
    #[error("not a safetensors file: {0}")]
    File(SafeTensorError),
    /// It is one of our checkpoints, and wrong.
    #[error("{0}")]
    Checkpoint(CheckpointError),
    /// It holds no tensors.
    #[error("the file holds no tensors")]
    Empty,
    /// Tensors that do not belong to a fully connected layer.
    #[error(
        "these tensors do not belong to a fully connected layer: {tensors}; a layer is LAYER.weight [outputs, inputs], or \
         its CSR or BSR parts LAYER.weight.crow_indices, .col_indices and .values, or LAYER.weight_orig and .weight_mask, \
         with or without LAYER.bias [outputs]"
    )]
    Unsupported {
        /// Names and shapes.
        tensors: String,
    },
    /// A weight or bias stored in two ways.
    #[error("both {name} and {other} exist; a weight is dense, CSR, BSR, or dense with a mask")]
    Twice {
        /// One tensor.
        name: String,
        /// The other.
        other: String,
    },
    /// A mask of another shape than what it masks.
    #[error("tensor {name} is {got}; it must have the shape of what it masks, {expected}")]
    Mask {
        /// The mask.
        name: String,
        /// Its shape.
        got: String,
        /// The other shape.
        expected: String,
    },
    /// No network that is known has these layers.
    #[error(
        "no known network has these layers: {tensors}; name the network with --model (known by their layers: {known})"
    )]
    UnknownNetwork {
        /// Names and shapes.
        tensors: String,
        /// Networks.
        known: String,
    },
    /// The network cannot be.
    #[error("{model}: {reason}")]
    Network {
        /// Its name.
        model: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor of another shape than the network's.
    #[error("tensor {name} is {got}; in {model} it must be {expected}")]
    Dimensions {
        /// The tensor.
        name: String,
        /// Its shape.
        got: String,
        /// The right shape.
        expected: String,
        /// The network.
        model: String,
    },
    /// The network needs a tensor that is not there.
    #[error("tensor {name} is missing; {model} needs it, {expected} (a new last layer: --classes N)")]
    Absent {
        /// The tensor.
        name: String,
        /// The network.
        model: String,
        /// Its shape.
        expected: String,
    },
    /// Tensors that the network has not.
    #[error("these tensors have no place in {model}: {tensors}; choose another network with --model")]
    Left {
        /// Names and shapes.
        tensors: String,
        /// The network.
        model: String,
    },
    /// Blocks in an order of columns that PyTorch does not have.
    #[error("{weight}: blocks of a convolution of more than one tap; write it as CSR or dense")]
    BlocksOfTaps {
        /// The matrix.
        weight: String,
    },
    /// An option for another kind of file.
    #[error("--{option} has no effect here; it needs {needs}")]
    NoEffect {
        /// The option.
        option: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// Some parts of a CSR, BSR or masked matrix are missing.
    #[error("tensor {name} is missing, although other parts of the matrix exist")]
    Missing {
        /// The tensor.
        name: String,
    },
    /// The number of columns of a CSR or BSR matrix is unknown.
    #[error(
        "the number of columns of {weight} is unknown; store it in the file's metadata: safetensors.torch.save_file(…, \
         metadata={{\"{weight}.shape\": \"[outputs, inputs]\"}}), with the two numbers"
    )]
    NoShape {
        /// The matrix.
        weight: String,
    },
    /// The shape of a CSR or BSR matrix is written in another form.
    #[error("the metadata's {key} is {got:?}; write the shape as \"[outputs, inputs]\", for example \"[300, 784]\"")]
    Shape {
        /// The key.
        key: String,
        /// Its value.
        got: String,
    },
    /// A tensor's element type is not supported.
    #[error("tensor {name}: type {dtype}; it must be {expected}")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
        /// Accepted types.
        expected: &'static str,
    },
    /// A value that is not an index.
    #[error("tensor {name}: entry {index} is {got}; it must be an index from 0 to {}", u32::MAX - 1)]
    Index {
        /// The tensor.
        name: String,
        /// The entry's position.
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
    /// The parts of a CSR or BSR matrix do not form a matrix.
    #[error("{weight}: {reason}")]
    Matrix {
        /// The matrix.
        weight: String,
        /// What is wrong.
        reason: FormatError,
    },
    /// The layers have no order.
    #[error("{0}")]
    Order(OrderError),
    /// A value that no network can compute with.
    #[error("{0}")]
    NotFinite(NotFinite),
    /// The layers do not fit together.
    #[error("the layers do not fit together in the order {order}: {reason}")]
    Chain {
        /// The layers.
        order: String,
        /// What is wrong.
        reason: CheckpointError,
    },
}
