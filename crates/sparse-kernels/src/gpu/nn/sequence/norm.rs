//! Normalisation of each lane over its features, and its gradient.

use std::ops::Range;

use super::super::super::elementwise::QUAD;
use super::super::super::kernel::{Kernel, Launch, Read, Work, Write};
use super::super::super::shaders;
use super::super::super::windows::{lanes_within, of_strips};
use super::super::super::{Buffer, Gpu};
use super::super::sums::slices;
use crate::backend::{FeatureNorm, NormGrad, NormInput, NormKind};
use crate::{BackendError, StripLayout, Strips};

static NORM: Kernel = Kernel::new("feature_norm", shaders::FEATURE_NORM, &[Read, Read, Write, Write, Write]);
static GRAD: Kernel = Kernel::new("feature_norm_grad", shaders::FEATURE_NORM, &[Read, Read, Read, Write, Write]);
static SUMS: Kernel = Kernel::new("feature_norm_grad_sums", shaders::FEATURE_NORM, &[Read, Read, Read, Write]);

/// Quads of lanes of a workgroup.
const QUADS: usize = 8;
/// Features of a workgroup that adds up a gradient.
const FEATURES: usize = 8;

fn windows(gpu: &Gpu, layout: StripLayout) -> Result<Vec<Range<usize>>, BackendError> {
    gpu.strip_windows("activations", layout.strips(), &[layout.strip_pitch(), 2 * layout.strip()])
}

/// The first parameters of each kernel, for some strips.
fn sizes(layout: StripLayout, strips: &Range<usize>, kind: NormKind, has_other: bool) -> [u32; 6] {
    let strip_quads = layout.strip() / QUAD;
    [
        (strips.len() * strip_quads) as u32,
        strip_quads as u32,
        layout.features() as u32,
        lanes_within(layout, strips) as u32,
        u32::from(kind == NormKind::Rms),
        u32::from(has_other),
    ]
}

pub(super) fn forward(
    gpu: &Gpu,
    norm: FeatureNorm,
    affine: &Buffer,
    input: &NormInput<'_, Gpu>,
    y: &Strips<Gpu>,
    moments: &Strips<Gpu>,
) -> Result<(), BackendError> {
    let layout = y.layout;
    let affine = gpu.visible("scale and shift", affine)?;
    let (x, residual) = match input {
        NormInput::Plain(x) => (*x, None),
        NormInput::Sum { residual, x } => (&**x, Some(*residual)),
    };
    for strips in windows(gpu, layout)? {
        // Without a residual something must stand in its place: any buffer that is not written here.
        let added = residual.map_or(affine, |residual| of_strips(residual, &strips));
        let sizes = sizes(layout, &strips, norm.kind, residual.is_some());
        let words = if residual.is_some() { 4 } else { 2 };
        gpu.launch(&Launch {
            kernel: &NORM,
            constants: &[],
            params: &[&sizes[..], &[norm.epsilon.to_bits(), 0, 0, 0, 0]].concat(),
            operands: &[affine, added, of_strips(x, &strips), of_strips(y, &strips), of_strips(moments, &strips)],
            workgroups: (sizes[0] as usize).div_ceil(QUADS),
            work: Work::words(words * strips.len() * layout.strip_pitch()),
        })?;
    }
    Ok(())
}

pub(super) fn backward(gpu: &Gpu, kind: NormKind, operands: NormGrad<'_, Gpu>) -> Result<(), BackendError> {
    let NormGrad { affine, moments, x, dy, to, daffine, accumulate } = operands;
    let (layout, strip_quads) = (x.layout, x.layout.strip() / QUAD);
    let groups = layout.features().div_ceil(FEATURES);
    let slices = slices(windows(gpu, layout)?, strip_quads, QUADS, groups);
    gpu.sum_in_slices(daffine, &slices, accumulate, |sums, accumulate, all| {
        for slice in &slices {
            let strips = &slice.strips;
            let of_slice = [all as u32, slice.first as u32, slice.quads as u32, u32::from(accumulate)];
            let sums = gpu.visible("sums", sums)?;
            gpu.launch(&Launch {
                kernel: &SUMS,
                constants: &[],
                params: &[&sizes(layout, strips, kind, false)[..], &[0], &of_slice].concat(),
                operands: &[of_strips(moments, strips), of_strips(x, strips), of_strips(dy, strips), sums],
                workgroups: groups * slice.count,
                work: Work::words(2 * strips.len() * layout.strip_pitch()),
            })?;
        }
        Ok(())
    })?;
    let affine = gpu.visible("scale and shift", affine)?;
    for strips in windows(gpu, layout)? {
        let sizes = sizes(layout, &strips, kind, to.is_some());
        let dy = of_strips(dy, &strips);
        // Without another buffer something must stand in its place: any that is written here.
        let other = to.as_deref().map_or(dy, |to| of_strips(to, &strips));
        gpu.launch(&Launch {
            kernel: &GRAD,
            constants: &[],
            params: &[&sizes[..], &[0; 5]].concat(),
            operands: &[affine, of_strips(moments, &strips), of_strips(x, &strips), dy, other],
            workgroups: (sizes[0] as usize).div_ceil(QUADS),
            work: Work::words(3 * strips.len() * layout.strip_pitch()),
        })?;
    }
    Ok(())
}
