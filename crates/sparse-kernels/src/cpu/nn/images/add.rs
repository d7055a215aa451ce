//! One tensor added to another, as where the branches of a residual block meet.

use super::rows::{Rows, for_each_band, pixels, row_of};
use crate::cpu::isa::{Isa, Kernel, Number, dispatch};
use crate::cpu::{Cpu, Numbers, NumbersMut};
use crate::{BackendError, ImageLayout, Images, Storage};

pub(super) fn run(cpu: &Cpu, from: &Images<Cpu>, to: &mut Images<Cpu>) -> Result<(), BackendError> {
    let layouts = [from.layout, to.layout];
    match (from.data.numbers(), to.data.numbers_mut()) {
        // Borders too: zeros.
        (Numbers::F32(_), NumbersMut::F32(_)) if layouts[0] == layouts[1] => return cpu.add(&from.data, &mut to.data),
        (Numbers::F32(from), NumbersMut::F32(to)) => in_bands(cpu, layouts, from, to),
        (Numbers::F32(from), NumbersMut::Bf16(to)) => in_bands(cpu, layouts, from, to),
        (Numbers::Bf16(from), NumbersMut::F32(to)) => in_bands(cpu, layouts, from, to),
        (Numbers::Bf16(from), NumbersMut::Bf16(to)) => in_bands(cpu, layouts, from, to),
    }
    Ok(())
}

fn in_bands<A: Number, B: Number>(cpu: &Cpu, [from_layout, layout]: [ImageLayout; 2], from: &[A], to: &mut [B]) {
    for_each_band(cpu, &layout, to, 8 * layout.len() as u64, |_, rows| {
        dispatch(cpu.isa, Add { from_layout, from, layout, rows });
    });
}

struct Add<'a, A, B> {
    from_layout: ImageLayout,
    from: &'a [A],
    /// Of the sum.
    layout: ImageLayout,
    rows: Rows<'a, B>,
}

impl<A: Number, B: Number> Kernel for Add<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        for (s, y, row) in self.rows {
            for c in 0..self.layout.channels() {
                let from = row_of(&self.from_layout, self.from, s, y, c);
                let to = &mut row[pixels(&self.layout, c)];
                let whole = to.len() - to.len() % I::LANES;
                for at in (0..whole).step_by(I::LANES) {
                    // SAFETY: both rows are equally long, as the operation has checked, and have a vector at `at`.
                    unsafe {
                        let (from, to) = (from.as_ptr().add(at), to.as_mut_ptr().add(at));
                        B::store(isa, to, isa.add(B::load(isa, to), A::load(isa, from)));
                    }
                }
                for (to, from) in to[whole..].iter_mut().zip(&from[whole..]) {
                    *to = B::round(to.widen() + from.widen());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::*;
    use super::super::testing::{cases, images, large, read};
    use crate::ImageNeural;
    use crate::testing::images as verify;

    proptest! {
        #[test]
        fn agrees_with_the_sum(case in cases()) {
            for cpu in BACKENDS.iter() {
                verify::add(cpu, &case);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for case in large() {
            let (a, b) = (case.normals("a", case.len()), case.normals("b", case.len()));
            for tensor in [0, 1] {
                same_for_all_threads(|cpu| {
                    let mut sum = images(case.layout(1), &b);
                    cpu.add_images(&images(case.layout(tensor), &a), &mut sum).unwrap();
                    read(&sum)
                });
            }
        }
    }
}
