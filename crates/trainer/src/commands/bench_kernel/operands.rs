//! What an operation reads, on the host and on a device.

use std::cell::Cell;

use sparse_kernels::random::Key;
use sparse_kernels::{Activations, Layout, MatrixMut, MatrixRef, ShapeError, Storage};

/// The numbers that a seed gives a weight and its operands, as references read them: row-major, images NCHW.
pub(super) struct Numbers {
    pub seed: u64,
    /// One per stored entry.
    pub values: Vec<f32>,
    pub x: Vec<f32>,
    pub dy: Vec<f32>,
}

/// Numbers in [-1, 1) that a seed and a name decide.
pub(super) fn numbers(seed: u64, name: &str, len: usize) -> Vec<f32> {
    let key = Key::new(seed).with_name(name);
    (0..len as u64).map(|i| 2.0 * key.uniform(i) - 1.0).collect()
}

/// Two sets of operands, taken in turn so that no call repeats the one before.
pub(super) struct Operands<T> {
    x: [T; 2],
    dy: [T; 2],
    turn: Cell<usize>,
}

impl<T> Operands<T> {
    /// X and dY, and half of them, each as its function lays it out.
    pub fn new(numbers: &Numbers, [pack_x, pack_dy]: [impl Fn(&[f32]) -> crate::Result<T>; 2]) -> crate::Result<Self> {
        let half = |data: &[f32]| data.iter().map(|v| 0.5 * v).collect::<Vec<_>>();
        let Numbers { x, dy, .. } = numbers;
        Ok(Self { x: [pack_x(x)?, pack_x(&half(x))?], dy: [pack_dy(dy)?, pack_dy(&half(dy))?], turn: Cell::new(0) })
    }

    /// The same operands in another form.
    #[cfg(feature = "gpu")]
    pub fn map<U>(&self, make: impl Fn(&T) -> crate::Result<U>) -> crate::Result<Operands<U>> {
        let both = |[a, b]: &[T; 2]| -> crate::Result<[U; 2]> { Ok([make(a)?, make(b)?]) };
        Ok(Operands { x: both(&self.x)?, dy: both(&self.dy)?, turn: Cell::new(0) })
    }

    /// The next operands: `(x, dy)`.
    pub fn next(&self) -> (&T, &T) {
        let turn = self.turn.get();
        self.turn.set(1 - turn);
        (&self.x[turn], &self.dy[turn])
    }
}

/// Elements that are no padding.
pub(super) fn elements(layout: Layout) -> usize {
    match layout {
        Layout::Strips(layout) => layout.features() * layout.lanes(),
        Layout::Images(layout) => layout.samples() * layout.channels() * layout.size()[0] * layout.size()[1],
    }
}

/// Activations of these elements; padding lanes and the borders of images are zero.
pub(super) fn pack<B: Storage>(backend: &B, layout: Layout, data: &[f32]) -> crate::Result<Activations<B>> {
    Ok(Activations::new(layout, backend.uploaded(&packed(layout, data)?)?))
}

/// The elements of activations; none if a number is NaN, or not zero where padding lanes and borders must be.
pub(super) fn unpack<B: Storage>(backend: &B, activations: &Activations<B>) -> crate::Result<Option<Vec<f32>>> {
    let (layout, held) = (activations.layout(), backend.downloaded(activations.data())?);
    let mut data = vec![0.0; elements(layout)];
    match layout {
        Layout::Strips(layout) => {
            let (features, lanes) = (layout.features(), layout.lanes());
            layout.unpack(&held, MatrixMut::new(&mut data, features, lanes, lanes)?)?;
        }
        Layout::Images(layout) => layout.unpack(&held, &mut data)?,
    }
    Ok((packed(layout, &data)? == held).then_some(data))
}

fn packed(layout: Layout, data: &[f32]) -> Result<Vec<f32>, ShapeError> {
    let mut packed = vec![0.0; layout.len()];
    match layout {
        Layout::Strips(layout) => {
            let (features, lanes) = (layout.features(), layout.lanes());
            layout.pack(MatrixRef::new(data, features, lanes, lanes)?, &mut packed)?;
        }
        Layout::Images(layout) => layout.pack(data, &mut packed)?,
    }
    Ok(packed)
}
