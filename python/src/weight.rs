//! A sparse weight: its pattern, its plans, and what the next backward pass is to find for growth.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use autograd::{Geometry, Weight as Planned};
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use rigl::topology::random_pattern;
use sparse_kernels::cpu::{Buffer, Cpu};
use sparse_kernels::random::Key;
use sparse_kernels::{
    Activations, BackendError, BsrPattern, Candidate, ConvOptions, ConvShape, CsrPattern, GrowRequest, ImageLayout,
    ImageNeural, Images, Layout, MatrixMut, MatrixRef, Neural, PlanOptions, SparseConv, SparseLinear, Storage,
    StripLayout,
};

use crate::engine::engine;
use crate::{detached, value_error};

/// What a weight is as a matrix, and what it is used for.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `[outputs, inputs]`.
    Linear([usize; 2]),
    /// `[outputs, inputs / groups · kh · kw]`.
    Conv(ConvShape),
}

impl Kind {
    fn size(self) -> [usize; 2] {
        match self {
            Self::Linear(size) => size,
            Self::Conv(shape) => [shape.rows(), shape.columns()],
        }
    }
}

/// The pattern of a weight: of entries, or of blocks.
#[derive(Debug, Clone)]
enum Topology {
    Csr(Arc<CsrPattern>),
    Blocks(Arc<BsrPattern>),
}

/// A weight for operands that lie as the geometry says.
type Plan = (Geometry, Box<dyn Planned<Cpu>>);

/// Samples that go through a pass together.
struct Group {
    /// Their numbers in the tensor of inputs.
    x: Range<usize>,
    /// Those in the tensor of outputs.
    y: Range<usize>,
    /// Of both.
    layouts: [Layout; 2],
}

/// Fewest samples of a group, and what their number is a multiple of: kernels sum up over four strips at most.
const GROUP: usize = 4 * StripLayout::SPARSE_STRIP;

/// What the next backward passes are to find.
#[derive(Debug, Default)]
pub struct Growth {
    /// None if there is nothing to find.
    pub request: Option<GrowRequest>,
    /// Whether gradients of several passes are added up before anything is chosen.
    pub adds_up: bool,
    /// What was found.
    pub found: Option<Vec<Candidate>>,
    /// The sum so far of the gradient at all positions.
    dense: Option<Buffer>,
}

/// A sparse weight of a linear layer or a convolution. Values, gradients and activations are tensors of the caller's; this is the
/// pattern, what is planned for it, and what growth needs.
#[pyclass(frozen, module = "rigl._rigl")]
#[derive(Debug)]
pub struct Weight {
    kind: Kind,
    topology: Topology,
    /// By the layouts of the operands.
    planned: Mutex<Vec<Plan>>,
    pub growth: Mutex<Growth>,
}

/// A tensor's numbers, which the caller holds.
unsafe fn numbers<'a>(address: usize, len: usize) -> &'a [f32] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts(address as *const f32, len) }
}

/// A tensor's numbers, which the caller holds and nobody else uses.
unsafe fn numbers_mut<'a>(address: usize, len: usize) -> &'a mut [f32] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { std::slice::from_raw_parts_mut(address as *mut f32, len) }
}

fn indices(address: usize, len: usize) -> Vec<u32> {
    if len == 0 {
        return vec![];
    }
    // SAFETY: the package holds a tensor of so many i32 there. Negative ones become too large, and are refused.
    unsafe { std::slice::from_raw_parts(address as *const u32, len) }.to_vec()
}

fn guarded<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `csr`, or the size of the blocks of `bsrRxC`.
fn block_size(format: &str) -> PyResult<Option<[usize; 2]>> {
    if format == "csr" {
        return Ok(None);
    }
    let sizes = BsrPattern::BLOCK_SIZES;
    let mut all = sizes.into_iter().flat_map(|r| sizes.into_iter().map(move |c| [r, c]));
    let found = all.find(|[r, c]| format == format!("bsr{r}x{c}"));
    found.map(Some).ok_or_else(|| {
        PyValueError::new_err(format!(
            "format is {format:?}; it must be \"csr\", or \"bsrRxC\" with R and C of 1, 2, 4, 8 or 16, such as \"bsr8x8\""
        ))
    })
}

