//! Operations on images against the reference.

use proptest::prelude::*;

use super::neural::{normals, same};
use super::{buffer, check, host, poison, poisoned as poisoned_strips, read as read_strips, strips};
use crate::backend::{Accumulate, Activation, BatchNorm, BatchNormOptions, ReluMask};
use crate::random::Key;
use crate::reference::{self, Exact};
use crate::{ImageLayout, ImageNeural, Images, PoolShape, ShapeError, Storage, StripLayout, Strips};

/// A batch of images, and the layouts of two tensors of them that differ in border.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub samples: usize,
    pub channels: usize,
    pub size: [usize; 2],
    pub borders: [usize; 2],
    pub strip: usize,
    pub seed: u32,
}

impl Case {
    pub fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    pub fn planes(&self) -> usize {
        self.samples * self.channels
    }

    pub fn len(&self) -> usize {
        self.planes() * self.pixels()
    }

    /// The layout of tensor 0 or 1, with another size.
    pub fn layout_of(&self, tensor: usize, size: [usize; 2]) -> ImageLayout {
        ImageLayout::new(self.samples, self.channels, size, self.borders[tensor], self.strip).unwrap()
    }

    pub fn layout(&self, tensor: usize) -> ImageLayout {
        self.layout_of(tensor, self.size)
    }

    pub fn normals(&self, name: &str, len: usize) -> Vec<f32> {
        normals(&format!("{name} {}", self.seed), len)
    }

    /// With images large enough for the window.
    pub fn enlarged(self, window: PoolShape) -> Self {
        let least = [0, 1].map(|axis| window.kernel()[axis] - 2 * window.padding()[axis]);
        Self { size: [0, 1].map(|axis| self.size[axis].max(least[axis])), ..self }
    }
}

pub fn cases() -> impl Strategy<Value = Case> {
    let shape = (0usize..20, 1usize..6, 1usize..10, 1usize..10);
    let layout = (0usize..3, 0usize..3, prop::sample::select(&ImageLayout::STRIPS));
    (shape, layout, 0u32..1000).prop_map(|((samples, channels, height, width), (a, b, strip), seed)| Case {
        samples,
        channels,
        size: [height, width],
        borders: [a, b],
        strip,
        seed,
    })
}

/// Images that make enough work for several tasks, threads or workgroups, in strips of all kinds.
pub fn large() -> impl Iterator<Item = Case> {
    ImageLayout::STRIPS.into_iter().map(|strip| Case {
        samples: 37,
        channels: 19,
        size: [23, 17],
        borders: [1, 0],
        strip,
        seed: 7,
    })
}

pub fn windows() -> impl Strategy<Value = PoolShape> {
    let axis = || (1usize..6, 1usize..5, 0usize..3);
    (axis(), axis()).prop_map(|((kh, sh, ph), (kw, sw, pw))| {
        let window = PoolShape::new([kh, kw]).unwrap().with_stride([sh, sw]).unwrap();
        window.with_padding([ph.min(kh / 2), pw.min(kw / 2)]).unwrap()
    })
}

/// NCHW into images.
pub fn images<B: Storage>(backend: &B, layout: ImageLayout, from: &[f32]) -> Images<B> {
    let mut data = vec![0.0; layout.len()];
    layout.pack(from, &mut data).unwrap();
    Images { layout, data: buffer(backend, &data) }
}

/// Images whose rows hold NaN, padding samples too; the border holds zeros, as it must.
pub fn poisoned<B: Storage>(backend: &B, layout: ImageLayout) -> Images<B> {
    let mut data = vec![0.0; layout.len()];
    let [height, width] = layout.size();
    for sample in 0..layout.strips() * layout.strip() {
        for (channel, y) in (0..layout.channels()).flat_map(|c| (0..height).map(move |y| (c, y))) {
            (0..width).for_each(|x| data[layout.index(sample, channel, [y, x])] = f32::NAN);
        }
    }
    Images { layout, data: buffer(backend, &data) }
}

