//! How the columns of a table become inputs.

use serde::{Deserialize, Serialize};

use crate::choice::choices;

choices! {
    /// What is done about missing values.
    Missing {
        /// Refused.
        Error,
        /// Replaced by the mean of the column's values in the training set.
        Mean,
    }
}

/// A column that inputs are made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Of a column of text, its words: an input each, 1 where the sample has the word and 0 where it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub words: Option<Vec<String>>,
}

impl Feature {
    /// How many inputs it makes.
    pub fn inputs(&self) -> usize {
        self.words.as_ref().map_or(1, Vec::len)
    }
}

/// What the columns of a table became: what a model needs to read another table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableColumns {
    /// The columns that inputs are made of, in their order.
    pub features: Vec<Feature>,
    /// The columns that are to be predicted.
    pub targets: Vec<String>,
    /// What is done about missing values.
    pub missing: Missing,
}

impl TableColumns {
    /// Number of inputs.
    pub fn inputs(&self) -> usize {
        self.features.iter().map(Feature::inputs).sum()
    }

    /// Whether an input stands for a word.
    pub fn is_word(&self, input: usize) -> bool {
        let mut first = 0;
        for feature in &self.features {
            first += feature.inputs();
            if input < first {
                return feature.words.is_some();
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_counted_through_words() {
        let feature = |name: &str, words: Option<&[&str]>| Feature {
            name: name.to_owned(),
            words: words.map(|words| words.iter().map(|&word| word.to_owned()).collect()),
        };
        let features = vec![feature("a", None), feature("b", Some(&["x", "y"])), feature("c", None)];
        let columns = TableColumns { features, targets: vec!["t".to_owned()], missing: Missing::Error };
        assert_eq!(columns.inputs(), 4);
        assert_eq!([0, 1, 2, 3, 4].map(|input| columns.is_word(input)), [false, true, true, false, false]);
        let json = serde_json::to_string(&columns).unwrap();
        assert_eq!(serde_json::from_str::<TableColumns>(&json).unwrap(), columns);
    }
}
