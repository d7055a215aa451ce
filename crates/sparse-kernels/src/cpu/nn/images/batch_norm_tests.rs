//! Batch normalisation on every instruction set against plain loops, over random shapes.

use proptest::prelude::*;

use super::super::testing::*;
use super::testing::{images, poisoned};
use crate::ImageLayout;
use crate::backend::{Activation, BatchNorm, BatchNormOptions, ReluMask};
use crate::cpu::Buffer;
use crate::testing::images::normalizations;

proptest! {
    #[test]
    fn agrees_with_the_reference(case in normalizations()) {
        for of_one_isa in BACKENDS.chunks(3) {
            case.verify(&of_one_isa[0]);
        }
    }
}

#[test]
fn threads_do_not_change_the_result() {
    let layout = ImageLayout::new(21, 33, [17, 9], 1, 8).unwrap();
    let len = 21 * 33 * 17 * 9;
    let affine = buffer(&normals("affine", 66));
    same_for_all_threads(|cpu| {
        let (mut running, mut moments, mut sums) = (Buffer::zeros(66), Buffer::zeros(66), Buffer::zeros(66));
        let mut x = images(layout, &normals("x", len));
        cpu.batch_moments(BatchNormOptions::default(), None, &mut x, &mut running, &mut moments).unwrap();
        let mut y = poisoned(layout);
        cpu.batch_normalize(&affine, &moments, None, Activation::Relu, &x, &mut y).unwrap();
        let mut dy = images(layout, &normals("dy", len));
        cpu.batch_norm_grad_sums(&affine, &moments, ReluMask::Recomputed(Activation::Relu), &x, &mut dy, &mut sums)
            .unwrap();
        cpu.batch_norm_grad(&affine, &moments, &sums, Activation::Relu, &x, &mut dy, None).unwrap();
        [&running[..], &moments[..], &sums[..], &y.data[..], &dy.data[..]].concat()
    });
}
