//! Wide residual networks (Zagoruyko and Komodakis 2016), with pre-activation.

use super::super::build_error::BuildError;
use super::super::builder::{Builder, Conv};
use super::super::family::{Family, FirstWeights};
use super::super::graph::Masking;

/// Wide residual networks.
pub(super) static WIDE_RESNET: Family = Family {
    prefix: "wrn-",
    names: "wrn-D-K such as wrn-22-2",
    rule: Some("a wide residual network is wrn-D-K with D = 6 n + 4 (10, 16, 22, ...)"),
    has: |numbers| matches!(numbers, [depth, width] if *depth >= 10 && depth % 6 == 4 && *width > 0),
    pictures: [3, 32, 10],
    has_stem: false,
    first_weights: FirstWeights::Glorot,
};

/// `wrn-D-K`: a convolution of 16 channels, three groups of `(D − 4) / 6` blocks with `16 K`, `32 K` and `64 K` channels,
/// normalisation, mean, a linear layer. A block is normalisation, ReLU, convolution, twice, dropout before the second
/// convolution; where the shape changes, the shortcut is a convolution of 1 × 1 behind the first ReLU.
pub(super) fn wide_resnet(builder: &mut Builder, numbers: &[usize]) -> Result<(), BuildError> {
    let spec = builder.spec.clone();
    let (depth, width) = (numbers[0], numbers[1]);
    let blocks = (depth - 4) / 6;
    builder.masking = Masking::NotUniform;
    let mut x = builder.conv("conv1", Conv::new(spec.scaled(16), 3), builder.input())?;
    builder.masking = Masking::Any;
    // The block before, whose sum the next normalisation makes.
    let mut branch = None;
    for (group, channels) in [16, 32, 64].into_iter().enumerate() {
        let channels = spec.scaled(channels * width);
        for block in 0..blocks {
            let name = |layer: &str| format!("layer{}.{block}.{layer}", group + 1);
            let stride = if group > 0 && block == 0 { 2 } else { 1 };
            let activated;
            (x, activated) = match branch {
                Some(branch) => builder.add_norm(name("bn1"), true, false, x, branch)?,
                None => (x, builder.norm_relu(name("bn1"), x)?),
            };
            let changes = stride != 1 || builder.channels(x)? != channels;
            if changes {
                x = builder.conv(name("shortcut"), Conv::new(channels, 1).stride(stride), activated)?;
            }
            let y = builder.conv(name("conv1"), Conv::new(channels, 3).stride(stride), activated)?;
            let y = builder.norm_relu(name("bn2"), y)?;
            let y = builder.dropout(name("dropout"), y)?;
            branch = Some(builder.conv(name("conv2"), Conv::new(channels, 3), y)?);
        }
    }
    let last = branch.expect("a wide residual network has blocks");
    let (_, x) = builder.add_norm("bn", true, false, x, last)?;
    let x = builder.global_average_pool(x)?;
    builder.linear("fc", spec.classes, false, x)?;
    Ok(())
}
