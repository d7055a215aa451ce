//! Every pass against plain loops, over random shapes.

use std::sync::Arc;

use proptest::prelude::*;

use crate::backend::{ConvOptions, ConvWeight, DenseConv, SparseConv};
use crate::gpu::testing::{gpu, gpu_with_limit};
use crate::testing::conv::{Case, cases, depthwise, depthwise_cases, images, poisoned, read, verify_refusals};
use crate::testing::{buffer, host, poison};
use crate::{ConvShape, ImageLayout, Storage};

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn sparse_convolution_equals_the_plain_loops(case in cases()) {
        if let Some(gpu) = gpu() {
            case.verify_sparse("gpu", gpu);
        }
    }

    #[test]
    fn dense_convolution_equals_the_plain_loops(case in cases()) {
        if let Some(gpu) = gpu() {
            case.verify_dense("gpu", gpu);
        }
    }

    #[test]
    fn depthwise_convolution_equals_the_plain_loops(case in depthwise_cases()) {
        if let Some(gpu) = gpu() {
            case.verify_dense("gpu", gpu);
        }
    }

    #[test]
    fn growth_finds_the_largest(case in cases(), share in 0.0f64..1.2) {
        if let Some(gpu) = gpu() {
            let free = case.shape.rows() * case.shape.columns() - case.pattern().nnz();
            case.verify_growth("gpu", gpu, (share * free as f64) as usize);
        }
    }
}

fn shape(channels: [usize; 2], kernel: usize, stride: usize, padding: usize) -> ConvShape {
    let shape = ConvShape::new(channels[0], channels[1], [kernel; 2]).unwrap();
    shape.with_stride([stride; 2]).unwrap().with_padding([padding; 2])
}

fn case(shape: ConvShape, size: [usize; 2], samples: usize, strip: usize, density: f32) -> Case {
    Case { shape, size, samples, strip, slack: 0, density, seed: 1, is_exact: false }
}

/// All strips, each with samples that fill them, do not, and are none; patterns that are empty and full.
#[test]
fn strips_and_samples() {
    let Some(gpu) = gpu() else { return };
    for strip in ImageLayout::STRIPS {
        for samples in [0, 1, strip, strip + 3] {
            for density in [0.0, 0.4, 1.0] {
                let case = case(shape([5, 3], 3, 2, 1), [5, 6], samples, strip, density);
                case.verify_sparse("gpu", gpu);
                case.verify_dense("gpu", gpu);
            }
        }
    }
}

/// More of everything than a workgroup has: rows, columns, entries of a stage; tiles that are not full.
#[test]
fn many_workgroups() {
    let Some(gpu) = gpu() else { return };
    for (shape, size, samples, strip, density) in [
        (shape([70, 9], 3, 1, 1), [4, 5], 35, 32, 0.4),
        (shape([9, 80], 1, 1, 0), [3, 3], 20, 16, 0.5),
        (shape([17, 8], 3, 2, 1), [9, 8], 9, 8, 0.2),
        (shape([12, 8], 3, 2, 1).with_groups(4).unwrap(), [9, 8], 3, 1, 0.4),
    ] {
        let case = case(shape, size, samples, strip, density);
        case.verify_sparse("gpu", gpu);
        case.verify_dense("gpu", gpu);
    }
}

/// More taps and channels than a workgroup of the gradient has, and more points than a stage and a slice.
#[test]
fn large_depthwise_convolutions() {
    let Some(gpu) = gpu() else { return };
    case(depthwise(3, [7, 7]).with_padding([3, 3]), [13, 11], 33, 32, 1.0).verify_dense("gpu", gpu);
    case(depthwise(70, [3, 3]).with_padding([1, 1]), [5, 4], 9, 8, 1.0).verify_dense("gpu", gpu);
}

/// More workgroups than a dimension of the grid has.
#[test]
fn more_channels_than_a_grid() {
    let Some(gpu) = gpu() else { return };
    case(depthwise(66_000, [1, 1]), [1, 1], 2, 8, 1.0).verify_dense("gpu", gpu);
}

/// Images larger than what a kernel may see at once.
#[test]
fn images_in_windows() {
    const LIMIT: usize = 24 << 10;
    let Some(gpu) = gpu_with_limit(LIMIT as u64) else { return };
    for strip in ImageLayout::STRIPS {
        let samples = if strip == 1 { 200 } else { (6 + 32 / strip) * strip + 3 };
        let case = case(shape([3, 2], 3, strip % 3, 1), [4, 5], samples, strip, 0.6);
        assert!(4 * case.layouts()[0].len() > LIMIT);
        case.verify_sparse("gpu", &gpu);
        case.verify_dense("gpu", &gpu);
        case.verify_growth("gpu", &gpu, 20);
        Case { shape: depthwise(3, [3, 3]), ..case }.verify_dense("gpu", &gpu);
    }
}

