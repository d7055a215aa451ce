//! Rows of a table, one for each lane, into strips, and the sums of their gradients.

use super::super::super::elementwise::GROUP;
use super::super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::super::shaders;
use super::super::super::windows::{lanes_within, of_strips};
use super::super::super::{Buffer, Gpu, Indices};
use crate::backend::Rows;
use crate::{BackendError, Strips};

static EMBED: Kernel = Kernel::new("embed", shaders::EMBED, &[Read, Read, Read, Write]);
static EMBED_GRAD: Kernel = Kernel::new("embed_grad", shaders::EMBED, &[Read, Read, Write]);

pub(super) fn forward(
    gpu: &Gpu,
    table: &Buffer,
    positions: Option<(&Buffer, usize)>,
    tokens: &Indices,
    x: &Strips<Gpu>,
) -> Result<(), BackendError> {
    let (layout, features) = (x.layout, x.layout.features());
    let rows = table.len() / features;
    let table = gpu.visible("table", table)?;
    let (places, length) = match positions {
        Some((positions, length)) => (gpu.visible("positions", positions)?, length),
        None => (table, 0),
    };
    for strips in gpu.strip_windows("activations", layout.strips(), &[layout.strip_pitch(), layout.strip()])? {
        let elements = strips.len() * layout.strip_pitch();
        let (lanes, first_lane) = (lanes_within(layout, &strips), strips.start * layout.strip());
        let params = [elements, lanes, first_lane, features, layout.strip(), rows, length, 0].map(|n| n as u32);
        gpu.launch(&Launch {
            kernel: &EMBED,
            constants: &[],
            params: &params,
            operands: &[table, places, tokens.window(first_lane, lanes), of_strips(x, &strips)],
            workgroups: elements.div_ceil(GROUP),
            work: Work::words(2 * elements),
        })?;
    }
    Ok(())
}

pub(super) fn backward(
    gpu: &Gpu,
    rows: &Rows<'_, Gpu>,
    dx: &Strips<Gpu>,
    grad: &Buffer,
    accumulate: bool,
) -> Result<(), BackendError> {
    let (layout, features) = (dx.layout, dx.layout.features());
    let nrows = grad.len() / features;
    let windows = gpu.strip_windows("activations", layout.strips(), &[layout.strip_pitch(), layout.strip()])?;
    if windows.is_empty() && !accumulate {
        return gpu.fill_buffer(0.0, grad);
    }
    for (i, strips) in windows.iter().enumerate() {
        let elements = strips.len() * layout.strip_pitch();
        let (lanes, first_lane) = (lanes_within(layout, strips), strips.start * layout.strip());
        let dx = of_strips(dx, strips);
        let (tokens, length) = match rows {
            Rows::Tokens(tokens) => (tokens.window(first_lane, lanes), 0),
            Rows::Places(length) => (dx, *length),
        };
        let accumulate = usize::from(accumulate || i > 0);
        let params = [elements, lanes, first_lane, features, layout.strip(), nrows, length, accumulate];
        gpu.launch(&Launch {
            kernel: &EMBED_GRAD,
            constants: &[],
            params: &params.map(|n| n as u32),
            operands: &[tokens, dx, gpu.visible("gradient", grad)?],
            workgroups: nrows,
            work: Work::words(2 * elements),
        })?;
    }
    Ok(())
}
