//! Models in safetensors files, with PyTorch's names.
//!
//! | tensor | name | type |
//! | --- | --- | --- |
//! | dense weight `[outputs, inputs]` | `<layer>.weight` | F32 |
//! | sparse weight, as `torch.sparse_csr_tensor` takes it | `<layer>.weight.crow_indices`, `.col_indices`; `.values` | I32, or I64 if need be; F32 |
//! | block-sparse weight, as `torch.sparse_bsr_tensor` takes it | the same; `.values` of `[blocks, r, c]` | as above |
//! | of a convolution of more than one tap, the entries of its blocks as `torch.sparse_csr_tensor` takes them | as there | as there |
//! | bias `[outputs]` | `<layer>.bias` | F32 |
//! | dense weight of a convolution `[O, C/G, kh, kw]`; sparse, a matrix of `[O, C/G · kh · kw]` | as above | as above |
//! | batch normalisation of C channels | `<norm>.weight`, `.bias`, `.running_mean`, `.running_var` | F32 |
//!
//! Neither tells how many columns there are, so the metadata has `<layer>.weight.shape` with a value such as
//! `[300, 784]`, and for a sparse convolution `<layer>.weight.dimensions` with `[64, 32, 3, 3]`. Written files have `format` `pt`
//! there too, which some readers want to see, and what the model must be used with under `model`: network, normalisation,
//! size of pictures, names of classes, as JSON. The same model gives the same bytes.
//!
//! Blocks may reach beyond the matrix, by zeros; PyTorch itself takes only sizes that the block's sides divide, so such a
//! matrix is made with its sizes rounded up to that, and cut.
//!
//! Read are files of anyone: all types of floats from 16 bits on, indices of 32 and 64 bits; layers without bias; weights
//! and biases with masks (`<layer>.weight_orig` and `.weight_mask` of `torch.nn.utils.prune`), whose nonzeros are the pattern; a single
//! layer without name (`weight`, `bias`). A file does not keep its tensors' order. A layer that follows another has as many
//! columns as that one rows: layers are taken in the order in which they fit together. If there are several, numbers in the
//! names decide: `0.weight`, `2.weight`, `10.weight` of a `torch.nn.Sequential`. If they do not, the order must be given. Of a
//! sparse matrix that follows another the shape need not be told. Anything else
//! in the file (convolutions, normalization) is an error, not left out: convolutional networks are written, not read. Our
//! own checkpoints are read too, and keep what is
//! known of their inputs.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, View};
use sparse_kernels::{Bsr, BsrPattern, Csr, CsrPattern, FormatError};

use super::description::Description;
use super::layers::{NamedLayer, chain, check_finite, check_finite_vector, check_finite_weight, pattern_where, whole};
use super::order::{Unplaced, natural_order, order};
use super::{ExchangeError, OrderError, TensorsError};
use crate::checkpoint::{Checkpoint, METADATA_KEY, read_header};
use crate::models::{StoredLayer, StoredModel, StoredNorm, StoredWeight};

