//! Normalisation of each lane over its features, and its gradient.
//!
//! ```text
//! forward, for each unit of 16 or 32 lanes of a strip, lanes side by side:
//!   pass 1 over features:  x += residual;  sum += x                          (RMS: squares += x²)
//!   pass 2 over features:  squares += (x − mean)²;  rest += x − mean         (RMS: none)
//!   pass 3 over features:  y = (x − mean) · rstd · scale + shift
//! backward
//!   pass 1 over features:  x̂ = (x − mean) · rstd;  a += dy · scale;  b += dy · scale · x̂;  dscale += dy · x̂;  dshift += dy
//!   pass 2 over features:  dx = rstd · (dy · scale − a / F − x̂ · b / F)
//! ```
//!
//! Sums over features are vertical. Passes after the first read a unit out of L2, 80 KiB for 640 features. The rest, which is
//! zero but for roundings, corrects the mean, so that one of 1000 deviations costs no digits of y.
//!
//! A task of the backward pass keeps a vector of sums for dscale and dshift of each feature, which it adds up at its end; tasks
//! are a fixed grid, and their sums are added in f64 in order.

use crate::backend::{FeatureNorm, NormKind};
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::cpu::{Cpu, ELEMENTS_PER_TASK, SharedMut};
use crate::{StripLayout, Strips};

/// Lanes of a unit where strips have a multiple of them: all of a sparse strip.
const WIDE: usize = 32;
/// Lanes of a unit else.
const NARROW: usize = StripLayout::STRIP_UNIT;
/// Most tasks of a backward pass, each of which has sums of its own.
const MOST_TASKS: usize = 64;
/// Floats of the longest vector.
const VECTOR: usize = 16;

/// How a layout's lanes are cut.
struct Units {
    width: usize,
    count: usize,
    per_task: usize,
}

fn units(layout: StripLayout, most_tasks: usize) -> Units {
    let width = if layout.strip().is_multiple_of(WIDE) { WIDE } else { NARROW };
    let count = layout.strips() * layout.strip() / width;
    let per_task = (ELEMENTS_PER_TASK / (width * layout.features().max(1))).max(count.div_ceil(most_tasks)).max(1);
    Units { width, count, per_task }
}

pub(super) fn forward(
    cpu: &Cpu,
    norm: FeatureNorm,
    affine: &[f32],
    (x, residual): (SharedMut, Option<&[f32]>),
    y: &mut Strips<Cpu>,
    moments: &mut Strips<Cpu>,
) {
    let layout = y.layout;
    let Units { width, count, per_task } = units(layout, usize::MAX);
    let (y, moments) = (SharedMut::new(&mut y.data), SharedMut::new(&mut moments.data));
    cpu.for_each_task(count.div_ceil(per_task), 16 * layout.len() as u64, |task| {
        let units = task * per_task..count.min((task + 1) * per_task);
        let pass = Forward { layout, norm, affine, residual, x, y, moments, units };
        match width {
            WIDE => dispatch(cpu.isa, Of::<_, WIDE>(pass)),
            _ => dispatch(cpu.isa, Of::<_, NARROW>(pass)),
        }
    });
}

/// A pass over units of `WIDTH` lanes.
struct Of<P, const WIDTH: usize>(P);

struct Forward<'a> {
    layout: StripLayout,
    norm: FeatureNorm,
    affine: &'a [f32],
    /// To be added to x.
    residual: Option<&'a [f32]>,
    /// `layout.len()` elements, of which this task touches its units only. Written with a residual, else only read.
    x: SharedMut,
    y: SharedMut,
    /// Two features of the same lanes: mean and 1 / deviation.
    moments: SharedMut,
    units: std::ops::Range<usize>,
}

/// Vectors of a unit: the first `WIDTH / LANES` count.
type Unit<V> = [V; WIDE / 8];

