//! What a path is like, and how it changes over time.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::field::{self, RawLane};

/// Longest script.
const SCRIPT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Changes of one script.
const CHANGES_MAX: usize = 256;
/// Characters of a profile's name: it stands in every table.
const NAME_MAX: usize = 64;
/// How long a NAT may remember an idle flow.
const NAT_TTL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(24 * 3_600));

/// A share of packets, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// Not one of them.
    pub const NONE: Self = Self(0);
    /// All of them.
    pub const ALL: Self = Self(1_000_000);

    /// So many percent; `None` if that is no share.
    #[must_use]
    pub fn from_percent(percent: f64) -> Option<Self> {
        (0.0..=100.0).contains(&percent).then(|| Self((percent * 1e4).round() as u32))
    }

    /// In millionths.
    #[must_use]
    pub const fn millionths(self) -> u32 {
        self.0
    }

    /// From 0 to 1.
    #[must_use]
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

/// Loss that comes in bursts (Gilbert–Elliott): each packet may enter or leave the bad state, in which loss is high.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burst {
    /// From good to bad, per packet.
    pub enter: Share,
    /// From bad to good, per packet.
    pub leave: Share,
    /// Lost in the bad state.
    pub loss: Share,
}

impl Burst {
    /// The share that is lost in the long run.
    #[must_use]
    pub fn mean_loss(self) -> f64 {
        let (enter, leave) = (self.enter.fraction(), self.leave.fraction());
        if enter + leave == 0.0 { 0.0 } else { enter / (enter + leave) * self.loss.fraction() }
    }
}

/// What the sender of a packet that is too large hears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuAnswer {
    /// Nothing: the black hole of path MTU discovery.
    #[default]
    Silent,
    /// ICMP "fragmentation needed" (RFC 1191), ICMPv6 "packet too big" (RFC 8201).
    Icmp,
}

/// One direction of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LaneSettings {
    /// Time that every packet takes.
    pub delay: Duration,
    /// Up to so much more, evenly spread; packets keep their order.
    pub jitter: Duration,
    /// Lost one by one.
    pub loss: Share,
    /// Lost in bursts.
    pub burst: Option<Burst>,
    /// Held up, so that later ones overtake them …
    pub reorder: Share,
    /// … by this.
    pub reorder_by: Duration,
    /// Delivered twice.
    pub duplicate: Share,
    /// Bits per second of Ethernet frames.
    pub rate_bit_s: Option<u64>,
    /// How long a packet may wait for the line; beyond that it is dropped.
    pub queue: Duration,
    /// Larger IP packets are dropped.
    pub mtu: Option<u16>,
    /// Whether their sender hears of it.
    pub mtu_answer: MtuAnswer,
    /// Everything is lost.
    pub blackhole: bool,
}

/// What changes of one direction; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LanePatch {
    /// See [`LaneSettings::delay`].
    pub delay: Option<Duration>,
    /// See [`LaneSettings::jitter`].
    pub jitter: Option<Duration>,
    /// See [`LaneSettings::loss`].
    pub loss: Option<Share>,
    /// See [`LaneSettings::burst`].
    pub burst: Option<Burst>,
    /// See [`LaneSettings::reorder`].
    pub reorder: Option<Share>,
    /// See [`LaneSettings::reorder_by`].
    pub reorder_by: Option<Duration>,
    /// See [`LaneSettings::duplicate`].
    pub duplicate: Option<Share>,
    /// See [`LaneSettings::rate_bit_s`].
    pub rate_bit_s: Option<u64>,
    /// See [`LaneSettings::queue`].
    pub queue: Option<Duration>,
    /// See [`LaneSettings::mtu`].
    pub mtu: Option<u16>,
    /// See [`LaneSettings::mtu_answer`].
    pub mtu_answer: Option<MtuAnswer>,
    /// See [`LaneSettings::blackhole`].
    pub blackhole: Option<bool>,
}

impl LanePatch {
    /// Everything is lost.
    #[must_use]
    pub fn blackhole() -> Self {
        Self { blackhole: Some(true), ..Self::default() }
    }

    /// So much is lost.
    #[must_use]
    pub fn loss(share: Share) -> Self {
        Self { loss: Some(share), ..Self::default() }
    }
}

impl LaneSettings {
    /// How long a packet may wait for the line where nothing is said.
    const QUEUE: Duration = Duration::from_millis(200);

