//! The checks of operands, once for all devices.

use super::storage::Storage;
#[cfg(feature = "nn")]
use crate::Images;
use crate::error::expect_equal;
use crate::{BackendError, Precision, ShapeError, StripLayout, Strips};

/// What a hook returns.
pub type Done = Result<(), BackendError>;

/// Proof that the operands of a call were checked. Only the traits' methods make one, so that no other code reaches a hook
/// without them; and other crates, which cannot name it, can implement none. A hook may hand it on to another that takes the
/// same operands.
#[derive(Debug)]
pub struct Checked(pub(super) ());

/// Checks that an operation on f32 gets no others.
pub(crate) fn expect_f32(op: &'static str, operands: [Precision; 2]) -> Result<(), ShapeError> {
    match operands.into_iter().find(|&precision| precision != Precision::F32) {
        None => Ok(()),
        Some(other) => {
            let (what, got, rule) = ("bits of a number", 8 * other.bytes(), "32: the operation is one of f32");
            Err(ShapeError::Rule { op, what, got, rule })
        }
    }
}

/// Checks that a range of f32 lies within both buffers.
pub(crate) fn check_range<B: Storage>(
    backend: &B,
    from: &B::Buffer,
    from_start: usize,
    to: &B::Buffer,
    to_start: usize,
    len: usize,
) -> Result<(), BackendError> {
    expect_f32("copy_range", [backend.precision(from), backend.precision(to)])?;
    for (start, room) in [(from_start, backend.len(from)), (to_start, backend.len(to))] {
        let end = start.saturating_add(len);
        if end > room {
            let (what, rule) = ("end of the range", "at most the length of the buffer");
            return Err(ShapeError::Rule { op: "copy_range", what, got: end, rule }.into());
        }
    }
    Ok(())
}

/// Operands of a weight's gradient `Σ dy · x`, which were checked.
#[derive(Debug)]
pub struct WeightGrad<'a, P, T, V> {
    pub checked: Checked,
    /// Where the weight has values: a plan, the shape of a dense convolution; a dense matrix needs nothing.
    pub plan: P,
    pub dy: &'a T,
    pub x: &'a T,
    pub values: &'a mut V,
    pub accumulate: bool,
}

/// A layout of activations, and how long their buffer is.
pub(crate) type Extent = (StripLayout, usize);

/// Extent of activations.
pub(super) fn extent<B: Storage>(backend: &B, strips: &Strips<B>) -> Extent {
    (strips.layout, backend.len(&strips.data))
}

