//! Checks for hostile input of each format: it must give an error or a valid value, never a panic, and use no more memory
//! than a small multiple of the input. The fuzz targets and `tests/hostile_input.rs` run the same functions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;
use sparse_kernels::Csr;
use trainer::checkpoint::{Checkpoint, TensorData, read_header};
use trainer::data::text::{self, TextSymbols};
use trainer::data::{cifar as cifar_format, idx, svmlight as svmlight_format};
use trainer::exchange::pytorch;
use trainer::formats::{Matrix, matrix_market, npy, npz, smtx};
use trainer::models::{Architecture, Definition, ModelName, ModelSpec, StoredModel};
use trainer::settings::{TrainConfig, TrainOptions};

use crate::counting_allocator::allocated;

/// A function of [`TARGETS`].
pub type Target = fn(&[u8]);

/// Every format, by the name of its fuzz target and of its folder in `fuzz/seeds`.
#[allow(dead_code, reason = "a fuzz target runs one of them")]
pub const TARGETS: [(&str, Target); 10] = [
    ("idx", idx),
    ("cifar", cifar),
    ("safetensors", safetensors),
    ("npz", npz),
    ("mtx", mtx),
    ("smtx", smtx),
    ("toml", toml),
    ("network", network),
    ("text", text),
    ("svmlight", svmlight),
];

/// Bytes that any parser may use, whatever the input.
const FREE_BYTES: usize = 1 << 20;
/// As in [`trainer::formats::unfold`]: compressed input may expand to 64 times its size plus 64 MiB, which is then copied to
/// wider types and sorted.
const UNFOLDED: (usize, usize) = (64 * 12, (64 * 12) << 20);
/// A JSON header becomes maps of strings; text entries become indices and values, which are sorted.
const PARSED: (usize, usize) = (64, FREE_BYTES);
/// A matrix may have 2^20 rows without entries, at 2 × 4 bytes each.
const ROWS: (usize, usize) = (64, (8 << 20) + FREE_BYTES);

fn bounded<T>(bytes: &[u8], (factor, free): (usize, usize), parse: impl FnOnce(&[u8]) -> T) -> T {
    let (value, allocated) = allocated(|| parse(bytes));
    let allowed = factor * bytes.len() + free;
    assert!(
        allocated.peak_bytes <= allowed,
        "{} bytes of input made the parser hold {} bytes, {allowed} are allowed",
        bytes.len(),
        allocated.peak_bytes
    );
    value
}

/// IDX images and labels, plain or compressed.
pub fn idx(bytes: &[u8]) {
    if let Ok(images) = bounded(bytes, UNFOLDED, |bytes| idx::parse_images(Path::new("images"), bytes)) {
        assert_eq!(images.pixels.len(), images.count() * images.height * images.width);
    }
    if let Ok(labels) = bounded(bytes, UNFOLDED, |bytes| idx::parse_labels(Path::new("labels"), bytes, 0, 10)) {
        assert!(labels.iter().all(|&label| label < 10));
    }
}

/// Records of CIFAR-10, plain or compressed.
pub fn cifar(bytes: &[u8]) {
    let records = cifar_format::Records { classes: 10, label_bytes: 1, most: 4 };
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    let parse = |bytes: &[u8]| records.parse(Path::new("batch"), bytes, &mut images, &mut labels);
    if let Ok(count) = bounded(bytes, UNFOLDED, parse) {
        assert!((1..=4).contains(&count) && labels.len() == count && images.len() == count * 3072);
        assert!(labels.iter().all(|&label| label < 10));
    }
}

/// Texts, plain or compressed.
pub fn text(bytes: &[u8]) {
    for symbols in [TextSymbols::Bytes, TextSymbols::Characters] {
        let parse = |bytes: &[u8]| text::parse(Path::new("text"), bytes, symbols);
        let Ok((alphabet, tokens)) = bounded(bytes, UNFOLDED, parse) else { continue };
        assert!(!tokens.is_empty() && tokens.iter().all(|&token| usize::from(token) < alphabet.len()));
        // What is printed is read as the same tokens.
        let mut printed = Vec::new();
        tokens.iter().for_each(|&token| alphabet.append(token, &mut printed));
        if let Ok(printed) = std::str::from_utf8(&printed) {
            assert_eq!(alphabet.tokens(printed), Ok(tokens));
        }
    }
}

/// Samples that are lists, plain or compressed.
pub fn svmlight(bytes: &[u8]) {
    let parse = |bytes: &[u8]| svmlight_format::parse(Path::new("samples.txt"), bytes);
    let Ok([features, labels]) = bounded(bytes, UNFOLDED, parse) else { return };
    assert!(!features.is_empty() && features.len() == labels.len());
    for row in 0..features.len() {
        for lists in [&features, &labels] {
            let indices = lists.row(row);
            assert!(indices.is_sorted_by(|a, b| a < b) && indices.iter().all(|&i| (i as usize) < lists.columns()));
        }
        assert_eq!(features.values(row).len(), features.row(row).len());
        assert!(features.values(row).iter().all(|value| value.is_finite()));
    }
}

/// Checkpoints, and other programs' safetensors files.
pub fn safetensors(bytes: &[u8]) {
    let _ = bounded(bytes, PARSED, Checkpoint::from_bytes);
    // A forged checksum must not make the content trusted.
    if let Ok(model) = bounded(bytes, PARSED, |bytes| StoredModel::from_checkpoint(&unchecked(bytes))) {
        sound(&model);
    }
    if let Ok(model) = bounded(bytes, PARSED, pytorch::from_bytes) {
        sound(&model);
    }
}

