//! Depthwise convolution on every instruction set against plain loops, over random shapes.

use proptest::prelude::*;

use super::depthwise::{forward, input_grad, weight_grad};
use crate::cpu::{Cpu, IsaName};
use crate::testing::conv::{Case, depthwise, depthwise_cases, poisoned, read};

fn cpus(threads: usize) -> Vec<Cpu> {
    let available = IsaName::ALL.into_iter().filter(|isa| isa.is_available());
    available.map(|isa| Cpu::new(threads, Some(isa)).unwrap()).collect()
}

fn check_case(cpu: &Cpu, case: &Case) {
    case.verify_dense(&cpu.isa().to_string(), cpu);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn depthwise_convolution_equals_the_plain_loops(case in depthwise_cases()) {
        for cpu in cpus(1) {
            check_case(&cpu, &case);
        }
    }
}

/// Enough work for several blocks of channels and several threads.
fn large() -> Case {
    let shape = depthwise(150, [3, 3]).with_padding([1, 1]);
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
                let [x, dy] = case.images(&cpu);
                let (mut y, mut dx) = (poisoned(&cpu, y_layout), poisoned(&cpu, x_layout));
                let mut dw = vec![f32::NAN; w.len()];
                forward(&cpu, case.shape, &w, &x, &mut y);
                input_grad(&cpu, case.shape, &w, &dy, &mut dx);
                weight_grad(&cpu, case.shape, &dy, &x, &mut dw, false);
                [read(&cpu, &y), read(&cpu, &dx), dw]
                    .map(|values| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            };
            let one = run(1);
            assert!(run(2) == one && run(7) == one, "{isa} {case:?}");
        }
    }
}
