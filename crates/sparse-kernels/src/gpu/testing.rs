//! The GPU that tests run on, if there is one.

use std::sync::OnceLock;

use super::{Gpu, GpuOptions};

/// The GPU; `None`, and a line that says so, where there is none. `RIGL_REQUIRE_GPU` makes that a failure.
pub fn gpu() -> Option<&'static Gpu> {
    static GPU: OnceLock<Option<Gpu>> = OnceLock::new();
    GPU.get_or_init(|| open(GpuOptions::default())).as_ref()
}

/// A GPU whose kernels see only so many bytes of a buffer at once.
pub fn gpu_with_limit(bytes: u64) -> Option<Gpu> {
    open(GpuOptions { max_binding_bytes: Some(bytes), ..GpuOptions::default() })
}

/// A GPU opened so.
pub fn open(options: GpuOptions) -> Option<Gpu> {
    match Gpu::with_options(options) {
        Ok(gpu) => Some(gpu),
        Err(e) => {
            assert!(std::env::var_os("RIGL_REQUIRE_GPU").is_none(), "RIGL_REQUIRE_GPU is set, but: {e}");
            println!("not run: {e}");
            None
        }
    }
}
