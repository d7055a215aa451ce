//! Convolutions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sparse_kernels::cpu::Cpu;
#[cfg(feature = "gpu")]
use sparse_kernels::gpu::Gpu;
use sparse_kernels::random::Key;
use sparse_kernels::reference::{self, Exact};
use sparse_kernels::{
    BackendError, BlockConvWeight, BlockSparseConv, BsrPattern, Candidate, ConvOptions, ConvShape, ConvWeight,
    CsrPattern, GrowRequest, ImageLayout, Images,
};

use super::arguments::{BenchKernelArgs, ConvSizes, KernelFormat, KernelShape};
use super::{
    BUDGET, CHECKED, LEAST_CALLS, Measurement, Operands, Stored, Subject, Times, Yardstick, is_wrong, numbers, worst,
};
use crate::bench::{alternate, repeat};
use crate::device::ComputeDevice;
use crate::models::Format;
use crate::settings::error::ConfigError;

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Y.
    Forward,
    /// The gradient of X.
    InputGrad,
    /// The gradient of the weights that are stored.
    WeightGrad,
    /// The largest gradients of those that are not.
    Grow,
}

/// A pass with a pattern.
#[derive(Debug)]
struct Convolution {
    pass: Pass,
    sizes: ConvSizes,
    shape: ConvShape,
    /// Height and width of Y.
    output: [usize; 2],
    /// None for the dense pass.
    stored: Option<Stored>,
}

/// Elements that an operand may have: those that 32 bits count, as the entries of a pattern.
const MOST_ELEMENTS: f64 = u32::MAX as f64;

/// Results of a forward pass or an input gradient that are checked, at most: a full reference takes minutes.
const CHECKED_PIXELS: usize = 4096;
/// The same of a weight gradient, each a sum over all pixels and samples.
const CHECKED_WEIGHTS: usize = 256;

/// The patterns to measure a pass with.
///
/// # Errors
/// If an option does not suit it, or a pattern is unavailable.
pub fn subjects(args: &BenchKernelArgs, pass: Pass) -> anyhow::Result<Vec<Box<dyn Subject>>> {
    let refuse = |option, value, rule| Err(ConfigError::Value { option, value, rule }.into());
    let KernelShape::Conv(sizes) = args.shape else {
        let rule = "OCxICxKxHxWxN, such as 64x64x3x32x32x32, if --op is a convolution";
        return refuse("shape", args.shape.to_string(), rule);
    };
    let ConvSizes { out_channels, in_channels, kernel, size, samples } = sizes;
    let product = |factors: &[usize]| factors.iter().map(|&factor| factor as f64).product::<f64>();
    // Borders are at most as wide as the filter.
    let images = product(&[samples, out_channels.max(in_channels), size[0] + 2 * kernel, size[1] + 2 * kernel]);
    if images.max(product(&[out_channels, in_channels, kernel, kernel])) > MOST_ELEMENTS {
        let rule =
            "smaller: weights, inputs and outputs, these with zeros around them, may have 2^32 - 1 elements each";
        return refuse("shape", args.shape.to_string(), rule);
    }
    let (stride, groups) = (args.stride.unwrap_or(1), args.groups.unwrap_or(1));
    let shape = ConvShape::new(out_channels, in_channels, [kernel; 2])?.with_padding([kernel / 2; 2]);
    let shape = shape.with_stride([stride; 2])?;
    let Ok(shape) = shape.with_groups(groups) else {
        return refuse("groups", groups.to_string(), "a divisor of OC and IC, the channels of --shape");
    };
    let output = shape.output_size(size)?;
    let subject = |stored| -> Box<dyn Subject> { Box::new(Convolution { pass, sizes, shape, output, stored }) };
    let format = match args.format {
        KernelFormat::Dense if pass == Pass::Grow => {
            return refuse("format", "dense".to_owned(), "csr: a dense convolution does not grow");
        }
        KernelFormat::Dense => return Ok(vec![subject(None)]),
        KernelFormat::Sparse(format) => format,
    };
    if pass == Pass::Grow && format != Format::Csr {
        return refuse("format", format.to_string(), "csr: of convolutions single weights are grown, not blocks");
    }
    if let Format::Bsr([rows, columns]) = format {
        let in_one_tap = (in_channels / groups).is_multiple_of(columns);
        if !in_one_tap || (groups > 1 && !(out_channels / groups).is_multiple_of(rows)) {
            let rule = "csr, or of blocks whose columns divide IC / G and, with groups, whose rows divide OC / G";
            return refuse("format", format.to_string(), rule);
        }
    }
    let expected = [shape.rows(), shape.columns()];
    let all = Stored::all(args, format, expected)?;
    if all.iter().any(|stored| stored.size() != expected) {
        let rule = "a matrix of OC rows and IC / G · K · K columns, by --shape and --groups";
        return refuse("pattern", args.pattern.to_string(), rule);
    }
    Ok(all.into_iter().map(|stored| subject(Some(stored))).collect())
}

