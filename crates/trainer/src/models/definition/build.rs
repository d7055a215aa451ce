//! From a definition to an architecture, and back.

use std::sync::Arc;

use super::tree::place;
use super::{ConvOp, Definition, Input, InputShape, Op, Outputs, Step, readers};
use crate::models::architecture::Architecture;
use crate::models::build_error::BuildError;
use crate::models::builder::{Builder, Conv};
use crate::models::family::FirstWeights;
use crate::models::graph::{LayerKind, Node, ValueId, ValueShape, WeightLayer};
use crate::models::name::{ModelName, Stem};
use crate::models::spec::ModelSpec;

impl Builder {
    /// A network that reads images of `channels` and `[height, width]`.
    pub fn images(name: impl Into<String>, channels: usize, size: [usize; 2], classes: usize) -> Self {
        Self::own(name.into(), [channels, size[0], size[1]], ValueShape::Image { channels, size }, classes)
    }

    /// A network that reads features.
    pub fn features(name: impl Into<String>, features: usize, classes: usize) -> Self {
        Self::own(name.into(), [features, 1, 1], ValueShape::Features(features), classes)
    }

    fn own(name: String, [channels, height, width]: [usize; 3], input: ValueShape, classes: usize) -> Self {
        let shape = match input {
            ValueShape::Features(features) => InputShape::Features(Some(features)),
            ValueShape::Image { channels, size } => InputShape::Images { channels: Some(channels), size: Some(size) },
            ValueShape::Token(_) | ValueShape::List(_) => unreachable!("{NO_TOKENS}"),
        };
        let input_of_file = Input { shape, classes: Some(classes), open: false };
        let first_weights = FirstWeights::He;
        let definition =
            Definition { name, input: input_of_file, first_weights, steps: vec![], lines: vec![], file: None };
        let spec = ModelSpec {
            name: ModelName::Own(Arc::new(definition)),
            channels,
            size: [height, width],
            classes,
            width: 1.0,
            stem: Stem::Auto,
            sequence: None,
        };
        Self::new(&spec, input, first_weights)
    }

    /// What was put together. What can be one operation is one: a sum behind a normalisation, say.
    ///
    /// # Errors
    /// [`BuildError`] if some value is read by nothing, the network does not end with a feature for each class, or its name is
    /// none, or that of a network of the zoo.
    pub fn finish(self) -> Result<Architecture, BuildError> {
        let assembled = self.assembled()?;
        let ModelName::Own(begun) = &assembled.spec.name else { return Ok(assembled) };
        if begun.name.parse::<ModelName>().is_ok() {
            let difference = "what is built here has a name of its own".to_owned();
            return Err(BuildError::Taken { name: begun.name.clone(), difference });
        }
        let definition = described(&assembled, begun.name.clone(), begun.input);
        let unsound = |error: super::DefinitionError| BuildError::Description { reason: error.to_string() };
        let again = Definition::parse(&definition.to_toml(), None).map_err(unsound)?;
        if again != definition {
            return Err(BuildError::Description {
                reason: "dropouts have names of layers that are not before them".to_owned(),
            });
        }
        build(&Arc::new(definition), &assembled.spec)
    }
}

/// The network that a definition makes of this input.
///
/// # Errors
/// [`BuildError`] with the place in the file, if the definition is from one.
pub(in crate::models) fn build(definition: &Arc<Definition>, spec: &ModelSpec) -> Result<Architecture, BuildError> {
    let ModelSpec { channels, size: [height, width], classes, .. } = *spec;
    let features = channels.saturating_mul(height).saturating_mul(width);
    check_input(&definition.input, [channels, height, width], features, classes)?;
    let input = match definition.input.shape {
        InputShape::Features(_) => ValueShape::Features(features),
        InputShape::Images { .. } => ValueShape::Image { channels, size: [height, width] },
    };
    let spec = ModelSpec { name: ModelName::Own(Arc::clone(definition)), ..spec.clone() };
    let mut builder = Builder::new(&spec, input, definition.first_weights);
    builder.check_input()?;
    let mut values = vec![None; definition.steps.len() + 1];
    values[0] = Some(builder.input());
    let readers = readers(&definition.steps);
    let mut next = 0;
    while next < definition.steps.len() {
        let added = step(&mut builder, &definition.steps, &readers, &mut values, next);
        next = added.map_err(|reason| match (&definition.file, definition.lines.get(next)) {
            (Some(file), Some(&line)) => BuildError::At { place: place(Some(file), line), reason: reason.into() },
            _ => reason,
        })?;
    }
    builder.assembled().map_err(|reason| match &definition.file {
        Some(file) => BuildError::At { place: file.display().to_string(), reason: reason.into() },
        None => reason,
    })
}

