//! Operands in 16 bits: an operation on them gives what the same one gives on their numbers in f32, rounded once, bit for bit.
//! What it gives in f32 is checked against the reference elsewhere.

use std::sync::Arc;

use half::bf16;

use super::conv::Case as ConvCase;
use super::linear::case;
use super::neural::normals;
use super::{buffer, host};
use crate::random::Key;
use crate::{
    Accumulate, Activation, Activations, Attention, AttentionGrad, Backend, BatchNormOptions, BlockConvWeight,
    BlockMatrix, BsrPattern, ConvOptions, ConvShape, ConvWeight, CrossEntropy, CsrPattern, FeatureNorm, Gelu,
    GrowRequest, ImageLayout, Images, Layout, NormKind, Op, PlanOptions, PointwiseLoss, PoolShape, Precision, ReluMask,
    SparseMatrix, StripLayout, Strips,
};

/// Operands and results in one precision.
pub struct Twin<'a, B: Backend> {
    backend: &'a B,
    precision: Precision,
    results: Vec<(String, Vec<f32>)>,
}

impl<B: Backend> Twin<'_, B> {
    /// Normal numbers that are of 16 bits, padding and borders zero.
    fn tensor(&self, name: &str, layout: Layout) -> Activations<B> {
        let numbers: Vec<f32> = match layout {
            Layout::Strips(layout) => {
                let mut all = vec![0.0; layout.len()];
                let given = normals(name, layout.features() * layout.lanes());
                let view = crate::MatrixRef::new(&given, layout.features(), layout.lanes(), layout.lanes()).unwrap();
                layout.pack(view, &mut all).unwrap();
                all
            }
            Layout::Images(layout) => {
                let mut all = vec![0.0; layout.len()];
                let [height, width] = layout.size();
                let given = normals(name, layout.samples() * layout.channels() * height * width);
                layout.pack(&given, &mut all).unwrap();
                all
            }
        };
        let numbers: Vec<f32> = numbers.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
        let mut data = self.backend.zeros_in(self.precision, layout.len()).unwrap();
        self.backend.upload(&numbers, &mut data).unwrap();
        Activations::new(layout, data)
    }

    fn strips(&self, name: &str, layout: StripLayout) -> Strips<B> {
        let Activations::Strips(strips) = self.tensor(name, layout.into()) else { unreachable!() };
        strips
    }

    fn images(&self, name: &str, layout: ImageLayout) -> Images<B> {
        let Activations::Images(images) = self.tensor(name, layout.into()) else { unreachable!() };
        images
    }

    /// What an operation overwrites: NaN.
    fn strips_to(&self, layout: StripLayout) -> Strips<B> {
        let mut data = self.backend.zeros_in(self.precision, layout.len()).unwrap();
        self.backend.fill(f32::NAN, &mut data).unwrap();
        Strips { layout, data }
    }

    /// What an operation overwrites: NaN, but for the border.
    fn images_to(&self, layout: ImageLayout) -> Images<B> {
        let poisoned = super::images::poisoned(self.backend, layout);
        let mut data = self.backend.zeros_in(self.precision, layout.len()).unwrap();
        self.backend.convert(&poisoned.data, &mut data).unwrap();
        Images { layout, data }
    }

    fn result(&mut self, what: &str, buffer: &B::Buffer) {
        self.results.push((what.to_string(), host(self.backend, buffer)));
    }

    /// A result of 16 bits; what follows finds it rounded in either precision.
    fn rounded(&mut self, what: &str, buffer: &mut B::Buffer) {
        assert_eq!(self.backend.precision(buffer), self.precision, "{what}");
        let numbers: Vec<f32> = host(self.backend, buffer).into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
        self.backend.upload(&numbers, buffer).unwrap();
        self.results.push((what.to_string(), numbers));
    }
}

