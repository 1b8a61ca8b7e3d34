//! How large inner packets may be on the bound path: a search by packets of the size in question (RFC 8899), never by what
//! ICMP says. A size counts when one such packet came back, so it holds in both directions.
//!
//! Pure: moments come in, probes and the size in use come out.

use jvpn_abi::BootTime;
use std::time::Duration;

/// No path carries less: an outer packet of 1,280 octets (RFC 8200 §5) less what the tunnel adds under IPv6.
pub const MTU_FLOOR: u16 = 1_200;
/// Where the search begins: what IPv6 asks of every link.
pub const MTU_BASE: u16 = 1_280;

/// Sizes that networks have, less what the tunnel adds: 1,280 and 1,500 under either family, and steps in between.
const SIZES: [u16; 11] = [1_200, 1_220, 1_240, 1_260, 1_280, 1_320, 1_360, 1_380, 1_400, 1_420, 1_440];
/// Packets of a size that are lost before it counts as too large.
const TRIES: u8 = 3;
/// After so long the size in use is tried again: a path may change without the host's notice.
const CONFIRM_AFTER: Duration = Duration::from_secs(60);
/// After so long larger sizes are tried again (RFC 8899 §5.1.1, PMTU_RAISE_TIMER).
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// An answer takes at least so long to be late.
const PATIENCE_MIN: Duration = Duration::from_millis(200);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a packet of this size under this number.
    Probe {
        /// Number of the question.
        id: u32,
        /// Octets of the inner packet that it stands for.
        size: u16,
    },
    /// Nothing until then.
    Wait(BootTime),
}

/// A question that is open.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u32,
    size: u16,
    /// What the question said about the size in use.
    tells: u16,
    tries: u8,
    until: BootTime,
}

/// The way down to a size that the path carries: each is asked for once. The peer takes the largest for granted until it is
/// told less, so it is told soon, and not after each larger size was lost [`TRIES`] times. What was lost once may have been
/// lost by chance: the search that follows tries it again.
#[derive(Clone, Copy, Debug)]
struct Descent {
    sizes: [u16; 3],
    next: usize,
}

impl Descent {
    const fn from(first: u16) -> Self {
        Self { sizes: [first, MTU_BASE, MTU_FLOOR], next: 0 }
    }

    /// The next size, smaller than the one before.
    fn step(&mut self) -> Option<u16> {
        let before = self.next.checked_sub(1).and_then(|at| self.sizes.get(at)).copied().unwrap_or(u16::MAX);
        let mut left = self.sizes.iter().enumerate().skip(self.next);
        let (at, size) = left.find(|(_, size)| **size < before)?;
        self.next = at + 1;
        Some(*size)
    }
}

/// The search over one binding.
#[derive(Clone, Debug)]
pub struct MtuSearch {
    /// What the gateway allows at most.
    most: u16,
    /// In use now.
    carried: u16,
    /// The largest size that came back in this round; 0 = none yet.
    proven: u16,
    /// The smallest size that did not; beyond `most` if there is none.
    too_large: u16,
    /// What the peer was told and has answered.
    told: Option<u16>,
    asked: Option<Asked>,
    next_id: u32,
    next_at: BootTime,
    raise_at: BootTime,
    /// How the search begins.
    descent: Option<Descent>,
    /// Whether any size has come back.
    is_known: bool,
}

impl MtuSearch {
    /// A search that begins now, with what the path carried when it was last bound, if it was.
    #[must_use]
    pub fn new(most: u16, known: Option<u16>, now: BootTime) -> Self {
        let most = most.max(MTU_FLOOR);
        let known = known.map(|known| known.clamp(MTU_FLOOR, most));
        Self {
            most,
            carried: known.unwrap_or_else(|| MTU_BASE.min(most)),
            descent: Some(Descent::from(known.unwrap_or(most))),
            is_known: false,
            proven: 0,
            too_large: most.saturating_add(1),
            told: None,
            asked: None,
            next_id: 0,
            next_at: now,
            raise_at: now.after(RAISE_AFTER),
        }
    }

    /// The size in use, octets of an inner packet.
    #[must_use]
    pub const fn carried(&self) -> u16 {
        self.carried
    }