impl Weight {
    fn new(kind: Kind, topology: Topology) -> Self {
        Self { kind, topology, planned: Mutex::default(), growth: Mutex::default() }
    }

    /// The size of the grid that the pattern's entries stand in.
    fn grid(kind: Kind, block: Option<[usize; 2]>) -> [usize; 2] {
        let ([rows, columns], [r, c]) = (kind.size(), block.unwrap_or([1, 1]));
        [rows.div_ceil(r), columns.div_ceil(c)]
    }

    fn of_pattern(kind: Kind, block: Option<[usize; 2]>, pattern: Arc<CsrPattern>) -> PyResult<Self> {
        let [rows, columns] = kind.size();
        let topology = match block {
            None => Topology::Csr(pattern),
            Some(block) => {
                let blocks = BsrPattern::from_blocks(rows, columns, block, pattern).map_err(value_error)?;
                let taps = if let Kind::Conv(shape) = kind { shape.taps() } else { 1 };
                Topology::Blocks(Arc::new(blocks.with_taps(taps).map_err(value_error)?))
            }
        };
        Ok(Self::new(kind, topology))
    }

    /// A weight of the same kind with another pattern.
    pub fn with_pattern(&self, pattern: Arc<CsrPattern>) -> PyResult<Self> {
        Self::of_pattern(self.kind, self.block(), pattern)
    }

    /// The pattern of entries, or of blocks.
    pub fn pattern(&self) -> &Arc<CsrPattern> {
        match &self.topology {
            Topology::Csr(pattern) => pattern,
            Topology::Blocks(pattern) => pattern.blocks(),
        }
    }

    /// The size of a block; none of single entries.
    pub fn block(&self) -> Option<[usize; 2]> {
        match &self.topology {
            Topology::Csr(_) => None,
            Topology::Blocks(pattern) => Some(pattern.block_size()),
        }
    }

    /// What a method sees of values: they, or the norms of blocks.
    pub fn magnitudes(&self, values: &[f32]) -> Result<Vec<f32>, BackendError> {
        match &self.topology {
            Topology::Csr(_) => Ok(values.to_vec()),
            Topology::Blocks(pattern) => Ok(pattern.block_norms(values)?),
        }
    }

    fn values_len(&self) -> usize {
        match &self.topology {
            Topology::Csr(pattern) => pattern.nnz(),
            Topology::Blocks(pattern) => pattern.nnz(),
        }
    }

    /// The geometry for inputs of this shape: `[samples, features]`, or `[samples, channels, height, width]`.
    fn geometry(&self, cpu: &Cpu, input: &[usize]) -> PyResult<(Geometry, [Layout; 2])> {
        match (self.kind, input) {
            (Kind::Linear([nrows, ncols]), &[samples, features]) => {
                if features != ncols {
                    return Err(PyValueError::new_err(format!(
                        "the input has {features} features; it must have {ncols}"
                    )));
                }
                let options = PlanOptions { strip: StripLayout::SPARSE_STRIP, transpose: true };
                let x = StripLayout::sparse(samples, ncols);
                Ok((Geometry::Linear { nrows, ncols, options }, [x.into(), x.with_features(nrows).into()]))
            }
            (Kind::Conv(shape), &[samples, channels, height, width]) => {
                let size = [height, width];
                let layouts = || -> Result<_, BackendError> {
                    let [border_x, border_y] = shape.borders(size)?;
                    let strip = cpu.image_strip(shape, samples);
                    let x = ImageLayout::new(1, channels, size, border_x, strip)?;
                    let y = ImageLayout::new(1, shape.out_channels(), shape.output_size(size)?, border_y, strip)?;
                    Ok([x, y])
                };
                let [x, y] = layouts().map_err(value_error)?;
                let options = ConvOptions { x, y, input_grad: true };
                let [x, y] = [x, y].map(|layout| layout.with_samples(samples).into());
                Ok((Geometry::Conv { shape, options }, [x, y]))
            }
            _ => Err(PyValueError::new_err(format!(
                "the input has {} dimensions, which is not what the layer reads",
                input.len()
            ))),
        }
    }

