//! The parts together, on the CPU backend.

use std::sync::Arc;

use sparse_kernels::cpu::{Buffer, Cpu};
use sparse_kernels::random::Key;
use sparse_kernels::reference;
use sparse_kernels::{
    Activation, Activations, BatchNormOptions, BlockMatrix, Bsr, BsrPattern, Candidate, ConvOptions, ConvShape,
    ConvWeight, CsrPattern, GrowRequest, ImageLayout, MatrixRef, PlanOptions, SparseLinear, SparseMatrix, Storage,
    StripLayout, Strips,
};

use crate::gradcheck::{Objective, gradcheck};
use crate::optim::{Adam, AdamOptions, Sgd, SgdOptions};
use crate::{
    Arena, BatchNormLayer, DenseWeight, Error, Geometry, Growth, GrowthPasses, GrowthRequests, Mode, NoReduce,
    ParameterId, Parameters, Reduce, Shards, SumOf, Tape, Tree,
};

pub(crate) fn cpu() -> Cpu {
    Cpu::new(1, None).unwrap()
}

pub(crate) fn normals(name: &str, len: usize) -> Vec<f32> {
    (0..len as u64).map(|i| Key::new(4).with_name(name).normal(i)).collect()
}

pub(crate) fn random_pattern(name: &str, nrows: usize, ncols: usize, density: f32) -> Arc<CsrPattern> {
    let key = Key::new(4).with_name(name).with_name("pattern");
    let position = |i: usize| ((i / ncols) as u32, (i % ncols) as u32);
    let positions = (0..nrows * ncols).filter(|&i| key.uniform(i as u64) < density).map(position).collect();
    Arc::new(CsrPattern::from_positions(nrows, ncols, positions).unwrap())
}

pub(crate) fn sparse(
    parameters: &mut Parameters<Cpu>,
    name: &str,
    nrows: usize,
    ncols: usize,
    density: f32,
    transpose: bool,
) -> ParameterId {
    let pattern = random_pattern(name, nrows, ncols, density);
    let values = normals(name, pattern.nnz());
    let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose };
    parameters.add_weight(name, Box::new(SparseMatrix::new(&cpu(), pattern, &values, options).unwrap()))
}

pub(crate) fn block_sparse(
    parameters: &mut Parameters<Cpu>,
    name: &str,
    [nrows, ncols]: [usize; 2],
    block_size: [usize; 2],
    density: f32,
) -> ParameterId {
    let blocks = random_pattern(name, nrows.div_ceil(block_size[0]), ncols.div_ceil(block_size[1]), density);
    let pattern = Arc::new(BsrPattern::from_blocks(nrows, ncols, block_size, blocks).unwrap());
    let bsr = Bsr::new(pattern.clone(), normals(name, pattern.nnz())).unwrap();
    let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: true };
    parameters.add_weight(name, Box::new(BlockMatrix::new(&cpu(), pattern, bsr.values(), options).unwrap()))
}

pub(crate) fn dense(parameters: &mut Parameters<Cpu>, name: &str, nrows: usize, ncols: usize) -> ParameterId {
    let cpu = cpu();
    let mut values = cpu.zeros(nrows * ncols).unwrap();
    cpu.upload(&normals(name, nrows * ncols), &mut values).unwrap();
    let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: true };
    let geometry = Geometry::Linear { nrows, ncols, options };
    parameters.add_weight(name, Box::new(DenseWeight::new(&cpu, values, geometry).unwrap()))
}

/// How X and Y of a convolution lie.
pub(crate) fn image_layouts(shape: ConvShape, size: [usize; 2], samples: usize, strip: usize) -> [ImageLayout; 2] {
    let [border_x, border_y] = shape.borders(size).unwrap();
    let output = shape.output_size(size).unwrap();
    let layout = |channels, size, border| ImageLayout::new(samples, channels, size, border, strip).unwrap();
    [layout(shape.in_channels(), size, border_x), layout(shape.out_channels(), output, border_y)]
}

pub(crate) fn sparse_conv(
    parameters: &mut Parameters<Cpu>,
    name: &str,
    shape: ConvShape,
    [x, y]: [ImageLayout; 2],
    density: f32,
) -> ParameterId {
    let pattern = random_pattern(name, shape.rows(), shape.columns(), density);
    let values = normals(name, pattern.nnz());
    let options = ConvOptions { x, y, input_grad: true };
    parameters.add_weight(name, Box::new(ConvWeight::new(&cpu(), pattern, &values, shape, options).unwrap()))
}

pub(crate) fn block_conv(
    parameters: &mut Parameters<Cpu>,
    name: &str,
    shape: ConvShape,
    [x, y]: [ImageLayout; 2],
    block_size: [usize; 2],
) -> ParameterId {
    let cpu = cpu();
    let blocks = random_pattern(name, shape.rows().div_ceil(block_size[0]), shape.columns() / block_size[1], 0.5);
    let pattern = BsrPattern::from_blocks(shape.rows(), shape.columns(), block_size, blocks).unwrap();
    let pattern = Arc::new(pattern.with_taps(shape.taps()).unwrap());
    let bsr = Bsr::new(pattern.clone(), normals(name, pattern.nnz())).unwrap();
    let mut values = cpu.zeros(pattern.nnz()).unwrap();
    cpu.upload(bsr.values(), &mut values).unwrap();
    let geometry = Geometry::Conv { shape, options: ConvOptions { x, y, input_grad: true } };
    parameters.add_weight(name, geometry.blocks(&cpu, pattern, values).unwrap())
}

