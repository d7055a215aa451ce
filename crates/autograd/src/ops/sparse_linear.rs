//! `Y = W · X` with a sparse weight.

use sparse_kernels::{Backend, Op};

use crate::tape::Need;
use crate::{Error, ParameterId, ParameterValue, Tape, Var};

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
        let storage = self.read(OP, x)?;
        let nrows = self.backend.pattern(&self.parameters.sparse(OP, weight)?.plan).nrows();
        let layout = self.layout(x);
        let mut y = self.arena.take(self.backend, layout.with_features(nrows))?;
        let w = self.parameters.sparse(OP, weight)?;
        self.backend.spmm(Op::NoTranspose, w, self.stored(storage), &mut y)?;
        let saved = self.save(OP, x, Some(Need::Exact));
        let output = self.push_output(OP, x, y);
        self.record(x, output, Some(weight), move |pass, dy| {
            if pass.tape.requires_grad(x) {
                let backend = pass.tape.backend;
                let mut dx = pass.tape.arena.take(backend, layout)?;
                backend.spmm(Op::Transpose, pass.tape.parameters.sparse(OP, weight)?, &dy, &mut dx)?;
                pass.accumulate(x, dx)?;
            }
            if pass.grows(weight) {
                pass.wait_for_growth(weight, dy, saved);
            } else {
                let (backend, x, value, gradient, accumulate) = pass.weight_gradient(weight, saved)?;
                let ParameterValue::Sparse(w) = value else { unreachable!("forward found a sparse parameter") };
                backend.sddmm(&w.plan, &dy, x, gradient, accumulate)?;
                pass.tape.arena.give(backend, dy);
            }
            pass.use_done(weight)
        });
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::StripLayout;

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, normals, sparse};
    use crate::{Arena, Error, Mode, Parameters, Tape};
    use sparse_kernels::Storage;

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
