//! Convolutional networks from files of anyone: our own exports, and state dicts with torchvision's names.
//!
//! The network is the one that the options name, else the one that the file's metadata describes, else the known one with the
//! most convolutions of which the file has every one. What its name leaves open follows from the tensors: channels and stem from
//! the first convolution, classes from the last layer. Every tensor must have its place and its shape there, but that
//!
//! * counters (`num_batches_tracked`) are left out;
//! * a bias before a batch normalisation is subtracted from its running mean, which is the same network (VGG-16 has such);
//! * with another number of classes asked for, the last layer is new, drawn as for a new network.

use std::collections::BTreeMap;

use safetensors::tensor::TensorView;

use super::super::TensorsError;
use super::super::description::Description;
use super::super::layers::{check_finite_vector, check_finite_weight, dense_if_full};
use super::sequences;
use super::tensors::{at_nonzeros, check_one_way, floats, list, masked, read_sparse, shape_key, shape_text};
use crate::models::{
    Architecture, LayerKind, MOST_WIDTH, ModelName, ModelSpec, NetworkParts, Node, NormLayer, Stem, StoredLayer,
    StoredModel, StoredNorm, StoredWeight, WeightLayer,
};

/// What a file's convolutional network is to be, where the file does not say it or it is to be another.
#[derive(Debug, Clone, Default)]
pub struct NetworkOptions {
    /// The network's name.
    pub model: Option<ModelName>,
    /// Factor on its channels.
    pub width: Option<f64>,
    /// How a residual network begins.
    pub stem: Option<Stem>,
    /// Height and width of the pictures.
    pub image_size: Option<usize>,
    /// Classes: if the file has another number, the last layer is new.
    pub classes: Option<usize>,
    /// Of the new layer's weights.
    pub seed: u64,
}

impl NetworkOptions {
    /// The first option that is of convolutional networks only, and given.
    pub(in super::super) fn given(&self) -> Option<&'static str> {
        let given = [
            ("model", self.model.is_some()),
            ("width", self.width.is_some()),
            ("stem", self.stem.is_some()),
            ("image-size", self.image_size.is_some()),
            ("classes", self.classes.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }
}

/// Those that are known by the names of their layers.
const KNOWN: [&str; 8] =
    ["lenet-5", "resnet-18", "resnet-34", "resnet-50", "mobilenet-v1", "mobilenet-v2", "mobilenet-v2-relu6", "vgg-16"];

/// The tensors of a file that have no place yet.
pub(super) struct Tensors<'d> {
    left: BTreeMap<String, TensorView<'d>>,
    metadata: BTreeMap<String, String>,
}

impl<'d> Tensors<'d> {
    /// All of a file. A prefix that a wrapper has put before every name (`module.`) is left out.
    pub(super) fn new(tensors: Vec<(String, TensorView<'d>)>, metadata: BTreeMap<String, String>) -> Self {
        const WRAPPER: &str = "module.";
        let wrapped = tensors.iter().all(|(name, _)| name.starts_with(WRAPPER));
        let bare = |name: String| if wrapped { name[WRAPPER.len()..].to_owned() } else { name };
        let ours = |name: String| sequences::of_torch(&name).unwrap_or(name);
        let left = tensors.into_iter().map(|(name, view)| (ours(bare(name)), view)).collect();
        Self { left, metadata: metadata.into_iter().map(|(key, value)| (ours(key), value)).collect() }
    }

    /// Whether they are of a convolutional network rather than of linear layers.
    pub(super) fn is_network(&self) -> bool {
        let of_network = |(name, view): (&String, &TensorView<'_>)| {
            let is_weight = name.ends_with(".weight") || name.ends_with(".weight_orig");
            name.ends_with(".running_mean") || is_weight && view.shape().len() == 4
        };
        let is_described = || self.description().is_some_and(|description| description.spec.is_some());
        self.left.iter().any(of_network) || self.recurrent().is_some() || is_described()
    }

    pub(super) fn description(&self) -> Option<Description> {
        self.metadata.get(Description::KEY).and_then(|text| Description::from_json(text))
    }

    fn get(&self, name: &str) -> Option<&TensorView<'d>> {
        self.left.get(name)
    }

