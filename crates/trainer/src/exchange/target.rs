//! Where an export goes.

use std::fs;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::layers::matrix_of;
use super::source::{has_extension, is_safetensors};
use super::{ExchangeError, folder, onnx, pytorch};
use crate::atomic_file::write_atomic;
use crate::formats::{self, MatrixFormat};
use crate::models::{StoredLayer, StoredModel};

/// Formats of other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExchangeFormat {
    /// Named tensors, with PyTorch's names.
    Safetensors,
    /// A whole network for onnxruntime, dense, with the normalisation of its inputs.
    Onnx,
    /// SciPy's sparse matrices.
    Npz,
    /// Matrix Market.
    Mtx,
    /// Patterns of the Deep Learning Matrix Collection.
    Smtx,
    /// NumPy's arrays, dense.
    Npy,
}

impl ExchangeFormat {
    /// Of the file's name.
    fn of(path: &Path) -> Option<Self> {
        if is_safetensors(path) {
            return Some(Self::Safetensors);
        }
        if has_extension(path, "onnx") {
            return Some(Self::Onnx);
        }
        MatrixFormat::from_path(path).ok().map(|format| match format {
            MatrixFormat::Npz => Self::Npz,
            MatrixFormat::MatrixMarket => Self::Mtx,
            MatrixFormat::Smtx => Self::Smtx,
            MatrixFormat::Npy => Self::Npy,
        })
    }

    /// Of those whose files hold one matrix.
    fn matrix(self) -> Option<MatrixFormat> {
        match self {
            Self::Safetensors | Self::Onnx => None,
            Self::Npz => Some(MatrixFormat::Npz),
            Self::Mtx => Some(MatrixFormat::MatrixMarket),
            Self::Smtx => Some(MatrixFormat::Smtx),
            Self::Npy => Some(MatrixFormat::Npy),
        }
    }

    /// Its name, and its files' extension.
    fn name(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::Onnx => "onnx",
            Self::Npz => "npz",
            Self::Mtx => "mtx",
            Self::Smtx => "smtx",
            Self::Npy => "npy",
        }
    }
}

/// What to write and where, found possible as far as that can be known without the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    path: PathBuf,
    format: ExchangeFormat,
    layer: Option<String>,
    dense: bool,
}

impl Target {
    /// `format` by the extension if it is not given; with `layer`, its weight alone; with `dense`, whole matrices. A whole
    /// model in a matrix format is a folder of files, made by [`Self::write`].
    ///
    /// An existing file will be replaced. A folder must be empty or not there.
    ///
    /// # Errors
    /// [`ExchangeError`] if these do not go together, or something is in the way.
    pub fn new(
        path: &Path,
        format: Option<ExchangeFormat>,
        layer: Option<&str>,
        dense: bool,
    ) -> Result<Self, ExchangeError> {
        let by_extension = ExchangeFormat::of(path);
        let Some(format) = format.or(by_extension) else {
            return Err(ExchangeError::Extension { path: path.to_owned(), out: true });
        };
        if let (ExchangeFormat::Npz | ExchangeFormat::Smtx, true) = (format, dense) {
            return Err(ExchangeError::NoDense { extension: format.name() });
        }
        if let (ExchangeFormat::Onnx, Some(layer)) = (format, layer) {
            return Err(ExchangeError::NoLayer { layer: layer.to_owned() });
        }
        let is_other = by_extension.is_some_and(|other| other != format);
        let other = || Err(ExchangeError::OtherExtension { path: path.to_owned(), expected: format.name() });
        match format.matrix() {
            None if is_other => return other(),
            Some(_) if layer.is_some() && by_extension != Some(format) => return other(),
            Some(_) if layer.is_none() && by_extension.is_some() => {
                return Err(ExchangeError::OneMatrix { path: path.to_owned(), extension: format.name() });
            }
            _ => {}
        }
        let target = Self { path: path.to_owned(), format, layer: layer.map(str::to_owned), dense };
        if target.is_folder() {
            check_empty(path)?;
        } else if path.is_dir() {
            return Err(ExchangeError::NotFile { path: path.to_owned() });
        }
        Ok(target)
    }

