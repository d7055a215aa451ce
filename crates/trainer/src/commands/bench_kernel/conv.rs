//! Convolutions.

use std::time::{Duration, Instant};

use sparse_kernels::cpu::{Buffer, Cpu};
use sparse_kernels::random::Key;
use sparse_kernels::reference::{self, Exact};
use sparse_kernels::{
    BackendError, BlockConvWeight, BlockSparseConv, Candidate, ConvOptions, ConvShape, ConvWeight, CsrPattern,
    DenseConv, GrowRequest, ImageLayout, Images, SparseConv, Storage,
};

use super::{
    BUDGET, CHECKED, LEAST_CALLS, Measurement, Operands, Stored, Subject, Times, Yardstick, is_wrong, numbers, worst,
};
use crate::args::{BenchKernelArgs, ConvSizes, KernelFormat, KernelShape};
use crate::bench::{alternate, repeat};
use crate::config::{ConfigError, Format};

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
/// If an option does not suit it, or a pattern cannot be had.
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
    fn layouts(&self, cpu: &Cpu) -> anyhow::Result<[ImageLayout; 2]> {
        let ConvSizes { size, samples, .. } = self.sizes;
        let strip = cpu.image_strip(self.shape, samples);
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
        let mut case = Case::new(cpu, self, seed)?;
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

/// A weight as it is stored.
enum Weight {
    Csr(Box<ConvWeight<Cpu>>),
    Bsr(Box<BlockConvWeight<Cpu>>),
    Dense(Buffer),
}

/// Where a pass writes to.
enum Target {
    Y(Images<Cpu>),
    Dx(Images<Cpu>),
    Dw(Buffer),
    Grown(Vec<Candidate>),
}

/// A growth step that replaces three tenths of the entries, as RigL's first update does.
fn grow_request(exclude: &CsrPattern) -> GrowRequest<'_> {
    GrowRequest { exclude, count: 3 * exclude.nnz() / 10, ties: Key::new(0).with_name("ties") }
}

impl Weight {
    /// The weight, and how long its plan takes.
    fn new(
        cpu: &Cpu,
        stored: Option<&Stored>,
        values: &[f32],
        shape: ConvShape,
        options: ConvOptions,
    ) -> anyhow::Result<(Self, Duration)> {
        let start = Instant::now();
        match stored {
            Some(Stored::Csr(pattern)) => drop(cpu.plan_conv(pattern.clone(), shape, options)?),
            Some(Stored::Bsr(pattern)) => drop(cpu.plan_conv_blocks(pattern.clone(), shape, options)?),
            None => {}
        }
        let plan_time = if stored.is_some() { start.elapsed() } else { Duration::ZERO };
        let weight = match stored {
            Some(Stored::Csr(pattern)) => {
                Self::Csr(Box::new(ConvWeight::new(cpu, pattern.clone(), values, shape, options)?))
            }
            Some(Stored::Bsr(pattern)) => {
                Self::Bsr(Box::new(BlockConvWeight::new(cpu, pattern.clone(), values, shape, options)?))
            }
            None => {
                let mut weight = cpu.zeros(values.len())?;
                cpu.upload(values, &mut weight)?;
                Self::Dense(weight)
            }
        };
        Ok((weight, plan_time))
    }

    /// The pass, as a training step pays it.
    fn run(
        &mut self,
        cpu: &Cpu,
        shape: ConvShape,
        (x, dy): (&Images<Cpu>, &Images<Cpu>),
        target: &mut Target,
    ) -> Result<(), BackendError> {
        match (self, target) {
            (Self::Csr(weight), Target::Y(y)) => cpu.conv_forward(weight, x, y),
            (Self::Csr(weight), Target::Dx(dx)) => {
                // A training step changes the values between two calls.
                weight.refresh(cpu)?;
                cpu.conv_input_grad(weight, dy, dx)
            }
            (Self::Csr(weight), Target::Dw(dw)) => cpu.conv_weight_grad(&weight.plan, dy, x, dw, false),
            (Self::Csr(weight), Target::Grown(found)) => {
                *found = cpu.grow_conv(shape, &grow_request(cpu.conv_pattern(&weight.plan)), &[(dy, x)])?;
                Ok(())
            }
            (Self::Bsr(_) | Self::Dense(_), Target::Grown(_)) => unreachable!("refused among the options"),
            (Self::Bsr(weight), Target::Y(y)) => cpu.conv_forward_bsr(weight, x, y),
            (Self::Bsr(weight), Target::Dx(dx)) => cpu.conv_input_grad_bsr(weight, dy, dx),
            (Self::Bsr(weight), Target::Dw(dw)) => cpu.conv_weight_grad_bsr(&weight.plan, dy, x, dw, false),
            (Self::Dense(weight), Target::Y(y)) => cpu.conv_forward_dense(shape, weight, x, y),
            (Self::Dense(weight), Target::Dx(dx)) => cpu.conv_input_grad_dense(shape, weight, dy, dx),
            (Self::Dense(_), Target::Dw(dw)) => cpu.conv_weight_grad_dense(shape, dy, x, dw, false),
        }
    }
}

