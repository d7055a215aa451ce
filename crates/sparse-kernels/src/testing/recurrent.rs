//! Steps of recurrent layers against the reference.

use proptest::prelude::*;

use super::neural::normals;
use super::{host, poisoned, read, strips};
use crate::backend::{GruSaved, GruStep, GruStepGrad, LstmSaved, LstmStep, LstmStepGrad, Recurrent, Steps};
use crate::reference::recurrent::{gru, gru_grad, lstm, lstm_grad};
use crate::{StripLayout, Strips};

/// A layer's shape: H, steps, and one of them.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub features: usize,
    pub steps: Steps,
    pub step: usize,
}

/// Layers with their lanes in strips and in a single one; those of one step with any number of lanes.
pub fn cases() -> impl Strategy<Value = Case> {
    let steps = (2usize..5, 1usize..4, any::<bool>()).prop_map(|(count, strips, single)| {
        let all = if single {
            StripLayout::single(count * 16 * strips, 0)
        } else {
            StripLayout::sparse(count * 32 * strips, 0)
        };
        Steps::new(all, count).unwrap()
    });
    let one = (1usize..70, any::<bool>()).prop_map(|(lanes, single)| {
        let all = if single { StripLayout::single(lanes, 0) } else { StripLayout::sparse(lanes, 0) };
        Steps::new(all, 1).unwrap()
    });
    (0usize..40, prop_oneof![steps, one], any::<prop::sample::Index>()).prop_map(|(features, steps, step)| Case {
        features,
        steps,
        step: step.index(steps.count()),
    })
}

impl Case {
    pub fn all(&self, gates: usize) -> StripLayout {
        self.steps.all(gates * self.features)
    }

    pub fn one(&self, gates: usize) -> StripLayout {
        self.steps.one(gates * self.features)
    }

    fn lanes(&self) -> usize {
        self.steps.one(0).lanes()
    }

    /// Normal numbers that lie so.
    fn normals<B: Recurrent>(&self, backend: &B, name: &str, layout: StripLayout) -> Strips<B> {
        strips(backend, layout, &normals(name, layout.features() * layout.lanes()))
    }

    /// Numbers of each feature and sequence, of a tensor of all steps or of one: those of this step, by gate.
    fn of_step<const G: usize>(&self, numbers: &[f32], feature: usize, lane: usize) -> [f64; G] {
        let row = numbers.len() / (G * self.features);
        let start = if row == self.lanes() { 0 } else { self.step * self.lanes() };
        std::array::from_fn(|gate| f64::from(numbers[(gate * self.features + feature) * row + start + lane]))
    }

    /// Calls `check` for each feature and sequence.
    fn each(&self, mut check: impl FnMut(usize, usize)) {
        for feature in 0..self.features {
            (0..self.lanes()).for_each(|lane| check(feature, lane));
        }
    }

    /// What a tensor of all steps holds at other steps is still there.
    #[track_caller]
    fn others_are_untouched<B: Recurrent>(&self, backend: &B, before: Option<&Strips<B>>, after: &Strips<B>) {
        let (layout, lanes) = (after.layout, self.lanes());
        let after = host(backend, &after.data);
        let before = before.map(|before| host(backend, &before.data));
        for feature in 0..layout.features() {
            for lane in (0..layout.lanes()).filter(|lane| lane / lanes != self.step) {
                let at = layout.index(feature, lane);
                let is_same = before.as_ref().map_or(after[at].is_nan(), |before| before[at] == after[at]);
                assert!(is_same, "{self:?}: lane {lane} of feature {feature}");
            }
        }
    }
}

/// Lanes of a tensor, whatever those of padding hold.
fn unpadded<B: Recurrent>(backend: &B, tensor: &Strips<B>) -> Vec<f32> {
    let (layout, held) = (tensor.layout, host(backend, &tensor.data));
    let lanes = |feature| (0..layout.lanes()).map(move |lane| layout.index(feature, lane));
    (0..layout.features()).flat_map(lanes).map(|at| held[at]).collect()
}

