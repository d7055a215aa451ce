//! Names of classes, by which data is brought to the numbers that a model was trained with.

use std::ffi::OsString;
use std::sync::Arc;

use super::dataset::{Dataset, Inputs, Split};
use super::error::DataError;
use super::targets::Targets;

impl Dataset {
    /// The names of its classes, in the order of their numbers, if the data names them: those of class folders.
    pub fn class_names(&self) -> Option<Vec<String>> {
        match &self.train.inputs {
            Inputs::Bytes(_) | Inputs::Floats(_) | Inputs::Text(_) | Inputs::Lists(_) => self.class_names.clone(),
            Inputs::Files(files) => {
                Some(files.classes.iter().map(|name| name.to_string_lossy().into_owned()).collect())
            }
        }
    }

    /// Numbers the classes as a model does, whose outputs have these names; returns those that the data does not have. Data
    /// without names stays as it is.
    ///
    /// # Errors
    /// [`DataError::ClassNames`] if the data has a class that the model does not know.
    pub fn number_classes(&mut self, names: &[String]) -> Result<Vec<String>, DataError> {
        let Some(found) = self.class_names() else { return Ok(Vec::new()) };
        if found == names {
            return Ok(Vec::new());
        }
        let number = |class: &String| names.iter().position(|name| name == class).map(|at| at as u32);
        let missing: Vec<String> = names.iter().filter(|name| !found.contains(name)).cloned().collect();
        let Some(numbers) = found.iter().map(number).collect::<Option<Vec<u32>>>() else {
            let new = found.into_iter().filter(|class| !names.contains(class)).collect();
            return Err(DataError::ClassNames { new, missing });
        };
        let classes: Arc<[OsString]> = names.iter().map(OsString::from).collect();
        let validation = self.validation.iter_mut();
        for split in [&mut self.train, &mut self.test].into_iter().chain(validation) {
            let Split { inputs, targets, .. } = Arc::make_mut(split);
            if let Targets::Classes(labels) = targets {
                labels.iter_mut().for_each(|label| *label = numbers[*label as usize]);
            }
            if let Inputs::Files(files) = inputs {
                files.classes = classes.clone();
            }
        }
        self.classes = names.len();
        self.class_names = self.class_names.as_ref().map(|_| names.to_vec());
        Ok(missing)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{IMAGE_FOLDER, load, load_sized};
    use super::*;
    use crate::data::picture::testing::png;
    use std::fs;
    use std::path::Path;

    /// One picture in each class, in both parts.
    fn pictures(folder: &Path, classes: &[&str]) -> Dataset {
        for part in ["train", "val"] {
            for class in classes {
                let class = folder.join(part).join(class);
                fs::create_dir_all(&class).unwrap();
                fs::write(class.join("0.png"), png([4, 4], |_, _| [1, 2, 3])).unwrap();
            }
        }
        load_sized(IMAGE_FOLDER, Some(folder), 4).unwrap()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn classes_get_the_numbers_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        let mut data = pictures(folder.path(), &["ant", "bee", "cat"]);
        assert_eq!(data.class_names(), Some(names(&["ant", "bee", "cat"])));
        let files: Vec<_> = data.test.files().collect();
        let missing = data.number_classes(&names(&["cat", "dog", "ant", "bee"])).unwrap();
        assert_eq!(missing, ["dog"]);
        assert_eq!((data.classes, data.test.labels()), (4, &[2, 3, 0][..]));
        assert_eq!(data.train.labels(), [2, 3, 0]);
        assert_eq!(data.test.files().collect::<Vec<_>>(), files);

        let error = data.number_classes(&names(&["cat", "ant", "dog", "b"])).unwrap_err().to_string();
        assert!(error.contains("not trained on: \"bee\"") && error.contains("missing from the data: \"b\""), "{error}");
    }

    #[test]
    fn data_without_names_stays_as_it_is() {
        let mut data = load("fashion-mnist-mini", None).unwrap();
        let before = data.sha256();
        assert_eq!((data.class_names(), data.number_classes(&names(&["a"])).unwrap().len()), (None, 0));
        assert_eq!((data.classes, data.sha256()), (10, before));
    }
}
