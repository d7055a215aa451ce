//! Operations of neural networks on strips, and optimizers, against the reference.

use proptest::prelude::*;

use super::{buffer, host, poison, poisoned, read, strips};
use crate::random::Key;
use crate::{AdamStep, CrossEntropy, Neural, Optimizer, PointwiseLoss, SgdStep, StripLayout, reference};

/// `len` normal numbers.
pub fn normals(name: &str, len: usize) -> Vec<f32> {
    let key = Key::new(5).with_name(name);
    (0..len as u64).map(|i| key.normal(i)).collect()
}

/// Whether numbers are the same: bit for bit, or to a few roundings where a device's division is not the nearest number.
/// Zeros must be zeros in any case.
#[track_caller]
pub fn same(what: &str, is_exact: bool, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let bound = if is_exact { 0.0 } else { 4.0 * f32::EPSILON * expected.abs() };
        assert!(
            (got == 0.0) == (expected == 0.0) && (got - expected).abs() <= bound,
            "{what} entry {i}: {got} {expected}"
        );
    }
}

/// Lanes, features and strip.
pub fn layouts() -> impl Strategy<Value = StripLayout> {
    let strips = (1usize..5).prop_map(|strip| 16 * strip);
    (0usize..100, 0usize..21, strips)
        .prop_map(|(lanes, features, strip)| StripLayout::new(lanes, features, strip).unwrap())
}

pub fn bias_relu<B: Neural>(backend: &B, layout: StripLayout, relu: bool, accumulate: bool, seed: u32) {
    let (features, lanes) = (layout.features(), layout.lanes());
    let x = normals(&format!("x{seed}"), features * lanes);
    let bias = normals(&format!("bias{seed}"), features);
    let grad = normals(&format!("grad{seed}"), features * lanes);
    let expected = reference::nn::bias_relu(&bias, relu, &x);
    let (expected_grad, expected_dbias) = reference::nn::bias_relu_grad(&expected, relu, &grad, features);
    let mut y = strips(backend, layout, &x);
    backend.bias_relu(&buffer(backend, &bias), relu, &mut y).unwrap();
    assert_eq!(read(backend, &y), expected);
    let mut g = strips(backend, layout, &grad);
    let mut dbias = if accumulate { buffer(backend, &vec![2.0; features]) } else { poison(backend, features) };
    backend.bias_relu_grad(&y, relu, &mut g, &mut dbias, accumulate).unwrap();
    assert_eq!(read(backend, &g), expected_grad);
    let mut sums = if accumulate { buffer(backend, &vec![2.0; features]) } else { poison(backend, features) };
    backend.lane_sums(&g, &mut sums, accumulate).unwrap();
    assert_eq!(host(backend, &sums), host(backend, &dbias));
    for (f, dbias) in host(backend, &dbias).into_iter().enumerate() {
        let expected = expected_dbias[f] + if accumulate { 2.0 } else { 0.0 };
        let size: f32 = expected_grad[f * lanes..][..lanes].iter().map(|g| g.abs()).sum();
        let bound = (size + 2.0) * (lanes + 2) as f32 * f32::EPSILON;
        assert!((f64::from(dbias) - expected).abs() <= f64::from(bound), "feature {f}: {dbias} {expected}");
    }
}

pub fn dropout<B: Neural>(backend: &B, layout: StripLayout, rate: f32, seed: u64, is_exact: bool) {
    let x = normals("dropout", layout.features() * layout.lanes());
    let expected = reference::nn::dropout(Key::new(seed), rate, &x);
    let mut y = strips(backend, layout, &x);
    backend.dropout(Key::new(seed), rate, &mut y).unwrap();
    same("dropout", is_exact, &read(backend, &y), &expected);
}

