//! Which weights of a network exist, layer by layer.

use rigl::{DistributionError, LayerDensity, Override};

use super::architecture::{Architecture, Masking, WeightLayer};
use crate::config::{DensityOverride, Distribution, Format, LayerRule, Method, TrainConfig};

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
    /// What the paper's networks leave dense stays so: the first convolution and the depthwise ones of MobileNets, whatever
    /// the distribution; the first convolution of other networks, where it is uniform. Such layers are not counted in the
    /// density asked for. The paper's rule for LeNet-300-100 gives the first layer the sparsity asked for, the second 0.9
    /// of it, and leaves the third dense (google-research/rigl, `rigl/mnist/mnist_train_eval.py`). Overrides go before all
    /// of these.
    ///
    /// In blocks, a layer has the nearest number of blocks to the weights that its density gives it, at least one; its nnz
    /// is that of the blocks, padding included ([`sparse_kernels::BsrPattern::nnz`]). A layer whose blocks would hold no
    /// fewer values than the whole matrix has all its weights.
    ///
    /// # Errors
    /// [`DistributionError`] if a density or an override is impossible, or a layer would be left empty.
    pub fn solve(&self, architecture: &Architecture) -> Result<Vec<LayerDensity>, DistributionError> {
        let shapes: Vec<_> = architecture.layers.iter().map(WeightLayer::shape).collect();
        if self.method.is_dense() {
            return rigl::solve(&shapes, 1.0, rigl::Distribution::Uniform, &[]);
        }
        let is_dense = |masking| match masking {
            Masking::Any => false,
            Masking::NotUniform => self.distribution == Distribution::Uniform,
            Masking::Never => true,
        };
        let given = |layer: &WeightLayer| is_dense(layer.masking).then_some(1.0);
        let mut by_hand: Vec<Option<f64>> = architecture.layers.iter().map(given).collect();
        if self.layer_rule == LayerRule::Paper {
            let sparsity = 1.0 - self.density;
            for (density, share) in by_hand.iter_mut().zip([1.0, 0.9, 0.0]) {
                *density = Some(1.0 - share * sparsity);
            }
        }
        for DensityOverride { pattern, density } in &self.overrides {
            let wanted = Override { pattern: pattern.clone(), density: 1.0 };
            let layers = architecture.layers.iter().zip(&mut by_hand);
            let mut matching = layers.filter(|(layer, _)| wanted.matches(&layer.name)).peekable();
            if matching.peek().is_none() {
                let names: Vec<_> = shapes.iter().map(|shape| &*shape.name).collect();
                return Err(DistributionError::NoSuchLayer { pattern: pattern.clone(), layers: names.join(", ") });
            }
            matching.for_each(|(_, by_hand)| *by_hand = *density);
        }
        let by_hand = architecture.layers.iter().zip(by_hand);
        let fixed = |(layer, density): (&WeightLayer, Option<f64>)| {
            density.map(|density| Override { pattern: layer.name.clone(), density })
        };
        let overrides: Vec<_> = by_hand.filter_map(fixed).collect();
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
fn in_blocks(solved: &mut LayerDensity, layer: &WeightLayer, [r, c]: [usize; 2]) {
    let grid = layer.rows().div_ceil(r) * layer.columns().div_ceil(c);
    let blocks = (solved.nnz + r * c / 2) / (r * c);
    let nnz = blocks.clamp(1, grid) * r * c;
    solved.nnz = if solved.nnz == solved.size || nnz >= solved.size { solved.size } else { nnz };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ModelName;

    fn lenet(density: f64) -> (Architecture, Sparsification) {
        let sparsification = Sparsification {
            method: Method::named("rigl"),
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
