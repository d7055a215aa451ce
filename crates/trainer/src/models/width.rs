//! Factors on a network's channels that give it the size of another: the paper's small-dense and big-sparse networks. Of a
//! multi-layer perceptron, the hidden layers' features take the channels' place.

use rigl::DistributionError;

use super::{Architecture, ModelSpec, Sparsification};
use crate::method::Method;
use crate::models::ModelName;

/// Published widths: model, density, width of the dense network of the same size (google-research/rigl, the notebooks
/// `Resnet_50_Param_Flops_Counting` and `MobileNet_Counting`).
const SMALL_DENSE: [(&str, f64, f64); 8] = [
    ("resnet-50", 0.2, 0.465),
    ("resnet-50", 0.1, 0.34),
    ("resnet-50", 0.05, 0.26),
    ("resnet-50", 0.035, 0.231),
    ("mobilenet-v1", 0.25, 0.47),
    ("mobilenet-v1", 0.15, 0.353),
    ("mobilenet-v1", 0.1, 0.285),
    ("mobilenet-v1", 0.05, 0.204),
];

/// The same of the sparse network of the size of the dense one of width 1.
const BIG_SPARSE: [(&str, f64, f64); 4] = [
    ("mobilenet-v1", 0.25, 1.98),
    ("mobilenet-v1", 0.15, 2.52),
    ("mobilenet-v1", 0.1, 3.0),
    ("mobilenet-v1", 0.05, 3.98),
];

/// Widths that are tried have three decimals, up to this many thousandths.
const MOST_THOUSANDTHS: u32 = 16_000;

/// The same network with its channels, or the features of its hidden layers, of width 1 times `width`: rounded down, at least 1.
pub fn scaled(spec: &ModelSpec, width: f64) -> ModelSpec {
    let [input, hidden @ .., classes] = spec.name.sizes() else { return spec.clone().with_width(width) };
    let hidden = hidden.iter().map(|&features| ((features as f64 * width) as usize).max(1));
    let sizes = [*input].into_iter().chain(hidden).chain([*classes]).collect();
    ModelSpec::of(&ModelName::of_sizes(sizes))
}

/// The width, for [`scaled`], at which the dense network takes as many bytes as the sparse one of `spec` does, in the paper's
/// format (with a bit for each position of a sparse layer): the published one, else the largest of three decimals that takes
/// no more.
///
/// # Errors
/// If the sparse network is impossible.
pub fn small_dense(spec: &ModelSpec, sparse: &Sparsification) -> Result<f64, DistributionError> {
    if let Some(width) = published(&SMALL_DENSE, spec, sparse.density) {
        return Ok(width);
    }
    let dense = Sparsification { method: Method::named("dense"), density: 1.0, ..sparse.clone() };
    let target = size(spec, sparse)?;
    largest(target, |width| size(&scaled(spec, width), &dense))
}

/// The width, for [`scaled`], at which the sparse network takes as many bytes as the dense one of `spec` does, in the paper's
/// format: the published one, else the largest of three decimals that takes no more.
///
/// # Errors
/// If the sparse network is impossible.
pub fn big_sparse(spec: &ModelSpec, sparse: &Sparsification) -> Result<f64, DistributionError> {
    if let Some(width) = published(&BIG_SPARSE, spec, sparse.density) {
        return Ok(width);
    }
    let dense = Sparsification { method: Method::named("dense"), density: 1.0, ..sparse.clone() };
    let target = size(spec, &dense)?;
    largest(target, |width| size(&scaled(spec, width), sparse))
}

fn published(table: &[(&str, f64, f64)], spec: &ModelSpec, density: f64) -> Option<f64> {
    let (of_the_paper, model) = (ModelSpec::of(&spec.name) == *spec, spec.name.to_string());
    let entry = table.iter().find(|(name, d, _)| of_the_paper && *name == model && (d - density).abs() < 1e-9);
    entry.map(|&(_, _, width)| width)
}

/// Bytes in the paper's format.
fn size(spec: &ModelSpec, sparsification: &Sparsification) -> Result<f64, DistributionError> {
    let architecture = Architecture::new(spec).expect("a width changes no picture's size");
    let solved = sparsification.solve(&architecture)?;
    let layers = architecture.layers.iter().zip(solved);
    Ok(layers.map(|(layer, solved)| layer.geometry().paper_size_bytes(solved.nnz as f64 / solved.size as f64)).sum())
}

