//! Every product and every convolution with every operand wrong in every way: each is an error, whatever the device.

use std::sync::Arc;

use crate::backend::{BlockConvWeight, ConvOptions, ConvWeight, GrowRequest, PlanOptions};
use crate::random::Key;
#[cfg(feature = "nn")]
use crate::{Accumulate, Activation, BatchNorm, BatchNormOptions, ReluMask};
use crate::{
    BackendError, BlockMatrix, BlockSparseConv, BlockSparseLinear, BsrPattern, ConvShape, CsrPattern, DenseConv,
    DenseLinear, ImageLayout, Images, Op, SparseConv, SparseLinear, SparseMatrix, Storage, StripLayout, Strips,
};

type Outcome = Result<(), BackendError>;
/// Makes an operand that fits, and all that do not.
type Operands<'a, T> = &'a dyn Fn() -> Vec<T>;
/// Runs an operation on two operands. Not a type of its own for each: they would take half a minute to compile.
type Run<'a, T> = &'a mut dyn FnMut(&T, &mut T) -> Outcome;

/// Zeros of a device.
#[inline(never)]
fn zeros<B: Storage>(backend: &B, len: usize) -> B::Buffer {
    backend.zeros(len).unwrap()
}

/// Expects an error that names the operation.
#[inline(never)]
#[track_caller]
fn refused(name: &str, outcome: Outcome) {
    let message = outcome.expect_err(name).to_string();
    assert!(message.starts_with(name) || message.contains("values"), "{name}: {message}");
}

/// Strips of 6 lanes that do not fit so many features: one more, a lane more, another strip, a buffer too short.
#[inline(never)]
fn wrong_strips<B: Storage>(backend: &B, features: usize) -> Vec<Strips<B>> {
    let layouts = [
        StripLayout::sparse(6, features + 1),
        StripLayout::sparse(40, features),
        StripLayout::new(6, features, 16).unwrap(),
    ];
    let short = StripLayout::sparse(6, features);
    let wrong = layouts.map(|layout| Strips::zeros(backend, layout).unwrap()).into_iter();
    wrong.chain([Strips { layout: short, data: backend.zeros(short.len() - 1).unwrap() }]).collect()
}

/// Images that are not of this layout, but for its border.
#[inline(never)]
fn wrong_images<B: Storage>(backend: &B, layout: ImageLayout) -> Vec<Images<B>> {
    let (samples, channels, [height, width]) = (layout.samples(), layout.channels(), layout.size());
    let layouts = [
        (samples + 8, channels, [height, width], 8),
        (samples, channels + 1, [height, width], 8),
        (samples, channels, [height + 1, width], 8),
        (samples, channels, [height, width + 1], 8),
        (samples, channels, [height, width], 16),
    ];
    let wrong = layouts.map(|(samples, channels, size, strip)| {
        let layout = ImageLayout::new(samples, channels, size, layout.border(), strip).unwrap();
        Images::zeros(backend, layout).unwrap()
    });
    wrong.into_iter().chain([Images { layout, data: backend.zeros(layout.len() - 1).unwrap() }]).collect()
}

