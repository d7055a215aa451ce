//! How dense each layer is.
//!
//! # Algorithm
//!
//! Erdős–Rényi distributions give layer `l` the density `ε · p_l`, with `p_l` from its shape and one `ε` for the
//! network, chosen so that the whole has as many weights as the uniform distribution would give
//! (section 3 (1) of the paper; google-research/rigl, `rigl/sparse_utils.py`):
//!
//! ```text
//! dense = {}
//! loop
//!     ε = (Σ_free nnz(N_l, d) − Σ_dense (N_l − nnz(N_l, d))) / Σ_free p_l · N_l
//!     if ε · max_free p_l <= 1: stop
//!     dense = dense ∪ {every free layer with p_l = max_free p}
//! ```
//!
//! Layers whose density is given by hand stand outside both sums: they neither save nor cost the others anything.
//!
//! The loop always ends with `ε > 0`: a layer goes dense only when `ε · p_max > 1`, and then the numerator exceeds
//! `Σ N_l` over the layers that go, so that something is left for the rest.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::choice::choices;

/// A distribution that cannot be.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum DistributionError {
    /// Not a density.
    #[error("{what}: density is {got}; it must be greater than 0 and at most 1")]
    Density {
        /// The network, or the override's pattern.
        what: String,
        /// Value found.
        got: f64,
    },
    /// A shape without an output and an input dimension, without weights, or with too many.
    #[error("layer {layer}: shape {shape:?} must have at least two dimensions, all positive, and fit memory addresses")]
    Shape {
        /// Name of the layer.
        layer: String,
        /// Shape found.
        shape: Vec<usize>,
    },
    /// A layer would have no weights at all.
    #[error(
        "layer {layer}: density {density} of {size} weights leaves none; the smallest density that leaves one is {smallest}"
    )]
    Empty {
        /// Name of the layer.
        layer: String,
        /// Number of its positions.
        size: usize,
        /// The density it would get.
        density: f64,
        /// The density that leaves one weight.
        smallest: f64,
    },
    /// An override that no layer answers to.
    #[error("no layer matches `{pattern}`; the layers are {layers}")]
    NoSuchLayer {
        /// The override's pattern.
        pattern: String,
        /// Names of all layers.
        layers: String,
    },
    /// Gates with densities of their own that blocks would span.
    #[error(
        "layer {layer}: gates of {rows} rows cannot have densities of their own in blocks of {block_rows} rows; a block's rows must divide a gate's"
    )]
    SplitBlocks {
        /// Name of the layer.
        layer: String,
        /// Rows of a gate.
        rows: usize,
        /// Rows of a block.
        block_rows: usize,
    },
    /// Not a power for the shape's score.
    #[error("the power of distribution erk is {got}; it must be finite and not negative")]
    Power {
        /// Value found.
        got: f64,
    },
}

/// A layer's name and the shape of its weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerShape {
    /// Name, unique in the network.
    pub name: String,
    /// `[out, in]` of a linear layer, `[out, in / groups, kernel_height, kernel_width]` of a convolution.
    pub shape: Vec<usize>,
}

impl LayerShape {
    /// A layer of this name and shape.
    pub fn new(name: impl Into<String>, shape: impl Into<Vec<usize>>) -> Self {
        Self { name: name.into(), shape: shape.into() }
    }

    /// Rows of the weight as a matrix: the outputs. 0 for a shape without dimensions.
    pub fn nrows(&self) -> usize {
        self.shape.first().copied().unwrap_or(0)
    }

