use std::sync::OnceLock;

use sparse_kernels::cpu::Cpu;
use sparse_kernels::random::Key;
use sparse_kernels::{
    Activations, GrowRequest, MatrixMut, MatrixRef, PlanOptions, Steps, Storage, StripLayout, Strips,
};

use super::RecurrentState;
use crate::gradcheck::{Objective, gradcheck};
use crate::tests::{block_sparse, cpu, dense, normals, sparse};
use crate::{
    Arena, DenseWeight, Error, Geometry, GrowthPasses, GrowthRequests, Mode, NoReduce, ParameterId, Parameters, Tape,
    Var,
};

const H: usize = 3;

/// A processor for tapes that live long.
fn device() -> &'static Cpu {
    static CPU: OnceLock<Cpu> = OnceLock::new();
    CPU.get_or_init(cpu)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Gru,
    Lstm,
}

use Kind::{Gru, Lstm};

/// How the recurrent weight is stored.
#[derive(Debug, Clone, Copy)]
enum Format {
    Csr,
    Blocks,
    Dense,
    /// Single entries of a weight whose values are those of all positions.
    Latent,
}

/// A recurrent layer's parameters.
#[derive(Debug, Clone, Copy)]
struct Layer {
    kind: Kind,
    weights: [ParameterId; 2],
    biases: [ParameterId; 2],
}

impl Layer {
    fn new(parameters: &mut Parameters<Cpu>, name: &str, kind: Kind, inputs: usize, format: Format) -> Self {
        let rows = if kind == Gru { 3 * H } else { 4 * H };
        let cpu = cpu();
        let input = match format {
            Format::Dense => dense(parameters, &format!("{name}.ih"), rows, inputs),
            _ => sparse(parameters, &format!("{name}.ih"), rows, inputs, 0.7, true),
        };
        let own = &format!("{name}.hh")[..];
        let hidden = match format {
            Format::Csr => sparse(parameters, own, rows, H, 0.6, true),
            Format::Blocks => block_sparse(parameters, own, [rows, H], [2, 4], 0.7),
            Format::Dense => dense(parameters, own, rows, H),
            Format::Latent => {
                let id = sparse(parameters, own, rows, H, 0.6, true);
                let behind = cpu.uploaded(&normals("behind", rows * H)).unwrap();
                parameters.make_latent(&cpu, id, behind).unwrap();
                id
            }
        };
        let biases = ["b_ih", "b_hh"].map(|bias| {
            let id = parameters.add_vector(format!("{name}.{bias}"), cpu.zeros(rows).unwrap());
            parameters.upload_values(&cpu, id, &normals(bias, rows)).unwrap();
            id
        });
        Self { kind, weights: [input, hidden], biases }
    }

    fn state(&self, steps: &Steps) -> RecurrentState<Cpu> {
        let layout = steps.one(H);
        let mut state = match self.kind {
            Gru => RecurrentState::gru(&cpu(), layout),
            Lstm => RecurrentState::lstm(&cpu(), layout),
        }
        .unwrap();
        let numbers: Vec<f32> = normals("state", state.len()).iter().map(|x| 0.5 * x).collect();
        state.upload(&cpu(), &numbers).unwrap();
        state
    }

    fn run(&self, tape: &mut Tape<'_, Cpu>, x: Var, state: &mut RecurrentState<Cpu>) -> Result<Var, Error> {
        let gates = tape.apply_bias_relu(self.weights[0], self.biases[0], false, x)?;
        match self.kind {
            Gru => tape.gru(self.weights[1], self.biases[1], gates, state),
            Lstm => tape.lstm(self.weights[1], self.biases[1], gates, state),
        }
    }
}

/// Several steps in strips and in a single strip, and a single step of few lanes.
fn windows() -> [Steps; 4] {
    [
        Steps::new(StripLayout::sparse(96, 2), 3).unwrap(),
        Steps::new(StripLayout::sparse(5, 2), 1).unwrap(),
        Steps::new(StripLayout::single(48, 2), 3).unwrap(),
        Steps::new(StripLayout::single(5, 2), 1).unwrap(),
    ]
}

