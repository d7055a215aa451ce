//! Layer and RMS normalisation, with the residual sum before it.

use sparse_kernels::{Backend, FeatureNorm, Precision, Strips};

use crate::storage::{Need, Recipe, Saved, Values, strips};
use crate::tape::{Backward, ParameterGradient};
use crate::{Arena, Error, Mode, ParameterId, Parameters, Tape, Var};

const OP: &str = "feature_norm";

/// A normalisation of each lane over its features.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeatureNormLayer {
    /// What is learned, a vector `[scale…, shift…]`, or `[scale…]` of RMS normalisation.
    pub affine: ParameterId,
    /// Kind and ε.
    pub norm: FeatureNorm,
}

impl<B: Backend> Tape<'_, B> {
    /// `y = (x − mean) / √(variance + ε) · scale + shift` of each lane over its features, or `x / √(mean of x² + ε) · scale`,
    /// see [`sparse_kernels::NormKind`]. `x` stays.
    ///
    /// # Errors
    /// If the shapes do not fit, or `x` is gone.
    ///
    /// # Cost
    /// One pass over X and Y forward, one over X, dY and dX backward, where dX is added to the gradient that `x` has already.
    pub fn feature_norm(&mut self, layer: FeatureNormLayer, x: Var) -> Result<Var, Error> {
        let (storage, layout) = (self.values.read(OP, x)?, self.values.strip_layout(OP, x)?);
        let backend = self.backend;
        let vector = self.parameters.vector(OP, layer.affine)?;
        let mut y = self.arena.take(backend, layout)?;
        let mut moments = self.arena.take_in(backend, Precision::F32, layout.with_features(2))?;
        backend.feature_norm(layer.norm, vector, self.values.strips(storage), &mut y, &mut moments)?;
        Ok(self.record_norm(layer, x, y, moments))
    }

    /// [`Tape::feature_norm`] of the sum of x and `addend`, which saves a pass over the sum. Returns the sum, which takes the
    /// place of `x` (that is gone), and the normalised sum.
    ///
    /// # Errors
    /// As [`Tape::add`] and [`Tape::feature_norm`].
    ///
    /// # Cost
    /// As those, but for a pass over the sum.
    pub fn add_feature_norm(&mut self, layer: FeatureNormLayer, x: Var, addend: Var) -> Result<(Var, Var), Error> {
        let [to, from] = [self.values.read_to_overwrite(OP, x, None)?, self.values.read(OP, addend)?];
        if to == from {
            return Err(Error::Saved { op: OP, by: OP });
        }
        let layout = self.values.strip_layout(OP, x)?;
        self.values.strip_layout(OP, addend)?;
        let backend = self.backend;
        let vector = self.parameters.vector(OP, layer.affine)?;
        let mut y = self.arena.take(backend, layout)?;
        let mut moments = self.arena.take_in(backend, Precision::F32, layout.with_features(2))?;
        // Taken out for the time of the call: both stand among the values.
        let mut sum = self.values.take(to).expect("`read` found the buffer");
        let added = self.values.strips(from);
        let to_overwrite = crate::storage::strips_mut(&mut sum);
        let done = backend.add_feature_norm(layer.norm, vector, added, to_overwrite, &mut y, &mut moments);
        self.values.put(to, sum);
        done?;
        let sum = self.record_sum(x, addend);
        if self.mode() == Mode::Evaluation {
            self.keep(sum);
        }
        let y = self.record_norm(layer, sum, y, moments);
        Ok((sum, y))
    }

    /// Notes that `y` has been made of `x`.
    fn record_norm(&mut self, layer: FeatureNormLayer, x: Var, y: Strips<B>, moments: Strips<B>) -> Var {
        let saved = self.values.save(OP, x, Some(Need::Exact));
        let (storage, layout) = (self.values.storage(x), y.layout);
        let output = self.push_output(OP, x, y);
        self.set_recipe(output, || {
            let compute = move |backend: &B, arena: &mut Arena<B>, parameters: &Parameters<B>, values: &Values<B>| {
                let mut y = arena.take(backend, layout)?;
                let mut moments = arena.take_in(backend, Precision::F32, layout.with_features(2))?;
                let vector = parameters.vector(OP, layer.affine)?;
                backend.feature_norm(layer.norm, vector, values.strips(storage), &mut y, &mut moments)?;
                arena.give(backend, moments);
                Ok(y.into())
            };
            Recipe { from: vec![storage], compute: Box::new(compute) }
        });
        if self.mode() == Mode::Evaluation {
            self.arena.give(self.backend, moments);
            return output;
        }
        self.record(x, output, Some(layer.affine), move |pass, dy| {
            let mut dy = pass.own_strips(dy)?;
            let mut sum = match pass.tape.values.requires_grad(x) {
                true => pass.take_sum(x)?,
                false => None,
            };
            let to = sum.as_mut().map(crate::storage::strips_mut);
            pass.feature_norm_grad(layer, &moments, saved, &mut dy, to)?;
            let backend = pass.tape.backend;
            pass.tape.arena.give(backend, moments);
            match sum {
                Some(sum) => {
                    pass.tape.arena.give(backend, dy);
                    pass.accumulate(x, sum)?;
                }
                None => pass.accumulate(x, dy)?,
            }
            pass.use_done(layer.affine)
        });
        output
    }
}

