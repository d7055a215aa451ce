//! Networks: which layers they have, how dense each one is, and how they compute.

mod network;
mod stored;

use rigl::{DistributionError, LayerDensity, LayerGeometry, LayerShape, Override};

use crate::config::{DensityOverride, Distribution, Format, LayerRule, Method, ModelName, TrainConfig};

pub use network::{Initialization, Layer, Network, WeightCount, strip_of};
pub use stored::{ModelInput, StoredLayer, StoredModel, StoredWeight};

/// One linear layer of a multi-layer perceptron.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearLayer {
    /// Its name: `fc1` is the first.
    pub name: String,
    /// Features it reads.
    pub inputs: usize,
    /// Features it writes.
    pub outputs: usize,
    /// Whether a ReLU follows.
    pub relu: bool,
}

impl LinearLayer {
    /// Positions of the weight matrix.
    pub fn size(&self) -> usize {
        self.inputs * self.outputs
    }

    /// Shape of the weight matrix, `[outputs, inputs]`.
    pub fn shape(&self) -> LayerShape {
        LayerShape::new(self.name.clone(), [self.outputs, self.inputs])
    }

    /// For counting operations and bytes. Bias and ReLU count on every layer, as in the paper's figures.
    pub fn geometry(&self) -> LayerGeometry {
        LayerGeometry::linear(self.inputs, self.outputs)
    }
}

/// What a network is made of, apart from any numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Architecture {
    /// Its layers, from input to output.
    pub layers: Vec<LinearLayer>,
}

impl Architecture {
    /// The architecture of a named model.
    pub fn of(model: &ModelName) -> Self {
        let sizes = model.sizes();
        let layers = sizes.windows(2).enumerate().map(|(i, pair)| LinearLayer {
            name: format!("fc{}", i + 1),
            inputs: pair[0],
            outputs: pair[1],
            relu: i + 2 < sizes.len(),
        });
        Self { layers: layers.collect() }
    }

    /// The name that [`Architecture::of`] makes it from.
    pub fn name(&self) -> ModelName {
        ModelName::of_sizes(std::iter::once(self.inputs()).chain(self.layers.iter().map(|l| l.outputs)).collect())
    }

    /// Features of the input.
    pub fn inputs(&self) -> usize {
        self.layers.first().map_or(0, |l| l.inputs)
    }

    /// Classes of the output.
    pub fn classes(&self) -> usize {
        self.layers.last().map_or(0, |l| l.outputs)
    }

    /// Positions of all weight matrices.
    pub fn size(&self) -> usize {
        self.layers.iter().map(LinearLayer::size).sum()
    }

    /// Weights and biases of the dense network.
    pub fn parameters(&self) -> usize {
        self.size() + self.layers.iter().map(|l| l.outputs).sum::<usize>()
    }
}

/// How dense a network is to be, and how that is spread over its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Sparsification {
    /// Dense storage throughout, or sparse.
    pub method: Method,
    /// nnz / size over all layers.
    pub density: f64,
    /// How sparse layers are stored, and so in how many weights at a time.
    pub format: Format,
    /// How it is spread.
    pub distribution: Distribution,
    /// Exponent of [`Distribution::Erk`].
    pub erk_power: f64,
    /// Whether the paper's rule for the model takes the distribution's place.
    pub layer_rule: LayerRule,
    /// Densities of single layers.
    pub overrides: Vec<DensityOverride>,
}

impl Sparsification {
    /// That of a training run.
    pub fn of(config: &TrainConfig) -> Self {
        Self {
            method: config.method,
            density: config.density,
            format: config.format,
            distribution: config.distribution,
            erk_power: config.erk_power,
            layer_rule: config.layer_rule,
            overrides: config.density_override.clone(),
        }
    }