/// What the file says of the input must be so.
fn check_input(
    input: &Input,
    [channels, height, width]: [usize; 3],
    features: usize,
    classes: usize,
) -> Result<(), BuildError> {
    if input.open {
        return Ok(());
    }
    let check = |what, said: Option<usize>, got: usize| match said {
        Some(said) if said != got => Err(BuildError::Input { what, said: said.to_string(), got: got.to_string() }),
        _ => Ok(()),
    };
    match input.shape {
        InputShape::Features(said) => check("features", said, features)?,
        InputShape::Images { channels: said, size } => {
            check("channels", said, channels)?;
            check("height", size.map(|size| size[0]), height)?;
            check("width", size.map(|size| size[1]), width)?;
        }
    }
    check("classes", input.classes, classes)
}

/// Adds a step, with those behind it that become one operation with it; returns the number of the next.
fn step(
    builder: &mut Builder,
    steps: &[Step],
    readers: &[usize],
    values: &mut [Option<ValueId>],
    at: usize,
) -> Result<usize, BuildError> {
    let Step { op, name, inputs } = &steps[at];
    let of = |input: usize, values: &[Option<ValueId>]| values[input].expect("steps read what stands before them");
    let input = of(inputs[0], values);
    // The step behind number `last`, if nothing else reads that.
    let follower = |last: usize| steps.get(last).filter(|step| step.inputs[0] == last && readers[last] == 1);
    let relu_after = |last: usize| follower(last).is_some_and(|step| step.op == Op::Relu);
    let classes = builder.spec.classes;
    let number = |outputs: &Outputs| match outputs {
        Outputs::Number(number) => *number,
        Outputs::Classes => classes,
    };
    let mut last = at + 1;
    let output = match op {
        Op::Linear { outputs, bias, masking } => {
            builder.masking = *masking;
            let relu = *bias && relu_after(last);
            last += usize::from(relu);
            builder.linear_with(name, number(outputs), *bias, relu, input)?
        }
        Op::Conv(ConvOp { outputs, kernel, stride, padding, groups, bias, masking, counted_as }) => {
            builder.masking = *masking;
            let (outputs, groups) = match outputs {
                Some(outputs) => (number(outputs), *groups),
                None => {
                    let channels = builder.image(name, input)?.0;
                    (channels, channels)
                }
            };
            let conv = Conv::new(outputs, *kernel).stride(*stride).padding(*padding).groups(groups);
            let mut conv = conv.counted_as(*counted_as);
            if *bias {
                conv = conv.bias();
                if relu_after(last) {
                    conv = conv.relu();
                    last += 1;
                }
            }
            builder.conv(name, conv, input)?
        }
        Op::BatchNorm { zero_scale, relu6 } => {
            // `norm(x) + y`, one of which may be the sum's first operand.
            let sum = steps.get(last).filter(|sum| sum.op == Op::Add && readers[last] == 1);
            let residual = sum.and_then(|sum| match sum.inputs[..] {
                [first, second] if first == last && second != last => Some(second),
                [first, second] if second == last && first != last => Some(first),
                _ => None,
            });
            last += usize::from(residual.is_some());
            let relu = relu_after(last);
            last += usize::from(relu);
            let output = match residual {
                Some(residual) => builder.norm_add(name, relu, *zero_scale, of(residual, values), input)?,
                None => builder.norm_with(name, relu, *zero_scale, input)?,
            };
            if *relu6 {
                builder.end_at_6();
            }
            output
        }
        Op::Add => {
            let addend = of(inputs[1], values);
            // A sum that is normalised next, and may stand where a convolution wrote, whose output nothing else reads.
            let norm = steps.get(last).filter(|norm| norm.inputs == [last]);
            match norm.map(|norm| (&norm.op, &norm.name)) {
                Some((Op::BatchNorm { zero_scale, relu6 }, name))
                    if readers[inputs[0]] == 1 && builder.is_bare_conv(input) =>
                {
                    last += 1;
                    let relu = relu_after(last);
                    last += usize::from(relu);
                    let (sum, output) = builder.add_norm(name, relu, *zero_scale, addend, input)?;
                    if *relu6 {
                        builder.end_at_6();
                    }
                    values[at + 1] = Some(sum);
                    output
                }
                _ => builder.add(input, addend)?,
            }
        }
        Op::Concat => {
            let inputs: Vec<_> = inputs.iter().map(|&input| of(input, values)).collect();
            builder.concat(&inputs)?
        }
        Op::Relu => builder.relu(input)?,
        Op::Dropout => builder.dropout(name, input)?,
        Op::Pool { kind, size, stride, padding } => builder.pool(*kind, [*size, *stride, *padding], input)?,
        Op::GlobalAveragePool => builder.global_average_pool(input)?,
        Op::Flatten => builder.flatten(input)?,
    };
    values[last] = Some(output);
    Ok(last)
}