/// The pixels in NCHW, after a check that border and padding samples hold zeros.
#[track_caller]
pub fn read<B: Storage>(backend: &B, images: &Images<B>) -> Vec<f32> {
    let (layout, held) = (images.layout, host(backend, &images.data));
    let mut pixels = vec![0.0; layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1]];
    layout.unpack(&held, &mut pixels).unwrap();
    let mut all = vec![0.0; layout.len()];
    layout.pack(&vec![1.0; pixels.len()], &mut all).unwrap();
    assert!(all.iter().zip(&held).all(|(is_pixel, v)| *is_pixel == 1.0 || *v == 0.0), "{layout:?}");
    pixels
}

/// Images shorter than their layout says.
pub fn short<B: Storage>(backend: &B, layout: ImageLayout) -> Images<B> {
    Images { layout, data: backend.zeros(layout.len() - 1).unwrap() }
}

pub fn bias_relu<B: ImageNeural>(backend: &B, case: &Case, relu: bool, accumulate: bool) {
    let (x, grad) = (case.normals("x", case.len()), case.normals("grad", case.len()));
    let bias = case.normals("bias", case.channels);
    let expected = reference::images::bias_relu(&bias, relu, case.pixels(), &x);
    let (expected_grad, mut expected_dbias) =
        reference::images::bias_relu_grad(&expected, relu, &grad, case.channels, case.pixels());
    if accumulate {
        expected_dbias.iter_mut().for_each(|dbias: &mut Exact| dbias.add(2.0, 1.0));
    }
    let mut y = images(backend, case.layout(0), &x);
    backend.bias_relu_images(&buffer(backend, &bias), relu, &mut y).unwrap();
    assert_eq!(read(backend, &y), expected);
    let mut g = images(backend, case.layout(1), &grad);
    let mut dbias =
        if accumulate { buffer(backend, &vec![2.0; case.channels]) } else { poison(backend, case.channels) };
    backend.bias_relu_images_grad(&y, relu, &mut g, &mut dbias, accumulate).unwrap();
    assert_eq!(read(backend, &g), expected_grad);
    check("dbias", false, &host(backend, &dbias), &expected_dbias);
}

pub fn relu<B: ImageNeural>(backend: &B, case: &Case) {
    let (x, grad) = (case.normals("x", case.len()), case.normals("grad", case.len()));
    let none = vec![0.0; case.channels];
    let expected = reference::images::bias_relu(&none, true, case.pixels(), &x);
    let (expected_grad, _) = reference::images::bias_relu_grad(&expected, true, &grad, case.channels, case.pixels());
    let mut y = images(backend, case.layout(0), &x);
    backend.relu_images(&mut y).unwrap();
    assert_eq!(read(backend, &y), expected);
    let mut g = images(backend, case.layout(1), &grad);
    backend.relu_images_grad(&y, &mut g).unwrap();
    assert_eq!(read(backend, &g), expected_grad);
}

/// ReLU hides no NaN, of either sign.
pub fn nan_is_not_hidden<B: ImageNeural>(backend: &B) {
    for strip in ImageLayout::STRIPS {
        let layout = ImageLayout::new(2, 1, [1, 20], 1, strip).unwrap();
        let x = [[f32::NAN; 10], [-f32::NAN; 10], [-1.0; 10], [f32::NEG_INFINITY; 10]].concat();
        let (mut y, mut z) = (images(backend, layout, &x), images(backend, layout, &x));
        backend.bias_relu_images(&buffer(backend, &[0.5]), true, &mut y).unwrap();
        backend.relu_images(&mut z).unwrap();
        for y in [read(backend, &y), read(backend, &z)] {
            assert!(y[..20].iter().all(|y| y.is_nan()) && y[20..] == [0.0; 20], "{y:?}");
        }
    }
}

pub fn add<B: ImageNeural>(backend: &B, case: &Case) {
    let (a, b) = (case.normals("a", case.len()), case.normals("b", case.len()));
    let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
    for tensor in [0, 1] {
        let mut sum = images(backend, case.layout(1), &b);
        backend.add_images(&images(backend, case.layout(tensor), &a), &mut sum).unwrap();
        assert_eq!(read(backend, &sum), expected);
    }
}

