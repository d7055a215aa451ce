//! Checkpoints: named tensors and one JSON value in a safetensors file.
//!
//! | tensor | name |
//! | --- | --- |
//! | sparse weight | `<layer>.weight.crow_indices`, `<layer>.weight.col_indices` (u32), `<layer>.weight.values` (f32) |
//! | block-sparse weight | the same, of blocks; values have the shape `[blocks, r, c]`, which tells it from a sparse weight |
//! | dense weight, bias | `<layer>.weight`, `<layer>.bias` |
//! | optimizer slot, on the weight's pattern | `<layer>.weight.<slot>`, `<layer>.bias.<slot>` |
//!
//! The names of a sparse weight are those of PyTorch's CSR and BSR tensors. The same state gives the same bytes: tensors are
//! written in a fixed order, and all metadata is one JSON text with sorted keys and no spaces under one key, because
//! the format's own metadata map has no fixed order:
//!
//! ```text
//! {"content": …, "sha256": "…", "version": 1}
//! ```
//!
//! The sum is over the version, the content and every tensor's name, type, shape and bytes. A file with a flipped bit is an error, or,
//! where the bit means nothing (white space in the header), loads as what was saved.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::{fs, io};

use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorView, View};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use sparse_kernels::FormatError;

use crate::atomic_file::write_atomic;
use crate::error::{Kind, Kinded};
use crate::report::dimensions;

/// The one key of the file's metadata.
pub(crate) const METADATA_KEY: &str = "rigl";
/// Of the metadata's form. A reader refuses any other.
const VERSION: u64 = 1;

/// Why a checkpoint cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file cannot be read or written.
    #[error("checkpoint {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The file's content is wrong.
    #[error("checkpoint {}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<CheckpointError>,
    },
    /// It is not a safetensors file.
    #[error("not a safetensors file: {0}")]
    Format(#[from] SafeTensorError),
    /// The metadata is not that of a checkpoint.
    #[error(
        "not a rigl checkpoint: its metadata must be JSON under the single key {METADATA_KEY:?}: {0}; `rigl import` \
         reads other programs' files"
    )]
    Metadata(String),
    /// A part of the metadata is not there or has another form.
    #[error("metadata section {name:?}: {reason}")]
    Section {
        /// The part.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file was written by another version of this crate, with another form of metadata.
    #[error("the file has format version {got}; this build reads version {VERSION}")]
    Version {
        /// The version found.
        got: Value,
    },
    /// The content is not what was saved.
    #[error("the file is damaged: its content does not match its SHA-256 sum")]
    Damaged,
    /// The state does not belong where it is to go.
    #[error("{what} is {got}, expected {expected}")]
    Mismatch {
        /// What does not fit.
        what: String,
        /// That of the file.
        got: String,
        /// What would fit.
        expected: String,
    },
    /// The stored entries make no matrix.
    #[error("tensor {name}: {source}")]
    Matrix {
        /// The matrix.
        name: String,
        /// What is wrong.
        source: FormatError,
    },
    /// A tensor's length is not the product of its shape.
    #[error("tensor {name}: {len} values for shape {}", dimensions(shape))]
    Length {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
        /// Its values.
        len: usize,
    },
    /// A tensor has a type that checkpoints do not use.
    #[error("tensor {name}: type {dtype}; it must be {expected}")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A tensor that is needed is not there.
    #[error("there is no tensor {name}")]
    Missing {
        /// The tensor.
        name: String,
    },
}

impl Kinded for CheckpointError {
    /// Of usage if the command line can mend it: there is no such file, or it belongs to something else.
    fn kind(&self) -> Kind {
        match self {
            Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => Kind::Usage,
            Self::Content { source, .. } => source.kind(),
            Self::Mismatch { .. } => Kind::Usage,
            _ => Kind::Failure,
        }
    }
}

impl CheckpointError {
    /// A state that does not belong where it is to go.
    pub fn mismatch(what: impl Into<String>, got: impl ToString, expected: impl ToString) -> Self {
        Self::Mismatch { what: what.into(), got: got.to_string(), expected: expected.to_string() }
    }

    /// Whether the file is whole, and of another version of this crate.
    pub fn is_version(&self) -> bool {
        match self {
            Self::Content { source, .. } => source.is_version(),
            Self::Version { .. } => true,
            _ => false,
        }
    }