impl<const WIDTH: usize> Kernel for Of<Forward<'_>, WIDTH> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Forward { layout, norm, affine, residual, x, y, moments, units } = self.0;
        let (features, strip) = (layout.features(), layout.strip());
        let share = isa.splat(1.0 / features.max(1) as f32);
        let (zero, one) = (isa.splat(0.0), isa.splat(1.0));
        let (scale, shift) = affine.split_at(features);
        for unit in units {
            let lane = unit * WIDTH;
            let first = lane / strip * layout.strip_pitch() + lane % strip;
            let lanes = layout.lanes().saturating_sub(lane).min(WIDTH);
            // SAFETY, of all loads and stores at `x` and `y`: lanes of this unit, of a feature that the checked layout has.
            let at = |f: usize, v: usize| first + f * strip + v * I::LANES;
            let (mut sum, mut squares): (Unit<I::V>, Unit<I::V>) = ([zero; WIDE / 8], [zero; WIDE / 8]);
            for f in 0..features {
                for v in 0..WIDTH / I::LANES {
                    // SAFETY: see above.
                    let mut value = unsafe { isa.load(x.get().add(at(f, v))) };
                    if let Some(residual) = residual {
                        let added = &residual[at(f, v)..][..I::LANES];
                        // SAFETY: `added` is LANES long; x see above.
                        unsafe {
                            value = isa.add(value, isa.load(added.as_ptr()));
                            isa.store(x.get().add(at(f, v)), value);
                        }
                    }
                    match norm.kind {
                        NormKind::Layer => sum[v] = isa.add(sum[v], value),
                        NormKind::Rms => squares[v] = isa.mul_add(value, value, squares[v]),
                    }
                }
            }
            let mut mean: Unit<I::V> = [zero; WIDE / 8];
            if norm.kind == NormKind::Layer {
                for v in 0..WIDTH / I::LANES {
                    mean[v] = isa.mul(sum[v], share);
                }
                let mut rest: Unit<I::V> = [zero; WIDE / 8];
                for f in 0..features {
                    for v in 0..WIDTH / I::LANES {
                        // SAFETY: see above.
                        let distance = isa.sub(unsafe { isa.load(x.get().add(at(f, v))) }, mean[v]);
                        rest[v] = isa.add(rest[v], distance);
                        squares[v] = isa.mul_add(distance, distance, squares[v]);
                    }
                }
                for v in 0..WIDTH / I::LANES {
                    let correction = isa.mul(rest[v], share);
                    mean[v] = isa.add(mean[v], correction);
                    squares[v] = isa.sub(squares[v], isa.mul(correction, rest[v]));
                }
            }
            let mut rstd: Unit<I::V> = [zero; WIDE / 8];
            for v in 0..WIDTH / I::LANES {
                let variance = isa.mul_add(squares[v], share, isa.splat(norm.epsilon));
                rstd[v] = isa.div(one, isa.sqrt(variance));
            }
            for f in 0..features {
                let scale = isa.splat(scale[f]);
                let shift = isa.splat(if norm.kind == NormKind::Layer { shift[f] } else { 0.0 });
                for v in 0..WIDTH / I::LANES {
                    // SAFETY: see above.
                    let distance = isa.sub(unsafe { isa.load(x.get().add(at(f, v))) }, mean[v]);
                    let value = isa.mul_add(isa.mul(distance, rstd[v]), scale, shift);
                    // SAFETY: see above.
                    unsafe { isa.store(y.get().add(at(f, v)), value) };
                }
            }
            let first_moment = lane / strip * 2 * strip + lane % strip;
            for v in 0..WIDTH / I::LANES {
                for (row, value) in [mean[v], rstd[v]].into_iter().enumerate() {
                    // SAFETY: lanes of this unit, of two features of the same lanes.
                    unsafe { isa.store(moments.get().add(first_moment + row * strip + v * I::LANES), value) };
                }
            }
            if lanes < WIDTH {
                let clear = |to: SharedMut, first: usize| {
                    // SAFETY: lanes of this unit, see above.
                    unsafe { std::slice::from_raw_parts_mut(to.get().add(first + lanes), WIDTH - lanes) }.fill(0.0);
                };
                (0..features).for_each(|f| clear(y, first + f * strip));
                (0..2).for_each(|row| clear(moments, first_moment + row * strip));
            }
        }
    }
}