fn pack(layout: StripLayout, from: &[f32]) -> Strips<Cpu> {
    let mut strips = Strips::zeros(&cpu(), layout).unwrap();
    let view = MatrixRef::new(from, layout.features(), layout.lanes(), layout.lanes()).unwrap();
    layout.pack(view, &mut strips.data).unwrap();
    strips
}

fn unpack(x: &Activations<Cpu>) -> Vec<f32> {
    let Activations::Strips(x) = x else { unreachable!("recurrent layers have strips") };
    let layout = x.layout;
    let mut to = vec![0.0f32; layout.features() * layout.lanes()];
    layout
        .unpack(&x.data, MatrixMut::new(&mut to, layout.features(), layout.lanes(), layout.lanes()).unwrap())
        .unwrap();
    to
}

/// Some lanes of row-major numbers.
fn lanes(numbers: &[f32], all: usize, from: usize, count: usize) -> Vec<f32> {
    numbers.chunks_exact(all).flat_map(|row| row[from..][..count].iter().copied()).collect()
}

#[test]
fn gradients_are_those_of_central_differences() {
    for kind in [Gru, Lstm] {
        for format in [Format::Csr, Format::Blocks, Format::Dense, Format::Latent] {
            // Sparse weights are made for strips of 32.
            let is_dense = matches!(format, Format::Dense);
            for steps in windows().into_iter().filter(|steps| is_dense || steps.all(2).strip() == 32) {
                let mut parameters = Parameters::new();
                let layer = Layer::new(&mut parameters, "rnn", kind, 2, format);
                let x = normals("x", 2 * steps.all(2).lanes());
                let report = gradcheck(&cpu(), &mut parameters, (steps.all(2), &x[..]), 0.005, |tape, x| {
                    Ok(Objective::Output(layer.run(tape, x, &mut layer.state(&steps))?))
                })
                .unwrap();
                let worst = report.entries.iter().max_by(|a, b| a.error().total_cmp(&b.error()));
                // Only what takes part of a latent weight changes the output.
                let latent = |e: &&crate::gradcheck::Entry| matches!(format, Format::Latent) && e.name == "rnn.hh";
                let error = report.entries.iter().filter(|e| !latent(e)).map(|e| e.error()).fold(0.0, f64::max);
                assert!(error < 1e-3, "{kind:?} {format:?} {steps:?}: {worst:?}");
                for name in ["rnn.ih", "rnn.hh", "rnn.b_ih", "rnn.b_hh", "input"] {
                    assert!(report.entries.iter().any(|e| e.name == name && e.analytic != 0.0), "{name}");
                }
            }
        }
    }
}

/// Two layers of either kind; and one whose parameters both layers have.
#[test]
fn layers_stand_on_each_other() {
    let steps = Steps::new(StripLayout::sparse(64, 2), 2).unwrap();
    let x = normals("x", 2 * 64);
    for kinds in [[Gru, Lstm], [Lstm, Gru]] {
        let mut parameters = Parameters::new();
        let below = Layer::new(&mut parameters, "below", kinds[0], 2, Format::Csr);
        let above = Layer::new(&mut parameters, "above", kinds[1], H, Format::Blocks);
        let report = gradcheck(&cpu(), &mut parameters, (steps.all(2), &x[..]), 0.005, |tape, x| {
            let y = below.run(tape, x, &mut below.state(&steps))?;
            // Dropout works in place on what the layer below gave.
            let y = tape.dropout(Key::new(1), 0.3, y)?;
            Ok(Objective::Output(above.run(tape, y, &mut above.state(&steps))?))
        });
        assert!(report.unwrap().max_error() < 1e-3, "{kinds:?}");
    }
    for kind in [Gru, Lstm] {
        let mut parameters = Parameters::new();
        let layer = Layer::new(&mut parameters, "tied", kind, H, Format::Csr);
        let x = normals("x", H * 64);
        let report = gradcheck(&cpu(), &mut parameters, (steps.all(H), &x[..]), 0.005, |tape, x| {
            let y = layer.run(tape, x, &mut layer.state(&steps))?;
            Ok(Objective::Output(layer.run(tape, y, &mut layer.state(&steps))?))
        });
        assert!(report.unwrap().max_error() < 1e-3, "{kind:?}");
    }
}