impl Definition {
    /// The network as a file has it, under its own name. The data may have other sizes than those it was built for, if its name
    /// says none.
    ///
    /// # Panics
    /// If it reads tokens: such networks have names only.
    pub fn of(architecture: &Architecture) -> Self {
        let ModelSpec { name, channels, size, classes, .. } = &architecture.spec;
        if let ModelName::Own(definition) = name {
            return Self::clone(definition);
        }
        let shape = match architecture.graph.values[0] {
            ValueShape::Features(features) => InputShape::Features(Some(features)),
            ValueShape::Image { .. } => InputShape::Images { channels: Some(*channels), size: Some(*size) },
            ValueShape::Token(_) | ValueShape::List(_) => unreachable!("{NO_TOKENS}"),
        };
        let input = Input { shape, classes: Some(*classes), open: !name.is_mlp() };
        // A network of another width is none of the zoo's.
        let name = match architecture.spec.width {
            1.0 => name.to_string(),
            width => format!("{name}-width-{width}"),
        };
        described(architecture, name, input)
    }
}

/// What callers see to.
const NO_TOKENS: &str = "networks that read tokens have no definition, only names";

/// The definition of a network that has been built.
fn described(architecture: &Architecture, name: String, input: Input) -> Definition {
    let Architecture { layers, norms, graph, .. } = architecture;
    let nodes = &graph.nodes;
    let mut steps: Vec<Step> = vec![];
    // Which step's output a value is.
    let mut of = vec![0; graph.values.len()];
    let step = |op, name: &str, inputs| Step { op, name: name.to_owned(), inputs };
    let outputs = |number: usize, is_last: bool| match is_last && number == architecture.spec.classes {
        true => Outputs::Classes,
        false => Outputs::Number(number),
    };
    for (i, node) in nodes.iter().enumerate() {
        let is_last = i + 1 == nodes.len();
        let mut push = |step: Step| {
            steps.push(step);
            steps.len()
        };
        let with_relu = |relu: bool, last: usize, push: &mut dyn FnMut(Step) -> usize| match relu {
            true => push(step(Op::Relu, "", vec![last])),
            false => last,
        };
        match node {
            &Node::Layer { layer, input, output } => {
                let WeightLayer { name, kind, bias, relu, masking, .. } = &layers[layer];
                let (bias, masking) = (*bias, *masking);
                let op = match *kind {
                    LayerKind::Linear { outputs: number, .. } => {
                        Op::Linear { outputs: outputs(number, is_last), bias, masking }
                    }
                    LayerKind::Conv { shape, counted_as, .. } => Op::Conv(ConvOp {
                        outputs: (!shape.is_depthwise()).then(|| outputs(shape.out_channels(), false)),
                        kernel: shape.kernel()[0],
                        stride: shape.stride()[0],
                        padding: shape.padding()[0],
                        groups: if shape.is_depthwise() { 1 } else { shape.groups() },
                        bias,
                        masking,
                        counted_as,
                    }),
                    LayerKind::Embedding { .. } => unreachable!("{NO_TOKENS}"),
                };
                let last = push(step(op, name, vec![of[input]]));
                of[output] = with_relu(*relu, last, &mut push);
            }
            &Node::Norm { norm, input, residual, output } => {
                let layer = &norms[norm];
                let op = Op::BatchNorm { zero_scale: layer.zero_scale, relu6: layer.relu6 };
                let mut last = push(step(op, &layer.name, vec![of[input]]));
                if let Some(residual) = residual {
                    last = push(step(Op::Add, "", vec![last, of[residual]]));
                }
                of[output] = with_relu(layer.relu, last, &mut push);
            }
            &Node::AddNorm { norm, input, addend, sum, output } => {
                let layer = &norms[norm];
                of[sum] = push(step(Op::Add, "", vec![of[input], of[addend]]));
                let op = Op::BatchNorm { zero_scale: layer.zero_scale, relu6: layer.relu6 };
                let last = push(step(op, &layer.name, vec![of[sum]]));
                of[output] = with_relu(layer.relu, last, &mut push);
            }
            &Node::Pool { kind, window, input, output } => {
                let (size, stride, padding) = (window.kernel()[0], window.stride()[0], window.padding()[0]);
                of[output] = push(step(Op::Pool { kind, size, stride, padding }, "", vec![of[input]]));
            }
            &Node::GlobalAveragePool { input, output } => {
                of[output] = push(step(Op::GlobalAveragePool, "", vec![of[input]]));
            }
            &Node::Flatten { input, output } => of[output] = push(step(Op::Flatten, "", vec![of[input]])),
            Node::Dropout { name, input, output } => of[*output] = push(step(Op::Dropout, name, vec![of[*input]])),
            &Node::Add { input, addend, output } => {
                of[output] = push(step(Op::Add, "", vec![of[input], of[addend]]));
            }
            Node::Concat { inputs, output } => {
                let inputs = inputs.iter().map(|&input| of[input]).collect();
                of[*output] = push(step(Op::Concat, "", inputs));
            }
            &Node::Relu { input, output } => of[output] = push(step(Op::Relu, "", vec![of[input]])),
            Node::Gelu { .. } | Node::Embed { .. } | Node::Attention { .. } | Node::Recurrent { .. } => {
                unreachable!("{NO_TOKENS}")
            }
        }
    }
    Definition { name, input, first_weights: architecture.first_weights, steps, lines: vec![], file: None }
}
