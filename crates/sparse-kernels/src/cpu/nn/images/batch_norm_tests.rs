//! Batch normalisation on every instruction set against plain loops, over random shapes.

use proptest::prelude::*;

use super::super::testing::*;
use super::testing::{images, poisoned, read};
use crate::ImageLayout;
use crate::backend::{Accumulate, BatchNorm, BatchNormOptions, ReluMask};
use crate::cpu::{Buffer, Cpu};
use crate::reference::nn::{batch_norm, batch_norm_grad};

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

#[derive(Debug, Clone, Copy)]
struct Case {
    layout: ImageLayout,
    other_border: usize,
    mean: f32,
    relu: bool,
    residual: bool,
    addend: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..20, 1usize..6, 1usize..8, 1usize..8);
    let strips = prop::sample::select(&ImageLayout::STRIPS);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (sizes, 0usize..3, 0usize..3, strips, prop::sample::select(&[0.0f32, 100.0]), flags).prop_map(
        |((samples, channels, height, width), border, other_border, strip, mean, (relu, residual, addend))| {
            let layout = ImageLayout::new(samples, channels, [height, width], border, strip).unwrap();
            Case { layout, other_border, mean, relu, residual, addend }
        },
    )
}

impl Case {
    fn other(&self) -> ImageLayout {
        let l = self.layout;
        ImageLayout::new(l.samples(), l.channels(), l.size(), self.other_border, l.strip()).unwrap()
    }

    fn check(&self, cpu: &Cpu) {
        let (layout, channels) = (self.layout, self.layout.channels());
        let area = layout.size()[0] * layout.size()[1];
        let len = layout.samples() * channels * area;
        let (scale, shift) = (normals("scale", channels), normals("shift", channels));
        let affine = buffer(&[&scale[..], &shift[..]].concat());
        let x0: Vec<f32> = normals("x", len).iter().map(|x| x + self.mean).collect();
        let added = normals("addend", len);
        let residuals = normals("residual", len);
        let dy = normals("dy", len);
        let sum: Vec<f32> = if self.addend { x0.iter().zip(&added).map(|(a, b)| a + b).collect() } else { x0.clone() };
        let expected = batch_norm(EPSILON, &scale, &shift, area, &wide(&sum));
        // A rounding of the numbers themselves, of x̂'s scale.
        let least = expected.variance.iter().fold(f64::MAX, |least, v| v.min(least));
        let precision = 1e-4 + 4.0 * f64::from(f32::EPSILON) * f64::from(self.mean) * (least + EPSILON).sqrt().recip();
        if least < 1e-3 {
            // One pixel, or nearly: x̂ is rounding.
            return;
        }

        let mut x = images(layout, &x0);
        let addend = self.addend.then(|| images(self.other(), &added));
        let residual = self.residual.then(|| images(self.other(), &residuals));
        let mut running = buffer(&vec![0.5; 2 * channels]);
        let mut moments = Buffer::zeros(2 * channels);
        moments.fill(f32::NAN);
        let options = BatchNormOptions { epsilon: EPSILON as f32, momentum: 0.25 };
        cpu.batch_moments(options, addend.as_ref(), &mut x, &mut running, &mut moments).unwrap();
        assert_eq!(read(&x), sum);
        let n = (layout.samples() * area) as f64;
        let unbiased: Vec<f64> = expected.variance.iter().map(|v| v * n / (n - 1.0).max(1.0)).collect();
        let moved = |new: &[f64]| new.iter().map(|new| 0.75 * 0.5 + 0.25 * new).collect::<Vec<_>>();
        let tolerance = 1e-5 * (1.0 + f64::from(self.mean));
        assert_near(&moments[..channels], &expected.mean, tolerance);
        assert_near(&running[..channels], &moved(&expected.mean), tolerance);
        assert_near(
            &running[channels..],
            &moved(&unbiased),
            1e-4 * (1.0 + unbiased.iter().fold(0.0, |a: f64, &b| a.max(b))),
        );

        let mut y = poisoned(self.other());
        cpu.batch_normalize(&affine, &moments, residual.as_ref(), self.relu, &x, &mut y).unwrap();
        let act = |(i, y): (usize, &f64)| {
            let y = y + if self.residual { f64::from(residuals[i]) } else { 0.0 };
            if self.relu { y.max(0.0) } else { y }
        };
        let outputs: Vec<f64> = expected.normalized.iter().enumerate().map(act).collect();
        assert_near(&read(&y), &outputs, 8.0 * precision);

        // With running moments that are the batch's, inference is the same.
        let variance: Vec<f32> = expected.variance.iter().map(|&v| v as f32).collect();
        let running = buffer(&[&moments[..channels], &variance[..]].concat());
        cpu.running_moments(options, &running, &mut moments).unwrap();
        let mut inferred = poisoned(layout);
        cpu.batch_normalize(&affine, &moments, residual.as_ref(), self.relu, &x, &mut inferred).unwrap();
        assert_near(&read(&inferred), &outputs, 16.0 * precision);

        // What is near the kink may be on either side of it.
        let masked: Vec<f64> =
            dy.iter().zip(&outputs).map(|(&g, &y)| if self.relu && y <= 0.0 { 0.0 } else { f64::from(g) }).collect();
        let near_kink = |i: usize| {
            let y = expected.normalized[i] + if self.residual { f64::from(residuals[i]) } else { 0.0 };
            self.relu && y.abs() <= 8.0 * precision
        };
        if (0..len).any(near_kink) {
            return;
        }
        let mask = || match (self.relu, self.residual) {
            (false, _) => ReluMask::None,
            (true, false) => ReluMask::Recomputed,
            (true, true) => ReluMask::Output(&y),
        };
        let [dx, dscale, dshift] = batch_norm_grad(EPSILON, &scale, area, &wide(&sum), &masked);
        let mut g = images(self.other(), &dy);
        let mut sums = buffer(&vec![f32::NAN; 2 * channels]);
        cpu.batch_norm_grad_sums(&affine, &moments, mask(), &x, &mut g, &mut sums).unwrap();
        let bound = 8.0 * precision * (1.0 + n.sqrt());
        assert_near(&sums[..channels], &dscale, bound);
        assert_near(&sums[channels..], &dshift, bound);
        if self.relu && self.residual {
            assert_near(&read(&g), &masked, 0.0);
        }
        let recomputed = self.relu && !self.residual;
        let largest = 1.0 + least.sqrt().recip();
        let mut sum_of = images(layout, &added);
        let output = Some((&mut sum_of, Accumulate::Yes));
        cpu.batch_norm_grad(&affine, &moments, &sums, recomputed, &x, &mut g, output).unwrap();
        let with_sum: Vec<f64> = dx.iter().zip(&added).map(|(dx, s)| dx + f64::from(*s)).collect();
        assert_near(&read(&sum_of), &with_sum, 32.0 * precision * largest);
        let mut apart = poisoned(layout);
        cpu.batch_norm_grad(&affine, &moments, &sums, recomputed, &x, &mut g, Some((&mut apart, Accumulate::No)))
            .unwrap();
        assert_near(&read(&apart), &dx, 32.0 * precision * largest);
        cpu.batch_norm_grad(&affine, &moments, &sums, recomputed, &x, &mut g, None).unwrap();
        assert_near(&read(&g), &dx, 32.0 * precision * largest);
    }
}

