//! Convolutions of random shapes, and all of their passes against plain loops.

use std::sync::Arc;

use proptest::prelude::*;

use super::{buffer, check, host, poison};
use crate::backend::{ConvOptions, ConvWeight, DenseConv, GrowRequest, SparseConv};
use crate::random::Key;
use crate::reference::{self, Exact};
use crate::{ConvShape, CsrPattern, ImageLayout, Images, Storage};

/// A convolution of some images.
#[derive(Debug, Clone, Copy)]
pub struct Case {
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

    /// `X` and `dY` on a backend.
    pub fn images<B: Storage>(&self, backend: &B) -> [Images<B>; 2] {
        let ([x_layout, y_layout], [x, dy]) = (self.layouts(), self.operands());
        [images(backend, x_layout, &x), images(backend, y_layout, &dy)]
    }

    /// The sparse passes of one backend against the reference.
    pub fn verify_sparse<B: SparseConv>(&self, name: &str, backend: &B) {
        let Case { shape, size, samples, is_exact, .. } = *self;
        let pattern = Arc::new(self.pattern());
        let values = self.numbers("values", pattern.nnz());
        let [x_layout, y_layout] = self.layouts();
        let [x, dy] = self.operands();
        let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
        let weight = ConvWeight::new(backend, pattern.clone(), &values, shape, options).unwrap();
        let dense = reference::conv::to_dense(&pattern, &values);
        let what = format!("{name} {self:?}");
        let [x_images, dy_images] = self.images(backend);

        let mut y = poisoned(backend, y_layout);
        backend.conv_forward(&weight, &x_images, &mut y).unwrap();
        let expected = reference::conv::forward(shape, size, samples, &dense, &x);
        check(&format!("forward {what}"), is_exact, &read(backend, &y), &expected);

        let mut dx = poisoned(backend, x_layout);
        backend.conv_input_grad(&weight, &dy_images, &mut dx).unwrap();
        let expected = reference::conv::input_grad(shape, size, samples, &dense, &dy);
        check(&format!("input grad {what}"), is_exact, &read(backend, &dx), &expected);

        let all = reference::conv::weight_grad(shape, size, samples, &dy, &x);
        let at = |(row, column): (u32, u32)| all[row as usize * shape.columns() + column as usize];
        let expected: Vec<Exact> = pattern.positions().map(at).collect();
        let mut dw = poison(backend, pattern.nnz());
        backend.conv_weight_grad(&weight.plan, &dy_images, &x_images, &mut dw, false).unwrap();
        check(&format!("weight grad {what}"), is_exact, &host(backend, &dw), &expected);
        backend.conv_weight_grad(&weight.plan, &dy_images, &x_images, &mut dw, true).unwrap();
        check(&format!("added weight grad {what}"), is_exact, &host(backend, &dw), &twice(&expected));
    }

    /// The passes with dense weights, depthwise ones included, of one backend against the reference.
    pub fn verify_dense<B: DenseConv>(&self, name: &str, backend: &B) {
        let Case { shape, size, samples, is_exact, .. } = *self;
        let w = self.numbers("values", shape.rows() * shape.columns());
        let [x_layout, y_layout] = self.layouts();
        let [x, dy] = self.operands();
        let what = format!("{name} {self:?}");
        let [x_images, dy_images] = self.images(backend);
        let weight = buffer(backend, &w);

        let mut y = poisoned(backend, y_layout);
        backend.conv_forward_dense(shape, &weight, &x_images, &mut y).unwrap();
        let expected = reference::conv::forward(shape, size, samples, &w, &x);
        check(&format!("dense forward {what}"), is_exact, &read(backend, &y), &expected);

        let mut dx = poisoned(backend, x_layout);
        backend.conv_input_grad_dense(shape, &weight, &dy_images, &mut dx).unwrap();
        let expected = reference::conv::input_grad(shape, size, samples, &w, &dy);
        check(&format!("dense input grad {what}"), is_exact, &read(backend, &dx), &expected);

        let expected = reference::conv::weight_grad(shape, size, samples, &dy, &x);
        let mut dw = poison(backend, w.len());
        backend.conv_weight_grad_dense(shape, &dy_images, &x_images, &mut dw, false).unwrap();
        check(&format!("dense weight grad {what}"), is_exact, &host(backend, &dw), &expected);
        backend.conv_weight_grad_dense(shape, &dy_images, &x_images, &mut dw, true).unwrap();
        check(&format!("added dense weight grad {what}"), is_exact, &host(backend, &dw), &twice(&expected));
    }

    /// Growth of some positions of two gradients' sum, of whole numbers: scores are exact, and there are many ties.
    pub fn verify_growth<B: SparseConv>(&self, name: &str, backend: &B, count: usize) {
        let case = Case { is_exact: true, ..*self };
        let Case { shape, size, samples, .. } = case;
        let exclude = case.pattern();
        let request = GrowRequest { exclude: exclude.into(), count, ties: Key::new(case.seed) };
        let [x, dy] = case.operands();
        let mut gradient = reference::conv::weight_grad(shape, size, samples, &dy, &x);
        gradient.iter_mut().for_each(|g| g.value *= 2.0);
        let expected = grow_reference(&case, &request, &gradient);
        let [x, dy] = case.images(backend);
        let found = backend.grow_conv(shape, &request, &[(&dy, &x), (&dy, &x)]).unwrap();
        let places: Vec<(u32, u32)> = found.iter().map(|c| (c.row, c.column)).collect();
        assert_eq!(places, expected, "{name} {case:?}");
        for c in &found {
            let exact = gradient[c.row as usize * shape.columns() + c.column as usize].value.abs();
            assert_eq!(f64::from(c.score), exact, "{name} {case:?}");
        }
    }
}