    /// The geometry of a pass over these samples, and groups of them whose operands stay near the processor between conversions and
    /// products.
    ///
    /// A group of a linear layer is about as large as the weight, which is read again for each, but no smaller than what a kernel of
    /// single entries sums up at a time: their gradients are those of all samples at once, to the bit. A convolution takes all
    /// samples, and so does a pass that is to be `whole`.
    fn groups(
        &self,
        cpu: &Cpu,
        threads: usize,
        input: &[usize],
        [x_len, y_len]: [usize; 2],
        whole: bool,
    ) -> PyResult<(Geometry, Vec<Group>)> {
        let (geometry, layouts) = self.geometry(cpu, input)?;
        let [Layout::Strips(x), Layout::Strips(y)] = layouts else {
            return Ok((geometry, vec![Group { x: 0..x_len, y: 0..y_len, layouts }]));
        };
        let size = size_of::<f32>() * (x.features() + y.features());
        let weight = (size_of::<f32>() + size_of::<u32>()) * self.values_len();
        let least = (weight / size.max(1)).next_multiple_of(GROUP).max(GROUP * threads);
        // The last takes what is left over, whose kernels would sum up otherwise if they saw it alone.
        let count = if whole { 1 } else { (x.lanes() / least).max(1) };
        let group = |index| {
            let lanes = index * least..if index + 1 == count { x.lanes() } else { (index + 1) * least };
            let part = |layout: StripLayout| lanes.start * layout.features()..lanes.end * layout.features();
            let layout = |layout: StripLayout| StripLayout::sparse(lanes.len(), layout.features()).into();
            Group { x: part(x), y: part(y), layouts: [layout(x), layout(y)] }
        };
        Ok((geometry, (0..count).map(group).collect()))
    }

    /// The plan for a geometry, with these values. No lock is held while it is in use: threads of the pool might wait for it. Two calls
    /// at a time have a plan each.
    fn take_plan(&self, cpu: &Cpu, geometry: Geometry, values: &[f32], backward: bool) -> PyResult<Plan> {
        let mut plan = {
            let mut planned = guarded(&self.planned);
            let place = planned.iter().position(|(other, _)| *other == geometry);
            place.map(|place| planned.swap_remove(place))
        };
        if plan.is_none() {
            let zeros = cpu.zeros(self.values_len()).map_err(value_error)?;
            let weight = match &self.topology {
                Topology::Csr(pattern) => geometry.csr(cpu, pattern.clone(), zeros),
                Topology::Blocks(pattern) => geometry.blocks(cpu, pattern.clone(), zeros),
            };
            plan = Some((geometry, weight.map_err(value_error)?));
        }
        let mut plan = plan.expect("it was made");
        plan.1.values_mut().copy_from_slice(values);
        if backward {
            plan.1.refresh(cpu).map_err(value_error)?;
        }
        Ok(plan)
    }

    fn return_plan(&self, plan: Plan) {
        // Networks see few sizes of images; who sees more plans anew.
        const PLANS: usize = 4;
        let mut planned = guarded(&self.planned);
        planned.truncate(PLANS - 1);
        planned.insert(0, plan);
    }

