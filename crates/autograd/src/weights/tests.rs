//! Weights that are stored one way and used another: dense gradients beside sparse ones, latent weights, dense weights that
//! become sparse.

use std::sync::Arc;

use sparse_kernels::cpu::Cpu;
use sparse_kernels::{Activations, ConvShape, CsrPattern, ImageLayout, Storage};

use crate::optim::{Sgd, SgdOptions};
use crate::tests::{
    Recorder, block_conv, block_sparse, cpu, dense, dense_conv, image_layouts, normals, random_pattern, sparse,
    sparse_conv, two_shards, two_uses,
};
use crate::{Arena, Error, GrowthRequests, Mode, NoReduce, ParameterId, Parameters, Tape, Weight};

/// Small whole numbers, for which all orders of summation agree.
fn whole(name: &str, len: usize) -> Vec<f32> {
    normals(name, len).iter().map(|x| (2.0 * x).round()).collect()
}

/// Input and output gradient of a product.
type Operands = (Vec<f32>, Vec<f32>);

/// Inputs and output gradients of two uses of a 6 × 7 matrix, and the gradient at all of its positions.
fn two_products() -> ([Operands; 2], Vec<f32>) {
    let uses = [1, 2].map(|i| (whole(&format!("x{i}"), 7 * 32), whole(&format!("dy{i}"), 6 * 32)));
    let at = |position: usize| {
        let (row, column) = (position / 7, position % 7);
        let dot = |(x, dy): &Operands| -> f32 { (0..32).map(|n| dy[row * 32 + n] * x[column * 32 + n]).sum() };
        uses.iter().map(dot).sum()
    };
    let gradient = (0..42).map(at).collect();
    (uses, gradient)
}

fn at(pattern: &CsrPattern, all: &[f32]) -> Vec<f32> {
    pattern.positions().map(|(row, column)| all[row as usize * pattern.ncols() + column as usize]).collect()
}

#[test]
fn a_dense_gradient_comes_beside_the_gradient() {
    let cpu = cpu();
    let mut parameters = Parameters::new();
    let w = sparse(&mut parameters, "w", 6, 7, 0.3, true);
    let pattern = parameters.pattern(&cpu, w).unwrap().clone();
    let (uses, expected) = two_products();
    let mut growth = GrowthRequests::new();
    growth.add_dense(w);
    growth.add_dense(w);
    let mut recorder = Recorder::default();
    two_shards(&mut growth, &mut recorder, &mut parameters, w, &uses, 32);
    // The hook, which doubles, has seen both, once.
    assert_eq!(recorder.0, [(w, true), (w, false)]);
    let doubled: Vec<f32> = expected.iter().map(|g| 2.0 * g).collect();
    assert_eq!(parameters.download_dense_gradient(&cpu, w).unwrap().unwrap(), doubled);
    assert_eq!(parameters.download_gradient(&cpu, w).unwrap().unwrap(), at(&pattern, &doubled));
    // Over again, not on top; and not without being asked for.
    two_uses(&mut growth, &mut parameters, w, &uses, 32);
    assert_eq!(parameters.download_dense_gradient(&cpu, w).unwrap().unwrap(), expected);
    two_uses(&mut GrowthRequests::new(), &mut parameters, w, &uses, 32);
    assert_eq!(parameters.download_dense_gradient(&cpu, w).unwrap(), None);
    assert_eq!(parameters.download_gradient(&cpu, w).unwrap().unwrap(), at(&pattern, &expected));
}

#[test]
fn only_sparse_parameters_have_a_dense_gradient_beside() {
    let cpu = cpu();
    let mut parameters = Parameters::new();
    let blocks = block_sparse(&mut parameters, "blocks", [6, 7], [2, 2], 0.5);
    let whole = dense(&mut parameters, "whole", 6, 7);
    for w in [blocks, whole] {
        let mut growth = GrowthRequests::new();
        growth.add_dense(w);
        let mut arena = Arena::new();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let refused = tape.backward_from(vec![], &mut growth, &mut NoReduce);
        assert!(matches!(refused, Err(Error::Kind { op: "dense gradient", .. })));
    }
}

