//! The store of everything that is learned.

use std::sync::Arc;

use sparse_kernels::{
    Backend, BlockMatrix, BsrPattern, ConvOptions, ConvShape, ConvWeight, CsrPattern, PlanOptions, ShapeError,
    SparseMatrix,
};

use crate::Error;

/// A parameter's place in its [`Parameters`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub(crate) usize);

impl ParameterId {
    /// The number of the parameter, in order of addition.
    pub fn index(self) -> usize {
        self.0
    }
}

/// What a parameter is.
#[derive(Debug)]
pub enum ParameterValue<B: Backend> {
    /// A sparse matrix.
    Sparse(SparseMatrix<B>),
    /// A block-sparse matrix. Values, gradient and slots are of the stored blocks, padding included; it is 0 in all of
    /// them, and optimizers keep it so.
    BlockSparse(BlockMatrix<B>),
    /// A dense matrix, row-major.
    Dense {
        /// `nrows · ncols` values.
        values: B::Buffer,
        /// Rows.
        nrows: usize,
        /// Columns.
        ncols: usize,
    },
    /// A sparse convolution's weight.
    SparseConv(ConvWeight<B>),
    /// A dense convolution's weight, `[O][C/G][kh][kw]`; a depthwise one, too.
    DenseConv {
        /// `rows · columns` values of the shape.
        values: B::Buffer,
        /// The convolution.
        shape: ConvShape,
        /// How its operands lie.
        options: ConvOptions,
    },
    /// Weights of all positions, of which a sparse weight in front of them shows a part: forward passes and gradients of
    /// inputs see the part, optimizers and weight gradients the whole.
    Latent {
        /// The whole, row by row.
        values: B::Buffer,
        /// The part.
        face: Face<B>,
        /// For each entry of the part its position in the whole.
        positions: Vec<u32>,
    },
    /// A vector: a bias; scale and shift of a normalisation.
    Vector(B::Buffer),
    /// Numbers that a forward pass keeps and no optimizer changes: running moments.
    Statistics(B::Buffer),
}

/// The part of a latent weight that takes part.
#[derive(Debug)]
pub enum Face<B: Backend> {
    /// A sparse matrix.
    Linear(SparseMatrix<B>),
    /// A sparse convolution's weight.
    Conv(ConvWeight<B>),
}

impl<B: Backend> Face<B> {
    /// Its values, one per entry.
    pub fn values(&self) -> &B::Buffer {
        match self {
            Face::Linear(matrix) => &matrix.values,
            Face::Conv(weight) => &weight.values,
        }
    }

    fn pattern<'a>(&'a self, backend: &B) -> &'a Arc<CsrPattern> {
        match self {
            Face::Linear(matrix) => backend.pattern(&matrix.plan),
            Face::Conv(weight) => backend.conv_pattern(&weight.plan),
        }
    }

    /// Takes its values from the whole.
    fn show(&mut self, backend: &B, whole: &B::Buffer, positions: &[u32]) -> Result<(), Error> {
        match self {
            Face::Linear(matrix) => {
                backend.gather(whole, positions, &mut matrix.values)?;
                matrix.refresh(backend)?;
            }
            Face::Conv(weight) => {
                backend.gather(whole, positions, &mut weight.values)?;
                weight.refresh(backend)?;
            }
        }
        Ok(())
    }
}

/// The position of each entry of a pattern, row by row.
fn positions(pattern: &CsrPattern) -> Vec<u32> {
    let ncols = pattern.ncols() as u32;
    pattern.positions().map(|(row, column)| row * ncols + column).collect()
}

impl<B: Backend> ParameterValue<B> {
    /// The values, one per stored entry; of a latent weight the whole.
    pub fn values(&self) -> &B::Buffer {
        match self {
            ParameterValue::Sparse(matrix) => &matrix.values,
            ParameterValue::BlockSparse(matrix) => &matrix.values,
            ParameterValue::SparseConv(weight) => &weight.values,
            ParameterValue::Dense { values, .. }
            | ParameterValue::DenseConv { values, .. }
            | ParameterValue::Latent { values, .. }
            | ParameterValue::Vector(values)
            | ParameterValue::Statistics(values) => values,
        }
    }

    pub(crate) fn values_mut(&mut self) -> &mut B::Buffer {
        match self {
            ParameterValue::Sparse(matrix) => &mut matrix.values,
            ParameterValue::BlockSparse(matrix) => &mut matrix.values,
            ParameterValue::SparseConv(weight) => &mut weight.values,
            ParameterValue::Dense { values, .. }
            | ParameterValue::DenseConv { values, .. }
            | ParameterValue::Latent { values, .. }
            | ParameterValue::Vector(values)
            | ParameterValue::Statistics(values) => values,
        }
    }

    /// Whether an optimizer changes it.
    pub fn is_learned(&self) -> bool {
        !matches!(self, ParameterValue::Statistics(_))
    }