    /// Columns of the weight as a matrix: the product of all dimensions but the first.
    pub fn ncols(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Positions of the weight, stored or not.
    pub fn size(&self) -> usize {
        self.nrows() * self.ncols()
    }

    fn check(&self) -> Result<(), DistributionError> {
        let size = self.shape.iter().try_fold(1usize, |product, &d| product.checked_mul(d));
        if self.shape.len() < 2 || size.is_none_or(|size| size == 0) {
            return Err(DistributionError::Shape { layer: self.name.clone(), shape: self.shape.clone() });
        }
        Ok(())
    }
}

choices! {
    /// How a network's weights are spread over its layers (section 3 (1) of the paper).
    ///
    /// ```
    /// use rigl::Distribution;
    /// assert_eq!("erk".parse(), Ok(Distribution::ErdosRenyiKernel));
    /// ```
    Distribution, "distribution":
    /// The same density in every layer.
    Uniform = "uniform",
    /// Erdős–Rényi: density proportional to (inputs + outputs) / (inputs · outputs), whatever a convolution's kernel size
    /// (Mocanu et al. 2018).
    ErdosRenyi = "er",
    /// Erdős–Rényi-Kernel: density proportional to (sum of all dimensions / their product)^power.
    ErdosRenyiKernel = "erk",
}

impl Distribution {
    /// The score `p` that a layer's density is proportional to; 1 for the uniform distribution. `power` is that of
    /// [`Distribution::ErdosRenyiKernel`]: 1 in the paper; 0 would be uniform.
    ///
    /// # Errors
    /// If the shape has fewer than two dimensions or no positions.
    pub fn raw_density(self, layer: &LayerShape, power: f64) -> Result<f64, DistributionError> {
        layer.check()?;
        let ratio = |dims: &[usize]| {
            dims.iter().map(|&d| d as f64).sum::<f64>() / dims.iter().map(|&d| d as f64).product::<f64>()
        };
        Ok(match self {
            Self::Uniform => 1.0,
            Self::ErdosRenyi => ratio(&layer.shape[..2]),
            Self::ErdosRenyiKernel => ratio(&layer.shape).powf(power),
        })
    }
}

fn check_power(power: f64) -> Result<(), DistributionError> {
    if power.is_finite() && power >= 0.0 { Ok(()) } else { Err(DistributionError::Power { got: power }) }
}

fn check_density(density: f64, what: &str) -> Result<(), DistributionError> {
    // Written so that NaN fails too.
    if density > 0.0 && density <= 1.0 {
        Ok(())
    } else {
        Err(DistributionError::Density { what: what.to_owned(), got: density })
    }
}

/// A density given by hand to the layers whose name matches a pattern. Where several match, the last one counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// A name in which `*` stands for any characters, also none.
    pub pattern: String,
    /// The density of the layers so named; 1 keeps them dense.
    pub density: f64,
}

impl Override {
    /// Whether it speaks of the layer of this name.
    pub fn matches(&self, name: &str) -> bool {
        glob_matches(&self.pattern, name)
    }
}

/// What [`solve`] gives a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerDensity {
    /// The density that the distribution asks for. `nnz / size` is at least that, by less than one weight.
    pub density: f64,
    /// Weights to store: [`nnz_for_density`].
    pub nnz: usize,
    /// Positions of the layer.
    pub size: usize,
}

/// How many of `size` positions are stored at `density`: `size − floor((1 − density) · size)`, as in
/// google-research/rigl, `rigl/sparse_utils.py`.
///
/// A product that is a whole number but for rounding counts as that number, so that density 0.1 and
/// `1.0 - 0.9` give the same count. `density` is taken to lie in `0..=1`.
///
/// ```
/// use rigl::nnz_for_density;
/// assert_eq!(nnz_for_density(30, 0.9), 27);
/// assert_eq!(nnz_for_density(8, 0.2), 2);
/// assert_eq!(nnz_for_density(10, 1.0 - 0.9), nnz_for_density(10, 0.1));
/// ```
pub fn nnz_for_density(size: usize, density: f64) -> usize {
    let zeros = (1.0 - density) * size as f64;
    // `density`, the subtraction and the product each round once, by at most ε/2 of a number up to `size`.
    let noise = 4.0 * f64::EPSILON * size as f64;
    let zeros = if (zeros - zeros.round()).abs() <= noise { zeros.round() } else { zeros.floor() };
    size.saturating_sub(zeros as usize)
}

