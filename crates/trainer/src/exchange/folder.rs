//! A model as a folder of matrix files.
//!
//! | file | content |
//! | --- | --- |
//! | `<layer>.weight.<extension>` | the weight `[outputs, inputs]`, in any of the [`formats`] |
//! | `<layer>.bias.npy` or `.mtx` | the bias, a vector; zeros if there is none |
//! | `model.json` | what the model must be used with: network, normalisation, size of pictures, names of classes |
//!
//! Of a convolutional network are written, not read: `<norm>.affine`, scales and shifts of a batch normalisation, and
//! `<norm>.running`, its running means and variances, vectors like the biases.
//!
//! Biases are written as `.mtx` beside weights in `.mtx` and as `.npy` beside `.npz` and `.npy`; `.smtx` files hold
//! patterns, and no biases go with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::ExchangeError;
use super::description::Description;
use super::layers::{NamedLayer, chain, check_finite, matrix_of, model_name, weight_of};
use super::order::{Unplaced, order};
use crate::atomic_file::write_atomic;
use crate::formats::{self, MatrixFormat};
use crate::models::StoredModel;

/// The files of one layer.
#[derive(Debug, Default)]
struct Files {
    weight: Option<PathBuf>,
    bias: Option<PathBuf>,
}

/// Writes every layer's weight and bias. The folder is there already.
///
/// # Errors
/// [`ExchangeError`] naming the layer or file.
pub(super) fn write(
    folder: &Path,
    model: &StoredModel,
    format: MatrixFormat,
    dense: bool,
) -> Result<(), ExchangeError> {
    // All names first: a part of a model is not to be left behind for a reason that can be known before.
    if let Some(layer) = model.layers.iter().find(|layer| !is_file_name(&layer.name)) {
        return Err(ExchangeError::LayerName { name: layer.name.clone() });
    }
    let path = folder.join(Description::FILE);
    let text = Description::of(model).to_json() + "\n";
    write_atomic(&path, text.as_bytes()).map_err(|reason| ExchangeError::Io { path, reason })?;
    for layer in &model.layers {
        let file = |part: &str, extension: &str| folder.join(format!("{}.{part}.{extension}", layer.name));
        formats::write(&file("weight", format.extension()), &matrix_of(layer, format, dense)?)?;
        let bias = match format {
            MatrixFormat::Smtx => continue,
            MatrixFormat::MatrixMarket => MatrixFormat::MatrixMarket,
            MatrixFormat::Npz | MatrixFormat::Npy => MatrixFormat::Npy,
        };
        if !layer.bias.is_empty() {
            formats::write_vector(&file("bias", bias.extension()), &layer.bias)?;
        }
    }
    let vectors = match format {
        MatrixFormat::Smtx => return Ok(()),
        MatrixFormat::MatrixMarket => MatrixFormat::MatrixMarket,
        MatrixFormat::Npz | MatrixFormat::Npy => MatrixFormat::Npy,
    };
    for norm in model.parts.iter().flat_map(|parts| &parts.norms) {
        for (part, values) in [("affine", &norm.affine), ("running", &norm.running)] {
            formats::write_vector(&folder.join(format!("{}.{part}.{}", norm.name, vectors.extension())), values)?;
        }
    }
    Ok(())
}

/// Names come from a model's file, which may be anyone's: none may lead out of the folder, or hide.
fn is_file_name(name: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    !name.is_empty() && !name.starts_with('.') && name.chars().all(plain)
}

