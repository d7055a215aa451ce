//! Inverted dropout in place. The mask is never stored: it is a function of key and element, computed again on the
//! gradient.

use super::super::Gpu;
use super::super::elementwise::{GROUP, QUAD};
use super::super::kernel::{Kernel, Launch, Work, Write};
use super::super::shaders;
use super::super::windows::{lanes_within, of_strips};
use super::images::walk::Walk;
use crate::random::Key;
use crate::{BackendError, Images, Strips};

static DROPOUT: Kernel = Kernel::new("dropout", shaders::DROPOUT, &[Write]);
static DROPOUT_IMAGES: Kernel = Kernel::new("dropout_images", shaders::DROPOUT, &[Write]);

/// Integer operations an element, roughly.
const OPERATIONS: u64 = 70;

/// Key, threshold and what is kept. `bits / 2^24 < rate` for whole bits is `bits < ⌈rate · 2^24⌉`, in which nothing rounds.
fn mask(key: Key, rate: f32) -> [u32; 4] {
    let [low, high] = key.words();
    [low, high, (f64::from(rate) * f64::from(1 << 24)).ceil() as u32, (1.0 - rate).to_bits()]
}

pub(super) fn strips(gpu: &Gpu, key: Key, rate: f32, x: &Strips<Gpu>) -> Result<(), BackendError> {
    let layout = x.layout;
    for strips in gpu.strip_windows("activations", layout.strips(), &[layout.strip_pitch()])? {
        let elements = strips.len() * layout.strip_pitch();
        let row = [(layout.strip() / QUAD) as u32, layout.features() as u32, 1, strips.len() as u32];
        let first = (strips.start * layout.strip()) as u32;
        let lanes = lanes_within(layout, &strips) as u32;
        let rest = [0, 0, 0, lanes, layout.lanes() as u32, 0];
        gpu.launch(&Launch {
            kernel: &DROPOUT,
            constants: &[],
            params: &[&[0; 4][..], &mask(key, rate), &[first], &row, &rest].concat(),
            operands: &[of_strips(x, &strips)],
            workgroups: (elements / QUAD).div_ceil(GROUP),
            work: Work { bytes: 8 * elements as u64, operations: OPERATIONS * elements as u64 },
        })?;
    }
    Ok(())
}

pub(super) fn images(gpu: &Gpu, key: Key, rate: f32, x: &Images<Gpu>) -> Result<(), BackendError> {
    let layout = x.layout;
    let [height, width] = layout.size();
    for strips in gpu.image_windows(&[layout])? {
        let walk = Walk::new(layout, strips);
        let first = (walk.strips.start * layout.strip()) as u32;
        let rest = [(layout.channels() * height * width) as u32, width as u32];
        let params = [&Walk::tensor(&layout)[..], &mask(key, rate), &[first], &walk.words(), &rest].concat();
        let work = Work { bytes: 8 * walk.elements() as u64, operations: OPERATIONS * walk.elements() as u64 };
        walk.launch(gpu, &DROPOUT_IMAGES, &params, &[walk.part_of(x)], work)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::testing::gpu;
    use super::*;
    use crate::ImageLayout;
    use crate::testing::{buffer, host};

    #[test]
    fn thresholds_decide_as_the_comparison_of_floats() {
        for rate in [1e-30f32, 1e-8, 0.1, 0.25, 0.3, 0.5, 0.9, 0.999_999_9, 1.0 - f32::EPSILON / 2.0] {
            let [_, _, threshold, _] = mask(Key::new(1), rate);
            for bits in [threshold.saturating_sub(1), threshold, threshold + 1] {
                let uniform = bits as f32 * (1.0 / (1 << 24) as f32);
                assert_eq!(bits < threshold, uniform < rate, "{rate} {bits}");
            }
        }
    }

    /// As of tensors that no memory holds.
    #[test]
    fn counters_beyond_32_bits() {
        let Some(gpu) = gpu() else { return };
        let (key, pitch, first) = (Key::new(9), 0xffff_fff1u32, 0xffff_fff0u32);
        let run = |kernel, constant: Option<_>, params: &[u32], x: &[f32]| {
            let x = buffer(gpu, x);
            gpu.launch(&Launch {
                kernel,
                constants: constant.as_slice(),
                params,
                operands: &[x.first(x.len())],
                workgroups: x.len().div_ceil(GROUP),
                work: Work::default(),
            })
            .unwrap();
            host(gpu, &x)
        };
        let expected = |counter: u64| if key.uniform(counter) < 0.5 { 0.0 } else { 2.0 };

        let params = [&[0; 4][..], &mask(key, 0.5), &[first, 4, 7, 1, 1], &[0, 0, 0, 16, pitch, 0]].concat();
        let got = run(&DROPOUT, None, &params, &[1.0; 112]);
        for (i, got) in got.into_iter().enumerate() {
            let (feature, lane) = (i as u64 / 16, i as u64 % 16);
            assert_eq!(got, expected(feature * u64::from(pitch) + u64::from(first) + lane), "{feature} {lane}");
        }

        for strip in ImageLayout::STRIPS {
            let layout = ImageLayout::new(2 * strip, 2, [2, 3], 1, strip).unwrap();
            let walk = Walk::new(layout, 0..2);
            let params = [&Walk::tensor(&layout)[..], &mask(key, 0.5), &[first - 100], &walk.words(), &[pitch, 3]];
            let got = run(&DROPOUT_IMAGES, Some(walk.single()), &params.concat(), &vec![1.0; layout.len()]);
            for (sample, place) in (0..2 * strip).flat_map(|n| (0..12).map(move |i| (n, i))) {
                let at = layout.index(sample, place / 6, [place / 3 % 2, place % 3]);
                let counter = (u64::from(first) - 100 + sample as u64) * u64::from(pitch) + place as u64;
                assert_eq!(got[at], expected(counter), "strip {strip}: {sample} {place}");
            }
        }
    }
}
