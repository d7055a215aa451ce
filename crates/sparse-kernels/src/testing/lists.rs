//! Products with lists, and the loss of labels that are lists, against sums in f64.

use std::sync::Arc;

use super::{buffer, check, host, poison, poisoned, read, strips};
use crate::backend::Lists;
use crate::random::Key;
use crate::reference::{self, Exact};
use crate::{BsrPattern, ColumnIndex, Csr, CsrPattern, StripLayout};

fn normal(key: Key, i: usize) -> f32 {
    key.uniform(i as u64) * 4.0 - 2.0
}

fn pattern(nrows: usize, ncols: usize, density: f32, key: Key) -> CsrPattern {
    let positions = (0..nrows).flat_map(|r| (0..ncols).map(move |c| (r, c)));
    let stored = positions.filter(|&(r, c)| key.uniform((r * ncols + c) as u64) < density);
    CsrPattern::from_positions(nrows, ncols, stored.map(|(r, c)| (r as u32, c as u32)).collect()).unwrap()
}

/// A weight in each format: where its values are, they, and the same as a matrix in CSR with the place of each entry.
struct Weight {
    index: ColumnIndex,
    values: Vec<f32>,
    entries: CsrPattern,
    places: Vec<usize>,
}

fn weights([m, k]: [usize; 2], density: f32, key: Key) -> Vec<Weight> {
    let single = pattern(m, k, density, key.with(1));
    let mut all = vec![];
    let full = CsrPattern::full(m, k).unwrap();
    let (places, index) = ((0..m * k).collect(), ColumnIndex::dense(m, k));
    all.push(Weight { index, values: (0..m * k).map(|i| normal(key.with(2), i)).collect(), entries: full, places });
    let (nnz, index) = (single.nnz(), ColumnIndex::of_csr(&single));
    let values = (0..nnz).map(|i| normal(key.with(3), i)).collect();
    all.push(Weight { index, values, entries: single.clone(), places: (0..nnz).collect() });
    for size in [[16, 1], [8, 1], [4, 2], [2, 8]] {
        let blocks = BsrPattern::from_csr(&single, size).unwrap();
        let mut entries: Vec<_> = blocks.entries().map(|e| ((e.row as u32, e.column as u32), e.position)).collect();
        entries.sort_unstable();
        let mut values = vec![0.0; blocks.nnz()];
        entries.iter().for_each(|&(_, place)| values[place] = normal(key.with(4), place));
        let (positions, places) = entries.into_iter().unzip();
        let entries = CsrPattern::from_positions(m, k, positions).unwrap();
        all.push(Weight { index: ColumnIndex::of_blocks(&blocks), values, entries, places });
    }
    all
}

/// Sparse samples, `[n, k]`.
fn samples(lanes: usize, k: usize, key: Key) -> Csr {
    let pattern = Arc::new(pattern(lanes, k, 0.15, key));
    let values = (0..pattern.nnz()).map(|i| normal(key.with(9), i)).collect();
    Csr::new(pattern, values).unwrap()
}

/// The products of each weight: Y, the gradient, and the gradient added to itself.
pub fn results<B: Lists>(
    backend: &B,
    [m, k, lanes]: [usize; 3],
    strip: usize,
    density: f32,
    seed: u64,
) -> Vec<Vec<f32>> {
    let key = Key::new(seed).with_name("lists");
    let layout = StripLayout::new(lanes, m, strip).unwrap();
    let x = samples(lanes, k, key.with(5));
    let dy: Vec<f32> = (0..m * lanes).map(|i| normal(key.with(6), i)).collect();
    let mut results = vec![];
    for weight in weights([m, k], density, key) {
        let mut y = poisoned(backend, layout);
        backend.list_product(&weight.index, &buffer(backend, &weight.values), &x, &mut y).unwrap();
        let dy = strips(backend, layout, &dy);
        let mut dw = poison(backend, weight.values.len());
        backend.list_weight_grad(&weight.index, &dy, &x, &mut dw, false).unwrap();
        let once = host(backend, &dw);
        backend.list_weight_grad(&weight.index, &dy, &x, &mut dw, true).unwrap();
        results.extend([read(backend, &y), once, host(backend, &dw)]);
    }
    results
}