    /// Whether the size in use has ever come back over this binding, and is no guess.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.is_known
    }

    /// When [`Self::poll`] has something to do.
    #[must_use]
    pub fn next_event(&self) -> BootTime {
        self.asked.map_or(self.next_at, |asked| asked.until)
    }

    /// What to do now, with the time after which an answer over this path is late.
    pub fn poll(&mut self, now: BootTime, patience: Duration) -> Step {
        if now < self.next_event() {
            return Step::Wait(self.next_event());
        }
        let asked = self.asked.take();
        if let Some(size) = self.descent.as_mut().and_then(Descent::step) {
            if asked.is_some() {
                self.carried = self.carried.min(size);
            }
            return self.ask(now, size, 1, patience);
        }
        // Behind the descent nothing is lost yet: one try is no proof.
        match asked.filter(|_| self.descent.take().is_none()) {
            Some(asked) if asked.tries < TRIES => {
                return self.ask(now, asked.size, asked.tries + 1, patience);
            }
            Some(asked) => self.lost(now, asked.size),
            None => {
                if now >= self.raise_at {
                    self.too_large = self.most.saturating_add(1);
                    self.raise_at = now.after(RAISE_AFTER);
                }
            }
        }
        if now < self.next_at {
            return Step::Wait(self.next_at);
        }
        match self.next_size() {
            Some(size) => self.ask(now, size, 1, patience),
            None => self.round_is_over(now, CONFIRM_AFTER),
        }
    }

    /// An answer of `size` octets came to question `id`: if it is as long as the question, both ways carry this size.
    pub fn answered(&mut self, now: BootTime, id: u32, size: usize) {
        let fits = |asked: &mut Asked| asked.id == id && size >= usize::from(asked.size);
        let Some(asked) = self.asked.take_if(fits) else { return };
        (self.descent, self.is_known) = (None, true);
        self.proven = self.proven.max(asked.size);
        // A question about a larger size tells nothing: as long as it is open, the peer keeps to what it was told before.
        if asked.size <= asked.tells {
            self.told = Some(asked.tells);
        }
        self.carried = self.carried.max(self.proven);
        self.next_at = now;
        if self.next_size().is_none() {
            let _wait = self.round_is_over(now, CONFIRM_AFTER);
        }
    }

    /// What was proven must come back again in the next round.
    fn round_is_over(&mut self, now: BootTime, pause: Duration) -> Step {
        self.proven = 0;
        self.next_at = now.after(pause);
        Step::Wait(self.next_at)
    }

    /// The largest that may be asked for comes first, since most paths carry it; then the size in use, then the middle of
    /// what is open; at last the peer is told.
    fn next_size(&self) -> Option<u16> {
        let is_open = |size: &u16| *size > self.proven && *size < self.too_large && *size <= self.most;
        if self.too_large > self.most && is_open(&self.most) {
            return Some(self.most);
        }
        if is_open(&self.carried) {
            return Some(self.carried);
        }
        let count = SIZES.iter().filter(|size| is_open(size)).count();
        let middle = SIZES.into_iter().filter(is_open).nth(count / 2);
        middle.or((self.told != Some(self.carried)).then_some(self.carried))
    }

    fn ask(&mut self, now: BootTime, size: u16, tries: u8, patience: Duration) -> Step {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        let until = now.after(patience.max(PATIENCE_MIN));
        self.asked = Some(Asked { id, size, tells: self.carried, tries, until });
        Step::Probe { id, size }
    }

    fn lost(&mut self, now: BootTime, size: u16) {
        if size <= self.proven {
            // It came back before: the path has other troubles, which its own probes see.
            self.next_at = now.after(CONFIRM_AFTER);
            return;
        }
        self.too_large = self.too_large.min(size);
        if self.too_large <= MTU_FLOOR {
            // Not even that: nobody answers.
            self.carried = MTU_FLOOR;
            self.too_large = self.most.saturating_add(1);
            let _wait = self.round_is_over(now, RAISE_AFTER);
        } else if self.carried >= self.too_large {
            let smaller = SIZES.into_iter().rev().find(|other| *other < self.too_large && *other <= MTU_BASE);
            self.carried = self.proven.max(smaller.unwrap_or(MTU_FLOOR));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a search over a path that carries `limit` for so long; the sizes asked for, in order.
    fn run(search: &mut MtuSearch, now: &mut BootTime, limit: u16, span: Duration) -> Vec<u16> {
        let (end, mut asked) = (now.after(span), Vec::new());
        while *now < end {
            match search.poll(*now, Duration::from_millis(50)) {
                Step::Wait(until) => *now = until.max(now.after(Duration::from_millis(1))),
                Step::Probe { id, size } => {
                    asked.push(size);
                    if size <= limit {
                        *now = now.after(Duration::from_millis(20));
                        search.answered(*now, id, usize::from(size));
                    }
                }
            }
        }
        asked
    }

    #[test]
    fn every_limit_is_found_and_nothing_larger_is_used() {
        for most in [1_280, 1_400, 1_420, 1_440] {
            for limit in MTU_FLOOR..=1_460 {
                let mut now = BootTime::from_millis(1_000);
                let mut search = MtuSearch::new(most, None, now);
                let asked = run(&mut search, &mut now, limit, Duration::from_secs(30));
                let best = SIZES.into_iter().chain([most]).filter(|size| *size <= limit.min(most)).max();
                assert_eq!(Some(search.carried()), best, "limit {limit} of {most}: {asked:?}");
                assert!(asked.len() <= 20, "{asked:?}");
            }
        }
    }

    /// The usual path costs two packets: the largest size, and the news of it.
    #[test]
    fn a_path_that_carries_everything_is_found_at_once() {
        let mut now = BootTime::from_millis(1_000);
        let mut search = MtuSearch::new(1_420, None, now);
        let asked = run(&mut search, &mut now, 1_500, Duration::from_secs(50));
        assert_eq!(asked, [1_420, 1_420]);
        let later = run(&mut search, &mut now, 1_500, Duration::from_secs(60));
        assert_eq!(later, [1_420], "and is confirmed once a minute");
    }

    /// When the peer is told what the path carries: how long it goes on sending what is lost.
    fn told_after(search: &mut MtuSearch, limit: u16) -> Duration {
        let start = BootTime::from_millis(1_000);
        let mut now = start;
        loop {
            match search.poll(now, Duration::from_millis(50)) {
                Step::Wait(until) => now = until,
                Step::Probe { id, size } if size <= limit => {
                    let told = search.carried() >= size;
                    now = now.after(Duration::from_millis(20));
                    search.answered(now, id, usize::from(size));
                    if told {
                        return now.since(start);
                    }
                }
                Step::Probe { .. } => {}
            }
        }
    }

    /// R9.2: over a smaller path the peer is told what it carries at once where that is known from before, and after each
    /// larger size was lost once where it is not; what is lost by chance costs one round.
    #[test]
    fn r9_2_the_peer_of_a_small_path_is_told_soon() {
        let new = |known| MtuSearch::new(1_420, known, BootTime::from_millis(1_000));
        let ms = Duration::from_millis;
        assert_eq!(told_after(&mut new(Some(1_220)), 1_220), ms(20));
        assert_eq!(told_after(&mut new(None), 1_300), ms(220));
        assert_eq!(told_after(&mut new(None), 1_220), ms(420));
        assert_eq!(told_after(&mut new(Some(1_400)), 1_220), ms(420), "it has become smaller");
        assert_eq!(told_after(&mut new(None), 1_420), ms(40), "most paths");
    }

    /// R9.2: what was only guessed is not known the next time.
    #[test]
    fn r9_2_a_guess_is_not_known() {
        let mut now = BootTime::from_millis(1_000);
        let mut search = MtuSearch::new(1_420, None, now);
        run(&mut search, &mut now, 0, Duration::from_secs(5));
        assert!(!search.is_known());
        run(&mut search, &mut now, 1_220, RAISE_AFTER + CONFIRM_AFTER);
        assert!(search.is_known() && search.carried() == 1_220);
    }

    /// A path that shrinks is noticed by the confirmation, one that grows by the next try for more.
    #[test]
    fn a_path_that_changes_is_followed() {
        let mut now = BootTime::from_millis(1_000);
        let mut search = MtuSearch::new(1_440, None, now);
        run(&mut search, &mut now, 1_440, Duration::from_secs(50));
        assert_eq!(search.carried(), 1_440);
        run(&mut search, &mut now, 1_300, Duration::from_secs(90));
        assert_eq!(search.carried(), 1_280);
        run(&mut search, &mut now, 1_500, RAISE_AFTER + CONFIRM_AFTER);
        assert_eq!(search.carried(), 1_440);
    }

    /// A peer that never answers leaves a size that any path carries, and no storm.
    #[test]
    fn silence_is_no_storm() {
        let mut now = BootTime::from_millis(1_000);
        let mut search = MtuSearch::new(1_440, None, now);
        let asked = run(&mut search, &mut now, 0, Duration::from_secs(3_600));
        assert_eq!(search.carried(), MTU_FLOOR);
        assert!(asked.len() < 3_600 / 10, "{}", asked.len());
    }

    #[test]
    fn foreign_answers_mean_nothing() {
        let now = BootTime::from_millis(1_000);
        let mut search = MtuSearch::new(1_440, None, now);
        let Step::Probe { id, .. } = search.poll(now, Duration::ZERO) else { panic!("nothing is asked") };
        search.answered(now, id.wrapping_add(1), 1_440);
        search.answered(now, id, 1_439);
        assert_eq!(search.carried(), MTU_BASE);
        search.answered(now, id, 1_440);
        search.answered(now, id, 1_440);
        assert_eq!(search.carried(), 1_440);
    }
}