/// Channels from the middle of one tensor to that of another, in which the others stay.
pub fn copy_channels<B: ImageNeural>(backend: &B, case: &Case, [before, behind]: [usize; 2]) {
    let (pixels, channels) = (case.pixels(), case.channels);
    let all = channels + before + behind;
    // NCHW of images with channels before and behind the case's, or as many behind as before.
    let layout = |tensor: usize| {
        let like = case.layout(tensor);
        ImageLayout::new(case.samples, all, like.size(), like.border(), like.strip()).unwrap()
    };
    let len = case.samples * all * pixels;
    let (from, to) = (case.normals("from", len), case.normals("to", len));
    let mut expected = to.clone();
    for sample in 0..case.samples {
        let [read, write] = [before, behind].map(|first| (sample * all + first) * pixels);
        expected[write..write + channels * pixels].copy_from_slice(&from[read..read + channels * pixels]);
    }
    for tensor in [0, 1] {
        let mut y = images(backend, layout(1), &to);
        backend
            .copy_channels(&images(backend, layout(tensor), &from), before..before + channels, &mut y, behind)
            .unwrap();
        assert_eq!(read(backend, &y), expected);
    }
}

/// In the order of NCHW, whatever strip and border are.
pub fn dropout<B: ImageNeural>(backend: &B, case: &Case, rate: f32, seed: u64, is_exact: bool) {
    let x = case.normals("x", case.len());
    let expected = reference::nn::dropout(Key::new(seed), rate, &x);
    let mut y = images(backend, case.layout(0), &x);
    backend.dropout_images(Key::new(seed), rate, &mut y).unwrap();
    same("dropout", is_exact, &read(backend, &y), &expected);
}

/// `strip` is that of the strips.
pub fn flatten<B: ImageNeural>(backend: &B, case: &Case, strip: usize) {
    let features = case.channels * case.pixels();
    let layout = StripLayout::new(case.samples, features, strip).unwrap();
    let x = case.normals("x", case.len());
    let expected = reference::images::flatten(features, &x);
    assert_eq!(reference::images::unflatten(features, &expected), x);
    let mut y = poisoned_strips(backend, layout);
    backend.flatten(&images(backend, case.layout(0), &x), &mut y).unwrap();
    assert_eq!(read_strips(backend, &y), expected);
    let mut back = poisoned(backend, case.layout(1));
    backend.unflatten(&strips(backend, layout, &expected), &mut back).unwrap();
    assert_eq!(read(backend, &back), x);
}

pub fn global_avg_pool<B: ImageNeural>(backend: &B, case: &Case, strip: usize, is_exact: bool) {
    let layout = StripLayout::new(case.samples, case.channels, strip).unwrap();
    let (x, dy) = (case.normals("x", case.len()), case.normals("dy", case.planes()));
    let expected = reference::images::global_avg_pool(case.channels, case.pixels(), &x);
    let expected_grad = reference::images::global_avg_pool_grad(case.channels, case.pixels(), &dy);
    let mut y = poisoned_strips(backend, layout);
    backend.global_avg_pool(&images(backend, case.layout(0), &x), &mut y).unwrap();
    check("mean", false, &read_strips(backend, &y), &expected);
    let mut dx = poisoned(backend, case.layout(0));
    backend.global_avg_pool_grad(&strips(backend, layout, &dy), &mut dx).unwrap();
    same("gradient of the mean", is_exact, &read(backend, &dx), &expected_grad);
}

/// `ties`: few different numbers.
pub fn max_pool<B: ImageNeural>(backend: &B, case: &Case, window: PoolShape, ties: bool, accumulate: bool) {
    let output = window.output_size(case.size).unwrap();
    let x = case.normals("x", case.len());
    let x: Vec<f32> = if ties { x.into_iter().map(f32::round).collect() } else { x };
    let expected = reference::images::max_pool(window, case.size, case.planes(), &x);
    let (dy, before) = (case.normals("dy", expected.len()), case.normals("dx", case.len()));
    let mut expected_grad = reference::images::max_pool_grad(window, case.size, case.planes(), &x, &dy);
    if accumulate {
        expected_grad.iter_mut().zip(&before).for_each(|(dx, &before): (&mut Exact, _)| dx.add(before, 1.0));
    }
    let x = images(backend, case.layout(0), &x);
    let mut y = poisoned(backend, case.layout_of(1, output));
    backend.max_pool(window, &x, &mut y).unwrap();
    assert_eq!(read(backend, &y), expected);
    let layout = case.layout(1);
    let mut dx = if accumulate { images(backend, layout, &before) } else { poisoned(backend, layout) };
    let dy = images(backend, case.layout_of(0, output), &dy);
    backend.max_pool_grad(window, &x, &y, &dy, &mut dx, accumulate).unwrap();
    check("dx", false, &read(backend, &dx), &expected_grad);
}