    /// After `values` has changed.
    pub(crate) fn refresh(&mut self, backend: &B) -> Result<(), Error> {
        match self {
            ParameterValue::Sparse(matrix) => matrix.refresh(backend)?,
            ParameterValue::SparseConv(weight) => weight.refresh(backend)?,
            ParameterValue::Latent { values, face, positions } => face.show(backend, values, positions)?,
            _ => {}
        }
        Ok(())
    }

    fn kind(&self) -> &'static str {
        match self {
            ParameterValue::Sparse(_) => "sparse matrix",
            ParameterValue::BlockSparse(_) => "block-sparse matrix",
            ParameterValue::Dense { .. } => "dense matrix",
            ParameterValue::SparseConv(_) => "sparse convolution",
            ParameterValue::DenseConv { .. } => "dense convolution",
            ParameterValue::Latent { .. } => "latent weight",
            ParameterValue::Vector(_) => "vector",
            ParameterValue::Statistics(_) => "statistics",
        }
    }
}

/// How candidates for growth are found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum GrowthKind {
    /// Of a matrix, in entries or blocks of this size.
    Linear { block_size: [usize; 2] },
    /// Of a convolution.
    Conv(ConvShape),
}

/// Something that is learned: value, gradient, and the optimizer's memory of it. All are as long as the value.
#[derive(Debug)]
pub struct Parameter<B: Backend> {
    name: String,
    pub(crate) value: ParameterValue<B>,
    /// Made at the first backward pass, so that inference does not hold it.
    gradient: Option<B::Buffer>,
    /// Whether the last backward pass has written `gradient`: its first use overwrites, later ones add.
    gradient_written: bool,
    slots: Vec<(String, B::Buffer)>,
    /// The dense gradient of the passes so far, while growth adds it up over several.
    growth_gradient: Option<B::Buffer>,
    /// The gradient at all positions, where it was asked for.
    dense_gradient: Option<B::Buffer>,
    /// Whether the last backward pass has written `dense_gradient`.
    dense_gradient_written: bool,
}

impl<B: Backend> Parameter<B> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its value.
    pub fn value(&self) -> &ParameterValue<B> {
        &self.value
    }

    /// The gradient of the last backward pass; none if the parameter had no part in it, or if growth was asked for.
    pub fn gradient(&self) -> Option<&B::Buffer> {
        self.gradient.as_ref().filter(|_| self.gradient_written)
    }

    /// The optimizer slots with their names, in order of creation.
    pub fn slots(&self) -> impl Iterator<Item = (&str, &B::Buffer)> {
        self.slots.iter().map(|(name, buffer)| (&name[..], buffer))
    }

    /// One optimizer slot.
    pub fn slot(&self, name: &str) -> Option<&B::Buffer> {
        self.slots.iter().find(|(n, _)| n == name).map(|(_, buffer)| buffer)
    }

    /// The slot's number, made and zeroed if it is not there.
    pub(crate) fn ensure_slot(&mut self, backend: &B, name: &str) -> Result<usize, Error> {
        if let Some(i) = self.slots.iter().position(|(n, _)| n == name) {
            return Ok(i);
        }
        let buffer = backend.zeros(backend.len(self.value.values()))?;
        self.slots.push((name.to_owned(), buffer));
        Ok(self.slots.len() - 1)
    }

    /// What an optimizer step works on, if there is a gradient.
    #[expect(clippy::type_complexity, reason = "the three borrows that one update needs at a time")]
    pub(crate) fn for_update(&mut self) -> Option<(&mut ParameterValue<B>, &B::Buffer, &mut [(String, B::Buffer)])> {
        let gradient = self.gradient.as_ref().filter(|_| self.gradient_written)?;
        Some((&mut self.value, gradient, &mut self.slots))
    }
}

/// Bytes that a parameter holds, but for the dense gradients of [`crate::GrowthPasses::More`] and
/// [`crate::GrowthRequests::add_dense`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ParameterBytes {
    /// Values.
    pub values: usize,
    /// Values in transposed order.
    pub transposed_values: usize,
    /// Gradient.
    pub gradient: usize,
    /// Optimizer slots.
    pub slots: usize,
    /// The pattern's row offsets and column indices, of blocks for a block-sparse matrix.
    pub pattern: usize,
    /// The plan, beside the pattern.
    pub plan: usize,
}

impl ParameterBytes {
    /// All together.
    pub fn total(&self) -> usize {
        self.values + self.transposed_values + self.gradient + self.slots + self.pattern + self.plan
    }
}

impl std::ops::Add for ParameterBytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            values: self.values + other.values,
            transposed_values: self.transposed_values + other.transposed_values,
            gradient: self.gradient + other.gradient,
            slots: self.slots + other.slots,
            pattern: self.pattern + other.pattern,
            plan: self.plan + other.plan,
        }
    }
}

