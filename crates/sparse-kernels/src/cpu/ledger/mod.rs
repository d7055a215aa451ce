//! What a computation on a CPU would allocate, without the computation.

mod operations;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Cpu, too_long};
use crate::backend::check::{check_range, expect_f32};
use crate::error::expect_equal;
use crate::{BackendError, Precision, Storage};

/// A [`Cpu`] that computes nothing and keeps account of memory: its buffers have a length and a precision, and no numbers. What
/// trains on a [`Cpu`] can train on it, and asks for the same buffers in the same order.
///
/// Plans are those of the [`Cpu`], and take the memory that they take. Of what kernels hold for the length of a call, copies in f32 of
/// operands in 16 bits are counted, the sums of convolutions' weight gradients and one thread's windows for them; not what fits the caches.
///
/// ```
/// use sparse_kernels::cpu::Ledger;
/// use sparse_kernels::{Precision, Storage};
/// let ledger = Ledger::new()?;
/// let a = ledger.zeros(1 << 40)?;
/// drop(ledger.zeros_in(Precision::Bf16, 1000)?);
/// assert_eq!((ledger.held_bytes(), ledger.peak_bytes()), (1 << 42, (1 << 42) + 2000));
/// # drop(a);
/// # Ok::<(), sparse_kernels::BackendError>(())
/// ```
#[derive(Debug)]
pub struct Ledger {
    cpu: Cpu,
    account: Arc<Account>,
    /// Bytes of the buffers that wait to be lent again: as on a CPU, each as large as it ever was.
    free: Mutex<Vec<Entry>>,
    /// The two windows in which a thread widens rows of images in 16 bits, each as large as any ever was.
    windows: Mutex<Entry>,
}

/// What is held, and was at most.
#[derive(Debug, Default)]
struct Account {
    held: AtomicUsize,
    peak: AtomicUsize,
}

impl Account {
    fn add(&self, bytes: usize) {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        self.peak.fetch_max(held, Ordering::Relaxed);
    }
}

/// Memory in an account, until it is dropped.
#[derive(Debug)]
struct Entry {
    account: Arc<Account>,
    bytes: usize,
}

impl Entry {
    fn new(account: &Arc<Account>, bytes: usize) -> Self {
        account.add(bytes);
        Self { account: account.clone(), bytes }
    }

    fn grow_to(&mut self, bytes: usize) {
        self.account.add(bytes.saturating_sub(self.bytes));
        self.bytes = self.bytes.max(bytes);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.account.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A buffer of a [`Ledger`].
#[derive(Debug)]
pub struct Entered {
    len: usize,
    precision: Precision,
    entry: Entry,
}

/// Indices of a [`Ledger`].
#[derive(Debug)]
pub struct EnteredIndices {
    len: usize,
    _entry: Entry,
}

impl Ledger {
    /// An empty account.
    ///
    /// # Errors
    /// None on a machine on which a [`Cpu`] can be had.
    pub fn new() -> Result<Self, BackendError> {
        let account = Arc::default();
        let windows = Mutex::new(Entry::new(&account, 0));
        Ok(Self { cpu: Cpu::new(1, None)?, account, free: Mutex::default(), windows })
    }

    /// Two windows of so many floats, which stay.
    fn hold_windows(&self, len: usize) {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).grow_to(2 * len * size_of::<f32>());
    }

    /// The CPU whose plans these are.
    pub fn cpu(&self) -> &Cpu {
        &self.cpu
    }

    /// Bytes of the buffers that are there.
    pub fn held_bytes(&self) -> usize {
        self.account.held.load(Ordering::Relaxed)
    }

    /// The most bytes that buffers took at a time.
    pub fn peak_bytes(&self) -> usize {
        self.account.peak.load(Ordering::Relaxed)
    }

    fn entered(&self, precision: Precision, len: usize, entry: Option<Entry>) -> Entered {
        let bytes = precision.bytes().saturating_mul(len);
        let mut entry = entry.unwrap_or_else(|| Entry::new(&self.account, 0));
        entry.grow_to(bytes);
        Entered { len, precision, entry }
    }
}

impl Storage for Ledger {
    type Buffer = Entered;
    type Indices = EnteredIndices;

