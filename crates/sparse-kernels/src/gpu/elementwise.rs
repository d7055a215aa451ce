//! Filling, adding, gathering.

use super::kernel::{Kernel, Launch, Read, Work, Write};
use super::shaders;
use super::{Buffer, Gpu, Indices, windows};
use crate::BackendError;

/// Invocations of a workgroup of the kernels that have an element, or four, each.
pub(super) const GROUP: usize = 256;

static FILL: Kernel = Kernel::new("fill", shaders::FILL, &[Write]);
static ADD: Kernel = Kernel::new("add", shaders::ADD, &[Read, Write]);
static GATHER: Kernel = Kernel::new("gather", shaders::GATHER, &[Read, Read, Write]);

impl Gpu {
    pub(super) fn fill_buffer(&self, value: f32, to: &Buffer) -> Result<(), BackendError> {
        for part in windows::flat(to.len(), self.window_elements()) {
            let quads = part.len().div_ceil(4);
            self.launch(&Launch {
                kernel: &FILL,
                constants: &[],
                params: &[quads as u32, value.to_bits()],
                operands: &[to.window(part.start, part.len())],
                workgroups: quads.div_ceil(GROUP),
                work: Work::words(part.len()),
            })?;
        }
        Ok(())
    }

    pub(super) fn add_buffers(&self, from: &Buffer, to: &Buffer) -> Result<(), BackendError> {
        for part in windows::flat(to.len(), self.window_elements()) {
            let quads = part.len().div_ceil(4);
            self.launch(&Launch {
                kernel: &ADD,
                constants: &[],
                params: &[quads as u32],
                operands: &[from.window(part.start, part.len()), to.window(part.start, part.len())],
                workgroups: quads.div_ceil(GROUP),
                work: Work::words(3 * part.len()),
            })?;
        }
        Ok(())
    }

    /// `to[i] = from[map[i]]`, or 0 where `map[i]` is `u32::MAX`.
    pub(super) fn gather_buffer(&self, from: &Buffer, map: &Indices, to: &Buffer) -> Result<(), BackendError> {
        let most = self.window_elements();
        // An empty source has one empty window, so that zeros are written.
        let sources = windows::flat(from.len().max(1), most);
        for source in sources {
            for part in windows::flat(to.len(), most) {
                self.launch(&Launch {
                    kernel: &GATHER,
                    constants: &[],
                    params: &[part.len() as u32, source.start as u32, source.len() as u32],
                    operands: &[
                        from.window(source.start, source.len()),
                        map.window(part.start, part.len()),
                        to.window(part.start, part.len()),
                    ],
                    workgroups: part.len().div_ceil(GROUP),
                    work: Work::words(3 * part.len()),
                })?;
            }
        }
        Ok(())
    }
}