/// All parameters of a model, in order of addition.
///
/// A parameter may be used any number of times on one tape (tied weights, recurrent layers); its gradient is the sum.
#[derive(Debug)]
pub struct Parameters<B: Backend> {
    list: Vec<Parameter<B>>,
}

impl<B: Backend> Default for Parameters<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B: Backend> Parameters<B> {
    /// An empty store.
    pub fn new() -> Self {
        Self { list: Vec::new() }
    }

    /// Adds a sparse matrix.
    pub fn add_sparse(&mut self, name: impl Into<String>, matrix: SparseMatrix<B>) -> ParameterId {
        self.add(name.into(), ParameterValue::Sparse(matrix))
    }

    /// Adds a block-sparse matrix. Its padding must be 0, as [`sparse_kernels::Bsr`] makes it.
    pub fn add_block_sparse(&mut self, name: impl Into<String>, matrix: BlockMatrix<B>) -> ParameterId {
        self.add(name.into(), ParameterValue::BlockSparse(matrix))
    }

    /// Adds a dense matrix, row-major.
    ///
    /// # Errors
    /// Unless there are `nrows · ncols` values.
    pub fn add_dense(
        &mut self,
        name: impl Into<String>,
        backend: &B,
        values: B::Buffer,
        nrows: usize,
        ncols: usize,
    ) -> Result<ParameterId, Error> {
        let (op, what, got) = ("add_dense", "number of values", backend.len(&values));
        if got != nrows * ncols {
            return Err(ShapeError::Mismatch { op, what, expected: nrows * ncols, got }.into());
        }
        Ok(self.add(name.into(), ParameterValue::Dense { values, nrows, ncols }))
    }

    /// Adds a sparse convolution's weight.
    pub fn add_sparse_conv(&mut self, name: impl Into<String>, weight: ConvWeight<B>) -> ParameterId {
        self.add(name.into(), ParameterValue::SparseConv(weight))
    }

