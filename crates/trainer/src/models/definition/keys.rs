//! The kinds of layers, and the keys of each.

use rigl::Padding;

use super::tree::{Fields, Result, as_number};
use super::{ConvOp, Op, Outputs};
use crate::models::graph::{Masking, PoolKind};

/// Numbers of channels and features.
const WIDTHS: std::ops::RangeInclusive<usize> = 1..=(1 << 24);
/// Sides and strides of windows.
const SIDES: std::ops::RangeInclusive<usize> = 1..=256;

/// What is sparse, by its words.
pub(super) const MASKINGS: [(&str, Masking); 3] =
    [("any", Masking::Any), ("not-uniform", Masking::NotUniform), ("never", Masking::Never)];

/// The keys of all layers.
const OF_ALL: [&str; 3] = ["kind", "name", "from"];

/// A kind of layer.
struct Kind {
    name: &'static str,
    keys: &'static [&'static str],
    read: fn(&Fields<'_, '_>) -> Result<Layer>,
}

/// A layer as it stands in a file.
pub(super) struct Layer {
    pub op: Op,
    /// Whether it has a bias; none where the file does not say.
    pub bias: Option<bool>,
    pub relu: bool,
    pub dropout: bool,
}

static KINDS: [Kind; 12] = [
    Kind { name: "linear", keys: &["outputs", "bias", "sparse", "relu", "dropout"], read: linear },
    Kind {
        name: "conv",
        keys: &["outputs", "kernel", "stride", "padding", "groups", "bias", "sparse", "counted-as", "relu", "dropout"],
        read: |fields| conv(fields, "conv"),
    },
    Kind {
        name: "depthwise-conv",
        keys: &["kernel", "stride", "padding", "bias", "sparse", "counted-as", "relu", "dropout"],
        read: |fields| conv(fields, "depthwise-conv"),
    },
    Kind { name: "batch-norm", keys: &["zero-scale", "relu", "relu6", "dropout"], read: batch_norm },
    Kind { name: "relu", keys: &[], read: |_| Ok(plain(Op::Relu)) },
    Kind { name: "dropout", keys: &[], read: |_| Ok(plain(Op::Dropout)) },
    Kind { name: "add", keys: &["with", "relu"], read: add },
    Kind { name: "concat", keys: &["with", "relu"], read: concat },
    Kind { name: "max-pool", keys: &["size", "stride", "padding"], read: |fields| pool(fields, PoolKind::Max) },
    Kind { name: "average-pool", keys: &["size", "stride", "padding"], read: |fields| pool(fields, PoolKind::Average) },
    Kind { name: "global-average-pool", keys: &[], read: |_| Ok(plain(Op::GlobalAveragePool)) },
    Kind { name: "flatten", keys: &[], read: |_| Ok(plain(Op::Flatten)) },
];

/// The layer of a table.
pub(super) fn layer(fields: &Fields<'_, '_>) -> Result<Layer> {
    let kind = fields.text("kind")?.unwrap_or_default();
    let Some(kind) = KINDS.iter().find(|known| known.name == kind) else {
        let known: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
        let reason = format!("unknown kind `{}`; the kinds are {}", super::tree::short(kind), known.join(", "));
        return Err(fields.error_at("kind", reason));
    };
    fields.know(&format!("a layer of kind {}", kind.name), &[&OF_ALL, kind.keys].concat())?;
    (kind.read)(fields)
}

fn plain(op: Op) -> Layer {
    Layer { op, bias: None, relu: false, dropout: false }
}

fn with_flags(fields: &Fields<'_, '_>, op: Op) -> Result<Layer> {
    let flag = |key| Ok(fields.flag(key)?.unwrap_or(false));
    Ok(Layer { op, bias: fields.flag("bias")?, relu: flag("relu")?, dropout: flag("dropout")? })
}

/// A number, or "classes".
fn outputs(fields: &Fields<'_, '_>, what: &str) -> Result<Outputs> {
    let value = fields.needed(what, "number of outputs (`outputs`)", fields.get("outputs")?)?;
    if value.get_ref().as_str() == Some("classes") {
        return Ok(Outputs::Classes);
    }
    let number = as_number(value).filter(|number| WIDTHS.contains(number)).map(Outputs::Number);
    let rule = format!("a whole number from 1 to {}, or \"classes\"", WIDTHS.end());
    number.ok_or_else(|| fields.wrong("outputs", value, rule))
}

