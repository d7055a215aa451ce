use std::sync::Arc;

use super::*;
use sparse_kernels::random::Key;
use sparse_kernels::{Layout, StripLayout};

use crate::checkpoint::{Checkpoint, TensorData};
use crate::first_model::FirstModel;
use crate::method::Method;
use crate::models::{Architecture, Format, ModelName, Network, StoredModel};
use crate::settings::TrainConfig;
use ranks::local::local_ranks;
use ranks::{Ranks, Transport};
use sparse_kernels::cpu::Cpu;

fn strips(layout: Layout) -> StripLayout {
    match layout {
        Layout::Strips(layout) => layout,
        Layout::Images(_) => unreachable!("the networks here are multi-layer perceptrons"),
    }
}

fn trainer<'b>(cpu: &'b Cpu, config: &TrainConfig, total_steps: u64) -> Trainer<'b, Cpu> {
    let first = FirstModel::of(config, &Architecture::of(&config.model), None).unwrap();
    config.trainer(cpu, first.network(cpu, config, 50).unwrap(), total_steps).unwrap()
}

fn config(method: &str) -> TrainConfig {
    let model = "20-30-10".parse().unwrap();
    let method = crate::method::Method::named(method);
    let density = if method.is_dense() { 1.0 } else { 0.3 };
    TrainConfig { model, method, density, update_interval: 3, steps: Some(20), ..TrainConfig::default() }
}

/// Fixed pseudo-random pictures, whose class is their brightest quarter.
fn batch(layout: StripLayout, index: u64) -> (Vec<f32>, Vec<u32>) {
    let key = Key::new(9).with(index);
    let mut images = vec![0.0; layout.len()];
    let labels = (0..layout.lanes()).map(|n| (key.with_name("label").bits(n as u64) % 10) as u32);
    let labels: Vec<_> = labels.collect();
    for (n, &label) in labels.iter().enumerate() {
        for f in 0..layout.features() {
            let bright = if f / 2 == label as usize { 2.0 } else { 0.0 };
            images[layout.index(f, n)] = key.normal((n * layout.features() + f) as u64) * 0.3 + bright;
        }
    }
    (images, labels)
}

fn topology(trainer: &Trainer<'_, Cpu>, cpu: &Cpu) -> Vec<sparse_kernels::CsrPattern> {
    let Network { parameters, body, .. } = &trainer.network;
    body.layers.iter().filter_map(|l| parameters.topology(cpu, l.weight).map(|t| (**t).clone())).collect()
}

/// In weights and slots.
fn assert_padding_is_zero(trainer: &Trainer<'_, Cpu>, cpu: &Cpu) {
    let parameters = &trainer.network.parameters;
    for layer in &trainer.network.body.layers {
        let Some(pattern) = parameters.block_pattern(cpu, layer.weight) else { continue };
        let slots = trainer.optimizer.slots().iter().map(|s| parameters.download_slot(cpu, layer.weight, s).unwrap());
        for mut values in slots.chain([parameters.download_values(cpu, layer.weight).unwrap()]) {
            assert!(values.iter().any(|&v| v != 0.0));
            pattern.entries().for_each(|e| values[e.position] = 0.0);
            assert!(values.iter().all(|&v| v == 0.0), "padding of {} holds numbers", layer.name);
        }
    }
}

