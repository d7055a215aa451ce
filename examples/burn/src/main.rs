//! Trains a network of two sparse layers and a dense one on pictures of clothes, with burn's optimizer.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read};
use std::time::Instant;

use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Int, Tensor, TensorData};
use burn_sparse::{LayerError, SparseLinear};

const BATCH: usize = 64;
const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crates/trainer/data/fashion-mnist-mini");

#[derive(Module, Debug)]
struct Network {
    first: SparseLinear,
    second: SparseLinear,
    head: Linear,
}

impl Network {
    fn new(device: &Device) -> Result<Self, LayerError> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            first: SparseLinear::new([512, 784], 0.1, 1, threads, device)?,
            second: SparseLinear::new([256, 512], 0.1, 2, threads, device)?,
            head: LinearConfig::new(256, 10).init(device),
        })
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.head.forward(relu(self.second.forward(relu(self.first.forward(x)))))
    }
}

/// Pictures `[n, 784]` of 0 to 1, and their classes.
fn read(part: &str, device: &Device) -> io::Result<(Tensor<2>, Tensor<1, Int>)> {
    let bytes = |name: &str, header: usize| -> io::Result<Vec<u8>> {
        let mut bytes = vec![];
        flate2::read::GzDecoder::new(File::open(format!("{DATA}/{part}-{name}-ubyte.gz"))?).read_to_end(&mut bytes)?;
        Ok(bytes.split_off(header))
    };
    let pixels: Vec<f32> = bytes("images-idx3", 16)?.into_iter().map(|pixel| f32::from(pixel) / 255.0).collect();
    let labels: Vec<i32> = bytes("labels-idx1", 8)?.into_iter().map(i32::from).collect();
    let samples = labels.len();
    let pictures = Tensor::from_data(TensorData::new(pixels, [samples, 784]), device);
    Ok((pictures, Tensor::from_data(TensorData::new(labels, [samples]), device)))
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex();
    let (training, plain) = (device.clone().autodiff(), device);
    training.seed(1);
    let ((x, y), (x_test, y_test)) = (read("train", &training)?, read("t10k", &plain)?);
    let mut network = Network::new(&training)?;
    let loss_of = CrossEntropyLossConfig::new().init(&training);
    let mut optimizer = AdamWConfig::new().with_epsilon(1e-8).with_weight_decay(0.01).init();
    let batches = x.dims()[0] / BATCH;
    let start = Instant::now();
    for epoch in 1..=8 {
        let mut sum = 0.0;
        for batch in 0..batches {
            // Another order in each epoch: a step that shares no factor with the number of batches.
            let at = (batch * 7 + epoch) % batches * BATCH;
            let logits = network.forward(x.clone().narrow(0, at, BATCH));
            let loss = loss_of.forward(logits, y.clone().narrow(0, at, BATCH));
            sum += loss.clone().into_scalar::<f64>();
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            network = optimizer.step(1e-3, network, gradients);
        }
        let right = network.valid().forward(x_test.clone()).argmax(1).squeeze::<1>().equal(y_test.clone());
        let accuracy = right.float().mean().into_scalar::<f64>();
        let seconds = start.elapsed().as_secs_f64();
        println!("epoch {epoch}: loss {:.4}, test accuracy {accuracy:.4}, {seconds:.1} s", sum / batches as f64);
    }
    Ok(())
}