/// The outputs of windows of these numbers of steps, one after the other, and the state at the end.
fn run(
    layer: Layer,
    parameters: &mut Parameters<Cpu>,
    mode: Mode,
    all: StripLayout,
    windows: &[usize],
) -> [Vec<f32>; 2] {
    let total: usize = windows.iter().sum();
    let per_step = all.lanes() / total;
    let x = normals("x", 2 * all.lanes());
    let mut state = layer.state(&Steps::new(all, total).unwrap());
    let (mut arena, mut done) = (Arena::new(), 0);
    let mut outputs = vec![Vec::new(); H];
    for count in windows {
        let part = lanes(&x, all.lanes(), done * per_step, count * per_step);
        let is_single = all.strips() == 1;
        let layout = if is_single { StripLayout::single } else { StripLayout::sparse }(count * per_step, 2);
        let mut tape = Tape::new(device(), &mut arena, parameters, mode);
        let x = tape.input(pack(layout, &part), false);
        let y = layer.run(&mut tape, x, &mut state).unwrap();
        let y = unpack(tape.value(y).unwrap());
        outputs.iter_mut().zip(y.chunks_exact(count * per_step)).for_each(|(to, row)| to.extend_from_slice(row));
        done += count;
    }
    [outputs.concat(), state.download(&cpu()).unwrap()]
}

#[test]
fn windows_one_after_the_other_are_one_long_sequence_in_either_mode() {
    for kind in [Gru, Lstm] {
        let mut parameters = Parameters::new();
        let layer = Layer::new(&mut parameters, "rnn", kind, 2, Format::Csr);
        let all = StripLayout::sparse(4 * 64, 2);
        let expected = run(layer, &mut parameters, Mode::Training, all, &[4]);
        assert!(expected[0].iter().any(|&y| y != 0.0) && expected[1].len() == if kind == Gru { 192 } else { 384 });
        for (mode, windows) in [(Mode::Evaluation, &[4][..]), (Mode::Training, &[2, 1, 1]), (Mode::Evaluation, &[1, 3])]
        {
            assert_eq!(run(layer, &mut parameters, mode, all, windows), expected, "{kind:?} {mode:?} {windows:?}");
        }
        let mut parameters = Parameters::new();
        let layer = Layer::new(&mut parameters, "rnn", kind, 2, Format::Dense);
        let expected = run(layer, &mut parameters, Mode::Training, StripLayout::single(4 * 16, 2), &[4]);
        let got = run(layer, &mut parameters, Mode::Evaluation, StripLayout::single(4 * 16, 2), &[1, 2, 1]);
        // The products of other numbers of lanes round differently.
        let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
        assert!(got.concat().iter().zip(&expected.concat()).all(near), "{kind:?}");
    }
}

/// The state's last h is the output's, and zeros begin a text.
#[test]
fn a_state_moves_to_the_host_and_back() {
    let layout = StripLayout::sparse(5, 2);
    for (mut state, len) in
        [(RecurrentState::gru(device(), layout).unwrap(), 10), (RecurrentState::lstm(device(), layout).unwrap(), 20)]
    {
        assert_eq!((state.len(), state.layout(), state.is_empty()), (len, layout, false));
        assert_eq!(state.download(device()).unwrap(), vec![0.0; len]);
        let numbers: Vec<f32> = (0..len).map(|i| i as f32).collect();
        state.upload(device(), &numbers).unwrap();
        assert_eq!(state.download(device()).unwrap(), numbers);
        assert!(state.upload(device(), &numbers[1..]).is_err());
        state.reset(device()).unwrap();
        assert_eq!(state.download(device()).unwrap(), vec![0.0; len]);
    }
}

