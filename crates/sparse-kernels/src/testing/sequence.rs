//! Operations of sequence models against the reference.

use proptest::prelude::*;

use super::neural::normals;
use super::{buffer, host, poison, poisoned, read, strips};
use crate::random::Key;
use crate::{Attention, AttentionGrad, FeatureNorm, Gelu, NormKind, SequenceNeural, Storage, StripLayout, reference};

fn indices<B: Storage>(backend: &B, from: &[u32]) -> B::Indices {
    let mut indices = backend.index_zeros(from.len()).unwrap();
    backend.upload_indices(from, &mut indices).unwrap();
    indices
}

/// A gradient to write or to add to, and what it holds already.
fn gradient<B: Storage>(backend: &B, len: usize, accumulate: bool) -> (B::Buffer, f64) {
    if accumulate { (buffer(backend, &vec![2.0; len]), 2.0) } else { (poison(backend, len), 0.0) }
}

/// Whether sums of at most `terms` numbers of about 1 are those of the reference, on top of what was there.
#[track_caller]
fn sums(what: &str, got: &[f32], expected: &[f64], before: f64, terms: usize) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let bound = f64::from(f32::EPSILON) * (terms + 1) as f64 * (8.0 + terms as f64);
        let expected = expected + before;
        assert!((f64::from(got) - expected).abs() <= bound, "{what} entry {i}: {got} {expected}");
    }
}

/// With `length` 0 without positions.
pub fn embed<B: SequenceNeural>(
    backend: &B,
    layout: StripLayout,
    symbols: usize,
    length: usize,
    accumulate: bool,
    seed: u64,
) {
    let (features, lanes) = (layout.features(), layout.lanes());
    let (table, positions) = (normals("table", symbols * features), normals("positions", length * features));
    let tokens: Vec<u32> = (0..lanes as u64).map(|i| Key::new(seed).below(i, symbols as u64) as u32).collect();
    let device_tokens = indices(backend, &tokens);
    let device_positions = buffer(backend, &positions);
    let mut x = poisoned(backend, layout);
    let given = (length > 0).then_some((&device_positions, length));
    backend.embed(&buffer(backend, &table), given, &device_tokens, &mut x).unwrap();
    let given = (length > 0).then_some((&positions[..], length));
    assert_eq!(read(backend, &x), reference::sequence::embed(features, &table, given, &tokens));

    let dx = normals("dx", features * lanes);
    let device_dx = strips(backend, layout, &dx);
    let (mut dtable, before) = gradient(backend, symbols * features, accumulate);
    backend.embed_grad(&device_tokens, &device_dx, &mut dtable, accumulate).unwrap();
    let rows: Vec<usize> = tokens.iter().map(|&token| token as usize).collect();
    let expected = reference::sequence::embed_grad(features, symbols, &rows, &dx);
    sums("table", &host(backend, &dtable), &expected, before, lanes);
    if length > 0 {
        let (mut dpositions, before) = gradient(backend, length * features, accumulate);
        backend.embed_positions_grad(length, &device_dx, &mut dpositions, accumulate).unwrap();
        let rows: Vec<usize> = (0..lanes).map(|lane| lane % length).collect();
        let expected = reference::sequence::embed_grad(features, length, &rows, &dx);
        sums("positions", &host(backend, &dpositions), &expected, before, lanes);
    }
}

