//! Inverted dropout of images in place. An element's index is its place in NCHW: neighbouring samples lie a whole image
//! apart, neighbouring pixels one.

use super::super::dropout::{Dropper, OPERATIONS, WIDTH};
use super::rows::{Rows, for_each_band, pixels};
use crate::cpu::Cpu;
use crate::cpu::isa::{Isa, Kernel, dispatch};
use crate::random::Key;
use crate::{BackendError, ImageLayout, Images};

pub(super) fn run(cpu: &Cpu, key: Key, rate: f32, x: &mut Images<Cpu>) -> Result<(), BackendError> {
    let layout = x.layout;
    for_each_band(cpu, &layout, &mut x.data, OPERATIONS * layout.len() as u64, |_, rows| {
        dispatch(cpu.isa, Dropout { layout, key, rate, rows });
    });
    Ok(())
}

struct Dropout<'a> {
    layout: ImageLayout,
    key: Key,
    rate: f32,
    rows: Rows<'a>,
}

impl Kernel for Dropout<'_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) {
        let (layout, [height, width]) = (self.layout, self.layout.size());
        let (strip, image) = (layout.strip() as u64, (layout.channels() * height * width) as u64);
        // Strips are powers of two, and divisions slow.
        let offset = |element: u64| (element & (strip - 1)) * image + (element >> strip.trailing_zeros());
        let dropper = Dropper::new(self.key, self.rate, offset);
        for (s, y, row) in self.rows {
            for c in 0..layout.channels() {
                let first = s as u64 * strip * image + ((c * height + y) * width) as u64;
                let index = |part: usize| first + offset((part * WIDTH) as u64);
                let (parts, rest) = row[pixels(&layout, c)].as_chunks_mut::<WIDTH>();
                for (j, part) in parts.iter_mut().enumerate() {
                    dropper.apply(index(j), part);
                }
                if !rest.is_empty() {
                    let mut part = [0.0; WIDTH];
                    part[..rest.len()].copy_from_slice(rest);
                    dropper.apply(index(parts.len()), &mut part);
                    rest.copy_from_slice(&part[..rest.len()]);
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
    use super::*;
    use crate::ImageNeural;
    use crate::testing::images as verify;

    proptest! {
        #[test]
        fn agrees_with_the_reference(case in cases(), rate in 0.0f32..0.99, seed: u64) {
            for cpu in BACKENDS.iter() {
                verify::dropout(cpu, &case, rate, seed, true);
            }
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        for case in large() {
            let x = case.normals("x", case.len());
            same_for_all_threads(|cpu| {
                let mut y = images(case.layout(0), &x);
                cpu.dropout_images(Key::new(3), 0.4, &mut y).unwrap();
                read(&y)
            });
        }
    }
}