/// As far as rounding, and the functions' errors, may lead apart: `scale` is what was added up.
#[track_caller]
fn near(what: &str, got: f64, expected: f64, scale: f64) {
    let bound = 8.0 * f64::from(f32::EPSILON) * (1.0 + scale);
    assert!((got - expected).abs() <= bound, "{what}: {got} instead of {expected}");
}

pub fn gru_step<B: Recurrent>(backend: &B, case: Case) {
    let gates = |_| case.normals(backend, "gates", case.all(3));
    let [mut kept, mut replaced] = [0, 1].map(gates);
    let hidden = case.normals(backend, "hidden", case.one(3));
    let [mut state, mut state_again] = [0, 1].map(|_| case.normals(backend, "state", case.one(1)));
    let (before, before_gates) = (read(backend, &state), read(backend, &kept));
    let [mut y, mut y_again, mut previous, mut hidden_n] = [0; 4].map(|_| poisoned(backend, case.all(1)));
    let call =
        GruStep { step: case.step, gates: &mut kept, hidden: &hidden, state: &mut state, y: &mut y, saved: None };
    backend.gru_step(call).unwrap();
    let saved = Some(GruSaved { previous: &mut previous, hidden_n: &mut hidden_n });
    let call = GruStep {
        step: case.step,
        gates: &mut replaced,
        hidden: &hidden,
        state: &mut state_again,
        y: &mut y_again,
        saved,
    };
    backend.gru_step(call).unwrap();
    // The same numbers with and without what the gradient needs.
    assert_eq!(read(backend, &kept), before_gates);
    assert_eq!(read(backend, &state), read(backend, &state_again));
    for written in [&y, &y_again, &previous, &hidden_n] {
        case.others_are_untouched(backend, None, written);
    }
    case.others_are_untouched(backend, Some(&kept), &replaced);
    if case.steps.count() == 1 {
        for written in [&y, &y_again, &previous, &hidden_n] {
            read(backend, written);
        }
    }
    let [found, got_y, got_y_again] = [&replaced, &y, &y_again].map(|x| unpadded(backend, x));
    let [previous, hidden_n] = [previous, hidden_n].map(|x| unpadded(backend, &x));
    let (state, hidden) = (read(backend, &state), read(backend, &hidden));
    case.each(|feature, lane| {
        let given: [f64; 3] = case.of_step(&before_gates, feature, lane);
        let from_hidden: [f64; 3] = case.of_step(&hidden, feature, lane);
        let [h] = case.of_step(&before, feature, lane);
        let expected = gru(given, from_hidden, h);
        let got: [f64; 3] = case.of_step(&found, feature, lane);
        let scale = given.iter().chain(&from_hidden).map(|x| x.abs()).sum::<f64>();
        for (gate, (got, expected)) in got.into_iter().zip(expected.gates).enumerate() {
            near(&format!("gate {gate}"), got, expected, scale);
        }
        let [got] = case.of_step(&state, feature, lane);
        near("state", got, expected.state, scale + h.abs());
        assert_eq!([[got]; 2], [&got_y, &got_y_again].map(|y| case.of_step(y, feature, lane)));
        assert_eq!([[h], [from_hidden[2]]], [&previous, &hidden_n].map(|x| case.of_step(x, feature, lane)));
    });
}

/// Gates as a step leaves them: σ of normal numbers, and tanh of those of gate `of_tanh`.
fn gates_found<B: Recurrent>(backend: &B, case: &Case, gates: usize, of_tanh: usize) -> Strips<B> {
    let layout = case.all(gates);
    let mut numbers = normals("found", layout.features() * layout.lanes());
    let of_gate = (case.features * layout.lanes()).max(1);
    for (i, x) in numbers.iter_mut().enumerate() {
        *x = if i / of_gate == of_tanh { x.tanh() } else { 1.0 / (1.0 + (-*x).exp()) };
    }
    strips(backend, layout, &numbers)
}

