//! Checksums of patterns, by which ranks see whether they have the same.

use std::sync::{Arc, Weak};

use rigl::Layers;
use sparse_kernels::CsrPattern;

/// Checksums of the patterns of sparse layers. That of a pattern is found once.
#[derive(Debug, Default)]
pub(super) struct PatternSums {
    /// Whose sums they are. A weak reference keeps no pattern, but its address from being used again.
    of: Vec<Weak<CsrPattern>>,
    sums: Vec<u32>,
}

impl PatternSums {
    /// The checksum of each layer.
    pub fn of(&mut self, layers: &impl Layers) -> &[u32] {
        let numbers = layers.numbers();
        self.of.resize_with(numbers.len(), Weak::new);
        self.sums.resize(numbers.len(), 0);
        for ((of, sum), &layer) in self.of.iter_mut().zip(&mut self.sums).zip(numbers) {
            let pattern = layers.pattern(layer);
            if !std::ptr::eq(of.as_ptr(), Arc::as_ptr(pattern)) {
                (*of, *sum) = (Arc::downgrade(pattern), checksum(pattern));
            }
        }
        &self.sums
    }
}

fn checksum(pattern: &CsrPattern) -> u32 {
    let chunks = [pattern.row_offsets(), pattern.col_indices()].into_iter().flat_map(|words| words.chunks(1 << 10));
    chunks.fold(0, |sum, words| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        crc32c::crc32c_append(sum, &bytes)
    })
}