fn sound(model: &StoredModel) {
    model.check().expect("a model that was read is whole");
    let again = StoredModel::from_checkpoint(&model.to_checkpoint()).expect("a model that was read can be written");
    assert_eq!(again.densities(), model.densities());
}

/// The file's content, whatever its checksum; empty if it is not a safetensors file at all.
fn unchecked(bytes: &[u8]) -> Checkpoint {
    let read = || {
        let header = read_header(bytes).ok()?;
        let metadata = header.metadata().as_ref().and_then(|map| map.get("rigl")).cloned().unwrap_or_default();
        let metadata: serde_json::Value = serde_json::from_str(&metadata).ok()?;
        let mut tensors = BTreeMap::new();
        for (name, view) in SafeTensors::deserialize(bytes).ok()?.iter() {
            let words: Vec<u32> =
                view.data().chunks_exact(4).map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect();
            let tensor = match view.dtype() {
                safetensors::Dtype::U32 => TensorData::u32s(words),
                _ => TensorData::f32s(words.into_iter().map(f32::from_bits).collect::<Vec<_>>()),
            };
            tensors.insert(name.to_owned(), tensor);
        }
        let metadata = metadata.get("content").cloned().unwrap_or_default();
        Some(Checkpoint { tensors, metadata })
    };
    read().unwrap_or_default()
}

/// SciPy's sparse matrices, and the NumPy arrays they consist of.
pub fn npz(bytes: &[u8]) {
    matrix(bounded(bytes, UNFOLDED, npz::parse).ok(), npz::to_bytes, npz::parse);
    matrix(bounded(bytes, PARSED, npy::parse).ok(), npy::to_bytes, npy::parse);
}

/// Matrix Market.
pub fn mtx(bytes: &[u8]) {
    matrix(bounded(bytes, ROWS, matrix_market::parse).ok(), matrix_market::to_bytes, matrix_market::parse);
}

/// Patterns of the Deep Learning Matrix Collection.
pub fn smtx(bytes: &[u8]) {
    matrix(bounded(bytes, PARSED, smtx::parse).ok(), smtx::to_bytes, smtx::parse);
}

/// Whatever was read can be written and read again.
fn matrix<E: std::fmt::Debug>(
    read: Option<Matrix>,
    write: impl Fn(&Matrix) -> Result<Vec<u8>, E>,
    parse: impl Fn(&[u8]) -> Result<Matrix, E>,
) {
    let Some(matrix) = read else { return };
    // Some formats cannot hold some kinds of matrix.
    let Ok(bytes) = write(&matrix) else { return };
    let again = parse(&bytes).expect("what was written can be read");
    assert_eq!(shape(&again), shape(&matrix));
}

/// Rows, columns, stored entries.
fn shape(matrix: &Matrix) -> (usize, usize, usize) {
    match matrix {
        Matrix::Sparse(csr) => of_csr(csr),
        Matrix::Pattern(pattern) => (pattern.nrows(), pattern.ncols(), pattern.nnz()),
        Matrix::Dense(dense) => (dense.nrows(), dense.ncols(), dense.values().len()),
    }
}

fn of_csr(csr: &Csr<f32>) -> (usize, usize, usize) {
    (csr.pattern().nrows(), csr.pattern().ncols(), csr.values().len())
}

/// Configuration files of `rigl train`.
pub fn toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let options = bounded(bytes, (512, FREE_BYTES), |_| toml::from_str::<TrainOptions>(text));
    let Ok(mut options) = options else { return };
    // Reads a file.
    options.init_from = None;
    let Ok(config) = bounded(bytes, (512, FREE_BYTES), |_| TrainConfig::resolve(None, &options, None)) else { return };
    let _ = config.update_window(config.total_steps(100));
    // The settings saved with a run mean the same.
    let saved = config.to_toml().expect("settings from TOML can be written as TOML");
    let again: TrainOptions = toml::from_str(&saved).expect("what was written can be read");
    let again = TrainConfig::of(&again).expect("what was written has no sparsity");
    assert_eq!(again.fingerprint(), config.fingerprint());
}

/// Files of networks. Blocks within blocks may unfold to 4096 layers, whatever the input's size.
pub fn network(bytes: &[u8]) {
    const UNFOLDED_LAYERS: usize = 8 << 20;
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let definition = bounded(bytes, (512, UNFOLDED_LAYERS), |_| Definition::parse(text, None));
    let Ok(definition) = definition else { return };
    let written = definition.to_toml();
    assert_eq!(Definition::parse(&written, None).expect("what was written can be read"), definition);
    // Nothing is allocated for weights, however many there would be.
    let spec = ModelSpec::of(&ModelName::Own(Arc::new(definition)));
    for spec in [spec.clone(), spec.on(3, [32, 32], 10)] {
        let built = bounded(bytes, (512, UNFOLDED_LAYERS), |_| Architecture::new(&spec));
        let Ok(architecture) = built else { continue };
        assert!(architecture.size() <= 1 << 40 && architecture.classes() == spec.classes);
        let again: ModelName = written.parse().expect("a definition is a name");
        assert_eq!(Architecture::new(&ModelSpec { name: again, ..spec }), Ok(architecture));
    }
}