/// The density and number of weights of every layer, in the order of `layers`, for an overall `density`.
///
/// The total differs from the uniform distribution's by less than one weight per layer, because each layer rounds up.
///
/// # Errors
/// If a density lies outside `(0, 1]`, the power of `erk` is negative or not finite, a shape has no weights, an
/// override matches no layer, or a layer would be left without weights.
///
/// # Cost
/// O(layers²) at worst; nothing depends on the number of weights.
///
/// ```
/// use rigl::{Distribution, LayerShape, Override, solve};
/// let layers = [LayerShape::new("fc1", [300, 784]), LayerShape::new("fc2", [100, 300]), LayerShape::new("fc3", [10, 100])];
/// let erk = solve(&layers, 0.1, Distribution::ErdosRenyiKernel, 1.0, &[])?;
/// assert_eq!(erk.iter().map(|l| l.nnz).collect::<Vec<_>>(), [18715, 6906, 1000]);
/// let overrides = [Override { pattern: "fc3".into(), density: 1.0 }];
/// let uniform = solve(&layers, 0.1, Distribution::Uniform, 1.0, &overrides)?;
/// assert_eq!(uniform.iter().map(|l| l.nnz).collect::<Vec<_>>(), [23520, 3000, 1000]);
/// # Ok::<(), rigl::DistributionError>(())
/// ```
pub fn solve(
    layers: &[LayerShape],
    density: f64,
    distribution: Distribution,
    power: f64,
    overrides: &[Override],
) -> Result<Vec<LayerDensity>, DistributionError> {
    check_density(density, "network")?;
    check_power(power)?;
    let by_hand = match_overrides(layers, overrides)?;
    let raw = layers.iter().map(|layer| distribution.raw_density(layer, power)).collect::<Result<Vec<_>, _>>()?;
    let densities = match distribution {
        Distribution::Uniform => by_hand.iter().map(|d| d.unwrap_or(density)).collect(),
        Distribution::ErdosRenyi | Distribution::ErdosRenyiKernel => {
            scale_raw_densities(layers, density, &raw, &by_hand)
        }
    };
    let with_counts = layers.iter().zip(densities).map(|(layer, density)| {
        let size = layer.size();
        match nnz_for_density(size, density) {
            0 => {
                Err(DistributionError::Empty { layer: layer.name.clone(), size, density, smallest: 1.0 / size as f64 })
            }
            nnz => Ok(LayerDensity { density, nnz, size }),
        }
    });
    with_counts.collect()
}

/// The density that the last matching override gives each layer.
fn match_overrides(layers: &[LayerShape], overrides: &[Override]) -> Result<Vec<Option<f64>>, DistributionError> {
    let mut by_hand = vec![None; layers.len()];
    for Override { pattern, density } in overrides {
        check_density(*density, pattern)?;
        let mut matched = false;
        for (layer, slot) in layers.iter().zip(&mut by_hand) {
            if glob_matches(pattern, &layer.name) {
                *slot = Some(*density);
                matched = true;
            }
        }
        if !matched {
            let names: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
            return Err(DistributionError::NoSuchLayer { pattern: pattern.clone(), layers: names.join(", ") });
        }
    }
    Ok(by_hand)
}

/// Whether `pattern`, in which `*` stands for any characters, is all of `name`.
fn glob_matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((prefix, rest)) => name.strip_prefix(prefix).is_some_and(|tail| {
            tail.char_indices().map(|(i, _)| i).chain([tail.len()]).any(|i| glob_matches(rest, &tail[i..]))
        }),
    }
}

