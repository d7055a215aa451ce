//! Logits and gradients of a text model: what `tests/sequence_parity.py` compares with PyTorch's.
//!
//! ```text
//! text_gradients MODEL TOKENS.npy FOLDER
//! ```
//!
//! `TOKENS.npy` is `[sequences, length + 1]`: each token is the target of the one before it. `FOLDER/logits.npy` becomes
//! `[sequences · length, symbols]`, and `FOLDER/PARAMETER.npy` the gradient of the mean loss by each parameter, of a sparse
//! one by its entries.

use std::path::Path;

use sparse_kernels::cpu::Cpu;
use trainer::data::{Batch, BatchInputs, InputForm, Sequences, Targets};
use trainer::device::available_threads;
use trainer::formats::{self, DenseMatrix, Matrix};
use trainer::models::Network;
use trainer::run_checkpoints::load_model;
use trainer::training::{Evaluator, Loss};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [model, tokens, folder] = &arguments[..] else { return Err("text_gradients MODEL TOKENS.npy FOLDER".into()) };
    let (model, _) = load_model(Path::new(model))?;
    let Matrix::Dense(tokens) = formats::read(Path::new(tokens))? else { return Err("no dense matrix".into()) };
    let (count, length) = (tokens.nrows(), tokens.ncols() - 1);
    let cpu = Cpu::new(available_threads(), None)?;
    let network = Network::from_stored(&cpu, model, count)?;
    let symbols = network.architecture.classes();
    let InputForm::Tokens { order, strip } = network.body.input_form(count) else { return Err("no text model".into()) };
    let sequences = Sequences::new(order, strip, [count, length], false);
    let (mut inputs, mut targets) = (vec![0; sequences.lanes()], vec![u32::MAX; sequences.lanes()]);
    for n in 0..count {
        for t in 0..length {
            let token = |t: usize| tokens.values()[n * (length + 1) + t] as u32;
            (inputs[sequences.lane(n, t)], targets[sequences.lane(n, t)]) = (token(t), token(t + 1));
        }
    }
    let mut evaluator = Evaluator::new(&cpu, network, Loss::default());
    let mut of_lanes = Vec::new();
    evaluator.outputs_of_tokens(sequences, &inputs, &mut of_lanes)?;
    let of = |n: usize, t: usize| &of_lanes[sequences.lane(n, t) * symbols..][..symbols];
    let logits: Vec<f32> =
        (0..count).flat_map(|n| (0..length).map(move |t| (n, t))).flat_map(|(n, t)| of(n, t)).copied().collect();
    write(&Path::new(folder).join("logits.npy"), symbols, logits)?;
    let inputs = BatchInputs::Tokens { sequences, tokens: inputs };
    let batch = Batch { inputs, targets: Targets::Classes(targets), corrupt: vec![], part_of: None };
    evaluator.training_pass(&batch, true)?;
    let parameters = &evaluator.network.parameters;
    for (id, parameter) in parameters.iter() {
        if let Some(gradient) = parameters.download_gradient(&cpu, id)? {
            let path = Path::new(folder).join(format!("{}.npy", parameter.name()));
            write(&path, gradient.len(), gradient)?;
        }
    }
    Ok(())
}

fn write(path: &Path, ncols: usize, values: Vec<f32>) -> Result<(), Box<dyn std::error::Error>> {
    let matrix = DenseMatrix::new(values.len() / ncols.max(1), ncols, values)?;
    Ok(formats::write(path, &Matrix::Dense(matrix))?)
}