pub fn avg_pool<B: ImageNeural>(backend: &B, case: &Case, window: PoolShape, accumulate: bool) {
    let output = window.output_size(case.size).unwrap();
    let x = case.normals("x", case.len());
    let expected = reference::images::avg_pool(window, case.size, case.planes(), &x);
    let (dy, before) = (case.normals("dy", expected.len()), case.normals("dx", case.len()));
    let mut expected_grad = reference::images::avg_pool_grad(window, case.size, case.planes(), &dy);
    if accumulate {
        expected_grad.iter_mut().zip(&before).for_each(|(dx, &before): (&mut Exact, _)| dx.add(before, 1.0));
    }
    let mut y = poisoned(backend, case.layout_of(1, output));
    backend.avg_pool(window, &images(backend, case.layout(0), &x), &mut y).unwrap();
    check("mean", false, &read(backend, &y), &expected);
    let layout = case.layout(1);
    let mut dx = if accumulate { images(backend, layout, &before) } else { poisoned(backend, layout) };
    backend.avg_pool_grad(window, &images(backend, case.layout_of(0, output), &dy), &mut dx, accumulate).unwrap();
    check("dx", false, &read(backend, &dx), &expected_grad);
}

/// NaN makes NaN wherever it stands in a window, infinities do not; what is lost is one window's gradient.
pub fn nan_and_infinities<B: ImageNeural>(backend: &B) {
    let window = PoolShape::new([2, 2]).unwrap();
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for strip in ImageLayout::STRIPS {
        let layouts = [[2, 12], [1, 6]].map(|size| ImageLayout::new(1, 1, size, 1, strip).unwrap());
        let above = [nan, 1.0, 1.0, nan, 1.0, 1.0, inf, -inf, -inf, -inf, 0.5, -1.0];
        let below = [1.0, 1.0, 1.0, 1.0, -nan, 1.0, -inf, inf, -inf, -inf, 2.0, 2.0];
        let x = images(backend, layouts[0], &[above, below].concat());
        let (mut y, mut dx) = (poisoned(backend, layouts[1]), poisoned(backend, layouts[0]));
        backend.max_pool(window, &x, &mut y).unwrap();
        let got = read(backend, &y);
        assert!(got[..3].iter().all(|y| y.is_nan()), "{got:?}");
        assert_eq!(got[3..], [inf, -inf, 2.0]);
        let dy = images(backend, layouts[1], &[1.0, 2.0, 3.0, inf, 5.0, 6.0]);
        backend.max_pool_grad(window, &x, &y, &dy, &mut dx, false).unwrap();
        let above = [1.0, 0.0, 2.0, 0.0, 3.0, 0.0, inf, 0.0, 5.0, 0.0, 0.0, 0.0];
        let below = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 6.0, 0.0];
        assert_eq!(read(backend, &dx), [above, below].concat());
    }
}

