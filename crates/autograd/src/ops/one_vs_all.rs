//! One yes-or-no question for each of very many labels: the last layer of a network and its loss, together, tile by tile.

use std::sync::Arc;

use sparse_kernels::{Activations, Backend, CsrPattern, Precision, StripLayout, Strips};

use crate::error::expect_equal;
use crate::parameters::Parameters;
use crate::storage::Need;
use crate::weights::tiles::RowTile;
use crate::{Arena, Error, Loss, Mode, ParameterId, Tape, Var};

const OP: &str = "one_vs_all";

/// A label and its logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TopLabel {
    /// Number of the label.
    pub label: u32,
    /// Its logit.
    pub logit: f32,
}

/// The labels with the largest logits of each sample, found tile by tile.
#[derive(Debug, Clone, PartialEq)]
pub struct TopLabels {
    count: usize,
    /// Of each sample, the largest logit first, and of equal ones the lower label.
    samples: Vec<Vec<TopLabel>>,
}

impl TopLabels {
    /// The `count` largest of each sample are looked for.
    ///
    /// # Panics
    /// If that is none.
    pub fn new(count: usize) -> Self {
        assert!(count > 0, "at least one label is looked for");
        Self { count, samples: vec![] }
    }

    /// Of each sample, the largest logit first, and of equal ones the lower label. NaN is never among them.
    pub fn samples(&self) -> &[Vec<TopLabel>] {
        &self.samples
    }

    /// Looks through the logits of the labels from `first` on.
    fn offer(&mut self, layout: StripLayout, logits: &[f32], first: usize) {
        self.samples.resize(layout.lanes(), vec![]);
        let width = layout.strip();
        for (strip, logits) in logits.chunks_exact(layout.strip_pitch()).enumerate() {
            let lanes = strip * width..strip * width + layout.lanes_of(strip);
            let of_strip = &mut self.samples[lanes];
            // What a logit must exceed. The labels come in their order, so that of equal ones the lower is there first.
            let bar = |top: &[TopLabel]| top.get(self.count - 1).map_or(f32::NEG_INFINITY, |least| least.logit);
            let mut bars: Vec<f32> = of_strip.iter().map(|top| bar(top)).collect();
            for (label, row) in (first as u32..).zip(logits.chunks_exact(width)) {
                // Seldom any: a loop without branches asks first.
                if !row.iter().zip(&bars).fold(false, |any, (logit, bar)| any | (logit > bar)) {
                    continue;
                }
                for ((&logit, top), bar_of) in row.iter().zip(of_strip.iter_mut()).zip(&mut bars) {
                    if logit > *bar_of {
                        let place = top.partition_point(|other| other.logit >= logit);
                        top.insert(place, TopLabel { label, logit });
                        top.truncate(self.count);
                        *bar_of = bar(top);
                    }
                }
            }
        }
    }
}

/// What the pass over the tiles is to find of a loss.
struct Found<B: Backend> {
    /// Gradients of the input, of all values, of the bias.
    dx: Option<Strips<B>>,
    weight: Option<B::Buffer>,
    bias: Option<B::Buffer>,
    /// That of all logits, which are else never there together.
    dy: Option<Strips<B>>,
}

/// The layer.
#[derive(Clone, Copy)]
struct Layer {
    weight: ParameterId,
    bias: Option<ParameterId>,
}

/// The question that is asked of the logits of a tile.
struct Questions<'q, B: Backend> {
    labels: Option<(&'q CsrPattern, f32, &'q mut B::Buffer)>,
    top: Option<&'q mut TopLabels>,
}