/// They make their lanes NaN and give no gradient.
pub fn tokens_that_are_no_symbols<B: SequenceNeural>(backend: &B) {
    let layout = StripLayout::sparse(4, 2);
    let table = buffer(backend, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let tokens = indices(backend, &[0, 3, 2, u32::MAX]);
    let mut x = poisoned(backend, layout);
    backend.embed(&table, None, &tokens, &mut x).unwrap();
    let x = read(backend, &x);
    assert_eq!([x[0], x[2], x[4], x[6]], [1.0, 5.0, 2.0, 6.0]);
    assert!([1, 3, 5, 7].iter().all(|&i| x[i].is_nan()), "{x:?}");
    let mut dtable = poison(backend, 6);
    let dx = strips(backend, layout, &[1.0, f32::NAN, 3.0, f32::NAN, 5.0, f32::NAN, 7.0, f32::NAN]);
    backend.embed_grad(&tokens, &dx, &mut dtable, false).unwrap();
    assert_eq!(host(backend, &dtable), [1.0, 5.0, 0.0, 0.0, 3.0, 7.0]);
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Whether numbers are those of the reference to within `bound`.
#[track_caller]
fn near(what: &str, got: &[f32], expected: &[f64], bound: f64) {
    assert_eq!(got.len(), expected.len(), "{what}");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let bound = bound * (1.0 + expected.abs());
        assert!((f64::from(got) - expected).abs() <= bound, "{what} entry {i}: {got} {expected}");
    }
}

pub fn feature_norm<B: SequenceNeural>(
    backend: &B,
    layout: StripLayout,
    norm: FeatureNorm,
    accumulate: bool,
    seed: u32,
) {
    let (features, lanes) = (layout.features(), layout.lanes());
    let [x, residual, dy] = ["x", "residual", "dy"].map(|name| normals(&format!("{name}{seed}"), features * lanes));
    let affine = normals("affine", norm.parameters(features));
    let device_affine = buffer(backend, &affine);
    let poisoned_moments = || poisoned(backend, layout.with_features(2));
    // Lanes whose numbers are almost the same have a large 1 / deviation, and a gradient as large.
    let wide = |x: &[f64]| {
        let deviation = |lane: usize| {
            let of_lane = |f: usize| x[f * lanes + lane];
            let mean = (0..features).map(of_lane).sum::<f64>() / features as f64;
            ((0..features).map(|f| (of_lane(f) - mean).powi(2)).sum::<f64>() / features as f64).sqrt()
        };
        let kind = norm.kind == NormKind::Layer;
        (0..lanes).map(|lane| if kind { deviation(lane).max(1e-3).recip() } else { 30.0 }).fold(1.0, f64::max)
    };

    let (mut y, mut moments) = (poisoned(backend, layout), poisoned_moments());
    let device_x = strips(backend, layout, &x);
    backend.feature_norm(norm, &device_affine, &device_x, &mut y, &mut moments).unwrap();
    let plain = widen(&x);
    let expected = reference::sequence::feature_norm(norm, &affine, features, &plain);
    near("norm", &read(backend, &y), &expected, 1e-6 * wide(&plain));
    read(backend, &moments);

    let mut sum = strips(backend, layout, &x);
    let (mut y, mut moments) = (poisoned(backend, layout), poisoned_moments());
    let device_residual = strips(backend, layout, &residual);
    backend.add_feature_norm(norm, &device_affine, &device_residual, &mut sum, &mut y, &mut moments).unwrap();
    let added: Vec<f32> = x.iter().zip(&residual).map(|(x, residual)| x + residual).collect();
    assert_eq!(read(backend, &sum), added);
    let x = widen(&added);
    let expected = reference::sequence::feature_norm(norm, &affine, features, &x);
    let bound = 2e-6 * wide(&x);
    near("norm of a sum", &read(backend, &y), &expected, bound);

    let (dx, daffine) = reference::sequence::feature_norm_grad(norm, &affine, features, &x, &widen(&dy));
    for add in [false, true] {
        let (mut grad, before) = gradient(backend, affine.len(), accumulate);
        let mut dy = strips(backend, layout, &dy);
        let mut to = strips(backend, layout, &residual);
        let target = add.then_some(&mut to);
        backend
            .feature_norm_grad(norm.kind, &device_affine, &moments, &sum, &mut dy, target, &mut grad, accumulate)
            .unwrap();
        let expected: Vec<f64> = match add {
            true => dx.iter().zip(&residual).map(|(dx, &before)| dx + f64::from(before)).collect(),
            false => dx.clone(),
        };
        near("gradient", &read(backend, if add { &to } else { &dy }), &expected, bound * wide(&x));
        let expected: Vec<f64> = daffine.iter().map(|sum| sum + before).collect();
        near("gradient of scale and shift", &host(backend, &grad), &expected, bound * (lanes + 8) as f64);
    }
}

/// A mean of 1000 deviations.
pub fn large_means_do_not_cancel<B: SequenceNeural>(backend: &B) {
    let layout = StripLayout::sparse(5, 640);
    // Eighths are exact.
    let x: Vec<f32> = normals("x", 3200).iter().map(|x| 1000.0 + (8.0 * x).round() / 8.0).collect();
    let norm = FeatureNorm { kind: NormKind::Layer, epsilon: 1e-5 };
    let affine = [vec![1.0; 640], vec![0.0; 640]].concat();
    let (mut y, mut moments) = (poisoned(backend, layout), poisoned(backend, layout.with_features(2)));
    let device_x = strips(backend, layout, &x);
    backend.feature_norm(norm, &buffer(backend, &affine), &device_x, &mut y, &mut moments).unwrap();
    let expected = reference::sequence::feature_norm(norm, &affine, 640, &widen(&x));
    near("norm", &read(backend, &y), &expected, 2e-4);
}

pub fn gelu<B: SequenceNeural>(backend: &B, layout: StripLayout, seed: u64) {
    let len = layout.features() * layout.lanes();
    let x: Vec<f32> = normals(&format!("x{seed}"), len).iter().map(|x| 2.0 * x).collect();
    let dy = normals("dy", len);
    for kind in [Gelu::Tanh, Gelu::Exact] {
        let device_x = strips(backend, layout, &x);
        let (mut y, mut grad) = (poisoned(backend, layout), strips(backend, layout, &dy));
        backend.gelu(kind, &device_x, &mut y).unwrap();
        backend.gelu_grad(kind, &device_x, &mut grad).unwrap();
        let expected: Vec<[f64; 2]> = x.iter().map(|&x| reference::sequence::gelu(kind, f64::from(x))).collect();
        let values: Vec<f64> = expected.iter().map(|[y, _]| *y).collect();
        near("gelu", &read(backend, &y), &values, 2e-6);
        let grads: Vec<f64> = expected.iter().zip(&dy).map(|([_, slope], &dy)| slope * f64::from(dy)).collect();
        near("gradient of gelu", &read(backend, &grad), &grads, 4e-6);
    }
}

/// The largest errors, of y relative to x, and of the derivative; and what becomes of numbers that are out of range.
pub fn gelu_error<B: SequenceNeural>(backend: &B, bounds: [f64; 2]) {
    let len = 1 << 20;
    let mut x: Vec<f32> = (0..len).map(|i| (i as f32 - 524_288.0) * (16.0 / 524_288.0)).collect();
    let odd = [f32::NAN, f32::INFINITY, 1e20, f32::MAX, -1e20, -100.0, 0.0];
    x.extend(odd);
    let layout = StripLayout::sparse(x.len(), 1);
    for kind in [Gelu::Tanh, Gelu::Exact] {
        let device_x = strips(backend, layout, &x);
        let (mut y, mut grad) = (poisoned(backend, layout), strips(backend, layout, &vec![1.0; x.len()]));
        backend.gelu(kind, &device_x, &mut y).unwrap();
        backend.gelu_grad(kind, &device_x, &mut grad).unwrap();
        let (y, grad) = (read(backend, &y), read(backend, &grad));
        let mut worst = [0f64; 2];
        for i in 0..len {
            let [value, slope] = reference::sequence::gelu(kind, f64::from(x[i]));
            let errors = [
                (f64::from(y[i]) - value).abs() / f64::from(x[i].abs()).max(1e-30),
                (f64::from(grad[i]) - slope).abs(),
            ];
            worst = [worst[0].max(errors[0]), worst[1].max(errors[1])];
        }
        println!("{kind:?}: {} {}", worst[0], worst[1]);
        assert!(worst[0] < bounds[0] && worst[1] < bounds[1], "{kind:?}: {worst:?}");
        let (y, grad) = (&y[len..], &grad[len..]);
        assert!(y[0].is_nan() && grad[0].is_nan(), "{kind:?}: {y:?} {grad:?}");
        assert_eq!(y[1..4], odd[1..4], "{kind:?}");
        assert!(grad[1..4].iter().all(|&slope| slope == 1.0) && grad[4..6].iter().all(|slope| slope.abs() < 1e-30));
        assert!(y[4].abs() < 1e-12 && y[5].abs() < 1e-30 && y[6] == 0.0 && grad[6] == 0.5, "{kind:?}: {y:?} {grad:?}");
    }
}

/// Heads, their size, length and number of sequences, strip, and whether positions are rotary.
pub fn attentions() -> impl Strategy<Value = (StripLayout, Attention)> {
    let strips = prop::sample::select(vec![16usize, 32, 48, 0]);
    (1usize..4, 1usize..40, 1usize..75, 0usize..5, strips, any::<bool>()).prop_map(
        |(heads, size, length, count, strip, is_rotary)| {
            let lanes = length * count;
            let strip = if strip == 0 { lanes.next_multiple_of(16).max(16) } else { strip };
            let layout = StripLayout::new(lanes, heads * size, strip).unwrap();
            let rotary = (is_rotary && size.is_multiple_of(2)).then_some(100.0);
            (layout, Attention { heads, length, rotary })
        },
    )
}

pub fn attention<B: SequenceNeural>(backend: &B, layout: StripLayout, attention: Attention, seed: u32) {
    let (features, lanes) = (layout.features(), layout.lanes());
    let names = ["q", "k", "v", "grad"];
    let host_operands = names.map(|name| normals(&format!("{name}{seed}"), features * lanes));
    let expected = reference::sequence::attention(attention, features, host_operands.each_ref().map(|x| &x[..]));
    let [q, k, v, grad] = host_operands.each_ref().map(|x| strips(backend, layout, x));
    let (mut o, mut lse) = (poisoned(backend, layout), poisoned(backend, layout.with_features(attention.heads)));
    let [mut dq, mut dk, mut dv] = [(); 3].map(|()| poisoned(backend, layout));
    backend.attention(attention, [&q, &k, &v], &mut o, &mut lse).unwrap();
    let operands =
        AttentionGrad { q: &q, k: &k, v: &v, o: &o, lse: &lse, grad: &grad, dq: &mut dq, dk: &mut dk, dv: &mut dv };
    backend.attention_grad(attention, operands).unwrap();
    near("output", &read(backend, &o), &expected.o, 1e-5);
    near("sums", &read(backend, &lse), &expected.lse, 1e-5);
    // A gradient is a sum over up to `length` tokens, of terms of about √(head size).
    let bound = 2e-5 * (1.0 + (features as f64 / attention.heads as f64).sqrt() * 0.2);
    for ((what, got), expected) in [("dq", dq), ("dk", dk), ("dv", dv)].into_iter().zip(&expected.grads) {
        near(what, &read(backend, &got), expected, bound);
    }
}

/// The past does not depend on the future, by one bit, and scores beyond exp's range do no harm.
pub fn attention_is_causal_and_stable<B: SequenceNeural>(backend: &B) {
    let (layout, length) = (StripLayout::sparse(90, 14), 45);
    let attention = Attention { heads: 2, length, rotary: None };
    let run = |seed: usize, scale: f32| {
        // Tokens from the 30th on are others with another seed.
        let operand = |name: &str| {
            let [first, second] = [normals(name, 90 * 14), normals(&format!("{name}{seed}"), 90 * 14)];
            let data: Vec<f32> =
                (0..90 * 14).map(|i| scale * if i % 90 % length < 30 { first[i] } else { second[i] }).collect();
            strips(backend, layout, &data)
        };
        let (mut o, mut lse) = (poisoned(backend, layout), poisoned(backend, layout.with_features(2)));
        let [q, k, v] = ["q", "k", "v"].map(operand);
        backend.attention(attention, [&q, &k, &v], &mut o, &mut lse).unwrap();
        (read(backend, &o), read(backend, &lse))
    };
    let [(a, _), (b, _)] = [1, 2].map(|seed| run(seed, 1.0));
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        assert_eq!(a.to_bits() == b.to_bits(), i % 90 % length < 30, "{i}: {a} {b}");
    }
    // Scores of some 1e5.
    let (o, lse) = run(1, 300.0);
    assert!(o.iter().all(|o| o.is_finite() && o.abs() < 2000.0) && lse.iter().all(|lse| lse.is_finite()));
    assert!(lse.iter().any(|&lse| lse > 1e4));
}

