//! Filling, adding, gathering.

use half::bf16;

use super::kernel::{Kernel, Launch, Read, Work, Write};
use super::shaders;
use super::{Buffer, Gpu, Indices, windows};
use crate::{BackendError, Precision};

/// Invocations of a workgroup of the kernels that have an element, or four, each.
pub(super) const GROUP: usize = 256;
/// Lanes or samples that an invocation has at once.
pub(super) const QUAD: usize = 4;

static FILL: Kernel = Kernel::new("fill", shaders::FILL, &[Write]);
static ADD: Kernel = Kernel::new("add", shaders::ADD, &[Read, Write]);
static GATHER: Kernel = Kernel::new("gather", shaders::GATHER, &[Read, Read, Write]);

impl Gpu {
    /// Launches a kernel on all elements of some buffers of one length, which takes the number of quads before `params`.
    /// `words_and_operations` are moved and computed for each element.
    pub(super) fn each_quad(
        &self,
        kernel: &'static Kernel,
        params: &[u32],
        buffers: &[&Buffer],
        words_and_operations: [usize; 2],
    ) -> Result<(), BackendError> {
        let len = buffers.first().map_or(0, |buffer| buffer.words());
        for part in windows::flat(len, self.window_elements()) {
            let quads = part.len().div_ceil(QUAD);
            let operands: Vec<_> = buffers.iter().map(|buffer| buffer.window(part.start, part.len())).collect();
            let [words, operations] = words_and_operations.map(|each| (each * part.len()) as u64);
            self.launch(&Launch {
                kernel,
                constants: &[],
                params: &[&[quads as u32], params].concat(),
                operands: &operands,
                workgroups: quads.div_ceil(GROUP),
                work: Work { bytes: 4 * words, operations },
            })?;
        }
        Ok(())
    }

    pub(super) fn fill_buffer(&self, value: f32, to: &Buffer) -> Result<(), BackendError> {
        let word = match to.precision() {
            Precision::F32 => value.to_bits(),
            Precision::Bf16 => u32::from(bf16::from_f32(value).to_bits()) * 0x1_0001,
        };
        self.each_quad(&FILL, &[word], &[to], [1, 0])
    }

    pub(super) fn add_buffers(&self, from: &Buffer, to: &Buffer) -> Result<(), BackendError> {
        self.each_quad(&ADD, &[], &[from, to], [3, 0])
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
