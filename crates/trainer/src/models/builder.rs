//! How a network's architecture is put together, one operation after the other.

use rigl::Padding;
use sparse_kernels::{ConvShape, PoolShape, ShapeError};

use super::ModelSpec;
use super::architecture::{
    Architecture, Graph, LayerKind, Masking, Node, NormLayer, PoolKind, ValueId, ValueShape, WeightLayer,
};

/// Puts an architecture together, one operation after the other.
#[derive(Debug)]
pub(super) struct Builder {
    pub spec: ModelSpec,
    layers: Vec<WeightLayer>,
    norms: Vec<NormLayer>,
    values: Vec<ValueShape>,
    nodes: Vec<Node>,
    /// Of convolutions to come.
    pub masking: Masking,
}

/// A convolution to be added.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conv {
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    pub groups: usize,
    /// How the paper's code pads.
    pub counted_as: Padding,
}

impl Conv {
    /// A square kernel of odd side, stride 1, padded so that the size stays.
    pub fn new(outputs: usize, kernel: usize) -> Self {
        Self { outputs, kernel, stride: 1, padding: kernel / 2, groups: 1, counted_as: Padding::Same }
    }

    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    pub fn groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    pub fn valid(self) -> Self {
        Self { padding: 0, counted_as: Padding::Valid, ..self }
    }

    /// Counted with a padding layer before it, as the paper's code has it before strided convolutions.
    pub fn padded_apart(self) -> Self {
        let total = if self.kernel == 7 { 6 } else { 1 };
        let counted_as = if self.stride > 1 { Padding::Explicit { total } } else { self.counted_as };
        Self { counted_as, ..self }
    }
}

impl Builder {
    pub fn new(spec: &ModelSpec) -> Self {
        let ModelSpec { channels, size, .. } = *spec;
        let input = match spec.name.sizes() {
            [inputs, ..] => ValueShape::Features(*inputs),
            [] => ValueShape::Image { channels, size },
        };
        Self {
            spec: spec.clone(),
            layers: vec![],
            norms: vec![],
            values: vec![input],
            nodes: vec![],
            masking: Masking::Any,
        }
    }

    /// The network's input.
    pub fn input(&self) -> ValueId {
        0
    }

    fn value(&mut self, shape: ValueShape) -> ValueId {
        self.values.push(shape);
        self.values.len() - 1
    }

    /// Channels and size of an image.
    pub fn image(&self, value: ValueId) -> (usize, [usize; 2]) {
        match self.values[value] {
            ValueShape::Image { channels, size } => (channels, size),
            ValueShape::Features(_) => unreachable!("a network's convolutions come before its linear layers"),
        }
    }

    pub fn linear(&mut self, name: impl Into<String>, outputs: usize, relu: bool, input: ValueId) -> ValueId {
        let ValueShape::Features(inputs) = self.values[input] else {
            unreachable!("a network flattens its images before its linear layers");
        };
        let kind = LayerKind::Linear { inputs, outputs };
        self.layers.push(WeightLayer { name: name.into(), kind, bias: true, relu, masking: Masking::Any });
        let output = self.value(ValueShape::Features(outputs));
        self.nodes.push(Node::Layer { layer: self.layers.len() - 1, input, output });
        output
    }

    /// A convolution without bias.
    pub fn conv(&mut self, name: impl Into<String>, conv: Conv, input: ValueId) -> Result<ValueId, ShapeError> {
        self.conv_with(name, conv, false, input)
    }

    /// A convolution with bias and ReLU.
    pub fn conv_bias_relu(
        &mut self,
        name: impl Into<String>,
        conv: Conv,
        input: ValueId,
    ) -> Result<ValueId, ShapeError> {
        self.conv_with(name, conv, true, input)
    }