    /// The name of its format.
    pub fn format(&self) -> &'static str {
        self.format.name()
    }

    fn is_folder(&self) -> bool {
        self.format.matrix().is_some() && self.layer.is_none()
    }

    /// The layers of a model that go there.
    ///
    /// # Errors
    /// [`ExchangeError::Layer`] if the model does not have the one asked for.
    pub fn layers<'m>(&self, model: &'m StoredModel) -> Result<&'m [StoredLayer], ExchangeError> {
        let Some(name) = &self.layer else { return Ok(&model.layers) };
        let index = model.layers.iter().position(|layer| layer.name == *name).ok_or_else(|| {
            let layers = model.layers.iter().map(|layer| layer.name.as_str()).collect::<Vec<_>>().join(", ");
            ExchangeError::Layer { name: name.clone(), layers }
        })?;
        Ok(&model.layers[index..=index])
    }

    /// Writes the model, or the layer of it. Each file is the old or the new one at any moment.
    ///
    /// # Errors
    /// [`ExchangeError`] naming the layer or file.
    pub fn write(&self, model: &StoredModel) -> Result<(), ExchangeError> {
        let io = |reason| ExchangeError::Io { path: self.path.clone(), reason };
        let layer = match self.layers(model)? {
            [layer] if self.layer.is_some() => Some(layer),
            _ => None,
        };
        let bytes = match (self.format, self.format.matrix(), layer) {
            (_, Some(format), Some(layer)) => {
                return Ok(formats::write(&self.path, &matrix_of(layer, format, self.dense)?)?);
            }
            (_, Some(format), None) => {
                fs::create_dir_all(&self.path).map_err(io)?;
                return folder::write(&self.path, model, format, self.dense);
            }
            (ExchangeFormat::Onnx, None, _) => onnx::to_bytes(model)?,
            (_, None, Some(layer)) => pytorch::weight_to_bytes(layer, self.dense)?,
            (_, None, None) => pytorch::to_bytes(model, self.dense)?,
        };
        write_atomic(&self.path, &bytes).map_err(io)
    }
}

/// Refuses to write where something is read.
///
/// # Errors
/// [`ExchangeError::OverSource`] if `path` is one of the `sources`.
pub fn check_not_read(path: &Path, sources: &[PathBuf]) -> Result<(), ExchangeError> {
    let same = |source: &PathBuf| match (path.canonicalize(), source.canonicalize()) {
        (Ok(path), Ok(source)) => path == source,
        _ => false,
    };
    if sources.iter().any(same) { Err(ExchangeError::OverSource { path: path.to_owned() }) } else { Ok(()) }
}

/// Refuses a path for a model file that is a folder, is named like a matrix file, or is one of the `sources`.
///
/// # Errors
/// [`ExchangeError`] saying which.
pub fn check_out(path: &Path, sources: &[PathBuf]) -> Result<(), ExchangeError> {
    check_not_read(path, sources)?;
    if MatrixFormat::from_path(path).is_ok() {
        return Err(ExchangeError::OtherExtension { path: path.to_owned(), expected: "safetensors" });
    }
    if path.is_dir() {
        return Err(ExchangeError::NotFile { path: path.to_owned() });
    }
    Ok(())
}

