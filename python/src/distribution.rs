//! How many weights each layer has.

use pyo3::prelude::*;
use rigl::{Distribution, LayerShape};

use crate::value_error;

/// How many weights each layer has, for a density of all of them together.
#[pyfunction]
pub fn solve(layers: Vec<(String, Vec<usize>)>, density: f64, distribution: &str, power: f64) -> PyResult<Vec<usize>> {
    let distribution: Distribution = distribution.parse().map_err(value_error)?;
    let layers: Vec<_> = layers.into_iter().map(|(name, shape)| LayerShape::new(name, shape)).collect();
    let solved = rigl::solve(&layers, density, distribution, power, &[]).map_err(value_error)?;
    Ok(solved.into_iter().map(|layer| layer.nnz).collect())
}
