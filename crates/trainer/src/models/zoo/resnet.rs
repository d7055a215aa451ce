//! Residual networks (He et al. 2016), version 1.5: the stride of a bottleneck is on its 3 × 3 convolution.

use super::super::Stem;
use super::super::build_error::BuildError;
use super::super::builder::{Builder, Conv};
use super::super::family::{Family, FirstWeights};
use super::super::graph::{Masking, PoolKind, ValueId};

/// Residual networks.
pub(super) static RESNET: Family = Family {
    prefix: "resnet-",
    names: "resnet-18, resnet-34, resnet-50",
    rule: None,
    has: |numbers| matches!(numbers, [18 | 34 | 50]),
    pictures: [3, 224, 1000],
    has_stem: true,
    first_weights: FirstWeights::Lecun,
};

/// `resnet-18`, `-34` (basic blocks) or `-50` (bottlenecks), with the layers' names of torchvision. ImageNet's stem is a
/// convolution of 7 × 7 and a pooling, both of stride 2; CIFAR's is a convolution of 3 × 3.
pub(super) fn resnet(builder: &mut Builder, numbers: &[usize]) -> Result<(), BuildError> {
    let spec = builder.spec.clone();
    let (blocks, bottleneck) = match numbers {
        [18] => ([2, 2, 2, 2], false),
        [34] => ([3, 4, 6, 3], false),
        _ => ([3, 4, 6, 3], true),
    };
    builder.masking = Masking::NotUniform;
    let stem = match spec.stem {
        Stem::Cifar => Conv::new(spec.scaled(64), 3),
        Stem::Auto | Stem::Imagenet => Conv::new(spec.scaled(64), 7).stride(2).padded_apart(),
    };
    let mut x = builder.conv("conv1", stem, builder.input())?;
    builder.masking = Masking::Any;
    x = builder.norm_relu("bn1", x)?;
    if spec.stem != Stem::Cifar {
        x = builder.pool(PoolKind::Max, [3, 2, 1], x)?;
    }
    for (stage, (count, channels)) in blocks.into_iter().zip([64, 128, 256, 512]).enumerate() {
        for block in 0..count {
            let stride = if stage > 0 && block == 0 { 2 } else { 1 };
            let prefix = format!("layer{}.{block}", stage + 1);
            let block = Block { prefix, channels: spec.scaled(channels), outputs: spec.scaled(4 * channels), stride };
            x = if bottleneck { block.bottleneck(builder, x)? } else { block.basic(builder, x)? };
        }
    }
    let x = builder.global_average_pool(x)?;
    builder.linear("fc", spec.classes, false, x)?;
    Ok(())
}

struct Block {
    prefix: String,
    channels: usize,
    /// Of a bottleneck.
    outputs: usize,
    stride: usize,
}

impl Block {
    /// The input, or what it becomes where the shape changes.
    fn shortcut(&self, builder: &mut Builder, outputs: usize, x: ValueId) -> Result<ValueId, BuildError> {
        if self.stride == 1 && builder.channels(x)? == outputs {
            return Ok(x);
        }
        let conv = Conv::new(outputs, 1).stride(self.stride);
        let y = builder.conv(format!("{}.downsample.0", self.prefix), conv, x)?;
        builder.norm(format!("{}.downsample.1", self.prefix), y)
    }

    fn basic(&self, builder: &mut Builder, x: ValueId) -> Result<ValueId, BuildError> {
        let name = |layer: &str| format!("{}.{layer}", self.prefix);
        let shortcut = self.shortcut(builder, self.channels, x)?;
        let y = builder.conv(name("conv1"), Conv::new(self.channels, 3).stride(self.stride), x)?;
        let y = builder.norm_relu(name("bn1"), y)?;
        let y = builder.conv(name("conv2"), Conv::new(self.channels, 3), y)?;
        builder.norm_add(name("bn2"), true, true, shortcut, y)
    }

    fn bottleneck(&self, builder: &mut Builder, x: ValueId) -> Result<ValueId, BuildError> {
        let name = |layer: &str| format!("{}.{layer}", self.prefix);
        let shortcut = self.shortcut(builder, self.outputs, x)?;
        let y = builder.conv(name("conv1"), Conv::new(self.channels, 1), x)?;
        let y = builder.norm_relu(name("bn1"), y)?;
        let y = builder.conv(name("conv2"), Conv::new(self.channels, 3).stride(self.stride), y)?;
        let y = builder.norm_relu(name("bn2"), y)?;
        let y = builder.conv(name("conv3"), Conv::new(self.outputs, 1), y)?;
        builder.norm_add(name("bn3"), true, true, shortcut, y)
    }
}
