//! The options of `rigl bench kernel` and what they name.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::super::machine::MachineArgs;
use super::super::values::{display_as_value, parse_count};
use crate::models::{Format, parse_density};

/// `rigl bench kernel`.
#[derive(Debug, Args)]
pub struct BenchKernelArgs {
    /// The operation
    #[arg(long, value_enum, default_value_t = KernelOp::Spmm)]
    pub op: KernelOp,
    /// Rows × columns × lanes: the weight matrix is M×K, the other operand has N lanes (samples). Products with N up to
    /// 8 run row-major, as in inference, with constant weights: the dense side is then the faster of a matrix-vector
    /// kernel (gemv) and gemm, and limit_fraction is the rate at which entries (8 bytes each) are read, relative to
    /// summing an array of that size. For a convolution: output channels × input channels × filter size (K) × height ×
    /// width × samples, with K/2 zeros around the image; grow takes either [default for convolutions: 64x64x3x32x32x32]
    #[arg(long, value_name = "MxKxN|OCxICxKxHxWxN", default_value = "512x512x128", default_value_ifs = [
        ("op", "conv_forward", "64x64x3x32x32x32"),
        ("op", "conv_input_grad", "64x64x3x32x32x32"),
        ("op", "conv_weight_grad", "64x64x3x32x32x32"),
    ])]
    pub shape: KernelShape,
    /// Stride of a convolution [default: 1]
    #[arg(long, value_name = "S", value_parser = parse_count)]
    pub stride: Option<usize>,
    /// Groups of channels of a convolution, a divisor of OC and IC [default: 1]
    #[arg(long, value_name = "G", value_parser = parse_count)]
    pub groups: Option<usize>,
    /// Densities of the weight matrix, each in (0, 1]
    #[arg(long, value_name = "D,...", value_delimiter = ',', default_value = "0.2,0.1,0.05", value_parser = parse_density)]
    pub density: Vec<f64>,
    /// How the sparse matrix is stored: csr, or bsrRxC in blocks of R×C, each 1, 2, 4, 8 or 16 (bsr4x4, bsr8x1, ...);
    /// --density and --pattern then apply to the blocks. For convolutions also dense: times the dense pass once,
    /// ignoring --density and --pattern
    #[arg(long, value_name = "csr|bsrRxC|dense", default_value = "csr")]
    pub format: KernelFormat,
    /// Where the stored entries are: uniform, power-law (few long rows), banded (near the diagonal), or those of the
    /// matrix in a file (FILE.smtx, FILE.mtx or FILE.npz; .gz and .xz may follow), which then sets rows, columns and
    /// density. A convolution's matrix has OC rows, and columns (channel, filter row, filter column); in blocks (filter row, filter column, channel)
    #[arg(long, value_name = "PATTERN", default_value = "uniform")]
    pub pattern: PatternSource,
    /// File with times of other dense code (PyTorch's): the fastest with the same operation, shape and threads replaces
    /// our dense side if it is faster. A line is `{"op":"dense_forward","shape":[M,K,N],"threads":T,"time_ns":NS}`,
    /// optionally with "stride" and "groups"; op may also be dense_input_grad, dense_weight_grad, dense_conv_forward,
    /// dense_conv_input_grad, dense_conv_weight_grad, or one of these with a suffix such as _nchw
    #[arg(long, value_name = "FILE.jsonl")]
    pub dense_reference: Option<PathBuf>,
    /// Type of the stored activations; f16 and bf16 on a GPU, for spmm, spmm_t and sddmm in csr, against dense code in f32
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    pub dtype: Dtype,
    /// What every measurement takes.
    #[command(flatten)]
    pub machine: MachineArgs,
}

/// An operation that `rigl bench kernel` times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum KernelOp {
    /// Y = W · X, the forward pass.
    Spmm,
    /// dX = Wᵀ · dY, the gradient of the input.
    SpmmT,
    /// dW = dY · Xᵀ at the stored entries, the gradient of the weights.
    Sddmm,
    /// The largest entries (with bsrRxC: blocks) of dY · Xᵀ among those that are not stored: a growth step of RigL.
    Grow,
    /// Y = conv(X, W), the forward pass of a convolution.
    ConvForward,
    /// The gradient of X for that of Y: the transposed convolution.
    ConvInputGrad,
    /// The gradient of a convolution's weights, at the stored entries.
    ConvWeightGrad,
}