fn linear(fields: &Fields<'_, '_>) -> Result<Layer> {
    let masking = fields.word("sparse", &MASKINGS)?.unwrap_or(Masking::Any);
    with_flags(fields, Op::Linear { outputs: outputs(fields, "a linear layer")?, bias: true, masking })
}

fn conv(fields: &Fields<'_, '_>, kind: &str) -> Result<Layer> {
    let what = format!("a layer of kind {kind}");
    let depthwise = kind != "conv";
    let outputs = if depthwise { None } else { Some(outputs(fields, &what)?) };
    let kernel = fields.needed(&what, "side of its kernel (`kernel`)", fields.number("kernel", SIDES)?)?;
    let padding = match fields.number("padding", 0..=kernel)? {
        Some(padding) => padding,
        None if kernel % 2 == 1 => kernel / 2,
        None => return Err(fields.error(format!("{what} with an even kernel needs a padding (`padding`)"))),
    };
    let counted_as = match fields.get("counted-as")? {
        None => None,
        Some(value) => {
            let counted_as = match (value.get_ref().as_str(), as_number(value)) {
                (Some("same"), _) => Some(Padding::Same),
                (Some("valid"), _) => Some(Padding::Valid),
                (None, Some(total)) if total <= 2 * SIDES.end() => Some(Padding::Explicit { total }),
                _ => None,
            };
            let rule = "\"same\", \"valid\", or the rows of padding that are counted, above and below together";
            Some(counted_as.ok_or_else(|| fields.wrong("counted-as", value, rule))?)
        }
    };
    let masking = if depthwise { Masking::Never } else { Masking::Any };
    let conv = ConvOp {
        outputs,
        kernel,
        stride: fields.number("stride", SIDES)?.unwrap_or(1),
        padding,
        groups: fields.number("groups", WIDTHS)?.unwrap_or(1),
        bias: true,
        masking: fields.word("sparse", &MASKINGS)?.unwrap_or(masking),
        counted_as: counted_as.unwrap_or_else(|| default_counting(kernel, padding)),
    };
    with_flags(fields, Op::Conv(conv))
}

/// How a convolution is counted if its file does not say: as it is padded.
pub(super) fn default_counting(kernel: usize, padding: usize) -> Padding {
    match padding {
        _ if kernel % 2 == 1 && padding == kernel / 2 => Padding::Same,
        0 => Padding::Valid,
        _ => Padding::Explicit { total: 2 * padding },
    }
}

fn batch_norm(fields: &Fields<'_, '_>) -> Result<Layer> {
    let flag = |key| Ok(fields.flag(key)?.unwrap_or(false));
    let (zero_scale, relu6) = (flag("zero-scale")?, flag("relu6")?);
    let layer = with_flags(fields, Op::BatchNorm { zero_scale, relu6 })?;
    Ok(Layer { relu: layer.relu || relu6, ..layer })
}

fn add(fields: &Fields<'_, '_>) -> Result<Layer> {
    fields.needed("a layer of kind add", "second value (`with`)", fields.text("with")?)?;
    with_flags(fields, Op::Add)
}

fn concat(fields: &Fields<'_, '_>) -> Result<Layer> {
    fields.needed("a layer of kind concat", "second value, or a list of values (`with`)", fields.texts("with")?)?;
    with_flags(fields, Op::Concat)
}

fn pool(fields: &Fields<'_, '_>, kind: PoolKind) -> Result<Layer> {
    let what = format!("a layer of kind {}", kind.name());
    let size = fields.needed(&what, "side of its windows (`size`)", fields.number("size", SIDES)?)?;
    let stride = fields.number("stride", SIDES)?.unwrap_or(size);
    let padding = fields.number("padding", 0..=size / 2)?.unwrap_or(0);
    Ok(plain(Op::Pool { kind, size, stride, padding }))
}