pub fn gru_step_grad<B: Recurrent>(backend: &B, case: Case) {
    let [found, mut gates] = [0, 1].map(|_| gates_found(backend, &case, 3, 2));
    let [dy, previous, hidden_n] = ["dy", "previous", "hidden_n"].map(|name| case.normals(backend, name, case.all(1)));
    let product = case.normals(backend, "product", case.one(1));
    let mut carried = case.normals(backend, "carried", case.one(1));
    let before = read(backend, &carried);
    let (mut hidden, mut all_hidden) = (poisoned(backend, case.one(3)), poisoned(backend, case.all(3)));
    let call = GruStepGrad {
        step: case.step,
        dy: &dy,
        gates: &mut gates,
        previous: &previous,
        hidden_n: &hidden_n,
        product: &product,
        carried: &mut carried,
        hidden: &mut hidden,
        all_hidden: &mut all_hidden,
    };
    backend.gru_step_grad(call).unwrap();
    case.others_are_untouched(backend, Some(&found), &gates);
    case.others_are_untouched(backend, None, &all_hidden);
    if case.steps.count() == 1 {
        read(backend, &gates);
        read(backend, &all_hidden);
    }
    let [found, gates, all_hidden] = [&found, &gates, &all_hidden].map(|x| unpadded(backend, x));
    let [dy, previous, hidden_n] = [&dy, &previous, &hidden_n].map(|x| read(backend, x));
    let [product, carried, hidden] = [&product, &carried, &hidden].map(|x| read(backend, x));
    case.each(|feature, lane| {
        let [[dy], [previous], [hidden_n]] = [&dy, &previous, &hidden_n].map(|x| case.of_step(x, feature, lane));
        let [[product], [left]] = [&product, &before].map(|x| case.of_step(x, feature, lane));
        let expected = gru_grad(case.of_step(&found, feature, lane), hidden_n, previous, dy + product + left);
        let scale = (dy.abs() + product.abs() + left.abs()) * (1.0 + hidden_n.abs() + previous.abs());
        let got: [f64; 3] = case.of_step(&gates, feature, lane);
        let got_hidden: [f64; 3] = case.of_step(&hidden, feature, lane);
        for gate in 0..3 {
            near(&format!("gate {gate}"), got[gate], expected.gates[gate], scale);
            near(&format!("hidden gate {gate}"), got_hidden[gate], expected.hidden[gate], scale);
        }
        assert_eq!(got_hidden, case.of_step(&all_hidden, feature, lane));
        let [got] = case.of_step(&carried, feature, lane);
        near("carried", got, expected.previous, scale);
    });
}

pub fn lstm_step<B: Recurrent>(backend: &B, case: Case) {
    let [mut kept, mut replaced] = [0, 1].map(|_| case.normals(backend, "gates", case.all(4)));
    let hidden = case.normals(backend, "hidden", case.one(4));
    let [mut state, mut state_again] = [0, 1].map(|_| case.normals(backend, "state", case.one(1)));
    let [mut cell, mut cell_again] = [0, 1].map(|_| case.normals(backend, "cell", case.one(1)));
    let (before, before_gates) = ([&state, &cell].map(|x| read(backend, x)), read(backend, &kept));
    let [mut y, mut y_again, mut previous, mut previous_cell] = [0; 4].map(|_| poisoned(backend, case.all(1)));
    let step = case.step;
    let call = LstmStep {
        step,
        gates: &mut kept,
        hidden: &hidden,
        state: &mut state,
        cell: &mut cell,
        y: &mut y,
        saved: None,
    };
    backend.lstm_step(call).unwrap();
    let saved = Some(LstmSaved { previous: &mut previous, previous_cell: &mut previous_cell });
    let call = LstmStep {
        step,
        gates: &mut replaced,
        hidden: &hidden,
        state: &mut state_again,
        cell: &mut cell_again,
        y: &mut y_again,
        saved,
    };
    backend.lstm_step(call).unwrap();
    assert_eq!(read(backend, &kept), before_gates);
    assert_eq!([&state, &cell].map(|x| read(backend, x)), [&state_again, &cell_again].map(|x| read(backend, x)));
    for written in [&y, &y_again, &previous, &previous_cell] {
        case.others_are_untouched(backend, None, written);
        if case.steps.count() == 1 {
            read(backend, written);
        }
    }
    case.others_are_untouched(backend, Some(&kept), &replaced);
    let [found, got_y, got_y_again] = [&replaced, &y, &y_again].map(|x| unpadded(backend, x));
    let [previous, previous_cell] = [previous, previous_cell].map(|x| unpadded(backend, &x));
    let [state, cell, hidden] = [&state, &cell, &hidden].map(|x| read(backend, x));
    case.each(|feature, lane| {
        let given: [f64; 4] = case.of_step(&before_gates, feature, lane);
        let from_hidden: [f64; 4] = case.of_step(&hidden, feature, lane);
        let [[h], [c]] = [&before[0], &before[1]].map(|x| case.of_step(x, feature, lane));
        let expected = lstm(std::array::from_fn(|gate| given[gate] + from_hidden[gate]), c);
        let got: [f64; 4] = case.of_step(&found, feature, lane);
        let scale = given.iter().chain(&from_hidden).map(|x| x.abs()).sum::<f64>() + c.abs();
        for (gate, (got, expected)) in got.into_iter().zip(expected.gates).enumerate() {
            near(&format!("gate {gate}"), got, expected, scale);
        }
        let [[got], [got_cell]] = [&state, &cell].map(|x| case.of_step(x, feature, lane));
        near("state", got, expected.state, scale);
        near("cell", got_cell, expected.cell, scale);
        assert_eq!([[got]; 2], [&got_y, &got_y_again].map(|y| case.of_step(y, feature, lane)));
        assert_eq!([[h], [c]], [&previous, &previous_cell].map(|x| case.of_step(x, feature, lane)));
    });
}

