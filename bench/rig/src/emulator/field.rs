//! Values of a profile as they stand in the file, checked one by one: an error names field, value and what it may be.

use std::time::Duration;

use serde::Deserialize;

use super::profile::{Burst, LanePatch, MtuAnswer, ProfileError, Share};

/// Longest delay, jitter, queue.
const LONGEST: Duration = Duration::from_secs(60);
/// Rates that a relay may be asked for, Mbit/s.
const RATE_MBIT_S: (f64, f64) = (0.001, 100_000.0);
/// Octets of an IP packet that a path may refuse: IPv4's least to Ethernet's jumbo frames.
const MTU: (u16, u16) = (68, 9_000);

/// One direction, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLane {
    delay: Option<String>,
    jitter: Option<String>,
    loss_percent: Option<f64>,
    burst: Option<RawBurst>,
    reorder_percent: Option<f64>,
    reorder_by: Option<String>,
    duplicate_percent: Option<f64>,
    rate_mbit_s: Option<f64>,
    queue: Option<String>,
    mtu: Option<u16>,
    mtu_answer: Option<String>,
    blackhole: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBurst {
    enter_percent: f64,
    leave_percent: f64,
    loss_percent: f64,
}

impl RawLane {
    /// The same, checked; `place` is where it stands, as in `up`.
    pub(super) fn check(&self, place: &str) -> Result<LanePatch, ProfileError> {
        let at = |name: &str| format!("{place}.{name}");
        let time = |name: &str, value: &Option<String>| {
            value.as_deref().map(|text| duration(&at(name), text, Duration::ZERO, LONGEST)).transpose()
        };
        let share =
            |name: &str, value: Option<f64>| value.map(|percent| share(&at(name), percent)).transpose();
        let burst = self.burst.as_ref().map(|burst| burst.check(&at("burst"))).transpose()?;
        Ok(LanePatch {
            delay: time("delay", &self.delay)?,
            jitter: time("jitter", &self.jitter)?,
            loss: share("loss_percent", self.loss_percent)?,
            burst,
            reorder: share("reorder_percent", self.reorder_percent)?,
            reorder_by: time("reorder_by", &self.reorder_by)?,
            duplicate: share("duplicate_percent", self.duplicate_percent)?,
            rate_bit_s: self.rate_mbit_s.map(|rate| rate_bit_s(&at("rate_mbit_s"), rate)).transpose()?,
            queue: time("queue", &self.queue)?,
            mtu: self.mtu.map(|octets| mtu(&at("mtu"), octets)).transpose()?,
            mtu_answer: self.mtu_answer.as_deref().map(|text| answer(&at("mtu_answer"), text)).transpose()?,
            blackhole: self.blackhole,
        })
    }
}

impl RawBurst {
    fn check(&self, place: &str) -> Result<Burst, ProfileError> {
        let at = |name: &str, percent| share(&format!("{place}.{name}"), percent);
        let burst = Burst {
            enter: at("enter_percent", self.enter_percent)?,
            leave: at("leave_percent", self.leave_percent)?,
            loss: at("loss_percent", self.loss_percent)?,
        };
        if burst.leave == Share::NONE {
            let text = "more than 0 to 100 (a burst that never ends is a blackhole)";
            return Err(ProfileError::new(&format!("{place}.leave_percent"), self.leave_percent, text));
        }
        Ok(burst)
    }
}

/// A duration between two bounds, written as "25ms".
pub(super) fn duration(
    field: &str,
    text: &str,
    least: Duration,
    most: Duration,
) -> Result<Duration, ProfileError> {
    let found = humantime::parse_duration(text).ok().filter(|time| (least..=most).contains(time));
    found.ok_or_else(|| {
        let [least, most] = [least, most].map(humantime::format_duration);
        ProfileError::new(
            field,
            format_args!("{text:?}"),
            &format!("a time from {least} to {most}, as \"25ms\""),
        )
    })
}

fn share(field: &str, percent: f64) -> Result<Share, ProfileError> {
    Share::from_percent(percent).ok_or_else(|| ProfileError::new(field, percent, "0 to 100"))
}

fn rate_bit_s(field: &str, mbit_s: f64) -> Result<u64, ProfileError> {
    let (least, most) = RATE_MBIT_S;
    if !(least..=most).contains(&mbit_s) {
        return Err(ProfileError::new(field, mbit_s, &format!("{least} to {most}")));
    }
    Ok((mbit_s * 1e6) as u64)
}

fn mtu(field: &str, octets: u16) -> Result<u16, ProfileError> {
    let (least, most) = MTU;
    let fits = (least..=most).contains(&octets);
    fits.then_some(octets).ok_or_else(|| ProfileError::new(field, octets, &format!("{least} to {most}")))
}

fn answer(field: &str, text: &str) -> Result<MtuAnswer, ProfileError> {
    match text {
        "silent" => Ok(MtuAnswer::Silent),
        "icmp" => Ok(MtuAnswer::Icmp),
        _ => Err(ProfileError::new(field, format_args!("{text:?}"), "\"silent\" or \"icmp\"")),
    }
}
