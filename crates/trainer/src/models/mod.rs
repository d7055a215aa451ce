//! Networks: which layers they have, how dense each one is, and how they compute.

mod architecture;
mod builder;
mod compress;
mod family;
mod name;
mod network;
mod sparsification;
mod spec;
mod stored;
pub mod width;
mod zoo;

pub use architecture::{
    Architecture, Graph, LayerKind, Masking, Node, NormLayer, PoolKind, ValueId, ValueShape, WeightLayer,
};
pub use compress::Compressed;
pub use family::{Family, FirstWeights};
pub use name::{ModelName, Stem};
pub use network::{Body, Layer, Network, WeightCount, activation_bytes, strip_of};
pub(crate) use sparsification::{DENSITY_RULE, complement, is_density, parse_density};
pub use sparsification::{DensityOverride, Format, Init, Initialization, LayerRule, Sparsification};
pub(crate) use spec::MOST_WIDTH;
pub use spec::ModelSpec;
pub use stored::{ConvolutionalParts, ModelInput, StoredLayer, StoredModel, StoredNorm, StoredWeight};