/// All products, against the reference with X as a dense matrix.
pub fn products<B: Lists>(backend: &B, [m, k, lanes]: [usize; 3], strip: usize, density: f32, seed: u64) {
    let key = Key::new(seed).with_name("lists");
    let x = samples(lanes, k, key.with(5)).to_dense();
    let x: Vec<f32> = (0..k * lanes).map(|i| x[i % lanes * k + i / lanes]).collect();
    let dy: Vec<f32> = (0..m * lanes).map(|i| normal(key.with(6), i)).collect();
    let results = results(backend, [m, k, lanes], strip, density, seed);
    for (weight, got) in weights([m, k], density, key).iter().zip(results.chunks_exact(3)) {
        let of_entries: Vec<f32> = weight.places.iter().map(|&place| weight.values[place]).collect();
        check("Y", false, &got[0], &reference::spmm(&weight.entries, &of_entries, &x, lanes));
        let exact = reference::sddmm(&weight.entries, &dy, &x, lanes);
        let at = |values: &[f32]| weight.places.iter().map(|&place| values[place]).collect::<Vec<_>>();
        check("dW", false, &at(&got[1]), &exact);
        let twice: Vec<Exact> = exact
            .iter()
            .map(|e| Exact { value: 2.0 * e.value, magnitude: 2.0 * e.magnitude, terms: e.terms + 1 })
            .collect();
        check("dW twice", false, &at(&got[2]), &twice);
        // Padding of blocks has no gradient.
        let mut padding = got[1].clone();
        weight.places.iter().for_each(|&place| padding[place] = 0.0);
        assert!(padding.iter().all(|&value| value == 0.0));
    }
}

fn logits_and_labels([features, first, lanes]: [usize; 3], key: Key) -> (Vec<f32>, CsrPattern) {
    let logits = (0..features * lanes).map(|i| 3.0 * normal(key, i)).collect();
    (logits, pattern(lanes, first + features + 5, 0.2, key.with(1)))
}

/// The gradient and the loss.
pub fn label_loss_results<B: Lists>(backend: &B, sizes: [usize; 3], strip: usize, scale: f32, seed: u64) -> Vec<f32> {
    let [features, first, lanes] = sizes;
    let (logits, labels) = logits_and_labels([features, first, lanes], Key::new(seed).with_name("labels"));
    let mut y = strips(backend, StripLayout::new(lanes, features, strip).unwrap(), &logits);
    let mut stats = buffer(backend, &[1.0, 7.0]);
    backend.label_loss(scale, first, &labels, &mut y, &mut stats).unwrap();
    let stats = host(backend, &stats);
    assert_eq!(stats[1], 7.0);
    [read(backend, &y), vec![stats[0]]].concat()
}

/// The loss, against its definition.
pub fn label_loss<B: Lists>(backend: &B, sizes: [usize; 3], strip: usize, scale: f32, seed: u64) {
    let [_, first, lanes] = sizes;
    let (logits, labels) = logits_and_labels(sizes, Key::new(seed).with_name("labels"));
    let mut results = label_loss_results(backend, sizes, strip, scale, seed);
    let loss = f64::from(results.pop().unwrap()) - 1.0;
    let mut expected = 0.0;
    for (i, (&y, &slope)) in logits.iter().zip(&results).enumerate() {
        let (feature, lane, y) = (i / lanes, i % lanes, f64::from(y));
        let t = f64::from(u8::from(labels.row(lane).contains(&((first + feature) as u32))));
        expected += y.max(0.0) - y * t + (-y.abs()).exp().ln_1p();
        let exact = f64::from(scale) * (1.0 / (1.0 + (-y).exp()) - t);
        assert!((f64::from(slope) - exact).abs() < 1e-6 * f64::from(scale), "{feature} {lane}: {slope} {exact}");
    }
    assert!((loss - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{loss}, expected {expected}");
}
