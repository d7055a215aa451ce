//! The grid of the kernel benchmarks, as data, and its operands.

use std::sync::Arc;

use rigl::nnz_for_density;
use rigl::topology::random_pattern;
use sparse_kernels::cpu::{Buffer, Cpu};
use sparse_kernels::random::Key;
use sparse_kernels::{
    BlockMatrix, BsrPattern, ConvOptions, ConvShape, ConvWeight, ImageLayout, Images, PlanOptions, SparseMatrix,
    Storage, StripLayout, Strips,
};

/// Rows × columns × lanes.
pub const SHAPES: [[usize; 3]; 5] =
    [[512, 512, 256], [1024, 1024, 256], [2048, 2048, 128], [300, 784, 100], [4096, 1024, 64]];

/// Densities of the weight matrix.
pub const DENSITIES: [f64; 5] = [0.5, 0.2, 0.1, 0.05, 0.02];

/// Convolutions with 3 × 3 filters: channels (of inputs and outputs), height and width, samples.
pub const CONVOLUTIONS: [[usize; 3]; 2] = [[64, 32, 32], [256, 14, 16]];

/// Heads, their size, tokens of a sequence, sequences.
pub const ATTENTIONS: [[usize; 4]; 3] = [[8, 80, 128, 8], [6, 64, 256, 4], [8, 64, 512, 2]];

/// A sparse matrix with a uniform pattern, and activations.
pub struct Operands {
    /// The weight.
    pub weight: SparseMatrix<Cpu>,
    /// Input activations, `[columns, lanes]`.
    pub x: Strips<Cpu>,
    /// Output activations, `[rows, lanes]`.
    pub y: Strips<Cpu>,
    /// One value per stored entry.
    pub gradient: Buffer,
}

/// Operands for the sparse operations.
///
/// # Panics
/// If memory runs out; a benchmark can do no better.
pub fn sparse_operands(cpu: &Cpu, [m, k, n]: [usize; 3], density: f64) -> Operands {
    let key = Key::new(0).with_name("bench");
    let nnz = nnz_for_density(m * k, density);
    let pattern = Arc::new(random_pattern(m, k, nnz, key.with_name("pattern")).expect("the grid's shapes are valid"));
    let values: Vec<f32> = (0..nnz as u64).map(|i| key.normal(i)).collect();
    let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: true };
    let weight = SparseMatrix::new(cpu, pattern, &values, options).expect("one value per entry");
    let (x, y) = (activations(cpu, StripLayout::sparse(n, k)), activations(cpu, StripLayout::sparse(n, m)));
    Operands { weight, x, y, gradient: cpu.zeros(nnz).expect("memory for the gradient") }
}

/// A block-sparse matrix with a uniform pattern of blocks, and activations `x` and `y`.
///
/// # Panics
/// If memory runs out.
pub fn block_operands(
    cpu: &Cpu,
    [m, k, n]: [usize; 3],
    block_size: [usize; 2],
    density: f64,
) -> (BlockMatrix<Cpu>, Strips<Cpu>, Strips<Cpu>) {
    let key = Key::new(0).with_name("bench");
    let (rows, columns) = (m.div_ceil(block_size[0]), k.div_ceil(block_size[1]));
    let blocks = random_pattern(rows, columns, nnz_for_density(rows * columns, density), key.with_name("pattern"));
    let blocks = Arc::new(blocks.expect("the grid's shapes are valid"));
    let pattern = Arc::new(BsrPattern::from_blocks(m, k, block_size, blocks).expect("a grid of blocks"));
    let values: Vec<f32> = (0..pattern.nnz() as u64).map(|i| key.normal(i)).collect();
    let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: true };
    let weight = BlockMatrix::new(cpu, pattern, &values, options).expect("one value per entry");
    (weight, activations(cpu, StripLayout::sparse(n, k)), activations(cpu, StripLayout::sparse(n, m)))
}