/// Output, gradient of X and gradient of W, of a convolution with images of normal numbers.
fn convolve(
    parameters: &mut Parameters<Cpu>,
    w: ParameterId,
    [x_layout, y_layout]: [ImageLayout; 2],
    growth: &mut GrowthRequests,
) -> [Vec<f32>; 3] {
    let (cpu, mut arena) = (cpu(), Arena::new());
    let images = |name: &str, layout: ImageLayout| {
        let [height, width] = layout.size();
        let mut images = sparse_kernels::Images::zeros(&cpu, layout).unwrap();
        layout.pack(&whole(name, layout.samples() * layout.channels() * height * width), &mut images.data).unwrap();
        Activations::from(images)
    };
    let mut tape = Tape::new(&cpu, &mut arena, parameters, Mode::Training);
    let x = tape.input(images("x", x_layout), true);
    let y = tape.apply(w, x).unwrap();
    let output = tape.value(y).unwrap().data().to_vec();
    tape.backward_from(vec![(y, images("dy", y_layout))], growth, &mut NoReduce).unwrap();
    let dx = tape.gradient(x).unwrap().data().to_vec();
    drop(tape);
    [output, dx, parameters.download_gradient(&cpu, w).unwrap().unwrap()]
}

#[test]
fn convolutions_have_a_dense_gradient_and_latent_weights_too() {
    let cpu = cpu();
    let shape = ConvShape::new(3, 2, [3, 3]).unwrap().with_padding([1, 1]);
    let layouts = image_layouts(shape, [4, 3], 9, 8);
    let mut parameters = Parameters::new();
    let whole_conv = dense_conv(&mut parameters, "whole", shape, layouts);
    let [_, _, expected] = convolve(&mut parameters, whole_conv, layouts, &mut GrowthRequests::new());
    let w = sparse_conv(&mut parameters, "w", shape, layouts, 0.4);
    let pattern = parameters.pattern(&cpu, w).unwrap().clone();
    let mut growth = GrowthRequests::new();
    growth.add_dense(w);
    let [output, dx, gradient] = convolve(&mut parameters, w, layouts, &mut growth);
    assert_eq!(parameters.download_dense_gradient(&cpu, w).unwrap().unwrap(), expected);
    assert_eq!(gradient, at(&pattern, &expected));

    // The same weights, shown of a whole that has others, too: what is computed is the same, and all learn.
    let mut behind = vec![7.0; shape.rows() * shape.columns()];
    let values = parameters.download_values(&cpu, w).unwrap();
    for ((row, column), value) in pattern.positions().zip(&values) {
        behind[row as usize * shape.columns() + column as usize] = *value;
    }
    let mut buffer = cpu.zeros(behind.len()).unwrap();
    cpu.upload(&behind, &mut buffer).unwrap();
    parameters.make_latent(&cpu, w, buffer).unwrap();
    let latent = convolve(&mut parameters, w, layouts, &mut GrowthRequests::new());
    assert_eq!(latent, [output, dx, expected]);
    let other = random_pattern("other", shape.rows(), shape.columns(), 0.5);
    parameters.replace_pattern(&cpu, w, other.clone(), &vec![u32::MAX; other.nnz()]).unwrap();
    assert_eq!(parameters.download_stored(&cpu, w).unwrap(), at(&other, &behind));
    assert_ne!(convolve(&mut parameters, w, layouts, &mut GrowthRequests::new())[0], latent[0]);
}

