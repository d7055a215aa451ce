//! Convolutional networks, written and read.

use std::collections::BTreeMap;

use rigl::LayerDensity;
use safetensors::tensor::{Dtype, SafeTensors};

use super::super::testing::{all_dense, assert_same};
use super::write::Tensor;
use super::*;
use crate::data::Normalization;
use crate::models::{Architecture, Format, Init, Initialization, ModelInput, ModelSpec, StoredModel, StoredWeight};

/// A small network with half of its weights, moments that are no round numbers, and a known input.
fn network(name: &str, side: usize, width: f64, format: Format) -> StoredModel {
    let spec = ModelSpec::of(&name.parse().unwrap());
    let channels = spec.channels;
    let spec = spec.on(channels, [side; 2], 5).with_width(width);
    let architecture = Architecture::new(&spec).unwrap();
    let densities: Vec<_> = architecture
        .layers
        .iter()
        .map(|layer| {
            let size = layer.size();
            let nnz = match format {
                Format::Bsr([r, c]) if layer.fits_blocks([r, c]) => size / (r * c) / 2 * (r * c),
                Format::Csr if layer.columns() > 9 => size / 2,
                _ => size,
            };
            LayerDensity { density: nnz as f64 / size as f64, nnz, size }
        })
        .collect();
    let initialization = Initialization::new(format, Init::DenseFanIn, 4);
    let mut model = StoredModel::random(&architecture, &densities, initialization).unwrap();
    for (i, norm) in model.parts.iter_mut().flat_map(|parts| &mut parts.norms).enumerate() {
        for (j, value) in norm.affine.iter_mut().chain(&mut norm.running).enumerate() {
            *value = 0.1 + ((3 * i + 7 * j) % 11) as f32 / 13.0;
        }
    }
    let normalization = Normalization::Pixels { mean: 0.5, deviation: 0.25 };
    let class_names = Some(["a", "b", "c", "d", "e"].map(str::to_owned).to_vec());
    model.input = Some(ModelInput { image_size: Some(side), class_names, ..ModelInput::new("mine", normalization) });
    model
}

/// A file of another program with the tensors of a dense model, each changed by `change`, and without our metadata.
fn foreign(
    model: &StoredModel,
    change: impl Fn(&str, &mut Vec<usize>, &mut Vec<u8>) -> Vec<String>,
    more: Vec<(&str, Tensor)>,
) -> Vec<u8> {
    let bytes = to_bytes(model, true).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<_, _> = more.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
    for (name, view) in file.iter() {
        let (mut shape, mut data) = (view.shape().to_vec(), view.data().to_vec());
        for name in change(name, &mut shape, &mut data) {
            let tensor = Tensor { dtype: Dtype::F32, shape: shape.clone(), bytes: data.clone() };
            tensors.insert(name, tensor);
        }
    }
    safetensors::serialize(&tensors, None).unwrap()
}

fn as_it_is(name: &str, _: &mut Vec<usize>, _: &mut Vec<u8>) -> Vec<String> {
    vec![name.to_owned()]
}

fn options(width: f64) -> NetworkOptions {
    NetworkOptions { width: Some(width), ..NetworkOptions::default() }
}

#[test]
fn networks_are_read_as_they_were_written() {
    for (name, side, width) in [
        ("lenet-5", 28, 1.0),
        ("wrn-10-1", 32, 0.25),
        ("resnet-18", 32, 0.05),
        ("resnet-50", 96, 0.05),
        ("mobilenet-v1", 32, 0.1),
        ("mobilenet-v2", 32, 0.1),
        ("mobilenet-v2-relu6", 32, 0.1),
        ("vgg-16", 32, 0.05),
    ] {
        let model = network(name, side, width, Format::Csr);
        assert_same(&from_bytes(&to_bytes(&model, false).unwrap()).unwrap(), &model);
        assert_same(&from_bytes(&to_bytes(&model, true).unwrap()).unwrap(), &all_dense(&model));
    }
    // Blocks of one tap come back as they were, those of several entry by entry.
    let model = network("wrn-10-1", 32, 1.0, Format::Bsr([4, 4]));
    let again = from_bytes(&to_bytes(&model, false).unwrap()).unwrap();
    assert_same(&all_dense(&again), &all_dense(&model));
    let is_block = |model: &StoredModel| {
        model.layers.iter().filter(|layer| matches!(layer.weight, StoredWeight::BlockSparse(_))).count()
    };
    assert!(is_block(&again) > 0 && is_block(&again) < is_block(&model), "{}", is_block(&again));
}

