//! The logits of a model for pictures from a NumPy file: the forward pass without the command.
//!
//! ```text
//! logits RUN|MODEL.safetensors PICTURES.npy LOGITS.npy
//! ```
//!
//! `PICTURES.npy` is a matrix of bytes, a row `[channel][row][pixel]` for each picture. The model normalises them as it did in
//! training; of a model that does not know how, brightnesses from 0 to 1 are the inputs. `tests/interop.py` compares the result
//! with that of onnxruntime.

use std::path::Path;

use autograd::{Arena, Mode, Tape};
use sparse_kernels::cpu::Cpu;
use sparse_kernels::random::Key;
use sparse_kernels::{Activations, MatrixMut, Storage};
use trainer::data::{BatchLoader, Inputs, LoaderOptions, Normalization, Order, Part, Split, Targets};
use trainer::device::available_threads;
use trainer::formats::{self, DenseMatrix, Matrix};
use trainer::models::{Network, ValueShape};
use trainer::run_checkpoints::load_model;

/// Pictures of one forward pass.
const BATCH: usize = 16;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [model, pictures, logits] = &arguments[..] else { return Err("logits MODEL PICTURES.npy LOGITS.npy".into()) };
    let (model, _) = load_model(Path::new(model))?;
    let Matrix::Dense(pictures) = formats::read(Path::new(pictures))? else { return Err("no dense matrix".into()) };
    let shape = match model.architecture()?.graph.values[0] {
        ValueShape::Features(features) => [1, 1, features],
        ValueShape::Image { channels, size: [height, width] } => [channels, height, width],
        ValueShape::Token(_) | ValueShape::List(_) => return Err("the model reads text or lists".into()),
    };
    let normalization = model.input.as_ref().map(|input| input.normalization.clone());
    let normalization = normalization.unwrap_or(Normalization::Pixels { mean: 0.0, deviation: 1.0 });
    // A perceptron's features are one channel after the other.
    let shape = match normalization.channels() {
        Some(channels) if shape[0] != channels => [channels, 1, shape.iter().product::<usize>() / channels],
        _ => shape,
    };
    let bytes = pictures.values().iter().map(|&byte| byte as u8).collect();
    let targets = Targets::Classes(vec![0; pictures.nrows()]);
    let split = Split { shape, inputs: Inputs::Bytes(bytes), targets };

    let cpu = Cpu::new(available_threads(), None)?;
    let mut network = Network::from_stored(&cpu, model, BATCH)?;
    let classes = network.architecture.classes();
    let batch_size = BATCH.min(split.len());
    let form = network.body.input_layout(batch_size).into();
    let options =
        LoaderOptions { batch_size, form, order: Order::Stored, drop_last: false, threads: 1, part: Part::All };
    let mut loader = BatchLoader::new(split.into(), &normalization, options)?;
    let (mut arena, mut rows) = (Arena::new(), Vec::new());
    while let Some(batch) = loader.next_batch()? {
        let (layout, values) = batch.inputs.values();
        let mut input = arena.take_activations(&cpu, layout)?;
        cpu.upload(values, input.data_mut())?;
        let mut tape = Tape::new(&cpu, &mut arena, &mut network.parameters, Mode::Evaluation);
        let x = tape.input(input, false);
        let logits = network.body.forward(&cpu, &mut tape, x.into(), 0.0, Key::new(0))?;
        let Activations::Strips(strips) = tape.value(logits)? else { return Err("the logits are images".into()) };
        let samples = strips.layout.lanes();
        let mut columns = vec![0.0; classes * samples];
        strips.layout.unpack(&strips.data, MatrixMut::new(&mut columns, classes, samples, samples)?)?;
        rows.extend((0..samples).flat_map(|sample| columns[sample..].iter().step_by(samples).copied()));
    }
    let logits_matrix = DenseMatrix::new(rows.len() / classes, classes, rows)?;
    formats::write(Path::new(logits), &Matrix::Dense(logits_matrix))?;
    Ok(())
}
