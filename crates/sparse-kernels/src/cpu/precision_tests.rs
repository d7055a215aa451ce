//! Operands in 16 bits, on every instruction set.

use proptest::prelude::*;

use super::{Cpu, IsaName};
use crate::testing::conv::{self, Case, depthwise_cases};
use crate::testing::{images, neural, precision};
use crate::{BsrPattern, ConvShape};

/// With several threads, and with caches that cut everything into many parts.
fn cpus() -> Vec<Cpu> {
    let available = IsaName::ALL.into_iter().filter(|isa| isa.is_available());
    available.flat_map(|isa| [Cpu::new(3, Some(isa)).unwrap(), Cpu::with_caches(1, isa, [64, 1 << 11])]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn products(
        m in 0usize..70, k in 0usize..70, lanes in 0usize..100, strip in prop::sample::select(vec![16, 32, 64]),
        density in 0.0f32..1.0, seed: u32,
    ) {
        let (m, k) = (m.max(1), k.max(1));
        cpus().iter().for_each(|cpu| precision::linear(cpu, [m, k, lanes], strip, density * density, seed.into()));
    }

    #[test]
    fn convolutions(case in conv::cases()) {
        cpus().iter().for_each(|cpu| precision::conv(cpu, &case));
    }

    #[test]
    fn depthwise_convolutions(case in depthwise_cases()) {
        cpus().iter().for_each(|cpu| precision::conv(cpu, &case));
    }

    #[test]
    fn convolutions_in_blocks(
        case in conv::cases(),
        r in prop::sample::select(&BsrPattern::BLOCK_SIZES),
        c in prop::sample::select(&BsrPattern::BLOCK_SIZES),
    ) {
        let groups = case.shape.groups();
        let shape = ConvShape::new(r * groups, 2 * c * groups, case.shape.kernel()).unwrap();
        let shape = shape.with_groups(groups).unwrap().with_stride(case.shape.stride()).unwrap();
        let shape = shape.with_padding(case.shape.padding()).with_dilation(case.shape.dilation()).unwrap();
        let case = Case { shape, samples: case.samples % 10, ..case };
        cpus().iter().for_each(|cpu| precision::conv_blocks(cpu, &case, [r, c]));
    }

    #[test]
    fn images_and_pools(case in images::cases(), window in images::windows()) {
        cpus().iter().for_each(|cpu| precision::images(cpu, &case, window));
    }

    #[test]
    fn batch_norm(case in images::cases()) {
        cpus().iter().for_each(|cpu| precision::batch_norm(cpu, &case));
    }

    #[test]
    fn lanes(layout in neural::layouts()) {
        prop_assume!(layout.features() > 0);
        cpus().iter().for_each(|cpu| precision::lanes(cpu, layout));
    }
}

#[test]
fn large_operands() {
    for cpu in cpus() {
        for strip in [1, 8, 16, 32] {
            precision::conv(&cpu, &precision::large_conv(strip));
            precision::conv_blocks(&cpu, &precision::large_conv(strip), [8, 8]);
        }
        images::large().filter(|_| cpu.threads() > 1).for_each(|case| precision::batch_norm(&cpu, &case));
        precision::linear(&cpu, [150, 200, 90], 32, 0.3, 1);
        precision::sequence(&cpu, [3, 20, 2, 6], 32);
        precision::sequence(&cpu, [5, 16, 3, 4], 80);
    }
}

#[test]
fn what_is_of_f32_only_says_so() {
    precision::refusals(&Cpu::new(1, None).unwrap());
}
