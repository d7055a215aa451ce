//! An allocator that counts: what a piece of code holds at most, and its largest single request. Included by the
//! programs that measure; it counts for the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The allocator.
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);
static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(size: usize) {
    let live = LIVE.fetch_add(size, Relaxed) + size;
    PEAK.fetch_max(live, Relaxed);
    LARGEST.fetch_max(size, Relaxed);
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches atomics only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_sub(layout.size(), Relaxed);
        count(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What code has asked of the allocator.
#[allow(dead_code, reason = "not every program that includes this file asks for both")]
#[derive(Debug, Clone, Copy)]
pub struct Allocated {
    /// Most bytes held at a time, beyond those held before.
    pub peak_bytes: usize,
    /// The largest single request.
    pub largest_bytes: usize,
}

/// Bytes held now.
#[allow(dead_code, reason = "not every program that includes this file asks for it")]
pub fn live_bytes() -> usize {
    LIVE.load(Relaxed)
}

/// Runs `work` and counts. Nothing else may run meanwhile.
pub fn allocated<T>(work: impl FnOnce() -> T) -> (T, Allocated) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    LARGEST.store(0, Relaxed);
    let result = work();
    let peak_bytes = PEAK.load(Relaxed) - before;
    (result, Allocated { peak_bytes, largest_bytes: LARGEST.load(Relaxed) })
}