    /// Calls `work` with the plan for a geometry, which has these values.
    fn with_planned<T>(
        &self,
        cpu: &Cpu,
        geometry: Geometry,
        values: &[f32],
        backward: bool,
        work: impl FnOnce(&dyn Planned<Cpu>) -> Result<T, autograd::Error>,
    ) -> PyResult<T> {
        let plan = self.take_plan(cpu, geometry, values, backward)?;
        let result = work(&*plan.1).map_err(value_error);
        self.return_plan(plan);
        result
    }
}

/// Samples one after the other, in the layout of the kernels, in memory that is lent.
fn packed(cpu: &Cpu, layout: Layout, from: &[f32]) -> Result<Activations<Cpu>, autograd::Error> {
    let mut to = lent(cpu, layout)?;
    match &mut to {
        Activations::Strips(strips) => cpu.pack_samples(from, strips)?,
        Activations::Images(Images { layout, data }) => layout.pack(from, data)?,
    }
    Ok(to)
}

/// Rows of features, each with all lanes, in the layout of the kernels, in memory that is lent.
fn packed_rows(cpu: &Cpu, layout: Layout, from: &[f32]) -> Result<Activations<Cpu>, autograd::Error> {
    let mut to = lent(cpu, layout)?;
    let Layout::Strips(strips) = layout else { unreachable!("a matrix joins strips") };
    strips.pack(MatrixRef::new(from, strips.features(), strips.lanes(), strips.lanes())?, to.data_mut())?;
    Ok(to)
}

fn lent(cpu: &Cpu, layout: Layout) -> Result<Activations<Cpu>, autograd::Error> {
    Ok(Activations::new(layout, cpu.lend(layout.len())?))
}

/// The border and padding of images are zero, which kernels rely on.
fn lent_zeros(cpu: &Cpu, layout: Layout) -> Result<Activations<Cpu>, autograd::Error> {
    let mut to = lent(cpu, layout)?;
    if let Activations::Images(images) = &mut to {
        images.data.fill(0.0);
    }
    Ok(to)
}

fn unpack(cpu: &Cpu, from: &Activations<Cpu>, to: &mut [f32]) -> Result<(), autograd::Error> {
    match from {
        Activations::Strips(strips) => cpu.unpack_samples(strips, to)?,
        Activations::Images(Images { layout, data }) => layout.unpack(data, to)?,
    }
    Ok(())
}

fn give_back<const N: usize>(cpu: &Cpu, activations: [Activations<Cpu>; N]) {
    activations.into_iter().for_each(|activations| cpu.give_back(activations.into_data()));
}

#[pymethods]
impl Weight {
    /// The weight `[rows, columns]` of a linear layer, with a pattern of 32-bit indices.
    #[staticmethod]
    fn linear(
        rows: usize,
        columns: usize,
        format: &str,
        offsets: (usize, usize),
        entries: (usize, usize),
    ) -> PyResult<Self> {
        Self::checked(Kind::Linear([rows, columns]), format, offsets, entries)
    }

    /// The weight of a convolution: output and input channels, kernel, stride, padding, dilation, groups.
    #[staticmethod]
    #[expect(clippy::too_many_arguments, reason = "what a convolution has")]
    fn conv(
        channels: [usize; 2],
        kernel: [usize; 2],
        stride: [usize; 2],
        padding: [usize; 2],
        dilation: [usize; 2],
        groups: usize,
        format: &str,
        offsets: (usize, usize),
        entries: (usize, usize),
    ) -> PyResult<Self> {
        Self::checked(
            Kind::Conv(conv_shape(channels, kernel, stride, padding, dilation, groups)?),
            format,
            offsets,
            entries,
        )
    }

