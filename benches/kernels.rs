//! Sparse products and convolutions compared with dense ones, on one thread. `cargo bench -p rigl-benches`.
//!
//! `rigl bench kernel` measures the same, with checked results and alternating sides; use this one to look for a
//! regression.

use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rigl::topology::{kept_pattern, random_growth, rewire, select_kept};
use rigl_benches::{
    ATTENTIONS, CONVOLUTIONS, ConvOperands, DENSITIES, Operands, SHAPES, activations, block_operands, conv_operands,
    conv_weight, dense_operands, sparse_operands,
};
use sparse_kernels::cpu::{Cpu, Workspace};
use sparse_kernels::random::Key;
use sparse_kernels::{
    Attention, AttentionGrad, BlockSparseLinear, DenseConv, DenseLinear, FeatureNorm, Gelu, GrowRequest, GruSaved,
    GruStep, GruStepGrad, LstmSaved, LstmStep, LstmStepGrad, MatrixMut, MatrixRef, NormKind, Op, Recurrent,
    SequenceNeural, SparseConv, SparseLinear, SparseMatrix, Steps, Storage, StripLayout, Strips,
};

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
            let request = GrowRequest { exclude: pattern.clone(), count, ties: Key::new(0) };
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

/// Block-sparse products, blocks of 8 × 8 and 4 × 4.
fn block_products(criterion: &mut Criterion) {
    let cpu = Cpu::new(1, None).expect("every machine has one thread");
    for shape in SHAPES {
        let [m, k, n] = shape;
        for size in [8, 4] {
            let mut group = criterion.benchmark_group(format!("{m}x{k}x{n}/bsr{size}x{size}"));
            for density in DENSITIES {
                let (weight, mut x, mut y) = block_operands(&cpu, shape, [size, size], density);
                let nnz = weight.values.len();
                let mut gradient = cpu.zeros(nnz).expect("memory for the gradient");
                group.throughput(Throughput::Elements(2 * (nnz * n) as u64));
                group.bench_function(format!("spmm/{density}"), |b| {
                    b.iter(|| cpu.spmm_bsr(Op::NoTranspose, &weight, &x, &mut y).expect("shapes fit"))
                });
                group.bench_function(format!("sddmm/{density}"), |b| {
                    b.iter(|| cpu.sddmm_bsr(&weight.plan, &y, &x, &mut gradient, false).expect("shapes fit"))
                });
                group.bench_function(format!("spmm_t/{density}"), |b| {
                    b.iter(|| cpu.spmm_bsr(Op::Transpose, &weight, &y, &mut x).expect("shapes fit"))
                });
            }
            group.finish();
        }
    }
}

/// The three passes of 3 × 3 convolutions: sparse, dense, and depthwise.
fn convolutions(criterion: &mut Criterion) {
    let cpu = Cpu::new(1, None).expect("every machine has one thread");
    for sizes in CONVOLUTIONS {
        let [channels, size, samples] = sizes;
        let name = format!("{channels}x{channels}x3x{size}x{size}x{samples}");
        let mut group = criterion.benchmark_group(&name);
        let pixels = (size * size * samples) as u64;
        for (name, groups) in [("dense", 1), ("depthwise", channels)] {
            let ConvOperands { shape, weight, mut gradient, mut x, mut y } = conv_operands(&cpu, sizes, groups);
            group.throughput(Throughput::Elements(2 * weight.len() as u64 * pixels));
            group.bench_function(format!("conv_forward/{name}"), |b| {
                b.iter(|| cpu.conv_forward_dense(shape, &weight, &x, &mut y).expect("shapes fit"))
            });
            group.bench_function(format!("conv_input_grad/{name}"), |b| {
                b.iter(|| cpu.conv_input_grad_dense(shape, &weight, &y, &mut x).expect("shapes fit"))
            });
            group.bench_function(format!("conv_weight_grad/{name}"), |b| {
                b.iter(|| cpu.conv_weight_grad_dense(shape, &y, &x, &mut gradient, false).expect("shapes fit"))
            });
        }
        for density in DENSITIES {
            let mut operands = conv_operands(&cpu, sizes, 1);
            let (mut weight, mut gradient) = conv_weight(&cpu, &operands, density);
            let ConvOperands { x, y, .. } = &mut operands;
            group.throughput(Throughput::Elements(2 * weight.values.len() as u64 * pixels));
            group.bench_function(format!("conv_forward/{density}"), |b| {
                b.iter(|| cpu.conv_forward(&weight, x, y).expect("shapes fit"))
            });
            group.bench_function(format!("conv_weight_grad/{density}"), |b| {
                b.iter(|| cpu.conv_weight_grad(&weight.plan, y, x, &mut gradient, false).expect("shapes fit"))
            });
            // As a training step pays it: values have changed since the last pass.
            group.bench_function(format!("conv_input_grad/{density}"), |b| {
                b.iter(|| {
                    weight.refresh(&cpu).expect("one value per entry");
                    cpu.conv_input_grad(&weight, y, x).expect("shapes fit");
                })
            });
        }
        group.finish();
    }
}