/// What a tensor is to its layer, by the end of its name, and its dimensions.
const PARTS: [(&str, usize); 10] = [
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

/// A tensor to be written.
struct Tensor {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

impl Tensor {
    fn f32s(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// PyTorch has signed indices only.
    fn indices(values: &[u32], wide: bool) -> Self {
        let (dtype, bytes) = if wide {
            (Dtype::I64, values.iter().flat_map(|&value| i64::from(value).to_le_bytes()).collect())
        } else {
            (Dtype::I32, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        };
        Self { dtype, shape: vec![values.len()], bytes }
    }
}

/// Collects a file's content.
#[derive(Default)]
struct Writer {
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

impl Writer {
    /// `dimensions` are those of the weight in PyTorch: two, or four of a convolution.
    fn weight(&mut self, layer: &StoredLayer, dimensions: &[usize], dense: bool) -> Result<(), ExchangeError> {
        let name = format!("{}.weight", layer.name);
        let shape = layer.weight.shape();
        let values = layer.weight.values();
        let entries;
        let (pattern, values) = match &layer.weight {
            StoredWeight::Sparse(csr) if !dense => (&**csr.pattern(), Tensor::f32s(&[values.len()], values)),
            // Blocks of channels are no blocks in PyTorch's order of columns: their entries, one by one.
            StoredWeight::BlockSparse(bsr) if !dense && bsr.pattern().taps() > 1 => {
                entries = bsr.to_csr();
                (&**entries.pattern(), Tensor::f32s(&[entries.values().len()], entries.values()))
            }
            StoredWeight::BlockSparse(bsr) if !dense => {
                let [r, c] = bsr.pattern().block_size();
                (&**bsr.pattern().blocks(), Tensor::f32s(&[bsr.pattern().nnz_blocks(), r, c], values))
            }
            _ => {
                self.tensors.insert(name, Tensor::f32s(dimensions, &whole(layer)?));
                return Ok(());
            }
        };
        // Both arrays have one type in PyTorch; offsets go up to nnz, columns stay below ncols.
        let wide = pattern.nnz().max(pattern.ncols()) > i32::MAX as usize;
        let mut insert = |part, tensor| self.tensors.insert(format!("{name}.{part}"), tensor);
        insert("crow_indices", Tensor::indices(pattern.row_offsets(), wide));
        insert("col_indices", Tensor::indices(pattern.col_indices(), wide));
        insert("values", values);
        self.metadata.insert(shape_key(&name), format!("[{}, {}]", shape[0], shape[1]));
        if dimensions.len() > 2 {
            self.metadata.insert(format!("{name}.dimensions"), format!("{dimensions:?}"));
        }
        Ok(())
    }

    fn bias(&mut self, layer: &StoredLayer) {
        if layer.bias.is_empty() {
            return;
        }
        let tensor = Tensor::f32s(&[layer.bias.len()], &layer.bias);
        self.tensors.insert(format!("{}.bias", layer.name), tensor);
    }

    fn norm(&mut self, norm: &StoredNorm) {
        let channels = norm.affine.len() / 2;
        let parts = [("weight", "bias", &norm.affine), ("running_mean", "running_var", &norm.running)];
        for (first, second, values) in parts {
            for (part, values) in [(first, &values[..channels]), (second, &values[channels..])] {
                self.tensors.insert(format!("{}.{part}", norm.name), Tensor::f32s(&[channels], values));
            }
        }
    }

    /// The crate's own metadata is a hash map, whose order changes from run to run. So the file is made without, and
    /// its header then gets ours.
    fn finish(mut self) -> Vec<u8> {
        self.metadata.insert("format".to_owned(), "pt".to_owned());
        let bare = safetensors::serialize(&self.tensors, None).expect("every tensor has the bytes of its shape");
        let (length, rest) = bare.split_at(size_of::<u64>());
        let length = u64::from_le_bytes(length.try_into().expect("split there")) as usize;
        let (header, data) = rest.split_at(length);
        let tensors = header.trim_ascii_end().strip_prefix(b"{").expect("the header is a JSON object");
        let metadata = serde_json::to_string(&self.metadata).expect("texts are JSON");
        let mut header = format!("{{\"__metadata__\":{metadata},").into_bytes();
        header.extend(tensors);
        // Data begins at a multiple of eight.
        header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
        [&(header.len() as u64).to_le_bytes(), header.as_slice(), data].concat()
    }
}

fn shape_key(weight: &str) -> String {
    format!("{weight}.shape")
}

/// A file with all layers; `dense`: with whole matrices, zeros included, as a dense module loads them.
///
/// # Errors
/// [`ExchangeError::Memory`] if a whole matrix has no room.
pub fn to_bytes(model: &StoredModel, dense: bool) -> Result<Vec<u8>, ExchangeError> {
    let mut writer = Writer::default();
    // A convolutional network says its weights' dimensions; those of others are the matrices'.
    let architecture = model.convolutional.as_ref().and_then(|_| model.architecture().ok());
    for (i, layer) in model.layers.iter().enumerate() {
        let dimensions = architecture.as_ref().map(|architecture| architecture.layers[i].dimensions());
        writer.weight(layer, &dimensions.unwrap_or_else(|| layer.weight.shape().to_vec()), dense)?;
        writer.bias(layer);
    }
    model.convolutional.iter().flat_map(|parts| &parts.norms).for_each(|norm| writer.norm(norm));
    writer.metadata.insert(Description::KEY.to_owned(), Description::of(model).to_json());
    Ok(writer.finish())
}

/// A file with the weight of one layer.
///
/// # Errors
/// As [`to_bytes`].
pub fn weight_to_bytes(layer: &StoredLayer, dense: bool) -> Result<Vec<u8>, ExchangeError> {
    let mut writer = Writer::default();
    writer.weight(layer, &layer.weight.shape(), dense)?;
    Ok(writer.finish())
}

/// The model of a file, with its layers named `fc1`, `fc2`, ….
///
/// # Errors
/// [`TensorsError`] saying what is wrong.
///
/// # Cost
/// Time and memory follow the bytes that are there, whatever the header claims.
pub fn from_bytes(bytes: &[u8]) -> Result<StoredModel, TensorsError> {
    from_bytes_as(bytes, None)
}

/// As [`from_bytes`], with the layers in the `wanted` order if there is one.
///
/// # Errors
/// As there, and [`TensorsError::Order`] if the order is not one of all the layers, or the file is a checkpoint.
pub fn from_bytes_as(bytes: &[u8], wanted: Option<&[String]>) -> Result<StoredModel, TensorsError> {
    let header = read_header(bytes)?;
    let metadata = |key: &str| header.metadata().as_ref()?.get(key);
    if metadata(METADATA_KEY).is_some() {
        if wanted.is_some() {
            return Err(OrderError::Known.into());
        }
        let model = StoredModel::from_checkpoint(&Checkpoint::from_bytes(bytes)?)?;
        if let Some(parts) = &model.convolutional {
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

fn tensor_name(layer: &str, part: &str) -> String {
    if layer.is_empty() { part.to_owned() } else { format!("{layer}.{part}") }
}

/// The layer that a tensor of this name is the `part` of.
fn layer_of<'n>(name: &'n str, part: &str) -> Option<&'n str> {
    let layer = name.strip_suffix(part)?;
    if layer.is_empty() { Some(layer) } else { layer.strip_suffix('.') }
}

/// Refuses a weight or bias that is there in two of the ways to store one.
fn check_one_way<const N: usize>(ways: [(bool, String); N]) -> Result<(), TensorsError> {
    let mut there = ways.into_iter().filter(|(is_there, _)| *is_there).map(|(_, name)| name);
    match (there.next(), there.next()) {
        (Some(name), Some(other)) => Err(TensorsError::Twice { name, other }),
        _ => Ok(()),
    }
}

/// Values and the mask to multiply them by, as `torch.nn.utils.prune` stores them.
fn masked(
    original: Option<TensorView<'_>>,
    mask: Option<TensorView<'_>>,
    original_name: String,
    mask_name: String,
) -> Result<Option<[Vec<f32>; 2]>, TensorsError> {
    let (original, mask) = match (original, mask) {
        (None, None) => return Ok(None),
        (Some(original), Some(mask)) => (original, mask),
        (None, Some(_)) => return Err(TensorsError::Missing { name: original_name }),
        (Some(_), None) => return Err(TensorsError::Missing { name: mask_name }),
    };
    if original.shape() != mask.shape() {
        let (got, expected) = (mask.shape().to_vec(), original.shape().to_vec());
        return Err(TensorsError::Mask { name: mask_name, got, expected });
    }
    let kept = match mask.dtype() {
        Dtype::BOOL | Dtype::U8 => mask.data().iter().map(|&byte| f32::from(byte)).collect(),
        _ => floats(&mask_name, &mask)?,
    };
    Ok(Some([floats(&original_name, &original)?, kept]))
}

/// The entries where a mask is not zero, multiplied by it.
fn at_nonzeros(nrows: usize, ncols: usize, mask: &[f32], values: &[f32]) -> Result<StoredWeight, FormatError> {
    let is_kept = |index: usize| mask[index] != 0.0;
    let pattern = pattern_where(nrows, ncols, is_kept)?;
    let values = values.iter().zip(mask).filter(|&(_, &mask)| mask != 0.0).map(|(value, mask)| value * mask).collect();
    Ok(StoredWeight::Sparse(Csr::new(Arc::new(pattern), values)?))
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

/// The first few tensors, and how many more there are.
fn list(mut tensors: Vec<(String, Vec<usize>)>) -> String {
    const SHOWN: usize = 6;
    tensors.sort_by(|(a, _), (b, _)| natural_order(a, b));
    let mut shown: Vec<_> = tensors.iter().take(SHOWN).map(|(name, shape)| format!("{name} {shape:?}")).collect();
    if tensors.len() > SHOWN {
        shown.push(format!("and {} more", tensors.len() - SHOWN));
    }
    shown.join(", ")
}

/// A matrix in CSR, or in BSR if its values have the dimensions of blocks.
fn read_sparse(
    weight: String,
    parts: [Option<TensorView<'_>>; 3],
    nrows: usize,
    ncols: Option<usize>,
) -> Result<StoredWeight, TensorsError> {
    let names = ["crow_indices", "col_indices", "values"].map(|part| format!("{weight}.{part}"));
    let missing = |name: &String| TensorsError::Missing { name: name.clone() };
    let [crow_indices, col_indices, values] = parts;
    let row_offsets = indices(&names[0], &crow_indices.ok_or_else(|| missing(&names[0]))?)?;
    let col_indices = indices(&names[1], &col_indices.ok_or_else(|| missing(&names[1]))?)?;
    let values = values.ok_or_else(|| missing(&names[2]))?;
    let block_size = match *values.shape() {
        [_, r, c] => Some([r, c]),
        _ => None,
    };
    let values = floats(&names[2], &values)?;
    let Some(ncols) = ncols else { return Err(TensorsError::NoShape { weight }) };
    let matrix = || -> Result<_, FormatError> {
        Ok(match block_size {
            Some(block_size) => {
                let pattern = BsrPattern::new(nrows, ncols, block_size, row_offsets, col_indices)?;
                StoredWeight::BlockSparse(Bsr::new(Arc::new(pattern), values)?)
            }
            None => {
                let pattern = CsrPattern::new(nrows, ncols, row_offsets, col_indices)?;
                StoredWeight::Sparse(Csr::new(Arc::new(pattern), values)?)
            }
        })
    };
    matrix().map_err(|reason| TensorsError::Matrix { weight, reason })
}

fn wrong_dtype(name: &str, view: &TensorView<'_>, expected: &'static str) -> TensorsError {
    TensorsError::Dtype { name: name.to_owned(), dtype: view.dtype().to_string(), expected }
}

/// The words of a tensor; the file's reader has checked that there is a whole number of them.
fn words<'d, const BYTES: usize>(view: &TensorView<'d>) -> impl Iterator<Item = [u8; BYTES]> + use<'d, BYTES> {
    view.data().as_chunks().0.iter().copied()
}

fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, TensorsError> {
    match view.dtype() {
        Dtype::F32 => Ok(words(view).map(f32::from_le_bytes).collect()),
        Dtype::F16 => Ok(words(view).map(|word| f16::from_le_bytes(word).to_f32()).collect()),
        Dtype::BF16 => Ok(words(view).map(|word| bf16::from_le_bytes(word).to_f32()).collect()),
        Dtype::F64 => {
            let narrow = |(index, got): (usize, f64)| match got as f32 {
                infinite if infinite.is_infinite() && got.is_finite() => {
                    Err(TensorsError::Range { name: name.to_owned(), index, got })
                }
                narrow => Ok(narrow),
            };
            words(view).map(f64::from_le_bytes).enumerate().map(narrow).collect()
        }
        _ => Err(wrong_dtype(name, view, "F32, F64, F16 or BF16")),
    }
}

fn indices(name: &str, view: &TensorView<'_>) -> Result<Vec<u32>, TensorsError> {
    match view.dtype() {
        Dtype::I32 => to_indices(name, words(view).map(i32::from_le_bytes)),
        Dtype::U32 => to_indices(name, words(view).map(u32::from_le_bytes)),
        Dtype::I64 => to_indices(name, words(view).map(i64::from_le_bytes)),
        Dtype::U64 => to_indices(name, words(view).map(u64::from_le_bytes)),
        _ => Err(wrong_dtype(name, view, "I32, I64, U32 or U64")),
    }
}

fn to_indices<T>(name: &str, values: impl Iterator<Item = T>) -> Result<Vec<u32>, TensorsError>
where
    T: Copy + Into<i128> + TryInto<u32>,
{
    let index = |(index, value): (usize, T)| match value.try_into() {
        Ok(value) if value < u32::MAX => Ok(value),
        _ => Err(TensorsError::Index { name: name.to_owned(), index, got: value.into() }),
    };
    values.enumerate().map(index).collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::data::Normalization;
    use crate::models::ModelInput;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// A file of another program: names, types, shapes and bytes.
    fn foreign(tensors: &[(&str, Dtype, &[usize], Vec<u8>)], metadata: &[(&str, &str)]) -> Vec<u8> {
        let tensors = tensors.iter().map(|(name, dtype, shape, bytes)| {
            let tensor = Tensor { dtype: *dtype, shape: shape.to_vec(), bytes: bytes.clone() };
            (name.to_string(), tensor)
        });
        let tensors: BTreeMap<_, _> = tensors.collect();
        let metadata = metadata.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        safetensors::serialize(&tensors, Some(metadata)).unwrap()
    }

    fn f32s(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn i64s(values: &[i64]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn message(tensors: &[(&str, Dtype, &[usize], Vec<u8>)], metadata: &[(&str, &str)]) -> String {
        from_bytes(&foreign(tensors, metadata)).unwrap_err().to_string()
    }

    fn header(bytes: &[u8]) -> Value {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(length % 8, 0);
        serde_json::from_slice(&bytes[8..8 + length]).unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let model = example();
        assert_same(&from_bytes(&to_bytes(&model, false).unwrap()).unwrap(), &model);
        assert_same(&from_bytes(&to_bytes(&model, true).unwrap()).unwrap(), &all_dense(&model));
        let weight = from_bytes(&weight_to_bytes(&model.layers[0], false).unwrap()).unwrap();
        assert_eq!(weight.layers[0].weight, model.layers[0].weight);
        assert_eq!(weight.layers[0].bias, [0.0; 3]);
    }

    #[test]
    fn names_types_and_metadata_are_pytorchs() {
        let bytes = to_bytes(&example(), false).unwrap();
        let header = header(&bytes);
        let about = r#"{"name":"5-3-2","nnz":11,"density":0.5238095238095238}"#;
        assert_eq!(header["__metadata__"], json!({ "format": "pt", "fc1.weight.shape": "[3, 5]", "model": about }));
        for (name, dtype, shape) in [
            ("fc1.weight.crow_indices", "I32", vec![4]),
            ("fc1.weight.col_indices", "I32", vec![5]),
            ("fc1.weight.values", "F32", vec![5]),
            ("fc1.bias", "F32", vec![3]),
            ("fc2.weight", "F32", vec![2, 3]),
            ("fc2.bias", "F32", vec![2]),
        ] {
            assert_eq!((&header[name]["dtype"], &header[name]["shape"]), (&dtype.into(), &shape.into()), "{name}");
        }
        assert_eq!(header.as_object().unwrap().len(), 7);
        let dense = self::header(&to_bytes(&example(), true).unwrap());
        assert_eq!(dense["__metadata__"], json!({ "format": "pt", "model": about }));
        assert_eq!(dense["fc1.weight"]["shape"], json!([3, 5]));
    }

    /// As `torch.sparse_bsr_tensor` takes them; ragged ones too, whose padding a file cannot fill.
    #[test]
    fn blocks_are_written_and_read() {
        let model = blocks();
        let bytes = to_bytes(&model, false).unwrap();
        let header = header(&bytes);
        assert_eq!(header["__metadata__"]["fc1.weight.shape"], "[3, 5]");
        for (name, dtype, shape) in [
            ("fc1.weight.crow_indices", "I32", vec![3]),
            ("fc1.weight.col_indices", "I32", vec![3]),
            ("fc1.weight.values", "F32", vec![3, 2, 4]),
        ] {
            assert_eq!((&header[name]["dtype"], &header[name]["shape"]), (&dtype.into(), &shape.into()), "{name}");
        }
        assert_same(&from_bytes(&bytes).unwrap(), &model);
        assert_same(&from_bytes(&to_bytes(&model, true).unwrap()).unwrap(), &all_dense(&model));
        assert_same(&from_bytes(&model.to_checkpoint().to_bytes().unwrap()).unwrap(), &model);

        // Another program's: the second layer's shape follows from the first one's outputs.
        let of = |name: &str, part: &str| format!("{name}.weight.{part}");
        let names = ["a", "b"].map(|name| ["crow_indices", "col_indices", "values"].map(|part| of(name, part)));
        let [a, b] = &names;
        let ones = |n| f32s(&vec![1.0; n]);
        let tensors = |block: &'static [usize]| {
            [
                (a[0].as_str(), Dtype::I64, &[2usize][..], i64s(&[0, 1])),
                (&a[1], Dtype::I64, &[1], i64s(&[1])),
                (&a[2], Dtype::F32, block, ones(block.iter().product())),
                (&b[0], Dtype::I64, &[3], i64s(&[0, 1, 1])),
                (&b[1], Dtype::I64, &[1], i64s(&[0])),
                (&b[2], Dtype::F32, &[1, 2, 1], ones(2)),
            ]
        };
        let shape = [("a.weight.shape", "[2, 3]")];
        let model = from_bytes(&foreign(&tensors(&[1, 2, 2]), &shape)).unwrap();
        assert_eq!(model.name().to_string(), "3-2-4");
        assert_eq!(model.layers[0].weight.to_dense(), [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]);
        assert_eq!(model.layers[0].weight.values(), [1.0, 0.0, 1.0, 0.0]);
        assert!(message(&tensors(&[1, 3, 2]), &shape).contains("3"));
        assert!(message(&tensors(&[2, 2, 2]), &shape).contains("8 values for a pattern of 4 entries"));
        assert!(
            message(&tensors(&[1, 2, 2, 1]), &shape)
                .starts_with("these tensors do not belong to a fully connected layer")
        );
    }

    #[test]
    fn the_same_model_gives_the_same_bytes() {
        let bytes = to_bytes(&example(), false).unwrap();
        for _ in 0..10 {
            assert_eq!(to_bytes(&example(), false).unwrap(), bytes);
        }
    }

    #[test]
    fn indices_beyond_32_bits_with_sign_are_wide() {
        let ncols = 3_000_000_000;
        let wide = layer("fc1", sparse(2, ncols, &[(0, 1), (1, 2_999_999_999)]));
        let model = StoredModel { input: None, layers: vec![wide], convolutional: None };
        let bytes = to_bytes(&model, false).unwrap();
        assert_eq!(header(&bytes)["fc1.weight.col_indices"]["dtype"], "I64");
        assert_eq!(header(&bytes)["fc1.weight.crow_indices"]["dtype"], "I64");
        assert_same(&from_bytes(&bytes).unwrap(), &model);
        let too_large = layer("fc1", sparse(4_000_000, 4_000_000_000, &[]));
        let error = whole(&too_large).unwrap_err();
        assert!(matches!(error, ExchangeError::Memory { nrows: 4_000_000, .. }), "{error}");
    }

    /// Names of `torch.nn.Sequential`, several types, a missing bias, a shape told and one that follows.
    #[test]
    fn other_programs_files() {
        let half = |values: &[f32]| values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect::<Vec<_>>();
        let brain = |values: &[f32]| values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect::<Vec<_>>();
        let f64s = |values: &[f64]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let u32s = |values: &[u32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let bytes = foreign(
            &[
                ("10.weight", Dtype::F16, &[1, 3], half(&[0.5, -0.0, 65504.0])),
                ("10.bias", Dtype::BF16, &[1], brain(&[3e38])),
                ("2.weight.crow_indices", Dtype::U32, &[4], u32s(&[0, 1, 1, 2])),
                ("2.weight.col_indices", Dtype::U32, &[2], u32s(&[1, 0])),
                ("2.weight.values", Dtype::F64, &[2], f64s(&[0.1, 3.0])),
                ("0.weight.crow_indices", Dtype::I64, &[3], i64s(&[0, 2, 3])),
                ("0.weight.col_indices", Dtype::U64, &[3], i64s(&[0, 3, 2])),
                ("0.weight.values", Dtype::F32, &[3], f32s(&[1.0, 2.0, 3.0])),
                ("0.bias", Dtype::F64, &[2], f64s(&[1.0 / 3.0, 1e-300])),
            ],
            &[("format", "pt"), ("0.weight.shape", "[2,4]")],
        );
        let model = from_bytes(&bytes).unwrap();
        assert_eq!(model.name().to_string(), "4-2-3-1");
        let names: Vec<_> = model.layers.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(names, ["fc1", "fc2", "fc3"]);
        assert_eq!(model.layers[0].weight.to_dense(), [1.0, 0.0, 0.0, 2.0, 0.0, 0.0, 3.0, 0.0]);
        assert_eq!(model.layers[0].bias, [1.0 / 3.0, 0.0]);
        assert_eq!(model.layers[1].weight.values(), [0.1, 3.0]);
        assert_eq!(model.layers[1].bias, [0.0; 3]);
        assert_eq!(model.layers[2].weight, dense(1, 3, &[0.5, -0.0, 65504.0]));
        assert_eq!(model.layers[2].bias, [bf16::from_f32(3e38).to_f32()]);

        let single = foreign(&[("weight", Dtype::F32, &[1, 2], f32s(&[1.0, 2.0]))], &[]);
        assert_eq!(from_bytes(&single).unwrap().layers[0].weight, dense(1, 2, &[1.0, 2.0]));
    }

    #[test]
    fn the_order_follows_the_sizes_or_is_given() {
        let tensors = |layers: &[(&'static str, usize, usize, f32)]| {
            let tensors = layers.iter().map(|&(name, nrows, ncols, value)| {
                let tensor = Tensor::f32s(&[nrows, ncols], &vec![value; nrows * ncols]);
                (format!("{name}.weight"), tensor)
            });
            safetensors::serialize(&tensors.collect::<BTreeMap<_, _>>(), None).unwrap()
        };
        let firsts = |model: StoredModel| model.layers.iter().map(|l| l.weight.values()[0]).collect::<Vec<_>>();
        let named = tensors(&[("input", 3, 7, 1.0), ("hidden", 4, 3, 2.0), ("output", 2, 4, 3.0)]);
        let model = from_bytes(&named).unwrap();
        assert_eq!((model.name().to_string(), firsts(model)), ("7-3-4-2".to_owned(), vec![1.0, 2.0, 3.0]));
        let equal = tensors(&[("a_in", 3, 7, 1.0), ("c_mid", 3, 3, 2.0), ("b_mid", 3, 3, 3.0), ("d_out", 2, 3, 4.0)]);
        let text = from_bytes(&equal).unwrap_err().to_string();
        assert!(text.contains("a_in 3×7, b_mid 3×3, c_mid 3×3, d_out 2×3; give the order"), "{text}");
        let wanted = ["a_in", "c_mid", "b_mid", "d_out"].map(str::to_owned);
        assert_eq!(firsts(from_bytes_as(&equal, Some(&wanted)).unwrap()), [1.0, 2.0, 3.0, 4.0]);
        let text = from_bytes_as(&equal, Some(&wanted[..3])).unwrap_err().to_string();
        assert!(text.contains("\"d_out\" is missing"), "{text}");
        let wanted = ["c_mid", "a_in", "b_mid", "d_out"].map(str::to_owned);
        let text = from_bytes_as(&equal, Some(&wanted)).unwrap_err().to_string();
        assert!(
            text.contains("in the order c_mid, a_in, b_mid, d_out: layer a_in: the number of inputs is 7"),
            "{text}"
        );
        let checkpoint = example().to_checkpoint().to_bytes().unwrap();
        let text = from_bytes_as(&checkpoint, Some(&wanted)).unwrap_err().to_string();
        assert!(text.contains("has an order already"), "{text}");
    }

    /// `weight_orig` and `weight_mask` of `torch.nn.utils.prune`: a zero that is kept stays an entry.
    #[test]
    fn masks_are_patterns() {
        let original = ("a.weight_orig", Dtype::F32, &[2usize, 3][..], f32s(&[1.0, 2.0, 3.0, 0.0, 5.0, 6.0]));
        let mask = ("a.weight_mask", Dtype::F32, &[2usize, 3][..], f32s(&[0.0, 1.0, 0.0, 1.0, 0.0, 1.0]));
        let bias = ("a.bias_orig", Dtype::F32, &[2usize][..], f32s(&[7.0, 8.0]));
        let bias_mask = ("a.bias_mask", Dtype::BOOL, &[2usize][..], vec![1, 0]);
        let file = [original.clone(), mask.clone(), bias.clone(), bias_mask];
        let model = from_bytes(&foreign(&file, &[])).unwrap();
        let StoredWeight::Sparse(csr) = &model.layers[0].weight else { panic!("it is sparse") };
        assert_eq!(csr.pattern().positions().collect::<Vec<_>>(), [(0, 1), (1, 0), (1, 2)]);
        assert_eq!((csr.values(), &model.layers[0].bias[..]), (&[2.0, 0.0, 6.0][..], &[7.0, 0.0][..]));
        let bools = ("a.weight_mask", Dtype::BOOL, &[2usize, 3][..], vec![0, 1, 0, 1, 0, 1]);
        assert_eq!(
            from_bytes(&foreign(&[original.clone(), bools], &[])).unwrap().layers[0].weight,
            model.layers[0].weight
        );
        let broken = ("a.weight_orig", Dtype::F32, &[2usize, 3][..], f32s(&[1.0, 2.0, f32::NAN, 0.0, 5.0, 6.0]));
        let wide = ("a.weight_mask", Dtype::F32, &[3usize, 2][..], f32s(&[1.0; 6]));
        let dense = ("a.weight", Dtype::F32, &[2usize, 3][..], f32s(&[1.0; 6]));
        for (file, part) in [
            (&[broken, mask.clone()][..], "layer a: the weight at row 0, column 2 (counted from 0) is NaN"),
            (
                &[original.clone(), wide],
                "tensor a.weight_mask is [3, 2]; it must have the shape of what it masks, [2, 3]",
            ),
            (std::slice::from_ref(&original), "tensor a.weight_mask is missing"),
            (std::slice::from_ref(&mask), "tensor a.weight_orig is missing"),
            (&[dense, original.clone(), mask.clone()], "both a.weight and a.weight_orig exist"),
            (&[original.clone(), mask.clone(), bias], "tensor a.bias_mask is missing"),
            (&[("a.bias_mask", Dtype::BOOL, &[1], vec![1])], "fully connected layer: a.bias_mask [1]; a layer is"),
        ] {
            let text = message(file, &[]);
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn checkpoints_are_read_and_damaged_ones_are_not() {
        let input = ModelInput::new("mnist", Normalization::Pixels { mean: 0.5, deviation: 0.25 });
        let model = StoredModel { input: Some(input), ..example() };
        let bytes = model.to_checkpoint().to_bytes().unwrap();
        assert_same(&from_bytes(&bytes).unwrap(), &model);
        let mut damaged = bytes.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(from_bytes(&damaged).unwrap_err().to_string().starts_with("the file is damaged"));
    }

    #[test]
    fn what_is_no_linear_layer_is_named() {
        let one = |name| (name, Dtype::F32, &[1usize][..], f32s(&[0.0]));
        let weight = ("fc.weight", Dtype::F32, &[1usize, 1][..], f32s(&[0.0]));
        let conv = ("conv1.weight", Dtype::F32, &[1usize, 1, 1, 1][..], f32s(&[0.0]));
        let text = message(&[weight.clone(), conv, one("bn.weight"), one("bn.bias"), one("bn.running_mean")], &[]);
        let expected = "these tensors do not belong to a fully connected layer: bn.bias [1], bn.running_mean [1], bn.weight [1], \
                        conv1.weight [1, 1, 1, 1]; a layer is LAYER.weight [outputs, inputs], or";
        assert!(text.starts_with(expected), "{text}");
        let names: Vec<String> = (0..20).map(|i| format!("x{i}")).collect();
        let many: Vec<_> = names.iter().map(|name| one(name)).collect();
        let text = message(&many, &[]);
        assert!(text.contains("x4 [1], x5 [1], and 14 more"), "{text}");
        // A name that only ends like a part of a layer is another name.
        assert!(message(&[one("preweight.bias"), one("fcbias")], &[]).contains("fcbias [1], preweight.bias [1];"));
        assert_eq!(message(&[], &[("format", "pt")]), "the file holds no tensors");
    }

    #[test]
    fn wrong_content_is_named() {
        let crow = |values: &[i64]| ("a.weight.crow_indices", Dtype::I64, vec![values.len()], i64s(values));
        let col = |values: &[i64]| ("a.weight.col_indices", Dtype::I64, vec![values.len()], i64s(values));
        let values = |values: &[f32]| ("a.weight.values", Dtype::F32, vec![values.len()], f32s(values));
        type Owned = (&'static str, Dtype, Vec<usize>, Vec<u8>);
        let message = |tensors: &[Owned], metadata: &[(&str, &str)]| {
            let tensors: Vec<_> =
                tensors.iter().map(|(n, d, shape, b)| (*n, *d, shape.as_slice(), b.clone())).collect();
            message(&tensors, metadata)
        };
        let good = [crow(&[0, 1]), col(&[1]), values(&[1.0])];
        let text = message(&good, &[]);
        assert!(text.starts_with("the number of columns of a.weight is unknown"), "{text}");
        assert!(text.contains("a.weight.shape"), "{text}");
        for (shape, part) in [
            ("[2, 3]", "a.weight: row_offsets has 2 entries; a matrix of 2 rows needs 3"),
            ("[1, 1]", "a.weight: row 0: column 1 is outside 0..1"),
            ("[18446744073709551615, 3]", "nrows is 18446744073709551615, more than"),
            ("[1, 2, 3]", "the metadata's a.weight.shape is \"[1, 2, 3]\"; write the shape as"),
            ("torch.Size([1, 3])", "write the shape as \"[outputs, inputs]\""),
            ("[-1, 3]", "write the shape as"),
        ] {
            let text = message(&good, &[("a.weight.shape", shape)]);
            assert!(text.contains(part), "{shape}: {text}");
        }
        let shape = [("a.weight.shape", "[1, 3]")];
        let bias = |n: usize| ("a.bias", Dtype::F32, vec![n], f32s(&vec![0.0; n]));
        let whole = ("a.weight", Dtype::F32, vec![1, 1], f32s(&[0.0]));
        let next = ("b.weight", Dtype::F32, vec![2, 2], f32s(&[0.0; 4]));
        let huge = ("a.weight.values", Dtype::F64, vec![1], 1e39f64.to_le_bytes().to_vec());
        let integers = ("a.weight.values", Dtype::I32, vec![1], vec![0; 4]);
        let floats = ("a.weight.col_indices", Dtype::F32, vec![1], vec![0; 4]);
        let unsigned = ("a.weight.col_indices", Dtype::U64, vec![1], u64::MAX.to_le_bytes().to_vec());
        for (tensors, part) in [
            (vec![crow(&[0, 1]), col(&[1])], "tensor a.weight.values is missing, although"),
            (vec![crow(&[0, 2]), col(&[2, 1]), values(&[1.0; 2])], "column 1 follows 2"),
            (vec![crow(&[0, 1]), col(&[-1]), values(&[1.0])], "tensor a.weight.col_indices: entry 0 is -1; it must be"),
            (vec![crow(&[0, 1 << 32]), col(&[1]), values(&[1.0])], "entry 1 is 4294967296"),
            (vec![crow(&[0, 1]), unsigned, values(&[1.0])], "entry 0 is 18446744073709551615"),
            (vec![crow(&[]), col(&[]), values(&[])], "row_offsets has 0 entries"),
            (vec![crow(&[0, 1]), col(&[1]), values(&[1.0; 2])], "2 values for a pattern of 1 entries"),
            (vec![crow(&[0, 1]), col(&[1]), huge], "tensor a.weight.values: entry 0 is 1e39, beyond f32's range"),
            (vec![crow(&[0, 1]), col(&[1]), integers], "type I32; it must be F32, F64, F16 or BF16"),
            (vec![crow(&[0, 1]), floats, values(&[1.0])], "type F32; it must be I32, I64, U32 or U64"),
            (vec![whole.clone(), col(&[1])], "both a.weight and a.weight.values exist"),
            (vec![whole.clone(), bias(2)], "layer a: the number of biases is 2, expected 1"),
            (
                vec![whole, next],
                "the layers do not fit together in the order a, b: layer b: the number of inputs is 2, expected 1",
            ),
        ] {
            let text = message(&tensors, &shape);
            assert!(text.contains(part), "{part}: {text}");
        }
        // A shape without positions costs no memory, however large its other side.
        let hollow = ("a.weight", Dtype::F32, vec![1 << 60, 0], vec![]);
        assert!(message(&[hollow], &[]).contains("the number of outputs or inputs is 0"));
    }

    /// A model that a hostile file gave can be written and read.
    fn check(bytes: &[u8]) {
        if let Ok(model) = from_bytes(bytes) {
            let written = to_bytes(&model, false).unwrap();
            let again = from_bytes(&written).unwrap();
            assert_eq!(to_bytes(&again, false).unwrap(), written);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            check(&bytes);
        }

        #[test]
        fn damaged_files_never_panic(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut: Option<prop::sample::Index>,
            in_header: bool, dense: bool,
        ) {
            let mut bytes = to_bytes(&example(), dense).unwrap();
            let reach = if in_header { 500.min(bytes.len()) } else { bytes.len() };
            for (at, byte) in damage {
                // Digits keep the header JSON, and change its sizes.
                bytes[at.index(reach)] = if in_header { b'0' + byte % 10 } else { byte };
            }
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            check(&bytes);
        }

        /// Headers that are JSON, with names, types and sizes of a model, and no truth in them.
        #[test]
        fn hostile_headers_never_panic(
            tensors in prop::collection::vec(
                (0..PARTS.len(), 0..7usize, prop::collection::vec(prop_oneof![0..4u64, any::<u64>()], 0..3), 0..40u64), 0..5
            ),
            shape in prop::collection::vec(prop_oneof![0..4u64, any::<u64>()], 0..3),
            data in prop::collection::vec(0..3u8, 0..80),
        ) {
            let mut header = json!({ "__metadata__": { "a.weight.shape": json!(shape).to_string() } });
            let mut begin = 0;
            for (part, dtype, shape, length) in tensors {
                let dtype = ["F32", "F64", "F16", "I32", "I64", "U32", "BOOL"][dtype];
                let end = begin + length;
                header[format!("a.{}", PARTS[part].0)] = json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] });
                begin = end;
            }
            let header = header.to_string();
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.bytes());
            bytes.extend(data);
            check(&bytes);
        }

        /// Files in good form whose indices and shape are anything.
        #[test]
        fn hostile_indices_never_panic(
            crow in prop::collection::vec(-1..5i64, 0..5), col in prop::collection::vec(-1..5i64, 0..5),
            values in prop::collection::vec(any::<f32>(), 0..5), shape in [0..5u64, 0..5u64], block in [0..5usize, 0..5usize],
        ) {
            for blocks in [false, true] {
                let count = values.len();
                let (dimensions, size) =
                    if blocks { (vec![count, block[0], block[1]], block[0] * block[1]) } else { (vec![count], 1) };
                let values = values.repeat(size);
                let bytes = foreign(&[
                    ("weight.crow_indices", Dtype::I64, &[crow.len()], i64s(&crow)),
                    ("weight.col_indices", Dtype::I64, &[col.len()], i64s(&col)),
                    ("weight.values", Dtype::F32, &dimensions, f32s(&values)),
                ], &[("weight.shape", &format!("{shape:?}"))]);
                check(&bytes);
            }
        }
    }
}
