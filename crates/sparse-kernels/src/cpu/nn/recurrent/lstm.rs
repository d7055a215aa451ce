//! A step of a long short-term memory, and its gradient. The equations are those of `Recurrent`.

use super::super::sigmoid::sigmoid;
use super::super::tanh::tanh;
use super::part::{Operand, Part, Work, complement};
use crate::backend::{LstmStep, LstmStepGrad, Steps};
use crate::cpu::Cpu;
use crate::cpu::isa::{Isa, Kernel, array_of};

pub(super) fn forward(cpu: &Cpu, steps: Steps, call: LstmStep<'_, Cpu>) {
    let LstmStep { step, gates, hidden, state, cell, y, saved } = call;
    let work = Work { isa: cpu.isa, steps, step, features: state.layout.features() };
    let hidden = Operand::reads(hidden);
    let [gates, state, cell, y] = [gates, state, cell, y].map(Operand::writes);
    let saved = saved.map(|saved| [Operand::writes(saved.previous), Operand::writes(saved.previous_cell)]);
    work.each_part(cpu, |part| Forward { part, gates, hidden, state, cell, y, saved });
}

struct Forward {
    part: Part,
    gates: Operand,
    hidden: Operand,
    state: Operand,
    cell: Operand,
    y: Operand,
    saved: Option<[Operand; 2]>,
}

impl Kernel for Forward {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Part { features, width, lanes, at: [all, one] } = self.part;
        let (gates, y, saved) = (self.gates.rows(all), self.y.rows(all), self.saved.map(|x| x.map(|x| x.rows(all))));
        let [hidden, state, cell] = [self.hidden, self.state, self.cell].map(|x| x.rows(one));
        for f in features {
            let gates_at = [0, 1, 2, 3].map(|gate| gates.of(gate * width + f));
            let hidden = [0, 1, 2, 3].map(|gate| hidden.of(gate * width + f));
            let (y, saved) = (y.of(f), saved.map(|x| x.map(|x| x.of(f))));
            let [state, cell] = [state, cell].map(|x| x.of(f));
            for at in (0..lanes).step_by(I::LANES) {
                // SAFETY: `Checked` says that operands of all steps have this step's lanes, and others the strip's; a row of a
                // strip has `lanes` floats, a multiple of LANES. Tasks differ in features or strip.
                unsafe {
                    let [i, f, g, o] =
                        array_of(|k| isa.add(isa.load(gates_at[k].add(at)), isa.load(hidden[k].add(at))));
                    let (i, f, g, o) = (sigmoid(isa, i), sigmoid(isa, f), tanh(isa, g), sigmoid(isa, o));
                    let previous = isa.load(cell.add(at));
                    let c = next_cell(isa, [i, f, g], previous);
                    let h = isa.mul(o, tanh(isa, c));
                    if let Some([previous_at, cell_at]) = saved {
                        isa.store(previous_at.add(at), isa.load(state.add(at)));
                        isa.store(cell_at.add(at), previous);
                        for (to, gate) in gates_at.into_iter().zip([i, f, g, o]) {
                            isa.store(to.add(at), gate);
                        }
                    }
                    isa.store(cell.add(at), c);
                    isa.store(state.add(at), h);
                    isa.store(y.add(at), h);
                }
            }
        }
    }
}

/// `f · c + i · g`, the same numbers forward and backward.
#[inline(always)]
fn next_cell<I: Isa>(isa: I, [i, f, g]: [I::V; 3], previous: I::V) -> I::V {
    isa.mul_add(f, previous, isa.mul(i, g))
}

pub(super) fn backward(cpu: &Cpu, steps: Steps, call: LstmStepGrad<'_, Cpu>) {
    let LstmStepGrad { step, dy, gates, previous_cell, product, carried, hidden } = call;
    let work = Work { isa: cpu.isa, steps, step, features: carried.layout.features() };
    let [dy, previous_cell, product] = [dy, previous_cell, product].map(Operand::reads);
    let [gates, carried, hidden] = [gates, carried, hidden].map(Operand::writes);
    work.each_part(cpu, |part| Backward { part, dy, gates, previous_cell, product, carried, hidden });
}

struct Backward {
    part: Part,
    dy: Operand,
    gates: Operand,
    previous_cell: Operand,
    product: Operand,
    carried: Operand,
    hidden: Operand,
}

impl Kernel for Backward {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let Part { features, width, lanes, at: [all, one] } = self.part;
        let [dy, gates, previous_cell] = [self.dy, self.gates, self.previous_cell].map(|x| x.rows(all));
        let [product, carried, hidden] = [self.product, self.carried, self.hidden].map(|x| x.rows(one));
        for f in features {
            let gates_at = [0, 1, 2, 3].map(|gate| gates.of(gate * width + f));
            let hidden = [0, 1, 2, 3].map(|gate| hidden.of(gate * width + f));
            let [dy, previous_cell, product, carried] = [dy, previous_cell, product, carried].map(|x| x.of(f));
            for at in (0..lanes).step_by(I::LANES) {
                // SAFETY: as forward.
                unsafe {
                    let [i, f, g, o] = array_of(|k| isa.load(gates_at[k].add(at)));
                    let previous = isa.load(previous_cell.add(at));
                    let squashed = tanh(isa, next_cell(isa, [i, f, g], previous));
                    let d = isa.add(isa.load(dy.add(at)), isa.load(product.add(at)));
                    let slope = isa.mul(o, complement(isa, isa.mul(squashed, squashed)));
                    let e = isa.mul_add(d, slope, isa.load(carried.add(at)));
                    let gradients = [
                        isa.mul(isa.mul(e, g), isa.mul(i, complement(isa, i))),
                        isa.mul(isa.mul(e, previous), isa.mul(f, complement(isa, f))),
                        isa.mul(isa.mul(e, i), complement(isa, isa.mul(g, g))),
                        isa.mul(isa.mul(d, squashed), isa.mul(o, complement(isa, o))),
                    ];
                    isa.store(carried.add(at), isa.mul(e, f));
                    for ((all, one), gradient) in gates_at.into_iter().zip(hidden).zip(gradients) {
                        isa.store(all.add(at), gradient);
                        isa.store(one.add(at), gradient);
                    }
                }
            }
        }
    }
}