/// Logits in steps of a half, so that ties are frequent.
pub fn softmax_cross_entropy<B: Neural>(backend: &B, layout: StripLayout, parameters: CrossEntropy, seed: u64) {
    let (classes, lanes, scale) = (layout.features(), layout.lanes(), parameters.gradient_scale);
    let key = Key::new(seed);
    let logits: Vec<f32> = (0..(classes * lanes) as u64).map(|i| key.below(i, 20) as f32 * 0.5 - 5.0).collect();
    // A third of the lanes do not count in every second case.
    let is_ignored = |i: u64| seed % 2 == 1 && key.with(2).below(i, 3) == 0;
    let label =
        |i: u64| if is_ignored(i) { CrossEntropy::IGNORED } else { key.with(1).below(i, classes as u64) as u32 };
    let labels: Vec<u32> = (0..lanes as u64).map(label).collect();
    let expected = reference::nn::softmax_cross_entropy(parameters, &logits, classes, &labels);
    let loss: f64 = expected.loss.iter().sum();
    let mut device_labels = backend.index_zeros(lanes).unwrap();
    backend.upload_indices(&labels, &mut device_labels).unwrap();
    let (mut stats, mut grad) = (poison(backend, 2), poisoned(backend, layout));
    let packed = strips(backend, layout, &logits);
    backend.softmax_cross_entropy(parameters, &packed, &device_labels, &mut stats, Some(&mut grad)).unwrap();
    // Each lane's loss is a few roundings of numbers up to 10 + ln C.
    let bound = 16.0 * f64::from(f32::EPSILON) * (lanes as f64 * (11.0 + (classes as f64).ln()) + loss);
    let stats = host(backend, &stats);
    assert!((f64::from(stats[0]) - loss).abs() <= bound, "{} {loss}", stats[0]);
    assert_eq!(stats[1] as usize, expected.correct);
    for (got, expected) in read(backend, &grad).iter().zip(&expected.grad) {
        let bound = (classes + 8) as f64 * f64::from(f32::EPSILON * scale);
        assert!((f64::from(*got) - expected).abs() <= bound, "{got} {expected}");
    }
    // Without the gradient: the same statistics.
    let mut alone = poison(backend, 2);
    backend.softmax_cross_entropy(parameters, &packed, &device_labels, &mut alone, None).unwrap();
    assert_eq!(host(backend, &alone), stats);
}

/// Bad labels and logits make NaN, large logits do not, and the lowest class wins a tie.
pub fn unusual_logits<B: Neural>(backend: &B) {
    let layout = StripLayout::sparse(2, 2);
    let parameters = CrossEntropy { label_smoothing: 0.0, gradient_scale: 1.0 };
    let run = |layout: StripLayout, logits: &[f32], labels: &[u32]| {
        let (mut stats, mut grad) = (poison(backend, 2), poisoned(backend, layout));
        let mut device_labels = backend.index_zeros(labels.len()).unwrap();
        backend.upload_indices(labels, &mut device_labels).unwrap();
        let logits = strips(backend, layout, logits);
        backend.softmax_cross_entropy(parameters, &logits, &device_labels, &mut stats, Some(&mut grad)).unwrap();
        let stats = host(backend, &stats);
        (stats[0], stats[1], read(backend, &grad))
    };
    // Classes × lanes: [class 0: lanes 0, 1; class 1: lanes 0, 1]. Lane 1 stays good.
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for logits in [[bad, 1.0, 0.0, 0.0], [0.0, 1.0, bad, 0.0]] {
            let (loss, correct, grad) = run(layout, &logits, &[0, 0]);
            assert!(loss.is_nan() && correct == 1.0 && grad[0].is_nan() && grad[2].is_nan());
            assert!(grad[1].is_finite() && grad[3].is_finite());
        }
    }
    for label in [2, CrossEntropy::IGNORED - 1] {
        let (loss, correct, grad) = run(layout, &[0.0, 1.0, 0.0, 0.0], &[label, 0]);
        assert!(loss.is_nan() && correct == 1.0 && grad[0].is_nan() && grad[1].is_finite());
    }
    for logit in [0.0, f32::NAN, f32::INFINITY] {
        let (loss, correct, grad) = run(layout, &[logit, 1.0, 0.0, 0.0], &[CrossEntropy::IGNORED, 0]);
        assert!((loss - (-1f32).exp().ln_1p()).abs() < 1e-6 && correct == 1.0, "{loss}");
        assert!(grad[0] == 0.0 && grad[2] == 0.0 && grad[1] < 0.0, "{grad:?}");
    }
    let (loss, correct, grad) = run(layout, &[3e4, -3e4, -3e4, 3e4], &[0, 1]);
    assert_eq!((loss, correct), (0.0, 2.0));
    assert!(grad.iter().all(|g| g.abs() < 1e-30));
    let ties = [1.0, 2.0, 0.0, 1.0, 2.0, 3.0, 1.0, 0.0, 3.0];
    for (labels, correct) in [([0, 0, 1], 3.0), ([1, 1, 2], 0.0), ([2, 0, 0], 1.0)] {
        assert_eq!(run(StripLayout::sparse(3, 3), &ties, &labels).1, correct);
    }
}

/// One of each kind.
pub const POINTWISE_LOSSES: [PointwiseLoss; 3] =
    [PointwiseLoss::Squared, PointwiseLoss::Huber { delta: 0.7 }, PointwiseLoss::BinaryCrossEntropy];

