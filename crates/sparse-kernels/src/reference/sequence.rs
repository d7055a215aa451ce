//! Operations of sequence models: row-major `[feature][lane]` operands, f64 sums.

/// `x[f, n] = table[tokens[n], f] + positions[n % length, f]`; one rounding, so kernels must agree exactly. NaN where a token
/// is no symbol.
pub fn embed(features: usize, table: &[f32], positions: Option<(&[f32], usize)>, tokens: &[u32]) -> Vec<f32> {
    let symbols = table.len() / features;
    let at = |f: usize, lane: usize| match tokens[lane] as usize {
        token if token >= symbols => f32::NAN,
        token => {
            let place = positions.map_or(0.0, |(positions, length)| positions[lane % length * features + f]);
            table[token * features + f] + place
        }
    };
    (0..features).flat_map(|f| (0..tokens.len()).map(move |lane| at(f, lane))).collect()
}

/// Of `nrows` rows, each the sum of `dx[f, n]` over the lanes of `rows` that name it.
pub fn embed_grad(features: usize, nrows: usize, rows: &[usize], dx: &[f32]) -> Vec<f64> {
    let mut grad = vec![0.0; nrows * features];
    for (i, &dx) in dx.iter().enumerate() {
        let (f, row) = (i / rows.len(), rows[i % rows.len()]);
        if row < nrows {
            grad[row * features + f] += f64::from(dx);
        }
    }
    grad
}