impl<B: Backend> Backward<'_, '_, B> {
    fn feature_norm_grad(
        &mut self,
        layer: FeatureNormLayer,
        moments: &Strips<B>,
        x: Saved,
        dy: &mut Strips<B>,
        to: Option<&mut Strips<B>>,
    ) -> Result<(), Error> {
        let ParameterGradient { backend, values, parameter, gradient, accumulate } =
            self.parameter_gradient(layer.affine)?;
        let (kind, affine, x) = (layer.norm.kind, parameter.values(), strips(values.saved(x)));
        Ok(backend.feature_norm_grad(kind, affine, moments, x, dy, to, gradient, accumulate)?)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{Activations, NormKind, Storage, StripLayout};

    use super::*;
    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense, normals};
    use crate::{Arena, Parameters};

    fn layer(
        parameters: &mut Parameters<sparse_kernels::cpu::Cpu>,
        kind: NormKind,
        features: usize,
    ) -> FeatureNormLayer {
        let (cpu, norm) = (cpu(), FeatureNorm { kind, epsilon: 1e-5 });
        let affine = parameters.add_vector("affine", cpu.zeros(norm.parameters(features)).unwrap());
        parameters.upload_values(&cpu, affine, &normals("affine", norm.parameters(features))).unwrap();
        FeatureNormLayer { affine, norm }
    }

    /// Alone; of a sum whose other uses come before and after; and with one layer used twice.
    #[test]
    fn gradients_are_those_of_central_differences() {
        for kind in [NormKind::Layer, NormKind::Rms] {
            for (case, lanes) in [("alone", 5), ("sum", 1), ("sum", 40), ("twice", 5)] {
                let mut parameters = Parameters::new();
                let layer = layer(&mut parameters, kind, 6);
                let w = dense(&mut parameters, "w", 6, 6);
                let input = (StripLayout::sparse(lanes, 6), &normals("x", 6 * lanes)[..]);
                let report = gradcheck(&cpu(), &mut parameters, input, 0.01, |tape, x| {
                    if case == "alone" {
                        return Ok(Objective::Output(tape.feature_norm(layer, x)?));
                    }
                    let branch = tape.apply(w, x)?;
                    let (sum, y) = tape.add_feature_norm(layer, branch, x)?;
                    let branch = tape.apply(w, y)?;
                    if case == "sum" {
                        return Ok(Objective::Output(tape.add(branch, sum)?));
                    }
                    let (_, y) = tape.add_feature_norm(layer, branch, sum)?;
                    Ok(Objective::Output(y))
                });
                let error = report.unwrap().max_error();
                assert!(error < 5e-3, "{kind:?} {case} {lanes}: {error}");
            }
        }
    }

    #[test]
    fn evaluation_keeps_the_sum_and_what_others_need_is_not_overwritten() {
        let cpu = cpu();
        let (mut arena, mut parameters) = (Arena::new(), Parameters::new());
        let layer = layer(&mut parameters, NormKind::Layer, 3);
        let w = dense(&mut parameters, "w", 3, 3);
        for mode in [Mode::Evaluation, Mode::Training] {
            let x = Activations::zeros(&cpu, StripLayout::sparse(2, 3).into()).unwrap();
            let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, mode);
            let x = tape.input(x, false);
            tape.keep(x);
            let branch = tape.apply(w, x).unwrap();
            assert!(matches!(tape.add_feature_norm(layer, x, x), Err(Error::Saved { .. })));
            let (sum, y) = tape.add_feature_norm(layer, branch, x).unwrap();
            assert!(matches!(tape.value(branch), Err(Error::Moved { .. })));
            assert!(tape.value(sum).is_ok() && tape.value(y).is_ok());
            assert!(tape.feature_norm(FeatureNormLayer { affine: w, ..layer }, y).is_err());
        }
    }
}
