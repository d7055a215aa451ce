//! Channels of one tensor copied to another, as where values are put side by side.

use std::ops::Range;

use super::rows::{for_each_band, pixels, row_of};
use crate::cpu::Cpu;
use crate::{BackendError, Images};

/// Writes `channels` of `from` to those of `to` from number `first` on.
pub(super) fn copy(
    cpu: &Cpu,
    from: &Images<Cpu>,
    channels: Range<usize>,
    to: &mut Images<Cpu>,
    first: usize,
) -> Result<(), BackendError> {
    let (layout, from_layout) = (to.layout, from.layout);
    for_each_band(cpu, &layout, &mut to.data, layout.len() as u64, |_, rows| {
        for (strip, y, row) in rows {
            for (channel, at) in channels.clone().zip(first..) {
                row[pixels(&layout, at)].copy_from_slice(row_of(&from_layout, &from.data, strip, y, channel));
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::*;
    use super::super::testing::cases;
    use crate::testing::images as verify;

    proptest! {
        #[test]
        fn channels_go_where_they_belong(case in cases(), before in 0usize..3, behind in 0usize..3) {
            for cpu in BACKENDS.iter() {
                verify::copy_channels(cpu, &case, [before, behind]);
            }
        }
    }
}
