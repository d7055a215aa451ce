//! Which symbol comes next.

use sparse_kernels::random::Key;

/// How a symbol is chosen by a network's outputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// What outputs are divided by: below 1 likely symbols become likelier, at 0 the likeliest is chosen.
    pub temperature: f64,
    /// How many of the likeliest symbols may be chosen.
    pub top_k: Option<usize>,
    /// What decides.
    pub seed: u64,
}

impl Choice {
    /// The symbol at this place of the text: symbol `i` with a probability of `exp(outputs[i] / temperature)`, up to a factor, if it is
    /// among the likeliest. Of equally likely ones the lower is preferred. None if no output is finite.
    ///
    /// ```
    /// use trainer::sample::Choice;
    /// let choice = Choice { temperature: 0.0, top_k: None, seed: 0 };
    /// assert_eq!(choice.symbol(&[0.5, 2.0, 2.0], 0), Some(1));
    /// ```
    pub fn symbol(&self, outputs: &[f32], place: u64) -> Option<usize> {
        let mut ranked: Vec<usize> = (0..outputs.len()).filter(|&symbol| outputs[symbol].is_finite()).collect();
        ranked.sort_by(|&a, &b| outputs[b].total_cmp(&outputs[a]).then(a.cmp(&b)));
        ranked.truncate(self.top_k.unwrap_or(usize::MAX).max(1));
        let first = *ranked.first()?;
        if self.temperature == 0.0 {
            return Some(first);
        }
        let weight =
            |&symbol: &usize| ((f64::from(outputs[symbol]) - f64::from(outputs[first])) / self.temperature).exp();
        let weights: Vec<f64> = ranked.iter().map(weight).collect();
        // 53 random bits in [0, 1).
        let bits = Key::new(self.seed).with_name("sample").bits(place) >> 11;
        let mut left = bits as f64 / (1u64 << 53) as f64 * weights.iter().sum::<f64>();
        let chosen = weights.iter().position(|weight| {
            left -= weight;
            left < 0.0
        });
        // Rounding may leave a rest behind the last.
        Some(chosen.map_or(ranked[ranked.len() - 1], |at| ranked[at]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each symbol is chosen at 4000 places.
    fn counts(choice: Choice, outputs: &[f32]) -> Vec<usize> {
        let mut counts = vec![0; outputs.len()];
        (0..4000).for_each(|place| counts[choice.symbol(outputs, place).unwrap()] += 1);
        counts
    }

    #[test]
    fn symbols_come_as_often_as_they_are_likely() {
        let outputs = [0.0, 2.0f32.ln(), f32::NEG_INFINITY, 5.0f32.ln()];
        let choice = Choice { temperature: 1.0, top_k: None, seed: 3 };
        let near = |counts: &[usize], shares: [f64; 4]| {
            counts.iter().zip(shares).all(|(&count, share)| (count as f64 / 4000.0 - share).abs() < 0.03)
        };
        assert!(near(&counts(choice, &outputs), [0.125, 0.25, 0.0, 0.625]));
        assert!(near(&counts(Choice { top_k: Some(2), ..choice }, &outputs), [0.0, 2.0 / 7.0, 0.0, 5.0 / 7.0]));
        // Half the temperature squares the shares.
        assert!(near(
            &counts(Choice { temperature: 0.5, ..choice }, &outputs),
            [1.0 / 30.0, 4.0 / 30.0, 0.0, 25.0 / 30.0]
        ));
        assert_eq!(counts(Choice { temperature: 0.0, ..choice }, &outputs)[3], 4000);
        assert_eq!(counts(Choice { top_k: Some(1), ..choice }, &outputs)[3], 4000);
    }

    #[test]
    fn seed_and_place_decide() {
        let outputs = [0.1f32; 50];
        let text = |seed| {
            let choice = Choice { temperature: 1.0, top_k: None, seed };
            (0..20).map(|place| choice.symbol(&outputs, place)).collect::<Vec<_>>()
        };
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
        let choice = Choice { temperature: 1e-300, top_k: None, seed: 0 };
        assert_eq!(choice.symbol(&[1.0, 3.0, 2.0], 0), Some(1));
        assert_eq!(choice.symbol(&[f32::NAN, f32::INFINITY], 0), None);
    }
}