    /// Adds a dense convolution's weight, `[O][C/G][kh][kw]`.
    ///
    /// # Errors
    /// Unless there are `rows · columns` values of the shape.
    pub fn add_dense_conv(
        &mut self,
        name: impl Into<String>,
        backend: &B,
        values: B::Buffer,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<ParameterId, Error> {
        let (op, what, got) = ("add_dense_conv", "number of values", backend.len(&values));
        let expected = shape.rows() * shape.columns();
        if got != expected {
            return Err(ShapeError::Mismatch { op, what, expected, got }.into());
        }
        Ok(self.add(name.into(), ParameterValue::DenseConv { values, shape, options }))
    }

    /// Adds numbers that no optimizer changes.
    pub fn add_statistics(&mut self, name: impl Into<String>, values: B::Buffer) -> ParameterId {
        self.add(name.into(), ParameterValue::Statistics(values))
    }

    /// Adds a vector.
    pub fn add_vector(&mut self, name: impl Into<String>, values: B::Buffer) -> ParameterId {
        self.add(name.into(), ParameterValue::Vector(values))
    }

    fn add(&mut self, name: String, value: ParameterValue<B>) -> ParameterId {
        self.list.push(Parameter {
            name,
            value,
            gradient: None,
            gradient_written: false,
            slots: Vec::new(),
            growth_gradient: None,
            dense_gradient: None,
            dense_gradient_written: false,
        });
        ParameterId(self.list.len() - 1)
    }

    /// Number of parameters.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, in order of addition.
    pub fn iter(&self) -> impl Iterator<Item = (ParameterId, &Parameter<B>)> {
        self.list.iter().enumerate().map(|(i, p)| (ParameterId(i), p))
    }

    /// The one with this name.
    pub fn find(&self, name: &str) -> Option<ParameterId> {
        self.list.iter().position(|p| p.name == name).map(ParameterId)
    }

    /// One parameter.
    ///
    /// # Panics
    /// If `id` is of another store with more parameters.
    pub fn get(&self, id: ParameterId) -> &Parameter<B> {
        &self.list[id.0]
    }

    /// The pattern of a sparse parameter, a convolution's too, or of what takes part of a latent one; none for others.
    ///
    /// # Panics
    /// As [`Parameters::get`].
    pub fn pattern<'a>(&'a self, backend: &B, id: ParameterId) -> Option<&'a Arc<CsrPattern>> {
        match &self.get(id).value {
            ParameterValue::Sparse(matrix) => Some(backend.pattern(&matrix.plan)),
            ParameterValue::SparseConv(weight) => Some(backend.conv_pattern(&weight.plan)),
            ParameterValue::Latent { face, .. } => Some(face.pattern(backend)),
            _ => None,
        }
    }

    /// The pattern of a block-sparse parameter; none for others.
    ///
    /// # Panics
    /// As [`Parameters::get`].
    pub fn block_pattern<'a>(&'a self, backend: &B, id: ParameterId) -> Option<&'a Arc<BsrPattern>> {
        match &self.get(id).value {
            ParameterValue::BlockSparse(matrix) => Some(backend.block_pattern(&matrix.plan)),
            _ => None,
        }
    }

    /// What a topology update replaces: the pattern of a sparse parameter, the pattern of the blocks of a block-sparse
    /// one; none for others.
    ///
    /// # Panics
    /// As [`Parameters::get`].
    pub fn topology<'a>(&'a self, backend: &B, id: ParameterId) -> Option<&'a Arc<CsrPattern>> {
        self.pattern(backend, id).or_else(|| self.block_pattern(backend, id).map(|pattern| pattern.blocks()))
    }

    /// The pattern of a parameter that is not in blocks.
    pub(crate) fn expect_pattern(
        &self,
        op: &'static str,
        backend: &B,
        id: ParameterId,
    ) -> Result<&Arc<CsrPattern>, Error> {
        let parameter = self.checked(op, id)?;
        self.pattern(backend, id).ok_or_else(|| wrong_kind(op, parameter, "sparse matrix or convolution"))
    }

    fn entry(&mut self, op: &'static str, id: ParameterId) -> Result<&mut Parameter<B>, Error> {
        self.list.get_mut(id.0).ok_or_else(|| missing(op, "parameter", id.0))
    }

    fn checked(&self, op: &'static str, id: ParameterId) -> Result<&Parameter<B>, Error> {
        self.list.get(id.0).ok_or_else(|| missing(op, "parameter", id.0))
    }

    pub(crate) fn sparse(&self, op: &'static str, id: ParameterId) -> Result<&SparseMatrix<B>, Error> {
        let parameter = self.checked(op, id)?;
        match &parameter.value {
            ParameterValue::Sparse(matrix) | ParameterValue::Latent { face: Face::Linear(matrix), .. } => Ok(matrix),
            _ => Err(wrong_kind(op, parameter, "sparse matrix")),
        }
    }

    pub(crate) fn block_sparse(&self, op: &'static str, id: ParameterId) -> Result<&BlockMatrix<B>, Error> {
        let parameter = self.checked(op, id)?;
        match &parameter.value {
            ParameterValue::BlockSparse(matrix) => Ok(matrix),
            _ => Err(wrong_kind(op, parameter, "block-sparse matrix")),
        }
    }

    /// Rows and columns of a stored block: 1 and 1 for a sparse parameter. Others have no topology.
    pub(crate) fn block_size(&self, op: &'static str, backend: &B, id: ParameterId) -> Result<[usize; 2], Error> {
        let parameter = self.checked(op, id)?;
        match &parameter.value {
            ParameterValue::Sparse(_) | ParameterValue::SparseConv(_) | ParameterValue::Latent { .. } => Ok([1, 1]),
            ParameterValue::BlockSparse(matrix) => Ok(backend.block_pattern(&matrix.plan).block_size()),
            _ => Err(wrong_kind(op, parameter, "sparse matrix")),
        }
    }

    /// How growth of a parameter with a topology works.
    pub(crate) fn growth_kind(&self, backend: &B, id: ParameterId) -> GrowthKind {
        match &self.get(id).value {
            ParameterValue::SparseConv(weight) | ParameterValue::Latent { face: Face::Conv(weight), .. } => {
                GrowthKind::Conv(backend.conv_shape(&weight.plan))
            }
            ParameterValue::BlockSparse(matrix) => {
                GrowthKind::Linear { block_size: backend.block_pattern(&matrix.plan).block_size() }
            }
            _ => GrowthKind::Linear { block_size: [1, 1] },
        }
    }

    /// Shape of a convolution and how its operands lie.
    pub(crate) fn conv(
        &self,
        op: &'static str,
        backend: &B,
        id: ParameterId,
    ) -> Result<(ConvShape, ConvOptions), Error> {
        let parameter = self.checked(op, id)?;
        match &parameter.value {
            ParameterValue::SparseConv(weight) | ParameterValue::Latent { face: Face::Conv(weight), .. } => {
                Ok((backend.conv_shape(&weight.plan), backend.conv_options(&weight.plan)))
            }
            ParameterValue::DenseConv { shape, options, .. } => Ok((*shape, *options)),
            _ => Err(wrong_kind(op, parameter, "convolution")),
        }
    }

    /// The dense gradient that growth adds up, and whether it holds anything yet.
    ///
    /// # Errors
    /// If the parameter is block-sparse, or there is no room.
    pub(crate) fn take_growth_gradient(&mut self, backend: &B, id: ParameterId) -> Result<(B::Buffer, bool), Error> {
        const OP: &str = "growth over several passes";
        let pattern = self.expect_pattern(OP, backend, id)?;
        let size = pattern.nrows() * pattern.ncols();
        match self.entry(OP, id)?.growth_gradient.take() {
            Some(gradient) => Ok((gradient, true)),
            None => Ok((backend.zeros(size)?, false)),
        }
    }

    /// Keeps it for the next pass.
    /// The buffer of a sparse parameter's gradient at all positions, and whether to add to it.
    pub(crate) fn write_dense_gradient(
        &mut self,
        backend: &B,
        id: ParameterId,
    ) -> Result<(&mut B::Buffer, bool), Error> {
        const OP: &str = "dense gradient";
        let pattern = self.expect_pattern(OP, backend, id)?;
        let size = pattern.nrows() * pattern.ncols();
        let parameter = self.entry(OP, id)?;
        let gradient = match &mut parameter.dense_gradient {
            Some(gradient) => gradient,
            none => none.insert(backend.zeros(size)?),
        };
        Ok((gradient, std::mem::replace(&mut parameter.dense_gradient_written, true)))
    }

    pub(crate) fn written_dense_gradient(&mut self, id: ParameterId) -> Option<&mut B::Buffer> {
        let parameter = &mut self.list[id.0];
        parameter.dense_gradient.as_mut().filter(|_| parameter.dense_gradient_written)
    }

    pub(crate) fn put_growth_gradient(&mut self, id: ParameterId, gradient: B::Buffer) {
        self.list[id.0].growth_gradient = Some(gradient);
    }

    /// Numbers that no optimizer changes, to be changed by a forward pass.
    pub(crate) fn statistics_mut(&mut self, op: &'static str, id: ParameterId) -> Result<&mut B::Buffer, Error> {
        if !matches!(self.checked(op, id)?.value, ParameterValue::Statistics(_)) {
            return Err(wrong_kind(op, self.checked(op, id)?, "statistics"));
        }
        Ok(self.entry(op, id)?.value.values_mut())
    }

    /// Numbers that no optimizer changes.
    pub(crate) fn statistics(&self, op: &'static str, id: ParameterId) -> Result<&B::Buffer, Error> {
        let parameter = self.checked(op, id)?;
        match &parameter.value {
            ParameterValue::Statistics(values) => Ok(values),
            _ => Err(wrong_kind(op, parameter, "statistics")),
        }
    }

    /// Values, rows, columns.
    pub(crate) fn dense(&self, op: &'static str, id: ParameterId) -> Result<(&B::Buffer, usize, usize), Error> {
        let parameter = self.checked(op, id)?;
        match &parameter.value {
            ParameterValue::Dense { values, nrows, ncols } => Ok((values, *nrows, *ncols)),
            _ => Err(wrong_kind(op, parameter, "dense matrix")),
        }
    }

    pub(crate) fn vector(&self, op: &'static str, id: ParameterId) -> Result<&B::Buffer, Error> {
        let parameter = self.checked(op, id)?;
        match &parameter.value {
            ParameterValue::Vector(values) => Ok(values),
            _ => Err(wrong_kind(op, parameter, "vector")),
        }
    }

    /// The value, the gradient to write, and whether to add to it. From here on the gradient counts as written.
    pub(crate) fn write_gradient(
        &mut self,
        backend: &B,
        id: ParameterId,
    ) -> Result<(&ParameterValue<B>, &mut B::Buffer, bool), Error> {
        let Parameter { value, gradient, gradient_written, .. } = self.entry("backward", id)?;
        let gradient = match gradient {
            Some(gradient) => gradient,
            None => gradient.insert(backend.zeros(backend.len(value.values()))?),
        };
        Ok((value, gradient, std::mem::replace(gradient_written, true)))
    }

    pub(crate) fn written_gradient(&mut self, id: ParameterId) -> Option<&mut B::Buffer> {
        let parameter = &mut self.list[id.0];
        parameter.gradient.as_mut().filter(|_| parameter.gradient_written)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Parameter<B>> {
        self.list.iter_mut()
    }

    /// Forgets all gradients (their memory stays). [`crate::Tape::backward`] begins with this.
    pub fn clear_gradients(&mut self) {
        for parameter in &mut self.list {
            (parameter.gradient_written, parameter.dense_gradient_written) = (false, false);
        }
    }

    /// Drops gradients and optimizer slots: what inference does not need.
    pub fn drop_training_state(&mut self) {
        for parameter in &mut self.list {
            (parameter.gradient, parameter.gradient_written) = (None, false);
            (parameter.dense_gradient, parameter.dense_gradient_written) = (None, false);
            parameter.slots.clear();
        }
    }

    /// Gives a sparse or block-sparse parameter a new topology ([`Parameters::topology`]): value and every optimizer slot
    /// move through one map, the plan is built anew with the same options, and the gradient is forgotten.
    ///
    /// Entry `e` of the new pattern takes what entry `map[e]` of the old one held, or zero where `map[e]` is
    /// `u32::MAX`. Of a block-sparse parameter an entry is a block, all of whose values move with it. Of a latent one only the
    /// part that takes part changes, values and slots stay, and the map says nothing.
    ///
    /// # Errors
    /// If the parameter is none of these, `map` does not have one element per entry of the new pattern, or points outside
    /// the old one. The parameter then is as it was.
    ///
    /// # Cost
    /// O(m + k + nnz) for the plan, and one gather for the value and each slot; no more than two value arrays are held
    /// beside the parameter's own, and for blocks an index for each value.
    pub fn replace_pattern(
        &mut self,
        backend: &B,
        id: ParameterId,
        pattern: Arc<CsrPattern>,
        map: &[u32],
    ) -> Result<(), Error> {
        const OP: &str = "replace_pattern";
        let block_size = self.block_size(OP, backend, id)?;
        let old_pattern = self.topology(backend, id).expect("what has a block size has a topology");
        for (what, expected, got) in [
            ("number of rows", old_pattern.nrows(), pattern.nrows()),
            ("number of columns", old_pattern.ncols(), pattern.ncols()),
            ("length of the map", pattern.nnz(), map.len()),
        ] {
            if expected != got {
                return Err(ShapeError::Mismatch { op: OP, what, expected, got }.into());
            }
        }
        if let ParameterValue::Latent { .. } = self.get(id).value {
            return self.replace_face(backend, id, pattern);
        }
        let expanded = expand_blocks(map, block_size);
        let map = expanded.as_deref().unwrap_or(map);
        let nnz = map.len();
        let mut values = backend.zeros(nnz)?;
        let old = &self.get(id).value;
        backend.gather(old.values(), map, &mut values)?;
        let value = match old {
            ParameterValue::BlockSparse(old) => {
                let (options, old) = (backend.block_plan_options(&old.plan), backend.block_pattern(&old.plan));
                let pattern = BsrPattern::from_blocks(old.nrows(), old.ncols(), block_size, pattern)?;
                ParameterValue::BlockSparse(BlockMatrix::from_buffer(backend, Arc::new(pattern), values, options)?)
            }
            ParameterValue::SparseConv(old) => {
                let (shape, options) = (backend.conv_shape(&old.plan), backend.conv_options(&old.plan));
                ParameterValue::SparseConv(ConvWeight::from_buffer(backend, pattern, values, shape, options)?)
            }
            _ => {
                let options = backend.plan_options(&self.sparse(OP, id)?.plan);
                ParameterValue::Sparse(SparseMatrix::from_buffer(backend, pattern, values, options)?)
            }
        };
        self.install(backend, id, value, map)
    }

    /// Makes a dense matrix or convolution sparse: values and optimizer slots of the pattern's positions stay, the others are
    /// gone. `options` are for the plan of a matrix; a convolution has its own.
    ///
    /// # Errors
    /// If the parameter is not dense, or the pattern has another shape. The parameter then is as it was.
    ///
    /// # Cost
    /// As [`Parameters::replace_pattern`].
    pub fn sparsify(
        &mut self,
        backend: &B,
        id: ParameterId,
        pattern: Arc<CsrPattern>,
        options: PlanOptions,
    ) -> Result<(), Error> {
        const OP: &str = "sparsify";
        let parameter = self.checked(OP, id)?;
        let [nrows, ncols] = match &parameter.value {
            ParameterValue::Dense { nrows, ncols, .. } => [*nrows, *ncols],
            ParameterValue::DenseConv { shape, .. } => [shape.rows(), shape.columns()],
            _ => return Err(wrong_kind(OP, parameter, "dense matrix or convolution")),
        };
        for (what, expected, got) in
            [("number of rows", nrows, pattern.nrows()), ("number of columns", ncols, pattern.ncols())]
        {
            if expected != got {
                return Err(ShapeError::Mismatch { op: OP, what, expected, got }.into());
            }
        }
        let map = positions(&pattern);
        let mut values = backend.zeros(map.len())?;
        backend.gather(parameter.value.values(), &map, &mut values)?;
        let value = match &parameter.value {
            ParameterValue::DenseConv { shape, options, .. } => {
                ParameterValue::SparseConv(ConvWeight::from_buffer(backend, pattern, values, *shape, *options)?)
            }
            _ => ParameterValue::Sparse(SparseMatrix::from_buffer(backend, pattern, values, options)?),
        };
        self.install(backend, id, value, &map)
    }

    /// Puts the weights of all positions behind a sparse matrix or convolution, which becomes the part of them that takes
    /// part. Optimizer slots are dropped: optimizers make them anew for the whole.
    ///
    /// # Errors
    /// If the parameter is not sparse, or there is not one value per position. The parameter then is as it was.
    pub fn make_latent(&mut self, backend: &B, id: ParameterId, values: B::Buffer) -> Result<(), Error> {
        const OP: &str = "make_latent";
        let parameter = self.checked(OP, id)?;
        let pattern = match &parameter.value {
            ParameterValue::Sparse(matrix) => backend.pattern(&matrix.plan),
            ParameterValue::SparseConv(weight) => backend.conv_pattern(&weight.plan),
            _ => return Err(wrong_kind(OP, parameter, "sparse matrix or convolution")),
        };
        let (what, expected, got) = ("number of values", pattern.nrows() * pattern.ncols(), backend.len(&values));
        if expected != got {
            return Err(ShapeError::Mismatch { op: OP, what, expected, got }.into());
        }
        let positions = positions(pattern);
        let placeholder = ParameterValue::Vector(backend.zeros(0)?);
        let parameter = &mut self.list[id.0];
        let face = match std::mem::replace(&mut parameter.value, placeholder) {
            ParameterValue::Sparse(matrix) => Face::Linear(matrix),
            ParameterValue::SparseConv(weight) => Face::Conv(weight),
            _ => unreachable!("checked above"),
        };
        parameter.value = ParameterValue::Latent { values, face, positions };
        parameter.slots.clear();
        (parameter.gradient, parameter.gradient_written) = (None, false);
        parameter.value.refresh(backend)
    }

    /// Lets another part of a latent weight take part.
    fn replace_face(&mut self, backend: &B, id: ParameterId, pattern: Arc<CsrPattern>) -> Result<(), Error> {
        let ParameterValue::Latent { values, face, positions: of_face } = &mut self.list[id.0].value else {
            unreachable!("asked for latent weights only")
        };
        let places = positions(&pattern);
        let mut shown = backend.zeros(places.len())?;
        backend.gather(values, &places, &mut shown)?;
        *face = match face {
            Face::Linear(old) => {
                let options = backend.plan_options(&old.plan);
                Face::Linear(SparseMatrix::from_buffer(backend, pattern, shown, options)?)
            }
            Face::Conv(old) => {
                let (shape, options) = (backend.conv_shape(&old.plan), backend.conv_options(&old.plan));
                Face::Conv(ConvWeight::from_buffer(backend, pattern, shown, shape, options)?)
            }
        };
        *of_face = places;
        Ok(())
    }

    /// Puts a parameter's new value in its place and moves the slots.
    fn install(&mut self, backend: &B, id: ParameterId, value: ParameterValue<B>, map: &[u32]) -> Result<(), Error> {
        let parameter = &mut self.list[id.0];
        let mut slots = Vec::with_capacity(parameter.slots.len());
        for (name, slot) in &parameter.slots {
            let mut moved = backend.zeros(map.len())?;
            backend.gather(slot, map, &mut moved)?;
            slots.push((name.clone(), moved));
        }
        parameter.slots = slots;
        parameter.value = value;
        (parameter.gradient_written, parameter.dense_gradient_written) = (false, false);
        parameter.growth_gradient = None;
        parameter.gradient = parameter.gradient.take().filter(|g| backend.len(g) == map.len());
        Ok(())
    }

    /// Copies to the host a parameter's gradient at all positions, row by row, of the last backward pass; none if it was not
    /// asked for ([`crate::GrowthRequests::add_dense`]).
    ///
    /// # Errors
    /// If there is no such parameter or the backend fails.
    pub fn download_dense_gradient(&self, backend: &B, id: ParameterId) -> Result<Option<Vec<f32>>, Error> {
        let parameter = self.checked("download_dense_gradient", id)?;
        let written = parameter.dense_gradient.as_ref().filter(|_| parameter.dense_gradient_written);
        written.map(|gradient| download(backend, gradient)).transpose()
    }

    /// Copies the values at the stored entries to the host: of a latent weight those of the part that takes part.
    ///
    /// # Errors
    /// If there is no such parameter or the backend fails.
    pub fn download_stored(&self, backend: &B, id: ParameterId) -> Result<Vec<f32>, Error> {
        match &self.checked("download_stored", id)?.value {
            ParameterValue::Latent { face, .. } => download(backend, face.values()),
            value => download(backend, value.values()),
        }
    }

    /// Copies a parameter's values to the host.
    ///
    /// # Errors
    /// If there is no such parameter or the backend fails.
    pub fn download_values(&self, backend: &B, id: ParameterId) -> Result<Vec<f32>, Error> {
        download(backend, self.checked("download_values", id)?.value.values())
    }

    /// Copies a parameter's gradient of the last backward pass to the host; none if there is none.
    ///
    /// # Errors
    /// If there is no such parameter or the backend fails.
    pub fn download_gradient(&self, backend: &B, id: ParameterId) -> Result<Option<Vec<f32>>, Error> {
        self.checked("download_gradient", id)?.gradient().map(|g| download(backend, g)).transpose()
    }

    /// Sets a parameter's values, their transposed order included.
    ///
    /// # Errors
    /// If there is no such parameter, or not one value per entry.
    pub fn upload_values(&mut self, backend: &B, id: ParameterId, values: &[f32]) -> Result<(), Error> {
        let value = &mut self.entry("upload_values", id)?.value;
        upload("upload_values", backend, values, value.values_mut())?;
        value.refresh(backend)
    }

    /// Copies an optimizer slot to the host.
    ///
    /// # Errors
    /// If there is no such parameter or slot.
    pub fn download_slot(&self, backend: &B, id: ParameterId, name: &str) -> Result<Vec<f32>, Error> {
        let slot = self.checked("download_slot", id)?.slot(name);
        download(backend, slot.ok_or_else(|| missing("download_slot", "slot", name))?)
    }

    /// Sets an optimizer slot, which is made if it is not there.
    ///
    /// # Errors
    /// If there is no such parameter, or not one value per entry.
    pub fn upload_slot(&mut self, backend: &B, id: ParameterId, name: &str, values: &[f32]) -> Result<(), Error> {
        let parameter = self.entry("upload_slot", id)?;
        let slot = parameter.ensure_slot(backend, name)?;
        upload("upload_slot", backend, values, &mut parameter.slots[slot].1)
    }

    /// Bytes that one parameter holds.
    ///
    /// # Panics
    /// As [`Parameters::get`].
    pub fn bytes(&self, backend: &B, id: ParameterId) -> ParameterBytes {
        let parameter = self.get(id);
        let size = |buffer: &B::Buffer| 4 * backend.len(buffer);
        let mut bytes = ParameterBytes {
            values: size(parameter.value.values()),
            gradient: parameter.gradient.as_ref().map_or(0, size),
            slots: parameter.slots.iter().map(|(_, slot)| size(slot)).sum(),
            ..ParameterBytes::default()
        };
        if let Some(pattern) = self.topology(backend, id) {
            bytes.pattern = 4 * (pattern.nrows() + 1 + pattern.nnz());
        }
        match &parameter.value {
            ParameterValue::Sparse(matrix) => {
                bytes.transposed_values = size(&matrix.transposed_values);
                bytes.plan = backend.plan_bytes(&matrix.plan);
            }
            ParameterValue::SparseConv(weight) => {
                bytes.transposed_values = size(&weight.transposed_values);
                bytes.plan = backend.conv_plan_bytes(&weight.plan);
            }
            ParameterValue::BlockSparse(matrix) => bytes.plan = backend.block_plan_bytes(&matrix.plan),
            ParameterValue::Latent { face, positions, .. } => {
                let (transposed, plan) = match face {
                    Face::Linear(matrix) => (&matrix.transposed_values, backend.plan_bytes(&matrix.plan)),
                    Face::Conv(weight) => (&weight.transposed_values, backend.conv_plan_bytes(&weight.plan)),
                };
                bytes.values += size(face.values());
                bytes.transposed_values = size(transposed);
                bytes.plan = plan + 4 * positions.len();
            }
            ParameterValue::Dense { .. }
            | ParameterValue::DenseConv { .. }
            | ParameterValue::Vector(_)
            | ParameterValue::Statistics(_) => {}
        }
        bytes
    }

    /// Bytes that all parameters hold.
    pub fn total_bytes(&self, backend: &B) -> ParameterBytes {
        (0..self.list.len()).fold(ParameterBytes::default(), |sum, i| sum + self.bytes(backend, ParameterId(i)))
    }
}

