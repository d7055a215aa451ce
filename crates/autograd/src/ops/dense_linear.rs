//! `Y = W · X` with a dense weight.

use sparse_kernels::{Backend, Op, ShapeError};

use crate::tape::{Need, strips};
use crate::{Error, ParameterId, Tape, Var};

const OP: &str = "dense_linear";

impl<B: Backend> Tape<'_, B> {
    /// `Y[m, n] = W[m, k] · X[k, n]` with a dense parameter `W`.
    ///
    /// Backward: `dX = Wᵀ · dY` if X asks for a gradient, and `dW = dY · Xᵀ`.
    ///
    /// # Errors
    /// If `weight` is not dense, the shapes do not fit, or `x` is gone.
    ///
    /// # Cost
    /// `2 · m · k · n` operations forward, as much again for each of dX and dW.
    pub fn dense_linear(&mut self, weight: ParameterId, x: Var) -> Result<Var, Error> {
        let storage = self.read(OP, x)?;
        let (_, nrows, ncols) = self.parameters.dense(OP, weight)?;
        let layout = self.strip_layout(OP, x)?;
        if layout.features() != ncols {
            let (what, expected) = ("rows of X", ncols);
            return Err(ShapeError::Mismatch { op: OP, what, expected, got: layout.features() }.into());
        }
        let mut y = self.arena.take(self.backend, layout.with_features(nrows))?;
        let (w, ..) = self.parameters.dense(OP, weight)?;
        self.backend.gemm(Op::NoTranspose, w, self.stored(storage), &mut y)?;
        let saved = self.save(OP, x, Some(Need::Exact));
        let output = self.push_output(OP, x, y);
        self.record(x, output, Some(weight), move |pass, dy| {
            if pass.tape.requires_grad(x) {
                let backend = pass.tape.backend;
                let mut dx = pass.tape.arena.take(backend, layout)?;
                backend.gemm(Op::Transpose, pass.tape.parameters.dense(OP, weight)?.0, strips(&dy), &mut dx)?;
                pass.accumulate(x, dx)?;
            }
            let (backend, x, _, gradient, accumulate) = pass.weight_gradient(weight, saved)?;
            backend.gemm_weight_grad(strips(&dy), strips(x), gradient, accumulate)?;
            pass.release(dy);
            pass.use_done(weight)
        });
        Ok(output)
    }

    /// [`Tape::sparse_linear`], [`Tape::block_sparse_linear`] or [`Tape::dense_linear`], as the parameter is.
    ///
    /// # Errors
    /// As those.
    pub fn linear(&mut self, weight: ParameterId, x: Var) -> Result<Var, Error> {
        if self.parameters.sparse(OP, weight).is_ok() {
            self.sparse_linear(weight, x)
        } else if self.parameters.block_sparse(OP, weight).is_ok() {
            self.block_sparse_linear(weight, x)
        } else {
            self.dense_linear(weight, x)
        }
    }

    /// [`Tape::linear`] and [`Tape::bias_relu`]; in one pass where the weight is sparse.
    ///
    /// # Errors
    /// As those.
    pub fn linear_bias_relu(
        &mut self,
        weight: ParameterId,
        bias: ParameterId,
        relu: bool,
        x: Var,
    ) -> Result<Var, Error> {
        if self.parameters.sparse(OP, weight).is_ok() {
            return self.sparse_linear_bias_relu(weight, bias, relu, x);
        }
        let y = self.linear(weight, x)?;
        self.bias_relu(bias, relu, y)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::StripLayout;

    use crate::Parameters;
    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense, normals};

    #[test]
    fn gradients_are_those_of_central_differences() {
        for layout in [StripLayout::sparse(5, 9), StripLayout::sparse(40, 9), StripLayout::single(40, 9)] {
            let cpu = cpu();
            let mut parameters = Parameters::new();
            let w = dense(&mut parameters, "w", 6, 9);
            let input = (layout, &normals("x", 9 * layout.lanes())[..]);
            let report =
                gradcheck(&cpu, &mut parameters, input, 0.1, |tape, x| Ok(Objective::Output(tape.linear(w, x)?)));
            assert!(report.unwrap().max_error() < 1e-4);
        }
    }
}