/// A band has the same bits as those rows of the whole gradient, and what lies behind it is not touched.
#[test]
fn bands_are_rows_of_the_gradient() {
    let Some(gpu) = gpu() else { return };
    for shape in [
        shape([140, 3], 3, 1, 1),
        shape([12, 8], 3, 2, 1).with_groups(4).unwrap(),
        depthwise(9, [3, 3]).with_padding([1, 1]),
    ] {
        let case = Case { is_exact: true, ..case(shape, [5, 6], 9, 8, 1.0) };
        let [x, dy] = case.images(gpu);
        let len = shape.rows() * shape.columns();
        let whole = poison(gpu, len);
        gpu.conv_weight_rows(shape, 0..shape.rows(), &dy, &x, &whole, false).unwrap();
        let whole = host(gpu, &whole);
        for rows in [0..1, 2..shape.rows(), 5..8, 7..shape.rows() - 1] {
            let band = poison(gpu, len);
            gpu.conv_weight_rows(shape, rows.clone(), &dy, &x, &band, false).unwrap();
            let band = host(gpu, &band);
            let (made, rest) = band.split_at(rows.len() * shape.columns());
            assert_eq!(made, &whole[rows.start * shape.columns()..rows.end * shape.columns()], "{shape:?} {rows:?}");
            assert!(rest.iter().all(|value| value.is_nan()), "{shape:?} {rows:?}");
        }
    }
}

/// Padding samples are zero even where weights are not finite.
#[test]
fn infinite_weights_leave_padding_zero() {
    let Some(gpu) = gpu() else { return };
    for shape in [shape([2, 2], 1, 1, 0), depthwise(2, [1, 1])] {
        let case = case(shape, [2, 3], 5, 8, 1.0);
        let pattern = Arc::new(case.pattern());
        let values = vec![f32::INFINITY; pattern.nnz()];
        let [x_layout, y_layout] = case.layouts();
        let x = images(gpu, x_layout, &[1.0; 5 * 2 * 6]);
        let (mut y, mut dense) = (poisoned(gpu, y_layout), poisoned(gpu, y_layout));
        let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
        let weight = ConvWeight::new(gpu, pattern, &values, shape, options).unwrap();
        gpu.conv_forward(&weight, &x, &mut y).unwrap();
        gpu.conv_forward_dense(shape, &buffer(gpu, &values), &x, &mut dense).unwrap();
        // `read` checks the padding.
        for y in [y, dense] {
            assert!(read(gpu, &y).iter().all(|&value| value == f32::INFINITY));
        }
    }
}

#[test]
fn what_a_kernel_cannot_see_is_refused() {
    let Some(gpu) = gpu_with_limit(16 << 10) else { return };
    let case = case(shape([80, 80], 3, 1, 1), [2, 2], 8, 8, 0.5);
    let [x, y] = case.layouts();
    let plan = gpu.plan_conv(Arc::new(case.pattern()), case.shape, ConvOptions { x, y, input_grad: true });
    assert!(plan.unwrap_err().to_string().contains("more than"));
}

#[test]
fn what_does_not_fit_is_refused() {
    if let Some(gpu) = gpu() {
        verify_refusals(gpu);
    }
}

/// After the first step no buffer is made, and each step gives the same bits.
#[test]
fn steps_allocate_nothing_and_repeat_bit_for_bit() {
    let Some(gpu) = gpu_with_limit(u64::MAX) else { return };
    // Enough pixels for several slices of the weight gradient.
    let case = case(shape([20, 10], 3, 1, 1), [12, 12], 40, 32, 0.3);
    let pattern = Arc::new(case.pattern());
    let [x_layout, y_layout] = case.layouts();
    let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
    let values = case.numbers("values", pattern.nnz());
    let weight = ConvWeight::new(&gpu, pattern.clone(), &values, case.shape, options).unwrap();
    let [x, dy] = case.images(&gpu);
    let (mut y, mut dx) = (poisoned(&gpu, y_layout), poisoned(&gpu, x_layout));
    let mut dw = poison(&gpu, pattern.nnz());
    let mut step = || {
        gpu.conv_forward(&weight, &x, &mut y).unwrap();
        gpu.conv_input_grad(&weight, &dy, &mut dx).unwrap();
        gpu.conv_weight_grad(&weight.plan, &dy, &x, &mut dw, false).unwrap();
        gpu.submit().unwrap();
        let results = [read(&gpu, &y), read(&gpu, &dx), host(&gpu, &dw)];
        (results.map(|values| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>()), gpu.allocated_bytes())
    };
    let first = step();
    assert!((0..3).all(|_| step() == first));
}

#[test]
fn strips_are_no_longer_than_the_samples_fill() {
    let Some(gpu) = gpu() else { return };
    let shape = shape([4, 4], 3, 1, 1);
    let strips = [1, 8, 15, 16, 31, 32, 1000].map(|samples| gpu.image_strip(shape, samples));
    assert_eq!(strips, [8, 8, 8, 16, 16, 32, 32]);
}

/// From half the weights on, dense code computes the stored ones; what a plan takes is counted either way.
#[test]
fn dense_patterns_run_dense() {
    // One of its own: on the shared one, other tests allocate meanwhile.
    let Some(gpu) = gpu_with_limit(u64::MAX) else { return };
    for (density, expected) in [(0.3, false), (0.8, true), (1.0, true)] {
        for shape in [shape([12, 8], 3, 2, 1).with_groups(4).unwrap(), depthwise(5, [3, 3]).with_padding([1, 1])] {
            let case = case(shape, [9, 8], 10, 8, density);
            let [x, y] = case.layouts();
            let options = ConvOptions { x, y, input_grad: true };
            let before = gpu.allocated_bytes();
            let plan = gpu.plan_conv(Arc::new(case.pattern()), case.shape, options).unwrap();
            assert_eq!(plan.is_densified(), expected, "{shape:?} at density {density}");
            let held = (gpu.allocated_bytes() - before) as usize;
            let counted = gpu.conv_plan_bytes(&plan);
            // Buffers are whole numbers of 16 bytes.
            assert!(counted <= held && held < counted + 200, "{counted} bytes of {held}");
            case.verify_sparse("gpu", &gpu);
        }
    }
}
