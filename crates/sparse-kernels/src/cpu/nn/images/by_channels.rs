//! Operations on f32 that treat each channel by itself, on images in 16 bits: some channels at a time, so that what is widened takes
//! little memory and is still in the caches when it is used.

use std::ops::Range;

use crate::backend::check::Done;
use crate::cpu::convert::Convert;
use crate::cpu::isa::{Number, dispatch};
use crate::cpu::{Cpu, Numbers, NumbersMut, Shared};
use crate::{Images, Precision};

/// Numbers of an operand that are widened at a time, if a channel has not more.
const AT_A_TIME: usize = 1 << 18;

/// Calls `run` with what is read and what is written, in f32: all of it if it is in f32, else some channels at a time.
pub(super) fn by_channels<const N: usize>(
    cpu: &Cpu,
    from: [&Images<Cpu>; N],
    to: &mut Images<Cpu>,
    run: impl Fn([&Images<Cpu>; N], &mut Images<Cpu>) -> Done,
) -> Done {
    if from.iter().all(|from| from.data.precision() == Precision::F32) && to.data.precision() == Precision::F32 {
        return run(from, to);
    }
    let channels = to.layout.channels();
    let largest = from.iter().map(|from| from.layout.len()).fold(to.layout.len(), usize::max);
    let each = (AT_A_TIME / (largest / channels.max(1)).max(1)).max(1);
    for first in (0..channels).step_by(each) {
        let part = first..(first + each).min(channels);
        let wide = from.map(|from| widened(cpu, from, &part));
        // Its border is zero, and stays so; what is added to is there.
        let mut result = widened(cpu, to, &part);
        let done = run(wide.each_ref(), &mut result);
        rounded(cpu, &result, to, &part);
        wide.into_iter().chain([result]).for_each(|images| cpu.give_back(images.data));
        done?;
    }
    Ok(())
}

/// Some channels in f32, with their borders.
fn widened(cpu: &Cpu, images: &Images<Cpu>, channels: &Range<usize>) -> Images<Cpu> {
    let layout = images.layout.with_channels(channels.len());
    let mut data = cpu.scratch(layout.len());
    let places = Places::new(images, channels);
    match images.data.numbers() {
        Numbers::F32(from) => places.copy(cpu, from, &mut data, true),
        Numbers::Bf16(from) => places.copy(cpu, from, &mut data, true),
    }
    // A vector may reach beyond the last row.
    let rows = places.rows * places.len;
    data[rows..].fill(0.0);
    Images { layout, data }
}

/// Puts channels back.
fn rounded(cpu: &Cpu, from: &Images<Cpu>, to: &mut Images<Cpu>, channels: &Range<usize>) {
    let places = Places::new(to, channels);
    match to.data.numbers_mut() {
        NumbersMut::F32(to) => places.copy(cpu, &from.data, to, false),
        NumbersMut::Bf16(to) => places.copy(cpu, &from.data, to, false),
    }
}

/// Where some channels stand among all.
struct Places {
    /// Image rows of all strips, with their borders.
    rows: usize,
    row_pitch: usize,
    /// Of a row: the first number of these channels, and how many they have.
    first: usize,
    len: usize,
}

impl Places {
    fn new(images: &Images<Cpu>, channels: &Range<usize>) -> Self {
        let layout = &images.layout;
        let rows = layout.strips() * (layout.size()[0] + 2 * layout.border());
        let (first, len) = (channels.start * layout.channel_pitch(), channels.len() * layout.channel_pitch());
        Self { rows, row_pitch: layout.row_pitch(), first, len }
    }

    /// Copies the channels out of all, or back.
    fn copy<A: Number, B: Number>(&self, cpu: &Cpu, from: &[A], to: &mut [B], out: bool) {
        let of_all = |row: usize| row * self.row_pitch + self.first;
        let of_part = |row: usize| row * self.len;
        let to = Shared::new(to);
        cpu.for_each_task(self.rows, 8 * (self.rows * self.len) as u64, |row| {
            let [at, place] = if out { [of_all(row), of_part(row)] } else { [of_part(row), of_all(row)] };
            // SAFETY: both tensors have these numbers of the row, which is this task's.
            let to = unsafe { std::slice::from_raw_parts_mut(to.get().add(place), self.len) };
            dispatch(cpu.isa, Convert { from: &from[at..][..self.len], to });
        });
    }
}
