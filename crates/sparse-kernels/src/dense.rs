//! Dense operands: activations in strips, and plain row-major views.

use crate::error::{ShapeError, expect_equal};
use crate::{Element, Storage};

/// How a tensor of activations lies in memory: `[lanes / strip][features][strip]`, lanes innermost.
///
/// `lanes` are the samples of a batch (for a recurrent layer: time step × sample). A *strip* is a group of `strip`
/// lanes side by side; element (feature `f`, lane `n`) stands at
/// `((n / strip) · features + f) · strip + n % strip`. Each stored weight is then one multiply-add over `strip`
/// contiguous, aligned lanes, and the part of a strip that a block of columns touches is contiguous.
///
/// The last strip is padded with lanes that hold zero in every tensor (each operation keeps them so) and that no
/// reduction counts.
///
/// Networks with sparse layers use strips of [`StripLayout::SPARSE_STRIP`] lanes. A wholly dense network keeps the
/// batch in one strip ([`StripLayout::single`]), which is the row-major `[feature][lane]` that a GEMM likes best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StripLayout {
    lanes: usize,
    features: usize,
    strip: usize,
}

impl StripLayout {
    /// Lanes per strip of networks with sparse layers: 4 AVX2 vectors or 2 AVX-512 vectors. Measured in
    /// `docs/kernels.md`.
    pub const SPARSE_STRIP: usize = 32;
    /// Strips are a multiple of this many lanes: one AVX-512 vector, one cache line.
    pub const STRIP_UNIT: usize = 16;

    /// A layout with strips of `strip` lanes.
    ///
    /// # Errors
    /// [`ShapeError::Rule`] unless `strip` is a positive multiple of [`Self::STRIP_UNIT`].
    pub fn new(lanes: usize, features: usize, strip: usize) -> Result<Self, ShapeError> {
        if strip == 0 || !strip.is_multiple_of(Self::STRIP_UNIT) {
            let (op, what, rule) = ("strip layout", "strip", "a positive multiple of 16");
            return Err(ShapeError::Rule { op, what, got: strip, rule });
        }
        Ok(Self { lanes, features, strip })
    }

    /// The layout of networks with sparse layers.
    pub fn sparse(lanes: usize, features: usize) -> Self {
        Self { lanes, features, strip: Self::SPARSE_STRIP }
    }

    /// All lanes in one strip: row-major `[feature][lane]`, lanes rounded up to [`Self::STRIP_UNIT`].
    pub fn single(lanes: usize, features: usize) -> Self {
        Self { lanes, features, strip: lanes.max(1).next_multiple_of(Self::STRIP_UNIT) }
    }

    /// The same lanes and strips with another number of features.
    pub fn with_features(self, features: usize) -> Self {
        Self { features, ..self }
    }

    /// Lanes that count.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// Features (rows of the operand matrix).
    pub fn features(&self) -> usize {
        self.features
    }

    /// Lanes per strip.
    pub fn strip(&self) -> usize {
        self.strip
    }

    /// Number of strips, the padded last one included.
    pub fn strips(&self) -> usize {
        self.lanes.div_ceil(self.strip)
    }

    /// Lanes of strip `index` that count.
    pub fn lanes_of(&self, index: usize) -> usize {
        (self.lanes - index * self.strip).min(self.strip)
    }

    /// Elements from one strip to the next.
    pub fn strip_pitch(&self) -> usize {
        self.features * self.strip
    }

    /// Elements in all, padding included.
    pub fn len(&self) -> usize {
        self.strips() * self.strip_pitch()
    }

    /// Whether there is no element at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where element (`feature`, `lane`) stands.
    #[inline]
    pub fn index(&self, feature: usize, lane: usize) -> usize {
        debug_assert!(feature < self.features && lane < self.strips() * self.strip);
        (lane / self.strip * self.features + feature) * self.strip + lane % self.strip
    }

