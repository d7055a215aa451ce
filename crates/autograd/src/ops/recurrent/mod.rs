//! Recurrent layers: all steps of a window are one operation.
//!
//! ```text
//! before     gates = W · x + b of all steps, a layer like any other: one product
//! forward    for each step:    hidden = U · h + b'          a product with the lanes of one step, which stay in the caches
//!                              gates, hidden, h -> h, y     one pass
//! backward   for each step, from the last:   the gradient of gates and hidden, one pass;  Uᵀ · dhidden for the step before
//!            dU = Σ dhidden · hᵀ over the lanes of all steps: one product
//! ```
//!
//! Lane `t · P + n` is sequence `n` of `P` at step `t`. How a step's lanes must lie is said by [`Steps`].

mod gru;
mod lstm;
#[cfg(test)]
mod tests;

use sparse_kernels::{Activations, Backend, MatrixMut, MatrixRef, ShapeError, Steps, StripLayout, Strips};

use crate::error::expect_equal;
use crate::storage::strips;
use crate::{Error, ParameterId, Tape, Var};

/// What a recurrent layer hands from one window of a sequence to the next: h `[H, P]` and, of a long short-term memory, c.
///
/// [`Tape::gru`] and [`Tape::lstm`] begin with it and leave the last step's. It is no value of a tape, and no gradient
/// reaches it: back-propagation ends where the window begins.
#[derive(Debug)]
pub struct RecurrentState<B: Backend> {
    h: Activations<B>,
    cell: Option<Strips<B>>,
}

impl<B: Backend> RecurrentState<B> {
    /// Zeros, for [`Tape::gru`]; `layout` is that of h, [`Steps::one`].
    ///
    /// # Errors
    /// If the backend cannot hold them.
    pub fn gru(backend: &B, layout: StripLayout) -> Result<Self, Error> {
        Ok(Self { h: Strips::zeros(backend, layout)?.into(), cell: None })
    }

    /// Zeros, for [`Tape::lstm`]; `layout` is that of h and c, [`Steps::one`].
    ///
    /// # Errors
    /// If the backend cannot hold them.
    pub fn lstm(backend: &B, layout: StripLayout) -> Result<Self, Error> {
        Ok(Self { cell: Some(Strips::zeros(backend, layout)?), ..Self::gru(backend, layout)? })
    }

    /// Layout of h, and of c.
    pub fn layout(&self) -> StripLayout {
        strips(&self.h).layout
    }

    /// Zeros again: what follows is another text.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn reset(&mut self, backend: &B) -> Result<(), Error> {
        self.buffers_mut().try_for_each(|buffer| Ok(backend.fill(0.0, buffer)?))
    }

    /// Numbers that [`RecurrentState::download`] gives.
    pub fn len(&self) -> usize {
        self.buffers().count() * self.layout().features() * self.layout().lanes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// h, then c if there is one, each row-major `[feature][sequence]`, however they lie.
    ///
    /// # Errors
    /// If the backend fails.
    pub fn download(&self, backend: &B) -> Result<Vec<f32>, Error> {
        let layout = self.layout();
        let (features, lanes) = (layout.features(), layout.lanes());
        let mut host = vec![0.0; self.len()];
        for (buffer, to) in self.buffers().zip(host.chunks_exact_mut((features * lanes).max(1))) {
            layout.unpack(&backend.downloaded(buffer)?, MatrixMut::new(to, features, lanes, lanes)?)?;
        }
        Ok(host)
    }

    /// What [`RecurrentState::download`] gave.
    ///
    /// # Errors
    /// If the number of values does not fit, or the backend fails.
    pub fn upload(&mut self, backend: &B, host: &[f32]) -> Result<(), Error> {
        expect_equal("recurrent state", "number of values", self.len(), host.len())?;
        let layout = self.layout();
        let (features, lanes) = (layout.features(), layout.lanes());
        for (buffer, from) in self.buffers_mut().zip(host.chunks_exact((features * lanes).max(1))) {
            let mut packed = vec![0.0; layout.len()];
            layout.pack(MatrixRef::new(from, features, lanes, lanes)?, &mut packed)?;
            backend.upload(&packed, buffer)?;
        }
        Ok(())
    }

    fn buffers(&self) -> impl Iterator<Item = &B::Buffer> {
        std::iter::once(self.h.data()).chain(self.cell.as_ref().map(|cell| &cell.data))
    }

    fn buffers_mut(&mut self) -> impl Iterator<Item = &mut B::Buffer> {
        std::iter::once(self.h.data_mut()).chain(self.cell.as_mut().map(|cell| &mut cell.data))
    }
}

/// A window's operands, which were found to fit.
struct Window {
    /// Where the gates are.
    gates: usize,
    /// H.
    width: usize,
    steps: Steps,
}

impl<B: Backend> Tape<'_, B> {
    /// Checks the operands of a layer with so many gates.
    fn window(
        &mut self,
        op: &'static str,
        gates: usize,
        [weight, bias]: [ParameterId; 2],
        xgates: Var,
        state: &RecurrentState<B>,
    ) -> Result<Window, Error> {
        let storage = self.values.read_to_overwrite(op, xgates, None)?;
        let (layout, one) = (self.values.strip_layout(op, xgates)?, state.layout());
        let steps = Steps::of_lanes(layout, one.lanes())?;
        let width = one.features();
        expect_equal(op, "rows of the gates", gates * width, layout.features())?;
        expect_equal(op, "strip of the state", steps.one(0).strip(), one.strip())?;
        let geometry = self.parameters.weight(op, weight)?.geometry(self.backend);
        geometry.output(op, one.into())?;
        expect_equal(op, "rows of the weight", gates * width, geometry.size()[0])?;
        expect_equal(op, "length of the bias", gates * width, self.backend.len(self.parameters.vector(op, bias)?))?;
        Ok(Window { gates: storage, width, steps })
    }
}

/// The error of a state of another kind of layer.
fn wrong_state(op: &'static str, got: usize, rule: &'static str) -> Error {
    ShapeError::Rule { op, what: "number of tensors of the state", got, rule }.into()
}
