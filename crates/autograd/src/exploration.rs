//! Exploration: growth from a sample of a weight's positions, which is drawn by how active its outputs and inputs are.
//!
//! ```text
//! for each shard   activity = Σ |dY| of each row, Σ |X| of each column         of a convolution: of the unfolded X
//! sum over shards                                                              (here, and among workers)
//! draw a sample of positions                                                   the same one on all workers
//! for each shard   gradient = dY · Xᵀ at the sample                            a sampled product, as of any sparse weight
//! sum over shards
//! find the best
//! ```
//!
//! The sample is a weight for the time being, of the kind of the one that grows, so that every format and every device knows
//! how to compute its gradient. Activations go to the host for their sums. Memory is that of the activations of one use, of
//! the sample and its plan, and of a number for each row and column.

use std::sync::Arc;

use sparse_kernels::{
    Activations, Backend, Candidate, ConvShape, CsrPattern, ExploreRequest, ImageLayout, Layout, PlanOptions, Precision,
};

use crate::weights::{Geometry, Pair, Weight};
use crate::{Error, Reduce, Tree};

/// A sample of positions, and the gradient there, summed over the passes so far.
#[derive(Debug)]
pub(crate) struct Explored<B: Backend> {
    sample: Box<dyn Weight<B>>,
    gradient: Vec<f32>,
}

/// What exploration looks at in one pass.
pub(crate) struct Exploration<'g, B: Backend> {
    pub backend: &'g B,
    pub weight: &'g dyn Weight<B>,
    pub request: &'g ExploreRequest,
    pub shards: usize,
    /// `(dY, X)` of each use, and its shard.
    pub pairs: Vec<(usize, Pair<'g, B>)>,
}

