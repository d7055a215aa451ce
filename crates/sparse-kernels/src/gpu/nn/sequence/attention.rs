//! Causal attention and its gradients.

use std::sync::Arc;

use super::super::super::device::lock;
use super::super::super::elementwise::GROUP;
use super::super::super::kernel::{Kernel, Launch, Operand, Read, Work, Write};
use super::super::super::shaders;
use super::super::super::{Buffer, Gpu, WINDOW_UNIT};
use crate::backend::{Attention, AttentionGrad};
use crate::{BackendError, Storage, StripLayout, Strips};

static ATTENTION: Kernel = Kernel::new("attention", shaders::ATTENTION, &[Read, Read, Read, Write, Write]);
static PRODUCTS: Kernel = Kernel::new("attention_products", shaders::ATTENTION, &[Read, Read, Write]);
static QUERIES: Kernel =
    Kernel::new("attention_grad_queries", shaders::ATTENTION, &[Read, Read, Read, Read, Read, Read, Write]);
static KEYS: Kernel =
    Kernel::new("attention_grad_keys", shaders::ATTENTION, &[Read, Read, Read, Read, Read, Read, Write, Write]);
static TURN: Kernel = Kernel::new("turn", shaders::ATTENTION, &[Read, Write, Read]).called("rotary");
static TURN_BACK: Kernel = Kernel::new("turn_back", shaders::ATTENTION, &[Read, Write]).called("rotary_grad");

/// Tokens of a workgroup.
const SIDE: usize = 16;

/// What all launches of a call share.
struct Call<'a> {
    gpu: &'a Gpu,
    attention: Attention,
    layout: StripLayout,
    angles: Option<Arc<Buffer>>,
}

impl<'a> Call<'a> {
    fn new(gpu: &'a Gpu, attention: Attention, layout: StripLayout) -> Result<Self, BackendError> {
        let head_size = layout.features() / attention.heads;
        let angles = match attention.rotary {
            Some(base) => {
                let mut held = lock(&gpu.angles);
                let key = (base.to_bits(), attention.length, head_size);
                if let Some(found) = held.get(&key) {
                    Some(found.clone())
                } else {
                    let buffer = Arc::new(gpu.uploaded(attention.angles(head_size).as_flattened())?);
                    held.insert(key, buffer.clone());
                    Some(buffer)
                }
            }
            None => None,
        };
        Ok(Self { gpu, attention, layout, angles })
    }

    fn launch(
        &self,
        kernel: &'static Kernel,
        operands: &[Operand<'_>],
        workgroups: usize,
        work: Work,
    ) -> Result<(), BackendError> {
        let Attention { heads, length, .. } = self.attention;
        let layout = self.layout;
        let head_size = layout.features() / heads;
        let sizes = [layout.features(), layout.strip(), heads, length, layout.lanes(), workgroups].map(|n| n as u32);
        let scale = (head_size as f32).sqrt().recip();
        let params = &[&sizes[..], &[scale.to_bits()]].concat();
        self.gpu.launch(&Launch { kernel, constants: &[], params, operands, workgroups, work })
    }

    /// A launch with workgroups of [`SIDE`] tokens, that computes so many of the products of a matrix of length².
    fn tiled(&self, kernel: &'static Kernel, operands: &[Operand<'_>], products: usize) -> Result<(), BackendError> {
        let Attention { heads, length, .. } = self.attention;
        let sequences = self.layout.lanes() / length;
        let operations = (products * self.layout.features() * self.layout.lanes() * length) as u64;
        let work = Work { bytes: 16 * self.layout.len() as u64, operations };
        self.launch(kernel, operands, sequences * heads * length.div_ceil(SIDE), work)
    }