impl Convolution {
    fn nnz(&self) -> usize {
        self.stored.as_ref().map_or(self.shape.rows() * self.shape.columns(), Stored::nnz)
    }

    /// Where each stored entry stands in the dense weight `[O][C/G][kh][kw]`; none for the padding of blocks.
    fn places(&self) -> Vec<Option<usize>> {
        let columns = self.shape.columns();
        match &self.stored {
            None => (0..self.nnz()).map(Some).collect(),
            Some(Stored::Csr(pattern)) => {
                pattern.positions().map(|(row, column)| Some(row as usize * columns + column as usize)).collect()
            }
            Some(Stored::Bsr(pattern)) => {
                let taps = self.shape.taps();
                let channels = columns / taps;
                let mut places = vec![None; pattern.nnz()];
                for entry in pattern.entries() {
                    let (tap, channel) = (entry.column / channels, entry.column % channels);
                    places[entry.position] = Some(entry.row * columns + channel * taps + tap);
                }
                places
            }
        }
    }

    /// Layouts of X and Y.
    fn layouts<B: ComputeDevice>(&self, backend: &B) -> anyhow::Result<[ImageLayout; 2]> {
        let ConvSizes { size, samples, .. } = self.sizes;
        let strip = backend.image_strip(self.shape, samples);
        let [border_x, border_y] = self.shape.borders(size)?;
        Ok([
            ImageLayout::new(samples, self.shape.in_channels(), size, border_x, strip)?,
            ImageLayout::new(samples, self.shape.out_channels(), self.output, border_y, strip)?,
        ])
    }
}

impl Subject for Convolution {
    fn sizes(&self) -> Vec<usize> {
        let ConvSizes { out_channels, in_channels, kernel, size: [height, width], samples } = self.sizes;
        vec![out_channels, in_channels, kernel, height, width, samples]
    }

    fn stride_and_groups(&self) -> Option<[usize; 2]> {
        Some([self.shape.stride()[0], self.shape.groups()])
    }

    fn dense_name(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "dense_conv_forward",
            Pass::InputGrad => "dense_conv_input_grad",
            Pass::WeightGrad | Pass::Grow => "dense_conv_weight_grad",
        }
    }

    fn yardstick(&self) -> Yardstick {
        match &self.stored {
            Some(Stored::Csr(_)) if self.pass != Pass::Grow => Yardstick::LoadFma,
            _ => Yardstick::Fma,
        }
    }

    fn measure(&self, cpu: &Cpu, seed: u64) -> anyhow::Result<Measurement> {
        self.measure_on(cpu, seed)
    }

    #[cfg(feature = "gpu")]
    fn measure_on_gpu(&self, gpu: &Gpu, seed: u64) -> anyhow::Result<Measurement> {
        self.measure_on(gpu, seed)
    }
}

