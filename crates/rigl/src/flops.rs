//! What inference and training cost, in operations and bytes: the one place that every such figure comes from.
//!
//! # Conventions
//!
//! Let `v` be the stored weights per output (`density ·` the length of an output's dot product) and `o` the number of
//! a layer's outputs for one sample. One forward pass of one sample costs
//!
//! | convention | operations |
//! | --- | --- |
//! | [`FlopsConvention::Mac2`] | `2·v·o`: a multiply-add is two, nothing else counts |
//! | [`FlopsConvention::Micronet`] | `(v + (v − 1) + bias + relu) · o` |
//! | [`FlopsConvention::Products`] | `(v + (v − 1)) · o` |
//! | [`FlopsConvention::Paper`] | the same with the output sizes and depthwise layers of the authors' notebooks |
//!
//! Not counted by any: normalisation, pooling, the loss, the optimizer's arithmetic, dropping and growing.
//!
//! Sources: the paper's appendix H; google-research/google-research, `micronet_challenge/counting.py`;
//! google-research/rigl, `rigl/imagenet_resnet/colabs/`.

use thiserror::Error;

use crate::choice::choices;

/// A layer or a pruning schedule that cannot be, or an unknown convention.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum FlopsError {
    /// A size that must be positive is zero.
    #[error("{what} is 0; it must be positive")]
    Zero {
        /// The size.
        what: &'static str,
    },
    /// The groups do not divide the channels.
    #[error("{groups} groups do not divide {input_channels} input and {output_channels} output channels")]
    Groups {
        /// Groups found.
        groups: usize,
        /// Input channels.
        input_channels: usize,
        /// Output channels.
        output_channels: usize,
    },
    /// The kernel does not fit the padded input.
    #[error("a kernel of {kernel} does not fit an input of {padded} with its padding")]
    Kernel {
        /// Side of the kernel.
        kernel: usize,
        /// Side of the padded input.
        padded: usize,
    },
    /// A pruning schedule whose end is not after its beginning.
    #[error("gradual pruning: end_step is {end_step}; it must be greater than begin_step, which is {begin_step}")]
    Window {
        /// Step at which pruning begins.
        begin_step: u64,
        /// Step at which it ends.
        end_step: u64,
    },
}

choices! {
    /// What counts as an operation.
    FlopsConvention, "FLOPs convention":
    /// A multiply-add is two operations; bias and ReLU are free.
    Mac2 = "mac2",
    /// As the MicroNet challenge: v multiplications and v − 1 additions per output, an addition for a bias, a multiplication
    /// for a ReLU.
    Micronet = "micronet",
    /// As the MicroNet challenge, without bias and ReLU: the figures of the reproducibility report (arXiv 2103.15767).
    Products = "products",
    /// As in the tables of the RigL paper.
    ///
    /// [`FlopsConvention::Micronet`] with two habits of the authors' notebooks, needed to get the published figures:
    ///
    /// * an explicitly padded input ([`Padding::Explicit`]) is padded again as for "same", so that ResNet-50's first
    ///   convolution counts 115 × 115 outputs where it has 112 × 112;
    /// * a depthwise convolution counts as one output channel over all input channels.
    Paper = "paper",
}

/// How a convolution's input is padded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Padding {
    /// As much as gives `ceil(input / stride)` outputs.
    Same,
    /// None.
    Valid,
    /// A given number of rows and of columns.
    Explicit {
        /// Rows above and below together; as many columns.
        total: usize,
    },
}

/// A two-dimensional convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConvGeometry {
    /// Channels of the input.
    pub input_channels: usize,
    /// Channels of the output.
    pub output_channels: usize,
    /// Height and width of the input.
    pub input_size: [usize; 2],
    /// Height and width of the kernel.
    pub kernel: [usize; 2],
    /// Distance of two applications of the kernel, in both directions.
    pub stride: usize,
    /// Padding of the input.
    pub padding: Padding,
    /// Groups of channels; `input_channels` for a depthwise convolution.
    pub groups: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Linear { inputs: usize, outputs: usize },
    Conv(ConvGeometry),
    Lookup { symbols: usize, features: usize },
}