#[test]
fn latent_weights_all_learn_and_some_are_seen() {
    let cpu = cpu();
    let mut parameters = Parameters::new();
    let w = sparse(&mut parameters, "w", 6, 7, 0.3, true);
    let pattern = parameters.pattern(&cpu, w).unwrap().clone();
    let behind = whole("behind", 42);
    let upload = |values: &[f32]| {
        let mut buffer = cpu.zeros(values.len()).unwrap();
        cpu.upload(values, &mut buffer).unwrap();
        buffer
    };
    assert!(parameters.make_latent(&cpu, w, upload(&behind[1..])).is_err());
    parameters.make_latent(&cpu, w, upload(&behind)).unwrap();
    assert!(parameters.get(w).value().weight().is_some_and(Weight::is_latent));
    assert!(parameters.make_latent(&cpu, w, upload(&behind)).is_err());
    assert_eq!(parameters.download_values(&cpu, w).unwrap(), behind);
    assert_eq!(parameters.download_stored(&cpu, w).unwrap(), at(&pattern, &behind));

    let mut sgd = Sgd::new(SgdOptions { momentum: 0.5, ..SgdOptions::default() }, &cpu, &mut parameters).unwrap();
    let (uses, gradient) = two_products();
    two_uses(&mut GrowthRequests::new(), &mut parameters, w, &uses, 32);
    assert_eq!(parameters.download_gradient(&cpu, w).unwrap().unwrap(), gradient);
    sgd.step(&cpu, &mut parameters, 0.25).unwrap();
    let moved: Vec<f32> = behind.iter().zip(&gradient).map(|(w, g)| w - 0.25 * g).collect();
    assert_eq!(parameters.download_values(&cpu, w).unwrap(), moved);
    assert_eq!(parameters.download_stored(&cpu, w).unwrap(), at(&pattern, &moved));

    // Others are shown; values and slots stay.
    let other = random_pattern("other", 6, 7, 0.5);
    parameters.replace_pattern(&cpu, w, other.clone(), &vec![u32::MAX; other.nnz()]).unwrap();
    assert_eq!(parameters.download_stored(&cpu, w).unwrap(), at(&other, &moved));
    assert_eq!(parameters.download_values(&cpu, w).unwrap(), moved);
    assert_eq!(parameters.download_slot(&cpu, w, "momentum").unwrap(), gradient);
    // Weights and gradients and momentum of 42, weights of what is shown twice, and the plan.
    let bytes = parameters.bytes(&cpu, w);
    assert_eq!((bytes.values, bytes.gradient, bytes.slots), (4 * (42 + other.nnz()), 168, 168));
    assert!(bytes.plan >= 4 * other.nnz());
    parameters.upload_values(&cpu, w, &behind).unwrap();
    assert_eq!(parameters.download_stored(&cpu, w).unwrap(), at(&other, &behind));
}

#[test]
fn dense_weights_become_sparse_with_their_slots() {
    let cpu = cpu();
    let mut parameters = Parameters::new();
    let shape = ConvShape::new(6, 7, [1, 1]).unwrap();
    let layouts = image_layouts(shape, [4, 3], 2, 8);
    let linear = dense(&mut parameters, "linear", 6, 7);
    let conv = dense_conv(&mut parameters, "conv", shape, layouts);
    Sgd::new(SgdOptions { momentum: 0.5, ..SgdOptions::default() }, &cpu, &mut parameters).unwrap();
    let pattern = random_pattern("pattern", 6, 7, 0.4);
    let (uses, gradient) = two_products();
    for w in [linear, conv] {
        let slot = whole("slot", 42);
        parameters.upload_slot(&cpu, w, "momentum", &slot).unwrap();
        let before = parameters.download_values(&cpu, w).unwrap();
        assert!(parameters.sparsify(&cpu, w, Arc::new(CsrPattern::full(7, 6).unwrap())).is_err());
        parameters.sparsify(&cpu, w, pattern.clone()).unwrap();
        assert!(Arc::ptr_eq(parameters.pattern(&cpu, w).unwrap(), &pattern));
        assert_eq!(parameters.download_values(&cpu, w).unwrap(), at(&pattern, &before));
        assert_eq!(parameters.download_slot(&cpu, w, "momentum").unwrap(), at(&pattern, &slot));
        let refused = parameters.sparsify(&cpu, w, pattern.clone());
        assert!(matches!(refused, Err(Error::Kind { expected: "dense matrix or convolution", .. })));
    }
    two_uses(&mut GrowthRequests::new(), &mut parameters, linear, &uses, 32);
    assert_eq!(parameters.download_gradient(&cpu, linear).unwrap().unwrap(), at(&pattern, &gradient));
    let [_, _, of_conv] = convolve(&mut parameters, conv, layouts, &mut GrowthRequests::new());
    assert_eq!(of_conv.len(), pattern.nnz());
}

