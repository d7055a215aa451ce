//! Batch normalisation with what stands before and behind it: a sum, a ReLU.

use std::rc::Rc;

use sparse_kernels::{Accumulate, Activation, Activations, Backend, BatchNormOptions, ImageLayout, Images, ReluMask};

use crate::storage::{Need, Recipe, Saved, Values};
use crate::tape::{Backward, ParameterGradient};
use crate::{Arena, Error, Mode, ParameterId, Parameters, Tape, Var};

const OP: &str = "batch_norm";

/// A batch normalisation layer of C channels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchNormLayer {
    /// What is learned, a vector `[γ; C] ‖ [β; C]`.
    pub affine: ParameterId,
    /// Running moments, statistics `[mean; C] ‖ [variance; C]`.
    pub running: ParameterId,
    /// Its constants.
    pub options: BatchNormOptions,
    /// What follows.
    pub activation: Activation,
}

impl<B: Backend> Tape<'_, B> {
    /// `y = act(γ · (x − μ) / √(v + ε) + β)` per channel, `act` being the layer's activation: in training with the batch's
    /// moments, which move the running ones too; in evaluation with the running ones. `y` lies as `layout`, samples aside.
    ///
    /// # Errors
    /// If the shapes do not fit, or `x` is gone.
    ///
    /// # Cost
    /// Two passes forward (a read, a read and write), two backward (two reads, two reads and a write).
    pub fn batch_norm(&mut self, layer: BatchNormLayer, x: Var, layout: ImageLayout) -> Result<Var, Error> {
        if self.mode() == Mode::Training {
            self.values.read(OP, x)?;
            let moments = self.moments(layer, None, x)?;
            return self.normalize(layer, moments, None, x, layout);
        }
        let moments = self.running_moments(layer)?;
        self.normalize(layer, moments, None, x, layout)
    }

    /// [`Tape::batch_norm`] of the sum of x and `addend`, which saves a pass over the sum. Returns the sum, which takes
    /// the place of `x` (that is gone), and the normalised sum.
    ///
    /// # Errors
    /// As [`Tape::add`] and [`Tape::batch_norm`].
    ///
    /// # Cost
    /// As those, but for a pass over the sum.
    pub fn add_batch_norm(
        &mut self,
        layer: BatchNormLayer,
        x: Var,
        addend: Var,
        layout: ImageLayout,
    ) -> Result<(Var, Var), Error> {
        if self.mode() == Mode::Evaluation {
            let sum = self.add(x, addend)?;
            self.keep(sum);
            let y = self.batch_norm(layer, sum, layout)?;
            return Ok((sum, y));
        }
        self.values.read(OP, addend)?;
        self.values.read_to_overwrite(OP, x, None)?;
        let moments = self.moments(layer, Some(addend), x)?;
        let sum = self.record_sum(x, addend);
        let y = self.normalize(layer, moments, None, sum, layout)?;
        Ok((sum, y))
    }

    /// `y = act(batch_norm(x) + residual)`, in the passes of [`Tape::batch_norm`].
    ///
    /// # Errors
    /// As [`Tape::batch_norm`].
    ///
    /// # Cost
    /// As [`Tape::batch_norm`], and reading the residual; with a ReLU, backward also reads y and writes the residual's
    /// gradient.
    pub fn batch_norm_add(
        &mut self,
        layer: BatchNormLayer,
        x: Var,
        residual: Var,
        layout: ImageLayout,
    ) -> Result<Var, Error> {
        let moments = match self.mode() {
            Mode::Training => self.moments(layer, None, x)?,
            Mode::Evaluation => self.running_moments(layer)?,
        };
        self.normalize(layer, moments, Some(residual), x, layout)
    }

    /// The moments of x, after the addend has been added to it.
    fn moments(&mut self, layer: BatchNormLayer, addend: Option<Var>, x: Var) -> Result<B::Buffer, Error> {
        let storage = self.values.read(OP, x)?;
        let channels = self.values.image_layout(OP, x)?.channels();
        let addend = match addend {
            Some(addend) => {
                self.values.image_layout(OP, addend)?;
                Some(self.values.read(OP, addend)?)
            }
            None => None,
        };
        let mut moments = self.arena.take_buffer(self.backend, 2 * channels)?;
        let mut of_shard = match &self.shards {
            Some(_) => Some(self.arena.take_buffer(self.backend, 2 * channels)?),
            None => None,
        };
        // Taken out for the time of the call, since the parameters are lent mutably too.
        let mut x = self.values.take_images(storage);
        let added = addend.map(|addend| self.values.take_images(addend));
        let found = match &mut of_shard {
            None => self.parameters.statistics_mut(OP, layer.running).map(|running| (layer.options, running)),
            // Moved by the share, from 0, running moments are those of the shard times its share.
            Some(of_shard) => {
                let options = BatchNormOptions { momentum: self.share, ..layer.options };
                self.backend.fill(0.0, of_shard).map(|()| (options, of_shard)).map_err(Error::from)
            }
        };
        let found = found.and_then(|(options, running)| {
            Ok(self.backend.batch_moments(options, added.as_ref(), &mut x, running, &mut moments)?)
        });
        if let (Some(addend), Some(added)) = (addend, added) {
            self.values.put_images(addend, added);
        }
        self.values.put_images(storage, x);
        if let (Some(of_shard), Some(over)) = (of_shard, &mut self.shards) {
            over.moments.push((layer.running, over.current, of_shard));
        }
        found.map(|()| moments)
    }

    fn running_moments(&mut self, layer: BatchNormLayer) -> Result<B::Buffer, Error> {
        let running = self.parameters.statistics(OP, layer.running)?;
        let mut moments = self.arena.take_buffer(self.backend, self.backend.len(running))?;
        self.backend.running_moments(layer.options, running, &mut moments)?;
        Ok(moments)
    }

    fn normalize(
        &mut self,
        layer: BatchNormLayer,
        moments: B::Buffer,
        residual: Option<Var>,
        x: Var,
        layout: ImageLayout,
    ) -> Result<Var, Error> {
        let BatchNormLayer { affine, activation, .. } = layer;
        let storage = self.values.read(OP, x)?;
        let x_layout = self.values.image_layout(OP, x)?;
        let added = match residual {
            Some(residual) => {
                self.values.image_layout(OP, residual)?;
                Some(self.values.read(OP, residual)?)
            }
            None => None,
        };
        let y_layout = layout.with_samples(x_layout.samples());
        let mut y = self.arena.take_images(self.backend, y_layout)?;
        let images = added.map(|storage| self.values.images(storage));
        let vector = self.parameters.vector(OP, affine)?;
        self.backend.batch_normalize(vector, &moments, images, activation, self.values.images(storage), &mut y)?;
        let saved = self.values.save(OP, x, Some(Need::Exact));
        if let Some(residual) = residual {
            self.used(OP, residual);
        }
        let output = self.push_output(OP, x, y);
        if self.mode() == Mode::Evaluation {
            self.arena.give_buffer(self.backend, moments);
            return Ok(output);
        }
        let moments = Rc::new(moments);
        // Computing y again would read the residual.
        if self.recomputes {
            residual.into_iter().for_each(|residual| self.values.protect(OP, residual));
        }
        self.set_recipe(output, || {
            let moments = Rc::clone(&moments);
            let compute = move |backend: &B, arena: &mut Arena<B>, parameters: &Parameters<B>, values: &Values<B>| {
                let mut y = arena.take_images(backend, y_layout)?;
                let (vector, added) = (parameters.vector(OP, affine)?, added.map(|storage| values.images(storage)));
                backend.batch_normalize(vector, &moments, added, activation, values.images(storage), &mut y)?;
                Ok(y.into())
            };
            Recipe { from: [storage].into_iter().chain(added).collect(), compute: Box::new(compute) }
        });
        // Where a ReLU ends at 6, its sign does not tell whether it is flat.
        let need = if activation == Activation::Relu6 { Need::Exact } else { Need::Sign };
        let is_masked = activation != Activation::None && residual.is_some();
        let saved_output = is_masked.then(|| self.values.save(OP, output, Some(need)));
        self.record(x, output, Some(affine), move |pass, dy| {
            let mut dy = pass.own_images(dy)?;
            let mut sum = match pass.take_sum(x)? {
                Some(Activations::Images(sum)) => Some((sum, Accumulate::Yes)),
                _ => None,
            };
            // Where dy stays, being the residual's gradient, or cannot hold dx, dx needs a place of its own.
            if sum.is_none() && (residual.is_some() || dy.layout != x_layout) {
                let backend = pass.tape.backend;
                sum = Some((pass.tape.arena.take_images(backend, x_layout)?, Accumulate::No));
            }
            let operands = Operands { layer, moments: moments.as_ref(), x: saved, output: saved_output };
            pass.batch_norm_grad(operands, residual.is_some(), &mut dy, sum.as_mut())?;
            let backend = pass.tape.backend;
            if let Some(moments) = Rc::into_inner(moments) {
                pass.tape.arena.give_buffer(backend, moments);
            }
            let rest = match sum {
                Some((dx, _)) => {
                    pass.accumulate(x, dx)?;
                    Some(dy)
                }
                None => {
                    pass.accumulate(x, dy)?;
                    None
                }
            };
            match (residual, rest) {
                (Some(residual), Some(dy)) => pass.accumulate_images(residual, dy)?,
                (_, Some(dy)) => pass.tape.arena.give(backend, dy),
                (_, None) => {}
            }
            pass.use_done(affine)
        });
        Ok(output)
    }
}

