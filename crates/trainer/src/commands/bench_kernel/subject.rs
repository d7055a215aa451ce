//! What is measured, as the options say: a pass of a layer, with a pattern.

use std::sync::Arc;

use autograd::Geometry;
use sparse_kernels::{BsrPattern, ConvOptions, ConvShape, ImageLayout, Layout, PlanOptions, StripLayout};

use super::arguments::{BenchKernelArgs, ConvSizes, Dtype, KernelFormat, KernelOp, KernelShape, Shape};
use super::stored::Stored;
use crate::device::{ComputeDevice, Device};
use crate::models::Format;
use crate::settings::error::ConfigError;

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pass {
    /// Y = W · X, or the convolution.
    Forward,
    /// The gradient of X: dX = Wᵀ · dY.
    InputGrad,
    /// The gradient of the weights that are stored: dW = dY · Xᵀ there.
    WeightGrad,
    /// The largest gradients of those that are not.
    Grow,
}

/// What a weight joins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Layer {
    /// A product.
    Linear(Shape),
    /// A convolution of so many images, X of this height and width.
    Conv { shape: ConvShape, size: [usize; 2], samples: usize },
}

/// A pass of a layer, with a pattern.
#[derive(Debug)]
pub(super) struct Subject {
    pub pass: Pass,
    pub layer: Layer,
    pub stored: Stored,
}

/// Products with at most this many lanes run row-major, as an inference runs them.
const FEW_LANES: usize = 8;

/// Elements that an operand may have: those that 32 bits count, as the entries of a pattern.
const MOST_ELEMENTS: f64 = u32::MAX as f64;

impl Layer {
    /// The numbers of `--shape`.
    pub fn sizes(&self) -> Vec<usize> {
        match *self {
            Self::Linear(Shape { m, k, n }) => vec![m, k, n],
            Self::Conv { shape, size: [height, width], samples } => {
                vec![shape.out_channels(), shape.in_channels(), shape.kernel()[0], height, width, samples]
            }
        }
    }

    /// Those of a convolution.
    pub fn stride_and_groups(&self) -> Option<[usize; 2]> {
        match self {
            Self::Linear(_) => None,
            Self::Conv { shape, .. } => Some([shape.stride()[0], shape.groups()]),
        }
    }

    /// What a weight is made for, and how X and Y lie. Those of a product lie in other strips on its dense side.
    pub fn geometry<B: ComputeDevice>(
        &self,
        backend: &B,
        strips: fn(usize, usize) -> StripLayout,
        input_grad: bool,
    ) -> crate::Result<(Geometry, [Layout; 2])> {
        Ok(match *self {
            Self::Linear(Shape { m, k, n }) => {
                let [x, y] = [strips(n, k), strips(n, m)];
                let options = PlanOptions { strip: x.strip(), transpose: input_grad };
                (Geometry::Linear { nrows: m, ncols: k, options }, [x.into(), y.into()])
            }
            Self::Conv { shape, size, samples } => {
                let (strip, [border_x, border_y]) = (backend.image_strip(shape, samples), shape.borders(size)?);
                let x = ImageLayout::new(samples, shape.in_channels(), size, border_x, strip)?;
                let y = ImageLayout::new(samples, shape.out_channels(), shape.output_size(size)?, border_y, strip)?;
                (Geometry::Conv { shape, options: ConvOptions { x, y, input_grad } }, [x.into(), y.into()])
            }
        })
    }
}

impl Subject {
    /// The number of lanes, if this takes the kernels for few.
    pub fn few_lanes(&self) -> Option<usize> {
        match (self.layer, self.pass) {
            (Layer::Linear(Shape { n: n @ ..=FEW_LANES, .. }), Pass::Forward | Pass::InputGrad) => {
                self.stored.is_csr().then_some(n)
            }
            _ => None,
        }
    }

    /// Bytes of the weights that the pass reads or writes: values but for growth, and an index of each entry or block.
    pub fn weight_bytes(&self) -> usize {
        let blocks = &self.stored.blocks;
        let values = if self.pass == Pass::Grow { 0 } else { blocks.nnz() };
        let indices = if self.stored.format == KernelFormat::Dense { 0 } else { blocks.blocks().nnz() };
        size_of::<f32>() * (values + indices)
    }

    /// What the dense operation is called in a reference file.
    pub fn dense_name(&self) -> &'static str {
        match (self.layer, self.pass) {
            (Layer::Linear(_), Pass::Forward) => "dense_forward",
            (Layer::Linear(_), Pass::InputGrad) => "dense_input_grad",
            (Layer::Linear(_), Pass::WeightGrad | Pass::Grow) => "dense_weight_grad",
            (Layer::Conv { .. }, Pass::Forward) => "dense_conv_forward",
            (Layer::Conv { .. }, Pass::InputGrad) => "dense_conv_input_grad",
            (Layer::Conv { .. }, Pass::WeightGrad | Pass::Grow) => "dense_conv_weight_grad",
        }
    }
}

fn refuse<T>(option: &'static str, value: impl ToString, rule: &'static str) -> crate::Result<T> {
    Err(ConfigError::Value { option, value: value.to_string(), rule }.into())
}

