//! A training loop over a network that learns nothing, to drive methods in tests. Every topology change is checked
//! as it is applied.

use std::sync::Arc;

use sparse_kernels::random::Key;
use sparse_kernels::{BackendError, Candidate, CsrPattern};

use crate::method::{GradientNeed, LayerUpdate, Layers, Method, MethodOptions};
use crate::methods::build_method;
use crate::schedule::{DropSchedule, LoopSemantics, ScheduleOptions, UpdateSchedule};
use crate::topology::random_pattern;

/// Three layers with weights and one optimizer slot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Net {
    pub patterns: Vec<Arc<CsrPattern>>,
    pub values: Vec<Vec<f32>>,
    pub slots: Vec<Vec<f32>>,
    pub step: u64,
    pub optimizer_steps: u64,
}

/// What happened in [`Net::run`].
pub(super) struct Record {
    /// The step counter when the topology changed.
    pub updates: Vec<u64>,
    /// How much each iteration advanced the counter.
    pub increments: Vec<u64>,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Updates at steps 2, 5, 8 and 11, of three tenths.
pub(super) fn options(semantics: LoopSemantics) -> MethodOptions {
    let options = ScheduleOptions {
        begin_step: 2,
        end_step: Some(14),
        update_interval: 3,
        drop_fraction: 0.3,
        drop_schedule: DropSchedule::Constant,
        end_inclusive: false,
        semantics,
    };
    MethodOptions { schedule: UpdateSchedule::new(options).unwrap(), seed: 7, growth_batches: 1 }
}

impl Net {
    pub fn new(seed: u64) -> Self {
        let key = Key::new(seed).with_name("net");
        let sizes = [(12, 20, 60), (20, 9, 18), (30, 30, 300)];
        let patterns: Vec<_> = sizes
            .into_iter()
            .zip(NAMES)
            .map(|((nrows, ncols, nnz), name)| {
                Arc::new(random_pattern(nrows, ncols, nnz, key.with_name(name)).unwrap())
            })
            .collect();
        let values: Vec<Vec<f32>> = patterns
            .iter()
            .zip(NAMES)
            .map(|(p, name)| (0..p.nnz() as u64).map(|e| key.with_name(name).with(1).normal(e)).collect())
            .collect();
        let slots = values.iter().map(|v| vec![1.0; v.len()]).collect();
        Self { patterns, values, slots, step: 0, optimizer_steps: 0 }
    }

    /// The schedule of the authors' tests: (begin, end, interval), the end inclusive.
    pub fn schedule(&self, begin: u64, end: u64, interval: u64, semantics: LoopSemantics) -> UpdateSchedule {
        let base = *options(semantics).schedule.options();
        UpdateSchedule::new(ScheduleOptions {
            begin_step: begin,
            end_step: Some(end),
            update_interval: interval,
            end_inclusive: true,
            ..base
        })
        .unwrap()
    }

    /// The dense gradient, which depends on the step but not on the weights.
    pub fn gradient(&self, layer: usize, step: u64, (row, column): (u32, u32)) -> f32 {
        Key::new(99).with(layer as u64).with(step).normal(u64::from(row) << 32 | u64::from(column))
    }

    /// What a backend's growth would find, by sorting everything.
    fn grow(&self, layer: usize, need: &GradientNeed) -> Vec<Candidate> {
        let GradientNeed::Growth { exclude, count, ties } = need else { return vec![] };
        let (nrows, ncols) = (exclude.nrows() as u32, exclude.ncols() as u32);
        let mut all: Vec<Candidate> = (0..nrows)
            .flat_map(|row| (0..ncols).map(move |column| (row, column)))
            .filter(|position| exclude.positions().all(|kept| kept != *position))
            .map(|(row, column)| Candidate { row, column, score: self.gradient(layer, self.step, (row, column)).abs() })
            .collect();
        let hash = |c: &Candidate| ties.bits(u64::from(c.row) * u64::from(ncols) + u64::from(c.column)) as u32;
        all.sort_by(|x, y| y.score.total_cmp(&x.score).then(hash(x).cmp(&hash(y))));
        all.truncate(*count);
        all.sort_by_key(|c| (c.row, c.column));
        all
    }