impl<'a, B: Backend> Tape<'a, B> {
    /// The mean over samples of the sum over labels of the binary cross-entropy of `σ(W · x + bias)`, W being a
    /// [`crate::RowTiles`] with a row for each label; sample n has the labels in row n of `labels`, and no others. Logits are made and
    /// used tile by tile and never stored whole, and neither are targets. With `top`, the largest logits of each sample are found
    /// on the way.
    ///
    /// In training mode the same pass takes the place of the last gradients of weight and bias, and computes those of input, weight and bias. With a growth request, the backward pass computes
    /// the logits once more, and holds their gradient whole for the length of the request.
    ///
    /// # Errors
    /// If `weight` is no such weight, the shapes do not fit, or `x` is gone.
    ///
    /// # Cost
    /// `2 · nnz · n` operations, in training three times as many; a pass over `m · n` logits in the cache.
    pub fn one_vs_all(
        &mut self,
        weight: ParameterId,
        bias: Option<ParameterId>,
        x: Var,
        labels: &Arc<CsrPattern>,
        top: Option<&mut TopLabels>,
    ) -> Result<Loss, Error> {
        let storage = self.values.read(OP, x)?;
        let layout = self.values.strip_layout(OP, x)?;
        let (backend, layer, lanes) = (self.backend, Layer { weight, bias }, layout.lanes());
        expect_equal(OP, "lists of labels", lanes, labels.nrows())?;
        let scale = self.share / lanes.max(1) as f32;
        let mut stats = self.arena.take_buffer(backend, 2)?;
        backend.fill(0.0, &mut stats)?;
        let mut found = Found { dx: None, weight: None, bias: None, dy: None };
        let is_training = self.mode() == Mode::Training;
        if is_training {
            let kept = !self.adds && self.shards.is_none();
            found.weight = Some(gradient(backend, self.arena, self.parameters, weight, kept)?);
            found.bias = bias.map(|bias| gradient(backend, self.arena, self.parameters, bias, kept)).transpose()?;
            if self.values.requires_grad(x) {
                let mut dx = self.arena.take_in(backend, Precision::F32, layout)?;
                backend.fill(0.0, &mut dx.data)?;
                found.dx = Some(dx);
            }
        }
        let questions = Questions { labels: Some((labels, scale, &mut stats)), top };
        let input = self.values.activations(storage);
        pass_over_tiles(backend, self.arena, self.parameters, layer, input, questions, &mut found)?;
        // What stands for the loss on the tape: its gradient is of no use, the pass has begun behind it.
        let sign = self.arena.take_in(backend, Precision::F32, layout.with_features(1))?;
        let saved = self.values.save(OP, x, is_training.then_some(Need::Exact));
        let output = self.push_output(OP, x, sign);
        let (labels, made) = (labels.clone(), Some(self.values.storage(output)));
        let parameters: Vec<ParameterId> = [Some(weight), bias].into_iter().flatten().collect();
        let Found { dx, weight: of_weight, bias: of_bias, .. } = found;
        self.push_node(output, made, &parameters, move |pass, sign| {
            pass.release(sign);
            if let Some(dx) = dx {
                let precision = pass.tape.arena.precision();
                let dx = pass.tape.arena.stored_in(backend, precision, dx)?;
                pass.accumulate(x, dx)?;
            }
            if let (Some(bias), Some(gradient)) = (bias, of_bias) {
                pass.gradient_found(bias, gradient)?;
            }
            let gradient = of_weight.expect("a node is one of training");
            if pass.wanted(weight)?.is_none() {
                return pass.gradient_found(weight, gradient);
            }
            let Tape { arena, parameters, values, .. } = &mut *pass.tape;
            arena.give_buffer(backend, gradient);
            let [rows, _] = parameters.weight(OP, weight)?.geometry(backend).size();
            let mut stats = arena.take_buffer(backend, 2)?;
            let dy = arena.take_in(backend, Precision::F32, layout.with_features(rows))?;
            let mut found = Found { dx: None, weight: None, bias: None, dy: Some(dy) };
            let questions = Questions { labels: Some((&*labels, scale, &mut stats)), top: None };
            pass_over_tiles(backend, arena, parameters, layer, values.saved(saved), questions, &mut found)?;
            arena.give_buffer(backend, stats);
            let dy = found.dy.expect("it was given");
            pass.weight_used(weight, std::rc::Rc::new(dy.into()), saved)
        });
        let gradient = match is_training {
            true => {
                let mut sign = self.arena.take_in(backend, Precision::F32, layout.with_features(1))?;
                backend.fill(0.0, &mut sign.data)?;
                Some(self.values.store(sign.into()))
            }
            false => None,
        };
        self.stats.push(Some(stats));
        Ok(Loss { output, gradient, stats: self.stats.len() - 1, lanes })
    }