    /// Turns a pair of features an invocation, where positions are rotary.
    fn turn(&self, kernel: &'static Kernel, tensors: &[Operand<'_>]) -> Result<(), BackendError> {
        let Some(angles) = &self.angles else { return Ok(()) };
        let operands = &[&[self.gpu.visible("angles", angles)?], tensors].concat();
        let elements = self.layout.features() * self.layout.lanes();
        self.launch(kernel, operands, (elements / 2).div_ceil(GROUP), Work::words(2 * elements))
    }

    /// Makes padding lanes of an output zero.
    fn clear_padding(&self, to: &Strips<Gpu>) -> Result<(), BackendError> {
        let is_padded = self.layout.lanes() < self.layout.strips() * self.layout.strip();
        if is_padded { self.gpu.fill_buffer(0.0, &to.data) } else { Ok(()) }
    }

    /// Calls `run` with q and k, turned where positions are rotary, and a place for so many elements more.
    fn with_turned(
        &self,
        [q, k]: [&Buffer; 2],
        more: usize,
        run: impl FnOnce([Operand<'_>; 3]) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let gpu = self.gpu;
        let [q_whole, k_whole] = [gpu.visible("queries", q)?, gpu.visible("keys", k)?];
        let len = q.len().next_multiple_of(WINDOW_UNIT);
        let turned = if self.angles.is_some() { 2 * len } else { 0 };
        gpu.with_partials(turned + more.max(1), |scratch| {
            let rest = scratch.window(turned, more);
            if self.angles.is_none() {
                return run([q_whole, k_whole, rest]);
            }
            let [to_q, to_k] = [scratch.window(0, q.len()), scratch.window(len, k.len())];
            self.turn(&TURN, &[to_q, q_whole])?;
            self.turn(&TURN, &[to_k, k_whole])?;
            run([to_q, to_k, rest])
        })
    }
}

pub(super) fn forward(
    gpu: &Gpu,
    attention: Attention,
    [q, k, v]: [&Strips<Gpu>; 3],
    o: &Strips<Gpu>,
    lse: &Strips<Gpu>,
) -> Result<(), BackendError> {
    let call = Call::new(gpu, attention, q.layout)?;
    call.clear_padding(o)?;
    call.clear_padding(lse)?;
    let v = gpu.visible("values", &v.data)?;
    let outputs = [gpu.visible("outputs", &o.data)?, gpu.visible("sums", &lse.data)?];
    call.with_turned([&q.data, &k.data], 0, |[q, k, _]| call.tiled(&ATTENTION, &[q, k, v, outputs[0], outputs[1]], 2))
}

pub(super) fn backward(gpu: &Gpu, attention: Attention, operands: AttentionGrad<'_, Gpu>) -> Result<(), BackendError> {
    let AttentionGrad { q, k, v, o, lse, grad, dq, dk, dv } = operands;
    let call = Call::new(gpu, attention, q.layout)?;
    for to in [&*dq, &*dk, &*dv] {
        call.clear_padding(to)?;
    }
    let [v, o, lse_found, grad] = [whole(gpu, v)?, whole(gpu, o)?, whole(gpu, lse)?, whole(gpu, grad)?];
    let [to_q, to_k, to_v] = [whole(gpu, dq)?, whole(gpu, dk)?, whole(gpu, dv)?];
    call.with_turned([&q.data, &k.data], lse.layout.len(), |[q, k, products]| {
        let rows = attention.heads * call.layout.lanes();
        let work = Work::words(2 * call.layout.len());
        call.launch(&PRODUCTS, &[o, grad, products], rows.div_ceil(GROUP), work)?;
        let read = [q, k, v, grad, lse_found, products];
        call.tiled(&QUERIES, &[&read[..], &[to_q]].concat(), 3)?;
        call.tiled(&KEYS, &[&read[..], &[to_k, to_v]].concat(), 4)
    })?;
    call.turn(&TURN_BACK, &[to_q])?;
    call.turn(&TURN_BACK, &[to_k])
}

/// Activations that kernels see whole: a sequence may stand across strips.
fn whole<'a>(gpu: &Gpu, strips: &'a Strips<Gpu>) -> Result<Operand<'a>, BackendError> {
    gpu.visible("activations", &strips.data)
}
