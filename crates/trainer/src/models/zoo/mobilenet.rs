//! MobileNets (Howard et al. 2017; Sandler et al. 2018): convolutions apart in channels and in pixels. The first convolution
//! and the depthwise ones are never sparse (the paper, section 4.1.2).

use super::super::ModelSpec;
use super::super::build_error::BuildError;
use super::super::builder::{Builder, Conv};
use super::super::family::{Family, FirstWeights};
use super::super::graph::{Masking, ValueId};

/// Versions 1 and 2.
pub(super) static MOBILENET: Family = Family {
    prefix: "mobilenet-v",
    names: "mobilenet-v1, mobilenet-v2",
    rule: None,
    has: |numbers| matches!(numbers, [1 | 2]),
    pictures: [3, 224, 1000],
    has_stem: false,
    first_weights: FirstWeights::Lecun,
};

/// Version 2 as its authors and torchvision have it.
pub(super) static MOBILENET_RELU6: Family = Family {
    prefix: "mobilenet-v2-relu",
    names: "mobilenet-v2-relu6",
    rule: None,
    has: |numbers| matches!(numbers, [6]),
    ..MOBILENET
};

/// The version of this number.
pub(super) fn mobilenet(builder: &mut Builder, numbers: &[usize]) -> Result<(), BuildError> {
    if numbers == [1] { mobilenet_v1(builder) } else { mobilenet_v2(builder) }
}

/// Thirteen pairs of a depthwise convolution of 3 × 3 and one of 1 × 1.
fn mobilenet_v1(builder: &mut Builder) -> Result<(), BuildError> {
    let spec = builder.spec.clone();
    let mut x = stem(builder)?;
    let blocks = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)];
    let blocks = blocks.into_iter().chain([(512, 1); 5]).chain([(1024, 2), (1024, 1)]);
    for (block, (channels, stride)) in blocks.enumerate() {
        let name = |layer: &str| format!("block{}.{layer}", block + 1);
        x = depthwise(builder, &name("depthwise"), &name("bn1"), stride, x)?;
        x = builder.conv(name("pointwise"), Conv::new(spec.scaled(channels), 1), x)?;
        x = builder.norm_relu(name("bn2"), x)?;
    }
    let x = builder.global_average_pool(x)?;
    builder.linear("classifier", spec.classes, false, x)?;
    Ok(())
}

/// Seventeen blocks that expand their channels six times, convolve each by itself, and project back, around a shortcut where
/// the shape stays. (The original's ReLU6 is a ReLU here.)
fn mobilenet_v2(builder: &mut Builder) -> Result<(), BuildError> {
    let spec = builder.spec.clone();
    let mut x = stem(builder)?;
    for (i, block) in blocks_v2(&spec).into_iter().enumerate() {
        let name = |layer: &str| format!("block{}.{layer}", i + 1);
        let inputs = builder.channels(x)?;
        let mut y = x;
        if block.expansion > 1 {
            y = builder.conv(name("expand"), Conv::new(block.expansion * inputs, 1), y)?;
            y = builder.norm_relu(name("bn1"), y)?;
        }
        y = depthwise(builder, &name("depthwise"), &name("bn2"), block.stride, y)?;
        y = builder.conv(name("project"), Conv::new(block.channels, 1), y)?;
        x = block.close(builder, name("bn3"), x, y)?;
    }
    x = builder.conv("head", Conv::new(head_v2(&spec), 1), x)?;
    x = builder.norm_relu("head_bn", x)?;
    let x = builder.global_average_pool(x)?;
    let x = builder.dropout("dropout", x)?;
    builder.linear("classifier", spec.classes, false, x)?;
    Ok(())
}

