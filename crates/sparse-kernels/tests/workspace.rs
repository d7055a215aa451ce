//! Products with row-major operands allocate nothing once their workspace is large enough.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use sparse_kernels::cpu::{Cpu, Workspace};
use sparse_kernels::random::Key;
use sparse_kernels::{CsrPattern, MatrixMut, MatrixRef, Op, PlanOptions, SparseMatrix, Storage};

struct Counting;

thread_local! {
    // Of each thread, as the test harness has one of its own.
    static REQUESTS: Cell<usize> = const { Cell::new(0) };
}

fn count() {
    REQUESTS.set(REQUESTS.get() + 1);
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes to the system's allocator unchanged; counting touches a number of the thread only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[test]
fn a_second_call_allocates_nothing() {
    let (m, k) = (300, 200);
    let key = Key::new(1);
    let all = (0..m as u32).flat_map(|r| (0..k as u32).map(move |c| (r, c)));
    let positions = all.filter(|&(r, c)| key.uniform(u64::from(r * k as u32 + c)) < 0.2).collect();
    let pattern = Arc::new(CsrPattern::from_positions(m, k, positions).unwrap());
    let cpu = Cpu::new(1, None).unwrap();
    let options = PlanOptions { transpose: true, ..PlanOptions::default() };
    let w = SparseMatrix::new(&cpu, pattern.clone(), &vec![1.0; pattern.nnz()], options).unwrap();
    let mut gradient = cpu.zeros(pattern.nnz()).unwrap();
    let dense = cpu.zeros(m * k).unwrap();
    let mut workspace = Workspace::default();
    // The largest first: smaller calls fit into what it left.
    for lanes in [70, 33, 9, 8, 5, 3, 2, 1] {
        // Strided, so that every operand is converted.
        let leading = lanes + 3;
        let (x, mut y) = (vec![1.0f32; k * leading], vec![0.0f32; m * leading]);
        let (dy, mut dx) = (vec![1.0f32; m * leading], vec![0.0f32; k * leading]);
        let mut calls = || {
            let (x, dy) =
                (MatrixRef::new(&x, k, lanes, leading).unwrap(), MatrixRef::new(&dy, m, lanes, leading).unwrap());
            let y = MatrixMut::new(&mut y, m, lanes, leading).unwrap();
            cpu.spmm_row_major(Op::NoTranspose, &w, x, y, &mut workspace).unwrap();
            let dx_view = MatrixMut::new(&mut dx, k, lanes, leading).unwrap();
            cpu.spmm_row_major(Op::Transpose, &w, dy, dx_view, &mut workspace).unwrap();
            cpu.sddmm_row_major(&w.plan, dy, x, &mut gradient, true, &mut workspace).unwrap();
            if lanes <= 8 {
                // With more lanes crate `gemm` may allocate.
                let dx_view = MatrixMut::new(&mut dx, k, lanes, leading).unwrap();
                cpu.gemm_row_major(Op::Transpose, &dense, dy, dx_view, &mut workspace).unwrap();
            }
        };
        if lanes == 70 {
            calls();
        }
        let before = REQUESTS.get();
        calls();
        let requests = REQUESTS.get() - before;
        assert_eq!(requests, 0, "{lanes} lanes");
    }
}
