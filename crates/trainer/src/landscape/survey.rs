//! A network that is put to any point of its space, to train a path or to look at it.

use std::sync::Arc;

use autograd::ParameterId;
use autograd::optim::{Decay, Schedule};
use sparse_kernels::Backend;
use sparse_kernels::random::Key;

use super::{LandscapeError, MOMENTUM, Path, PathSgd, Point};
use crate::data::{Augment, BatchLoader, LoaderOptions, Normalization, Order, Part, Split};
use crate::interrupt::Interrupt;
use crate::metrics::{Mean, Measured, Propensities};
use crate::models::{Network, Norm, StoredModel};
use crate::run::{Evaluated, RunError, evaluate};
use crate::training::{Evaluator, Loss, TrainingError};

/// What a landscape is seen through.
#[derive(Debug, Clone)]
pub struct View<'v> {
    /// What paths are trained on, and normalisations get their moments from.
    pub train: Arc<Split>,
    /// What points are evaluated on.
    pub split: Arc<Split>,
    /// How pictures become inputs.
    pub normalization: Normalization,
    /// The loss that is looked at.
    pub loss: Loss,
    /// How training images are changed at random, in the training of paths only.
    pub augment: Augment,
    /// Threads that prepare batches.
    pub loader_threads: usize,
    /// Samples in a batch of training.
    pub batch_size: usize,
    /// Seed of the batches, and of the places on a path that they train.
    pub seed: u64,
    /// What may stop it.
    pub interrupt: &'v Interrupt,
}

/// How a path is trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathTraining {
    /// Minibatches.
    pub steps: u64,
    /// Learning rate of the first step; it falls along half a cosine, to 0.
    pub learning_rate: f64,
    /// Pull of the weights of every point towards 0, as networks are trained with. Biases, normalisations and depthwise
    /// convolutions have none.
    pub weight_decay: f64,
}

impl Default for PathTraining {
    fn default() -> Self {
        Self { steps: 10_000, learning_rate: 0.1, weight_decay: 1e-4 }
    }
}

/// A network whose parameters are those of any point asked for.
#[derive(Debug)]
pub struct Survey<'v, B: Backend> {
    backend: &'v B,
    view: View<'v>,
    evaluator: Evaluator<'v, B>,
    /// In the order of [`Point::arrays`].
    parameters: Vec<ParameterId>,
    /// Which of them have weight decay.
    decayed: Vec<bool>,
}

impl<'v, B: Backend> Survey<'v, B> {
    /// A network stored as `model` is, at its place. Its images are laid out for batches of `batch_size` samples.
    ///
    /// # Errors
    /// As [`Network::from_stored`].
    pub fn new(backend: &'v B, model: StoredModel, batch_size: usize, view: View<'v>) -> Result<Self, TrainingError> {
        let network = Network::from_stored(backend, model, batch_size)?;
        let of_layers = network.body.layers.iter().flat_map(|layer| [Some(layer.weight), layer.bias]);
        let of_norms = network.body.norms.iter().map(|norm| Some(norm.affine()));
        let parameters: Vec<_> = of_layers.chain(of_norms).flatten().collect();
        let is_decayed = |&id: &ParameterId| network.parameters.get(id).value().decays();
        let decayed = parameters.iter().map(is_decayed).collect();
        let evaluator = Evaluator::new(backend, network, view.loss);
        Ok(Self { backend, view, evaluator, parameters, decayed })
    }

    /// The network.
    pub fn network(&self) -> &Network<B> {
        &self.evaluator.network
    }

    /// Puts the network to a point.
    ///
    /// # Errors
    /// If the point is of another space, or the backend fails.
    pub fn go_to(&mut self, point: &Point) -> Result<(), TrainingError> {
        for (&id, values) in self.parameters.iter().zip(&point.arrays) {
            self.evaluator.network.parameters.upload_values(self.backend, id, values)?;
        }
        Ok(())
    }

