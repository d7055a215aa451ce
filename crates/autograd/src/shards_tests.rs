//! Tapes over shards, by one worker and by several.

use sparse_kernels::cpu::{Buffer, Cpu};
use sparse_kernels::random::Key;
use sparse_kernels::{Activation, Activations, Candidate, ConvShape, GrowRequest, ImageLayout, StripLayout};

use crate::tests::{
    block_conv, block_sparse, cpu, dense, image_layouts, norm, normals, sparse, sparse_conv, two_shards, two_uses,
};
use crate::{
    Arena, Error, Growth, GrowthPasses, GrowthRequests, Mode, NoReduce, ParameterId, Parameters, Reduce, Shards, SumOf,
    Tape, Tree,
};

/// A layer as a function.
type LayerOf<'a> = &'a dyn Fn(&mut Tape<'_, Cpu>, crate::Var) -> crate::Var;
/// What adds a weight.
type MakeWeight<'a> = &'a dyn Fn(&mut Parameters<Cpu>) -> ParameterId;

/// Small whole numbers: all orders of summation agree.
fn whole(name: &str, len: usize) -> Vec<f32> {
    normals(name, len).iter().map(|x| (2.0 * x).round()).collect()
}

/// Keeps what it is given, for others to add theirs.
#[derive(Default)]
struct Worker {
    sums: Vec<(SumOf, Tree<Buffer>)>,
    tiles: Vec<Vec<Tree<Vec<f32>>>>,
}

impl Reduce<Cpu> for Worker {
    fn sum(&mut self, _: &Cpu, _: &mut Arena<Cpu>, of: SumOf, known: Tree<Buffer>) -> Result<Option<Buffer>, Error> {
        self.sums.push((of, known));
        Ok(None)
    }

    fn grow(&mut self, growth: &Growth<'_, Cpu>) -> Result<Vec<Candidate>, Error> {
        self.tiles.push(growth.tiles().into_iter().map(|rows| growth.tile(rows)).collect::<Result<_, _>>()?);
        Ok(vec![])
    }

    fn add_up(&mut self, known: Tree<Vec<f32>>) -> Result<Vec<f32>, Error> {
        Reduce::<Cpu>::add_up(&mut NoReduce, known)
    }

    fn finish(&mut self, _: &Cpu, _: &mut Arena<Cpu>, _: &mut Parameters<Cpu>) -> Result<(), Error> {
        Ok(())
    }
}

fn meet<T: std::ops::DerefMut<Target = [f32]>>(count: usize, parts: Vec<Tree<T>>) -> Vec<f32> {
    let mut tree = Tree::new(count);
    for (span, part) in parts.into_iter().flat_map(Tree::into_nodes) {
        let add = |mut a: T, b: T| {
            a.iter_mut().zip(b.iter()).for_each(|(a, b)| *a += b);
            Ok::<_, Error>(a)
        };
        tree.insert(span, part, add).unwrap();
    }
    tree.into_root().unwrap().to_vec()
}

/// A network with what there is: an embedding is left to the trainer's tests.
struct Net {
    parameters: Parameters<Cpu>,
    conv: ParameterId,
    first: crate::BatchNormLayer,
    linear: ParameterId,
    bias: ParameterId,
}

const SAMPLES: usize = 3;

impl Net {
    fn new() -> Self {
        let mut parameters = Parameters::new();
        let shape = ConvShape::new(4, 2, [3, 3]).unwrap().with_padding([1, 1]);
        let conv = sparse_conv(&mut parameters, "conv", shape, image_layouts(shape, [3, 3], SAMPLES, 8), 0.5);
        let first = norm(&mut parameters, "first", 4, Activation::Relu);
        let linear = sparse(&mut parameters, "linear", 5, 4, 0.6, true);
        let bias = parameters.add_vector("bias", cpu_zeros(5));
        Self { parameters, conv, first, linear, bias }
    }

    /// Forward and backward of some of `count` shards, layer by layer; their losses.
    fn pass(&mut self, shards: Shards, growth: &mut GrowthRequests, reduce: &mut dyn Reduce<Cpu>) -> Vec<f32> {
        let (cpu, mut arena) = (cpu(), Arena::new());
        let shape = ConvShape::new(4, 2, [3, 3]).unwrap().with_padding([1, 1]);
        let layout = image_layouts(shape, [3, 3], SAMPLES, 8)[0];
        let (own, share) = (shards.own(), 1.0 / shards.count() as f32);
        let labels = vec![1, 0, 4];
        let mut tape = Tape::new(&cpu, &mut arena, &mut self.parameters, Mode::Training).over(shards);
        let mut values = Vec::new();
        for shard in own.clone() {
            let mut x = tape.arena.take_images(&cpu, layout).unwrap();
            layout.pack(&normals(&format!("x{shard}"), SAMPLES * 2 * 9), &mut x.data).unwrap();
            values.push(tape.input(x, false));
        }
        let norm_layout = ImageLayout::new(SAMPLES, 4, [3, 3], 0, 8).unwrap();
        let layers: [LayerOf<'_>; 4] = [
            &|tape, x| tape.apply(self.conv, x).unwrap(),
            &|tape, x| tape.batch_norm(self.first, x, norm_layout).unwrap(),
            &|tape, x| tape.global_avg_pool(x, StripLayout::SPARSE_STRIP).unwrap(),
            &|tape, x| tape.apply_bias_relu(self.linear, self.bias, false, x).unwrap(),
        ];
        for layer in layers {
            for (shard, value) in own.clone().zip(&mut values) {
                tape.shard(shard, share);
                *value = layer(&mut tape, *value);
            }
        }
        let mut losses = Vec::new();
        for (shard, &value) in own.zip(&values) {
            tape.shard(shard, share);
            losses.push(tape.softmax_cross_entropy(value, &labels, SAMPLES, 0.0).unwrap());
        }
        tape.backward(&losses, growth, reduce).unwrap();
        losses.iter().map(|&loss| tape.read_loss(loss).unwrap().sum).collect()
    }

    fn requests(&self) -> GrowthRequests {
        let (cpu, mut growth) = (cpu(), GrowthRequests::new());
        let exclude = self.parameters.pattern(&cpu, self.conv).unwrap().clone();
        growth.add(self.conv, GrowthPasses::One, GrowRequest { exclude, count: 7, ties: Key::new(1) });
        growth.add_dense(self.linear);
        growth
    }
}

fn cpu_zeros(len: usize) -> Buffer {
    use sparse_kernels::Storage;
    cpu().zeros(len).unwrap()
}

/// Whoever computes which shards, gradients, tiles of dense gradients and moments have the same bits.
#[test]
fn workers_together_have_the_bits_of_one() {
    const SHARDS: usize = 5;
    let mut alone = Net::new();
    let mut growth = alone.requests();
    let losses = alone.pass(Shards::all(SHARDS), &mut growth, &mut NoReduce);
    let candidates = growth.take(alone.conv).unwrap();
    assert_eq!(candidates.len(), 7);
    let running = |net: &Net| net.parameters.get(net.first.running).value().values().to_vec();
    assert_eq!(running(&alone), running(&Net::new()), "a tape over shards leaves them as they are");
    for workers in [1, 2, 3, 4, 5] {
        let (mut nets, mut sums, mut tiles) = (Vec::new(), Vec::new(), Vec::new());
        let mut all_losses = Vec::new();
        for worker in 0..workers {
            let (mut net, mut reduce) = (Net::new(), Worker::default());
            let own = worker * SHARDS / workers..(worker + 1) * SHARDS / workers;
            all_losses.extend(net.pass(Shards::some(SHARDS, own), &mut net.requests(), &mut reduce));
            nets.push(net);
            sums.push(reduce.sums);
            tiles.push(reduce.tiles);
        }
        assert_eq!(all_losses, losses);
        let order: Vec<_> = sums[0].iter().map(|(of, _)| *of).collect();
        let net = &nets[0];
        let gradients = [net.bias, net.linear].map(SumOf::Gradient);
        let affine = SumOf::Gradient(net.first.affine);
        let moments = SumOf::Moments(net.first.running);
        assert_eq!(order, [moments, gradients[0], gradients[1], SumOf::DenseGradient(net.linear), affine], "backward");
        let mut columns: Vec<_> = sums.into_iter().map(Vec::into_iter).collect();
        for of in order {
            let parts = columns.iter_mut().map(|sums| sums.next().unwrap());
            let parts: Vec<_> = parts.map(|(other, tree)| (other == of).then_some(tree).unwrap()).collect();
            let (sum, cpu) = (meet(SHARDS, parts), cpu());
            let expected = match of {
                SumOf::Gradient(id) | SumOf::Moments(id) => {
                    alone.parameters.download_gradient(&cpu, id).unwrap().unwrap()
                }
                SumOf::DenseGradient(id) => alone.parameters.download_dense_gradient(&cpu, id).unwrap().unwrap(),
            };
            assert_eq!(sum, expected, "{of:?} of {workers}");
            assert!(sum.iter().any(|&g| g != 0.0));
        }
        let of_conv = tiles.into_iter().map(|mut tiles| tiles.remove(0).remove(0)).collect();
        let gradient = meet(SHARDS, of_conv);
        for Candidate { row, column, score } in &candidates {
            assert_eq!(gradient[*row as usize * 18 + *column as usize].abs(), *score);
        }
    }
}

/// A sum over shards is that over uses, where all orders agree; and so are its best entries.
#[test]
fn shards_are_uses_apart() {
    let cpu = cpu();
    let uses: Vec<_> = (0..3).map(|i| (whole(&format!("x{i}"), 7 * 20), whole(&format!("dy{i}"), 6 * 20))).collect();
    let weights: [MakeWeight<'_>; 3] =
        [&|to| sparse(to, "w", 6, 7, 0.3, true), &|to| block_sparse(to, "w", [6, 7], [4, 2], 0.3), &|to| {
            dense(to, "w", 6, 7)
        }];
    for make in weights {
        let mut parameters = Parameters::new();
        let w = make(&mut parameters);
        two_uses(&mut GrowthRequests::new(), &mut parameters, w, &uses, 20);
        let expected = parameters.download_gradient(&cpu, w).unwrap().unwrap();
        two_shards(&mut GrowthRequests::new(), &mut NoReduce, &mut parameters, w, &uses, 20);
        assert_eq!(parameters.download_gradient(&cpu, w).unwrap().unwrap(), expected);
        let Some(exclude) = parameters.topology(&cpu, w).cloned() else { continue };
        for count in [0, 3, 1000] {
            let request = GrowRequest { exclude: exclude.clone(), count, ties: Key::new(3) };
            let mut growth = GrowthRequests::new();
            growth.add(w, GrowthPasses::One, request.clone());
            two_uses(&mut growth, &mut parameters, w, &uses, 20);
            let expected = growth.take(w).unwrap();
            growth.add(w, GrowthPasses::One, request);
            two_shards(&mut growth, &mut NoReduce, &mut parameters, w, &uses, 20);
            assert_eq!(growth.take(w).unwrap(), expected, "{count}");
        }
    }
}

/// Of convolutions too: strided, in groups, of blocks that span channels of one tap.
#[test]
fn growth_of_convolutions_over_shards_is_that_over_uses() {
    let conv = |outputs, inputs, kernel| ConvShape::new(outputs, inputs, [kernel; 2]).unwrap();
    let same = conv(6, 4, 3).with_padding([1, 1]);
    for (shape, blocks) in [
        (same, None),
        (same, Some([2, 2])),
        (same, Some([4, 1])),
        (conv(5, 3, 3).with_padding([1, 1]).with_stride([2, 2]).unwrap(), None),
        (conv(6, 4, 1), None),
        (same.with_groups(2).unwrap(), None),
    ] {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let layouts = image_layouts(shape, [5, 4], 3, 8);
        let w = match blocks {
            Some(size) => block_conv(&mut parameters, "w", shape, layouts, size),
            None => sparse_conv(&mut parameters, "w", shape, layouts, 0.4),
        };
        let exclude = parameters.topology(&cpu, w).unwrap().clone();
        let request = GrowRequest { exclude, count: 9, ties: Key::new(3) };
        let mut found = Vec::new();
        for over in [false, true] {
            let mut arena = Arena::new();
            let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
            if over {
                tape = tape.over(Shards::all(2));
            }
            let mut seeds = Vec::new();
            for shard in 0..2 {
                if over {
                    tape.shard(shard, 1.0);
                }
                let mut x = tape.arena.take_images(&cpu, layouts[0]).unwrap();
                let pixels = layouts[0].samples() * layouts[0].channels() * 20;
                layouts[0].pack(&whole(&format!("x{shard}"), pixels), &mut x.data).unwrap();
                let x = tape.input(x, false);
                let y = tape.apply(w, x).unwrap();
                let mut dy = tape.arena.take_images(&cpu, layouts[1]).unwrap();
                let [height, width] = layouts[1].size();
                let pixels = layouts[1].samples() * layouts[1].channels() * height * width;
                layouts[1].pack(&whole(&format!("dy{shard}"), pixels), &mut dy.data).unwrap();
                seeds.push((y, Activations::from(dy)));
            }
            let mut growth = GrowthRequests::new();
            growth.add(w, GrowthPasses::One, request.clone());
            tape.backward_from(seeds, &mut growth, &mut NoReduce).unwrap();
            found.push(growth.take(w).unwrap());
        }
        assert_eq!(found[0], found[1], "{shape:?} {blocks:?}");
        assert!(found[0].iter().any(|candidate| candidate.score > 0.0));
    }
}
