//! Networks as ONNX files, for onnxruntime and all that read the format.
//!
//! | part | content |
//! | --- | --- |
//! | input `input`, float32 | brightnesses from 0 to 1, `byte / 255`, of any number of samples: `[batch, C, H, W]`, or `[batch, features]` of a multi-layer perceptron; of a table or an array the numbers themselves, of a table NaN where one is missing; what the network itself reads where no normalisation is known |
//! | output `logits`, float32 | `[batch, classes]`, before the softmax |
//! | output `predictions`, float32, of a regression | the logits in the units of the targets |
//! | nodes | the normalisation of the inputs, then those of [`Graph`](crate::models::Graph) |
//! | initialisers | dense, zeros where weights are left out, with PyTorch's names: `conv1.weight`, `bn1.running_mean` |
//! | `metadata_props` | `model`: the [`Description`] as JSON |
//!
//! Dropout is left out: the file is for inference. The operators are those of opset 17, which onnxruntime has had since
//! version 1.12.

mod protobuf;

use protobuf::Message;
use sparse_kernels::{Activation, BatchNormOptions};

use super::ExchangeError;
use super::description::Description;
use super::layers::whole;
use crate::data::Normalization;
use crate::models::{
    Architecture, LayerKind, ModelInput, Node, PoolKind, StoredModel, StoredNorm, ValueId, ValueShape, WeightLayer,
};
use crate::task::TargetScale;

/// The version of the file's form: the one that came with [`OPSET`].
const IR_VERSION: i64 = 8;
/// The version of the operators.
const OPSET: i64 = 17;
/// A message of the wire format is shorter than this.
const MOST_BYTES: u64 = i32::MAX as u64;
/// Rooms for names, shapes and nodes beside a value: no network here comes near it.
const BYTES_BESIDE: u64 = 1 << 20;

/// The output in the units of a regression's targets.
const PREDICTIONS: &str = "predictions";

/// `TensorProto.DataType`.
const FLOAT: i64 = 1;
/// The names of ReLU6's ends.
const LEAST: &str = "relu6.least";
const MOST: &str = "relu6.most";

/// `AttributeProto.AttributeType`.
const OF_FLOAT: i64 = 1;
const OF_INT: i64 = 2;
const OF_INTS: i64 = 7;

/// The file of a model.
///
/// # Errors
/// [`ExchangeError::OnnxSize`] if the file would be larger than the format allows, [`ExchangeError::Memory`] if a whole matrix has
/// no room, [`ExchangeError::Architecture`] if the model is none.
pub(super) fn to_bytes(model: &StoredModel) -> Result<Vec<u8>, ExchangeError> {
    let architecture = model.architecture().map_err(ExchangeError::Architecture)?;
    check_size(&architecture)?;
    if architecture.reads_tokens() || architecture.reads_lists() {
        return Err(ExchangeError::OnnxTokens { model: architecture.name().to_string() });
    }
    let mut file = File::default();
    let (input, output) = ("input", "logits");
    let mut values: Vec<String> = (0..architecture.graph.values.len()).map(|value| format!("value{value}")).collect();
    values[0] = file.normalized(input, architecture.graph.values[0], model.input.as_ref());
    *values.last_mut().expect("a network has an input") = output.to_owned();
    let network = Network { model, architecture: &architecture, values };
    architecture.graph.nodes.iter().try_for_each(|node| file.node(&network, node))?;
    let scale = model.input.as_ref().and_then(|input| input.target_scale.as_ref());
    if let Some(TargetScale { mean, deviation }) = scale {
        for (name, values) in [("output.mean", mean), ("output.deviation", deviation)] {
            file.constant(name, &[values.len()], &values.iter().map(|&value| value as f32).collect::<Vec<_>>());
        }
        file.operation("Mul", &[output, "output.deviation"], "output.scaled", &[]);
        file.operation("Add", &["output.scaled", "output.mean"], PREDICTIONS, &[]);
    }
    let description = Description::of(model).to_json();
    let [from, to] = [(input, 0), (output, architecture.graph.values.len() - 1)]
        .map(|(name, value)| value_info(name, architecture.graph.values[value]));
    let graph = Message::with_capacity(file.bytes + (1 << 16))
        .messages(1, file.nodes)
        .text(2, &architecture.name().to_string())
        .messages(5, file.initializers)
        .message(11, &from)
        .message(12, &to);
    let graph = match scale {
        Some(_) => {
            graph.message(12, &value_info(PREDICTIONS, architecture.graph.values[architecture.graph.values.len() - 1]))
        }
        None => graph,
    };
    let opset = Message::default().text(1, "").int(2, OPSET);
    let property = Message::default().text(1, Description::KEY).text(2, &description);
    let model = Message::with_capacity(graph.len() + description.len() + 256)
        .int(1, IR_VERSION)
        .text(2, "rigl")
        .text(3, env!("CARGO_PKG_VERSION"))
        .message(7, &graph)
        .message(8, &opset)
        .message(14, &property);
    Ok(model.into_bytes())
}