impl Convolution {
    fn measure_on<B: BlocksOrNone>(&self, backend: &B, seed: u64) -> anyhow::Result<Measurement> {
        let mut case = Case::new(backend, self, seed)?;
        let max_error = case.check()?;
        let times = if is_wrong(max_error) { None } else { Some(case.time()?) };
        let pixels = self.output[0] * self.output[1] * self.sizes.samples;
        let operations = 2.0 * self.nnz() as f64 * pixels as f64;
        let dense_operations = 2.0 * self.shape.dense_multiply_adds(self.output, self.sizes.samples) as f64;
        Ok(Measurement {
            density: self.stored.as_ref().map_or(1.0, Stored::density),
            nnz: self.nnz(),
            // Growth is dense work by nature: its efficiency is plain speed against the dense pass.
            operations: if self.pass == Pass::Grow { dense_operations } else { operations },
            dense_operations,
            plan_time: case.plan_time,
            max_error,
            times,
        })
    }
}

/// A device, with convolutions in blocks if it has them.
trait BlocksOrNone: ComputeDevice {
    /// A weight in blocks.
    type BlockWeight;

    fn block_weight(
        &self,
        pattern: &Arc<BsrPattern>,
        values: &[f32],
        shape: ConvShape,
        options: ConvOptions,
    ) -> anyhow::Result<Self::BlockWeight>;