/// Bytes grow with the width, but for rounding.
fn largest(target: f64, size: impl Fn(f64) -> Result<f64, DistributionError>) -> Result<f64, DistributionError> {
    let (mut low, mut high) = (1, MOST_THOUSANDTHS);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if size(f64::from(middle) / 1000.0)? <= target { low = middle } else { high = middle - 1 }
    }
    Ok(f64::from(low) / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Format, LayerRule};
    use rigl::Distribution;

    fn sparse(density: f64) -> Sparsification {
        Sparsification {
            method: Method::named("rigl"),
            density,
            format: Format::Csr,
            distribution: Distribution::ErdosRenyiKernel,
            erk_power: 1.0,
            layer_rule: LayerRule::Distribution,
            overrides: vec![],
        }
    }

    /// The notebooks' widths come from matching sizes by hand; what is solved for lies near them.
    #[test]
    fn what_is_solved_lies_near_what_is_published() {
        for (table, of_small) in [(&SMALL_DENSE[..], true), (&BIG_SPARSE[..], false)] {
            for (name, density, width) in table {
                // Another number of classes by nothing but name: the published width does not apply.
                let spec = ModelSpec::of(&name.parse().unwrap()).on(3, [224, 224], 1001);
                let found =
                    if of_small { small_dense(&spec, &sparse(*density)) } else { big_sparse(&spec, &sparse(*density)) };
                let found = found.unwrap();
                assert!((found / width - 1.0).abs() < 0.1, "{name} at {density}: {found}, published {width}");
            }
        }
    }

    /// Hidden layers are scaled, inputs and classes stay.
    #[test]
    fn sizes_of_perceptrons_match() {
        let spec = ModelSpec::of(&ModelName::Lenet300x100);
        assert_eq!(scaled(&spec, 0.0501).name.sizes(), [784, 15, 5, 10]);
        assert_eq!(scaled(&spec, 0.001).name.sizes(), [784, 1, 1, 10]);
        assert_eq!(scaled(&spec, 1.0).name, ModelName::Lenet300x100);
        let dense = Sparsification { method: Method::named("dense"), density: 1.0, ..sparse(0.1) };
        for density in [0.1, 0.02] {
            let sparse = sparse(density);
            let (small, wide) = (small_dense(&spec, &sparse).unwrap(), big_sparse(&spec, &sparse).unwrap());
            let [target, whole] = [&sparse, &dense].map(|how| size(&spec, how).unwrap());
            let got = size(&scaled(&spec, small), &dense).unwrap();
            assert!(got <= target && got > 0.9 * target, "{density}: width {small}: {got} of {target}");
            let got = size(&scaled(&spec, wide), &sparse).unwrap();
            assert!(got <= whole && got > 0.99 * whole, "{density}: width {wide}: {got} of {whole}");
        }
        // A network that is wide already is what counts.
        let wrn = ModelSpec::of(&"wrn-22-2".parse().unwrap());
        let [narrow, wide] = [1.0, 2.0].map(|width| small_dense(&wrn.clone().with_width(width), &sparse(0.1)).unwrap());
        assert!(wide > 1.8 * narrow && wide < 2.2 * narrow, "{narrow} {wide}");
    }

    #[test]
    fn sizes_match() {
        let spec = ModelSpec::of(&"wrn-22-2".parse().unwrap());
        let dense = Sparsification { method: Method::named("dense"), density: 1.0, ..sparse(0.1) };
        let width = small_dense(&spec, &sparse(0.1)).unwrap();
        let target = size(&spec, &sparse(0.1)).unwrap();
        let got = size(&spec.clone().with_width(width), &dense).unwrap();
        assert!(got <= target && got > 0.95 * target, "width {width}: {got} of {target}");
        let width = big_sparse(&spec, &sparse(0.1)).unwrap();
        let target = size(&spec, &dense).unwrap();
        let got = size(&spec.with_width(width), &sparse(0.1)).unwrap();
        assert!(got <= target && got > 0.99 * target, "width {width}: {got} of {target}");
    }
}
