//! A linear layer for burn whose weight is sparse: an operation of its CPU backend, Flex, with a backward pass for `Autodiff`.
//!
//! The values are a parameter of burn's, so its optimizers train them. The pattern is fixed here; `rigl::topology` has what changes it.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::module::{Initializer, Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use rigl::TopologyError;
use rigl::topology::random_pattern;
use sparse_kernels::cpu::Cpu;
use sparse_kernels::random::Key;
use sparse_kernels::{
    BackendError, CsrPattern, Op, PlanOptions, SparseLinear as _, SparseMatrix, Storage, StripLayout, Strips,
};
use thiserror::Error;

/// Why a layer cannot be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LayerError {
    /// Not a density.
    #[error("density is {0}; it must be above 0 and at most 1")]
    Density(f64),
    /// A parameter of another length.
    #[error("{got} numbers for the {parameter}; the pattern has {expected} {of}")]
    Length { parameter: &'static str, got: usize, of: &'static str, expected: usize },
    /// No pattern of this shape.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The kernels refuse.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// `y = x · Wᵀ + bias`, W of shape `[outputs, inputs]` with some of its weights.
#[derive(Module, Debug)]
pub struct SparseLinear {
    /// One value for each stored weight, row by row.
    pub values: Param<Tensor<1>>,
    /// One number for each output.
    pub bias: Param<Tensor<1>>,
    // Not in burn's records: the seed makes it again.
    #[module(skip)]
    kernels: Arc<Kernels>,
}

/// The pattern, planned for the CPU.
#[derive(Debug)]
struct Kernels {
    cpu: Cpu,
    size: [usize; 2],
    matrix: Mutex<SparseMatrix<Cpu>>,
}

impl SparseLinear {
    /// A layer with so many of its weights, at random places, on so many threads.
    ///
    /// # Errors
    /// If the density is none, or the kernels refuse the shape or the threads.
    pub fn new(
        [outputs, inputs]: [usize; 2],
        density: f64,
        seed: u64,
        threads: usize,
        device: &Device,
    ) -> Result<Self, LayerError> {
        if !(density > 0.0 && density <= 1.0) {
            return Err(LayerError::Density(density));
        }
        let nnz = ((density * (outputs * inputs) as f64).round() as usize).max(1);
        let pattern = random_pattern(outputs, inputs, nnz, Key::new(seed))?;
        let bound = (inputs as f64 * density).recip().sqrt();
        let values = Initializer::Uniform { min: -bound, max: bound }.init([nnz], device);
        let bias = Initializer::Zeros.init([outputs], device);
        Self::of_pattern(Arc::new(pattern), values, bias, threads)
    }

    /// A layer of a pattern, with its values and bias.
    ///
    /// # Errors
    /// If the values are not as many as the pattern has entries, or the bias has not a number for each row.
    pub fn of_pattern(
        pattern: Arc<CsrPattern>,
        values: Param<Tensor<1>>,
        bias: Param<Tensor<1>>,
        threads: usize,
    ) -> Result<Self, LayerError> {
        let size = [pattern.nrows(), pattern.ncols()];
        for (parameter, tensor, of, expected) in
            [("values", &values, "entries", pattern.nnz()), ("bias", &bias, "rows", size[0])]
        {
            let [got] = tensor.val().dims();
            if got != expected {
                return Err(LayerError::Length { parameter, got, of, expected });
            }
        }
        let cpu = Cpu::new(threads, None)?;
        let options = PlanOptions { transpose: true, ..PlanOptions::default() };
        let zeros = vec![0.0; pattern.nnz()];
        let matrix = Mutex::new(SparseMatrix::new(&cpu, pattern, &zeros, options)?);
        Ok(Self { values, bias, kernels: Arc::new(Kernels { cpu, size, matrix }) })
    }