/// What a Transformer has between its products: causal attention, counted without what causality skips, and passes over 1024
/// tokens of 640 features.
fn transformers(criterion: &mut Criterion) {
    let cpu = Cpu::new(1, None).expect("every machine has one thread");
    for [heads, head_size, length, count] in ATTENTIONS {
        let layout = StripLayout::sparse(length * count, heads * head_size);
        let [q, k, v, mut o, grad] = [(); 5].map(|()| activations(&cpu, layout));
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| activations(&cpu, layout));
        let mut lse = activations(&cpu, layout.with_features(heads));
        let attention = Attention { heads, length, rotary: None };
        let mut group = criterion.benchmark_group(format!("attention/{heads}x{head_size}x{length}x{count}"));
        let product = (layout.features() * layout.lanes() * (length + 1)) as u64;
        group.throughput(Throughput::Elements(2 * product));
        group.bench_function("forward", |b| {
            b.iter(|| cpu.attention(attention, [&q, &k, &v], &mut o, &mut lse).expect("shapes fit"))
        });
        group.throughput(Throughput::Elements(5 * product));
        group.bench_function("backward", |b| {
            b.iter(|| {
                let (o, lse, grad, dq, dk, dv) = (&o, &lse, &grad, &mut dq, &mut dk, &mut dv);
                let operands = AttentionGrad { q: &q, k: &k, v: &v, o, lse, grad, dq, dk, dv };
                cpu.attention_grad(attention, operands).expect("shapes fit");
            })
        });
        group.finish();
    }
    let (features, layout) = (640, StripLayout::sparse(1024, 640));
    let [residual, mut x, mut y, mut grad, mut sum] = [(); 5].map(|()| activations(&cpu, layout));
    let mut moments = activations(&cpu, layout.with_features(2));
    let [mut affine, mut daffine] = [(); 2].map(|()| cpu.zeros(2 * features).expect("memory for a vector"));
    affine.fill(0.5);
    let norm = FeatureNorm { kind: NormKind::Layer, epsilon: 1e-5 };
    let mut group = criterion.benchmark_group("passes/640x1024");
    let bytes = 4 * layout.len() as u64;
    group.throughput(Throughput::Bytes(4 * bytes));
    group.bench_function("add_feature_norm", |b| {
        b.iter(|| cpu.add_feature_norm(norm, &affine, &residual, &mut x, &mut y, &mut moments).expect("shapes fit"))
    });
    cpu.feature_norm(norm, &affine, &residual, &mut y, &mut moments).expect("shapes fit");
    group.bench_function("feature_norm_grad", |b| {
        b.iter(|| {
            let (grad, sum) = (&mut grad, Some(&mut sum));
            cpu.feature_norm_grad(norm.kind, &affine, &moments, &residual, grad, sum, &mut daffine, false)
                .expect("shapes fit");
        })
    });
    for kind in [Gelu::Tanh, Gelu::Exact] {
        group.throughput(Throughput::Bytes(2 * bytes));
        group.bench_function(format!("gelu/{kind:?}"), |b| {
            b.iter(|| cpu.gelu(kind, &residual, &mut y).expect("shapes fit"))
        });
        group.throughput(Throughput::Bytes(3 * bytes));
        // Of the same gradient each time, whose copy is timed too: gradients of gradients would end in subnormal numbers.
        group.bench_function(format!("gelu_grad/{kind:?}"), |b| {
            b.iter(|| {
                cpu.copy(&residual.data, &mut y.data).expect("one length");
                cpu.gelu_grad(kind, &residual, &mut y).expect("shapes fit");
            })
        });
    }
    group.finish();
}