/// Whether `run` gives the same in both precisions.
#[track_caller]
fn both<B: Backend>(backend: &B, what: &str, run: impl Fn(&mut Twin<'_, B>)) {
    let [wide, half] = Precision::ALL.map(|precision| {
        let mut twin = Twin { backend, precision, results: Vec::new() };
        run(&mut twin);
        twin.results
    });
    assert!(!wide.is_empty());
    for ((name, wide), (_, half)) in wide.iter().zip(&half) {
        assert_eq!(wide.len(), half.len());
        for (i, (a, b)) in wide.iter().zip(half).enumerate() {
            let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
            assert!(same, "{what}: {name} entry {i}: {b:e} in 16 bits, {a:e} rounded");
        }
    }
}

/// Products with sparse, block-sparse and dense matrices.
pub fn linear<B: Backend>(backend: &B, [m, k, lanes]: [usize; 3], strip: usize, density: f32, seed: u64) {
    let case = case([m, k, lanes], strip, (density, 5), seed, false);
    let layout = |features| StripLayout::new(lanes, features, strip).unwrap();
    let options = PlanOptions { strip, transpose: true };
    let grid = CsrPattern::from_positions(m.div_ceil(4), k.div_ceil(4), vec![(0, 0)]).unwrap();
    let blocks = Arc::new(BsrPattern::from_blocks(m, k, [4, 4], Arc::new(grid)).unwrap());
    both(backend, &format!("{m} × {k} × {lanes}, strips of {strip}"), |twin| {
        let (x, dy) = (twin.strips("x", layout(k)), twin.strips("dy", layout(m)));
        let w = SparseMatrix::new(backend, case.pattern.clone(), &case.values, options).unwrap();
        let (mut y, mut dx) = (twin.strips_to(layout(m)), twin.strips_to(layout(k)));
        backend.spmm(Op::NoTranspose, &w, &x, &mut y).unwrap();
        twin.rounded("spmm", &mut y.data);
        backend.spmm_bias_relu(&w, &buffer(backend, &normals("bias", m)), true, &x, &mut y).unwrap();
        twin.rounded("spmm_bias_relu", &mut y.data);
        backend.spmm(Op::Transpose, &w, &dy, &mut dx).unwrap();
        twin.rounded("spmm, transposed", &mut dx.data);
        let mut dw = buffer(backend, &vec![1.0; case.pattern.nnz()]);
        backend.sddmm(&w.plan, &dy, &x, &mut dw, true).unwrap();
        twin.result("sddmm", &dw);
        let request = GrowRequest { exclude: case.pattern.clone(), count: 20, ties: Key::new(1) };
        let grown = backend.grow(&request, &[(&dy, &x), (&dy, &x)]).unwrap();
        twin.result("grow", &buffer(backend, &places(&grown)));

        let w = BlockMatrix::new(backend, blocks.clone(), &normals("blocks", blocks.nnz()), options).unwrap();
        backend.spmm_bsr(Op::NoTranspose, &w, &x, &mut y).unwrap();
        twin.rounded("spmm_bsr", &mut y.data);
        backend.spmm_bsr(Op::Transpose, &w, &dy, &mut dx).unwrap();
        twin.rounded("spmm_bsr, transposed", &mut dx.data);
        let mut dw = buffer(backend, &vec![1.0; blocks.nnz()]);
        backend.sddmm_bsr(&w.plan, &dy, &x, &mut dw, false).unwrap();
        twin.result("sddmm_bsr", &dw);
        let request = GrowRequest { exclude: blocks.blocks().clone(), count: 2, ties: Key::new(1) };
        let grown = backend.grow_blocks([4, 4], &request, &[(&dy, &x)]).unwrap();
        twin.result("grow_blocks", &buffer(backend, &places(&grown)));

        let w = buffer(backend, &normals("w", m * k));
        backend.gemm(Op::NoTranspose, &w, &x, &mut y).unwrap();
        twin.rounded("gemm", &mut y.data);
        backend.gemm(Op::Transpose, &w, &dy, &mut dx).unwrap();
        twin.rounded("gemm, transposed", &mut dx.data);
        let mut dw = buffer(backend, &vec![1.0; m * k]);
        backend.gemm_weight_grad(&dy, &x, &mut dw, true).unwrap();
        twin.result("gemm_weight_grad", &dw);
    });
}

fn places(grown: &[crate::Candidate]) -> Vec<f32> {
    grown.iter().flat_map(|c| [c.row as f32, c.column as f32, c.score]).collect()
}

/// The three passes of convolutions with sparse, dense and, if they fit, block-sparse weights, and growth.
pub fn conv<B: Backend>(backend: &B, case: &ConvCase) {
    let pattern = Arc::new(case.pattern());
    let (shape, [x_layout, y_layout]) = (case.shape, case.layouts());
    let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
    both(backend, &format!("{case:?}"), |twin| {
        let (x, dy) = (twin.images("x", x_layout), twin.images("dy", y_layout));
        let (mut y, mut dx) = (twin.images_to(y_layout), twin.images_to(x_layout));
        let w = ConvWeight::new(backend, pattern.clone(), &normals("w", pattern.nnz()), shape, options).unwrap();
        backend.conv_forward(&w, &x, &mut y).unwrap();
        twin.rounded("conv_forward", &mut y.data);
        backend.conv_input_grad(&w, &dy, &mut dx).unwrap();
        twin.rounded("conv_input_grad", &mut dx.data);
        for accumulate in [false, true] {
            let mut dw = buffer(backend, &vec![1.0; pattern.nnz()]);
            backend.conv_weight_grad(&w.plan, &dy, &x, &mut dw, accumulate).unwrap();
            twin.result("conv_weight_grad", &dw);
        }
        let request = GrowRequest { exclude: pattern.clone(), count: 9, ties: Key::new(1) };
        let grown = backend.grow_conv(shape, &request, &[(&dy, &x)]).unwrap();
        twin.result("grow_conv", &buffer(backend, &places(&grown)));

        let all = shape.rows() * shape.columns();
        let dense = buffer(backend, &normals("dense", all));
        backend.conv_forward_dense(shape, &dense, &x, &mut y).unwrap();
        twin.rounded("conv_forward_dense", &mut y.data);
        backend.conv_input_grad_dense(shape, &dense, &dy, &mut dx).unwrap();
        twin.rounded("conv_input_grad_dense", &mut dx.data);
        for accumulate in [false, true] {
            let mut dw = buffer(backend, &vec![1.0; all]);
            backend.conv_weight_grad_dense(shape, &dy, &x, &mut dw, accumulate).unwrap();
            twin.result("conv_weight_grad_dense", &dw);
        }
    });
}

/// The passes of a convolution with weights in blocks, each of which is there with the case's density.
pub fn conv_blocks<B: Backend>(backend: &B, case: &ConvCase, block_size: [usize; 2]) {
    let [r, c] = block_size;
    let (shape, [x_layout, y_layout]) = (case.shape, case.layouts());
    let (rows, columns) = (shape.rows().div_ceil(r) as u32, (shape.columns() / c) as u32);
    let key = Key::new(case.seed).with_name("blocks");
    let kept = (0..rows).flat_map(|r| (0..columns).map(move |c| (r, c)));
    let kept = kept.filter(|&(r, c)| key.uniform(u64::from(r) << 32 | u64::from(c)) < case.density).collect();
    let grid = CsrPattern::from_positions(rows as usize, columns as usize, kept).unwrap();
    let pattern = BsrPattern::from_blocks(shape.rows(), shape.columns(), block_size, Arc::new(grid)).unwrap();
    let pattern = Arc::new(pattern.with_taps(shape.taps()).unwrap());
    let options = ConvOptions { x: x_layout, y: y_layout, input_grad: true };
    both(backend, &format!("{block_size:?} {case:?}"), |twin| {
        let (x, dy) = (twin.images("x", x_layout), twin.images("dy", y_layout));
        let (mut y, mut dx) = (twin.images_to(y_layout), twin.images_to(x_layout));
        let values = normals("w", pattern.nnz());
        let w = BlockConvWeight::new(backend, pattern.clone(), &values, shape, options).unwrap();
        backend.conv_forward_bsr(&w, &x, &mut y).unwrap();
        twin.rounded("conv_forward_bsr", &mut y.data);
        backend.conv_input_grad_bsr(&w, &dy, &mut dx).unwrap();
        twin.rounded("conv_input_grad_bsr", &mut dx.data);
        for accumulate in [false, true] {
            let mut dw = buffer(backend, &vec![1.0; pattern.nnz()]);
            backend.conv_weight_grad_bsr(&w.plan, &dy, &x, &mut dw, accumulate).unwrap();
            twin.result("conv_weight_grad_bsr", &dw);
        }
        let request = GrowRequest { exclude: pattern.blocks().clone(), count: 3, ties: Key::new(1) };
        let grown = backend.grow_conv_blocks(shape, block_size, &request, &[(&dy, &x)]).unwrap();
        twin.result("grow_conv_blocks", &buffer(backend, &places(&grown)));
    });
}

/// Operations on images that are no convolutions.
pub fn images<B: Backend>(backend: &B, case: &super::images::Case, window: PoolShape) {
    let case = case.enlarged(window);
    let [a, b] = [0, 1].map(|tensor| case.layout(tensor));
    let small = case.layout_of(1, window.output_size(case.size).unwrap());
    let channels = case.channels;
    both(backend, &format!("{case:?}"), |twin| {
        let x = twin.images("x", a);
        let mut pooled = twin.images_to(small);
        let dy = twin.images("pooled gradient", small);
        for accumulate in [false, true] {
            let mut dx = twin.images("dx", b);
            backend.max_pool(window, &x, &mut pooled).unwrap();
            backend.max_pool_grad(window, &x, &pooled, &dy, &mut dx, accumulate).unwrap();
            twin.rounded("max_pool", &mut pooled.data);
            twin.rounded("max_pool_grad", &mut dx.data);
            backend.avg_pool(window, &x, &mut pooled).unwrap();
            backend.avg_pool_grad(window, &dy, &mut dx, accumulate).unwrap();
            twin.rounded("avg_pool", &mut pooled.data);
            twin.rounded("avg_pool_grad", &mut dx.data);
        }
        let means = StripLayout::sparse(case.samples, channels);
        let mut mean = twin.strips_to(means);
        backend.global_avg_pool(&x, &mut mean).unwrap();
        twin.rounded("global_avg_pool", &mut mean.data);
        let mut dx = twin.images_to(b);
        backend.global_avg_pool_grad(&twin.strips("means", means), &mut dx).unwrap();
        twin.rounded("global_avg_pool_grad", &mut dx.data);
        let mut flat = twin.strips_to(StripLayout::sparse(case.samples, channels * case.pixels()));
        backend.flatten(&x, &mut flat).unwrap();
        twin.rounded("flatten", &mut flat.data);
        backend.unflatten(&flat, &mut dx).unwrap();
        twin.rounded("unflatten", &mut dx.data);

        let bias = buffer(backend, &normals("bias", channels));
        for relu in [false, true] {
            let mut y = twin.images("x", a);
            backend.bias_relu_images(&bias, relu, &mut y).unwrap();
            twin.rounded("bias_relu_images", &mut y.data);
            let (mut grad, mut dbias) = (twin.images("grad", b), buffer(backend, &vec![1.0; channels]));
            backend.bias_relu_images_grad(&y, relu, &mut grad, &mut dbias, relu).unwrap();
            twin.rounded("bias_relu_images_grad", &mut grad.data);
            twin.result("gradient of the bias", &dbias);
        }
        let mut y = twin.images("x", a);
        backend.relu_images(&mut y).unwrap();
        twin.rounded("relu_images", &mut y.data);
        let mut grad = twin.images("grad", b);
        backend.relu_images_grad(&y, &mut grad).unwrap();
        twin.rounded("relu_images_grad", &mut grad.data);
        backend.add_images(&x, &mut grad).unwrap();
        twin.rounded("add_images", &mut grad.data);
        backend.copy_channels(&x, 0..channels.div_ceil(2), &mut grad, channels / 2).unwrap();
        twin.rounded("copy_channels", &mut grad.data);
        backend.dropout_images(Key::new(3), 0.4, &mut grad).unwrap();
        twin.rounded("dropout_images", &mut grad.data);
    });
}

/// Batch normalisation with all that may stand around it. Sums over pixels are the same where a device's order does not depend on
/// how numbers are stored; all do.
pub fn batch_norm<B: Backend>(backend: &B, case: &super::images::Case) {
    let [a, b] = [0, 1].map(|tensor| case.layout(tensor));
    let channels = case.channels;
    if case.samples == 0 {
        return;
    }
    let options = BatchNormOptions::default();
    let affine = buffer(backend, &normals("affine", 2 * channels));
    for activation in [Activation::None, Activation::Relu, Activation::Relu6] {
        both(backend, &format!("{activation:?} {case:?}"), |twin| {
            let mut running = buffer(backend, &vec![1.0; 2 * channels]);
            let (mut x, addend) = (twin.images("x", a), twin.images("addend", b));
            let mut moments = buffer(backend, &vec![0.0; 2 * channels]);
            // The moments are those of the rounded sum.
            if twin.precision == Precision::F32 {
                let mut unused = buffer(backend, &vec![0.0; 2 * channels]);
                backend.batch_moments(options, Some(&addend), &mut x, &mut unused, &mut moments).unwrap();
                twin.rounded("sum", &mut x.data);
                backend.batch_moments(options, None, &mut x, &mut running, &mut moments).unwrap();
            } else {
                backend.batch_moments(options, Some(&addend), &mut x, &mut running, &mut moments).unwrap();
                twin.rounded("sum", &mut x.data);
            }
            twin.result("moments of a sum", &moments);
            twin.result("running moments of a sum", &running);
            // From here on, both have the same x.
            let mut x = twin.images("x", a);
            backend.batch_moments(options, None, &mut x, &mut running, &mut moments).unwrap();
            twin.result("moments", &moments);
            twin.rounded("x", &mut x.data);
            let mut y = twin.images_to(b);
            backend.batch_normalize(&affine, &moments, None, activation, &x, &mut y).unwrap();
            twin.rounded("batch_normalize", &mut y.data);
            let residual = twin.images("residual", a);
            backend.batch_normalize(&affine, &moments, Some(&residual), activation, &x, &mut y).unwrap();
            twin.rounded("batch_normalize, residual", &mut y.data);

            let y = twin.images("y", b);
            let mut sums = buffer(backend, &vec![0.0; 2 * channels]);
            let mut dy = twin.images("dy", b);
            for mask in [ReluMask::None, ReluMask::Recomputed(activation)] {
                backend.batch_norm_grad_sums(&affine, &moments, mask, &x, &mut dy, &mut sums).unwrap();
                twin.rounded("dy", &mut dy.data);
                twin.result("batch_norm_grad_sums", &sums);
            }
            for accumulate in [Accumulate::No, Accumulate::Yes] {
                let mut output = twin.images("output", a);
                let to = Some((&mut output, accumulate));
                backend.batch_norm_grad(&affine, &moments, &sums, activation, &x, &mut dy, to).unwrap();
                twin.rounded("batch_norm_grad to an output", &mut output.data);
                twin.rounded("dy", &mut dy.data);
            }
            backend.batch_norm_grad(&affine, &moments, &sums, activation, &x, &mut dy, None).unwrap();
            twin.rounded("batch_norm_grad", &mut dy.data);
            let (mut dy, mask) = (twin.images("dy", b), ReluMask::Output(activation, &y));
            backend.batch_norm_grad_sums(&affine, &moments, mask, &x, &mut dy, &mut sums).unwrap();
            twin.rounded("dy behind a mask", &mut dy.data);
            twin.result("batch_norm_grad_sums behind a mask", &sums);
        });
    }
}

/// Operations on features by lanes that are no products, and losses.
pub fn lanes<B: Backend>(backend: &B, layout: StripLayout) {
    let (features, lanes) = (layout.features(), layout.lanes());
    let labels: Vec<u32> = (0..lanes as u32).map(|i| if i % 5 == 0 { u32::MAX } else { i % features as u32 }).collect();
    let mut device_labels = backend.index_zeros(lanes).unwrap();
    backend.upload_indices(&labels, &mut device_labels).unwrap();
    both(backend, &format!("{layout:?}"), |twin| {
        let bias = buffer(backend, &normals("bias", features));
        let mut y = twin.strips("x", layout);
        backend.bias_relu(&bias, true, &mut y).unwrap();
        twin.rounded("bias_relu", &mut y.data);
        let (mut grad, mut dbias) = (twin.strips("grad", layout), buffer(backend, &vec![1.0; features]));
        backend.bias_relu_grad(&y, true, &mut grad, &mut dbias, true).unwrap();
        twin.rounded("bias_relu_grad", &mut grad.data);
        twin.result("gradient of the bias", &dbias);
        backend.lane_sums(&grad, &mut dbias, false).unwrap();
        twin.result("lane_sums", &dbias);
        backend.add_strips(&y, &mut grad).unwrap();
        twin.rounded("add_strips", &mut grad.data);
        backend.dropout(Key::new(3), 0.4, &mut grad).unwrap();
        twin.rounded("dropout", &mut grad.data);

        let (mut stats, mut grad) = (buffer(backend, &[f32::NAN; 2]), twin.strips_to(layout));
        let parameters = CrossEntropy { label_smoothing: 0.1, gradient_scale: 0.25 };
        let logits = twin.strips("logits", layout);
        for is_training in [false, true] {
            let grad = is_training.then_some(&mut grad);
            backend.softmax_cross_entropy(parameters, &logits, &device_labels, &mut stats, grad).unwrap();
            twin.result("softmax_cross_entropy", &stats);
        }
        twin.rounded("gradient of softmax_cross_entropy", &mut grad.data);
        let (targets, loss) = (twin.strips("targets", layout), PointwiseLoss::Huber { delta: 0.5 });
        backend.pointwise_loss(loss, 0.5, &logits, &targets, &mut stats, Some(&mut grad)).unwrap();
        twin.result("pointwise_loss", &stats);
        twin.rounded("gradient of pointwise_loss", &mut grad.data);
    });
}

/// Operations of sequence models: sequences of `length` tokens, heads of `head` features.
pub fn sequence<B: Backend>(backend: &B, [sequences, length, heads, head]: [usize; 4], strip: usize) {
    let (lanes, features) = (sequences * length, heads * head);
    let layout = StripLayout::new(lanes, features, strip).unwrap();
    let tokens: Vec<u32> = (0..lanes as u32).map(|i| i * 7 % 5).collect();
    let mut device_tokens = backend.index_zeros(lanes).unwrap();
    backend.upload_indices(&tokens, &mut device_tokens).unwrap();
    both(backend, &format!("{layout:?}"), |twin| {
        let (table, places) = (normals("table", 5 * features), normals("places", length * features));
        let (table, places) = (buffer(backend, &table), buffer(backend, &places));
        let mut x = twin.strips_to(layout);
        backend.embed(&table, Some((&places, length)), &device_tokens, &mut x).unwrap();
        twin.rounded("embed", &mut x.data);
        let dx = twin.strips("dx", layout);
        let mut dtable = buffer(backend, &vec![1.0; 5 * features]);
        backend.embed_grad(&device_tokens, &dx, &mut dtable, true).unwrap();
        twin.result("embed_grad", &dtable);
        let mut dplaces = buffer(backend, &vec![1.0; length * features]);
        backend.embed_positions_grad(length, &dx, &mut dplaces, false).unwrap();
        twin.result("embed_positions_grad", &dplaces);

        let norm = FeatureNorm { kind: NormKind::Layer, epsilon: 1e-5 };
        let affine = buffer(backend, &normals("affine", 2 * features));
        // What a backward pass needs in full stays f32.
        let mut moments = super::poisoned(backend, layout.with_features(2));
        let (mut x, mut y) = (twin.strips("x", layout), twin.strips_to(layout));
        backend.feature_norm(norm, &affine, &x, &mut y, &mut moments).unwrap();
        twin.rounded("feature_norm", &mut y.data);
        twin.result("moments", &moments.data);
        for is_added in [false, true] {
            let (mut dy, mut to) = (twin.strips("dy", layout), twin.strips("to", layout));
            let mut daffine = buffer(backend, &vec![1.0; 2 * features]);
            let to_what = is_added.then_some(&mut to);
            backend
                .feature_norm_grad(norm.kind, &affine, &moments, &x, &mut dy, to_what, &mut daffine, is_added)
                .unwrap();
            twin.rounded("feature_norm_grad", if is_added { &mut to.data } else { &mut dy.data });
            twin.result("gradient of scale and shift", &daffine);
        }
        let residual = twin.strips("residual", layout);
        backend.add_feature_norm(norm, &affine, &residual, &mut x, &mut y, &mut moments).unwrap();
        twin.rounded("sum", &mut x.data);
        if twin.precision == Precision::F32 {
            // The moments are those of the rounded sum.
            backend.feature_norm(norm, &affine, &x, &mut y, &mut moments).unwrap();
        }
        twin.rounded("add_feature_norm", &mut y.data);
        twin.result("moments of the sum", &moments.data);

        let x = twin.strips("x", layout);
        backend.gelu(Gelu::Tanh, &x, &mut y).unwrap();
        twin.rounded("gelu", &mut y.data);
        let mut grad = twin.strips("grad", layout);
        backend.gelu_grad(Gelu::Exact, &x, &mut grad).unwrap();
        twin.rounded("gelu_grad", &mut grad.data);

        let attention = Attention { heads, length, rotary: Some(100.0) };
        let [q, k, v, grad] = ["q", "k", "v", "grad"].map(|name| twin.strips(name, layout));
        let (mut o, mut lse) = (twin.strips_to(layout), super::poisoned(backend, layout.with_features(heads)));
        backend.attention(attention, [&q, &k, &v], &mut o, &mut lse).unwrap();
        twin.rounded("attention", &mut o.data);
        twin.result("logarithms of sums", &lse.data);
        let o = twin.strips("o", layout);
        let [mut dq, mut dk, mut dv] = [(); 3].map(|()| twin.strips_to(layout));
        let operands =
            AttentionGrad { q: &q, k: &k, v: &v, o: &o, lse: &lse, grad: &grad, dq: &mut dq, dk: &mut dk, dv: &mut dv };
        backend.attention_grad(attention, operands).unwrap();
        [dq, dk, dv].iter_mut().for_each(|x| twin.rounded("attention_grad", &mut x.data));
    });
}

/// A convolution whose passes have several bands, row blocks and chunks.
pub fn large_conv(strip: usize) -> ConvCase {
    let shape = ConvShape::new(40, 24, [3, 3]).unwrap().with_padding([1, 1]);
    let (size, samples) = ([14, 12], 2 * strip - strip / 2);
    ConvCase { shape, size, samples, strip, slack: 0, density: 0.2, seed: 4, is_exact: false }
}

/// Steps of recurrent layers want f32, and say so; so do operations on plain buffers.
pub fn refusals<B: Backend>(backend: &B) {
    let (wide, mut half) = (buffer(backend, &[1.0; 4]), backend.zeros_in(Precision::Bf16, 4).unwrap());
    let refused = |done: Result<(), crate::BackendError>| {
        let error = done.unwrap_err().to_string();
        assert!(error.contains("32") || error.contains("bytes of a number"), "{error}");
    };
    refused(backend.add(&wide, &mut half));
    refused(backend.gather(&wide, &[0, 1, 2, 3], &mut half));
    refused(backend.copy(&wide, &mut half));
    let layout = StripLayout::sparse(32, 2);
    let all = |features: usize, precision: Precision| {
        let layout = layout.with_features(features);
        Strips::<B> { layout, data: backend.zeros_in(precision, layout.len()).unwrap() }
    };
    for other in 0..3 {
        let of = |which: usize| if which == other { Precision::Bf16 } else { Precision::F32 };
        let (mut gates, mut state, mut y) = (all(6, of(0)), all(2, of(1)), all(2, of(2)));
        let hidden = all(6, Precision::F32);
        refused(backend.gru_step(crate::GruStep {
            step: 0,
            gates: &mut gates,
            hidden: &hidden,
            state: &mut state,
            y: &mut y,
            saved: None,
        }));
    }
}
