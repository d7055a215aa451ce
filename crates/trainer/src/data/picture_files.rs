//! The pictures of a split that are files, read when they are needed.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

use super::error::DataError;
use super::picture::{Cut, PictureError, PictureReader};

/// The pictures of a split.
#[derive(Debug, Clone)]
pub struct PictureFiles {
    /// Where the class folders are, or the pictures themselves.
    pub(super) folder: PathBuf,
    pub(super) classes: Arc<[OsString]>,
    /// Whether each class has a folder.
    pub(super) in_class_folders: bool,
    /// Of each sample, with the subfolders of the class folder that it is in, as `sub/name`.
    pub(super) names: Vec<Box<OsStr>>,
    pub(super) sizes_bytes: Vec<u64>,
    /// The samples that could not be read, and why.
    pub(super) corrupt: Arc<Mutex<BTreeMap<u32, Arc<PictureError>>>>,
}

impl PartialEq for PictureFiles {
    fn eq(&self, other: &Self) -> bool {
        self.folder == other.folder && self.names == other.names && self.sizes_bytes == other.sizes_bytes
    }
}

impl PictureFiles {
    /// Number of pictures.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The file of a sample with this label.
    pub fn path(&self, sample: u32, label: u32) -> PathBuf {
        let mut path = self.folder.clone();
        if self.in_class_folders {
            path.push(&self.classes[label as usize]);
        }
        path.push(&*self.names[sample as usize]);
        path
    }

    pub(super) fn select(&self, samples: &[usize]) -> Self {
        Self {
            folder: self.folder.clone(),
            classes: self.classes.clone(),
            in_class_folders: self.in_class_folders,
            names: samples.iter().map(|&s| self.names[s].clone()).collect(),
            sizes_bytes: samples.iter().map(|&s| self.sizes_bytes[s]).collect(),
            corrupt: Arc::default(),
        }
    }

    /// Adds class, name and size of each picture.
    pub(super) fn digest(&self, labels: &[u32], sum: &mut Sha256) {
        for ((name, size), &label) in self.names.iter().zip(&self.sizes_bytes).zip(labels) {
            sum.update(self.classes[label as usize].as_encoded_bytes());
            sum.update(b"/");
            sum.update(name.as_encoded_bytes());
            sum.update(b"\0");
            sum.update(size.to_le_bytes());
        }
    }

    /// Reads a picture; whether it could be read. Of one that could not, the reason is told once, and it is not tried
    /// again.
    pub(super) fn read(
        &self,
        reader: &mut PictureReader,
        [sample, label]: [u32; 2],
        cut: impl FnOnce([usize; 2]) -> Cut,
        to: &mut [u8],
    ) -> bool {
        if self.corrupt().contains_key(&sample) {
            return false;
        }
        let path = self.path(sample, label);
        match reader.read(&path, cut, to) {
            Ok(()) => true,
            Err(error) => {
                let told = format!("{}: {error}; the next picture takes its place", path.display());
                if self.corrupt().insert(sample, Arc::new(error)).is_none() {
                    tracing::warn!("{told}");
                }
                false
            }
        }
    }

    /// The error of a split without a readable picture, which names the first one. Every thread of a loader may ask for it.
    pub(super) fn none_readable(&self, labels: &[u32]) -> DataError {
        let first = self.corrupt().first_key_value().map(|(&sample, error)| (sample, error.clone()));
        let (sample, source) = first.unwrap_or((0, Arc::new(PictureError::Decoder)));
        let label = labels.get(sample as usize).copied().unwrap_or_default();
        DataError::Pictures { pictures: self.len(), file: self.path(sample, label), source }
    }

    fn corrupt(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<PictureError>>> {
        self.corrupt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
