//! Memory of training, counted by the allocator: it follows the number of stored weights, and nothing of dense size
//! is ever held.
//!
//! One test only: the allocator counts for the whole process.

mod counting_allocator;

use std::sync::{Arc, Barrier};

use autograd::optim::Optimizer;
use counting_allocator::{allocated, live_bytes};
use ranks::local::local_ranks;
use sparse_kernels::StripLayout;
use sparse_kernels::cpu::{Cpu, Ledger};
use trainer::data::{Batch, BatchInputs, InputForm, Sequences, Targets};
use trainer::method::Method;
use trainer::models::{Architecture, Format, ModelName, ModelSpec, Network};
use trainer::settings::TrainConfig;
use trainer::training::{Precision, activation_bytes, activation_bytes_of};

/// Bytes per stored weight that training may hold, plans and momentum included.
const BYTES_PER_NONZERO: f64 = 32.0;

#[test]
fn memory_follows_density() {
    let cpu = Cpu::new(2, None).unwrap();
    let mut report = Vec::new();
    for density in [0.2, 0.1, 0.05, 0.02] {
        for (method, format) in [
            (Method::named("static"), Format::Csr),
            (Method::named("set"), Format::Csr),
            (Method::named("rigl"), Format::Csr),
            (Method::named("rigl"), Format::Bsr([4, 4])),
            (Method::named("set"), Format::Bsr([16, 8])),
        ] {
            let model = "768-1536-1536-10".parse().unwrap();
            let config = TrainConfig { model, method, format, density, update_interval: 5, ..TrainConfig::default() };
            let architecture = Architecture::of(&config.model);
            let dense_bytes = 4 * 1536 * 1536;
            let method_name = method;

            let before = live_bytes();
            let densities = config.sparsification().solve(&architecture).unwrap();
            let (drawn, batch) = (config.initialization(), config.batch_size);
            let network = Network::new(&cpu, &architecture, &densities, drawn, batch).unwrap();
            let nnz = network.cost(&cpu).nnz;
            let nnz_of_largest_layer = network.layer_nnz(&cpu).into_iter().max().unwrap();
            let mut trainer = config.trainer(&cpu, network, 60).unwrap();
            let layout = StripLayout::sparse(32, 768);
            let images: Vec<f32> = (0..layout.len()).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
            let labels: Vec<u32> = (0..32).map(|n| n % 10).collect();
            trainer.train_batch(layout, &images, &labels).unwrap();

            let after_first = live_bytes();
            let ((), training) = allocated(|| {
                for _ in 0..40 {
                    trainer.train_batch(layout, &images, &labels).unwrap();
                }
            });
            let largest = training.largest_bytes;
            // Lists of positions of one layer's entries are the largest things; a tile of growth is 128 KiB.
            let largest_allowed = (12 * nnz_of_largest_layer).max(400 << 10);
            assert!(largest <= largest_allowed, "{method_name} {format} {density}: a buffer of {largest} bytes");
            assert!(largest < dense_bytes / 2, "{method_name} {format} {density}: a buffer of {largest} bytes");
            let after_all = live_bytes();
            // Updates change the numbers of chunks and blocks a little, not more.
            assert!(after_all < after_first + after_first / 50, "{after_first} to {after_all}");

            // Activations, their gradients, biases and labels do not depend on nnz.
            let features = 768 + 2 * (1536 + 1536 + 10);
            let activations = 4 * 32 * features + images.len() * 4 + 12 * (1536 + 1536 + 10);
            let held = after_all - before;
            let per_nonzero = (held as f64 - activations as f64) / nnz as f64;
            report.push(format!("{method_name} {format} {density}: {per_nonzero:.1} bytes per nonzero"));
            assert!(per_nonzero <= BYTES_PER_NONZERO, "{}", report.join("\n"));
        }
    }
    println!("{}", report.join("\n"));
    ranks_hold_no_dense_gradient();
    steps_take_what_was_planned();
}

