//! VGG-16 (Simonyan and Zisserman 2015) with batch normalisation.

use super::super::build_error::BuildError;
use super::super::builder::{Builder, Conv};
use super::super::family::{Family, FirstWeights};
use super::super::graph::Masking;

/// VGG-16.
pub(super) static VGG: Family = Family {
    prefix: "vgg-",
    names: "vgg-16",
    rule: None,
    has: |numbers| numbers == [16],
    pictures: [3, 224, 1000],
    has_stem: false,
    first_weights: FirstWeights::He,
};

/// Thirteen convolutions of 3 × 3 in five groups, each group followed by a pooling of 2 × 2. On pictures of at least 224 × 224,
/// the classifier has two hidden layers of 4096 features; on smaller ones it is one linear layer over the channels' means.
pub(super) fn vgg_16(builder: &mut Builder, _: &[usize]) -> Result<(), BuildError> {
    let spec = builder.spec.clone();
    let mut x = builder.input();
    builder.masking = Masking::NotUniform;
    // As torchvision numbers the modules: convolution, normalisation, ReLU.
    let mut module = 0;
    for (count, channels) in [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)] {
        for _ in 0..count {
            x = builder.conv(format!("features.{module}"), Conv::new(spec.scaled(channels), 3), x)?;
            x = builder.norm_relu(format!("features.{}", module + 1), x)?;
            builder.masking = Masking::Any;
            module += 3;
        }
        x = builder.max_pool(2, x)?;
        module += 1;
    }
    if spec.size[0].min(spec.size[1]) < 224 {
        x = builder.global_average_pool(x)?;
        builder.linear("classifier", spec.classes, false, x)?;
        return Ok(());
    }
    x = builder.flatten(x)?;
    for name in ["classifier.0", "classifier.3"] {
        x = builder.linear(name, spec.scaled(4096), true, x)?;
        x = builder.dropout(name, x)?;
    }
    builder.linear("classifier.6", spec.classes, false, x)?;
    Ok(())
}
