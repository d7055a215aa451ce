//! Networks: which layers they have, how dense each one is, and how they compute.

mod architecture;
mod compress;
mod first;
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
pub use first::FirstModel;
pub use network::{Body, Initialization, Layer, Network, WeightCount, activation_bytes, strip_of};
pub use sparsification::Sparsification;
pub use spec::ModelSpec;
pub use stored::{ConvolutionalParts, ModelInput, StoredLayer, StoredModel, StoredNorm, StoredWeight};