    /// The weight with its zeros, `[inputs, outputs]` as in burn's `Linear`.
    ///
    /// # Panics
    /// If the values are not f32.
    pub fn dense_weight(&self) -> Tensor<2> {
        let values = self.values.val();
        let device = values.device();
        let values = values.into_data().try_into_vec::<f32>().expect("the values are f32");
        let ([rows, columns], cpu) = (self.kernels.size, &self.kernels.cpu);
        let matrix = self.kernels.matrix.lock().unwrap_or_else(PoisonError::into_inner);
        let mut dense = vec![0.0; rows * columns];
        for ((row, column), value) in cpu.pattern(&matrix.plan).positions().zip(values) {
            dense[column as usize * rows + row as usize] = value;
        }
        Tensor::from_data(TensorData::new(dense, [columns, rows]), &device)
    }

    /// `x · Wᵀ + bias`, of x of shape `[samples, inputs]`.
    ///
    /// # Panics
    /// If x has another number of features, if the values have been replaced by more or fewer of them, if either is not f32
    /// or not on Flex, or if there is no memory for the product.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let ([_, got], [_, inputs]) = (x.dims(), self.kernels.size);
        assert!(got == inputs, "SparseLinear: the input has {got} features; the layer needs {inputs}");
        let product =
            Dispatch::sparse_linear(x.into_dispatch(), self.values.val().into_dispatch(), self.kernels.clone());
        Tensor::from_dispatch(product) + self.bias.val().unsqueeze()
    }
}

/// Which of a layer's three products.
#[derive(Debug, Clone, Copy)]
enum Of {
    /// `x · Wᵀ`, of x and the values.
    Output,
    /// `dy · W`, of dy and the values.
    InputGrad,
    /// `Σ dy · x` at the stored weights, of dy and x.
    WeightGrad,
}

impl Kernels {
    /// The product of `samples` samples.
    fn product(&self, of: Of, samples: usize, a: &[f32], b: &[f32]) -> Result<Vec<f32>, BackendError> {
        let ([outputs, inputs], cpu) = (self.size, &self.cpu);
        let packed = |numbers: &[f32], features: usize| -> Result<Strips<Cpu>, BackendError> {
            let mut strips = Strips::zeros(cpu, StripLayout::sparse(samples, features))?;
            cpu.pack_samples(numbers, &mut strips)?;
            Ok(strips)
        };
        let a = packed(a, if let Of::Output = of { inputs } else { outputs })?;
        let mut matrix = self.matrix.lock().unwrap_or_else(PoisonError::into_inner);
        if let Of::WeightGrad = of {
            let x = packed(b, inputs)?;
            let mut values = cpu.zeros(cpu.pattern(&matrix.plan).nnz())?;
            cpu.sddmm(&matrix.plan, &a, &x, &mut values, false)?;
            return Ok(values.to_vec());
        }
        let (got, nnz) = (b.len(), matrix.values.len());
        assert!(got == nnz, "SparseLinear: there are {got} values; the pattern has {nnz} entries");
        matrix.values.copy_from_slice(b);
        let (op, to) = match of {
            Of::Output => (Op::NoTranspose, outputs),
            _ => (Op::Transpose, inputs),
        };
        if op == Op::Transpose {
            matrix.refresh(cpu)?;
        }
        let mut y = Strips::zeros(cpu, a.layout.with_features(to))?;
        cpu.spmm(op, &matrix, &a, &mut y)?;
        let mut samples_of_y = vec![0.0; samples * to];
        cpu.unpack_samples(&y, &mut samples_of_y)?;
        Ok(samples_of_y)
    }
}

