//! The store of everything that is learned.

use std::sync::Arc;

use sparse_kernels::{Backend, BsrPattern, CsrPattern};

use crate::Error;
use crate::error::expect_equal;
use crate::exploration::Explored;
use crate::shards::SumOf;
use crate::weights::latent::LatentWeight;
use crate::weights::{Geometry, Weight, gathered, positions};

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
    /// What a layer multiplies its input by.
    Weight(Box<dyn Weight<B>>),
    /// A vector: a bias; scale and shift of a normalisation.
    Vector(B::Buffer),
    /// Numbers that a forward pass keeps and no optimizer changes: running moments.
    Statistics(B::Buffer),
}

impl<B: Backend> ParameterValue<B> {
    /// The weight, if it is one.
    pub fn weight(&self) -> Option<&dyn Weight<B>> {
        match self {
            Self::Weight(weight) => Some(&**weight),
            _ => None,
        }
    }

    /// The values, one per stored entry; of a latent weight the whole.
    pub fn values(&self) -> &B::Buffer {
        match self {
            Self::Weight(weight) => weight.values(),
            Self::Vector(values) | Self::Statistics(values) => values,
        }
    }

    pub(crate) fn values_mut(&mut self) -> &mut B::Buffer {
        match self {
            Self::Weight(weight) => weight.values_mut(),
            Self::Vector(values) | Self::Statistics(values) => values,
        }
    }

    /// Whether an optimizer changes it.
    pub fn is_learned(&self) -> bool {
        !matches!(self, Self::Statistics(_))
    }

    /// Whether weight decay acts on it unasked: not on vectors (biases) and dense depthwise convolutions, nine weights a
    /// channel (google-research/rigl, `rigl/imagenet_resnet/mobilenetv1_model.py`).
    pub fn decays(&self) -> bool {
        self.weight().is_some_and(Weight::decays)
    }

    /// After `values` has changed.
    pub(crate) fn refresh(&mut self, backend: &B) -> Result<(), Error> {
        match self {
            Self::Weight(weight) => weight.refresh(backend),
            _ => Ok(()),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Weight(weight) => weight.kind(),
            Self::Vector(_) => "vector",
            Self::Statistics(_) => "statistics",
        }
    }
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
    /// The same of exploration.
    explored: Option<Explored<B>>,
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

    pub(crate) fn gradient_mut(&mut self) -> Option<&mut B::Buffer> {
        self.gradient.as_mut().filter(|_| self.gradient_written)
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

    /// Makes these slots of all parameters that are learned.
    pub(crate) fn ensure_slots(&mut self, backend: &B, names: &[&str]) -> Result<(), Error> {
        for parameter in self.iter_mut().filter(|parameter| parameter.value().is_learned()) {
            for name in names {
                parameter.ensure_slot(backend, name)?;
            }
        }
        Ok(())
    }

    /// Adds a weight.
    pub fn add_weight(&mut self, name: impl Into<String>, weight: Box<dyn Weight<B>>) -> ParameterId {
        self.add(name.into(), ParameterValue::Weight(weight))
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
            explored: None,
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

    /// The pattern of a weight of single entries, or of what takes part of a latent one; none for others.
    ///
    /// # Panics
    /// As [`Parameters::get`].
    pub fn pattern<'a>(&'a self, backend: &B, id: ParameterId) -> Option<&'a Arc<CsrPattern>> {
        self.get(id).value.weight()?.pattern(backend)
    }