/// Reads a folder's model. Layers are taken in the `wanted` order, else in the one that sizes and numbers in names tell, and
/// named `fc1`, `fc2`, …. `seed` is that of the values of patterns.
///
/// # Errors
/// [`ExchangeError`] naming the folder or file.
pub fn read(folder: &Path, wanted: Option<&[String]>, seed: u64) -> Result<StoredModel, ExchangeError> {
    let mut matrices = Vec::new();
    for (name, files) in files(folder)? {
        let Some(path) = files.weight else {
            return Err(ExchangeError::BiasAlone { path: folder.to_owned(), layer: name });
        };
        let bias = files.bias.map(|path| formats::read_vector(&path)).transpose()?;
        matrices.push((name, Some(formats::read(&path)?), bias));
    }
    if matrices.is_empty() {
        return Err(ExchangeError::Empty { path: folder.to_owned() });
    }
    let unplaced = matrices.iter().filter_map(|(name, matrix, _)| {
        let matrix = matrix.as_ref()?;
        Some(Unplaced { name, outputs: matrix.nrows(), inputs: Some(matrix.ncols()) })
    });
    let order = order(&unplaced.collect::<Vec<_>>(), wanted)
        .map_err(|reason| ExchangeError::FolderOrder { path: folder.to_owned(), reason })?;
    let mut layers = Vec::new();
    for (index, at) in order.into_iter().enumerate() {
        let (name, matrix, bias) = &mut matrices[at];
        let Some(matrix) = matrix.take() else { continue };
        let (name, bias) = (name.clone(), bias.take());
        // The values of a pattern are those of the layer that it becomes.
        let weight = weight_of(matrix, &model_name(index), seed);
        let weight = weight.map_err(|reason| ExchangeError::Format { layer: name.clone(), reason })?;
        layers.push(NamedLayer { name, weight, bias });
    }
    check_finite(&layers).map_err(|reason| ExchangeError::NotFinite { path: folder.to_owned(), reason })?;
    let order = layers.iter().map(|l| l.name.as_str()).collect::<Vec<_>>().join(", ");
    let model = chain(layers).map_err(|reason| ExchangeError::Folder { path: folder.to_owned(), order, reason })?;
    Ok(StoredModel { input: read_description(folder)?.and_then(|description| description.input), ..model })
}

/// What the folder says of its model, if it says anything.
fn read_description(folder: &Path) -> Result<Option<Description>, ExchangeError> {
    let path = folder.join(Description::FILE);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Description::from_json(&text)),
        Err(reason) if reason.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(ExchangeError::Io { path, reason }),
    }
}

/// The files of each layer, in the order of the layers' names. Hidden files are none of ours.
fn files(folder: &Path) -> Result<Vec<(String, Files)>, ExchangeError> {
    let io = |reason| ExchangeError::Io { path: folder.to_owned(), reason };
    let mut layers: BTreeMap<String, Files> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name == Description::FILE {
            continue;
        }
        let Some((layer, is_weight)) = parse_name(&name) else {
            return Err(ExchangeError::Stray { path: folder.to_owned(), file: name });
        };
        let files = layers.entry(layer.to_owned()).or_default();
        let slot = if is_weight { &mut files.weight } else { &mut files.bias };
        if slot.replace(path).is_some() {
            let part = format!("{layer}.{}", if is_weight { "weight" } else { "bias" });
            return Err(ExchangeError::Twice { path: folder.to_owned(), part });
        }
    }
    Ok(layers.into_iter().collect())
}