    /// Adds the file's name.
    pub fn in_file(path: &Path) -> impl FnOnce(Self) -> Self {
        move |source| Self::Content { path: path.to_owned(), source: Box::new(source) }
    }
}

/// The numbers of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    /// Weights, biases, optimizer slots.
    F32 {
        /// Lengths of the dimensions; their product is the number of values.
        shape: Vec<usize>,
        /// The values, last dimension innermost.
        values: Vec<f32>,
    },
    /// Indices.
    U32 {
        /// Lengths of the dimensions; their product is the number of values.
        shape: Vec<usize>,
        /// The values, last dimension innermost.
        values: Vec<u32>,
    },
}

impl TensorData {
    /// A one-dimensional tensor.
    pub fn f32s(values: impl Into<Vec<f32>>) -> Self {
        let values = values.into();
        Self::F32 { shape: vec![values.len()], values }
    }

    /// A one-dimensional tensor of indices.
    pub fn u32s(values: impl Into<Vec<u32>>) -> Self {
        let values = values.into();
        Self::U32 { shape: vec![values.len()], values }
    }

    /// Lengths of the dimensions.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::F32 { shape, .. } | Self::U32 { shape, .. } => shape,
        }
    }

    fn dtype(&self) -> Dtype {
        match self {
            Self::F32 { .. } => Dtype::F32,
            Self::U32 { .. } => Dtype::U32,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::F32 { values, .. } => values.len(),
            Self::U32 { values, .. } => values.len(),
        }
    }

    fn from_view(name: &str, view: &TensorView<'_>) -> Result<Self, CheckpointError> {
        let shape = view.shape().to_vec();
        let words = view.data().chunks_exact(4).map(|word| [word[0], word[1], word[2], word[3]]);
        match view.dtype() {
            Dtype::F32 => Ok(Self::F32 { shape, values: words.map(f32::from_le_bytes).collect() }),
            Dtype::U32 => Ok(Self::U32 { shape, values: words.map(u32::from_le_bytes).collect() }),
            other => {
                let (name, dtype) = (name.to_owned(), other.to_string());
                Err(CheckpointError::Dtype { name, dtype, expected: "F32 or U32" })
            }
        }
    }
}

impl View for &TensorData {
    fn dtype(&self) -> Dtype {
        TensorData::dtype(self)
    }

    fn shape(&self) -> &[usize] {
        TensorData::shape(self)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self {
            TensorData::F32 { values, .. } => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            TensorData::U32 { values, .. } => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        4 * self.len()
    }
}

/// A checkpoint in memory.
///
/// ```
/// use trainer::checkpoint::{Checkpoint, TensorData};
/// let mut checkpoint = Checkpoint { metadata: serde_json::json!({ "step": 7 }), ..Default::default() };
/// checkpoint.tensors.insert("fc1.bias".to_owned(), TensorData::f32s([0.5, -1.0]));
/// let again = Checkpoint::from_bytes(&checkpoint.to_bytes()?)?;
/// assert_eq!(again, checkpoint);
/// assert_eq!(again.f32s("fc1.bias")?, [0.5, -1.0]);
/// # Ok::<(), trainer::checkpoint::CheckpointError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Checkpoint {
    /// Tensors by name.
    pub tensors: BTreeMap<String, TensorData>,
    /// Everything that is not a tensor. Nothing that differs between equal runs (clock, paths, threads, host) belongs
    /// here.
    pub metadata: Value,
}