    fn block_forward(&self, w: &Self::BlockWeight, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError>;

    fn block_input_grad(
        &self,
        w: &Self::BlockWeight,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Result<(), BackendError>;

    fn block_weight_grad(
        &self,
        w: &Self::BlockWeight,
        dy: &Images<Self>,
        x: &Images<Self>,
        dw: &mut Self::Buffer,
    ) -> Result<(), BackendError>;
}

impl BlocksOrNone for Cpu {
    type BlockWeight = BlockConvWeight<Cpu>;

    fn block_weight(
        &self,
        pattern: &Arc<BsrPattern>,
        values: &[f32],
        shape: ConvShape,
        options: ConvOptions,
    ) -> anyhow::Result<Self::BlockWeight> {
        Ok(BlockConvWeight::new(self, pattern.clone(), values, shape, options)?)
    }

    fn block_forward(&self, w: &Self::BlockWeight, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        self.conv_forward_bsr(w, x, y)
    }

    fn block_input_grad(
        &self,
        w: &Self::BlockWeight,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        self.conv_input_grad_bsr(w, dy, dx)
    }

    fn block_weight_grad(
        &self,
        w: &Self::BlockWeight,
        dy: &Images<Self>,
        x: &Images<Self>,
        dw: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        self.conv_weight_grad_bsr(&w.plan, dy, x, dw, false)
    }
}

/// There are no convolutions in blocks on GPUs: no weight of that kind can be made.
#[cfg(feature = "gpu")]
impl BlocksOrNone for Gpu {
    type BlockWeight = std::convert::Infallible;

    fn block_weight(
        &self,
        _: &Arc<BsrPattern>,
        _: &[f32],
        _: ConvShape,
        _: ConvOptions,
    ) -> anyhow::Result<Self::BlockWeight> {
        let rule = "csr or dense: there are no convolutions in blocks on a GPU";
        Err(ConfigError::Value { option: "format", value: "bsr".to_owned(), rule }.into())
    }

    fn block_forward(&self, w: &Self::BlockWeight, _: &Images<Self>, _: &mut Images<Self>) -> Result<(), BackendError> {
        match *w {}
    }

    fn block_input_grad(
        &self,
        w: &Self::BlockWeight,
        _: &Images<Self>,
        _: &mut Images<Self>,
    ) -> Result<(), BackendError> {
        match *w {}
    }

    fn block_weight_grad(
        &self,
        w: &Self::BlockWeight,
        _: &Images<Self>,
        _: &Images<Self>,
        _: &mut Self::Buffer,
    ) -> Result<(), BackendError> {
        match *w {}
    }
}

/// A weight as it is stored.
enum Weight<B: BlocksOrNone> {
    Csr(Box<ConvWeight<B>>),
    Bsr(Box<B::BlockWeight>),
    Dense(B::Buffer),
}

/// Where a pass writes to.
enum Target<B: BlocksOrNone> {
    Y(Images<B>),
    Dx(Images<B>),
    Dw(B::Buffer),
    Grown(Vec<Candidate>),
}

/// A growth step that replaces three tenths of the entries, as RigL's first update does.
fn grow_request(exclude: &Arc<CsrPattern>) -> GrowRequest {
    GrowRequest { exclude: exclude.clone(), count: 3 * exclude.nnz() / 10, ties: Key::new(0).with_name("ties") }
}

impl<B: BlocksOrNone> Weight<B> {
    /// The weight, and how long its plan takes.
    fn new(
        backend: &B,
        stored: Option<&Stored>,
        values: &[f32],
        shape: ConvShape,
        options: ConvOptions,
    ) -> anyhow::Result<(Self, Duration)> {
        let start = Instant::now();
        match stored {
            Some(Stored::Csr(pattern)) => drop(backend.plan_conv(pattern.clone(), shape, options)?),
            // Planned below.
            Some(Stored::Bsr(_)) | None => {}
        }
        let mut plan_time = if stored.is_some() { start.elapsed() } else { Duration::ZERO };
        let weight = match stored {
            Some(Stored::Csr(pattern)) => {
                Self::Csr(Box::new(ConvWeight::new(backend, pattern.clone(), values, shape, options)?))
            }
            Some(Stored::Bsr(pattern)) => {
                let start = Instant::now();
                let weight = backend.block_weight(pattern, values, shape, options)?;
                plan_time = start.elapsed();
                Self::Bsr(Box::new(weight))
            }
            None => {
                let mut weight = backend.zeros(values.len())?;
                backend.upload(values, &mut weight)?;
                Self::Dense(weight)
            }
        };
        Ok((weight, plan_time))
    }

    /// The pass, as a training step pays it.
    fn run(
        &mut self,
        backend: &B,
        shape: ConvShape,
        (x, dy): (&Images<B>, &Images<B>),
        target: &mut Target<B>,
    ) -> Result<(), BackendError> {
        match (self, target) {
            (Self::Csr(weight), Target::Y(y)) => backend.conv_forward(weight, x, y),
            (Self::Csr(weight), Target::Dx(dx)) => {
                // A training step changes the values between two calls.
                weight.refresh(backend)?;
                backend.conv_input_grad(weight, dy, dx)
            }
            (Self::Csr(weight), Target::Dw(dw)) => backend.conv_weight_grad(&weight.plan, dy, x, dw, false),
            (Self::Csr(weight), Target::Grown(found)) => {
                *found = backend.grow_conv(shape, &grow_request(backend.conv_pattern(&weight.plan)), &[(dy, x)])?;
                Ok(())
            }
            (Self::Bsr(_) | Self::Dense(_), Target::Grown(_)) => unreachable!("refused among the options"),
            (Self::Bsr(weight), Target::Y(y)) => backend.block_forward(weight, x, y),
            (Self::Bsr(weight), Target::Dx(dx)) => backend.block_input_grad(weight, dy, dx),
            (Self::Bsr(weight), Target::Dw(dw)) => backend.block_weight_grad(weight, dy, x, dw),
            (Self::Dense(weight), Target::Y(y)) => backend.conv_forward_dense(shape, weight, x, y),
            (Self::Dense(weight), Target::Dx(dx)) => backend.conv_input_grad_dense(shape, weight, dy, dx),
            (Self::Dense(_), Target::Dw(dw)) => backend.conv_weight_grad_dense(shape, dy, x, dw, false),
        }
    }
}

impl<B: BlocksOrNone> Target<B> {
    /// A target full of NaN, but for the zeros around images.
    fn new(backend: &B, pass: Pass, [x, y]: [ImageLayout; 2], nnz: usize) -> anyhow::Result<Self> {
        let images = |layout: ImageLayout| pack(backend, layout, &vec![f32::NAN; pixels(layout)]);
        Ok(match pass {
            Pass::Forward => Self::Y(images(y)?),
            Pass::InputGrad => Self::Dx(images(x)?),
            Pass::WeightGrad => {
                let mut values = backend.zeros(nnz)?;
                backend.fill(f32::NAN, &mut values)?;
                Self::Dw(values)
            }
            Pass::Grow => Self::Grown(Vec::new()),
        })
    }

    /// The result, images as NCHW; none if a number is NaN, or not zero where images must be.
    fn read(&self, backend: &B) -> anyhow::Result<Option<Vec<f32>>> {
        let host = |buffer: &B::Buffer| -> anyhow::Result<Vec<f32>> {
            let mut host = vec![0.0; backend.len(buffer)];
            backend.download(buffer, &mut host)?;
            Ok(host)
        };
        let values = match self {
            Self::Y(images) | Self::Dx(images) => {
                let mut values = vec![0.0; pixels(images.layout)];
                let held = host(&images.data)?;
                images.layout.unpack(&held, &mut values)?;
                let mut again = vec![0.0; images.layout.len()];
                images.layout.pack(&values, &mut again)?;
                if again != held {
                    return Ok(None);
                }
                values
            }
            Self::Dw(values) => host(values)?,
            Self::Grown(found) => found.iter().map(|candidate| candidate.score).collect(),
        };
        Ok(if values.iter().any(|value| value.is_nan()) { None } else { Some(values) })
    }
}

fn pixels(layout: ImageLayout) -> usize {
    layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1]
}

fn pack<B: BlocksOrNone>(backend: &B, layout: ImageLayout, data: &[f32]) -> anyhow::Result<Images<B>> {
    let mut packed = vec![0.0; layout.len()];
    layout.pack(data, &mut packed)?;
    let mut images = Images::zeros(backend, layout)?;
    backend.upload(&packed, &mut images.data)?;
    Ok(images)
}

/// A subject with its operands; both sides read the same.
struct Case<'a, B: BlocksOrNone> {
    backend: &'a B,
    subject: &'a Convolution,
    seed: u64,
    layouts: [ImageLayout; 2],
    values: Vec<f32>,
    weight: Weight<B>,
    plan_time: Duration,
    /// NCHW, for the reference.
    x: Vec<f32>,
    dy: Vec<f32>,
    operands: Operands<Images<B>>,
}

