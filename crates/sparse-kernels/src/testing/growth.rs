//! What growth must find, on any backend.

use std::sync::Arc;

use super::buffer;
use super::linear::{Case, case, grow_reference};
use crate::random::Key;
use crate::{CsrPattern, GrowRequest, SparseLinear};

/// Growth of a case of whole numbers, so that scores tie often and are equal to the reference's exactly; and the same of
/// the gradient that another computed.
pub fn verify<B: SparseLinear>(backends: &[&B], case: &Case, count: usize, ties: Key) {
    let (nrows, ncols) = (case.pattern.nrows(), case.pattern.ncols());
    let request = GrowRequest { exclude: case.pattern.clone(), count, ties };
    let expected = grow_reference(case, &case.pattern, count, ties);
    let gradient = gradient(case);
    for backend in backends {
        let (x, dy) = (case.strips(*backend, &case.x, ncols), case.strips(*backend, &case.dy, nrows));
        assert_eq!(backend.grow(&request, &[(&dy, &x)]).unwrap(), expected);
        assert_eq!(backend.largest(&buffer(*backend, &gradient), &request).unwrap(), expected);
    }
}

/// The dense gradient of a case, row-major.
pub fn gradient(case: &Case) -> Vec<f32> {
    let full = CsrPattern::full(case.pattern.nrows(), case.pattern.ncols()).unwrap();
    let gradient = crate::reference::sddmm(&full, &case.dy, &case.x, case.lanes);
    gradient.iter().map(|e| e.value as f32).collect()
}

/// Two uses of a weight score as one use with the lanes of both.
pub fn sums_over_uses<B: SparseLinear>(backend: &B) {
    let (a, b) = (case([30, 40, 20], 32, (0.2, 5), 1, true), case([30, 40, 13], 32, (0.2, 5), 2, true));
    let joined = |a: &[f32], b: &[f32], rows: usize| -> Vec<f32> {
        (0..rows).flat_map(|r| [&a[r * 20..(r + 1) * 20], &b[r * 13..(r + 1) * 13]].concat()).collect()
    };
    let both = Case { lanes: 33, x: joined(&a.x, &b.x, 40), dy: joined(&a.dy, &b.dy, 30), ..a.clone() };
    let request = GrowRequest { exclude: a.pattern.clone(), count: 50, ties: Key::new(5) };
    let (x1, dy1) = (a.strips(backend, &a.x, 40), a.strips(backend, &a.dy, 30));
    let (x2, dy2) = (b.strips(backend, &b.x, 40), b.strips(backend, &b.dy, 30));
    let got = backend.grow(&request, &[(&dy1, &x1), (&dy2, &x2)]).unwrap();
    assert_eq!(got, grow_reference(&both, &a.pattern, 50, request.ties));
}

/// A use without lanes adds nothing, also when a tile's buffer holds an earlier tile's numbers.
pub fn ignores_uses_without_lanes<B: SparseLinear>(backend: &B) {
    // More rows than a tile has: the second band reuses the first one's buffer.
    let (full, empty) = (case([200, 40, 20], 32, (0.2, 5), 1, true), case([200, 40, 0], 32, (0.2, 5), 2, true));
    let request = GrowRequest { exclude: full.pattern.clone(), count: 300, ties: Key::new(5) };
    let (x, dy) = (full.strips(backend, &full.x, 40), full.strips(backend, &full.dy, 200));
    let (no_x, no_dy) = (empty.strips(backend, &empty.x, 40), empty.strips(backend, &empty.dy, 200));
    let expected = grow_reference(&full, &full.pattern, 300, request.ties);
    assert_eq!(backend.grow(&request, &[(&no_dy, &no_x), (&dy, &x)]).unwrap(), expected);
    assert_eq!(backend.grow(&request, &[(&dy, &x), (&no_dy, &no_x)]).unwrap(), expected);
    // With no lane at all every position scores 0, and hashes decide.
    let nothing = Case { pattern: full.pattern.clone(), ..empty };
    let expected = grow_reference(&nothing, &full.pattern, 300, request.ties);
    assert_eq!(backend.grow(&request, &[(&no_dy, &no_x)]).unwrap(), expected);
    assert_eq!(backend.grow(&request, &[]).unwrap(), expected);
}

/// Numbers of all sizes, of both signs, and NaN, which counts as 0.
pub fn orders_all_numbers<B: SparseLinear>(backend: &B) {
    let special = [f32::NAN, -f32::NAN, f32::INFINITY, f32::MAX, -1.0, 1.0, 2e-38, -0.0, 0.0, 3e38, -7.5];
    let (nrows, ncols) = (13, 37);
    let key = Key::new(1);
    let gradient: Vec<f32> = (0..nrows * ncols).map(|i| special[key.below(i as u64, 11) as usize]).collect();
    let score = |i: usize| if gradient[i].is_nan() { 0.0 } else { gradient[i].abs() };
    let exclude = Arc::new(CsrPattern::from_positions(nrows, ncols, vec![(0, 0), (3, 4), (12, 36)]).unwrap());
    let held = buffer(backend, &gradient);
    for count in [1, 40, 200, 470, 478, 10_000] {
        let ties = Key::new(count as u64);
        let request = GrowRequest { exclude: exclude.clone(), count, ties };
        let mut all: Vec<usize> = (0..nrows * ncols)
            .filter(|i| !exclude.positions().any(|(r, c)| r as usize * ncols + c as usize == *i))
            .collect();
        all.sort_by(|&a, &b| {
            let hash = |i: usize| ties.bits(i as u64) as u32;
            score(b).total_cmp(&score(a)).then(hash(a).cmp(&hash(b))).then(a.cmp(&b))
        });
        all.truncate(count);
        all.sort_unstable();
        let got = backend.largest(&held, &request).unwrap();
        let got: Vec<_> = got.iter().map(|c| (c.row as usize * ncols + c.column as usize, c.score.to_bits())).collect();
        assert_eq!(got, all.iter().map(|&i| (i, score(i).to_bits())).collect::<Vec<_>>(), "{count}");
    }
}

/// Errors name what does not fit.
pub fn refuses_wrong_shapes<B: SparseLinear>(backend: &B) {
    let case = case([4, 5, 6], 32, (0.5, 5), 1, true);
    let (x, dy) = (case.strips(backend, &case.x, 5), case.strips(backend, &case.dy, 4));
    let request = GrowRequest { exclude: case.pattern.clone(), count: 3, ties: Key::new(1) };
    let message = backend.grow(&request, &[(&x, &dy)]).unwrap_err().to_string();
    assert!(message.contains("grow: rows of dY is 5, expected 4"), "{message}");
    let message = backend.largest(&backend.zeros(19).unwrap(), &request).unwrap_err().to_string();
    assert!(message.contains("length of the gradient is 19, expected 20"), "{message}");
    // Nothing is asked for, and nothing is left.
    let none = GrowRequest { count: 0, ..request.clone() };
    assert_eq!(backend.grow(&none, &[(&dy, &x)]).unwrap(), []);
    let exclude = CsrPattern::full(4, 5).unwrap().into();
    assert_eq!(backend.grow(&GrowRequest { exclude, ..request }, &[(&dy, &x)]).unwrap(), []);
}
