//! The CPU backend: SIMD kernels behind run-time dispatch, rayon over fixed grids of work.

mod ahead;
mod bsr;
mod buffer;
#[cfg(feature = "conv")]
mod conv;
mod convert;
mod few_lanes;
mod gemm;
mod gemv;
mod grow;
mod isa;
#[cfg(feature = "nn")]
mod ledger;
mod limits;
mod lockstep;
#[cfg(feature = "nn")]
mod nn;
mod plan;
#[cfg(all(test, feature = "nn"))]
mod precision_tests;
mod row_major;
mod samples;
mod sddmm;
mod sparse_linear;
mod spmm;
#[cfg(test)]
mod tests;

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use rayon::prelude::*;

pub use bsr::CpuBlockPlan;
pub use buffer::{Buffer, Numbers, NumbersMut};
#[cfg(feature = "conv")]
pub use conv::{CpuBlockConvPlan, CpuConvPlan};
pub use isa::IsaName;
use isa::Number;
#[cfg(feature = "nn")]
pub use ledger::{Entered, EnteredIndices, Ledger};
pub use limits::Limits;
pub use plan::CpuPlan;
pub use row_major::Workspace;

use crate::backend::check::{check_range, expect_f32};
use crate::error::expect_equal;
use crate::profile::KernelTime;
use crate::{BackendError, Element, Precision, Storage};

/// A handle on the CPU: an instruction set and a number of threads.
///
/// Operations called from inside [`Cpu::install`] fork into its threads at little cost; called from outside they
/// enter the pool each time, which takes some 20 µs.
///
/// ```
/// use sparse_kernels::cpu::Cpu;
/// let cpu = Cpu::new(2, None)?;
/// println!("{} threads of {}", cpu.threads(), cpu.isa());
/// # Ok::<(), sparse_kernels::BackendError>(())
/// ```
#[derive(Debug)]
pub struct Cpu {
    isa: IsaName,
    threads: usize,
    l1_bytes: usize,
    l2_bytes: usize,
    /// `None` for one thread: everything then runs on the caller's.
    pool: Option<rayon::ThreadPool>,
    /// Memory that operations borrow for a call.
    scratch: Mutex<Vec<Buffer>>,
    /// Memory that tasks borrow, whose buffers never shrink.
    #[cfg(feature = "conv")]
    tiles: Mutex<Vec<Buffer>>,
    /// Times of operations, while they are measured.
    profile: Mutex<Option<Vec<KernelTime>>>,
    is_profiled: AtomicBool,
}

/// Below this many operations (or elements passed over, times eight) a call stays on one thread: about 20 µs of work,
/// which is what waking another thread costs.
const FORK_OPERATIONS: u64 = 1 << 20;

/// Elements that one task of an element-wise operation passes over; a fixed grid, so that nothing depends on the
/// number of threads.
pub(crate) const ELEMENTS_PER_TASK: usize = 1 << 14;

impl Cpu {
    /// A CPU backend with `threads` threads and the instruction set asked for (`None`: the fastest there is).
    ///
    /// # Errors
    /// If this machine lacks the instruction set, `threads` is 0, or the threads cannot be started.
    pub fn new(threads: usize, isa: Option<IsaName>) -> Result<Self, BackendError> {
        let isa = isa.unwrap_or_else(IsaName::best);
        if !isa.is_available() {
            let available: Vec<_> = IsaName::ALL.into_iter().filter(|i| i.is_available()).map(IsaName::name).collect();
            return Err(BackendError::IsaUnavailable { name: isa.name(), available: available.join(", ") });
        }
        if threads == 0 {
            return Err(BackendError::Threads { threads, reason: "at least one is needed".into() });
        }
        let pool = if threads == 1 {
            None
        } else {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            Some(pool.map_err(|e| BackendError::Threads { threads, reason: e.to_string() })?)
        };
        Ok(Self {
            isa,
            threads,
            l1_bytes: data_cache(1, 16 << 10..=256 << 10).unwrap_or(32 << 10),
            l2_bytes: data_cache(2, 128 << 10..=16 << 20).unwrap_or(512 << 10),
            pool,
            scratch: Mutex::default(),
            #[cfg(feature = "conv")]
            tiles: Mutex::default(),
            profile: Mutex::default(),
            is_profiled: AtomicBool::new(false),
        })
    }