/// An update moves blocks whole, by their norms, and new ones start at zero.
#[test]
fn new_blocks_start_at_zero() {
    for method in ["set", "rigl"] {
        let format = Format::Bsr([2, 4]);
        let (cpu, config) = (Cpu::new(1, None).unwrap(), TrainConfig { format, ..config(method) });
        let mut trainer = trainer(&cpu, &config, 40);
        let layout = StripLayout::sparse(10, 20);
        let (images, labels) = batch(layout, 0);
        let read = |trainer: &Trainer<'_, Cpu>| {
            let parameters = &trainer.network.parameters;
            let read = |l: &crate::models::Layer| {
                let pattern = parameters.block_pattern(&cpu, l.weight)?.clone();
                let slot = parameters.download_slot(&cpu, l.weight, "momentum").unwrap();
                Some((pattern, parameters.download_values(&cpu, l.weight).unwrap(), slot))
            };
            trainer.network.body.layers.iter().filter_map(read).collect::<Vec<_>>()
        };
        let (mut grown, mut moved) = (0, 0);
        for _ in 0..12 {
            let before = read(&trainer);
            if trainer.train_batch(layout, &images, &labels).unwrap().optimizer_stepped {
                continue;
            }
            for ((old, old_values, old_slot), (new, values, slot)) in before.iter().zip(read(&trainer)) {
                let place = |position| old.blocks().positions().position(|p| p == position);
                let norms = old.block_norms(old_values).unwrap();
                let mut kept = vec![false; old.nnz_blocks()];
                for (block, position) in new.blocks().positions().enumerate() {
                    let (from, part) = (place(position), block * 8..block * 8 + 8);
                    let expected = |all: &[f32]| from.map_or(vec![0.0; 8], |b| all[b * 8..b * 8 + 8].to_vec());
                    assert_eq!(values[part.clone()], expected(old_values));
                    assert_eq!(slot[part], expected(old_slot));
                    from.map_or_else(|| grown += 1, |b| kept[b] = true);
                    moved += usize::from(from.is_some_and(|b| b != block));
                }
                // Smaller than what is gone is only what was dropped, too, and grown again: of three tenths at most.
                let of = |is_kept: bool| norms.iter().zip(&kept).filter(move |(_, k)| **k == is_kept);
                let largest_gone = of(false).map(|(n, _)| *n).fold(0.0, f32::max);
                let regrown = of(true).filter(|(n, _)| **n < largest_gone).count();
                assert!(10 * regrown <= 3 * old.nnz_blocks(), "{regrown} of {}", old.nnz_blocks());
            }
        }
        assert!(grown > 0 && moved > 0, "{method}: {grown} grown, {moved} moved");
    }
}

/// Every method on every storage that it knows learns, ends with the weights that it is to have, and goes on from a
/// checkpoint at any step as it went.
#[test]
fn every_method_learns_and_goes_on_from_checkpoints() {
    // Neither side of these blocks divides all layers' sizes.
    for (info, format) in rigl::methods().flat_map(|info| [(info, Format::Csr), (info, Format::Bsr([4, 8]))]) {
        if info.needs_ticket || format != Format::Csr && (!info.blocks || info.storage != rigl::WeightStorage::Sparse) {
            continue;
        }
        let (cpu, mut config) = (Cpu::new(1, None).unwrap(), TrainConfig { format, ..config(info.name) });
        if format != Format::Csr {
            // Few blocks leave some inputs out, and with them what tells a class.
            config.density = 0.6;
        }
        let label = format!("{} {format}", info.name);
        let mut trainer = trainer(&cpu, &config, 60);
        let layout = strips(trainer.network.body.input_layout(50));
        let first_topology = topology(&trainer, &cpu);
        let targets: usize = trainer.network.body.layers.iter().map(|layer| layer.target_nnz).sum();
        let mut checkpoints = vec![];
        let mut losses = vec![];
        for i in 0..60 {
            checkpoints.push(trainer.checkpoint(None).unwrap());
            let (images, labels) = batch(layout, i);
            losses.push(trainer.train_batch(layout, &images, &labels).unwrap().training.loss());
        }
        assert!(losses[59] < 0.5 * losses[0], "{label}: {losses:?}");
        assert_eq!(trainer.network.cost(&cpu).nnz, targets, "{label}");
        let changes = info.updates != rigl::UpdateTimes::Never || info.storage == rigl::WeightStorage::DenseFirst;
        assert_eq!(topology(&trainer, &cpu) != first_topology, changes, "{label}");
        assert_padding_is_zero(&trainer, &cpu);
        let (images, labels) = batch(layout, 99);
        assert!(trainer.evaluate_batch(layout, &images, &labels).unwrap().correct > 35, "{label}");

        let end = trainer.checkpoint(None).unwrap().to_bytes().unwrap();
        for at in [1, 20, 59] {
            let checkpoint = Checkpoint::from_bytes(&checkpoints[at].to_bytes().unwrap()).unwrap();
            let mut resumed = self::trainer(&cpu, &config, 60);
            resumed.restore(&checkpoint).unwrap();
            for i in at..60 {
                let (images, labels) = batch(layout, i as u64);
                resumed.train_batch(layout, &images, &labels).unwrap();
            }
            assert!(resumed.checkpoint(None).unwrap().to_bytes().unwrap() == end, "{label}, resumed at {at}");
        }
    }
}

#[test]
fn updates_take_the_optimizers_place() {
    let (cpu, config) = (Cpu::new(1, None).unwrap(), config("rigl"));
    let mut trainer = trainer(&cpu, &config, 20);
    let layout = StripLayout::sparse(10, 20);
    let (images, labels) = batch(layout, 0);
    let stepped: Vec<_> =
        (0..20).map(|_| trainer.train_batch(layout, &images, &labels).unwrap().optimizer_stepped).collect();
    let updates: Vec<_> = (0..20).filter(|&i| !stepped[i]).collect();
    // Begin 3, every 3, before 15.
    assert_eq!(updates, [3, 6, 9, 12]);
    assert_eq!((trainer.step(), trainer.batches()), (20, 20));
}

