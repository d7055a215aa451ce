//! Files for PyTorch.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, View};

use super::super::ExchangeError;
use super::super::description::Description;
use super::super::layers::whole;
use super::sequences;
use super::tensors::shape_key;
use crate::models::{StoredLayer, StoredModel, StoredNorm, StoredWeight};

/// A tensor to be written.
pub(super) struct Tensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
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
    pub fn f32s(shape: &[usize], values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// PyTorch has signed indices only.
    pub fn indices(values: &[u32], wide: bool) -> Self {
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

    fn norm(&mut self, norm: &StoredNorm, channels: usize) {
        let affine = ["weight", "bias"].into_iter().zip(norm.affine.chunks_exact(channels));
        let running = ["running_mean", "running_var"].into_iter().zip(norm.running.chunks_exact(channels));
        for (part, values) in affine.chain(running) {
            self.tensors.insert(format!("{}.{part}", norm.name), Tensor::f32s(&[channels], values));
        }
    }

    /// The crate's own metadata is a hash map, whose order changes from run to run. So the file is made without, and
    /// its header then gets ours.
    fn finish(mut self) -> Vec<u8> {
        let torch = |name: String| sequences::to_torch(&name).unwrap_or(name);
        self.tensors = self.tensors.into_iter().map(|(name, tensor)| (torch(name), tensor)).collect();
        self.metadata = self.metadata.into_iter().map(|(key, value)| (torch(key), value)).collect();
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

/// A file with all layers; `dense`: with whole matrices, zeros included, as a dense module loads them.
///
/// # Errors
/// [`ExchangeError::Memory`] if a whole matrix has no room.
pub fn to_bytes(model: &StoredModel, dense: bool) -> Result<Vec<u8>, ExchangeError> {
    let mut writer = Writer::default();
    // A convolutional network says its weights' dimensions; those of others are the matrices'.
    let architecture = model.parts.as_ref().and_then(|_| model.architecture().ok());
    for (i, layer) in model.layers.iter().enumerate() {
        let dimensions = architecture.as_ref().map(|architecture| architecture.layers[i].dimensions());
        writer.weight(layer, &dimensions.unwrap_or_else(|| layer.weight.shape().to_vec()), dense)?;
        writer.bias(layer);
    }
    let norms = model.parts.iter().flat_map(|parts| &parts.norms);
    let described = architecture.iter().flat_map(|architecture| &architecture.norms);
    norms.zip(described).for_each(|(norm, described)| writer.norm(norm, described.channels));
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
