//! Networks: which layers they have, how dense each one is, and how they compute.

mod architecture;
mod build_error;
mod builder;
mod compress;
mod definition;
mod family;
mod gates;
mod graph;
mod name;
mod network;
mod sequence;
mod sparsification;
mod spec;
mod stored;
pub mod width;
mod zoo;

pub use architecture::Architecture;
pub use build_error::BuildError;
pub use builder::{Builder, Conv};
pub use compress::Compressed;
pub use definition::{Definition, DefinitionError};
pub use family::{Family, FirstWeights};
pub use graph::{
    Cell, Graph, LayerKind, Masking, Node, NormLayer, NormOver, PoolKind, ValueId, ValueShape, WeightLayer,
};
pub use name::{ModelName, Stem};
pub use network::{Body, Layer, Network, NetworkInput, Norm, ShardInput, States, WeightCount, strip_of};
pub(crate) use sequence::{EMBEDDING, READOUT};
pub use sequence::{Positions, SequenceFamily, SequenceNorm, SequenceSpec, TrainingDefaults};
pub(crate) use sparsification::{DENSITY_RULE, complement, is_density, parse_density};
pub use sparsification::{DensityOverride, Format, Init, Initialization, LayerRule, Sparsification};
pub(crate) use spec::MOST_WIDTH;
pub use spec::ModelSpec;
pub use stored::{ModelInput, NetworkParts, StoredLayer, StoredModel, StoredNorm, StoredWeight};