/// Every kind of network: learns a batch by heart, and goes on from a checkpoint exactly as it went.
#[test]
fn convolutional_networks_learn_and_go_on_from_checkpoints() {
    let cpu = Cpu::new(2, None).unwrap();
    let networks = [
        ("lenet-5", 1.0),
        ("wrn-10-1", 0.5),
        ("resnet-18", 0.125),
        ("resnet-50", 0.0625),
        ("mobilenet-v1", 0.25),
        ("mobilenet-v2", 0.25),
        ("vgg-16", 0.0625),
    ];
    let others = ["snip", "snfs", "deepr", "dsr", "dnw", "gmp", "gse"].map(|method| ("lenet-5", 1.0, method));
    let csr = networks.map(|(name, width)| (name, width, "rigl")).into_iter().chain(others);
    let blocks =
        [("wrn-10-1", 0.5, "rigl", [8, 8]), ("wrn-10-1", 0.5, "set", [4, 4]), ("resnet-18", 0.125, "rigl", [4, 4])];
    let csr = csr.map(|(name, width, by)| (name, width, by, Format::Csr));
    let blocks = blocks.map(|(name, width, by, size)| (name, width, by, Format::Bsr(size)));
    let mixed = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/networks/mixed.toml");
    let own = [(mixed, 1.0, "rigl", Format::Csr), (mixed, 1.0, "rigl", Format::Bsr([4, 4]))];
    for (name, width, by, format) in csr.chain(blocks).chain(own) {
        let model = ModelName::of_setting(name).unwrap();
        let spec = crate::models::ModelSpec::of(&model).on(3, [32, 32], 10).with_width(width);
        let architecture = Architecture::new(&spec).unwrap();
        let config = TrainConfig {
            model,
            method: crate::method::Method::named(by),
            format,
            density: 0.3,
            update_interval: 4,
            // A network that loses weights while it learns by heart takes smaller steps, and one without normalisation yet
            // smaller ones.
            lr: match name {
                _ if name == mixed => 0.02,
                _ if by == "gmp" => 0.05,
                _ => 0.1,
            },
            dropout: 0.05,
            ..TrainConfig::default()
        };
        // Smaller steps take more of them.
        let (rest_steps, total_steps) = if name == mixed { (46, 80) } else { (16, 40) };
        let name = format!("{name} by {by} {format}");
        let build = || {
            let first = FirstModel::of(&config, &architecture, None).unwrap();
            config.trainer(&cpu, first.network(&cpu, &config, 20).unwrap(), total_steps).unwrap()
        };
        let mut saved = build();
        let layout = saved.network.body.input_layout(20);
        let Layout::Images(images_layout) = layout else { panic!("{name} reads images") };
        let pictures: Vec<f32> = (0..20 * 3 * 1024).map(|i| Key::new(3).normal(i)).collect();
        let mut images = vec![0.0; layout.len()];
        images_layout.pack(&pictures, &mut images).unwrap();
        let labels: Vec<u32> = (0..20).map(|n| n % 10).collect();
        let train = |trainer: &mut Trainer<'_, Cpu>, steps: u64| {
            let step = |_| trainer.train_batch(layout, &images, &labels).unwrap().training.loss();
            (0..steps).map(step).collect::<Vec<_>>()
        };
        let before = topology(&saved, &cpu);
        let losses = train(&mut saved, 14);
        assert_ne!(topology(&saved, &cpu), before, "{name}: nothing was grown");
        let bytes = |trainer: &Trainer<'_, Cpu>| trainer.checkpoint(None).unwrap().to_bytes().unwrap();
        let checkpoint = Checkpoint::from_bytes(&bytes(&saved)).unwrap();
        let mut restored = build();
        train(&mut restored, 5);
        restored.restore(&checkpoint).unwrap();
        assert_eq!(restored.checkpoint(None).unwrap(), checkpoint, "{name}");
        let rest = train(&mut saved, rest_steps);
        assert_eq!(train(&mut restored, rest_steps), rest, "{name}");
        assert!(bytes(&saved) == bytes(&restored), "{name}");
        assert!(rest[rest.len() - 1] < 0.8 * losses[0], "{name}: {losses:?} {rest:?}");
        let evaluated = saved.evaluate_batch(layout, &images, &labels).unwrap();
        assert!(evaluated.sum.is_finite() && evaluated.lanes == 20, "{name}");
    }
}

