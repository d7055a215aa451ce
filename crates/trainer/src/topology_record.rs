//! What a run records of its topology: a line of `topology.jsonl` at the start and after each epoch.
//!
//! | key | content |
//! | --- | --- |
//! | `epoch`, `step` | epochs and steps done; 0 at the start |
//! | `layers`, `sizes`, `input_shape` | in the file's first record: the layers' names, the positions of their weight matrices, and channels, height and width of a picture |
//! | `nnz` | stored weights of each layer, padding of blocks included |
//! | `input_connections` | of a network that begins with a sparse linear layer: connections of each input, `[channel][row][pixel]` |
//!
//! Equal runs make equal bytes: there is no time in it.

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use sparse_kernels::Backend;

use crate::models::Network;

/// A line of the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TopologyRecord {
    /// Epochs done.
    pub epoch: u64,
    /// Steps done.
    pub step: u64,
    /// Names of the layers, in the file's first record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
    /// Positions of the layers' weight matrices, in the file's first record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<usize>,
    /// Channels, height and width of a picture, in the file's first record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_shape: Option<[usize; 3]>,
    /// Stored weights of each layer.
    pub nnz: Vec<usize>,
    /// Connections of each input; none if the first layer is dense or a convolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_connections: Option<Vec<u32>>,
}

impl TopologyRecord {
    /// That of a network now.
    ///
    /// # Cost
    /// Proportional to the stored weights of the first layer.
    pub fn of<B: Backend>(backend: &B, network: &Network<B>, epoch: u64, step: u64) -> Self {
        let nnz = network.layer_nnz(backend);
        Self { epoch, step, nnz, input_connections: input_connections(backend, network), ..Self::default() }
    }

    /// The same as the first record of a file, which says what the numbers are of.
    #[must_use]
    pub fn with_heading<B: Backend>(self, network: &Network<B>, input_shape: [usize; 3]) -> Self {
        let layers = &network.architecture.layers;
        Self {
            layers: layers.iter().map(|layer| layer.name.clone()).collect(),
            sizes: layers.iter().map(|layer| layer.size()).collect(),
            input_shape: Some(input_shape),
            ..self
        }
    }
}

/// Stored entries in each column of a sparse linear layer that reads the network's input.
fn input_connections<B: Backend>(backend: &B, network: &Network<B>) -> Option<Vec<u32>> {
    if !network.architecture.is_mlp() {
        return None;
    }
    let weight = network.body.layers.first()?.weight;
    let mut counts = vec![0; network.architecture.inputs()];
    if let Some(pattern) = network.parameters.pattern(backend, weight) {
        pattern.col_indices().iter().for_each(|&column| counts[column as usize] += 1);
    } else {
        let pattern = network.parameters.block_pattern(backend, weight)?;
        pattern.to_csr().0.col_indices().iter().for_each(|&column| counts[column as usize] += 1);
    }
    Some(counts)
}

/// What a run's file says, as far as it is whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TopologyHistory {
    /// Names of the layers.
    pub layers: Vec<String>,
    /// Positions of their weight matrices.
    pub sizes: Vec<usize>,
    /// Channels, height and width of a picture.
    pub input_shape: [usize; 3],
    /// The records, in order.
    pub records: Vec<TopologyRecord>,
}

impl TopologyHistory {
    /// Reads `path`. A file that is not there, as in runs of older versions, or that does not begin with a heading, makes
    /// an empty history; what follows a line that is incomplete is left out.
    ///
    /// # Errors
    /// If the file is there and cannot be read.
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text?,
        };
        let mut records: Vec<TopologyRecord> = text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        let Some(first) = records.first_mut() else { return Ok(Self::default()) };
        let (layers, sizes) = (std::mem::take(&mut first.layers), std::mem::take(&mut first.sizes));
        let input_shape = first.input_shape.take().unwrap_or_default();
        let inputs: usize = input_shape.iter().product();
        records.retain(|record| {
            record.nnz.len() == layers.len() && record.input_connections.as_ref().is_none_or(|c| c.len() == inputs)
        });
        let whole = !layers.is_empty() && sizes.len() == layers.len() && sizes.iter().all(|&size| size > 0);
        Ok(if whole { Self { layers, sizes, input_shape, records } } else { Self::default() })
    }

    /// nnz / size of each layer at a record.
    pub fn densities(&self, record: &TopologyRecord) -> Vec<f64> {
        record.nnz.iter().zip(&self.sizes).map(|(&nnz, &size)| nnz as f64 / size as f64).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{Architecture, Format, Init, Initialization, StoredModel};
    use sparse_kernels::cpu::Cpu;

    fn network(cpu: &Cpu, model: &str, format: Format) -> Network<Cpu> {
        let architecture = Architecture::of(&model.parse().unwrap());
        let config = crate::settings::TrainConfig { density: 0.3, format, ..Default::default() };
        let densities = config.sparsification().solve(&architecture).unwrap();
        let initialization = Initialization::new(format, Init::DenseFanIn, 3);
        let stored = StoredModel::random(&architecture, &densities, initialization).unwrap();
        Network::from_stored(cpu, stored, 8).unwrap()
    }

    /// Counted from the weights themselves, which are never exactly 0.
    #[test]
    fn connections_are_those_of_the_first_layer() {
        let cpu = Cpu::new(1, None).unwrap();
        // Blocks reach beyond both sides of 30 × 22.
        for format in [Format::Csr, Format::Bsr([4, 8])] {
            let network = network(&cpu, "22-30-10", format);
            let record = TopologyRecord::of(&cpu, &network, 2, 40).with_heading(&network, [1, 2, 11]);
            let dense = network.to_stored(&cpu, None).unwrap().layers[0].weight.to_dense();
            let counts = (0..22).map(|column| dense.chunks(22).filter(|row| row[column] != 0.0).count() as u32);
            assert_eq!(record.input_connections.unwrap(), counts.collect::<Vec<_>>(), "{format}");
            assert_eq!((record.nnz, record.sizes), (network.layer_nnz(&cpu), vec![660, 300]));
            assert_eq!((record.layers.len(), record.input_shape), (2, Some([1, 2, 11])));
        }
        let conv = network(&cpu, "wrn-10-1", Format::Csr);
        assert_eq!(TopologyRecord::of(&cpu, &conv, 0, 0).input_connections, None);
    }

    #[test]
    fn a_file_is_read_as_far_as_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("topology.jsonl");
        assert_eq!(TopologyHistory::read(&path).unwrap(), TopologyHistory::default());
        let lines = [
            r#"{"epoch":0,"step":0,"layers":["a","b"],"sizes":[8,4],"input_shape":[1,1,2],"nnz":[2,4],"input_connections":[0,2]}"#,
            r#"{"epoch":1,"step":9,"nnz":[3,4],"input_connections":[1,2]}"#,
            r#"{"epoch":2,"step":18,"nnz":[3,"#,
        ];
        fs::write(&path, lines.join("\n")).unwrap();
        let history = TopologyHistory::read(&path).unwrap();
        assert_eq!((history.records.len(), history.input_shape), (2, [1, 1, 2]));
        assert_eq!(history.densities(&history.records[1]), [0.375, 1.0]);
        // Without what the numbers are of, they say nothing.
        fs::write(&path, lines[1]).unwrap();
        assert_eq!(TopologyHistory::read(&path).unwrap(), TopologyHistory::default());
    }
}