/// The same sums, made twice.
pub fn twice(sums: &[Exact]) -> Vec<Exact> {
    let twice = |e: &Exact| Exact { value: 2.0 * e.value, magnitude: 2.0 * e.magnitude, terms: e.terms + 1 };
    sums.iter().map(twice).collect()
}

/// Images of these pixels, in NCHW.
pub fn images<B: Storage>(backend: &B, layout: ImageLayout, data: &[f32]) -> Images<B> {
    let mut packed = vec![0.0; layout.len()];
    layout.pack(data, &mut packed).unwrap();
    Images { layout, data: buffer(backend, &packed) }
}

/// Images whose pixels are NaN; border and padding hold zeros, as they must.
pub fn poisoned<B: Storage>(backend: &B, layout: ImageLayout) -> Images<B> {
    let pixels = layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1];
    images(backend, layout, &vec![f32::NAN; pixels])
}

/// The pixels, after a check that all else is zero.
pub fn read<B: Storage>(backend: &B, images: &Images<B>) -> Vec<f32> {
    let layout = images.layout;
    let held = host(backend, &images.data);
    let mut data = vec![0.0; layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1]];
    layout.unpack(&held, &mut data).unwrap();
    let mut again = vec![0.0; layout.len()];
    layout.pack(&data, &mut again).unwrap();
    let same = again.iter().zip(&held).all(|(a, b)| a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0));
    assert!(same || data.iter().any(|v| v.is_nan()), "border or padding was written");
    data
}

/// Growth as it is defined: all positions sorted.
pub fn grow_reference(case: &Case, request: &GrowRequest, gradient: &[Exact]) -> Vec<(u32, u32)> {
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

/// Sizes that give at least one pixel of output.
fn fitting(shape: ConvShape, [height, width]: [usize; 2]) -> [usize; 2] {
    let least = [0, 1].map(|axis| {
        let span = shape.dilation()[axis] * (shape.kernel()[axis] - 1) + 1;
        span.saturating_sub(2 * shape.padding()[axis]).max(1)
    });
    [least[0] + height, least[1] + width]
}

/// Convolutions of few channels, in groups or not.
pub fn cases() -> impl Strategy<Value = Case> {
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
            Case { shape, size: fitting(shape, [height, width]), samples, strip, slack, density, seed, is_exact }
        },
    )
}

/// A convolution of every channel by itself: stride 1, no padding, no dilation.
pub fn depthwise(channels: usize, kernel: [usize; 2]) -> ConvShape {
    ConvShape::new(channels, channels, kernel).unwrap().with_groups(channels).unwrap()
}

/// Convolutions of every channel by itself.
pub fn depthwise_cases() -> impl Strategy<Value = Case> {
    let kernel = prop::sample::select(vec![[1, 1], [3, 3], [3, 3], [5, 5], [7, 7], [2, 3], [1, 4], [4, 1]]);
    let taps = (kernel, 1usize..4, 1usize..4, 0usize..4, 0usize..4, 1usize..3, 1usize..3);
    let images = (0usize..40, prop::sample::select(&ImageLayout::STRIPS), 0usize..3);
    let sizes = (1usize..12, 0usize..16, 0usize..24);
    (sizes, taps, images, 0u64..1000, any::<bool>()).prop_map(
        |((channels, height, width), (kernel, sh, sw, ph, pw, dh, dw), (samples, strip, slack), seed, is_exact)| {
            let shape = depthwise(channels, kernel).with_stride([sh, sw]).unwrap();
            let shape = shape.with_padding([ph, pw]).with_dilation([dh, dw]).unwrap();
            let size = fitting(shape, [height, width]);
            Case { shape, size, samples, strip, slack, density: 1.0, seed, is_exact }
        },
    )
}

/// Convolutions that do not fit what they are planned for.
pub fn verify_refusals<B: SparseConv>(backend: &B) {
    let shape = ConvShape::new(136, 48, [3, 3]).unwrap().with_padding([1, 1]);
    let case = Case { shape, size: [4, 6], samples: 10, strip: 8, slack: 0, density: 0.3, seed: 1, is_exact: false };
    let pattern = Arc::new(case.pattern());
    let [x, y] = case.layouts();
    let options = ConvOptions { x, y, input_grad: true };
    let refused = |shape: ConvShape, options: ConvOptions, word: &str| {
        let error = backend.plan_conv(pattern.clone(), shape, options).unwrap_err().to_string();
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
    let without = ConvOptions { y: thin, input_grad: false, ..options };
    assert!(backend.plan_conv(pattern.clone(), case.shape, without).is_ok());

    let values = case.numbers("values", pattern.nnz());
    let options = ConvOptions { input_grad: false, ..options };
    let weight = ConvWeight::new(backend, pattern, &values, case.shape, options).unwrap();
    let (from, mut to) = (Images::zeros(backend, x).unwrap(), Images::zeros(backend, y).unwrap());
    assert!(backend.conv_forward(&weight, &from, &mut to).is_ok());
    let mut fewer = Images::zeros(backend, y.with_samples(9)).unwrap();
    assert!(backend.conv_forward(&weight, &from, &mut fewer).unwrap_err().to_string().contains("samples"));
    let mut dx = Images::zeros(backend, x).unwrap();
    assert!(backend.conv_input_grad(&weight, &to, &mut dx).unwrap_err().to_string().contains("input_grad"));
}
