//! The backward pass of one head of one sequence.

use super::super::super::exp::exp;
use super::call::{Call, Head};
use super::rows;
use super::tiles::{Accumulate, Before, dots, later};
use crate::StripLayout;
use crate::cpu::isa::{EightLanes, Isa, Kernel, array_of, dispatch};
use crate::cpu::{Cpu, SharedMut};

/// Keys of a block: two tiles of two vectors of eight, or one of sixteen.
const KEYS: usize = 32;
/// Queries of a chunk: whole groups of 6 and of 8, and whole tiles.
const CHUNK: usize = 96;

pub(super) fn run(
    cpu: &Cpu,
    call: Call<'_>,
    head: Head,
    from: [&[f32]; 5],
    lse: (StripLayout, &[f32]),
    to: [SharedMut; 3],
) {
    let operand = call.rows() * call.pitch();
    let mut scratch = cpu.scratch(7 * operand + 3 * CHUNK * KEYS + 2 * call.pitch());
    dispatch(cpu.isa, Backward { call, head, from, lse, to, scratch: &mut scratch });
    cpu.give_back(scratch);
}

struct Backward<'a> {
    call: Call<'a>,
    head: Head,
    /// q, k, v, o and dO.
    from: [&'a [f32]; 5],
    lse: (StripLayout, &'a [f32]),
    /// dq, dk and dv, of which this task touches its head's features of its sequence's lanes only.
    to: [SharedMut; 3],
    scratch: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        if I::REGISTERS == 32 { self.tiled::<I, 8>(isa) } else { self.tiled::<I, 6>(isa) }
    }
}