/// What pooling must refuse.
pub fn wrong_pools_are_refused<B: ImageNeural>(backend: &B) {
    let window = PoolShape::new([2, 2]).unwrap();
    let layout = |samples, channels, size, strip| ImageLayout::new(samples, channels, size, 1, strip).unwrap();
    let empty = |layout: ImageLayout| Images::<B>::zeros(backend, layout).unwrap();
    let (x_layout, y_layout) = (layout(2, 3, [4, 6], 8), layout(2, 3, [2, 3], 8));
    let (x, y) = (empty(x_layout), empty(y_layout));
    let all = |x: &Images<B>, y: &Images<B>, dy: &Images<B>, dx_layout: ImageLayout, y_layout: ImageLayout| {
        let (mut to, mut dx) = (empty(y_layout), empty(dx_layout));
        [
            backend.max_pool(window, x, &mut to),
            backend.avg_pool(window, x, &mut to),
            backend.max_pool_grad(window, x, y, dy, &mut dx, false),
            backend.avg_pool_grad(window, dy, &mut dx, false),
        ]
        .map(|result| result.is_ok())
    };
    assert_eq!(all(&x, &y, &y, x_layout, y_layout), [true; 4]);
    for (samples, channels, strip, more) in [(3, 3, 8, 0), (2, 2, 8, 0), (2, 3, 16, 0), (2, 3, 8, 2)] {
        let other = |size: [usize; 2]| layout(samples, channels, [size[0] + more, size[1]], strip);
        let (other_x, other_y) = (other([4, 6]), other([2, 3]));
        assert_eq!(all(&empty(other_x), &y, &y, x_layout, y_layout), [false, false, false, true]);
        assert_eq!(all(&x, &empty(other_y), &y, x_layout, y_layout), [true, true, false, true]);
        assert_eq!(all(&x, &y, &empty(other_y), x_layout, y_layout), [true, true, false, false]);
        assert_eq!(all(&x, &y, &y, other_x, y_layout), [true, true, false, false]);
        assert_eq!(all(&x, &y, &y, x_layout, other_y), [false, false, true, true]);
    }
    let (short_x, short_y) = (short(backend, x_layout), short(backend, y_layout));
    assert_eq!(all(&short_x, &short_y, &short_y, x_layout, y_layout), [false; 4]);
    assert_eq!(all(&x, &short_y, &y, x_layout, y_layout), [true, true, false, true]);
    assert!(backend.max_pool(window, &x, &mut short(backend, y_layout)).is_err());
    assert!(backend.max_pool_grad(window, &x, &y, &y, &mut short(backend, x_layout), false).is_err());
    let large = PoolShape::new([5, 2]).unwrap();
    let error = backend.max_pool(large, &x, &mut empty(y_layout)).unwrap_err();
    assert!(matches!(error, crate::BackendError::Shape(ShapeError::Rule { got: 4, .. })), "{error}");
}

