//! Arrays of numbers of any shape by their names: what an `.npz`, an `.npy` or a safetensors file holds.

use std::path::Path;

use half::{bf16, f16};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::error::{ContentError, MatrixFileError};
use super::npy::Array;
pub use super::npy::NumberArray;
use super::npz::Archive;
use super::{in_file, read_unfolded};

/// The arrays in a file, sorted by name. Arrays of text are left out.
///
/// # Errors
/// [`MatrixFileError`] naming the file, what is wrong and in which array.
pub fn read_arrays(path: &Path) -> Result<Vec<NumberArray>, MatrixFileError> {
    let bytes = read_unfolded(path)?;
    let arrays = match path.extension().and_then(|extension| extension.to_str()) {
        Some("safetensors") => of_tensors(&bytes),
        Some("npy") => Array::parse(&bytes)
            .and_then(|array| array.numbers())
            .map_err(ContentError::from)
            .map(|(shape, values)| vec![NumberArray { name: String::new(), shape, values }]),
        _ => Archive::open(&bytes).and_then(|mut archive| archive.number_arrays()),
    };
    let mut arrays = arrays.map_err(in_file(path))?;
    arrays.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(arrays)
}

fn of_tensors(bytes: &[u8]) -> Result<Vec<NumberArray>, ContentError> {
    let tensors = SafeTensors::deserialize(bytes).map_err(|error| ContentError::Tensors(error.to_string()))?;
    let array = |(name, view): (String, TensorView<'_>)| {
        let shape = view.shape().to_vec();
        numbers(&view).map(|values| NumberArray { name, shape, values })
    };
    Ok(tensors.tensors().into_iter().filter_map(array).collect())
}

/// The numbers of a tensor, as the nearest f32; none of a type that is no number.
fn numbers(view: &TensorView<'_>) -> Option<Vec<f32>> {
    fn each<const N: usize>(view: &TensorView<'_>, read: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        view.data().as_chunks().0.iter().map(|&word| read(word)).collect()
    }
    Some(match view.dtype() {
        Dtype::F32 => each(view, f32::from_le_bytes),
        Dtype::F64 => each(view, |word| f64::from_le_bytes(word) as f32),
        Dtype::F16 => each(view, |word| f16::from_le_bytes(word).to_f32()),
        Dtype::BF16 => each(view, |word| bf16::from_le_bytes(word).to_f32()),
        Dtype::BOOL | Dtype::U8 => each(view, |[byte]| f32::from(byte)),
        Dtype::I8 => each(view, |word| f32::from(i8::from_le_bytes(word))),
        Dtype::I16 => each(view, |word| f32::from(i16::from_le_bytes(word))),
        Dtype::U16 => each(view, |word| f32::from(u16::from_le_bytes(word))),
        Dtype::I32 => each(view, |word| i32::from_le_bytes(word) as f32),
        Dtype::U32 => each(view, |word| u32::from_le_bytes(word) as f32),
        Dtype::I64 => each(view, |word| i64::from_le_bytes(word) as f32),
        Dtype::U64 => each(view, |word| u64::from_le_bytes(word) as f32),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::io::Write;

    use super::super::npy;
    use super::*;

    fn array(name: &str, shape: &[usize], values: &[f32]) -> NumberArray {
        NumberArray { name: name.to_owned(), shape: shape.to_vec(), values: values.to_vec() }
    }

    #[test]
    fn every_container_gives_its_arrays() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            path
        };
        let x = npy::f32_array("(2, 1, 3)", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let y = npy::array("<i8", "(2,)", [7i64, -1].into_iter().flat_map(i64::to_le_bytes));
        let expected = [array("x", &[2, 1, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]), array("y", &[2], &[7.0, -1.0])];
        assert_eq!(
            read_arrays(&file("a.npy", &x)).unwrap(),
            [NumberArray { name: String::new(), ..expected[0].clone() }]
        );

        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        for (name, bytes) in [("y.npy", &y), ("x.npy", &x)] {
            zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        assert_eq!(read_arrays(&file("a.npz", &zip.finish().unwrap().into_inner())).unwrap(), expected);

        let floats: Vec<u8> = (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect();
        let integers: Vec<u8> = [7i64, -1].into_iter().flat_map(i64::to_le_bytes).collect();
        let tensors = BTreeMap::from([
            ("x", TensorView::new(Dtype::F32, vec![2, 1, 3], &floats).unwrap()),
            ("y", TensorView::new(Dtype::I64, vec![2], &integers).unwrap()),
        ]);
        let bytes = safetensors::serialize(tensors, None).unwrap();
        assert_eq!(read_arrays(&file("a.safetensors", &bytes)).unwrap(), expected);
        let error = read_arrays(&file("b.safetensors", b"no tensors")).unwrap_err().to_string();
        assert!(error.contains("b.safetensors: "), "{error}");
    }

    /// NumPy stores `np.zeros((2, 3)).T` column by column.
    #[test]
    fn columns_first_becomes_rows_first() {
        let mut bytes = npy::f32_array("(3, 2)", &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let at = bytes.windows(5).position(|window| window == b"False").unwrap();
        bytes[at..at + 5].copy_from_slice(b"True ");
        let (shape, values) = Array::parse(&bytes).unwrap().numbers().unwrap();
        assert_eq!((shape, values), (vec![3, 2], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    }
}