/// The fix-point of the module's page.
fn scale_raw_densities(layers: &[LayerShape], density: f64, raw: &[f64], by_hand: &[Option<f64>]) -> Vec<f64> {
    let mut dense = vec![false; layers.len()];
    let epsilon = loop {
        let (mut budget, mut divisor, mut largest) = (0.0, 0.0, f64::NEG_INFINITY);
        for (l, layer) in layers.iter().enumerate().filter(|(l, _)| by_hand[*l].is_none()) {
            let (size, nnz) = (layer.size(), nnz_for_density(layer.size(), density));
            if dense[l] {
                budget -= (size - nnz) as f64;
            } else {
                budget += nnz as f64;
                divisor += raw[l] * size as f64;
                largest = largest.max(raw[l]);
            }
        }
        // Nothing is free: given by hand or, at density 1, all dense.
        if divisor == 0.0 {
            break 0.0;
        }
        let epsilon = budget / divisor;
        if epsilon * largest <= 1.0 {
            break epsilon;
        }
        for (l, p) in raw.iter().enumerate() {
            dense[l] |= by_hand[l].is_none() && *p == largest;
        }
    };
    (0..layers.len()).map(|l| by_hand[l].unwrap_or(if dense[l] { 1.0 } else { epsilon * raw[l] })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paper_models::{Model, lenet_300_100, resnet50, wrn_22_2};
    use proptest::prelude::*;

    const ERK: Distribution = Distribution::ErdosRenyiKernel;

    /// ε, read off a layer that is not dense, and the sparsity of each layer by name.
    fn solved(model: Model, sparsity: f64) -> (f64, impl Fn(&str) -> f64) {
        let shapes = model.shapes();
        let layers = solve(&shapes, 1.0 - sparsity, ERK, 1.0, &[]).unwrap();
        let free = layers.iter().position(|l| l.density < 1.0).unwrap();
        let epsilon = layers[free].density / ERK.raw_density(&shapes[free], 1.0).unwrap();
        let lookup = move |name: &str| {
            1.0 - layers[shapes.iter().position(|s| s.name == name).unwrap_or_else(|| panic!("{name}"))].density
        };
        (epsilon, lookup)
    }

    /// google-research/rigl, `rigl/sparse_utils_test.py`: shapes (30, 4) at .5, (1, 2, 1, 4) at .8 and (30,) at .1.
    #[test]
    fn counts_of_the_authors_tests() {
        assert_eq!(nnz_for_density(120, 0.5), 60);
        assert_eq!(nnz_for_density(8, 1.0 - 0.8), 2);
        assert_eq!(nnz_for_density(30, 1.0 - 0.1), 27);
    }

    #[test]
    fn density_and_one_minus_sparsity_give_the_same_count() {
        let per_mille = [5, 10, 35, 50, 62, 100, 125, 200, 250, 300, 333, 500, 700, 750, 900, 990, 1000];
        let large = [1_000_000, 2_048_000, 25_502_912, 1_000_000_000_000];
        for size in (1..3000).chain(large) {
            for d in per_mille {
                let exact = size - size * (1000 - d) / 1000;
                let density = d as f64 / 1000.0;
                let sparsity = (1000 - d) as f64 / 1000.0;
                assert_eq!(nnz_for_density(size, density), exact, "{size} at density {density}");
                assert_eq!(nnz_for_density(size, 1.0 - sparsity), exact, "{size} at sparsity {sparsity}");
            }
        }
    }

    /// ε to the digits that the published sparsities fix.
    #[test]
    fn resnet50_epsilon() {
        assert_eq!(resnet50().layers.len(), 54);
        assert_eq!(resnet50().shapes().iter().map(LayerShape::size).sum::<usize>(), 25_502_912);
        for (sparsity, expected, digits) in [
            (0.8, 99.5617, 1e-4),
            (0.9, 48.7866, 1e-4),
            (0.95, 24.372, 1e-3),
            (0.965, 17.061, 1e-3),
            (0.99, 4.8748, 1e-4),
        ] {
            let (epsilon, _) = solved(resnet50(), sparsity);
            assert!((epsilon - expected).abs() < 0.6 * digits, "{sparsity}: {epsilon}, expected {expected}");
        }
    }

    #[test]
    fn resnet50_layers() {
        let near = |name: &str, got: f64, expected: f64| {
            assert!((got - expected).abs() < 6e-5, "{name}: {got}, expected {expected}");
        };
        let (_, at) = solved(resnet50(), 0.8);
        for dense in [
            "stage2.0.conv1",
            "stage2.0.conv3",
            "stage2.0.shortcut",
            "stage2.1.conv1",
            "stage2.1.conv3",
            "stage2.2.conv1",
            "stage2.2.conv3",
            "stage3.0.conv1",
        ] {
            assert_eq!(at(dense), 0.0, "{dense}");
        }
        for (name, expected) in [
            ("conv1", 0.1428),
            ("stage2.0.conv2", 0.6381),
            ("stage3.1.conv2", 0.8231),
            ("stage3.0.conv3", 0.0247),
            ("stage3.1.conv1", 0.0247),
            ("stage3.0.shortcut", 0.4151),
            ("stage4.0.conv1", 0.4151),
            ("stage4.1.conv2", 0.9126),
            ("stage4.1.conv1", 0.5131),
            ("stage4.0.shortcut", 0.7079),
            ("stage5.0.conv1", 0.7079),
            ("stage5.1.conv2", 0.9565),
            ("stage5.1.conv1", 0.7567),
            ("stage5.0.shortcut", 0.8541),
            ("fc", 0.8518),
        ] {
            near(name, at(name), expected);
        }
        let (_, at) = solved(resnet50(), 0.9);
        for (name, expected) in [
            ("conv1", 0.58),
            ("stage2.0.conv1", 0.0),
            ("stage2.1.conv1", 0.0412),
            ("stage2.0.shortcut", 0.0412),
            ("stage2.0.conv2", 0.8227),
            ("stage3.0.conv1", 0.4253),
            ("stage3.1.conv2", 0.9133),
            ("stage3.1.conv1", 0.5221),
            ("stage3.0.shortcut", 0.7134),
            ("stage4.0.conv1", 0.7134),
            ("stage4.1.conv2", 0.9572),
            ("stage4.1.conv1", 0.7614),
            ("stage4.0.shortcut", 0.8569),
            ("stage5.0.conv1", 0.8569),
            ("stage5.1.conv2", 0.9787),
            ("stage5.1.conv1", 0.8808),
            ("stage5.0.shortcut", 0.9285),
            ("fc", 0.9274),
        ] {
            near(name, at(name), expected);
        }
    }

    #[test]
    fn wrn_22_2_layers() {
        let model = wrn_22_2();
        assert_eq!(model.layers.len(), 23);
        assert_eq!(model.shapes().iter().map(LayerShape::size).sum::<usize>(), 1_076_912);
        let (epsilon, at) = solved(model, 0.8);
        assert!((epsilon - 75.6077).abs() < 6e-5, "{epsilon}");
        for name in ["conv1", "fc", "group2.0.skip", "group3.0.skip", "group4.0.skip"] {
            assert_eq!(at(name), 0.0, "{name}");
        }
        let (epsilon, at) = solved(wrn_22_2(), 0.9);
        assert!((epsilon - 35.938).abs() < 6e-4, "{epsilon}");
        for (name, expected) in [
            ("conv1", 0.0),
            ("fc", 0.0),
            ("group2.0.skip", 0.0),
            ("group3.0.skip", 0.0),
            ("group4.0.skip", 0.1489),
            ("group2.0.conv1", 0.5788),
            ("group2.1.conv2", 0.7270),
            ("group3.0.conv1", 0.8011),
            ("group3.2.conv1", 0.8694),
            ("group4.0.conv1", 0.9035),
            ("group4.0.conv2", 0.9361),
        ] {
            assert!((at(name) - expected).abs() < 6e-5, "{name}: {}, expected {expected}", at(name));
        }
    }

    #[test]
    fn lenet_300_100_layers() {
        for (sparsity, expected) in
            [(0.9, [0.92043, 0.76981, 0.0]), (0.95, [0.96152, 0.88867, 0.08149]), (0.98, [0.98461, 0.95547, 0.63260])]
        {
            let (epsilon, at) = solved(lenet_300_100(), sparsity);
            if sparsity == 0.9 {
                assert!((epsilon - 17.264).abs() < 6e-4, "{epsilon}");
            }
            for (name, expected) in ["fc1", "fc2", "fc3"].iter().zip(expected) {
                assert!((at(name) - expected).abs() < 6e-6, "{sparsity} {name}: {}", at(name));
            }
        }
    }

    #[test]
    fn equal_scores_go_dense_together() {
        // Two equal small layers and a large one: at once, not one after the other.
        let layers = [LayerShape::new("a", [4, 4]), LayerShape::new("b", [4, 4]), LayerShape::new("c", [100, 100])];
        let got = solve(&layers, 0.2, ERK, 1.0, &[]).unwrap();
        assert_eq!((got[0].nnz, got[1].nnz), (16, 16));
        assert_eq!(got[2].nnz, 4 + 4 + 2000 - 32);
    }

    #[test]
    fn density_one_is_dense_everywhere() {
        for distribution in [Distribution::Uniform, Distribution::ErdosRenyi, ERK] {
            for layer in solve(&resnet50().shapes(), 1.0, distribution, 1.0, &[]).unwrap() {
                assert_eq!(layer.nnz, layer.size);
            }
        }
        assert_eq!(solve(&[], 0.5, ERK, 1.0, &[]), Ok(vec![]));
    }

    #[test]
    fn erdos_renyi_ignores_the_kernel() {
        let layers = [LayerShape::new("a", [64, 64, 3, 3]), LayerShape::new("b", [64, 64, 1, 1])];
        let got = solve(&layers, 0.1, Distribution::ErdosRenyi, 1.0, &[]).unwrap();
        assert_eq!(got[0].density, got[1].density);
    }

    #[test]
    fn overrides_stand_outside_the_budget() {
        let shapes = lenet_300_100().shapes();
        let by_hand = |pattern: &str, density| Override { pattern: pattern.into(), density };
        let got = solve(&shapes, 0.1, ERK, 1.0, &[by_hand("*3", 1.0)]).unwrap();
        let without = solve(&shapes[..2], 0.1, ERK, 1.0, &[]).unwrap();
        assert_eq!((got[0], got[1], got[2].nnz), (without[0], without[1], 1000));
        // The last match counts.
        let got = solve(&shapes, 0.1, ERK, 1.0, &[by_hand("*", 0.5), by_hand("fc1", 0.25)]).unwrap();
        assert_eq!(got.iter().map(|l| l.density).collect::<Vec<_>>(), [0.25, 0.5, 0.5]);
    }

    #[test]
    fn globs() {
        for (pattern, name, expected) in [
            ("fc1", "fc1", true),
            ("fc1", "fc10", false),
            ("fc*", "fc", true),
            ("*.conv2", "stage2.0.conv2", true),
            ("stage*.0.*", "stage2.0.conv2", true),
            ("stage*.0.*", "stage2.1.conv2", false),
            ("**", "", true),
            ("*a*b", "xaab", true),
            ("*a*b", "xaaba", false),
            ("", "a", false),
            ("*é", "né", true),
        ] {
            assert_eq!(glob_matches(pattern, name), expected, "{pattern} on {name}");
        }
    }

    #[test]
    fn impossible_requests_are_named() {
        let shapes = lenet_300_100().shapes();
        let text = |result: Result<Vec<LayerDensity>, DistributionError>| result.unwrap_err().to_string();
        for density in [0.0, -0.1, 1.5, f64::NAN] {
            let error = text(solve(&shapes, density, ERK, 1.0, &[]));
            assert_eq!(error, format!("network: density is {density}; it must be greater than 0 and at most 1"));
        }
        let unmatched = [Override { pattern: "conv*".into(), density: 1.0 }];
        let error = text(solve(&shapes, 0.1, ERK, 1.0, &unmatched));
        assert_eq!(error, "no layer matches `conv*`; the layers are fc1, fc2, fc3");
        let negative = [Override { pattern: "fc*".into(), density: 0.0 }];
        assert!(text(solve(&shapes, 0.1, ERK, 1.0, &negative)).starts_with("fc*: density is 0;"));
        let error = text(solve(&shapes, 1e-18, Distribution::Uniform, 1.0, &[]));
        assert!(error.starts_with("layer fc1: density 0.000000000000000001 of 235200 weights leaves none;"), "{error}");
        for shape in [vec![], vec![30], vec![0, 3], vec![usize::MAX, 2]] {
            let error = text(solve(&[LayerShape::new("odd", shape)], 0.1, ERK, 1.0, &[]));
            assert!(error.starts_with("layer odd: shape ["), "{error}");
        }
        assert!(text(solve(&shapes, 0.1, ERK, -1.0, &[])).contains("power of distribution erk is -1"));
    }

    #[test]
    fn names_are_read_back() {
        for distribution in [Distribution::Uniform, Distribution::ErdosRenyi, ERK] {
            assert_eq!(distribution.to_string().parse(), Ok(distribution));
        }
        for wrong in ["", "ERK", "erk:", "erk:1", "erdos_renyi "] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong}");
        }
    }

    fn totals(layers: &[LayerDensity]) -> i64 {
        layers.iter().map(|l| (l.size - l.nnz) as i64).sum()
    }

    fn random_layers(count: std::ops::RangeInclusive<usize>) -> impl Strategy<Value = Vec<LayerShape>> {
        let dims = prop_oneof![
            (1usize..200, 1usize..200).prop_map(|(o, i)| vec![o, i]),
            (1usize..64, 1usize..64, 1usize..6).prop_map(|(o, i, k)| vec![o, i, k, k]),
        ];
        prop::collection::vec(dims, count)
            .prop_map(|all| all.into_iter().enumerate().map(|(l, d)| LayerShape::new(format!("l{l}"), d)).collect())
    }

    proptest! {
        /// As in google-research/rigl, `rigl/sparse_utils_test.py`, whose networks have up to three layers.
        #[test]
        fn zeros_equal_those_of_uniform_within_two(layers in random_layers(1..=3), density in 0.01..1.0f64) {
            let uniform = totals(&solve(&layers, density, Distribution::Uniform, 1.0, &[]).unwrap());
            for (distribution, power) in [(Distribution::ErdosRenyi, 1.0), (ERK, 1.0), (ERK, 0.3)] {
                let zeros = totals(&solve(&layers, density, distribution, power, &[]).unwrap());
                prop_assert!((zeros - uniform).abs() <= 2, "{distribution}: {zeros}, uniform {uniform}");
            }
        }

        /// Each layer rounds up by less than one weight, so more layers may differ by more.
        #[test]
        fn zeros_equal_those_of_uniform_within_the_layers(layers in random_layers(4..=40), density in 0.01..1.0f64) {
            let uniform = totals(&solve(&layers, density, Distribution::Uniform, 1.0, &[]).unwrap());
            let zeros = totals(&solve(&layers, density, ERK, 1.0, &[]).unwrap());
            prop_assert!((0..layers.len() as i64).contains(&(uniform - zeros)), "{zeros}, uniform {uniform}");
        }
    }
}