/// What of a layer decides its cost.
///
/// ```
/// use rigl::{FlopsConvention, LayerGeometry};
/// let layer = LayerGeometry::linear(784, 300);
/// assert_eq!(layer.forward_flops(0.1, FlopsConvention::Mac2), 2.0 * 0.1 * 784.0 * 300.0);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerGeometry {
    operation: Operation,
    bias: bool,
    relu: bool,
}

impl LayerGeometry {
    /// A linear layer with bias and ReLU.
    pub fn linear(inputs: usize, outputs: usize) -> Self {
        Self { operation: Operation::Linear { inputs, outputs }, bias: true, relu: true }
    }

    /// An embedding: a row for each symbol, looked up at no operation.
    pub fn embedding(symbols: usize, features: usize) -> Self {
        Self { operation: Operation::Lookup { symbols, features }, bias: false, relu: false }
    }

    /// A convolution with bias and ReLU.
    ///
    /// # Errors
    /// If a size is zero, the groups do not divide the channels, or the kernel is larger than the padded input.
    pub fn conv(conv: ConvGeometry) -> Result<Self, FlopsError> {
        let ConvGeometry { input_channels, output_channels, input_size, kernel, stride, padding, groups } = conv;
        let sizes = [
            ("input_channels", input_channels),
            ("output_channels", output_channels),
            ("input_size", input_size[0].min(input_size[1])),
            ("kernel", kernel[0].min(kernel[1])),
            ("stride", stride),
            ("groups", groups),
        ];
        if let Some((what, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(FlopsError::Zero { what });
        }
        if !input_channels.is_multiple_of(groups) || !output_channels.is_multiple_of(groups) {
            return Err(FlopsError::Groups { groups, input_channels, output_channels });
        }
        let total = match padding {
            Padding::Same => None,
            Padding::Valid => Some(0),
            Padding::Explicit { total } => Some(total),
        };
        for (input, kernel) in input_size.into_iter().zip(kernel) {
            if let Some(padded) = total.map(|total| input + total).filter(|padded| *padded < kernel) {
                return Err(FlopsError::Kernel { kernel, padded });
            }
        }
        Ok(Self { operation: Operation::Conv(conv), bias: true, relu: true })
    }

    /// The same layer with or without a bias. The paper's figures count one on every layer.
    #[must_use]
    pub fn with_bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    /// The same layer with or without a ReLU behind it. The paper's figures count one on every layer, the classifier
    /// included.
    #[must_use]
    pub fn with_relu(self, relu: bool) -> Self {
        Self { relu, ..self }
    }

    /// Positions of the weight, stored or not.
    pub fn size(&self) -> usize {
        match self.operation {
            Operation::Linear { inputs, outputs } => inputs * outputs,
            Operation::Lookup { symbols, features } => symbols * features,
            Operation::Conv(c) => c.output_channels * (c.input_channels / c.groups) * c.kernel[0] * c.kernel[1],
        }
    }

    /// Height and width of the output; 1 × 1 for a linear layer.
    pub fn output_size(&self) -> [usize; 2] {
        match self.operation {
            Operation::Linear { .. } | Operation::Lookup { .. } => [1, 1],
            Operation::Conv(c) => [0, 1].map(|d| match c.padding {
                Padding::Same => c.input_size[d].div_ceil(c.stride),
                Padding::Valid => (c.input_size[d] - c.kernel[d]) / c.stride + 1,
                Padding::Explicit { total } => (c.input_size[d] + total - c.kernel[d]) / c.stride + 1,
            }),
        }
    }

    /// Operations of one forward pass of one sample, see the module's page. `density` is `nnz / size` of the weight.
    pub fn forward_flops(&self, density: f64, convention: FlopsConvention) -> f64 {
        let (length, outputs) = match (self.operation, convention) {
            (Operation::Lookup { .. }, _) => return 0.0,
            (Operation::Linear { inputs, outputs }, _) => (inputs, outputs),
            (Operation::Conv(c), FlopsConvention::Paper) => {
                let [height, width] = notebook_output_size(&c);
                let kernel = c.kernel[0] * c.kernel[1];
                if is_depthwise(&c) {
                    (kernel * c.input_channels, height * width)
                } else {
                    (kernel * (c.input_channels / c.groups), height * width * c.output_channels)
                }
            }
            (Operation::Conv(c), FlopsConvention::Mac2 | FlopsConvention::Micronet | FlopsConvention::Products) => {
                let [height, width] = self.output_size();
                (c.kernel[0] * c.kernel[1] * (c.input_channels / c.groups), height * width * c.output_channels)
            }
        };
        let products = density * length as f64;
        let per_output = match convention {
            FlopsConvention::Mac2 => 2.0 * products,
            FlopsConvention::Products => 2.0 * products - 1.0,
            FlopsConvention::Micronet | FlopsConvention::Paper => {
                2.0 * products - 1.0 + f64::from(u8::from(self.bias)) + f64::from(u8::from(self.relu))
            }
        };
        per_output * outputs as f64
    }

    /// Bytes of the layer in the paper's file format: 4 per stored weight, one bit per position unless the layer is
    /// dense, 4 per bias. This is not what a CSR matrix takes.
    ///
    /// A depthwise convolution counts one bias, as in the authors' notebook.
    pub fn paper_size_bytes(&self, density: f64) -> f64 {
        let size = self.size() as f64;
        let mask = if density < 1.0 { size / 8.0 } else { 0.0 };
        let biases = match self.operation {
            _ if !self.bias => 0,
            Operation::Linear { outputs, .. } => outputs,
            Operation::Lookup { .. } => 0,
            Operation::Conv(c) if is_depthwise(&c) => 1,
            Operation::Conv(c) => c.output_channels,
        };
        4.0 * density * size + mask + 4.0 * biases as f64
    }
}

fn is_depthwise(conv: &ConvGeometry) -> bool {
    conv.groups > 1 && conv.groups == conv.input_channels
}

/// `ceil((input − kernel + 1 + 2·floor(kernel / 2)) / stride)`, or without the last term for "valid"; explicit
/// padding enlarges the input of the first form.
fn notebook_output_size(conv: &ConvGeometry) -> [usize; 2] {
    [0, 1].map(|d| {
        let (input, kernel) = (conv.input_size[d], conv.kernel[d]);
        let padded = match conv.padding {
            Padding::Valid => input,
            Padding::Same => input + 2 * (kernel / 2),
            Padding::Explicit { total } => input + total + 2 * (kernel / 2),
        };
        (padded + 1).saturating_sub(kernel).div_ceil(conv.stride)
    })
}

/// How a training step's operations follow from those of a sparse and a dense forward pass (appendix H of the
/// paper). A backward pass costs two forward passes: the gradient of the inputs and that of the weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TrainingRule {
    /// `3 f_D`.
    Dense,
    /// `3 f_S`: static sparse training, SET, SNIP (whose one dense pass does not count), a small dense network.
    Sparse,
    /// `(3 f_S · ΔT + n (2 f_S + f_D)) / (ΔT + n)`: RigL, whose every ΔT-th step computes a dense gradient of the weights of
    /// n batches (1 in the paper) in place of an optimizer step. Updates are counted to the end of training, as in the paper.
    GradientGrowth {
        /// ΔT, in steps.
        update_interval: u64,
        /// n.
        batches: u64,
    },
    /// `(3 f_S · ΔT + n (2 + s) f_S) / (ΔT + n)`: every ΔT-th step computes a gradient of n batches at a sample of the positions, s
    /// times as many as there are weights, in place of an optimizer step.
    SampledGrowth {
        /// ΔT, in steps.
        update_interval: u64,
        /// n.
        batches: u64,
        /// s.
        sample: f64,
    },
    /// `2 f_S + f_D`: a dense gradient of the weights in every step, as in SNFS.
    DenseGradient,
}

