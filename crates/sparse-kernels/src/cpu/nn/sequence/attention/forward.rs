//! The forward pass of one head of one sequence.

use super::super::super::exp::exp;
use super::call::{Call, Head};
use super::rows;
use super::tiles::{Accumulate, Before, WIDEST, dots, later};
use crate::StripLayout;
use crate::cpu::isa::{Isa, Kernel, array_of, dispatch};
use crate::cpu::{Cpu, SharedMut};

/// Keys of a chunk, whose scores stay in L1: whole groups of 6 and of 8.
const CHUNK: usize = 192;
/// What is added to a score that is not to be: beyond any, yet finite.
const FORBIDDEN: f32 = -1e30;

pub(super) fn run(
    cpu: &Cpu,
    call: Call<'_>,
    head: Head,
    from: [&[f32]; 3],
    to: SharedMut,
    lse: (StripLayout, SharedMut),
) {
    let operand = call.rows() * call.pitch();
    let mut scratch = cpu.scratch(4 * operand + CHUNK * WIDEST + call.pitch());
    dispatch(cpu.isa, Forward { call, head, from, to, lse, scratch: &mut scratch });
    cpu.give_back(scratch);
}

struct Forward<'a> {
    call: Call<'a>,
    head: Head,
    /// q, k and v.
    from: [&'a [f32]; 3],
    /// o, of which this task touches its head's features of its sequence's lanes only.
    to: SharedMut,
    lse: (StripLayout, SharedMut),
    scratch: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        if I::REGISTERS == 32 { self.tiled::<I, 8>(isa) } else { self.tiled::<I, 6>(isa) }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn tiled<I: Isa, const R: usize>(self, isa: I) {
        let Self { call, head, from, to, lse, scratch } = self;
        let Call { layout, length, head_size, rotary } = call;
        let (pitch, operand) = (call.pitch(), call.rows() * call.pitch());
        let (q, rest) = scratch.split_at_mut(operand);
        let (k, rest) = rest.split_at_mut(operand);
        let (v, rest) = rest.split_at_mut(operand);
        let (o, rest) = rest.split_at_mut(operand);
        let (p, sums) = rest.split_at_mut(CHUNK * WIDEST);
        let (place, size) = ([head.feature, head.lane], [head_size, length]);
        rows::read(isa, (layout, from[0]), place, size, call.scale(), (q, pitch));
        rows::read(isa, (layout, from[1]), place, size, 1.0, (k, pitch));
        rows::read(isa, (layout, from[2]), place, size, 1.0, (v, pitch));
        let group = head_size.next_multiple_of(R);
        // What is multiplied and not used must be a number that costs no time.
        v[head_size * pitch..group * pitch].fill(0.0);
        if let Some(rotary) = rotary {
            rotary.turn(isa, q, pitch, false);
            rotary.turn(isa, k, pitch, false);
        }
        let (zero, width) = (isa.splat(0.0), 2 * I::LANES);
        let (p, o) = (p.as_mut_ptr(), o.as_mut_ptr());
        for first in (0..length).step_by(width) {
            let keys = (first + width).min(length);
            let [mut top, mut sum, mut poison] = [[isa.splat(f32::MIN); 2], [zero; 2], [zero; 2]];
            for chunk in (0..keys).step_by(CHUNK) {
                let count = (keys - chunk).min(CHUNK);
                // Keys before the first query are seen by all.
                let free = first.saturating_sub(chunk).min(count) / R * R;
                let before = top;
                for key in (0..count).step_by(R) {
                    // SAFETY: rows of `pitch` floats; `chunk + key + R` is at most `length + R − 1`, and `first + width` the
                    // next multiple of 32: both below `pitch`.
                    let scores = unsafe {
                        dots::<I, R>(isa, k.as_ptr().add(chunk + key), q.as_ptr().add(first), pitch, head_size)
                    };
                    for (r, row) in scores.into_iter().enumerate() {
                        for (v, mut score) in row.into_iter().enumerate() {
                            if key >= free {
                                let mask = later(isa, (chunk + key + r).saturating_sub(first), v);
                                score = isa.where_positive(mask, score);
                                poison[v] = isa.mul_add(score, zero, poison[v]);
                                let forbidden = isa.mul(isa.sub(mask, isa.splat(1.0)), isa.splat(-FORBIDDEN));
                                score = isa.add(score, forbidden);
                            } else {
                                poison[v] = isa.mul_add(score, zero, poison[v]);
                            }
                            top[v] = isa.max(score, top[v]);
                            // SAFETY: `count`, to whole groups, is at most CHUNK rows of `width` floats.
                            unsafe { isa.store(p.add((key + r) * width + v * I::LANES), score) };
                        }
                    }
                }
                let mut factors = [0f32; WIDEST];
                for v in 0..2 {
                    let factor = exp(isa, isa.sub(before[v], top[v]));
                    sum[v] = isa.mul(sum[v], factor);
                    // SAFETY: two vectors have at most WIDEST floats.
                    unsafe { isa.store(factors.as_mut_ptr().add(v * I::LANES), factor) };
                }
                for row in 0..count {
                    for v in 0..2 {
                        // SAFETY: as above.
                        let at = unsafe { p.add(row * width + v * I::LANES) };
                        // SAFETY: as above.
                        let mut part = exp(isa, isa.sub(unsafe { isa.load(at) }, top[v]));
                        if row >= free {
                            let mask = later(isa, (chunk + row).saturating_sub(first), v);
                            part = isa.where_positive(mask, part);
                        }
                        sum[v] = isa.add(sum[v], part);
                        // SAFETY: as above.
                        unsafe { isa.store(at, part) };
                    }
                }
                let before = if chunk == 0 { Before::Nothing } else { Before::Times(&factors) };
                let (a, to) = (v.as_ptr().wrapping_add(chunk), o.wrapping_add(first));
                let sums = Accumulate::<R> { a, to, pitch, rows: group, p, p_pitch: width, count, before };
                // SAFETY: `group` rows of V and of O, and `count` of P.
                unsafe { sums.run(isa) };
            }
            let inverse: [I::V; 2] = array_of(|v| isa.div(isa.splat(1.0), isa.add(sum[v], poison[v])));
            for f in 0..head_size {
                for (v, inverse) in inverse.into_iter().enumerate() {
                    // SAFETY: rows of `pitch` floats.
                    unsafe {
                        let at = o.add(f * pitch + first + v * I::LANES);
                        isa.store(at, isa.mul(isa.load(at), inverse));
                    }
                }
            }
            let (mut tops, mut totals) = ([0f32; WIDEST], [0f32; WIDEST]);
            for v in 0..2 {
                // SAFETY: two vectors have at most WIDEST floats.
                unsafe {
                    isa.store(tops.as_mut_ptr().add(v * I::LANES), top[v]);
                    isa.store(totals.as_mut_ptr().add(v * I::LANES), isa.add(sum[v], poison[v]));
                }
            }
            for (i, to) in sums[first..keys].iter_mut().enumerate() {
                *to = tops[i] + totals[i].ln();
            }
        }
        // SAFETY: `rows * pitch` floats, written above.
        let o = unsafe { std::slice::from_raw_parts(o, operand) };
        // SAFETY: this task's features of its lanes.
        unsafe {
            rows::write(isa, (o, pitch), 1.0, size, (layout, to), place);
            rows::write(isa, (sums, pitch), 1.0, [1, length], lse, [head.head, head.lane]);
        }
    }
}
