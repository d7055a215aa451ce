//! Every pass on every instruction set against plain loops, over random shapes.

use std::sync::Arc;

use proptest::prelude::*;

use crate::backend::{BlockConvWeight, BlockSparseConv, ConvOptions, ConvWeight, DenseConv, GrowRequest, SparseConv};
use crate::cpu::testing::check;
use crate::cpu::{Cpu, IsaName};
use crate::random::Key;
use crate::reference::{self, Exact};
use crate::{BsrPattern, ConvShape, CsrPattern, ImageLayout, Images, Storage};

/// A convolution of some images.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub shape: ConvShape,
    pub size: [usize; 2],
    pub samples: usize,
    pub strip: usize,
    /// More border than needed.
    pub slack: usize,
    pub density: f32,
    pub seed: u64,
    /// Whether all numbers are small and whole, so that sums are exact.
    pub is_exact: bool,
}

impl Case {
    pub fn numbers(&self, name: &str, len: usize) -> Vec<f32> {
        let key = Key::new(self.seed).with_name(name);
        let number = |i| if self.is_exact { key.below(i, 7) as f32 - 3.0 } else { 2.0 * key.uniform(i) - 1.0 };
        (0..len as u64).map(number).collect()
    }

    pub fn output(&self) -> [usize; 2] {
        self.shape.output_size(self.size).unwrap()
    }

    pub fn layouts(&self) -> [ImageLayout; 2] {
        let [border_x, border_y] = self.shape.borders(self.size).unwrap();
        let layout =
            |channels, size, border| ImageLayout::new(self.samples, channels, size, border, self.strip).unwrap();
        [
            layout(self.shape.in_channels(), self.size, border_x + self.slack),
            layout(self.shape.out_channels(), self.output(), border_y + self.slack),
        ]
    }

    pub fn pattern(&self) -> CsrPattern {
        let key = Key::new(self.seed).with_name("pattern");
        let columns = self.shape.columns() as u32;
        let all = (0..self.shape.rows() as u32).flat_map(|r| (0..columns).map(move |c| (r, c)));
        let kept = all.filter(|&(r, c)| key.uniform(u64::from(r) << 32 | u64::from(c)) < self.density);
        CsrPattern::from_positions(self.shape.rows(), self.shape.columns(), kept.collect()).unwrap()
    }

    /// `X` and `dY` in NCHW.
    pub fn operands(&self) -> [Vec<f32>; 2] {
        let pixels = |channels: usize, size: [usize; 2]| self.samples * channels * size[0] * size[1];
        [
            self.numbers("x", pixels(self.shape.in_channels(), self.size)),
            self.numbers("dy", pixels(self.shape.out_channels(), self.output())),
        ]
    }
}

pub(super) fn images(cpu: &Cpu, layout: ImageLayout, data: &[f32]) -> Images<Cpu> {
    let mut images = Images::zeros(cpu, layout).unwrap();
    layout.pack(data, &mut images.data).unwrap();
    images
}

/// Images whose pixels are NaN; border and padding hold zeros, as they must.
pub(super) fn poisoned(cpu: &Cpu, layout: ImageLayout) -> Images<Cpu> {
    let pixels = layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1];
    images(cpu, layout, &vec![f32::NAN; pixels])
}

/// The pixels, after a check that all else is zero.
pub(super) fn read(images: &Images<Cpu>) -> Vec<f32> {
    let layout = images.layout;
    let mut data = vec![0.0; layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1]];
    layout.unpack(&images.data, &mut data).unwrap();
    let mut again = vec![0.0; layout.len()];
    layout.pack(&data, &mut again).unwrap();
    let same = again.iter().zip(&images.data[..]).all(|(a, b)| a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0));
    assert!(same || data.iter().any(|v| v.is_nan()), "border or padding was written");
    data
}

pub(super) fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..8, 1usize..6, 1usize..4, 0usize..16, 0usize..16);
    let kernel = prop::sample::select(vec![[1, 1], [3, 3], [5, 5], [7, 7], [2, 3], [1, 4]]);
    let taps = (kernel, 1usize..4, 1usize..3, 0usize..4, 0usize..4, 1usize..3, 1usize..3);
    let images = (0usize..21, prop::sample::select(&ImageLayout::STRIPS), 0usize..3);
    (sizes, taps, images, 0.0f32..1.0, 0u64..1000, any::<bool>()).prop_map(
        |(
            (oc, ic, groups, height, width),
            (kernel, sh, sw, ph, pw, dh, dw),
            (samples, strip, slack),
            density,
            seed,
            is_exact,
        )| {
            let shape = ConvShape::new(oc * groups, ic * groups, kernel).unwrap().with_groups(groups).unwrap();
            let shape = shape.with_stride([sh, sw]).unwrap().with_padding([ph, pw]).with_dilation([dh, dw]).unwrap();
            // At least one pixel of output.
            let least = [0, 1].map(|axis| {
                let span = shape.dilation()[axis] * (kernel[axis] - 1) + 1;
                span.saturating_sub(2 * shape.padding()[axis]).max(1)
            });
            let size = [least[0] + height, least[1] + width];
            Case { shape, size, samples, strip, slack, density, seed, is_exact }
        },
    )
}