pub(crate) fn dense_conv(
    parameters: &mut Parameters<Cpu>,
    name: &str,
    shape: ConvShape,
    [x, y]: [ImageLayout; 2],
) -> ParameterId {
    let cpu = cpu();
    let mut values = cpu.zeros(shape.rows() * shape.columns()).unwrap();
    cpu.upload(&normals(name, shape.rows() * shape.columns()), &mut values).unwrap();
    let options = ConvOptions { x, y, input_grad: true };
    parameters.add_weight(name, Box::new(DenseWeight::new(&cpu, values, Geometry::Conv { shape, options }).unwrap()))
}

/// A batch normalisation whose learned parameter has the name.
pub(crate) fn norm(
    parameters: &mut Parameters<Cpu>,
    name: &str,
    channels: usize,
    activation: Activation,
) -> BatchNormLayer {
    let affine = vector(parameters, name, 2 * channels);
    let running = parameters.add_statistics(format!("{name}.running"), cpu().zeros(2 * channels).unwrap());
    BatchNormLayer { affine, running, options: BatchNormOptions::default(), activation }
}

fn vector(parameters: &mut Parameters<Cpu>, name: &str, len: usize) -> ParameterId {
    let cpu = cpu();
    let id = parameters.add_vector(name, cpu.zeros(len).unwrap());
    parameters.upload_values(&cpu, id, &normals(name, len)).unwrap();
    id
}

pub(crate) fn pack(cpu: &Cpu, arena: &mut Arena<Cpu>, layout: StripLayout, from: &[f32]) -> Strips<Cpu> {
    let mut x = arena.take(cpu, layout).unwrap();
    let view = MatrixRef::new(from, layout.features(), layout.lanes(), layout.lanes()).unwrap();
    layout.pack(view, &mut x.data).unwrap();
    x
}

/// A network with all operations: sparse 9 → 8, bias, ReLU, dropout, sparse 8 → 8 twice with the same weights and bias,
/// dense 8 → 4, loss.
struct Network {
    parameters: Parameters<Cpu>,
    first: ParameterId,
    first_bias: ParameterId,
    tied: ParameterId,
    tied_bias: ParameterId,
    last: ParameterId,
}

impl Network {
    fn new() -> Self {
        let mut parameters = Parameters::new();
        let first = sparse(&mut parameters, "first", 8, 9, 0.5, true);
        let first_bias = vector(&mut parameters, "first_bias", 8);
        let tied = sparse(&mut parameters, "tied", 8, 8, 0.3, true);
        let tied_bias = vector(&mut parameters, "tied_bias", 8);
        let last = dense(&mut parameters, "last", 4, 8);
        Self { parameters, first, first_bias, tied, tied_bias, last }
    }

    fn forward(ids: [ParameterId; 5], tape: &mut Tape<'_, Cpu>, x: crate::Var) -> Result<crate::Var, Error> {
        let [first, first_bias, tied, tied_bias, last] = ids;
        let x = tape.apply(first, x)?;
        let x = tape.bias_relu(first_bias, true, x)?;
        let x = tape.dropout(Key::new(8), 0.25, x)?;
        let x = tape.apply(tied, x)?;
        let x = tape.bias_relu(tied_bias, true, x)?;
        let x = tape.apply(tied, x)?;
        let x = tape.bias_relu(tied_bias, false, x)?;
        tape.apply(last, x)
    }

    fn ids(&self) -> [ParameterId; 5] {
        [self.first, self.first_bias, self.tied, self.tied_bias, self.last]
    }
}

#[test]
fn a_network_with_tied_weights_has_the_gradients_of_central_differences() {
    let cpu = cpu();
    let mut network = Network::new();
    let (ids, lanes) = (network.ids(), 3);
    let mut labels = cpu.index_zeros(lanes).unwrap();
    cpu.upload_indices(&[1, 0, 3], &mut labels).unwrap();
    let input = (StripLayout::sparse(lanes, 9), &normals("x", 9 * lanes)[..]);
    let report = gradcheck(&cpu, &mut network.parameters, input, 2e-3, |tape, x| {
        let logits = Network::forward(ids, tape, x)?;
        Ok(Objective::Loss(tape.softmax_cross_entropy(logits, &labels, lanes, 0.1)?))
    })
    .unwrap();
    // A pre-activation may lie within the step of its kink; all others must be right.
    let wrong = report.entries.iter().filter(|e| e.error() > 5e-3).count();
    assert!(wrong * 50 <= report.entries.len(), "{wrong} of {}", report.entries.len());
    let tied = report.entries.iter().filter(|e| e.name == "tied" && e.analytic != 0.0).count();
    assert!(tied > 5, "{tied}");
}

/// Two products of one value are added in its gradient.
#[test]
fn a_value_used_twice_gets_both_gradients() {
    let cpu = cpu();
    let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
    let w = dense(&mut parameters, "w", 2, 3);
    let layout = StripLayout::sparse(4, 3);
    let gradient = |tape: &mut Tape<'_, Cpu>, uses: usize, x: Strips<Cpu>| {
        let x = tape.input(x, true);
        let mut seeds = Vec::new();
        for _ in 0..uses {
            let y = tape.apply(w, x).unwrap();
            let mut seed = Activations::zeros(&cpu, tape.layout(y)).unwrap();
            cpu.fill(1.0, seed.data_mut()).unwrap();
            seeds.push((y, seed));
        }
        tape.backward_from(seeds, &mut GrowthRequests::new(), &mut NoReduce).unwrap();
        tape.gradient(x).unwrap().data()[0]
    };
    let mut results = Vec::new();
    for uses in [1, 2, 3] {
        let x = pack(&cpu, &mut arena, layout, &[1.0; 12]);
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        results.push(gradient(&mut tape, uses, x));
    }
    assert!(
        (results[1] - 2.0 * results[0]).abs() < 1e-5 && (results[2] - 3.0 * results[0]).abs() < 1e-5,
        "{results:?}"
    );
}

