//! Causal attention.

use sparse_kernels::{Activations, Attention, AttentionGrad, Backend, Precision};

use crate::storage::{Need, strips};
use crate::{Error, Mode, Tape, Var};

const OP: &str = "attention";

impl<B: Backend> Tape<'_, B> {
    /// Causal attention of several heads, see [`sparse_kernels::SequenceNeural::attention`]: lanes are whole sequences, token
    /// t of sequence n being lane `n · length + t`, and the features of q, k and v whole heads. All three stay.
    ///
    /// Backward computes the probabilities again; q, k, v, the output and a sum for each head and lane are held until then.
    ///
    /// # Errors
    /// If the shapes do not fit, or one of the three is gone.
    ///
    /// # Cost
    /// `2 · F · lanes · (length + 1)` operations forward, `5 · F · lanes · (length + 1)` backward.
    pub fn attention(&mut self, attention: Attention, q: Var, k: Var, v: Var) -> Result<Var, Error> {
        let vars = [q, k, v];
        let mut from = [0; 3];
        for (storage, var) in from.iter_mut().zip(vars) {
            *storage = self.values.read(OP, var)?;
            self.values.strip_layout(OP, var)?;
        }
        let backend = self.backend;
        let layout = self.values.strip_layout(OP, q)?;
        let mut o = self.arena.take(backend, layout)?;
        let mut lse = self.arena.take_in(backend, Precision::F32, layout.with_features(attention.heads))?;
        backend.attention(attention, from.map(|storage| self.values.strips(storage)), &mut o, &mut lse)?;
        let saved = vars.map(|var| self.values.save(OP, var, Some(Need::Exact)));
        let requires_grad = vars.iter().any(|&var| self.values.requires_grad(var));
        // One may be given twice.
        for (i, &var) in vars.iter().enumerate() {
            if !vars[..i].contains(&var) {
                self.used(OP, var);
            }
        }
        let output = self.values.push(o.into(), requires_grad);
        if self.mode() == Mode::Evaluation || !requires_grad {
            self.arena.give(backend, lse);
            return Ok(output);
        }
        let output_saved = self.values.save(OP, output, Some(Need::Exact));
        self.record(q, output, None, move |pass, grad| {
            let tape = &mut *pass.tape;
            let mut taken = [None, None, None];
            for to in &mut taken {
                *to = Some(tape.arena.take(backend, layout)?);
            }
            let [Some(mut dq), Some(mut dk), Some(mut dv)] = taken else { unreachable!("all three were taken") };
            for saved in saved.into_iter().chain([output_saved]) {
                // Sets the layout, if an operation in place has changed it since.
                tape.values.saved(saved);
            }
            let [q, k, v] = saved.map(|saved| tape.values.strips(saved.storage));
            let operands = AttentionGrad {
                q,
                k,
                v,
                o: tape.values.strips(output_saved.storage),
                lse: &lse,
                grad: strips(&grad),
                dq: &mut dq,
                dk: &mut dk,
                dv: &mut dv,
            };
            backend.attention_grad(attention, operands)?;
            tape.arena.give(backend, lse);
            pass.release(grad);
            for (var, gradient) in vars.into_iter().zip([dq, dk, dv]) {
                pass.accumulate(var, Activations::from(gradient))?;
            }
            Ok(())
        });
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{Attention, Storage, StripLayout, Strips};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense, normals};
    use crate::{Arena, Error, Mode, Parameters, Tape};

    #[test]
    fn gradients_are_those_of_central_differences() {
        for (heads, length, count, rotary) in
            [(1, 1, 3, None), (2, 5, 2, None), (3, 7, 1, Some(10.0)), (2, 35, 1, None)]
        {
            let (lanes, features) = (length * count, 6);
            let mut parameters = Parameters::new();
            let weights = ["q", "k", "v"].map(|name| dense(&mut parameters, name, features, features));
            let input = (StripLayout::sparse(lanes, features), &normals("x", features * lanes)[..]);
            let report = gradcheck(&cpu(), &mut parameters, input, 0.01, |tape, x| {
                let [q, k, v] = weights.map(|weight| tape.apply(weight, x));
                let y = tape.attention(Attention { heads, length, rotary }, q?, k?, v?)?;
                Ok(Objective::Output(tape.apply(weights[0], y)?))
            });
            let error = report.unwrap().max_error();
            assert!(error < 5e-3, "{heads} {length} {count}: {error}");
        }
    }

    /// One value as queries, keys and values at once: its gradient is the sum of all three.
    #[test]
    fn one_value_thrice() {
        let input = (StripLayout::sparse(6, 4), &normals("x", 24)[..]);
        let attention = Attention { heads: 2, length: 3, rotary: None };
        let report = gradcheck(&cpu(), &mut Parameters::new(), input, 0.01, |tape, x| {
            Ok(Objective::Output(tape.attention(attention, x, x, x)?))
        });
        assert!(report.unwrap().max_error() < 5e-3);
    }

    #[test]
    fn evaluation_gives_buffers_back_and_wrong_shapes_are_refused() {
        let cpu = cpu();
        let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
        let attention = Attention { heads: 2, length: 3, rotary: None };
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Evaluation);
        let input = |tape: &mut Tape<'_, _>, features: usize| {
            let layout = StripLayout::sparse(6, features);
            tape.input(Strips { layout, data: cpu.zeros(layout.len()).unwrap() }, false)
        };
        let (x, other) = (input(&mut tape, 4), input(&mut tape, 6));
        assert!(tape.attention(attention, x, other, x).is_err());
        assert!(tape.attention(Attention { length: 4, ..attention }, x, x, x).is_err());
        let y = tape.attention(attention, x, x, x).unwrap();
        assert!(matches!(tape.attention(attention, x, y, y), Err(Error::Released { .. })));
        assert!(tape.value(y).is_ok());
    }
}