impl Checkpoint {
    /// The file's bytes.
    ///
    /// # Errors
    /// [`CheckpointError::Length`] if a tensor's values do not fill its shape.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CheckpointError> {
        for (name, tensor) in &self.tensors {
            let size = tensor.shape().iter().try_fold(1usize, |product, &length| product.checked_mul(length));
            if size != Some(tensor.len()) {
                let (name, shape) = (name.clone(), tensor.shape().to_vec());
                return Err(CheckpointError::Length { name, shape, len: tensor.len() });
            }
        }
        let sha256 = self.sha256(&json!(VERSION));
        let metadata = json!({ "content": self.metadata, "sha256": sha256, "version": VERSION });
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), canonical_json(&metadata))]);
        Ok(safetensors::serialize(&self.tensors, Some(metadata))?)
    }

    /// The sum of everything in it and the file's version, in hexadecimal digits.
    fn sha256(&self, version: &Value) -> String {
        let mut sum = Sha256::new();
        // Each part is preceded by its length, so that no two contents run together to the same bytes.
        let mut part = |bytes: &[u8]| {
            sum.update((bytes.len() as u64).to_le_bytes());
            sum.update(bytes);
        };
        part(version.to_string().as_bytes());
        part(canonical_json(&self.metadata).as_bytes());
        for (name, tensor) in &self.tensors {
            part(name.as_bytes());
            part(tensor.dtype().to_string().as_bytes());
            part(format!("{:?}", tensor.shape()).as_bytes());
            part(&tensor.data());
        }
        sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// A checkpoint from a file's bytes. Anything that is not one is an error.
    ///
    /// # Errors
    /// [`CheckpointError`] saying what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let header = read_header(bytes)?;
        let wrong = |what: &str| Err(CheckpointError::Metadata(what.to_owned()));
        let mut metadata: serde_json::Map<String, Value> = match header.metadata() {
            Some(map) if map.len() == 1 => match map.get(METADATA_KEY) {
                Some(text) => serde_json::from_str(text).map_err(|e| CheckpointError::Metadata(e.to_string()))?,
                None => return wrong("the key has another name"),
            },
            Some(map) => return wrong(&format!("there are {} keys", map.len())),
            None => return wrong("there is none"),
        };
        let mut take = |key| metadata.remove(key).unwrap_or_default();
        let (version, sha256, content) = (take("version"), take("sha256"), take("content"));
        let tensors = SafeTensors::deserialize(bytes)?
            .iter()
            .map(|(name, view)| Ok((name.to_owned(), TensorData::from_view(name, &view)?)))
            .collect::<Result<_, CheckpointError>>()?;
        let checkpoint = Self { tensors, metadata: content };
        if sha256 != checkpoint.sha256(&version) {
            Err(CheckpointError::Damaged)
        } else if version != VERSION {
            Err(CheckpointError::Version { got: version })
        } else {
            Ok(checkpoint)
        }
    }

    /// Writes the file so that it is the old or the new checkpoint at any moment.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn save_atomic(&self, path: &Path) -> Result<(), CheckpointError> {
        let bytes = self.to_bytes().map_err(CheckpointError::in_file(path))?;
        write_atomic(path, &bytes).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`CheckpointError`] naming the file.
    pub fn load(path: &Path) -> Result<Self, CheckpointError> {
        let bytes = fs::read(path).map_err(|source| CheckpointError::Io { path: path.to_owned(), source })?;
        Self::from_bytes(&bytes).map_err(CheckpointError::in_file(path))
    }

    /// The values of a tensor of f32.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] or [`CheckpointError::Dtype`].
    pub fn f32s(&self, name: &str) -> Result<&[f32], CheckpointError> {
        match self.tensor(name)? {
            TensorData::F32 { values, .. } => Ok(values),
            other => Err(wrong_dtype(name, other, "F32")),
        }
    }

    /// The values of a tensor of u32.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`] or [`CheckpointError::Dtype`].
    pub fn u32s(&self, name: &str) -> Result<&[u32], CheckpointError> {
        match self.tensor(name)? {
            TensorData::U32 { values, .. } => Ok(values),
            other => Err(wrong_dtype(name, other, "U32")),
        }
    }

    /// One part of the metadata.
    ///
    /// # Errors
    /// [`CheckpointError::Section`] if it is not there or has another form.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, CheckpointError> {
        let wrong = |reason| CheckpointError::Section { name: name.to_owned(), reason };
        let section = self.metadata.get(name).ok_or_else(|| wrong("it is not there".to_owned()))?;
        T::deserialize(section).map_err(|error| wrong(error.to_string()))
    }

    /// Sets one part of the metadata.
    ///
    /// # Panics
    /// If `value` is not JSON, such as a map whose keys are not text, or the metadata is something without parts.
    pub fn set_section(&mut self, name: &str, value: &impl Serialize) {
        self.metadata[name] = serde_json::to_value(value).expect("the parts of a state are JSON");
    }

    fn tensor(&self, name: &str) -> Result<&TensorData, CheckpointError> {
        self.tensors.get(name).ok_or_else(|| CheckpointError::Missing { name: name.to_owned() })
    }
}

