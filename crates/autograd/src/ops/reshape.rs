//! Whole strips become features, or features become whole strips; no data moves.

use sparse_kernels::{Backend, StripLayout};

use crate::{Error, Tape, Var};

const OP: &str = "reshape";

impl<B: Backend> Tape<'_, B> {
    /// Reads the same buffer as activations of `features` features and as many lanes as that leaves. Works in place: `x`
    /// is gone afterwards, and what other operations saved of it stays valid.
    ///
    /// The buffer is `[strips][features][strip]`. With `q` strips of `F` features, the row `(s, f)` (strip `s`, feature
    /// `f`) becomes row `(s · F + f) / features`, `(s · F + f) % features`: lane `i` of a strip stays lane `i` of a strip.
    /// So `features = a · F` merges each `a` neighbouring strips (say, time steps of one strip of samples each) into one
    /// strip of `a · F` features, and `features = F / a` splits them again.
    ///
    /// Allowed is `features == F`, and else any positive `features` that divides `q · F`, if there are no padding lanes
    /// (`lanes` a multiple of `strip`): padding would become part of a feature.
    ///
    /// Backward: the inverse on dY.
    ///
    /// # Errors
    /// [`Error::Reshape`] if the shape is not allowed, or if `x` is gone.
    ///
    /// # Cost
    /// None.
    pub fn reshape(&mut self, features: usize, x: Var) -> Result<Var, Error> {
        self.values.read(OP, x)?;
        let from = self.values.strip_layout(OP, x)?;
        let to = reshaped(from, features)?;
        let output = self.values.push_in_place(OP, x, to, self.values.requires_grad(x));
        self.record(x, output, None, move |pass, dy| {
            let mut dy = pass.own_strips(dy)?;
            dy.layout = from;
            pass.accumulate(x, dy)
        });
        Ok(output)
    }
}

fn reshaped(from: StripLayout, features: usize) -> Result<StripLayout, Error> {
    if features == from.features() {
        return Ok(from);
    }
    let rows = from.strips() * from.features();
    let whole = from.lanes().is_multiple_of(from.strip());
    if features == 0 || !whole || !rows.is_multiple_of(features) {
        let (lanes, strip, strips) = (from.lanes(), from.strip(), from.strips());
        return Err(Error::Reshape { lanes, features: from.features(), strip, strips, asked: features });
    }
    Ok(StripLayout::new(rows / features * from.strip(), features, from.strip())?)
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{Activations, Storage, StripLayout};

    use super::reshaped;
    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense, normals};
    use crate::{Arena, Mode, Parameters, Tape};

    #[test]
    fn gradients_are_those_of_central_differences() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let first = dense(&mut parameters, "first", 2, 3);
        let second = dense(&mut parameters, "second", 3, 4);
        let input = (StripLayout::new(64, 3, 16).unwrap(), &normals("x", 3 * 64)[..]);
        let report = gradcheck(&cpu, &mut parameters, input, 0.1, |tape, x| {
            // 64 lanes of 2 features to 32 lanes of 4, and a product that needs its input in the new shape.
            let y = tape.apply(first, x)?;
            let y = tape.reshape(4, y)?;
            let y = tape.apply(second, y)?;
            Ok(Objective::Output(tape.reshape(1, y)?))
        });
        assert!(report.unwrap().max_error() < 1e-4);
    }

    #[test]
    fn rows_keep_their_place_in_the_buffer() {
        let cpu = cpu();
        let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
        let layout = StripLayout::sparse(64, 3);
        let mut x = arena.take(&cpu, layout).unwrap();
        let numbers: Vec<f32> = (0..layout.len()).map(|i| i as f32).collect();
        cpu.upload(&numbers, &mut x.data).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Evaluation);
        let x = tape.input(x, false);
        let y = tape.reshape(6, x).unwrap();
        let Activations::Strips(y) = tape.value(y).unwrap() else { unreachable!("features stay features") };
        assert_eq!((y.layout.lanes(), y.layout.features()), (32, 6));
        for strip in 0..2 {
            for feature in 0..3 {
                let from = layout.index(feature, strip * 32 + 5);
                assert_eq!(y.data[y.layout.index(strip * 3 + feature, 5)], from as f32);
            }
        }
    }

    #[test]
    fn what_would_move_data_is_refused() {
        assert!(reshaped(StripLayout::sparse(40, 3), 3).is_ok());
        assert!(reshaped(StripLayout::sparse(40, 3), 6).is_err());
        assert!(reshaped(StripLayout::sparse(64, 3), 4).is_err());
        assert!(reshaped(StripLayout::sparse(64, 3), 0).is_err());
        assert_eq!(reshaped(StripLayout::sparse(64, 3), 2).unwrap().lanes(), 96);
    }
}
