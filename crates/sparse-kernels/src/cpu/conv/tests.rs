//! Every pass on every instruction set against plain loops, over random shapes.

use std::sync::Arc;

use proptest::prelude::*;

use crate::backend::{BlockConvWeight, BlockSparseConv, ConvOptions, ConvWeight, DenseConv, GrowRequest, SparseConv};
use crate::cpu::{Cpu, IsaName};
use crate::random::Key;
use crate::reference::{self, Exact};
use crate::testing::check;
use crate::testing::conv::{Case, cases, grow_reference, poisoned, read, twice, verify_refusals};
use crate::{BsrPattern, ConvShape, CsrPattern, Storage};

fn cpus() -> Vec<Cpu> {
    let available = IsaName::ALL.into_iter().filter(|isa| isa.is_available());
    available
        .flat_map(|isa| {
            // With next to no L1, small matrices are cut into chunks too; with next to no L2, tasks of a weight gradient make
            // all of it.
            let small = [[64, 512 << 10], [64, 1 << 11]].map(|caches| Cpu::with_caches(1, isa, caches));
            [Cpu::new(1, Some(isa)).unwrap()].into_iter().chain(small)
        })
        .collect()
}

/// The places of dense weights, `[O][C/G][kh][kw]`, in blocks; `None` for padding.
fn places_of_blocks(pattern: &BsrPattern) -> Vec<Option<usize>> {
    let mut places = vec![None; pattern.nnz()];
    for entry in pattern.entries() {
        places[entry.position] = Some(entry.row * pattern.ncols() + entry.column);
    }
    places
}

/// Growth of half of the blocks that are not there, of whole numbers: norms are exact, and there are many ties.
fn check_growth_of_blocks(cpu: &Cpu, case: &Case, pattern: &BsrPattern) {
    let case = Case { is_exact: true, ..*case };
    let Case { shape, size, samples, .. } = case;
    let [x, dy] = case.operands();
    let gradient = reference::conv::weight_grad(shape, size, samples, &dy, &x);
    let [r, c] = pattern.block_size();
    let (exclude, ties) = (pattern.blocks().clone(), Key::new(case.seed));
    let all = BsrPattern::full(pattern.nrows(), pattern.ncols(), [r, c]).unwrap().with_taps(shape.taps()).unwrap();
    let values: Vec<f32> =
        places_of_blocks(&all).iter().map(|place| place.map_or(0.0, |at| gradient[at].value as f32)).collect();
    let norms = all.block_norms(&values).unwrap();
    let columns = exclude.ncols();
    let is_free = |at: &usize| exclude.row(at / columns).binary_search(&((at % columns) as u32)).is_err();
    let mut free: Vec<usize> = (0..norms.len()).filter(is_free).collect();
    let hash = |at: usize| ties.bits(at as u64) as u32;
    free.sort_by(|&a, &b| norms[b].total_cmp(&norms[a]).then(hash(a).cmp(&hash(b))).then(a.cmp(&b)));
    let count = free.len().div_ceil(2);
    free.truncate(count);
    free.sort_unstable();
    let expected: Vec<_> = free.iter().map(|&at| ((at / columns) as u32, (at % columns) as u32, norms[at])).collect();
    let [x, dy] = case.images(cpu);
    let request = GrowRequest { exclude, count, ties };
    let found = cpu.grow_conv_blocks(shape, [r, c], &request, &[(&dy, &x)]).unwrap();
    let found: Vec<_> = found.iter().map(|c| (c.row, c.column, c.score)).collect();
    assert_eq!(found, expected, "{case:?}");
}