    /// The labels with the largest logits of each sample, as [`Tape::one_vs_all`] without a loss.
    ///
    /// # Errors
    /// As [`Tape::one_vs_all`].
    ///
    /// # Cost
    /// `2 · nnz · n` operations, and a pass over `m · n` logits.
    pub fn top_labels(
        &mut self,
        weight: ParameterId,
        bias: Option<ParameterId>,
        x: Var,
        top: &mut TopLabels,
    ) -> Result<(), Error> {
        let storage = self.values.read(OP, x)?;
        self.values.strip_layout(OP, x)?;
        let mut found = Found { dx: None, weight: None, bias: None, dy: None };
        let (input, questions) = (self.values.activations(storage), Questions { labels: None, top: Some(top) });
        let layer = Layer { weight, bias };
        pass_over_tiles(self.backend, self.arena, self.parameters, layer, input, questions, &mut found)?;
        self.used(OP, x);
        Ok(())
    }
}

/// A buffer for a parameter's gradient: its own, if no sum stands there that is to be added to.
fn gradient<B: Backend>(
    backend: &B,
    arena: &mut Arena<B>,
    parameters: &mut Parameters<B>,
    id: ParameterId,
    kept: bool,
) -> Result<B::Buffer, Error> {
    let len = backend.len(parameters.get(id).value().values());
    match if kept { parameters.take_gradient(id) } else { None } {
        Some(buffer) if backend.len(&buffer) == len => Ok(buffer),
        _ => Ok(arena.take_buffer(backend, len)?),
    }
}