/// Adds dx to `to`, or puts it where dy was.
pub(super) fn backward(
    cpu: &Cpu,
    kind: NormKind,
    affine: &[f32],
    (x, moments): (&Strips<Cpu>, &Strips<Cpu>),
    (dy, to): (&mut Strips<Cpu>, Option<&mut Strips<Cpu>>),
    daffine: &mut [f32],
    accumulate: bool,
) {
    let (layout, features) = (x.layout, x.layout.features());
    let Units { width, count, per_task } = units(layout, MOST_TASKS);
    let tasks = count.div_ceil(per_task);
    let pitch = 2 * VECTOR * features;
    let mut sums = cpu.scratch(tasks * pitch);
    let shared = SharedMut::new(&mut sums);
    let dy = SharedMut::new(&mut dy.data);
    let to = to.map(|to| SharedMut::new(&mut to.data));
    cpu.for_each_task(tasks, 16 * layout.len() as u64, |task| {
        // SAFETY: `tasks` such parts were taken, one for each.
        let sums = unsafe { std::slice::from_raw_parts_mut(shared.get().add(task * pitch), pitch) };
        let units = task * per_task..count.min((task + 1) * per_task);
        let pass = Backward { layout, kind, affine, x: &x.data, moments: &moments.data, dy, to, sums, units };
        match width {
            WIDE => dispatch(cpu.isa, Of::<_, WIDE>(pass)),
            _ => dispatch(cpu.isa, Of::<_, NARROW>(pass)),
        }
    });
    for (i, to) in daffine.iter_mut().enumerate() {
        let place = 2 * (i % features) + i / features;
        let sum: f64 = (0..tasks).map(|task| f64::from(sums[task * pitch + place])).sum();
        *to = sum as f32 + if accumulate { *to } else { 0.0 };
    }
    cpu.give_back(sums);
}

struct Backward<'a> {
    layout: StripLayout,
    kind: NormKind,
    affine: &'a [f32],
    x: &'a [f32],
    moments: &'a [f32],
    /// `layout.len()` elements, of which this task touches its units only.
    dy: SharedMut,
    to: Option<SharedMut>,
    /// `[feature][dscale, dshift][VECTOR]`; in the end the sums of the vectors, one after the other.
    sums: &'a mut [f32],
    units: std::ops::Range<usize>,
}

