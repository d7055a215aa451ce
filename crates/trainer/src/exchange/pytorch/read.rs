//! Multi-layer perceptrons from files of anyone.

use std::collections::HashMap;

use safetensors::tensor::{SafeTensors, TensorView};

use super::super::description::Description;
use super::super::layers::{NamedLayer, chain, check_finite, check_finite_vector, check_finite_weight};
use super::super::order::{Unplaced, natural_order, order};
use super::super::{OrderError, TensorsError};
use super::network::{self, NetworkOptions, Tensors};
use super::tensors::{at_nonzeros, check_one_way, floats, list, masked, read_sparse, shape_key, tensor_name};
use crate::checkpoint::{Checkpoint, METADATA_KEY, read_header};
use crate::models::{StoredLayer, StoredModel, StoredWeight};

/// What a tensor is to its layer, by the end of its name, and its dimensions.
pub(super) const PARTS: [(&str, usize); 10] = [
    ("weight", 2),
    ("weight.crow_indices", 1),
    ("weight.col_indices", 1),
    ("weight.values", 1),
    ("weight.values", 3),
    ("weight_orig", 2),
    ("weight_mask", 2),
    ("bias", 1),
    ("bias_orig", 1),
    ("bias_mask", 1),
];

/// The tensors of one layer, as in [`PARTS`].
type Parts<'d> = [Option<TensorView<'d>>; PARTS.len()];

/// The model of a file, with its layers named `fc1`, `fc2`, ….
///
/// # Errors
/// [`TensorsError`] saying what is wrong.
///
/// # Cost
/// Time and memory follow the bytes that are there, whatever the header claims.
pub fn from_bytes(bytes: &[u8]) -> Result<StoredModel, TensorsError> {
    from_bytes_as(bytes, None, &NetworkOptions::default())
}

/// As [`from_bytes`], with the layers in the `wanted` order if there is one. A convolutional network is what its `options` say.
///
/// # Errors
/// As there, and [`TensorsError::Order`] if the order is not one of all the layers, or the file is a checkpoint.
pub fn from_bytes_as(
    bytes: &[u8],
    wanted: Option<&[String]>,
    options: &NetworkOptions,
) -> Result<StoredModel, TensorsError> {
    let header = read_header(bytes)?;
    let metadata = |key: &str| header.metadata().as_ref()?.get(key);
    if metadata(METADATA_KEY).is_some() {
        if wanted.is_some() {
            return Err(OrderError::Known.into());
        }
        if let Some(option) = options.given() {
            return Err(TensorsError::NoEffect { option, needs: "a file of another program: this is a model of rigl" });
        }
        let model = StoredModel::from_checkpoint(&Checkpoint::from_bytes(bytes)?)?;
        if let Some(parts) = &model.parts {
            for norm in &parts.norms {
                check_finite_vector(&norm.name, "affine", &norm.affine)?;
                check_finite_vector(&norm.name, "running", &norm.running)?;
            }
            for layer in &model.layers {
                check_finite_weight(&layer.name, &layer.weight)?;
                check_finite_vector(&layer.name, "bias", &layer.bias)?;
            }
            return Ok(model);
        }
        let StoredModel { input, layers, .. } = model;
        let named = |layer: StoredLayer| NamedLayer { name: layer.name, weight: layer.weight, bias: Some(layer.bias) };
        let layers: Vec<_> = layers.into_iter().map(named).collect();
        check_finite(&layers)?;
        return Ok(StoredModel { input, ..chain(layers)? });
    }
    let file = SafeTensors::deserialize(bytes)?;
    if file.is_empty() {
        return Err(TensorsError::Empty);
    }
    let of_file = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let tensors = Tensors::new(file.tensors(), of_file);
    if tensors.is_network() || options.model.as_ref().is_some_and(|model| !model.is_mlp()) {
        return match wanted {
            Some(_) => Err(OrderError::Known.into()),
            None => network::read(tensors, options),
        };
    }
    if let Some(option) = options.given() {
        return Err(TensorsError::NoEffect { option, needs: "a convolutional network" });
    }
    let mut found = Vec::new();
    for (name, parts) in layers_of(&file)? {
        let shape = shape_of(&name, &parts, metadata(&shape_key(&tensor_name(&name, "weight"))))?;
        let shown = if name.is_empty() { "weight".to_owned() } else { name.clone() };
        found.push((name, shown, shape, Some(parts)));
    }
    let unplaced = found.iter().map(|&(_, ref name, (outputs, inputs), _)| Unplaced { name, outputs, inputs });
    let order = order(&unplaced.collect::<Vec<_>>(), wanted)?;
    let mut layers = Vec::new();
    let mut outputs = None;
    for at in order {
        let (name, shown, (nrows, ncols), parts) = &mut found[at];
        let Some(parts) = parts.take() else { continue };
        let [dense, crow_indices, col_indices, entries, blocks, original, mask, bias, bias_original, bias_mask] = parts;
        let tensor = |part| tensor_name(name, part);
        let weight_name = tensor("weight");
        let sparse = [crow_indices, col_indices, entries.or(blocks)];
        let ways = [
            (dense.is_some(), weight_name.clone()),
            (sparse.iter().any(Option::is_some), format!("{weight_name}.values")),
            (original.is_some() || mask.is_some(), tensor("weight_orig")),
        ];
        check_one_way(ways)?;
        let weight = match (dense, masked(original, mask, tensor("weight_orig"), tensor("weight_mask"))?) {
            (Some(dense), _) => {
                let values = floats(&weight_name, &dense)?;
                StoredWeight::Dense { nrows: dense.shape()[0], ncols: dense.shape()[1], values }
            }
            (None, Some([values, kept])) => {
                let ncols = ncols.unwrap_or(0);
                // What is masked out is checked too: in PyTorch it is multiplied by 0.
                let whole = StoredWeight::Dense { nrows: *nrows, ncols, values };
                check_finite_weight(shown, &whole)?;
                at_nonzeros(*nrows, ncols, &kept, whole.values())
                    .map_err(|reason| TensorsError::Matrix { weight: weight_name, reason })?
            }
            (None, None) => read_sparse(weight_name, sparse, *nrows, ncols.or(outputs))?,
        };
        outputs = Some(weight.shape()[0]);
        let ways =
            [(bias.is_some(), tensor("bias")), (bias_original.is_some() || bias_mask.is_some(), tensor("bias_orig"))];
        check_one_way(ways)?;
        let bias = match (bias, masked(bias_original, bias_mask, tensor("bias_orig"), tensor("bias_mask"))?) {
            (Some(bias), _) => Some(floats(&tensor("bias"), &bias)?),
            (None, masked) => {
                masked.map(|[values, kept]| values.iter().zip(kept).map(|(value, kept)| value * kept).collect())
            }
        };
        layers.push(NamedLayer { name: shown.clone(), weight, bias });
    }
    check_finite(&layers)?;
    let order = layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
    let input = metadata(Description::KEY).and_then(|text| Description::from_json(text)?.input);
    let model = chain(layers).map_err(|reason| TensorsError::Chain { order, reason })?;
    Ok(StoredModel { input, ..model })
}