/// The layer that a file belongs to, and whether it is the weight or the bias.
fn parse_name(name: &str) -> Option<(&str, bool)> {
    let format = MatrixFormat::of_source(Path::new(name)).ok()?;
    let is_plain = MatrixFormat::from_path(Path::new(name)).is_ok();
    let (mut stem, _) = name.rsplit_once('.')?;
    if !is_plain {
        // Compressed: `.mtx.gz`.
        (stem, _) = stem.rsplit_once('.')?;
    }
    let (layer, part) = stem.rsplit_once('.')?;
    let is_weight = match part {
        "weight" => true,
        "bias" if matches!(format, MatrixFormat::Npy | MatrixFormat::MatrixMarket) => false,
        _ => return None,
    };
    (!layer.is_empty()).then_some((layer, is_weight))
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::error::{Kind, Kinded};

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_is_written_is_read() {
        let model = example();
        for (format, dense, bias, expected) in [
            (MatrixFormat::Npz, false, "npy", example()),
            (MatrixFormat::MatrixMarket, false, "mtx", example()),
            (MatrixFormat::MatrixMarket, true, "mtx", all_dense(&model)),
            (MatrixFormat::Npy, false, "npy", all_dense(&model)),
        ] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), &model, format, dense).unwrap();
            let extension = format.extension();
            let mut files = vec![];
            for layer in ["fc1", "fc2"] {
                files.extend([format!("{layer}.bias.{bias}"), format!("{layer}.weight.{extension}")]);
            }
            files.push("model.json".to_owned());
            assert_eq!(names(folder.path()), files);
            fs::write(folder.path().join(".hidden"), "").unwrap();
            assert_same(&read(folder.path(), None, 0).unwrap(), &expected);
        }
    }

    #[test]
    fn patterns_get_values_of_the_seed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &example(), MatrixFormat::Smtx, false).unwrap();
        assert_eq!(names(folder.path()), ["fc1.weight.smtx", "fc2.weight.smtx", "model.json"]);
        let [one, again, other] = [1, 1, 2].map(|seed| read(folder.path(), None, seed).unwrap());
        assert_same(&one, &again);
        assert_ne!(one, other);
        for (read, written) in one.layers.iter().zip(&example().layers) {
            assert_eq!((read.weight.shape(), read.weight.nnz()), (written.weight.shape(), written.weight.nnz()));
            assert!(read.bias.iter().all(|&bias| bias == 0.0));
        }
        assert!(matches!(one.layers[1].weight, crate::models::StoredWeight::Dense { .. }));
    }

    #[test]
    fn layers_are_in_the_order_of_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        for (name, weight) in [("x10", dense(1, 2, &[7.0; 2])), ("x9", sparse(2, 3, &[(0, 0)]))] {
            let path = folder.path().join(format!("{name}.weight.mtx"));
            let matrix = matrix_of(&layer(name, weight), MatrixFormat::MatrixMarket, false).unwrap();
            formats::write(&path, &matrix).unwrap();
        }
        let model = read(folder.path(), None, 0).unwrap();
        assert_eq!(model.name().to_string(), "3-2-1");
        assert_eq!((model.layers[0].name.as_str(), model.layers[1].weight.values()), ("fc1", &[7.0; 2][..]));
        formats::write_vector(&folder.path().join("x9.bias.npy"), &[1.0; 3]).unwrap();
        let message = read(folder.path(), None, 0).unwrap_err().to_string();
        let expected =
            "its layers do not fit together in the order x9, x10: layer x9: the number of biases is 3, expected 2";
        assert!(message.ends_with(expected), "{message}");
    }

    #[test]
    fn files_that_make_no_model_are_named() {
        for (files, part) in [
            (&["fc1.weight.npz", "README.md"][..], "\"README.md\" is not part of a model"),
            (&["fc1.npz"], "\"fc1.npz\" is not part"),
            (&[".npy", "weight.npy"], "\"weight.npy\" is not part"),
            (&["fc1.bias.npz"], "\"fc1.bias.npz\" is not part"),
            (&["fc1.weight.npz", "fc1.weight.mtx.gz"], "several files for fc1.weight"),
            (&["fc1.bias.npy", "fc1.bias.mtx"], "several files for fc1.bias"),
            (&["fc1.bias.npy"], "layer fc1 has a bias but no weight"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for file in files {
                fs::write(folder.path().join(file), "").unwrap();
            }
            let error = read(folder.path(), None, 0).unwrap_err();
            assert!(error.kind() == Kind::Usage && error.to_string().contains(part), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let error = read(folder.path(), None, 0).unwrap_err();
        assert!(error.kind() == Kind::Usage && error.to_string().contains("no model files in it"), "{error}");
        fs::write(folder.path().join("fc1.weight.npz"), "text").unwrap();
        let error = read(folder.path(), None, 0).unwrap_err();
        assert!(error.kind() != Kind::Usage && error.to_string().contains("fc1.weight.npz: "), "{error}");
    }

    #[test]
    fn names_do_not_lead_out_of_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("inside");
        fs::create_dir(&folder).unwrap();
        for name in ["../x", "/tmp/x", "a/b", "a\\b", "..", ".x", "", "a\0b", "c:x"] {
            let model = StoredModel { input: None, layers: vec![layer(name, sparse(1, 2, &[(0, 1)]))], parts: None };
            let error = write(&folder, &model, MatrixFormat::Npz, false).unwrap_err();
            assert!(matches!(error, ExchangeError::LayerName { .. }), "{error}");
        }
        assert_eq!((names(&folder), names(parent.path())), (vec![], vec!["inside".to_owned()]));
    }
}