    fn apply(&mut self, updates: Vec<LayerUpdate>) {
        for LayerUpdate { layer, pattern, map } in updates {
            let old: Vec<_> = self.patterns[layer].positions().collect();
            assert_eq!((pattern.nnz(), map.len()), (old.len(), old.len()), "layer {layer}: the number of weights");
            for (position, &from) in pattern.positions().zip(&map) {
                // Survivors, those dropped and grown again among them, keep weight and slot; others are new.
                assert_eq!(old.binary_search(&position).map_or(u32::MAX, |e| e as u32), from);
            }
            let gather =
                |from: &[f32]| map.iter().map(|&e| if e == u32::MAX { 0.0 } else { from[e as usize] }).collect();
            self.values[layer] = gather(&self.values[layer]);
            self.slots[layer] = gather(&self.slots[layer]);
            self.patterns[layer] = pattern;
        }
    }

    fn optimizer_step(&mut self) {
        for layer in 0..self.len() {
            let positions: Vec<_> = self.patterns[layer].positions().collect();
            for (e, position) in positions.into_iter().enumerate() {
                self.slots[layer][e] = 0.9 * self.slots[layer][e] + self.gradient(layer, self.step, position);
                self.values[layer][e] -= 0.1 * self.slots[layer][e];
            }
        }
        self.optimizer_steps += 1;
    }

    /// Iterates as the page of [`crate::method`] says.
    pub fn run(&mut self, method: &mut dyn Method, iterations: usize) -> Record {
        let mut record = Record { updates: vec![], increments: vec![] };
        for _ in 0..iterations {
            let intent = method.before_gradient(self.step, self).unwrap();
            assert_eq!(intent.needs.len(), self.len());
            let candidates = (0..self.len()).map(|layer| self.grow(layer, &intent.needs[layer])).collect();
            let updates = method.after_gradient(self.step, self, candidates).unwrap();
            if !updates.is_empty() {
                record.updates.push(self.step);
            }
            self.apply(updates);
            if intent.optimizer_step {
                assert!(intent.needs.iter().all(|need| *need == GradientNeed::Sampled));
                self.optimizer_step();
            }
            record.increments.push(u64::from(intent.advance_counter));
            self.step += u64::from(intent.advance_counter);
            if intent.optimizer_step {
                let updates = method.after_optimizer(self.step, self).unwrap();
                if !updates.is_empty() {
                    record.updates.push(self.step);
                }
                self.apply(updates);
            }
        }
        record
    }
}

impl Layers for Net {
    fn len(&self) -> usize {
        self.patterns.len()
    }

    fn name(&self, layer: usize) -> &str {
        NAMES[layer]
    }

    fn pattern(&self, layer: usize) -> &Arc<CsrPattern> {
        &self.patterns[layer]
    }

    fn values(&self, layer: usize) -> Result<Vec<f32>, BackendError> {
        Ok(self.values[layer].clone())
    }
}

#[test]
fn dense_and_static_never_change() {
    for name in ["dense", "static"] {
        let mut net = Net::new(1);
        let before = net.patterns.clone();
        let mut method = build_method(name, &options(LoopSemantics::PAPER)).unwrap();
        assert_eq!(net.run(method.as_mut(), 20).updates, [0; 0]);
        assert_eq!((net.step, net.optimizer_steps), (20, 20));
        assert_eq!(net.patterns, before);
        let state = method.state();
        assert_eq!(method.restore(&state), Ok(()));
    }
}

#[test]
fn training_flops_are_the_papers() {
    let flops = |name| build_method(name, &options(LoopSemantics::PAPER)).unwrap().training_flops(1.0, 10.0);
    assert_eq!(flops("dense"), 30.0);
    assert_eq!(flops("static"), 3.0);
    assert_eq!(flops("set"), 3.0);
    assert_eq!(flops("rigl"), (3.0 * 3.0 + 2.0 + 10.0) / 4.0);
}

#[test]
fn layers_that_drop_nothing_stay() {
    // A fraction of 18 that truncates to nothing, while the other layers lose some.
    let mut options = options(LoopSemantics::PAPER);
    let base = *options.schedule.options();
    options.schedule = UpdateSchedule::new(ScheduleOptions { drop_fraction: 0.05, ..base }).unwrap();
    for name in ["set", "rigl"] {
        let mut net = Net::new(1);
        let before = net.patterns.clone();
        net.run(build_method(name, &options).unwrap().as_mut(), 3);
        assert_ne!(net.patterns[0], before[0]);
        assert!(Arc::ptr_eq(&net.patterns[1], &before[1]));
        assert_ne!(net.patterns[2], before[2]);
    }
}