    /// Takes over what the patch says.
    pub fn apply(&mut self, patch: &LanePatch) {
        fn set<T: Clone>(value: &mut T, new: &Option<T>) {
            if let Some(new) = new {
                *value = new.clone();
            }
        }
        set(&mut self.delay, &patch.delay);
        set(&mut self.jitter, &patch.jitter);
        set(&mut self.loss, &patch.loss);
        self.burst = patch.burst.or(self.burst);
        set(&mut self.reorder, &patch.reorder);
        set(&mut self.reorder_by, &patch.reorder_by);
        set(&mut self.duplicate, &patch.duplicate);
        self.rate_bit_s = patch.rate_bit_s.or(self.rate_bit_s);
        set(&mut self.queue, &patch.queue);
        self.mtu = patch.mtu.or(self.mtu);
        set(&mut self.mtu_answer, &patch.mtu_answer);
        set(&mut self.blackhole, &patch.blackhole);
    }
}

/// A NAT on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatSettings {
    /// A flow without a packet from inside for so long is forgotten.
    pub ttl: Duration,
    /// The addresses outside, one after the other; empty: the inner address, with another port.
    pub external: Vec<IpAddr>,
}

/// Something that is different for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// When it begins, from the beginning of the script.
    pub after: Duration,
    /// How long it lasts; `None`: until the end.
    pub lasts: Option<Duration>,
    /// From the client.
    pub up: LanePatch,
    /// To the client.
    pub down: LanePatch,
    /// No carrier.
    pub link_down: bool,
    /// The NAT forgets its mappings when it begins.
    pub rebind_nat: bool,
}

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// What it stands for.
    pub about: String,
    /// From the client.
    pub up: LaneSettings,
    /// To the client.
    pub down: LaneSettings,
    /// A NAT in front of the client.
    pub nat: Option<NatSettings>,
    /// What happens, in order.
    pub changes: Vec<Change>,
    /// The script begins anew after so long.
    pub repeat: Option<Duration>,
    /// All of it as it was written: what a result has to name, since any file may have any name.
    pub text: String,
}

/// What is wrong with a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileError(String);