/// What all operations on images but pooling must refuse, leaving everything as it was.
pub fn wrong_shapes_are_refused<B: ImageNeural>(backend: &B) {
    let layout = ImageLayout::new(2, 3, [4, 5], 1, 8).unwrap();
    let zeros = |len| backend.zeros(len).unwrap();
    let (mut x, y) = (images(backend, layout, &[1.0; 120]), images(backend, layout, &[1.0; 120]));
    let short = || short(backend, layout);
    let others = [(3, 3, [4, 5], 8), (2, 2, [4, 5], 8), (2, 3, [5, 5], 8), (2, 3, [4, 4], 8), (2, 3, [4, 5], 16)];
    for (samples, channels, size, strip) in others {
        let other = ImageLayout::new(samples, channels, size, 1, strip).unwrap();
        let mut other = images(backend, other, &vec![1.0; samples * channels * size[0] * size[1]]);
        assert!(backend.add_images(&other, &mut x).is_err());
        // Only the number of channels may differ.
        assert_eq!(backend.copy_channels(&other, 0..2, &mut x, 1).is_ok(), channels == 2);
        assert!(backend.bias_relu_images_grad(&other, true, &mut x, &mut zeros(3), false).is_err());
        assert!(backend.relu_images_grad(&y, &mut other).is_err());
    }
    assert!(backend.add_images(&short(), &mut x).is_err());
    for (channels, first) in [(0..4, 0), (1..3, 2), (0..1, usize::MAX)] {
        assert!(backend.copy_channels(&y, channels, &mut x, first).is_err());
    }
    assert!(backend.copy_channels(&short(), 0..1, &mut x, 0).is_err());
    assert!(backend.copy_channels(&y, 0..1, &mut short(), 0).is_err());
    assert!(backend.add_images(&y, &mut short()).is_err());
    assert!(backend.bias_relu_images(&zeros(2), true, &mut x).is_err());
    assert!(backend.bias_relu_images(&zeros(3), true, &mut short()).is_err());
    assert!(backend.bias_relu_images_grad(&y, true, &mut x, &mut zeros(2), false).is_err());
    assert!(backend.bias_relu_images_grad(&y, true, &mut short(), &mut zeros(3), false).is_err());
    assert!(backend.bias_relu_images_grad(&short(), false, &mut x, &mut zeros(3), false).is_err());
    assert!(backend.relu_images(&mut short()).is_err());
    assert!(backend.relu_images_grad(&short(), &mut x).is_err());
    assert!(backend.relu_images_grad(&y, &mut short()).is_err());
    for rate in [-0.1, 1.0, f32::NAN] {
        assert!(backend.dropout_images(Key::new(1), rate, &mut x).is_err());
    }
    assert!(backend.dropout_images(Key::new(1), 0.5, &mut short()).is_err());
    for (lanes, features, means) in [(3, 60, 3), (2, 61, 4)] {
        let mut flat = poisoned_strips(backend, StripLayout::sparse(lanes, features));
        assert!(backend.flatten(&x, &mut flat).is_err());
        assert!(backend.unflatten(&flat, &mut x).is_err());
        let mut mean = poisoned_strips(backend, StripLayout::sparse(lanes, means));
        assert!(backend.global_avg_pool(&x, &mut mean).is_err());
        assert!(backend.global_avg_pool_grad(&mean, &mut x).is_err());
    }
    let mut flat = poisoned_strips(backend, StripLayout::sparse(2, 60));
    assert!(backend.flatten(&short(), &mut flat).is_err());
    assert!(backend.unflatten(&flat, &mut short()).is_err());
    let mut mean = poisoned_strips(backend, StripLayout::sparse(2, 3));
    assert!(backend.global_avg_pool(&short(), &mut mean).is_err());
    assert!(backend.global_avg_pool_grad(&mean, &mut short()).is_err());
    let empty = images(backend, ImageLayout::new(2, 3, [0, 5], 1, 8).unwrap(), &[]);
    assert!(backend.global_avg_pool(&empty, &mut mean).unwrap_err().to_string().contains("pixels"));
    let short = |strips: &Strips<B>| Strips { layout: strips.layout, data: zeros(strips.layout.len() - 1) };
    let (mut flat, mut mean) = (short(&flat), short(&mean));
    assert!(backend.flatten(&x, &mut flat).is_err());
    assert!(backend.unflatten(&flat, &mut x).is_err());
    assert!(backend.global_avg_pool(&x, &mut mean).is_err());
    assert!(backend.global_avg_pool_grad(&mean, &mut x).is_err());
    assert_eq!(read(backend, &x), [1.0; 120]);
}

const EPSILON: f64 = 1e-5;

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

#[track_caller]
fn assert_near(got: &[f32], expected: &[f64], bound: f64) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        assert!((f64::from(*got) - expected).abs() <= bound, "{got}, expected {expected} within {bound}");
    }
}

/// A batch normalisation and its neighbours.
#[derive(Debug, Clone, Copy)]
pub struct Normalization {
    pub case: Case,
    pub mean: f32,
    pub activation: Activation,
    pub residual: bool,
    pub addend: bool,
}

pub fn normalizations() -> impl Strategy<Value = Normalization> {
    let activations = prop::sample::select(&[Activation::None, Activation::Relu, Activation::Relu6]);
    let flags = (activations, any::<bool>(), any::<bool>());
    (cases(), prop::sample::select(&[0.0f32, 100.0]), flags).prop_map(|(case, mean, (activation, residual, addend))| {
        Normalization { case: Case { samples: case.samples.max(1), ..case }, mean, activation, residual, addend }
    })
}

