//! Ends that have no path between them, and what a path comes to.

use super::*;
use crate::data::Normalization;
use crate::models::{ModelSpec, NetworkParts, StoredLayer, StoredWeight};

fn mlp(sizes: [usize; 3]) -> StoredModel {
    let layer = |i: usize| StoredLayer {
        name: format!("fc{}", i + 1),
        weight: StoredWeight::Dense {
            nrows: sizes[i + 1],
            ncols: sizes[i],
            values: vec![0.5; sizes[i] * sizes[i + 1]],
        },
        bias: vec![0.0; sizes[i + 1]],
    };
    let input = ModelInput::new("mnist", Normalization::Pixels { mean: 0.5, deviation: 0.25 });
    StoredModel { input: Some(input), layers: vec![layer(0), layer(1)], parts: None }
}

fn message(a: StoredModel, b: StoredModel) -> String {
    let end = |path: &str, model| End { path: path.into(), model };
    let error = common_input(&[end("runs/a", a), end("runs/b", b)]).unwrap_err();
    assert!(error.kind == Kind::Usage);
    error.to_string()
}

#[test]
fn ends_must_fit_each_other() {
    let model = mlp([20, 10, 3]);
    let ends = [End { path: "a".into(), model: model.clone() }, End { path: "b".into(), model: model.clone() }];
    assert_eq!(common_input(&ends).unwrap(), model.input.clone().unwrap());

    let text = message(model.clone(), mlp([20, 11, 3]));
    assert!(text.contains("runs/a holds 20-10-3, and runs/b holds 20-11-3"), "{text}");
    let other = |change: fn(&mut ModelInput)| {
        let mut other = model.clone();
        change(other.input.as_mut().unwrap());
        message(model.clone(), other)
    };
    let text = other(|input| input.data = "cifar10".to_owned());
    assert!(text.contains("the data set of runs/a is mnist, that of runs/b is cifar10"), "{text}");
    let text = other(|input| input.image_size = Some(64));
    assert!(text.contains("the image size of runs/a is as stored, that of runs/b is 64"), "{text}");
    let text = other(|input| input.class_names = Some(vec!["cat".to_owned(), "dog".to_owned()]));
    assert!(text.contains("the list of classes of runs/a is not stored, that of runs/b is cat, dog"), "{text}");
    let text = other(|input| input.normalization = Normalization::PerImage);
    assert!(text.contains("the normalization") && text.contains("0.25") && text.contains("per-image"), "{text}");
    let text = message(model.clone(), StoredModel { input: None, ..model.clone() });
    assert!(text.contains("runs/b does not say which data") && text.contains("--init-from runs/b"), "{text}");
}

/// Of networks with one name, the message says what the name leaves open.
#[test]
fn widths_are_told_apart() {
    let model = |width| {
        let spec = ModelSpec::of(&"lenet-5".parse().unwrap()).with_width(width);
        StoredModel { parts: Some(NetworkParts { spec, norms: vec![] }), ..mlp([20, 10, 3]) }
    };
    let text = message(model(1.0), model(0.5));
    assert!(text.contains("lenet-5 (images of 1×28×28, 10 classes, width 1,"), "{text}");
    assert!(text.contains("lenet-5 (images of 1×28×28, 10 classes, width 0.5,"), "{text}");
}

#[test]
fn a_barrier_is_above_the_higher_end() {
    let samples = |losses: &[(f64, f64)]| {
        losses.iter().map(|&(t, loss)| Sample { t, loss, accuracy: 1.0 - loss / 10.0 }).collect::<Vec<_>>()
    };
    // What lies beyond the ends does not count.
    let hill = Profile::of(&samples(&[(-0.2, 9.0), (0.0, 1.0), (0.25, 4.0), (0.5, 3.0), (1.0, 2.0), (1.2, 9.0)]));
    assert_eq!((hill.barrier, hill.highest_t, hill.highest_loss, hill.highest_loss_accuracy), (2.0, 0.25, 4.0, 0.6));
    assert_eq!(hill.mean_loss, 0.25 * 2.5 + 0.25 * 3.5 + 0.5 * 2.5);
    let slope = Profile::of(&samples(&[(0.0, 1.0), (0.5, 0.5), (1.0, 2.0)]));
    assert_eq!((slope.barrier, slope.highest_t), (0.0, 1.0));
    // A loss that is no number is no low one.
    let broken = Profile::of(&samples(&[(0.0, 1.0), (0.5, f64::NAN), (1.0, 2.0)]));
    assert!(broken.barrier.is_nan() && broken.highest_t == 0.5);
}

/// A path that has no room is refused with what it needs, before anything is made.
#[test]
fn what_a_path_holds_is_known() {
    // The line: two points, both ends, a place, a gradient, the network and its gradient.
    assert_eq!(Curve::Linear.bytes(1000), 4 * 1000 * 8);
    assert_eq!(Curve::Cubic.bytes(1000), 4 * 1000 * 12);
    let (space, curve, model) = (Space::Full, Curve::Cubic, "vgg-16".to_owned());
    let error = LandscapeError::Memory { space, curve, model, needed: 6 << 30, available: 1 << 30 };
    assert!(error.kind() == Kind::Usage);
    let text = error.to_string();
    assert!(
        text.starts_with("a cubic path of vgg-16 in the full space needs about 6.00 GiB, but only 1.00 GiB"),
        "{text}"
    );
}
