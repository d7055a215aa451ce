//! Activations stored in 16 bits: half the bytes where loads of X are the limit. Products and sums are f32 all the same, so no
//! device needs arithmetic in f16 for them.

use std::ops::Range;

use super::elementwise::GROUP;
use super::kernel::{Kernel, Launch, Operand, Read, Work, Write};
use super::shaders;
use super::{Buffer, Gpu, GpuPlan, Indices, windows};
use crate::backend::SparseMatrix;
use crate::backend::linear::{check_sddmm, check_spmm};
use crate::error::expect_equal;
use crate::{BackendError, Op, Storage, StripLayout, Strips};

static CONVERT: Kernel = Kernel::new("convert", shaders::CONVERT, &[Read, Write]);
static WIDEN: Kernel = Kernel::new("widen", shaders::WIDEN, &[Read, Write]);

/// A storage type of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HalfType {
    /// [`half::f16`]: 11 bits of precision, up to 65504.
    F16,
    /// [`half::bf16`]: 8 bits of precision, the range of f32.
    Bf16,
}

impl HalfType {
    /// What shaders call it.
    fn code(self) -> u32 {
        match self {
            Self::F16 => 1,
            Self::Bf16 => 2,
        }
    }
}

/// Features by lanes in strips, as [`Strips`], in 16 bits.
#[derive(Debug)]
pub struct HalfStrips {
    layout: StripLayout,
    stored_as: HalfType,
    /// Two lanes a word, the first one in the lower half.
    words: Indices,
}

impl HalfStrips {
    /// Where each element lies, counted in elements of 16 bits.
    pub fn layout(&self) -> StripLayout {
        self.layout
    }

    #[cfg(test)]
    pub(super) fn words(&self) -> &Indices {
        &self.words
    }

    /// The type of the elements.
    pub fn stored_as(&self) -> HalfType {
        self.stored_as
    }
}

/// X or dY of a product, however it is stored.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Full(&'a Strips<Gpu>),
    Half(&'a HalfStrips),
}

impl<'a> Source<'a> {
    pub fn layout(&self) -> StripLayout {
        match self {
            Self::Full(x) => x.layout,
            Self::Half(x) => x.layout,
        }
    }

    /// What shaders call its type.
    pub fn code(&self) -> u32 {
        match self {
            Self::Full(_) => 0,
            Self::Half(x) => x.stored_as.code(),
        }
    }

    /// Lanes in 16 bytes.
    pub fn unit(&self) -> usize {
        match self {
            Self::Full(_) => 4,
            Self::Half(_) => 8,
        }
    }

    /// Words from strip to strip.
    pub fn pitch(&self) -> usize {
        self.layout().strip_pitch() * 4 / self.unit()
    }

    /// These strips as an operand.
    pub fn strips(&self, strips: &Range<usize>) -> Operand<'a> {
        let (start, len) = (strips.start * self.pitch(), strips.len() * self.pitch());
        match self {
            Self::Full(x) => x.data.window(start, len),
            Self::Half(x) => x.words.window(start, len),
        }
    }

    /// An operand that stands in for one that is not read.
    pub fn any(&self, most: usize) -> Operand<'a> {
        match self {
            Self::Full(x) => x.data.first(most),
            Self::Half(x) => x.words.first(most),
        }
    }
}

impl Gpu {
    /// Activations of 16 bits, all zero.
    ///
    /// # Errors
    /// If the device has no room.
    pub fn half_strips(&self, layout: StripLayout, stored_as: HalfType) -> Result<HalfStrips, BackendError> {
        // Strips have an even number of lanes.
        Ok(HalfStrips { layout, stored_as, words: self.index_zeros(layout.len() / 2)? })
    }

    /// Rounds `from` into `to`, to the nearest, halves to even. Cost: 6 bytes an element.
    ///
    /// # Errors
    /// If the layouts differ, or the device fails.
    pub fn halve(&self, from: &Strips<Self>, to: &mut HalfStrips) -> Result<(), BackendError> {
        const OP: &str = "halve";
        expect_equal(OP, "number of features", to.layout.features(), from.layout.features())?;
        expect_equal(OP, "number of lanes", to.layout.lanes(), from.layout.lanes())?;
        expect_equal(OP, "strip width", to.layout.strip(), from.layout.strip())?;
        expect_equal(OP, "length of the strips", from.layout.len(), from.data.len())?;
        let to_type = to.stored_as.code();
        self.each_word(&CONVERT, &[to_type], to.words.len(), |part, pairs| {
            [from.data.window(pairs.start, pairs.len()), to.words.window(part.start, part.len())]
        })
    }

    /// Launches a kernel on each of `words` words that hold two numbers, part by part: with the part's words, and the two f32 for
    /// each of them.
    fn each_word<'a>(
        &self,
        kernel: &'static Kernel,
        params: &[u32],
        words: usize,
        operands: impl Fn(Range<usize>, Range<usize>) -> [Operand<'a>; 2],
    ) -> Result<(), BackendError> {
        for part in windows::flat(words, self.window_elements() / 2) {
            let len = part.len();
            let pairs = 2 * part.start..2 * part.end;
            self.launch(&Launch {
                kernel,
                constants: &[],
                params: &[&[len as u32], params].concat(),
                operands: &operands(part, pairs),
                workgroups: len.div_ceil(GROUP),
                work: Work::words(3 * len),
            })?;
        }
        Ok(())
    }

    /// `to = from` in 16 bits.
    pub(super) fn round(&self, from: &Buffer, to: &Buffer) -> Result<(), BackendError> {
        self.each_word(&CONVERT, &[HalfType::Bf16.code()], to.words(), |part, pairs| {
            [from.window(pairs.start, pairs.len()), to.window(part.start, part.len())]
        })
    }

    /// `to = from`, which is in 16 bits.
    pub(super) fn widen(&self, from: &Buffer, to: &Buffer) -> Result<(), BackendError> {
        self.each_word(&WIDEN, &[], from.words(), |part, pairs| {
            [from.window(part.start, part.len()), to.window(pairs.start, pairs.len())]
        })
    }

    /// [`SparseLinear::spmm`](crate::SparseLinear::spmm) with X in 16 bits: W and Y are f32, and so are the sums.
    ///
    /// # Errors
    /// If shapes do not fit, or the device fails.
    pub fn spmm_half(
        &self,
        op: Op,
        w: &SparseMatrix<Self>,
        x: &HalfStrips,
        y: &mut Strips<Self>,
    ) -> Result<(), BackendError> {
        check_spmm(self, "spmm", op, w, (x.layout, x.layout.len()), y)?;
        self.product(op, w, None, false, Source::Half(x), y)
    }

    /// [`SparseLinear::sddmm`](crate::SparseLinear::sddmm) with dY and X in 16 bits: sums are f32.
    ///
    /// # Errors
    /// If shapes do not fit, or the device fails.
    pub fn sddmm_half(
        &self,
        plan: &GpuPlan,
        dy: &HalfStrips,
        x: &HalfStrips,
        values: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        check_sddmm(self, plan, (dy.layout, dy.layout.len()), (x.layout, x.layout.len()), values)?;
        self.sampled_product(plan, [Source::Half(dy), Source::Half(x)], values, accumulate)
    }
}