impl Normalization {
    /// All passes, forward and backward.
    pub fn verify<B: BatchNorm>(&self, backend: &B) {
        let case = &self.case;
        let (layout, channels, area, len) = (case.layout(0), case.channels, case.pixels(), case.len());
        let other = case.layout(1);
        let (mut scale, shift) = (case.normals("scale", channels), case.normals("shift", channels));
        // Far enough that some outputs reach 6.
        let spread = if self.activation == Activation::Relu6 { 4.0 } else { 1.0 };
        scale.iter_mut().for_each(|scale| *scale *= spread as f32);
        let affine = buffer(backend, &[&scale[..], &shift[..]].concat());
        let x0: Vec<f32> = case.normals("x", len).iter().map(|x| x + self.mean).collect();
        let (added, residuals) = (case.normals("addend", len), case.normals("residual", len));
        let mut dy = case.normals("dy", len);
        let sum: Vec<f32> = if self.addend { x0.iter().zip(&added).map(|(a, b)| a + b).collect() } else { x0.clone() };
        let expected = reference::nn::batch_norm(EPSILON, &scale, &shift, area, &wide(&sum));
        // A rounding of the numbers themselves, of x̂'s scale.
        let least = expected.variance.iter().fold(f64::MAX, |least, v| v.min(least));
        let precision =
            spread * (1e-4 + 4.0 * f64::from(f32::EPSILON) * f64::from(self.mean) * (least + EPSILON).sqrt().recip());
        if least < 1e-3 {
            // One pixel, or nearly: x̂ is rounding.
            return;
        }

        let mut x = images(backend, layout, &x0);
        let addend = self.addend.then(|| images(backend, other, &added));
        let residual = self.residual.then(|| images(backend, other, &residuals));
        let mut running = buffer(backend, &vec![0.5; 2 * channels]);
        let mut moments = poison(backend, 2 * channels);
        let options = BatchNormOptions { epsilon: EPSILON as f32, momentum: 0.25 };
        backend.batch_moments(options, addend.as_ref(), &mut x, &mut running, &mut moments).unwrap();
        assert_eq!(read(backend, &x), sum);
        let n = (case.samples * area) as f64;
        let unbiased: Vec<f64> = expected.variance.iter().map(|v| v * n / (n - 1.0).max(1.0)).collect();
        let moved = |new: &[f64]| new.iter().map(|new| 0.75 * 0.5 + 0.25 * new).collect::<Vec<_>>();
        let tolerance = 1e-5 * (1.0 + f64::from(self.mean));
        let (found, moving) = (host(backend, &moments), host(backend, &running));
        assert_near(&found[..channels], &expected.mean, tolerance);
        assert_near(&moving[..channels], &moved(&expected.mean), tolerance);
        let largest = unbiased.iter().fold(0.0, |a: f64, &b| a.max(b));
        assert_near(&moving[channels..], &moved(&unbiased), 1e-4 * (1.0 + largest));

        let mut y = poisoned(backend, other);
        backend.batch_normalize(&affine, &moments, residual.as_ref(), self.activation, &x, &mut y).unwrap();
        let with_residual =
            |i: usize| expected.normalized[i] + if self.residual { f64::from(residuals[i]) } else { 0.0 };
        let act = |i| match self.activation {
            Activation::None => with_residual(i),
            Activation::Relu => with_residual(i).max(0.0),
            Activation::Relu6 => with_residual(i).clamp(0.0, 6.0),
        };
        let outputs: Vec<f64> = (0..len).map(act).collect();
        assert_near(&read(backend, &y), &outputs, 8.0 * precision);

        // With running moments that are the batch's, inference is the same.
        let variance: Vec<f32> = expected.variance.iter().map(|&v| v as f32).collect();
        let running = buffer(backend, &[&found[..channels], &variance[..]].concat());
        backend.running_moments(options, &running, &mut moments).unwrap();
        let mut inferred = poisoned(backend, layout);
        backend.batch_normalize(&affine, &moments, residual.as_ref(), self.activation, &x, &mut inferred).unwrap();
        assert_near(&read(backend, &inferred), &outputs, 16.0 * precision);

        // What is near the kink may be on either side of it: no gradient comes from there.
        let kinks: &[f64] = match self.activation {
            Activation::None => &[],
            Activation::Relu => &[0.0],
            Activation::Relu6 => &[0.0, 6.0],
        };
        let is_near = |i: usize| kinks.iter().any(|kink| (with_residual(i) - kink).abs() <= 8.0 * precision);
        dy.iter_mut().enumerate().filter(|(i, _)| is_near(*i)).for_each(|(_, dy)| *dy = 0.0);
        let is_closed = |i: usize| match self.activation {
            Activation::None => false,
            Activation::Relu => outputs[i] <= 0.0,
            Activation::Relu6 => outputs[i] <= 0.0 || outputs[i] >= 6.0,
        };
        let masked: Vec<f64> = (0..len).map(|i| if is_closed(i) { 0.0 } else { f64::from(dy[i]) }).collect();
        let mask = || match (self.activation, self.residual) {
            (Activation::None, _) => ReluMask::None,
            (activation, false) => ReluMask::Recomputed(activation),
            (activation, true) => ReluMask::Output(activation, &y),
        };
        let [dx, dscale, dshift] = reference::nn::batch_norm_grad(EPSILON, &scale, area, &wide(&sum), &masked);
        let mut g = images(backend, other, &dy);
        let mut sums = poison(backend, 2 * channels);
        backend.batch_norm_grad_sums(&affine, &moments, mask(), &x, &mut g, &mut sums).unwrap();
        let bound = 8.0 * precision * (1.0 + n.sqrt());
        let found = host(backend, &sums);
        assert_near(&found[..channels], &dscale, bound);
        assert_near(&found[channels..], &dshift, bound);
        if self.activation != Activation::None && self.residual {
            assert_near(&read(backend, &g), &masked, 0.0);
        }
        let recomputed = if self.residual { Activation::None } else { self.activation };
        let largest = 1.0 + least.sqrt().recip();
        let mut sum_of = images(backend, layout, &added);
        let output = Some((&mut sum_of, Accumulate::Yes));
        backend.batch_norm_grad(&affine, &moments, &sums, recomputed, &x, &mut g, output).unwrap();
        let with_sum: Vec<f64> = dx.iter().zip(&added).map(|(dx, s)| dx + f64::from(*s)).collect();
        assert_near(&read(backend, &sum_of), &with_sum, 32.0 * precision * largest);
        let mut apart = poisoned(backend, layout);
        let output = Some((&mut apart, Accumulate::No));
        backend.batch_norm_grad(&affine, &moments, &sums, recomputed, &x, &mut g, output).unwrap();
        assert_near(&read(backend, &apart), &dx, 32.0 * precision * largest);
        backend.batch_norm_grad(&affine, &moments, &sums, recomputed, &x, &mut g, None).unwrap();
        assert_near(&read(backend, &g), &dx, 32.0 * precision * largest);
    }
}

