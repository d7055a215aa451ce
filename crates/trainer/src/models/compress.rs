//! Removal of dead units from a sparse multi-layer perceptron (appendix B of the paper).
//!
//! ```text
//! until nothing changes:
//!     an input or hidden unit without a connection to a living unit dies
//!     a hidden unit without a connection from a living unit dies; what it always says, max(0, bias), moves into the
//!     biases of the units that read it
//! ```
//!
//! The network computes what it did before. google-research/rigl (`rigl/mnist/mnist_train_eval.py`, `get_compressed_fc`)
//! removes the same units and forgets what those without inputs say. A stored weight of zero is a connection.

use std::sync::Arc;

use sparse_kernels::{Csr, CsrPattern};

use super::{StoredLayer, StoredModel, StoredWeight};
use crate::checkpoint::CheckpointError;

/// A network without dead units.
#[derive(Debug, Clone, PartialEq)]
pub struct Compressed {
    /// The network. It reads as many inputs as before, so that it reads the same data; the columns of dead inputs are empty.
    pub model: StoredModel,
    /// The inputs that are connected, in order.
    pub inputs: Vec<usize>,
}

impl Compressed {
    /// The network that is left of `model`.
    ///
    /// # Errors
    /// [`CheckpointError::Mismatch`] if it is not a multi-layer perceptron, or no input is connected to an output.
    pub fn of(model: &StoredModel) -> Result<Self, CheckpointError> {
        if model.parts.is_some() {
            return Err(CheckpointError::mismatch("the model", model.name(), "a multi-layer perceptron"));
        }
        let mut layers: Vec<Connections> = model.layers.iter().map(Connections::of).collect();
        // Of the inputs, of each hidden layer's units, and of the outputs, which always live.
        let mut alive: Vec<Vec<bool>> = vec![vec![true; layers[0].columns]];
        alive.extend(layers.iter().map(|layer| vec![true; layer.rows.len()]));
        let levels = alive.len();
        loop {
            let mut changed = false;
            for level in 0..levels - 1 {
                let mut read = vec![false; alive[level].len()];
                for (_, entries) in layers[level].rows.iter().enumerate().filter(|(row, _)| alive[level + 1][*row]) {
                    entries.iter().for_each(|&(column, _)| read[column] = true);
                }
                let is_hidden = level > 0;
                for unit in (0..alive[level].len()).filter(|&unit| alive[level][unit]).collect::<Vec<_>>() {
                    let silent = is_hidden && layers[level - 1].rows[unit].iter().all(|&(c, _)| !alive[level - 1][c]);
                    if silent {
                        let says = layers[level - 1].bias[unit].max(0.0);
                        layers[level].say(unit, says);
                    }
                    if silent || !read[unit] {
                        alive[level][unit] = false;
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        if alive.iter().any(|level| !level.contains(&true)) {
            return Err(CheckpointError::mismatch("connections from inputs to outputs", "none", "at least one"));
        }
        let inputs = (0..alive[0].len()).filter(|&input| alive[0][input]).collect();
        // The first layer keeps its columns.
        let columns_of_first = vec![true; alive[0].len()];
        let kept = |(level, (layer, connections)): (usize, (&StoredLayer, Connections))| {
            let columns = if level == 0 { &columns_of_first } else { &alive[level] };
            connections.kept(layer.name.clone(), columns, &alive[level], &alive[level + 1])
        };
        let layers = model.layers.iter().zip(layers).enumerate().map(kept).collect();
        Ok(Self { model: StoredModel { layers, ..model.clone() }, inputs })
    }

    /// Connected inputs, living hidden units, and outputs.
    pub fn sizes(&self) -> Vec<usize> {
        let units = self.model.layers.iter().map(|layer| layer.bias.len());
        std::iter::once(self.inputs.len()).chain(units).collect()
    }

    /// Positions of the weight matrices between living units.
    pub fn size(&self) -> usize {
        self.sizes().windows(2).map(|pair| pair[0] * pair[1]).sum()
    }

    /// Bytes in the paper's format: a bit for each position, 4 bytes for each weight and each bias.
    pub fn bitmask_bytes(&self) -> f64 {
        let biases: usize = self.sizes()[1..].iter().sum();
        self.size() as f64 / 8.0 + 4.0 * (self.model.nnz() + biases) as f64
    }
}

/// A layer, row by row.
struct Connections {
    columns: usize,
    rows: Vec<Vec<(usize, f32)>>,
    bias: Vec<f32>,
}

impl Connections {
    fn of(layer: &StoredLayer) -> Self {
        let [nrows, columns] = layer.weight.shape();
        let rows = match &layer.weight {
            StoredWeight::Sparse(csr) => {
                let entries = |row: usize| {
                    let range = csr.pattern().row_range(row);
                    let columns = csr.pattern().row(row).iter().map(|&column| column as usize);
                    columns.zip(csr.values()[range].iter().copied()).collect()
                };
                (0..nrows).map(entries).collect()
            }
            // Blocks and dense matrices have all positions of theirs; a zero in them is none that was learned.
            other => {
                let values = other.to_dense();
                let entries =
                    |row: &[f32]| row.iter().copied().enumerate().filter(|(_, value)| *value != 0.0).collect();
                values.chunks(columns.max(1)).map(entries).collect()
            }
        };
        Self { columns, rows, bias: layer.bias.clone() }
    }

    /// Adds to the biases what follows from a unit that always says the same.
    fn say(&mut self, unit: usize, says: f32) {
        for (row, bias) in self.rows.iter().zip(&mut self.bias) {
            *bias += row.iter().filter(|(column, _)| *column == unit).map(|(_, weight)| weight * says).sum::<f32>();
        }
    }

    /// The connections between living units, in a matrix of the `columns` and the living rows.
    fn kept(self, name: String, columns: &[bool], from: &[bool], to: &[bool]) -> StoredLayer {
        let place: Vec<u32> = columns
            .iter()
            .scan(0, |next, &keep| {
                let place = *next;
                *next += u32::from(keep);
                Some(place)
            })
            .collect();
        let ncols = columns.iter().filter(|keep| **keep).count();
        let (mut offsets, mut indices, mut values, mut bias) = (vec![0], vec![], vec![], vec![]);
        for ((row, b), _) in self.rows.iter().zip(&self.bias).zip(to).filter(|(_, keep)| **keep) {
            for &(column, value) in row.iter().filter(|(column, _)| from[*column]) {
                indices.push(place[column]);
                values.push(value);
            }
            offsets.push(indices.len() as u32);
            bias.push(*b);
        }
        let pattern = CsrPattern::new(bias.len(), ncols, offsets, indices).expect("a part of a pattern is one");
        let csr = Csr::new(Arc::new(pattern), values).expect("there is one value per entry");
        StoredLayer { name, weight: StoredWeight::Sparse(csr), bias }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sparse_kernels::random::Key;

    use super::*;

    fn layer(name: &str, ncols: usize, rows: &[&[(u32, f32)]], bias: &[f32]) -> StoredLayer {
        let offsets = (0..=rows.len()).map(|row| rows[..row].iter().map(|r| r.len() as u32).sum()).collect();
        let (columns, values) = rows.iter().copied().flatten().copied().unzip();
        let pattern = CsrPattern::new(rows.len(), ncols, offsets, columns).unwrap();
        let csr = Csr::new(Arc::new(pattern), values).unwrap();
        StoredLayer { name: name.to_owned(), weight: StoredWeight::Sparse(csr), bias: bias.to_vec() }
    }

    fn model(layers: Vec<StoredLayer>) -> StoredModel {
        StoredModel { input: None, layers, parts: None }
    }

    fn run(model: &StoredModel, x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        for (i, layer) in model.layers.iter().enumerate() {
            let last = i + 1 == model.layers.len();
            let weights = layer.weight.to_dense();
            let product = |(row, bias): (&[f32], &f32)| bias + row.iter().zip(&x).map(|(w, x)| w * x).sum::<f32>();
            let y = weights.chunks(x.len()).zip(&layer.bias).map(product);
            x = y.map(|y| if last { y } else { y.max(0.0) }).collect();
        }
        x
    }

    /// Inputs 0–3, hidden units 0–3, outputs 0 and 1. Unit 1 reads nothing and says 2; unit 2 is read by none, and with it
    /// input 3 dies; unit 3 reads nothing and says nothing. Input 1 has no connection at all.
    #[test]
    fn dead_units_by_hand() {
        let first = layer("fc1", 4, &[&[(0, 0.5), (2, -1.0)], &[], &[(0, 1.0), (3, 1.0)], &[]], &[0.1, 2.0, 0.3, -1.0]);
        let second = layer("fc2", 4, &[&[(0, 1.0), (1, 3.0)], &[(0, -1.0), (3, 5.0)]], &[0.0, 1.0]);
        let compressed = Compressed::of(&model(vec![first, second])).unwrap();
        assert_eq!((compressed.inputs.clone(), compressed.sizes(), compressed.size()), (vec![0, 2], vec![2, 1, 2], 4));
        let expected = [
            layer("fc1", 4, &[&[(0, 0.5), (2, -1.0)]], &[0.1]),
            layer("fc2", 1, &[&[(0, 1.0)], &[(0, -1.0)]], &[6.0, 1.0]),
        ];
        assert_eq!(compressed.model.layers, expected);
        // Half a byte of mask, four weights, three biases.
        assert_eq!(compressed.bitmask_bytes(), 0.5 + 16.0 + 12.0);
    }

    #[test]
    fn the_papers_size_is_counted_as_there() {
        // 408-100-69-10 at density 0.13: 31,928 bytes, 31,914 in the paper's table 2.
        let sizes: [usize; 4] = [408, 100, 69, 10];
        let layers = sizes.windows(2).enumerate().map(|(i, pair)| {
            let (columns, rows) = (pair[0], pair[1]);
            // A band, so that every unit is read and reads.
            let per_row = (0.13 * columns as f64).round() as usize;
            let row = |r: usize| {
                let mut row: Vec<_> = (0..per_row).map(|k| ((r * per_row + k) % columns) as u32).collect();
                row.sort_unstable();
                row.into_iter().map(|c| (c, 1.0)).collect::<Vec<_>>()
            };
            let rows: Vec<Vec<_>> = (0..rows).map(row).collect();
            let rows: Vec<&[_]> = rows.iter().map(Vec::as_slice).collect();
            layer(&format!("fc{i}"), columns, &rows, &vec![0.0; rows.len()])
        });
        let compressed = Compressed::of(&model(layers.collect())).unwrap();
        assert_eq!(compressed.sizes(), sizes);
        assert!((compressed.bitmask_bytes() / 31_928.0 - 1.0).abs() < 0.01, "{}", compressed.bitmask_bytes());
    }

    proptest! {
        /// What is left says what the whole said, and no unit of it is dead.
        #[test]
        fn nothing_changes_but_the_size(seed in 0u64..500, nnz in [1usize..40, 1usize..40, 1usize..30]) {
            let sizes = [9usize, 8, 7, 5];
            let key = Key::new(seed);
            let layers = sizes.windows(2).zip(nnz).enumerate().map(|(i, (pair, nnz))| {
                let key = key.with(i as u64);
                let pattern = Arc::new(rigl::topology::random_pattern(pair[1], pair[0], nnz.min(pair[0] * pair[1]), key).unwrap());
                let values = (0..pattern.nnz() as u64).map(|e| key.normal(e)).collect();
                let bias = (0..pair[1] as u64).map(|e| key.with_name("bias").normal(e)).collect();
                let weight = StoredWeight::Sparse(Csr::new(pattern, values).unwrap());
                StoredLayer { name: format!("fc{i}"), weight, bias }
            });
            let whole = model(layers.collect());
            let Ok(compressed) = Compressed::of(&whole) else {
                // Nothing leads from inputs to outputs: no input makes a difference.
                prop_assert_eq!(run(&whole, &[0.0; 9]), run(&whole, &[5.0; 9]));
                return Ok(());
            };
            let x: Vec<f32> = (0..9).map(|i| key.with_name("x").normal(i)).collect();
            for (a, b) in run(&whole, &x).iter().zip(run(&compressed.model, &x)) {
                prop_assert!((a - b).abs() <= 1e-5 * a.abs().max(1.0), "{} and {}", a, b);
            }
            prop_assert_eq!(&Compressed::of(&compressed.model).unwrap(), &compressed);
            prop_assert!(compressed.sizes().iter().zip(sizes).all(|(left, before)| *left <= before));
        }
    }
}