/// The logits of each tile, what is asked of them, and what is to be found of their gradient.
fn pass_over_tiles<B: Backend>(
    backend: &B,
    arena: &mut Arena<B>,
    parameters: &Parameters<B>,
    Layer { weight, bias }: Layer,
    x: &Activations<B>,
    mut questions: Questions<'_, B>,
    found: &mut Found<B>,
) -> Result<(), Error> {
    let Activations::Strips(strips) = x else { unreachable!("the operation found features by lanes") };
    let w = parameters.weight(OP, weight)?;
    let tiles = w.row_tiles().ok_or_else(|| w.lacks("tiles of rows"))?;
    expect_equal(OP, "rows of X", w.geometry(backend).size()[1], strips.layout.features())?;
    let bias = bias.map(|bias| parameters.vector(OP, bias)).transpose()?;
    for RowTile { rows, entries, weight } in tiles {
        let layout = strips.layout.with_features(rows.len());
        let mut y = Activations::Strips(arena.take_in(backend, Precision::F32, layout)?);
        match bias {
            Some(bias) => {
                let mut part = arena.take_buffer(backend, rows.len())?;
                backend.copy_range(bias, rows.start, &mut part, 0, rows.len())?;
                weight.forward_bias_relu(backend, &part, false, x, &mut y)?;
                arena.give_buffer(backend, part);
            }
            None => weight.forward(backend, x, &mut y)?,
        }
        if let Some(top) = &mut questions.top {
            top.offer(layout, &backend.downloaded(y.data())?, rows.start);
        }
        if let (Some((labels, scale, stats)), Activations::Strips(y)) = (&mut questions.labels, &mut y) {
            backend.label_loss(*scale, rows.start, labels, y, stats)?;
        }
        if let Some(dx) = &mut found.dx {
            let mut of_tile = Activations::Strips(arena.take_in(backend, Precision::F32, dx.layout)?);
            weight.input_grad(backend, &y, &mut of_tile)?;
            backend.add(of_tile.data(), &mut dx.data)?;
            arena.give(backend, of_tile);
        }
        if let Some(gradient) = &mut found.weight {
            let mut of_tile = arena.take_buffer(backend, entries.len())?;
            weight.weight_grad(backend, (&y, x), &mut of_tile, false)?;
            backend.copy_range(&of_tile, 0, gradient, entries.start, entries.len())?;
            arena.give_buffer(backend, of_tile);
        }
        if let (Some(gradient), Activations::Strips(y)) = (&mut found.bias, &y) {
            let mut of_tile = arena.take_buffer(backend, rows.len())?;
            backend.lane_sums(y, &mut of_tile, false)?;
            backend.copy_range(&of_tile, 0, gradient, rows.start, rows.len())?;
            arena.give_buffer(backend, of_tile);
        }
        if let Some(dy) = &mut found.dy {
            let (from, to) = (layout.strip_pitch(), dy.layout.strip_pitch());
            for strip in 0..layout.strips() {
                let at = strip * to + rows.start * layout.strip();
                backend.copy_range(y.data(), strip * from, &mut dy.data, at, from)?;
            }
        }
        arena.give(backend, y);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sparse_kernels::random::Key;
    use sparse_kernels::{
        BsrPattern, CsrPattern, GrowRequest, MatrixRef, PlanOptions, PointwiseLoss, Storage, StripLayout, Strips,
    };

    use super::*;
    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense, normals, random_pattern};
    use crate::{Geometry, GrowthPasses, GrowthRequests, NoReduce, RowTiles, Stored};

    const LABELS: usize = 40;
    const FEATURES: usize = 6;

    fn formats() -> Vec<Stored> {
        let single = random_pattern("w", LABELS, FEATURES, 0.4);
        let blocks = [[16, 1], [2, 4]].map(|size| BsrPattern::from_csr(&single, size).unwrap());
        let blocks = blocks.into_iter().map(|pattern| Stored::Blocks(Arc::new(pattern)));
        [Stored::Dense, Stored::Csr(single)].into_iter().chain(blocks).collect()
    }

    /// The weight with 16 rows a tile, of equal values at equal positions, and a bias.
    fn layer(to: &mut Parameters<sparse_kernels::cpu::Cpu>, stored: &Stored) -> (ParameterId, ParameterId) {
        let cpu = cpu();
        let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: true };
        let geometry = Geometry::Linear { nrows: LABELS, ncols: FEATURES, options };
        let all = normals("w", LABELS * FEATURES);
        let values = match stored {
            Stored::Dense => all,
            Stored::Csr(pattern) => pattern.positions().map(|(r, c)| all[r as usize * FEATURES + c as usize]).collect(),
            Stored::Blocks(pattern) => {
                let mut values = vec![0.0; pattern.nnz()];
                pattern.entries().for_each(|e| values[e.position] = all[e.row * FEATURES + e.column]);
                values
            }
        };
        let values = cpu.uploaded(&values).unwrap();
        let tiles = RowTiles::with_rows(&cpu, geometry, stored.clone(), values, 16).unwrap();
        let weight = to.add_weight("w", Box::new(tiles));
        let bias = to.add_vector("bias", cpu.uploaded(&normals("bias", LABELS)).unwrap());
        (weight, bias)
    }

    fn labels(lanes: usize) -> Arc<CsrPattern> {
        random_pattern("labels", lanes, LABELS, 0.1)
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        for (lanes, stored) in [1, 5, 40].into_iter().flat_map(|lanes| formats().into_iter().map(move |s| (lanes, s))) {
            let mut parameters = Parameters::new();
            let (w, bias) = layer(&mut parameters, &stored);
            let (labels, layout) = (labels(lanes), StripLayout::sparse(lanes, FEATURES));
            let input = normals("x", FEATURES * lanes);
            let report = gradcheck(&cpu(), &mut parameters, (layout, &input), 0.02, |tape, x| {
                Ok(Objective::Loss(tape.one_vs_all(w, Some(bias), x, &labels, None)?))
            })
            .unwrap();
            assert!(report.max_error() < 2e-3, "{stored:?}, {lanes}: {}", report.max_error());
            assert!(report.entries.iter().any(|e| e.name == "w" && e.analytic != 0.0));
        }
    }

    /// Loss and gradients are those of all logits with targets of 0 and 1, the loss as a sum over labels.
    #[test]
    fn it_is_the_pointwise_loss_of_all_logits() {
        let (cpu, lanes) = (cpu(), 5);
        let labels = labels(lanes);
        let layout = StripLayout::sparse(lanes, FEATURES);
        let mut packed = vec![0.0; layout.len()];
        layout
            .pack(MatrixRef::new(&normals("x", FEATURES * lanes), FEATURES, lanes, lanes).unwrap(), &mut packed)
            .unwrap();
        let outputs = layout.with_features(LABELS);
        let mut targets = vec![0.0; outputs.len()];
        labels.positions().for_each(|(sample, label)| targets[outputs.index(label as usize, sample as usize)] = 1.0);
        let mut all = vec![];
        for tiles in [true, false] {
            let mut parameters = Parameters::new();
            let (w, bias) = match tiles {
                true => layer(&mut parameters, &Stored::Dense),
                false => {
                    let w = dense(&mut parameters, "w", LABELS, FEATURES);
                    (w, parameters.add_vector("bias", cpu.uploaded(&normals("bias", LABELS)).unwrap()))
                }
            };
            let mut arena = Arena::new();
            let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
            let x = tape.input(Strips { layout, data: cpu.uploaded(&packed).unwrap() }, true);
            let loss = match tiles {
                true => tape.one_vs_all(w, Some(bias), x, &labels, None).unwrap(),
                false => {
                    let y = tape.apply_bias_relu(w, bias, false, x).unwrap();
                    let targets = tape.input(Strips { layout: outputs, data: cpu.uploaded(&targets).unwrap() }, false);
                    tape.pointwise_loss(PointwiseLoss::BinaryCrossEntropy, y, targets).unwrap()
                }
            };
            tape.backward(&[loss], &mut GrowthRequests::new(), &mut NoReduce).unwrap();
            // That one is a mean over labels.
            let factor = if tiles { 1.0 } else { LABELS as f32 };
            let mut numbers = vec![tape.read_loss(loss).unwrap().mean() * if tiles { 1.0 } else { factor }];
            numbers.extend(tape.gradient(x).unwrap().data().iter().map(|g| g * factor));
            drop(tape);
            for id in [w, bias] {
                numbers.extend(parameters.get(id).gradient().unwrap().iter().map(|g| g * factor));
            }
            all.push(numbers);
        }
        assert_eq!(all[0].len(), all[1].len());
        let far = |(a, b): (&f32, &f32)| (a - b).abs() > 1e-5 * (1.0 + a.abs());
        assert!(!all[0].iter().zip(&all[1]).any(far), "{:?}", all);
    }

    #[test]
    fn the_largest_logits_are_found() {
        let (cpu, lanes) = (cpu(), 37);
        let mut parameters = Parameters::new();
        let (w, bias) = layer(&mut parameters, &Stored::Dense);
        let plain = dense(&mut parameters, "w", LABELS, FEATURES);
        let layout = StripLayout::sparse(lanes, FEATURES);
        let mut packed = vec![0.0; layout.len()];
        layout
            .pack(MatrixRef::new(&normals("x", FEATURES * lanes), FEATURES, lanes, lanes).unwrap(), &mut packed)
            .unwrap();
        let mut arena = Arena::new();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Evaluation);
        let x = tape.input(Strips { layout, data: cpu.uploaded(&packed).unwrap() }, false);
        tape.keep(x);
        let mut top = TopLabels::new(5);
        tape.top_labels(w, Some(bias), x, &mut top).unwrap();
        let mut with_loss = TopLabels::new(5);
        tape.one_vs_all(w, Some(bias), x, &labels(lanes), Some(&mut with_loss)).unwrap();
        assert_eq!(top, with_loss);
        let y = tape.apply_bias_relu(plain, bias, false, x).unwrap();
        let logits = tape.value(y).unwrap().data().to_vec();
        let outputs = layout.with_features(LABELS);
        for (lane, found) in top.samples().iter().enumerate() {
            let mut order: Vec<usize> = (0..LABELS).collect();
            let logit = |label: usize| logits[outputs.index(label, lane)];
            order.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)));
            let labels: Vec<usize> = found.iter().map(|top| top.label as usize).collect();
            assert_eq!(labels, order[..5]);
            assert!(found.iter().all(|top| (top.logit - logit(top.label as usize)).abs() < 1e-5));
        }
        // Equal ones: the lower label.
        let mut equal = TopLabels::new(2);
        equal.offer(StripLayout::sparse(1, 3), &vec![0.5; 3 * 32], 0);
        assert_eq!(equal.samples()[0].iter().map(|top| top.label).collect::<Vec<_>>(), [0, 1]);
    }

    /// Growth finds the same as in a layer whose logits are all there; and a pass in two parts adds up.
    #[test]
    fn growth_and_parts() {
        let (cpu, lanes) = (cpu(), 4);
        let topology = random_pattern("w", LABELS, FEATURES, 0.4);
        let labels = labels(lanes);
        let layout = StripLayout::sparse(lanes, FEATURES);
        let mut packed = vec![0.0; layout.len()];
        layout
            .pack(MatrixRef::new(&normals("x", FEATURES * lanes), FEATURES, lanes, lanes).unwrap(), &mut packed)
            .unwrap();
        let mut parameters = Parameters::new();
        let (w, bias) = layer(&mut parameters, &Stored::Csr(topology.clone()));
        let (whole, _) = layer(&mut parameters, &Stored::Dense);
        let mut arena = Arena::new();
        let mut run = |parameters: &mut Parameters<_>, id, parts: usize, growth: &mut GrowthRequests| {
            for part in 0..parts {
                let share = 1.0 / parts as f32;
                let mut tape = Tape::new(&cpu, &mut arena, parameters, Mode::Training).part(share, part > 0);
                let x = tape.input(Strips { layout, data: cpu.uploaded(&packed).unwrap() }, false);
                let loss = tape.one_vs_all(id, Some(bias), x, &labels, None).unwrap();
                tape.backward(&[loss], growth, &mut NoReduce).unwrap();
            }
            parameters.get(id).gradient().map(|gradient| gradient.to_vec())
        };
        let gradient = run(&mut parameters, whole, 1, &mut GrowthRequests::new()).unwrap();
        let halves = run(&mut parameters, whole, 2, &mut GrowthRequests::new()).unwrap();
        assert!(gradient.iter().zip(&halves).all(|(a, b)| (a - b).abs() < 1e-6));
        let mut growth = GrowthRequests::new();
        let request = GrowRequest { exclude: topology.clone(), count: 9, ties: Key::new(1) };
        growth.add(w, GrowthPasses::One, request);
        assert!(run(&mut parameters, w, 1, &mut growth).is_none());
        let found = growth.take(w).unwrap();
        // The other weight has other logits, so that only positions and order of magnitude can be compared: take its own.
        assert_eq!(found.len(), 9);
        assert!(found.iter().all(|c| !topology.row(c.row as usize).contains(&c.column) && c.score > 0.0));
        assert!(parameters.get(bias).gradient().is_some());
    }

    #[test]
    fn other_weights_are_refused() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let plain = dense(&mut parameters, "w", LABELS, FEATURES);
        let (tiles, _) = layer(&mut parameters, &Stored::Dense);
        let mut arena = Arena::new();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let layout = StripLayout::sparse(3, FEATURES);
        let x = tape.input(Strips { layout, data: cpu.zeros(layout.len()).unwrap() }, false);
        assert!(matches!(tape.one_vs_all(plain, None, x, &labels(3), None), Err(Error::Weight { .. })));
        assert!(matches!(tape.apply(tiles, x), Err(Error::Weight { .. })));
        let error = tape.one_vs_all(tiles, None, x, &labels(4), None).unwrap_err();
        assert!(error.to_string().contains("lists of labels is 4, expected 3"), "{error}");
    }
}
