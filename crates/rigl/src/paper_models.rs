//! The networks of the paper's tables, as layer lists, for tests against published figures.

use crate::distribution::LayerShape;
use crate::flops::{ConvGeometry, LayerGeometry, Padding};

pub(crate) struct Layer {
    pub name: String,
    pub shape: Vec<usize>,
    pub geometry: LayerGeometry,
}

pub(crate) struct Model {
    pub layers: Vec<Layer>,
}

impl Model {
    pub fn shapes(&self) -> Vec<LayerShape> {
        self.layers.iter().map(|l| LayerShape::new(l.name.clone(), l.shape.clone())).collect()
    }

    fn linear(&mut self, name: impl Into<String>, inputs: usize, outputs: usize) {
        let geometry = LayerGeometry::linear(inputs, outputs);
        self.layers.push(Layer { name: name.into(), shape: vec![outputs, inputs], geometry });
    }

    /// A square convolution; returns the side of its output.
    fn conv(
        &mut self,
        name: impl Into<String>,
        kernel: usize,
        stride: usize,
        side: usize,
        channels: [usize; 2],
    ) -> usize {
        self.conv_with(name, kernel, stride, side, channels, Padding::Same, 1)
    }

    #[allow(clippy::too_many_arguments, reason = "one place of a test module that spells out a convolution")]
    fn conv_with(
        &mut self,
        name: impl Into<String>,
        kernel: usize,
        stride: usize,
        side: usize,
        [input_channels, output_channels]: [usize; 2],
        padding: Padding,
        groups: usize,
    ) -> usize {
        let conv = ConvGeometry {
            input_channels,
            output_channels,
            input_size: [side; 2],
            kernel: [kernel; 2],
            stride,
            padding,
            groups,
        };
        let geometry = LayerGeometry::conv(conv).unwrap();
        let shape = vec![output_channels, input_channels / groups, kernel, kernel];
        self.layers.push(Layer { name: name.into(), shape, geometry });
        geometry.output_size()[0]
    }
}

/// ResNet-50, version 1.5: the stride is on the 3×3 convolution.
pub(crate) fn resnet50() -> Model {
    let mut model = Model { layers: vec![] };
    let mut side = model.conv_with("conv1", 7, 2, 224, [3, 64], Padding::Explicit { total: 6 }, 1) / 2;
    let mut channels = 64;
    for (stage, (blocks, width)) in [(3, 64), (4, 128), (6, 256), (3, 512)].into_iter().enumerate() {
        for block in 0..blocks {
            let name = |layer: &str| format!("stage{}.{block}.{layer}", stage + 2);
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            if block == 0 {
                model.conv(name("shortcut"), 1, stride, side, [channels, 4 * width]);
            }
            model.conv(name("conv1"), 1, 1, side, [channels, width]);
            side = model.conv(name("conv2"), 3, stride, side, [width, width]);
            model.conv(name("conv3"), 1, 1, side, [width, 4 * width]);
            channels = 4 * width;
        }
    }
    model.linear("fc", 2048, 1000);
    model
}

/// MobileNet-v1, its classifier a 1×1 convolution.
pub(crate) fn mobilenet_v1() -> Model {
    let mut model = Model { layers: vec![] };
    let padding = |stride| if stride == 2 { Padding::Explicit { total: 1 } } else { Padding::Same };
    let mut side = model.conv_with("conv1", 3, 2, 224, [3, 32], padding(2), 1);
    let mut channels = 32;
    let blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)];
    let blocks = blocks.into_iter().chain([(512, 1); 5]).chain([(1024, 2), (1024, 1)]);
    for (block, (width, stride)) in blocks.enumerate() {
        let name = format!("block{block}.depthwise");
        side = model.conv_with(name, 3, stride, side, [channels, channels], padding(stride), channels);
        model.conv(format!("block{block}.pointwise"), 1, 1, side, [channels, width]);
        channels = width;
    }
    model.conv("classifier", 1, 1, 1, [1024, 1000]);
    model
}

/// WRN-22-2 on CIFAR-10.
pub(crate) fn wrn_22_2() -> Model {
    let mut model = Model { layers: vec![] };
    let mut side = model.conv("conv1", 3, 1, 32, [3, 16]);
    let mut channels = 16;
    for (group, width) in [32, 64, 128].into_iter().enumerate() {
        for block in 0..3 {
            let name = |layer: &str| format!("group{}.{block}.{layer}", group + 2);
            let stride = if group > 0 && block == 0 { 2 } else { 1 };
            if block == 0 {
                model.conv(name("skip"), 1, stride, side, [channels, width]);
            }
            side = model.conv(name("conv1"), 3, stride, side, [channels, width]);
            model.conv(name("conv2"), 3, 1, side, [width, width]);
            channels = width;
        }
    }
    model.linear("fc", 128, 10);
    model
}

/// A multilayer perceptron by its sizes.
pub(crate) fn mlp(sizes: &[usize]) -> Model {
    let mut model = Model { layers: vec![] };
    for (l, pair) in sizes.windows(2).enumerate() {
        model.linear(format!("fc{}", l + 1), pair[0], pair[1]);
    }
    model
}

pub(crate) fn lenet_300_100() -> Model {
    mlp(&[784, 300, 100, 10])
}