fn wrong_dtype(name: &str, tensor: &TensorData, expected: &'static str) -> CheckpointError {
    CheckpointError::Dtype { name: name.to_owned(), dtype: tensor.dtype().to_string(), expected }
}

/// The header of a safetensors file whose tensors lie within it.
///
/// The crate adds the last tensor's end to the header's length before it compares the sum with the file's length; for
/// ends near 2^64 that overflows, which is a panic in builds that check. So ends are looked at first.
///
/// # Errors
/// If it is not such a file.
pub fn read_header(bytes: &[u8]) -> Result<Metadata, SafeTensorError> {
    let outside = || {
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let header = rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        let tensors: HashMap<String, Value> = serde_json::from_slice(header).ok()?;
        Some(tensors.values().any(|t| t["data_offsets"][1].as_u64().is_some_and(|end| end > bytes.len() as u64)))
    };
    if outside() == Some(true) {
        return Err(SafeTensorError::MetadataIncompleteBuffer);
    }
    Ok(SafeTensors::read_metadata(bytes)?.1)
}

/// JSON with sorted keys and no spaces. The order is made here because the map's own order is a feature of
/// `serde_json` that any crate in the build can change.
fn canonical_json(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let members = sorted
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical_json(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical_json).collect::<Vec<_>>().join(",")),
        scalar => scalar.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn example() -> Checkpoint {
        let tensors = [
            ("fc1.weight.crow_indices", TensorData::u32s([0, 2, 3])),
            ("fc1.weight.col_indices", TensorData::u32s([0, 4, 1])),
            ("fc1.weight.values", TensorData::f32s([0.5, -0.0, f32::MIN_POSITIVE])),
            ("fc1.weight.momentum", TensorData::f32s([1.0, f32::INFINITY, 0.1])),
            ("fc1.bias", TensorData::f32s([0.0; 2])),
            ("fc2.weight", TensorData::F32 { shape: vec![2, 3], values: vec![1.5; 6] }),
            ("empty", TensorData::f32s([])),
        ];
        let metadata = json!({ "step": 1200u64, "config": { "seed": u64::MAX, "lr": 0.1, "a": [1.0, null, "é\"\n"] } });
        Checkpoint { tensors: tensors.map(|(name, data)| (name.to_owned(), data)).into(), metadata }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("checkpoint.safetensors");
        example().save_atomic(&path).unwrap();
        let loaded = Checkpoint::load(&path).unwrap();
        assert_eq!(loaded, example());
        assert_eq!(loaded.u32s("fc1.weight.col_indices").unwrap(), [0, 4, 1]);
        assert!(loaded.f32s("fc1.weight.values").unwrap()[1].is_sign_negative());
        assert_eq!(loaded.f32s("fc3.bias").unwrap_err().to_string(), "there is no tensor fc3.bias");
        let error = loaded.f32s("fc1.weight.col_indices").unwrap_err().to_string();
        assert_eq!(error, "tensor fc1.weight.col_indices: type U32; it must be F32");
    }

    /// The order in which a state was put together does not show.
    #[test]
    fn the_same_state_gives_the_same_bytes() {
        let example = example();
        let mut other = Checkpoint {
            metadata: json!({ "config": { "a": [1.0, null, "é\"\n"], "lr": 0.1, "seed": u64::MAX }, "step": 1200u64 }),
            ..Default::default()
        };
        for (name, tensor) in example.tensors.iter().rev() {
            other.tensors.insert(name.clone(), tensor.clone());
        }
        let bytes = example.to_bytes().unwrap();
        for _ in 0..10 {
            assert_eq!(other.to_bytes().unwrap(), bytes);
        }
        let canonical = r#"{"config":{"a":[1.0,null,"é\"\n"],"lr":0.1,"seed":18446744073709551615},"step":1200}"#;
        assert_eq!(canonical_json(&example.metadata), canonical);
    }

    /// NaN payloads too: a checkpoint keeps bits, not numbers.
    #[test]
    fn bits_are_kept() {
        let bits = [0x7fc0_0001, 0xff80_0000, 1, 0x8000_0000];
        let mut checkpoint = example();
        checkpoint.tensors.insert("x".to_owned(), TensorData::f32s(bits.map(f32::from_bits)));
        let loaded = Checkpoint::from_bytes(&checkpoint.to_bytes().unwrap()).unwrap();
        let loaded: Vec<u32> = loaded.f32s("x").unwrap().iter().map(|x| x.to_bits()).collect();
        assert_eq!(loaded, bits);
    }

    #[test]
    fn wrong_content_is_named() {
        let mut checkpoint = example();
        checkpoint.tensors.insert("x".to_owned(), TensorData::F32 { shape: vec![2, 2], values: vec![0.0; 3] });
        assert_eq!(checkpoint.to_bytes().unwrap_err().to_string(), "tensor x: 3 values for shape 2×2");
        let foreign = |metadata: Option<HashMap<String, String>>, dtype| {
            let view = TensorView::new(dtype, vec![1], &[0; 8][..dtype.bitsize() / 8]).unwrap();
            let bytes = safetensors::serialize([("x", view)], metadata).unwrap();
            Checkpoint::from_bytes(&bytes).unwrap_err().to_string()
        };
        let one = |key: &str, value: &str| Some(HashMap::from([(key.to_owned(), value.to_owned())]));
        assert!(foreign(None, Dtype::F32).contains("there is none; `rigl import`"));
        assert!(foreign(one("format", "pt"), Dtype::F32).contains("the key has another name"));
        assert!(foreign(one("rigl", "{"), Dtype::F32).contains("EOF"));
        assert!(foreign(one("rigl", "[]"), Dtype::F32).contains("invalid type"));
        // A whole file of another version is no damaged one.
        let next = Checkpoint { tensors: [("x".to_owned(), TensorData::f32s([0.0]))].into(), metadata: Value::Null };
        let text = json!({ "version": 2, "sha256": next.sha256(&json!(2)) }).to_string();
        let other = foreign(one("rigl", &text), Dtype::F32);
        assert_eq!(other, "the file has format version 2; this build reads version 1");
        assert!(foreign(one("rigl", r#"{"version":2}"#), Dtype::F32).starts_with("the file is damaged"));
        assert_eq!(foreign(one("rigl", r#"{"version":1}"#), Dtype::I64), "tensor x: type I64; it must be F32 or U32");
        assert!(foreign(one("rigl", r#"{"version":1}"#), Dtype::F32).starts_with("the file is damaged"));
        let missing = Checkpoint::load(Path::new("no/such/file")).unwrap_err().to_string();
        assert!(missing.starts_with("checkpoint no/such/file: "), "{missing}");
    }

    /// Eight tensors that together end just below 2^64.
    #[test]
    fn offsets_that_overflow_are_refused() {
        let size = u64::MAX / 8 / 4 * 4;
        let tensor = |i: u64| {
            (i.to_string(), json!({ "dtype": "F32", "shape": [size / 4], "data_offsets": [i * size, (i + 1) * size] }))
        };
        let header = Value::from((0..8).map(tensor).collect::<serde_json::Map<_, _>>()).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        assert!(Checkpoint::from_bytes(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            prop_assert!(Checkpoint::from_bytes(&bytes).is_err());
        }

        #[test]
        fn damaged_files_never_panic(at in 0usize..1000, byte: u8, cut in 0usize..1000) {
            let mut bytes = example().to_bytes().unwrap();
            let (at, cut) = (at % bytes.len(), cut % bytes.len());
            prop_assert!(Checkpoint::from_bytes(&bytes[..cut]).is_err());
            bytes[at] = byte;
            // Another state is never loaded.
            if let Ok(loaded) = Checkpoint::from_bytes(&bytes) {
                prop_assert_eq!(loaded, example());
            }
        }

        /// Headers that are JSON, with sizes that lie.
        #[test]
        fn hostile_headers_never_panic(shape in prop::collection::vec(any::<u64>(), 0..4), begin: u64, end: u64, data: Vec<u8>) {
            let header = json!({ "__metadata__": { "rigl": r#"{"version":1}"# }, "x": { "dtype": "F32", "shape": shape, "data_offsets": [begin, end] } });
            let header = header.to_string();
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.bytes());
            bytes.extend(data);
            let _ = Checkpoint::from_bytes(&bytes);
        }
    }
}
