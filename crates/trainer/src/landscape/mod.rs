//! The loss on paths between two trained networks (Evci et al. 2020, section 4.4; the curves are those of Garipov et al.
//! 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs").
//!
//! ```text
//! for each space (sparse: the union of both patterns; full: all positions):
//!     store both networks alike in it                       → space
//!     for each curve (linear, quadratic, cubic):
//!         control points := on the straight line
//!         repeat: t ~ U(0, 1), a minibatch's gradient at θ(t), a step of the control points      → path
//!         evaluate θ(t) at t of a grid                       → survey
//! barrier = the highest loss at t in [0, 1] − the higher loss of both ends
//! ```
//!
//! In the sparse space the network at every point is sparse: forward pass, gradient and step cost in proportion to the union's
//! entries. The straight line lies in it; curves through the full space may leave it. Biases, and scale and shift of
//! normalisations, are part of a point. Running moments are not: a point between two networks has none, and they are estimated
//! at each point that is evaluated, the ends included. The ends of networks without normalisations have the very loss that
//! they have elsewhere, since they are evaluated as they are stored; their twins in a union may differ in the last bits.
//!
//! Curves are trained with weight decay on the weights at θ(t), as networks are: without it, on data that a network can learn by
//! heart, training goes on and on towards loss 0 far away. The losses that are reported are without it.

mod path;
mod plot;
mod space;
mod survey;

use std::path::PathBuf;

use serde::Serialize;

pub use path::{Curve, Path, PathSgd, Point, bernstein};
pub use plot::{Line, svg};
pub use space::Space;
pub use survey::{PathTraining, Survey, View};

use crate::error::{Kind, Kinded};
use crate::metrics::Mean;
use crate::models::{ModelInput, StoredModel};
use crate::report::bytes_text;

/// Momentum of the training of paths.
pub const MOMENTUM: f32 = 0.9;
/// Samples in a batch of this training, where nothing else is asked for.
pub const BATCH_SIZE: usize = 100;

/// Why a landscape cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LandscapeError {
    /// No path joins networks with different layers.
    #[error(
        "a path needs two networks of one architecture: {} holds {}, and {} holds {}",
        paths[0].display(), models[0], paths[1].display(), models[1]
    )]
    Architecture {
        /// The files.
        paths: [PathBuf; 2],
        /// What they hold.
        models: [String; 2],
    },
    /// The networks do not see the same inputs.
    #[error(
        "a path needs two networks trained on the same inputs: {what} of {} is {}, that of {} is {}",
        paths[0].display(), inputs[0], paths[1].display(), inputs[1]
    )]
    Input {
        /// What differs.
        what: &'static str,
        /// The files.
        paths: [PathBuf; 2],
        /// What each of them has.
        inputs: [String; 2],
    },
    /// A model file that does not say what it was trained on.
    #[error(
        "{} does not say which data its network was trained on, or how images become inputs; a checkpoint of `rigl train` \
         does: train it further with rigl train --init-from {}", path.display(), path.display()
    )]
    NoInput {
        /// The file.
        path: PathBuf,
    },
    /// The training of a path diverged.
    #[error(
        "training the {curve} path: the loss is {loss} at step {step} (learning rate {learning_rate}); try a lower --lr"
    )]
    Diverged {
        /// The path's form.
        curve: Curve,
        /// The step.
        step: u64,
        /// The loss.
        loss: f32,
        /// The learning rate of the first step.
        learning_rate: f64,
    },
    /// A path that does not fit in memory.
    #[error(
        "a {curve} path of {model} in the {} space needs about {}, but only {} of memory is free; a smaller --batch-size, \
         --space sparse or simpler --curves need less", space.name(), bytes_text(*needed as u64), bytes_text(*available as u64)
    )]
    Memory {
        /// Where it goes.
        space: Space,
        /// Its form.
        curve: Curve,
        /// The model.
        model: String,
        /// Bytes of its points and of a step's activations.
        needed: usize,
        /// Bytes that are free.
        available: usize,
    },
    /// The command was asked to stop.
    #[error("interrupted; {written}")]
    Interrupted {
        /// What is there now.
        written: String,
    },
    /// The output folder already holds results.
    #[error("out: {} already exists; choose a new folder", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// The output folder, or a file in it, cannot be created.
    #[error("out: {}: {source}; choose a writable folder", path.display())]
    Create {
        /// The folder or file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// A file of the results cannot be written.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

impl Kinded for LandscapeError {
    fn kind(&self) -> Kind {
        match self {
            Self::Interrupted { .. } => Kind::Interrupted,
            Self::Diverged { .. } | Self::Write { .. } => Kind::Failure,
            _ => Kind::Usage,
        }
    }
}

/// A network at one end, and the file it is in.
#[derive(Debug, Clone)]
pub struct End {
    /// The checkpoint or model file.
    pub path: PathBuf,
    /// The network.
    pub model: StoredModel,
}

/// What both ends read, if they are of one architecture and read the same.
///
/// # Errors
/// [`LandscapeError`] naming what differs, or the file that does not say what it reads.
pub fn common_input(ends: &[End; 2]) -> crate::Result<ModelInput> {
    let [a, b] = ends;
    let paths = || [a.path.clone(), b.path.clone()];
    if a.model.architecture()? != b.model.architecture()? {
        let models = [describe(&a.model), describe(&b.model)];
        return Err(LandscapeError::Architecture { paths: paths(), models }.into());
    }
    let input = |end: &End| end.model.input.clone().ok_or_else(|| LandscapeError::NoInput { path: end.path.clone() });
    let (of_a, of_b) = (input(a)?, input(b)?);
    let size = |input: &ModelInput| input.image_size.map_or("as stored".to_owned(), |size| size.to_string());
    let normalization = |input: &ModelInput| serde_json::to_string(&input.normalization);
    let classes =
        |input: &ModelInput| input.class_names.as_ref().map_or("not stored".to_owned(), |names| names.join(", "));
    for (what, inputs) in [
        ("the data set", [of_a.data.clone(), of_b.data.clone()]),
        ("the image size", [size(&of_a), size(&of_b)]),
        ("the normalization", [normalization(&of_a)?, normalization(&of_b)?]),
        ("the list of classes", [classes(&of_a), classes(&of_b)]),
    ] {
        if inputs[0] != inputs[1] {
            return Err(LandscapeError::Input { what, paths: paths(), inputs }.into());
        }
    }
    Ok(of_a)
}

/// A network's name, with what the name leaves open.
fn describe(model: &StoredModel) -> String {
    match &model.parts {
        None => model.name().to_string(),
        Some(parts) => {
            let spec = &parts.spec;
            let ([height, width], channels, classes) = (spec.size, spec.channels, spec.classes);
            let pictures = format!("{channels}×{height}×{width}");
            format!("{} (images of {pictures}, {classes} classes, width {}, stem {})", spec.name, spec.width, spec.stem)
        }
    }
}

/// What is seen at one place of a path.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sample {
    /// The place: 0 is the first end, 1 the second.
    pub t: f64,
    /// Mean loss over the samples.
    pub loss: f64,
    /// Share of right answers.
    pub accuracy: f64,
}