fn train_step(cpu: &Cpu, network: &mut Network, arena: &mut Arena<Cpu>, lanes: usize, mode: Mode) -> f32 {
    let x = pack(cpu, arena, StripLayout::sparse(lanes, 9), &normals("x", 9 * lanes));
    let mut labels = cpu.index_zeros(lanes).unwrap();
    cpu.upload_indices(&(0..lanes as u32).map(|i| i % 4).collect::<Vec<_>>(), &mut labels).unwrap();
    let ids = network.ids();
    let mut tape = Tape::new(cpu, arena, &mut network.parameters, mode);
    let x = tape.input(x, false);
    let logits = Network::forward(ids, &mut tape, x).unwrap();
    let loss = tape.softmax_cross_entropy(logits, &labels, lanes, 0.0).unwrap();
    if mode == Mode::Training {
        tape.backward(&[loss], &mut GrowthRequests::new(), &mut NoReduce).unwrap();
    } else {
        assert_eq!(tape.nodes(), 0);
    }
    tape.read_loss(loss).unwrap().mean()
}

#[test]
fn after_the_first_step_nothing_is_allocated() {
    let cpu = cpu();
    for mode in [Mode::Training, Mode::Evaluation] {
        let (mut network, mut arena) = (Network::new(), Arena::new());
        train_step(&cpu, &mut network, &mut arena, 50, mode);
        let after_first = arena.stats();
        let free = arena.free_bytes();
        assert_eq!(free, after_first.allocated_bytes, "everything is back");
        for _ in 0..4 {
            train_step(&cpu, &mut network, &mut arena, 50, mode);
        }
        assert_eq!((arena.stats(), arena.free_bytes()), (after_first, free));
        if mode == Mode::Evaluation {
            // Input, two buffers of width 8 (input and output of a product), logits, statistics.
            assert_eq!(after_first.allocations, 5);
        }
    }
}

#[test]
fn training_learns_with_every_optimizer() {
    let cpu = cpu();
    for adam in [false, true] {
        let (mut network, mut arena) = (Network::new(), Arena::new());
        let parameters = &mut network.parameters;
        let mut optimizer = match adam {
            true => crate::optim::Optimizer::Adam(Adam::new(AdamOptions::default(), &cpu, parameters).unwrap()),
            false => {
                let options = SgdOptions { momentum: 0.9, nesterov: true, weight_decay: 1e-4, decay_vectors: false };
                crate::optim::Optimizer::Sgd(Sgd::new(options, &cpu, parameters).unwrap())
            }
        };
        let first = train_step(&cpu, &mut network, &mut arena, 40, Mode::Evaluation);
        for _ in 0..100 {
            train_step(&cpu, &mut network, &mut arena, 40, Mode::Training);
            optimizer.step(&cpu, &mut network.parameters, 0.02).unwrap();
        }
        let last = train_step(&cpu, &mut network, &mut arena, 40, Mode::Evaluation);
        assert!(last < 0.7 * first, "{first} to {last}");
        assert_eq!(optimizer.steps(), if adam { 100 } else { 0 });
    }
}

#[test]
fn threads_do_not_change_training() {
    let run = |threads| {
        let cpu = Cpu::new(threads, None).unwrap();
        let (mut network, mut arena) = (Network::new(), Arena::new());
        let mut sgd = Sgd::new(SgdOptions::default(), &cpu, &mut network.parameters).unwrap();
        cpu.install(|| {
            for _ in 0..3 {
                train_step(&cpu, &mut network, &mut arena, 5000, Mode::Training);
                sgd.step(&cpu, &mut network.parameters, 0.1).unwrap();
            }
        });
        let values = network.ids().map(|id| network.parameters.download_values(&cpu, id).unwrap());
        values.concat().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn the_first_layer_needs_no_transpose() {
    let cpu = cpu();
    let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
    let w = sparse(&mut parameters, "w", 3, 5, 0.5, false);
    for requires_grad in [false, true] {
        let x = pack(&cpu, &mut arena, StripLayout::sparse(2, 5), &[1.0; 10]);
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, requires_grad);
        let y = tape.apply(w, x).unwrap();
        let seed = Activations::zeros(&cpu, tape.layout(y)).unwrap();
        let result = tape.backward_from(vec![(y, seed)], &mut GrowthRequests::new(), &mut NoReduce);
        assert_eq!(result.is_ok(), !requires_grad, "{result:?}");
    }
}

#[test]
fn evaluation_releases_what_is_used_and_keeps_what_is_asked_for() {
    let cpu = cpu();
    let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
    let w = dense(&mut parameters, "w", 2, 3);
    let x = pack(&cpu, &mut arena, StripLayout::sparse(4, 3), &[1.0; 12]);
    let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Evaluation);
    let x = tape.input(x, true);
    tape.keep(x);
    let y = tape.apply(w, x).unwrap();
    let z = tape.apply(w, x).unwrap();
    let z = tape.take(z).unwrap();
    assert_eq!(tape.value(y).unwrap().data()[..], z.data()[..]);
    assert_eq!(tape.nodes(), 0);
    drop(tape);
    let x = pack(&cpu, &mut arena, StripLayout::sparse(4, 3), &[1.0; 12]);
    let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Evaluation);
    let x = tape.input(x, true);
    let y = tape.apply(w, x).unwrap();
    let refused = tape.apply(w, x);
    assert_eq!(refused, Err(Error::Released { op: "apply", by: "apply" }));
    let seed = Activations::zeros(&cpu, tape.layout(y)).unwrap();
    let refused = tape.backward_from(vec![(y, seed)], &mut GrowthRequests::new(), &mut NoReduce);
    assert!(matches!(refused, Err(Error::Backward { .. })));
}

