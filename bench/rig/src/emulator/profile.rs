//! What a path is like, and how it changes over time.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::field::{self, RawLane};

/// Longest script.
const SCRIPT_MAX: Duration = Duration::from_secs(24 * 3_600);
/// Shortest round of a script, and shortest change.
const SPAN_MIN: Duration = Duration::from_millis(1);
/// Changes of one script.
const CHANGES_MAX: usize = 256;
/// Characters of a profile's name: it stands in every table.
const NAME_MAX: usize = 64;
/// How long a NAT may remember an idle flow.
const NAT_TTL: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(24 * 3_600));
/// What `nat.external` may be. The router of the rig has routes to the networks of the uplinks, and in each of them only
/// the client answers ARP, for its own address: no address that all paths of a run shared would get an answer.
const NO_EXTERNAL: &str = "left out: the rig routes to nothing but each client's own address on each uplink, and \
                           one profile serves them all; without it the NAT keeps that address and takes another \
                           port";

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

impl MtuAnswer {
    /// As it stands in a file.
    const fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Icmp => "icmp",
        }
    }
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

impl Change {
    /// When it ends; `None`: with the script.
    fn ends(&self) -> Option<Duration> {
        self.lasts.map(|lasts| self.after + lasts)
    }

    fn holds_at(&self, moment: Duration) -> bool {
        self.after <= moment && self.ends().is_none_or(|ends| moment < ends)
    }
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
    /// A field is unknown, of another type, out of its bounds, or does nothing since what it needs is not there.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let raw: RawProfile = toml::from_str(text).map_err(|error| ProfileError(error.to_string()))?;
        check_name(&raw.name)?;
        if raw.changes.len() > CHANGES_MAX {
            let most = format!("at most {CHANGES_MAX} of them");
            return Err(ProfileError::new("change", format_args!("{} of them", raw.changes.len()), &most));
        }
        let settings = |table: &Table| {
            let mut settings = LaneSettings { queue: LaneSettings::QUEUE, ..LaneSettings::default() };
            settings.apply(&table.patch);
            settings
        };
        let up = Table::read("up".to_owned(), UP, None, &raw.up)?;
        let down = Table::read("down".to_owned(), DOWN, None, &raw.down)?;
        let repeat = raw.repeat.as_deref().map(|text| script_time("repeat", text, SPAN_MIN)).transpose()?;
        let mut profile = Self {
            name: raw.name,
            about: raw.about,
            up: settings(&up),
            down: settings(&down),
            nat: raw.nat.as_ref().map(RawNat::check).transpose()?,
            changes: Vec::with_capacity(raw.changes.len()),
            repeat,
            text: text.to_owned(),
        };
        let mut tables = vec![up, down];
        for (number, change) in raw.changes.iter().enumerate() {
            let (change, its) = change.check(number, repeat)?;
            profile.changes.push(change);
            tables.extend(its);
        }
        if profile.nat.is_none() && profile.changes.iter().any(|change| change.rebind_nat) {
            return Err(ProfileError::new("change.rebind_nat", true, "true only where there is a [nat]"));
        }
        let whole = Whole::new(&profile, &tables);
        whole.check_reordering()?;
        tables.iter().try_for_each(|table| whole.check_needs(table))?;
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
        let ttl = field::duration("nat.ttl", &self.ttl, least, most)?;
        if let Some(address) = self.external.first() {
            return Err(ProfileError::new("nat.external", format_args!("{address:?}"), NO_EXTERNAL));
        }
        Ok(NatSettings { ttl, external: Vec::new() })
    }
}

impl RawChange {
    /// The change with this number, and its tables in the order in which one goes before the other.
    fn check(&self, number: usize, repeat: Option<Duration>) -> Result<(Change, [Table; 3]), ProfileError> {
        let at = |name: &str| format!("change[{number}].{name}");
        let after = script_time(&at("after"), &self.after, Duration::ZERO)?;
        if let Some(repeat) = repeat.filter(|repeat| after >= *repeat) {
            let text = format!("less than repeat = {}", humantime::format_duration(repeat));
            return Err(ProfileError::new(&at("after"), humantime::format_duration(after), &text));
        }
        let lasts = self.lasts.as_deref();
        let lasts = lasts.map(|text| script_time(&at("lasts"), text, SPAN_MIN)).transpose()?;
        if let (Some(lasts), Some(repeat)) = (lasts, repeat)
            && after + lasts > repeat
        {
            let [most, repeat] = [repeat - after, repeat].map(humantime::format_duration);
            let text = format!("at most {most}, or left out: its round ends at repeat = {repeat}");
            return Err(ProfileError::new(&at("lasts"), humantime::format_duration(lasts), &text));
        }
        let both = Table::read(at("both"), BOTH, Some(number), &self.both)?;
        let up = Table::read(at("up"), UP, Some(number), &self.up)?;
        let down = Table::read(at("down"), DOWN, Some(number), &self.down)?;
        let Self { link_down, rebind_nat, .. } = *self;
        let [to_up, to_down] = [&up, &down].map(|table| table.patch.or(&both.patch));
        let change = Change { after, lasts, up: to_up, down: to_down, link_down, rebind_nat };
        Ok((change, [both, up, down]))
    }
}