impl TrainingRule {
    /// Operations of one training step, per sample.
    pub fn flops(self, f_sparse: f64, f_dense: f64) -> f64 {
        match self {
            Self::Dense => 3.0 * f_dense,
            Self::Sparse => 3.0 * f_sparse,
            Self::GradientGrowth { update_interval, batches } => {
                let (interval, batches) = (update_interval as f64, batches as f64);
                (3.0 * f_sparse * interval + batches * (2.0 * f_sparse + f_dense)) / (interval + batches)
            }
            Self::SampledGrowth { update_interval, batches, sample } => {
                let (interval, batches) = (update_interval as f64, batches as f64);
                f_sparse * (3.0 * interval + batches * (2.0 + sample)) / (interval + batches)
            }
            Self::DenseGradient => 2.0 * f_sparse + f_dense,
        }
    }
}

/// `length · training_flops / (3 f_D)`: the operations of a whole training over those of dense training. `length` is
/// the paper's multiplier M of the number of steps.
pub fn training_flops_ratio(training_flops: f64, f_dense: f64, length: f64) -> f64 {
    length * training_flops / (3.0 * f_dense)
}

/// Gradual magnitude pruning's density over time (Zhu and Gupta 2017, arXiv 1710.01878): from 1 at `begin_step` by
/// `density(t) = d − (d − 1) · (1 − (t − begin_step) / (end_step − begin_step))³` to `d = final_density` at
/// `end_step`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GradualPruning {
    begin_step: u64,
    end_step: u64,
    update_interval: u64,
    final_density: f64,
}