    /// Loss and accuracy at a point. Running moments of normalisations mean nothing there: they are estimated anew, by a
    /// pass over the training set.
    ///
    /// # Errors
    /// [`RunError::Evaluation`] if interrupted; if the data is unavailable or the backend fails.
    pub fn evaluate(&mut self, point: &Point) -> crate::Result<Mean> {
        self.go_to(point)?;
        self.estimate_moments()?;
        let View { split, normalization, loader_threads, interrupt, loss, .. } = &self.view;
        let outputs = self.evaluator.network.architecture.classes();
        let propensities = Propensities::of(&split.targets);
        let (loss, is_text) = (loss.kind(), split.text().is_some());
        let measured = Measured { loss, outputs, scale: None, is_text, propensities: propensities.as_ref() };
        let evaluated = Evaluated { split, normalization, measured, loader_threads: *loader_threads };
        let body = self.evaluator.network.body.clone();
        let evaluator = &mut self.evaluator;
        let found = evaluate(evaluated, &body, interrupt, |batch, outputs| evaluator.evaluate_outputs(batch, outputs))?;
        Ok(found.mean)
    }

    /// Trains the control points for a low mean loss along the path, weight decay included, t being uniform (Garipov et al.
    /// 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", section 3). `observe` is told the loss of each
    /// step.
    ///
    /// # Errors
    /// [`LandscapeError::Diverged`] if a loss is not finite; [`RunError::Evaluation`] if interrupted; if the data is unavailable
    /// or the backend fails.
    ///
    /// # Cost
    /// A step of the network, and some passes over as many values as it has for each of the path's points.
    pub fn train(
        &mut self,
        path: &mut Path,
        PathTraining { steps, learning_rate, weight_decay }: PathTraining,
        mut observe: impl FnMut(u64, &autograd::LossStats),
    ) -> crate::Result<()> {
        let schedule = Schedule { base: learning_rate as f32, warmup_steps: 0, decay: Decay::Cosine { total: steps } };
        let places = Key::new(self.view.seed).with_name("landscape");
        let mut loader = self.loader(self.view.augment)?;
        let mut sgd = PathSgd::new(path, MOMENTUM);
        let mut point = path.start().zeros_like();
        let mut gradient = point.clone();
        let mut step = 0;
        while step < steps {
            if self.view.interrupt.requested() {
                return Err(RunError::Evaluation.into());
            }
            // The loader says the end of an epoch with an extra call.
            let Some(batch) = loader.next_batch()? else { continue };
            let t = f64::from(places.uniform(step));
            path.at(t, &mut point);
            self.go_to(&point)?;
            let loss = self.evaluator.training_pass(batch, true)?;
            if !loss.sum.is_finite() {
                let (curve, loss) = (path.curve(), loss.mean());
                return Err(LandscapeError::Diverged { curve, step, loss, learning_rate }.into());
            }
            self.read_gradient(&mut gradient)?;
            self.decay(weight_decay as f32, &point, &mut gradient);
            sgd.step(path, t, &gradient, schedule.at(step));
            step += 1;
            observe(step, &loss);
        }
        Ok(())
    }

    /// Copies the gradient of the last backward pass.
    fn read_gradient(&self, into: &mut Point) -> crate::Result<()> {
        for (&id, to) in self.parameters.iter().zip(&mut into.arrays) {
            let parameter = self.evaluator.network.parameters.get(id);
            let gradient = parameter.gradient().ok_or_else(|| format!("{} has no gradient", parameter.name()))?;
            self.backend.download(gradient, to)?;
        }
        Ok(())
    }

    /// Adds the gradient of the weight decay at a point.
    fn decay(&self, weight_decay: f32, point: &Point, gradient: &mut Point) {
        let arrays = gradient.arrays.iter_mut().zip(&point.arrays).zip(&self.decayed);
        for ((to, values), _) in arrays.filter(|(_, decayed)| **decayed) {
            to.iter_mut().zip(values).for_each(|(to, value)| *to += weight_decay * value);
        }
    }

    /// Sets the running moments of all normalisations to the means of the batches' moments over the training set.
    fn estimate_moments(&mut self) -> crate::Result<()> {
        let norms: Vec<_> = self.network().body.norms.iter().filter_map(Norm::batch).copied().collect();
        if norms.is_empty() {
            return Ok(());
        }
        let network = &mut self.evaluator.network;
        for norm in &norms {
            // What an earlier point has left may not be finite.
            let running = network.parameters.download_values(self.backend, norm.running)?;
            network.parameters.upload_values(self.backend, norm.running, &vec![0.0; running.len()])?;
        }
        let mut loader = self.loader(Augment::None)?;
        let mut samples = 0;
        while let Some(batch) = loader.next_batch()? {
            if self.view.interrupt.requested() {
                return Err(RunError::Evaluation.into());
            }
            samples += batch.targets.len();
            // So the running mean is that of all samples so far.
            let share = batch.targets.len() as f32 / samples as f32;
            for norm in &mut self.evaluator.network.body.norms {
                if let Norm::Batch(norm) = norm {
                    norm.options.momentum = share;
                }
            }
            self.evaluator.training_pass(batch, false)?;
        }
        Ok(())
    }

