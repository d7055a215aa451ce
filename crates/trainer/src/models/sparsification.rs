//! Which weights of a network exist, layer by layer.

use std::fmt;
use std::str::FromStr;

use rigl::{Distribution, DistributionError, LayerDensity, Override};
use serde::{Deserialize, Serialize};
use sparse_kernels::BsrPattern;

use super::architecture::Architecture;
use super::gates::{self, Gates};
use super::graph::{Masking, WeightLayer};
use crate::choice::{choices, serde_through_text};
use crate::method::Method;

choices! {
    /// What sets the layers' densities.
    LayerRule {
        /// The distribution, for every layer.
        Distribution,
        /// The model's rule in the RigL paper's code. LeNet-300-100: first layer at the given sparsity, second at 0.9
        /// of it, third dense.
        Paper,
    }
    /// What the standard deviation of initial weights depends on.
    Init {
        /// The number of inputs of the dense layer.
        DenseFanIn,
        /// The number of connections each output has.
        SparseFanIn,
    }
}

/// How a sparse matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Format {
    /// Compressed sparse rows.
    Csr,
    /// Compressed sparse rows of blocks, with the rows and columns of a block.
    Bsr([usize; 2]),
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "csr" {
            return Ok(Self::Csr);
        }
        // As it is printed, so that bsr04x4 is no second name.
        let sizes = BsrPattern::BLOCK_SIZES;
        let mut formats = sizes.into_iter().flat_map(|r| sizes.into_iter().map(move |c| Self::Bsr([r, c])));
        formats
            .find(|format| format.to_string() == text)
            .ok_or_else(|| "it must be csr, or bsrRxC with R and C of 1, 2, 4, 8 or 16, such as bsr4x4".to_owned())
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Csr => f.pad("csr"),
            Self::Bsr([r, c]) => f.pad(&format!("bsr{r}x{c}")),
        }
    }
}

/// A density for the layers whose names match a pattern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DensityOverride {
    /// A layer's name, in which `*` stands for any characters; or, if no layer matches, that of a gate, such as
    /// `gru.l0.state.new`. Of several patterns that match, the last one counts; a gate's goes before its layer's.
    pub pattern: String,
    /// nnz / size of the layers it names, in (0, 1]; none for what the distribution gives them, whatever the model's rule.
    pub density: Option<f64>,
}

impl fmt::Display for DensityOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.density {
            Some(density) => write!(f, "{}={density}", self.pattern),
            None => write!(f, "{}={FREE}", self.pattern),
        }
    }
}

impl FromStr for DensityOverride {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once('=') {
            Some((pattern, density)) if !pattern.is_empty() => {
                let density = if density == FREE { None } else { Some(parse_density(density)?) };
                Ok(Self { pattern: pattern.to_owned(), density })
            }
            _ => Err("it must be PATTERN=DENSITY, such as fc1=0.05 or fc*=0.2, or PATTERN=free".to_owned()),
        }
    }
}

/// In place of a density: the distribution's.
const FREE: &str = "free";

pub(crate) const DENSITY_RULE: &str = "above 0 and at most 1 (density is the share of weights that exist)";

/// A density from text, for arguments that are checked one by one.
pub(crate) fn parse_density(text: &str) -> Result<f64, String> {
    let density = text.parse::<f64>().ok().filter(|&density| is_density(density));
    density.ok_or_else(|| format!("a density must be {DENSITY_RULE}"))
}

/// The density of a sparsity: its complement, in decimal (1 − 0.9 is 0.1, not 0.09999999999999998).
pub(crate) fn complement(sparsity: f64) -> f64 {
    const DECIMALS: f64 = 1e12;
    ((1.0 - sparsity) * DECIMALS).round() / DECIMALS
}

pub(crate) fn is_density(density: f64) -> bool {
    density > 0.0 && density <= 1.0
}
serde_through_text!(Format, DensityOverride);

/// How a new network is stored, and its first values drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Initialization {
    /// How sparse layers are stored.
    pub format: Format,
    /// What the deviation follows.
    pub init: Init,
    /// The run's seed.
    pub seed: u64,
    /// Densities of layers and of single gates; only the gates' matter here.
    pub overrides: Vec<DensityOverride>,
}

