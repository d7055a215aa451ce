//! A multi-layer perceptron on a few samples at once, by the kernels for few lanes: what one sample costs then is nearly what
//! reading the weights costs.

use sparse_kernels::cpu::{Buffer, Cpu, Workspace};
use sparse_kernels::{BackendError, MatrixMut, MatrixRef, Op, PlanOptions, SparseMatrix, Storage};

use crate::models::{StoredLayer, StoredModel, StoredWeight};

/// A multi-layer perceptron for few samples at once.
#[derive(Debug)]
pub struct FewLanes<'c> {
    cpu: &'c Cpu,
    layers: Vec<Layer>,
    workspace: Workspace,
    /// Activations `[feature][lane]`, of the layer before and this one.
    x: Vec<f32>,
    y: Vec<f32>,
}

#[derive(Debug)]
struct Layer {
    weight: Weight,
    bias: Vec<f32>,
    relu: bool,
}

#[derive(Debug)]
enum Weight {
    Sparse(Box<SparseMatrix<Cpu>>),
    Dense(Buffer),
}

impl<'c> FewLanes<'c> {
    /// Samples that the kernels for few lanes take.
    pub const MOST_SAMPLES: usize = 8;

    /// The network of a model that is a multi-layer perceptron.
    ///
    /// # Errors
    /// If memory runs out.
    pub fn new(cpu: &'c Cpu, model: &StoredModel) -> Result<Self, BackendError> {
        let last = model.layers.len().saturating_sub(1);
        let layer = |(i, StoredLayer { weight, bias, .. }): (usize, &StoredLayer)| {
            let options = PlanOptions { transpose: false, ..PlanOptions::default() };
            let weight = match weight {
                StoredWeight::Sparse(csr) => {
                    Weight::Sparse(Box::new(SparseMatrix::new(cpu, csr.pattern().clone(), csr.values(), options)?))
                }
                StoredWeight::BlockSparse(bsr) => {
                    let csr = bsr.to_csr();
                    Weight::Sparse(Box::new(SparseMatrix::new(cpu, csr.pattern().clone(), csr.values(), options)?))
                }
                StoredWeight::Dense { values, .. } => Weight::Dense(cpu.uploaded(values)?),
            };
            Ok(Layer { weight, bias: bias.clone(), relu: i < last })
        };
        let layers = model.layers.iter().enumerate().map(layer).collect::<Result<_, BackendError>>()?;
        Ok(Self { cpu, layers, workspace: Workspace::default(), x: vec![], y: vec![] })
    }

    /// The outputs for inputs `[sample][feature]`, one sample after the other, in place of what `outputs` holds.
    ///
    /// # Errors
    /// If the inputs do not fit the first layer.
    pub fn outputs(&mut self, inputs: &[f32], samples: usize, outputs: &mut Vec<f32>) -> Result<(), BackendError> {
        let features = inputs.len() / samples.max(1);
        self.x.clear();
        self.x.extend((0..features).flat_map(|f| (0..samples).map(move |n| inputs[n * features + f])));
        for Layer { weight, bias, relu } in &self.layers {
            let (nrows, ncols) = (bias.len(), self.x.len() / samples.max(1));
            self.y.clear();
            self.y.resize(nrows * samples, 0.0);
            let x = MatrixRef::new(&self.x, ncols, samples, samples)?;
            let y = MatrixMut::new(&mut self.y, nrows, samples, samples)?;
            match weight {
                Weight::Sparse(w) => self.cpu.spmm_row_major(Op::NoTranspose, w, x, y, &mut self.workspace)?,
                Weight::Dense(w) => self.cpu.gemm_row_major(Op::NoTranspose, w, x, y, &mut self.workspace)?,
            }
            for (row, bias) in self.y.chunks_exact_mut(samples.max(1)).zip(bias) {
                row.iter_mut().for_each(|y| *y = if *relu { (*y + bias).max(0.0) } else { *y + bias });
            }
            std::mem::swap(&mut self.x, &mut self.y);
        }
        let classes = self.x.len() / samples.max(1);
        outputs.clear();
        outputs
            .extend((0..samples).flat_map(|n| (0..classes).map(move |c| (c, n))).map(|(c, n)| self.x[c * samples + n]));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rigl::LayerDensity;
    use sparse_kernels::{Layout, MatrixRef};

    use super::*;
    use crate::models::{Architecture, Format, Init, Initialization, Network};
    use crate::training::{Evaluator, Loss};

    /// Of networks in CSR, in blocks and dense, the same outputs as of the kernels for batches, to rounding.
    #[test]
    fn a_few_samples_have_the_outputs_that_many_have() {
        let cpu = Cpu::new(1, None).unwrap();
        let architecture = Architecture::of(&"37-50-21-5".parse().unwrap());
        for (format, share) in [(Format::Csr, 0.2), (Format::Bsr([4, 4]), 0.5), (Format::Csr, 1.0)] {
            let density = |layer: &crate::models::WeightLayer| {
                let nnz = ((layer.size() as f64 * share) as usize).next_multiple_of(16).min(layer.size());
                LayerDensity { density: share, nnz, size: layer.size() }
            };
            let densities: Vec<_> = architecture.layers.iter().map(density).collect();
            let initialization = Initialization::new(format, Init::SparseFanIn, 1);
            let mut model = StoredModel::random(&architecture, &densities, initialization).unwrap();
            model.layers.iter_mut().for_each(|layer| layer.bias.iter_mut().for_each(|bias| *bias = 0.1));
            for samples in [1, 3, 8] {
                let inputs: Vec<f32> = (0..37 * samples).map(|i| (i as f32 * 0.7).sin()).collect();
                let mut few = vec![];
                FewLanes::new(&cpu, &model).unwrap().outputs(&inputs, samples, &mut few).unwrap();
                let network = Network::from_stored(&cpu, model.clone(), 32).unwrap();
                let Layout::Strips(layout) = network.body.input_layout(samples) else { panic!("features") };
                let by_feature: Vec<f32> =
                    (0..37).flat_map(|f| (0..samples).map(move |n| n * 37 + f)).map(|i| inputs[i]).collect();
                let mut packed = vec![0.0; layout.len()];
                layout.pack(MatrixRef::new(&by_feature, 37, samples, samples).unwrap(), &mut packed).unwrap();
                let mut many = vec![];
                Evaluator::new(&cpu, network, Loss::default()).outputs(layout, &packed, &mut many).unwrap();
                assert_eq!((few.len(), many.len()), (5 * samples, 5 * samples));
                assert!(few.iter().zip(&many).all(|(a, b)| (a - b).abs() < 1e-5), "{few:?} {many:?}");
            }
        }
    }
}