    /// Writes row-major `from` (`[feature][lane]`) into strips; padding lanes become zero.
    ///
    /// # Errors
    /// [`ShapeError`] if the sizes do not fit.
    ///
    /// # Cost
    /// One pass over both.
    pub fn pack<T: Element>(&self, from: MatrixRef<'_, T>, to: &mut [f32]) -> Result<(), ShapeError> {
        self.check("pack", from.nrows, from.ncols, to.len())?;
        for s in 0..self.strips() {
            let lanes = self.lanes_of(s);
            let panel = &mut to[s * self.strip_pitch()..][..self.strip_pitch()];
            for (feature, row) in panel.chunks_exact_mut(self.strip).enumerate() {
                T::to_f32(&from.row(feature)[s * self.strip..][..lanes], &mut row[..lanes]);
                row[lanes..].fill(0.0);
            }
        }
        Ok(())
    }

    /// Writes strips `from` into row-major `to` (`[feature][lane]`).
    ///
    /// # Errors
    /// [`ShapeError`] if the sizes do not fit.
    ///
    /// # Cost
    /// One pass over both.
    pub fn unpack<T: Element>(&self, from: &[f32], mut to: MatrixMut<'_, T>) -> Result<(), ShapeError> {
        self.check("unpack", to.nrows, to.ncols, from.len())?;
        for s in 0..self.strips() {
            let lanes = self.lanes_of(s);
            let panel = &from[s * self.strip_pitch()..][..self.strip_pitch()];
            for (feature, row) in panel.chunks_exact(self.strip).enumerate() {
                T::from_f32(&row[..lanes], &mut to.row_mut(feature)[s * self.strip..][..lanes]);
            }
        }
        Ok(())
    }

    fn check(&self, op: &'static str, nrows: usize, ncols: usize, len: usize) -> Result<(), ShapeError> {
        expect_equal(op, "number of rows", self.features, nrows)?;
        expect_equal(op, "number of lanes", self.lanes, ncols)?;
        expect_equal(op, "length of the strips", self.len(), len)
    }
}

/// Activations on a backend: a layout and a buffer of its length.
#[derive(Debug)]
pub struct Strips<B: Storage> {
    /// Shape and order of the elements.
    pub layout: StripLayout,
    /// The elements; `layout.len()` of them.
    pub data: B::Buffer,
}

impl<B: Storage> Strips<B> {
    /// Activations that are all zero.
    ///
    /// # Errors
    /// [`crate::BackendError`] if the backend cannot hold them.
    pub fn zeros(backend: &B, layout: StripLayout) -> Result<Self, crate::BackendError> {
        Ok(Self { layout, data: backend.zeros(layout.len())? })
    }
}

/// A row-major `nrows × ncols` view with a distance of `leading` elements between rows: [`MatrixRef`] or [`MatrixMut`].
#[derive(Debug, Clone, Copy)]
pub struct MatrixView<D> {
    data: D,
    nrows: usize,
    ncols: usize,
    leading: usize,
}

/// A row-major view.
pub type MatrixRef<'a, T = f32> = MatrixView<&'a [T]>;

/// A mutable row-major view.
pub type MatrixMut<'a, T = f32> = MatrixView<&'a mut [T]>;

fn check_view(nrows: usize, ncols: usize, leading: usize, len: usize) -> Result<(), ShapeError> {
    let needed = if nrows == 0 { Some(0) } else { (nrows - 1).checked_mul(leading).and_then(|n| n.checked_add(ncols)) };
    match needed {
        Some(needed) if needed <= len && ncols <= leading => Ok(()),
        _ => Err(ShapeError::View { nrows, ncols, leading, len }),
    }
}

impl<D> MatrixView<D> {
    /// Rows of the view.
    pub fn nrows(&self) -> usize {
        self.nrows
    }

    /// Columns of the view.
    pub fn ncols(&self) -> usize {
        self.ncols
    }

    /// Elements from one row to the next.
    pub fn leading(&self) -> usize {
        self.leading
    }
}