fn check_empty(path: &Path) -> Result<(), ExchangeError> {
    if !path.exists() {
        return Ok(());
    }
    match fs::read_dir(path).map(|mut entries| entries.next()) {
        Ok(None) => Ok(()),
        _ => Err(ExchangeError::NotEmpty { path: path.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::error::{Kind, Kinded};
    use crate::formats::Matrix;
    use ExchangeFormat::*;

    #[test]
    fn the_format_is_told_or_follows_the_extension() {
        let target = |path: &str, format, layer| Target::new(path.as_ref(), format, layer, false).unwrap();
        for (path, format, layer, expected, folder) in [
            ("a.safetensors", None, None, "safetensors", false),
            ("a.SafeTensors", None, Some("fc1"), "safetensors", false),
            ("a.bin", Some(Safetensors), None, "safetensors", false),
            ("a.ONNX", None, None, "onnx", false),
            ("a.bin", Some(Onnx), None, "onnx", false),
            ("a.npz", None, Some("fc1"), "npz", false),
            ("a.MTX", Some(Mtx), Some("fc1"), "mtx", false),
            ("a", Some(Smtx), None, "smtx", true),
            ("a.d", Some(Npy), None, "npy", true),
        ] {
            let target = target(path, format, layer);
            assert_eq!((target.format(), target.is_folder()), (expected, folder), "{path}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken.npz");
        fs::create_dir(&taken).unwrap();
        fs::write(taken.join("file"), "").unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let path = |name: &'static str| PathBuf::from(name);
        for (path, format, layer, dense, part) in [
            (path("a"), None, None, false, "or add --format"),
            (path("a.npz"), None, None, false, "a .npz file holds one matrix; choose it with --layer"),
            (path("a.npz"), Some(Npz), None, false, "--format npz --out FOLDER"),
            (path("a.safetensors"), Some(Mtx), None, false, "--format mtx --out FOLDER"),
            (path("a.npz"), Some(Safetensors), None, false, "it must be .safetensors"),
            (path("a.onnx"), Some(Safetensors), None, false, "it must be .safetensors"),
            (path("a.safetensors"), Some(Onnx), None, false, "it must be .onnx"),
            (path("a.onnx"), Some(Npz), None, false, "--format npz --out FOLDER"),
            (path("a.onnx"), None, Some("fc1"), false, "an ONNX file holds a whole network; leave out --layer fc1"),
            (path("a.mtx"), Some(Npz), Some("fc1"), false, "it must be .npz"),
            (path("a"), Some(Npz), Some("fc1"), false, "it must be .npz"),
            (path("a.npz"), None, Some("fc1"), true, ".npz files hold only stored entries"),
            (path("a"), Some(Smtx), None, true, ".smtx files hold only stored entries"),
            (taken.clone(), None, Some("fc1"), false, "is a folder; give the name"),
            (folder.path().to_owned(), Some(Safetensors), None, false, "is a folder; give the name"),
            (folder.path().to_owned(), Some(Npz), None, false, "is not an empty folder"),
            (file.clone(), Some(Npz), None, false, "is not an empty folder"),
        ] {
            let error = Target::new(&path, format, layer, dense).unwrap_err();
            assert!(error.kind() == Kind::Usage && error.to_string().contains(part), "{}: {error}", path.display());
        }
        let model_file = |path: &Path| check_out(path, std::slice::from_ref(&file)).map_err(|error| error.to_string());
        assert!(
            model_file(&folder.path().join("../").join(folder.path().file_name().unwrap()).join("file"))
                .unwrap_err()
                .contains("is the input and would be overwritten")
        );
        assert!(model_file(&taken).unwrap_err().contains("it must be .safetensors"));
        assert!(model_file(folder.path()).unwrap_err().contains("is a folder; give the name"));
        assert_eq!(model_file(&folder.path().join("new")), Ok(()));
    }

    #[test]
    fn a_layer_that_is_not_there_is_named_with_those_that_are() {
        let model = example();
        let target = Target::new("a.npz".as_ref(), None, Some("fc3"), false).unwrap();
        assert_eq!(target.layers(&model).unwrap_err().to_string(), "unknown layer \"fc3\"; choose one of fc1, fc2");
        assert!(target.write(&model).unwrap_err().kind() == Kind::Usage);
        let target = Target::new("a.npz".as_ref(), None, Some("fc2"), false).unwrap();
        assert_eq!(target.layers(&model).unwrap(), &model.layers[1..]);
    }

    #[test]
    fn every_format_holds_every_layer() {
        let model = example();
        let [sparse, dense] = [0, 1].map(|i| &model.layers[i]);
        for (format, asked, kinds) in [
            (MatrixFormat::Npz, false, ["sparse", "sparse"]),
            (MatrixFormat::Smtx, false, ["sparse", "sparse"]),
            (MatrixFormat::MatrixMarket, false, ["sparse", "dense"]),
            (MatrixFormat::MatrixMarket, true, ["dense", "dense"]),
            (MatrixFormat::Npy, false, ["dense", "dense"]),
        ] {
            for (layer, kind) in [sparse, dense].into_iter().zip(kinds) {
                let (matrix, values) = match matrix_of(layer, format, asked).unwrap() {
                    Matrix::Sparse(csr) => ("sparse", csr.to_dense()),
                    Matrix::Dense(dense) => ("dense", dense.into_values()),
                    Matrix::Pattern(_) => ("pattern", vec![]),
                };
                assert_eq!((matrix, values), (kind, layer.weight.to_dense()), "{format}");
            }
        }
    }

    #[test]
    fn files_are_replaced_and_folders_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        fs::write(&path, "old").unwrap();
        Target::new(&path, None, None, false).unwrap().write(&example()).unwrap();
        assert_same(&pytorch::from_bytes(&fs::read(&path).unwrap()).unwrap(), &example());
        let path = folder.path().join("a/b");
        Target::new(&path, Some(Npz), None, false).unwrap().write(&example()).unwrap();
        assert_same(&folder::read(&path, None, 0).unwrap(), &example());
        let target = Target::new(&folder.path().join("none/model.safetensors"), None, None, false).unwrap();
        let error = target.write(&example()).unwrap_err();
        assert!(error.kind() == Kind::Usage, "{error}");
    }
}
