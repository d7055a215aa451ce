//! What can be imported.

use std::fs;
use std::path::{Path, PathBuf};

use super::layers::{NamedLayer, chain, check_finite, model_name, weight_of};
use super::pytorch::{self, NetworkOptions};
use super::{ExchangeError, folder};
use crate::formats::{self, MatrixFormat};
use crate::models::StoredModel;

/// Reads a model from one `.safetensors` file, one folder of matrix files, or matrix files from input to output. Its
/// layers are named `fc1`, `fc2`, …. `order` is that of the names in a file or folder, where sizes and numbers do not tell it;
/// the seed among the `options` is that of the values of patterns, and the other options are for a convolutional network.
///
/// # Errors
/// [`ExchangeError`] naming the file.
pub fn read_model(
    sources: &[PathBuf],
    order: Option<&[String]>,
    options: &NetworkOptions,
) -> Result<StoredModel, ExchangeError> {
    let mut matrices = 0;
    for path in sources {
        let kind = fs::metadata(path).map_err(|reason| ExchangeError::Io { path: path.clone(), reason })?;
        if !kind.is_dir() && !is_safetensors(path) {
            let wrong = |_| ExchangeError::Extension { path: path.clone(), out: false };
            MatrixFormat::of_source(path).map_err(wrong)?;
            matrices += 1;
        }
    }
    let seed = options.seed;
    let is_file = matches!(sources, [path] if is_safetensors(path) && !path.is_dir());
    if let (false, Some(option)) = (is_file, options.given()) {
        return Err(ExchangeError::NoEffect { option, needs: "a .safetensors file of a convolutional network" });
    }
    match sources {
        _ if matrices == sources.len() && order.is_some() => Err(ExchangeError::OrderOfMatrices),
        _ if matrices == sources.len() => read_matrices(sources, seed),
        [path] if is_safetensors(path) && !path.is_dir() => {
            let bytes = fs::read(path).map_err(|reason| ExchangeError::Io { path: path.clone(), reason })?;
            let wrong = |reason| ExchangeError::Tensors { path: path.clone(), reason: Box::new(reason) };
            pytorch::from_bytes_as(&bytes, order, options).map_err(wrong)
        }
        [path] => folder::read(path, order, seed),
        _ => Err(ExchangeError::Sources { count: sources.len() }),
    }
}

/// Whether a file of this name is read and written as safetensors.
pub(super) fn is_safetensors(path: &Path) -> bool {
    has_extension(path, "safetensors")
}

/// Whether a file's name ends like this, in whatever case.
pub(super) fn has_extension(path: &Path, expected: &str) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case(expected))
}

fn read_matrices(paths: &[PathBuf], seed: u64) -> Result<StoredModel, ExchangeError> {
    let read = |(index, path): (usize, &PathBuf)| {
        let name = path.display().to_string();
        let weight = weight_of(formats::read(path)?, &model_name(index), seed);
        let weight = weight.map_err(|reason| ExchangeError::Format { layer: name.clone(), reason })?;
        let layer = NamedLayer { name: model_name(index), weight, bias: None };
        let wrong = |reason| ExchangeError::NotFinite { path: path.clone(), reason };
        check_finite(std::slice::from_ref(&layer)).map_err(wrong)?;
        Ok(NamedLayer { name, ..layer })
    };
    let layers = paths.iter().enumerate().map(read).collect::<Result<_, ExchangeError>>()?;
    chain(layers).map_err(ExchangeError::Order)
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn seeded(seed: u64) -> NetworkOptions {
        NetworkOptions { seed, ..NetworkOptions::default() }
    }
    use crate::error::{Kind, Kinded};
    use crate::formats::Matrix;
    use crate::models::StoredWeight;

    #[test]
    fn matrix_files_become_layers_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let StoredWeight::Sparse(csr) = sparse(3, 5, &[(0, 1), (2, 4)]) else { panic!("it is sparse") };
        formats::write(&path("b.npz"), &Matrix::Sparse(csr.clone())).unwrap();
        formats::write(&path("a.npy"), &Matrix::Dense(formats::DenseMatrix::new(2, 3, vec![0.0; 6]).unwrap())).unwrap();
        let pattern = sparse_kernels::CsrPattern::from_positions(4, 2, vec![(3, 1)]).unwrap();
        formats::write(&path("c.smtx"), &Matrix::Pattern(pattern)).unwrap();
        let model = read_model(&[path("b.npz"), path("a.npy"), path("c.smtx")], None, &seeded(3)).unwrap();
        assert_eq!(model.name().to_string(), "5-3-2-4");
        assert_eq!(model.layers[0].weight, StoredWeight::Sparse(csr));
        assert_eq!(model.layers[1].weight, dense(2, 3, &[0.0; 6]));
        assert_eq!((model.layers[2].weight.nnz(), model.layers[2].name.as_str()), (1, "fc3"));
        assert!(model.layers.iter().all(|layer| layer.bias.iter().all(|&bias| bias == 0.0)));

        formats::write(&path("nan.npy"), &Matrix::Dense(formats::DenseMatrix::new(1, 2, vec![1.0, f32::NAN]).unwrap()))
            .unwrap();
        let error = read_model(&[path("nan.npy")], None, &seeded(0)).unwrap_err();
        let message = error.to_string();
        assert!(error.kind() == Kind::Failure && message.contains("nan.npy: layer fc1: the weight at row 0, column 1"));
        let error = read_model(&[path("b.npz")], Some(&["b".to_owned()]), &seeded(0)).unwrap_err();
        assert!(error.kind() == Kind::Usage && error.to_string().starts_with("--order: matrix files are"), "{error}");
        let error = read_model(&[path("a.npy"), path("b.npz")], None, &seeded(0)).unwrap_err();
        let message = error.to_string();
        assert!(
            error.kind() == Kind::Usage && message.contains("b.npz: the number of inputs is 5, expected 2"),
            "{message}"
        );
        assert!(message.ends_with("in order from input to output, each a matrix [outputs, inputs]"), "{message}");
    }

    #[test]
    fn sources_that_do_not_go_together_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["a.npz", "a.safetensors", "b.safetensors", "model.pt"] {
            fs::write(path(name), "text").unwrap();
        }
        fs::create_dir(path("sub")).unwrap();
        fs::create_dir(path("sub.npz")).unwrap();
        let error = |names: &[&str]| {
            let sources: Vec<_> = names.iter().map(|name| path(name)).collect();
            let error = read_model(&sources, None, &seeded(0)).unwrap_err();
            (error.kind() == Kind::Usage, error.to_string())
        };
        for names in
            [&["a.npz", "a.safetensors"][..], &["a.safetensors", "b.safetensors"], &["sub", "a.npz"], &["sub", "sub"]]
        {
            let (usage, message) = error(names);
            assert!(usage && message.contains("pass one .safetensors file, one folder"), "{names:?}: {message}");
        }
        for (names, usage, part) in [
            (&["none.npz"][..], true, "No such file"),
            (&["none"], true, "No such file"),
            (&["model.pt"], true, "safetensors.torch.save_file"),
            (&["a.npz", "model.pt"], true, "must be .safetensors, .npz, .mtx, .smtx or .npy"),
            (&["a.npz"], false, "a.npz: "),
            (&["a.safetensors"], false, "a.safetensors: not a safetensors file: "),
            // A folder is one, whatever its name.
            (&["sub.npz"], true, "no model files in it"),
        ] {
            let (got, message) = error(names);
            assert!(got == usage && message.contains(part), "{names:?}: {message}");
        }
    }
}