    /// The offsets of the rows and the columns of a random pattern of so many weights, over a matrix of this size.
    ///
    /// Blocks are whole: there are as many as hold so many weights, at least one.
    #[staticmethod]
    fn random_pattern(
        py: Python<'_>,
        size: [usize; 2],
        format: &str,
        nnz: usize,
        seed: u64,
        name: &str,
    ) -> PyResult<(Vec<u32>, Vec<u32>)> {
        let key = Key::new(seed).with_name("pattern").with_name(name);
        detached(py, || {
            let [r, c] = block_size(format)?.unwrap_or([1, 1]);
            let (rows, columns) = (size[0].div_ceil(r), size[1].div_ceil(c));
            let positions = (size[0] * size[1]).max(1);
            let count = ((nnz * rows * columns) as f64 / positions as f64).round().max(1.0) as usize;
            let pattern = random_pattern(rows, columns, count.min(rows * columns), key).map_err(value_error)?;
            Ok((pattern.row_offsets().to_vec(), pattern.col_indices().to_vec()))
        })
    }

    /// Values that the layer stores, padding of blocks included.
    #[getter]
    fn nnz(&self) -> usize {
        self.values_len()
    }

    /// Entries of the pattern: weights, or blocks.
    #[getter]
    fn entries(&self) -> usize {
        self.pattern().nnz()
    }

    /// Offsets of the rows of the pattern, and columns of its entries.
    fn indices(&self) -> (Vec<u32>, Vec<u32>) {
        (self.pattern().row_offsets().to_vec(), self.pattern().col_indices().to_vec())
    }

    /// For each stored value its place in the dense weight, row by row; -1 for the padding of blocks.
    fn positions(&self, py: Python<'_>) -> PyResult<Vec<i64>> {
        detached(py, || {
            let [_, columns] = self.kind.size();
            Ok(match &self.topology {
                Topology::Csr(pattern) => {
                    pattern.positions().map(|(row, column)| place(columns, row as usize, column as usize)).collect()
                }
                Topology::Blocks(pattern) => {
                    let mut places = vec![-1; pattern.nnz()];
                    for entry in pattern.entries() {
                        places[entry.position] = place(columns, entry.row, entry.column);
                    }
                    places
                }
            })
        })
    }

    /// `y = x · Wᵀ + bias`, or the convolution: x and y are samples one after the other; the address of
    /// `bias` is 0 for none.
    fn forward(
        &self,
        py: Python<'_>,
        threads: usize,
        x: (usize, Vec<usize>),
        values: (usize, usize),
        bias: (usize, usize),
        y: (usize, usize),
    ) -> PyResult<()> {
        let (x, shape) = x;
        detached(py, || {
            let cpu = engine(threads)?;
            let (geometry, groups) = self.groups(&cpu, threads, &shape, [shape.iter().product(), y.1], false)?;
            self.expect_values(values.1)?;
            // SAFETY: the package has checked that the tensors have these lengths, and holds them.
            let (x, values, y) =
                unsafe { (numbers(x, shape.iter().product()), numbers(values.0, values.1), numbers_mut(y.0, y.1)) };
            // SAFETY: as above.
            let bias = (bias.0 != 0).then(|| unsafe { numbers(bias.0, bias.1) });
            let bias = bias.map(|bias| cpu.uploaded(bias)).transpose().map_err(value_error)?;
            cpu.install(|| {
                self.with_planned(&cpu, geometry, values, false, |weight| {
                    for Group { x: of_x, y: of_y, layouts: [x_layout, y_layout] } in groups {
                        let x = packed(&cpu, x_layout, &x[of_x])?;
                        let mut to = lent_zeros(&cpu, y_layout)?;
                        match &bias {
                            Some(bias) => weight.forward_bias_relu(&cpu, bias, false, &x, &mut to)?,
                            None => weight.forward(&cpu, &x, &mut to)?,
                        }
                        unpack(&cpu, &to, &mut y[of_y])?;
                        give_back(&cpu, [x, to]);
                    }
                    Ok(())
                })
            })
        })
    }

