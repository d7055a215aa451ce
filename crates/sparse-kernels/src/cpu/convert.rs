//! From one precision to another.

use super::isa::{Isa, Kernel, Number, dispatch};
use super::{Buffer, Cpu, ELEMENTS_PER_TASK, Numbers, NumbersMut, Shared};

/// `to = from`, which are of one length.
pub(super) fn convert(cpu: &Cpu, from: &Buffer, to: &mut Buffer) {
    match (from.numbers(), to.numbers_mut()) {
        (Numbers::F32(from), NumbersMut::F32(to)) => in_tasks(cpu, "copy", from, to),
        (Numbers::Bf16(from), NumbersMut::Bf16(to)) => in_tasks(cpu, "copy", from, to),
        (Numbers::Bf16(from), NumbersMut::F32(to)) => in_tasks(cpu, "widen", from, to),
        (Numbers::F32(from), NumbersMut::Bf16(to)) => in_tasks(cpu, "round", from, to),
    }
}

fn in_tasks<A: Number, B: Number>(cpu: &Cpu, name: &'static str, from: &[A], to: &mut [B]) {
    let len = to.len();
    let _timed = cpu.timed(name, len * (size_of::<A>() + size_of::<B>()) / 4, 0);
    let shared = Shared::new(to);
    cpu.for_each_task(len.div_ceil(ELEMENTS_PER_TASK), 8 * len as u64, |task| {
        let start = task * ELEMENTS_PER_TASK;
        let from = &from[start..len.min(start + ELEMENTS_PER_TASK)];
        // SAFETY: tasks have disjoint parts of `to`, which is as long as `from`.
        let to = unsafe { std::slice::from_raw_parts_mut(shared.get().add(start), from.len()) };
        dispatch(cpu.isa, Convert { from, to });
    });
}

/// `to = from`, which are of one length.
pub(super) struct Convert<'a, A, B> {
    pub from: &'a [A],
    pub to: &'a mut [B],
}

impl<A: Number, B: Number> Kernel for Convert<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { from, to } = self;
        debug_assert_eq!(from.len(), to.len());
        let whole = from.len() - from.len() % I::LANES;
        for at in (0..whole).step_by(I::LANES) {
            // SAFETY: both have LANES numbers at `at`.
            unsafe { B::store(isa, to.as_mut_ptr().add(at), A::load(isa, from.as_ptr().add(at))) };
        }
        for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
            *to = B::round(from.widen());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::IsaName;
    use crate::{Precision, Storage};

    /// Every upper half of an f32 with lower halves about the middle, where rounding changes.
    fn all_kinds() -> Vec<f32> {
        let lower = [0u32, 1, 0x7fff, 0x8000, 0x8001, 0xffff];
        (0..1u32 << 16).flat_map(|upper| lower.map(|lower| f32::from_bits(upper << 16 | lower))).collect()
    }

    #[test]
    fn rounding_is_the_same_everywhere_and_as_defined() {
        let all = all_kinds();
        let expected = |value: f32| {
            let bits = value.to_bits();
            if value.is_nan() {
                return (bits >> 16) as u16 | 0x40;
            }
            // To the nearer one of the two, in f64; in a tie to the one whose last bit is 0.
            let (low, high) = ((bits >> 16) as u16, (bits >> 16) as u16 + u16::from(bits & 0xffff != 0));
            let halfway = bits & 0xffff;
            match halfway.cmp(&0x8000) {
                std::cmp::Ordering::Less => low,
                std::cmp::Ordering::Greater => high,
                std::cmp::Ordering::Equal => low + (low & 1),
            }
        };
        for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
            for threads in [1, 3] {
                let cpu = Cpu::new(threads, Some(isa)).unwrap();
                let from = cpu.uploaded(&all).unwrap();
                let mut rounded = cpu.zeros_in(Precision::Bf16, all.len()).unwrap();
                cpu.convert(&from, &mut rounded).unwrap();
                let Numbers::Bf16(numbers) = rounded.numbers() else { panic!("not of 16 bits") };
                for (&from, to) in all.iter().zip(numbers) {
                    assert_eq!(to.to_bits(), expected(from), "{isa}: {from:e} ({:x})", from.to_bits());
                }
                let mut wide = cpu.zeros(all.len()).unwrap();
                cpu.convert(&rounded, &mut wide).unwrap();
                for (wide, number) in wide.iter().zip(numbers) {
                    assert_eq!(wide.to_bits(), u32::from(number.to_bits()) << 16, "{isa}");
                }
                // The host's way is the same.
                let mut uploaded = cpu.zeros_in(Precision::Bf16, all.len()).unwrap();
                cpu.upload(&all, &mut uploaded).unwrap();
                let Numbers::Bf16(uploaded) = uploaded.numbers() else { panic!("not of 16 bits") };
                assert!(numbers.iter().zip(uploaded).all(|(a, b)| a.to_bits() == b.to_bits()));
                assert!(cpu.convert(&from, &mut cpu.zeros(3).unwrap()).is_err());
                assert!(cpu.copy(&from, &mut rounded).is_err());
            }
        }
    }
}
