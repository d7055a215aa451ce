//! A training loop over a network that learns nothing, to drive methods in tests. Every topology change is checked
//! as it is applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use sparse_kernels::random::Key;
use sparse_kernels::{BackendError, Candidate, CsrPattern, GrowRequest};

use crate::method::{GradientNeed, Layer, LayerUpdate, Layers, Method, MethodError, MethodOptions, WeightStorage};
use crate::methods::{build_method, find_method, method_names};
use crate::schedule::{DropSchedule, LoopSemantics, ScheduleOptions, UpdateSchedule};
use crate::topology::random_pattern;

/// Layers with weights and one optimizer slot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Net {
    pub patterns: Vec<Arc<CsrPattern>>,
    pub values: Vec<Vec<f32>>,
    pub slots: Vec<Vec<f32>>,
    /// What the distribution gives each layer.
    pub targets: Vec<usize>,
    /// Of [`WeightStorage::Latent`]: the weights behind the patterns, and their slots; else empty.
    pub latent: Vec<(Vec<f32>, Vec<f32>)>,
    pub step: u64,
    pub optimizer_steps: u64,
    /// The gradient at the positions of each layer, row by row; random if there is none.
    pub given_gradients: Vec<Vec<f32>>,
    /// How active each layer's rows and columns are; random if there is none.
    pub given_activities: Vec<[Vec<f32>; 2]>,
    /// What the step that runs asks for.
    pub needs: Vec<GradientNeed>,
}

/// What happened in [`Net::run`].
pub(super) struct Record {
    /// The step counter when the topology changed.
    pub updates: Vec<u64>,
    /// How much each iteration advanced the counter.
    pub increments: Vec<u64>,
}

const LEARNING_RATE: f32 = 0.1;

const NAMES: [&str; 3] = ["a", "b", "c"];

/// Updates at steps 2, 5, 8 and 11, of three tenths.
pub(super) fn options(semantics: LoopSemantics) -> MethodOptions {
    let options = ScheduleOptions {
        begin_step: 2,
        end_step: Some(14),
        update_interval: 3,
        drop_fraction: 0.3,
        drop_schedule: DropSchedule::Constant,
        drop_exponent: 3.0,
        end_inclusive: false,
        semantics,
    };
    MethodOptions {
        schedule: UpdateSchedule::new(options).unwrap(),
        seed: 7,
        growth_batches: 1,
        total_steps: 20,
        parameters: BTreeMap::new(),
    }
}

/// The same with a parameter.
pub(super) fn options_with(semantics: LoopSemantics, name: &str, value: &str) -> MethodOptions {
    MethodOptions { parameters: BTreeMap::from([(name.to_owned(), value.to_owned())]), ..options(semantics) }
}

