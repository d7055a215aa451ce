//! One head of one sequence, out of strips into rows `[feature][token]` and back; rotary positions on the way.

use crate::StripLayout;
use crate::backend::Attention;
use crate::cpu::SharedMut;
use crate::cpu::isa::Isa;

/// Cosines and sines of rotary positions, see [`Attention::rotary`].
pub(super) struct Rotary {
    length: usize,
    /// `[pair][token]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotary {
    pub(super) fn new(attention: Attention, head_size: usize) -> Self {
        let (cos, sin) = attention.angles(head_size).into_iter().map(|[cos, sin]| (cos, sin)).unzip();
        Self { length: attention.length, cos, sin }
    }

    /// Turns rows of `pitch` floats, a pair for each of `cos`'s rows, forward or back.
    #[inline(always)]
    pub(super) fn turn<I: Isa>(&self, isa: I, rows: &mut [f32], pitch: usize, is_back: bool) {
        let pairs = self.cos.len() / self.length.max(1);
        let (first, second) = rows.split_at_mut(pairs * pitch);
        for pair in 0..pairs {
            let [cos, sin] = [&self.cos, &self.sin].map(|table| &table[pair * self.length..][..self.length]);
            let a = &mut first[pair * pitch..][..self.length];
            let b = &mut second[pair * pitch..][..self.length];
            let whole = self.length / I::LANES * I::LANES;
            for t in (0..whole).step_by(I::LANES) {
                // SAFETY: t + LANES <= length, the length of all four.
                unsafe {
                    let (cos, sin) = (isa.load(cos.as_ptr().add(t)), isa.load(sin.as_ptr().add(t)));
                    let sin = if is_back { isa.sub(isa.splat(0.0), sin) } else { sin };
                    let (x, y) = (isa.load(a.as_ptr().add(t)), isa.load(b.as_ptr().add(t)));
                    isa.store(a.as_mut_ptr().add(t), isa.sub(isa.mul(x, cos), isa.mul(y, sin)));
                    isa.store(b.as_mut_ptr().add(t), isa.mul_add(x, sin, isa.mul(y, cos)));
                }
            }
            for t in whole..self.length {
                let sin = if is_back { -sin[t] } else { sin[t] };
                (a[t], b[t]) = (a[t] * cos[t] - b[t] * sin, a[t] * sin + b[t] * cos[t]);
            }
        }
    }
}

/// Copies `count` features of `length` lanes from `(feature, lane)` of strips into rows of `pitch` floats, times `scale`; what
/// follows the lanes becomes zero.
#[inline(always)]
pub(super) fn read<I: Isa>(
    isa: I,
    (layout, from): (StripLayout, &[f32]),
    [feature, lane]: [usize; 2],
    [count, length]: [usize; 2],
    scale: f32,
    (rows, pitch): (&mut [f32], usize),
) {
    let scales = isa.splat(scale);
    for (f, row) in rows.chunks_exact_mut(pitch).take(count).enumerate() {
        let mut t = 0;
        while t < length {
            let there = layout.strip() - (lane + t) % layout.strip();
            let len = there.min(length - t);
            let part = &from[layout.index(feature + f, lane + t)..][..len];
            let to = &mut row[t..][..len];
            let whole = len / I::LANES * I::LANES;
            for i in (0..whole).step_by(I::LANES) {
                // SAFETY: i + LANES <= len, the length of both.
                unsafe { isa.store(to.as_mut_ptr().add(i), isa.mul(isa.load(part.as_ptr().add(i)), scales)) };
            }
            for i in whole..len {
                to[i] = part[i] * scale;
            }
            t += len;
        }
        row[length..].fill(0.0);
    }
}

/// Writes rows back, times `scale`.
///
/// # Safety
/// `to` is valid for `layout.len()` floats, of which nobody else touches these lanes of these features.
#[inline(always)]
pub(super) unsafe fn write<I: Isa>(
    isa: I,
    (rows, pitch): (&[f32], usize),
    scale: f32,
    [count, length]: [usize; 2],
    (layout, to): (StripLayout, SharedMut),
    [feature, lane]: [usize; 2],
) {
    let scales = isa.splat(scale);
    for (f, row) in rows.chunks_exact(pitch).take(count).enumerate() {
        let mut t = 0;
        while t < length {
            let there = layout.strip() - (lane + t) % layout.strip();
            let len = there.min(length - t);
            let part = &row[t..][..len];
            // SAFETY: the caller's promise; the lanes lie in one strip.
            let to = unsafe { to.get().add(layout.index(feature + f, lane + t)) };
            let whole = len / I::LANES * I::LANES;
            for i in (0..whole).step_by(I::LANES) {
                // SAFETY: i + LANES <= len, the length of both.
                unsafe { isa.store(to.add(i), isa.mul(isa.load(part.as_ptr().add(i)), scales)) };
            }
            for (i, value) in part.iter().enumerate().skip(whole) {
                // SAFETY: as above.
                unsafe { *to.add(i) = value * scale };
            }
            t += len;
        }
    }
}
