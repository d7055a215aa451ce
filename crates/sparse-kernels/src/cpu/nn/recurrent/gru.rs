//! A step of a gated recurrent unit, and its gradient. The equations are those of `Recurrent`.

use super::super::sigmoid::sigmoid;
use super::super::tanh::tanh;
use super::part::{Operand, Part, Work, complement};
use crate::backend::{GruStep, GruStepGrad, Steps};
use crate::cpu::Cpu;
use crate::cpu::isa::{Isa, Kernel};

pub(super) fn forward(cpu: &Cpu, steps: Steps, call: GruStep<'_, Cpu>) {
    let GruStep { step, gates, hidden, state, y, saved } = call;
    let work = Work { isa: cpu.isa, steps, step, features: state.layout.features() };
    let [gates, hidden, state, y] =
        [Operand::writes(gates), Operand::reads(hidden), Operand::writes(state), Operand::writes(y)];
    let saved = saved.map(|saved| [Operand::writes(saved.previous), Operand::writes(saved.hidden_n)]);
    work.each_part(cpu, |part| Forward { part, gates, hidden, state, y, saved });
}

struct Forward {
    part: Part,
    gates: Operand,
    hidden: Operand,
    state: Operand,
    y: Operand,
    saved: Option<[Operand; 2]>,
}

impl Kernel for Forward {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Part { features, width, lanes, at: [all, one] } = self.part;
        let (gates, y, saved) = (self.gates.rows(all), self.y.rows(all), self.saved.map(|x| x.map(|x| x.rows(all))));
        let (hidden, state) = (self.hidden.rows(one), self.state.rows(one));
        for f in features {
            let [r_at, z_at, n_at] = [0, 1, 2].map(|gate| gates.of(gate * width + f));
            let [hidden_r, hidden_z, hidden_n] = [0, 1, 2].map(|gate| hidden.of(gate * width + f));
            let (state, y, saved) = (state.of(f), y.of(f), saved.map(|x| x.map(|x| x.of(f))));
            for i in (0..lanes).step_by(I::LANES) {
                // SAFETY: `Checked` says that operands of all steps have this step's lanes, and others the strip's; a row of a
                // strip has `lanes` floats, a multiple of LANES. Tasks differ in features or strip.
                unsafe {
                    let r = sigmoid(isa, isa.add(isa.load(r_at.add(i)), isa.load(hidden_r.add(i))));
                    let z = sigmoid(isa, isa.add(isa.load(z_at.add(i)), isa.load(hidden_z.add(i))));
                    let from_hidden = isa.load(hidden_n.add(i));
                    let n = tanh(isa, isa.mul_add(r, from_hidden, isa.load(n_at.add(i))));
                    let previous = isa.load(state.add(i));
                    let h = isa.mul_add(z, isa.sub(previous, n), n);
                    isa.store(state.add(i), h);
                    isa.store(y.add(i), h);
                    if let Some([previous_at, hidden_at]) = saved {
                        isa.store(r_at.add(i), r);
                        isa.store(z_at.add(i), z);
                        isa.store(n_at.add(i), n);
                        isa.store(previous_at.add(i), previous);
                        isa.store(hidden_at.add(i), from_hidden);
                    }
                }
            }
        }
    }
}

pub(super) fn backward(cpu: &Cpu, steps: Steps, call: GruStepGrad<'_, Cpu>) {
    let GruStepGrad { step, dy, gates, previous, hidden_n, product, carried, hidden, all_hidden } = call;
    let work = Work { isa: cpu.isa, steps, step, features: carried.layout.features() };
    let [dy, previous, hidden_n, product] = [dy, previous, hidden_n, product].map(Operand::reads);
    let [gates, carried, hidden, all_hidden] = [gates, carried, hidden, all_hidden].map(Operand::writes);
    work.each_part(cpu, |part| Backward { part, dy, gates, previous, hidden_n, product, carried, hidden, all_hidden });
}

struct Backward {
    part: Part,
    dy: Operand,
    gates: Operand,
    previous: Operand,
    hidden_n: Operand,
    product: Operand,
    carried: Operand,
    hidden: Operand,
    all_hidden: Operand,
}

impl Kernel for Backward {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Part { features, width, lanes, at: [all, one] } = self.part;
        let [dy, gates, previous, hidden_n, all_hidden] =
            [self.dy, self.gates, self.previous, self.hidden_n, self.all_hidden].map(|x| x.rows(all));
        let [product, carried, hidden] = [self.product, self.carried, self.hidden].map(|x| x.rows(one));
        for f in features {
            let [r_at, z_at, n_at] = [0, 1, 2].map(|gate| gates.of(gate * width + f));
            let [hidden_r, hidden_z, hidden_n_at] = [0, 1, 2].map(|gate| hidden.of(gate * width + f));
            let [all_r, all_z, all_n] = [0, 1, 2].map(|gate| all_hidden.of(gate * width + f));
            let [dy, previous, hidden_n, product, carried] =
                [dy, previous, hidden_n, product, carried].map(|x| x.of(f));
            for i in (0..lanes).step_by(I::LANES) {
                // SAFETY: as forward.
                unsafe {
                    let d = isa.add(isa.load(dy.add(i)), isa.add(isa.load(product.add(i)), isa.load(carried.add(i))));
                    let (r, z, n) = (isa.load(r_at.add(i)), isa.load(z_at.add(i)), isa.load(n_at.add(i)));
                    let one_z = complement(isa, z);
                    let slope = complement(isa, isa.mul(n, n));
                    let dn = isa.mul(isa.mul(d, one_z), slope);
                    let dz = isa.mul(isa.mul(d, isa.sub(isa.load(previous.add(i)), n)), isa.mul(z, one_z));
                    let dr = isa.mul(isa.mul(dn, isa.load(hidden_n.add(i))), isa.mul(r, complement(isa, r)));
                    let hidden_dn = isa.mul(dn, r);
                    isa.store(carried.add(i), isa.mul(d, z));
                    for (to, value) in [
                        (r_at, dr),
                        (z_at, dz),
                        (n_at, dn),
                        (hidden_r, dr),
                        (hidden_z, dz),
                        (hidden_n_at, hidden_dn),
                        (all_r, dr),
                        (all_z, dz),
                        (all_n, hidden_dn),
                    ] {
                        isa.store(to.add(i), value);
                    }
                }
            }
        }
    }
}
