//! Rows of indices, with a value each or none: samples of few features among very many, and the labels that each has.

use std::sync::Arc;

use sparse_kernels::{Csr, CsrPattern};

/// Rows of indices below a bound, sorted and different within a row; with a value for each, or with none.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Lists {
    columns: usize,
    /// Where each row ends.
    ends: Vec<u64>,
    indices: Vec<u32>,
    values: Vec<f32>,
}

impl Lists {
    /// No rows, of indices below `columns`.
    pub fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// What indices are below.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The same rows among more columns.
    pub(super) fn with_columns(self, columns: usize) -> Self {
        debug_assert!(columns >= self.columns, "all indices are below");
        Self { columns, ..self }
    }

    /// The same rows, their indices less by `first`, which none is below.
    pub(super) fn shifted(mut self, first: u32) -> Self {
        self.indices.iter_mut().for_each(|index| *index -= first);
        // There may be no index at all.
        self.columns = self.columns.saturating_sub(first as usize);
        self
    }

    /// The same rows among as few columns as there may be.
    pub(super) fn narrowed(mut self) -> Self {
        self.columns = self.indices.iter().max().map_or(0, |&most| most as usize + 1);
        self
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Entries of all rows.
    pub fn entries(&self) -> usize {
        self.indices.len()
    }

    /// The indices of a row.
    pub fn row(&self, row: usize) -> &[u32] {
        &self.indices[self.range(row)]
    }

    /// The values of a row; none where lists have none.
    pub fn values(&self, row: usize) -> &[f32] {
        self.values.get(self.range(row)).unwrap_or_default()
    }

    fn range(&self, row: usize) -> std::ops::Range<usize> {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        start as usize..self.ends[row] as usize
    }

    /// Adds a row. Values are as many as indices, or none, as in the rows before.
    pub fn push(&mut self, indices: &[u32], values: &[f32]) {
        debug_assert!(
            indices.is_sorted_by(|a, b| a < b) && indices.last().is_none_or(|&i| (i as usize) < self.columns)
        );
        self.indices.extend_from_slice(indices);
        self.values.extend_from_slice(values);
        self.ends.push(self.indices.len() as u64);
    }

    /// Adds a row of others.
    pub(super) fn push_of(&mut self, others: &Self, row: usize) {
        self.push(others.row(row), others.values(row));
    }

    pub(super) fn clear(&mut self) {
        self.ends.clear();
        self.indices.clear();
        self.values.clear();
    }

    /// Some rows.
    pub fn select(&self, rows: impl IntoIterator<Item = usize>) -> Self {
        let mut chosen = Self::new(self.columns);
        rows.into_iter().for_each(|row| chosen.push_of(self, row));
        chosen
    }

    fn pattern(&self) -> Arc<CsrPattern> {
        let offsets = [0].into_iter().chain(self.ends.iter().map(|&end| end as u32)).collect();
        let pattern = CsrPattern::new(self.len(), self.columns, offsets, self.indices.clone());
        Arc::new(pattern.expect("rows are sorted, and a batch is no larger than 32 bits allow"))
    }

    /// They as a matrix, of a batch.
    pub fn to_csr(&self) -> Arc<Csr> {
        Arc::new(Csr::new(self.pattern(), self.values.clone()).expect("there is a value for each index"))
    }

    /// Which positions they are, of a batch.
    pub fn to_pattern(&self) -> Arc<CsrPattern> {
        self.pattern()
    }

    /// Bytes that stand for all of it, in one order.
    pub(super) fn digest(&self, sum: &mut impl sha2::Digest) {
        sum.update((self.columns as u64).to_le_bytes());
        let mut add = |bytes: Vec<u8>| sum.update(bytes);
        self.ends.chunks(4096).for_each(|part| add(part.iter().flat_map(|word| word.to_le_bytes()).collect()));
        self.indices.chunks(4096).for_each(|part| add(part.iter().flat_map(|word| word.to_le_bytes()).collect()));
        self.values.chunks(4096).for_each(|part| add(part.iter().flat_map(|word| word.to_le_bytes()).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_whole() {
        let mut lists = Lists::new(9);
        lists.push(&[1, 8], &[0.5, -1.0]);
        lists.push(&[], &[]);
        lists.push(&[0], &[2.0]);
        assert_eq!((lists.len(), lists.entries(), lists.row(0), lists.values(2)), (3, 3, &[1, 8][..], &[2.0][..]));
        let chosen = lists.select([2, 0]);
        assert_eq!((chosen.row(0), chosen.row(1), chosen.columns()), (&[0][..], &[1, 8][..], 9));
        let csr = lists.to_csr();
        assert_eq!((csr.pattern().row_offsets(), csr.values()), (&[0, 2, 2, 3][..], &[0.5, -1.0, 2.0][..]));
    }
}
