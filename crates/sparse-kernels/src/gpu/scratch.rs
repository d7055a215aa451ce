//! Growth's memory.

use super::buffer::DeviceBuffer;

/// Memory on the device that growth needs, kept from one layer to the next.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub gradient: Option<DeviceBuffer<f32>>,
    pub keys: Option<DeviceBuffer<u32>>,
    pub excluded: Option<DeviceBuffer<u32>>,
    pub lists: [Option<DeviceBuffer<u32>>; 2],
    pub counts: Option<DeviceBuffer<u32>>,
    pub state: Option<DeviceBuffer<u32>>,
    pub bins: Option<DeviceBuffer<u32>>,
}