    /// The instruction set in use.
    pub fn isa(&self) -> IsaName {
        self.isa
    }

    /// The number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Bytes of the L1 data cache, which plans go by; 32 KiB where the processor does not tell.
    pub fn l1_bytes(&self) -> usize {
        self.l1_bytes
    }

    /// One that takes its caches for as large as this, in bytes.
    #[cfg(test)]
    pub(crate) fn with_caches(threads: usize, isa: IsaName, [l1_bytes, l2_bytes]: [usize; 2]) -> Self {
        Self { l1_bytes, l2_bytes, ..Self::new(threads, Some(isa)).expect("the instruction set is there") }
    }

    /// Bytes of the L2 cache; 512 KiB where the processor does not tell.
    pub fn l2_bytes(&self) -> usize {
        self.l2_bytes
    }

    /// Whether operands of so many floats lie far beyond L2, so that fetching them ahead pays.
    fn is_far(&self, floats: usize) -> bool {
        floats * size_of::<f32>() >= 8 * self.l2_bytes
    }

    /// Measures each operation from here on, see [`Cpu::take_profile`].
    pub fn start_profile(&self) {
        *self.profile.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        self.is_profiled.store(true, Ordering::Relaxed);
    }

    /// Time, bytes and calls of each operation since the last call, or [`Cpu::start_profile`].
    pub fn take_profile(&self) -> Vec<KernelTime> {
        let mut profile = self.profile.lock().unwrap_or_else(PoisonError::into_inner);
        profile.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Measures an operation until the end of its scope, if operations are measured.
    fn timed(&self, name: &'static str, words: usize, operations: usize) -> Option<Timed<'_>> {
        let is_profiled = self.is_profiled.load(Ordering::Relaxed);
        is_profiled.then(|| Timed { cpu: self, name, words, operations, start: Instant::now() })
    }

    /// A buffer of `len` elements that hold anything, to be given back: no call of a training step allocates what an earlier
    /// one had.
    pub(crate) fn scratch(&self, len: usize) -> Buffer {
        let mut buffer = self.scratch.lock().ok().and_then(|mut free| free.pop()).unwrap_or_default();
        buffer.resize(len);
        buffer
    }

    /// Returns what [`Cpu::scratch`] gave.
    pub(crate) fn give_back(&self, buffer: Buffer) {
        if let Ok(mut free) = self.scratch.lock() {
            free.push(buffer);
        }
    }

    /// A buffer of at least `len` elements that hold anything, for a task. To change a length costs time, and tasks are many.
    #[cfg(feature = "conv")]
    pub(crate) fn tile(&self, len: usize) -> Buffer {
        let mut buffer = self.tiles.lock().ok().and_then(|mut free| free.pop()).unwrap_or_default();
        if buffer.len() < len {
            buffer.resize(len);
        }
        buffer
    }

    /// Returns what [`Cpu::tile`] gave.
    #[cfg(feature = "conv")]
    pub(crate) fn give_tile(&self, buffer: Buffer) {
        if !buffer.is_empty()
            && let Ok(mut free) = self.tiles.lock()
        {
            free.push(buffer);
        }
    }

    /// Runs `f` inside the thread pool, so that the operations it calls fork cheaply: call it once a training step.
    pub fn install<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(f),
            None => f(),
        }
    }

    /// Calls `task(0)` to `task(tasks - 1)`, in parallel if `operations` (of all tasks together) make it worth while.
    pub(crate) fn for_each_task(&self, tasks: usize, operations: u64, task: impl Fn(usize) + Sync + Send) {
        self.run_tasks(tasks, operations, &task);
    }

