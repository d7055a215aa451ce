//! Activations as `[lane][feature]`, one sample after the other, as most programs have them, to strips and back.

use super::isa::{EightLanes, Isa, Kernel, array_of, dispatch};
use super::{Cpu, SharedMut};
use crate::error::expect_equal;
use crate::{BackendError, StripLayout, Strips};

/// Features that a task turns at a time: of 32 lanes they fit L1, on both sides.
const FEATURES: usize = 128;

impl Cpu {
    /// Writes `from`, `[lane][feature]`, into strips; padding lanes become zero.
    ///
    /// # Errors
    /// Unless `from` has one number for each feature of each lane.
    ///
    /// # Cost
    /// One pass over both.
    ///
    /// ```
    /// use sparse_kernels::cpu::Cpu;
    /// use sparse_kernels::{StripLayout, Strips};
    /// let cpu = Cpu::new(1, None)?;
    /// let mut strips = Strips::zeros(&cpu, StripLayout::sparse(2, 3))?;
    /// cpu.pack_samples(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut strips)?;
    /// assert_eq!((strips.data[0], strips.data[1], strips.data[2]), (1.0, 4.0, 0.0));
    /// let mut samples = [0.0; 6];
    /// cpu.unpack_samples(&strips, &mut samples)?;
    /// assert_eq!(samples, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pack_samples(&self, from: &[f32], to: &mut Strips<Self>) -> Result<(), BackendError> {
        let layout = to.layout;
        expect_equal("pack_samples", "length of the samples", layout.lanes() * layout.features(), from.len())?;
        expect_equal("pack_samples", "length of the strips", layout.len(), to.data.len())?;
        let _timed = self.timed("pack_samples", from.len() + to.data.len(), 0);
        let to = SharedMut::new(&mut to.data);
        self.for_each_square(to, layout, |square| dispatch(self.isa, Pack { from: from.as_ptr(), square }));
        Ok(())
    }

    /// Writes strips into `to`, `[lane][feature]`.
    ///
    /// # Errors
    /// Unless `to` has room for one number for each feature of each lane.
    ///
    /// # Cost
    /// One pass over both.
    pub fn unpack_samples(&self, from: &Strips<Self>, to: &mut [f32]) -> Result<(), BackendError> {
        let layout = from.layout;
        expect_equal("unpack_samples", "length of the samples", layout.lanes() * layout.features(), to.len())?;
        expect_equal("unpack_samples", "length of the strips", layout.len(), from.data.len())?;
        let _timed = self.timed("unpack_samples", from.data.len() + to.len(), 0);
        let to = SharedMut::new(to);
        self.for_each_square(SharedMut::reading(&from.data), layout, |square| {
            dispatch(self.isa, Unpack { to: to.get(), square })
        });
        Ok(())
    }

    /// Calls `task` for some features of each strip, in parallel.
    fn for_each_square(&self, strips: SharedMut, layout: StripLayout, task: impl Fn(Square) + Sync + Send) {
        let chunks = layout.features().div_ceil(FEATURES);
        self.for_each_task(layout.strips() * chunks, 8 * layout.len() as u64, |index| {
            let (strip, first) = (index / chunks, index % chunks * FEATURES);
            let lane = strip * layout.strip();
            task(Square {
                strip: strips.get().wrapping_add(strip * layout.strip_pitch() + first * layout.strip()),
                pitch: layout.strip(),
                sample: lane * layout.features() + first,
                sample_pitch: layout.features(),
                lanes: layout.lanes_of(strip),
                features: FEATURES.min(layout.features() - first),
            });
        });
    }
}

/// Some features of the lanes of a strip.
struct Square {
    /// The first of these features.
    strip: *mut f32,
    /// Lanes of a strip.
    pitch: usize,
    /// Where the first lane's first feature stands in the samples.
    sample: usize,
    sample_pitch: usize,
    /// Lanes that count.
    lanes: usize,
    features: usize,
}

/// Fills the lanes of a strip.
struct Pack {
    from: *const f32,
    square: Square,
}

