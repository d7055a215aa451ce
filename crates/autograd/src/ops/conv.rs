//! `Y = conv(X, W)` with a sparse or dense weight.

use sparse_kernels::{Backend, Images};

use crate::tape::{Need, images};
use crate::{Error, Face, ParameterId, ParameterValue, Tape, Var};

const OP: &str = "conv";

impl<B: Backend> Tape<'_, B> {
    /// The convolution of the images `x` with a sparse or dense convolution's weight; what is dense and of one channel a
    /// group runs in kernels of its own (depthwise convolution). Shape and layouts are the parameter's.
    ///
    /// Backward: the gradients of X, if it asks for one, and of the stored weights; or, with a growth request, the pair
    /// (dY, X) is kept for the parameter's last use.
    ///
    /// # Errors
    /// If `weight` is no convolution's, the layouts do not fit, or `x` is gone.
    ///
    /// # Cost
    /// `2 · nnz · pixels of Y · samples` operations forward, as much again for each gradient.
    pub fn conv(&mut self, weight: ParameterId, x: Var) -> Result<Var, Error> {
        let storage = self.read(OP, x)?;
        let layout = self.image_layout(OP, x)?;
        let (_, options) = self.parameters.conv(OP, self.backend, weight)?;
        let mut y = self.arena.take_images(self.backend, options.y.with_samples(layout.samples()))?;
        forward(self.backend, self.parameters.get(weight).value(), self.stored_images(storage), &mut y)?;
        let saved = self.save(OP, x, Some(Need::Exact));
        let output = self.push_output(OP, x, y);
        self.record(x, output, Some(weight), move |pass, dy| {
            if pass.tape.requires_grad(x) {
                let backend = pass.tape.backend;
                let mut dx = pass.tape.arena.take_images(backend, layout)?;
                input_grad(backend, pass.tape.parameters.get(weight).value(), images(&dy), &mut dx)?;
                pass.accumulate(x, dx)?;
            }
            if pass.grows(weight) {
                pass.wait_for_growth(weight, dy, saved);
            } else {
                let (backend, x, value, gradient, accumulate) = pass.weight_gradient(weight, saved)?;
                weight_grad(backend, value, images(&dy), images(x), gradient, accumulate)?;
                pass.add_dense_gradient(weight, &dy, saved)?;
                pass.release(dy);
            }
            pass.use_done(weight)
        });
        Ok(output)
    }
}

fn forward<B: Backend>(backend: &B, weight: &ParameterValue<B>, x: &Images<B>, y: &mut Images<B>) -> Result<(), Error> {
    match weight {
        ParameterValue::SparseConv(w) | ParameterValue::Latent { face: Face::Conv(w), .. } => {
            backend.conv_forward(w, x, y)?;
        }
        ParameterValue::DenseConv { values, shape, .. } => backend.conv_forward_dense(*shape, values, x, y)?,
        _ => unreachable!("`Parameters::conv` found a convolution"),
    }
    Ok(())
}

fn input_grad<B: Backend>(
    backend: &B,
    weight: &ParameterValue<B>,
    dy: &Images<B>,
    dx: &mut Images<B>,
) -> Result<(), Error> {
    match weight {
        ParameterValue::SparseConv(w) | ParameterValue::Latent { face: Face::Conv(w), .. } => {
            backend.conv_input_grad(w, dy, dx)?;
        }
        ParameterValue::DenseConv { values, shape, .. } => backend.conv_input_grad_dense(*shape, values, dy, dx)?,
        _ => unreachable!("`Parameters::conv` found a convolution"),
    }
    Ok(())
}

fn weight_grad<B: Backend>(
    backend: &B,
    weight: &ParameterValue<B>,
    dy: &Images<B>,
    x: &Images<B>,
    gradient: &mut B::Buffer,
    accumulate: bool,
) -> Result<(), Error> {
    match weight {
        ParameterValue::SparseConv(w) => backend.conv_weight_grad(&w.plan, dy, x, gradient, accumulate)?,
        ParameterValue::DenseConv { shape, .. } => {
            backend.conv_weight_grad_dense(*shape, dy, x, gradient, accumulate)?;
        }
        // What takes no part learns, too.
        ParameterValue::Latent { face: Face::Conv(w), .. } => {
            backend.conv_weight_grad_dense(backend.conv_shape(&w.plan), dy, x, gradient, accumulate)?;
        }
        _ => unreachable!("`Parameters::conv` found a convolution"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{ConvShape, Layout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense_conv, image_layouts, normals, sparse, sparse_conv};
    use crate::{Arena, Error, Mode, Parameters, Tape};

    #[test]
    fn gradients_are_those_of_central_differences() {
        let conv = |outputs, inputs, kernel| ConvShape::new(outputs, inputs, [kernel; 2]).unwrap();
        let same = conv(3, 2, 3).with_padding([1, 1]);
        let strided = conv(2, 2, 3).with_padding([1, 1]).with_stride([2, 2]).unwrap();
        let depthwise = conv(3, 3, 3).with_padding([1, 1]).with_groups(3).unwrap();
        for (shape, samples, strip) in [(same, 2, 1), (same, 9, 8), (strided, 3, 8), (conv(4, 3, 1), 2, 8)] {
            for sparse in [true, false] {
                check(shape, samples, strip, sparse);
            }
        }
        check(depthwise, 3, 8, false);
    }

    fn check(shape: ConvShape, samples: usize, strip: usize, is_sparse: bool) {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let layouts = image_layouts(shape, [4, 3], samples, strip);
        let w = match is_sparse {
            true => sparse_conv(&mut parameters, "w", shape, layouts, 0.5),
            false => dense_conv(&mut parameters, "w", shape, layouts),
        };
        let input = (layouts[0], &normals("x", samples * shape.in_channels() * 12)[..]);
        let report =
            gradcheck(&cpu, &mut parameters, input, 0.1, |tape, x| Ok(Objective::Output(tape.conv(w, x)?))).unwrap();
        assert!(report.max_error() < 1e-4, "{shape:?}, sparse {is_sparse}: {}", report.max_error());
        assert!(report.entries.iter().any(|e| e.name == "w" && e.analytic != 0.0));
    }

    #[test]
    fn other_kinds_are_refused() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let shape = ConvShape::new(2, 2, [1, 1]).unwrap();
        let layouts = image_layouts(shape, [2, 2], 1, 1);
        let conv = dense_conv(&mut parameters, "conv", shape, layouts);
        let linear = sparse(&mut parameters, "linear", 4, 8, 0.5, true);
        let mut arena = Arena::new();
        let x = arena.take_images(&cpu, layouts[0]).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, false);
        assert!(matches!(tape.conv(linear, x), Err(Error::Kind { expected: "convolution", .. })));
        assert!(matches!(tape.sparse_linear(linear, x), Err(Error::Activations { got: "images", .. })));
        let y = tape.conv(conv, x).unwrap();
        assert_eq!(tape.layout(y), Layout::Images(layouts[1]));
        let features = tape.flatten(y, 32).unwrap();
        let refused = tape.conv(conv, features);
        assert!(matches!(refused, Err(Error::Activations { got: "features by lanes", .. })));
        assert!(tape.sparse_linear(linear, features).is_ok());
    }
}
