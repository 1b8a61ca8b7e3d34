//! Quantiles with their confidence, and whether two runs differ.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// How often a bootstrap draws.
const RESAMPLES: usize = 2_000;

/// The value that a share `quantile` of the sorted values does not exceed (nearest rank); 0 if there are none.
#[must_use]
pub(crate) fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).or(sorted.last()).copied().unwrap_or_default()
}

/// The value in the middle, the lower of two; 0 if there are none.
#[must_use]
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile(&sorted, 0.5)
}

/// Values that belong together: those of clients that one incident struck.
pub(super) type Incident = Vec<f64>;

/// 95 % confidence intervals of quantiles, by resampling whole incidents (percentile bootstrap): values of one incident
/// are no independent witnesses. The same values and seed give the same intervals.
#[must_use]
pub(super) fn bootstrap<const N: usize>(
    incidents: &[Incident],
    quantiles: [f64; N],
    seed: u64,
) -> [[f64; 2]; N] {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(RESAMPLES));
    if incidents.is_empty() {
        return [[0.0; 2]; N];
    }
    let mut sample = Vec::new();
    for _ in 0..RESAMPLES {
        sample.clear();
        for _ in 0..incidents.len() {
            let index = (random.next_u64() % incidents.len() as u64) as usize;
            sample.extend_from_slice(incidents.get(index).map_or(&[], Vec::as_slice));
        }
        sample.sort_by(f64::total_cmp);
        for (values, share) in drawn.iter_mut().zip(quantiles) {
            values.push(quantile(&sample, share));
        }
    }
    drawn.map(|mut values| {
        values.sort_by(f64::total_cmp);
        [quantile(&values, 0.025), quantile(&values, 0.975)]
    })
}

/// 95 % confidence interval of a share, by Wilson's score.
#[must_use]
pub(super) fn wilson(successes: u64, trials: u64) -> [f64; 2] {
    const Z: f64 = 1.959_964;
    if trials == 0 {
        return [0.0, 1.0];
    }
    let (n, p) = (trials as f64, successes as f64 / trials as f64);
    let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

/// Probability that two samples of one distribution differ in rank as much as these (Mann–Whitney U, two-sided, normal
/// approximation with the correction for ties).
#[must_use]
pub(crate) fn mann_whitney(a: &[f64], b: &[f64]) -> f64 {
    let (n, m) = (a.len() as f64, b.len() as f64);
    if a.is_empty() || b.is_empty() {
        return 1.0;
    }
    let mut all: Vec<_> =
        a.iter().map(|value| (*value, true)).chain(b.iter().map(|value| (*value, false))).collect();
    all.sort_by(|x, y| x.0.total_cmp(&y.0));
    let (mut rank_sum, mut ties, mut at) = (0.0, 0.0, 0);
    while let Some((value, _)) = all.get(at) {
        let group = all.iter().skip(at).take_while(|(other, _)| other == value).count();
        let (count, first) = (group as f64, at as f64 + 1.0);
        let rank = first + (count - 1.0) / 2.0;
        let ours = all.iter().skip(at).take(group).filter(|(_, is_a)| *is_a).count();
        rank_sum += rank * ours as f64;
        ties += count.powi(3) - count;
        at += group;
    }
    let total = n + m;
    let u = rank_sum - n * (n + 1.0) / 2.0;
    let variance = n * m / 12.0 * ((total + 1.0) - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let z = ((u - n * m / 2.0).abs() - 0.5).max(0.0) / variance.sqrt();
    (2.0 * upper_tail(z)).min(1.0)
}

/// Share of a standard normal distribution above `z` ≥ 0 (Abramowitz and Stegun 26.2.17; error below 1e-7).
fn upper_tail(z: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * z);
    let series = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_53];
    let sum = series.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    sum * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_of_the_sample() {
        let values: Vec<_> = (1..=100).map(f64::from).collect();
        assert_eq!([0.5, 0.95, 0.99, 1.0].map(|q| quantile(&values, q)), [50.0, 95.0, 99.0, 100.0]);
        assert_eq!((quantile(&[7.0], 0.99), quantile(&[], 0.5)), (7.0, 0.0));
    }

    #[test]
    fn intervals_hold_the_truth_and_narrow_with_more() {
        let sample = |count: usize| -> Vec<Incident> {
            let mut random = ChaCha8Rng::seed_from_u64(3);
            (0..count).map(|_| vec![(random.next_u32() % 1_000) as f64]).collect()
        };
        let width = |count| {
            let [[low, high]] = bootstrap(&sample(count), [0.5], 1);
            assert!(low <= 500.0 && 500.0 <= high, "{low} {high}");
            high - low
        };
        assert!(width(400) < width(40) / 2.0);
        assert_eq!(bootstrap(&sample(40), [0.5], 1), bootstrap(&sample(40), [0.5], 1));
    }

    #[test]
    fn clients_of_one_incident_are_one_witness() {
        let alone: Vec<Incident> = (0..40).map(|n| vec![f64::from(n)]).collect();
        let together: Vec<Incident> = (0..10).map(|n| vec![f64::from(n) * 4.0; 4]).collect();
        let width = |incidents| bootstrap(incidents, [0.5], 1).map(|[low, high]| high - low)[0];
        assert!(
            width(&together) > width(&alone),
            "forty values of ten incidents say less than forty of forty"
        );
    }

    #[test]
    fn shares_have_known_intervals() {
        // Of R's binom.wilson(95, 100) and (30, 30).
        let near = |found: [f64; 2], wanted: [f64; 2]| {
            found.iter().zip(wanted).all(|(found, wanted)| (found - wanted).abs() < 1e-3)
        };
        assert!(near(wilson(95, 100), [0.8882, 0.9785]));
        assert!(near(wilson(30, 30), [0.8865, 1.0]));
        assert_eq!(wilson(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn ranks_tell_a_shift_from_noise() {
        let a: Vec<_> = (0..30).map(f64::from).collect();
        let shifted: Vec<_> = a.iter().map(|value| value + 15.0).collect();
        assert!(mann_whitney(&a, &shifted) < 1e-4);
        assert!(mann_whitney(&a, &a) > 0.9);
        assert_eq!(mann_whitney(&[1.0; 5], &[1.0; 5]), 1.0, "all alike");
        // By hand: U = 4.5 of 12.5 expected, variance 22.5 with three ties, so z = 7.5 / 4.743.
        assert!((mann_whitney(&[1., 2., 3., 4., 5.], &[3., 4., 5., 6., 7.]) - 0.1138).abs() < 1e-3);
    }
}