pub(super) fn cpus() -> Vec<Cpu> {
    let available = IsaName::ALL.into_iter().filter(|isa| isa.is_available());
    available
        .flat_map(|isa| {
            // With next to no cache, small matrices are cut into chunks too.
            let mut small = Cpu::new(1, Some(isa)).unwrap();
            small.l1_bytes = 64;
            [Cpu::new(1, Some(isa)).unwrap(), small]
        })
        .collect()
}

fn check_case(cpu: &Cpu, case: &Case) {
    let Case { shape, size, samples, is_exact, .. } = *case;
    let pattern = Arc::new(case.pattern());
    let values = case.numbers("values", pattern.nnz());
    let [x_layout, y_layout] = case.layouts();
    let [x, dy] = case.operands();
    let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
    let weight = ConvWeight::new(cpu, pattern.clone(), &values, shape, options).unwrap();
    let dense = reference::conv::to_dense(&pattern, &values);
    let what = format!("{} {case:?}", cpu.isa());

    let (x_images, dy_images) = (images(cpu, x_layout, &x), images(cpu, y_layout, &dy));
    let mut y = poisoned(cpu, y_layout);
    cpu.conv_forward(&weight, &x_images, &mut y).unwrap();
    let expected = reference::conv::forward(shape, size, samples, &dense, &x);
    check(&format!("forward {what}"), is_exact, &read(&y), &expected);

    let mut dx = poisoned(cpu, x_layout);
    cpu.conv_input_grad(&weight, &dy_images, &mut dx).unwrap();
    let expected = reference::conv::input_grad(shape, size, samples, &dense, &dy);
    check(&format!("input grad {what}"), is_exact, &read(&dx), &expected);

    let all = reference::conv::weight_grad(shape, size, samples, &dy, &x);
    let at = |(row, column): (u32, u32)| all[row as usize * shape.columns() + column as usize];
    let mut expected: Vec<Exact> = pattern.positions().map(at).collect();
    let mut dw = cpu.zeros(pattern.nnz()).unwrap();
    dw.fill(f32::NAN);
    cpu.conv_weight_grad(&weight.plan, &dy_images, &x_images, &mut dw, false).unwrap();
    check(&format!("weight grad {what}"), is_exact, &dw, &expected);
    cpu.conv_weight_grad(&weight.plan, &dy_images, &x_images, &mut dw, true).unwrap();
    expected.iter_mut().for_each(|e| {
        *e = Exact { value: 2.0 * e.value, magnitude: 2.0 * e.magnitude, terms: e.terms + 1 };
    });
    check(&format!("added weight grad {what}"), is_exact, &dw, &expected);
}

/// The places of dense weights, `[O][C/G][kh][kw]`, in blocks; `None` for padding.
fn places_of_blocks(shape: ConvShape, pattern: &BsrPattern) -> Vec<Option<usize>> {
    let channels = shape.in_channels() / shape.groups();
    let mut places = vec![None; pattern.nnz()];
    for entry in pattern.entries() {
        let (tap, channel) = (entry.column / channels, entry.column % channels);
        places[entry.position] = Some(entry.row * shape.columns() + channel * shape.taps() + tap);
    }
    places
}

