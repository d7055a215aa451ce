//! MobileNets (Howard et al. 2017; Sandler et al. 2018): convolutions apart in channels and in pixels. The first convolution
//! and the depthwise ones are never sparse (the paper, section 4.1.2).

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
    let stages =
        [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];
    let mut block = 0;
    for (expansion, channels, count, stride) in stages {
        let channels = spec.scaled(channels);
        for i in 0..count {
            block += 1;
            let name = |layer: &str| format!("block{block}.{layer}");
            let stride = if i == 0 { stride } else { 1 };
            let inputs = builder.channels(x)?;
            let mut y = x;
            if expansion > 1 {
                y = builder.conv(name("expand"), Conv::new(expansion * inputs, 1), y)?;
                y = builder.norm_relu(name("bn1"), y)?;
            }
            y = depthwise(builder, &name("depthwise"), &name("bn2"), stride, y)?;
            y = builder.conv(name("project"), Conv::new(channels, 1), y)?;
            let keeps = stride == 1 && inputs == channels;
            x = if keeps {
                builder.norm_add(name("bn3"), false, false, x, y)?
            } else {
                builder.norm(name("bn3"), y)?
            };
        }
    }
    // A width below 1 leaves the last convolution as it is (Sandler et al. 2018).
    let head = spec.scaled(1280).max(1280);
    x = builder.conv("head", Conv::new(head, 1), x)?;
    x = builder.norm_relu("head_bn", x)?;
    let x = builder.global_average_pool(x)?;
    let x = builder.dropout("dropout", x)?;
    builder.linear("classifier", spec.classes, false, x)?;
    Ok(())
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
