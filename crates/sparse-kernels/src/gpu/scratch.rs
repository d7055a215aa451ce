//! Memory that growth and attention keep.

#[cfg(feature = "nn")]
use std::{collections::HashMap, sync::Arc};

use super::buffer::DeviceBuffer;

/// Cosines and sines of rotary positions, `[pair][token]`, by base, length and head size: uploaded once.
#[cfg(feature = "nn")]
pub(super) type Angles = HashMap<(u32, usize, usize), Arc<DeviceBuffer<f32>>>;

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