/// Weights in blocks, in all three passes.
fn check_blocks(cpu: &Cpu, case: &Case, block_size: [usize; 2]) {
    let Case { shape, size, samples, is_exact, .. } = *case;
    let [x_layout, y_layout] = case.layouts();
    let [x, dy] = case.operands();
    let what = format!("{} {block_size:?} {case:?}", cpu.isa());
    let [x_images, dy_images] = case.images(cpu);
    let (mut y, mut dx) = (poisoned(cpu, y_layout), poisoned(cpu, x_layout));
    let mut dense = case.numbers("values", shape.rows() * shape.columns());
    let all = reference::conv::weight_grad(shape, size, samples, &dy, &x);
    // A case's density decides which blocks are there.
    let [r, c] = block_size;
    let (rows, columns) = (shape.rows().div_ceil(r), shape.columns() / c);
    let key = Key::new(case.seed).with_name("blocks");
    let kept = (0..rows as u32).flat_map(|r| (0..columns as u32).map(move |c| (r, c)));
    let kept = kept.filter(|&(r, c)| key.uniform(u64::from(r) << 32 | u64::from(c)) < case.density).collect();
    let blocks = CsrPattern::from_positions(rows, columns, kept).unwrap();
    let blocks = BsrPattern::from_blocks(shape.rows(), shape.columns(), block_size, Arc::new(blocks)).unwrap();
    let pattern = Arc::new(blocks.with_taps(shape.taps()).unwrap());
    check_growth_of_blocks(cpu, case, &pattern);
    let places = places_of_blocks(&pattern);
    let values: Vec<f32> = places.iter().map(|place| place.map_or(0.0, |at| dense[at])).collect();
    dense.fill(0.0);
    places.iter().zip(&values).for_each(|(place, &value)| place.iter().for_each(|&at| dense[at] = value));
    let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
    let weight = BlockConvWeight::new(cpu, pattern, &values, shape, options).unwrap();
    cpu.conv_forward_bsr(&weight, &x_images, &mut y).unwrap();
    cpu.conv_input_grad_bsr(&weight, &dy_images, &mut dx).unwrap();
    let y_expected = reference::conv::forward(shape, size, samples, &dense, &x);
    check(&format!("forward {what}"), is_exact, &read(cpu, &y), &y_expected);
    let dx_expected = reference::conv::input_grad(shape, size, samples, &dense, &dy);
    check(&format!("input grad {what}"), is_exact, &read(cpu, &dx), &dx_expected);
    let mut gradient = cpu.zeros(values.len()).unwrap();
    gradient.fill(f32::NAN);
    let expected = places.iter().map(|place| place.map_or(Exact::ZERO, |at| all[at])).collect::<Vec<_>>();
    cpu.conv_weight_grad_bsr(&weight.plan, &dy_images, &x_images, &mut gradient, false).unwrap();
    check(&format!("weight grad {what}"), is_exact, &gradient, &expected);
    cpu.conv_weight_grad_bsr(&weight.plan, &dy_images, &x_images, &mut gradient, true).unwrap();
    check(&format!("added weight grad {what}"), is_exact, &gradient, &twice(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn dense_convolution_equals_the_plain_loops(case in cases()) {
        for cpu in cpus() {
            case.verify_dense(&cpu.isa().to_string(), &cpu);
        }
    }

    #[test]
    fn block_convolution_equals_the_plain_loops(
        case in cases(),
        r in prop::sample::select(&BsrPattern::BLOCK_SIZES),
        c in prop::sample::select(&BsrPattern::BLOCK_SIZES),
        rest in 0usize..3,
    ) {
        // Channels in whole blocks; output channels need not be, unless there are groups.
        let groups = case.shape.groups();
        let rows = (case.shape.out_channels() / groups * r).saturating_sub(if groups > 1 { 0 } else { rest }).clamp(1, 24);
        let rows = if groups > 1 { r } else { rows };
        let channels = if c >= 8 { c } else { (case.shape.in_channels() / groups * c).min(8) };
        let shape = ConvShape::new(rows * groups, channels * groups, case.shape.kernel()).unwrap();
        let shape = shape.with_groups(groups).unwrap().with_stride(case.shape.stride()).unwrap();
        let shape = shape.with_padding(case.shape.padding()).with_dilation(case.shape.dilation()).unwrap();
        let case = Case { shape, samples: case.samples % 10, ..case };
        for cpu in cpus() {
            check_blocks(&cpu, &case, [r, c]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn sparse_convolution_equals_the_plain_loops(case in cases()) {
        for cpu in cpus() {
            case.verify_sparse(&cpu.isa().to_string(), &cpu);
        }
    }
}

/// Enough work and rows for several row blocks, chunks and threads.
fn large() -> Case {
    let shape = ConvShape::new(136, 48, [3, 3]).unwrap().with_padding([1, 1]);
    Case { shape, size: [4, 6], samples: 10, strip: 8, slack: 0, density: 0.9, seed: 1, is_exact: false }
}

#[test]
fn many_blocks_and_chunks() {
    for cpu in cpus() {
        let name = cpu.isa().to_string();
        large().verify_sparse(&name, &cpu);
        Case { density: 0.7, ..large() }.verify_sparse(&name, &cpu);
        large().verify_dense(&name, &cpu);
        check_blocks(&cpu, &large(), [8, 8]);
    }
}

#[test]
fn threads_and_caches_do_not_change_a_bit() {
    let pixels = ConvShape::new(6, 5, [3, 3]).unwrap().with_padding([1, 1]);
    let many_pixels = Case { shape: pixels, size: [16, 16], samples: 16, ..large() };
    let strided = Case { shape: large().shape.with_stride([2, 2]).unwrap(), strip: 16, ..large() };
    for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
        for case in [large(), strided, many_pixels] {
            let case = Case { density: 0.7, ..case };
            let run = |cpu: Cpu| {
                let pattern = Arc::new(case.pattern());
                let values = case.numbers("values", pattern.nnz());
                let [x_layout, y_layout] = case.layouts();
                let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
                let weight = ConvWeight::new(&cpu, pattern.clone(), &values, case.shape, options).unwrap();
                let [x, dy] = case.images(&cpu);
                let (mut y, mut dx) = (poisoned(&cpu, y_layout), poisoned(&cpu, x_layout));
                let mut dw = cpu.zeros(pattern.nnz()).unwrap();
                let mut dense = cpu.zeros(case.shape.rows() * case.shape.columns()).unwrap();
                cpu.conv_forward(&weight, &x, &mut y).unwrap();
                cpu.conv_input_grad(&weight, &dy, &mut dx).unwrap();
                cpu.conv_weight_grad(&weight.plan, &dy, &x, &mut dw, false).unwrap();
                cpu.conv_weight_grad_dense(case.shape, &dy, &x, &mut dense, false).unwrap();
                [read(&cpu, &y), read(&cpu, &dx), dw.to_vec(), dense.to_vec()]
                    .map(|values| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            };
            let one = run(Cpu::new(1, Some(isa)).unwrap());
            for threads in [2, 7] {
                assert!(run(Cpu::new(threads, Some(isa)).unwrap()) == one, "{isa}, {threads} threads, {case:?}");
            }
            for caches in [[64, 512 << 10], [64, 1 << 11], [48 << 10, 16 << 20]] {
                assert!(run(Cpu::with_caches(1, isa, caches)) == one, "{isa}, caches {caches:?}, {case:?}");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    verify_refusals(&Cpu::new(1, None).unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn growth_finds_the_largest(case in cases(), share in 0.0f64..1.2) {
        let free = case.shape.rows() * case.shape.columns() - case.pattern().nnz();
        for cpu in cpus() {
            case.verify_growth(&cpu.isa().to_string(), &cpu, (share * free as f64) as usize);
        }
    }
}

/// More rows and columns than a band and a tile of the scan have.
#[test]
fn growth_in_many_bands() {
    let shape = ConvShape::new(300, 230, [3, 3]).unwrap();
    let case = Case { shape, size: [4, 3], samples: 2, strip: 8, slack: 0, density: 0.2, seed: 3, is_exact: true };
    let exclude = case.pattern();
    let [x, dy] = case.operands();
    let gradient = reference::conv::weight_grad(shape, case.size, case.samples, &dy, &x);
    for count in [100, 50_000] {
        let request = GrowRequest { exclude: exclude.clone().into(), count, ties: Key::new(5) };
        let expected = grow_reference(&case, &request, &gradient);
        for threads in [1, 2, 7] {
            let cpu = Cpu::new(threads, None).unwrap();
            let [x, dy] = case.images(&cpu);
            let found = cpu.grow_conv(shape, &request, &[(&dy, &x)]).unwrap();
            let places: Vec<(u32, u32)> = found.iter().map(|c| (c.row, c.column)).collect();
            assert_eq!(places, expected, "{count} on {threads} threads");
        }
    }
}

#[test]
fn dense_patterns_run_dense() {
    let cpu = Cpu::new(1, None).unwrap();
    for (density, expected) in [(0.5, false), (0.9, true)] {
        let case = Case { density, ..large() };
        let [x, y] = case.layouts();
        let options = ConvOptions { x, y, input_grad: true };
        let plan = cpu.plan_conv(Arc::new(case.pattern()), case.shape, options).unwrap();
        assert_eq!(plan.is_densified(), expected);
        assert_eq!(cpu.conv_plan_bytes(&plan) == 0, expected);
    }
}
