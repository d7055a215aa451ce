//! One tensor added to another, as where the branches of a residual block meet.

use super::{Rows, expect_images, expect_same_shape, for_each_band, pixels, row_of};
use crate::cpu::Cpu;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::{BackendError, ImageLayout, Images, Storage};

pub(super) fn run(cpu: &Cpu, from: &Images<Cpu>, to: &mut Images<Cpu>) -> Result<(), BackendError> {
    let layout = to.layout;
    expect_same_shape("add_images", &layout, &from.layout)?;
    expect_images("add_images", from)?;
    expect_images("add_images", to)?;
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
    use super::super::testing::{cases, images, large, read, short};
    use crate::{ImageLayout, ImageNeural};

    proptest! {
        #[test]
        fn agrees_with_the_sum(case in cases()) {
            let (a, b) = (case.normals("a", case.len()), case.normals("b", case.len()));
            let expected: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            for cpu in BACKENDS.iter() {
                let mut sum = images(case.layout(1), &b);
                cpu.add_images(&images(case.layout(0), &a), &mut sum).unwrap();
                prop_assert_eq!(&read(&sum), &expected);
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

    #[test]
    fn wrong_shapes_are_refused() {
        let cpu = &BACKENDS[0];
        let layout = ImageLayout::new(2, 3, [4, 5], 1, 8).unwrap();
        let mut to = images(layout, &[1.0; 120]);
        let others = [(3, 3, [4, 5], 8), (2, 2, [4, 5], 8), (2, 3, [5, 5], 8), (2, 3, [4, 4], 8), (2, 3, [4, 5], 16)];
        for (samples, channels, size, strip) in others {
            let other = ImageLayout::new(samples, channels, size, 1, strip).unwrap();
            let from = images(other, &vec![1.0; samples * channels * size[0] * size[1]]);
            assert!(cpu.add_images(&from, &mut to).is_err(), "{other:?}");
        }
        assert!(cpu.add_images(&short(layout), &mut to).is_err());
        let from = images(layout, &[1.0; 120]);
        assert!(cpu.add_images(&from, &mut short(layout)).is_err());
        assert_eq!(read(&to), [1.0; 120]);
    }
}