/// The map of values that a map of blocks stands for; none where a block is one value, and the map is that already.
fn expand_blocks(map: &[u32], [r, c]: [usize; 2]) -> Option<Vec<u32>> {
    let size = (r * c) as u32;
    let value = |block: u32, i: u32| match block {
        u32::MAX => u32::MAX,
        // What points outside the old blocks points outside their values: it must not wrap around, nor become a newcomer.
        _ => block.saturating_mul(size).saturating_add(i).min(u32::MAX - 1),
    };
    (size > 1).then(|| map.iter().flat_map(|&block| (0..size).map(move |i| value(block, i))).collect())
}

fn download<B: Backend>(backend: &B, from: &B::Buffer) -> Result<Vec<f32>, Error> {
    let mut to = vec![0.0; backend.len(from)];
    backend.download(from, &mut to)?;
    Ok(to)
}

fn upload<B: Backend>(op: &'static str, backend: &B, from: &[f32], to: &mut B::Buffer) -> Result<(), Error> {
    let expected = backend.len(to);
    if from.len() != expected {
        return Err(ShapeError::Mismatch { op, what: "number of values", expected, got: from.len() }.into());
    }
    Ok(backend.upload(from, to)?)
}

fn missing(op: &'static str, what: &'static str, name: impl ToString) -> Error {
    Error::Missing { op, what, name: name.to_string() }
}

fn wrong_kind<B: Backend>(op: &'static str, parameter: &Parameter<B>, expected: &'static str) -> Error {
    Error::Kind { op, name: parameter.name.clone(), got: parameter.value.kind(), expected }
}