/// Requests for both recurrent weights at once: each finds the largest of its dense gradient, which is summed over all steps.
#[test]
fn growth_finds_the_largest_of_the_dense_gradient() {
    let steps = Steps::new(StripLayout::sparse(96, 2), 3).unwrap();
    for format in [Format::Csr, Format::Blocks] {
        let mut parameters = Parameters::new();
        let layers = [("below", Gru, 2), ("above", Lstm, H)]
            .map(|(name, kind, inputs)| Layer::new(&mut parameters, name, kind, inputs, format));
        let pass = |growth: &mut GrowthRequests, parameters: &mut Parameters<Cpu>| {
            let mut arena = Arena::new();
            let mut tape = Tape::new(device(), &mut arena, parameters, Mode::Training);
            let x = tape.input(pack(steps.all(2), &normals("x", 2 * 96)), false);
            let y = layers.iter().fold(x, |x, layer| layer.run(&mut tape, x, &mut layer.state(&steps)).unwrap());
            let seed = pack(steps.all(H), &normals("seed", H * 96)).into();
            tape.backward_from(vec![(y, seed)], growth, &mut NoReduce).unwrap();
        };
        pass(&mut GrowthRequests::new(), &mut parameters);
        let plain = parameters.download_gradient(device(), layers[0].biases[1]).unwrap();
        let weights = layers.map(|layer| layer.weights[1]);
        let request = |parameters: &Parameters<Cpu>, id, count| {
            let exclude = parameters.topology(device(), id).unwrap().clone();
            GrowRequest { exclude, count, ties: Key::new(3) }
        };
        let mut growth = GrowthRequests::new();
        for id in weights {
            growth.add(id, GrowthPasses::One, request(&parameters, id, 2));
        }
        pass(&mut growth, &mut parameters);
        // Others have their gradients, those that grow none.
        assert_eq!(parameters.download_gradient(device(), layers[0].biases[1]).unwrap(), plain);
        let found = weights.map(|id| {
            assert!(parameters.get(id).gradient().is_none());
            growth.take(id).unwrap()
        });
        if matches!(format, Format::Blocks) {
            assert!(found.iter().flatten().all(|candidate| candidate.score > 0.0));
            continue;
        }
        let mut growth = GrowthRequests::new();
        weights.iter().for_each(|&id| growth.add_dense(id));
        pass(&mut growth, &mut parameters);
        for (id, found) in weights.into_iter().zip(found) {
            let gradient = parameters.download_dense_gradient(device(), id).unwrap().unwrap();
            let pattern = parameters.pattern(device(), id).unwrap();
            // At the stored entries it is the gradient.
            let stored = parameters.download_gradient(device(), id).unwrap().unwrap();
            for ((row, column), stored) in pattern.positions().zip(stored) {
                let dense = gradient[row as usize * H + column as usize];
                assert!((dense - stored).abs() <= 1e-4 * (1.0 + stored.abs()), "{dense} {stored}");
            }
            let expected = sparse_kernels::SparseLinear::largest(
                device(),
                &device().uploaded(&gradient).unwrap(),
                &request(&parameters, id, 2),
            )
            .unwrap();
            let places =
                |found: &[sparse_kernels::Candidate]| found.iter().map(|c| (c.row, c.column)).collect::<Vec<_>>();
            assert_eq!(places(&found), places(&expected));
        }
    }
}