impl Kernel for Pack {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { from, square: Square { strip, pitch, sample, sample_pitch, lanes, features } } = self;
        let isa = isa.few();
        let (whole_lanes, whole) = (lanes - lanes % 8, features - features % 8);
        // SAFETY: the lengths of both were checked, and the square lies inside; other tasks write other parts.
        unsafe {
            // Of eight lanes, not more: where rows stand a power of two apart, L1 holds one line of each.
            for lane in (0..whole_lanes).step_by(8) {
                let row = from.add(sample + lane * sample_pitch);
                for feature in (0..whole).step_by(8) {
                    let rows = array_of(|r| isa.load(row.add(r * sample_pitch + feature)));
                    for (r, vector) in isa.transpose(rows).into_iter().enumerate() {
                        isa.store(strip.add((feature + r) * pitch + lane), vector);
                    }
                }
            }
            for feature in 0..features {
                let first = if feature < whole { whole_lanes } else { 0 };
                for lane in first..lanes {
                    *strip.add(feature * pitch + lane) = *from.add(sample + lane * sample_pitch + feature);
                }
                for lane in lanes..pitch {
                    *strip.add(feature * pitch + lane) = 0.0;
                }
            }
        }
    }
}

/// Reads the lanes of a strip.
struct Unpack {
    to: *mut f32,
    square: Square,
}

impl Kernel for Unpack {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Self { to, square: Square { strip, pitch, sample, sample_pitch, lanes, features } } = self;
        let isa = isa.few();
        let (whole_lanes, whole) = (lanes - lanes % 8, features - features % 8);
        // SAFETY: as in `Pack`.
        unsafe {
            for lane in (0..whole_lanes).step_by(8) {
                let row = to.add(sample + lane * sample_pitch);
                for feature in (0..whole).step_by(8) {
                    let rows = array_of(|r| isa.load(strip.add((feature + r) * pitch + lane)));
                    for (r, vector) in isa.transpose(rows).into_iter().enumerate() {
                        isa.store(row.add(r * sample_pitch + feature), vector);
                    }
                }
            }
            for feature in 0..features {
                let first = if feature < whole { whole_lanes } else { 0 };
                for lane in first..lanes {
                    *to.add(sample + lane * sample_pitch + feature) = *strip.add(feature * pitch + lane);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::cpu::{Cpu, IsaName};
    use crate::{StripLayout, Strips};

    #[test]
    fn samples_become_strips_and_come_back() {
        for isa in IsaName::ALL.into_iter().filter(|isa| isa.is_available()) {
            for threads in [1, 2] {
                let cpu = Cpu::new(threads, Some(isa)).unwrap();
                for (lanes, features, strip) in
                    [(1, 1, 16), (7, 9, 32), (8, 8, 16), (33, 130, 32), (70, 300, 48), (0, 5, 32), (5, 0, 32)]
                {
                    let layout = StripLayout::new(lanes, features, strip).unwrap();
                    let samples: Vec<f32> = (0..lanes * features).map(|i| i as f32 + 1.0).collect();
                    let mut strips = Strips::zeros(&cpu, layout).unwrap();
                    strips.data.fill(f32::NAN);
                    cpu.pack_samples(&samples, &mut strips).unwrap();
                    for lane in 0..layout.strips() * strip {
                        for feature in 0..features {
                            let expected = if lane < lanes { samples[lane * features + feature] } else { 0.0 };
                            let got = strips.data[layout.index(feature, lane)];
                            assert_eq!(got, expected, "{isa}, {layout:?}: feature {feature}, lane {lane}");
                        }
                    }
                    let mut back = vec![f32::NAN; samples.len()];
                    cpu.unpack_samples(&strips, &mut back).unwrap();
                    assert_eq!(back, samples, "{isa}, {layout:?}");
                    assert!(cpu.pack_samples(&vec![0.0; samples.len() + 1], &mut strips).is_err());
                    assert!(cpu.unpack_samples(&strips, &mut vec![0.0; samples.len() + 1]).is_err());
                }
            }
        }
    }
}