/// The layer that a tensor of this name is the `part` of.
fn layer_of<'n>(name: &'n str, part: &str) -> Option<&'n str> {
    let layer = name.strip_suffix(part)?;
    if layer.is_empty() { Some(layer) } else { layer.strip_suffix('.') }
}

/// The rows of a layer's weight, and its columns if the file tells them.
fn shape_of(layer: &str, parts: &Parts<'_>, told: Option<&String>) -> Result<(usize, Option<usize>), TensorsError> {
    let [dense, crow_indices, _, _, blocks, original, mask, ..] = parts;
    if let Some(dense) = dense.as_ref().or(original.as_ref()).or(mask.as_ref()) {
        return Ok((dense.shape()[0], Some(dense.shape()[1])));
    }
    if let Some(text) = told {
        let key = shape_key(&tensor_name(layer, "weight"));
        let [nrows, ncols] = serde_json::from_str(text).map_err(|_| TensorsError::Shape { key, got: text.clone() })?;
        return Ok((nrows, Some(ncols)));
    }
    // An empty array of offsets is refused as too short for no rows.
    let block_rows = crow_indices.as_ref().map_or(0, |offsets| offsets.shape()[0].saturating_sub(1));
    Ok((block_rows.saturating_mul(blocks.as_ref().map_or(1, |values| values.shape()[1])), None))
}

/// The tensors by layer, in the order of the layers' names.
fn layers_of<'d>(file: &SafeTensors<'d>) -> Result<Vec<(String, Parts<'d>)>, TensorsError> {
    let mut layers: HashMap<String, Parts<'d>> = HashMap::new();
    let mut unsupported = Vec::new();
    for (name, view) in file.iter() {
        let part = PARTS.iter().enumerate().find_map(|(i, (part, dimensions))| {
            let layer = layer_of(name, part)?;
            (view.shape().len() == *dimensions).then(|| (layer.to_owned(), i))
        });
        match part {
            Some((layer, i)) => layers.entry(layer).or_default()[i] = Some(view),
            None => unsupported.push((name.to_owned(), view.shape().to_vec())),
        }
    }
    layers.retain(|layer, parts| {
        let is_weight = |(part, _): &(&str, usize)| part.starts_with("weight");
        let alone = PARTS.iter().zip(&*parts).all(|(part, view)| view.is_none() || !is_weight(part));
        for ((part, _), view) in PARTS.iter().zip(&*parts).filter(|_| alone) {
            unsupported.extend(view.iter().map(|view| (tensor_name(layer, part), view.shape().to_vec())));
        }
        !alone
    });
    if !unsupported.is_empty() {
        return Err(TensorsError::Unsupported { tensors: list(unsupported) });
    }
    let mut layers: Vec<_> = layers.into_iter().collect();
    layers.sort_by(|(a, _), (b, _)| natural_order(a, b));
    Ok(layers)
}
