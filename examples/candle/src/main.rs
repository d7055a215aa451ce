//! Trains a network of two sparse layers and a dense one on pictures of clothes, with candle's optimizer.

use std::fs::File;
use std::io::Read;

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap, linear, loss, ops};
use candle_sparse::SparseLinear;

const BATCH: usize = 64;
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/trainer/data/fashion-mnist-mini");

/// Pictures `[n, 784]` of 0 to 1, and their classes.
fn read(part: &str) -> Result<(Tensor, Tensor)> {
    let bytes = |name: &str, header: usize| -> Result<Vec<u8>> {
        let mut bytes = vec![];
        flate2::read::GzDecoder::new(File::open(format!("{DATA}/{part}-{name}-ubyte.gz"))?).read_to_end(&mut bytes)?;
        Ok(bytes.split_off(header))
    };
    let pixels: Vec<f32> = bytes("images-idx3", 16)?.into_iter().map(|pixel| f32::from(pixel) / 255.0).collect();
    let labels: Vec<u32> = bytes("labels-idx1", 8)?.into_iter().map(u32::from).collect();
    let samples = labels.len();
    Ok((Tensor::from_vec(pixels, (samples, 784), &Device::Cpu)?, Tensor::from_vec(labels, samples, &Device::Cpu)?))
}

fn main() -> Result<()> {
    let ((x, y), (x_test, y_test)) = (read("train")?, read("t10k")?);
    let variables = VarMap::new();
    let vb = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let first = SparseLinear::new([512, 784], 0.1, 1, threads, vb.pp("first"))?;
    let second = SparseLinear::new([256, 512], 0.1, 2, threads, vb.pp("second"))?;
    let head = linear(256, 10, vb.pp("head"))?;
    let model = |x: &Tensor| head.forward(&second.forward(&first.forward(x)?.relu()?)?.relu()?);
    let mut optimizer = AdamW::new(variables.all_vars(), ParamsAdamW { lr: 1e-3, ..ParamsAdamW::default() })?;
    let batches = x.dim(0)? / BATCH;
    for epoch in 1..=8 {
        let mut sum = 0.0;
        for batch in 0..batches {
            // Another order in each epoch: a step that shares no factor with the number of batches.
            let at = (batch * 7 + epoch) % batches * BATCH;
            let logits = model(&x.narrow(0, at, BATCH)?)?;
            let loss = loss::nll(&ops::log_softmax(&logits, D::Minus1)?, &y.narrow(0, at, BATCH)?)?;
            sum += f64::from(loss.to_scalar::<f32>()?);
            optimizer.backward_step(&loss)?;
        }
        let right = model(&x_test)?.argmax(D::Minus1)?.eq(&y_test)?.to_dtype(DType::F32)?.mean_all()?;
        println!("epoch {epoch}: loss {:.4}, test accuracy {:.4}", sum / batches as f64, right.to_scalar::<f32>()?);
    }
    Ok(())
}
