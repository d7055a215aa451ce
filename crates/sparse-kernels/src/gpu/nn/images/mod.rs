//! Operations on images that are no convolutions: memory-bound passes over `[strip][row][channel][x][sample]`.

mod batch_norm;
mod elementwise;
mod pool;
mod strips;
#[cfg(test)]
mod tests;
pub(super) mod walk;

use std::ops::Range;

use super::super::{Buffer, Gpu};
use super::dropout;
use crate::backend::ImageNeural;
use crate::backend::Pool;
use crate::backend::check::{Checked, Done};
use crate::random::Key;
use crate::{Images, PoolShape, Strips};

impl ImageNeural for Gpu {
    fn run_pool(&self, _: Checked, pool: Pool, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Done {
        pool::forward(self, pool, window, x, y)
    }

    fn run_max_pool_grad(
        &self,
        _: Checked,
        window: PoolShape,
        [x, y, dy]: [&Images<Self>; 3],
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Done {
        pool::max_grad(self, window, [x, y, dy], dx, accumulate)
    }

    fn run_avg_pool_grad(
        &self,
        _: Checked,
        window: PoolShape,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Done {
        pool::avg_grad(self, window, dy, dx, accumulate)
    }

    fn run_global_avg_pool(&self, _: Checked, x: &Images<Self>, y: &mut Strips<Self>) -> Done {
        strips::to_strips(self, &strips::GLOBAL_AVG_POOL, x, y)
    }

    fn run_global_avg_pool_grad(&self, _: Checked, dy: &Strips<Self>, dx: &mut Images<Self>) -> Done {
        strips::to_images(self, &strips::GLOBAL_AVG_POOL_GRAD, dy, dx)
    }

    fn run_flatten(&self, _: Checked, x: &Images<Self>, y: &mut Strips<Self>) -> Done {
        strips::to_strips(self, &strips::FLATTEN, x, y)
    }

    fn run_unflatten(&self, _: Checked, dy: &Strips<Self>, dx: &mut Images<Self>) -> Done {
        strips::to_images(self, &strips::UNFLATTEN, dy, dx)
    }

    fn run_bias_relu_images(&self, _: Checked, bias: Option<&Buffer>, relu: bool, x: &mut Images<Self>) -> Done {
        elementwise::bias_relu(self, bias, relu, x)
    }

    fn run_bias_relu_images_grad(
        &self,
        _: Checked,
        y: &Images<Self>,
        relu: bool,
        grad: &mut Images<Self>,
        dbias: &mut Buffer,
        accumulate: bool,
    ) -> Done {
        elementwise::bias_relu_grad(self, y, relu, grad, dbias, accumulate)
    }

    fn run_relu_images_grad(&self, _: Checked, y: &Images<Self>, grad: &mut Images<Self>) -> Done {
        elementwise::relu_grad(self, y, grad)
    }

    fn run_add_images(&self, _: Checked, from: &Images<Self>, to: &mut Images<Self>) -> Done {
        elementwise::add(self, from, to)
    }

    fn run_copy_channels(
        &self,
        _: Checked,
        from: &Images<Self>,
        channels: Range<usize>,
        to: &mut Images<Self>,
        first: usize,
    ) -> Done {
        elementwise::copy_channels(self, from, channels, to, first)
    }

    fn run_dropout_images(&self, _: Checked, key: Key, rate: f32, x: &mut Images<Self>) -> Done {
        dropout::images(self, key, rate, x)
    }
}
