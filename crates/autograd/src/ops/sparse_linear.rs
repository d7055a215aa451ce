//! `Y = W · X` with a sparse weight.

use sparse_kernels::{Backend, Op, SparseMatrix, Strips};

use crate::tape::{Need, strips};
use crate::{Error, ParameterId, ParameterValue, Parameters, Tape, Var};

const OP: &str = "sparse_linear";

impl<B: Backend> Tape<'_, B> {
    /// `Y[m, n] = W[m, k] · X[k, n]` with a sparse parameter `W`.
    ///
    /// Backward: `dX = Wᵀ · dY` if X asks for a gradient (the parameter's plan then needs its transpose), and
    /// `dW[i, j] = Σ_n dY[i, n] · X[j, n]` at the stored entries only; or, with a growth request, the pair (dY, X) is
    /// kept for the parameter's last use.
    ///
    /// # Errors
    /// If `weight` is not sparse, the shapes do not fit, or `x` is gone.
    ///
    /// # Cost
    /// `2 · nnz · n` operations forward, as much again for each of dX and dW.
    pub fn sparse_linear(&mut self, weight: ParameterId, x: Var) -> Result<Var, Error> {
        self.sparse_product(weight, x, |backend, _, w, x, y| Ok(backend.spmm(Op::NoTranspose, w, x, y)?))
    }

    /// [`Tape::sparse_linear`] and [`Tape::bias_relu`] in one pass over Y.
    ///
    /// # Errors
    /// As those.
    ///
    /// # Cost
    /// As those, but for the forward pass over Y.
    pub fn sparse_linear_bias_relu(
        &mut self,
        weight: ParameterId,
        bias: ParameterId,
        relu: bool,
        x: Var,
    ) -> Result<Var, Error> {
        let y = self.sparse_product(weight, x, |backend, parameters, w, x, y| {
            Ok(backend.spmm_bias_relu(w, parameters.vector(OP, bias)?, relu, x, y)?)
        })?;
        Ok(self.record_bias_relu(bias, relu, y))
    }

    /// Y by `product` of backend, parameters, W and X, and the backward pass of `Y = W · X`.
    fn sparse_product(
        &mut self,
        weight: ParameterId,
        x: Var,
        product: impl FnOnce(&B, &Parameters<B>, &SparseMatrix<B>, &Strips<B>, &mut Strips<B>) -> Result<(), Error>,
    ) -> Result<Var, Error> {
        let storage = self.read(OP, x)?;
        let nrows = self.backend.pattern(&self.parameters.sparse(OP, weight)?.plan).nrows();
        let layout = self.strip_layout(OP, x)?;
        let mut y = self.arena.take(self.backend, layout.with_features(nrows))?;
        let w = self.parameters.sparse(OP, weight)?;
        product(self.backend, self.parameters, w, self.stored(storage), &mut y)?;
        let saved = self.save(OP, x, Some(Need::Exact));
        let output = self.push_output(OP, x, y);
        self.record(x, output, Some(weight), move |pass, dy| {
            if pass.tape.requires_grad(x) {
                let backend = pass.tape.backend;
                let mut dx = pass.tape.arena.take(backend, layout)?;
                backend.spmm(Op::Transpose, pass.tape.parameters.sparse(OP, weight)?, strips(&dy), &mut dx)?;
                pass.accumulate(x, dx)?;
            }
            if pass.grows(weight) {
                pass.wait_for_growth(weight, dy, saved);
            } else {
                let (backend, x, value, gradient, accumulate) = pass.weight_gradient(weight, saved)?;
                match value {
                    ParameterValue::Sparse(w) => {
                        backend.sddmm(&w.plan, strips(&dy), strips(x), gradient, accumulate)?
                    }
                    // What takes no part learns, too.
                    _ => backend.gemm_weight_grad(strips(&dy), strips(x), gradient, accumulate)?,
                }
                pass.add_dense_gradient(weight, &dy, saved)?;
                pass.release(dy);
            }
            pass.use_done(weight)
        });
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{Activations, Storage, StripLayout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, normals, sparse};
    use crate::{Arena, Error, GrowthRequests, Mode, NoReduce, Parameters, Tape};

    #[test]
    fn gradients_are_those_of_central_differences() {
        for lanes in [1, 5, 32, 40] {
            let cpu = cpu();
            let mut parameters = Parameters::new();
            let w = sparse(&mut parameters, "w", 6, 9, 0.4, true);
            let input = (StripLayout::sparse(lanes, 9), &normals("x", 9 * lanes)[..]);
            let report = gradcheck(&cpu, &mut parameters, input, 0.1, |tape, x| {
                Ok(Objective::Output(tape.sparse_linear(w, x)?))
            });
            assert!(report.unwrap().max_error() < 1e-4);
        }
    }

    fn fill(activations: &mut Activations<sparse_kernels::cpu::Cpu>, name: &str) {
        let Activations::Strips(strips) = activations else { unreachable!("linear layers have strips") };
        let layout = strips.layout;
        let values = normals(name, layout.features() * layout.lanes());
        for (i, value) in values.into_iter().enumerate() {
            strips.data[layout.index(i / layout.lanes(), i % layout.lanes())] = value;
        }
    }

    #[test]
    fn fused_with_bias_and_relu_it_is_the_same() {
        for (relu, lanes) in [(false, 5), (true, 5), (true, 40)] {
            let cpu = cpu();
            let mut parameters = Parameters::new();
            let w = sparse(&mut parameters, "w", 6, 9, 0.4, true);
            let bias = parameters.add_vector("bias", cpu.zeros(6).unwrap());
            parameters.upload_values(&cpu, bias, &[0.5, -0.25, 0.0, 1.0, -3.0, 3.0]).unwrap();
            // What is summed up differently rounds differently.
            let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5);
            let mut results = Vec::new();
            for fused in [true, false] {
                let mut arena = Arena::new();
                let mut x = arena.take_activations(&cpu, StripLayout::sparse(lanes, 9).into()).unwrap();
                fill(&mut x, "x");
                let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
                let x = tape.input(x, true);
                let y = if fused {
                    tape.sparse_linear_bias_relu(w, bias, relu, x).unwrap()
                } else {
                    let y = tape.sparse_linear(w, x).unwrap();
                    tape.bias_relu(bias, relu, y).unwrap()
                };
                let mut seed = Activations::zeros(&cpu, tape.layout(y)).unwrap();
                fill(&mut seed, "dy");
                let output = tape.value(y).unwrap().data().to_vec();
                tape.backward_from(vec![(y, seed)], &mut GrowthRequests::new(), &mut NoReduce).unwrap();
                let dx = tape.gradient(x).unwrap().data().to_vec();
                drop(tape);
                let gradient = |id| parameters.get(id).gradient().unwrap().to_vec();
                results.push([output, dx, gradient(w), gradient(bias)]);
            }
            let [fused, apart] = &results[..] else { unreachable!("two were made") };
            assert!(fused.iter().zip(apart).all(|(a, b)| near(a, b)), "relu {relu}, {lanes} lanes");
            assert!(fused[0].iter().any(|&y| y < 0.0) != relu);
        }
    }

    #[test]
    fn other_kinds_are_refused() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let bias = parameters.add_vector("bias", cpu.zeros(3).unwrap());
        let mut arena = Arena::new();
        let x = arena.take(&cpu, StripLayout::sparse(2, 3)).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, false);
        assert!(matches!(tape.sparse_linear(bias, x), Err(Error::Kind { got: "vector", .. })));
    }
}
