//! The highest rate at which next to nothing is lost, by bisection.

use anyhow::Result;

use super::bulk::Shot;

/// Loss above which a rate does not count.
pub const LOSS_MAX: f64 = 0.01;
/// Steps of the search: to 1/64 of the range.
const STEPS: u32 = 6;

/// Datagrams per second. `shot` sends at a rate, or as fast as it can, and says what became of it.
///
/// # Errors
/// Those of `shot`.
pub fn highest_rate(mut shot: impl FnMut(Option<f64>) -> Result<Shot>) -> Result<f64> {
    let all = shot(None)?;
    if all.loss() < LOSS_MAX {
        return Ok(all.rate());
    }
    let (mut low, mut high, mut best) = (0.0, all.rate() * 1.3, 0.0f64);
    for _ in 0..STEPS {
        let rate = f64::midpoint(low, high);
        let shot = shot(Some(rate))?;
        if shot.loss() < LOSS_MAX {
            best = best.max(shot.rate());
            low = rate;
        } else {
            high = rate;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A wire that takes `most` per second and loses the rest.
    fn wire(most: f64) -> impl FnMut(Option<f64>) -> Result<Shot> {
        move |rate| {
            let sent = rate.unwrap_or(1e6);
            Ok(Shot { sent: sent as u64, arrived: sent.min(most) as u64, took: Duration::from_secs(1) })
        }
    }

    #[test]
    fn the_rate_is_found_to_a_sixtyfourth() {
        let found = highest_rate(wire(70_000.0)).unwrap();
        assert!((68_000.0..=70_001.0).contains(&found), "{found}");
        assert_eq!(highest_rate(wire(2e6)).unwrap(), 1e6, "nothing was lost at all");
        assert_eq!(highest_rate(wire(0.0)).unwrap(), 0.0, "nothing comes through");
    }
}