pub fn lstm_step_grad<B: Recurrent>(backend: &B, case: Case) {
    let [found, mut gates] = [0, 1].map(|_| gates_found(backend, &case, 4, 2));
    let [dy, previous_cell] = ["dy", "previous_cell"].map(|name| case.normals(backend, name, case.all(1)));
    let product = case.normals(backend, "product", case.one(1));
    let mut carried = case.normals(backend, "carried", case.one(1));
    let before = read(backend, &carried);
    let mut hidden = poisoned(backend, case.one(4));
    let call = LstmStepGrad {
        step: case.step,
        dy: &dy,
        gates: &mut gates,
        previous_cell: &previous_cell,
        product: &product,
        carried: &mut carried,
        hidden: &mut hidden,
    };
    backend.lstm_step_grad(call).unwrap();
    case.others_are_untouched(backend, Some(&found), &gates);
    if case.steps.count() == 1 {
        read(backend, &gates);
    }
    let [found, gates] = [&found, &gates].map(|x| unpadded(backend, x));
    let [dy, previous_cell] = [&dy, &previous_cell].map(|x| read(backend, x));
    let [product, carried, hidden] = [&product, &carried, &hidden].map(|x| read(backend, x));
    case.each(|feature, lane| {
        let [[dy], [previous]] = [&dy, &previous_cell].map(|x| case.of_step(x, feature, lane));
        let [[product], [left]] = [&product, &before].map(|x| case.of_step(x, feature, lane));
        let (expected, expected_left) = lstm_grad(case.of_step(&found, feature, lane), previous, [dy + product, left]);
        let scale = (dy.abs() + product.abs() + left.abs()) * (1.0 + previous.abs());
        let got: [f64; 4] = case.of_step(&gates, feature, lane);
        for (gate, (got, expected)) in got.into_iter().zip(expected).enumerate() {
            near(&format!("gate {gate}"), got, expected, scale);
        }
        assert_eq!(got, case.of_step(&hidden, feature, lane));
        let [got] = case.of_step(&carried, feature, lane);
        near("carried", got, expected_left, scale);
    });
}

/// Gates that are not finite: NaN stays, infinity is what the functions tend to.
pub fn unusual_gates<B: Recurrent>(backend: &B) {
    let layout = StripLayout::sparse(4, 1);
    let given = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38];
    let step = |gates: &[f32]| {
        let mut gates = strips(backend, layout.with_features(3), gates);
        let hidden = strips(backend, layout.with_features(3), &[0.0; 12]);
        let mut state = strips(backend, layout, &[0.5; 4]);
        let mut y = poisoned(backend, layout);
        let call = GruStep { step: 0, gates: &mut gates, hidden: &hidden, state: &mut state, y: &mut y, saved: None };
        backend.gru_step(call).unwrap();
        read(backend, &y)
    };
    let is_near = |got: &[f32], expected: [f32; 4]| {
        let near = |(got, expected): (&f32, &f32)| (got - expected).abs() <= 4.0 * f32::EPSILON;
        got[0].is_nan() && got[1..].iter().zip(&expected[1..]).all(near)
    };
    // Gate n, with z = σ(−∞) = 0; then gate z, with n = tanh(0) = 0.
    let none = [0.0; 4];
    let y = step(&[none, [f32::NEG_INFINITY; 4], given].concat());
    assert!(is_near(&y, [f32::NAN, 1.0, -1.0, 1.0]), "{y:?}");
    let y = step(&[none, given, none].concat());
    assert!(is_near(&y, [f32::NAN, 0.5, 0.0, 0.5]), "{y:?}");
}