    /// Batches of the training set in random order.
    fn loader(&self, augment: Augment) -> crate::Result<BatchLoader> {
        let View { train, normalization, loader_threads: threads, batch_size, seed, .. } = &self.view;
        let order = Order::Shuffled { seed: *seed, first_epoch: 0, first_batch: 0, augment };
        let form = self.network().body.input_form(*batch_size);
        let options = LoaderOptions {
            batch_size: *batch_size,
            form,
            order,
            drop_last: false,
            threads: *threads,
            part: Part::All,
        };
        Ok(BatchLoader::new(train.clone(), normalization, options)?)
    }
}

#[cfg(test)]
mod tests {
    use rigl::LayerDensity;
    use sparse_kernels::cpu::Cpu;

    use super::*;
    use crate::data::Inputs;
    use crate::landscape::{Curve, Space};
    use crate::models::{Architecture, Format, Init, Initialization, ModelSpec};

    const SIDE: usize = 8;
    const CLASSES: usize = 3;

    /// Noise, brighter in the rows of its class.
    fn pictures(samples: usize, side: usize) -> Arc<Split> {
        let key = Key::new(5);
        let labels: Vec<u32> = (0..samples).map(|n| (n % CLASSES) as u32).collect();
        let byte = |i: usize| {
            let (n, row) = (i / (side * side), i / side % side);
            let of_class = labels[n] as usize == row * CLASSES / side;
            (key.below(i as u64, 128) + if of_class { 64 } else { 0 }) as u8
        };
        let bytes = (0..samples * side * side).map(byte).collect();
        Arc::new(Split { shape: [1, side, side], inputs: Inputs::Bytes(bytes), targets: labels.into() })
    }

