//! Gradients against central differences: the test that every operation passes.

use sparse_kernels::random::Key;
use sparse_kernels::{Activations, Backend, Layout, MatrixMut, MatrixRef};

use crate::{Arena, Error, GrowthRequests, Loss, Mode, NoReduce, ParameterId, Parameters, Tape, Var};

/// What is differentiated.
#[derive(Debug, Clone, Copy)]
pub enum Objective {
    /// `Σ c · y` over a value's elements, with fixed normal numbers `c`.
    Output(Var),
    /// The mean loss.
    Loss(Loss),
}

/// One derivative, found twice.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name of the parameter, or `input`.
    pub name: String,
    /// Element; of the input, in the order that [`gradcheck`] takes it in.
    pub index: usize,
    /// From the backward pass.
    pub analytic: f64,
    /// From central differences.
    pub numeric: f64,
}

impl Entry {
    /// `abs(analytic − numeric)`, relative to the larger of the two where that is above 1. NaN counts as infinite.
    pub fn error(&self) -> f64 {
        let scale = self.analytic.abs().max(self.numeric.abs()).max(1.0);
        let error = (self.analytic - self.numeric).abs() / scale;
        if error.is_nan() { f64::INFINITY } else { error }
    }
}

/// All derivatives of one check.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Those of the input, then those of each parameter.
    pub entries: Vec<Entry>,
}

impl Report {
    /// The worst [`Entry::error`].
    pub fn max_error(&self) -> f64 {
        self.entries.iter().map(Entry::error).fold(0.0, f64::max)
    }
}

/// Compares the backward pass with central differences, for each element of the input (row-major `[feature][lane]`, of
/// images `[sample][channel][y][x]`) and of every parameter that is learned.
///
/// `build` puts the computation on a tape; it must do the same each time. Differences are taken with `step` on both
/// sides, and are as good as f32 allows: for a function that is linear in each single element take a large step (0.1), else
/// about 0.01 to 0.03, and stay away from kinks by more than that.
///
/// # Errors
/// What `build` or the backend fails with.
///
/// # Panics
/// If the input does not fit its layout.
pub fn gradcheck<B: Backend>(
    backend: &B,
    parameters: &mut Parameters<B>,
    (layout, input): (impl Into<Layout>, &[f32]),
    step: f32,
    mut build: impl FnMut(&mut Tape<'_, B>, Var) -> Result<Objective, Error>,
) -> Result<Report, Error> {
    let mut check = Check { backend, arena: Arena::new(), layout: layout.into(), build: &mut build };
    let mut entries = Vec::new();
    let input_gradient = check.run(parameters, input, true)?.1.expect("a backward pass was asked for");
    let ids: Vec<ParameterId> = parameters.iter().filter(|(_, p)| p.value().is_learned()).map(|(id, _)| id).collect();
    // Downloaded at once: later passes overwrite them.
    let mut gradients = Vec::new();
    for &id in &ids {
        let len = backend.len(parameters.get(id).value().values());
        gradients.push(parameters.download_gradient(backend, id)?.unwrap_or_else(|| vec![0.0; len]));
    }
    differences(&mut entries, "input", input, &input_gradient, step, |x| Ok(check.run(parameters, x, false)?.0))?;
    for (&id, gradient) in ids.iter().zip(&gradients) {
        let (name, original) = (parameters.get(id).name().to_owned(), parameters.download_values(backend, id)?);
        differences(&mut entries, &name, &original, gradient, step, |moved| {
            parameters.upload_values(backend, id, moved)?;
            Ok(check.run(parameters, input, false)?.0)
        })?;
        parameters.upload_values(backend, id, &original)?;
    }
    Ok(Report { entries })
}

/// The central differences of an objective in each of some numbers, beside their gradient.
fn differences(
    entries: &mut Vec<Entry>,
    name: &str,
    numbers: &[f32],
    gradient: &[f32],
    step: f32,
    mut objective: impl FnMut(&[f32]) -> Result<f64, Error>,
) -> Result<(), Error> {
    let mut moved = numbers.to_vec();
    for (index, &number) in numbers.iter().enumerate() {
        let [mut low, mut high] = [0.0; 2];
        for (to, delta) in [(&mut low, -step), (&mut high, step)] {
            moved[index] = number + delta;
            *to = objective(&moved)?;
        }
        let width = f64::from(number + step) - f64::from(number - step);
        moved[index] = number;
        let (analytic, numeric) = (f64::from(gradient[index]), (high - low) / width);
        entries.push(Entry { name: name.to_owned(), index, analytic, numeric });
    }
    Ok(())
}

struct Check<'c, B: Backend, F> {
    backend: &'c B,
    arena: Arena<B>,
    layout: Layout,
    build: &'c mut F,
}

impl<B: Backend, F: FnMut(&mut Tape<'_, B>, Var) -> Result<Objective, Error>> Check<'_, B, F> {
    /// The objective and, if asked for, the input's gradient, row-major.
    fn run(
        &mut self,
        parameters: &mut Parameters<B>,
        input: &[f32],
        backward: bool,
    ) -> Result<(f64, Option<Vec<f32>>), Error> {
        let (backend, layout) = (self.backend, self.layout);
        let x = upload(backend, layout, input)?;
        let mut tape = Tape::new(backend, &mut self.arena, parameters, Mode::Training);
        let x = tape.input(x, true);
        let objective = (self.build)(&mut tape, x)?;
        let (growth, reduce) = (&mut GrowthRequests::new(), &mut NoReduce);
        let value = match objective {
            Objective::Output(y) => {
                let y_layout = tape.layout(y);
                let values = download(backend, tape.value(y)?)?;
                let coefficients: Vec<f32> = (0..values.len() as u64).map(|i| Key::new(17).normal(i)).collect();
                if backward {
                    let seed = upload(backend, y_layout, &coefficients)?;
                    tape.backward_from(vec![(y, seed)], growth, reduce)?;
                }
                values.iter().zip(&coefficients).map(|(&y, &c)| f64::from(y) * f64::from(c)).sum()
            }
            Objective::Loss(loss) => {
                let stats = tape.read_loss(loss)?;
                if backward {
                    tape.backward(&[loss], growth, reduce)?;
                }
                f64::from(stats.sum) / stats.lanes as f64
            }
        };
        let gradient = match (backward, tape.gradient(x)) {
            (true, Some(gradient)) => Some(download(backend, gradient)?),
            (true, None) => Some(vec![0.0; input.len()]),
            (false, _) => None,
        };
        Ok((value, gradient))
    }
}

fn upload<B: Backend>(backend: &B, layout: Layout, from: &[f32]) -> Result<Activations<B>, Error> {
    let mut packed = vec![0.0; layout.len()];
    match layout {
        Layout::Strips(layout) => {
            layout.pack(MatrixRef::new(from, layout.features(), layout.lanes(), layout.lanes())?, &mut packed)?;
        }
        Layout::Images(layout) => layout.pack(from, &mut packed)?,
    }
    Ok(Activations::new(layout, backend.uploaded(&packed)?))
}

fn download<B: Backend>(backend: &B, from: &Activations<B>) -> Result<Vec<f32>, Error> {
    let packed = backend.downloaded(from.data())?;
    let mut to;
    match from.layout() {
        Layout::Strips(layout) => {
            to = vec![0.0f32; layout.features() * layout.lanes()];
            layout.unpack(&packed, MatrixMut::new(&mut to, layout.features(), layout.lanes(), layout.lanes())?)?;
        }
        Layout::Images(layout) => {
            to = vec![0.0; layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1]];
            layout.unpack(&packed, &mut to)?;
        }
    }
    Ok(to)
}
