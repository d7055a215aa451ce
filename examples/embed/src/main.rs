//! A sparse matrix times two samples, row-major in and out.
//!
//! Run `cargo run --release` in this folder, or add `--manifest-path examples/embed/Cargo.toml` from the repository's root.

use std::sync::Arc;

use sparse_kernels::cpu::{Cpu, Workspace};
use sparse_kernels::{CsrPattern, MatrixMut, MatrixRef, Op, PlanOptions, SparseMatrix};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cpu = Cpu::new(1, None)?;
    // [[1 . 2]
    //  [. 3 .]]: row offsets and column indices as in SciPy's csr_matrix.
    let pattern = Arc::new(CsrPattern::new(2, 3, vec![0, 2, 3], vec![0, 2, 1])?);
    let w = SparseMatrix::new(&cpu, pattern, &[1.0, 2.0, 3.0], PlanOptions::default())?;
    let (x, mut y) = ([1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [0.0f32; 4]); // [feature][sample]
    let (from, to) = (MatrixRef::new(&x, 3, 2, 2)?, MatrixMut::new(&mut y, 2, 2, 2)?);
    let mut workspace = Workspace::default(); // keep it between calls and they allocate nothing
    cpu.spmm_row_major(Op::NoTranspose, &w, from, to, &mut workspace)?;
    println!("{y:?}");
    assert_eq!(y, [11.0, 14.0, 9.0, 12.0]);
    Ok(())
}