/// The same with the original's ReLU6, and torchvision's names.
pub(super) fn mobilenet_v2_relu6(builder: &mut Builder, _: &[usize]) -> Result<(), BuildError> {
    let spec = builder.spec.clone();
    builder.masking = Masking::Never;
    let conv = Conv::new(spec.scaled(32), 3).stride(2).padded_apart();
    let mut x = builder.conv("features.0.0", conv, builder.input())?;
    builder.masking = Masking::Any;
    x = builder.norm_relu6("features.0.1", x)?;
    let blocks = blocks_v2(&spec);
    let count = blocks.len();
    for (i, block) in blocks.into_iter().enumerate() {
        let name = |layer: &str| format!("features.{}.conv.{layer}", i + 1);
        let inputs = builder.channels(x)?;
        let (mut y, mut module) = (x, 0);
        if block.expansion > 1 {
            y = builder.conv(name("0.0"), Conv::new(block.expansion * inputs, 1), y)?;
            y = builder.norm_relu6(name("0.1"), y)?;
            module = 1;
        }
        let channels = builder.channels(y)?;
        builder.masking = Masking::Never;
        let conv = Conv::new(channels, 3).stride(block.stride).groups(channels).padded_apart();
        y = builder.conv(name(&format!("{module}.0")), conv, y)?;
        builder.masking = Masking::Any;
        y = builder.norm_relu6(name(&format!("{module}.1")), y)?;
        y = builder.conv(name(&(module + 1).to_string()), Conv::new(block.channels, 1), y)?;
        x = block.close(builder, name(&(module + 2).to_string()), x, y)?;
    }
    x = builder.conv(format!("features.{}.0", count + 1), Conv::new(head_v2(&spec), 1), x)?;
    x = builder.norm_relu6(format!("features.{}.1", count + 1), x)?;
    let x = builder.global_average_pool(x)?;
    let x = builder.dropout("dropout", x)?;
    builder.linear("classifier.1", spec.classes, false, x)?;
    Ok(())
}

/// A block of version 2.
struct BlockV2 {
    /// Factor on its inputs' channels.
    expansion: usize,
    channels: usize,
    stride: usize,
}

impl BlockV2 {
    /// The last normalisation, around which the shortcut leads where the shape stays.
    fn close(&self, builder: &mut Builder, name: String, x: ValueId, y: ValueId) -> Result<ValueId, BuildError> {
        let keeps = self.stride == 1 && builder.channels(x)? == self.channels;
        if keeps { builder.norm_add(name, false, false, x, y) } else { builder.norm(name, y) }
    }
}

/// All seventeen blocks of version 2.
fn blocks_v2(spec: &ModelSpec) -> Vec<BlockV2> {
    let stages =
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
    let mut blocks = Vec::new();
    for (expansion, channels, count, stride) in stages {
        let channels = spec.scaled(channels);
        blocks.extend((0..count).map(|i| BlockV2 { expansion, channels, stride: if i == 0 { stride } else { 1 } }));
    }
    blocks
}

/// Channels of the last convolution of version 2: a width below 1 leaves them as they are (Sandler et al. 2018).
fn head_v2(spec: &ModelSpec) -> usize {
    spec.scaled(1280).max(1280)
}

fn stem(builder: &mut Builder) -> Result<ValueId, BuildError> {
    builder.masking = Masking::Never;
    let conv = Conv::new(builder.spec.scaled(32), 3).stride(2).padded_apart();
    let x = builder.conv("conv1", conv, builder.input())?;
    builder.masking = Masking::Any;
    builder.norm_relu("bn1", x)
}

fn depthwise(builder: &mut Builder, conv: &str, norm: &str, stride: usize, x: ValueId) -> Result<ValueId, BuildError> {
    let channels = builder.channels(x)?;
    builder.masking = Masking::Never;
    let x = builder.conv(conv, Conv::new(channels, 3).stride(stride).groups(channels).padded_apart(), x)?;
    builder.masking = Masking::Any;
    builder.norm_relu(norm, x)
}

#[cfg(test)]
mod tests {
    use sparse_kernels::Activation;

    use crate::models::Architecture;

    /// As many parameters as torchvision's, however the layers are named; only one has ReLU6.
    #[test]
    fn both_second_versions_are_one_network_but_for_the_activation() {
        let [plain, original] =
            ["mobilenet-v2", "mobilenet-v2-relu6"].map(|name| Architecture::of(&name.parse().unwrap()));
        assert_eq!((plain.parameters(), original.parameters()), (3_504_872, 3_504_872));
        let kinds = |network: &Architecture| network.layers.iter().map(|layer| layer.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&plain), kinds(&original));
        assert_eq!(plain.graph.values, original.graph.values);
        let count = |network: &Architecture, activation| {
            network.norms.iter().filter(|norm| norm.activation() == activation).count()
        };
        assert_eq!((count(&plain, Activation::Relu), count(&plain, Activation::Relu6)), (35, 0));
        assert_eq!((count(&original, Activation::Relu), count(&original, Activation::Relu6)), (0, 35));
        let names = ["features.0.0", "features.1.conv.0.0", "features.1.conv.1", "features.2.conv.0.0"];
        assert_eq!(original.layers.iter().take(4).map(|layer| &*layer.name).collect::<Vec<_>>(), names);
    }
}
