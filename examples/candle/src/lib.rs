//! A linear layer for candle whose weight is sparse: a custom operation with its backward pass, on the CPU.
//!
//! The values are a variable of candle's, so its optimizers train them. The pattern is fixed here; `rigl::topology` has what changes it.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp2, DType, Error, Layout, Module, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder};
use rigl::topology::random_pattern;
use sparse_kernels::cpu::Cpu;
use sparse_kernels::random::Key;
use sparse_kernels::{CsrPattern, Op, PlanOptions, SparseLinear as _, SparseMatrix, Storage, StripLayout, Strips};

/// `y = x · Wᵀ + bias`, W of shape `[outputs, inputs]` with some of its weights.
#[derive(Debug, Clone)]
pub struct SparseLinear {
    kernels: Arc<Kernels>,
    /// One value for each stored weight, row by row.
    pub values: Tensor,
    /// One number for each output.
    pub bias: Tensor,
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
    /// If the density is none, or candle refuses the variables.
    pub fn new(
        [outputs, inputs]: [usize; 2],
        density: f64,
        seed: u64,
        threads: usize,
        vb: VarBuilder<'_>,
    ) -> Result<Self> {
        if !(density > 0.0 && density <= 1.0) {
            return Err(Error::Msg(format!("density is {density}; it must be above 0 and at most 1")));
        }
        let nnz = ((density * (outputs * inputs) as f64).round() as usize).max(1);
        let pattern = random_pattern(outputs, inputs, nnz, Key::new(seed)).map_err(Error::wrap)?;
        let bound = (inputs as f64 * density).recip().sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        let values = vb.get_with_hints(nnz, "values", init)?;
        let bias = vb.get_with_hints(outputs, "bias", Init::Const(0.0))?;
        Self::of_pattern(Arc::new(pattern), values, bias, threads)
    }

    /// A layer of a pattern, with its values and bias.
    ///
    /// # Errors
    /// If the values are not as many as the pattern has entries.
    pub fn of_pattern(pattern: Arc<CsrPattern>, values: Tensor, bias: Tensor, threads: usize) -> Result<Self> {
        if values.dims() != [pattern.nnz()] {
            let (got, expected) = (values.dims(), pattern.nnz());
            return Err(Error::Msg(format!("the values have shape {got:?}; the pattern has {expected} entries")));
        }
        let cpu = Cpu::new(threads, None).map_err(Error::wrap)?;
        let size = [pattern.nrows(), pattern.ncols()];
        let options = PlanOptions { transpose: true, ..PlanOptions::default() };
        let zeros = vec![0.0; pattern.nnz()];
        let matrix = Mutex::new(SparseMatrix::new(&cpu, pattern, &zeros, options).map_err(Error::wrap)?);
        Ok(Self { kernels: Arc::new(Kernels { cpu, size, matrix }), values, bias })
    }

    /// The weight with its zeros.
    ///
    /// # Errors
    /// If candle cannot read the values.
    pub fn dense_weight(&self) -> Result<Tensor> {
        let matrix = self.kernels.matrix.lock().unwrap_or_else(PoisonError::into_inner);
        let ([rows, columns], values) = (self.kernels.size, self.values.to_vec1::<f32>()?);
        let mut dense = vec![0.0; rows * columns];
        for ((row, column), value) in self.kernels.cpu.pattern(&matrix.plan).positions().zip(values) {
            dense[row as usize * columns + column as usize] = value;
        }
        Tensor::from_vec(dense, (rows, columns), self.values.device())
    }
}

impl Module for SparseLinear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product =
            x.contiguous()?.apply_op2(&self.values, Product { kernels: self.kernels.clone(), of: Of::Output })?;
        product.broadcast_add(&self.bias)
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

struct Product {
    kernels: Arc<Kernels>,
    of: Of,
}

impl Product {
    fn of(&self, of: Of) -> Self {
        Self { kernels: self.kernels.clone(), of }
    }
}

/// The numbers of a contiguous tensor of f32.
fn numbers<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(all) = storage else {
        return Err(Error::UnsupportedDTypeForOp(storage_type(storage), "sparse-linear").bt());
    };
    let (start, end) =
        layout.contiguous_offsets().ok_or_else(|| Error::RequiresContiguous { op: "sparse-linear" }.bt())?;
    Ok(&all[start..end])
}

