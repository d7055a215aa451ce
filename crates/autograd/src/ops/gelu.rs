//! GELU.

use sparse_kernels::{Backend, Gelu};

use crate::storage::{Need, Recipe, Values, strips};
use crate::{Arena, Error, Parameters, Tape, Var};

const OP: &str = "gelu";

impl<B: Backend> Tape<'_, B> {
    /// `y = x · Φ(x)`, see [`Gelu`]. `x` stays: backward needs it.
    ///
    /// Backward, in place on dY: `dX = dY · (Φ(x) + x · Φ'(x))`.
    ///
    /// # Errors
    /// If `x` is gone.
    ///
    /// # Cost
    /// One pass over X and Y forward, one over X and dY backward.
    pub fn gelu(&mut self, kind: Gelu, x: Var) -> Result<Var, Error> {
        let (storage, layout) = (self.values.read(OP, x)?, self.values.strip_layout(OP, x)?);
        let backend = self.backend;
        let mut y = self.arena.take(backend, layout)?;
        backend.gelu(kind, self.values.strips(storage), &mut y)?;
        let (saved, requires_grad) = (self.values.save(OP, x, Some(Need::Exact)), self.values.requires_grad(x));
        self.used(OP, x);
        let output = self.values.push(y.into(), requires_grad);
        self.set_recipe(output, || {
            let compute = move |backend: &B, arena: &mut Arena<B>, _: &Parameters<B>, values: &Values<B>| {
                let mut y = arena.take(backend, layout)?;
                backend.gelu(kind, values.strips(storage), &mut y)?;
                Ok(y.into())
            };
            Recipe { from: vec![storage], compute: Box::new(compute) }
        });
        self.record(x, output, None, move |pass, dy| {
            let mut dy = pass.own_strips(dy)?;
            backend.gelu_grad(kind, strips(pass.tape.values.saved(saved)), &mut dy)?;
            pass.accumulate(x, dy)
        });
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{Gelu, StripLayout};

    use crate::Parameters;
    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, normals};

    #[test]
    fn gradients_are_those_of_central_differences() {
        for kind in [Gelu::Tanh, Gelu::Exact] {
            let input = (StripLayout::sparse(40, 3), &normals("x", 120)[..]);
            let report = gradcheck(&cpu(), &mut Parameters::new(), input, 0.02, |tape, x| {
                Ok(Objective::Output(tape.gelu(kind, x)?))
            });
            assert!(report.unwrap().max_error() < 1e-3, "{kind:?}");
        }
    }
}