fn script_time(field: &str, text: &str, least: Duration) -> Result<Duration, ProfileError> {
    field::duration(field, text, least, SCRIPT_MAX)
}

/// Lanes that a table may speak of, as positions in `[up, down]`.
const BOTH: &[usize] = &[0, 1];
const UP: &[usize] = &[0];
const DOWN: &[usize] = &[1];

/// A table of the file that speaks of lanes, with its values checked one by one.
struct Table {
    place: String,
    lanes: &'static [usize],
    /// The change that it stands in; `None`: it holds always.
    change: Option<usize>,
    patch: LanePatch,
}

impl Table {
    fn read(
        place: String,
        lanes: &'static [usize],
        change: Option<usize>,
        raw: &RawLane,
    ) -> Result<Self, ProfileError> {
        let patch = raw.check(&place)?;
        Ok(Self { place, lanes, change, patch })
    }
}

/// A profile over its whole script: what its values, each right by itself, amount to together.
struct Whole<'a> {
    profile: &'a Profile,
    /// Of two that hold at once and say the same thing of a lane, the later one goes before the earlier one.
    tables: &'a [Table],
    /// What up and down are like from each moment on at which a change begins or ends.
    moments: Vec<(Duration, [LaneSettings; 2])>,
}

impl<'a> Whole<'a> {
    fn new(profile: &'a Profile, tables: &'a [Table]) -> Self {
        let edges = profile.changes.iter().flat_map(|change| [Some(change.after), change.ends()]).flatten();
        let in_round = edges.filter(|edge| profile.repeat.is_none_or(|repeat| *edge < repeat));
        let lanes = |moment: Duration| {
            let mut lanes = [profile.up.clone(), profile.down.clone()];
            for change in profile.changes.iter().filter(|change| change.holds_at(moment)) {
                lanes[0].apply(&change.up);
                lanes[1].apply(&change.down);
            }
            (moment, lanes)
        };
        let moments = std::iter::once(Duration::ZERO).chain(in_round).map(lanes).collect();
        Self { profile, tables, moments }
    }

    fn holds_at(&self, table: &Table, moment: Duration) -> bool {
        let change = table.change.and_then(|number| self.profile.changes.get(number));
        change.is_none_or(|change| change.holds_at(moment))
    }

    /// A frame that is held up by nothing is overtaken by none, and would still count as reordered.
    fn check_reordering(&self) -> Result<(), ProfileError> {
        for (moment, lanes) in &self.moments {
            for (number, lane) in lanes.iter().enumerate() {
                if lane.reorder == Share::NONE || !(lane.reorder_by + lane.jitter).is_zero() {
                    continue;
                }
                let says_so = |table: &&Table| {
                    table.lanes.contains(&number)
                        && table.patch.reorder.is_some()
                        && self.holds_at(table, *moment)
                };
                let place = self.tables.iter().rfind(says_so).map_or("", |table| table.place.as_str());
                let percent = f64::from(lane.reorder.millionths()) / 1e4;
                let text = format!(
                    "more than 0 only beside reorder_by or jitter, since without them nothing overtakes; at {} of \
                     the script neither is more than 0: set reorder_by, as \"5ms\"",
                    humantime::format_duration(*moment)
                );
                return Err(ProfileError::new(&format!("{place}.reorder_percent"), percent, &text));
            }
        }
        Ok(())
    }

    /// What a table sets has to do something at some moment, in one of its lanes.
    fn check_needs(&self, table: &Table) -> Result<(), ProfileError> {
        let is_beside = |needed: fn(&LaneSettings) -> bool| {
            let mut during = self.moments.iter().filter(|(moment, _)| self.holds_at(table, *moment));
            during.any(|(_, lanes)| table.lanes.iter().any(|number| needed(&lanes[*number])))
        };
        let at = |name: &str| format!("{}.{name}", table.place);
        let may_be = |needed: &str| {
            format!(
                "set only where {needed} is, in the same direction and at the same time, since alone it does \
                 nothing: set {needed}, too, or leave it out"
            )
        };
        if let Some(queue) = table.patch.queue
            && !is_beside(|lane| lane.rate_bit_s.is_some())
        {
            let shown = humantime::format_duration(queue);
            return Err(ProfileError::new(&at("queue"), shown, &may_be("rate_mbit_s")));
        }
        if let Some(answer) = table.patch.mtu_answer
            && !is_beside(|lane| lane.mtu.is_some())
        {
            let shown = format!("{:?}", answer.name());
            return Err(ProfileError::new(&at("mtu_answer"), shown, &may_be("mtu")));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "profile_tests.rs"]
mod tests;