fn storage_type(storage: &CpuStorage) -> DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "sparse-linear"
    }

    fn cpu_fwd(&self, a: &CpuStorage, of_a: &Layout, b: &CpuStorage, of_b: &Layout) -> Result<(CpuStorage, Shape)> {
        let ([outputs, inputs], cpu) = (self.kernels.size, &self.kernels.cpu);
        let features = if let Of::Output = self.of { inputs } else { outputs };
        let (samples, got) = of_a.shape().dims2()?;
        if got != features {
            return Err(Error::Msg(format!("the input has {got} features; the layer needs {features}")));
        }
        let packed = |numbers: &[f32], features: usize| -> Result<Strips<Cpu>> {
            let mut strips = Strips::zeros(cpu, StripLayout::sparse(samples, features)).map_err(Error::wrap)?;
            cpu.pack_samples(numbers, &mut strips).map_err(Error::wrap)?;
            Ok(strips)
        };
        let (a, b) = (packed(numbers(a, of_a)?, features)?, numbers(b, of_b)?);
        let mut matrix = self.kernels.matrix.lock().unwrap_or_else(PoisonError::into_inner);
        if let Of::WeightGrad = self.of {
            let x = packed(b, inputs)?;
            let mut values = cpu.zeros(cpu.pattern(&matrix.plan).nnz()).map_err(Error::wrap)?;
            cpu.sddmm(&matrix.plan, &a, &x, &mut values, false).map_err(Error::wrap)?;
            return Ok((CpuStorage::F32(values.to_vec()), Shape::from(values.len())));
        }
        matrix.values.copy_from_slice(b);
        let (op, to) = match self.of {
            Of::Output => (Op::NoTranspose, outputs),
            _ => (Op::Transpose, inputs),
        };
        if op == Op::Transpose {
            matrix.refresh(cpu).map_err(Error::wrap)?;
        }
        let mut y = Strips::zeros(cpu, a.layout.with_features(to)).map_err(Error::wrap)?;
        cpu.spmm(op, &matrix, &a, &mut y).map_err(Error::wrap)?;
        let mut samples_of_y = vec![0.0; samples * to];
        cpu.unpack_samples(&y, &mut samples_of_y).map_err(Error::wrap)?;
        Ok((CpuStorage::F32(samples_of_y), Shape::from((samples, to))))
    }

    fn bwd(&self, x: &Tensor, values: &Tensor, _: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let dy = dy.contiguous()?;
        let dx = dy.apply_op2_no_bwd(values, &self.of(Of::InputGrad))?;
        let dvalues = dy.apply_op2_no_bwd(x, &self.of(Of::WeightGrad))?;
        Ok((Some(dx), Some(dvalues)))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn close(a: &Tensor, b: &Tensor) {
        let apart = (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(a.dims() == b.dims() && apart < 1e-4, "{apart}");
    }

    #[test]
    fn outputs_and_gradients_are_those_of_a_dense_layer() -> Result<()> {
        let device = Device::Cpu;
        for (samples, inputs, outputs, threads) in [(1, 5, 3, 1), (33, 17, 40, 2), (64, 64, 8, 1)] {
            let pattern = Arc::new(random_pattern(outputs, inputs, outputs * inputs / 3, Key::new(1)).unwrap());
            let values = Var::randn(0f32, 1.0, pattern.nnz(), &device)?;
            let bias = Var::randn(0f32, 1.0, outputs, &device)?;
            let layer = SparseLinear::of_pattern(
                pattern.clone(),
                values.as_tensor().clone(),
                bias.as_tensor().clone(),
                threads,
            )?;
            let (x, dy) = (
                Var::randn(0f32, 1.0, (samples, inputs), &device)?,
                Tensor::randn(0f32, 1.0, (samples, outputs), &device)?,
            );
            let weight = Var::from_tensor(&layer.dense_weight()?)?;
            let sparse = layer.forward(&x)?;
            let dense = x.matmul(&weight.t()?)?.broadcast_add(&bias)?;
            close(&sparse, &dense);
            let of_sparse = (sparse * &dy)?.sum_all()?.backward()?;
            let of_dense = (dense * &dy)?.sum_all()?.backward()?;
            close(of_sparse.get(&x).unwrap(), of_dense.get(&x).unwrap());
            close(of_sparse.get(&bias).unwrap(), of_dense.get(&bias).unwrap());
            let all = of_dense.get(&weight).unwrap().to_vec2::<f32>()?;
            let stored: Vec<f32> =
                pattern.positions().map(|(row, column)| all[row as usize][column as usize]).collect();
            close(of_sparse.get(&values).unwrap(), &Tensor::new(stored, &device)?);
        }
        Ok(())
    }

    #[test]
    fn wrong_use_says_what_is_right() -> Result<()> {
        let vb = VarBuilder::zeros(DType::F32, &Device::Cpu);
        let error = SparseLinear::new([4, 4], 0.0, 1, 1, vb.clone()).unwrap_err().to_string();
        assert!(error.contains("density is 0; it must be above 0"), "{error}");
        let layer = SparseLinear::new([4, 6], 0.5, 1, 1, vb)?;
        let error = layer.forward(&Tensor::zeros((2, 5), DType::F32, &Device::Cpu)?).unwrap_err().to_string();
        assert!(error.contains("the input has 5 features; the layer needs 6"), "{error}");
        assert!(layer.forward(&Tensor::zeros((2, 6), DType::F64, &Device::Cpu)?).is_err());
        Ok(())
    }
}
