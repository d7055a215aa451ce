//! Operations on strips, and optimizers, against the reference.

use proptest::prelude::*;

use super::super::testing::{gpu, gpu_with_limit};
use crate::backend::Steps;
use crate::random::Key;
use crate::testing::recurrent::Case;
use crate::testing::{buffer, host, neural, poison, poisoned, read, recurrent, strips};
use crate::{CrossEntropy, Neural, SgdStep, Storage, StripLayout, Strips, reference};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn bias_relu(layout in neural::layouts(), relu: bool, accumulate: bool, seed in 0u32..100) {
        if let Some(gpu) = gpu() {
            neural::bias_relu(gpu, layout, relu, accumulate, seed);
        }
    }

    #[test]
    fn dropout(layout in neural::layouts(), rate in 0.0f32..0.99, seed: u64) {
        if let Some(gpu) = gpu() {
            neural::dropout(gpu, layout, rate, seed, false);
        }
    }

    #[test]
    fn softmax_cross_entropy(
        layout in neural::layouts(), smooth: bool, gradient_scale in 0.01f32..2.0, seed in 0u64..100
    ) {
        if let Some(gpu) = gpu() {
            let layout = layout.with_features(layout.features() + 1);
            let label_smoothing = if smooth { 0.1 } else { 0.0 };
            neural::softmax_cross_entropy(gpu, layout, CrossEntropy { label_smoothing, gradient_scale }, seed);
        }
    }

    #[test]
    fn pointwise_loss(
        layout in neural::layouts(), loss in neural::pointwise_losses(), scale in 0.01f32..2.0, seed in 0u32..100
    ) {
        if let Some(gpu) = gpu() {
            neural::pointwise_loss(gpu, layout.with_features(layout.features() + 1), loss, scale, seed);
        }
    }

    #[test]
    fn steps_of_recurrent_layers(case in recurrent::cases()) {
        if let Some(gpu) = gpu() {
            recurrent::gru_step(gpu, case);
            recurrent::gru_step_grad(gpu, case);
            recurrent::lstm_step(gpu, case);
            recurrent::lstm_step_grad(gpu, case);
        }
    }

    #[test]
    fn sgd(
        len in 0usize..70, momentum in prop::sample::select(vec![0.0f32, 0.9]), nesterov: bool,
        weight_decay in prop::sample::select(vec![0.0f32, 0.01]), keep_velocity: bool
    ) {
        if let Some(gpu) = gpu() {
            let nesterov = nesterov && momentum > 0.0;
            let step = SgdStep { learning_rate: 0.1, momentum, nesterov, weight_decay };
            neural::sgd(gpu, len, step, keep_velocity);
        }
    }

    #[test]
    fn adam(len in 0usize..70, steps in 1u64..5, decoupled: bool, own: bool) {
        if let Some(gpu) = gpu() {
            neural::adam(gpu, len, steps, decoupled, own);
        }
    }

    #[test]
    fn clip(len in 0usize..300, largest in 0.1f32..40.0) {
        if let Some(gpu) = gpu() {
            neural::clip(gpu, len, largest);
        }
    }
}

#[test]
fn wrong_input_is_refused() {
    if let Some(gpu) = gpu() {
        neural::wrong_shapes_are_refused(gpu);
        recurrent::wrong_shapes_are_refused(gpu);
    }
}

#[test]
fn unusual_logits() {
    if let Some(gpu) = gpu() {
        neural::unusual_logits(gpu);
        neural::unusual_outputs(gpu);
        recurrent::unusual_gates(gpu);
    }
}

const STEP: SgdStep = SgdStep { learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 1e-4 };
const SMOOTH: CrossEntropy = CrossEntropy { label_smoothing: 0.1, gradient_scale: 0.01 };

