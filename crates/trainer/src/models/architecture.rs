//! What a network is made of, apart from any numbers.

use rigl::{FlopsConvention, LayerDensity};

use super::family::FirstWeights;
use super::graph::{Graph, Node, NormLayer, ValueShape, WeightLayer};
use super::{ModelName, ModelSpec};

/// What a network is made of, apart from any numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    /// What it was made from.
    pub spec: ModelSpec,
    /// How its first weights are drawn.
    pub first_weights: FirstWeights,
    /// Its layers with weights, in the order of the forward pass.
    pub layers: Vec<WeightLayer>,
    /// Its batch normalisations, in the order of the forward pass.
    pub norms: Vec<NormLayer>,
    /// How they stand together.
    pub graph: Graph,
}

impl Architecture {
    /// The name of the model.
    pub fn name(&self) -> ModelName {
        self.spec.name.clone()
    }

    /// Values of one input: features, or channels times pixels.
    pub fn inputs(&self) -> usize {
        match self.graph.values[0] {
            ValueShape::Token(_) => 1,
            ValueShape::Features(features) | ValueShape::List(features) => features,
            ValueShape::Image { channels, size } => channels * size[0] * size[1],
        }
    }

    /// Classes of the output.
    pub fn classes(&self) -> usize {
        self.spec.classes
    }

    /// Whether it is a multi-layer perceptron.
    pub fn is_mlp(&self) -> bool {
        self.spec.name.is_mlp()
    }

    /// Whether it reads tokens.
    pub fn reads_tokens(&self) -> bool {
        matches!(self.graph.values[0], ValueShape::Token(_))
    }

    /// Whether it reads lists of features.
    pub fn reads_lists(&self) -> bool {
        matches!(self.graph.values[0], ValueShape::List(_))
    }

    /// Positions of all weight matrices.
    pub fn size(&self) -> usize {
        self.layers.iter().map(WeightLayer::size).sum()
    }

    /// Operations of one sample's forward pass, or of one token's: `[at these densities, dense]`.
    pub fn forward_flops(&self, densities: &[LayerDensity], convention: FlopsConvention) -> [f64; 2] {
        let mut flops = [0.0; 2];
        for (layer, density) in self.layers.iter().zip(densities) {
            for (total, density) in flops.iter_mut().zip([density.nnz as f64 / density.size as f64, 1.0]) {
                *total += layer.geometry().forward_flops(density, convention);
            }
        }
        flops.map(|flops| flops + self.attention_flops())
    }

    /// Operations of one sample's forward pass of the dense network.
    pub fn dense_flops(&self, convention: FlopsConvention) -> f64 {
        let of_layers: f64 = self.layers.iter().map(|layer| layer.geometry().forward_flops(1.0, convention)).sum();
        of_layers + self.attention_flops()
    }

    /// Operations of attention's two products, of one token on average: half of its sequence stands before it.
    pub fn attention_flops(&self) -> f64 {
        let length = self.spec.sequence.as_ref().map_or(0, |sequence| sequence.length);
        let features = |node: &Node| match (node, node.output()) {
            (Node::Attention { .. }, output) => match self.graph.values[output] {
                ValueShape::Features(features) => features,
                _ => 0,
            },
            _ => 0,
        };
        let features: usize = self.graph.nodes.iter().map(features).sum();
        2.0 * features as f64 * (length + 1) as f64
    }

    /// Everything that is learned of the dense network: weights, biases, scales and shifts.
    pub fn parameters(&self) -> usize {
        let biases = self.layers.iter().filter(|layer| layer.bias).map(WeightLayer::rows).sum::<usize>();
        self.size() + biases + self.norms.iter().map(NormLayer::affine_len).sum::<usize>()
    }

    /// Whether some layer drops activations at the run's rate.
    pub fn has_dropout(&self) -> bool {
        self.graph.nodes.iter().any(|node| matches!(node, Node::Dropout { .. }))
    }
}
