//! Densities of single gates of recurrent layers, whose rows stand below each other in one weight.
//!
//! They set the first pattern. A method that moves weights then ranks the whole weight, so weights move between its gates.

use std::sync::Arc;

use rigl::topology::random_pattern;
use rigl::{DistributionError, LayerDensity, Override, TopologyError, nnz_for_density};
use sparse_kernels::CsrPattern;
use sparse_kernels::random::Key;

use super::graph::WeightLayer;
use super::sparsification::{DensityOverride, Format};

/// Whether an override speaks of a layer or gate of this name.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    Override { pattern: pattern.to_owned(), density: 1.0 }.matches(name)
}

/// The gates of a layer for which densities are given, in whole blocks.
pub(super) struct Gates<'a> {
    layer: &'a WeightLayer,
    /// Rows and columns of a block.
    block: [usize; 2],
    /// The density of each gate for which there is one.
    given: Vec<Option<f64>>,
}

impl<'a> Gates<'a> {
    /// Those of a layer of `layers`; none if no override speaks of them: one that matches the name of a layer speaks of layers.
    pub(super) fn of(
        layer: &'a WeightLayer,
        layers: &[WeightLayer],
        format: Format,
        overrides: &[DensityOverride],
    ) -> Option<Self> {
        let mut given = vec![None; layer.gates.len()];
        for DensityOverride { pattern, density } in overrides {
            if layers.iter().any(|layer| matches(pattern, &layer.name)) {
                continue;
            }
            for (gate, given) in layer.gates.iter().zip(&mut given) {
                if matches(pattern, &format!("{}.{gate}", layer.name)) {
                    *given = *density;
                }
            }
        }
        let block = match format {
            Format::Csr => [1, 1],
            Format::Bsr(block) => block,
        };
        given.iter().any(Option::is_some).then_some(Self { layer, block, given })
    }

    fn rows(&self) -> usize {
        self.layer.rows() / self.given.len()
    }

    /// Blocks of a gate at a density: at least one.
    fn blocks(&self, density: f64) -> usize {
        let [r, c] = self.block;
        let columns = self.layer.columns();
        let nnz = nnz_for_density(self.rows() * columns, density);
        let most = (self.rows() / r) * columns.div_ceil(c);
        ((nnz + r * c / 2) / (r * c)).clamp(1, most)
    }

    /// What the layer has where gates without a density have that of `solved`.
    pub(super) fn solve(&self, solved: LayerDensity) -> Result<LayerDensity, DistributionError> {
        let [r, c] = self.block;
        if !self.rows().is_multiple_of(r) {
            let layer = self.layer.name.clone();
            return Err(DistributionError::SplitBlocks { layer, rows: self.rows(), block_rows: r });
        }
        let blocks: usize = self.given.iter().map(|given| self.blocks(given.unwrap_or(solved.density))).sum();
        let nnz = (blocks * r * c).min(solved.size);
        Ok(LayerDensity { density: nnz as f64 / solved.size as f64, nnz, size: solved.size })
    }