/// What the backward pass has from the forward pass.
struct Operands<'o, B: Backend> {
    layer: BatchNormLayer,
    moments: &'o B::Buffer,
    x: Saved,
    /// With an activation behind a residual sum.
    output: Option<Saved>,
}

impl<B: Backend> Backward<'_, '_, B> {
    /// Both halves of the backward pass: the gradient of γ and β, and that of x, see
    /// [`sparse_kernels::BatchNorm::batch_norm_grad`].
    fn batch_norm_grad(
        &mut self,
        operands: Operands<'_, B>,
        has_residual: bool,
        dy: &mut Images<B>,
        output: Option<&mut (Images<B>, Accumulate)>,
    ) -> Result<(), Error> {
        let Operands { layer: BatchNormLayer { affine, activation, .. }, moments, x, output: y } = operands;
        let ParameterGradient { backend, values, parameter: value, gradient, accumulate } =
            self.parameter_gradient(affine)?;
        let (x, y) = (values.images(x.storage), y.map(|y| values.images(y.storage)));
        if accumulate {
            return Err(Error::Backward { reason: "a batch normalisation was used twice on one tape" });
        }
        let mask = match y {
            _ if activation == Activation::None => ReluMask::None,
            Some(y) => ReluMask::Output(activation, y),
            None => ReluMask::Recomputed(activation),
        };
        backend.batch_norm_grad_sums(value.values(), moments, mask, x, dy, gradient)?;
        let output = output.map(|(images, accumulate)| (images, *accumulate));
        let recomputed = if has_residual { Activation::None } else { activation };
        Ok(backend.batch_norm_grad(value.values(), moments, gradient, recomputed, x, dy, output)?)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{Activation, ImageLayout, Storage};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, norm, normals};
    use crate::{Arena, Error, GrowthRequests, Mode, NoReduce, Parameters, Tape};

