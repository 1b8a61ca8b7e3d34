//! Welch's t-test of two classes of times, as they are and without their slowest parts.

use super::Class;

/// One timed call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) class: Class,
    pub(super) took_ns: f64,
}

/// Parts of the samples, fastest first, that are tested by themselves: interrupts are slow and hide what is small.
const PARTS: [f64; 4] = [1.0, 0.95, 0.8, 0.5];

/// The t of the part that shows the most.
pub(super) fn strongest(samples: &[Sample]) -> f64 {
    let mut times: Vec<f64> = samples.iter().map(|sample| sample.took_ns).collect();
    times.sort_by(f64::total_cmp);
    let tests = PARTS.map(|part| {
        let place = ((times.len() as f64 * part) as usize).min(times.len()).saturating_sub(1);
        let limit = times.get(place).copied().unwrap_or(f64::MAX);
        welch(samples.iter().filter(|sample| sample.took_ns <= limit))
    });
    tests.into_iter().fold(0.0, |most: f64, t| if t.abs() > most.abs() { t } else { most })
}

/// Count, mean and sum of squared differences from it, as they grow (Welford).
#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let before = value - self.mean;
        self.mean += before / self.count;
        self.squares += before * (value - self.mean);
    }

    fn variance_of_mean(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// Welch's t: the difference of the means over its standard error. 0 if there is nothing to compare.
fn welch<'a>(samples: impl Iterator<Item = &'a Sample>) -> f64 {
    let (mut first, mut last) = (Moments::default(), Moments::default());
    for sample in samples {
        match sample.class {
            Class::First => first.add(sample.took_ns),
            Class::Last => last.add(sample.took_ns),
        }
    }
    if first.count < 2.0 || last.count < 2.0 {
        return 0.0;
    }
    let error = (first.variance_of_mean() + last.variance_of_mean()).sqrt();
    if error == 0.0 { 0.0 } else { (last.mean - first.mean) / error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(class: Class, times: &[f64]) -> impl Iterator<Item = Sample> {
        times.iter().map(move |took_ns| Sample { class, took_ns: *took_ns })
    }

    /// A known case: means 2 and 4, variances 1 and 4, three values each: t = 2 / sqrt(1/3 + 4/3).
    #[test]
    fn t_is_welchs() {
        let all: Vec<_> =
            samples(Class::First, &[1.0, 2.0, 3.0]).chain(samples(Class::Last, &[2.0, 4.0, 6.0])).collect();
        assert!((welch(all.iter()) - 2.0 / (5.0_f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(welch(all.iter().take(3)), 0.0, "one class alone is nothing to compare");
    }

    /// R2.5: two nanoseconds of a hundred are found below noise of interrupts, and equal classes are not told apart.
    #[test]
    fn r2_5_a_small_difference_is_found_under_outliers_and_none_where_none_is() {
        let noise = |n: u32| f64::from(n.wrapping_mul(2_654_435_761) >> 24) / 16.0;
        let made = |gap: f64| -> Vec<Sample> {
            let one = |n: u32| {
                let class = if n.wrapping_mul(40_503) & 256 == 0 { Class::First } else { Class::Last };
                let slow = if n.is_multiple_of(97) { 5_000.0 * noise(n + 1) } else { 0.0 };
                let own = if class == Class::Last { gap } else { 0.0 };
                Sample { class, took_ns: 100.0 + noise(n) + own + slow }
            };
            (0..20_000).map(one).collect()
        };
        assert!(strongest(&made(2.0)) > 10.0);
        assert!(strongest(&made(0.0)).abs() < 4.5);
    }
}