    fn take(&mut self, name: &str) -> Option<TensorView<'d>> {
        self.left.remove(name)
    }

    fn has_weight(&self, layer: &str) -> bool {
        ["weight", "weight_orig", "weight.values"].iter().any(|part| self.left.contains_key(&format!("{layer}.{part}")))
    }

    /// A weight's dimensions, if the file tells them without the network.
    fn dimensions(&self, layer: &str) -> Option<Vec<usize>> {
        let whole = ["weight", "weight_orig"].iter().find_map(|part| self.get(&format!("{layer}.{part}")));
        if let Some(view) = whole {
            return Some(view.shape().to_vec());
        }
        let told = ["weight.dimensions", "weight.shape"].iter();
        told.filter_map(|part| self.metadata.get(&format!("{layer}.{part}")))
            .find_map(|text| serde_json::from_str(text).ok())
    }

    fn recurrent(&self) -> Option<ModelName> {
        sequences::recurrent(|layer| self.dimensions(layer))
    }

    /// All that are left, for messages.
    fn shown(&self) -> String {
        list(self.left.iter().map(|(name, view)| (name.clone(), view.shape().to_vec())).collect())
    }
}

/// The network of a file's tensors.
///
/// # Errors
/// [`TensorsError`] naming the tensor, its shape, and the shape wanted.
pub(super) fn read(mut tensors: Tensors<'_>, options: &NetworkOptions) -> Result<StoredModel, TensorsError> {
    let counters: Vec<_> = tensors.left.keys().filter(|name| name.ends_with("num_batches_tracked")).cloned().collect();
    counters.iter().for_each(|name| drop(tensors.left.remove(name)));
    let description = tensors.description();
    let spec = spec(&tensors, description.as_ref(), options)?;
    let architecture = Architecture::new(&spec)
        .map_err(|reason| TensorsError::Network { model: spec.name.to_string(), reason: reason.to_string() })?;
    let model = spec.name.to_string();
    let last = architecture.layers.len() - 1;
    let (mut layers, mut new_head) = (Vec::new(), false);
    for (i, layer) in architecture.layers.iter().enumerate() {
        if i == last && options.classes.is_some() && !has_head(&tensors, layer) {
            new_head = true;
            tracing::warn!(
                "layer {}: the model has {}; its weights for {} classes are new, with seed {}",
                layer.name,
                tensors.dimensions(&layer.name).map_or("none of this name".to_owned(), |found| shape_text(&found)),
                spec.classes,
                options.seed
            );
            let of_layer = format!("{}.", layer.name);
            tensors.left.retain(|name, _| !name.starts_with(&of_layer));
            layers.push(StoredModel::new_layer(&architecture, i, options.seed));
            continue;
        }
        layers.push(read_layer(&mut tensors, layer, &model)?);
    }
    let mut norms = Vec::new();
    for norm in &architecture.norms {
        norms.push(read_norm(&mut tensors, norm, &model)?);
    }
    fold_biases(&mut tensors, &architecture, &mut norms)?;
    if new_head {
        // Linear layers before the one that is new: this network has another classifier.
        let is_linear =
            |(name, view): &(&String, &TensorView<'_>)| name.ends_with(".weight") && view.shape().len() == 2;
        let heads = tensors.left.iter().filter(is_linear);
        let heads: Vec<_> = heads.map(|(name, _)| name.trim_end_matches("weight").to_owned()).collect();
        for head in heads {
            tracing::warn!("layer {} is left out: {model} has no place for it", head.trim_end_matches('.'));
            tensors.left.retain(|name, _| !name.starts_with(&head));
        }
    }
    if !tensors.left.is_empty() {
        return Err(TensorsError::Left { tensors: tensors.shown(), model });
    }
    for layer in &layers {
        check_finite_weight(&layer.name, &layer.weight)?;
        check_finite_vector(&layer.name, "bias", &layer.bias)?;
    }
    for norm in &norms {
        check_finite_vector(&norm.name, "weight or bias", &norm.affine)?;
        check_finite_vector(&norm.name, "running mean or variance", &norm.running)?;
    }
    let mut input = description.and_then(|description| description.input);
    if let (true, Some(input)) = (new_head, &mut input) {
        input.class_names = None;
    }
    Ok(StoredModel { input, layers, parts: Some(NetworkParts { spec, norms }) })
}

/// Whether the file has the last layer of the network, with its number of classes.
fn has_head(tensors: &Tensors<'_>, layer: &WeightLayer) -> bool {
    tensors.has_weight(&layer.name) && tensors.dimensions(&layer.name).is_none_or(|found| found[..1] == [layer.rows()])
}

/// What the network is made from.
fn spec(
    tensors: &Tensors<'_>,
    description: Option<&Description>,
    options: &NetworkOptions,
) -> Result<ModelSpec, TensorsError> {
    let described = description.and_then(|description| description.spec.as_ref());
    let described = described.filter(|spec| {
        let is_asked = options.model.as_ref().is_none_or(|model| *model == spec.name);
        let most = spec.channels.max(spec.classes).max(spec.size[0]).max(spec.size[1]);
        is_asked && spec.width > 0.0 && spec.width <= MOST_WIDTH && most <= 1 << 20
    });
    let name = match (&options.model, described) {
        (Some(model), _) => model.clone(),
        (None, Some(spec)) => spec.name.clone(),
        (None, None) => infer(tensors)?,
    };
    let base = described.cloned().unwrap_or_else(|| ModelSpec::of(&name));
    if name.sequence().is_some() {
        return Ok(sequences::spec(base, |layer| tensors.dimensions(layer), |tensor| tensors.get(tensor).is_some()));
    }
    // The last layer's name may depend on the pictures' size.
    let asked = options.image_size.map_or(base.size, |side| [side; 2]);
    let Ok(architecture) = Architecture::new(&base.clone().on(base.channels, asked, base.classes)) else {
        return Ok(base);
    };
    let [first, .., last] = &architecture.layers[..] else { return Ok(base) };
    let first = tensors.dimensions(&first.name).filter(|found| found.len() == 4);
    let channels = first.as_ref().map_or(base.channels, |found| found[1].clamp(1, 1 << 10));
    let head = tensors.dimensions(&last.name).map(|found| found[0].clamp(1, 1 << 20));
    let classes = options.classes.or(head).unwrap_or(base.classes);
    let has_stem = name.family().is_some_and(|family| family.has_stem);
    let stem = match first.as_ref().map(|found| found[2]) {
        Some(3) if has_stem => Some(Stem::Cifar),
        Some(_) if has_stem => Some(Stem::Imagenet),
        _ => described.map(|spec| spec.stem),
    };
    // CIFAR's beginning is for its pictures.
    let side = if stem == Some(Stem::Cifar) && described.is_none() { [32; 2] } else { base.size };
    let size = options.image_size.map_or(side, |side| [side; 2]);
    let stem = options.stem.or(stem).unwrap_or(Stem::Auto);
    Ok(base.clone().on(channels, size, classes).with_stem(stem).with_width(options.width.unwrap_or(base.width)))
}

/// The known network with the most convolutions of which the file has every one.
fn infer(tensors: &Tensors<'_>) -> Result<ModelName, TensorsError> {
    if let Some(recurrent) = tensors.recurrent() {
        return Ok(recurrent);
    }
    let mut best: Option<(usize, ModelName)> = None;
    for name in KNOWN {
        let Ok(name) = name.parse::<ModelName>() else { continue };
        let architecture = Architecture::of(&name);
        let convs = architecture.layers.iter().filter(|layer| matches!(layer.kind, LayerKind::Conv { .. }));
        let fits = convs.clone().all(|layer| tensors.has_weight(&layer.name));
        let count = convs.count();
        if fits && best.as_ref().is_none_or(|(most, _)| count > *most) {
            best = Some((count, name));
        }
    }
    best.map(|(_, name)| name)
        .ok_or_else(|| TensorsError::UnknownNetwork { tensors: tensors.shown(), known: KNOWN.join(", ") })
}

fn expect_shape(name: &str, got: &[usize], expected: &[usize], model: &str) -> Result<(), TensorsError> {
    if got == expected {
        return Ok(());
    }
    let (name, model) = (name.to_owned(), model.to_owned());
    Err(TensorsError::Dimensions { name, got: shape_text(got), expected: shape_text(expected), model })
}

fn read_layer(tensors: &mut Tensors<'_>, layer: &WeightLayer, model: &str) -> Result<StoredLayer, TensorsError> {
    let (name, nrows, ncols, dimensions) = (&layer.name, layer.rows(), layer.columns(), layer.dimensions());
    let tensor = |part: &str| format!("{name}.{part}");
    let weight_name = tensor("weight");
    let [dense, original, mask] = ["weight", "weight_orig", "weight_mask"].map(|part| tensors.take(&tensor(part)));
    let sparse = ["weight.crow_indices", "weight.col_indices", "weight.values"].map(|part| tensors.take(&tensor(part)));
    check_one_way([
        (dense.is_some(), weight_name.clone()),
        (sparse.iter().any(Option::is_some), tensor("weight.values")),
        (original.is_some() || mask.is_some(), tensor("weight_orig")),
    ])?;
    if let Some(original) = &original {
        expect_shape(&tensor("weight_orig"), original.shape(), &dimensions, model)?;
    }
    let weight = match (dense, masked(original, mask, tensor("weight_orig"), tensor("weight_mask"))?) {
        (Some(dense), _) => {
            expect_shape(&weight_name, dense.shape(), &dimensions, model)?;
            StoredWeight::Dense { nrows, ncols, values: floats(&weight_name, &dense)? }
        }
        (None, Some([values, kept])) => at_nonzeros(nrows, ncols, &kept, &values)
            .map_err(|reason| TensorsError::Matrix { weight: weight_name, reason })?,
        (None, None) if sparse.iter().all(Option::is_none) => {
            let (name, model) = (weight_name, model.to_owned());
            return Err(TensorsError::Absent { name, model, expected: shape_text(&dimensions) });
        }
        (None, None) => {
            if let Some(told) = tensors.metadata.get(&shape_key(&weight_name)) {
                let told: Vec<usize> = serde_json::from_str(told)
                    .map_err(|_| TensorsError::Shape { key: shape_key(&weight_name), got: told.clone() })?;
                expect_shape(&weight_name, &told, &[nrows, ncols], model)?;
            }
            let weight = read_sparse(weight_name.clone(), sparse, nrows, Some(ncols))?;
            if matches!(weight, StoredWeight::BlockSparse(_)) && layer.taps() > 1 {
                return Err(TensorsError::BlocksOfTaps { weight: weight_name });
            }
            weight
        }
    };
    let bias = if layer.bias { read_bias(tensors, layer, model)? } else { None };
    let bias = bias.unwrap_or_else(|| vec![0.0; if layer.bias { nrows } else { 0 }]);
    Ok(StoredLayer { name: name.clone(), weight: dense_if_full(weight), bias })
}

fn read_bias(tensors: &mut Tensors<'_>, layer: &WeightLayer, model: &str) -> Result<Option<Vec<f32>>, TensorsError> {
    let tensor = |part: &str| format!("{}.{part}", layer.name);
    let [plain, original, mask] = ["bias", "bias_orig", "bias_mask"].map(|part| tensors.take(&tensor(part)));
    check_one_way([(plain.is_some(), tensor("bias")), (original.is_some() || mask.is_some(), tensor("bias_orig"))])?;
    let values = match (plain, masked(original, mask, tensor("bias_orig"), tensor("bias_mask"))?) {
        (Some(bias), _) => floats(&tensor("bias"), &bias)?,
        (None, Some([values, kept])) => values.iter().zip(kept).map(|(value, kept)| value * kept).collect(),
        (None, None) => return Ok(None),
    };
    expect_shape(&tensor("bias"), &[values.len()], &[layer.rows()], model)?;
    Ok(Some(values))
}

fn read_norm(tensors: &mut Tensors<'_>, norm: &NormLayer, model: &str) -> Result<StoredNorm, TensorsError> {
    let mut read = |part: &str| {
        let name = format!("{}.{part}", norm.name);
        let Some(view) = tensors.take(&name) else {
            let (expected, model) = (shape_text(&[norm.channels]), model.to_owned());
            return Err(TensorsError::Absent { name, model, expected });
        };
        expect_shape(&name, view.shape(), &[norm.channels], model)?;
        floats(&name, &view)
    };
    let mut parts = |names: [&str; 2], len: usize| -> Result<Vec<f32>, TensorsError> {
        let parts = names.into_iter().take(len / norm.channels).map(&mut read);
        Ok(parts.collect::<Result<Vec<_>, _>>()?.concat())
    };
    let affine = parts(["weight", "bias"], norm.affine_len())?;
    let running = parts(["running_mean", "running_var"], norm.running_len())?;
    Ok(StoredNorm { name: norm.name.clone(), affine, running })
}

/// `γ · (x + b − μ) / σ + β` has the running mean `μ − b`.
fn fold_biases(
    tensors: &mut Tensors<'_>,
    architecture: &Architecture,
    norms: &mut [StoredNorm],
) -> Result<(), TensorsError> {
    let nodes = &architecture.graph.nodes;
    for node in nodes {
        let &Node::Layer { layer, output, .. } = node else { continue };
        let layer = &architecture.layers[layer];
        let norm = nodes.iter().find_map(|node| match *node {
            Node::Norm { norm, input, .. } if input == output => Some(norm),
            _ => None,
        });
        let is_conv = matches!(layer.kind, LayerKind::Conv { .. });
        let (false, true, Some(norm)) = (layer.bias, is_conv, norm) else { continue };
        if let Some(bias) = read_bias(tensors, layer, &architecture.name().to_string())? {
            check_finite_vector(&layer.name, "bias", &bias)?;
            norms[norm].running.iter_mut().zip(&bias).for_each(|(mean, bias)| *mean -= bias);
        }
    }
    Ok(())
}