/// Runs an operation on two operands that fit, and expects errors for each that does not.
#[track_caller]
fn each_wrong<T>(name: &str, [from, to]: [Operands<'_, T>; 2], run: Run<'_, T>) {
    run(&from()[0], &mut to()[0]).unwrap();
    from().iter().skip(1).for_each(|from| refused(name, run(from, &mut to()[0])));
    to().iter_mut().skip(1).for_each(|to| refused(name, run(&from()[0], to)));
}

/// All products.
pub fn products<B: SparseLinear + BlockSparseLinear + DenseLinear>(backend: &B) {
    let [m, k] = [4, 6];
    let zeros = |len| zeros(backend, len);
    let good = |features| Strips::zeros(backend, StripLayout::sparse(6, features)).unwrap();
    let all = |features| [good(features)].into_iter().chain(wrong_strips(backend, features)).collect();
    let (x, y): (Operands<'_, Strips<B>>, Operands<'_, Strips<B>>) = (&|| all(k), &|| all(m));
    let options = PlanOptions { strip: 32, transpose: true };
    let pattern = Arc::new(CsrPattern::new(m, k, vec![0, 2, 3, 3, 5], vec![0, 3, 1, 2, 4]).unwrap());
    let blocks = Arc::new(BsrPattern::full(m, k, [2, 2]).unwrap());
    let mut w = SparseMatrix::new(backend, pattern.clone(), &[1.0; 5], options).unwrap();
    let mut b = BlockMatrix::new(backend, blocks.clone(), &[1.0; 24], options).unwrap();
    each_wrong("spmm", [x, y], &mut |x, y| backend.spmm(Op::NoTranspose, &w, x, y));
    each_wrong("spmm", [y, x], &mut |dy, dx| backend.spmm(Op::Transpose, &w, dy, dx));
    each_wrong("spmm_bias_relu", [x, y], &mut |x, y| backend.spmm_bias_relu(&w, &zeros(m), true, x, y));
    each_wrong("sddmm", [x, y], &mut |x, dy| backend.sddmm(&w.plan, dy, x, &mut zeros(5), false));
    each_wrong("spmm_bsr", [x, y], &mut |x, y| backend.spmm_bsr(Op::NoTranspose, &b, x, y));
    each_wrong("spmm_bsr", [y, x], &mut |dy, dx| backend.spmm_bsr(Op::Transpose, &b, dy, dx));
    each_wrong("sddmm_bsr", [x, y], &mut |x, dy| backend.sddmm_bsr(&b.plan, dy, x, &mut zeros(24), false));
    each_wrong("gemm", [x, y], &mut |x, y| backend.gemm(Op::NoTranspose, &zeros(m * k), x, y));
    each_wrong("gemm", [y, x], &mut |dy, dx| backend.gemm(Op::Transpose, &zeros(m * k), dy, dx));
    each_wrong("gemm_weight_grad", [x, y], &mut |x, dy| backend.gemm_weight_grad(dy, x, &mut zeros(m * k), false));
    let request = |exclude: &Arc<CsrPattern>| GrowRequest { exclude: exclude.clone(), count: 3, ties: Key::new(1) };
    let [cells, grid] = [request(&pattern), request(blocks.blocks())];
    each_wrong("grow", [x, y], &mut |x, dy| backend.grow(&cells, &[(dy, x)]).map(drop));
    // As many lanes in both, but one feature more in the second pair than in the first.
    let pairs = |x: &Strips<B>, dy: &Strips<B>| backend.grow_blocks([2, 2], &grid, &[(&good(m), &good(k)), (dy, x)]);
    each_wrong("grow", [x, y], &mut |x, dy| pairs(x, dy).map(drop));
    assert!(backend.grow_blocks([3, 2], &grid, &[]).is_err());
    refused("largest", backend.largest(&zeros(m * k - 1), &cells).map(drop));

    // Buffers of values, and plans without a transpose.
    let (x, mut y) = (good(k), good(m));
    refused("spmm_bias_relu", backend.spmm_bias_relu(&w, &zeros(m + 1), false, &x, &mut y));
    for len in [4, 6] {
        refused("sddmm", backend.sddmm(&w.plan, &y, &x, &mut zeros(len), false));
        refused("sddmm_bsr", backend.sddmm_bsr(&b.plan, &y, &x, &mut zeros(len), false));
        refused("gemm", backend.gemm(Op::NoTranspose, &zeros(len), &x, &mut y));
        refused("gemm_weight_grad", backend.gemm_weight_grad(&y, &x, &mut zeros(len), false));
        refused("refresh", backend.refresh_transposed(&w.plan, &zeros(len), &mut zeros(5)));
        refused("refresh", backend.refresh_transposed(&w.plan, &zeros(5), &mut zeros(len)));
        (w.values, w.transposed_values, b.values) = (zeros(len), zeros(len), zeros(len));
        refused("spmm", backend.spmm(Op::NoTranspose, &w, &x, &mut y));
        refused("spmm", backend.spmm(Op::Transpose, &w, &y, &mut good(k)));
        refused("spmm_bsr", backend.spmm_bsr(Op::NoTranspose, &b, &x, &mut y));
    }
    let options = PlanOptions { transpose: false, ..options };
    let w = SparseMatrix::new(backend, pattern, &[1.0; 5], options).unwrap();
    let b = BlockMatrix::new(backend, blocks, &[1.0; 24], options).unwrap();
    refused("spmm", backend.spmm(Op::Transpose, &w, &y, &mut good(k)));
    refused("spmm_bsr", backend.spmm_bsr(Op::Transpose, &b, &y, &mut good(k)));
}

const SHAPE: [usize; 2] = [4, 6];

/// A convolution of 3 channels to 4, and what lies where.
fn convolution() -> (ConvShape, ConvOptions) {
    let shape = ConvShape::new(4, 3, [3, 3]).unwrap().with_padding([1, 1]);
    let layout = |channels| ImageLayout::new(5, channels, SHAPE, 1, 8).unwrap();
    (shape, ConvOptions { x: layout(3), y: layout(4), input_grad: true })
}

/// Images of this layout, and all that are not.
#[inline(never)]
fn all_images<B: Storage>(backend: &B, layout: ImageLayout) -> Vec<Images<B>> {
    [Images::zeros(backend, layout).unwrap()].into_iter().chain(wrong_images(backend, layout)).collect()
}

/// As [`all_images`], with a border too wide for a plan at the end.
fn planned_images<B: Storage>(backend: &B, layout: ImageLayout) -> Vec<Images<B>> {
    let wide = ImageLayout::new(layout.samples(), layout.channels(), layout.size(), 2, layout.strip()).unwrap();
    all_images(backend, layout).into_iter().chain([Images::zeros(backend, wide).unwrap()]).collect()
}

/// All convolutions but those in blocks.
pub fn convolutions<B: SparseConv + DenseConv>(backend: &B) {
    let ((shape, options), zeros) = (convolution(), |len| zeros(backend, len));
    let images = |layout| Images::zeros(backend, layout).unwrap();
    let weights = shape.rows() * shape.columns();
    let (x, y): (Operands<'_, Images<B>>, Operands<'_, Images<B>>) =
        (&|| planned_images(backend, options.x), &|| planned_images(backend, options.y));
    // A sparse plan, and one that runs dense.
    for pattern in [CsrPattern::from_positions(4, 27, vec![(0, 3), (2, 5)]), CsrPattern::full(4, 27)] {
        let pattern = Arc::new(pattern.unwrap());
        let nnz = pattern.nnz();
        let mut w = ConvWeight::new(backend, pattern.clone(), &vec![1.0; nnz], shape, options).unwrap();
        each_wrong("conv_forward", [x, y], &mut |x, y| backend.conv_forward(&w, x, y));
        each_wrong("conv_input_grad", [y, x], &mut |dy, dx| backend.conv_input_grad(&w, dy, dx));
        each_wrong("conv_weight_grad", [x, y], &mut |x, dy| {
            backend.conv_weight_grad(&w.plan, dy, x, &mut zeros(nnz), false)
        });
        let (from, mut to) = (images(options.x), images(options.y));
        refused("conv_weight_grad", backend.conv_weight_grad(&w.plan, &to, &from, &mut zeros(nnz + 1), false));
        refused("refresh", backend.refresh_conv(&w.plan, &zeros(nnz - 1), &mut zeros(nnz)));
        refused("refresh", backend.refresh_conv(&w.plan, &zeros(nnz), &mut zeros(nnz - 1)));
        w.transposed_values = zeros(nnz + 1);
        refused("conv_input_grad", backend.conv_input_grad(&w, &to, &mut images(options.x)));
        w.values = zeros(nnz - 1);
        refused("conv_forward", backend.conv_forward(&w, &from, &mut to));
        let options = ConvOptions { input_grad: false, ..options };
        let w = ConvWeight::new(backend, pattern, &vec![1.0; nnz], shape, options).unwrap();
        refused("conv_input_grad", backend.conv_input_grad(&w, &to, &mut images(options.x)));
    }
    let (x, y): (Operands<'_, Images<B>>, Operands<'_, Images<B>>) =
        (&|| all_images(backend, options.x), &|| all_images(backend, options.y));
    let w = zeros(weights);
    each_wrong("conv_forward_dense", [x, y], &mut |x, y| backend.conv_forward_dense(shape, &w, x, y));
    each_wrong("conv_input_grad_dense", [y, x], &mut |dy, dx| backend.conv_input_grad_dense(shape, &w, dy, dx));
    each_wrong("conv_weight_grad_dense", [x, y], &mut |x, dy| {
        backend.conv_weight_grad_dense(shape, dy, x, &mut zeros(weights), false)
    });
    let exclude = Arc::new(CsrPattern::from_positions(4, 27, vec![(0, 3)]).unwrap());
    let request = |exclude| GrowRequest { exclude, count: 3, ties: Key::new(1) };
    let grown = request(exclude);
    each_wrong("grow_conv", [x, y], &mut |x, dy| backend.grow_conv(shape, &grown, &[(dy, x)]).map(drop));
    for size in [[5, 27], [4, 26]] {
        let other = request(Arc::new(CsrPattern::full(size[0], size[1]).unwrap()));
        refused("grow_conv", backend.grow_conv(shape, &other, &[]).map(drop));
    }
    let (from, mut to) = (images(options.x), images(options.y));
    let thin = images(ImageLayout::new(5, 3, SHAPE, 0, 8).unwrap());
    refused("conv_forward_dense", backend.conv_forward_dense(shape, &w, &thin, &mut to));
    for w in [zeros(weights - 1), zeros(weights + 1)] {
        refused("conv_forward_dense", backend.conv_forward_dense(shape, &w, &from, &mut to));
        refused("conv_input_grad_dense", backend.conv_input_grad_dense(shape, &w, &to, &mut images(options.x)));
        let mut dw = w;
        refused("conv_weight_grad_dense", backend.conv_weight_grad_dense(shape, &to, &from, &mut dw, false));
    }
}

/// Convolutions in blocks, on a device that has them.
pub fn block_convolutions<B: BlockSparseConv>(backend: &B) {
    let ((shape, options), zeros) = (convolution(), |len| zeros(backend, len));
    let images = |layout| Images::zeros(backend, layout).unwrap();
    let (x, y): (Operands<'_, Images<B>>, Operands<'_, Images<B>>) =
        (&|| planned_images(backend, options.x), &|| planned_images(backend, options.y));
    let pattern = Arc::new(BsrPattern::full(4, 27, [2, 1]).unwrap().with_taps(9).unwrap());
    let nnz = pattern.nnz();
    let mut w = BlockConvWeight::new(backend, pattern.clone(), &vec![1.0; nnz], shape, options).unwrap();
    each_wrong("conv_forward_bsr", [x, y], &mut |x, y| backend.conv_forward_bsr(&w, x, y));
    each_wrong("conv_input_grad_bsr", [y, x], &mut |dy, dx| backend.conv_input_grad_bsr(&w, dy, dx));
    each_wrong("conv_weight_grad_bsr", [x, y], &mut |x, dy| {
        backend.conv_weight_grad_bsr(&w.plan, dy, x, &mut zeros(nnz), false)
    });
    let (from, mut to) = (images(options.x), images(options.y));
    refused("conv_weight_grad_bsr", backend.conv_weight_grad_bsr(&w.plan, &to, &from, &mut zeros(nnz - 1), false));
    w.values = zeros(nnz + 1);
    refused("conv_forward_bsr", backend.conv_forward_bsr(&w, &from, &mut to));
    refused("conv_input_grad_bsr", backend.conv_input_grad_bsr(&w, &to, &mut images(options.x)));
    let without = ConvOptions { input_grad: false, ..options };
    let w = BlockConvWeight::new(backend, pattern.clone(), &vec![1.0; nnz], shape, without).unwrap();
    refused("conv_input_grad_bsr", backend.conv_input_grad_bsr(&w, &to, &mut images(options.x)));
    let (x, y): (Operands<'_, Images<B>>, Operands<'_, Images<B>>) =
        (&|| all_images(backend, options.x), &|| all_images(backend, options.y));
    let request = GrowRequest { exclude: pattern.blocks().clone(), count: 3, ties: Key::new(1) };
    each_wrong("grow_conv", [x, y], &mut |x, dy| {
        backend.grow_conv_blocks(shape, [2, 1], &request, &[(dy, x)]).map(drop)
    });
    // Grids of other blocks, blocks over two taps, and sizes that no block has.
    for size in [[4, 1], [2, 2], [0, 1], [2, 0], [3, 1]] {
        assert!(backend.grow_conv_blocks(shape, size, &request, &[]).is_err(), "{size:?}");
    }
}

/// Batch normalisation.
#[cfg(feature = "nn")]
pub fn batch_norm<B: BatchNorm>(backend: &B) {
    let (layout, options) = (convolution().1.x, BatchNormOptions::default());
    let zeros = |len| zeros(backend, len);
    let good = || Images::zeros(backend, layout).unwrap();
    let all: Operands<'_, Images<B>> = &|| all_images(backend, layout);
    let c2 = zeros(2 * layout.channels());
    let pair = || zeros(2 * layout.channels());
    each_wrong("batch_moments", [all, all], &mut |addend, x| {
        backend.batch_moments(options, Some(addend), x, &mut pair(), &mut pair())
    });
    each_wrong("batch_normalize", [all, all], &mut |x, y| {
        backend.batch_normalize(&c2, &c2, None, Activation::Relu, x, y)
    });
    each_wrong("batch_normalize", [all, all], &mut |residual, y| {
        backend.batch_normalize(&c2, &c2, Some(residual), Activation::Relu, &good(), y)
    });
    each_wrong("batch_norm_grad_sums", [all, all], &mut |x, dy| {
        backend.batch_norm_grad_sums(&c2, &c2, ReluMask::None, x, dy, &mut pair())
    });
    each_wrong("batch_norm_grad_sums", [all, all], &mut |y, dy| {
        backend.batch_norm_grad_sums(&c2, &c2, ReluMask::Output(Activation::Relu, y), &good(), dy, &mut pair())
    });
    each_wrong("batch_norm_grad", [all, all], &mut |x, dy| {
        backend.batch_norm_grad(&c2, &c2, &c2, Activation::Relu, x, dy, None)
    });
    each_wrong("batch_norm_grad", [all, all], &mut |x, to| {
        backend.batch_norm_grad(&c2, &c2, &c2, Activation::Relu, x, &mut good(), Some((to, Accumulate::Yes)))
    });
    for other in [zeros(5), zeros(7)] {
        let (mut x, mut y) = (good(), good());
        for [affine, moments, sums] in [[&other, &c2, &c2], [&c2, &other, &c2], [&c2, &c2, &other]] {
            let outcome = backend.batch_norm_grad(affine, moments, sums, Activation::Relu, &x, &mut y, None);
            refused("batch_norm_grad", outcome);
        }
        for [affine, moments] in [[&other, &c2], [&c2, &other]] {
            refused("batch_normalize", backend.batch_normalize(affine, moments, None, Activation::None, &x, &mut y));
            let outcome = backend.batch_norm_grad_sums(affine, moments, ReluMask::None, &x, &mut y, &mut pair());
            refused("batch_norm_grad_sums", outcome);
        }
        let mut wrong = zeros(backend.len(&other));
        let outcome = backend.batch_norm_grad_sums(&c2, &c2, ReluMask::None, &x, &mut y, &mut wrong);
        refused("batch_norm_grad_sums", outcome);
        refused("batch_moments", backend.batch_moments(options, None, &mut x, &mut wrong, &mut pair()));
        refused("batch_moments", backend.batch_moments(options, None, &mut x, &mut pair(), &mut wrong));
        refused("running_moments", backend.running_moments(options, &c2, &mut wrong));
    }
}