/// Buffers of a step, whatever it grows, are those of the step before.
#[test]
fn steps_allocate_nothing_after_the_first() {
    let steps = Steps::new(StripLayout::sparse(96, 2), 3).unwrap();
    for kind in [Gru, Lstm] {
        let mut parameters = Parameters::new();
        let layer = Layer::new(&mut parameters, "rnn", kind, 2, Format::Csr);
        let (mut arena, mut state) = (Arena::new(), layer.state(&steps));
        let mut seen = Vec::new();
        for pass in 0..4 {
            let mut growth = GrowthRequests::new();
            if pass % 2 == 1 {
                let exclude = parameters.topology(device(), layer.weights[1]).unwrap().clone();
                growth.add(layer.weights[1], GrowthPasses::One, GrowRequest { exclude, count: 2, ties: Key::new(3) });
            }
            let x = arena.take(device(), steps.all(2)).unwrap();
            let seed = arena.take(device(), steps.all(H)).unwrap();
            let mut tape = Tape::new(device(), &mut arena, &mut parameters, Mode::Training);
            let x = tape.input(x, false);
            let y = layer.run(&mut tape, x, &mut state).unwrap();
            tape.backward_from(vec![(y, seed.into())], &mut growth, &mut NoReduce).unwrap();
            drop(tape);
            seen.push((arena.stats(), arena.free_bytes()));
        }
        assert_eq!(seen[2], seen[1]);
        assert_eq!(seen[3], seen[1]);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let steps = Steps::new(StripLayout::sparse(96, 2), 3).unwrap();
    let mut parameters = Parameters::new();
    let [gru, lstm] =
        [("gru", Gru), ("lstm", Lstm)].map(|(name, kind)| Layer::new(&mut parameters, name, kind, 2, Format::Csr));
    let conv_options = PlanOptions { strip: 32, transpose: false };
    let geometry = Geometry::Linear { nrows: 3 * H, ncols: H + 1, options: conv_options };
    let wide = DenseWeight::new(device(), device().zeros(3 * H * (H + 1)).unwrap(), geometry).unwrap();
    let wide = parameters.add_weight("wide", Box::new(wide));
    let mut arena = Arena::new();
    let mut tape = Tape::new(device(), &mut arena, &mut parameters, Mode::Training);
    let gates =
        |tape: &mut Tape<'_, Cpu>, features| tape.input(pack(steps.all(features), &vec![0.5; features * 96]), false);
    let (mut of_gru, mut of_lstm) = (gru.state(&steps), lstm.state(&steps));
    let (three, four) = (gates(&mut tape, 3 * H), gates(&mut tape, 4 * H));
    let message = |result: Result<Var, Error>| result.unwrap_err().to_string();
    let (w, b) = (gru.weights[1], gru.biases[1]);
    assert!(message(tape.gru(w, b, three, &mut of_lstm)).contains("long short-term memory"));
    assert!(message(tape.lstm(lstm.weights[1], lstm.biases[1], four, &mut of_gru)).contains("gated recurrent unit"));
    assert!(message(tape.gru(w, b, four, &mut of_gru)).contains("rows of the gates"));
    assert!(message(tape.gru(wide, b, three, &mut of_gru)).contains("rows of X"));
    assert!(message(tape.gru(lstm.weights[1], b, three, &mut of_gru)).contains("rows of the weight"));
    assert!(message(tape.gru(w, lstm.biases[1], three, &mut of_gru)).contains("length of the bias"));
    assert!(message(tape.gru(b, b, three, &mut of_gru)).contains("vector"));
    assert!(message(tape.gru(w, w, three, &mut of_gru)).contains("expected a vector"));
    for layout in [StripLayout::sparse(40, H), StripLayout::new(32, H, 16).unwrap(), StripLayout::sparse(0, H)] {
        let mut state = RecurrentState::gru(device(), layout).unwrap();
        assert!(tape.gru(w, b, three, &mut state).is_err(), "{layout:?}");
    }
    // After all that it still works; then the gates are gone.
    tape.gru(w, b, three, &mut of_gru).unwrap();
    assert_eq!(tape.gru(w, b, three, &mut of_gru), Err(Error::Moved { op: "gru", by: "gru" }));
    let x = gates(&mut tape, H);
    tape.apply(w, x).unwrap();
    let saved = tape.gru(w, b, x, &mut of_gru);
    assert_eq!(saved, Err(Error::Saved { op: "gru", by: "apply" }));
}