#[test]
fn a_loss_is_differentiated_once() {
    let cpu = cpu();
    let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
    let w = dense(&mut parameters, "w", 2, 3);
    let labels = cpu.index_zeros(4).unwrap();
    let x = pack(&cpu, &mut arena, StripLayout::sparse(4, 3), &[1.0; 12]);
    let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
    let x = tape.input(x, false);
    let y = tape.apply(w, x).unwrap();
    let loss = tape.softmax_cross_entropy(y, &labels, 4, 0.0).unwrap();
    let mut backward = || tape.backward(&[loss], &mut GrowthRequests::new(), &mut NoReduce);
    assert!(backward().is_ok());
    assert!(matches!(backward(), Err(Error::Backward { .. })));
    drop(tape);
    // Nothing below the loss asks for a gradient.
    let x = pack(&cpu, &mut arena, StripLayout::sparse(4, 2), &[1.0; 8]);
    let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
    let x = tape.input(x, false);
    let loss = tape.softmax_cross_entropy(x, &labels, 4, 0.0).unwrap();
    let result = tape.backward(&[loss], &mut GrowthRequests::new(), &mut NoReduce);
    assert!(matches!(result, Err(Error::Backward { .. })));
}

/// What passed through the hook, and whether it was a gradient at the stored entries.
#[derive(Default)]
pub(crate) struct Recorder(pub Vec<(ParameterId, bool)>);

impl Reduce<Cpu> for Recorder {
    fn sum(&mut self, _: &Cpu, _: &mut Arena<Cpu>, of: SumOf, known: Tree<Buffer>) -> Result<Option<Buffer>, Error> {
        self.0.push((of.parameter(), matches!(of, SumOf::Gradient(_))));
        // As if there were two workers with the same lanes.
        let mut sum = known.into_root().unwrap();
        sum.iter_mut().for_each(|g| *g *= 2.0);
        Ok(Some(sum))
    }

    fn grow(&mut self, growth: &Growth<'_, Cpu>) -> Result<Vec<Candidate>, Error> {
        self.0.push((growth.parameter(), false));
        let mut candidates = NoReduce.grow(growth)?;
        candidates.truncate(1);
        Ok(candidates)
    }

    fn add_up(&mut self, known: Tree<Vec<f32>>) -> Result<Vec<f32>, Error> {
        Reduce::<Cpu>::add_up(&mut NoReduce, known)
    }

    fn finish(&mut self, _: &Cpu, _: &mut Arena<Cpu>, _: &mut Parameters<Cpu>) -> Result<(), Error> {
        Ok(())
    }
}

/// Forward and backward of `W·x₁` and `W·x₂` with given output gradients.
pub(crate) fn two_uses(
    growth: &mut GrowthRequests,
    parameters: &mut Parameters<Cpu>,
    w: ParameterId,
    uses: &[(Vec<f32>, Vec<f32>)],
    lanes: usize,
) {
    uses_over(None, growth, &mut NoReduce, parameters, w, uses, lanes);
}

/// The same, each use being a shard.
pub(crate) fn two_shards(
    growth: &mut GrowthRequests,
    reduce: &mut dyn Reduce<Cpu>,
    parameters: &mut Parameters<Cpu>,
    w: ParameterId,
    uses: &[(Vec<f32>, Vec<f32>)],
    lanes: usize,
) {
    uses_over(Some(Shards::all(uses.len())), growth, reduce, parameters, w, uses, lanes);
}

fn uses_over(
    shards: Option<Shards>,
    growth: &mut GrowthRequests,
    reduce: &mut dyn Reduce<Cpu>,
    parameters: &mut Parameters<Cpu>,
    w: ParameterId,
    uses: &[(Vec<f32>, Vec<f32>)],
    lanes: usize,
) {
    let (cpu, mut arena) = (cpu(), Arena::new());
    let x: Vec<_> = uses.iter().map(|u| pack(&cpu, &mut arena, StripLayout::sparse(lanes, 7), &u.0)).collect();
    let dy: Vec<_> = uses.iter().map(|u| pack(&cpu, &mut arena, StripLayout::sparse(lanes, 6), &u.1)).collect();
    let mut tape = Tape::new(&cpu, &mut arena, parameters, Mode::Training);
    let is_over_shards = shards.is_some();
    if let Some(shards) = shards {
        tape = tape.over(shards);
    }
    let seed = |(shard, (x, dy))| {
        if is_over_shards {
            tape.shard(shard, 1.0);
        }
        let x = tape.input(x, true);
        (tape.apply(w, x).unwrap(), Activations::from(dy))
    };
    let seeds = x.into_iter().zip(dy).enumerate().map(seed).collect();
    tape.backward_from(seeds, growth, reduce).unwrap();
    drop(tape);
    // A sum over shards has become the gradient.
    assert!(is_over_shards || arena.free_bytes() == arena.stats().allocated_bytes, "everything is back");
}