/// What all operations of sequence models must refuse.
pub fn wrong_shapes_are_refused<B: SequenceNeural>(backend: &B) {
    let zeros = |len| backend.zeros(len).unwrap();
    let ones = |lanes, features| strips(backend, StripLayout::sparse(lanes, features), &vec![1.0; lanes * features]);
    let embed = |table: usize, positions: Option<[usize; 2]>, tokens: usize, features: usize| {
        let positions = positions.map(|[len, length]| (zeros(len), length));
        let positions = positions.as_ref().map(|(buffer, length)| (buffer, *length));
        let tokens = backend.index_zeros(tokens).unwrap();
        backend.embed(&zeros(table), positions, &tokens, &mut ones(3, features)).is_ok()
    };
    assert!(embed(6, None, 3, 2) && embed(6, Some([4, 2]), 4, 2));
    assert!(!embed(5, None, 3, 2) && !embed(6, None, 2, 2) && !embed(0, None, 3, 0));
    assert!(!embed(6, Some([3, 2]), 3, 2) && !embed(6, Some([0, 0]), 3, 2) && !embed(6, Some([6, 2]), 3, 2));
    let grad = |table: usize, tokens: usize| {
        let tokens = backend.index_zeros(tokens).unwrap();
        backend.embed_grad(&tokens, &ones(3, 2), &mut zeros(table), false).is_ok()
    };
    assert!(grad(4, 3) && !grad(5, 3) && !grad(4, 2));
    let grad = |len: usize, length| backend.embed_positions_grad(length, &ones(3, 2), &mut zeros(len), false).is_ok();
    assert!(grad(4, 2) && !grad(4, 3) && !grad(0, 0));

    let norm = |features: [usize; 3], moments: usize, affine: usize, kind| {
        let [x, residual, y] = features.map(|features| ones(3, features));
        let (mut x, mut y, mut moments, affine) = (x, y, ones(3, moments), zeros(affine));
        let norm = FeatureNorm { kind, epsilon: 1e-5 };
        let plain = backend.feature_norm(norm, &affine, &x, &mut y, &mut moments).is_ok();
        let sum = backend.add_feature_norm(norm, &affine, &residual, &mut x, &mut y, &mut moments).is_ok();
        (plain, sum)
    };
    assert_eq!(norm([4; 3], 2, 8, NormKind::Layer), (true, true));
    assert_eq!(norm([4, 5, 4], 2, 4, NormKind::Rms), (true, false));
    assert_eq!(norm([4, 4, 5], 2, 8, NormKind::Layer), (false, false));
    assert_eq!(norm([4; 3], 1, 8, NormKind::Layer), (false, false));
    assert_eq!(norm([4; 3], 2, 4, NormKind::Layer), (false, false));
    assert_eq!(norm([0; 3], 2, 0, NormKind::Layer), (false, false));
    let grad = |dy: usize, to: usize, daffine: usize| {
        let (affine, moments, x) = (zeros(8), ones(3, 2), ones(3, 4));
        let (mut dy, mut to, mut daffine) = (ones(3, dy), ones(3, to), zeros(daffine));
        let to = Some(&mut to);
        backend.feature_norm_grad(NormKind::Layer, &affine, &moments, &x, &mut dy, to, &mut daffine, false).is_ok()
    };
    assert!(grad(4, 4, 8) && !grad(5, 4, 8) && !grad(4, 5, 8) && !grad(4, 4, 4));
    assert!(backend.gelu(Gelu::Exact, &ones(3, 4), &mut ones(3, 5)).is_err());
    assert!(backend.gelu_grad(Gelu::Tanh, &ones(3, 4), &mut ones(2, 4)).is_err());

    let run = |heads, length, rotary, k: usize, o: usize, lse: usize| {
        let attention = Attention { heads, length, rotary };
        let [q, k, v, mut o, mut lse] = [4, k, 4, o, lse].map(|features| ones(6, features));
        let result = backend.attention(attention, [&q, &k, &v], &mut o, &mut lse).map_err(|e| e.to_string());
        let (grad, [mut dq, mut dk, mut dv]) =
            (ones(6, 4), [4, k.layout.features(), 4].map(|features| ones(6, features)));
        let operands =
            AttentionGrad { q: &q, k: &k, v: &v, o: &o, lse: &lse, grad: &grad, dq: &mut dq, dk: &mut dk, dv: &mut dv };
        assert_eq!(backend.attention_grad(attention, operands).is_ok(), result.is_ok());
        result
    };
    assert!(run(2, 3, None, 4, 4, 2).is_ok() && run(1, 6, Some(10.0), 4, 4, 1).is_ok());
    for (heads, length, rotary, k, o, lse, what) in [
        (3, 3, None, 4, 4, 3, "number of heads"),
        (0, 3, None, 4, 4, 0, "number of heads"),
        (2, 4, None, 4, 4, 2, "length of a sequence"),
        (2, 0, None, 4, 4, 2, "length of a sequence"),
        (4, 3, Some(10.0), 4, 4, 4, "head size"),
        (2, 3, Some(-1.0), 4, 4, 2, "base"),
        (2, 3, None, 5, 4, 2, "number of features"),
        (2, 3, None, 4, 5, 2, "number of features"),
        (2, 3, None, 4, 4, 1, "number of sums"),
    ] {
        let error = run(heads, length, rotary, k, o, lse).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
}
