//! What a network is given at a time.

use sparse_kernels::Layout;

use super::lists::Lists;
use super::sequences::Sequences;
use super::targets::Targets;

/// One batch: inputs in the layout asked for, and targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// The inputs.
    pub inputs: BatchInputs,
    /// The targets of each sample; of tokens, a class of each lane, `u32::MAX` where there is none.
    pub targets: Targets,
    /// The samples that another took the place of, because their files are broken. One may come several times.
    pub corrupt: Vec<u32>,
    /// The larger batch of which these samples are a part; none if they are all.
    pub part_of: Option<PartOf>,
}

/// A part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartOf {
    /// The place of its first sample in the batch.
    pub first: usize,
    /// Samples of the batch.
    pub samples: usize,
}

/// The samples of a shard of a batch: the first one, and how many. Sizes differ by one at most.
///
/// ```
/// use trainer::data::shard_samples;
/// assert_eq!([0, 1, 2].map(|shard| shard_samples(shard, 3, 8)), [[0, 2], [2, 3], [5, 3]]);
/// ```
pub fn shard_samples(shard: usize, shards: usize, samples: usize) -> [usize; 2] {
    let first = |shard: usize| shard * samples / shards;
    [first(shard), first(shard + 1) - first(shard)]
}

/// The inputs of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchInputs {
    /// Features or images.
    Values {
        /// How they lie.
        layout: Layout,
        /// `layout.len()` of them; padding and borders are zero.
        values: Vec<f32>,
    },
    /// Tokens.
    Tokens {
        /// How they lie.
        sequences: Sequences,
        /// One of each lane; 0 where there is none.
        tokens: Vec<u32>,
    },
    /// Features and values of each sample.
    Lists(Lists),
}

/// The inputs of a batch, wherever they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum HostInputs<'a> {
    /// Features or images.
    Values {
        /// How they lie.
        layout: Layout,
        /// `layout.len()` of them.
        values: &'a [f32],
    },
    /// Tokens.
    Tokens {
        /// How they lie.
        sequences: Sequences,
        /// One of each lane.
        tokens: &'a [u32],
    },
    /// Features and values of each sample.
    Lists(&'a Lists),
}

impl HostInputs<'_> {
    /// Lanes, or images.
    pub fn lanes(&self) -> usize {
        match self {
            Self::Values { layout, .. } => layout.samples(),
            Self::Tokens { sequences, .. } => sequences.lanes(),
            Self::Lists(lists) => lists.len(),
        }
    }
}

impl BatchInputs {
    /// Features or images, with how they lie.
    ///
    /// # Panics
    /// If they are tokens or lists.
    pub fn values(&self) -> (Layout, &[f32]) {
        match self {
            Self::Values { layout, values } => (*layout, values),
            Self::Tokens { .. } | Self::Lists(_) => panic!("the inputs are tokens or lists"),
        }
    }

    /// Tokens, with how they lie.
    ///
    /// # Panics
    /// If they are no tokens.
    pub fn tokens(&self) -> (Sequences, &[u32]) {
        match self {
            Self::Tokens { sequences, tokens } => (*sequences, tokens),
            Self::Values { .. } | Self::Lists(_) => panic!("the inputs are no tokens"),
        }
    }
}

impl<'a> From<&'a BatchInputs> for HostInputs<'a> {
    fn from(inputs: &'a BatchInputs) -> Self {
        match inputs {
            BatchInputs::Values { layout, values } => Self::Values { layout: *layout, values },
            BatchInputs::Tokens { sequences, tokens } => Self::Tokens { sequences: *sequences, tokens },
            BatchInputs::Lists(lists) => Self::Lists(lists),
        }
    }
}