#[test]
fn growth_over_two_uses_is_growth_over_all_their_lanes() {
    let cpu = cpu();
    let mut parameters = Parameters::new();
    let w = sparse(&mut parameters, "w", 6, 7, 0.3, true);
    // Small whole numbers: all orders of summation agree.
    let whole = |name: &str, len| normals(name, len).iter().map(|x| (2.0 * x).round()).collect::<Vec<f32>>();
    let uses = [(whole("x1", 7 * 32), whole("dy1", 6 * 32)), (whole("x2", 7 * 32), whole("dy2", 6 * 32))];
    let exclude = parameters.pattern(&cpu, w).unwrap().clone();
    let (count, ties) = (9, Key::new(3));
    let request = GrowRequest { exclude: exclude.clone(), count, ties };

    let mut growth = GrowthRequests::new();
    growth.add(w, GrowthPasses::One, request.clone());
    two_uses(&mut growth, &mut parameters, w, &uses, 32);
    assert!(parameters.get(w).gradient().is_none(), "no SDDMM where growth is asked for");
    let candidates = growth.take(w).unwrap();
    assert_eq!(candidates.len(), count);
    assert_eq!(growth.take(w), None);

    // Lanes 0..32 of the concatenation are the first use's, lanes 32..64 the second's.
    let join = |a: &[f32], b: &[f32]| -> Vec<f32> {
        a.chunks(32).zip(b.chunks(32)).flat_map(|(a, b)| [a, b].concat()).collect()
    };
    let mut arena = Arena::new();
    let x = pack(&cpu, &mut arena, StripLayout::sparse(64, 7), &join(&uses[0].0, &uses[1].0));
    let dy = pack(&cpu, &mut arena, StripLayout::sparse(64, 6), &join(&uses[0].1, &uses[1].1));
    let expected = cpu.grow(&request, &[(&dy, &x)]).unwrap();
    assert_eq!(candidates, expected);

    // The hook sees candidates or gradient, once, after the last use.
    growth.add(w, GrowthPasses::One, request);
    let mut recorder = Recorder::default();
    two_shards(&mut growth, &mut recorder, &mut parameters, w, &uses, 32);
    assert_eq!(recorder.0, [(w, false)]);
    assert_eq!(growth.take(w).unwrap(), [expected[0]]);
    let mut recorder = Recorder::default();
    two_shards(&mut GrowthRequests::new(), &mut recorder, &mut parameters, w, &uses, 32);
    assert_eq!(recorder.0, [(w, true)]);
    let doubled = parameters.download_gradient(&cpu, w).unwrap().unwrap();
    for (i, (row, column)) in exclude.positions().enumerate() {
        let dot = |(x, dy): &(Vec<f32>, Vec<f32>)| -> f32 {
            (0..32).map(|n| dy[row as usize * 32 + n] * x[column as usize * 32 + n]).sum()
        };
        assert_eq!(doubled[i], 2.0 * uses.iter().map(dot).sum::<f32>());
    }
}

#[test]
fn growth_of_blocks_is_over_the_grid() {
    let cpu = cpu();
    let mut parameters = Parameters::new();
    let w = block_sparse(&mut parameters, "w", [6, 7], [4, 2], 0.3);
    let whole = |name: &str, len| normals(name, len).iter().map(|x| (2.0 * x).round()).collect::<Vec<f32>>();
    let uses = [(whole("x", 7 * 32), whole("dy", 6 * 32))];
    let exclude = parameters.topology(&cpu, w).unwrap().clone();
    assert_eq!([exclude.nrows(), exclude.ncols()], [2, 4]);
    let (count, ties) = (3, Key::new(3));
    let mut growth = GrowthRequests::new();
    let request = GrowRequest { exclude, count, ties };
    growth.add(w, GrowthPasses::One, request.clone());
    two_uses(&mut growth, &mut parameters, w, &uses, 32);
    assert!(parameters.get(w).gradient().is_none());
    let expected = reference::grow_blocks([6, 7], [4, 2], &request, &uses[0].1, &uses[0].0, 32);
    assert_eq!(growth.take(w).unwrap(), expected);
    // Without a part in the loss, all blocks score 0.
    growth.add(w, GrowthPasses::One, request);
    two_uses(&mut growth, &mut parameters, w, &[], 32);
    let candidates = growth.take(w).unwrap();
    assert!(candidates.len() == 3 && candidates.iter().all(|c| c.score == 0.0));
}