/// A call of an operation on a step's number and all its operands.
type Run<'r, B> = &'r dyn Fn(usize, &mut [Strips<B>]) -> Result<(), String>;

/// Each operand wrong in each way.
pub fn wrong_shapes_are_refused<B: Recurrent>(backend: &B) {
    let steps = Steps::new(StripLayout::sparse(96, 0), 3).unwrap();
    let zeros = |layout: StripLayout| Strips::zeros(backend, layout).unwrap();
    let wrong = |layout: StripLayout| {
        let (lanes, features) = (layout.lanes(), layout.features());
        [
            StripLayout::sparse(lanes, features + 1),
            StripLayout::sparse(lanes + 32, features),
            StripLayout::new(lanes, features, 16).unwrap(),
        ]
        .map(zeros)
        .into_iter()
        .chain([Strips { layout, data: backend.zeros(layout.len() - 1).unwrap() }])
    };
    let check = |name: &str, layouts: &[StripLayout], run: Run<'_, B>| {
        let right = || layouts.iter().map(|&layout| zeros(layout)).collect::<Vec<_>>();
        run(2, &mut right()).unwrap();
        let error = run(3, &mut right()).unwrap_err();
        assert!(error.contains("step is 3; it must be below the number of steps"), "{name}: {error}");
        for place in 0..layouts.len() {
            for wrong in wrong(layouts[place]) {
                let mut operands = right();
                operands[place] = wrong;
                let error = run(1, &mut operands).expect_err(&format!("{name}: operand {place}"));
                assert!(error.starts_with(name) || error.starts_with("steps"), "{name}: {error}");
            }
        }
    };
    let (all, one) = (|gates: usize| steps.all(5 * gates), |gates: usize| steps.one(5 * gates));
    check("gru_step", &[all(3), one(3), one(1), all(1), all(1), all(1)], &|step, operands| {
        let [gates, hidden, state, y, previous, hidden_n] = operands else { unreachable!("six operands") };
        let saved = Some(GruSaved { previous, hidden_n });
        backend.gru_step(GruStep { step, gates, hidden, state, y, saved }).map_err(|e| e.to_string())
    });
    let layouts = [all(1), all(3), all(1), all(1), one(1), one(1), one(3), all(3)];
    check("gru_step_grad", &layouts, &|step, operands| {
        let [dy, gates, previous, hidden_n, product, carried, hidden, all_hidden] = operands else {
            unreachable!("eight operands")
        };
        let call = GruStepGrad { step, dy, gates, previous, hidden_n, product, carried, hidden, all_hidden };
        backend.gru_step_grad(call).map_err(|e| e.to_string())
    });
    check("lstm_step", &[all(4), one(4), one(1), one(1), all(1), all(1), all(1)], &|step, operands| {
        let [gates, hidden, state, cell, y, previous, previous_cell] = operands else { unreachable!("seven operands") };
        let saved = Some(LstmSaved { previous, previous_cell });
        backend.lstm_step(LstmStep { step, gates, hidden, state, cell, y, saved }).map_err(|e| e.to_string())
    });
    check("lstm_step_grad", &[all(1), all(4), all(1), one(1), one(1), one(4)], &|step, operands| {
        let [dy, gates, previous_cell, product, carried, hidden] = operands else { unreachable!("six operands") };
        let call = LstmStepGrad { step, dy, gates, previous_cell, product, carried, hidden };
        backend.lstm_step_grad(call).map_err(|e| e.to_string())
    });
}