/// What is given back until the backward pass is the same bits when it is computed again, also where a sum waits for it, growth
/// does, dropout has changed it, or several shards are on one tape.
#[test]
fn computing_activations_again_changes_no_bit() {
    let cpu = Cpu::new(2, None).unwrap();
    for (name, shards, dropout) in
        [("wrn-10-1", None, 0.0), ("wrn-10-1", Some(3), 0.2), ("resnet-18", None, 0.0), ("gpt-2-2-8", None, 0.0)]
    {
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |recompute: bool| {
                trained_on_random(&cpu, name, 0.3, |config| {
                    (config.shards, config.dropout) = (shards, dropout);
                    (config.precision, config.recompute) = (precision, recompute);
                })
            };
            assert!(run(true) == run(false), "{name}, {precision}");
        }
    }
}

/// What dropout reads and makes is one value where nothing is dropped, and others may read it afterwards.
#[test]
fn what_is_read_later_is_not_given_back() {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let network = r#"
        name = "late"
        input = { channels = 1, size = 8, classes = 3 }
        layers = [
          { kind = "conv", name = "first", outputs = 8, kernel = 3, bias = false },
          { kind = "batch-norm", name = "norm", relu = true },
          { kind = "dropout", name = "drop" },
          { kind = "conv", name = "second", outputs = 8, kernel = 3 },
          { kind = "add", with = "norm" },
          { kind = "global-average-pool" },
          { kind = "linear", name = "head", outputs = "classes" },
        ]"#;
    std::fs::write(file.path(), network).unwrap();
    let cpu = Cpu::new(1, None).unwrap();
    let run = |dropout: f64, recompute: bool| {
        let model = ModelName::of_setting(file.path().to_str().unwrap()).unwrap();
        let architecture = Architecture::new(&crate::models::ModelSpec::of(&model)).unwrap();
        let method = crate::method::Method::named("static");
        let config = TrainConfig { model, method, density: 0.5, dropout, recompute, ..TrainConfig::default() };
        let densities = config.sparsification().solve(&architecture).unwrap();
        let network = Network::new(&cpu, &architecture, &densities, config.initialization(), 9).unwrap();
        let mut trainer = config.trainer(&cpu, network, 40).unwrap();
        let layout = trainer.network.body.input_layout(9);
        let Layout::Images(images) = layout else { panic!("the network reads images") };
        let (pixels, key) = (9 * 64, Key::new(4));
        let mut packed = vec![0.0; layout.len()];
        images.pack(&(0..pixels as u64).map(|i| key.normal(i)).collect::<Vec<_>>(), &mut packed).unwrap();
        for _ in 0..3 {
            trainer.train_batch(layout, &packed, &[0, 1, 2, 0, 1, 2, 0, 1, 2]).unwrap();
        }
        trainer.network.to_stored(&cpu, None).unwrap()
    };
    for dropout in [0.0, 0.3] {
        assert!(run(dropout, true) == run(dropout, false), "{dropout}");
    }
}

/// Sixteen bits change a training a little, and only by rounding.
#[test]
fn half_precision_trains_like_f32() {
    let cpu = Cpu::new(1, None).unwrap();
    for (name, precise) in
        [("wrn-10-1", 0.02), ("gru-12", 0.02), ("lstm-8", 0.02), ("gpt-2-2-8", 0.02), ("lenet-300-100", 0.02)]
    {
        let run = |precision: Precision| {
            let model = trained_on_random(&cpu, name, 0.5, |config| {
                (config.precision, config.method) = (precision, Method::named("static"));
            });
            model.layers.iter().flat_map(|layer| layer.weight.values().to_vec()).collect::<Vec<f32>>()
        };
        let (wide, half) = (run(Precision::F32), run(Precision::Bf16));
        assert_ne!(wide, half, "{name}");
        let norm = |of: &dyn Fn(usize) -> f32| (0..wide.len()).map(|i| f64::from(of(i)).powi(2)).sum::<f64>().sqrt();
        let apart = norm(&|i| wide[i] - half[i]) / norm(&|i| wide[i]);
        assert!(apart < precise, "{name}: {apart}");
    }
}

/// Weights after six steps of a small network of any kind, with an update at every second one.
fn trained_on_random(cpu: &Cpu, name: &str, density: f64, change: impl Fn(&mut TrainConfig)) -> StoredModel {
    trained_as(None, cpu, name, density, change)
}

