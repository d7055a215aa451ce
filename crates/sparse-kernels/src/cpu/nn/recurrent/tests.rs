use proptest::prelude::*;

use super::super::testing::*;
use super::*;
use crate::StripLayout;
use crate::backend::Steps;
use crate::backend::{GruSaved, LstmSaved};
use crate::testing::recurrent::{self, Case};

proptest! {
    #[test]
    fn steps_agree_with_the_reference(case in recurrent::cases()) {
        for cpu in BACKENDS.iter() {
            recurrent::gru_step(cpu, case);
            recurrent::lstm_step(cpu, case);
        }
    }

    #[test]
    fn gradients_agree_with_the_reference(case in recurrent::cases()) {
        for cpu in BACKENDS.iter() {
            recurrent::gru_step_grad(cpu, case);
            recurrent::lstm_step_grad(cpu, case);
        }
    }
}

/// Several tasks a strip, in parallel.
#[test]
fn wide_layers_agree_with_the_reference() {
    for all in [StripLayout::sparse(3 * 96, 0), StripLayout::single(3 * 96, 0)] {
        let case = Case { features: 333, steps: Steps::new(all, 3).unwrap(), step: 1 };
        for cpu in BACKENDS.iter() {
            recurrent::gru_step(cpu, case);
            recurrent::gru_step_grad(cpu, case);
            recurrent::lstm_step(cpu, case);
            recurrent::lstm_step_grad(cpu, case);
        }
    }
}

#[test]
fn threads_do_not_change_the_result() {
    for all in [StripLayout::sparse(3 * 96, 0), StripLayout::single(3 * 96, 0)] {
        let case = Case { features: 333, steps: Steps::new(all, 3).unwrap(), step: 1 };
        let fill = |name, layout: StripLayout| pack(layout, &normals(name, layout.features() * layout.lanes()));
        same_for_all_threads(|cpu| {
            let (mut gates, hidden) = (fill("gates", case.all(3)), fill("hidden", case.one(3)));
            let (mut state, mut y) = (fill("state", case.one(1)), fill("y", case.all(1)));
            let [mut previous, mut hidden_n] = [0; 2].map(|_| fill("saved", case.all(1)));
            let saved = Some(GruSaved { previous: &mut previous, hidden_n: &mut hidden_n });
            let (gates_at, hidden_at) = (&mut gates, &hidden);
            cpu.gru_step(GruStep { step: 1, gates: gates_at, hidden: hidden_at, state: &mut state, y: &mut y, saved })
                .unwrap();
            [&gates, &state, &y, &previous, &hidden_n].map(|x| &x.data[..]).concat()
        });
        same_for_all_threads(|cpu| {
            let (mut gates, hidden) = (fill("gates", case.all(4)), fill("hidden", case.one(4)));
            let [mut state, mut cell] = ["state", "cell"].map(|name| fill(name, case.one(1)));
            let [mut y, mut previous, mut previous_cell] = [0; 3].map(|_| fill("y", case.all(1)));
            let saved = Some(LstmSaved { previous: &mut previous, previous_cell: &mut previous_cell });
            cpu.lstm_step(LstmStep {
                step: 1,
                gates: &mut gates,
                hidden: &hidden,
                state: &mut state,
                cell: &mut cell,
                y: &mut y,
                saved,
            })
            .unwrap();
            [&gates, &state, &cell, &y, &previous, &previous_cell].map(|x| &x.data[..]).concat()
        });
    }
}

#[test]
fn numbers_that_are_not_finite() {
    BACKENDS.iter().for_each(recurrent::unusual_gates);
}

#[test]
fn wrong_shapes_are_refused() {
    recurrent::wrong_shapes_are_refused(&BACKENDS[0]);
}

#[test]
fn steps_are_whole_runs() {
    let steps = Steps::new(StripLayout::sparse(192, 7), 3).unwrap();
    assert_eq!((steps.one(5), steps.all(5)), (StripLayout::sparse(64, 5), StripLayout::sparse(192, 5)));
    let steps = Steps::new(StripLayout::single(96, 7), 3).unwrap();
    assert_eq!((steps.one(5), steps.lane(2, 0)), (StripLayout::single(32, 5), 64));
    // Any number of lanes makes a single step.
    assert_eq!(Steps::of_lanes(StripLayout::sparse(1, 7), 1).unwrap().one(7), StripLayout::sparse(1, 7));
    for (all, count) in [
        (StripLayout::sparse(96, 7), 0),
        (StripLayout::sparse(0, 7), 1),
        (StripLayout::sparse(96, 7), 5),
        (StripLayout::sparse(96, 7), 2),
        (StripLayout::single(40, 7), 2),
        (StripLayout::single(24, 7), 3),
        (StripLayout::new(96, 7, 64).unwrap(), 3),
    ] {
        assert!(Steps::new(all, count).is_err(), "{all:?} {count}");
    }
    assert!(Steps::of_lanes(StripLayout::sparse(96, 7), 0).is_err());
    assert!(Steps::of_lanes(StripLayout::sparse(96, 7), 36).is_err());
}