pub fn pointwise_losses() -> impl Strategy<Value = PointwiseLoss> {
    prop::sample::select(&POINTWISE_LOSSES[..])
}

pub fn pointwise_loss<B: Neural>(backend: &B, layout: StripLayout, loss: PointwiseLoss, scale: f32, seed: u32) {
    let (features, lanes) = (layout.features(), layout.lanes());
    let outputs: Vec<f32> = normals(&format!("outputs{seed}"), features * lanes).iter().map(|y| 3.0 * y).collect();
    let mut targets = normals(&format!("targets{seed}"), features * lanes);
    if loss == PointwiseLoss::BinaryCrossEntropy {
        targets.iter_mut().for_each(|t| *t = if *t > 0.5 { 1.0 } else { t.abs().min(1.0) });
    }
    let expected = reference::nn::pointwise_loss(loss, &outputs, &targets);
    let sum: f64 = expected.iter().map(|[loss, _]| loss).sum::<f64>() / features as f64;
    let (y, t) = (strips(backend, layout, &outputs), strips(backend, layout, &targets));
    let (mut stats, mut grad) = (poison(backend, 2), poisoned(backend, layout));
    backend.pointwise_loss(loss, scale, &y, &t, &mut stats, Some(&mut grad)).unwrap();
    let stats = host(backend, &stats);
    // A loss is a few roundings of terms that are larger than it by 16 at most.
    let bound = (features + 16) as f64 * f64::from(f32::EPSILON) * (sum + 16.0 * lanes as f64);
    assert!((f64::from(stats[0]) - sum).abs() <= bound, "{loss:?}: {} {sum}", stats[0]);
    assert_eq!(stats[1], 0.0);
    for (got, [_, slope]) in read(backend, &grad).iter().zip(&expected) {
        let (expected, bound) = (f64::from(scale) * slope, f64::from(8.0 * f32::EPSILON * scale) * (1.0 + slope.abs()));
        assert!((f64::from(*got) - expected).abs() <= bound, "{loss:?}: {got} {expected}");
    }
    // Without the gradient: the same loss.
    let mut alone = poison(backend, 2);
    backend.pointwise_loss(loss, scale, &y, &t, &mut alone, None).unwrap();
    assert_eq!(host(backend, &alone), stats);
}

/// Numbers that are not finite make NaN where they stand, large ones do not.
pub fn unusual_outputs<B: Neural>(backend: &B) {
    let layout = StripLayout::sparse(2, 2);
    for loss in POINTWISE_LOSSES {
        let run = |outputs: [f32; 4], targets: [f32; 4]| {
            let (mut stats, mut grad) = (poison(backend, 2), poisoned(backend, layout));
            let (y, t) = (strips(backend, layout, &outputs), strips(backend, layout, &targets));
            backend.pointwise_loss(loss, 1.0, &y, &t, &mut stats, Some(&mut grad)).unwrap();
            (host(backend, &stats)[0], read(backend, &grad))
        };
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for (outputs, targets) in [([0.0, bad, 0.0, 0.0], [1.0; 4]), ([0.0; 4], [1.0, bad, 1.0, 1.0])] {
                let (sum, grad) = run(outputs, targets);
                assert!(sum.is_nan() && grad[1].is_nan(), "{loss:?} {bad}: {sum} {grad:?}");
                assert!([0, 2, 3].iter().all(|&i| grad[i].is_finite()), "{loss:?} {bad}: {grad:?}");
            }
        }
        let (sum, grad) = run([3e4, -3e4, 3e4, -3e4], [1.0, 0.0, 1.0, 0.0]);
        assert!(sum.is_finite() && grad.iter().all(|g| g.is_finite()), "{loss:?}: {sum} {grad:?}");
        if loss == PointwiseLoss::BinaryCrossEntropy {
            assert!(sum < 1e-6 && grad.iter().all(|g| g.abs() < 1e-30), "{sum} {grad:?}");
        }
    }
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

