//! The methods of the registry, [`rigl::methods()`], by name.

use std::fmt;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use rigl::{MethodInfo, WeightStorage};
use serde::{Deserialize, Serialize};

use crate::choice::serde_through_text;

/// Which connections a layer has, and how they change: a method of the registry, [`rigl::methods()`].
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Method(&'static MethodInfo);

impl Method {
    /// The method of this name.
    ///
    /// # Panics
    /// If there is none.
    pub fn named(name: &str) -> Self {
        Self(rigl::find_method(name).expect("the name is one of the registry"))
    }

    /// What the registry knows of it.
    pub fn info(self) -> &'static MethodInfo {
        self.0
    }

    /// Whether it has every weight, stored dense.
    pub fn is_dense(self) -> bool {
        self.0.storage == WeightStorage::Dense
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.0.name == other.0.name
    }
}

impl Eq for Method {}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name)
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.name)
    }
}

impl FromStr for Method {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || format!("the methods are {}", rigl::method_names().collect::<Vec<_>>().join(", "));
        rigl::find_method(name).map(Self).map_err(|_| known())
    }
}

/// A parameter of the method, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MethodOption {
    /// The parameter, see [`rigl::MethodInfo::parameters`].
    pub name: String,
    /// What it is to be.
    pub value: String,
}

impl fmt::Display for MethodOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}

impl FromStr for MethodOption {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok(Self { name: name.to_owned(), value: value.to_owned() }),
            _ => Err("it must be NAME=VALUE, such as ema=0.99 for the method snfs".to_owned()),
        }
    }
}
serde_through_text!(Method, MethodOption);

/// Methods by name, with a line on each in the long help.
pub(crate) fn method_parser() -> impl TypedValueParser<Value = Method> {
    let values = rigl::methods().map(|info| PossibleValue::new(info.name).help(info.summary));
    PossibleValuesParser::new(values.collect::<Vec<_>>()).map(|name| Method::named(&name))
}
