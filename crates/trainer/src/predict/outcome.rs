//! What outputs mean: classes with probabilities, numbers, labels.

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::models::ModelInput;
use crate::task::{LossKind, TargetScale};

/// How outputs are told.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcomes {
    loss: LossKind,
    /// Of each output.
    names: Vec<String>,
    scale: Option<TargetScale>,
    /// Classes that are told of each sample.
    top: usize,
}

/// What is said of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The most likely classes, the likeliest first, with their probabilities.
    Classes(Vec<(String, f64)>),
    /// A number of each target.
    Numbers(Vec<(String, f64)>),
    /// The probability of each label.
    Labels(Vec<(String, f64)>),
}

/// A label counts from this probability on.
const HALF: f64 = 0.5;

/// What is said of a sample, as JSON.
#[derive(Debug, Default, Serialize)]
pub struct OutcomeRecord<'a> {
    input: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    classes: Vec<ClassRecord<'a>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    numbers: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    probabilities: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct ClassRecord<'a> {
    class: &'a str,
    probability: f64,
}

impl Outcomes {
    /// Those of a model with so many outputs, of which classifiers tell the `top` most likely classes.
    pub fn new(input: &ModelInput, class_names: Option<Vec<String>>, outputs: usize, top: usize) -> Self {
        let of_targets = || input.table.as_ref().map(|table| table.targets.clone());
        let numbers = || (0..outputs).map(|output| output.to_string()).collect();
        let names = match input.loss {
            LossKind::CrossEntropy | LossKind::Bce => class_names,
            LossKind::Mse | LossKind::Huber => of_targets(),
        };
        let names = names.filter(|names| names.len() == outputs).unwrap_or_else(numbers);
        let top = top.clamp(1, outputs.max(1));
        Self { loss: input.loss, names, scale: input.target_scale.clone(), top }
    }

    /// What these outputs of a sample say.
    pub fn of(&self, outputs: &[f32]) -> Outcome {
        let named = |(name, value): (&String, f64)| (name.clone(), value);
        match self.loss {
            LossKind::CrossEntropy => {
                let top = outputs.iter().fold(f64::NEG_INFINITY, |top, &y| top.max(f64::from(y)));
                let exponentials: Vec<f64> = outputs.iter().map(|&y| (f64::from(y) - top).exp()).collect();
                let sum: f64 = exponentials.iter().sum();
                let mut order: Vec<usize> = (0..outputs.len()).collect();
                // Stable: the lower class wins a tie.
                order.sort_by(|&a, &b| outputs[b].total_cmp(&outputs[a]));
                let class = |&class: &usize| (self.names[class].clone(), exponentials[class] / sum);
                Outcome::Classes(order.iter().take(self.top).map(class).collect())
            }
            LossKind::Mse | LossKind::Huber => {
                let number = |(output, &y): (usize, &f32)| {
                    self.scale.as_ref().map_or(f64::from(y), |scale| scale.unscaled(output, f64::from(y)))
                };
                Outcome::Numbers(self.names.iter().zip(outputs.iter().enumerate().map(number)).map(named).collect())
            }
            LossKind::Bce => {
                let probability = |&y: &f32| 1.0 / (1.0 + (-f64::from(y)).exp());
                Outcome::Labels(self.names.iter().zip(outputs.iter().map(probability)).map(named).collect())
            }
        }
    }

    /// The names of the columns of [`Outcome::cells`].
    pub fn header(&self) -> Vec<String> {
        let mut header = vec!["input".to_owned()];
        match self.loss {
            LossKind::CrossEntropy => {
                for k in 1..=self.top {
                    let number = if k == 1 { String::new() } else { format!("_{k}") };
                    header.extend([format!("class{number}"), format!("probability{number}")]);
                }
            }
            LossKind::Mse | LossKind::Huber => header.extend_from_slice(&self.names),
            LossKind::Bce => {
                header.push("labels".to_owned());
                header.extend_from_slice(&self.names);
            }
        }
        header
    }
}

impl Outcome {
    /// As cells of a table.
    pub fn cells(&self) -> Vec<String> {
        let probability = |p: &f64| format!("{p:.6}");
        match self {
            Self::Classes(classes) => classes.iter().flat_map(|(name, p)| [name.clone(), probability(p)]).collect(),
            // As many digits as an f32 has.
            Self::Numbers(numbers) => numbers.iter().map(|(_, number)| (*number as f32).to_string()).collect(),
            Self::Labels(labels) => {
                let chosen: Vec<&str> = labels.iter().filter(|(_, p)| *p >= HALF).map(|(name, _)| &**name).collect();
                [chosen.join(";")].into_iter().chain(labels.iter().map(|(_, p)| probability(p))).collect()
            }
        }
    }

    /// As a record.
    pub fn record<'a>(&'a self, input: &'a str) -> OutcomeRecord<'a> {
        let map = |pairs: &[(String, f64)]| -> Map<String, Value> {
            pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
        };
        let mut record = OutcomeRecord { input, ..OutcomeRecord::default() };
        match self {
            Self::Classes(classes) => {
                let of = |(class, probability): &'a (String, f64)| ClassRecord { class, probability: *probability };
                record.classes = classes.iter().map(of).collect();
            }
            Self::Numbers(numbers) => record.numbers = map(numbers),
            Self::Labels(labels) => {
                let chosen = labels.iter().filter(|(_, p)| *p >= HALF).map(|(name, _)| &**name);
                (record.labels, record.probabilities) = (Some(chosen.collect()), map(labels));
            }
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Normalization;

    fn input(loss: LossKind) -> ModelInput {
        let scale = TargetScale { mean: vec![10.0, 0.0], deviation: vec![2.0, 1.0] };
        ModelInput {
            loss,
            target_scale: loss.is_regression().then_some(scale),
            ..ModelInput::new("table", Normalization::PerImage)
        }
    }

    #[test]
    fn outputs_become_classes_numbers_and_labels() {
        let names = || Some(vec!["ant".to_owned(), "bee".to_owned()]);
        let classes = Outcomes::new(&input(LossKind::CrossEntropy), names(), 2, 9);
        let outcome = classes.of(&[0.0, 3f32.ln()]);
        assert_eq!(classes.header(), ["input", "class", "probability", "class_2", "probability_2"]);
        assert_eq!(outcome.cells(), ["bee", "0.750000", "ant", "0.250000"]);
        assert_eq!(json!(outcome.record("x"))["classes"][0]["class"], "bee");
        // Far outputs overflow nothing.
        assert_eq!(classes.of(&[-3e38, 3e38]).cells()[..2], ["bee", "1.000000"]);

        let numbers = Outcomes::new(&input(LossKind::Mse), None, 2, 1);
        assert_eq!(
            (numbers.header(), numbers.of(&[1.5, -1.0]).cells()),
            (vec!["input".into(), "0".into(), "1".into()], vec!["13".to_owned(), "-1".to_owned()])
        );

        let labels = Outcomes::new(&input(LossKind::Bce), names(), 2, 1);
        assert_eq!(labels.header(), ["input", "labels", "ant", "bee"]);
        assert_eq!(labels.of(&[0.0, -1e9]).cells(), ["ant", "0.500000", "0.000000"]);
        assert_eq!(json!(labels.of(&[9.0, 9.0]).record("x"))["labels"], json!(["ant", "bee"]));
    }
}