impl ProfileError {
    pub(super) fn new(field: &str, value: impl fmt::Display, may_be: &str) -> Self {
        Self(format!("{field} = {value}: it may be {may_be}"))
    }
}

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProfileError {}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    name: String,
    #[serde(default)]
    about: String,
    #[serde(default)]
    up: RawLane,
    #[serde(default)]
    down: RawLane,
    nat: Option<RawNat>,
    repeat: Option<String>,
    #[serde(default, rename = "change")]
    changes: Vec<RawChange>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNat {
    ttl: String,
    #[serde(default)]
    external: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChange {
    after: String,
    lasts: Option<String>,
    #[serde(default)]
    up: RawLane,
    #[serde(default)]
    down: RawLane,
    #[serde(default)]
    both: RawLane,
    #[serde(default)]
    link_down: bool,
    #[serde(default)]
    rebind_nat: bool,
}

/// The profiles that come with the rig.
const BUILT_IN: [(&str, &str); 6] = [
    ("plain", include_str!("profiles/plain.toml")),
    ("office", include_str!("profiles/office.toml")),
    ("mobile", include_str!("profiles/mobile.toml")),
    ("train", include_str!("profiles/train.toml")),
    ("satellite", include_str!("profiles/satellite.toml")),
    ("cross-border", include_str!("profiles/cross-border.toml")),
];

impl Profile {
    /// Names of the profiles that come with the rig.
    pub fn names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// The built-in profile of this name, or the file.
    ///
    /// # Errors
    /// There is neither, or a field is wrong.
    pub fn load(name: &str) -> Result<Self, ProfileError> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(text);
        }
        let text = std::fs::read_to_string(Path::new(name)).map_err(|error| {
            let names: Vec<_> = Self::names().collect();
            ProfileError(format!(
                "profile {name}: no such file ({error}); built in are: {}",
                names.join(", ")
            ))
        })?;
        let in_file = |error| ProfileError(format!("profile {name}: {error}"));
        let profile = Self::parse(&text).map_err(in_file)?;
        if Self::names().any(|known| known == profile.name) {
            let may_be = "a name that no built-in profile has, so that results tell them apart";
            return Err(in_file(ProfileError::new("name", format_args!("{:?}", profile.name), may_be)));
        }
        Ok(profile)
    }

    /// Reads a profile.
    ///
    /// # Errors
    /// A field is unknown, of another type, or out of its bounds.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let raw: RawProfile = toml::from_str(text).map_err(|error| ProfileError(error.to_string()))?;
        check_name(&raw.name)?;
        let settings = |place: &str, raw: &RawLane| -> Result<LaneSettings, ProfileError> {
            let mut settings = LaneSettings { queue: LaneSettings::QUEUE, ..LaneSettings::default() };
            settings.apply(&raw.check(place)?);
            Ok(settings)
        };
        if raw.changes.len() > CHANGES_MAX {
            let most = format!("at most {CHANGES_MAX} of them");
            return Err(ProfileError::new("change", format_args!("{} of them", raw.changes.len()), &most));
        }
        let least = Duration::from_millis(1);
        let time = |field: &str, text: &str, least| field::duration(field, text, least, SCRIPT_MAX);
        let repeat = raw.repeat.as_deref().map(|text| time("repeat", text, least)).transpose()?;
        let changes = raw.changes.iter().enumerate().map(|(number, change)| {
            let place = format!("change[{number}]");
            let after = time(&format!("{place}.after"), &change.after, Duration::ZERO)?;
            if let Some(repeat) = repeat.filter(|repeat| after >= *repeat) {
                let text = format!("less than repeat = {}", humantime::format_duration(repeat));
                let shown = humantime::format_duration(after);
                return Err(ProfileError::new(&format!("{place}.after"), shown, &text));
            }
            let lasts = change.lasts.as_deref();
            let lasts = lasts.map(|text| time(&format!("{place}.lasts"), text, least)).transpose()?;
            let both = change.both.check(&format!("{place}.both"))?;
            let lane = |name: &str, raw: &RawLane| -> Result<LanePatch, ProfileError> {
                Ok(raw.check(&format!("{place}.{name}"))?.or(&both))
            };
            let (up, down) = (lane("up", &change.up)?, lane("down", &change.down)?);
            let RawChange { link_down, rebind_nat, .. } = *change;
            Ok(Change { after, lasts, up, down, link_down, rebind_nat })
        });
        let profile = Self {
            name: raw.name,
            about: raw.about,
            up: settings("up", &raw.up)?,
            down: settings("down", &raw.down)?,
            nat: raw.nat.as_ref().map(RawNat::check).transpose()?,
            changes: changes.collect::<Result<_, _>>()?,
            repeat,
            text: text.to_owned(),
        };
        if profile.nat.is_none() && profile.changes.iter().any(|change| change.rebind_nat) {
            return Err(ProfileError::new("change.rebind_nat", true, "true only where there is a [nat]"));
        }
        Ok(profile)
    }

    /// Its own delays, there and back.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.up.delay + self.down.delay
    }

    /// The same with another round-trip time, half of it each way.
    #[must_use]
    pub fn with_round_trip(mut self, round_trip: Duration) -> Self {
        (self.up.delay, self.down.delay) = (round_trip / 2, round_trip / 2);
        self
    }

    /// The same behind a NAT, if it is not behind one already.
    #[must_use]
    pub fn with_nat(mut self, ttl: Duration) -> Self {
        self.nat.get_or_insert(NatSettings { ttl, external: Vec::new() });
        self
    }
}

fn check_name(name: &str) -> Result<(), ProfileError> {
    let is_one = !name.trim().is_empty() && name.len() <= NAME_MAX && !name.chars().any(char::is_control);
    let may_be = format!("a name of up to {NAME_MAX} octets in one line");
    is_one.then_some(()).ok_or_else(|| ProfileError::new("name", format_args!("{name:?}"), &may_be))
}

impl LanePatch {
    /// The same, and where it says nothing what `other` says.
    fn or(&self, other: &Self) -> Self {
        let Self { delay, jitter, loss, burst, reorder, reorder_by, duplicate, .. } = *self;
        let Self { rate_bit_s, queue, mtu, mtu_answer, blackhole, .. } = *self;
        Self {
            delay: delay.or(other.delay),
            jitter: jitter.or(other.jitter),
            loss: loss.or(other.loss),
            burst: burst.or(other.burst),
            reorder: reorder.or(other.reorder),
            reorder_by: reorder_by.or(other.reorder_by),
            duplicate: duplicate.or(other.duplicate),
            rate_bit_s: rate_bit_s.or(other.rate_bit_s),
            queue: queue.or(other.queue),
            mtu: mtu.or(other.mtu),
            mtu_answer: mtu_answer.or(other.mtu_answer),
            blackhole: blackhole.or(other.blackhole),
        }
    }
}

impl RawNat {
    fn check(&self) -> Result<NatSettings, ProfileError> {
        let (least, most) = NAT_TTL;
        let external = self.external.iter().map(|text| {
            text.parse().map_err(|_| {
                ProfileError::new("nat.external", format_args!("{text:?}"), "addresses, as \"192.0.2.1\"")
            })
        });
        Ok(NatSettings {
            ttl: field::duration("nat.ttl", &self.ttl, least, most)?,
            external: external.collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