    fn zeros(&self, len: usize) -> Result<Entered, BackendError> {
        self.zeros_in(Precision::F32, len)
    }

    fn zeros_in(&self, precision: Precision, len: usize) -> Result<Entered, BackendError> {
        Ok(self.entered(precision, len, None))
    }

    fn precision(&self, buffer: &Entered) -> Precision {
        buffer.precision
    }

    fn convert(&self, from: &Entered, to: &mut Entered) -> Result<(), BackendError> {
        Ok(expect_equal("convert", "length", to.len, from.len)?)
    }

    fn lend(&self, len: usize) -> Result<Entered, BackendError> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(self.entered(Precision::F32, len, free))
    }

    fn give_back(&self, buffer: Entered) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer.entry);
    }

    fn len(&self, buffer: &Entered) -> usize {
        buffer.len
    }

    fn upload(&self, host: &[f32], to: &mut Entered) -> Result<(), BackendError> {
        if host.len() > to.len { Err(too_long("upload", to.len, host.len())) } else { Ok(()) }
    }

    /// Zeros.
    fn download(&self, from: &Entered, host: &mut [f32]) -> Result<(), BackendError> {
        if host.len() > from.len {
            return Err(too_long("download", from.len, host.len()));
        }
        host.fill(0.0);
        Ok(())
    }

    fn index_zeros(&self, len: usize) -> Result<EnteredIndices, BackendError> {
        Ok(EnteredIndices { len, _entry: Entry::new(&self.account, len.saturating_mul(size_of::<u32>())) })
    }

    fn index_len(&self, indices: &EnteredIndices) -> usize {
        indices.len
    }

    fn upload_indices(&self, host: &[u32], to: &mut EnteredIndices) -> Result<(), BackendError> {
        if host.len() > to.len { Err(too_long("upload_indices", to.len, host.len())) } else { Ok(()) }
    }

    fn fill(&self, _: f32, _: &mut Entered) -> Result<(), BackendError> {
        Ok(())
    }

    fn copy(&self, from: &Entered, to: &mut Entered) -> Result<(), BackendError> {
        expect_equal("copy", "length", to.len, from.len)?;
        Ok(expect_equal("copy", "bytes of a number", to.precision.bytes(), from.precision.bytes())?)
    }

    fn copy_range(
        &self,
        from: &Entered,
        from_start: usize,
        to: &mut Entered,
        to_start: usize,
        len: usize,
    ) -> Result<(), BackendError> {
        check_range(self, from, from_start, to, to_start, len)
    }

    fn add(&self, from: &Entered, to: &mut Entered) -> Result<(), BackendError> {
        expect_equal("add", "length", to.len, from.len)?;
        Ok(expect_f32("add", [from.precision, to.precision])?)
    }

    fn gather(&self, from: &Entered, map: &[u32], to: &mut Entered) -> Result<(), BackendError> {
        expect_equal("gather", "length of the map", to.len, map.len())?;
        Ok(expect_f32("gather", [from.precision, to.precision])?)
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_again_is_counted_once() {
        let ledger = Ledger::new().unwrap();
        for len in [10, 30, 20] {
            let lent = ledger.lend(len).unwrap();
            ledger.give_back(lent);
        }
        assert_eq!((ledger.held_bytes(), ledger.peak_bytes()), (120, 120));
        let two = [ledger.lend(5).unwrap(), ledger.lend(5).unwrap()];
        assert_eq!(ledger.held_bytes(), 140);
        two.into_iter().for_each(|lent| ledger.give_back(lent));
        drop(ledger.index_zeros(3).unwrap());
        assert_eq!((ledger.held_bytes(), ledger.peak_bytes()), (140, 152));
    }
}