/// What the options ask for, each pattern one subject. An option that does not suit the operation is an error.
pub(super) fn subjects(args: &BenchKernelArgs) -> crate::Result<Vec<Subject>> {
    let has_half = matches!(args.op, KernelOp::Spmm | KernelOp::SpmmT | KernelOp::Sddmm)
        && args.format == KernelFormat::Sparse(Format::Csr)
        && args.machine.device != Device::Cpu;
    if args.dtype != Dtype::F32 && !has_half {
        let rule = "f32, or with --device gpu, --format csr and --op spmm, spmm_t or sddmm also f16 or bf16";
        return refuse("dtype", args.dtype, rule);
    }
    match (args.op, args.shape) {
        (KernelOp::Spmm, _) => products(args, Pass::Forward),
        (KernelOp::SpmmT, _) => products(args, Pass::InputGrad),
        (KernelOp::Sddmm, _) => products(args, Pass::WeightGrad),
        (KernelOp::Grow, KernelShape::Linear(_)) => products(args, Pass::Grow),
        (KernelOp::Grow, KernelShape::Conv(_)) => convolutions(args, Pass::Grow),
        (KernelOp::ConvForward, _) => convolutions(args, Pass::Forward),
        (KernelOp::ConvInputGrad, _) => convolutions(args, Pass::InputGrad),
        (KernelOp::ConvWeightGrad, _) => convolutions(args, Pass::WeightGrad),
    }
}

fn products(args: &BenchKernelArgs, pass: Pass) -> crate::Result<Vec<Subject>> {
    for (option, value) in [("stride", args.stride), ("groups", args.groups)] {
        if let Some(value) = value {
            let rule = "left out unless --op is a convolution: conv_forward, conv_input_grad or conv_weight_grad, or grow with a convolution's --shape";
            return refuse(option, value, rule);
        }
    }
    let KernelShape::Linear(Shape { m, k, n }) = args.shape else {
        return refuse("shape", args.shape, "MxKxN, such as 512x512x128, unless --op is a convolution");
    };
    let KernelFormat::Sparse(format) = args.format else {
        return refuse("format", args.format, "csr, or bsrRxC such as bsr4x4, unless --op is a convolution");
    };
    let subject = |stored: Stored| {
        let (m, k) = (stored.blocks.nrows(), stored.blocks.ncols());
        Subject { pass, layer: Layer::Linear(Shape { m, k, n }), stored }
    };
    Ok(Stored::all(args, format, [m, k])?.into_iter().map(subject).collect())
}

fn convolutions(args: &BenchKernelArgs, pass: Pass) -> crate::Result<Vec<Subject>> {
    let KernelShape::Conv(ConvSizes { out_channels, in_channels, kernel, size, samples }) = args.shape else {
        return refuse("shape", args.shape, "OCxICxKxHxWxN, such as 64x64x3x32x32x32, if --op is a convolution");
    };
    let product = |factors: &[usize]| factors.iter().map(|&factor| factor as f64).product::<f64>();
    // Borders are at most as wide as the filter.
    let images = product(&[samples, out_channels.max(in_channels), size[0] + 2 * kernel, size[1] + 2 * kernel]);
    if images.max(product(&[out_channels, in_channels, kernel, kernel])) > MOST_ELEMENTS {
        let rule =
            "smaller: weights, inputs and outputs, these with zeros around them, may have 2^32 - 1 elements each";
        return refuse("shape", args.shape, rule);
    }
    let (stride, groups) = (args.stride.unwrap_or(1), args.groups.unwrap_or(1));
    let shape = ConvShape::new(out_channels, in_channels, [kernel; 2])?.with_padding([kernel / 2; 2]);
    let shape = shape.with_stride([stride; 2])?;
    let Ok(shape) = shape.with_groups(groups) else {
        return refuse("groups", groups, "a divisor of OC and IC, the channels of --shape");
    };
    shape.output_size(size)?;
    let subject = |stored| Subject { pass, layer: Layer::Conv { shape, size, samples }, stored };
    let expected = [shape.rows(), shape.columns()];
    let format = match args.format {
        KernelFormat::Dense if pass == Pass::Grow => {
            return refuse("format", "dense", "csr, or bsrRxC such as bsr4x4: a dense convolution does not grow");
        }
        KernelFormat::Dense => {
            let blocks = Arc::new(BsrPattern::full(shape.rows(), shape.columns(), [1, 1])?);
            return Ok(vec![subject(Stored { format: args.format, blocks })]);
        }
        KernelFormat::Sparse(format) => format,
    };
    if let Format::Bsr([rows, columns]) = format {
        let in_one_tap = (in_channels / groups).is_multiple_of(columns);
        if !in_one_tap || (groups > 1 && !(out_channels / groups).is_multiple_of(rows)) {
            let rule = "csr, or of blocks whose columns divide IC / G and, with groups, whose rows divide OC / G";
            return refuse("format", format, rule);
        }
        if args.machine.device != Device::Cpu {
            return refuse("format", format, "csr or dense: there are no convolutions in blocks on a GPU");
        }
    }
    let checked = |stored: Stored| {
        if [stored.blocks.nrows(), stored.blocks.ncols()] != expected {
            let rule = "a matrix of OC rows and IC / G · K · K columns, by --shape and --groups";
            return refuse("pattern", &args.pattern, rule);
        }
        let taps = if stored.is_csr() { 1 } else { shape.taps() };
        let blocks = Arc::new(BsrPattern::clone(&stored.blocks).with_taps(taps)?);
        Ok(subject(Stored { blocks, ..stored }))
    };
    Stored::all(args, format, expected)?.into_iter().map(checked).collect()
}