/// What a layer with a worked example has: its pattern and weights.
pub(super) type Example<'a> = (&'a [&'a [u32]], usize, &'a [f32]);

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
        Self::of(patterns, values)
    }

    fn of(patterns: Vec<Arc<CsrPattern>>, values: Vec<Vec<f32>>) -> Self {
        let slots = values.iter().map(|v| vec![1.0; v.len()]).collect();
        let targets = patterns.iter().map(|p| p.nnz()).collect();
        Self {
            patterns,
            values,
            slots,
            targets,
            latent: vec![],
            step: 0,
            optimizer_steps: 0,
            given_gradients: vec![],
            given_activities: vec![],
            needs: vec![],
        }
    }

    /// Layers by hand: of each the columns that each row has, the number of columns, and the weights.
    pub fn by_hand(layers: &[Example<'_>]) -> Self {
        let pattern = |&(rows, ncols, _): &Example<'_>| {
            let row_offsets = (0..=rows.len()).map(|row| rows[..row].iter().map(|r| r.len() as u32).sum()).collect();
            Arc::new(CsrPattern::new(rows.len(), ncols, row_offsets, rows.concat()).unwrap())
        };
        Self::of(layers.iter().map(pattern).collect(), layers.iter().map(|layer| layer.2.to_vec()).collect())
    }

    /// The network as this method has it stored, at its start.
    pub fn stored_for(mut self, method: &dyn Method) -> Self {
        let key = Key::new(3).with_name("stored");
        let normals = |layer: usize, count: usize| {
            (0..count as u64).map(|e| key.with(layer as u64).normal(e)).collect::<Vec<f32>>()
        };
        let storage = method.info().storage;
        for layer in 0..self.len() {
            let (nrows, ncols) = (self.patterns[layer].nrows(), self.patterns[layer].ncols());
            match storage {
                WeightStorage::Sparse | WeightStorage::Dense => {}
                WeightStorage::DenseFirst => {
                    self.patterns[layer] = Arc::new(CsrPattern::full(nrows, ncols).unwrap());
                    self.values[layer] = normals(layer, nrows * ncols);
                    self.slots[layer] = vec![1.0; nrows * ncols];
                }
                WeightStorage::Latent => {
                    self.latent.push((normals(layer, nrows * ncols), vec![1.0; nrows * ncols]));
                    self.show_latent(layer);
                }
            }
        }
        self
    }

    /// The weights in front, from those behind.
    fn show_latent(&mut self, layer: usize) {
        let ncols = self.patterns[layer].ncols();
        let weight = |(row, column): (u32, u32)| self.latent[layer].0[row as usize * ncols + column as usize];
        self.values[layer] = self.patterns[layer].positions().map(weight).collect();
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
    pub fn gradient_at(&self, layer: usize, step: u64, (row, column): (u32, u32)) -> f32 {
        if let Some(given) = self.given_gradients.get(layer) {
            return given[row as usize * self.patterns[layer].ncols() + column as usize];
        }
        Key::new(99).with(layer as u64).with(step).normal(u64::from(row) << 32 | u64::from(column))
    }

    /// What a backend's growth would find, by sorting everything.
    fn grow(&self, layer: usize, need: &GradientNeed) -> Vec<Candidate> {
        if let GradientNeed::Explore(request) = need {
            let sampled = request.sample(&self.activity(layer, 0), &self.activity(layer, 1)).unwrap();
            let scores: Vec<f32> = sampled.positions().map(|p| self.gradient_at(layer, self.step, p)).collect();
            return request.best(&sampled, &scores);
        }
        let GradientNeed::Growth(GrowRequest { exclude, count, ties }) = need else { return vec![] };
        let (nrows, ncols) = (exclude.nrows() as u32, exclude.ncols() as u32);
        let mut all: Vec<Candidate> = (0..nrows)
            .flat_map(|row| (0..ncols).map(move |column| (row, column)))
            .filter(|position| exclude.positions().all(|kept| kept != *position))
            .map(|(row, column)| Candidate {
                row,
                column,
                score: self.gradient_at(layer, self.step, (row, column)).abs(),
            })
            .collect();
        let hash = |c: &Candidate| ties.bits(u64::from(c.row) * u64::from(ncols) + u64::from(c.column)) as u32;
        all.sort_by(|x, y| y.score.total_cmp(&x.score).then(hash(x).cmp(&hash(y))));
        all.truncate(*count);
        all.sort_by_key(|c| (c.row, c.column));
        all
    }

    /// How active rows (0) or columns (1) are: given, or random.
    pub fn activity(&self, layer: usize, axis: usize) -> Vec<f32> {
        if let Some(given) = self.given_activities.get(layer) {
            return given[axis].clone();
        }
        let key = Key::new(98).with(layer as u64).with(self.step).with(axis as u64);
        let len = [self.patterns[layer].nrows(), self.patterns[layer].ncols()][axis] as u64;
        (0..len).map(|i| key.uniform(i)).collect()
    }

    pub fn apply(&mut self, updates: Vec<LayerUpdate>) {
        for LayerUpdate { layer, pattern, map, values } in updates {
            let old: Vec<_> = self.patterns[layer].positions().collect();
            assert_eq!(pattern.nnz(), map.len(), "layer {layer}: the length of the map");
            if !self.latent.is_empty() {
                assert!(values.is_none());
                self.patterns[layer] = pattern;
                self.show_latent(layer);
                continue;
            }
            for (position, &from) in pattern.positions().zip(&map) {
                // Survivors, those dropped and grown again among them, keep weight and slot; others are new.
                assert_eq!(old.binary_search(&position).map_or(u32::MAX, |e| e as u32), from);
            }
            let gather =
                |from: &[f32]| map.iter().map(|&e| if e == u32::MAX { 0.0 } else { from[e as usize] }).collect();
            self.slots[layer] = gather(&self.slots[layer]);
            self.values[layer] = values.unwrap_or_else(|| gather(&self.values[layer]));
            assert_eq!(self.values[layer].len(), pattern.nnz(), "layer {layer}: the number of weights");
            self.patterns[layer] = pattern;
        }
    }

    fn optimizer_step(&mut self) {
        for layer in 0..self.latent.len() {
            let gradient = self.dense_gradient_at(layer);
            let (weights, slots) = &mut self.latent[layer];
            for ((w, slot), g) in weights.iter_mut().zip(slots).zip(gradient) {
                *slot = 0.9 * *slot + g;
                *w -= LEARNING_RATE * *slot;
            }
            self.show_latent(layer);
        }
        for layer in self.latent.len()..self.len() {
            let positions: Vec<_> = self.patterns[layer].positions().collect();
            for (e, position) in positions.into_iter().enumerate() {
                self.slots[layer][e] = 0.9 * self.slots[layer][e] + self.gradient_at(layer, self.step, position);
                self.values[layer][e] -= LEARNING_RATE * self.slots[layer][e];
            }
        }
        self.optimizer_steps += 1;
    }

    fn dense_gradient_at(&self, layer: usize) -> Vec<f32> {
        let (nrows, ncols) = (self.patterns[layer].nrows() as u32, self.patterns[layer].ncols() as u32);
        let positions = (0..nrows).flat_map(|row| (0..ncols).map(move |column| (row, column)));
        positions.map(|position| self.gradient_at(layer, self.step, position)).collect()
    }

    /// Columns of the only row of a layer.
    pub fn columns(&self, layer: usize) -> &[u32] {
        self.patterns[layer].row(0)
    }

    pub fn len(&self) -> usize {
        self.patterns.len()
    }

    pub fn layer(&self, number: usize) -> Layer<'_> {
        (self as &dyn Layers).iter().nth(number).unwrap()
    }

    /// Weights of each layer.
    pub fn counts(&self) -> Vec<usize> {
        self.patterns.iter().map(|p| p.nnz()).collect()
    }

    /// Iterates as the page of [`crate::method`] says.
    pub fn run(&mut self, method: &mut dyn Method, iterations: usize) -> Record {
        let mut record = Record { updates: vec![], increments: vec![] };
        for _ in 0..iterations {
            if self.step == 0 && self.optimizer_steps == 0 {
                let updates = method.start(self).unwrap();
                self.apply(updates);
            }
            let intent = method.before_gradient(self.step, self).unwrap();
            assert_eq!(intent.needs.len(), self.len());
            self.needs = intent.needs.clone();
            let candidates = (0..self.len()).map(|layer| self.grow(layer, &intent.needs[layer])).collect();
            let updates = method.after_gradient(self.step, self, candidates).unwrap();
            if !updates.is_empty() {
                record.updates.push(self.step);
            }
            self.apply(updates);
            if intent.optimizer_step {
                let trains = |need: &GradientNeed| matches!(need, GradientNeed::Sampled | GradientNeed::Dense);
                assert!(intent.needs.iter().all(trains));
                self.optimizer_step();
            }
            record.increments.push(u64::from(intent.advance_counter));
            self.step += u64::from(intent.advance_counter);
            if intent.optimizer_step {
                let updates = method.after_optimizer(self.step, LEARNING_RATE, self).unwrap();
                if !updates.is_empty() {
                    record.updates.push(self.step);
                }
                self.apply(updates);
            }
            self.needs.clear();
        }
        record
    }
}