impl<'a, T: Element> MatrixView<&'a [T]> {
    /// A view of `data`; row `r` is `data[r · leading..][..ncols]`.
    ///
    /// # Errors
    /// [`ShapeError::View`] if `leading < ncols` or `data` is too short.
    pub fn new(data: &'a [T], nrows: usize, ncols: usize, leading: usize) -> Result<Self, ShapeError> {
        check_view(nrows, ncols, leading, data.len())?;
        Ok(Self { data, nrows, ncols, leading })
    }

    /// All elements, those between the rows included.
    pub(crate) fn data(&self) -> &'a [T] {
        self.data
    }

    /// One row.
    ///
    /// # Panics
    /// If `row >= nrows`.
    pub fn row(&self, row: usize) -> &'a [T] {
        assert!(row < self.nrows, "row {row} of {}", self.nrows);
        &self.data[row * self.leading..][..self.ncols]
    }
}

impl<'a, T: Element> MatrixView<&'a mut [T]> {
    /// A view of `data`; row `r` is `data[r · leading..][..ncols]`.
    ///
    /// # Errors
    /// [`ShapeError::View`] if `leading < ncols` or `data` is too short.
    pub fn new(data: &'a mut [T], nrows: usize, ncols: usize, leading: usize) -> Result<Self, ShapeError> {
        check_view(nrows, ncols, leading, data.len())?;
        Ok(Self { data, nrows, ncols, leading })
    }

    /// All elements, those between the rows included.
    pub(crate) fn data_mut(&mut self) -> &mut [T] {
        self.data
    }

    /// One row.
    ///
    /// # Panics
    /// If `row >= nrows`.
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.nrows, "row {row} of {}", self.nrows);
        &mut self.data[row * self.leading..][..self.ncols]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpack_undoes_pack(lanes in 0usize..70, features in 0usize..9, strip in 1usize..4, slack in 0usize..3) {
            let layout = StripLayout::new(lanes, features, strip * 16).unwrap();
            let leading = lanes + slack;
            let from: Vec<f32> = (0..features * leading).map(|i| i as f32 + 0.5).collect();
            let mut strips = vec![f32::NAN; layout.len()];
            let view = MatrixRef::new(&from, features, lanes, leading).unwrap();
            layout.pack(view, &mut strips).unwrap();
            for feature in 0..features {
                for lane in 0..layout.strips() * layout.strip() {
                    let expected = if lane < lanes { from[feature * leading + lane] } else { 0.0 };
                    prop_assert_eq!(strips[layout.index(feature, lane)], expected);
                }
            }
            let mut back = vec![0.0f32; from.len()];
            layout.unpack(&strips, MatrixMut::new(&mut back, features, lanes, leading).unwrap()).unwrap();
            for feature in 0..features {
                let row = feature * leading..feature * leading + lanes;
                prop_assert_eq!(&back[row.clone()], &from[row]);
            }
        }
    }

    #[test]
    fn half_operands_are_converted() {
        let layout = StripLayout::sparse(3, 2);
        let values = [1.5f32, -2.0, 0.25, 4.0, 0.0, -0.5];
        let mut strips = vec![f32::NAN; layout.len()];
        let f16s = values.map(f16::from_f32);
        layout.pack(MatrixRef::new(&f16s, 2, 3, 3).unwrap(), &mut strips).unwrap();
        let mut bf16s = [bf16::ZERO; 6];
        layout.unpack(&strips, MatrixMut::new(&mut bf16s, 2, 3, 3).unwrap()).unwrap();
        assert_eq!(bf16s.map(bf16::to_f32), values);
    }

    #[test]
    fn impossible_views_are_refused() {
        assert!(MatrixRef::new(&[0.0f32; 5], 2, 3, 3).is_err());
        assert!(MatrixRef::new(&[0.0f32; 6], 2, 3, 2).is_err());
        assert!(MatrixRef::new(&[0.0f32; 6], usize::MAX, 3, usize::MAX).is_err());
        assert!(StripLayout::new(4, 4, 24).is_err());
        assert!(StripLayout::new(4, 4, 0).is_err());
    }
}