/// All weights are dense there.
fn check_size(architecture: &Architecture) -> Result<(), ExchangeError> {
    let running = architecture.norms.iter().map(|norm| 2 * norm.channels as u64).sum::<u64>();
    let bytes = 4 * (architecture.parameters() as u64 + running) + BYTES_BESIDE;
    if bytes > MOST_BYTES { Err(ExchangeError::OnnxSize { bytes, most: MOST_BYTES }) } else { Ok(()) }
}

/// What nodes are written from.
struct Network<'m> {
    model: &'m StoredModel,
    architecture: &'m Architecture,
    /// The names of the graph's values.
    values: Vec<String>,
}

impl Network<'_> {
    fn value(&self, value: ValueId) -> &str {
        &self.values[value]
    }

    fn norm(&self, norm: usize) -> Option<&StoredNorm> {
        self.model.parts.as_ref()?.norms.get(norm)
    }
}

/// What an operator is told beside its inputs.
enum Attribute<'a> {
    Float(&'static str, f32),
    Int(&'static str, i64),
    Ints(&'static str, &'a [usize]),
}

impl Attribute<'_> {
    fn message(&self) -> Message {
        match *self {
            Self::Float(name, value) => Message::default().text(1, name).float(2, value).int(20, OF_FLOAT),
            Self::Int(name, value) => Message::default().text(1, name).int(3, value).int(20, OF_INT),
            Self::Ints(name, values) => Message::default().text(1, name).ints(8, values).int(20, OF_INTS),
        }
    }
}

/// Nodes and initialisers so far.
#[derive(Default)]
struct File {
    nodes: Vec<Message>,
    initializers: Vec<Message>,
    bytes: usize,
    /// Whether there are the constants between which ReLU6 keeps its outputs.
    has_ends: bool,
}

impl File {
    /// Adds an operation, named after its output.
    fn operation(&mut self, op: &str, inputs: &[&str], output: &str, attributes: &[Attribute<'_>]) {
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let node = node.text(2, output).text(3, &format!("{op}_{output}")).text(4, op);
        let node = node.messages(5, attributes.iter().map(Attribute::message));
        self.bytes += node.len();
        self.nodes.push(node);
    }

    /// Adds a constant of this name.
    fn constant(&mut self, name: &str, dimensions: &[usize], values: &[f32]) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = Message::with_capacity(bytes.len() + name.len() + 64);
        let tensor = tensor.ints(1, dimensions).int(2, FLOAT).text(8, name).bytes(9, &bytes);
        self.bytes += tensor.len() + 16;
        self.initializers.push(tensor);
    }

