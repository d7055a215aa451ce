//! What an exported model says of itself, in the metadata of every format.

use serde::{Deserialize, Serialize};

use crate::models::{ModelInput, ModelName, ModelSpec, StoredModel};

/// What another program must know to use a model: in safetensors files JSON under the key [`Self::KEY`] of the metadata, in
/// ONNX files the same, in folders the file [`Self::FILE`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Description {
    /// The network's name.
    pub name: ModelName,
    /// What a convolutional network is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ModelSpec>,
    /// Stored weights.
    pub nnz: usize,
    /// Their share of all positions.
    pub density: f64,
    /// What its inputs are made from, where that is known: data set, normalisation, size of pictures, names of classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<ModelInput>,
}

impl Description {
    /// Where a file's metadata has it.
    pub const KEY: &str = "model";
    /// Where a folder has it.
    pub const FILE: &str = "model.json";

    /// Of a model.
    pub fn of(model: &StoredModel) -> Self {
        Self {
            name: model.name(),
            spec: model.parts.as_ref().map(|parts| parts.spec.clone()),
            nnz: model.nnz(),
            density: model.density(),
            input: model.input.clone(),
        }
    }

    /// As a text.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("names and numbers are JSON")
    }

    /// That of a text, if it is one: other programs may use the same key for something else.
    pub fn from_json(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}