impl Layers for Net {
    fn numbers(&self) -> &[usize] {
        &[0, 1, 2][..self.len()]
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

    fn target_nnz(&self, layer: usize) -> usize {
        self.targets[layer]
    }

    fn gradient(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        match self.needs.get(layer) {
            Some(GradientNeed::Sampled | GradientNeed::Dense) => {
                Ok(self.patterns[layer].positions().map(|p| self.gradient_at(layer, self.step, p)).collect())
            }
            _ => Err(MethodError::Missing { layer: NAMES[layer].to_owned(), what: "gradient" }),
        }
    }

    fn dense_gradient(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        match self.needs.get(layer) {
            Some(GradientNeed::Dense) => Ok(self.dense_gradient_at(layer)),
            _ => Err(MethodError::Missing { layer: NAMES[layer].to_owned(), what: "dense gradient" }),
        }
    }

    fn latent_values(&self, layer: usize) -> Result<Vec<f32>, MethodError> {
        let missing = || MethodError::Missing { layer: NAMES[layer].to_owned(), what: "latent weights" };
        self.latent.get(layer).map(|(weights, _)| weights.clone()).ok_or_else(missing)
    }
}

#[test]
fn fixed_methods_never_change() {
    for name in ["dense", "static", "lottery"] {
        let mut net = Net::new(1);
        let before = net.patterns.clone();
        let mut method = build_method(name, &options(LoopSemantics::PAPER)).unwrap();
        assert_eq!(net.run(method.as_mut(), 20).updates, [0; 0]);
        assert_eq!((net.step, net.optimizer_steps), (20, 20));
        assert_eq!(net.patterns, before);
    }
}

#[test]
fn training_flops_are_the_papers() {
    let flops = |name| build_method(name, &options(LoopSemantics::PAPER)).unwrap().training_flops(1.0, 10.0);
    assert_eq!(flops("dense"), 30.0);
    for name in ["static", "snip", "set", "deepr", "dsr", "gmp", "lottery"] {
        assert_eq!(flops(name), 3.0, "{name}");
    }
    for name in ["snfs", "dnw"] {
        assert_eq!(flops(name), 12.0, "{name}");
    }
    assert_eq!(flops("rigl"), (3.0 * 3.0 + 2.0 + 10.0) / 4.0);
    let halved = build_method("gse", &options_with(LoopSemantics::PAPER, "gamma", "0.5")).unwrap();
    assert_eq!((flops("gse"), halved.training_flops(1.0, 10.0)), (3.0, (3.0 * 3.0 + 2.5) / 4.0));
}

/// At every step, a run that is interrupted and restored goes on as if nothing had been.
#[test]
fn every_method_resumes_bit_for_bit() {
    for name in method_names() {
        let build = || build_method(name, &options(LoopSemantics::PAPER)).unwrap();
        let start = || Net::new(3).stored_for(build().as_ref());
        let mut whole = start();
        whole.run(build().as_mut(), 20);
        for at in 1..20 {
            let (mut first, mut second, mut net) = (build(), build(), start());
            net.run(first.as_mut(), at);
            let mut state = first.state();
            // As a checkpoint has it: numbers as text, arrays as they are.
            let arrays = std::mem::take(&mut state.arrays);
            let text = serde_json::to_string(&state).unwrap();
            let state = crate::MethodState { arrays, ..serde_json::from_str(&text).unwrap() };
            second.restore(&state).unwrap();
            net.run(second.as_mut(), 20 - at);
            assert_eq!(net, whole, "{name}, interrupted after {at} steps");
        }
        let other = crate::MethodState::new("another", crate::ScheduleState::default());
        let error = build().restore(&other).unwrap_err().to_string();
        assert_eq!(error, format!("cannot restore method {name} from a state of method another"));
    }
}

#[test]
fn seeds_and_only_seeds_make_other_topologies() {
    for name in method_names().filter(|name| ["set", "dsr", "deepr", "gse"].contains(name)) {
        let run = |seed| {
            let mut options = MethodOptions { seed, ..options(LoopSemantics::PAPER) };
            if name == "dsr" {
                // The default is far below the weights of this network.
                options.parameters.insert("threshold".to_owned(), "0.2".to_owned());
            }
            let mut net = Net::new(1);
            net.run(build_method(name, &options).unwrap().as_mut(), 20);
            net.patterns
        };
        assert_eq!(run(1), run(1), "{name}");
        assert_ne!(run(1), run(2), "{name}");
    }
}

#[test]
fn parameters_are_checked_by_name_and_value() {
    for info in crate::methods() {
        let build = |name: &str, value: &str| {
            build_method(info.name, &options_with(LoopSemantics::PAPER, name, value)).map(drop)
        };
        for parameter in info.parameters {
            build(parameter.name, parameter.default).unwrap();
            let error = build(parameter.name, "nonsense").unwrap_err().to_string();
            assert!(error.contains(parameter.name) && error.contains(parameter.rule), "{error}");
        }
        let error = build("nothing", "1").unwrap_err().to_string();
        assert!(error.starts_with(&format!("method {} has no parameter `nothing`", info.name)), "{error}");
        assert!(std::ptr::eq(find_method(info.name).unwrap(), info));
    }
}

#[test]
fn layers_that_drop_nothing_stay() {
    // A fraction of 18 that truncates to nothing, while the other layers lose some.
    let mut options = options(LoopSemantics::PAPER);
    let base = *options.schedule.options();
    options.schedule = UpdateSchedule::new(ScheduleOptions { drop_fraction: 0.05, ..base }).unwrap();
    for name in ["set", "snfs", "rigl", "gse"] {
        let mut net = Net::new(1);
        let before = net.patterns.clone();
        net.run(build_method(name, &options).unwrap().as_mut(), 3);
        assert_ne!(net.patterns[0], before[0], "{name}");
        assert!(Arc::ptr_eq(&net.patterns[1], &before[1]), "{name}");
        assert_ne!(net.patterns[2], before[2], "{name}");
    }
}