    /// Compiled once: rayon's part of a loop is more code than most tasks, and a call through a pointer costs a task nothing.
    fn run_tasks(&self, tasks: usize, operations: u64, task: &(dyn Fn(usize) + Sync)) {
        match &self.pool {
            Some(pool) if tasks > 1 && operations >= FORK_OPERATIONS => {
                let run = || (0..tasks).into_par_iter().with_max_len(1).for_each(task);
                if pool.current_thread_index().is_some() { run() } else { pool.install(run) }
            }
            _ => (0..tasks).for_each(task),
        }
    }

    /// Calls both, in parallel if `operations` (of both together) make it worth while.
    pub(crate) fn join<A: Send, B: Send>(
        &self,
        operations: u64,
        a: impl FnOnce() -> A + Send,
        b: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        match &self.pool {
            Some(pool) if operations >= FORK_OPERATIONS => pool.install(|| rayon::join(a, b)),
            _ => (a(), b()),
        }
    }

    /// Calls `task(first_index, chunk)` for fixed-size chunks of `data`.
    pub(crate) fn for_each_chunk(
        &self,
        data: &mut [f32],
        chunk: usize,
        operations: u64,
        task: impl Fn(usize, &mut [f32]) + Sync + Send,
    ) {
        self.run_chunks(data, chunk, operations, &task);
    }

    /// Compiled once, as [`Cpu::run_tasks`].
    fn run_chunks(&self, data: &mut [f32], chunk: usize, operations: u64, task: &(dyn Fn(usize, &mut [f32]) + Sync)) {
        match &self.pool {
            Some(pool) if data.len() > chunk && operations >= FORK_OPERATIONS => {
                let mut run = || data.par_chunks_mut(chunk).enumerate().for_each(|(i, part)| task(i * chunk, part));
                if pool.current_thread_index().is_some() { run() } else { pool.install(run) }
            }
            _ => data.chunks_mut(chunk).enumerate().for_each(|(i, part)| task(i * chunk, part)),
        }
    }
}

/// An operation that is measured.
struct Timed<'a> {
    cpu: &'a Cpu,
    name: &'static str,
    words: usize,
    operations: usize,
    start: Instant,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let nanoseconds = self.start.elapsed().as_nanos() as f64;
        let mut profile = self.cpu.profile.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(times) = profile.as_mut() else { return };
        let at = times.iter().position(|time| time.name == self.name).unwrap_or_else(|| {
            times.push(KernelTime { name: self.name, ..KernelTime::default() });
            times.len() - 1
        });
        times[at].launches += 1;
        times[at].nanoseconds += nanoseconds;
        times[at].bytes += 4 * self.words as u64;
        times[at].operations += self.operations as u64;
    }
}

/// What the processor says of its data cache of a level, within reason: virtual ones say anything.
fn data_cache(level: u8, reason: RangeInclusive<usize>) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    {
        use raw_cpuid::{CacheType, CpuId};
        let mut caches = CpuId::new().get_cache_parameters()?;
        let holds_data = |kind| matches!(kind, CacheType::Data | CacheType::Unified);
        let cache = caches.find(|c| c.level() == level && holds_data(c.cache_type()))?;
        let lines = cache.associativity() * cache.physical_line_partitions() * cache.sets();
        Some(lines * cache.coherency_line_size()).filter(|bytes| reason.contains(bytes))
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = (level, reason);
        None
    }
}

/// A pointer that tasks share to write disjoint parts of one output.
pub(crate) struct Shared<T>(*mut T);

/// Of f32.
pub(crate) type SharedMut = Shared<f32>;

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}

// SAFETY: only a pointer; whoever dereferences it promises that tasks write disjoint elements.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as for Send.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(data: &mut [T]) -> Self {
        Self(data.as_mut_ptr())
    }
    /// For tasks that only read.
    pub(crate) fn reading(data: &[T]) -> Self {
        Self(data.as_ptr().cast_mut())
    }
    /// The same from element `by` on.
    #[cfg(feature = "conv")]
    pub(crate) fn offset(self, by: usize) -> Self {
        Self(self.0.wrapping_add(by))
    }
    // A method, so that closures capture the whole wrapper rather than the bare pointer inside.
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