/// Blocks move whole, with their slots; newcomers are 0, and padding stays so under every optimizer.
#[test]
fn a_new_pattern_of_blocks_takes_their_values_and_slots_along() {
    let cpu = cpu();
    let mut parameters = Parameters::new();
    // 3 × 5 in blocks of 2 × 4: a grid of 2 × 2, whose last row and column reach beyond the matrix.
    let old = Arc::new(BsrPattern::new(3, 5, [2, 4], vec![0, 1, 2], vec![0, 1]).unwrap());
    let values: Vec<f32> = (1..=16).map(|i| i as f32).collect();
    let bsr = Bsr::new(old.clone(), values.clone()).unwrap();
    let options = PlanOptions { strip: 32, transpose: true };
    let matrix = BlockMatrix::new(&cpu, old.clone(), bsr.values(), options).unwrap();
    let w = parameters.add_weight("w", Box::new(matrix));
    let mut adam =
        Adam::new(AdamOptions { weight_decay: 0.1, ..AdamOptions::default() }, &cpu, &mut parameters).unwrap();
    parameters.upload_slot(&cpu, w, "first_moment", bsr.values()).unwrap();
    let bytes = parameters.bytes(&cpu, w);
    assert_eq!((bytes.values, bytes.slots, bytes.transposed_values, bytes.pattern), (64, 128, 0, 20));
    assert!(bytes.plan > 0);

    // Keeps the block at (1, 1), drops the one at (0, 0), grows (0, 1) and (1, 0).
    let new = Arc::new(CsrPattern::new(2, 2, vec![0, 1, 3], vec![1, 0, 1]).unwrap());
    parameters.replace_pattern(&cpu, w, new.clone(), &[u32::MAX, u32::MAX, 1]).unwrap();
    assert!(Arc::ptr_eq(parameters.topology(&cpu, w).unwrap(), &new));
    assert_eq!(parameters.pattern(&cpu, w), None);
    let mut expected = vec![0.0; 24];
    expected[16] = values[8]; // (2, 4), the only entry of the last block
    assert_eq!(parameters.download_values(&cpu, w).unwrap(), expected);
    assert_eq!(parameters.download_slot(&cpu, w, "first_moment").unwrap(), expected);
    assert_eq!(parameters.download_slot(&cpu, w, "second_moment").unwrap(), [0.0; 24]);

    // What does not fit is refused, and nothing changes.
    assert!(parameters.replace_pattern(&cpu, w, new.clone(), &[0, 1]).is_err());
    assert!(parameters.replace_pattern(&cpu, w, new.clone(), &[0, 1, 3]).is_err());
    assert!(parameters.replace_pattern(&cpu, w, new.clone(), &[0, 1, u32::MAX - 1]).is_err());
    let other = Arc::new(CsrPattern::full(3, 5).unwrap());
    assert!(parameters.replace_pattern(&cpu, w, other, &[u32::MAX; 15]).is_err());
    assert_eq!(parameters.download_values(&cpu, w).unwrap(), expected);

    let mut sgd = Sgd::new(
        SgdOptions { momentum: 0.9, nesterov: true, weight_decay: 0.1, ..SgdOptions::default() },
        &cpu,
        &mut parameters,
    )
    .unwrap();
    let mut arena = Arena::new();
    for step in 0..4 {
        let x = pack(&cpu, &mut arena, StripLayout::sparse(7, 5), &normals("x", 35));
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, true);
        let y = tape.apply(w, x).unwrap();
        let mut seed = Activations::zeros(&cpu, tape.layout(y)).unwrap();
        cpu.fill(1.0, seed.data_mut()).unwrap();
        tape.backward_from(vec![(y, seed)], &mut GrowthRequests::new(), &mut NoReduce).unwrap();
        drop(tape);
        match step % 2 {
            0 => sgd.step(&cpu, &mut parameters, 0.1).unwrap(),
            _ => adam.step(&cpu, &mut parameters, 0.1).unwrap(),
        }
    }
    let pattern = parameters.block_pattern(&cpu, w).unwrap().clone();
    let mut padding = vec![true; pattern.nnz()];
    pattern.entries().for_each(|e| padding[e.position] = false);
    let arrays = ["momentum", "first_moment", "second_moment"].map(|s| parameters.download_slot(&cpu, w, s).unwrap());
    for values in arrays.into_iter().chain([parameters.download_values(&cpu, w).unwrap()]) {
        let zero: Vec<bool> = values.iter().map(|&v| v == 0.0).collect();
        assert_eq!(zero, padding, "padding is 0 and nothing else is");
    }
}

#[test]
fn growth_of_a_parameter_without_part_in_the_loss_falls_to_the_ties() {
    let mut parameters = Parameters::new();
    let w = sparse(&mut parameters, "w", 6, 7, 0.3, true);
    let exclude = Arc::new(CsrPattern::new(6, 7, vec![0; 7], vec![]).unwrap());
    let mut growth = GrowthRequests::new();
    growth.add(w, GrowthPasses::One, GrowRequest { exclude, count: 5, ties: Key::new(3) });
    two_uses(&mut growth, &mut parameters, w, &[], 32);
    let candidates: Vec<Candidate> = growth.take(w).unwrap();
    assert_eq!(candidates.len(), 5);
    assert!(candidates.iter().all(|c| c.score == 0.0));
}

#[test]
fn growth_of_a_dense_parameter_is_refused() {
    let cpu = cpu();
    let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
    let w = dense(&mut parameters, "w", 2, 3);
    let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
    let mut growth = GrowthRequests::new();
    let exclude = Arc::new(CsrPattern::full(2, 3).unwrap());
    growth.add(w, GrowthPasses::One, GrowRequest { exclude, count: 1, ties: Key::new(1) });
    let refused = tape.backward(&[], &mut growth, &mut NoReduce);
    assert!(matches!(refused, Err(Error::Kind { expected: "sparse matrix", .. })));
}

