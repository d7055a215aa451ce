//! Operations on images that are no convolutions: memory-bound passes over `[strip][y][channel][x][S]`.
//!
//! Where an output row belongs to one image row, tasks are bands of image rows ([`rows::for_each_band`]), which lie in memory as
//! one stream; where windows overlap, tasks are channels of a strip ([`rows::for_each_block`]). Both are cut by the shape only, and
//! every sum is taken in one order, so that results do not depend on the number of threads.
//!
//! Padding samples hold zeros before a pass, and most passes make zeros of zeros; only adding a bias and reading from
//! strips, whose padding is another, need care.

mod add;
mod batch_norm;
#[cfg(test)]
mod batch_norm_tests;
mod bias_relu;
mod by_channels;
mod channels;
mod dropout;
mod flatten;
mod global_pool;
mod pool;
mod rows;

use std::ops::Range;

use self::by_channels::by_channels;
use crate::backend::ImageNeural;
use crate::backend::Pool;
use crate::backend::check::{Checked, Done};
use crate::cpu::{Buffer, Cpu};
use crate::random::Key;
use crate::{Images, PoolShape, Strips};

impl ImageNeural for Cpu {
    const ADDS_AND_POOLS_16_BITS: bool = true;

    fn run_pool(&self, _: Checked, pool: Pool, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Done {
        let name = if pool == Pool::Max { "max_pool" } else { "avg_pool" };
        let _timed = self.timed(name, x.data.words() + y.data.words(), 0);
        by_channels(self, [x], y, |[x], y| pool::forward(self, pool, window, x, y))
    }

    fn run_max_pool_grad(
        &self,
        _: Checked,
        window: PoolShape,
        [x, y, dy]: [&Images<Self>; 3],
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Done {
        let _timed =
            self.timed("max_pool_grad", x.data.words() + y.data.words() + dy.data.words() + 2 * dx.data.words(), 0);
        by_channels(self, [x, y, dy], dx, |operands, dx| pool::max_grad(self, window, operands, dx, accumulate))
    }

    fn run_avg_pool_grad(
        &self,
        _: Checked,
        window: PoolShape,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Done {
        let _timed = self.timed("avg_pool_grad", dy.data.words() + 2 * dx.data.words(), 0);
        by_channels(self, [dy], dx, |[dy], dx| pool::avg_grad(self, window, dy, dx, accumulate))
    }

    fn run_global_avg_pool(&self, _: Checked, x: &Images<Self>, y: &mut Strips<Self>) -> Done {
        let _timed = self.timed("global_avg_pool", x.data.words(), 0);
        global_pool::forward(self, x, y)
    }

    fn run_global_avg_pool_grad(&self, _: Checked, dy: &Strips<Self>, dx: &mut Images<Self>) -> Done {
        let _timed = self.timed("global_avg_pool_grad", dx.data.words(), 0);
        global_pool::backward(self, dy, dx)
    }

    fn run_flatten(&self, _: Checked, x: &Images<Self>, y: &mut Strips<Self>) -> Done {
        let _timed = self.timed("flatten", x.data.words() + y.data.words(), 0);
        flatten::forward(self, x, y)
    }

    fn run_unflatten(&self, _: Checked, dy: &Strips<Self>, dx: &mut Images<Self>) -> Done {
        let _timed = self.timed("unflatten", dy.data.words() + dx.data.words(), 0);
        flatten::backward(self, dy, dx)
    }

    fn run_bias_relu_images(&self, _: Checked, bias: Option<&Buffer>, relu: bool, x: &mut Images<Self>) -> Done {
        let name = if bias.is_some() { "bias_relu_images" } else { "relu_images" };
        let _timed = self.timed(name, 2 * x.data.words(), 0);
        bias_relu::forward(self, bias.map(|bias| &bias[..]), relu, x)
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
        let _timed = self.timed("bias_relu_images_grad", 3 * grad.data.words(), 0);
        bias_relu::backward(self, y, relu, grad, dbias, accumulate)
    }

    fn run_relu_images_grad(&self, _: Checked, y: &Images<Self>, grad: &mut Images<Self>) -> Done {
        let _timed = self.timed("relu_images_grad", 3 * grad.data.words(), 0);
        bias_relu::relu_grad(self, y, grad)
    }

    fn run_add_images(&self, _: Checked, from: &Images<Self>, to: &mut Images<Self>) -> Done {
        let _timed = self.timed("add_images", 3 * to.data.words(), 0);
        add::run(self, from, to)
    }

    fn run_copy_channels(
        &self,
        _: Checked,
        from: &Images<Self>,
        channels: Range<usize>,
        to: &mut Images<Self>,
        first: usize,
    ) -> Done {
        let _timed =
            self.timed("copy_channels", 2 * channels.len() * from.layout.len() / from.layout.channels().max(1), 0);
        channels::copy(self, from, channels, to, first)
    }

    fn run_dropout_images(&self, _: Checked, key: Key, rate: f32, x: &mut Images<Self>) -> Done {
        let _timed = self.timed("dropout_images", 2 * x.data.words(), 0);
        dropout::run(self, key, rate, x)
    }
}

#[cfg(test)]
mod testing {
    use super::super::testing::BACKENDS;
    use super::*;
    use crate::ImageLayout;
    use crate::testing::images as testing;
    pub use crate::testing::images::{cases, large, windows};

    /// NCHW into images.
    pub fn images(layout: ImageLayout, from: &[f32]) -> Images<Cpu> {
        testing::images(&BACKENDS[0], layout, from)
    }

    /// Images whose rows hold NaN, padding samples too; the border holds zeros, as it must.
    pub fn poisoned(layout: ImageLayout) -> Images<Cpu> {
        testing::poisoned(&BACKENDS[0], layout)
    }

    /// The pixels in NCHW, after a check that border and padding samples hold zeros.
    #[track_caller]
    pub fn read(images: &Images<Cpu>) -> Vec<f32> {
        testing::read(&BACKENDS[0], images)
    }

    #[test]
    fn wrong_shapes_are_refused() {
        testing::wrong_shapes_are_refused(&BACKENDS[0]);
        testing::wrong_pools_are_refused(&BACKENDS[0]);
        testing::wrong_moments_are_refused(&BACKENDS[0]);
    }
}
