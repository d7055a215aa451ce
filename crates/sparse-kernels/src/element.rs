//! Storage types of matrix elements; arithmetic is always f32.

use half::{bf16, f16};

pub(crate) mod sealed {
    pub trait Sealed: Sized {
        /// The elements as they are, if they are f32.
        fn as_f32(_: &[Self]) -> Option<&[f32]> {
            None
        }
        /// As [`Sealed::as_f32`], to write.
        fn as_f32_mut(_: &mut [Self]) -> Option<&mut [f32]> {
            None
        }
    }
    impl Sealed for f32 {
        fn as_f32(elements: &[f32]) -> Option<&[f32]> {
            Some(elements)
        }
        fn as_f32_mut(elements: &mut [f32]) -> Option<&mut [f32]> {
            Some(elements)
        }
    }
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A storage type: `f32`, [`half::f16`] or [`half::bf16`]. Kernels convert to f32 when they pack an operand and
/// accumulate in f32.
pub trait Element: Copy + Default + Send + Sync + sealed::Sealed + 'static {
    /// Name as it stands on the command line and in records.
    const NAME: &'static str;
    /// Converts `from` into `to`; the slices have equal length.
    ///
    /// # Panics
    /// If the lengths differ.
    fn to_f32(from: &[Self], to: &mut [f32]);
    /// Rounds `from` into `to` (nearest, ties to even); the slices have equal length.
    ///
    /// # Panics
    /// If the lengths differ.
    fn from_f32(from: &[f32], to: &mut [Self]);
}

impl Element for f32 {
    const NAME: &'static str = "f32";
    fn to_f32(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
    fn from_f32(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

// The slice conversions detect F16C once a call; element by element they would detect it once an element.
macro_rules! half_element {
    ($type:ty, $name:literal) => {
        impl Element for $type {
            const NAME: &'static str = $name;
            fn to_f32(from: &[Self], to: &mut [f32]) {
                use half::slice::HalfFloatSliceExt;
                from.convert_to_f32_slice(to);
            }
            fn from_f32(from: &[f32], to: &mut [Self]) {
                use half::slice::HalfFloatSliceExt;
                to.convert_from_f32_slice(from);
            }
        }
    };
}
half_element!(f16, "f16");
half_element!(bf16, "bf16");
