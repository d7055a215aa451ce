//! Rows of tables, one for each token: the start of a sequence model.

use std::sync::Arc;

use sparse_kernels::{Backend, StripLayout};

use crate::error::expect_equal;
use crate::tape::ParameterGradient;
use crate::{Error, Mode, ParameterId, Tape, Var};

const OP: &str = "embed";

impl<'a, B: Backend> Tape<'a, B> {
    /// `X[f, n] = W[tokens[n], f] + P[n % length, f]`, with dense matrices W, a row for each symbol, and, if given, P, a row
    /// for each of `length` places: token t of sequence n is lane `n · length + t` of `lanes`, whose features are W's
    /// columns. A token that is no symbol makes its lane NaN.
    ///
    /// Backward: each lane's gradient is added to the rows that it came from, in the order of the lanes. [`Tape::apply`] of
    /// the same W is the output layer that is tied to it, and adds to the same gradient.
    ///
    /// # Errors
    /// If W or P is no dense matrix, the shapes do not fit, or there is not a token for each lane.
    ///
    /// # Cost
    /// One pass over X forward; one over dX backward, and another for P.
    pub fn embed(
        &mut self,
        table: ParameterId,
        positions: Option<ParameterId>,
        tokens: &Arc<B::Indices>,
        lanes: StripLayout,
    ) -> Result<Var, Error> {
        let backend = self.backend;
        let (rows, [_, features]) = self.parameters.dense_matrix(OP, backend, table)?;
        let places = match positions {
            Some(positions) => {
                let (places, [length, columns]) = self.parameters.dense_matrix(OP, backend, positions)?;
                expect_equal(OP, "number of columns of the positions", features, columns)?;
                Some((places, length))
            }
            None => None,
        };
        let mut x = self.arena.take(backend, lanes.with_features(features))?;
        backend.embed(rows, places, tokens, &mut x)?;
        let length = places.map(|(_, length)| length);
        let output = self.values.push(x.into(), self.mode() == Mode::Training);
        let (tokens, used) = (tokens.clone(), [Some(table), positions]);
        let used: Vec<ParameterId> = used.into_iter().flatten().collect();
        self.record_source(output, &used, move |pass, dx| {
            let strips = crate::storage::strips(&dx);
            let ParameterGradient { backend, gradient, accumulate, .. } = pass.parameter_gradient(table)?;
            backend.embed_grad(&tokens, strips, gradient, accumulate)?;
            if let (Some(positions), Some(length)) = (positions, length) {
                let ParameterGradient { backend, gradient, accumulate, .. } = pass.parameter_gradient(positions)?;
                backend.embed_positions_grad(length, strips, gradient, accumulate)?;
                pass.use_done(positions)?;
            }
            pass.release(dx);
            pass.use_done(table)
        });
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{Activations, Storage, Strips};

    use super::*;
    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{Recorder, cpu, dense, normals, sparse};
    use crate::{Arena, GrowthRequests, Parameters, Shards};

    /// Tokens of 3 symbols.
    fn tokens(lanes: usize) -> Arc<Vec<u32>> {
        Arc::new((0..lanes as u32).map(|i| i * i % 3).collect())
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        for (lanes, strip) in [(1, 32), (5, 32), (40, 32), (40, 48)] {
            for (length, tied) in [(0, false), (4, false), (4, true)] {
                let mut parameters = Parameters::new();
                let table = dense(&mut parameters, "table", 3, 5);
                let positions = (length > 0).then(|| dense(&mut parameters, "positions", length, 5));
                let layout = StripLayout::new(lanes, 5, strip).unwrap();
                let (x, tokens) = (normals("x", 5 * lanes), tokens(lanes));
                let report = gradcheck(&cpu(), &mut parameters, (layout, &x[..]), 0.05, |tape, x| {
                    let embedded = tape.embed(table, positions, &tokens, layout)?;
                    let y = tape.add(embedded, x)?;
                    Ok(Objective::Output(if tied { tape.apply(table, y)? } else { y }))
                });
                let report = report.unwrap();
                assert!(report.max_error() < 1e-3, "{lanes} {length} {tied}: {}", report.max_error());
                assert!(report.entries.iter().any(|e| e.name == "table" && e.analytic != 0.0));
            }
        }
    }

    #[test]
    fn a_tied_table_is_reduced_once_with_the_whole_gradient() {
        let cpu = cpu();
        let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
        let table = dense(&mut parameters, "table", 3, 2);
        let positions = dense(&mut parameters, "positions", 2, 2);
        let layout = StripLayout::sparse(4, 2);
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training).over(Shards::all(1));
        let x = tape.embed(table, Some(positions), &tokens(4), layout).unwrap();
        let logits = tape.apply(table, x).unwrap();
        let loss = tape.softmax_cross_entropy(logits, &vec![0, 1, 2, 0], 4, 0.0).unwrap();
        let mut recorder = Recorder::default();
        tape.backward(&[loss], &mut GrowthRequests::new(), &mut recorder).unwrap();
        drop(tape);
        assert_eq!(recorder.0, [(positions, true), (table, true)]);
        // Symbol 2 is no token here: what its row has comes from the output alone.
        let gradient = parameters.get(table).gradient().unwrap();
        assert!(gradient.iter().all(|&g| g != 0.0), "{gradient:?}");
    }

    #[test]
    fn other_kinds_and_shapes_are_refused() {
        let cpu = cpu();
        let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
        let table = dense(&mut parameters, "table", 3, 4);
        let other = dense(&mut parameters, "other", 2, 3);
        let pruned = sparse(&mut parameters, "pruned", 3, 4, 0.5, true);
        let bias = parameters.add_vector("bias", cpu.zeros(3).unwrap());
        let layout = StripLayout::sparse(4, 1);
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Evaluation);
        for id in [pruned, bias] {
            let refused = tape.embed(id, None, &tokens(4), layout);
            assert!(matches!(refused, Err(Error::Kind { expected: "dense matrix", .. })), "{refused:?}");
        }
        assert!(tape.embed(table, Some(other), &tokens(4), layout).is_err());
        assert!(tape.embed(table, None, &tokens(3), layout).is_err());
        let x = tape.embed(table, None, &tokens(4), layout).unwrap();
        let Activations::Strips(Strips { layout, .. }) = tape.value(x).unwrap() else { unreachable!("it made strips") };
        assert_eq!(*layout, StripLayout::sparse(4, 4));
    }
}
