//! `Y = W · X` with a block-sparse weight.

use sparse_kernels::{Backend, Op};

use crate::tape::{Need, strips};
use crate::{Error, ParameterId, ParameterValue, Tape, Var};

const OP: &str = "block_sparse_linear";

impl<B: Backend> Tape<'_, B> {
    /// `Y[m, n] = W[m, k] · X[k, n]` with a block-sparse parameter `W`.
    ///
    /// Backward: `dX = Wᵀ · dY` if X asks for a gradient (the parameter's plan then needs its transpose), and
    /// `dW[i, j] = Σ_n dY[i, n] · X[j, n]` at the entries of the stored blocks, 0 in their padding; or, with a growth
    /// request, the pair (dY, X) is kept for the parameter's last use.
    ///
    /// # Errors
    /// If `weight` is not block-sparse, the shapes do not fit, or `x` is gone.
    ///
    /// # Cost
    /// `2 · nnz · n` operations forward, as much again for each of dX and dW; nnz counts padding.
    pub fn block_sparse_linear(&mut self, weight: ParameterId, x: Var) -> Result<Var, Error> {
        let storage = self.read(OP, x)?;
        let nrows = self.backend.block_pattern(&self.parameters.block_sparse(OP, weight)?.plan).nrows();
        let layout = self.strip_layout(OP, x)?;
        let mut y = self.arena.take(self.backend, layout.with_features(nrows))?;
        let w = self.parameters.block_sparse(OP, weight)?;
        self.backend.spmm_bsr(Op::NoTranspose, w, self.stored(storage), &mut y)?;
        let saved = self.save(OP, x, Some(Need::Exact));
        let output = self.push_output(OP, x, y);
        self.record(x, output, Some(weight), move |pass, dy| {
            if pass.tape.requires_grad(x) {
                let backend = pass.tape.backend;
                let mut dx = pass.tape.arena.take(backend, layout)?;
                backend.spmm_bsr(
                    Op::Transpose,
                    pass.tape.parameters.block_sparse(OP, weight)?,
                    strips(&dy),
                    &mut dx,
                )?;
                pass.accumulate(x, dx)?;
            }
            if pass.grows(weight) {
                pass.wait_for_growth(weight, dy, saved);
            } else {
                let (backend, x, value, gradient, accumulate) = pass.weight_gradient(weight, saved)?;
                let ParameterValue::BlockSparse(w) = value else {
                    unreachable!("forward found a block-sparse parameter")
                };
                backend.sddmm_bsr(&w.plan, strips(&dy), strips(x), gradient, accumulate)?;
                pass.release(dy);
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
    use crate::tests::{block_sparse, cpu, normals, sparse};
    use crate::{Arena, Error, Mode, Parameters, Tape};

    /// Blocks that fit, that reach beyond one edge, and that are larger than the matrix. Padding, which no output depends
    /// on, must have a gradient of 0.
    #[test]
    fn gradients_are_those_of_central_differences() {
        for (block_size, lanes, density) in
            [([1, 1], 5, 0.4), ([2, 4], 1, 0.6), ([4, 2], 40, 0.6), ([8, 8], 5, 1.0), ([16, 16], 32, 1.0)]
        {
            let cpu = cpu();
            let mut parameters = Parameters::new();
            let w = block_sparse(&mut parameters, "w", [6, 9], block_size, density);
            let input = (StripLayout::sparse(lanes, 9), &normals("x", 9 * lanes)[..]);
            let report = gradcheck(&cpu, &mut parameters, input, 0.1, |tape, x| {
                Ok(Objective::Output(tape.block_sparse_linear(w, x)?))
            });
            let report = report.unwrap();
            assert!(report.max_error() < 1e-4, "{block_size:?}: {}", report.max_error());
            assert!(report.entries.iter().any(|e| e.name == "w" && e.analytic != 0.0));
        }
    }

    #[test]
    fn other_kinds_are_refused() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let csr = sparse(&mut parameters, "csr", 4, 3, 0.5, true);
        let bsr = block_sparse(&mut parameters, "bsr", [4, 3], [2, 2], 1.0);
        let mut arena = Arena::new();
        let x = arena.take(&cpu, StripLayout::sparse(2, 3)).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, false);
        assert!(matches!(tape.block_sparse_linear(csr, x), Err(Error::Kind { got: "sparse matrix", .. })));
        assert!(matches!(tape.sparse_linear(bsr, x), Err(Error::Kind { got: "block-sparse matrix", .. })));
        assert!(tape.linear(bsr, x).is_ok() && tape.linear(csr, x).is_ok());
    }
}