#[test]
fn other_programs_networks_are_known_by_their_layers() {
    for (name, side, width) in [
        ("resnet-18", 32, 0.05),
        ("resnet-34", 96, 0.05),
        ("resnet-50", 96, 0.05),
        ("mobilenet-v2-relu6", 224, 0.1),
        ("vgg-16", 224, 0.01),
    ] {
        let model = network(name, side, width, Format::Csr);
        let counter = || Tensor { dtype: Dtype::I64, shape: vec![], bytes: vec![7; 8] };
        let wrapped = |name: &str, _: &mut Vec<usize>, _: &mut Vec<u8>| vec![format!("module.{name}")];
        for bytes in [
            foreign(&model, as_it_is, vec![("bn1.num_batches_tracked", counter())]),
            foreign(&model, wrapped, vec![("module.x.num_batches_tracked", counter())]),
        ] {
            let options = NetworkOptions { image_size: Some(side), ..options(width) };
            let read = from_bytes_as(&bytes, None, &options).unwrap();
            assert_same(&read, &StoredModel { input: None, ..all_dense(&model) });
        }
    }
}

/// `conv + b`, normalised with the mean μ, is `conv` normalised with the mean μ − b.
#[test]
fn biases_before_normalisations_move_the_means() {
    let model = network("vgg-16", 32, 0.05, Format::Csr);
    let bias = || Tensor::f32s(&[3], &[0.5, -0.25, 2.0]);
    let bytes = foreign(&model, as_it_is, vec![("features.0.bias", bias())]);
    let small = NetworkOptions { image_size: Some(32), ..options(0.05) };
    let read = from_bytes_as(&bytes, None, &small).unwrap();
    let mean = |model: &StoredModel| model.parts.as_ref().unwrap().norms[0].running.clone();
    let (before, after) = (mean(&model), mean(&read));
    let expected = [before[0] - 0.5, before[1] + 0.25, before[2] - 2.0];
    assert_eq!((&after[..3], &after[3..]), (&expected[..], &before[3..]));
}

#[test]
fn masks_are_patterns_of_convolutions_too() {
    let model = network("lenet-5", 28, 1.0, Format::Csr);
    let dense = all_dense(&model);
    let mask: Vec<f32> = (0..16 * 6 * 25).map(|i| if i % 7 == 0 { 1.0 } else { 0.0 }).collect();
    let renamed = |name: &str, _: &mut Vec<usize>, _: &mut Vec<u8>| {
        vec![if name == "conv2.weight" { "conv2.weight_orig".to_owned() } else { name.to_owned() }]
    };
    let file = |shape: &[usize]| {
        let mask = Tensor::f32s(shape, &mask);
        foreign(&model, renamed, vec![("conv2.weight_mask", mask)])
    };
    let read = from_bytes(&file(&[16, 6, 5, 5])).unwrap();
    let StoredWeight::Sparse(csr) = &read.layers[1].weight else { panic!("it is sparse") };
    let expected: Vec<_> = dense.layers[1].weight.values().iter().copied().step_by(7).collect();
    assert_eq!(csr.values(), expected);
    let error = from_bytes(&file(&[6, 16, 5, 5])).unwrap_err().to_string();
    let expected = "tensor conv2.weight_mask is 6×16×5×5; it must have the shape of what it masks, 16×6×5×5";
    assert_eq!(error, expected);
}