impl<B: Backend> Exploration<'_, B> {
    /// Adds this pass to the `earlier` ones, whose sample it keeps.
    pub fn explore(&self, earlier: Option<Explored<B>>, reduce: &mut dyn Reduce<B>) -> Result<Explored<B>, Error> {
        let (sample, earlier) = match earlier {
            Some(Explored { sample, gradient }) => (sample, Some(gradient)),
            None => (self.sample(&reduce.add_up(self.activity()?)?)?, None),
        };
        let mut gradient = reduce.add_up(self.gradient(&*sample)?)?;
        if let Some(earlier) = earlier {
            gradient.iter_mut().zip(earlier).for_each(|(sum, earlier)| *sum += earlier);
        }
        Ok(Explored { sample, gradient })
    }

    /// Numbers of each shard that is computed here, added up as far as the tree allows.
    fn of_shards(
        &self,
        mut of: impl FnMut(&[Pair<'_, B>]) -> Result<Vec<f32>, Error>,
    ) -> Result<Tree<Vec<f32>>, Error> {
        let mut shards: Vec<usize> = self.pairs.iter().map(|(shard, _)| *shard).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut tree = Tree::new(self.shards);
        for shard in shards {
            let pairs = self.pairs.iter().filter(|(of, _)| *of == shard).map(|(_, pair)| *pair);
            let numbers = of(&pairs.collect::<Vec<_>>())?;
            tree.insert(shard..shard + 1, numbers, |mut sum: Vec<f32>, other: Vec<f32>| {
                sum.iter_mut().zip(&other).for_each(|(sum, other)| *sum += other);
                Ok::<_, Error>(sum)
            })?;
        }
        Ok(tree)
    }

    /// How active each row is, and then each column: of the grid, for blocks.
    fn activity(&self) -> Result<Tree<Vec<f32>>, Error> {
        let geometry = self.weight.geometry(self.backend);
        let [nrows, ncols] = geometry.size();
        self.of_shards(|pairs| {
            let (mut rows, mut columns) = (vec![0.0; nrows], vec![0.0; ncols]);
            for (dy, x) in pairs {
                self.add_features(dy, &mut rows)?;
                match (geometry, x.layout()) {
                    (Geometry::Conv { shape, .. }, Layout::Images(layout)) => {
                        add_unfolded(shape, layout, &self.on_host(x)?, &mut columns)?;
                    }
                    _ => self.add_features(x, &mut columns)?,
                }
            }
            if let Some(pattern) = self.weight.block_pattern(self.backend) {
                let ([r, c], taps) = (pattern.block_size(), pattern.taps());
                let channels = ncols / taps;
                // The grid's columns are in order of taps.
                let by_tap = (0..ncols).map(|place| columns[place % channels * taps + place / channels]);
                let by_tap: Vec<f64> = by_tap.collect();
                rows = rows.chunks(r).map(|block| block.iter().sum()).collect();
                columns = by_tap.chunks(c).map(|block| block.iter().sum()).collect();
            }
            Ok(rows.into_iter().chain(columns).map(|sum: f64| sum as f32).collect())
        })
    }

    fn on_host(&self, activations: &Activations<B>) -> Result<Vec<f32>, Error> {
        let data = activations.data();
        if self.backend.precision(data) == Precision::F32 {
            return Ok(self.backend.downloaded(data)?);
        }
        let mut wide = self.backend.zeros(self.backend.len(data))?;
        self.backend.convert(data, &mut wide)?;
        Ok(self.backend.downloaded(&wide)?)
    }

    /// Adds the magnitudes of each feature or channel, over lanes or samples and pixels.
    fn add_features(&self, activations: &Activations<B>, sums: &mut [f64]) -> Result<(), Error> {
        let numbers = self.on_host(activations)?;
        match activations.layout() {
            Layout::Strips(layout) => {
                for lane in (0..layout.lanes()).step_by(layout.strip()) {
                    let lanes = layout.strip().min(layout.lanes() - lane);
                    for (feature, sum) in sums.iter_mut().enumerate() {
                        *sum += magnitude(&numbers[layout.index(feature, lane)..][..lanes]);
                    }
                }
            }
            Layout::Images(layout) => {
                for (channel, sum) in sums.iter_mut().enumerate() {
                    *sum += pixels(layout, &numbers, channel).iter().sum::<f64>();
                }
            }
        }
        Ok(())
    }

    /// The weight of the sampled positions.
    fn sample(&self, activity: &[f32]) -> Result<Box<dyn Weight<B>>, Error> {
        let (rows, columns) = activity.split_at(self.request.exclude.nrows());
        let sampled = Arc::new(self.request.sample(rows, columns)?);
        let geometry = match self.weight.geometry(self.backend) {
            // Nothing is multiplied by it.
            Geometry::Linear { nrows, ncols, options } => {
                Geometry::Linear { nrows, ncols, options: PlanOptions { transpose: false, ..options } }
            }
            conv @ Geometry::Conv { .. } => conv,
        };
        match self.weight.block_pattern(self.backend) {
            Some(pattern) => {
                let pattern = Arc::new(pattern.with_blocks(sampled)?);
                let values = self.backend.zeros(pattern.nnz())?;
                geometry.blocks(self.backend, pattern, values)
            }
            None => {
                let values = self.backend.zeros(sampled.nnz())?;
                geometry.csr(self.backend, sampled, values)
            }
        }
    }

    fn gradient(&self, sample: &dyn Weight<B>) -> Result<Tree<Vec<f32>>, Error> {
        self.of_shards(|pairs| {
            let mut gradient = self.backend.zeros(self.backend.len(sample.values()))?;
            for (i, &pair) in pairs.iter().enumerate() {
                sample.weight_grad(self.backend, pair, &mut gradient, i > 0)?;
            }
            Ok(self.backend.downloaded(&gradient)?)
        })
    }
}

impl<B: Backend> Explored<B> {
    /// The candidates: of blocks, those whose gradients have the largest norms.
    pub fn best(&self, backend: &B, request: &ExploreRequest) -> Result<Vec<Candidate>, Error> {
        let best = |pattern: &CsrPattern, scores: &[f32]| request.best(pattern, scores);
        Ok(match (self.sample.block_pattern(backend), self.sample.pattern(backend)) {
            (Some(pattern), _) => best(pattern.blocks(), &pattern.block_norms(&self.gradient)?),
            (None, Some(pattern)) => best(pattern, &self.gradient),
            (None, None) => return Err(self.sample.lacks("topology")),
        })
    }
}

fn magnitude(numbers: &[f32]) -> f64 {
    numbers.iter().map(|&number| f64::from(number.abs())).sum()
}

/// The magnitudes of a channel's pixels, summed over samples.
fn pixels(layout: ImageLayout, numbers: &[f32], channel: usize) -> Vec<f64> {
    let [height, width] = layout.size();
    let mut sums = vec![0.0; height * width];
    for sample in (0..layout.samples()).step_by(layout.strip()) {
        let samples = layout.strip().min(layout.samples() - sample);
        for (place, sum) in sums.iter_mut().enumerate() {
            let at = layout.index(sample, channel, [place / width, place % width]);
            *sum += magnitude(&numbers[at..][..samples]);
        }
    }
    sums
}

/// Adds the magnitudes that meet each column of a convolution's weight: of its channel, the pixels that its tap sees. A column
/// stands for another channel in each group; it gets the sum of theirs.
fn add_unfolded(shape: ConvShape, layout: ImageLayout, numbers: &[f32], sums: &mut [f64]) -> Result<(), Error> {
    let ([height, width], [_, kernel_width]) = (layout.size(), shape.kernel());
    let [rows, columns] = shape.output_size([height, width])?;
    let per_group = shape.in_channels() / shape.groups();
    let at = |output: usize, tap: usize, axis: usize| {
        (output * shape.stride()[axis] + tap * shape.dilation()[axis]).checked_sub(shape.padding()[axis])
    };
    for channel in 0..shape.in_channels() {
        let pixels = pixels(layout, numbers, channel);
        for tap in 0..shape.taps() {
            let sum = &mut sums[channel % per_group * shape.taps() + tap];
            for y in (0..rows).filter_map(|row| at(row, tap / kernel_width, 0)).filter(|&y| y < height) {
                let seen = (0..columns).filter_map(|column| at(column, tap % kernel_width, 1)).filter(|&x| x < width);
                *sum += seen.map(|x| pixels[y * width + x]).sum::<f64>();
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sparse_kernels::cpu::Cpu;
    use sparse_kernels::random::Key;
    use sparse_kernels::{GrowRequest, Storage, StripLayout};

    use super::*;
    use crate::tests::{block_conv, block_sparse, cpu, image_layouts, normals, sparse, sparse_conv};
    use crate::{Arena, GrowthPasses, GrowthRequests, Mode, NoReduce, ParameterId, Parameters, Shards, Tape};

    /// Small whole numbers: all orders of summation agree.
    fn whole(name: &str, len: usize) -> Vec<f32> {
        normals(name, len).iter().map(|x| (2.0 * x).round()).collect()
    }

    fn packed(cpu: &Cpu, layout: Layout, name: &str, change: impl Fn(usize, f32) -> f32) -> Activations<Cpu> {
        let mut activations = Activations::zeros(cpu, layout).unwrap();
        let data = activations.data_mut();
        match layout {
            Layout::Strips(layout) => {
                let numbers = whole(name, layout.features() * layout.lanes());
                for feature in 0..layout.features() {
                    for lane in 0..layout.lanes() {
                        let number = numbers[feature * layout.lanes() + lane];
                        data[layout.index(feature, lane)] = change(feature, number);
                    }
                }
            }
            Layout::Images(layout) => {
                let pixels: usize = layout.size().iter().product();
                let numbers = whole(name, layout.samples() * layout.channels() * pixels);
                let numbers = numbers.iter().enumerate();
                let numbers: Vec<f32> = numbers.map(|(i, &x)| change(i / pixels % layout.channels(), x)).collect();
                layout.pack(&numbers, data).unwrap();
            }
        }
        activations
    }

    type Add<'a> = &'a dyn Fn(&mut Parameters<Cpu>) -> ParameterId;

    /// Weights of every kind, with the layouts of their input and output.
    fn weights(check: impl Fn(&str, Add<'_>, [Layout; 2])) {
        let strips = |features: usize| Layout::Strips(StripLayout::sparse(11, features));
        check("matrix", &|p| sparse(p, "w", 14, 9, 0.3, true), [strips(9), strips(14)]);
        check("blocks", &|p| block_sparse(p, "w", [14, 9], [4, 2], 0.3), [strips(9), strips(14)]);
        let shapes = [
            ConvShape::new(8, 6, [3, 3]).unwrap().with_padding([1, 1]),
            ConvShape::new(8, 6, [3, 2]).unwrap().with_stride([2, 1]).unwrap(),
            ConvShape::new(8, 6, [2, 2]).unwrap().with_dilation([2, 1]).unwrap(),
            ConvShape::new(8, 6, [3, 3]).unwrap().with_padding([1, 1]).with_groups(2).unwrap(),
        ];
        for shape in shapes {
            let layouts = image_layouts(shape, [5, 4], 3, 8);
            let images = layouts.map(Layout::Images);
            check(&format!("{shape:?}"), &|p| sparse_conv(p, "w", shape, layouts, 0.4), images);
            if shape.groups() == 1 {
                check(&format!("{shape:?} in blocks"), &|p| block_conv(p, "w", shape, layouts, [2, 2]), images);
            }
        }
    }

    /// Candidates of `W·x₀` and `W·x₁` with given output gradients: two uses, two shards, or two passes.
    fn candidates(
        how: &str,
        parameters: &mut Parameters<Cpu>,
        w: ParameterId,
        layouts: [Layout; 2],
        ask: &dyn Fn(&mut GrowthRequests, GrowthPasses),
    ) -> Vec<Candidate> {
        let (cpu, mut arena) = (cpu(), Arena::new());
        let mut found = None;
        let passes = if how == "passes" { 2 } else { 1 };
        for pass in 0..passes {
            let mut tape = Tape::new(&cpu, &mut arena, parameters, Mode::Training);
            if how == "shards" {
                tape = tape.over(Shards::all(2));
            }
            let mut seeds = vec![];
            for part in if passes == 2 { pass..pass + 1 } else { 0..2 } {
                if how == "shards" {
                    tape.shard(part, 1.0);
                }
                let x = tape.input(packed(&cpu, layouts[0], &format!("x{part}"), |_, x| x), false);
                let y = tape.apply(w, x).unwrap();
                // Two outputs, and with them two rows, are silent.
                let dy = |channel: usize, dy: f32| if channel < 2 { 0.0 } else { dy };
                seeds.push((y, packed(&cpu, layouts[1], &format!("dy{part}"), dy)));
            }
            let mut growth = GrowthRequests::new();
            ask(
                &mut growth,
                match (passes, pass) {
                    (1, _) => GrowthPasses::One,
                    (_, 0) => GrowthPasses::More,
                    _ => GrowthPasses::Last,
                },
            );
            tape.backward_from(seeds, &mut growth, &mut NoReduce).unwrap();
            let taken = growth.take(w);
            assert_eq!(taken.is_some(), pass + 1 == passes, "{how}");
            found = taken.or(found);
        }
        found.unwrap()
    }

    fn request(parameters: &Parameters<Cpu>, w: ParameterId, samples: usize, count: usize) -> ExploreRequest {
        let exclude = parameters.topology(&cpu(), w).unwrap().clone();
        let (draws, ties) = (Key::new(5), Key::new(3));
        ExploreRequest { exclude, samples, count, by_activity: true, draws, ties }
    }

    /// A sample of all positions has the candidates of growth, however the batch is split.
    #[test]
    fn with_all_positions_it_is_growth() {
        weights(|name, add, layouts| {
            let mut parameters = Parameters::new();
            let w = add(&mut parameters);
            let request = request(&parameters, w, usize::MAX, 9);
            let ExploreRequest { exclude, count, ties, .. } = request.clone();
            let dense = GrowRequest { exclude, count, ties };
            let expected = candidates("uses", &mut parameters, w, layouts, &|growth, passes| {
                growth.add(w, passes, dense.clone());
            });
            assert!(expected.len() == 9 && expected.iter().all(|candidate| candidate.score > 0.0), "{name}");
            for how in ["uses", "shards", "passes"] {
                let found = candidates(how, &mut parameters, w, layouts, &|growth, passes| {
                    growth.explore(w, passes, request.clone());
                });
                assert_eq!(found, expected, "{name}, {how}");
            }
        });
    }

    /// Of a few positions, only active ones are drawn, and their scores are those of the dense gradient.
    #[test]
    fn samples_are_active_and_have_the_gradient() {
        weights(|name, add, layouts| {
            let mut parameters = Parameters::new();
            let w = add(&mut parameters);
            let request = request(&parameters, w, 6, 6);
            let ExploreRequest { exclude, ties, .. } = request.clone();
            let all = candidates("uses", &mut parameters, w, layouts, &|growth, passes| {
                growth.add(w, passes, GrowRequest { exclude: exclude.clone(), count: usize::MAX, ties });
            });
            let [uses, shards, passes] = ["uses", "shards", "passes"].map(|how| {
                candidates(how, &mut parameters, w, layouts, &|growth, passes| {
                    growth.explore(w, passes, request.clone());
                })
            });
            assert_eq!(uses, shards, "{name}");
            let is_single = parameters.pattern(&cpu(), w).is_some();
            for found in [uses, passes] {
                assert!((4..=6).contains(&found.len()), "{name}: {found:?}");
                assert!(found.iter().all(|candidate| all.contains(candidate)), "{name}: {found:?}");
                assert!(!is_single || found.iter().all(|candidate| candidate.row >= 2), "{name}: {found:?}");
            }
        });
    }

    /// With output gradients of 1 and inputs that are not negative, a column's activity is its weights' gradient.
    #[test]
    fn activity_is_what_meets_a_weight() {
        weights(|name, add, [of_x, of_dy]| {
            let cpu = cpu();
            let mut parameters = Parameters::new();
            let w = add(&mut parameters);
            let request = request(&parameters, w, 1, 1);
            let weight = parameters.weight("test", w).unwrap();
            let [nrows, ncols] = weight.geometry(&cpu).size();
            let x = packed(&cpu, of_x, "x", |_, x| x.abs());
            let dy = packed(&cpu, of_dy, "dy", |feature, _| if feature % 2 == 0 { 1.0 } else { -2.0 });
            let ones = packed(&cpu, of_dy, "dy", |_, _| 1.0);
            let mut gradient = cpu.zeros(nrows * ncols).unwrap();
            weight.dense_grad(&cpu, (&ones, &x), &mut gradient, false).unwrap();
            let groups = match weight.geometry(&cpu) {
                Geometry::Conv { shape, .. } => shape.groups(),
                Geometry::Linear { .. } => 1,
            };
            let first_rows = (0..groups).map(|group| group * (nrows / groups));
            let columns: Vec<f32> =
                (0..ncols).map(|c| first_rows.clone().map(|row| gradient[row * ncols + c]).sum()).collect();
            let outputs = match of_dy {
                Layout::Strips(layout) => layout.lanes(),
                Layout::Images(layout) => layout.samples() * layout.size().iter().product::<usize>(),
            } as f32;
            let rows: Vec<f32> = (0..nrows).map(|row| if row % 2 == 0 { outputs } else { 2.0 * outputs }).collect();
            let expected = match weight.block_pattern(&cpu) {
                None => [rows, columns].concat(),
                Some(pattern) => {
                    let [r, c] = pattern.block_size();
                    let full = sparse_kernels::BsrPattern::full(nrows, ncols, [r, c]).unwrap();
                    let full = full.with_taps(pattern.taps()).unwrap();
                    let grid = full.blocks().ncols();
                    let mut of_blocks = vec![0.0; full.blocks().nrows() + grid];
                    rows.iter().enumerate().for_each(|(row, activity)| of_blocks[row / r] += activity);
                    for entry in full.entries().filter(|entry| entry.row == 0) {
                        of_blocks[full.blocks().nrows() + entry.position / (r * c) % grid] += columns[entry.column];
                    }
                    of_blocks
                }
            };
            let (pairs, shards) = (vec![(0, (&dy, &x))], 1);
            let exploration = Exploration { backend: &cpu, weight, request: &request, shards, pairs };
            assert_eq!(exploration.activity().unwrap().into_root().unwrap(), expected, "{name}");
        });
    }
}