impl<'a, B: BlocksOrNone> Case<'a, B> {
    fn new(backend: &'a B, subject: &'a Convolution, seed: u64) -> anyhow::Result<Self> {
        let layouts @ [layout_x, layout_y] = subject.layouts(backend)?;
        let values = numbers(seed, "values", subject.nnz());
        let options = ConvOptions { x: layout_x, y: layout_y, input_grad: subject.pass == Pass::InputGrad };
        let (weight, plan_time) = Weight::new(backend, subject.stored.as_ref(), &values, subject.shape, options)?;
        let (x, dy) = (numbers(seed, "x", pixels(layout_x)), numbers(seed, "dy", pixels(layout_y)));
        let packed = |layout| move |data: &[f32]| pack(backend, layout, data);
        let operands = Operands::new(&x, packed(layout_x), &dy, packed(layout_y))?;
        Ok(Self { backend, subject, seed, layouts, values, weight, plan_time, x, dy, operands })
    }

    /// Runs the pass once and compares some of the results, drawn by chance; returns the largest error, 1 being what
    /// rounding may cause.
    fn check(&mut self) -> anyhow::Result<f64> {
        let Convolution { pass, shape, sizes: ConvSizes { size, samples, .. }, .. } = *self.subject;
        let mut target = Target::new(self.backend, pass, self.layouts, self.values.len())?;
        let first = (&self.operands.x[0], &self.operands.dy[0]);
        self.weight.run(self.backend, shape, first, &mut target)?;
        let Some(got) = target.read(self.backend)? else { return Ok(f64::INFINITY) };
        if let Target::Grown(found) = &target {
            return Ok(self.check_growth(found));
        }
        let places = self.subject.places();
        let mut weight = vec![0.0; shape.rows() * shape.columns()];
        for (place, &value) in places.iter().zip(&self.values) {
            place.iter().for_each(|&place| weight[place] = value);
        }
        let exact = |position: usize| match pass {
            Pass::Forward => reference::conv::forward_at(shape, size, &weight, &self.x, position),
            Pass::InputGrad => reference::conv::input_grad_at(shape, size, &weight, &self.dy, position),
            Pass::WeightGrad | Pass::Grow => places[position].map_or(Exact::ZERO, |place| {
                reference::conv::weight_grad_at(shape, size, samples, &self.dy, &self.x, place)
            }),
        };
        let most = if pass == Pass::WeightGrad { CHECKED_WEIGHTS } else { CHECKED_PIXELS };
        let key = Key::new(self.seed).with_name("checked");
        let sample = |i: usize| if got.len() <= most { i } else { key.below(i as u64, got.len() as u64) as usize };
        let checked: Vec<usize> = (0..got.len().min(most)).map(sample).collect();
        Ok(worst(checked.iter().map(|&at| got[at]), checked.iter().map(|&at| exact(at))))
    }

