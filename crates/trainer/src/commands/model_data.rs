//! The data for a model that has been trained: as the model saw it.

use std::path::{Path, PathBuf};

use crate::data::image_folder::DEFAULT_IMAGE_SIZE;
use crate::data::svmlight::SVMLIGHT;
use crate::data::table::TABLE;
use crate::data::text::TEXT;
use crate::data::{self, Dataset};
use crate::models::ModelInput;
use crate::run_dir::{data_dir_for, run_config};
use crate::settings::DATA_IN_FOLDERS;
use crate::settings::error::ConfigError;

/// Where the data of a model is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// The run folder or model file.
    pub model: &'a Path,
    /// The name of the data set.
    pub name: &'a str,
    /// The folder that was given.
    pub data_dir: Option<&'a Path>,
    /// The table that was given, all rows of which are the test set.
    pub table: Option<&'a Path>,
    /// The file of lists that was given, which is the test set.
    pub svmlight: Option<&'a Path>,
    /// Files of a text that were given, which are the test text.
    pub text: &'a [PathBuf],
    /// Symbols of a window, of a model of text.
    pub sequence_length: Option<usize>,
}

/// The data set, with the columns, classes and scales that the model was trained with.
///
/// # Errors
/// If it is unavailable, or has classes that the model does not know.
pub(super) fn load(source: Source<'_>, trained_on: Option<&ModelInput>) -> crate::Result<Dataset> {
    let Source { model, name, data_dir, table, svmlight, text, sequence_length } = source;
    if data_dir.is_some() && !data::is_in_folder(name) {
        return Err(ConfigError::NoEffect { option: "data-dir", needs: DATA_IN_FOLDERS }.into());
    }
    if table.is_some() && name != TABLE {
        return Err(ConfigError::NoEffect { option: "table", needs: "a model that was trained on a table" }.into());
    }
    if svmlight.is_some() && name != SVMLIGHT {
        return Err(
            ConfigError::NoEffect { option: "svmlight", needs: "a model that was trained on such a file" }.into()
        );
    }
    if !text.is_empty() && name != TEXT {
        return Err(ConfigError::NoEffect { option: "text", needs: "a model that was trained on a text" }.into());
    }
    let mut config = run_config(model).unwrap_or_default();
    config.data = name.to_owned();
    config.loss = trained_on.map_or(config.loss, |input| input.loss);
    config.data_dir = if !data::is_in_folder(name) { None } else { data_dir_for(data_dir, model) };
    config.image_size = trained_on.and_then(|input| input.image_size).unwrap_or(DEFAULT_IMAGE_SIZE);
    if let Some(table) = table {
        config.table = Some(table.to_owned());
        config.test_table.clone_from(&config.table);
    }
    let mut is_test_alone = false;
    if let Some(file) = svmlight {
        // How much a label counts is what the run's training set says, if that is still there.
        is_test_alone = config.svmlight.as_ref().is_none_or(|samples| !samples.exists());
        if is_test_alone {
            tracing::warn!("the run's training set is not there: propensity-scored measures are left out");
            config.svmlight = Some(file.to_owned());
        }
        config.svmlight_test = Some(file.to_owned());
    }
    config.sequence_length = sequence_length;
    if !text.is_empty() {
        config.text = text.to_vec();
        config.text_valid.clear();
        config.text_test.clone_from(&config.text);
    }
    let mut data = config.load_data(trained_on)?;
    if is_test_alone {
        data.train = data.test.clone();
    }
    match trained_on.and_then(|input| input.class_names.as_deref()) {
        Some(names) => {
            let missing = data.number_classes(names)?;
            if !missing.is_empty() {
                tracing::warn!("{} lacks {} of the model's {} classes", data.name, missing.len(), names.len());
            }
        }
        None if data.is_files() => {
            tracing::warn!(
                "the model file has no class names; assuming the classes of {} in alphabetical order",
                data.name
            );
        }
        None => {}
    }
    if let Some(scale) = trained_on.and_then(|input| input.target_scale.as_ref()) {
        data.scale_targets(Some(scale));
    }
    Ok(data)
}
