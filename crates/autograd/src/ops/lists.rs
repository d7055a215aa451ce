//! `Y = W · Xᵀ` of samples that are lists of indices and values: the first layer of a network of bags of words.

use std::sync::Arc;

use sparse_kernels::{Backend, BackendError, Candidate, Csr, CsrPattern, GrowRequest, StripLayout, Strips};

use crate::error::expect_equal;
use crate::growth::{GrowthPasses, Wanted};
use crate::storage::strips;
use crate::tape::{Backward, ParameterGradient};
use crate::{Error, Mode, ParameterId, Tape, Var};

const OP: &str = "apply_lists";

impl<'a, B: Backend> Tape<'a, B> {
    /// `Y[m, n] = W[m, k] · X[n, k]ᵀ` with a [`crate::ListWeight`] and samples that are lists, the rows of X; `lanes` says how the
    /// samples lie in Y.
    ///
    /// Backward: dW at the stored entries; or, with a growth request, its largest entries. Candidates for growth are looked for among
    /// the columns that some sample has: all others have no gradient.
    ///
    /// # Errors
    /// If `weight` is no such weight, or the shapes do not fit.
    ///
    /// # Cost
    /// For each entry of X two operations for each stored value in its column, and as much for dW, with one pass over dW. Growth takes
    /// `2 · m · j · n`, j being the columns that the samples have.
    pub fn apply_lists(&mut self, weight: ParameterId, x: &Arc<Csr>, lanes: StripLayout) -> Result<Var, Error> {
        let backend = self.backend;
        let w = self.parameters.weight(OP, weight)?;
        let [rows, _] = w.geometry(backend).size();
        expect_equal(OP, "number of samples", lanes.lanes(), x.pattern().nrows())?;
        let mut y = self.arena.take(backend, lanes.with_features(rows))?;
        w.forward_lists(backend, x, &mut y)?;
        let output = self.values.push(y.into(), self.mode() == Mode::Training);
        let x = x.clone();
        self.record_source(output, &[weight], move |pass, dy| {
            match pass.wanted(weight)? {
                None => {
                    let ParameterGradient { backend, parameter, gradient, accumulate, .. } =
                        pass.parameter_gradient(weight)?;
                    let value = parameter.weight().expect("the forward pass found a weight");
                    value.weight_grad_lists(backend, strips(&dy), &x, gradient, accumulate)?;
                    pass.release(dy);
                    pass.use_done(weight)
                }
                Some(Wanted::Largest(request)) => {
                    let request = request.clone();
                    let w = pass.tape.parameters.weight(OP, weight)?;
                    let block_size = w.block_pattern(backend).map(|pattern| pattern.block_size());
                    let found = grow(backend, &request, block_size, strips(&dy), &x)?;
                    pass.release(dy);
                    pass.found(weight, found)
                }
                Some(Wanted::Sampled(_)) => {
                    // A sample of positions is drawn by all activities, most of which are 0.
                    let whole = dense(pass, &x, lanes)?;
                    let saved = pass.tape.values.store_saved(whole.into());
                    pass.weight_used(weight, dy, saved)?;
                    pass.give_unless_pinned(saved);
                    Ok(())
                }
            }
        });
        Ok(output)
    }
}

impl<B: Backend> Backward<'_, '_, B> {
    /// What growth wants of a weight whose gradient an operation computes itself.
    pub(super) fn wanted(&self, weight: ParameterId) -> Result<Option<&Wanted>, Error> {
        let w = self.tape.parameters.weight("backward", weight)?;
        if self.growth().wants_dense(weight) {
            return Err(w.lacks("gradient at all positions"));
        }
        let Some(i) = self.growth().position(weight) else { return Ok(None) };
        let entry = &self.growth().entries[i];
        match entry.passes {
            GrowthPasses::One if self.tape.shards.is_none() => Ok(Some(&entry.wanted)),
            _ => Err(w.lacks("growth over several passes or shards")),
        }
    }
}

