//! Operations on images that are no convolutions: memory-bound passes over `[strip][row][channel][x][sample]`.

mod batch_norm;
mod elementwise;
mod pool;
mod strips;
#[cfg(test)]
mod tests;
pub(super) mod walk;

use super::super::{Buffer, Gpu};
use super::dropout;
use crate::backend::ImageNeural;
use crate::random::Key;
use crate::{BackendError, Images, PoolShape, Strips};

impl ImageNeural for Gpu {
    fn max_pool(&self, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        pool::max(self, window, x, y)
    }

    fn max_pool_grad(
        &self,
        window: PoolShape,
        x: &Images<Self>,
        y: &Images<Self>,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        pool::max_grad(self, window, [x, y, dy], dx, accumulate)
    }

    fn avg_pool(&self, window: PoolShape, x: &Images<Self>, y: &mut Images<Self>) -> Result<(), BackendError> {
        pool::avg(self, window, x, y)
    }

    fn avg_pool_grad(
        &self,
        window: PoolShape,
        dy: &Images<Self>,
        dx: &mut Images<Self>,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        pool::avg_grad(self, window, dy, dx, accumulate)
    }

    fn global_avg_pool(&self, x: &Images<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        strips::global_avg_pool(self, x, y)
    }

    fn global_avg_pool_grad(&self, dy: &Strips<Self>, dx: &mut Images<Self>) -> Result<(), BackendError> {
        strips::global_avg_pool_grad(self, dy, dx)
    }

    fn flatten(&self, x: &Images<Self>, y: &mut Strips<Self>) -> Result<(), BackendError> {
        strips::flatten(self, x, y)
    }

    fn unflatten(&self, dy: &Strips<Self>, dx: &mut Images<Self>) -> Result<(), BackendError> {
        strips::unflatten(self, dy, dx)
    }

    fn bias_relu_images(&self, bias: &Buffer, relu: bool, x: &mut Images<Self>) -> Result<(), BackendError> {
        elementwise::bias_relu(self, bias, relu, x)
    }

    fn bias_relu_images_grad(
        &self,
        y: &Images<Self>,
        relu: bool,
        grad: &mut Images<Self>,
        dbias: &mut Buffer,
        accumulate: bool,
    ) -> Result<(), BackendError> {
        elementwise::bias_relu_grad(self, y, relu, grad, dbias, accumulate)
    }

    fn relu_images(&self, x: &mut Images<Self>) -> Result<(), BackendError> {
        elementwise::relu(self, x)
    }

    fn relu_images_grad(&self, y: &Images<Self>, grad: &mut Images<Self>) -> Result<(), BackendError> {
        elementwise::relu_grad(self, y, grad)
    }

    fn add_images(&self, from: &Images<Self>, to: &mut Images<Self>) -> Result<(), BackendError> {
        elementwise::add(self, from, to)
    }

    fn dropout_images(&self, key: Key, rate: f32, x: &mut Images<Self>) -> Result<(), BackendError> {
        dropout::images(self, key, rate, x)
    }
}
