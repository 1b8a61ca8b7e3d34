//! Whose delays the paths of a run have: those that are asked for, or the profile's own.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use jvpn_rig::emulator::Profile;
use serde::{Deserialize, Serialize};

/// Longest round-trip time that a run is made for, ms: what waits in it is made for no more.
const LONGEST_MS: u64 = 2_000;

/// Whose delays the paths have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delays {
    /// Half of the round-trip time that was asked for, each way.
    #[default]
    Asked,
    /// The profile's own, which may differ each way.
    Profile,
}

impl Delays {
    /// As it stands in a result.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Profile => "profile",
        }
    }

    /// The profile as the paths of a run at this round-trip time have it.
    pub(super) fn apply(self, profile: Profile, rtt_ms: u64) -> Profile {
        match self {
            Self::Asked => profile.with_round_trip(Duration::from_millis(rtt_ms)),
            Self::Profile => profile,
        }
    }
}

/// What `--rtt` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundTrip {
    /// So many ms, half of it each way.
    Ms(u64),
    /// What the profile says.
    Profile,
}

impl RoundTrip {
    /// Round-trip times and whose they are.
    ///
    /// # Errors
    /// The profile's own beside others, or longer than a run is made for.
    pub fn resolve(asked: &[Self], profile: &Profile) -> Result<(Vec<u64>, Delays)> {
        if let [Self::Profile] = asked {
            let ms = u64::try_from(profile.round_trip().as_millis()).unwrap_or(u64::MAX);
            ensure!(
                ms <= LONGEST_MS,
                "--rtt profile: {} takes {ms} ms there and back, a run at most {LONGEST_MS}",
                profile.name
            );
            return Ok((vec![ms], Delays::Profile));
        }
        let ms = asked.iter().map(|one| match one {
            Self::Ms(ms) => Ok(*ms),
            Self::Profile => {
                bail!("--rtt profile stands alone: the paths of a run have its delays or those that are asked for")
            }
        });
        Ok((ms.collect::<Result<_>>()?, Delays::Asked))
    }
}

impl FromStr for RoundTrip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "profile" {
            return Ok(Self::Profile);
        }
        let ms = text.parse().ok().filter(|ms| *ms <= LONGEST_MS);
        ms.map(Self::Ms)
            .ok_or_else(|| format!("0 to {LONGEST_MS} ms, or `profile`: the profile's own delays"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R7.1: a profile's own delays can be had, each way its own; beside others they cannot.
    #[test]
    fn r7_1_a_profile_keeps_its_own_delays_if_asked() {
        let satellite = Profile::load("satellite").unwrap();
        let parse = |text: &str| text.parse::<RoundTrip>();
        let own = parse("profile").unwrap();
        let (rtts, delays) = RoundTrip::resolve(&[own], &satellite).unwrap();
        assert_eq!((rtts.as_slice(), delays), ([550].as_slice(), Delays::Profile));
        let path = delays.apply(satellite.clone(), 550);
        assert_eq!((path.up.delay.as_millis(), path.down.delay.as_millis()), (280, 270));
        let asked: Vec<_> = ["5", "2000"].map(|text| parse(text).unwrap()).into();
        let (rtts, delays) = RoundTrip::resolve(&asked, &satellite).unwrap();
        assert_eq!((rtts.as_slice(), delays), ([5, 2_000].as_slice(), Delays::Asked));
        let path = delays.apply(satellite.clone(), 2_000);
        assert_eq!((path.up.delay.as_millis(), path.down.delay.as_millis()), (1_000, 1_000));
        let error = RoundTrip::resolve(&[own, asked[0]], &satellite).unwrap_err().to_string();
        assert!(error.contains("stands alone"), "{error}");
        for wrong in ["2001", "-1", "fast", ""] {
            assert!(parse(wrong).unwrap_err().contains("0 to 2000"), "{wrong}");
        }
        let far = Profile::parse("name = \"moon\"\n[up]\ndelay = \"1300ms\"\n[down]\ndelay = \"1300ms\"\n")
            .unwrap();
        let error = RoundTrip::resolve(&[own], &far).unwrap_err().to_string();
        assert!(error.contains("moon") && error.contains("2600"), "{error}");
    }
}
