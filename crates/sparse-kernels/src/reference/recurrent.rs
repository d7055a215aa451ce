//! Steps of recurrent layers, of a single sequence and feature: the kernels' equations, number by number.

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// What a step of a gated recurrent unit makes of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gru {
    /// The gates r, z and n.
    pub gates: [f64; 3],
    /// The new state.
    pub state: f64,
}

/// A step of a gated recurrent unit: `gates` are `W · x + b`, `hidden` `U · h + b'` of r, z and n; `previous` is h.
pub fn gru(gates: [f64; 3], hidden: [f64; 3], previous: f64) -> Gru {
    let (r, z) = (sigmoid(gates[0] + hidden[0]), sigmoid(gates[1] + hidden[1]));
    let n = (gates[2] + r * hidden[2]).tanh();
    Gru { gates: [r, z, n], state: (1.0 - z) * n + z * previous }
}

/// The gradient of [`gru`], for the gradient `d` of the new state.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GruGrad {
    /// Of `gates`.
    pub gates: [f64; 3],
    /// Of `hidden`.
    pub hidden: [f64; 3],
    /// Of `previous`, but for what comes by `hidden`.
    pub previous: f64,
}

/// The gradient of [`gru`], from the gates that it found and `hidden` of n.
pub fn gru_grad([r, z, n]: [f64; 3], hidden_n: f64, previous: f64, d: f64) -> GruGrad {
    let dn = d * (1.0 - z) * (1.0 - n * n);
    let dz = d * (previous - n) * z * (1.0 - z);
    let dr = dn * hidden_n * r * (1.0 - r);
    GruGrad { gates: [dr, dz, dn], hidden: [dr, dz, dn * r], previous: d * z }
}

/// What a step of a long short-term memory makes of a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lstm {
    /// The gates i, f, g and o.
    pub gates: [f64; 4],
    /// The new state.
    pub state: f64,
    /// The new cell.
    pub cell: f64,
}

/// A step of a long short-term memory: `sums` are `W · x + b + U · h + b'` of i, f, g and o; `previous` is c.
pub fn lstm(sums: [f64; 4], previous: f64) -> Lstm {
    let [i, f, g, o] = [sigmoid(sums[0]), sigmoid(sums[1]), sums[2].tanh(), sigmoid(sums[3])];
    let cell = f * previous + i * g;
    Lstm { gates: [i, f, g, o], state: o * cell.tanh(), cell }
}

/// The gradient of [`lstm`], for the gradients of the new state and cell: of the sums, and of `previous`.
pub fn lstm_grad([i, f, g, o]: [f64; 4], previous: f64, [d, of_cell]: [f64; 2]) -> ([f64; 4], f64) {
    let squashed = (f * previous + i * g).tanh();
    let e = of_cell + d * o * (1.0 - squashed * squashed);
    let gates =
        [e * g * i * (1.0 - i), e * previous * f * (1.0 - f), e * i * (1.0 - g * g), d * squashed * o * (1.0 - o)];
    (gates, e * f)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central differences of `f` in each of some numbers.
    fn differences<const N: usize>(at: [f64; N], f: impl Fn([f64; N]) -> f64) -> [f64; N] {
        std::array::from_fn(|i| {
            let moved = |by: f64| std::array::from_fn(|j| at[j] + if i == j { by } else { 0.0 });
            (f(moved(1e-5)) - f(moved(-1e-5))) / 2e-5
        })
    }

    #[track_caller]
    fn near(got: &[f64], expected: &[f64]) {
        assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-8), "{got:?} {expected:?}");
    }

    #[test]
    fn gradients_are_those_of_central_differences() {
        let (gates, hidden, previous) = ([0.3, -0.7, 0.4], [-1.1, 0.2, 0.9], 0.6);
        let of = |[a, b, c, d, e, f, h]: [f64; 7]| gru([a, b, c], [d, e, f], h).state * 1.7;
        let found = gru_grad(gru(gates, hidden, previous).gates, hidden[2], previous, 1.7);
        let expected = differences([0.3, -0.7, 0.4, -1.1, 0.2, 0.9, 0.6], of);
        near(&[&found.gates[..], &found.hidden, &[found.previous]].concat(), &expected);

        let (sums, previous) = ([0.3, -0.7, 0.4, 1.2], -0.8);
        let of = |[a, b, c, d, cell]: [f64; 5]| {
            let found = lstm([a, b, c, d], cell);
            1.7 * found.state - 0.6 * found.cell
        };
        let (gates, previous_grad) = lstm_grad(lstm(sums, previous).gates, previous, [1.7, -0.6]);
        near(&[&gates[..], &[previous_grad]].concat(), &differences([0.3, -0.7, 0.4, 1.2, -0.8], of));
    }
}