    /// The gradients of x, values and bias from that of y; an address of 0 is a gradient that nobody wants. Finds what growth was
    /// asked for.
    #[expect(clippy::too_many_arguments, reason = "what a backward pass has")]
    fn backward(
        &self,
        py: Python<'_>,
        threads: usize,
        dy: (usize, usize),
        x: (usize, Vec<usize>),
        values: (usize, usize),
        dx: usize,
        dvalues: usize,
        dbias: usize,
    ) -> PyResult<()> {
        let (x, shape) = x;
        detached(py, || {
            let cpu = engine(threads)?;
            let grows = dvalues != 0 && guarded(&self.growth).request.is_some();
            if grows && guarded(&self.growth).found.is_some() {
                return Err(PyRuntimeError::new_err(
                    "a layer had two backward passes in a step that changes the topology; \
                     pass the number of backward passes per step to the scheduler, such as accumulation=2",
                ));
            }
            let (x_len, rows) = (shape.iter().product(), self.kind.size()[0]);
            // The gradient of a block is summed up over all samples in registers.
            let whole = grows || dvalues != 0 && self.block().is_some();
            let (geometry, groups) = self.groups(&cpu, threads, &shape, [x_len, dy.1], whole)?;
            self.expect_values(values.1)?;
            // SAFETY: the package has checked that the tensors have these lengths, and holds them.
            let (x, dy, values) = unsafe { (numbers(x, x_len), numbers(dy.0, dy.1), numbers(values.0, values.1)) };
            // SAFETY: as above; those that nobody wants have no numbers, and the bias has one for each row.
            let (dx, dvalues, dbias) = unsafe {
                let wanted = |address, len| numbers_mut(address, if address == 0 { 0 } else { len });
                (wanted(dx, x_len), wanted(dvalues, values.len()), wanted(dbias, rows))
            };
            let (mut of_bias, mut of_values) =
                (cpu.zeros(dbias.len()).map_err(value_error)?, cpu.lend(dvalues.len()).map_err(value_error)?);
            cpu.install(|| {
                self.with_planned(&cpu, geometry, values, !dx.is_empty(), |weight| {
                    for (index, group) in groups.into_iter().enumerate() {
                        let Group { x: of_x, y: of_y, layouts: [x_layout, y_layout] } = group;
                        let mut dy = packed(&cpu, y_layout, &dy[of_y])?;
                        if !dbias.is_empty() {
                            bias_grad(&cpu, &mut dy, &mut of_bias, index > 0)?;
                        }
                        if !dvalues.is_empty() {
                            let x = packed(&cpu, x_layout, &x[of_x.clone()])?;
                            weight.weight_grad(&cpu, (&dy, &x), &mut of_values, index > 0)?;
                            if grows {
                                self.grow(&cpu, weight, &dy, &x)?;
                            }
                            give_back(&cpu, [x]);
                        }
                        if !dx.is_empty() {
                            let mut grad = lent_zeros(&cpu, x_layout)?;
                            weight.input_grad(&cpu, &dy, &mut grad)?;
                            unpack(&cpu, &grad, &mut dx[of_x])?;
                            give_back(&cpu, [grad]);
                        }
                        give_back(&cpu, [dy]);
                    }
                    Ok(())
                })
            })?;
            dbias.copy_from_slice(&of_bias);
            dvalues.copy_from_slice(&of_values);
            cpu.give_back(of_values);
            Ok(())
        })
    }