#[test]
fn a_new_pattern_takes_values_and_slots_along() {
    let cpu = cpu();
    let mut parameters = Parameters::new();
    let old = Arc::new(CsrPattern::new(2, 3, vec![0, 2, 3], vec![0, 2, 1]).unwrap());
    let options = PlanOptions { strip: 32, transpose: true };
    let matrix = SparseMatrix::new(&cpu, old, &[1.0, 2.0, 3.0], options).unwrap();
    let w = parameters.add_weight("w", Box::new(matrix));
    Adam::new(AdamOptions::default(), &cpu, &mut parameters).unwrap();
    parameters.upload_slot(&cpu, w, "first_moment", &[10.0, 20.0, 30.0]).unwrap();
    parameters.upload_slot(&cpu, w, "second_moment", &[0.1, 0.2, 0.3]).unwrap();
    let bytes = parameters.bytes(&cpu, w);
    assert_eq!((bytes.values, bytes.transposed_values, bytes.slots, bytes.gradient), (12, 12, 24, 0));

    // Drops (0, 0), keeps (0, 2) and (1, 1), grows (0, 1) and (1, 2): one entry more.
    let new = Arc::new(CsrPattern::new(2, 3, vec![0, 2, 4], vec![1, 2, 1, 2]).unwrap());
    let map = [u32::MAX, 1, 2, u32::MAX];
    parameters.replace_pattern(&cpu, w, new.clone(), &map).unwrap();
    assert!(Arc::ptr_eq(parameters.pattern(&cpu, w).unwrap(), &new));
    assert_eq!(parameters.download_values(&cpu, w).unwrap(), [0.0, 2.0, 3.0, 0.0]);
    assert_eq!(parameters.download_slot(&cpu, w, "first_moment").unwrap(), [0.0, 20.0, 30.0, 0.0]);
    assert_eq!(parameters.download_slot(&cpu, w, "second_moment").unwrap(), [0.0, 0.2, 0.3, 0.0]);
    assert_eq!(parameters.get(w).slots().map(|s| s.0).collect::<Vec<_>>(), ["first_moment", "second_moment"]);
    assert_eq!(parameters.total_bytes(&cpu).transposed_values, 16);

    // The transposed copy is of the new values.
    let mut arena = Arena::new();
    let x = pack(&cpu, &mut arena, StripLayout::sparse(1, 3), &[1.0, 10.0, 100.0]);
    let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
    let x = tape.input(x, true);
    let y = tape.apply(w, x).unwrap();
    assert_eq!((tape.value(y).unwrap().data()[0], tape.value(y).unwrap().data()[32]), (200.0, 30.0));
    let mut seed = Activations::zeros(&cpu, tape.layout(y)).unwrap();
    cpu.upload(&[1.0], seed.data_mut()).unwrap();
    tape.backward_from(vec![(y, seed)], &mut GrowthRequests::new(), &mut NoReduce).unwrap();
    let dx = tape.gradient(x).unwrap();
    assert_eq!([dx.data()[0], dx.data()[32], dx.data()[64]], [0.0, 0.0, 2.0]);
    drop(tape);
    assert_eq!(parameters.download_gradient(&cpu, w).unwrap().unwrap(), [10.0, 100.0, 0.0, 0.0]);

    // What does not fit is refused, and nothing changes.
    assert!(parameters.replace_pattern(&cpu, w, new.clone(), &[0, 1, 2]).is_err());
    assert!(parameters.replace_pattern(&cpu, w, new.clone(), &[0, 1, 2, 4]).is_err());
    let other = Arc::new(CsrPattern::new(3, 3, vec![0, 1, 1, 1], vec![0]).unwrap());
    assert!(parameters.replace_pattern(&cpu, w, other, &[0]).is_err());
    assert_eq!(parameters.download_values(&cpu, w).unwrap(), [0.0, 2.0, 3.0, 0.0]);
    assert!(parameters.get(w).gradient().is_some());
    // Same nnz: the gradient's memory stays, its content is forgotten.
    parameters.replace_pattern(&cpu, w, new, &[0, 1, 2, 3]).unwrap();
    assert!(parameters.get(w).gradient().is_none());
    assert_eq!(parameters.bytes(&cpu, w).gradient, 16);
    parameters.drop_training_state();
    assert_eq!((parameters.bytes(&cpu, w).gradient, parameters.bytes(&cpu, w).slots), (0, 0));
}

#[test]
fn decay_spares_vectors_unless_asked() {
    let cpu = cpu();
    for decay_vectors in [false, true] {
        let mut network = Network::new();
        let options = SgdOptions { weight_decay: 0.5, decay_vectors, ..SgdOptions::default() };
        let mut sgd = Sgd::new(options, &cpu, &mut network.parameters).unwrap();
        assert_eq!(network.parameters.total_bytes(&cpu).slots, 0, "no momentum, no slot");
        // A gradient of zero, so that decay alone acts.
        let mut arena = Arena::new();
        let x = pack(&cpu, &mut arena, StripLayout::sparse(2, 9), &[1.0; 18]);
        let ids = network.ids();
        let before = ids.map(|id| network.parameters.download_values(&cpu, id).unwrap());
        let mut tape = Tape::new(&cpu, &mut arena, &mut network.parameters, Mode::Training);
        let x = tape.input(x, false);
        let y = Network::forward(ids, &mut tape, x).unwrap();
        let seed = Activations::zeros(&cpu, tape.layout(y)).unwrap();
        tape.backward_from(vec![(y, seed)], &mut GrowthRequests::new(), &mut NoReduce).unwrap();
        drop(tape);
        sgd.step(&cpu, &mut network.parameters, 0.5).unwrap();
        for ((id, before), is_vector) in ids.into_iter().zip(before).zip([false, true, false, true, false]) {
            let factor = if is_vector && !decay_vectors { 1.0 } else { 0.75 };
            let after = network.parameters.download_values(&cpu, id).unwrap();
            assert!(after.iter().zip(&before).all(|(a, b)| (a - factor * b).abs() <= 1e-6 * b.abs()));
        }
    }
}

#[test]
fn unknown_slots_and_wrong_lengths_are_refused() {
    let cpu = cpu();
    let mut parameters = Parameters::new();
    let bias = vector(&mut parameters, "bias", 3);
    assert_eq!(parameters.find("bias"), Some(bias));
    assert_eq!(parameters.find("other"), None);
    assert!(matches!(parameters.download_slot(&cpu, bias, "momentum"), Err(Error::Missing { what: "slot", .. })));
    assert!(parameters.upload_values(&cpu, bias, &[1.0; 2]).is_err());
    assert!(parameters.upload_slot(&cpu, bias, "momentum", &[1.0; 4]).is_err());
    let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: true };
    let geometry = Geometry::Linear { nrows: 2, ncols: 3, options };
    assert!(DenseWeight::new(&cpu, cpu.zeros(5).unwrap(), geometry).is_err());
    let foreign = ParameterId(7);
    assert!(matches!(parameters.download_values(&cpu, foreign), Err(Error::Missing { what: "parameter", .. })));
}