impl<const WIDTH: usize> Kernel for Of<Backward<'_>, WIDTH> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Backward { layout, kind, affine, x, moments, dy, to, sums, units } = self.0;
        let (features, strip) = (layout.features(), layout.strip());
        let share = isa.splat(1.0 / features.max(1) as f32);
        let zero = isa.splat(0.0);
        sums.fill(0.0);
        for unit in units {
            let lane = unit * WIDTH;
            let first = lane / strip * layout.strip_pitch() + lane % strip;
            // SAFETY, of all loads and stores: lanes of this unit, of a feature that the checked layout has.
            let at = |f: usize, v: usize| first + f * strip + v * I::LANES;
            let first_moment = lane / strip * 2 * strip + lane % strip;
            let (mut mean, mut rstd): (Unit<I::V>, Unit<I::V>) = ([zero; WIDE / 8], [zero; WIDE / 8]);
            for v in 0..WIDTH / I::LANES {
                for (row, value) in [&mut mean[v], &mut rstd[v]].into_iter().enumerate() {
                    let moments = &moments[first_moment + row * strip + v * I::LANES..][..I::LANES];
                    // SAFETY: LANES long.
                    *value = unsafe { isa.load(moments.as_ptr()) };
                }
            }
            let (mut plain, mut weighted): (Unit<I::V>, Unit<I::V>) = ([zero; WIDE / 8], [zero; WIDE / 8]);
            for (f, sums) in sums.chunks_exact_mut(2 * VECTOR).enumerate() {
                let scale = isa.splat(affine[f]);
                let [dscale, dshift] = [sums.as_mut_ptr(), sums[VECTOR..].as_mut_ptr()];
                // SAFETY: both are VECTOR long, and no vector is longer.
                let (mut of_scale, mut of_shift) = unsafe { (isa.load(dscale), isa.load(dshift)) };
                for v in 0..WIDTH / I::LANES {
                    let x = &x[at(f, v)..][..I::LANES];
                    // SAFETY: LANES long; dy see above.
                    let (x, dy) = unsafe { (isa.load(x.as_ptr()), isa.load(dy.get().add(at(f, v)))) };
                    let normal = isa.mul(isa.sub(x, mean[v]), rstd[v]);
                    let product = isa.mul(dy, normal);
                    plain[v] = isa.mul_add(dy, scale, plain[v]);
                    weighted[v] = isa.mul_add(product, scale, weighted[v]);
                    of_scale = isa.add(of_scale, product);
                    of_shift = isa.add(of_shift, dy);
                }
                // SAFETY: as above.
                unsafe {
                    isa.store(dscale, of_scale);
                    isa.store(dshift, of_shift);
                }
            }
            for v in 0..WIDTH / I::LANES {
                plain[v] = if kind == NormKind::Layer { isa.mul(plain[v], share) } else { zero };
                weighted[v] = isa.mul(weighted[v], share);
            }
            for f in 0..features {
                let scale = isa.splat(affine[f]);
                for v in 0..WIDTH / I::LANES {
                    let x = &x[at(f, v)..][..I::LANES];
                    // SAFETY: LANES long; dy see above.
                    let (x, g) = unsafe { (isa.load(x.as_ptr()), isa.load(dy.get().add(at(f, v)))) };
                    let normal = isa.mul(isa.sub(x, mean[v]), rstd[v]);
                    let rest = isa.mul_add(normal, weighted[v], plain[v]);
                    let rest = isa.sub(isa.mul(g, scale), rest);
                    // SAFETY: see above.
                    unsafe {
                        match to {
                            Some(to) => {
                                let to = to.get().add(at(f, v));
                                isa.store(to, isa.mul_add(rest, rstd[v], isa.load(to)));
                            }
                            None => isa.store(dy.get().add(at(f, v)), isa.mul(rest, rstd[v])),
                        }
                    }
                }
            }
        }
        for i in 0..2 * features {
            // SAFETY: a whole vector of sums; what is written stands before what is read next.
            sums[i] = isa.sum(unsafe { isa.load(sums[i * VECTOR..].as_ptr()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::*;
    use crate::testing::{neural, sequence};
    use crate::{FeatureNorm, NormKind, SequenceNeural, StripLayout, Strips};

    proptest! {
        #[test]
        fn agrees_with_the_reference(
            layout in neural::layouts(), more in 0usize..40, is_rms: bool, accumulate: bool, seed in 0u32..100
        ) {
            let layout = layout.with_features(1 + layout.features() + more);
            let kind = if is_rms { NormKind::Rms } else { NormKind::Layer };
            for cpu in BACKENDS.iter() {
                sequence::feature_norm(cpu, layout, FeatureNorm { kind, epsilon: 1e-5 }, accumulate, seed);
            }
        }
    }

    #[test]
    fn large_means_do_not_cancel() {
        BACKENDS.iter().for_each(sequence::large_means_do_not_cancel);
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for layout in [StripLayout::sparse(3000, 133), StripLayout::single(3000, 133)] {
            let x = pack(layout, &normals("x", 399_000));
            for kind in [NormKind::Layer, NormKind::Rms] {
                let norm = FeatureNorm { kind, epsilon: 1e-5 };
                let affine = buffer(&normals("affine", norm.parameters(133)));
                same_for_all_threads(|cpu| {
                    let (mut y, mut moments) = (poisoned(layout), poisoned(layout.with_features(2)));
                    let mut sum = Strips { layout, data: buffer(&x.data) };
                    cpu.add_feature_norm(norm, &affine, &x, &mut sum, &mut y, &mut moments).unwrap();
                    let (mut dy, mut daffine) = (Strips { layout, data: buffer(&x.data) }, buffer(&affine));
                    let to = Some(&mut sum);
                    cpu.feature_norm_grad(kind, &affine, &moments, &x, &mut dy, to, &mut daffine, false).unwrap();
                    [&y.data[..], &moments.data[..], &sum.data[..], &daffine[..]].concat()
                });
            }
        }
    }
}