    /// A pattern of so many blocks, of which gates without a density have equally many.
    pub(super) fn random_pattern(&self, blocks: usize, key: Key) -> Result<Arc<CsrPattern>, TopologyError> {
        let [r, c] = self.block;
        let (rows, columns) = (self.rows() / r, self.layer.columns().div_ceil(c));
        let of_given = |given: &Option<f64>| given.map(|density| self.blocks(density));
        let mut counts: Vec<_> = self.given.iter().map(of_given).collect();
        let mut rest = blocks.saturating_sub(counts.iter().flatten().sum());
        let mut others = counts.iter().filter(|count| count.is_none()).count();
        for count in &mut counts {
            if count.is_none() {
                let share = rest.div_ceil(others);
                *count = Some(share);
                (rest, others) = (rest - share, others - 1);
            }
        }
        let mut positions = Vec::with_capacity(blocks);
        for ((gate, count), first) in self.layer.gates.iter().zip(counts.into_iter().flatten()).zip((0..).step_by(rows))
        {
            let pattern = random_pattern(rows, columns, count, key.with_name(gate))?;
            positions.extend(pattern.positions().map(|(row, column)| (row + first, column)));
        }
        Ok(Arc::new(CsrPattern::from_positions(rows * self.given.len(), columns, positions)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Architecture, Init, Initialization, StoredModel, StoredWeight};
    use crate::settings::TrainConfig;

    fn solved(overrides: &[&str], format: &str) -> Result<(Architecture, TrainConfig, Vec<LayerDensity>), String> {
        let architecture = Architecture::of(&"gru-24".parse().unwrap());
        let config = TrainConfig {
            density: 0.25,
            format: format.parse().unwrap(),
            distribution: rigl::Distribution::Uniform,
            density_override: overrides.iter().map(|o| o.parse().unwrap()).collect(),
            ..TrainConfig::default()
        };
        let densities = config.sparsification().solve(&architecture).map_err(|e| e.to_string())?;
        Ok((architecture, config, densities))
    }

    /// Stored entries of each gate of the layer's first pattern.
    fn entries(overrides: &[&str], format: &str, name: &str) -> Vec<usize> {
        let (architecture, config, densities) = solved(overrides, format).unwrap();
        let initialization = Initialization { init: Init::SparseFanIn, ..config.initialization() };
        let model = StoredModel::random(&architecture, &densities, initialization).unwrap();
        let layer = architecture.layers.iter().position(|layer| layer.name == name).unwrap();
        assert_eq!(model.layers[layer].weight.nnz(), densities[layer].nnz);
        let (pattern, per_block) = match &model.layers[layer].weight {
            StoredWeight::Sparse(csr) => (csr.pattern().clone(), 1),
            StoredWeight::BlockSparse(bsr) => {
                let [r, c] = bsr.pattern().block_size();
                (bsr.pattern().blocks().clone(), r * c)
            }
            StoredWeight::Dense { .. } => panic!("{name} is dense"),
        };
        let rows = pattern.nrows() / 3;
        let of_gate = |gate| (gate * rows..(gate + 1) * rows).map(|row| pattern.row(row).len() * per_block).sum();
        (0..3).map(of_gate).collect()
    }

    #[test]
    fn gates_have_the_densities_given() {
        assert_eq!(entries(&["gru.l0.state.new=0.5"], "csr", "gru.l0.state"), [144, 144, 288]);
        assert_eq!(entries(&["gru.l0.state=0.125", "*.new=1"], "csr", "gru.l0.state"), [72, 72, 576]);
        assert_eq!(entries(&["gru.l0.state.*=0.5", "*.reset=free"], "csr", "gru.l0.state"), [144, 288, 288]);
        // 128 columns: 8 rows of one block each are a gate's 24.
        assert_eq!(entries(&["gru.l0.input.update=0.5"], "bsr8x8", "gru.l0.input"), [768, 1536, 768]);
    }

    #[test]
    fn other_layers_keep_theirs() {
        let nnz = |overrides: &[&str]| {
            let (_, _, densities) = solved(overrides, "csr").unwrap();
            densities.iter().map(|d| d.nnz).collect::<Vec<_>>()
        };
        let (with, without) = (nnz(&["gru.l0.state.new=0.5"]), nnz(&[]));
        let changed: Vec<_> = with.iter().zip(&without).map(|(with, without)| with - without).collect();
        assert_eq!(changed.iter().filter(|&&change| change > 0).collect::<Vec<_>>(), [&144]);
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let error = |overrides: &[&str], format: &str| solved(overrides, format).unwrap_err();
        let message = error(&["gru.l0.state.forget=0.5"], "csr");
        assert!(message.contains("gru.l0.state (gates: gru.l0.state.{reset,update,new})"), "{message}");
        let message = error(&["gru.l0.state.new=0.5"], "bsr16x1");
        assert!(message.contains("gates of 24 rows") && message.contains("blocks of 16 rows"), "{message}");
    }
}
