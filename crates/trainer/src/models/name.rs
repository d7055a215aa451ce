//! Networks by their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::choice::{choices, serde_through_text};

choices! {
    /// How a residual network begins.
    Stem {
        /// By image size: CIFAR's up to 64 × 64, ImageNet's above.
        Auto,
        /// A 7 × 7 convolution and a pooling, both with stride 2.
        Imagenet,
        /// A 3 × 3 convolution.
        Cifar,
    }
}

/// A network by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum ModelName {
    /// LeNet-300-100: 784 inputs, hidden layers of 300 and 100, 10 classes.
    Lenet300x100,
    /// A multi-layer perceptron: inputs, hidden layers, classes.
    Mlp(Vec<usize>),
    /// LeNet-5.
    Lenet5,
    /// A wide residual network.
    Wrn {
        /// Its depth, 6 n + 4.
        depth: usize,
        /// Factor on the channels.
        width: usize,
    },
    /// A residual network of 18, 34 or 50 layers.
    ResNet(usize),
    /// MobileNet, version 1.
    MobileNetV1,
    /// MobileNet, version 2.
    MobileNetV2,
    /// VGG-16 with batch normalisation.
    Vgg16,
}

impl ModelName {
    /// The model with these sizes, by the name it is known by, if it has one.
    pub fn of_sizes(sizes: Vec<usize>) -> Self {
        if sizes == Self::Lenet300x100.sizes() { Self::Lenet300x100 } else { Self::Mlp(sizes) }
    }

    /// Whether it is a multi-layer perceptron.
    pub fn is_mlp(&self) -> bool {
        matches!(self, Self::Lenet300x100 | Self::Mlp(_))
    }

    /// Features from the input to the output of a multi-layer perceptron; nothing of other networks.
    pub fn sizes(&self) -> &[usize] {
        match self {
            Self::Lenet300x100 => &[784, 300, 100, 10],
            Self::Mlp(sizes) => sizes,
            _ => &[],
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lenet300x100 => f.pad("lenet-300-100"),
            Self::Mlp(sizes) => f.pad(&sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("-")),
            Self::Lenet5 => f.pad("lenet-5"),
            Self::Wrn { depth, width } => f.pad(&format!("wrn-{depth}-{width}")),
            Self::ResNet(depth) => f.pad(&format!("resnet-{depth}")),
            Self::MobileNetV1 => f.pad("mobilenet-v1"),
            Self::MobileNetV2 => f.pad("mobilenet-v2"),
            Self::Vgg16 => f.pad("vgg-16"),
        }
    }
}

impl FromStr for ModelName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let named = match name {
            "lenet-300-100" => Some(Self::Lenet300x100),
            "lenet-5" => Some(Self::Lenet5),
            "resnet-18" => Some(Self::ResNet(18)),
            "resnet-34" => Some(Self::ResNet(34)),
            "resnet-50" => Some(Self::ResNet(50)),
            "mobilenet-v1" => Some(Self::MobileNetV1),
            "mobilenet-v2" => Some(Self::MobileNetV2),
            "vgg-16" => Some(Self::Vgg16),
            _ => None,
        };
        if let Some(named) = named {
            return Ok(named);
        }
        if let Some(sizes) = name.strip_prefix("wrn-") {
            let number = |text: &str| text.parse::<u16>().ok().filter(|n| n.to_string() == text).map(usize::from);
            let sizes = sizes.split_once('-').and_then(|(depth, width)| Some((number(depth)?, number(width)?)));
            let sizes = sizes.filter(|&(depth, width)| depth >= 10 && depth % 6 == 4 && width >= 1);
            let (depth, width) =
                sizes.ok_or("a wide residual network is wrn-D-K with D = 6 n + 4 (10, 16, 22, ...)")?;
            return Ok(Self::Wrn { depth, width });
        }
        // Column indices are u32.
        let size = |text: &str| text.parse::<u32>().ok().filter(|&size| size > 0).map(|size| size as usize);
        match name.split('-').map(size).collect::<Option<Vec<_>>>() {
            Some(sizes) if sizes.len() >= 2 => Ok(Self::Mlp(sizes)),
            _ => Err("the models are lenet-300-100, lenet-5, wrn-D-K such as wrn-22-2, resnet-18, resnet-34, resnet-50, \
                      mobilenet-v1, mobilenet-v2, vgg-16, or the layer sizes of a multi-layer perceptron, such as 784-300-100-10"
                .to_owned()),
        }
    }
}
serde_through_text!(ModelName);