    /// `y = W · x`, or `y = Wᵀ · x` with `transpose`, of arrays `[feature, lane]` one row after the other.
    #[expect(clippy::too_many_arguments, reason = "what a product has")]
    fn product(
        &self,
        py: Python<'_>,
        threads: usize,
        transpose: bool,
        lanes: usize,
        values: (usize, usize),
        x: (usize, usize),
        y: (usize, usize),
    ) -> PyResult<()> {
        detached(py, || {
            let cpu = engine(threads)?;
            let [rows, columns] = self.kind.size();
            let (geometry, [of_columns, of_rows]) = self.geometry(&cpu, &[lanes, columns])?;
            self.expect_values(values.1)?;
            // SAFETY: the package has checked that the arrays have these lengths, and holds them.
            let (x, values, y) = unsafe { (numbers(x.0, x.1), numbers(values.0, values.1), numbers_mut(y.0, y.1)) };
            let (from, to) = if transpose { (of_rows, of_columns) } else { (of_columns, of_rows) };
            cpu.install(|| {
                let x = packed_rows(&cpu, from, x).map_err(value_error)?;
                let mut product = lent(&cpu, to).map_err(value_error)?;
                self.with_planned(&cpu, geometry, values, transpose, |weight| match transpose {
                    false => weight.forward(&cpu, &x, &mut product),
                    true => weight.input_grad(&cpu, &x, &mut product),
                })?;
                let Layout::Strips(layout) = to else { unreachable!("a matrix joins strips") };
                let out =
                    MatrixMut::new(y, if transpose { columns } else { rows }, lanes, lanes).map_err(value_error)?;
                layout.unpack(product.data(), out).map_err(value_error)?;
                give_back(&cpu, [x, product]);
                Ok(())
            })
        })
    }

    /// `values[e] = Σ_n dy[i, n] · x[j, n]` at every stored entry `(i, j)`, of arrays `[feature, lane]` one row after the other.
    fn sampled(
        &self,
        py: Python<'_>,
        threads: usize,
        lanes: usize,
        dy: (usize, usize),
        x: (usize, usize),
        values: (usize, usize),
    ) -> PyResult<()> {
        detached(py, || {
            let cpu = engine(threads)?;
            let [_, columns] = self.kind.size();
            let (geometry, [of_columns, of_rows]) = self.geometry(&cpu, &[lanes, columns])?;
            self.expect_values(values.1)?;
            // SAFETY: the package has checked that the arrays have these lengths, and holds them.
            let (dy, x, values) = unsafe { (numbers(dy.0, dy.1), numbers(x.0, x.1), numbers_mut(values.0, values.1)) };
            cpu.install(|| {
                let dy = packed_rows(&cpu, of_rows, dy).map_err(value_error)?;
                let x = packed_rows(&cpu, of_columns, x).map_err(value_error)?;
                let mut sums = cpu.zeros(values.len()).map_err(value_error)?;
                let zeros = vec![0.0; values.len()];
                self.with_planned(&cpu, geometry, &zeros, false, |weight| {
                    weight.weight_grad(&cpu, (&dy, &x), &mut sums, false)
                })?;
                values.copy_from_slice(&sums);
                give_back(&cpu, [dy, x]);
                Ok(())
            })
        })
    }

    /// Whether the next backward passes are to find positions for growth.
    #[getter]
    fn grows(&self) -> bool {
        guarded(&self.growth).request.is_some()
    }

    /// Positions of the dense weight.
    #[getter]
    fn size(&self) -> usize {
        self.kind.size().iter().product()
    }

    /// Copies the gradient at all positions, added up since growth was asked for; zeros if no backward pass has run.
    fn dense_gradient(&self, to: (usize, usize)) -> PyResult<()> {
        // SAFETY: the package holds a tensor of this length.
        let to = unsafe { numbers_mut(to.0, to.1) };
        match &guarded(&self.growth).dense {
            Some(dense) => to.copy_from_slice(dense),
            None => to.fill(0.0),
        }
        Ok(())
    }

    /// Replaces the gradient at all positions, say by its sum over processes.
    fn set_dense_gradient(&self, from: (usize, usize)) -> PyResult<()> {
        let cpu = engine(1)?;
        // SAFETY: the package holds a tensor of this length.
        let from = unsafe { numbers(from.0, from.1) };
        guarded(&self.growth).dense = Some(cpu.uploaded(from).map_err(value_error)?);
        Ok(())
    }
}

