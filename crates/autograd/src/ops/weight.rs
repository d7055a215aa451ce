//! `Y = W · X`, a product or a convolution, with a weight of any format.

use sparse_kernels::{Activations, Backend};

use crate::storage::Need;
use crate::weights::Weight;
use crate::{Error, ParameterId, Parameters, Tape, Var};

const OP: &str = "apply";

impl<B: Backend> Tape<'_, B> {
    /// `Y[m, n] = W[m, k] · X[k, n]`, or the convolution of the images X with W, as the parameter `weight` is.
    ///
    /// Backward: `dX = Wᵀ · dY` if X asks for a gradient (a sparse weight then needs a plan with its transpose), and
    /// `dW = dY · Xᵀ` at the stored entries only; or, with a growth request, the pair (dY, X) is kept for the parameter's
    /// last use.
    ///
    /// # Errors
    /// If `weight` is none, the shapes or layouts do not fit, or `x` is gone.
    ///
    /// # Cost
    /// `2 · nnz · n` operations forward (padding of blocks counts), of a convolution n being pixels of Y times samples; as
    /// much again for each of dX and dW.
    pub fn apply(&mut self, weight: ParameterId, x: Var) -> Result<Var, Error> {
        self.product(weight, x, |backend, _, w, x, y| w.forward(backend, x, y))
    }

    /// [`Tape::apply`] and [`Tape::bias_relu`], in one pass over Y where the format can.
    ///
    /// # Errors
    /// As those.
    ///
    /// # Cost
    /// As those, but for the forward pass over Y where it is one.
    pub fn apply_bias_relu(
        &mut self,
        weight: ParameterId,
        bias: ParameterId,
        relu: bool,
        x: Var,
    ) -> Result<Var, Error> {
        let y = self.product(weight, x, |backend, parameters, w, x, y| {
            w.forward_bias_relu(backend, parameters.vector(OP, bias)?, relu, x, y)
        })?;
        Ok(self.record_bias_relu(bias, relu, y))
    }

    /// Y by `forward` of backend, parameters, W, X and Y, and the backward pass.
    fn product(
        &mut self,
        weight: ParameterId,
        x: Var,
        forward: impl FnOnce(&B, &Parameters<B>, &dyn Weight<B>, &Activations<B>, &mut Activations<B>) -> Result<(), Error>,
    ) -> Result<Var, Error> {
        let backend = self.backend;
        let storage = self.values.read(OP, x)?;
        let layout = self.layout(x);
        let w = self.parameters.weight(OP, weight)?;
        let mut y = self.arena.take_activations(backend, w.geometry(backend).output(OP, layout)?)?;
        forward(backend, self.parameters, w, self.values.activations(storage), &mut y)?;
        let saved = self.values.save(OP, x, Some(Need::Exact));
        let output = self.push_output(OP, x, y);
        self.record(x, output, Some(weight), move |pass, dy| {
            if pass.tape.values.requires_grad(x) {
                let mut dx = pass.tape.arena.take_activations(backend, layout)?;
                pass.tape.parameters.weight(OP, weight)?.input_grad(backend, &dy, &mut dx)?;
                pass.accumulate(x, dx)?;
            }
            pass.weight_used(weight, dy, saved)
        });
        Ok(output)
    }
}

#[cfg(test)]
mod tests {
    use sparse_kernels::{Activations, ConvShape, Layout, Storage, StripLayout};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{block_conv, block_sparse, cpu, dense, dense_conv, image_layouts, normals, sparse, sparse_conv};
    use crate::{Arena, Error, GrowthRequests, Mode, NoReduce, ParameterId, Parameters, Tape};

    fn check(
        what: &str,
        layout: impl Into<Layout>,
        elements: usize,
        weight: impl FnOnce(&mut Parameters<sparse_kernels::cpu::Cpu>) -> ParameterId,
    ) {
        let mut parameters = Parameters::new();
        let w = weight(&mut parameters);
        let input = (layout, &normals("x", elements)[..]);
        let report =
            gradcheck(&cpu(), &mut parameters, input, 0.1, |tape, x| Ok(Objective::Output(tape.apply(w, x)?))).unwrap();
        assert!(report.max_error() < 1e-4, "{what}: {}", report.max_error());
        assert!(report.entries.iter().any(|e| e.name == "w" && e.analytic != 0.0), "{what}");
    }

    /// Of blocks that fit, that reach beyond one edge, and that are larger than the matrix: padding, which no output depends
    /// on, must have a gradient of 0.
    #[test]
    fn gradients_of_matrices_are_those_of_central_differences() {
        for lanes in [1, 5, 32, 40] {
            check("sparse", StripLayout::sparse(lanes, 9), 9 * lanes, |to| sparse(to, "w", 6, 9, 0.4, true));
        }
        for (size, lanes, density) in
            [([1, 1], 5, 0.4), ([2, 4], 1, 0.6), ([4, 2], 40, 0.6), ([8, 8], 5, 1.0), ([16, 16], 32, 1.0)]
        {
            let layout = StripLayout::sparse(lanes, 9);
            check(&format!("{size:?}"), layout, 9 * lanes, |to| block_sparse(to, "w", [6, 9], size, density));
        }
        for layout in [StripLayout::sparse(5, 9), StripLayout::sparse(40, 9), StripLayout::single(40, 9)] {
            check("dense", layout, 9 * layout.lanes(), |to| dense(to, "w", 6, 9));
        }
    }