    /// Normalises the input as the loader does, and returns what the network reads.
    fn normalized(&mut self, input: &str, shape: ValueShape, known: Option<&ModelInput>) -> String {
        let Some(known) = known else { return input.to_owned() };
        let normalization = &known.normalization;
        let (dimensions, axes, features) = match shape {
            ValueShape::Features(features) => (vec![features], vec![1], features),
            ValueShape::Image { channels, size } => (vec![channels, 1, 1], vec![1, 2, 3], channels * size[0] * size[1]),
            ValueShape::Token(_) | ValueShape::List(_) => return input.to_owned(),
        };
        match normalization {
            Normalization::Pixels { mean, deviation } => {
                self.constant("input.mean", &[], &[*mean as f32]);
                self.constant("input.deviation", &[], &[*deviation as f32]);
            }
            Normalization::Channels { mean, deviation } => {
                // A perceptron's features are one channel after the other.
                let each = dimensions[0] / mean.len().max(1);
                for (name, values) in [("input.mean", mean), ("input.deviation", deviation)] {
                    let values: Vec<_> = values.iter().flat_map(|&value| vec![value as f32; each]).collect();
                    self.constant(name, &dimensions, &values);
                }
            }
            Normalization::Features { mean, deviation } => {
                let dimensions = match shape {
                    ValueShape::Features(features) => vec![features],
                    ValueShape::Image { channels, size: [height, width] } => vec![channels, height, width],
                    ValueShape::Token(_) | ValueShape::List(_) => vec![],
                };
                for (name, values) in [("input.mean", mean), ("input.deviation", deviation)] {
                    let values: Vec<_> = values.iter().map(|&value| value as f32).collect();
                    self.constant(name, &dimensions, &values);
                }
            }
            Normalization::PerImage => {
                let over = [Attribute::Ints("axes", &axes), Attribute::Int("keepdims", 1)];
                self.constant("input.least_deviation", &[], &[(1.0 / (features as f64).sqrt()) as f32]);
                self.operation("ReduceMean", &[input], "input.mean", &over);
                self.operation("Sub", &[input, "input.mean"], "input.difference", &[]);
                self.operation("Mul", &["input.difference"; 2], "input.squares", &[]);
                self.operation("ReduceMean", &["input.squares"], "input.variance", &over);
                self.operation("Sqrt", &["input.variance"], "input.root", &[]);
                self.operation("Max", &["input.root", "input.least_deviation"], "input.deviation", &[]);
            }
        }
        if *normalization != Normalization::PerImage {
            self.operation("Sub", &[input, "input.mean"], "input.difference", &[]);
        }
        let normalized = "input.normalized";
        let quotient = if known.table.is_some() { "input.quotient" } else { normalized };
        self.operation("Div", &["input.difference", "input.deviation"], quotient, &[]);
        if known.table.is_some() {
            // A number that is missing counts as the mean.
            self.constant("input.missing", &[], &[0.0]);
            self.operation("IsNaN", &[quotient], "input.is_missing", &[]);
            self.operation("Where", &["input.is_missing", "input.missing", quotient], normalized, &[]);
        }
        normalized.to_owned()
    }