/// The same, as one of several ranks.
fn trained_as(
    ranks: Option<Ranks>,
    cpu: &Cpu,
    name: &str,
    density: f64,
    change: impl Fn(&mut TrainConfig),
) -> StoredModel {
    use crate::data::{Batch, BatchInputs, InputForm, Sequences, Targets};
    let model: ModelName = name.parse().unwrap();
    let mut config = TrainConfig {
        model: model.clone(),
        batch_size: 10,
        density,
        update_interval: 2,
        end_step: Some(5),
        sequence_length: Some(6),
        embedding: 8,
        readout: vec![16],
        momentum: 0.0,
        lr: 0.05,
        ..TrainConfig::default()
    };
    change(&mut config);
    let spec = crate::models::ModelSpec::of(&model).with_sequence(&config.sequence());
    let spec = match model.sequence() {
        Some(_) => spec.on(0, [0; 2], 7),
        // Of small images.
        None if name.starts_with("resnet") => spec.on(3, [16; 2], 10),
        None => spec,
    };
    let architecture = Architecture::new(&spec).unwrap();
    let densities = config.sparsification().solve(&architecture).unwrap();
    let first = FirstModel::random(&config, &architecture, densities).unwrap();
    let network = first.network(cpu, &config, config.computed_at_a_time(10)).unwrap();
    let mut trainer = config.trainer(cpu, network, 20).unwrap();
    ranks.into_iter().for_each(|ranks| trainer.join(ranks).unwrap());
    let key = Key::new(3);
    for step in 0..6u64 {
        // The last batch is a small one, of images.
        let samples = if step == 5 && model.sequence().is_none() { 2 } else { 10 };
        let form = trainer.network.body.input_form(samples);
        let inputs = match form {
            InputForm::Tokens { order, strip } => {
                let sequences = Sequences::new(order, strip, [10, 6], step > 0);
                // Lanes of no sequence have no target.
                let mut tokens = vec![0; sequences.lanes()];
                let mut targets = vec![u32::MAX; sequences.lanes()];
                for (n, t) in (0..10).flat_map(|n| (0..6).map(move |t| (n, t))) {
                    let at = |t: usize| key.with(step).below((n * 10 + t) as u64, 7) as u32;
                    (tokens[sequences.lane(n, t)], targets[sequences.lane(n, t)]) = (at(t), at(t + 1));
                }
                targets[sequences.lane(2, 3)] = u32::MAX;
                Batch {
                    inputs: BatchInputs::Tokens { sequences, tokens },
                    targets: Targets::Classes(targets),
                    corrupt: vec![],
                    part_of: None,
                }
            }
            _ => {
                let layout = trainer.network.body.input_layout(samples);
                let inputs = architecture.inputs();
                let of_samples: Vec<_> = (0..(inputs * samples) as u64).map(|i| key.with(step).normal(i)).collect();
                let mut values = vec![0.0; layout.len()];
                match layout {
                    Layout::Strips(layout) => (0..inputs * samples).for_each(|i| {
                        values[layout.index(i / samples, i % samples)] = of_samples[i];
                    }),
                    Layout::Images(layout) => layout.pack(&of_samples, &mut values).unwrap(),
                }
                let targets = (0..samples as u64).map(|n| key.with(step).below(n, 10) as u32).collect();
                Batch {
                    inputs: BatchInputs::Values { layout, values },
                    targets: Targets::Classes(targets),
                    corrupt: vec![],
                    part_of: None,
                }
            }
        };
        trainer.train_on(&inputs).unwrap();
    }
    trainer.network.to_stored(cpu, None).unwrap()
}

/// The same patterns, and values that differ by rounding only.
fn assert_near(whole: &StoredModel, parts: &StoredModel, what: &str) {
    for (a, b) in whole.layers.iter().zip(&parts.layers) {
        assert_eq!(a.weight.topology(), b.weight.topology(), "{what}, {}", a.name);
        let pairs = a.weight.values().iter().zip(b.weight.values()).chain(a.bias.iter().zip(&b.bias));
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 2e-5, "{what}, {}: {worst}", a.name);
    }
}

const WITHOUT_BATCH_NORMS: [(&str, bool); 5] =
    [("20-30-10", false), ("lenet-5", false), ("gru-12", true), ("lstm-12", true), ("gpt-1-2-16", true)];

/// The gradients of a batch's parts are added up to those of the batch, of features, images and tokens, also where an update
/// looks for connections to grow; recurrent states go on part by part.
#[test]
fn parts_of_a_batch_add_up() {
    let cpu = Cpu::new(1, None).unwrap();
    for (name, clips) in WITHOUT_BATCH_NORMS {
        let run = |micro_batch: Option<usize>| {
            trained_on_random(&cpu, name, 0.5, |config| {
                (config.micro_batch, config.clip_norm) = (micro_batch, clips.then_some(0.5));
            })
        };
        let whole = run(None);
        for size in [3, 4, 9] {
            assert_near(&whole, &run(Some(size)), &format!("{name} in parts of {size}"));
        }
        assert_eq!(run(Some(10)), whole);
    }
}

