//! Sparse products against the dense ones, one thread. `cargo bench -p rigl-benches`.
//!
//! `rigl bench kernel` measures the same with checked results, and with the two sides taking turns; this is the place
//! to look for a regression.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rigl_benches::{DENSITIES, Operands, SHAPES, dense_operands, sparse_operands};
use sparse_kernels::cpu::Cpu;
use sparse_kernels::random::Key;
use sparse_kernels::{DenseLinear, GrowRequest, Op, SparseLinear};

fn products(criterion: &mut Criterion) {
    let cpu = Cpu::new(1, None).expect("every machine has one thread");
    for shape in SHAPES {
        let [m, k, n] = shape;
        let name = format!("{m}x{k}x{n}");
        let mut group = criterion.benchmark_group(&name);
        let dense_operations = 2 * (m * k * n) as u64;
        group.throughput(Throughput::Elements(dense_operations));
        let (w, mut x, mut y) = dense_operands(&cpu, shape);
        let mut dw = dense_operands(&cpu, shape).0;
        group.bench_function("gemm", |b| b.iter(|| cpu.gemm(Op::NoTranspose, &w, &x, &mut y).expect("shapes fit")));
        group.bench_function("gemm_t", |b| b.iter(|| cpu.gemm(Op::Transpose, &w, &y, &mut x).expect("shapes fit")));
        group.bench_function("gemm_weight_grad", |b| {
            b.iter(|| cpu.gemm_weight_grad(&y, &x, &mut dw, false).expect("shapes fit"))
        });
        for density in DENSITIES {
            let Operands { mut weight, mut x, mut y, mut gradient } = sparse_operands(&cpu, shape, density);
            let pattern = cpu.pattern(&weight.plan).clone();
            group.throughput(Throughput::Elements(2 * (pattern.nnz() * n) as u64));
            group.bench_function(format!("spmm/{density}"), |b| {
                b.iter(|| cpu.spmm(Op::NoTranspose, &weight, &x, &mut y).expect("shapes fit"))
            });
            group.bench_function(format!("sddmm/{density}"), |b| {
                b.iter(|| cpu.sddmm(&weight.plan, &y, &x, &mut gradient, false).expect("shapes fit"))
            });
            group.throughput(Throughput::Elements(dense_operations));
            let count = 3 * pattern.nnz() / 10;
            let request = GrowRequest { exclude: &pattern, count, ties: Key::new(0) };
            group.bench_function(format!("grow/{density}"), |b| {
                b.iter(|| cpu.grow(&request, &[(&y, &x)]).expect("shapes fit"))
            });
            group.throughput(Throughput::Elements(2 * (pattern.nnz() * n) as u64));
            // As a training step pays it: values have changed since the last product.
            group.bench_function(format!("spmm_t/{density}"), |b| {
                b.iter(|| {
                    weight.refresh(&cpu).expect("one value per entry");
                    cpu.spmm(Op::Transpose, &weight, &y, &mut x).expect("shapes fit");
                })
            });
        }
        group.finish();
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