pub fn sgd<B: Optimizer>(backend: &B, len: usize, step: SgdStep, keep_velocity: bool) {
    let (w, g, v) = (normals("w", len), normals("g", len), normals("v", len));
    let (mut expected_w, mut expected_v) = (widen(&w), widen(&v));
    reference::nn::sgd(step, &mut expected_w, &widen(&g), &mut expected_v);
    let (mut got_w, mut got_v) = (buffer(backend, &w), buffer(backend, &v));
    let with = keep_velocity || step.momentum > 0.0;
    backend.sgd(step, &mut got_w, &buffer(backend, &g), with.then_some(&mut got_v)).unwrap();
    let (got_w, got_v) = (host(backend, &got_w), host(backend, &got_v));
    for i in 0..len {
        let bound = 8.0 * f64::from(f32::EPSILON) * f64::from(w[i].abs() + 2.0 * g[i].abs() + 2.0 * v[i].abs());
        assert!((f64::from(got_w[i]) - expected_w[i]).abs() <= bound);
        assert!(!with || (f64::from(got_v[i]) - expected_v[i]).abs() <= bound);
    }
}

pub const ADAM: AdamStep = AdamStep {
    learning_rate: 0.01,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    weight_decay: 0.05,
    decoupled: true,
    step: 1,
};

/// `own`: with bias corrections of each element, of which every other one is a step younger.
pub fn adam<B: Optimizer>(backend: &B, len: usize, steps: u64, decoupled: bool, own: bool) {
    let w = normals("w", len);
    let mut expected = [widen(&w), vec![0.0; len], vec![0.0; len]];
    let [mut got_w, mut got_m, mut got_v] =
        [buffer(backend, &w), backend.zeros(len).unwrap(), backend.zeros(len).unwrap()];
    let mut corrections = [backend.zeros(len).unwrap(), backend.zeros(len).unwrap()];
    for number in 1..=steps {
        let g = normals(&format!("g{number}"), len);
        let step = AdamStep { step: number, decoupled, ..ADAM };
        if own && number == 2 {
            // As an update does that replaces every other element by a new one at zero.
            for (buffer, expected) in [&mut got_m, &mut got_v].into_iter().zip(&mut expected[1..]) {
                let mut values = host(backend, buffer);
                for i in (0..len).step_by(2) {
                    (values[i], expected[i]) = (0.0, 0.0);
                }
                backend.upload(&values, buffer).unwrap();
            }
            for (buffer, beta) in corrections.iter_mut().zip([ADAM.beta1, ADAM.beta2]) {
                let values: Vec<_> = (0..len).map(|i| if i % 2 == 0 { 0.0 } else { 1.0 - beta }).collect();
                backend.upload(&values, buffer).unwrap();
            }
        }
        let [w, m, v] = &mut expected;
        for i in 0..len {
            let age = if own && number > 1 && i % 2 == 0 { number - 1 } else { number };
            let (at, step) = (i..=i, AdamStep { step: age, ..step });
            reference::nn::adam(step, &mut w[at.clone()], &widen(&g[at.clone()]), &mut m[at.clone()], &mut v[at]);
        }
        let given = own.then(|| corrections.each_mut());
        backend.adam(step, &mut got_w, &buffer(backend, &g), [&mut got_m, &mut got_v], given).unwrap();
    }
    for (got, expected) in [got_w, got_m, got_v].iter().zip(&expected) {
        for (&got, &expected) in host(backend, got).iter().zip(expected) {
            // An update is at most a few times the learning rate, a moment a few units.
            assert!((f64::from(got) - expected).abs() <= 1e-6 * (1.0 + expected.abs()), "{got} {expected}");
        }
    }
}

pub fn clip<B: Optimizer>(backend: &B, len: usize, largest: f32) {
    let g = normals("g", len);
    let squares: f64 = g.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>() + 0.5;
    let (mut sum, mut values) = (buffer(backend, &[0.5]), buffer(backend, &g));
    backend.add_squares(&values, &mut sum).unwrap();
    let got = f64::from(host(backend, &sum)[0]);
    assert!((got - squares).abs() <= 1e-5 * squares, "{got} {squares}");
    backend.clip(&sum, largest, &mut values).unwrap();
    let factor = (f64::from(largest) / (squares.sqrt() + 1e-6)).min(1.0);
    for (&got, &g) in host(backend, &values).iter().zip(&g) {
        let expected = f64::from(g) * factor;
        assert!((f64::from(got) - expected).abs() <= 1e-5 * expected.abs(), "{got} {expected}");
        assert!(factor < 1.0 || got == g);
    }
}