    #[test]
    fn gradients_of_convolutions_are_those_of_central_differences() {
        let conv = |outputs, inputs, kernel| ConvShape::new(outputs, inputs, [kernel; 2]).unwrap();
        let same = conv(3, 2, 3).with_padding([1, 1]);
        let strided = conv(2, 2, 3).with_padding([1, 1]).with_stride([2, 2]).unwrap();
        let depthwise = conv(3, 3, 3).with_padding([1, 1]).with_groups(3).unwrap();
        for (shape, samples, strip) in
            [(same, 2, 1), (same, 9, 8), (strided, 3, 8), (conv(4, 3, 1), 2, 8), (depthwise, 3, 8)]
        {
            let layouts = image_layouts(shape, [4, 3], samples, strip);
            let elements = samples * shape.in_channels() * 12;
            if !shape.is_depthwise() {
                check("sparse", layouts[0], elements, |to| sparse_conv(to, "w", shape, layouts, 0.5));
            }
            check("dense", layouts[0], elements, |to| dense_conv(to, "w", shape, layouts));
            // The last rows of blocks reach beyond the matrix, where the gradient must be 0.
            let columns = if shape.in_channels() == 2 { 2 } else { 1 };
            let rows = if shape.is_depthwise() { 1 } else { 2 };
            for size in [[rows, 1], [rows, columns]] {
                check(&format!("{size:?}"), layouts[0], elements, |to| block_conv(to, "w", shape, layouts, size));
            }
        }
    }

    fn fill(activations: &mut Activations<sparse_kernels::cpu::Cpu>, name: &str) {
        let Activations::Strips(strips) = activations else { unreachable!("linear layers have strips") };
        let layout = strips.layout;
        let values = normals(name, layout.features() * layout.lanes());
        for (i, value) in values.into_iter().enumerate() {
            strips.data[layout.index(i / layout.lanes(), i % layout.lanes())] = value;
        }
    }

    #[test]
    fn fused_with_bias_and_relu_it_is_the_same() {
        for (relu, lanes) in [(false, 5), (true, 5), (true, 40)] {
            let cpu = cpu();
            let mut parameters = Parameters::new();
            let w = sparse(&mut parameters, "w", 6, 9, 0.4, true);
            let bias = parameters.add_vector("bias", cpu.zeros(6).unwrap());
            parameters.upload_values(&cpu, bias, &[0.5, -0.25, 0.0, 1.0, -3.0, 3.0]).unwrap();
            // What is summed up differently rounds differently.
            let near = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5);
            let mut results = Vec::new();
            for fused in [true, false] {
                let mut arena = Arena::new();
                let mut x = arena.take_activations(&cpu, StripLayout::sparse(lanes, 9).into()).unwrap();
                fill(&mut x, "x");
                let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
                let x = tape.input(x, true);
                let y = if fused {
                    tape.apply_bias_relu(w, bias, relu, x).unwrap()
                } else {
                    let y = tape.apply(w, x).unwrap();
                    tape.bias_relu(bias, relu, y).unwrap()
                };
                let mut seed = Activations::zeros(&cpu, tape.layout(y)).unwrap();
                fill(&mut seed, "dy");
                let output = tape.value(y).unwrap().data().to_vec();
                tape.backward_from(vec![(y, seed)], &mut GrowthRequests::new(), &mut NoReduce).unwrap();
                let dx = tape.gradient(x).unwrap().data().to_vec();
                drop(tape);
                let gradient = |id| parameters.get(id).gradient().unwrap().to_vec();
                results.push([output, dx, gradient(w), gradient(bias)]);
            }
            let [fused, apart] = &results[..] else { unreachable!("two were made") };
            assert!(fused.iter().zip(apart).all(|(a, b)| near(a, b)), "relu {relu}, {lanes} lanes");
            assert!(fused[0].iter().any(|&y| y < 0.0) != relu);
        }
    }

    #[test]
    fn other_kinds_are_refused() {
        let cpu = cpu();
        let mut parameters = Parameters::new();
        let shape = ConvShape::new(2, 2, [1, 1]).unwrap();
        let layouts = image_layouts(shape, [2, 2], 1, 1);
        let conv = dense_conv(&mut parameters, "conv", shape, layouts);
        let linear = sparse(&mut parameters, "linear", 4, 8, 0.5, true);
        let blocks = block_sparse(&mut parameters, "blocks", [4, 8], [2, 2], 1.0);
        let bias = parameters.add_vector("bias", cpu.zeros(3).unwrap());
        let mut arena = Arena::new();
        let x = arena.take_images(&cpu, layouts[0]).unwrap();
        let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
        let x = tape.input(x, false);
        assert!(matches!(tape.apply(bias, x), Err(Error::Kind { got: "vector", .. })));
        assert!(matches!(tape.apply(linear, x), Err(Error::Activations { got: "images", .. })));
        let y = tape.apply(conv, x).unwrap();
        assert_eq!(tape.layout(y), Layout::Images(layouts[1]));
        let features = tape.flatten(y, 32).unwrap();
        let refused = tape.apply(conv, features);
        assert!(matches!(refused, Err(Error::Activations { got: "features by lanes", .. })));
        assert!(tape.apply(linear, features).is_ok() && tape.apply(blocks, features).is_ok());
    }
}