/// How the matrix of `rigl bench kernel` is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelFormat {
    /// Some of its entries.
    Sparse(Format),
    /// All of them, without a pattern.
    Dense,
}

impl FromStr for KernelFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "dense" {
            return Ok(Self::Dense);
        }
        text.parse().map(Self::Sparse).map_err(|rule: String| format!("{rule}; or dense, for convolutions"))
    }
}

impl fmt::Display for KernelFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sparse(format) => format.fmt(f),
            Self::Dense => f.pad("dense"),
        }
    }
}

/// Type of the stored activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// 32 bits.
    F32,
    /// 16 bits, 11 of them precision.
    F16,
    /// 16 bits, 8 of them precision, and the range of f32.
    Bf16,
}

display_as_value!(KernelOp, Dtype);

/// The shape of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelShape {
    /// Of a product.
    Linear(Shape),
    /// Of a convolution.
    Conv(ConvSizes),
}

/// Rows, columns and lanes of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of the weight matrix.
    pub m: usize,
    /// Columns of the weight matrix.
    pub k: usize,
    /// Lanes of the other operand.
    pub n: usize,
}

/// Sizes of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvSizes {
    /// Channels of Y.
    pub out_channels: usize,
    /// Channels of X.
    pub in_channels: usize,
    /// Rows, and columns, of the filter.
    pub kernel: usize,
    /// Height and width of X.
    pub size: [usize; 2],
    /// Images.
    pub samples: usize,
}

impl FromStr for KernelShape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = |text: &str| text.parse::<u32>().ok().filter(|&size| size > 0).map(|size| size as usize);
        match text.split('x').map(size).collect::<Option<Vec<_>>>().as_deref() {
            Some(&[m, k, n]) => Ok(Self::Linear(Shape { m, k, n })),
            Some(&[out_channels, in_channels, kernel, height, width, samples]) => {
                Ok(Self::Conv(ConvSizes { out_channels, in_channels, kernel, size: [height, width], samples }))
            }
            _ => Err("it must be MxKxN, such as 512x512x128, or of a convolution OCxICxKxHxWxN, such as \
                      64x64x3x32x32x32, with numbers of at least 1"
                .to_owned()),
        }
    }
}

impl fmt::Display for KernelShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear(Shape { m, k, n }) => write!(f, "{m}x{k}x{n}"),
            Self::Conv(ConvSizes { out_channels, in_channels, kernel, size: [height, width], samples }) => {
                write!(f, "{out_channels}x{in_channels}x{kernel}x{height}x{width}x{samples}")
            }
        }
    }
}

impl fmt::Display for PatternSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::PowerLaw => f.write_str("power-law"),
            Self::Banded => f.write_str("banded"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// Where the entries of a benchmark's matrix are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PatternSource {
    /// Anywhere, with equal chance.
    Uniform,
    /// In few long rows and many short ones.
    PowerLaw,
    /// Near the diagonal.
    Banded,
    /// As in a matrix file.
    File(PathBuf),
}

impl FromStr for PatternSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "uniform" => Ok(Self::Uniform),
            "power-law" => Ok(Self::PowerLaw),
            "banded" => Ok(Self::Banded),
            _ => {
                let plain = [".gz", ".xz"].iter().find_map(|end| text.strip_suffix(end)).unwrap_or(text);
                let is_file = [".smtx", ".mtx", ".npz"].iter().any(|end| plain.ends_with(end));
                is_file.then(|| Self::File(text.into())).ok_or_else(|| {
                    "it must be uniform, power-law, banded or a path that ends in .smtx, .mtx or .npz, perhaps \
                     followed by .gz or .xz"
                        .to_owned()
                })
            }
        }
    }
}
