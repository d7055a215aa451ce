//! Depthwise convolution on every instruction set against plain loops, over random shapes.

use proptest::prelude::*;

use super::depthwise::{forward, input_grad, weight_grad};
use super::tests::{Case, images, poisoned, read};
use crate::cpu::testing::check;
use crate::cpu::{Cpu, IsaName};
use crate::reference::{self, Exact};
use crate::{ConvShape, ImageLayout};

fn shape(channels: usize, kernel: [usize; 2]) -> ConvShape {
    ConvShape::new(channels, channels, kernel).unwrap().with_groups(channels).unwrap()
}

fn cases() -> impl Strategy<Value = Case> {
    let kernel = prop::sample::select(vec![[1, 1], [3, 3], [3, 3], [5, 5], [7, 7], [2, 3], [1, 4], [4, 1]]);
    let taps = (kernel, 1usize..4, 1usize..4, 0usize..4, 0usize..4, 1usize..3, 1usize..3);
    let images = (0usize..40, prop::sample::select(&ImageLayout::STRIPS), 0usize..3);
    let sizes = (1usize..12, 0usize..16, 0usize..24);
    (sizes, taps, images, 0u64..1000, any::<bool>()).prop_map(
        |((channels, height, width), (kernel, sh, sw, ph, pw, dh, dw), (samples, strip, slack), seed, is_exact)| {
            let shape = shape(channels, kernel).with_stride([sh, sw]).unwrap();
            let shape = shape.with_padding([ph, pw]).with_dilation([dh, dw]).unwrap();
            // At least one pixel of output.
            let least = [0, 1].map(|axis| {
                let span = shape.dilation()[axis] * (kernel[axis] - 1) + 1;
                span.saturating_sub(2 * shape.padding()[axis]).max(1)
            });
            let size = [least[0] + height, least[1] + width];
            Case { shape, size, samples, strip, slack, density: 1.0, seed, is_exact }
        },
    )
}

fn cpus(threads: usize) -> Vec<Cpu> {
    let available = IsaName::ALL.into_iter().filter(|isa| isa.is_available());
    available.map(|isa| Cpu::new(threads, Some(isa)).unwrap()).collect()
}

fn check_case(cpu: &Cpu, case: &Case) {
    let Case { shape, size, samples, is_exact, .. } = *case;
    let w = case.numbers("values", shape.rows() * shape.columns());
    let [x_layout, y_layout] = case.layouts();
    let [x, dy] = case.operands();
    let what = format!("{} {case:?}", cpu.isa());

    let (x_images, dy_images) = (images(cpu, x_layout, &x), images(cpu, y_layout, &dy));
    let mut y = poisoned(cpu, y_layout);
    forward(cpu, shape, &w, &x_images, &mut y);
    let expected = reference::conv::forward(shape, size, samples, &w, &x);
    check(&format!("forward {what}"), is_exact, &read(&y), &expected);

    let mut dx = poisoned(cpu, x_layout);
    input_grad(cpu, shape, &w, &dy_images, &mut dx);
    let expected = reference::conv::input_grad(shape, size, samples, &w, &dy);
    check(&format!("input grad {what}"), is_exact, &read(&dx), &expected);

    let mut expected = reference::conv::weight_grad(shape, size, samples, &dy, &x);
    let mut dw = vec![f32::NAN; w.len()];
    weight_grad(cpu, shape, &dy_images, &x_images, &mut dw, false);
    check(&format!("weight grad {what}"), is_exact, &dw, &expected);
    weight_grad(cpu, shape, &dy_images, &x_images, &mut dw, true);
    expected.iter_mut().for_each(|e| {
        *e = Exact { value: 2.0 * e.value, magnitude: 2.0 * e.magnitude, terms: e.terms + 1 };
    });
    check(&format!("added weight grad {what}"), is_exact, &dw, &expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn depthwise_convolution_equals_the_plain_loops(case in cases()) {
        for cpu in cpus(1) {
            check_case(&cpu, &case);
        }
    }
}

/// Enough work for several blocks of channels and several threads.
fn large() -> Case {
    let shape = shape(150, [3, 3]).with_padding([1, 1]);
    Case { shape, size: [9, 23], samples: 40, strip: 8, slack: 0, density: 1.0, seed: 1, is_exact: false }
}

#[test]
fn many_blocks_of_channels() {
    cpus(1).iter().for_each(|cpu| check_case(cpu, &large()));
}

#[test]
fn threads_do_not_change_a_bit() {
    for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (stride, strip) in [([1, 1], 8), ([2, 2], 16), ([1, 1], 1), ([2, 1], 32)] {
            let case = Case { shape: large().shape.with_stride(stride).unwrap(), strip, ..large() };
            let run = |threads: usize| {
                let cpu = Cpu::new(threads, Some(isa)).unwrap();
                let w = case.numbers("values", case.shape.rows() * case.shape.columns());
                let [x_layout, y_layout] = case.layouts();
                let [x, dy] = case.operands();
                let (x, dy) = (images(&cpu, x_layout, &x), images(&cpu, y_layout, &dy));
                let (mut y, mut dx) = (poisoned(&cpu, y_layout), poisoned(&cpu, x_layout));
                let mut dw = vec![f32::NAN; w.len()];
                forward(&cpu, case.shape, &w, &x, &mut y);
                input_grad(&cpu, case.shape, &w, &dy, &mut dx);
                weight_grad(&cpu, case.shape, &dy, &x, &mut dw, false);
                [read(&y), read(&dx), dw].map(|values| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            };
            let one = run(1);
            assert!(run(2) == one && run(7) == one, "{isa} {case:?}");
        }
    }
}