    /// With a sum before or behind it, which is the input once more: its gradient comes on two ways.
    #[test]
    fn gradients_are_those_of_central_differences() {
        use Activation::{None as Nothing, Relu, Relu6};
        for (case, activation) in [
            ("plain", Nothing),
            ("plain", Relu),
            ("plain", Relu6),
            ("sum before", Relu),
            ("sum behind", Relu),
            ("sum behind", Relu6),
            ("sum behind", Nothing),
        ] {
            for border in [0, 1] {
                let cpu = cpu();
                let mut parameters = Parameters::new();
                let first = norm(&mut parameters, "first", 3, Nothing);
                let layer = norm(&mut parameters, "layer", 3, activation);
                if activation == Relu6 {
                    // Far enough that some outputs reach 6.
                    let affine = [[5.0, -4.0, 3.0], [2.0, 3.0, 1.0]].concat();
                    parameters.upload_values(&cpu, layer.affine, &affine).unwrap();
                }
                let layout = |border| ImageLayout::new(5, 3, [3, 2], border, 8).unwrap();
                let input = (layout(0), &normals("x", 5 * 3 * 6)[..]);
                let report = gradcheck(&cpu, &mut parameters, input, 4e-3, |tape, x| {
                    Ok(Objective::Output(match case {
                        "plain" => tape.batch_norm(layer, x, layout(border))?,
                        "sum before" => {
                            let y = tape.batch_norm(first, x, layout(border))?;
                            tape.add_batch_norm(layer, y, x, layout(0))?.1
                        }
                        _ => {
                            let y = tape.batch_norm(first, x, layout(border))?;
                            tape.batch_norm_add(layer, y, x, layout(1))?
                        }
                    }))
                })
                .unwrap();
                // A value may lie within the step of its kink; all others must be right.
                let wrong = report.entries.iter().filter(|e| e.error() > 4e-3).count();
                assert!(
                    wrong * 20 <= report.entries.len(),
                    "{case} {activation:?}: {wrong} of {}",
                    report.entries.len()
                );
                assert!(report.entries.iter().any(|e| e.name == "layer" && e.analytic != 0.0));
            }
        }
    }