    fn conv_with(
        &mut self,
        name: impl Into<String>,
        conv: Conv,
        bias_relu: bool,
        input: ValueId,
    ) -> Result<ValueId, ShapeError> {
        let (channels, size) = self.image(input);
        let shape = ConvShape::new(conv.outputs, channels, [conv.kernel; 2])?
            .with_stride([conv.stride; 2])?
            .with_padding([conv.padding; 2])
            .with_groups(conv.groups)?;
        let output_size = shape.output_size(size)?;
        let kind = LayerKind::Conv { shape, size, counted_as: conv.counted_as };
        let masking = self.masking;
        self.layers.push(WeightLayer { name: name.into(), kind, bias: bias_relu, relu: bias_relu, masking });
        let output = self.value(ValueShape::Image { channels: conv.outputs, size: output_size });
        self.nodes.push(Node::Layer { layer: self.layers.len() - 1, input, output });
        Ok(output)
    }

    fn norm_layer(&mut self, name: impl Into<String>, relu: bool, zero_scale: bool, input: ValueId) -> usize {
        let (channels, _) = self.image(input);
        self.norms.push(NormLayer { name: name.into(), channels, relu, zero_scale });
        self.norms.len() - 1
    }

    /// A batch normalisation and a ReLU.
    pub fn norm_relu(&mut self, name: impl Into<String>, input: ValueId) -> ValueId {
        let norm = self.norm_layer(name, true, false, input);
        let output = self.value(self.values[input]);
        self.nodes.push(Node::Norm { norm, input, residual: None, output });
        output
    }

    /// A batch normalisation.
    pub fn norm(&mut self, name: impl Into<String>, input: ValueId) -> ValueId {
        let norm = self.norm_layer(name, false, false, input);
        let output = self.value(self.values[input]);
        self.nodes.push(Node::Norm { norm, input, residual: None, output });
        output
    }

    /// A batch normalisation, `+ residual`, perhaps a ReLU.
    pub fn norm_add(
        &mut self,
        name: impl Into<String>,
        relu: bool,
        zero_scale: bool,
        residual: ValueId,
        input: ValueId,
    ) -> ValueId {
        let norm = self.norm_layer(name, relu, zero_scale, input);
        let output = self.value(self.values[input]);
        self.nodes.push(Node::Norm { norm, input, residual: Some(residual), output });
        output
    }

    /// `input + addend`, and the batch normalisation and ReLU of the sum: `(sum, normalised)`.
    pub fn add_norm_relu(&mut self, name: impl Into<String>, addend: ValueId, input: ValueId) -> (ValueId, ValueId) {
        let norm = self.norm_layer(name, true, false, input);
        let (sum, output) = (self.value(self.values[input]), self.value(self.values[input]));
        self.nodes.push(Node::AddNorm { norm, input, addend, sum, output });
        (sum, output)
    }

    pub fn pool(&mut self, kind: PoolKind, window: PoolShape, input: ValueId) -> Result<ValueId, ShapeError> {
        let (channels, size) = self.image(input);
        let output = self.value(ValueShape::Image { channels, size: window.output_size(size)? });
        self.nodes.push(Node::Pool { kind, window, input, output });
        Ok(output)
    }

    pub fn global_average_pool(&mut self, input: ValueId) -> ValueId {
        let output = self.value(ValueShape::Features(self.image(input).0));
        self.nodes.push(Node::GlobalAveragePool { input, output });
        output
    }

    pub fn flatten(&mut self, input: ValueId) -> ValueId {
        let (channels, [height, width]) = self.image(input);
        let output = self.value(ValueShape::Features(channels * height * width));
        self.nodes.push(Node::Flatten { input, output });
        output
    }

    pub fn dropout(&mut self, name: impl Into<String>, input: ValueId) -> ValueId {
        let output = self.value(self.values[input]);
        self.nodes.push(Node::Dropout { name: name.into(), input, output });
        output
    }

    /// What was put together.
    pub fn finish(self) -> Architecture {
        let Self { spec, layers, norms, values, nodes, .. } = self;
        Architecture { spec, layers, norms, graph: Graph { values, nodes } }
    }
}
