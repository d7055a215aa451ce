//! Means and deviations of few numbers.

/// Mean and sample standard deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// How many numbers.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// `sqrt(Σ (x − mean)² / (count − 1))`; none of one number.
    pub deviation: Option<f64>,
    /// The smallest one.
    pub min: f64,
    /// The largest one.
    pub max: f64,
}

/// At most `most` of the indices `0..count`, evenly, with the first and the last.
pub(super) fn evenly(count: usize, most: usize) -> impl Iterator<Item = usize> {
    let kept = count.min(most);
    let gaps = kept.saturating_sub(1).max(1);
    (0..kept).map(move |i| (i * (count - 1) + gaps / 2) / gaps)
}

impl Sample {
    /// Of `values`; `None` if there are none.
    ///
    /// ```
    /// use trainer::comparison::Sample;
    /// let sample = Sample::of([1.0, 2.0, 6.0]).unwrap();
    /// assert_eq!((sample.mean, sample.deviation), (3.0, Some(7f64.sqrt())));
    /// assert_eq!(Sample::of([4.0]).unwrap().deviation, None);
    /// ```
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let values: Vec<f64> = values.into_iter().collect();
        let count = values.len();
        if count == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / count as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (count > 1).then(|| (squares / (count - 1) as f64).sqrt());
        let (min, max) = values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
        Some(Self { count, mean, deviation, min, max })
    }

    /// Deviation of the mean: `deviation / sqrt(count)`.
    pub fn standard_error(&self) -> Option<f64> {
        self.deviation.map(|deviation| deviation / (self.count as f64).sqrt())
    }

    /// The deviation, 0 of one number: for intervals in plots.
    pub fn spread(&self) -> f64 {
        self.deviation.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::evenly;

    #[test]
    fn chosen_indices_are_even_and_hold_both_ends() {
        let chosen = |count, most| evenly(count, most).collect::<Vec<_>>();
        assert_eq!(chosen(11, 4), [0, 3, 7, 10]);
        assert_eq!(chosen(3, 4), [0, 1, 2]);
        assert_eq!((chosen(0, 4), chosen(1, 4)), (vec![], vec![0]));
        assert_eq!((chosen(1000, 120).len(), chosen(1000, 120)[119]), (120, 999));
    }
}