    /// The pattern of a weight of blocks; none for others.
    ///
    /// # Panics
    /// As [`Parameters::get`].
    pub fn block_pattern<'a>(&'a self, backend: &B, id: ParameterId) -> Option<&'a Arc<BsrPattern>> {
        self.get(id).value.weight()?.block_pattern(backend)
    }

    /// What a topology update replaces: the pattern of a weight of single entries, the pattern of the blocks of one of
    /// blocks; none for others.
    ///
    /// # Panics
    /// As [`Parameters::get`].
    pub fn topology<'a>(&'a self, backend: &B, id: ParameterId) -> Option<&'a Arc<CsrPattern>> {
        self.pattern(backend, id).or_else(|| self.block_pattern(backend, id).map(|pattern| pattern.blocks()))
    }

    /// A weight that has a topology.
    pub(crate) fn with_topology(&self, op: &'static str, backend: &B, id: ParameterId) -> Result<(), Error> {
        let parameter = self.checked(op, id)?;
        self.topology(backend, id).map(drop).ok_or_else(|| wrong_kind(op, parameter, "sparse matrix"))
    }

    /// A weight whose topology is of single entries.
    pub(crate) fn with_pattern(&self, op: &'static str, backend: &B, id: ParameterId) -> Result<(), Error> {
        let parameter = self.checked(op, id)?;
        self.pattern(backend, id).map(drop).ok_or_else(|| wrong_kind(op, parameter, "sparse matrix or convolution"))
    }

    fn entry(&mut self, op: &'static str, id: ParameterId) -> Result<&mut Parameter<B>, Error> {
        self.list.get_mut(id.0).ok_or_else(|| missing(op, "parameter", id.0))
    }

    fn checked(&self, op: &'static str, id: ParameterId) -> Result<&Parameter<B>, Error> {
        self.list.get(id.0).ok_or_else(|| missing(op, "parameter", id.0))
    }

    pub(crate) fn weight(&self, op: &'static str, id: ParameterId) -> Result<&dyn Weight<B>, Error> {
        let parameter = self.checked(op, id)?;
        parameter.value.weight().ok_or_else(|| wrong_kind(op, parameter, "weight"))
    }

    /// Values of a matrix of all positions, row by row, and its numbers of rows and columns.
    pub(crate) fn dense_matrix(
        &self,
        op: &'static str,
        backend: &B,
        id: ParameterId,
    ) -> Result<(&B::Buffer, [usize; 2]), Error> {
        let parameter = self.checked(op, id)?;
        match parameter.value.weight().map(|weight| (weight, weight.geometry(backend))) {
            Some((weight, Geometry::Linear { nrows, ncols, .. })) if self.topology(backend, id).is_none() => {
                Ok((weight.values(), [nrows, ncols]))
            }
            _ => Err(wrong_kind(op, parameter, "dense matrix")),
        }
    }

    /// A weight, and the sum of its dense gradients that growth over several passes has so far.
    #[expect(clippy::type_complexity, reason = "the two borrows that growth needs at a time")]
    pub(crate) fn growth_gradient(
        &mut self,
        op: &'static str,
        id: ParameterId,
    ) -> Result<(&dyn Weight<B>, &mut Option<B::Buffer>), Error> {
        let Parameter { value, growth_gradient, .. } = self.entry(op, id)?;
        Ok((value.weight().expect("growth was asked for a weight"), growth_gradient))
    }

    /// A weight, and what exploration over several passes has so far.
    #[expect(clippy::type_complexity, reason = "the two borrows that exploration needs at a time")]
    pub(crate) fn explored(
        &mut self,
        op: &'static str,
        id: ParameterId,
    ) -> Result<(&dyn Weight<B>, &mut Option<Explored<B>>), Error> {
        let Parameter { value, explored, .. } = self.entry(op, id)?;
        Ok((value.weight().expect("growth was asked for a weight"), explored))
    }

    /// A weight, the buffer of its gradient at all positions, and whether to add to it.
    pub(crate) fn write_dense_gradient(
        &mut self,
        backend: &B,
        id: ParameterId,
    ) -> Result<(&dyn Weight<B>, &mut B::Buffer, bool), Error> {
        let Parameter { value, dense_gradient, dense_gradient_written, .. } = self.entry("dense gradient", id)?;
        let weight = value.weight().expect("a dense gradient was asked for of a weight");
        let gradient = match dense_gradient {
            Some(gradient) => gradient,
            none => none.insert(backend.zeros(weight.geometry(backend).positions())?),
        };
        Ok((weight, gradient, std::mem::replace(dense_gradient_written, true)))
    }

    /// Puts a sum over shards in its place, and returns what was there.
    ///
    /// # Panics
    /// If the parameter is of another store with more parameters.
    pub fn set_gradient(&mut self, of: SumOf, sum: B::Buffer) -> Option<B::Buffer> {
        let parameter = &mut self.list[of.parameter().0];
        match of {
            SumOf::Gradient(_) | SumOf::Moments(_) => {
                parameter.gradient_written = true;
                parameter.gradient.replace(sum)
            }
            SumOf::DenseGradient(_) => {
                parameter.dense_gradient_written = true;
                parameter.dense_gradient.replace(sum)
            }
        }
    }

    /// Takes the buffer of a gradient, which then counts as not written.
    pub(crate) fn take_gradient(&mut self, id: ParameterId) -> Option<B::Buffer> {
        let parameter = &mut self.list[id.0];
        parameter.gradient_written = false;
        parameter.gradient.take()
    }

    /// As [`Parameters::set_gradient`], from the host, into the buffer that is there.
    ///
    /// # Errors
    /// If the backend fails.
    ///
    /// # Panics
    /// As [`Parameters::set_gradient`].
    pub fn upload_gradient(&mut self, backend: &B, of: SumOf, sum: &[f32]) -> Result<(), Error> {
        let parameter = &mut self.list[of.parameter().0];
        let (gradient, written) = match of {
            SumOf::Gradient(_) | SumOf::Moments(_) => (&mut parameter.gradient, &mut parameter.gradient_written),
            SumOf::DenseGradient(_) => (&mut parameter.dense_gradient, &mut parameter.dense_gradient_written),
        };
        let gradient = match gradient {
            Some(gradient) if backend.len(gradient) == sum.len() => gradient,
            none => none.insert(backend.zeros(sum.len())?),
        };
        backend.upload(sum, gradient)?;
        *written = true;
        Ok(())
    }

    /// Moves running moments towards those that a pass over shards has found, which are their gradient, if there is one:
    /// `running += momentum · (moments − running)`.
    ///
    /// # Errors
    /// If the parameter is not statistics, or the backend fails.
    pub fn move_running(&mut self, backend: &B, id: ParameterId, momentum: f32) -> Result<(), Error> {
        const OP: &str = "move_running";
        let Some(moments) = self.download_gradient(backend, id)? else { return Ok(()) };
        let mut running = backend.downloaded(self.statistics(OP, id)?)?;
        for (running, moment) in running.iter_mut().zip(moments) {
            *running += momentum * (moment - *running);
        }
        Ok(backend.upload(&running, self.statistics_mut(OP, id)?)?)
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

    /// Gives a weight a new topology ([`Parameters::topology`]): value and every optimizer slot move through one map, the
    /// plan is built anew with the same options, and the gradient is forgotten.
    ///
    /// Entry `e` of the new pattern takes what entry `map[e]` of the old one held, or zero where `map[e]` is
    /// `u32::MAX`. Of a weight of blocks an entry is a block, all of whose values move with it. Of a latent one only the
    /// part that takes part changes, values and slots stay, and the map says nothing.
    ///
    /// # Errors
    /// If the parameter has no topology, `map` does not have one element per entry of the new pattern, or points outside
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
        self.with_topology(OP, backend, id)?;
        let old = self.topology(backend, id).expect("checked above");
        expect_equal(OP, "length of the map", pattern.nnz(), map.len())?;
        expect_shape(OP, [old.nrows(), old.ncols()], &pattern)?;
        let block_size = self.block_pattern(backend, id).map_or([1, 1], |blocks| blocks.block_size());
        let expanded = expand_blocks(map, block_size);
        let map = expanded.as_deref().unwrap_or(map);
        let Parameter { value, slots, .. } = &mut self.list[id.0];
        let ParameterValue::Weight(weight) = value else { unreachable!("what has a topology is a weight") };
        if weight.is_latent() {
            return weight.rewire(backend, pattern, map);
        }
        let slots = moved(backend, slots, map)?;
        weight.rewire(backend, pattern, map)?;
        self.install(backend, id, slots, map.len());
        Ok(())
    }

    /// Makes a dense weight sparse: values and optimizer slots of the pattern's positions stay, the others are gone.
    ///
    /// # Errors
    /// If the parameter is not dense, or the pattern has another shape. The parameter then is as it was.
    ///
    /// # Cost
    /// As [`Parameters::replace_pattern`].
    pub fn sparsify(&mut self, backend: &B, id: ParameterId, pattern: Arc<CsrPattern>) -> Result<(), Error> {
        const OP: &str = "sparsify";
        let parameter = self.checked(OP, id)?;
        let dense = parameter.value.weight().filter(|_| self.topology(backend, id).is_none());
        let dense = dense.ok_or_else(|| wrong_kind(OP, parameter, "dense matrix or convolution"))?;
        expect_shape(OP, dense.geometry(backend).size(), &pattern)?;
        let map = positions(&pattern);
        let slots = moved(backend, &parameter.slots, &map)?;
        let weight = dense.sparsified(backend, pattern, &map)?;
        self.list[id.0].value = ParameterValue::Weight(weight);
        self.install(backend, id, slots, map.len());
        Ok(())
    }

    /// Puts the weights of all positions behind a weight of single entries, which becomes the part of them that takes
    /// part. Optimizer slots are dropped: optimizers make them anew for the whole.
    ///
    /// # Errors
    /// If the parameter has no such topology, or there is not one value per position. The parameter then is as it was.
    pub fn make_latent(&mut self, backend: &B, id: ParameterId, values: B::Buffer) -> Result<(), Error> {
        const OP: &str = "make_latent";
        self.with_pattern(OP, backend, id)?;
        let parameter = self.checked(OP, id)?;
        let face = self.weight(OP, id)?;
        if face.is_latent() {
            return Err(wrong_kind(OP, parameter, "sparse matrix or convolution"));
        }
        expect_equal(OP, "number of values", face.geometry(backend).positions(), backend.len(&values))?;
        let placeholder = ParameterValue::Vector(backend.zeros(0)?);
        let parameter = &mut self.list[id.0];
        let ParameterValue::Weight(face) = std::mem::replace(&mut parameter.value, placeholder) else {
            unreachable!("checked above")
        };
        parameter.value = ParameterValue::Weight(Box::new(LatentWeight::new(backend, values, face)?));
        parameter.slots.clear();
        (parameter.gradient, parameter.gradient_written) = (None, false);
        Ok(())
    }

    /// After a weight has got another topology: sets the slots, moved like it, and forgets its gradients.
    fn install(&mut self, backend: &B, id: ParameterId, slots: Vec<(String, B::Buffer)>, len: usize) {
        let parameter = &mut self.list[id.0];
        parameter.slots = slots;
        (parameter.gradient_written, parameter.dense_gradient_written) = (false, false);
        (parameter.growth_gradient, parameter.explored) = (None, None);
        parameter.gradient = parameter.gradient.take().filter(|gradient| backend.len(gradient) == len);
    }

    /// Copies to the host a parameter's gradient at all positions, row by row, of the last backward pass; none if it was not
    /// asked for ([`crate::GrowthRequests::add_dense`]).
    ///
    /// # Errors
    /// If there is no such parameter or the backend fails.
    pub fn download_dense_gradient(&self, backend: &B, id: ParameterId) -> Result<Option<Vec<f32>>, Error> {
        let parameter = self.checked("download_dense_gradient", id)?;
        let written = parameter.dense_gradient.as_ref().filter(|_| parameter.dense_gradient_written);
        Ok(written.map(|gradient| backend.downloaded(gradient)).transpose()?)
    }

    /// Copies the values at the stored entries to the host: of a latent weight those of the part that takes part.
    ///
    /// # Errors
    /// If there is no such parameter or the backend fails.
    pub fn download_stored(&self, backend: &B, id: ParameterId) -> Result<Vec<f32>, Error> {
        let value = &self.checked("download_stored", id)?.value;
        Ok(backend.downloaded(value.weight().map_or(value.values(), Weight::stored))?)
    }

    /// Copies a parameter's values to the host.
    ///
    /// # Errors
    /// If there is no such parameter or the backend fails.
    pub fn download_values(&self, backend: &B, id: ParameterId) -> Result<Vec<f32>, Error> {
        Ok(backend.downloaded(self.checked("download_values", id)?.value.values())?)
    }

    /// Copies a parameter's gradient of the last backward pass to the host; none if there is none.
    ///
    /// # Errors
    /// If there is no such parameter or the backend fails.
    pub fn download_gradient(&self, backend: &B, id: ParameterId) -> Result<Option<Vec<f32>>, Error> {
        let gradient = self.checked("download_gradient", id)?.gradient();
        Ok(gradient.map(|gradient| backend.downloaded(gradient)).transpose()?)
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
        Ok(backend.downloaded(slot.ok_or_else(|| missing("download_slot", "slot", name))?)?)
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
        if let Some(weight) = parameter.value.weight() {
            bytes.transposed_values = weight.transposed_values().map_or(0, size);
            bytes.plan = weight.plan_bytes(backend);
            if weight.is_latent() {
                bytes.values += size(weight.stored());
            }
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

/// Slots of which entry `e` has taken what entry `map[e]` held.
fn moved<B: Backend>(
    backend: &B,
    slots: &[(String, B::Buffer)],
    map: &[u32],
) -> Result<Vec<(String, B::Buffer)>, Error> {
    slots.iter().map(|(name, slot)| Ok((name.clone(), gathered(backend, slot, map)?))).collect()
}

fn expect_shape(op: &'static str, [nrows, ncols]: [usize; 2], pattern: &CsrPattern) -> Result<(), Error> {
    expect_equal(op, "number of rows", nrows, pattern.nrows())?;
    expect_equal(op, "number of columns", ncols, pattern.ncols())
}

fn upload<B: Backend>(op: &'static str, backend: &B, from: &[f32], to: &mut B::Buffer) -> Result<(), Error> {
    expect_equal(op, "number of values", backend.len(to), from.len())?;
    Ok(backend.upload(from, to)?)
}

fn missing(op: &'static str, what: &'static str, name: impl ToString) -> Error {
    Error::Missing { op, what, name: name.to_string() }
}

fn wrong_kind<B: Backend>(op: &'static str, parameter: &Parameter<B>, expected: &'static str) -> Error {
    Error::Kind { op, name: parameter.name.clone(), got: parameter.value.kind(), expected }
}
