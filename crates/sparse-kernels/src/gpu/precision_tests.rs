//! Operands in 16 bits.

use super::testing::{gpu, gpu_with_limit};
use crate::testing::{conv, images, precision};
use crate::{ConvShape, PoolShape, Precision, Storage, StripLayout};

#[test]
fn numbers_of_16_bits_come_and_go() {
    let Some(gpu) = gpu() else { return };
    // Of an odd number, part by part.
    let mut buffer = gpu.zeros_in(Precision::Bf16, 5).unwrap();
    gpu.upload(&[1.0, -2.5, 3.0, 1.003, f32::NAN], &mut buffer).unwrap();
    gpu.upload(&[7.0], &mut buffer).unwrap();
    let host = gpu.downloaded(&buffer).unwrap();
    assert_eq!(host[..4], [7.0, -2.5, 3.0, 1.0]);
    assert!(host[4].is_nan());
    let mut wide = gpu.zeros(5).unwrap();
    gpu.convert(&buffer, &mut wide).unwrap();
    assert_eq!(gpu.downloaded(&wide).unwrap()[..4], host[..4]);
    let mut copy = gpu.zeros_in(Precision::Bf16, 5).unwrap();
    gpu.copy(&buffer, &mut copy).unwrap();
    let (mut a, mut b) = ([0.0; 3], [0.0; 2]);
    gpu.download_all(&[&copy, &wide], &mut [&mut a, &mut b]).unwrap();
    assert_eq!((&a[..], &b[..]), (&host[..3], &host[..2]));
    gpu.fill(1.0, &mut copy).unwrap();
    assert_eq!(gpu.downloaded(&copy).unwrap(), [1.0; 5]);
}

#[test]
fn every_operation_takes_them() {
    let Some(gpu) = gpu() else { return };
    precision::linear(gpu, [50, 70, 90], 32, 0.3, 1);
    let strided = ConvShape::new(6, 4, [3, 3]).unwrap().with_stride([2, 2]).unwrap().with_padding([1, 1]);
    for strip in [1, 8, 32] {
        precision::conv(gpu, &precision::large_conv(strip));
        precision::conv(gpu, &conv::Case { shape: strided, size: [9, 11], ..precision::large_conv(strip) });
    }
    let depthwise = conv::depthwise(9, [3, 3]).with_padding([1, 1]);
    precision::conv(gpu, &conv::Case { shape: depthwise, density: 1.0, ..precision::large_conv(16) });
    let window = PoolShape::new([3, 3]).unwrap().with_stride([2, 1]).unwrap().with_padding([1, 1]).unwrap();
    for case in images::large() {
        precision::images(gpu, &case, window);
        precision::batch_norm(gpu, &case);
    }
    precision::lanes(gpu, StripLayout::sparse(70, 11));
    precision::sequence(gpu, [3, 20, 2, 6], 32);
    precision::refusals(gpu);
}

#[test]
fn parts_of_large_buffers_too() {
    if let Some(gpu) = gpu_with_limit(1 << 16) {
        precision::linear(&gpu, [50, 70, 300], 32, 0.3, 1);
        precision::lanes(&gpu, StripLayout::sparse(3000, 11));
    }
}
