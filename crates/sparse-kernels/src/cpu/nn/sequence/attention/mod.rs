//! Causal attention without a matrix of length²: tiles of scores, an online softmax (Milakov and Gimelshein 2018), and in the
//! backward pass the probabilities once more from each query's sum (FlashAttention-2, Dao 2023, algorithms 1 and 2).
//!
//! ```text
//! a task has one head of one sequence: Q · scale, K, V (backward also dO) as rows [feature][token] of a scratch, rotated
//!
//! forward, for each tile of 2 vectors of queries, for each chunk of keys up to the last of them:
//!   for each R keys:      S[key][query] = Σ_f K[f][key] · Q[f][query];  top = max(top, S)
//!   each key:             P = exp(S − top);  sum += P
//!   for each R features:  O[f][query] = O[f][query] · exp(old top − top) + Σ_key V[f][key] · P[key][query]
//!   in the end            O /= sum;  lse = top + ln(sum)
//!
//! backward, D[query] = Σ_f dO · O; for each 32 keys, for each chunk of queries from the first of them on:
//!   for each R queries:   P[query][key] = exp(S − lse);  dS[query][key] = P · (Σ_f dO[f][query] · V[f][key] − D)
//!   for each R features:  dV[f][key] += Σ_query dO[f][query] · P;  dK[f][key] += Σ_query Q[f][query] · dS
//!   dS transposed, R feat.: dQ[f][query] += Σ_key K[f][key] · dS[key][query]
//! ```
//!
//! All seven products have the form of a small GEMM: R numbers of one operand, each spread over a vector, times two vectors of
//! the other, in R · 2 accumulators. With 16 registers R is 6: 12 accumulators, two vectors and one number, and 8 loads for 12
//! multiply-adds, of which a core does two a cycle of each. With 32 registers R is 8, which divides usual head sizes. Neither
//! operand is packed: rows are an odd number of lines long, so that a column of them does not fall on one another in the cache.
//!
//! Scores that causality forbids are skipped by tiles; in the tiles on the diagonal, they are set to zero as probabilities.

mod backward;
mod call;
mod forward;
mod rows;
mod tiles;

use call::{Call, Head};
use rows::Rotary;

use crate::backend::{Attention, AttentionGrad};
use crate::cpu::{Cpu, SharedMut};
use crate::{StripLayout, Strips};

fn heads(attention: Attention, layout: StripLayout) -> impl Fn(usize) -> Head {
    let head_size = layout.features() / attention.heads;
    move |task| {
        let head = task % attention.heads;
        Head { head, feature: head * head_size, lane: task / attention.heads * attention.length }
    }
}

/// Operations of some products of a matrix of length² of which half counts.
fn operations(attention: Attention, layout: StripLayout, products: usize) -> u64 {
    products as u64 * (layout.features() * layout.lanes() * attention.length) as u64
}

pub(super) fn forward(
    cpu: &Cpu,
    attention: Attention,
    [q, k, v]: [&Strips<Cpu>; 3],
    o: &mut Strips<Cpu>,
    lse: &mut Strips<Cpu>,
) {
    let layout = q.layout;
    let head_size = layout.features() / attention.heads;
    let rotary = attention.rotary.map(|_| Rotary::new(attention, head_size));
    let call = Call { layout, length: attention.length, head_size, rotary: rotary.as_ref() };
    let head = heads(attention, layout);
    let sequences = layout.lanes() / attention.length;
    let [to, lse_to] = [&mut o.data, &mut lse.data].map(|data| SharedMut::new(data));
    let lse_layout = lse.layout;
    cpu.for_each_task(sequences * attention.heads, operations(attention, layout, 2), |task| {
        forward::run(cpu, call, head(task), [&q.data, &k.data, &v.data], to, (lse_layout, lse_to));
    });
    clear_padding(o);
    clear_padding(lse);
}