/// The gradient added up over passes on different batches is that of all of them together.
#[test]
fn growth_over_several_passes_finds_what_one_pass_over_all_finds() {
    let cpu = cpu();
    let (count, ties) = (7, Key::new(3));
    let use_of = |name: &str| (normals(&format!("x{name}"), 7 * 20), normals(&format!("dy{name}"), 6 * 20));
    let run = |uses: &[&[&str]], passes: &[GrowthPasses]| {
        let mut parameters = Parameters::new();
        let w = sparse(&mut parameters, "w", 6, 7, 0.4, true);
        let exclude = parameters.pattern(&cpu, w).unwrap().clone();
        let mut found = None;
        for (uses, &passes) in uses.iter().zip(passes) {
            let mut growth = GrowthRequests::new();
            growth.add(w, passes, GrowRequest { exclude: exclude.clone(), count, ties });
            let uses: Vec<_> = uses.iter().map(|name| use_of(name)).collect();
            two_uses(&mut growth, &mut parameters, w, &uses, 20);
            let taken = growth.take(w);
            assert_eq!(taken.is_some(), passes != GrowthPasses::More);
            found = taken.or(found);
        }
        found.unwrap()
    };
    let [one, more, last] = [GrowthPasses::One, GrowthPasses::More, GrowthPasses::Last];
    let together = run(&[&["a", "b", "c"]], &[one]);
    let apart = run(&[&["a"], &["b"], &["c"]], &[more, more, last]);
    assert_eq!(together.len(), count);
    for (a, b) in together.iter().zip(&apart) {
        assert_eq!((a.row, a.column), (b.row, b.column));
        assert!((a.score - b.score).abs() < 1e-4 * a.score);
    }
    // A request after the last pass starts over.
    assert_eq!(run(&[&["a"], &["b"]], &[last, last]), run(&[&["b"]], &[last]));
}

/// Of a convolution used twice, the candidates are the largest entries of its dense gradient.
#[test]
fn growth_of_a_convolution_finds_the_largest_gradients() {
    let cpu = cpu();
    let shape = ConvShape::new(3, 3, [3, 3]).unwrap().with_padding([1, 1]);
    let layouts = image_layouts(shape, [4, 4], 9, 8);
    let run = |growing: bool| {
        let mut parameters = Parameters::new();
        let w = match growing {
            true => sparse_conv(&mut parameters, "w", shape, layouts, 0.3),
            false => {
                let sparse = sparse_conv(&mut parameters, "sparse", shape, layouts, 0.0);
                let pattern = random_pattern("w", 3, 27, 0.3);
                let mut whole = vec![0.0; 81];
                for (value, (row, column)) in normals("w", pattern.nnz()).into_iter().zip(pattern.positions()) {
                    whole[(row * 27 + column) as usize] = value;
                }
                assert_eq!(parameters.get(sparse).value().values().len(), 0);
                let dense = dense_conv(&mut parameters, "dense", shape, layouts);
                parameters.upload_values(&cpu, dense, &whole).unwrap();
                dense
            }
        };
        let mut arena = Arena::new();
        let mut x = arena.take_images(&cpu, layouts[0]).unwrap();
        layouts[0].pack(&normals("x", 9 * 3 * 16), &mut x.data).unwrap();
        let mut seed = arena.take_images(&cpu, layouts[1]).unwrap();
        layouts[1].pack(&normals("dy", 9 * 3 * 16), &mut seed.data).unwrap();
        let mut growth = GrowthRequests::new();
        if growing {
            let exclude = parameters.pattern(&cpu, w).unwrap().clone();
            growth.add(w, GrowthPasses::One, GrowRequest { exclude, count: 10, ties: Key::new(1) });
        }
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, false);
        let y = tape.apply(w, x).unwrap();
        let y = tape.apply(w, y).unwrap();
        tape.backward_from(vec![(y, seed.into())], &mut growth, &mut NoReduce).unwrap();
        drop(tape);
        assert_eq!(arena.free_bytes(), arena.stats().allocated_bytes, "everything is back");
        (growth.take(w), parameters.download_gradient(&cpu, w).unwrap())
    };
    let (candidates, none) = run(true);
    assert!(none.is_none(), "no gradient where growth is asked for");
    let gradient = run(false).1.unwrap();
    let pattern = random_pattern("w", 3, 27, 0.3);
    let stored: Vec<_> = pattern.positions().map(|(row, column)| (row * 27 + column) as usize).collect();
    let mut order: Vec<usize> = (0..81).filter(|i| !stored.contains(i)).collect();
    order.sort_by(|&a, &b| gradient[b].abs().total_cmp(&gradient[a].abs()));
    let mut largest = order[..10].to_vec();
    largest.sort_unstable();
    let candidates = candidates.unwrap();
    assert_eq!(candidates.iter().map(|c| (c.row * 27 + c.column) as usize).collect::<Vec<_>>(), largest);
    for (candidate, &i) in candidates.iter().zip(&largest) {
        assert!((candidate.score - gradient[i].abs()).abs() < 1e-3 * gradient[i].abs());
    }
}
