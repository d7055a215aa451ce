//! What a device did, kernel by kernel.

/// One kernel's calls together.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct KernelTime {
    /// The kernel.
    pub name: &'static str,
    /// Calls.
    pub launches: u64,
    /// Their time.
    pub nanoseconds: f64,
    /// Bytes that they had to read and write at least.
    pub bytes: u64,
    /// Operations; a multiply-add is two.
    pub operations: u64,
}