    /// The one place that knows every kind of node.
    fn node(&mut self, network: &Network<'_>, node: &Node) -> Result<(), ExchangeError> {
        let value = |value: ValueId| network.value(value);
        match node {
            &Node::Layer { layer, input, output } => self.layer(network, layer, value(input), value(output))?,
            &Node::Norm { norm, input, residual, output } => {
                self.norm(network, norm, value(input), residual.map(value), value(output));
            }
            &Node::AddNorm { norm, input, addend, sum, output } => {
                self.operation("Add", &[value(input), value(addend)], value(sum), &[]);
                self.norm(network, norm, value(sum), None, value(output));
            }
            &Node::Pool { kind, window, input, output } => {
                let ([above, left], kernel, stride) = (window.padding(), window.kernel(), window.stride());
                let pads = [above, left, above, left];
                let mut attributes = vec![
                    Attribute::Ints("kernel_shape", &kernel),
                    Attribute::Ints("strides", &stride),
                    Attribute::Ints("pads", &pads),
                ];
                let op = match kind {
                    PoolKind::Max => "MaxPool",
                    PoolKind::Average => {
                        attributes.push(Attribute::Int("count_include_pad", 0));
                        "AveragePool"
                    }
                };
                self.operation(op, &[value(input)], value(output), &attributes);
            }
            &Node::GlobalAveragePool { input, output } => {
                let mean = format!("{}.mean", value(output));
                self.operation("GlobalAveragePool", &[value(input)], &mean, &[]);
                self.operation("Flatten", &[&mean], value(output), &[Attribute::Int("axis", 1)]);
            }
            &Node::Flatten { input, output } => {
                self.operation("Flatten", &[value(input)], value(output), &[Attribute::Int("axis", 1)]);
            }
            &Node::Add { input, addend, output } => {
                self.operation("Add", &[value(input), value(addend)], value(output), &[]);
            }
            Node::Concat { inputs, output } => {
                let inputs: Vec<_> = inputs.iter().map(|&input| value(input)).collect();
                self.operation("Concat", &inputs, value(*output), &[Attribute::Int("axis", 1)]);
            }
            &Node::Relu { input, output } => self.operation("Relu", &[value(input)], value(output), &[]),
            Node::Dropout { input, output, .. } => self.operation("Identity", &[value(*input)], value(*output), &[]),
            Node::Gelu { .. } | Node::Embed { .. } | Node::Attention { .. } | Node::Recurrent { .. } => {
                unreachable!("networks that read tokens are refused")
            }
        }
        Ok(())
    }

    fn layer(&mut self, network: &Network<'_>, layer: usize, input: &str, output: &str) -> Result<(), ExchangeError> {
        let (stored, layer) = (&network.model.layers[layer], &network.architecture.layers[layer]);
        let WeightLayer { name, kind, bias, relu, .. } = layer;
        let (weight_name, bias_name) = (format!("{name}.weight"), format!("{name}.bias"));
        self.constant(&weight_name, &layer.dimensions(), &whole(stored)?);
        let mut inputs = vec![input, &*weight_name];
        if *bias {
            self.constant(&bias_name, &[stored.bias.len()], &stored.bias);
            inputs.push(&bias_name);
        }
        let activation = if *relu { Activation::Relu } else { Activation::None };
        self.activated(activation, output, |file, output| match kind {
            LayerKind::Linear { .. } => file.operation("Gemm", &inputs, output, &[Attribute::Int("transB", 1)]),
            LayerKind::Embedding { .. } => unreachable!("networks that read tokens are refused"),
            LayerKind::Conv { shape, .. } => {
                let [above, left] = shape.padding();
                let attributes = [
                    Attribute::Ints("kernel_shape", &shape.kernel()),
                    Attribute::Ints("strides", &shape.stride()),
                    Attribute::Ints("pads", &[above, left, above, left]),
                    Attribute::Ints("dilations", &shape.dilation()),
                    Attribute::Int("group", shape.groups() as i64),
                ];
                file.operation("Conv", &inputs, output, &attributes);
            }
        });
        Ok(())
    }

    fn norm(&mut self, network: &Network<'_>, norm: usize, input: &str, residual: Option<&str>, output: &str) {
        let layer = &network.architecture.norms[norm];
        let stored = network.norm(norm).expect("a model has the normalisations of its network");
        let parts = ["weight", "bias", "running_mean", "running_var"].map(|part| format!("{}.{part}", layer.name));
        let (scale, shift) = stored.affine.split_at(layer.channels);
        let (mean, variance) = stored.running.split_at(layer.channels);
        for (name, values) in parts.iter().zip([scale, shift, mean, variance]) {
            self.constant(name, &[layer.channels], values);
        }
        let [scale, shift, mean, variance] = &parts;
        let epsilon = Attribute::Float("epsilon", BatchNormOptions::default().epsilon);
        self.activated(layer.activation(), output, |file, output| {
            let normalized = residual.map_or(output.to_owned(), |_| format!("{output}.normalized"));
            let inputs = [input, scale, shift, mean, variance];
            file.operation("BatchNormalization", &inputs, &normalized, &[epsilon]);
            if let Some(residual) = residual {
                file.operation("Add", &[&normalized, residual], output, &[]);
            }
        });
    }

