//! Which positions of a matrix are stored, for weights that take any format.

use std::sync::Arc;

use sparse_kernels::{Backend, BackendError, BsrPattern, Candidate, CsrPattern, GrowRequest};

use super::Pair;
use crate::Error;
use crate::storage::strips;

/// Which positions of a matrix are stored, and in which order.
#[derive(Debug, Clone)]
pub enum Stored {
    /// All, row by row.
    Dense,
    /// Single entries.
    Csr(Arc<CsrPattern>),
    /// Blocks.
    Blocks(Arc<BsrPattern>),
}

impl Stored {
    /// The pattern of single entries.
    pub(super) fn pattern(&self) -> Option<&Arc<CsrPattern>> {
        match self {
            Self::Csr(pattern) => Some(pattern),
            Self::Dense | Self::Blocks(_) => None,
        }
    }

    /// The pattern of blocks.
    pub(super) fn block_pattern(&self) -> Option<&Arc<BsrPattern>> {
        match self {
            Self::Blocks(pattern) => Some(pattern),
            Self::Dense | Self::Csr(_) => None,
        }
    }

    /// The same format with another topology; none of a dense matrix.
    pub(super) fn with_topology(&self, topology: Arc<CsrPattern>) -> Result<Option<Self>, Error> {
        Ok(match self {
            Self::Dense => None,
            Self::Csr(_) => Some(Self::Csr(topology)),
            Self::Blocks(pattern) => {
                Some(Self::Blocks(Arc::new(pattern.with_blocks(topology).map_err(BackendError::from)?)))
            }
        })
    }

    /// Growth over whole `(dy, x)`; none of a dense matrix.
    pub(super) fn grow<B: Backend>(
        &self,
        backend: &B,
        request: &GrowRequest,
        pairs: &[Pair<'_, B>],
    ) -> Result<Option<Vec<Candidate>>, Error> {
        let pairs: Vec<_> = pairs.iter().map(|(dy, x)| (strips(dy), strips(x))).collect();
        Ok(match self {
            Self::Dense => None,
            Self::Csr(_) => Some(backend.grow(request, &pairs)?),
            Self::Blocks(pattern) => Some(backend.grow_blocks(pattern.block_size(), request, &pairs)?),
        })
    }
}
