//! Multi-layer perceptrons, LeNet-300-100 among them, and LeNet-5 (LeCun et al. 1998).

use super::super::build_error::BuildError;
use super::super::builder::{Builder, Conv};
use super::super::family::{Family, FirstWeights};
use super::super::graph::Masking;

/// Linear layers `fc1`, `fc2`, … of these sizes, with ReLU and dropout between them.
pub(super) fn mlp(builder: &mut Builder, sizes: &[usize]) -> Result<(), BuildError> {
    let mut x = builder.input();
    for (i, &outputs) in sizes[1..].iter().enumerate() {
        let (name, relu) = (format!("fc{}", i + 1), i + 2 < sizes.len());
        x = builder.linear(&name, outputs, relu, x)?;
        if relu {
            x = builder.dropout(name, x)?;
        }
    }
    Ok(())
}

/// LeNet-5.
pub(super) static LENET_5: Family = Family {
    prefix: "lenet-",
    names: "lenet-5",
    rule: None,
    has: |numbers| numbers == [5],
    pictures: [1, 28, 10],
    has_stem: false,
    first_weights: FirstWeights::Glorot,
};

/// Two convolutions of 5 × 5 with 6 and 16 channels, each followed by ReLU and a pooling of 2 × 2, and linear layers of 120,
/// 84 and one output a class. The first convolution of pictures below 32 × 32 is padded, so that what the second one sees is
/// the original's.
pub(super) fn lenet_5(builder: &mut Builder, _: &[usize]) -> Result<(), BuildError> {
    let spec = builder.spec.clone();
    let mut x = builder.input();
    builder.masking = Masking::NotUniform;
    let first = Conv::new(spec.scaled(6), 5).bias().relu();
    x = builder.conv("conv1", if spec.size[0] < 32 { first } else { first.valid() }, x)?;
    builder.masking = Masking::Any;
    x = builder.max_pool(2, x)?;
    x = builder.conv("conv2", Conv::new(spec.scaled(16), 5).valid().bias().relu(), x)?;
    x = builder.max_pool(2, x)?;
    x = builder.flatten(x)?;
    for (name, outputs) in [("fc1", 120), ("fc2", 84)] {
        x = builder.linear(name, spec.scaled(outputs), true, x)?;
        x = builder.dropout(name, x)?;
    }
    builder.linear("fc3", spec.classes, false, x)?;
    Ok(())
}