/// X as a dense matrix.
fn dense<B: Backend>(pass: &mut Backward<'_, '_, B>, x: &Csr, lanes: StripLayout) -> Result<Strips<B>, Error> {
    let layout = lanes.with_features(x.pattern().ncols());
    let mut host = vec![0.0; layout.len()];
    for ((sample, column), &value) in x.pattern().positions().zip(x.values()) {
        host[layout.index(column as usize, sample as usize)] = value;
    }
    let backend = pass.tape.backend;
    let mut strips = pass.tape.arena.take(backend, layout)?;
    backend.upload(&host, &mut strips.data)?;
    Ok(strips)
}

/// The largest of the gradient outside a topology, by a product with the columns that some sample has.
fn grow<B: Backend>(
    backend: &B,
    request: &GrowRequest,
    block_size: Option<[usize; 2]>,
    dy: &Strips<B>,
    x: &Csr,
) -> Result<Vec<Candidate>, Error> {
    let (pattern, c) = (x.pattern(), block_size.map_or(1, |[_, c]| c as u32));
    // Columns of the grid of blocks, and what they are numbered here.
    let mut had: Vec<u32> = pattern.col_indices().iter().map(|column| column / c).collect();
    had.sort_unstable();
    had.dedup();
    let number = |column: u32| had.binary_search(&column).ok().map(|number| number as u32);
    let (mut offsets, mut columns) = (vec![0], vec![]);
    for row in 0..request.exclude.nrows() {
        columns.extend(request.exclude.row(row).iter().filter_map(|&column| number(column)));
        offsets.push(columns.len() as u32);
    }
    let exclude = CsrPattern::new(request.exclude.nrows(), had.len(), offsets, columns).map_err(BackendError::from)?;
    let request = GrowRequest { exclude: Arc::new(exclude), count: request.count, ties: request.ties };
    // A last block may reach beyond the matrix: there X is 0, and so is the gradient.
    let layout = dy.layout.with_features(had.len() * c as usize);
    let mut host = vec![0.0; layout.len()];
    for ((sample, column), &value) in pattern.positions().zip(x.values()) {
        let column = number(column / c).expect("it is among those that samples have") * c + column % c;
        host[layout.index(column as usize, sample as usize)] = value;
    }
    let x = Strips { layout, data: backend.uploaded(&host)? };
    let found = match block_size {
        None => backend.grow(&request, &[(dy, &x)])?,
        Some(size) => backend.grow_blocks(size, &request, &[(dy, &x)])?,
    };
    let there = |candidate: Candidate| Candidate { column: had[candidate.column as usize], ..candidate };
    Ok(found.into_iter().map(there).collect())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sparse_kernels::random::Key;
    use sparse_kernels::{BsrPattern, Csr, GrowRequest, PlanOptions, SparseMatrix, Storage, StripLayout, Strips};

    use crate::gradcheck::{Objective, gradcheck};
    use crate::tests::{cpu, dense, normals, random_pattern};
    use crate::{
        Arena, Geometry, GrowthPasses, GrowthRequests, ListWeight, Mode, NoReduce, ParameterId, Parameters, Stored,
        Tape,
    };

    fn samples(lanes: usize, features: usize) -> Arc<Csr> {
        let pattern = random_pattern("samples", lanes, features, 0.3);
        let values = normals("x", pattern.nnz());
        Arc::new(Csr::new(pattern, values).unwrap())
    }

    fn formats() -> Vec<Stored> {
        let single = random_pattern("w", 20, 9, 0.4);
        let blocks = [[16, 1], [2, 4]].map(|size| BsrPattern::from_csr(&single, size).unwrap());
        let blocks = blocks.into_iter().map(|pattern| Stored::Blocks(Arc::new(pattern)));
        [Stored::Dense, Stored::Csr(single)].into_iter().chain(blocks).collect()
    }

    fn weight(to: &mut Parameters<sparse_kernels::cpu::Cpu>, stored: &Stored) -> ParameterId {
        let cpu = cpu();
        let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: false };
        let geometry = Geometry::Linear { nrows: 20, ncols: 9, options };
        let mut values = match stored {
            Stored::Dense => normals("w", 180),
            Stored::Csr(pattern) => normals("w", pattern.nnz()),
            Stored::Blocks(pattern) => vec![0.0; pattern.nnz()],
        };
        if let Stored::Blocks(pattern) = stored {
            pattern
                .entries()
                .for_each(|entry| values[entry.position] = normals("w", 180)[entry.row * 9 + entry.column]);
        }
        let values = cpu.uploaded(&values).unwrap();
        to.add_weight("w", Box::new(ListWeight::new(&cpu, geometry, stored.clone(), values).unwrap()))
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        for (lanes, stored) in [1, 5, 40].into_iter().flat_map(|lanes| formats().into_iter().map(move |s| (lanes, s))) {
            let mut parameters = Parameters::new();
            let w = weight(&mut parameters, &stored);
            let other = dense(&mut parameters, "other", 20, 2);
            let (x, layout) = (samples(lanes, 9), StripLayout::sparse(lanes, 2));
            let report = gradcheck(&cpu(), &mut parameters, (layout, &normals("z", 2 * lanes)), 0.1, |tape, z| {
                let y = tape.apply_lists(w, &x, layout)?;
                let z = tape.apply(other, z)?;
                Ok(Objective::Output(tape.add(y, z)?))
            })
            .unwrap();
            assert!(report.max_error() < 1e-4, "{stored:?}, {lanes}: {}", report.max_error());
        }
    }

    /// Growth finds what it finds in a weight for dense samples, among the columns that some sample has.
    #[test]
    fn growth_is_that_of_dense_samples() {
        let (cpu, lanes) = (cpu(), 3);
        let x = samples(lanes, 9);
        let had = |column: u32| x.pattern().col_indices().contains(&column);
        assert!((0..9).any(|column| !had(column)), "a column that no sample has");
        let topology = random_pattern("w", 20, 9, 0.4);
        let layout = StripLayout::sparse(lanes, 9);
        let mut packed = vec![0.0; layout.len()];
        for ((sample, column), &value) in x.pattern().positions().zip(x.values()) {
            packed[layout.index(column as usize, sample as usize)] = value;
        }
        let request = GrowRequest { exclude: topology.clone(), count: 12, ties: Key::new(3) };
        let mut found = vec![];
        for lists in [true, false] {
            let mut parameters = Parameters::new();
            let w = match lists {
                true => weight(&mut parameters, &Stored::Csr(topology.clone())),
                false => {
                    let values = normals("w", topology.nnz());
                    let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: false };
                    let matrix = SparseMatrix::new(&cpu, topology.clone(), &values, options).unwrap();
                    parameters.add_weight("w", Box::new(matrix))
                }
            };
            let mut arena = Arena::new();
            let mut tape = Tape::new(&cpu, &mut arena, &mut parameters, Mode::Training);
            let y = match lists {
                true => tape.apply_lists(w, &x, layout).unwrap(),
                false => {
                    let x = tape.input(Strips { layout, data: cpu.uploaded(&packed).unwrap() }, false);
                    tape.apply(w, x).unwrap()
                }
            };
            let seed = layout.with_features(20);
            let mut dy = vec![0.0; seed.len()];
            let numbers = normals("dy", 20 * lanes);
            (0..20 * lanes).for_each(|i| dy[seed.index(i / lanes, i % lanes)] = numbers[i]);
            let dy = Strips { layout: seed, data: cpu.uploaded(&dy).unwrap() };
            let mut growth = GrowthRequests::new();
            growth.add(w, GrowthPasses::One, request.clone());
            tape.backward_from(vec![(y, dy.into())], &mut growth, &mut NoReduce).unwrap();
            drop(tape);
            assert!(parameters.get(w).gradient().is_none());
            found.push(growth.take(w).unwrap());
        }
        assert_eq!((found[0].len(), &found[0]), (12, &found[1]));
    }
}