fn place(columns: usize, row: usize, column: usize) -> i64 {
    (row * columns + column) as i64
}

pub fn conv_shape(
    [outputs, inputs]: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
    groups: usize,
) -> PyResult<ConvShape> {
    let shape = ConvShape::new(outputs, inputs, kernel).and_then(|shape| {
        shape.with_stride(stride)?.with_padding(padding).with_dilation(dilation)?.with_groups(groups)
    });
    shape.map_err(value_error)
}

fn bias_grad(cpu: &Cpu, dy: &mut Activations<Cpu>, sums: &mut Buffer, accumulate: bool) -> Result<(), BackendError> {
    match dy {
        Activations::Strips(dy) => cpu.lane_sums(dy, sums, accumulate),
        Activations::Images(dy) => {
            // What stands for Y is not read without ReLU.
            let y = Images { layout: dy.layout, data: cpu.lend(dy.layout.len())? };
            let done = cpu.bias_relu_images_grad(&y, false, dy, sums, accumulate);
            cpu.give_back(y.data);
            done
        }
    }
}

impl Weight {
    fn checked(kind: Kind, format: &str, offsets: (usize, usize), entries: (usize, usize)) -> PyResult<Self> {
        let block = block_size(format)?;
        let [rows, columns] = Self::grid(kind, block);
        let pattern = CsrPattern::new(rows, columns, indices(offsets.0, offsets.1), indices(entries.0, entries.1));
        Self::of_pattern(kind, block, Arc::new(pattern.map_err(value_error)?))
    }

    fn expect_values(&self, got: usize) -> PyResult<()> {
        if got == self.values_len() {
            return Ok(());
        }
        let expected = self.values_len();
        Err(PyValueError::new_err(format!("there are {got} values; the pattern has {expected}")))
    }

    fn grow(
        &self,
        cpu: &Cpu,
        weight: &dyn Planned<Cpu>,
        dy: &Activations<Cpu>,
        x: &Activations<Cpu>,
    ) -> Result<(), autograd::Error> {
        // As above: nothing is locked meanwhile.
        let (request, adds_up, dense) = {
            let mut growth = guarded(&self.growth);
            let Some(request) = growth.request.clone() else { return Ok(()) };
            (request, growth.adds_up, growth.dense.take())
        };
        if !adds_up {
            let found = weight.grow(cpu, &request, &[(dy, x)])?;
            guarded(&self.growth).found = Some(found);
            return Ok(());
        }
        let accumulate = dense.is_some();
        let mut dense = match dense {
            Some(dense) => dense,
            None => cpu.zeros(self.kind.size().iter().product())?,
        };
        weight.dense_grad(cpu, (dy, x), &mut dense, accumulate)?;
        guarded(&self.growth).dense = Some(dense);
        Ok(())
    }

    /// Takes what was found, after all passes.
    pub fn take_found(&self, cpu: &Cpu) -> PyResult<Option<Vec<Candidate>>> {
        let mut growth = guarded(&self.growth);
        let Growth { request, found, dense, .. } = std::mem::take(&mut *growth);
        let (Some(request), Some(dense)) = (request, dense) else { return Ok(found) };
        let scores = match &self.topology {
            Topology::Csr(_) => dense,
            Topology::Blocks(pattern) => {
                // The norms of all blocks, those of a matrix whose blocks are all there.
                let full = BsrPattern::full(pattern.nrows(), pattern.ncols(), pattern.block_size())
                    .and_then(|full| full.with_taps(pattern.taps()))
                    .map_err(value_error)?;
                let mut values = vec![0.0; full.nnz()];
                for entry in full.entries() {
                    values[entry.position] = dense[entry.row * full.ncols() + entry.column];
                }
                cpu.uploaded(&full.block_norms(&values).map_err(value_error)?).map_err(value_error)?
            }
        };
        cpu.largest(&scores, &request).map(Some).map_err(value_error)
    }
}
