//! Which entries of a weight are stored, and how.

use std::sync::Arc;
use std::time::{Duration, Instant};

use autograd::{DenseWeight, Geometry, Weight};
use sparse_kernels::random::Key;
use sparse_kernels::{Backend, BackendError, BsrPattern, GrowRequest};

use super::arguments::KernelFormat::{self, Dense, Sparse};
use super::arguments::{BenchKernelArgs, PatternSource};
use crate::bench::patterns;
use crate::models::Format::{self, Bsr, Csr};

/// A pattern in a format.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub format: KernelFormat,
    /// The entries; single ones, and those of a dense weight, are blocks of one.
    pub blocks: Arc<BsrPattern>,
}

impl Stored {
    /// The patterns that the options ask for, of this number of rows and columns unless they are read from a file.
    pub fn all(args: &BenchKernelArgs, format: Format, [nrows, ncols]: [usize; 2]) -> crate::Result<Vec<Self>> {
        let key = Key::new(args.machine.seed).with_name("pattern");
        let block_size = if let Bsr(block_size) = format { block_size } else { [1, 1] };
        let stored = |blocks| Self { format: Sparse(format), blocks: Arc::new(blocks) };
        if let PatternSource::File(path) = &args.pattern {
            // Every block that holds an entry of the file's matrix.
            return Ok(vec![stored(BsrPattern::from_csr(&patterns::from_file(path)?, block_size)?)]);
        }
        let make = |&density: &f64| {
            let place = |nrows: usize, ncols: usize| match &args.pattern {
                PatternSource::PowerLaw => patterns::power_law(nrows, ncols, density, key),
                PatternSource::Banded => patterns::banded(nrows, ncols, density),
                PatternSource::Uniform | PatternSource::File(_) => patterns::uniform(nrows, ncols, density, key),
            };
            Ok(stored(patterns::in_blocks(nrows, ncols, block_size, place)?))
        };
        args.density.iter().map(make).collect()
    }

    /// Whether single entries are.
    pub fn is_csr(&self) -> bool {
        self.format == Sparse(Csr)
    }

    /// How long it takes to plan the pattern; no time if it is dense.
    pub fn plan_time<B: Backend>(&self, backend: &B, geometry: Geometry) -> Result<Duration, BackendError> {
        let (entries, blocks) = (self.blocks.blocks().clone(), self.blocks.clone());
        let start = Instant::now();
        match (self.format, geometry) {
            (Dense, _) => return Ok(Duration::ZERO),
            (Sparse(Csr), Geometry::Linear { options, .. }) => drop(backend.plan(entries, options)?),
            (Sparse(Csr), Geometry::Conv { shape, options }) => drop(backend.plan_conv(entries, shape, options)?),
            (Sparse(Bsr(_)), Geometry::Linear { options, .. }) => drop(backend.plan_blocks(blocks, options)?),
            (Sparse(Bsr(_)), Geometry::Conv { shape, options }) => {
                drop(backend.plan_conv_blocks(blocks, shape, options)?);
            }
        }
        Ok(start.elapsed())
    }

    /// The weight of these values.
    pub fn weight<B: Backend>(
        &self,
        backend: &B,
        values: B::Buffer,
        geometry: Geometry,
    ) -> Result<Box<dyn Weight<B>>, autograd::Error> {
        match self.format {
            Dense => Ok(Box::new(DenseWeight::new(backend, values, geometry)?)),
            Sparse(Csr) => geometry.csr(backend, self.blocks.blocks().clone(), values),
            Sparse(Bsr(_)) => geometry.blocks(backend, self.blocks.clone(), values),
        }
    }

    /// A growth step that replaces three tenths of the entries or blocks, as RigL's first update does.
    pub fn grow_request(&self, seed: u64) -> GrowRequest {
        let exclude = self.blocks.blocks().clone();
        GrowRequest { count: 3 * exclude.nnz() / 10, exclude, ties: Key::new(seed).with_name("ties") }
    }
}