/// So are those of shards, also of blocks, with a gradient at all positions, and where there are more shards than samples.
#[test]
fn shards_of_a_batch_add_up() {
    let cpu = Cpu::new(1, None).unwrap();
    for (name, clips) in WITHOUT_BATCH_NORMS {
        for (method, format) in [("rigl", "csr"), ("rigl", "bsr2x2"), ("snfs", "csr")] {
            let run = |shards: Option<usize>| {
                trained_on_random(&cpu, name, 0.5, |config| {
                    (config.shards, config.clip_norm) = (shards, clips.then_some(0.5));
                    (config.method, config.format) = (Method::named(method), format.parse().unwrap());
                })
            };
            let whole = run(None);
            for count in [1, 2, 3, 8] {
                assert_near(&whole, &run(Some(count)), &format!("{name}, {method}, {format}, {count} shards"));
            }
        }
    }
}

/// Shards of a network with batch normalisation have moments of their own: as many batches of that size have.
#[test]
fn shards_are_normalised_by_themselves() {
    let cpu = Cpu::new(1, None).unwrap();
    let run = |shards: Option<usize>| {
        trained_on_random(&cpu, "wrn-10-1", 0.5, |config| (config.shards, config.batch_size) = (shards, 10))
    };
    // Moments have no part in the norm that clips.
    let clipped = |shards: Option<usize>| {
        let clip = |config: &mut TrainConfig| {
            (config.shards, config.batch_size, config.clip_norm) = (shards, 10, Some(0.5));
        };
        trained_on_random(&cpu, "wrn-10-1", 0.5, clip).layers[1].weight.values().to_vec()
    };
    let apart = clipped(None).iter().zip(clipped(Some(1))).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart < 1e-4, "{apart}");
    let (whole, one, two) = (run(None), run(Some(1)), run(Some(2)));
    let running = |model: &StoredModel| model.parts.as_ref().unwrap().norms[0].running.clone();
    let differ = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(differ(&running(&whole), &running(&one)) < 1e-5, "one shard is the batch");
    let values = |model: &StoredModel| model.layers[1].weight.values().to_vec();
    assert!(differ(&values(&whole), &values(&one)) < 1e-4 && differ(&values(&whole), &values(&two)) > 1e-3);
    assert!(running(&two).iter().all(|x| x.is_finite()));
}