/// A backend whose numbers the kernels can read.
trait Products: Backend {
    fn product(kernels: &Kernels, of: Of, a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Products for Flex {
    fn product(kernels: &Kernels, of: Of, a: FlexTensor, b: FlexTensor) -> FlexTensor {
        for tensor in [&a, &b] {
            let dtype = tensor.dtype();
            assert!(dtype == DType::F32, "SparseLinear: a tensor is of {dtype:?}; the kernels need F32");
        }
        let (a, b) = (a.to_contiguous(), b.to_contiguous());
        let samples = a.shape()[0];
        // An operation of burn's has no other way to hand on an error.
        let product = kernels
            .product(of, samples, numbers(&a), numbers(&b))
            .unwrap_or_else(|error| panic!("SparseLinear: {error}"));
        let shape = match of {
            Of::Output => vec![samples, kernels.size[0]],
            Of::InputGrad => vec![samples, kernels.size[1]],
            Of::WeightGrad => vec![product.len()],
        };
        FlexTensor::from_data(TensorData::new(product, shape))
    }
}

/// The numbers of a contiguous tensor of f32.
fn numbers(tensor: &FlexTensor) -> &[f32] {
    let (start, end) = tensor.layout().contiguous_offsets().expect("the tensor was made contiguous");
    &tensor.storage()[start..end]
}

/// What burn calls, by the device of the tensors: from it the macro makes the way to these two backends.
#[backend_extension(Flex, Autodiff)]
trait SparseBackend: Backend {
    fn sparse_linear(x: FloatTensor<Self>, values: FloatTensor<Self>, kernels: Arc<Kernels>) -> FloatTensor<Self>;
}

impl SparseBackend for Flex {
    fn sparse_linear(x: FlexTensor, values: FlexTensor, kernels: Arc<Kernels>) -> FlexTensor {
        Self::product(&kernels, Of::Output, x, values)
    }
}

impl<B: Products, C: CheckpointStrategy> SparseBackend for Autodiff<B, C> {
    fn sparse_linear(x: FloatTensor<Self>, values: FloatTensor<Self>, kernels: Arc<Kernels>) -> FloatTensor<Self> {
        match Step.prepare::<C>([x.node(), values.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                // Each gradient needs the other's input.
                let kept = [
                    values.is_tracked().then(|| prep.checkpoint(&x)),
                    x.is_tracked().then(|| prep.checkpoint(&values)),
                ];
                let y = B::product(&kernels, Of::Output, x.into_primitive(), values.into_primitive());
                prep.finish((kept, kernels), y)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::product(&kernels, Of::Output, x.into_primitive(), values.into_primitive()))
            }
        }
    }
}

/// The backward pass, which makes no gradient that nobody asked for.
#[derive(Debug)]
struct Step;

impl<B: Products> Backward<B, 2> for Step {
    type State = ([Option<NodeId>; 2], Arc<Kernels>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (kept, kernels) = ops.state;
        let [x, values] = kept.map(|node| node.map(|node| checkpointer.retrieve_node_output(node)));
        binary::<B, _, _>(
            ops.parents,
            ops.node,
            grads,
            |dy| B::product(&kernels, Of::InputGrad, dy, values.expect("x is tracked, so the values were kept")),
            |dy| B::product(&kernels, Of::WeightGrad, dy, x.expect("the values are tracked, so x was kept")),
        );
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::{Linear, LinearConfig};
    use burn::optim::{GradientsParams, SgdConfig};
    use burn::tensor::{Distribution, Int, Tolerance};

    use super::*;

    fn close<const D: usize>(a: Tensor<D>, b: Tensor<D>) {
        a.into_data().assert_approx_eq::<f32>(&b.into_data(), Tolerance::absolute(1e-4));
    }

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    /// A layer, burn's own layer with the same weights, and the places of the stored ones in it.
    fn layers(
        [outputs, inputs]: [usize; 2],
        nnz: usize,
        threads: usize,
        device: &Device,
    ) -> (SparseLinear, Linear, Tensor<1, Int>) {
        let pattern = Arc::new(random_pattern(outputs, inputs, nnz, Key::new(1)).unwrap());
        let places: Vec<i32> =
            pattern.positions().map(|(row, column)| (column as usize * outputs + row as usize) as i32).collect();
        let [values, bias] = [nnz, outputs].map(|n| Param::from_tensor(random([n], device)));
        let sparse = SparseLinear::of_pattern(pattern, values, bias, threads).unwrap();
        let mut dense = LinearConfig::new(inputs, outputs).init(device);
        dense.weight = Param::from_tensor(sparse.dense_weight());
        dense.bias = Some(Param::from_tensor(sparse.bias.val().detach()));
        (sparse, dense, Tensor::from_data(TensorData::new(places, [nnz]), device))
    }

    const CASES: [([usize; 2], usize, usize, usize); 6] = [
        ([3, 5], 5, 1, 1),
        ([40, 17], 226, 33, 2),
        ([8, 64], 51, 64, 1),
        ([7, 9], 63, 13, 1),
        ([6, 6], 1, 2, 1),
        ([31, 100], 310, 101, 2),
    ];

    #[test]
    fn outputs_and_gradients_are_those_of_a_dense_layer() {
        for device in [Device::flex().autodiff(), Device::flex().autodiff().gradient_checkpointing()] {
            for (size, nnz, samples, threads) in CASES {
                let (sparse, dense, places) = layers(size, nnz, threads, &device);
                let x = random([samples, size[1]], &device).require_grad();
                let dy = random([samples, size[0]], &device);
                let (of_sparse, of_dense) = (sparse.forward(x.clone()), dense.forward(x.clone()));
                close(of_sparse.clone(), of_dense.clone());
                let (of_sparse, of_dense) =
                    ((of_sparse * dy.clone()).sum().backward(), (of_dense * dy).sum().backward());
                close(x.grad(&of_sparse).unwrap(), x.grad(&of_dense).unwrap());
                let bias = dense.bias.unwrap().val();
                close(sparse.bias.val().grad(&of_sparse).unwrap(), bias.grad(&of_dense).unwrap());
                let all = dense.weight.val().grad(&of_dense).unwrap().reshape([-1]);
                close(sparse.values.val().grad(&of_sparse).unwrap(), all.select(0, places.inner()));
            }
        }
    }

    #[test]
    fn inputs_that_are_views_and_layers_without_gradients() {
        let device = Device::flex();
        let (sparse, dense, _) = layers([5, 4], 9, 1, &device);
        let x = random([4, 7], &device).transpose().narrow(0, 2, 3);
        close(sparse.forward(x.clone()), dense.forward(x.clone()));
        // In `Autodiff`, with no gradient to come.
        let device = device.autodiff();
        let (sparse, dense, _) = layers([5, 4], 9, 1, &device);
        let (sparse, x) = (sparse.no_grad(), x.autodiff());
        close(sparse.forward(x.clone()), dense.forward(x.clone()));
        close(sparse.valid().forward(x.clone().inner()), dense.valid().forward(x.clone().inner()));
        let (x, dense) = (x.detach().require_grad(), dense.no_grad());
        let [of_sparse, of_dense] =
            [sparse.forward(x.clone()), dense.forward(x.clone())].map(|y| y.powi_scalar(2).sum().backward());
        close(x.grad(&of_sparse).unwrap(), x.grad(&of_dense).unwrap());
        assert!(sparse.values.val().grad(&of_sparse).is_none());
    }

    #[test]
    fn a_record_keeps_the_values() {
        let device = Device::flex();
        let [saved, other] = [(); 2].map(|()| SparseLinear::new([5, 9], 0.4, 3, 1, &device).unwrap());
        let x = random([4, 9], &device);
        let y = saved.forward(x.clone());
        assert!((other.forward(x.clone()) - y.clone()).abs().max().into_scalar::<f32>() > 1e-3);
        close(other.load_record(saved.into_record()).forward(x), y);
    }

    #[test]
    fn an_optimizer_moves_the_stored_weights_only() {
        let device = Device::flex().autodiff();
        let (sparse, dense, places) = layers([6, 10], 17, 1, &device);
        let x = random([5, 10], &device);
        let loss = |y: Tensor<2>| y.powi_scalar(2).mean().backward();
        let mut optimizers = [SgdConfig::new().init(), SgdConfig::new().init()];
        let gradients = GradientsParams::from_grads(loss(sparse.forward(x.clone())), &sparse);
        assert_eq!(gradients.get::<1>(sparse.values.id).unwrap().dims(), [17]);
        let moved = optimizers[0].step(0.1, sparse.clone(), gradients);
        let gradients = GradientsParams::from_grads(loss(dense.forward(x)), &dense);
        let dense = optimizers[1].step(0.1, dense, gradients);
        close(moved.values.val(), dense.weight.val().reshape([-1]).select(0, places));
        close(moved.bias.val(), dense.bias.unwrap().val());
        let (before, after) = (sparse.dense_weight(), moved.dense_weight());
        close(before.clone().equal_elem(0.0).float(), after.clone().equal_elem(0.0).float());
        assert!((before - after).abs().max().into_scalar::<f32>() > 1e-3);
    }

    #[test]
    fn a_weight_with_no_room_for_its_zeros_has_gradients() {
        let (n, device) = (1_000_000, Device::flex().autodiff());
        // Its dense form would take 4 TB.
        let layer = SparseLinear::new([n, n], 1e-6, 1, 1, &device).unwrap();
        let x = Tensor::<2>::ones([1, n], &device).require_grad();
        let gradients = layer.forward(x.clone()).sum().backward();
        let of_values = layer.values.val().grad(&gradients).unwrap();
        assert_eq!(of_values.dims(), [n]);
        close(of_values, Tensor::ones([n], &device.clone().inner()));
        let sums = [layer.values.val().inner(), x.grad(&gradients).unwrap().reshape([-1])];
        let [of_weights, of_x] = sums.map(|numbers: Tensor<1>| numbers.sum().into_scalar::<f32>());
        assert!((of_weights - of_x).abs() < 1.0, "{of_weights} {of_x}");
    }

    #[test]
    fn no_samples_give_no_outputs() {
        let device = Device::flex().autodiff();
        let (layer, _, _) = layers([3, 5], 7, 1, &device);
        let y = layer.forward(Tensor::zeros([0, 5], &device));
        assert_eq!(y.dims(), [0, 3]);
        close(layer.values.val().grad(&y.sum().backward()).unwrap(), Tensor::zeros([7], &device.inner()));
    }

    #[test]
    fn what_no_layer_can_be_made_of_is_an_error() {
        let device = Device::flex();
        let error = SparseLinear::new([4, 4], 0.0, 1, 1, &device).unwrap_err().to_string();
        assert_eq!(error, "density is 0; it must be above 0 and at most 1");
        let error = SparseLinear::new([4, 4], 0.5, 1, 0, &device).unwrap_err().to_string();
        assert!(error.contains("thread"), "{error}");
        let pattern = Arc::new(random_pattern(4, 6, 9, Key::new(1)).unwrap());
        let of = |values: usize, bias: usize| {
            let [values, bias] = [values, bias].map(|n| Param::from_tensor(Tensor::zeros([n], &device)));
            SparseLinear::of_pattern(pattern.clone(), values, bias, 1).map(|_| ()).map_err(|error| error.to_string())
        };
        assert_eq!(of(9, 4), Ok(()));
        assert_eq!(of(8, 4), Err("8 numbers for the values; the pattern has 9 entries".into()));
        assert_eq!(of(9, 6), Err("6 numbers for the bias; the pattern has 4 rows".into()));
    }

    #[test]
    #[should_panic(expected = "SparseLinear: the input has 5 features; the layer needs 6")]
    fn an_input_of_another_size_panics() {
        let device = Device::flex().autodiff();
        SparseLinear::new([4, 6], 0.5, 1, 1, &device).unwrap().forward(Tensor::zeros([2, 5], &device));
    }

    #[test]
    #[should_panic(expected = "SparseLinear: there are 11 values; the pattern has 12 entries")]
    fn values_of_another_length_panic() {
        let device = Device::flex();
        let mut layer = SparseLinear::new([4, 6], 0.5, 1, 1, &device).unwrap();
        layer.values = Param::from_tensor(Tensor::zeros([11], &device));
        layer.forward(Tensor::zeros([2, 6], &device));
    }

    #[test]
    #[should_panic(expected = "SparseLinear: a tensor is of F64; the kernels need F32")]
    fn an_input_of_another_type_panics() {
        let device = Device::flex();
        let layer = SparseLinear::new([4, 6], 0.5, 1, 1, &device).unwrap();
        layer.forward(Tensor::zeros([2, 6], (&device, DType::F64)));
    }
}