/// Dense weights, or blocks if a size is given, in all three passes.
fn check_dense(cpu: &Cpu, case: &Case, block_size: Option<[usize; 2]>) {
    let Case { shape, size, samples, is_exact, .. } = *case;
    let [x_layout, y_layout] = case.layouts();
    let [x, dy] = case.operands();
    let what = format!("{} {block_size:?} {case:?}", cpu.isa());
    let (x_images, dy_images) = (images(cpu, x_layout, &x), images(cpu, y_layout, &dy));
    let (mut y, mut dx) = (poisoned(cpu, y_layout), poisoned(cpu, x_layout));
    let mut dense = case.numbers("values", shape.rows() * shape.columns());
    let all = reference::conv::weight_grad(shape, size, samples, &dy, &x);
    let twice = |e: &Exact| Exact { value: 2.0 * e.value, magnitude: 2.0 * e.magnitude, terms: e.terms + 1 };
    let (dw, again, expected);
    if let Some(block_size) = block_size {
        // A case's density decides which blocks are there.
        let [r, c] = block_size;
        let (rows, columns) = (shape.rows().div_ceil(r), shape.columns() / c);
        let key = Key::new(case.seed).with_name("blocks");
        let kept = (0..rows as u32).flat_map(|r| (0..columns as u32).map(move |c| (r, c)));
        let kept = kept.filter(|&(r, c)| key.uniform(u64::from(r) << 32 | u64::from(c)) < case.density).collect();
        let blocks = CsrPattern::from_positions(rows, columns, kept).unwrap();
        let pattern =
            Arc::new(BsrPattern::from_blocks(shape.rows(), shape.columns(), block_size, Arc::new(blocks)).unwrap());
        let places = places_of_blocks(shape, &pattern);
        let values: Vec<f32> = places.iter().map(|place| place.map_or(0.0, |at| dense[at])).collect();
        dense.fill(0.0);
        places.iter().zip(&values).for_each(|(place, &value)| place.iter().for_each(|&at| dense[at] = value));
        let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
        let weight = BlockConvWeight::new(cpu, pattern, &values, shape, options).unwrap();
        cpu.conv_forward_bsr(&weight, &x_images, &mut y).unwrap();
        cpu.conv_input_grad_bsr(&weight, &dy_images, &mut dx).unwrap();
        let mut gradient = cpu.zeros(values.len()).unwrap();
        gradient.fill(f32::NAN);
        cpu.conv_weight_grad_bsr(&weight.plan, &dy_images, &x_images, &mut gradient, false).unwrap();
        dw = gradient.to_vec();
        cpu.conv_weight_grad_bsr(&weight.plan, &dy_images, &x_images, &mut gradient, true).unwrap();
        again = gradient.to_vec();
        expected = places.iter().map(|place| place.map_or(Exact::ZERO, |at| all[at])).collect::<Vec<_>>();
    } else {
        let mut weight = cpu.zeros(dense.len()).unwrap();
        cpu.upload(&dense, &mut weight).unwrap();
        cpu.conv_forward_dense(shape, &weight, &x_images, &mut y).unwrap();
        cpu.conv_input_grad_dense(shape, &weight, &dy_images, &mut dx).unwrap();
        weight.fill(f32::NAN);
        cpu.conv_weight_grad_dense(shape, &dy_images, &x_images, &mut weight, false).unwrap();
        dw = weight.to_vec();
        cpu.conv_weight_grad_dense(shape, &dy_images, &x_images, &mut weight, true).unwrap();
        again = weight.to_vec();
        expected = all;
    }
    let y_expected = reference::conv::forward(shape, size, samples, &dense, &x);
    check(&format!("forward {what}"), is_exact, &read(&y), &y_expected);
    let dx_expected = reference::conv::input_grad(shape, size, samples, &dense, &dy);
    check(&format!("input grad {what}"), is_exact, &read(&dx), &dx_expected);
    check(&format!("weight grad {what}"), is_exact, &dw, &expected);
    let expected: Vec<Exact> = expected.iter().map(twice).collect();
    check(&format!("added weight grad {what}"), is_exact, &again, &expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]
    #[test]
    fn dense_convolution_equals_the_plain_loops(case in cases()) {
        for cpu in cpus() {
            check_dense(&cpu, &case, None);
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
            check_dense(&cpu, &case, Some([r, c]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn sparse_convolution_equals_the_plain_loops(case in cases()) {
        for cpu in cpus() {
            check_case(&cpu, &case);
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
        check_case(&cpu, &large());
        check_case(&cpu, &Case { density: 0.7, ..large() });
        check_dense(&cpu, &large(), None);
        check_dense(&cpu, &large(), Some([8, 8]));
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
        for (stride, strip) in [([1, 1], 8), ([2, 2], 16)] {
            let case = Case { shape: large().shape.with_stride(stride).unwrap(), strip, density: 0.7, ..large() };
            let run = |threads: usize| {
                let cpu = Cpu::new(threads, Some(isa)).unwrap();
                let pattern = Arc::new(case.pattern());
                let values = case.numbers("values", pattern.nnz());
                let [x_layout, y_layout] = case.layouts();
                let [x, dy] = case.operands();
                let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
                let weight = ConvWeight::new(&cpu, pattern.clone(), &values, case.shape, options).unwrap();
                let (x, dy) = (images(&cpu, x_layout, &x), images(&cpu, y_layout, &dy));
                let (mut y, mut dx) = (poisoned(&cpu, y_layout), poisoned(&cpu, x_layout));
                let mut dw = cpu.zeros(pattern.nnz()).unwrap();
                cpu.conv_forward(&weight, &x, &mut y).unwrap();
                cpu.conv_input_grad(&weight, &dy, &mut dx).unwrap();
                cpu.conv_weight_grad(&weight.plan, &dy, &x, &mut dw, false).unwrap();
                [read(&y), read(&dx), dw.to_vec()].map(|values| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            };
            let one = run(1);
            assert!(run(2) == one && run(7) == one, "{isa} {case:?}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let cpu = Cpu::new(1, None).unwrap();
    let case = Case { density: 0.3, ..large() };
    let pattern = Arc::new(case.pattern());
    let [x, y] = case.layouts();
    let options = ConvOptions { x, y, input_grad: true };
    let refused = |shape: ConvShape, options: ConvOptions, word: &str| {
        let error = cpu.plan_conv(pattern.clone(), shape, options).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    };
    let thin = ImageLayout::new(10, 48, [4, 6], 0, 8).unwrap();
    refused(case.shape, ConvOptions { x: thin, ..options }, "border of X");
    let thin = ImageLayout::new(10, 136, [4, 6], 0, 8).unwrap();
    refused(case.shape, ConvOptions { y: thin, ..options }, "border of Y");
    let other = ImageLayout::new(10, 136, [4, 6], 1, 16).unwrap();
    refused(case.shape, ConvOptions { y: other, ..options }, "strip of Y");
    refused(case.shape.with_padding([0, 0]), options, "height of Y");
    refused(ConvShape::new(136, 47, [3, 3]).unwrap(), options, "columns");
    assert!(cpu.plan_conv(pattern.clone(), case.shape, ConvOptions { y: thin, input_grad: false, ..options }).is_ok());

    let values = case.numbers("values", pattern.nnz());
    let options = ConvOptions { input_grad: false, ..options };
    let weight = ConvWeight::new(&cpu, pattern, &values, case.shape, options).unwrap();
    let (from, mut to) = (Images::zeros(&cpu, x).unwrap(), Images::zeros(&cpu, y).unwrap());
    assert!(cpu.conv_forward(&weight, &from, &mut to).is_ok());
    let mut fewer = Images::zeros(&cpu, y.with_samples(9)).unwrap();
    assert!(cpu.conv_forward(&weight, &from, &mut fewer).unwrap_err().to_string().contains("samples"));
    let mut dx = Images::zeros(&cpu, x).unwrap();
    assert!(cpu.conv_input_grad(&weight, &to, &mut dx).unwrap_err().to_string().contains("input_grad"));
}

/// Growth as it is defined: all positions sorted.
fn grow_reference(case: &Case, request: &GrowRequest<'_>, gradient: &[Exact]) -> Vec<(u32, u32)> {
    let columns = case.shape.columns();
    let is_free = |at: &usize| request.exclude.row(at / columns).binary_search(&((at % columns) as u32)).is_err();
    let mut free: Vec<usize> = (0..gradient.len()).filter(is_free).collect();
    let hash = |at: usize| request.ties.bits(at as u64) as u32;
    let score = |at: usize| gradient[at].value.abs();
    free.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(hash(a).cmp(&hash(b))).then(a.cmp(&b)));
    free.truncate(request.count);
    free.sort_unstable();
    free.into_iter().map(|at| ((at / columns) as u32, (at % columns) as u32)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    #[test]
    fn growth_finds_the_largest(case in cases(), share in 0.0f64..1.2) {
        // Whole numbers: scores are exact, and there are many ties.
        let case = Case { is_exact: true, ..case };
        let Case { shape, size, samples, .. } = case;
        let exclude = case.pattern();
        let count = (share * (shape.rows() * shape.columns() - exclude.nnz()) as f64) as usize;
        let request = GrowRequest { exclude: &exclude, count, ties: Key::new(case.seed) };
        let [x, dy] = case.operands();
        let mut gradient = reference::conv::weight_grad(shape, size, samples, &dy, &x);
        gradient.iter_mut().for_each(|g| g.value *= 2.0);
        let expected = grow_reference(&case, &request, &gradient);
        for cpu in cpus() {
            let [x_layout, y_layout] = case.layouts();
            let (x, dy) = (images(&cpu, x_layout, &x), images(&cpu, y_layout, &dy));
            let found = cpu.grow_conv(shape, &request, &[(&dy, &x), (&dy, &x)]).unwrap();
            let places: Vec<(u32, u32)> = found.iter().map(|c| (c.row, c.column)).collect();
            prop_assert_eq!(&places, &expected, "{}", cpu.isa());
            for c in &found {
                let exact = gradient[c.row as usize * shape.columns() + c.column as usize].value.abs();
                prop_assert_eq!(f64::from(c.score), exact);
            }
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
        let request = GrowRequest { exclude: &exclude, count, ties: Key::new(5) };
        let expected = grow_reference(&case, &request, &gradient);
        for threads in [1, 2, 7] {
            let cpu = Cpu::new(threads, None).unwrap();
            let [x_layout, y_layout] = case.layouts();
            let (x, dy) = (images(&cpu, x_layout, &x), images(&cpu, y_layout, &dy));
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
