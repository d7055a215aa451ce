//! One tensor added to another, as where the branches of a residual block meet.

use super::rows::{Rows, for_each_band, pixels, row_of};
use crate::cpu::Cpu;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::{BackendError, ImageLayout, Images, Storage};

pub(super) fn run(cpu: &Cpu, from: &Images<Cpu>, to: &mut Images<Cpu>) -> Result<(), BackendError> {
    let layout = to.layout;
    if from.layout == layout {
        // Borders too: zeros.
        return cpu.add(&from.data, &mut to.data);
    }
    for_each_band(cpu, &layout, &mut to.data, 8 * layout.len() as u64, |_, rows| {
        dispatch(cpu.isa, Add { from_layout: from.layout, from: &from.data, layout, rows });
    });
    Ok(())
}

struct Add<'a> {
    from_layout: ImageLayout,
    from: &'a [f32],
    /// Of the sum.
    layout: ImageLayout,
    rows: Rows<'a>,
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        for (s, y, row) in self.rows {
            for c in 0..self.layout.channels() {
                let from = row_of(&self.from_layout, self.from, s, y, c);
                for (to, from) in row[pixels(&self.layout, c)].iter_mut().zip(from) {
                    *to += from;
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