/// Many workgroups, several slices of a sum, many classes.
#[test]
fn large_shapes() {
    let Some(gpu) = gpu() else { return };
    for layout in [StripLayout::sparse(10_007, 3), StripLayout::single(3001, 33), StripLayout::sparse(128, 2500)] {
        neural::bias_relu(gpu, layout, true, true, 1);
        neural::bias_relu(gpu, layout, false, false, 2);
        neural::dropout(gpu, layout, 0.3, 4, false);
    }
    neural::softmax_cross_entropy(gpu, StripLayout::sparse(75, 1000), SMOOTH, 1);
    neural::softmax_cross_entropy(gpu, StripLayout::single(75, 1003), SMOOTH, 2);
    neural::softmax_cross_entropy(gpu, StripLayout::sparse(20_001, 10), SMOOTH, 3);
    for loss in neural::POINTWISE_LOSSES {
        neural::pointwise_loss(gpu, StripLayout::sparse(75, 1000), loss, 0.5, 1);
        neural::pointwise_loss(gpu, StripLayout::single(75, 1003), loss, 0.5, 2);
        neural::pointwise_loss(gpu, StripLayout::sparse(20_001, 10), loss, 0.5, 3);
    }
    neural::sgd(gpu, 100_003, STEP, true);
    neural::adam(gpu, 100_003, 1, true, false);
    neural::adam(gpu, 100_003, 2, true, true);
    neural::clip(gpu, 300_003, 10.0);
}

#[test]
fn buffers_in_windows() {
    let Some(gpu) = gpu_with_limit(16 << 10) else { return };
    for layout in [StripLayout::sparse(300, 21), StripLayout::new(900, 5, 16).unwrap(), StripLayout::single(200, 3)] {
        neural::bias_relu(&gpu, layout, true, true, 1);
        neural::bias_relu(&gpu, layout, true, false, 2);
        neural::dropout(&gpu, layout, 0.3, 4, false);
        neural::softmax_cross_entropy(&gpu, layout, SMOOTH, 1);
        neural::pointwise_loss(&gpu, layout, neural::POINTWISE_LOSSES[2], 0.5, 1);
    }
    // Steps whose strips begin where no window may, and a strip of all steps that fits.
    for (all, count, features) in [(StripLayout::sparse(640, 0), 10, 7), (StripLayout::single(96, 0), 3, 5)] {
        let steps = Steps::new(all, count).unwrap();
        for step in 0..count {
            let case = Case { features, steps, step };
            recurrent::gru_step(&gpu, case);
            recurrent::gru_step_grad(&gpu, case);
            recurrent::lstm_step(&gpu, case);
            recurrent::lstm_step_grad(&gpu, case);
        }
    }
    neural::sgd(&gpu, 10_001, STEP, true);
    neural::sgd(&gpu, 10_001, SgdStep { momentum: 0.0, nesterov: false, ..STEP }, false);
    neural::adam(&gpu, 10_001, 2, false, false);
    neural::adam(&gpu, 10_001, 2, false, true);
    neural::clip(&gpu, 10_001, 10.0);
}

/// More workgroups than a dimension of the grid has.
#[test]
fn grids_are_folded() {
    let Some(gpu) = gpu() else { return };
    let filled = |layout: StripLayout| {
        let mut data = gpu.zeros(layout.len()).unwrap();
        gpu.fill(1.0, &mut data).unwrap();
        Strips { layout, data }
    };
    let mut grad = filled(StripLayout::new(16, 600_001, 16).unwrap());
    let (y, mut dbias) = (filled(grad.layout), poison(gpu, 600_001));
    gpu.bias_relu_grad(&y, true, &mut grad, &mut dbias, false).unwrap();
    assert!(host(gpu, &dbias).iter().all(|&sum| sum == 16.0));
    let lanes = 32 * 65_536 + 1;
    let (logits, mut stats) = (filled(StripLayout::sparse(lanes, 2)), poison(gpu, 2));
    let labels = gpu.index_zeros(lanes).unwrap();
    gpu.softmax_cross_entropy(SMOOTH, &logits, &labels, &mut stats, None).unwrap();
    let stats = host(gpu, &stats);
    let expected = lanes as f64 * 2f64.ln();
    assert!((f64::from(stats[0]) - expected).abs() < 1e-5 * expected, "{} {expected}", stats[0]);
    assert_eq!(stats[1], lanes as f32);
}