/// What a network holds after two steps is what a ledger has counted before.
fn steps_take_what_was_planned() {
    let cases = [
        ("768-1536-1536-10", 64, Precision::F32, false),
        ("wrn-10-1", 80, Precision::F32, false),
        ("wrn-10-1", 80, Precision::Bf16, false),
        ("wrn-10-1", 80, Precision::Bf16, true),
        ("resnet-18", 32, Precision::Bf16, true),
        ("mobilenet-v2", 16, Precision::F32, false),
        ("vgg-16", 64, Precision::Bf16, false),
        ("gpt-3-4-256", 16, Precision::F32, false),
        ("gpt-3-4-256", 16, Precision::Bf16, false),
        ("gpt-3-4-256", 16, Precision::Bf16, true),
        ("gru-128", 32, Precision::F32, false),
        ("lstm-128", 32, Precision::F32, false),
    ];
    for (name, samples, precision, recompute) in cases {
        let model: ModelName = name.parse().unwrap();
        let method = Method::named("static");
        let sequence_length = model.sequence().map(|_| 40);
        let config = TrainConfig { model, method, precision, recompute, sequence_length, ..TrainConfig::default() };
        let spec = ModelSpec::of(&config.model).with_sequence(&config.sequence());
        let spec = if config.model.sequence().is_some() { spec.on(0, [0; 2], 50) } else { spec.on(3, [32, 32], 10) };
        let architecture = Architecture::new(&spec).unwrap();
        let densities = config.sparsification().solve(&architecture).unwrap();

        let ledger = Ledger::new().unwrap();
        let mut network = Network::new(&ledger, &architecture, &densities, config.initialization(), samples).unwrap();
        Optimizer::new(config.optimizer_options(), &ledger, &mut network.parameters).unwrap();
        let activations = activation_bytes_of(&ledger, &mut network, samples, config.held()).unwrap();
        // Before anything is built, as a run is checked for room: with dense weights, whose gradients' sums take a little more.
        let blank = activation_bytes(&architecture, true, samples, config.held()).unwrap();
        let ratio = blank as f64 / activations as f64;
        assert!((0.99..1.15).contains(&ratio), "{name}, {precision}, {recompute}: {blank} of {activations}");
        let planned = network.parameters.total_bytes(&ledger).total() + activations;
        drop(network);

        let before = live_bytes();
        let cpu = Cpu::new(1, None).unwrap();
        let network = Network::new(&cpu, &architecture, &densities, config.initialization(), samples).unwrap();
        let mut trainer = config.trainer(&cpu, network, 60).unwrap();
        let body = &trainer.network.body;
        let (inputs, lanes) = match body.input_form(samples) {
            InputForm::Tokens { order, strip } => {
                let sequences = Sequences::new(order, strip, [samples, 40], false);
                (BatchInputs::Tokens { sequences, tokens: vec![1; sequences.lanes()] }, sequences.lanes())
            }
            _ => {
                let layout = body.input_layout(samples);
                (BatchInputs::Values { layout, values: vec![0.0; layout.len()] }, samples)
            }
        };
        let batch = Batch { inputs, targets: Targets::Classes(vec![1; lanes]), corrupt: vec![], part_of: None };
        for _ in 0..2 {
            trainer.train_on(&batch).unwrap();
        }
        drop(batch);
        let held = live_bytes() - before;
        let ratio = planned as f64 / held as f64;
        println!("{name}, {precision}, {recompute}: {planned} bytes planned, {held} held, {ratio:.3}");
        assert!((0.95..1.05).contains(&ratio), "{name}, {precision}, {recompute}: {planned} planned, {held} held");
    }
}

/// Two ranks, with updates: neither holds a buffer of dense size, nor do both together at any time more than with the plans of one
/// machine.
fn ranks_hold_no_dense_gradient() {
    const WIDTH: usize = 3072;
    for density in [0.1, 0.02] {
        let model = format!("768-{WIDTH}-{WIDTH}-10").parse().unwrap();
        let (method, shards) = (Method::named("rigl"), Some(4));
        let config = TrainConfig { model, method, density, shards, update_interval: 3, ..TrainConfig::default() };
        let architecture = Architecture::of(&config.model);
        let densities = config.sparsification().solve(&architecture).unwrap();
        let nnz: usize = densities.iter().map(|solved| solved.nnz).sum();
        let barrier = Barrier::new(3);
        let counted = std::thread::scope(|scope| {
            for rank in local_ranks(2) {
                let (config, architecture, densities, barrier) = (&config, &architecture, &densities, &barrier);
                scope.spawn(move || {
                    let cpu = Cpu::new(1, None).unwrap();
                    let network = Network::new(&cpu, architecture, densities, config.initialization(), 8).unwrap();
                    let mut trainer = config.trainer(&cpu, network, 60).unwrap();
                    trainer.join(Arc::new(rank)).unwrap();
                    let layout = StripLayout::sparse(32, 768);
                    let images: Vec<f32> = (0..layout.len()).map(|i| (i % 17) as f32 / 8.0 - 1.0).collect();
                    let labels: Vec<u32> = (0..32).map(|n| n % 10).collect();
                    let mut train = || trainer.train_batch(layout, &images, &labels).unwrap();
                    train();
                    barrier.wait();
                    let changed = (0..10).filter(|_| train().topology_changed).count();
                    assert!(changed >= 3);
                    barrier.wait();
                });
            }
            barrier.wait();
            let (_, counted) = allocated(|| barrier.wait());
            counted
        });
        let dense_bytes = 4 * WIDTH * WIDTH;
        // Lists of positions of one layer's entries; a tile of growth is 256 KiB, and comes from two ranks of a node each.
        let allowed = (12 * nnz).max(1 << 20);
        assert!(counted.largest_bytes <= allowed && counted.largest_bytes < dense_bytes / 2, "{density}: {counted:?}");
        // Beside what is held anyway: gradients, messages and patterns under way, of both ranks.
        assert!(counted.peak_bytes < 2 * (24 * nnz + (4 << 20)), "{density}: {counted:?}");
        println!(
            "two ranks, density {density}: {counted:?} beside what they hold; one dense gradient has {dense_bytes}"
        );
    }
}