/// What all operations on strips, and the optimizers, must refuse.
pub fn wrong_shapes_are_refused<B: Neural + Optimizer>(backend: &B) {
    let zeros = |len| backend.zeros(len).unwrap();
    let ones = |layout: StripLayout| strips(backend, layout, &vec![1.0; layout.lanes() * layout.features()]);
    let mut x = ones(StripLayout::sparse(2, 3));
    assert!(backend.bias_relu(&zeros(2), true, &mut x).is_err());
    for layout in [StripLayout::sparse(3, 3), StripLayout::single(2, 3)] {
        assert!(backend.bias_relu_grad(&x, true, &mut ones(layout), &mut zeros(3), false).is_err());
    }
    let mut grad = ones(StripLayout::sparse(2, 3));
    assert!(backend.bias_relu_grad(&x, true, &mut grad, &mut zeros(2), false).is_err());
    // A buffer that is shorter than its layout says.
    let mut short = crate::Strips { layout: StripLayout::sparse(2, 3), data: zeros(64) };
    assert!(backend.bias_relu(&zeros(3), true, &mut short).is_err());
    assert!(backend.bias_relu_grad(&x, true, &mut short, &mut zeros(3), false).is_err());
    assert!(backend.dropout(Key::new(1), 0.5, &mut short).is_err());
    for rate in [-0.1, 1.0, f32::NAN] {
        assert!(backend.dropout(Key::new(1), rate, &mut x).is_err());
    }
    assert_eq!(read(backend, &x), [1.0; 6]);

    let logits = ones(StripLayout::sparse(2, 2));
    let parameters = CrossEntropy { label_smoothing: 0.0, gradient_scale: 1.0 };
    let run = |labels: usize, stats: usize, grad: Option<StripLayout>| {
        let (labels, mut grad) = (backend.index_zeros(labels).unwrap(), grad.map(ones));
        backend.softmax_cross_entropy(parameters, &logits, &labels, &mut zeros(stats), grad.as_mut()).is_ok()
    };
    assert!(run(2, 2, None) && run(3, 2, None));
    assert!(!run(1, 2, None) && !run(2, 1, None));
    assert!(!run(2, 2, Some(StripLayout::sparse(2, 3))) && !run(2, 2, Some(StripLayout::single(2, 2))));
    let none = ones(StripLayout::sparse(2, 0));
    let labels = backend.index_zeros(2).unwrap();
    let error = backend.softmax_cross_entropy(parameters, &none, &labels, &mut zeros(2), None).unwrap_err();
    assert!(error.to_string().contains("number of classes"), "{error}");

    let x = ones(StripLayout::sparse(2, 3));
    assert!(
        backend.lane_sums(&x, &mut zeros(3), false).is_ok() && backend.lane_sums(&x, &mut zeros(2), false).is_err()
    );
    let short = crate::Strips { layout: x.layout, data: zeros(x.layout.len() - 1) };
    assert!(backend.lane_sums(&short, &mut zeros(3), false).is_err());

    let run = |loss, layouts: [StripLayout; 2], stats: usize, grad: Option<StripLayout>| {
        let ([y, t], mut grad) = (layouts.map(ones), grad.map(ones));
        backend.pointwise_loss(loss, 1.0, &y, &t, &mut zeros(stats), grad.as_mut()).is_ok()
    };
    let [two, three] = [2, 3].map(|features| StripLayout::sparse(2, features));
    assert!(run(PointwiseLoss::Squared, [two; 2], 2, Some(two)));
    assert!(!run(PointwiseLoss::Squared, [two, three], 2, None) && !run(PointwiseLoss::Squared, [two; 2], 1, None));
    assert!(!run(PointwiseLoss::Squared, [two; 2], 2, Some(three)));
    assert!(!run(PointwiseLoss::Squared, [StripLayout::sparse(2, 0); 2], 2, None));
    for delta in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        assert!(!run(PointwiseLoss::Huber { delta }, [two; 2], 2, None));
    }

    let step = SgdStep { learning_rate: 0.1, momentum: 0.9, nesterov: false, weight_decay: 0.0 };
    assert!(backend.sgd(step, &mut zeros(3), &zeros(3), None).is_err());
    assert!(backend.sgd(step, &mut zeros(3), &zeros(3), Some(&mut zeros(2))).is_err());
    assert!(backend.sgd(step, &mut zeros(3), &zeros(2), Some(&mut zeros(3))).is_err());
    let run = |step, lengths: [usize; 4]| {
        let [mut w, g, mut m, mut v] = lengths.map(zeros);
        backend.adam(AdamStep { step, ..ADAM }, &mut w, &g, [&mut m, &mut v], None).is_ok()
    };
    assert!(run(1, [3; 4]) && !run(0, [3; 4]));
    assert!(!run(1, [3, 2, 3, 3]) && !run(1, [3, 3, 2, 3]) && !run(1, [3, 3, 3, 2]));
}
