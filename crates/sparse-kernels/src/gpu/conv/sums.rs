//! Gradients of weights: sums over all pixels and samples, in slices where there are few weights.

use super::grid::{Grid, part};
use crate::gpu::kernel::{Kernel, Launch, Operand, Work};
use crate::gpu::{Buffer, Gpu};
use crate::{BackendError, Images};

/// Workgroups wanted: some for each multiprocessor of a large device, with enough of them that the last ones do not wait long
/// for each other.
const WORKGROUPS: usize = 1024;
/// Points that a slice has at least, lest adding up its sums cost more than making them.
const SLICE_POINTS: usize = 128;

/// How sums are made, and where they go.
pub(super) struct Sums<'a> {
    pub kernel: &'static Kernel,
    /// What the kernel sees before dY and X.
    pub lists: &'a [Operand<'a>],
    /// Words of the lists that it reads.
    pub list_words: usize,
    pub to: &'a Buffer,
    /// How many there are, from the start of `to`.
    pub len: usize,
    pub accumulate: bool,
    /// Workgroups that one slice of the points makes.
    pub workgroups: usize,
}

/// Number of slices, and points of each.
fn slices(workgroups: usize, points: usize, most: usize) -> [usize; 2] {
    let wanted = WORKGROUPS.div_ceil(workgroups.max(1)).min(points.div_ceil(SLICE_POINTS)).min(most).max(1);
    let slice_points = points.div_ceil(wanted);
    [points.div_ceil(slice_points), slice_points]
}

impl Gpu {
    /// Launches a weight gradient's kernel for all points, and adds up its slices. Its parameters are those that all begin with,
    /// then `params(number of slices, points of each, whether sums are added to what is there)`.
    pub(super) fn conv_sums(
        &self,
        grid: &Grid,
        dy: &Images<Self>,
        x: &Images<Self>,
        sums: &Sums<'_>,
        params: impl Fn([usize; 3]) -> Vec<u32>,
    ) -> Result<(), BackendError> {
        let Sums { kernel, lists, list_words, to, len, accumulate, workgroups } = *sums;
        self.check_window("a convolution's weights", len)?;
        if len == 0 {
            return Ok(());
        }
        let windows = self.image_windows(&[x.layout, dy.layout])?;
        if grid.points(windows.len()) == 0 {
            return if accumulate { Ok(()) } else { self.fill_buffer(0.0, to) };
        }
        for (index, strips) in windows.into_iter().enumerate() {
            let ((x_start, x_len), (dy_start, dy_len)) = (part(x.layout, &strips), part(dy.layout, &strips));
            let [slices, points] = slices(workgroups, grid.points(strips.len()), self.window_elements() / len);
            let (dy, x_part) = (dy.data.window(dy_start, dy_len), x.data.window(x_start, x_len));
            let pixels = grid.points(super::samples(x.layout, &strips));
            self.sum_in_parts(slices, to, (0, len), accumulate || index > 0, |to, (start, written), accumulate| {
                self.launch(&Launch {
                    kernel,
                    constants: &grid.constants(),
                    params: &[&grid.words(strips.len())[..], &params([slices, points, accumulate.into()])].concat(),
                    operands: &[lists, &[dy, dy, x_part, x_part, to.window(start, written)]].concat(),
                    workgroups: workgroups * slices,
                    work: Work {
                        bytes: 4 * (x_len + dy_len + list_words + len * slices) as u64,
                        operations: 2 * len as u64 * pixels as u64,
                    },
                })
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