/// Row-major products with 1, 4 and 8 lanes, sparse and dense.
fn few_lanes(criterion: &mut Criterion) {
    let cpu = Cpu::new(1, None).expect("every machine has one thread");
    let (m, k) = (4096, 4096);
    for n in [1, 4, 8] {
        let mut group = criterion.benchmark_group(format!("{m}x{k}x{n}"));
        let (dense, ..) = dense_operands(&cpu, [m, k, n]);
        let (x, mut y) = (vec![0.5f32; k * n], vec![0.0f32; m * n]);
        let mut workspace = Workspace::default();
        group.throughput(Throughput::Bytes(4 * (m * k) as u64));
        group.bench_function("gemm", |b| {
            b.iter(|| {
                let from = MatrixRef::new(&x, k, n, n).expect("sizes fit");
                let to = MatrixMut::new(&mut y, m, n, n).expect("sizes fit");
                cpu.gemm_row_major(Op::NoTranspose, &dense, from, to, &mut workspace).expect("shapes fit")
            })
        });
        for density in [0.1, 0.05] {
            let weight = sparse_operands(&cpu, [m, k, n], density).weight;
            group.throughput(Throughput::Bytes(8 * weight.values.len() as u64));
            for (name, op) in [("spmm", Op::NoTranspose), ("spmm_t", Op::Transpose)] {
                group.bench_function(format!("{name}/{density}"), |b| {
                    b.iter(|| {
                        let from = MatrixRef::new(&x, k, n, n).expect("sizes fit");
                        let to = MatrixMut::new(&mut y, m, n, n).expect("sizes fit");
                        cpu.spmm_row_major(op, &weight, from, to, &mut workspace).expect("shapes fit")
                    })
                });
            }
        }
        group.finish();
    }
}

/// A RigL update of one layer, without the growth itself, compared with ten products with 256 lanes, on one and two threads.
fn topology_update(criterion: &mut Criterion) {
    let [m, k, n, density] = [4096.0, 4096.0, 256.0, 0.1];
    for threads in [1, 2] {
        let cpu = Cpu::new(threads, None).expect("threads can be started");
        let Operands { weight, x, mut y, .. } = sparse_operands(&cpu, [m, k, n].map(|size| size as usize), density);
        let pattern = cpu.pattern(&weight.plan).clone();
        let options = cpu.plan_options(&weight.plan);
        let drop_count = 3 * pattern.nnz() / 10;
        let exclude = |values: &[f32]| {
            let kept = select_kept(values, drop_count).expect("fewer than there are");
            (kept_pattern(&pattern, &kept).expect("of this pattern"), kept)
        };
        let grown = random_growth(&exclude(&weight.values).0, drop_count, Key::new(3));
        let mut group = criterion.benchmark_group(format!("topology_update/4096x4096/{density}/{threads} threads"));
        group.sample_size(10);
        group.bench_function("update", |b| {
            b.iter(|| {
                cpu.install(|| {
                    let mut values = vec![0.0; pattern.nnz()];
                    cpu.download(&weight.values, &mut values).expect("one value per entry");
                    let (_excluded, kept) = exclude(&values);
                    let rewired = rewire(&pattern, &kept, &grown).expect("grown outside what is kept");
                    let moved = || {
                        let mut moved = cpu.zeros(rewired.map.len()).expect("memory for the values");
                        cpu.gather(&weight.values, &rewired.map, &mut moved).expect("a map from the old pattern");
                        moved
                    };
                    // The weight and one optimizer slot.
                    let matrix = SparseMatrix::from_buffer(&cpu, rewired.pattern.clone(), moved(), options);
                    (matrix.expect("one value per entry"), moved())
                })
            })
        });
        group.bench_function("ten products", |b| {
            b.iter(|| {
                cpu.install(|| {
                    (0..10).for_each(|_| cpu.spmm(Op::NoTranspose, &weight, &x, &mut y).expect("shapes fit"));
                })
            })
        });
        group.finish();
    }
}