#[test]
fn nan_is_not_hidden() {
    let Some(gpu) = gpu() else { return };
    let layout = StripLayout::sparse(5, 1);
    let mut x = strips(gpu, layout, &[f32::NAN, -f32::NAN, -1.0, f32::NEG_INFINITY, f32::INFINITY]);
    gpu.bias_relu(&buffer(gpu, &[0.5]), true, &mut x).unwrap();
    let y = read(gpu, &x);
    assert!(y[0].is_nan() && y[1].is_nan() && y[2..] == [0.0, 0.0, f32::INFINITY], "{y:?}");
}

/// What padding lanes held does not reach them, nor a sum.
#[test]
fn padding_becomes_zero() {
    let Some(gpu) = gpu() else { return };
    let layout = StripLayout::sparse(33, 3);
    for relu in [false, true] {
        let mut x = poisoned(gpu, layout);
        gpu.bias_relu(&buffer(gpu, &[1.0; 3]), relu, &mut x).unwrap();
        assert!(read(gpu, &x).iter().all(|x| x.is_nan()));
    }
    let mut x = poisoned(gpu, layout);
    gpu.dropout(Key::new(1), 0.5, &mut x).unwrap();
    let kept = reference::nn::dropout(Key::new(1), 0.5, &[1.0; 99]);
    assert!(read(gpu, &x).iter().zip(kept).all(|(x, kept)| x.is_nan() == (kept != 0.0)));
}

#[test]
fn nothing_at_all() {
    let Some(gpu) = gpu() else { return };
    let logits = Strips::zeros(gpu, StripLayout::sparse(0, 7)).unwrap();
    let mut stats = poison(gpu, 2);
    gpu.softmax_cross_entropy(SMOOTH, &logits, &gpu.index_zeros(0).unwrap(), &mut stats, None).unwrap();
    assert_eq!(host(gpu, &stats), [0.0; 2]);
    let mut dbias = buffer(gpu, &[1.0; 7]);
    let mut grad = Strips::zeros(gpu, logits.layout).unwrap();
    gpu.bias_relu_grad(&logits, true, &mut grad, &mut dbias, true).unwrap();
    assert_eq!(host(gpu, &dbias), [1.0; 7]);
    gpu.bias_relu_grad(&logits, true, &mut grad, &mut dbias, false).unwrap();
    assert_eq!(host(gpu, &dbias), [0.0; 7]);
    gpu.lane_sums(&logits, &mut dbias, true).unwrap();
    assert_eq!(host(gpu, &dbias), [0.0; 7]);
}

/// Sums in several slices: the same bits each time, and no buffers after the first time.
#[test]
fn steps_repeat_bit_for_bit_and_allocate_nothing() {
    let Some(gpu) = gpu_with_limit(u64::MAX) else { return };
    let layout = StripLayout::sparse(5003, 7);
    let logits = strips(&gpu, layout, &neural::normals("logits", 5003 * 7));
    let mut labels = gpu.index_zeros(5003).unwrap();
    gpu.upload_indices(&(0..5003).map(|i| i % 7).collect::<Vec<_>>(), &mut labels).unwrap();
    let (mut stats, mut grad, mut dbias) = (poison(&gpu, 2), poisoned(&gpu, layout), poison(&gpu, 7));
    let mut step = || {
        gpu.softmax_cross_entropy(SMOOTH, &logits, &labels, &mut stats, Some(&mut grad)).unwrap();
        gpu.bias_relu_grad(&logits, true, &mut grad, &mut dbias, false).unwrap();
        let results = [host(&gpu, &stats), host(&gpu, &dbias), read(&gpu, &grad)].concat();
        (results.into_iter().map(f32::to_bits).collect::<Vec<_>>(), gpu.allocated_bytes())
    };
    let first = step();
    assert!((0..3).all(|_| step() == first));
}