#[test]
fn another_number_of_classes_has_a_new_last_layer() {
    let model = network("resnet-18", 32, 0.05, Format::Csr);
    for bytes in [to_bytes(&model, true).unwrap(), to_bytes(&model, false).unwrap()] {
        let of = |classes| NetworkOptions { classes: Some(classes), seed: 3, ..options(0.05) };
        let same = from_bytes_as(&bytes, None, &of(5)).unwrap();
        assert_eq!(all_dense(&same), all_dense(&model));
        let read = from_bytes_as(&bytes, None, &of(7)).unwrap();
        let (last, before) = read.layers.split_last().unwrap();
        assert_eq!((last.weight.shape(), last.weight.nnz(), last.bias.len()), ([7, 25], 175, 7));
        assert_eq!(before[0].weight, same.layers[0].weight);
        assert_eq!(read.input.as_ref().unwrap().class_names, None);
        read.check().unwrap();
        assert_eq!(read, from_bytes_as(&bytes, None, &of(7)).unwrap());
    }
    // A classifier of several layers, of which a network for small pictures has none.
    let model = network("vgg-16", 224, 0.01, Format::Csr);
    let bytes = foreign(&model, as_it_is, vec![]);
    let small = NetworkOptions { image_size: Some(32), classes: Some(3), ..options(0.01) };
    let read = from_bytes_as(&bytes, None, &small).unwrap();
    assert_eq!((read.layers.len(), read.layers[13].weight.shape()), (14, [3, 5]));
    let error = from_bytes_as(&bytes, None, &NetworkOptions { classes: None, ..small }).unwrap_err().to_string();
    assert!(error.starts_with("tensor classifier.weight is missing; vgg-16 needs it, 1000×5 (a new last"), "{error}");
}

#[test]
fn what_does_not_fit_is_named_with_its_shape() {
    let model = network("resnet-18", 96, 0.05, Format::Csr);
    let change = |of: &'static str, to: &'static str| {
        move |name: &str, shape: &mut Vec<usize>, data: &mut Vec<u8>| {
            if name == of && to == "shorter" {
                shape[0] -= 1;
                data.truncate(4 * shape.iter().product::<usize>());
            }
            if name == of && to == "nan" {
                data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            }
            if name == of && to.is_empty() { vec![] } else { vec![name.to_owned()] }
        }
    };
    let named = NetworkOptions { model: Some("resnet-18".parse().unwrap()), ..options(0.05) };
    for (of, to, options, expected) in [
        ("conv1.weight", "shorter", named.clone(), "tensor conv1.weight is 2×3×7×7; in resnet-18 it must be 3×3×7×7"),
        ("bn1.running_var", "shorter", named.clone(), "tensor bn1.running_var is 2; in resnet-18 it must be 3"),
        (
            "layer2.0.conv2.weight",
            "",
            named.clone(),
            "tensor layer2.0.conv2.weight is missing; resnet-18 needs it, 6×6×3×3 (a new last layer: --classes N)",
        ),
        (
            "bn1.weight",
            "nan",
            named.clone(),
            "layer bn1: the weight or bias at entry 0 (counted from 0) is NaN; it must be finite",
        ),
        ("", "", options(1.0), "tensor conv1.weight is 3×3×7×7; in resnet-18 it must be 64×3×7×7"),
        (
            "",
            "",
            NetworkOptions { model: Some("lenet-5".parse().unwrap()), ..NetworkOptions::default() },
            "tensor conv1.weight is 3×3×7×7; in lenet-5 it must be 6×3×5×5",
        ),
        (
            "layer1.0.conv1.weight",
            "",
            options(0.05),
            "no known network has these layers: bn1.bias 3, bn1.running_mean 3",
        ),
    ] {
        let bytes = foreign(&model, change(of, to), vec![]);
        let error = from_bytes_as(&bytes, None, &options).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}, expected {expected}");
    }
    let extra = foreign(&model, as_it_is, vec![("aux.weight", Tensor::f32s(&[2, 3], &[0.0; 6]))]);
    let error = from_bytes_as(&extra, None, &named).unwrap_err().to_string();
    let expected = "these tensors have no place in resnet-18: aux.weight 2×3; choose another network with --model";
    assert_eq!(error, expected);
    // Options of networks for a file of linear layers, and an order for a network.
    let linear = to_bytes(&super::super::testing::example(), false).unwrap();
    let error = from_bytes_as(&linear, None, &options(0.5)).unwrap_err().to_string();
    assert_eq!(error, "--width has no effect here; it needs a convolutional network");
    let order = ["conv1".to_owned()];
    assert!(from_bytes_as(&extra, Some(&order), &named).unwrap_err().to_string().contains("has an order already"));
}