    /// The density and number of weights of each layer.
    ///
    /// The paper's rule for LeNet-300-100 gives the first layer the sparsity asked for, the second 0.9 of it, and
    /// leaves the third dense (google-research/rigl, `rigl/mnist/mnist_train_eval.py`). Overrides go before either.
    ///
    /// In blocks, a layer has the nearest number of blocks to the weights that its density gives it, at least one; its nnz
    /// is that of the blocks, padding included ([`sparse_kernels::BsrPattern::nnz`]). A layer whose blocks would hold no
    /// fewer values than the whole matrix has all its weights.
    ///
    /// # Errors
    /// [`DistributionError`] if a density or an override is impossible, or a layer would be left empty.
    pub fn solve(&self, architecture: &Architecture) -> Result<Vec<LayerDensity>, DistributionError> {
        let shapes: Vec<_> = architecture.layers.iter().map(LinearLayer::shape).collect();
        if self.method == Method::Dense {
            return rigl::solve(&shapes, 1.0, rigl::Distribution::Uniform, &[]);
        }
        let mut overrides = Vec::new();
        if self.layer_rule == LayerRule::Paper {
            let sparsity = 1.0 - self.density;
            for (layer, share) in architecture.layers.iter().zip([1.0, 0.9, 0.0]) {
                overrides.push(Override { pattern: layer.name.clone(), density: 1.0 - share * sparsity });
            }
        }
        let given = self.overrides.iter();
        overrides.extend(given.map(|o| Override { pattern: o.pattern.clone(), density: o.density }));
        let distribution = match self.distribution {
            Distribution::Uniform => rigl::Distribution::Uniform,
            Distribution::Er => rigl::Distribution::ErdosRenyi,
            Distribution::Erk => rigl::Distribution::ErdosRenyiKernel { power: self.erk_power },
        };
        let mut layers = rigl::solve(&shapes, self.density, distribution, &overrides)?;
        if let Format::Bsr(block_size) = self.format {
            layers
                .iter_mut()
                .zip(&architecture.layers)
                .for_each(|(solved, layer)| in_blocks(solved, layer, block_size));
        }
        Ok(layers)
    }
}

/// Makes a layer's weights a whole number of blocks.
fn in_blocks(solved: &mut LayerDensity, layer: &LinearLayer, [r, c]: [usize; 2]) {
    let grid = layer.outputs.div_ceil(r) * layer.inputs.div_ceil(c);
    let blocks = (solved.nnz + r * c / 2) / (r * c);
    let nnz = blocks.clamp(1, grid) * r * c;
    solved.nnz = if solved.nnz == solved.size || nnz >= solved.size { solved.size } else { nnz };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lenet(density: f64) -> (Architecture, Sparsification) {
        let sparsification = Sparsification {
            method: Method::Rigl,
            density,
            format: Format::Csr,
            distribution: Distribution::Erk,
            erk_power: 1.0,
            layer_rule: LayerRule::Distribution,
            overrides: vec![],
        };
        (Architecture::of(&ModelName::Lenet300x100), sparsification)
    }

    #[test]
    fn lenet_has_its_published_size() {
        let (lenet, _) = lenet(0.1);
        assert_eq!((lenet.size(), lenet.parameters()), (266_200, 266_610));
        assert_eq!((lenet.inputs(), lenet.classes()), (784, 10));
        assert_eq!(lenet.layers.iter().map(|l| l.relu).collect::<Vec<_>>(), [true, true, false]);
    }

    #[test]
    fn the_papers_rule_for_lenet() {
        let (lenet, mut sparsification) = lenet(0.02);
        sparsification.layer_rule = LayerRule::Paper;
        let densities = sparsification.solve(&lenet).unwrap();
        let expected = [0.02, 1.0 - 0.9 * 0.98, 1.0];
        for (layer, expected) in densities.iter().zip(expected) {
            assert!((layer.density - expected).abs() < 1e-12, "{layer:?}");
        }
        assert_eq!(densities[2].nnz, 1000);
    }

    #[test]
    fn layers_have_whole_numbers_of_blocks() {
        let (lenet, mut sparsification) = lenet(0.1);
        let mut nnz = |format: &str, overrides: &[&str]| {
            sparsification.format = format.parse().unwrap();
            sparsification.overrides = overrides.iter().map(|o| o.parse().unwrap()).collect();
            sparsification.solve(&lenet).unwrap().iter().map(|l| l.nnz).collect::<Vec<_>>()
        };
        assert_eq!(nnz("csr", &[]), [18715, 6906, 1000]);
        assert_eq!(nnz("bsr1x1", &[]), [18715, 6906, 1000]);
        // 292.4 and 107.9 blocks of 64.
        assert_eq!(nnz("bsr8x8", &[]), [292 * 64, 108 * 64, 1000]);
        // At least one; and where blocks hold no less than the matrix, all of it: 15.6 blocks of 64 are 999 weights.
        assert_eq!(nnz("bsr8x8", &["fc3=0.001"])[2], 64);
        assert_eq!(nnz("bsr8x8", &["fc3=0.999"])[2], 1000);
        assert_eq!(nnz("bsr8x8", &["fc3=0.95"])[2], 960);
    }

    #[test]
    fn overrides_go_before_the_rule() {
        let (lenet, mut sparsification) = lenet(0.1);
        sparsification.layer_rule = LayerRule::Paper;
        sparsification.overrides = vec!["fc1=0.5".parse().unwrap()];
        assert_eq!(sparsification.solve(&lenet).unwrap()[0].density, 0.5);
    }
}