impl Sample {
    /// What was seen at `t`.
    pub fn new(t: f64, mean: &Mean) -> Self {
        Self { t, loss: mean.loss(), accuracy: mean.accuracy() }
    }
}

/// What a path comes to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Profile {
    /// The highest loss at t in `[0, 1]`, less the higher loss of both ends; 0 where an end is the highest.
    pub barrier: f64,
    /// Where that loss is.
    pub highest_t: f64,
    /// That loss.
    pub highest_loss: f64,
    /// The accuracy there.
    pub highest_loss_accuracy: f64,
    /// The loss's mean over `[0, 1]`, by the trapezoidal rule: what training makes small.
    pub mean_loss: f64,
}

impl Profile {
    /// Of what was seen along a path, in increasing order of t. Samples beyond the ends do not count; a loss that is not a
    /// number is higher than any other.
    ///
    /// # Panics
    /// Unless the ends, t = 0 and t = 1, are among the samples.
    pub fn of(samples: &[Sample]) -> Self {
        let between: Vec<_> = samples.iter().filter(|sample| (0.0..=1.0).contains(&sample.t)).collect();
        let [first, .., last] = between[..] else { panic!("a path has two ends") };
        assert!(first.t == 0.0 && last.t == 1.0, "both ends are among the samples");
        // The first of equals.
        let higher = |a: &&&Sample, b: &&&Sample| a.loss.total_cmp(&b.loss).then(b.t.total_cmp(&a.t));
        let highest = between.iter().max_by(higher).expect("there are ends");
        let end = if first.loss.total_cmp(&last.loss).is_ge() { first.loss } else { last.loss };
        let pieces = between.windows(2).map(|pair| (pair[1].t - pair[0].t) * (pair[0].loss + pair[1].loss) / 2.0);
        Self {
            barrier: highest.loss - end,
            highest_t: highest.t,
            highest_loss: highest.loss,
            highest_loss_accuracy: highest.accuracy,
            mean_loss: pieces.sum(),
        }
    }
}

#[cfg(test)]
mod tests;