impl Initialization {
    /// Without densities of gates.
    pub fn new(format: Format, init: Init, seed: u64) -> Self {
        Self { format, init, seed, overrides: vec![] }
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
    /// Exponent of [`Distribution::ErdosRenyiKernel`].
    pub erk_power: f64,
    /// Whether the paper's rule for the model takes the distribution's place.
    pub layer_rule: LayerRule,
    /// Densities of single layers.
    pub overrides: Vec<DensityOverride>,
}

impl Sparsification {
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
    /// fewer values than the whole matrix has all its weights. So has, uncounted and whatever an override says, a convolution
    /// that blocks do not fit ([`WeightLayer::fits_blocks`]): the first one, of three channels, and depthwise ones.
    ///
    /// Where single gates of a recurrent layer have densities of their own, its other gates have the layer's, and the layer has
    /// what comes of it. As with overrides of layers, this changes nothing elsewhere.
    ///
    /// # Errors
    /// [`DistributionError`] if a density or an override is impossible, a layer would be left empty, or a gate with a density
    /// of its own is no whole number of blocks high.
    pub fn solve(&self, architecture: &Architecture) -> Result<Vec<LayerDensity>, DistributionError> {
        let shapes: Vec<_> = architecture.layers.iter().map(WeightLayer::shape).collect();
        if self.method.is_dense() {
            return rigl::solve(&shapes, 1.0, Distribution::Uniform, 1.0, &[]);
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
            let layers = architecture.layers.iter().zip(&mut by_hand);
            let mut matching = layers.filter(|(layer, _)| gates::matches(pattern, &layer.name)).peekable();
            if matching.peek().is_none() && !architecture.layers.iter().any(|layer| names_gate(pattern, layer)) {
                let names: Vec<_> = architecture.layers.iter().map(name_with_gates).collect();
                return Err(DistributionError::NoSuchLayer { pattern: pattern.clone(), layers: names.join(", ") });
            }
            matching.for_each(|(_, by_hand)| *by_hand = *density);
        }
        if let Format::Bsr(block_size) = self.format {
            let layers = architecture.layers.iter().zip(&mut by_hand);
            layers.filter(|(layer, _)| !layer.fits_blocks(block_size)).for_each(|(_, by_hand)| *by_hand = Some(1.0));
        }
        let by_hand = architecture.layers.iter().zip(by_hand);
        let fixed = |(layer, density): (&WeightLayer, Option<f64>)| {
            density.map(|density| Override { pattern: layer.name.clone(), density })
        };
        let overrides: Vec<_> = by_hand.filter_map(fixed).collect();
        let mut layers = rigl::solve(&shapes, self.density, self.distribution, self.erk_power, &overrides)?;
        if let Format::Bsr(block_size) = self.format {
            layers
                .iter_mut()
                .zip(&architecture.layers)
                .for_each(|(solved, layer)| in_blocks(solved, layer, block_size));
        }
        for (solved, layer) in layers.iter_mut().zip(&architecture.layers) {
            if let Some(gates) = Gates::of(layer, &architecture.layers, self.format, &self.overrides) {
                *solved = gates.solve(*solved)?;
            }
        }
        Ok(layers)
    }
}

fn names_gate(pattern: &str, layer: &WeightLayer) -> bool {
    layer.gates.iter().any(|gate| gates::matches(pattern, &format!("{}.{gate}", layer.name)))
}

/// For messages.
fn name_with_gates(layer: &WeightLayer) -> String {
    match layer.gates {
        [] => layer.name.clone(),
        gates => format!("{} (gates: {}.{{{}}})", layer.name, layer.name, gates.join(",")),
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
    use crate::models::ModelName;

    fn lenet(density: f64) -> (Architecture, Sparsification) {
        let sparsification = Sparsification {
            method: Method::named("rigl"),
            density,
            format: Format::Csr,
            distribution: Distribution::ErdosRenyiKernel,
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

    /// Blocks span channels of one tap; where they cannot, a convolution is dense.
    #[test]
    fn convolutions_have_blocks_of_channels() {
        let (_, mut sparsification) = lenet(0.1);
        let mut nnz = |model: &str, format: &str, overrides: &[&str]| {
            sparsification.format = format.parse().unwrap();
            sparsification.overrides = overrides.iter().map(|o| o.parse().unwrap()).collect();
            let architecture = Architecture::of(&model.parse().unwrap());
            let solved = sparsification.solve(&architecture).unwrap();
            architecture
                .layers
                .iter()
                .map(|layer| layer.size())
                .zip(solved)
                .map(|(size, l)| (size, l.nnz))
                .collect::<Vec<_>>()
        };
        let wrn = nnz("wrn-10-1", "bsr8x8", &[]);
        // Three channels; and 10 classes, whose two rows of blocks hold more than the matrix where all of them are stored.
        assert_eq!(wrn[0], (432, 432));
        assert!(wrn[1..].iter().all(|&(size, nnz)| nnz == size || nnz % 64 == 0), "{wrn:?}");
        assert!(wrn[1..].iter().any(|&(size, nnz)| nnz < size / 2));
        assert_eq!(nnz("wrn-10-1", "bsr8x8", &["conv1=0.1"])[0], (432, 432));
        assert_eq!(nnz("wrn-10-1", "bsr4x1", &["conv1=0.5"])[0], (432, 216));
        let mobilenet = nnz("mobilenet-v1", "bsr4x4", &[]);
        assert!(mobilenet.iter().any(|&(size, nnz)| size == 9 * 512 && nnz == size), "depthwise");
    }

    #[test]
    fn overrides_go_before_the_rule() {
        let (lenet, mut sparsification) = lenet(0.1);
        sparsification.layer_rule = LayerRule::Paper;
        sparsification.overrides = vec!["fc1=0.5".parse().unwrap()];
        assert_eq!(sparsification.solve(&lenet).unwrap()[0].density, 0.5);
    }
}