impl Storage for Cpu {
    type Buffer = Buffer;
    type Indices = Vec<u32>;

    fn zeros(&self, len: usize) -> Result<Buffer, BackendError> {
        self.zeros_in(Precision::F32, len)
    }

    fn zeros_in(&self, precision: Precision, len: usize) -> Result<Buffer, BackendError> {
        Buffer::try_zeros(precision, len).ok_or(BackendError::Memory { bytes: len.saturating_mul(precision.bytes()) })
    }

    fn precision(&self, buffer: &Buffer) -> Precision {
        buffer.precision()
    }

    fn convert(&self, from: &Buffer, to: &mut Buffer) -> Result<(), BackendError> {
        expect_equal("convert", "length", to.len(), from.len())?;
        convert::convert(self, from, to);
        Ok(())
    }

    fn lend(&self, len: usize) -> Result<Buffer, BackendError> {
        Ok(self.scratch(len))
    }

    fn give_back(&self, buffer: Buffer) {
        Cpu::give_back(self, buffer);
    }

    fn len(&self, buffer: &Buffer) -> usize {
        buffer.len()
    }

    fn upload(&self, host: &[f32], to: &mut Buffer) -> Result<(), BackendError> {
        if host.len() > to.len() {
            return Err(too_long("upload", to.len(), host.len()));
        }
        match to.numbers_mut() {
            NumbersMut::F32(to) => Element::from_f32(host, &mut to[..host.len()]),
            NumbersMut::Bf16(to) => Element::from_f32(host, &mut to[..host.len()]),
        }
        Ok(())
    }

    fn download(&self, from: &Buffer, host: &mut [f32]) -> Result<(), BackendError> {
        if host.len() > from.len() {
            return Err(too_long("download", from.len(), host.len()));
        }
        match from.numbers() {
            Numbers::F32(from) => Element::to_f32(&from[..host.len()], host),
            Numbers::Bf16(from) => Element::to_f32(&from[..host.len()], host),
        }
        Ok(())
    }

    fn index_zeros(&self, len: usize) -> Result<Vec<u32>, BackendError> {
        Ok(vec![0; len])
    }

    fn index_len(&self, indices: &Vec<u32>) -> usize {
        indices.len()
    }

    fn upload_indices(&self, host: &[u32], to: &mut Vec<u32>) -> Result<(), BackendError> {
        let room = to.len();
        let part = to.get_mut(..host.len()).ok_or_else(|| too_long("upload_indices", room, host.len()))?;
        part.copy_from_slice(host);
        Ok(())
    }

    fn fill(&self, value: f32, to: &mut Buffer) -> Result<(), BackendError> {
        let _timed = self.timed("fill", to.len(), 0);
        match to.numbers_mut() {
            NumbersMut::F32(to) => to.fill(value),
            NumbersMut::Bf16(to) => to.fill(Number::round(value)),
        }
        Ok(())
    }

    fn copy(&self, from: &Buffer, to: &mut Buffer) -> Result<(), BackendError> {
        expect_equal("copy", "length", to.len(), from.len())?;
        expect_equal("copy", "bytes of a number", to.precision().bytes(), from.precision().bytes())?;
        self.convert(from, to)
    }

    fn copy_range(
        &self,
        from: &Buffer,
        from_start: usize,
        to: &mut Buffer,
        to_start: usize,
        len: usize,
    ) -> Result<(), BackendError> {
        let _timed = self.timed("copy_range", 2 * len, 0);
        check_range(self, from, from_start, to, to_start, len)?;
        let from = &from[from_start..][..len];
        self.for_each_chunk(&mut to[to_start..][..len], ELEMENTS_PER_TASK, len as u64, |start, part| {
            part.copy_from_slice(&from[start..][..part.len()]);
        });
        Ok(())
    }

    fn add(&self, from: &Buffer, to: &mut Buffer) -> Result<(), BackendError> {
        let _timed = self.timed("add", 3 * to.len(), 0);
        expect_equal("add", "length", to.len(), from.len())?;
        expect_f32("add", [from.precision(), to.precision()])?;
        let operations = 8 * to.len() as u64;
        self.for_each_chunk(to, ELEMENTS_PER_TASK, operations, |start, part| {
            part.iter_mut().zip(&from[start..]).for_each(|(to, from)| *to += from);
        });
        Ok(())
    }