/// What messages call rows and length of a product's second operand.
type Names = [&'static str; 2];
pub(super) const Y: Names = ["rows of Y", "length of Y"];
pub(super) const DY: Names = ["rows of dY", "length of dY"];

/// Checks that X and Y, or dY, have these rows, the same lanes in strips of this width, and buffers of their length.
pub(super) fn activations(
    op: &'static str,
    strip: usize,
    [x_rows, y_rows]: [usize; 2],
    (x, x_len): Extent,
    (y, y_len): Extent,
    [rows, length]: Names,
) -> Result<(), ShapeError> {
    expect_equal(op, "strip width", strip, x.strip())?;
    expect_equal(op, "number of lanes", x.lanes(), y.lanes())?;
    expect_equal(op, "strip width", x.strip(), y.strip())?;
    expect_equal(op, "rows of X", x_rows, x.features())?;
    expect_equal(op, rows, y_rows, y.features())?;
    expect_equal(op, "length of X", x.len(), x_len)?;
    expect_equal(op, length, y.len(), y_len)
}

/// Checks pairs of `(dY, X)` whose products are the gradient of a matrix `[m, k]`.
pub(super) fn check_pairs<B: Storage>(
    backend: &B,
    [m, k]: [usize; 2],
    pairs: &[(&Strips<B>, &Strips<B>)],
) -> Result<(), ShapeError> {
    pairs.iter().try_for_each(|(dy, x)| {
        expect_equal("grow", "rows of dY", m, dy.layout.features())?;
        activations("grow", x.layout.strip(), [k, m], extent(backend, x), extent(backend, dy), DY)
    })
}

/// Checks that a buffer of activations is as long as its layout says.
#[cfg(feature = "nn")]
pub(super) fn strips_fit<B: Storage>(backend: &B, op: &'static str, x: &Strips<B>) -> Result<(), ShapeError> {
    expect_equal(op, "length of the strips", x.layout.len(), backend.len(&x.data))
}

/// Checks that two operands are of one shape and order, and their buffers long enough.
#[cfg(feature = "nn")]
pub(super) fn same_strips<B: Storage>(
    backend: &B,
    op: &'static str,
    expected: &Strips<B>,
    got: &Strips<B>,
) -> Result<(), ShapeError> {
    lies_as(backend, op, expected.layout, got)?;
    strips_fit(backend, op, expected)
}

/// Checks that an operand is of this shape and order, and its buffer long enough.
#[cfg(feature = "nn")]
pub(super) fn lies_as<B: Storage>(
    backend: &B,
    op: &'static str,
    expected: StripLayout,
    got: &Strips<B>,
) -> Result<(), ShapeError> {
    expect_equal(op, "number of features", expected.features(), got.layout.features())?;
    expect_equal(op, "number of lanes", expected.lanes(), got.layout.lanes())?;
    expect_equal(op, "lanes per strip", expected.strip(), got.layout.strip())?;
    strips_fit(backend, op, got)
}

/// Checks that strips have a lane for each sample, and so many features.
#[cfg(feature = "nn")]
pub(super) fn lanes_fit<B: Storage>(
    backend: &B,
    op: &'static str,
    features: usize,
    images: &Images<B>,
    strips: &Strips<B>,
) -> Result<(), ShapeError> {
    expect_equal(op, "number of lanes", images.layout.samples(), strips.layout.lanes())?;
    expect_equal(op, "number of features", features, strips.layout.features())?;
    images_fit(backend, op, images)?;
    strips_fit(backend, op, strips)
}

/// Checks that a buffer of images is as long as its layout says.
#[cfg(feature = "nn")]
pub(super) fn images_fit<B: Storage>(backend: &B, op: &'static str, x: &Images<B>) -> Result<(), ShapeError> {
    expect_equal(op, "length of the images", x.layout.len(), backend.len(&x.data))
}

/// Checks samples, channels and strip of images, that they have this size, and the lengths of both buffers.
#[cfg(feature = "nn")]
pub(super) fn same_samples<B: Storage>(
    backend: &B,
    op: &'static str,
    expected: &Images<B>,
    size: [usize; 2],
    got: &Images<B>,
) -> Result<(), ShapeError> {
    expect_equal(op, "number of samples", expected.layout.samples(), got.layout.samples())?;
    expect_equal(op, "samples per strip", expected.layout.strip(), got.layout.strip())?;
    expect_equal(op, "number of channels", expected.layout.channels(), got.layout.channels())?;
    expect_equal(op, "height", size[0], got.layout.size()[0])?;
    expect_equal(op, "width", size[1], got.layout.size()[1])?;
    images_fit(backend, op, expected)?;
    images_fit(backend, op, got)
}

/// Checks that two operands are alike but for their borders and channels, and the lengths of both buffers.
#[cfg(feature = "nn")]
pub(super) fn pixels_fit<B: Storage>(
    backend: &B,
    op: &'static str,
    expected: &Images<B>,
    got: &Images<B>,
) -> Result<(), ShapeError> {
    expect_equal(op, "number of samples", expected.layout.samples(), got.layout.samples())?;
    expect_equal(op, "samples per strip", expected.layout.strip(), got.layout.strip())?;
    expect_equal(op, "height", expected.layout.size()[0], got.layout.size()[0])?;
    expect_equal(op, "width", expected.layout.size()[1], got.layout.size()[1])?;
    images_fit(backend, op, expected)?;
    images_fit(backend, op, got)
}

/// Checks that two operands are alike but for their borders, and the lengths of both buffers.
#[cfg(feature = "nn")]
pub(super) fn same_images<B: Storage>(
    backend: &B,
    op: &'static str,
    expected: &Images<B>,
    got: &Images<B>,
) -> Result<(), ShapeError> {
    same_samples(backend, op, expected, expected.layout.size(), got)
}

/// Checks that a rate of dropout is possible.
#[cfg(feature = "nn")]
pub(super) fn rate_fits(op: &'static str, rate: f32) -> Result<(), ShapeError> {
    if (0.0..1.0).contains(&rate) {
        return Ok(());
    }
    let (what, got, rule) = ("rate (in percent)", (rate * 100.0) as usize, "at least 0 and below 100");
    Err(ShapeError::Rule { op, what, got, rule })
}