    /// What `operation` writes to the name that it is given, behind its activation.
    fn activated(&mut self, activation: Activation, output: &str, operation: impl FnOnce(&mut Self, &str)) {
        let before = format!("{output}.before");
        match activation {
            Activation::None => operation(self, output),
            Activation::Relu => {
                operation(self, &before);
                self.operation("Relu", &[&before], output, &[]);
            }
            Activation::Relu6 => {
                operation(self, &before);
                if !self.has_ends {
                    self.constant(LEAST, &[], &[0.0]);
                    self.constant(MOST, &[], &[6.0]);
                    self.has_ends = true;
                }
                self.operation("Clip", &[&before, LEAST, MOST], output, &[]);
            }
        }
    }
}

/// `ValueInfoProto` of float32 `[batch, …]`.
fn value_info(name: &str, shape: ValueShape) -> Message {
    let sizes = match shape {
        ValueShape::Features(features) => vec![features],
        ValueShape::Token(_) | ValueShape::List(_) => vec![],
        ValueShape::Image { channels, size: [height, width] } => vec![channels, height, width],
    };
    let batch = Message::default().text(2, "batch");
    let sizes = sizes.into_iter().map(|size| Message::default().int(1, size as i64));
    let shape = Message::default().messages(1, std::iter::once(batch).chain(sizes));
    let tensor = Message::default().int(1, FLOAT).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::models::{StoredLayer, StoredWeight};

    fn contains(bytes: &[u8], part: &str) -> bool {
        bytes.windows(part.len()).any(|window| window == part.as_bytes())
    }

    /// onnxruntime's answers are compared in `tests/interop.py`.
    #[test]
    fn a_network_is_named_and_described() {
        let mut model = example();
        let bytes = to_bytes(&model).unwrap();
        assert_eq!(bytes, to_bytes(&model).unwrap());
        for part in ["input", "logits", "Gemm", "Relu", "fc1.weight", "fc2.bias", "batch", r#"{"name":"5-3-2""#] {
            assert!(contains(&bytes, part), "{part}");
        }
        assert!(!contains(&bytes, "Sub"));
        for (normalization, parts) in [
            (Normalization::PerImage, &["ReduceMean", "Sqrt", "Max"][..]),
            (Normalization::Pixels { mean: 0.5, deviation: 0.25 }, &["input.mean", "Div"]),
            (Normalization::Features { mean: vec![0.5; 5], deviation: vec![0.25; 5] }, &["input.mean", "Div"]),
            (Normalization::Channels { mean: vec![0.5; 5], deviation: vec![0.25; 5] }, &["input.deviation", "Sub"]),
        ] {
            let class_names = Some(vec!["cat".to_owned(), "dog".to_owned()]);
            model.input = Some(ModelInput { class_names, ..ModelInput::new("d", normalization) });
            let bytes = to_bytes(&model).unwrap();
            for part in parts.iter().chain(&["cat"]) {
                assert!(contains(&bytes, part), "{part}");
            }
        }
    }

    #[test]
    fn what_is_larger_than_the_format_allows_is_refused() {
        // No memory is taken for what the lengths claim.
        let layer = |name: &str, nrows: usize, ncols: usize| StoredLayer {
            name: name.to_owned(),
            weight: StoredWeight::Dense { nrows, ncols, values: vec![] },
            bias: vec![0.0; nrows],
        };
        let layers = vec![layer("fc1", 40_000, 784), layer("fc2", 40_000, 40_000), layer("fc3", 10, 40_000)];
        let error = to_bytes(&StoredModel { input: None, layers, parts: None }).unwrap_err().to_string();
        let expected = "takes 6528408616 bytes, and the format allows 2147483647; use --format safetensors";
        assert!(error.ends_with(expected), "{error}");
    }
}
