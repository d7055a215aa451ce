//! Operations of sequence models against the reference.

use super::neural::normals;
use super::{buffer, host, poison, poisoned, read, strips};
use crate::random::Key;
use crate::{SequenceNeural, Storage, StripLayout, reference};

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
}
