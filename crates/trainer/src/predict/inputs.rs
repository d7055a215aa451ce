//! Inputs to be predicted: pictures, folders of pictures, tables and arrays.

use std::path::{Path, PathBuf};

use crate::data::image_folder::pictures_in;
use crate::data::table::{TableColumns, is_table, read_inputs};
use crate::data::{Cut, DataError, InputMaker, Inputs, KnownSet, LoaderError, PictureError, PictureReader};
use crate::error::{Kind, Kinded};
use crate::models::{Architecture, ModelInput, ValueShape};
use crate::report::dimensions;

/// Why an input cannot be predicted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// The file is no input.
    #[error("{}: cannot be an input; give pictures (.jpg, .jpeg, .png), folders of pictures, tables (.csv, .tsv) or arrays (.npy, .npz, .safetensors)", file.display())]
    Kind {
        /// The file.
        file: PathBuf,
    },
    /// The folder has no picture.
    #[error("{}: there is no picture (.jpg, .jpeg, .png) in this folder", folder.display())]
    NoPictures {
        /// The folder.
        folder: PathBuf,
    },
    /// The model does not read pictures.
    #[error("{}: is a picture; the model reads {expected}", file.display())]
    Picture {
        /// The file.
        file: PathBuf,
        /// What the model reads.
        expected: String,
    },
    /// The picture cannot be read.
    #[error("{}: {source}", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: PictureError,
    },
    /// Samples of another shape.
    #[error("{}: has samples of {got}; the model reads {expected}", file.display())]
    Shape {
        /// The file.
        file: PathBuf,
        /// Their shape.
        got: String,
        /// The model's.
        expected: String,
    },
    /// The file cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The inputs do not fit the normalisation.
    #[error(transparent)]
    Loader(#[from] LoaderError),
}

impl Kinded for PredictError {
    fn kind(&self) -> Kind {
        match self {
            Self::Broken { .. } => Kind::Failure,
            Self::Data(error) => error.kind(),
            _ => Kind::Usage,
        }
    }
}

/// What a model reads.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// Channels, height and width of a picture; of features, `[1, 1, features]`.
    pub shape: [usize; 3],
    /// Whether pictures of other sizes are cut to their middle, as the pictures of folders are.
    is_cut: bool,
    columns: Option<TableColumns>,
}

impl Expected {
    /// What the model of this architecture reads.
    pub fn of(architecture: &Architecture, input: &ModelInput) -> Self {
        let shape = match (architecture.graph.values[0], KnownSet::named(&input.data)) {
            (ValueShape::Image { channels, size: [height, width] }, _) => [channels, height, width],
            (ValueShape::Features(features), Ok(set)) if set.shape.iter().product::<usize>() == features => set.shape,
            (ValueShape::Features(features), _) => match (input.image_size, input.input_shape) {
                (Some(side), _) if 3 * side * side == features => [3, side, side],
                (_, Some(shape)) if shape.iter().product::<usize>() == features => shape,
                _ => [1, 1, features],
            },
            (ValueShape::List(features), _) => [1, 1, features],
            (ValueShape::Token(_), _) => [1, 1, 1],
        };
        Self { shape, is_cut: input.image_size.is_some(), columns: input.table.clone() }
    }