impl GradualPruning {
    /// A schedule from `begin_step` to `end_step` every `update_interval` steps.
    ///
    /// # Errors
    /// If the end is not after the beginning, or the interval is zero.
    pub fn new(begin_step: u64, end_step: u64, update_interval: u64, final_density: f64) -> Result<Self, FlopsError> {
        if end_step <= begin_step {
            return Err(FlopsError::Window { begin_step, end_step });
        }
        if update_interval == 0 {
            return Err(FlopsError::Zero { what: "update_interval" });
        }
        Ok(Self { begin_step, end_step, update_interval, final_density })
    }

    /// The density that the schedule asks for at `step`.
    pub fn density(&self, step: u64) -> f64 {
        let progress = step.saturating_sub(self.begin_step) as f64 / (self.end_step - self.begin_step) as f64;
        self.final_density + (1.0 - self.final_density) * (1.0 - progress.min(1.0)).powi(3)
    }

    /// Operations of a training step per sample, on average over a training of `total_steps`: the mean of
    /// `3 · forward(density(t))` at `t = 0, update_interval, 2·update_interval, …, total_steps`, both ends included,
    /// which is the grid of the published figures. `forward` gives one forward pass at an overall density.
    pub fn training_flops(&self, total_steps: u64, forward: impl Fn(f64) -> f64) -> f64 {
        let points = total_steps / self.update_interval + 1;
        let sum: f64 = (0..points).map(|point| forward(self.density(point * self.update_interval))).sum();
        3.0 * sum / points as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::{Distribution, Override, solve};
    use crate::paper_models::{Model, mlp, mobilenet_v1, resnet50, wrn_22_2};
    use FlopsConvention::{Mac2, Micronet, Paper};

    const ERK: (Distribution, f64) = (Distribution::ErdosRenyiKernel, 1.0);
    const UNIFORM: (Distribution, f64) = (Distribution::Uniform, 1.0);

    fn densities(model: &Model, sparsity: f64, (distribution, power): (Distribution, f64), dense: &[&str]) -> Vec<f64> {
        let overrides: Vec<_> = dense.iter().map(|&p| Override { pattern: p.into(), density: 1.0 }).collect();
        let layers = solve(&model.shapes(), 1.0 - sparsity, distribution, power, &overrides).unwrap();
        layers.iter().map(|l| l.density).collect()
    }

    fn forward(model: &Model, densities: &[f64], convention: FlopsConvention) -> f64 {
        model.layers.iter().zip(densities).map(|(l, &d)| l.geometry.forward_flops(d, convention)).sum()
    }

    fn dense(model: &Model, convention: FlopsConvention) -> f64 {
        forward(model, &vec![1.0; model.layers.len()], convention)
    }

    fn size_megabytes(model: &Model, densities: &[f64]) -> f64 {
        model.layers.iter().zip(densities).map(|(l, &d)| l.geometry.paper_size_bytes(d)).sum::<f64>() / 1e6
    }

    #[track_caller]
    fn assert_near(got: f64, expected: f64, tolerance: f64) {
        assert!((got - expected).abs() <= tolerance, "{got}, expected {expected} within {tolerance}");
    }

    fn rigl_ratio(f_sparse: f64, f_dense: f64, length: f64) -> f64 {
        let rule = TrainingRule::GradientGrowth { update_interval: 100, batches: 1 };
        training_flops_ratio(rule.flops(f_sparse, f_dense), f_dense, length)
    }

    /// The third-party figures are the outputs of calgaryml/condensed-sparsity, `notebooks/flops.ipynb`, which counts
    /// no ReLU behind the classifier: 1000 operations fewer, and one digit fewer than printed here.
    #[test]
    fn resnet50_with_true_output_sizes() {
        let model = resnet50();
        let f_dense = dense(&model, Micronet);
        assert_near(f_dense / 1e6, 8189.483, 6e-4);
        for (sparsity, megaflops, third_party, ratio, rigl, uniform, uniform_ratio) in [
            (0.75, 3903.735, 3.903734e9, 0.476677, 0.478404, 2232.728, 0.2726),
            (0.80, 3395.293, 3.395292e9, 0.414592, 0.416524, 1835.611, 0.2241),
            (0.90, 1988.962, 1.988961e9, 0.242868, 0.245367, 1041.377, 0.1272),
            (0.9375, 1254.966, 1.254965e9, 0.153241, 0.156036, 743.539, 0.0908),
            (0.95, 1006.218, 1.006217e9, 0.122867, 0.125762, 644.260, 0.0787),
            (0.99, 210.149, 2.101481e8, 0.025661, 0.028876, 326.566, 0.0399),
        ] {
            let f_sparse = forward(&model, &densities(&model, sparsity, ERK, &[]), Micronet);
            assert_near(f_sparse / 1e6, megaflops, 6e-4);
            assert_near(f_sparse - 1000.0, third_party, 1e-6 * third_party);
            assert_near(f_sparse / f_dense, ratio, 1e-6);
            assert_near(rigl_ratio(f_sparse, f_dense, 1.0), rigl, 1e-6);
            let f_uniform = forward(&model, &densities(&model, sparsity, UNIFORM, &["conv1"]), Micronet);
            assert_near(f_uniform / 1e6, uniform, 6e-4);
            assert_near(f_uniform / f_dense, uniform_ratio, 6e-5);
        }
        let mut plain = model;
        let classifier = plain.layers.last_mut().unwrap();
        classifier.geometry = classifier.geometry.with_relu(false);
        assert_near(dense(&plain, Micronet), 8.189482e9, 500.0);
    }

    #[test]
    fn resnet50_as_the_paper_counts() {
        let model = resnet50();
        let f_dense = dense(&model, Paper);
        assert_near(f_dense / 1e6, 8202.341, 6e-4);
        assert_near(size_megabytes(&model, &[1.0; 54]), 102.122, 6e-4);
        let er = (Distribution::ErdosRenyi, 1.0);
        let conv1: &[&str] = &["conv1"];
        // Sparsity, distribution, dense layers, f_S/f_D, RigL training 1x, 5x, size in MB.
        for (sparsity, distribution, dense_layers, ratio, rigl, rigl_5x, size) in [
            (0.80, ERK, &[][..], 0.4153, Some(0.4172), Some(2.086), Some(23.684)),
            (0.80, UNIFORM, conv1, 0.2254, Some(0.2279), Some(1.140), Some(23.729)),
            (0.80, er, &[], 0.4546, None, None, None),
            (0.90, ERK, &[], 0.2431, Some(0.2456), Some(1.228), Some(13.499)),
            (0.90, UNIFORM, conv1, 0.1285, Some(0.131), Some(0.657), Some(13.532)),
            (0.90, UNIFORM, &[], 0.1012, Some(0.104), Some(0.521), None),
            (0.90, er, &[], 0.2593, None, None, None),
            (0.95, ERK, &[], 0.1230, Some(0.126), Some(0.63), Some(8.399)),
            (0.95, UNIFORM, conv1, 0.0801, Some(0.083), Some(0.4157), Some(8.433)),
            (0.965, ERK, &[], 0.0865, None, Some(0.448), Some(6.869)),
            (0.965, ERK, conv1, 0.1125, None, None, Some(6.904)),
            (0.965, UNIFORM, conv1, 0.0656, None, Some(0.343), Some(6.904)),
            (0.99, ERK, conv1, 0.0548, None, Some(0.2895), Some(4.354)),
            (0.99, ERK, &[], 0.0257, None, None, None),
            (0.99, UNIFORM, conv1, 0.0414, None, None, None),
        ] {
            let densities = densities(&model, sparsity, distribution, dense_layers);
            let f_sparse = forward(&model, &densities, Paper);
            assert_near(f_sparse / f_dense, ratio, 6e-5);
            if let Some(expected) = rigl {
                assert_near(rigl_ratio(f_sparse, f_dense, 1.0), expected, 6e-4);
            }
            if let Some(expected) = rigl_5x {
                assert_near(rigl_ratio(f_sparse, f_dense, 5.0), expected, 1e-3);
            }
            if let Some(expected) = size {
                assert_near(size_megabytes(&model, &densities), expected, 6e-4);
            }
        }
        let f_erk = forward(&model, &densities(&model, 0.8, ERK, &[]), Paper);
        assert_near(f_erk / 1e6, 3406.320, 6e-4);
        let f_uniform = forward(&model, &densities(&model, 0.8, UNIFORM, &["conv1"]), Paper);
        assert_near(f_uniform / 1e6, 1848.468, 6e-4);
        let power = (Distribution::ErdosRenyiKernel, 0.2);
        assert_near(forward(&model, &densities(&model, 0.8, power, &[]), Paper) / f_dense, 0.2353, 6e-5);
    }

    #[test]
    fn dense_gradients_and_gradual_pruning_as_the_paper_counts() {
        let model = resnet50();
        let f_dense = dense(&model, Paper);
        for (sparsity, snfs) in [(0.8, 0.610), (0.9, 0.495)] {
            let f_sparse = forward(&model, &densities(&model, sparsity, ERK, &[]), Paper);
            let flops = TrainingRule::DenseGradient.flops(f_sparse, f_dense);
            assert_near(training_flops_ratio(flops, f_dense, 1.0), snfs, 6e-4);
        }
        for (sparsity, once, longer) in
            [(0.8, 0.5603, Some(0.840)), (0.9, 0.5053, Some(0.758)), (0.95, 0.478, None), (0.965, 0.4696, None)]
        {
            let pruning = GradualPruning::new(10_000, 25_000, 1000, 1.0 - sparsity).unwrap();
            let mean = pruning.training_flops(32_000, |density| {
                let all: Vec<_> = model.layers.iter().map(|l| if l.name == "conv1" { 1.0 } else { density }).collect();
                forward(&model, &all, Paper)
            });
            // The published .478 has three digits.
            assert_near(training_flops_ratio(mean, f_dense, 1.0), once, if sparsity == 0.95 { 6e-4 } else { 6e-5 });
            if let Some(longer) = longer {
                assert_near(training_flops_ratio(mean, f_dense, 1.5), longer, 6e-4);
            }
        }
        assert_eq!(training_flops_ratio(TrainingRule::Dense.flops(1.0, 7.0), 7.0, 1.0), 1.0);
        assert_eq!(training_flops_ratio(TrainingRule::Sparse.flops(1.0, 8.0), 8.0, 2.0), 0.25);
    }

    /// The outputs of google-research/rigl, `rigl/imagenet_resnet/colabs/MobileNet_Counting.ipynb`. The figures for
    /// ERK are those of a first convolution that takes part and depthwise layers that do not.
    #[test]
    fn mobilenet_v1_as_the_paper_counts() {
        let model = mobilenet_v1();
        assert_near(dense(&model, Paper) / 1e6, 1141.544, 6e-4);
        assert_near(size_megabytes(&model, &vec![1.0; model.layers.len()]), 16.864, 6e-4);
        for (sparsity, erk, erk_size, uniform, uniform_size) in [
            (0.75, 599.144, 4.888, 330.769, 4.894),
            (0.85, 439.152, 3.224, 222.666, 3.229),
            (0.90, 334.134, 2.392, 168.614, 2.396),
            (0.95, 205.281, 1.560, 114.563, 1.563),
        ] {
            let fixed = densities(&model, sparsity, UNIFORM, &["conv1", "*.depthwise"]);
            assert_near(forward(&model, &fixed, Paper) / 1e6, uniform, 6e-4);
            assert_near(size_megabytes(&model, &fixed), uniform_size, 6e-4);
            let scaled = densities(&model, sparsity, ERK, &["*.depthwise"]);
            // Equal to the last digit at .75; at the others the notebook is lower by up to 6e-5 of the value, and
            // why is not known.
            assert_near(forward(&model, &scaled, Paper) / 1e6, erk, 1e-4 * erk);
            assert_near(size_megabytes(&model, &scaled), erk_size, 1e-3);
        }
    }

    /// Counted without bias and ReLU, as in the reproducibility report (arXiv 2103.15767).
    #[test]
    fn wrn_22_2_without_bias_and_relu() {
        let mut model = wrn_22_2();
        for layer in &mut model.layers {
            layer.geometry = layer.geometry.with_bias(false).with_relu(false);
        }
        let f_dense = dense(&model, Micronet);
        assert_near(f_dense / 1e6, 315.042, 6e-4);
        for (sparsity, erk, uniform) in
            [(0.5, 0.7279, 0.5007), (0.8, 0.3512, 0.2012), (0.9, 0.1725, 0.1013), (0.95, 0.0869, 0.0514)]
        {
            assert_near(forward(&model, &densities(&model, sparsity, ERK, &[]), Micronet) / f_dense, erk, 6e-5);
            let fixed = densities(&model, sparsity, UNIFORM, &["conv1"]);
            assert_near(forward(&model, &fixed, Micronet) / f_dense, uniform, 6e-5);
        }
        // A multiply-add is two: one addition per output more.
        let outputs: f64 = (dense(&model, Mac2) - f_dense) / 1e6;
        assert_near(outputs, 315.460 - 315.042, 1e-3);
    }

    /// Table 2 of the paper's appendix B: LeNet-300-100 once its dead units are removed.
    #[test]
    fn lenet_300_100_without_dead_units() {
        for (sizes, sparsity, kiloflops, bytes) in
            [([408, 100, 69, 10], 0.870, 12.58, 31_928.0), ([375, 62, 51, 10], 0.886, 6.14, 16_134.0)]
        {
            let model = mlp(&sizes);
            let all = vec![1.0 - sparsity; 3];
            assert_near(forward(&model, &all, Mac2) / 1e3, kiloflops, 6e-3);
            assert_near(size_megabytes(&model, &all) * 1e6, bytes, 1.0);
        }
    }

    #[test]
    fn output_sizes() {
        let conv = |input, kernel, stride, padding| {
            LayerGeometry::conv(ConvGeometry {
                input_channels: 1,
                output_channels: 1,
                input_size: [input, input + 1],
                kernel: [kernel; 2],
                stride,
                padding,
                groups: 1,
            })
        };
        assert_eq!(conv(7, 3, 2, Padding::Same).unwrap().output_size(), [4, 4]);
        assert_eq!(conv(7, 2, 2, Padding::Same).unwrap().output_size(), [4, 4]);
        assert_eq!(conv(7, 3, 2, Padding::Valid).unwrap().output_size(), [3, 3]);
        assert_eq!(conv(7, 3, 1, Padding::Explicit { total: 2 }).unwrap().output_size(), [7, 8]);
        assert_eq!(conv(2, 3, 1, Padding::Valid), Err(FlopsError::Kernel { kernel: 3, padded: 2 }));
        assert_eq!(conv(7, 3, 0, Padding::Valid), Err(FlopsError::Zero { what: "stride" }));
        // An explicit padding that makes a "same" output costs the same in both true conventions.
        let same = conv(6, 3, 1, Padding::Same).unwrap();
        let explicit = conv(6, 3, 1, Padding::Explicit { total: 2 }).unwrap();
        assert_eq!(same.forward_flops(0.5, Mac2), explicit.forward_flops(0.5, Mac2));
        assert_eq!(same.forward_flops(0.5, Paper), same.forward_flops(0.5, Micronet));
    }

    #[test]
    fn groups_divide_the_work() {
        let conv = |groups| ConvGeometry {
            input_channels: 8,
            output_channels: 8,
            input_size: [5, 5],
            kernel: [3, 3],
            stride: 1,
            padding: Padding::Same,
            groups,
        };
        let whole = LayerGeometry::conv(conv(1)).unwrap();
        let depthwise = LayerGeometry::conv(conv(8)).unwrap();
        assert_eq!((whole.size(), depthwise.size()), (576, 72));
        assert_eq!(whole.forward_flops(1.0, Mac2), 8.0 * depthwise.forward_flops(1.0, Mac2));
        let groups = FlopsError::Groups { groups: 3, input_channels: 8, output_channels: 8 };
        assert_eq!(LayerGeometry::conv(conv(3)), Err(groups));
    }

    #[test]
    fn names_are_read_back() {
        for convention in [Mac2, Micronet, Paper] {
            assert_eq!(convention.to_string().parse(), Ok(convention));
        }
        let error = "macs".parse::<FlopsConvention>().unwrap_err().to_string();
        assert_eq!(error, "unknown FLOPs convention `macs`; choose one of mac2, micronet, products, paper");
    }

    #[test]
    fn gradual_pruning_falls_as_a_cube() {
        let pruning = GradualPruning::new(100, 300, 10, 0.2).unwrap();
        assert_eq!((pruning.density(0), pruning.density(100)), (1.0, 1.0));
        assert_near(pruning.density(200), 0.2 + 0.8 / 8.0, 1e-15);
        assert_eq!((pruning.density(300), pruning.density(400)), (0.2, 0.2));
        let window = FlopsError::Window { begin_step: 3, end_step: 3 };
        assert_eq!(GradualPruning::new(3, 3, 1, 0.1), Err(window));
        assert_eq!(GradualPruning::new(3, 4, 0, 0.1), Err(FlopsError::Zero { what: "update_interval" }));
    }
}