    #[test]
    fn evaluation_uses_the_moments_that_training_has_gathered() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let mut layer = norm(&mut parameters, "layer", 2, Activation::None);
        layer.options.momentum = 1.0;
        let layout = ImageLayout::new(4, 2, [2, 2], 0, 8).unwrap();
        let numbers = normals("x", 32);
        let mut arena = Arena::new();
        let mut outputs = Vec::new();
        for mode in [Mode::Training, Mode::Evaluation] {
            let mut x = arena.take_images(&cpu, layout).unwrap();
            layout.pack(&numbers, &mut x.data).unwrap();
            let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, mode);
            let x = tape.input(x, false);
            let y = tape.batch_norm(layer, x, layout).unwrap();
            let mut pixels = vec![0.0; 32];
            layout.unpack(tape.value(y).unwrap().data(), &mut pixels).unwrap();
            outputs.push(pixels);
        }
        // The running variance is the unbiased one, of 16 numbers.
        let affine = parameters.download_values(&cpu, layer.affine).unwrap();
        for (i, (training, evaluation)) in outputs[0].iter().zip(&outputs[1]).enumerate() {
            let shift = affine[2 + i / 4 % 2];
            let expected = (training - shift) * (15.0f32 / 16.0).sqrt() + shift;
            assert!((evaluation - expected).abs() < 1e-4, "{evaluation}, expected {expected}");
        }
    }

    #[test]
    fn a_second_use_is_refused() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let layer = norm(&mut parameters, "layer", 2, Activation::None);
        let layout = ImageLayout::new(2, 2, [2, 2], 0, 8).unwrap();
        let mut arena = Arena::new();
        let mut x = arena.take_images(&cpu, layout).unwrap();
        layout.pack(&normals("x", 16), &mut x.data).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, true);
        let y = tape.batch_norm(layer, x, layout).unwrap();
        let z = tape.batch_norm(layer, y, layout).unwrap();
        let seed = sparse_kernels::Activations::new(layout.into(), cpu.zeros(layout.len()).unwrap());
        let result = tape.backward_from(vec![(z, seed)], &mut GrowthRequests::new(), &mut NoReduce);
        assert!(matches!(result, Err(Error::Backward { reason }) if reason.contains("twice")));
    }
}