    /// The side of the pictures that it reads; none if it reads none.
    fn side(&self) -> Option<usize> {
        match self.shape {
            [1 | 3, height, width] if height == width && height > 1 && self.columns.is_none() => Some(height),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match (&self.columns, self.shape) {
            (Some(columns), _) => format!("tables with {} columns", columns.features.len()),
            (None, [1, 1, features]) => format!("{features} features"),
            (None, shape) => format!("samples of {}", dimensions(&shape)),
        }
    }
}

/// Inputs from one place.
#[derive(Debug)]
pub enum InputSource {
    /// Pictures, read when their turn comes.
    Pictures(Vec<PathBuf>),
    /// Numbers in memory.
    Numbers {
        /// The file.
        file: PathBuf,
        /// How many samples.
        samples: usize,
        /// `[sample][value]`.
        values: Vec<f32>,
    },
}

impl InputSource {
    /// What is in a file or folder.
    ///
    /// # Errors
    /// [`PredictError`] if that is no input for the model.
    pub fn open(path: &Path, expected: &Expected) -> Result<Self, PredictError> {
        if path.is_dir() {
            let pictures = pictures_in(path)?;
            return match pictures.is_empty() {
                true => Err(PredictError::NoPictures { folder: path.to_owned() }),
                false => Self::of_pictures(pictures, expected),
            };
        }
        if is_table(path) {
            let (shape, values) = read_inputs(path, expected.columns.as_ref())?;
            let size: usize = shape.iter().product();
            let is_flat = |shape: [usize; 3]| shape[0] == 1 && shape[1] == 1;
            // A flat row may stand for a picture, and the other way round.
            let fits = shape == expected.shape
                || (is_flat(shape) || is_flat(expected.shape)) && size == expected.shape.iter().product::<usize>();
            if !fits {
                let [got, expected] = [shape, expected.shape].map(|shape| match is_flat(shape) {
                    true => format!("{} features", shape[2]),
                    false => dimensions(&shape),
                });
                return Err(PredictError::Shape { file: path.to_owned(), got, expected });
            }
            let most = values.iter().fold(0f32, |most, value| most.max(value.abs()));
            if expected.side().is_some() && most > 16.0 {
                let file = path.display();
                tracing::warn!("{file}: has values up to {most}; a model of pictures reads brightnesses from 0 to 1");
            }
            return Ok(Self::Numbers { file: path.to_owned(), samples: values.len() / size, values });
        }
        let extension = path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase);
        match extension.as_deref() {
            Some("jpg" | "jpeg" | "png") => Self::of_pictures(vec![path.to_owned()], expected),
            _ if !path.exists() => {
                let source = std::io::Error::from(std::io::ErrorKind::NotFound);
                Err(DataError::Io { file: path.to_owned(), source }.into())
            }
            _ => Err(PredictError::Kind { file: path.to_owned() }),
        }
    }

    fn of_pictures(pictures: Vec<PathBuf>, expected: &Expected) -> Result<Self, PredictError> {
        match expected.side() {
            Some(_) => Ok(Self::Pictures(pictures)),
            None => Err(PredictError::Picture { file: pictures[0].clone(), expected: expected.text() }),
        }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Pictures(files) => files.len(),
            Self::Numbers { samples, .. } => *samples,
        }
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name of a sample: its file, and of a table its row, from 1.
    pub fn name(&self, sample: usize) -> String {
        match self {
            Self::Pictures(files) => files[sample].display().to_string(),
            Self::Numbers { file, .. } => format!("{}:{}", file.display(), sample + 1),
        }
    }

    /// Some samples, ready to become inputs.
    ///
    /// # Errors
    /// [`PredictError`] if a picture cannot be read, or the samples do not fit the normalisation.
    pub fn read(
        &self,
        range: std::ops::Range<usize>,
        expected: &Expected,
        input: &ModelInput,
    ) -> Result<InputMaker, PredictError> {
        let inputs = match self {
            Self::Numbers { samples, values, .. } => {
                let size = values.len() / samples;
                Inputs::Floats(values[range.start * size..range.end * size].to_vec())
            }
            Self::Pictures(files) => Inputs::Bytes(pictures(&files[range], expected)?),
        };
        Ok(InputMaker::new(inputs, expected.shape, &input.normalization)?)
    }
}

/// The bytes of pictures, `[sample][channel][row][pixel]`.
fn pictures(files: &[PathBuf], expected: &Expected) -> Result<Vec<u8>, PredictError> {
    let [channels, side, _] = expected.shape;
    let plane = side * side;
    let mut reader = PictureReader::new(side);
    let (mut picture, mut bytes) = (vec![0; 3 * plane], Vec::with_capacity(files.len() * channels * plane));
    for file in files {
        let cut = |size: [usize; 2]| match expected.is_cut {
            true => Cut::middle(size, side),
            false => Cut::whole(size),
        };
        reader.read(file, cut, &mut picture).map_err(|source| PredictError::Broken { file: file.clone(), source })?;
        match channels {
            1 => {
                let (red, rest) = picture.split_at(plane);
                let (green, blue) = rest.split_at(plane);
                // The weights of ITU-R BT.601, as in Pillow's `convert("L")`.
                let grey = |((&r, &g), &b): ((&u8, &u8), &u8)| {
                    ((u32::from(r) * 19_595 + u32::from(g) * 38_470 + u32::from(b) * 7_471 + 0x8000) >> 16) as u8
                };
                bytes.extend(red.iter().zip(green).zip(blue).map(grey));
            }
            _ => bytes.extend_from_slice(&picture),
        }
    }
    Ok(bytes)
}