/// A dense weight and activations in the layout that suits GEMM best.
///
/// # Panics
/// If memory runs out.
pub fn dense_operands(cpu: &Cpu, [m, k, n]: [usize; 3]) -> (Buffer, Strips<Cpu>, Strips<Cpu>) {
    let key = Key::new(1).with_name("bench");
    let mut weight = cpu.zeros(m * k).expect("memory for the weight");
    weight.iter_mut().enumerate().for_each(|(i, w)| *w = key.uniform(i as u64) - 0.5);
    (weight, activations(cpu, StripLayout::single(n, k)), activations(cpu, StripLayout::single(n, m)))
}

/// A convolution's shape and images.
pub struct ConvOperands {
    /// 3 × 3 filters, stride 1, zeros around the image.
    pub shape: ConvShape,
    /// The dense weight.
    pub weight: Buffer,
    /// Its gradient.
    pub gradient: Buffer,
    /// Inputs.
    pub x: Images<Cpu>,
    /// Outputs of the same size.
    pub y: Images<Cpu>,
}

/// Operands of a dense convolution of one of [`CONVOLUTIONS`], with channels in groups.
///
/// # Panics
/// If `groups` does not divide the channels, or memory runs out.
pub fn conv_operands(cpu: &Cpu, [channels, size, samples]: [usize; 3], groups: usize) -> ConvOperands {
    let key = Key::new(3).with_name("convolution");
    let shape = ConvShape::new(channels, channels, [3, 3]).and_then(|shape| shape.with_groups(groups));
    let shape = shape.expect("groups divide the channels").with_padding([1, 1]);
    let border = shape.borders([size; 2]).expect("the filter fits into the image").into_iter().max().unwrap_or(0);
    let layout = ImageLayout::new(samples, channels, [size; 2], border, cpu.isa().lanes());
    let layout = layout.expect("every vector length is a strip");
    let images = |name: &str| {
        let key = key.with_name(name);
        let data: Vec<f32> = (0..(samples * channels * size * size) as u64).map(|i| key.uniform(i) - 0.5).collect();
        let mut images = Images::zeros(cpu, layout).expect("memory for images");
        layout.pack(&data, &mut images.data).expect("one number a pixel");
        images
    };
    let mut weight = cpu.zeros(shape.rows() * shape.columns()).expect("memory for the weight");
    weight.iter_mut().enumerate().for_each(|(i, w)| *w = key.uniform(i as u64) - 0.5);
    let gradient = cpu.zeros(weight.len()).expect("memory for the gradient");
    ConvOperands { shape, weight, gradient, x: images("x"), y: images("y") }
}

/// A sparse weight with a uniform pattern for these operands, and a buffer for its gradient.
///
/// # Panics
/// If memory runs out.
pub fn conv_weight(cpu: &Cpu, operands: &ConvOperands, density: f64) -> (ConvWeight<Cpu>, Buffer) {
    let ConvOperands { shape, x, y, .. } = operands;
    let key = Key::new(0).with_name("bench");
    let nnz = nnz_for_density(shape.rows() * shape.columns(), density);
    let pattern = random_pattern(shape.rows(), shape.columns(), nnz, key.with_name("pattern"));
    let pattern = Arc::new(pattern.expect("the grid's shapes are valid"));
    let values: Vec<f32> = (0..nnz as u64).map(|i| key.normal(i)).collect();
    let options = ConvOptions { x: x.layout, y: y.layout, input_grad: true };
    let weight = ConvWeight::new(cpu, pattern, &values, *shape, options).expect("one value per entry");
    (weight, cpu.zeros(nnz).expect("memory for the gradient"))
}

/// Activations of uniform numbers from -0.5 to 0.5.
///
/// # Panics
/// If memory runs out.
pub fn activations(cpu: &Cpu, layout: StripLayout) -> Strips<Cpu> {
    let key = Key::new(2).with_name("activations");
    let mut strips = Strips::zeros(cpu, layout).expect("memory for activations");
    for feature in 0..layout.features() {
        for lane in 0..layout.lanes() {
            strips.data[layout.index(feature, lane)] = key.uniform((feature * layout.lanes() + lane) as u64) - 0.5;
        }
    }
    strips
}