    fn gather(&self, from: &Buffer, map: &[u32], to: &mut Buffer) -> Result<(), BackendError> {
        let _timed = self.timed("gather", 3 * to.len(), 0);
        expect_equal("gather", "length of the map", to.len(), map.len())?;
        expect_f32("gather", [from.precision(), to.precision()])?;
        // `u32::MAX`, for nothing, becomes 0 here.
        let needed = map.iter().fold(0, |most, i| i.wrapping_add(1).max(most)) as usize;
        if needed > from.len() {
            return Err(too_long("gather", from.len(), needed));
        }
        let Some(last) = from.len().checked_sub(1) else {
            to.fill(0.0);
            return Ok(());
        };
        let operations = 8 * to.len() as u64;
        self.for_each_chunk(to, ELEMENTS_PER_TASK, operations, |start, part| {
            for (to, &index) in part.iter_mut().zip(&map[start..]) {
                // Newcomers lie scattered, and a branch on them would often go wrong: their bits are masked away.
                let there = u32::from(index != u32::MAX).wrapping_neg();
                *to = f32::from_bits(from[(index as usize).min(last)].to_bits() & there);
            }
        });
        Ok(())
    }

    fn synchronize(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

fn too_long(op: &'static str, room: usize, got: usize) -> BackendError {
    crate::ShapeError::Mismatch { op, what: "length", expected: room, got }.into()
}

#[cfg(test)]
mod backend_tests {
    use super::*;

    #[test]
    fn operations_are_timed_by_name() {
        let cpu = Cpu::new(1, None).unwrap();
        let (a, mut b) = (cpu.zeros(1000).unwrap(), cpu.zeros(1000).unwrap());
        cpu.add(&a, &mut b).unwrap();
        assert!(cpu.take_profile().is_empty());
        cpu.start_profile();
        (0..3).for_each(|_| cpu.add(&a, &mut b).unwrap());
        let profile = cpu.take_profile();
        assert_eq!(profile.len(), 1);
        assert_eq!((profile[0].name, profile[0].launches, profile[0].bytes), ("add", 3, 36_000));
        assert!(profile[0].nanoseconds > 0.0 && cpu.take_profile().is_empty());
    }

    #[test]
    fn impossible_backends_are_refused() {
        assert!(matches!(Cpu::new(0, None), Err(BackendError::Threads { threads: 0, .. })));
        assert_eq!(Cpu::new(1, Some(IsaName::Scalar)).unwrap().isa(), IsaName::Scalar);
    }

    #[test]
    fn gather_moves_values_and_zeroes_newcomers() {
        let cpu = Cpu::new(1, None).unwrap();
        let (mut from, mut to) = (Buffer::zeros(3), Buffer::zeros(4));
        cpu.upload(&[1.0, 2.0, 3.0], &mut from).unwrap();
        to.fill(f32::NAN);
        cpu.gather(&from, &[2, u32::MAX, 0, 1], &mut to).unwrap();
        assert_eq!(&to[..], [3.0, 0.0, 1.0, 2.0]);
        assert!(cpu.gather(&from, &[3, 0, 0, 0], &mut to).is_err());
        assert!(cpu.gather(&from, &[0], &mut to).is_err());
        assert!(cpu.upload(&[0.0; 4], &mut from).is_err());
    }

    #[test]
    fn tasks_all_run_once_inside_and_outside_the_pool() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let cpu = Cpu::new(3, None).unwrap();
        let counts: Vec<AtomicUsize> = (0..50).map(|_| AtomicUsize::new(0)).collect();
        let count = |i: usize| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        };
        cpu.for_each_task(50, u64::MAX, count);
        cpu.install(|| cpu.for_each_task(50, u64::MAX, count));
        cpu.for_each_task(50, 0, count);
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 3));
    }
}