impl Backward<'_> {
    #[inline(always)]
    fn tiled<I: Isa, const R: usize>(self, isa: I) {
        let Self { call, head, from, lse: (lse_layout, lse_from), to, scratch } = self;
        let Call { layout, length, head_size, rotary } = call;
        let (pitch, operand) = (call.pitch(), call.rows() * call.pitch());
        let (operands, rest) = scratch.split_at_mut(7 * operand);
        let (tiles, rest) = rest.split_at_mut(3 * CHUNK * KEYS);
        let (lse, products) = rest.split_at_mut(pitch);
        let mut operands = operands.chunks_exact_mut(operand);
        let [q, k, v, dout, dq, dk, dv] = array_of(|_| operands.next().expect("seven were taken"));
        let mut tiles = tiles.chunks_exact_mut(CHUNK * KEYS);
        let [p, ds, turned] = array_of(|_| tiles.next().expect("three were taken").as_mut_ptr());
        let (place, size) = ([head.feature, head.lane], [head_size, length]);
        for (i, (to, scale)) in
            [(&mut *q, call.scale()), (&mut *k, 1.0), (&mut *v, 1.0), (&mut *dq, 1.0), (&mut *dout, 1.0)]
                .into_iter()
                .enumerate()
        {
            rows::read(isa, (layout, from[i]), place, size, scale, (to, pitch));
        }
        rows::read(isa, (lse_layout, lse_from), [head.head, head.lane], [1, length], 1.0, (lse, pitch));
        // D, of o in the place of dQ.
        products.fill(0.0);
        for (o, dout) in dq.chunks_exact(pitch).zip(dout.chunks_exact(pitch)).take(head_size) {
            for t in (0..pitch).step_by(I::LANES) {
                // SAFETY: t + LANES <= pitch, a multiple of 16, the length of all three.
                unsafe {
                    let to = products.as_mut_ptr().add(t);
                    let product =
                        isa.mul_add(isa.load(o.as_ptr().add(t)), isa.load(dout.as_ptr().add(t)), isa.load(to));
                    isa.store(to, product);
                }
            }
        }
        let group = head_size.next_multiple_of(R);
        // What is multiplied and not used must be a number that costs no time.
        [&mut *q, &mut *k, &mut *dout].into_iter().for_each(|rows| rows[head_size * pitch..group * pitch].fill(0.0));
        if let Some(rotary) = rotary {
            rotary.turn(isa, q, pitch, false);
            rotary.turn(isa, k, pitch, false);
        }

        let (one, width) = (isa.splat(1.0), 2 * I::LANES);
        for block in (0..length).step_by(KEYS) {
            for chunk in (block..length).step_by(CHUNK) {
                let count = (length - chunk).min(CHUNK);
                for tile in (0..KEYS).step_by(width) {
                    let key = block + tile;
                    // Queries before the first key see none of the tile.
                    let start = key.saturating_sub(chunk).min(count) / R * R;
                    for row in 0..start {
                        // SAFETY: two vectors of a row of KEYS floats, of which there are CHUNK.
                        unsafe { std::slice::from_raw_parts_mut(ds.add(row * KEYS + tile), width) }.fill(0.0);
                    }
                    for query in (start..count).step_by(R) {
                        let first = chunk + query;
                        // SAFETY: rows of `pitch` floats; `first + R` is at most `length + R − 1` and `key + width` the next
                        // multiple of 32: both below `pitch`.
                        let scores =
                            unsafe { dots::<I, R>(isa, q.as_ptr().add(first), k.as_ptr().add(key), pitch, head_size) };
                        for (r, row) in scores.into_iter().enumerate() {
                            let sum = isa.splat(lse[first + r]);
                            for (v, score) in row.into_iter().enumerate() {
                                let mut part = exp(isa, isa.sub(score, sum));
                                if first + r < key + width - 1 {
                                    let mask = isa.sub(one, later(isa, (first + r + 1).saturating_sub(key), v));
                                    part = isa.where_positive(mask, part);
                                }
                                // SAFETY: `count`, to whole groups, is at most CHUNK rows of KEYS floats.
                                unsafe { isa.store(p.add((query + r) * KEYS + tile + v * I::LANES), part) };
                            }
                        }
                        // SAFETY: as for the scores.
                        let slopes = unsafe {
                            dots::<I, R>(isa, dout.as_ptr().add(first), v.as_ptr().add(key), pitch, head_size)
                        };
                        for (r, row) in slopes.into_iter().enumerate() {
                            let product = isa.splat(products[first + r]);
                            for (v, slope) in row.into_iter().enumerate() {
                                let at = (query + r) * KEYS + tile + v * I::LANES;
                                // SAFETY: as above.
                                unsafe {
                                    let part = isa.load(p.add(at));
                                    isa.store(ds.add(at), isa.mul(part, isa.sub(slope, product)));
                                }
                            }
                        }
                    }
                    for (a, to, p) in [(&*dout, &mut *dv, p), (&*q, &mut *dk, ds)] {
                        let (a, to) = (a.as_ptr().wrapping_add(chunk + start), to.as_mut_ptr().wrapping_add(key));
                        let p = p.cast_const().wrapping_add(start * KEYS + tile);
                        let (count, before) =
                            (count - start, if chunk == block { Before::Nothing } else { Before::Kept });
                        let sums = Accumulate::<R> { a, to, pitch, rows: group, p, p_pitch: KEYS, count, before };
                        // SAFETY: `group` rows of both, and `count` of P or dS.
                        unsafe { sums.run(isa) };
                    }
                }
                // Whole squares and tiles of queries: those behind the last one are zero.
                for row in count..count.next_multiple_of(width) {
                    // SAFETY: at most CHUNK rows of KEYS floats.
                    unsafe { std::slice::from_raw_parts_mut(ds.add(row * KEYS), KEYS) }.fill(0.0);
                }
                transpose(isa.few(), ds, turned, count.next_multiple_of(width));
                for query in (0..count).step_by(width) {
                    let to = dq.as_mut_ptr().wrapping_add(chunk + query);
                    let (a, p) = (k.as_ptr().wrapping_add(block), turned.cast_const().wrapping_add(query));
                    let before = if block == 0 { Before::Nothing } else { Before::Kept };
                    let (p_pitch, count) = (CHUNK, KEYS);
                    let sums = Accumulate::<R> { a, to, pitch, rows: group, p, p_pitch, count, before };
                    // SAFETY: `group` rows of K and dQ, KEYS of the transposed dS.
                    unsafe { sums.run(isa) };
                }
            }
        }
        if let Some(rotary) = rotary {
            rotary.turn(isa, dq, pitch, true);
            rotary.turn(isa, dk, pitch, true);
        }
        for (to, (from, scale)) in to.into_iter().zip([(dq, call.scale()), (dk, 1.0), (dv, 1.0)]) {
            // SAFETY: this task's features of its lanes.
            unsafe { rows::write(isa, (from, pitch), scale, size, (layout, to), place) };
        }
    }
}

/// `to[key][query] = from[query][key]`, for `queries` rows of KEYS, in rows of CHUNK; in squares of eight.
#[inline(always)]
fn transpose<I: EightLanes>(isa: I, from: *const f32, to: *mut f32, queries: usize) {
    const { assert!(I::LANES == 8) };
    for query in (0..queries).step_by(8) {
        for key in (0..KEYS).step_by(8) {
            // SAFETY: `queries` is a multiple of 8 and at most CHUNK, KEYS a multiple of 8.
            unsafe {
                let rows = array_of(|r| isa.load(from.add((query + r) * KEYS + key)));
                for (r, row) in isa.transpose(rows).into_iter().enumerate() {
                    isa.store(to.add((key + r) * CHUNK + query), row);
                }
            }
        }
    }
}