/// Nor on the number of ranks: any number of them ends with the weights of one, to the bit.
#[test]
fn ranks_together_are_one() {
    for (name, method, format) in [
        ("20-30-10", "rigl", "csr"),
        ("20-30-10", "rigl", "bsr2x2"),
        ("20-30-10", "gmp", "csr"),
        ("20-30-10", "dnw", "csr"),
        ("lenet-5", "rigl", "bsr4x1"),
        ("wrn-10-1", "rigl", "csr"),
        ("wrn-10-1", "snfs", "csr"),
        ("wrn-10-1", "gse", "csr"),
        ("20-30-10", "gse", "bsr2x2"),
        ("gru-12", "gse", "csr"),
        ("gru-12", "rigl", "csr"),
        ("lstm-12", "set", "csr"),
        ("gpt-1-2-16", "rigl", "csr"),
    ] {
        let change = |config: &mut TrainConfig| {
            (config.method, config.format) = (Method::named(method), format.parse().unwrap());
            (config.shards, config.dropout, config.clip_norm) = (Some(5), 0.2, Some(1.0));
        };
        let train = |ranks| trained_as(ranks, &Cpu::new(1, None).unwrap(), name, 0.4, change);
        let alone = train(None);
        for count in [1, 2, 3, 5] {
            let models: Vec<_> = std::thread::scope(|scope| {
                let start = |rank| scope.spawn(move || train(Some(Arc::new(rank))));
                let threads: Vec<_> = local_ranks(count).into_iter().map(start).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(models.iter().all(|model| *model == alone), "{name}, {method}, {format}: {count} ranks");
        }
    }
}

/// What the MPI library may add up in any order is near to what the tree does.
#[test]
fn a_fast_reduction_is_near() {
    let change = |reduction: Reduction, shards| {
        move |config: &mut TrainConfig| (config.reduction, config.shards) = (reduction, Some(shards))
    };
    let cpu = || Cpu::new(1, None).unwrap();
    let alone = trained_as(None, &cpu(), "20-30-10", 0.4, change(Reduction::Tree, 3));
    let models: Vec<_> = std::thread::scope(|scope| {
        let train = |rank| trained_as(Some(Arc::new(rank)), &cpu(), "20-30-10", 0.4, change(Reduction::Fast, 3));
        let threads: Vec<_> = local_ranks(3).into_iter().map(|rank| scope.spawn(move || train(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for model in models {
        assert_near(&alone, &model, "fast");
    }
}

/// A rank whose pattern has become another one ends the run on all of them.
#[test]
fn ranks_with_other_patterns_stop() {
    let errors: Vec<String> = std::thread::scope(|scope| {
        let train = |rank: ranks::local::LocalRank| {
            let (is_second, cpu) = (rank.rank() == 1, Cpu::new(1, None).unwrap());
            let config = TrainConfig { shards: Some(2), ..config("rigl") };
            let mut trainer = trainer(&cpu, &config, 20);
            trainer.join(Arc::new(rank)).unwrap();
            let layout = StripLayout::sparse(10, 20);
            let (images, labels) = batch(layout, 0);
            trainer.train_batch(layout, &images, &labels).unwrap();
            if is_second {
                let other = TrainConfig { seed: 1, ..config };
                let other = self::trainer(&cpu, &other, 20).network;
                let topology = other.parameters.topology(&cpu, other.body.layers[1].weight).unwrap().clone();
                trainer.network.replace_topology(&cpu, 1, topology).unwrap();
            }
            trainer.train_batch(layout, &images, &labels).unwrap_err().to_string()
        };
        let threads: Vec<_> = local_ranks(2).into_iter().map(|rank| scope.spawn(move || train(rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for error in errors {
        assert!(error.contains("layer fc2 on rank 1 differs from that on rank 0 at step 1"), "{error}");
    }
}

#[test]
fn each_rank_has_a_shard() {
    let config = TrainConfig { shards: Some(2), ..config("rigl") };
    let cpu = Cpu::new(1, None).unwrap();
    let mut trainer = trainer(&cpu, &config, 20);
    let third = local_ranks(3).remove(2);
    let refused = trainer.join(Arc::new(third)).unwrap_err().to_string();
    assert!(refused.contains("3 ranks for 2 shards") && refused.contains("--shards 3"), "{refused}");
}

/// Nothing depends on the number of threads.
#[test]
fn shards_are_the_same_on_any_number_of_threads() {
    for name in ["wrn-10-1", "gru-12"] {
        let run = |threads| {
            let cpu = Cpu::new(threads, None).unwrap();
            trained_on_random(&cpu, name, 0.3, |config| (config.shards, config.dropout) = (Some(4), 0.2))
        };
        assert_eq!(run(1), run(3), "{name}");
    }
}

/// An update waits for its batches, and looks at all of them: in whatever order they come.
#[test]
fn updates_may_add_up_several_batches() {
    let config = TrainConfig { growth_batches: 3, ..config("rigl") };
    let cpu = Cpu::new(1, None).unwrap();
    let layout = StripLayout::sparse(10, 20);
    let run = |order: [u64; 3]| {
        let mut trainer = trainer(&cpu, &config, 20);
        let mut train = |index| {
            let (images, labels) = batch(layout, index);
            let stepped = trainer.train_batch(layout, &images, &labels).unwrap().optimizer_stepped;
            (stepped, trainer.is_within_update(), trainer.step(), trainer.batches())
        };
        for i in 0..3 {
            assert_eq!(train(i), (true, false, i + 1, i + 1));
        }
        assert_eq!(order.map(|i| train(10 + i)), [(false, true, 3, 4), (false, true, 3, 5), (false, false, 4, 6)]);
        topology(&trainer, &cpu)
    };
    let expected = run([0, 1, 2]);
    assert_eq!(run([2, 0, 1]), expected);
    assert_ne!(run([3, 4, 5]), expected);
}

#[test]
fn nan_is_reported_with_its_step() {
    let (cpu, config) = (Cpu::new(1, None).unwrap(), config("static"));
    let mut trainer = trainer(&cpu, &config, 20);
    let layout = StripLayout::sparse(10, 20);
    let (mut images, labels) = batch(layout, 0);
    trainer.train_batch(layout, &images, &labels).unwrap();
    images[0] = f32::NAN;
    let message = trainer.train_batch(layout, &images, &labels).unwrap_err().to_string();
    assert!(message.contains("NaN at step 1") && message.contains("lr"), "{message}");
}

/// A trainer that has gone another way goes on from a checkpoint exactly as the one that made it.
#[test]
fn a_restored_trainer_goes_on_as_the_saved_one() {
    let cpu = Cpu::new(1, None).unwrap();
    for optimizer in [OptimizerKind::Sgd, OptimizerKind::Adamw] {
        let (csr, bsr) = (Format::Csr, Format::Bsr([4, 8]));
        let of_csr = ["dense", "static", "set", "rigl"].map(|method| (method, csr));
        for (method, format) in of_csr.into_iter().chain([("set", bsr), ("rigl", bsr)]) {
            let config = TrainConfig { format, optimizer, lr: 0.01, dropout: 0.2, ..config(method) };
            let mut saved = trainer(&cpu, &config, 40);
            let layout = strips(saved.network.body.input_layout(10));
            let train = |trainer: &mut Trainer<'_, Cpu>, steps: std::ops::Range<u64>| {
                for i in steps {
                    let (images, labels) = batch(layout, i);
                    trainer.train_batch(layout, &images, &labels).unwrap();
                }
            };
            let bytes = |trainer: &Trainer<'_, Cpu>| trainer.checkpoint(None).unwrap().to_bytes().unwrap();
            train(&mut saved, 0..14);
            let checkpoint = Checkpoint::from_bytes(&bytes(&saved)).unwrap();
            let mut restored = trainer(&cpu, &config, 40);
            train(&mut restored, 7..16);
            restored.restore(&checkpoint).unwrap();
            assert_eq!(restored.checkpoint(None).unwrap(), checkpoint);
            train(&mut saved, 14..25);
            train(&mut restored, 14..25);
            assert_eq!(bytes(&saved), bytes(&restored), "{method} {format}");
        }
    }
}

#[test]
fn what_does_not_fit_is_not_restored() {
    let cpu = Cpu::new(1, None).unwrap();
    let rigl = config("rigl");
    let mut fitting = trainer(&cpu, &rigl, 20);
    let before = fitting.checkpoint(None).unwrap();
    let mut refused = |checkpoint: &Checkpoint, message: &str| {
        let error = fitting.restore(checkpoint).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
        assert_eq!(fitting.checkpoint(None).unwrap(), before);
    };
    for (config, message) in [
        (
            TrainConfig { model: "20-31-10".parse().unwrap(), ..rigl.clone() },
            "the model is 20-31-10, expected 20-30-10",
        ),
        (TrainConfig { seed: 1, ..rigl.clone() }, "the seed is 1, expected 0"),
        (TrainConfig { optimizer: OptimizerKind::Adam, ..rigl.clone() }, "the optimizer is adam, expected sgd"),
        (TrainConfig { method: crate::method::Method::named("set"), ..rigl.clone() }, "state of method set"),
        (TrainConfig { density: 1.0, ..rigl.clone() }, "the storage of layer fc1 is dense, expected csr"),
        (
            TrainConfig { format: Format::Bsr([2, 4]), ..rigl.clone() },
            "the storage of layer fc1 is bsr2x4, expected csr",
        ),
    ] {
        refused(&trainer(&cpu, &config, 20).checkpoint(None).unwrap(), message);
    }
    refused(&Checkpoint::default(), "section \"training\": it is not there");
    let changed = |change: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = before.clone();
        change(&mut checkpoint);
        checkpoint
    };
    let slot = changed(&|c| drop(c.tensors.insert("fc1.weight.momentum".to_owned(), TensorData::f32s([1.0]))));
    refused(&slot, "the number of values of fc1.weight.momentum is 1");
    let slot = changed(&|c| drop(c.tensors.remove("fc2.bias.momentum")));
    refused(&slot, "there is no tensor fc2.bias.momentum");
    let columns = changed(&|c| drop(c.tensors.insert("fc1.weight.col_indices".to_owned(), TensorData::u32s([9; 150]))));
    refused(&columns, "tensor fc1.weight: row 0: column 9 follows 9");
    let description = changed(&|c| c.metadata["model"]["layers"][0]["shape"] = serde_json::json!([30]));
    refused(&description, "section \"model\"");
}

/// After the first steps, buffers go round: the arena makes no more.
#[test]
fn nothing_is_allocated_after_the_first_step() {
    let (cpu, config) = (Cpu::new(1, None).unwrap(), config("rigl"));
    let mut trainer = trainer(&cpu, &config, 20);
    let layout = StripLayout::sparse(10, 20);
    let (images, labels) = batch(layout, 0);
    trainer.train_batch(layout, &images, &labels).unwrap();
    let after_one = trainer.workspace.arena.stats();
    for _ in 0..19 {
        trainer.train_batch(layout, &images, &labels).unwrap();
    }
    assert_eq!(trainer.workspace.arena.stats(), after_one);
}