/// Blocks of a convolution grow by the norms of its dense gradient and move whole, with their slots.
#[test]
fn blocks_of_a_convolution_grow_and_move() {
    let cpu = cpu();
    let shape = ConvShape::new(5, 4, [3, 3]).unwrap().with_padding([1, 1]);
    let layouts = image_layouts(shape, [4, 3], 9, 8);
    let mut parameters = Parameters::new();
    let w = block_conv(&mut parameters, "w", shape, layouts, [2, 4]);
    let whole_conv = dense_conv(&mut parameters, "whole", shape, layouts);
    let blocks = parameters.block_pattern(&cpu, w).unwrap().clone();
    let dense = blocks.to_dense(&parameters.download_values(&cpu, w).unwrap()).unwrap();
    parameters.upload_values(&cpu, whole_conv, &dense).unwrap();
    let expected = convolve(&mut parameters, whole_conv, layouts, &mut GrowthRequests::new());
    let got = convolve(&mut parameters, w, layouts, &mut GrowthRequests::new());
    let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-4 * b.abs().max(1.0));
    assert!(near(&got[0], &expected[0]) && near(&got[1], &expected[1]));
    let all = sparse_kernels::BsrPattern::full(5, 36, [2, 4]).unwrap().with_taps(9).unwrap();
    let full = CsrPattern::full(5, 36).unwrap();
    let gradient = all.values_of_csr(&full, &expected[2]).unwrap();
    let here = |at: usize| blocks.blocks().row(at / 9).binary_search(&((at % 9) as u32)).is_ok();
    let stored: Vec<f32> =
        gradient.chunks(8).enumerate().filter(|(at, _)| here(*at)).flat_map(|(_, b)| b).copied().collect();
    assert_eq!(got[2], stored);

    let norms = all.block_norms(&gradient).unwrap();
    let mut best: Vec<usize> = (0..27).filter(|&at| !here(at)).collect();
    best.sort_by(|&a, &b| norms[b].total_cmp(&norms[a]));
    let exclude = blocks.blocks().clone();
    let request =
        sparse_kernels::GrowRequest { exclude: exclude.clone(), count: 1, ties: sparse_kernels::random::Key::new(1) };
    let mut growth = GrowthRequests::new();
    growth.add(w, crate::GrowthPasses::One, request);
    let mut arena = Arena::new();
    let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
    let images = |name: &str, layout: ImageLayout| {
        let mut images = sparse_kernels::Images::zeros(&cpu, layout).unwrap();
        layout.pack(&whole(name, 9 * layout.channels() * 12), &mut images.data).unwrap();
        Activations::from(images)
    };
    let x = tape.input(images("x", layouts[0]), false);
    let y = tape.apply(w, x).unwrap();
    tape.backward_from(vec![(y, images("dy", layouts[1]))], &mut growth, &mut NoReduce).unwrap();
    drop(tape);
    let found = growth.take(w).unwrap();
    assert_eq!((found[0].row as usize * 9 + found[0].column as usize, found[0].score), (best[0], norms[best[0]]));

    // The last block stays and the best one comes.
    let mut positions = vec![(found[0].row, found[0].column), exclude.positions().last().unwrap()];
    positions.sort_unstable();
    let last = exclude.nnz() as u32 - 1;
    let map: Vec<u32> =
        positions.iter().map(|p| if *p == (found[0].row, found[0].column) { u32::MAX } else { last }).collect();
    let before = parameters.download_values(&cpu, w).unwrap();
    parameters.upload_slot(&cpu, w, "momentum", &before).unwrap();
    let pattern = Arc::new(CsrPattern::from_positions(3, 9, positions).unwrap());
    parameters.replace_pattern(&cpu, w, pattern, &map).unwrap();
    let kept = &before[before.len() - 8..];
    let expected: Vec<f32> = map.iter().flat_map(|&m| if m == last { kept.to_vec() } else { vec![0.0; 8] }).collect();
    assert_eq!(parameters.download_values(&cpu, w).unwrap(), expected);
    assert_eq!(parameters.download_slot(&cpu, w, "momentum").unwrap(), expected);
    assert_eq!(parameters.block_pattern(&cpu, w).unwrap().taps(), 9);
}
