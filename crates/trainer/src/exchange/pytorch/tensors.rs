//! Tensors of a safetensors file as weights and biases, in each of the ways to store them.

use std::sync::Arc;

use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use sparse_kernels::{Bsr, BsrPattern, Csr, CsrPattern, FormatError};

use super::super::TensorsError;
use super::super::layers::pattern_where;
use super::super::order::natural_order;
use crate::models::StoredWeight;
use crate::report::dimensions;

pub(super) fn shape_key(weight: &str) -> String {
    format!("{weight}.shape")
}

pub(super) fn tensor_name(layer: &str, part: &str) -> String {
    if layer.is_empty() { part.to_owned() } else { format!("{layer}.{part}") }
}

/// Refuses a weight or bias that is there in two of the ways to store one.
pub(super) fn check_one_way<const N: usize>(ways: [(bool, String); N]) -> Result<(), TensorsError> {
    let mut there = ways.into_iter().filter(|(is_there, _)| *is_there).map(|(_, name)| name);
    match (there.next(), there.next()) {
        (Some(name), Some(other)) => Err(TensorsError::Twice { name, other }),
        _ => Ok(()),
    }
}

/// Values and the mask to multiply them by, as `torch.nn.utils.prune` stores them.
pub(super) fn masked(
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
        let (got, expected) = (shape_text(mask.shape()), shape_text(original.shape()));
        return Err(TensorsError::Mask { name: mask_name, got, expected });
    }
    let kept = match mask.dtype() {
        Dtype::BOOL | Dtype::U8 => mask.data().iter().map(|&byte| f32::from(byte)).collect(),
        _ => floats(&mask_name, &mask)?,
    };
    Ok(Some([floats(&original_name, &original)?, kept]))
}

/// The entries where a mask is not zero, multiplied by it.
pub(super) fn at_nonzeros(
    nrows: usize,
    ncols: usize,
    mask: &[f32],
    values: &[f32],
) -> Result<StoredWeight, FormatError> {
    let is_kept = |index: usize| mask[index] != 0.0;
    let pattern = pattern_where(nrows, ncols, is_kept)?;
    let values = values.iter().zip(mask).filter(|&(_, &mask)| mask != 0.0).map(|(value, mask)| value * mask).collect();
    Ok(StoredWeight::Sparse(Csr::new(Arc::new(pattern), values)?))
}

/// A tensor's shape for people: `64×3×7×7`.
pub(super) fn shape_text(shape: &[usize]) -> String {
    if shape.is_empty() { "a single number".to_owned() } else { dimensions(shape) }
}

/// The first few tensors, and how many more there are.
pub(super) fn list(mut tensors: Vec<(String, Vec<usize>)>) -> String {
    const SHOWN: usize = 6;
    tensors.sort_by(|(a, _), (b, _)| natural_order(a, b));
    let mut shown: Vec<_> =
        tensors.iter().take(SHOWN).map(|(name, shape)| format!("{name} {}", shape_text(shape))).collect();
    if tensors.len() > SHOWN {
        shown.push(format!("and {} more", tensors.len() - SHOWN));
    }
    shown.join(", ")
}

/// A matrix in CSR, or in BSR if its values have the dimensions of blocks.
pub(super) fn read_sparse(
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

pub(super) fn floats(name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, TensorsError> {
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