impl Target {
    /// A target full of NaN, but for the zeros around images.
    fn new(cpu: &Cpu, pass: Pass, [x, y]: [ImageLayout; 2], nnz: usize) -> anyhow::Result<Self> {
        let images = |layout: ImageLayout| pack(cpu, layout, &vec![f32::NAN; pixels(layout)]);
        Ok(match pass {
            Pass::Forward => Self::Y(images(y)?),
            Pass::InputGrad => Self::Dx(images(x)?),
            Pass::WeightGrad => {
                let mut values = cpu.zeros(nnz)?;
                cpu.fill(f32::NAN, &mut values)?;
                Self::Dw(values)
            }
            Pass::Grow => Self::Grown(Vec::new()),
        })
    }

    /// The result, images as NCHW; none if a number is NaN, or not zero where images must be.
    fn read(&self) -> anyhow::Result<Option<Vec<f32>>> {
        let values = match self {
            Self::Y(images) | Self::Dx(images) => {
                let mut values = vec![0.0; pixels(images.layout)];
                images.layout.unpack(&images.data, &mut values)?;
                let mut again = vec![0.0; images.layout.len()];
                images.layout.pack(&values, &mut again)?;
                if again[..] != images.data[..] {
                    return Ok(None);
                }
                values
            }
            Self::Dw(values) => values.to_vec(),
            Self::Grown(found) => found.iter().map(|candidate| candidate.score).collect(),
        };
        Ok(if values.iter().any(|value| value.is_nan()) { None } else { Some(values) })
    }
}

fn pixels(layout: ImageLayout) -> usize {
    layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1]
}

fn pack(cpu: &Cpu, layout: ImageLayout, data: &[f32]) -> anyhow::Result<Images<Cpu>> {
    let mut images = Images::zeros(cpu, layout)?;
    layout.pack(data, &mut images.data)?;
    Ok(images)
}

/// A subject with its operands; both sides read the same.
struct Case<'a> {
    cpu: &'a Cpu,
    subject: &'a Convolution,
    seed: u64,
    layouts: [ImageLayout; 2],
    values: Vec<f32>,
    weight: Weight,
    plan_time: Duration,
    /// NCHW, for the reference.
    x: Vec<f32>,
    dy: Vec<f32>,
    operands: Operands<Images<Cpu>>,
}

impl<'a> Case<'a> {
    fn new(cpu: &'a Cpu, subject: &'a Convolution, seed: u64) -> anyhow::Result<Self> {
        let layouts @ [layout_x, layout_y] = subject.layouts(cpu)?;
        let values = numbers(seed, "values", subject.nnz());
        let options = ConvOptions { x: layout_x, y: layout_y, input_grad: subject.pass == Pass::InputGrad };
        let (weight, plan_time) = Weight::new(cpu, subject.stored.as_ref(), &values, subject.shape, options)?;
        let (x, dy) = (numbers(seed, "x", pixels(layout_x)), numbers(seed, "dy", pixels(layout_y)));
        let packed = |layout| move |data: &[f32]| pack(cpu, layout, data);
        let operands = Operands::new(&x, packed(layout_x), &dy, packed(layout_y))?;
        Ok(Self { cpu, subject, seed, layouts, values, weight, plan_time, x, dy, operands })
    }

    /// Runs the pass once and compares some of the results, drawn by chance; returns the largest error, 1 being what
    /// rounding may cause.
    fn check(&mut self) -> anyhow::Result<f64> {
        let Convolution { pass, shape, sizes: ConvSizes { size, samples, .. }, .. } = *self.subject;
        let mut target = Target::new(self.cpu, pass, self.layouts, self.values.len())?;
        let first = (&self.operands.x[0], &self.operands.dy[0]);
        self.weight.run(self.cpu, shape, first, &mut target)?;
        let Some(got) = target.read()? else { return Ok(f64::INFINITY) };
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
        let (cpu, operands, weight) = (self.cpu, &self.operands, &mut self.weight);
        let mut target = Target::new(cpu, pass, self.layouts, self.values.len())?;
        let call = || weight.run(cpu, shape, operands.next(), &mut target).expect(CHECKED);
        if self.subject.stored.is_none() {
            return Ok(Times { time: repeat(BUDGET, LEAST_CALLS, call).seconds(), dense: None });
        }
        let size = shape.rows() * shape.columns();
        let mut dense_weight = cpu.zeros(size)?;
        cpu.upload(&numbers(self.seed, "dense", size), &mut dense_weight)?;
        // What growth looks through is the dense gradient.
        let dense_pass = if pass == Pass::Grow { Pass::WeightGrad } else { pass };
        let (mut dense_weight, mut dense_target) =
            (Weight::Dense(dense_weight), Target::new(cpu, dense_pass, self.layouts, size)?);
        let dense_call = || dense_weight.run(cpu, shape, operands.next(), &mut dense_target).expect(CHECKED);
        Ok(Times::new(alternate(BUDGET, LEAST_CALLS, call, dense_call), "conv"))
    }
}