    fn view(interrupt: &Interrupt, samples: usize, side: usize, batch_size: usize) -> View<'_> {
        let train = pictures(samples, side);
        let normalization = Normalization::of_pixels(train.bytes().unwrap());
        let (split, augment) = (train.clone(), Augment::None);
        View {
            train,
            split,
            normalization,
            loss: Loss::default(),
            augment,
            loader_threads: 1,
            batch_size,
            seed: 2,
            interrupt,
        }
    }

    /// A model with a random pattern of this density in every layer.
    fn model(architecture: &Architecture, density: f64, seed: u64) -> StoredModel {
        let of_layer = |layer: &crate::models::WeightLayer| {
            let nnz = (density * layer.size() as f64).ceil() as usize;
            LayerDensity { density, nnz, size: layer.size() }
        };
        let densities: Vec<_> = architecture.layers.iter().map(of_layer).collect();
        let initialization = Initialization::new(Format::Csr, Init::SparseFanIn, seed);
        StoredModel::random(architecture, &densities, initialization).unwrap()
    }

    fn perceptron() -> Architecture {
        Architecture::of(&format!("{}-12-{CLASSES}", SIDE * SIDE).parse().unwrap())
    }

    /// The gradient of the loss at θ(t) for single values of a control point, through weights of t, network and kernels,
    /// against central differences.
    ///
    /// With a step h = 1/64, rounding of the loss, near 1 and right to some 4 ε, makes an error of 4 ε / 2h < 2e-5. A place where
    /// the loss's third derivative is 1 makes one of h² / 6, less by the cube of the point's weight: below 2e-5 too.
    #[test]
    fn gradients_of_control_points_are_those_of_central_differences() {
        const H: f32 = 1.0 / 64.0;
        let (cpu, interrupt) = (Cpu::new(1, None).unwrap(), Interrupt::default());
        let view = view(&interrupt, 24, SIDE, 24);
        let architecture = perceptron();
        let ends = [model(&architecture, 0.1, 1), model(&architecture, 0.1, 2)];
        for (space, curve) in [(Space::Sparse, Curve::Quadratic), (Space::Full, Curve::Cubic)] {
            let [a, b] = space.embed([&ends[0], &ends[1]]).unwrap();
            let mut path = Path::straight(curve, Point::of(&a), Point::of(&b));
            let mut survey = Survey::new(&cpu, a, 24, view.clone()).unwrap();
            let mut loader = survey.loader(Augment::None).unwrap();
            let batch = loader.next_batch().unwrap().unwrap();
            let t = 0.375;
            let (mut point, mut gradient) = (path.start().zeros_like(), path.start().zeros_like());
            path.at(t, &mut point);
            survey.go_to(&point).unwrap();
            survey.evaluator.training_pass(batch, true).unwrap();
            survey.read_gradient(&mut gradient).unwrap();
            // A step of rate 1 without momentum subtracts the gradient.
            let before = path.clone();
            PathSgd::new(&path, 0.0).step(&mut path, t, &gradient, 1.0);
            let analytic = |control: usize, array: usize, i: usize| {
                let [before, after] = [&before, &path].map(|path| path.control_points()[control].arrays[array][i]);
                before - after
            };
            let mut loss = |control: usize, array: usize, i: usize, shift: f32| {
                let mut moved = before.clone();
                moved.control_points_mut()[control].arrays[array][i] += shift;
                moved.at(t, &mut point);
                survey.go_to(&point).unwrap();
                survey.evaluator.evaluate_outputs(batch, None).unwrap().mean()
            };
            let (mut compared, mut largest) = (0, 0f32);
            for control in 0..curve.degree() - 1 {
                for array in 0..gradient.arrays.len() {
                    let length = gradient.arrays[array].len();
                    for i in (0..length).step_by(length.div_ceil(20)) {
                        let numeric = (loss(control, array, i, H) - loss(control, array, i, -H)) / (2.0 * H);
                        let analytic = analytic(control, array, i);
                        let what = format!("{space:?} {curve}, point {control}, array {array}, value {i}");
                        assert!((numeric - analytic).abs() < 5e-5, "{what}: {analytic}, by differences {numeric}");
                        compared += 1;
                        largest = largest.max(numeric.abs());
                    }
                }
            }
            assert!(compared > 40 && largest > 1e-2, "{compared} {largest}");
        }
    }

    /// In a union, a network is what it is by itself: the entries that it gets are zeros.
    #[test]
    fn ends_keep_their_loss_in_every_space() {
        let (cpu, interrupt) = (Cpu::new(1, None).unwrap(), Interrupt::default());
        let lenet = ModelSpec::of(&"lenet-5".parse().unwrap()).on(1, [16, 16], CLASSES);
        for (architecture, side) in [(perceptron(), SIDE), (Architecture::new(&lenet).unwrap(), 16)] {
            let view = view(&interrupt, 90, side, 30);
            let ends = [model(&architecture, 0.2, 1), model(&architecture, 0.2, 2)];
            for space in [Space::Sparse, Space::Full] {
                let embedded = space.embed([&ends[0], &ends[1]]).unwrap();
                let points = embedded.each_ref().map(Point::of);
                let mut survey = Survey::new(&cpu, embedded[0].clone(), 30, view.clone()).unwrap();
                let (nnz, size) = (survey.network().cost(&cpu).nnz, architecture.size());
                match space {
                    Space::Sparse => assert!(nnz > ends[0].nnz() && nnz < 2 * size / 5, "{nnz} of {size}"),
                    Space::Full => assert_eq!(nnz, size),
                }
                for (end, point) in ends.iter().zip(&points) {
                    let mut alone = Survey::new(&cpu, end.clone(), 30, view.clone()).unwrap();
                    let expected = alone.evaluate(&Point::of(end)).unwrap();
                    let got = survey.evaluate(point).unwrap();
                    assert!((got.loss() - expected.loss()).abs() < 1e-5 * expected.loss(), "{got:?} {expected:?}");
                    assert_eq!(got.accuracy(), expected.accuracy());
                }
                assert!(survey.evaluate(&points[0]).unwrap().loss() != survey.evaluate(&points[1]).unwrap().loss());
            }
        }
    }

    /// In the sparse space, training leaves the ends as they are, moves the control points, and the loss goes down.
    #[test]
    fn training_lowers_the_mean_loss_along_a_curve() {
        let (cpu, interrupt) = (Cpu::new(2, None).unwrap(), Interrupt::default());
        let view = view(&interrupt, 96, SIDE, 16);
        let architecture = perceptron();
        let [a, b] = Space::Sparse.embed([&model(&architecture, 0.2, 1), &model(&architecture, 0.2, 2)]).unwrap();
        let untrained = Path::straight(Curve::Cubic, Point::of(&a), Point::of(&b));
        let mut survey = Survey::new(&cpu, a, 16, view).unwrap();
        let mut path = untrained.clone();
        let mut steps = 0;
        let training = PathTraining { steps: 200, learning_rate: 0.1, weight_decay: 0.0 };
        survey.train(&mut path, training, |step, _| steps = step).unwrap();
        assert_eq!(steps, 200);
        let mut mean_loss = |path: &Path| {
            let mut point = path.start().zeros_like();
            let losses = (0..=8).map(|i| {
                path.at(f64::from(i) / 8.0, &mut point);
                survey.evaluate(&point).unwrap().loss()
            });
            losses.sum::<f64>() / 9.0
        };
        let [before, after] = [&untrained, &path].map(&mut mean_loss);
        assert!(after < 0.8 * before, "{before} {after}");
        // Weight decay makes weights smaller, and leaves biases to the loss.
        let mut decayed = untrained.clone();
        survey.train(&mut decayed, PathTraining { weight_decay: 0.1, ..training }, |_, _| ()).unwrap();
        let norm = |path: &Path, array: usize| {
            path.control_points().iter().flat_map(|point| &point.arrays[array]).map(|x| x * x).sum::<f32>()
        };
        assert!(norm(&decayed, 0) < 0.5 * norm(&path, 0), "{} {}", norm(&decayed, 0), norm(&path, 0));
        let expected = [true, false, true, false];
        assert_eq!(survey.decayed, expected);
        let mut points = [path.start().zeros_like(), path.start().zeros_like()];
        for t in [0.0, 1.0] {
            untrained.at(t, &mut points[0]);
            path.at(t, &mut points[1]);
            assert_eq!(points[0], points[1]);
        }

        let wild = PathTraining { steps: 50, learning_rate: 1e12, weight_decay: 0.0 };
        let error = survey.train(&mut path, wild, |_, _| ()).unwrap_err().to_string();
        assert!(error.contains("cubic path") && error.contains("lower --lr"), "{error}");
        interrupt.request();
        let error = survey.train(&mut untrained.clone(), training, |_, _| ()).unwrap_err();
        assert!(error.kind == crate::error::Kind::Interrupted, "{error}");
    }

    /// Running moments are those of the point, whatever the checkpoint or an earlier point has left.
    #[test]
    fn moments_are_estimated_at_each_point() {
        let (cpu, interrupt) = (Cpu::new(1, None).unwrap(), Interrupt::default());
        let spec = ModelSpec::of(&"wrn-10-1".parse().unwrap()).on(1, [SIDE, SIDE], CLASSES).with_width(0.25);
        let architecture = Architecture::new(&spec).unwrap();
        let mut model = model(&architecture, 0.5, 1);
        let point = Point::of(&model);
        let view = |batch_size| view(&interrupt, 48, SIDE, batch_size);
        let mut survey = Survey::new(&cpu, model.clone(), 16, view(16)).unwrap();
        let loss = survey.evaluate(&point).unwrap().loss();
        let far = Point { arrays: point.arrays.iter().map(|a| a.iter().map(|x| 1e20 * x).collect()).collect() };
        survey.evaluate(&far).unwrap();
        assert_eq!(survey.evaluate(&point).unwrap().loss(), loss);
        for norm in &mut model.parts.as_mut().unwrap().norms {
            norm.running.iter_mut().for_each(|moment| *moment = 1e3);
        }
        let mut survey = Survey::new(&cpu, model.clone(), 16, view(16)).unwrap();
        assert_eq!(survey.evaluate(&point).unwrap().loss(), loss);
        // With the whole training set as one batch they are its moments, but for the variance's n / (n − 1).
        let mut whole = Survey::new(&cpu, model, 48, view(48)).unwrap();
        let evaluated = whole.evaluate(&point).unwrap().loss();
        let mut loader = whole.loader(Augment::None).unwrap();
        let batch = loader.next_batch().unwrap().unwrap();
        let trained = whole.evaluator.training_pass(batch, false).unwrap().mean();
        assert!((evaluated / f64::from(trained) - 1.0).abs() < 1e-2, "{evaluated} {trained}");
        // Batches' moments are not quite those of the whole.
        assert!((loss / evaluated - 1.0).abs() < 0.2 && loss != evaluated, "{loss} {evaluated}");
    }
}