pub(super) fn backward(cpu: &Cpu, attention: Attention, operands: AttentionGrad<'_, Cpu>) {
    let AttentionGrad { q, k, v, o, lse, grad, dq, dk, dv } = operands;
    let layout = q.layout;
    let head_size = layout.features() / attention.heads;
    let rotary = attention.rotary.map(|_| Rotary::new(attention, head_size));
    let call = Call { layout, length: attention.length, head_size, rotary: rotary.as_ref() };
    let head = heads(attention, layout);
    let sequences = layout.lanes() / attention.length;
    let to = [&mut dq.data, &mut dk.data, &mut dv.data].map(|data| SharedMut::new(data));
    cpu.for_each_task(sequences * attention.heads, operations(attention, layout, 5), |task| {
        let from = [&q.data, &k.data, &v.data, &o.data, &grad.data].map(|data| &data[..]);
        backward::run(cpu, call, head(task), from, (lse.layout, &lse.data), to);
    });
    [dq, dk, dv].into_iter().for_each(clear_padding);
}

/// Sets lanes behind the last one to zero.
fn clear_padding(x: &mut Strips<Cpu>) {
    let (layout, lanes) = (x.layout, x.layout.strips() * x.layout.strip());
    if layout.lanes() < lanes {
        for f in 0..layout.features() {
            let first = layout.index(f, layout.lanes());
            x.data[first..][..lanes - layout.lanes()].fill(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::testing::*;
    use crate::testing::sequence;
    use crate::{Attention, AttentionGrad, SequenceNeural, StripLayout};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn agrees_with_the_reference((layout, attention) in sequence::attentions(), seed in 0u32..100) {
            for cpu in BACKENDS.iter().step_by(3) {
                sequence::attention(cpu, layout, attention, seed);
            }
        }
    }

    /// Several chunks of keys and of queries, and usual sizes.
    #[test]
    fn long_sequences() {
        for (layout, heads, length) in [
            (StripLayout::sparse(450, 12), 1, 450),
            (StripLayout::single(512, 64), 1, 256),
            (StripLayout::sparse(400, 160), 2, 200),
        ] {
            for rotary in [None, Some(10_000.0)] {
                for cpu in BACKENDS.iter().step_by(3) {
                    sequence::attention(cpu, layout, Attention { heads, length, rotary }, 1);
                }
            }
        }
    }

    #[test]
    fn the_past_does_not_depend_on_the_future() {
        BACKENDS.iter().for_each(sequence::attention_is_causal_and_stable);
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let layout = StripLayout::sparse(390, 48);
        let [q, k, v, grad] = ["q", "k", "v", "grad"].map(|name| pack(layout, &normals(name, 390 * 48)));
        let attention = Attention { heads: 4, length: 130, rotary: Some(100.0) };
        same_for_all_threads(|cpu| {
            let (mut o, mut lse) = (poisoned(layout), poisoned(layout.with_features(4)));
            cpu.attention(attention, [&q, &k, &v], &mut o, &mut lse).unwrap();
            let [mut dq, mut dk, mut dv] = [(); 3].map(|()| poisoned(layout));
            let (o, lse, grad, dq_to) = (&o, &lse, &grad, &mut dq);
            let operands = AttentionGrad { q: &q, k: &k, v: &v, o, lse, grad, dq: dq_to, dk: &mut dk, dv: &mut dv };
            cpu.attention_grad(attention, operands).unwrap();
            [&o.data[..], &lse.data[..], &dq.data[..], &dk.data[..], &dv.data[..]].concat()
        });
    }

    #[test]
    fn nan_is_not_hidden() {
        let layout = StripLayout::sparse(10, 4);
        let attention = Attention { heads: 1, length: 10, rotary: None };
        for cpu in BACKENDS.iter() {
            for bad in 0..3 {
                let operands = [0, 1, 2].map(|i| {
                    let mut data = normals("x", 40);
                    data[15] = if i == bad { f32::NAN } else { data[15] };
                    pack(layout, &data)
                });
                let (mut o, mut lse) = (poisoned(layout), poisoned(layout.with_features(1)));
                let [q, k, v] = operands.each_ref();
                cpu.attention(attention, [q, k, v], &mut o, &mut lse).unwrap();
                assert!(unpack(&o)[15].is_nan(), "{bad}");
            }
        }
    }
}