proptest! {
    #[test]
    fn agrees_with_the_reference(case in cases()) {
        for of_one_isa in BACKENDS.chunks(3) {
            case.check(&of_one_isa[0]);
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
        cpu.batch_normalize(&affine, &moments, None, true, &x, &mut y).unwrap();
        let mut dy = images(layout, &normals("dy", len));
        cpu.batch_norm_grad_sums(&affine, &moments, ReluMask::Recomputed, &x, &mut dy, &mut sums).unwrap();
        cpu.batch_norm_grad(&affine, &moments, &sums, true, &x, &mut dy, None).unwrap();
        [&running[..], &moments[..], &sums[..], &y.data[..], &dy.data[..]].concat()
    });
}

#[test]
fn wrong_shapes_are_refused() {
    let cpu = &BACKENDS[0];
    let layout = ImageLayout::new(2, 3, [4, 4], 0, 8).unwrap();
    let (mut x, mut two) = (images(layout, &[1.0; 96]), Buffer::zeros(6));
    let options = BatchNormOptions::default();
    assert!(cpu.batch_moments(options, None, &mut x, &mut Buffer::zeros(5), &mut two).is_err());
    let other = images(layout.with_samples(1), &[1.0; 48]);
    assert!(cpu.batch_moments(options, Some(&other), &mut x, &mut Buffer::zeros(6), &mut two).is_err());
    let none = ImageLayout::new(0, 3, [4, 4], 0, 8).unwrap();
    let error = cpu.batch_moments(options, None, &mut images(none, &[]), &mut Buffer::zeros(6), &mut two).unwrap_err();
    assert!(error.to_string().contains("pixels times samples"), "{error}");
}