    /// Scores must be right, and no position left out may be larger than the smallest one found, up to rounding; some of both
    /// are looked at, drawn by chance.
    fn check_growth(&self, found: &[Candidate]) -> f64 {
        let Convolution { shape, sizes: ConvSizes { size, samples, .. }, .. } = *self.subject;
        let Some(Stored::Csr(pattern)) = &self.subject.stored else { return f64::INFINITY };
        let (all, columns) = (shape.rows() * shape.columns(), shape.columns());
        let request = grow_request(pattern);
        if found.len() != request.count.min(all - pattern.nnz()) {
            return f64::INFINITY;
        }
        let exact = |place: usize| {
            let exact = reference::conv::weight_grad_at(shape, size, samples, &self.dy, &self.x, place);
            Exact { value: exact.value.abs(), ..exact }
        };
        let place = |c: &Candidate| c.row as usize * columns + c.column as usize;
        let smallest = found.iter().map(|c| f64::from(c.score)).fold(f64::INFINITY, f64::min);
        let key = Key::new(self.seed).with_name("checked");
        let mut worst: f64 = 0.0;
        for draw in 0..CHECKED_WEIGHTS as u64 {
            if let Some(candidate) = found.get(key.below(2 * draw, found.len().max(1) as u64) as usize) {
                worst = worst.max(exact(place(candidate)).error(candidate.score));
            }
            let other = key.below(2 * draw + 1, all as u64) as usize;
            let is_stored = pattern.row(other / columns).binary_search(&((other % columns) as u32)).is_ok();
            match found.binary_search_by_key(&other, place) {
                Ok(_) if is_stored => return f64::INFINITY,
                Err(_) if !is_stored => {
                    let exact = exact(other);
                    if exact.value > smallest {
                        worst = worst.max(Exact { value: smallest, ..exact }.error(exact.value as f32));
                    }
                }
                _ => {}
            }
        }
        worst
    }

    /// Times both sides; only the one if that is the dense pass.
    fn time(&mut self) -> anyhow::Result<Times> {
        let Convolution { pass, shape, .. } = *self.subject;
        let (backend, operands, weight) = (self.backend, &self.operands, &mut self.weight);
        let mut target = Target::new(backend, pass, self.layouts, self.values.len())?;
        // A device that works through a queue is asked for several passes before it is waited for.
        let calls = backend.results_per_reading();
        let wait = || backend.synchronize().expect(CHECKED);
        let call = || {
            (0..calls).for_each(|_| weight.run(backend, shape, operands.next(), &mut target).expect(CHECKED));
            wait();
        };
        if self.subject.stored.is_none() {
            let time = repeat(BUDGET, LEAST_CALLS, call).seconds() / calls as f64;
            return Ok(Times { time, dense: None });
        }
        let size = shape.rows() * shape.columns();
        let mut dense_weight = backend.zeros(size)?;
        backend.upload(&numbers(self.seed, "dense", size), &mut dense_weight)?;
        // What growth looks through is the dense gradient.
        let dense_pass = if pass == Pass::Grow { Pass::WeightGrad } else { pass };
        let (mut dense_weight, mut dense_target) =
            (Weight::Dense(dense_weight), Target::new(backend, dense_pass, self.layouts, size)?);
        let dense_call = || {
            (0..calls)
                .for_each(|_| dense_weight.run(backend, shape, operands.next(), &mut dense_target).expect(CHECKED));
            wait();
        };
        Ok(Times::of(alternate(BUDGET, LEAST_CALLS, call, dense_call), calls, "conv"))
    }
}
