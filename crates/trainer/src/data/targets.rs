//! What is to be learned of each sample.

use super::lists::Lists;

/// What is to be learned of each sample of a split or a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Targets {
    /// A class each.
    Classes(Vec<u32>),
    /// Numbers each: those of a regression, or 1 and 0 for the labels that a sample has and has not.
    Numbers {
        /// How many of each sample.
        outputs: usize,
        /// `outputs` of each sample, one sample after the other.
        values: Vec<f32>,
    },
    /// Any number of labels each, as lists without values.
    Labels(Lists),
}

/// The targets of a batch, wherever they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BatchTargets<'a> {
    /// A class of each sample.
    Classes(&'a [u32]),
    /// Numbers, one sample after the other, as many of each as the network has outputs.
    Numbers(&'a [f32]),
    /// The labels of each sample.
    Labels(&'a Lists),
}

impl Targets {
    /// Number of samples.
    pub fn len(&self) -> usize {
        match self {
            Self::Classes(classes) => classes.len(),
            Self::Numbers { outputs, values } => values.len().checked_div(*outputs).unwrap_or(0),
            Self::Labels(labels) => labels.len(),
        }
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The class of each sample; none where samples have numbers or lists of labels.
    pub fn classes(&self) -> &[u32] {
        match self {
            Self::Classes(classes) => classes,
            Self::Numbers { .. } | Self::Labels(_) => &[],
        }
    }

    /// The same kind, of no sample, with room for `samples`.
    pub(super) fn none_of(&self, samples: usize) -> Self {
        match self {
            Self::Classes(_) => Self::Classes(Vec::with_capacity(samples)),
            Self::Numbers { outputs, .. } => {
                Self::Numbers { outputs: *outputs, values: Vec::with_capacity(outputs * samples) }
            }
            Self::Labels(labels) => Self::Labels(Lists::new(labels.columns())),
        }
    }

    pub(super) fn clear(&mut self) {
        match self {
            Self::Classes(classes) => classes.clear(),
            Self::Numbers { values, .. } => values.clear(),
            Self::Labels(labels) => labels.clear(),
        }
    }

    /// Adds those of one sample of others of the same kind.
    pub(super) fn push_of(&mut self, others: &Self, sample: usize) {
        match (self, others) {
            (Self::Classes(to), Self::Classes(from)) => to.push(from[sample]),
            (Self::Numbers { values: to, outputs }, Self::Numbers { values: from, .. }) => {
                to.extend_from_slice(&from[sample * *outputs..][..*outputs]);
            }
            (Self::Labels(to), Self::Labels(from)) => to.push_of(from, sample),
            _ => unreachable!("a batch has targets of its split's kind"),
        }
    }

    pub(super) fn select(&self, samples: &[usize]) -> Self {
        let mut chosen = self.none_of(samples.len());
        samples.iter().for_each(|&sample| chosen.push_of(self, sample));
        chosen
    }
}

impl From<Vec<u32>> for Targets {
    fn from(classes: Vec<u32>) -> Self {
        Self::Classes(classes)
    }
}

impl<'a> From<&'a Targets> for BatchTargets<'a> {
    fn from(targets: &'a Targets) -> Self {
        match targets {
            Targets::Classes(classes) => Self::Classes(classes),
            Targets::Numbers { values, .. } => Self::Numbers(values),
            Targets::Labels(labels) => Self::Labels(labels),
        }
    }
}

impl<'a> From<&'a [u32]> for BatchTargets<'a> {
    fn from(classes: &'a [u32]) -> Self {
        Self::Classes(classes)
    }
}

impl<'a> From<&'a Vec<u32>> for BatchTargets<'a> {
    fn from(classes: &'a Vec<u32>) -> Self {
        Self::Classes(classes)
    }
}

impl<'a, const N: usize> From<&'a [u32; N]> for BatchTargets<'a> {
    fn from(classes: &'a [u32; N]) -> Self {
        Self::Classes(classes)
    }
}

impl<'a> From<&'a [f32]> for BatchTargets<'a> {
    fn from(numbers: &'a [f32]) -> Self {
        Self::Numbers(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_chosen_whole() {
        let numbers = Targets::Numbers { outputs: 2, values: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0] };
        assert_eq!((numbers.len(), numbers.classes()), (3, &[][..]));
        assert_eq!(numbers.select(&[2, 0]), Targets::Numbers { outputs: 2, values: vec![4.0, 5.0, 0.0, 1.0] });
        assert_eq!(Targets::Classes(vec![7, 8, 9]).select(&[1]), Targets::Classes(vec![8]));
        assert!(numbers.none_of(9).is_empty());
    }
}