/// What batch normalisation must refuse.
pub fn wrong_moments_are_refused<B: BatchNorm>(backend: &B) {
    let layout = ImageLayout::new(2, 3, [4, 4], 0, 8).unwrap();
    let zeros = |len| backend.zeros(len).unwrap();
    let (mut x, mut two) = (images(backend, layout, &[1.0; 96]), zeros(6));
    let options = BatchNormOptions::default();
    assert!(backend.batch_moments(options, None, &mut x, &mut zeros(5), &mut two).is_err());
    assert!(backend.running_moments(options, &zeros(5), &mut two).is_err());
    let mut other = images(backend, layout.with_samples(1), &[1.0; 48]);
    assert!(backend.batch_moments(options, Some(&other), &mut x, &mut zeros(6), &mut two).is_err());
    assert!(
        backend
            .batch_normalize(
                &zeros(6),
                &two,
                Some(&other),
                Activation::Relu,
                &x,
                &mut Images::zeros(backend, layout).unwrap()
            )
            .is_err()
    );
    assert!(
        backend
            .batch_normalize(&zeros(5), &two, None, Activation::Relu, &x, &mut Images::zeros(backend, layout).unwrap())
            .is_err()
    );
    assert!(backend.batch_norm_grad_sums(&zeros(6), &zeros(6), ReluMask::None, &x, &mut other, &mut two).is_err());
    assert!(backend.batch_norm_grad(&zeros(6), &zeros(6), &zeros(6), Activation::None, &x, &mut other, None).is_err());
    let none = ImageLayout::new(0, 3, [4, 4], 0, 8).unwrap();
    let mut none = images(backend, none, &[]);
    let error = backend.batch_moments(options, None, &mut none, &mut zeros(6), &mut two).unwrap_err();
    assert!(error.to_string().contains("pixels times samples"), "{error}");
}
