//! Gradients of weights: sums over all pixels and samples, in slices where there are few weights.

use super::grid::{Grid, part};
use crate::gpu::kernel::Operand;
use crate::gpu::{Buffer, Gpu};
use crate::{BackendError, Images};

/// Workgroups wanted: some for each multiprocessor of a large device, with enough of them that the last ones do not wait long
/// for each other.
const WORKGROUPS: usize = 1024;
/// Points that a slice has at least, lest adding up its sums cost more than making them.
const SLICE_POINTS: usize = 128;

/// Where sums go.
pub(super) struct Sums<'a> {
    pub to: &'a Buffer,
    /// How many there are, from the start of `to`.
    pub len: usize,
    pub accumulate: bool,
    /// Workgroups that one slice of the points makes.
    pub workgroups: usize,
}

/// Some strips, and how they are cut.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub strips: usize,
    /// Number of slices, and points of each.
    pub slices: [usize; 2],
    pub dy: Operand<'a>,
    pub x: Operand<'a>,
    pub to: Operand<'a>,
    /// Whether sums are added to what is there.
    pub accumulate: bool,
    /// Bytes of the strips.
    pub bytes: u64,
    /// Pixels of Y of all samples.
    pub pixels: usize,
}

/// Number of slices, and points of each.
fn slices(workgroups: usize, points: usize, most: usize) -> [usize; 2] {
    let wanted = WORKGROUPS.div_ceil(workgroups.max(1)).min(points.div_ceil(SLICE_POINTS)).min(most).max(1);
    let slice_points = points.div_ceil(wanted);
    [points.div_ceil(slice_points), slice_points]
}

impl Gpu {
    /// Launches a weight gradient's kernel for all points, and adds up its slices.
    pub(super) fn conv_sums(
        &self,
        grid: &Grid,
        dy: &Images<Self>,
        x: &Images<Self>,
        sums: &Sums<'_>,
        launch: impl Fn(&Part<'_>) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let len = sums.len;
        self.check_window("a convolution's weights", len)?;
        if len == 0 {
            return Ok(());
        }
        let windows = self.image_windows(&[x.layout, dy.layout])?;
        if grid.points(windows.len()) == 0 {
            return if sums.accumulate { Ok(()) } else { self.fill_buffer(0.0, sums.to) };
        }
        for (index, strips) in windows.into_iter().enumerate() {
            let ((x_start, x_len), (dy_start, dy_len)) = (part(x.layout, &strips), part(dy.layout, &strips));
            let points = grid.points(strips.len());
            let cut = slices(sums.workgroups, points, self.window_elements() / len);
            let accumulate = sums.accumulate || index > 0;
            let whole = Part {
                strips: strips.len(),
                slices: cut,
                dy: dy.data.window(dy_start, dy_len),
                x: x.data.window(x_start, x_len),
                to: sums.to.window(0, len),
                accumulate,
                bytes: 4 * (x_len + dy_len) as u64,
                pixels: grid.points(super::samples(x.layout, &strips)),
            };
            if cut[0] == 1 {
                launch(&whole)?;
                continue;
            }
            self.with_partials(cut[0] * len, |partials| {
                launch(&Part { to: partials.window(0, cut[0] * len), accumulate: false, ..whole })?;
                self.sum_parts(partials, cut[0], sums.to, (0, len), accumulate)
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::slices;

    #[test]
    fn slices_cover_all_points() {
        for (workgroups, points, most) in
            [(1, 1, 100), (1, 1000, 100), (7, 100_000, 1000), (5000, 100_000, 9), (1, 99_999, 3)]
        {
            let [count, each] = slices(workgroups, points, most);
            assert!(count <= most && count * each >= points && (count - 1) * each < points, "{count} × {each}");
        }
    }
}