/// A window of a recurrent layer of 512 features with 32 sequences: products with the lanes of one step, and what follows them.
fn recurrent(criterion: &mut Criterion) {
    const WIDTH: usize = 512;
    const COUNT: usize = 16;
    let cpu = Cpu::new(1, None).expect("every machine has one thread");
    let filled = |layout: StripLayout| {
        let mut strips = Strips::zeros(&cpu, layout).expect("memory for the activations");
        let key = Key::new(5);
        strips.data.iter_mut().zip(0..).for_each(|(x, i)| *x = key.normal(i));
        strips
    };
    let steps = Steps::new(StripLayout::sparse(32 * COUNT, 0), COUNT).expect("whole strips");
    for (name, gates) in [("gru", 3), ("lstm", 4)] {
        let (all, one) = (steps.all(WIDTH), steps.one(WIDTH));
        let [all_gates, one_gates] = [steps.all(gates * WIDTH), steps.one(gates * WIDTH)];
        let (mut found, mut hidden, mut all_hidden) = (filled(all_gates), filled(one_gates), filled(all_gates));
        let [mut state, mut cell, mut product, mut carried] = [0; 4].map(|_| filled(one));
        let [mut y, mut previous, mut other] = [0; 3].map(|_| filled(all));
        let (bias, dy) = (cpu.zeros(gates * WIDTH).expect("memory for the bias"), filled(all));
        let mut group = criterion.benchmark_group(format!("{name}/{WIDTH}x32x{COUNT}"));
        let mut forward = |step, found: &mut Strips<Cpu>, hidden: &Strips<Cpu>, previous: &mut Strips<Cpu>| {
            let (state, y, other) = (&mut state, &mut y, &mut other);
            let done = match gates {
                3 => {
                    let saved = Some(GruSaved { previous, hidden_n: other });
                    cpu.gru_step(GruStep { step, gates: found, hidden, state, y, saved })
                }
                _ => {
                    let (cell, saved) = (&mut cell, Some(LstmSaved { previous, previous_cell: other }));
                    cpu.lstm_step(LstmStep { step, gates: found, hidden, state, cell, y, saved })
                }
            };
            done.expect("shapes fit");
        };
        group.bench_function("steps", |b| {
            b.iter(|| (0..COUNT).for_each(|step| forward(step, &mut found, &hidden, &mut previous)))
        });
        let saved = filled(all);
        let mut backward = |step, found: &mut Strips<Cpu>, hidden: &mut Strips<Cpu>, product: &Strips<Cpu>| {
            let (dy, previous, hidden_n, carried, all_hidden) = (&dy, &saved, &saved, &mut carried, &mut all_hidden);
            let done = match gates {
                3 => cpu.gru_step_grad(GruStepGrad {
                    step,
                    dy,
                    gates: found,
                    previous,
                    hidden_n,
                    product,
                    carried,
                    hidden,
                    all_hidden,
                }),
                _ => {
                    let previous_cell = previous;
                    cpu.lstm_step_grad(LstmStepGrad { step, dy, gates: found, previous_cell, product, carried, hidden })
                }
            };
            done.expect("shapes fit");
        };
        // A step replaces gates by their gradients, so each window has its own.
        let mut pristine = filled(all_gates);
        pristine.data.iter_mut().for_each(|x| *x = x.abs().min(1.0));
        group.bench_function("steps_grad", |b| {
            b.iter_custom(|windows| {
                let mut window = || {
                    cpu.copy(&pristine.data, &mut found.data).expect("equal lengths");
                    let start = Instant::now();
                    (0..COUNT).rev().for_each(|step| backward(step, &mut found, &mut hidden, &product));
                    start.elapsed()
                };
                (0..windows).map(|_| window()).sum()
            })
        });
        for density in [0.25, 0.1] {
            let weight = sparse_operands(&cpu, [gates * WIDTH, WIDTH, 32], density).weight;
            let mut gradient = cpu.zeros(weight.values.len()).expect("memory for the gradient");
            let h = filled(one);
            group.throughput(Throughput::Elements(2 * (weight.values.len() * 32 * COUNT) as u64));
            group.bench_function(format!("products/{density}"), |b| {
                let mut run = |_| cpu.spmm_bias_relu(&weight, &bias, false, &h, &mut hidden).expect("shapes fit");
                b.iter(|| (0..COUNT).for_each(&mut run))
            });
            group.bench_function(format!("products_t/{density}"), |b| {
                let mut run = |_| cpu.spmm(Op::Transpose, &weight, &hidden, &mut product).expect("shapes fit");
                b.iter(|| (0..COUNT).for_each(&mut run))
            });
            group.bench_function(format!("sddmm/{density}"), |b| {
                b.iter(|| cpu.sddmm(&weight.plan, &found, &previous, &mut gradient, false).expect("shapes fit"))
            });
        }
        group.finish();
    }
}

criterion_group!(benches, products, block_products, convolutions, transformers, recurrent, few_lanes, topology_update);
criterion_main!(benches);
